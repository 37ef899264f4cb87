//! Jobs of several merges of the same inputs with other weights: what they read is read once for all of them.

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;

use super::Merge;
use super::found::Found;
use super::job::{Job, Work};
use crate::dtype::Float;
use crate::error::{Error, Result};
use crate::kernel::{Column, Shared, Tally, weighted_sums};
use crate::plan::{Read, Write};

/// The sums that jobs of several merges are.
#[derive(Clone, Debug, PartialEq)]
pub struct Sums {
    /// What the results are rounded to.
    pub output: Float,
    /// The dtypes of [`Together::reads`].
    pub inputs: Vec<Float>,
    /// Of each job, which of the reads it sums, in the order of the sum, and with which weights.
    pub columns: Vec<Box<Column>>,
}

/// A job of each of several merges, about the same elements.
#[derive(Debug)]
pub struct Together<'a> {
    jobs: Vec<Job<'a>>,
    reads: Vec<Read>,
    /// Of each job, which of `reads` it reads, in its order.
    places: Vec<Vec<usize>>,
}

impl Merge {
    /// Whether the jobs of [`Merge::elements`] of both are about the same elements, one by one, so that they may be done together.
    #[must_use]
    pub fn goes_with(&self, other: &Self) -> bool {
        let (Some(own), Some(others)) = (&self.laid, &other.laid) else { return false };
        let are_made = self.copied.is_none() && other.copied.is_none();
        are_made && own.plan.is_cut_like(&others.plan) && own.cuts == others.cuts
    }
}

impl<'a> Together<'a> {
    /// Jobs with the same place among [`Merge::elements`] of merges that [go](Merge::goes_with) with each other.
    #[must_use]
    pub fn new(jobs: Vec<Job<'a>>) -> Self {
        let mut reads: Vec<Read> = Vec::new();
        // most merges read of all inputs, in their order
        let longest = jobs.iter().max_by_key(|job| job.reads().len());
        reads.extend(longest.into_iter().flat_map(|job| job.reads()));
        let mut place = |read: Read| {
            reads.iter().position(|known| *known == read).unwrap_or_else(|| {
                reads.push(read);
                reads.len() - 1
            })
        };
        let places = jobs.iter().map(|job| job.reads().map(&mut place).collect()).collect();
        Self { jobs, reads, places }
    }

    /// What must be read, for all of them.
    #[must_use]
    pub fn reads(&self) -> &[Read] {
        &self.reads
    }

    /// Where the result of each goes, in the files of its own merge.
    pub fn writes(&self) -> impl ExactSizeIterator<Item = Write> + '_ {
        self.jobs.iter().map(|job| job.writes().next().expect("a job on elements writes"))
    }

    /// Do them: `inputs` are the bytes of [`Together::reads`], `outputs` those of [`Together::writes`]. The bytes are those that
    /// each would give by itself.
    ///
    /// Always inlined; see [`Job::run`].
    ///
    /// # Errors
    /// Of each as [`Job::run`].
    ///
    /// # Panics
    /// If the slices do not have the promised lengths.
    #[cfg_attr(test, inline(never))]
    #[cfg_attr(not(test), inline(always))]
    pub fn run(&self, inputs: &[&[u8]], outputs: &mut [&mut [u8]]) -> Vec<Result<Found>> {
        let own = |places: &[usize]| places.iter().map(|at| inputs[*at]).collect::<Vec<_>>();
        if let Some(sums) = self.sums() {
            let columns: Vec<&Column> = sums.columns.iter().map(|column| &**column).collect();
            let shared: Vec<Shared<'_>> = sums.inputs.into_iter().zip(inputs.iter().copied()).collect();
            let tallies = weighted_sums(&shared, &columns, sums.output, outputs);
            let each = self.jobs.iter().zip(&self.places).zip(tallies).zip(outputs);
            return each
                .map(|(((job, places), tally), out)| match job.accepts(tally) {
                    true => Ok(Found::Tally(tally)),
                    false => Err(job.refused(&own(places), out)),
                })
                .collect();
        }
        let each = self.jobs.iter().zip(&self.places).zip(outputs);
        each.map(|((job, places), out)| job.one_by_one(&own(places), out)).collect()
    }

    /// The sums that they are, for a device; nothing for what is compared and copied.
    #[must_use]
    pub fn sums(&self) -> Option<Sums> {
        let (output, _) = self.jobs.first()?.sum()?;
        let mut inputs = vec![output; self.reads.len()];
        let mut columns = Vec::with_capacity(self.jobs.len());
        for (job, places) in self.jobs.iter().zip(&self.places) {
            let (_, operands) = job.sum()?;
            let mut column = Vec::with_capacity(places.len());
            for ((float, weight), &at) in operands.zip(places) {
                inputs[at] = float;
                column.push((at, weight));
            }
            columns.push(column.into_boxed_slice());
        }
        Some(Sums { output, inputs, columns })
    }

    /// Whether every job [accepts](Job::accepts) what a device counted in its sum.
    #[must_use]
    pub fn accept(&self, tallies: &[Tally]) -> bool {
        self.jobs.iter().zip(tallies).all(|(job, tally)| job.accepts(*tally))
    }
}

impl Job<'_> {
    /// Elements that are no sum.
    fn one_by_one(&self, inputs: &[&[u8]], out: &mut [u8]) -> Result<Found> {
        match &self.0 {
            Work::Elements(job) => job.run_reference(inputs, out).map(Found::Tally),
            _ => unreachable!("only elements go together"),
        }
    }

    /// Why results that are not accepted are not.
    #[cold]
    fn refused(&self, inputs: &[&[u8]], out: &[u8]) -> Error {
        match &self.0 {
            Work::Elements(job) => job.refused(inputs, out),
            _ => unreachable!("only sums are tallied"),
        }
    }
}
