//! What all who run jobs need to know of them.

use core::ops::Range;

use mwa::merge::{Findings, Job, Merge};

/// What all threads found.
pub(crate) fn joined(found: Vec<Findings>) -> Findings {
    found.into_iter().fold(Findings::default(), |mut all, more| {
        all.join(more);
        all
    })
}

/// The first and the last job of each run of jobs that are computed alike and lie side by side, in order.
pub(crate) fn stretches(merge: &Merge) -> impl Iterator<Item = (Job<'_>, Job<'_>)> {
    let mut rest = merge.elements();
    core::iter::from_fn(move || {
        let alike = merge.alike(rest.start);
        (!rest.is_empty()).then(|| {
            rest.start = alike.end;
            (merge.job(alike.start), merge.job(alike.end - 1))
        })
    })
}

/// How many bytes a range of a job has.
pub(crate) fn bytes(range: &Range<u64>) -> usize {
    usize::try_from(range.end - range.start).expect("jobs are cut to fit memory")
}
