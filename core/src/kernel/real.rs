//! Numbers that an element is computed in: f32 with subnormals flushed, or f64. The obvious loops are written once for both.

use core::cmp::Ordering;
use core::ops::{Add, Mul, Sub};

use super::Operand;
use crate::dtype::Float;
use crate::kernel::element::{Tally, flush, narrow, narrow_f64, round, widen};

/// f32 or f64.
pub(super) trait Real:
    Copy + PartialOrd + Add<Output = Self> + Sub<Output = Self> + Mul<Output = Self>
{
    const ZERO: Self;
    const NAN: Self;
    /// The nearest, of a number that is computed once.
    fn of(value: f64) -> Self;
    /// Exactly.
    fn exact(self) -> f64;
    /// An f32 that is subnormal becomes zero of its sign.
    fn flush(self) -> Self;
    fn magnitude(self) -> Self;
    /// By value, −0 before +0.
    fn order(&self, other: &Self) -> Ordering;
    /// One element, exactly.
    fn read(dtype: Float, bytes: &[u8]) -> Self;
    /// The nearest word.
    fn write(self, dtype: Float, word: &mut [u8]);

    fn is_same(self, other: Self) -> bool {
        self.order(&other) == Ordering::Equal
    }

    fn is_nan(self) -> bool {
        self.exact().is_nan()
    }
}

impl Real for f32 {
    const ZERO: Self = 0.0;
    const NAN: Self = Self::NAN;

    fn of(value: f64) -> Self {
        round(value)
    }

    fn exact(self) -> f64 {
        self.into()
    }

    fn flush(self) -> Self {
        flush(self)
    }

    fn magnitude(self) -> Self {
        self.abs()
    }

    fn order(&self, other: &Self) -> Ordering {
        self.total_cmp(other)
    }

    fn read(dtype: Float, bytes: &[u8]) -> Self {
        widen(dtype, bytes)
    }

    fn write(self, dtype: Float, word: &mut [u8]) {
        narrow(dtype, self, word);
    }
}

impl Real for f64 {
    const ZERO: Self = 0.0;
    const NAN: Self = Self::NAN;

    fn of(value: f64) -> Self {
        value
    }

    fn exact(self) -> f64 {
        self
    }

    fn flush(self) -> Self {
        self
    }

    fn magnitude(self) -> Self {
        self.abs()
    }

    fn order(&self, other: &Self) -> Ordering {
        self.total_cmp(other)
    }

    fn read(dtype: Float, bytes: &[u8]) -> Self {
        dtype.value(bytes)
    }

    fn write(self, dtype: Float, word: &mut [u8]) {
        word.copy_from_slice(&narrow_f64(dtype, self)[..dtype.bytes()]);
    }
}

/// Compute the elements of `out` one by one, each by `rule` from its values in all operands. An element is counted as not
/// finite where its result is not, or one of its values.
pub(super) fn each<R: Real>(
    operands: &[Operand<'_>],
    dtype: Float,
    out: &mut [u8],
    mut rule: impl FnMut(&mut [R]) -> R,
) -> Tally {
    let mut tally = Tally::default();
    let mut values = alloc::vec![R::ZERO; operands.len()];
    for (i, word) in out.chunks_exact_mut(dtype.bytes()).enumerate() {
        let mut is_bad = false;
        for (value, operand) in values.iter_mut().zip(operands) {
            let size = operand.dtype.bytes();
            *value = R::read(operand.dtype, &operand.bytes[i * size..(i + 1) * size]);
            is_bad |= !value.exact().is_finite();
        }
        let result = rule(&mut values);
        result.write(dtype, word);
        let written = dtype.value(word);
        tally.non_finite += u64::from(is_bad || !written.is_finite());
        tally.underflowed += u64::from(written == 0.0 && result.exact() != 0.0);
    }
    tally
}
