//! Operands as rows of values, for kernels that look at all values of an element at once: a block of elements at a time, each
//! step a loop without branches over a row, which compilers vectorise.

use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

use super::Operand;
use crate::dtype::Float;
use crate::kernel::element::{Bf16, Element, F8E4M3, F8E5M2, F16, F32, Tally, for_dtype};

/// Elements per row: sixteen rows fit the first-level cache.
pub(super) const WIDTH: usize = 256;
/// The bits of a magnitude, and of infinity.
pub(super) const MAGNITUDE: u32 = 0x7fff_ffff;
pub(crate) const INFINITY: u32 = 0x7f80_0000;

/// The bits of an f32 each.
pub(super) type Row = [u32; WIDTH];

/// A block of elements.
pub(super) struct Rows {
    /// One per operand.
    pub(super) values: Vec<Row>,
    /// The largest magnitude of all operands, as bits: above [`INFINITY`] where one is NaN.
    pub(super) worst: Row,
    pub(super) result: Row,
}

impl Rows {
    pub(super) fn new(operands: usize) -> Self {
        Self { values: vec![[0; WIDTH]; operands], worst: [0; WIDTH], result: [0; WIDTH] }
    }

    /// Widen these elements, at most [`WIDTH`], of all operands.
    #[inline(always)]
    pub(super) fn fill(&mut self, operands: &[Operand<'_>], elements: &Range<usize>) {
        self.worst = [0; WIDTH];
        for (row, operand) in self.values.iter_mut().zip(operands) {
            for_dtype!(operand.dtype, E => widen::<E>(operand.bytes, elements, row));
            for (worst, bits) in self.worst.iter_mut().zip(&*row) {
                *worst = (*worst).max(bits & MAGNITUDE);
            }
        }
    }

    /// Narrow the first results into `out`.
    #[inline(always)]
    pub(super) fn finish(&self, dtype: Float, out: &mut [u8]) -> Tally {
        for_dtype!(dtype, E => self.narrow::<E>(out))
    }

    #[cfg_attr(all(target_family = "wasm", not(target_feature = "simd128")), inline(never))]
    #[cfg_attr(not(all(target_family = "wasm", not(target_feature = "simd128"))), inline(always))]
    fn narrow<E: Element>(&self, out: &mut [u8]) -> Tally {
        let (mut non_finite, mut underflowed) = (0_u32, 0_u32);
        let results = self.result.iter().zip(&self.worst);
        for (word, (bits, worst)) in out.chunks_exact_mut(E::BYTES).zip(results) {
            let magnitude = bits & MAGNITUDE;
            non_finite += u32::from((magnitude >= E::OVERFLOWS) | (*worst >= INFINITY));
            underflowed += u32::from(magnitude.wrapping_sub(1) < E::UNDERFLOWS);
            E::write(E::narrow(f32::from_bits(*bits)), word);
        }
        Tally { non_finite: non_finite.into(), underflowed: underflowed.into() }
    }
}

#[cfg_attr(all(target_family = "wasm", not(target_feature = "simd128")), inline(never))]
#[cfg_attr(not(all(target_family = "wasm", not(target_feature = "simd128"))), inline(always))]
fn widen<E: Element>(bytes: &[u8], elements: &Range<usize>, row: &mut Row) {
    let words = E::split(&bytes[elements.start * E::BYTES..elements.end * E::BYTES]);
    for (bits, word) in row.iter_mut().zip(words) {
        *bits = E::widen(E::read(word.as_ref())).to_bits();
    }
}

/// A walk over the elements of `out`, block by block. Not for F64.
///
/// It is no function that takes a rule: closures cannot be told to be inlined, and would be compiled for any CPU.
pub(super) struct Blocks<'a> {
    operands: &'a [Operand<'a>],
    dtype: Float,
    out: &'a mut [u8],
    block: Range<usize>,
    rows: Rows,
    tally: Tally,
}

impl<'a> Blocks<'a> {
    pub(super) fn new(operands: &'a [Operand<'a>], dtype: Float, out: &'a mut [u8]) -> Self {
        Self { operands, dtype, out, block: 0..0, rows: Rows::new(operands.len()), tally: Tally::default() }
    }

    /// Write the results of the last block and widen the next, if there is one.
    #[inline(always)]
    pub(super) fn next(&mut self) -> Option<&mut Rows> {
        let size = self.dtype.bytes();
        let Range { start, end } = self.block;
        if start < end {
            let out = &mut self.out[start * size..end * size];
            self.tally = self.tally.plus(self.rows.finish(self.dtype, out));
        }
        self.block = end..(end + WIDTH).min(self.out.len() / size);
        if self.block.is_empty() {
            return None;
        }
        self.rows.fill(self.operands, &self.block);
        Some(&mut self.rows)
    }

    /// What was counted of the blocks that are written.
    pub(super) fn tally(&self) -> Tally {
        self.tally
    }
}
