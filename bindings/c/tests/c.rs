//! The C face from C and C++: the header, the examples, every vector and hostile file, under AddressSanitizer and valgrind.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

#[cfg(not(unix))]
use std::fs::hard_link as link;
#[cfg(unix)]
use std::os::unix::fs::symlink as link;

use mwa_host::{MergeOptions, Options};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// Where this package lies.
fn here() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn root() -> PathBuf {
    here().join("../..").canonicalize().unwrap()
}

/// The shared library in `out`, under the names for the linker and for the start of a program.
fn library(out: &Path) -> PathBuf {
    let lib = out.join("lib");
    if fs::create_dir(&lib).is_ok() {
        // cargo put it where it put this test
        let is_mac = cfg!(target_os = "macos");
        let (made, names) = if is_mac {
            ("libmwa_c.dylib", ["libmwa.dylib", "libmwa.0.dylib"])
        } else {
            ("libmwa_c.so", ["libmwa.so", "libmwa.so.0"])
        };
        let made = std::env::current_exe().unwrap().with_file_name(made);
        for name in names {
            link(&made, lib.join(name)).unwrap();
        }
    }
    lib
}

#[test]
fn the_header_is_up_to_date() {
    let mut made = Vec::new();
    cbindgen::generate(here()).unwrap().write(&mut made);
    let made = String::from_utf8(made).unwrap();
    let path = here().join("include/mwa.h");
    if std::env::var_os("MWA_WRITE").is_some() {
        fs::write(&path, &made).unwrap();
    }
    assert!(
        fs::read_to_string(path).unwrap_or_default().replace('\r', "") == made,
        "include/mwa.h is stale: MWA_WRITE=1 cargo test -p mwa-c writes it"
    );
}

#[test]
fn the_pkg_config_file_has_the_version() {
    let text = fs::read_to_string(here().join("mwa.pc")).unwrap();
    assert!(text.contains(concat!("Version: ", env!("CARGO_PKG_VERSION"), "\n")));
}

/// Whether a Unix program is there; under `MWA_REQUIRE=c` it has to be.
fn has(program: &str) -> bool {
    let found = cfg!(unix) && Command::new(program).arg("--version").output().is_ok();
    let is_required =
        std::env::var("MWA_REQUIRE").is_ok_and(|names| names.split(',').any(|name| name == "c"));
    assert!(found || !is_required, "MWA_REQUIRE asks for C, but there is no {program}");
    if !found {
        println!("skipped: no {program}");
    }
    found
}

fn compile(compiler: &str, source: &str, out: &Path, more: &[&str]) -> PathBuf {
    let program = out.join(format!("{}-{compiler}", source.replace('/', "-")));
    let mut command = Command::new(compiler);
    command.args(["-g", "-O1", "-Wall", "-Wextra", "-Wpedantic", "-Werror"]).args(more);
    command.arg("-I").arg(here().join("include")).arg(here().join(source)).arg("-o").arg(&program);
    let lib = library(out);
    command.arg("-L").arg(&lib).arg("-lmwa").arg(format!("-Wl,-rpath,{}", lib.display()));
    let done = command.output().unwrap();
    assert!(done.status.success(), "{command:?}\n{}", String::from_utf8_lossy(&done.stderr));
    program
}

