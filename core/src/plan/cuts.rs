//! Where jobs begin: a plan's segments cut into numbered pieces, so that any number finds its job without a list of jobs.

use alloc::vec::Vec;
use core::ops::Range;

use super::{Job, Plan, Segment};

/// How the segments of a plan are cut into jobs.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Cuts {
    /// Most bytes that a job reads of one input; at least one element is read.
    max_bytes: usize,
    /// The number of each segment's first job, and at the end the number of all.
    firsts: Vec<u64>,
}

impl Cuts {
    pub(crate) fn new(plan: &Plan, max_bytes: usize) -> Self {
        let mut firsts = Vec::with_capacity(plan.segments.len() + 1);
        let mut count = 0;
        for segment in &plan.segments {
            firsts.push(count);
            count += segment.elements.div_ceil(step(segment, max_bytes));
        }
        firsts.push(count);
        Self { max_bytes, firsts }
    }

    /// How many jobs there are.
    pub(crate) fn count(&self) -> u64 {
        self.firsts.last().copied().unwrap_or(0)
    }

    /// The job with a number below [`Cuts::count`]; jobs are numbered in the order of the output.
    pub(crate) fn job<'a>(&self, plan: &'a Plan, number: u64) -> Job<'a> {
        let at = self.segment(number);
        let segment = &plan.segments[at];
        let step = step(segment, self.max_bytes);
        let first = (number - self.firsts[at]) * step;
        Job { plan, segment, first, count: step.min(segment.elements - first) }
    }

    /// The jobs that are computed alike and lie side by side with this one in every file.
    pub(crate) fn alike(&self, number: u64) -> Range<u64> {
        let at = self.segment(number);
        self.firsts[at]..self.firsts[at + 1]
    }

    /// The segment of a job.
    pub(crate) fn segment(&self, number: u64) -> usize {
        self.firsts.partition_point(|first| *first <= number) - 1
    }
}

/// The elements of a job.
fn step(segment: &Segment, max_bytes: usize) -> u64 {
    let widest = segment.operands.iter().map(|place| place.size).max().unwrap_or(1);
    (max_bytes / widest).max(1) as u64
}

impl Plan {
    /// Bytes that all jobs together read.
    pub(crate) fn bytes(&self) -> u64 {
        let bytes = |segment: &Segment| -> u64 {
            segment.operands.iter().map(|place| place.size as u64 * segment.elements).sum()
        };
        self.segments.iter().map(bytes).sum()
    }
}
