//! Build and test the packages for other languages.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::build;
use crate::python::{Python, python};
use crate::run::{Result, cargo, root, run, target};

/// A Python that has maturin.
fn ready() -> Result<Python> {
    python("requirements-bindings.txt")
}

/// The wheel and the source distribution, in the folder that is returned.
pub(crate) fn build_python(python: &PathBuf) -> Result<PathBuf> {
    let wheels = target().join("wheels");
    fs::remove_dir_all(&wheels).or_else(|error| {
        if error.kind() == std::io::ErrorKind::NotFound { Ok(()) } else { Err(error.to_string()) }
    })?;
    let mut maturin = Command::new(python);
    maturin.args(["-m", "maturin", "build", "--quiet", "--release", "--sdist", "--out"]).arg(&wheels);
    maturin.current_dir(root().join("bindings/python"));
    run(maturin)?;
    println!("built {}", wheels.display());
    Ok(wheels)
}

/// `cargo xtask build python`
pub(crate) fn build_python_alone() -> Result {
    match ready()? {
        Python::Ready(python) => build_python(&python).map(drop),
        Python::Missing(why) => Err(why),
    }
}

/// Build the wheel, install it into a fresh environment, and hand that environment's test command back.
pub(crate) fn test_python() -> Result<core::result::Result<Command, String>> {
    let python = match ready()? {
        Python::Ready(python) => python,
        Python::Missing(why) => return Ok(Err(why)),
    };
    build()?;
    let wheels = build_python(&python)?;
    let wheel = fs::read_dir(&wheels).map_err(|error| error.to_string())?;
    let wheel =
        wheel.flatten().map(|entry| entry.path()).find(|path| path.extension().is_some_and(|e| e == "whl"));
    let wheel = wheel.ok_or("maturin left no wheel")?;
    let folder = target().join("python/fresh");
    let mut make = Command::new(&python);
    make.args(["-m", "venv", "--clear", "--without-pip"]).arg(&folder);
    run(make)?;
    let fresh = folder.join(if cfg!(windows) { "Scripts/python.exe" } else { "bin/python" });
    let mut install = Command::new(&python);
    install.args(["-m", "pip", "--python"]).arg(&fresh).args(["install", "--quiet"]).arg(wheel);
    install.arg("--requirement").arg(root().join("tests/requirements-bindings.txt"));
    run(install)?;
    let mut test = Command::new(fresh);
    test.args(["-P", "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:warnings"]);
    test.env("MWA_BINARY", target().join("release").join(format!("mwa{}", std::env::consts::EXE_SUFFIX)));
    test.current_dir(root().join("bindings/python"));
    Ok(Ok(test))
}

/// `cargo xtask build c`: header, libraries and pkg-config file, laid out as a prefix.
pub(crate) fn build_c() -> Result {
    run(cargo(["build", "--release", "--package", "mwa-c"]))?;
    let prefix = target().join("c");
    let (from, here) = (target().join("release"), root().join("bindings/c"));
    let mut copies = vec![
        (here.join("include/mwa.h"), "include", "mwa.h"),
        (here.join("mwa.pc"), "lib/pkgconfig", "mwa.pc"),
    ];
    // on Unix a program asks for the name with the ABI's number when it starts, the linker for the one without
    for (library, name) in [
        ("libmwa_c.so", "libmwa.so.0"),
        ("libmwa_c.so", "libmwa.so"),
        ("libmwa_c.dylib", "libmwa.0.dylib"),
        ("libmwa_c.dylib", "libmwa.dylib"),
        ("libmwa_c.a", "libmwa.a"),
        ("mwa_c.dll", "mwa_c.dll"),
        ("mwa_c.dll.lib", "mwa.lib"),
    ] {
        if from.join(library).is_file() {
            copies.push((from.join(library), "lib", name));
        }
    }
    for (file, folder, name) in copies {
        let folder = prefix.join(folder);
        let copy = fs::create_dir_all(&folder).and_then(|()| fs::copy(&file, folder.join(name)));
        copy.map_err(|error| error.to_string())?;
    }
    println!("built {}", prefix.display());
    Ok(())
}
