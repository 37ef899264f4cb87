//! What CI runs, in the order in which mistakes are cheapest to hear of.

use std::collections::BTreeSet;

use crate::run::{Result, cargo, output, run};
use crate::{supply, target, test};

/// A target without an operating system: what builds here needs no std.
const BARE: &str = "x86_64-unknown-none";

/// All crates that the core may be linked with, direct or not; ARCHITECTURE.md says what each is for.
const CORE_LINKS: &[&str] = &[
    "allocator-api2",
    "arrayvec",
    "blake3",
    "cfg-if",
    "constant_time_eq",
    "cpufeatures",
    "equivalent",
    "foldhash",
    "hashbrown",
    "indexmap",
    "itoa",
    "libm",
    "memchr",
    "mwa",
    "safetensors",
    "serde",
    "serde_core",
    "serde_json",
    "zmij",
];

/// `cargo xtask ci`
pub(crate) fn ci() -> Result {
    run(cargo(["fmt", "--all", "--check"]))?;
    core_dependencies()?;
    supply::supply()?;
    let clippy = ["clippy", "--workspace", "--all-targets", "--features", "conformance/wasm"];
    run(cargo(clippy.iter().chain(&["--", "-D", "warnings"])))?;
    let mut docs = cargo(["doc", "--workspace", "--no-deps"]);
    run({
        docs.env("RUSTDOCFLAGS", "-D warnings");
        docs
    })?;
    let core = target::build("mwa", BARE)?;
    run(core.command)?;
    println!("the core builds without std, for {BARE}, with {}", core.road);
    test::test(&[])
}

/// The core is linked with exactly the allowed crates.
fn core_dependencies() -> Result {
    let tree =
        output(cargo(["tree", "--package", "mwa", "--edges", "normal,no-proc-macro", "--prefix", "none"]))?;
    let found: BTreeSet<_> = tree.lines().filter_map(|line| line.split(' ').next()).collect();
    let allowed: BTreeSet<_> = CORE_LINKS.iter().copied().collect();
    if found == allowed {
        return Ok(());
    }
    let list = |a: &BTreeSet<&str>, b| a.difference(b).copied().collect::<Vec<_>>().join(", ");
    Err(format!(
        "the core's dependencies changed: new [{}], gone [{}]; if that is meant, say so in CORE_LINKS of \
         xtask/src/ci.rs and in ARCHITECTURE.md",
        list(&found, &allowed),
        list(&allowed, &found)
    ))
}
