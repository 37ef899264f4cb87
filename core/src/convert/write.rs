//! What each container wants of an adapter's modules, and what it cannot hold.

use alloc::borrow::ToOwned as _;
use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

use serde_json::{Map, Value, json};

use super::adapter::{
    A, Adapter, B, EMBEDDING_A, EMBEDDING_B, MAGNITUDE, Module, commonest, is_frozen_copy, last_of, refuse,
    same,
};
use super::base::Base;
use super::matrix::{Made, Matrix};
use super::names::{Model, Rows, flatten};
use super::{Factored, Output, Target, Written, gguf};
use crate::dtype::Float;
use crate::error::{Error, ErrorKind, Result};
use crate::format::safetensors::{Header, Tensor, TextMap, byte_size};
use crate::format::torch::optimizer::MEANS;
use crate::merge::shard_indexes;
use crate::plan::Shard;
use crate::plan::split::parted;
use crate::text::index::Index;
use crate::text::json as text;

pub(crate) fn write(
    adapter: &Adapter,
    target: Target,
    base: Option<&Base>,
    model: Option<Model>,
    dtype: Option<Float>,
) -> Result<Written> {
    let mut written = match target {
        Target::Peft => peft(adapter, dtype)?,
        Target::Diffusers => diffusers(adapter, dtype)?,
        Target::Kohya => kohya(adapter, model, dtype)?,
        Target::Mlx => mlx(adapter, base, dtype)?,
        Target::Gguf => gguf::write(adapter, base, dtype)?,
        Target::Pt | Target::Safetensors => unreachable!("any weights are written so, adapters or not"),
    };
    written.2.splice(0..0, adapter.notes.clone());
    if target != Target::Peft
        && let Some((name, ..)) = adapter.others.iter().find(|(name, ..)| is_frozen_copy(name))
    {
        written.2.push(format!("`{name}` is left out: it is the base model's own"));
    }
    Ok(written)
}

/// All tensors of some of the files in one file, or in files of at most so many bytes and their index.
pub(super) fn plain(
    files: &[(String, Header)],
    taken: Range<usize>,
    name: &str,
    dtype: Option<Float>,
    shard_size: Option<u64>,
) -> Result<Written> {
    let of = |file: usize| -> Vec<Made> {
        let header = &files[file].1;
        let made = |tensor: &Tensor| {
            let name = header.own_name(&tensor.name).to_owned();
            Made::new(name, tensor.shape.clone(), Matrix::of(file, tensor)).to(dtype)
        };
        header.tensors().iter().map(made).collect()
    };
    let tensors = taken.flat_map(of).collect();
    let Some(limit) = shard_size else {
        return Ok((vec![safetensors(name.to_owned(), tensors, &mut [], pt())?], Vec::new(), Vec::new()));
    };
    let bytes = |made: &Made| byte_size(made.dtype, &made.shape).unwrap_or(u64::MAX);
    let (mut outputs, mut shards) = (Vec::new(), Vec::new());
    for (name, tensors) in parted(name, tensors, limit, |made| (&made.name, bytes(made)))? {
        let (header, output) = laid(name.clone(), tensors, &mut [], pt())?;
        outputs.push(output);
        shards.push(Shard { name, header });
    }
    Ok((outputs, shard_indexes(&shards), Vec::new()))
}

/// A safetensors file of some tensors, and of matrices that are kept by means, which learn their places.
pub(super) fn safetensors(
    name: String,
    tensors: Vec<Made>,
    factored: &mut [Factored],
    metadata: Vec<(String, String)>,
) -> Result<Output> {
    laid(name, tensors, factored, metadata).map(|(_, output)| output)
}

