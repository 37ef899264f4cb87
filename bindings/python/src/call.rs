//! Call the library for Python: the interpreter is free meanwhile, Ctrl-C stops the work, errors become exceptions.

use std::sync::{Mutex, PoisonError};

use mwa::{Error, Result};
use mwa_host::{Paced, Progress, guard};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyType;

/// Run `work` without the interpreter. `progress` is called with bytes done and bytes in all; what it raises, and
/// `KeyboardInterrupt`, stop the work and are raised here.
pub(crate) fn call<T: Send>(
    py: Python<'_>,
    progress: Option<Py<PyAny>>,
    work: impl FnOnce(&dyn Progress) -> Result<T> + Send,
) -> PyResult<T> {
    let raised = Mutex::new(None);
    let tell = |done: u64, total: u64| {
        let told = Python::attach(|py| {
            py.check_signals()?;
            progress.as_ref().map_or(Ok(()), |progress| progress.call1(py, (done, total)).map(drop))
        });
        let is_wanted = told.is_ok();
        if let Err(error) = told {
            *raised.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
        }
        is_wanted
    };
    let paced = Paced::new(tell);
    let result = py.detach(|| guard(|| work(&paced)));
    if result.is_ok() {
        paced.tell();
    }
    match raised.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error),
        None => result.map_err(|error| exception(py, &error)),
    }
}

/// `mwa.MergeError` with the facts of `error`.
pub(crate) fn exception(py: Python<'_>, error: &Error) -> PyErr {
    static CLASS: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    let facts = (error.kind().name(), error.detail(), error.at_file(), error.at_tensor(), error.advice());
    let made = CLASS.import(py, "mwa.errors", "MergeError").and_then(|class| class.call1(facts));
    made.map_or_else(|failed| failed, PyErr::from_value)
}

/// A result as the command line prints it with `--json`.
pub(crate) fn json(value: impl serde::Serialize) -> String {
    serde_json::to_string(&value).expect("results are plain data")
}
