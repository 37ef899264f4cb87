//! Run a plan on GPUs: threads read, hash and stage pieces of jobs, devices compute, threads write and hash results.
//!
//! A ring of slots bounds memory: job j uses slot j mod N, and waits until the job before it there is written. All
//! tasks are handed out in the order of the jobs, so whoever waits for its turn to hash waits for a thread that works.

use core::mem::replace;
use core::time::Duration;
use std::collections::BTreeSet;
use std::fs::File;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use mwa::kernel::Tally;
use mwa::{Error, Plan, Read, Result, Write};

use super::board::{Board, Phase, State, Task};
use super::cut::Cut;
use super::{Device, Layout, Slot};
use crate::cpu::{self, on_threads};
use crate::files::InputFile;
use crate::pass::{OpenFiles, Pass, Ran, Timings, lock};
use crate::{Machine, Progress};

/// Bytes that a thread reads, stages, hashes or writes at a time: they stay in its second-level cache.
const PIECE: u64 = 256 << 10;
/// Jobs in flight per device: two being filled, one on its way there, one computed, two being written.
const SLOTS: usize = 6;
/// Bytes of buffers, on the host and on the devices, unless the caller says otherwise.
const MEMORY: u64 = 256 << 20;

/// Run all jobs of `plan` on `devices` and write the heads of its outputs, which are open for writing. If one fails and
/// `must` is not set, the CPU goes on in its place.
pub(crate) fn run(
    plan: &Plan,
    sources: &[&[InputFile]],
    outputs: &[File],
    machine: Machine,
    devices: &[Arc<Device>],
    must: bool,
    progress: &dyn Progress,
) -> Result<Ran> {
    let threads = machine.threads();
    let slots = SLOTS * devices.len();
    let max_buffer = devices.iter().map(|device| device.max_buffer()).min().unwrap_or(0);
    let pieces = 2 * PIECE * threads as u64;
    let memory = machine.memory.unwrap_or(MEMORY).saturating_sub(pieces);
    let Cut { jobs, layouts, input, output } = Cut::fitting(plan, slots, memory, max_buffer);
    let slot = |i: usize| Slot::new(&devices[i % devices.len()], input, output);
    let slots: Vec<_> = (0..slots.min(jobs.len())).map(slot).collect();
    let stream = Stream {
        pass: Pass::new(plan, &jobs, sources, outputs, threads, progress)?,
        layouts,
        devices,
        board: Arc::new(Board::new(slots.len())),
        slots,
        must,
        lost: Mutex::default(),
        progress,
    };
    for slot in 0..stream.slots.len() {
        // the memory may not have sufficed
        if let Err(error) = stream.device(slot).check().or_else(|error| stream.device_failed(slot, error)) {
            stream.fail(0, error);
        }
    }
    let tally = on_threads(threads, || stream.stop_at(0), || stream.work());
    stream.pass.finish(tally)
}

struct Stream<'a> {
    pass: Pass<'a>,
    layouts: Vec<Option<Layout>>,
    devices: &'a [Arc<Device>],
    slots: Vec<Slot>,
    board: Arc<Board>,
    must: bool,
    /// The devices that were given up and told about.
    lost: Mutex<BTreeSet<usize>>,
    progress: &'a dyn Progress,
}

