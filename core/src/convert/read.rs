//! The containers of adapters: from tensors by name to modules with their factors.

use alloc::borrow::ToOwned as _;
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use serde_json::{Map, Value};

use super::adapter::{A, Adapter, B, EMBEDDING_A, EMBEDDING_B, MAGNITUDE, Module, module};
use super::base::Base;
use super::gguf;
use super::matrix::Matrix;
use super::names::{Model, Rows, natural, unflatten};
use crate::adapter::config::{AdapterConfig, MEND};
use crate::adapter::scale::Scaling;
use crate::dtype::Float;
use crate::error::{Error, ErrorKind, Result};
use crate::files::{Files, Maybe, is_file, is_folder, join, parent, text};
use crate::format::gguf::ALPHA;
use crate::format::known::Container;
use crate::format::safetensors::Tensor;
use crate::run::checkpoint::{CONFIG_LIMIT, Checkpoint};
use crate::run::readers::{OpenOptions, Readers};
use crate::text::json;

/// What PEFT's names end in, and LyCORIS' too where they say `hada` and `lokr`.
const PARTS: [&str; 19] = [
    A,
    B,
    "lora_B.bias",
    EMBEDDING_A,
    EMBEDDING_B,
    MAGNITUDE,
    "hada_w1_a",
    "hada_w1_b",
    "hada_w2_a",
    "hada_w2_b",
    "hada_t1",
    "hada_t2",
    "lokr_w1",
    "lokr_w1_a",
    "lokr_w1_b",
    "lokr_w2",
    "lokr_w2_a",
    "lokr_w2_b",
    "lokr_t2",
];
/// Other ends of names, and what PEFT calls them.
const OTHERS: [(&str, &str); 15] = [
    ("lora_down.weight", A),
    ("lora_up.weight", B),
    ("lora_linear_layer.down.weight", A),
    ("lora_linear_layer.up.weight", B),
    ("lora.down.weight", A),
    ("lora.up.weight", B),
    ("down.weight", A),
    ("up.weight", B),
    ("lora_magnitude_vector.weight", MAGNITUDE),
    ("dora_scale", MAGNITUDE),
    ("lora_mid.weight", "lora_mid.weight"),
    ("lora_a.weight", A),
    ("lora_b.weight", B),
    ("magnitude", MAGNITUDE),
    ("alpha", "alpha"),
];

/// A name in a path and what follows it, as PEFT calls that.
fn split(name: &str) -> Option<(&str, &'static str)> {
    let all = PARTS.iter().map(|part| (*part, *part)).chain(OTHERS);
    let mut ends: Vec<_> = all.filter(|(end, _)| name.ends_with(end)).collect();
    ends.sort_unstable_by_key(|(end, _)| core::cmp::Reverse(end.len()));
    let fits = |(end, part): (&str, &'static str)| {
        let path = name[..name.len() - end.len()].strip_suffix('.')?;
        (!path.is_empty()).then_some((path, part))
    };
    ends.into_iter().find_map(fits)
}

impl Adapter {
    /// Open an adapter: a folder, or a file.
    pub(crate) fn open(files: &dyn Files, readers: &Readers, path: &str, base: Option<&Base>) -> Maybe<Self> {
        let mut adapter = Self::default();
        // what is written for several components is a folder for each
        let mut inner = Vec::new();
        if is_folder(files, path)? && !is_file(files, &join(path, "adapter_config.json"))? {
            for name in COMPONENTS {
                if is_file(files, &join(&join(path, name), "adapter_config.json"))? {
                    inner.push(*name);
                }
            }
        }
        if inner.is_empty() {
            adapter.take(files, readers, path, "", base)?;
        }
        for name in inner {
            adapter.take(files, readers, &join(path, name), name, base)?;
        }
        if adapter.modules.is_empty() {
            let error = Error::new(ErrorKind::Input, "holds no adapter that is known here").file(path);
            return Err(error
                .help("give a LoRA of PEFT, diffusers, kohya, LyCORIS, MLX, torchtune or GGUF")
                .into());
        }
        for module in &adapter.modules {
            module.check().map_err(|error| error.file(path))?;
        }
        adapter.modules.sort_by(|a, b| {
            a.component.cmp(&b.component).then_with(|| natural(&a.path).cmp(natural(&b.path)))
        });
        let mut seen = adapter.modules.iter().zip(adapter.modules.iter().skip(1));
        if let Some((one, _)) = seen.find(|(a, b)| a.component == b.component && a.path == b.path) {
            let detail = format!("adapts {} twice, under two names", one.path);
            return Err(Error::new(ErrorKind::Names, detail)
                .file(path)
                .help("take one of the two out of it")
                .into());
        }
        Ok(adapter)
    }

