//! The jobs of a plan by number: any of them is found without counting through those before it.

use alloc::vec::Vec;
use core::ops::Range;

use super::{Cursor, Job, Plan, Segment};

/// A plan cut into jobs. It holds a number for each run of tensors, none for each job, of which there may be millions.
#[derive(Clone, Debug)]
pub struct Jobs<'a> {
    plan: &'a Plan,
    max_bytes: usize,
    /// The number of the job after the last of each segment.
    ends: Vec<u64>,
}

impl Segment {
    /// How many elements a job takes that reads at most so many bytes of any one input; at least one.
    pub(super) fn step(&self, max_bytes: usize) -> u64 {
        let widest = self.operands.iter().map(|place| place.size).max().unwrap_or(1);
        (max_bytes / widest).max(1) as u64
    }
}

impl<'a> Jobs<'a> {
    pub(super) fn new(plan: &'a Plan, max_bytes: usize) -> Self {
        let mut end = 0;
        let count = |segment: &Segment| {
            end += segment.elements.div_ceil(segment.step(max_bytes));
            end
        };
        Self { plan, max_bytes, ends: plan.segments.iter().map(count).collect() }
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.ends.last().copied().unwrap_or(0)
    }

    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The numbers of the jobs that are computed as this one is, and go on where another of them ends; none after the last.
    #[must_use]
    pub fn alike(&self, number: u64) -> Range<u64> {
        let segment = self.ends.partition_point(|end| *end <= number);
        self.start(segment)..self.ends.get(segment).copied().unwrap_or(self.len())
    }

    /// The number of a segment's first job.
    fn start(&self, segment: usize) -> u64 {
        if segment == 0 { 0 } else { self.ends[segment - 1] }
    }

    /// The job of this number, in the order of the output; `None` after the last.
    #[must_use]
    pub fn job(&self, number: u64) -> Option<Job<'a>> {
        let segment = self.ends.partition_point(|end| *end <= number);
        let first = (number - self.start(segment)) * self.plan.segments.get(segment)?.step(self.max_bytes);
        self.plan.job(Cursor { segment, first }, self.max_bytes).map(|(job, _)| job)
    }
}
