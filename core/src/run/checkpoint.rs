//! One checkpoint: which files hold its weights, its adapter config, its step.

use alloc::borrow::{Cow, ToOwned as _};
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use crate::adapter::config::AdapterConfig;
use crate::error::{Error, ErrorKind, Result};
use crate::files::{
    Files, Kind, Maybe, NO_FILE, Stop, all, is_file, is_inside, join, last, leads_out, parent, text,
};
use crate::format::safetensors::{Header, Tensor};
use crate::format::training::{self, Layout};
use crate::format::{foreign, open, quantised, stem};
use crate::merge::report::{CONFIG, MODEL_CONFIG};
use crate::method::scaled::Block;
use crate::run::moments::{FoundMoments, are_moments};
use crate::run::readers::{OpenOptions, Readers};
use crate::run::step::{folder_row, home};
use crate::run::weights::{
    INDEX_LIMIT, ITS_CONFIG, Place, REST, inside, is_part, is_state, lone, lone_shard, weights_in,
};
use crate::text::json;

pub use crate::format::shards::ShardIndex;
pub use crate::run::step::{run_around, step_of_folder};

/// The most bytes that a config may have.
pub(crate) const CONFIG_LIMIT: u64 = 16 << 20;

/// A checkpoint that can be merged.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    /// Its path, as the user gave or would give it: how messages and reports call it.
    pub name: String,
    /// Training step, if known.
    pub step: Option<u64>,
    /// Files with the weights.
    pub files: Vec<File>,
    /// The folder that holds the files beside the weights (configs, tokenizer); `None` for a single file.
    pub folder: Option<String>,
    /// PEFT's config, for adapters in a folder.
    pub config: Option<AdapterConfig>,
    /// What the user should know about it.
    pub notes: Vec<String>,
    /// The number in its name, or in that of the folder around it.
    pub(crate) number: Option<u64>,
    /// How much of the name leads to what has that number.
    home: usize,
    /// The step that its weights' files tell.
    pub(crate) counted: Option<u64>,
    /// The metrics that they tell.
    pub(crate) told: Vec<(String, f64)>,
    /// The sides of the blocks that share a scale, where its weights are codes and the model's config says it.
    pub(crate) block: Block,
    /// How its files are laid out, where training on several devices wrote them.
    pub(crate) layout: Option<Layout>,
    /// Its second moments, or why there are none, where these are wanted.
    pub moments: Option<Result<FoundMoments>>,
}

/// A file with weights.
#[derive(Clone, Debug)]
pub struct File {
    /// Its path.
    pub path: String,
    /// Its path from the checkpoint's folder on.
    name: String,
    /// The name of the weights in it, where they are one of several things.
    pub(crate) key: Option<String>,
    /// What its tensors are merged into, where the file is none that a merge could have; what those of the first are, if this is empty.
    pub(crate) merged: Option<&'static str>,
    /// Length in bytes.
    pub len: u64,
    /// Its tensors and where they lie.
    pub header: Header,
}

impl File {
    /// Open a file with weights by itself.
    ///
    /// # Errors
    /// What is wrong with it, and what the system refuses.
    pub fn open(files: &dyn Files, readers: &Readers, path: &str) -> Maybe<Self> {
        open_weights(files, readers, path, &OpenOptions::default()).map(|opened| opened.file)
    }

    /// A file that was looked into, by its path and its name within the checkpoint.
    pub(crate) fn at(path: String, name: String, len: u64, header: Header) -> Self {
        Self { path, name, key: None, merged: None, len, header }
    }

    /// The name of the weights in it, where they are one of several things.
    #[must_use]
    pub fn key(&self) -> Option<&str> {
        self.key.as_deref()
    }

    /// The name within the checkpoint's folder; with that of a folder, for files beside the weights.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// As a file that lies beside the weights, in a folder such as `2_Dense/` or in none.
    fn into_beside(self, folder: &str) -> Self {
        let header = self.header.into_beside(folder);
        Self { name: format!("{folder}{}", self.name), header, ..self }
    }
}

