//! Paint test data: the same numbers from the same seed, on every machine.

use std::collections::BTreeMap;

use mwa::safetensors::{Header, TextMap};
use mwa::{Dtype, Float};
use safetensors::SafeTensors;

/// What kind of numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Painting {
    /// Any bits; subnormals, infinities and NaN often.
    Wild,
    /// Any finite number; subnormals often.
    Finite,
    /// 2⁻⁵ ≤ |x| < [`LARGEST`]: in the range of every dtype.
    Tame,
}

/// Above every tame number.
pub const LARGEST: f64 = 16.0;

/// Exponent bits and mantissa bits.
const fn layout(float: Float) -> (u32, u32) {
    match float {
        Float::F64 => (11, 52),
        Float::F32 => (8, 23),
        Float::BF16 => (8, 7),
        Float::F16 => (5, 10),
        Float::F8E4M3 => (4, 3),
        Float::F8E5M2 => (5, 2),
    }
}

/// The random numbers of SplitMix64 (Steele, Lea, Flood 2014).
#[derive(Clone, Copy, Debug)]
pub struct Random(pub u64);

impl Iterator for Random {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Some(z ^ (z >> 31))
    }
}

/// Any bytes.
#[must_use]
pub fn bytes(len: usize, seed: u64) -> Vec<u8> {
    Random(seed).take(len).map(|word| word.to_le_bytes()[7]).collect()
}

/// `len` elements. Every third is drawn from `shared` instead of `seed`, so that inputs have elements in common.
#[must_use]
pub fn elements(painting: Painting, float: Float, len: usize, seed: u64, shared: u64) -> Vec<u8> {
    let words = Random(seed).zip(Random(shared)).enumerate().take(len);
    words
        .flat_map(|(i, (own, shared))| {
            let word = bits(painting, float, if i % 3 == 0 { shared } else { own }).to_le_bytes();
            word.into_iter().take(float.bytes())
        })
        .collect()
}

/// One element from 64 random bits.
fn bits(painting: Painting, float: Float, random: u64) -> u64 {
    let (exponent_bits, mantissa_bits) = layout(float);
    let (largest, bias) = ((1u64 << exponent_bits) - 1, (1u64 << (exponent_bits - 1)) - 1);
    let pick = random >> 53; // 11 bits, which no mantissa uses
    let any = (pick / 8).wrapping_mul(random);
    let exponent = match (painting, pick % 8) {
        (Painting::Tame, _) => bias - 5 + pick % 9,
        (_, 0) => 0,
        (Painting::Finite, _) => any % largest,
        (Painting::Wild, 1) => largest,
        (Painting::Wild, _) => any % (largest + 1),
    };
    let mantissa = random & ((1 << mantissa_bits) - 1);
    let sign = (random >> 52) & 1;
    (sign << (exponent_bits + mantissa_bits)) | (exponent << mantissa_bits) | mantissa
}

/// A file of vectors; each is a name, a dtype and its data.
///
/// # Panics
/// If a name occurs twice or data is not a whole number of elements.
#[must_use]
pub fn file(tensors: &[(String, Dtype, Vec<u8>)]) -> Vec<u8> {
    let shape = |dtype: Dtype, data: &[u8]| vec![data.len() as u64 * 8 / dtype.bitsize() as u64];
    let layout = tensors.iter().map(|(name, dtype, data)| (name.clone(), *dtype, shape(*dtype, data)));
    let header = Header::layout(layout, TextMap::default()).expect("the names are distinct");
    let mut bytes = header.to_bytes();
    for tensor in header.tensors() {
        let (_, _, data) = tensors.iter().find(|(name, ..)| *name == tensor.name).expect("it was laid out");
        bytes.extend_from_slice(data);
    }
    assert_eq!(bytes.len() as u64, header.file_len(), "whole elements");
    bytes
}

/// The values of a file's float tensors, by name.
///
/// # Panics
/// If it is not a safetensors file.
#[must_use]
pub fn values(file: &[u8]) -> BTreeMap<String, Vec<f64>> {
    floats(file, |float, data| data.chunks_exact(float.bytes()).map(|word| float.value(word)).collect())
}

/// The distance from 1 to the next number, for each of a file's float tensors.
///
/// # Panics
/// If it is not a safetensors file.
#[must_use]
pub fn epsilons(file: &[u8]) -> BTreeMap<String, f64> {
    floats(file, |float, _| 1.0 / (1u64 << layout(float).1) as f64)
}

fn floats<T>(file: &[u8], of: impl Fn(Float, &[u8]) -> T) -> BTreeMap<String, T> {
    let file = SafeTensors::deserialize(file).expect("it is a safetensors file");
    let floats = file
        .iter()
        .filter_map(|(name, tensor)| Some((name.to_owned(), of(Float::of(tensor.dtype())?, tensor.data()))));
    floats.collect()
}

/// Bring a list into any order.
pub fn shuffle<T>(list: &mut [T], seed: u64) {
    for (last, random) in (1..list.len()).rev().zip(Random(seed)) {
        let other = usize::try_from(random % (last as u64 + 1)).expect("an index of the list");
        list.swap(last, other);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paintings_are_what_they_say() {
        for float in [Float::F64, Float::F32, Float::BF16, Float::F16, Float::F8E4M3, Float::F8E5M2] {
            let paint = |painting| {
                let bytes = elements(painting, float, 3000, 1, 2);
                bytes.chunks_exact(float.bytes()).map(|word| float.value(word)).collect::<Vec<_>>()
            };
            assert!(paint(Painting::Tame).iter().all(|x| (0.03125..LARGEST).contains(&x.abs())), "{float:?}");
            assert!(paint(Painting::Finite).iter().all(|x| x.is_finite()), "{float:?}");
            let wild = paint(Painting::Wild);
            assert!(wild.iter().any(|x| x.is_nan()) && wild.iter().any(|x| *x < 0.0), "{float:?}");
        }
    }

    #[test]
    fn every_third_element_is_shared() {
        let (a, b) =
            (elements(Painting::Wild, Float::F64, 6, 1, 9), elements(Painting::Wild, Float::F64, 6, 2, 9));
        let same: Vec<_> = a.chunks_exact(8).zip(b.chunks_exact(8)).map(|(a, b)| a == b).collect();
        assert_eq!(same, [true, false, false, true, false, false]);
    }

    #[test]
    fn a_shuffle_keeps_every_item() {
        let mut list: Vec<_> = (0..50).collect();
        shuffle(&mut list, 3);
        assert!(!list.is_sorted());
        list.sort_unstable();
        assert!(list.into_iter().eq(0..50));
    }
}
