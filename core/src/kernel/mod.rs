//! The kernels: what is computed, once as the obvious reference and once fast, equal to the bit.

pub(crate) mod cholesky;
pub(crate) mod eigen;
pub(crate) mod gram;
pub(crate) mod low_rank;
pub(crate) mod matrix;
mod weighted_sum;

pub use weighted_sum::{Operand, Tally, reference, weighted_sum};
