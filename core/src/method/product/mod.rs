//! Merge what adapters do instead of their factors: D = Σ wᵢγᵢBᵢAᵢ per module, exact or at the best given rank.
//!
//! As with weighted sums the core plans and hosts execute. A [`ModuleJob`] reads whole factors of one module and can be run
//! three ways: [`ModuleJob::residual`] says how far the average of the factors is from D; [`ModuleJob::run`] finds the
//! rank that keeps a share of the energy, or writes the factors of the output. The tensors that are no
//! factors are averaged by the jobs of a [`Plan`], which leaves out those of [`Products::layout`].
//!
//! The loops are inlined into whatever calls them, so that a host may compile them for wider instructions. WebAssembly has
//! one width and wants to be small: there the compiler decides.

mod between;
mod distance;
mod job;
mod module;
mod panel;
mod residual;
mod sketch;
mod window;

use alloc::borrow::Cow;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::cmp::Reverse;
use serde_json::{Map, Value};

use self::module::{Gap, Module, modules};
use crate::adapter::agree::PEFT_ALONE;
use crate::adapter::config::AdapterConfig;
use crate::adapter::scale::Scaling;
use crate::dtype::{Dtype, Float};
use crate::error::{Error, ErrorKind, Result};
use crate::plan::Tensors;
use crate::plan::{Input, Plan, Write};
use crate::text::index::Index;
use crate::weigh::modules::Groups;
use crate::weigh::scheme::Weights;

pub use job::ModuleJob;
pub(crate) use panel::widen;
pub use residual::Residual;
pub(crate) use sketch::draw;
pub(crate) use window::Reader;

/// What is averaged.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Space {
    /// Each tensor by itself: right for models, close for LoRA checkpoints of one run.
    #[default]
    Factors,
    /// What LoRA adapters do, γBA per module, at this rank or the inputs' own.
    Product(Option<Rank>),
}

/// How it is found out how far averaged factors are from the average of their products.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// To the rounding of f32; time and memory grow with the square of checkpoints × rank.
    Exact,
    /// By random sums, with a standard error; time grows with what is read, memory with nothing.
    Sketch,
}

/// Whether that is wanted, and how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Measure {
    /// Exactly where that takes next to nothing, else by sketches.
    #[default]
    Auto,
    /// Exactly.
    Exact,
    /// By sketches.
    Sketch,
    /// Not at all.
    Off,
}

impl Measure {
    /// The words for all but the first.
    pub(crate) const NAMES: [&'static str; 3] = ["exact", "sketch", "off"];

    /// The word for it; none for the first, which is what is done when nothing is said.
    #[must_use]
    pub const fn word(self) -> Option<&'static str> {
        match self {
            Self::Auto => None,
            Self::Exact => Some("exact"),
            Self::Sketch => Some("sketch"),
            Self::Off => Some("off"),
        }
    }
}

impl core::str::FromStr for Measure {
    type Err = Error;

    fn from_str(word: &str) -> Result<Self> {
        match word {
            "exact" => Ok(Self::Exact),
            "sketch" => Ok(Self::Sketch),
            "off" => Ok(Self::Off),
            _ => Err(Error::new(ErrorKind::Usage, format!("`{word}` is not a way to find the residual"))),
        }
    }
}

/// Most products and sums of an exact residual that is not asked for by name: some hundredths of a second.
const EXACT_WORK: f64 = 134e6;
/// Most checkpoints × rank of one: a few megabytes.
const EXACT_FEATURES: usize = 512;

/// The rank that merged factors get.
#[derive(Clone, Copy, Debug, PartialEq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rank {
    /// The inputs' own rank in each module, or the largest of several.
    Inputs,
    /// This one, in all modules.
    Fixed(usize),
    /// The sum of the inputs' ranks: nothing is lost.
    Full,
    /// The smallest in each module that keeps this share of ‖D‖², in 0…1.
    Energy(f64),
}

/// The factors of several adapters, module by module.
#[derive(Clone, Debug)]
pub struct Factors {
    modules: Vec<Module>,
    names: Vec<String>,
    gaps: Vec<Gap>,
}