const SANITIZE: &[&str] = &["-std=c11", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"];

#[test]
fn vectors_and_hostile_files_under_address_sanitizer() {
    for compiler in ["gcc", "clang"].into_iter().filter(|compiler| has(compiler)) {
        let work = tempfile::tempdir().unwrap();
        let runner = compile(compiler, "tests/runner.c", work.path(), SANITIZE);
        conform(Command::new(runner), work.path(), 1200);
    }
}

#[test]
fn vectors_and_hostile_files_under_valgrind() {
    if has("gcc") && has("valgrind") {
        let work = tempfile::tempdir().unwrap();
        let runner = compile("gcc", "tests/runner.c", work.path(), &["-std=c11"]);
        let mut valgrind = Command::new("valgrind");
        // std keeps an interior pointer to the handle of a thread that it did not start: "possibly" lost, once
        valgrind.args(["-q", "--error-exitcode=99", "--leak-check=full", "--errors-for-leak-kinds=definite"]);
        conform(
            {
                valgrind.arg(runner);
                valgrind
            },
            work.path(),
            20,
        );
    }
}

/// Every vector, every hostile file, the sample run and `failures` rounds of failing calls, through one process.
fn conform(mut runner: Command, work: &Path, failures: u32) {
    let vectors = root().join("tests/vectors");
    let index: Value =
        serde_json::from_str(&fs::read_to_string(vectors.join("index.json")).unwrap()).unwrap();
    let cases = index["cases"].as_array().unwrap();
    // an array of 16 inputs is enough for the runner
    let cases: Vec<_> = cases
        .iter()
        .filter(|case| {
            case["inputs"].as_array().unwrap().len() <= 16
                && case["inputs"].as_array().unwrap().len() == case["weights"].as_array().unwrap().len()
                && case["weights"].as_array().unwrap().iter().all(Value::is_number)
        })
        .collect();
    assert!(cases.len() > 100, "most cases fit the runner");
    let out = |i: usize| work.join(format!("{i}.safetensors"));
    let place = |file: &Value| vectors.join(file.as_str().unwrap()).display().to_string();
    let mut lines = Vec::new();
    for (i, case) in cases.iter().enumerate() {
        let inputs = case["inputs"].as_array().unwrap();
        let options = json!({
            "dtype": case["dtype"],
            "allow_non_finite": case["non_finite"] == "allow",
            "allow_cross_run": true,
            "rewrite": true,
        });
        let mut line = format!("plan\t{}\t{options}\t{}", out(i).display(), inputs.len());
        for (weight, file) in case["weights"].as_array().unwrap().iter().zip(inputs) {
            line += &format!("\t{weight}\t{}\t", place(file));
        }
        lines.push(line);
    }
    let hostile = index["hostile"].as_array().unwrap();
    for case in hostile {
        lines.push(format!(
            "plan\t{}\t{{\"allow_non_finite\": true, \"rewrite\": true}}\t1\t1\t{}\t",
            work.join("hostile").display(),
            place(&case["file"])
        ));
    }
    let products = products(&vectors, work);
    lines.extend(products.iter().map(|(line, ..)| line.clone()));
    // what the command line refuses: adapters of two runs, and of two alphas
    let alpha = |alpha: u32| json!({"peft_type": "LORA", "r": 3, "lora_alpha": alpha});
    for alphas in [[6, 6], [6, 12]] {
        let file = |i: usize| vectors.join(format!("product/two-runs-{i}.safetensors")).display().to_string();
        let inputs = (0..2).map(|i| format!("\t0.5\t{}\t{}", file(i), alpha(alphas[i]))).collect::<String>();
        lines.push(format!("plan\t{}\t{{}}\t2{inputs}", work.join("refused").display()));
    }
    let run = root().join("examples/sample-run");
    lines.push(format!("run\t{}\t{{\"last\": 4}}\t{}", work.join("run").display(), run.display()));
    lines.push(format!("fail\t{failures}"));
    let done = feed(&mut runner, &(lines.join("\n") + "\n"));
    let said = String::from_utf8_lossy(&done.stdout);
    assert!(done.status.success(), "{}\n{said}\n{}", done.status, String::from_utf8_lossy(&done.stderr));
    let answers: Vec<_> = said.lines().collect();
    assert_eq!(answers.len(), lines.len());
    for (i, (case, answer)) in cases.iter().zip(&answers).enumerate() {
        // what a plan of sums has no fault to find with, but no merge of checkpoints takes
        let is_empty = case["case"] == "no-tensors";
        match case["error"].as_str().or(is_empty.then_some("input")) {
            Some(kind) => {
                assert_eq!(answer.split('\t').next(), Some(kind), "{case} {answer}");
                let tensor = case["tensor"].as_str().unwrap_or_default();
                assert!(answer.contains(tensor), "{case} {answer}");
            }
            None => {
                assert_eq!(*answer, "ok", "{case}");
                assert_eq!(
                    tensors(&out(i)),
                    tensors(&vectors.join(case["output"].as_str().unwrap())),
                    "{case}"
                );
            }
        }
    }
    for (case, answer) in hostile.iter().zip(&answers[cases.len()..]) {
        let is_empty = case["tensors"].as_array().is_some_and(Vec::is_empty);
        let kind = case["error"].as_str().unwrap_or(if is_empty { "input" } else { "ok" });
        assert_eq!(answer.split('\t').next(), Some(kind), "{case} {answer}");
        let says = case["says"].as_str().unwrap_or_default().to_lowercase();
        assert!(answer.to_lowercase().contains(&says), "{case} {answer}");
    }
    for ((line, out, hash), answer) in products.iter().zip(&answers[cases.len() + hostile.len()..]) {
        assert_eq!(*answer, "ok", "{line}");
        let made: String =
            Sha256::digest(fs::read(out).unwrap()).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(made, *hash, "{line}");
    }
    let refused = &answers[answers.len() - 4..answers.len() - 2];
    assert!(refused[0].starts_with("cross-run\t"), "{}", refused[0]);
    assert!(
        refused[1].starts_with("config\t") && refused[1].contains("lora_alpha is 12, but 6"),
        "{}",
        refused[1]
    );
    assert_eq!(answers[answers.len() - 2..], ["ok", "ok"]);
    let mut options = Options { inputs: vec![run], ..Options::default() };
    options.choose.select.last = Some(4);
    mwa_host::merge(&options, &MergeOptions::default(), &work.join("native"), &()).unwrap();
    let merged = |folder: &str| fs::read(work.join(folder).join("adapter_model.safetensors")).unwrap();
    assert!(merged("run") == merged("native"), "C and Rust give other bytes");
}

/// The merges in product space that are written down: a line for the runner, where it writes, and the hash of that.
fn products(vectors: &Path, work: &Path) -> Vec<(String, PathBuf, String)> {
    let read = |name: &str| -> Value {
        serde_json::from_str(&fs::read_to_string(vectors.join("product").join(name)).unwrap()).unwrap()
    };
    let (hashes, mut lines) = (read("sha256.json"), Vec::new());
    for case in read("index.json").as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        for (rank, options) in [
            ("1", json!({"space": "product", "rank": 1})),
            ("full", json!({"space": "product", "rank": "full"})),
            ("energy 0.9", json!({"space": "product", "energy": 0.9})),
        ] {
            let (weights, configs) =
                (case["weights"].as_array().unwrap(), case["configs"].as_array().unwrap());
            let out = work.join(format!("{name}-{rank}.safetensors"));
            let mut line = format!("plan\t{}\t{options}\t{}", out.display(), configs.len());
            for (i, (weight, config)) in weights.iter().zip(configs).enumerate() {
                let file = vectors.join(format!("product/{name}-{i}.safetensors"));
                line += &format!("\t{weight}\t{}\t{config}", file.display());
            }
            lines.push((line, out, hashes[&format!("{name} at rank {rank}")].as_str().unwrap().to_owned()));
        }
    }
    assert!(lines.len() > 20);
    lines
}

