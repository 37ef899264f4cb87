//! Merge into the layout of the newest checkpoint, which training on several devices wrote: the core's plan over a copy of its folder.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use mwa::convert::{Own, crc32};
use mwa::report::{CARD, HashedFile, PICTURE, REPORT, Report};
use mwa::{Error, ErrorKind, Readers, Result};

use crate::convert::Sources;
use crate::engine::device::DeviceChoice;
use crate::find::choose::weigh;
use crate::io::disk::{Disk, io_error, read_at, text_of, write_at};
use crate::io::hash::blake3_of;
use crate::io::staging::{Staging, cannot_write, leads_out_of, place_of};
use crate::io::url::{is_elsewhere, place};
use crate::merge::{Plain, close, unnamed};
use crate::options::{MergeOptions, Options};
use crate::progress::{Progress, stopped};

/// How the report calls it.
pub(crate) const OWN: &str = "own";

/// Merge beside `out`, and write what comes out of it into a copy of the newest checkpoint's folder there.
pub(crate) fn merge(
    options: &Options,
    how: &MergeOptions,
    out: &Path,
    progress: &dyn Progress,
) -> Result<Report> {
    check(options, how, out)?;
    let Plain { folder: plain, mut report } = Plain::new(options, how, out, progress)?;
    let newest = report.inputs.last().expect("there is nothing to merge without one");
    // as the user calls it, where that is enough
    let named = Path::new(&newest.name);
    let newest = if named.is_dir() { named.to_owned() } else { place(plain.path(), &newest.path) };
    let merged = report.outputs.iter().map(|file| text_of(&plain.path().join(&file.name)));
    let merged = merged.collect::<Result<Vec<_>>>()?;
    let (disk, text) = (Disk::default(), text_of(&newest)?);
    let own = disk
        .now(|| Own::new(&disk, &Readers::ALL, &merged, &text))
        .map_err(|error| unnamed(error, &plain))?;
    let mut sources = Sources::new(&own.inputs);
    // before anything is copied
    own.check_shared(&mut |input, range| sources.read(input, range))
        .map_err(|error| unnamed(error, &plain))?;
    let staging = Staging::begin(out, how.force, &[])?;
    let copied = copy(&own, &newest, &staging, progress)?;
    write(&own, &mut sources, &copied, &staging, progress).map_err(|error| unnamed(error, &plain))?;
    let mut files = copied.files;
    for name in &copied.changed {
        let path = staging.path(name);
        let bytes = fs::metadata(&path).map_err(|error| cannot_write(&path, &error))?.len();
        let blake3 = blake3_of(&path, how.machine.threads(), progress)?;
        files.push(HashedFile { blake3, ..HashedFile::unhashed(name.clone(), bytes) });
    }
    files.sort_by(|a, b| a.name.cmp(&b.name));
    if how.sha256 {
        staging.add_sha256(&mut files, progress)?;
    }
    report.format = Some(OWN.to_owned());
    report.companions = files;
    // what is left out of safetensors is there now
    report.notes.retain(|note| !note.starts_with("the weights alone are taken"));
    report.notes.extend(own.notes.iter().cloned().chain(copied.notes));
    let drawn = plain.path().join(PICTURE);
    let picture = if drawn.is_file() { Some(staging.copy(&drawn, PICTURE)?) } else { None };
    let card = mwa::card(&report, None, picture.map(|_| PICTURE));
    close(staging, &[(CARD.to_owned(), card), (REPORT.to_owned(), report.to_json())], progress)?;
    Ok(report)
}

/// Refuse what cannot be written so, before anything is merged.
fn check(options: &Options, how: &MergeOptions, out: &Path) -> Result<()> {
    let usage =
        |detail: &'static str, help: &'static str| Err(Error::new(ErrorKind::Usage, detail).help(help));
    if how.merge.dtype.is_some() {
        return usage(
            "--format own keeps the dtypes that weights have in the checkpoint",
            "leave out --dtype",
        );
    }
    if how.machine.device == DeviceChoice::Wasm {
        return usage(
            "--format own reads the checkpoint's files outside of the sandbox that --device wasm is for",
            "leave out one of them",
        );
    }
    if how.merge.allow_non_finite {
        return usage(
            "--format own writes numbers alone, and --allow-non-finite has nothing to say there",
            "leave out one of them",
        );
    }
    if options.weights_key.is_some() || options.adapter.is_some() {
        return usage(
            "--format own writes all weights of the checkpoint, and not those of one key or adapter",
            "leave out --weights-key and --adapter, or --format",
        );
    }
    if options.model.is_some() || options.base.is_some() && options.role_base.is_none() {
        return usage("--format own needs to know of no model", "leave out --base and --model");
    }
    let (run, _, weighed) = weigh(&Disk::default(), options, &[])?;
    let newest = run.inputs(&weighed.indexes).into_iter().next_back();
    let Some(newest) = newest else { return Ok(()) };
    let elsewhere = [out, Path::new(&newest.name)].into_iter().find(|path| is_elsewhere(path));
    if let Some(path) = elsewhere {
        let detail = "lies in a store, and --format own copies folders of this machine";
        return Err(Error::new(ErrorKind::Usage, detail)
            .file(path.display().to_string())
            .help("copy the checkpoints here first, and the merge there afterwards; or leave out --format"));
    }
    newest.keeps_places()
}

/// A copy of a checkpoint's folder.
struct Copied {
    /// What is there as it was.
    files: Vec<HashedFile>,
    /// What is about to change, by name: the first are the plan's files.
    changed: Vec<String>,
    notes: Vec<String>,
}

