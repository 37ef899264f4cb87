//! The kernels: each a folder that holds the obvious reference, the fast loop and its twin for GPUs, equal to the bit.

pub(crate) mod element;
mod weighted_sum;

pub use element::{Tally, wgsl_dtype};
pub use weighted_sum::{
    ELEMENTS_PER_INVOCATION, MAX_OPERANDS, Operand, WGSL, WORKGROUP, reference, weighted_sum,
};
