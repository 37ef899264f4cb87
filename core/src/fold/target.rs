//! Where the parts of an adapter belong in its base: tensors by name, shapes that fit, scales.

use alloc::borrow::ToOwned as _;
use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use serde_json::Value;

use super::adapter::{Found, Module, Parts};
use super::made::{Change, Delta, Place, Side};
use crate::adapter::config::AdapterConfig;
use crate::adapter::scale::Scaling;
use crate::dtype::{Dtype, Float};
use crate::error::{Error, ErrorKind, Result};
use crate::format::safetensors::{Header, Tensor};
use crate::text::index::Index;
use crate::text::spelling;

/// The base's tensors by name.
pub(super) struct Base<'a> {
    /// How the user calls it.
    pub(super) name: &'a str,
    tensors: Vec<(usize, &'a Tensor)>,
    index: Index<'a>,
    /// Its config, where it has one.
    pub(super) config: Option<&'a Value>,
}

/// A tensor that the base does not have.
pub(super) struct Added {
    pub(super) name: String,
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<u64>,
    /// The base's tensor that it begins as.
    pub(super) from: Option<Place>,
    pub(super) change: Change,
}

/// What becomes of the base.
#[derive(Default)]
pub(super) struct Targets {
    /// By name of the base's tensor.
    pub(super) changes: Vec<(String, Change)>,
    pub(super) added: Vec<Added>,
    /// Whether the head is no longer the embedding.
    pub(super) is_untied: bool,
    pub(super) modules: usize,
    pub(super) replaced: usize,
    pub(super) notes: Vec<String>,
}

/// How the adapter's paths become those of the base: one beginning instead of another.
type Way = (String, String);

fn along(way: &Way, path: &str) -> String {
    path.strip_prefix(way.0.as_str()).map_or_else(|| path.to_owned(), |rest| format!("{}{rest}", way.1))
}

impl<'a> Base<'a> {
    pub(super) fn new(name: &'a str, files: &'a [(String, Header)], config: Option<&'a Value>) -> Self {
        let tensors: Vec<_> = files
            .iter()
            .enumerate()
            .flat_map(|(file, (_, header))| header.tensors().iter().map(move |tensor| (file, tensor)))
            .collect();
        let index = Index::new(tensors.iter().map(|(_, tensor)| tensor.name.as_str()));
        Self { name, tensors, index, config }
    }

    pub(super) fn find(&self, name: &str) -> Option<(usize, &'a Tensor)> {
        self.index.place(name).map(|place| self.tensors[place])
    }

    fn names(&self) -> impl Iterator<Item = &'a str> + '_ {
        self.tensors.iter().map(|(_, tensor)| tensor.name.as_str())
    }

    fn kind(&self) -> &str {
        self.config.and_then(|config| config.get("model_type")).and_then(Value::as_str).unwrap_or_default()
    }

    fn ties_head(&self) -> bool {
        let tied = |config: &Value| config.get("tie_word_embeddings").and_then(Value::as_bool);
        let inner = || self.config.and_then(|config| config.get("text_config")).and_then(tied);
        self.config.and_then(tied).or_else(inner).unwrap_or(false)
    }

    /// The embedding that is the head too, where the base has no tensor for that.
    fn tied_embedding(&self) -> Option<(usize, &'a Tensor)> {
        const EMBEDDINGS: [&str; 4] =
            ["embed_tokens.weight", "wte.weight", "word_embeddings.weight", "embed_in.weight"];
        let is_one = |tensor: &Tensor| {
            EMBEDDINGS.iter().any(|end| tensor.name == *end || tensor.name.ends_with(&format!(".{end}")))
        };
        if !self.ties_head() {
            return None;
        }
        self.tensors.iter().copied().find(|(_, tensor)| is_one(tensor))
    }
}

/// Names of heads that a base may share with its embedding.
fn is_head(name: &str) -> bool {
    matches!(name.rsplit('.').nth(1), Some("lm_head" | "embed_out" | "output"))
}

/// What adapts raw parameters of a path, by the config.
fn parameters(config: &AdapterConfig, path: &str) -> Vec<String> {
    let Some(Value::Array(all)) = config.field("target_parameters") else { return Vec::new() };
    let own = |key: &Value| {
        let (module, parameter) = key.as_str()?.rsplit_once('.')?;
        (path == module || path.ends_with(&format!(".{module}"))).then(|| parameter.to_owned())
    };
    let mut found: Vec<_> = all.iter().filter_map(own).collect();
    found.dedup();
    // wrapped in the order in which the model has them: what goes down comes last
    found.sort_by_key(|name| name.starts_with("down"));
    found
}

