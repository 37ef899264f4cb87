//! `mwa-report.json`: what was merged, with which weights and why, and the hashes of all of it.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use super::closing::Hash;
use crate::digest::hash;
use crate::dtype::Float;
use crate::error::{Error, ErrorKind, Result};
use crate::files::last;
use crate::format::safetensors::TextMap;
use crate::format::training::is_of_ranks;
use crate::logs::goal::Goal;
use crate::logs::metric::Metric;
use crate::method::blend::{Blend, BlendName};
use crate::method::product::{Method, Rank, Residual, Space};
use crate::run::checkpoint::Checkpoint;
use crate::run::step::step_of_folder;
use crate::text::escape::readable;
use crate::text::index::Index;
use crate::text::json::float;
pub use crate::weigh::advice::Advice;
pub use crate::weigh::combine::{Ranked, Ranking};
pub use crate::weigh::modules::Group;
use crate::weigh::modules::module_of;
use crate::weigh::robust::{Robust, Rule};
use crate::weigh::scheme::{Needs, Scheme};
pub use crate::weigh::window::Selected;

/// Refuse a report of a version of a later series than this one: reports and bytes change with those.
///
/// # Errors
/// [`ErrorKind::Input`] with both versions.
pub fn refuse_newer(version: &str) -> Result<()> {
    let series = |version: &str| -> Option<[u64; 2]> {
        let mut parts = version.split('.').map(|part| part.parse().ok());
        Some([parts.next()??, parts.next()??])
    };
    let own = env!("CARGO_PKG_VERSION");
    if series(version) <= series(own) {
        return Ok(());
    }
    let detail = format!("was written by mwa {version}, whose reports mwa {own} does not know");
    Err(Error::new(ErrorKind::Input, detail).help(format!("verify it with mwa {version} or newer")))
}

/// The report beside every merged model, enough to make it again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Version of the program that wrote it.
    pub mwa: String,
    /// Which checkpoints were taken, and why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selected: Option<Selected>,
    /// How the weights were made.
    pub weighting: Weighting,
    /// How several metrics order the inputs, where the weights come from several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ranking: Option<Ranking>,
    /// The weights of modules that have their own, in the order in which they count; all others have those of the inputs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<Group>,
    /// `factors`: tensors are averaged one by one; `product`: LoRA's products are, module by module.
    pub space: String,
    /// The rank asked for in product space: `inputs`, `full`, `energy SHARE` or a number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rank: Option<String>,
    /// How far the result is from Σ wγBA, the average of what the adapters do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub residual: Option<Distance>,
    /// How far quantised weights are from the average of what codes and scales are worth, by rounding it once to codes of new
    /// scales; of more than a hundred, the worst hundred.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quantised: Option<Distance>,
    /// How much of what was changed of a base counts by second moments, in each module.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grafted: Option<Grafted>,
    /// Output dtype of averaged tensors; `keep` is the widest of the inputs.
    pub dtype: String,
    /// The bytes that a file of the output has at most, where it was parted anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shard_size: Option<u64>,
    /// The adapter taken from checkpoints that hold several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adapter: Option<String>,
    /// The container that the merge was converted to, if any: `outputs` are then the files before, and `companions` what is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<String>,
    /// The federated round that this was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub round: Option<Round>,
    /// What was lost of a model and came from elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovered: Option<Recovered>,
    /// The adapter that was folded into its base: the inputs are then the base and the adapter, which count as they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub folded: Option<Folded>,
    /// The adapter that was taken out of a model: the inputs are then the tuned model and its base, and `residual` says what the
    /// factors leave over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extracted: Option<Extracted>,
    /// The inputs in the order in which they were summed.
    pub inputs: Vec<Input>,
    /// The files with weights that were written.
    pub outputs: Vec<HashedFile>,
    /// What was written beside them and decides what they do: shard index, configs, tokenizer, templates. A host that does
    /// not write them, or cannot hash them, leaves it empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub companions: Vec<HashedFile>,
    /// Why little is to be expected of this merge, if so.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub advice: Vec<Advice>,
    /// What the user was told.
    pub notes: Vec<String>,
}

