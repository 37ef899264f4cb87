//! The kernels that GPUs compute too, and what a host must know to run them there.

use super::element::round;
use super::{MAX_OPERANDS, Operand, Tally, middle, weighted_sum};
use crate::dtype::Float;

/// A kernel with a twin in the WebGPU shading language, which gives the same bytes for every dtype but F64.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Twin {
    /// The weighted sum.
    WeightedSum,
    /// The mean of the middle values; so many on each side do not count, and no operand has a weight of its own.
    Middle(u32),
}

impl Twin {
    /// Its entry point.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::WeightedSum => "weighted_sum",
            Self::Middle(_) => "middle",
        }
    }

    /// Its program. The head of element.wgsl says how a job is laid out in its buffers; `INPUT` and `OUTPUT` are pipeline
    /// constants, codes as [`super::wgsl_dtype`] gives them.
    #[must_use]
    pub const fn wgsl(self) -> &'static str {
        match self {
            Self::WeightedSum => weighted_sum::WGSL,
            Self::Middle(_) => middle::WGSL,
        }
    }

    /// Most operands of one job.
    #[must_use]
    pub const fn most_operands(self) -> usize {
        match self {
            Self::WeightedSum => MAX_OPERANDS,
            Self::Middle(_) => middle::MOST_ON_GPU,
        }
    }

    /// Whether it computes a job of so many operands.
    #[must_use]
    pub fn takes(self, operands: usize) -> bool {
        let least = if let Self::Middle(cut) = self { 2 * cut as usize + 1 } else { 1 };
        (least..=self.most_operands()).contains(&operands)
    }

    /// How many values on each side of the sorted ones do not count.
    #[must_use]
    pub const fn cut(self) -> u32 {
        if let Self::Middle(cut) = self { cut } else { 0 }
    }

    /// What it multiplies by, in a job of so many operands, for one with this weight.
    #[must_use]
    pub fn factor(self, operands: usize, weight: f64) -> f32 {
        match self {
            Self::WeightedSum => round(weight),
            Self::Middle(cut) => round(middle::share(operands.saturating_sub(2 * cut as usize))),
        }
    }

    /// What it must give: the obvious loop.
    ///
    /// # Panics
    /// If it does not take so many operands.
    pub fn reference(self, operands: &[Operand<'_>], dtype: Float, out: &mut [u8]) -> Tally {
        assert!(self.takes(operands.len()), "so many operands have a middle");
        match self {
            Self::WeightedSum => weighted_sum::reference(operands, dtype, out),
            Self::Middle(cut) => middle::reference(operands, cut as usize, dtype, out),
        }
    }
}
