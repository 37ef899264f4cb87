//! Weights that stand for a schedule: a decay of the learning rate that was never run, and a moving average.
//!
//! Checkpoints θ₀ … θₖ that were saved at a constant rate, weighed by c ≥ 0 with Σc = 1, are θ₀ and what each later update
//! did, the j-th scaled by wⱼ = Σᵢ≥ⱼ cᵢ. So a decay 1 ≥ w₁ ≥ … ≥ wₖ ≥ 0 that is wanted of the updates is, to the digit,
//!
//! c₀ = 1 − w₁,   cⱼ = wⱼ − wⱼ₊₁,   cₖ = wₖ
//!
//! (Warmup-Stable-Merge, arXiv 2507.17634; the curves and [`Positions::Megatron`] as in Megatron-LM's merging tool.) It is a
//! decay in spirit only: each update was computed at weights that had not decayed.
//!
//! Where the rate had fallen by itself, only what is missing is taken off (derived here): wⱼ = min(1, (Dⱼ / D₀) / (ηⱼ / η₀)),
//! and never more than for an earlier update; η is what the log says, D the curve.
//!
//! All in f64 with `libm`.

use alloc::string::{String, ToString as _};
use alloc::vec::Vec;
use core::f64::consts::PI;

use crate::error::{Error, ErrorKind, Result};
use crate::logs::history::History;
use crate::logs::series::Series;
use crate::text::words::words;
use crate::weigh::schedule::Schedule;

/// What the curves that have no end without one end at.
const FLOOR: f64 = 0.1;
/// How much of a moving average is kept at each checkpoint, unless that is said.
const KEPT: f64 = 0.7;

words! {
    /// The curve of a decay over x from 0 to 1, from 1 to the floor r.
    Curve {
        /// r + (1 − r)(1 − x).
        #[default]
        Linear = "linear",
        /// r + (1 − r)(1 + cos πx)/2.
        Cosine = "cosine",
        /// r + (1 − r)(1 − √x).
        OneMinusSqrt = "1-sqrt",
        /// 1 / (x/r + 1 − x).
        Inverse = "inverse",
        /// r^x.
        Exponential = "exponential",
    }
}

words! {
    /// Where on the curve the updates between two checkpoints lie.
    Positions {
        /// The mean of the curve between their steps; it ends at the last checkpoint.
        #[default]
        Segments = "segments",
        /// The curve at j / K of K checkpoints, whatever their steps; it would end one checkpoint after the last.
        Megatron = "megatron",
    }
}

words! {
    /// What a moving average counts.
    Per {
        /// Each checkpoint.
        #[default]
        Checkpoint = "checkpoint",
        /// Each step of the training.
        Step = "step",
    }
}

/// What is said of a decay or a moving average beside its checkpoints; what is not said has a default.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Averaging {
    /// The curve of a decay.
    pub curve: Option<Curve>,
    /// What it ends at, as a share of where it begins.
    pub floor: Option<f64>,
    /// Where the updates lie on it.
    pub positions: Option<Positions>,
    /// Take off what the learning rate had fallen by itself.
    pub correct_for_lr: bool,
    /// How much of a moving average is kept at each checkpoint, or at each step.
    pub ema_decay: Option<f64>,
    /// Which of the two.
    pub ema_per: Option<Per>,
}

/// The checkpoints of one run, oldest first, and its learning rate at each as far as a decay is corrected for it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Course {
    /// How many there are.
    pub(crate) count: usize,
    /// Their steps, if they are known and rise.
    pub(crate) steps: Option<Vec<u64>>,
    /// η of the module's head.
    pub(crate) rates: Option<Vec<f64>>,
}

