//! Jobs of several merges of the same files, done together: on CPU threads here; what each has found and why it failed.

use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

#[cfg(feature = "gpu")]
use mwa::kernel::Tally;
use mwa::merge::{Findings, Job, Merge, Together};
use mwa::{Error, Result};

use crate::engine::cpu::{Needed, budget};
use crate::engine::jobs::{bytes, joined, stretches};
use crate::engine::pool::{lock, share};
use crate::engine::simd::InstructionSet;
use crate::engine::timings::Timings;
use crate::io::cloud::Ahead;
use crate::io::room;
use crate::io::store::Store;
use crate::options::Machine;
use crate::progress::Progress;

/// Merges that go with each other, and how each is getting on. Jobs are numbered from the first on elements.
pub(crate) struct Lot<'a> {
    pub(crate) merges: &'a [(&'a Merge, &'a Store)],
    /// The first job of each that failed, so that any number of threads tells the same.
    failures: Vec<(AtomicU64, Mutex<Option<Error>>)>,
}

/// What one thread keeps between jobs of a lot.
#[derive(Default)]
pub(crate) struct Bench {
    findings: Vec<Findings>,
    inputs: Vec<Vec<u8>>,
    outputs: Vec<Vec<u8>>,
}

impl<'a> Lot<'a> {
    pub(crate) fn new(merges: &'a [(&'a Merge, &'a Store)]) -> Self {
        Self {
            merges,
            failures: merges.iter().map(|_| (AtomicU64::new(u64::MAX), Mutex::default())).collect(),
        }
    }

    /// The merge by which all are cut, and the store that is read from.
    pub(crate) fn first(&self) -> (&'a Merge, &'a Store) {
        self.merges[0]
    }

    pub(crate) fn count(&self) -> u64 {
        let Range { start, end } = self.first().0.elements();
        end - start
    }

    /// The merges that have not failed before job `number`.
    pub(crate) fn open(&self, number: u64) -> Vec<usize> {
        let is_open = |at: &usize| self.failures[*at].0.load(Ordering::Relaxed) > number;
        (0..self.merges.len()).filter(is_open).collect()
    }

    /// Job `number` of some of the merges.
    pub(crate) fn jobs(&self, of: &[usize], number: u64) -> Together<'a> {
        let job = |&at: &usize| self.merges[at].0.job(self.merges[at].0.elements().start + number);
        Together::new(of.iter().map(job).collect())
    }

    /// Do all of job `number` on this thread.
    pub(crate) fn run(&self, desk: &mut Bench, number: u64, progress: &dyn Progress) -> Result<()> {
        let (_, store) = self.first();
        let open = self.open(number);
        let jobs = self.jobs(&open, number);
        desk.inputs.resize_with(jobs.reads().len(), Vec::new);
        for (read, buffer) in jobs.reads().iter().zip(&mut desk.inputs) {
            room::resize(buffer, bytes(&read.range))?;
            store.read(read, buffer, true)?;
            progress.advance(buffer.len() as u64);
        }
        desk.outputs.resize_with(open.len(), Vec::new);
        for (write, buffer) in jobs.writes().zip(&mut desk.outputs) {
            room::resize(buffer, bytes(&write.range))?;
        }
        let inputs: Vec<_> = desk.inputs.iter().map(Vec::as_slice).collect();
        let mut rooms: Vec<_> = desk.outputs.iter_mut().map(Vec::as_mut_slice).collect();
        let found = Timings::time(&store.timings.sum, || {
            InstructionSet::widest().run_together(&jobs, &inputs, &mut rooms)
        });
        desk.findings.resize_with(self.merges.len(), Findings::default);
        for (((at, found), write), buffer) in
            open.into_iter().zip(found).zip(jobs.writes()).zip(&desk.outputs)
        {
            match found {
                Ok(found) => {
                    self.merges[at].1.write(&write, buffer)?;
                    desk.findings[at].add(number, found);
                }
                Err(error) => {
                    let mut failure = lock(&self.failures[at].1);
                    if self.failures[at].0.fetch_min(number, Ordering::Relaxed) > number {
                        *failure = Some(error);
                    }
                }
            }
        }
        Ok(())
    }

    /// What each merge has found, by what each thread has.
    pub(crate) fn finish(self, desks: impl Iterator<Item = Bench>) -> Vec<Result<Findings>> {
        let mut found: Vec<Vec<Findings>> = self.merges.iter().map(|_| Vec::new()).collect();
        for desk in desks {
            found.iter_mut().zip(desk.findings).for_each(|(all, more)| all.push(more));
        }
        let of_each = |(found, (_, failure)): (_, (AtomicU64, Mutex<Option<Error>>))| {
            let failure = failure.into_inner().unwrap_or_else(PoisonError::into_inner);
            failure.map_or_else(|| Ok(joined(found)), Err)
        };
        found.into_iter().zip(self.failures).map(of_each).collect()
    }
}

#[cfg(feature = "gpu")]
impl Bench {
    /// Count what a device found in so many jobs of the merges `of` a lot of `all`.
    pub(crate) fn add_many(&mut self, all: usize, of: &[usize], jobs: u64, tallies: &[Tally]) {
        self.findings.resize_with(all, Findings::default);
        of.iter().zip(tallies).for_each(|(at, tally)| self.findings[*at].add_many(jobs, *tally));
    }
}

/// Run the jobs on elements of merges of the same files that go with each other; what each has found.
///
/// # Errors
/// What fails for all.
pub(crate) fn run(
    merges: &[(&Merge, &Store)],
    machine: Machine,
    progress: &dyn Progress,
) -> Result<Vec<Result<Findings>>> {
    let lot = Lot::new(merges);
    let (first, store) = lot.first();
    let written = |job: &Job<'_>| job.writes().map(|write| bytes(&write.range)).sum::<usize>() as u64;
    let needed = |job: &Job<'_>| job.bytes() + written(job) * merges.len() as u64;
    let largest = stretches(first).map(|(job, _)| needed(&job)).max().unwrap_or(0);
    let largest = usize::try_from(largest).unwrap_or(usize::MAX);
    let threads = machine.threads().min(budget(machine) / largest.max(1)).max(1);
    let ahead = Ahead::new(first, first.elements(), store, machine);
    let work = |desk: &mut Bench, number: u64, (): ()| -> Result<()> {
        let of_first = first.elements().start + number;
        let _done = ahead.as_ref().map(|ahead| Needed { ahead, number: of_first });
        if let Some(ahead) = &ahead {
            Timings::time(&store.timings.wait, || ahead.until(of_first, progress))?;
        }
        lot.run(desk, number, progress)
    };
    let desks = share((0..lot.count()).map(|number| (number, ())), threads, progress, work)?;
    Ok(lot.finish(desks.into_iter()))
}
