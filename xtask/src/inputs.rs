//! Checkpoints for the benchmarks: the shapes of real models, filled with noise, made once in the target folder.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use crate::run::Result;

/// Files of each full model.
pub(crate) const SHARDS: usize = 4;

type Tensor = (String, Vec<usize>);

/// A Llama by the numbers that give its linear layers their shapes.
pub(crate) struct Llama {
    pub(crate) layers: usize,
    pub(crate) hidden: usize,
    pub(crate) inner: usize,
}

/// Seven billion parameters.
pub(crate) const LLAMA_7B: Llama = Llama { layers: 32, hidden: 4096, inner: 11008 };
/// Small enough for PEFT's dense decompositions: 28 modules.
pub(crate) const LLAMA_SMALL: Llama = Llama { layers: 4, hidden: 1024, inner: 2752 };

/// LoRA checkpoints of a Llama, r 16, bf16; their adapter files.
pub(crate) fn adapters(folder: &Path, llama: &Llama, checkpoints: u64) -> Result<Vec<PathBuf>> {
    const R: usize = 16;
    let &Llama { layers, hidden, inner } = llama;
    let modules = [
        ("self_attn.q_proj", hidden, hidden),
        ("self_attn.k_proj", hidden, hidden),
        ("self_attn.v_proj", hidden, hidden),
        ("self_attn.o_proj", hidden, hidden),
        ("mlp.gate_proj", inner, hidden),
        ("mlp.up_proj", inner, hidden),
        ("mlp.down_proj", hidden, inner),
    ];
    let mut tensors = Vec::new();
    for layer in 0..layers {
        for (module, rows, columns) in modules {
            let name = format!("base_model.model.model.layers.{layer}.{module}");
            tensors.push((format!("{name}.lora_A.weight"), vec![R, columns]));
            tensors.push((format!("{name}.lora_B.weight"), vec![rows, R]));
        }
    }
    let targets = modules.map(|(module, ..)| module.split_once('.').map(|(_, last)| last));
    let config = json!({
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": "synthetic", "r": R,
        "lora_alpha": 2 * R, "target_modules": targets, "bias": "none",
    });
    once(folder, |folder| {
        for step in (1..=checkpoints).map(|i| i * 100) {
            let checkpoint = checkpoint(folder, step)?;
            write_json(&checkpoint.join("adapter_config.json"), &config)?;
            write_safetensors(&checkpoint.join("adapter_model.safetensors"), &tensors, step)?;
        }
        Ok(())
    })?;
    Ok((1..=checkpoints)
        .map(|i| folder.join(format!("checkpoint-{}/adapter_model.safetensors", i * 100)))
        .collect())
}

/// The layers of the full models.
pub(crate) const LLAMA_FULL: Llama = Llama { layers: 16, hidden: 1536, inner: 4096 };

/// Llamas of 0.55 billion parameters in bf16, as `save_pretrained` shards them, one per step; their folders.
pub(crate) fn full(folder: &Path, steps: &[u64]) -> Result<Vec<PathBuf>> {
    let (vocabulary, Llama { layers, hidden, inner }) = (32000, LLAMA_FULL);
    let mut shards: Vec<Vec<Tensor>> = vec![Vec::new(); SHARDS];
    shards[0].push(("model.embed_tokens.weight".into(), vec![vocabulary, hidden]));
    for layer in 0..layers {
        let shard = &mut shards[layer * SHARDS / layers];
        let mut add = |part: &str, shape: &[usize]| {
            shard.push((format!("model.layers.{layer}.{part}.weight"), shape.to_vec()));
        };
        for part in ["q_proj", "k_proj", "v_proj", "o_proj"] {
            add(&format!("self_attn.{part}"), &[hidden, hidden]);
        }
        add("mlp.gate_proj", &[inner, hidden]);
        add("mlp.up_proj", &[inner, hidden]);
        add("mlp.down_proj", &[hidden, inner]);
        add("input_layernorm", &[hidden]);
        add("post_attention_layernorm", &[hidden]);
    }
    shards[SHARDS - 1].push(("model.norm.weight".into(), vec![hidden]));
    shards[SHARDS - 1].push(("lm_head.weight".into(), vec![vocabulary, hidden]));
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": vocabulary, "hidden_size": hidden,
        "intermediate_size": inner, "num_hidden_layers": layers, "num_attention_heads": 12,
        "num_key_value_heads": 12, "max_position_embeddings": 512, "torch_dtype": "bfloat16",
    });
    once(folder, |folder| {
        for &step in steps {
            let checkpoint = checkpoint(folder, step)?;
            write_json(&checkpoint.join("config.json"), &config)?;
            let mut places = Map::new();
            let mut total = 0;
            for (tensors, path) in shards.iter().zip(self::shards(&checkpoint)) {
                write_safetensors(&path, tensors, step)?;
                let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                places.extend(tensors.iter().map(|(name, _)| (name.clone(), Value::from(file.clone()))));
                total += tensors.iter().map(|(_, shape)| bytes(shape)).sum::<usize>();
            }
            let index = json!({"metadata": {"total_size": total}, "weight_map": places});
            write_json(&checkpoint.join("model.safetensors.index.json"), &index)?;
        }
        Ok(())
    })?;
    Ok(steps.iter().map(|step| folder.join(format!("checkpoint-{step}"))).collect())
}

