//! What of a task is large enough to count: the exact k-th magnitude of all that it changed, without sorting.
//!
//! The order of magnitudes of f32 is the order of their bits. Over the whole model a first pass counts by the upper 15 bits, and
//! finds where the k-th lies; a second counts the lower 16 of those that lie there. A job is a chunk of all tasks; counts
//! add in any order. By tensor a job is a tensor of one task, which it reads twice. All values as large as the k-th count, so that
//! several that are equal do not depend on their order.

use alloc::vec;
use alloc::vec::Vec;
use core::ops::{AddAssign, Range};

use crate::dtype::Float;
use crate::error::{Error, ErrorKind, Result};
use crate::kernel::element::round;
use crate::kernel::{INFINITY, Magnitudes, Operand, Tally};
use crate::method::blend::Trimming;
use crate::method::product::Reader;
use crate::plan;
use crate::plan::{Cuts, Plan, Read};
use crate::room::{resize, zeros};

/// Bits of a magnitude that the second pass looks at, and those of the first.
const LOWER: u32 = 16;
const UPPER: u32 = 31 - LOWER;
/// Most bytes of one input in a chunk, and at a time.
const CHUNK: usize = 4 << 20;
const WINDOW: usize = 64 << 10;

/// The thresholds of tasks.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Thresholds {
    /// They are not known, or there are none.
    #[default]
    None,
    /// One of each task.
    Model(Vec<f32>),
    /// By the name of a tensor, one of each task; sorted.
    Tensor(Vec<(alloc::string::String, Vec<f32>)>),
}

impl Thresholds {
    /// Of a task in a tensor.
    pub(crate) fn of(&self, tensor: &str, task: usize) -> f32 {
        match self {
            Self::None => 0.0,
            Self::Model(all) => all[task],
            Self::Tensor(all) => {
                let place = all.binary_search_by(|(name, _)| name.as_str().cmp(tensor));
                place.map_or(0.0, |place| all[place].1[task])
            }
        }
    }
}

/// The search for thresholds.
#[derive(Debug)]
pub(crate) struct Trim {
    plan: Plan,
    cuts: Cuts,
    tasks: usize,
    trimming: Trimming,
    /// Of each task the bits that the first pass has found, and how many more are wanted among those that have them.
    found: Vec<(u32, u64)>,
    pass: u32,
    /// How many jobs of this pass were told of.
    told: u64,
    counts: Vec<u64>,
    /// By tensor, the threshold that each job has found.
    least: Vec<Option<f64>>,
}

/// A part of the search.
#[derive(Clone, Debug)]
pub(crate) struct Count<'a> {
    job: plan::Job<'a>,
    /// The tasks that are looked at.
    tasks: Range<usize>,
    look: Look<'a>,
}

#[derive(Clone, Copy, Debug)]
enum Look<'a> {
    Upper,
    Lower(&'a [(u32, u64)]),
    /// For the threshold itself: so many are wanted.
    Whole(u64),
}

impl Trim {
    /// Look for the thresholds of what `plan` computes, which was made by tensor.
    pub(crate) fn new(tasks: usize, plan: Plan, trimming: Trimming) -> Result<Self> {
        let plan = plan.computed();
        let is_whole = trimming.is_by_tensor;
        let cuts = Cuts::new(&plan, if is_whole { usize::MAX } else { CHUNK });
        let count = usize::try_from(cuts.count()).expect("tensors are in memory");
        Ok(Self {
            tasks,
            trimming,
            found: Vec::new(),
            pass: 0,
            told: 0,
            counts: if is_whole { Vec::new() } else { zeros(tasks << UPPER)? },
            least: if is_whole { vec![None; count * tasks] } else { Vec::new() },
            plan,
            cuts,
        })
    }

    /// How many jobs this pass has; none when all is found.
    pub(crate) fn count(&self) -> u64 {
        if self.trimming.is_by_tensor { self.least.len() as u64 } else { self.cuts.count() }
    }

