//! The kernels: each a folder that holds the obvious reference, the fast loop and, where a GPU can do it, its twin there, equal to
//! the bit.

pub(crate) mod curved;
pub(crate) mod element;
mod middle;
mod real;
mod rows;
mod tasks;
mod twin;
mod weighted_sum;

use crate::dtype::Float;

pub(crate) use curved::Curved;
pub use element::{Tally, wgsl_dtype};
pub(crate) use rows::INFINITY;
pub(crate) use tasks::{How, Magnitudes, Tasks};
pub use twin::Twin;
use weighted_sum::needs_f64;
pub use weighted_sum::{
    Column, ELEMENTS_PER_INVOCATION, MAX_OPERANDS, Operand, Shared, WORKGROUP, reference, references,
    weighted_sum, weighted_sums,
};

/// The element-wise kernels: one arm each. An enum and no table of functions, so that the loops are inlined into whoever
/// calls them, and compiled for the caller's instructions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Kernel {
    /// See [`weighted_sum`].
    WeightedSum,
    /// See [`middle`]; so many values on each side do not count.
    Middle(usize),
    /// See [`tasks`].
    Tasks(Tasks),
    /// See [`curved`].
    Curved(Curved),
}

impl Kernel {
    /// What a GPU computes it by, if it can.
    pub(crate) fn twin(self) -> Option<Twin> {
        match self {
            Self::WeightedSum => Some(Twin::WeightedSum),
            Self::Middle(cut) => u32::try_from(cut).ok().map(Twin::Middle),
            Self::Tasks(_) | Self::Curved(_) => None,
        }
    }

    /// Compute elements; the fast way.
    #[cfg_attr(test, inline(never))]
    #[cfg_attr(not(test), inline(always))]
    pub(crate) fn run(self, operands: &[Operand<'_>], dtype: Float, out: &mut [u8]) -> Tally {
        match self {
            Self::WeightedSum => weighted_sum(operands, dtype, out),
            Self::Middle(cut) => middle::middle(operands, cut, dtype, out),
            Self::Tasks(how) => tasks::tasks(operands, how, dtype, out),
            Self::Curved(how) => curved::curved(operands, how, dtype, out),
        }
    }

    /// The same, the obvious way.
    pub(crate) fn run_reference(self, operands: &[Operand<'_>], dtype: Float, out: &mut [u8]) -> Tally {
        match self {
            Self::WeightedSum => reference(operands, dtype, out),
            Self::Middle(cut) => middle::reference(operands, cut, dtype, out),
            Self::Tasks(how) => tasks::reference(operands, how, dtype, out),
            Self::Curved(how) => curved::reference(operands, how, dtype, out),
        }
    }
}
