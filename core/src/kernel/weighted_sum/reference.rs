//! The weighted sum as its formula says: never optimised, never removed; everything else is measured against it.

use super::{Operand, needs_f64};
use crate::dtype::Float;
use crate::kernel::element::{Tally, flush, narrow, narrow_f64, round, widen};

/// The obvious loop.
pub fn reference(operands: &[Operand<'_>], dtype: Float, out: &mut [u8]) -> Tally {
    reference_from(0, operands, dtype, out)
}

/// The elements from `first` on.
pub(super) fn reference_from(first: usize, operands: &[Operand<'_>], dtype: Float, out: &mut [u8]) -> Tally {
    if needs_f64(operands, dtype) {
        return reference_f64(operands, dtype, out);
    }
    let mut tally = Tally::default();
    for (i, word) in (first..).zip(out.chunks_exact_mut(dtype.bytes())) {
        let value = |operand: &Operand<'_>| widen(operand.dtype, element(operand, i));
        // −0 + x is x for every x, zeros of both signs included
        let sum = operands.iter().fold(-0.0, |sum, operand| add(sum, operand.weight, value(operand)));
        let first = value(&operands[0]);
        let is_same = operands.iter().all(|operand| value(operand).to_bits() == first.to_bits());
        let result = if is_same { first } else { sum };
        narrow(dtype, result, word);
        tally.count(result.into(), widen(dtype, word).into());
    }
    tally
}

/// One operand more.
fn add(sum: f32, weight: f64, value: f32) -> f32 {
    flush(sum + flush(round(weight) * flush(value)))
}

/// The bytes of element `i`.
fn element<'a>(operand: &Operand<'a>, i: usize) -> &'a [u8] {
    let size = operand.dtype.bytes();
    &operand.bytes[i * size..(i + 1) * size]
}

/// The same in f64, unflushed. F64 checkpoints are rare and small: this loop is the fast one too.
pub(super) fn reference_f64(operands: &[Operand<'_>], dtype: Float, out: &mut [u8]) -> Tally {
    let mut tally = Tally::default();
    let size = dtype.bytes();
    for (i, word) in out.chunks_exact_mut(size).enumerate() {
        let value = |operand: &Operand<'_>| operand.dtype.value(element(operand, i));
        let sum = operands.iter().fold(-0.0, |sum, operand| sum + operand.weight * value(operand));
        let first = value(&operands[0]);
        let is_same = operands.iter().all(|operand| value(operand).to_bits() == first.to_bits());
        let result = if is_same { first } else { sum };
        word.copy_from_slice(&narrow_f64(dtype, result)[..size]);
        tally.count(result, dtype.value(word));
    }
    tally
}