    /// How many passes there are.
    pub(crate) fn passes(&self) -> u64 {
        if self.trimming.is_by_tensor { 1 } else { 2 }
    }

    /// Bytes that the jobs of this pass read.
    pub(crate) fn bytes(&self) -> u64 {
        if !self.trimming.is_by_tensor {
            return self.plan.bytes();
        }
        let jobs = (0..self.count()).map(|number| self.job(number));
        jobs.map(|job| {
            (0..job.read_count()).map(|i| job.read(i)).map(|it| it.range.end - it.range.start).sum::<u64>()
        })
        .sum()
    }

    /// The job with a number below [`Trim::count`].
    pub(crate) fn job(&self, number: u64) -> Count<'_> {
        let tasks = self.tasks as u64;
        if self.trimming.is_by_tensor {
            let job = self.cuts.job(&self.plan, number / tasks);
            let task = usize::try_from(number % tasks).expect("tasks are in memory");
            return Count { job, tasks: task..task + 1, look: Look::Whole(self.trimming.keep(job.count())) };
        }
        let look = if self.pass == 0 { Look::Upper } else { Look::Lower(&self.found) };
        Count { job: self.cuts.job(&self.plan, number), tasks: 0..self.tasks, look }
    }

    /// Take in what so many jobs have counted together; whether that can be.
    pub(crate) fn take(&mut self, jobs: u64, counts: &[u64]) -> bool {
        self.told += jobs;
        self.counts.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
        self.told <= self.count() && !self.trimming.is_by_tensor
    }

    /// Take in the threshold that a job has found; whether that can be.
    pub(crate) fn take_least(&mut self, number: u64, least: f64) -> bool {
        let place = usize::try_from(number).ok().and_then(|place| self.least.get_mut(place));
        let place = place.filter(|place| place.is_none());
        self.told += u64::from(place.is_some());
        place.map(|place| *place = Some(least)).is_some()
    }

    /// Whether all jobs of this pass were told of.
    pub(crate) fn is_told(&self) -> bool {
        self.told == self.count()
    }

    /// All jobs of a pass were told of: the thresholds, if it was the last.
    pub(crate) fn settle(&mut self) -> Result<Option<Thresholds>> {
        if self.trimming.is_by_tensor {
            let tensors = self.least.chunks(self.tasks).enumerate().map(|(place, least)| {
                let of_task = |least: &Option<f64>| round(least.unwrap_or_default());
                (
                    self.plan.tensor_of(&self.cuts.job(&self.plan, place as u64)),
                    least.iter().map(of_task).collect(),
                )
            });
            // the plan's jobs are by name
            return Ok(Some(Thresholds::Tensor(tensors.collect())));
        }
        let bits = if self.pass == 0 { UPPER } else { LOWER };
        let wanted = self.trimming.keep(self.plan.elements());
        let tables = self.counts.chunks(1 << bits).enumerate();
        let found: Vec<_> = tables
            .map(|(task, counts)| {
                let (upper, wanted) = self.found.get(task).copied().unwrap_or((0, wanted));
                let (place, left) = descend(counts, wanted);
                (upper << bits | place, left)
            })
            .collect();
        if self.pass == 1 {
            return Ok(Some(Thresholds::Model(
                found.iter().map(|(bits, _)| f32::from_bits(*bits)).collect(),
            )));
        }
        (self.pass, self.told, self.found) = (1, 0, found);
        self.counts = zeros(self.tasks << LOWER)?;
        Ok(None)
    }
}

/// The highest place from which on there are so many, and how many of these lie at it; the lowest where there are fewer.
fn descend(counts: &[u64], wanted: u64) -> (u32, u64) {
    let mut left = wanted;
    for (place, count) in counts.iter().enumerate().rev() {
        if *count >= left {
            return (u32::try_from(place).expect("counts have few places"), left);
        }
        left -= count;
    }
    (0, left)
}

