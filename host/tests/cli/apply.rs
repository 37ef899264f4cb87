//! Adapters folded into their base: against numbers that numpy made (`tests/fold_cases.py`), and what is refused.

use std::fs;
use std::path::Path;

use mwa::Float;
use mwa::safetensors::Header;

use crate::adapter::{Tensor, f32s, safetensors};
use crate::place::Place;

const DATA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cli/data/apply");

/// Every float tensor of a file: its dtype, shape and values.
fn tensors(bytes: &[u8]) -> Vec<(String, Float, Vec<u64>, Vec<f64>)> {
    let header = Header::parse(bytes, bytes.len() as u64).unwrap();
    let values = |tensor: &mwa::safetensors::Tensor| {
        let float = Float::of(tensor.dtype).unwrap();
        let at = |at: u64| usize::try_from(at).unwrap();
        let words = bytes[at(tensor.range.start)..at(tensor.range.end)].chunks_exact(float.bytes());
        (tensor.name.clone(), float, tensor.shape.clone(), words.map(|word| float.value(word)).collect())
    };
    header.tensors().iter().map(values).collect()
}

/// Half of the last place, as a share of a value.
fn rounding(float: Float) -> f64 {
    match float {
        Float::F64 => 1e-15,
        Float::F32 => 2f64.powi(-24),
        Float::BF16 => 2f64.powi(-8),
        Float::F16 => 2f64.powi(-11),
        Float::F8E4M3 | Float::F8E5M2 => unreachable!("not among the cases"),
    }
}

fn copy(from: &Path, place: &Place, to: &str) {
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let name = format!("{to}/{}", path.file_name().unwrap().to_str().unwrap());
        if path.is_dir() { copy(&path, place, &name) } else { place.write(&name, fs::read(&path).unwrap()) }
    }
}

/// A place with one of numpy's cases.
fn case(name: &str) -> Place {
    let place = Place::new();
    copy(&Path::new(DATA).join(name), &place, ".");
    place
}

#[test]
fn every_kind_of_adapter_is_folded_as_peft_would_within_one_rounding() {
    let mut count = 0;
    for entry in fs::read_dir(DATA).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let place = case(&name);
        let ran = place.mwa("apply adapter --base base -o out");
        assert_eq!(ran.code, Some(0), "{name}: {}", ran.err);
        let found = tensors(&place.read("out/model.safetensors"));
        let wanted = tensors(&place.read("expected.safetensors"));
        assert_eq!(found.len(), wanted.len(), "{name}");
        for (tensor, _, shape, exact) in &wanted {
            let (_, float, found_shape, values) =
                found.iter().find(|it| it.0 == *tensor).unwrap_or_else(|| panic!("{name} lacks {tensor}"));
            assert_eq!(shape, found_shape, "{name} {tensor}");
            // sums in f32 of numbers around one
            let more = if *float == Float::F64 { 1e-14 } else { 2e-6 };
            for (at, (value, exact)) in values.iter().zip(exact).enumerate() {
                let error = (value - exact).abs();
                assert!(
                    error <= rounding(*float) * exact.abs() + more,
                    "{name}: {tensor}[{at}] is {value}, not {exact}"
                );
            }
        }
        let verified = place.mwa("verify out");
        assert_eq!(verified.code, Some(0), "{name}: {}{}", verified.out, verified.err);
        count += 1;
    }
    assert_eq!(count, 15);
}

#[test]
fn any_threads_and_memory_give_the_same_bytes() {
    for name in ["linear", "dora", "dora-gpt2", "experts-turned"] {
        let place = case(name);
        for (at, how) in
            ["--threads 1", "--threads 5 --memory 1k", "--threads 2 --memory 1G"].iter().enumerate()
        {
            let ran = place.mwa(&format!("apply adapter --base base -o out{at} {how}"));
            assert_eq!(ran.code, Some(0), "{}", ran.err);
            assert_eq!(
                place.read(&format!("out{at}/model.safetensors")),
                place.read("out0/model.safetensors")
            );
        }
    }
}

const UP: &str = "base_model.model.up";

fn base(names: &[(&str, &[usize])]) -> Vec<Tensor> {
    let tensor = |(name, shape): &(&str, &[usize])| {
        let count: usize = shape.iter().product();
        f32s(name, shape, &vec![0.5; count])
    };
    names.iter().map(tensor).collect()
}

fn adapter(module: &str, out: usize, inside: usize) -> Vec<Tensor> {
    vec![
        f32s(&format!("{module}.lora_A.weight"), &[2, inside], &vec![1.0; 2 * inside]),
        f32s(&format!("{module}.lora_B.weight"), &[out, 2], &vec![0.25; out * 2]),
    ]
}

