//! Tests of the format: what is refused, and with which words.

use super::*;
use alloc::vec;

fn file(json: &str, data: usize) -> Vec<u8> {
    let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(json.as_bytes());
    bytes.resize(bytes.len() + data, 0);
    bytes
}

fn parse(json: &str, data: usize) -> Result<Header> {
    let bytes = file(json, data);
    Header::parse(&bytes, bytes.len() as u64)
}

#[test]
fn layout_and_parse_are_inverse() {
    let metadata = vec![("format".into(), "pt".into()), ("a\"b".into(), "ü".into())].into();
    let tensors = vec![
        ("b".to_string(), Dtype::BF16, vec![2, 3]),
        ("a\n".to_string(), Dtype::BF16, vec![]),
        ("z".to_string(), Dtype::I64, vec![0, 5]),
    ];
    let header = Header::layout(tensors, metadata).unwrap();
    let bytes = header.to_bytes();
    assert_eq!(bytes.len() % 8, 0);
    assert_eq!(Header::parse(&bytes, header.file_len()).unwrap(), header);
    let names: Vec<_> = header.tensors().iter().map(|t| t.name.as_str()).collect();
    assert_eq!(names, ["z", "a\n", "b"]);
    assert_eq!(header.tensor_at(header.data_start() + 2).unwrap().name, "b");
    assert_eq!(header.tensor_at(header.data_start() + 14), None);
}

#[test]
fn null_metadata_and_odd_lengths_are_fine() {
    let header = parse(r#"{"__metadata__":null,"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#, 4);
    assert_eq!(header.unwrap().tensors().len(), 1);
    assert_eq!(parse("{}", 0).unwrap().tensors().len(), 0);
}

#[test]
fn faults_name_the_tensor_and_the_numbers() {
    let twice = r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}"#;
    assert!(parse(twice, 2).unwrap_err().to_string().contains("`a` occurs twice"));
    let metadata = r#"{"__metadata__":{"k":"1","k":"2"}}"#;
    assert!(parse(metadata, 0).unwrap_err().to_string().contains("`__metadata__`: the key `k` occurs twice"));
    let overlap = r#"{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}}"#;
    let error = parse(overlap, 3).unwrap_err();
    assert_eq!(error.at_tensor(), Some("b"));
    assert!(error.to_string().contains("starts at byte 1 of the data, expected 2"), "{error}");
    let huge = r#"{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,4]}}"#;
    assert!(parse(huge, 4).unwrap_err().to_string().contains("impossible size"));
    let cut = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;
    assert!(parse(cut, 7).unwrap_err().to_string().contains("cut short"));
}

#[test]
fn other_files_are_recognised() {
    let size = |bytes: &[u8]| Header::size(bytes, bytes.len() as u64).unwrap_err().to_string();
    assert!(size(b"version https://git-lfs.github.com/spec/v1\noid").contains("git-lfs pointer"));
    assert!(size(b"\n<!DOCTYPE html><html>").contains("HTML page"));
    assert!(size(b"").contains("is empty"));
    assert!(size(b"# Model card\n").contains("is a text file"));
    assert!(size("# Größe – ×".as_bytes()).contains("is a text file"));
    assert!(!size(&[0x23, 0x20, 0x41, 0xff, 0x00, 0x41, 0x41, 0x41, 0x41]).contains("text"));
    assert!(size(b"PK\x03\x04....").contains("PyTorch pickle"));
}
