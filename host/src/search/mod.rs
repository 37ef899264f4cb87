//! The search for the best merge: the core's search over candidates that are merged, scored and forgotten, and the winner merged
//! for good.

mod candidate;
mod command;
mod driver;
mod entry;
mod evaluator;
mod journal;
mod larder;
mod place;
mod process;
mod report;
mod server;
mod watch;

use std::path::Path;

use mwa::report::{Report, labels};
use mwa::search::{Lead, Search};
use mwa::{Error, ErrorKind, Result, SearchOptions, WeightRule};

use crate::engine::device::DeviceChoice;
use crate::io::disk::io_error;
use crate::io::staging::{Staging, without_force};
use crate::io::url::{clean, is_elsewhere};
use crate::options::{MergeOptions, Options};
use crate::plot::landscape::picture;

use self::candidate::Kitchen;
use self::driver::{Driver, hopeless};
use self::journal::Journal;

pub use command::CommandEvaluator;
pub use driver::NO_SCORE;
pub use evaluator::{Candidate, Evaluator, Evaluators};
pub use report::{Compared, SearchReport, Tried};
pub use server::ServerEvaluator;
pub use watch::Watch;

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
    if let WeightRule::Robust { scheme, .. } = options.choose.rule {
        let detail = format!(
            "scheme {scheme} weighs by the tensors of a merge, and a search tries weights of its own"
        );
        return Err(Error::new(ErrorKind::Usage, detail).help("search without --scheme, or merge with it"));
    }
    if is_elsewhere(out) {
        let detail = "lies in a store, and a search keeps its journal in a folder of this machine";
        return Err(Error::new(ErrorKind::Output, detail)
            .file(clean(out).display().to_string())
            .help("search into a folder here, and copy it there"));
    }
    Staging::tidy(out).iter().for_each(|done| watch.note(done));
    if how.force {
        let named = options.inputs.iter().chain(&options.metrics_file).chain(&options.weights_file);
        Staging::check_inputs(out, named.map(std::path::PathBuf::as_path))?;
    }
    // --force alone would forget what was tried
    Staging::check(out, how.force).map_err(|error| match journal::beside(out, "jsonl").is_file() {
        true => without_force(error, "go on with that search and replace its merge by --resume --force, begin anew by --force, or choose another output"),
        false => error,
    })?;
    let begin = |kitchen: &Kitchen| {
        Search::new(wanted.search_method, kitchen.ground(), wanted.budget, goal, wanted.seed)
    };
    let mut kitchen = Kitchen::open(options, how, wanted, Vec::new())?;
    // what cannot be searched, and where nothing can be written, is refused before anything is merged
    begin(&kitchen)?;
    drop(Staging::begin(out, how.force, kitchen.checkpoints())?);
    let (journal_at, is_begun) = Journal::look(out, how.force, wanted.resume)?;
    let recipe = kitchen.prepare(options, how, wanted, watch)?;
    let mut search = begin(&kitchen)?;
    let mut journal = Journal::open(&journal_at, is_begun, &recipe, &evaluators, goal, watch)?;
    let (tried, spare) = (Vec::new(), Vec::new());
    let mut driver = Driver { kitchen: &kitchen, wanted, watch, journal: &mut journal, tried, spare };
    let tried = evaluators.holdout.map_or(Ok(()), |holdout| driver.try_holdout(&mut search, holdout));
    let ran = tried.and_then(|()| driver.run(&mut search, evaluators.search));
    if ran.is_err() {
        driver.journal.forget();
    }
    ran?;
    let Some(winner) = search.winner() else {
        driver.journal.forget();
        return Err(hopeless(&driver.tried));
    };
    // their room may be needed for what is compared
    driver.spare.clear();
    let compared = driver.compare(&search, evaluators)?;
    let tried = driver.tried;

    let trial = search.trial(winner);
    let names = labels(kitchen.rows());
    let groups = kitchen.groups();
    let each = mwa::Parts::labels(&groups, &names);
    let each: Vec<_> = each.iter().map(String::as_str).collect();
    let own = tried[winner].standard_error;
    let mut doubts = search.doubts(own, evaluators.holdout.is_some(), &each);
    doubts.extend(held_out(&compared, goal));
    let why = tried.iter().rev().find_map(|row| row.failed.as_deref());
    doubts.extend(why.map(|why| format!("the last that failed: {why}")));
    let basin = search.basin(own);
    let files = draw(&search, out, &names)?;
    let scheme = format!(
        "search by {}: {}, the best of {} trials",
        wanted.search_method,
        trial.by,
        search.trials().len()
    );
    let note = format!(
        "weights found by mwa search: method {}, seed {}, {} trials, goal {goal}, evaluator {}",
        wanted.search_method,
        wanted.seed,
        search.trials().len(),
        evaluators.search.name()
    );
    let (score, trials) = (trial.score().expect("the winner was scored"), tried);
    let mut report = SearchReport {
        method: wanted.search_method.name.into(),
        groups,
        reason: search.reason().map(str::to_owned),
        seed: wanted.seed,
        budget: wanted.budget,
        goal: goal.to_string(),
        evaluator: evaluators.search.name(),
        holdout: evaluators.holdout.map(Evaluator::name),
        journal: journal_at.display().to_string(),
        winner: winner + 1,
        score,
        standard_error: own,
        trials,
        compared,
        doubts,
        basin,
        files,
        merge: Report::unweighed("search", Vec::new()),
    };
    let told = (note, report.section());
    report.merge = kitchen.serve(&trial.weights, &scheme, told, how, out, watch)?;
    Ok(report)
}

/// Write what two or three checkpoints look like: a table and a picture beside the output.
fn draw(search: &Search, out: &Path, labels: &[&str]) -> Result<Vec<String>> {
    let Some(picture) = picture(search, labels) else { return Ok(Vec::new()) };
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
    let Some(winner) = compared.iter().find(|row| row.name == mwa::search::WINNER) else { return Vec::new() };
    let Some(score) = winner.holdout else { return Vec::new() };
    let others = compared.iter().filter(|row| row.trial != winner.trial);
    let doubts = others.filter_map(|row| {
        let over = mwa::search::called(&row.name);
        let lead = Lead { over, winner: score, other: row.holdout?, error: winner.holdout_error, goal };
        lead.doubt(None).map(|doubt| format!("on the holdout, {doubt}"))
    });
    doubts.collect()
}
