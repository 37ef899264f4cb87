//! The weighted sum of several arrays, element by element. Its twin for GPUs is weighted_sum.wgsl.
//!
//! y\[i\] = round( ((w₀·x₀\[i\]) + w₁·x₁\[i\]) + … )
//!
//! Shapes: K operands `[n]` → `[n]`, each in its own dtype. Inputs widen to f32 exactly; each product and each sum rounds
//! to nearest even in f32, in the order of the operands, never fused; f32 subnormal inputs, products and sums count as
//! zero, sign kept (GPUs may flush them, so everyone does); the result narrows once. An element whose value is the same
//! in every operand passes through unchanged, which is right because weights sum to 1. NaN results are canonical.
//! If any operand or the result is F64, all of it runs in f64 with the f64 weights, and nothing is flushed.

use crate::dtype::{Bf16, Element, F8E4M3, F8E5M2, F16, F32, Float, narrow_f64};

/// The twin for GPUs, in the WebGPU shading language: the same bytes for every dtype but F64. Its head says how a job is
/// laid out in its buffers; `INPUT` and `OUTPUT` are pipeline constants, codes as [`wgsl_dtype`] gives them.
pub const WGSL: &str = include_str!("weighted_sum.wgsl");
/// Invocations per workgroup of the twin.
pub const WORKGROUP: u32 = 256;
/// Elements that one invocation of the twin makes.
pub const ELEMENTS_PER_INVOCATION: u32 = 8;
/// Most operands of one job of the twin: what its uniform buffer declares.
pub const MAX_OPERANDS: usize = 256;

/// What the twin calls a dtype; `None` for F64, which WGSL does not have.
#[must_use]
pub const fn wgsl_dtype(dtype: Float) -> Option<u32> {
    match dtype {
        Float::F64 => None,
        Float::F32 => Some(0),
        Float::BF16 => Some(1),
        Float::F16 => Some(2),
        Float::F8E4M3 => Some(3),
        Float::F8E5M2 => Some(4),
    }
}

/// One input of a sum.
#[derive(Clone, Copy, Debug)]
pub struct Operand<'a> {
    /// The dtype of the elements.
    pub dtype: Float,
    /// Little-endian elements, unaligned.
    pub bytes: &'a [u8],
    /// The weight; f32 sums use it rounded to f32. Not zero: leave such inputs out, so that 0·NaN does not spread.
    pub weight: f64,
}

/// What a sum noticed about its results.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Results that are infinite or NaN.
    pub non_finite: u64,
    /// Results that became zero by narrowing although the sum was not.
    pub underflowed: u64,
}

impl Tally {
    /// Both counts together.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self {
            non_finite: self.non_finite + other.non_finite,
            underflowed: self.underflowed + other.underflowed,
        }
    }
}

/// The obvious loop: never optimised, never removed; everything else is measured against it.
pub fn reference(operands: &[Operand<'_>], dtype: Float, out: &mut [u8]) -> Tally {
    if needs_f64(operands, dtype) {
        return reference_f64(operands, dtype, out);
    }
    let mut tally = Tally::default();
    for (i, result) in out.chunks_exact_mut(dtype.bytes()).enumerate() {
        let value = |operand: &Operand<'_>| {
            let size = operand.dtype.bytes();
            widen(operand.dtype, &operand.bytes[i * size..(i + 1) * size])
        };
        let first = value(&operands[0]);
        let mut sum = 0.0;
        let mut same = true;
        for (k, operand) in operands.iter().enumerate() {
            let product = flush(round(operand.weight) * flush(value(operand)));
            sum = if k == 0 { product } else { flush(sum + product) };
            same &= value(operand).to_bits() == first.to_bits();
        }
        let sum = if same { first } else { sum };
        narrow(dtype, sum, result);
        let narrowed = widen(dtype, result);
        tally.non_finite += u64::from(!narrowed.is_finite());
        tally.underflowed += u64::from(narrowed == 0.0 && sum != 0.0);
    }
    tally
}

