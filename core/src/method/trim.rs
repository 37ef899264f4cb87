//! What of a task is large enough to count: the exact k-th magnitude of all that it changed, without sorting.
//!
//! The order of magnitudes of f32 is the order of their bits. Over the whole model a first pass counts by the upper 15 bits, and
//! finds where the k-th lies; a second counts the lower 16 of those that lie there. A job is a chunk of all tasks; counts
//! add in any order. By tensor a job is a tensor of one task, which it reads twice. All values as large as the k-th count, so that
//! several that are equal do not depend on their order.
//!
//! Where second moments weigh, a pass before finds the mean weight of each input in each tensor: Σ v^p in f64, of every eighth element
//! by itself in the order of the elements, these eight sums added in pairs, over their number. What a task changed counts by v·τ² then,
//! and a last pass counts how much is kept of each tensor.

use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::ops::{AddAssign, Range};

use crate::dtype::Float;
use crate::error::{Error, ErrorKind, Result};
use crate::kernel::curved::root;
use crate::kernel::element::round;
use crate::kernel::{INFINITY, Magnitudes, Operand, Tally};
use crate::method::blend::{Blend, Trimming};
use crate::method::curved::{Curvature, Means};
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
/// Sums of moments at a time: a block of [`Magnitudes::MOST`] holds whole rounds of them.
const LANES: usize = 8;

/// The thresholds of tasks.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Thresholds {
    /// They are not known, or there are none.
    #[default]
    None,
    /// One of each task.
    Model(Vec<f32>),
    /// By the name of a tensor, one of each task; sorted.
    Tensor(Vec<(String, Vec<f32>)>),
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

/// What the passes have found.
#[derive(Clone, Debug, Default)]
pub(crate) struct Settled {
    pub(crate) thresholds: Thresholds,
    /// Where inputs are weighed by second moments, their mean weights.
    pub(crate) means: Means,
    /// How many elements of each tensor count, of each task, and how many there are; sorted.
    pub(crate) kept: Vec<(String, Vec<u64>, u64)>,
}

/// What a pass looks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pass {
    /// The mean weight of each input in each tensor.
    Means,
    /// The upper bits of thresholds over the whole model, and then the lower ones.
    Upper,
    Lower,
    /// The thresholds of each tensor.
    Whole,
    /// How much counts of each tensor.
    Kept,
}

impl Pass {
    /// Whether its jobs take a tensor of one task each.
    fn is_whole(self) -> bool {
        matches!(self, Self::Means | Self::Whole)
    }
}

/// The search for thresholds, and for mean weights before it.
#[derive(Debug)]
pub(crate) struct Trim {
    plan: Plan,
    /// By tensor, and in chunks.
    tensors: Cuts,
    chunks: Cuts,
    tasks: usize,
    trimming: Option<Trimming>,
    curvature: Option<Curvature>,
    /// What is still to be done, the next first.
    passes: Vec<Pass>,
    /// Of each task the bits that the first pass has found, and how many more are wanted among those that have them.
    found: Vec<(u32, u64)>,
    /// How many jobs of this pass were told of.
    told: u64,
    counts: Vec<u64>,
    /// By tensor, what each job has found.
    least: Vec<Option<f64>>,
    settled: Settled,
}

/// A part of the search.
#[derive(Clone, Debug)]
pub(crate) struct Count<'a> {
    job: plan::Job<'a>,
    /// The tasks that are looked at, and how many there are.
    tasks: Range<usize>,
    all: usize,
    /// Whether there is a base before them.
    has_base: bool,
    /// Whether what they changed counts by second moments.
    is_curved: bool,
    look: Look<'a>,
}

