//! Jobs that are too large to cross a border at once: their reads are gathered piece by piece, their results handed out so.

use alloc::format;
use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

use super::Compute;
use crate::error::{Error, ErrorKind, Result};
use crate::merge::{Bytes, Found, Job};
use crate::plan::{Read, Write};
use crate::room::zeros;

/// A piece of a job: some of its reads from this byte of this one on, or a part of one of its writes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Piece {
    pub(super) job: u64,
    pub(super) is_result: bool,
    /// The read or write in which it begins, and where in that.
    at: usize,
    start: u64,
}

impl Piece {
    /// The first piece of a job.
    pub(super) fn first(job: u64) -> Self {
        Self { job, is_result: false, at: 0, start: 0 }
    }

    /// The piece of the same job after this one.
    pub(super) fn after(self, job: &Job<'_>, chunk: u64) -> Option<Self> {
        let last = if self.is_result {
            self.write(job, chunk).map(|range| (self.at, range))
        } else {
            self.reads(job, chunk).last()
        };
        let (at, end) = last.map_or((self.at, 0), |(at, range)| (at, range.end));
        let (count, length) = if self.is_result {
            (job.writes().len(), job.writes().nth(at).map_or(0, |write| length(&write.range)))
        } else {
            (job.reads().len(), job.reads().nth(at).map_or(0, |read| length(&read.range)))
        };
        if end < length {
            return Some(Self { at, start: end, ..self });
        }
        if at + 1 < count {
            return Some(Self { at: at + 1, start: 0, ..self });
        }
        // results come once, after all that is read
        (!self.is_result && job.writes().len() > 0).then_some(Self {
            is_result: true,
            at: 0,
            start: 0,
            ..self
        })
    }

    /// What it reads and writes.
    pub(super) fn ranges(self, job: &Job<'_>, chunk: u64) -> (Vec<Read>, Vec<Write>) {
        let within = |whole: &Range<u64>, part: Range<u64>| whole.start + part.start..whole.start + part.end;
        if self.is_result {
            let write = job.writes().nth(self.at).zip(self.write(job, chunk));
            let write = write.map(|(write, part)| Write { range: within(&write.range, part), ..write });
            return (Vec::new(), write.into_iter().collect());
        }
        let of =
            |(at, part)| job.reads().nth(at).map(|read| Read { range: within(&read.range, part), ..read });
        (self.reads(job, chunk).filter_map(of).collect(), Vec::new())
    }

    /// The parts of reads, by their number, that take at most a chunk together.
    fn reads(self, job: &Job<'_>, chunk: u64) -> impl Iterator<Item = (usize, Range<u64>)> {
        let (mut start, mut left) = (self.start, chunk);
        job.reads().enumerate().skip(self.at).map_while(move |(at, read)| {
            let part = (left > 0).then(|| start..length(&read.range).min(start.saturating_add(left)))?;
            start = 0;
            left -= length(&part);
            Some((at, part))
        })
    }

    fn write(self, job: &Job<'_>, chunk: u64) -> Option<Range<u64>> {
        let length = length(&job.writes().nth(self.at)?.range);
        Some(self.start..length.min(self.start.saturating_add(chunk)))
    }
}

/// The jobs under way, few, so that a list serves.
#[derive(Debug, Default)]
pub(super) struct Desks(Vec<Desk>);

/// A job under way.
#[derive(Debug)]
struct Desk {
    job: u64,
    inputs: Vec<Vec<u8>>,
    outputs: Vec<Vec<u8>>,
    /// Bytes to be gathered before the work can be done, and to be handed out after it.
    missing: u64,
    owed: u64,
}

impl Desks {
    /// Take the bytes of a piece; the last that was missing does the work.
    pub(super) fn take(
        &mut self,
        piece: Piece,
        job: &Job<'_>,
        chunk: u64,
        chunks: &[&[u8]],
        compute: Compute,
    ) -> Result<Option<Found>> {
        let at = if let Some(at) = self.find(piece.job) {
            at
        } else {
            self.0.push(Desk::new(piece.job, job)?);
            self.0.len() - 1
        };
        let desk = &mut self.0[at];
        let mut taken = 0;
        for ((read, part), bytes) in piece.reads(job, chunk).zip(chunks) {
            let start = index(part.start)?;
            desk.inputs[read][start..start + bytes.len()].copy_from_slice(bytes);
            taken += bytes.len() as u64;
        }
        if desk.missing > taken {
            desk.missing -= taken;
            return Ok(None);
        }
        let found = desk.work(job, compute)?;
        desk.missing = 0;
        if desk.owed == 0 {
            self.0.swap_remove(at);
        }
        Ok(Some(found))
    }

    /// Give the bytes of a piece.
    pub(super) fn hand_out(&mut self, piece: Piece, chunk: u64) -> Result<Vec<u8>> {
        let done = self.find(piece.job).filter(|at| self.0[*at].missing == 0);
        let at = done.ok_or_else(|| {
            Error::new(ErrorKind::Usage, "the job writes what jobs before it compute, and not all were run")
                .help("run the jobs that read before those that write")
        })?;
        let desk = &mut self.0[at];
        let output = &desk.outputs[piece.at];
        let start = index(piece.start)?;
        let bytes = output[start..output.len().min(start.saturating_add(index(chunk)?))].to_vec();
        desk.owed -= bytes.len() as u64;
        if desk.owed == 0 {
            self.0.swap_remove(at);
        }
        Ok(bytes)
    }

    fn find(&self, job: u64) -> Option<usize> {
        self.0.iter().position(|desk| desk.job == job)
    }
}

impl Desk {
    fn new(number: u64, job: &Job<'_>) -> Result<Self> {
        Ok(Self {
            job: number,
            missing: job.reads().map(|read| length(&read.range)).sum(),
            owed: job.writes().map(|write| length(&write.range)).sum(),
            inputs: job.reads().map(|read| room(length(&read.range))).collect::<Result<_>>()?,
            outputs: Vec::new(),
        })
    }

    /// All is here.
    fn work(&mut self, job: &Job<'_>, compute: Compute) -> Result<Found> {
        let inputs: Vec<_> = self.inputs.iter().map(Vec::as_slice).collect();
        self.outputs = job.writes().map(|write| room(length(&write.range))).collect::<Result<Vec<_>>>()?;
        let mut outputs: Vec<_> = self.outputs.iter_mut().map(Vec::as_mut_slice).collect();
        let found = compute(job, Bytes::Whole(&inputs), &mut outputs)?;
        self.inputs = vec![];
        Ok(found)
    }
}

fn length(range: &Range<u64>) -> u64 {
    range.end - range.start
}

/// So many zero bytes, or an error: heads can declare anything.
fn room(length: u64) -> Result<Vec<u8>> {
    let full = || {
        let detail = format!("a module's factors take {length} bytes at once, which do not fit into memory");
        Error::new(ErrorKind::Device, detail).help("merge on the CPU, outside of WebAssembly")
    };
    let length = usize::try_from(length).map_err(|_| full())?;
    zeros(length).map_err(|_| full())
}

fn index(offset: u64) -> Result<usize> {
    usize::try_from(offset)
        .map_err(|_| Error::new(ErrorKind::Device, "a module's factors do not fit into memory"))
}