/// The same, and where all lies in it.
fn laid(
    name: String,
    tensors: Vec<Made>,
    factored: &mut [Factored],
    metadata: Vec<(String, String)>,
) -> Result<(Header, Output)> {
    let laid = tensors.iter().map(|made| (made.name.clone(), made.dtype, made.shape.clone()));
    let laid = laid.chain(factored.iter().flat_map(Factored::laid));
    let header = Header::layout(laid, TextMap::from(metadata))?;
    let head = header.to_bytes();
    let mut placed = Vec::with_capacity(tensors.len());
    let index = Index::new(header.tensors().iter().map(|tensor| tensor.name.as_str()));
    let start = |name: &str| index.place(name).map_or(0, |place| header.tensors()[place].range.start);
    for made in tensors {
        placed.push((start(&made.name), made));
    }
    for matrix in factored {
        matrix.at = MEANS.map(|end| start(&format!("{}{end}", matrix.name)));
    }
    placed.sort_unstable_by_key(|(at, _)| *at);
    let len = header.file_len();
    Ok((header, Output { name, len, head, tensors: placed, between: Vec::new(), tail: None }))
}

fn pt() -> Vec<(String, String)> {
    vec![("format".to_owned(), "pt".to_owned())]
}

/// The components of an adapter, sorted, each with its modules.
fn components(adapter: &Adapter) -> Vec<(&str, Vec<&Module>)> {
    let mut names: Vec<_> = adapter.modules.iter().map(|module| module.component.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    let of = |name: &str| adapter.modules.iter().filter(|module| module.component == name).collect();
    names.into_iter().map(|name| (name, of(name))).collect()
}

/// The fields of PEFT's config that say how strong modules are: the commonest rank and alpha, and patterns for the others.
fn strengths(modules: &[&Module]) -> [(&'static str, Value); 4] {
    let ranks: Vec<f64> = modules.iter().map(|module| module.rank as f64).collect();
    let alphas: Vec<f64> = modules.iter().map(|module| module.alpha).collect();
    let (rank, alpha) = (commonest(&ranks), commonest(&alphas));
    let patterns = |values: &[f64], usual: f64| {
        let odd = modules.iter().zip(values).filter(|(_, value)| !same(**value, usual));
        let key = |module: &Module| {
            // PEFT takes a key for the end of a path
            let end = format!(".{}", module.path);
            let is_end = modules.iter().any(|other| other.path.ends_with(&end));
            if is_end { format!("^{}", module.path) } else { module.path.clone() }
        };
        Value::Object(odd.map(|(module, value)| (key(module), number(*value))).collect())
    };
    [
        ("r", number(rank)),
        ("lora_alpha", number(alpha)),
        ("rank_pattern", patterns(&ranks, rank)),
        ("alpha_pattern", patterns(&alphas, alpha)),
    ]
}

/// A number as JSON, without a fraction where it has none.
fn number(value: f64) -> Value {
    text::whole(value).map_or_else(|| json!(value), Value::from)
}

/// An object with its keys sorted, indented by two spaces, as Python writes it.
fn sorted(fields: Map<String, Value>) -> String {
    let mut all: Vec<_> = fields.into_iter().collect();
    all.sort_by(|a, b| a.0.cmp(&b.0));
    text::pretty(&all.into_iter().collect())
}

fn peft(adapter: &Adapter, dtype: Option<Float>) -> Result<Written> {
    let all = components(adapter);
    let (mut outputs, mut texts) = (Vec::new(), Vec::new());
    for (component, modules) in &all {
        let folder = if all.len() > 1 { format!("{component}/") } else { String::new() };
        let (name, config) =
            (format!("{folder}adapter_model.safetensors"), format!("{folder}adapter_config.json"));
        let mut tensors = Vec::new();
        for module in modules {
            for (part, shape, matrix) in &module.parts {
                // what others keep as a column
                let shape =
                    if *part == MAGNITUDE { magnitude(module, shape, "PEFT")? } else { shape.clone() };
                let name = format!("base_model.model.{}.{part}", module.path);
                tensors.push(Made::new(name, shape, matrix.clone()).to(dtype));
            }
        }
        let own = adapter.configs.iter().find(|(known, _)| known == component);
        let is_own =
            |name: &str| own.is_some() && (name.starts_with("base_model.model.") || component.is_empty());
        for (name, file, tensor) in &adapter.others {
            if !is_own(name) {
                return Err(refuse(
                    "PEFT",
                    name,
                    "it: it is no factor of an adapter",
                    "take it out of the file first",
                ));
            }
            tensors.push(Made::new(name.clone(), tensor.shape.clone(), Matrix::of(*file, tensor)).to(dtype));
        }
        outputs.push(safetensors(name, tensors, &mut [], pt())?);
        texts.push((config, config_of(adapter, own.map(|(_, config)| config.text()), modules)?));
    }
    Ok((outputs, texts, Vec::new()))
}

/// PEFT's config: the container's own where it has one, else one that says the same.
fn config_of(adapter: &Adapter, own: Option<&str>, modules: &[&Module]) -> Result<String> {
    if let Some(own) = own {
        return Ok(own.to_owned());
    }
    let has = |part: &str| {
        modules.iter().any(|module| module.parts.iter().any(|(known, ..)| known.starts_with(part)))
    };
    let kinds = [has("lora_"), has("hada_"), has("lokr_")];
    if kinds.iter().filter(|kind| **kind).count() > 1 {
        let error = Error::new(
            ErrorKind::Method,
            "mixes LoRA, LoHa and LoKr, of which a PEFT adapter can be only one",
        );
        return Err(error.help("leave it in kohya's format"));
    }
    let mut fields = Map::new();
    let [r, alpha, ranks, alphas] = strengths(modules);
    let kind = if kinds[1] {
        "LOHA"
    } else if kinds[2] {
        "LOKR"
    } else {
        "LORA"
    };
    if kind == "LORA" {
        fields.extend([
            (alpha.0.to_owned(), alpha.1),
            ("bias".to_owned(), "none".into()),
            ("fan_in_fan_out".to_owned(), false.into()),
            ("lora_bias".to_owned(), has("lora_B.bias").into()),
            ("lora_dropout".to_owned(), json!(0.0)),
            ("modules_to_save".to_owned(), Value::Null),
            ("use_dora".to_owned(), has(MAGNITUDE).into()),
            ("use_rslora".to_owned(), false.into()),
        ]);
        let bare = modules.iter().filter(|module| module.part(MAGNITUDE).is_none()).count();
        if has(MAGNITUDE) && bare > 0 {
            let error = Error::new(
                ErrorKind::Method,
                format!("has DoRA's magnitudes in some modules and in {bare} not"),
            );
            return Err(error.help("PEFT has them in all or in none; leave it in its format"));
        }
    } else {
        fields.extend([("alpha".to_owned(), alpha.1), ("use_effective_conv2d".to_owned(), false.into())]);
    }
    if kind == "LOKR" {
        fields.extend([
            ("decompose_both".to_owned(), has("lokr_w1_a").into()),
            ("decompose_factor".to_owned(), factor(modules)),
        ]);
    }
    for (name, value) in [r, ranks, alphas] {
        fields.insert(name.to_owned(), value);
    }
    let mut paths: Vec<_> = modules.iter().map(|module| module.path.as_str()).collect();
    paths.sort_unstable();
    fields.extend([
        ("base_model_name_or_path".to_owned(), adapter.base_name().map_or(Value::Null, Value::from)),
        ("inference_mode".to_owned(), true.into()),
        ("init_lora_weights".to_owned(), true.into()),
        ("peft_type".to_owned(), kind.into()),
        ("target_modules".to_owned(), json!(paths)),
        ("task_type".to_owned(), Value::Null),
    ]);
    if kind != "LORA" {
        fields.remove("init_lora_weights");
    }
    Ok(sorted(fields))
}

/// LoKr's factor: the size of the first matrix, where that is square and the same in all modules.
fn factor(modules: &[&Module]) -> Value {
    let sizes =
        modules.iter().map(|module| match module.part("lokr_w1").map(|(_, shape, _)| shape.as_slice()) {
            Some([rows, cols]) if rows == cols => Some(*rows),
            _ => None,
        });
    let sizes: Vec<_> = sizes.collect();
    let first = sizes.first().copied().flatten().filter(|_| sizes.iter().all(|size| *size == sizes[0]));
    first.map_or_else(|| (-1).into(), Value::from)
}

/// The shape of DoRA's magnitudes in PEFT: one for each row of the weight.
fn magnitude(module: &Module, shape: &[u64], target: &str) -> Result<Vec<u64>> {
    let rows = module.part(B).map_or(0, |(_, shape, _)| shape.first().copied().unwrap_or(0));
    let is_conv = module.part(A).is_some_and(|(_, shape, _)| shape.len() > 2);
    let all: u64 = shape.iter().product();
    let is_embedding = module.part(EMBEDDING_A).is_some();
    if !is_embedding && (all != rows || shape.len() > 1 && shape[0] != rows && shape.get(1) != Some(&rows)) {
        let name = format!("{}.dora_scale", module.path);
        let what = "magnitudes of a weight's columns (wd_on_out is false)";
        return Err(refuse(target, &name, what, "leave it in kohya's format"));
    }
    let square = rows == module.part(A).map_or(0, |(_, shape, _)| shape.get(1).copied().unwrap_or(0));
    if square && shape.len() == 2 && shape[0] == 1 && rows > 1 {
        let name = format!("{}.dora_scale", module.path);
        return Err(refuse(target, &name, "magnitudes of a weight's columns", "leave it in kohya's format"));
    }
    let dims = module.part(A).map_or(1, |(_, shape, _)| shape.len());
    Ok(if is_conv {
        [1, rows].into_iter().chain(core::iter::repeat_n(1, dims - 2)).collect()
    } else {
        vec![all]
    })
}

fn only_lora(adapter: &Adapter, target: &str) -> Result<()> {
    if let Some((name, ..)) = adapter.others.iter().find(|(name, ..)| !is_frozen_copy(name)) {
        let help = "leave trained modules, biases and tokens out of the training, or keep PEFT's format";
        return Err(refuse(target, name, "it: it is no factor of an adapter", help));
    }
    Ok(())
}

/// The component of modules that come without one.
fn component_of(component: &str, modules: &[&Module]) -> Result<String> {
    if !component.is_empty() {
        return Ok(component.to_owned());
    }
    let any = |starts: &[&str]| {
        modules.iter().any(|module| starts.iter().any(|start| module.path.starts_with(start)))
    };
    if any(&["down_blocks.", "up_blocks.", "mid_block."]) {
        Ok("unet".to_owned())
    } else if any(&["transformer_blocks.", "single_transformer_blocks.", "blocks."]) {
        Ok("transformer".to_owned())
    } else if any(&["text_model.", "encoder.layers."]) {
        Ok("text_encoder".to_owned())
    } else {
        let path = modules.first().map_or("", |module| module.path.as_str());
        let detail = format!("adapts {path}, which is of no image model that is known here");
        Err(Error::new(ErrorKind::Method, detail)
            .help("adapters of language models are converted to peft, mlx and gguf"))
    }
}

fn diffusers(adapter: &Adapter, dtype: Option<Float>) -> Result<Written> {
    let target = "diffusers";
    only_lora(adapter, target)?;
    let (mut tensors, mut fields, mut notes) = (Vec::new(), Map::new(), Vec::new());
    for (own, modules) in components(adapter) {
        let component = component_of(own, &modules)?;
        let is_text = component.starts_with("text_encoder");
        let is_attention =
            |module: &Module| ["q_proj", "k_proj", "v_proj", "out_proj"].contains(&last_of(&module.path));
        let has_out = modules.iter().any(|module| last_of(&module.path) == "out_proj");
        if is_text && !has_out && modules.iter().any(|module| is_attention(module)) {
            notes.push(format!("{component} adapts no out_proj: diffusers up to 0.42 may leave its q_proj and v_proj out when it loads the file"));
        }
        for module in &modules {
            for (part, shape, matrix) in &module.parts {
                let name = |end: &str| format!("{component}.{}.{end}", module.path);
                let end = match *part {
                    A if is_text && is_attention(module) => "lora_linear_layer.down.weight",
                    B if is_text && is_attention(module) => "lora_linear_layer.up.weight",
                    A | B | "lora_B.bias" | MAGNITUDE => part,
                    other => {
                        return Err(refuse(
                            target,
                            &name(other),
                            "LoHa, LoKr and embeddings",
                            "convert it to peft or kohya",
                        ));
                    }
                };
                let shape =
                    if *part == MAGNITUDE { magnitude(module, shape, target)? } else { shape.clone() };
                tensors.push(Made::new(name(end), shape, matrix.clone()).to(dtype));
            }
        }
        let config = adapter.configs.iter().find(|(known, _)| known == own).map(|(_, config)| config);
        let has = |part: &str| modules.iter().any(|module| module.part(part).is_some());
        let mut put = |name: &str, value: Value| fields.insert(format!("{component}.{name}"), value);
        match config {
            Some(config) => {
                for name in ["r", "lora_alpha", "rank_pattern", "alpha_pattern", "target_modules"] {
                    put(
                        name,
                        config.field(name).cloned().unwrap_or_else(|| {
                            if name.ends_with("pattern") { json!({}) } else { Value::Null }
                        }),
                    );
                }
                if config.use_rslora() {
                    put("use_rslora", true.into());
                }
            }
            None => {
                strengths(&modules).into_iter().for_each(|(name, value)| drop(put(name, value)));
                let mut paths: Vec<_> = modules.iter().map(|module| module.path.as_str()).collect();
                paths.sort_unstable();
                put("target_modules", json!(paths));
            }
        }
        put("use_dora", has(MAGNITUDE).into());
        put("lora_bias", has("lora_B.bias").into());
    }
    let mut metadata = pt();
    metadata.push(("lora_adapter_metadata".to_owned(), sorted(fields)));
    let file = safetensors("pytorch_lora_weights.safetensors".to_owned(), tensors, &mut [], metadata)?;
    Ok((vec![file], Vec::new(), notes))
}

/// A module of the model's own: its path, what makes it up and its place there, the names of all parts, and how rows are parted.
type Joined<'a> = (String, Vec<(usize, &'a Module)>, &'static [&'static str], Rows);

