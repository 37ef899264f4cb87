//! The executors of this machine: the core's reference, each instruction set, the host's threads over files.

use std::fs;
use std::path::PathBuf;

use mwa::merge::{Bytes, Chosen, Cut, Findings, Found, Job, MergeOptions, Next};
use mwa_host::{DeviceChoice, Gpus, InstructionSet, Machine};

use crate::offered::{heard, index};
use crate::{Executor, Failure, Merge};

/// Open the obvious loop, job by job: what all others are measured against.
///
/// # Errors
/// None.
pub fn reference() -> Result<Box<dyn Executor>, String> {
    Ok(Box::new(Jobs { bytes: 1 << 20, kernel: Kernel::Reference }))
}

/// Open the host with several threads, and so little memory that jobs are as small as they get.
///
/// # Errors
/// None.
pub fn cpu() -> Result<Box<dyn Executor>, String> {
    Ok(Box::new(Host { threads: 5, memory: Some(1), device: DeviceChoice::Cpu }))
}

/// Open the host with one thread and the usual memory.
///
/// # Errors
/// None.
pub fn cpu_one_thread() -> Result<Box<dyn Executor>, String> {
    Ok(Box::new(Host { threads: 1, memory: None, device: DeviceChoice::Cpu }))
}

/// Open the GPU that the host takes first, with several threads and jobs as small as they get.
///
/// # Errors
/// If there is none.
pub fn gpu() -> Result<Box<dyn Executor>, String> {
    open_gpu(5, Some(1))
}

/// Open the same GPU with one thread and the usual memory.
///
/// # Errors
/// If there is none.
pub fn gpu_one_thread() -> Result<Box<dyn Executor>, String> {
    open_gpu(1, None)
}

fn open_gpu(threads: usize, memory: Option<u64>) -> Result<Box<dyn Executor>, String> {
    // a GPU that is refused is there: its merges fail
    match mwa_host::gpu::is_there() {
        true => Ok(Box::new(Host { threads, memory, device: DeviceChoice::Gpu(Gpus::default()) })),
        false => Err("there is no GPU, nor a driver that stands in for one".into()),
    }
}

/// Open the kernel as compiled for one instruction set.
///
/// # Errors
/// If this CPU does not have it.
pub fn instructions(name: &str) -> Result<Box<dyn Executor>, String> {
    let set = InstructionSet::available().find(|set| set.name() == name);
    let set = set.ok_or_else(|| format!("this CPU has no {name}"))?;
    Ok(Box::new(Jobs { bytes: 1 << 16, kernel: Kernel::Fast(set) }))
}

/// How a job is run.
#[derive(Clone, Copy, Debug)]
pub enum Kernel {
    /// By the obvious loop.
    Reference,
    /// By the fast one, compiled for these instructions.
    Fast(InstructionSet),
}

/// Runs jobs of at most `bytes` per input in memory, one after the other.
#[derive(Clone, Copy, Debug)]
pub struct Jobs {
    /// Most bytes of one input that a job reads.
    pub bytes: usize,
    /// How one job is run.
    pub kernel: Kernel,
}

impl Executor for Jobs {
    fn merge(&self, merge: &Merge) -> Result<Vec<u8>, Failure> {
        heard(merge, self.run(merge, |_| ()).map_err(Failure::from))
    }
}

impl Jobs {
    /// Merge, the jobs of each phase in the order that `order` gives them.
    ///
    /// # Errors
    /// What the core says of the inputs, or the first error that a job reports.
    pub fn run(&self, merge: &Merge, order: impl Fn(&mut Vec<u64>)) -> mwa::Result<Vec<u8>> {
        let mut state = merge.state(Cut { max_bytes: self.bytes, by_tensor: false })?;
        let mut output = Vec::new();
        while let Next::Jobs(numbers) = state.next()? {
            if let Some(file) = state.outputs().first().filter(|_| output.is_empty()) {
                output = state.head(0);
                output.resize(index(file.header.file_len()), 0xaa);
            }
            let mut numbers: Vec<_> = numbers.collect();
            order(&mut numbers);
            let mut findings = Findings::default();
            for number in numbers {
                let job = state.job(number);
                findings.add(number, self.run_job(&job, &merge.inputs, &mut output)?);
            }
            state.take(findings)?;
        }
        if output.is_empty() {
            output = state.head(0); // of a file of empty tensors
        }
        Ok(output)
    }

    fn run_job(&self, job: &Job<'_>, inputs: &[Vec<u8>], output: &mut [u8]) -> mwa::Result<Found> {
        let bytes = |read: mwa::Read| &inputs[read.input][index(read.range.start)..index(read.range.end)];
        let reads: Vec<_> = job.reads().map(bytes).collect();
        let ranges: Vec<_> =
            job.writes().map(|write| index(write.range.start)..index(write.range.end)).collect();
        let mut pieces: Vec<_> = ranges.iter().map(|range| vec![0; range.len()]).collect();
        let mut rooms: Vec<_> = pieces.iter_mut().map(Vec::as_mut_slice).collect();
        let found = match self.kernel {
            Kernel::Reference => job.run_reference(&reads, &mut rooms)?,
            Kernel::Fast(set) => set.run(job, Bytes::Whole(&reads), &mut rooms)?,
        };
        ranges.into_iter().zip(&pieces).for_each(|(range, bytes)| output[range].copy_from_slice(bytes));
        Ok(found)
    }
}

/// The host: files, threads, hashes.
#[derive(Clone, Copy, Debug)]
pub struct Host {
    /// Number of threads.
    pub threads: usize,
    /// Bytes of buffers, or the host's default.
    pub memory: Option<u64>,
    /// What computes.
    pub device: DeviceChoice,
}

impl Executor for Host {
    fn merge(&self, merge: &Merge) -> Result<Vec<u8>, Failure> {
        let machine = Machine { threads: Some(self.threads), memory: self.memory, device: self.device };
        heard(
            merge,
            over_files(merge, |chosen, options, inputs, outputs| {
                mwa_host::execute(chosen, options, inputs, outputs, machine, &())
            }),
        )
    }
}

/// Merge by something that takes files.
///
/// # Errors
/// What the core says of heads and weights, or `run` of the files.
///
/// # Panics
/// If files cannot be made in the temporary folder.
pub fn over_files(
    merge: &Merge,
    run: impl FnOnce(Chosen, MergeOptions, &[Vec<PathBuf>], &[PathBuf]) -> mwa::Result<()>,
) -> Result<Vec<u8>, Failure> {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let file = |i: usize, bytes: &Vec<u8>| -> Vec<PathBuf> {
        let path = folder.path().join(format!("{i}.safetensors"));
        fs::write(&path, bytes).expect("a temporary file can be written");
        vec![path]
    };
    let inputs: Vec<_> = merge.inputs.iter().enumerate().map(|(i, bytes)| file(i, bytes)).collect();
    let output = folder.path().join("merged.safetensors");
    run(merge.chosen()?, merge.options(), &inputs, core::slice::from_ref(&output))?;
    Ok(fs::read(&output).expect("the host has written its output"))
}
