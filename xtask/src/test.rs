//! Run the tests and say in one line what became of them.

use core::fmt;
use std::process::Command;

use crate::python::{Python, python};
use crate::run::{Result, cargo, root, run, stream, target};
use crate::{bindings, build, component, gpu, hashes, vectors};

/// What became of tests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Count {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) skipped: u64,
}

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
        ["hashes"] => hashes::hashes(&mut count)?,
        ["peft"] => peft(&mut count)?,
        ["web"] => crate::web::test_package(&mut count)?,
        ["browser"] => crate::web::test_page(&mut count)?,
        _ => return Err(format!("there are no tests called `{}`; see cargo xtask help", what.join(" "))),
    }
    println!("\n{count}");
    if count.failed == 0 { Ok(()) } else { Err("tests failed".into()) }
}

/// `cargo xtask faults COUNT`
pub(crate) fn faults(count: &str) -> Result {
    let mut tests = cargo(["test", "--package", "mwa-host", "--test", "faults", "--", "--nocapture"]);
    tests.env("FAULTS", count);
    run(tests)
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
    match component::build() {
        Ok(()) => cargo_test(&["--workspace", "--features", "conformance/wasm"], count)?,
        Err(why) if is_required("wasm") => return Err(format!("MWA_REQUIRE asks for wasm, but {why}")),
        Err(why) => {
            skip(&format!("WebAssembly: {why}"), count)?;
            cargo_test(&["--workspace"], count)?;
        }
    }
    vectors::check(count)?;
    python_package(count)?;
    crate::web::test_node_if_there(count)?;
    crate::web::test_page_if_there(count)
}

fn python_package(count: &mut Count) -> Result {
    match bindings::test_python()? {
        Ok(tests) => lane("Python package", tests, count),
        Err(why) => skip(&why, count),
    }
}

fn peft(count: &mut Count) -> Result {
    println!("The PEFT lane needs torch, transformers and peft: several GB on Linux.");
    let python = match python("requirements-peft.txt")? {
        Python::Ready(python) => python,
        Python::Missing(why) => return skip(&why, count),
    };
    build()?;
    let mut tests = Command::new(&python);
    tests
        .arg("tests/peft_lane.py")
        .arg(target().join("release").join(format!("mwa{}", std::env::consts::EXE_SUFFIX)))
        .arg(target().join("peft-lane"))
        .current_dir(root());
    lane("PEFT lane", tests, count)?;
    match bindings::test_training(&python)? {
        Ok(tests) => lane("training lane", tests, count),
        Err(why) => skip(&why, count),
    }
}

/// Run tests that are no Rust, and that close with a line such as `12 passed, 1 failed`.
fn lane(name: &str, tests: Command, count: &mut Count) -> Result {
    let before = *count;
    let succeeded = stream(tests, |line| count.add_plain_result(line.split(" in ").next().unwrap_or(line)))?;
    match (succeeded, *count == before) {
        (_, true) => Err(format!("the {name} did not run to its end")),
        (false, _) if count.failed == before.failed => Err(format!("the {name} failed")),
        _ => Ok(()),
    }
}

/// Whether `MWA_REQUIRE` forbids to go without.
pub(crate) fn is_required(what: &str) -> bool {
    std::env::var("MWA_REQUIRE").is_ok_and(|names| names.split(',').any(|name| name == what))
}

pub(crate) fn skip(why: &str, count: &mut Count) -> Result {
    println!("skipped: {why}");
    count.skipped += 1;
    Ok(())
}

impl Count {
    /// Add a line such as `test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 3 filtered out; …`.
    fn add_cargo_result(&mut self, line: &str) {
        if let Some((_, counts)) = line.strip_prefix("test result: ").and_then(|rest| rest.split_once(". ")) {
            self.add(counts.split("; "));
        }
    }

    /// Add a line such as `12 passed, 1 failed`.
    fn add_plain_result(&mut self, line: &str) {
        if line.split(", ").all(|part| Self::part(part).is_some()) {
            self.add(line.split(", "));
        }
    }

    fn add<'a>(&mut self, parts: impl Iterator<Item = &'a str>) {
        for (count, what) in parts.filter_map(Self::part) {
            match what {
                "passed" => self.passed += count,
                "failed" => self.failed += count,
                _ => self.skipped += count,
            }
        }
    }

    fn part(part: &str) -> Option<(u64, &str)> {
        let (count, what) = part.split_once(' ')?;
        let count = count.parse().ok()?;
        ["passed", "failed", "ignored", "skipped"].contains(&what).then_some((count, what))
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_add_up() {
        let mut count = Count::default();
        count.add_cargo_result(
            "test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 3 filtered out; finished in 0.00s",
        );
        count.add_cargo_result("test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.0s");
        count.add_cargo_result("test something ... ok");
        count.add_plain_result("39 passed, 1 failed");
        count.add_plain_result("39 passed the first time, 1 failed");
        assert_eq!(count.to_string(), "52 passed, 3 failed, 1 skipped");
    }
}
