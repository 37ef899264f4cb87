//! What stands in for the reader's own files, under the names that the pages use.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use serde_json::{Map, Value, json};

use crate::root;

/// A folder that looks like the repository and like the reader's: the sample under several names, and small models.
pub(crate) fn lay_out(place: &Path, page: &str, blocks: &[(String, String)]) {
    copy(&root().join("examples"), &place.join("examples"));
    let sample = place.join("examples/sample-run");
    for run in ["runs/my-lora", "runs/seed-0", "runs/seed-1", "run-a", "run-b"] {
        copy(&sample, &place.join(run));
    }
    score(&place.join("runs/my-lora"));
    for step in ["checkpoint-50", "checkpoint-100"] {
        let trained = root().join("host/tests/cli/data/trained");
        copy(&trained.join(step), &place.join("runs/with-optimizer").join(step));
    }
    copy(&place.join("examples/base"), &place.join("base-model"));
    for (step, loss) in [(10_u8, 3.0), (20, 1.0), (30, 2.0)] {
        let folder = place.join(format!("runs/full-finetune/checkpoint-{step}"));
        model(&folder, 0..32, f32::from(step));
        let log = json!({"global_step": step, "log_history": [{"step": step, "eval_loss": loss}]});
        write(&folder.join("trainer_state.json"), log.to_string());
    }
    model(&place.join("runs/full/checkpoint-900"), (0..8).chain(12..32), 0.5);
    for (task, value) in [("model", 1.0), ("task-a", 3.0), ("task-b", -1.0)] {
        model(&place.join(task), 0..32, value);
    }
    round(place, &sample);
    image_lora(&place.join("style.safetensors"));
    write(&place.join("scores.csv"), "checkpoint,f1\n".to_owned() + &scores());
    // the README gives weights for the five checkpoints that are taken by themselves, the page on weights for three
    let weights = if page == "README.md" { json!([0.1, 0.1, 0.2, 0.2, 0.4]) } else { json!([0.2, 0.2, 0.6]) };
    write(&place.join("weights.json"), json!([{"modules": "self_attn", "weights": weights}]).to_string());
    write(
        &place.join("score.py"),
        "import os, sys\nprint(sum(os.path.getsize(sys.argv[1] + '/' + name) for name in os.listdir(sys.argv[1])))\n",
    );
    let python = place.join("bin/python");
    write(&python, "#!/bin/sh\nexec python3 \"$@\"\n");
    fs::set_permissions(python, fs::Permissions::from_mode(0o755)).unwrap();
    // a program of the page itself begins with its name
    for (_, block) in blocks.iter().filter(|(info, _)| info == "python") {
        if let Some(name) =
            block.lines().next().and_then(|line| line.strip_prefix("# ")).filter(|name| name.ends_with(".py"))
        {
            write(&place.join(name), block);
        }
    }
    if page == "docs/recover.md" {
        model(&place.join("run/checkpoint-900"), (0..8).chain(12..32), 0.5);
        model(&place.join("run/checkpoint-850"), 0..32, 0.25);
        model(&place.join("one"), 0..30, 0.5);
        fs::rename(place.join("one/model.safetensors"), place.join("model.safetensors")).unwrap();
    }
}

/// Let a run have logged an accuracy wherever it logged a loss.
fn score(run: &Path) {
    for entry in fs::read_dir(run).unwrap() {
        let log = entry.unwrap().path().join("trainer_state.json");
        let mut state: Value = serde_json::from_slice(&fs::read(&log).unwrap()).unwrap();
        for entry in state["log_history"].as_array_mut().unwrap() {
            if let Some(loss) = entry["eval_loss"].as_f64() {
                entry["eval_accuracy"] = json!(1.0 / (1.0 + loss));
            }
        }
        write(&log, state.to_string());
    }
}

/// What clients of a federated round returned, and what they were sent.
fn round(place: &Path, sample: &Path) {
    for (client, step) in [("ada", 800), ("bob", 850), ("eve", 900)] {
        for round in ["round-7", "round-8", "round-9"] {
            copy(&sample.join(format!("checkpoint-{step}")), &place.join(round).join(client));
        }
    }
    let row = |client: &str, samples: u64, staleness: u64| json!({"client": client, "file": client, "samples": samples, "staleness": staleness});
    let rows = json!({"clients": [row("ada", 1200, 0), row("bob", 300, 3), row("eve", 4100, 1)]});
    write(&place.join("round-8/manifest.json"), rows.to_string());
    for (name, step) in [("a/update", 800), ("b/update", 850), ("model-8", 750)] {
        copy(&sample.join(format!("checkpoint-{step}")), &place.join(name));
    }
}

fn scores() -> String {
    (550..=1000).step_by(50).map(|step| format!("checkpoint-{step},0.{step:04}\n")).collect()
}

/// A model of tiny layers.
fn model(folder: &Path, layers: impl Iterator<Item = usize>, value: f32) {
    let layers = layers
        .flat_map(|i| ["q_proj", "o_proj"].map(|part| format!("model.layers.{i}.self_attn.{part}.weight")));
    let names: Vec<_> =
        layers.chain(["model.embed_tokens.weight".into(), "model.norm.weight".into()]).collect();
    let tensors: Vec<_> =
        names.iter().map(|name| (name.as_str(), [2_usize, 2], [value, 1.0, 2.0, 3.0])).collect();
    write(&folder.join("model.safetensors"), safetensors(&tensors));
    let config = json!({"model_type": "llama", "architectures": ["LlamaForCausalLM"], "num_hidden_layers": 32, "hidden_size": 2, "torch_dtype": "float32"});
    write(&folder.join("config.json"), config.to_string());
}

/// An adapter of an image model, as diffusers names it.
fn image_lora(path: &Path) {
    let module = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q";
    let [a, b] = ["A", "B"].map(|factor| format!("{module}.lora_{factor}.weight"));
    write(path, safetensors(&[(&a, [2, 2], [1.0, 0.0, 0.0, 1.0]), (&b, [2, 2], [0.5, 0.0, 0.0, 0.5])]));
}

fn safetensors(tensors: &[(&str, [usize; 2], [f32; 4])]) -> Vec<u8> {
    let (mut head, mut data) = (Map::new(), Vec::new());
    for (name, shape, values) in tensors {
        let start = data.len();
        data.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        head.insert(
            (*name).into(),
            json!({"dtype": "F32", "shape": shape, "data_offsets": [start, data.len()]}),
        );
    }
    let mut head = Value::Object(head).to_string().into_bytes();
    head.resize(head.len().next_multiple_of(8), b' ');
    let mut file = (head.len() as u64).to_le_bytes().to_vec();
    file.extend(head);
    file.extend(data);
    file
}

fn write(path: &Path, bytes: impl AsRef<[u8]>) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

/// A folder without what is built in it.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let (path, to) = (entry.path(), to.join(entry.file_name()));
        match entry.file_name().to_str() {
            Some("node_modules" | "dist") => {}
            _ if path.is_dir() => copy(&path, &to),
            _ => drop(fs::copy(path, to).unwrap()),
        }
    }
}
