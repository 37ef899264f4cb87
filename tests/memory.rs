//! Hostile files must not cost memory: what a head declares is not what is allocated. One test, alone in its process.

use conformance::{harness, vectors};
use peak_alloc::PeakAlloc;

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// Most bytes that refusing a file of `len` bytes may take: its head, its JSON parsed, an error message.
const fn allowed(len: usize) -> usize {
    64 * len + (64 << 10)
}

#[test]
fn refusing_hostile_files_takes_little_memory() {
    let measure = |hostile: &vectors::Hostile| {
        let path = vectors::folder().join(&hostile.file);
        let len = vectors::read(&hostile.file).len();
        let before = ALLOCATOR.current_usage();
        ALLOCATOR.reset_peak_usage();
        let _ = mwa_host::inspect(&path, &mwa::Options::default());
        let taken = ALLOCATOR.peak_usage().saturating_sub(before);
        if taken <= allowed(len) {
            Ok(())
        } else {
            Err(format!("{}: {len} bytes took {taken}", path.display()))
        }
    };
    harness::all(&vectors::load().hostile, measure).unwrap_or_else(|failures| panic!("{failures}"));
}
