//! The merge from end to end: one merge of the core's over the files that were found, an engine, and an output folder.

use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use mwa::convert::{Conversion, ConvertOptions, Target};
use mwa::merge::{BadInput, Closing, Merge, Text};
use mwa::report::{CARD, HashedFile, PICTURE, REPORT, Report};
use mwa::{Blend, Error, ErrorKind, OpenOptions, Readers, Result, Shard, Space, WeightRule};

use crate::convert;
use crate::engine::device::DeviceChoice;
use crate::engine::{compute, execute, sandbox};
use crate::find::checkpoint::{Checkpoint, read_text};
use crate::find::choose::{Choice, weigh};
use crate::io::cloud::upload;
use crate::io::disk::{Disk, text_of};
use crate::io::scratch::Scratch;
use crate::io::staging::{Staging, cannot_write, place_of, target_of};
use crate::io::store::{Hashes, Known, Store};
use crate::io::url::{clean, is_elsewhere, is_url, place};
use crate::options::{MergeOptions, Options};
use crate::own;
use crate::plot::weights::picture;
use crate::progress::Progress;

/// Choose and weigh checkpoints, and write nothing. Where the tensors decide the weights, they are read.
///
/// # Errors
/// Whatever is wrong with paths, logs, the metric or the weights.
pub fn weights(options: &Options) -> Result<Report> {
    let WeightRule::Robust { is_product, .. } = options.choose.rule else {
        let (run, _, weighed) = weigh(&Disk::default(), options, &[])?;
        return Ok(run.report(weighed));
    };
    let space = if is_product { Space::Product(None) } else { Space::Factors };
    let allow_cross_run = options.choose.allow_cross_run;
    let merge = mwa::MergeOptions { space, allow_cross_run, ..mwa::MergeOptions::default() };
    let how = MergeOptions { merge, ..MergeOptions::default() };
    let Planned { mut merge, checkpoints, .. } = Planned::new(Choice::new(options, &[], false)?, &how)?;
    let files = checkpoints.iter().map(|checkpoint| checkpoint.files.as_slice());
    execute::weigh(&mut merge, &Store::new(files, false), how.machine, &())?;
    Ok(merge.weighed())
}

/// [`weights`], and a picture of them: an SVG.
///
/// # Errors
/// As [`weights`].
pub fn drawn(options: &Options) -> Result<(Report, String)> {
    let (run, how, weighed) = weigh(&Disk::default(), options, &[])?;
    if weighed.robust.is_some() {
        let detail = "the tensors decide the weights of this scheme, and pictures are of metrics";
        return Err(Error::new(ErrorKind::Usage, detail).help("leave out --plot"));
    }
    let picture = picture(&run, &how, &weighed);
    Ok((run.report(weighed), picture))
}

/// Merge into the folder `out`, which appears whole or not at all.
///
/// # Errors
/// As [`weights`], and whatever keeps the checkpoints from being averaged or written; then nothing is left behind.
pub fn merge(options: &Options, how: &MergeOptions, out: &Path, progress: &dyn Progress) -> Result<Report> {
    let named = options.inputs.iter().chain(&options.metrics_file).chain(&options.weights_file);
    let moments = options.moments.iter().flat_map(|it| &it.files);
    let others = options.role_base.iter().chain(moments).map(Path::new);
    Staging::make_way(out, how.force, named.map(PathBuf::as_path).chain(others), progress)?;
    if how.own {
        return own::merge(options, how, out, progress);
    }
    if let Some(target) = how.format {
        return into_format(options, how, target, out, progress);
    }
    if how.machine.device == DeviceChoice::Wasm {
        if [out].into_iter().chain(options.inputs.iter().map(PathBuf::as_path)).any(is_elsewhere) {
            let detail = "--device wasm reads and writes on this machine only, not in stores";
            return Err(Error::new(ErrorKind::Usage, detail).help("merge on another device"));
        }
        if how.plot {
            let detail = "a picture is drawn of logs, which --device wasm reads in the sandbox only";
            return Err(Error::new(ErrorKind::Usage, detail)
                .help("leave out --plot, or draw with `mwa weights --plot`"));
        }
        return sandbox::merge(options, how, out, progress);
    }
    let mut excluded = Vec::new();
    let mut dropped = Vec::new();
    loop {
        let mut choice = Choice::new(options, &excluded, how.plot)?;
        choice.chosen.notes.extend_from_slice(&dropped);
        let mut planned = Planned::new(choice, how)?;
        let error = match planned.run(how, out, progress) {
            Err(error) if options.choose.drop_bad => error,
            done => return done,
        };
        let (path, bad) = planned.bad_input(&error).ok_or(error)?;
        excluded.push(path);
        dropped.push(bad.note());
    }
}