/// The same, fast: in blocks that stay in the first-level cache, one pass per operand, each a loop without branches that
/// compilers vectorise.
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
    let mut block = Block { sum: [0; BLOCK], first: [0; BLOCK], differs: [0; BLOCK] };
    let mut tally = Tally::default();
    let (out_size, mut start) = (dtype.bytes(), 0);
    for out in out.chunks_mut(BLOCK * out_size) {
        let n = out.len() / out_size;
        for (k, operand) in operands.iter().enumerate() {
            let size = operand.dtype.bytes();
            let bytes = &operand.bytes[start * size..(start + n) * size];
            let weight = round(operand.weight);
            match operand.dtype {
                Float::F32 | Float::F64 => block.add::<F32>(k == 0, bytes, weight),
                Float::BF16 => block.add::<Bf16>(k == 0, bytes, weight),
                Float::F16 => block.add::<F16>(k == 0, bytes, weight),
                Float::F8E4M3 => block.add::<F8E4M3>(k == 0, bytes, weight),
                Float::F8E5M2 => block.add::<F8E5M2>(k == 0, bytes, weight),
            }
        }
        tally = tally.plus(match dtype {
            Float::F32 | Float::F64 => block.finish::<F32>(out),
            Float::BF16 => block.finish::<Bf16>(out),
            Float::F16 => block.finish::<F16>(out),
            Float::F8E4M3 => block.finish::<F8E4M3>(out),
            Float::F8E5M2 => block.finish::<F8E5M2>(out),
        });
        start += n;
    }
    tally
}

/// Elements per block: three arrays of 4 bytes each take 12 kB of the first-level cache.
const BLOCK: usize = 1024;

/// f32 values as bits, so that the compiler may use integer and float instructions alike.
struct Block {
    sum: [u32; BLOCK],
    /// the first operand's value
    first: [u32; BLOCK],
    /// bits in which any operand differs from the first
    differs: [u32; BLOCK],
}

impl Block {
    #[inline(always)]
    fn add<E: Element>(&mut self, is_first: bool, bytes: &[u8], weight: f32) {
        let words = bytes.chunks_exact(E::BYTES);
        let state = self.sum.iter_mut().zip(&mut self.first).zip(&mut self.differs);
        if is_first {
            for (word, ((sum, first), differs)) in words.zip(state) {
                let value = E::widen(E::read(word));
                *sum = product::<E>(weight, value).to_bits();
                *first = value.to_bits();
                *differs = 0;
            }
        } else {
            for (word, ((sum, first), differs)) in words.zip(state) {
                let value = E::widen(E::read(word));
                *sum = flush(f32::from_bits(*sum) + product::<E>(weight, value)).to_bits();
                *differs |= value.to_bits() ^ *first;
            }
        }
    }

    #[inline(always)]
    fn finish<E: Element>(&self, out: &mut [u8]) -> Tally {
        let state = self.sum.iter().zip(&self.first).zip(&self.differs);
        // 32-bit counters: they stay in vector registers
        let (mut non_finite, mut underflowed) = (0u32, 0u32);
        for (word, ((&sum, &first), &differs)) in out.chunks_exact_mut(E::BYTES).zip(state) {
            let sum = if differs == 0 { first } else { sum };
            let result = E::narrow(f32::from_bits(sum));
            non_finite += u32::from(!E::is_finite(result));
            underflowed += u32::from(E::is_zero(result) & (sum & 0x7fff_ffff != 0));
            E::write(result, word);
        }
        Tally { non_finite: non_finite.into(), underflowed: underflowed.into() }
    }
}

#[inline(always)]
fn product<E: Element>(weight: f32, value: f32) -> f32 {
    flush(weight * if E::MAY_BE_SUBNORMAL { flush(value) } else { value })
}

/// A subnormal becomes zero of its sign.
#[inline(always)]
fn flush(value: f32) -> f32 {
    let bits = value.to_bits();
    f32::from_bits(if bits & 0x7f80_0000 == 0 { bits & 0x8000_0000 } else { bits })
}

#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "weights round to f32 once, here")]
fn round(weight: f64) -> f32 {
    weight as f32
}

