//! How long all threads of a merge together have spent on each kind of work.

use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;
use std::sync::Arc;
use std::time::Instant;

/// Nanoseconds.
#[derive(Debug, Default)]
pub(crate) struct Timings {
    pub(crate) read: AtomicU64,
    pub(crate) hash: AtomicU64,
    pub(crate) stage: AtomicU64,
    pub(crate) sum: AtomicU64,
    /// from the submission of a job until its result is back
    pub(crate) device: Arc<AtomicU64>,
    pub(crate) write: AtomicU64,
    /// for something to do
    pub(crate) wait: AtomicU64,
    /// until what was written is on the disk
    pub(crate) sync: AtomicU64,
}

impl Timings {
    /// Do `work` and add its time to `total`.
    pub(crate) fn time<T>(total: &AtomicU64, work: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let done = work();
        Self::add(total, start.elapsed());
        done
    }

    pub(crate) fn add(total: &AtomicU64, time: Duration) {
        total.fetch_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// What was done, and how long.
    pub(crate) fn list(&self) -> Vec<(&'static str, Duration)> {
        let rows = [
            ("read", &self.read),
            ("hash", &self.hash),
            ("stage for a device", &self.stage),
            ("sum on the CPU", &self.sum),
            ("copy, sum and read back on a device", &self.device),
            ("write", &self.write),
            ("wait", &self.wait),
            ("bring to the disk", &self.sync),
        ];
        rows.map(|(name, total)| (name, Duration::from_nanos(total.load(Ordering::Relaxed)))).to_vec()
    }
}
