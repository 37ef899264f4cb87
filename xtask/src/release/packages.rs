//! Every package, built, looked over by the tools of its registry, and tried.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::archive::{Archive, files};
use super::{Made, out, trial, versions};
use crate::python::{Python, made};
use crate::run::{Result, cargo, output, root, run, target};
use crate::{c, component, java, web};

/// The crates that are published, each after those that it needs.
const CRATES: [&str; 3] = ["mwa", "mwa-gpu", "mwa-host"];
const LICENCES: [&str; 2] = ["LICENSE-MIT", "LICENSE-APACHE"];
/// A static program wherever Linux is.
const STATIC: &str = "x86_64-unknown-linux-musl";

fn version() -> Result<String> {
    versions::current(root())
}

/// The system that this runs on.
fn host() -> Result<String> {
    let mut rustc = Command::new("rustc");
    rustc.arg("-vV");
    let told = output(rustc)?;
    let line = told.lines().find_map(|line| line.strip_prefix("host: "));
    line.map(str::to_owned).ok_or_else(|| "rustc -vV names no host".into())
}

/// The oldest Rust that the crates are for, as their manifests say.
fn oldest() -> Result<String> {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).map_err(|error| error.to_string())?;
    let rest = manifest.split_once("\nrust-version = \"").map(|(_, rest)| rest);
    let version = rest.and_then(|rest| rest.split('"').next());
    version.map(str::to_owned).ok_or_else(|| "Cargo.toml has no rust-version".into())
}

/// The component and the core module, with SIMD and without, beside the interface that they have.
pub(super) fn wasm(made: &mut Made, _: Option<&str>) -> Result {
    component::build()?;
    let archive = Archive::new(format!("mwa-wasm-{}", version()?))?;
    for name in ["mwa.component.wasm", "mwa.plain.component.wasm", "mwa.module.wasm", "mwa.plain.module.wasm"]
    {
        archive.add(&component::folder().join(name), name)?;
    }
    archive.add(&root().join("wasm/wit/world.wit"), "wit/world.wit")?;
    archive.add(&root().join("wasm/README.md"), "README.md")?;
    licences(&archive)?;
    finish(made, &archive, false)
}

/// The crates, as `cargo publish` would send them, and whether the oldest Rust compiles them.
pub(super) fn crates(made: &mut Made, _: Option<&str>) -> Result {
    let packages = CRATES.iter().flat_map(|name| ["--package", name]);
    // compiles each from what is packed, those before it taken for published; a publication leaves no packages behind
    run(cargo(["package", "--allow-dirty"].into_iter().chain(packages.clone())))?;
    run(cargo(["publish", "--dry-run", "--no-verify", "--allow-dirty"].into_iter().chain(packages)))?;
    for name in CRATES {
        let file = format!("{name}-{}.crate", version()?);
        let packed = target().join("package").join(&file);
        let mut list = Command::new("tar");
        list.arg("-tzf").arg(&packed);
        let list = output(list)?;
        for needed in LICENCES.iter().chain(&["README.md"]) {
            if !list.lines().any(|line| line.ends_with(&format!("/{needed}"))) {
                return Err(format!("{file}: holds no {needed}"));
            }
        }
        made.add(&packed, &file)?;
    }
    let oldest_rust = oldest()?;
    let mut oldest = Command::new("rustup");
    oldest
        .args(["run", &oldest_rust, "cargo", "check", "--locked", "--package", "mwa-host"])
        .current_dir(root());
    oldest.env_remove("RUSTUP_TOOLCHAIN").env_remove("CARGO").env_remove("RUSTC");
    oldest.env("CARGO_TARGET_DIR", target().join("oldest"));
    let mut is_there = Command::new("rustup");
    is_there.args(["run", &oldest_rust, "rustc", "--version"]).env_remove("RUSTUP_TOOLCHAIN");
    match output(is_there) {
        Ok(_) => run(oldest)?,
        Err(_) => made.without(format!("a build by the oldest Rust: rustup toolchain install {oldest_rust}")),
    }
    let mut semver = Command::new("cargo-semver-checks");
    semver.arg("--version");
    if output(semver).is_ok() {
        let mut semver = cargo(["semver-checks", "--package", "mwa", "--package", "mwa-host"]);
        semver.env_remove("RUSTUP_TOOLCHAIN");
        if let Err(why) = run(semver) {
            made.without(format!("a comparison with the published API: {why}"));
        }
    } else {
        made.without("a comparison with the published API: cargo install cargo-semver-checks".into());
    }
    trial::crates(&CRATES, &version()?)
}

