//! One merge in every runtime: all vectors where it can, the sample run, and a table of its BLAKE3.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::component::{self, folder};
use crate::count::Count;
use crate::python::{Python, python};
use crate::run::{Result, cargo, output, root, run, target};

/// The sample run: small enough for every runtime.
const SAMPLE: &str = "examples/sample-run";

/// From npm, as `cargo xtask test hashes` installs it: the translator, the runtimes that are not Node, and what drives Chromium.
const NPM: [&str; 4] = ["@bytecodealliance/jco@1.35.0", "bun@1", "deno@2", "playwright-core@1"];

/// What a runtime made of the sample run and of the vectors.
struct Row {
    runtime: &'static str,
    made: Result<Made>,
}

struct Made {
    sample: String,
    /// where the runtime's own runner ran them here; else who did
    vectors: core::result::Result<Vectors, &'static str>,
}

/// What became of the vectors: passed, failed, and the hash over all that was merged.
struct Vectors {
    passed: u64,
    failed: u64,
    hash: String,
}

/// `cargo xtask test hashes`
pub(crate) fn hashes(count: &mut Count) -> Result {
    component::build()?;
    run(cargo(["build", "--release", "--package", "mwa-host", "--features", "wasm"]))?;
    run(cargo(["test", "--package", "conformance", "--features", "wasm"]))?;
    let component = folder().join("mwa.component.wasm");
    let mut rows = vec![
        Row { runtime: "native", made: native("cpu", "mwa.component.wasm") },
        Row { runtime: "wasmtime", made: native("wasm", "mwa.component.wasm") },
        Row { runtime: "wasmtime, no SIMD", made: native("wasm", "mwa.plain.component.wasm") },
    ];
    let packages = install();
    let transpiled = packages.clone().and_then(|bin| transpile(&bin, &component));
    for (runtime, program, face) in [
        ("node (jco)", "node", "component"),
        ("bun (jco)", "bun", "component"),
        ("deno (jco)", "deno", "component"),
        ("chromium (jco)", "node", "browser"),
    ] {
        let made = transpiled.clone().and_then(|js| {
            let bin = packages.clone()?;
            javascript(&if program == "node" { program.into() } else { bin.join(program) }, face, &js)
        });
        rows.push(Row { runtime, made });
    }
    for (runtime, file) in
        [("node, core module", "mwa.module.wasm"), ("node, core module, no SIMD", "mwa.plain.module.wasm")]
    {
        rows.push(Row { runtime, made: javascript(Path::new("node"), "module", &folder().join(file)) });
    }
    rows.push(Row { runtime: "go (wazero)", made: crate::go::made().and_then(|told| read(&told)) });
    rows.push(Row { runtime: "java (Chicory)", made: java() });
    rows.push(Row { runtime: "wasmtime-py", made: wasmtime_py(&component) });
    rows.push(Row { runtime: "wasmtime-py, core module", made: module_py() });
    show(&rows, count)
}

/// `cargo xtask bench wasm`
pub(crate) fn bench() -> Result {
    component::build()?;
    let mut native = cargo(["bench", "--package", "mwa-host", "--features", "wasm", "--bench", "wasm"]);
    native.env("MWA_COMPONENT", folder());
    run(native)?;
    let js = transpile(&install()?, &folder().join("mwa.component.wasm"))?;
    let mut node = Command::new("node");
    node.arg("wasm/bench.mjs").arg(js).arg(folder().join("mwa.module.wasm")).current_dir(root());
    run(node)
}

fn show(rows: &[Row], count: &mut Count) -> Result {
    println!("\n{:<28}{:<18}BLAKE3 of the merge of {SAMPLE}", "runtime", "vectors");
    let made = || rows.iter().filter_map(|row| row.made.as_ref().ok());
    let first = made().next().map(|made| &made.sample);
    let hash = made().find_map(|made| made.vectors.as_ref().ok()).map(|vectors| &vectors.hash);
    for Row { runtime, made } in rows {
        match made {
            Ok(Made { sample, vectors }) => {
                let told = match vectors {
                    Ok(it) => {
                        let same = if Some(&it.hash) == hash { "" } else { ", others" };
                        format!("{} of {}{same}", it.passed, it.passed + it.failed)
                    }
                    Err(who) => (*who).to_owned(),
                };
                println!("{runtime:<28}{told:<18}{sample}");
                let is_good = |it: &Vectors| it.failed == 0 && Some(&it.hash) == hash;
                let is_right = first == Some(sample) && vectors.as_ref().map_or(true, is_good);
                *(if is_right { &mut count.passed } else { &mut count.failed }) += 1;
            }
            Err(why) => {
                println!("{runtime:<28}skipped: {why}");
                count.skipped += 1;
            }
        }
    }
    Ok(())
}

