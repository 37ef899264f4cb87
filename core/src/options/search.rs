//! The options of a search: rows of the same table, for whoever searches.

use alloc::string::String;
use alloc::vec::Vec;

use serde_json::{Map, Value as Json};

use super::value::Value;
use super::{About, Face, Facts, Kind, NAMES, Options, Row, Verb, unknown, usage, wrong};
use crate::error::Result;
use crate::logs::goal::Goal;
use crate::search::{BUDGET, Method};
use crate::text::json;
use crate::text::span::Span;

const SEARCH: Facts =
    Facts { value: "", usual: "", about: About::Search, verbs: &[Verb::Search], lacking: &[] };
/// A program of one's own has functions instead of commands.
const COMMAND: Facts = Facts { value: "COMMAND", lacking: &[(Face::Native, "give a function")], ..SEARCH };
/// The longest time that is waited for a score: a year.
const LONGEST: f64 = 31_536_000.0;

options! {
    /// How weights are searched for, beyond what can be wanted of a merge. Fields are the rows of [`SEARCH_OPTIONS`].
    SearchOptions, SEARCH_OPTIONS, SEARCH_NAMES;

    /// Score each candidate by this command, in which {path} is its folder: by `score` of JSON in its last line, or else by the
    /// last number that it prints
    evaluate: Option<String> = None, Kind::Text, COMMAND;
    /// Score candidates by this program, which stays: it reads a line {"id": …, "path": …, "weights": …} for each and
    /// answers {"id": …, "score": …}
    evaluate_server: Option<String> = None, Kind::Text, COMMAND;
    /// Whether lower or higher scores are better
    score_goal: Option<Goal> = None, Kind::Word(&["min", "max"]), Facts { value: "GOAL", ..SEARCH };
    /// Who proposes weights
    search_method: Method = Method::ALL[0], Kind::Word(&Method::NAMES), Facts { value: "METHOD", usual: Method::ALL[0].name, ..SEARCH };
    /// Search the weights of parts of the model apart: blocks of so many layers, or the modules that each name fits, such as
    /// attn,mlp; the others are a part of their own
    groups: Option<String> = None, Kind::Text, Facts { value: "layers:N|NAMES", ..SEARCH };
    /// How many weights are tried at most
    budget: usize = BUDGET, Kind::Count, Facts { value: "N", usual: "50", ..SEARCH };
    /// Where random numbers begin: the same seed gives the same search
    seed: u64 = 0, Kind::Whole, Facts { value: "S", usual: "0", ..SEARCH };
    /// How many candidates are scored at a time; the result is the same
    workers: usize = 1, Kind::Count, Facts { value: "N", usual: "1", ..SEARCH };
    /// A candidate that is not scored in this time has failed
    timeout: Option<f64> = None, Kind::Number(Some(Span::Above(0.0, LONGEST))), Facts {
        value: "SECONDS",
        lacking: &[(Face::Native, "a function ends by itself")],
        ..SEARCH
    };
    /// Score the winner and what it is compared with once more, in the end, by this command on other data
    holdout: Option<String> = None, Kind::Text, COMMAND;
    /// Score those by this program instead, which stays and is asked as a server of the search is
    holdout_server: Option<String> = None, Kind::Text, COMMAND;
    /// Scores are the share of so many answers that were right: how sure they are follows from that
    score_questions: Option<usize> = None, Kind::Count, Facts { value: "N", ..SEARCH };
    /// Go on with the search of before, whose trials are in a file beside the output; nothing is scored twice
    resume: bool = false, Kind::Switch, SEARCH;
}

impl SearchOptions {
    /// Read a JSON object whose names are those of [`SEARCH_OPTIONS`] and of [`super::OPTIONS`], which go to the merge.
    ///
    /// # Errors
    /// As [`Options::read`].
    pub fn split(given: &Map<String, Json>) -> Result<(Options, Self)> {
        let mut options = Self::default();
        let mut others = Map::new();
        for (name, value) in given.iter().filter(|(_, value)| !value.is_null()) {
            if SEARCH_NAMES.contains(&name.as_str()) {
                options.set(name, value)?;
            } else if NAMES.contains(&name.as_str()) {
                others.insert(name.clone(), value.clone());
            } else {
                return Err(unknown(name, &[SEARCH_NAMES, NAMES].concat::<&str>()));
            }
        }
        Ok((Options::read(&others)?, options))
    }

