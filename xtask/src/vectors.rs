//! The conformance vectors: remake them, or see whether they are fresh.

use std::process::Command;

use crate::count::Count;
use crate::python::{Python, python};
use crate::run::{Result, root, run, stream};

/// Remake tests/vectors and show what changed.
pub(crate) fn remake() -> Result {
    match python("requirements-vectors.txt")? {
        Python::Ready(python) => {
            for oracle in [
                "tests/vectors/make.py",
                "tests/vectors/blends.py",
                "tests/vectors/curved.py",
                "host/tests/cli/data/trained/expected.py",
                "tests/vectors/product/make.py",
                "tests/vectors/adam.py",
                "tests/situations/make.py",
            ] {
                let mut make = Command::new(&python);
                make.arg(oracle).current_dir(root());
                run(make)?;
            }
        }
        Python::Missing(why) => return Err(why),
    }
    for show in [&["--no-pager", "diff", "--stat", "--"][..], &["status", "--short", "--"]] {
        let mut git = Command::new("git");
        git.args(show).args(["tests/vectors", "tests/situations", "host/tests"]).current_dir(root());
        run(git)?;
    }
    Ok(())
}

/// Compare tests/vectors and docs/evidence.md with what their scripts make now, and see that the sample run can still be scored.
pub(crate) fn check(count: &mut Count) -> Result {
    let checks: [(&str, &[&str]); 8] = [
        ("tests/vectors are fresh (else: cargo xtask vectors)", &["tests/vectors/make.py", "--check"]),
        (
            "tests/vectors/blends are fresh (else: cargo xtask vectors)",
            &["tests/vectors/blends.py", "--check"],
        ),
        (
            "tests/vectors/curved are fresh (else: cargo xtask vectors)",
            &["tests/vectors/curved.py", "--check"],
        ),
        (
            "host/tests/cli/data/trained is fresh (else: cargo xtask vectors)",
            &["host/tests/cli/data/trained/expected.py", "--check"],
        ),
        (
            "tests/vectors/adam.txt is fresh (else: cargo xtask vectors)",
            &["tests/vectors/adam.py", "--check"],
        ),
        ("tests/situations are fresh (else: cargo xtask vectors)", &["tests/situations/make.py", "--check"]),
        (
            "docs/evidence.md is what its rows say (else: python3 docs/evidence/draw.py)",
            &["docs/evidence/draw.py", "--check"],
        ),
        (
            "the sample run scores",
            &["examples/score.py", "examples/sample-run/checkpoint-1000", "--n", "100"],
        ),
    ];
    match python("requirements-vectors.txt")? {
        Python::Ready(python) => {
            for (what, arguments) in checks {
                let mut check = Command::new(&python);
                check.args(arguments).current_dir(root());
                if stream(check, |_| ())? {
                    println!("ok: {what}");
                    count.passed += 1;
                } else {
                    println!("FAILED: {what}");
                    count.failed += 1;
                }
            }
        }
        Python::Missing(why) => {
            for (what, _) in checks {
                println!("skipped: {what}: {why}");
                count.skipped += 1;
            }
        }
    }
    Ok(())
}