/// Where a parameter of experts is: whole, or expert by expert as model hubs have it.
enum Experts<'a> {
    Whole(&'a Tensor),
    /// The parts, one below the other, each with the tensors of all experts.
    Parted(Vec<Vec<(usize, &'a Tensor)>>),
}

impl<'a> Base<'a> {
    fn experts(&self, path: &str, parameter: &str) -> Option<Experts<'a>> {
        if let Some((_, tensor)) = self.find(&format!("{path}.{parameter}")) {
            return Some(Experts::Whole(tensor));
        }
        let ways: &[&[&str]] = match parameter {
            "gate_up_proj" => &[&["gate_proj", "up_proj"], &["w1", "w3"]],
            "down_proj" => &[&["down_proj"], &["w2"]],
            _ => return None,
        };
        let paths = [path.to_owned(), path.replace(".mlp.experts", ".block_sparse_moe.experts")];
        let all = |path: &String, part: &str| -> Vec<_> {
            let of = |expert: usize| self.find(&format!("{path}.{expert}.{part}.weight"));
            (0..).map_while(of).collect()
        };
        paths.iter().flat_map(|path| ways.iter().map(move |way| (path, way))).find_map(|(path, way)| {
            let parts: Vec<Vec<_>> = way.iter().map(|part| all(path, part)).collect();
            let count = parts[0].len();
            (count > 0 && parts.iter().all(|part| part.len() == count)).then_some(Experts::Parted(parts))
        })
    }
}

/// How factors lie over a weight.
#[derive(Clone, Copy, PartialEq)]
enum Layout {
    /// `[out, in]`
    Straight,
    /// `[in, out]`
    Turned,
}

impl Targets {
    /// Find the place of every part.
    ///
    /// # Errors
    /// [`ErrorKind::Names`], [`ErrorKind::Shape`] or [`ErrorKind::Dtype`] with the tensor and both facts.
    pub(super) fn new(config: &AdapterConfig, parts: &Parts, base: &Base<'_>) -> Result<Self> {
        let mut targets = Self::default();
        let scaling = Scaling::new(config)?;
        let way = targets.way(config, parts, base);
        let help = wrong_base(config);
        let is_turned = turned(config, parts, base, &way);
        let mut done: Vec<&str> = Vec::new();
        for module in &parts.modules {
            let parameters = parameters(config, &module.path);
            let at = |error: Error| {
                let tensor = module.a.as_ref().map(|found| found.tensor.name.clone()).unwrap_or_default();
                error.tensor(tensor).help(help.clone())
            };
            if parameters.is_empty() || base.find(&weight(&along(&way, &module.path))).is_some() {
                targets.plain(module, base, &way, &scaling, is_turned, parts).map_err(at)?;
            } else if !done.contains(&module.path.as_str()) {
                done.push(&module.path);
                let own: Vec<_> = parts.modules.iter().filter(|it| it.path == module.path).collect();
                targets.experts(&own, &parameters, base, &way, &scaling).map_err(at)?;
            }
        }
        targets.modules = parts.modules.len();
        for (name, found) in &parts.replaced {
            let at = |error: Error| error.tensor(&found.tensor.name).help(help.clone());
            targets.replace(&along(&way, name), found, base).map_err(at)?;
        }
        for (path, rows, found) in &parts.rows {
            let at = |error: Error| error.tensor(&found.tensor.name).help(help.clone());
            targets.rows(&along(&way, path), rows, found, base).map_err(at)?;
        }
        for (name, found) in &parts.frozen {
            let name = along(&way, name);
            let shape = base.find(&name).map(|(_, tensor)| &tensor.shape);
            if shape.is_some_and(|shape| *shape != found.tensor.shape) {
                let detail = format!(
                    "is the base's own embedding, {:?}, but `{name}` of {} is {:?}: it was resized before the training",
                    found.tensor.shape,
                    base.name,
                    shape.expect("it is there")
                );
                return Err(Error::new(ErrorKind::Shape, detail)
                    .tensor(&found.tensor.name)
                    .help("resize the base as the training did, save it, and give that with --base"));
            }
        }
        if let Some((name, _)) = parts.frozen.first() {
            targets.notes.push(format!(
                "the adapter holds a copy of its base's own `{name}`, which is not needed: the one in {} is taken",
                base.name
            ));
        }
        targets.changes.sort_by(|a, b| a.0.cmp(&b.0));
        if let Some(twice) = targets.changes.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            let detail =
                format!("is changed twice by the adapter: two of its parts belong to `{}`", twice[0].0);
            return Err(Error::new(ErrorKind::Names, detail).help("take one of the two out of it"));
        }
        Ok(targets)
    }

    /// The beginning of paths in the adapter and in the base, where they differ as a whole.
    fn way(&mut self, config: &AdapterConfig, parts: &Parts, base: &Base<'_>) -> Way {
        let same = (String::new(), String::new());
        let Some(first) = parts.modules.first() else { return same };
        let has = |way: &Way, module: &Module| {
            let path = along(way, &module.path);
            let parameters = parameters(config, &module.path);
            base.find(&weight(&path)).is_some()
                || base.find(&format!("{path}.in_proj_weight")).is_some()
                || is_head(&weight(&path)) && base.tied_embedding().is_some()
                || parameters.iter().any(|it| base.experts(&path, it).is_some())
        };
        let mut ways = vec![same.clone()];
        let end = format!(".{}", weight(&first.path));
        ways.extend(
            base.names()
                .filter_map(|name| name.strip_suffix(&end))
                .map(|it| (String::new(), format!("{it}."))),
        );
        let dots = first.path.match_indices('.').map(|(at, _)| first.path[..=at].to_owned());
        ways.extend(dots.map(|start| (start, String::new())));
        for (one, other) in [
            ("model.language_model.", "language_model.model."),
            ("language_model.model.", "model.language_model."),
            ("model.language_model.", "model."),
        ] {
            ways.push((one.to_owned(), other.to_owned()));
        }
        // what names one layer among others is no beginning of all paths
        ways.retain(|(one, other)| {
            !one.contains(|c: char| c.is_ascii_digit()) && !other.contains(|c: char| c.is_ascii_digit())
        });
        let count = |way: &Way| parts.modules.iter().filter(|module| has(way, module)).count();
        if count(&same) == parts.modules.len() {
            return same;
        }
        match ways.into_iter().find(|way| count(way) == parts.modules.len()) {
            Some(way) => {
                let quoted =
                    |text: &str| if text.is_empty() { "no prefix".into() } else { format!("`{text}`") };
                self.notes.push(format!(
                    "the adapter's modules begin with {} where those of {} have {}",
                    quoted(&way.0),
                    base.name,
                    quoted(&way.1)
                ));
                way
            }
            None => same,
        }
    }

    /// A module with one weight.
    fn plain(
        &mut self,
        module: &Module,
        base: &Base<'_>,
        way: &Way,
        scaling: &Scaling,
        is_turned: bool,
        parts: &Parts,
    ) -> Result<()> {
        let path = along(way, &module.path);
        let name = weight(&path);
        let fused = || base.find(&format!("{path}.in_proj_weight"));
        let mut is_added = false;
        let place = base.find(&name).or_else(fused).or_else(|| {
            let tied = if is_head(&name) { base.tied_embedding() } else { None };
            is_added = tied.is_some();
            tied
        });
        let Some((file, tensor)) = place else {
            let there = |module: &&Module| base.find(&weight(&along(way, &module.path))).is_some();
            let count = parts.modules.iter().filter(there).count();
            let near = spelling::closest(&name, base.names());
            let near = near.map_or_else(String::new, |near| format!(" (the nearest is `{near}`)"));
            return Err(Error::new(
                ErrorKind::Names,
                format!(
                    "adapts {}, but {} has no tensor `{name}`{near}; of its {} modules {count} are there",
                    module.path,
                    base.name,
                    parts.modules.len()
                ),
            ));
        };
        let (a, b) = (factor(module.a.as_ref())?, factor(module.b.as_ref())?);
        let wide = |shape: &[u64]| shape.iter().skip(1).product::<u64>();
        let (rows, cols) = (tensor.shape.first().copied().unwrap_or(0), wide(&tensor.shape));
        let (ranks, inner) = (a.tensor.shape[0], wide(&a.tensor.shape));
        let (outer, other) = (b.tensor.shape[0], wide(&b.tensor.shape));
        if ranks != other || ranks == 0 {
            let detail = format!(
                "is {:?}, which does not fit `{}` of {:?}: the ranks differ",
                a.tensor.shape, b.tensor.name, b.tensor.shape
            );
            return Err(
                Error::new(ErrorKind::Shape, detail).help("the file is damaged: save the adapter again")
            );
        }
        // of an embedding A has a column for each row of it
        let layout = if module.is_embedding {
            Layout::Turned
        } else {
            layout((rows, cols), (outer, inner), is_turned)
        };
        let fits = match layout {
            Layout::Straight => (rows, cols) == (outer, inner),
            Layout::Turned => (rows, cols) == (inner, outer),
        };
        if !fits || tensor.shape.len() < 2 {
            let wanted = if layout == Layout::Straight && !module.is_embedding {
                [outer, inner]
            } else {
                [inner, outer]
            };
            let detail = format!(
                "is for a weight of {wanted:?}, but `{}` of {} is {:?}",
                tensor.name, base.name, tensor.shape
            );
            return Err(Error::new(ErrorKind::Shape, detail));
        }
        let float = float_of(tensor, base)?;
        let scale = scaling.scale(&module.path, ranks);
        let straight = |found: &Found, step, rank_step| side(found, step, rank_step, 0, 0);
        let (left, right) = match layout {
            Layout::Straight => (straight(b, ranks, 1)?, straight(a, 1, inner)?),
            Layout::Turned => (straight(a, 1, inner)?, straight(b, ranks, 1)?),
        };
        let is_rows = layout == Layout::Straight;
        let magnitude = match &module.magnitude {
            Some(found) => {
                let count: u64 = found.tensor.shape.iter().product();
                let outs = if is_rows { rows } else { cols };
                if count != outs {
                    let detail = format!(
                        "has {count} magnitudes, but `{}` of {} has {outs} outputs",
                        tensor.name, base.name
                    );
                    return Err(Error::new(ErrorKind::Shape, detail).tensor(&found.tensor.name));
                }
                Some((place_of(found)?, is_rows))
            }
            None => None,
        };
        let delta = Delta { expert: 0, rows, cols, rank: ranks, scale, left, right: Some(right), magnitude };
        let change = Change::Fold(Box::new(delta));
        if is_added {
            let from = Some(Place { file, start: tensor.range.start, float });
            let (dtype, shape) = (tensor.dtype, tensor.shape.clone());
            self.added.push(Added { name: name.clone(), dtype, shape, from, change });
            self.untie(&name, tensor);
        } else {
            if tensor.shape.len() == 2
                && module.is_embedding
                && base.tied_embedding().is_some_and(|it| it.1.name == tensor.name)
            {
                self.notes.push(format!(
                    "{} ties its head to `{}`, so that folding changes both, as PEFT's merge does",
                    base.name, tensor.name
                ));
            }
            self.changes.push((tensor.name.clone(), change));
        }
        let Some(bias) = &module.bias else { return Ok(()) };
        let name = format!("{path}.bias");
        let Some((_, tensor)) = base.find(&name) else {
            let detail = format!(
                "is a bias of {}, but {} has no `{name}` that it could be added to",
                module.path, base.name
            );
            return Err(Error::new(ErrorKind::Names, detail)
                .tensor(&bias.tensor.name)
                .help("PEFT cannot fold it either: use the adapter beside its base"));
        };
        if tensor.shape != bias.tensor.shape {
            return Err(differs(bias, tensor, base));
        }
        let rows = tensor.shape.iter().product();
        let left = straight(bias, 1, 1)?;
        let delta = Delta { expert: 0, rows, cols: 1, rank: 1, scale, left, right: None, magnitude: None };
        float_of(tensor, base)?;
        self.changes.push((name, Change::Fold(Box::new(delta))));
        Ok(())
    }

    /// Raw parameters, most of them of experts: one wrapped in the other.
    fn experts(
        &mut self,
        modules: &[&Module],
        parameters: &[String],
        base: &Base<'_>,
        way: &Way,
        scaling: &Scaling,
    ) -> Result<()> {
        let path = along(way, &modules[0].path);
        if modules.len() != parameters.len() {
            let detail = format!(
                "is one of {} pairs of factors of {}, but target_parameters names {}: {}",
                modules.len(),
                modules[0].path,
                parameters.len(),
                parameters.join(", ")
            );
            return Err(Error::new(ErrorKind::Names, detail).help("config and weights are of two adapters"));
        }
        let places = parameters.iter().map(|parameter| {
            base.experts(&path, parameter).ok_or_else(|| {
                let detail = format!(
                    "adapts {path}.{parameter}, but {} has no such tensor, nor those of its experts",
                    base.name
                );
                Error::new(ErrorKind::Names, detail)
            })
        });
        let places = places.collect::<Result<Vec<_>>>()?;
        // the first is the innermost
        let mut order: Vec<&Module> = modules.to_vec();
        order.sort_by_key(|module| core::cmp::Reverse(module.depth));
        let fits = |order: &[&Module]| {
            places.iter().zip(order).try_for_each(|(place, module)| Fit::new(place, module, base).map(drop))
        };
        let error = fits(&order).err();
        if let Some(error) = error {
            order.reverse();
            fits(&order).map_err(|_| error)?;
        }
        for ((place, parameter), module) in places.iter().zip(parameters).zip(order) {
            let fit = Fit::new(place, module, base)?;
            let key = format!("{}.{parameter}", module.path);
            let scale = scaling.scale(&key, fit.rank);
            for (name, delta) in fit.deltas(place, module, scale, base)? {
                self.changes.push((name, Change::Fold(Box::new(delta))));
            }
        }
        Ok(())
    }

    /// A tensor in the place of the base's.
    fn replace(&mut self, name: &str, found: &Found, base: &Base<'_>) -> Result<()> {
        self.replaced += 1;
        let is_float = Float::of(found.tensor.dtype);
        match base.find(name) {
            Some((_, tensor)) => {
                if tensor.shape != found.tensor.shape {
                    return Err(differs(found, tensor, base));
                }
                let change = match (Float::of(tensor.dtype), is_float) {
                    (Some(to), Some(_)) => Change::Replace(place_of(found)?, Some(to)),
                    _ if tensor.dtype == found.tensor.dtype => Change::Replace(
                        Place { file: found.file, start: found.tensor.range.start, float: Float::F32 },
                        None,
                    ),
                    _ => {
                        let detail = format!(
                            "is {}, but `{name}` of {} is {}, and they cannot be turned into each other",
                            found.tensor.dtype, base.name, tensor.dtype
                        );
                        return Err(Error::new(ErrorKind::Dtype, detail));
                    }
                };
                self.changes.push((name.to_owned(), change));
            }
            None => {
                let tied = if is_head(name) { base.tied_embedding() } else { None };
                let like = tied.map(|(_, tensor)| tensor);
                if let Some(tensor) = like {
                    if tensor.shape != found.tensor.shape {
                        return Err(differs(found, tensor, base));
                    }
                    self.untie(name, tensor);
                } else {
                    self.notes.push(format!(
                        "`{name}` is of the adapter alone (modules_to_save) and was added: load the result as the class that has it"
                    ));
                }
                let dtype = like.map_or(found.tensor.dtype, |tensor| tensor.dtype);
                let place = Place {
                    file: found.file,
                    start: found.tensor.range.start,
                    float: is_float.unwrap_or(Float::F32),
                };
                let change = Change::Replace(place, is_float.and_then(|_| Float::of(dtype)));
                let shape = found.tensor.shape.clone();
                self.added.push(Added { name: name.to_owned(), dtype, shape, from: None, change });
            }
        }
        Ok(())
    }

    fn untie(&mut self, name: &str, tensor: &Tensor) {
        self.is_untied = true;
        self.notes.push(format!(
            "the base ties its head to `{}`; the adapter changes the head alone, so that `{name}` is written and config.json says tie_word_embeddings = false",
            tensor.name
        ));
    }

    /// Rows of an embedding.
    fn rows(&mut self, path: &str, rows: &[u64], found: &Found, base: &Base<'_>) -> Result<()> {
        let name = weight(path);
        let Some((_, tensor)) = base.find(&name) else {
            let detail = format!("holds rows of {path}, but {} has no tensor `{name}`", base.name);
            return Err(Error::new(ErrorKind::Names, detail));
        };
        let width = found.tensor.shape.get(1);
        if tensor.shape.len() != 2 || tensor.shape.get(1) != width {
            return Err(differs(found, tensor, base));
        }
        if let Some(beyond) = rows.iter().find(|row| **row >= tensor.shape[0]) {
            let detail =
                format!("holds the row {beyond}, but `{name}` of {} has {} rows", base.name, tensor.shape[0]);
            return Err(Error::new(ErrorKind::Shape, detail).help(
                "resize the base's embedding as the training did, save it, and give that with --base",
            ));
        }
        float_of(tensor, base)?;
        let mut sorted: Vec<(u64, u64)> = rows.iter().copied().zip(0..).collect();
        sorted.sort_unstable();
        self.changes.push((name, Change::Rows(sorted, place_of(found)?)));
        self.modules += 1;
        Ok(())
    }
}

