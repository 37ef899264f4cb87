//! Every vector of a method beyond the mean through every executor: the oracle's bytes, or the oracle's failure.

use std::path::{Path, PathBuf};

use conformance::vectors::{read, same_failure};
use conformance::{Executor, Merge, SAME_CODE, agree, each_executor, harness};
use mwa::Float;
use serde::Deserialize;
use serde_json::{Map, Value};

each_executor!(merges_all_blends, takes_inputs_in_any_order);

#[derive(Deserialize)]
struct Vectors {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    case: String,
    inputs: Vec<PathBuf>,
    base: Option<PathBuf>,
    options: Map<String, Value>,
    dtype: String,
    non_finite: Option<String>,
    output: Option<PathBuf>,
    error: Option<String>,
    tensor: Option<String>,
}

fn cases() -> Vec<Case> {
    let index = read(Path::new("blends/index.json"));
    serde_json::from_slice::<Vectors>(&index).expect("an index").cases
}

fn of(path: &Path) -> Vec<u8> {
    read(&Path::new("blends").join(path))
}

impl Case {
    fn merge(&self) -> Merge {
        let dtype = match self.dtype.as_str() {
            "keep" => None,
            "bf16" => Some(Float::BF16),
            other => panic!("{}: unknown dtype {other}", self.case),
        };
        let mut method = self.options.clone();
        let shares = self.options.get("weights").and_then(|it| serde_json::from_value(it.clone()).ok());
        let mut weights: Vec<f64> = shares.unwrap_or_else(|| vec![1.0; self.inputs.len()]);
        if self.base.is_some() {
            method.insert("base".into(), "base".into());
            weights.insert(0, 0.0);
        }
        Merge {
            inputs: self.base.iter().chain(&self.inputs).map(|path| of(path)).collect(),
            weights,
            dtype,
            allow_non_finite: self.non_finite.as_deref() == Some("allow"),
            method,
            ..Merge::default()
        }
    }
}

fn merges_all_blends(executor: &dyn Executor) -> Result<(), String> {
    let cases = cases();
    assert!(!cases.is_empty());
    harness::all(&cases, |case| {
        let outcome = match (&case.output, &case.error, executor.merge(&case.merge())) {
            (Some(output), None, Ok(actual)) => agree(SAME_CODE, &of(output), &actual),
            (None, Some(kind), Err(failure)) => same_failure(&failure, kind, case.tensor.as_deref()),
            (None, Some(kind), Ok(_)) => Err(format!("should fail with `{kind}`, but succeeds")),
            (_, _, Err(failure)) => Err(format!("fails: {} ({})", failure.message, failure.kind)),
            _ => panic!("{}: a case has an output or an error", case.case),
        };
        outcome.map_err(|difference| format!("{}: {difference}", case.case))
    })
}

/// Whether the method sorts.
fn is_sorted(case: &Case) -> bool {
    matches!(case.options["method"].as_str(), Some("median" | "trimmed-mean"))
}

/// Sorted values have no order of their own: every rotation of the inputs gives the same bytes.
fn takes_inputs_in_any_order(executor: &dyn Executor) -> Result<(), String> {
    let cases: Vec<_> = cases().into_iter().filter(|case| case.output.is_some() && is_sorted(case)).collect();
    assert!(!cases.is_empty());
    harness::all(&cases, |case| {
        let mut merge = case.merge();
        let expected = of(case.output.as_ref().expect("it has one"));
        for _ in 1..merge.inputs.len().min(4) {
            merge.inputs.rotate_left(1);
            let merged = executor.merge(&merge).map_err(|failure| failure.message)?;
            agree(SAME_CODE, &expected, &merged)
                .map_err(|difference| format!("{}: {difference}", case.case))?;
        }
        Ok(())
    })
}
