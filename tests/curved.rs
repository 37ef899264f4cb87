//! Every vector of means by curvature and of grafts through every executor: the oracle's bytes, or the oracle's failure; and laws.

use core::convert::Infallible;
use std::path::{Path, PathBuf};

use conformance::vectors::{read, same_failure};
use conformance::{Executor, Merge, SAME_CODE, agree, each_executor, harness};
use mwa::safetensors::Header;
use mwa::{Float, Moments};
use serde::Deserialize;
use serde_json::{Map, Value};

each_executor!(
    merges_by_curvature,
    constant_moments_give_the_mean,
    all_of_one_graft_is_the_model,
    means_of_rows_and_columns_stand_for_matrices
);

#[derive(Deserialize)]
struct Vectors {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    case: String,
    inputs: Vec<PathBuf>,
    moments: Vec<PathBuf>,
    base: Option<PathBuf>,
    options: Map<String, Value>,
    dtype: String,
    non_finite: Option<String>,
    output: Option<PathBuf>,
    error: Option<String>,
    tensor: Option<String>,
}

fn cases() -> Vec<Case> {
    serde_json::from_slice::<Vectors>(&of(Path::new("index.json"))).expect("an index").cases
}

fn of(path: &Path) -> Vec<u8> {
    read(&Path::new("curved").join(path))
}

impl Case {
    fn named(name: &str) -> Self {
        cases().into_iter().find(|case| case.case == name).expect("there is such a case")
    }

    fn merge(&self) -> Merge {
        let dtype = match self.dtype.as_str() {
            "keep" => None,
            "bf16" => Some(Float::BF16),
            other => panic!("{}: unknown dtype {other}", self.case),
        };
        let mut method = self.options.clone();
        let mut weights = vec![1.0; self.inputs.len()];
        if self.base.is_some() {
            method.insert("base".into(), "base".into());
            weights.insert(0, 0.0);
        }
        Merge {
            inputs: self.base.iter().chain(&self.inputs).map(|path| of(path)).collect(),
            moments: self.moments.iter().map(|path| of(path)).collect(),
            weights,
            dtype,
            allow_non_finite: self.non_finite.as_deref() == Some("allow"),
            method,
            ..Merge::default()
        }
    }
}

fn merges_by_curvature(executor: &dyn Executor) -> Result<(), String> {
    let cases = cases();
    assert!(!cases.is_empty());
    harness::all(&cases, |case| {
        let outcome = match (&case.output, &case.error, executor.merge(&case.merge())) {
            (Some(output), None, Ok(actual)) => agree(SAME_CODE, &of(output), &actual),
            (None, Some(kind), Err(failure)) => same_failure(&failure, kind, case.tensor.as_deref()),
            (None, Some(kind), Ok(_)) => Err(format!("should fail with `{kind}`, but succeeds")),
            (_, _, Err(failure)) => Err(format!("fails: {} ({})", failure.message, failure.kind)),
            _ => panic!("{}: a case has an output or an error", case.case),
        };
        outcome.map_err(|difference| format!("{}: {difference}", case.case))
    })
}

fn values(file: &[u8], name: &str) -> Vec<f32> {
    let header = Header::parse(file, file.len() as u64).expect("a safetensors file");
    let tensor = header.tensors().iter().find(|tensor| tensor.name == name).expect("it has that tensor");
    let range = usize::try_from(tensor.range.start).unwrap()..usize::try_from(tensor.range.end).unwrap();
    file[range].chunks_exact(4).map(|word| f32::from_le_bytes(word.try_into().unwrap())).collect()
}

/// Moments that are all the same say nothing: what comes out is the mean, rounded once instead of at every step.
fn constant_moments_give_the_mean(executor: &dyn Executor) -> Result<(), String> {
    for power in [0.5, 1.0, 0.25, 0.4] {
        let mut merge = Case::named("ota").merge();
        for (i, moments) in merge.moments.iter_mut().enumerate() {
            let header = Header::parse(moments, moments.len() as u64).expect("a safetensors file");
            let start = usize::try_from(header.data_start()).unwrap();
            let words = moments[start..].chunks_exact_mut(4);
            words.for_each(|word| word.copy_from_slice(&(1e-12 * (1.0 + i as f32)).to_le_bytes()));
        }
        merge.method.insert("power".into(), power.into());
        let merged = executor.merge(&merge).map_err(|failure| failure.message)?;
        for name in ["w", "b"] {
            let inputs: Vec<_> = merge.inputs.iter().map(|input| values(input, name)).collect();
            for (i, value) in values(&merged, name).into_iter().enumerate() {
                let exact = inputs.iter().map(|input| f64::from(input[i])).sum::<f64>() / inputs.len() as f64;
                let off = (f64::from(value) - exact).abs();
                if off > f64::from(f32::EPSILON) * exact.abs() {
                    return Err(format!("{name}[{i}] is {value}, and the mean {exact}"));
                }
            }
        }
    }
    Ok(())
}

/// Where all that one model changed counts, it is that model to the bit.
fn all_of_one_graft_is_the_model(executor: &dyn Executor) -> Result<(), String> {
    let merge = Case::named("ffg-of-all").merge();
    let merged = executor.merge(&merge).map_err(|failure| failure.message)?;
    agree(SAME_CODE, &merge.inputs[1], &merged)
}

/// Moments that are kept by rows and columns weigh as the matrices that they stand for do, written whole.
fn means_of_rows_and_columns_stand_for_matrices(executor: &dyn Executor) -> Result<(), String> {
    for name in ["ota-rank1", "ffg-rank1"] {
        let case = Case::named(name);
        let mut merge = case.merge();
        merge.moments = merge.moments.iter().map(|file| whole(file)).collect();
        let merged = executor.merge(&merge).map_err(|failure| failure.message)?;
        agree(SAME_CODE, &of(&case.output.expect("it has one")), &merged)?;
    }
    Ok(())
}

/// A file of moments, its matrices whole.
fn whole(file: &[u8]) -> Vec<u8> {
    let header = Moments::of_file("moments.safetensors", file).expect("moments").shard.header;
    assert!(header.tensors().iter().any(|tensor| tensor.shape == [20, 15]) && !header.is_in_place());
    let laid = header.tensors().iter().map(|it| (it.name.clone(), it.dtype, it.shape.clone()));
    let laid = Header::layout(laid, header.metadata().clone()).expect("distinct names");
    let mut bytes = laid.to_bytes();
    for name in laid.tensors().iter().map(|tensor| &tensor.name) {
        let tensor = header.tensors().iter().find(|tensor| tensor.name == *name).expect("it was laid out");
        let mut room = vec![0; usize::try_from(tensor.len()).unwrap()];
        let read = |_, at: u64, into: &mut [u8]| {
            into.copy_from_slice(&file[usize::try_from(at).unwrap()..][..into.len()]);
            Ok::<(), Infallible>(())
        };
        let Ok(()) = header.read(tensor.range.start, &mut room, read);
        bytes.extend(room);
    }
    bytes
}