/// Take away what a merge into a store has left at `out` that was not finished: its claim, its uploads, and the files that were there
/// already. Gives what was done, in words.
///
/// # Errors
/// [`ErrorKind::Output`] when a finished merge is there, and what the store refuses.
pub fn abort(out: &Path) -> Result<Vec<String>> {
    if is_elsewhere(out) {
        return upload::abort(&clean(out));
    }
    // killed merges into folders of this machine leave nothing that needs more
    Ok(Staging::tidy(out))
}

/// How the folder is called in which a merge lies before it is converted.
const PLAIN: &str = ".mwa-plain-";

/// A merge before it is converted.
pub(crate) struct Plain {
    pub(crate) folder: Scratch,
    pub(crate) report: Report,
}

impl Plain {
    /// Merge beside `out`; the report's ways to the inputs are those from there.
    pub(crate) fn new(
        options: &Options,
        how: &MergeOptions,
        out: &Path,
        progress: &dyn Progress,
    ) -> Result<Self> {
        let target = if is_elsewhere(out) { std::env::temp_dir().join("merge") } else { target_of(out)? };
        let parent = target.parent().unwrap_or(Path::new("/"));
        std::fs::create_dir_all(parent).map_err(|error| cannot_write(parent, &error))?;
        // at its side, so that the ways to the inputs are the same
        let plain = Scratch::new(parent, PLAIN).map_err(|error| cannot_write(parent, &error))?;
        let mut report = merge(
            options,
            &MergeOptions { format: None, own: false, force: false, ..*how },
            plain.path(),
            progress,
        )?;
        // the merge itself lies apart from all inputs, and what is written of it must too
        let inputs: Vec<_> = report.inputs.iter().map(|input| place(plain.path(), &input.path)).collect();
        Staging::check_apart(out, inputs.iter().map(PathBuf::as_path))?;
        if is_elsewhere(out) {
            for input in report.inputs.iter_mut().filter(|input| !is_url(&input.path)) {
                if let Some(place) = place_of(&plain.path().join(&input.path))? {
                    input.path = place.display().to_string();
                }
            }
        }
        Ok(Self { folder: plain, report })
    }
}

/// An error that names no file of a folder that is gone with it.
pub(crate) fn unnamed(error: Error, plain: &Scratch) -> Error {
    let is_ours = error.at_file().is_some_and(|file| Path::new(file).starts_with(plain.path()));
    if is_ours { error.file_instead("the merge") } else { error }
}

/// Merge beside `out`, and write what comes out of it there, in another container. The report is of the merge, with the
/// hashes of what was written of it.
fn into_format(
    options: &Options,
    how: &MergeOptions,
    target: Target,
    out: &Path,
    progress: &dyn Progress,
) -> Result<Report> {
    // the base of tasks is none that a file of torch would want to know of
    let base = options.base.clone().filter(|_| target != Target::Pt || options.role_base.is_none());
    let model = options.model.clone();
    let (name, key, like) = (None, None, None);
    let wanted = ConvertOptions { target, dtype: None, base, name, key, like, model, shard_size: None };
    // before anything is merged
    wanted.check()?;
    if target == Target::Pt && how.machine.device == DeviceChoice::Wasm {
        let detail =
            "--format pt reads the newest checkpoint's own file, which --device wasm leaves to the sandbox";
        return Err(Error::new(ErrorKind::Usage, detail).help("leave out one of them"));
    }
    let Plain { folder: plain, mut report } = Plain::new(options, how, out, progress)?;
    let unnamed = |error: Error| unnamed(error, &plain);
    let Own { name, like } =
        if target == Target::Pt { own_file(options, &report, plain.path())? } else { Own::default() };
    let wanted = ConvertOptions { name, like, ..wanted };
    let (disk, text) = (Disk::default(), text_of(plain.path())?);
    let plan = disk.now(|| Conversion::new(&disk, &Readers::ALL, &text, &wanted)).map_err(unnamed)?;
    let staging = Staging::begin(out, how.force, &[])?;
    let mut files = convert::written(&plan, &staging, out, progress)?;
    if how.sha256 {
        staging.add_sha256(&mut files, progress)?;
    }
    report.format = Some(Target::NAMES[target as usize].to_owned());
    report.companions = files;
    report.notes.retain(|note| !note.starts_with(mwa::WRITTEN_AS));
    report.notes.extend(plan.notes.iter().cloned());
    let drawn = plain.path().join(PICTURE);
    let picture = if drawn.is_file() { Some(staging.copy(&drawn, PICTURE)?) } else { None };
    let config = plan.texts.iter().find(|(name, _)| name == mwa::report::CONFIG);
    let config = config.and_then(|(_, text)| mwa::AdapterConfig::parse(text).ok());
    let card = mwa::card(&report, config.as_ref(), picture.map(|_| PICTURE));
    close(staging, &[(CARD.to_owned(), card), (REPORT.to_owned(), report.to_json())], progress)?;
    Ok(report)
}

