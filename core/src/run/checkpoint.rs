//! One checkpoint: which files hold its weights, its adapter config, its step.

use alloc::borrow::ToOwned as _;
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use crate::adapter::config::AdapterConfig;
use crate::error::{Error, ErrorKind};
use crate::files::{
    Files, Kind, Maybe, NO_FILE, all, is_file, is_folder, is_plain, join, last, leads_out, parent, text,
};
use crate::format::safetensors::{Header, Tensor};
use crate::format::{foreign, open};
use crate::run::readers::{OpenOptions, Readers};

pub use crate::format::WEIGHTS;
pub use crate::format::shards::ShardIndex;
pub use crate::run::step::{step_of_file, step_of_folder};

/// The most bytes that an `adapter_config.json` may have.
const CONFIG_LIMIT: u64 = 16 << 20;
/// The most bytes that a shard index may have: as many as the heads that it lists.
const INDEX_LIMIT: u64 = 100_000_000;

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
    /// Files beside its own that may hold weights too, by their path in the folder.
    pub(crate) beside: Vec<String>,
    /// The step that its weights' files tell.
    pub(crate) counted: Option<u64>,
}

/// A file with weights.
#[derive(Clone, Debug)]
pub struct File {
    /// Its path.
    pub path: String,
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
        open_weights(files, readers, path, &OpenOptions::default()).map(|(file, ..)| file)
    }

    /// The name within its folder.
    #[must_use]
    pub fn name(&self) -> &str {
        last(&self.path)
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
        let mut checkpoint = Self::of(path);
        checkpoint.take(open_weights(files, readers, path, options)?);
        checkpoint.step = step_of_file(last(path)).or(checkpoint.counted);
        Ok(checkpoint)
    }

    fn open_folder(files: &dyn Files, readers: &Readers, path: &str, options: &OpenOptions) -> Maybe<Self> {
        let adapter = options.adapter.as_deref();
        let folder = adapter.map_or_else(|| path.to_owned(), |adapter| join(path, adapter));
        let Some(weights) = weights_in(files, &folder)? else {
            return Err(match adapter {
                Some(adapter) => no_adapter(files, path, adapter)?,
                None => no_weights(files, path)?,
            }
            .file(path)
            .into());
        };
        let mut checkpoint = Self::of(path);
        let opened = if weights.ends_with(".json") {
            open_shards(files, readers, &weights, options)?
        } else {
            vec![open_weights(files, readers, &weights, options)?]
        };
        opened.into_iter().for_each(|file| checkpoint.take(file));
        let config = join(&folder, "adapter_config.json");
        if is_file(files, &config)? {
            let text = text(files, &config, CONFIG_LIMIT)?;
            checkpoint.config = Some(AdapterConfig::parse(&text).map_err(|error| error.file(config))?);
        } else if last(&weights).starts_with("adapter_model") {
            return Err(Error::new(ErrorKind::Config, "has adapter weights but no adapter_config.json")
                .file(path)
                .help("copy adapter_config.json from another checkpoint of the run")
                .into());
        }
        checkpoint.step = step_of_folder(last(path)).or(checkpoint.counted);
        checkpoint.beside = beside(files, &folder, &checkpoint.files)?;
        checkpoint.folder = Some(folder);
        Ok(checkpoint)
    }

    fn of(path: &str) -> Self {
        Self {
            name: path.to_owned(),
            step: None,
            files: Vec::new(),
            folder: None,
            config: None,
            notes: Vec::new(),
            beside: Vec::new(),
            counted: None,
        }
    }

    fn take(&mut self, (file, step, notes): Weights) {
        self.files.push(file);
        self.counted = self.counted.or(step);
        self.notes.extend(notes);
    }

    /// The tensors of all its files.
    pub fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        self.files.iter().flat_map(|file| file.header.tensors())
    }

    /// The last part of the name, for tables.
    #[must_use]
    pub fn label(&self) -> &str {
        last(&self.name)
    }

    /// The folder whose log covers the checkpoint.
    #[must_use]
    pub fn run(&self) -> &str {
        parent(&self.name)
    }
}

