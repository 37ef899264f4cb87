//! Every weight formula against the oracle of 50 decimal digits.

use conformance::{harness, vectors};

#[test]
fn all_formulas() {
    harness::all(&vectors::load().weights, |case| case.check(case.weigh()))
        .unwrap_or_else(|failures| panic!("{failures}"));
}
