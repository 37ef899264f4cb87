//! Load `vectors/`: cases made by an independent oracle. `vectors/index.json` explains itself.

use std::fs;
use std::path::{Path, PathBuf};

use mwa::{Float, Goal, Scheme, Weights};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use crate::agree::agree_values;
use crate::{Executor, Failure, Merge, SAME_CODE, WEIGHTS, agree};

/// All vectors.
#[derive(Debug, Deserialize)]
pub struct Vectors {
    /// Weighted sums.
    pub cases: Vec<Case>,
    /// Weight formulas.
    pub weights: Vec<WeightCase>,
    /// Files that must be refused, and a few that look as if they should be.
    pub hostile: Vec<Hostile>,
}

/// One weighted sum.
#[derive(Debug, Deserialize)]
pub struct Case {
    /// Its name.
    pub case: String,
    inputs: Vec<PathBuf>,
    weights: Vec<f64>,
    dtype: String,
    non_finite: Option<String>,
    output: Option<PathBuf>,
    error: Option<String>,
    tensor: Option<String>,
}

/// One weight formula.
#[derive(Debug, Deserialize)]
pub struct WeightCase {
    /// Its name.
    pub case: String,
    /// `explicit`, or one of [`Scheme::ALL`].
    pub scheme: String,
    /// The caller's own weights, for `explicit`.
    #[serde(default)]
    pub values: Vec<Number>,
    /// A metric per input, for all others.
    #[serde(default)]
    pub metrics: Vec<Number>,
    /// `min` or `max`.
    pub goal: Option<String>,
    /// The penalty; none for `uniform`.
    pub penalty: Option<Number>,
    weights: Option<Vec<f64>>,
    error: Option<String>,
}

/// One file to be refused.
#[derive(Debug, Deserialize)]
pub struct Hostile {
    /// Path within `vectors/`.
    pub file: PathBuf,
    error: Option<String>,
    says: Option<String>,
    tensor: Option<String>,
    tensors: Option<Vec<String>>,
}

/// A number that JSON may not be able to hold: `"NaN"`, `"Infinity"`.
#[derive(Clone, Copy, Debug)]
pub struct Number(pub f64);

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Either {
            Number(f64),
            Text(String),
        }
        match Either::deserialize(deserializer)? {
            Either::Number(number) => Ok(Self(number)),
            Either::Text(text) => text.parse().map(Self).map_err(D::Error::custom),
        }
    }
}

/// Where the vectors are.
#[must_use]
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors")
}

/// Bytes of a file in `vectors/`.
///
/// # Panics
/// If it is not there.
#[must_use]
pub fn read(file: &Path) -> Vec<u8> {
    let remake = "remake the vectors: python3 tests/vectors/make.py";
    fs::read(folder().join(file)).unwrap_or_else(|error| panic!("{}: {error}; {remake}", file.display()))
}

/// Read `index.json`.
///
/// # Panics
/// If it cannot be read, or lists nothing: no test passes by not running.
#[must_use]
pub fn load() -> Vectors {
    let vectors: Vectors = serde_json::from_slice(&read(Path::new("index.json")))
        .unwrap_or_else(|error| panic!("index.json: {error}"));
    assert!(!vectors.cases.is_empty() && !vectors.weights.is_empty() && !vectors.hostile.is_empty());
    vectors
}

impl Case {
    /// The merge it asks for.
    #[must_use]
    pub fn merge(&self) -> Merge {
        let dtype = match self.dtype.as_str() {
            "keep" => None,
            "f32" => Some(Float::F32),
            "bf16" => Some(Float::BF16),
            "f16" => Some(Float::F16),
            other => panic!("{}: unknown dtype {other}", self.case),
        };
        Merge {
            inputs: self.inputs.iter().map(|path| read(path)).collect(),
            weights: self.weights.clone(),
            dtype,
            allow_non_finite: self.non_finite.as_deref() == Some("allow"),
            ..Merge::default()
        }
    }