/// What else in a checkpoint's folder, or in one of its folders, may hold weights: no training state, no adapter of its own.
fn beside(files: &dyn Files, folder: &str, taken: &[File]) -> Maybe<Vec<String>> {
    let may_hold = |name: &str| {
        let ends = [".safetensors", ".bin", ".pt", ".pth"];
        ends.iter().any(|end| name.ends_with(end)) && foreign::file(name).is_none()
    };
    let mut found = Vec::new();
    for name in files.list(folder)? {
        let path = join(folder, &name);
        if may_hold(&name) {
            if !taken.iter().any(|file| file.path == path) && is_file(files, &path)? {
                found.push(name);
            }
        } else if !is_state(&name) && is_folder(files, &path)? {
            let inner = files.list(&path)?;
            if !inner.iter().any(|name| name == "adapter_config.json") {
                found.extend(inner.iter().filter(|inner| may_hold(inner)).map(|inner| join(&name, inner)));
            }
        }
    }
    Ok(found)
}

/// Whether a folder in a checkpoint holds a trainer's state.
fn is_state(name: &str) -> bool {
    let starts = ["global_step", "optimizer_", "pytorch_model_fsdp_", "checkpoint-", "recipe_state"];
    starts.iter().any(|start| name.starts_with(start))
}

/// The file that says where the weights are, if the folder has any.
pub(crate) fn weights_in(files: &dyn Files, folder: &str) -> Maybe<Option<String>> {
    for name in WEIGHTS {
        let path = join(folder, name);
        if is_file(files, &path)? {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

/// Adapters that a multi-adapter model saved in folders of their own.
pub(crate) fn named_adapters(files: &dyn Files, folder: &str) -> Maybe<Vec<String>> {
    let mut found = Vec::new();
    for name in files.list(folder)? {
        let config = join(&join(folder, &name), "adapter_config.json");
        if step_of_folder(&name).is_none() && is_file(files, &config)? {
            found.push(name);
        }
    }
    Ok(found)
}

/// Check a name of `--adapter`.
pub(crate) fn check_adapter(name: &str) -> Maybe<()> {
    if is_plain(name) {
        return Ok(());
    }
    let detail = format!("`{name}` is not the name of an adapter");
    Err(Error::new(ErrorKind::Usage, detail)
        .help("--adapter takes the name of a folder inside the checkpoints")
        .into())
}

/// A file, the step that it tells, and what the user should know.
type Weights = (File, Option<u64>, Vec<String>);

fn open_weights(files: &dyn Files, readers: &Readers, path: &str, options: &OpenOptions) -> Maybe<Weights> {
    let catalog = open(files, readers.formats, path, options.weights_key.as_deref())?;
    let len = crate::files::size(files, path)?;
    let file = File { path: path.to_owned(), len, header: catalog.header };
    Ok((file, catalog.step, catalog.notes))
}

fn open_shards(
    files: &dyn Files,
    readers: &Readers,
    index: &str,
    options: &OpenOptions,
) -> Maybe<Vec<Weights>> {
    let at = |error: Error| error.file(index);
    let parsed = ShardIndex::parse(&text(files, index, INDEX_LIMIT)?).map_err(at)?;
    let open = |shard: &&str| {
        let path = join(parent(index), shard);
        if files.kind(&path)? == Kind::Missing {
            let detail = format!("names the shard {shard}, which is missing");
            let error = Error::new(ErrorKind::Header, detail).help("download the rest of the checkpoint");
            return Err(at(error).into());
        }
        if leads_out(files, parent(index), &path)? {
            let detail = format!("names the shard {shard}, which is a link out of the checkpoint");
            return Err(at(Error::new(ErrorKind::Input, detail).help("put the file itself there")).into());
        }
        open_weights(files, readers, &path, options)
    };
    let shards = all(parsed.files().iter().map(open))?;
    parsed.check(shards.iter().map(|(file, ..)| (file.name(), &file.header))).map_err(at)?;
    Ok(shards)
}

/// The folder has no weights.
fn no_weights(files: &dyn Files, folder: &str) -> Maybe<Error> {
    let names = files.list(folder)?;
    let inside = |name: &str| join(folder, name);
    let mut with_weights = Vec::new();
    for name in &names {
        if weights_in(files, &inside(name))?.is_some() {
            with_weights.push(name.as_str());
        }
    }
    Ok(foreign::folder(&names, &|name| with_weights.contains(&name), &inside))
}

/// The folder has no adapter of that name.
fn no_adapter(files: &dyn Files, path: &str, adapter: &str) -> Maybe<Error> {
    let found = named_adapters(files, path)?;
    let found = if found.is_empty() { "none".into() } else { found.join(", ") };
    let detail = format!("has no adapter `{adapter}`; adapters inside: {found}");
    Ok(Error::new(ErrorKind::Input, detail).help("give --adapter one of these names, or leave it out"))
}
