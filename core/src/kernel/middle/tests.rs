//! The middle values by hand, against the reference, and the network by the principle of zeros and ones.

use alloc::vec;
use alloc::vec::Vec;

use super::fast::network;
use super::{middle, reference};
use crate::dtype::Float;
use crate::kernel::Operand;
use crate::kernel::element::Tally;

const FLOATS: [Float; 6] = [Float::F64, Float::F32, Float::BF16, Float::F16, Float::F8E4M3, Float::F8E5M2];

fn of(inputs: &[f32], cut: usize) -> f32 {
    let bytes: Vec<_> = inputs.iter().map(|value| value.to_le_bytes()).collect();
    let operands: Vec<_> =
        bytes.iter().map(|bytes| Operand { dtype: Float::F32, bytes, weight: 1.0 }).collect();
    let mut out = [0; 4];
    middle(&operands, cut, Float::F32, &mut out);
    f32::from_le_bytes(out)
}

#[test]
fn values_of_the_oracle() {
    assert_eq!(of(&[100.0, 1.0, 8.0, 2.0, 4.0], 2), 4.0);
    assert_eq!(of(&[-1.0, -2.0, -100.0, -3.0], 1), -2.5);
    assert_eq!(of(&[1.0, 2.0, 4.0, 8.0, 100.0], 1), 4.666_667);
    assert_eq!(of(&[0.0, -0.0, -0.0], 1).to_bits(), (-0.0_f32).to_bits());
    assert_eq!(of(&[0.0, -0.0, 0.0], 1).to_bits(), 0);
    // equal values pass, the mean of large ones does not
    assert_eq!(of(&[f32::MAX; 4], 1), f32::MAX);
    assert_eq!(of(&[f32::from_bits(1); 3], 0).to_bits(), 1);
    assert_eq!(of(&[f32::MAX, f32::MAX, 3e38, 3e38], 1), f32::INFINITY);
    assert_eq!(of(&[f32::INFINITY, 1.0, 2.0], 1), 2.0);
    assert!(of(&[f32::NAN, 1.0, 2.0], 1).is_nan());
}

#[test]
fn the_network_sorts_all_zeros_and_ones_as_far_as_the_middle_goes() {
    for values in 1..=12_usize {
        for cut in 0..values.div_ceil(2) {
            let network = network(values, cut);
            for pattern in 0..1_u32 << values {
                let mut bits: Vec<_> = (0..values).map(|place| pattern >> place & 1).collect();
                for (low, high) in &network {
                    if bits[*low] > bits[*high] {
                        bits.swap(*low, *high);
                    }
                }
                let ones = pattern.count_ones() as usize;
                for (place, bit) in bits.iter().enumerate().take(values - cut).skip(cut) {
                    assert_eq!(*bit, u32::from(place >= values - ones), "{values} values, {cut} cut");
                }
            }
        }
    }
    assert_eq!(network(8, 0).len(), 19);
    assert!(network(8, 3).len() < 19);
}

/// Words of all kinds: noise has NaN, infinity and subnormals among it.
pub(in crate::kernel) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut byte = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    (0..length).map(|_| byte()).collect()
}

#[test]
fn fast_is_the_reference_for_any_words_dtypes_and_lengths() {
    for from in FLOATS {
        for to in FLOATS {
            for (inputs, cut) in [(1, 0), (2, 0), (3, 1), (4, 1), (5, 1), (8, 3), (9, 2)] {
                for length in [0, 1, 255, 256, 700] {
                    let bytes: Vec<_> =
                        (0..inputs).map(|seed| noise(seed + 5, length * from.bytes())).collect();
                    let operands: Vec<_> =
                        bytes.iter().map(|bytes| Operand { dtype: from, bytes, weight: 1.0 }).collect();
                    let (mut fast, mut slow) = (vec![0; length * to.bytes()], vec![0; length * to.bytes()]);
                    let tallies: [Tally; 2] =
                        [middle(&operands, cut, to, &mut fast), reference(&operands, cut, to, &mut slow)];
                    assert_eq!(tallies[0], tallies[1], "{from:?} {to:?} {inputs} {cut} {length}");
                    assert!(fast == slow, "{from:?} {to:?} {inputs} {cut} {length}");
                }
            }
        }
    }
}
