//! The state of an optimizer as `torch.save(optimizer.state_dict(), …)` leaves it: of which kind it is, where its tensors lie, and
//! which parameter each belongs to.
//!
//! The file numbers parameters and names none. A Trainer gives its optimizer those that decay and then those that do not (biases
//! and norms), each in the order of the model: layers by number, modules as their class makes them. From the names and shapes of
//! the weights beside it that order is found again; every shape is checked, and where shapes leave a choice that no table of
//! modules decides, nothing is guessed.

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use super::choose::{Chosen, entry};
use super::pickle::{Id, Node, Pickle, bad};
use super::{MAGIC, START, open_old, open_zip};
use crate::error::{Error, ErrorKind, Result};
use crate::files::{Files, Maybe, size};
use crate::format::safetensors::Header;
use crate::text::escape::readable;

/// What second moments of a weight are called, behind its name.
pub(crate) const SQUARES: &str = ".exp_avg_sq";
/// What the means of a matrix's rows, and of its columns, are called where they stand for these.
pub(crate) const MEANS: [&str; 2] = [".exp_avg_sq_row", ".exp_avg_sq_col"];
/// Where bitsandbytes keeps its tensors from 0.50 on.
const NESTED: &str = "__bnb_optimizer_quant_state__";
/// Most parameters of which a file may tell.
const MOST: usize = 1 << 20;
/// What to do where names cannot be proven.
const NAMES: &str = "write them down where the model is, decaying ones first, and lay them beside the state: \
                     json.dump([n for n, p in model.named_parameters() if p.requires_grad], open(\"names.json\", \"w\"))";

/// What an optimizer remembers of each parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OptimizerKind {
    /// Means of gradients and of their squares: `exp_avg`, `exp_avg_sq`.
    Adam,
    /// The same in bitsandbytes' names, `state1` and `state2`, in 32 bits.
    Bnb32,
    /// The same in 8 bits, with a table of values and a scale for each block of 256.
    Bnb8,
    /// A mean of squares: `square_avg`.
    RmsProp,
    /// A sum of squares: `sum`.
    Adagrad,
    /// Squares by rows and columns: `exp_avg_sq_row`, `exp_avg_sq_col`.
    Adafactor,
    /// A mean of gradients alone, or nothing: Lion, SGD, Muon.
    NoSquares,
    /// Something that is not known here.
    Other,
}

impl OptimizerKind {
    /// What messages call it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Adam => "Adam",
            Self::Bnb32 => "Adam of bitsandbytes in 32 bits",
            Self::Bnb8 => "Adam of bitsandbytes in 8 bits",
            Self::RmsProp => "RMSprop",
            Self::Adagrad => "Adagrad",
            Self::Adafactor => "Adafactor",
            Self::NoSquares => "an optimizer without squares of gradients (Lion, SGD, Muon)",
            Self::Other => "an optimizer that is not known here",
        }
    }

    /// The name of the tensor that holds the squares of gradients, as large as its parameter; none where there is none. Adafactor has one
    /// of a vector alone.
    #[must_use]
    pub const fn squares(self) -> Option<&'static str> {
        match self {
            Self::Adam | Self::Adafactor => Some("exp_avg_sq"),
            Self::Bnb32 | Self::Bnb8 => Some("state2"),
            Self::RmsProp => Some("square_avg"),
            Self::Adagrad => Some("sum"),
            Self::NoSquares | Self::Other => None,
        }
    }
}

/// Parameters that are trained alike.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    /// Their numbers.
    pub parameters: Vec<usize>,
    /// Their names, where the file tells them.
    pub names: Option<Vec<String>>,
    /// β₁ and β₂, where it has them.
    pub betas: Option<(f64, f64)>,
}

