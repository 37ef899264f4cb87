//! Batches: consecutive jobs that a device computes at once, and the buffers in which it does.

use core::ops::Range;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;

use mwa::merge::{Job, Merge};
use mwa::{Result, Write};

use super::{Device, Layout, Slot, View};
use crate::engine::jobs::stretches;

/// Most bytes a batch reads of one input; larger ones gain nothing.
const BATCH_BYTES: u64 = 4 << 20;
/// Least bytes of a slot's buffers, which are there even if the CPU does all jobs.
const MIN_SLOT: u64 = 8 << 10;

/// How jobs on elements are gathered to batches.
pub(super) struct Cut {
    /// Most jobs of a batch.
    most: u64,
    /// Most bytes of one buffer.
    max_buffer: u64,
    /// How many sums are made of what a batch reads.
    sums: u64,
    /// Bytes of the slots that hold any of the batches; see [`Slot::new`].
    pub(super) input: u64,
    pub(super) output: u64,
}

impl Cut {
    /// The largest batches of which `slots` at a time fit into `memory` bytes, and each into buffers of `max_buffer` bytes;
    /// at least one job each. `layout_of` tells how the operands of so many `sums` lie.
    pub(super) fn fitting(
        merge: &Merge,
        sums: u64,
        slots: usize,
        memory: u64,
        max_buffer: u64,
        layout_of: impl Fn(&Range<u64>) -> Option<Layout>,
    ) -> Self {
        let elements = merge.elements();
        let of_one = |job: Job<'_>| job.reads().map(|read| read.range.end - read.range.start).max();
        let job_bytes = stretches(merge).filter_map(|(first, _)| of_one(first)).max().unwrap_or(1);
        let mut most = (BATCH_BYTES / job_bytes).max(1);
        loop {
            let mut cut = Self { most, max_buffer, sums, input: MIN_SLOT, output: MIN_SLOT };
            let mut fits_buffers = true;
            let mut first = elements.start;
            while first < elements.end {
                // of those that are alike all batches are as large as the first, but for the last, which may fit where no other does
                let alike = merge.alike(first);
                for number in [alike.start, alike.end - 1] {
                    let Some(layout) = layout_of(&cut.range(merge, number)) else { continue };
                    if cut.fits(&layout) {
                        cut.input = cut.input.max(layout.input_bytes());
                        cut.output = cut.output.max(layout.output_bytes());
                    } else {
                        fits_buffers = false;
                    }
                }
                first = alike.end;
            }
            let fits_memory = Slot::bytes(cut.input, cut.output, sums) * slots as u64 <= memory;
            // so many inputs that a small device does not hold a few elements of each are for the CPU
            if (fits_memory && fits_buffers) || most == 1 {
                return cut;
            }
            most /= 2;
        }
    }

    fn fits(&self, layout: &Layout) -> bool {
        layout.input_bytes().max(layout.output_bytes() * self.sums) <= self.max_buffer
    }

    /// Whether the slots do, if fewer sums are made than were thought of.
    pub(super) fn holds(&self, layout: &Layout) -> bool {
        layout.input_bytes() <= self.input && layout.output_bytes() <= self.output
    }

    /// The batch of job `number`.
    pub(super) fn range(&self, merge: &Merge, number: u64) -> Range<u64> {
        let alike = merge.alike(number);
        let start = number - (number - alike.start) % self.most;
        start..(start + self.most).min(alike.end)
    }

    /// How the jobs of a batch lie in a slot as one sum; `None` if the CPU does them.
    pub(super) fn layout(&self, merge: &Merge, batch: &Range<u64>) -> Option<Layout> {
        layout_of(merge, batch).filter(|layout| self.fits(layout))
    }

    /// All batches, in order.
    pub(super) fn batches<'a>(&'a self, merge: &'a Merge) -> impl Iterator<Item = Range<u64>> + 'a {
        let Range { start, end } = merge.elements();
        let next = move |from: u64| (from < end).then(|| self.range(merge, from));
        core::iter::successors(next(start), move |batch| next(batch.end))
    }
}

/// How jobs that are alike lie in a slot as one, if a device can do it.
pub(super) fn layout_of(merge: &Merge, jobs: &Range<u64>) -> Option<Layout> {
    let (first, last) = (merge.job(jobs.start), merge.job(jobs.end - 1));
    let (twin, output, operands) = first.twin()?;
    let bytes = write_of(&last).range.end - write_of(&first).range.start;
    Layout::new(twin, operands, output, bytes / output.bytes() as u64)
}

/// Where the result of a job on elements goes.
pub(super) fn write_of(job: &Job<'_>) -> Write {
    job.writes().next().expect("a job on elements writes them")
}

/// Buffers of a device, for one batch at a time.
pub(super) struct Seat {
    /// The place of the device among those that were opened.
    pub(super) place: usize,
    pub(super) device: Arc<Device>,
    pub(super) slot: Slot,
}

/// Where seats come back to.
pub(super) trait Seats: Send + Sync {
    /// A batch is done; its seat can be used again, if its device can.
    fn back(&self, seat: Option<Seat>);
}

/// A batch in flight; its seat is free when the last who needs it drops it.
pub(super) struct Batch {
    pub(super) jobs: Range<u64>,
    pub(super) layout: Layout,
    /// `None` only while it is dropped.
    seat: Option<Seat>,
    unstaged: AtomicU64,
    /// Whether the result is mapped.
    is_back: AtomicBool,
    seats: Arc<dyn Seats>,
}

impl Batch {
    pub(super) fn new(jobs: Range<u64>, layout: Layout, seat: Seat, seats: Arc<dyn Seats>) -> Self {
        let unstaged = AtomicU64::new(jobs.end - jobs.start);
        Self { jobs, layout, seat: Some(seat), unstaged, is_back: AtomicBool::new(false), seats }
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
        let view = slot.view(device, 0, write.range.start - start..write.range.end - start)?;
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
        self.seats.back(seat);
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
