//! Adapters in other containers: bytes of what the programs themselves wrote, products of what they read, and refusals.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use snapbox::{assert_data_eq, str};

use crate::adapter;
use crate::place::Place;

/// What the base model of the small Llama says of itself.
const BASE: &str =
    r#"{"model_type": "llama", "num_attention_heads": 2, "num_key_value_heads": 1, "num_hidden_layers": 1}"#;

/// A place with the files of `data/convert`.
fn place() -> Place {
    let place = Place::new();
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cli/data");
    let mut folders = vec![PathBuf::from("convert")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(data.join(&folder)).unwrap() {
            let name = folder.join(entry.unwrap().file_name());
            if data.join(&name).is_dir() {
                folders.push(name);
            } else {
                let inner = name.strip_prefix("convert").unwrap();
                place.write(inner.to_str().unwrap(), fs::read(data.join(&name)).unwrap());
            }
        }
    }
    place.write("plain.gguf", include_bytes!("data/plain.gguf"));
    place.write("base/config.json", BASE);
    place
}

/// Shape, dtype and bytes of tensors, by name.
type Tensors = BTreeMap<String, (Vec<usize>, String, Vec<u8>)>;

/// Name to shape and bytes, and the metadata; read without the code under test.
fn tensors(bytes: &[u8]) -> (Tensors, Value) {
    let len = usize::try_from(u64::from_le_bytes(*bytes.first_chunk().unwrap())).unwrap();
    let mut header: BTreeMap<String, Value> = serde_json::from_slice(&bytes[8..8 + len]).unwrap();
    let metadata = header.remove("__metadata__").unwrap_or_default();
    let read = |(name, entry): (String, Value)| {
        let number = |value: &Value| usize::try_from(value.as_u64().unwrap()).unwrap();
        let [from, to] = [0, 1].map(|at| 8 + len + number(&entry["data_offsets"][at]));
        let shape = entry["shape"].as_array().unwrap().iter().map(number).collect();
        (name, (shape, entry["dtype"].as_str().unwrap().to_owned(), bytes[from..to].to_vec()))
    };
    (header.into_iter().map(read).collect(), metadata)
}

impl Place {
    /// Convert; gives the tensors of a file that was written.
    fn converts(&self, arguments: &str, file: &str) -> Tensors {
        let ran = self.mwa(&format!("convert {arguments}"));
        assert_eq!(ran.code, Some(0), "{arguments}: {}", ran.err);
        tensors(&self.read(file)).0
    }

    fn tensors(&self, file: &str) -> Tensors {
        tensors(&self.read(file)).0
    }
}

fn numbers(tensors: &Tensors, name: &str) -> (Vec<usize>, Vec<f64>) {
    let (shape, dtype, bytes) = &tensors[name];
    let numbers = match dtype.as_str() {
        "F32" => bytes
            .chunks_exact(4)
            .map(|it| f64::from(f32::from_le_bytes(*it.first_chunk().unwrap())))
            .collect(),
        "BF16" => {
            let wide =
                |it: &[u8]| f64::from(f32::from_bits(u32::from(u16::from_le_bytes([it[0], it[1]])) << 16));
            bytes.chunks_exact(2).map(wide).collect()
        }
        other => panic!("{other}"),
    };
    (shape.clone(), numbers)
}

/// The products B·A of a file by module, times alpha/rank where the file has alphas.
fn products(all: &Tensors) -> BTreeMap<String, Vec<f64>> {
    const ENDS: [(&str, &str); 4] = [
        (".lora_A.weight", ".lora_B.weight"),
        (".lora_down.weight", ".lora_up.weight"),
        (".lora_linear_layer.down.weight", ".lora_linear_layer.up.weight"),
        ("_lora.down.weight", "_lora.up.weight"),
    ];
    let mut found = BTreeMap::new();
    for name in all.keys() {
        let Some((module, up)) = ENDS.iter().find_map(|(a, b)| Some((name.strip_suffix(a)?, b))) else {
            continue;
        };
        let ((a_shape, a), (b_shape, b)) = (numbers(all, name), numbers(all, &format!("{module}{up}")));
        let (rank, cols) = (a_shape[0], a.len() / a_shape[0]);
        let scale = match all.get(&format!("{module}.alpha")) {
            Some(_) => numbers(all, &format!("{module}.alpha")).1[0] / rank as f64,
            None => 1.0,
        };
        let mut product = vec![0.0; b_shape[0] * cols];
        for row in 0..b_shape[0] {
            for inner in 0..rank {
                for col in 0..cols {
                    product[row * cols + col] += scale * b[row * rank + inner] * a[inner * cols + col];
                }
            }
        }
        found.insert(module.to_owned(), product);
    }
    found
}