/// The state of an optimizer.
#[derive(Clone, Debug)]
pub struct Optimizer {
    /// Of which kind most of it is.
    pub kind: OptimizerKind,
    /// Groups of parameters.
    pub groups: Vec<Group>,
    /// The tensors: `7.exp_avg_sq` is that of parameter 7.
    pub header: Header,
    /// How many steps the optimizer took, by parameter, where it counts them as a number; else `7.step` is a tensor.
    pub steps: Vec<(usize, u64)>,
}

impl Optimizer {
    /// Open a file of an optimizer's state.
    ///
    /// # Errors
    /// What is wrong with it, and what the system refuses; the caller names the file.
    pub fn open(files: &dyn Files, path: &str) -> Maybe<Self> {
        let len = size(files, path)?;
        let start = files.read(path, 0..START.min(len))?;
        let mut told = None;
        let catalog = if start.starts_with(b"PK\x03\x04") {
            open_zip(files, path, len, &mut |pickle| {
                told = Some(read(pickle)?);
                tensors(pickle)
            })?
        } else if start.starts_with(MAGIC) {
            open_old(files, path, len, &mut |pickle| {
                told = Some(read(pickle)?);
                tensors(pickle)
            })?
        } else {
            return Err(bad("is no file of torch.save()").into());
        };
        let Some((kind, groups, steps)) = told else {
            return Err(bad("holds no state of an optimizer").into());
        };
        Ok(Self { kind, groups, header: catalog.header, steps })
    }

    /// How many parameters it trains.
    #[must_use]
    pub fn count(&self) -> usize {
        self.groups.iter().map(|group| group.parameters.len()).sum()
    }

    /// In a few words: "the state of Adam for 126 parameters".
    #[must_use]
    pub fn describe(&self) -> String {
        format!("the state of {} for {} parameters", self.kind.name(), self.count())
    }

    /// A tensor of a parameter, by its name in the state.
    fn tensor(&self, number: usize, name: &str) -> Option<&[u64]> {
        let wanted = format!("{number}.{name}");
        let found = self.header.tensors().iter().find(|tensor| tensor.name == wanted);
        found.map(|tensor| tensor.shape.as_slice())
    }

    /// Which parameter each number is, of those with these names and shapes: those of the adapter's or model's own file.
    /// `model` is what is known of the model's class: its `model_type`, or the name of its base.
    ///
    /// # Errors
    /// [`ErrorKind::Names`] or [`ErrorKind::Shape`] where they do not fit, or more than one order does.
    pub fn names(
        &self,
        parameters: &[(String, Vec<u64>)],
        model: Option<&str>,
    ) -> Result<Vec<(usize, String)>> {
        let count = self.count();
        if count != parameters.len() {
            let detail = format!("is of {count} parameters, and the weights have {}", parameters.len());
            return Err(Error::new(ErrorKind::Names, detail)
                .help("give the weights that were saved with it; tied ones count once"));
        }
        if let Some(named) = self.groups.iter().map(|group| group.names.as_ref()).collect::<Option<Vec<_>>>()
        {
            return self.named(parameters, &named.into_iter().flatten().cloned().collect::<Vec<_>>());
        }
        let numbers = self.numbers();
        let mut ordered: Vec<(Rank, String, &Vec<u64>)> =
            parameters.iter().map(|(name, shape)| (Rank::of(&plain(name)), plain(name), shape)).collect();
        ordered.sort_by(|a, b| a.0.cmp(&b.0).then_with(|| a.1.cmp(&b.1)));
        let mut found = Vec::new();
        for (number, (_, name, shape)) in numbers.iter().zip(&ordered) {
            self.fits(*number, name, shape)?;
            found.push((*number, name.clone()));
        }
        // no other order has these shapes in sequence, or the class makes its modules so
        let Some((first, second)) = twins(&ordered) else { return Ok(found) };
        let mut stacks: Vec<_> = ordered.iter().filter_map(|(_, name, _)| before_layer(name)).collect();
        stacks.dedup();
        let is_one_stack = stacks.len() <= 1 && stacks.iter().all(|stack| stack.ends_with("model."));
        if is_one_stack && model.is_some_and(is_known) && ordered.iter().all(|(rank, ..)| rank.is_known()) {
            return Ok(found);
        }
        let detail = format!(
            "numbers its parameters, and `{}` and `{}` have one shape: their order is that of the model's class, which is not known",
            readable(&first),
            readable(&second)
        );
        Err(Error::new(ErrorKind::Names, detail).help(NAMES))
    }

