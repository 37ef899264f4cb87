//! The executors made of WebAssembly: the component in wasmtime, with SIMD and without, and the core module.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use mwa::border;
use mwa_host::sandbox::{Answer, Limits, Question, Sandbox, Span, Step, Verb};
use serde_json::{Map, Value, json};
use wasmtime::{Engine, Instance, Module, Store, WasmParams, WasmResults};

use crate::offered::{CHUNK, Files, answer, assembled, heard, index, offered, told};
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
        let (files, paths) = offered(merge);
        let options = Value::from(told(merge)).to_string();
        heard(merge, merge_files(&self.0, &files, &paths, &options, CHUNK).map_err(Failure::from))
    }
}

/// What files in memory answer to the component.
#[must_use]
pub fn answered(files: &Files, question: &Question) -> Answer {
    answer(files, &question.into()).into()
}

/// Merge files that are in memory, inside the sandbox; the first output.
///
/// # Errors
/// What the component reports.
pub fn merge_files(
    sandbox: &Sandbox,
    files: &Files,
    paths: &[String],
    options: &str,
    chunk: u32,
) -> mwa::Result<Vec<u8>> {
    let mut session = sandbox.open(Verb::Merge, paths, options, Some(chunk), true)?;
    let mut inputs = Vec::new();
    let mut pieces = Vec::new();
    while let Some(step) = session.next()? {
        let job = match step {
            Step::Look(questions) => {
                let answers: Vec<_> = questions.iter().map(|question| answered(files, question)).collect();
                session.tell(&answers)?;
                continue;
            }
            Step::Work(job) => job,
        };
        if inputs.is_empty() {
            inputs = session.inputs()?;
        }
        let chunk = |span: &Span| &files[&inputs[span.file as usize]][index(span.start)..index(span.end)];
        let chunks: Vec<_> = job.reads.iter().map(chunk).collect();
        let piece = session.run(job.number, &chunks)?;
        pieces.extend(job.writes.first().map(|span| (index(span.start), piece)));
    }
    let output = session.outputs()?.remove(0);
    Ok(assembled(output.head, output.length, pieces))
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
        heard(merge, self.run(merge))
    }
}

