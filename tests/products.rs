//! Merges in product space through every executor that makes them: the same bytes, and those that are written down.
//!
//! That they are the right ones is for `core/tests/product`, against dense algebra. `MWA_REMAKE=1` writes them down anew.

use std::collections::BTreeMap;
use std::process::ExitCode;

use conformance::executor::{EXECUTORS, PRODUCTS};
use conformance::{Executor, Merge, harness, native, vectors};
use mwa_host::{Rank, Space};
use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

fn main() -> ExitCode {
    if std::env::var_os("MWA_REMAKE").is_some() {
        remake();
    }
    let executors: Vec<_> = EXECUTORS.iter().filter(|(name, _)| PRODUCTS.contains(name)).copied().collect();
    harness::conclude(harness::trials(&executors, &[("merges_all_products", merges_all_products)]))
}

/// The ranks that each case is merged at, as the list of hashes calls them.
const RANKS: [(&str, Rank); 4] = [
    ("inputs", Rank::Inputs),
    ("1", Rank::Fixed(1)),
    ("full", Rank::Full),
    ("energy 0.9", Rank::Energy(0.9)),
];

#[derive(Deserialize)]
struct Case {
    name: String,
    weights: Vec<f64>,
    configs: Vec<Value>,
}

impl Case {
    fn merge(&self, rank: Rank) -> Merge {
        let file = |i| vectors::read(format!("product/{}-{i}.safetensors", self.name).as_ref());
        Merge {
            inputs: (0..self.configs.len()).map(file).collect(),
            weights: self.weights.clone(),
            space: Space::Product(Some(rank)),
            configs: self.configs.iter().map(ToString::to_string).collect(),
            ..Merge::default()
        }
    }
}

/// Each case at each rank, by the name of both.
fn cases() -> Vec<(String, Merge)> {
    let index = vectors::read("product/index.json".as_ref());
    let cases: Vec<Case> = serde_json::from_slice(&index).expect("the index is there");
    let merges = cases.iter().flat_map(|case| {
        RANKS.map(|(name, rank)| (format!("{} at rank {name}", case.name), case.merge(rank)))
    });
    merges.collect()
}

fn merges_all_products(executor: &dyn Executor) -> Result<(), String> {
    let known: BTreeMap<String, String> =
        serde_json::from_slice(&vectors::read("product/sha256.json".as_ref())).expect("hashes by name");
    let cases = cases();
    assert_eq!(known.len(), cases.len(), "each case has its hash; MWA_REMAKE=1 writes them");
    harness::all(&cases, |(name, merge)| {
        let merged = executor.merge(merge).map_err(|failure| format!("{name}: {}", failure.message))?;
        let hash = sha256(&merged);
        if hash == known[name] { Ok(()) } else { Err(format!("{name}: {hash} is not {}", known[name])) }
    })
}

fn remake() {
    let baseline = native::instructions("baseline").expect("every CPU has it");
    let hashes: BTreeMap<_, _> = cases()
        .into_iter()
        .map(|(name, merge)| {
            let merged =
                baseline.merge(&merge).unwrap_or_else(|failure| panic!("{name}: {}", failure.message));
            (name, sha256(&merged))
        })
        .collect();
    let text = serde_json::to_string_pretty(&hashes).expect("plain data") + "\n";
    std::fs::write(vectors::folder().join("product/sha256.json"), text).expect("the vectors can be written");
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
