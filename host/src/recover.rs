//! A stage of a model that was lost: its layers from their neighbours, or from an older checkpoint; the rest as it is.
//!
//! After CheckFree (Blagoev 2025), which fills a lost stage of a pipeline with the weighted mean of the stages before and after
//! it. Here that is a merge of two views of the same files: in one the lost tensors are those of the stage before, in the
//! other those of the stage after, and everything else is the same in both and passes through.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mwa::merge::Chosen;
use mwa::report::{HashedFile, Recovered, Report, Weighting};
use mwa::safetensors::{Header, Tensor};
use mwa::{AdapterConfig, Error, ErrorKind, Input, OpenOptions, Readers, Result, Shard};
use serde_json::Value;

use crate::find::checkpoint::{Checkpoint, read_text};
use crate::find::choose::Choice;
use crate::io::disk::{Disk, InputFile, io_error, open_regular, text_of};
use crate::io::staging::{Staging, target_of};
use crate::merge::{Planned, path_from};
use crate::options::MergeOptions;
use crate::progress::Progress;

/// What was lost, and where it comes from.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// The stage: `model.layers.8-11`, or `model.layers.8`.
    pub lost: String,
    /// A checkpoint that has it.
    pub from: Option<PathBuf>,
    /// How much the stages before and after count.
    pub weights: Option<(f64, f64)>,
    /// At an end, where there is one neighbour, copy that.
    pub copy_ends: bool,
}

/// Files that hold weights by themselves, in a folder.
const FILES: [&str; 4] = [
    "model.safetensors",
    "adapter_model.safetensors",
    "diffusion_pytorch_model.safetensors",
    "pytorch_lora_weights.safetensors",
];
/// The ending of what says which of several files holds which tensor.
const INDEX: &str = ".safetensors.index.json";

/// A stage: some layers, one after the other.
struct Stage {
    prefix: String,
    first: u64,
    last: u64,
}

impl Stage {
    fn parse(text: &str) -> Result<Self> {
        let parts = text.rsplit_once('.').and_then(|(prefix, layers)| {
            let (first, last) = layers.split_once('-').unwrap_or((layers, layers));
            let (first, last) = (first.parse().ok()?, last.parse().ok()?);
            (!prefix.is_empty() && first <= last).then(|| Self { prefix: prefix.into(), first, last })
        });
        parts.ok_or_else(|| {
            Error::new(ErrorKind::Usage, format!("`{text}` names no layers"))
                .help("write what is lost by its numbers, the lower first: --lost model.layers.8-11")
        })
    }

    /// The layer of a tensor, and its name around the number.
    fn layer<'a>(&self, name: &'a str) -> Option<(&'a str, u64, &'a str)> {
        let at = name.match_indices(self.prefix.as_str()).map(|(at, _)| at).find(|at| {
            (*at == 0 || name[..*at].ends_with('.')) && name[at + self.prefix.len()..].starts_with('.')
        })?;
        let start = at + self.prefix.len() + 1;
        let rest = &name[start..];
        let end = rest.find('.').unwrap_or(rest.len());
        Some((&name[..start], rest[..end].parse().ok()?, &rest[end..]))
    }

    /// The same tensor in another layer.
    fn moved(&self, name: &str, layer: u64) -> Option<String> {
        self.layer(name).map(|(before, _, after)| format!("{before}{layer}{after}"))
    }

    fn holds(&self, name: &str) -> bool {
        self.layer(name).is_some_and(|(_, layer, _)| (self.first..=self.last).contains(&layer))
    }
}

/// A checkpoint as far as it can be read.
struct Damaged {
    /// The folder that it is in.
    folder: PathBuf,
    /// Its files, by name, with what can be read of them: none of those that are gone.
    files: BTreeMap<String, Option<(Header, u64)>>,
    /// The file of each tensor that should be there, as far as that is known.
    places: BTreeMap<String, String>,
    /// Tensors that can be read, with their files.
    whole: BTreeMap<String, (String, Tensor)>,
}