/// What the inputs' files of torch are called, and the newest of them, whose other entries stand beside the merged weights, so
/// that their toolkit finds them again.
#[derive(Default)]
struct Own {
    name: Option<String>,
    like: Option<(String, Option<String>)>,
}

fn own_file(options: &Options, report: &Report, plain: &Path) -> Result<Own> {
    let Some(input) = report.inputs.last() else { return Ok(Own::default()) };
    let wanted = OpenOptions {
        adapter: options.adapter.clone(),
        weights_key: options.weights_key.clone(),
        ..OpenOptions::default()
    };
    let (disk, text) = (Disk::default(), text_of(&place(plain, &input.path))?);
    let opened = disk.now(|| mwa::Checkpoint::open(&disk, &Readers::ALL, &text, &wanted))?;
    let Some(file) = opened.files.first().filter(|file| !file.header.is_safetensors()) else {
        return Ok(Own::default());
    };
    let own = file.name().rsplit('/').next().unwrap_or_default();
    let ending = own.rsplit_once('.').map_or("pt", |(_, ending)| ending);
    let ending = if own.ends_with(".pth.tar") { "pth.tar" } else { ending };
    let merged =
        report.outputs.first().and_then(|it| it.name.rsplit_once('.')).map_or("merged", |(stem, _)| stem);
    let own = opened.files.iter().filter(|file| file.header.beside().is_none());
    let like = (own.count() == 1).then(|| (file.path.clone(), options.weights_key.clone()));
    Ok(Own { name: Some(format!("{merged}.{ending}")), like })
}

/// What to say to whoever wants a GPU for a method of so many inputs that none computes.
fn not_on_gpu(blend: Blend, inputs: usize) -> Option<String> {
    let name = blend.name();
    match blend.most_on_gpu() {
        None => Some(format!("method {name} is computed on the CPU")),
        Some(most) if !blend.is_mean() && inputs > most => {
            Some(format!("method {name} of {inputs} inputs is computed on the CPU; a GPU takes up to {most}"))
        }
        Some(_) => None,
    }
}

/// A merge that was planned, and its files.
pub(crate) struct Planned {
    merge: Merge,
    checkpoints: Arc<Vec<Checkpoint>>,
    /// What is copied beside the weights: name and path.
    companions: Vec<(String, PathBuf)>,
    picture: Option<String>,
    /// The hashes of the inputs, where they were merged before.
    known: Option<Known>,
    /// What the card says of how the weights were found.
    section: String,
}

impl Planned {
    pub(crate) fn new(choice: Choice, how: &MergeOptions) -> Result<Self> {
        Self::beside(choice, how, 0)
    }

    /// The same, to be merged together with so many others.
    pub(crate) fn beside(choice: Choice, how: &MergeOptions, others: usize) -> Result<Self> {
        let Choice { chosen, checkpoints, picture } = choice;
        let cut = execute::cut(how.machine, chosen.inputs.len() + chosen.moments.len() + others);
        let mut merge = Merge::new(chosen, how.merge, cut)?;
        let mut companions = Vec::new();
        for (name, path) in &checkpoints[merge.owner()].companions {
            if !merge.may_rewrite(name) || !merge.rewrites(name, &read_text(path)?) {
                companions.push((name.clone(), path.clone()));
            }
        }
        Ok(Self { merge, checkpoints, companions, picture, known: None, section: String::new() })
    }

    /// The same, with a part of the card that says how the weights were found.
    pub(crate) fn telling(self, section: String) -> Self {
        Self { section, ..self }
    }

    /// The same, of inputs whose hashes are known.
    pub(crate) fn knowing(self, known: Option<Known>) -> Self {
        Self { known, ..self }
    }