/// The products of modules, as PEFT's fields say how strong they are.
fn scaled(
    mut products: BTreeMap<String, Vec<f64>>,
    all: &Tensors,
    fields: &Value,
) -> BTreeMap<String, Vec<f64>> {
    for (module, product) in &mut products {
        let (component, path) = module.split_once('.').unwrap();
        let field = |name: &str| &fields[&format!("{component}.{name}")];
        let alpha = field("alpha_pattern").get(path).unwrap_or(field("lora_alpha")).as_f64().unwrap();
        let down = all.iter().find(|(name, _)| {
            name.strip_prefix(module.as_str())
                .is_some_and(|end| end.contains("lora_A") || end.contains(".down."))
        });
        let rank = down.unwrap().1.0[0] as f64;
        product.iter_mut().for_each(|number| *number *= alpha / rank);
    }
    products
}

fn assert_near(ours: &BTreeMap<String, Vec<f64>>, theirs: &BTreeMap<String, Vec<f64>>, most: f64) {
    assert_eq!(ours.keys().collect::<Vec<_>>(), theirs.keys().collect::<Vec<_>>());
    for (module, product) in ours {
        let off = product.iter().zip(&theirs[module]).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(product.len() == theirs[module].len() && off <= most, "{module}: {off}");
    }
}

#[test]
fn what_the_programs_wrote_comes_out_of_each_other() {
    let place = place();
    for (arguments, file, theirs) in [
        (
            "diffusers -o a --format peft",
            "a/unet/adapter_model.safetensors",
            "peft_unet/adapter_model.safetensors",
        ),
        (
            "kohya_sd.safetensors -o b --format peft",
            "b/unet/adapter_model.safetensors",
            "peft_unet/adapter_model.safetensors",
        ),
        (
            "a -o c --format diffusers",
            "c/pytorch_lora_weights.safetensors",
            "diffusers/pytorch_lora_weights.safetensors",
        ),
        ("loha.safetensors -o d --format peft", "d/adapter_model.safetensors", "loha_peft.safetensors"),
        ("d -o e --format kohya --model sd", "e/lora.safetensors", "none"),
        ("lokr.safetensors -o f --format peft", "f/adapter_model.safetensors", "lokr_peft.safetensors"),
        (
            "mlx_plain -o g --format peft",
            "g/adapter_model.safetensors",
            "peft_plain/adapter_model.safetensors",
        ),
        ("mlx_dora -o h --format peft", "h/adapter_model.safetensors", "peft_dora/adapter_model.safetensors"),
        (
            "peft_plain -o i --format mlx --base base",
            "i/adapters.safetensors",
            "mlx_plain/adapters.safetensors",
        ),
        ("peft_dora -o j --format mlx", "j/adapters.safetensors", "mlx_dora/adapters.safetensors"),
        (
            "plain.gguf -o k --format peft --base base/config.json",
            "k/adapter_model.safetensors",
            "peft_plain/adapter_model.safetensors",
        ),
        (
            "plain.gguf -o q --format mlx --base base",
            "q/adapters.safetensors",
            "mlx_plain/adapters.safetensors",
        ),
        ("peft_embed -o l --format mlx", "l/adapters.safetensors", "none"),
        ("l -o m --format peft", "m/adapter_model.safetensors", "less the base's own"),
        (
            "peft_embed -o n.gguf --format gguf --base base",
            "m/adapter_model.safetensors",
            "less the base's own",
        ),
        ("n.gguf -o o --format peft --base base", "o/adapter_model.safetensors", "less the base's own"),
    ] {
        if arguments.starts_with("d ") {
            // a layer of its own is of no image model
            assert!(place.fails(&format!("convert {arguments}")).contains("is of no image model"));
            continue;
        }
        let ours = place.converts(arguments, file);
        match theirs {
            "none" => {}
            "less the base's own" => {
                let mut theirs = place.tensors("peft_embed/adapter_model.safetensors");
                theirs.retain(|name, _| !name.contains("base_layer"));
                assert!(ours == theirs, "{arguments}");
            }
            theirs => assert!(ours == place.tensors(theirs), "{arguments}"),
        }
    }
}

