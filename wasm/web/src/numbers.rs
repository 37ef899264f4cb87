//! Jobs and what they have found, as numbers for JavaScript, which go from thread to thread.

use alloc::vec;
use alloc::vec::Vec;

use mwa::kernel::Tally;
use mwa::merge::{Found, Job};
use mwa::{Error, ErrorKind, Residual, Result};

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

/// A finding as numbers; the first says of which kind it is.
#[expect(clippy::cast_precision_loss, reason = "counts of what is in memory")]
pub(crate) fn numbers_of(found: &Found) -> Vec<f64> {
    match found {
        Found::Tally(tally) => vec![0.0, tally.non_finite as f64, tally.underflowed as f64],
        Found::Cosines(cosines) => [&[1.0], cosines.as_slice()].concat(),
        Found::Rank(rank) => vec![2.0, *rank as f64],
        Found::Residual(None) => vec![3.0],
        Found::Residual(Some(Residual { error, norm, noise })) => {
            [&[3.0, *error, *norm], noise.as_slice()].concat()
        }
    }
}

/// The inverse of [`numbers_of`].
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "they were counts")]
pub(crate) fn found_in(numbers: &[f64]) -> Result<Found> {
    Ok(match *numbers {
        [0.0, non_finite, underflowed] => {
            Found::Tally(Tally { non_finite: non_finite as u64, underflowed: underflowed as u64 })
        }
        [1.0, ref cosines @ ..] => Found::Cosines(cosines.to_vec()),
        [2.0, rank] => Found::Rank(rank as usize),
        [3.0] => Found::Residual(None),
        [3.0, error, norm, a, b, c] => Found::Residual(Some(Residual { error, norm, noise: [a, b, c] })),
        _ => return Err(Error::new(ErrorKind::Usage, "these numbers are not what a job has found")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_come_back_as_they_went() {
        let residual = Residual { error: 0.5, norm: 2.0, noise: [0.25, 0.125, 1.0] };
        for found in [
            Found::Tally(Tally { non_finite: 1, underflowed: 2 }),
            Found::Cosines(vec![0.25, 1.0]),
            Found::Cosines(Vec::new()),
            Found::Rank(7),
            Found::Residual(None),
            Found::Residual(Some(residual)),
        ] {
            assert_eq!(found_in(&numbers_of(&found)).unwrap(), found);
        }
        assert!(found_in(&[]).is_err() && found_in(&[2.0]).is_err());
    }
}