fn kohya(adapter: &Adapter, model: Option<Model>, dtype: Option<Float>) -> Result<Written> {
    let target = "kohya";
    only_lora(adapter, target)?;
    let all = components(adapter);
    let has_second = all.iter().any(|(component, _)| *component == "text_encoder_2");
    let base = adapter.base_name().unwrap_or_default();
    let mut tensors: Vec<Made> = Vec::new();
    let mut ranks = Vec::new();
    let mut rounded = 0;
    for (own, modules) in &all {
        let component = component_of(own, modules)?;
        let paths = modules.iter().map(|module| module.path.as_str());
        let image = match component.as_str() {
            "unet" | "transformer" => {
                Some(model.or_else(|| Model::of_diffusers(paths, &base, has_second)).ok_or_else(|| {
                    Error::new(ErrorKind::Names, "has modules that Flux, SD3 and Qwen-Image have alike")
                        .help("say which it is of: --model flux, sd3 or qwen-image")
                })?)
            }
            _ => None,
        };
        let is_sdxl_like = has_second || all.iter().any(|(it, _)| *it == "transformer");
        let prefix = match component.as_str() {
            "text_encoder" if is_sdxl_like => "lora_te1",
            "text_encoder" => "lora_te",
            // T5, by the words of its modules
            "text_encoder_2" if modules.iter().any(|module| module.path.contains(".block.")) => "lora_te3",
            "text_encoder_2" => "lora_te2",
            "text_encoder_3" => "lora_te3",
            _ => "lora_unet",
        };
        let mut joined: Vec<Joined<'_>> = Vec::new();
        for module in modules {
            let path = match component.as_str() {
                // kohya's readers know CLIP by the names of before transformers 5
                it if it.starts_with("text_encoder") && module.path.starts_with("encoder.layers.") => {
                    format!("text_model.{}", module.path)
                }
                _ => module.path.clone(),
            };
            let (own, place, parts, rows) =
                image.map_or((path.clone(), 0, &[][..], Rows::Whole), |image| image.own_of(&path));
            match joined.iter_mut().find(|(known, ..)| *known == own) {
                Some((_, modules, ..)) => modules.push((place, module)),
                None => joined.push((own, vec![(place, module)], parts, rows)),
            }
        }
        for (path, modules, parts, rows) in joined {
            let name = format!("{prefix}_{}", flatten(&path));
            if parts.len() > 1 {
                tensors.extend(
                    block_diagonal(&name, modules, parts.len(), rows, &mut rounded)?
                        .into_iter()
                        .map(|made| made.to(dtype)),
                );
                continue;
            }
            let module = modules[0].1;
            ranks.push(module.rank as f64);
            for (part, shape, matrix) in &module.parts {
                let scale = module.scale();
                let (end, shape, matrix) = match *part {
                    A => ("lora_down.weight", shape.clone(), matrix.clone()),
                    B => {
                        rounded += usize::from(!is_exact(scale));
                        ("lora_up.weight", shape.clone(), turned(matrix.clone(), rows, module).times(scale))
                    }
                    MAGNITUDE => {
                        magnitude(module, shape, target)?;
                        let mut column = vec![1; module.part(B).map_or(2, |(_, shape, _)| shape.len())];
                        column[0] = matrix.rows * matrix.cols;
                        ("dora_scale", column, turned(as_column(matrix.clone()), rows, module))
                    }
                    other if other.starts_with("hada_") || other.starts_with("lokr_") => {
                        (other, shape.clone(), matrix.clone())
                    }
                    other => {
                        let name = format!("{}.{other}", module.path);
                        return Err(refuse(
                            target,
                            &name,
                            "embeddings and biases",
                            "leave them out of the training, or keep PEFT's format",
                        ));
                    }
                };
                // LyCORIS takes the scale 1 where neither factor is a product itself
                let is_whole = module.part("lokr_w1").is_some() && module.part("lokr_w2").is_some();
                let matrix = if end == "lokr_w1" && is_whole { matrix.times(scale) } else { matrix };
                tensors.push(Made::new(format!("{name}.{end}"), shape, matrix).to(dtype));
            }
            // what all readers of LoHa and LoKr know
            if !module.is_lora() {
                #[expect(clippy::cast_possible_truncation, reason = "readers have an f32")]
                tensors.push(Made::number(format!("{name}.alpha"), module.alpha as f32));
            }
        }
    }
    let dim = commonest(&ranks).to_string();
    let metadata = [
        ("ss_network_module", "networks.lora".to_owned()),
        ("ss_network_dim", dim.clone()),
        ("ss_network_alpha", dim),
    ];
    let metadata = metadata.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    let mut notes = vec!["scales are multiplied into lora_up and there is no alpha: sd-scripts, ComfyUI, A1111 and diffusers read that alike".to_owned()];
    let narrow = tensors.iter().any(|made| Float::of(made.dtype).is_some_and(|float| float.bytes() < 4));
    if rounded > 0 && narrow {
        notes.push(format!("{rounded} modules' scales are no powers of two, so their factors were rounded once more; --dtype f32 keeps them"));
    }
    Ok((vec![safetensors("lora.safetensors".to_owned(), tensors, &mut [], metadata)?], Vec::new(), notes))
}

