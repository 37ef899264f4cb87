//! Run all vectors and the sample run through the component in wasmi.
//!
//!     cargo run --release --manifest-path wasm/wasmi/Cargo.toml -- mwa.plain.component.wasm
//!
//! Prints what failed, then one line of JSON: counts, and the SHA-256 over all outputs and of the sample run's merge.

mod host;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use serde_json::{Value as Json, json};
use sha2::{Digest as _, Sha256};

use host::{Failure, Input, Merger};

fn main() -> ExitCode {
    let component = std::env::args().nth(1).expect("the path of the component");
    let component = fs::read(component).expect("the component can be read");
    let mut run = Run {
        merger: Merger::new(&component).expect("a component"),
        hash: Sha256::new(),
        passed: 0,
        failed: 0,
    };
    let index = run.json("index.json");
    for case in list(&index["cases"]) {
        run.case(case);
    }
    run.products();
    for file in list(&index["hostile"]) {
        run.hostile(file);
    }
    let start = Instant::now();
    let sample = run.sample();
    let seconds = start.elapsed().as_secs_f64();
    let Run { hash, passed, failed, .. } = run;
    let (vectors, sample) = (hex(hash), hex(Sha256::new().chain_update(sample)));
    let told = json!({ "passed": passed, "failed": failed, "skipped": 0, "vectors": vectors, "sample": sample, "seconds": seconds });
    println!("{told}");
    ExitCode::from(u8::from(failed > 0))
}

struct Run {
    merger: Merger,
    hash: Sha256,
    passed: u64,
    failed: u64,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn list(json: &Json) -> &[Json] {
    json.as_array().map_or(&[], Vec::as_slice)
}

fn hex(hash: Sha256) -> String {
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Run {
    fn read(&self, file: &str) -> Vec<u8> {
        let path = root().join("tests/vectors").join(file);
        fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    fn json(&self, file: &str) -> Json {
        serde_json::from_slice(&self.read(file)).expect("vectors are JSON")
    }

    /// Count a result: the bytes are hashed, or the failure is the one expected.
    fn check(&mut self, name: &str, expected: Option<&str>, result: Result<Vec<u8>, Failure>) {
        let wrong = match (expected, result) {
            (None, Ok(bytes)) => {
                self.hash.update(bytes);
                None
            }
            (Some(kind), Err(failure)) if failure["kind"] == kind => None,
            (_, Ok(_)) => Some("did not fail".to_string()),
            (_, Err(failure)) => Some(failure.to_string()),
        };
        match wrong {
            None => self.passed += 1,
            Some(wrong) => {
                self.failed += 1;
                println!("{name}: {wrong}");
            }
        }
    }

    fn case(&mut self, case: &Json) {
        let name = case["case"].as_str().unwrap_or_default();
        let input = |(i, file): (usize, &Json)| {
            let bytes = self.read(file.as_str().unwrap_or_default());
            Input { name: format!("input {i}"), step: None, config: None, bytes }
        };
        let inputs: Vec<_> = list(&case["inputs"]).iter().enumerate().map(input).collect();
        let dtype = Some(&case["dtype"]).filter(|dtype| **dtype != "keep");
        let recipe = json!({ "weighing": { "explicit": case["weights"] }, "dtype": dtype, "rewrite": true,
            "allow-non-finite": case["non_finite"] == "allow", "chunk": 1000 });
        // what the plan can do, but no program would ask for
        let expected = if name == "no-tensors" { Some("input") } else { case["error"].as_str() };
        let merged = self.merger.merge(&inputs, &recipe);
        self.check(name, expected, merged);
    }

    fn products(&mut self) {
        let known = self.json("product/sha256.json");
        for case in list(&self.json("product/index.json")) {
            let name = case["name"].as_str().unwrap_or_default();
            let input = |(i, config): (usize, &Json)| Input {
                name: format!("input {i}"),
                step: None,
                config: Some(config.to_string()),
                bytes: self.read(&format!("product/{name}-{i}.safetensors")),
            };
            let inputs: Vec<_> = list(&case["configs"]).iter().enumerate().map(input).collect();
            for (asked, rank) in [
                ("inputs", json!("inputs")),
                ("1", json!({ "fixed": 1 })),
                ("full", json!("full")),
                ("energy 0.9", json!({ "energy": 0.9 })),
            ] {
                let recipe = json!({ "weighing": { "explicit": case["weights"] }, "space": { "product": rank }, "chunk": 1000 });
                let title = format!("{name} at rank {asked}");
                let merged = self.merger.merge(&inputs, &recipe).and_then(|bytes| {
                    let hash = hex(Sha256::new().chain_update(&bytes));
                    if known[&title] == hash {
                        Ok(bytes)
                    } else {
                        Err(json!(format!("{hash} is not {}", known[&title])))
                    }
                });
                self.check(&title, None, merged);
            }
        }
    }

    fn hostile(&mut self, file: &Json) {
        let name = file["file"].as_str().unwrap_or_default();
        let bytes = self.read(name);
        let start = &bytes[..bytes.len().min(512)];
        let size = self.merger.call("head-size", None, &[json!(start), json!(bytes.len())]);
        let read = size
            .map(|size| host::lift(&size).as_u64().unwrap_or_default() as usize)
            .and_then(|size| self.merger.call("inspect", None, &[json!(bytes[..size]), json!(bytes.len())]));
        self.check(name, file["error"].as_str(), read.map(|_| Vec::new()));
    }

    /// The sample run's merge, weighed by its logs.
    fn sample(&mut self) -> Vec<u8> {
        let run = root().join("examples/sample-run");
        let folders = fs::read_dir(&run).expect("the sample run is there").filter_map(Result::ok);
        let step = |name: String| name.strip_prefix("checkpoint-")?.parse::<u64>().ok();
        let mut steps: Vec<_> =
            folders.filter_map(|it| step(it.file_name().to_string_lossy().into())).collect();
        steps.sort_unstable();
        let file = |step: u64, name: &str| {
            fs::read(run.join(format!("checkpoint-{step}/{name}"))).expect("it is whole")
        };
        let text = |step: u64, name: &str| String::from_utf8(file(step, name)).expect("a text");
        let logs: Vec<_> = steps.iter().map(|step| text(*step, "trainer_state.json")).collect();
        let input = |&step: &u64| Input {
            name: format!("checkpoint-{step}"),
            step: Some(step),
            config: Some(text(step, "adapter_config.json")),
            bytes: file(step, "adapter_model.safetensors"),
        };
        let inputs: Vec<_> = steps.iter().map(input).collect();
        let options = json!({ "name": null, "goal": null, "smooth": null, "tolerance": 0, "strict": false });
        let logged = json!({ "logs": logs, "options": options, "scheme": "linear", "penalty": 0.8 });
        let merged = self.merger.merge(&inputs, &json!({ "weighing": { "logged": logged } }));
        merged.unwrap_or_else(|failure| panic!("the sample run: {failure}"))
    }
}