/// How far merged LoRA modules are from the exact average of the inputs' products, before rounding to the output dtype.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Distance {
    /// ‖result − Σ wγBA‖ / ‖Σ wγBA‖ over all modules together.
    pub overall: f64,
    /// How that was found: `exact`, or `sketch`, by random sums.
    #[serde(default = "exact")]
    pub method: String,
    /// The standard error of `overall`, where it is an estimate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standard_error: Option<f64>,
    /// The same by module.
    pub modules: Vec<ModuleDistance>,
}

/// A module of a [`Distance`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModuleDistance {
    /// Its name, as PEFT's patterns see it.
    pub module: String,
    /// Its rank in the output.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rank: Option<usize>,
    /// ‖result − Σ wγBA‖ / ‖Σ wγBA‖.
    pub relative: f64,
    /// The standard error of `relative`, where it is an estimate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standard_error: Option<f64>,
}

/// How much of what was changed of a base counts, of each checkpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Grafted {
    /// From which v·τ² on it counts; empty where each tensor has its own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub thresholds: Vec<f64>,
    /// The share of all elements.
    pub kept: Vec<f64>,
    /// The same by module.
    pub modules: Vec<GraftedModule>,
}

/// A module of a [`Grafted`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GraftedModule {
    /// Its name: that of its tensors, less what tells them apart.
    pub module: String,
    /// The share of its elements, of each checkpoint.
    pub kept: Vec<f64>,
}

impl Grafted {
    /// Of counts by tensor, sorted by name: what counts of each checkpoint, and how many elements there are.
    #[expect(clippy::cast_precision_loss, reason = "counts of elements, of which shares are told")]
    pub(crate) fn new(thresholds: Vec<f64>, tensors: &[(String, Vec<u64>, u64)]) -> Option<Self> {
        let add = |sum: &mut Vec<u64>, counts: &[u64]| sum.iter_mut().zip(counts).for_each(|(a, b)| *a += b);
        let (_, first, _) = tensors.first()?;
        let (mut all, mut total) = (alloc::vec![0; first.len()], 0);
        // tensors of a module need not stand together by name
        let mut by_module: Vec<_> = tensors.iter().map(|tensor| (module_of(&tensor.0), tensor)).collect();
        by_module.sort_by_key(|(module, _)| *module);
        let mut modules: Vec<(&str, Vec<u64>, u64)> = Vec::new();
        for (module, (_, counts, elements)) in by_module {
            add(&mut all, counts);
            total += elements;
            match modules.last_mut() {
                Some((same, sum, count)) if *same == module => {
                    add(sum, counts);
                    *count += elements;
                }
                _ => modules.push((module, counts.clone(), *elements)),
            }
        }
        let share = |counts: Vec<u64>, of: u64| -> Vec<f64> {
            counts.into_iter().map(|count| count as f64 / of.max(1) as f64).collect()
        };
        let modules = modules.into_iter();
        let modules = modules
            .map(|(module, counts, of)| GraftedModule { module: module.into(), kept: share(counts, of) })
            .collect();
        Some(Self { thresholds, kept: share(all, total), modules })
    }

    /// In words, of one checkpoint: "25 %, most in q_proj (40 %), least in k_proj (3 %)".
    #[must_use]
    pub fn describe(&self, checkpoint: usize) -> String {
        let share = |module: &GraftedModule| module.kept[checkpoint];
        let order = |a: &&GraftedModule, b: &&GraftedModule| share(a).total_cmp(&share(b));
        let mut text = percent(self.kept[checkpoint]);
        if let (Some(most), Some(least)) =
            (self.modules.iter().max_by(order), self.modules.iter().min_by(order))
            && share(most) > share(least)
        {
            let of =
                |module: &GraftedModule| format!("{} ({})", readable(&module.module), percent(share(module)));
            text += &format!(", most in {}, least in {}", of(most), of(least));
        }
        text
    }
}

const EXACT: &str = "exact";
/// Quantised weights that a report lists.
const MOST_MODULES: usize = 100;

/// How reports of older versions found everything.
fn exact() -> String {
    EXACT.into()
}

