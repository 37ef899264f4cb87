//! The mean of the middle values of an element: the median, and the trimmed mean.
//!
//! y\[i\] = round( (s\[F\] + … + s\[K−F−1\]) · 1/(K−2F) ), s the K values of element i in ascending order, −0 before +0
//!
//! Inputs widen to f32 exactly; the sum runs over the sorted values, so that no order of the inputs shows in the bits. Each sum
//! and the product round to nearest even in f32, never fused; f32 subnormals count as zero in them, sign kept; 1/m is rounded
//! to f32 once. Where all values that are left are the same it passes through unchanged: so the median of an odd number is
//! a value itself, and that of equal inputs is the input. If an input is NaN so is the result; an infinity is but a large value.
//! If any operand or the result is F64, all of it runs in f64, and nothing is flushed.

mod fast;
mod reference;
#[cfg(test)]
pub(super) mod tests;

pub(super) use fast::middle;
pub(super) use reference::{reference, share};

/// The twin for GPUs; see [`super::Twin`].
pub(super) const WGSL: &str = concat!(include_str!("../element.wgsl"), include_str!("gpu.wgsl"));
/// Most operands of one job of the twin, which looks at all of them once for each that it takes.
pub(super) const MOST_ON_GPU: usize = 64;