impl Averaging {
    /// Settings of a scheme that were said of another.
    pub(crate) fn check(&self, scheme: &str) -> Result<()> {
        let decay = [
            ("curve", self.curve.is_some()),
            ("floor", self.floor.is_some()),
            ("positions", self.positions.is_some()),
            ("correct_for_lr", self.correct_for_lr),
        ];
        let ema = [("ema_decay", self.ema_decay.is_some()), ("ema_per", self.ema_per.is_some())];
        let of = decay.map(|it| ("decay", it)).into_iter().chain(ema.map(|it| ("ema", it)));
        for (owner, (name, is_said)) in of {
            if is_said && owner != scheme {
                let detail = alloc::format!("option {name} is for the {owner} scheme, not for {scheme}");
                return Err(Error::new(ErrorKind::Usage, detail)
                    .help(alloc::format!("choose scheme {owner} too, or leave {name} out")));
            }
        }
        if scheme == "ema" && self.ema_per == Some(Per::Step) && self.ema_decay.is_none() {
            return Err(Error::new(ErrorKind::Usage, "how much the average keeps at each step is not said")
                .help("give --ema-decay too, such as 0.99: what is left after 100 steps is 0.99 to their power, 0.37"));
        }
        Ok(())
    }

    /// What the report says of a scheme's settings, by their names; nothing of a scheme that has none.
    pub(crate) fn settings(&self, scheme: &str) -> Vec<(String, String)> {
        let said = |name: &str, text: &str| (name.to_string(), text.to_string());
        match scheme {
            "decay" => {
                let mut settings = Vec::from([
                    said("curve", self.curve().name()),
                    said("floor", &self.floor().to_string()),
                    said("positions", self.positions().name()),
                ]);
                settings.extend(self.correct_for_lr.then(|| said("correct_for_lr", "true")));
                settings
            }
            "ema" => Vec::from([
                said("ema_decay", &self.kept().to_string()),
                said("ema_per", self.ema_per.unwrap_or_default().name()),
            ]),
            _ => Vec::new(),
        }
    }

    fn curve(&self) -> Curve {
        self.curve.unwrap_or_default()
    }

    fn positions(&self) -> Positions {
        self.positions.unwrap_or_default()
    }

    fn floor(&self) -> f64 {
        let usual = if matches!(self.curve(), Curve::Inverse | Curve::Exponential) { FLOOR } else { 0.0 };
        self.floor.unwrap_or(usual)
    }

    fn kept(&self) -> f64 {
        self.ema_decay.unwrap_or(KEPT)
    }

    /// The weights of a decay, oldest first.
    pub(crate) fn decay(&self, course: &Course) -> Result<Vec<f64>> {
        Ok(differences(&self.updates(course)?))
    }

    /// w₁ … wₖ of a decay.
    fn updates(&self, course: &Course) -> Result<Vec<f64>> {
        let (curve, floor) = (self.curve(), self.floor());
        if matches!(curve, Curve::Inverse | Curve::Exponential) && floor <= 0.0 {
            let detail = alloc::format!("the {} curve never reaches 0", curve.name());
            return Err(Error::new(ErrorKind::Weights, detail).help("give it a floor above 0, such as 0.1"));
        }
        let mut updates: Vec<f64> = match self.positions() {
            #[expect(clippy::cast_precision_loss, reason = "nobody has 2^53 checkpoints")]
            Positions::Megatron => {
                (1..course.count).map(|j| curve.at(j as f64 / course.count as f64, floor)).collect()
            }
            Positions::Segments => {
                let steps = course.known_steps("positions of segments", "--positions megatron")?;
                let (first, last) = (steps[0], steps[steps.len() - 1]);
                #[expect(clippy::cast_precision_loss, reason = "nobody trains 2^53 steps")]
                let place = |step: u64| (step - first) as f64 / (last - first) as f64;
                let mean = |a: f64, b: f64| (curve.area(b, floor) - curve.area(a, floor)) / (b - a);
                steps.windows(2).map(|pair| mean(place(pair[0]), place(pair[1]))).collect()
            }
        };
        if let Some(rates) = &course.rates {
            for (update, rate) in updates.iter_mut().zip(&rates[1..]) {
                let share = rate / rates[0];
                *update = if share > 0.0 { f64::min(1.0, *update / share) } else { 1.0 };
            }
        }
        let mut before = 1.0;
        for update in &mut updates {
            before = f64::min(before, *update);
            *update = before;
        }
        Ok(updates)
    }

