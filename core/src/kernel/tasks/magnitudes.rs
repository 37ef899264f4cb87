//! The magnitudes of what each task changed, a block of elements at a time: what trimming counts.

use core::ops::Range;

use super::How;
use super::fast::change;
use crate::kernel::Operand;
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
        let value = |operand: &Operand<'_>, at: usize| {
            let size = operand.dtype.bytes();
            operand.dtype.value(&operand.bytes[at * size..(at + 1) * size])
        };
        let mut is_finite = true;
        for (place, at) in elements.clone().enumerate() {
            let base = value(&operands[0], at);
            is_finite &= base.is_finite();
            for (row, operand) in self.rows.values[1..].iter_mut().zip(&operands[1..]) {
                let task = value(operand, at);
                is_finite &= task.is_finite();
                row[place] = round(task - base).to_bits() & MAGNITUDE;
            }
        }
        is_finite
    }

    /// What a task changed: magnitudes of f32 as bits, in the order of the elements. Those of NaN are above [`INFINITY`].
    #[inline(always)]
    pub(crate) fn of(&self, task: usize) -> &[u32] {
        &self.rows.values[1 + task][..self.count]
    }
}
