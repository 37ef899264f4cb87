//! The picture of a search between two checkpoints, or over the plane through three.

use mwa::Goal;
use mwa::search::{Search, Trial};

use super::chart::{Axis, BESIDE, Panel, short};
use super::svg::Svg;

const WIDTH: f64 = 720.0;
const LEFT: f64 = 64.0 + BESIDE;
const RIGHT: f64 = WIDTH - 20.0 - BESIDE;
/// Top and bottom of the field.
const FIELD: (f64, f64) = (34.0, 334.0);
const BELOW: f64 = 70.0;
/// How far weights beyond the checkpoints are shown.
const NEAR: core::ops::RangeInclusive<f64> = -0.5..=1.5;

/// Draw it; `labels` are those of the checkpoints. None where there are not two or three of them.
pub(crate) fn picture(search: &Search, labels: &[&str]) -> Option<String> {
    let is_near = |trial: &&Trial| trial.weights.iter().skip(1).all(|weight| NEAR.contains(weight));
    let trials = search.trials().iter().filter(is_near);
    let scored: Vec<_> = trials.filter_map(|trial| Some((trial, trial.score()?))).collect();
    let best = search.best()?;
    match *labels {
        [older, newer] => Some(line(&scored, best, [older, newer])),
        [a, b, c] => Some(plane(&scored, best, search.goal(), [a, b, c])),
        _ => None,
    }
}

/// The score over the weight of the newer checkpoint.
fn line(scored: &[(&Trial, f64)], best: &Trial, [older, newer]: [&str; 2]) -> String {
    let mut svg = Svg::new(WIDTH, FIELD.1 + BELOW);
    let mut points: Vec<_> = scored.iter().map(|(trial, score)| (trial.weights[1], *score)).collect();
    points.sort_by(|a, b| a.0.total_cmp(&b.0));
    let x = Axis::new([*NEAR.start(), *NEAR.end()], (LEFT, RIGHT));
    let y = Axis::new(points.iter().map(|point| point.1), (FIELD.1, FIELD.0));
    let panel = Panel::new(&mut svg, "score", x, y, 5.0);
    for (weight, label) in [(0.0, older), (1.0, newer)] {
        svg.line("rule", (x.at(weight), FIELD.0), (x.at(weight), FIELD.1));
        svg.text("ink middle", (x.at(weight), FIELD.1 + 56.0), label);
    }
    panel.curve(&mut svg, "curve", &points);
    for point in &points {
        let class = if point.0 == best.weights[1] { "chosen" } else { "mark" };
        svg.dot(class, panel.at(*point), 4.0, &format!("{}: {}", short(point.0), short(point.1)));
    }
    panel.numbers(&mut svg, "weight of the newer checkpoint", 8.0);
    svg.finish("the score between two checkpoints and beyond them")
}

/// Dots over the plane, larger where the score is better; the checkpoints are the corners of a triangle of equal sides.
fn plane(scored: &[(&Trial, f64)], best: &Trial, goal: Goal, labels: [&str; 3]) -> String {
    /// A side of the triangle.
    const SIDE: f64 = 190.0;
    const HEIGHT: f64 = 420.0;
    /// The radius of the worst and the best.
    const RADII: (f64, f64) = (1.5, 9.5);
    let mut svg = Svg::new(WIDTH, HEIGHT);
    let place = |weights: &[f64]| {
        let (second, third) = (weights[1], weights[2]);
        let right = second + third / 2.0;
        (WIDTH / 2.0 - SIDE / 2.0 - 40.0 + SIDE * right, HEIGHT - 120.0 - SIDE * 0.866 * third)
    };
    // upside down where lower is better
    let radii = if goal == Goal::Max { RADII } else { (RADII.1, RADII.0) };
    let radius = Axis::new(scored.iter().map(|(_, score)| *score), radii);
    svg.text("ink title", (LEFT - BESIDE, 24.0), "score: the larger the better");
    for (trial, score) in scored {
        let class = if trial.weights == best.weights { "chosen" } else { "mark" };
        let radius = (radius.at(*score) * 10.0).round() / 10.0;
        svg.dot(class, place(&trial.weights), radius, &format!("{}: {}", trial.by, short(*score)));
    }
    let corners = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]];
    let around = corners.iter().chain([&corners[0]]).map(|corner| Some(place(corner)));
    svg.path("axis", around);
    for (corner, label) in corners.iter().zip(labels) {
        let (x, y) = place(corner);
        svg.text("ink middle", (x, if corner[2] == 1.0 { y - 14.0 } else { y + 24.0 }), label);
    }
    svg.finish("the score over the plane through three checkpoints")
}

#[cfg(test)]
mod tests {
    use super::*;
    use mwa::search::Ground;

    fn drawn(method: &str, count: usize, score: fn(&[f64]) -> f64, labels: &[&str]) -> Option<String> {
        let mut search = Search::new(method.parse().unwrap(), Ground::bare(count), 30, Goal::Min, 0).unwrap();
        loop {
            let open = search.ask();
            if open.is_empty() {
                return picture(&search, labels);
            }
            for number in open {
                let score = score(&search.trial(number).weights);
                search.tell(number, Some(score));
            }
        }
    }

    #[test]
    fn every_trial_is_a_dot_and_the_best_is_marked() {
        let score = |weights: &[f64]| (weights[1] - 0.5).abs() + weights[0].abs();
        for (method, labels) in [("line", &["old<", "new"][..]), ("plane", &["a", "b", "c<"])] {
            let file = drawn(method, labels.len(), score, labels).unwrap();
            assert!(file.matches("<circle").count() > 10, "{method}");
            assert_eq!(file.matches("class=\"chosen\"").count(), 1, "{method}");
            assert!(file.contains("&lt;</text>"), "{method}");
        }
        assert_eq!(drawn("lcsc", 4, |_| 1.0, &["a", "b", "c", "d"]), None);
    }
}
