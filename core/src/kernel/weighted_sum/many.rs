//! Several weighted sums of the same arrays: each array is read and widened once for all of them.

use alloc::vec;
use alloc::vec::Vec;

use super::fast::{Block, LEAST_WEIGHT, STEP, words};
use super::reference::{reference, reference_f64, reference_from};
use super::{Operand, needs_f64};
use crate::dtype::Float;
use crate::kernel::element::{Bf16, Element, F8E4M3, F8E5M2, F16, F32, Tally, flush, for_dtype, round};

/// Elements per block: ten arrays of f32 take 20 kB of the first-level cache.
const SHARED: usize = 512;

/// An array that several sums share: its dtype, and its elements, little-endian and unaligned.
pub type Shared<'a> = (Float, &'a [u8]);
/// A sum of such arrays: which of them, in the order of the sum, and the weight of each; no weight is zero.
pub type Column = [(usize, f64)];

/// Each column by itself, the obvious way.
pub fn references(
    inputs: &[Shared<'_>],
    columns: &[&Column],
    dtype: Float,
    outs: &mut [&mut [u8]],
) -> Vec<Tally> {
    let sum = |(column, out): (&&Column, &mut &mut [u8])| reference(&operands(inputs, column), dtype, out);
    columns.iter().zip(outs).map(sum).collect()
}

/// What [`references`] gives, fast: block by block, all arrays are widened, and then each column is summed.
///
/// Every array holds as many elements as each of `outs`. Always inlined; see [`super::weighted_sum`].
///
/// # Panics
/// If a column has no operand, there is not one of `outs` for each, or an array is shorter than they ask for.
#[inline(always)]
pub fn weighted_sums(
    inputs: &[Shared<'_>],
    columns: &[&Column],
    dtype: Float,
    outs: &mut [&mut [u8]],
) -> Vec<Tally> {
    assert_eq!(columns.len(), outs.len(), "each column has an output");
    let operands: Vec<_> = columns.iter().map(|column| operands(inputs, column)).collect();
    assert!(operands.iter().all(|operands| !operands.is_empty()), "a sum has at least one operand");
    if operands.iter().any(|operands| needs_f64(operands, dtype)) {
        let sum = |(operands, out): (&Vec<_>, &mut &mut [u8])| match needs_f64(operands, dtype) {
            true => reference_f64(operands, dtype, out),
            false => reference(operands, dtype, out),
        };
        return operands.iter().zip(outs).map(sum).collect();
    }
    // what no column of these sums has may be F64, and is left alone
    let is_used = |at: &usize| columns.iter().any(|column| column.iter().any(|(other, _)| other == at));
    let used: Vec<usize> = (0..inputs.len()).filter(is_used).collect();
    let may_be_plain: Vec<bool> = columns
        .iter()
        .map(|column| column.iter().all(|(_, weight)| round(*weight).abs() >= LEAST_WEIGHT))
        .collect();
    let size = dtype.bytes();
    let count = outs.first().map_or(0, |out| out.len() / size);
    let whole = count / STEP * STEP;
    let mut tallies: Vec<_> = operands
        .iter()
        .zip(&mut *outs)
        .map(|(operands, out)| reference_from(whole, operands, dtype, &mut out[whole * size..]))
        .collect();
    let mut values = vec![0.0_f32; inputs.len() * SHARED];
    let mut block = Block::new();
    for start in (0..whole).step_by(SHARED) {
        let elements = start..whole.min(start + SHARED);
        let n = elements.len();
        let mut widen = |is_plain: bool| {
            let mut are_plain = true;
            for &at in &used {
                let (dtype, bytes) = inputs[at];
                let row = &mut values[at * SHARED..at * SHARED + n];
                are_plain &= for_dtype!(dtype, E => {
                    let words = words::<E>(bytes, &elements);
                    if is_plain { widen::<E, true>(words, row) } else { widen::<E, false>(words, row) }
                });
            }
            are_plain
        };
        // nearly all words are plain
        let are_plain = widen(true);
        if !are_plain {
            widen(false);
        }
        let row = |at: usize| &values[at * SHARED..at * SHARED + n];
        let mut before: Option<&Column> = None;
        for (at, column) in columns.iter().enumerate() {
            // columns of the same arrays differ in the same places
            let is_as_before = before.is_some_and(|before| {
                before.len() == column.len() && before.iter().zip(*column).all(|(a, b)| a.0 == b.0)
            });
            if !is_as_before {
                block.compare(column.iter().map(|(at, _)| row(*at)), n);
                before = Some(*column);
            }
            block.sum[..n].fill((-0.0_f32).to_bits());
            let is_plain = are_plain && may_be_plain[at];
            let mut rest = *column;
            while let [(first, weight), after @ ..] = rest {
                rest = match rest.split_first_chunk::<GROUP>() {
                    Some((group, after)) if is_plain => {
                        let rows = group.map(|(at, _)| row(at));
                        block.add_rows(group.map(|(_, weight)| round(weight)), rows);
                        after
                    }
                    _ if is_plain => {
                        block.add_rows([round(*weight)], [row(*first)]);
                        after
                    }
                    _ => {
                        block.add_flushed(round(*weight), row(*first));
                        after
                    }
                };
            }
            let out = &mut outs[at][elements.start * size..elements.end * size];
            let more = for_dtype!(dtype, E => block.narrow::<E>(out));
            tallies[at] = tallies[at].plus(more);
        }
    }
    tallies
}

/// Arrays that share a pass over the sum, which stays in registers between them.
const GROUP: usize = 4;

/// What the kernel of one sum takes.
fn operands<'a>(inputs: &[Shared<'a>], column: &Column) -> Vec<Operand<'a>> {
    let operand = |&(at, weight): &(usize, f64)| Operand { dtype: inputs[at].0, bytes: inputs[at].1, weight };
    column.iter().map(operand).collect()
}

