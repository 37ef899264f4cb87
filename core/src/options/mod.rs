//! Every option, once: its name, kind, default, range and help. All faces read their options through this table.
//!
//! A row is a field of [`Options`], an entry of the JSON that [`Options::parse`] takes, a flag of the command line, a
//! keyword of Python and a property of JavaScript, so that one thing has one name everywhere (`drop_bad`, `--drop-bad`,
//! `dropBad`). To add an option, add a row and use its field: `core/tests/options.rs` compares the Python and TypeScript
//! types and the table in the README with [`OPTIONS`], and writes them anew when it is told to.
//!
//! [`OPTIONS`] is for programs that print it. Reading does not touch it, so that help is not linked into WebAssembly.

pub(crate) mod value;

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use serde_json::{Map, Value as Json};

use self::value::Value;
use crate::error::{Error, ErrorKind, Result};
use crate::logs::goal::Goal;
use crate::logs::metric::MetricOptions;
use crate::merge::MergeOptions;
use crate::method::blend::{
    AGREE, Agreeing, Blend, BlendName, DENSITY, DensityPer, GRAFTED, LAMBDA, Trimming,
};
use crate::method::curved::{Curvature, Normalise};
use crate::method::product::{Measure, Rank, Space};
use crate::run::readers::MomentsWanted;
use crate::text::json;
use crate::text::span::Span;
use crate::text::spelling;
use crate::weigh::angles::Angle;
use crate::weigh::choose::{ChooseOptions, PENALTY, Selection, WeightRule};
use crate::weigh::combine::Combine;
use crate::weigh::decay::{Averaging, Curve, Per, Positions};
use crate::weigh::robust::Robust;
use crate::weigh::scheme::{Scheme, Weights};
use crate::weigh::window::Pick;

pub use self::value::{FileSize, Kind, OutputDtype, RankChoice, SpaceName};

/// What is told of an option beside its value.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    /// How the command line calls the value, empty for a switch.
    pub value: &'static str,
    /// The default in words, empty for none.
    pub usual: &'static str,
    /// What it is about.
    pub about: About,
    /// What it is for.
    pub verbs: &'static [Verb],
    /// Faces that cannot have it, and why.
    pub lacking: &'static [(Face, &'static str)],
}

/// A row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Its name in JSON, and in Python; the command line has `-` for `_`, JavaScript capitals.
    pub name: &'static str,
    /// One line of help.
    help: &'static str,
    /// What its value is.
    pub kind: Kind,
    /// The rest.
    pub facts: Facts,
}

impl Row {
    /// One line of help, without a full stop.
    #[must_use]
    pub fn help(&self) -> &'static str {
        self.help.trim_ascii()
    }

    /// The name on the command line. A switch is off unless it is given.
    #[must_use]
    pub fn flag(&self) -> String {
        self.name.replace('_', "-")
    }

    /// The name on the command line of a verb: of a search, `goal` and `questions` are those of the score, `method` its own.
    #[must_use]
    pub fn flag_of(&self, verb: Verb) -> String {
        match (self.name, verb) {
            ("goal", Verb::Search) => "metric-goal".into(),
            (name, Verb::Search) => {
                let short = name.strip_prefix("score_").or_else(|| name.strip_prefix("search_"));
                short.unwrap_or(name).replace('_', "-")
            }
            _ => self.flag(),
        }
    }

    /// What is taken where it is not given to a verb, in words; empty where help says nothing of it.
    #[must_use]
    pub fn usual_of(&self, verb: Verb) -> &'static str {
        match (self.name, verb) {
            ("scheme", Verb::Aggregate) => "clients count by their samples",
            _ => self.facts.usual,
        }
    }

    /// The options that it cannot be combined with.
    #[must_use]
    pub fn excludes(&self) -> &'static [&'static str] {
        if self.name == "weights" { MEASURING } else { &[] }
    }

    /// Whether JSON is a value of it.
    #[must_use]
    pub fn fits(&self, value: &Json) -> bool {
        if NAMES.contains(&self.name) {
            Options::default().set(self.name, value).is_ok()
        } else {
            SearchOptions::default().set(self.name, value).is_ok()
        }
    }

    /// Whether a verb has it on a face.
    #[must_use]
    pub fn is_on_face(&self, face: Face, verb: Verb) -> bool {
        self.facts.verbs.contains(&verb) && !self.facts.lacking.iter().any(|(lacking, _)| *lacking == face)
    }
}

/// Headings of help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum About {
    /// Who proposes weights, and who scores them.
    Search,
    /// Which checkpoints.
    Selection,
    /// Which metric, and how it is read.
    Metric,
    /// From metric to weight.
    Weights,
    /// What is averaged.
    Space,
    /// The files that are written.
    Output,
    /// What computes, and with how much.
    Machine,
}

impl About {
    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Search => "Search",
            Self::Selection => "Selection",
            Self::Metric => "Metric",
            Self::Weights => "Weights",
            Self::Space => "Space",
            Self::Output => "Output",
            Self::Machine => "Machine",
        }
    }
}