    /// The path of the checkpoint whose values made a merge fail, and which input it is.
    pub(crate) fn bad_input(&self, error: &Error) -> Option<(PathBuf, BadInput)> {
        let bad = self.merge.bad_input(error)?;
        Some((self.checkpoints[bad.input].path.clone(), bad))
    }

    /// Merge on this machine, into the folder `out`.
    pub(crate) fn run(&mut self, how: &MergeOptions, out: &Path, progress: &dyn Progress) -> Result<Report> {
        if matches!((how.merge.space, how.machine.device), (Space::Product(_), DeviceChoice::Gpu(_))) {
            progress.note("product space is computed on the CPU, in f64");
        }
        if let DeviceChoice::Gpu(_) = how.machine.device
            && let Some(note) = not_on_gpu(how.merge.blend, self.merge.chosen().inputs.len())
        {
            progress.note(&note);
        }
        let mut store = self.store(how);
        let mut begun = None;
        let Self { merge, checkpoints, .. } = self;
        let create =
            |merge: &Merge| created(merge, begun.insert(Staging::begin(out, how.force, checkpoints)?));
        let hashes = execute::run(merge, &mut store, create, Box::new(compute::run), how.machine, progress)
            .map_err(|error| at_output(error, out))?;
        self.finish(begun.expect("the outputs were created"), hashes, how, progress)
    }

    /// Merge several of the same checkpoints, each into a folder of its own, in one pass over the files. The folders are as
    /// [`Self::run`] makes them, but not brought to the disk.
    ///
    /// # Errors
    /// What fails for all; what fails for one is told of that one.
    pub(crate) fn run_together(
        all: &mut [Self],
        how: &MergeOptions,
        outs: &[PathBuf],
        progress: &dyn Progress,
    ) -> Result<Vec<Result<Report>>> {
        let mut stores: Vec<_> = all.iter().map(|one| one.store(how)).collect();
        let mut begun: Vec<Option<Staging>> = all.iter().map(|_| None).collect();
        let each = all.iter_mut().zip(&mut stores).zip(outs.iter().zip(&mut begun));
        let parts = each.map(|((one, store), (out, begun))| {
            let Self { merge, checkpoints, .. } = one;
            let create = move |merge: &Merge| {
                created(merge, begun.insert(Staging::begin(out, how.force, checkpoints)?))
            };
            execute::Part { merge, store, create: Box::new(create) }
        });
        let found = execute::together(parts.collect(), how.machine, progress).map_err(|error| {
            outs.first().map_or_else(|| error.clone(), |out| at_output(error.clone(), out))
        })?;
        let each = all.iter_mut().zip(found).zip(outs.iter().zip(begun));
        let finish = |((one, hashes), (out, begun)): ((&mut Self, Result<Hashes>), (&PathBuf, _))| {
            let begun: Option<Staging> = begun;
            let hashes = hashes.map_err(|error| at_output(error, out))?;
            one.finish(begun.expect("the outputs were created"), hashes, how, progress)
        };
        Ok(each.map(finish).collect())
    }

    /// The merge that was planned.
    pub(crate) fn merge(&self) -> &Merge {
        &self.merge
    }

    /// The same, to go on with it.
    pub(crate) fn merge_mut(&mut self) -> &mut Merge {
        &mut self.merge
    }

    pub(crate) fn checkpoints(&self) -> &[Checkpoint] {
        &self.checkpoints
    }

    /// Fail if a file is no longer what it was when it was opened.
    pub(crate) fn check_unchanged(&self) -> Result<()> {
        self.checkpoints.iter().flat_map(|it| &it.files).try_for_each(|file| file.check_unchanged())
    }

    /// Its files, of which nothing is hashed yet.
    pub(crate) fn store(&self, how: &MergeOptions) -> Store {
        let files = self.checkpoints.iter().map(|checkpoint| checkpoint.files.as_slice());
        Store::new(files, how.sha256).knowing(self.known.clone())
    }

    /// Write what goes beside the weights, and put the output in its place.
    pub(crate) fn finish(
        &self,
        staging: Staging,
        hashes: Hashes,
        how: &MergeOptions,
        progress: &dyn Progress,
    ) -> Result<Report> {
        let Self { merge, checkpoints, companions, picture, section, .. } = self;
        self.check_unchanged()?;
        let (companions, notes) = beside(&staging, &merge.texts(), companions, how, progress)?;
        let way = |it: &Checkpoint| path_from(staging.target(), &it.path);
        let paths = checkpoints.iter().map(way).collect::<Result<_>>()?;
        let Hashes { inputs, outputs } = hashes;
        if let Some(picture) = picture {
            staging.write(PICTURE, picture.as_bytes())?;
        }
        let has_picture = picture.is_some();
        let section = section.clone();
        let closing = Closing { paths, inputs, outputs, companions, notes, has_picture, section };
        let finished = merge.finish(&closing)?;
        close(staging, &finished.texts, progress)?;
        Ok(finished.report)
    }
}

