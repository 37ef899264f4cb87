//! Means by curvature as the formula says: never optimised, never removed.

use super::{Curved, root, score};
use crate::dtype::Float;
use crate::kernel::Operand;
use crate::kernel::element::{Tally, round};
use crate::kernel::real::each;

/// The obvious loop.
pub(in crate::kernel) fn reference(
    operands: &[Operand<'_>],
    how: Curved,
    dtype: Float,
    out: &mut [u8],
) -> Tally {
    each(operands, dtype, out, |values: &mut [f64]| element(values, operands, how))
}

fn element(values: &[f64], operands: &[Operand<'_>], how: Curved) -> f64 {
    if values.iter().any(|value| !value.is_finite()) {
        return f64::NAN;
    }
    let first = usize::from(how.is_grafted);
    let inputs = (values.len() - first) / 2;
    let (mut weights, mut sum, mut plain, mut count, mut only) = (-0.0, -0.0, -0.0, 0_u32, 0.0);
    for k in first..first + inputs {
        let (x, moment, weight) = (values[k], values[k + inputs], operands[k].weight);
        if how.is_grafted && score(moment, x - values[0]) < round(weight) {
            continue;
        }
        let added = if how.is_grafted { how.epsilon } else { weight };
        let weight = operands[k + inputs].weight * root(moment, how.power) + added;
        weights += weight;
        sum += weight * x;
        plain += x;
        (count, only) = (count + 1, x);
    }
    match count {
        0 => values[0],
        1 => only,
        _ if weights > 0.0 => sum / weights,
        _ => plain / f64::from(count),
    }
}
