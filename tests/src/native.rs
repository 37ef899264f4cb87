//! The executors of this machine: the core's reference, each instruction set, the host's threads over files.

use std::fs;
use std::path::PathBuf;

use mwa::merge::{Bytes, Chosen, Cut, Findings, Found, Job, MergeOptions, Next, Together};
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
                findings.add(number, self.run_job(&job, merge, &mut output)?);
            }
            state.take(findings)?;
        }
        if output.is_empty() {
            output = state.head(0); // of a file of empty tensors
        }
        Ok(output)
    }

    fn run_job(&self, job: &Job<'_>, merge: &Merge, output: &mut [u8]) -> mwa::Result<Found> {
        let bytes: Vec<_> = job.reads().map(|read| merge.bytes(&read)).collect();
        let reads: Vec<_> = bytes.iter().map(|bytes| &**bytes).collect();
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

/// Merge several merges of the same inputs in one pass, with these instructions: how many went so, and what each gives. Those that
/// do not go with the first are merged alone.
#[must_use]
pub fn together(merges: &[Merge], set: InstructionSet) -> (usize, Vec<Result<Vec<u8>, Failure>>) {
    const BYTES: usize = 1 << 12;
    let begin = |merge: &Merge| {
        let mut state = merge.state(Cut { max_bytes: BYTES, by_tensor: false }).ok()?;
        let Ok(Next::Jobs(numbers)) = state.next() else { return None };
        (numbers == state.elements()).then_some(state)
    };
    let mut states: Vec<_> = merges.iter().map(begin).collect();
    if let Some(first) = states.iter().position(Option::is_some) {
        for at in first + 1..states.len() {
            let goes = states[at].as_ref().zip(states[first].as_ref()).is_some_and(|(a, b)| a.goes_with(b));
            states[at] = states[at].take().filter(|_| goes);
        }
    }
    let room = |state: &Option<mwa::merge::Merge>| {
        let Some(state) = state else { return Ok(Vec::new()) };
        let mut output = state.head(0);
        output.resize(index(state.outputs()[0].header.file_len()), 0xaa);
        Ok(output)
    };
    let mut outputs: Vec<mwa::Result<Vec<u8>>> = states.iter().map(room).collect();
    let went = states.iter().flatten().count();
    let numbers = states.iter().flatten().next().map_or(0..0, mwa::merge::Merge::elements);
    for number in numbers {
        let open: Vec<_> =
            (0..states.len()).filter(|&at| states[at].is_some() && outputs[at].is_ok()).collect();
        let jobs = Together::new(open.iter().flat_map(|&at| &states[at]).map(|it| it.job(number)).collect());
        let bytes = |read: &mwa::Read| {
            &merges[open[0]].inputs[read.input][index(read.range.start)..index(read.range.end)]
        };
        let reads: Vec<_> = jobs.reads().iter().map(bytes).collect();
        let ranges: Vec<_> =
            jobs.writes().map(|write| index(write.range.start)..index(write.range.end)).collect();
        let mut pieces: Vec<_> = ranges.iter().map(|range| vec![0; range.len()]).collect();
        let mut rooms: Vec<_> = pieces.iter_mut().map(Vec::as_mut_slice).collect();
        let found = set.run_together(&jobs, &reads, &mut rooms);
        for (((at, found), range), piece) in open.into_iter().zip(found).zip(ranges).zip(pieces) {
            let Ok(output) = &mut outputs[at] else { unreachable!("it was open") };
            match found {
                Ok(_) => output[range].copy_from_slice(&piece),
                Err(error) => outputs[at] = Err(error),
            }
        }
    }
    let alone = Jobs { bytes: BYTES, kernel: Kernel::Reference };
    let each = merges.iter().zip(states).zip(outputs).map(|((merge, state), output)| match state {
        Some(_) => heard(merge, output.map_err(Failure::from)),
        None => alone.merge(merge),
    });
    (went, each.collect())
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
    let file = |name: String, bytes: &Vec<u8>| -> PathBuf {
        let path = folder.path().join(name);
        fs::write(&path, bytes).expect("a temporary file can be written");
        path
    };
    let first = usize::from(merge.method.contains_key("base"));
    let files = |(i, bytes): (usize, &Vec<u8>)| -> Vec<PathBuf> {
        let moments = i.checked_sub(first).and_then(|i| merge.moments.get(i));
        let moments = moments.map(|bytes| file(format!("{i}-moments.safetensors"), bytes));
        [file(format!("{i}.safetensors"), bytes)].into_iter().chain(moments).collect()
    };
    let inputs: Vec<_> = merge.inputs.iter().enumerate().map(files).collect();
    let output = folder.path().join("merged.safetensors");
    run(merge.chosen()?, merge.options(), &inputs, core::slice::from_ref(&output))?;
    Ok(fs::read(&output).expect("the host has written its output"))
}
