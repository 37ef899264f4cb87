//! The output folder: made under another name beside its place, and put there whole or not at all.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use mwa::checkpoint::step_of_folder;
use mwa::digest::Digest;
use mwa::files::{is_inside, is_within};
use mwa::report::{HashedFile, REPORT, Report};
use mwa::{Error, ErrorKind, LogKind, Readers, Result};

use crate::find::checkpoint::{Checkpoint, is_own_weights, read_text};
use crate::io::cloud::upload;
use crate::io::disk::{Opened, changed, io_error};
use crate::io::hash::sha256_of;
use crate::io::left;
use crate::io::scratch::Scratch;
use crate::io::store::Store;
use crate::io::url::{clean, is_elsewhere};
use crate::progress::Progress;

/// How the folder is called while it is made.
const MAKING: &str = ".mwa-merge-";
/// How a folder is called that holds an earlier merge under its own name, while another takes its place.
const REPLACED: &str = ".mwa-old-";
/// How often a parent folder is made again that another merge, failing, took away as empty.
const MOST_TRIES: usize = 100;

/// An output folder in the making; gone when dropped before [`Staging::publish`], with the folders made to hold it.
pub(crate) struct Staging {
    // in this order: folders above it can go only once it is gone
    folder: Scratch,
    above: Made,
    target: PathBuf,
    /// The target as the user called it.
    shown: PathBuf,
    force: bool,
}

/// Folders that had to be made, outermost first; those that are empty when this is dropped are taken away.
#[derive(Default)]
struct Made(Vec<PathBuf>);

