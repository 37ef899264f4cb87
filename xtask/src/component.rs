//! Build the component and the core module, with SIMD and without, byte for byte the same on every machine.

use std::fs;
use std::path::PathBuf;

use wit_component::ComponentEncoder;

use crate::run::{Result, output, root, run, target};
use crate::target;

const TRIPLE: &str = "wasm32-unknown-unknown";

/// Most bytes that the component may take.
const MOST: u64 = 600_000;

/// Where what is built goes: `target/wasm/mwa.component.wasm` and its kin.
pub(crate) fn folder() -> PathBuf {
    target().join("wasm")
}

/// `cargo xtask build component`
pub(crate) fn build() -> Result {
    fs::create_dir_all(folder()).map_err(|error| format!("{}: {error}", folder().display()))?;
    for (name, features) in [("", "+simd128"), (".plain", "-simd128")] {
        let [component, module] = compile(["mwa-component", "mwa-module"], features)?;
        let component = ComponentEncoder::default()
            .validate(true)
            .module(&component)
            .and_then(|encoder| encoder.encode())
            .map_err(|error| format!("the module does not make a component: {error:#}"))?;
        if component.len() as u64 > MOST {
            return Err(format!("the component takes {} bytes; the limit is {MOST}", component.len()));
        }
        write(&format!("mwa{name}.component.wasm"), &component)?;
        write(&format!("mwa{name}.module.wasm"), &module)?;
    }
    Ok(())
}

/// Compile packages and read the modules; paths of this machine stay out of them.
fn compile(packages: [&str; 2], features: &str) -> Result<[Vec<u8>; 2]> {
    let mut build = target::build(packages[0], TRIPLE)?.command;
    let home = std::env::var("CARGO_HOME").or_else(|_| std::env::var("HOME").map(|home| home + "/.cargo"));
    let mut rustc = std::process::Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    let sysroot = output({
        rustc.args(["--print", "sysroot"]).current_dir(root());
        rustc
    })?;
    let flags = [
        format!("-Ctarget-feature={features}"),
        format!("--remap-path-prefix={}=mwa", root().display()),
        format!("--remap-path-prefix={}=cargo", home.unwrap_or_default()),
        format!("--remap-path-prefix={}=rust", sysroot.trim()),
    ];
    // a folder of their own: cargo keeps builds with different flags apart, but not their results
    let folder = folder().join("build").join(features);
    build.args(["--package", packages[1], "--profile", "wasm", "--quiet", "--target-dir"]).arg(&folder);
    build.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
    run(build)?;
    let read = |package: &str| {
        let file = folder.join(TRIPLE).join("wasm").join(format!("{}.wasm", package.replace('-', "_")));
        fs::read(&file).map_err(|error| format!("{}: {error}", file.display()))
    };
    Ok([read(packages[0])?, read(packages[1])?])
}

fn write(name: &str, bytes: &[u8]) -> Result {
    let path = folder().join(name);
    fs::write(&path, bytes).map_err(|error| format!("{}: {error}", path.display()))?;
    println!("built {} ({} bytes)", path.display(), bytes.len());
    Ok(())
}
