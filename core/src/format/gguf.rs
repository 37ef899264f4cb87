//! GGUF files: what they say of themselves, and the places of their tensors.
//!
//! A file is a magic number, a version, counts, pairs of keys and values, the tensors' names, dimensions (the fastest first),
//! types and offsets, then their data, each aligned (ggml's `gguf.md`). Only numbers are averaged: quantised tensors are codes.

use alloc::borrow::ToOwned as _;
use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;
use core::ops::Range;

use crate::dtype::Dtype;
use crate::error::{Error, ErrorKind, Result};
use crate::files::{Files, Maybe};
use crate::format::safetensors::{Header, Tensor};
use crate::format::{Catalog, Format};

/// Files in GGUF.
#[derive(Clone, Copy, Debug)]
pub struct Gguf;

/// How files begin.
pub(crate) const MAGIC: &[u8] = b"GGUF";
/// The longest head that is read, in bytes; vocabularies take a few millions.
const HEAD_LIMIT: u64 = 1 << 28;
/// The bytes in which it is looked for first.
const FIRST: u64 = 1 << 16;
/// What is told of the weights beside their numbers.
pub(crate) const ALPHA: &str = "adapter.lora.alpha";

/// What a file says.
#[derive(Clone, Debug, Default)]
pub(crate) struct Head {
    /// Keys and their values, where these are texts or numbers.
    pub(crate) values: Vec<(String, Value)>,
    pub(crate) tensors: Vec<Entry>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Text(String),
    Number(f64),
}

/// A tensor of a file.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) name: String,
    /// The slowest dimension first, as everywhere else.
    pub(crate) shape: Vec<u64>,
    kind: u32,
    pub(crate) range: Range<u64>,
}

impl Head {
    pub(crate) fn text(&self, key: &str) -> Option<&str> {
        self.values.iter().find_map(|(name, value)| match value {
            Value::Text(text) if name == key => Some(text.as_str()),
            _ => None,
        })
    }

    pub(crate) fn number(&self, key: &str) -> Option<f64> {
        self.values.iter().find_map(|(name, value)| match value {
            Value::Number(number) if name == key => Some(*number),
            _ => None,
        })
    }

    /// The types of its tensors and how many are of each, in the order of their first.
    pub(crate) fn kinds(&self) -> Vec<(String, usize)> {
        let mut kinds: Vec<(String, usize)> = Vec::new();
        for entry in &self.tensors {
            let name = entry.kind_name();
            match kinds.iter_mut().find(|(known, _)| *known == name) {
                Some((_, count)) => *count += 1,
                None => kinds.push((name, 1)),
            }
        }
        kinds
    }

    /// Read the head of a file of `size` bytes.
    pub(crate) fn open(files: &dyn Files, path: &str, size: u64) -> Maybe<Self> {
        let mut len = FIRST;
        loop {
            let bytes = files.read(path, 0..len.min(size))?;
            match Self::parse(&bytes, size) {
                Ok(head) => return Ok(head?),
                Err(Short) if len >= size => {
                    return Err(bad("is cut short in its head")
                        .help("copy or download the file again")
                        .into());
                }
                Err(Short) if len >= HEAD_LIMIT => {
                    return Err(bad(format!("has a head of more than {HEAD_LIMIT} bytes")).into());
                }
                Err(Short) => len *= 16,
            }
        }
    }