    /// The numbers of parameters in the order of the groups.
    fn numbers(&self) -> Vec<usize> {
        self.groups.iter().flat_map(|group| group.parameters.iter().copied()).collect()
    }

    /// The same as [`Self::names`] where the names are known, in the order of the groups.
    ///
    /// # Errors
    /// As there.
    pub fn named(&self, parameters: &[(String, Vec<u64>)], names: &[String]) -> Result<Vec<(usize, String)>> {
        let numbers = self.numbers();
        if numbers.len() != names.len() {
            let detail = format!("names {} parameters, and the optimizer has {}", names.len(), numbers.len());
            return Err(Error::new(ErrorKind::Names, detail).help(NAMES));
        }
        let mut found = Vec::new();
        for (number, name) in numbers.iter().zip(names) {
            let name = plain(name);
            let shape = parameters.iter().find(|(other, _)| plain(other) == name).map(|(_, shape)| shape);
            let shape = shape.ok_or_else(|| {
                Error::new(ErrorKind::Names, "is trained, and missing in the weights").tensor(&*name)
            })?;
            self.fits(*number, &name, shape)?;
            found.push((*number, name));
        }
        Ok(found)
    }

    /// Whether what is kept of a parameter has its shape.
    fn fits(&self, number: usize, name: &str, shape: &[u64]) -> Result<()> {
        let own = self.kind.squares().and_then(|squares| self.tensor(number, squares));
        let [rows, columns] = MEANS.map(|end| self.tensor(number, &end[1..]));
        let odd = match (own, rows.or(columns)) {
            (Some(own), _) => (own != shape).then_some(own),
            // means of the last dimension, and of the one before it
            (None, Some(_)) => [(rows, 1), (columns, 2)].into_iter().find_map(|(half, from_end)| {
                let half = half.unwrap_or_default();
                let at = shape.len().checked_sub(from_end);
                let fits = at.is_some_and(|at| half.iter().eq(shape[..at].iter().chain(&shape[at + 1..])));
                (!fits).then_some(half)
            }),
            // a parameter that never had a gradient has no state
            (None, None) => None,
        };
        let Some(odd) = odd else { return Ok(()) };
        let detail = format!(
            "is {shape:?}, and parameter {number} of the optimizer, which it should be by its place, {odd:?}"
        );
        Err(Error::new(ErrorKind::Shape, detail).tensor(name).help(NAMES))
    }
}

/// A name as files of weights have it, without the name of the adapter and of the copy that is trained.
pub(crate) fn plain(name: &str) -> String {
    let name = name.replace(".modules_to_save.default", "").replace(".default", "");
    // a vector of DoRA is a module in the model, and none in the file
    if name.ends_with(".lora_magnitude_vector.weight") {
        name.trim_end_matches(".weight").to_owned()
    } else {
        name
    }
}

/// What a name has before its layer.
fn before_layer(name: &str) -> Option<&str> {
    name.split_once("layers.").map(|(before, _)| before)
}

/// Where a parameter comes in the order of its model; `usize::MAX` for a module that no table has.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    /// Biases and norms come last: they do not decay.
    decays_not: bool,
    /// Embeddings, layers, what is behind them.
    part: usize,
    layer: u64,
    module: usize,
    /// The weight, the bias, A, B, magnitude.
    leaf: usize,
}

