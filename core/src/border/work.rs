//! A merge that was planned, for a host: its jobs handed out, run here or elsewhere, and the hashes that they make.

use alloc::borrow::Cow;
use alloc::collections::VecDeque;
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::convert::Infallible;
use core::ops::Range;

use super::chunks::{Desks, Piece};
use super::{Compute, Hashes, Job};
use crate::digest::{Digests, Parts};
use crate::error::{Error, ErrorKind, Result};
use crate::format::safetensors::Header;
use crate::merge::report::HashedFile;
use crate::merge::{Bytes, Found, Hash, Merge, Next};
use crate::plan::{Read, Write};

/// A merge that was planned.
#[derive(Debug)]
pub(super) struct Work {
    pub(super) merge: Merge,
    /// Places of the checkpoints in the run.
    pub(super) indexes: Vec<usize>,
    /// The paths of all files with weights, and then of what lies beside them if it is hashed here.
    pub(super) inputs: Vec<String>,
    /// The number of the first file of each checkpoint, and how many there are of all.
    pub(super) firsts: Vec<usize>,
    pub(super) weights: usize,
    /// Of each file with weights its head, if tensors of it lie in pieces, which the host reads one by one.
    pub(super) heads: Vec<Option<Header>>,
    /// If they are made here.
    pub(super) digests: Option<Digests>,
    /// What no job has read, once that is known.
    pub(super) rest: Option<VecDeque<Write>>,
    /// What the last job has found, for other sessions.
    pub(super) found: Vec<u8>,
    /// Files to copy beside the output: name, path.
    pub(super) companions: Vec<(String, String)>,
    /// Most bytes of a job's reads, or of the reads of one input where it reads all of them at once.
    pub(super) chunk: usize,
    /// The merge's jobs that are still to be handed out, and the piece of the first of them that is next.
    pub(super) pending: Range<u64>,
    pub(super) next: Option<Piece>,
    pub(super) desks: Desks,
    /// by number; few, so that a list serves
    pub(super) handed_out: Vec<(u64, Part)>,
    pub(super) count: u64,
}

/// A job that is handed out.
#[derive(Clone, Copy, Debug)]
pub(super) enum Part {
    /// One of the merge's.
    Whole(u64),
    /// A piece of one of the merge's, which is too large to cross at once.
    Piece(Piece),
    /// Bytes that are only hashed.
    Rest(usize, u64, u64),
}

impl Work {
    /// The next job; `None` after the last.
    pub(super) fn next_job(&mut self) -> Result<Option<Job>> {
        while self.pending.is_empty() {
            match self.merge.next()? {
                Next::Jobs(numbers) => self.pending = numbers,
                Next::Wait if self.merge.is_last() => return self.next_rest(),
                Next::Wait => {
                    return Err(early("the next job depends on those that were handed out"));
                }
                Next::Done => return self.next_rest(),
            }
        }
        Ok(Some(self.next_part()))
    }

    /// The next job of those that only find the weights; `None` when they are known.
    pub(super) fn next_to_weigh(&mut self) -> Result<Option<Job>> {
        if self.pending.is_empty() {
            match self.merge.next_to_weigh()? {
                Next::Jobs(numbers) => self.pending = numbers,
                Next::Wait => return Err(early("the weights depend on the jobs that were handed out")),
                Next::Done => return Ok(None),
            }
        }
        Ok(Some(self.next_part()))
    }

    fn next_part(&mut self) -> Job {
        let job = self.merge.job(self.pending.start);
        let part = if job.is_elementwise() {
            Part::Whole(self.pending.start)
        } else {
            Part::Piece(self.next.unwrap_or(Piece::first(self.pending.start)))
        };
        self.next = if let Part::Piece(piece) = part { piece.after(&job, self.chunk as u64) } else { None };
        if self.next.is_none() {
            self.pending.start += 1;
        }
        self.hand_out(part)
    }

    /// The next job that reads what no other has; `None` after the last.
    fn next_rest(&mut self) -> Result<Option<Job>> {
        if self.rest.is_none() {
            if self.digests.is_some() && !self.handed_out.is_empty() {
                return Err(early("what is still to be read depends on the jobs that were handed out"));
            }
            // of tensors without elements no job writes anything
            self.know_outputs();
            let Some(digests) = &self.digests else { return Ok(None) };
            let span = |(file, range)| Write { file, range };
            self.rest = Some(digests.missing().map(span).collect());
        }
        let Some(rest) = self.rest.as_mut().and_then(VecDeque::front_mut) else { return Ok(None) };
        let Write { file, range: Range { start, end } } = rest.clone();
        // pieces end where subtrees of the hash do
        let chunk = self.chunk as u64;
        let stop = end.min((start / chunk + 1) * chunk);
        rest.range.start = stop;
        if stop == end {
            self.rest.as_mut().map(VecDeque::pop_front);
        }
        Ok(Some(self.hand_out(Part::Rest(file, start, stop))))
    }

