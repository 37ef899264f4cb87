//! The core as a plain module for runtimes without components: numbers and JSON in, numbers and JSON out.
//!
//! `wasm/README.md` documents the ABI. In short: [`mwa_allocate`] room in the module's memory, copy bytes there, call, and
//! read the answer at [`mwa_answer`], [`mwa_answer_length`]; it stands until the next call. Memory that is passed to a call
//! belongs to the module from then on. Every failure is an answer, in JSON; a trap is a bug.
#![cfg_attr(target_family = "wasm", no_std)]

extern crate alloc;

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::cell::RefCell;

use mwa::border::{Answer, Ending, Job, Order, Session, Step};
use mwa::options::Verb;
use mwa::report::{is_loaded, refuse_newer};
use mwa::{Error, ErrorKind, Options, Readers, Report, Result, Write};
use serde::Deserialize;
use serde_json::{Map, Value, json};

#[cfg(target_family = "wasm")]
#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

/// A panic is a bug of ours: the instance traps, and the host reports it.
#[cfg(target_family = "wasm")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    core::arch::wasm32::unreachable()
}

/// All that lives between calls.
#[derive(Default)]
struct State {
    sessions: BTreeMap<u32, Session>,
    last: u32,
    answer: Vec<u8>,
    /// buffers that the host fills, by address
    buffers: BTreeMap<usize, Vec<u8>>,
}

struct Cell(RefCell<State>);

// SAFETY: the module has one thread; nothing here starts another, and it is built without shared memory.
unsafe impl Sync for Cell {}

static STATE: Cell = Cell(RefCell::new(State {
    sessions: BTreeMap::new(),
    last: 0,
    answer: Vec::new(),
    buffers: BTreeMap::new(),
}));

/// Reserve `length` bytes for the host to fill; the address, or 0 if memory is out. Give it to a call, or to [`mwa_free`].
#[unsafe(no_mangle)]
pub extern "C" fn mwa_allocate(length: u32) -> usize {
    let mut buffer = Vec::new();
    let length = length as usize;
    if buffer.try_reserve_exact(length.max(1)).is_err() {
        return 0;
    }
    buffer.resize(length, 0);
    let address = buffer.as_mut_ptr() as usize;
    STATE.0.borrow_mut().buffers.insert(address, buffer);
    address
}

/// Give back memory that was passed to no call.
#[unsafe(no_mangle)]
pub extern "C" fn mwa_free(address: usize) {
    STATE.0.borrow_mut().buffers.remove(&address);
}

/// Where the answer of the last call is.
#[unsafe(no_mangle)]
pub extern "C" fn mwa_answer() -> usize {
    STATE.0.borrow().answer.as_ptr() as usize
}

/// How long that answer is, in bytes.
#[unsafe(no_mangle)]
pub extern "C" fn mwa_answer_length() -> usize {
    STATE.0.borrow().answer.len()
}

/// Open a merge, by a request in JSON; its handle, or 0 for a failure.
#[unsafe(no_mangle)]
pub extern "C" fn mwa_open(request: usize) -> u32 {
    STATE.0.borrow_mut().answer(|state| {
        let Request { verb, paths, options, chunk, hashed_outside, report } = parse(&state.take(request)?)?;
        let verb = match verb.as_deref() {
            None | Some("merge") => Verb::Merge,
            Some("weights") => Verb::Weights,
            Some("inspect") => Verb::Inspect,
            Some("verify") => Verb::Verify,
            Some(_) => return Err(usage("the verb is none of merge, weights, inspect and verify")),
        };
        let order = Order { verb, paths, options: Options::read(&options)?, chunk, hashed_outside };
        let session = match (order.verb, report) {
            (Verb::Verify, None) => return Err(usage("what is merged again is told by a report")),
            (Verb::Verify, Some(report)) => {
                refuse_newer(&report.mwa)?;
                Session::again_by(report, order.paths, chunk, &Readers::ALL)?
            }
            _ => Session::open(order, &Readers::ALL)?,
        };
        state.last += 1;
        state.sessions.insert(state.last, session);
        Ok((state.last, Vec::new()))
    })
}

