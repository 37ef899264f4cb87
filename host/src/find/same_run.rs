//! Read what the core needs to tell checkpoints of one run from checkpoints of several.

use std::fs::File;

use mwa::{Result, Sample};

use crate::find::checkpoint::Checkpoint;
use crate::io::disk::io_error;

/// Compare each checkpoint with the one before it; notes for the far ones, an error for another run's unless allowed.
pub(crate) fn check(checkpoints: &[Checkpoint], allow: bool) -> Result<Vec<String>> {
    let is_dora = |it: &Checkpoint| it.config.as_ref().is_some_and(|config| config.is_set("use_dora"));
    let is_dora = checkpoints.iter().any(is_dora);
    let names = Sample::names(checkpoints[0].tensors());
    let samples = checkpoints.iter().map(|it| sample(it, &names)).collect::<Result<Vec<_>>>()?;
    let named: Vec<_> = checkpoints.iter().map(|it| it.name.as_str()).zip(&samples).collect();
    mwa::same_run(&named, is_dora, allow)
}

fn sample(checkpoint: &Checkpoint, names: &[&str]) -> Result<Sample> {
    let mut sample = Sample::default();
    for file in &checkpoint.files {
        let failed = |error| io_error("cannot read it", &error).file(file.path.display().to_string());
        let data = File::open(&file.path).map_err(failed)?;
        for tensor in file.header.tensors().iter().filter(|tensor| names.contains(&&*tensor.name)) {
            let Some(range) = Sample::range(tensor) else { continue };
            let mut bytes = vec![0; usize::try_from(range.end - range.start).expect("at most 8 kB")];
            file.read(&data, &mut bytes, range.start).map_err(failed)?;
            sample.insert(tensor, &bytes);
        }
    }
    Ok(sample)
}
