//! A table of a DCP checkpoint, or a rank's file of a ZeRO checkpoint, beside good files: whatever they say of tensors lies within the files.

use mwa::{Checkpoint, Files as _, OpenOptions, Readers};

use super::files::{Memory, now};

/// The files beside it: path, bytes.
const BESIDE: [(&str, &[u8]); 4] = [
    ("dcp/__0_0.distcp", include_bytes!("../../core/tests/data/training/dcp/checkpoint-10/__0_0.distcp")),
    ("dcp/__1_0.distcp", include_bytes!("../../core/tests/data/training/dcp/checkpoint-10/__1_0.distcp")),
    (
        "zero/mp_rank_00_model_states.pt",
        include_bytes!("../../core/tests/data/training/zero2/global_step3/mp_rank_00_model_states.pt"),
    ),
    (
        "zero/bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt",
        include_bytes!(
            "../../core/tests/data/training/zero2/global_step3/bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt"
        ),
    ),
];

pub(crate) fn check(bytes: &[u8]) {
    let mut memory = Memory::default();
    BESIDE.iter().for_each(|(path, bytes)| memory.write(path, bytes));
    let folder = if bytes.starts_with(b"PK") {
        memory.write("zero/bf16_zero_pp_rank_1_mp_rank_00_optim_states.pt", bytes);
        "zero"
    } else {
        memory.write("dcp/.metadata", bytes);
        "dcp"
    };
    let options = OpenOptions::default();
    let Ok(checkpoint) = now(Checkpoint::open(&memory, &Readers::ALL, folder, &options)) else { return };
    for file in &checkpoint.files {
        for tensor in file.header.tensors().iter().filter(|tensor| !tensor.is_empty()) {
            let step = (tensor.dtype.bitsize() as u64 / 8).max(1);
            for start in [tensor.range.start, tensor.range.end - step] {
                let mut number = vec![0; usize::try_from(step).expect("a few bytes")];
                let read = |other: Option<usize>, at: u64, into: &mut [u8]| {
                    let path = other.map_or(&file.path, |other| &checkpoint.files[other].path);
                    let bytes = now(memory.read(path, at..at + into.len() as u64)).expect("it was opened");
                    assert_eq!(bytes.len(), into.len(), "{} lies within {path}", tensor.name);
                    into.copy_from_slice(&bytes);
                    Ok::<(), ()>(())
                };
                file.header.read(start, &mut number, read).expect("reading memory does not fail");
            }
        }
    }
}
