//! The executors made of WebAssembly: the component in wasmtime, with SIMD and without, and the core module.

use std::path::PathBuf;

use mwa::{Float, Rank, Space};
use mwa_host::sandbox::{Checkpoint, Dtype, Head, Limits, Recipe, Sandbox, Weighing};
use serde_json::{Value, json};
use wasmtime::{Engine, Instance, Module, Store, WasmParams, WasmResults};

use crate::session::{CHUNK, head, index, told};
use crate::{Executor, Failure, Merge};

/// A file that `cargo xtask build component` makes.
///
/// # Errors
/// That it is not there.
pub fn built(name: &str) -> Result<Vec<u8>, String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let target = program.ancestors().nth(3).map(PathBuf::from).unwrap_or_default();
    let path = target.join("wasm").join(name);
    std::fs::read(&path)
        .map_err(|error| format!("{}: {error}; run cargo xtask build component", path.display()))
}

/// Open the component in this sandbox.
///
/// # Errors
/// That it is not built.
pub fn component(file: &str) -> Result<Box<dyn Executor>, String> {
    let sandbox = Sandbox::new(&built(file)?, Limits::default()).map_err(|error| error.to_string())?;
    Ok(Box::new(Component(sandbox)))
}

struct Component(Sandbox);

impl Executor for Component {
    fn merge(&self, merge: &Merge) -> Result<Vec<u8>, Failure> {
        let dtype = merge.dtype.map(|dtype| match dtype {
            Float::F32 => Dtype::F32,
            Float::BF16 => Dtype::Bf16,
            Float::F16 => Dtype::F16,
            other => panic!("the world has no {other:?}"),
        });
        let recipe = Recipe {
            weighing: Weighing::Explicit(merge.weights.clone()),
            space: merge.space.into(),
            dtype,
            allow_cross_run: true,
            allow_non_finite: merge.allow_non_finite,
            rewrite: true,
            chunk: Some(CHUNK),
            ..Recipe::default()
        };
        let mut checkpoints = checkpoints(&merge.inputs);
        for (checkpoint, config) in checkpoints.iter_mut().zip(&merge.configs) {
            checkpoint.config = Some(config.clone());
        }
        let merged = merge_files(&self.0, &checkpoints, &merge.inputs, &recipe);
        told(merge, merged.map_err(Failure::from))
    }
}

/// Files in memory as checkpoints.
#[must_use]
pub fn checkpoints(inputs: &[Vec<u8>]) -> Vec<Checkpoint> {
    let checkpoint = |(i, bytes): (usize, &Vec<u8>)| {
        let head = Head {
            name: "merged.safetensors".into(),
            bytes: head(bytes).to_vec(),
            length: bytes.len() as u64,
        };
        Checkpoint { name: format!("input {i}"), step: None, config: None, files: vec![head] }
    };
    inputs.iter().enumerate().map(checkpoint).collect()
}

/// Merge single files that are in memory, inside the sandbox.
///
/// # Errors
/// What the component reports.
pub fn merge_files(
    sandbox: &Sandbox,
    checkpoints: &[Checkpoint],
    inputs: &[Vec<u8>],
    recipe: &Recipe,
) -> mwa::Result<Vec<u8>> {
    let mut running = sandbox.open(checkpoints, recipe)?;
    let mut pieces = Vec::new();
    while let Some(job) = running.next()? {
        let chunk =
            |span: &mwa_host::sandbox::Span| &inputs[span.input as usize][index(span.start)..index(span.end)];
        let chunks: Vec<_> = job.reads.iter().map(chunk).collect();
        let piece = running.run(job.number, &chunks)?;
        pieces.extend(job.writes.first().map(|span| (index(span.start), piece)));
    }
    let output = running.outputs()?.remove(0);
    let mut merged = output.head;
    merged.resize(index(output.length), 0xaa);
    for (start, piece) in pieces {
        merged[start..start + piece.len()].copy_from_slice(&piece);
    }
    Ok(merged)
}

/// Open the core module through wasmtime's API for modules.
///
/// # Errors
/// That it is not built.
pub fn module(file: &str) -> Result<Box<dyn Executor>, String> {
    let engine = Engine::default();
    let module = Module::from_binary(&engine, &built(file)?).map_err(|error| error.to_string())?;
    if module.imports().len() > 0 {
        return Err("the core module has imports".into());
    }
    Ok(Box::new(Plain { engine, module }))
}

struct Plain {
    engine: Engine,
    module: Module,
}

impl Executor for Plain {
    fn merge(&self, merge: &Merge) -> Result<Vec<u8>, Failure> {
        told(merge, self.run(merge))
    }
}

