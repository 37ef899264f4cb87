//! Tell checkpoints of one run from checkpoints of several, by the direction of their factors.
//!
//! Averaging A and B makes sense only between checkpoints that share a basis. The mean cosine of the A factors is a
//! cheap and decisive test: 0.988 was measured between checkpoints of one run, −0.03 between two seeds.

use std::fs::File;

use mwa::{Error, ErrorKind, Float, Result};

use crate::checkpoint::Checkpoint;
use crate::files::{self, io_error};

/// Elements compared of each tensor: enough for a cosine, cheap for any size.
const SAMPLE: u64 = 4096;
/// Below this mean cosine two checkpoints are of different runs.
const OTHER_RUN: f64 = 0.2;
/// Below this they have drifted so far apart that their average deserves a warning.
const FAR: f64 = 0.5;

/// Compare each checkpoint with the one before it; notes for the far ones, an error for another run's unless allowed.
pub(crate) fn check(checkpoints: &[Checkpoint], allow: bool) -> Result<Vec<String>> {
    let mut notes = Vec::new();
    for pair in checkpoints.windows(2) {
        let Some(cosine) = mean_cosine(&pair[0], &pair[1])? else { continue };
        let (a, b) = (&pair[0].name, &pair[1].name);
        if cosine >= FAR {
            continue;
        }
        if cosine >= OTHER_RUN || allow {
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
            .help(
                "merge adapters of several runs with --space product, which averages what they do; \
                 --allow-cross-run averages the factors all the same",
            ));
        }
    }
    Ok(notes)
}

/// Mean over the tensors called `lora_A` or `lora_embedding_A`; `None` if there is none or all are zero.
fn mean_cosine(a: &Checkpoint, b: &Checkpoint) -> Result<Option<f64>> {
    let (mut sum, mut count) = (0.0, 0u32);
    for (file_index, file) in a.files.iter().enumerate() {
        let open = |path: &std::path::Path| {
            File::open(path)
                .map_err(|error| io_error("cannot read it", &error).file(path.display().to_string()))
        };
        let mut data: Option<(File, File)> = None;
        for (i, tensor) in file.header.tensors().iter().enumerate() {
            if !(tensor.name.contains(".lora_A") || tensor.name.contains("lora_embedding_A")) {
                continue;
            }
            let Some(other) = b.files.get(file_index) else { continue };
            // nearly always the tensors lie in the same order
            let twins = other.header.tensors();
            let same_place = twins.get(i).filter(|twin| twin.name == tensor.name);
            let Some(twin) = same_place.or_else(|| twins.iter().find(|twin| twin.name == tensor.name)) else {
                continue;
            };
            let (Some(float), Some(other_float)) = (Float::of(tensor.dtype), Float::of(twin.dtype)) else {
                continue;
            };
            if data.is_none() {
                data = Some((open(file.data_path())?, open(other.data_path())?));
            }
            let (left, right) = data.as_ref().expect("opened just above");
            let x = sample(left, float, tensor.range.clone(), file.data_path())?;
            let y = sample(right, other_float, twin.range.clone(), other.data_path())?;
            let dot = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f64>();
            let norms = (dot(&x, &x) * dot(&y, &y)).sqrt();
            if norms > 0.0 && norms.is_finite() {
                sum += dot(&x, &y) / norms;
                count += 1;
            }
        }
    }
    Ok((count > 0).then(|| sum / f64::from(count)))
}

fn sample(
    file: &File,
    float: Float,
    range: core::ops::Range<u64>,
    path: &std::path::Path,
) -> Result<Vec<f64>> {
    let size = float.bytes();
    let count = ((range.end - range.start) / size as u64).min(SAMPLE);
    let mut bytes = vec![0; usize::try_from(count).expect("at most SAMPLE") * size];
    files::read_at(file, &mut bytes, range.start)
        .map_err(|error| io_error("cannot read it", &error).file(path.display().to_string()))?;
    Ok(bytes.chunks_exact(size).map(|word| float.value(word)).collect())
}
