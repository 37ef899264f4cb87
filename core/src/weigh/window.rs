//! How many of a run's checkpoints are merged when the user does not say, and why.
//!
//! Measured on 45 runs of nine tasks with 20 checkpoints each, as the mean over the tasks of what a merge gains over the
//! last checkpoint (points of accuracy, and the logarithm of the loss in percent), with `linear` and penalty 0.8:
//!
//! | choice | rate held | rate decayed |
//! |---|---|---|
//! | best ten by `eval_loss` | **+1.71, −34.1** | −0.19, +2.4 |
//! | best five by `eval_loss` | +1.55, −35.3 | **+0.07, +0.4** |
//! | last ten by `step` | **+1.63, −14.4** | −0.16, +2.1 |
//! | last five by `step` | +1.53, −9.9 | +0.01, +0.3 |
//! | last three, plain mean | +1.29, −8.2 | **+0.03, +0.2** |
//!
//! Where the log does not tell the rate, five are never bad. Runs of ten and of five checkpoints lose by being merged whole
//! (loss up to 16 % higher) and gain by their better half.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};
use crate::weigh::schedule::Schedule;

/// At most so many are taken, however many there are.
pub(crate) const MOST: usize = 10;
/// So many where the rate had decayed, or is not known.
const FEW: usize = 5;
/// So many of the newest where the rate had decayed: older ones are the worse the older.
const FEW_NEWEST: usize = 3;

/// A rule that says how many checkpoints are taken, by the learning rate and by how many there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pick {
    /// Those with the best metric.
    Best,
    /// The newest.
    Last,
    /// Every one.
    All,
}

impl Pick {
    const EACH: [Self; 3] = [Self::Best, Self::Last, Self::All];

    /// The names of all rules.
    pub const NAMES: [&'static str; 3] = [Self::EACH[0].name(), Self::EACH[1].name(), Self::EACH[2].name()];

    /// The name in options and reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Best => "best",
            Self::Last => "last",
            Self::All => "all",
        }
    }

    /// How many of `count` checkpoints: at most half, rounded up, but at least two.
    pub(crate) fn of(self, count: usize, schedule: Option<Schedule>) -> usize {
        let most = match (self, schedule) {
            (Self::All, _) => return count,
            (_, Some(schedule)) if schedule.is_held() => MOST,
            (Self::Last, Some(_)) => FEW_NEWEST,
            _ => FEW,
        };
        most.min(half(count))
    }
}

/// Half of the checkpoints, rounded up, but at least two where there are two.
pub(crate) fn half(count: usize) -> usize {
    count.div_ceil(2).max(2).min(count)
}

impl FromStr for Pick {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::EACH.into_iter().find(|pick| pick.name() == name).ok_or_else(|| {
            Error::new(ErrorKind::Usage, format!("there is no rule of selection `{name}`"))
                .help("use best, last or all")
        })
    }
}

/// Which checkpoints were taken, and why.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Selected {
    /// `best` or `last` by a rule; `all`; `given`: as the user selected or listed them.
    pub rule: String,
    /// How many were taken.
    pub taken: usize,
    /// Of how many that were found.
    pub found: usize,
    /// All of it in words, and why: "the best 10 of 20 checkpoints by eval_loss (the learning rate was held)".
    pub line: String,
}

/// What decided how many.
pub(crate) struct Reasons<'a> {
    /// How many could be taken.
    pub(crate) count: usize,
    pub(crate) schedule: Option<Schedule>,
    /// The metric of the best.
    pub(crate) metric: Option<&'a str>,
    /// Why the newest are taken rather than the best.
    pub(crate) why_last: Option<String>,
    /// Of how many runs they are.
    pub(crate) runs: usize,
}

