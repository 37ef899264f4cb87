//! What JavaScript asks for, as the core takes it.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use mwa::merge::MergeOptions;
use mwa::{
    ChooseOptions, Error, ErrorKind, Float, MetricOptions, PENALTY, Rank, Result, Scheme, Selection, Space,
    UserTable, WeighOptions, WeightRule, report,
};
use serde::Deserialize;

/// The share of the squared norm that rank `auto` keeps.
const ENERGY: f64 = 0.999;

/// The options of `weigh` and `merge`; the parts of the selection apply in the order of the fields.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Options {
    /// Exactly these, by name.
    checkpoints: Option<Vec<String>>,
    steps: Option<(u64, u64)>,
    every: Option<usize>,
    last: Option<usize>,
    top: Option<usize>,
    metric: Option<String>,
    goal: Option<String>,
    smooth: Option<f64>,
    tolerance: u64,
    strict_metrics: bool,
    /// A table of metrics, instead of the run's own logs.
    table: Option<String>,
    scheme: Option<String>,
    penalty: Option<f64>,
    weights: Option<Vec<f64>>,
    drop_bad: bool,
    allow_cross_run: bool,
    allow_non_finite: bool,
    rewrite: bool,
    dtype: Option<String>,
    space: Option<String>,
    rank: Option<RankChoice>,
    energy: Option<f64>,
    strict: bool,
    /// Whether a merge of factors says how far it is from the average of their products; it does unless told not to.
    residual: Option<bool>,
}

/// The rank as JavaScript gives it.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum RankChoice {
    Fixed(usize),
    Word(String),
}

impl Options {
    pub(crate) fn parse(json: &str) -> Result<Self> {
        serde_json::from_str(json)
            .map_err(|error| Error::new(ErrorKind::Usage, format!("the options are not understood: {error}")))
    }

    /// How checkpoints are chosen and weighed; `excluded` are left out as bad.
    pub(crate) fn weighing(&self, excluded: &[usize]) -> Result<WeighOptions> {
        let scheme: Scheme = self.scheme.as_deref().map_or(Ok(Scheme::default()), str::parse)?;
        let rule = match &self.weights {
            Some(weights) => WeightRule::Explicit(weights.clone()),
            None => WeightRule::Scheme { scheme, penalty: self.penalty.unwrap_or(PENALTY) },
        };
        let choose = ChooseOptions {
            select: Selection { steps: self.steps, every: self.every, last: self.last, top: self.top },
            metric: self.metric()?,
            rule,
            drop_bad: self.drop_bad,
        };
        let (table, checkpoints) = (self.table(), self.checkpoints.clone());
        Ok(WeighOptions { choose, table, checkpoints, excluded: excluded.to_vec() })
    }

    pub(crate) fn metric(&self) -> Result<MetricOptions> {
        let goal = self.goal.as_deref().map(str::parse).transpose()?;
        let (name, smooth, tolerance, strict) =
            (self.metric.clone(), self.smooth, self.tolerance, self.strict_metrics);
        Ok(MetricOptions { name, goal, smooth, tolerance, strict })
    }

    pub(crate) fn table(&self) -> Option<UserTable> {
        Some(UserTable { name: "the table".into(), text: self.table.clone()? })
    }

    pub(crate) fn merging(&self) -> Result<MergeOptions> {
        Ok(MergeOptions {
            dtype: self.dtype()?,
            space: self.space()?,
            strict: self.strict,
            residual: self.residual != Some(false),
            allow_cross_run: self.allow_cross_run,
            allow_non_finite: self.allow_non_finite,
            rewrite: self.rewrite,
        })
    }

    fn dtype(&self) -> Result<Option<Float>> {
        match self.dtype.as_deref() {
            None | Some("keep") => Ok(None),
            Some(name) => report::dtype_named(name).map(Some).ok_or_else(|| {
                let error = Error::new(ErrorKind::Usage, format!("there is no output dtype `{name}`"));
                error.help("use keep, f32, bf16 or f16")
            }),
        }
    }

    fn space(&self) -> Result<Space> {
        let usage =
            |detail: &'static str, help: &'static str| Error::new(ErrorKind::Usage, detail).help(help);
        let rank = match (&self.rank, self.energy) {
            (None, None) => None,
            (None, Some(share)) => Some(Rank::Energy(share)),
            (Some(RankChoice::Word(word)), share) if word == "auto" => {
                Some(Rank::Energy(share.unwrap_or(ENERGY)))
            }
            (Some(_), Some(_)) => {
                return Err(usage("energy finds ranks by itself, but rank gives one", "leave one of them out"));
            }
            (Some(RankChoice::Fixed(rank)), None) if *rank > 0 => Some(Rank::Fixed(*rank)),
            (Some(RankChoice::Word(word)), None) if word == "full" => Some(Rank::Full),
            (Some(_), None) => {
                return Err(usage("there is no such rank", "give a whole number from 1 on, auto or full"));
            }
        };
        match self.space.as_deref() {
            Some("product") => Ok(Space::Product(rank)),
            None | Some("factors") if rank.is_none() && !self.strict => Ok(Space::Factors),
            None | Some("factors") => Err(usage(
                "rank, energy and strict are for product space; factors keep the rank they have",
                "ask for the space product",
            )),
            Some(_) => Err(usage("there is no such space", "use factors or product")),
        }
    }
}
