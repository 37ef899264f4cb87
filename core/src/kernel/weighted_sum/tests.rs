//! The fast loop against the reference, and the contract's corner cases.

use super::fast::BLOCK;
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

/// As [`paint`], with magnitudes from 2⁻⁶⁰ (the least that counts as plain) to 2⁻⁴⁵, some zero.
fn paint_plain(float: Float, n: usize, seed: u64) -> Vec<u8> {
    let words = paint(4 * n, seed);
    let words = words.chunks_exact(4).map(|word| {
        let word = u32::from_le_bytes(word.try_into().expect("four bytes"));
        let exponent = 67 + ((word >> 23) & 15);
        if word & 0x7000_0000 == 0 { word & 0x8000_0000 } else { (word & 0x807f_ffff) | (exponent << 23) }
    });
    words.flat_map(|word| word.to_le_bytes()[4 - float.bytes()..].to_vec()).collect()
}

#[test]
fn plain_blocks_equal_the_reference_up_to_where_subnormals_begin() {
    let n = 3 * BLOCK + 5;
    // 2⁻⁴⁰ is the last weight that is plain; −1 cancels what +1 brought; five operands are a group and one more
    for weights in [
        [1.0 / (1_u64 << 40) as f64, 1.0, -1.0, 0.5, 0.25],
        [1.0 / (1_u64 << 41) as f64, 1.0, -1.0, 0.5, 0.25],
    ] {
        for float in [Float::F32, Float::BF16] {
            for spoilt in [None, Some(0), Some(BLOCK + 1)] {
                let mut inputs: Vec<_> = (0..5).map(|k| paint_plain(float, n, 1 + k / 2)).collect();
                if let Some(element) = spoilt {
                    // zeros and the smallest subnormal: this block must take the careful way
                    let at = element * float.bytes();
                    inputs.iter_mut().for_each(|input| input[at..at + float.bytes()].fill(0));
                    inputs[4][at] = 1;
                }
                let operands = inputs.iter().zip(weights);
                let operands: Vec<_> =
                    operands.map(|(bytes, weight)| Operand { dtype: float, bytes, weight }).collect();
                let (mut slow, mut fast) = (vec![0; n * 4], vec![1; n * 4]);
                let slow_tally = reference(&operands, Float::F32, &mut slow);
                assert_eq!(weighted_sum(&operands, Float::F32, &mut fast), slow_tally);
                assert!(fast == slow, "{float:?}, {weights:?}, {spoilt:?}");
            }
        }
    }
}

#[test]
fn mixed_dtypes_sum_alike() {
    let n = 3000;
    let inputs: Vec<_> = F32_KINDS.iter().map(|dtype| paint(n * dtype.bytes(), 7)).collect();
    let operands: Vec<_> =
        F32_KINDS.iter().zip(&inputs).map(|(&dtype, bytes)| Operand { dtype, bytes, weight: 0.2 }).collect();
    let (mut slow, mut fast) = (vec![0; n * 4], vec![0; n * 4]);
    assert_eq!(reference(&operands, Float::F32, &mut slow), weighted_sum(&operands, Float::F32, &mut fast));
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

/// Several sums against each by itself: columns of all arrays, of some, of one, and with weights of every size.
fn sums_equal(inputs: &[Shared<'_>], columns: &[&Column], to: Float, n: usize) {
    let mut slow: Vec<_> = columns.iter().map(|_| vec![0; n * to.bytes()]).collect();
    let mut fast: Vec<_> = columns.iter().map(|_| vec![1; n * to.bytes()]).collect();
    let mut slow_outs: Vec<_> = slow.iter_mut().map(Vec::as_mut_slice).collect();
    let slow_tallies = references(inputs, columns, to, &mut slow_outs);
    let mut fast_outs: Vec<_> = fast.iter_mut().map(Vec::as_mut_slice).collect();
    assert_eq!(weighted_sums(inputs, columns, to, &mut fast_outs), slow_tallies, "{to:?}, {n}");
    for (at, column) in columns.iter().enumerate() {
        assert!(fast[at] == slow[at], "{column:?} to {to:?}, {n} elements");
        let of = |&(at, weight): &(usize, f64)| Operand { dtype: inputs[at].0, bytes: inputs[at].1, weight };
        let mut single = vec![2; n * to.bytes()];
        weighted_sum(&column.iter().map(of).collect::<Vec<_>>(), to, &mut single);
        assert!(fast[at] == single, "{column:?} to {to:?}, {n} elements: as one sum");
    }
}

const TINY: f64 = 1.0 / (1_u64 << 41) as f64;
const COLUMNS: [&Column; 6] = [
    &[(0, 0.5), (1, -0.25), (2, 0.5), (3, 0.125), (4, 0.125)],
    &[(0, 0.2), (1, 0.2), (2, 0.2), (3, 0.2), (4, 0.2)],
    &[(0, TINY), (1, 1.0), (2, -1.0), (3, 0.5), (4, 0.5)],
    &[(1, 1.0)],
    &[(1, 0.5), (4, 0.5)],
    &[(0, 2.0), (2, -2.0), (3, 0.5), (4, 0.5)],
];

#[test]
fn sums_together_equal_sums_alone_for_every_pair_of_dtypes_and_edge_length() {
    for n in [0, 1, 63, 64, 511, 512, 576, 1100] {
        for from in F32_KINDS {
            for to in [F32_KINDS.as_slice(), &[Float::F64]].concat() {
                let inputs: Vec<_> = (0..5).map(|k| paint(n * from.bytes(), k)).collect();
                let inputs: Vec<_> = inputs.iter().map(|bytes| (from, bytes.as_slice())).collect();
                sums_equal(&inputs, &COLUMNS, to, n);
            }
        }
    }
}

#[test]
fn sums_together_take_plain_and_spoilt_blocks_and_mixed_dtypes() {
    let n = 3 * BLOCK + 5;
    for float in [Float::F32, Float::BF16] {
        for spoilt in [None, Some(0), Some(BLOCK + 1)] {
            let mut inputs: Vec<_> = (0..5).map(|k| paint_plain(float, n, 1 + k / 2)).collect();
            if let Some(element) = spoilt {
                let at = element * float.bytes();
                inputs.iter_mut().for_each(|input| input[at..at + float.bytes()].fill(0));
                inputs[4][at] = 1;
            }
            let inputs: Vec<_> = inputs.iter().map(|bytes| (float, bytes.as_slice())).collect();
            sums_equal(&inputs, &COLUMNS, Float::F32, n);
        }
    }
    let kinds = [Float::BF16, Float::F64, Float::F32, Float::F16, Float::F8E5M2];
    let inputs: Vec<_> = kinds.iter().map(|kind| paint(n * kind.bytes(), 7)).collect();
    let inputs: Vec<_> = kinds.iter().zip(&inputs).map(|(kind, bytes)| (*kind, bytes.as_slice())).collect();
    sums_equal(&inputs, &COLUMNS, Float::F32, n);
    // the F64 is in none of these
    sums_equal(&inputs, &COLUMNS[5..], Float::BF16, n);
}