impl Damaged {
    fn open(path: &Path) -> Result<Self> {
        let failed =
            |error: std::io::Error| io_error("cannot list it", &error).file(path.display().to_string());
        let (folder, mut names, mut places) = (path.to_owned(), Vec::new(), BTreeMap::new());
        let folder = if path.is_file() {
            names.extend(path.file_name().map(|name| name.to_string_lossy().into_owned()));
            path.parent().unwrap_or(Path::new("")).to_owned()
        } else {
            for entry in fs::read_dir(path).map_err(failed)? {
                let name = entry.map_err(failed)?.file_name().to_string_lossy().into_owned();
                if name.ends_with(INDEX) {
                    let index = path.join(&name);
                    let bad = || {
                        Error::new(ErrorKind::Header, "is not a shard index")
                            .file(index.display().to_string())
                    };
                    let map: Value = serde_json::from_str(&read_text(&index)?).map_err(|_| bad())?;
                    for (tensor, file) in map["weight_map"].as_object().ok_or_else(bad)? {
                        let file = file
                            .as_str()
                            .filter(|file| mwa::files::is_inside(file) && !file.contains('/'))
                            .ok_or_else(bad)?;
                        places.insert(tensor.clone(), file.to_owned());
                    }
                }
            }
            names.extend(FILES.iter().map(|name| (*name).to_owned()).find(|name| path.join(name).is_file()));
            folder
        };
        let of_index: BTreeSet<String> = places.values().cloned().collect();
        let names = if of_index.is_empty() { names } else { of_index.into_iter().collect() };
        if names.is_empty() {
            return Err(Error::new(ErrorKind::Input, "holds no safetensors files, and no index of any")
                .file(path.display().to_string())
                .help("recover takes a checkpoint folder, or one file"));
        }
        let (mut files, mut whole) = (BTreeMap::new(), BTreeMap::new());
        for name in names {
            let place = folder.join(&name);
            let read = if place.is_file() { head(&place).ok() } else { None };
            if let Some((header, len)) = &read {
                for tensor in header.tensors() {
                    places.entry(tensor.name.clone()).or_insert_with(|| name.clone());
                    if tensor.range.end <= *len {
                        whole.insert(tensor.name.clone(), (name.clone(), tensor.clone()));
                    }
                }
            }
            files.insert(name, read);
        }
        Ok(Self { folder, files, places, whole })
    }
}

/// The head of a file, which may be cut short behind it, and the bytes that the file has.
fn head(path: &Path) -> Result<(Header, u64)> {
    let mut file = open_regular(path)?;
    let failed = |error: std::io::Error| io_error("cannot read it", &error).file(path.display().to_string());
    let len = file.metadata().map_err(failed)?.len();
    let mut bytes = vec![0; 8];
    file.read_exact(&mut bytes).map_err(failed)?;
    let size = Header::size(&bytes, len)?;
    file.take(size - 8).read_to_end(&mut bytes).map_err(failed)?;
    let json: Value = serde_json::from_slice(&bytes[8..])
        .map_err(|error| Error::new(ErrorKind::Header, format!("has a damaged header: {error}")))?;
    let ends = json.as_object().into_iter().flatten().filter_map(|(_, it)| it["data_offsets"][1].as_u64());
    let told = size + ends.max().unwrap_or(0);
    Header::parse(&bytes, told).map(|header| (header, len))
}

/// Where a lost tensor comes from: a file, and the tensor that lies in it.
type Origin = (PathBuf, Tensor);

