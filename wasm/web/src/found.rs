//! What was found, and how the user's options weigh it.

use alloc::vec::Vec;

use mwa::{Options, Sample, UserTable, WeighOptions};

/// How checkpoints are chosen and weighed; `excluded` are left out as bad.
pub(crate) fn weighing(options: &Options, excluded: &[usize]) -> mwa::Result<WeighOptions> {
    let (choose, checkpoints) = (options.choosing()?, options.checkpoints.clone());
    let rules = options.weights_file.clone().map(|text| UserTable { name: "the weights".into(), text });
    Ok(WeighOptions { choose, table: table(options), rules, checkpoints, excluded: excluded.to_vec() })
}

/// The table of metrics that was given instead of the run's own logs.
pub(crate) fn table(options: &Options) -> Option<UserTable> {
    Some(UserTable { name: "the table".into(), text: options.metrics_file.clone()? })
}

/// What was found.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) run: mwa::Run,
    /// The beginnings of some A factors of each checkpoint.
    pub(crate) samples: Vec<Sample>,
}
