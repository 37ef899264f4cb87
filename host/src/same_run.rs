//! Tell checkpoints of one run from checkpoints of several, by the direction of their factors.
//!
//! Averaging A and B makes sense only between checkpoints that share a basis. The mean cosine of the A factors is a
//! cheap and decisive test: 0.988 was measured between checkpoints of one run, −0.03 between two seeds.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;

use mwa::{Error, ErrorKind, Float, Result};

use crate::checkpoint::Checkpoint;
use crate::files::{self, io_error};

/// Tensors compared, spread over the whole adapter.
const TENSORS: usize = 32;
/// Elements compared of each: enough for a cosine, cheap for any size.
const ELEMENTS: u64 = 1024;
/// Below this mean cosine two checkpoints are of different runs.
const OTHER_RUN: f64 = 0.2;
/// Below this they have drifted so far apart that their average deserves a warning.
const FAR: f64 = 0.5;

/// Compare each checkpoint with the one before it; notes for the far ones, an error for another run's unless allowed.
pub(crate) fn check(checkpoints: &[Checkpoint], allow: bool) -> Result<Vec<String>> {
    let mut notes = Vec::new();
    let is_dora = |it: &Checkpoint| it.config.as_ref().is_some_and(|config| config.is_set("use_dora"));
    let is_dora = checkpoints.iter().any(is_dora);
    let names = factors(&checkpoints[0]);
    let samples = checkpoints.iter().map(|it| sample(it, &names)).collect::<Result<Vec<_>>>()?;
    for (pair, sample) in checkpoints.windows(2).zip(samples.windows(2)) {
        let Some(cosine) = mean_cosine(&sample[0], &sample[1]) else { continue };
        let (a, b) = (&pair[0].name, &pair[1].name);
        if cosine >= FAR {
            continue;
        }
        if cosine >= OTHER_RUN || (allow && !is_dora) {
            notes.push(format!(
                "{a} and {b} point in different directions (mean cosine of their A factors {cosine:.2}); \
                 an average of factors is then a poor average of what they do"
            ));
        } else {
            return Err(Error::new(
                ErrorKind::CrossRun,
                format!("is not of the same run as {a}: the mean cosine of their A factors is {cosine:.2}, near 1 within a run"),
            )
            .file(&**b)
            .help(if is_dora {
                "DoRA's magnitudes belong to the directions of their own run: merge checkpoints of one run"
            } else {
                "merge adapters of several runs with --space product, which averages what they do; \
                 --allow-cross-run averages the factors all the same"
            }));
        }
    }
    Ok(notes)
}

/// Names of some of the A factors.
fn factors(checkpoint: &Checkpoint) -> BTreeSet<&str> {
    let is_factor = |name: &&str| name.contains(".lora_A") || name.contains("lora_embedding_A");
    let all: Vec<_> = checkpoint.tensors().map(|tensor| tensor.name.as_str()).filter(is_factor).collect();
    all.iter().step_by(all.len().div_ceil(TENSORS).max(1)).copied().collect()
}

/// The first elements of tensors, by name.
type Sample<'a> = BTreeMap<&'a str, Vec<f64>>;

fn sample<'a>(checkpoint: &'a Checkpoint, names: &BTreeSet<&str>) -> Result<Sample<'a>> {
    let mut sample = Sample::new();
    for file in &checkpoint.files {
        let failed = |error| io_error("cannot read it", &error).file(file.data_path().display().to_string());
        let data = File::open(file.data_path()).map_err(failed)?;
        for tensor in file.header.tensors().iter().filter(|tensor| names.contains(tensor.name.as_str())) {
            let Some(float) = Float::of(tensor.dtype) else { continue };
            let len = tensor.len().min(ELEMENTS * float.bytes() as u64);
            let mut bytes = vec![0; usize::try_from(len).expect("at most ELEMENTS")];
            files::read_at(&data, &mut bytes, tensor.range.start).map_err(failed)?;
            let values = bytes.chunks_exact(float.bytes()).map(|word| float.value(word));
            sample.insert(&tensor.name, values.collect());
        }
    }
    Ok(sample)
}

/// Mean over the tensors that both have; `None` if there is none or all are zero.
fn mean_cosine(a: &Sample<'_>, b: &Sample<'_>) -> Option<f64> {
    let dot = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f64>();
    let both = a.iter().filter_map(|(name, x)| Some((x, b.get(name)?)));
    let cosines = both.map(|(x, y)| dot(x, y) / (dot(x, x) * dot(y, y)).sqrt());
    let (sum, count) = cosines
        .filter(|cosine| cosine.is_finite())
        .fold((0.0, 0u32), |(sum, n), cosine| (sum + cosine, n + 1));
    (count > 0).then(|| sum / f64::from(count))
}
