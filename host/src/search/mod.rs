//! The search for the best merge: the core's search over candidates that are merged, scored and forgotten, and the winner merged
//! for good.

mod candidate;
mod command;
mod evaluator;
mod journal;
mod place;
mod process;
mod report;
mod server;

use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::path::Path;
use std::sync::mpsc;
use std::thread;

use mwa::report::labels;
use mwa::search::{Lead, METRIC, Score, Search};
use mwa::{Error, ErrorKind, Result, SearchOptions};

use crate::engine::device::DeviceChoice;
use crate::io::disk::io_error;
use crate::io::staging::Staging;
use crate::options::{MergeOptions, Options};

use self::candidate::Kitchen;
use self::journal::{Entry, Journal};

pub use command::CommandEvaluator;
pub use evaluator::{Candidate, Evaluator, Watch};
pub use report::{Compared, SearchReport, Tried};
pub use server::ServerEvaluator;

/// Who scores candidates.
#[derive(Clone, Copy)]
pub struct Evaluators<'a> {
    /// Scores each.
    pub search: &'a dyn Evaluator,
    /// Scores the winner and what it is compared with, in the end, on other data.
    pub holdout: Option<&'a dyn Evaluator>,
}

/// A search is given up when so many trials failed and none was scored.
const HOPELESS: usize = 5;

/// Search for the best weights of the checkpoints in `options`, and merge them into the folder `out`. Trials are kept in a journal beside
/// it, `OUT.search.jsonl`.
///
/// The result is the same for any number of workers, and for a search that was killed and resumed: as far as the evaluator
/// gives equal weights equal scores.
///
/// # Errors
/// As [`crate::merge()`]; [`ErrorKind::Usage`] where nothing says which scores are better or nothing can be searched,
/// [`ErrorKind::Output`] for a journal of an earlier search, and [`ErrorKind::Input`] where no candidate can be scored. That
/// one candidate fails is no error.
pub fn search(
    options: &Options,
    how: &MergeOptions,
    wanted: &SearchOptions,
    evaluators: Evaluators<'_>,
    out: &Path,
    watch: &dyn Watch,
) -> Result<SearchReport> {
    let Some(goal) = wanted.score_goal else {
        return Err(Error::new(ErrorKind::Usage, "nothing says whether lower or higher scores are better")
            .help("give --goal min, as for a loss, or --goal max, as for an accuracy"));
    };
    if how.machine.device == DeviceChoice::Wasm {
        return Err(Error::new(ErrorKind::Usage, "the sandbox merges once; it does not search")
            .help("search with --device cpu, and merge the winner's weights in the sandbox"));
    }
    Staging::tidy(out).iter().for_each(|done| watch.note(done));
    if how.force {
        let named = options.inputs.iter().chain(&options.metrics_file);
        Staging::check_inputs(out, named.map(std::path::PathBuf::as_path))?;
    }
    Staging::check(out, how.force)?;
    let begin =
        |kitchen: &Kitchen| Search::new(wanted.method, kitchen.ground(), wanted.budget, goal, wanted.seed);
    let mut kitchen = Kitchen::open(options, how, wanted.workers, Vec::new())?;
    // what cannot be searched is refused before anything is merged
    begin(&kitchen)?;
    let (journal_at, is_begun) = Journal::look(out, how.force, wanted.resume)?;
    let recipe = kitchen.prepare(options, how, watch)?;
    let mut search = begin(&kitchen)?;
    let mut journal = Journal::open(&journal_at, is_begun, &recipe, &evaluators, goal, watch)?;
    let mut driver = Driver { kitchen: &kitchen, wanted, watch, journal: &mut journal, tried: Vec::new() };
    driver.run(&mut search, evaluators.search)?;
    let Some(winner) = search.winner() else {
        driver.journal.forget();
        return Err(hopeless(&driver.tried));
    };
    let compared = driver.compare(&search, winner, evaluators)?;
    let tried = driver.tried;

    let trial = search.trial(winner);
    let names = labels(kitchen.rows());
    let own = tried[winner].standard_error;
    let mut doubts = search.doubts(own, evaluators.holdout.is_some(), &names);
    doubts.extend(held_out(&compared, goal));
    let basin = search.basin(own);
    let files = draw(&search, out, &names)?;
    let scheme =
        format!("search by {}: {}, the best of {} trials", wanted.method, trial.by, search.trials().len());
    let note = format!(
        "weights found by mwa search: method {}, seed {}, {} trials, goal {goal}, evaluator {}",
        wanted.method,
        wanted.seed,
        search.trials().len(),
        evaluators.search.name()
    );
    let merge = kitchen.serve(&trial.weights, &scheme, note, how, out, watch)?;
    Ok(SearchReport {
        method: wanted.method.name.into(),
        reason: search.reason().map(str::to_owned),
        seed: wanted.seed,
        budget: wanted.budget,
        goal: goal.to_string(),
        evaluator: evaluators.search.name(),
        holdout: evaluators.holdout.map(Evaluator::name),
        journal: journal_at.display().to_string(),
        winner: winner + 1,
        score: trial.score().expect("the winner was scored"),
        standard_error: own,
        trials: tried,
        compared,
        doubts,
        basin,
        files,
        merge,
    })
}

