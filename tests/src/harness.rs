//! Run each test once per executor, under its name; a test without its device is ignored, and says so.
//!
//! The built-in harness cannot ignore a test at run time: it would count as passed what never ran. libtest-mimic can,
//! and takes the same arguments: `cargo test -p conformance --test sums -- cpu`.

use core::panic::AssertUnwindSafe;
use std::env;
use std::panic::catch_unwind;
use std::process::ExitCode;

use libtest_mimic::{Arguments, Completion, Failed, Trial};

use crate::Executor;
use crate::executor::{EXECUTORS, Open};

/// A test of one executor; its error is the difference found, in words.
pub type Test = fn(&dyn Executor) -> Result<(), String>;

/// A test without an executor.
pub type Once = fn() -> Result<(), String>;

/// Make `main` of a test program: each test once per executor, as `test::executor`, and each test after `once` once.
#[macro_export]
macro_rules! each_executor {
    ($($test:ident),+ $(,)? $(; once $($alone:ident),+ $(,)?)?) => {
        fn main() -> std::process::ExitCode {
            $crate::harness::run(
                &[$((stringify!($test), $test)),+],
                &[$($((stringify!($alone), $alone)),+)?],
            )
        }
    };
}

/// Run all and print what became of each.
#[must_use]
pub fn run(tests: &[(&'static str, Test)], once: &[(&'static str, Once)]) -> ExitCode {
    let mut trials = trials(EXECUTORS, tests);
    trials.extend(
        once.iter().map(|&(name, body)| Trial::test(name, move || caught(body).map_err(Failed::from))),
    );
    conclude(trials)
}

/// Each test once per executor.
#[must_use]
pub fn trials(executors: &[(&'static str, Open)], tests: &[(&'static str, Test)]) -> Vec<Trial> {
    let pairs = tests.iter().flat_map(|test| executors.iter().map(move |executor| (*test, *executor)));
    let trial = |((test, body), (executor, open)): ((&str, Test), (&'static str, Open))| {
        let trial = move || {
            let is_required = is_required(&env::var("MWA_REQUIRE").unwrap_or_default(), executor);
            attempt(body, open, is_required).map_err(Failed::from)
        };
        Trial::ignorable_test(format!("{test}::{executor}"), trial)
    };
    pairs.map(trial).collect()
}

/// Run trials and print what became of each.
#[must_use]
pub fn conclude(trials: Vec<Trial>) -> ExitCode {
    let required = env::var("MWA_REQUIRE").unwrap_or_default();
    let unknown = unknown(&required);
    if !unknown.is_empty() {
        eprintln!("MWA_REQUIRE names no executor: {}", unknown.join(", "));
        return ExitCode::FAILURE;
    }
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

/// `gpu` requires `gpu_one_thread` too, and `wasm` every face of the component.
#[must_use]
pub fn is_required(required: &str, executor: &str) -> bool {
    let covers =
        |name: &str| executor.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('_'));
    let names = required.split(',').filter(|name| !name.is_empty());
    let mut names = names.flat_map(|name| if name == WASM { ["component", "module"] } else { [name, name] });
    names.any(covers)
}

/// What `MWA_REQUIRE` calls the executors of WebAssembly together.
const WASM: &str = "wasm";

/// What `MWA_REQUIRE` may name besides executors: tests that `cargo xtask test` runs with other programs.
const LANES: [&str; 9] = ["python", "c", "go", "java", "node", "browser", "deno", "bun", WASM];

fn unknown(required: &str) -> Vec<&str> {
    let is_known =
        |name: &str| LANES.contains(&name) || EXECUTORS.iter().any(|(executor, _)| *executor == name);
    required.split(',').filter(|name| !name.is_empty() && !is_known(name)).collect()
}

fn attempt(test: Test, open: Open, is_required: bool) -> Result<Completion, String> {
    match open() {
        Ok(executor) => caught(|| test(&*executor)).map(|()| Completion::Completed),
        Err(reason) if is_required => Err(format!("MWA_REQUIRE forbids to skip this: {reason}")),
        Err(reason) => Ok(Completion::ignored_with(reason)),
    }
}

/// A panic is a failure of its test, with its message.
fn caught(test: impl FnOnce() -> Result<(), String>) -> Result<(), String> {
    catch_unwind(AssertUnwindSafe(test)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        Err(format!("panicked: {}", text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("?")))
    })
}

/// Run one check per case and collect what failed, so that one report shows the whole pattern.
///
/// # Errors
/// All failures, a line each.
pub fn all<T>(cases: &[T], check: impl Fn(&T) -> Result<(), String>) -> Result<(), String> {
    let failures: Vec<_> = cases.iter().filter_map(|case| caught(|| check(case)).err()).collect();
    if failures.is_empty() {
        return Ok(());
    }
    Err(format!("{} of {} cases fail:\n{}", failures.len(), cases.len(), failures.join("\n")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSES: Test = |_| Ok(());
    const MISSING: Open = || Err("no such device".into());

    #[test]
    fn a_missing_device_is_ignored_with_its_reason_unless_required() {
        let Ok(Completion::Ignored { reason }) = attempt(PASSES, MISSING, false) else {
            panic!("it should be ignored");
        };
        assert_eq!(reason.as_deref(), Some("no such device"));
        assert!(attempt(PASSES, MISSING, true).is_err());
        assert!(matches!(attempt(PASSES, crate::native::reference, true), Ok(Completion::Completed)));
    }

    #[test]
    fn failures_and_panics_fail() {
        assert!(attempt(|_| Err("wrong".into()), crate::native::reference, false).is_err());
        let panics: Test = |_| panic!("bug {}", 7);
        assert_eq!(
            attempt(panics, crate::native::reference, false).err().as_deref(),
            Some("panicked: bug 7")
        );
        let odd = |n: &u8| if n % 2 == 1 { Ok(()) } else { Err(format!("{n} is even")) };
        assert_eq!(all(&[1, 2, 3, 4], odd).unwrap_err(), "2 of 4 cases fail:\n2 is even\n4 is even");
        assert!(all(&[1, 3], odd).is_ok());
    }

    #[test]
    fn a_required_name_covers_its_kinds() {
        assert!(is_required("avx2,gpu", "gpu_one_thread") && is_required("gpu", "gpu"));
        assert!(is_required("cpu,wasm", "component_plain") && is_required("wasm", "module"));
        assert!(!is_required("gpu", "gpus") && !is_required("", "gpu") && !is_required("gpu_small", "gpu"));
    }

    #[test]
    fn a_required_name_must_exist() {
        assert_eq!(unknown("cpu,gqu,"), ["gqu"]);
    }
}
