//! Build the npm package and the page, and test them in Node, Deno and a browser.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use wasm_bindgen_cli_support::Bindgen;

use crate::run::{Result, output, root, run, stream, target};
use crate::target;
use crate::test::Count;

const TRIPLE: &str = "wasm32-unknown-unknown";
/// Where Debian puts its Chromium; elsewhere `MWA_CHROMIUM` says.
const CHROMIUM: &str = "/usr/bin/chromium";

/// The npm package, into `wasm/web/dist`.
pub(crate) fn package() -> Result {
    let web = root().join("wasm/web");
    module("mwa-web", "core,alloc", &web.join("dist/wasm"), "mwa")?;
    // wgpu needs all of std
    module("mwa-web-gpu", "std,panic_abort", &web.join("dist/wasm-gpu"), "mwa_gpu")?;
    npm(&web)?;
    script(&web, "build")
}

/// One WebAssembly module and its glue, into `folder`; `library` is what it needs of Rust's.
fn module(package: &str, library: &str, folder: &Path, name: &str) -> Result {
    let build = target::build_with(library, package, TRIPLE)?;
    let (mut command, mut flags) = (build.command, "-C target-feature=+simd128".to_owned());
    command.args(["--profile", "web"]);
    let mut sources = Command::new("rustup");
    sources.args(["component", "add", "rust-src"]);
    let from_source = build.from_source || output(sources).is_ok();
    if from_source {
        // panics trap without a message, and sorts are short: that spares an eighth of the download
        flags += " -Zunstable-options -Cpanic=immediate-abort";
        command.args(["-Z", "build-std-features=optimize_for_size"]).env("RUSTC_BOOTSTRAP", "1");
        if !build.from_source {
            command.args(["-Z", &format!("build-std={library}")]);
        }
    }
    let built = if build.from_source { target().join("debian") } else { target() };
    command.env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUSTFLAGS", flags);
    run(command)?;
    println!("built {package} with {}", build.road);
    fs::create_dir_all(folder).map_err(|error| error.to_string())?;
    let mut bindgen = Bindgen::new();
    let file = format!("{}.wasm", package.replace('-', "_"));
    bindgen.input_path(built.join(TRIPLE).join("web").join(file)).typescript(true).out_name(name);
    bindgen.remove_name_section(true).remove_producers_section(true);
    let bound = bindgen.web(true).and_then(|bindgen| bindgen.generate(folder));
    bound.map_err(|error| format!("wasm-bindgen: {error:#}"))
}

/// The page, into `examples/browser/dist`.
pub(crate) fn page() -> Result {
    package()?;
    let page = root().join("examples/browser");
    npm(&page)?;
    script(&page, "build")
}

/// The package in Node and Deno.
pub(crate) fn test_package(count: &mut Count) -> Result {
    package()?;
    tests("node.test.mjs", &[], count)
}

/// The page in Chromium, headless.
pub(crate) fn test_page(count: &mut Count) -> Result {
    page()?;
    let chromium = std::env::var_os("MWA_CHROMIUM").map_or_else(|| PathBuf::from(CHROMIUM), PathBuf::from);
    if !chromium.is_file() && target::install(&["chromium"]).is_err() {
        let why = format!("there is no Chromium at {}; MWA_CHROMIUM=PATH names one", chromium.display());
        if std::env::var("MWA_REQUIRE").is_ok_and(|required| required.split(',').any(|it| it == "browser")) {
            return Err(why);
        }
        println!("ignored: {why}");
        count.skipped += 1;
        return Ok(());
    }
    for file in ["browser.test.mjs", "gpu.test.mjs"] {
        tests(file, &[("MWA_CHROMIUM", &chromium)], count)?;
    }
    Ok(())
}

/// Speeds of the package in Node and Chromium beside the native binary's.
pub(crate) fn bench() -> Result {
    page()?;
    crate::build()?;
    let folder = root().join("tests/web");
    npm(&folder)?;
    let mut node = Command::new("node");
    node.arg("bench.mjs").arg(target().join("release/mwa")).current_dir(folder);
    run(node)
}

fn tests(file: &str, environment: &[(&str, &Path)], count: &mut Count) -> Result {
    let folder = root().join("tests/web");
    npm(&folder)?;
    let mut node = Command::new("node");
    node.args(["--test", "--test-reporter=tap", file]).current_dir(folder);
    node.envs(environment.iter().map(|(name, value)| (name, value)));
    let mut seen = Count::default();
    let succeeded = stream(node, |line| {
        for (word, n) in
            [("# pass ", &mut seen.passed), ("# fail ", &mut seen.failed), ("# skipped ", &mut seen.skipped)]
        {
            *n += line.strip_prefix(word).and_then(|n| n.parse().ok()).unwrap_or(0);
        }
    })?;
    count.passed += seen.passed;
    count.failed += seen.failed;
    count.skipped += seen.skipped;
    if succeeded || seen.failed > 0 { Ok(()) } else { Err(format!("{file} did not run to its end")) }
}

/// Install what the lock file says, once.
fn npm(folder: &Path) -> Result {
    let made = |path: &str| fs::metadata(folder.join(path)).and_then(|it| it.modified()).ok();
    if made("node_modules/.package-lock.json") >= made("package-lock.json") {
        return Ok(());
    }
    let mut npm = Command::new("npm");
    npm.arg("ci").current_dir(folder);
    output(npm).map(drop)
}

fn script(folder: &Path, name: &str) -> Result {
    let mut npm = Command::new("npm");
    npm.args(["run", "--silent", name]).current_dir(folder);
    run(npm)
}
