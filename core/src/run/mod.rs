//! From files to checkpoints of one run or several, and to those chosen among them with their weights.
//!
//! A run is opened once and weighed as often as one likes: [`Run::open`] reads all that weights need, and [`Run::weigh`]
//! touches no file.

use alloc::borrow::Cow;
use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;

use crate::error::{Error, ErrorKind, Result};
use crate::files::{Files, Maybe, all, last, parent};
use crate::logs::history::History;
use crate::logs::metric::{Metric, MetricOptions, Reading};
use crate::merge::report;
use crate::merge::report::Weighting;
use crate::merge::same_run::Sample;
use crate::run::checkpoint::{Checkpoint, File};
use crate::run::log::Logs;
use crate::run::readers::{OpenOptions, Readers};
use crate::run::settle::settle;
use crate::search::Ground;
use crate::weigh::choose::{ChooseOptions, Listed, Metrics, WeightRule, choose, metric_of};
use crate::weigh::combine::Combine;
use crate::weigh::explicit::wrong_count;
use crate::weigh::modules;
use crate::weigh::parts::Parts;
use crate::weigh::robust::Robust;
use crate::weigh::runs::{choose_each, runs};
use crate::weigh::scheme::Weights;

pub mod checkpoint;
pub(crate) mod chosen;
pub mod inspection;
pub(crate) mod log;
pub(crate) mod moments;
mod one_run;
pub(crate) mod readers;
mod search;
mod settle;
pub(crate) mod step;
#[cfg(test)]
mod tests;
mod weights;

/// The checkpoints behind the paths that the user named, and what their runs logged.
#[derive(Debug)]
pub struct Run {
    /// In the order given, those of a run by step.
    pub checkpoints: Vec<Checkpoint>,
    /// Whether every checkpoint comes from searching run folders, so that it may be chosen among them.
    pub searched: bool,
    /// What was left out and why.
    pub notes: Vec<String>,
    /// Checkpoints of a searched run that cannot be opened.
    pub broken: Vec<(String, Error)>,
    /// The adapter taken from checkpoints that hold several.
    pub adapter: Option<String>,
    /// The set of weights asked for in files that hold several.
    pub weights_key: Option<String>,
    /// The base of which the checkpoints are tasks.
    pub base: Option<Checkpoint>,
    logs: Logs,
}

/// A table of metrics that the user gives instead of the run's own logs.
#[derive(Clone, Debug)]
pub struct UserTable {
    /// How messages call it.
    pub name: String,
    /// Its text.
    pub text: String,
}

/// Which checkpoints, and how they are weighed.
#[derive(Clone, Debug, Default)]
pub struct WeighOptions {
    /// Selection, metric and rule.
    pub choose: ChooseOptions,
    /// A table of metrics, instead of the run's own logs.
    pub table: Option<UserTable>,
    /// Rules of weights that differ by module.
    pub rules: Option<UserTable>,
    /// Only these checkpoints, by name.
    pub checkpoints: Option<Vec<String>>,
    /// Checkpoints that are left out as bad, by their place in [`Run::checkpoints`].
    pub excluded: Vec<usize>,
}

/// The checkpoints of a merge, oldest first, with their weights.
#[derive(Clone, Debug)]
pub struct Weighed {
    /// Places in [`Run::checkpoints`].
    pub indexes: Vec<usize>,
    /// The rows of the report, without files.
    pub inputs: Vec<report::Input>,
    /// One per checkpoint, where the weights come from a metric.
    pub readings: Vec<Option<Reading>>,
    /// One per checkpoint.
    pub weights: Weights,
    /// How the weights were made.
    pub weighting: Weighting,
    /// How the tensors decide the weights, if they do.
    pub robust: Option<Robust>,
    /// How several metrics order them.
    pub ranking: Option<report::Ranking>,
    /// The weights of modules that have their own.
    pub groups: Vec<report::Group>,
    /// Which checkpoints these are, and why.
    pub selected: report::Selected,
    /// Why little is to be expected of them, if so.
    pub advice: Vec<report::Advice>,
    /// Things to say to the user, each once.
    pub notes: Vec<String>,
}

