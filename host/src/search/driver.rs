//! Runs the trials of a search, several at a time, and scores the winner and what it is compared with once more.

use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;

use mwa::search::{Score, Search};
use mwa::{Error, ErrorKind, Result, SearchOptions};

use super::candidate::Kitchen;
use super::entry::Entry;
use super::evaluator::{Evaluator, Evaluators};
use super::journal::Journal;
use super::larder::{Larder, Spare};
use super::report::{Compared, Tried};
use super::watch::Watch;

/// What the errors have in common that a search ends with where nobody scores.
pub const NO_SCORE: &str = "no score";

/// No candidate was scored.
pub(super) fn hopeless(tried: &[Tried]) -> Error {
    let why = tried.iter().rev().find_map(|row| row.failed.as_deref()).unwrap_or("there was none");
    let failed = tried.iter().filter(|row| row.failed.is_some()).count();
    let detail = format!("{NO_SCORE} came of the first {failed} candidates: {why}");
    Error::new(ErrorKind::Input, detail)
        .help("run the evaluator by hand on a checkpoint's folder, and search when it prints a score")
}

/// Runs trials.
pub(super) struct Driver<'a> {
    pub(super) kitchen: &'a Kitchen,
    pub(super) wanted: &'a SearchOptions,
    pub(super) watch: &'a dyn Watch,
    pub(super) journal: &'a mut Journal,
    /// Rows of the report, by the number of the trial.
    pub(super) tried: Vec<Tried>,
    /// Candidates that were merged with others, and may be asked for.
    pub(super) spare: Spare,
}

impl Driver<'_> {
    /// Score the last checkpoint by itself on other data: who scores there is asked in the end, and whether that works is known
    /// before anything else is.
    pub(super) fn try_holdout(&mut self, search: &mut Search, holdout: &dyn Evaluator) -> Result<()> {
        let open = search.ask();
        let last = search.find(&search.ground().last());
        let Some(number) = last.or(open.first().copied()) else { return Ok(()) };
        let (name, trial) = (holdout.name(), search.trial(number));
        if self.journal.find(Some(&name), &trial.weights).is_some() {
            return Ok(());
        }
        let row = Tried::new(number + 1, trial, self.wanted.seed);
        let new = [(number, trial.weights.clone())];
        let Self { kitchen, wanted, journal, watch, .. } = self;
        let larder = Larder::new(kitchen, &new, Vec::new(), Vec::new());
        let mut take = |_: usize, entry: Entry| match &entry.failed {
            // what cannot be merged is told of the trial
            Some(_) if entry.blake3.is_empty() => Ok(()),
            Some(why) => {
                let detail = format!("the holdout gives {NO_SCORE} of the first candidate: {why}");
                Err(Error::new(ErrorKind::Input, detail)
                    .help("run it by hand on a checkpoint's folder, and search when it prints a score"))
            }
            None => journal.write(&row.clone().known(&entry), Some(&name)),
        };
        score_all(&larder, wanted, holdout, *watch, &new, &mut take)?;
        // two servers with a base model each may not fit on one GPU
        holdout.rest();
        Ok(())
    }

    /// Score what the search asks for, until it asks for nothing.
    pub(super) fn run(&mut self, search: &mut Search, evaluator: &dyn Evaluator) -> Result<()> {
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
            let ahead = if new.is_empty() { Vec::new() } else { search.ahead(self.kitchen.lot()) };
            let Self { kitchen, wanted, journal, tried, spare, .. } = self;
            let larder = Larder::new(kitchen, &new, ahead, core::mem::take(spare));
            let mut take = |number: usize, entry: Entry| {
                let row = &mut tried[number];
                *row = row.clone().known(&entry);
                journal.write(row, None)?;
                search.tell(number, entry.score);
                watch.told(tried, search.winner(), budget);
                if search.is_hopeless() {
                    return Err(hopeless(tried));
                }
                Ok(())
            };
            score_all(&larder, wanted, evaluator, watch, &new, &mut take)?;
            *spare = larder.rest();
        }
    }

    /// What the winner is compared with, on the search's data and, if there is such, on other data.
    pub(super) fn compare(&mut self, search: &Search, evaluators: Evaluators<'_>) -> Result<Vec<Compared>> {
        let rows = search.compared().into_iter();
        let mut compared: Vec<_> =
            rows.map(|(name, number)| Compared::new(name, number, search.trial(number))).collect();
        let Some(holdout) = evaluators.holdout else { return Ok(compared) };
        // two servers with a base model each may not fit on one GPU
        evaluators.search.rest();
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
        let Self { kitchen, wanted, journal, tried, watch, .. } = self;
        let larder = Larder::new(kitchen, &new, Vec::new(), Vec::new());
        let mut take =
            |number: usize, entry: Entry| journal.write(&tried[number].clone().known(&entry), Some(&name));
        score_all(&larder, wanted, holdout, *watch, &new, &mut take)?;
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
    larder: &Larder<'_>,
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
        let (number, _) = candidates.get(at)?;
        let tried = larder.serve(at, worker, evaluator, &stopped);
        let tried = tried.and_then(|entry| match (entry.score, wanted.score_questions) {
            (Some(value), Some(questions)) if !(0.0..=1.0).contains(&value) => {
                let detail = format!("--questions {questions} is for scores that are shares between 0 and 1, and one is {value}");
                Err(Error::new(ErrorKind::Usage, detail)
                    .help("leave it out, or let the evaluator print the share of right answers"))
            }
            (Some(value), Some(_)) => {
                let score = Score { value, error: entry.score_error }.asked(wanted.score_questions);
                Ok(Entry { score_error: score.error, ..entry })
            }
            _ => Ok(entry),
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