/// What is known by now, as JSON: 1, or 0 for a failure.
#[unsafe(no_mangle)]
pub extern "C" fn mwa_state(handle: u32) -> u32 {
    STATE.0.borrow_mut().answer(|state| Ok((1, text(&state_of(state.session(handle)?)))))
}

/// The head of an output file: 1, or 0 for a failure.
#[unsafe(no_mangle)]
pub extern "C" fn mwa_head(handle: u32, output: u32) -> u32 {
    STATE.0.borrow_mut().answer(|state| {
        let session = state.session(handle)?;
        let head = session.head(output as usize);
        Ok((1, head.ok_or_else(|| usage("there is no such output"))?))
    })
}

/// What to do next: 1 with questions or a job as JSON; 0 after the last, with an empty answer, or for a failure.
#[unsafe(no_mangle)]
pub extern "C" fn mwa_next(handle: u32) -> u32 {
    STATE.0.borrow_mut().answer(|state| {
        Ok(match state.session(handle)?.step()? {
            Step::Look(questions) => (1, text(&json!({ "look": questions }))),
            Step::Work(Job { number, reads, writes, module }) => {
                let (reads, writes) = (spans(&reads), spans(&writes));
                let mut work = json!({ "number": number, "reads": reads, "writes": writes });
                if let Some(module) = module {
                    work["module"] = module.into();
                }
                (1, text(&json!({ "work": work })))
            }
            Step::Done => (0, Vec::new()),
        })
    })
}

/// Answer the questions: a 4-byte little-endian length, so much JSON, then the bytes of all that was read; 1, or 0 for a failure.
#[unsafe(no_mangle)]
pub extern "C" fn mwa_tell(handle: u32, answers: usize) -> u32 {
    STATE.0.borrow_mut().answer(|state| {
        let answers = answers_in(&state.take(answers)?)?;
        state.session(handle)?.tell(answers)?;
        Ok((1, Vec::new()))
    })
}

/// Run a job on the bytes of its reads, one after the other: 1 with the bytes of its writes, or 0 for a failure.
#[unsafe(no_mangle)]
pub extern "C" fn mwa_run(handle: u32, number: u64, chunks: usize) -> u32 {
    STATE.0.borrow_mut().answer(|state| {
        let bytes = state.take(chunks)?;
        let session = state.session(handle)?;
        let mut rest = bytes.as_slice();
        let mut chunks = Vec::new();
        for length in session.lengths(number)? {
            let chunk = rest.split_off(..length).ok_or_else(|| usage("the chunks are too short"))?;
            chunks.push(chunk);
        }
        if !rest.is_empty() {
            return Err(usage("the chunks are too long"));
        }
        Ok((1, session.run(number, &chunks, mwa_wasm_fast::run)?))
    })
}

/// What the last job that was run has found, for [`mwa_take`] with other handles: 1, or 0 for a failure.
#[unsafe(no_mangle)]
pub extern "C" fn mwa_found(handle: u32) -> u32 {
    STATE.0.borrow_mut().answer(|state| Ok((1, state.session(handle)?.found().to_vec())))
}

/// Take in that a job was run elsewhere, and what it has found: 1, or 0 for a failure.
#[unsafe(no_mangle)]
pub extern "C" fn mwa_take(handle: u32, number: u64, found: usize) -> u32 {
    STATE.0.borrow_mut().answer(|state| {
        let found = state.take(found)?;
        state.session(handle)?.take(number, &found)?;
        Ok((1, Vec::new()))
    })
}

/// After a job that failed: 1 if the merge begins again, without the checkpoint whose values are bad; what was written is void.
#[unsafe(no_mangle)]
pub extern "C" fn mwa_again(handle: u32) -> u32 {
    STATE.0.borrow_mut().answer(|state| Ok((state.session(handle)?.again().into(), Vec::new())))
}

/// The texts to write beside the weights, from what the host has to tell (JSON): 1 with JSON, or 0 for a failure.
#[unsafe(no_mangle)]
pub extern "C" fn mwa_finish(handle: u32, ending: usize) -> u32 {
    STATE.0.borrow_mut().answer(|state| {
        let ending: Ending = parse(&state.take(ending)?)?;
        Ok((1, text(&texts(state.session(handle)?.finish(&ending)?))))
    })
}

