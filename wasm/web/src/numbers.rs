//! Jobs as numbers for JavaScript, which go from thread to thread.

use alloc::vec;
use alloc::vec::Vec;

use mwa::merge::Job;

/// What a job writes and reads: how many writes follow, each write's output file, start and end, how many reads follow, and
/// each read's file number, start and end. `numbers` are those of the files by input and file.
#[expect(clippy::cast_precision_loss, reason = "JavaScript's numbers are exact up to 2^53 bytes")]
pub(crate) fn flat(job: &Job<'_>, numbers: &[Vec<usize>]) -> Vec<f64> {
    let mut flat = vec![job.writes().len() as f64];
    for write in job.writes() {
        flat.extend([write.file as f64, write.range.start as f64, write.range.end as f64]);
    }
    flat.push(job.reads().len() as f64);
    for read in job.reads() {
        let number = numbers[read.input][read.file];
        flat.extend([number as f64, read.range.start as f64, read.range.end as f64]);
    }
    flat
}