    fn take(
        &mut self,
        files: &dyn Files,
        readers: &Readers,
        path: &str,
        component: &str,
        base: Option<&Base>,
    ) -> Maybe<()> {
        let opened = Checkpoint::open(files, readers, path, &OpenOptions::default())?;
        let first = self.files.len();
        for file in &opened.files {
            match file.header.beside() {
                None => self.files.push((file.path.clone(), file.header.clone())),
                Some(_) => self.notes.push(format!(
                    "{}, beside the weights, is left out: --format safetensors and pt write it along",
                    file.name()
                )),
            }
        }
        let tensors: Vec<(usize, Tensor)> = self.files[first..]
            .iter()
            .enumerate()
            .flat_map(|(at, (_, header))| {
                header.tensors().iter().map(move |tensor| (first + at, tensor.clone()))
            })
            .collect();
        let names = || tensors.iter().map(|(_, tensor)| tensor.name.as_str());
        let container = Container::of(&names);
        let folder = opened.folder.clone().unwrap_or_else(|| parent(path).to_owned());
        let metadata = self.files[first].1.metadata().clone();
        let at = |error: Error| error.file(path);
        // scalars that say how strong a module is
        let mut alphas = Vec::new();
        for (file, tensor) in tensors.iter().filter(|(_, tensor)| tensor.name.ends_with(".alpha")) {
            let bytes = files.read(&self.files[*file].0, tensor.range.clone())?;
            alphas.push((tensor.name.clone(), scalar(tensor, &bytes).map_err(at)?));
        }
        let alpha_of = |path: &str| {
            alphas.iter().find(|(name, _)| name.strip_suffix(".alpha") == Some(path)).map(|(_, it)| *it)
        };
        match container {
            _ if opened.config.is_some() || container == Some(Container::Peft) => {
                let config = opened.config.ok_or_else(|| {
                    Error::new(
                        ErrorKind::Config,
                        "has no adapter_config.json, so nothing says how its factors are scaled",
                    )
                    .file(path)
                    .help("give the folder that holds both")
                })?;
                self.peft(&tensors, component, &config).map_err(at)?;
                self.configs.push((component.to_owned(), config));
            }
            Some(Container::Gguf) => {
                let alpha = metadata.get(ALPHA).and_then(json::float).unwrap_or(0.0);
                let kind = metadata.get("general.architecture").unwrap_or_default();
                let modules = gguf::read(&tensors, kind, alpha, base).map_err(at)?;
                self.modules.extend(modules);
            }
            Some(Container::Mlx) => {
                let config = join(&folder, "adapter_config.json");
                if !is_file(files, &config)? {
                    let error = Error::new(
                        ErrorKind::Config,
                        "has no adapter_config.json beside it, which gives its scale",
                    );
                    return Err(error.file(path).help("put the file of its training there").into());
                }
                let text = text(files, &config, CONFIG_LIMIT)?;
                self.mlx(&tensors, &text).map_err(|error| error.file(config))?;
            }
            Some(Container::Torchtune) => {
                let config = join(&folder, "adapter_config.json");
                let config =
                    if is_file(files, &config)? { Some(text(files, &config, CONFIG_LIMIT)?) } else { None };
                self.torchtune(&tensors, config.as_deref(), base).map_err(at)?;
            }
            Some(Container::Kohya | Container::Lycoris | Container::OneTrainer | Container::ComfyUi) => {
                self.kohya(&tensors, &alpha_of).map_err(at)?;
            }
            Some(Container::Diffusers | Container::Bare | Container::Peft) | None => {
                self.diffusers(&tensors, metadata.get("lora_adapter_metadata"), &alpha_of).map_err(at)?;
            }
        }
        Ok(())
    }

