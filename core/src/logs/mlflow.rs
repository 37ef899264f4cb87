//! MLflow's logs: its folder of files, and its database.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use crate::error::{Error, ErrorKind, Result};
use crate::logs::series::{Log, Point, plain};
use crate::logs::sqlite::{Cell, Database};
use crate::logs::trainer::TrainerState;
use crate::text::escape::readable;
use crate::text::json;

/// What the database has for infinity.
const INFINITE: f64 = 1.797e308;

/// A metric of the folder: lines of a time, a value and a step; of several of one step the last counts.
pub(super) fn file(path: &str, bytes: &[u8]) -> Option<TrainerState> {
    let (_, metric) = path.rsplit_once("metrics/")?;
    let mut points = Vec::new();
    for line in core::str::from_utf8(bytes).ok()?.lines().rev() {
        let mut words = line.split(' ');
        let (_, value, step) =
            (words.next()?.parse::<u64>().ok()?, json::float(words.next()?)?, words.next()?);
        points.push(Point { metric: plain(metric), step: step.parse().ok()?, value });
    }
    state(points)
}

/// The database's run that a path names behind `#`, by its name or the beginning of its number; without, the only one that
/// logged anything and is not deleted.
pub(super) fn database(path: &str, bytes: &[u8]) -> Result<Vec<TrainerState>> {
    let Some(database) = Database::new(bytes) else { return Ok(Vec::new()) };
    let mut rows: Vec<(String, i64, Point)> = Vec::new();
    let columns = ["run_uuid", "timestamp", "key", "step", "value", "is_nan"];
    let is_it = database.rows("metrics", &columns, &mut |row| rows.extend(point(&row)))?;
    if !is_it {
        return Ok(Vec::new());
    }
    let mut logged: Vec<&str> = rows.iter().map(|(run, ..)| run.as_str()).collect();
    logged.sort_unstable();
    logged.dedup();
    let mut runs: Vec<(String, String)> = Vec::new();
    database.rows("runs", &["run_uuid", "name", "lifecycle_stage"], &mut |row| {
        let text = |at: usize| row.get(at).and_then(Cell::text).unwrap_or_default();
        if text(2) != "deleted" && logged.binary_search(&text(0)).is_ok() {
            runs.push((text(0).into(), text(1).into()));
        }
    })?;
    let called = |(uuid, name): &(String, String)| if name.is_empty() { uuid.clone() } else { name.clone() };
    let listed = |runs: &[(String, String)]| {
        runs.iter().map(|run| readable(&called(run)).into_owned()).collect::<Vec<_>>().join(", ")
    };
    if let Some((_, wanted)) = path.rsplit_once('#') {
        runs = {
            let is_it = |(uuid, name): &&(String, String)| name == wanted || uuid.starts_with(wanted);
            let found: Vec<_> = runs.iter().filter(is_it).cloned().collect();
            if found.is_empty() {
                let detail = format!("has no run `{}` that logged anything", readable(wanted));
                return Err(
                    Error::new(ErrorKind::Metric, detail).help(format!("its runs are {}", listed(&runs)))
                );
            }
            found
        };
    }
    if runs.len() > 1 {
        let twice = runs.windows(2).all(|pair| called(&pair[0]) == called(&pair[1]));
        let name = if twice { runs[0].0.clone() } else { called(&runs[0]) };
        let file = path.rsplit_once('#').map_or(path, |(file, _)| file);
        return Err(Error::new(
            ErrorKind::Metric,
            format!("holds {} runs, which are not told apart: {}", runs.len(), listed(&runs)),
        )
        .help(format!("name one of them: --metrics-from {file}#{}", readable(&name))));
    }
    let Some((run, _)) = runs.first() else { return Ok(Vec::new()) };
    rows.retain(|(of, ..)| of == run);
    // of several of one step the last counts
    rows.reverse();
    rows.sort_by_key(|(_, time, _)| core::cmp::Reverse(*time));
    Ok(state(rows.into_iter().map(|(.., point)| point).collect()).into_iter().collect())
}

/// Run, time and value of a row.
fn point(row: &[Cell]) -> Option<(String, i64, Point)> {
    let [run, time, key, step, value, is_nan] = row else { return None };
    let step = u64::try_from(step.whole().unwrap_or_default()).ok()?;
    let value = match value.number()? {
        // what is written for it is 0
        _ if is_nan.whole() == Some(1) => f64::NAN,
        value if value >= INFINITE => f64::INFINITY,
        value if value <= -INFINITE => f64::NEG_INFINITY,
        value => value,
    };
    let point = Point { metric: plain(key.text()?), step, value };
    Some((run.text()?.into(), time.whole().unwrap_or_default(), point))
}

fn state(points: Vec<Point>) -> Option<TrainerState> {
    let log = Log::new(points);
    log.end().is_some().then(|| TrainerState { log, ..TrainerState::default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_is_named_as_its_file() {
        let state =
            file("run/mlruns/1/2/metrics/eval/loss", b"17 0.02 50\n18 0.01 100\n19 nan 150\n20 9.0 100\n")
                .unwrap();
        let series = state.log.get("eval_loss").unwrap();
        assert_eq!((series[0], series[1], series[2].0), ((50, 0.02), (100, 9.0), 150));
        assert!(series[2].1.is_nan());
        assert!(file("metrics/x", b"not a metric").is_none());
    }

    #[test]
    fn a_run_of_the_database_is_named_where_there_are_several() {
        let bytes = include_bytes!("data/mlflow.db");
        let error = database("x/mlflow.db", bytes).unwrap_err();
        assert_eq!(error.detail(), "holds 2 runs, which are not told apart: lora, wide");
        assert_eq!(error.advice(), Some("name one of them: --metrics-from x/mlflow.db#lora"));
        let error = database("mlflow.db#old", bytes).unwrap_err();
        assert_eq!(
            (error.detail(), error.advice()),
            ("has no run `old` that logged anything", Some("its runs are lora, wide"))
        );
        let [wide] = database("mlflow.db#b2b2", bytes).unwrap().try_into().unwrap();
        assert_eq!(wide.log.get("eval_loss").unwrap(), [10, 20, 30, 40, 50].map(|step| (step, 7.5)));

        let [state] = database("mlflow.db#lora", bytes).unwrap().try_into().unwrap();
        assert_eq!(state.log.get("loss").unwrap()[1], (20, 3.0));
        let losses = state.log.get("eval_loss").unwrap();
        let steps: Vec<_> = losses.iter().map(|(step, _)| *step).collect();
        assert_eq!(steps, [10, 20, 30, 40, 50, 60, 70]);
        assert_eq!((losses[0].1, losses[1].1), (2.5, 0.125), "the later of two counts");
        assert!(losses[5].1.is_nan(), "NaN, for which 0 is written");
        assert_eq!(losses[6].1, f64::INFINITY);
        assert!(database("a.db", b"SQLite format 3\0 and no more").unwrap().is_empty());
    }
}