/// Whether a product with this number is exact.
fn is_exact(scale: f64) -> bool {
    scale.to_bits() & ((1 << 52) - 1) == 0
}

fn as_column(matrix: Matrix) -> Matrix {
    if matrix.rows == 1 { matrix.transposed() } else { matrix }
}

/// The rows of B as the model has them.
fn turned(matrix: Matrix, rows: Rows, module: &Module) -> Matrix {
    let cols = module.part(A).map_or(0, |(_, shape, _)| shape.iter().skip(1).product());
    match rows.order(matrix.rows, cols) {
        Some(order) => matrix.ordered(order),
        None => matrix,
    }
}

/// One module of several: their A below each other, their B on a diagonal of blocks.
fn block_diagonal(
    name: &str,
    mut modules: Vec<(usize, &Module)>,
    count: usize,
    rows: Rows,
    rounded: &mut usize,
) -> Result<Vec<Made>> {
    modules.sort_unstable_by_key(|(place, _)| *place);
    let mut width = None;
    for (place, module) in &modules {
        let (Some((_, a, down)), Some((_, b, up))) = (module.part(A), module.part(B)) else {
            let name = format!("{}.{}", module.path, module.parts[0].0);
            return Err(refuse(
                "kohya",
                &name,
                "LoHa and LoKr of a part of a module",
                "leave it in its format",
            ));
        };
        if module.parts.len() > 2 || a.len() != 2 || b.len() != 2 {
            let name = format!("{}.{}", module.path, module.parts.last().map_or("", |(part, ..)| part));
            return Err(refuse(
                "kohya",
                &name,
                "DoRA and biases of a part of a module",
                "leave it in its format",
            ));
        }
        // four times as wide as the others
        let own = if rows == Rows::Mlp && *place == count - 1 { up.rows / 4 } else { up.rows };
        let first = modules[0].1;
        let same_in = first.part(A).is_some_and(|(_, shape, _)| shape[1] == a[1]);
        if !same_in || width.is_some_and(|width| width != own) || down.dtype != up.dtype {
            let detail = format!(
                "has a part of `{name}` in {} that does not fit the others: A {a:?}, B {b:?}",
                module.path
            );
            return Err(Error::new(ErrorKind::Shape, detail).help("say which model it is of: --model"));
        }
        width = Some(own);
    }
    let width = width.unwrap_or(0);
    let all = if rows == Rows::Mlp { width * 7 } else { width * count as u64 };
    let (mut down, mut up) = (Vec::new(), Vec::new());
    let mut rank = 0;
    let mut dtype = None;
    for (place, module) in &modules {
        let (Some((_, a, a_matrix)), Some((.., b_matrix))) = (module.part(A), module.part(B)) else {
            continue;
        };
        let scale = module.scale();
        *rounded += usize::from(!is_exact(scale));
        down.push((rank, 0, a_matrix.clone()));
        up.push((width * *place as u64, rank, b_matrix.clone().times(scale)));
        rank += a[0];
        let own = Float::of(a_matrix.dtype);
        dtype = match (dtype, own) {
            (None, own) => own,
            (Some(dtype), Some(own)) => Some(Float::widest(dtype, own)),
            (dtype, None) => dtype,
        };
    }
    let dtype = dtype
        .ok_or_else(|| Error::new(ErrorKind::Dtype, "has factors that are no numbers").tensor(name))?
        .dtype();
    let cols = down.first().map_or(0, |(.., matrix): &(u64, u64, Matrix)| matrix.cols);
    Ok(vec![
        Made {
            name: format!("{name}.lora_down.weight"),
            dtype,
            shape: vec![rank, cols],
            blocks: down,
            number: None,
        },
        Made {
            name: format!("{name}.lora_up.weight"),
            dtype,
            shape: vec![all, rank],
            blocks: up,
            number: None,
        },
    ])
}

