//! Run independent tasks on threads: the tasks of product space.

use mwa::{Job, ModuleJob, Read, Residual, Result, Write};

use crate::engine::cpu::MEMORY;
use crate::engine::pool::parallel;
use crate::engine::simd::InstructionSet;
use crate::io::store::Store;
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
/// A thread holds what one task reads and writes, so that fewer run at once where that is more than the memory allows:
/// `largest` bytes.
pub(crate) fn run<T: Task + Send>(
    tasks: impl Iterator<Item = T> + Send,
    largest: u64,
    store: &Store<'_>,
    machine: Machine,
    progress: &dyn Progress,
) -> Result<Vec<T::Found>> {
    let together = machine.memory.unwrap_or(MEMORY) / largest.max(1);
    let threads = machine.threads().min(usize::try_from(together).unwrap_or(usize::MAX)).max(1);
    parallel(tasks, threads, progress, |desk: &mut Desk, task| {
        let mut done = 0;
        let reads = task.reads();
        desk.buffers.resize_with(reads.len().max(desk.buffers.len()), Vec::new);
        for (read, buffer) in reads.iter().zip(&mut desk.buffers) {
            buffer.resize(length(&read.range), 0);
            store.read(read, buffer)?;
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
            store.write(write, buffer)?;
        }
        progress.advance(done);
        Ok(found)
    })
}

/// Bytes that a task reads and writes.
pub(crate) fn size(task: &impl Task) -> u64 {
    let reads = task.reads().into_iter().map(|read| read.range);
    let writes = task.writes().into_iter().map(|write| write.range);
    reads.chain(writes).map(|range| range.end - range.start).sum()
}

/// How far averaged factors are from the averaged product, for each module; see [`ModuleJob::residual`].
pub(crate) fn residuals<'a>(
    jobs: impl Iterator<Item = ModuleJob<'a>> + Send,
    store: &Store<'_>,
    machine: Machine,
    progress: &dyn Progress,
) -> Result<Vec<Option<Residual>>> {
    let threads = machine.threads();
    let budget = usize::try_from(machine.memory.unwrap_or(MEMORY)).unwrap_or(usize::MAX);
    let bytes = (budget / threads).min(WINDOW);
    parallel(jobs, threads, progress, |(): &mut (), job| {
        let mut read = |read: &Read, bytes: &mut [u8]| store.read(read, bytes);
        InstructionSet::widest().residual(&job, bytes, &mut read)
    })
}

/// Most bytes that a residual reads at once: they stay in the second-level cache, or nearly.
const WINDOW: usize = 2 << 20;

/// What one thread keeps between tasks.
#[derive(Default)]
struct Desk {
    buffers: Vec<Vec<u8>>,
    outputs: Vec<Vec<u8>>,
}

fn length(range: &core::ops::Range<u64>) -> usize {
    usize::try_from(range.end - range.start).expect("a tensor that is read whole fits into memory")
}
