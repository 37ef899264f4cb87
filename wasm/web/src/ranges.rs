//! What jobs read and write, as JavaScript is told.

use alloc::vec::Vec;
use core::ops::Range;

use mwa::Read;

/// Ranges of files.
pub(crate) type Ranges = Vec<(usize, Range<u64>)>;

/// A job as `Merge.jobs` lists it; `numbers` are those of the files by input and file.
#[expect(clippy::cast_precision_loss, reason = "JavaScript's numbers are exact up to 2^53 bytes")]
pub(crate) fn flat(writes: &Ranges, reads: impl Iterator<Item = Read>, numbers: &[Vec<usize>]) -> Vec<f64> {
    let reads: Ranges = reads.map(|read| (numbers[read.input][read.file], read.range)).collect();
    let mut flat = Vec::new();
    for ranges in [writes, &reads] {
        flat.push(ranges.len() as f64);
        for (file, range) in ranges {
            flat.extend([*file as f64, range.start as f64, range.end as f64]);
        }
    }
    flat
}