impl Distance {
    /// Put modules together; `None` if there are none, or their numbers are beyond f64.
    pub fn new(
        how: Method,
        modules: impl Iterator<Item = (String, Option<usize>, Residual)>,
    ) -> Option<Self> {
        let standard_error = |residual: Residual| (how == Method::Sketch).then(|| residual.standard_error());
        let mut sum = Residual::default();
        let modules: Vec<_> = modules
            .map(|(module, rank, residual)| {
                sum = sum.plus(residual);
                ModuleDistance {
                    module,
                    rank,
                    relative: residual.relative(),
                    standard_error: standard_error(residual),
                }
            })
            .collect();
        let is_finite = modules.iter().all(|module| module.relative.is_finite());
        (!modules.is_empty() && is_finite && sum.relative().is_finite()).then(|| Self {
            overall: sum.relative(),
            method: if how == Method::Sketch { "sketch" } else { EXACT }.into(),
            standard_error: standard_error(sum),
            modules,
        })
    }

    /// With the modules that are furthest off alone, in their order: a large model has tens of thousands.
    #[must_use]
    pub(crate) fn of_the_worst(mut self) -> Self {
        if self.modules.len() > MOST_MODULES {
            let mut order: Vec<_> = self.modules.iter().map(|module| module.relative).collect();
            order.sort_unstable_by(|a, b| b.total_cmp(a));
            let least = order[MOST_MODULES - 1];
            self.modules.retain(|module| module.relative >= least);
            self.modules.truncate(MOST_MODULES);
        }
        self
    }

    /// The module that is furthest off.
    #[must_use]
    pub fn worst(&self) -> Option<&ModuleDistance> {
        self.modules.iter().max_by(|a, b| a.relative.total_cmp(&b.relative))
    }

    /// In words: "0.34 % (at most 1.2 %, in model.layers.0.q_proj)", or of an estimate "0.34 % ± 0.01 %".
    #[must_use]
    pub fn describe(&self) -> String {
        let mut overall = percent(self.overall);
        if let Some(error) = self.standard_error.filter(|error| *error > 0.0) {
            overall += &format!(" ± {}", percent(error));
        }
        match self.worst() {
            Some(worst) if worst.relative > 0.0 => {
                format!("{overall} (at most {}, in {})", percent(worst.relative), worst.module)
            }
            _ => overall,
        }
    }
}

/// Two significant digits; below the rounding of f32 it is nothing.
fn percent(share: f64) -> String {
    let percent = share * 100.0;
    if percent < 1e-5 {
        return "0 %".into();
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and 6")]
    let decimals = (1.0 - libm::floor(libm::log10(percent))).clamp(0.0, 6.0) as usize;
    format!("{percent:.decimals$} %")
}

/// How weights came about.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Weighting {
    /// The name of a [`Scheme`], or `explicit`.
    pub scheme: String,
    /// What becomes of the values of an element, unless it is their weighted mean: `median`, `trimmed-mean`, or of tasks over a base.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// The penalty, where the scheme has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub penalty: Option<f64>,
    /// The metric, where the scheme has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metric: Option<String>,
    /// `min` or `max`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub goal: Option<String>,
    /// How many bad inputs were expected, where the scheme or the method asks that; of the latter, on each side.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outliers: Option<usize>,
    /// How much of what tasks changed is added to their base, where that was said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale: Option<f64>,
    /// The share of what each task changed that counts, the largest of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub density: Option<f64>,
    /// `tensor` where that is of each tensor, instead of the whole model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub density_per: Option<String>,
    /// How many directions were kept, where the scheme asks that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subspace: Option<usize>,
    /// What else the scheme was told, by the names of the options.
    #[serde(default, skip_serializing_if = "TextMap::is_empty")]
    pub settings: TextMap,
}

/// One input.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Input {
    /// Path as given on the command line or found in the run.
    pub name: String,
    /// Path from the output folder.
    pub path: String,
    /// Training step, if known.
    pub step: Option<u64>,
    /// The set of weights that was asked for in training states that hold several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights_key: Option<String>,
    /// The metric's value.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metric: Option<f64>,
    /// Where the value comes from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// `base`, of which the other inputs are tasks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// What it was in a federated round.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub round: Option<Contribution>,
    /// The normalised weight.
    pub weight: f64,
    /// Of a scheme by steps: the share of the updates since the checkpoint before that is left, as by a decay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub update: Option<f64>,
    /// Its files with weights; empty in a listing that merged nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<HashedFile>,
}

