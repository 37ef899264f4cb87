//! Run the tests and say in one line what became of them.

use std::path::Path;
use std::process::Command;

use crate::count::{Count, is_required, lane, skip};
use crate::python::{Python, python};
use crate::run::{Result, binary, build, cargo, root, run, stream, target, tested};
use crate::{bindings, component, gpu, hashes, java, vectors};

/// `cargo xtask test …`
pub(crate) fn test(what: &[&str]) -> Result {
    let mut count = Count::default();
    match *what {
        [] => everything(&mut count)?,
        ["all"] => {
            everything(&mut count)?;
            peft(&mut count)?;
        }
        ["core", ref more @ ..] => cargo_test(&[&["--package", "mwa"], more].concat(), &mut count)?,
        ["host", ref more @ ..] => cargo_test(&[&["--package", "mwa-host"], more].concat(), &mut count)?,
        ["conformance", ref more @ ..] => {
            cargo_test(&[&["--package", "conformance"], more].concat(), &mut count)?;
        }
        ["wasm", ref more @ ..] => {
            component::build()?;
            cargo_test(&[&["--package", "conformance", "--features", "wasm"], more].concat(), &mut count)?;
        }
        ["c", ref more @ ..] => cargo_test(&[&["--package", "mwa-c"], more].concat(), &mut count)?,
        ["python"] => python_package(&mut count)?,
        ["go"] => crate::go::test(&mut count)?,
        ["java"] => java::test(&mut count)?,
        ["hashes"] => hashes::hashes(&mut count)?,
        ["peft"] => peft(&mut count)?,
        ["formats"] => formats(&mut count)?,
        ["cloud"] => cloud(&mut count)?,
        ["flower"] => flower(&mut count)?,
        ["ray"] => ray(&mut count)?,
        ["web"] => crate::web::test_package(&mut count)?,
        ["browser"] => crate::web::test_page(&mut count)?,
        _ => return Err(format!("there are no tests called `{}`; see cargo xtask help", what.join(" "))),
    }
    println!("\n{count}");
    if count.failed == 0 { Ok(()) } else { Err("tests failed".into()) }
}

fn cargo_test(arguments: &[&str], count: &mut Count) -> Result {
    let before = count.failed;
    let mut tests = cargo([&["test", "--no-fail-fast"], arguments].concat());
    if std::env::var_os("XDG_RUNTIME_DIR").is_none() {
        // Mesa complains for each device where no desktop has set it
        tests.env("XDG_RUNTIME_DIR", target());
    }
    let ran = stream(tests, |line| count.add_cargo_result(line))?;
    if ran || count.failed > before { Ok(()) } else { Err("cargo test did not run to its end".into()) }
}

/// All tests but those that need gigabytes.
fn everything(count: &mut Count) -> Result {
    gpu::provide();
    let built = component::build();
    let has_wasm = built.is_ok();
    match built {
        Ok(()) => cargo_test(&["--workspace", "--features", "conformance/wasm"], count)?,
        Err(why) if is_required("wasm") => return Err(format!("MWA_REQUIRE asks for wasm, but {why}")),
        Err(why) => {
            skip(&format!("WebAssembly: {why}"), count)?;
            cargo_test(&["--workspace"], count)?;
        }
    }
    tested();
    vectors::check(count)?;
    python_package(count)?;
    crate::go::test(count)?;
    if has_wasm {
        java::test_if_there(count)?;
    }
    crate::web::test_node_if_there(count)?;
    crate::web::test_page_if_there(count)
}

fn python_package(count: &mut Count) -> Result {
    match bindings::test_python()? {
        Ok(tests) => lane("Python package", tests, count),
        Err(why) => skip(&why, count),
    }
}

fn formats(count: &mut Count) -> Result {
    println!(
        "The lane of formats needs torch, transformers, peft, diffusers, lightning, timm, lycoris, mlx, gguf and llama.cpp: several GB on Linux."
    );
    let python = match python("requirements-formats.txt")? {
        Python::Ready(python) => python,
        Python::Missing(why) => return skip(&why, count),
    };
    with_binary(&python, "formats-lane", "lane of formats", count)
}

/// Run the script of a lane, `tests/peft_lane.py` of `peft-lane`, on the binary, in a folder of its own.
fn with_binary(python: &Path, folder: &str, name: &str, count: &mut Count) -> Result {
    build()?;
    lane(name, script(python, folder), count)
}

fn script(python: &Path, folder: &str) -> Command {
    let mut tests = Command::new(python);
    tests
        .arg(format!("tests/{}.py", folder.replace('-', "_")))
        .arg(binary())
        .arg(target().join(folder))
        .current_dir(root());
    tests
}

/// Stores: the tests in memory, and the binary with real servers.
fn cloud(count: &mut Count) -> Result {
    cargo_test(&["--package", "mwa-host", "--features", "cloud", "--lib", "io::"], count)?;
    let python = match python("requirements-cloud.txt")? {
        Python::Ready(python) => python,
        Python::Missing(why) => return skip(&why, count),
    };
    run(cargo(["build", "--release", "--package", "mwa-host", "--features", "cloud"]))?;
    lane("lane of stores", script(&python, "cloud-lane"), count)
}

fn flower(count: &mut Count) -> Result {
    with_package("requirements-flower.txt", "tests/test_flower.py", "Flower lane", count)
}

fn ray(count: &mut Count) -> Result {
    with_package("requirements-ray.txt", "tests/test_ray.py", "lane of Ray", count)
}

/// Run one of the Python package's tests with what a requirements file names.
fn with_package(requirements: &str, file: &str, name: &str, count: &mut Count) -> Result {
    let python = match python(requirements)? {
        Python::Ready(python) => python,
        Python::Missing(why) => return skip(&why, count),
    };
    match bindings::test_with(&python, file)? {
        Ok(tests) => lane(name, tests, count),
        Err(why) => skip(&why, count),
    }
}

fn peft(count: &mut Count) -> Result {
    println!("The PEFT lane needs torch, transformers and peft: several GB on Linux.");
    let python = match python("requirements-peft.txt")? {
        Python::Ready(python) => python,
        Python::Missing(why) => return skip(&why, count),
    };
    with_binary(&python, "peft-lane", "PEFT lane", count)?;
    with_binary(&python, "fold-lane", "lane of folding", count)?;
    match bindings::test_with(&python, "tests/test_training.py")? {
        Ok(tests) => lane("training lane", tests, count),
        Err(why) => skip(&why, count),
    }
}