/// Modules of a layer in the order in which Llama, Mistral, Qwen and Gemma make them.
const MODULES: [&str; 13] = [
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "self_attn.q_norm",
    "self_attn.k_norm",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
    "input_layernorm",
    "post_attention_layernorm",
    "pre_feedforward_layernorm",
    "post_feedforward_layernorm",
];
/// The tensors of a module in their order; what is between module and weight in PEFT's names is a part of them.
const LEAVES: [&str; 9] = [
    "base_layer.weight",
    "weight",
    "base_layer.bias",
    "bias",
    "lora_A.weight",
    "lora_B.weight",
    "lora_embedding_A",
    "lora_embedding_B",
    "lora_magnitude_vector",
];
/// Words in the `model_type`s and names of models whose classes are as [`MODULES`] says.
const FAMILIES: [&str; 8] = ["llama", "mistral", "ministral", "qwen2", "qwen3", "gemma", "smollm", "vicuna"];

fn is_known(model: &str) -> bool {
    let model = model.to_ascii_lowercase();
    // their experts are no modules of the table, and these have others' names
    let is_other =
        ["moe", "mixtral", "gemma3n", "-vl", "vision", "next"].iter().any(|word| model.contains(word));
    !is_other && FAMILIES.iter().any(|word| model.contains(word))
}

impl Rank {
    fn of(name: &str) -> Self {
        let lower = name.to_ascii_lowercase();
        // Trainer's list of what does not decay
        let is_norm = lower.contains("layernorm")
            || lower.contains("rmsnorm")
            || lower.contains("_norm.")
            || lower.split('.').any(|part| part == "norm");
        let decays_not = is_norm || lower.contains("bias");
        let (inner, part, layer) = match name.split_once("layers.") {
            Some((_, rest)) => match rest.split_once('.').and_then(|(n, rest)| Some((n.parse().ok()?, rest)))
            {
                Some((layer, rest)) => (rest, 1, layer),
                None => (name, usize::MAX, 0),
            },
            None => {
                let parts = [("embed_tokens", 0), ("norm", 2), ("lm_head", 3), ("score", 3)];
                let is_in = |word: &str| name.split('.').any(|part| part == word);
                let part = parts.iter().find(|(word, _)| is_in(word)).map_or(usize::MAX, |(_, part)| *part);
                (name, part, 0)
            }
        };
        let module = MODULES
            .iter()
            .position(|module| inner.strip_prefix(module).is_some_and(|rest| rest.starts_with('.')));
        let module = if part == 1 { module.unwrap_or(usize::MAX) } else { 0 };
        // the longest that fits is the most particular
        let is_it = |leaf: &str| name.strip_suffix(leaf).is_some_and(|rest| rest.ends_with('.'));
        let leaf = (0..LEAVES.len()).filter(|at| is_it(LEAVES[*at])).max_by_key(|at| LEAVES[*at].len());
        Self { decays_not, part, layer, module, leaf: leaf.unwrap_or(usize::MAX) }
    }

    fn is_known(&self) -> bool {
        self.part != usize::MAX && self.module != usize::MAX && self.leaf != usize::MAX
    }
}

/// Two parameters that could be in each other's place: of one layer, decaying or not, with one shape, in different modules.
fn twins(ordered: &[(Rank, String, &Vec<u64>)]) -> Option<(String, String)> {
    let group = |rank: &Rank| (rank.decays_not, rank.part, rank.layer);
    for part in ordered.chunk_by(|a, b| group(&a.0) == group(&b.0)) {
        for (i, (rank, name, shape)) in part.iter().enumerate() {
            let is_twin = |(other, its_name, its): &&(Rank, String, &Vec<u64>)| {
                let is_same_module =
                    other.module == rank.module && before_layer(its_name) == before_layer(name);
                its == shape && !(is_same_module && rank.is_known())
            };
            if let Some((_, other, _)) = part[i + 1..].iter().find(is_twin) {
                return Some((name.clone(), other.clone()));
            }
        }
    }
    None
}

/// Kind, groups and counted steps of a state.
type Told = (OptimizerKind, Vec<Group>, Vec<(usize, u64)>);

