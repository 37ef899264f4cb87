//! The middle values as their formula says: never optimised, never removed.

use crate::dtype::Float;
use crate::kernel::element::Tally;
use crate::kernel::real::{Real, each};
use crate::kernel::{Operand, needs_f64};

/// The obvious loop: `cut` values on each side do not count.
pub(in crate::kernel) fn reference(
    operands: &[Operand<'_>],
    cut: usize,
    dtype: Float,
    out: &mut [u8],
) -> Tally {
    if needs_f64(operands, dtype) {
        each(operands, dtype, out, |values: &mut [f64]| element(values, cut))
    } else {
        each(operands, dtype, out, |values: &mut [f32]| element(values, cut))
    }
}

fn element<R: Real>(values: &mut [R], cut: usize) -> R {
    if values.iter().any(|value| value.is_nan()) {
        return R::NAN;
    }
    // few values, and the code of a clever sort is long
    for end in 1..values.len() {
        let mut at = end;
        while at > 0 && values[at].order(&values[at - 1]).is_lt() {
            values.swap(at, at - 1);
            at -= 1;
        }
    }
    let kept = &values[cut..values.len() - cut];
    if kept[0].is_same(kept[kept.len() - 1]) {
        return kept[0];
    }
    let sum = kept[1..].iter().fold(kept[0].flush(), |sum, value| (sum + value.flush()).flush());
    (sum * R::of(share(kept.len()))).flush()
}

/// One of so many.
#[expect(clippy::cast_precision_loss, reason = "nobody merges 2^53 inputs")]
pub(in crate::kernel) fn share(count: usize) -> f64 {
    1.0 / count as f64
}
