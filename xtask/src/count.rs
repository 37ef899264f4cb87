//! What became of tests: counted from the lines that they close with.

use core::fmt;
use std::process::Command;

use crate::run::{Result, stream};

/// What became of tests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Count {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) skipped: u64,
    /// Why some were skipped, as far as they said.
    pub(crate) reasons: Vec<String>,
}

/// Run tests that are not Rust, and that close with a line such as `12 passed, 1 failed`.
pub(crate) fn lane(name: &str, tests: Command, count: &mut Count) -> Result {
    let before = count.clone();
    let succeeded = stream(tests, |line| {
        count.add_reason(line);
        count.add_plain_result(line.split(" in ").next().unwrap_or(line));
    })?;
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

/// Tests cannot run for want of `what`: they are skipped, or it is an error where `MWA_REQUIRE` names it.
pub(crate) fn missing(what: &str, why: &str, count: &mut Count) -> Result {
    if is_required(what) {
        return Err(format!("MWA_REQUIRE asks for {what}, but {why}"));
    }
    skip(&format!("{what}: {why}"), count)
}

pub(crate) fn skip(why: &str, count: &mut Count) -> Result {
    println!("skipped: {why}");
    count.skipped += 1;
    count.reasons.push(why.to_owned());
    Ok(())
}

impl Count {
    /// Add why a test was skipped, where a line of pytest (`-rs`) or of TAP says so.
    pub(crate) fn add_reason(&mut self, line: &str) {
        let of_pytest =
            line.strip_prefix("SKIPPED [").and_then(|rest| rest.split_once("] ")).map(|(_, why)| why);
        let of_tap = line.trim_start().strip_prefix("ok ").and_then(|rest| rest.split_once(" # SKIP")).map(
            |(test, why)| {
                let test = test.split_once(" - ").map_or(test, |(_, test)| test);
                format!("{test}:{why}")
            },
        );
        self.reasons.extend(of_pytest.map(str::to_owned).or(of_tap));
    }

    /// Add a line such as `test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 3 filtered out; …`.
    pub(crate) fn add_cargo_result(&mut self, line: &str) {
        if let Some((_, counts)) = line.strip_prefix("test result: ").and_then(|rest| rest.split_once(". ")) {
            self.add(counts.split("; "));
        }
    }

    /// Add a line such as `12 passed, 1 failed`.
    pub(crate) fn add_plain_result(&mut self, line: &str) {
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
        // above the last line, where they are seen
        self.reasons.iter().try_for_each(|why| writeln!(f, "skipped: {why}"))?;
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

    #[test]
    fn the_reasons_of_skipped_tests_stand_above_the_last_line() {
        let mut count = Count::default();
        count.add_reason("SKIPPED [2] tests/test_training.py:12: could not import 'torch'");
        count.add_reason("ok 7 - bun writes the same bytes # SKIP there is no bun");
        count.add_reason("ok 8 - all vectors");
        count.add_plain_result("3 passed, 3 skipped");
        assert_eq!(
            count.to_string(),
            "skipped: tests/test_training.py:12: could not import 'torch'\nskipped: bun writes the same bytes: there is no bun\n\
             3 passed, 0 failed, 3 skipped"
        );
    }
}
