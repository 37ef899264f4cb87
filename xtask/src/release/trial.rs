//! Install a package where nothing else is, merge the sample run with it, and compare the bytes with the README's.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::folder;
use crate::java::SAMPLE;
use crate::run::{Result, cargo, output, root, run, target};

/// An empty folder for one trial.
fn place(name: &str) -> Result<PathBuf> {
    let place = folder().join("trials").join(name);
    if place.exists() {
        fs::remove_dir_all(&place).map_err(|error| format!("{}: {error}", place.display()))?;
    }
    fs::create_dir_all(&place).map_err(|error| format!("{}: {error}", place.display()))?;
    Ok(place)
}

fn sample() -> PathBuf {
    root().join("examples/sample-run")
}

/// That a merged folder holds the bytes that every face makes of the sample run.
fn compare(merged: &Path, who: &str) -> Result {
    let report = merged.join("mwa-report.json");
    let text = fs::read_to_string(&report).map_err(|error| format!("{}: {error}", report.display()))?;
    let report: serde_json::Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
    let found = report["outputs"][0]["blake3"].as_str().unwrap_or_default();
    if found != SAMPLE {
        return Err(format!("{who}: the sample run's merge is {found}, not {SAMPLE}"));
    }
    println!("{who}: merges the sample run to {}…", &SAMPLE[..16]);
    Ok(())
}

/// The program: in a root of its own where it is static and we may, else in an empty environment.
pub(super) fn binary(program: &Path, triple: &str) -> Result {
    let place = place(triple)?;
    let mut who = Command::new("id");
    who.arg("-u");
    let is_root = output(who).is_ok_and(|id| id.trim() == "0");
    let name = program.file_name().unwrap_or_default();
    let devices: &[&str] = &["cpu", "wasm"];
    if triple.ends_with("musl") && is_root {
        fs::copy(program, place.join(name)).map_err(|error| error.to_string())?;
        let mut copy = Command::new("cp");
        copy.arg("-r").arg(sample()).arg(place.join("run"));
        output(copy)?;
        fs::create_dir(place.join("tmp")).map_err(|error| error.to_string())?;
        for device in devices {
            let mut merge = Command::new("chroot");
            merge
                .arg(&place)
                .args(["/mwa", "merge", "/run", "-o", "/merged", "--force", "-q", "--device", device])
                .env_clear();
            merge.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
            run(merge)?;
            compare(&place.join("merged"), &format!("mwa for {triple} alone in its root, by {device}"))?;
        }
        return Ok(());
    }
    for device in devices {
        let mut merge = Command::new(program);
        merge
            .arg("merge")
            .arg(sample())
            .arg("-o")
            .arg(place.join("merged"))
            .args(["--force", "-q", "--device", device]);
        merge.env_clear();
        run(merge)?;
        compare(&place.join("merged"), &format!("mwa for {triple}, by {device}"))?;
    }
    Ok(())
}

/// The packed crates, each beside the others as if they were published: the program of the last one.
pub(super) fn crates(names: &[&str], version: &str) -> Result {
    let place = place("crates")?;
    let mut install = cargo(["install", "--debug", "--locked", "--no-default-features", "--features", "cli"]);
    for name in names {
        let mut unpack = Command::new("tar");
        unpack
            .arg("-xzf")
            .arg(target().join("package").join(format!("{name}-{version}.crate")))
            .arg("-C")
            .arg(&place);
        output(unpack)?;
        // it lies within this tree, and is no part of its workspace
        let manifest = place.join(format!("{name}-{version}")).join("Cargo.toml");
        let alone = fs::read_to_string(&manifest).map(|text| text + "\n[workspace]\n");
        alone.and_then(|text| fs::write(&manifest, text)).map_err(|error| format!("{name}: {error}"))?;
        // in TOML, where a backslash would mean something
        let path = place.join(format!("{name}-{version}")).display().to_string().replace('\\', "/");
        install.args(["--config", &format!("patch.crates-io.{name}.path = \"{path}\"")]);
    }
    install
        .arg("--path")
        .arg(place.join(format!("mwa-host-{version}")))
        .arg("--root")
        .arg(place.join("root"));
    run(install)?;
    let mut merge = Command::new(place.join("root/bin/mwa"));
    run({
        merge.arg("merge").arg(sample()).arg("-o").arg(place.join("merged")).arg("-q");
        merge
    })?;
    compare(&place.join("merged"), "mwa from the packed crates")
}

