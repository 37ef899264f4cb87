//! An adapter taken out of a fine-tuned model: the best factors of what each weight differs by, and whole what has none.
//!
//! Tensors are compared one by one, in any order; what was found of all of them decides the adapter, which is laid out then.

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

use serde_json::{Map, Value, json};

use self::find::{Difference, differ};
use crate::dtype::{Dtype, Float};
use crate::error::{Error, ErrorKind, Result};
use crate::files::{Files, Maybe, last};
use crate::fold::ReadAt;
use crate::format::safetensors::{Header, Tensor, TextMap};
use crate::merge::Hash;
use crate::merge::report::{self, CONFIG, Distance, Extracted, ModuleDistance, Report};
use crate::run::checkpoint::{Checkpoint, model_config};
use crate::run::readers::{OpenOptions, Readers};
use crate::text::escape::{markdown, readable};
use crate::text::index::Index;
use crate::text::json as text_json;

pub use find::{ExtractRank, Pair};

mod find;

/// What is taken out of what.
#[derive(Clone, Debug)]
pub struct ExtractOptions {
    /// The fine-tuned model: its folder, or a file.
    pub tuned: String,
    /// The model that it was trained from.
    pub base: String,
    /// The rank of the factors.
    pub rank: ExtractRank,
    /// What the adapter calls its base: a hub id or a path; as the base's config does without, or else its path.
    pub name: Option<String>,
}

/// Two models that are compared.
#[derive(Debug)]
pub struct Extraction {
    /// The files that are read: the tuned model's, then the base's.
    pub tuned: Checkpoint,
    /// See [`Self::tuned`].
    pub base: Checkpoint,
    compared: Vec<Compared>,
    rank: ExtractRank,
    /// What PEFT calls the base, and what the model is for.
    base_name: String,
    task: Option<&'static str>,
}

/// What the weight of a module is.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    /// `[out, in]`
    Linear,
    /// `[in, out]`, GPT-2's `Conv1D`
    Turned,
    /// `[tokens, width]`
    Embedding,
    /// No pair of factors.
    Whole,
}

/// A tensor of both.
#[derive(Debug)]
struct Compared {
    tensor: Tensor,
    kind: Kind,
    files: [usize; 2],
    starts: [u64; 2],
    floats: [Option<Float>; 2],
}

/// What comparing a tensor gave.
#[derive(Clone, Debug)]
pub enum Found {
    /// No difference.
    Same,
    /// A difference that has no factors.
    Other,
    /// The factors of it.
    Factors(Pair),
}

/// The adapter that comes of it.
#[derive(Debug)]
pub struct Adapter {
    /// Where its tensors lie.
    pub header: Header,
    /// What they are, in that order.
    pub parts: Vec<Part>,
    /// Small files beside it: name and text.
    pub texts: Vec<(String, String)>,
    /// What the user should know.
    pub notes: Vec<String>,
    /// Which modules, with what is left over.
    pub told: Extracted,
    /// The same by module.
    pub distance: Option<Distance>,
}

/// The bytes of a tensor of the adapter.
#[derive(Clone, Debug)]
pub enum Part {
    /// Numbers of the pair of a tensor: its place, whether it is the left factor, whether that is turned.
    Factor(usize, bool, bool),
    /// Bytes of a file of the tuned model.
    Copy(usize, Range<u64>),
}

/// What the weights file of an adapter is called.
pub const WEIGHTS: &str = "adapter_model.safetensors";
/// The beginning of PEFT's names.
const PRE: &str = "base_model.model.";