#[test]
fn a_gguf_file_is_that_of_gguf_py() {
    let place = place();
    assert_eq!(place.mwa("convert peft_plain -o ours.gguf --format gguf --base base").code, Some(0));
    assert!(place.read("ours.gguf") == place.read("plain.gguf"));
}

#[test]
fn kohyas_files_mean_the_same_to_all_readers() {
    let place = place();
    let theirs = products(&place.tensors("kohya_sd.safetensors"));
    for (from, to) in [("diffusers", "a.safetensors"), ("kohya_sd.safetensors", "b.safetensors")] {
        let ours = place.converts(&format!("{from} -o {to} --format kohya"), to);
        assert!(!ours.keys().any(|name| name.ends_with(".alpha")), "{ours:?}");
        assert_near(&products(&ours), &theirs, 1e-7);
    }
    assert_eq!(place.read("a.safetensors"), place.read("b.safetensors"));
}

#[test]
fn joined_modules_are_parted_and_joined_again() {
    let place = place();
    for (name, model) in [("kohya_flux", "flux"), ("kohya_qwen_image", "qwen-image")] {
        let ours = place.converts(
            &format!("{name}.safetensors -o {name} --format diffusers"),
            &format!("{name}/pytorch_lora_weights.safetensors"),
        );
        let (_, metadata) = tensors(&place.read(&format!("{name}/pytorch_lora_weights.safetensors")));
        let fields = serde_json::from_str(metadata["lora_adapter_metadata"].as_str().unwrap()).unwrap();
        let theirs = products(&place.tensors(&format!("{name}_as_diffusers.safetensors")));
        // diffusers' converter writes older names for text encoders
        let renamed = |name: String| {
            name.replace("text_encoder.text_model.", "text_encoder.")
                .replace("self_attn.to_out", "self_attn.out_proj")
        };
        let theirs = theirs.into_iter().map(|(name, product)| (renamed(name), product)).collect();
        assert_near(&scaled(products(&ours), &ours, &fields), &theirs, 1e-7);
        let back = place.converts(
            &format!("{name} -o back-{model} --format kohya --dtype f32"),
            &format!("back-{model}/lora.safetensors"),
        );
        assert_near(&products(&back), &products(&place.tensors(&format!("{name}.safetensors"))), 1e-7);
    }
}

