//! Run a plan with GPUs: threads read, stage, write and hash, devices sum; until they are open, the CPU does.
//!
//! Jobs are taken in their order, each with a tray, so that what is in flight can always be hashed and trays come back.
//! Batches in flight are bounded by the seats; nothing waits for a turn.

use core::mem;
use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Instant;

use mwa::merge::{Findings, Found, Merge};
use mwa::{Error, Result};

use super::batch::{Batch, Cut, Seat, write_of};
use super::{Device, Slot};
use crate::engine::board::{State, Tray};
use crate::engine::cpu;
use crate::engine::pass::{Hashed, Pass, Timings};
use crate::engine::pool::{lock, on_threads};
use crate::io::hash::Piece;
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
fn half(machine: Machine) -> u64 {
    machine.memory.unwrap_or(MEMORY) / 2
}

/// Run all jobs on elements.
pub(super) fn run(
    merge: &Merge,
    store: &Store,
    machine: Machine,
    devices: Devices<impl FnOnce() -> Result<Vec<Arc<Device>>> + Send>,
    progress: &dyn Progress,
) -> Result<(Findings, Hashed)> {
    let Devices { open, max_buffer, count, must, first } = devices;
    let threads = machine.threads();
    let trays = cpu::trays(merge, cpu::budget(half(machine)), threads);
    let elements = merge.elements();
    let own = Own { next: elements.start, limit: elements.end, ..Own::default() };
    let stream = Stream {
        pass: Pass::new(merge, store, threads, own, progress)?,
        cut: Cut::fitting(merge, SEATS * count, half(machine), max_buffer),
        must,
        lost: Mutex::default(),
        progress,
    };
    stream.pass.board.change(|state| state.add_trays(trays));
    let found = thread::scope(|scope| {
        let open = || stream.seat(open());
        if first {
            open();
        } else {
            scope.spawn(open);
        }
        on_threads(threads, || stream.stop_at(0), || stream.work())
    });
    stream.pass.finish(found)
}

struct Stream<'a> {
    pass: Pass<'a, Own>,
    cut: Cut,
    must: bool,
    /// The devices that were given up and told about.
    lost: Mutex<BTreeSet<usize>>,
    progress: &'a dyn Progress,
}