impl Extraction {
    /// Open both and see that they have the same tensors.
    ///
    /// # Errors
    /// What is wrong with either, and where they are not of one architecture.
    pub fn new(files: &dyn Files, readers: &Readers, options: &ExtractOptions) -> Maybe<Self> {
        let wanted = OpenOptions::default();
        let tuned = Checkpoint::open(files, readers, &options.tuned, &wanted)?;
        let base = Checkpoint::open(files, readers, &options.base, &wanted)?;
        for checkpoint in [&tuned, &base] {
            plain(checkpoint)?;
        }
        let config = |checkpoint: &Checkpoint| -> Maybe<Option<Value>> {
            let Some(folder) = &checkpoint.folder else { return Ok(None) };
            Ok(model_config(files, folder)?.and_then(|text| text_json::parse(&text).ok()))
        };
        let (own, of_base) = (config(&tuned)?, config(&base)?);
        let field = |config: &Option<Value>, name: &str| {
            config.as_ref().and_then(|it| it.get(name)).and_then(Value::as_str).map(String::from)
        };
        let named = field(&of_base, "_name_or_path").filter(|name| !name.is_empty());
        let class = own
            .or(of_base.clone())
            .and_then(|it| Some(it.get("architectures")?.get(0)?.as_str()?.to_owned()));
        let task = class.as_deref().and_then(task_of);
        let kind = field(&of_base, "model_type").unwrap_or_default();
        let compared = compared(&tuned, &base, &kind, task)?;
        let base_name = options.name.clone().or(named).unwrap_or_else(|| options.base.clone());
        Ok(Self { tuned, base, compared, rank: options.rank, base_name, task })
    }

