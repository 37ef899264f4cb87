//! Batches: consecutive jobs that a device computes at once, and the buffers in which it does.

use core::ops::Range;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::Arc;

use mwa::{Job, Read, Result, Write};

use super::stream::Own;
use super::{Device, Layout, Slot, View};
use crate::engine::board::Board;

/// Most bytes a batch reads of one input; larger ones gain nothing.
pub(super) const BATCH_BYTES: usize = 4 << 20;
/// Least bytes of a slot's buffers, which are there even if the CPU does all jobs.
const MIN_SLOT: u64 = 8 << 10;

/// A plan's jobs, cut into batches.
pub(super) struct Cut {
    pub(super) batches: Vec<Planned>,
    /// Bytes of the slots that hold any of them; see [`Slot::new`].
    pub(super) input: u64,
    pub(super) output: u64,
}

/// Consecutive jobs.
pub(super) struct Planned {
    pub(super) jobs: Range<usize>,
    /// How they lie in a slot as one sum; `None` if the CPU does them.
    pub(super) layout: Option<Layout>,
}

impl Cut {
    /// The largest batches of which `slots` at a time fit into `memory` bytes, and each into buffers of `max_buffer` bytes;
    /// at least one job each. Jobs read at most `job_bytes` of an input.
    pub(super) fn fitting(
        jobs: &[Job<'_>],
        job_bytes: usize,
        slots: usize,
        memory: u64,
        max_buffer: u64,
    ) -> Self {
        let mut most = (BATCH_BYTES / job_bytes).max(1);
        loop {
            let mut cut = Self::new(jobs, most);
            let fits_memory = Slot::bytes(cut.input, cut.output) * slots as u64 <= memory;
            if fits_memory && cut.input.max(cut.output) <= max_buffer {
                return cut;
            }
            if most == 1 {
                // so many inputs that a small device does not hold a few elements of each
                for batch in &mut cut.batches {
                    batch
                        .layout
                        .take_if(|layout| layout.input_bytes().max(layout.output_bytes()) > max_buffer);
                }
                return cut.measured();
            }
            most /= 2;
        }
    }

    fn new(jobs: &[Job<'_>], most: usize) -> Self {
        let mut batches = Vec::new();
        let mut first = 0;
        while first < jobs.len() {
            let pairs = jobs[first..].windows(2).take(most - 1);
            let end = first + 1 + pairs.take_while(|pair| joins(&pair[0], &pair[1])).count();
            batches.push(Planned { jobs: first..end, layout: layout(&jobs[first..end]) });
            first = end;
        }
        Self { batches, input: 0, output: 0 }.measured()
    }

    fn measured(self) -> Self {
        let layouts = || self.batches.iter().filter_map(|batch| batch.layout.as_ref());
        let most = |bytes: fn(&Layout) -> u64| layouts().map(bytes).max().unwrap_or(0).max(MIN_SLOT);
        let (input, output) = (most(Layout::input_bytes), most(Layout::output_bytes));
        Self { input, output, ..self }
    }
}

/// Whether a job goes on where another ends, in the output and in every input.
fn joins(a: &Job<'_>, b: &Job<'_>) -> bool {
    let follows = |a: Read, b: Read| (a.input, a.file, a.range.end) == (b.input, b.file, b.range.start);
    let (to, next) = (a.write(), b.write());
    let same_sum = match (a.sum(), b.sum()) {
        (Some((a_dtype, a)), Some((b_dtype, b))) => a_dtype == b_dtype && a.eq(b),
        _ => false,
    };
    same_sum
        && (to.file, to.range.end) == (next.file, next.range.start)
        && a.reads().zip(b.reads()).all(|(a, b)| follows(a, b))
}

fn layout(jobs: &[Job<'_>]) -> Option<Layout> {
    let (output, operands) = jobs[0].sum()?;
    let elements = |job: &Job<'_>| (job.write().range.end - job.write().range.start) / output.bytes() as u64;
    Layout::new(operands, output, jobs.iter().map(elements).sum())
}

/// Buffers of a device, for one batch at a time.
pub(super) struct Seat {
    /// The place of the device among those that were opened.
    pub(super) place: usize,
    pub(super) device: Arc<Device>,
    pub(super) slot: Slot,
}

/// A batch in flight; its seat is free when the last who needs it drops it.
pub(super) struct Batch {
    pub(super) jobs: Range<usize>,
    pub(super) layout: Layout,
    /// `None` only while it is dropped.
    seat: Option<Seat>,
    unstaged: AtomicUsize,
    /// Whether the result is mapped.
    is_back: AtomicBool,
    board: Arc<Board<Own>>,
}

impl Batch {
    pub(super) fn new(jobs: Range<usize>, layout: Layout, seat: Seat, board: &Arc<Board<Own>>) -> Self {
        let unstaged = AtomicUsize::new(jobs.len());
        let board = Arc::clone(board);
        Self { jobs, layout, seat: Some(seat), unstaged, is_back: AtomicBool::new(false), board }
    }

    pub(super) fn seat(&self) -> &Seat {
        self.seat.as_ref().expect("it is not being dropped")
    }

    /// One more job is staged; whether it was the last.
    pub(super) fn staged(&self) -> bool {
        self.unstaged.fetch_sub(1, Ordering::AcqRel) == 1
    }

    /// The result can be read.
    pub(super) fn came_back(&self) {
        self.is_back.store(true, Ordering::Relaxed);
    }

    /// The bytes of one job's result, where the device put them; `start` is where the batch begins in the output.
    pub(super) fn result(self: &Arc<Self>, start: u64, write: &Write) -> Result<Written> {
        let Seat { device, slot, .. } = self.seat();
        let view = slot.view(device, write.range.start - start..write.range.end - start)?;
        Ok(Written { view, _batch: Arc::clone(self) })
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        let seat = self.seat.take().filter(|seat| seat.device.check().is_ok());
        if let Some(seat) = &seat
            && *self.is_back.get_mut()
        {
            seat.slot.recycle();
        }
        self.board.change(|state| state.own.finish(seat));
    }
}

/// A job's result in the memory of a device, which stays there until this is dropped.
pub(super) struct Written {
    // dropped before the batch, which unmaps it
    view: View,
    _batch: Arc<Batch>,
}

impl AsRef<[u8]> for Written {
    fn as_ref(&self) -> &[u8] {
        self.view.as_ref()
    }
}
