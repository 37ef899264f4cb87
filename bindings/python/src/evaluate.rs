//! A Python function as the evaluator of a search.

use std::sync::{Mutex, PoisonError};

use mwa::search::Score;
use mwa_host::{Candidate, Evaluator};
use pyo3::exceptions::PyException;
use pyo3::prelude::*;

/// What a function raised that is no mere failure of a candidate, such as `KeyboardInterrupt`: it stops the search.
#[derive(Default)]
pub(crate) struct Raised(Mutex<Option<PyErr>>);

impl Raised {
    fn set(&self, error: PyErr) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
    }

    pub(crate) fn is_some(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    pub(crate) fn take(self) -> Option<PyErr> {
        self.0.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Called with a candidate's folder; returns JSON with its `score`. An exception fails the candidate.
pub(crate) struct Function<'a> {
    function: Py<PyAny>,
    name: String,
    raised: &'a Raised,
}

impl<'a> Function<'a> {
    pub(crate) fn new(py: Python<'_>, function: Py<PyAny>, raised: &'a Raised) -> Self {
        let text = |name| function.getattr(py, name).and_then(|text| text.extract::<String>(py)).ok();
        let name = match (text("__module__"), text("__qualname__")) {
            (Some(module), Some(name)) => format!("{module}.{name}"),
            _ => "a function".into(),
        };
        Self { function, name, raised }
    }
}

impl Evaluator for Function<'_> {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn score(&self, _: usize, candidate: Candidate<'_>, _: &dyn Fn() -> bool) -> Result<Score, String> {
        let answer = Python::attach(|py| {
            let called = self.function.call1(py, (candidate.path.display().to_string(),));
            called.and_then(|answer| answer.extract::<String>(py)).map_err(|error| {
                let text = error.to_string();
                if !error.is_instance_of::<PyException>(py) {
                    self.raised.set(error);
                }
                text
            })
        });
        answer.and_then(|answer| Score::of_output(&answer))
    }
}