    /// Whether an executor gives what the oracle gave.
    ///
    /// # Errors
    /// The difference, in words.
    pub fn check(&self, executor: &dyn Executor) -> Result<(), String> {
        let outcome = match (&self.output, &self.error, executor.merge(&self.merge())) {
            (Some(output), None, Ok(actual)) => agree(SAME_CODE, &read(output), &actual),
            (None, Some(kind), Err(failure)) => names(&failure, kind, None, self.tensor.as_deref()),
            (None, Some(kind), Ok(_)) => Err(format!("should fail with `{kind}`, but succeeds")),
            (_, _, Err(failure)) => Err(format!("fails: {} ({})", failure.message, failure.kind)),
            _ => panic!("{}: a case has an output or an error", self.case),
        };
        outcome.map_err(|difference| format!("{}: {difference}", self.case))
    }
}

impl WeightCase {
    /// What the core makes of it.
    ///
    /// # Errors
    /// As [`Weights::new`] and [`Weights::explicit`].
    pub fn weigh(&self) -> Result<Vec<f64>, Failure> {
        let numbers = |list: &[Number]| list.iter().map(|number| number.0).collect::<Vec<_>>();
        let weights = if self.scheme == "explicit" {
            Weights::explicit(&numbers(&self.values))
        } else {
            let scheme: Scheme = self.scheme.parse()?;
            let goal: Goal = self.goal.as_deref().expect("a scheme has a goal").parse()?;
            Weights::new(&numbers(&self.metrics), goal, scheme, self.penalty.map_or(0.0, |penalty| penalty.0))
        };
        Ok(weights?.values().to_vec())
    }

    /// Whether `actual` is what the oracle gave.
    ///
    /// # Errors
    /// The difference, in words.
    pub fn check(&self, actual: Result<Vec<f64>, Failure>) -> Result<(), String> {
        let outcome = match (&self.weights, &self.error, actual) {
            (Some(weights), None, Ok(actual)) => agree_values(WEIGHTS, weights, &actual),
            (None, Some(kind), Err(failure)) => names(&failure, kind, None, None),
            (None, Some(kind), Ok(actual)) => Err(format!("should fail with `{kind}`, but gives {actual:?}")),
            (_, _, Err(failure)) => Err(format!("fails: {} ({})", failure.message, failure.kind)),
            _ => panic!("{}: a case has weights or an error", self.case),
        };
        outcome.map_err(|difference| format!("{}: {difference}", self.case))
    }
}

impl Hostile {
    /// Whether a reader that found these tensors, or failed so, is right.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn check(&self, outcome: Result<Vec<String>, Failure>) -> Result<(), String> {
        let outcome = match (&self.tensors, &self.error, outcome) {
            (Some(tensors), None, Ok(actual)) if *tensors == actual => Ok(()),
            (Some(tensors), None, Ok(actual)) => {
                Err(format!("holds {tensors:?}, but was read as {actual:?}"))
            }
            (None, Some(kind), Err(failure)) => {
                names(&failure, kind, self.says.as_deref(), self.tensor.as_deref())
            }
            (None, Some(kind), Ok(_)) => Err(format!("should be refused with `{kind}`, but is read")),
            (_, _, Err(failure)) => Err(format!("is legal, but fails: {}", failure.message)),
            _ => panic!("{}: a file has tensors or an error", self.file.display()),
        };
        outcome.map_err(|difference| format!("{}: {difference}", self.file.display()))
    }
}

/// Whether a failure is of this kind and names this tensor.
///
/// # Errors
/// The difference, in words.
pub fn same_failure(failure: &Failure, kind: &str, tensor: Option<&str>) -> Result<(), String> {
    names(failure, kind, None, tensor)
}

/// Whether a failure is of this kind, says this (in letters of any case) and names this tensor.
fn names(failure: &Failure, kind: &str, says: Option<&str>, tensor: Option<&str>) -> Result<(), String> {
    let Failure { kind: actual, message } = failure;
    if actual != kind {
        return Err(format!("should fail with `{kind}`, fails with `{actual}`: {message}"));
    }
    let says = says.unwrap_or_default();
    if !message.to_lowercase().contains(&says.to_lowercase()) {
        return Err(format!("should say `{says}`, says: {message}"));
    }
    let tensor = tensor.unwrap_or_default();
    if !message.contains(tensor) {
        return Err(format!("should name tensor `{tensor}`, says: {message}"));
    }
    Ok(())
}
