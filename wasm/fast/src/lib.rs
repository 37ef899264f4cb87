//! The loops of the component, the core module and the web module, compiled for speed while the rest is compiled for size.
#![no_std]
#![forbid(unsafe_code)]

use mwa::Result;
use mwa::merge::{Bytes, Found, Job};

/// See [`mwa::merge::Job::run`].
///
/// # Errors
/// As there.
#[inline(never)]
pub fn run(job: &Job<'_>, bytes: Bytes<'_, '_>, outputs: &mut [&mut [u8]]) -> Result<Found> {
    job.run(bytes, outputs)
}