impl Input {
    /// The row of what is called so and lies at this path: nothing is known of it, and it weighs nothing.
    #[must_use]
    pub fn named(name: String, path: String) -> Self {
        Self {
            name,
            path,
            step: None,
            weights_key: None,
            metric: None,
            source: None,
            role: None,
            round: None,
            weight: 0.0,
            update: None,
            files: Vec::new(),
        }
    }

    /// The row of a base.
    pub(crate) fn base(name: &str, weights_key: Option<String>) -> Self {
        Self { weights_key, role: Some(BASE.into()), ..Self::named(name.into(), name.into()) }
    }

    /// An input that is no checkpoint among others, with the hashes of its files.
    pub(crate) fn of_role(
        checkpoint: &Checkpoint,
        role: &str,
        path: &str,
        weight: f64,
        hashes: &[Hash],
    ) -> Self {
        let files = checkpoint.files.iter().zip(hashes).map(|(file, hash)| hash.of(file.name(), file.len));
        Self {
            step: checkpoint.step,
            source: Some(role.into()),
            weight,
            files: files.collect(),
            ..Self::named(checkpoint.name.clone(), path.into())
        }
    }
}

/// What was lost of a model and came from elsewhere.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Recovered {
    /// The way from the output folder to the model.
    pub model: String,
    /// The stage that was lost, such as `model.layers.8-11`.
    pub lost: String,
    /// The way to the checkpoint that it was taken from; none where it is made of its neighbours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// How much the stages before and after count, where that was said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights: Option<(f64, f64)>,
    /// How many tensors were lost.
    pub tensors: usize,
}

/// What taking an adapter out of a model did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extracted {
    /// What the adapter calls its base.
    pub base: String,
    /// The rank asked for, or `error SHARE`.
    pub rank: String,
    /// How many modules have factors.
    pub modules: usize,
    /// The modules that are saved whole.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub saved: Vec<String>,
}

/// What folding an adapter into its base did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Folded {
    /// How many modules of the adapter were folded in.
    pub modules: usize,
    /// How many tensors of the base that changed.
    pub changed: usize,
    /// How many tensors the adapter holds whole, in the place of the base's.
    pub replaced: usize,
    /// The tensors that the base does not have.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub added: Vec<String>,
}

/// A federated round.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Round {
    /// `fedavg`, `fedbuff` or `fedfix`.
    pub rule: String,
    /// What staleness took: `constant`, `polynomial A` or `hinge A,B`.
    pub discount: String,
    /// The time of a round, where the rule asks for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub period: Option<f64>,
    /// How far the server moved, as a share of the clients' mean update.
    pub rate: f64,
    /// The share of the last step that was taken again.
    pub momentum: f64,
    /// The largest norm that an update could have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clip: Option<f64>,
    /// The clients that took part.
    pub clients: usize,
    /// Their samples.
    pub samples: f64,
    /// The step of the server's optimizer: `outputs` are then the clients' mean, and `companions` what is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<ServerStep>,
    /// How exact sums were combined, where the inputs are such, or are summed into one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partials: Option<Partials>,
    /// Clients that were left out, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dropped: Vec<Dropped>,
}

/// What a server's optimizer did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServerStep {
    /// `adam`.
    pub kind: String,
    /// η.
    pub rate: f64,
    /// β₁.
    pub beta1: f64,
    /// β₂.
    pub beta2: f64,
    /// τ.
    pub tau: f64,
    /// The number of the step, from 1 on.
    pub step: u64,
    /// The dtype that was asked for; `keep` is that of the base.
    pub dtype: String,
    /// The moments that it began with: the way to them from the output folder. None for a first step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<HashedFile>,
}

impl ServerStep {
    /// The dtype that was asked for, if one was.
    ///
    /// # Errors
    /// [`ErrorKind::Input`] for one that is unknown.
    pub fn float(&self) -> Result<Option<Float>> {
        float_named(&self.dtype)
    }
}

/// Exact sums of clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Partials {
    /// Clients, or sums, were summed into one.
    Summed,
    /// Sums were divided into a model.
    Finished,
}

/// A client that was left out of a round.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dropped {
    /// Its name.
    pub name: String,
    /// Why.
    pub reason: String,
}

