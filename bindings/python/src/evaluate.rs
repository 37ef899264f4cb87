//! A Python function as the evaluator of a search.

use std::sync::{Mutex, PoisonError};

use mwa::search::Score;
use mwa_host::{Candidate, Evaluator, NO_SCORE};
use pyo3::exceptions::PyException;
use pyo3::prelude::*;

/// What functions raised.
#[derive(Default)]
pub(crate) struct Raised {
    /// What is no mere failure of a candidate, such as `KeyboardInterrupt`: it stops the search.
    stops: Mutex<Option<PyErr>>,
    /// The last that failed a candidate.
    fails: Mutex<Option<PyErr>>,
}

impl Raised {
    fn set(&self, py: Python<'_>, error: PyErr) {
        let place = if error.is_instance_of::<PyException>(py) { &self.fails } else { &self.stops };
        *place.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
    }

    pub(crate) fn is_some(&self) -> bool {
        self.stops.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// What came of the search: what stopped it, and of what failed it for want of scores the cause, traceback and all.
    pub(crate) fn of<T>(self, py: Python<'_>, result: PyResult<T>) -> PyResult<T> {
        let taken = |it: Mutex<Option<PyErr>>| it.into_inner().unwrap_or_else(PoisonError::into_inner);
        if let Some(error) = taken(self.stops) {
            return Err(error);
        }
        let cause = taken(self.fails);
        result.inspect_err(|error| {
            if cause.is_some() && error.to_string().contains(NO_SCORE) {
                error.set_cause(py, cause);
            }
        })
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
                self.raised.set(py, error);
                text
            })
        });
        answer.and_then(|answer| Score::of_output(&answer))
    }
}