fn copy(own: &Own, newest: &Path, staging: &Staging, progress: &dyn Progress) -> Result<Copied> {
    let mut copied = Copied { files: Vec::new(), changed: Vec::new(), notes: Vec::new() };
    let changing: HashMap<_, _> =
        own.files.iter().enumerate().map(|(at, path)| (Path::new(path), at)).collect();
    let mut names = vec![None; own.files.len()];
    let root = place_of(newest)?.unwrap_or_else(|| newest.to_owned());
    let has_report = newest.join(REPORT).is_file();
    let mut folders = vec![String::new()];
    while let Some(inner) = folders.pop() {
        let folder = newest.join(&inner);
        let failed = |error: io::Error| io_error("cannot list it", &error).file(folder.display().to_string());
        let mut entries =
            fs::read_dir(&folder).and_then(Iterator::collect::<io::Result<Vec<_>>>).map_err(failed)?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let path = entry.path();
            let own_name = text_of(Path::new(&entry.file_name()))?;
            let name = if inner.is_empty() { own_name.clone() } else { format!("{inner}/{own_name}") };
            if progress.stopped() {
                return Err(stopped());
            }
            let left_out = |why: &str| format!("{} is left out: it is a link {why}", path.display());
            let failed = |error| io_error("cannot look at it", &error).file(path.display().to_string());
            let is_link = entry.file_type().map_err(failed)?.is_symlink();
            let kind = match fs::metadata(&path) {
                Err(error) if is_link && error.kind() == io::ErrorKind::NotFound => {
                    copied.notes.push(left_out("to something that is not there"));
                    continue;
                }
                kind => kind.map_err(failed)?,
            };
            let is_of_changing = || -> Result<bool> {
                let target = place_of(&path)?;
                let inner = target.as_ref().and_then(|target| target.strip_prefix(&root).ok());
                Ok(inner.is_some_and(|inner| changing.contains_key(&*newest.join(inner))))
            };
            if is_link && leads_out_of(newest, &path)?.is_some() {
                copied.notes.push(left_out("out of the checkpoint"));
            } else if is_link && (kind.is_dir() || is_of_changing()?) {
                // a copy would have what was there before the merge
                copied.notes.push(left_out("to what lies in the checkpoint: make it anew"));
            } else if kind.is_dir() {
                folders.push(name);
            } else if inner.is_empty() && [CARD, REPORT, PICTURE].contains(&&*name) || !kind.is_file() {
                // an earlier merge's words are of that
                if !has_report && kind.is_file() {
                    copied.notes.push(format!("{} is left out: the merge has its own", path.display()));
                }
            } else if let Some(&number) = changing.get(&*path) {
                let from = File::open(&path)
                    .map_err(|error| io_error("cannot read it", &error).file(path.display().to_string()))?;
                let mut to = staging.create(&name, 0)?;
                io::copy(&mut &from, &mut to).map_err(|error| cannot_write(&staging.path(&name), &error))?;
                names[number] = Some(name);
            } else {
                copied.files.push(staging.copy(&path, &name)?);
            }
        }
    }
    for (name, path) in names.into_iter().zip(&own.files) {
        copied.changed.push(
            name.ok_or_else(|| {
                Error::new(ErrorKind::Input, "is gone since it was read").file(path.as_str())
            })?,
        );
    }
    Ok(copied)
}

/// Put the merged weights into their places, and make the checksums right again.
fn write(
    own: &Own,
    sources: &mut Sources<'_>,
    copied: &Copied,
    staging: &Staging,
    progress: &dyn Progress,
) -> Result<()> {
    let paths: Vec<PathBuf> = copied.changed.iter().map(|name| staging.path(name)).collect();
    let open = |path: &PathBuf| {
        File::options().read(true).write(true).open(path).map_err(|error| cannot_write(path, &error))
    };
    // few are open at once: a training may have had thousands of ranks
    let mut last: Option<(usize, File)> = None;
    let mut at_file = |number: usize, act: &mut dyn FnMut(&File) -> io::Result<()>| -> Result<()> {
        let file = match last.take() {
            Some((same, file)) if same == number => file,
            _ => open(&paths[number])?,
        };
        act(&file).map_err(|error| cannot_write(&paths[number], &error))?;
        last = Some((number, file));
        Ok(())
    };
    for piece in own.pieces() {
        if progress.stopped() {
            return Err(stopped());
        }
        let bytes = own.make(&piece, &mut |input, range| sources.read(input, range))?;
        let at_file = core::cell::RefCell::new(&mut at_file);
        own.put(
            &piece,
            &bytes,
            &mut |file, at, into| (at_file.borrow_mut())(file, &mut |open| read_at(open, into, at)),
            &mut |file, at, bytes| (at_file.borrow_mut())(file, &mut |open| write_at(open, bytes, at)),
        )?;
    }
    let mut buffer = vec![0; 1 << 20];
    for (number, data, places) in own.sums() {
        let mut crc = 0;
        let mut at = data.start;
        while at < data.end {
            let part = usize::try_from((data.end - at).min(buffer.len() as u64))
                .expect("it is the buffer's length at most");
            at_file(number, &mut |file| read_at(file, &mut buffer[..part], at))?;
            crc = crc32(crc, &buffer[..part]);
            at += part as u64;
        }
        for place in places {
            at_file(number, &mut |file| write_at(file, &crc.to_le_bytes(), *place))?;
        }
    }
    for number in 0..paths.len() {
        at_file(number, &mut File::sync_all)?;
    }
    Ok(())
}
