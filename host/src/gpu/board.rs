//! What is to be done, where threads and devices leave it for each other.

use std::sync::{Arc, Condvar, Mutex};

use mwa::Result;

use crate::pass::lock;

/// The state, and a bell.
pub(super) struct Board {
    pub(super) state: Mutex<State>,
    pub(super) changed: Condvar,
}

pub(super) struct State {
    /// The job and the piece of it to be staged next.
    pub(super) next_input: (usize, usize),
    /// The job and the piece of it to be written next.
    pub(super) next_output: (usize, usize),
    /// Jobs from this one on are not begun: an earlier one has failed.
    pub(super) limit: usize,
    pub(super) slots: Vec<Phase>,
}

/// Where the job of a slot is.
pub(super) enum Phase {
    Free,
    /// So many pieces are not yet staged.
    Filling(usize),
    Running,
    /// The device is done, or has failed.
    Back(Result<()>),
    /// A thread looks at the result, or makes it.
    Checking,
    /// So many pieces are not yet written; the bytes are the CPU's, or else in the slot.
    Writing(usize, Option<Arc<Vec<u8>>>),
}

/// What a thread does next.
pub(super) enum Task {
    /// Read, stage and hash a piece of a job.
    Stage(usize, usize),
    /// Do all of a job.
    Sum(usize),
    /// Look at what came back.
    Check(usize, Result<()>),
    /// Write and hash a piece of a job's result.
    Write(usize, usize, Option<Arc<Vec<u8>>>),
}

impl Board {
    pub(super) fn new(slots: usize) -> Self {
        let state = State {
            next_input: (0, 0),
            next_output: (0, 0),
            limit: usize::MAX,
            slots: (0..slots).map(|_| Phase::Free).collect(),
        };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }

    pub(super) fn put(&self, job: usize, phase: Phase) {
        let mut state = lock(&self.state);
        let slot = job % state.slots.len();
        state.slots[slot] = phase;
        drop(state);
        self.changed.notify_all();
    }
}