/// Whether programs that load models read files of that name: 1 or 0.
#[unsafe(no_mangle)]
pub extern "C" fn mwa_is_loaded(name: usize) -> u32 {
    STATE.0.borrow_mut().answer(|state| {
        let name = state.take(name)?;
        Ok((is_loaded(&String::from_utf8_lossy(&name)).into(), Vec::new()))
    })
}

/// End a merge and give its memory back.
#[unsafe(no_mangle)]
pub extern "C" fn mwa_close(handle: u32) {
    STATE.0.borrow_mut().sessions.remove(&handle);
}

impl State {
    /// Keep what a call says as its answer: bytes, or a failure as JSON and 0.
    fn answer(&mut self, call: impl FnOnce(&mut Self) -> Result<(u32, Vec<u8>)>) -> u32 {
        let (status, answer) = call(self).unwrap_or_else(|error| (0, text(&failure(&error))));
        self.answer = answer;
        status
    }

    fn take(&mut self, address: usize) -> Result<Vec<u8>> {
        self.buffers.remove(&address).ok_or_else(|| usage("no memory was allocated at that address"))
    }

    fn session(&mut self, handle: u32) -> Result<&mut Session> {
        self.sessions.get_mut(&handle).ok_or_else(|| usage("there is no such merge"))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    #[serde(default)]
    verb: Option<String>,
    paths: Vec<String>,
    #[serde(default)]
    options: Map<String, Value>,
    #[serde(default)]
    chunk: Option<u32>,
    #[serde(default)]
    hashed_outside: bool,
    #[serde(default)]
    report: Option<Report>,
}

/// Answers, of which `{"bytes": N}` takes the next N of the bytes that follow the JSON.
fn answers_in(told: &[u8]) -> Result<Vec<Answer>> {
    let short = || usage("the answers are shorter than they say");
    let (length, rest) = told.split_first_chunk().ok_or_else(short)?;
    let (json, mut bytes) = rest.split_at_checked(u32::from_le_bytes(*length) as usize).ok_or_else(short)?;
    let answer = |told: Value| match told.get("bytes").and_then(Value::as_u64) {
        Some(count) => {
            let count = usize::try_from(count).map_err(|_| short())?;
            Ok(Answer::Bytes(bytes.split_off(..count).ok_or_else(short)?.to_vec()))
        }
        None => serde_json::from_value(told).map_err(|error| unreadable(&error)),
    };
    parse::<Vec<Value>>(json)?.into_iter().map(answer).collect()
}

fn spans(spans: &[Write]) -> Vec<Value> {
    let span = |it: &Write| json!({ "file": it.file, "start": it.range.start, "end": it.range.end });
    spans.iter().map(span).collect()
}

fn texts(texts: Vec<(String, String)>) -> Value {
    texts.into_iter().map(|(name, content)| json!({ "name": name, "content": content })).collect()
}

/// What a merge has to tell at any time.
fn state_of(session: &Session) -> Value {
    let outputs =
        session.outputs().map(|(name, head, length)| json!({ "name": name, "length": length, "head": head }));
    let companions = session.companions().iter();
    json!({
        "report": session.report(),
        "inspection": session.inspection(),
        "bytes": session.bytes(),
        "inputs": session.inputs(),
        "outputs": outputs.collect::<Vec<_>>(),
        "companions": companions.map(|(name, path)| json!({ "name": name, "path": path })).collect::<Vec<_>>(),
        "texts": texts(session.texts()),
    })
}

fn parse<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|error| unreadable(&error))
}

fn unreadable(error: &serde_json::Error) -> Error {
    Error::new(ErrorKind::Usage, alloc::format!("the request cannot be read: {error}"))
}

fn usage(detail: &'static str) -> Error {
    Error::new(ErrorKind::Usage, detail)
}

/// A failure as `mwa --json` prints it, with the number of its kind.
fn failure(error: &Error) -> Value {
    json!({ "error": {
        "code": error.kind() as u8,
        "kind": error.kind().name(),
        "file": error.at_file(),
        "tensor": error.at_tensor(),
        "detail": error.detail(),
        "help": error.advice(),
    }})
}

fn text(value: &Value) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_else(|_| vec![])
}