/// Eight checkpoints of one file of 512 MB each, bf16; the files.
pub(crate) fn large(folder: &Path) -> Result<Vec<PathBuf>> {
    let tensors: Vec<_> = (0..64).map(|layer| (format!("layers.{layer}.weight"), vec![976, 4096])).collect();
    let steps = || (1..=8).map(|i| i * 100);
    once(folder, |folder| {
        for step in steps() {
            write_safetensors(&checkpoint(folder, step)?.join("model.safetensors"), &tensors, step)?;
        }
        Ok(())
    })?;
    Ok(steps().map(|step| folder.join(format!("checkpoint-{step}/model.safetensors"))).collect())
}

/// Two checkpoints of one file, of so many layers of 8 MB in bf16, and the second moments of each in F32, in a file of their own: the
/// files of both.
pub(crate) fn curved(folder: &Path, layers: usize) -> Result<(Vec<PathBuf>, Vec<PathBuf>)> {
    let tensors: Vec<_> =
        (0..layers).map(|layer| (format!("layers.{layer}.weight"), vec![976, 4096])).collect();
    let moments = |folder: &Path, step| folder.join(format!("{step}.safetensors"));
    once(folder, |folder| {
        for step in [100, 200] {
            let model = checkpoint(&folder.join("run"), step)?.join("model.safetensors");
            write_safetensors(&model, &tensors, step)?;
            let square = |value: f32| (1e-6 * value * value).to_le_bytes();
            write_noise(&moments(folder, step), &tensors, step, "F32", square)?;
        }
        Ok(())
    })?;
    let model = |step| folder.join(format!("run/checkpoint-{step}/model.safetensors"));
    Ok(([100, 200].map(model).into(), [100, 200].map(|step| moments(folder, step)).into()))
}

/// The files of a sharded model.
pub(crate) fn shards(model: &Path) -> Vec<PathBuf> {
    (1..=SHARDS).map(|i| model.join(format!("model-{i:05}-of-{SHARDS:05}.safetensors"))).collect()
}

/// Make the folder unless it is there; it appears only when complete.
pub(crate) fn once(folder: &Path, make: impl FnOnce(&Path) -> Result) -> Result {
    if folder.exists() {
        return Ok(());
    }
    println!("making {}", folder.display());
    let unfinished = folder.with_extension("unfinished");
    let _ = fs::remove_dir_all(&unfinished);
    make(&unfinished)?;
    fs::rename(unfinished, folder).map_err(|error| error.to_string())
}

/// A checkpoint folder with the log of a falling loss.
fn checkpoint(folder: &Path, step: u64) -> Result<PathBuf> {
    let checkpoint = folder.join(format!("checkpoint-{step}"));
    fs::create_dir_all(&checkpoint).map_err(|error| error.to_string())?;
    let log: Vec<_> = (1..=step / 10)
        .map(|i| json!({"step": i * 10, "loss": 1.0 + 10.0 / (10 + i) as f64, "epoch": i as f64 / 100.0}))
        .collect();
    write_json(&checkpoint.join("trainer_state.json"), &json!({"global_step": step, "log_history": log}))?;
    Ok(checkpoint)
}

fn write_json(path: &Path, value: &Value) -> Result {
    fs::write(path, format!("{value:#}\n")).map_err(|error| format!("{}: {error}", path.display()))
}

/// bf16 tensors of noise.
fn write_safetensors(path: &Path, tensors: &[Tensor], step: u64) -> Result {
    write_noise(path, tensors, step, "BF16", |value| {
        let [_, _, low, high] = value.to_bits().to_le_bytes();
        [low, high]
    })
}

/// Tensors of noise, by name, as the format's own writer sorts them. All steps share most of it, as checkpoints of one run do.
fn write_noise<const SIZE: usize>(
    path: &Path,
    tensors: &[Tensor],
    step: u64,
    dtype: &str,
    word: impl Fn(f32) -> [u8; SIZE],
) -> Result {
    let mut head = Map::new();
    head.insert("__metadata__".into(), json!({"format": "pt"}));
    let mut end = 0;
    let tensors: BTreeMap<_, _> = tensors.iter().map(|(name, shape)| (name, shape)).collect();
    for (name, shape) in tensors {
        let start = end;
        end += shape.iter().product::<usize>() * SIZE;
        head.insert(name.clone(), json!({"dtype": dtype, "shape": shape, "data_offsets": [start, end]}));
    }
    let mut head = Value::from(head).to_string();
    head.push_str(&" ".repeat(head.len().next_multiple_of(8) - head.len()));
    let write = || -> std::io::Result<()> {
        let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
        file.write_all(&(head.len() as u64).to_le_bytes())?;
        file.write_all(head.as_bytes())?;
        let (mut shared, mut own) = (Noise(1), Noise(step));
        for _ in 0..end / SIZE {
            file.write_all(&word(0.02 * (shared.next() + 0.2 * own.next())))?;
        }
        file.flush()
    };
    write().map_err(|error| format!("{}: {error}", path.display()))
}

fn bytes(shape: &[usize]) -> usize {
    shape.iter().product::<usize>() * 2
}

/// Uniform numbers in −1 … 1, from a 64-bit linear congruential generator (Knuth's MMIX constants).
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as f32 / (1u32 << 23) as f32 - 1.0
    }
}