impl Checkpoint {
    /// Open a checkpoint folder, or the adapter inside it that is wanted, or a single file.
    ///
    /// # Errors
    /// What is wrong with its files, and what the system refuses.
    pub fn open(files: &dyn Files, readers: &Readers, path: &str, options: &OpenOptions) -> Maybe<Self> {
        let refused = |detail: &'static str| Error::new(ErrorKind::Input, detail).file(path);
        match files.kind(path)? {
            Kind::Folder => Self::open_folder(files, readers, path, options),
            Kind::File(_) => Self::open_file(files, readers, path, options),
            Kind::Other => Err(refused(NO_FILE).into()),
            Kind::Missing => Err(refused("does not exist")
                .help("give a path on this machine: a run folder, a checkpoint folder or a file with weights")
                .into()),
        }
    }

    fn open_file(files: &dyn Files, readers: &Readers, path: &str, options: &OpenOptions) -> Maybe<Self> {
        if let Some((what, help)) = foreign::file(last(path)) {
            return Err(Error::new(ErrorKind::Input, what).file(path).help(help).into());
        }
        if let Some(error) = lone_shard(files, path)? {
            return Err(error.into());
        }
        let mut checkpoint = Self::of(path);
        checkpoint.take(open_weights(files, readers, path, options)?);
        if checkpoint.files.iter().any(|file| are_moments(&file.header)) {
            let error =
                Error::new(ErrorKind::Input, "holds second moments of a training, and no weights").file(path);
            return Err(error.help("give it by --moments, with --method ota or ffg").into());
        }
        if last(path).starts_with("adapter_model") {
            // a program that loads the merge needs it as much as if its folder had been named
            checkpoint.config = config_in(files, parent(path), false)?;
        }
        checkpoint.step = checkpoint.number.or(checkpoint.counted);
        Ok(checkpoint)
    }

    fn open_folder(files: &dyn Files, readers: &Readers, path: &str, options: &OpenOptions) -> Maybe<Self> {
        let adapter = options.adapter.as_deref();
        let folder = adapter.map_or_else(|| path.to_owned(), |adapter| join(path, adapter));
        let place = match weights_in(files, &folder)? {
            Some(place) => place,
            None if adapter.is_some() => {
                return Err(no_adapter(files, path, adapter.unwrap_or_default())?.file(path).into());
            }
            None => match elsewhere(files, path).map_err(|stop| stop.file(path))? {
                Elsewhere::Ranks(place) => return Self::open_ranks(files, path, &place, options),
                Elsewhere::File(place) => place,
                Elsewhere::Folder(inner, left) => {
                    let mut found = Self::open_folder(files, readers, &join(path, &inner), options)?;
                    found.notes.extend(left);
                    return Ok(found);
                }
            },
        };
        let mut checkpoint = Self::of(path);
        open_place(files, readers, &place, options)?.into_iter().for_each(|file| checkpoint.take(file));
        let is_mlx_named = last(place.path()) == "adapters.safetensors";
        checkpoint.config = config_in(files, &folder, is_mlx_named)?;
        if checkpoint.config.is_none() && last(place.path()).starts_with("adapter_model") {
            return Err(Error::new(ErrorKind::Config, "has adapter weights but no adapter_config.json")
                .file(path)
                .help(ITS_CONFIG)
                .into());
        }
        checkpoint.step = checkpoint.number.or(checkpoint.counted);
        checkpoint.take_beside(files, readers, &folder)?;
        if quantised::are_codes(checkpoint.tensors()) {
            checkpoint.block = block_in(files, &folder)?;
        }
        checkpoint.folder = Some(folder);
        Ok(checkpoint)
    }

    /// Open what the ranks of a training wrote.
    fn open_ranks(
        files: &dyn Files,
        path: &str,
        place: &(Layout, String),
        options: &OpenOptions,
    ) -> Maybe<Self> {
        let mut checkpoint = Self::of(path);
        let opened = training::open(files, place, options.weights_key.as_deref())?;
        let mut tensors = opened.files.iter().flat_map(|(.., header)| header.tensors());
        let merged = match tensors.all(|tensor| tensor.name.contains("lora_")) {
            true => "adapter_model.safetensors",
            false => "model.safetensors",
        };
        for (file, len, header) in opened.files {
            let name = file.strip_prefix(&join(path, "")).unwrap_or(&file).to_owned();
            checkpoint.files.push(File { path: file, name, key: None, merged: Some(merged), len, header });
        }
        checkpoint.config = config_in(files, path, false)?;
        checkpoint.counted = opened.step;
        checkpoint.step = checkpoint.number.or(checkpoint.counted);
        checkpoint.notes = opened.notes;
        checkpoint.layout = Some(place.0);
        checkpoint.folder = Some(path.to_owned());
        Ok(checkpoint)
    }

