//! What a PEFT adapter holds: pairs of factors by module, tensors that replace those of the base, rows of embeddings.

use alloc::borrow::ToOwned;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use serde_json::Value;

use crate::adapter::config::AdapterConfig;
use crate::error::{Error, ErrorKind, Result};
use crate::format::safetensors::{Header, Tensor};

/// A tensor of one of the files.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) file: usize,
    pub(super) tensor: Tensor,
}

/// A module with its factors.
#[derive(Clone, Debug, Default)]
pub(super) struct Module {
    /// Its path in the base.
    pub(super) path: String,
    /// How many wrappers of raw parameters are around what it adapts.
    pub(super) depth: usize,
    pub(super) is_embedding: bool,
    pub(super) a: Option<Found>,
    pub(super) b: Option<Found>,
    pub(super) bias: Option<Found>,
    pub(super) magnitude: Option<Found>,
}

/// What all tensors of an adapter are.
#[derive(Debug, Default)]
pub(super) struct Parts {
    pub(super) modules: Vec<Module>,
    /// Where a module is among them, by its path and how often it is wrapped.
    places: BTreeMap<(String, usize), usize>,
    /// Tensors that take the place of the base's: name in the base, and what comes there.
    pub(super) replaced: Vec<(String, Found)>,
    /// Rows of embeddings: the module, which rows, and what comes there.
    pub(super) rows: Vec<(String, Vec<u64>, Found)>,
    /// Copies of the base's own tensors: name in the base.
    pub(super) frozen: Vec<(String, Found)>,
}

/// Fields of configs by which PEFT's LoRA is another thing than W + γ·B·A, and what to do about each.
const UNLIKE: [(&str, &str); 8] = [
    ("use_qalora", "pools its input before A"),
    ("use_bdlora", "has factors in blocks along their diagonal"),
    ("kasa_config", "has a diagonal between its factors"),
    ("monteclora_config", "samples its factors"),
    ("arrow_config", "chooses among adapters token by token"),
    ("alora_invocation_tokens", "works only after its invocation tokens"),
    ("layer_replication", "repeats layers of its base"),
    ("megatron_config", "is parted among Megatron's ranks"),
];

impl Parts {
    /// Take an adapter apart; every tensor of it has its place, or is refused.
    ///
    /// # Errors
    /// [`ErrorKind::Method`] for what cannot be folded, [`ErrorKind::Names`] for tensors that are nothing known here.
    pub(super) fn new(config: &AdapterConfig, files: &[(usize, &Header)]) -> Result<Self> {
        supported(config)?;
        let mut parts = Self::default();
        for (file, header) in files {
            for tensor in header.tensors() {
                let found = Found { file: *file, tensor: tensor.clone() };
                parts.take(config, found).map_err(|error| error.tensor(&tensor.name))?;
            }
        }
        for module in &parts.modules {
            let (a, b) = (module.a.as_ref(), module.b.as_ref());
            let Some(only) = a.xor(b).or(module.bias.as_ref()).or(module.magnitude.as_ref()) else {
                continue;
            };
            if a.is_none() || b.is_none() {
                let missing = if a.is_none() { "A" } else { "B" };
                let detail = format!("is there without the factor {missing} of {}", module.path);
                return Err(Error::new(ErrorKind::Names, detail)
                    .tensor(&only.tensor.name)
                    .help("the file is damaged or cut out of another: save the adapter again"));
            }
        }
        Ok(parts)
    }

