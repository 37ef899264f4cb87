//! Files in memory that answer the questions of a session; what the executors behind a border share.

use std::collections::{BTreeMap, BTreeSet};

use mwa::border::{Answer, Question};
use mwa::{Rank, Space};
use serde_json::{Map, Value, json};

use crate::{Failure, Merge};

/// Most bytes of one input in a job: small, so that vectors take several.
pub const CHUNK: u32 = 1000;

/// Bytes by path.
pub type Files = BTreeMap<String, Vec<u8>>;

/// The inputs of a merge: files, or folders where there are configs; and their paths.
#[must_use]
pub fn offered(merge: &Merge) -> (Files, Vec<String>) {
    let mut files = Files::new();
    let mut paths: Vec<_> = (0..merge.inputs.len()).map(|i| format!("input {i}")).collect();
    if let Some(Value::String(base)) = merge.method.get("base") {
        paths[0].clone_from(base);
    }
    for (i, (path, bytes)) in paths.iter().zip(&merge.inputs).enumerate() {
        if let Some(config) = merge.configs.get(i) {
            files.insert(format!("{path}/adapter_model.safetensors"), bytes.clone());
            files.insert(format!("{path}/adapter_config.json"), config.clone().into_bytes());
        } else {
            files.insert(path.clone(), bytes.clone());
        }
    }
    if merge.method.contains_key("base") {
        paths.remove(0);
    }
    files.extend(merge.moments.iter().enumerate().map(|(i, bytes)| (moments(i), bytes.clone())));
    (files, paths)
}

/// Where the second moments of an input are.
fn moments(i: usize) -> String {
    format!("moments {i}.safetensors")
}

/// The options of a merge, as every face takes them.
///
/// # Panics
/// For a space that no option says.
#[must_use]
pub fn told(merge: &Merge) -> Map<String, Value> {
    let (space, rank, energy) = match merge.space {
        Space::Factors => ("factors", Value::Null, None),
        Space::Product(None | Some(Rank::Inputs)) => ("product", Value::Null, None),
        Space::Product(Some(Rank::Fixed(rank))) => ("product", rank.into(), None),
        Space::Product(Some(Rank::Full)) => ("product", "full".into(), None),
        Space::Product(Some(Rank::Energy(share))) => ("product", "auto".into(), Some(share)),
    };
    let mut told = json!({
        "weights": if merge.method.is_empty() { json!(merge.weights) } else { Value::Null },
        "dtype": merge.dtype.map(|dtype| dtype.dtype().to_string().to_lowercase()),
        "space": space, "rank": rank, "energy": energy,
        "residual": "off",
        "allow_cross_run": true,
        "allow_non_finite": merge.allow_non_finite,
        "rewrite": true,
    });
    let Value::Object(told) = &mut told else { unreachable!("it is an object") };
    told.extend(merge.method.clone());
    if !merge.moments.is_empty() {
        let paths: Vec<_> = (0..merge.moments.len()).map(moments).collect();
        told.insert("moments".into(), json!(paths));
    }
    core::mem::take(told)
}

/// What the files answer: a folder is there when a file lies in it.
///
/// # Panics
/// If a file is read that is not there.
#[must_use]
pub fn answer(files: &Files, question: &Question) -> Answer {
    let inside = |path: &String| -> BTreeSet<String> {
        let inside = files.keys().filter_map(|other| other.strip_prefix(path)?.strip_prefix('/'));
        inside.filter_map(|rest| rest.split('/').next()).map(String::from).collect()
    };
    match question {
        Question::Kind(path) => match files.get(path) {
            Some(bytes) => Answer::File(bytes.len() as u64),
            None if inside(path).is_empty() => Answer::Missing,
            None => Answer::Folder,
        },
        Question::List(path) => Answer::Names(inside(path).into_iter().collect()),
        Question::Place(path) => Answer::Place(path.clone()),
        Question::Read(path, start, end) => {
            let bytes = &files[path];
            let end = index(*end).min(bytes.len());
            Answer::Bytes(bytes[index(*start).min(end)..end].to_vec())
        }
    }
}

/// The bytes of an output: its head, and the pieces that jobs wrote.
#[must_use]
pub fn assembled(head: Vec<u8>, length: u64, pieces: Vec<(usize, Vec<u8>)>) -> Vec<u8> {
    let mut merged = head;
    merged.resize(index(length), 0xaa);
    for (start, piece) in pieces {
        merged[start..start + piece.len()].copy_from_slice(&piece);
    }
    merged
}

/// A checkpoint without tensors is refused by every program that merges checkpoints, though the plan has no fault to find
/// with it: where the vectors ask for the plan's answer, hear the refusal and give that answer.
///
/// # Errors
/// As `merged`.
///
/// # Panics
/// If such a checkpoint is not refused.
pub fn heard(merge: &Merge, merged: Result<Vec<u8>, Failure>) -> Result<Vec<u8>, Failure> {
    let plan = merge.plan().ok().filter(|plan| plan.outputs()[0].header.tensors().is_empty());
    let Some(plan) = plan else { return merged };
    let failure = merged.expect_err("a checkpoint without tensors is refused");
    assert!(failure.message.contains("holds no tensors"), "{}", failure.message);
    Ok(plan.outputs()[0].header.to_bytes())
}

/// An offset as an index.
///
/// # Panics
/// If it is beyond memory.
#[must_use]
pub fn index(offset: u64) -> usize {
    usize::try_from(offset).expect("vectors fit in memory")
}
