//! Run a plan with GPUs: threads read, stage and write, devices sum; until they are open, the CPU does.
//!
//! Batches in flight are bounded by the seats; nothing waits for a turn.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Instant;

use mwa::merge::{Findings, Found, Merge};
use mwa::{Error, Result};

use super::batch::{Batch, Cut, Seat, Seats, layout_of, write_of};
use super::{Device, Slot};
use crate::engine::board::Board;
use crate::engine::cpu::Buffers;
use crate::engine::jobs::joined;
use crate::engine::pool::{Ending, lock, on_threads};
use crate::engine::timings::Timings;
use crate::io::store::Store;
use crate::options::Machine;
use crate::progress::Progress;

/// Batches in flight per device: two being filled, one on its way there, one computed, two being written.
const SEATS: usize = 6;
/// Bytes of buffers, on the host and on the devices, unless the caller says otherwise.
const MEMORY: u64 = 256 << 20;

/// Which devices compute, and what their failure means.
pub(super) struct Devices<F> {
    pub(super) open: F,
    /// Most bytes of one buffer of any of them, if that is known before.
    pub(super) max_buffer: u64,
    /// How many there are at most.
    pub(super) count: usize,
    /// A device that fails fails the merge; else the CPU goes on in its place.
    pub(super) must: bool,
    /// Nothing begins before they are open.
    pub(super) first: bool,
}

/// Bytes of buffers on the host, and as much again on the devices.
pub(super) fn half(machine: Machine) -> u64 {
    machine.memory.unwrap_or(MEMORY) / 2
}

/// Run all jobs on elements.
pub(super) fn run(
    merge: &Merge,
    store: &Store,
    machine: Machine,
    devices: Devices<impl FnOnce() -> Result<Vec<Arc<Device>>> + Send>,
    progress: &dyn Progress,
) -> Result<Findings> {
    let Devices { open, max_buffer, count, must, first } = devices;
    let threads = machine.threads();
    let elements = merge.elements();
    let own = Own { next: elements.start, limit: elements.end, ..Own::default() };
    let stream = Stream {
        merge,
        store,
        board: Arc::new(Board::new(own)),
        ending: Ending::default(),
        cut: Cut::fitting(merge, 1, SEATS * count, half(machine), max_buffer, |jobs| layout_of(merge, jobs)),
        must,
        lost: Mutex::default(),
        progress,
    };
    let found = thread::scope(|scope| {
        let open = || stream.seat(open());
        if first {
            open();
        } else {
            scope.spawn(open);
        }
        on_threads(threads, || stream.stop_at(0), || stream.work())
    });
    stream.ending.result()?;
    Ok(joined(found))
}

struct Stream<'a> {
    merge: &'a Merge,
    store: &'a Store,
    board: Arc<Board<Own>>,
    ending: Ending,
    cut: Cut,
    must: bool,
    /// The devices that were given up and told about.
    lost: Mutex<BTreeSet<usize>>,
    progress: &'a dyn Progress,
}

/// What the board keeps for a stream.
#[derive(Default)]
struct Own {
    /// The job to be begun next.
    next: u64,
    /// Jobs from this one on are not begun: an earlier one has failed.
    limit: u64,
    /// The next job's batch, if it is begun and a device computes it.
    filling: Option<Arc<Batch>>,
    /// Those that are free.
    seats: VecDeque<Seat>,
    /// Batches that have a seat.
    in_flight: usize,
    todo: VecDeque<Task>,
}

impl Seats for Board<Own> {
    fn back(&self, seat: Option<Seat>) {
        self.change(|own| {
            own.in_flight -= 1;
            own.seats.extend(seat);
        });
    }
}

/// What a thread does next.
enum Task {
    /// Read and stage a job of a batch.
    Stage(Arc<Batch>, u64),
    /// Do all of a job.
    Sum(u64),
    /// Look at what came back.
    Check(Arc<Batch>, Result<()>),
    /// Write the result of a job of a batch.
    Write(Arc<Batch>, u64),
}