impl Staging {
    /// Refuse an output that exists, unless it is empty or, with `force`, an earlier merge and nothing else.
    pub(crate) fn check(target: &Path, force: bool) -> Result<()> {
        if is_elsewhere(target) {
            return upload::check(&clean(target));
        }
        Self::check_around(target)?;
        let refuse = |detail: &'static str, help: &'static str| {
            Err(Error::new(ErrorKind::Output, detail).file(target.display().to_string()).help(help))
        };
        let mut entries = match fs::read_dir(target) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound && target.symlink_metadata().is_err() => {
                return Ok(());
            }
            Err(_) if target.symlink_metadata().is_ok_and(|found| !found.is_dir()) => {
                return refuse("exists and is not a folder", "choose another output folder");
            }
            Err(error) => return Err(io_error("cannot list it", &error).file(target.display().to_string())),
        };
        if entries.next().is_none() {
            Ok(())
        } else if force {
            earlier(target, target).map(drop)
        } else {
            refuse(
                "exists already",
                match earlier(target, target) {
                    Ok(_) => "choose another output folder, or replace an earlier merge with --force",
                    Err(_) => "choose another output folder",
                },
            )
        }
    }

    /// Refuse an output inside a checkpoint, also such as nobody named: a folder that is named after a step and holds weights.
    pub(crate) fn check_around(target: &Path) -> Result<()> {
        let name = |folder: &Path| Some(folder.file_name()?.to_str()?.to_owned());
        let is_step =
            |name: String| step_of_folder(&name).is_some() && !name.bytes().all(|it| it.is_ascii_digit());
        let has_weights = |folder: &Path| {
            let entries = fs::read_dir(folder).into_iter().flatten().flatten();
            entries.filter_map(|entry| entry.file_name().into_string().ok()).any(|name| is_own_weights(&name))
        };
        let place = target_of(target)?;
        let home =
            place.ancestors().skip(1).find_map(|folder| fs::canonicalize(folder).ok()).unwrap_or_default();
        match home.ancestors().find(|folder| name(folder).is_some_and(is_step) && has_weights(folder)) {
            None => Ok(()),
            Some(folder) => {
                let here = std::env::current_dir().and_then(fs::canonicalize).unwrap_or_default();
                Err(lies_in(target, folder.strip_prefix(here).unwrap_or(folder)))
            }
        }
    }

    /// Refuse an output inside a checkpoint that is read.
    pub(crate) fn check_outside(target: &Path, input: &Path) -> Result<()> {
        if is_elsewhere(target) || is_elsewhere(input) {
            return Ok(());
        }
        let (place, inside) = (place_of(input)?, target_of(target)?);
        let above = inside.parent().map(place_of).transpose()?.flatten();
        match (place, above) {
            (Some(place), Some(above)) if place.is_dir() && above.starts_with(&place) => {
                Err(lies_in(target, input))
            }
            _ => Ok(()),
        }
    }

    /// Refuse an output that would take the place of something in `inputs`: paths that the user named.
    pub(crate) fn check_inputs<'a>(target: &Path, inputs: impl Iterator<Item = &'a Path>) -> Result<()> {
        let Some(place) = place_of(target)? else { return Ok(()) };
        for input in inputs {
            if place_of(input)?.is_some_and(|input| input.starts_with(&place)) {
                return Err(overwrites(target, &input.display().to_string()));
            }
        }
        Ok(())
    }

    /// Make sure that `target` may be written, which takes the place of none of the `inputs`, and clear away what killed merges
    /// have left there.
    pub(crate) fn make_way<'a>(
        target: &Path,
        force: bool,
        inputs: impl Iterator<Item = &'a Path>,
        progress: &dyn Progress,
    ) -> Result<()> {
        Self::tidy(target).iter().for_each(|done| progress.note(done));
        if force {
            Self::check_inputs(target, inputs)?;
        }
        Self::check(target, force)
    }

    /// Clear away what killed merges into the same parent have left, and put back an earlier merge that was moved aside.
    /// Gives what was done, in words.
    pub(crate) fn tidy(target: &Path) -> Vec<String> {
        let mut done = Vec::new();
        let making = std::env::temp_dir().join("merge");
        let target = if is_elsewhere(target) { &*making } else { target };
        let Ok(target) = std::path::absolute(target) else { return done };
        let Some(parent) = target.parent() else { return done };
        for left in Scratch::abandoned(parent, MAKING) {
            done.push(format!("{}: left by a merge that was killed; it is removed", left.path().display()));
        }
        for mut left in Scratch::abandoned(parent, REPLACED) {
            for aside in fs::read_dir(left.path()).into_iter().flatten().flatten() {
                let home = parent.join(aside.file_name());
                if home.join(REPORT).is_file() {
                    continue; // the merge that replaced it: the rest of the work is to remove it
                }
                let way = format!("{}: moved aside by a merge that was killed", aside.path().display());
                if fs::rename(aside.path(), &home).is_ok() {
                    done.push(format!("{way}; it is back at {}", home.display()));
                } else {
                    done.push(format!("{way}; it stays there, for something else is at {}", home.display()));
                    left.keep();
                    break;
                }
            }
        }
        done
    }

    /// Add SHA-256 to files that were written.
    pub(crate) fn add_sha256<'a>(
        &self,
        files: impl IntoIterator<Item = &'a mut HashedFile>,
        progress: &dyn Progress,
    ) -> Result<()> {
        for file in files {
            file.sha256 = Some(sha256_of(&self.path(&file.name), progress)?);
        }
        Ok(())
    }

    /// Begin the folder beside `target`, which must not be, lie in, or hold one of the inputs or a file read for them.
    pub(crate) fn begin(target: &Path, force: bool, inputs: &[Checkpoint]) -> Result<Self> {
        Self::check(target, force)?;
        if is_elsewhere(target) {
            return Self::begin_elsewhere(clean(target), inputs);
        }
        let shown = target.to_owned();
        let failed = |path: &Path, error: &io::Error| cannot_write(path, error);
        // what exists is replaced where it is, also behind a link
        let target = target_of(target)?;
        let parent = target.parent().unwrap_or(Path::new("/")).to_owned();
        let name = target.file_name().ok_or_else(|| {
            Error::new(ErrorKind::Output, "cannot be the name of a folder").file(shown.display().to_string())
        })?;
        let mut above = Made::default();
        let mut tries = 0;
        let (parent, folder) = loop {
            above.make(&parent).map_err(|error| failed(&parent, &error))?;
            let made = fs::canonicalize(&parent)
                .and_then(|parent| Scratch::new(&parent, MAKING).map(|folder| (parent, folder)));
            match made {
                Ok(made) => break made,
                Err(error) if error.kind() == io::ErrorKind::NotFound && tries < MOST_TRIES => tries += 1,
                Err(error) => return Err(failed(&parent, &error)),
            }
        };
        let target = parent.join(name);
        apart(&target, &shown, inputs.iter().map(|input| input.path.as_path()))?;
        for path in files_read(inputs)? {
            if place_of(&path)?.is_some_and(|place| place.starts_with(&target)) {
                return Err(overwrites(&shown, &path.display().to_string()));
            }
        }
        Ok(Self { folder, above, target, shown, force })
    }

    /// Refuse an output on this machine that would replace one of these inputs, or lie in it.
    pub(crate) fn check_apart<'a>(target: &Path, inputs: impl Iterator<Item = &'a Path>) -> Result<()> {
        if is_elsewhere(target) { Ok(()) } else { apart(&target_of(target)?, target, inputs) }
    }

    /// The same for a folder in a store, which is made ready on this machine.
    fn begin_elsewhere(target: PathBuf, inputs: &[Checkpoint]) -> Result<Self> {
        for input in inputs.iter().filter(|input| is_elsewhere(&input.path)) {
            if target.starts_with(&input.path) {
                return Err(lies_in(&target, &input.path));
            }
            if input.path.starts_with(&target) {
                return Err(overwrites(&target, &input.path.display().to_string()));
            }
        }
        let temporary = std::env::temp_dir();
        let folder = Scratch::new(&temporary, MAKING).map_err(|error| {
            io_error("cannot make a temporary folder there, to make the merge ready in", &error)
                .file(temporary.display().to_string())
                .help("say by TMPDIR where there is room for the merge")
        })?;
        Ok(Self { folder, above: Made::default(), shown: target.clone(), target, force: false })
    }

    /// Where the output will be.
    pub(crate) fn target(&self) -> &Path {
        &self.target
    }

    /// Where a file of the output is for now.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Create files of these lengths, which the store then writes.
    pub(crate) fn lay<'a>(
        &self,
        store: &mut Store,
        files: impl Iterator<Item = (&'a str, u64)>,
    ) -> Result<()> {
        let mut outputs = Vec::new();
        for (name, len) in files {
            self.create(name, len)?;
            outputs.push((self.path(name), len));
        }
        store.write_to(outputs.into_iter());
        Ok(())
    }

    /// Create a file of `len` bytes, to be written in pieces.
    pub(crate) fn create(&self, name: &str, len: u64) -> Result<File> {
        if !is_inside(name) {
            let detail = format!("`{name}` is not the name of a file in the folder");
            return Err(Error::new(ErrorKind::Output, detail).file(self.shown.display().to_string()));
        }
        let create = || {
            if let Some((folder, _)) = name.rsplit_once('/') {
                fs::create_dir_all(self.path(folder))?;
            }
            let file = File::options().read(true).write(true).create_new(true).open(self.path(name))?;
            file.set_len(len)?;
            Ok(file)
        };
        create().map_err(|error| cannot_write(&self.shown.join(name), &error))
    }

    /// Write a small file whole.
    pub(crate) fn write(&self, name: &str, bytes: &[u8]) -> Result<HashedFile> {
        let mut file = self.create(name, 0)?;
        file.write_all(bytes)
            .and_then(|()| file.sync_all())
            .map_err(|error| cannot_write(&self.shown.join(name), &error))?;
        Ok(HashedFile::of(name, bytes))
    }

    /// Take in a file that lies beside the folder already and stays there until the folder is in its place, so that nothing is lost
    /// if that is never. Where files cannot have two names it is moved.
    pub(crate) fn adopt(&self, from: &Path, name: &str) -> Result<()> {
        drop(self.create(name, 0)?);
        let to = self.path(name);
        fs::remove_file(&to)
            .and_then(|()| fs::hard_link(from, &to).or_else(|_| fs::rename(from, &to)))
            .map_err(|error| cannot_write(&self.shown.join(name), &error))
    }

    /// Copy a file byte for byte, without its permissions.
    pub(crate) fn copy(&self, from: &Path, name: &str) -> Result<HashedFile> {
        let unreadable = |error| io_error("cannot read it", &error).file(from.display().to_string());
        let failed = |error| cannot_write(&self.shown.join(name), &error);
        let changed = || changed(from);
        let source = Opened::new(from)?;
        let mut file = self.create(name, 0)?;
        let len = source.len().map_err(unreadable)?;
        let mut digest = Digest::new(len);
        let mut buffer = vec![0; 256 << 10];
        let mut bytes = 0;
        loop {
            match source.by_ref().read_some_at(&mut buffer, bytes) {
                Ok(0) => break,
                Ok(n) if bytes + n as u64 > len => return Err(changed()),
                Ok(n) => {
                    digest.update(bytes, &buffer[..n]);
                    file.write_all(&buffer[..n]).map_err(failed)?;
                    bytes += n as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(unreadable(error)),
            }
        }
        file.sync_all().map_err(failed)?;
        let blake3 = digest.finish().ok_or_else(changed)?;
        Ok(HashedFile { blake3, ..HashedFile::unhashed(name.into(), bytes) })
    }

    /// Copy tokenizer, templates and, beside full models, the model's config: each under its name from where it is.
    /// Gives what was copied, and in words what was not.
    pub(crate) fn copy_companions(
        &self,
        companions: &[(String, PathBuf)],
    ) -> Result<(Vec<HashedFile>, Vec<String>)> {
        let (mut copied, mut left_out) = (Vec::new(), Vec::new());
        for (name, path) in companions {
            match leads_out(path)? {
                None => copied.push(self.copy(path, name)?),
                Some(place) => left_out.push(format!(
                    "{} is left out: it is a link out of the checkpoint, to {}; put the file itself there to have it copied",
                    path.display(),
                    place.display()
                )),
            }
        }
        Ok((copied, left_out))
    }

    /// Put the folder in its place, and remove the earlier merge that it replaces, if any. Gives what is to be told
    /// although all is there.
    ///
    /// # Errors
    /// When the folder is not in its place, and what was there still is.
    pub(crate) fn publish(mut self, progress: &dyn Progress) -> Result<Vec<String>> {
        if is_elsewhere(&self.target) {
            return upload::publish(self.folder.path(), &self.target, progress);
        }
        let failed = |error: io::Error| cannot_write(&self.shown, &error);
        let inner = folders_in(self.folder.path()).map_err(failed)?;
        inner
            .iter()
            .map(PathBuf::as_path)
            .chain([self.folder.path()])
            .try_for_each(sync_folder)
            .map_err(failed)?;
        // opened before anything moves: what fails afterwards could no longer be told from a merge that failed
        let parent = self.target.parent().expect("begin() gave it a parent").to_owned();
        let parent = if cfg!(unix) { Some(File::open(parent)) } else { None };
        let mut notes = match self.put()? {
            None => Vec::new(),
            Some(old) => old.remove(&self.shown),
        };
        self.above.keep();
        if let Some(Err(error)) = parent.map(|parent| parent?.sync_all()) {
            notes.push(format!(
                "{} is there, but the system did not confirm that it would survive a power cut: {error}",
                self.shown.display()
            ));
        }
        Ok(notes)
    }

    /// Move the folder to its place; the earlier merge that was there, now out of the way.
    fn put(&mut self) -> Result<Option<Earlier>> {
        let failed = |error: io::Error| cannot_write(&self.shown, &error);
        if cfg!(windows) {
            let _ = fs::remove_dir(&self.target); // elsewhere an empty folder is replaced by the rename
        }
        // a folder is never renamed onto a file, nor onto a folder that holds anything
        let error = match fs::rename(self.folder.path(), &self.target) {
            Ok(()) => {
                self.folder.keep();
                return Ok(None);
            }
            Err(error) => error,
        };
        let Ok(there) = self.target.symlink_metadata() else { return Err(failed(error)) };
        // it may have come while the merge ran
        Self::check(&self.shown, self.force)?;
        if !self.force || !there.is_dir() {
            return Err(failed(error));
        }
        match exchange(self.folder.path(), &self.target) {
            Ok(()) => {
                let at = self.folder.path().to_owned();
                self.folder.keep();
                // looked at once more, where nobody knows it: what came in at the last moment is not removed
                let (files, trouble) = match earlier(&at, &self.shown) {
                    Ok(files) => (files, None),
                    Err(error)
                        if error.kind() == ErrorKind::Output && exchange(&at, &self.target).is_ok() =>
                    {
                        let _ = fs::remove_dir_all(&at);
                        return Err(error);
                    }
                    Err(error) => (Vec::new(), Some(error.to_string())),
                };
                Ok(Some(Earlier { at, files, trouble, aside: None }))
            }
            Err(error) if is_unsupported(&error) => self.put_in_two_steps(),
            Err(error) => Err(failed(error)),
        }
    }

    /// As [`Self::put`] where two folders cannot be exchanged; [`Self::tidy`] repairs what a kill in between leaves.
    fn put_in_two_steps(&mut self) -> Result<Option<Earlier>> {
        let failed = |error: io::Error| cannot_write(&self.shown, &error);
        let parent = self.target.parent().expect("begin() gave it a parent");
        let mut aside = Scratch::new(parent, REPLACED).map_err(failed)?;
        left::forget(aside.path()); // the earlier merge in it is not to go
        let at = aside.path().join(self.target.file_name().expect("begin() gave it a name"));
        fs::rename(&self.target, &at).map_err(failed)?;
        let done = earlier(&at, &self.shown)
            .and_then(|files| fs::rename(self.folder.path(), &self.target).map_err(failed).map(|()| files));
        match done {
            Ok(files) => {
                self.folder.keep();
                Ok(Some(Earlier { at, files, trouble: None, aside: Some(aside) }))
            }
            Err(error) if fs::rename(&at, &self.target).is_ok() => Err(error),
            Err(error) => {
                aside.keep();
                Err(error.help(format!("what was there is at {} now; move it back", at.display())))
            }
        }
    }
}