impl Count<'_> {
    /// How many reads there are: the base, and the tasks.
    pub(crate) fn read_count(&self) -> usize {
        1 + self.tasks.len()
    }

    /// One of them.
    pub(crate) fn read(&self, i: usize) -> Read {
        self.job.read(self.operand(i))
    }

    fn operand(&self, i: usize) -> usize {
        if i == 0 { 0 } else { self.tasks.start + i }
    }

    /// Whether it counts, or finds a threshold itself.
    pub(crate) fn counts(&self) -> bool {
        !matches!(self.look, Look::Whole(_))
    }

    /// What there is of each count that is not 0, and its place; or the threshold.
    ///
    /// `read` is as of [`crate::method::apart::Chunk`]. Always inlined, so that a host may compile it for wider instructions.
    ///
    /// # Errors
    /// [`ErrorKind::NonFinite`], naming input and tensor; those of `read`.
    #[cfg_attr(target_family = "wasm", inline(never))]
    #[cfg_attr(not(target_family = "wasm"), inline(always))]
    pub(crate) fn run(&self, max_bytes: usize, read: &mut Reader<'_>) -> Result<Vec<f64>> {
        let tasks = self.tasks.len();
        match self.look {
            Look::Upper => {
                let mut counts = zeros::<u32>(tasks << UPPER)?;
                let mut sweep = Sweep::new(self, max_bytes);
                while sweep.next(read)? {
                    for (task, counts) in counts.chunks_exact_mut(1 << UPPER).enumerate() {
                        count_upper(counts, sweep.magnitudes.of(task));
                    }
                }
                Ok(sparse(&counts))
            }
            Look::Lower(found) => {
                let mut counts = zeros::<u32>(tasks << LOWER)?;
                let mut sweep = Sweep::new(self, max_bytes);
                while sweep.next(read)? {
                    for (task, counts) in counts.chunks_exact_mut(1 << LOWER).enumerate() {
                        count_lower(counts, sweep.magnitudes.of(task), found[task].0);
                    }
                }
                Ok(sparse(&counts))
            }
            Look::Whole(wanted) => {
                let mut counts = zeros::<u64>(1 << UPPER)?;
                let mut sweep = Sweep::new(self, max_bytes);
                while sweep.next(read)? {
                    count_upper(&mut counts, sweep.magnitudes.of(0));
                }
                let (upper, left) = descend(&counts, wanted);
                let mut counts = zeros::<u64>(1 << LOWER)?;
                let mut sweep = Sweep::new(self, max_bytes);
                while sweep.next(read)? {
                    count_lower(&mut counts, sweep.magnitudes.of(0), upper);
                }
                let (lower, _) = descend(&counts, left);
                Ok(vec![f32::from_bits(upper << LOWER | lower).into()])
            }
        }
    }

    /// Refuse values that are not finite, unless they are let through; the operands begin at an element of the chunk.
    #[cold]
    #[inline(never)]
    fn check(&self, operands: &[Operand<'_>], block: &Range<usize>, start: usize) -> Result<()> {
        if self.job.accepts(Tally { non_finite: 1, underflowed: 0 }) {
            return Ok(());
        }
        for (i, operand) in operands.iter().enumerate() {
            let size = operand.dtype.bytes();
            let value = |at: usize| operand.dtype.value(&operand.bytes[at * size..(at + 1) * size]);
            if let Some(at) = block.clone().find(|at| !value(*at).is_finite()) {
                let detail = alloc::format!("holds {}", value(at));
                let input = self.read(i).input;
                let error: Error = self.job.at(ErrorKind::NonFinite, input, start + at, detail);
                return Err(
                    error.help("the run has diverged there: leave that checkpoint out (--drop-bad does)")
                );
            }
        }
        Ok(())
    }
}

/// A walk over the magnitudes of a part, block by block.
///
/// It is no function that takes a closure: these cannot be told to be inlined, and would be compiled for any CPU.
struct Sweep<'a> {
    part: &'a Count<'a>,
    floats: Vec<Float>,
    /// Most elements that are read at once, and those that were.
    most: usize,
    window: Range<usize>,
    buffers: Vec<Vec<u8>>,
    /// Where the next block begins.
    at: usize,
    magnitudes: Magnitudes,
}