fn read(pickle: &Pickle<'_>) -> Result<Told> {
    let no_state = || bad("holds no state of an optimizer");
    let groups = entry(pickle, pickle.root, "param_groups").ok_or_else(no_state)?;
    let states =
        entry(pickle, pickle.root, "state").and_then(|id| pickle.entries(id)).ok_or_else(no_state)?;
    let Node::List(groups) = pickle.node(groups) else { return Err(no_state()) };
    let number =
        |id: Id| if let Node::Int(value) = pickle.node(id) { usize::try_from(*value).ok() } else { None };
    let mut told = Vec::new();
    let mut seen: Vec<usize> = Vec::new();
    for group in groups {
        let Some(Node::List(parameters)) = entry(pickle, *group, "params").map(|id| pickle.node(id)) else {
            return Err(bad("has a group of parameters without a list of them"));
        };
        let parameters = parameters.iter().map(|id| number(*id)).collect::<Option<Vec<_>>>();
        let parameters = parameters.ok_or_else(|| bad("does not number its parameters"))?;
        seen.extend(&parameters);
        if seen.len() > MOST {
            return Err(bad("names more parameters than any model has"));
        }
        let names = match entry(pickle, *group, "param_names").map(|id| pickle.node(id)) {
            Some(Node::List(names)) if names.len() == parameters.len() => {
                names.iter().map(|id| pickle.text_of(*id).map(ToOwned::to_owned)).collect()
            }
            _ => None,
        };
        let betas = entry(pickle, *group, "betas").and_then(|id| {
            let [first, second] = betas(pickle, id);
            first.zip(second)
        });
        told.push(Group { parameters, names, betas });
    }
    seen.sort_unstable();
    if seen.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err(bad("has a parameter in two groups"));
    }
    let mut steps = Vec::new();
    let mut kind = None;
    for (key, state) in states {
        let Some(parameter) = number(*key) else {
            return Err(bad("does not number its parameters, as DeepSpeed and FSDP do")
                .help("their states carry names, and lie elsewhere: they are not read here"));
        };
        if let Some(step) = entry(pickle, *state, "step").and_then(number) {
            steps.push((parameter, step as u64));
        }
        let own = kind_of(pickle, *state);
        // small parameters stay in 32 bits
        kind = match (kind, own) {
            (Some(OptimizerKind::Bnb8), _) | (_, OptimizerKind::Bnb8) => Some(OptimizerKind::Bnb8),
            (Some(OptimizerKind::Adafactor), _) | (_, OptimizerKind::Adafactor) => {
                Some(OptimizerKind::Adafactor)
            }
            (None, own) => Some(own),
            (kind, _) => kind,
        };
    }
    steps.sort_unstable();
    Ok((kind.unwrap_or(OptimizerKind::NoSquares), told, steps))
}

/// What is kept of one parameter.
fn kind_of(pickle: &Pickle<'_>, state: Id) -> OptimizerKind {
    let inner = entry(pickle, state, NESTED).unwrap_or(state);
    let has = |name: &str| entry(pickle, inner, name).is_some();
    match () {
        () if has("exp_avg_sq_row") => OptimizerKind::Adafactor,
        () if has("exp_avg") && has("exp_avg_sq") => OptimizerKind::Adam,
        () if has("state2") && has("qmap2") => OptimizerKind::Bnb8,
        () if has("state2") => OptimizerKind::Bnb32,
        () if has("exp_avg_sq") => OptimizerKind::Adafactor,
        () if has("square_avg") && !has("acc_delta") => OptimizerKind::RmsProp,
        () if has("sum") => OptimizerKind::Adagrad,
        () if has("exp_avg") || has("state1") || has("momentum_buffer") => OptimizerKind::NoSquares,
        () if pickle.entries(inner).is_none_or(<[_]>::is_empty) => OptimizerKind::NoSquares,
        () => OptimizerKind::Other,
    }
}

