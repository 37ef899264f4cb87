//! What a merge on a machine can be told: the options of the core's table, and what only a machine has.

use std::path::{Path, PathBuf};
use std::thread;

use mwa::convert::Target;
use mwa::options::{Face, OPTIONS, Verb};
use mwa::{ChooseOptions, Error, ErrorKind, Result};

use crate::engine::device::DeviceChoice;
use crate::io::url::is_elsewhere;
use crate::own::OWN;

pub use mwa::report::REPORT;

/// Which checkpoints, and how they are weighed.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Run folders, checkpoint folders, files.
    pub inputs: Vec<PathBuf>,
    /// The adapter to take from checkpoints that hold several.
    pub adapter: Option<String>,
    /// The set of weights to take from training states that hold several.
    pub weights_key: Option<String>,
    /// The log to take metrics from, instead of what lies in the run's folder.
    pub metrics_from: Option<String>,
    /// Which of the checkpoints found, and how they are weighed.
    pub choose: ChooseOptions,
    /// The scheme, where one was named: rounds have none of their own.
    pub scheme: Option<mwa::Scheme>,
    /// A table of metrics, instead of the run's own logs.
    pub metrics_file: Option<PathBuf>,
    /// The base model, for containers that need to know of it.
    pub base: Option<String>,
    /// The same, as that of which the checkpoints are tasks.
    pub role_base: Option<String>,
    /// Where their second moments are, if the method weighs by such.
    pub moments: Option<mwa::MomentsWanted>,
    /// The image model, for containers whose names depend on it.
    pub model: Option<String>,
    /// Rules of weights that differ by module.
    pub weights_file: Option<PathBuf>,
}

impl Options {
    /// Those of `given` that choose among the checkpoints of `inputs` and weigh them.
    ///
    /// ```
    /// let given = mwa::Options::parse(r#"{"metric": "eval_loss", "last": 4, "penalty": 1}"#)?;
    /// let options = mwa_host::Options::new(vec!["runs/my-lora".into()], &given)?;
    /// assert_eq!(options.choose.select.last, Some(4));
    /// # Ok::<(), mwa::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`mwa::ErrorKind::Weights`] for a penalty or weights that suit no checkpoints at all; [`ErrorKind::Usage`] for an empty path,
    /// and for checkpoints by name.
    pub fn new(inputs: Vec<PathBuf>, given: &mwa::Options) -> Result<Self> {
        if inputs.iter().any(|path| path.as_os_str().is_empty()) {
            let error = Error::new(ErrorKind::Usage, "a path is empty");
            return Err(error.help("name the run: an empty path is no folder"));
        }
        if given.checkpoints.is_some() {
            let error = Error::new(ErrorKind::Usage, "option checkpoints is not for here");
            return Err(error.help("give the paths of these checkpoints instead of their run's"));
        }
        let mut moments = given.role_moments();
        // reports name them from the checkpoints on, which a path from here does not lead to
        if inputs.iter().any(|path| path.is_absolute() || is_elsewhere(path)) {
            for file in moments.iter_mut().flat_map(|it| &mut it.files) {
                let path = Path::new(file.as_str());
                if !is_elsewhere(path)
                    && let Ok(path) = std::path::absolute(path)
                {
                    *file = path.display().to_string();
                }
            }
        }
        Ok(Self {
            inputs,
            adapter: given.adapter.clone(),
            weights_key: given.weights_key.clone(),
            metrics_from: given.metrics_from.clone(),
            choose: given.choosing()?,
            scheme: given.scheme,
            metrics_file: given.metrics_file.as_ref().map(PathBuf::from),
            base: given.base.clone(),
            role_base: given.role_base().map(str::to_owned),
            moments,
            model: given.model.clone(),
            weights_file: given.weights_file.as_ref().map(PathBuf::from),
        })
    }
}

