//! Tell from the training log whether a run had diverged when a checkpoint was saved.
//!
//! The transformers Trainer leaves NaN losses out of the mean that it logs (`logging_nan_inf_filter`), so a
//! diverged run logs a loss that is too low, then exactly 0: it looks like the best. The evidence, per
//! training record: a loss of exactly 0, a loss that is not finite, or a `grad_norm` that is not finite.
//! Weights that are NaN stay NaN, so what follows such a record is bad until a record shows a loss and a
//! `grad_norm` that weights with NaN cannot have.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use crate::logs::series::{Log, origin, value_at};

/// One training record: what it says about the checkpoints in its steps, `from` < step ≤ `to`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Record {
    from: u64,
    pub(crate) to: u64,
    trouble: Option<Trouble>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Trouble {
    /// The step of the record with the evidence, which may be an earlier one.
    step: u64,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    ZeroLoss,
    Loss(f64),
    GradNorm(f64),
}

/// The training records of a log, in the order of steps.
pub(crate) fn records(log: &Log) -> Vec<Record> {
    let series = |name: &str| log.get(name).unwrap_or_default();
    let at = |name: &str, step: u64| value_at(series(name), step);
    let mut steps: Vec<u64> =
        [series("loss"), series("grad_norm")].concat().iter().map(|(step, _)| *step).collect();
    steps.sort_unstable();
    steps.dedup();
    let mut from = origin(&steps);
    let mut carried: Option<Trouble> = None;
    let mut records = Vec::with_capacity(steps.len());
    for step in steps {
        let (loss, grad_norm) = (at("loss", step), at("grad_norm", step));
        let kind = match (loss, grad_norm) {
            (_, Some(norm)) if !norm.is_finite() => Some(Kind::GradNorm(norm)),
            (Some(loss), _) if !loss.is_finite() => Some(Kind::Loss(loss)),
            (Some(0.0), norm) if !is_true_zero(norm, at("reward", step)) => Some(Kind::ZeroLoss),
            _ => None,
        };
        carried = match (kind, carried) {
            (Some(kind), _) => Some(Trouble { step, kind }),
            (None, Some(trouble)) if !shows_recovery(trouble.kind, loss, grad_norm) => Some(trouble),
            (None, _) => None,
        };
        records.push(Record { from, to: step, trouble: carried });
        from = step;
    }
    records
}

/// Why the checkpoint at `step` is bad, if it is.
pub(crate) fn diverged(records: &[Record], step: u64) -> Option<String> {
    let index = records.partition_point(|record| record.to < step);
    let Some(record) = records.get(index) else {
        return records.last()?.trouble.map(|trouble| trouble.text(step));
    };
    if step <= record.from {
        return None;
    }
    // A record of exactly 0 had NaN at every step, the first included: that one ran on the weights saved
    // before it.
    let next = records.get(index + 1).filter(|next| next.from == step).and_then(|next| next.trouble);
    let next = next.filter(|trouble| trouble.kind == Kind::ZeroLoss && trouble.step > step);
    record.trouble.or(next).map(|trouble| trouble.text(step))
}

impl Record {
    /// Whether the values in this record may be used.
    pub(crate) fn is_good(&self) -> bool {
        self.trouble.is_none()
    }
}

impl Trouble {
    fn text(self, checkpoint: u64) -> String {
        let at = self.step;
        let fact = match self.kind {
            Kind::ZeroLoss => {
                format!("loss is exactly 0 in the log of step {at}, as when NaN is filtered out")
            }
            Kind::Loss(value) => format!("loss is {value} in the log of step {at}"),
            Kind::GradNorm(value) => format!("grad_norm is {value} in the log of step {at}"),
        };
        if at < checkpoint {
            format!("diverged: {fact}, and no later log shows a recovery")
        } else {
            format!("diverged: {fact}")
        }
    }
}

