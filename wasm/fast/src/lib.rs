//! The loops of the component, the core module and the web module, compiled for speed while the rest is compiled for size.
#![no_std]
#![forbid(unsafe_code)]

use mwa::kernel::Tally;
use mwa::merge::{Bytes, Found};
use mwa::{ModuleJob, Reader, Residual, Result};

/// See [`mwa::merge::Job::run`].
///
/// # Errors
/// As there.
#[inline(never)]
pub fn run(job: &mwa::merge::Job<'_>, bytes: Bytes<'_, '_>, outputs: &mut [&mut [u8]]) -> Result<Found> {
    job.run(bytes, outputs)
}

/// The loops by themselves, for a host that runs jobs of several kinds each in its own way.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::type_complexity, reason = "they are the signatures of the methods named")]
pub struct Loops {
    /// [`mwa::Job::run`].
    pub run: fn(&mwa::Job<'_>, &[&[u8]], &mut [u8]) -> Result<Tally>,
    /// [`ModuleJob::residual`].
    pub residual: fn(&ModuleJob<'_>, usize, &mut Reader<'_>) -> Result<Option<Residual>>,
    /// [`ModuleJob::rank_for`].
    pub rank_for: fn(&ModuleJob<'_>, &[&[u8]], f64) -> Result<usize>,
    /// [`ModuleJob::merge`].
    pub merge: fn(&ModuleJob<'_>, &[&[u8]], &mut [&mut [u8]]) -> Result<Residual>,
}

/// All of them.
pub const LOOPS: Loops = Loops { run: elements, residual, rank_for, merge };

#[inline(never)]
fn elements(job: &mwa::Job<'_>, inputs: &[&[u8]], out: &mut [u8]) -> Result<Tally> {
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