/// Recover the model at `path` into the folder `out`, which appears whole or not at all.
///
/// # Errors
/// [`ErrorKind::Usage`] for a stage that is none, [`ErrorKind::Input`] where what is lost cannot be known, and those of a merge.
pub fn recover(
    path: &Path,
    wanted: &Wanted,
    how: &MergeOptions,
    out: &Path,
    progress: &dyn Progress,
) -> Result<Report> {
    let named = [Some(path), wanted.from.as_deref()].into_iter().flatten();
    Staging::make_way(out, how.force, named, progress)?;
    let mut choice = choose(path, wanted)?;
    if let Some(recovered) = &mut choice.chosen.recovered {
        let target = target_of(out)?;
        recovered.model = path_from(&target, path)?;
        recovered.from = wanted.from.as_deref().map(|from| path_from(&target, from)).transpose()?;
    }
    Planned::new(choice, how)?.run(how, out, progress)
}

/// The recovery of a report again, in a folder of its own.
pub(crate) fn again(folder: &Path, recovered: &Recovered) -> Result<Choice> {
    let wanted = Wanted {
        lost: recovered.lost.clone(),
        from: recovered.from.as_ref().map(|from| folder.join(from)),
        weights: recovered.weights,
        copy_ends: true,
    };
    choose(&folder.join(&recovered.model), &wanted)
}

/// Plan which tensor comes from where.
fn choose(path: &Path, wanted: &Wanted) -> Result<Choice> {
    let stage = Stage::parse(&wanted.lost)?;
    let at = |error: Error| error.file(path.display().to_string());
    let bad = |detail: String| at(Error::new(ErrorKind::Input, detail));
    let model = Damaged::open(path)?;
    if model.whole.is_empty() {
        return Err(bad("has no tensor that can be read".into()).help("take another checkpoint"));
    }
    let count = stage.last - stage.first + 1;
    let (before, after) = (stage.first.checked_sub(count), stage.last + 1);
    // what the stage should hold: what its neighbours do, and what the index or the head of a torn file says
    let mut names: BTreeSet<String> = model.places.keys().filter(|name| stage.holds(name)).cloned().collect();
    for name in model.whole.keys() {
        let Some((_, layer, _)) = stage.layer(name) else { continue };
        let from = |first: u64| (first..first + count).contains(&layer).then(|| stage.first + layer - first);
        let home = before.and_then(from).or_else(|| from(after));
        names.extend(home.and_then(|home| stage.moved(name, home)));
    }
    if names.is_empty() {
        return Err(bad(format!("has no tensor of {}, nor have layers beside it", wanted.lost))
            .help(format!("name layers as its tensors do: {}", layers(&model.places))));
    }
    let elsewhere = |name: &&String| !stage.holds(name) && !model.whole.contains_key(*name);
    let mut notes = Vec::new();
    let outside: Vec<_> = model.places.keys().filter(elsewhere).filter(|_| wanted.from.is_some()).collect();
    if let Some(first) = outside.first() {
        // an older checkpoint has what is no layer, too
        let count = outside.len();
        notes.push(format!(
            "{count} tensors, such as `{first}`, are not of {}, and are lost too",
            wanted.lost
        ));
        names.extend(outside.into_iter().cloned());
    }
    let lost: BTreeSet<&String> = names.iter().filter(|name| !model.whole.contains_key(*name)).collect();
    if let Some(other) = model.places.keys().find(elsewhere).filter(|_| wanted.from.is_none()) {
        let missing = model.places.keys().filter(elsewhere).count();
        return Err(bad(format!(
            "lacks {missing} tensors outside of {}, `{other}` among them",
            wanted.lost
        ))
        .help("name all layers that are lost (--lost model.layers.8-11); what is no layer can only come from an older checkpoint, by --from"));
    }
    if lost.is_empty() {
        return Err(bad(format!(
            "has all {} tensors of {}: nothing of it is lost",
            names.len(),
            wanted.lost
        )));
    }
    let kept = names.len() - lost.len();
    if kept > 0 {
        notes.push(format!(
            "{kept} of {} tensors of {} are there and stay as they are",
            names.len(),
            wanted.lost
        ));
    }

    let sources = match &wanted.from {
        Some(from) => vec![("the older checkpoint", 1.0, from_older(from, &model, &lost)?)],
        None => {
            notes.push(
                "layers made of their neighbours are a start for more training, not a model to use".into(),
            );
            if let Some(older) = older(path, &model, &lost) {
                notes.push(format!(
                    "{} has what is lost: --from {} is nearer to it than any mean of neighbours",
                    older.display(),
                    mwa::shell_word(&older.display().to_string())
                ));
            }
            neighbours(&model, &stage, &lost, (before, after), wanted).map_err(at)?
        }
    };
    let disk = Disk::default();
    let home = if path.is_file() { None } else { Some(model.folder.clone()) };
    let config = model.folder.join(mwa::report::CONFIG);
    let config = if home.is_some() && config.is_file() {
        Some(
            AdapterConfig::parse(&read_text(&config)?)
                .map_err(|error| error.file(config.display().to_string()))?,
        )
    } else {
        None
    };
    let (mut inputs, mut checkpoints, mut rows_files) = (Vec::new(), Vec::new(), Vec::new());
    for (.., origins) in &sources {
        let (shards, files) = view(&model, origins)?;
        rows_files.push(
            files
                .iter()
                .map(|file| HashedFile::unhashed(file.path.display().to_string(), file.len()))
                .collect::<Vec<_>>(),
        );
        inputs.push(Input { name: path.display().to_string(), files: shards });
        checkpoints.push(Checkpoint {
            path: path.to_owned(),
            files,
            folder: home.clone(),
            companions: Vec::new(),
        });
    }
    if home.is_some() {
        // what lies beside the weights is taken along, as far as the folder can be opened at all
        if let Ok(found) = companions(&model.folder, &disk) {
            checkpoints.iter_mut().for_each(|it| it.companions.clone_from(&found));
        }
    }
    let weights: Vec<_> = sources.iter().map(|(_, weight, _)| *weight).collect();
    let configs = inputs.iter().map(|_| config.clone()).collect();
    let mut chosen = Chosen::explicit(inputs, configs, &weights)?;
    chosen.notes = notes;
    chosen.weighting = Weighting { scheme: "recover".into(), ..Weighting::explicit() };
    for ((row, files), (name, ..)) in chosen.rows.iter_mut().zip(rows_files).zip(&sources) {
        row.source = Some((*name).into());
        row.files = files;
    }
    chosen.recovered = Some(Recovered {
        model: path.display().to_string(),
        lost: wanted.lost.clone(),
        from: wanted.from.as_ref().map(|from| from.display().to_string()),
        weights: wanted.weights,
        tensors: lost.len(),
    });
    Ok(Choice { chosen, checkpoints: Arc::new(checkpoints), picture: None })
}

