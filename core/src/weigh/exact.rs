//! Sums of clients whose bits depend on no order and on no tree: whole numbers of 64 bits, on a scale for each tensor that is
//! fixed when the round begins.
//!
//! With e the smallest whole number so that 2^e ≥ 256·max|θ|, θ the tensor of the model that was sent: a value x of a client with n
//! samples adds n·round(x·2^(40−e)), ties to even. Sums of whole numbers are associative; in the end one division makes the mean.
//! The grid is 2⁻³² of max|θ| at most, finer than f32; values beyond 2^e are refused, and so are 2²³ samples together.

use crate::kernel::element::round;

/// An update may be 2⁸ times as large as the largest value of the model.
const HEADROOM: i32 = 8;
/// Bits below the scale.
const KEPT: i32 = 40;
/// What samples stay below, so that no sum leaves 64 bits.
pub const MOST_SAMPLES: u64 = 1 << (63 - KEPT);

/// e, for the largest magnitude of a tensor, which is above 0.
#[must_use]
pub fn exponent(largest: f64) -> i32 {
    // largest = fraction · 2^power, with a fraction from ½ on and below 1
    let (fraction, power) = libm::frexp(largest);
    let up = if fraction == 0.5 { power - 1 } else { power };
    up + HEADROOM
}

/// A value on the scale: none where it is beyond it, or no number.
#[must_use]
#[expect(clippy::cast_possible_truncation, reason = "it is at most 2^40")]
pub fn quantised(value: f64, exponent: i32) -> Option<i64> {
    let steps = libm::rint(libm::scalbn(value, KEPT - exponent));
    (libm::fabs(steps) <= libm::scalbn(1.0, KEPT)).then_some(steps as i64)
}

/// The mean behind a sum.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "the one rounding of the sum, and the samples are below 2^23")]
pub fn mean(sum: i64, samples: u64, exponent: i32) -> f32 {
    round(libm::scalbn(sum as f64 / samples as f64, exponent - KEPT))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values of an independent program: two clients of 3 samples and 1, on the scale 2.
    #[test]
    fn sums_are_those_of_the_oracle() {
        let a = [0.5, -0.25].map(|x| quantised(x, 1).unwrap() * 3);
        let b = [0.1f32, 0.7].map(|x| quantised(f64::from(x), 1).unwrap());
        assert_eq!(a, [824_633_720_832, -412_316_860_416]);
        assert_eq!(b, [54_975_582_208, 384_829_063_168]);
        let means = [0, 1].map(|i| mean(a[i] + b[i], 4, 1).to_bits());
        assert_eq!(means, [0.4f32.to_bits(), (-0.012_500_003f32).to_bits()]);
    }

    #[test]
    fn scales_are_just_large_enough() {
        for (largest, e) in [(1.0, 8), (1.000_001, 9), (0.999_999, 8), (2.0, 9), (0.02, 3), (1e-300, -988)] {
            assert_eq!(exponent(largest), e, "{largest}");
        }
        assert_eq!(quantised(2.0, 1), Some(1 << 40));
        assert_eq!(quantised(-2.0, 1), Some(-(1 << 40)));
        assert_eq!(quantised(2.000_001, 1), None);
        assert_eq!(quantised(f64::NAN, 1), None);
        assert_eq!(quantised(f64::INFINITY, 1), None);
        assert_eq!(quantised(0.5, KEPT), Some(0), "ties go to the even step");
        assert_eq!(quantised(1.5, KEPT), Some(2));
        let most = i128::from(MOST_SAMPLES - 1) * (1 << KEPT);
        assert!(most <= i128::from(i64::MAX), "the largest sum has room");
    }
}