impl Weighed {
    /// What a search for better weights begins with.
    #[must_use]
    pub fn ground(&self) -> Ground {
        let values: Option<Vec<_>> = self.readings.iter().map(|it| it.map(|reading| reading.value)).collect();
        let goal = self.weighting.goal.as_deref().and_then(|goal| goal.parse().ok());
        match (&self.weighting.metric, &values, goal) {
            (Some(name), Some(values), Some(goal)) => Ground::new(&self.weights, Some((name, values, goal))),
            _ => Ground::new(&self.weights, None),
        }
    }

    /// The same checkpoints with other weights, by their sum of 1 within rounding, and how these came about; for each of `parts`, if
    /// there are such, one after the other.
    ///
    /// # Errors
    /// [`ErrorKind::Weights`] when they are not one per checkpoint or do not sum to 1.
    pub fn reweighed(&self, weights: &[f64], parts: Option<&Parts>, scheme: &str) -> Result<Self> {
        if weights.len() != self.inputs.len() * parts.map_or(1, Parts::count) {
            return Err(wrong_count(weights.len(), self.inputs.iter().map(|input| input.name.as_str())));
        }
        let (weights, groups) = match parts {
            Some(parts) => parts.weighed(weights),
            None => (weights.to_vec(), self.groups.clone()),
        };
        let mut other = Self { weights: Weights::normalised(&weights)?, groups, ..self.clone() };
        other.inputs.iter_mut().zip(&weights).for_each(|(input, weight)| input.weight = *weight);
        // what their table shows is still that metric
        let metric = other.weighting.metric.take();
        other.weighting = Weighting { scheme: scheme.into(), metric, ..Weighting::explicit() };
        other.robust = None;
        // nor do they stand for a schedule
        other.inputs.iter_mut().for_each(|input| input.update = None);
        // these weights are no metric's
        other.advice.retain(|advice| advice.about != "metric");
        Ok(other)
    }
}

impl Run {
    /// Open everything behind `paths`, logs included; the files of the weights are read no further than their heads.
    ///
    /// # Errors
    /// What is wrong with the files, and what the system refuses. A log that cannot be read is no error until it is asked
    /// for.
    pub fn open(
        files: &dyn Files,
        readers: &Readers,
        paths: &[String],
        options: &OpenOptions,
    ) -> Maybe<Self> {
        let found = search::find(files, readers, paths, options)?;
        let mut checkpoints = found.checkpoints;
        let open = |path: &String| Checkpoint::open(files, readers, path, options);
        let has_sets =
            |it: &Checkpoint| it.layout.is_some() || it.files.iter().any(|file| file.key.is_some());
        if let Some(key) = options.weights_key.as_deref().filter(|_| !checkpoints.iter().any(has_sets)) {
            let detail = format!(
                "option weights_key is for training states that hold several sets of weights, and none here holds `{key}`"
            );
            return Err(Error::new(ErrorKind::Usage, detail).help("leave out --weights-key").into());
        }
        let base = options.base.as_ref().map(open).transpose()?;
        let mut logs = Logs::read(files, readers, &checkpoints, options.metrics_from.as_deref())?;
        settle(&mut checkpoints, &logs);
        logs.take_told(&checkpoints);
        if let Some(wanted) = &options.moments {
            moments::find(&mut checkpoints, files, readers, wanted)?;
        }
        Ok(Self {
            checkpoints,
            searched: found.searched,
            notes: found.notes.into_iter().chain(logs.notes.iter().cloned()).collect(),
            broken: found.broken,
            adapter: options.adapter.clone(),
            weights_key: options.weights_key.clone(),
            base,
            logs,
        })
    }