impl Factors {
    /// Find the factors of all inputs. Those of weight zero are not read.
    ///
    /// # Errors
    /// [`ErrorKind::Names`], [`ErrorKind::Shape`] or [`ErrorKind::Dtype`] if factors are torn or do not fit each other.
    pub fn new(inputs: &[Input], configs: &[Option<&AdapterConfig>], weights: &Weights) -> Result<Self> {
        Self::by_module(inputs, configs, weights, &Groups::default())
    }

    /// The same with weights of their own for some modules.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub(crate) fn by_module(
        inputs: &[Input],
        configs: &[Option<&AdapterConfig>],
        weights: &Weights,
        groups: &Groups,
    ) -> Result<Self> {
        // strictly read later, where it must be right: here it only weighs residuals of modules against each other
        let scalings: Vec<_> =
            configs.iter().map(|config| config.and_then(|config| Scaling::new(config).ok())).collect();
        let scale = |i: usize, name: &str, rank| {
            scalings[i].as_ref().map_or(1.0, |scaling| scaling.scale(name, rank))
        };
        Self::with_scale(inputs, configs, weights, groups, scale)
    }

    /// The same without the scales, for residuals where all modules count alike: spares reading patterns.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn unscaled(inputs: &[Input], configs: &[Option<&AdapterConfig>], weights: &Weights) -> Result<Self> {
        Self::with_scale(inputs, configs, weights, &Groups::default(), |_, _, _| 1.0)
    }

    fn with_scale(
        inputs: &[Input],
        configs: &[Option<&AdapterConfig>],
        weights: &Weights,
        groups: &Groups,
        scale: impl Fn(usize, &str, u64) -> f64,
    ) -> Result<Self> {
        let (modules, gaps) = modules(inputs, configs, (weights, groups), scale)?;
        Ok(Self { modules, names: inputs.iter().map(|input| input.name.clone()).collect(), gaps })
    }

    /// Whether there are any.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.modules.is_empty()
    }

    /// One job per module, for [`ModuleJob::residual`] only.
    pub fn jobs(&self) -> impl Iterator<Item = ModuleJob<'_>> {
        (0..self.modules.len()).map(|i| self.job(i))
    }

    /// How the residual of all modules is found, if it is wanted.
    pub(crate) fn method(&self, wanted: Measure) -> Option<Method> {
        let features = |module: &Module| module.sources.iter().map(|source| source.rank).sum::<usize>();
        #[expect(clippy::cast_precision_loss, reason = "an estimate")]
        let work = |module: &Module| {
            let points = module.experts as f64 * (module.inside + module.outside) as f64;
            (features(module) as f64) * (features(module) as f64) / 2.0 * points
        };
        let is_small = || {
            self.modules.iter().all(|module| features(module) <= EXACT_FEATURES)
                && self.modules.iter().map(work).sum::<f64>() <= EXACT_WORK
        };
        match wanted {
            Measure::Off => None,
            Measure::Exact => Some(Method::Exact),
            Measure::Auto if is_small() => Some(Method::Exact),
            Measure::Auto | Measure::Sketch => Some(Method::Sketch),
        }
    }

    /// How many modules there are.
    pub(crate) fn count(&self) -> usize {
        self.modules.len()
    }

    /// The work on one module without an output.
    pub(crate) fn job(&self, i: usize) -> ModuleJob<'_> {
        let (module, names) = (&self.modules[i], self.names.as_slice());
        ModuleJob { module, names, rank: 0, is_full: false, writes: Cow::Borrowed(&[]) }
    }

    /// Bytes of all factors together.
    pub(crate) fn bytes(&self) -> u64 {
        let places = |source: &module::Source| {
            let of = |place: &module::Place| place.range.end - place.range.start;
            of(&source.down) + of(&source.up) + source.bias.as_ref().map_or(0, of)
        };
        self.modules.iter().flat_map(|module| &module.sources).map(places).sum()
    }
}

/// The factors of several adapters with their scales.
#[derive(Clone, Debug)]
pub struct Products {
    factors: Factors,
}

/// The adapters' configs, which say how their factors are scaled.
///
/// # Errors
/// [`ErrorKind::Config`] if an input has none.
pub(crate) fn adapter_configs<'a>(
    inputs: &[Input],
    configs: &[Option<&'a AdapterConfig>],
) -> Result<Vec<&'a AdapterConfig>> {
    let config = |(input, config): (&Input, &Option<&'a AdapterConfig>)| {
        config.ok_or_else(|| {
            let detail = "has no adapter_config.json, so nothing says how its factors are scaled";
            Error::new(ErrorKind::Config, detail).file(&*input.name).help(PEFT_ALONE)
        })
    };
    inputs.iter().zip(configs).map(config).collect()
}