/// The layers of a model as they would be named: those of which there are the most tensors.
fn layers(places: &BTreeMap<String, String>) -> String {
    let mut spans: BTreeMap<&str, (usize, u64, u64)> = BTreeMap::new();
    for name in places.keys() {
        let mut parts = name.match_indices('.').map(|(at, _)| (&name[..at], &name[at + 1..]));
        let numbered =
            parts.find_map(|(before, rest)| Some((before, rest.split('.').next()?.parse::<u64>().ok()?)));
        if let Some((prefix, number)) = numbered {
            let (count, first, last) = spans.entry(prefix).or_insert((0, number, number));
            (*count, *first, *last) = (*count + 1, number.min(*first), number.max(*last));
        }
    }
    match spans.iter().max_by_key(|(_, (count, ..))| *count) {
        Some((prefix, (_, first, last))) => format!("{prefix}.{first} to {prefix}.{last} are there"),
        None => "there are no numbered layers".into(),
    }
}

/// Configs and tokenizer of a model.
fn companions(folder: &Path, disk: &Disk) -> Result<Vec<(String, PathBuf)>> {
    let name = text_of(folder)?;
    let found = disk.now(|| mwa::Checkpoint::companions_of(disk, &name))?;
    Ok(found.into_iter().map(|(name, path)| (name, PathBuf::from(path))).collect())
}

