//! The loop of the comparison, compiled for speed while the rest is compiled for size; `mwa-wasm-fast` has the others.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

use alloc::vec;

use mwa::Float;

/// Add the dot product of each pair of inputs to the upper half of `sums`, a square matrix.
///
/// In f32 blocks summed in f64: for people to look at.
///
/// # Panics
/// If inputs, dtypes and `sums` do not fit each other.
#[inline(never)]
pub fn gram(inputs: &[&[u8]], floats: &[Float], sums: &mut [f64]) {
    let k = inputs.len();
    let elements = inputs[0].len() / floats[0].bytes();
    let mut blocks = vec![[0.0f32; BLOCK]; k];
    for start in (0..elements).step_by(BLOCK) {
        let n = BLOCK.min(elements - start);
        for ((block, bytes), float) in blocks.iter_mut().zip(inputs).zip(floats) {
            let size = float.bytes();
            block.fill(0.0);
            for (value, word) in
                block.iter_mut().zip(bytes[start * size..(start + n) * size].chunks_exact(size))
            {
                #[expect(clippy::cast_possible_truncation, reason = "f32 is enough to look at")]
                let widened = float.value(word) as f32;
                *value = widened;
            }
        }
        for i in 0..k {
            for j in i..k {
                sums[i * k + j] += dot(&blocks[i], &blocks[j]);
            }
        }
    }
}

const BLOCK: usize = 1024;

/// In eight partial sums, which fit vector registers.
fn dot(a: &[f32; BLOCK], b: &[f32; BLOCK]) -> f64 {
    let mut lanes = [0.0f32; 8];
    for (a, b) in a.chunks_exact(8).zip(b.chunks_exact(8)) {
        for (lane, (a, b)) in lanes.iter_mut().zip(a.iter().zip(b)) {
            *lane += a * b;
        }
    }
    lanes.iter().map(|lane| f64::from(*lane)).sum()
}
