//! Read a metric per checkpoint from a table that the user gives.
//!
//! A table is CSV, JSON Lines, a JSON array of objects, or a JSON object from checkpoint to value or to an
//! object of values. A column `checkpoint` holds names such as `checkpoint-50`, a column `step` (in any of the spellings of
//! W&B, TensorBoard and others) holds steps, and where there is neither, `epoch` holds the numbers in the names; every other
//! column is a metric, and cells may be empty. Rows of other checkpoints do not matter. What lm-eval writes of a model is a row.
//!
//! PyTorch Lightning counts steps from 0 in its `metrics.csv` but from 1 in the names of its checkpoints: a
//! CSV table with `epoch` and `step` is read one step later when that finds more of the checkpoints.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use crate::error::{Error, ErrorKind, Result};
use crate::logs::metric::{Metric, MetricOptions, Outcome, Reading, Source};
use crate::logs::series::{Log, Point};
use crate::logs::trainer::TrainerState;
use crate::text::json;
use crate::text::spelling::closest;
use parse::{Cell, Row, UNNAMED, is_metric};
pub(crate) use parse::{evaluated, is_same_path, trailing_step};

mod parse;
#[cfg(test)]
mod tests;

/// A table of metrics.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    rows: Vec<Row>,
    /// What a row is called in messages: "line" or "entry".
    unit: &'static str,
    /// Whether the header is one that Lightning writes.
    may_count_from_zero: bool,
}

/// A checkpoint to find in a [`Table`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wanted<'a> {
    /// Its name or path, such as `run/checkpoint-50`.
    pub name: &'a str,
    /// Its step, where it has one.
    pub step: Option<u64>,
    /// The number in its name, which may count epochs.
    pub number: Option<u64>,
}

/// A column's name less that of the run, which a W&B panel writes in front.
fn less_run(column: &str) -> &str {
    column.rsplit_once(" - ").map_or(column, |(_, name)| name)
}

/// A message names so many columns; some tables have thousands.
const MOST_SHOWN: usize = 50;