/// How a pair of factors lies over the experts of a parameter.
struct Fit {
    experts: u64,
    rank: u64,
    layout: Layout,
    inner: u64,
}

impl Fit {
    fn new(place: &Experts<'_>, module: &Module, base: &Base<'_>) -> Result<Self> {
        /// Models whose experts are `[in, out]`.
        const TURNED: [&str; 4] = ["gpt_oss", "llama4", "llama4_text", "dbrx"];
        let (a, b) = (factor(module.a.as_ref())?, factor(module.b.as_ref())?);
        let (ranks, inner, outer) = (a.tensor.shape[0], a.tensor.shape[1], b.tensor.shape[0]);
        let (name, experts, shape) = match place {
            Experts::Whole(tensor) => match tensor.shape.as_slice() {
                [experts, rows, cols] => (&tensor.name, *experts, (*rows, *cols)),
                [rows, cols] => (&tensor.name, 1, (*rows, *cols)),
                _ => (&tensor.name, 0, (0, 0)),
            },
            Experts::Parted(parts) => {
                let first = |part: &Vec<(usize, &Tensor)>| part[0].1.shape.first().copied().unwrap_or(0);
                let tensor = parts[0][0].1;
                let cols = tensor.shape.get(1).copied().unwrap_or(0);
                (&tensor.name, parts[0].len() as u64, (parts.iter().map(first).sum(), cols))
            }
        };
        let layout = layout(shape, (outer, inner), TURNED.contains(&base.kind()));
        let wanted = if layout == Layout::Straight { (outer, inner) } else { (inner, outer) };
        let is_parted = matches!(place, Experts::Parted(_));
        let is_even = experts > 0 && ranks > 0 && ranks.is_multiple_of(experts) && b.tensor.shape[1] == ranks;
        if wanted != shape || !is_even || is_parted && layout == Layout::Turned {
            let detail = format!(
                "is {:?} beside `{}` of {:?}, which does not fit the {experts} experts of {shape:?} in `{name}` of {}",
                a.tensor.shape, b.tensor.name, b.tensor.shape, base.name
            );
            return Err(Error::new(ErrorKind::Shape, detail).tensor(&a.tensor.name));
        }
        Ok(Self { experts, rank: ranks / experts, layout, inner })
    }