    fn hand_out(&mut self, part: Part) -> Job {
        let (reads, writes) = self.ranges(part);
        let reads = self.pieces(reads);
        let number = self.count;
        self.count += 1;
        self.handed_out.push((number, part));
        let module = if let Part::Piece(piece) = part { Some(piece.job) } else { None };
        Job { number, reads, writes, module }
    }

    /// What a job reads of the inputs and writes of the outputs.
    fn ranges(&self, part: Part) -> (Vec<Write>, Vec<Write>) {
        let (reads, writes) = match part {
            Part::Whole(number) => {
                let job = self.merge.job(number);
                (job.reads().collect(), job.writes().collect())
            }
            Part::Piece(piece) => piece.ranges(&self.merge.job(piece.job), self.chunk as u64),
            Part::Rest(file, start, end) => return (vec![Write { file, range: start..end }], Vec::new()),
        };
        let of = |Read { input, file, range }| Write { file: self.firsts[input] + file, range };
        (reads.into_iter().map(of).collect(), writes)
    }

    /// What must be read of the files for the reads of a job: these, but for tensors that lie in pieces.
    fn pieces(&self, reads: Vec<Write>) -> Vec<Write> {
        if self.is_in_place() {
            return reads;
        }
        let pieces = |read: Write| {
            let Some(Some(header)) = self.heads.get(read.file) else { return vec![read] };
            let of = |(other, range)| Write { file: self.beside(read.file, other), range };
            header.reads(&read.range).into_iter().map(of).collect()
        };
        reads.into_iter().flat_map(pieces).collect()
    }

    /// Whether no tensor lies in pieces.
    fn is_in_place(&self) -> bool {
        self.heads.iter().all(Option::is_none)
    }

    /// The number of a file, or of another of its checkpoint's.
    fn beside(&self, file: usize, other: Option<usize>) -> usize {
        let first = self.firsts.partition_point(|first| *first <= file) - 1;
        other.map_or(file, |other| self.firsts[first] + other)
    }

