//! Real adapters of every kind, and which may be averaged.
#![allow(missing_docs, reason = "a test has no users")]

mod fates;
mod pairs;

use std::fs;
use std::path::PathBuf;

use mwa::{AdapterConfig, Candidate, agree};

/// An adapter without its weights.
#[derive(Clone)]
struct Adapter {
    config: Option<AdapterConfig>,
    tensors: Vec<(String, String, Vec<u64>)>,
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/adapters")
}

impl Adapter {
    fn open(name: &str) -> Self {
        let path = folder().join(name);
        let config = fs::read_to_string(path.join("adapter_config.json"))
            .ok()
            .map(|text| AdapterConfig::parse(&text).unwrap_or_else(|error| panic!("{name}: {error}")));
        let listing = fs::read_to_string(path.join("tensors.txt")).unwrap_or_default();
        let tensors = listing.lines().map(|line| {
            let mut parts = line.splitn(3, ' ');
            let mut part = || parts.next().expect("NAME DTYPE SHAPE").to_string();
            let (name, dtype, shape) = (part(), part(), part());
            (name, dtype, serde_json::from_str(&shape).expect("a shape"))
        });
        Self { config, tensors: tensors.collect() }
    }

    /// The same adapter with fields of its config replaced.
    fn with(&self, changes: &[(&str, serde_json::Value)]) -> Self {
        let text = self.config.as_ref().expect("has a config").rewritten(changes);
        Self { config: Some(AdapterConfig::parse(&text).expect("a valid config")), ..self.clone() }
    }

    /// The same adapter with its tensors changed.
    fn tensors(&self, change: impl Fn(&mut String, &mut Vec<u64>)) -> Self {
        let mut copy = self.clone();
        copy.tensors.iter_mut().for_each(|(name, _, shape)| change(name, shape));
        copy
    }
}

/// Ask about the adapters, named `a`, `b`, ….
fn ask<T>(adapters: &[&Adapter], question: impl Fn(&[Candidate<'_>]) -> T) -> T {
    let shapes: Vec<Vec<(&str, &[u64])>> = adapters
        .iter()
        .map(|adapter| {
            adapter.tensors.iter().map(|(name, _, shape)| (name.as_str(), shape.as_slice())).collect()
        })
        .collect();
    let candidates: Vec<_> = adapters
        .iter()
        .zip(&shapes)
        .zip(["a", "b", "c"])
        .map(|((adapter, tensors), name)| Candidate { name, config: adapter.config.as_ref(), tensors })
        .collect();
    question(&candidates)
}

fn refused(ours: &Adapter, theirs: &Adapter) -> mwa::Error {
    ask(&[ours, theirs], |inputs| agree(inputs).expect_err("must be refused"))
}