/// The binary itself, or the component inside it; `file` is the component that it finds beside it.
fn native(device: &str, file: &str) -> Result<Made> {
    let place = target().join("release");
    let name = format!("mwa{}", std::env::consts::EXE_SUFFIX);
    let folder_here = folder().join("beside").join(file);
    fs::create_dir_all(&folder_here).map_err(|error| error.to_string())?;
    let copy = |from: PathBuf, to: &str| {
        fs::copy(&from, folder_here.join(to)).map_err(|error| format!("{}: {error}", from.display()))
    };
    copy(place.join(&name), &name)?;
    copy(folder().join(file), "mwa.component.wasm")?;
    let merged = folder_here.join("merged");
    let mut merge = Command::new(folder_here.join(&name));
    merge.args(["merge", SAMPLE, "--force", "--json", "--device", device, "-o"]).arg(&merged);
    merge.current_dir(root());
    let report: Value = serde_json::from_str(&output(merge)?).map_err(|error| error.to_string())?;
    let sample = report["outputs"][0]["blake3"].as_str().unwrap_or_default().to_owned();
    Ok(Made { sample, vectors: Err("by cargo test") })
}

/// Where npm puts programs.
fn install() -> Result<PathBuf> {
    let js = folder().join("js");
    fs::create_dir_all(&js).map_err(|error| error.to_string())?;
    let mut npm = Command::new("npm");
    npm.args(["install", "--no-audit", "--no-fund", "--no-save", "--prefix"]).arg(&js).args(NPM);
    output(npm)?;
    Ok(js.join("node_modules/.bin"))
}

fn transpile(bin: &Path, component: &Path) -> Result<PathBuf> {
    let js = folder().join("js/component");
    let mut jco = Command::new(bin.join("jco"));
    jco.arg("transpile").arg(component).args(["--name", "mwa", "-o"]).arg(&js);
    output(jco)?;
    fs::write(js.join("package.json"), "{\"type\": \"module\"}\n").map_err(|error| error.to_string())?;
    Ok(js)
}

fn javascript(program: &Path, face: &str, path: &Path) -> Result<Made> {
    let mut runner = Command::new(program);
    if program.ends_with("deno") {
        // jco's JavaScript asks for it
        runner.args(["run", "--quiet", "--allow-read", "--allow-env=JCO_DEBUG"]);
    }
    runner.arg("tests/runner.mjs").args([face.as_ref(), path.as_os_str()]);
    told(runner)
}

fn java() -> Result<Made> {
    let (java, classes) = crate::java::classes()?;
    let mut runner = Command::new(java);
    runner.arg("-cp").arg(classes).arg("mwa.Vectors").current_dir(root().join("bindings/java"));
    told(runner)
}

fn wasmtime_py(component: &Path) -> Result<Made> {
    let python = match python("requirements-wasm.txt")? {
        Python::Ready(python) => python,
        Python::Missing(why) => return Err(why),
    };
    let mut runner = Command::new(python);
    runner.arg("tests/runner.py").arg(component);
    told(runner)
}

/// The host of a hundred lines, which merges a run from disk to disk.
fn module_py() -> Result<Made> {
    let python = match python("requirements-wasm.txt")? {
        Python::Ready(python) => python,
        Python::Missing(why) => return Err(why),
    };
    let merged = folder().join("module-py");
    let _ = fs::remove_dir_all(&merged);
    let mut host = Command::new(python);
    host.arg("wasm/module.py").arg(folder().join("mwa.module.wasm")).arg(SAMPLE).arg(&merged);
    host.current_dir(root());
    let told = output(host)?;
    let hash = told.split_whitespace().last().ok_or("wasm/module.py printed no hash")?;
    // the run was named from here, and the report is read from the output
    let report = fs::read_to_string(merged.join("mwa-report.json")).map_err(|error| error.to_string())?;
    let report: Value = serde_json::from_str(&report).map_err(|error| error.to_string())?;
    let is_there = |input: &Value| input["path"].as_str().is_some_and(|way| merged.join(way).is_dir());
    if !report["inputs"].as_array().is_some_and(|inputs| inputs.iter().all(is_there)) {
        return Err("the report of wasm/module.py does not lead to its inputs".into());
    }
    Ok(Made { sample: hash.into(), vectors: Err("the sample alone") })
}

/// The last line of a runner, which is JSON; what it says of failures is shown.
fn told(mut runner: Command) -> Result<Made> {
    let done = runner
        .current_dir(root())
        .output()
        .map_err(|error| format!("{:?}: {error}", runner.get_program()))?;
    let text = String::from_utf8_lossy(&done.stdout);
    let (failures, last) = text.trim_end().rsplit_once('\n').unwrap_or(("", text.trim_end()));
    println!("{failures}");
    read(last).map_err(|_| {
        let said = String::from_utf8_lossy(&done.stderr);
        format!("{:?}: {}", runner.get_program(), said.trim().lines().last().unwrap_or("no message"))
    })
}

/// What a runner tells in the end.
fn read(told: &str) -> Result<Made> {
    let made: Value = serde_json::from_str(told).map_err(|error| error.to_string())?;
    let number = |field: &str| made[field].as_u64().unwrap_or_default();
    let text = |field: &str| made[field].as_str().unwrap_or_default().to_owned();
    let vectors = Vectors { passed: number("passed"), failed: number("failed"), hash: text("vectors") };
    Ok(Made { sample: text("sample"), vectors: Ok(vectors) })
}