impl Products {
    /// Read the scale of every module of every input from its config.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] if a config has no alpha, a pattern that cannot be read or matches nothing, or an init that
    /// changes the base model by rank and scale; [`ErrorKind::Shape`] if a config's rank is not its tensors'.
    pub fn new(mut factors: Factors, configs: &[&AdapterConfig]) -> Result<Self> {
        let keys: Vec<String> = factors.modules.iter().map(|module| module.name.clone()).collect();
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        for (i, config) in configs.iter().enumerate() {
            let at = |error: Error| error.file(&*factors.names[i]);
            changes_no_base(config).map_err(at)?;
            tells_parameters(config).map_err(at)?;
            let scaling = Scaling::new(config).map_err(at)?;
            let gaps = factors.gaps.iter().filter(|(input, _)| *input == i);
            let gaps = Index::new(gaps.map(|(_, tensor)| tensor.as_str()));
            let is_here = |module: &&Module| !gaps.has(&module.down.tensor);
            let trained: Vec<&str> =
                factors.modules.iter().filter(is_here).map(|module| module.name.as_str()).collect();
            if let Some((field, key)) = scaling.idle(&trained) {
                let near = crate::text::spelling::closest(
                    key,
                    keys.iter().map(|key| key.rsplit('.').next().unwrap_or(key)),
                );
                let near = near.map_or(String::new(), |near| format!("; did you mean `{near}`?"));
                return Err(at(Error::new(
                    ErrorKind::Config,
                    format!("has `{key}` in {field}, which matches no module of the adapter{near}"),
                )
                .help("if the training ignored it too, take it out of adapter_config.json")));
            }
            for module in &mut factors.modules {
                let Some(source) = module.sources.iter_mut().find(|source| source.input == i) else {
                    continue;
                };
                let rank = source.rank as u64;
                if let Some(told) = scaling.rank(&module.name).filter(|told| *told != rank) {
                    let detail = format!(
                        "is {:?}, so its rank is {rank}, but the config says {told}",
                        shape(&module.down.shape, rank)
                    );
                    return Err(at(Error::new(ErrorKind::Shape, detail).tensor(&*module.down.tensor).help(
                        "the adapter_config.json belongs to another adapter, or r and rank_pattern were edited",
                    )));
                }
                source.scale = source.weight * scaling.scale(&module.name, rank);
            }
        }
        Ok(Self { factors })
    }

    /// What to say of modules that some inputs lack; they count as zero there.
    ///
    /// # Errors
    /// [`ErrorKind::Names`] if there are any and `is_strict` forbids them.
    pub fn gaps(&self, is_strict: bool) -> Result<Vec<String>> {
        let mut gaps = Vec::new();
        for (i, name) in self.factors.names.iter().enumerate() {
            let mut lacking = self.factors.gaps.iter().filter(|(input, _)| *input == i);
            let Some((_, tensor)) = lacking.next() else { continue };
            let module = self.factors.modules.iter().find(|module| module.down.tensor == *tensor);
            let module = module.map_or(tensor, |module| &module.name);
            let lacks = match lacking.count() {
                0 => format!("{module}, which others do"),
                more => format!("{} modules that others do, {module} among them", 1 + more),
            };
            gaps.push(format!("{name} does not adapt {lacks}: there it counts as no change"));
        }
        match gaps.first().filter(|_| is_strict) {
            Some(gap) => Err(Error::new(ErrorKind::Names, gap.clone())
                .help("--strict forbids this; merge adapters of the same modules")),
            None => Ok(gaps),
        }
    }

