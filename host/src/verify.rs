//! Check a merged folder: its files against the report, the inputs against the report, and the merge made again.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use mwa::extract::ExtractRank;
use mwa::files::{Kind, is_inside, last};
use mwa::report::{CARD, CONFIG, HashedFile, PICTURE, REPORT, Report, is_loaded, refuse_newer};
use mwa::{Error, ErrorKind, Result, Weights, moments_at};
use serde::{Deserialize, Serialize};

use crate::aggregate::{partial, server};
use crate::find::checkpoint::read_text;
use crate::find::choose::Choice;
use crate::io::cloud::{Object, upload};
use crate::io::disk::{io_error, kind_of};
use crate::io::hash::{blake3_of, sha256_of};
use crate::io::scratch::Scratch;
use crate::io::staging::leads_out;
use crate::io::url::{self, is_elsewhere};
use crate::merge::Planned;
use crate::options::{Machine, MergeOptions};
use crate::progress::Progress;
use crate::recover;

/// How the folder is called in which a merge is made again.
const SCRATCH: &str = "mwa-verify-";

/// What [`verify`] found.
#[derive(Clone, Debug, Serialize)]
pub struct Verified {
    /// The merged files that the report names.
    pub outputs: Vec<Checked>,
    /// What lies beside them and decides what they do: shard index, configs, tokenizer, templates.
    pub companions: Vec<Checked>,
    /// Files in the folder that the merge did not write, but for its card and hidden folders.
    pub others: Vec<Checked>,
    /// The files that they were made of.
    pub inputs: Vec<Checked>,
    /// Whether merging again gave the same bytes; `None` when inputs are gone or changed, so that it was not tried.
    pub remade: Option<bool>,
}

/// One file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
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
    /// Not in the report, though a program that loads models may read it.
    Foreign,
    /// Not in the report, and of no kind that is loaded with a model.
    Beside,
}

impl Verified {
    /// Everything is there, unchanged, merges to the same bytes, and nothing else is there that a program may load.
    #[must_use]
    pub fn is_good(&self) -> bool {
        let mut all = self.outputs.iter().chain(&self.companions).chain(&self.others).chain(&self.inputs);
        self.remade == Some(true) && all.all(|file| matches!(file.state, State::Same | State::Beside))
    }
}