    /// How many tensors are to be compared, and the bytes of each in the tuned model.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = u64> {
        self.compared.iter().map(|it| it.tensor.len())
    }

    /// Compare one, a few rows of about `most` bytes at a time; `read` gives bytes of an input, numbered as the tuned model's files
    /// and then the base's.
    ///
    /// # Errors
    /// Those of `read`, and [`ErrorKind::NonFinite`].
    #[cfg_attr(target_family = "wasm", inline)]
    #[cfg_attr(not(target_family = "wasm"), inline(always))]
    pub fn compare(&self, number: usize, most: u64, read: &mut ReadAt<'_>) -> Result<Found> {
        let it = &self.compared[number];
        let count: u64 = it.tensor.shape.iter().product();
        if it.tensor.is_empty() {
            return Ok(Found::Same);
        }
        let files = [it.files[0], self.tuned.files.len() + it.files[1]];
        let [Some(one), Some(other)] = it.floats else {
            // what are no numbers here is compared byte by byte
            let places = [(files[0], it.starts[0], Float::F8E5M2), (files[1], it.starts[1], Float::F8E5M2)];
            let is_other = it.tensor.dtype != self.dtype_of_base(it)
                || differ(&places, it.tensor.len(), most, true, read)?;
            return if is_other { Err(self.not_a_number(it)) } else { Ok(Found::Same) };
        };
        let places = [(files[0], it.starts[0], one), (files[1], it.starts[1], other)];
        if it.kind == Kind::Whole {
            let is_other = differ(&places, count, most / 8, false, read)?;
            return Ok(if is_other { Found::Other } else { Found::Same });
        }
        let size = |number: u64| {
            usize::try_from(number)
                .map_err(|_| Error::new(ErrorKind::Shape, "is too large for this machine's memory"))
        };
        let (rows, cols) = (size(it.tensor.shape[0])?, size(it.tensor.shape[1])?);
        let together = size(most)? / 8 / cols.max(1);
        let difference = Difference { rows, cols, places, together: together.max(1) };
        let found = difference.factors(self.rank, read)?;
        match found {
            None => Ok(Found::Same),
            Some(pair) if !pair.norm.is_finite() => {
                let detail =
                    format!("holds NaN or infinity, in {} or in {}", self.tuned.name, self.base.name);
                Err(Error::new(ErrorKind::NonFinite, detail)
                    .file(&*self.tuned.name)
                    .tensor(&it.tensor.name)
                    .help("take a checkpoint of before the training diverged"))
            }
            Some(pair) => Ok(Found::Factors(pair)),
        }
    }

    fn dtype_of_base(&self, it: &Compared) -> Dtype {
        let mut tensors = self.base.files[it.files[1]].header.tensors().iter();
        tensors.find(|tensor| tensor.name == it.tensor.name).map_or(it.tensor.dtype, |tensor| tensor.dtype)
    }

    fn not_a_number(&self, it: &Compared) -> Error {
        let detail = format!(
            "is {}, and differs from that of {}: an adapter holds floats only",
            it.tensor.dtype, self.base.name
        );
        Error::new(ErrorKind::Dtype, detail)
            .file(&*self.tuned.name)
            .tensor(&it.tensor.name)
            .help("keep the model whole")
    }

    /// Lay out the adapter of what was found of all tensors, in their order.
    ///
    /// # Errors
    /// [`ErrorKind::Method`] for a difference that no PEFT adapter holds, [`ErrorKind::Input`] where there is none at all.
    pub fn adapter(&self, found: &[Found]) -> Result<Adapter> {
        let mut parts: Vec<(String, Dtype, Vec<u64>, Part)> = Vec::new();
        let (mut modules, mut saved, mut biases) = (Vec::new(), Vec::new(), Vec::new());
        for (number, (it, found)) in self.compared.iter().zip(found).enumerate() {
            match found {
                Found::Same => {}
                Found::Factors(pair) => {
                    let path = it.path().expect("it is a weight").to_owned();
                    let [rows, cols] = [it.tensor.shape[0], it.tensor.shape[1]];
                    let rank = pair.rank as u64;
                    let [a, b] = if it.kind == Kind::Embedding {
                        ["lora_embedding_A", "lora_embedding_B"]
                    } else {
                        ["lora_A.weight", "lora_B.weight"]
                    };
                    let (first, second) = if it.kind == Kind::Linear {
                        (
                            (vec![rank, cols], Part::Factor(number, false, false)),
                            (vec![rows, rank], Part::Factor(number, true, false)),
                        )
                    } else {
                        (
                            (vec![rank, rows], Part::Factor(number, true, true)),
                            (vec![cols, rank], Part::Factor(number, false, true)),
                        )
                    };
                    for (name, (shape, part)) in [(a, first), (b, second)] {
                        parts.push((format!("{PRE}{path}.{name}"), Dtype::F32, shape, part));
                    }
                    modules.push((path, pair));
                }
                Found::Other if it.tensor.name.ends_with(".bias") => biases.push(it),
                Found::Other => match it.path() {
                    Some(path) => saved.push(path.to_owned()),
                    None => return Err(self.no_module(it)),
                },
            }
        }
        // a module that is saved is saved with all that it has
        for it in &self.compared {
            let name = &it.tensor.name;
            let own = name.rsplit_once('.').filter(|(path, _)| saved.iter().any(|it| it == path));
            if own.is_some() {
                parts.push((format!("{PRE}{name}"), it.tensor.dtype, it.tensor.shape.clone(), it.copied()));
            }
        }
        let mut bias = "none";
        for it in biases {
            let path = it.tensor.name.strip_suffix(".bias").expect("it ends so");
            if saved.iter().any(|saved| saved == path) {
                continue;
            }
            let is_linear = modules.iter().any(|(module, _)| module == path);
            let has_weight = self.compared.iter().find(|other| other.path() == Some(path));
            if !is_linear && has_weight.is_some_and(|other| other.kind == Kind::Whole) {
                saved.push(path.to_owned());
                for own in self
                    .compared
                    .iter()
                    .filter(|own| own.tensor.name.rsplit_once('.').is_some_and(|(it, _)| it == path))
                {
                    parts.push((
                        format!("{PRE}{}", own.tensor.name),
                        own.tensor.dtype,
                        own.tensor.shape.clone(),
                        own.copied(),
                    ));
                }
                continue;
            }
            bias = if is_linear && bias != "all" { "lora_only" } else { "all" };
            let name = if is_linear { format!("{path}.base_layer.bias") } else { it.tensor.name.clone() };
            parts.push((format!("{PRE}{name}"), it.tensor.dtype, it.tensor.shape.clone(), it.copied()));
        }
        if parts.is_empty() {
            let detail = format!(
                "is the same as {} in all {} tensors: there is nothing to take out",
                self.base.name,
                self.compared.len()
            );
            return Err(Error::new(ErrorKind::Input, detail)
                .file(&*self.tuned.name)
                .help("give the model before its training with --base"));
        }
        if modules.is_empty() {
            let detail =
                "differs in no weight that a LoRA could hold, only in tensors that would be saved whole";
            return Err(Error::new(ErrorKind::Method, detail)
                .file(&*self.tuned.name)
                .help("keep the model whole"));
        }
        self.laid_out(parts, &modules, saved, bias)
    }

    fn no_module(&self, it: &Compared) -> Error {
        let detail = format!(
            "is {:?} and differs from that of {}, but is no weight of a module, so that no adapter holds it",
            it.tensor.shape, self.base.name
        );
        Error::new(ErrorKind::Method, detail)
            .file(&*self.tuned.name)
            .tensor(&it.tensor.name)
            .help("keep the model whole")
    }

    fn laid_out(
        &self,
        parts: Vec<(String, Dtype, Vec<u64>, Part)>,
        modules: &[(String, &Pair)],
        mut saved: Vec<String>,
        bias: &str,
    ) -> Result<Adapter> {
        saved.sort();
        let metadata: TextMap = serde_json::from_str(r#"{"format":"pt"}"#).expect("it is a map of texts");
        let shapes = parts.iter().map(|(name, dtype, shape, _)| (name.clone(), *dtype, shape.clone()));
        let header = Header::layout(shapes, metadata)?;
        let index = Index::new(parts.iter().map(|(name, ..)| name.as_str()));
        let in_order = header
            .tensors()
            .iter()
            .map(|tensor| parts[index.place(&tensor.name).expect("they are the same")].3.clone());
        let in_order = in_order.collect();
        let rows = modules.iter().map(|(module, pair)| ModuleDistance {
            module: module.clone(),
            rank: Some(pair.rank),
            relative: libm::sqrt(pair.error / pair.norm),
            standard_error: None,
        });
        let sum = |of: fn(&Pair) -> f64| modules.iter().map(|(_, pair)| of(pair)).sum::<f64>();
        let distance = Distance {
            overall: libm::sqrt(sum(|pair| pair.error) / sum(|pair| pair.norm)),
            method: "exact".into(),
            standard_error: None,
            modules: rows.collect(),
        };
        let wanted = match self.rank {
            ExtractRank::Fixed(rank) => rank.to_string(),
            ExtractRank::Error(error) => format!("error {error}"),
        };
        let mut notes = Vec::new();
        if !saved.is_empty() {
            let some: Vec<_> = saved.iter().take(3).map(String::as_str).collect();
            let more = if saved.len() > 3 { ", …" } else { "" };
            notes.push(format!(
                "what differs and has no factors is saved whole, in {} of modules_to_save: {}{more}",
                saved.len(),
                some.join(", ")
            ));
        }
        let told = Extracted {
            base: self.base_name.clone(),
            rank: wanted,
            modules: modules.len(),
            saved: saved.clone(),
        };
        let config = self.config(modules, saved, bias);
        let texts = vec![(CONFIG.to_owned(), config), (report::CARD.to_owned(), self.card(&distance))];
        Ok(Adapter { header, parts: in_order, texts, notes, told, distance: Some(distance) })
    }

    /// PEFT's config. Alpha is the rank, everywhere, so that the scale is 1.
    fn config(&self, modules: &[(String, &Pair)], saved: Vec<String>, bias: &str) -> String {
        let rank = modules.iter().map(|(_, pair)| pair.rank).max().unwrap_or(1);
        let others: Map<String, Value> = modules
            .iter()
            .filter(|(_, pair)| pair.rank != rank)
            .map(|(module, pair)| (module.clone(), Value::from(pair.rank)))
            .collect();
        // a name by itself, where all modules of that name are adapted
        let end = |path: &str| path.rsplit('.').next().unwrap_or(path).to_owned();
        let sorted = |mut names: Vec<String>| {
            names.sort();
            names
        };
        let all = sorted(self.compared.iter().filter_map(Compared::path).map(end).collect());
        let adapted = sorted(modules.iter().map(|(module, _)| end(module)).collect());
        let count = |names: &[String], name: &String| {
            names.partition_point(|it| it <= name) - names.partition_point(|it| it < name)
        };
        let target = |(module, _): &(String, &Pair)| {
            let own = end(module);
            if count(&all, &own) == count(&adapted, &own) { own } else { module.clone() }
        };
        let mut targets = sorted(modules.iter().map(target).collect());
        targets.dedup();
        let is_turned = self.compared.iter().any(|it| it.kind == Kind::Turned);
        let saved = if saved.is_empty() { Value::Null } else { saved.into() };
        let fields = json!({
            "alpha_pattern": others,
            "base_model_name_or_path": self.base_name,
            "bias": bias,
            "fan_in_fan_out": is_turned,
            "inference_mode": true,
            "init_lora_weights": true,
            "lora_alpha": rank,
            "lora_dropout": 0.0,
            "modules_to_save": saved,
            "peft_type": "LORA",
            "r": rank,
            "rank_pattern": others,
            "target_modules": targets,
            "task_type": self.task,
            "use_dora": false,
            "use_rslora": false,
        });
        let Value::Object(fields) = fields else { unreachable!("it is written as one") };
        text_json::pretty(&fields)
    }

    fn card(&self, distance: &Distance) -> String {
        format!(
            "---\nbase_model: {}\nlibrary_name: peft\ntags:\n- mwa\n- lora\n---\n\n# {} as an adapter\n\nThe difference of {} and its base in factors, \
             made with mwa {}. What they leave over of it: {}.\n\nHashes of all inputs and of the result are in `mwa-report.json`; `mwa verify` \
             takes it out again and compares.\n",
            text_json::quoted(&readable(&self.base_name)),
            markdown(last(&self.tuned.name)),
            markdown(&self.tuned.name),
            env!("CARGO_PKG_VERSION"),
            markdown(&distance.describe()),
        )
    }

    /// The report: `paths` are the ways from the output folder to the tuned model and to the base.
    #[must_use]
    pub fn report(&self, adapter: &Adapter, paths: &[String], inputs: &[Vec<Hash>], output: &Hash) -> Report {
        let both = [&self.tuned, &self.base].into_iter().zip(["tuned", "base"]);
        let inputs = both.zip(paths).zip(inputs).map(|(((checkpoint, role), path), hashes)| {
            let weight = if role == "base" { -1.0 } else { 1.0 };
            report::Input::of_role(checkpoint, role, path, weight, hashes)
        });
        Report {
            residual: adapter.distance.clone(),
            extracted: Some(adapter.told.clone()),
            outputs: vec![output.of(WEIGHTS, adapter.header.file_len())],
            notes: adapter.notes.clone(),
            ..Report::unweighed("extract", inputs.collect())
        }
    }
}

