//! The kernels: what is computed, once as the obvious reference and once fast, equal to the bit.

mod weighted_sum;

pub use weighted_sum::{Operand, Tally, reference, weighted_sum};
