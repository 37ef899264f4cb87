//! Every vector through every executor: the oracle's bytes, or the oracle's failure.

use conformance::{Executor, each_executor, harness, vectors};

each_executor!(merges_all_vectors);

fn merges_all_vectors(executor: &dyn Executor) -> Result<(), String> {
    harness::all(&vectors::load().cases, |case| case.check(executor))
}