/// Recompute the merge in `folder` from its report and compare bytes and hashes. Writes only to the temporary folder.
///
/// # Errors
/// When there is no report, or it is damaged; a file that differs is no error but a finding.
pub fn verify(folder: &Path, machine: Machine, progress: &dyn Progress) -> Result<Verified> {
    let folder = &*url::clean(folder);
    let path = folder.join(REPORT);
    let at = |error: Error| {
        error.file(path.display().to_string()).help("the report was damaged or edited: merge again")
    };
    if kind_of(folder)? == Kind::Missing {
        return Err(Error::new(ErrorKind::Input, "does not exist")
            .file(folder.display().to_string())
            .help("verify takes a folder that mwa wrote, with its report"));
    }
    if !is_file(&path)? {
        return Err(Error::new(ErrorKind::Input, format!("holds no {REPORT}"))
            .file(folder.display().to_string())
            .help("verify takes a folder that mwa wrote, with its report; mwa convert and mwa moments write none"));
    }
    let text = read_text(&path)?;
    // before all of it is understood, which it need not be
    if let Ok(Head { mwa }) = serde_json::from_str(&text) {
        refuse_newer(&mwa).map_err(|error| error.file(path.display().to_string()))?;
    }
    let report: Report = serde_json::from_str(&text)
        .map_err(|error| at(Error::new(ErrorKind::Input, format!("is not a merge report: {error}"))))?;
    let how = options(&report, machine).map_err(at)?;
    let weights = report.inputs.iter().map(|input| input.weight).collect::<Vec<_>>();
    if report.folded.is_none() && report.extracted.is_none() {
        Weights::normalised(&weights).map_err(at)?;
    }
    // names that lead elsewhere would have other files checked than those that are loaded from the folder
    // what was recovered lies in several places, and is only made again
    let is_recovered = report.recovered.is_some();
    let is_weights = |input, file: &&HashedFile| !report.is_moments(input, file);
    let inputs = report.inputs.iter().filter(|_| !is_recovered);
    let files = inputs.flat_map(|input| input.files.iter().filter(move |file| is_weights(input, file)));
    let server = report.round.as_ref().and_then(|round| round.server.as_ref());
    let names = files.chain(&report.outputs).chain(&report.companions).map(|file| &file.name);
    if let Some(name) = names.chain(&report.adapter).find(|name| !is_inside(name)) {
        return Err(at(Error::new(
            ErrorKind::Input,
            format!("names `{name}`, which is not a file in the folder"),
        )));
    }

    let check = |path: &Path, file: &HashedFile| check(path, file, machine, progress);
    let check_here = |files: &[HashedFile]| -> Result<Vec<_>> {
        let check_here = |file: &HashedFile| {
            let path = folder.join(&file.name);
            // what it leads to may become another file, or be one that is nobody's business
            if let Some(place) = leads_out(&path)? {
                let detail = format!("is a link out of the folder, to {}", place.display());
                return Err(Error::new(ErrorKind::Input, detail)
                    .file(path.display().to_string())
                    .help("verify a folder that holds the files themselves"));
            }
            check(&path, file)
        };
        files.iter().map(check_here).collect()
    };
    // what was converted is there in another container, and a server steps from what came out
    let is_between = report.format.is_some() || server.is_some();
    let outputs = if is_between { Vec::new() } else { check_here(&report.outputs)? };
    let mut inputs = Vec::new();
    for input in report.inputs.iter().filter(|_| !is_recovered) {
        let place = url::place(folder, &input.path);
        let base = if is_file(&place)? { place.parent().unwrap_or(&place) } else { &place };
        let base = report.adapter.as_ref().map_or_else(|| base.to_owned(), |adapter| base.join(adapter));
        for file in &input.files {
            let path = if is_weights(input, &file) {
                base.join(&file.name)
            } else {
                moments_at(&base.to_string_lossy(), &file.name).into()
            };
            // the merge is made again of what the store says is the same, and must come to the same bytes
            inputs.push(match &file.identity {
                Some(identity) if is_elsewhere(&path) => identified(&path, file, identity)?,
                _ => check(&path, file)?,
            });
        }
    }
    if let Some(state) = server.and_then(|server| server.state.as_ref()) {
        inputs.push(check(&folder.join(&state.name), state)?);
    }
    let inputs_are_there = inputs.iter().all(|file| file.state == State::Same);
    let again = if inputs_are_there { Some(remake(folder, &report, &how, progress)?) } else { None };

    // a report without them comes from a host that could not hash them: they are what merging again gives
    let mut companions = report.companions.clone();
    if let (true, Some(again)) = (companions.is_empty(), &again) {
        let is_there = |file: &&HashedFile| {
            file.name == CONFIG || kind_of(&folder.join(&file.name)).is_ok_and(|kind| kind != Kind::Missing)
        };
        companions = again.companions.iter().filter(is_there).cloned().collect();
    }
    let wrote = |name: &str| match &again {
        None => report.wrote(name),
        Some(_) => {
            let mut files = report.outputs.iter().chain(&companions);
            [CARD, REPORT, PICTURE].contains(&name) || files.any(|file| file.name == name)
        }
    };
    let others = others(folder, &wrote)?;
    let companions = check_here(&companions)?;
    // reports of before have no BLAKE3: what they say of their files was checked above
    let same = |again: &[HashedFile], before: &[HashedFile]| -> Result<bool> {
        let mut same = again.len() == before.len();
        for (again, before) in again.iter().zip(before) {
            let hash = match before.blake3.as_str() {
                "" => &blake3_of(&folder.join(&before.name), machine.threads(), progress)?,
                known => known,
            };
            same &= again.name == before.name && again.blake3 == hash;
        }
        Ok(same)
    };
    let is_same = |again: &Report| -> Result<bool> {
        Ok(same(&again.outputs, &report.outputs)?
            && (report.companions.is_empty()
                || report.format.is_some()
                || same(&again.companions, &report.companions)?))
    };
    let remade = again.as_ref().map(is_same).transpose()?;
    Ok(Verified { outputs, companions, others, inputs, remade })
}

/// What every report of any version says.
#[derive(Deserialize)]
struct Head {
    mwa: String,
}