    /// The weights of a moving average that begins at the oldest: what it keeps of it, and of each later one the rest.
    pub(crate) fn ema(&self, course: &Course) -> Result<Vec<f64>> {
        let kept: Vec<f64> = match self.ema_per.unwrap_or_default() {
            Per::Checkpoint => (1..course.count).map(|_| self.kept()).collect(),
            Per::Step => {
                let steps = course.known_steps("an average per step", "--ema-per checkpoint")?;
                #[expect(clippy::cast_precision_loss, reason = "nobody trains 2^53 steps")]
                let kept = |pair: &[u64]| libm::pow(self.kept(), (pair[1] - pair[0]) as f64);
                steps.windows(2).map(kept).collect()
            }
        };
        let mut rest = 1.0;
        let mut weights = Vec::with_capacity(course.count);
        for kept in kept.iter().rev() {
            weights.push((1.0 - kept) * rest);
            rest *= kept;
        }
        weights.push(rest);
        weights.reverse();
        Ok(weights)
    }

    /// η of the module's head over these steps, at the checkpoints or between them, as the positions are.
    ///
    /// # Errors
    /// [`ErrorKind::Metric`] where the log does not tell.
    pub(crate) fn rates(&self, history: &History, steps: &[u64]) -> Result<Vec<f64>> {
        let told = Schedule::read(history, steps).and_then(|_| history.learning_rate(steps));
        let unknown = || {
            let detail = "the log does not tell the learning rate from the first of these checkpoints to the last, \
                          so no decay can be corrected for it";
            Error::new(ErrorKind::Metric, detail)
                .help("leave out --correct-for-lr, or take checkpoints that it covers")
        };
        let series = told.ok_or_else(unknown)?;
        let mut rates = Vec::from([at(series, steps[0])]);
        for pair in steps.windows(2) {
            let within = series.iter().filter(|(step, _)| pair[0] < *step && *step <= pair[1]);
            let (mut sum, mut count) = (0.0, 0.0);
            within.for_each(|(_, rate)| {
                sum += rate;
                count += 1.0;
            });
            rates.push(match self.positions() {
                Positions::Segments if count > 0.0 => sum / count,
                _ => at(series, pair[1]),
            });
        }
        if rates.iter().all(|rate| rate.is_finite()) && rates[0] > 0.0 { Ok(rates) } else { Err(unknown()) }
    }
}

impl Course {
    /// The steps, of two checkpoints or more.
    fn known_steps(&self, what: &str, instead: &str) -> Result<&[u64]> {
        match &self.steps {
            Some(steps) => Ok(steps),
            None if self.count < 2 => Ok(&[0]),
            None => {
                let detail =
                    alloc::format!("{what} needs the step of every checkpoint, all of one run and each once");
                Err(Error::new(ErrorKind::Weights, detail).help(alloc::format!(
                    "name checkpoints of one run that have steps, or go by their order alone: {instead}"
                )))
            }
        }
    }
}

impl Curve {
    fn at(self, x: f64, r: f64) -> f64 {
        let above = |share: f64| r + (1.0 - r) * share;
        match self {
            Self::Linear => above(1.0 - x),
            Self::Cosine => above(0.5 * (1.0 + libm::cos(PI * x))),
            Self::OneMinusSqrt => above(1.0 - libm::sqrt(x)),
            Self::Inverse => 1.0 / (x / r + (1.0 - x)),
            Self::Exponential => libm::pow(r, x),
        }
    }

    /// ∫ from 0 to x.
    fn area(self, x: f64, r: f64) -> f64 {
        let above = |area: f64| r * x + (1.0 - r) * area;
        match self {
            _ if r == 1.0 => x,
            Self::Linear => above(x - x * x / 2.0),
            Self::Cosine => above(0.5 * (x + libm::sin(PI * x) / PI)),
            Self::OneMinusSqrt => above(x - x * libm::sqrt(x) * (2.0 / 3.0)),
            Self::Inverse => {
                let steep = 1.0 / r - 1.0;
                libm::log1p(steep * x) / steep
            }
            Self::Exponential => {
                let rate = libm::log(r);
                libm::expm1(rate * x) / rate
            }
        }
    }
}

/// c of w.
fn differences(updates: &[f64]) -> Vec<f64> {
    let ends = || core::iter::once(1.0).chain(updates.iter().copied());
    let mut weights: Vec<f64> = ends().zip(updates).map(|(before, after)| before - after).collect();
    weights.extend(ends().last());
    weights
}

