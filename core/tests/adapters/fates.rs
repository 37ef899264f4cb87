//! Every adapter under `data/adapters`, which PEFT really wrote, against what must become of it.

use std::collections::BTreeSet;
use std::fs;

use mwa::Exactness::{self, Linear, Product, SameRun};
use mwa::{ErrorKind, METHODS, agree};

use crate::{Adapter, ask, folder};

/// What must become of two copies of an adapter.
enum Fate {
    /// Averaged without a word.
    Average(Exactness),
    /// Averaged, with a note.
    Warn(Exactness),
    /// Refused, for this reason.
    Refuse(ErrorKind),
}
use Fate::{Average, Refuse, Warn};

/// (folder, fate, the segments of float tensors that must be identical).
const FATES: &[(&str, Fate, &[&str])] = &[
    ("ADALORA", Warn(SameRun), &[]),
    ("BEFT", Average(Linear), &[]),
    ("BOFT", Average(SameRun), &[]),
    ("C3A", Average(Linear), &[]),
    ("CPT", Average(Linear), &[]),
    ("DEFT", Warn(SameRun), &[]),
    ("DELORA", Warn(SameRun), &["delora_w_norm"]),
    ("FOURIERFT", Average(Linear), &[]),
    ("FROD", Average(Linear), &["frod_V"]),
    ("GLORA", Warn(SameRun), &[]),
    ("GRALORA", Warn(SameRun), &[]),
    ("HIRA", Warn(SameRun), &[]),
    ("HRA", Warn(SameRun), &[]),
    ("IA3", Average(Linear), &[]),
    ("LILY", Refuse(ErrorKind::Method), &[]),
    ("LN_TUNING", Average(Linear), &[]),
    ("LOHA", Warn(SameRun), &[]),
    ("LOKR", Warn(SameRun), &[]),
    ("LORA", Average(Product), &[]),
    ("MULTITASK_PROMPT_TUNING", Warn(SameRun), &[]),
    ("OFT", Average(SameRun), &[]),
    ("OSF", Warn(SameRun), &[]),
    ("PEANUT", Warn(SameRun), &[]),
    ("POLY", Refuse(ErrorKind::Method), &[]),
    ("PREFIX_TUNING", Average(Linear), &[]),
    ("PROMPT_TUNING", Average(Linear), &[]),
    ("PSOFT", Warn(SameRun), &[]),
    ("PVERA", Average(SameRun), &["pvera_A", "pvera_B"]),
    ("P_TUNING", Average(Linear), &[]),
    ("RANDLORA", Average(SameRun), &["randlora_A", "randlora_B"]),
    ("SHADOW", Refuse(ErrorKind::Method), &[]),
    ("SHIRA", Average(Linear), &[]),
    ("SUPERTUNING", Average(Linear), &[]),
    ("TINYLORA", Average(Linear), &["tinylora_A", "tinylora_B", "tinylora_P"]),
    ("TRAINABLE_TOKENS", Average(Linear), &[]),
    ("UNILORA", Average(SameRun), &[]),
    ("VBLORA", Refuse(ErrorKind::Method), &[]),
    ("VERA", Average(SameRun), &["vera_A", "vera_B"]),
    ("WAVEFT", Average(Linear), &[]),
    ("alora", Average(Product), &[]),
    ("bdlora", Average(SameRun), &[]),
    ("bf16", Average(Product), &[]),
    ("bf16_autocast", Average(Product), &[]),
    ("bias_all", Average(Product), &[]),
    ("bin", Refuse(ErrorKind::Input), &[]), // the config of a .bin: no safetensors, so no tensors here
    ("cfg1", Refuse(ErrorKind::Input), &[]), // configs alone
    ("cfg2", Refuse(ErrorKind::Input), &[]),
    ("cfg3", Refuse(ErrorKind::Input), &[]),
    ("compiled", Average(Product), &[]),
    ("conv", Average(Product), &[]),
    ("diffusers", Average(Product), &[]),
    ("dora", Warn(SameRun), &[]),
    ("embed_target", Average(Product), &["base_layer"]),
    ("gpt2_bias", Average(Product), &[]), // base_layer.bias is trained
    ("kasa", Warn(SameRun), &[]),
    ("layer_rep", Average(Product), &[]),
    ("mica", Average(Product), &[]),
    ("miss", Refuse(ErrorKind::Names), &[]), // a lora_A whose lora_B is gone
    ("modules_to_save", Average(Product), &[]),
    ("moe", Average(Product), &[]), // experts.base_layer.lora_A is trained
    ("monteclora", Refuse(ErrorKind::Method), &[]),
    ("multi", Average(Product), &[]),
    ("pissa", Average(Product), &[]),
    ("rank_pattern", Average(Product), &[]),
    ("seqcls", Average(Product), &[]),
    ("sub-dora-r4", Warn(SameRun), &[]),
    ("sub-head", Average(Product), &[]),
    ("sub-patterns", Average(Product), &[]),
    ("sub-r8", Average(Product), &[]),
    ("sub-rslora-r16", Average(Product), &[]),
    ("target_params", Average(Product), &[]),
    ("tied", Average(Product), &[]),
    ("tied_ensure", Average(Product), &[]),
    ("tokens", Average(Product), &[]),
];

