//! Means by curvature in blocks of rows.

use super::reference::reference;
use super::{Curved, root, score};
use crate::dtype::Float;
use crate::kernel::element::{Tally, round, round_to_odd};
use crate::kernel::rows::{Blocks, INFINITY, Rows, WIDTH};
use crate::kernel::{Operand, needs_f64};

/// What [`super::reference`] gives, fast. In WebAssembly small rather than quick: it is seldom asked for.
#[cfg_attr(target_family = "wasm", inline(never))]
#[cfg_attr(not(target_family = "wasm"), inline(always))]
pub(in crate::kernel) fn curved(
    operands: &[Operand<'_>],
    how: Curved,
    dtype: Float,
    out: &mut [u8],
) -> Tally {
    let first = usize::from(how.is_grafted);
    let inputs = (operands.len() - first) / 2;
    assert!(operands.len() == first + 2 * inputs, "a moment for each input");
    if needs_f64(operands, dtype) || cfg!(target_family = "wasm") {
        return reference(operands, how, dtype, out);
    }
    let is_f32 = dtype == Float::F32;
    let (mut lost, mut left) = (0, out.len() / dtype.bytes());
    let mut blocks = Blocks::new(operands, dtype, out);
    while let Some(rows) = blocks.next() {
        let Rows { values, worst, result } = rows;
        let mut weights = [-0.0; WIDTH];
        let mut sum = [-0.0; WIDTH];
        let mut plain = [-0.0; WIDTH];
        let mut count = [0_u32; WIDTH];
        let mut only = if how.is_grafted { values[0] } else { [0; WIDTH] };
        for k in first..first + inputs {
            let (a, b) = (operands[k + inputs].weight, operands[k].weight);
            let least = if how.is_grafted { round(b) } else { 0.0 };
            let b = if how.is_grafted { how.epsilon } else { b };
            for i in 0..WIDTH {
                let x: f64 = f32::from_bits(values[k][i]).into();
                let moment: f64 = f32::from_bits(values[k + inputs][i]).into();
                let weight = a * root(moment, how.power) + b;
                let base: f64 = f32::from_bits(values[0][i]).into();
                // what is not finite counts as anything: the result is NaN
                let counts = !how.is_grafted || score(moment, x - base) >= least;
                weights[i] = if counts { weights[i] + weight } else { weights[i] };
                sum[i] = if counts { sum[i] + weight * x } else { sum[i] };
                plain[i] = if counts { plain[i] + x } else { plain[i] };
                count[i] += u32::from(counts);
                only[i] = if counts { values[k][i] } else { only[i] };
            }
        }
        for i in 0..WIDTH {
            let mean = if weights[i] > 0.0 { sum[i] / weights[i] } else { plain[i] / f64::from(count[i]) };
            let bits = if is_f32 { round(mean) } else { round_to_odd(mean) }.to_bits();
            let mixed = count[i] > 1;
            lost += u64::from(is_f32 && mixed && i < left && bits << 1 == 0 && mean != 0.0);
            let bits = if mixed { bits } else { only[i] };
            result[i] = if worst[i] >= INFINITY { f32::NAN.to_bits() } else { bits };
        }
        left = left.saturating_sub(WIDTH);
    }
    blocks.tally().plus(Tally { non_finite: 0, underflowed: lost })
}