impl Compared {
    /// The module whose weight it is.
    fn path(&self) -> Option<&str> {
        self.tensor.name.strip_suffix(".weight")
    }

    fn copied(&self) -> Part {
        Part::Copy(self.files[0], self.tensor.range.clone())
    }
}

impl Part {
    /// The bytes of numbers of a pair: `[rank, columns]` or `[rows, rank]`, turned if they are.
    #[must_use]
    pub fn factor(found: &[Found], number: usize, is_left: bool, is_turned: bool) -> Vec<u8> {
        let Found::Factors(pair) = &found[number] else { return Vec::new() };
        let values = if is_left { &pair.left } else { &pair.right };
        let (rows, cols) = if is_left {
            (pair.left.len() / pair.rank, pair.rank)
        } else {
            (pair.rank, pair.right.len() / pair.rank)
        };
        let mut bytes = Vec::with_capacity(4 * values.len());
        if is_turned {
            for col in 0..cols {
                (0..rows).for_each(|row| bytes.extend_from_slice(&values[row * cols + col].to_le_bytes()));
            }
        } else {
            values.iter().for_each(|value| bytes.extend_from_slice(&value.to_le_bytes()));
        }
        bytes
    }
}

/// Refuse what is no plain model.
fn plain(checkpoint: &Checkpoint) -> Result<()> {
    let is_dora = checkpoint.config.as_ref().is_some_and(|config| config.is_set("use_dora"));
    let how = if is_dora { "a DoRA adapter" } else { "an adapter" };
    checkpoint.check_whole(format!("is {how} itself, and an adapter is taken out of whole models"))?;
    checkpoint.check_plain("plain weights are compared", "give the model as it was before it was quantised")
}