/// Create the outputs of a merge.
fn created(merge: &Merge, staging: &Staging) -> Result<Vec<PathBuf>> {
    let create = |shard: &Shard| {
        staging.create(&shard.name, shard.header.file_len())?;
        Ok(staging.path(&shard.name))
    };
    merge.outputs().iter().map(create).collect()
}

/// What the system refuses without naming a file, it refuses of the output.
pub(crate) fn at_output(error: Error, out: &Path) -> Error {
    if error.kind() == ErrorKind::Io { error.file(out.display().to_string()) } else { error }
}

/// Write what belongs beside the weights and does not depend on hashes: texts, and others that are copied.
/// Gives what was written, and in words what was not.
pub(crate) fn beside(
    staging: &Staging,
    texts: &[Text],
    others: &[(String, PathBuf)],
    how: &MergeOptions,
    progress: &dyn Progress,
) -> Result<(Vec<HashedFile>, Vec<String>)> {
    let mut companions = Vec::new();
    for (name, text) in texts {
        companions.push(staging.write(name, text.as_bytes())?);
    }
    let (copied, left_out) = staging.copy_companions(others)?;
    companions.extend(copied);
    if how.sha256 {
        staging.add_sha256(&mut companions, progress)?;
    }
    Ok((companions, left_out))
}

/// Write what lies beside weights that were made of two models or of a model and an adapter: `texts`, copies of `others`, and last
/// card and report; `report` makes that of the ways to the inputs.
pub(crate) fn close_two(
    staging: Staging,
    inputs: &[Checkpoint; 2],
    (texts, others): (&[Text], &[(String, PathBuf)]),
    how: &MergeOptions,
    progress: &dyn Progress,
    report: impl FnOnce(&[String]) -> Report,
) -> Result<Report> {
    inputs.iter().flat_map(|input| &input.files).try_for_each(|file| file.check_unchanged())?;
    let (last, texts): (Vec<_>, Vec<_>) = texts.iter().cloned().partition(|(name, _)| name == CARD);
    let (companions, notes) = beside(&staging, &texts, others, how, progress)?;
    let paths = inputs.iter().map(|input| path_from(staging.target(), &input.path));
    let mut report = report(&paths.collect::<Result<Vec<_>>>()?);
    report.companions = companions;
    report.notes.extend(notes);
    let texts = last.into_iter().chain([(REPORT.to_owned(), report.to_json())]).collect::<Vec<_>>();
    close(staging, &texts, progress)?;
    Ok(report)
}

/// Write the card and the report, which come last, and put the output in its place.
pub(crate) fn close(staging: Staging, texts: &[Text], progress: &dyn Progress) -> Result<()> {
    for (name, text) in texts.iter().filter(|(name, _)| [CARD, REPORT].contains(&name.as_str())) {
        staging.write(name, text.as_bytes())?;
    }
    staging.publish(progress)?.iter().for_each(|note| progress.note(note));
    Ok(())
}

/// The way from one folder to a path, so that a report stays true when both are moved together.
pub(crate) fn path_from(folder: &Path, path: &Path) -> Result<String> {
    if is_elsewhere(path) {
        return Ok(path.display().to_string());
    }
    let path = place_of(path)?.unwrap_or_else(|| path.to_owned());
    if is_elsewhere(folder) {
        return Ok(path.display().to_string());
    }
    let shared = folder.components().zip(path.components()).take_while(|(a, b)| a == b).count();
    if shared == 0 {
        return Ok(path.display().to_string());
    }
    let up = folder.components().skip(shared).map(|_| Component::ParentDir);
    let way: PathBuf = up.chain(path.components().skip(shared)).collect();
    // forward slashes work everywhere
    Ok(way.components().map(|part| part.as_os_str().to_string_lossy()).collect::<Vec<_>>().join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lead_from_the_output_to_the_input() {
        assert_eq!(
            path_from(Path::new("/runs/merged"), Path::new("/runs/a/checkpoint-1")).unwrap(),
            "../a/checkpoint-1"
        );
        assert_eq!(
            path_from(Path::new("/runs/a/merged"), Path::new("/runs/a/checkpoint-1")).unwrap(),
            "../checkpoint-1"
        );
    }
}