    /// One job per module without an output, for the rank that [`ModuleJob::run`] finds.
    pub fn surveys(&self) -> impl Iterator<Item = ModuleJob<'_>> {
        self.factors.jobs()
    }

    /// The rank of each module of the output; `found` are the results of [`Self::surveys`] for [`Rank::Energy`].
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] for a fixed rank above the sum of the inputs' ranks in every module: it would only add zeros.
    pub fn ranks(&self, rank: Rank, found: &[usize]) -> Result<Vec<usize>> {
        let most = self.factors.modules.iter().map(Module::full_rank).max().unwrap_or(0);
        if let Rank::Fixed(rank) = rank
            && rank > most
        {
            let detail = format!("rank {rank} is more than the inputs' ranks together, {most}");
            return Err(Error::new(ErrorKind::Usage, detail).help("ask for less, or for the full rank"));
        }
        let each = self.factors.modules.iter().enumerate().map(|(i, module)| match rank {
            Rank::Inputs => module.sources.iter().map(|source| source.rank).max().unwrap_or(1),
            Rank::Fixed(rank) => rank,
            Rank::Full => module.full_rank(),
            Rank::Energy(_) => found[i],
        });
        let mut each: Vec<_> = each.collect();
        // expert parameters take the config's one r: their names in patterns are not those of their tensors
        let experts = |i: &usize| self.factors.modules[*i].experts > 1;
        let most = (0..each.len()).filter(experts).map(|i| each[i]).max();
        (0..each.len()).filter(experts).for_each(|i| each[i] = most.unwrap_or(each[i]));
        Ok(each)
    }

    /// The dtype and shape of each tensor that the jobs write, at these ranks, for [`crate::plan::Recipe::elsewhere`].
    #[must_use]
    pub fn layout(&self, ranks: &[usize], dtype: Option<Float>) -> Vec<(String, Dtype, Vec<u64>)> {
        let mut layout = Vec::new();
        for (module, rank) in self.factors.modules.iter().zip(ranks) {
            let rank = (rank * module.experts) as u64;
            let mut add = |side: &module::Side, shape| {
                layout.push((side.tensor.clone(), dtype.unwrap_or(side.float).dtype(), shape));
            };
            add(&module.down, shape(&module.down.shape, rank));
            let mut up = module.up.shape.clone();
            up[1] = rank;
            add(&module.up, up);
            if let Some(bias) = &module.bias {
                add(bias, bias.shape.clone());
            }
        }
        layout
    }

    /// One job per module for [`ModuleJob::run`], into the outputs of `plan`, which was made with [`Self::layout`].
    ///
    /// # Panics
    /// If `plan` was not.
    pub fn jobs<'a>(&'a self, plan: &Plan, rank: Rank, ranks: &[usize]) -> Vec<ModuleJob<'a>> {
        let places = Tensors::new(plan.outputs());
        (0..ranks.len()).map(|i| self.job(i, &places, rank, ranks)).collect()
    }

    /// The job of one module; `places` are the tensors of the outputs.
    pub(crate) fn job(&self, i: usize, places: &Tensors<'_>, rank: Rank, ranks: &[usize]) -> ModuleJob<'_> {
        ModuleJob { writes: Cow::Owned(self.place(i, places)), ..self.placed(i, &[], rank, ranks) }
    }

    /// Where the factors of each module go in the outputs of `plan`, which was made with [`Self::layout`].
    pub(crate) fn places(&self, plan: &Plan) -> Vec<Vec<(Write, Float)>> {
        let places = Tensors::new(plan.outputs());
        (0..self.factors.count()).map(|i| self.place(i, &places)).collect()
    }

    fn place(&self, i: usize, places: &Tensors<'_>) -> Vec<(Write, Float)> {
        let module = &self.factors.modules[i];
        let place = |side: &module::Side| {
            let (file, tensor) = places.find(&side.tensor).expect("layout() names it");
            let float = Float::of(tensor.dtype).expect("layout() gave it a float's dtype");
            (Write { file, range: tensor.range.clone() }, float)
        };
        [Some(&module.down), Some(&module.up), module.bias.as_ref()]
            .into_iter()
            .flatten()
            .map(place)
            .collect()
    }

    /// The job of one module that writes to one of [`Self::places`].
    pub(crate) fn placed<'a>(
        &'a self,
        i: usize,
        writes: &'a [(Write, Float)],
        rank: Rank,
        ranks: &[usize],
    ) -> ModuleJob<'a> {
        let module = &self.factors.modules[i];
        ModuleJob {
            module,
            names: &self.factors.names,
            rank: ranks[i],
            // experts share one rank, so that some may have more than their own
            is_full: rank == Rank::Full && ranks[i] == module.full_rank(),
            writes: Cow::Borrowed(writes),
        }
    }

    /// The factors, each with its scale.
    pub(crate) fn factors(&self) -> &Factors {
        &self.factors
    }

    /// The fields of `adapter_config.json` that the output changes: γ is 1 in every module.
    #[must_use]
    pub fn config(&self, ranks: &[usize], configs: &[&AdapterConfig]) -> Vec<(&'static str, Value)> {
        let modules = &self.factors.modules;
        let experts = modules.iter().position(|module| module.experts > 1).map(|i| ranks[i]);
        let usual = experts.or_else(|| most_frequent(ranks)).unwrap_or(1);
        let names = Index::new(modules.iter().map(|module| module.name.as_str()));
        let mut unusual = Vec::new();
        if ranks.iter().any(|rank| *rank != usual) {
            for (module, rank) in modules.iter().zip(ranks) {
                if *rank != usual || ends(&module.name).any(|name| names.has(name)) {
                    unusual.push((Reverse(module.name.len()), &module.name, *rank));
                }
            }
        }
        // a name also matches the end of longer ones, so these come first
        unusual.sort_unstable();
        let mut patterns = Map::new();
        for (_, name, rank) in unusual {
            patterns.insert(name.clone(), rank.into());
        }
        let mut changes = [
            ("r", Value::from(usual)),
            ("lora_alpha", Value::from(usual)),
            ("use_rslora", Value::from(false)),
            ("rank_pattern", Value::Object(patterns.clone())),
            ("alpha_pattern", Value::Object(patterns)),
        ]
        .to_vec();
        changes.extend(self.targets(configs).map(|targets| ("target_modules", targets)));
        changes
    }

    /// `target_modules`, if the inputs' differ: the union of lists, or else every module by name.
    fn targets(&self, configs: &[&AdapterConfig]) -> Option<Value> {
        let fields: Vec<_> = configs.iter().map(|config| config.field("target_modules")).collect();
        let lists: Option<Vec<_>> = fields.iter().map(|field| field.and_then(Value::as_array)).collect();
        let mut names: Vec<String> = match lists {
            Some(lists) => lists.into_iter().flatten().filter_map(Value::as_str).map(String::from).collect(),
            None if fields.iter().all(|field| *field == fields[0]) => return None,
            None => self.factors.modules.iter().map(|module| module.name.clone()).collect(),
        };
        names.sort_unstable();
        names.dedup();
        let first = fields.last().copied().flatten().and_then(Value::as_array);
        let is_same = first.is_some_and(|list| list.len() == names.len());
        (!is_same).then(|| names.into())
    }
}