/// Compare one file with what the report says of it.
fn check(path: &Path, file: &HashedFile, machine: Machine, progress: &dyn Progress) -> Result<Checked> {
    if is_elsewhere(path) {
        let is_same = match kind_of(path)? {
            Kind::Missing => return Ok(Checked { path: path.display().to_string(), state: State::Missing }),
            Kind::File(len) => len == file.bytes && has_hashes(path, file, machine, progress)?,
            Kind::Folder | Kind::Other => false,
        };
        let state = if is_same { State::Same } else { State::Changed };
        return Ok(Checked { path: path.display().to_string(), state });
    }
    let is_absent =
        |error: &io::Error| matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory);
    let state = match path.metadata() {
        Err(error) if is_absent(&error) => State::Missing,
        Err(error) => return Err(io_error("cannot look at it", &error).file(path.display().to_string())),
        // a pipe or a device would be read for ever
        Ok(metadata) if !metadata.is_file() || metadata.len() != file.bytes => State::Changed,
        Ok(_) => {
            if has_hashes(path, file, machine, progress)? {
                State::Same
            } else {
                State::Changed
            }
        }
    };
    Ok(Checked { path: clean(path).display().to_string(), state })
}

/// Whether a file has the hashes that the report says, of which there must be one.
fn has_hashes(path: &Path, file: &HashedFile, machine: Machine, progress: &dyn Progress) -> Result<bool> {
    if !file.blake3.is_empty() && blake3_of(path, machine.threads(), progress)? != file.blake3 {
        return Ok(false);
    }
    match &file.sha256 {
        Some(sha256) => Ok(sha256_of(path, progress)? == *sha256),
        None => Ok(!file.blake3.is_empty()),
    }
}

/// Compare one file in a store with what that said of it when it was merged.
fn identified(path: &Path, file: &HashedFile, identity: &str) -> Result<Checked> {
    let state = match kind_of(path)? {
        Kind::Missing => State::Missing,
        Kind::File(len) if len == file.bytes && Object::open(path)?.identity() == identity => State::Same,
        _ => State::Changed,
    };
    Ok(Checked { path: path.display().to_string(), state })
}

fn is_file(path: &Path) -> Result<bool> {
    Ok(matches!(kind_of(path)?, Kind::File(_)))
}

/// The files below `folder` that the merge did not write, by name; hidden folders (`.git`, `.cache`) are left out.
fn others(folder: &Path, wrote: &dyn Fn(&str) -> bool) -> Result<Vec<Checked>> {
    if is_elsewhere(folder) {
        let others = upload::names(folder)?.into_iter().filter(|name| !wrote(name));
        let checked = others.map(|name| {
            let state = if is_loaded(last(&name)) { State::Foreign } else { State::Beside };
            Checked { path: folder.join(name).display().to_string(), state }
        });
        return Ok(checked.collect());
    }
    let mut found = BTreeSet::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(inner) = folders.pop() {
        let place = folder.join(&inner);
        let failed = |error: io::Error| io_error("cannot list it", &error).file(place.display().to_string());
        for entry in fs::read_dir(&place).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name();
            let is_folder = entry.file_type().map_err(failed)?.is_dir();
            match name.to_str() {
                Some(name) if is_folder && name.starts_with('.') => {}
                Some(name) if !is_folder && wrote(&within(&inner, name)) => {}
                _ if is_folder => folders.push(inner.join(name)),
                _ => drop(found.insert(inner.join(name))),
            }
        }
    }
    let checked = found.into_iter().map(|path| {
        let name = path.file_name().and_then(|name| name.to_str());
        let state = if name.is_some_and(is_loaded) { State::Foreign } else { State::Beside };
        Checked { path: clean(&folder.join(path)).display().to_string(), state }
    });
    Ok(checked.collect())
}