impl Table {
    /// Parse a table, whichever of the formats it has.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let text = json::without_mark(text);
        let table = if text.trim_start().starts_with(['{', '[']) {
            Self::parse_json(text)?
        } else {
            Self::parse_csv(text)?
        };
        if table.rows.is_empty() {
            Err(Error::new(ErrorKind::Metric, "the table of metrics has no rows"))
        } else {
            Ok(table)
        }
    }

    /// The table as a log: each metric by step, or by epoch.
    pub(crate) fn into_log(self) -> TrainerState {
        let point = |step: u64, (metric, cell)| match cell {
            Cell::Number(value) => Some(Point { metric, step, value }),
            Cell::Text(_) => None,
        };
        let rows = self.rows.into_iter().filter_map(|row| Some((row.step?, row.cells)));
        let points =
            rows.flat_map(|(step, cells)| cells.into_iter().filter_map(move |cell| point(step, cell)));
        TrainerState { log: Log::new(points.collect()), ..TrainerState::default() }
    }

    /// The names of the columns that hold numbers, sorted.
    #[must_use]
    pub(crate) fn metrics(&self) -> Vec<&str> {
        let cells = self.rows.iter().flat_map(|row| &row.cells);
        let numbers = cells.filter(|(name, cell)| matches!(cell, Cell::Number(_)) && is_metric(name));
        let mut names: Vec<_> = numbers.map(|(name, _)| name.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// Whether a metric of this name can be read.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.metrics().iter().any(|column| *column == name || less_run(column) == name)
    }

    /// Read one metric for the wanted checkpoints; without a name, the only one there is.
    pub(crate) fn read(&self, wanted: &[Wanted<'_>], options: &MetricOptions) -> Result<Metric> {
        options.check()?;
        if wanted.is_empty() {
            return Err(Error::new(
                ErrorKind::Metric,
                "no checkpoints were given to find in the table of metrics",
            ));
        }
        let column = self.column(wanted, options)?;
        let name = options.name.clone().unwrap_or_else(|| less_run(&column).to_string());
        let goal = options.goal_of(&name)?;
        let mut notes = Vec::new();
        let shift = self.shift(wanted, &column);
        if shift > 0 {
            notes.push(
                "the table counts steps from 0, as Lightning does: its step 49 is taken for step 50"
                    .to_string(),
            );
        }
        let reading = |wanted: &Wanted<'_>| self.outcome(wanted, &column, shift, options.tolerance);
        let readings = wanted.iter().map(reading).collect::<Result<Vec<_>>>()?;
        let checkpoints = wanted.iter().map(|wanted| wanted.name.to_string()).collect();
        Metric { name, goal, checkpoints, readings, notes, parts: Vec::new() }.flag(options.strict)
    }

    /// The column to read.
    fn column(&self, wanted: &[Wanted<'_>], options: &MetricOptions) -> Result<String> {
        let metrics = self.metrics();
        let coverage = || {
            let found = |column: &str| self.found(wanted, column, self.shift(wanted, column));
            let of = |column: &&str| format!("{column} {}/{}", found(column), wanted.len());
            let mut shown: Vec<_> = metrics.iter().take(MOST_SHOWN).map(of).collect();
            if let Some(more) = metrics.len().checked_sub(MOST_SHOWN).filter(|more| *more > 0) {
                shown.push(format!("and {more} more"));
            }
            shown.join(", ")
        };
        match (&options.name, metrics.as_slice()) {
            (Some(name), _) if self.rows.iter().any(|row| row.cell(name).is_some()) => Ok(name.clone()),
            (Some(_), [only]) if only.eq_ignore_ascii_case(UNNAMED) => Ok((*only).to_string()),
            (Some(name), _) if metrics.iter().filter(|it| less_run(it) == name).count() == 1 => {
                let found = metrics.iter().find(|it| less_run(it) == name);
                Ok(found.map_or_else(String::new, |it| (*it).to_string()))
            }
            (Some(name), [_, ..]) => {
                let detail = format!("the table of metrics has no column `{name}`; it has {}", coverage());
                let error = Error::new(ErrorKind::Metric, detail);
                Err(match closest(name, metrics.iter().copied()) {
                    Some(near) => error.help(format!("did you mean --metric {near}?")),
                    None => error.help("choose one of these with --metric"),
                })
            }
            (_, []) => {
                let mut detail = "the table of metrics has no column of numbers".to_string();
                let texts = self
                    .rows
                    .iter()
                    .flat_map(|row| row.cells.iter().map(|(name, cell)| (row.place, name, cell)));
                if let Some((place, name, cell)) = texts.into_iter().next() {
                    detail += &format!(": {name} is `{cell}` in {} {place}", self.unit);
                }
                let error = Error::new(ErrorKind::Metric, detail);
                Err(error
                    .help("give each checkpoint one number per metric, such as {\"checkpoint-50\": 0.3}"))
            }
            (None, [only]) => Ok((*only).to_string()),
            (None, _) => {
                let detail = format!("the table holds several metrics: {}", coverage());
                Err(Error::new(ErrorKind::Metric, detail).help("choose one of these with --metric"))
            }
        }
    }

    /// How much to add to the table's steps: 1 when that finds more checkpoints in what may be Lightning's
    /// table.
    fn shift(&self, wanted: &[Wanted<'_>], column: &str) -> u64 {
        u64::from(self.may_count_from_zero && self.found(wanted, column, 1) > self.found(wanted, column, 0))
    }

    fn found(&self, wanted: &[Wanted<'_>], column: &str, shift: u64) -> usize {
        wanted.iter().filter(|wanted| self.cells(wanted, column, shift).next().is_some()).count()
    }

    /// The filled cells of a column for a checkpoint.
    fn cells<'a>(
        &'a self,
        wanted: &Wanted<'a>,
        column: &'a str,
        shift: u64,
    ) -> impl Iterator<Item = (&'a Row, &'a Cell)> {
        let wanted = *wanted;
        let rows = self.rows.iter().filter(move |row| row.is_of(&wanted, shift));
        rows.filter_map(move |row| row.cell(column).map(|cell| (row, cell)))
    }

    fn outcome(&self, wanted: &Wanted<'_>, column: &str, shift: u64, tolerance: u64) -> Result<Outcome> {
        let mut cells = self.cells(wanted, column, shift);
        let Some((row, cell)) = cells.next() else {
            return self.nearest(wanted, column, shift, tolerance);
        };
        let value = self.number(row, column, cell)?;
        for (other, cell) in cells {
            let differs = self.number(other, column, cell)?;
            if differs != value && !(differs.is_nan() && value.is_nan()) {
                let (unit, first, second) = (self.unit, row.place, other.place);
                let detail = format!(
                    "{} has two values of {column}: {value} in {unit} {first} and {differs} in {unit} {second} of the table",
                    wanted.name
                );
                return Err(Error::new(ErrorKind::Metric, detail).help("keep one of them"));
            }
        }
        Ok(self.checked(row, column, value, Source::Table { row: row.place }))
    }

    fn nearest(&self, wanted: &Wanted<'_>, column: &str, shift: u64, tolerance: u64) -> Result<Outcome> {
        let by_step = self.rows.iter().filter(|row| !row.has_path());
        let filled = by_step.filter_map(|row| Some((row, row.cell(column)?, row.step? + shift)));
        let near = wanted.step.and_then(|wanted| {
            let distances = filled.map(|(row, cell, step)| (step.abs_diff(wanted), step, row, cell));
            distances.min_by_key(|(by, step, ..)| (*by, *step))
        });
        match near {
            Some((by, step, row, cell)) if by <= tolerance => {
                let value = self.number(row, column, cell)?;
                Ok(self.checked(row, column, value, Source::Nearest { step, by }))
            }
            _ => Ok(Outcome::Missing(match self.rows.iter().find(|row| row.is_of(wanted, shift)) {
                Some(row) => format!("the cell in {} {} of the table is empty", self.unit, row.place),
                None => "no row of the table is about it".to_string(),
            })),
        }
    }

    fn checked(&self, row: &Row, column: &str, value: f64, source: Source) -> Outcome {
        if value.is_finite() {
            Outcome::Read(Reading { value, source })
        } else {
            Outcome::Bad(format!("{column} is {value} in {} {} of the table", self.unit, row.place))
        }
    }

    fn number(&self, row: &Row, column: &str, cell: &Cell) -> Result<f64> {
        match cell {
            Cell::Number(value) => Ok(*value),
            Cell::Text(text) => {
                let detail =
                    format!("{} {}: {column} is `{text}`, which is not a number", self.unit, row.place);
                Err(Error::new(ErrorKind::Metric, detail))
            }
        }
    }
}
