//! The mean of inputs, each element weighed by the second moment of its gradient: by how curved the loss is there.
//!
//! The operands are a base where inputs are grafted on one, then the inputs x\[k\], then their second moments v\[k\]. All of it is f64
//! over widened operands, each operation rounded, in the order of the inputs, and narrowed once:
//!
//! * w\[k\] = a\[k\]·v\[k\]^p + b\[k\], a the weight of v\[k\]; b that of x\[k\], or ε where inputs are grafted,
//! * y = Σ w\[k\]·x\[k\] / Σ w\[k\]; where Σ w\[k\] is 0 all count alike.
//!
//! Of grafted inputs x\[k\] counts only where v\[k\]·(x\[k\] − base)², as f32, is at least its threshold, the weight of x\[k\]. What one
//! input alone counts in is its own value, and what none does the base's, to the bit. v^p is v for p = 1, √v for ½, √√v for ¼, else by
//! `libm`. Sums begin with −0, so that they are 0 of either sign as their terms are. Where any operand is not finite the result is NaN.

mod fast;
mod reference;
#[cfg(test)]
mod tests;

pub(super) use fast::curved;
pub(super) use reference::reference;

/// How inputs are weighed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Curved {
    /// p
    pub(crate) power: f64,
    /// What is added to weights of grafted inputs.
    pub(crate) epsilon: f64,
    /// Whether inputs are grafted on a base.
    pub(crate) is_grafted: bool,
}

/// The compiler's where there is one, which makes it an instruction of a loop; the same bits, for roots are rounded exactly.
#[inline(always)]
fn sqrt(value: f64) -> f64 {
    #[cfg(feature = "std")]
    return value.sqrt();
    #[cfg(not(feature = "std"))]
    libm::sqrt(value)
}

/// A second moment to a power.
#[inline(always)]
pub(crate) fn root(moment: f64, power: f64) -> f64 {
    if power == 0.5 {
        sqrt(moment)
    } else if power == 1.0 {
        moment
    } else if power == 0.25 {
        sqrt(sqrt(moment))
    } else {
        libm::pow(moment, power)
    }
}

/// How much a change of a grafted input counts, as f32.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "rounded once, and subnormals keep their order")]
pub(crate) fn score(moment: f64, change: f64) -> f32 {
    (moment * (change * change)) as f32
}