    fn take(&mut self, config: &AdapterConfig, found: Found) -> Result<()> {
        let name = found.tensor.name.clone();
        let name = name.strip_prefix("base_model.model.").unwrap_or(&name).replace("_orig_mod.", "");
        let of = |end: &str| name.strip_suffix(end).map(ToOwned::to_owned);
        if let Some(path) = of(".lora_A.weight") {
            self.module(&path).a = Some(found);
        } else if let Some(path) = of(".lora_B.weight") {
            self.module(&path).b = Some(found);
        } else if let Some(path) = of(".lora_B.bias") {
            self.module(&path).bias = Some(found);
        } else if let Some(path) = of(".lora_embedding_A") {
            let module = self.module(&path);
            (module.a, module.is_embedding) = (Some(found), true);
        } else if let Some(path) = of(".lora_embedding_B") {
            let module = self.module(&path);
            (module.b, module.is_embedding) = (Some(found), true);
        } else if let Some(path) =
            of(".lora_magnitude_vector").or_else(|| of(".lora_magnitude_vector.weight"))
        {
            self.module(&path).magnitude = Some(found);
        } else if let Some(path) = of(".token_adapter.trainable_tokens_delta") {
            let rows = rows_of(config, &path, &found.tensor)?;
            self.rows.push((path, rows, found));
        } else if name.contains(".lora_") || name.contains(".token_adapter.") {
            let detail = "is no part of an adapter that is known here, so that it cannot be folded";
            return Err(Error::new(ErrorKind::Names, detail)
                .help("fold it by PEFT itself: PeftModel.merge_and_unload()"));
        } else if let Some(path) = of(".base_layer.weight") {
            self.frozen.push((format!("{path}.weight"), found));
        } else {
            self.replaced.push((name.replace(".base_layer.", "."), found));
        }
        Ok(())
    }

    /// The module of a path, new if need be. What wraps raw parameters stands behind it.
    fn module(&mut self, path: &str) -> &mut Module {
        const WRAPPED: &str = ".base_layer";
        let mut own = path;
        let mut depth = 0;
        while let Some(inner) = own.strip_suffix(WRAPPED) {
            (own, depth) = (inner, depth + 1);
        }
        let own = own.replace(".base_layer.", ".");
        let next = self.modules.len();
        let place = *self.places.entry((own.clone(), depth)).or_insert(next);
        if place == next {
            self.modules.push(Module { path: own, depth, ..Module::default() });
        }
        &mut self.modules[place]
    }
}

/// Refuse adapters whose config says that they are something else.
fn supported(config: &AdapterConfig) -> Result<()> {
    let refused = |detail: String| Error::new(ErrorKind::Method, detail);
    const BY_PEFT: &str = "fold it by PEFT itself: PeftModel.merge_and_unload()";
    if config.peft_type() != "LORA" {
        let detail = format!("is {}, and what is folded here is LORA", config.peft_type());
        return Err(refused(detail).help(BY_PEFT));
    }
    if let Some(how) = config.base_changing_init() {
        let detail = format!(
            "was trained with init_lora_weights = {how}, which took something off its base: folded into the base as it is, that would count twice"
        );
        return Err(refused(detail).help(
            "let PEFT write it as plain LoRA: save_pretrained(…, path_initial_model_for_weight_conversion=…)",
        ));
    }
    match UNLIKE.iter().find(|(field, _)| config.is_set(field)) {
        Some((field, what)) => {
            let help = if matches!(*field, "use_bdlora" | "kasa_config" | "monteclora_config") {
                BY_PEFT
            } else {
                "use it beside its base, as PEFT does"
            };
            Err(refused(format!("sets {field}: it {what}, so that it is not W + γ·B·A")).help(help))
        }
        None => Ok(()),
    }
}

/// Which rows of an embedding are trained, in the order of the tensor's.
fn rows_of(config: &AdapterConfig, path: &str, tensor: &Tensor) -> Result<Vec<u64>> {
    let field = config.field("trainable_token_indices");
    let list = match field {
        Some(Value::Array(list)) => Some(list),
        Some(Value::Object(lists)) => lists
            .iter()
            .find(|(name, _)| path == name.as_str() || path.ends_with(&format!(".{name}")))
            .and_then(|(_, list)| list.as_array()),
        _ => None,
    };
    let rows = list.map(|list| list.iter().map(Value::as_u64).collect::<Option<Vec<_>>>());
    let count = tensor.shape.first().copied().unwrap_or(0);
    match rows.flatten() {
        Some(rows) if rows.len() as u64 == count && tensor.shape.len() == 2 => Ok(rows),
        Some(rows) => {
            let detail = format!(
                "is {:?}, but adapter_config.json lists {} tokens in trainable_token_indices",
                tensor.shape,
                rows.len()
            );
            Err(Error::new(ErrorKind::Shape, detail).help("config and weights are of two adapters"))
        }
        None => {
            let detail = format!(
                "holds rows of {path}, but adapter_config.json does not say which (trainable_token_indices)"
            );
            Err(Error::new(ErrorKind::Config, detail).help("copy the adapter_config.json of its training"))
        }
    }
}
