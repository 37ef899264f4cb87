//! The one comparator: does an output agree with what was promised?

use mwa::Float;
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;

/// How closely two results agree. The constants in the crate's root say which results agree how.
#[derive(Clone, Copy, Debug)]
pub enum Agreement {
    /// Every bit.
    Bits,
    /// ‖actual − expected‖ ≤ bound · ‖expected‖, in the Frobenius norm, tensor by tensor; no NaN, no infinity.
    RelativeFrobenius(f64),
    /// Each number within `relative` of its size or within `absolute`; an expected 0 is exactly 0.
    Within {
        /// Bound as a share of the expected number.
        relative: f64,
        /// Bound whatever the number.
        absolute: f64,
    },
}

/// Whether two safetensors files hold the same tensors: names, dtypes, shapes, and data as `agreement` says. The layout
/// of the files and their metadata are not compared. Both are read by the `safetensors` crate, not by our own code.
///
/// # Errors
/// The first difference, in words.
pub fn agree(agreement: Agreement, expected: &[u8], actual: &[u8]) -> Result<(), String> {
    let read = |what, bytes| SafeTensors::deserialize(bytes).map_err(|error| format!("{what}: {error}"));
    let (expected, actual) = (read("the expected file", expected)?, read("the output", actual)?);
    let names = |file: &SafeTensors<'_>| {
        let mut names: Vec<_> = file.names().into_iter().map(str::to_owned).collect();
        names.sort();
        names
    };
    if names(&expected) != names(&actual) {
        return Err(format!("expected the tensors {:?}, found {:?}", names(&expected), names(&actual)));
    }
    for (name, want) in expected.tensors() {
        let have = actual.tensor(&name).map_err(|error| error.to_string())?;
        agree_tensors(agreement, &want, &have)
            .map_err(|difference| format!("tensor `{name}` {difference}"))?;
    }
    Ok(())
}

fn agree_tensors(agreement: Agreement, want: &TensorView<'_>, have: &TensorView<'_>) -> Result<(), String> {
    let type_of = |tensor: &TensorView<'_>| format!("{} {:?}", tensor.dtype(), tensor.shape());
    if type_of(want) != type_of(have) {
        return Err(format!("should be {}, is {}", type_of(want), type_of(have)));
    }
    if matches!(agreement, Agreement::Bits) {
        return agree_bytes((want.dtype().bitsize() / 8).max(1), want.data(), have.data());
    }
    let float = Float::of(want.dtype()).ok_or("is not a float; only its bits can be compared")?;
    let values = |tensor: &TensorView<'_>| -> Vec<f64> {
        tensor.data().chunks_exact(float.bytes()).map(|word| float.value(word)).collect()
    };
    agree_values(agreement, &values(want), &values(have))
}

fn agree_bytes(size: usize, want: &[u8], have: &[u8]) -> Result<(), String> {
    if want.len() != have.len() {
        return Err(format!("should be {} bytes long, is {}", want.len(), have.len()));
    }
    let words = || want.chunks(size).zip(have.chunks(size));
    let Some(first) = words().position(|(want, have)| want != have) else { return Ok(()) };
    let hex = |bytes: &[u8]| -> String { bytes.iter().rev().map(|byte| format!("{byte:02x}")).collect() };
    let at = first * size..((first + 1) * size).min(want.len());
    Err(format!(
        "differs in {} of {} elements, first at {first}: expected {}, found {}",
        words().filter(|(want, have)| want != have).count(),
        words().count(),
        hex(&want[at.clone()]),
        hex(&have[at]),
    ))
}

