//! What of a task is large enough to count: the exact k-th magnitude of all that it changed, without sorting.
//!
//! The order of magnitudes of f32 is the order of their bits. Over the whole model a first pass counts by the upper 15 bits, and
//! finds where the k-th lies; a second counts the lower 16 of those that lie there. A job is a chunk of all tasks; counts
//! add in any order. By tensor a job is a tensor of one task, which it reads twice. All values as large as the k-th count, so that
//! several that are equal do not depend on their order.

use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

use crate::dtype::Float;
use crate::error::{Error, ErrorKind, Result};
use crate::kernel::Tally;
use crate::kernel::element::{flush, round};
use crate::method::blend::Trimming;
use crate::method::product::{Reader, widen};
use crate::plan;
use crate::plan::{Cuts, Plan, Read};
use crate::room::{resize, zeros};

/// Bits of a magnitude that the second pass looks at, and those of the first.
const LOWER: u32 = 16;
const UPPER: u32 = 31 - LOWER;
/// Most bytes of one input in a chunk, and at a time.
const CHUNK: usize = 4 << 20;
const WINDOW: usize = 64 << 10;
/// Elements per block, whose values lie in the first-level cache.
const BLOCK: usize = 512;

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
        match self.look {
            Look::Upper => {
                let mut counts = zeros::<u32>(self.tasks.len() << UPPER)?;
                self.sweep(max_bytes, read, |task, bits| {
                    counts[task << UPPER | (bits >> LOWER) as usize] += 1;
                })?;
                Ok(sparse(&counts))
            }
            Look::Lower(found) => {
                let mut counts = zeros::<u32>(self.tasks.len() << LOWER)?;
                self.sweep(max_bytes, read, |task, bits| {
                    if bits >> LOWER == found[task].0 {
                        counts[task << LOWER | (bits & 0xffff) as usize] += 1;
                    }
                })?;
                Ok(sparse(&counts))
            }
            Look::Whole(wanted) => {
                let mut counts = zeros::<u64>(1 << UPPER)?;
                self.sweep(max_bytes, read, |_, bits| counts[(bits >> LOWER) as usize] += 1)?;
                let (upper, left) = descend(&counts, wanted);
                let mut counts = zeros::<u64>(1 << LOWER)?;
                self.sweep(max_bytes, read, |_, bits| {
                    if bits >> LOWER == upper {
                        counts[(bits & 0xffff) as usize] += 1;
                    }
                })?;
                let (lower, _) = descend(&counts, left);
                Ok(vec![f32::from_bits(upper << LOWER | lower).into()])
            }
        }
    }

    /// Tell `take` of each magnitude, as bits, of each task.
    #[inline(always)]
    fn sweep(&self, max_bytes: usize, read: &mut Reader<'_>, mut take: impl FnMut(usize, u32)) -> Result<()> {
        let all: Vec<Float> = self.job.floats().collect();
        let floats: Vec<_> = (0..self.read_count()).map(|i| all[self.operand(i)]).collect();
        // as the sum does it: of any that is F64, all
        let in_f64 = self.job.is_f64();
        let elements = usize::try_from(self.job.count()).expect("a tensor's elements can be counted");
        let size: usize = floats.iter().map(|float| float.bytes()).sum();
        let step = (max_bytes.min(WINDOW * floats.len()) / size / BLOCK * BLOCK).max(BLOCK);
        let mut buffers = vec![Vec::new(); floats.len()];
        let mut base = [0.0; BLOCK];
        let mut task = [0.0; BLOCK];
        for start in (0..elements).step_by(step) {
            let count = step.min(elements - start);
            for (i, (buffer, float)) in buffers.iter_mut().zip(&floats).enumerate() {
                let Read { input, file, range } = self.read(i);
                let from = range.start + (start * float.bytes()) as u64;
                resize(buffer, count * float.bytes())?;
                read(&Read { input, file, range: from..from + buffer.len() as u64 }, buffer)?;
            }
            for first in (0..count).step_by(BLOCK) {
                let block = BLOCK.min(count - first);
                let bytes = |i: usize| {
                    let size = floats[i].bytes();
                    &buffers[i][first * size..(first + block) * size]
                };
                widen(floats[0], bytes(0), &mut base[..block]);
                self.check(0, &base[..block], start + first)?;
                for (i, float) in floats.iter().enumerate().skip(1) {
                    widen(*float, bytes(i), &mut task[..block]);
                    self.check(i, &task[..block], start + first)?;
                    for (x, b) in task[..block].iter().zip(&base) {
                        let change =
                            if in_f64 { round(x - b) } else { flush(flush(round(*x)) - flush(round(*b))) };
                        let bits = change.to_bits() & 0x7fff_ffff;
                        if bits <= 0x7f80_0000 {
                            take(i - 1, bits);
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Refuse values that are not finite, unless they are let through.
    fn check(&self, i: usize, values: &[f64], first: usize) -> Result<()> {
        let is_bad = |value: &f64| !value.is_finite();
        let Some(at) = values.iter().position(is_bad) else { return Ok(()) };
        if self.job.accepts(Tally { non_finite: 1, underflowed: 0 }) {
            return Ok(());
        }
        let detail = alloc::format!("holds {}", values[at]);
        let error: Error = self.job.at(ErrorKind::NonFinite, self.read(i).input, first + at, detail);
        Err(error.help("the run has diverged there: leave that checkpoint out (--drop-bad does)"))
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
