//! The middle values in blocks: a sorting network over rows, of which only what the middle depends on is done.

use alloc::vec;
use alloc::vec::Vec;

use super::reference::{reference, share};
use crate::dtype::Float;
use crate::kernel::element::{Tally, flush, round};
use crate::kernel::rows::{Blocks, INFINITY, Row, Rows};
use crate::kernel::{Operand, needs_f64};

/// What [`super::reference`] gives, fast. In WebAssembly small rather than quick: it is seldom asked for.
#[cfg_attr(target_family = "wasm", inline(never))]
#[cfg_attr(not(target_family = "wasm"), inline(always))]
pub(in crate::kernel) fn middle(operands: &[Operand<'_>], cut: usize, dtype: Float, out: &mut [u8]) -> Tally {
    assert!(2 * cut < operands.len(), "some value is left");
    if needs_f64(operands, dtype) {
        return reference(operands, cut, dtype, out);
    }
    let network = network(operands.len(), cut);
    let share = round(share(operands.len() - 2 * cut));
    let mut blocks = Blocks::new(operands, dtype, out);
    while let Some(rows) = blocks.next() {
        block(rows, &network, cut, share);
    }
    blocks.tally()
}

#[inline(always)]
fn block(rows: &mut Rows, network: &[(usize, usize)], cut: usize, share: f32) {
    let Rows { values, worst, result } = rows;
    values.iter_mut().for_each(|row| row.iter_mut().for_each(|bits| *bits = key(*bits)));
    for (low, high) in network {
        let (before, after) = values.split_at_mut(*high);
        exchange(&mut before[*low], &mut after[0]);
    }
    let end = values.len() - cut;
    let kept = &mut values[cut..end];
    kept.iter_mut().for_each(|row| row.iter_mut().for_each(|key| *key = bits(*key)));
    // the last sum is the mean: nothing else is kept
    for (sum, bits) in result.iter_mut().zip(&kept[0]) {
        *sum = flush(f32::from_bits(*bits)).to_bits();
    }
    for row in &kept[1..] {
        for (sum, bits) in result.iter_mut().zip(row) {
            *sum = flush(f32::from_bits(*sum) + flush(f32::from_bits(*bits))).to_bits();
        }
    }
    let ends = kept[0].iter().zip(&kept[kept.len() - 1]);
    for ((sum, worst), (first, last)) in result.iter_mut().zip(worst).zip(ends) {
        let mean = flush(f32::from_bits(*sum) * share).to_bits();
        let value = if first == last { *first } else { mean };
        *sum = if *worst > INFINITY { f32::NAN.to_bits() } else { value };
    }
}

/// A number whose order, as one with sign, is that of f32 values; [`bits`] is the inverse.
#[inline(always)]
fn key(bits: u32) -> u32 {
    bits ^ ((bits.cast_signed() >> 31).cast_unsigned() >> 1)
}

#[inline(always)]
fn bits(key: u32) -> u32 {
    self::key(key)
}

/// The lesser of each pair to `low`.
#[inline(always)]
fn exchange(low: &mut Row, high: &mut Row) {
    for (low, high) in low.iter_mut().zip(high) {
        let (a, b) = (low.cast_signed(), high.cast_signed());
        (*low, *high) = (a.min(b).cast_unsigned(), a.max(b).cast_unsigned());
    }
}

/// The pairs of places that Batcher's network compares for so many values, one after the other; without those on which no value
/// depends that is left when `cut` are cut on each side.
pub(super) fn network(values: usize, cut: usize) -> Vec<(usize, usize)> {
    let mut pairs = Vec::new();
    let mut run = 1;
    while run < values {
        let mut step = run;
        while step > 0 {
            for start in (step % run..values.saturating_sub(step)).step_by(2 * step) {
                for low in start..(start + step).min(values - step) {
                    if low / (2 * run) == (low + step) / (2 * run) {
                        pairs.push((low, low + step));
                    }
                }
            }
            step /= 2;
        }
        run *= 2;
    }
    let mut is_wanted = vec![false; values];
    is_wanted[cut..values - cut].fill(true);
    let mut kept: Vec<_> = pairs
        .into_iter()
        .rev()
        .filter(|(low, high)| {
            let is_kept = is_wanted[*low] || is_wanted[*high];
            (is_wanted[*low], is_wanted[*high]) = (is_wanted[*low] | is_kept, is_wanted[*high] | is_kept);
            is_kept
        })
        .collect();
    kept.reverse();
    kept
}
