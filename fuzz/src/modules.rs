//! The functions of the plain module: called in any order, with any handle, address and bytes, each answers, and a failure says why.

use mwa::Files as _;
use serde_json::{Value, json};

use super::files::{CONFIG, Memory, adapter, now};
use super::tape::Tape;

/// The module as it is, for this machine.
#[path = "../../wasm/module/src/lib.rs"]
mod module;

/// One merge, as far as its host knows it.
struct Merge {
    handle: u32,
    questions: Vec<Value>,
    job: Option<Value>,
}

pub(crate) fn check(bytes: &[u8]) {
    let mut tape = Tape(bytes);
    let files = run();
    let (mut merges, mut buffers) = (Vec::new(), Vec::new());
    while !tape.0.is_empty() {
        match tape.next() % 10 {
            0 => open(&good_request(&mut tape), &mut merges),
            1 => open(tape.rest(), &mut merges),
            2 => match tape.next() {
                // whoever asks for memory may give it back twice, or hand over what nobody gave
                0..64 => buffers.push(module::mwa_allocate(u32::from(tape.next()))),
                64..128 => module::mwa_free(usize::from(tape.next())),
                _ => free(buffers.pop()),
            },
            3 => odd_call(&mut tape),
            call => {
                let at = tape.choose(merges.len());
                let Some(merge) = merges.get_mut(at) else { continue };
                if call == 9 {
                    module::mwa_close(merges.swap_remove(at).handle);
                } else {
                    merge.call(call, &mut tape, &files);
                }
            }
        }
    }
    for merge in merges {
        module::mwa_close(merge.handle);
        assert_eq!(module::mwa_state(merge.handle), 0, "it is closed");
    }
    free(buffers);
}

/// Two checkpoints.
fn run() -> Memory {
    let mut run = Memory::default();
    for step in [1, 2] {
        let folder = format!("run/checkpoint-{step}");
        run.write(&format!("{folder}/adapter_config.json"), CONFIG.as_bytes());
        run.write(&format!("{folder}/adapter_model.safetensors"), &adapter(step));
    }
    run
}

fn good_request(tape: &mut Tape<'_>) -> Vec<u8> {
    let kind = tape.next();
    let request = json!({
        "verb": if kind & 1 == 0 { "merge" } else { "weights" },
        "paths": ["run"],
        "options": { "weights": [1, tape.next()], "space": if kind & 2 == 0 { "factors" } else { "product" } },
        "chunk": if kind & 4 == 0 { None } else { Some(8) },
    });
    request.to_string().into_bytes()
}

fn open(request: &[u8], merges: &mut Vec<Merge>) {
    let handle = module::mwa_open(given(request));
    answered(handle != 0);
    if handle != 0 {
        merges.push(Merge { handle, questions: Vec::new(), job: None });
    }
}

/// A call with a handle, and perhaps an address, that nobody gave.
fn odd_call(tape: &mut Tape<'_>) {
    let (call, handle) = (tape.next(), 1 << 31 | u32::from(tape.next()));
    let mut address = || if call & 64 == 0 { usize::from(tape.next()) } else { given(tape.rest()) };
    let status = match call % 9 {
        0 => module::mwa_state(handle),
        1 => module::mwa_head(handle, 0),
        2 => module::mwa_next(handle),
        3 => module::mwa_again(handle),
        4 => module::mwa_tell(handle, address()),
        5 => module::mwa_run(handle, u64::from(call), address()),
        6 => module::mwa_take(handle, u64::from(call), address()),
        7 => module::mwa_found(handle),
        _ => module::mwa_finish(handle, address()),
    };
    assert_eq!(status, 0, "there is no such merge");
    answered(false);
}