impl Plain {
    fn run(&self, merge: &Merge) -> Result<Vec<u8>, Failure> {
        let mut store = Store::new(&self.engine, ());
        let instance = Instance::new(&mut store, &self.module, &[]).expect("it imports nothing");
        let mut guest = Guest { store, instance };
        let files = merge.inputs.iter().enumerate().map(|(i, bytes)| {
            let file =
                json!({ "name": "merged.safetensors", "head": head(bytes).len(), "length": bytes.len() });
            json!({ "name": format!("input {i}"), "config": merge.configs.get(i), "files": [file] })
        });
        let files: Vec<_> = files.collect();
        let dtype = merge.dtype.map(|dtype| dtype.dtype().to_string().to_lowercase());
        let request = json!({ "checkpoints": files, "recipe": {
            "weighing": { "explicit": merge.weights },
            "space": space(merge.space),
            "dtype": dtype,
            "allow_cross_run": true,
            "allow_non_finite": merge.allow_non_finite,
            "rewrite": true,
            "chunk": CHUNK,
        }});
        let request = request.to_string();
        let length = u32::try_from(request.len()).expect("a request is short").to_le_bytes();
        let mut bytes = [&length, request.as_bytes()].concat();
        merge.inputs.iter().for_each(|input| bytes.extend_from_slice(head(input)));
        let request = guest.pass(&bytes);
        let handle: u32 = guest.call("mwa_open", request);
        let opened = guest.answer();
        if handle == 0 {
            return Err(failure(&opened));
        }
        let mut pieces = Vec::new();
        while guest.call::<_, u32>("mwa_next", handle) == 1 {
            let job = guest.json();
            let mut chunks = Vec::new();
            for read in job["reads"].as_array().expect("reads are a list") {
                let bytes = &merge.inputs[number(&read["input"])];
                chunks.extend_from_slice(&bytes[number(&read["start"])..number(&read["end"])]);
            }
            let chunks = guest.pass(&chunks);
            let done: u32 = guest.call("mwa_run", (handle, number(&job["number"]) as u64, chunks));
            let answer = guest.answer();
            if done == 0 {
                return Err(failure(&answer));
            }
            pieces.extend(job["writes"].get(0).map(|write| (number(&write["start"]), answer)));
        }
        let answer = guest.answer();
        if !answer.is_empty() {
            return Err(failure(&answer));
        }
        let _: u32 = guest.call("mwa_state", handle);
        let length = number(&guest.json()["outputs"][0]["length"]);
        let _: u32 = guest.call("mwa_head", (handle, 0));
        let mut merged = guest.answer();
        merged.resize(length, 0xaa);
        for (start, piece) in pieces {
            merged[start..start + piece.len()].copy_from_slice(&piece);
        }
        Ok(merged)
    }
}

/// What is averaged, as the module's requests say it.
fn space(space: Space) -> Value {
    let rank = |rank| match rank {
        Rank::Inputs => json!("inputs"),
        Rank::Fixed(rank) => json!({ "fixed": rank }),
        Rank::Full => json!("full"),
        Rank::Energy(share) => json!({ "energy": share }),
    };
    match space {
        Space::Factors => json!("factors"),
        Space::Product(wanted) => json!({ "product": wanted.map(rank) }),
    }
}

/// An instance of the module; see `wasm/README.md` for its ABI.
struct Guest {
    store: Store<()>,
    instance: Instance,
}

impl Guest {
    fn call<P: WasmParams, R: WasmResults>(&mut self, name: &str, arguments: P) -> R {
        let function = self.instance.get_typed_func(&mut self.store, name).expect("the ABI has it");
        function.call(&mut self.store, arguments).expect("the module never traps")
    }

    fn pass(&mut self, bytes: &[u8]) -> u32 {
        let address: u32 = self.call("mwa_allocate", u32::try_from(bytes.len()).expect("vectors are small"));
        let memory = self.instance.get_memory(&mut self.store, "memory").expect("the module has a memory");
        memory.write(&mut self.store, address as usize, bytes).expect("it was allocated just now");
        address
    }

    fn answer(&mut self) -> Vec<u8> {
        let (address, length): (u32, u32) = (self.call("mwa_answer", ()), self.call("mwa_answer_length", ()));
        let memory = self.instance.get_memory(&mut self.store, "memory").expect("the module has a memory");
        memory.data(&self.store)[address as usize..][..length as usize].to_vec()
    }

    fn json(&mut self) -> Value {
        serde_json::from_slice(&self.answer()).expect("the module answers in JSON")
    }
}

fn number(value: &Value) -> usize {
    index(value.as_u64().expect("the module answers with a number"))
}

fn failure(answer: &[u8]) -> Failure {
    let answer: Value = serde_json::from_slice(answer).expect("a failure is JSON");
    let error = &answer["error"];
    let text = |field: &str| error[field].as_str().map(str::to_owned);
    let mut made = mwa::Error::new(mwa::ErrorKind::Usage, text("detail").unwrap_or_default());
    if let Some(file) = text("file") {
        made = made.file(file);
    }
    if let Some(tensor) = text("tensor") {
        made = made.tensor(tensor);
    }
    Failure { kind: text("kind").expect("each failure has a kind"), message: made.to_string() }
}