#[derive(Clone, Copy, Debug)]
enum Look<'a> {
    Upper,
    Lower(&'a [(u32, u64)]),
    /// For the threshold itself: so many are wanted.
    Whole(u64),
    /// For the mean of moments to this power.
    Mean(f64),
    /// For what is as large as these, one of each task, counted from this place on.
    Kept(&'a [f32], usize),
}

impl Trim {
    /// Look for what the method wants to know of what `plan` computes, which was made by tensor.
    pub(crate) fn new(tasks: usize, plan: Plan, blend: Blend) -> Result<Self> {
        let (trimming, curvature) = (blend.trimming(), blend.curvature());
        let plan = if curvature.is_some() { plan.computed().curved() } else { plan.computed() };
        let mut passes = Vec::new();
        // what one counts in alone is its own
        if curvature.is_some() && tasks > 1 {
            passes.push(Pass::Means);
        }
        match trimming {
            Some(Trimming { is_by_tensor: true, .. }) => passes.push(Pass::Whole),
            Some(_) => passes.extend([Pass::Upper, Pass::Lower]),
            None => {}
        }
        if curvature.is_some() && trimming.is_some() {
            passes.push(Pass::Kept);
        }
        let mut trim = Self {
            tensors: Cuts::new(&plan, usize::MAX),
            chunks: Cuts::new(&plan, CHUNK),
            tasks,
            trimming,
            curvature,
            passes,
            found: Vec::new(),
            told: 0,
            counts: Vec::new(),
            least: Vec::new(),
            settled: Settled::default(),
            plan,
        };
        trim.begin()?;
        Ok(trim)
    }

    /// Make room for what a pass finds.
    fn begin(&mut self) -> Result<()> {
        let tensors = usize::try_from(self.tensors.count()).expect("tensors are in memory");
        self.told = 0;
        (self.counts, self.least) = match self.passes.first() {
            Some(Pass::Upper) => (zeros(self.tasks << UPPER)?, Vec::new()),
            Some(Pass::Lower) => (zeros(self.tasks << LOWER)?, Vec::new()),
            Some(Pass::Kept) => (zeros(self.tasks * tensors)?, Vec::new()),
            Some(Pass::Means | Pass::Whole) => (Vec::new(), vec![None; self.tasks * tensors]),
            None => (Vec::new(), Vec::new()),
        };
        Ok(())
    }

    /// How many jobs this pass has; none when all is found.
    pub(crate) fn count(&self) -> u64 {
        match self.passes.first() {
            Some(pass) if pass.is_whole() => self.least.len() as u64,
            Some(_) => self.chunks.count(),
            None => 0,
        }
    }

    /// Bytes that the jobs of this pass read.
    pub(crate) fn bytes(&self) -> u64 {
        self.passes.first().map_or(0, |pass| self.bytes_of(*pass))
    }

    /// Bytes that the jobs of this pass and of those after it read.
    pub(crate) fn total(&self) -> u64 {
        self.passes.iter().map(|pass| self.bytes_of(*pass)).sum()
    }

    fn bytes_of(&self, pass: Pass) -> u64 {
        if !pass.is_whole() {
            return self.plan.bytes();
        }
        let jobs = (0..self.tensors.count() * self.tasks as u64).map(|number| self.job_of(pass, number));
        jobs.map(|job| {
            (0..job.read_count()).map(|i| job.read(i)).map(|it| it.range.end - it.range.start).sum::<u64>()
        })
        .sum()
    }

    /// The job with a number below [`Trim::count`].
    pub(crate) fn job(&self, number: u64) -> Count<'_> {
        self.job_of(*self.passes.first().expect("there is a job"), number)
    }

    fn job_of(&self, pass: Pass, number: u64) -> Count<'_> {
        let tasks = self.tasks as u64;
        let is_curved = self.curvature.is_some();
        let has_base = self.trimming.is_some();
        if pass.is_whole() {
            let job = self.tensors.job(&self.plan, number / tasks);
            let task = usize::try_from(number % tasks).expect("tasks are in memory");
            let look = match (pass, self.trimming, self.curvature) {
                (Pass::Whole, Some(trimming), _) => Look::Whole(trimming.keep(job.count())),
                (_, _, Some(curvature)) => Look::Mean(curvature.power),
                _ => unreachable!("there is something to look for"),
            };
            return Count { job, tasks: task..task + 1, all: self.tasks, has_base, is_curved, look };
        }
        let job = self.chunks.job(&self.plan, number);
        // a segment is a tensor
        let place = self.chunks.segment(number);
        let look = match (pass, &self.settled.thresholds) {
            (Pass::Kept, Thresholds::Tensor(all)) => Look::Kept(&all[place].1, place * self.tasks),
            (Pass::Kept, Thresholds::Model(least)) => Look::Kept(least, place * self.tasks),
            (Pass::Lower, _) => Look::Lower(&self.found),
            _ => Look::Upper,
        };
        Count { job, tasks: 0..self.tasks, all: self.tasks, has_base, is_curved, look }
    }

    /// Take in what so many jobs have counted together; whether that can be.
    pub(crate) fn take(&mut self, jobs: u64, counts: &[u64]) -> bool {
        self.told += jobs;
        self.counts.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
        self.told <= self.count() && !self.passes.first().is_some_and(|pass| pass.is_whole())
    }

    /// Take in what a job has found of a tensor; whether that can be.
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

    /// What each tensor is called, and what its jobs have found, by task; the plan's jobs are by name.
    fn by_tensor(&self) -> impl Iterator<Item = (String, Vec<f64>)> + '_ {
        self.least.chunks(self.tasks).enumerate().map(|(place, least)| {
            let job = self.tensors.job(&self.plan, place as u64);
            (self.plan.tensor_of(&job), least.iter().map(|least| least.unwrap_or_default()).collect())
        })
    }

    /// All jobs of a pass were told of: what was found, if it was the last.
    pub(crate) fn settle(&mut self) -> Result<Option<Settled>> {
        match self.passes.remove(0) {
            Pass::Means => self.settled.means = self.by_tensor().collect(),
            Pass::Whole => {
                let rounded = |(name, all): (String, Vec<f64>)| (name, all.into_iter().map(round).collect());
                self.settled.thresholds = Thresholds::Tensor(self.by_tensor().map(rounded).collect());
            }
            Pass::Upper => self.found = self.descended(UPPER),
            Pass::Lower => {
                let found = self.descended(LOWER);
                let least = found.iter().map(|(bits, _)| f32::from_bits(*bits)).collect();
                self.settled.thresholds = Thresholds::Model(least);
            }
            Pass::Kept => {
                let kept = self.counts.chunks(self.tasks).enumerate().map(|(place, counts)| {
                    let job = self.tensors.job(&self.plan, place as u64);
                    (self.plan.tensor_of(&job), counts.to_vec(), job.count())
                });
                self.settled.kept = kept.collect();
            }
        }
        if self.passes.is_empty() {
            return Ok(Some(core::mem::take(&mut self.settled)));
        }
        self.begin()?;
        Ok(None)
    }

    /// Of each task the bits of the place where enough is counted, and how many more are wanted there.
    fn descended(&self, bits: u32) -> Vec<(u32, u64)> {
        let wanted = self.trimming.map_or(0, |trimming| trimming.keep(self.plan.elements()));
        let tables = self.counts.chunks(1 << bits).enumerate();
        let found = tables.map(|(task, counts)| {
            let (upper, wanted) = self.found.get(task).copied().unwrap_or((0, wanted));
            let (place, left) = descend(counts, wanted);
            (upper << bits | place, left)
        });
        found.collect()
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
    /// How many reads there are: the base, the tasks, and their second moments.
    pub(crate) fn read_count(&self) -> usize {
        match self.look {
            Look::Mean(_) => 1,
            _ if self.is_curved => 1 + 2 * self.tasks.len(),
            _ => 1 + self.tasks.len(),
        }
    }

    /// One of them.
    pub(crate) fn read(&self, i: usize) -> Read {
        self.job.read(self.operand(i))
    }

    fn operand(&self, i: usize) -> usize {
        let (first, moments) = (usize::from(self.has_base), usize::from(self.has_base) + self.all);
        match i.checked_sub(1) {
            None if matches!(self.look, Look::Mean(_)) => moments + self.tasks.start,
            None => 0,
            Some(i) if i < self.tasks.len() => first + self.tasks.start + i,
            Some(i) => moments + self.tasks.start + i - self.tasks.len(),
        }
    }

    /// Whether it counts, or finds a threshold itself.
    pub(crate) fn counts(&self) -> bool {
        !matches!(self.look, Look::Whole(_) | Look::Mean(_))
    }

    /// What there is of each count that is not 0, and its place; or the threshold, or the mean.
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
            Look::Whole(wanted) => {
                // its bits so far, and how many from there on are wanted
                let (mut found, mut left) = (0, wanted);
                for (is_lower, bits) in [(false, UPPER), (true, LOWER)] {
                    let mut counts = zeros::<u64>(1 << bits)?;
                    let mut sweep = Sweep::new(self, max_bytes);
                    while sweep.next(read)? {
                        let magnitudes = sweep.magnitudes.of(0);
                        if is_lower {
                            count_lower(&mut counts, magnitudes, found);
                        } else {
                            count_upper(&mut counts, magnitudes);
                        }
                    }
                    let place;
                    (place, left) = descend(&counts, left);
                    found = found << bits | place;
                }
                Ok(vec![f32::from_bits(found).into()])
            }
            Look::Mean(power) => {
                let mut sums = [0.0; LANES];
                let mut values = [0.0; Magnitudes::MOST];
                let mut sweep = Sweep::new(self, max_bytes);
                while let Some(block) = sweep.block(read)? {
                    let moments = sweep.widen(&block, &mut values)?;
                    let (whole, rest) = moments.as_chunks::<LANES>();
                    for moments in whole {
                        for lane in 0..LANES {
                            sums[lane] += root(moments[lane], power);
                        }
                    }
                    sums.iter_mut().zip(rest).for_each(|(sum, moment)| *sum += root(*moment, power));
                }
                let [a, b, c, d, e, f, g, h] = sums;
                #[expect(clippy::cast_precision_loss, reason = "no tensor has 2^53 elements")]
                let count = self.job.count().max(1) as f64;
                Ok(vec![(((a + b) + (c + d)) + ((e + f) + (g + h))) / count])
            }
            Look::Upper | Look::Lower(_) | Look::Kept(..) => {
                let each = match self.look {
                    Look::Upper => 1 << UPPER,
                    Look::Lower(_) => 1 << LOWER,
                    _ => 1,
                };
                let mut counts = zeros::<u32>(tasks * each)?;
                let mut sweep = Sweep::new(self, max_bytes);
                while sweep.next(read)? {
                    for (task, counts) in counts.chunks_exact_mut(each).enumerate() {
                        let magnitudes = sweep.magnitudes.of(task);
                        match self.look {
                            Look::Lower(found) => count_lower(counts, magnitudes, found[task].0),
                            Look::Kept(least, _) => counts[0] += count_kept(magnitudes, least[task]),
                            _ => count_upper(counts, magnitudes),
                        }
                    }
                }
                let mut told = sparse(&counts);
                if let Look::Kept(_, first) = self.look {
                    #[expect(clippy::cast_precision_loss, reason = "places of what is in memory")]
                    told.iter_mut().step_by(2).for_each(|place| *place += first as f64);
                }
                Ok(told)
            }
        }
    }

    /// Refuse values that are not finite, unless they are let through, and moments that cannot be; the operands begin at an element of
    /// the chunk.
    #[cold]
    #[inline(never)]
    fn check(&self, operands: &[Operand<'_>], block: &Range<usize>, start: usize) -> Result<()> {
        let accepts = self.job.accepts(Tally { non_finite: 1, underflowed: 0 });
        for (i, operand) in operands.iter().enumerate() {
            let is_moment = self.operand(i) >= usize::from(self.has_base) + self.all;
            let is_wrong = |value: f64| (is_moment && value < 0.0) || !(accepts || value.is_finite());
            let Some(at) = block.clone().find(|at| is_wrong(operand.value(*at))) else { continue };
            let (value, input) = (operand.value(at), self.read(i).input);
            let what = if is_moment { "has a second moment of" } else { "holds" };
            if is_moment && value < 0.0 {
                let detail = format!("{what} {value}, which no square is");
                let error: Error = self.job.at(ErrorKind::Input, input, start + at, detail);
                return Err(
                    error.help("give the running means of squares, as `exp_avg_sq` of an optimizer's state")
                );
            }
            let error: Error =
                self.job.at(ErrorKind::NonFinite, input, start + at, format!("{what} {value}"));
            return Err(error.help("the run has diverged there: leave that checkpoint out (--drop-bad does)"));
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
        let Some(block) = self.block(read)? else { return Ok(false) };
        let operands = operands(&self.buffers, &self.floats);
        let is_good = if self.part.is_curved {
            self.magnitudes.fill_curved(&operands, &block)
        } else {
            self.magnitudes.fill(&operands, &block)
        };
        if !is_good {
            self.part.check(&operands, &block, self.window.start)?;
        }
        Ok(true)
    }

    /// The elements of the next block, as places in what was read.
    #[inline(always)]
    fn block(&mut self, read: &mut Reader<'_>) -> Result<Option<Range<usize>>> {
        if self.at == self.window.end && !self.refill(read)? {
            return Ok(None);
        }
        let start = self.window.start;
        let block = self.at - start..self.window.end.min(self.at + Magnitudes::MOST) - start;
        self.at = start + block.end;
        Ok(Some(block))
    }

    /// The values of the first of them in a block.
    #[inline(always)]
    fn widen<'v>(&self, block: &Range<usize>, values: &'v mut [f64]) -> Result<&'v [f64]> {
        let (float, values) = (self.floats[0], &mut values[..block.len()]);
        widen(float, &self.buffers[0][block.start * float.bytes()..block.end * float.bytes()], values);
        // all of them, without a branch at each
        let are_fit = values.iter().fold(true, |all, value| all & (*value >= 0.0) & (*value < f64::INFINITY));
        if !are_fit {
            self.part.check(&operands(&self.buffers, &self.floats), block, self.window.start)?;
        }
        Ok(values)
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

#[inline(always)]
fn operands<'b>(buffers: &'b [Vec<u8>], floats: &[Float]) -> Vec<Operand<'b>> {
    let operands = buffers.iter().zip(floats);
    operands.map(|(bytes, dtype)| Operand { dtype: *dtype, bytes, weight: 1.0 }).collect()
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

/// How many are as large as this. Those of NaN are not.
#[inline(always)]
fn count_kept(magnitudes: &[u32], least: f32) -> u32 {
    magnitudes.iter().map(|bits| u32::from(f32::from_bits(*bits) >= least)).sum()
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
