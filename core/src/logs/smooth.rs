//! Read a checkpoint's value from training records, each a mean over the steps since the record before it.
//!
//! The record at step tᵢ covers the interval (tᵢ₋₁, tᵢ] (transformers `trainer.py`,
//! `_maybe_log_save_evaluate`), and each step's loss was computed before that step's update: losses at steps
//! ≤ s describe weights before checkpoint s, losses at steps > s the weights after it. So a checkpoint's
//! value is the mean over a window centred on it:
//!
//! value(s) = Σᵢ oᵢ·vᵢ / Σᵢ oᵢ,   oᵢ = steps that (tᵢ₋₁, tᵢ] and [s − W/2, s + W/2] share,
//! W = max(2 · logging interval, save spacing / 2)
//!
//! W = 0 interpolates linearly between the middles of the intervals. In f64, added in the order of steps.
//! Records of a diverged run are left out.

use alloc::vec::Vec;

use crate::logs::diverged::Record;
use crate::logs::metric::{Reading, Source};
use crate::logs::series::{Series, median_gap, origin};
use crate::text::json::whole;

/// The records of one training metric.
#[derive(Debug)]
pub(crate) struct Intervals {
    all: Vec<Interval>,
    spacing: u64,
}

#[derive(Clone, Copy, Debug)]
struct Interval {
    from: u64,
    to: u64,
    value: f64,
    usable: bool,
}

impl Intervals {
    /// The series as intervals; those that touch a bad training record will not be used.
    pub(crate) fn new(series: &Series, records: &[Record]) -> Self {
        let steps = steps(series);
        let spacing = median_gap(&steps).or(steps.first().copied()).unwrap_or(0);
        let mut from = origin(&steps);
        let intervals = series.iter().map(|(to, value)| {
            let record = records.get(records.partition_point(|record| record.to < *to)).or(records.last());
            let usable = value.is_finite() && record.is_none_or(Record::is_good);
            let interval = Interval { from, to: *to, value: *value, usable };
            from = *to;
            interval
        });
        Self { all: intervals.collect(), spacing }
    }

    /// The usual distance between two records, in steps; of a single record, its step.
    pub(crate) fn spacing(&self) -> u64 {
        self.spacing
    }

    /// The value that is not finite in the record that covers the step, or in the last one when none does.
    pub(crate) fn not_finite(&self, step: u64) -> Option<(u64, f64)> {
        let index = self.all.partition_point(|interval| interval.to < step);
        let interval = self.all.get(index).or(self.all.last())?;
        (!interval.value.is_finite()).then_some((interval.to, interval.value))
    }

    /// The value at `step`, smoothed over a window of `window` steps.
    pub(crate) fn read(&self, step: u64, window: f64) -> Option<Reading> {
        let usable = || self.all.iter().filter(|interval| interval.usable);
        let (first, last) = (usable().next()?, usable().next_back()?);
        let end = self.all.last()?.to;
        let smooth = || if window > 0.0 { self.mean(step, window) } else { self.interpolate(step) };
        let flagged = |nearest: &Interval, source| {
            let value = smooth().map_or(nearest.value, |reading| reading.value);
            Some(Reading { value, source })
        };
        if step > end {
            flagged(last, Source::Stale { last: end, by: step - end })
        } else if step <= self.all[0].from {
            flagged(first, Source::BeforeFirst { by: self.all[0].from + 1 - step })
        } else {
            smooth()
        }
    }

    fn mean(&self, step: u64, window: f64) -> Option<Reading> {
        let (low, high) = (step as f64 - window / 2.0, step as f64 + window / 2.0);
        let start = self.all.partition_point(|interval| interval.to as f64 <= low);
        let inside = self.all[start..].iter().take_while(|interval| (interval.from as f64) < high);
        let inside: Vec<&Interval> = inside.filter(|interval| interval.usable).collect();
        let (first, last) = (inside.first()?, inside.last()?);
        if inside.len() == 1 {
            return Some(Reading { value: first.value, source: first.covering() });
        }
        // Relative to the first value, so that equal values have exactly that mean.
        let (mut sum, mut total) = (0.0, 0.0);
        for interval in &inside {
            let overlap = high.min(interval.to as f64) - low.max(interval.from as f64);
            sum += overlap * (interval.value - first.value);
            total += overlap;
        }
        let from = whole(libm::floor(low.max(first.from as f64))).unwrap_or(first.from) + 1;
        let to = whole(libm::ceil(high.min(last.to as f64))).unwrap_or(last.to);
        Some(Reading { value: first.value + sum / total, source: Source::Smoothed { from, to } })
    }

    fn interpolate(&self, step: u64) -> Option<Reading> {
        let at = step as f64;
        let mut before: Option<&Interval> = None;
        for interval in self.all.iter().filter(|interval| interval.usable) {
            if interval.middle() >= at {
                let Some(before) = before.filter(|_| interval.middle() > at) else {
                    return Some(Reading { value: interval.value, source: interval.covering() });
                };
                let share = (at - before.middle()) / (interval.middle() - before.middle());
                let value = before.value + share * (interval.value - before.value);
                return Some(Reading {
                    value,
                    source: Source::Interpolated { before: before.to, after: interval.to },
                });
            }
            before = Some(interval);
        }
        before.map(|last| Reading { value: last.value, source: last.covering() })
    }
}