impl Stream<'_> {
    /// One thread's share.
    fn work(&self) -> Tally {
        let mut tally = Tally::default();
        let (mut open, mut buffers) = (self.pass.open_files(), Vec::new());
        while let Some(task) = self.next() {
            let (job, done) = match task {
                Task::Stage(job, piece) => (job, self.stage(job, piece, &mut open, &mut buffers)),
                Task::Sum(job) => (job, self.sum(job, &mut open, &mut buffers, true, &mut tally)),
                Task::Check(job, result) => {
                    (job, self.check(job, result, &mut open, &mut buffers, &mut tally))
                }
                Task::Write(job, piece, bytes) => {
                    (job, self.write(job, piece, bytes, &mut open, &mut buffers))
                }
            };
            if let Err(error) = done {
                self.fail(job, error);
            }
        }
        self.pass.hash_alone();
        tally
    }

    /// Wait for something to do; `None` when all is done or has failed.
    fn next(&self) -> Option<Task> {
        loop {
            // not under the lock: the caller may take its time to answer
            if self.progress.stopped() && self.pass.is_stopped() {
                self.stop_at(0);
            }
            let mut state = lock(&self.board.state);
            let end = state.limit.min(self.pass.jobs.len());
            if state.next_output.0 >= end {
                return None;
            }
            if let Some(task) = self.take(&mut state, end) {
                return Some(task);
            }
            // now and then, to hear of the caller's wish to stop
            let wait = self.board.changed.wait_timeout(state, Duration::from_millis(50));
            drop(wait.unwrap_or_else(PoisonError::into_inner));
        }
    }

    fn take(&self, state: &mut State, end: usize) -> Option<Task> {
        let ring = state.slots.len();
        // the slot of a later job still belongs to an earlier one
        let begun = state.next_input.0 + usize::from(state.next_input.1 > 0);
        for job in state.next_output.0..begun.min(end) {
            let phase = &mut state.slots[job % ring];
            if matches!(phase, Phase::Back(_))
                && let Phase::Back(result) = replace(phase, Phase::Checking)
            {
                return Some(Task::Check(job, result));
            }
        }
        let (job, piece) = state.next_output;
        if job < begun
            && let Phase::Writing(_, bytes) = &state.slots[job % ring]
        {
            let task = Task::Write(job, piece, bytes.clone());
            if piece + 1 < self.write_pieces(job) {
                state.next_output = (job, piece + 1);
            } else {
                state.next_output = (job + 1, 0);
                self.board.changed.notify_all(); // the next job may have been waiting for this
            }
            return Some(task);
        }
        let (job, piece) = state.next_input;
        if job >= end {
            return None;
        }
        let phase = &mut state.slots[job % ring];
        if piece == 0 {
            if !matches!(phase, Phase::Free) {
                return None;
            }
            if self.layouts[job].is_none() || self.device(job).check().is_err() {
                *phase = Phase::Checking;
                state.next_input = (job + 1, 0);
                return Some(Task::Sum(job));
            }
            *phase = Phase::Filling(self.stage_pieces(job));
        }
        state.next_input = if piece + 1 == self.stage_pieces(job) { (job + 1, 0) } else { (job, piece + 1) };
        Some(Task::Stage(job, piece))
    }

    /// Read a piece of some operands, stage it, hash it, and after the last piece start the device.
    fn stage(
        &self,
        job: usize,
        piece: usize,
        open: &mut OpenFiles,
        buffers: &mut Vec<Vec<u8>>,
    ) -> Result<()> {
        let (device, slot, layout) = (self.device(job), self.slot(job), self.layout(job));
        let groups = self.pass.jobs[job].reads().len().div_ceil(self.pass.at_once);
        let (row, group) = (piece / groups, piece % groups);
        let reads: Vec<_> = self.pass.jobs[job].reads().collect();
        let elements = self.elements_per_piece(job);
        let total = layout.elements();
        let first = row as u64 * elements;
        let count = elements.min(total - first);
        buffers.resize_with(self.pass.at_once.max(buffers.len()), Vec::new);
        let mut pieces = Vec::new();
        for (k, read) in reads.iter().enumerate().skip(group * self.pass.at_once).take(self.pass.at_once) {
            let size = (read.range.end - read.range.start) / total;
            let start = read.range.start + first * size;
            let piece = Read { range: start..start + count * size, ..read.clone() };
            let buffer = &mut buffers[pieces.len()];
            self.pass.read(open, &piece, buffer)?;
            let write = || slot.write(device, layout, k, first * size, buffer);
            if let Err(error) = Timings::time(&self.pass.timings.stage, write) {
                device.give_up(error.detail()); // noticed when the job comes back
            }
            pieces.push(piece);
        }
        self.pass.hash(&pieces, buffers);
        let mut state = lock(&self.board.state);
        let phase = &mut state.slots[job % self.slots.len()];
        let Phase::Filling(left) = phase else { return Ok(()) };
        *left -= 1;
        if *left > 0 {
            return Ok(());
        }
        *phase = Phase::Running;
        drop(state);
        let board = Arc::clone(&self.board);
        let start = Instant::now();
        let timings = Arc::clone(&self.pass.timings.device);
        let back = move |result| {
            Timings::add(&timings, start.elapsed());
            board.put(job, Phase::Back(result));
        };
        if let Err(error) = slot.submit(device, &device.kernel_of(layout), layout, back) {
            self.board.put(job, Phase::Back(Err(error)));
        }
        Ok(())
    }

    /// Do a whole job on the CPU; its inputs were hashed before unless `hash`.
    fn sum(
        &self,
        job: usize,
        open: &mut OpenFiles,
        buffers: &mut Vec<Vec<u8>>,
        hash: bool,
        tally: &mut Tally,
    ) -> Result<()> {
        let mut output = Vec::new();
        let more = cpu::sum(&self.pass, &self.pass.jobs[job], open, buffers, &mut output, hash)?;
        *tally = tally.plus(more);
        buffers.clear(); // they are larger than pieces
        self.board.put(job, Phase::Writing(self.write_pieces(job), Some(Arc::new(output))));
        Ok(())
    }

    /// Take a job's result if it is good; else the CPU makes it, or says what is wrong with the data.
    fn check(
        &self,
        job: usize,
        result: Result<()>,
        open: &mut OpenFiles,
        buffers: &mut Vec<Vec<u8>>,
        tally: &mut Tally,
    ) -> Result<()> {
        match result.and_then(|()| self.slot(job).tally(self.device(job), self.layout(job))) {
            Ok(more) if self.pass.jobs[job].accepts(more) => {
                *tally = tally.plus(more);
                self.board.put(job, Phase::Writing(self.write_pieces(job), None));
                return Ok(());
            }
            Ok(_) => self.slot(job).recycle(),
            Err(error) => self.device_failed(job, error)?,
        }
        self.sum(job, open, buffers, false, tally)
    }

    fn write(
        &self,
        job: usize,
        piece: usize,
        bytes: Option<Arc<Vec<u8>>>,
        open: &mut OpenFiles,
        buffers: &mut Vec<Vec<u8>>,
    ) -> Result<()> {
        let write = self.pass.jobs[job].write();
        let len = write.range.end - write.range.start;
        let (start, end) = (piece as u64 * PIECE, len.min((piece as u64 + 1) * PIECE));
        let target = Write { range: write.range.start + start..write.range.start + end, ..write };
        let at = |place| usize::try_from(place).expect("the bytes are in memory");
        match bytes {
            Some(bytes) => self.pass.write(&target, &bytes[at(start)..at(end)])?,
            None => {
                let write = |bytes: &[u8]| self.pass.write(&target, bytes);
                match self.slot(job).read(self.device(job), start..end, write) {
                    Ok(written) => written?,
                    Err(error) => {
                        // the result was good and counted, but is gone: make it again
                        self.device_failed(job, error)?;
                        let mut output = Vec::new();
                        cpu::sum(&self.pass, &self.pass.jobs[job], open, buffers, &mut output, false)?;
                        self.pass.write(&target, &output[at(start)..at(end)])?;
                    }
                }
            }
        }
        let mut state = lock(&self.board.state);
        let phase = &mut state.slots[job % self.slots.len()];
        let Phase::Writing(left, bytes) = phase else { return Ok(()) };
        *left -= 1;
        if *left == 0 {
            if bytes.is_none() {
                self.slot(job).recycle();
            }
            *phase = Phase::Free;
            drop(state);
            self.board.changed.notify_all();
        }
        Ok(())
    }

    fn fail(&self, job: usize, error: Error) {
        self.pass.fail(job, error);
        self.stop_at(job);
    }

    /// Begin nothing from job `job` on.
    fn stop_at(&self, job: usize) {
        self.pass.halt();
        let mut state = lock(&self.board.state);
        state.limit = state.limit.min(job);
        drop(state);
        self.board.changed.notify_all();
    }

    /// Give the device of a job up; say so once if the CPU may go on, or fail.
    fn device_failed(&self, job: usize, error: Error) -> Result<()> {
        self.device(job).give_up(error.detail());
        if self.must {
            return Err(error);
        }
        if lock(&self.lost).insert(job % self.slots.len() % self.devices.len()) {
            self.progress.note(&format!("{error}; the CPU does the rest"));
        }
        Ok(())
    }

    fn device(&self, job: usize) -> &Device {
        &self.devices[job % self.slots.len() % self.devices.len()]
    }

    fn slot(&self, job: usize) -> &Slot {
        &self.slots[job % self.slots.len()]
    }

    fn layout(&self, job: usize) -> &Layout {
        self.layouts[job].as_ref().expect("take() gives jobs without a layout to the CPU")
    }

    /// Elements of each operand in a piece; a multiple of 8, so that pieces begin where staging can be mapped.
    fn elements_per_piece(&self, job: usize) -> u64 {
        let elements = self.layout(job).elements();
        let widest =
            self.pass.jobs[job].reads().map(|read| (read.range.end - read.range.start) / elements).max();
        PIECE / widest.unwrap_or(1)
    }

    fn stage_pieces(&self, job: usize) -> usize {
        let rows = self.layout(job).elements().div_ceil(self.elements_per_piece(job));
        let groups = self.pass.jobs[job].reads().len().div_ceil(self.pass.at_once);
        usize::try_from(rows).expect("a job fits memory") * groups
    }

    fn write_pieces(&self, job: usize) -> usize {
        let write = self.pass.jobs[job].write();
        usize::try_from((write.range.end - write.range.start).div_ceil(PIECE)).expect("a job fits memory")
    }
}