#[test]
fn the_names_of_every_model_lead_to_diffusers_and_back() {
    /// A model, a module of it by diffusers' name, and modules by kohya's with their widths.
    type Model = (&'static str, &'static str, &'static [(&'static str, usize)]);
    const MODELS: [Model; 5] = [
        (
            "sdxl",
            "unet.mid_block.attentions.0.transformer_blocks.9.ff.net.0.proj",
            &[
                ("lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q", 8),
                ("lora_unet_middle_block_1_transformer_blocks_9_ff_net_0_proj", 8),
                ("lora_unet_middle_block_0_skip_connection", 8),
                ("lora_unet_output_blocks_5_2_conv", 8),
                ("lora_unet_input_blocks_3_0_op", 8),
                ("lora_unet_label_emb_0_0", 8),
                ("lora_te1_text_model_encoder_layers_0_self_attn_out_proj", 8),
                ("lora_te2_text_model_encoder_layers_31_mlp_fc2", 8),
                ("lora_te2_text_projection", 8),
            ],
        ),
        (
            "flux",
            "transformer.norm_out.linear",
            &[
                ("lora_unet_double_blocks_18_txt_attn_qkv", 24),
                ("lora_unet_single_blocks_0_linear1", 56),
                ("lora_unet_final_layer_adaLN_modulation_1", 16),
                ("lora_unet_guidance_in_out_layer", 8),
                ("lora_te3_encoder_block_0_layer_1_DenseReluDense_wi_0", 8),
            ],
        ),
        (
            "sd3",
            "transformer.transformer_blocks.23.norm1_context.linear",
            &[
                ("lora_unet_joint_blocks_0_x_block_attn_qkv", 24),
                ("lora_unet_joint_blocks_1_x_block_attn2_qkv", 24),
                ("lora_unet_joint_blocks_0_context_block_adaLN_modulation_1", 48),
                ("lora_unet_joint_blocks_23_context_block_adaLN_modulation_1", 16),
                ("lora_unet_joint_blocks_0_context_block_mlp_fc1", 8),
            ],
        ),
        (
            "wan",
            "transformer.blocks.0.attn2.add_k_proj",
            &[
                ("lora_unet_blocks_0_self_attn_q", 8),
                ("lora_unet_blocks_0_cross_attn_k_img", 8),
                ("lora_unet_blocks_39_ffn_0", 8),
            ],
        ),
        (
            "qwen-image",
            "transformer.transformer_blocks.3.txt_mod.1",
            &[
                ("lora_unet_transformer_blocks_3_txt_mod_1", 8),
                ("lora_unet_transformer_blocks_3_attn_to_add_out", 8),
            ],
        ),
    ];
    let place = Place::new();
    for (model, module, names) in MODELS {
        let mut all = Vec::new();
        for (number, (name, rows)) in names.iter().enumerate() {
            let values =
                |count: usize| (0..count).map(|at| ((at * 7 + number) % 11) as f32 - 5.0).collect::<Vec<_>>();
            all.push(adapter::f32s(&format!("{name}.lora_down.weight"), &[2, 8], &values(16)));
            all.push(adapter::f32s(&format!("{name}.lora_up.weight"), &[*rows, 2], &values(rows * 2)));
            all.push(adapter::f32s(&format!("{name}.alpha"), &[], &[4.0]));
        }
        place.write(&format!("{model}.safetensors"), adapter::safetensors(&all));
        let theirs = place.converts(
            &format!("{model}.safetensors -o {model} --format diffusers"),
            &format!("{model}/pytorch_lora_weights.safetensors"),
        );
        assert!(theirs.contains_key(&format!("{module}.lora_A.weight")), "{:?}", theirs.keys());
        let back = format!("{model}-back.safetensors");
        let back = place.converts(&format!("{model} -o {back} --format kohya"), &back);
        assert_near(&products(&back), &products(&place.tensors(&format!("{model}.safetensors"))), 0.0);
    }
}

