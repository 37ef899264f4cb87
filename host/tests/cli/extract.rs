//! Adapters taken out of models: what was folded in comes out again, and what is refused.

use serde_json::Value;

use crate::adapter::{Tensor, f32s, i64s, safetensors, values};
use crate::place::Place;

/// Numbers that look random, in −1…1.
fn noise(count: usize, seed: u32) -> Vec<f32> {
    let mut state = seed | 1;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        f32::from(u16::try_from(state >> 16).unwrap()) / 32768.0 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

const UP: &str = "model.layers.0.up";

/// A model of a linear layer with a bias, a norm, and an embedding.
fn model() -> Vec<Tensor> {
    vec![
        f32s(&format!("{UP}.weight"), &[9, 12], &noise(108, 1)),
        f32s(&format!("{UP}.bias"), &[9], &noise(9, 2)),
        f32s("model.norm.weight", &[12], &noise(12, 3)),
        f32s("model.embed_tokens.weight", &[20, 12], &noise(240, 4)),
        i64s("model.positions", &[0, 1, 2]),
    ]
}

/// The same with a difference of rank 2 in two weights.
fn tuned() -> Vec<Tensor> {
    let mut tensors = model();
    for (at, rows) in [(0, 9), (3, 20)] {
        let (u, v) = (noise(2 * rows, 7), noise(24, 8));
        let plain: Vec<f32> =
            tensors[at].data.as_chunks().0.iter().map(|word| f32::from_le_bytes(*word)).collect();
        let changed: Vec<f32> = plain
            .iter()
            .enumerate()
            .map(|(i, value)| value + (0..2).map(|k| u[2 * (i / 12) + k] * v[12 * k + i % 12]).sum::<f32>())
            .collect();
        tensors[at] = f32s(&tensors[at].name.clone(), &tensors[at].shape.clone(), &changed);
    }
    tensors
}

fn place(tuned: &[Tensor]) -> Place {
    let place = Place::new();
    let config =
        r#"{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "_name_or_path": "example/base"}"#;
    for (folder, tensors) in [("base", model().as_slice()), ("tuned", tuned)] {
        place.write(&format!("{folder}/model.safetensors"), safetensors(tensors));
        place.write(&format!("{folder}/config.json"), config);
    }
    place
}

fn config(place: &Place) -> Value {
    serde_json::from_slice(&place.read("out/adapter_config.json")).unwrap()
}

/// Fold it in again: how far the result is from the tuned model.
fn distance(place: &Place, tensor: &str) -> f32 {
    let ran = place.mwa("apply out --base base -o back --force");
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    let (back, tuned) = (place.read("back/model.safetensors"), place.read("tuned/model.safetensors"));
    let pairs = values(&back, tensor).into_iter().zip(values(&tuned, tensor));
    pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn what_was_folded_in_comes_out_again() {
    let place = place(&tuned());
    for how in ["--rank 2", "--rank auto --error 0.001", "--rank 5 --threads 3 --memory 1k"] {
        let ran = place.mwa(&format!("extract tuned --base base {how} -o out --force"));
        assert_eq!(ran.code, Some(0), "{}", ran.err);
        let config = config(&place);
        assert_eq!(config["base_model_name_or_path"], "example/base");
        assert_eq!(config["target_modules"], serde_json::json!(["embed_tokens", "up"]));
        assert_eq!((&config["task_type"], &config["bias"]), (&"CAUSAL_LM".into(), &"none".into()));
        assert_eq!(config["lora_alpha"], config["r"]);
        assert_eq!(config["r"], if how.contains('5') { 5 } else { 2 });
        assert!(distance(&place, &format!("{UP}.weight")) < 2e-6, "{how}");
        assert!(distance(&place, "model.embed_tokens.weight") < 2e-6, "{how}");
        let verified = place.mwa("verify out");
        assert_eq!(verified.code, Some(0), "{}{}", verified.out, verified.err);
    }
    let ran = place.mwa("extract tuned --base base --rank 1 -o one --base-name hub/model");
    assert!(ran.out.contains("module") && ran.out.contains("left over"), "{}", ran.out);
    let one = String::from_utf8(place.read("one/adapter_config.json")).unwrap();
    assert!(one.contains("\"base_model_name_or_path\": \"hub/model\""), "{one}");
}

#[test]
fn threads_and_memory_change_no_byte() {
    let place = place(&tuned());
    for (at, how) in ["--threads 1", "--threads 4 --memory 1k", "--memory 1G"].iter().enumerate() {
        let ran = place.mwa(&format!("extract tuned --base base --rank 2 -o out{at} {how}"));
        assert_eq!(ran.code, Some(0), "{}", ran.err);
        let bytes = |at: usize| place.read(&format!("out{at}/adapter_model.safetensors"));
        assert_eq!(bytes(at), bytes(0));
    }
}

#[test]
fn what_has_no_factors_is_saved_whole() {
    let mut tensors = tuned();
    tensors[1] = f32s(&format!("{UP}.bias"), &[9], &noise(9, 22));
    tensors[2] = f32s("model.norm.weight", &[12], &noise(12, 33));
    let place = place(&tensors);
    let ran = place.mwa("extract tuned --base base --rank 2 -o out");
    assert!(ran.err.contains("is saved whole, in 1 of modules_to_save: model.norm"), "{}", ran.err);
    let config = config(&place);
    assert_eq!(config["modules_to_save"], serde_json::json!(["model.norm"]));
    assert_eq!(config["bias"], "lora_only");
    for name in ["model.norm.weight".to_owned(), format!("{UP}.bias")] {
        assert_eq!(distance(&place, &name), 0.0, "{name}");
    }
    // the ranks differ where a module has less
    let place = self::place(&tuned());
    assert_eq!(place.mwa("extract tuned --base base --rank 10 -o out").code, Some(0));
    let config = self::config(&place);
    assert_eq!(config["r"], 10);
    assert_eq!(config["rank_pattern"], serde_json::json!({ "model.layers.0.up": 9 }));
    assert_eq!(config["rank_pattern"], config["alpha_pattern"]);
    assert!(distance(&place, &format!("{UP}.weight")) < 2e-6);
}

#[test]
fn what_no_adapter_holds_is_refused_by_name() {
    let refused = |change: &dyn Fn(&mut Vec<Tensor>)| {
        let mut tensors = tuned();
        change(&mut tensors);
        place(&tensors).fails("extract tuned --base base --rank 2 -o out")
    };
    for (error, wanted) in [
        (
            refused(&|tensors| *tensors = model()),
            "error: tuned: is the same as base in all 5 tensors: there is nothing to take out\nhelp: give the model before its \
             training with --base\n",
        ),
        (
            refused(&|tensors| drop(tensors.remove(2))),
            "error: tuned: tensor `model.norm.weight` is in base ([12]), but not in tuned\nhelp: give the model that the other was \
             trained from with --base; both need the same tensors\n",
        ),
        (
            refused(&|tensors| tensors[3] = f32s("model.embed_tokens.weight", &[21, 12], &noise(252, 4))),
            "error: tuned: tensor `model.embed_tokens.weight` is [21, 12], but in base [20, 12]\nhelp: give the model that it was \
             trained from; where its vocabulary was resized, resize the base alike and save it\n",
        ),
        (
            refused(&|tensors| tensors[4] = i64s("model.positions", &[0, 1, 3])),
            "error: tuned: tensor `model.positions` is I64, and differs from that of base: an adapter holds floats only\nhelp: keep \
             the model whole\n",
        ),
        (
            refused(&|tensors| tensors[0] = f32s(&format!("{UP}.weight"), &[9, 12], &[f32::NAN; 108])),
            "error: tuned: tensor `model.layers.0.up.weight` holds NaN or infinity, in tuned or in base\nhelp: take a checkpoint of \
             before the training diverged\n",
        ),
    ] {
        assert_eq!(error, wanted);
    }
    let place = place(&tuned());
    let dora = crate::adapter::CONFIG.replace("\"r\": 2,", "\"r\": 2, \"use_dora\": true,");
    place.checkpoint("lora", &crate::adapter::lora(1.0));
    place.write("lora/adapter_config.json", dora);
    let error = place.fails("extract lora --base base --rank 2 -o out");
    assert_eq!(
        error,
        "error: lora: is a DoRA adapter itself, and an adapter is taken out of whole models\nhelp: fold it into its base first: mwa \
         apply ADAPTER --base MODEL -o FOLDER\n"
    );
    for (how, wanted) in [
        ("--rank none", "--rank is `none`"),
        ("--rank 0", "--rank is `0`"),
        ("--rank 4 --error 0.1", "--rank 4 leaves over what it does, but --error says how much"),
        ("--rank auto --error 2", "--error is 2"),
    ] {
        let error = place.fails_with(2, &format!("extract tuned --base base {how} -o out"));
        assert!(error.contains(wanted), "{error}");
    }
}