/// The wheel in a fresh environment that has nothing else.
pub(super) fn wheel(python: &Path, wheel: &Path) -> Result {
    let place = place("wheel")?;
    let mut make = Command::new(python);
    make.args(["-m", "venv", "--without-pip"]).arg(place.join("venv"));
    output(make)?;
    let fresh = place.join(if cfg!(windows) { "venv/Scripts/python.exe" } else { "venv/bin/python" });
    let mut install = Command::new(python);
    install.args(["-m", "pip", "--python"]).arg(&fresh).args(["install", "--quiet", "--no-index"]).arg(wheel);
    run(install)?;
    for device in ["cpu", "wasm"] {
        let mut merge = Command::new(&fresh);
        merge.args(["-m", "mwa", "merge"]).arg(sample()).arg("-o").arg(place.join("merged"));
        merge.args(["--force", "-q", "--device", device]).current_dir(&place);
        run(merge)?;
        compare(&place.join("merged"), &format!("the wheel in an empty environment, by {device}"))?;
    }
    Ok(())
}

/// The npm package in an empty folder.
pub(super) fn npm(file: &Path) -> Result {
    let place = place("npm")?;
    fs::write(place.join("package.json"), "{ \"private\": true }\n").map_err(|error| error.to_string())?;
    let mut install = Command::new("npm");
    install.args(["install", "--silent", "--no-audit", "--no-fund"]).arg(file).current_dir(&place);
    run(install)?;
    let mut merge = Command::new("npx");
    merge
        .args(["--no-install", "mwa-merge", "merge"])
        .arg(sample())
        .args(["-o", "merged", "-q"])
        .current_dir(&place);
    run(merge)?;
    compare(&place.join("merged"), "the npm package in an empty folder")
}

/// The C library from where it was unpacked: its example by pkg-config, and by CMake where that is.
pub(super) fn c(prefix: &Path) -> Result {
    if cfg!(windows) {
        println!("not tried: the C library on Windows");
        return Ok(());
    }
    let place = place("c")?;
    let merge = |program: &Path, out: &str, who: &str| -> Result {
        let mut merge = Command::new(program);
        merge.arg(sample()).arg(place.join(out));
        merge.env(
            if cfg!(target_os = "macos") { "DYLD_LIBRARY_PATH" } else { "LD_LIBRARY_PATH" },
            prefix.join("lib"),
        );
        output(merge)?;
        compare(&place.join(out), who)
    };
    let example = prefix.join("share/mwa/examples/merge.c");
    let mut flags = Command::new("pkg-config");
    flags.args(["--cflags", "--libs", "mwa"]).env("PKG_CONFIG_PATH", prefix.join("lib/pkgconfig"));
    let flags = output(flags)?;
    let mut compile = Command::new("cc");
    compile.arg(&example).args(flags.split_whitespace()).arg("-o").arg(place.join("merge"));
    output(compile)?;
    merge(&place.join("merge"), "by-pkg-config", "a C program by pkg-config")?;
    let mut version = Command::new("cmake");
    version.arg("--version");
    if output(version).is_err() {
        println!("not tried: the C library by CMake, which is not here");
        return Ok(());
    }
    let lists = "cmake_minimum_required(VERSION 3.16)\nproject(example C)\nfind_package(mwa REQUIRED)\n\
                 foreach(kind shared static)\n  add_executable(merge-${kind} merge.c)\n  \
                 target_link_libraries(merge-${kind} PRIVATE mwa::${kind})\nendforeach()\n";
    let written = fs::write(place.join("CMakeLists.txt"), lists)
        .and_then(|()| fs::copy(&example, place.join("merge.c")));
    written.map_err(|error| format!("{}: {error}", place.display()))?;
    let mut configure = Command::new("cmake");
    configure.arg("-S").arg(&place).arg("-B").arg(place.join("build"));
    configure.arg(format!("-DCMAKE_PREFIX_PATH={}", prefix.display()));
    output(configure)?;
    let mut build = Command::new("cmake");
    build.arg("--build").arg(place.join("build"));
    output(build)?;
    for kind in ["shared", "static"] {
        merge(&place.join(format!("build/merge-{kind}")), kind, &format!("a C program by CMake, {kind}"))?;
    }
    Ok(())
}
