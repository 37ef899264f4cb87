//! The kernels: each a folder that holds the obvious reference, the fast loop and its twin for GPUs, equal to the bit.

pub(crate) mod element;
mod weighted_sum;

use crate::dtype::Float;

pub use element::{Tally, wgsl_dtype};
pub use weighted_sum::{
    Column, ELEMENTS_PER_INVOCATION, MAX_OPERANDS, Operand, Shared, WGSL, WORKGROUP, reference, references,
    weighted_sum, weighted_sums,
};

/// The element-wise kernels: one arm each. An enum and no table of functions, so that the loops are inlined into whoever
/// calls them, and compiled for the caller's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kernel {
    /// See [`weighted_sum`].
    WeightedSum,
}

impl Kernel {
    /// Compute elements; the fast way.
    #[inline(always)]
    pub(crate) fn run(self, operands: &[Operand<'_>], dtype: Float, out: &mut [u8]) -> Tally {
        match self {
            Self::WeightedSum => weighted_sum(operands, dtype, out),
        }
    }

    /// The same, the obvious way.
    pub(crate) fn run_reference(self, operands: &[Operand<'_>], dtype: Float, out: &mut [u8]) -> Tally {
        match self {
            Self::WeightedSum => reference(operands, dtype, out),
        }
    }
}
