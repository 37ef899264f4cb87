//! What must hold whatever bytes a stranger gives: one function for each kind of input, for the fuzzer and for an ordinary test.
//!
//! A target panics where a promise is broken; that nothing panics by itself is the first promise.

mod containers;
mod databases;
mod files;
mod heads;
mod modules;
mod optimizers;
mod reports;
mod runs;
mod sessions;
mod tape;
mod torch;
mod training;

/// A kind of input: its name, what must hold, folders with examples from the repository's own on, and how many mutations of
/// those an ordinary test tries, where one takes long.
pub struct Target {
    /// As the fuzzer's program is called.
    pub name: &'static str,
    /// Panics where a promise is broken.
    pub check: fn(&[u8]),
    /// From the repository on.
    pub seeds: &'static [&'static str],
    /// Of the examples, in an ordinary test.
    pub mutations: usize,
}

/// All kinds.
pub const TARGETS: &[Target] = &[
    Target {
        name: "heads",
        check: heads::check,
        seeds: &["tests/vectors/hostile", "tests/vectors/in"],
        mutations: 20_000,
    },
    Target { name: "configs", check: runs::configs, seeds: &["fuzz/seeds/configs"], mutations: 4_000 },
    Target { name: "indexes", check: runs::indexes, seeds: &["fuzz/seeds/indexes"], mutations: 4_000 },
    Target { name: "logs", check: runs::logs, seeds: &["fuzz/seeds/logs"], mutations: 4_000 },
    Target { name: "tables", check: runs::tables, seeds: &["fuzz/seeds/tables"], mutations: 4_000 },
    Target {
        name: "torch",
        check: torch::check,
        seeds: &["fuzz/seeds/torch", "core/tests/data/torch", "host/tests/cli/data/toolkits"],
        mutations: 20_000,
    },
    Target {
        name: "training",
        check: training::check,
        seeds: &[
            "fuzz/seeds/training",
            "core/tests/data/training/dcp/checkpoint-10",
            "core/tests/data/training/zero2/global_step3",
        ],
        mutations: 4_000,
    },
    Target {
        name: "optimizers",
        check: optimizers::check,
        seeds: &["fuzz/seeds/optimizers", "core/tests/data/torch"],
        mutations: 10_000,
    },
    Target { name: "databases", check: databases::check, seeds: &["fuzz/seeds/databases"], mutations: 4_000 },
    Target {
        name: "containers",
        check: containers::check,
        seeds: &["fuzz/seeds/containers"],
        mutations: 10_000,
    },
    Target { name: "reports", check: reports::check, seeds: &["fuzz/seeds/reports"], mutations: 300 },
    Target { name: "sessions", check: sessions::check, seeds: &["fuzz/seeds/sessions"], mutations: 4_000 },
    Target { name: "modules", check: modules::check, seeds: &["fuzz/seeds/modules"], mutations: 1_000 },
];

/// Check bytes as the fuzzer's program of this name does.
///
/// # Panics
/// Where a promise is broken, or there is no such program.
pub fn check(name: &str, bytes: &[u8]) {
    let target = TARGETS.iter().find(|target| target.name == name).expect("a program for each target");
    (target.check)(bytes);
}