/// A base in two shards with what lies beside it, and an adapter of one of its modules.
fn sharded() -> Place {
    let place = Place::new();
    let shards = [
        ("model-00001-of-00002.safetensors", base(&[("up.weight", &[3, 4]), ("norm", &[4])])),
        ("model-00002-of-00002.safetensors", base(&[("down.weight", &[4, 3])])),
    ];
    let mut map = serde_json::Map::new();
    for (file, tensors) in shards {
        tensors.iter().for_each(|it| drop(map.insert(it.name.clone(), file.into())));
        place.write(&format!("base/{file}"), safetensors(&tensors));
    }
    let index = serde_json::json!({ "metadata": { "total_size": 112 }, "weight_map": map });
    place.write("base/model.safetensors.index.json", index.to_string());
    place.write("base/config.json", "{}");
    place.write("base/modeling_mine.py", "# code");
    place.write("base/README.md", "of the base");
    place.write("base/model.gguf", "another container");
    place.write("base/tokenizer.json", "{\"a\": 1}");
    place.checkpoint("lora", &adapter(UP, 3, 4));
    place
}

#[test]
fn shards_that_do_not_change_and_what_lies_beside_them_stay_as_they_are() {
    let place = sharded();
    let ran = place.mwa("apply lora --base base -o out");
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    assert!(
        ran.out.starts_with("1 module of lora into base; 1 tensor changed\nfolded into out in "),
        "{}",
        ran.out
    );
    for name in [
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
        "config.json",
        "modeling_mine.py",
        "tokenizer.json",
    ] {
        assert_eq!(place.read(&format!("out/{name}")), place.read(&format!("base/{name}")), "{name}");
    }
    assert!(!place.path("out/model.gguf").exists());
    // γ = 4/2, and each of the two ranks gives 1 · 0.25
    let bytes = place.read("out/model-00001-of-00002.safetensors");
    assert_eq!(crate::adapter::values(&bytes, "up.weight"), [1.5; 12]);
    assert_eq!(crate::adapter::values(&bytes, "norm"), [0.5; 4]);
    let card = String::from_utf8(place.read("out/README.md")).unwrap();
    assert!(
        card.contains("base_model: \"example/tiny\"") && card.contains("# base with an adapter folded in"),
        "{card}"
    );
    let verified = place.mwa("verify out");
    assert_eq!(verified.code, Some(0), "{}", verified.out);
    // the result of another base is another
    place.write(
        "base/model-00002-of-00002.safetensors",
        safetensors(&base(&[("down.weight", &[4, 3]), ("x", &[1])])),
    );
    assert_eq!(place.mwa("verify out").code, Some(1));
    // and with force it takes the place of the first, and of nothing else
    let again = sharded();
    assert_eq!(again.mwa("apply lora --base base -o out").code, Some(0));
    assert!(again.fails("apply lora --base base -o out").contains("exists already"));
    assert_eq!(again.mwa("apply lora --base base -o out --force").code, Some(0));
    assert!(again.fails("apply lora --base base -o base --force").contains("would overwrite the input"));
}

/// What `apply` says of an adapter and a base that do not go together.
fn refused(change: impl FnOnce(&Place)) -> String {
    let place = sharded();
    change(&place);
    place.fails("apply lora --base base -o out")
}

