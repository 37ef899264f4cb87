//! The Go package: its core put in place, its tests, and what it makes of the vectors.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::component;
use crate::count::{Count, missing, skip};
use crate::run::{Result, output, root, run, stream, target};

/// The oldest Go that the package is for, as its go.mod says.
const OLDEST: (u32, u32) = (1, 25);

/// What looks for mistakes beyond `go vet`; downloaded by its number.
const STATICCHECK: &str = "honnef.co/go/tools/cmd/staticcheck@v0.8.2";

/// `cargo xtask build go`: the core module into the folder that the package embeds.
pub(crate) fn build() -> Result {
    ready()?;
    component::build()?;
    let (from, to) = (component::folder().join("mwa.module.wasm"), folder().join("core/mwa.module.wasm"));
    fs::copy(&from, &to).map_err(|error| format!("{}: {error}", to.display()))?;
    println!("put {} in place", to.display());
    run(go(&["build", "./..."]))
}

/// `cargo xtask test go`, and a part of `test` where Go is.
pub(crate) fn test(count: &mut Count) -> Result {
    if let Err(why) = ready() {
        return missing("go", &why, count);
    }
    build()?;
    run(go(&["vet", "./..."]))?;
    match output(go(&["run", STATICCHECK, "-version"])) {
        Ok(_) => run(go(&["run", STATICCHECK, "./..."]))?,
        Err(why) => skip(&format!("staticcheck: {why}"), count)?,
    }
    tests(&["test", "-v", "-count=1", "-timeout=60m", "./..."], count)?;
    // what races needs a C compiler
    if output(go(&["env", "CGO_ENABLED"])).is_ok_and(|is_enabled| is_enabled.trim() == "1") {
        tests(&["test", "-v", "-count=1", "-timeout=60m", "-race", "-short", "./..."], count)
    } else {
        skip("the race detector: Go finds no C compiler", count)
    }
}

/// What the package's own runner tells of the vectors and the sample run, as JSON.
pub(crate) fn made() -> Result<String> {
    build()?;
    let made = target().join("go.json");
    let mut tests = go(&["test", "-count=1", "-run", "^TestVectors$", "."]);
    tests.env("MWA_MADE", &made);
    let _ = fs::remove_file(&made);
    // what failed is counted in what it tells
    let told = output(tests);
    fs::read_to_string(&made).map_err(|error| told.err().unwrap_or_else(|| error.to_string()))
}

/// Measure the package beside the binary on the checkpoints in `run_folder`.
pub(crate) fn bench(run_folder: &Path, runs: usize) -> Result {
    crate::run::build()?;
    build()?;
    let program = target().join("bench/mwa-go");
    let mut compile = go(&["build", "-o"]);
    compile.arg(&program).arg("./cmd/mwa-go");
    run(compile)?;
    let mut bench = go(&["run", "./internal/bench"]);
    bench.arg(run_folder).arg(target().join("release/mwa")).arg(program);
    run({
        bench.arg(runs.to_string()).arg(target().join("bench/out"));
        bench
    })
}

/// Whether there is a Go that is new enough.
fn ready() -> Result {
    let mut version = Command::new("go");
    version.args(["env", "GOVERSION"]).current_dir(root());
    let version = output(version).map_err(|_| String::from("there is no go"))?;
    let mut numbers = version.trim().trim_start_matches("go").split('.').map(|part| part.parse::<u32>().ok());
    match (numbers.next().flatten(), numbers.next().flatten()) {
        (Some(major), Some(minor)) if (major, minor) >= OLDEST => Ok(()),
        _ => Err(format!("go is {}, older than {}.{}", version.trim(), OLDEST.0, OLDEST.1)),
    }
}

fn tests(arguments: &[&str], count: &mut Count) -> Result {
    let before = count.failed;
    let succeeded = stream(go(arguments), |line| {
        let line = line.trim_start();
        for (word, n) in [
            ("--- PASS: ", &mut count.passed),
            ("--- FAIL: ", &mut count.failed),
            ("--- SKIP: ", &mut count.skipped),
        ] {
            *n += u64::from(line.starts_with(word));
        }
    })?;
    if succeeded || count.failed > before {
        Ok(())
    } else {
        Err("the Go tests did not run to their end".into())
    }
}

fn go(arguments: &[&str]) -> Command {
    let mut go = Command::new("go");
    go.args(arguments).current_dir(folder());
    go
}

fn folder() -> PathBuf {
    root().join("bindings/go")
}