fn needs_f64(operands: &[Operand<'_>], dtype: Float) -> bool {
    dtype == Float::F64 || operands.iter().any(|operand| operand.dtype == Float::F64)
}

fn widen(dtype: Float, bytes: &[u8]) -> f32 {
    match dtype {
        Float::F64 => unreachable!("needs_f64() sent F64 the other way"),
        Float::F32 => F32::widen(F32::read(bytes)),
        Float::BF16 => Bf16::widen(Bf16::read(bytes)),
        Float::F16 => F16::widen(F16::read(bytes)),
        Float::F8E4M3 => F8E4M3::widen(F8E4M3::read(bytes)),
        Float::F8E5M2 => F8E5M2::widen(F8E5M2::read(bytes)),
    }
}

fn narrow(dtype: Float, value: f32, bytes: &mut [u8]) {
    match dtype {
        Float::F64 => unreachable!("needs_f64() sent F64 the other way"),
        Float::F32 => F32::write(F32::narrow(value), bytes),
        Float::BF16 => Bf16::write(Bf16::narrow(value), bytes),
        Float::F16 => F16::write(F16::narrow(value), bytes),
        Float::F8E4M3 => F8E4M3::write(F8E4M3::narrow(value), bytes),
        Float::F8E5M2 => F8E5M2::write(F8E5M2::narrow(value), bytes),
    }
}

/// F64 checkpoints are rare and small: the plain loop serves.
fn reference_f64(operands: &[Operand<'_>], dtype: Float, out: &mut [u8]) -> Tally {
    let mut tally = Tally::default();
    let size = dtype.bytes();
    for (i, result) in out.chunks_exact_mut(size).enumerate() {
        let value = |operand: &Operand<'_>| {
            let size = operand.dtype.bytes();
            operand.dtype.value(&operand.bytes[i * size..(i + 1) * size])
        };
        let first = value(&operands[0]);
        let mut sum = 0.0;
        let mut same = true;
        for (k, operand) in operands.iter().enumerate() {
            let product = operand.weight * value(operand);
            sum = if k == 0 { product } else { sum + product };
            same &= value(operand).to_bits() == first.to_bits();
        }
        let sum = if same { first } else { sum };
        result.copy_from_slice(&narrow_f64(dtype, sum)[..size]);
        let narrowed = dtype.value(result);
        tally.non_finite += u64::from(!narrowed.is_finite());
        tally.underflowed += u64::from(narrowed == 0.0 && sum != 0.0);
    }
    tally
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use alloc::vec::Vec;

    const F32_KINDS: [Float; 5] = [Float::F32, Float::BF16, Float::F16, Float::F8E4M3, Float::F8E5M2];

    /// Bytes with a prime period, so that no two blocks look alike; every bit pattern occurs, NaN and subnormals included.
    fn paint(n: usize, seed: u64) -> Vec<u8> {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        (0..n)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                state.to_be_bytes()[0]
            })
            .collect()
    }

    #[test]
    fn fast_equals_reference_for_every_pair_of_dtypes_and_edge_length() {
        for n in [0, 1, 7, 64, 1023, 1024, 1025, 5000] {
            for from in F32_KINDS {
                for to in F32_KINDS {
                    let inputs: Vec<_> = (0..3).map(|k| paint(n * from.bytes(), k)).collect();
                    let operands: Vec<_> = [0.5, -0.25, 0.75]
                        .iter()
                        .zip(&inputs)
                        .map(|(&weight, bytes)| Operand { dtype: from, bytes, weight })
                        .collect();
                    let (mut slow, mut fast) = (vec![0; n * to.bytes()], vec![1; n * to.bytes()]);
                    let slow_tally = reference(&operands, to, &mut slow);
                    assert_eq!(weighted_sum(&operands, to, &mut fast), slow_tally, "{from:?} to {to:?}, {n}");
                    assert!(fast == slow, "{from:?} to {to:?}, {n} elements");
                }
            }
        }
    }

    #[test]
    fn mixed_dtypes_sum_alike() {
        let n = 3000;
        let inputs: Vec<_> = F32_KINDS.iter().map(|dtype| paint(n * dtype.bytes(), 7)).collect();
        let operands: Vec<_> = F32_KINDS
            .iter()
            .zip(&inputs)
            .map(|(&dtype, bytes)| Operand { dtype, bytes, weight: 0.2 })
            .collect();
        let (mut slow, mut fast) = (vec![0; n * 4], vec![0; n * 4]);
        assert_eq!(
            reference(&operands, Float::F32, &mut slow),
            weighted_sum(&operands, Float::F32, &mut fast)
        );
        assert!(fast == slow);
    }

    fn sum_f32(inputs: &[f32], weights: &[f64]) -> f32 {
        let bytes: Vec<_> = inputs.iter().map(|x| x.to_le_bytes()).collect();
        let operands: Vec<_> = bytes
            .iter()
            .zip(weights)
            .map(|(bytes, &weight)| Operand { dtype: Float::F32, bytes, weight })
            .collect();
        let mut out = [0; 4];
        weighted_sum(&operands, Float::F32, &mut out);
        f32::from_le_bytes(out)
    }

    #[test]
    fn equal_elements_pass_through() {
        let tiny = f32::from_bits(1);
        assert_eq!(sum_f32(&[tiny; 3], &[1.0 / 3.0; 3]).to_bits(), 1);
        assert_eq!(sum_f32(&[0.1; 10], &[0.1; 10]), 0.1);
        assert_eq!(sum_f32(&[-0.0, -0.0], &[0.5, 0.5]).to_bits(), (-0.0f32).to_bits());
    }

    #[test]
    fn subnormals_are_flushed_with_their_sign() {
        let tiny = f32::from_bits(0x8000_0100);
        assert_eq!(sum_f32(&[tiny, -0.0], &[0.5, 0.5]).to_bits(), (-0.0f32).to_bits());
        let small = f32::MIN_POSITIVE;
        assert_eq!(sum_f32(&[small, 0.0], &[0.5, 0.5]).to_bits(), 0);
    }
}