/// An earlier merge out of its place.
struct Earlier {
    at: PathBuf,
    /// The names of its files.
    files: Vec<PathBuf>,
    /// Why it is not known what is in it.
    trouble: Option<String>,
    /// The folder made for it alone.
    aside: Option<Scratch>,
}

impl Earlier {
    /// Remove its files, and nothing else; what is to be told.
    fn remove(mut self, shown: &Path) -> Vec<String> {
        let trouble = self.trouble.take().or_else(|| {
            let removed = self.files.iter().try_for_each(|file| fs::remove_file(self.at.join(file)));
            let removed = removed.and_then(|()| folders_in(&self.at)?.iter().try_for_each(fs::remove_dir));
            removed.and_then(|()| fs::remove_dir(&self.at)).err().map(|error| error.to_string())
        });
        let Some(trouble) = trouble else { return Vec::new() };
        if let Some(aside) = &mut self.aside {
            aside.keep();
        }
        vec![format!(
            "{}: the earlier merge is replaced, but not all of it could be removed; the rest is at {}: {trouble}",
            shown.display(),
            self.at.display()
        )]
    }
}

impl Made {
    /// Make a folder with those above it, as far as they are missing.
    fn make(&mut self, folder: &Path) -> io::Result<()> {
        let missing: Vec<_> = folder.ancestors().take_while(|folder| !folder.exists()).collect();
        for folder in missing.into_iter().rev() {
            match fs::create_dir(folder) {
                Ok(()) => {
                    left::made_for_all(folder);
                    self.0.push(folder.to_owned());
                }
                // someone else was quicker, and it is theirs
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && folder.is_dir() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn keep(&mut self) {
        self.0.drain(..).for_each(|folder| left::forget(&folder));
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        // fails for a folder in which others have put something meanwhile
        let _ = self.0.iter().rev().try_for_each(fs::remove_dir);
        self.keep();
    }
}

/// The names of the files in `folder` if it holds an earlier merge and nothing else; errors call it `shown`.
fn earlier(folder: &Path, shown: &Path) -> Result<Vec<PathBuf>> {
    let refuse = |detail: String, help: &'static str| {
        Err(Error::new(ErrorKind::Output, detail).file(shown.display().to_string()).help(help))
    };
    let is_no_merge = |why: &str| {
        let detail = format!("is not an earlier merge ({why}); it is not replaced, even with --force");
        refuse(detail, "choose another output folder, or remove this one yourself")
    };
    let path = folder.join(REPORT);
    if !path.symlink_metadata().is_ok_and(|metadata| metadata.is_file()) {
        return is_no_merge("it has no mwa-report.json");
    }
    let Ok(report) = serde_json::from_str::<Report>(&read_text(&path)?) else {
        return is_no_merge("its mwa-report.json is not the report of a merge");
    };
    let failed = |error: io::Error| io_error("cannot list it", &error).file(shown.display().to_string());
    let (mut files, mut others) = (Vec::new(), BTreeSet::new());
    let mut folders = vec![String::new()];
    while let Some(inner) = folders.pop() {
        for entry in fs::read_dir(folder.join(&inner)).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = mwa::files::join(&inner, &entry.file_name().to_string_lossy());
            let is_folder = entry.file_type().map_err(failed)?.is_dir();
            // one that the merge made holds something of it
            let made = format!("{name}/");
            if is_folder
                && report.outputs.iter().chain(&report.companions).any(|it| it.name.starts_with(&made))
            {
                folders.push(name);
            } else if !is_folder && entry.file_name().to_str().is_some() && report.wrote(&name) {
                files.push(name.into());
            } else {
                others.insert(name);
            }
        }
    }
    if others.is_empty() {
        return Ok(files);
    }
    let mut list: Vec<_> = others.iter().take(5).map(String::as_str).collect();
    if others.len() > list.len() {
        list.push("…");
    }
    let detail = format!(
        "holds what the earlier merge did not write: {}; it is not replaced, even with --force",
        list.join(", ")
    );
    refuse(detail, "move that elsewhere, or choose another output folder")
}

/// What is read of checkpoints, and of the logs of their runs.
fn files_read(checkpoints: &[Checkpoint]) -> Result<BTreeSet<PathBuf>> {
    let inside = |folder: &Path| -> Result<Vec<PathBuf>> {
        let list =
            || -> io::Result<Vec<_>> { fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect() };
        list()
            .map_err(|error: io::Error| io_error("cannot list it", &error).file(folder.display().to_string()))
    };
    let mut paths = BTreeSet::new();
    let mut runs = BTreeSet::new();
    for checkpoint in checkpoints.iter().filter(|checkpoint| !is_elsewhere(&checkpoint.path)) {
        paths.extend(checkpoint.files.iter().map(|file| file.path.clone()));
        paths.extend(checkpoint.companions.iter().map(|(_, path)| path.clone()));
        if let Some(folder) = &checkpoint.folder {
            paths.extend(inside(folder)?);
            // beside a single file, nothing is read
            runs.extend(checkpoint.path.parent());
        }
    }
    let logs = |is_wanted: fn(&LogKind) -> bool| {
        Readers::ALL.logs.iter().filter(move |kind| is_wanted(kind)).flat_map(|kind| kind.names)
    };
    for run in runs {
        // a folder above that may not be listed can hold logs all the same
        let listed = inside(if run == Path::new("") { Path::new(".") } else { run }).unwrap_or_default();
        for path in listed.into_iter().chain(logs(|_| true).map(|log| run.join(log))) {
            if path.is_dir() {
                paths.extend(logs(|kind| kind.is_in_checkpoints).map(|log| path.join(log)));
            } else {
                paths.insert(path);
            }
        }
    }
    Ok(paths)
}

fn lies_in(target: &Path, checkpoint: &Path) -> Error {
    Error::new(ErrorKind::Output, format!("lies in the checkpoint {}", checkpoint.display()))
        .file(target.display().to_string())
        .help("choose an output folder beside the checkpoints, or elsewhere")
}

/// Refuse an output in an input, or around one; `target` is where `shown` lies.
fn apart<'a>(target: &Path, shown: &Path, inputs: impl Iterator<Item = &'a Path>) -> Result<()> {
    for input in inputs.filter(|input| !is_elsewhere(input)) {
        let place = place_of(input)?.unwrap_or_else(|| input.to_owned());
        if target.starts_with(&place) && target != place {
            return Err(lies_in(shown, input));
        }
        if place.starts_with(target) {
            return Err(overwrites(shown, &input.display().to_string()));
        }
    }
    Ok(())
}

