//! The executors of this machine: the core's reference, each instruction set, the host's threads over files.

use std::fs;
use std::path::PathBuf;

use mwa::kernel::Tally;
use mwa::{AdapterConfig, Factors, Job, ModuleJob, Plan, Products, Rank, Recipe, Space, Weights};
use mwa_host::{DeviceChoice, Gpus, InstructionSet, Machine};

use crate::session::index;
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
        if let (Space::Product(rank), Kernel::Fast(set)) = (merge.space, self.kernel) {
            return Ok(products(merge, rank.unwrap_or(Rank::Inputs), set)?);
        }
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

/// A merge in product space of adapters that hold factors alone, each module whole.
fn products(merge: &Merge, rank: Rank, set: InstructionSet) -> mwa::Result<Vec<u8>> {
    let (inputs, weights) = (merge.heads()?, Weights::explicit(&merge.weights)?);
    let configs =
        merge.configs.iter().map(|text| AdapterConfig::parse(text)).collect::<mwa::Result<Vec<_>>>()?;
    let configs: Vec<_> = configs.iter().collect();
    let optional: Vec<_> = configs.iter().copied().map(Some).collect();
    let products = Products::new(Factors::new(&inputs, &optional, &weights)?, &configs)?;
    let slice = |read: mwa::Read| &merge.inputs[read.input][index(read.range.start)..index(read.range.end)];
    let whole = |job: &ModuleJob<'_>| job.reads().map(slice).collect::<Vec<_>>();
    let found = match rank {
        Rank::Energy(share) => products
            .surveys()
            .map(|job| set.rank_for(&job, &whole(&job), share))
            .collect::<mwa::Result<_>>()?,
        _ => Vec::new(),
    };
    let ranks = products.ranks(rank, &found)?;
    let elsewhere = products.layout(&ranks, merge.dtype);
    let plan = Plan::new(&inputs, &weights, &Recipe { elsewhere, ..Recipe::default() })?;
    assert_eq!(plan.jobs(1 << 20).count(), 0, "there is nothing but factors");
    let mut merged = plan.outputs()[0].header.to_bytes();
    merged.resize(index(plan.outputs()[0].header.file_len()), 0xaa);
    for job in products.jobs(&plan, rank, &ranks) {
        let ranges: Vec<_> =
            job.writes().map(|write| index(write.range.start)..index(write.range.end)).collect();
        let mut outputs: Vec<_> = ranges.iter().map(|range| vec![0; range.len()]).collect();
        let mut slices: Vec<_> = outputs.iter_mut().map(Vec::as_mut_slice).collect();
        set.merge(&job, &whole(&job), &mut slices)?;
        ranges.into_iter().zip(&outputs).for_each(|(range, bytes)| merged[range].copy_from_slice(bytes));
    }
    Ok(merged)
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
        over_files(merge, |plan, inputs, outputs| mwa_host::execute(plan, inputs, outputs, machine, &()))
    }
}

/// Merge by something that takes files, and keep the tally to itself.
///
/// # Errors
/// What planning says of the merge, or `run` of the files.
///
/// # Panics
/// If files cannot be made in the temporary folder.
pub fn over_files(
    merge: &Merge,
    run: impl FnOnce(&Plan, &[Vec<PathBuf>], &[PathBuf]) -> mwa::Result<Tally>,
) -> Result<Vec<u8>, Failure> {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let file = |i: usize, bytes: &Vec<u8>| -> Vec<PathBuf> {
        let path = folder.path().join(format!("{i}.safetensors"));
        fs::write(&path, bytes).expect("a temporary file can be written");
        vec![path]
    };
    let inputs: Vec<_> = merge.inputs.iter().enumerate().map(|(i, bytes)| file(i, bytes)).collect();
    let output = folder.path().join("merged.safetensors");
    run(&merge.plan()?, &inputs, core::slice::from_ref(&output))?;
    Ok(fs::read(&output).expect("the host has written its output"))
}
