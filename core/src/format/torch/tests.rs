//! Files as torch and toolkits write them, and files that lie.

use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use super::*;
use crate::files::Stop;
use crate::files::memory::Memory;

const LEGACY: &[u8] = include_bytes!("../../../../host/tests/cli/data/legacy.bin");
const ADAPTER: &[u8] = include_bytes!("../../../../host/tests/cli/data/adapter_model.bin");
const TIMM: &[u8] = include_bytes!("../../../tests/data/torch/aaaaaaaaaaaaaaaaaaaaa.pt");
const ICEFALL: &[u8] = include_bytes!("../../../tests/data/torch/icefall-epoch-3.pt");
const STATE: &[u8] = include_bytes!("../../../tests/data/torch/training-state.pt");

fn open(bytes: &[u8], key: Option<&str>) -> Result<Catalog> {
    let files = Memory::new([("x.bin", bytes.to_vec())]);
    assert!(Torch.claims("x.bin", bytes));
    match Torch.open(&files, "x.bin", bytes.len() as u64, key) {
        Ok(catalog) => Ok(catalog),
        Err(Stop::Failed(error)) => Err(error),
        Err(Stop::Later) => panic!("the memory has everything"),
    }
}

/// Name, dtype, shape and numbers of each tensor, sorted by name; numbers as f64.
fn listed(bytes: &[u8], key: Option<&str>) -> Vec<String> {
    let catalog = open(bytes, key).unwrap();
    let read = |_: Option<usize>, start: u64, into: &mut [u8]| {
        let start = usize::try_from(start).unwrap();
        into.copy_from_slice(&bytes[start..start + into.len()]);
        Ok::<(), ()>(())
    };
    let line = |tensor: &Placed| {
        let mut data = vec![0; usize::try_from(tensor.len()).unwrap()];
        catalog.header.read(tensor.range.start, &mut data, read).unwrap();
        let numbers: Vec<_> = match crate::dtype::Float::of(tensor.dtype) {
            Some(float) => data.chunks_exact(float.bytes()).map(|word| float.value(word)).collect(),
            None => {
                data.chunks_exact(8).map(|word| i64::from_le_bytes(word.try_into().unwrap()) as f64).collect()
            }
        };
        format!("{} {} {:?} {numbers:?}", tensor.name, tensor.dtype, tensor.shape)
    };
    let mut lines: Vec<_> = catalog.header.tensors().iter().map(line).collect();
    lines.sort();
    lines
}

#[test]
fn a_plain_file_is_read_in_place() {
    let catalog = open(ADAPTER, None).unwrap();
    assert!(catalog.header.is_in_place() && !catalog.header.is_safetensors());
    assert_eq!(catalog.header.file_len(), ADAPTER.len() as u64);
    assert_eq!(catalog.header.metadata().get("format"), Some("pt"));
    assert!(catalog.header.tensors().iter().all(|tensor| tensor.range.start % 64 == 0));
    assert_eq!(catalog.header.tensors().len(), 4);
}

#[test]
fn a_stem_of_21_letters_is_read_like_any_other() {
    let lines = listed(TIMM, None);
    let names: Vec<_> = lines.iter().map(|line| line.split(' ').next().unwrap()).collect();
    assert_eq!(
        names,
        ["bn.num_batches_tracked", "emb.weight", "enc.bias", "enc.weight", "half", "out.weight", "t"]
    );
    // tied weights are two names of one place
    let catalog = open(TIMM, None).unwrap();
    let range =
        |name: &str| catalog.header.tensors().iter().find(|it| it.name == name).unwrap().range.clone();
    assert_eq!(range("emb.weight"), range("out.weight"));
    assert_eq!(catalog.step, Some(3));
    assert_eq!(
        catalog.notes,
        [
            "the weights under `state_dict` of the training states are taken; `state_dict_ema` is left out (choose with \
          --weights-key)"
        ]
    );
}

#[test]
fn a_transposed_tensor_is_put_in_order() {
    let t = listed(TIMM, None).into_iter().find(|line| line.starts_with("t ")).unwrap();
    let (shape, numbers) = t.strip_prefix("t F32 ").unwrap().split_once("] ").unwrap();
    assert_eq!(shape, "[4, 3");
    let numbers: Vec<f64> = numbers[1..numbers.len() - 1].split(", ").map(|it| it.parse().unwrap()).collect();
    // the storage holds 3 rows of 4
    let catalog = open(TIMM, None).unwrap();
    let tensor = catalog.header.tensors().last().unwrap();
    assert!(tensor.name == "t" && tensor.range.start > TIMM.len() as u64);
    let at = |row: usize, column: usize| numbers[row * 3 + column];
    let stored: Vec<f64> = (0..12).map(|i| at(i % 4, i / 4)).collect();
    assert_eq!(stored.windows(2).filter(|pair| pair[0] == pair[1]).count(), 0, "{stored:?}");
    #[expect(clippy::cast_possible_truncation, reason = "they were f32")]
    let bytes: Vec<u8> = stored.iter().flat_map(|value| (*value as f32).to_le_bytes()).collect();
    assert!(TIMM.windows(bytes.len()).any(|window| window == bytes), "as they lie in the file");
}

