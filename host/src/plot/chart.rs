//! Axes, and panels with a grid and numbers at its lines.

use super::svg::Svg;

/// From values to places in the picture.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Axis {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
}

impl Axis {
    /// For these values, those that are not finite aside, between two places.
    pub(crate) fn new(values: impl IntoIterator<Item = f64>, (from, to): (f64, f64)) -> Self {
        let finite = values.into_iter().filter(|value| value.is_finite());
        let (low, high) =
            finite.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), it| (low.min(it), high.max(it)));
        let (low, high) = if low < high {
            (low, high)
        } else if low.is_finite() {
            (low - 1.0, low + 1.0)
        } else {
            (0.0, 1.0)
        };
        Self { low, high, from, to }
    }

    /// Where a value is; one that lies beyond is at the end.
    pub(crate) fn at(self, value: f64) -> f64 {
        let share = (value.clamp(self.low, self.high) - self.low) / (self.high - self.low);
        self.from + share * (self.to - self.from)
    }

    /// Round numbers between its ends, about as many as `wanted`.
    pub(crate) fn ticks(self, wanted: f64) -> Vec<f64> {
        let rough = (self.high - self.low) / wanted;
        let power = 10_f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 2.5, 5.0, 10.0].map(|n| n * power);
        let step = step.into_iter().find(|step| *step >= rough).unwrap_or(rough);
        let first = (self.low / step).ceil();
        let ticks = core::iter::successors(Some(first), |n| Some(n + 1.0)).map(|n| n * step);
        // the last may be rounded beyond the end
        ticks.take_while(|tick| *tick <= self.high + step * 1e-9).collect()
    }
}

/// The range that nearly all values lie in: a run's first losses would flatten all others.
pub(crate) fn trimmed(mut values: Vec<f64>) -> Vec<f64> {
    const SHARE: usize = 3; // of a hundred
    const LEAST: usize = 20;
    values.retain(|value| value.is_finite());
    values.sort_by(f64::total_cmp);
    if values.len() >= LEAST {
        values.truncate(values.len() - values.len() * SHARE / 100);
    }
    values
}

/// How far a field reaches beyond its axis on both sides, so that marks at its ends lie in it.
pub(crate) const BESIDE: f64 = 14.0;

/// A field between two axes, with its title above.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Panel {
    pub(crate) x: Axis,
    pub(crate) y: Axis,
}

impl Panel {
    /// Draw the field: lines across at round values, their numbers, and the title.
    pub(crate) fn new(svg: &mut Svg, title: &str, x: Axis, y: Axis, lines: f64) -> Self {
        let (left, right) = (x.from - BESIDE, x.to + BESIDE);
        svg.text("ink title", (left, y.to - 10.0), title);
        for tick in y.ticks(lines) {
            svg.line("rule", (left, y.at(tick)), (right, y.at(tick)));
            svg.text("faint end", (left - 8.0, y.at(tick) + 4.0), &short(tick));
        }
        svg.line("axis", (left, y.from), (right, y.from));
        Self { x, y }
    }

    pub(crate) fn at(self, (x, y): (f64, f64)) -> (f64, f64) {
        (self.x.at(x), self.y.at(y))
    }

    /// A line through points of the axes, parted where a value is not finite.
    pub(crate) fn curve(self, svg: &mut Svg, class: &str, points: &[(f64, f64)]) {
        svg.path(class, points.iter().map(|point| point.1.is_finite().then(|| self.at(*point))));
    }

    /// A bar that stands on the axis, `aside` from its place by so much.
    pub(crate) fn bar(
        self,
        svg: &mut Svg,
        class: &str,
        (x, y): (f64, f64),
        (width, aside): (f64, f64),
        title: &str,
    ) {
        let top = self.y.at(y);
        let left = self.x.at(x) - width / 2.0 + aside;
        svg.bar(class, (left, top), (width, self.y.from - top), title);
    }

    /// Numbers under the axis.
    pub(crate) fn numbers(self, svg: &mut Svg, name: &str, wanted: f64) {
        for tick in self.x.ticks(wanted) {
            svg.text("faint middle", (self.x.at(tick), self.y.from + 18.0), &short(tick));
        }
        svg.text("faint middle", ((self.x.from + self.x.to) / 2.0, self.y.from + 36.0), name);
    }
}

/// Five significant digits, without zeros at the end.
pub(crate) fn short(value: f64) -> String {
    let size = value.abs();
    if value == 0.0 {
        return "0".into();
    }
    if !(1e-3..1e6).contains(&size) {
        return format!("{value:.1e}").replace(".0e", "e");
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and 8")]
    let decimals = (4 - size.log10().floor() as i32).clamp(0, 8) as usize;
    let text = format!("{value:.decimals$}");
    if decimals == 0 { text } else { text.trim_end_matches('0').trim_end_matches('.').to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_axis_runs_from_the_lowest_to_the_highest_and_ends_there() {
        let axis = Axis::new([2.0, f64::NAN, 4.0], (100.0, 0.0));
        assert_eq!([1.0, 2.0, 3.0, 9.0].map(|value| axis.at(value)), [100.0, 100.0, 50.0, 0.0]);
        assert_eq!(Axis::new([7.0], (0.0, 10.0)).at(7.0), 5.0);
        assert_eq!(Axis::new([], (0.0, 10.0)).at(0.5), 5.0);
    }

    #[test]
    fn ticks_are_round() {
        let ticks = |values| Axis::new(values, (0.0, 1.0)).ticks(5.0);
        assert_eq!(ticks([550.0, 1000.0]), [600.0, 700.0, 800.0, 900.0, 1000.0]);
        let shown: Vec<_> = ticks([0.7706, 1.4]).into_iter().map(short).collect();
        assert_eq!(shown, ["0.8", "1", "1.2", "1.4"]);
    }

    #[test]
    fn numbers_are_short() {
        let shown = [0.0, 0.003, 1e-5, 0.850_49, 1000.0, 2.5e6, -0.25].map(short);
        assert_eq!(shown, ["0", "0.003", "1e-5", "0.85049", "1000", "2.5e6", "-0.25"]);
    }

    #[test]
    fn the_first_losses_do_not_flatten_the_rest() {
        let values: Vec<_> = (0..100).map(f64::from).collect();
        assert_eq!(trimmed(values).last(), Some(&96.0));
        assert_eq!(trimmed(vec![3.0, 1.0, f64::INFINITY]), [1.0, 3.0]);
    }
}