/// Write what two or three checkpoints look like: a table and a picture beside the output.
fn draw(search: &Search, out: &Path, labels: &[&str]) -> Result<Vec<String>> {
    let Some(picture) = search.picture(labels) else { return Ok(Vec::new()) };
    let mut files = Vec::new();
    for (ending, text) in [("csv", search.table(labels)), ("svg", picture)] {
        let path = journal::beside(out, ending);
        std::fs::write(&path, text)
            .map_err(|error| io_error("cannot write it", &error).file(path.display().to_string()))?;
        files.push(path.display().to_string());
    }
    Ok(files)
}

/// What the scores on other data say of the winner.
fn held_out(compared: &[Compared], goal: mwa::Goal) -> Vec<String> {
    let Some(winner) = compared.iter().find(|row| row.name == report::WINNER) else { return Vec::new() };
    let Some(score) = winner.holdout else { return Vec::new() };
    let others = compared.iter().filter(|row| row.trial != winner.trial);
    let doubts = others.filter_map(|row| {
        let over = report::called(&row.name);
        let lead = Lead { over, winner: score, other: row.holdout?, error: winner.holdout_error, goal };
        lead.doubt(None).map(|doubt| format!("on the holdout, {doubt}"))
    });
    doubts.collect()
}

/// No candidate was scored.
fn hopeless(tried: &[Tried]) -> Error {
    let why = tried.iter().rev().find_map(|row| row.failed.as_deref()).unwrap_or("there was none");
    let failed = tried.iter().filter(|row| row.failed.is_some()).count();
    let detail = format!("no score came of the first {failed} candidates: {why}");
    Error::new(ErrorKind::Input, detail)
        .help("run the evaluator by hand on a checkpoint's folder, and search when it prints a score")
}

/// Runs trials.
struct Driver<'a> {
    kitchen: &'a Kitchen,
    wanted: &'a SearchOptions,
    watch: &'a dyn Watch,
    journal: &'a mut Journal,
    /// Rows of the report, by the number of the trial.
    tried: Vec<Tried>,
}

