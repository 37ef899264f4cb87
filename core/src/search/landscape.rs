//! The scores along a line of two checkpoints or over the plane of three: as a table, as a picture, and in a sentence.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use super::verdict::short;
use super::{Search, Trial};
use crate::logs::goal::Goal;

/// The picture, in pixels.
const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 440.0;
const MARGIN: f64 = 60.0;
/// How far weights beyond the checkpoints are shown.
const FROM: f64 = -0.5;
const TO: f64 = 1.5;

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

    /// The trials as a picture, SVG, where there are two or three checkpoints; `labels` are theirs.
    #[must_use]
    pub fn picture(&self, labels: &[&str]) -> Option<String> {
        let scored: Vec<_> = self
            .trials()
            .iter()
            .filter_map(|trial| Some((trial, trial.score()?)))
            .filter(|(it, _)| is_near(it))
            .collect();
        let low = scored.iter().map(|(_, score)| *score).fold(f64::INFINITY, f64::min);
        let high = scored.iter().map(|(_, score)| *score).fold(f64::NEG_INFINITY, f64::max);
        let best = self.best()?;
        let body = match labels {
            [older, newer] => line(&scored, [low, high], best, [older, newer]),
            [a, b, c] => plane(&scored, [low, high], best, self.goal(), [a, b, c]),
            _ => return None,
        };
        Some(format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{HEIGHT}\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
             font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n{body}</svg>\n"
        ))
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

/// Whether it lies within the picture.
fn is_near(trial: &Trial) -> bool {
    trial.weights.iter().skip(1).all(|weight| (FROM..=TO).contains(weight))
}

/// A cell of CSV.
fn cell(text: &str) -> String {
    if text.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.into()
    }
}

/// Text in SVG.
fn escaped(text: &str) -> String {
    let visible = text.chars().filter(|letter| !letter.is_control()).collect::<String>();
    visible.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// How far up or to the right a number lies between two others.
fn share(value: f64, [low, high]: [f64; 2]) -> f64 {
    if high > low { (value - low) / (high - low) } else { 0.5 }
}

fn text(x: f64, y: f64, anchor: &str, words: &str) -> String {
    format!("<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{}</text>\n", escaped(words))
}

/// The score over the weight of the newer checkpoint.
fn line(scored: &[(&Trial, f64)], range: [f64; 2], best: &Trial, [older, newer]: [&str; 2]) -> String {
    let x = |weight: f64| MARGIN + share(weight, [FROM, TO]) * (WIDTH - 2.0 * MARGIN);
    let y = |score: f64| HEIGHT - MARGIN - share(score, range) * (HEIGHT - 2.0 * MARGIN);
    let mut points: Vec<_> = scored.iter().map(|(trial, score)| (trial.weights[1], *score)).collect();
    points.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (bottom, top) = (HEIGHT - MARGIN, MARGIN);
    let mut body = String::new();
    for (weight, label) in [(0.0, older), (1.0, newer)] {
        let x = x(weight);
        body += &format!("<path d=\"M{x:.1} {top}V{bottom}\" stroke=\"#ccc\"/>\n");
        body += &text(x, bottom + 36.0, "middle", label);
    }
    for weight in [-0.5, 0.0, 0.5, 1.0, 1.5] {
        body += &text(x(weight), bottom + 18.0, "middle", &format!("{weight}"));
    }
    for score in range {
        body += &text(MARGIN - 6.0, y(score) + 4.0, "end", &short(score));
    }
    let way: Vec<_> =
        points.iter().map(|(weight, score)| format!("{:.1},{:.1}", x(*weight), y(*score))).collect();
    body += &format!("<polyline points=\"{}\" fill=\"none\" stroke=\"#369\"/>\n", way.join(" "));
    for (weight, score) in &points {
        let colour = if *weight == best.weights[1] { "#c00" } else { "#369" };
        body += &format!(
            "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"4\" fill=\"{colour}\"/>\n",
            x(*weight),
            y(*score)
        );
    }
    body + &text(
        WIDTH / 2.0,
        24.0,
        "middle",
        "score over the weight of the newer checkpoint; the best is red",
    )
}

/// The score as a colour over the plane, in which the checkpoints are the corners of a triangle of equal sides.
fn plane(scored: &[(&Trial, f64)], range: [f64; 2], best: &Trial, goal: Goal, labels: [&str; 3]) -> String {
    const UNIT: f64 = 165.0;
    let (left, bottom) = (WIDTH / 2.0 - UNIT, HEIGHT - 140.0);
    // the weights of the second and the third
    let place = |weights: &[f64]| {
        let (a, b) = (weights[1], weights[2]);
        (left + UNIT * (a + b / 2.0) + UNIT / 2.0, bottom - UNIT * b * 0.866)
    };
    let mut body = String::new();
    for (trial, score) in scored {
        let (x, y) = place(&trial.weights);
        let good = match goal {
            Goal::Min => 1.0 - share(*score, range),
            Goal::Max => share(*score, range),
        };
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and 255")]
        let part = |from: f64, to: f64| (from + good * (to - from)) as u8;
        let (red, green, blue) = (part(240.0, 20.0), part(235.0, 70.0), part(210.0, 150.0));
        body += &format!(
            "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"9\" fill=\"rgb({red},{green},{blue})\"><title>{}: {}</title></circle>\n",
            escaped(&trial.by),
            short(*score)
        );
    }
    let corners = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]];
    let way: Vec<_> =
        corners.iter().map(|corner| place(corner)).map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
    body += &format!("<polygon points=\"{}\" fill=\"none\" stroke=\"black\"/>\n", way.join(" "));
    for (corner, label) in corners.iter().zip(labels) {
        let (x, y) = place(corner);
        body += &format!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\"/>\n");
        body += &text(x, y - 12.0, "middle", label);
    }
    let (x, y) = place(&best.weights);
    body += &format!(
        "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"12\" fill=\"none\" stroke=\"#c00\" stroke-width=\"2\"/>\n"
    );
    let [low, high] = range;
    body + &text(
        WIDTH / 2.0,
        24.0,
        "middle",
        &format!("scores from {} to {}, darker is better; the best is ringed", short(low), short(high)),
    )
}
