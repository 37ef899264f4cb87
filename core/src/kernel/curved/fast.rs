//! Means by curvature in blocks of rows.

use super::reference::reference;
use super::{Curved, root, score};
use crate::dtype::Float;
use crate::kernel::element::{Tally, round, round_to_odd};
use crate::kernel::rows::{Blocks, INFINITY, Row, Rows, WIDTH};
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
        let sums = if how.is_grafted {
            Sums::grafted(&rows.values, operands, how)
        } else {
            Sums::weighed(&rows.values, operands, how.power)
        };
        lost += sums.round(rows, is_f32, left.min(WIDTH));
        left = left.saturating_sub(WIDTH);
    }
    blocks.tally().plus(Tally { non_finite: 0, underflowed: lost })
}

/// A block of means before they are divided.
struct Sums {
    sums: [f64; WIDTH],
    /// What they are divided by.
    weights: [f64; WIDTH],
    /// How many inputs count, and the value of the last that does.
    count: [u32; WIDTH],
    last: Row,
}

impl Sums {
    /// Of all inputs.
    #[inline(always)]
    fn weighed(values: &[Row], operands: &[Operand<'_>], power: f64) -> Self {
        let inputs = values.len() / 2;
        let (mut sums, mut weights) = ([-0.0; WIDTH], [-0.0; WIDTH]);
        for k in 0..inputs {
            let (a, b) = (operands[k + inputs].weight, operands[k].weight);
            let (input, moment) = (&values[k], &values[k + inputs]);
            for i in 0..WIDTH {
                let weight = a * root(float(moment[i]), power) + b;
                weights[i] += weight;
                sums[i] += weight * float(input[i]);
            }
        }
        let count = u32::try_from(inputs).expect("inputs are few");
        let is_weighed = |weight: f64| weight > 0.0;
        // elements that nothing weighs are rare: in a loop of their own they leave the one above without branches
        if !weights.iter().fold(true, |all, weight| all & is_weighed(*weight)) {
            for i in 0..WIDTH {
                if !is_weighed(weights[i]) {
                    sums[i] = values[..inputs].iter().fold(-0.0, |sum, input| sum + float(input[i]));
                    weights[i] = count.into();
                }
            }
        }
        Self { sums, weights, count: [count; WIDTH], last: values[inputs - 1] }
    }

    /// Of the inputs that change enough, each element by itself.
    #[inline(always)]
    fn grafted(values: &[Row], operands: &[Operand<'_>], how: Curved) -> Self {
        let inputs = values.len() / 2;
        let (mut sums, mut plain, mut weights) = ([-0.0; WIDTH], [-0.0; WIDTH], [-0.0; WIDTH]);
        let (base, mut count, mut last) = (&values[0], [0; WIDTH], values[0]);
        for k in 1..=inputs {
            let (a, least) = (operands[k + inputs].weight, round(operands[k].weight));
            let (input, moment) = (&values[k], &values[k + inputs]);
            for i in 0..WIDTH {
                let (x, moment) = (float(input[i]), float(moment[i]));
                let weight = a * root(moment, how.power) + how.epsilon;
                // what is not finite counts as anything: the result is NaN
                let counts = score(moment, x - float(base[i])) >= least;
                weights[i] = if counts { weights[i] + weight } else { weights[i] };
                sums[i] = if counts { sums[i] + weight * x } else { sums[i] };
                plain[i] = if counts { plain[i] + x } else { plain[i] };
                count[i] += u32::from(counts);
                last[i] = if counts { input[i] } else { last[i] };
            }
        }
        for i in 0..WIDTH {
            let is_weighed = weights[i] > 0.0;
            sums[i] = if is_weighed { sums[i] } else { plain[i] };
            weights[i] = if is_weighed { weights[i] } else { count[i].into() };
        }
        Self { sums, weights, count, last }
    }

    /// Divide and round into the results; how many of the first elements became 0 though they were not.
    #[inline(always)]
    fn round(&self, rows: &mut Rows, is_f32: bool, elements: usize) -> u64 {
        let Rows { worst, result, .. } = rows;
        let mut lost = [0_u32; WIDTH];
        for i in 0..WIDTH {
            let mean = self.sums[i] / self.weights[i];
            let bits = if is_f32 { round(mean) } else { round_to_odd(mean) }.to_bits();
            let is_mixed = self.count[i] > 1;
            lost[i] = u32::from(is_f32 & is_mixed & (bits << 1 == 0) & (mean != 0.0));
            let bits = if is_mixed { bits } else { self.last[i] };
            result[i] = if worst[i] >= INFINITY { f32::NAN.to_bits() } else { bits };
        }
        lost[..elements].iter().sum::<u32>().into()
    }
}

/// The value of a word.
#[inline(always)]
fn float(bits: u32) -> f64 {
    f32::from_bits(bits).into()
}
