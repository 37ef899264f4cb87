//! What several tasks changed of a base, put together and added to it.
//!
//! τ\[k\] = x\[k\] − b; of tasks that are trimmed only what is at least as large as the task's threshold counts. Then
//!
//! * sum: u = Σ c\[k\]·τ\[k\]; of trimmed tasks c is 1,
//! * agreed: u = Σ τ\[k\] where |τ\[k\]| > l·|Σ τ − τ\[k\]| of at least so many k, else 0; l·|…| is one product, the comparison strict,
//! * elected: of the signs the one that Σ τ\[k\] has, + where that is 0; u = Σ of the τ\[k\] of that sign · 1/their number,
//!
//! and y = round( b + λ·u ), or b itself where λ·u is 0: so what no task changed comes out as it went in.
//!
//! Plain is what is no task of a base: y = round( c\[0\]·b + Σ c\[k\]·x\[k\] ), whose c may have any sum, also where all x are equal.
//!
//! The first operand is b. Inputs widen to f32 exactly; each difference, product and sum rounds to nearest even in f32, in the
//! order of the operands, never fused; f32 subnormals count as zero, sign kept; λ, c and 1/m are rounded to f32 once. Magnitudes are
//! compared as f32. If any operand is not finite the result is NaN. If any operand or the result is F64, all of it runs in
//! f64, and nothing is flushed.

mod fast;
mod magnitudes;
mod reference;
#[cfg(test)]
mod tests;

pub(super) use fast::tasks;
pub(crate) use magnitudes::Magnitudes;
pub(super) use reference::reference;

/// How tasks are put together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Tasks {
    /// Which of the ways above.
    pub(crate) how: How,
    /// λ
    pub(crate) scale: f64,
}

/// How what tasks changed becomes one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum How {
    /// The sum; the weights of operands are c.
    Sum,
    /// The sum of the operands themselves, the first among them; their weights are c.
    Plain,
    /// The sum of what is left of trimmed tasks; the weights of operands are thresholds.
    Trimmed,
    /// The mean of what is left of them with the elected sign; the weights of operands are thresholds.
    Elected,
    /// The sum where enough of them have their share in it; the weights of operands say nothing.
    Agreed {
        /// How many are enough.
        least: u32,
        /// How much of what the others changed together a task must exceed.
        lambda: f64,
    },
}