/// Whether a loss of 0 can be real: NaN losses give NaN gradients, so a gradient shows that it was rounded to
/// 0 (transformers 4 logs four decimals); in GRPO it is 0 whenever all rewards of a step are equal.
fn is_true_zero(grad_norm: Option<f64>, reward: Option<f64>) -> bool {
    grad_norm.is_some_and(|norm| norm > 0.0 || norm == 0.0 && reward.is_some_and(f64::is_finite))
}

/// Whether a record without evidence of its own proves that the weights hold no NaN.
fn shows_recovery(kind: Kind, loss: Option<f64>, grad_norm: Option<f64>) -> bool {
    loss.is_some() && (grad_norm.is_some() || !matches!(kind, Kind::GradNorm(_)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logs::series::Point;

    fn log(loss: &[(u64, f64)], grad_norm: &[(u64, f64)]) -> Log {
        let series = |name: &'static str, values: &[(u64, f64)]| -> Vec<Point> {
            let point =
                |(step, value): &(u64, f64)| Point { metric: name.into(), step: *step, value: *value };
            values.iter().map(point).collect()
        };
        Log::new([series("loss", loss), series("grad_norm", grad_norm)].concat())
    }

    fn bad(log: &Log, steps: &[u64]) -> Vec<bool> {
        let records = records(log);
        steps.iter().map(|step| diverged(&records, *step).is_some()).collect()
    }

    #[test]
    fn the_diluted_and_the_zero_record_are_bad() {
        let log = log(
            &[(3, 4.148), (6, 4.157), (9, 2.7796), (12, 0.0)],
            &[(3, 0.17), (6, 0.22), (9, f64::NAN), (12, f64::NAN)],
        );
        assert_eq!(bad(&log, &[3, 6, 7, 9, 12, 15]), [false, false, true, true, true, true]);
        let records = records(&log);
        assert_eq!(diverged(&records, 9).unwrap(), "diverged: grad_norm is NaN in the log of step 9");
        assert!(diverged(&records, 15).unwrap().contains("step 12, and no later log shows a recovery"));
    }

    #[test]
    fn without_grad_norm_the_checkpoint_before_a_zero_record_is_bad_too() {
        let log = log(&[(3, 4.148), (6, 4.157), (9, 2.7796), (12, 0.0)], &[]);
        assert_eq!(bad(&log, &[6, 8, 9, 12]), [false, false, true, true]);
    }

    #[test]
    fn a_later_finite_record_shows_recovery() {
        let norms = [(10, 1.0), (20, f64::INFINITY), (30, 1.0)];
        assert_eq!(
            bad(&log(&[(10, 2.0), (20, 2.0), (30, 2.0)], &norms), &[10, 20, 30, 40]),
            [false, true, false, false]
        );
        let norms = [(10, 1.0), (20, f64::NAN)];
        assert_eq!(bad(&log(&[(10, 2.0), (20, 2.0), (30, 2.0)], &norms), &[10, 20, 30]), [false, true, true]);
    }

    #[test]
    fn a_zero_with_a_gradient_or_a_reward_is_real() {
        let mut log = log(&[(10, 0.0), (20, 0.0), (30, -0.01)], &[(10, 0.4), (20, 0.0), (30, 0.1)]);
        assert_eq!(bad(&log, &[5, 10, 20, 30]), [false, true, true, false]);
        let reward = |step| Point { metric: "reward".into(), step, value: 0.5 };
        log.unite(&Log::new([10, 20, 30].map(reward).to_vec()));
        assert_eq!(bad(&log, &[5, 10, 20, 30]), [false; 4]);
    }

    #[test]
    fn a_loss_that_is_not_finite_needs_no_gradient_to_be_bad() {
        let log = log(&[(10, 1.0), (20, f64::INFINITY), (30, 1.0)], &[]);
        assert_eq!(bad(&log, &[10, 20, 30]), [false, true, false]);
        assert_eq!(diverged(&records(&log), 20).unwrap(), "diverged: loss is inf in the log of step 20");
    }

    #[test]
    fn nothing_is_known_without_records() {
        assert_eq!(bad(&Log::default(), &[0, 5]), [false, false]);
    }
}