/// Widen words; whether all are plain ([`Element::plainness`]), without which `PLAIN` gives other values.
#[inline(always)]
fn widen<E: Element, const PLAIN: bool>(words: &[E::Bytes], values: &mut [f32]) -> bool {
    let n = values.len() / STEP * STEP;
    let (words, values) = (&words[..n], &mut values[..n]);
    let mut plainness = u32::MAX;
    for i in 0..n {
        let word = E::read(words[i].as_ref());
        plainness = plainness.min(E::plainness(word));
        values[i] = if PLAIN { E::widen_plain(word) } else { E::widen(word) };
    }
    plainness >= E::PLAIN
}

impl Block {
    /// Find where rows differ, and what the last has.
    #[inline(always)]
    fn compare<'a>(&mut self, rows: impl Iterator<Item = &'a [f32]>, n: usize) {
        let n = n / STEP * STEP;
        let (lasts, differences) = (&mut self.last[..n], &mut self.differs[..n]);
        differences.fill(0);
        for (k, row) in rows.enumerate() {
            let row = &row[..n];
            if k == 0 {
                (0..n).for_each(|i| lasts[i] = row[i].to_bits());
                continue;
            }
            for i in 0..n {
                let bits = row[i].to_bits();
                differences[i] |= bits ^ lasts[i];
                lasts[i] = bits;
            }
        }
    }

    /// Add rows of plain values.
    #[inline(always)]
    fn add_rows<const N: usize>(&mut self, weights: [f32; N], rows: [&[f32]; N]) {
        let n = rows[0].len() / STEP * STEP;
        let rows = rows.map(|row| &row[..n]);
        let sums = &mut self.sum[..n];
        for i in 0..n {
            let mut sum = f32::from_bits(sums[i]);
            sum += weights[0] * rows[0][i];
            if N == GROUP {
                sum += weights[1] * rows[1][i];
                sum += weights[2] * rows[2][i];
                sum += weights[3] * rows[3][i];
            }
            sums[i] = sum.to_bits();
        }
    }

    /// Add a row of any values.
    #[inline(always)]
    fn add_flushed(&mut self, weight: f32, row: &[f32]) {
        let n = row.len() / STEP * STEP;
        let (row, sums) = (&row[..n], &mut self.sum[..n]);
        for i in 0..n {
            sums[i] = flush(f32::from_bits(sums[i]) + flush(weight * flush(row[i]))).to_bits();
        }
    }
}
