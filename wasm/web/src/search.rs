//! The core's search for JavaScript: which weights to try, what came of them, and the weights of a trial for a merge.

use alloc::borrow::ToOwned as _;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;

use mwa::report::labels;
use mwa::search::{Lead, Score, called, object};
use mwa::{Error, ErrorKind, Options, Parts, Run, SearchOptions, Weighed};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use wasm_bindgen::prelude::*;

use crate::found::weighing;

/// The weights of a trial, which a merge takes instead of what its options say.
#[derive(Deserialize)]
pub(crate) struct Tried {
    /// One per checkpoint, for each of the groups, if there are such.
    weights: Vec<f64>,
    groups: Option<String>,
    /// Where they come from, for the report.
    scheme: String,
    /// What to say of them.
    note: Option<String>,
}

impl Tried {
    /// Options of a merge, and the weights of a trial in them.
    pub(crate) fn read(text: &str) -> mwa::Result<(Options, Option<Self>)> {
        let Some((mut given, tried)) = object(text).and_then(|mut given| {
            let tried = given.remove("tried")?;
            Some((given, tried))
        }) else {
            return Ok((Options::parse(text)?, None));
        };
        given.remove("weights");
        let tried =
            serde_json::from_value(tried).map_err(|error| Error::new(ErrorKind::Usage, error.to_string()))?;
        Ok((Options::read(&given)?, Some(tried)))
    }

    /// The same checkpoints with these weights.
    pub(crate) fn weigh(&self, run: &Run, weighed: &Weighed) -> mwa::Result<Weighed> {
        let parts = self.groups.as_ref().map(|groups| run.parts(weighed, groups)).transpose()?;
        let mut other = weighed.reweighed(&self.weights, parts.as_ref(), &self.scheme)?;
        other.notes.extend(self.note.clone());
        Ok(other)
    }
}

/// A search under way.
#[wasm_bindgen]
#[derive(Debug)]
pub struct Search {
    search: mwa::search::Search,
    /// How checkpoints are called, in each group.
    labels: Vec<String>,
    groups: Vec<String>,
    questions: Option<usize>,
}

impl Search {
    pub(crate) fn new(run: &Run, options: &str) -> mwa::Result<Self> {
        let (given, wanted) = SearchOptions::parse(options)?;
        let Some(goal) = wanted.score_goal else {
            return Err(Error::new(
                ErrorKind::Usage,
                "nothing says whether lower or higher scores are better",
            )
            .help("give goal min, as for a loss, or max, as for an accuracy"));
        };
        let weighed = run.weigh(&weighing(&given, &[])?)?;
        if weighed.robust.is_some() {
            let detail = "a scheme that weighs by the tensors of a merge is not for a search, which tries weights of its own";
            return Err(Error::new(ErrorKind::Usage, detail).help("search without scheme, or merge with it"));
        }
        let parts = wanted.groups.as_ref().map(|groups| run.parts(&weighed, groups)).transpose()?;
        let ground = weighed.ground().with_parts(parts.as_ref().map_or(1, Parts::count));
        let search =
            mwa::search::Search::new(wanted.search_method, ground, wanted.budget, goal, wanted.seed)?;
        let names = labels(&weighed.inputs);
        let groups: Vec<_> = parts.iter().flat_map(Parts::names).map(String::from).collect();
        let labels = Parts::labels(&groups, &names);
        Ok(Self { search, labels, groups, questions: wanted.score_questions })
    }
}

#[wasm_bindgen]
impl Search {
    /// What it does, as JSON: the method, why it was chosen, the goal, the seed, the budget, and what groups are called.
    #[must_use]
    pub fn describe(&self) -> String {
        let search = &self.search;
        let goal = search.goal().to_string();
        let (method, reason) = (search.method().name, search.reason());
        json!({
            "method": method, "reason": reason, "goal": goal, "seed": search.seed(), "budget": search.budget(),
            "groups": self.groups,
        })
        .to_string()
    }

    /// The numbers of the trials that may be scored now, from 0 on; none when the search is over.
    pub fn ask(&mut self) -> Vec<usize> {
        self.search.ask()
    }

    /// Where the weights of a trial come from.
    #[must_use]
    pub fn by(&self, number: usize) -> String {
        self.search.trial(number).by.clone()
    }

    /// The weights of a trial.
    #[must_use]
    pub fn weights(&self, number: usize) -> Vec<f64> {
        self.search.trial(number).weights.clone()
    }

    /// Take in what came of a trial; nothing for one that failed.
    pub fn tell(&mut self, number: usize, score: Option<f64>) {
        self.search.tell(number, score);
    }

    /// Whether to give up: trials fail, and none was scored.
    #[must_use]
    #[wasm_bindgen(js_name = isHopeless)]
    pub fn is_hopeless(&self) -> bool {
        self.search.is_hopeless()
    }

    /// The number of the best so far.
    #[must_use]
    pub fn winner(&self) -> Option<usize> {
        self.search.winner()
    }

    /// The score and its standard error in what an evaluator gave, as JSON: an object with `score`.
    ///
    /// # Errors
    /// Why there is none, in words.
    pub fn score(&self, given: &str) -> Result<Vec<f64>, JsValue> {
        let score = object(given).ok_or_else(|| "it is no number, nor an object with `score`".to_owned());
        let score = score.and_then(|given: Map<String, Value>| Score::of_json(&given));
        let score = score.map_err(|why| JsValue::from_str(&why))?.asked(self.questions);
        Ok([score.value].into_iter().chain(score.error).collect())
    }

    /// What must be said of the winner, as a JSON list, where the standard error of its score is known or not, and it will be scored on other
    /// data or not.
    #[must_use]
    pub fn doubts(&self, error: Option<f64>, is_held_out: bool) -> String {
        let labels: Vec<_> = self.labels.iter().map(String::as_str).collect();
        Value::from(self.search.doubts(error, is_held_out, &labels)).to_string()
    }

    /// What is to be said of the winner's score on other data beside another's, if anything.
    #[must_use]
    pub fn doubt(&self, over: &str, winner: f64, other: f64, error: Option<f64>) -> Option<String> {
        Lead { over, winner, other, error, goal: self.search.goal() }.doubt(None)
    }

    /// The winner and what it is compared with, as a JSON list of names, what these mean, and numbers of trials.
    #[must_use]
    pub fn compared(&self) -> String {
        let rows = self.search.compared().into_iter();
        Value::from_iter(rows.map(|(name, number)| json!([name, called(name), number]))).to_string()
    }
}