/// The program with all features, for one system: static on Linux, unless another is named.
pub(super) fn binary(made: &mut Made, triple: Option<&str>) -> Result {
    let host = host()?;
    let triple = triple.unwrap_or(if host.ends_with("linux-gnu") && host.starts_with("x86_64") {
        STATIC
    } else {
        &host
    });
    let mut add = Command::new("rustup");
    add.args(["target", "add", triple]);
    output(add)?;
    let mut build = with_component(cargo([
        "build",
        "--release",
        "--locked",
        "--package",
        "mwa-host",
        "--all-features",
        "--target",
        triple,
    ]))?;
    if triple.ends_with("musl") {
        // the assembly of BLAKE3 needs no C library, and Rust brings musl along
        build.env(format!("CC_{}", triple.replace('-', "_")), "cc");
    }
    run(build)?;
    let is_windows = triple.contains("windows");
    let program = if is_windows { "mwa.exe" } else { "mwa" };
    let built = target().join(triple).join("release").join(program);
    let archive = Archive::new(format!("mwa-{}-{triple}", version()?))?;
    archive.add(&built, program)?;
    archive.add(&root().join("README.md"), "README.md")?;
    archive.add(&root().join("CHANGELOG.md"), "CHANGELOG.md")?;
    licences(&archive)?;
    let own = host.split('-').next() == triple.split('-').next()
        && host.split('-').nth(2) == triple.split('-').nth(2);
    if own {
        for (shell, name) in [
            ("bash", "mwa.bash"),
            ("zsh", "_mwa"),
            ("fish", "mwa.fish"),
            ("powershell", "_mwa.ps1"),
            ("elvish", "mwa.elv"),
        ] {
            let mut completions = Command::new(archive.folder().join(program));
            completions.args(["completions", shell]);
            write(&archive.folder().join("completions").join(name), &output(completions)?)?;
        }
        let mut man = Command::new(archive.folder().join(program));
        man.args(["man", "--output"]).arg(archive.folder().join("man/man1"));
        output(man)?;
        trial::binary(&archive.folder().join(program), triple)?;
    } else {
        made.without(format!(
            "completions, manual and a trial of the program for {triple}, which does not run here"
        ));
    }
    finish(made, &archive, is_windows)
}

/// Wheel and source distribution.
pub(super) fn python(made: &mut Made, _: Option<&str>) -> Result {
    let python = match self::made("requirements-release.txt")? {
        Python::Ready(python) => python,
        Python::Missing(why) => {
            made.without(format!("the Python package: {why}"));
            return Ok(());
        }
    };
    let wheels = target().join("wheels");
    let _ = fs::remove_dir_all(&wheels);
    let maturin = |arguments: &[&str]| -> Result {
        let mut maturin = Command::new(&python);
        maturin.args(["-m", "maturin"]).args(arguments).arg("--out").arg(&wheels);
        // zig is looked for by the first Python of the path
        let own = python.parent().map(Path::to_owned);
        let path = std::env::var_os("PATH").unwrap_or_default();
        let path = std::env::join_paths(own.into_iter().chain(std::env::split_paths(&path)));
        maturin.env("PATH", path.map_err(|error| error.to_string())?);
        maturin.current_dir(root().join("bindings/python"));
        run(with_component(maturin)?)
    };
    let wheel = ["build", "--release", "--locked", "--quiet", "--features", "gpu,wasm"];
    // linked with an old C library, whatever this machine has
    let old = ["--zig", "--compatibility", "manylinux_2_17"];
    let is_old = cfg!(target_os = "linux") && {
        let built = maturin(&[&wheel[..], &old].concat());
        if let Err(why) = &built {
            made.without(format!("a wheel for Linux of before this one: {why}"));
        }
        built.is_ok()
    };
    if !is_old {
        maturin(&wheel)?;
    }
    maturin(&["sdist"])?;
    let mut built: Vec<_> = files(&wheels).into_iter().map(|file| wheels.join(file)).collect();
    built.sort();
    let mut twine = Command::new(&python);
    run({
        twine.args(["-m", "twine", "check", "--strict"]).args(&built);
        twine
    })?;
    for file in &built {
        let mut list = Command::new(&python);
        let how = "import sys, tarfile, zipfile; f = sys.argv[1]; \
                   print(*(zipfile.ZipFile(f).namelist() if f.endswith('.whl') else tarfile.open(f).getnames()), sep='\\n')";
        list.args(["-c", how]).arg(file);
        let list = output(list)?;
        if let Some(licence) =
            LICENCES.iter().find(|licence| !list.lines().any(|line| line.ends_with(**licence)))
        {
            return Err(format!("{}: holds no {licence}", file.display()));
        }
        if file.extension().is_some_and(|ending| ending == "whl") {
            trial::wheel(&python, file)?;
        }
        made.add(file, &file.file_name().unwrap_or_default().to_string_lossy())?;
    }
    Ok(())
}

