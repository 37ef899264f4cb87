//! Tasks over a base by the numbers of an independent program, and against the reference.

use alloc::vec;
use alloc::vec::Vec;

use super::{How, Tasks, reference, tasks};
use crate::dtype::Float;
use crate::kernel::Operand;

const BASE: [f32; 6] = [0.0, 1.0, -1.0, 2.0, 0.5, 0.0];
const TASKS: [[f32; 6]; 3] =
    [[0.9, 1.0, -1.4, 2.1, 0.5, -0.1], [1.0, 0.2, -0.7, 2.1, 0.5, 0.1], [-0.2, 1.1, -1.3, 2.1, 0.5, 0.0]];

fn of(how: How, scale: f64, weights: &[f64]) -> Vec<f32> {
    let bytes = |values: &[f32; 6]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>();
    let files: Vec<_> = [BASE].iter().chain(&TASKS[..weights.len()]).map(bytes).collect();
    let weights = [0.0].iter().chain(weights);
    let operands: Vec<_> = files
        .iter()
        .zip(weights)
        .map(|(bytes, &weight)| Operand { dtype: Float::F32, bytes, weight })
        .collect();
    let mut out = vec![0; 24];
    tasks(&operands, Tasks { how, scale }, Float::F32, &mut out);
    out.chunks_exact(4).map(|word| f32::from_le_bytes(word.try_into().unwrap())).collect()
}

#[test]
fn values_of_the_oracle() {
    // each task's third largest of six
    let thresholds = [0.4, 0.3, 0.2].map(|least: f64| least - 1e-3);
    let ties = of(How::Elected, 1.0, &thresholds);
    let expected = [0.95, 0.2, -1.35, 2.0, 0.5, 0.0];
    assert!(ties.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6), "{ties:?}");
    assert_eq!(ties[3..], BASE[3..], "what nobody changed by much stays to the bit");
    let summed = of(How::Sum, 1.0, &[1.0, 1.0, 1.0]);
    let expected = [1.7, 0.3, -1.4, 2.3, 0.5, 0.0];
    assert!(summed.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6), "{summed:?}");
    // nothing is left of a task whose threshold is beyond it, and the base stays to the bit
    assert_eq!(of(How::Trimmed, 1.0, &[9.0, 9.0, 9.0]), BASE);
    assert_eq!(of(How::Elected, 1.0, &[9.0]), BASE);
    // of one task, trimming is all there is
    assert_eq!(of(How::Elected, 1.0, &[0.3]), of(How::Trimmed, 1.0, &[0.3]));
    assert_eq!(of(How::Sum, 0.0, &[1.0, 1.0]), BASE);
    let halves = TASKS[0].iter().zip(TASKS[1]).map(|(a, b)| 0.5 * a + 2.0 * b);
    assert_eq!(of(How::Plain, 1.0, &[0.5, 2.0]), halves.collect::<Vec<_>>(), "equal ones are multiplied too");
}

#[test]
fn of_a_sum_what_enough_tasks_have_a_share_in() {
    let agreed = |least| of(How::Agreed { least, lambda: 0.4 }, 0.5, &[1.0, 1.0, 1.0]);
    // numpy's, to the bit
    let all = [0.849_999_96, 0.65, -1.199_999_9, 2.149_999_9, 0.5, 0.0];
    for (least, expected) in [
        (0, all),
        (1, all),
        (2, [all[0], 1.0, all[2], all[3], 0.5, 0.0]),
        (3, [0.0, 1.0, all[2], all[3], 0.5, 0.0]),
        (4, BASE),
    ] {
        assert_eq!(agreed(least), expected, "{least}");
    }
    assert_eq!(agreed(0), of(How::Sum, 0.5, &[1.0, 1.0, 1.0]), "what none must agree on is the sum");
    assert_eq!(
        of(How::Agreed { least: 1, lambda: 0.4 }, 1.0, &[1.0]),
        of(How::Sum, 1.0, &[1.0]),
        "of one task, all"
    );
}

#[test]
fn fast_is_the_reference_for_any_words_dtypes_and_lengths() {
    let floats = [Float::F64, Float::F32, Float::BF16, Float::F16, Float::F8E4M3, Float::F8E5M2];
    for from in floats {
        for to in floats {
            let agreed = [0, 1, 2, 5].map(|least| How::Agreed { least, lambda: 0.3 });
            for how in [How::Sum, How::Plain, How::Trimmed, How::Elected].into_iter().chain(agreed) {
                for (inputs, length) in [(2, 700), (3, 255), (5, 300), (9, 256)] {
                    let bytes: Vec<_> = (0..inputs)
                        .map(|seed| crate::kernel::middle::tests::noise(seed + 5, length * from.bytes()))
                        .collect();
                    let operand = |(i, bytes): (usize, &'_ Vec<u8>)| (i as f64 * 0.375 + 0.25, bytes.clone());
                    let weighed: Vec<_> = bytes.iter().enumerate().map(operand).collect();
                    let operands: Vec<_> = weighed
                        .iter()
                        .map(|(weight, bytes)| Operand { dtype: from, bytes, weight: *weight })
                        .collect();
                    let (mut fast, mut slow) = (vec![0; length * to.bytes()], vec![0; length * to.bytes()]);
                    let how = Tasks { how, scale: 0.7 };
                    let tallies =
                        [tasks(&operands, how, to, &mut fast), reference(&operands, how, to, &mut slow)];
                    assert_eq!(tallies[0], tallies[1], "{from:?} {to:?} {how:?} {inputs} {length}");
                    assert!(fast == slow, "{from:?} {to:?} {how:?} {inputs} {length}");
                }
            }
        }
    }
}