    /// What is added to each of the base's tensors.
    fn deltas(
        &self,
        place: &Experts<'_>,
        module: &Module,
        scale: f64,
        base: &Base<'_>,
    ) -> Result<Vec<(String, Delta)>> {
        let (a, b) = (factor(module.a.as_ref())?, factor(module.b.as_ref())?);
        let Self { experts, rank, layout, inner } = *self;
        // A is by experts, B by ranks and then by experts (`ParamWrapper` in PEFT's `lora/layer.py`)
        let of_a = |offset| side(a, 1, inner, rank * inner, offset);
        let of_b = |offset| side(b, rank * experts, experts, 1, offset);
        let made =
            |tensor: &Tensor, delta: Delta| float_of(tensor, base).map(|_| (tensor.name.clone(), delta));
        match place {
            Experts::Whole(tensor) => {
                let (left, right) =
                    if layout == Layout::Straight { (of_b(0)?, of_a(0)?) } else { (of_a(0)?, of_b(0)?) };
                let [.., rows, cols] = *tensor.shape.as_slice() else { return Ok(Vec::new()) };
                let right = Some(right);
                let delta = Delta { expert: 0, rows, cols, rank, scale, left, right, magnitude: None };
                Ok(vec![made(tensor, delta)?])
            }
            Experts::Parted(parts) => {
                let mut all = Vec::new();
                let mut above = 0;
                for part in parts {
                    let rows = part[0].1.shape.first().copied().unwrap_or(0);
                    for (expert, (_, tensor)) in (0..).zip(part) {
                        if tensor.shape != part[0].1.shape {
                            let detail = format!(
                                "is {:?}, but `{}` is {:?}",
                                tensor.shape, part[0].1.name, part[0].1.shape
                            );
                            return Err(Error::new(ErrorKind::Shape, detail)
                                .file(base.name)
                                .tensor(&tensor.name));
                        }
                        let (left, right) = (of_b(above * rank * experts)?, Some(of_a(0)?));
                        let cols = inner;
                        let delta = Delta { expert, rows, cols, rank, scale, left, right, magnitude: None };
                        all.push(made(tensor, delta)?);
                    }
                    above += rows;
                }
                Ok(all)
            }
        }
    }
}