    fn parse(bytes: &[u8], size: u64) -> core::result::Result<Result<Self>, Short> {
        let mut reader = Reader { bytes, at: MAGIC.len() };
        let version = reader.u32()?;
        if version.swap_bytes() < version {
            return Ok(Err(
                bad("is big-endian").help("convert it with gguf-py's gguf_convert_endian.py first")
            ));
        }
        if !(2..=3).contains(&version) {
            return Ok(Err(bad(format!("is of version {version}; 2 and 3 are read here"))));
        }
        let (tensors, pairs) = (reader.u64()?, reader.u64()?);
        // each takes some bytes, so that no count can make lists longer than the file
        if tensors.saturating_add(pairs) > size {
            return Ok(Err(bad("counts more tensors and keys than it has bytes")));
        }
        let mut head = Self::default();
        for _ in 0..pairs {
            let key = reader.text()?;
            let kind = reader.u32()?;
            let value = match reader.value(kind)? {
                Ok(value) => value,
                Err(error) => return Ok(Err(error)),
            };
            head.values.extend(value.map(|value| (key, value)));
        }
        let alignment = head.number("general.alignment").unwrap_or(32.0);
        let alignment =
            crate::text::json::whole(alignment).filter(|it| it.is_power_of_two() && *it <= 1 << 20);
        let Some(alignment) = alignment else {
            return Ok(Err(bad("has an alignment that is no power of two")));
        };
        let mut offsets = Vec::new();
        for _ in 0..tensors {
            let name = reader.text()?;
            let dims = reader.u32()?;
            if dims > 4 {
                return Ok(Err(bad(format!("has {dims} dimensions, and ggml knows 4")).tensor(name)));
            }
            let mut shape = Vec::new();
            for _ in 0..dims {
                shape.push(reader.u64()?);
            }
            shape.reverse();
            let kind = reader.u32()?;
            offsets.push(reader.u64()?);
            head.tensors.push(Entry { name, shape, kind, range: 0..0 });
        }
        let start = (reader.at as u64).next_multiple_of(alignment);
        for (entry, offset) in head.tensors.iter_mut().zip(offsets) {
            let elements = entry.shape.iter().try_fold(1u64, |product, dim| product.checked_mul(*dim));
            let len = elements.and_then(|count| {
                let (block, bytes) =
                    KINDS.iter().find(|row| row.0 == entry.kind).map(|row| (row.2, row.3))?;
                count.is_multiple_of(block).then(|| (count / block).checked_mul(bytes)).flatten()
            });
            let start = start.checked_add(offset);
            let range = start.zip(len).and_then(|(start, len)| Some(start..start.checked_add(len)?));
            match range.filter(|range| range.end <= size) {
                Some(range) => entry.range = range,
                None => {
                    let detail =
                        format!("of {} {:?} does not lie within the file", entry.kind_name(), entry.shape);
                    return Ok(Err(bad(detail).tensor(&entry.name).help("copy or download the file again")));
                }
            }
        }
        Ok(Ok(head))
    }
}

/// The types of ggml: number, name, numbers in a block, bytes of a block.
const KINDS: [(u32, &str, u64, u64); 29] = [
    (0, "F32", 1, 4),
    (1, "F16", 1, 2),
    (2, "Q4_0", 32, 18),
    (3, "Q4_1", 32, 20),
    (6, "Q5_0", 32, 22),
    (7, "Q5_1", 32, 24),
    (8, "Q8_0", 32, 34),
    (9, "Q8_1", 32, 36),
    (10, "Q2_K", 256, 84),
    (11, "Q3_K", 256, 110),
    (12, "Q4_K", 256, 144),
    (13, "Q5_K", 256, 176),
    (14, "Q6_K", 256, 210),
    (15, "Q8_K", 256, 292),
    (16, "IQ2_XXS", 256, 66),
    (17, "IQ2_XS", 256, 74),
    (18, "IQ3_XXS", 256, 98),
    (19, "IQ1_S", 256, 50),
    (20, "IQ4_NL", 32, 18),
    (21, "IQ3_S", 256, 110),
    (22, "IQ2_S", 256, 82),
    (23, "IQ4_XS", 256, 136),
    (24, "I8", 1, 1),
    (25, "I16", 1, 2),
    (26, "I32", 1, 4),
    (27, "I64", 1, 8),
    (28, "F64", 1, 8),
    (29, "IQ1_M", 256, 56),
    (30, "BF16", 1, 2),
];

impl Entry {
    pub(crate) fn kind_name(&self) -> String {
        let row = KINDS.iter().find(|row| row.0 == self.kind);
        row.map_or_else(|| format!("type {}", self.kind), |row| row.1.to_owned())
    }

    /// The dtype of its numbers, where they are no codes.
    pub(crate) fn dtype(&self) -> Option<Dtype> {
        Some(match self.kind {
            0 => Dtype::F32,
            1 => Dtype::F16,
            24 => Dtype::I8,
            25 => Dtype::I16,
            26 => Dtype::I32,
            27 => Dtype::I64,
            28 => Dtype::F64,
            30 => Dtype::BF16,
            _ => return None,
        })
    }
}

impl Format for Gguf {
    fn claims(&self, _: &str, start: &[u8]) -> bool {
        start.starts_with(MAGIC)
    }

    fn open(&self, files: &dyn Files, path: &str, size: u64, _: Option<&str>) -> Maybe<Catalog> {
        let head = Head::open(files, path, size)?;
        let mut tensors = Vec::with_capacity(head.tensors.len());
        for entry in &head.tensors {
            let Some(dtype) = entry.dtype() else {
                let detail =
                    format!("is {}: its numbers are codes, which cannot be averaged", entry.kind_name());
                return Err(Error::new(ErrorKind::Dtype, detail)
                    .tensor(&entry.name)
                    .help("merge the checkpoints before they are quantised, or files of F32, F16 or BF16")
                    .into());
            };
            let (name, shape, range) = (entry.name.clone(), entry.shape.clone(), entry.range.clone());
            tensors.push(Tensor { name, dtype, shape, range });
        }
        let mut metadata = Vec::new();
        for key in ["general.architecture", "general.type", "adapter.type"] {
            metadata.extend(head.text(key).map(|text| (key.to_owned(), text.to_owned())));
        }
        metadata.extend(head.number(ALPHA).map(|alpha| (ALPHA.to_owned(), alpha.to_string())));
        let header = Header::placed(tensors, Vec::new(), metadata.into(), size)?;
        Ok(Catalog { header, step: None, key: None, told: Vec::new(), notes: Vec::new() })
    }
}

