//! Parse the formats of a table into rows.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

use serde_json::{Map, Value};

use super::{Table, Wanted};
use crate::error::{Error, ErrorKind, Result};
use crate::format::stem;
use crate::text::csv;
use crate::text::json;
use crate::text::json::{number_in, whole};

/// The column that names checkpoints.
const CHECKPOINT: &str = "checkpoint";
/// The column of a table without column names: `{"checkpoint-50": 0.3}`.
pub(super) const UNNAMED: &str = "value";

/// What columns say of which checkpoint a row is, the best first; in any case, with or without the section of a logger in
/// front. The first ones name it, the last counts epochs, and others count steps.
const KEYS: [&str; 13] = [
    CHECKPOINT,
    "ckpt",
    "checkpoint_path",
    "model_name",
    "global_step",
    "global_step/max_steps",
    "current_steps",
    "step",
    "steps",
    "iteration",
    "iter",
    "updates",
    "epoch",
];
/// How many of these name checkpoints.
const NAMES: usize = 4;
/// Which of these counts epochs.
const EPOCH: usize = KEYS.len() - 1;
/// What loggers write beside metrics.
const CLOCKS: [&str; 6] =
    ["wall time", "wall_time", "timestamp", "runtime", "relative time (process)", "relative time (wall)"];

#[derive(Clone, Debug, Default)]
pub(super) struct Row {
    pub(super) place: usize,
    pub(super) name: Option<String>,
    pub(super) step: Option<u64>,
    /// The epoch, where no step is known, or the number that stands for a checkpoint.
    pub(super) number: Option<u64>,
    /// Sorted by column, each once.
    pub(super) cells: Vec<(String, Cell)>,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Cell {
    Number(f64),
    Text(String),
}

impl Table {
    pub(super) fn parse_csv(text: &str) -> Result<Self> {
        let mut lines = csv::rows(text)?.into_iter();
        let header = lines.next().map(|row| row.cells).unwrap_or_default();
        if !header.iter().any(|name| is_key(name)) {
            return Err(no_key(&header));
        }
        let has = |wanted: &str| header.iter().any(|name| name == wanted);
        let may_count_from_zero = has("epoch") && has("step") && !has(CHECKPOINT);
        let mut names: Vec<_> = header.iter().filter(|name| !name.is_empty()).collect();
        names.sort_unstable();
        if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(Error::new(
                ErrorKind::Metric,
                format!("two columns of the table are called `{}`", twice[0]),
            ));
        }
        let mut rows = Vec::new();
        for line in lines {
            if line.cells.len() > header.len() {
                let (cells, names) = (line.cells.len(), header.len());
                let detail =
                    format!("line {}: has {cells} cells, but the header names {names} columns", line.line);
                return Err(Error::new(ErrorKind::Metric, detail));
            }
            let cells = header.iter().zip(&line.cells).filter(|(_, cell)| !cell.is_empty());
            rows.extend(Row::new(
                "line",
                line.line,
                cells.map(|(name, cell)| (name.as_str(), Cell::from_text(cell))),
            )?);
        }
        Ok(Self { rows, unit: "line", may_count_from_zero })
    }

    pub(super) fn parse_json(text: &str) -> Result<Self> {
        let entries = match json::parse::<Value>(text) {
            Ok(Value::Array(entries)) => entries,
            Ok(Value::Object(map)) => match map.get("log_history") {
                Some(Value::Array(entries)) => entries.clone(),
                _ if map.keys().any(|name| is_key(name))
                    || map.get("results").is_some_and(Value::is_object) =>
                {
                    Vec::from([Value::Object(map)])
                }
                _ => map.into_iter().map(|(name, value)| entry(name, value)).collect(),
            },
            Ok(_) => Vec::new(),
            Err(whole) => return Self::parse_lines(text, &whole),
        };
        let rows = entries.iter().enumerate().map(|(index, entry)| Row::from_json("entry", index + 1, entry));
        let rows = rows.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect();
        Ok(Self { rows, unit: "entry", may_count_from_zero: false })
    }