impl Selected {
    /// By a rule.
    pub(crate) fn ruled(pick: Pick, taken: usize, found: usize, why: Reasons<'_>) -> Self {
        let mut reasons = Vec::new();
        reasons.extend(why.why_last);
        reasons.push(match why.schedule {
            Some(schedule) if schedule.is_constant() => "the learning rate was held".into(),
            Some(schedule) if schedule.is_held() => {
                format!("the learning rate ends at {} of its peak there", share(schedule.share))
            }
            Some(schedule) => format!("the learning rate fell to {} of its peak", share(schedule.share)),
            None => "how the learning rate went is not known".into(),
        });
        if taken < found && pick.of(why.count, why.schedule) < pick.of(2 * MOST, why.schedule) {
            reasons.push("at most half are taken".into());
        }
        if pick == Pick::Last && why.runs > 1 {
            reasons.push(format!("the newest of each of {} runs", why.runs));
        }
        let (name, by) = (pick.name(), why.metric.map_or_else(String::new, |metric| format!(" by {metric}")));
        let reason = reasons.join("; ");
        let line = match (taken, found) {
            (_, 1) => "the only checkpoint".into(),
            (1, _) => format!("the {name} of {found} checkpoints{by} ({reason})"),
            _ => format!("the {name} {taken} of {found} checkpoints{by} ({reason})"),
        };
        Self { rule: name.into(), taken, found, line }
    }

    /// As the user selected or listed them; `best`: the metric by which the best of them were.
    pub(crate) fn given(taken: usize, found: usize, is_searched: bool, best: Option<&str>) -> Self {
        let reason = if is_searched { "as selected" } else { "as listed" };
        let line = match best {
            _ if found == 1 => "the only checkpoint".into(),
            Some(metric) => format!("the best {taken} of {found} checkpoints by {metric}, {reason}"),
            None if taken == found => format!("all {found} checkpoints, {reason}"),
            None => format!("{taken} of {found} checkpoints, {reason}"),
        };
        Self { rule: "given".into(), taken, found, line }
    }
}

/// A share of a rate in words: "46 %", "almost nothing".
pub(crate) fn share(share: f64) -> String {
    let percent = share * 100.0;
    if percent < 0.05 {
        "almost nothing".into()
    } else if percent < 9.95 {
        format!("{percent:.1} %")
    } else {
        format!("{percent:.0} %")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_a_run_but_at_least_two() {
        let halves: Vec<_> = [0, 1, 2, 3, 4, 5, 6, 10, 20].map(half).into();
        assert_eq!(halves, [0, 1, 2, 2, 2, 3, 3, 5, 10]);
    }

    #[test]
    fn five_or_three_where_the_rate_is_not_known_to_be_held() {
        assert_eq!((Pick::Best.of(20, None), Pick::Last.of(20, None), Pick::All.of(20, None)), (5, 5, 20));
        assert_eq!((Pick::Best.of(5, None), Pick::Best.of(3, None)), (3, 2));
    }

    #[test]
    fn shares_are_short() {
        assert_eq!(
            [1e-9, 0.001, 0.0984, 0.0996, 0.46].map(share).join(", "),
            "almost nothing, 0.1 %, 9.8 %, 10 %, 46 %"
        );
        assert_eq!([0.0005, 0.0995].map(share).join(", "), "0.1 %, 10 %", "what is just so much");
    }

    #[test]
    fn rules_go_by_their_names() {
        for pick in Pick::EACH {
            assert_eq!(pick.name().parse::<Pick>().unwrap(), pick);
        }
        let error = "first".parse::<Pick>().unwrap_err();
        assert_eq!(
            (error.detail(), error.advice()),
            ("there is no rule of selection `first`", Some("use best, last or all"))
        );
    }

    #[test]
    fn one_is_not_counted() {
        let line = |taken, found, count| {
            let why = Reasons { count, schedule: None, metric: Some("eval_f1"), why_last: None, runs: 1 };
            Selected::ruled(Pick::Best, taken, found, why).line
        };
        let unknown = "how the learning rate went is not known";
        assert_eq!(line(1, 1, 1), "the only checkpoint");
        assert_eq!(
            line(1, 6, 1),
            format!("the best of 6 checkpoints by eval_f1 ({unknown}; at most half are taken)")
        );
        assert_eq!(line(5, 12, 12), format!("the best 5 of 12 checkpoints by eval_f1 ({unknown})"));
    }
}
