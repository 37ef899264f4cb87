//! Make a release: versions in step, every package built and tried, and what a person must type to publish them.
//!
//! All of it happens in a copy of the tree, so that what is built is what would be tagged, and a dry run leaves no trace. The
//! copy builds itself: its own `cargo xtask build release` runs there.

mod archive;
#[cfg(all(test, unix))]
mod install;
mod packages;
mod trial;
mod versions;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest as _, Sha256};

use crate::run::{self, Result, cargo, output, root, run, sources, target};
use crate::supply;

pub(crate) use versions::differing;

/// Where the packages of this version go, and the copy that they are built in.
fn folder() -> PathBuf {
    target().join("distribution")
}

/// What is there after a build, and what could not be had here.
#[derive(Debug, Default)]
struct Made {
    files: Vec<PathBuf>,
    missing: Vec<String>,
}

impl Made {
    /// Put a file into the release.
    fn add(&mut self, from: &Path, name: &str) -> Result {
        let to = out()?.join(name);
        fs::copy(from, &to).map_err(|error| format!("{}: {error}", from.display()))?;
        println!("made {}", to.display());
        self.files.push(to);
        Ok(())
    }

    /// Go on without something, and say so in the end.
    fn without(&mut self, why: String) {
        println!("left out: {why}");
        self.missing.push(why);
    }
}

/// The folder of this version's packages.
fn out() -> Result<PathBuf> {
    let folder = folder().join(versions::current(root())?);
    fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    Ok(folder)
}

/// `cargo xtask release X.Y.Z [--dry-run]`
pub(crate) fn release(version: &str, is_dry: bool) -> Result {
    let before = versions::current(root())?;
    versions::follows(&before, version)?;
    let mut status = Command::new("git");
    status.args(["status", "--porcelain"]).current_dir(root());
    let changes = output(status)?;
    if !changes.trim().is_empty() {
        let what = format!("{} files are not as they were committed", changes.lines().count());
        if !is_dry {
            return Err(format!("{what}: a release is made of commits; commit them, or look with --dry-run"));
        }
        println!("{what}: they are part of this dry run");
    }
    let tree = folder().join("tree");
    copy(&tree)?;
    versions::set(&tree, version)?;
    // cargo tells packages by their place in the workspace: in one folder it would take the copy's for those of this tree
    let built = folder().join("build");
    let mut build = cargo(["xtask", "build", "release"]);
    build.current_dir(&tree).env("CARGO_TARGET_DIR", &built);
    run(build)?;
    let (made, out) = (built.join("distribution").join(version), folder().join(version));
    let _ = fs::remove_dir_all(&out);
    fs::rename(&made, &out).map_err(|error| format!("{}: {error}", made.display()))?;
    if !is_dry {
        versions::set(root(), version)?;
        println!("set {version} in this tree");
    }
    println!("\n{}", to_type(version, &tree, is_dry));
    Ok(())
}

/// `cargo xtask build release [PART] [TRIPLE]`: all packages of this version, or one kind of them, as the workflow does.
pub(crate) fn build(part: Option<&str>, triple: Option<&str>) -> Result {
    let differ = differing(root())?;
    if !differ.is_empty() {
        return Err(format!("versions are not in step:\n  {}", differ.join("\n  ")));
    }
    let mut made = Made::default();
    type Part = fn(&mut Made, Option<&str>) -> Result;
    const PARTS: [(&str, Part); 7] = [
        ("wasm", packages::wasm),
        ("crates", packages::crates),
        ("binary", packages::binary),
        ("python", packages::python),
        ("npm", packages::npm),
        ("c", packages::c),
        ("java", packages::java),
    ];
    if let Some(part) = part.filter(|part| PARTS.iter().all(|(name, _)| name != part)) {
        let names = PARTS.map(|(name, _)| name).join(", ");
        return Err(format!("`{part}` is no part of a release: {names}"));
    }
    for (_, make) in PARTS.iter().filter(|(name, _)| part.is_none_or(|part| part == *name)) {
        make(&mut made, triple)?;
    }
    if part.is_none() {
        supply::sbom()?;
        made.add(&target().join("sbom/mwa.cdx.json"), "mwa.cdx.json")?;
        made.add(&root().join("install.sh"), "install.sh")?;
        sums()?;
    }
    println!("\n{} files in {}", made.files.len(), out()?.display());
    for why in &made.missing {
        println!("  left out: {why}");
    }
    Ok(())
}

