//! One checkpoint among the files: which of them hold its weights, its adapter config, its step.

use alloc::borrow::ToOwned as _;
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use mwa::checkpoint::{ShardIndex, WEIGHTS, step_of_file, step_of_folder};
use mwa::foreign;
use mwa::safetensors::{Header, Tensor};
use mwa::{AdapterConfig, Error, ErrorKind};

use crate::files::{Files, Maybe, Stop, last};

/// A checkpoint that can be merged.
#[derive(Debug)]
pub(crate) struct Checkpoint {
    /// Its path: how messages and reports call it.
    pub(crate) name: String,
    /// Training step, from the name or the file's metadata.
    pub(crate) step: Option<u64>,
    /// Files with the weights.
    pub(crate) files: Vec<Weights>,
    /// The folder that holds the files beside the weights; `None` for a single file.
    pub(crate) folder: Option<String>,
    /// PEFT's config, for adapters in a folder.
    pub(crate) config: Option<AdapterConfig>,
}

/// A file with weights.
#[derive(Debug)]
pub(crate) struct Weights {
    /// Its number among the files.
    pub(crate) number: usize,
    /// Its name within its folder.
    pub(crate) name: String,
    pub(crate) header: Header,
}

impl Checkpoint {
    /// Open a checkpoint folder, or with `adapter` the named adapter inside it, or a single file.
    pub(crate) fn open(files: &Files, path: &str, adapter: Option<&str>) -> Maybe<Self> {
        if !files.is_file(path) {
            return Self::open_folder(files, path, adapter);
        }
        if let Some((what, help)) = foreign::file(last(path)) {
            return Err(Error::new(ErrorKind::Input, what).file(path).help(help).into());
        }
        let file = Weights::open(files, path)?;
        let step = step_of_file(last(path)).or_else(|| file.header.metadata().get("ss_steps")?.parse().ok());
        Ok(Self { name: path.to_owned(), step, files: vec![file], folder: None, config: None })
    }

    fn open_folder(files: &Files, path: &str, adapter: Option<&str>) -> Maybe<Self> {
        let folder = adapter.map_or_else(|| path.to_owned(), |adapter| format!("{path}/{adapter}"));
        let Some(weights) = weights_in(files, &folder) else {
            return Err(no_weights(files, &folder).file(path).into());
        };
        let opened = if weights.ends_with(".json") {
            open_shards(files, &folder, &weights)?
        } else {
            vec![Weights::open(files, &weights)?]
        };
        let path_of_config = format!("{folder}/adapter_config.json");
        let config = if files.is_file(&path_of_config) {
            let text = files.text(&path_of_config)?;
            Some(AdapterConfig::parse(text).map_err(|error| error.file(path_of_config))?)
        } else if last(&weights).starts_with("adapter_model") {
            let error = Error::new(ErrorKind::Config, "has adapter weights but no adapter_config.json");
            return Err(error
                .file(path)
                .help("copy adapter_config.json from another checkpoint of the run")
                .into());
        } else {
            None
        };
        let step = step_of_folder(last(path));
        Ok(Self { name: path.to_owned(), step, files: opened, folder: Some(folder), config })
    }

    /// The tensors of all its files.
    pub(crate) fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        self.files.iter().flat_map(|file| file.header.tensors())
    }

    /// The last part of the name, for tables.
    pub(crate) fn label(&self) -> &str {
        last(&self.name)
    }
}

impl Weights {
    fn open(files: &Files, path: &str) -> Maybe<Self> {
        let at = |error: Error| Stop::Failed(error.file(path));
        if [".bin", ".pt", ".pth"].iter().any(|end| path.ends_with(end)) {
            return Err(at(Error::new(ErrorKind::Input, "is a PyTorch pickle file, which is not read here")
                .help("convert it to safetensors, or merge with the mwa program, which reads it")));
        }
        let missing = || at(Error::new(ErrorKind::Io, "is not among the files given"));
        let number = files.number(path).ok_or_else(missing)?;
        let len = files.size(number);
        let size = Header::size(files.bytes(number, 0..FIRST)?, len).map_err(at)?;
        let header = Header::parse(files.bytes(number, 0..size.max(FIRST))?, len).map_err(at)?;
        Ok(Self { number, name: last(path).to_owned(), header })
    }
}

/// Bytes that show how long a head is, and what a file is that is not safetensors.
const FIRST: u64 = 512;

/// The file that says where the weights are, if the folder has any.
pub(crate) fn weights_in(files: &Files, folder: &str) -> Option<String> {
    WEIGHTS.iter().map(|file| format!("{folder}/{file}")).find(|path| files.is_file(path))
}

fn open_shards(files: &Files, folder: &str, index: &str) -> Maybe<Vec<Weights>> {
    let at = |error: Error| error.file(index);
    let parsed = ShardIndex::parse(files.text(index)?).map_err(at)?;
    // all are asked for before the first unread one stops this
    let shards = parsed.files();
    let opened: Vec<_> =
        shards.iter().map(|shard| Weights::open(files, &format!("{folder}/{shard}"))).collect();
    let opened = opened.into_iter().collect::<Maybe<Vec<_>>>()?;
    parsed.check(opened.iter().map(|file| (file.name.as_str(), &file.header))).map_err(at)?;
    Ok(opened)
}

/// Why a folder has no weights that can be merged.
fn no_weights(files: &Files, folder: &str) -> Error {
    let mut names: Vec<_> = files.names(folder).map(str::to_owned).collect();
    names.dedup();
    let inside = |name: &str| format!("{folder}/{name}");
    foreign::folder(&names, &|name| weights_in(files, &inside(name)).is_some(), &inside)
}