/// w of c: for each checkpoint the share of the updates before it, since the one before, that is left; of the oldest 1.
pub(crate) fn shares(weights: &[f64]) -> Vec<f64> {
    let mut left = 0.0;
    let mut shares: Vec<f64> = weights
        .iter()
        .rev()
        .map(|weight| {
            left += weight;
            left
        })
        .collect();
    shares.reverse();
    if let Some(oldest) = shares.first_mut() {
        *oldest = 1.0;
    }
    shares
}

/// What a series says at a step, on the line between two records.
fn at(series: &Series, step: u64) -> f64 {
    let after = series.partition_point(|(at, _)| *at < step);
    match (after.checked_sub(1).map(|before| series[before]), series.get(after).copied()) {
        (_, Some((at, value))) if at == step => value,
        #[expect(clippy::cast_precision_loss, reason = "nobody trains 2^53 steps")]
        (Some((from, a)), Some((to, b))) => a + (b - a) * ((step - from) as f64 / (to - from) as f64),
        (Some((_, value)), None) | (None, Some((_, value))) => value,
        (None, None) => f64::NAN,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As weights.py of the project's oracles prints them, to ten digits.
    fn assert_are(weights: &[f64], expected: &[f64]) {
        assert_eq!(weights.len(), expected.len());
        for (weight, expected) in weights.iter().zip(expected) {
            assert!((weight - expected).abs() < 1e-10, "{weights:?}");
        }
        assert!((weights.iter().sum::<f64>() - 1.0).abs() < 1e-15, "{weights:?}");
    }

    fn order(count: usize) -> Course {
        Course { count, ..Course::default() }
    }

    fn over(steps: &[u64]) -> Course {
        Course { count: steps.len(), steps: Some(steps.to_vec()), rates: None }
    }

    fn decay(curve: &str, positions: Positions) -> Averaging {
        let curve = Some(curve.parse().unwrap());
        Averaging { curve, positions: Some(positions), ..Averaging::default() }
    }

    #[test]
    fn curves_at_megatrons_positions() {
        for (curve, expected) in [
            ("linear", [0.2; 5]),
            ("cosine", [0.0954915028, 0.25, 0.3090169944, 0.25, 0.0954915028]),
            ("1-sqrt", [0.4472135955, 0.1852419365, 0.1421411372, 0.1198305218, 0.1055728090]),
            ("inverse", [0.6428571429, 0.1397515528, 0.0611413043, 0.0342987805, 0.1219512195]),
            ("exponential", [0.3690426555, 0.2328501739, 0.1469185274, 0.0926993239, 0.1584893192]),
        ] {
            assert_are(&decay(curve, Positions::Megatron).decay(&order(5)).unwrap(), &expected);
        }
        // Megatron's own tests
        let four = [0.5, 0.2071067812, 0.1589186226, 0.1339745962];
        assert_are(&decay("1-sqrt", Positions::Megatron).decay(&order(4)).unwrap(), &four);
    }

    #[test]
    fn segments_go_by_the_steps() {
        let linear = decay("linear", Positions::Segments);
        assert_are(
            &linear.decay(&over(&[100, 200, 300, 400, 500])).unwrap(),
            &[0.125, 0.25, 0.25, 0.25, 0.125],
        );
        assert_are(&linear.decay(&over(&[0, 100, 300, 400])).unwrap(), &[0.125, 0.375, 0.375, 0.125]);
        // against a midpoint rule of 2,000 points, as the oracle has it
        for curve in Curve::NAMES {
            let averaging = decay(curve, Positions::Segments);
            let (curve, floor) = (averaging.curve(), averaging.floor());
            for (a, b) in [(0.0, 0.25), (0.25, 0.5), (0.5, 1.0)] {
                let points = (0..2000).map(|i| curve.at(a + (b - a) * (f64::from(i) + 0.5) / 2000.0, floor));
                let (mean, rule) =
                    ((curve.area(b, floor) - curve.area(a, floor)) / (b - a), points.sum::<f64>() / 2000.0);
                assert!((mean - rule).abs() < 5e-6, "{curve:?} {a}: {mean} {rule}");
            }
        }
        let error = linear.decay(&order(3)).unwrap_err();
        assert!(error.advice().unwrap().ends_with("--positions megatron"), "{error}");
    }

    #[test]
    fn a_floor_is_where_the_curve_ends() {
        for curve in Curve::NAMES {
            let averaging = Averaging { floor: Some(0.3), ..decay(curve, Positions::Segments) };
            assert!(
                (averaging.curve().at(1.0, 0.3) - 0.3).abs() < 1e-15 && averaging.curve().at(0.0, 0.3) == 1.0
            );
            let weights = averaging.decay(&over(&[10, 20, 30])).unwrap();
            assert!(weights[2] >= 0.3, "the newest keeps what is left: {weights:?}");
            // nothing decays: the last checkpoint
            let flat = Averaging { floor: Some(1.0), ..averaging };
            assert_eq!(flat.decay(&over(&[10, 20, 40])).unwrap(), [0.0, 0.0, 1.0], "{curve}");
        }
        for curve in ["inverse", "exponential"] {
            let none = Averaging { floor: Some(0.0), ..decay(curve, Positions::Megatron) };
            assert!(none.decay(&order(3)).unwrap_err().to_string().ends_with("curve never reaches 0"));
        }
    }

    #[test]
    fn a_decay_of_one_is_that_one() {
        for positions in [Positions::Segments, Positions::Megatron] {
            assert_eq!(decay("cosine", positions).decay(&order(1)).unwrap(), [1.0]);
        }
        assert_eq!(Averaging::default().ema(&order(1)).unwrap(), [1.0]);
    }

    #[test]
    fn what_the_rate_fell_by_itself_is_taken_off() {
        let rates = Some([1.0, 0.8, 0.6, 0.4, 0.2].into());
        let course = Course { rates, ..order(5) };
        let wanted = decay("1-sqrt", Positions::Megatron);
        assert_are(
            &wanted.updates(&course).map(|w| differences(&w)).unwrap(),
            &[0.3090169944, 0.0784088923, 0.0490657864, 0.0356442819, 0.527864045],
        );
        // the rate fell as is wanted, or more: nothing is left to decay
        let rates = Some([1.0, 0.7, 0.5, 0.2, 0.0].into());
        let course = Course { rates, ..order(5) };
        assert_eq!(decay("linear", Positions::Megatron).decay(&course).unwrap(), [0.0, 0.0, 0.0, 0.0, 1.0]);
    }

    #[test]
    fn moving_averages_begin_at_the_oldest() {
        let ema = |kept, per| Averaging { ema_decay: Some(kept), ema_per: Some(per), ..Averaging::default() };
        assert_are(&ema(0.5, Per::Checkpoint).ema(&order(4)).unwrap(), &[0.125, 0.125, 0.25, 0.5]);
        assert_are(&ema(0.9, Per::Checkpoint).ema(&order(4)).unwrap(), &[0.729, 0.081, 0.09, 0.1]);
        // two steps keep the square
        assert_are(&ema(0.9, Per::Step).ema(&over(&[1, 2, 4])).unwrap(), &[0.729, 0.081, 0.19]);
        assert!(ema(0.9, Per::Step).ema(&order(2)).is_err());
    }

    #[test]
    fn shares_of_updates_are_the_decay_again() {
        let weights = decay("cosine", Positions::Megatron).decay(&order(4)).unwrap();
        let shares = shares(&weights);
        assert_eq!(shares[0], 1.0);
        for (j, share) in shares.iter().enumerate().skip(1) {
            #[expect(clippy::cast_precision_loss, reason = "four")]
            let wanted = Curve::Cosine.at(j as f64 / 4.0, 0.0);
            assert!((share - wanted).abs() < 1e-15);
        }
    }

    #[test]
    fn settings_of_another_scheme_are_refused() {
        let curve = Averaging { curve: Some(Curve::Cosine), ..Averaging::default() };
        assert!(curve.check("decay").is_ok());
        assert_eq!(
            curve.check("linear").unwrap_err().to_string(),
            "option curve is for the decay scheme, not for linear"
        );
        let step = Averaging { ema_per: Some(Per::Step), ..Averaging::default() };
        assert!(
            step.check("decay").is_err()
                && step.check("ema").unwrap_err().advice().unwrap().contains("--ema-decay")
        );
    }

    #[test]
    fn rates_lie_between_records() {
        let series = [(10, 1.0), (20, 0.5), (30, 0.25)];
        let read = [5, 10, 15, 30, 40].map(|step| at(&series, step));
        assert_eq!(read, [1.0, 1.0, 0.75, 0.25, 0.25]);
    }
}
