//! The kernels: what is computed, once as the obvious reference and once fast, equal to the bit.

mod weighted_sum;

pub use weighted_sum::{
    ELEMENTS_PER_INVOCATION, MAX_OPERANDS, Operand, Tally, WGSL, WORKGROUP, reference, weighted_sum,
    wgsl_dtype,
};