    /// JSON Lines, or what is wrong with the text: `whole` when already its first line is no JSON.
    fn parse_lines(text: &str, whole: &serde_json::Error) -> Result<Self> {
        let mut rows = Vec::new();
        for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            match json::parse::<Value>(line) {
                Ok(entry) => rows.extend(Row::from_json("line", index + 1, &entry)?),
                Err(_) if rows.is_empty() => {
                    return Err(Error::new(
                        ErrorKind::Metric,
                        format!("the table of metrics is not valid JSON: {whole}"),
                    ));
                }
                Err(error) => {
                    return Err(Error::new(
                        ErrorKind::Metric,
                        format!("line {} is not valid JSON: {error}", index + 1),
                    ));
                }
            }
        }
        Ok(Self { rows, unit: "line", may_count_from_zero: false })
    }
}

impl Row {
    /// A row from its filled cells; none when it says of no checkpoint.
    fn new<'a>(
        unit: &str,
        place: usize,
        cells: impl Iterator<Item = (&'a str, Cell)>,
    ) -> Result<Option<Self>> {
        let mut row = Self { place, ..Self::default() };
        let mut best: Option<(usize, &str, Cell)> = None;
        for (column, cell) in cells {
            match (key(column), cell) {
                (None, cell) => row.cells.push((column.to_string(), cell)),
                (Some(0..NAMES), Cell::Number(number)) => row.number = whole(number),
                (Some(0..NAMES), Cell::Text(name)) => row.name = Some(name),
                (Some(rank), cell) if best.as_ref().is_none_or(|(other, ..)| rank < *other) => {
                    best = Some((rank, column, cell));
                }
                _ => {}
            }
        }
        if let Some((rank, column, cell)) = best {
            let number = if let Cell::Number(number) = cell { whole(number) } else { None };
            let is_needed = rank != EPOCH || row.name.is_none() && row.number.is_none();
            match number {
                Some(number) if rank == EPOCH && is_needed => row.number = Some(number),
                Some(number) if rank != EPOCH => row.step = Some(number),
                None if is_needed => {
                    let detail = format!("{unit} {place}: {column} is `{cell}`, which is not a whole number");
                    return Err(Error::new(ErrorKind::Metric, detail));
                }
                _ => {}
            }
        }
        row.step = row.step.or(row.number).or_else(|| trailing_step(row.name.as_deref()?));
        row.cells.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        let says = row.name.is_some() || row.step.is_some();
        Ok(says.then_some(row))
    }

    fn from_json(unit: &str, place: usize, entry: &Value) -> Result<Option<Self>> {
        let flat;
        let map = match entry {
            Value::Object(map) => match map.get("results") {
                Some(Value::Object(results)) => {
                    flat = evaluated(map, results);
                    &flat
                }
                _ => map,
            },
            // TensorBoard's export: wall time, step, value
            Value::Array(triple) if triple.len() == 3 => {
                flat = Map::from_iter([
                    ("step".to_string(), triple[1].clone()),
                    (UNNAMED.to_string(), triple[2].clone()),
                ]);
                &flat
            }
            _ => {
                return Err(Error::new(
                    ErrorKind::Metric,
                    format!("{unit} {place} of the table is not an object"),
                )
                .help("write {\"checkpoint\": \"checkpoint-50\", \"accuracy\": 0.3} for each checkpoint"));
            }
        };
        if !map.keys().any(|name| key(name).is_some()) {
            let names: Vec<String> = map.keys().cloned().collect();
            return Err(no_key(&names).file(format!("{unit} {place}")));
        }
        let cells = map.iter().filter_map(|(name, value)| Some((name.as_str(), Cell::from_json(value)?)));
        Self::new(unit, place, cells)
    }

    /// The filled cell of a column.
    pub(super) fn cell(&self, column: &str) -> Option<&Cell> {
        let at = self.cells.binary_search_by(|(name, _)| name.as_str().cmp(column)).ok()?;
        Some(&self.cells[at].1)
    }

    /// Whether the row names one checkpoint of one run, not just any checkpoint of that step.
    pub(super) fn has_path(&self) -> bool {
        self.name.as_ref().is_some_and(|name| name.contains(['/', '\\']))
    }

    pub(super) fn is_of(&self, wanted: &Wanted<'_>, shift: u64) -> bool {
        let by_step = || {
            self.step.is_some_and(|step| Some(step + shift) == wanted.step)
                || self.number.is_some() && self.number == wanted.number
        };
        match &self.name {
            Some(name) => is_same_path(name, wanted.name) || !self.has_path() && by_step(),
            None => by_step(),
        }
    }
}

