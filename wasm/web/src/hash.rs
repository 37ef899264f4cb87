//! BLAKE3 of what passes by from its first byte to its last.

use alloc::string::String;
use alloc::vec::Vec;

use js_sys::Uint8Array;
use mwa::digest::Digest;
use wasm_bindgen::prelude::*;

/// A hash that takes pieces in order.
#[wasm_bindgen]
#[derive(Clone, Debug)]
pub struct Hash {
    digest: Digest,
    at: u64,
    buffer: Vec<u8>,
}

#[wasm_bindgen]
impl Hash {
    /// Of a file with so many bytes.
    #[wasm_bindgen(constructor)]
    #[must_use]
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a size in bytes")]
    pub fn new(size: f64) -> Self {
        Self { digest: Digest::new(size as u64), at: 0, buffer: Vec::new() }
    }

    /// Take the next piece; what lies beyond the size is left out.
    pub fn update(&mut self, piece: &Uint8Array) {
        self.buffer.resize(piece.length() as usize, 0);
        piece.copy_to(&mut self.buffer);
        let left = usize::try_from(self.digest.file_len() - self.at).unwrap_or(usize::MAX);
        let piece = &self.buffer[..self.buffer.len().min(left)];
        self.digest.update(self.at, piece);
        self.at += piece.len() as u64;
    }

    /// The hash in hex; nothing if it has not got as many bytes as the file has.
    #[must_use]
    pub fn finish(self) -> Option<String> {
        self.digest.finish()
    }
}