    fn of(path: &str) -> Self {
        let found = home(path);
        Self {
            name: path.to_owned(),
            step: None,
            files: Vec::new(),
            folder: None,
            config: None,
            notes: Vec::new(),
            number: found.map(|(_, number)| number),
            home: found.map_or(path.len(), |(home, _)| home.len()),
            counted: None,
            told: Vec::new(),
            block: None,
            layout: None,
            moments: None,
        }
    }

    /// Open what else holds weights in the checkpoint's folder, and in the folders in it: they are merged too.
    fn take_beside(&mut self, files: &dyn Files, readers: &Readers, folder: &str) -> Maybe<()> {
        let options = OpenOptions::default();
        let mut places = Vec::new();
        for name in files.list(folder)? {
            let path = join(folder, &name);
            let is_weights = |name: &str| stem(name).is_some() && foreign::state(name).is_none();
            if is_weights(&name) && !is_state(&name) {
                if self.files.iter().any(|file| file.path == path) {
                    continue;
                }
                let same = self.files.iter().find(|file| is_same_but_ending(&file.name, &name));
                if let Some(taken) = same {
                    self.notes.push(format!("{name} is left out: {} is taken before it", taken.name));
                } else if is_file(files, &path)? {
                    places.push((String::new(), Place::File(path)));
                }
            } else if is_part(files, folder, &name)? {
                let inner = files.list(&path)?.into_iter().filter(|name| is_weights(name));
                let each = || inner.map(|name| Place::File(join(&path, &name))).collect();
                let found = weights_in(files, &path)?.map_or_else(each, |place| vec![place]);
                places.extend(found.into_iter().map(|place| (format!("{name}/"), place)));
            }
        }
        let open = |(_, place): &(String, Place)| match open_place(files, readers, place, &options) {
            // what is damaged or unreadable spoils the checkpoint; what is something else is no part of it
            Err(Stop::Failed(error)) if error.kind() == ErrorKind::Input => Ok(Err(error)),
            opened => opened.map(Ok),
        };
        for ((inner, place), opened) in places.iter().zip(all(places.iter().map(open))?) {
            let name = format!("{inner}{}", last(place.path()));
            match opened {
                // what holds other things than tensors is no weights
                Err(error) if error.detail().starts_with("holds ") => {}
                Err(error) => {
                    self.notes.push(format!("{name}, beside the weights, is left out: it {}", error.detail()))
                }
                Ok(opened) => {
                    let of_name =
                        |file: &&File, name: &str| file.header.tensors().iter().any(|it| it.name == name);
                    let mut tensors = opened.iter().flat_map(|it| it.file.header.tensors());
                    let taken = tensors.find_map(|tensor| {
                        let name = format!("{inner}{}", tensor.name);
                        self.files.iter().find(|file| of_name(file, &name))
                    });
                    match taken {
                        Some(taken) => self.notes.push(format!(
                            "{name} is left out: {} holds tensors of the same names and is taken; to merge {name}, name \
                             these files themselves",
                            taken.name
                        )),
                        None => self.files.extend(opened.into_iter().map(|it| it.file.into_beside(inner))),
                    }
                }
            }
        }
        Ok(())
    }

    fn take(&mut self, opened: Opened) {
        self.files.push(opened.file);
        self.counted = self.counted.or(opened.step);
        self.told.extend(opened.told);
        self.notes.extend(opened.notes);
    }

    /// The tensors of all its files.
    pub fn tensors(&self) -> impl Iterator<Item = &Tensor> + Clone {
        self.files.iter().flat_map(|file| file.header.tensors())
    }

    /// The same, each with the number of its file, counted from `first` on.
    pub(crate) fn placed(&self, first: usize) -> impl Iterator<Item = (usize, &Tensor)> {
        let files = (first..).zip(&self.files);
        files.flat_map(|(file, it)| it.header.tensors().iter().map(move |tensor| (file, tensor)))
    }

    /// Refuse files whose bytes are not written as they lie.
    pub(crate) fn check_safetensors(&self, detail: &'static str, help: &'static str) -> Result<()> {
        let other = self.files.iter().find(|file| !file.header.is_safetensors());
        other.map_or(Ok(()), |file| Err(Error::new(ErrorKind::Input, detail).file(&*file.path).help(help)))
    }