/// What to do about an output that exists, where there is no `--force`.
pub(crate) const ANOTHER: &str = "choose another output folder";

/// An error that does not advise `--force`, for what has none, but `instead`.
pub(crate) fn without_force(error: Error, instead: impl Into<Cow<'static, str>>) -> Error {
    match error.advice() {
        Some(help) if help.contains("--force") => error.help_instead(instead),
        _ => error,
    }
}

/// Where an output will be: links followed as far as there is anything, absolute.
pub(crate) fn target_of(out: &Path) -> Result<PathBuf> {
    match place_of(out)? {
        Some(place) => Ok(place),
        None => std::path::absolute(out).map_err(|error| cannot_write(out, &error)),
    }
}

/// Where a path leads, links followed; none if there is nothing.
pub(crate) fn place_of(path: &Path) -> Result<Option<PathBuf>> {
    match fs::canonicalize(path) {
        Ok(place) => Ok(Some(place)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(None)
        }
        Err(error) => Err(io_error("cannot look at it", &error).file(path.display().to_string())),
    }
}

/// Where a link in a checkpoint leads, if that is out of the checkpoint.
pub(crate) fn leads_out(path: &Path) -> Result<Option<PathBuf>> {
    path.parent().map_or(Ok(None), |folder| leads_out_of(folder, path))
}

