//! The magnitudes of what each task changed, or what it counts by second moments, a block of elements at a time: what trimming counts.

use core::ops::Range;

use super::How;
use super::fast::change;
use crate::dtype::Float;
use crate::kernel::Operand;
use crate::kernel::curved::score;
use crate::kernel::element::round;
use crate::kernel::rows::{INFINITY, MAGNITUDE, Rows, WIDTH};

/// A block of the magnitudes of all tasks.
pub(crate) struct Magnitudes {
    rows: Rows,
    /// How many elements the block has.
    count: usize,
    in_f64: bool,
}

impl Magnitudes {
    /// Most elements of a block.
    pub(crate) const MOST: usize = WIDTH;

    /// Of so many operands. Differences are those of the kernel: `in_f64` if any of its operands is F64, also one that is not looked
    /// at, and then rounded to f32 for counting.
    pub(crate) fn new(operands: usize, in_f64: bool) -> Self {
        Self { rows: Rows::new(operands), count: 0, in_f64 }
    }

    /// Take these elements, at most [`Magnitudes::MOST`], of a base and tasks; whether all of them are finite.
    #[inline(always)]
    pub(crate) fn fill(&mut self, operands: &[Operand<'_>], elements: &Range<usize>) -> bool {
        self.count = elements.len();
        if self.in_f64 {
            return self.fill_from_f64(operands, elements);
        }
        self.rows.fill(operands, elements);
        let worst = self.rows.worst[..self.count].iter().fold(0, |worst, magnitude| worst.max(*magnitude));
        let (base, tasks) = self.rows.values.split_first_mut().expect("the base is the first operand");
        for row in tasks {
            // a threshold of zero leaves all of it
            change(row, base, 0.0, How::Trimmed);
            row.iter_mut().for_each(|bits| *bits &= MAGNITUDE);
        }
        worst < INFINITY
    }

    #[inline(never)]
    fn fill_from_f64(&mut self, operands: &[Operand<'_>], elements: &Range<usize>) -> bool {
        let mut is_finite = true;
        for (place, at) in elements.clone().enumerate() {
            let base = operands[0].value(at);
            is_finite &= base.is_finite();
            for (row, operand) in self.rows.values[1..].iter_mut().zip(&operands[1..]) {
                let task = operand.value(at);
                is_finite &= task.is_finite();
                row[place] = round(task - base).to_bits() & MAGNITUDE;
            }
        }
        is_finite
    }

    /// Take these elements of a base, tasks, and as many second moments: what tasks changed counts by these, v·τ². Whether all of them
    /// are finite and no moment is below 0.
    #[inline(always)]
    pub(crate) fn fill_curved(&mut self, operands: &[Operand<'_>], elements: &Range<usize>) -> bool {
        self.count = elements.len();
        // small rather than quick in WebAssembly, where it is seldom asked for
        if cfg!(target_family = "wasm") || operands.iter().any(|operand| operand.dtype == Float::F64) {
            return self.fill_curved_from_f64(operands, elements);
        }
        self.rows.fill(operands, elements);
        let worst = self.rows.worst[..self.count].iter().fold(0, |worst, magnitude| worst.max(*magnitude));
        let (base, rest) = self.rows.values.split_first_mut().expect("the base is the first operand");
        let (tasks, moments) = rest.split_at_mut(rest.len() / 2);
        let mut least = 0.0_f32;
        for (row, moments) in tasks.iter_mut().zip(moments) {
            for ((bits, base), moment) in row.iter_mut().zip(&*base).zip(&*moments) {
                let [x, base, moment] = [*bits, *base, *moment].map(f32::from_bits);
                *bits = score(moment.into(), f64::from(x) - f64::from(base)).to_bits() & MAGNITUDE;
            }
            let moments = moments[..self.count].iter().map(|bits| f32::from_bits(*bits));
            least = moments.fold(least, f32::min);
        }
        (worst < INFINITY) & (least >= 0.0)
    }

    #[inline(never)]
    fn fill_curved_from_f64(&mut self, operands: &[Operand<'_>], elements: &Range<usize>) -> bool {
        let tasks = operands.len() / 2;
        let mut is_good = true;
        for (place, at) in elements.clone().enumerate() {
            let base = operands[0].value(at);
            is_good &= base.is_finite();
            for task in 1..=tasks {
                let (x, moment) = (operands[task].value(at), operands[task + tasks].value(at));
                is_good &= x.is_finite() & moment.is_finite() & (moment >= 0.0);
                self.rows.values[task][place] = score(moment, x - base).to_bits() & MAGNITUDE;
            }
        }
        is_good
    }

    /// What a task changed, or what it counts: magnitudes of f32 as bits, in the order of the elements. Those of NaN are above [`INFINITY`].
    #[inline(always)]
    pub(crate) fn of(&self, task: usize) -> &[u32] {
        &self.rows.values[1 + task][..self.count]
    }
}