/// Both tensors of each name.
fn compared(tuned: &Checkpoint, base: &Checkpoint, model: &str, task: Option<&str>) -> Result<Vec<Compared>> {
    let [own, others]: [Vec<_>; 2] = [tuned, base].map(|checkpoint| checkpoint.placed(0).collect());
    let index = Index::new(others.iter().map(|(_, tensor)| tensor.name.as_str()));
    let missing = |of: &Checkpoint, tensor: &Tensor, from: &Checkpoint| {
        let detail = format!("is in {} ({:?}), but not in {}", of.name, tensor.shape, from.name);
        Error::new(ErrorKind::Names, detail)
            .file(&*from.name)
            .tensor(&tensor.name)
            .help("give the model that the other was trained from with --base; both need the same tensors")
    };
    let known = Index::new(own.iter().map(|(_, tensor)| tensor.name.as_str()));
    if let Some((_, tensor)) = others.iter().find(|(_, tensor)| !known.has(&tensor.name)) {
        return Err(missing(base, tensor, tuned));
    }
    let mut found = Vec::with_capacity(own.len());
    for (file, tensor) in own {
        let place = index.place(&tensor.name).ok_or_else(|| missing(tuned, tensor, base))?;
        let (other_file, other) = &others[place];
        if other.shape != tensor.shape {
            let detail = format!("is {:?}, but in {} {:?}", tensor.shape, base.name, other.shape);
            return Err(Error::new(ErrorKind::Shape, detail)
                .file(&*tuned.name)
                .tensor(&tensor.name)
                .help("give the model that it was trained from; where its vocabulary was resized, resize the base alike and save it"));
        }
        found.push(Compared {
            kind: kind(tensor, model, task),
            files: [file, *other_file],
            starts: [tensor.range.start, other.range.start],
            floats: [Float::of(tensor.dtype), Float::of(other.dtype)],
            tensor: tensor.clone(),
        });
    }
    Ok(found)
}

