//! Does a metric tell checkpoints apart? Its range against the noise of one value.
//!
//! The noise is estimated from successive differences, σ̂² = Σ(mᵢ₊₁ − mᵢ)² / 2(K − 1), into which a trend hardly enters. Of
//! K ≥ 4 values it is said that they are not told apart if two tests agree at 5 %: the range is no more than noise would give
//! (studentised range), and von Neumann's ratio Σ(mᵢ₊₁ − mᵢ)² / Σ(mᵢ − m̄)², 2 for noise and small for a trend, shows no trend.
//! Equal steps are assumed. Range over σ̂ is the signal to noise ratio of benchmarks (arXiv 2508.13144), of one run's checkpoints.

use serde::Serialize;

/// So many values at least are needed to tell a trend from noise.
const LEAST: f64 = 4.0;

/// How values of a metric differ, over all and from one to the next.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Separation {
    /// How many were judged: those at checkpoints, or of a metric of the training the records between them.
    pub values: usize,
    /// The largest less the smallest.
    pub range: f64,
    /// σ̂ of one value.
    pub noise: f64,
    /// Range over noise.
    pub signal_to_noise: f64,
    /// Von Neumann's ratio.
    pub von_neumann: f64,
    /// Whether they are told apart; nothing is said of fewer than four.
    pub separates: Option<bool>,
}

impl Separation {
    /// None if all values are the same, which is said elsewhere, or differ beyond f64.
    pub(crate) fn of(values: &[f64]) -> Option<Self> {
        #[expect(clippy::cast_precision_loss, reason = "nobody has 2^53 checkpoints")]
        let count = values.len() as f64;
        let mean = values.iter().map(|value| value / count).sum::<f64>();
        let squares = |differences: &mut dyn Iterator<Item = f64>| differences.map(|it| it * it).sum::<f64>();
        let successive = squares(&mut values.windows(2).map(|pair| pair[1] - pair[0]));
        let about_mean = squares(&mut values.iter().map(|value| value - mean));
        let low = values.iter().copied().fold(f64::INFINITY, f64::min);
        let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let (range, noise) = (high - low, libm::sqrt(successive / (count - 1.0) / 2.0));
        let von_neumann = successive / about_mean;
        let is_sound = range > 0.0 && range.is_finite() && von_neumann.is_finite() && noise > 0.0;
        is_sound.then(|| Self {
            values: values.len(),
            range,
            noise,
            signal_to_noise: range / noise,
            von_neumann,
            separates: separates(count, range / noise, von_neumann),
        })
    }
}

fn separates(count: f64, signal_to_noise: f64, von_neumann: f64) -> Option<bool> {
    // 5 % point of von Neumann's ratio: its mean is 2, its variance 4(K − 2)/(K² − 1)
    let point = 2.0 - 1.645 * 2.0 * libm::sqrt((count - 2.0) / (count * count - 1.0));
    (count >= LEAST).then(|| signal_to_noise >= studentised_range(count) || von_neumann <= point)
}

/// 95 % point of range/σ̂ of K values that are noise, σ̂ from successive differences (simulated, 200,000 each); between the
/// rows on a line.
fn studentised_range(count: f64) -> f64 {
    const POINTS: [(f64, f64); 7] =
        [(4.0, 3.52), (5.0, 3.85), (7.0, 4.20), (10.0, 4.47), (20.0, 4.96), (30.0, 5.24), (50.0, 5.58)];
    let after = POINTS.iter().position(|(at, _)| *at >= count).unwrap_or(POINTS.len() - 1).max(1);
    let ((a, low), (b, high)) = (POINTS[after - 1], POINTS[after]);
    low + (high - low) * ((count - a) / (b - a)).clamp(0.0, 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_that_are_all_the_same_have_no_spread() {
        assert!(Separation::of(&[0.5; 6]).is_none() && Separation::of(&[0.5]).is_none());
        assert!(Separation::of(&[f64::MAX, -f64::MAX, f64::MAX]).is_none());
        let found = Separation::of(&[1.0, 3.0, 2.0]).unwrap();
        assert_eq!((found.values, found.range, found.von_neumann, found.separates), (3, 2.0, 2.5, None));
        assert_eq!(found.noise, libm::sqrt(1.25));
    }

    /// As scores.py of the project's oracles prints them.
    #[test]
    fn the_sample_run_separates_and_white_noise_does_not() {
        let sample = [1.0110, 1.0076, 0.85049, 0.85457, 0.84715, 0.90129, 0.83549, 0.79626, 0.81481, 0.77060];
        let found = Separation::of(&sample).unwrap();
        let near = |a: f64, b: f64| (a - b).abs() < 5e-5;
        assert!(near(found.range, 0.24040) && near(found.noise, 0.04464), "{found:?}");
        assert!(near(found.signal_to_noise, 5.3856) && near(found.von_neumann, 0.5930), "{found:?}");
        assert_eq!(found.separates, Some(true));
        let white = [0.81, 0.79, 0.80, 0.82, 0.78, 0.80, 0.81, 0.79, 0.80, 0.80];
        let found = Separation::of(&white).unwrap();
        assert!(
            (found.signal_to_noise - 2.87).abs() < 0.01 && (found.von_neumann - 2.92).abs() < 0.01,
            "{found:?}"
        );
        assert_eq!(found.separates, Some(false));
    }

    #[test]
    fn noise_is_what_has_neither_range_nor_trend() {
        // at ten values the points are 4.47 and 1.0647
        let ten = |signal, ratio| separates(10.0, signal, ratio);
        assert_eq!(ten(4.4, 1.066), Some(false));
        assert_eq!((ten(4.5, 1.066), ten(4.4, 1.063)), (Some(true), Some(true)));
        // at four they are 3.52 and 0.7988; fewer say nothing
        assert_eq!((separates(4.0, 3.5, 0.81), separates(3.0, 3.5, 0.81)), (Some(false), None));
    }

    #[test]
    fn the_studentised_range_lies_on_lines_between_its_points() {
        for (count, point) in
            [(3.0, 3.52), (4.0, 3.52), (5.0, 3.85), (6.0, 4.025), (15.0, 4.715), (40.0, 5.41), (80.0, 5.58)]
        {
            assert!(
                (studentised_range(count) - point).abs() < 1e-12,
                "{count}: {}",
                studentised_range(count)
            );
        }
    }
}