/// Whether two lists of numbers agree.
///
/// # Errors
/// The first difference, in words.
pub fn agree_values(agreement: Agreement, want: &[f64], have: &[f64]) -> Result<(), String> {
    if want.len() != have.len() {
        return Err(format!("should hold {} numbers, holds {}", want.len(), have.len()));
    }
    if let Agreement::RelativeFrobenius(bound) = agreement {
        let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>().sqrt();
        let error = norm(&mut want.iter().zip(have).map(|(want, have)| have - want));
        let allowed = bound * norm(&mut want.iter().copied());
        // a NaN is not within anything
        let is_within = error <= allowed;
        return if is_within { Ok(()) } else { Err(format!("is {error:e} off, allowed are {allowed:e}")) };
    }
    for (i, (&want, &have)) in want.iter().zip(have).enumerate() {
        let fits = match agreement {
            Agreement::Within { relative, absolute } if want != 0.0 => {
                (have - want).abs() <= (relative * want.abs()).max(absolute)
            }
            Agreement::Within { .. } => have == 0.0,
            _ => have.to_bits() == want.to_bits(),
        };
        if !fits {
            return Err(format!("number {i} should be {want:?}, is {have:?}"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{LOW_RANK, SAME_CODE, WEIGHTS};
    use mwa::Dtype;
    use mwa::safetensors::Header;

    /// A file of F32 vectors `a`, `b`, ….
    fn file(tensors: &[&[f32]]) -> Vec<u8> {
        let name = |i: usize| char::from(b"abc"[i]).to_string();
        let layout =
            tensors.iter().enumerate().map(|(i, values)| (name(i), Dtype::F32, vec![values.len() as u64]));
        let mut bytes = Header::layout(layout, Default::default()).unwrap().to_bytes();
        bytes.extend(tensors.iter().copied().flatten().flat_map(|value| value.to_le_bytes()));
        bytes
    }

    const A: &[f32] = &[1.0, 2.0, 3.0];
    const B: &[f32] = &[1.0, 2.0, 4.0];

    fn both_notice(actual: &[&[f32]]) {
        for agreement in [SAME_CODE, LOW_RANK, WEIGHTS] {
            assert!(agree(agreement, &file(&[A, B]), &file(&[A, B])).is_ok());
            assert!(agree(agreement, &file(&[A, B]), &file(actual)).is_err(), "{agreement:?}: {actual:?}");
        }
    }

    #[test]
    fn one_flipped_bit() {
        let nudged = f32::from_bits(4.0f32.to_bits() ^ 1);
        assert!(agree(SAME_CODE, &file(&[A, B]), &file(&[A, &[1.0, 2.0, nudged]])).is_err());
        assert!(agree(SAME_CODE, &file(&[&[0.0]]), &file(&[&[-0.0]])).is_err());
        for bit in 0..32 {
            let nudged = f32::from_bits(4.0f32.to_bits() ^ (1 << bit));
            assert!(agree(SAME_CODE, &file(&[B]), &file(&[&[1.0, 2.0, nudged]])).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_swapped_element() {
        both_notice(&[A, &[2.0, 1.0, 4.0]]);
    }

    #[test]
    fn a_nan_and_an_infinity() {
        both_notice(&[A, &[1.0, 2.0, f32::NAN]]);
        both_notice(&[A, &[1.0, f32::INFINITY, 4.0]]);
        assert!(agree(LOW_RANK, &file(&[&[f32::NAN]]), &file(&[&[f32::NAN]])).is_err());
    }

    #[test]
    fn a_shorter_a_longer_and_a_missing_output() {
        both_notice(&[A, &B[..2]]);
        both_notice(&[A, &[1.0, 2.0, 4.0, 0.0]]);
        both_notice(&[A]);
        both_notice(&[A, B, A]);
        both_notice(&[]);
    }

    #[test]
    fn the_same_array_twice_where_two_were_promised() {
        both_notice(&[A, A]);
        both_notice(&[B, B]);
        both_notice(&[B, A]);
    }

    #[test]
    fn zeros_where_numbers_were_promised() {
        both_notice(&[A, &[0.0; 3]]);
        assert!(agree_values(WEIGHTS, &[0.0, 1.0], &[1e-300, 1.0]).is_err(), "an expected 0 is exact");
    }

    #[test]
    fn bounds_are_where_they_are_said_to_be() {
        assert!(agree_values(LOW_RANK, &[1.0, 0.0], &[1.0, 0.9e-6]).is_ok());
        assert!(agree_values(LOW_RANK, &[1.0, 0.0], &[1.0, 1.1e-6]).is_err());
        assert!(agree_values(WEIGHTS, &[0.5], &[0.5 + 4e-15]).is_ok());
        assert!(agree_values(WEIGHTS, &[0.5], &[0.5 + 6e-15]).is_err());
    }

    #[test]
    fn another_dtype_of_the_same_bytes() {
        let half = file(&[A]).len();
        let text = String::from_utf8_lossy(&file(&[A])[..half - 12]).replace("F32", "I32");
        let mut other = text.into_bytes();
        other.extend_from_slice(&file(&[A])[half - 12..]);
        assert!(agree(SAME_CODE, &file(&[A]), &other).is_err());
    }
}