#[test]
fn every_real_adapter_meets_its_fate() {
    for (name, fate, frozen) in FATES {
        let adapter = Adapter::open(name);
        let answer = ask(&[&adapter, &adapter], agree);
        match (fate, &answer) {
            (Average(how), Ok(agreement)) => {
                assert_eq!((agreement.exactness, agreement.notes.len()), (*how, 0), "{name}: {agreement:?}");
            }
            (Warn(how), Ok(agreement)) => {
                assert_eq!((agreement.exactness, agreement.notes.len()), (*how, 1), "{name}: {agreement:?}");
            }
            (Refuse(kind), Err(error)) => assert_eq!(error.kind(), *kind, "{name}: {error}"),
            _ => panic!("{name}: {answer:?}"),
        }
        let Ok(agreement) = answer else { continue };
        let identical = adapter.tensors.iter().filter(|(tensor, ..)| agreement.identical(tensor).is_some());
        let identical: BTreeSet<&str> = identical.map(|(tensor, ..)| tensor.as_str()).collect();
        for tensor in &identical {
            let expected = frozen.iter().any(|segment| tensor.split('.').any(|part| part == *segment));
            assert!(expected, "{name}: {tensor} need not be identical");
        }
        for segment in *frozen {
            assert!(identical.iter().any(|tensor| tensor.contains(segment)), "{name}: {segment} may differ");
        }
    }
}

#[test]
fn no_folder_is_forgotten() {
    let folders: BTreeSet<String> = fs::read_dir(folder())
        .expect("the data is there")
        .map(|entry| entry.expect("readable").file_name().into_string().expect("a plain name"))
        .collect();
    let told: BTreeSet<String> = FATES.iter().map(|(name, ..)| (*name).to_string()).collect();
    assert_eq!(folders, told);
}

#[test]
fn no_method_is_without_a_real_adapter_unless_said_so() {
    // PEFT cannot make these on a tiny model, or makes them no more.
    let unseen =
        ["ADAMSS", "ADAPTION_PROMPT", "BONE", "CARTRIDGE", "MISS", "ROAD", "XLORA"].map(str::to_string);
    let told: BTreeSet<String> = FATES.iter().map(|(name, ..)| (*name).to_string()).chain(unseen).collect();
    for method in METHODS {
        assert!(told.contains(method.peft_type), "{}", method.peft_type);
    }
    let names: BTreeSet<&str> = METHODS.iter().map(|method| method.peft_type).collect();
    assert_eq!(names.len(), METHODS.len(), "a method stands twice in the table");
}