    /// Choose and weigh.
    ///
    /// # Errors
    /// Those of [`choose`], of the logs and of the table.
    pub fn weigh(&self, options: &WeighOptions) -> Result<Weighed> {
        self.whole(options)?;
        let named = self.named(options.checkpoints.as_deref())?;
        let listed: Vec<_> =
            named.iter().map(|&at| self.listed(at, options.excluded.contains(&at))).collect();
        let searched = self.searched && options.checkpoints.is_none();
        let metrics = RunMetrics { logs: &self.logs, table: options.table.as_ref() };
        let (runs, shares) = (runs(&listed), options.choose.run_weights.as_deref());
        // own weights are one for each of all checkpoints, and tensors are compared with all others
        let blend = options.choose.blend;
        let is_explicit = matches!(options.choose.rule, WeightRule::Explicit(_));
        let is_compared = matches!(options.choose.rule, WeightRule::Robust { .. }) || !blend.is_mean();
        let is_several = searched && runs.len() > 1;
        if is_several && is_compared && !is_explicit && options.choose.select.is_free() {
            let detail = format!(
                "there are {} runs, whose checkpoints are compared with each other, and nothing says which of them",
                runs.len()
            );
            return Err(Error::new(ErrorKind::Usage, detail)
                .help("take all by --select all, or so many of each run by --last N"));
        }
        let choice = if is_several && !is_explicit && !is_compared {
            choose_each(&listed, &runs, shares, &metrics, &options.choose)
                .map_err(|error| self.lacking(error))?
        } else if shares.is_some() {
            let detail = "option run_weights is for several run folders, each of which is searched";
            return Err(Error::new(ErrorKind::Usage, detail).help(
                "name the run folders themselves, or weigh the checkpoints that are named by --weights",
            ));
        } else {
            choose(&listed, searched, &metrics, &options.choose).map_err(|error| self.lacking(error))?
        };
        blend.check(choice.indexes.len())?;
        let chosen: Vec<_> = choice.indexes.iter().map(|at| &self.checkpoints[named[*at]]).collect();
        same_files(&chosen)?;
        if blend.curvature().is_some() {
            moments::check(&chosen, blend.name())?;
        }
        let mut inputs = choice.inputs(&listed);
        inputs.iter_mut().for_each(|row| row.weights_key.clone_from(&self.weights_key));
        if !options.choose.allow_cross_run {
            one_run::check(&chosen, &self.logs)?;
        }
        let mut notes = self.notes.clone();
        notes.extend(choice.notes);
        let mut groups = Vec::new();
        if let (Some(rules), Some(newest)) = (&options.rules, chosen.last()) {
            let labels =
                report::distinct(&chosen.iter().map(|checkpoint| &*checkpoint.name).collect::<Vec<_>>());
            let tensors = newest.tensors().map(|tensor| tensor.name.as_str());
            let (made, told) =
                modules::read(&rules.text, &labels, tensors).map_err(|error| error.file(&*rules.name))?;
            groups = made;
            notes.extend(told);
        }
        Ok(Weighed {
            indexes: choice.indexes.into_iter().map(|at| named[at]).collect(),
            inputs,
            readings: choice.readings,
            weights: choice.weights,
            weighting: choice.weighting,
            robust: choice.robust,
            ranking: choice.ranking,
            groups,
            selected: choice.selected,
            advice: choice.advice,
            notes,
        })
    }

    /// An error of choosing, and what there was not to choose from.
    fn lacking(&self, error: Error) -> Error {
        match self.broken.first() {
            Some((path, why)) if matches!(error.kind(), ErrorKind::Input | ErrorKind::Weights) => {
                error.and(&format!("; {path} is left out: it {}", why.detail()))
            }
            _ => error,
        }
    }