    /// Refuse an adapter where whole models are needed; `detail` says why.
    pub(crate) fn check_whole(&self, detail: impl Into<Cow<'static, str>>) -> Result<()> {
        if self.config.is_none() {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Input, detail)
            .file(&*self.name)
            .help("fold it into its base first: mwa apply ADAPTER --base MODEL -o FOLDER"))
    }

    /// Refuse quantised weights; `why` plain ones are needed.
    pub(crate) fn check_plain(&self, why: &str, help: &'static str) -> Result<()> {
        quantised::refuse_all(self.tensors(), &self.name, why, help)
    }

    /// What the run calls the checkpoint: the last part of the name, unless that is the weights' place in the checkpoint.
    #[must_use]
    pub fn label(&self) -> &str {
        last(self.home())
    }

    /// The folder whose log covers the checkpoint.
    #[must_use]
    pub fn run(&self) -> &str {
        parent(self.home())
    }

    /// The checkpoint itself, where the name leads to a place in it.
    pub(crate) fn home(&self) -> &str {
        &self.name[..self.home]
    }

    /// Whether the checkpoint is a folder, which may have a log of its own.
    pub(crate) fn is_folder(&self) -> bool {
        self.folder.is_some() || self.home < self.name.len()
    }
}

/// Whether a config is that of an MLX adapter.
fn is_mlx(text: &str) -> bool {
    let fields = crate::text::json::parse::<serde_json::Map<String, serde_json::Value>>(text);
    fields.is_ok_and(|fields| fields.contains_key("fine_tune_type") && !fields.contains_key("peft_type"))
}

/// PEFT's config in a folder, if there is one. `is_mlx_named`: it may be MLX's instead, which calls its own so, too.
fn config_in(files: &dyn Files, folder: &str, is_mlx_named: bool) -> Maybe<Option<AdapterConfig>> {
    let path = join(folder, CONFIG);
    if !is_file(files, &path)? {
        return Ok(None);
    }
    let text = text(files, &path, CONFIG_LIMIT)?;
    match AdapterConfig::parse(&text) {
        Err(_) if is_mlx_named && is_mlx(&text) => Ok(None),
        parsed => Ok(Some(parsed.map_err(|error| error.file(path))?)),
    }
}

/// The text of the model's config in a folder, if it has one.
pub(crate) fn model_config(files: &dyn Files, folder: &str) -> Maybe<Option<String>> {
    let path = join(folder, MODEL_CONFIG);
    if !is_file(files, &path)? {
        return Ok(None);
    }
    Ok(Some(text(files, &path, CONFIG_LIMIT)?.into_owned()))
}

/// The sides of a block as the model's config says them, if it does.
fn block_in(files: &dyn Files, folder: &str) -> Maybe<Block> {
    // a config that cannot be read is copied as it is, and says nothing
    let config = model_config(files, folder)?.and_then(|text| json::parse(&text).ok());
    Ok(config.and_then(|config| quantised::block_of(&config)))
}

/// Whether two files are one set of weights in two formats, by their names.
fn is_same_but_ending(a: &str, b: &str) -> bool {
    let plain = |name: &'_ str| stem(name).map(|stem| stem.trim_start_matches("pytorch_").to_owned());
    plain(a) == plain(b)
}

/// Adapters that a multi-adapter model saved in folders of their own.
pub(crate) fn named_adapters(files: &dyn Files, folder: &str) -> Maybe<Vec<String>> {
    let found = files.list(folder)?.into_iter().map(|name| {
        let config = join(&join(folder, &name), "adapter_config.json");
        Ok((step_of_folder(&name).is_none() && is_file(files, &config)?).then_some(name))
    });
    Ok(all(found)?.into_iter().flatten().collect())
}

/// Check a name of `--adapter`.
pub(crate) fn check_adapter(name: &str) -> Maybe<()> {
    if is_inside(name) {
        return Ok(());
    }
    let detail = format!("`{name}` is not a folder inside the checkpoints");
    Err(Error::new(ErrorKind::Usage, detail)
        .help("give the name of a folder inside each checkpoint, such as adapter_model, as --adapter")
        .into())
}

/// A file, and what it tells beside its tensors.
struct Opened {
    file: File,
    step: Option<u64>,
    told: Vec<(String, f64)>,
    notes: Vec<String>,
}

