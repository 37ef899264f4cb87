//! Check a merged folder: its files against the report, the inputs against the report, and the merge made again.

use std::path::{Component, Path, PathBuf};

use mwa::{Error, ErrorKind, Result, Weights};
use serde::Serialize;

use crate::find::checkpoint::{Checkpoint, read_text};
use crate::find::choose::Choice;
use crate::io::hash::hash_file;
use crate::merge;
use crate::options::{Machine, MergeOptions, REPORT};
use crate::progress::Progress;
use mwa::report::{HashedFile, Report};

/// What [`verify`] found.
#[derive(Clone, Debug, Serialize)]
pub struct Verified {
    /// The merged files that the report names.
    pub outputs: Vec<Checked>,
    /// The files that they were made of.
    pub inputs: Vec<Checked>,
    /// Whether merging again gave the same bytes; `None` when inputs are gone or changed, so that it was not tried.
    pub remade: Option<bool>,
}

/// One file.
#[derive(Clone, Debug, Serialize)]
pub struct Checked {
    /// Where it was looked for.
    pub path: String,
    /// Whether it is what the report says.
    pub state: State,
}

/// A file compared with its hash in the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// The same bytes.
    Same,
    /// Other bytes.
    Changed,
    /// Not there.
    Missing,
}

impl Verified {
    /// Everything is there, unchanged, and merges to the same bytes.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.remade == Some(true)
            && self.outputs.iter().chain(&self.inputs).all(|file| file.state == State::Same)
    }
}

/// Recompute the merge in `folder` from its report and compare bytes and hashes. Writes only to the temporary folder.
///
/// # Errors
/// When there is no report, or it is damaged; a file that differs is no error but a finding.
pub fn verify(folder: &Path, machine: Machine, progress: &dyn Progress) -> Result<Verified> {
    let path = folder.join(REPORT);
    let at = |error: Error| {
        error.file(path.display().to_string()).help("the report was damaged or edited: merge again")
    };
    if !path.is_file() {
        return Err(Error::new(ErrorKind::Input, format!("holds no {REPORT}"))
            .file(folder.display().to_string())
            .help("verify takes a folder that `mwa merge` wrote"));
    }
    let report: Report = serde_json::from_str(&read_text(&path)?)
        .map_err(|error| at(Error::new(ErrorKind::Input, format!("is not a merge report: {error}"))))?;
    let check = |base: &Path, file: &HashedFile| -> Result<Checked> {
        let path = base.join(&file.name);
        let state = match path.metadata() {
            Err(_) => State::Missing,
            Ok(metadata) if metadata.len() != file.bytes => State::Changed,
            Ok(_) if hash_file(&path)? != file.sha256 => State::Changed,
            Ok(_) => State::Same,
        };
        Ok(Checked { path: clean(&path).display().to_string(), state })
    };
    let outputs = report.outputs.iter().map(|file| check(folder, file)).collect::<Result<_>>()?;
    let mut inputs = Vec::new();
    for input in &report.inputs {
        let place = folder.join(&input.path);
        let base = if place.is_file() { place.parent().unwrap_or(&place) } else { &place };
        let base = report.adapter.as_ref().map_or_else(|| base.to_owned(), |adapter| base.join(adapter));
        for file in &input.files {
            inputs.push(check(&base, file)?);
        }
    }
    let inputs_are_there = inputs.iter().all(|file| file.state == State::Same);
    let remade =
        if inputs_are_there { Some(remake(folder, &report, machine, progress).map_err(at)?) } else { None };
    Ok(Verified { outputs, inputs, remade })
}

/// The path without detours, for people: `merged/../run` is `run`.
fn clean(path: &Path) -> PathBuf {
    let mut clean = PathBuf::new();
    for part in path.components() {
        match (part, clean.components().next_back()) {
            (Component::ParentDir, Some(Component::Normal(_))) => {
                clean.pop();
            }
            (Component::CurDir, _) => {}
            _ => clean.push(part),
        }
    }
    clean
}

fn remake(folder: &Path, report: &Report, machine: Machine, progress: &dyn Progress) -> Result<bool> {
    let checkpoints = report
        .inputs
        .iter()
        .map(|input| Checkpoint::open(&folder.join(&input.path), report.adapter.as_deref()))
        .collect::<Result<Vec<_>>>()?;
    let values: Vec<_> = report.inputs.iter().map(|input| input.weight).collect();
    let mut choice = Choice {
        inputs: report.inputs.clone(),
        checkpoints,
        weights: Weights::normalised(&values)?,
        weighting: report.weighting.clone(),
        notes: Vec::new(),
    };
    let merge = mwa::MergeOptions {
        dtype: report.dtype()?,
        space: report.space()?,
        allow_cross_run: true,
        residual: false,
        ..mwa::MergeOptions::default()
    };
    let how = MergeOptions { merge, machine, ..MergeOptions::default() };
    let scratch = tempfile::tempdir()
        .map_err(|error| crate::io::disk::io_error("cannot make a temporary folder", &error))?;
    let again = merge::merge_choice(&mut choice, &how, None, &scratch.path().join("again"), &[], progress)?;
    let hashes = |report: &Report| report.outputs.iter().map(|file| file.sha256.clone()).collect::<Vec<_>>();
    Ok(hashes(&again) == hashes(report))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn detours_are_left_out_of_paths() {
        for (path, expected) in [
            ("merged/../run/checkpoint-1", "run/checkpoint-1"),
            ("/a/b/../../c", "/c"),
            ("./../run", "../run"),
            ("../merged/../../x", "../../x"),
        ] {
            assert_eq!(clean(Path::new(path)), Path::new(expected), "{path}");
        }
    }
}
