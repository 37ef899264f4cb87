//! Jobs of several merges of the same files on GPUs: what they read is staged once, and each merge's sums are made of it in turn.

use core::ops::Range;
use core::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;
use std::time::Instant;

use mwa::merge::{Findings, Merge, Together};
use mwa::{Result, Write};

use super::batch::{Cut, layout_of};
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
    // of the first, `number`s of elements are counted from where they begin
    let begin = first.elements().start;
    let all: Vec<_> = (0..merges.len()).collect();
    let layout = |batch: &Range<u64>| sums(&lot, &all, batch, begin).map(|(shared, _)| shared);
    let cut = Cut::fitting(first, merges.len() as u64, threads, half(machine), GUARANTEED_BUFFER, layout);
    let next = AtomicUsize::new(0);
    let work = |desk: &mut Desk, _: u64, batch: Range<u64>| -> Result<()> {
        let open = lot.open(batch.start - begin);
        let sums = sums(&lot, &open, &batch, begin).filter(|(shared, _)| cut.holds(shared));
        if let Some((shared, sums)) = sums {
            let (device, slot) = desk.seat.get_or_insert_with(|| {
                let device = Arc::clone(&devices[next.fetch_add(1, Ordering::Relaxed) % devices.len()]);
                let slot = Slot::new(&device, cut.input, cut.output, merges.len() as u64);
                (device, slot)
            });
            let batch = Batch { lot: &lot, open: &open, jobs: batch.clone(), begin };
            if batch.run(device, slot, (&shared, &sums), &mut desk.buffer, &mut desk.bench, progress)? {
                return Ok(());
            }
        }
        // what no device sums, and what is wrong with the data
        batch.into_iter().try_for_each(|number| lot.run(&mut desk.bench, number - begin, progress))
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

/// How what the jobs of a batch read lies in a slot, and the sum of it that each of the merges `open` makes; nothing if the CPU does
/// them.
fn sums(lot: &Lot<'_>, open: &[usize], batch: &Range<u64>, begin: u64) -> Option<(Layout, Vec<Layout>)> {
    let jobs = lot.jobs(open, batch.start - begin);
    let sums = jobs.sums()?;
    let elements = layout_of(lot.first().0, batch)?.elements();
    let shared = Layout::new(sums.inputs.iter().map(|dtype| (*dtype, 0.0)), sums.output, elements)?;
    let each = sums.columns.iter().map(|column| shared.of(column.iter().copied())).collect::<Option<_>>()?;
    Some((shared, each))
}

/// Jobs that lie side by side, of the merges that have not failed.
struct Batch<'a> {
    lot: &'a Lot<'a>,
    open: &'a [usize],
    jobs: Range<u64>,
    begin: u64,
}

impl Batch<'_> {
    /// Read, sum and write; whether every result was good.
    fn run(
        &self,
        device: &Device,
        slot: &Slot,
        (shared, sums): (&Layout, &[Layout]),
        buffer: &mut Vec<u8>,
        bench: &mut Bench,
        progress: &dyn Progress,
    ) -> Result<bool> {
        let (_, store) = self.lot.first();
        let first = self.lot.jobs(self.open, self.jobs.start - self.begin);
        for jobs in self.each() {
            for (k, (read, first)) in jobs.reads().iter().zip(first.reads()).enumerate() {
                room::resize(buffer, bytes(&read.range))?;
                store.read(read, buffer, true)?;
                progress.advance(buffer.len() as u64);
                let offset = read.range.start - first.range.start;
                Timings::time(&store.timings.stage, || slot.write(device, shared, k, offset, buffer))?;
            }
        }
        let start = Instant::now();
        pollster::block_on(slot.run(device, sums))?;
        Timings::add(&store.timings.device, start.elapsed());
        let tally = |(at, layout)| slot.tally(device, layout, at);
        let tallies = sums.iter().enumerate().map(tally).collect::<Result<Vec<_>>>()?;
        let is_good = first.accept(&tallies);
        if is_good {
            let firsts: Vec<_> = first.writes().map(|write| write.range.start).collect();
            for jobs in self.each() {
                for (at, (write, first)) in jobs.writes().zip(&firsts).enumerate() {
                    self.write(device, slot, at, &write, *first)?;
                }
            }
            bench.add_many(self.lot.merges.len(), self.open, self.jobs.end - self.jobs.start, &tallies);
        }
        slot.recycle();
        Ok(is_good)
    }

    fn each(&self) -> impl Iterator<Item = Together<'_>> {
        self.jobs.clone().map(|number| self.lot.jobs(self.open, number - self.begin))
    }

    /// Write the result of sum `at` where it belongs; `first` is where the batch begins in that output.
    fn write(&self, device: &Device, slot: &Slot, at: usize, write: &Write, first: u64) -> Result<()> {
        let view = slot.view(device, at, write.range.start - first..write.range.end - first)?;
        self.lot.merges[self.open[at]].1.write(write, view.as_ref())
    }
}