/// What mwa can be asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Merge checkpoints.
    Merge,
    /// Choose and weigh them only.
    Weights,
    /// Say what paths are.
    Inspect,
    /// Merge again and compare.
    Verify,
    /// Search for the best weights by scores.
    Search,
    /// Merge what the clients of a federated round returned.
    Aggregate,
    /// Fold an adapter into its base.
    Apply,
    /// Take an adapter out of a model.
    Extract,
}

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Face {
    /// The native command line.
    CommandLine,
    /// Python, C and whoever else gives JSON to the native library.
    Native,
    /// The npm package, in a browser.
    Browser,
    /// The npm package on disk: Node, Deno, Bun, and its command line.
    Node,
    /// The Go package.
    Go,
    /// The Java package, whose engine is the core module or the native library.
    Java,
}

const WEIGHING: &[Verb] = &[Verb::Merge, Verb::Weights, Verb::Search];
/// A search has questions of its own.
const WEIGHING_ONCE: &[Verb] = &[Verb::Merge, Verb::Weights];
const MERGING: &[Verb] = &[Verb::Merge, Verb::Search, Verb::Aggregate];
const OPENING: &[Verb] = &[Verb::Merge, Verb::Weights, Verb::Inspect, Verb::Search];
/// What is for converting what was written, which `merge` alone does.
const CONVERTED: &[Verb] = &[Verb::Merge];
/// What is written, whatever it is made of.
const WRITING: &[Verb] = &[Verb::Merge, Verb::Search, Verb::Aggregate, Verb::Apply, Verb::Extract];
/// What may let bad numbers through.
const PASSING: &[Verb] = &[Verb::Merge, Verb::Search, Verb::Aggregate, Verb::Apply];
/// What runs on threads.
const RUNNING: &[Verb] =
    &[Verb::Merge, Verb::Verify, Verb::Search, Verb::Aggregate, Verb::Apply, Verb::Extract];
const COMPUTING: &[Verb] = &[Verb::Merge, Verb::Verify, Verb::Search, Verb::Aggregate];
/// What federated rounds have too.
const COMPARING: &[Verb] = &[Verb::Merge, Verb::Weights, Verb::Search, Verb::Aggregate];
/// Of schemes by which the tensors decide, which a search has not.
const ROBUST: &[Verb] = &[Verb::Merge, Verb::Weights, Verb::Aggregate];
/// A search finds them itself.
const GIVEN: &[Verb] = &[Verb::Merge, Verb::Weights];

const SELECTION: Facts =
    Facts { value: "", usual: "", about: About::Selection, verbs: WEIGHING, lacking: &[] };
const METRIC: Facts = Facts { about: About::Metric, ..SELECTION };
const WEIGHTS: Facts = Facts { about: About::Weights, ..SELECTION };
const SPACE: Facts = Facts { about: About::Space, verbs: MERGING, ..SELECTION };
const OUTPUT: Facts = Facts { about: About::Output, ..SPACE };
const MACHINE: Facts = Facts { about: About::Machine, verbs: COMPUTING, ..SELECTION };

/// Faces that write what is merged as it is.
const CONVERTING: &[(Face, &str)] = &[
    (Face::Browser, "mwa convert of the native program does it"),
    (Face::Node, "mwa convert of the native program does it"),
    (Face::Go, "mwa convert of the native program does it"),
];

/// Faces that open all files first.
const BASED: &[(Face, &str)] = &[(Face::Browser, "an option of openRun")];

/// Faces that read no state of an optimizer.
const STATED: &[(Face, &str)] = &[
    (Face::Browser, "the native program, Python, Go and Java take it"),
    (Face::Node, "the native program, Python, Go and Java take it"),
];

/// What own weights leave nothing to do for.
const MEASURING: &[&str] = &[
    "scheme",
    "penalty",
    "outliers",
    "subspace",
    "metric",
    "metrics_file",
    "metrics_from",
    "goal",
    "combine",
    "curve",
    "floor",
    "positions",
    "correct_for_lr",
    "ema_decay",
    "ema_per",
    "run_weights",
];

/// What a method that takes all inputs alike leaves nothing to do for.
const WEIGHING_ALONE: &[&str] = &[
    "scheme",
    "penalty",
    "subspace",
    "curve",
    "floor",
    "positions",
    "correct_for_lr",
    "ema_decay",
    "ema_per",
    "run_weights",
    "weights_file",
    "weights",
];

