//! Run independent tasks on threads: the tasks of product space.

use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::fs::File;
use std::sync::{Mutex, PoisonError};
use std::thread;

use mwa::{Error, ErrorKind, Job, ModuleJob, Read, Residual, Result, Write};

use crate::engine::cpu::MEMORY;
use crate::engine::simd::InstructionSet;
use crate::io::disk;
use crate::io::disk::{InputFile, io_error};
use crate::options::Machine;
use crate::progress::Progress;

/// Something to do with some ranges of the inputs.
pub(crate) trait Task: Sync {
    /// What it finds out.
    type Found: Send;
    fn reads(&self) -> Vec<Read>;
    fn writes(&self) -> Vec<Write>;
    fn run(&self, inputs: &[&[u8]], outputs: &mut [&mut [u8]]) -> Result<Self::Found>;
}

/// Which rank keeps a share of the energy; see [`ModuleJob::rank_for`].
pub(crate) struct Survey<'a>(pub(crate) ModuleJob<'a>, pub(crate) f64);

/// See [`ModuleJob::merge`].
pub(crate) struct Merge<'a>(pub(crate) ModuleJob<'a>);

/// A piece of a tensor that is no factor; see [`Job::run`].
pub(crate) struct Sum<'a>(pub(crate) Job<'a>);

impl Task for Survey<'_> {
    type Found = usize;

    fn reads(&self) -> Vec<Read> {
        self.0.reads().collect()
    }

    fn writes(&self) -> Vec<Write> {
        Vec::new()
    }

    fn run(&self, inputs: &[&[u8]], _: &mut [&mut [u8]]) -> Result<usize> {
        InstructionSet::widest().rank_for(&self.0, inputs, self.1)
    }
}

impl Task for Merge<'_> {
    type Found = Residual;

    fn reads(&self) -> Vec<Read> {
        self.0.reads().collect()
    }

    fn writes(&self) -> Vec<Write> {
        self.0.writes().cloned().collect()
    }

    fn run(&self, inputs: &[&[u8]], outputs: &mut [&mut [u8]]) -> Result<Residual> {
        InstructionSet::widest().merge(&self.0, inputs, outputs)
    }
}

impl Task for Sum<'_> {
    type Found = u64;

    fn reads(&self) -> Vec<Read> {
        self.0.reads().collect()
    }

    fn writes(&self) -> Vec<Write> {
        vec![self.0.write()]
    }

    fn run(&self, inputs: &[&[u8]], outputs: &mut [&mut [u8]]) -> Result<u64> {
        InstructionSet::widest().run(&self.0, inputs, outputs[0]).map(|tally| tally.underflowed)
    }
}

/// Run all tasks and give what they found, in their order; the error is that of the first task that failed.
///
/// A thread holds what one task reads and writes, so that fewer run at once where that is more than the memory allows.
pub(crate) fn run<T: Task>(
    tasks: &[T],
    sources: &[&[InputFile]],
    outputs: &[File],
    machine: Machine,
    progress: &dyn Progress,
) -> Result<Vec<T::Found>> {
    let size = |task: &T| {
        let reads = task.reads().into_iter().map(|read| read.range);
        reads
            .chain(task.writes().into_iter().map(|write| write.range))
            .map(|range| range.end - range.start)
            .sum()
    };
    let largest: u64 = tasks.iter().map(size).max().unwrap_or(0);
    let together = machine.memory.unwrap_or(MEMORY) / largest.max(1);
    let threads = machine.threads().min(usize::try_from(together).unwrap_or(usize::MAX)).max(1);
    parallel(tasks.len(), threads, progress, |desk: &mut Desk, index| {
        let task = &tasks[index];
        let mut done = 0;
        let reads = task.reads();
        desk.buffers.resize_with(reads.len().max(desk.buffers.len()), Vec::new);
        for (read, buffer) in reads.iter().zip(&mut desk.buffers) {
            buffer.resize(length(&read.range), 0);
            desk.files.fill(sources, read, buffer)?;
            done += buffer.len() as u64;
        }
        let inputs: Vec<_> = desk.buffers[..reads.len()].iter().map(Vec::as_slice).collect();
        let writes = task.writes();
        desk.outputs.resize_with(writes.len().max(desk.outputs.len()), Vec::new);
        for (write, buffer) in writes.iter().zip(&mut desk.outputs) {
            buffer.resize(length(&write.range), 0);
        }
        let mut slices: Vec<_> = desk.outputs[..writes.len()].iter_mut().map(Vec::as_mut_slice).collect();
        let found = task.run(&inputs, &mut slices)?;
        for (write, buffer) in writes.iter().zip(&desk.outputs) {
            disk::write_at(&outputs[write.file], buffer, write.range.start)
                .map_err(|error| io_error("cannot write the merged file", &error))?;
        }
        progress.advance(done);
        Ok(found)
    })
}