/// What an input was in a federated round.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Contribution {
    /// `client`, `sent` (a model that clients began with), `previous` or `base`.
    pub role: String,
    /// How many samples a client trained on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub samples: Option<f64>,
    /// How many rounds ago it was sent its model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub staleness: Option<f64>,
    /// What its update counts, before it was compared with others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share: Option<f64>,
    /// The norm of its update, where updates were measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub norm: Option<f64>,
    /// What clipping left of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept: Option<f64>,
    /// The cosine between its update and the mean of all, where all pairs were measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cosine: Option<f64>,
}

/// A file by content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HashedFile {
    /// File name within its folder.
    pub name: String,
    /// Length in bytes.
    pub bytes: u64,
    /// BLAKE3 in hex, as `b3sum` prints it; empty where nobody hashed it, and in reports of mwa 0.1 of before.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub blake3: String,
    /// SHA-256 in hex, where it was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// What tells an input in an object store from another of its name, as the store says it: its kind and its value, such as
    /// `etag 9b2cf535f27731c974343645a3985328`. None for a file on a disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
}

impl HashedFile {
    /// A file that nobody has hashed yet.
    #[must_use]
    pub fn unhashed(name: String, bytes: u64) -> Self {
        Self { name, bytes, blake3: String::new(), sha256: None, identity: None }
    }

    /// The file that holds these bytes.
    #[must_use]
    pub fn of(name: &str, bytes: &[u8]) -> Self {
        Self { blake3: hash(bytes), ..Self::unhashed(name.into(), bytes.len() as u64) }
    }
}

/// Files that belong to the model as a whole and are the same in every checkpoint; taken from the newest.
pub const COMPANIONS: [&str; 23] = [
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "config.json",
    "config_sentence_transformers.json",
    "generation_config.json",
    "merges.txt",
    "model_index.json",
    "modules.json",
    "preprocessor_config.json",
    "processor_config.json",
    "scheduler_config.json",
    "sentence_bert_config.json",
    "sentencepiece.bpe.model",
    "special_tokens_map.json",
    "spiece.model",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "video_preprocessor_config.json",
    "vocab.json",
    "vocab.model",
    "vocab.txt",
];

/// No conversion: each tensor keeps the widest dtype of the inputs.
const KEEP: &str = "keep";

const FACTORS: &str = "factors";
const PRODUCT: &str = "product";

/// A space as the report has it: its name, and the rank asked for.
pub fn space_name(space: Space) -> (String, Option<String>) {
    match space {
        Space::Factors => (FACTORS.into(), None),
        Space::Product(rank) => {
            let rank = rank.map(|rank| match rank {
                Rank::Inputs => "inputs".into(),
                Rank::Fixed(rank) => rank.to_string(),
                Rank::Full => "full".into(),
                Rank::Energy(share) => format!("energy {share}"),
            });
            (PRODUCT.into(), rank)
        }
    }
}

/// A merge's output dtype as the command line and the report call it.
#[must_use]
pub fn dtype_name(dtype: Option<Float>) -> String {
    dtype.map_or_else(|| KEEP.into(), |dtype| dtype.dtype().to_string().to_ascii_lowercase())
}

/// The output dtype with that name, which is not `keep`; see [`dtype_name`].
#[must_use]
pub fn dtype_named(name: &str) -> Option<Float> {
    [Float::F32, Float::BF16, Float::F16].into_iter().find(|float| dtype_name(Some(*float)) == name)
}

/// The dtype that a report names, if it is not `keep`.
fn float_named(name: &str) -> Result<Option<Float>> {
    if name == KEEP {
        return Ok(None);
    }
    dtype_named(name)
        .map(Some)
        .ok_or_else(|| Error::new(ErrorKind::Input, format!("names an unknown dtype, {name}")))
}

impl Weighting {
    /// A scheme with its penalty and metric, as far as it has them.
    #[must_use]
    pub fn new(scheme: Scheme, penalty: f64, metric: Option<&Metric>) -> Self {
        Self {
            scheme: scheme.name.into(),
            method: None,
            penalty: scheme.reads_metric().then_some(penalty),
            metric: metric.map(|metric| metric.name.clone()),
            goal: metric.map(|metric| if metric.goal == Goal::Min { "min" } else { "max" }.into()),
            outliers: None,
            scale: None,
            density: None,
            density_per: None,
            subspace: None,
            settings: TextMap::default(),
        }
    }