/// What the board keeps for a stream.
#[derive(Default)]
pub(super) struct Own {
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

impl Own {
    /// A batch is done; its seat can be used again, if its device can.
    pub(super) fn finish(&mut self, seat: Option<Seat>) {
        self.in_flight -= 1;
        self.seats.extend(seat);
    }
}

/// What a thread does next.
enum Task {
    /// Read, stage and hash a job of a batch.
    Stage(Arc<Batch>, u64, Tray<Own>),
    /// Do all of a job.
    Sum(u64, Tray<Own>),
    /// Look at what came back.
    Check(Arc<Batch>, Result<()>),
    /// Write and hash the result of a job of a batch.
    Write(Arc<Batch>, u64),
    /// Do a job that was staged and hashed, but not computed.
    Remake(u64),
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
            Seat { place, slot: Slot::new(&device, self.cut.input, self.cut.output), device }
        });
        let seats: Vec<_> = seats.take(self.cut.count(self.pass.merge, SEATS * devices.len())).collect();
        for (place, device) in devices.iter().enumerate() {
            // the memory may not have sufficed
            if let Err(error) = device.check().or_else(|error| self.device_failed(place, device, error)) {
                return self.fail(0, error);
            }
        }
        self.pass.board.change(|state| state.own.seats.extend(seats));
    }

    /// One thread's share.
    fn work(&self) -> Findings {
        let mut findings = Findings::default();
        let mut buffers = Vec::new();
        while let Some(task) = self.pass.next(|| self.ask(), |state| self.take(state)) {
            let (job, done) = match task {
                Task::Stage(batch, job, tray) => (job, self.stage(&batch, job, tray)),
                Task::Sum(job, tray) => (job, self.sum(job, tray, &mut findings)),
                Task::Check(batch, result) => (batch.jobs.start, self.check(&batch, result, &mut findings)),
                Task::Write(batch, job) => (job, self.write(&batch, job, &mut buffers)),
                Task::Remake(job) => {
                    (job, self.remake(job, &mut buffers).map(|found| findings.add(job, found)))
                }
            };
            if let Err(error) = done {
                self.fail(job, error);
            }
        }
        findings
    }

    /// What to do next; `Some(None)` when all is done or has failed.
    fn take(&self, state: &mut State<Own>) -> Option<Option<Task>> {
        if let Some(task) = state.own.todo.pop_front() {
            return Some(Some(task));
        }
        let (job, is_filling) = (state.own.next, state.own.filling.is_some());
        if job >= state.own.limit && !is_filling {
            let is_whole = state.own.limit == self.pass.jobs.end;
            return (state.own.in_flight == 0 && (state.is_idle() || !is_whole)).then_some(None);
        }
        let jobs = self.cut.range(self.pass.merge, job);
        let layout = if job == jobs.start { self.cut.layout(self.pass.merge, &jobs) } else { None };
        if layout.is_some() && self.must && state.own.seats.is_empty() && state.own.in_flight > 0 {
            return None; // a seat will be free soon
        }
        let tray = state.tray(&self.pass.board)?;
        let own = &mut state.own;
        if let Some(layout) = layout
            && let Some(seat) = self.free_seat(own)
        {
            let begun = Batch::new(jobs.clone(), layout, seat, &self.pass.board);
            own.filling = Some(Arc::new(begun));
            own.in_flight += 1;
        }
        own.next = job + 1;
        let filling = if job + 1 == jobs.end { own.filling.take() } else { own.filling.clone() };
        Some(Some(match filling {
            Some(batch) => Task::Stage(batch, job, tray),
            None => Task::Sum(job, tray),
        }))
    }

    /// A seat whose device works, or where one must not fail, any: its failure will be noticed.
    fn free_seat(&self, own: &mut Own) -> Option<Seat> {
        let works = |seat: &Seat| self.must || seat.device.check().is_ok();
        core::iter::from_fn(|| own.seats.pop_front()).find(works)
    }

    /// Read the operands of a job, stage them, and after the last job of the batch start the device.
    fn stage(&self, batch: &Arc<Batch>, job: u64, mut tray: Tray<Own>) -> Result<()> {
        let Seat { device, slot, .. } = batch.seat();
        let (job, first) = (self.pass.merge.job(job), self.pass.merge.job(batch.jobs.start));
        tray.buffers.resize_with(tray.buffers.len().max(job.reads().len()), Vec::new);
        for (k, (read, first)) in job.reads().zip(first.reads()).enumerate() {
            let buffer = &mut tray.buffers[k];
            self.pass.read(&read, buffer)?;
            let offset = read.range.start - first.range.start;
            let write = || slot.write(device, &batch.layout, k, offset, buffer);
            if let Err(error) = Timings::time(&self.pass.timings.stage, write) {
                device.give_up(error.detail()); // noticed when the batch comes back
            }
        }
        let piece = tray.pieces();
        let hashes = job.reads().map(|read| self.pass.input_hash(&read)).enumerate();
        self.pass.hash(hashes.filter_map(|(k, hash)| Some((hash?, piece(k)))));
        if !batch.staged() {
            return Ok(());
        }
        let start = Instant::now();
        let (timings, board) = (Arc::clone(&self.pass.timings.device), Arc::clone(&self.pass.board));
        let sent = Arc::clone(batch);
        let back = move |result| {
            Timings::add(&timings, start.elapsed());
            board.change(|state| state.own.todo.push_back(Task::Check(sent, result)));
        };
        slot.submit(device, &device.kernel_of(&batch.layout), &batch.layout, back).or_else(|error| {
            self.do_later([Task::Check(Arc::clone(batch), Err(error))]);
            Ok(())
        })
    }

    fn sum(&self, number: u64, mut tray: Tray<Own>, findings: &mut Findings) -> Result<()> {
        let job = self.pass.merge.job(number);
        findings.add(number, cpu::compute(&self.pass, &job, &mut tray.buffers)?);
        cpu::hash(&self.pass, &job, tray);
        Ok(())
    }

    /// Take a batch's result if it is good; else the CPU makes it, or says what is wrong with the data.
    fn check(&self, batch: &Arc<Batch>, result: Result<()>, findings: &mut Findings) -> Result<()> {
        let Seat { device, slot, place } = batch.seat();
        match result.and_then(|()| slot.tally(device, &batch.layout)) {
            Ok(more) => {
                batch.came_back();
                if self.pass.merge.job(batch.jobs.start).accepts(more) {
                    findings.add_many(batch.jobs.end - batch.jobs.start, more);
                    self.do_later(batch.jobs.clone().map(|job| Task::Write(Arc::clone(batch), job)));
                    return Ok(());
                }
            }
            Err(error) => self.device_failed(*place, device, error)?,
        }
        self.do_later(batch.jobs.clone().map(Task::Remake));
        Ok(())
    }

    fn write(&self, batch: &Arc<Batch>, job: u64, buffers: &mut Vec<Vec<u8>>) -> Result<()> {
        let write = write_of(&self.pass.merge.job(job));
        match batch.result(write_of(&self.pass.merge.job(batch.jobs.start)).range.start, &write) {
            Ok(result) => {
                self.pass.write(&write, result.as_ref())?;
                self.hash_output(job, Box::new(result));
                Ok(())
            }
            Err(error) => {
                self.device_failed(batch.seat().place, &batch.seat().device, error)?;
                self.remake(job, buffers).map(drop) // the result was counted, but is gone
            }
        }
    }

    fn remake(&self, number: u64, buffers: &mut Vec<Vec<u8>>) -> Result<Found> {
        let job = self.pass.merge.job(number);
        let found = cpu::compute(&self.pass, &job, buffers)?;
        let output = mem::take(&mut buffers[job.reads().len()]);
        self.hash_output(number, Box::new(output));
        Ok(found)
    }

    fn hash_output(&self, job: u64, piece: Piece) {
        let hash = self.pass.output_hash(&write_of(&self.pass.merge.job(job)));
        self.pass.hash(hash.map(|hash| (hash, piece)).into_iter());
    }

    fn do_later(&self, tasks: impl IntoIterator<Item = Task>) {
        let tasks: Vec<_> = tasks.into_iter().collect();
        self.pass.board.change(|state| state.own.todo.extend(tasks));
    }

    fn fail(&self, job: u64, error: Error) {
        self.pass.fail(job, error);
        self.stop_at(job);
    }

    /// Begin nothing from job `job` on.
    fn stop_at(&self, job: u64) {
        self.pass.halt();
        let unfinished = self.pass.board.change(|state| {
            let own = &mut state.own;
            own.limit = own.limit.min(job);
            own.filling.take_if(|batch| own.limit <= batch.jobs.start)
        });
        drop(unfinished); // not under the lock, which it takes
    }

    /// Ask whether the caller wants to stop.
    fn ask(&self) {
        if self.progress.stopped() && self.pass.is_stopped() {
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
