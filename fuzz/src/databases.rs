//! A database of MLflow's beside a run: it is read as far as it is sound, and nothing in it makes a merge unsound.

use super::files::Memory;
use super::runs::{example, merge};

pub(crate) fn check(bytes: &[u8]) {
    let mut files: Memory = example();
    files.0.retain(|(path, _)| !path.ends_with("trainer_state.json"));
    files.write("run/mlflow.db", bytes);
    merge(&files, None, None);
    merge(&files, None, Some("eval_loss"));
}