impl Plain {
    fn run(&self, merge: &Merge) -> Result<Vec<u8>, Failure> {
        let mut guest = Guest::of(&self.engine, &self.module).expect("it imports nothing");
        let (files, paths) = offered(merge);
        let request = json!({ "paths": paths, "options": told(merge), "chunk": CHUNK });
        let request = guest.pass(request.to_string().as_bytes());
        let handle: u32 = guest.call("mwa_open", request);
        let opened = guest.answer();
        if handle == 0 {
            return Err(failure(&opened));
        }
        let mut inputs = Value::Null;
        let mut pieces = Vec::new();
        while guest.call::<_, u32>("mwa_next", handle) == 1 {
            let step = guest.json();
            if let Some(questions) = step["look"].as_array() {
                let answers = guest.pass(&answers(|question| answer(&files, question), questions));
                if guest.call::<_, u32>("mwa_tell", (handle, answers)) == 0 {
                    return Err(failure(&guest.answer()));
                }
                continue;
            }
            let job = &step["work"];
            if inputs.is_null() {
                let _: u32 = guest.call("mwa_state", handle);
                inputs = guest.json()["inputs"].take();
            }
            let mut chunks = Vec::new();
            for read in job["reads"].as_array().expect("reads are a list") {
                let bytes = &files[inputs[number(&read["file"])].as_str().expect("inputs are paths")];
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
        Ok(assembled(guest.answer(), length as u64, pieces))
    }
}

/// Answers to the module's questions, as `mwa_tell` takes them.
fn answers(look: impl Fn(&border::Question) -> border::Answer, questions: &[Value]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let answers = questions.iter().map(|question| {
        let path = |tag: &str| question[tag].as_str().map(String::from);
        let read = &question["read"];
        let question = path("kind")
            .map(border::Question::Kind)
            .or_else(|| path("list").map(border::Question::List))
            .or_else(|| path("place").map(border::Question::Place));
        let question = question.unwrap_or_else(|| {
            let path = read[0].as_str().expect("there are four questions").to_owned();
            border::Question::Read(path, number(&read[1]) as u64, number(&read[2]) as u64)
        });
        match look(&question) {
            border::Answer::File(size) => json!({ "file": size }),
            border::Answer::Folder => json!("folder"),
            border::Answer::Other => json!("other"),
            border::Answer::Missing => json!("missing"),
            border::Answer::Names(names) => json!({ "names": names }),
            border::Answer::Place(place) => json!({ "place": place }),
            border::Answer::Bytes(read) => {
                bytes.extend_from_slice(&read);
                json!({ "bytes": read.len() })
            }
            border::Answer::Failed(detail, help) => json!({ "failed": [detail, help] }),
        }
    });
    let json = answers.collect::<Value>().to_string();
    let length = u32::try_from(json.len()).expect("answers are short").to_le_bytes();
    [&length, json.as_bytes(), &bytes].concat()
}

/// An instance of the module; see `wasm/README.md` for its ABI.
struct Guest {
    store: Store<()>,
    instance: Instance,
}

impl Guest {
    /// Of a module that imports nothing.
    fn of(engine: &Engine, module: &Module) -> Option<Self> {
        let mut store = Store::new(engine, ());
        let instance = Instance::new(&mut store, module, &[]).ok()?;
        Some(Self { store, instance })
    }

    fn state(&mut self, handle: u32) -> Value {
        let _: u32 = self.call("mwa_state", handle);
        self.json()
    }

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
    error(answer).into()
}

/// What the module says is wrong.
fn error(answer: &[u8]) -> mwa::Error {
    let answer: Value = serde_json::from_slice(answer).expect("a failure is JSON");
    let told = &answer["error"];
    let text = |field: &str| told[field].as_str().map(str::to_owned);
    let kind = mwa::ErrorKind::ALL.into_iter().find(|kind| text("kind").as_deref() == Some(kind.name()));
    let mut made =
        mwa::Error::new(kind.expect("each failure has a kind"), text("detail").unwrap_or_default());
    if let Some(file) = text("file") {
        made = made.file(file);
    }
    if let Some(tensor) = text("tensor") {
        made = made.tensor(tensor);
    }
    if let Some(help) = text("help") {
        made = made.help(help);
    }
    made
}

/// Merge a run on disk through the core module, into the folder `out`, as a host of 70 lines would.
///
/// # Errors
/// What the module reports; [`mwa::ErrorKind::Device`] when it is not built.
///
/// # Panics
/// If the disk fails.
pub fn merge_run(file: &str, paths: &[String], options: &Map<String, Value>, out: &Path) -> mwa::Result<()> {
    static COMPILED: OnceLock<(Engine, Module)> = OnceLock::new();
    let module = built(file).map_err(|why| mwa::Error::new(mwa::ErrorKind::Device, why))?;
    let (engine, module) = COMPILED.get_or_init(|| {
        let engine = Engine::default();
        let module = Module::from_binary(&engine, &module).expect("it is a module");
        (engine, module)
    });
    let mut guest = Guest::of(engine, module).expect("it imports nothing");
    let request = json!({ "paths": paths, "options": options }).to_string();
    let request = guest.pass(request.as_bytes());
    let handle: u32 = guest.call("mwa_open", request);
    let checked =
        |guest: &mut Guest, status: u32| if status == 1 { Ok(()) } else { Err(error(&guest.answer())) };
    checked(&mut guest, handle.min(1))?;
    let mut outputs: Vec<(String, Vec<u8>)> = Vec::new();
    let open = |guest: &mut Guest| -> Vec<(String, Vec<u8>)> {
        let described = guest.state(handle)["outputs"].take();
        let described = described.as_array().expect("outputs are a list").iter().enumerate();
        let open = |(i, it): (usize, &Value)| {
            let _: u32 = guest.call("mwa_head", (handle, u32::try_from(i).expect("few files")));
            let mut bytes = guest.answer();
            bytes.resize(number(&it["length"]), 0);
            (it["name"].as_str().expect("outputs have names").to_owned(), bytes)
        };
        described.map(open).collect()
    };
    while guest.call::<_, u32>("mwa_next", handle) == 1 {
        let step = guest.json();
        if let Some(questions) = step["look"].as_array() {
            let told = guest.pass(&answers(on_disk, questions));
            let told: u32 = guest.call("mwa_tell", (handle, told));
            checked(&mut guest, told)?;
            continue;
        }
        let (job, inputs) = (&step["work"], texts_of(&guest.state(handle)["inputs"]));
        let mut chunks = Vec::new();
        for read in job["reads"].as_array().expect("reads are a list") {
            let bytes = fs::read(&inputs[number(&read["file"])]).unwrap();
            chunks.extend_from_slice(&bytes[number(&read["start"])..number(&read["end"])]);
        }
        let chunks = guest.pass(&chunks);
        let done: u32 = guest.call("mwa_run", (handle, number(&job["number"]) as u64, chunks));
        let merged = guest.answer();
        if done == 0 {
            if guest.call::<_, u32>("mwa_again", handle) == 0 {
                return Err(error(&merged));
            }
            outputs.clear();
            continue;
        }
        let mut rest = merged.as_slice();
        for write in job["writes"].as_array().expect("writes are a list") {
            if outputs.is_empty() {
                outputs = open(&mut guest);
            }
            let range = number(&write["start"])..number(&write["end"]);
            let (piece, after) = rest.split_at(range.len());
            outputs[number(&write["file"])].1[range].copy_from_slice(piece);
            rest = after;
        }
    }
    let last = guest.answer();
    if !last.is_empty() {
        return Err(error(&last));
    }
    if outputs.is_empty() {
        outputs = open(&mut guest);
    }
    fs::create_dir_all(out).unwrap();
    let state = guest.state(handle);
    let beside = |name: &str, bytes: &[u8]| fs::write(out.join(name), bytes).unwrap();
    for it in state["texts"].as_array().expect("texts are a list") {
        beside(it["name"].as_str().expect("a name"), it["content"].as_str().expect("a text").as_bytes());
    }
    for it in state["companions"].as_array().expect("companions are a list") {
        let bytes = fs::read(it["path"].as_str().expect("a path")).unwrap();
        beside(it["name"].as_str().expect("a name"), &bytes);
    }
    let rows = state["report"]["inputs"].as_array().expect("a report has inputs").iter();
    let parent = out.parent().expect("it lies beside the run").display().to_string();
    let way = |row: &Value| row["name"].as_str().expect("rows have names").replacen(&parent, "..", 1);
    let ending = json!({ "paths": rows.map(way).collect::<Vec<_>>() });
    let ending = guest.pass(ending.to_string().as_bytes());
    let finished: u32 = guest.call("mwa_finish", (handle, ending));
    checked(&mut guest, finished).inspect_err(|_| fs::remove_dir_all(out).unwrap())?;
    for it in guest.json().as_array().expect("texts are a list") {
        let (name, text) = (it["name"].as_str().expect("a name"), it["content"].as_str().expect("a text"));
        fs::write(out.join(name), text).unwrap();
    }
    for (name, bytes) in outputs {
        fs::write(out.join(name), bytes).unwrap();
    }
    Ok(())
}

fn on_disk(question: &border::Question) -> border::Answer {
    use border::{Answer, Question};
    match question {
        Question::Kind(path) => match fs::metadata(path) {
            Ok(it) if it.is_dir() => Answer::Folder,
            Ok(it) if it.is_file() => Answer::File(it.len()),
            Ok(_) => Answer::Other,
            Err(_) => Answer::Missing,
        },
        Question::List(path) => {
            let names = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name());
            Answer::Names(names.map(|name| name.into_string().unwrap()).collect())
        }
        Question::Place(path) => Answer::Place(fs::canonicalize(path).unwrap().display().to_string()),
        Question::Read(path, start, end) => {
            let bytes = fs::read(path).unwrap();
            let end = index(*end).min(bytes.len());
            Answer::Bytes(bytes[index(*start).min(end)..end].to_vec())
        }
    }
}

fn texts_of(list: &Value) -> Vec<String> {
    let list = list.as_array().expect("it is a list").iter();
    list.map(|text| text.as_str().expect("of texts").to_owned()).collect()
}
