//! SHA-256, piece by piece, as the browser's own digest cannot.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use js_sys::Uint8Array;
use sha2::{Digest as _, Sha256};
use wasm_bindgen::prelude::*;

/// A hash that takes pieces in order.
#[wasm_bindgen]
#[derive(Clone, Debug, Default)]
pub struct Hash {
    state: Sha256,
    buffer: Vec<u8>,
}

#[wasm_bindgen]
impl Hash {
    /// The hash of nothing yet.
    #[wasm_bindgen(constructor)]
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Take the next piece.
    pub fn update(&mut self, piece: &Uint8Array) {
        self.buffer.resize(piece.length() as usize, 0);
        piece.copy_to(&mut self.buffer);
        self.state.update(&self.buffer);
    }

    /// The digest in hex.
    #[must_use]
    pub fn finish(self) -> String {
        self.state.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}