#[test]
fn what_does_not_fit_is_refused_by_file_tensor_and_both_facts() {
    let config = |from: &'static str, to: &'static str| {
        refused(move |place| place.edit("lora/adapter_config.json", from, to))
    };
    let weights = |tensors: Vec<Tensor>| refused(move |place| place.checkpoint("lora", &tensors));
    let of = |module: &str, out, inside| weights(adapter(module, out, inside));
    let names_base =
        "\nhelp: give the model that the adapter was trained on with --base: its config names example/tiny\n";
    for (error, wanted) in [
        // of another base
        (
            of("base_model.model.layers.7.up", 3, 4),
            format!(
                "error: lora/adapter_model.safetensors: tensor `base_model.model.layers.7.up.lora_A.weight` adapts layers.7.up, \
                 but base has no tensor `layers.7.up.weight`; of its 1 modules 0 are there{names_base}"
            ),
        ),
        // of another shape
        (
            of(UP, 3, 5),
            format!(
                "error: lora/adapter_model.safetensors: tensor `{UP}.lora_A.weight` is for a weight of [3, 5], but `up.weight` of \
                 base is [3, 4]{names_base}"
            ),
        ),
        // half of it
        (
            weights(adapter(UP, 3, 4).into_iter().take(1).collect()),
            format!(
                "error: lora/adapter_model.safetensors: tensor `{UP}.lora_A.weight` is there without the factor B of up\nhelp: the \
                 file is damaged or cut out of another: save the adapter again\n"
            ),
        ),
        // what nobody knows
        (
            weights([adapter(UP, 3, 4), vec![f32s(&format!("{UP}.lora_diag"), &[2], &[1.0; 2])]].concat()),
            format!(
                "error: lora/adapter_model.safetensors: tensor `{UP}.lora_diag` is no part of an adapter that is known here, so \
                 that it cannot be folded\nhelp: fold it by PEFT itself: PeftModel.merge_and_unload()\n"
            ),
        ),
        // a base of codes
        (
            refused(|place| place.write("base/config.json", r#"{"quantization_config": {"quant_method": "awq"}}"#)),
            "error: base/config.json: says that the base is quantised (awq), and an adapter is folded into plain weights\nhelp: give \
             the model as it was before it was quantised with --base\n"
                .into(),
        ),
        // other methods, and such as change their base
        (
            config(r#""LORA""#, r#""IA3""#),
            "error: lora/adapter_model.safetensors: is IA3, and what is folded here is LORA\nhelp: fold it by PEFT itself: \
             PeftModel.merge_and_unload()\n"
                .into(),
        ),
        (
            config(r#""init_lora_weights": true"#, r#""init_lora_weights": "pissa""#),
            "error: lora/adapter_model.safetensors: was trained with init_lora_weights = pissa, which took something off its base: \
             folded into the base as it is, that would count twice\nhelp: let PEFT write it as plain LoRA: save_pretrained(…, \
             path_initial_model_for_weight_conversion=…)\n"
                .into(),
        ),
        (
            config(r#""r": 2,"#, r#""r": 2, "use_qalora": true,"#),
            "error: lora/adapter_model.safetensors: sets use_qalora: it pools its input before A, so that it is not W + γ·B·A\nhelp: \
             use it beside its base, as PEFT does\n"
                .into(),
        ),
        // a bias without one to be added to
        (
            weights([adapter(UP, 3, 4), vec![f32s(&format!("{UP}.lora_B.bias"), &[3], &[1.0; 3])]].concat()),
            format!(
                "error: lora/adapter_model.safetensors: tensor `{UP}.lora_B.bias` is a bias of up, but base has no `up.bias` that it \
                 could be added to\nhelp: PEFT cannot fold it either: use the adapter beside its base\n"
            ),
        ),
        // numbers that are none
        (
            weights(vec![
                f32s(&format!("{UP}.lora_A.weight"), &[2, 4], &[f32::NAN; 8]),
                f32s(&format!("{UP}.lora_B.weight"), &[3, 2], &[1.0; 6]),
            ]),
            "error: model-00001-of-00002.safetensors: tensor `up.weight` has 12 values that are not finite once the adapter is folded \
             in\nhelp: the adapter is damaged or diverged, or the base's dtype cannot hold the sum; --allow-non-finite lets it \
             through\n"
                .into(),
        ),
        // no adapter at all
        (
            refused(|place| {
                fs::remove_file(place.path("lora/adapter_config.json")).unwrap();
                fs::rename(place.path("lora/adapter_model.safetensors"), place.path("lora/x.safetensors")).unwrap();
            }),
            "error: lora: has no adapter_config.json, so nothing says what is folded, and how strongly\nhelp: give the folder of a \
             PEFT adapter; a LoRA of another program becomes one by `mwa convert IN -o ADAPTER --format peft`\n"
                .into(),
        ),
    ] {
        assert_eq!(error, wanted);
    }
    let place = sharded();
    let error = place.fails("apply lora --base lora -o out");
    assert!(error.contains("lora: is an adapter itself, and an adapter is folded into a model"), "{error}");
    let ran = place.mwa("apply lora -o out");
    assert_eq!(ran.code, Some(2), "{}", ran.err);
    place.checkpoint(
        "lora",
        &[
            f32s(&format!("{UP}.lora_A.weight"), &[2, 4], &[f32::INFINITY; 8]),
            f32s(&format!("{UP}.lora_B.weight"), &[3, 2], &[1.0; 6]),
        ],
    );
    assert_eq!(place.mwa("apply lora --base base -o out --allow-non-finite").code, Some(0));
    assert_eq!(place.mwa("verify out").code, Some(0));
}

#[test]
fn a_head_of_its_own_is_written_into_index_and_config() {
    let place = case("tied");
    let ran = place.mwa("apply adapter --base base -o out");
    assert!(ran.err.contains("tie_word_embeddings = false"), "{}", ran.err);
    let config = String::from_utf8(place.read("out/config.json")).unwrap();
    assert!(config.contains("\"tie_word_embeddings\": false"), "{config}");
    assert!(ran.out.contains("added: lm_head.weight"), "{}", ran.out);
    let place = sharded();
    place.edit("lora/adapter_config.json", "\"r\": 2,", "\"r\": 2, \"modules_to_save\": [\"score\"],");
    let score = f32s("base_model.model.score.weight", &[2, 4], &[0.125; 8]);
    place.write("lora/adapter_model.safetensors", safetensors(&[adapter(UP, 3, 4), vec![score]].concat()));
    assert_eq!(place.mwa("apply lora --base base -o out").code, Some(0));
    let index: serde_json::Value =
        serde_json::from_slice(&place.read("out/model.safetensors.index.json")).unwrap();
    assert_eq!(index["weight_map"]["score.weight"], "model-00002-of-00002.safetensors");
    assert_eq!(index["metadata"]["total_size"], 112 + 32);
    let bytes = place.read("out/model-00002-of-00002.safetensors");
    assert_eq!(crate::adapter::values(&bytes, "score.weight"), [0.125; 8]);
    assert_eq!(place.mwa("verify out").code, Some(0));
}