/// `cargo xtask build release sums`: `SHA256SUMS` of all that lies there, as `sha256sum --check` reads it.
pub(crate) fn sums() -> Result {
    const NAME: &str = "SHA256SUMS";
    let folder = out()?;
    let at = |error: std::io::Error| format!("{}: {error}", folder.display());
    let mut names = Vec::new();
    for entry in fs::read_dir(&folder).map_err(at)? {
        let entry = entry.map_err(at)?;
        if entry.path().is_file() && entry.file_name() != NAME {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    names.sort();
    let mut text = String::new();
    for name in &names {
        let bytes = fs::read(folder.join(name)).map_err(at)?;
        let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        text += &format!("{hex}  {name}\n");
    }
    fs::write(folder.join(NAME), text).map_err(at)?;
    println!("made {}: {} files", folder.join(NAME).display(), names.len());
    Ok(())
}

/// Copy what is committed, and what would be, into `tree`; links become what they lead to, as packers leave links out.
fn copy(tree: &Path) -> Result {
    // what was installed there stays: it takes minutes
    const KEPT: [&str; 1] = ["node_modules"];
    let files = sources()?;
    for gone in archive::files(tree).into_iter().filter(|file| !files.contains(file)) {
        let is_kept = gone.components().any(|part| KEPT.iter().any(|kept| part.as_os_str() == *kept));
        if !is_kept {
            fs::remove_file(tree.join(&gone)).map_err(|error| format!("{}: {error}", gone.display()))?;
        }
    }
    for file in &files {
        let (from, to) = (root().join(file), tree.join(file));
        let bytes = fs::read(&from).map_err(|error| format!("{}: {error}", from.display()))?;
        // what is the same keeps its time, so that nothing is compiled for it
        if fs::read(&to).is_ok_and(|there| there == bytes) {
            continue;
        }
        run::copy(&from, &to)?;
    }
    println!("copied {} files to {}", files.len(), tree.display());
    Ok(())
}

/// What is left to a person, who has the keys.
fn to_type(version: &str, tree: &Path, is_dry: bool) -> String {
    let tree = tree.strip_prefix(root()).unwrap_or(tree).display();
    let first = if is_dry {
        format!(
            "This was a dry run. The packages are in target/distribution/{version}; this tree is as it was.\nTo release:\n\n  cargo xtask release {version}\n"
        )
    } else {
        "Nothing is published yet. To publish:\n\n".into()
    };
    format!(
        "{first}  # add a merge by this version to host/tests/cli/data/reports, for later ones to verify
  git commit -am 'Release {version}' && git tag -s v{version} && git push origin main v{version}
      # .github/workflows/release.yml builds the rest for other systems, and drafts the release: look at it, publish it

  (cd {tree} && cargo publish --allow-dirty -p mwa -p mwa-gpu -p mwa-host)      # crates.io, in this order
  twine upload target/distribution/{version}/*.whl target/distribution/{version}/mwa-{version}.tar.gz
  npm publish target/distribution/{version}/mwa-merge-{version}.tgz             # with provenance only from the workflow
  (cd {tree}/bindings/java && mvn deploy)                                  # needs a namespace of yours and its signing key
  (cd {tree} && cargo xtask build go) && git switch --detach && cp {tree}/bindings/go/core/*.wasm bindings/go/core/ \\
    && git add -f bindings/go/core/*.wasm && git commit -m 'Go module {version}, with its core' \\
    && git tag bindings/go/v{version} && git push origin bindings/go/v{version} && git switch -\n"
    )
}
