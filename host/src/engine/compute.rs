//! Choose what computes elements: the CPU, or GPUs. The bytes are the same; this is about time only.

use std::time::Instant;

use mwa::digest::Part;
use mwa::merge::{Bytes, Findings, Job, Merge};
use mwa::{Error, ErrorKind, Result};

use crate::engine::device::DeviceChoice;
use crate::engine::jobs::{bytes, stretches};
use crate::engine::simd::InstructionSet;
use crate::engine::{cpu, gpu};
use crate::io::store::Store;
use crate::options::Machine;
use crate::progress::Progress;

/// Run all jobs on elements.
pub(crate) fn run(
    merge: &Merge,
    store: &Store,
    machine: Machine,
    progress: &dyn Progress,
) -> Result<Findings> {
    match machine.device {
        DeviceChoice::Cpu => cpu::run(merge, merge.elements(), store, machine, progress),
        DeviceChoice::Wasm => {
            let detail = "the sandbox plans by itself: it takes whole merges, no jobs made outside";
            Err(Error::new(ErrorKind::Device, detail).help("merge with it, or compute on another device"))
        }
        DeviceChoice::Gpu(gpus) => {
            // a small merge would be done before a GPU that somebody asked for is open
            let first = inputs(merge).iter().sum::<f64>() < SMALL;
            gpu::run(merge, store, machine, Some(gpus), first, progress)
        }
        DeviceChoice::Auto if is_gpu_faster(merge, machine) => {
            gpu::run(merge, store, machine, None, false, progress)
        }
        DeviceChoice::Auto => cpu::run(merge, merge.elements(), store, machine, progress),
    }
}

/// Bytes of input that a CPU merges while a GPU is opened.
const SMALL: f64 = 256e6;
/// Seconds to open a device, compile a kernel and probe it: 0.18 to 0.21 measured on a server with an H200, as are the rest.
const OPENING: f64 = 0.2;
/// Bytes a second that one of 16 threads reads from the page cache: 5.5 to 6.5 GB/s.
const READING: f64 = 6e9;
/// Bytes a second that a thread writes into staging memory that a GPU sees: 11 to 14.5 GB/s.
const STAGING: f64 = 14e9;

/// Whether a merge is faster with a GPU, by what the CPU's sums take, measured here.
///
/// Threads read and hash every byte, whoever sums, and the CPU sums until a GPU is open. What a GPU saves then is the
/// summing, what it costs is the staging.
fn is_gpu_faster(merge: &Merge, machine: Machine) -> bool {
    let inputs = inputs(merge);
    let total: f64 = inputs.iter().sum();
    if total < SMALL {
        return false;
    }
    let Some(summing) = summing_speed(merge) else { return false };
    let hashing = hashing_speed();
    let seconds =
        |summing: f64| total * (1.0 / READING + 1.0 / hashing + 1.0 / summing) / machine.threads() as f64;
    let cpu = seconds(summing);
    // what is left when it is open, at the GPU's speed
    let gpu = OPENING + (1.0 - OPENING / cpu).max(0.0) * seconds(STAGING);
    gpu < cpu
}

/// Bytes to be read of each input.
fn inputs(merge: &Merge) -> Vec<f64> {
    let mut inputs = vec![0.0; merge.chosen().inputs.len()];
    for (first, last) in stretches(merge) {
        for (first, last) in first.reads().zip(last.reads()) {
            inputs[first.input] += (last.range.end - first.range.start) as f64;
        }
    }
    inputs
}

/// Bytes of input that one thread of this CPU sums in a second, in jobs like the largest.
fn summing_speed(merge: &Merge) -> Option<f64> {
    let size = |job: &Job<'_>| job.reads().map(|read| bytes(&read.range)).sum::<usize>();
    let sums = stretches(merge).map(|(first, _)| first).filter(|job| job.sum().is_some());
    let job = sums.max_by_key(size)?;
    let inputs: Vec<_> = job.reads().map(|read| vec![0; bytes(&read.range)]).collect();
    let inputs: Vec<_> = inputs.iter().map(Vec::as_slice).collect();
    let mut output = vec![0; job.writes().map(|write| bytes(&write.range)).sum()];
    let mut sum = || InstructionSet::widest().run(&job, Bytes::Whole(&inputs), &mut [&mut output]);
    sum().ok()?;
    Some(size(&job) as f64 / seconds(|| drop(sum())))
}

/// Bytes that one thread of this CPU hashes in a second, in jobs like the largest.
fn hashing_speed() -> f64 {
    let bytes = vec![0; cpu::JOB_BYTES];
    bytes.len() as f64 / seconds(|| drop(Part::of(u64::MAX, 0, &bytes)))
}

/// Seconds that `work` takes when memory is there and caches are warm.
fn seconds(mut work: impl FnMut()) -> f64 {
    let mut best = f64::INFINITY;
    for _ in 0..3 {
        let start = Instant::now();
        work();
        best = best.min(start.elapsed().as_secs_f64());
    }
    best.max(1e-9)
}