fn open_weights(files: &dyn Files, readers: &Readers, path: &str, options: &OpenOptions) -> Maybe<Opened> {
    let catalog = open(files, readers.formats, path, options.weights_key.as_deref())?;
    let len = crate::files::size(files, path)?;
    let (name, header, key) = (last(path).to_owned(), catalog.header, catalog.key);
    let file = File { path: path.to_owned(), name, key, merged: None, len, header };
    Ok(Opened { file, step: catalog.step, told: catalog.told, notes: catalog.notes })
}

fn open_place(
    files: &dyn Files,
    readers: &Readers,
    place: &Place,
    options: &OpenOptions,
) -> Maybe<Vec<Opened>> {
    let open = |path: &String| open_weights(files, readers, path, options);
    match place {
        Place::File(path) => Ok(vec![open(path)?]),
        Place::Index(path) => open_shards(files, readers, path, options),
        Place::Shards(paths) => all(paths.iter().map(open)),
    }
}

fn open_shards(
    files: &dyn Files,
    readers: &Readers,
    index: &str,
    options: &OpenOptions,
) -> Maybe<Vec<Opened>> {
    let at = |error: Error| error.file(index);
    let parsed = ShardIndex::parse(&text(files, index, INDEX_LIMIT)?).map_err(at)?;
    let open = |shard: &&str| {
        let path = join(parent(index), shard);
        if files.kind(&path)? == Kind::Missing {
            let detail = format!("names the shard {shard}, which is missing");
            let error = Error::new(ErrorKind::Io, detail).help(REST);
            return Err(at(error).into());
        }
        if leads_out(files, parent(index), &path)? {
            let detail = format!("names the shard {shard}, which is a link out of the checkpoint");
            return Err(at(Error::new(ErrorKind::Input, detail).help("put the file itself there")).into());
        }
        open_weights(files, readers, &path, options)
    };
    let shards = all(parsed.files().iter().map(open))?;
    parsed.check(shards.iter().map(|it| (it.file.name(), &it.file.header))).map_err(at)?;
    Ok(shards)
}

/// Where the weights of a folder are that has none of a known name.
enum Elsewhere {
    File(Place),
    /// In files of the ranks of a training.
    Ranks((Layout, String)),
    /// The one folder in it with weights, and what to say of another.
    Folder(String, Option<String>),
}

fn elsewhere(files: &dyn Files, folder: &str) -> Maybe<Elsewhere> {
    if let Some(place) = training::find(files, folder)? {
        return Ok(Elsewhere::Ranks(place));
    }
    let names = files.list(folder)?;
    if let Some(error) = foreign::framework(&names) {
        return Err(error.into());
    }
    if let Some(file) = lone(&names) {
        return Ok(Elsewhere::File(Place::File(join(folder, file))));
    }
    let newest = names.iter().rfind(|name| folder_row(name).is_some());
    let found = inside(files, folder, &names, newest.is_some())?;
    match found.as_slice() {
        [only] => {
            let note = newest.map(|_| {
                format!("the weights in {only} are taken, and none of the checkpoints beside it in {folder}")
            });
            return Ok(Elsewhere::Folder(only.clone(), note));
        }
        // a running average beside the weights themselves
        [one, other] if *other == format!("{one}_ema") || *other == format!("{one}-ema") => {
            let note = format!(
                "the weights in {one} are taken; {other} is left out (choose it with --adapter {other})"
            );
            return Ok(Elsewhere::Folder(one.clone(), Some(note)));
        }
        _ => {}
    }
    let inside = |name: &str| join(folder, name);
    Err(match found.first() {
        Some(first) if home(folder).is_some() => {
            let detail = format!("holds weights in several folders: {}", found.join(", "));
            Error::new(ErrorKind::Input, detail)
                .help(format!("choose one of them, for example --adapter {first}"))
        }
        _ => match newest {
            Some(last) => {
                let detail = "holds checkpoints, and one checkpoint is wanted";
                let help =
                    format!("give one of them, such as {}, or what mwa merge makes of all", inside(last));
                Error::new(ErrorKind::Input, detail).help(help)
            }
            None => foreign::loose(&names, &found, &inside),
        },
    }
    .into())
}

/// The folder has no adapter of that name.
fn no_adapter(files: &dyn Files, path: &str, adapter: &str) -> Maybe<Error> {
    let found = inside(files, path, &files.list(path)?, false)?;
    let found = if found.is_empty() { "none".into() } else { found.join(", ") };
    let detail = format!("has no weights in a folder `{adapter}`; folders with weights: {found}");
    Ok(Error::new(ErrorKind::Input, detail).help("choose one of these with --adapter, or leave it out"))
}
