//! The native half of the Python package: names, bytes and errors translated, nothing else.

mod call;
mod evaluate;
mod tensor;

/// What `mwa/__init__.py` and its neighbours call; options and results cross as JSON.
#[pyo3::pymodule]
mod _mwa {
    use std::ffi::OsString;
    use std::path::PathBuf;

    use mwa::options::Verb;
    use mwa::{Options, SearchOptions};
    use mwa_host::{Evaluator, Evaluators, ExtractRank, Machine, RoundOptions, Trials};
    use pyo3::prelude::*;

    use crate::call::{call, json};
    use crate::evaluate::{Function, Raised};
    #[pymodule_export]
    use crate::tensor::merge_tensors;

    #[pyfunction]
    fn merge(
        py: Python<'_>,
        inputs: Vec<PathBuf>,
        out: PathBuf,
        options: &str,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<String> {
        call(py, progress, |progress| {
            let given = Options::parse(options)?;
            let options = mwa_host::Options::new(inputs, &given)?;
            let how = mwa_host::MergeOptions::new(&given)?;
            mwa_host::merge(&options, &how, &out, progress).map(json)
        })
    }

    #[pyfunction]
    fn aggregate(
        py: Python<'_>,
        inputs: Vec<PathBuf>,
        out: PathBuf,
        round: &str,
        options: &str,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<String> {
        call(py, progress, |progress| {
            let given = Options::parse(options)?;
            let round = RoundOptions::parse(round)?;
            let options = mwa_host::Options::new(inputs, &given)?;
            let how = mwa_host::MergeOptions::new(&given)?;
            mwa_host::aggregate(&options, &round, &how, &out, progress).map(json)
        })
    }

    #[pyfunction]
    fn apply(
        py: Python<'_>,
        adapter: PathBuf,
        base: PathBuf,
        out: PathBuf,
        options: &str,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<String> {
        call(py, progress, |progress| {
            let how = mwa_host::MergeOptions::parse(options, Verb::Apply)?;
            mwa_host::apply(&adapter, &base, &how, &out, progress).map(json)
        })
    }

    /// `models` are the tuned one and its base, `rank` also how much may be left over.
    #[pyfunction]
    fn extract(
        py: Python<'_>,
        models: (PathBuf, PathBuf),
        rank: (String, Option<f64>),
        base_name: Option<String>,
        out: PathBuf,
        options: &str,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<String> {
        call(py, progress, |progress| {
            let ((tuned, base), (rank, error)) = (models, rank);
            let rank = (ExtractRank::told(&rank, error)?, base_name.as_deref());
            let how = mwa_host::MergeOptions::parse(options, Verb::Extract)?;
            mwa_host::extract(&tuned, &base, rank, &how, &out, progress).map(json)
        })
    }

    #[pyfunction]
    fn search(
        py: Python<'_>,
        inputs: Vec<PathBuf>,
        out: PathBuf,
        options: &str,
        evaluate: Py<PyAny>,
        holdout: Option<Py<PyAny>>,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<String> {
        let raised = Raised::default();
        let evaluate = Function::new(py, evaluate, &raised);
        let holdout = holdout.map(|holdout| Function::new(py, holdout, &raised));
        let result = call(py, progress, |progress| {
            let (given, wanted) = SearchOptions::parse(options)?;
            let options = mwa_host::Options::new(inputs, &given)?;
            let how = mwa_host::MergeOptions::new(&given)?;
            let holdout = holdout.as_ref().map(|holdout| holdout as &dyn Evaluator);
            let evaluators = Evaluators { search: &evaluate, holdout };
            let is_stopped = || raised.is_some();
            let watch = Trials::new(progress, &is_stopped);
            mwa_host::search(&options, &how, &wanted, evaluators, &out, &watch).map(json)
        });
        raised.of(py, result)
    }

    #[pyfunction]
    fn weights(py: Python<'_>, inputs: Vec<PathBuf>, options: &str) -> PyResult<String> {
        call(py, None, |_| {
            mwa_host::weights(&mwa_host::Options::new(inputs, &Options::parse(options)?)?).map(json)
        })
    }

    #[pyfunction]
    fn inspect(py: Python<'_>, path: PathBuf, options: &str) -> PyResult<String> {
        call(py, None, |_| mwa_host::inspect(&path, &Options::parse(options)?).map(json))
    }

    #[pyfunction]
    fn verify(
        py: Python<'_>,
        folder: PathBuf,
        options: &str,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<String> {
        call(py, progress, |progress| {
            mwa_host::verify(&folder, Machine::new(&Options::parse(options)?)?, progress).map(json)
        })
    }

    /// Do one share of a merge, such as `3/8`.
    #[pyfunction]
    fn shard(
        py: Python<'_>,
        inputs: Vec<PathBuf>,
        out: PathBuf,
        options: &str,
        share: &str,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<String> {
        call(py, progress, |progress| {
            let machine = Machine::new(&Options::parse(options)?)?;
            let options = serde_json::from_str(options).expect("they were parsed before");
            let wanted = mwa_host::Sharded { inputs, options, plot: false };
            mwa_host::shard(&wanted, share.parse()?, machine, &out, progress).map(json)
        })
    }

    /// Put together what all shards have done.
    #[pyfunction]
    fn finish(py: Python<'_>, out: PathBuf, options: &str, progress: Option<Py<PyAny>>) -> PyResult<String> {
        call(py, progress, |progress| {
            mwa_host::finish(&out, Machine::new(&Options::parse(options)?)?, false, progress).map(json)
        })
    }

    /// How many shards a merge was begun with, or none.
    #[pyfunction]
    fn shards_of(py: Python<'_>, out: PathBuf) -> PyResult<Option<u64>> {
        call(py, None, |_| mwa_host::shards_of(&out))
    }

    /// Remove what shards have written.
    #[pyfunction]
    fn abort_shards(py: Python<'_>, out: PathBuf) -> PyResult<()> {
        call(py, None, |_| mwa_host::abort_shards(&out).map(drop))
    }

    /// Raise what is wrong with options, before there is anything to merge.
    #[pyfunction]
    fn check_options(py: Python<'_>, options: &str) -> PyResult<()> {
        call(py, None, |_| {
            let given = Options::parse(options)?;
            mwa_host::Options::new(Vec::new(), &given).and(mwa_host::MergeOptions::new(&given)).map(drop)
        })
    }

    /// Whether lower or higher values of a metric are better, `min` or `max`, as far as its name tells.
    #[pyfunction]
    fn goal_of(name: &str) -> Option<String> {
        mwa::Goal::infer(name).map(|goal| goal.to_string())
    }

    /// The same of options of a search.
    #[pyfunction]
    fn check_search(py: Python<'_>, options: &str) -> PyResult<()> {
        call(py, None, |_| {
            let (given, _) = SearchOptions::parse(options)?;
            mwa_host::Options::new(Vec::new(), &given).and(mwa_host::MergeOptions::new(&given)).map(drop)
        })
    }

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("__version__", env!("CARGO_PKG_VERSION"))
    }

    /// The command line; returns the exit code.
    #[pyfunction]
    fn main(py: Python<'_>, arguments: Vec<OsString>) -> u8 {
        py.detach(|| mwa_host::command::main(arguments))
    }
}
