//! Find the factor pairs of adapters: which tensors make one module, in every input.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::ops::Range;

use super::panel;
use crate::adapter::agree::{Half, half};
use crate::adapter::config::AdapterConfig;
use crate::dtype::Float;
use crate::error::{Error, ErrorKind, Result};
use crate::format::safetensors::Tensor;
use crate::plan::Input;
use crate::plan::{Found, Tensors};
use crate::text::index::order;
use crate::weigh::modules::Groups;
use crate::weigh::scheme::Weights;

/// One module that LoRA adapts: ΔW = γBA, or one such product per expert.
#[derive(Clone, Debug)]
pub(super) struct Module {
    /// As PEFT's patterns see it: the tensors' name without wrapper and ending.
    pub(super) name: String,
    pub(super) down: Side,
    pub(super) up: Side,
    /// `lora_B.bias`, scaled as B is.
    pub(super) bias: Option<Side>,
    /// Columns of A, all its dimensions but the first together.
    pub(super) inside: usize,
    /// Rows of B.
    pub(super) outside: usize,
    /// Products side by side in the tensors; 0 where nothing tells.
    pub(super) experts: usize,
    /// The inputs of non-zero weight that have it.
    pub(super) sources: Vec<Source>,
}

/// A tensor as the output will have it, but for its rank.
#[derive(Clone, Debug)]
pub(super) struct Side {
    pub(super) tensor: String,
    pub(super) float: Float,
    pub(super) shape: Vec<u64>,
}

/// One input's share of a module.
#[derive(Clone, Debug)]
pub(super) struct Source {
    pub(super) input: usize,
    pub(super) weight: f64,
    /// wγ.
    pub(super) scale: f64,
    pub(super) rank: usize,
    pub(super) down: Place,
    pub(super) up: Place,
    pub(super) bias: Option<Place>,
}

impl Source {
    pub(super) fn place(&self, side: panel::Side) -> &Place {
        match side {
            panel::Side::Down => &self.down,
            panel::Side::Up => &self.up,
        }
    }
}

/// Where a tensor lies in its input.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) file: usize,
    pub(super) range: Range<u64>,
    pub(super) float: Float,
}

impl Module {
    /// The sum of the inputs' ranks.
    pub(super) fn full_rank(&self) -> usize {
        self.sources.iter().map(|source| source.rank).sum()
    }
}

/// A module that an input lacks: the input, and the module's A.
pub(super) type Gap = (usize, String);

/// All modules of the inputs, by name of their tensors, each with the inputs that have it; then the modules that
/// some input lacks. `scale` is that of an input's module at its rank.
pub(super) fn modules(
    inputs: &[Input],
    configs: &[Option<&AdapterConfig>],
    (weights, groups): (&Weights, &Groups),
    scale: impl Fn(usize, &str, u64) -> f64,
) -> Result<(Vec<Module>, Vec<Gap>)> {
    let tensors: Vec<_> = inputs.iter().map(|input| Tensors::new(&input.files)).collect();
    let (mut downs, mut names) = (Vec::with_capacity(inputs.len()), Vec::new());
    for input in &tensors {
        let mut halves = Vec::new();
        for found in input.sorted() {
            if let Some((Half::Down, other)) = half(&found.1.name) {
                names.push(found.1.name.as_str());
                halves.push((found, other));
            }
        }
        downs.push(halves);
    }
    names.sort_unstable_by(|a, b| order(a, b));
    names.dedup();
    let mut modules: Vec<Option<Module>> = names.iter().map(|_| None).collect();
    for (i, input) in inputs.iter().enumerate() {
        let at = |error: Error| error.file(&*input.name);
        for (found, other) in &downs[i] {
            let name = &found.1.name;
            let up = tensors[i].find(other).ok_or_else(|| {
                at(Error::new(ErrorKind::Names, format!("has no other half: `{other}` is missing"))
                    .tensor(name))
            })?;
            let bias = other.strip_suffix("weight").and_then(|stem| tensors[i].find(&format!("{stem}bias")));
            let (module, source) = one(*found, up, bias, configs[i]).map_err(at)?;
            let place = names.binary_search_by(|other| order(other, name)).expect("names has all of them");
            let known = modules[place].get_or_insert_with(|| module.clone());
            join(known, module).map_err(at)?;
            let weight = groups.of(&known.down.tensor).unwrap_or(weights).values()[i];
            let scale = scale(i, &known.name, source.rank as u64);
            known.sources.push(Source { input: i, weight, scale: weight * scale, ..source });
        }
    }
    let mut gaps = Vec::new();
    let mut used = Vec::new();
    for (name, mut module) in names.iter().zip(modules.into_iter().flatten()) {
        let has = |i: usize| module.sources.iter().any(|source| source.input == i);
        gaps.extend((0..inputs.len()).filter(|i| !has(*i)).map(|i| (i, String::from(*name))));
        // what is multiplied by nothing in this module alone still gives it its place
        let is_used = |source: &Source| match groups.is_of_tensors() {
            true => weights.values()[source.input] != 0.0,
            false => source.weight != 0.0,
        };
        module.sources.retain(is_used);
        if !module.sources.is_empty() {
            used.push(module);
        }
    }
    Ok((used, gaps))
}