/// What a weight is, by its name and the model's type: files do not say it.
fn kind(tensor: &Tensor, model: &str, task: Option<&str>) -> Kind {
    const EMBEDDINGS: [&str; 6] =
        ["embed_tokens", "wte", "word_embeddings", "shared", "embed_in", "tok_embeddings"];
    const WHOLE: [&str; 4] = ["wpe", "embed_positions", "position_embeddings", "token_type_embeddings"];
    const TURNED: [&str; 4] = ["c_attn", "c_proj", "c_fc", "q_attn"];
    const OF_CONV1D: [&str; 4] = ["gpt2", "openai-gpt", "imagegpt", "decision_transformer"];
    let Some(path) = tensor.name.strip_suffix(".weight") else { return Kind::Whole };
    let name = path.rsplit('.').next().unwrap_or(path);
    // PEFT saves the heads of such tasks whole
    let is_head = matches!(task, Some("SEQ_CLS" | "TOKEN_CLS")) && ["score", "classifier"].contains(&name);
    if tensor.shape.len() != 2 || WHOLE.contains(&name) || is_head || tensor.shape.contains(&0) {
        Kind::Whole
    } else if EMBEDDINGS.contains(&name) {
        Kind::Embedding
    } else if OF_CONV1D.contains(&model) && TURNED.contains(&name) {
        Kind::Turned
    } else {
        Kind::Linear
    }
}

/// PEFT's name of what a class of transformers is for.
fn task_of(class: &str) -> Option<&'static str> {
    const TASKS: [(&str, &str); 4] = [
        ("ForCausalLM", "CAUSAL_LM"),
        ("ForSequenceClassification", "SEQ_CLS"),
        ("ForTokenClassification", "TOKEN_CLS"),
        ("ForQuestionAnswering", "QUESTION_ANS"),
    ];
    // GPT-2's name is older
    let class = if class == "GPT2LMHeadModel" { "ForCausalLM" } else { class };
    TASKS.iter().find(|(end, _)| class.ends_with(end)).map(|(_, task)| *task)
}