/// Whether weights are `[in, out]`: what the config says, unless a weight that is not square shows the opposite.
fn turned(config: &AdapterConfig, parts: &Parts, base: &Base<'_>, way: &Way) -> bool {
    let seen = parts.modules.iter().filter(|module| !module.is_embedding).find_map(|module| {
        let (a, b) = (module.a.as_ref()?, module.b.as_ref()?);
        let (_, tensor) = base.find(&weight(&along(way, &module.path)))?;
        let ([_, inner], [outer, _]) = (a.tensor.shape.as_slice(), b.tensor.shape.as_slice()) else {
            return None;
        };
        let shape = tensor.shape.as_slice();
        (inner != outer).then(|| (shape == [*outer, *inner], shape == [*inner, *outer]))
    });
    match seen {
        Some((true, false)) => false,
        Some((false, true)) => true,
        _ => config.is_set("fan_in_fan_out"),
    }
}

/// How `[out, in]` lies in a weight; `is_turned` decides where both would fit.
fn layout(weight: (u64, u64), (outer, inner): (u64, u64), is_turned: bool) -> Layout {
    match (weight == (outer, inner), weight == (inner, outer)) {
        (true, true) if is_turned => Layout::Turned,
        (false, true) => Layout::Turned,
        _ => Layout::Straight,
    }
}