/// Name, dtype, shape and bytes of each tensor.
fn tensors(path: &Path) -> Vec<(String, String, Vec<u8>)> {
    let file = fs::read(path).unwrap();
    let header = mwa::safetensors::Header::parse(&file, file.len() as u64).unwrap();
    let tensor = |tensor: &mwa::safetensors::Tensor| {
        let range = usize::try_from(tensor.range.start).unwrap()..usize::try_from(tensor.range.end).unwrap();
        (tensor.name.clone(), format!("{} {:?}", tensor.dtype, tensor.shape), file[range].to_vec())
    };
    let mut tensors: Vec<_> = header.tensors().iter().map(tensor).collect();
    tensors.sort();
    tensors
}

fn feed(command: &mut Command, input: &str) -> Output {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut pipe = child.stdin.take().unwrap();
    let input = input.to_owned();
    let writer = std::thread::spawn(move || pipe.write_all(input.as_bytes()));
    let done = child.wait_with_output().unwrap();
    // a runner that died is judged by its status
    let _ = writer.join().unwrap();
    done
}

/// BLAKE3 of the merge of the sample run, on every runtime.
const BLAKE3: &str = "7e2717852355ddf7431ccf51a06072d54e7d782248adc2a92c980644e04e9f2b";

#[test]
fn the_examples_work() {
    let sanitize = &SANITIZE[1..];
    for (c, cpp) in [("gcc", "g++"), ("clang", "clang++")] {
        if !has(c) || !has(cpp) {
            continue;
        }
        let work = tempfile::tempdir().unwrap();
        let merge = compile(c, "examples/merge.c", work.path(), &[&["-std=c11"], sanitize].concat());
        let average =
            compile(cpp, "examples/average.cpp", work.path(), &[&["-std=c++17"], sanitize].concat());
        // only the linker needs the name without a number
        let for_linker = if cfg!(target_os = "macos") { "lib/libmwa.dylib" } else { "lib/libmwa.so" };
        fs::remove_file(work.path().join(for_linker)).unwrap();

        let run = root().join("examples/sample-run");
        let done = Command::new(&merge).args([&run, &work.path().join("merged")]).output().unwrap();
        let report: Value = serde_json::from_slice(&done.stdout).expect("the example prints the report");
        assert!(done.status.success() && report["inputs"].as_array().unwrap().len() == 5);
        assert_eq!(report["outputs"][0]["blake3"], BLAKE3);
        let again = Command::new(&merge).args([&run, &work.path().join("merged")]).output().unwrap();
        assert!(String::from_utf8_lossy(&again.stderr).contains("output: "), "{again:?}");

        let inputs = [950, 1000].map(|step| run.join(format!("checkpoint-{step}/adapter_model.safetensors")));
        let out = work.path().join("average.safetensors");
        let done = Command::new(average).arg(&out).args(&inputs).output().unwrap();
        assert!(done.status.success(), "{done:?}");
        assert_eq!(tensors(&out).len(), tensors(&inputs[0]).len());
    }
}