    /// As [`Self::split`], of the text of a search's options.
    ///
    /// # Errors
    /// As there, and [`crate::ErrorKind::Usage`] for weights of one's own.
    pub fn parse(text: &str) -> Result<(Options, Self)> {
        let given: Map<String, Json> = serde_json::from_str(text)
            .map_err(|error| usage(alloc::format!("options are not a JSON object: {error}")))?;
        if let Some(method) = given.get("method").filter(|method| !method.is_null()) {
            let detail =
                alloc::format!("option method: a search merges by weights, not by {}", json::text(method));
            return Err(usage(detail).help("leave it out; who proposes weights is option search_method"));
        }
        if given.get("weights").is_some_and(|weights| !weights.is_null()) {
            return Err(usage("option weights is not for a search, which finds them".into())
                .help("merge with your own weights, or leave them out"));
        }
        Self::split(&given)
    }

    /// Every row of a search: its own, then those of the merge.
    #[must_use]
    pub fn rows(face: Face) -> Vec<&'static Row> {
        let all = SEARCH_OPTIONS.iter().chain(super::OPTIONS);
        all.filter(|row| row.is_on_face(face, Verb::Search)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString as _;
    use alloc::vec;

    #[test]
    fn options_go_to_the_search_or_to_the_merge() {
        let text = r#"{"search_method": "lcsc", "budget": 7, "score_goal": "max", "goal": "min", "last": 4, "seed": 42, "workers": 2,
            "timeout": 1.5, "score_questions": 2000, "resume": true, "groups": "attn,mlp", "evaluate": "score {path}", "holdout": null,
            "holdout_server": "serve"}"#;
        let (merge, search) = SearchOptions::parse(text).unwrap();
        assert_eq!((merge.last, merge.goal), (Some(4), Some(Goal::Min)));
        let expected = SearchOptions {
            evaluate: Some("score {path}".into()),
            evaluate_server: None,
            score_goal: Some(Goal::Max),
            search_method: "lcsc".parse().unwrap(),
            groups: Some("attn,mlp".into()),
            budget: 7,
            seed: 42,
            workers: 2,
            timeout: Some(1.5),
            holdout: None,
            holdout_server: Some("serve".into()),
            score_questions: Some(2000),
            resume: true,
        };
        assert_eq!(search, expected);
    }

    #[test]
    fn mistakes_are_named() {
        for (text, message, help) in [
            (r#"{"budgt": 7}"#, "there is no option `budgt`", "did you mean `budget`?"),
            (r#"{"penalti": 7}"#, "there is no option `penalti`", "did you mean `penalty`?"),
            (
                r#"{"weights": [1, 2]}"#,
                "option weights is not for a search, which finds them",
                "merge with your own weights, or leave them out",
            ),
        ] {
            let error = SearchOptions::parse(text).unwrap_err();
            assert_eq!((error.to_string().as_str(), error.advice()), (message, Some(help)));
        }
        let refused = |text| SearchOptions::parse(text).unwrap_err().to_string();
        assert_eq!(
            refused(r#"{"search_method": "grid"}"#),
            "option search_method: \"grid\" does not fit; it must be auto, sweep, greedy, lcsc, cma, line, plane or quadratic"
        );
        assert_eq!(
            refused(r#"{"timeout": 0}"#),
            "option timeout: 0 does not fit; it must be a number, above 0 and at most 31536000"
        );
        assert_eq!(
            refused(r#"{"budget": 0}"#),
            "option budget: 0 does not fit; it must be a whole number from 1 on"
        );
    }

    /// As of the options of a merge.
    #[test]
    fn the_table_tells_the_truth() {
        for row in SEARCH_OPTIONS {
            let mut options = SearchOptions::default();
            if let Ok(usual) = row.facts.usual.parse::<u64>() {
                options.set(row.name, &Json::from(usual)).unwrap();
            } else if !row.facts.usual.is_empty() {
                options.set(row.name, &Json::from(row.facts.usual)).unwrap();
            }
            assert_eq!(options, SearchOptions::default(), "{}", row.name);
            assert!(!row.fits(&Json::from(vec![Json::Bool(true)])), "{}", row.name);
            assert!(!row.help().is_empty() && !row.help().ends_with('.'), "{}", row.name);
            assert!(!NAMES.contains(&row.name), "one name means one thing");
        }
        let flags: Vec<_> =
            SearchOptions::rows(Face::CommandLine).iter().map(|row| row.flag_of(Verb::Search)).collect();
        for (at, flag) in flags.iter().enumerate() {
            assert!(!flags[..at].contains(flag), "--{flag} twice");
        }
    }
}