    /// The parts of the model of these checkpoints, as `groups` names them, whose weights are searched apart.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] for a text that names none, a pattern that fits nothing, and where modules have weights already.
    pub fn parts(&self, weighed: &Weighed, groups: &str) -> Result<Parts> {
        if !weighed.groups.is_empty() {
            let detail = "a search finds the weights of groups, and a file gives weights to modules";
            return Err(Error::new(ErrorKind::Usage, detail).help("leave out one of groups and weights_file"));
        }
        let newest = weighed.indexes.last().map(|at| &self.checkpoints[*at]);
        let tensors = newest.into_iter().flat_map(Checkpoint::tensors);
        Parts::read(groups, tensors.map(|tensor| tensor.name.as_str()))
    }

    /// The checkpoints of a merge in the order of its inputs: the base, if there is one, and those with these places.
    #[must_use]
    pub fn inputs(&self, indexes: &[usize]) -> Vec<&Checkpoint> {
        self.base.iter().chain(indexes.iter().map(|&at| &self.checkpoints[at])).collect()
    }

    /// What a metric says of every checkpoint, bad and missing ones too.
    ///
    /// # Errors
    /// When it cannot be read at all.
    pub fn metric(
        &self,
        table: Option<&UserTable>,
        options: &MetricOptions,
        combine: Option<Combine>,
    ) -> Result<Metric> {
        let all: Vec<_> = (0..self.checkpoints.len()).collect();
        let listed: Vec<_> = all.iter().map(|&at| self.listed(at, false)).collect();
        metric_of(&listed, &all, &RunMetrics { logs: &self.logs, table }, options, combine)
    }

    /// What each run logged, by its folder, sorted.
    pub fn histories(&self) -> impl Iterator<Item = (&str, &Result<History>)> {
        self.logs.histories()
    }

    /// What the run of some checkpoint logged, by [`Checkpoint::run`].
    ///
    /// # Errors
    /// When its logs cannot be read.
    ///
    /// # Panics
    /// If no checkpoint is of that run.
    pub fn history(&self, run: &str) -> Result<&History> {
        self.logs.history(log::shown(run))
    }

    /// Read the beginnings of some A factors of each checkpoint, to tell one run from several.
    ///
    /// # Errors
    /// What the system refuses.
    pub fn sample(&self, files: &dyn Files) -> Maybe<Vec<Sample>> {
        let Some(first) = self.checkpoints.first() else { return Ok(Vec::new()) };
        let names = Sample::names(first.tensors());
        all(self.checkpoints.iter().map(|checkpoint| {
            let wanted = checkpoint.files.iter().flat_map(|file| {
                let tensors = file.header.tensors().iter().filter(|tensor| names.contains(&&*tensor.name));
                // what lies in pieces lies beyond the end
                let tensors = tensors.filter(|tensor| tensor.range.end <= file.len);
                tensors.filter_map(move |tensor| Some((file, tensor, Sample::range(tensor)?)))
            });
            let read = wanted.map(|(file, tensor, range)| Ok((tensor, files.read(&file.path, range)?)));
            let mut sample = Sample::default();
            all(read)?.iter().for_each(|(tensor, bytes)| sample.insert(tensor, bytes));
            Ok(sample)
        }))
    }