    fn peft(&mut self, tensors: &[(usize, Tensor)], component: &str, config: &AdapterConfig) -> Result<()> {
        let supported = ["LORA", "LOHA", "LOKR"];
        if !supported.contains(&config.peft_type()) {
            let detail = format!("is {}, which only PEFT itself has", config.peft_type());
            return Err(Error::new(ErrorKind::Method, detail).help("LORA, LOHA and LOKR are converted"));
        }
        if let Some(how) = config.base_changing_init() {
            self.notes.push(format!(
                "init_lora_weights is {how}: the adapter fits a changed base model, which others do not make"
            ));
        }
        if config.is_set("target_parameters") || config.is_set("use_bdlora") || config.is_set("kasa_config") {
            let detail = "adapts raw parameters or by blocks (target_parameters, use_bdlora, kasa_config), which only PEFT itself has";
            return Err(Error::new(ErrorKind::Method, detail).help("leave it in PEFT's format"));
        }
        let mut own = self.parts(tensors, |name| {
            let path = name.strip_prefix("base_model.model.").unwrap_or(name);
            (component.to_owned(), path.to_owned())
        });
        // LoHa and LoKr call theirs otherwise
        let alpha = config.field("alpha").cloned().filter(|_| config.peft_type() != "LORA");
        let plain = match alpha {
            Some(alpha) => AdapterConfig::parse(&config.rewritten(&[("lora_alpha", alpha)]))?,
            None => config.clone(),
        };
        let scaling = Scaling::new(&plain)?;
        for module in &mut own {
            let rank =
                scaling.rank(&module.path).filter(|_| config.peft_type() != "LORA").unwrap_or(module.rank);
            module.rank = rank;
            module.alpha = scaling.scale(&module.path, rank) * rank as f64;
        }
        self.modules.extend(own);
        Ok(())
    }

    /// Modules of names with the parts that PEFT has; `place` gives component and path of what stands before those.
    fn parts(
        &mut self,
        tensors: &[(usize, Tensor)],
        place: impl Fn(&str) -> (String, String),
    ) -> Vec<Module> {
        let mut found = Vec::new();
        for (file, tensor) in tensors {
            let known = split(&tensor.name);
            let Some((path, part)) = known.filter(|(_, part)| *part != "alpha") else {
                if known.is_none() {
                    self.others.push((tensor.name.clone(), *file, tensor.clone()));
                }
                continue;
            };
            let (component, path) = place(path);
            let module = module(&mut found, &component, &path);
            module.add(part, tensor.shape.clone(), Matrix::of(*file, tensor));
        }
        found
    }

