//! Who hears how far a merge is.

use core::time::Duration;

use mwa::{Error, ErrorKind};

/// Hears how far a merge is, and may stop it. `()` hears nothing.
pub trait Progress: Sync {
    /// Work begins: `bytes` of input will be read.
    fn start(&self, bytes: u64) {
        let _ = bytes;
    }
    /// So many more bytes were read and merged.
    fn advance(&self, bytes: u64) {
        let _ = bytes;
    }
    /// Nothing can be done before this is there, which may take a while: a file in a store.
    fn waiting(&self, what: &str) {
        let _ = what;
    }
    /// Something to know about this machine, not about the result: which device computes, and why.
    fn note(&self, note: &str) {
        let _ = note;
    }
    /// Work is done: kinds of work, and the time that all threads together have spent on each.
    fn timings(&self, timings: &[(&str, Duration)]) {
        let _ = timings;
    }
    /// Whether to stop as soon as possible, leaving nothing behind.
    fn stopped(&self) -> bool {
        false
    }
}

impl Progress for () {}

/// What a caller who stopped the work is told.
pub(crate) fn stopped() -> Error {
    Error::new(ErrorKind::Stopped, "stopped; nothing was written")
}

/// Hears nothing, but may stop the work: for what is over before a person looks.
pub(crate) struct Quiet<'a>(pub(crate) &'a dyn Progress);

impl Progress for Quiet<'_> {
    fn stopped(&self) -> bool {
        self.0.stopped()
    }
}
