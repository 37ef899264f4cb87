//! The executor made of the core's session, without a border; and what it shares with those that lie behind one.

use mwa::border::{Checkpoint, Head, Order, Session, Weighing};
use mwa::safetensors::Header;

use crate::{Executor, Failure, Merge};

/// Most bytes of one input in a job: small, so that vectors take several.
pub const CHUNK: u32 = 1000;

/// Open it.
///
/// # Errors
/// None.
pub fn open() -> Result<Box<dyn Executor>, String> {
    Ok(Box::new(InSession))
}

struct InSession;

impl Executor for InSession {
    fn merge(&self, merge: &Merge) -> Result<Vec<u8>, Failure> {
        told(merge, run(merge).map_err(Failure::from))
    }
}

fn run(merge: &Merge) -> mwa::Result<Vec<u8>> {
    let checkpoint = |(i, bytes): (usize, &Vec<u8>)| {
        let (bytes, length) = (head(bytes).to_vec(), bytes.len() as u64);
        let files = vec![Head { name: "merged.safetensors".into(), bytes, length }];
        Checkpoint { name: format!("input {i}"), step: None, config: merge.configs.get(i).cloned(), files }
    };
    let order = Order {
        weighing: Weighing::Explicit(merge.weights.clone()),
        space: merge.space,
        strict: false,
        residual: mwa::Measure::Off,
        allow_cross_run: true,
        dtype: merge.dtype.map(|dtype| dtype.dtype().to_string().to_lowercase()),
        allow_non_finite: merge.allow_non_finite,
        rewrite: true,
        chunk: Some(CHUNK),
    };
    let checkpoints: Vec<_> = merge.inputs.iter().enumerate().map(checkpoint).collect();
    let mut session = Session::open(&checkpoints, &order)?;
    let mut pieces = Vec::new();
    while let Some(job) = session.next_job()? {
        let chunk =
            |read: &mwa::Read| &merge.inputs[read.input][index(read.range.start)..index(read.range.end)];
        let chunks: Vec<_> = job.reads.iter().map(chunk).collect();
        let piece = session.run(job.number, &chunks, mwa_wasm_fast::run)?;
        pieces.extend(job.writes.first().map(|write| (index(write.range.start), piece)));
    }
    let (_, _, length) = session.outputs().next().expect("there is one output");
    let mut merged = session.head(0).expect("there is one output");
    merged.resize(index(length), 0xaa);
    for (start, piece) in pieces {
        merged[start..start + piece.len()].copy_from_slice(&piece);
    }
    Ok(merged)
}

/// A checkpoint without tensors is refused by every program that merges checkpoints, though the plan has no fault to find
/// with it: where the vectors ask for the plan's answer, hear the refusal and give that answer.
///
/// # Errors
/// As `merged`.
///
/// # Panics
/// If such a checkpoint is not refused.
pub fn told(merge: &Merge, merged: Result<Vec<u8>, Failure>) -> Result<Vec<u8>, Failure> {
    let plan = merge.plan().ok().filter(|plan| plan.outputs()[0].header.tensors().is_empty());
    let Some(plan) = plan else { return merged };
    let failure = merged.expect_err("a checkpoint without tensors is refused");
    assert!(failure.message.contains("holds no tensors"), "{}", failure.message);
    Ok(plan.outputs()[0].header.to_bytes())
}

/// The bytes of a file that a session is opened with.
#[must_use]
pub fn head(bytes: &[u8]) -> &[u8] {
    let size = Header::size(bytes, bytes.len() as u64).map_or(bytes.len(), index);
    &bytes[..size.min(bytes.len())]
}

/// An offset as an index.
///
/// # Panics
/// If it is beyond memory.
#[must_use]
pub fn index(offset: u64) -> usize {
    usize::try_from(offset).expect("vectors fit in memory")
}