    fn diffusers(
        &mut self,
        tensors: &[(usize, Tensor)],
        config: Option<&str>,
        alpha_of: &dyn Fn(&str) -> Option<f64>,
    ) -> Result<()> {
        let mut configs: Vec<(String, Map<String, Value>)> = Vec::new();
        if let Some(text) = config {
            let all: Map<String, Value> = json::parse(text).map_err(|error| {
                Error::new(
                    ErrorKind::Config,
                    format!("has a lora_adapter_metadata that is not JSON: {error}"),
                )
            })?;
            for (key, value) in all {
                let Some((component, field)) = key.split_once('.') else { continue };
                let place = configs.iter().position(|(known, _)| known == component).unwrap_or_else(|| {
                    configs.push((component.to_owned(), Map::new()));
                    configs.len() - 1
                });
                configs[place].1.insert(field.to_owned(), value);
            }
        }
        let own = self.parts(tensors, component_of);
        let mut scalings = Vec::new();
        for (component, mut fields) in configs {
            fields.insert("peft_type".to_owned(), "LORA".into());
            let config = AdapterConfig::parse(&json::pretty(&fields))?;
            scalings.push((component.clone(), Scaling::new(&config)?));
            self.configs.push((component, config));
        }
        if scalings.is_empty()
            && own.iter().all(|module| alpha_of(&format!("{}.{}", module.component, module.path)).is_none())
        {
            self.notes.push(
                "the file says nothing of alpha, so each module's is its rank, as diffusers takes it"
                    .to_owned(),
            );
        }
        for mut module in own {
            let scaling = scalings.iter().find(|(component, _)| *component == module.component);
            let named = format!("{}.{}", module.component, module.path);
            let rank = module.rank as f64;
            module.alpha = match (alpha_of(&named), scaling) {
                (Some(alpha), _) => alpha,
                (None, Some((_, scaling))) => scaling.scale(&module.path, module.rank) * rank,
                (None, None) => rank,
            };
            self.modules.push(module);
        }
        Ok(())
    }

    fn kohya(&mut self, tensors: &[(usize, Tensor)], alpha_of: &dyn Fn(&str) -> Option<f64>) -> Result<()> {
        const PREFIXES: [(&str, &str); 7] = [
            ("lora_unet_", "unet"),
            ("lora_transformer_", "transformer"),
            ("lora_te1_", "text_encoder"),
            ("lora_te2_", "text_encoder_2"),
            ("lora_te3_", "text_encoder_3"),
            ("lora_te_", "text_encoder"),
            ("lycoris_", ""),
        ];
        let own = self.parts(tensors, |name| (String::new(), name.to_owned()));
        let mut placed = Vec::new();
        for module in own {
            let name = module.path.clone();
            let flat = PREFIXES
                .iter()
                .find_map(|(prefix, component)| Some((name.strip_prefix(prefix)?, *component)));
            let unknown = || {
                Error::new(
                    ErrorKind::Names,
                    format!("has a module `{name}`, which is of no model that is known here"),
                )
                .help("SD1, SD2, SDXL, Flux, SD3, Wan, Qwen-Image and their text encoders are known")
            };
            let (path, component) = match (flat, name.strip_prefix("diffusion_model.")) {
                (_, Some(path)) => (path.to_owned(), "unet"),
                // a module of any model
                (Some((flat, "")), _) if !flat.contains('_') => (flat.to_owned(), ""),
                (Some((flat, "")), _) => (unflatten(flat).ok_or_else(unknown)?, ""),
                (Some((flat, component)), _) => (unflatten(flat).ok_or_else(unknown)?, component),
                (None, None) => return Err(unknown()),
            };
            let mut module = module;
            module.alpha = alpha_of(&name).filter(|alpha| *alpha != 0.0).unwrap_or(module.rank as f64);
            // LyCORIS takes the scale 1 where neither factor is a product itself
            if let (Some((_, one, _)), Some((_, other, _))) = (module.part("lokr_w1"), module.part("lokr_w2"))
            {
                module.rank = one.iter().chain(other).copied().max().unwrap_or(1);
                module.alpha = module.rank as f64;
            }
            placed.push((component, path, module));
        }
        let has = |wanted: &str| placed.iter().any(|(component, ..)| *component == wanted);
        if has("unet") && has("transformer") {
            let error = Error::new(
                ErrorKind::Names,
                "has names of kohya's (lora_unet_) and of OneTrainer's (lora_transformer_)",
            );
            return Err(error.help("take one of the two out of it"));
        }
        let paths =
            || placed.iter().filter(|(component, ..)| *component == "unet").map(|(_, path, _)| path.as_str());
        let is_sgm =
            paths().any(|path| path.starts_with("input_blocks.") || path.starts_with("output_blocks."));
        let is_plain = paths().any(|path| path.starts_with("down_blocks.") || path.starts_with("up_blocks."));
        if is_sgm && is_plain {
            let error =
                Error::new(ErrorKind::Names, "names modules of SDXL's UNet in its own way and in diffusers'");
            return Err(error.help("take one of the two out of it: diffusers would drop the first"));
        }
        let model = Model::of_own(paths());
        let is_unet = matches!(model, Model::Sd | Model::Sdxl);
        for (component, path, module) in placed {
            if component.starts_with("text_encoder") {
                // transformers 5 has dropped it
                let path = path.strip_prefix("text_model.").unwrap_or(&path).to_owned();
                // of Flux, the second is T5
                let component = if component == "text_encoder_3" && model == Model::Flux {
                    "text_encoder_2"
                } else {
                    component
                };
                self.modules.push(Module { component: component.to_owned(), path, ..module });
            } else if component == "unet" {
                let component = if is_unet { "unet" } else { "transformer" };
                self.modules.extend(module.parted(component, model, &path)?);
            } else {
                self.modules.push(Module { component: component.to_owned(), path, ..module });
            }
        }
        Ok(())
    }