    fn listed(&self, at: usize, is_bad: bool) -> Listed<'_> {
        let checkpoint = &self.checkpoints[at];
        let (name, label, run) = (&checkpoint.name, checkpoint.label(), log::shown(checkpoint.run()));
        let (step, number) = (checkpoint.step, checkpoint.number);
        Listed { name, label, run, step, number, is_bad }
    }

    /// Refuse to leave out a checkpoint that lacks a file, unless nothing is wanted of it.
    fn whole(&self, options: &WeighOptions) -> Result<()> {
        let (choose, select) = (&options.choose, &options.choose.select);
        if choose.drop_bad || options.checkpoints.is_some() {
            return Ok(());
        }
        for (path, error) in self.broken.iter().filter(|(_, error)| search::lacks(error)) {
            let Some(number) = checkpoint::step_of_folder(last(path)) else { continue };
            let of_run = || self.checkpoints.iter().filter(|it| it.run() == parent(path));
            // names may count epochs
            let is_by_steps = of_run().all(|it| it.step.is_some() && it.step == it.number);
            let is_within = |step: u64| select.steps.is_none_or(|(from, to)| (from..=to).contains(&step));
            let is_newer = |it: &&Checkpoint| it.number.is_some_and(|other| other > number);
            let newer = of_run().filter(is_newer);
            let is_counted = |it: &&Checkpoint| it.step.is_some_and(is_within);
            let is_passed = select.last.is_some_and(|last| newer.clone().filter(is_counted).count() >= last);
            if is_by_steps && (!is_within(number) || is_passed && select.every.is_none()) {
                continue;
            }
            let older = of_run().filter_map(|it| it.number).filter(|other| *other < number).max();
            let other = match (newer.filter(is_counted).count(), older) {
                _ if !is_by_steps || select.every.is_some() => String::new(),
                (0, None) => String::new(),
                (0, Some(older)) => format!(", or --steps ..{older}"),
                (newer, _) => format!(", or --last {newer}"),
            };
            let help = error.advice().unwrap_or_default();
            let help = format!(
                "{help}; or merge without {path}: move the folder out of the run, or give --drop-bad{other}"
            );
            return Err(error.clone().help_instead(help));
        }
        Ok(())
    }

    /// Places of the checkpoints with these names; of all without.
    fn named(&self, names: Option<&[String]>) -> Result<Vec<usize>> {
        let all = 0..self.checkpoints.len();
        let Some(names) = names else { return Ok(all.collect()) };
        let is_known = |name: &&String| self.checkpoints.iter().any(|it| it.name == **name);
        if let Some(odd) = names.iter().find(|name| !is_known(name)) {
            let such = self.checkpoints.first().map_or("RUN/checkpoint-100", |it| it.name.as_str());
            let help =
                format!("name checkpoints as they were found, with the path of their run, such as {such}");
            return Err(Error::new(ErrorKind::Usage, format!("there is no checkpoint `{odd}`")).help(help));
        }
        let named: Vec<_> = all.filter(|&at| names.contains(&self.checkpoints[at].name)).collect();
        if named.is_empty() {
            let detail = format!("none of the {} checkpoints found is selected", self.checkpoints.len());
            return Err(Error::new(ErrorKind::Input, detail).help("select at least one"));
        }
        Ok(named)
    }
}

/// Refuse checkpoints of which one lacks a file that lies beside the weights of another: part of the model would be lost.
fn same_files(chosen: &[&Checkpoint]) -> Result<()> {
    let beside = |it: &'_ Checkpoint| {
        let files = it.files.iter().filter(|file| file.header.beside().is_some());
        files.map(File::name).map(String::from).collect::<Vec<_>>()
    };
    let all: Vec<_> = chosen.iter().map(|it| beside(it)).collect();
    for (with, names) in chosen.iter().zip(&all) {
        for (without, others) in chosen.iter().zip(&all) {
            if let Some(name) = names.iter().find(|name| !others.contains(name)) {
                let detail =
                    format!("has no {name}, though {} has: a part of the weights would be lost", with.name);
                return Err(Error::new(ErrorKind::Names, detail).file(&*without.name).help(
                    "restore it, leave that checkpoint out, or move the file out of the others if it is not of the model",
                ));
            }
        }
    }
    Ok(())
}

/// Metrics that were read already.
struct RunMetrics<'a> {
    logs: &'a Logs,
    table: Option<&'a UserTable>,
}

impl Metrics for RunMetrics<'_> {
    fn table_name(&self) -> Option<String> {
        self.table.map(|table| table.name.to_string())
    }

    fn table(&self) -> Result<Cow<'_, str>> {
        Ok(Cow::Borrowed(&self.table.expect("it has a name").text))
    }

    fn log(&self, run: &str) -> Result<Cow<'_, History>> {
        self.logs.history(run).map(Cow::Borrowed)
    }
}