fn weight(path: &str) -> String {
    format!("{path}.weight")
}

fn factor(found: Option<&Found>) -> Result<&Found> {
    let found = found.expect("pairs are whole");
    if found.tensor.shape.len() < 2 || found.tensor.shape.contains(&0) {
        let detail = format!("is {:?}, but a LoRA factor has two dimensions or more", found.tensor.shape);
        return Err(Error::new(ErrorKind::Shape, detail).tensor(&found.tensor.name));
    }
    Ok(found)
}

fn place_of(found: &Found) -> Result<Place> {
    let float = Float::of(found.tensor.dtype).ok_or_else(|| {
        Error::new(ErrorKind::Dtype, format!("is {}, but adapters are floats", found.tensor.dtype))
            .tensor(&found.tensor.name)
    })?;
    Ok(Place { file: found.file, start: found.tensor.range.start, float })
}

fn side(found: &Found, step: u64, rank_step: u64, expert_step: u64, offset: u64) -> Result<Side> {
    Ok(Side { place: place_of(found)?, step, rank_step, expert_step, offset })
}

/// The dtype of a tensor of the base that is changed.
fn float_of(tensor: &Tensor, base: &Base<'_>) -> Result<Float> {
    Float::of(tensor.dtype).ok_or_else(|| {
        let detail = format!("is {}, and an adapter is folded into floats only", tensor.dtype);
        Error::new(ErrorKind::Dtype, detail)
            .file(base.name)
            .tensor(&tensor.name)
            .help("give the base as it was before it was quantised")
    })
}

fn differs(found: &Found, tensor: &Tensor, base: &Base<'_>) -> Error {
    let detail =
        format!("is {:?}, but `{}` of {} is {:?}", found.tensor.shape, tensor.name, base.name, tensor.shape);
    Error::new(ErrorKind::Shape, detail).tensor(&found.tensor.name)
}

/// What to do when an adapter does not fit.
pub(super) fn wrong_base(config: &AdapterConfig) -> String {
    match config.base_model() {
        Some(name) => {
            format!("give the model that the adapter was trained on with --base: its config names {name}")
        }
        None => "give the model that the adapter was trained on with --base".into(),
    }
}
