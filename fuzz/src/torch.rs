//! A file of `torch.save()`: what it is said to hold lies within it, and is no more than it can hold.

use mwa::Files as _;
use mwa::format::Format as _;
use mwa::format::torch::Torch;

use super::files::{Memory, now};

const PATH: &str = "run/adapter_model.bin";

pub(crate) fn check(bytes: &[u8]) {
    let mut memory = Memory::default();
    memory.write(PATH, bytes);
    let size = bytes.len() as u64;
    let start = now(memory.read(PATH, 0..mwa::format::START)).expect("it is there");
    // files that are nobody's are given to it too, by their name
    let _ = Torch.claims(PATH, &start);
    for key in [None, Some("model"), Some("optimizer")] {
        let Ok(catalog) = now(Torch.open(&memory, PATH, size, key)) else { continue };
        let mut total = 0_u64;
        for tensor in catalog.header.tensors() {
            total = total.checked_add(tensor.len()).expect("sizes were checked");
            let step = (tensor.dtype.bitsize() as u64 / 8).max(1);
            for start in [tensor.range.start, tensor.range.end.saturating_sub(step)] {
                if tensor.is_empty() {
                    continue;
                }
                let mut number = vec![0; usize::try_from(step).expect("a few bytes")];
                let read = |_: Option<usize>, at: u64, into: &mut [u8]| {
                    let at = usize::try_from(at).expect("it is an offset in memory");
                    into.copy_from_slice(&bytes[at..at + into.len()]);
                    Ok::<(), ()>(())
                };
                catalog.header.read(start, &mut number, read).expect("reading memory does not fail");
            }
        }
        assert!(total <= 16 * size, "{total} bytes of tensors in a file of {size}");
    }
}
