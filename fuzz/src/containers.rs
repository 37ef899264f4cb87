//! A file of any container: it is told what it is or not, and what is said to lie in it lies within it.

use mwa::format::Format as _;
use mwa::format::gguf::Gguf;
use mwa::format::known::identify;

use super::files::{Memory, now};

/// Names that give nothing away, and some that do.
const NAMES: [&str; 6] =
    ["run/file", "run/a.gguf", "run/a.json", "run/a.csv", "run/__0_0.distcp", "run/a.npz"];

pub(crate) fn check(bytes: &[u8]) {
    for name in NAMES {
        let mut memory = Memory::default();
        memory.write(name, bytes);
        if let Ok(Some(known)) = now(identify(&memory, name)) {
            assert!(!known.what.is_empty() && !known.can.is_empty());
        }
        let size = bytes.len() as u64;
        if !bytes.starts_with(b"GGUF") {
            continue;
        }
        let Ok(catalog) = now(Gguf.open(&memory, name, size, None)) else { continue };
        for tensor in catalog.header.tensors() {
            assert!(tensor.range.start <= tensor.range.end && tensor.range.end <= size, "{tensor:?}");
            let elements: u64 = tensor.shape.iter().product();
            assert_eq!(tensor.len(), elements * (tensor.dtype.bitsize() as u64 / 8));
        }
    }
}