/// A name in a folder within the merged one, as the report has it.
fn within(inner: &Path, name: &str) -> String {
    let parts = inner.components().map(|part| part.as_os_str().to_string_lossy());
    parts.chain([name.into()]).collect::<Vec<_>>().join("/")
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

/// How the merge of a report was done.
fn options(report: &Report, machine: Machine) -> Result<MergeOptions> {
    Ok(MergeOptions { merge: report.merging()?, machine, ..MergeOptions::default() })
}

/// Merge again, in the temporary folder.
fn remake(folder: &Path, report: &Report, how: &MergeOptions, progress: &dyn Progress) -> Result<Report> {
    if report.folded.is_some() {
        return folded_again(folder, report, how, progress);
    }
    if report.extracted.is_some() {
        return extracted_again(folder, report, how, progress);
    }
    let round = report.round.as_ref();
    if let Some(kind) = round.and_then(|round| round.partials) {
        let threads = how.machine.threads();
        return in_scratch(|again| partial::again(folder, report, kind, again, threads, progress));
    }
    let choice = match &report.recovered {
        Some(recovered) => recover::again(folder, recovered)?,
        None => Choice::again(folder, report)?,
    };
    let mut planned = Planned::new(choice, how)?;
    in_scratch(|again| {
        let mut merged = planned.run(how, again, progress)?;
        if let Some(told) = round.and_then(|round| round.server.as_ref()) {
            let (stepped, threads) = (again.with_file_name("stepped"), how.machine.threads());
            let mut files = server::again(folder, report, told, again, &stepped, threads, progress)?;
            files.append(&mut merged.companions);
            merged.companions = files;
        }
        Ok(merged)
    })
}

/// Make something again in a folder of its own in the temporary folder.
fn in_scratch(make: impl FnOnce(&Path) -> Result<Report>) -> Result<Report> {
    let temporary = std::env::temp_dir();
    drop(Scratch::abandoned(&temporary, SCRATCH));
    let scratch = Scratch::new(&temporary, SCRATCH).map_err(|error| {
        io_error("cannot make a temporary folder there, to merge again in", &error)
            .file(temporary.display().to_string())
            .help("say by TMPDIR where there is room for the merge")
    })?;
    let again = scratch.path().join("again");
    make(&again).map_err(|error| {
        // the file of the output is of no interest, but where it was
        let is_ours = error.at_file().is_some_and(|file| Path::new(file).starts_with(scratch.path()));
        if error.kind() == ErrorKind::Io && is_ours {
            Error::new(ErrorKind::Io, format!("has no room to merge again in: {}", error.detail()))
                .file(temporary.display().to_string())
                .help("say by TMPDIR where there is room for the merge")
        } else {
            error
        }
    })
}

/// The two inputs of what is made of a model and its adapter, or of two models.
fn both(folder: &Path, report: &Report) -> Result<[PathBuf; 2]> {
    match report.inputs.as_slice() {
        [one, other] => Ok([one, other].map(|input| url::place(folder, &input.path))),
        inputs => {
            let detail = format!("names {} inputs where two belong", inputs.len());
            Err(Error::new(ErrorKind::Input, detail).file(folder.join(REPORT).display().to_string()))
        }
    }
}

/// Take the adapter of a report out of its model again, in the temporary folder.
fn extracted_again(
    folder: &Path,
    report: &Report,
    how: &MergeOptions,
    progress: &dyn Progress,
) -> Result<Report> {
    let [tuned, base] = both(folder, report)?;
    let rank = report.extracted.as_ref().map(|told| told.rank.as_str()).unwrap_or_default();
    let rank = match rank.strip_prefix("error ") {
        Some(error) => error.parse().map(ExtractRank::Error).ok(),
        None => rank.parse().map(ExtractRank::Fixed).ok(),
    };
    let rank = rank.ok_or_else(|| {
        let detail = "says no rank of what was extracted";
        Error::new(ErrorKind::Input, detail).file(folder.join(REPORT).display().to_string())
    })?;
    let name = report.extracted.as_ref().map(|told| told.base.as_str());
    in_scratch(|again| crate::extract(&tuned, &base, (rank, name), how, again, progress))
}

/// Fold the adapter of a report into its base again, in the temporary folder.
fn folded_again(
    folder: &Path,
    report: &Report,
    how: &MergeOptions,
    progress: &dyn Progress,
) -> Result<Report> {
    let [base, adapter] = both(folder, report)?;
    // what was let through comes again
    let mut how = *how;
    how.merge.allow_non_finite = true;
    in_scratch(|again| crate::apply(&adapter, &base, &how, again, progress))
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