    /// The caller's own weights.
    #[must_use]
    pub fn explicit() -> Self {
        Self { scheme: "explicit".into(), ..Self::new(Scheme::UNIFORM, 0.0, None) }
    }

    /// Weights that the tensors decide.
    #[must_use]
    pub fn robust(scheme: Scheme, robust: Robust) -> Self {
        let is_krum = matches!(robust.rule, Rule::Krum | Rule::MultiKrum);
        Self {
            outliers: is_krum.then_some(robust.outliers),
            subspace: robust.has_reference().then_some(robust.subspace),
            ..Self::new(scheme, 0.0, None)
        }
    }

    /// Whether tensors decided the weights.
    pub(crate) fn is_robust(&self) -> bool {
        Rule::named(&self.scheme).is_some()
    }

    /// The method, if it is one that is known.
    fn named(&self) -> Option<BlendName> {
        self.method.as_deref()?.parse().ok()
    }

    /// What tables say instead of weights, where the method asks for none.
    #[must_use]
    pub fn instead_of_weights(&self) -> Option<&'static str> {
        self.named()?.instead_of_weights()
    }

    /// The weight of an input, as tables show it.
    #[must_use]
    pub fn shown(&self, input: &Input) -> String {
        match self.instead_of_weights() {
            Some(_) if input.role.is_some() => "–".into(),
            Some(instead) => instead.into(),
            None => format!("{:.4}", input.weight),
        }
    }

    /// Whether the angles between inputs decide what becomes of each tensor.
    #[must_use]
    pub fn is_angled(&self) -> bool {
        self.named().and_then(BlendName::angle).is_some()
    }

    /// In words: "linear, penalty 0.8, by eval_loss (lower is better)".
    #[must_use]
    pub fn describe(&self) -> String {
        let mut text = match &self.method {
            // it takes all inputs alike
            Some(method) if self.instead_of_weights().is_some() => format!("none, method {method}"),
            Some(method) => format!("{}, method {method}", self.scheme),
            None => self.scheme.clone(),
        };
        if let Some(penalty) = self.penalty {
            text += &format!(", penalty {penalty}");
        }
        match self.outliers {
            Some(1) => text += ", 1 outlier",
            Some(outliers) => text += &format!(", {outliers} outliers"),
            None => {}
        }
        for (name, value) in [("scale", self.scale), ("density", self.density)] {
            text += &value.map_or_else(String::new, |value| format!(", {name} {value}"));
        }
        text += &self.density_per.as_ref().map_or_else(String::new, |per| format!(" per {per}"));
        match self.subspace {
            Some(1) => text += ", 1 direction",
            Some(subspace) => text += &format!(", {subspace} directions"),
            None => {}
        }
        match (&self.metric, self.goal.as_deref()) {
            // the metric is told, and scores alone decide
            _ if self.scheme.starts_with("search ") => {}
            // the same of steps
            _ if self.scheme.parse::<Scheme>().is_ok_and(|scheme| scheme.needs == Needs::Steps) => {}
            (Some(metric), Some("min")) => text += &format!(", by {metric} (lower is better)"),
            (Some(metric), Some(_)) => text += &format!(", by {metric} (higher is better)"),
            (Some(metric), None) => text += &format!(", by {metric}"),
            _ => {}
        }
        for (name, value) in self.settings.pairs() {
            text += &format!(", {name} {value}");
        }
        text
    }
}

/// How tables call inputs: by the end of their names that tells them apart, parts whole.
#[must_use]
pub fn labels(inputs: &[Input]) -> Vec<&str> {
    distinct(&inputs.iter().map(|input| input.name.as_str()).collect::<Vec<_>>())
}

/// The ends of paths that tell them apart, parts whole.
pub(crate) fn distinct<'a>(names: &[&'a str]) -> Vec<&'a str> {
    let end = |name: &'a str, parts: usize| {
        let name = name.trim_end_matches(['/', '\\']);
        let start = name.rmatch_indices(['/', '\\']).nth(parts - 1).map_or(0, |(at, _)| at + 1);
        &name[start..]
    };
    let of = |parts| names.iter().map(|name| end(name, parts)).collect::<Vec<_>>();
    let are_distinct = |labels: &Vec<&str>| Index::new(labels.iter().copied()).repeated().is_none();
    // of several runs it is to be seen whose each is
    let folder = |name: &&'a str| name.strip_suffix(end(name, 1)).unwrap_or_default();
    let is_one = names.windows(2).all(|pair| folder(&pair[0]) == folder(&pair[1]));
    let least = if is_one { 1 } else { 2 };
    (least..=MOST_PARTS).map(of).find(are_distinct).unwrap_or_else(|| of(1))
}

