//! Jobs of several merges of the same files on GPUs: what they read is staged once, and each merge's sums are made of it in turn.

use core::ops::Range;
use core::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;
use std::time::Instant;

use mwa::kernel::Twin;
use mwa::merge::{Findings, Merge, Together};
use mwa::{Result, Write};

use super::batch::Cut;
use super::open::{GUARANTEED_BUFFER, open};
use super::stream::half;
use super::{Device, Layout, Slot};
use crate::engine::device::Gpus;
use crate::engine::jobs::bytes;
use crate::engine::pool::share;
use crate::engine::timings::Timings;
use crate::engine::together::{Bench, Lot};
use crate::io::room;
use crate::io::store::Store;
use crate::options::Machine;
use crate::progress::Progress;

/// Run the jobs on elements of merges that go with each other, on the GPUs wanted; what each has found.
///
/// # Errors
/// What fails for all, as a device does.
pub(crate) fn run(
    merges: &[(&Merge, &Store)],
    machine: Machine,
    wanted: Gpus,
    progress: &dyn Progress,
) -> Result<Vec<Result<Findings>>> {
    let lot = Lot::new(merges);
    let (first, _) = lot.first();
    let devices = open(&merges.iter().map(|(merge, _)| *merge).collect::<Vec<_>>(), Some(wanted))?;
    let threads = machine.threads();
    let begin = first.elements().start;
    let all: Vec<_> = (0..merges.len()).collect();
    let layout = |batch: &Range<u64>| {
        let [first, last] = [batch.start, batch.end - 1].map(|number| lot.jobs(&all, number - begin));
        sums(&first, &last).map(|(shared, _)| shared)
    };
    let cut = Cut::fitting(first, merges.len() as u64, threads, half(machine), GUARANTEED_BUFFER, layout);
    let next = AtomicUsize::new(0);
    let work = |desk: &mut Desk, _: u64, numbers: Range<u64>| -> Result<()> {
        let numbers = numbers.start - begin..numbers.end - begin;
        let open = lot.open(numbers.start);
        let jobs: Vec<_> = numbers.clone().map(|number| lot.jobs(&open, number)).collect();
        let sums = sums(&jobs[0], &jobs[jobs.len() - 1]).filter(|(shared, _)| cut.holds(shared));
        if let Some((shared, sums)) = sums {
            let (device, slot) = desk.seat.get_or_insert_with(|| {
                let device = Arc::clone(&devices[next.fetch_add(1, Ordering::Relaxed) % devices.len()]);
                let slot = Slot::new(&device, cut.input, cut.output, merges.len() as u64);
                (device, slot)
            });
            let batch = Batch { lot: &lot, open: &open, jobs: &jobs, shared: &shared, sums: &sums };
            if batch.run(device, slot, &mut desk.buffer, &mut desk.bench, progress)? {
                return Ok(());
            }
        }
        // what no device sums, and what is wrong with the data
        numbers.into_iter().try_for_each(|number| lot.run(&mut desk.bench, number, progress))
    };
    let batches = cut.batches(first).enumerate().map(|(number, batch)| (number as u64, batch));
    let desks = share(batches, threads, progress, work)?;
    Ok(lot.finish(desks.into_iter().map(|desk| desk.bench)))
}

/// What a thread keeps between batches.
#[derive(Default)]
struct Desk {
    bench: Bench,
    seat: Option<(Arc<Device>, Slot)>,
    /// What was read and is to be staged.
    buffer: Vec<u8>,
}

/// How what the jobs of a batch read lies in a slot, and the sum of it that each merge makes; nothing if the CPU does them.
fn sums(first: &Together<'_>, last: &Together<'_>) -> Option<(Layout, Vec<Layout>)> {
    let sums = first.sums()?;
    let bytes = last.writes().next()?.range.end - first.writes().next()?.range.start;
    let elements = bytes / sums.output.bytes() as u64;
    let inputs = sums.inputs.iter().map(|dtype| (*dtype, 0.0));
    let shared = Layout::new(Twin::WeightedSum, inputs, sums.output, elements)?;
    let each = sums.columns.iter().map(|column| shared.of(column.iter().copied())).collect::<Option<_>>()?;
    Some((shared, each))
}

/// Jobs that lie side by side, of the merges that have not failed.
struct Batch<'a> {
    lot: &'a Lot<'a>,
    open: &'a [usize],
    jobs: &'a [Together<'a>],
    shared: &'a Layout,
    sums: &'a [Layout],
}

impl Batch<'_> {
    /// Read, sum and write; whether every result was good.
    fn run(
        &self,
        device: &Device,
        slot: &Slot,
        buffer: &mut Vec<u8>,
        bench: &mut Bench,
        progress: &dyn Progress,
    ) -> Result<bool> {
        let (_, store) = self.lot.first();
        let first = &self.jobs[0];
        for jobs in self.jobs {
            for (k, (read, first)) in jobs.reads().iter().zip(first.reads()).enumerate() {
                room::resize(buffer, bytes(&read.range))?;
                store.read(read, buffer, true)?;
                progress.advance(buffer.len() as u64);
                let offset = read.range.start - first.range.start;
                Timings::time(&store.timings.stage, || slot.write(device, self.shared, k, offset, buffer))?;
            }
        }
        let start = Instant::now();
        pollster::block_on(slot.run(device, self.sums))?;
        Timings::add(&store.timings.device, start.elapsed());
        let tally = |(at, layout)| slot.tally(device, layout, at);
        let tallies = self.sums.iter().enumerate().map(tally).collect::<Result<Vec<_>>>()?;
        let is_good = first.accept(&tallies);
        if is_good {
            for jobs in self.jobs {
                for (at, (write, first)) in jobs.writes().zip(first.writes()).enumerate() {
                    self.write(device, slot, at, &write, first.range.start)?;
                }
            }
            bench.add_many(self.lot.merges.len(), self.open, self.jobs.len() as u64, &tallies);
        }
        slot.recycle();
        Ok(is_good)
    }

    /// Write the result of sum `at` where it belongs; `first` is where the batch begins in that output.
    fn write(&self, device: &Device, slot: &Slot, at: usize, write: &Write, first: u64) -> Result<()> {
        let view = slot.view(device, at, write.range.start - first..write.range.end - first)?;
        self.lot.merges[self.open[at]].1.write(write, view.as_ref())
    }
}