/// Make a struct, a table and the reading of the same rows.
macro_rules! options {
    (
        $(#[doc = $about:literal])+ $options:ident, $table:ident, $names:ident;
        $($(#[doc = $help:literal])+ $name:ident: $type:ty = $usual:expr, $kind:expr, $facts:expr;)+
    ) => {
        $(#[doc = $about])+
        #[derive(Clone, Debug, PartialEq)]
        pub struct $options {
            $($(#[doc = $help])+ pub $name: $type,)+
        }

        impl Default for $options {
            fn default() -> Self {
                Self { $($name: $usual,)+ }
            }
        }

        /// Every one of these options, in the order of help.
        pub static $table: &[Row] = &[
            $(Row { name: stringify!($name), help: concat!($($help),+), kind: $kind, facts: $facts },)+
        ];

        const $names: &[&str] = &[$(stringify!($name)),+];

        impl $options {
            /// Set one option.
            pub(crate) fn set(&mut self, name: &str, value: &Json) -> Result<()> {
                match name {
                    $(stringify!($name) => self.$name = Value::read(value, $kind).ok_or_else(|| wrong(name, value, $kind))?,)+
                    _ => return Err(unknown(name, $names)),
                }
                Ok(())
            }
        }
    };
}

mod search;

pub use search::{SEARCH_OPTIONS, SearchOptions};

options! {
    /// What can be wanted of a merge, beyond its inputs and its output. Fields are the rows of [`OPTIONS`].
    Options, OPTIONS, NAMES;

    /// The newest N checkpoints
    last: Option<usize> = None, Kind::Count, Facts { value: "N", ..SELECTION };
    /// Every K-th checkpoint, counted from the newest
    every: Option<usize> = None, Kind::Count, Facts { value: "K", ..SELECTION };
    /// Checkpoints between two steps, both included; either end may be left out
    steps: Option<(u64, u64)> = None, Kind::Steps, Facts { value: "A..B", ..SELECTION };
    /// The N checkpoints with the best metric
    top: Option<usize> = None, Kind::Count, Facts { value: "N", ..SELECTION };
    /// By a rule: the best by an evaluation or the last, ten, or fewer if the learning rate fell, at most half; or all
    select: Option<Pick> = None, Kind::Word(&Pick::NAMES), Facts {
        value: "RULE",
        usual: "best of a run that logged evaluations, else last; all that are listed",
        ..SELECTION
    };
    /// Exactly these checkpoints, by name
    checkpoints: Option<Vec<String>> = None, Kind::Texts, Facts {
        lacking: &[
            (Face::CommandLine, "give their paths"),
            (Face::Native, "give their paths"),
            (Face::Java, "give their paths"),
        ],
        ..SELECTION
    };
    /// The adapter inside checkpoints that hold several
    adapter: Option<String> = None, Kind::Text, Facts {
        value: "NAME",
        verbs: OPENING,
        lacking: &[(Face::Browser, "an option of openRun")],
        ..SELECTION
    };
    /// The weights in training states that hold several sets of them, such as model_avg
    weights_key: Option<String> = None, Kind::Text, Facts {
        value: "NAME",
        lacking: &[(Face::Browser, "an option of openRun"), (Face::Node, "an option of openRun")],
        ..SELECTION
    };
    /// Leave out checkpoints that diverged, instead of failing
    drop_bad: bool = false, Kind::Switch, Facts { verbs: COMPARING, ..SELECTION };

    /// loss, eval_loss, step or any logged NAME; or several, NAME,NAME:max
    metric: Option<String> = None, Kind::Text, Facts {
        value: "NAME",
        usual: "eval_loss if logged, else step",
        ..METRIC
    };
    /// Read the metric from a CSV or JSON Lines table with a column `checkpoint` or `step`
    metrics_file: Option<String> = None, Kind::Path, Facts { value: "FILE", ..METRIC };
    /// Take metrics from this log alone, a file or a folder with logs: TensorBoard, W&B, MLflow, lm-eval and others
    metrics_from: Option<String> = None, Kind::Text, Facts {
        value: "PATH",
        verbs: OPENING,
        lacking: &[(Face::Browser, "drop the log into the run instead"), (Face::Node, "lay the log into the run instead")],
        ..METRIC
    };
    /// Whether lower or higher is better
    goal: Option<Goal> = None, Kind::Word(&["min", "max"]), Facts { value: "GOAL", usual: "from the metric's name", ..METRIC };
    /// Of several metrics: the sum of the ranks they give, the order that disagrees the least with all, the mean rank, or scaled values
    combine: Option<Combine> = None, Kind::Word(Combine::NAMES), Facts { value: "HOW", usual: "borda", ..METRIC };
    /// How many questions an accuracy is the share of: it is told whether chance alone may make the difference
    questions: Option<usize> = None, Kind::Count, Facts { value: "N", verbs: WEIGHING_ONCE, ..METRIC };
    /// Average a training metric over this many steps around a checkpoint; 0 interpolates
    smooth: Option<f64> = None, Kind::Number(Some(Span::From(0.0))), Facts { value: "STEPS", usual: "from the log", ..METRIC };
    /// Take an evaluation that lies up to this many steps away from its checkpoint
    metric_tolerance: u64 = 0, Kind::Whole, Facts { value: "STEPS", usual: "0", ..METRIC };
    /// Fail rather than take a value that was not logged right at a checkpoint
    strict_metrics: bool = false, Kind::Switch, METRIC;

    /// What becomes of the values of each element: their weighted mean; their median, or their mean without the extremes, so that no bad
    /// checkpoint decides; a base model and what tasks changed of it, all of it, what each changed most, of that what most agree on, or all
    /// that enough of them have a share in; by the curvature that an optimizer's second moments tell, a mean, or a base with what counts
    /// most of what was changed; or by the angles between the checkpoints in each tensor, a base and as much of the mean as they agree, a point
    /// on the arc between two, or the mean on a sphere, about a base if there is one
    method: BlendName = BlendName::Mean, Kind::Word(BlendName::NAMES), Facts { value: "METHOD", usual: "mean", verbs: GIVEN, ..WEIGHTS };
    /// How a metric becomes a weight; with decay and ema steps decide, and with flag, krum, multi-krum and geometric-median the tensors, so that no bad checkpoint does
    scheme: Option<Scheme> = None, Kind::Word(&Scheme::NAMES), Facts { value: "SCHEME", usual: Scheme::ALL[0].name, verbs: COMPARING, ..WEIGHTS };
    /// How hard a worse checkpoint is punished; 0 is the plain mean
    penalty: f64 = PENALTY, Kind::Number(None), Facts { value: "P", usual: "0.8", ..WEIGHTS };
    /// How many bad checkpoints krum and multi-krum expect, or how many values trimmed-mean leaves out on each side
    outliers: Option<usize> = None, Kind::Whole, Facts { value: "F", usual: "one, for these", verbs: ROBUST, ..WEIGHTS };
    /// How much of what tasks changed is added to the base: of task-arithmetic, magnitude-mask and consensus of their sum, of
    /// ties of their mean
    scale: Option<f64> = None, Kind::Number(None), Facts { value: "L", usual: "1 for ties, else 1 over the number of tasks", verbs: GIVEN, ..WEIGHTS };
    /// The share of what each task changed that counts for magnitude-mask, ties and ffg, the largest of it
    density: Option<f64> = None, Kind::Number(Some(Span::Above(0.0, 1.0))), Facts { value: "D", usual: "0.2, or 0.1 for ffg", verbs: GIVEN, ..WEIGHTS };
    /// Whether that is a share of the whole model or of each tensor
    density_per: Option<DensityPer> = None, Kind::Word(DensityPer::NAMES), Facts { value: "WHAT", usual: "model", verbs: GIVEN, ..WEIGHTS };
    /// Of consensus, how much of what the others changed of an element together a task must exceed to have its share in it
    mask_lambda: Option<f64> = None, Kind::Number(Some(Span::From(0.0))), Facts { value: "L", usual: "0.4", verbs: GIVEN, ..WEIGHTS };
    /// How many tasks must have their share in it; what fewer changed is left as in the base
    agree: Option<usize> = None, Kind::Whole, Facts { value: "K", usual: "2", verbs: GIVEN, ..WEIGHTS };
    /// Where the second moments are, a file for each checkpoint in their order: an optimizer.pt, or what mwa moments writes
    moments: Option<Vec<String>> = None, Kind::Texts, Facts {
        value: "FILE,…",
        usual: "the optimizer.pt in each checkpoint",
        verbs: GIVEN,
        lacking: STATED,
        ..WEIGHTS
    };
    /// The power of a second moment that is an element's weight, for ota and ffg
    power: Option<f64> = None, Kind::Number(Some(Span::Above(0.0, 4.0))), Facts { value: "P", usual: "0.5", verbs: GIVEN, lacking: STATED, ..WEIGHTS };
    /// What is added to these weights, as a share of their mean over the tensor
    epsilon: Option<f64> = None, Kind::Number(Some(Span::Between(0.0, 1.0))), Facts { value: "E", usual: "1e-8", verbs: GIVEN, lacking: STATED, ..WEIGHTS };
    /// What they are measured by before checkpoints are compared: their mean over the tensor, or nothing but what few steps left out
    normalise: Option<Normalise> = None, Kind::Word(Normalise::NAMES), Facts { value: "HOW", usual: "mean", verbs: GIVEN, lacking: STATED, ..WEIGHTS };
    /// How many directions the scheme flag keeps
    subspace: Option<usize> = None, Kind::Count, Facts { value: "R", usual: "one, for this scheme", verbs: ROBUST, ..WEIGHTS };
    /// With scheme decay, how the learning rate would have fallen
    curve: Option<Curve> = None, Kind::Word(Curve::NAMES), Facts { value: "CURVE", usual: "linear", ..WEIGHTS };
    /// What that curve ends at, as a share of where it begins
    floor: Option<f64> = None, Kind::Number(Some(Span::Between(0.0, 1.0))), Facts {
        value: "R",
        usual: "0, or 0.1 of the curves inverse and exponential",
        ..WEIGHTS
    };
    /// Where on it the checkpoints lie: by their steps, its mean between each two, or as Megatron counts them
    positions: Option<Positions> = None, Kind::Word(Positions::NAMES), Facts { value: "HOW", usual: "segments", ..WEIGHTS };
    /// Take off such a decay what the logged learning rate had fallen by itself
    correct_for_lr: bool = false, Kind::Switch, WEIGHTS;
    /// With scheme ema, how much the average keeps of itself at each checkpoint or step
    ema_decay: Option<f64> = None, Kind::Number(Some(Span::Between(0.0, 1.0))), Facts { value: "D", usual: "0.7", ..WEIGHTS };
    /// Which of the two it counts
    ema_per: Option<Per> = None, Kind::Word(Per::NAMES), Facts { value: "WHAT", usual: "checkpoint", ..WEIGHTS };
    /// Of several run folders, each selected and weighed by itself, how much of each
    run_weights: Option<Vec<f64>> = None, Kind::Numbers, Facts { value: "V,V,…", usual: "all the same", ..WEIGHTS };
    /// Read weights that differ by module: a JSON list of {"modules": "self_attn", "weights": [0.2, 0.8]}
    weights_file: Option<String> = None, Kind::Path, Facts { value: "FILE", ..WEIGHTS };
    /// Your own weights, one per checkpoint, instead of a metric's
    weights: Option<Vec<f64>> = None, Kind::Numbers, Facts { value: "W,W,…", verbs: GIVEN, ..WEIGHTS };

    /// Average LoRA's factors A and B, or the products B·A that they make; the latter also across runs and ranks
    space: SpaceName = SpaceName::Factors, Kind::Word(&["factors", "product"]), Facts { value: "SPACE", usual: "factors", verbs: COMPARING, ..SPACE };
    /// Rank of merged products: a number, full (exact, the sum of ranks) or auto
    rank: Option<RankChoice> = None, Kind::Rank, Facts { value: "R|auto|full", usual: "the inputs' largest", ..SPACE };
    /// With rank auto, the share of the squared norm that each module keeps
    energy: Option<f64> = None, Kind::Number(Some(Span::Above(0.0, 1.0))), Facts { value: "SHARE", usual: "0.999", ..SPACE };
    /// Fail where a module that an input lacks would count as zero
    strict: bool = false, Kind::Switch, SPACE;
    /// How far averaged factors are from the average of their products: exact, sketch (an estimate in a fraction of a merge's time), or off
    residual: Option<Measure> = None, Kind::Word(&Measure::NAMES), Facts {
        value: "HOW",
        usual: "exact if that is quick, else sketch",
        ..SPACE
    };
    /// Average the factors of adapters, or the models, that are not of one run
    allow_cross_run: bool = false, Kind::Switch, SPACE;

    /// Dtype of averaged tensors; keep takes the widest of the inputs
    dtype: OutputDtype = OutputDtype(None), Kind::Word(&["keep", "f32", "bf16", "f16"]), Facts { value: "DTYPE", usual: "keep", ..OUTPUT };
    /// Container of what is merged: keep, pt, own (checkpoints of torch distributed and DeepSpeed again), or for a LoRA as mwa convert writes it
    format: Option<String> = None, Kind::Word(&["keep", "peft", "diffusers", "kohya", "mlx", "gguf", "pt", "own"]), Facts {
        value: "FORMAT",
        usual: "that of the inputs",
        verbs: CONVERTED,
        lacking: CONVERTING,
        ..OUTPUT
    };
    /// Part a model into files of at most this size, such as 5GB, with the index that transformers and diffusers look for
    shard_size: Option<FileSize> = None, Kind::Size, Facts {
        value: "SIZE",
        usual: "the newest checkpoint's files",
        verbs: CONVERTED,
        ..OUTPUT
    };
    /// The base model of tasks, or of LoRA checkpoints an earlier one of their run; for formats gguf and mlx the base model's folder or
    /// its config.json
    base: Option<String> = None, Kind::Text, Facts { value: "PATH", verbs: CONVERTED, lacking: BASED, ..OUTPUT };
    /// The image model, for format kohya where names do not tell it: flux, sd3, qwen-image, wan, sdxl, sd
    model: Option<String> = None, Kind::Text, Facts { value: "NAME", verbs: CONVERTED, lacking: CONVERTING, ..OUTPUT };
    /// Let NaN and infinity through instead of failing
    allow_non_finite: bool = false, Kind::Switch, Facts { verbs: PASSING, ..OUTPUT };
    /// Write files anew where one checkpoint alone has weight, instead of copying its own
    rewrite: bool = false, Kind::Switch, Facts { verbs: &[Verb::Merge], ..OUTPUT };
    /// Replace an earlier merge
    force: bool = false, Kind::Switch, Facts {
        verbs: WRITING,
        lacking: &[(Face::Browser, "files are handed over, not replaced")],
        ..OUTPUT
    };
    /// Put SHA-256 of every file into the report too, as model hubs show it: it costs more than the merge
    sha256: bool = false, Kind::Switch, Facts {
        verbs: WRITING,
        lacking: &[
            (Face::Browser, "no file is read from front to back"),
            (Face::Node, "no file is read from front to back"),
            (Face::Go, "no file is read from front to back"),
            (Face::Java, "no file is read from front to back"),
        ],
        ..OUTPUT
    };

    /// Threads
    threads: Option<usize> = None, Kind::Count, Facts { value: "N", usual: "one per core", verbs: RUNNING, ..MACHINE };
    /// Bytes of buffers; on the command line also 64M or 1G
    memory: Option<u64> = None, Kind::Bytes, Facts {
        value: "SIZE",
        usual: "64M, or 256M with a GPU",
        verbs: RUNNING,
        lacking: &[
            (Face::Browser, "buffers are a few MiB per worker"),
            (Face::Node, "buffers are a few MiB per worker"),
            (Face::Go, "buffers are a few MiB per goroutine"),
            (Face::Java, "its engine decides"),
        ],
        ..MACHINE
    };
    /// auto, cpu, gpu (or some of what `mwa devices` lists: gpu:0,1), or wasm: a sandbox for files that are not trusted. The
    /// bytes are the same
    device: Option<String> = None, Kind::Device, Facts {
        value: "DEVICE",
        usual: "auto",
        lacking: &[(Face::Go, "WebAssembly computes"), (Face::Java, "its engine decides")],
        ..MACHINE
    };
}

/// The share of the squared norm that rank `auto` keeps.
const ENERGY: f64 = 0.999;

impl Options {
    /// Read a JSON object whose names are those of [`OPTIONS`]; null is the default, and so is an empty text.
    ///
    /// ```
    /// let options = mwa::Options::parse(r#"{"metric": "eval_loss", "last": 4, "penalty": 1}"#)?;
    /// assert_eq!(options.last, Some(4));
    /// let error = mwa::Options::parse(r#"{"penalti": 1}"#).unwrap_err();
    /// assert_eq!(error.to_string(), "there is no option `penalti`");
    /// assert_eq!(error.advice(), Some("did you mean `penalty`?"));
    /// # Ok::<(), mwa::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] for an unknown name, a value that is not of its kind, and options that contradict each other.
    pub fn parse(text: &str) -> Result<Self> {
        let text = if text.trim().is_empty() { "{}" } else { text };
        let given: Map<String, Json> = serde_json::from_str(text)
            .map_err(|error| usage(format!("options are not a JSON object: {error}")))?;
        Self::read(&given)
    }

    /// As [`Self::parse`], of JSON that was read already.
    ///
    /// # Errors
    /// As there.
    pub fn read(given: &Map<String, Json>) -> Result<Self> {
        let mut options = Self::default();
        let given = || given.iter().filter(|(_, value)| !value.is_null());
        for (name, value) in given() {
            options.set(name, value)?;
        }
        let idle = given().map(|(name, _)| name).find(|name| WEIGHING_ALONE.contains(&name.as_str()));
        if let Some(idle) = idle.filter(|_| !options.method.weighs()) {
            let method = options.method.name();
            return Err(usage(format!(
                "options method and {idle} contradict each other: {method} takes all checkpoints alike"
            ))
            .help("leave one of them out"));
        }
        let robust = options.scheme.filter(|scheme| Robust::is(scheme.name));
        if let Some(scheme) = robust.filter(|_| given().any(|(name, _)| name == "penalty")) {
            return Err(usage(format!("option penalty says nothing to the scheme {scheme}"))
                .help("leave it out, or use a scheme by a metric, such as the scheme linear"));
        }
        // tasks have no metric in common, unless one is asked for
        let is_weighed = given().any(|(name, _)| name == "weights" || MEASURING.contains(&name.as_str()));
        let has_tasks = options.method.angle().is_some() && options.base.is_some();
        if (options.method == BlendName::TaskArithmetic || has_tasks) && !is_weighed {
            options.scheme = Some(Scheme::UNIFORM);
        }
        let other = given().map(|(name, _)| name).find(|name| MEASURING.contains(&name.as_str()));
        match other {
            Some(other) if options.weights.is_some() => {
                Err(usage(format!("options weights and {other} contradict each other"))
                    .help("give your own weights, or a metric and how it weighs"))
            }
            _ => Ok(options),
        }
    }

    /// Which checkpoints, and how they are weighed.
    ///
    /// # Errors
    /// [`ErrorKind::Weights`] for a penalty or weights that suit no checkpoints at all.
    pub fn choosing(&self) -> Result<ChooseOptions> {
        let blend = self.blend()?;
        let rule = if !self.method.weighs() {
            WeightRule::Scheme { scheme: Scheme::UNIFORM, penalty: 0.0 }
        } else if let Some(weights) = &self.weights {
            Weights::explicit(weights)?;
            WeightRule::Explicit(weights.clone())
        } else {
            let scheme = self.scheme.unwrap_or_default();
            let is_product = self.space == SpaceName::Product;
            self.averaging().check(scheme.name)?;
            self.run_weights.as_deref().map_or(Ok(()), |shares| Weights::explicit(shares).map(drop))?;
            if let Some(robust) = Robust::of(scheme.name, self.outliers, self.subspace)? {
                WeightRule::Robust { scheme, robust, is_product }
            } else {
                Weights::new(&[1.0], Goal::Min, scheme, self.penalty)?;
                WeightRule::Scheme { scheme, penalty: self.penalty }
            }
        };
        Ok(ChooseOptions {
            select: Selection {
                steps: self.steps,
                every: self.every,
                last: self.last,
                top: self.top,
                pick: self.select,
            },
            metric: self.metric(),
            combine: self.combine,
            questions: self.questions,
            rule,
            blend,
            averaging: self.averaging(),
            run_weights: self.run_weights.clone(),
            drop_bad: self.drop_bad,
            allow_cross_run: self.allow_cross_run,
        })
    }

    fn averaging(&self) -> Averaging {
        Averaging {
            curve: self.curve,
            floor: self.floor,
            positions: self.positions,
            correct_for_lr: self.correct_for_lr,
            ema_decay: self.ema_decay,
            ema_per: self.ema_per,
        }
    }

    /// Which metric, and how it is read.
    #[must_use]
    pub fn metric(&self) -> MetricOptions {
        MetricOptions {
            name: self.metric.clone(),
            goal: self.goal,
            smooth: self.smooth,
            tolerance: self.metric_tolerance,
            strict: self.strict_metrics,
        }
    }

    /// How the merge is done.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] for options of product space without it.
    pub fn merging(&self) -> Result<MergeOptions> {
        Ok(MergeOptions {
            dtype: self.dtype.0,
            blend: self.over_base()?,
            space: self.space()?,
            strict: self.strict,
            residual: self.residual.unwrap_or_default(),
            allow_cross_run: self.allow_cross_run,
            allow_non_finite: self.allow_non_finite,
            rewrite: self.rewrite,
            shard_size: self.shard_size()?,
        })
    }

    /// Refuse what a [`crate::border::Session`] would have no use for, rather than leave it undone.
    pub(crate) fn suits_a_session(&self) -> Result<()> {
        let is_named =
            |name: &Option<String>, idle: &[&str]| name.as_deref().is_some_and(|it| !idle.contains(&it));
        let asked = [
            (
                "format",
                is_named(&self.format, &["keep"]),
                "the native program converts: merge, then mwa convert",
            ),
            ("model", self.model.is_some(), "it is for mwa convert of the native program"),
            ("sha256", self.sha256, "no file is read from front to back here: leave it out"),
            ("device", is_named(&self.device, &["auto", "cpu"]), "WebAssembly computes here: leave it out"),
        ];
        match asked.iter().find(|(_, is_asked, _)| *is_asked) {
            Some((name, _, help)) => Err(usage(format!("option {name} is not for here")).help(*help)),
            None => Ok(()),
        }
    }

    fn shard_size(&self) -> Result<Option<u64>> {
        match self.format.as_deref() {
            Some(format) if format != "keep" && self.shard_size.is_some() => {
                let detail =
                    format!("options format and shard_size contradict each other: {format} is written whole");
                Err(usage(detail).help("leave out --shard-size, or --format"))
            }
            _ => Ok(self.shard_size.map(|size| size.0)),
        }
    }

    /// The base model, if the method is over one.
    #[must_use]
    pub fn role_base(&self) -> Option<&str> {
        self.base.as_deref().filter(|_| self.method.has_base() || self.method.angle().is_some())
    }

    /// Where second moments are to be had, if the method is of such.
    #[must_use]
    pub fn role_moments(&self) -> Option<MomentsWanted> {
        let curvature = self.blend().ok()?.curvature()?;
        Some(MomentsWanted::new(curvature, self.moments.clone().unwrap_or_default()))
    }

    fn over_base(&self) -> Result<Blend> {
        let blend = self.blend()?;
        // the products of adapters are over the model that they adapt
        let is_stock = self.method == BlendName::ModelStock && self.space != SpaceName::Product;
        if (blend.has_base() || is_stock) && self.base.is_none() {
            let detail = format!(
                "method {} is of what tasks changed of a base model, which is not named",
                blend.name()
            );
            let help = "name it by --base: the model that they were trained from, or of LoRA checkpoints an earlier one of their run";
            return Err(usage(detail).help(if is_stock {
                format!("{help}; with --space product it is the model that they adapt, and needs no name")
            } else {
                help.into()
            }));
        }
        let is_converted = self.format.as_deref().is_some_and(|format| format != "keep");
        if self.base.is_some() && !blend.has_base() && !is_converted {
            let detail = format!("method {} and a base do not go together", blend.name());
            return Err(usage(detail).help(
                "leave out --base, take a --method that is over one, such as task-arithmetic, or a --format that tells of it, such as gguf",
            ));
        }
        if self.model.is_some() && !is_converted {
            let detail = "option model tells a format what the image model is, and no format is asked for";
            return Err(usage(detail.into()).help("leave out --model, or give --format kohya too"));
        }
        Ok(blend)
    }

    fn blend(&self) -> Result<Blend> {
        let (method, is_by_tensor) = (self.method, self.density_per == Some(DensityPer::Tensor));
        let share = if method == BlendName::Ffg { GRAFTED } else { DENSITY };
        let trimming = Trimming { density: self.density.unwrap_or(share), is_by_tensor };
        let usual = Curvature::default();
        let curvature = Curvature {
            power: self.power.unwrap_or(usual.power),
            epsilon: self.epsilon.unwrap_or(usual.epsilon),
            normalise: self.normalise.unwrap_or(usual.normalise),
        };
        let blend = match method {
            BlendName::Mean => Blend::Mean,
            BlendName::Median => Blend::Median,
            BlendName::TrimmedMean => Blend::Trimmed(self.outliers.unwrap_or(1)),
            BlendName::TaskArithmetic => Blend::Sum(self.scale),
            BlendName::MagnitudeMask => Blend::Masked(self.scale, trimming),
            BlendName::Ties => Blend::Ties(self.scale, trimming),
            BlendName::Consensus => Blend::Consensus(
                self.scale,
                Agreeing { lambda: self.mask_lambda.unwrap_or(LAMBDA), least: self.agree.unwrap_or(AGREE) },
            ),
            BlendName::Ota => Blend::Curved(curvature),
            BlendName::Ffg => Blend::Grafted(curvature, trimming),
            BlendName::ModelStock => Blend::Angled(Angle::ModelStock, self.base.is_some()),
            BlendName::Slerp => Blend::Angled(Angle::Slerp, self.base.is_some()),
            BlendName::MultiSlerp => Blend::Angled(Angle::MultiSlerp, self.base.is_some()),
            BlendName::Karcher => Blend::Angled(Angle::Karcher, self.base.is_some()),
        };
        let (is_curved, is_grafted) = (blend.curvature().is_some(), method == BlendName::Ffg);
        let takes_outliers = matches!(method, BlendName::Mean | BlendName::TrimmedMean);
        let agrees = method == BlendName::Consensus;
        let idle = [
            ("mask_lambda", self.mask_lambda.is_some() && !agrees, "consensus"),
            ("agree", self.agree.is_some() && !agrees, "consensus"),
            ("outliers", self.outliers.is_some() && !takes_outliers, "trimmed-mean"),
            (
                "scale",
                self.scale.is_some() && (!blend.has_base() || is_grafted || blend.angle().is_some()),
                "task-arithmetic, magnitude-mask, ties or consensus",
            ),
            ("density", self.density.is_some() && blend.trimming().is_none(), "magnitude-mask, ties or ffg"),
            (
                "density_per",
                self.density_per.is_some() && blend.trimming().is_none(),
                "magnitude-mask, ties or ffg",
            ),
            ("power", self.power.is_some() && !is_curved, "ota or ffg"),
            ("epsilon", self.epsilon.is_some() && !is_curved, "ota or ffg"),
            ("moments", self.moments.is_some() && !is_curved, "ota or ffg"),
            ("normalise", self.normalise.is_some() && (!is_curved || is_grafted), "ota"),
        ];
        match idle.into_iter().find(|(_, is_idle, _)| *is_idle) {
            None => Ok(blend),
            Some((name, _, methods)) => {
                let detail = format!("option {name} says nothing to the method {}", method.name());
                Err(usage(detail).help(format!("leave it out, or use --method {methods}")))
            }
        }
    }

    fn space(&self) -> Result<Space> {
        let rank = match (self.rank, self.energy) {
            (None, None) => None,
            (Some(RankChoice::Fixed(rank)), None) => Some(Rank::Fixed(rank)),
            (Some(RankChoice::Full), None) => Some(Rank::Full),
            (Some(RankChoice::Auto) | None, share) => Some(Rank::Energy(share.unwrap_or(ENERGY))),
            (Some(_), Some(_)) => {
                return Err(usage("option energy finds ranks by itself, but option rank gives one".into())
                    .help("leave one of them out, or give rank auto"));
            }
        };
        match self.space {
            SpaceName::Product => Ok(Space::Product(rank)),
            SpaceName::Factors if rank.is_none() && !self.strict => Ok(Space::Factors),
            SpaceName::Factors => {
                let detail =
                    "options rank, energy and strict are for product space; factors keep the rank they have";
                Err(usage(detail.into()).help("give --space product too"))
            }
        }
    }
}

impl<'de> serde::Deserialize<'de> for Options {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> core::result::Result<Self, D::Error> {
        Self::read(&Map::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

fn usage(detail: String) -> Error {
    Error::new(ErrorKind::Usage, detail)
}

#[cold]
fn unknown(name: &str, names: &[&str]) -> Error {
    let error = usage(format!("there is no option `{name}`"));
    match spelling::closest(name, names.iter().copied()) {
        Some(near) => error.help(format!("did you mean `{near}`?")),
        None => error,
    }
}

#[cold]
fn wrong(name: &str, value: &Json, kind: Kind) -> Error {
    usage(format!("option {name}: {} does not fit; it must be {kind}", json::text(value)))
}

#[cfg(test)]
mod tests;