    fn mlx(&mut self, tensors: &[(usize, Tensor)], config: &str) -> Result<()> {
        let bad = |detail: String| Error::new(ErrorKind::Config, detail);
        let config: Map<String, Value> =
            json::parse(config).map_err(|error| bad(format!("is not JSON: {error}")).help(MEND))?;
        let number =
            |name: &str| config.get("lora_parameters").and_then(|it| it.get(name)).and_then(json::number);
        if config.get("fine_tune_type").and_then(Value::as_str) == Some("full") {
            return Err(bad("is of a model that was trained in full".to_owned()).help("it is no adapter"));
        }
        let scale = number("scale").ok_or_else(|| bad("has no lora_parameters.scale".to_owned()))?;
        self.base = config.get("model").and_then(Value::as_str).map(String::from);
        for (file, tensor) in tensors {
            let (name, shape) = (&tensor.name, &tensor.shape);
            let Some((path, end)) = name.rsplit_once('.') else { continue };
            let is_embedding = ["embed_tokens", "wte", "embeddings"].iter().any(|it| path.ends_with(it));
            let matrix = Matrix::of(*file, tensor);
            let (part, shape, matrix) = match (end, shape.as_slice()) {
                ("lora_a", [rows, cols]) => {
                    (if is_embedding { EMBEDDING_A } else { A }, vec![*cols, *rows], matrix.transposed())
                }
                ("lora_b", [rows, cols]) => {
                    (if is_embedding { EMBEDDING_B } else { B }, vec![*cols, *rows], matrix.transposed())
                }
                ("m", [_]) => (MAGNITUDE, shape.clone(), matrix),
                ("lora_a" | "lora_b", _) => {
                    let error = Error::new(
                        ErrorKind::Shape,
                        format!("is {shape:?}: experts' adapters are not converted"),
                    );
                    return Err(error.tensor(name).help("leave it in MLX's format"));
                }
                _ => {
                    self.others.push((name.clone(), *file, tensor.clone()));
                    continue;
                }
            };
            module(&mut self.modules, "", path).add(part, shape, matrix);
        }
        for module in &mut self.modules {
            module.alpha = scale * module.rank as f64;
        }
        Ok(())
    }

