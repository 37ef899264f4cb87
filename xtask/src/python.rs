//! Python for the oracles: the contributor's own, or an environment in the target folder.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::run::{Result, output, root, target};
use crate::target::install;

/// An interpreter, or why there is none.
pub(crate) enum Python {
    Ready(PathBuf),
    Missing(String),
}

/// An interpreter that has what a requirements file under tests/ names.
///
/// # Errors
/// That there is none, if `MWA_REQUIRE` asks for Python.
pub(crate) fn python(requirements: &str) -> Result<Python> {
    own().map_or_else(|| made(requirements), |own| Ok(Python::Ready(own)))
}

/// The same, but never the contributor's own.
pub(crate) fn made(requirements: &str) -> Result<Python> {
    match environment(&root().join("tests").join(requirements)) {
        Ok(python) => Ok(Python::Ready(python)),
        Err(why) if is_required() => Err(format!("MWA_REQUIRE asks for Python, but {why}")),
        Err(why) => Ok(Python::Missing(why)),
    }
}

/// The interpreter that `MWA_PYTHON` names.
pub(crate) fn own() -> Option<PathBuf> {
    std::env::var_os("MWA_PYTHON").map(PathBuf::from)
}

fn is_required() -> bool {
    std::env::var("MWA_REQUIRE").is_ok_and(|names| names.split(',').any(|name| name == "python"))
}

/// An environment with exactly these requirements; made anew when they change.
fn environment(requirements: &Path) -> Result<PathBuf> {
    let wanted = fs::read_to_string(requirements).map_err(|error| error.to_string())?;
    let folder = target().join("python").join(requirements.file_stem().unwrap_or_default());
    let python = folder.join(if cfg!(windows) { "Scripts/python.exe" } else { "bin/python" });
    let made_for = folder.join("made-for.txt");
    if fs::read_to_string(&made_for).is_ok_and(|made| made == wanted) && python.exists() {
        return Ok(python);
    }
    println!("installing {} from PyPI", wanted.lines().collect::<Vec<_>>().join(", "));
    let system = system()?;
    let make = || {
        let mut make = Command::new(system);
        make.args(["-m", "venv", "--clear"]).arg(&folder);
        output(make).map_err(|why| format!("no environment can be made: {why}"))
    };
    if let Err(why) = make() {
        install(&["python3-venv"]).map_err(|apt| format!("{why}; {apt}"))?;
        make()?;
    }
    let mut pip = Command::new(&python);
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--requirement"]);
    output({
        pip.arg(requirements);
        pip
    })?;
    fs::write(made_for, wanted).map_err(|error| error.to_string())?;
    Ok(python)
}

/// A Python that is new enough for the pinned packages.
fn system() -> Result<&'static str> {
    let is_new = |name: &&str| {
        let mut ask = Command::new(name);
        ask.args(["-c", "import sys; sys.exit(sys.version_info < (3, 11))"]);
        output(ask).is_ok()
    };
    ["python3", "python"]
        .into_iter()
        .find(is_new)
        .ok_or_else(|| "there is no Python 3.11 or newer on the PATH".into())
}