/// The tensors of all states.
fn tensors<'a>(pickle: &'a Pickle<'_>) -> Result<Chosen<'a>> {
    let mut all = Vec::new();
    let states = entry(pickle, pickle.root, "state").and_then(|id| pickle.entries(id)).unwrap_or_default();
    for (key, state) in states {
        let Node::Int(number) = pickle.node(*key) else { continue };
        let inner = entry(pickle, *state, NESTED);
        for part in [Some(*state), inner].into_iter().flatten() {
            for (name, value) in pickle.entries(part).unwrap_or_default() {
                if let (Some(name), Node::Tensor(tensor)) = (pickle.text_of(*name), pickle.node(*value)) {
                    all.push((format!("{number}.{name}"), &**tensor));
                }
            }
        }
    }
    Ok(Chosen {
        tensors: all,
        step: None,
        key: None,
        places: Vec::new(),
        told: Vec::new(),
        notes: Vec::new(),
    })
}

/// The decays of a group's first and second moments.
pub(in crate::format) fn betas(pickle: &Pickle<'_>, id: Id) -> [Option<f64>; 2] {
    let (Node::Tuple(betas) | Node::List(betas)) = pickle.node(id) else { return [None; 2] };
    [0, 1].map(|at| match pickle.node(*betas.get(at)?) {
        Node::Float(beta) => Some(*beta),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::Stop;
    use crate::files::memory::Memory;

    const LORA: &[u8] = include_bytes!("../../../tests/data/torch/optimizer-lora.pt");
    const BNB: &[u8] = include_bytes!("../../../tests/data/torch/optimizer-bnb8.pt");
    const ADAFACTOR: &[u8] = include_bytes!("../../../tests/data/torch/optimizer-adafactor.pt");

    fn open(bytes: &[u8]) -> Result<Optimizer> {
        match Optimizer::open(&Memory::new([("optimizer.pt", bytes.to_vec())]), "optimizer.pt") {
            Ok(optimizer) => Ok(optimizer),
            Err(Stop::Failed(error)) => Err(error),
            Err(Stop::Later) => panic!("the memory has everything"),
        }
    }

    /// The parameters of a LoRA of these modules, in as many layers, as a file of weights has them: sorted by name.
    fn lora(layers: u64, modules: &[(&str, u64, u64)], rank: u64) -> Vec<(String, Vec<u64>)> {
        let mut all = Vec::new();
        for layer in 0..layers {
            for (module, inputs, outputs) in modules {
                let name = format!("base_model.model.model.layers.{layer}.{module}");
                all.push((format!("{name}.lora_A.weight"), [rank, *inputs].into()));
                all.push((format!("{name}.lora_B.weight"), [*outputs, rank].into()));
            }
        }
        all.sort();
        all
    }

    #[test]
    fn names_are_found_again_by_the_order_of_the_model() {
        let truth = include_str!("../../../tests/data/torch/optimizer-lora.txt");
        let rows: Vec<_> = truth.lines().map(|line| line.split_once(' ').unwrap()).collect();
        let shape = |text: &str| text.split('x').map(|n| n.parse().unwrap()).collect::<Vec<u64>>();
        let mut parameters: Vec<_> = rows.iter().map(|(name, dims)| (plain(name), shape(dims))).collect();
        parameters.sort();
        let optimizer = open(LORA).unwrap();
        assert_eq!(optimizer.describe(), format!("the state of Adam for {} parameters", rows.len()));
        assert_eq!(optimizer.groups.len(), 2);
        assert_eq!(optimizer.groups[0].betas, Some((0.9, 0.999)));
        let names = optimizer.names(&parameters, Some("LlamaForCausalLM")).unwrap();
        let expected: Vec<_> = rows.iter().map(|(name, _)| plain(name)).enumerate().collect();
        assert_eq!(names, expected);

        // q and v are of one shape: without the model's class either may come first
        let error = optimizer.names(&parameters, None).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Names);
        assert!(
            error.detail().contains("q_proj.lora_A.weight") && error.advice().unwrap().contains("json.dump"),
            "{error}"
        );
        assert!(optimizer.names(&parameters, Some("OPTForCausalLM")).is_err());
        let error = optimizer.names(&parameters[1..], Some("LlamaForCausalLM")).unwrap_err();
        assert!(error.detail().contains("and the weights have"), "{error}");
        let mut other = parameters.clone();
        let last = other.iter_mut().rfind(|(name, _)| name.ends_with("down_proj.lora_A.weight")).unwrap();
        last.1[1] += 1;
        let error = optimizer.names(&other, Some("LlamaForCausalLM")).unwrap_err();
        assert_eq!((error.kind(), error.at_tensor()), (ErrorKind::Shape, Some(&*last_name(&other))));
    }

    fn last_name(parameters: &[(String, Vec<u64>)]) -> String {
        let is_it = |(name, _): &&(String, Vec<u64>)| name.ends_with("down_proj.lora_A.weight");
        parameters.iter().rfind(is_it).unwrap().0.clone()
    }

    #[test]
    fn kinds_are_told_by_what_they_keep() {
        for (bytes, kind, squares) in [
            (BNB, OptimizerKind::Bnb8, Some("state2")),
            (ADAFACTOR, OptimizerKind::Adafactor, Some("exp_avg_sq")),
            (LORA, OptimizerKind::Adam, Some("exp_avg_sq")),
        ] {
            let optimizer = open(bytes).unwrap();
            assert_eq!((optimizer.kind, optimizer.kind.squares()), (kind, squares));
        }
        let weights = include_bytes!("../../../../host/tests/cli/data/adapter_model.bin");
        assert_eq!(open(weights).unwrap_err().detail(), "holds no state of an optimizer");
        for len in [0, 3, 100, LORA.len() - 1] {
            assert!(open(&LORA[..len]).is_err());
        }
    }

    #[test]
    fn one_module_in_each_layer_needs_no_table() {
        // layer 2 comes before layer 10
        let optimizer = open(BNB).unwrap();
        let header = |name: &str| optimizer.tensor(0, name).unwrap().to_vec();
        let (a, layers) = (header("state2"), optimizer.count() as u64 / 2);
        let b = optimizer.tensor(1, "state2").unwrap().to_vec();
        let parameters = lora(layers, &[("self_attn.q_proj", a[1], b[0])], a[0]);
        let names = optimizer.names(&parameters, None).unwrap();
        assert!(names[4].1.contains("layers.2.") && names[20].1.contains("layers.10."), "{names:?}");
    }

    #[test]
    fn means_fit_by_rows_and_by_columns() {
        let optimizer = open(ADAFACTOR).unwrap();
        let parameters = |inputs| lora(optimizer.count() as u64 / 2, &[("self_attn.q_proj", inputs, 4)], 2);
        assert!(optimizer.names(&parameters(4), None).is_ok());
        let error = optimizer.names(&parameters(5), None).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Shape);
        assert!(error.detail().starts_with("is [2, 5], and parameter 0 of the optimizer"), "{error}");
        assert!(error.detail().ends_with("by its place, [4]"), "{error}");
    }

    #[test]
    fn stacks_of_layers_are_not_taken_for_one() {
        let name = |stack: &str| format!("model.{stack}.layers.0.self_attn.q_proj.lora_A.weight");
        let shape = Vec::from([4, 8]);
        let rows: Vec<_> = ["decoder", "encoder"].map(|it| (Rank::of(&name(it)), name(it), &shape)).into();
        assert!(twins(&rows).is_some(), "which comes first is the class's own");
        assert!(
            is_known("meta-llama/Llama-3.1-8B")
                && is_known("Qwen2ForCausalLM")
                && !is_known("Qwen2MoeForCausalLM")
        );
        assert!(!is_known("facebook/opt-125m"));
    }
}