/// The longest label, in parts of a path.
const MOST_PARTS: usize = 4;

/// Whether programs that load models read files of that name, in whichever folder: weights, configs, code, templates.
#[must_use]
pub fn is_loaded(path: &str) -> bool {
    const ENDINGS: [&str; 15] = [
        "bin",
        "ckpt",
        "gguf",
        "h5",
        "jinja",
        "json",
        "model",
        "msgpack",
        "npz",
        "onnx",
        "pkl",
        "pt",
        "pth",
        "py",
        "safetensors",
    ];
    let name = last(path);
    let ending = name.rsplit_once('.').filter(|(stem, _)| !stem.is_empty()).map(|(_, ending)| ending);
    ending.is_some_and(|ending| ENDINGS.iter().any(|known| ending.eq_ignore_ascii_case(known)))
        || COMPANIONS.contains(&name)
}

/// The role of a base among inputs.
pub(crate) const BASE: &str = "base";

/// The model card's file name.
pub const CARD: &str = "README.md";

/// The file name of a picture of the weights, which the card shows where a host has drawn one.
pub const PICTURE: &str = "mwa-weights.svg";

/// The report's file name in a merged folder.
pub const REPORT: &str = "mwa-report.json";

/// The file name of a whole model's config.
pub(crate) const MODEL_CONFIG: &str = "config.json";

/// The file name of an adapter's config.
pub const CONFIG: &str = "adapter_config.json";

