//! A file of any container: it is told what it is or not, and what is said to lie in it lies within it.

use mwa::Files as _;
use mwa::Readers;
use mwa::convert::{Conversion, ConvertOptions, Target};
use mwa::format::Format as _;
use mwa::format::gguf::Gguf;
use mwa::format::known::identify;

use super::files::{Memory, now};

/// What PEFT, MLX and a base model say of an adapter.
const CONFIGS: [&str; 2] = [
    r#"{"peft_type": "LORA", "r": 4, "lora_alpha": 6}"#,
    r#"{"fine_tune_type": "lora", "lora_parameters": {"rank": 4, "scale": 1.5}}"#,
];
const BASE: &str =
    r#"{"model_type": "llama", "num_attention_heads": 2, "num_key_value_heads": 1, "num_hidden_layers": 2}"#;

/// Whatever an adapter is converted to, all of it is made, each byte once, of bytes that are there.
fn convert(bytes: &[u8], name: &str, config: &str) {
    let mut memory = Memory::default();
    memory.write(&format!("adapter/{name}"), bytes);
    memory.write("adapter/adapter_config.json", config.as_bytes());
    memory.write("base/config.json", BASE.as_bytes());
    for target in Target::NAMES {
        let target: Target = target.parse().expect("it is one of them");
        let options = ConvertOptions {
            target,
            dtype: None,
            base: Some("base".into()),
            name: None,
            key: None,
            like: None,
            model: None,
            shard_size: None,
        };
        let path = if name.starts_with("adapter") { "adapter".to_owned() } else { format!("adapter/{name}") };
        let Ok(plan) = now(Conversion::new(&memory, &Readers::ALL, &path, &options)) else { continue };
        let outputs: Vec<_> = plan.outputs().map(|(_, len)| len).collect();
        for (file, len) in outputs.iter().enumerate() {
            // few bytes may say much of zeros
            if *len > 1 << 22 {
                continue;
            }
            let mut read = |input: usize, range: core::ops::Range<u64>| {
                let (path, header) = &plan.inputs[input];
                let mut found = vec![0; usize::try_from(range.end - range.start).expect("few bytes")];
                // what is not in order in the file is put in order
                let from = |_: Option<usize>, at: u64, into: &mut [u8]| {
                    let bytes = now(memory.read(path, at..at + into.len() as u64)).expect("it was opened");
                    assert_eq!(bytes.len(), into.len(), "{range:?} is in the file");
                    into.copy_from_slice(&bytes);
                    Ok::<(), ()>(())
                };
                header.read(range.start, &mut found, from).expect("reading memory does not fail");
                Ok(found)
            };
            let mut end = plan.head(file).len() as u64;
            for piece in plan.pieces(file) {
                let gap = if plan.has_tail(file) { 1 << 17 } else { 32 };
                assert!(piece.at >= end && piece.at - end < gap, "pieces follow each other");
                let Ok(made) = plan.make(file, &piece, &mut read) else { break };
                end = piece.at + made.len() as u64;
                assert!(end <= *len);
            }
        }
    }
}

/// Names that give nothing away, and some that do.
const NAMES: [&str; 6] =
    ["run/file", "run/a.gguf", "run/a.json", "run/a.csv", "run/__0_0.distcp", "run/a.npz"];

pub(crate) fn check(bytes: &[u8]) {
    convert(bytes, "adapter_model.safetensors", CONFIGS[0]);
    convert(bytes, "adapters.safetensors", CONFIGS[1]);
    convert(bytes, "loose.safetensors", CONFIGS[0]);
    for name in NAMES {
        let mut memory = Memory::default();
        memory.write(name, bytes);
        if let Ok(Some(known)) = now(identify(&memory, name)) {
            assert!(!known.what.is_empty() && !known.can.is_empty());
        }
        let size = bytes.len() as u64;
        if !bytes.starts_with(b"GGUF") {
            continue;
        }
        let Ok(catalog) = now(Gguf.open(&memory, name, size, None)) else { continue };
        for tensor in catalog.header.tensors() {
            assert!(tensor.range.start <= tensor.range.end && tensor.range.end <= size, "{tensor:?}");
            let elements: u64 = tensor.shape.iter().product();
            assert_eq!(tensor.len(), elements * (tensor.dtype.bitsize() as u64 / 8));
        }
    }
}