    fn torchtune(
        &mut self,
        tensors: &[(usize, Tensor)],
        config: Option<&str>,
        base: Option<&Base>,
    ) -> Result<()> {
        let config = config.ok_or_else(|| {
            Error::new(ErrorKind::Config, "has no adapter_config.json beside it, which gives r and alpha")
                .help("torchtune writes one, and an adapter_model.safetensors in PEFT's names: give their folder")
        })?;
        let fields: Map<String, Value> = json::parse(config).map_err(|error| {
            Error::new(ErrorKind::Config, format!("its adapter_config.json is not JSON: {error}")).help(MEND)
        })?;
        let mut fields = fields;
        fields.entry("peft_type").or_insert_with(|| "LORA".into());
        let config = AdapterConfig::parse(&json::pretty(&fields))?;
        let scaling = Scaling::new(&config)?;
        let mut own = self.parts(tensors, |name| {
            const MLP: [(&str, &str); 3] = [("w1", "gate_proj"), ("w2", "down_proj"), ("w3", "up_proj")];
            let path = match name.strip_prefix("layers.") {
                None if name == "output" => "lm_head".to_owned(),
                None => format!("model.{name}"),
                Some(rest) => {
                    let rest = rest
                        .replace(".attn.output_proj", ".self_attn.o_proj")
                        .replace(".attn.", ".self_attn.");
                    let renamed = MLP.iter().find_map(|(own, name)| {
                        Some(format!("{}.{name}", rest.strip_suffix(own)?.strip_suffix('.')?))
                    });
                    format!("model.layers.{}", renamed.unwrap_or(rest))
                }
            };
            (String::new(), path)
        });
        let base = base.ok_or_else(|| {
            Error::new(ErrorKind::Config, "has the rows of q and k in torchtune's order, which depends on the model's heads")
                .help("give the base model with --base, or convert the adapter_model.safetensors beside it, which is PEFT's")
        })?;
        for module in &mut own {
            module.alpha = scaling.scale(&module.path, module.rank) * module.rank as f64;
            if gguf::is_rotated(&base.kind) {
                module.reorder(base, &|heads, rows| gguf::order(heads, rows, true))?;
            }
        }
        self.configs.push((String::new(), config));
        self.modules.extend(own);
        Ok(())
    }
}

/// The parts of a pipeline, as diffusers calls them.
const COMPONENTS: &[&str] =
    &["unet", "transformer", "text_encoder", "text_encoder_2", "text_encoder_3", "prior"];

/// Component and path of a module that diffusers names, in its older ways too.
fn component_of(name: &str) -> (String, String) {
    let (component, path) = match name.split_once('.') {
        Some((component, path)) if COMPONENTS.contains(&component) => (component, path),
        _ => ("", name),
    };
    let mut path = path.replace(".processor.", ".");
    // `to_q_lora.down`, which split() took for `to_q_lora` and an end of its own
    const OLD: [(&str, &str, &str); 4] = [
        ("to_out_lora", "to_out.0", "out_proj"),
        ("to_q_lora", "to_q", "q_proj"),
        ("to_k_lora", "to_k", "k_proj"),
        ("to_v_lora", "to_v", "v_proj"),
    ];
    for (old, unet, text) in OLD {
        if let Some(before) = path.strip_suffix(old) {
            path = format!("{before}{}", if component.starts_with("text_encoder") { text } else { unet });
            break;
        }
    }
    if component.starts_with("text_encoder") {
        path = path.strip_prefix("text_model.").unwrap_or(&path).to_owned();
    }
    (component.to_owned(), path)
}