/// The npm package.
pub(super) fn npm(made: &mut Made, _: Option<&str>) -> Result {
    if let Err(why) = web::ready() {
        made.without(format!("the npm package: {why}"));
        return Ok(());
    }
    web::package()?;
    let mut pack = Command::new("npm");
    pack.args(["pack", "--silent", "--pack-destination"]).arg(out()?).current_dir(root().join("wasm/web"));
    output(pack)?;
    let file = out()?.join(format!("mwa-merge-{}.tgz", version()?));
    let mut list = Command::new("tar");
    list.arg("-tzf").arg(&file);
    let list = output(list)?;
    if let Some(licence) =
        LICENCES.iter().find(|licence| !list.lines().any(|line| line == format!("package/{licence}")))
    {
        return Err(format!("{}: holds no {licence}", file.display()));
    }
    for (tool, arguments) in [
        ("publint@0.3", &["run", "--strict"][..]),
        // programs that resolve as Node 10 did see the first entry alone; the page on the package says so
        ("@arethetypeswrong/cli@0.18", &["--profile", "esm-only"]),
    ] {
        let mut npx = Command::new("npx");
        npx.args(["--yes", tool]).args(arguments).arg(&file).current_dir(out()?);
        run(npx)?;
    }
    trial::npm(&file)?;
    println!("made {}", file.display());
    made.files.push(file);
    Ok(())
}

/// The C library as a prefix, with pkg-config file and CMake package.
pub(super) fn c(made: &mut Made, _: Option<&str>) -> Result {
    c::build()?;
    let archive = Archive::new(format!("mwa-c-{}-{}", version()?, host()?))?;
    let prefix = target().join("c");
    for file in files(&prefix) {
        archive.add(&prefix.join(&file), &file.to_string_lossy())?;
    }
    for example in ["merge.c", "average.cpp"] {
        archive.add(
            &root().join("bindings/c/examples").join(example),
            &format!("share/mwa/examples/{example}"),
        )?;
    }
    licences(&archive)?;
    trial::c(archive.folder())?;
    finish(made, &archive, cfg!(windows))
}

/// The jar, without what it needs, which Maven brings.
pub(super) fn java(made: &mut Made, _: Option<&str>) -> Result {
    if let Err(why) = java::build() {
        made.without(format!("the Java package: {why}"));
        return Ok(());
    }
    let name = format!("mwa-merge-{}.jar", version()?);
    made.add(&root().join("bindings/java/target").join(&name), &name)?;
    made.add(&root().join("bindings/java/pom.xml"), &format!("mwa-merge-{}.pom", version()?))
}

/// With the component taken into what is built.
fn with_component(mut command: Command) -> Result<Command> {
    let component = component::folder().join("mwa.component.wasm");
    if !component.is_file() {
        component::build()?;
    }
    command.env("MWA_COMPONENT", component);
    Ok(command)
}

fn licences(archive: &Archive) -> Result {
    LICENCES.iter().try_for_each(|name| archive.add(&root().join(name), name))
}

fn finish(made: &mut Made, archive: &Archive, is_zip: bool) -> Result {
    let packed: PathBuf = archive.pack(is_zip)?;
    made.add(&packed, &packed.file_name().unwrap_or_default().to_string_lossy())
}

fn write(path: &Path, text: &str) -> Result {
    let written =
        fs::create_dir_all(path.parent().expect("it lies in a folder")).and_then(|()| fs::write(path, text));
    written.map_err(|error| format!("{}: {error}", path.display()))
}
