//! Means by curvature by the numbers of an independent program, and against the reference.

use alloc::vec;
use alloc::vec::Vec;

use super::{Curved, curved, reference};
use crate::dtype::Float;
use crate::kernel::Operand;

const BASE: [f32; 6] = [0.0, 1.0, -1.0, 2.0, 0.5, 0.0];
const MODELS: [[f32; 6]; 3] =
    [[0.9, 1.0, -1.4, 2.1, 0.5, -0.1], [1.0, 0.2, -0.7, 2.1, 0.5, 0.1], [-0.2, 1.1, -1.3, 2.1, 0.5, 0.0]];
const MOMENTS: [[f32; 6]; 3] = [
    [4e-18, 1e-18, 9e-18, 1e-20, 0.0, 1e-18],
    [1e-18, 9e-18, 1e-18, 1e-20, 0.0, 1e-18],
    [1e-20, 1e-18, 4e-18, 1e-20, 0.0, 0.0],
];

/// Weighed as the moments are; `weight` is that of the models.
fn of(how: Curved, weight: f64, models: usize) -> Vec<f32> {
    let bytes = |values: &[f32; 6]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>();
    let base = how.is_grafted.then_some((&BASE, 0.0));
    let rows = base.into_iter().chain(MODELS[..models].iter().map(|row| (row, weight)));
    let rows = rows.chain(MOMENTS[..models].iter().map(|row| (row, 1.0)));
    let files: Vec<_> = rows.map(|(row, weight)| (bytes(row), weight)).collect();
    let operands: Vec<_> =
        files.iter().map(|(bytes, weight)| Operand { dtype: Float::F32, bytes, weight: *weight }).collect();
    let mut out = vec![0; 24];
    curved(&operands, how, Float::F32, &mut out);
    out.chunks_exact(4).map(|word| f32::from_le_bytes(word.try_into().unwrap())).collect()
}

#[test]
#[expect(clippy::excessive_precision, reason = "nine digits, as the oracle prints them")]
fn values_of_the_oracle() {
    let plain = |power| Curved { power, epsilon: 0.0, is_grafted: false };
    assert_eq!(of(plain(0.5), 1e-26, 3), [0.896_774_173, 0.540_000_021, -1.25, 2.099_999_9, 0.5, 0.0]);
    let linear = of(plain(1.0), 1e-28, 3);
    assert_eq!(linear, [0.917_764_425, 0.354_545_474, -1.321_428_54, 2.099_999_9, 0.5, 0.0]);
    // beside an ε so large no moment counts
    assert_eq!(of(plain(1.0), 1e-8, 3), [0.566_666_663, 0.766_666_651, -1.133_333_3, 2.099_999_9, 0.5, 0.0]);
    // of moments that are 0 all count alike, without an ε too
    assert_eq!(of(plain(0.5), 0.0, 3)[4], 0.5);
    let grafted = Curved { power: 0.5, epsilon: 1e-26, is_grafted: true };
    let expected = [0.933_333_337, 0.200_000_003, -1.360_000_01, 2.0, 0.5, 0.0];
    assert_eq!(of(grafted, 1e-19, 3), expected);
    // what nothing counts in is the base, and where all counts of one model it is the model
    assert_eq!(of(grafted, 1.0, 3), BASE);
    assert_eq!(of(grafted, 0.0, 1), MODELS[0]);
}

#[test]
fn fast_is_the_reference_for_any_words_dtypes_and_lengths() {
    let floats = [Float::F64, Float::F32, Float::BF16, Float::F16, Float::F8E4M3, Float::F8E5M2];
    for from in floats {
        for to in floats {
            for (power, is_grafted) in [(0.5, false), (1.0, true), (0.25, true), (0.4, false), (0.5, true)] {
                for (inputs, length) in [(1, 700), (2, 255), (3, 300), (5, 256)] {
                    let count = 2 * inputs + usize::from(is_grafted);
                    let noise = crate::kernel::middle::tests::noise;
                    let mut bytes: Vec<_> =
                        (0..).take(count).map(|seed| noise(seed + 5, length * from.bytes())).collect();
                    // no moment is below 0
                    for moments in &mut bytes[count - inputs..] {
                        let words = moments.chunks_exact_mut(from.bytes());
                        words.for_each(|word| word[from.bytes() - 1] &= 0x7f);
                    }
                    let operands: Vec<_> = (0..)
                        .zip(&bytes)
                        .map(|(i, bytes)| Operand { dtype: from, bytes, weight: f64::from(i) * 0.375 })
                        .collect();
                    let (mut fast, mut slow) = (vec![0; length * to.bytes()], vec![0; length * to.bytes()]);
                    let how = Curved { power, epsilon: 1e-8, is_grafted };
                    let tallies =
                        [curved(&operands, how, to, &mut fast), reference(&operands, how, to, &mut slow)];
                    assert_eq!(tallies[0], tallies[1], "{from:?} {to:?} {how:?} {inputs} {length}");
                    assert!(fast == slow, "{from:?} {to:?} {how:?} {inputs} {length}");
                }
            }
        }
    }
}