#[test]
fn old_files_are_read_in_place_too() {
    assert_eq!(
        listed(LEGACY, None),
        [
            "b F32 [4, 2] [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]",
            "base_model.model.a.lora_A.weight BF16 [2, 3] [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]",
            "p F32 [2] [1.0, 1.0]",
            "shared1 F32 [3] [1.0, 1.0, 1.0]",
            "shared2 F32 [3] [1.0, 1.0, 1.0]",
        ]
    );
    for end in [20, 300, 700, LEGACY.len() - 1] {
        assert!(open(&LEGACY[..end], None).is_err(), "{end}");
    }
}

#[test]
fn one_set_of_weights_is_taken_and_the_others_are_named() {
    let lines = listed(STATE, None);
    assert_eq!(lines.len(), 2);
    assert!(
        lines[0].starts_with("layer.0.w F32 [4, 4]") && lines[1].starts_with("layer.1.w F32 [4]"),
        "{lines:?}"
    );
    let catalog = open(STATE, None).unwrap();
    assert_eq!(catalog.step, Some(1000));
    assert!(catalog.notes[0].contains("`model_avg` is left out"), "{:?}", catalog.notes);
    assert!(listed(STATE, Some("model_avg"))[0].starts_with("layer.0.w F64 [4, 4]"));
    let error = open(STATE, Some("ema")).unwrap_err();
    assert_eq!(error.detail(), "has no weights under `ema`");
    assert_eq!(error.advice(), Some("choose one of these with --weights-key: `model`, `model_avg`"));
    let icefall = open(ICEFALL, None).unwrap();
    assert_eq!((icefall.step, icefall.key.as_deref()), (Some(1200), Some("model")));
    assert_eq!(icefall.told, [("eval_loss".to_owned(), 0.21)]);
}

#[test]
fn toolkits_layouts_are_known() {
    for (bytes, names, step) in [
        (&include_bytes!("../../../tests/data/torch/foreign-globals.pt")[..], 7, None),
        (include_bytes!("../../../tests/data/torch/nanogpt-ckpt.pt"), 7, Some(2000)),
        (include_bytes!("../../../tests/data/torch/parameters.pth"), 7, None),
    ] {
        let catalog = open(bytes, None).unwrap();
        assert_eq!((catalog.header.tensors().len(), catalog.step), (names, step));
        assert_eq!(catalog.notes, [""; 0]);
    }
    let translation = open(include_bytes!("../../../tests/data/torch/onmt_step_2000.pt"), None).unwrap();
    let names: Vec<_> = translation.header.tensors().iter().map(|it| it.name.as_str()).collect();
    assert!(names.iter().any(|name| name.starts_with("generator.")), "{names:?}");
    assert!(translation.notes.is_empty(), "{:?}", translation.notes);
}

#[test]
fn numbers_repeated_out_of_nothing_are_refused() {
    let error = open(include_bytes!("../../../tests/data/torch/stride-zero.bin"), None).unwrap_err();
    assert_eq!(error.at_tensor(), Some("w"));
    assert_eq!(error.detail(), "of F32 [16384, 16384] repeats the 4 bytes of its storage to 1073741824");
}

#[test]
fn cut_and_changed_files_are_refused() {
    for end in [0, 3, 30, ADAPTER.len() / 2, ADAPTER.len() - 1] {
        let error = open_any(&ADAPTER[..end]);
        assert!(error.is_err(), "{end}");
    }
    // every byte of the directory and of the pickle may lie; nothing panics, and no range leaves the file
    for at in 0..ADAPTER.len() {
        let mut bytes = ADAPTER.to_vec();
        bytes[at] ^= 0x41;
        if let Ok(catalog) = open_any(&bytes) {
            for tensor in catalog.header.tensors() {
                let mut data = vec![0; usize::try_from(tensor.len()).unwrap()];
                let read = |_: Option<usize>, start: u64, into: &mut [u8]| {
                    let start = usize::try_from(start).unwrap();
                    bytes.get(start..start + into.len()).map(|_| ()).ok_or(at)
                };
                catalog.header.read(tensor.range.start, &mut data, read).unwrap();
            }
        }
    }
}

/// As [`open`], whatever the file begins with.
fn open_any(bytes: &[u8]) -> Result<Catalog> {
    let files = Memory::new([("x.bin", bytes.to_vec())]);
    match Torch.open(&files, "x.bin", bytes.len() as u64, None) {
        Ok(catalog) => Ok(catalog),
        Err(Stop::Failed(error)) => Err(error),
        Err(Stop::Later) => panic!("the memory has everything"),
    }
}

#[test]
fn what_is_no_file_of_torch_says_what_it_is() {
    for (bytes, detail) in [
        (&b""[..], "is empty or damaged, or was written by something other than torch.save()"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
            "is a git-lfs pointer, not a file of torch.save()",
        ),
        (b"no such thing", "is a text file, not a file of torch.save()"),
        (
            b"PK\x03\x04 no directory follows this beginning",
            "is a PyTorch file that is cut short or damaged: its end is missing",
        ),
    ] {
        assert_eq!(open_any(bytes).unwrap_err().detail(), detail);
    }
}

#[test]
fn members_may_be_asked_for_again() {
    let mut files = Memory::new([("x.bin", ADAPTER.to_vec())]);
    files.asks_again = true;
    let mut rounds = 0;
    let catalog = loop {
        match Torch.open(&files, "x.bin", ADAPTER.len() as u64, None) {
            Ok(catalog) => break catalog,
            Err(Stop::Later) => rounds += 1,
            Err(Stop::Failed(error)) => panic!("{error}"),
        }
    };
    assert_eq!(catalog.header, open(ADAPTER, None).unwrap().header);
    assert!(rounds < 10, "{rounds}: all members are asked for at once");
}