/// The bytes at hand end.
#[derive(Debug)]
struct Short;

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

type Read<T> = core::result::Result<T, Short>;

impl<'a> Reader<'a> {
    fn take(&mut self, len: u64) -> Read<&'a [u8]> {
        let end = usize::try_from(len).ok().and_then(|len| self.at.checked_add(len)).ok_or(Short)?;
        let taken = self.bytes.get(self.at..end).ok_or(Short)?;
        self.at = end;
        Ok(taken)
    }

    fn u32(&mut self) -> Read<u32> {
        Ok(u32::from_le_bytes(*self.take(4)?.first_chunk().ok_or(Short)?))
    }

    fn u64(&mut self) -> Read<u64> {
        Ok(u64::from_le_bytes(*self.take(8)?.first_chunk().ok_or(Short)?))
    }

    fn text(&mut self) -> Read<String> {
        let len = self.u64()?;
        Ok(String::from_utf8_lossy(self.take(len)?).into_owned())
    }

    /// A value that is a text or a number; others are skipped.
    fn value(&mut self, kind: u32) -> Read<Result<Option<Value>>> {
        let float = |bytes: &[u8]| bytes.first_chunk().map(|it| f64::from(f32::from_le_bytes(*it)));
        Ok(Ok(Some(match kind {
            4 => Value::Number(self.u32()?.into()),
            6 => Value::Number(float(self.take(4)?).ok_or(Short)?),
            8 => Value::Text(self.text()?),
            9 => {
                let (inner, count) = (self.u32()?, self.u64()?);
                match width(inner) {
                    Some(width) => {
                        self.take(count.saturating_mul(width))?;
                    }
                    None if inner == 8 => {
                        for _ in 0..count {
                            let len = self.u64()?;
                            self.take(len)?;
                        }
                    }
                    None => return Ok(Err(bad(format!("has a list of values of type {inner}")))),
                }
                return Ok(Ok(None));
            }
            other => match width(other) {
                Some(width) => {
                    self.take(width)?;
                    return Ok(Ok(None));
                }
                None => return Ok(Err(bad(format!("has a value of type {other}")))),
            },
        })))
    }
}

/// Bytes of a value that is a number or a bool.
fn width(kind: u32) -> Option<u64> {
    Some(match kind {
        0 | 1 | 7 => 1,
        2 | 3 => 2,
        4..=6 => 4,
        10..=12 => 8,
        _ => return None,
    })
}

fn bad(detail: impl Into<alloc::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::Header, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// gguf-py wrote it, of a Llama of one layer.
    const FILE: &[u8] = include_bytes!("data/plain.gguf");

    fn parse(bytes: &[u8]) -> Read<Result<Head>> {
        Head::parse(bytes, bytes.len() as u64)
    }

    #[test]
    fn what_gguf_py_writes_is_read() {
        let head = parse(FILE).unwrap().unwrap();
        assert_eq!(head.text("general.architecture"), Some("llama"));
        assert_eq!(head.text("general.type"), Some("adapter"));
        assert_eq!(head.number(ALPHA), Some(6.0));
        assert_eq!(head.kinds(), [("F32".to_owned(), head.tensors.len())]);
        let q = head.tensors.iter().find(|it| it.name == "blk.0.attn_q.weight.lora_b").unwrap();
        assert_eq!((q.shape.as_slice(), q.range.end - q.range.start), (&[16, 4][..], 256));
    }

    #[test]
    fn a_head_that_is_cut_or_lies_is_refused() {
        for len in 4..700 {
            let cut = parse(&FILE[..len]);
            assert!(cut.is_err() || cut.unwrap().is_err(), "{len}");
        }
        let with = |at: usize, bytes: &[u8]| {
            let mut file = FILE.to_vec();
            file[at..at + bytes.len()].copy_from_slice(bytes);
            parse(&file).unwrap().unwrap_err().to_string()
        };
        assert_eq!(with(4, &[9, 0, 0, 0]), "is of version 9; 2 and 3 are read here");
        assert_eq!(with(4, &[0, 0, 0, 3]), "is big-endian");
        assert_eq!(with(8, &[255; 8]), "counts more tensors and keys than it has bytes");
    }
}
