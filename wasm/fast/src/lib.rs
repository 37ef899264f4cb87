//! The loops of the component and the core module, compiled for speed while the rest is compiled for size.
#![no_std]
#![forbid(unsafe_code)]

use mwa::border::Loops;
use mwa::kernel::Tally;
use mwa::merge::{Bytes, Found};
use mwa::{Job, ModuleJob, Reader, Residual, Result};

/// All of them.
pub const LOOPS: Loops = Loops { run, residual, rank_for, merge };

#[inline(never)]
fn run(job: &Job<'_>, inputs: &[&[u8]], out: &mut [u8]) -> Result<Tally> {
    job.run(inputs, out)
}

#[inline(never)]
fn residual(job: &ModuleJob<'_>, max_bytes: usize, read: &mut Reader<'_>) -> Result<Option<Residual>> {
    job.residual(max_bytes, read)
}

#[inline(never)]
fn rank_for(job: &ModuleJob<'_>, inputs: &[&[u8]], energy: f64) -> Result<usize> {
    job.rank_for(inputs, energy)
}

#[inline(never)]
fn merge(job: &ModuleJob<'_>, inputs: &[&[u8]], outputs: &mut [&mut [u8]]) -> Result<Residual> {
    job.merge(inputs, outputs)
}

/// Run a job of a merge.
///
/// # Errors
/// As [`mwa::merge::Job::run`].
#[inline(never)]
pub fn run_job(job: &mwa::merge::Job<'_>, bytes: Bytes<'_, '_>, outputs: &mut [&mut [u8]]) -> Result<Found> {
    job.run(bytes, outputs)
}
