//! What a run logged: one series per metric.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

/// One metric over the steps of a run. Invariant, where a [`Log`] gives it: steps rise.
pub(crate) type Series = [(u64, f64)];

/// All metrics of a log.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Log {
    /// Invariant: sorted by name, each once; none is empty.
    all: Vec<(String, Vec<(u64, f64)>)>,
}

/// A value as it comes in.
#[derive(Clone, Debug)]
pub(crate) struct Point {
    pub(crate) metric: String,
    pub(crate) step: u64,
    pub(crate) value: f64,
}

impl Log {
    /// Of several values of one metric at one step, the first counts.
    pub(crate) fn new(mut points: Vec<Point>) -> Self {
        points.sort_by(|a, b| (&a.metric, a.step).cmp(&(&b.metric, b.step)));
        let mut all: Vec<(String, Vec<(u64, f64)>)> = Vec::new();
        for Point { metric, step, value } in points {
            match all.last_mut() {
                Some((last, series)) if *last == metric => {
                    if series.last().is_none_or(|(before, _)| *before < step) {
                        series.push((step, value));
                    }
                }
                _ => all.push((metric, [(step, value)].into())),
            }
        }
        Self { all }
    }

    pub(crate) fn get(&self, metric: &str) -> Option<&Series> {
        let at = self.all.binary_search_by(|(name, _)| name.as_str().cmp(metric)).ok()?;
        Some(&self.all[at].1)
    }

    /// The same, some steps later.
    pub(crate) fn later(mut self, by: u64) -> Self {
        let steps = self.all.iter_mut().flat_map(|(_, series)| series);
        steps.for_each(|(step, _)| *step = step.saturating_add(by));
        self
    }

    /// The same as of one step.
    pub(crate) fn at(mut self, step: u64) -> Self {
        for (_, series) in &mut self.all {
            series.truncate(1);
            series[0].0 = step;
        }
        self
    }

    /// Add the metrics of another log of which this one has none.
    pub(crate) fn supplement(&mut self, other: &Self) {
        let new = other.all.iter().filter(|(name, _)| self.get(name).is_none());
        let new: Vec<_> = new.cloned().collect();
        self.all.extend(new);
        self.all.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    }

    /// Sorted by name.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &Series)> {
        self.all.iter().map(|(name, series)| (name.as_str(), series.as_slice()))
    }

    /// The last step of all.
    pub(crate) fn end(&self) -> Option<u64> {
        self.all.iter().filter_map(|(_, series)| series.last()).map(|(step, _)| *step).max()
    }

    /// Add what another log knows beyond this one.
    pub(crate) fn unite(&mut self, other: &Self) {
        let mut new = Vec::new();
        for (name, series) in &other.all {
            match self.all.binary_search_by(|(known, _)| known.cmp(name)) {
                Ok(at) => {
                    let known = &mut self.all[at].1;
                    let more: Vec<_> =
                        series.iter().filter(|(step, _)| value_at(known, *step).is_none()).collect();
                    if !more.is_empty() {
                        known.extend(more);
                        known.sort_unstable_by_key(|(step, _)| *step);
                    }
                }
                Err(_) => new.push((name.clone(), series.clone())),
            }
        }
        self.all.append(&mut new);
        self.all.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    }
}

/// The name of a metric without the section that loggers put in front: `train/loss` is a Trainer's `loss`, `eval/loss` its
/// `eval_loss` (transformers' `rewrite_logs`).
pub(crate) fn plain(tag: &str) -> String {
    match tag.split_once('/') {
        Some(("train", name)) => name.into(),
        Some((section @ ("eval" | "test" | "val"), name)) => format!("{section}_{name}"),
        _ => tag.into(),
    }
}

/// The value at exactly this step.
pub(crate) fn value_at(series: &Series, step: u64) -> Option<f64> {
    series.binary_search_by_key(&step, |(step, _)| *step).ok().map(|at| series[at].1)
}

/// Where the first record's interval begins: 0, unless the log starts later than one usual distance.
pub(crate) fn origin(steps: &[u64]) -> u64 {
    steps.first().zip(median_gap(steps)).map_or(0, |(first, gap)| first.saturating_sub(gap))
}

/// The median distance between neighbours in a rising list, the lower of two.
pub(crate) fn median_gap(steps: &[u64]) -> Option<u64> {
    let mut gaps: Vec<u64> = steps.windows(2).map(|pair| pair[1] - pair[0]).collect();
    gaps.sort_unstable();
    gaps.get(gaps.len().saturating_sub(1) / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(points: &[(&str, u64, f64)]) -> Log {
        let point = |(metric, step, value): &(&str, u64, f64)| Point {
            metric: String::from(*metric),
            step: *step,
            value: *value,
        };
        Log::new(points.iter().map(point).collect())
    }

    #[test]
    fn the_first_value_of_a_step_counts() {
        let log = log(&[("b", 2, 0.5), ("a", 9, 1.0), ("b", 1, 4.0), ("b", 2, 7.0)]);
        assert_eq!(log.get("b"), Some(&[(1, 4.0), (2, 0.5)][..]));
        assert_eq!((log.get("c"), log.end()), (None, Some(9)));
    }

    #[test]
    fn a_union_keeps_what_it_knew() {
        let mut known = log(&[("b", 2, 0.5), ("d", 1, 1.0)]);
        known.unite(&log(&[("b", 1, 4.0), ("b", 2, 7.0), ("b", 3, 8.0), ("a", 1, 2.0), ("c", 1, 3.0)]));
        let expected =
            [("a", 1, 2.0), ("b", 1, 4.0), ("b", 2, 0.5), ("b", 3, 8.0), ("c", 1, 3.0), ("d", 1, 1.0)];
        assert_eq!(known, log(&expected));
    }

    #[test]
    fn a_first_step_record_does_not_shift_the_origin() {
        assert_eq!(origin(&[1, 10, 20, 30]), 0);
        assert_eq!(origin(&[1010, 1020]), 1000);
        assert_eq!(origin(&[500]), 0);
        assert_eq!(median_gap(&[7, 14, 21, 25]), Some(7));
        assert_eq!(median_gap(&[7]), None);
    }
}
