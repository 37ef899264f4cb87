//! The conformance vectors: remake them, or see whether they are fresh.

use std::process::Command;

use crate::python::{Python, python};
use crate::run::{Result, root, run, stream};
use crate::test::Count;

/// Remake tests/vectors and show what changed.
pub(crate) fn remake() -> Result {
    match python("requirements-vectors.txt")? {
        Python::Ready(python) => {
            let mut make = Command::new(python);
            run({
                make.arg("tests/vectors/make.py").current_dir(root());
                make
            })?;
        }
        Python::Missing(why) => return Err(why),
    }
    for show in [&["--no-pager", "diff", "--stat", "--"][..], &["status", "--short", "--"]] {
        let mut git = Command::new("git");
        git.args(show).arg("tests/vectors").current_dir(root());
        run(git)?;
    }
    Ok(())
}

/// Compare tests/vectors with what the oracle makes now.
pub(crate) fn check(count: &mut Count) -> Result {
    match python("requirements-vectors.txt")? {
        Python::Ready(python) => {
            let mut make = Command::new(python);
            make.args(["tests/vectors/make.py", "--check"]).current_dir(root());
            if stream(make, |_| ())? {
                count.passed += 1;
            } else {
                println!("FAILED: tests/vectors are stale; remake them with cargo xtask vectors");
                count.failed += 1;
            }
        }
        Python::Missing(why) => {
            println!("ignored: whether tests/vectors are fresh: {why}");
            count.skipped += 1;
        }
    }
    Ok(())
}