/// What follows each dot of a name: the names that, as patterns, match it too.
fn ends(name: &str) -> impl Iterator<Item = &str> {
    name.match_indices('.').map(|(dot, _)| &name[dot + 1..])
}

/// The rank of most modules; the larger of two that are as frequent.
fn most_frequent(ranks: &[usize]) -> Option<usize> {
    let mut ranks = ranks.to_vec();
    ranks.sort_unstable();
    let runs = ranks.chunk_by(|a, b| a == b).map(|run| (run.len(), run[0]));
    runs.max().map(|(_, rank)| rank)
}

/// The shape of an A of another rank.
fn shape(shape: &[u64], rank: u64) -> Vec<u64> {
    [&[rank], &shape[1..]].concat()
}

/// The parameters of experts have names of their own in patterns, and no tensor's name tells which parameter it adapts.
fn tells_parameters(config: &AdapterConfig) -> Result<()> {
    let field = ["rank_pattern", "alpha_pattern"].into_iter().find(|field| config.is_set(field));
    let Some(field) = field.filter(|_| config.is_set("target_parameters")) else { return Ok(()) };
    let detail = format!(
        "has {field} beside target_parameters, and its tensors do not tell which parameter takes which"
    );
    Err(Error::new(ErrorKind::Config, detail).help("merge in factor space"))
}

/// Some inits subtract from the base model what depends on rank or scale, again at each load (`lora/layer.py`), so an
/// output of another rank or scale would be loaded onto another base.
fn changes_no_base(config: &AdapterConfig) -> Result<()> {
    let Some(init) = config.base_changing_init() else { return Ok(()) };
    Err(Error::new(
        ErrorKind::Method,
        format!("has init_lora_weights {init}, which changes the base model by rank and scale; the merge would have others"),
    )
    .help("convert the adapters to plain LoRA first (path_initial_model_for_weight_conversion), or merge in factor space"))
}

#[cfg(test)]
mod tests;