impl Merge {
    fn call(&mut self, call: u8, tape: &mut Tape<'_>, files: &Memory) {
        match call {
            4 | 5 => {
                let status = module::mwa_next(self.handle);
                let answer = answer();
                if status == 0 && answer.is_empty() {
                    return;
                }
                answered(status != 0);
                let next: Value = serde_json::from_slice(&answer).expect("what is next is JSON");
                if let Some(questions) = next["look"].as_array() {
                    self.questions.clone_from(questions);
                } else if status != 0 {
                    self.job = Some(next["work"].clone());
                }
            }
            6 => {
                let told = if tape.choose(4) == 1 { tape.rest().to_vec() } else { self.answers(files) };
                answered(module::mwa_tell(self.handle, given(&told)) != 0);
            }
            7 => {
                let is_wrong = tape.choose(4) == 1;
                let (number, chunks) = match &self.job {
                    _ if is_wrong => (u64::from(tape.next()), tape.rest().to_vec()),
                    Some(job) => (job["number"].as_u64().expect("it has one"), self.chunks(job, files)),
                    None => return,
                };
                answered(module::mwa_run(self.handle, number, given(&chunks)) != 0);
            }
            _ => {
                let is_done = match tape.choose(6) {
                    0 => module::mwa_state(self.handle),
                    1 => module::mwa_head(self.handle, u32::from(tape.next())),
                    2 => module::mwa_again(self.handle),
                    3 => module::mwa_finish(self.handle, given(tape.rest())),
                    4 => module::mwa_found(self.handle),
                    _ => module::mwa_take(self.handle, u64::from(tape.next()), given(tape.rest())),
                };
                answered(is_done != 0 || answer().is_empty());
            }
        }
    }

    /// The true answers to what is asked.
    fn answers(&self, files: &Memory) -> Vec<u8> {
        let mut bytes = Vec::new();
        let answer = |question: &Value| {
            let of = |kind: &str| question[kind].as_str();
            if let Some(path) = of("kind") {
                return match now(files.kind(path)).expect("it is in memory") {
                    mwa::files::Kind::File(size) => json!({ "file": size }),
                    mwa::files::Kind::Folder => json!("folder"),
                    _ => json!("missing"),
                };
            }
            if let Some(path) = of("list") {
                return json!({ "names": now(files.list(path)).expect("it is in memory") });
            }
            if let Some(path) = of("place") {
                return json!({ "place": path });
            }
            let read = &question["read"];
            let range = read[1].as_u64().expect("from")..read[2].as_u64().expect("to");
            let found = now(files.read(read[0].as_str().expect("a path"), range)).unwrap_or_default();
            bytes.extend_from_slice(&found);
            json!({ "bytes": found.len() })
        };
        let told = self.questions.iter().map(answer).collect::<Value>().to_string();
        let length = u32::try_from(told.len()).expect("it is short").to_le_bytes();
        [&length[..], told.as_bytes(), &bytes].concat()
    }

    /// The bytes that a job reads.
    fn chunks(&self, job: &Value, files: &Memory) -> Vec<u8> {
        assert_eq!(module::mwa_state(self.handle), 1);
        let state: Value = serde_json::from_slice(&answer()).expect("the state is JSON");
        let reads = job["reads"].as_array().expect("a job reads");
        let bytes = reads.iter().flat_map(|read| {
            let at = |key: &str| read[key].as_u64().expect("a number");
            let input = usize::try_from(at("file")).expect("it is small");
            let path = state["inputs"][input].as_str().expect("the path of an input");
            now(files.read(path, at("start")..at("end"))).expect("it is in memory").into_owned()
        });
        bytes.collect()
    }
}

/// Bytes in the module's memory.
fn given(bytes: &[u8]) -> usize {
    let address = module::mwa_allocate(u32::try_from(bytes.len()).expect("an example is short"));
    // SAFETY: the module has just reserved so many bytes there, and nobody else knows of them
    unsafe { core::ptr::copy_nonoverlapping(bytes.as_ptr(), address as *mut u8, bytes.len()) };
    address
}

fn free(addresses: impl IntoIterator<Item = usize>) {
    addresses.into_iter().for_each(|address| module::mwa_free(address));
}

/// What the last call says.
fn answer() -> Vec<u8> {
    // SAFETY: the answer stands until the next call, and is copied at once
    unsafe { core::slice::from_raw_parts(module::mwa_answer() as *const u8, module::mwa_answer_length()) }
        .to_vec()
}

/// A failure says in JSON what was wrong.
fn answered(is_done: bool) {
    if is_done {
        return;
    }
    let answer = answer();
    let failure: Value = serde_json::from_slice(&answer).expect("a failure is JSON");
    assert!(failure["error"]["code"].is_u64() && failure["error"]["detail"].is_string(), "{failure}");
    assert_ne!(failure["error"]["kind"], "bug", "{failure}");
}