impl Interval {
    fn covering(&self) -> Source {
        Source::Covering { from: self.from + 1, to: self.to }
    }

    fn middle(&self) -> f64 {
        (self.from as f64 + self.to as f64) / 2.0
    }
}

/// Whether a record of the series covers the step.
pub(crate) fn covers(series: &Series, step: u64) -> bool {
    let ends = series.first().zip(series.last());
    ends.is_some_and(|((first, _), (last, _))| {
        let after_origin = || step > origin(&steps(series));
        step <= *last && (step >= *first || after_origin())
    })
}

fn steps(series: &Series) -> Vec<u64> {
    series.iter().map(|(step, _)| *step).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn every_ten(values: &[f64]) -> Intervals {
        let series: Vec<_> =
            values.iter().enumerate().map(|(i, value)| (10 * (i as u64 + 1), *value)).collect();
        Intervals::new(&series, &[])
    }

    #[test]
    fn weighs_a_centred_window_by_overlap() {
        // Checkpoint 50 and W = 25: [37.5, 62.5] shares 2.5, 10, 10 and 2.5 steps with the records.
        let reading = every_ten(&[0.0, 0.0, 0.0, 8.0, 4.0, 2.0, 1.0]).read(50, 25.0).unwrap();
        assert!((reading.value - (2.5 * 8.0 + 40.0 + 20.0 + 2.5) / 25.0).abs() < 1e-12);
        assert_eq!(reading.source, Source::Smoothed { from: 38, to: 63 });
    }

    #[test]
    fn a_window_is_cut_off_at_the_ends_of_the_log() {
        let intervals = every_ten(&[4.0, 2.0]);
        assert_eq!(
            intervals.read(20, 20.0).unwrap(),
            Reading { value: 2.0, source: Source::Covering { from: 11, to: 20 } }
        );
        assert_eq!(intervals.read(7, 20.0).unwrap().source, Source::Smoothed { from: 1, to: 17 });
    }

    #[test]
    fn after_the_last_record_a_value_is_stale() {
        let intervals = every_ten(&[4.0, 2.0]);
        assert_eq!(
            intervals.read(25, 20.0).unwrap(),
            Reading { value: 2.0, source: Source::Stale { last: 20, by: 5 } }
        );
        assert_eq!(
            intervals.read(99, 20.0).unwrap(),
            Reading { value: 2.0, source: Source::Stale { last: 20, by: 79 } }
        );
    }

    #[test]
    fn before_a_log_that_starts_late_a_value_is_flagged() {
        let series = [(1010, 3.0), (1020, 2.0), (1030, 1.0)];
        let intervals = Intervals::new(&series, &[]);
        assert_eq!(
            intervals.read(900, 0.0).unwrap(),
            Reading { value: 3.0, source: Source::BeforeFirst { by: 101 } }
        );
        assert_eq!(intervals.read(1001, 0.0).unwrap().source, Source::Covering { from: 1001, to: 1010 });
    }

    #[test]
    fn no_window_interpolates_between_middles() {
        let intervals = every_ten(&[4.0, 2.0, 1.0]);
        assert_eq!(
            intervals.read(10, 0.0).unwrap(),
            Reading { value: 3.0, source: Source::Interpolated { before: 10, after: 20 } }
        );
        assert_eq!(
            intervals.read(15, 0.0).unwrap(),
            Reading { value: 2.0, source: Source::Covering { from: 11, to: 20 } }
        );
        assert_eq!(intervals.read(2, 0.0).unwrap().value, 4.0);
        assert_eq!(intervals.read(30, 0.0).unwrap().value, 1.0);
    }

    #[test]
    fn equal_values_have_exactly_that_mean() {
        let intervals = every_ten(&[0.1; 12]);
        for window in [0.0, 7.0, 25.0, 33.3, 1e9] {
            for step in [1, 15, 50, 77, 120, 130] {
                assert_eq!(intervals.read(step, window).unwrap().value, 0.1, "{step} {window}");
            }
        }
    }

    #[test]
    fn values_that_are_not_finite_are_left_out() {
        let intervals = every_ten(&[4.0, f64::NAN, 2.0]);
        assert_eq!(intervals.read(10, 20.0).unwrap().value, 4.0);
        assert_eq!(intervals.not_finite(15).map(|(step, _)| step), Some(20));
        assert_eq!(intervals.not_finite(25), None);
        assert_eq!(every_ten(&[f64::NAN]).read(10, 20.0), None);
    }

    #[test]
    fn records_cover_the_steps_since_the_one_before() {
        let covered = |series: &Series, steps: &[u64]| -> Vec<bool> {
            steps.iter().map(|step| covers(series, *step)).collect()
        };
        let early = [(10, 4.0), (20, 2.0)];
        assert_eq!(covered(&early, &[0, 1, 10, 20, 21]), [false, true, true, true, false]);
        let late = [(1010, 4.0), (1020, 2.0)];
        assert_eq!(covered(&late, &[1, 1000, 1001, 1020]), [false, false, true, true]);
        assert!(!covers(&[], 1));
    }
}
