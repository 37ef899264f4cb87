//! Which of the checkpoints found are merged, and with which weight: the core's choice, by JavaScript's options.

use alloc::borrow::Cow;
use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;

use mwa::{
    ChooseOptions, Error, ErrorKind, Float, History, Listed, Metric, MetricOptions, Metrics, PENALTY, Result,
    Scheme, Selection, WeightRule, report,
};
use serde::Deserialize;

use crate::files::parent;
use crate::product::RankChoice;
use crate::run::Found;

/// What JavaScript asks for; the parts of the selection apply in the order of the fields.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Options {
    /// Exactly these, by name.
    checkpoints: Option<Vec<String>>,
    steps: Option<(u64, u64)>,
    every: Option<usize>,
    last: Option<usize>,
    top: Option<usize>,
    /// `best`, `last` or `all`: as many of those as the rule says.
    select: Option<String>,
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
    pub(crate) allow_cross_run: bool,
    pub(crate) allow_non_finite: bool,
    pub(crate) rewrite: bool,
    dtype: Option<String>,
    pub(crate) space: Option<String>,
    pub(crate) rank: Option<RankChoice>,
    pub(crate) energy: Option<f64>,
    pub(crate) strict: bool,
    /// Whether a merge of factors says how far it is from the average of their products; it does unless told not to.
    pub(crate) residual: Option<bool>,
}

impl Options {
    pub(crate) fn parse(json: &str) -> Result<Self> {
        serde_json::from_str(json)
            .map_err(|error| Error::new(ErrorKind::Usage, format!("the options are not understood: {error}")))
    }

    pub(crate) fn dtype(&self) -> Result<Option<Float>> {
        match self.dtype.as_deref() {
            None | Some("keep") => Ok(None),
            Some(name) => report::dtype_named(name).map(Some).ok_or_else(|| {
                let error = Error::new(ErrorKind::Usage, format!("there is no output dtype `{name}`"));
                error.help("use keep, f32, bf16 or f16")
            }),
        }
    }

    fn metric(&self) -> Result<MetricOptions> {
        let goal = self.goal.as_deref().map(str::parse).transpose()?;
        let (name, smooth, tolerance, strict) =
            (self.metric.clone(), self.smooth, self.tolerance, self.strict_metrics);
        Ok(MetricOptions { name, goal, smooth, tolerance, strict })
    }

    fn choose(&self) -> Result<ChooseOptions> {
        let scheme: Scheme = self.scheme.as_deref().map_or(Ok(Scheme::default()), str::parse)?;
        let rule = match &self.weights {
            Some(weights) => WeightRule::Explicit(weights.clone()),
            None => WeightRule::Scheme { scheme, penalty: self.penalty.unwrap_or(PENALTY) },
        };
        Ok(ChooseOptions {
            select: Selection {
                steps: self.steps,
                every: self.every,
                last: self.last,
                top: self.top,
                pick: self.select.as_deref().map(str::parse).transpose()?,
            },
            metric: self.metric()?,
            rule,
            drop_bad: self.drop_bad,
            allow_cross_run: self.allow_cross_run,
        })
    }
}

/// The core's choice, its indexes those of all checkpoints found, and the rows of the report, without files.
pub(crate) struct Choice {
    pub(crate) choice: mwa::Choice,
    pub(crate) inputs: Vec<report::Input>,
}

/// Select and weigh; `excluded` are left out as bad.
pub(crate) fn choose(found: &Found, options: &Options, excluded: &[usize]) -> Result<Choice> {
    let all = 0..found.checkpoints.len();
    let named: Vec<_> = match &options.checkpoints {
        None => all.collect(),
        Some(names) => {
            let is_known = |name: &&String| found.checkpoints.iter().any(|it| it.name == **name);
            if let Some(odd) = names.iter().find(|name| !is_known(name)) {
                return Err(Error::new(ErrorKind::Usage, format!("there is no checkpoint `{odd}`")));
            }
            all.filter(|&index| names.contains(&found.checkpoints[index].name)).collect()
        }
    };
    if named.is_empty() {
        let detail = format!("none of the {} checkpoints found is selected", found.checkpoints.len());
        return Err(Error::new(ErrorKind::Input, detail).help("select at least one"));
    }
    let listed: Vec<_> = named.iter().map(|&index| listed(found, index, excluded.contains(&index))).collect();
    let searched = found.searched && options.checkpoints.is_none();
    let logs = Logs { found, table: options.table.as_deref() };
    let mut choice = mwa::choose(&listed, searched, &logs, &options.choose()?)?;
    let inputs = choice.inputs(&listed);
    choice.indexes.iter_mut().for_each(|index| *index = named[*index]);
    choice.notes.splice(0..0, found.notes.iter().cloned());
    Ok(Choice { choice, inputs })
}

/// What the metric says of every checkpoint found.
pub(crate) fn metric_of_all(found: &Found, options: &Options) -> Result<Metric> {
    let indexes: Vec<_> = (0..found.checkpoints.len()).collect();
    let listed: Vec<_> = indexes.iter().map(|&index| listed(found, index, false)).collect();
    mwa::metric_of(&listed, &indexes, &Logs { found, table: options.table.as_deref() }, &options.metric()?)
}

fn listed(found: &Found, index: usize, is_bad: bool) -> Listed<'_> {
    let checkpoint = &found.checkpoints[index];
    let (name, label, run) = (&checkpoint.name, checkpoint.label(), parent(&checkpoint.name));
    Listed { name, label, run, step: checkpoint.step, is_bad }
}

/// Metrics that were read already.
struct Logs<'a> {
    found: &'a Found,
    table: Option<&'a str>,
}

impl Metrics for Logs<'_> {
    fn table_name(&self) -> Option<String> {
        self.table.map(|_| "the table".to_string())
    }

    fn table(&self) -> Result<Cow<'_, str>> {
        Ok(Cow::Borrowed(self.table.expect("it has a name")))
    }

    fn log(&self, run: &str) -> Result<Cow<'_, History>> {
        Ok(Cow::Borrowed(self.found.history(run)))
    }
}

/// Compare each chosen checkpoint with the one before it; notes for the far ones, an error for another run's.
pub(crate) fn same_run(found: &Found, indexes: &[usize], allow: bool) -> Result<Vec<String>> {
    let chosen = || indexes.iter().map(|&index| (&found.checkpoints[index], &found.samples[index]));
    let is_dora = chosen().any(|(it, _)| it.config.as_ref().is_some_and(|config| config.is_set("use_dora")));
    let named: Vec<_> = chosen().map(|(checkpoint, sample)| (checkpoint.name.as_str(), sample)).collect();
    mwa::same_run(&named, is_dora, allow)
}