impl Module {
    fn check(&self) -> Result<()> {
        let lacks = |part: &str, other: &str| {
            let error =
                Error::new(ErrorKind::Names, format!("lacks {part} of {}, but has {other}", self.path));
            error.help("the file is not whole: save or download it again")
        };
        for (one, other) in [(A, B), (EMBEDDING_A, EMBEDDING_B)] {
            match (self.part(one), self.part(other)) {
                (Some(_), None) => return Err(lacks(other, one)),
                (None, Some(_)) => return Err(lacks(one, other)),
                (Some((_, a, _)), Some((_, b, _))) if b.get(1) != a.first() => {
                    let detail = format!("has factors of {} that do not fit: A {a:?}, B {b:?}", self.path);
                    return Err(Error::new(ErrorKind::Shape, detail)
                        .help("the file is damaged: save or download it again"));
                }
                _ => {}
            }
        }
        if self.part("lora_mid.weight").is_some() {
            let detail = format!(
                "has a Tucker decomposition in {} (lora_mid), which no other container has",
                self.path
            );
            return Err(Error::new(ErrorKind::Method, detail)
                .help("train without use_tucker (use_cp), or leave it as it is"));
        }
        let twice = |(at, (part, ..)): (usize, &(&'static str, Vec<u64>, Matrix))| {
            self.parts[..at].iter().any(|(known, ..)| known == part)
        };
        if self.parts.iter().enumerate().any(twice) {
            let error = Error::new(ErrorKind::Names, format!("adapts {} twice, under two names", self.path));
            return Err(error.help("take one of the two out of it"));
        }
        if self.parts.is_empty() || self.rank == 0 && self.is_lora() || !self.alpha.is_finite() {
            let error = Error::new(ErrorKind::Shape, format!("has no rank or no scale for {}", self.path));
            return Err(error.help("the file is damaged: save or download it again"));
        }
        Ok(())
    }

    /// What diffusers has for one of the model's own modules: itself under another name, or parts of its rows.
    fn parted(self, component: &str, model: Model, path: &str) -> Result<Vec<Self>> {
        let (paths, rows) = model.to_diffusers(path);
        let count = paths.len();
        let mut parted = Vec::new();
        for (place, path) in paths.into_iter().enumerate() {
            let mut module = Self { component: component.to_owned(), path, ..self.clone() };
            if rows == Rows::Whole {
                parted.push(module);
                continue;
            }
            for (part, shape, matrix) in &mut module.parts {
                // the other factor is the same for all of them
                if matches!(*part, A | "hada_w1_b" | "hada_w2_b") {
                    continue;
                }
                let all = matrix.rows;
                let unfit = || {
                    let detail =
                        format!("has {all} rows in {}, which are not those of {count} modules", self.path);
                    Error::new(ErrorKind::Shape, detail).help("it is of a model that is not known here")
                };
                if !matches!(*part, B | MAGNITUDE | "hada_w1_a" | "hada_w2_a") {
                    let detail =
                        format!("has {part} in {}, which is {count} modules in diffusers", self.path);
                    return Err(Error::new(ErrorKind::Method, detail).help("leave it in kohya's format"));
                }
                let cols = self.part(A).map_or(0, |(_, shape, _)| shape.iter().skip(1).product());
                *matrix = match rows.order(all, cols) {
                    Some(order) => matrix.clone().ordered(order),
                    None => matrix.clone().part(rows.of(place, count, all).ok_or_else(unfit)?),
                };
                shape[0] = matrix.rows;
            }
            parted.push(module);
        }
        Ok(parted)
    }
}

/// The number of a tensor that has one.
fn scalar(tensor: &Tensor, bytes: &[u8]) -> Result<f64> {
    use crate::dtype::Dtype;
    let number = match (Float::of(tensor.dtype), tensor.dtype, bytes) {
        (Some(float), _, bytes) if bytes.len() == float.bytes() => Some(float.value(bytes)),
        (_, Dtype::I64, bytes) => {
            bytes.first_chunk().map(|it| i64::from_le_bytes(*it) as f64).filter(|_| bytes.len() == 8)
        }
        (_, Dtype::I32, bytes) => {
            bytes.first_chunk().map(|it| f64::from(i32::from_le_bytes(*it))).filter(|_| bytes.len() == 4)
        }
        _ => None,
    };
    number.filter(|number| number.is_finite()).ok_or_else(|| {
        let detail =
            format!("is no number that a module could be scaled by: {} {:?}", tensor.dtype, tensor.shape);
        Error::new(ErrorKind::Shape, detail)
            .tensor(&tensor.name)
            .help("the file is damaged: save or download it again")
    })
}
