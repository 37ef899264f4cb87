//! Whether the learning rate was held over some checkpoints of a run, or fell.

use crate::logs::history::History;

/// From this share of its peak on, a rate at the end of a window counts as held: as many checkpoints are averaged as at a
/// constant one.
const HELD: f64 = 0.5;
/// Up to this share, the checkpoints hardly differ by chance any more, and a merge hardly helps.
const SMALL: f64 = 0.2;
/// A rate that never leaves this share of its peak is called constant.
const CONSTANT: f64 = 0.99;

/// The learning rate over a window of steps, as the log has it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Schedule {
    /// The first step of the window.
    pub(crate) from: u64,
    /// The last step of the window.
    pub(crate) to: u64,
    /// The rate at its end, as a share of its peak within.
    pub(crate) share: f64,
    /// The lowest rate within, as a share of the peak.
    lowest: f64,
}

impl Schedule {
    /// The rate over the checkpoints at `steps`, which rise; none where the log does not tell: no learning rate is logged, it
    /// is not one number, or its records do not reach from the first checkpoints to the last.
    pub(crate) fn read(history: &History, steps: &[u64]) -> Option<Self> {
        let [from, second, ..] = *steps else { return None };
        let [.., before, to] = *steps else { return None };
        let logged = history.learning_rate(steps)?;
        let within = logged.iter().filter(|(step, rate)| (from..=to).contains(step) && rate.is_finite());
        let (first, (last, end)) = (within.clone().next()?.0, *within.clone().next_back()?);
        let rates = within.map(|(_, rate)| *rate);
        let (lowest, peak) = (rates.clone().fold(f64::INFINITY, f64::min), rates.fold(0.0, f64::max));
        let is_covered = first <= second && last > before;
        (is_covered && peak > 0.0 && lowest >= 0.0).then(|| Self {
            from,
            to,
            share: end / peak,
            lowest: lowest / peak,
        })
    }

    /// Whether checkpoints are as far apart at the end of the window as they were within.
    pub(crate) fn is_held(self) -> bool {
        self.share >= HELD
    }

    /// Whether so little is left of the rate that a merge will hardly help.
    pub(crate) fn is_small(self) -> bool {
        self.share <= SMALL
    }

    /// Whether it is one rate from the first step to the last.
    pub(crate) fn is_constant(self) -> bool {
        self.lowest >= CONSTANT
    }
}

#[cfg(test)]
mod tests {
    use alloc::format;
    use alloc::string::String;
    use alloc::vec::Vec;

    use super::*;
    use crate::logs::trainer::TrainerState;

    const STEPS: [u64; 5] = [60, 70, 80, 90, 100];

    /// A run of 100 steps that logs its rate every five.
    fn schedule(rate: impl Fn(f64) -> f64) -> Option<Schedule> {
        logged(|step| format!(r#""learning_rate": {}"#, rate(f64::from(step) / 100.0)))
    }

    fn logged(rate: impl Fn(u32) -> String) -> Option<Schedule> {
        let records: Vec<_> =
            (1..=20).map(|i| format!(r#"{{"step": {}, {}}}"#, 5 * i, rate(5 * i))).collect();
        let text = format!(r#"{{"global_step": 100, "log_history": [{}]}}"#, records.join(", "));
        Schedule::read(&History::new([TrainerState::parse(&text).unwrap()]), &STEPS)
    }

    #[test]
    fn a_constant_rate_is_held() {
        let constant = schedule(|_| 2e-3).unwrap();
        assert!(constant.is_held() && constant.is_constant() && !constant.is_small());
        let warm = schedule(|t| f64::min(t * 10.0, 1.0)).unwrap();
        assert!(warm.is_constant(), "the warmup is before the window: {warm:?}");
    }

    #[test]
    fn decay_to_zero_is_seen_whatever_its_shape() {
        let stable = |t: f64| if t < 0.8 { 1.0 } else { 5.0 * (1.0 - t) };
        for rate in [|t: f64| 1.0 - t, |t: f64| (1.0 - t) * (1.0 - t), stable] {
            let decayed = schedule(rate).unwrap();
            assert!(!decayed.is_held() && decayed.is_small(), "{decayed:?}");
            assert_eq!((decayed.from, decayed.to), (60, 100));
        }
    }

    #[test]
    fn a_rate_that_fell_a_little_is_neither_constant_nor_decayed() {
        // 1/√t, and a linear decay that was stopped halfway
        for rate in [|t: f64| 1.0 / libm::sqrt(t), |t: f64| 1.0 - t / 2.0] {
            let schedule = schedule(rate).unwrap();
            assert!(schedule.is_held() && !schedule.is_constant() && !schedule.is_small(), "{schedule:?}");
        }
    }

    #[test]
    fn a_plateau_that_cuts_the_rate_counts_by_how_much() {
        assert!(schedule(|t| if t < 0.75 { 1e-3 } else { 1e-4 }).unwrap().is_small());
        let halved = schedule(|t| if t < 0.75 { 1e-3 } else { 5e-4 }).unwrap();
        assert!(halved.is_held() && !halved.is_constant());
        assert!(schedule(|t| if t < 0.55 { 1e-3 } else { 1e-4 }).unwrap().is_constant());
    }

    #[test]
    fn restarts_count_by_where_they_end() {
        // cycles of 25 steps: the last ends with the run, or is cut off at a fifth of its way
        let to_the_end = schedule(|t| 1.0 - (t * 100.0 - 1.0) % 25.0 / 25.0).unwrap();
        assert!(to_the_end.is_small(), "{to_the_end:?}");
        let cut_off = schedule(|t| 1.0 - (t * 100.0 + 4.0) % 25.0 / 25.0).unwrap();
        assert!(cut_off.is_held() && !cut_off.is_constant(), "{cut_off:?}");
    }

    #[test]
    fn nothing_is_said_of_a_rate_that_the_log_does_not_tell() {
        assert_eq!(logged(|_| r#""loss": 1.0"#.into()), None);
        assert_eq!(logged(|_| r#""learning_rate": [1e-3, 1e-4]"#.into()), None, "one rate per group");
        assert_eq!(logged(|_| r#""learning_rate": NaN"#.into()), None);
        assert_eq!(logged(|_| r#""learning_rate": 0.0"#.into()), None);
        let early = |step| if step < 90 { r#""learning_rate": 1e-3"# } else { r#""loss": 1.0"# };
        assert_eq!(logged(|step| early(step).into()), None, "not logged to the end");
        let second = |step| if step <= 90 { r#""learning_rate": 1e-3"# } else { r#""loss": 1.0"# };
        assert_eq!(logged(|step| second(step).into()), None, "nothing is known of the last stretch");
        let late = |step| if step > 70 { r#""learning_rate": 1e-3"# } else { r#""loss": 1.0"# };
        assert_eq!(logged(|step| late(step).into()), None, "not logged from the start");
        assert!(logged(|_| r#""lr": 1e-3"#.into()).is_some(), "LLaMA-Factory's name");
        assert_eq!(Schedule::read(&History::new([]), &[5]), None);
    }
}