/// Tensors that come from one place: what it is called, how much it counts, and where each lies.
type Taken = (&'static str, f64, BTreeMap<String, Origin>);

/// The stages before and after, each with its weight.
fn neighbours(
    model: &Damaged,
    stage: &Stage,
    lost: &BTreeSet<&String>,
    (before, after): (Option<u64>, u64),
    wanted: &Wanted,
) -> Result<Vec<Taken>> {
    let side = |first: u64| -> core::result::Result<BTreeMap<String, Origin>, String> {
        lost.iter()
            .map(|name| {
                let (_, layer, _) = stage.layer(name).expect("it is of the stage");
                let moved = stage.moved(name, first + layer - stage.first).expect("it is of the stage");
                let (file, tensor) = model.whole.get(&moved).ok_or(moved)?;
                let origin = (model.folder.join(file), Tensor { name: (*name).clone(), ..tensor.clone() });
                Ok(((*name).clone(), origin))
            })
            .collect()
    };
    let (a, b) = wanted.weights.unwrap_or((1.0, 1.0));
    if !(a.is_finite() && b.is_finite() && a >= 0.0 && b >= 0.0 && a + b > 0.0) {
        return Err(Error::new(ErrorKind::Weights, format!("the weights are {a} and {b}"))
            .help("give two numbers from 0 on, for the stages before and after, not both 0"));
    }
    let (count, last) = (after - stage.first, stage.last);
    let layers = model.places.keys().filter_map(|name| Some(stage.layer(name)?.1));
    let behind = layers.max().map_or(0, |most| most.saturating_sub(last));
    // of fewer layers than are lost, no stage can be made
    let missing = |side: &str, end: &str, there: u64, name: &str| match there {
        0 => format!("{} is at the {end}: nothing is {side} it", wanted.lost),
        there if there < count => {
            format!("{} is {count} layers, and {there} {side} it are too few", wanted.lost)
        }
        _ => format!("the stage {side} {} has no `{name}` that could be taken", wanted.lost),
    };
    let is_before = |name: &str| missing("before", "beginning", stage.first, name);
    let is_after = |name: &str| missing("after", "end", behind, name);
    let first = before.map_or_else(|| Err(String::new()), side);
    let second = if behind < count { Err(String::new()) } else { side(after) };
    const BEFORE: &str = "the stage before";
    const AFTER: &str = "the stage after";
    match (first, second) {
        (Ok(first), Ok(second)) => {
            let both = [(BEFORE, a, first), (AFTER, b, second)];
            Ok(both.into_iter().filter(|(_, weight, _)| *weight > 0.0).collect())
        }
        (Ok(only), Err(_)) if wanted.copy_ends => Ok(vec![(BEFORE, 1.0, only)]),
        (Err(_), Ok(only)) if wanted.copy_ends => Ok(vec![(AFTER, 1.0, only)]),
        (Ok(_), Err(name)) => Err(one_side(is_after(&name))),
        (Err(name), Ok(_)) => Err(one_side(is_before(&name))),
        (Err(before), Err(after)) => {
            let detail = format!("{}; {}", is_before(&before), is_after(&after));
            Err(Error::new(ErrorKind::Input, detail)
                .help("only an older checkpoint can tell (--from CHECKPOINT), or fewer layers at a time"))
        }
    }
}

fn one_side(detail: String) -> Error {
    Error::new(ErrorKind::Input, detail).help(
        "take it from an older checkpoint (--from), or copy the neighbour that is there with --copy-ends",
    )
}

/// What is lost, in an older checkpoint of the same model.
fn from_older(from: &Path, model: &Damaged, lost: &BTreeSet<&String>) -> Result<BTreeMap<String, Origin>> {
    let disk = Disk::default();
    let (path, wanted) = (text_of(from)?, OpenOptions::default());
    let found = disk.now(|| mwa::Checkpoint::open(&disk, &Readers::ALL, &path, &wanted))?;
    let files = found.files.iter().filter(|file| file.header.is_in_place());
    let tensors: BTreeMap<&str, _> = files
        .flat_map(|file| file.header.tensors().iter().map(move |it| (it.name.as_str(), (file, it))))
        .collect();
    let bad = |kind: ErrorKind, detail: String| {
        Error::new(kind, detail)
            .file(from.display().to_string())
            .help("take another checkpoint of the same model")
    };
    let mut shared =
        model.whole.iter().filter_map(|(name, (_, own))| Some((name, own, tensors.get(&**name)?.1)));
    let mut is_known = false;
    let other = shared.find(|(_, own, there)| {
        is_known = true;
        own.shape != there.shape
    });
    if let Some((name, own, there)) = other {
        let detail = format!("is {:?} here, but {:?} where layers are lost", there.shape, own.shape);
        return Err(bad(ErrorKind::Shape, detail).tensor(name));
    }
    if !is_known {
        return Err(bad(ErrorKind::Names, "shares no tensor with what is left of the model".into()));
    }
    let origin = |name: &&String| {
        let (file, tensor) = tensors
            .get(name.as_str())
            .ok_or_else(|| bad(ErrorKind::Names, "is lost, and missing here too".into()).tensor(&***name))?;
        Ok(((*name).clone(), (PathBuf::from(&file.path), (*tensor).clone())))
    };
    lost.iter().map(origin).collect()
}

/// The newest other checkpoint beside this one that has all that is lost.
fn older(path: &Path, model: &Damaged, lost: &BTreeSet<&String>) -> Option<PathBuf> {
    let number = |path: &Path| path.file_name()?.to_str()?.rsplit('-').next()?.parse::<u64>().ok();
    let own = number(path)?;
    let mut others: Vec<_> = fs::read_dir(path.parent()?)
        .ok()?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|other| other.is_dir() && number(other).is_some_and(|number| number < own))
        .collect();
    others.sort_by_key(|other| number(other));
    others.into_iter().rev().find(|other| from_older(other, model, lost).is_ok())
}

