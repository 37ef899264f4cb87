//! Run jobs on threads, each with buffers of its own: work on modules, and comparisons, of which nothing is hashed on the way.

use core::ops::Range;

use mwa::merge::{Bytes, Findings, Job, Merge};
use mwa::{Read, Result};

use crate::engine::cpu::{MEMORY, budget};
use crate::engine::pass::{bytes, joined};
use crate::engine::pool::share;
use crate::engine::simd::InstructionSet;
use crate::io::room;
use crate::io::store::Store;
use crate::options::Machine;
use crate::progress::Progress;

/// Most bytes that a residual reads at once: they stay in the second-level cache, or nearly.
const WINDOW: usize = 2 << 20;

/// Run the jobs with these numbers.
///
/// A thread holds what one job reads and writes, so that fewer run at once where that is more than the memory allows.
pub(crate) fn run(
    merge: &Merge,
    numbers: Range<u64>,
    store: &Store,
    machine: Machine,
    progress: &dyn Progress,
) -> Result<Findings> {
    let memory = machine.memory.unwrap_or(MEMORY);
    let whole = |number: u64| Some(merge.job(number)).filter(|job| !job.is_windowed());
    let largest = numbers.clone().filter_map(whole).map(|job| job.bytes()).max().unwrap_or(0);
    let together = budget(memory / largest.max(1));
    let threads = machine.threads().min(together).max(1);
    let window = (budget(memory) / threads).min(WINDOW);
    let found =
        share(numbers.map(|number| (number, ())), threads, progress, |desk: &mut Desk, number, ()| {
            let job = merge.job(number);
            let found = if job.is_windowed() {
                let mut read = |read: &Read, bytes: &mut [u8]| {
                    progress.advance(bytes.len() as u64);
                    store.read(read, bytes)
                };
                InstructionSet::widest().run(&job, Bytes::Windows(window, &mut read), &mut [])?
            } else {
                desk.run(&job, store, progress)?
            };
            desk.findings.add(number, found);
            Ok(())
        })?;
    Ok(joined(found.into_iter().map(|desk| desk.findings).collect()))
}

/// What one thread keeps between jobs.
#[derive(Default)]
struct Desk {
    findings: Findings,
    inputs: Vec<Vec<u8>>,
    outputs: Vec<Vec<u8>>,
}

impl Desk {
    fn run(&mut self, job: &Job<'_>, store: &Store, progress: &dyn Progress) -> Result<mwa::merge::Found> {
        self.inputs.resize_with(job.reads().len(), Vec::new);
        for (read, buffer) in job.reads().zip(&mut self.inputs) {
            room::resize(buffer, bytes(&read.range))?;
            store.read(&read, buffer)?;
            progress.advance(buffer.len() as u64);
        }
        self.outputs.resize_with(job.writes().len(), Vec::new);
        for (write, buffer) in job.writes().zip(&mut self.outputs) {
            room::resize(buffer, bytes(&write.range))?;
        }
        let inputs: Vec<_> = self.inputs.iter().map(Vec::as_slice).collect();
        let mut rooms: Vec<_> = self.outputs.iter_mut().map(Vec::as_mut_slice).collect();
        let found = InstructionSet::widest().run(job, Bytes::Whole(&inputs), &mut rooms)?;
        for (write, buffer) in job.writes().zip(&self.outputs) {
            store.write(&write, buffer)?;
        }
        Ok(found)
    }
}
