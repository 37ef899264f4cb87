//! Build for a target without an operating system, whether or not rustup can download its library.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::run::{Result, cargo, output, target};

/// Where Debian puts a compiler whose library sources are packaged too.
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const DEBIAN_SOURCES: &str = "/usr/lib/rustlib/src/rust/library";

/// Flags for a core that is small but for its loops.
pub(crate) const LOOPS: [&str; 2] = [
    // the loops are inlined by order; the rest is to be small, and this is where it is smallest
    "-Cllvm-args=-inline-threshold=5",
    // else the kernel's block, which has many uses, is taken to overlap its inputs, and each loop is compiled a second time
    "-Cllvm-args=-capture-tracking-max-uses-to-explore=10000",
];

/// `cargo build` of one package for a bare target, and by which road it gets the target's library.
pub(crate) struct Build {
    pub(crate) command: Command,
    pub(crate) road: &'static str,
    /// Whether the library is compiled too, so that its flags can be chosen.
    pub(crate) from_source: bool,
    /// The parts of the library that are needed.
    library: String,
}

/// [`build_with`] no more of the library than a package without std needs.
///
/// # Errors
/// As [`build_with`].
pub(crate) fn build(package: &str, triple: &str) -> Result<Build> {
    build_with("core,alloc", package, triple)
}

/// A command that builds `package` for `triple`: with rustup's library, else with `library` built from Debian's sources.
///
/// # Errors
/// Why neither road is open.
pub(crate) fn build_with(library: &str, package: &str, triple: &str) -> Result<Build> {
    let mut add = Command::new("rustup");
    add.args(["target", "add", triple]);
    let why = match output(add) {
        Ok(_) => {
            let command = cargo(["build", "--package", package, "--target", triple]);
            return Ok(Build {
                command,
                road: "the library that rustup has",
                from_source: false,
                library: library.into(),
            });
        }
        Err(why) => why,
    };
    if !has_debian() {
        install(&["rustc-web", "rust-web-src"]).map_err(|apt| format!("{why}; {apt}"))?;
    }
    if !has_debian() {
        return Err(format!("{why}; {DEBIAN_RUSTC} and {DEBIAN_SOURCES} are not there either"));
    }
    let mut command = cargo(["build", "--package", package, "--target", triple]);
    command.args(["-Z", &format!("build-std={library}")]);
    // another compiler: a folder of its own keeps the two from rebuilding each other's work
    command.env("CARGO_TARGET_DIR", target().join("debian"));
    command.env("RUSTC", DEBIAN_RUSTC).env("RUSTC_BOOTSTRAP", "1");
    command.env(format!("CARGO_TARGET_{}_LINKER", triple.to_uppercase().replace('-', "_")), linker());
    Ok(Build {
        command,
        road: "a library built from Debian's rust-web-src",
        from_source: true,
        library: library.into(),
    })
}

impl Build {
    /// Build for size: panics trap without a message, and the library, compiled too, prefers small code; as flags of rustc.
    ///
    /// # Errors
    /// That the library's sources cannot be had: `rust-src` of rustup, or Debian's.
    pub(crate) fn small(&mut self) -> Result<Vec<String>> {
        if !self.from_source {
            let mut sources = Command::new("rustup");
            sources.args(["component", "add", "rust-src"]);
            output(sources)?;
            self.command.args(["-Z", &format!("build-std={}", self.library)]).env("RUSTC_BOOTSTRAP", "1");
        }
        self.command.args(["-Z", "build-std-features=optimize_for_size"]);
        Ok(["-Zunstable-options", "-Cpanic=immediate-abort"].map(String::from).to_vec())
    }
}

/// rustup's linker, where it is; Debian's compiler has none of its own.
fn linker() -> PathBuf {
    let mut rustc = Command::new("rustc");
    rustc.args(["--print", "target-libdir"]);
    let folder = output(rustc).map(|libraries| PathBuf::from(libraries.trim()).join("../bin/rust-lld"));
    folder.ok().filter(|path| path.is_file()).unwrap_or_else(|| "rust-lld".into())
}

fn has_debian() -> bool {
    Path::new(DEBIAN_RUSTC).exists() && Path::new(DEBIAN_SOURCES).exists()
}

/// Install Debian packages as root; elsewhere that is left to the person.
///
/// # Errors
/// That this is no Debian, that we may not, or what apt-get said.
pub(crate) fn install(packages: &[&str]) -> Result {
    let hint = format!("on Debian, apt-get install {}", packages.join(" "));
    let mut who = Command::new("id");
    who.arg("-u");
    if !Path::new("/etc/debian_version").exists() || output(who).is_ok_and(|id| id.trim() != "0") {
        return Err(hint);
    }
    println!("installing {} with apt-get", packages.join(", "));
    let apt = |arguments: &[&str]| {
        let mut apt = Command::new("apt-get");
        apt.args(arguments).env("DEBIAN_FRONTEND", "noninteractive");
        output(apt).map_err(|why| format!("{hint}: {why}"))
    };
    apt(&["update", "-qq"])?;
    apt(&[&["install", "-qq", "-y", "--no-install-recommends"], packages].concat())?;
    Ok(())
}