impl Driver<'_> {
    /// Score what the search asks for, until it asks for nothing.
    fn run(&mut self, search: &mut Search, evaluator: &dyn Evaluator) -> Result<()> {
        loop {
            let open = search.ask();
            if open.is_empty() {
                return Ok(());
            }
            let mut new = Vec::new();
            for number in open {
                let trial = search.trial(number);
                let row = Tried::new(number + 1, trial, self.wanted.seed);
                debug_assert_eq!(self.tried.len(), number, "trials come in order");
                match self.journal.find(None, &trial.weights) {
                    Some(entry) => {
                        let score = entry.score;
                        self.tried.push(row.known(entry));
                        search.tell(number, score);
                    }
                    None => {
                        new.push((number, trial.weights.clone()));
                        self.tried.push(row);
                    }
                }
            }
            let (watch, budget) = (self.watch, search.budget());
            watch.told(&self.tried, search.winner(), budget);
            let Self { kitchen, wanted, journal, tried, .. } = self;
            let mut take = |number: usize, entry: Entry| {
                let row = &mut tried[number];
                *row = row.clone().known(&entry);
                journal.write(row, None)?;
                search.tell(number, entry.score);
                watch.told(tried, search.winner(), budget);
                let failed = tried.iter().filter(|row| row.failed.is_some()).count();
                if search.winner().is_none() && failed >= HOPELESS.min(budget) {
                    journal.forget();
                    return Err(hopeless(tried));
                }
                Ok(())
            };
            score_all(kitchen, wanted, evaluator, watch, &new, &mut take)?;
        }
    }

    /// What the winner is compared with, on the search's data and, if there is such, on other data.
    fn compare(
        &mut self,
        search: &Search,
        winner: usize,
        evaluators: Evaluators<'_>,
    ) -> Result<Vec<Compared>> {
        let singles = search.trials().iter().enumerate().filter(|(_, it)| it.weights.contains(&1.0));
        let better = |a: f64, b: f64| match search.goal() {
            mwa::Goal::Min => a < b,
            mwa::Goal::Max => a > b,
        };
        let scored = singles.filter_map(|(number, trial)| Some((number, trial.score()?)));
        let single = scored.reduce(|best, other| if better(other.1, best.1) { other } else { best });
        let ground = search.ground();
        let rows = [
            (mwa::search::LAST, search.find(&ground.last())),
            (report::SINGLE, single.map(|(number, _)| number)),
            (mwa::search::UNIFORM, search.find(&ground.uniform())),
            (METRIC, ground.own().and_then(|own| search.find(own))),
            (report::WINNER, Some(winner)),
        ];
        let mut compared: Vec<_> = rows
            .into_iter()
            .filter_map(|(name, number)| Some(Compared::new(name, number?, search.trial(number?))))
            .collect();
        let Some(holdout) = evaluators.holdout else { return Ok(compared) };
        let name = holdout.name();
        let mut new: Vec<(usize, Vec<f64>)> = Vec::new();
        for row in &compared {
            let number = row.trial - 1;
            let weights = &search.trial(number).weights;
            if self.journal.find(Some(&name), weights).is_none()
                && new.iter().all(|(known, _)| *known != number)
            {
                new.push((number, weights.clone()));
            }
        }
        let Self { kitchen, wanted, journal, tried, watch } = self;
        let mut take =
            |number: usize, entry: Entry| journal.write(&tried[number].clone().known(&entry), Some(&name));
        score_all(kitchen, wanted, holdout, *watch, &new, &mut take)?;
        for row in &mut compared {
            if let Some(entry) = journal.find(Some(&name), &search.trial(row.trial - 1).weights) {
                row.hold_out(entry);
            }
        }
        Ok(compared)
    }
}

/// Merge and score candidates, as many at a time as there are workers. `take` is called on this thread, as they come.
fn score_all(
    kitchen: &Kitchen,
    wanted: &SearchOptions,
    evaluator: &dyn Evaluator,
    watch: &dyn Watch,
    candidates: &[(usize, Vec<f64>)],
    take: &mut dyn FnMut(usize, Entry) -> Result<()>,
) -> Result<()> {
    let next = AtomicUsize::new(0);
    let is_over = AtomicBool::new(false);
    let stopped = || is_over.load(Ordering::Relaxed) || watch.stopped();
    let work = |worker: usize| {
        let at = next.fetch_add(1, Ordering::Relaxed);
        let (number, weights) = candidates.get(at)?;
        let tried = kitchen.try_out(worker, *number, weights, evaluator, &stopped);
        let tried = tried.map(|entry| match (entry.score, wanted.questions) {
            (Some(value), Some(_)) => {
                let score = Score { value, error: entry.score_error }.asked(wanted.questions);
                Entry { score_error: score.error, ..entry }
            }
            _ => entry,
        });
        Some((*number, tried))
    };
    let workers = wanted.workers.min(candidates.len());
    if workers <= 1 {
        // on the caller's own thread, which alone may handle signals of its language
        while let Some((number, tried)) = work(0) {
            take(number, tried?)?;
        }
        return Ok(());
    }
    thread::scope(|scope| {
        let (send, receive) = mpsc::channel();
        for worker in 0..workers {
            let (send, work) = (send.clone(), &work);
            scope.spawn(move || {
                while let Some(done) = work(worker) {
                    if send.send(done).is_err() {
                        return;
                    }
                }
            });
        }
        drop(send);
        let mut failed = Ok(());
        for (number, tried) in receive {
            let taken = tried.and_then(|entry| if failed.is_ok() { take(number, entry) } else { Ok(()) });
            if taken.is_err() && failed.is_ok() {
                failed = taken;
                is_over.store(true, Ordering::Relaxed);
                next.store(candidates.len(), Ordering::Relaxed);
            }
        }
        failed
    })
}
