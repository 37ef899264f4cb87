//! Build and test the packages for other languages.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::python::{Python, made, own, python};
use crate::run::{Result, build, compared, root, run, target};
use crate::web;
use crate::{c, java};

/// What maturin and the tests need.
const REQUIREMENTS: &str = "requirements-bindings.txt";

/// A Python that has maturin.
fn ready() -> Result<Python> {
    python(REQUIREMENTS)
}

/// The wheel, compiled as `profile` says, and the source distribution, in the folder that is returned.
pub(crate) fn build_python(python: &PathBuf, profile: &str) -> Result<PathBuf> {
    let wheels = target().join("wheels");
    fs::remove_dir_all(&wheels).or_else(|error| {
        if error.kind() == std::io::ErrorKind::NotFound { Ok(()) } else { Err(error.to_string()) }
    })?;
    // not `build --sdist`: its wheel is built from the unpacked sources, whose times are so old that cargo takes what it
    // built of earlier ones for theirs
    for what in [&["build", "--profile", profile, "--quiet"][..], &["sdist"]] {
        let mut maturin = Command::new(python);
        maturin.args(["-m", "maturin"]).args(what).arg("--out").arg(&wheels);
        maturin.current_dir(root().join("bindings/python"));
        run(maturin)?;
    }
    println!("built {}", wheels.display());
    Ok(wheels)
}

/// `cargo xtask build python`
pub(crate) fn build_python_alone() -> Result {
    match ready()? {
        Python::Ready(python) => build_python(&python, "release").map(drop),
        Python::Missing(why) => Err(why),
    }
}

/// Build the wheel, install it into a fresh environment, and hand that environment's test command back.
pub(crate) fn test_python() -> Result<core::result::Result<Command, String>> {
    let python = match ready()? {
        Python::Ready(python) => python,
        Python::Missing(why) => return Ok(Err(why)),
    };
    let program = compared()?;
    let wheel = wheel(&python, "dev")?;
    let folder = target().join("python/fresh");
    let mut make = Command::new(&python);
    make.args(["-m", "venv", "--clear", "--without-pip"]).arg(&folder);
    run(make)?;
    let fresh = folder.join(if cfg!(windows) { "Scripts/python.exe" } else { "bin/python" });
    let mut install = Command::new(&python);
    install.args(["-m", "pip", "--python"]).arg(&fresh).args(["install", "--quiet"]).arg(wheel);
    install.arg("--requirement").arg(root().join("tests/requirements-bindings.txt"));
    run(install)?;
    let mut test = pytest(&fresh);
    test.env("MWA_BINARY", program);
    Ok(Ok(test))
}

/// The command that runs one of the package's tests with an interpreter that has what the test needs.
pub(crate) fn test_with(python: &Path, file: &str) -> Result<core::result::Result<Command, String>> {
    let packages = match beside(python, &["pytest"])? {
        Ok(packages) => packages,
        Err(why) => return Ok(Err(why)),
    };
    let mut test = pytest(python);
    test.arg(file).env("PYTHONPATH", packages);
    Ok(Ok(test))
}

/// A folder with this package, and `more` from PyPI, for an environment that is not ours to change.
fn beside(python: &Path, more: &[&str]) -> Result<core::result::Result<PathBuf, String>> {
    let maturin = match made(REQUIREMENTS)? {
        Python::Ready(maturin) => maturin,
        Python::Missing(why) => return Ok(Err(why)),
    };
    let wheel = wheel(&maturin, "release")?;
    let folder = target().join("python/beside");
    let _ = fs::remove_dir_all(&folder);
    let mut install = Command::new(maturin);
    install.args(["-m", "pip", "--python"]).arg(python).args(["install", "--quiet", "--target"]).arg(&folder);
    run({
        install.arg(wheel).args(more);
        install
    })?;
    Ok(Ok(folder))
}

/// The wheel, built anew.
fn wheel(python: &PathBuf, profile: &str) -> Result<PathBuf> {
    let wheels = fs::read_dir(build_python(python, profile)?).map_err(|error| error.to_string())?;
    let mut paths = wheels.flatten().map(|entry| entry.path());
    paths
        .find(|path| path.extension().is_some_and(|e| e == "whl"))
        .ok_or_else(|| "maturin left no wheel".into())
}

/// Measure Python, C and Node beside the binary on the checkpoints in `run`, and state dicts beside torch, if `MWA_PYTHON` has it.
pub(crate) fn bench(run_folder: &Path, runs: usize) -> Result {
    build()?;
    c::build()?;
    let (c, program) = (target().join("c"), target().join("bench/merge-in-c"));
    let mut compile = Command::new("cc");
    compile.arg("-O2").arg(root().join("bindings/c/examples/merge.c")).arg("-I").arg(c.join("include"));
    compile.arg("-L").arg(c.join("lib")).arg("-lmwa").arg(format!("-Wl,-rpath,{}", c.join("lib").display()));
    run({
        compile.arg("-o").arg(&program);
        compile
    })?;
    let python = match own() {
        Some(own) => own,
        None => match made(REQUIREMENTS)? {
            Python::Ready(python) => python,
            Python::Missing(why) => return Err(why),
        },
    };
    let packages = beside(&python, &[])??;
    let web = root().join("wasm/web/dist/cli.js");
    match web::ready() {
        Ok(()) => web::package()?,
        Err(why) => println!("not measured: Node, {why}"),
    }
    let mut bench = Command::new(python);
    bench.arg("-P").arg(root().join("bindings/python/bench.py")).env("PYTHONPATH", packages);
    bench.arg(run_folder).arg(target().join("release/mwa")).arg(program).arg(web).arg(runs.to_string());
    run({
        bench.arg(target().join("bench/out"));
        bench
    })?;
    java::bench(run_folder, runs)
}

fn pytest(python: &Path) -> Command {
    let mut test = Command::new(python);
    // -P: the installed package, not the sources
    test.args(["-P", "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", "-p", "no:warnings"]);
    test.current_dir(root().join("bindings/python"));
    test
}
