//! Try to break the promises: injected faults, fuzzing, and the instruments of the compiler's nightly channel.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::run::{Result, cargo, output, root, run, target};

/// What has its own `cargo`.
const NIGHTLY: &str = "+nightly";

/// `cargo xtask faults COUNT`
pub(crate) fn faults(count: &str) -> Result {
    let mut tests = cargo(["test", "--package", "mwa-host", "--test", "faults", "--", "--nocapture"]);
    tests.env("FAULTS", count);
    run(tests)
}

/// `cargo xtask fuzz MINUTES`: each target in turn, all together as long as that.
pub(crate) fn fuzz(minutes: &str) -> Result {
    has_nightly(&[])?;
    let mut version = rustup_cargo(&["fuzz", "--version"]);
    version.current_dir(root());
    if output(version).is_err() {
        return Err("cargo-fuzz is not installed: cargo install --locked cargo-fuzz".into());
    }
    let programs = root().join("fuzz/fuzz_targets");
    let entries = fs::read_dir(&programs).map_err(|error| format!("{}: {error}", programs.display()))?;
    let names = entries.flatten().filter_map(|entry| Some(entry.path().file_stem()?.to_str()?.to_owned()));
    let mut names: Vec<_> = names.collect();
    names.sort();
    let seconds: f64 =
        minutes.parse::<f64>().map_err(|error| format!("`{minutes}` minutes: {error}"))? * 60.0;
    let each = (seconds / names.len() as f64).ceil().max(1.0);
    for name in &names {
        let corpus = root().join("fuzz/corpus").join(name);
        fs::create_dir_all(&corpus).map_err(|error| format!("{}: {error}", corpus.display()))?;
        let mut fuzz = rustup_cargo(&["fuzz", "run", name]);
        fuzz.current_dir(root()).arg(&corpus);
        // what is found goes to the first folder; the others are only read
        for seeds in seeds(name) {
            fuzz.arg(root().join(seeds));
        }
        fuzz.args(["--", &format!("-max_total_time={each}"), "-timeout=10", "-rss_limit_mb=2048"]);
        fuzz.args(["-print_final_stats=1"]);
        run(fuzz).map_err(|why| {
            format!(
                "{why}\nwhat broke it is in fuzz/artifacts/{name}: mend that, and keep it as an example, under a name that \
                 says what it is, in {}",
                seeds(name)[0]
            )
        })?;
    }
    Ok(())
}

/// The examples of a target, as fuzz/src/lib.rs lists them; what is found is kept in the first.
fn seeds(name: &str) -> Vec<String> {
    let all = |folders: &[&str]| folders.iter().map(ToString::to_string).collect();
    match name {
        "heads" => all(&["tests/vectors/hostile", "tests/vectors/in"]),
        "training" => all(&[
            "fuzz/seeds/training",
            "core/tests/data/training/dcp/checkpoint-10",
            "core/tests/data/training/zero2/global_step3",
        ]),
        "torch" => all(&["fuzz/seeds/torch", "core/tests/data/torch", "host/tests/cli/data/toolkits"]),
        "optimizers" => all(&["fuzz/seeds/optimizers", "core/tests/data/torch"]),
        _ => Vec::from([format!("fuzz/seeds/{name}")]),
    }
}

/// Tests of the core that Miri finishes in minutes: text, formats, plans and jobs, whatever moves bytes. Whole merges by a session
/// (`border::tests`) take it hours.
const MIRI: [&str; 9] = [
    "text::",
    "files::",
    "format::",
    "plan::",
    "border::asked",
    "border::work",
    "kernel::",
    "adapter::",
    "dtype::",
];

/// `cargo xtask miri`: the core, and the border to C.
pub(crate) fn miri() -> Result {
    has_nightly(&["miri", "rust-src"])?;
    for package in ["mwa-c", "mwa"] {
        // another processor than this one: here `libm` takes its square roots by assembly, which Miri does not run
        let mut tests = rustup_cargo(&["miri", "test", "--target", "riscv64gc-unknown-linux-gnu"]);
        tests.args(["--package", package]);
        if package == "mwa" {
            tests.args(["--lib", "--"]).args(MIRI).args(["--skip", "slow_"]);
        } else {
            tests.args(["--test", "border"]);
        }
        tests.current_dir(root()).env("CARGO_TARGET_DIR", target().join("miri"));
        tests.env("MIRIFLAGS", "-Zmiri-disable-isolation");
        run(tests)?;
    }
    Ok(())
}

/// `cargo xtask sanitize`: the host's own tests, with all its threads, under AddressSanitizer and ThreadSanitizer.
pub(crate) fn sanitize() -> Result {
    has_nightly(&["rust-src"])?;
    for kind in ["address", "thread"] {
        // the library is built with it too, or ThreadSanitizer would not see what it does
        let mut tests =
            rustup_cargo(&["test", "-Zbuild-std", "--target", TRIPLE, "--package", "mwa-host", "--lib"]);
        tests.args(["--no-default-features"]).current_dir(root());
        tests
            .env("CARGO_TARGET_DIR", target().join("sanitize"))
            .env("RUSTFLAGS", format!("-Zsanitizer={kind}"));
        println!("{kind} sanitizer");
        run(tests)?;
    }
    Ok(())
}

/// Where the sanitizers are.
const TRIPLE: &str = "x86_64-unknown-linux-gnu";

/// The nightly channel's cargo, whoever runs this.
fn rustup_cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new("cargo");
    command.arg(NIGHTLY).args(arguments);
    // set by the cargo that runs this, for itself
    for variable in ["CARGO", "RUSTC", "RUSTDOC", "RUSTUP_TOOLCHAIN"] {
        command.env_remove(variable);
    }
    command
}

/// See that the nightly channel is there, with these components.
fn has_nightly(components: &[&str]) -> Result {
    let mut version = rustup_cargo(&["--version"]);
    version.current_dir(Path::new("/"));
    let version = output(version).map_err(|why| format!("{why}: rustup toolchain install nightly"))?;
    println!("{}", version.trim());
    for component in components {
        let mut add = Command::new("rustup");
        add.args(["component", "add", "--toolchain", "nightly", component]);
        output(add)?;
    }
    Ok(())
}
