//! Run the fuzz targets over their examples and over mutations of these, the same each time: what a machine without a fuzzer
//! can do. Each found fault becomes an example.

#[path = "../fuzz/src/lib.rs"]
#[allow(dead_code, unreachable_pub, reason = "a library for the fuzzer's programs")]
mod library;

use std::fs;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

/// Longer inputs only cost time.
const LONGEST: usize = 1 << 16;
/// Bytes and texts that readers of numbers, JSON and pickles stumble over.
const ODD: [&[u8]; 24] = [
    b"\0",
    b"\xff",
    b"\x80",
    b"\"",
    b"\\",
    b"{",
    b"[",
    b"}",
    b"]",
    b",",
    b"-1",
    b"0",
    b"1e999",
    b"NaN",
    b"18446744073709551616",
    b"9007199254740993",
    b"null",
    b"true",
    b"\\ud800",
    b"../",
    b"\xef\xbb\xbf",
    b"\xff\xff\xff\xff\xff\xff\xff\x7f",
    b"\n",
    b"\r",
];

/// Numbers that look random, the same each time (xorshift).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % end.max(1) as u64).unwrap()
    }

    /// Some place within `bytes`, and another one not far behind it.
    fn range(&mut self, bytes: &[u8]) -> core::ops::Range<usize> {
        let start = self.below(bytes.len() + 1);
        let most = if self.below(4) == 0 { bytes.len() } else { 16 };
        start..(start + self.below(most + 1)).min(bytes.len())
    }

    /// Change an example in one to four places.
    fn mutate(&mut self, mut bytes: Vec<u8>, others: &[(PathBuf, Vec<u8>)]) -> Vec<u8> {
        for _ in 0..=self.below(4) {
            let range = self.range(&bytes);
            match self.below(7) {
                0 if !bytes.is_empty() => {
                    let at = self.below(bytes.len());
                    bytes[at] ^= 1 << self.below(8);
                }
                1 => drop(bytes.drain(range)),
                2 => drop(bytes.splice(range.start..range.start, bytes[range].to_vec())),
                3 => drop(bytes.splice(range, ODD[self.below(ODD.len())].iter().copied())),
                4 => drop(bytes.splice(range.start..range.start, ODD[self.below(ODD.len())].iter().copied())),
                5 => bytes.truncate(range.end),
                _ => {
                    let other = &others[self.below(others.len())].1;
                    let part = self.range(other);
                    drop(bytes.splice(range, other[part].iter().copied()));
                }
            }
        }
        bytes.truncate(LONGEST);
        bytes
    }
}

/// The examples of a target, by path.
fn examples(target: &library::Target) -> Vec<(PathBuf, Vec<u8>)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut found = Vec::new();
    for folder in target.seeds {
        let folder = root.join(folder);
        for entry in fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
            let path = entry.unwrap().path();
            found.push((path.clone(), fs::read(path).unwrap()));
        }
    }
    found.sort();
    assert!(!found.is_empty(), "{} has no examples", target.name);
    found
}

fn run(name: &str) {
    let target = library::TARGETS.iter().find(|target| target.name == name).expect("it is one of them");
    let examples = examples(target);
    for (path, bytes) in &examples {
        assert!(catch_unwind(|| (target.check)(bytes)).is_ok(), "{name}: {}", path.display());
    }
    let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15 ^ name.len() as u64);
    for number in 0..target.mutations {
        let (path, bytes) = &examples[numbers.below(examples.len())];
        let bytes = numbers.mutate(bytes.clone(), &examples);
        if catch_unwind(|| (target.check)(&bytes)).is_err() {
            let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("fuzz-{name}-{number}"));
            fs::write(&kept, bytes).unwrap();
            panic!("{name}: mutation {number}, of {}, is kept in {}", path.display(), kept.display());
        }
    }
    println!("{name}: {} examples, {} mutations", examples.len(), target.mutations);
}

macro_rules! each_target {
    ($($name:ident),+) => {
        $(#[test]
        fn $name() {
            run(stringify!($name));
        })+

        #[test]
        fn every_target_has_a_test_and_a_program() {
            let tested = [$(stringify!($name)),+];
            let known: Vec<_> = library::TARGETS.iter().map(|target| target.name).collect();
            assert_eq!(known, tested);
            let programs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/fuzz_targets");
            for name in tested {
                let program = fs::read_to_string(programs.join(format!("{name}.rs"))).unwrap();
                assert!(program.contains(&format!("check(\"{name}\", bytes)")), "{program}");
            }
        }
    };
}

each_target!(
    heads, configs, indexes, logs, tables, torch, training, optimizers, databases, containers, reports,
    sessions, modules
);
