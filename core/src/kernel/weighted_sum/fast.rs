//! The weighted sum in blocks that stay in the first-level cache. Its twin for GPUs is gpu.wgsl.

use core::hint::select_unpredictable;
use core::ops::Range;

use super::reference::{reference_f64, reference_from};
use super::{Operand, needs_f64};
use crate::dtype::Float;
use crate::kernel::element::{Bf16, Element, F8E4M3, F8E5M2, F16, F32, Tally, flush, for_dtype, round};

/// What [`super::reference`] gives, fast: in blocks that stay in the first-level cache, one pass per group of operands, each a loop without
/// branches that compilers vectorise.
///
/// Every operand holds as many elements as `out`. Always inlined, so that a caller may compile it for a wider
/// instruction set than the rest of the program; the bits do not depend on it.
///
/// # Panics
/// If there is no operand or an operand is shorter than `out` asks for.
#[inline(always)]
pub fn weighted_sum(operands: &[Operand<'_>], dtype: Float, out: &mut [u8]) -> Tally {
    assert!(!operands.is_empty(), "a sum has at least one operand");
    if needs_f64(operands, dtype) {
        return reference_f64(operands, dtype, out);
    }
    let may_be_plain = operands.iter().all(|operand| round(operand.weight).abs() >= LEAST_WEIGHT);
    let mut block = Block::new();
    let size = dtype.bytes();
    let whole = out.len() / (STEP * size) * STEP;
    let (out, rest) = out.split_at_mut(whole * size);
    let mut tally = reference_from(whole, operands, dtype, rest);
    let blocks = (0..).step_by(BLOCK).zip(out.chunks_mut(BLOCK * size));
    for (start, out) in blocks {
        let elements = start..start + out.len() / size;
        // nearly all words are plain, which shows while they are summed: the rare block with others is summed again
        if !(may_be_plain && block.sum_plain(operands, &elements)) {
            block.sum(operands, &elements);
        }
        tally = tally.plus(for_dtype!(dtype, E => block.narrow::<E>(out)));
    }
    tally
}

/// Weights of at least this magnitude make no subnormals of words that are plain; see [`Block::add`].
pub(super) const LEAST_WEIGHT: f32 = 1.0 / (1_u64 << 40) as f32;
/// The loops go over multiples of this many elements, so that none needs a second loop for what is left of a vector.
pub(super) const STEP: usize = 64;
/// Elements per block: three arrays of 4 bytes each take 12 kB of the first-level cache.
pub(super) const BLOCK: usize = 1024;
/// Operands of one dtype that share a pass over the block: between them the sum stays in registers.
const GROUP: usize = 4;

/// f32 values as bits, so that the compiler may use integer and float instructions alike.
pub(super) struct Block {
    pub(super) sum: [u32; BLOCK],
    /// the value of the operand added last
    pub(super) last: [u32; BLOCK],
    /// bits in which any operand differs from the one before it
    pub(super) differs: [u32; BLOCK],
}

/// Magnitudes of the results of a block, as bits.
struct Extremes {
    /// the smallest but zero, less one
    least: u32,
    most: u32,
}

impl Block {
    pub(super) const fn new() -> Self {
        Self { sum: [0; BLOCK], last: [0; BLOCK], differs: [0; BLOCK] }
    }

    /// The sum, whatever the words are.
    #[inline(always)]
    fn sum(&mut self, operands: &[Operand<'_>], elements: &Range<usize>) {
        let (first, rest) = operands.split_first().expect("a sum has at least one operand");
        self.add::<1, false, true>(&[*first], elements);
        for operand in rest {
            self.add::<1, false, false>(&[*operand], elements);
        }
    }

    /// The sum as if all words were plain ([`Element::plainness`]); whether they are.
    #[inline(always)]
    fn sum_plain(&mut self, operands: &[Operand<'_>], elements: &Range<usize>) -> bool {
        let (mut are_plain, mut rest) = (true, operands);
        while let [operand, after @ ..] = rest {
            let is_first = rest.len() == operands.len();
            let is_alike = |other: &Operand<'_>| other.dtype == operand.dtype;
            let group = rest.split_first_chunk::<GROUP>().filter(|(group, _)| group.iter().all(is_alike));
            let is_plain;
            (is_plain, rest) = match (group, is_first) {
                (Some((group, after)), true) => (self.add::<GROUP, true, true>(group, elements), after),
                (Some((group, after)), false) => (self.add::<GROUP, true, false>(group, elements), after),
                (None, true) => (self.add::<1, true, true>(&[*operand], elements), after),
                (None, false) => (self.add::<1, true, false>(&[*operand], elements), after),
            };
            are_plain &= is_plain;
        }
        are_plain
    }

    /// Add operands of one dtype; whether all their words are plain.
    ///
    /// With words and weights that are `PLAIN` no subnormal can occur: elements are zero or at least 2⁻⁶⁰ and weights at
    /// least 2⁻⁴⁰, so products are zero or at least 2⁻¹⁰⁰, multiples of 2⁻¹²³; and a sum of such multiples is zero or at
    /// least 2⁻¹²³, a normal number.
    #[inline(always)]
    fn add<const N: usize, const PLAIN: bool, const FIRST: bool>(
        &mut self,
        group: &[Operand<'_>; N],
        elements: &Range<usize>,
    ) -> bool {
        for_dtype!(group[0].dtype, E => self.add_words::<E, N, PLAIN, FIRST>(group, elements))
    }

    #[cfg_attr(all(target_family = "wasm", not(target_feature = "simd128")), inline(never))]
    #[cfg_attr(not(all(target_family = "wasm", not(target_feature = "simd128"))), inline(always))]
    fn add_words<E: Element, const N: usize, const PLAIN: bool, const FIRST: bool>(
        &mut self,
        group: &[Operand<'_>; N],
        elements: &Range<usize>,
    ) -> bool {
        let weights = group.each_ref().map(|operand| round(operand.weight));
        let words = group.each_ref().map(|operand| words::<E>(operand.bytes, elements));
        let n = elements.len() / STEP * STEP;
        let (sums, lasts, differences) = (&mut self.sum[..n], &mut self.last[..n], &mut self.differs[..n]);
        let mut plainness = u32::MAX;
        for i in 0..n {
            // −0 + x is x for every x, zeros of both signs included
            let (sum, last, differs) =
                if FIRST { (-0.0, 0, 0) } else { (f32::from_bits(sums[i]), lasts[i], differences[i]) };
            // least of these operands: the minimum over all would make each wait for the last
            let mut element = Sum { sum, last, differs, least: u32::MAX };
            // written out: where code is to be small, as in WebAssembly, a loop would stay one and not be vectorised
            element.add::<E, PLAIN>(weights[0], words[0][i].as_ref(), FIRST);
            if N == GROUP {
                element.add::<E, PLAIN>(weights[1], words[1][i].as_ref(), false);
                element.add::<E, PLAIN>(weights[2], words[2][i].as_ref(), false);
                element.add::<E, PLAIN>(weights[3], words[3][i].as_ref(), false);
            }
            plainness = plainness.min(element.least);
            (sums[i], lasts[i], differences[i]) = (element.sum.to_bits(), element.last, element.differs);
        }
        plainness >= E::PLAIN
    }

    /// Narrow the results into `out`, and count those of note.
    #[inline(always)]
    pub(super) fn narrow<E: Element>(&self, out: &mut [u8]) -> Tally {
        let extremes = self.finish::<E>(out);
        // nearly always there is nothing to count
        if extremes.least >= E::UNDERFLOWS && extremes.most < E::OVERFLOWS {
            return Tally::default();
        }
        self.count(out.len() / E::BYTES, E::UNDERFLOWS, E::OVERFLOWS)
    }

    /// Narrow the results into `out`.
    #[cfg_attr(all(target_family = "wasm", not(target_feature = "simd128")), inline(never))]
    #[cfg_attr(not(all(target_family = "wasm", not(target_feature = "simd128"))), inline(always))]
    fn finish<E: Element>(&self, out: &mut [u8]) -> Extremes {
        let n = out.len() / (STEP * E::BYTES) * STEP;
        let out = &mut out[..n * E::BYTES];
        let (mut least, mut most) = (u32::MAX, 0);
        for i in 0..n {
            let sum = self.result(i);
            let magnitude = sum & 0x7fff_ffff;
            // zero, less one, is the largest of all
            least = least.min(magnitude.wrapping_sub(1));
            most = most.max(magnitude);
            E::write(E::narrow(f32::from_bits(sum)), &mut out[i * E::BYTES..(i + 1) * E::BYTES]);
        }
        Extremes { least, most }
    }

    /// Count the results that are below or above what narrows well, both as bits of magnitudes.
    #[cfg_attr(all(target_family = "wasm", not(target_feature = "simd128")), inline(never))]
    #[cfg_attr(not(all(target_family = "wasm", not(target_feature = "simd128"))), inline(always))]
    fn count(&self, n: usize, underflows: u32, overflows: u32) -> Tally {
        let (mut non_finite, mut underflowed) = (0u32, 0u32);
        for i in 0..n {
            let magnitude = self.result(i) & 0x7fff_ffff;
            non_finite += u32::from(magnitude >= overflows);
            underflowed += u32::from(magnitude.wrapping_sub(1) < underflows);
        }
        Tally { non_finite: non_finite.into(), underflowed: underflowed.into() }
    }

    #[inline(always)]
    fn result(&self, i: usize) -> u32 {
        // no branch: the loads would follow it, one by one
        select_unpredictable(self.differs[i] == 0, self.last[i], self.sum[i])
    }
}

/// One element while operands are added to it.
struct Sum {
    sum: f32,
    last: u32,
    differs: u32,
    /// The least plainness of a word.
    least: u32,
}

impl Sum {
    #[inline(always)]
    fn add<E: Element, const PLAIN: bool>(&mut self, weight: f32, word: &[u8], is_first: bool) {
        let word = E::read(word);
        let value = if PLAIN { E::widen_plain(word) } else { E::widen(word) };
        self.sum = if PLAIN {
            self.least = self.least.min(E::plainness(word));
            self.sum + weight * value
        } else {
            flush(self.sum + flush(weight * flush(value)))
        };
        if !is_first {
            self.differs |= value.to_bits() ^ self.last;
        }
        self.last = value.to_bits();
    }
}

/// The words of some elements of an operand.
#[inline(always)]
pub(super) fn words<'a, E: Element>(bytes: &'a [u8], elements: &Range<usize>) -> &'a [E::Bytes] {
    E::split(&bytes[elements.start * E::BYTES..elements.end * E::BYTES])
}