impl<'a> Sweep<'a> {
    fn new(part: &'a Count<'a>, max_bytes: usize) -> Self {
        let all: Vec<Float> = part.job.floats().collect();
        let floats: Vec<_> = (0..part.read_count()).map(|i| all[part.operand(i)]).collect();
        let size: usize = floats.iter().map(|float| float.bytes()).sum();
        let block = Magnitudes::MOST;
        Self {
            most: (max_bytes.min(WINDOW * floats.len()) / size / block * block).max(block),
            window: 0..0,
            buffers: vec![Vec::new(); floats.len()],
            at: 0,
            magnitudes: Magnitudes::new(floats.len(), part.job.is_f64()),
            floats,
            part,
        }
    }

    /// Go on to the next block; whether there is one.
    #[inline(always)]
    fn next(&mut self, read: &mut Reader<'_>) -> Result<bool> {
        if self.at == self.window.end && !self.refill(read)? {
            return Ok(false);
        }
        let block = self.at..self.window.end.min(self.at + Magnitudes::MOST);
        self.at = block.end;
        let start = self.window.start;
        let operands = self.buffers.iter().zip(&self.floats);
        let operands: Vec<_> =
            operands.map(|(bytes, dtype)| Operand { dtype: *dtype, bytes, weight: 1.0 }).collect();
        let block = block.start - start..block.end - start;
        if !self.magnitudes.fill(&operands, &block) {
            self.part.check(&operands, &block, start)?;
        }
        Ok(true)
    }

    /// Read what comes next; whether there is more.
    #[inline(never)]
    fn refill(&mut self, read: &mut Reader<'_>) -> Result<bool> {
        let elements = usize::try_from(self.part.job.count()).expect("a tensor's elements can be counted");
        self.window = self.window.end..elements.min(self.window.end + self.most);
        if self.window.is_empty() {
            return Ok(false);
        }
        for (i, (buffer, float)) in self.buffers.iter_mut().zip(&self.floats).enumerate() {
            let Read { input, file, range } = self.part.read(i);
            let from = range.start + (self.window.start * float.bytes()) as u64;
            resize(buffer, self.window.len() * float.bytes())?;
            read(&Read { input, file, range: from..from + buffer.len() as u64 }, buffer)?;
        }
        Ok(true)
    }
}

/// Count by the upper bits. Magnitudes of NaN, which are above infinity's, count nowhere.
#[inline(always)]
fn count_upper<C: AddAssign + From<u8>>(counts: &mut [C], magnitudes: &[u32]) {
    for bits in magnitudes.iter().filter(|bits| **bits <= INFINITY) {
        counts[(bits >> LOWER) as usize] += C::from(1);
    }
}

/// Count those that have these upper bits by the lower ones.
#[inline(always)]
fn count_lower<C: AddAssign + From<u8>>(counts: &mut [C], magnitudes: &[u32], upper: u32) {
    let is_one = |bits: &u32| (bits >> LOWER == upper) & (*bits <= INFINITY);
    // they are few: most of so many are passed over at once
    for some in magnitudes.chunks(16) {
        if some.iter().fold(false, |any, bits| any | is_one(bits)) {
            for bits in some.iter().filter(|bits| is_one(bits)) {
                counts[(bits & 0xffff) as usize] += C::from(1);
            }
        }
    }
}

/// Place and count of all that are not 0.
fn sparse(counts: &[u32]) -> Vec<f64> {
    let live = (0_u32..).zip(counts).filter(|(_, count)| **count > 0);
    live.flat_map(|(place, count)| [place.into(), (*count).into()]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_places_that_hold_so_many() {
        assert_eq!(descend(&[5, 0, 2, 1], 1), (3, 1));
        assert_eq!(descend(&[5, 0, 2, 1], 3), (2, 2));
        assert_eq!(descend(&[5, 0, 2, 1], 4), (0, 1));
        assert_eq!(descend(&[0, 1], 4), (0, 3));
    }
}
