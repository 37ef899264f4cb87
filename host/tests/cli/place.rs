//! A place for one test: a temporary folder with checkpoints in it, and `mwa` run inside.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use tempfile::TempDir;

use crate::adapter::{self, Tensor};

/// A temporary folder; names in messages are short because `mwa` runs inside it.
pub(crate) struct Place(TempDir);

/// How a run of `mwa` ended.
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// Every file and folder with its bytes and the time it was changed.
type Tree = BTreeMap<PathBuf, (Option<Vec<u8>>, Option<SystemTime>)>;

impl Place {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// `run/checkpoint-{10,20,30}` with the evaluation losses 3, 1 and 2.
    pub(crate) fn with_run() -> Self {
        let place = Self::new();
        let log: Vec<_> = [(10, 3.0), (20, 1.0), (30, 2.0)]
            .iter()
            .map(|(step, loss)| format!(r#"{{"step": {step}, "eval_loss": {loss}}}"#))
            .collect();
        for (i, x) in [(1, 0.25), (2, 0.5), (3, 0.75)] {
            place.checkpoint(&format!("run/checkpoint-{}", i * 10), &adapter::lora(x));
            place.log(&format!("run/checkpoint-{}", i * 10), &log[..i]);
        }
        place
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Write a file and the folders above it.
    pub(crate) fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    pub(crate) fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// A PEFT checkpoint folder.
    pub(crate) fn checkpoint(&self, folder: &str, tensors: &[Tensor]) {
        self.write(&format!("{folder}/adapter_config.json"), adapter::CONFIG);
        self.write(&format!("{folder}/adapter_model.safetensors"), adapter::safetensors(tensors));
    }

    /// The Trainer's state in a checkpoint folder, with these entries as its log.
    pub(crate) fn log(&self, folder: &str, entries: &[impl AsRef<str>]) {
        let entries: Vec<_> = entries.iter().map(AsRef::as_ref).collect();
        let step: u64 = folder.rsplit('-').next().unwrap().parse().unwrap_or(0);
        let state = format!(r#"{{"global_step": {step}, "log_history": [{}]}}"#, entries.join(", "));
        self.write(&format!("{folder}/trainer_state.json"), state);
    }

    /// Replace a part of a text file that must be there.
    pub(crate) fn edit(&self, name: &str, from: &str, to: &str) {
        let text = String::from_utf8(self.read(name)).unwrap();
        assert!(text.contains(from), "{name} has no {from}");
        self.write(name, text.replace(from, to));
    }

    pub(crate) fn command(&self, arguments: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mwa"));
        command.args(arguments.split_whitespace()).current_dir(self.0.path());
        // the caller's terminal must not show in the texts
        command.env_remove("CLICOLOR_FORCE").env("COLUMNS", "100");
        command
    }

    pub(crate) fn mwa(&self, arguments: &str) -> Ran {
        Ran::of(&mut self.command(arguments))
    }

    /// Standard error of a run that must fail with `code` and leave every file and folder as it was.
    pub(crate) fn fails_with(&self, code: i32, arguments: &str) -> String {
        let before = self.tree();
        let ran = self.mwa(arguments);
        assert_eq!(ran.code, Some(code), "{arguments}: {}{}", ran.out, ran.err);
        self.assert_unchanged(&before);
        ran.err
    }

    pub(crate) fn fails(&self, arguments: &str) -> String {
        self.fails_with(1, arguments)
    }

    /// A run that must succeed, and write nothing but the new folder `out`.
    pub(crate) fn merges(&self, arguments: &str) -> Ran {
        let before = self.tree();
        let ran = self.mwa(&format!("merge {arguments} -o out"));
        assert_eq!(ran.code, Some(0), "{arguments}: {}", ran.err);
        let mut after = self.tree();
        after.retain(|path, _| !path.starts_with(self.path("out")));
        assert!(before == after, "{arguments} changed something beside its output");
        ran
    }

    /// The values of a tensor of the merged adapter.
    pub(crate) fn merged(&self, tensor: &str) -> Vec<f32> {
        adapter::values(&self.read("out/adapter_model.safetensors"), tensor)
    }

    pub(crate) fn assert_unchanged(&self, before: &Tree) {
        let after = self.tree();
        let names = |tree: &Tree| tree.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(before), names(&after));
        assert!(*before == after, "a file was changed");
    }

    pub(crate) fn tree(&self) -> Tree {
        fn add(tree: &mut Tree, folder: &Path) {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() && !path.is_symlink() {
                    // a folder's own time changes when a temporary sibling comes and goes
                    tree.insert(path.clone(), (None, None));
                    add(tree, &path);
                } else {
                    let modified = path.symlink_metadata().unwrap().modified().ok();
                    tree.insert(path.clone(), (fs::read(&path).ok(), modified));
                }
            }
        }
        let mut tree = Tree::new();
        add(&mut tree, self.0.path());
        tree
    }
}

impl Ran {
    pub(crate) fn of(command: &mut Command) -> Self {
        let output = command.output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Self { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }
}
