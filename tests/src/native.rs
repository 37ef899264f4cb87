//! The executors of this machine: the core's reference, each instruction set, the host's threads over files.

use std::fs;
use std::path::PathBuf;

use mwa::{Job, Plan};
use mwa_host::{InstructionSet, Machine};

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
    Ok(Box::new(Cpu { threads: 5, memory: Some(1) }))
}

/// Open the host with one thread and the usual memory.
///
/// # Errors
/// None.
pub fn cpu_one_thread() -> Result<Box<dyn Executor>, String> {
    Ok(Box::new(Cpu { threads: 1, memory: None }))
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
        let plan = merge.plan()?;
        let jobs: Vec<_> = plan.jobs(self.bytes).collect();
        Ok(self.run_jobs(&plan, &jobs, &merge.inputs)?)
    }
}

impl Jobs {
    /// Run jobs of a plan of single files, in the order given.
    ///
    /// # Errors
    /// The first that a job reports.
    pub fn run_jobs(&self, plan: &Plan, jobs: &[Job<'_>], inputs: &[Vec<u8>]) -> mwa::Result<Vec<u8>> {
        let header = &plan.outputs()[0].header;
        let mut output = header.to_bytes();
        output.resize(index(header.file_len()), 0xaa);
        for job in jobs {
            let bytes = |read: mwa::Read| &inputs[read.input][index(read.range.start)..index(read.range.end)];
            let reads: Vec<_> = job.reads().map(bytes).collect();
            let write = job.write().range;
            let out = &mut output[index(write.start)..index(write.end)];
            match self.kernel {
                Kernel::Reference => job.run_reference(&reads, out)?,
                Kernel::Fast(set) => set.run(job, &reads, out)?,
            };
        }
        Ok(output)
    }
}

fn index(offset: u64) -> usize {
    usize::try_from(offset).expect("vectors fit in memory")
}

/// The host: files, threads, hashes.
#[derive(Clone, Copy, Debug)]
pub struct Cpu {
    /// Number of threads.
    pub threads: usize,
    /// Bytes of buffers, or the host's default.
    pub memory: Option<u64>,
}

impl Executor for Cpu {
    fn merge(&self, merge: &Merge) -> Result<Vec<u8>, Failure> {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let file = |i: usize, bytes: &Vec<u8>| -> Vec<PathBuf> {
            let path = folder.path().join(format!("{i}.safetensors"));
            fs::write(&path, bytes).expect("a temporary file can be written");
            vec![path]
        };
        let inputs: Vec<_> = merge.inputs.iter().enumerate().map(|(i, bytes)| file(i, bytes)).collect();
        let output = folder.path().join("merged.safetensors");
        let machine = Machine { threads: Some(self.threads), memory: self.memory };
        mwa_host::execute(&merge.plan()?, &inputs, core::slice::from_ref(&output), machine, &())?;
        Ok(fs::read(&output).expect("the host has written its output"))
    }
}
