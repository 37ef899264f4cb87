//! Hostile files: refused by every executor, and by the host's reader of files, with the right words and no panic.

use conformance::{Executor, Failure, Merge, each_executor, harness, vectors};

each_executor!(refuses_hostile_files; once host_refuses_hostile_files);

fn refuses_hostile_files(executor: &dyn Executor) -> Result<(), String> {
    harness::all(&vectors::load().hostile, |hostile| {
        let merge =
            Merge { inputs: vec![vectors::read(&hostile.file)], weights: vec![1.0], ..Merge::default() };
        hostile.check(executor.merge(&merge).map(|output| names(&output)))
    })
}

fn host_refuses_hostile_files() -> Result<(), String> {
    harness::all(&vectors::load().hostile, |hostile| {
        let path = vectors::folder().join(&hostile.file);
        let found = mwa_host::inspect(&path, &mwa::Options::default()).map_err(Failure::from);
        if let Ok(found) = &found
            && found.checkpoints.is_empty()
        {
            // no weights: it is said what it is instead
            let why = || format!("{}: nothing is said of it", path.display());
            return found.known.as_ref().map(drop).ok_or_else(why);
        }
        // the inspection counts tensors; their names are the core's affair
        hostile.check(found.map(|found| vec!["weight".into(); found.checkpoints[0].tensors]))
    })
}

fn names(file: &[u8]) -> Vec<String> {
    let file = safetensors::SafeTensors::deserialize(file).expect("a merge gives a readable file");
    file.names().into_iter().map(str::to_owned).collect()
}