/// The names of a verb's options, as they are given to this library.
#[must_use]
pub fn names_of(verb: Verb) -> Vec<&'static str> {
    OPTIONS.iter().filter(|row| row.is_on_face(Face::Native, verb)).map(|row| row.name).collect()
}

/// Options of a JSON object, all of which must be among these names; null is none.
///
/// # Errors
/// [`ErrorKind::Usage`] for one that says nothing there; those of [`mwa::Options::parse`].
pub fn parse(text: &str, names: &[&str]) -> Result<mwa::Options> {
    let given = mwa::Options::parse(text)?;
    let named: serde_json::Map<String, serde_json::Value> = serde_json::from_str(text).unwrap_or_default();
    let is_idle = |name: &str, value: &serde_json::Value| !value.is_null() && !names.contains(&name);
    match named.iter().find(|(name, value)| is_idle(name, value)) {
        Some((idle, _)) => {
            let error = Error::new(ErrorKind::Usage, format!("option {idle} says nothing here"));
            Err(error.help(format!("options are {}", names.join(", "))))
        }
        None => Ok(given),
    }
}

/// How the merge is done.
#[derive(Clone, Copy, Debug)]
pub struct MergeOptions {
    /// What every host is told.
    pub merge: mwa::MergeOptions,
    /// The container of the output; that of the inputs without.
    pub format: Option<Target>,
    /// The layout of the newest checkpoint, which training on several devices wrote, instead.
    pub own: bool,
    /// Replace an earlier merge in the output's place.
    pub force: bool,
    /// SHA-256 of every file, too.
    pub sha256: bool,
    /// Draw a picture of the weights beside them, for the card.
    pub plot: bool,
    /// Threads and memory.
    pub machine: Machine,
}

impl Default for MergeOptions {
    /// As if nothing was said.
    fn default() -> Self {
        Self::new(&mwa::Options::default()).expect("the defaults go together")
    }
}

impl MergeOptions {
    /// Those of a JSON object, all of which must be options of the verb.
    ///
    /// # Errors
    /// Those of [`parse`] and [`Self::new`].
    pub fn parse(text: &str, verb: Verb) -> Result<Self> {
        Self::new(&parse(text, &names_of(verb))?)
    }

    /// Those of `given` that say how to merge.
    ///
    /// # Errors
    /// [`mwa::ErrorKind::Usage`] for options of product space without it, and a device that cannot be.
    pub fn new(given: &mwa::Options) -> Result<Self> {
        let named = given.format.as_deref();
        Ok(Self {
            merge: given.merging()?,
            format: named.filter(|name| !["keep", OWN].contains(name)).map(str::parse).transpose()?,
            own: named == Some(OWN),
            force: given.force,
            sha256: given.sha256,
            plot: false,
            machine: Machine::new(given)?,
        })
    }
}

/// How much machine to use.
#[derive(Clone, Copy, Debug, Default)]
pub struct Machine {
    /// Threads; `None` for one per core.
    pub threads: Option<usize>,
    /// Bytes of buffers, on GPUs too; `None` for 64 MiB, or 256 MiB with a GPU.
    pub memory: Option<u64>,
    /// What computes.
    pub device: DeviceChoice,
}

/// More threads than this only cost memory; some systems refuse to start them.
const MOST_THREADS: usize = 1024;

impl Machine {
    /// Those of `given` that say what computes.
    ///
    /// # Errors
    /// [`mwa::ErrorKind::Usage`] for a device that cannot be.
    pub fn new(given: &mwa::Options) -> Result<Self> {
        let device = given.device.as_deref().map_or(Ok(DeviceChoice::default()), str::parse);
        Ok(Self { threads: given.threads, memory: given.memory, device: device? })
    }

    pub(crate) fn threads(self) -> usize {
        self.threads
            .unwrap_or_else(|| thread::available_parallelism().map_or(1, usize::from))
            .clamp(1, MOST_THREADS)
    }
}