    /// Put together what was read for the reads of a job; `chunks` are the bytes of all their pieces.
    fn whole<'a>(&self, reads: &[Write], chunks: &[&'a [u8]]) -> Vec<Cow<'a, [u8]>> {
        let mut chunks = chunks.iter().copied();
        let mut next = || chunks.next().expect("their lengths were compared");
        let mut all = Vec::with_capacity(reads.len());
        for read in reads {
            let Some(Some(header)) = self.heads.get(read.file) else {
                all.push(Cow::Borrowed(next()));
                continue;
            };
            let mut room = vec![0; length(read)];
            let Ok(()) = header.read(read.range.start, &mut room, |_, _, into| {
                into.copy_from_slice(next());
                Ok::<(), Infallible>(())
            });
            all.push(Cow::Owned(room));
        }
        all
    }

    fn part(&self, number: u64) -> Result<Part> {
        let part = self.handed_out.iter().find(|(other, _)| *other == number).map(|(_, part)| *part);
        part.ok_or_else(|| {
            Error::new(ErrorKind::Usage, format!("job {number} is not handed out, or was run already"))
                .help("run each job once, by the number that came with it")
        })
    }

    pub(super) fn lengths(&self, number: u64) -> Result<Vec<usize>> {
        let (reads, _) = self.ranges(self.part(number)?);
        Ok(self.pieces(reads).iter().map(length).collect())
    }

    pub(super) fn run(&mut self, number: u64, chunks: &[&[u8]], compute: Compute) -> Result<Vec<u8>> {
        let part = self.part(number)?;
        let (reads, writes) = self.ranges(part);
        let pieces = self.pieces(reads.clone());
        let wanted: Vec<usize> = pieces.iter().map(length).collect();
        let given: Vec<usize> = chunks.iter().map(|chunk| chunk.len()).collect();
        if wanted != given {
            let detail = format!("job {number} reads chunks of {wanted:?} bytes, but got {given:?}");
            return Err(Error::new(ErrorKind::Usage, detail).help("give the bytes of each read, in order"));
        }
        let read = chunks;
        let (gathered, rooms);
        let chunks = if self.is_in_place() {
            read
        } else {
            gathered = self.whole(&reads, read);
            rooms = gathered.iter().map(|room| &**room).collect::<Vec<_>>();
            rooms.as_slice()
        };
        let mut told = None;
        let out = match part {
            Part::Whole(number) => {
                let job = self.merge.job(number);
                let length: u64 = job.writes().map(|write| write.range.end - write.range.start).sum();
                let length = usize::try_from(length).expect("a job writes at most eight bytes per element");
                let mut out = vec![0; length];
                told = Some(compute(&job, Bytes::Whole(chunks), &mut [&mut out])?);
                out
            }
            Part::Piece(piece) if piece.is_result => self.desks.hand_out(piece, self.chunk as u64)?,
            Part::Piece(piece) => {
                let job = self.merge.job(piece.job);
                told = self.desks.take(piece, &job, self.chunk as u64, chunks, compute)?;
                Vec::new()
            }
            Part::Rest(..) => Vec::new(),
        };
        if !writes.is_empty() {
            self.know_outputs();
        }
        let is_hashed = match part {
            Part::Whole(job) | Part::Piece(Piece { job, .. }) => self.merge.job(job).is_hashed(),
            Part::Rest(..) => true,
        };
        let parts = self.digests.as_ref().map(|digests| {
            if !is_hashed {
                return Parts::default();
            }
            let mut rest = out.as_slice();
            let piece = |write: &'_ Write| {
                let length = usize::try_from(write.range.end - write.range.start).unwrap_or(usize::MAX);
                rest.split_off(..length).expect("the result has the bytes of all writes")
            };
            let written: Vec<_> = writes.iter().map(piece).collect();
            digests.parts(pieces.iter().zip(read.iter().copied()), writes.iter().zip(written))
        });
        self.found = encoded(told.as_ref(), parts.as_ref());
        self.done(number, part, told, parts)?;
        Ok(out)
    }

    /// A job is done, here or elsewhere.
    fn done(&mut self, number: u64, part: Part, found: Option<Found>, parts: Option<Parts>) -> Result<()> {
        if let Some(found) = found {
            let job = match part {
                Part::Whole(job) | Part::Piece(Piece { job, .. }) => job,
                Part::Rest(..) => return Err(foreign()),
            };
            self.merge.found(job, found)?;
        }
        if let (Some(digests), Some(parts)) = (&mut self.digests, parts) {
            digests.take(parts);
        }
        self.handed_out.retain(|(other, _)| *other != number);
        Ok(())
    }

    pub(super) fn take(&mut self, number: u64, found: &[u8]) -> Result<()> {
        let part = self.part(number)?;
        let (_, writes) = self.ranges(part);
        if !writes.is_empty() {
            self.know_outputs();
        }
        let (count, mut rest) = found.split_first_chunk().ok_or_else(foreign)?;
        let mut numbers = Vec::new();
        for _ in 0..u32::from_le_bytes(*count) {
            let (number, after) = rest.split_first_chunk().ok_or_else(foreign)?;
            numbers.push(f64::from_le_bytes(*number));
            rest = after;
        }
        let told = if numbers.is_empty() { None } else { Some(Found::from_numbers(&numbers)?) };
        let parts = match &self.digests {
            Some(digests) => Some(digests.decode(rest).ok_or_else(foreign)?),
            None => None,
        };
        self.done(number, part, told, parts)
    }

    /// With the first job that writes it is known what, at the latest with the last of all.
    fn know_outputs(&mut self) {
        if let Some(digests) = &mut self.digests {
            self.merge.begin_outputs(digests);
        }
    }

    /// The hashes that were made here, of all but the companions that were left out.
    pub(super) fn hashes(&self, left_out: &[String]) -> Result<Hashes> {
        let Some(digests) = &self.digests else {
            let detail = "the host makes the hashes, but gives none";
            return Err(Error::new(ErrorKind::Usage, detail).help("give one for each file"));
        };
        let read = |file| digests.of_read(file).map(Hash::from);
        let written = |file| digests.of_written(file).map(Hash::from);
        let missing = || early("not all files are hashed yet");
        let texts = self.merge.texts();
        let mut companions: Vec<_> =
            texts.iter().map(|(name, text)| HashedFile::of(name, text.as_bytes())).collect();
        for (file, path) in self.inputs.iter().enumerate().skip(self.weights) {
            let (name, _) =
                self.companions.iter().find(|(_, other)| other == path).expect("it is one of them");
            if !left_out.contains(name) {
                let blake3 = digests.of_read(file).ok_or_else(missing)?;
                let unhashed = HashedFile::unhashed(name.clone(), digests.read_len(file));
                companions.push(HashedFile { blake3, ..unhashed });
            }
        }
        Ok(Hashes {
            inputs: (0..self.weights).map(read).collect::<Option<_>>().ok_or_else(missing)?,
            outputs: (0..self.merge.outputs().len())
                .map(written)
                .collect::<Option<_>>()
                .ok_or_else(missing)?,
            companions,
        })
    }
}

/// Bytes of a chunk.
fn length(read: &Write) -> usize {
    usize::try_from(read.range.end - read.range.start).expect("a chunk is at most MOST bytes")
}

/// What a job has found and hashed, for other sessions: how many numbers, the numbers, and parts of hashes.
fn encoded(found: Option<&Found>, parts: Option<&Parts>) -> Vec<u8> {
    let numbers = found.map(Found::to_numbers).unwrap_or_default();
    let mut bytes = u32::try_from(numbers.len()).expect("few numbers").to_le_bytes().to_vec();
    bytes.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
    bytes.extend(parts.map(Parts::encode).unwrap_or_default());
    bytes
}

fn early(detail: &'static str) -> Error {
    Error::new(ErrorKind::Usage, detail)
        .help("run them first: they compare the checkpoints, find ranks, or hash files")
}

fn foreign() -> Error {
    Error::new(ErrorKind::Usage, "this is not what such a job has found")
        .help("take what another session found that was opened alike, job by job")
}