impl Stream<'_> {
    /// Let devices that were opened join, or say why not.
    fn seat(&self, opened: Result<Vec<Arc<Device>>>) {
        let devices = match opened {
            Ok(devices) => devices,
            Err(error) if self.must => return self.fail(0, error),
            Err(error) => return self.progress.note(&format!("{error}; the CPU sums")),
        };
        let seats = (0..SEATS * devices.len()).map(|i| {
            let (place, device) = (i % devices.len(), Arc::clone(&devices[i % devices.len()]));
            Seat { place, slot: Slot::new(&device, self.cut.input, self.cut.output, 1), device }
        });
        let seats: Vec<_> = self.cut.batches(self.merge).zip(seats).map(|(_, seat)| seat).collect();
        for (place, device) in devices.iter().enumerate() {
            // the memory may not have sufficed
            if let Err(error) = device.check().or_else(|error| self.device_failed(place, device, error)) {
                return self.fail(0, error);
            }
        }
        self.board.change(|own| own.seats.extend(seats));
    }

    /// One thread's share.
    fn work(&self) -> Findings {
        let mut findings = Findings::default();
        let mut buffers = Buffers::default();
        while let Some(task) = self.next() {
            let (job, done) = match task {
                Task::Stage(batch, job) => (job, self.stage(&batch, job, &mut buffers)),
                Task::Sum(job) => (job, self.sum(job, &mut buffers).map(|found| findings.add(job, found))),
                Task::Check(batch, result) => (batch.jobs.start, self.check(&batch, result, &mut findings)),
                Task::Write(batch, job) => (job, self.write(&batch, job, &mut buffers)),
            };
            if let Err(error) = done {
                self.fail(job, error);
            }
        }
        findings
    }

    /// What to do next; `None` when all is done or has failed.
    fn next(&self) -> Option<Task> {
        let wait = || self.board.wait(|| self.ask(), |own| self.take(own));
        Timings::time(&self.store.timings.wait, wait)
    }

    /// The same, if it is known: `Some(None)` when all is done or has failed.
    fn take(&self, own: &mut Own) -> Option<Option<Task>> {
        if let Some(task) = own.todo.pop_front() {
            return Some(Some(task));
        }
        let (job, is_filling) = (own.next, own.filling.is_some());
        if job >= own.limit && !is_filling {
            return (own.in_flight == 0).then_some(None);
        }
        let jobs = self.cut.range(self.merge, job);
        let layout = if job == jobs.start { self.cut.layout(self.merge, &jobs) } else { None };
        if layout.is_some() && self.must && own.seats.is_empty() && own.in_flight > 0 {
            return None; // a seat will be free soon
        }
        if let Some(layout) = layout
            && let Some(seat) = self.free_seat(own)
        {
            let begun = Batch::new(jobs.clone(), layout, seat, Arc::<Board<Own>>::clone(&self.board));
            own.filling = Some(Arc::new(begun));
            own.in_flight += 1;
        }
        own.next = job + 1;
        let filling = if job + 1 == jobs.end { own.filling.take() } else { own.filling.clone() };
        Some(Some(match filling {
            Some(batch) => Task::Stage(batch, job),
            None => Task::Sum(job),
        }))
    }

    /// A seat whose device works, or where one must not fail, any: its failure will be noticed.
    fn free_seat(&self, own: &mut Own) -> Option<Seat> {
        let works = |seat: &Seat| self.must || seat.device.check().is_ok();
        core::iter::from_fn(|| own.seats.pop_front()).find(works)
    }

    /// Read the operands of a job, stage them, and after the last job of the batch start the device.
    fn stage(&self, batch: &Arc<Batch>, job: u64, buffers: &mut Buffers) -> Result<()> {
        let Seat { device, slot, .. } = batch.seat();
        let (job, first) = (self.merge.job(job), self.merge.job(batch.jobs.start));
        let mut firsts = first.reads().map(|first| first.range.start);
        buffers.read(&job, self.store, self.progress, |k, read, bytes| {
            let offset = read.range.start - firsts.next().expect("the jobs of a batch are alike");
            let write = || slot.write(device, &batch.layout, k, offset, bytes);
            if let Err(error) = Timings::time(&self.store.timings.stage, write) {
                device.give_up(error.detail()); // noticed when the batch comes back
            }
        })?;
        if !batch.staged() {
            return Ok(());
        }
        let start = Instant::now();
        let (timings, board) = (Arc::clone(&self.store.timings.device), Arc::clone(&self.board));
        let sent = Arc::clone(batch);
        let back = move |result| {
            Timings::add(&timings, start.elapsed());
            board.change(|own| own.todo.push_back(Task::Check(sent, result)));
        };
        slot.submit(device, core::slice::from_ref(&batch.layout), back).or_else(|error| {
            self.do_later([Task::Check(Arc::clone(batch), Err(error))]);
            Ok(())
        })
    }

    fn sum(&self, number: u64, buffers: &mut Buffers) -> Result<Found> {
        buffers.run(&self.merge.job(number), 0, self.store, self.progress) // elements are read whole
    }

    /// Take a batch's result if it is good; else the CPU makes it, or says what is wrong with the data.
    fn check(&self, batch: &Arc<Batch>, result: Result<()>, findings: &mut Findings) -> Result<()> {
        let Seat { device, slot, place } = batch.seat();
        match result.and_then(|()| slot.tally(device, &batch.layout, 0)) {
            Ok(more) => {
                batch.came_back();
                if self.merge.job(batch.jobs.start).accepts(more) {
                    findings.add_many(batch.jobs.end - batch.jobs.start, more);
                    self.do_later(batch.jobs.clone().map(|job| Task::Write(Arc::clone(batch), job)));
                    return Ok(());
                }
            }
            Err(error) => self.device_failed(*place, device, error)?,
        }
        self.do_later(batch.jobs.clone().map(Task::Sum));
        Ok(())
    }

    fn write(&self, batch: &Arc<Batch>, job: u64, buffers: &mut Buffers) -> Result<()> {
        let write = write_of(&self.merge.job(job));
        match batch.result(write_of(&self.merge.job(batch.jobs.start)).range.start, &write) {
            Ok(result) => self.store.write(&write, result.as_ref()),
            Err(error) => {
                self.device_failed(batch.seat().place, &batch.seat().device, error)?;
                self.sum(job, buffers).map(drop) // the result was counted, but is gone
            }
        }
    }

    fn do_later(&self, tasks: impl IntoIterator<Item = Task>) {
        let tasks: Vec<_> = tasks.into_iter().collect();
        self.board.change(|own| own.todo.extend(tasks));
    }

    fn fail(&self, job: u64, error: Error) {
        self.ending.fail(job, error);
        self.stop_at(job);
    }

    /// Begin nothing from job `job` on.
    fn stop_at(&self, job: u64) {
        self.ending.begin();
        let unfinished = self.board.change(|own| {
            own.limit = own.limit.min(job);
            own.filling.take_if(|batch| own.limit <= batch.jobs.start)
        });
        drop(unfinished); // not under the lock, which it takes
    }

    /// Ask whether the caller wants to stop.
    fn ask(&self) {
        let is_new = !self.ending.is_near();
        if self.ending.is_wanted(self.progress) && is_new {
            self.stop_at(0);
        }
    }

    /// Give a device up; say so once if the CPU may go on, or fail.
    fn device_failed(&self, place: usize, device: &Device, error: Error) -> Result<()> {
        device.give_up(error.detail());
        if self.must {
            return Err(error);
        }
        if lock(&self.lost).insert(place) {
            self.progress.note(&format!("{error}; the CPU does the rest"));
        }
        Ok(())
    }
}
