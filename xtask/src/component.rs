//! Build the component and the core module, with SIMD and without, byte for byte the same on every machine.

use core::fmt::Display;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use wasm_encoder::{Module, RawSection};
use wasmparser::{Parser, Payload};
use wit_component::ComponentEncoder;

use crate::run::{Result, copy, output, root, run, sources, target};
use crate::{target, web};

const TRIPLE: &str = "wasm32-unknown-unknown";

/// Most bytes that the component may take.
const MOST: usize = 1_122_000;

/// Large functions that are called once stay functions of their own: Java's methods are at most 64 KiB, and above 8,000
/// bytes its machine interprets them.
const WHOLE: &str = "--one-caller-inline-max-function-size=100";

const PACKAGES: [&str; 2] = ["mwa-component-module", "mwa-module"];

/// What is built: the end of the names, and features of the target.
const KINDS: [(&str, &str); 2] = [("", "+simd128"), (".plain", "-simd128")];

/// Where what is built goes: `target/wasm/mwa.component.wasm` and its kin.
pub(crate) fn folder() -> PathBuf {
    target().join("wasm")
}

/// `cargo xtask build component`
pub(crate) fn build() -> Result {
    // once for all who ask
    static MADE: OnceLock<Result> = OnceLock::new();
    MADE.get_or_init(make).clone()
}

fn make() -> Result {
    fs::create_dir_all(folder()).map_err(|error| format!("{}: {error}", folder().display()))?;
    let optimiser = optimiser();
    for (name, features) in KINDS {
        let [component, module] = compile(root(), features, &folder().join("build").join(features))?
            .map(|module| optimised(module, optimiser.as_deref()));
        let (component, module) = (component?, module?);
        let component = ComponentEncoder::default()
            .validate(true)
            .module(&component)
            .and_then(|encoder| encoder.encode())
            .map_err(|error| format!("the module does not make a component: {error:#}"))?;
        if optimiser.is_some() && component.len() > MOST {
            return Err(format!("the component takes {} bytes; the limit is {MOST}", component.len()));
        }
        write(&format!("mwa{name}.component.wasm"), &component)?;
        write(&format!("mwa{name}.module.wasm"), &module)?;
    }
    Ok(())
}

/// `cargo xtask build component --check`: build again from a copy of the repository elsewhere, and compare every byte.
pub(crate) fn check() -> Result {
    build()?;
    let elsewhere = folder().join("elsewhere/with/another/path");
    for file in sources()? {
        copy(&root().join(&file), &elsewhere.join(&file))?;
    }
    for (name, features) in KINDS {
        let here = PACKAGES.map(|package| built(&folder().join("build").join(features), package));
        let again = compile(&elsewhere, features, &elsewhere.join("target"))?;
        for (here, again) in here.into_iter().zip(again) {
            if here? != again {
                return Err(format!("mwa{name}.*.wasm: two builds in different folders differ"));
            }
        }
        println!("mwa{name}.*.wasm: the same bytes from a build in {}", elsewhere.display());
    }
    fs::remove_dir_all(folder().join("elsewhere")).map_err(|error| error.to_string())
}

/// Compile the packages of the repository at `root` into `folder`; paths of this machine stay out of the modules.
fn compile(root: &Path, features: &str, folder: &Path) -> Result<[Vec<u8>; 2]> {
    let mut build = target::build(PACKAGES[0], TRIPLE)?;
    let small = build.small()?;
    let mut command = build.command;
    let home = std::env::var("CARGO_HOME").or_else(|_| std::env::var("HOME").map(|home| home + "/.cargo"));
    let mut rustc = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    rustc.args(["--print", "sysroot"]).current_dir(root);
    let sysroot = output(rustc)?;
    let mut flags = [
        format!("-Ctarget-feature={features}"),
        format!("--remap-path-prefix={}=mwa", root.display()),
        format!("--remap-path-prefix={}=cargo", home.unwrap_or_default()),
        format!("--remap-path-prefix={}=rust", sysroot.trim()),
    ]
    .to_vec();
    flags.extend(target::LOOPS.map(String::from));
    flags.extend(small);
    // a folder for each: cargo keeps builds with different flags apart, but not their results
    command.current_dir(root).args([
        "--package",
        PACKAGES[1],
        "--profile",
        "wasm",
        "--quiet",
        "--target-dir",
    ]);
    command.arg(folder).env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
    run(command)?;
    Ok([built(folder, PACKAGES[0])?, built(folder, PACKAGES[1])?])
}

/// A module that was compiled, without the names of its functions, which are a sixth of it.
fn built(folder: &Path, package: &str) -> Result<Vec<u8>> {
    let file = folder.join(TRIPLE).join("wasm").join(format!("{}.wasm", package.replace('-', "_")));
    let at = |error: &dyn Display| format!("{}: {error}", file.display());
    let bytes = fs::read(&file).map_err(|error| at(&error))?;
    let mut module = Module::new();
    for payload in Parser::new(0).parse_all(&bytes) {
        let payload = payload.map_err(|error| at(&error))?;
        let is_named = matches!(&payload, Payload::CustomSection(custom) if custom.name() == "name");
        if let Some((id, range)) = payload.as_section().filter(|_| !is_named) {
            let within =
                usize::try_from(range.start).and_then(|start| Ok(start..usize::try_from(range.end)?));
            module.section(&RawSection { id, data: &bytes[within.map_err(|error| at(&error))?] });
        }
    }
    Ok(module.finish())
}

/// Binaryen's wasm-opt, as the npm package of `wasm/web` has it; where Node is missing, all is built a tenth larger.
fn optimiser() -> Option<PathBuf> {
    let web = root().join("wasm/web");
    let why = web::node().and_then(|()| web::npm(&web)).err();
    if let Some(why) = &why {
        println!("not made smaller by wasm-opt: {why}");
    }
    why.is_none().then(|| web.join("node_modules/binaryen/bin/wasm-opt"))
}

/// The same module in fewer bytes.
fn optimised(module: Vec<u8>, optimiser: Option<&Path>) -> Result<Vec<u8>> {
    let Some(optimiser) = optimiser else { return Ok(module) };
    let [from, to] = ["from.wasm", "to.wasm"].map(|name| folder().join("build").join(name));
    let at = |path: &Path, error: std::io::Error| format!("{}: {error}", path.display());
    fs::write(&from, module).map_err(|error| at(&from, error))?;
    let mut node = Command::new("node");
    node.arg(optimiser).args(["-Oz", WHOLE]).arg(&from).arg("-o").arg(&to);
    output(node)?;
    fs::read(&to).map_err(|error| at(&to, error))
}

fn write(name: &str, bytes: &[u8]) -> Result {
    let path = folder().join(name);
    fs::write(&path, bytes).map_err(|error| format!("{}: {error}", path.display()))?;
    println!("built {} ({} bytes)", path.display(), bytes.len());
    Ok(())
}
