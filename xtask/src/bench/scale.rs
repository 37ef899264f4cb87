//! What a merge of terabytes costs before its first byte: ten checkpoints of 2 TB whose data is a hole, planned by one of so many shards.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;

use serde_json::{Map, json};

use super::{Contender, Sample, machine, mwa, sampled};
use crate::inputs;
use crate::run::{Result, build, target};

/// Checkpoints, files of each, and tensors of each file: 720,000 in all, of 29 MB each, as the experts of a model of a trillion parameters are.
const CHECKPOINTS: usize = 10;
const FILES: usize = 200;
const TENSORS: usize = 360;
const SHAPE: [u64; 2] = [7080, 2048];
/// A shard whose data takes no time, so that what is measured is what comes before: everything is opened, compared and planned.
const SHARD: &str = "50000/100000";
/// What planning may cost: seconds of one core, and bytes of memory.
const LIMITS: (f64, u64) = (10.0, 400_000_000);

/// `cargo xtask bench scale`
pub(super) fn scale(runs: usize) -> Result {
    build()?;
    let folder = target().join("bench/scale");
    inputs::once(&folder, |folder| make(folder).map_err(|error| format!("{}: {error}", folder.display())))?;
    let out = target().join("bench/out");
    let line = |name: &'static str, arguments: &[&str]| {
        let mut command = mwa(name);
        command.arg(&folder).args(arguments);
        Contender { name, commands: vec![command] }
    };
    let merged = out.join("merged");
    let merged = merged.to_str().ok_or("the target folder's name is not text")?;
    let mut contenders = [
        line("mwa weights --select all", &[]),
        line("mwa merge --select all", &["--output", merged, "--shard", SHARD]),
    ];
    let samples = sampled(&mut contenders, runs, &out)?;
    println!("\n10 × 2.1 TB in 200 files, 720,000 tensors; {}; {runs} runs\n", machine());
    println!("| what | median s | CPU s | peak RSS MB |\n|---|---|---|---|");
    for (contender, samples) in contenders.iter().zip(&samples) {
        let Sample { seconds, cpu, peak } = Sample::median(samples);
        println!("| {} | {seconds:.2} | {cpu:.2} | {} |", contender.name, peak / 1_000_000);
    }
    // CPU seconds: others may have the cores meanwhile
    let Sample { cpu, peak, .. } = Sample::median(&samples[1]);
    if cpu > LIMITS.0 || peak > LIMITS.1 {
        return Err(format!("planning takes more than {} s and {} MB", LIMITS.0, LIMITS.1 / 1_000_000));
    }
    Ok(())
}

/// 20 TB: real heads, which take 160 MB, and a hole behind each.
fn make(folder: &Path) -> std::io::Result<()> {
    let bytes = SHAPE[0] * SHAPE[1] * 2;
    for checkpoint in 1..=CHECKPOINTS {
        let place = folder.join(format!("checkpoint-{}", checkpoint * 100));
        fs::create_dir_all(&place)?;
        let mut map = Map::new();
        for file in 0..FILES {
            let name = format!("model-{:05}-of-{FILES:05}.safetensors", file + 1);
            let mut head = Map::new();
            for tensor in 0..TENSORS {
                let part = ["gate", "up", "down"][tensor % 3];
                let expert = file / 61 * TENSORS + tensor;
                let key = format!("model.layers.{}.mlp.experts.{expert}.{part}_proj.weight", file % 61);
                let at = tensor as u64 * bytes;
                map.insert(key.clone(), json!(name));
                head.insert(key, json!({"dtype": "BF16", "shape": SHAPE, "data_offsets": [at, at + bytes]}));
            }
            let text = serde_json::to_vec(&head)?;
            let mut made = File::create(place.join(&name))?;
            made.write_all(&(text.len() as u64).to_le_bytes())?;
            made.write_all(&text)?;
            made.set_len(8 + text.len() as u64 + TENSORS as u64 * bytes)?;
        }
        let index = json!({"metadata": {"total_size": (FILES * TENSORS) as u64 * bytes}, "weight_map": map});
        fs::write(place.join("model.safetensors.index.json"), serde_json::to_vec(&index)?)?;
        fs::write(place.join("config.json"), r#"{"model_type": "kimi_k2"}"#)?;
        let log: Vec<_> =
            (1..=checkpoint).map(|i| json!({"step": i * 100, "eval_loss": 1.0 / i as f64})).collect();
        fs::write(place.join("trainer_state.json"), serde_json::to_vec(&json!({"log_history": log}))?)?;
    }
    Ok(())
}