fn mlx(adapter: &Adapter, base: Option<&Base>, dtype: Option<Float>) -> Result<Written> {
    let target = "MLX";
    only_lora(adapter, target)?;
    let scale = adapter.modules.iter().map(Module::scale).fold(f64::MIN, f64::max);
    let rank = adapter.modules.iter().map(|module| module.rank).max().unwrap_or(0);
    let doras = adapter.modules.iter().filter(|module| module.part(MAGNITUDE).is_some()).count();
    if scale <= 0.0 || !scale.is_finite() {
        let error = Error::new(
            ErrorKind::Config,
            format!("has {scale} as its largest scale, and MLX has one for all modules"),
        );
        return Err(error.help("leave it in its format"));
    }
    let (mut tensors, mut keys, mut layers, mut padded, mut notes) =
        (Vec::new(), Vec::new(), Vec::new(), 0, Vec::new());
    for module in &adapter.modules {
        if doras > 0 && module.part(MAGNITUDE).is_none() {
            return Err(refuse(target, &module.path, "DoRA in some modules only", "leave it in its format"));
        }
        if !module.component.is_empty() {
            return Err(refuse(
                target,
                &module.path,
                "adapters of image models",
                "convert it to peft, diffusers or kohya",
            ));
        }
        padded += usize::from(module.rank != rank);
        for (part, shape, matrix) in &module.parts {
            let name = |end: &str| format!("{}.{end}", module.path);
            let is_flat = shape.len() == 2;
            let made = match *part {
                A | EMBEDDING_A if is_flat => {
                    let (dtype, shape) = (matrix.dtype, vec![shape[1], rank]);
                    Made {
                        name: name("lora_a"),
                        dtype,
                        shape,
                        blocks: vec![(0, 0, matrix.clone().transposed())],
                        number: None,
                    }
                }
                B | EMBEDDING_B if is_flat => {
                    let own = module.scale();
                    let fold = if same(own, scale) { 1.0 } else { own / scale };
                    let (dtype, shape) = (matrix.dtype, vec![rank, shape[0]]);
                    Made {
                        name: name("lora_b"),
                        dtype,
                        shape,
                        blocks: vec![(0, 0, matrix.clone().times(fold).transposed())],
                        number: None,
                    }
                }
                MAGNITUDE => Made::new(name("m"), magnitude(module, shape, target)?, matrix.clone()),
                other => {
                    let help = "leave them out of the training, or keep PEFT's format";
                    return Err(refuse(target, &name(other), "biases, convolutions, LoHa and LoKr", help));
                }
            };
            tensors.push(made.to(dtype));
        }
        let in_layer = module.path.split_once(".layers.").and_then(|(_, rest)| rest.split_once('.'));
        match in_layer.and_then(|(layer, key)| Some((layer.parse::<u64>().ok()?, key))) {
            Some((layer, key)) => {
                layers.push(layer);
                keys.push(key.to_owned());
            }
            None => keys.push(module.path.clone()),
        }
    }
    keys.sort_unstable();
    keys.dedup();
    // counted from the last layer; -1 is all of them
    let lowest = layers.iter().min().copied().unwrap_or(0);
    let count = match base.and_then(|base| base.layers) {
        Some(all) if layers.iter().any(|layer| *layer >= all) => {
            let detail =
                format!("adapts layer {}, but the base model has {all}", layers.iter().max().unwrap_or(&0));
            return Err(Error::new(ErrorKind::Config, detail)
                .help("give the config of its own base model with --base"));
        }
        Some(all) => number((all - lowest) as f64),
        None => (-1).into(),
    };
    if padded > 0 {
        notes.push(format!(
            "MLX has one rank for all modules: {padded} of {} are filled up with zeros to {rank}",
            adapter.modules.len()
        ));
    }
    let folded = adapter.modules.iter().filter(|module| !same(module.scale(), scale)).count();
    if folded > 0 {
        notes.push(format!(
            "MLX has one scale for all modules, {scale}: those of {folded} others are multiplied into lora_b"
        ));
    }
    let config = json!({
        "fine_tune_type": if doras > 0 { "dora" } else { "lora" },
        "lora_parameters": { "dropout": 0.0, "keys": keys, "rank": rank, "scale": scale },
        "num_layers": count,
    });
    let Value::Object(mut config) = config else { unreachable!("it was written as an object") };
    if let Some(base) = adapter.base_name() {
        config.insert("model".to_owned(), base.into());
    }
    let file = safetensors("adapters.safetensors".to_owned(), tensors, &mut [], Vec::new())?;
    Ok((vec![file], vec![("adapter_config.json".to_owned(), sorted(config))], notes))
}
