//! Build the npm package and the page, and test them in Node, Deno, Bun and a browser.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use wasm_bindgen_cli_support::Bindgen;

use crate::count::{Count, missing};
use crate::run::{Result, build, compared, output, root, run, stream, target};
use crate::target;

const TRIPLE: &str = "wasm32-unknown-unknown";
/// What the core needs of Rust's library.
const CORE: &str = "core,alloc";
/// Where Debian puts its Chromium; elsewhere `MWA_CHROMIUM` says.
const CHROMIUM: &str = "/usr/bin/chromium";

/// The npm package, into `wasm/web/dist`.
pub(crate) fn package() -> Result {
    // once for all who ask
    static MADE: OnceLock<Result> = OnceLock::new();
    MADE.get_or_init(make_package).clone()
}

fn make_package() -> Result {
    let web = root().join("wasm/web");
    module("mwa-web-module", CORE, &web.join("dist/wasm"), "mwa")?;
    // wgpu needs all of std
    module("mwa-web-gpu", "std,panic_abort", &web.join("dist/wasm-gpu"), "mwa_gpu")?;
    npm(&web)?;
    script(&web, "build")
}

/// One WebAssembly module and its glue, into `folder`; `library` is what it needs of Rust's.
fn module(package: &str, library: &str, folder: &Path, name: &str) -> Result {
    let mut build = target::build_with(library, package, TRIPLE)?;
    let mut flags = vec!["-Ctarget-feature=+simd128".to_owned()];
    if library == CORE {
        flags.extend(target::LOOPS.map(String::from));
    }
    // without the library's sources it is larger
    flags.extend(build.small().unwrap_or_default());
    let built = if build.from_source { target().join("debian") } else { target() };
    build
        .command
        .args(["--profile", "web"])
        .env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUSTFLAGS", flags.join(" "));
    run(build.command)?;
    println!("built {package} with {}", build.road);
    fs::create_dir_all(folder).map_err(|error| error.to_string())?;
    let mut bindgen = Bindgen::new();
    let file = format!("{}.wasm", package.replace('-', "_"));
    bindgen.input_path(built.join(TRIPLE).join("web").join(file)).typescript(true).out_name(name);
    // pack.mjs sorts functions by name, then drops the names
    bindgen.demangle(false).remove_producers_section(true);
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
    npm(&root().join("tests/web"))?;
    package()?;
    test_node(count)
}

/// The package in Node, if that can be had here: its own tests, and those of its face to disks beside the native binary.
pub(crate) fn test_node_if_there(count: &mut Count) -> Result {
    if let Err(why) = ready() {
        return missing("node", &why, count);
    }
    package()?;
    test_node(count)
}

fn test_node(count: &mut Count) -> Result {
    let binary = compared()?;
    tests("node.test.mjs", &[], count)?;
    tests("situations.test.mjs", &[], count)?;
    tests("disk.test.mjs", &[("MWA_BINARY", &binary)], count)
}

/// Whether there is all that the package is built with.
pub(crate) fn ready() -> Result {
    node()?;
    target::build("mwa-web-module", TRIPLE)?;
    npm(&root().join("wasm/web"))
}

/// Whether there is a Node that is new enough, and npm.
pub(crate) fn node() -> Result {
    for program in ["node", "npm"] {
        let mut version = Command::new(program);
        version.arg("--version");
        let version = output(version).map_err(|_| format!("there is no {program}"))?;
        let major = version.trim_start_matches('v').split('.').next().and_then(|major| major.parse().ok());
        if program == "node" && major.is_none_or(|major: u32| major < 20) {
            return Err(format!("node is {}, older than 20", version.trim()));
        }
    }
    Ok(())
}

/// The page in Chromium, if the Node lane could run; it has said so otherwise.
pub(crate) fn test_page_if_there(count: &mut Count) -> Result {
    if ready().is_ok() { test_page(count) } else { Ok(()) }
}

/// The page in Chromium, headless.
pub(crate) fn test_page(count: &mut Count) -> Result {
    page()?;
    let chromium = std::env::var_os("MWA_CHROMIUM").map_or_else(|| PathBuf::from(CHROMIUM), PathBuf::from);
    if !chromium.is_file() && target::install(&["chromium"]).is_err() {
        let why = format!("there is no Chromium at {}; MWA_CHROMIUM=PATH names one", chromium.display());
        if crate::count::is_required("browser") {
            return Err(why);
        }
        return crate::count::skip(&why, count);
    }
    npm(&root().join("tests/web"))?;
    for file in ["browser.test.mjs", "gpu.test.mjs", "apps.test.mjs"] {
        tests(file, &[("MWA_CHROMIUM", &chromium)], count)?;
    }
    Ok(())
}

/// Speeds of the package in Node and Chromium beside the native binary's.
pub(crate) fn bench() -> Result {
    page()?;
    build()?;
    let folder = root().join("tests/web");
    npm(&folder)?;
    let mut node = Command::new("node");
    node.arg("bench.mjs").arg(target().join("release/mwa")).current_dir(folder);
    run(node)
}

fn tests(file: &str, environment: &[(&str, &Path)], count: &mut Count) -> Result {
    let folder = root().join("tests/web");
    let mut node = Command::new("node");
    node.args(["--test", "--test-reporter=tap", file]).current_dir(folder);
    node.envs(environment.iter().map(|(name, value)| (name, value)));
    let mut seen = Count::default();
    let succeeded = stream(node, |line| {
        seen.add_reason(line);
        for (word, n) in
            [("# pass ", &mut seen.passed), ("# fail ", &mut seen.failed), ("# skipped ", &mut seen.skipped)]
        {
            *n += line.strip_prefix(word).and_then(|n| n.parse().ok()).unwrap_or(0);
        }
    })?;
    count.passed += seen.passed;
    count.failed += seen.failed;
    count.skipped += seen.skipped;
    count.reasons.append(&mut seen.reasons);
    if succeeded || seen.failed > 0 { Ok(()) } else { Err(format!("{file} did not run to its end")) }
}

/// Install what the lock file says, once.
pub(crate) fn npm(folder: &Path) -> Result {
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