impl Cell {
    fn from_text(text: &str) -> Self {
        number_in(text).map_or_else(|| Self::Text(text.to_string()), Self::Number)
    }

    /// None for null.
    fn from_json(value: &Value) -> Option<Self> {
        match value {
            Value::Null => None,
            Value::String(text) => Some(Self::from_text(text)),
            other => Some(json::number(other).map_or_else(|| Self::Text(json::text(other)), Self::Number)),
        }
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(value) => write!(f, "{value}"),
            Self::Text(text) => f.write_str(text),
        }
    }
}

/// One entry of `{"checkpoint-50": 0.3}` or `{"checkpoint-50": {"accuracy": 0.3}}` as a row.
fn entry(name: String, value: Value) -> Value {
    let mut row = Map::from_iter([(CHECKPOINT.to_string(), Value::String(name))]);
    match value {
        Value::Object(metrics) => row.extend(metrics.into_iter().filter(|(name, _)| !is_key(name))),
        value => {
            row.insert(UNNAMED.to_string(), value);
        }
    }
    Value::Object(row)
}

/// What lm-eval writes of one model: a column for each metric of each task.
pub(crate) fn evaluated(file: &Map<String, Value>, results: &Map<String, Value>) -> Map<String, Value> {
    let arguments = file.get("config").and_then(|config| config.get("model_args"));
    let argument = |wanted: &str| match arguments? {
        Value::Object(map) => map.get(wanted).cloned(),
        Value::String(text) => {
            let pairs = text.split(',').filter_map(|pair| pair.split_once('='));
            pairs.into_iter().find(|(name, _)| *name == wanted).map(|(_, value)| value.into())
        }
        _ => None,
    };
    let model =
        argument("peft").or_else(|| file.get("model_name").cloned()).or_else(|| argument("pretrained"));
    let mut row = Map::from_iter(model.map(|model| (CHECKPOINT.to_string(), model)));
    for (task, metrics) in results {
        for (name, value) in metrics.as_object().into_iter().flatten() {
            if value.is_number() && !name.contains("stderr") && name != "sample_len" {
                row.insert(format!("{task}/{name}"), value.clone());
            }
        }
    }
    row
}

/// The place of a column among [`KEYS`].
fn key(column: &str) -> Option<usize> {
    let column = column.trim().trim_start_matches('_').to_ascii_lowercase();
    let sections = ["train/", "trainer/"];
    let plain = sections.iter().find_map(|section| column.strip_prefix(section)).unwrap_or(&column);
    KEYS.iter().position(|key| *key == plain)
}

fn is_key(column: &str) -> bool {
    key(column).is_some()
}

/// Whether a column is a metric by its name: no clock, and no edge of the band that a panel draws.
pub(super) fn is_metric(column: &str) -> bool {
    let plain = column.trim_start_matches('_').to_ascii_lowercase();
    !(CLOCKS.contains(&plain.as_str()) || column.ends_with("__MIN") || column.ends_with("__MAX"))
}

fn no_key(columns: &[String]) -> Error {
    let detail = format!(
        "the table does not say which checkpoints its rows are about: its columns are {}",
        columns.join(", ")
    );
    Error::new(ErrorKind::Metric, detail)
        .help("name one of the columns `checkpoint` (such as checkpoint-50), `step` or `epoch`")
}

/// The step at the end of a name such as `run/checkpoint-50`.
pub(crate) fn trailing_step(name: &str) -> Option<u64> {
    let name = name.trim_end_matches(['/', '\\']);
    let digits = name.len() - name.trim_end_matches(|letter: char| letter.is_ascii_digit()).len();
    let (before, digits) = name.split_at(name.len() - digits);
    if before.ends_with(['-', '_', '=']) { digits.parse().ok() } else { None }
}

/// Whether two paths have the same end: the shorter one decides how much of it.
pub(crate) fn is_same_path(a: &str, b: &str) -> bool {
    let parts = |path: &str| -> Vec<String> {
        let parts = path.split(['/', '\\']).filter(|part| !part.is_empty() && *part != ".");
        parts.rev().map(ToString::to_string).collect()
    };
    let (a, b) = (parts(a), parts(b));
    // a file may be named without its ending
    let is_same = |a: &str, b: &str| a == b || stem(a).unwrap_or(a) == stem(b).unwrap_or(b);
    !a.is_empty() && !b.is_empty() && a.iter().zip(&b).all(|(a, b)| is_same(a, b))
}
