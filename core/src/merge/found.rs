//! What jobs have found out: in memory, folded, and as numbers that cross a border.

use alloc::vec;
use alloc::vec::Vec;

use crate::error::{Error, ErrorKind, Result};
use crate::kernel::Tally;
use crate::method::product::Residual;

/// What a job has found out, for [`super::Merge::found`].
#[derive(Clone, Debug, PartialEq)]
pub enum Found {
    /// Of elements: how many became zero, or are not finite.
    Tally(Tally),
    /// The cosine between each input's beginning of a factor and the one before it; NaN where that says nothing.
    Cosines(Vec<f64>),
    /// The rank that a module needs.
    Rank(usize),
    /// How far a module is off; `None` where that says nothing.
    Residual(Option<Residual>),
    /// How far inputs lie apart, or what they have in common, pair by pair.
    Pairs(Vec<f64>),
    /// Counts that are not 0, each after its place.
    Counts(Vec<f64>),
    /// The least magnitude that counts.
    Least(f64),
}

impl Found {
    /// As numbers, for a border; the first says of which kind it is. [`Found::from_numbers`] is the inverse.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "counts of what is in memory")]
    pub fn to_numbers(&self) -> Vec<f64> {
        match self {
            Self::Tally(tally) => vec![0.0, tally.non_finite as f64, tally.underflowed as f64],
            Self::Cosines(cosines) => [&[1.0], cosines.as_slice()].concat(),
            Self::Rank(rank) => vec![2.0, *rank as f64],
            Self::Residual(None) => vec![3.0],
            Self::Residual(Some(Residual { error, norm, noise })) => {
                [&[3.0, *error, *norm], noise.as_slice()].concat()
            }
            Self::Pairs(pairs) => [&[4.0], pairs.as_slice()].concat(),
            Self::Counts(counts) => [&[5.0], counts.as_slice()].concat(),
            Self::Least(least) => vec![6.0, *least],
        }
    }

    /// The inverse of [`Found::to_numbers`].
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] for other numbers.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "they were counts")]
    pub fn from_numbers(numbers: &[f64]) -> Result<Self> {
        Ok(match *numbers {
            [0.0, non_finite, underflowed] => {
                Self::Tally(Tally { non_finite: non_finite as u64, underflowed: underflowed as u64 })
            }
            [1.0, ref cosines @ ..] => Self::Cosines(cosines.to_vec()),
            [2.0, rank] => Self::Rank(rank as usize),
            [3.0] => Self::Residual(None),
            [3.0, error, norm, a, b, c] => Self::Residual(Some(Residual { error, norm, noise: [a, b, c] })),
            [4.0, ref pairs @ ..] => Self::Pairs(pairs.to_vec()),
            [5.0, ref counts @ ..] if counts.len().is_multiple_of(2) => Self::Counts(counts.to_vec()),
            [6.0, least] => Self::Least(least),
            _ => return Err(Error::new(ErrorKind::Usage, "these numbers are not what a job has found")),
        })
    }
}

/// More places than counts have: 65,536 for each of a thousand tasks.
const MOST_COUNTS: usize = 1 << 26;

/// What many jobs have found out, folded: sums of elements take no room, however many there are.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    pub(super) tally: Tally,
    /// The jobs whose tallies are in `tally`.
    pub(super) tallied: u64,
    /// The jobs whose counts are in `counts`, by place.
    pub(super) counted: u64,
    pub(super) counts: Vec<u64>,
    pub(super) others: Vec<(u64, Found)>,
}

impl Findings {
    /// Take in what job `number` found.
    pub fn add(&mut self, number: u64, found: Found) {
        match found {
            Found::Tally(tally) => {
                self.tally = self.tally.plus(tally);
                self.tallied += 1;
            }
            Found::Counts(counts) => {
                self.counted += 1;
                counts.as_chunks().0.iter().for_each(|[place, count]| self.count(*place, *count));
            }
            other => self.others.push((number, other)),
        }
    }

    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "they were counts")]
    fn count(&mut self, place: f64, count: f64) {
        let place = place as usize;
        // what no job counts says nothing
        if place < MOST_COUNTS {
            self.counts.resize(self.counts.len().max(place + 1), 0);
            self.counts[place] += count as u64;
        }
    }

    /// Take in what so many jobs on elements found together, as where a device ran them at once.
    pub fn add_many(&mut self, jobs: u64, tally: Tally) {
        self.tally = self.tally.plus(tally);
        self.tallied += jobs;
    }

    /// As plain data, for another process: how many jobs on elements are told of, what they found together, and what others
    /// found, by number. [`Self::add_many`] and [`Self::add`] take it in.
    #[must_use]
    pub fn parts(&self) -> (u64, Tally, &[(u64, Found)]) {
        (self.tallied, self.tally, &self.others)
    }

    /// Take in what was found elsewhere.
    pub fn join(&mut self, other: Self) {
        self.tally = self.tally.plus(other.tally);
        self.tallied += other.tallied;
        self.counted += other.counted;
        self.counts.resize(self.counts.len().max(other.counts.len()), 0);
        self.counts.iter_mut().zip(other.counts).for_each(|(sum, count)| *sum += count);
        self.others.extend(other.others);
    }
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
            Found::Pairs(vec![1.5, 0.0]),
            Found::Counts(vec![3.0, 1.0, 70_000.0, 2.0]),
            Found::Least(0.5),
        ] {
            assert_eq!(Found::from_numbers(&found.to_numbers()).unwrap(), found);
        }
        assert!(Found::from_numbers(&[]).is_err() && Found::from_numbers(&[2.0]).is_err());
    }
}
