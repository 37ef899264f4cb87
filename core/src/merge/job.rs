//! A job of a merge: which bytes to read, what to do with them, where the result goes; one enum, one `run`.

use core::ops::Range;

use crate::dtype::Float;
use crate::error::Result;
use crate::kernel::{Tally, Twin};
use crate::merge::found::Found;
use crate::merge::same_run::Beginnings;
use crate::method::apart::Chunk;
use crate::method::product::{Method, ModuleJob, Reader};
use crate::method::scaled::ScaledJob;
use crate::method::trim::Count;
use crate::plan;
use crate::plan::{Read, Write};

/// One piece of work. Any thread, device or border may run it, in any order with others of the same [`super::Next::Jobs`].
#[derive(Clone, Debug)]
pub struct Job<'a>(pub(super) Work<'a>);

/// What is done with the bytes.
#[derive(Clone, Debug)]
pub(super) enum Work<'a> {
    /// Compared and copied, or computed element by element.
    Elements(plan::Job<'a>),
    /// Compared in direction: the beginning of one factor of every input.
    Sample(Beginnings<'a>),
    /// A chunk of a tensor of every input, of which distances are measured.
    Apart(Chunk<'a>),
    /// A chunk of tasks and of their base, or a tensor of one, of which it is found what counts.
    Trim(Count<'a>),
    /// All of a LoRA module.
    Module(ModuleJob<'a>, Aim),
    /// Some rows of a weight that is codes of scales.
    Scaled(ScaledJob<'a>),
}

/// What is wanted of a module.
#[derive(Clone, Copy, Debug)]
pub(super) enum Aim {
    /// How far the average of its factors is from the average of its products.
    Residual(Method),
    /// What the products of all inputs have in common.
    Common,
    /// The rank that keeps this share of its energy.
    Rank(f64),
    /// Its merged factors.
    Merge,
}

/// How a job gets its bytes.
#[expect(missing_debug_implementations, reason = "a reader is a closure")]
pub enum Bytes<'a, 'r> {
    /// All of [`Job::reads`], in order.
    Whole(&'a [&'a [u8]]),
    /// In pieces that take at most this many bytes together, asked for one after the other; for jobs with [`Job::is_windowed`].
    Windows(usize, &'a mut Reader<'r>),
}

/// Most bytes that a residual takes at once where all are in memory: they stay in a second-level cache. The result does not
/// depend on it.
const WINDOW: usize = 2 << 20;

impl Work<'_> {
    /// Whether the work asks for what it reads piece by piece, also where all of it is there.
    fn reads_by_windows(&self) -> bool {
        matches!(
            self,
            Self::Apart(_)
                | Self::Trim(_)
                | Self::Module(_, Aim::Residual(_) | Aim::Common)
                | Self::Scaled(_)
        )
    }
}

impl<'a> Job<'a> {
    /// What must be read, in order. Inputs of weight zero are not among them.
    pub fn reads(&self) -> impl ExactSizeIterator<Item = Read> + '_ {
        let count = match &self.0 {
            Work::Elements(job) => job.reads().len(),
            Work::Sample(sample) => sample.reads().len(),
            Work::Apart(chunk) => chunk.read_count(),
            Work::Trim(count) => count.read_count(),
            Work::Module(job, _) => job.read_count(),
            Work::Scaled(job) => job.read_count(),
        };
        (0..count).map(|i| match &self.0 {
            Work::Elements(job) => job.read(i),
            Work::Sample(sample) => sample.reads()[i].0.clone(),
            Work::Apart(chunk) => chunk.read(i),
            Work::Trim(count) => count.read(i),
            Work::Module(job, _) => job.read(i),
            Work::Scaled(job) => job.read(i),
        })
    }

    /// Where the results go; nowhere for a job that only finds something out.
    pub fn writes(&self) -> impl ExactSizeIterator<Item = Write> + '_ {
        let count = match &self.0 {
            Work::Elements(_) => 1,
            Work::Sample(_) | Work::Apart(_) | Work::Trim(_) => 0,
            Work::Module(job, _) => job.placed().len(),
            Work::Scaled(_) => 2,
        };
        (0..count).map(|i| match &self.0 {
            Work::Elements(job) => job.write(),
            Work::Module(job, _) => job.placed()[i].0.clone(),
            Work::Scaled(job) => job.write(i),
            Work::Sample(_) | Work::Apart(_) | Work::Trim(_) => unreachable!("they write nothing"),
        })
    }

    /// Bytes of all reads and writes together: what the job takes in memory, unless it is run by windows.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let length = |range: Range<u64>| range.end - range.start;
        let reads: u64 = self.reads().map(|read| length(read.range)).sum();
        reads + self.writes().map(|write| length(write.range)).sum::<u64>()
    }

    /// Whether what it reads is hashed on the way: jobs that write have no byte in common, others read the same again, to
    /// compare it. So it does not depend on the order of jobs what of a file is known.
    #[must_use]
    pub fn is_hashed(&self) -> bool {
        self.writes().len() > 0
    }

    /// Whether it is on elements, and reads as few bytes as it was cut to; others take tensors, or the beginnings of tensors.
    #[must_use]
    pub fn is_elementwise(&self) -> bool {
        matches!(self.0, Work::Elements(_))
    }

    /// Whether [`Bytes::Windows`] will do, so that the memory does not grow with what is read.
    #[must_use]
    pub fn is_windowed(&self) -> bool {
        match &self.0 {
            Work::Scaled(job) => job.is_windowed(),
            other => other.reads_by_windows(),
        }
    }

    /// Do it; `outputs` are the bytes of [`Job::writes`] in order.
    ///
    /// Always inlined, so that a host may compile the loops for wider instructions; the bits do not depend on that.
    /// Not in the tests of this crate, each of which would compile all loops anew.
    ///
    /// # Errors
    /// [`crate::ErrorKind::NonFinite`], [`crate::ErrorKind::Overflow`] or [`crate::ErrorKind::Differs`], naming the tensor and the input; those of
    /// a reader.
    ///
    /// # Panics
    /// If the slices do not have the lengths promised by `reads` and `writes`, or a job is given windows that has none.
    #[cfg_attr(test, inline(never))]
    #[cfg_attr(not(test), inline(always))]
    pub fn run(&self, bytes: Bytes<'_, '_>, outputs: &mut [&mut [u8]]) -> Result<Found> {
        if self.0.reads_by_windows() {
            return self.run_by_windows(bytes, outputs);
        }
        let Bytes::Whole(inputs) = bytes else { panic!("this job takes its bytes whole") };
        match &self.0 {
            Work::Elements(job) => job.run(inputs, outputs[0]).map(Found::Tally),
            Work::Sample(sample) => Ok(Found::Cosines(sample.cosines(inputs))),
            Work::Module(job, aim) => {
                let energy = if let Aim::Rank(share) = aim { Some(*share) } else { None };
                let (rank, lost) = job.run(energy, inputs, outputs)?;
                Ok(if energy.is_some() { Found::Rank(rank) } else { Found::Residual(Some(lost)) })
            }
            Work::Apart(_) | Work::Trim(_) | Work::Scaled(_) => unreachable!("it reads by windows"),
        }
    }

    /// Those that read by windows do so out of bytes that are all there, too.
    #[cfg_attr(test, inline(never))]
    #[cfg_attr(not(test), inline(always))]
    fn run_by_windows(&self, bytes: Bytes<'_, '_>, outputs: &mut [&mut [u8]]) -> Result<Found> {
        let mut whole;
        let (most, read): (usize, &mut Reader<'_>) = match bytes {
            Bytes::Windows(most, read) => (most, read),
            Bytes::Whole(inputs) => {
                whole = |wanted: &Read, out: &mut [u8]| self.fill(inputs, wanted, out);
                (WINDOW, &mut whole)
            }
        };
        match &self.0 {
            Work::Apart(chunk) => chunk.distances(most, read).map(Found::Pairs),
            Work::Trim(count) => count.run(most, read).map(|found| match count.counts() {
                true => Found::Counts(found),
                false => Found::Least(found[0]),
            }),
            Work::Module(job, Aim::Common) => job.inner_products(most, read).map(Found::Pairs),
            Work::Module(job, Aim::Residual(how)) => job.residual(*how, most, read).map(Found::Residual),
            Work::Scaled(job) => job.run(most, read, outputs).map(|off| Found::Residual(Some(off))),
            _ => unreachable!("it takes its bytes whole"),
        }
    }

    /// Fill `out` with a part of the job's reads, whose bytes are `inputs`.
    fn fill(&self, inputs: &[&[u8]], wanted: &Read, out: &mut [u8]) -> Result<()> {
        let holds = |read: &Read| {
            (read.input, read.file) == (wanted.input, wanted.file)
                && read.range.start <= wanted.range.start
                && wanted.range.end <= read.range.end
        };
        let mut reads = self.reads().zip(inputs);
        let (read, bytes) = reads.find(|(read, _)| holds(read)).expect("a job reads its own tensors");
        let start = usize::try_from(wanted.range.start - read.range.start);
        let start = start.expect("the whole read is in memory");
        out.copy_from_slice(&bytes[start..start + out.len()]);
        Ok(())
    }

    /// [`Job::run`] of whole bytes, elements by the reference kernel: slow and obvious, the same bytes. Tests hold everything
    /// else against it.
    ///
    /// # Errors
    /// As [`Job::run`].
    ///
    /// # Panics
    /// As [`Job::run`].
    // compiled where it is called, or this crate would have all loops
    #[inline]
    pub fn run_reference(&self, inputs: &[&[u8]], outputs: &mut [&mut [u8]]) -> Result<Found> {
        match &self.0 {
            Work::Elements(job) => job.run_reference(inputs, outputs[0]).map(Found::Tally),
            _ => self.run(Bytes::Whole(inputs), outputs),
        }
    }

    /// What a GPU may compute: the kernel, the dtype of the result, dtype and weight of each operand. `None` for whatever is the
    /// CPU's to do.
    #[must_use]
    pub fn twin(&self) -> Option<(Twin, Float, impl ExactSizeIterator<Item = (Float, f64)> + '_)> {
        if let Work::Elements(job) = &self.0 { job.twin() } else { None }
    }

    /// The weighted sum that it is, if it is one: dtype of the result, dtype and weight of each operand.
    #[must_use]
    pub fn sum(&self) -> Option<(Float, impl ExactSizeIterator<Item = (Float, f64)> + '_)> {
        if let Work::Elements(job) = &self.0 { job.sum() } else { None }
    }

    /// Whether results with this tally may be written. If not, [`Job::run`] on the same bytes says why.
    #[must_use]
    pub fn accepts(&self, tally: Tally) -> bool {
        if let Work::Elements(job) = &self.0 { job.accepts(tally) } else { true }
    }
}