/// A module as one input has it, and that input's share of it, still without weight.
fn one(
    (file, a): Found<'_>,
    (up_file, b): Found<'_>,
    bias: Option<Found<'_>>,
    config: Option<&AdapterConfig>,
) -> Result<(Module, Source)> {
    let rows = a.shape.first().copied().unwrap_or(0);
    let is_whole = |tensor: &Tensor| tensor.shape.len() >= 2 && !tensor.shape.contains(&0);
    if let Some(tensor) = [a, b].into_iter().find(|tensor| !is_whole(tensor)) {
        let detail = format!("is {:?}, but a LoRA factor has two dimensions or more", tensor.shape);
        return Err(Error::new(ErrorKind::Shape, detail).tensor(&*tensor.name));
    }
    if b.shape[1] != rows || b.shape[2..].iter().any(|size| *size != 1) {
        let detail =
            format!("is {:?}, which does not fit `{}` of {:?}: the ranks differ", b.shape, a.name, a.shape);
        return Err(Error::new(ErrorKind::Shape, detail)
            .tensor(&*b.name)
            .help("the file is damaged; save it again"));
    }
    let experts = match config.filter(|config| config.is_set("target_parameters")) {
        Some(config) if config.is_set("rank_pattern") => 0,
        Some(config) => config.r().filter(|r| *r > 0 && rows.is_multiple_of(*r)).map_or(1, |r| rows / r),
        None => 1,
    };
    let place = |file: usize, tensor: &Tensor| {
        let float = Float::of(tensor.dtype).ok_or_else(|| {
            Error::new(ErrorKind::Dtype, format!("is {}, but factors are floats", tensor.dtype))
                .tensor(&*tensor.name)
        })?;
        Ok((Place { file, range: tensor.range.clone(), float }, side(tensor, float)))
    };
    let (down, a_side) = place(file, a)?;
    let (up, b_side) = place(up_file, b)?;
    let bias = bias.map(|(file, tensor)| place(file, tensor)).transpose()?;
    let size = |count: u64| {
        usize::try_from(count).map_err(|_| {
            let detail = "is too large for this machine's memory, and product space takes factors whole";
            Error::new(ErrorKind::Shape, detail).tensor(&*a.name)
        })
    };
    let source = Source {
        input: 0,
        weight: 0.0,
        scale: 0.0,
        rank: size(rows / experts.max(1))?,
        down,
        up,
        bias: bias.as_ref().map(|(place, _)| place.clone()),
    };
    let module = Module {
        name: key(&a.name),
        down: a_side,
        up: b_side,
        bias: bias.map(|(_, side)| side),
        inside: size(a.shape[1..].iter().product())?,
        outside: size(b.shape[0])?,
        experts: size(experts)?,
        sources: Vec::new(),
    };
    Ok((module, source))
}

fn side(tensor: &Tensor, float: Float) -> Side {
    Side { tensor: tensor.name.clone(), float, shape: tensor.shape.clone() }
}

/// Check that another input's module is of the same form, and take the wider dtypes.
fn join(known: &mut Module, module: Module) -> Result<()> {
    for (ours, theirs, rank_at) in [(&mut known.down, module.down, 0), (&mut known.up, module.up, 1)] {
        let is_same = |(at, (a, b)): (usize, (&u64, &u64))| at == rank_at || a == b;
        if ours.shape.len() != theirs.shape.len()
            || !ours.shape.iter().zip(&theirs.shape).enumerate().all(is_same)
        {
            let detail = format!("is {:?}, but {:?} in another input", theirs.shape, ours.shape);
            return Err(Error::new(ErrorKind::Shape, detail).tensor(theirs.tensor));
        }
        ours.float = ours.float.widest(theirs.float);
    }
    if known.experts != module.experts {
        let detail = format!("holds {} experts, but {} in another input", module.experts, known.experts);
        return Err(Error::new(ErrorKind::Shape, detail).tensor(&*known.down.tensor));
    }
    if let (Some(ours), Some(theirs)) = (&mut known.bias, &module.bias) {
        ours.float = ours.float.widest(theirs.float);
    } else if known.bias.is_some() != module.bias.is_some() {
        let detail = "has a bias in some inputs only";
        return Err(Error::new(ErrorKind::Names, detail).tensor(&*known.up.tensor));
    }
    Ok(())
}

/// `base_model.model.model.layers.0.q_proj.lora_A.weight` → `model.layers.0.q_proj`.
fn key(tensor: &str) -> String {
    let name = tensor.strip_prefix("base_model.model.").unwrap_or(tensor);
    let end =
        [".lora_A", ".lora_embedding_A", ".lora_down", ".lora.down", ".lora_linear_layer.down", "_lora.down"]
            .iter()
            .find_map(|mark| name.rfind(mark));
    end.map_or(name, |end| &name[..end]).to_string()
}
