//! The journal of a search: a line of JSON for each trial, on the disk before the next begins.
//!
//! Its first line says what the scores belong to: the bytes of the checkpoints, how they are merged, who scores. A search that
//! was killed leaves at most half a line at the end, which is cut off; whatever else is wrong with a journal is an error.

use std::fs::{File, TryLockError};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use mwa::search::is_same;
use mwa::{Error, ErrorKind, Goal, Result};
use serde_json::{Map, Value, json};

use super::entry::Entry;
use super::evaluator::Evaluators;
use super::report::Tried;
use super::watch::Watch;
use crate::io::disk::io_error;

/// The version of the format.
const VERSION: u64 = 1;
/// More than this is no journal.
const LIMIT: u64 = 1 << 30;

/// The file of a search beside its output.
pub(super) fn beside(out: &Path, ending: &str) -> PathBuf {
    let mut name = out.file_name().unwrap_or_default().to_owned();
    name.push(format!(".search.{ending}"));
    out.with_file_name(name)
}

/// An open journal, held by this process.
#[derive(Debug)]
pub(super) struct Journal {
    file: File,
    path: PathBuf,
    entries: Vec<Entry>,
}

impl Journal {
    /// Where the journal of an output is, and whether there is one to go on with.
    ///
    /// # Errors
    /// [`ErrorKind::Output`] where there is one, and nobody said what is to become of it.
    pub(super) fn look(out: &Path, force: bool, resume: bool) -> Result<(PathBuf, bool)> {
        let path = beside(out, "jsonl");
        let is_there = path.symlink_metadata().is_ok_and(|found| found.len() > 0);
        if is_there && !resume && !force {
            return Err(Error::new(ErrorKind::Output, "holds the trials of an earlier search")
                .file(path.display().to_string())
                .help(
                    "go on with that search by --resume, begin anew by --force, or choose another output",
                ));
        }
        Ok((path, is_there && resume))
    }