impl Report {
    /// The file with the second moments of an input, where the method weighs by these: the last of its files, which may lie anywhere.
    #[must_use]
    pub fn moments<'a>(&self, input: &'a Input) -> Option<&'a HashedFile> {
        Blend::told(&self.weighting).ok()?.curvature().filter(|_| input.role.is_none())?;
        input.files.split_last().filter(|(_, weights)| !weights.is_empty()).map(|(file, _)| file)
    }

    /// Whether a file of an input has second moments and no weights: the last, and others of the ranks of a training that had them with it. They
    /// may lie anywhere, and nobody loads them.
    #[must_use]
    pub fn is_moments(&self, input: &Input, file: &HashedFile) -> bool {
        let is_first = input.files.first().is_some_and(|first| core::ptr::eq(first, file));
        self.moments(input).is_some_and(|last| {
            core::ptr::eq(last, file) || !is_first && [last, file].iter().all(|it| is_of_ranks(&it.name))
        })
    }

    /// What a verb makes of inputs that no metric weighs.
    #[must_use]
    pub fn unweighed(verb: &str, inputs: Vec<Input>) -> Self {
        let (space, rank) = space_name(Space::Factors);
        Self {
            mwa: env!("CARGO_PKG_VERSION").to_string(),
            selected: None,
            weighting: Weighting { scheme: verb.into(), ..Weighting::explicit() },
            ranking: None,
            groups: Vec::new(),
            space,
            rank,
            residual: None,
            quantised: None,
            grafted: None,
            dtype: dtype_name(None),
            shard_size: None,
            adapter: None,
            format: None,
            round: None,
            recovered: None,
            folded: None,
            extracted: None,
            inputs,
            outputs: Vec::new(),
            companions: Vec::new(),
            advice: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// Add what the residual, and the method, say of the merge; once, when it is made.
    pub fn advise(&mut self) {
        match (&self.residual, self.space.as_str()) {
            (Some(distance), FACTORS) => {
                let is_beyond = self.inputs.iter().any(|input| input.weight < 0.0);
                self.advice.extend(Advice::on_residual(distance.overall, self.is_one_run(), is_beyond));
            }
            (Some(distance), _) => self.advice.extend(Advice::on_rank(distance.overall)),
            (None, _) => {}
        }
        let of_tasks = [BlendName::Ties, BlendName::Consensus, BlendName::MagnitudeMask];
        let method = self.weighting.named().filter(|method| of_tasks.contains(method));
        let tasks = || self.inputs.iter().filter(|input| input.role.is_none());
        // models in one folder are of one run only where their names say so
        let are_checkpoints = tasks().all(|input| step_of_folder(last(&input.name)).is_some());
        let is_one_task = tasks().count() > 1 && are_checkpoints && self.is_one_run();
        if let Some(method) = method.filter(|_| is_one_task) {
            self.advice.push(Advice::on_one_task(method.name(), tasks().count()));
        }
    }

    /// Whether the inputs lie in one folder; a base may lie elsewhere.
    fn is_one_run(&self) -> bool {
        let run = |input: &Input| input.name.rsplit_once(['/', '\\']).map(|(run, _)| run.to_string());
        let mut runs = self.inputs.iter().filter(|input| input.role.is_none()).map(run);
        let first = runs.next();
        runs.all(|other| Some(&other) == first.as_ref())
    }

    /// What was filled in and where it comes from, if layers were lost.
    #[must_use]
    pub fn describe_recovered(&self) -> Option<String> {
        let Recovered { tensors, lost, .. } = self.recovered.as_ref()?;
        let source = |input: &Input| {
            let name = input.source.as_deref().unwrap_or_default();
            if self.inputs.len() == 1 { name.to_string() } else { format!("{name} ({:.4})", input.weight) }
        };
        let sources: Vec<_> = self.inputs.iter().map(source).collect();
        Some(format!("{tensors} tensors of {lost} from {}; the others as they were", sources.join(" and ")))
    }

    /// How many inputs are merged, without their base.
    #[must_use]
    pub fn merged(&self) -> usize {
        self.inputs.iter().filter(|input| input.role.is_none()).count()
    }

    /// The weights of modules that have their own, in words, a line each.
    #[must_use]
    pub fn describe_groups(&self) -> Vec<String> {
        let line = |group: &Group| {
            let weights: Vec<_> = group.weights.iter().map(|weight| format!("{weight:.4}")).collect();
            let layer = group.layer.map_or_else(String::new, |layer| format!(", layer {layer}"));
            let modules = if group.count == 1 { "module" } else { "modules" };
            format!("{}{layer}: {} ({} {modules})", group.modules, weights.join(" "), group.count)
        };
        // scalars of every tensor would be hundreds of lines
        let groups = if self.weighting.is_angled() { &[] } else { self.groups.as_slice() };
        groups.iter().map(line).collect()
    }

    /// Whether a file of that name in the merged folder is one that the merge wrote.
    #[must_use]
    pub fn wrote(&self, name: &str) -> bool {
        let mut listed = self.outputs.iter().chain(&self.companions);
        let may_be_unlisted =
            || COMPANIONS.contains(&name) || name == CONFIG || name.ends_with(".safetensors.index.json");
        [CARD, REPORT, PICTURE].contains(&name)
            || listed.any(|file| file.name == name)
            || (self.companions.is_empty() && may_be_unlisted())
    }

    /// The output dtype as an option of a merge.
    ///
    /// # Errors
    /// [`ErrorKind::Input`] when it names none that is known.
    pub fn dtype(&self) -> Result<Option<Float>> {
        float_named(&self.dtype)
    }

    /// The space as an option of a merge.
    pub fn space(&self) -> Result<Space> {
        let unknown = || {
            Error::new(ErrorKind::Input, format!("names an unknown space, {} {:?}", self.space, self.rank))
        };
        let number = |text: &str| text.parse().ok();
        match (self.space.as_str(), self.rank.as_deref()) {
            (FACTORS, None) => Ok(Space::Factors),
            (PRODUCT, None) => Ok(Space::Product(None)),
            (PRODUCT, Some("inputs")) => Ok(Space::Product(Some(Rank::Inputs))),
            (PRODUCT, Some("full")) => Ok(Space::Product(Some(Rank::Full))),
            (PRODUCT, Some(text)) => match text.strip_prefix("energy ") {
                Some(share) => float(share).map(Rank::Energy),
                None => number(text).map(Rank::Fixed),
            }
            .map(|rank| Space::Product(Some(rank)))
            .ok_or_else(unknown),
            _ => Err(unknown()),
        }
    }

    /// As text for a file: two-space indent, a newline at the end.
    #[must_use]
    pub fn to_json(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).expect("a report is plain data");
        text.push('\n');
        text
    }
}
