//! What a runtime or device must do to be tested: merge files that are in memory.

use core::convert::Infallible;
use std::borrow::Cow;

use mwa::merge::{Chosen, Cut, MergeOptions};
use mwa::safetensors::Header;
use mwa::{AdapterConfig, Float, Input, Moments, Options, Plan, Read, Recipe, Shard, Space, Weights};
use serde_json::{Map, Value};

use crate::offered::index;

/// A merge of single files.
#[derive(Clone, Debug, Default)]
pub struct Merge {
    /// Whole safetensors files, as on disk.
    pub inputs: Vec<Vec<u8>>,
    /// Raw weights, one per input; they are normalised to sum to 1.
    pub weights: Vec<f64>,
    /// The output dtype; `None` keeps the widest of the inputs.
    pub dtype: Option<Float>,
    /// Let NaN and infinity through.
    pub allow_non_finite: bool,
    /// What is averaged.
    pub space: Space,
    /// The method and what it is told, as every face takes it; the mean without. With a `base` the first input is that.
    pub method: Map<String, Value>,
    /// Whole safetensors files of second moments, one for each input but the base; for methods that weigh by these.
    pub moments: Vec<Vec<u8>>,
    /// The text of each input's `adapter_config.json`; for product space.
    pub configs: Vec<String>,
}

impl Merge {
    /// The core's plan, for executors that run jobs.
    ///
    /// # Errors
    /// As the core: heads, weights, names, shapes, dtypes.
    pub fn plan(&self) -> mwa::Result<Plan> {
        let inputs = self.heads()?;
        let recipe =
            Recipe { dtype: self.dtype, allow_non_finite: self.allow_non_finite, ..Recipe::default() };
        Plan::new(&inputs, &Weights::explicit(&self.weights)?, &recipe)
    }

    /// The merge as the core runs it.
    ///
    /// # Errors
    /// As the core: heads, weights, names, shapes, dtypes.
    pub fn state(&self, cut: Cut) -> mwa::Result<mwa::merge::Merge> {
        mwa::merge::Merge::new(self.chosen()?, self.options(), cut)
    }

    /// The inputs, chosen and weighed.
    ///
    /// # Errors
    /// As the core: heads, configs, weights.
    pub fn chosen(&self) -> mwa::Result<Chosen> {
        let inputs = self.heads()?;
        let config = |i: usize| self.configs.get(i).map(|text| AdapterConfig::parse(text)).transpose();
        let configs = (0..inputs.len()).map(config).collect::<mwa::Result<_>>()?;
        let has_base = self.method.contains_key("base");
        let moments = self.moments.iter().map(|bytes| Moments::of_file("moments.safetensors", bytes));
        let moments = moments.collect::<mwa::Result<_>>()?;
        Ok(Chosen { has_base, moments, ..Chosen::explicit(inputs, configs, &self.weights)? })
    }

    /// The bytes of a file that a job reads: the weights of an input, or its second moments.
    ///
    /// # Panics
    /// If there are no such bytes.
    #[must_use]
    pub fn bytes(&self, read: &Read) -> Cow<'_, [u8]> {
        let first = usize::from(self.method.contains_key("base"));
        let file = if read.file == 0 { &self.inputs[read.input] } else { &self.moments[read.input - first] };
        let range = index(read.range.start)..index(read.range.end);
        if let Some(bytes) = file.get(range.clone()) {
            return Cow::Borrowed(bytes);
        }
        // moments that are kept by rows and columns
        let moments = Moments::of_file("moments.safetensors", file).expect("the plan was made of it");
        let mut bytes = vec![0; range.len()];
        let read_at = |_, at, into: &mut [u8]| {
            into.copy_from_slice(&file[index(at)..][..into.len()]);
            Ok::<(), Infallible>(())
        };
        let Ok(()) = moments.shard.header.read(read.range.start, &mut bytes, read_at);
        Cow::Owned(bytes)
    }

    /// What is wanted of it. Files of one input with weight are written anew, and nothing is measured.
    ///
    /// # Panics
    /// If the method is none.
    #[must_use]
    pub fn options(&self) -> MergeOptions {
        MergeOptions {
            dtype: self.dtype,
            blend: Options::read(&self.method).and_then(|options| options.merging()).expect("a method").blend,
            space: self.space,
            allow_non_finite: self.allow_non_finite,
            allow_cross_run: true,
            rewrite: true,
            ..MergeOptions::default()
        }
    }

    /// The inputs as the core plans with them.
    ///
    /// # Errors
    /// As [`Header::parse`].
    pub fn heads(&self) -> mwa::Result<Vec<Input>> {
        let input = |(i, bytes): (usize, &Vec<u8>)| {
            let header = Header::parse(bytes, bytes.len() as u64)?;
            let files = vec![Shard { name: "merged.safetensors".into(), header }];
            Ok(Input { name: format!("input {i}"), files })
        };
        self.inputs.iter().enumerate().map(input).collect()
    }
}

/// Why a merge failed, as every runtime must be able to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The stable name of the kind; see [`mwa::ErrorKind::name`].
    pub kind: String,
    /// The whole message: file, tensor, facts.
    pub message: String,
}

impl From<mwa::Error> for Failure {
    fn from(error: mwa::Error) -> Self {
        Self { kind: error.kind().name().into(), message: error.to_string() }
    }
}

/// A way to merge: a processor, a device, a runtime, a binding. Product space is for those of [`PRODUCTS`].
pub trait Executor: Sync {
    /// Merge, and give the output file's bytes.
    ///
    /// # Errors
    /// What the product reports. Whatever goes wrong in the test's own plumbing is a panic.
    fn merge(&self, merge: &Merge) -> Result<Vec<u8>, Failure>;
}

/// Open an executor, or say why this machine has none.
///
/// # Errors
/// The reason, for a person: `no adapter`, `this CPU has no avx512`.
pub type Open = fn() -> Result<Box<dyn Executor>, String>;

/// Every executor by name. To add one: a file beside this one, and a line here.
pub const EXECUTORS: &[(&str, Open)] = &[
    ("reference", crate::native::reference),
    ("cpu", crate::native::cpu),
    ("cpu_one_thread", crate::native::cpu_one_thread),
    ("baseline", || crate::native::instructions("baseline")),
    ("avx2", || crate::native::instructions("avx2")),
    ("avx512", || crate::native::instructions("avx512")),
    ("gpu", crate::native::gpu),
    ("gpu_one_thread", crate::native::gpu_one_thread),
    ("session", crate::session::open),
    ("component", || crate::wasm::component("mwa.component.wasm")),
    ("component_plain", || crate::wasm::component("mwa.plain.component.wasm")),
    ("module", || crate::wasm::module("mwa.module.wasm")),
    ("module_plain", || crate::wasm::module("mwa.plain.module.wasm")),
];

/// The executors that merge in product space too, which is for processors alone.
pub const PRODUCTS: [&str; 8] =
    ["baseline", "avx2", "avx512", "session", "component", "component_plain", "module", "module_plain"];
