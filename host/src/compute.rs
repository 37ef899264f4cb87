//! Choose what runs a plan: the CPU, or GPUs. The bytes are the same; this is about time only.

use std::fs::File;
use std::sync::Arc;
use std::time::Instant;

use mwa::{Error, ErrorKind, Job, Plan, Result};

use crate::files::InputFile;
use crate::pass::{Ran, bytes};
use crate::{DeviceChoice, InstructionSet, Machine, Progress, cpu, gpu};

/// Run all jobs of `plan` and write the heads of its outputs, which are open for writing.
pub(crate) fn run(
    plan: &Plan,
    sources: &[&[InputFile]],
    outputs: &[File],
    machine: Machine,
    progress: &dyn Progress,
) -> Result<Ran> {
    let start = Instant::now();
    let opened = match machine.device {
        DeviceChoice::Cpu => None,
        DeviceChoice::Wasm => {
            let detail = "the sandbox plans by itself: it takes whole merges, no plan made outside";
            return Err(
                Error::new(ErrorKind::Device, detail).help("merge with it, or compute on another device")
            );
        }
        DeviceChoice::Gpu(gpus) => Some(gpu::open(plan, Some(gpus))?),
        DeviceChoice::Auto => open_if_faster(plan, machine, progress),
    };
    let Some(devices) = opened.filter(|devices| !devices.is_empty()) else {
        return cpu::run(plan, sources, outputs, machine, progress);
    };
    for device in &devices {
        let seconds = start.elapsed().as_secs_f64();
        progress.note(&format!("{} sums; opened and probed after {seconds:.2} s", device.name()));
    }
    let must = machine.device != DeviceChoice::Auto;
    gpu::run(plan, sources, outputs, machine, &devices, must, progress)
}

/// Bytes of input below which opening a GPU takes longer than any merge.
const WORTH_A_LOOK: f64 = 256e6;
/// Seconds to open a device, compile a kernel and probe it.
const OPENING: f64 = 0.5;
/// Bytes a second that one thread reads from the page cache, hashes, or writes into staging memory that a GPU sees
/// (measured: 11 to 14 GB/s on a server with an H200).
const READING: f64 = 10e9;
const HASHING: f64 = 2e9;
const STAGING: f64 = 12e9;

/// Open a GPU if a merge with it is faster by what the CPU's sums take, measured here.
///
/// Threads read and hash every byte, whoever sums. What a GPU saves is the summing, what it costs is the staging; and
/// no merge is faster than the hash of its longest input, which is one stream.
fn open_if_faster(plan: &Plan, machine: Machine, progress: &dyn Progress) -> Option<Vec<Arc<gpu::Device>>> {
    let mut inputs = Vec::new();
    for read in plan.jobs(usize::MAX).flat_map(|job| job.reads().collect::<Vec<_>>()) {
        inputs.resize(inputs.len().max(read.input + 1), 0.0);
        inputs[read.input] += bytes(&read.range) as f64;
    }
    let total: f64 = inputs.iter().sum();
    if total < WORTH_A_LOOK {
        return None;
    }
    let longest = inputs.iter().copied().fold(0.0, f64::max) / HASHING;
    let seconds = |summing: f64| {
        let work = total * (1.0 / READING + 1.0 / HASHING + 1.0 / summing) / machine.threads() as f64;
        work.max(longest)
    };
    let summing = summing_speed(plan)?;
    let (cpu, gpu) = (seconds(summing), OPENING + seconds(STAGING));
    if cpu <= gpu {
        progress.note(&format!(
            "the CPU sums: at {:.1} GB/s per thread it needs about {cpu:.1} s, a GPU {gpu:.1} s with opening it",
            summing / 1e9
        ));
        return None;
    }
    gpu::open(plan, None).inspect_err(|error| progress.note(&format!("{error}; the CPU sums"))).ok()
}

/// Bytes of input that one thread of this CPU sums in a second, in jobs like the plan's largest.
fn summing_speed(plan: &Plan) -> Option<f64> {
    let size = |job: &Job<'_>| job.reads().map(|read| bytes(&read.range)).sum::<usize>();
    let job = plan.jobs(cpu::JOB_BYTES).filter(|job| job.sum().is_some()).max_by_key(size)?;
    let inputs: Vec<_> = job.reads().map(|read| vec![0; bytes(&read.range)]).collect();
    let inputs: Vec<_> = inputs.iter().map(Vec::as_slice).collect();
    let mut output = vec![0; bytes(&job.write().range)];
    // the second time, memory is there and caches are warm
    let mut seconds = f64::INFINITY;
    for _ in 0..3 {
        let start = Instant::now();
        InstructionSet::widest().run(&job, &inputs, &mut output).ok()?;
        seconds = seconds.min(start.elapsed().as_secs_f64());
    }
    Some(size(&job) as f64 / seconds.max(1e-9))
}