/// The same of a checkpoint that the link may lie anywhere in.
pub(crate) fn leads_out_of(checkpoint: &Path, path: &Path) -> Result<Option<PathBuf>> {
    let (Some(place), Some(folder)) = (place_of(path)?, place_of(checkpoint)?) else { return Ok(None) };
    let is_inside = is_within(&folder.to_string_lossy(), &place.to_string_lossy());
    Ok((!is_inside).then_some(place))
}

fn overwrites(shown: &Path, input: &str) -> Error {
    Error::new(ErrorKind::Output, format!("would overwrite the input {input}"))
        .file(shown.display().to_string())
        .help("choose an output folder outside the inputs")
}

/// The folders in a folder, the innermost first.
fn folders_in(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.extend(folders_in(&entry.path())?);
            found.push(entry.path());
        }
    }
    Ok(found)
}

pub(crate) fn cannot_write(path: &Path, error: &io::Error) -> Error {
    io_error("cannot write it", error).file(path.display().to_string())
}

/// Let two folders change places in one step.
#[cfg(any(target_os = "linux", target_os = "android", target_vendor = "apple"))]
fn exchange(a: &Path, b: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    Ok(renameat_with(CWD, a, CWD, b, RenameFlags::EXCHANGE)?)
}

#[cfg(not(any(target_os = "linux", target_os = "android", target_vendor = "apple")))]
fn exchange(_: &Path, _: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// The system or the file system cannot exchange folders.
fn is_unsupported(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::Unsupported | io::ErrorKind::InvalidInput)
}

/// Make what was written into `folder` durable; systems that cannot sync a folder do it by themselves.
fn sync_folder(folder: &Path) -> io::Result<()> {
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}
