//! A file of `torch.save()`: what it is said to hold lies within it, and is no more than it can hold.

use mwa::convert::{Conversion, ConvertOptions, Target, crc32};
use mwa::format::Format as _;
use mwa::format::torch::Torch;
use mwa::{Files as _, Readers};

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
    again(&memory);
}

/// What is written of it, with all that stands beside the weights, is read again, and has the same weights.
fn again(memory: &Memory) {
    let options = ConvertOptions {
        target: Target::Pt,
        dtype: None,
        base: None,
        name: Some("out.pt".into()),
        key: None,
        like: None,
        model: None,
        shard_size: None,
    };
    let Ok(plan) = now(Conversion::new(memory, &Readers::ALL, PATH, &options)) else { return };
    let Some((_, len)) = plan.outputs().next().filter(|(_, len)| *len < 1 << 20) else { return };
    let mut out = vec![0; usize::try_from(len).expect("it is small")];
    let mut put = |at: u64, bytes: &[u8]| {
        let at = usize::try_from(at).expect("it is small");
        out[at..at + bytes.len()].copy_from_slice(bytes);
    };
    put(0, plan.head(0));
    plan.between(0).iter().for_each(|(at, bytes)| put(*at, bytes));
    let mut read = |input: usize, range: core::ops::Range<u64>| {
        let (path, header) = &plan.inputs[input];
        let mut found = vec![0; usize::try_from(range.end - range.start).expect("few bytes")];
        let from = |_: Option<usize>, at: u64, into: &mut [u8]| {
            into.copy_from_slice(&now(memory.read(path, at..at + into.len() as u64)).expect("it was opened"));
            Ok::<(), ()>(())
        };
        header.read(range.start, &mut found, from).expect("reading memory does not fail");
        Ok(found)
    };
    let mut crcs = Vec::new();
    for piece in plan.pieces(0) {
        let made = plan.make(0, &piece, &mut read).expect("no dtype changes");
        crcs.resize(crcs.len().max(piece.tensor + 1), 0);
        crcs[piece.tensor] = crc32(crcs[piece.tensor], &made);
        put(piece.at, &made);
    }
    plan.tail(0, &crcs).iter().for_each(|(at, bytes)| put(*at, bytes));
    let mut written = Memory::default();
    written.write(PATH, &out);
    let names = |memory: &Memory, size: u64| {
        let catalog = now(Torch.open(memory, PATH, size, None)).expect("what was written is read");
        let mut names: Vec<_> = catalog.header.tensors().iter().map(|tensor| tensor.name.clone()).collect();
        names.sort();
        names
    };
    let size = now(memory.read(PATH, 0..u64::MAX)).expect("it is there").len() as u64;
    assert_eq!(names(&written, len), names(memory, size), "the weights are the same");
}
