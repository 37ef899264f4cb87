//! SHA-256 of two streams at once, on the `sha2` crate's compression function or our own for two.
//!
//! One stream is bound by the latency of its rounds, which leaves half of the hash unit idle. Two independent streams in
//! turn fill it, and the hash is the largest part of a merge from the page cache.

use sha2::block_api::compress256;

#[cfg(target_arch = "x86_64")]
use crate::io::hash::sha_ni;

const BLOCK: usize = 64;
/// Blocks per turn where CPUs lack the instructions for [`sha_ni`]; 2 was the fastest of 1, 2 and 4.
const TURN: usize = 2;

/// A hash in progress.
#[derive(Clone)]
pub(crate) struct Sha256 {
    state: [u32; 8],
    /// The bytes since the last whole block.
    tail: Vec<u8>,
    /// Bytes taken in all.
    len: u64,
}

impl Sha256 {
    pub(crate) fn new() -> Self {
        // FIPS 180-4, §5.3.3
        let state = [
            0x6a09_e667,
            0xbb67_ae85,
            0x3c6e_f372,
            0xa54f_f53a,
            0x510e_527f,
            0x9b05_688c,
            0x1f83_d9ab,
            0x5be0_cd19,
        ];
        Self { state, tail: Vec::with_capacity(BLOCK), len: 0 }
    }

    /// Bytes taken so far.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    pub(crate) fn update(&mut self, piece: &[u8]) {
        let blocks = self.complete_tail(piece);
        let (blocks, tail) = blocks.as_chunks::<BLOCK>();
        compress256(&mut self.state, blocks);
        self.tail.extend_from_slice(tail);
    }

    /// The same as updating each with its piece.
    pub(crate) fn update_two(a: &mut Self, piece_a: &[u8], b: &mut Self, piece_b: &[u8]) {
        let (blocks_a, tail_a) = a.complete_tail(piece_a).as_chunks::<BLOCK>();
        let (blocks_b, tail_b) = b.complete_tail(piece_b).as_chunks::<BLOCK>();
        let common = blocks_a.len().min(blocks_b.len());
        compress_two([&mut a.state, &mut b.state], [&blocks_a[..common], &blocks_b[..common]]);
        compress256(&mut a.state, &blocks_a[common..]);
        compress256(&mut b.state, &blocks_b[common..]);
        a.tail.extend_from_slice(tail_a);
        b.tail.extend_from_slice(tail_b);
    }

    /// Count `piece`, fill up the block begun before, and return what is left.
    fn complete_tail<'a>(&mut self, piece: &'a [u8]) -> &'a [u8] {
        self.len += piece.len() as u64;
        if self.tail.is_empty() {
            return piece;
        }
        let (fill, rest) = piece.split_at(piece.len().min(BLOCK - self.tail.len()));
        self.tail.extend_from_slice(fill);
        if let [block] = self.tail.as_chunks::<BLOCK>().0 {
            compress256(&mut self.state, &[*block]);
            self.tail.clear();
        }
        rest
    }

    /// The digest in hex: the end is padded with a one bit, zeros, and the length in bits.
    pub(crate) fn finish(mut self) -> String {
        let bits = self.len * 8;
        self.tail.push(0x80);
        let padded = (self.tail.len() + 8).next_multiple_of(BLOCK);
        self.tail.resize(padded - 8, 0);
        self.tail.extend_from_slice(&bits.to_be_bytes());
        compress256(&mut self.state, self.tail.as_chunks::<BLOCK>().0);
        self.state.iter().map(|word| format!("{word:08x}")).collect()
    }
}

/// Take the blocks of two streams, of which there are as many.
fn compress_two([a, b]: [&mut [u32; 8]; 2], [blocks_a, blocks_b]: [&[[u8; BLOCK]]; 2]) {
    #[cfg(target_arch = "x86_64")]
    if sha_ni::is_there() {
        // SAFETY: the CPU has the instructions.
        return unsafe { sha_ni::compress([a, b], [blocks_a, blocks_b]) };
    }
    for (turn_a, turn_b) in blocks_a.chunks(TURN).zip(blocks_b.chunks(TURN)) {
        compress256(a, turn_a);
        compress256(b, turn_b);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sha2::Digest as _;

    fn expected(bytes: &[u8]) -> String {
        sha2::Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn pieces_of_any_length_give_the_crate_s_digest() {
        let bytes: Vec<u8> = (0..1000u32).map(|i| (i * 31 % 251) as u8).collect();
        for len in [0, 1, 55, 56, 63, 64, 65, 119, 120, 128, 500, 1000] {
            for step in [1, 7, 64, 100, 1000] {
                let mut hash = Sha256::new();
                bytes[..len].chunks(step).for_each(|piece| hash.update(piece));
                assert_eq!(hash.finish(), expected(&bytes[..len]), "{len} bytes in steps of {step}");
            }
        }
    }

    #[test]
    fn two_streams_do_not_mix() {
        let (a, b): (Vec<u8>, Vec<u8>) = ((0..900u32).map(|i| (i % 7) as u8).collect(), vec![9; 700]);
        for (head_a, head_b) in [(0, 0), (8, 72), (13, 1), (64, 640)] {
            let (mut left, mut right) = (Sha256::new(), Sha256::new());
            left.update(&a[..head_a]);
            right.update(&b[..head_b]);
            Sha256::update_two(&mut left, &a[head_a..], &mut right, &b[head_b..]);
            assert_eq!((left.finish(), right.finish()), (expected(&a), expected(&b)));
        }
    }
}
