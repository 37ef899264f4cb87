//! The scores of a search as a table, and whether two checkpoints lie in one basin.

use alloc::format;
use alloc::string::String;

use super::state::Search;
use super::verdict::short;

impl Search {
    /// The trials as CSV: number, where the weights come from, the weights, score.
    #[must_use]
    pub fn table(&self, labels: &[&str]) -> String {
        let mut text = String::from("trial,by");
        labels.iter().for_each(|label| text += &format!(",{}", cell(label)));
        text += ",score\n";
        for (at, trial) in self.trials().iter().enumerate() {
            text += &format!("{},{}", at + 1, cell(&trial.by));
            trial.weights.iter().for_each(|weight| text += &format!(",{weight}"));
            text += &trial.score().map_or_else(|| ",\n".into(), |score| format!(",{score}\n"));
        }
        text
    }

    /// Whether two checkpoints lie in one basin: how much worse the worst place between them is than the straight line from the
    /// score of one to that of the other.
    #[must_use]
    pub fn basin(&self, error: Option<f64>) -> Option<String> {
        let ends =
            [self.find(&[1.0, 0.0])?, self.find(&[0.0, 1.0])?].map(|at| self.trial(at).cost(self.goal()));
        let [older, newer] = ends;
        let between = self.trials().iter().filter(|trial| trial.weights.iter().all(|weight| *weight > 0.0));
        let over = between.filter_map(|trial| {
            let place = trial.weights[1];
            let over = trial.cost(self.goal()) - ((1.0 - place) * older + place * newer);
            (trial.score().is_some() && over.is_finite()).then_some((place, over))
        });
        let (place, over) = over.reduce(|worst, other| if other.1 > worst.1 { other } else { worst })?;
        Some(if over > 3.0 * error.unwrap_or(0.0) {
            format!(
                "between the two checkpoints lies a ridge: at {place:.2} of the way the score is worse by {} than on a straight \
                 line from one to the other, so they are not in one basin",
                short(over)
            )
        } else {
            "no ridge was found between the two checkpoints: they lie in one basin".into()
        })
    }
}

/// A cell of CSV.
fn cell(text: &str) -> String {
    if text.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.into()
    }
}
