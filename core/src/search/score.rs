//! What a program printed, read as a score: the last line's JSON, or the last number.

use alloc::format;
use alloc::string::String;

use serde_json::{Map, Value};

use crate::text::json;

/// A score, and how sure it is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Score {
    /// The score; finite.
    pub value: f64,
    /// Its standard error, if the evaluator knows it.
    pub error: Option<f64>,
}

/// The JSON object that is all of a line, as Python writes it: with bare NaN, which is no score.
#[must_use]
pub fn object(line: &str) -> Option<Map<String, Value>> {
    json::parse(line).ok()
}

impl Score {
    /// Of a program's output: `score` of the JSON object in its last line, or else its last number.
    ///
    /// Beside `score` there may be `error`, its standard error, or `questions`, how many were answered right or wrong where
    /// the score is the share of those that were right.
    ///
    /// # Errors
    /// Why there is none, in words.
    pub fn of_output(text: &str) -> Result<Self, String> {
        let text = text.trim_ascii_end();
        let last = text.rsplit(['\n', '\r']).next().unwrap_or_default().trim_ascii();
        if last.starts_with('{') {
            let fields = json::parse(last).map_err(|error| format!("its last line is not JSON: {error}"))?;
            return Self::of_json(&fields);
        }
        let is_between = |letter: char| letter.is_whitespace() || ",;:=|()[]{}<>%\"'`".contains(letter);
        let number = text.rsplit(is_between).find_map(json::float).ok_or("it printed no number")?;
        Self::new(number, None)
    }

    /// Of the fields of such an object.
    ///
    /// # Errors
    /// Why there is none, in words.
    pub fn of_json(fields: &Map<String, Value>) -> Result<Self, String> {
        let field = |name| fields.get(name).filter(|value| !value.is_null());
        let number = |name| match field(name).map(|value| (value, json::number(value))) {
            Some((value, None)) => Err(format!("its `{name}` is not a number: {}", json::text(value))),
            Some((_, number)) => Ok(number),
            None => Ok(None),
        };
        let Some(value) = number("score")? else { return Err("its JSON has no `score`".into()) };
        let error = number("error")?.filter(|error| *error >= 0.0 && error.is_finite());
        let questions = number("questions")?;
        Self::new(value, error.or_else(|| questions.and_then(|questions| error_of_share(value, questions))))
    }

    fn new(value: f64, error: Option<f64>) -> Result<Self, String> {
        if value.is_finite() { Ok(Self { value, error }) } else { Err(format!("its score is {value}")) }
    }

    /// With the standard error of the share of so many questions, where no other is known.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "nobody asks 2^53 questions")]
    pub fn asked(self, questions: Option<usize>) -> Self {
        let error = || error_of_share(self.value, questions? as f64);
        Self { error: self.error.or_else(error), ..self }
    }
}

/// √(a(1 − a)/n): how sure the share a of n questions is.
fn error_of_share(share: f64, questions: f64) -> Option<f64> {
    let fits = (0.0..=1.0).contains(&share) && questions >= 1.0 && questions.is_finite();
    fits.then(|| libm::sqrt(share * (1.0 - share) / questions))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str) -> Result<f64, String> {
        Score::of_output(text).map(|score| score.value)
    }

    #[test]
    fn the_last_number_counts() {
        for (text, expected) in [
            ("0.25", 0.25),
            ("epoch 3: loss=0.5, accuracy=91.5%\n", 91.5),
            ("loss 1e-3\nall 12 tests passed in time\n", 12.0),
            ("-2", -2.0),
            ("adapter      exact match    loss\n/dev/shm/x/candidate-3       0.3205  0.7534\n", 0.7534),
            ("progress 10 %\rprogress 99 %\rscore: .5", 0.5),
        ] {
            assert_eq!(value(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn json_in_the_last_line_counts_more() {
        let score = Score::of_output("7 warnings\n{\"exact\": 0.5, \"score\": 0.25, \"error\": 0.01}\n");
        assert_eq!(score, Ok(Score { value: 0.25, error: Some(0.01) }));
        let share = Score::of_output("{\"score\": 0.35, \"questions\": 2000}").unwrap();
        assert_eq!(libm::round(share.error.unwrap() * 1e6), 10665.0);
        assert_eq!(
            Score::of_output("{\"score\": 1.5, \"questions\": 2000}").unwrap().error,
            None,
            "no share"
        );
        assert_eq!(Score::of_output("0.35").unwrap().asked(Some(2000)), share);
        assert_eq!(Score { value: 0.35, error: Some(0.1) }.asked(Some(2000)).error, Some(0.1));
    }

    #[test]
    fn what_is_no_score_says_why() {
        for (text, why) in [
            ("", "it printed no number"),
            ("all good\n", "it printed no number"),
            ("loss: nan", "its score is NaN"),
            ("accuracy 0.5\nloss inf\n", "its score is inf"),
            ("{\"score\": NaN}", "its score is NaN"),
            ("{\"loss\": 1}", "its JSON has no `score`"),
            ("{\"score\": null}", "its JSON has no `score`"),
            ("{\"score\": [1]}", "its `score` is not a number: [1]"),
        ] {
            assert_eq!(value(text).unwrap_err(), why, "{text}");
        }
        assert!(value("{\"score\": 1").unwrap_err().starts_with("its last line is not JSON: "));
    }
}
