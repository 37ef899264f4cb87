//! The weighted sum of several arrays, element by element.
//!
//! y\[i\] = round( ((w₀·x₀\[i\]) + w₁·x₁\[i\]) + … )
//!
//! Shapes: K operands `[n]` → `[n]`, each in its own dtype. Inputs widen to f32 exactly; each product and each sum rounds
//! to nearest even in f32, in the order of the operands, never fused; f32 subnormal inputs, products and sums count as
//! zero, sign kept (GPUs may flush them, so everyone does); the result narrows once. An element whose value is the same
//! in every operand passes through unchanged, which is right because weights sum to 1. NaN results are canonical.
//! If any operand or the result is F64, all of it runs in f64 with the f64 weights, and nothing is flushed.

mod fast;
mod many;
mod reference;
#[cfg(test)]
mod tests;

use crate::dtype::Float;

pub use fast::weighted_sum;
pub use many::{Column, Shared, references, weighted_sums};
pub use reference::reference;

/// The twin for GPUs; see [`super::Twin`].
pub(super) const WGSL: &str = concat!(include_str!("../element.wgsl"), include_str!("gpu.wgsl"));
/// Invocations per workgroup of any twin.
pub const WORKGROUP: u32 = 256;
/// Elements that one invocation of any twin makes.
pub const ELEMENTS_PER_INVOCATION: u32 = 8;
/// Most operands of one job of any twin: what its uniform buffer declares.
pub const MAX_OPERANDS: usize = 256;

/// One input of a sum.
#[derive(Clone, Copy, Debug)]
pub struct Operand<'a> {
    /// The dtype of the elements.
    pub dtype: Float,
    /// Little-endian elements, unaligned.
    pub bytes: &'a [u8],
    /// The weight; f32 sums use it rounded to f32. Not zero: leave such inputs out, so that 0·NaN does not spread.
    pub weight: f64,
}

impl Operand<'_> {
    /// The value of an element, which f64 holds.
    #[inline]
    pub(crate) fn value(&self, at: usize) -> f64 {
        let size = self.dtype.bytes();
        self.dtype.value(&self.bytes[at * size..(at + 1) * size])
    }
}

pub(super) fn needs_f64(operands: &[Operand<'_>], dtype: Float) -> bool {
    dtype == Float::F64 || operands.iter().any(|operand| operand.dtype == Float::F64)
}