/// All tensors of the model, with the lost ones where they come from: heads as the merge takes them, and their files.
fn view(model: &Damaged, origins: &BTreeMap<String, Origin>) -> Result<(Vec<Shard>, Vec<InputFile>)> {
    let (mut shards, mut files) = (Vec::new(), Vec::new());
    let mut add = |name: &str, path: &Path, tensors: Vec<Tensor>, like: Option<&Header>| -> Result<()> {
        if tensors.is_empty() {
            return Ok(());
        }
        let len = fs::metadata(path).map(|it| it.len()).unwrap_or(0);
        let metadata = like.map(|header| header.metadata().clone()).unwrap_or_default();
        let header = Header::lying(tensors, metadata, len)?;
        shards.push(Shard { name: name.to_owned(), header: header.clone() });
        files.push(InputFile::lying(path, header)?);
        Ok(())
    };
    let like = model.files.values().flatten().map(|(header, _)| header).next();
    for (name, read) in &model.files {
        let own = model.whole.values().filter(|(file, _)| file == name).map(|(_, tensor)| tensor.clone());
        if read.is_some() {
            add(name, &model.folder.join(name), own.collect(), like)?;
        }
        // lost tensors go into the file that they were in, or into the first
        let first = model.files.keys().next();
        let is_here = |lost: &String| model.places.get(lost).or(first) == Some(name);
        let mut by_file: BTreeMap<&PathBuf, Vec<Tensor>> = BTreeMap::new();
        for (_, (path, tensor)) in origins.iter().filter(|(lost, _)| is_here(lost)) {
            by_file.entry(path).or_default().push(tensor.clone());
        }
        for (path, tensors) in by_file {
            add(name, path, tensors, like)?;
        }
    }
    Ok((shards, files))
}