#[test]
fn configs_say_how_strong_modules_are() {
    let place = place();
    assert_eq!(place.mwa("convert kohya_sd.safetensors -o a --format peft").code, Some(0));
    let config: Value = serde_json::from_slice(&place.read("a/unet/adapter_config.json")).unwrap();
    assert_eq!((config["r"].as_u64(), config["lora_alpha"].as_u64()), (Some(4), Some(6)));
    let of = |field: &str, end: &str| {
        let pattern = config[field].as_object().unwrap();
        assert!(!pattern.is_empty() && pattern.keys().all(|key| key.ends_with(end)), "{config}");
        pattern.values().next().unwrap().as_u64()
    };
    assert_eq!((of("rank_pattern", ".to_k"), of("alpha_pattern", ".to_v")), (Some(2), Some(1)));
    assert_eq!(place.mwa("convert peft_plain -o b --format mlx --base base").code, Some(0));
    assert_data_eq!(
        String::from_utf8(place.read("b/adapter_config.json")).unwrap(),
        str![[r#"
{
  "fine_tune_type": "lora",
  "lora_parameters": {
    "dropout": 0.0,
    "keys": [
      "mlp.down_proj",
      "self_attn.q_proj"
    ],
    "rank": 4,
    "scale": 1.5
  },
  "num_layers": 1
}
"#]]
    );
}

#[test]
fn a_config_comes_along_with_the_adapter_or_is_named() {
    let place = Place::with_run();
    let config = place.read("run/checkpoint-10/adapter_config.json");
    for (command, weights) in [
        ("convert run/checkpoint-10 -o a", "a/adapter_model.safetensors"),
        ("convert run/checkpoint-10 --format pt -o b", "b/adapter_model.bin"),
        ("merge run --format pt -o c", "c/adapter_model.bin"),
    ] {
        let ran = place.mwa(command);
        assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""), "{command}");
        assert_eq!(place.read(&format!("{}/adapter_config.json", &weights[..1])), config, "{command}");
        // it is an adapter to whoever loads it
        assert_eq!(place.mwa(&format!("inspect {}", &weights[..1])).code, Some(0), "{command}");
        assert!(place.path(weights).is_file(), "{command}");
    }
    assert_eq!(place.mwa("verify c").code, Some(0));
    for out in ["d.safetensors", "d.pt --format pt"] {
        assert_data_eq!(
            place.mwa(&format!("convert run/checkpoint-10 -o {out}")).err,
            str![[r#"
note: adapter_config.json, which PEFT wants beside the weights, is left out: into a folder it is copied along

"#]]
        );
    }
    // what is no adapter has none
    assert_eq!(place.mwa("convert d.safetensors -o e").code, Some(0));
    assert!(place.path("e/model.safetensors").is_file() && !place.path("e/adapter_config.json").exists());
}

#[test]
fn merges_are_written_in_other_containers_and_verified() {
    let place = place();
    for step in [1, 2] {
        let name = format!("run/{step:07}_adapters.safetensors");
        place.write(&name, place.read("mlx_plain/adapters.safetensors"));
        let name = format!("epochs/style-{step:06}.safetensors");
        place.write(&name, place.read("kohya_sd.safetensors"));
    }
    place.write("run/adapter_config.json", place.read("mlx_plain/adapter_config.json"));
    assert_data_eq!(
        place.mwa("merge run -o keep --select all").err,
        str![[r#"
note: no log is there, so the step is the metric: later counts as better
note: run/0000001_adapters.safetensors and run/0000002_adapters.safetensors hold the same weights, byte for byte

"#]]
    );
    assert!(place.tensors("keep/adapters.safetensors") == place.tensors("mlx_plain/adapters.safetensors"));
    assert_eq!(place.read("keep/adapter_config.json"), place.read("mlx_plain/adapter_config.json"));
    assert_eq!(place.mwa("merge run -o peft --select all --format peft").code, Some(0));
    assert!(
        place.tensors("peft/adapter_model.safetensors")
            == place.tensors("peft_plain/adapter_model.safetensors")
    );
    assert_eq!(place.mwa("merge epochs -o sd --select all --format diffusers").code, Some(0));
    assert_near(
        &products(&place.tensors("sd/pytorch_lora_weights.safetensors")),
        &products(&place.tensors("diffusers/pytorch_lora_weights.safetensors")),
        1e-7,
    );
    for folder in ["keep", "peft", "sd"] {
        let ran = place.mwa(&format!("verify {folder}"));
        assert_eq!(ran.code, Some(0), "{folder}: {}{}", ran.out, ran.err);
    }
    place.write("peft/adapter_model.safetensors", place.read("peft_dora/adapter_model.safetensors"));
    assert_data_eq!(
        place.mwa("verify peft").out,
        str![[r#"
changed  peft/adapter_model.safetensors
same     1 file beside the weights
same     2 input files
differs: merging again gives what the report says, but that is not what is here

"#]]
    );
    assert_data_eq!(
        place.fails("merge run -o gguf --select all --format gguf"),
        str![[r#"
error: the merge: is of a base model that is not here, and GGUF needs its architecture and heads
help: give the base model's folder, or its config.json, with --base

"#]]
    );
}

#[test]
fn what_a_container_cannot_hold_is_refused_by_name() {
    let place = place();
    for arguments in [
        "peft_dora -o x.gguf --format gguf --base base",
        "peft_plain -o x --format kohya",
        "peft_plain -o x --format gguf",
        "plain.gguf -o x --format peft",
        "loha.safetensors -o x --format diffusers",
        "loha_peft.safetensors -o x --format kohya",
        "kohya_sd.safetensors -o x --format mlx",
        "kohya_sd.safetensors -o x.safetensors --format peft",
        "base -o x --format peft",
        "absent -o x --format peft",
        "peft_plain -o mlx_plain --format mlx",
        "peft_plain -o x --format gguf --base absent",
    ] {
        let error = place.fails(&format!("convert {arguments}"));
        assert!(error.contains("help: "), "{arguments}: {error}");
    }
    assert_data_eq!(
        place.fails("convert peft_dora -o x.gguf --format gguf --base base"),
        str![[r#"
error: peft_dora: tensor `model.layers.0.mlp.down_proj.lora_magnitude_vector` cannot be converted: GGUF cannot hold DoRA, biases, LoHa and LoKr
help: convert an adapter of plain LoRA, or fold it into its base

"#]]
    );
    let error = place.fails("convert peft_plain -o x.gguf");
    assert!(error.contains("help: name a folder, or give --format gguf"), "{error}");
    assert_data_eq!(
        place.fails("convert kohya_sd.safetensors -o x --format mlx"),
        str![[r#"
error: kohya_sd.safetensors: tensor `encoder.layers.0.mlp.fc1` cannot be converted: MLX cannot hold adapters of image models
help: convert it to peft, diffusers or kohya

"#]]
    );
    assert_data_eq!(
        place.fails("convert peft_plain -o x --format kohya"),
        str![[r#"
error: peft_plain: adapts model.layers.0.mlp.down_proj, which is of no image model that is known here
help: adapters of language models are converted to peft, mlx and gguf

"#]]
    );
    place.edit("base/config.json", "llama", "gpt_neox");
    assert_data_eq!(
        place.fails("convert peft_plain -o x --format gguf --base base"),
        str![[r#"
error: peft_plain: is of a base model of the kind `gpt_neox`, of which GGUF's names are not known here
help: known are llama, mistral, mixtral, qwen2, qwen3, gemma2, gemma3, gemma3_text, phi3

"#]]
    );
    place.edit("base/config.json", "gpt_neox", "llama");
    place.edit("base/config.json", r#""num_attention_heads": 2"#, r#""num_attention_heads": 3"#);
    assert_data_eq!(
        place.fails("convert peft_plain -o x --format gguf --base base"),
        str![[r#"
error: peft_plain: has 16 rows in model.layers.0.self_attn.q_proj, which are not those of 3 heads
help: give the config of its own base model with --base

"#]]
    );
    // half of a pair, and names of two kinds
    let mut file = place.read("kohya_qwen_image.safetensors");
    let at = file.windows(14).position(|it| it == b"img_in.lora_up").unwrap();
    file[at + 7..at + 14].copy_from_slice(b"lora_xx");
    place.write("half.safetensors", &file);
    assert_data_eq!(
        place.fails("convert half.safetensors -o x --format peft"),
        str![[r#"
error: half.safetensors: lacks lora_B.weight of img_in, but has lora_A.weight
help: the file is not whole: save or download it again

"#]]
    );
    let mut file = place.read("kohya_qwen_image.safetensors");
    while let Some(at) = file.windows(16).position(|it| it == b"lora_unet_img_in") {
        file[at..at + 16].copy_from_slice(b"lora_unet_my_xxx");
    }
    place.write("unknown.safetensors", &file);
    assert_data_eq!(
        place.fails("convert unknown.safetensors -o x --format peft"),
        str![[r#"
error: unknown.safetensors: has a module `lora_unet_my_xxx`, which is of no model that is known here
help: SD1, SD2, SDXL, Flux, SD3, Wan, Qwen-Image and their text encoders are known

"#]]
    );
}

#[test]
fn torch_files_come_back_as_torch_files() {
    let place = Place::new();
    let bin: &[u8] = include_bytes!("data/adapter_model.bin");
    place.write("own.bin", bin);
    assert_eq!(place.mwa("convert own.bin -o ours.pt --format pt --key model").code, Some(0));
    assert_eq!(place.mwa("convert ours.pt -o folder --format pt").code, Some(0));
    for (file, out) in [("own.bin", "a"), ("ours.pt", "b"), ("folder/weights.pt", "c")] {
        assert_eq!(place.mwa(&format!("merge {file} -o {out}")).code, Some(0));
    }
    let merged = |out: &str, name: &str| place.tensors(&format!("{out}/{name}.safetensors"));
    let own = merged("a", "own");
    assert!(own.len() == 4 && own == merged("b", "ours") && own == merged("c", "weights"));
    // stored members, each at a multiple of 64 bytes, and a directory with their checksums
    let ours = place.read("ours.pt");
    let end = ours.len() - 22;
    assert_eq!((&ours[end..end + 4], &ours[end - 20..end - 16]), (&b"PK\x05\x06"[..], &b"PK\x06\x07"[..]));
    assert!(
        ours.windows(11).any(|it| it == b"ours/data/3") && ours.windows(12).any(|it| it == b"ours/version")
    );
    // epochs of a toolkit, whose key is kept, and so is their ending
    for epoch in [1, 2] {
        place.write(&format!("exp/epoch-{epoch}.pth"), place.read("ours.pt"));
    }
    assert_eq!(place.mwa("merge exp -o merged --select all --format pt").code, Some(0));
    assert_eq!(place.mwa("verify merged").code, Some(0));
    assert!(place.read("merged/merged.pth").windows(5).any(|it| it == b"model"));
    assert_eq!(place.mwa("merge merged/merged.pth -o again").code, Some(0));
    assert!(merged("again", "merged") == own);
    // Lightning looks for its version before it loads anything
    for step in [4, 8] {
        place.write(&format!("light/epoch=0-step={step}.ckpt"), include_bytes!("data/lightning.ckpt"));
    }
    assert_eq!(place.mwa("merge light -o lit --select all --format pt").code, Some(0));
    let keeps = "convert lit/merged.ckpt -o kept.ckpt --format pt --key state_dict";
    assert_eq!(place.mwa(keeps).code, Some(0));
    for out in ["lit/merged.ckpt", "kept.ckpt"] {
        let written = place.read(out);
        let has = |text: &[u8]| written.windows(text.len()).any(|it| it == text);
        assert!(has(b"pytorch-lightning_version") && has(b"2.6.6") && has(b"state_dict"), "{out}");
    }
    let fp8 = adapter::with_header(r#"{"a":{"dtype":"F8_E4M3","shape":[1],"data_offsets":[0,1]}}"#, &[0]);
    place.write("fp8.safetensors", fp8);
    assert_data_eq!(
        place.fails("convert fp8.safetensors -o x.pt --format pt"),
        str![[r#"
error: fp8.safetensors: tensor `a` is F8_E4M3, for which torch has no storage of its own
help: write safetensors, or another --dtype

"#]]
    );
}

/// What torch.save() left as toolkits do, made by tests/vectors/toolkits.py, which lets torch read what is merged of each, too.
#[test]
fn what_toolkits_keep_beside_the_weights_is_kept() {
    let place = Place::new();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cli/data/toolkits");
    for name in ["nanogpt", "onmt", "timm", "fairseq", "icefall", "lightning"] {
        place.write(&format!("{name}.pt"), fs::read(folder.join(format!("{name}.pt"))).unwrap());
        let done = place.mwa(&format!("merge {name}.pt -o {name} --format pt"));
        assert_eq!(done.code, Some(0), "{}", done.err);
        let written = place.read(&format!("{name}/{name}.pt"));
        let golden = folder.join(format!("{name}-merged.pt"));
        if std::env::var_os("SNAPSHOTS").is_some_and(|how| how == "overwrite") {
            fs::write(&golden, &written).unwrap();
        }
        assert!(written == fs::read(&golden).unwrap(), "{name}: not what is in {}", golden.display());
        assert_eq!(place.mwa(&format!("verify {name}")).code, Some(0));
        // converting it keeps the same, and what was merged is an input again
        let again = place.mwa(&format!("convert {name}.pt -o {name}-again/ --format pt"));
        assert_eq!(again.code, Some(0), "{}", again.err);
        assert_eq!(place.mwa(&format!("merge {name}/{name}.pt -o {name}-2 --format pt")).code, Some(0));
        // what was a Namespace is a dictionary with attributes now
        let has_namespace = written.windows(3).any(|it| it == b"h\0b");
        assert!(has_namespace || place.read(&format!("{name}-2/{name}.pt")) == written, "{name}");
    }
    assert_data_eq!(
        place.mwa("merge timm.pt -o said --format pt").err,
        str![[r#"
note: the weights under `state_dict` of the training states are taken; `state_dict_ema` is left out (choose with --weights-key)
note: left out of what timm.pt has beside the weights: `optimizer` (a state of training), `args.data_dir` (made by `pathlib.PosixPath`), `amp_scaler` (a state of training), `state_dict_ema` (weights that are not merged)
note: there are 3 more notes; --verbose shows them

"#]]
    );
    assert_data_eq!(
        place.mwa("merge onmt.pt -o said-2 --format pt").err,
        str![[r#"
note: beside the weights stands what is in onmt.pt: `vocab`, `opt`
note: for torch.load(weights_only=True), of onmt.pt are written `opt`, a Namespace, as a dictionary whose entries are attributes too
note: left out of what onmt.pt has beside the weights: `optim` (a state of training)

"#]]
    );
    // the other weights, whose neighbours are the same
    assert_data_eq!(
        place.mwa("merge timm.pt -o ema --format pt --weights-key state_dict_ema").err,
        str![[r#"
note: left out of what timm.pt has beside the weights: `state_dict` (weights that are not merged), `optimizer` (a state of training), `args.data_dir` (made by `pathlib.PosixPath`), `amp_scaler` (a state of training)
note: evaluations are logged as eval_metric 1/1 (choose one with --metric), so the step is the metric: later counts as better
note: there are 2 more notes; --verbose shows them

"#]]
    );
    // a key of the user's own holds nothing but the weights
    assert_eq!(place.mwa("convert nanogpt.pt -o bare.pt --format pt --key weights").code, Some(0));
    let bare = place.read("bare.pt");
    assert!(!bare.windows(8).any(|it| it == b"iter_num") && bare.windows(7).any(|it| it == b"weights"));
}

/// A file as torch.save() writes it: stored members, the pickle first.
fn torch_zip(pickle: &[u8], storage: &[u8]) -> Vec<u8> {
    let (mut bytes, mut directory) = (Vec::new(), Vec::new());
    let members: [(&[u8], &[u8]); 3] =
        [(b"a/data.pkl", pickle), (b"a/data/0", storage), (b"a/version", b"3\n")];
    for (name, data) in members {
        let at = u32::try_from(bytes.len()).unwrap().to_le_bytes();
        let len = u32::try_from(data.len()).unwrap().to_le_bytes();
        let name_len = u16::try_from(name.len()).unwrap().to_le_bytes();
        // no flags, stored, no time, and no checksum, which nothing asks for
        let common = [&[0; 8][..], &[0; 4], &len, &len, &name_len, &[0; 2]].concat();
        bytes.extend([b"PK\x03\x04\x00\x00", &common[..], name, data].concat());
        directory.extend([b"PK\x01\x02\x00\x00\x00\x00", &common[..], &[0; 10], &at, name].concat());
    }
    let count = 3u16.to_le_bytes();
    let [at, len] = [bytes.len(), directory.len()].map(|it| u32::try_from(it).unwrap().to_le_bytes());
    [&bytes[..], &directory, b"PK\x05\x06\x00\x00\x00\x00", &count, &count, &len, &at, &[0; 2]].concat()
}

/// What is too much to be written again is left out by name, and never takes the weights with it.
#[test]
fn a_long_history_beside_weights_leaves_them_in() {
    let place = Place::new();
    let text =
        |text: &str| [&b"X"[..], &u32::try_from(text.len()).unwrap().to_le_bytes(), text.as_bytes()].concat();
    let tensor = [
        &b"ctorch._utils\n_rebuild_tensor_v2\n(("[..],
        &text("storage"),
        b"ctorch\nFloatStorage\n",
        &text("0"),
        &text("cpu"),
        b"K\x03tQK\x00(K\x03t(K\x01t\x89ccollections\nOrderedDict\n)RtR",
    ]
    .concat();
    // one number, named very often
    let losses =
        [&b"](G\x3f\xe0\x00\x00\x00\x00\x00\x00q\x00"[..], &b"h\x00".repeat(1_100_000), b"e"].concat();
    let parts = [
        &b"\x80\x02}("[..],
        &text("losses"),
        &losses,
        &text("model"),
        b"}",
        &text("w"),
        &tensor,
        b"s",
        &text("step"),
        b"K\x07u.",
    ];
    place.write("long.pt", torch_zip(&parts.concat(), &[1.0_f32, 2.0, 3.0].map(f32::to_le_bytes).concat()));
    let ran = place.mwa("convert long.pt -o out.pt --format pt");
    assert_eq!(ran.code, Some(0), "{}{}", ran.out, ran.err);
    assert!(ran.err.contains("`losses` (it is too deep or too large)"), "{}", ran.err);
    let ran = place.mwa("convert out.pt -o back --format safetensors");
    assert_eq!(ran.code, Some(0), "{}{}", ran.out, ran.err);
    assert_eq!(adapter::values(&place.read("back/model.safetensors"), "w"), [1.0, 2.0, 3.0]);
}