    /// Open it, to go on or to begin.
    ///
    /// # Errors
    /// When it belongs to another search, is damaged, or in use.
    pub(super) fn open(
        path: &Path,
        is_begun: bool,
        recipe: &Map<String, Value>,
        evaluators: &Evaluators<'_>,
        goal: Goal,
        watch: &dyn Watch,
    ) -> Result<Self> {
        let failed =
            |error: std::io::Error| io_error("cannot open it", &error).file(path.display().to_string());
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(failed)?;
        }
        let mut options = File::options();
        let file = options.read(true).write(true).create(true).truncate(false).open(path).map_err(failed)?;
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => {
                return Err(Error::new(ErrorKind::Output, "is in use: another search is writing to it")
                    .file(path.display().to_string())
                    .help("wait until that search ends, or choose another output"));
            }
            // a file system without locks has none to be in the way
            Ok(()) | Err(TryLockError::Error(_)) => {}
        }
        let mut header = Map::new();
        header.insert("mwa_search".into(), VERSION.into());
        header.insert("evaluator".into(), evaluators.search.name().into());
        header.insert("goal".into(), goal.to_string().into());
        header.extend(recipe.clone());
        let mut journal = Self { file, path: path.to_owned(), entries: Vec::new() };
        let is_whole = is_begun && journal.read(&header)?;
        let count = journal.trials().count();
        if is_whole && count > 0 && !journal.trials().any(|entry| entry.score.is_some()) {
            watch.note(&format!("none of the {count} trials of before has a score: they are tried again"));
        } else if is_whole {
            // there may be a score on other data alone
            if count > 0 {
                watch.note(&format!("{count} trials of before are known: they are not scored again"));
            }
            return Ok(journal);
        }
        journal.entries.clear();
        journal.file.set_len(0).and_then(|()| journal.file.rewind()).map_err(failed)?;
        journal.append(&Value::Object(header))?;
        Ok(journal)
    }

    /// Read what is there; whether there is a first line at all.
    fn read(&mut self, header: &Map<String, Value>) -> Result<bool> {
        let path = self.path.clone();
        let failed =
            |error: std::io::Error| io_error("cannot read it", &error).file(path.display().to_string());
        let damaged = |line: usize, error: &dyn core::fmt::Display| {
            Error::new(ErrorKind::Input, format!("line {line} is not a trial of mwa search: {error}"))
                .file(path.display().to_string())
                .help("restore the file, or begin anew by --force without --resume")
        };
        let mut bytes = Vec::new();
        (&self.file).take(LIMIT).read_to_end(&mut bytes).map_err(failed)?;
        // what has no end was being written when the search was killed
        let whole = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
        let mut lines = bytes[..whole].split(|&byte| byte == b'\n').enumerate();
        let Some((_, first)) = lines.next().filter(|_| whole > 0) else { return Ok(false) };
        let first: Map<String, Value> = serde_json::from_slice(first).map_err(|error| damaged(1, &error))?;
        if let Some(format) =
            first.get("mwa_search").and_then(Value::as_u64).filter(|&format| format > VERSION)
        {
            let detail =
                format!("is a journal of format {format}, and this mwa knows formats up to {VERSION}");
            return Err(Error::new(ErrorKind::Input, detail).file(path.display().to_string()).help(
                "go on with the mwa that began it or a newer one, or begin anew by --force without --resume",
            ));
        }
        if first.get("mwa_search") != Some(&json!(VERSION)) {
            return Err(damaged(1, &"it does not begin as one of this version does"));
        }
        let text = |value: Option<&Value>| value.map_or_else(|| "nothing".into(), Value::to_string);
        for (name, now) in header {
            // searches of before had none
            let none = json!([]);
            let before = first.get(name).or((name == "groups").then_some(&none));
            if before != Some(now) {
                let detail = match name.as_str() {
                    "inputs" => "belongs to other checkpoints: their bytes, their choice or their order is not the same".into(),
                    _ => format!("belongs to another search: its {name} was {}, and is {now} now", text(before)),
                };
                return Err(Error::new(ErrorKind::Usage, detail)
                    .file(path.display().to_string())
                    .help("search as before to go on, begin anew by --force without --resume, or choose another output"));
            }
        }
        for (at, line) in lines.filter(|(_, line)| !line.is_empty()) {
            let entry: Entry = serde_json::from_slice(line).map_err(|error| damaged(at + 1, &error))?;
            self.entries.push(entry);
        }
        self.file.set_len(whole as u64).and_then(|()| self.file.seek(SeekFrom::End(0))).map_err(failed)?;
        Ok(true)
    }

    /// What came of these weights, in the search or by the evaluator of this name on other data.
    pub(super) fn find(&self, holdout: Option<&str>, weights: &[f64]) -> Option<&Entry> {
        let mut entries = self.entries.iter();
        entries.find(|entry| entry.holdout.as_deref() == holdout && is_same(&entry.weights, weights))
    }

    /// Write down a trial.
    pub(super) fn write(&mut self, row: &Tried, holdout: Option<&str>) -> Result<()> {
        let mut line = serde_json::to_value(row).expect("a row is plain data");
        if let (Some(fields), Some(holdout)) = (line.as_object_mut(), holdout) {
            fields.insert("holdout".into(), holdout.into());
        }
        self.append(&line)?;
        self.entries.push(serde_json::from_value(line).expect("a row has all of an entry"));
        Ok(())
    }

    /// What came of trials of the search itself, not on other data.
    fn trials(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(|entry| entry.holdout.is_none())
    }

    /// Remove it, if there is no score in it: nobody will want to go on from there.
    pub(super) fn forget(&self) {
        if self.entries.iter().all(|entry| entry.score.is_none()) {
            let _ = std::fs::remove_file(&self.path);
        }
    }

    fn append(&mut self, line: &Value) -> Result<()> {
        let text = format!("{line}\n");
        self.file
            .write_all(text.as_bytes())
            .and_then(|()| self.file.sync_data())
            .map_err(|error| io_error("cannot write it", &error).file(self.path.display().to_string()))
    }
}
