//! What CI runs, in the order in which mistakes are cheapest to hear of.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::Instant;

use crate::run::{Result, cargo, output, run};
use crate::{supply, target, test};

/// A target without an operating system: what builds here needs no std.
const BARE: &str = "x86_64-unknown-none";

/// Machines that this one only compiles for: their tests run where they are (`.github/workflows`).
const MACHINES: [&str; 3] = ["x86_64-pc-windows-msvc", "aarch64-apple-darwin", "aarch64-unknown-linux-gnu"];

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

/// `cargo xtask machines`: the program and the C library compile for the other systems that releases are for.
pub(crate) fn machines() -> Result {
    for triple in MACHINES {
        let mut add = Command::new("rustup");
        add.args(["target", "add", triple]);
        if let Err(why) = output(add) {
            println!("skipped: {triple} is not compiled for: {why}");
            continue;
        }
        let start = Instant::now();
        run(cargo(["check", "--package", "mwa-host", "--package", "mwa-c", "--target", triple]))?;
        println!("the program and the C library compile for {triple} ({} s)", start.elapsed().as_secs());
    }
    Ok(())
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