/// How far averaged factors are from the averaged product, for each module; see [`ModuleJob::residual`].
pub(crate) fn residuals(
    jobs: &[ModuleJob<'_>],
    sources: &[&[InputFile]],
    machine: Machine,
    progress: &dyn Progress,
) -> Result<Vec<Option<Residual>>> {
    let threads = machine.threads();
    let budget = usize::try_from(machine.memory.unwrap_or(MEMORY)).unwrap_or(usize::MAX);
    let bytes = (budget / threads).min(WINDOW);
    parallel(jobs.len(), threads, progress, |files: &mut Files, index| {
        let mut read = |read: &Read, bytes: &mut [u8]| files.fill(sources, read, bytes);
        InstructionSet::widest().residual(&jobs[index], bytes, &mut read)
    })
}

/// Most bytes that a residual reads at once: they stay in the second-level cache, or nearly.
const WINDOW: usize = 2 << 20;

/// What one thread keeps between tasks.
#[derive(Default)]
struct Desk {
    files: Files,
    buffers: Vec<Vec<u8>>,
    outputs: Vec<Vec<u8>>,
}

/// The file last used of each source.
#[derive(Default)]
pub(crate) struct Files(Vec<Option<(usize, File)>>);

impl Files {
    pub(crate) fn fill(&mut self, sources: &[&[InputFile]], read: &Read, bytes: &mut [u8]) -> Result<()> {
        let input = &sources[read.input][read.file];
        let failed = |error| io_error("cannot read it", &error).file(input.path.display().to_string());
        self.0.resize_with(sources.len().max(self.0.len()), || None);
        let open = &mut self.0[read.input];
        if open.as_ref().is_none_or(|(file, _)| *file != read.file) {
            *open = Some((read.file, File::open(&input.path).map_err(failed)?));
        }
        let (_, file) = open.as_ref().expect("it was opened just above");
        input.read(file, bytes, read.range.start).map_err(failed)
    }
}

fn length(range: &core::ops::Range<u64>) -> usize {
    usize::try_from(range.end - range.start).expect("a tensor that is read whole fits into memory")
}

/// `work(0)` … `work(count − 1)` on threads; the results in order, or the error of the lowest index that failed.
pub(crate) fn parallel<D: Default, T: Send>(
    count: usize,
    threads: usize,
    progress: &dyn Progress,
    work: impl Fn(&mut D, usize) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let found: Mutex<Vec<(usize, Result<T>)>> = Mutex::default();
    let share = || {
        let mut desk = D::default();
        while !stop.load(Ordering::Relaxed) {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= count {
                break;
            }
            let result = if progress.stopped() {
                Err(Error::new(ErrorKind::Stopped, "stopped; nothing was written"))
            } else {
                work(&mut desk, index)
            };
            if result.is_err() {
                stop.store(true, Ordering::Relaxed);
            }
            found.lock().unwrap_or_else(PoisonError::into_inner).push((index, result));
        }
    };
    thread::scope(|scope| {
        for _ in 1..threads.min(count) {
            scope.spawn(share);
        }
        share();
    });
    let mut found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
    found.sort_by_key(|(index, _)| *index);
    found.into_iter().map(|(_, result)| result).collect()
}
