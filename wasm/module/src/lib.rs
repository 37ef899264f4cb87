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

use mwa::border::{Checkpoint, Head, Order, Session};
use mwa::merge::Closing;
use mwa::{Error, ErrorKind, Result};
use serde::Deserialize;
use serde_json::{Value, json};

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

/// Open a merge; its handle, or 0 for a failure.
///
/// The request is a 4-byte little-endian length, so much JSON, then the bytes of all heads in order. The answer is JSON.
#[unsafe(no_mangle)]
pub extern "C" fn mwa_open(request: usize) -> u32 {
    STATE.0.borrow_mut().answer(|state| {
        let session = open(&state.take(request)?)?;
        let answer = state_of(&session);
        state.last += 1;
        state.sessions.insert(state.last, session);
        Ok((state.last, text(&answer)))
    })
}

/// What is known by now, as [`mwa_open`] tells it: 1, or 0 for a failure.
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

/// The next job: 1 with its number and ranges as JSON; 0 after the last, with an empty answer, or for a failure.
#[unsafe(no_mangle)]
pub extern "C" fn mwa_next(handle: u32) -> u32 {
    STATE.0.borrow_mut().answer(|state| {
        let Some(job) = state.session(handle)?.next_job()? else { return Ok((0, Vec::new())) };
        let reads = job.reads.iter().map(|read| {
            json!({ "input": read.input, "file": read.file, "start": read.range.start, "end": read.range.end })
        });
        let writes = job.writes.iter().map(
            |write| json!({ "file": write.file, "start": write.range.start, "end": write.range.end }),
        );
        let (reads, writes): (Vec<_>, Vec<_>) = (reads.collect(), writes.collect());
        Ok((1, text(&json!({ "number": job.number, "reads": reads, "writes": writes }))))
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

/// The texts to write beside the weights, from the hashes of all files (JSON): 1 with JSON, or 0 for a failure.
#[unsafe(no_mangle)]
pub extern "C" fn mwa_texts(handle: u32, found: usize) -> u32 {
    STATE.0.borrow_mut().answer(|state| {
        let found: Closing = parse(&state.take(found)?)?;
        let texts = state.session(handle)?.texts(&found)?;
        let texts: Vec<_> =
            texts.iter().map(|(name, content)| json!({ "name": name, "content": content })).collect();
        Ok((1, text(&Value::from(texts))))
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
    checkpoints: Vec<Described>,
    recipe: Order,
}

/// A checkpoint whose heads follow the JSON.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Described {
    name: String,
    #[serde(default)]
    step: Option<u64>,
    #[serde(default)]
    config: Option<String>,
    files: Vec<File>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    name: String,
    /// bytes of the head that follow the JSON
    head: usize,
    length: u64,
}

fn open(request: &[u8]) -> Result<Session> {
    let short = || usage("the request is shorter than it says");
    let (length, rest) = request.split_first_chunk().ok_or_else(short)?;
    let (json, mut heads) = rest.split_at_checked(u32::from_le_bytes(*length) as usize).ok_or_else(short)?;
    let request: Request = parse(json)?;
    let mut checkpoints = Vec::new();
    for Described { name, step, config, files } in request.checkpoints {
        let mut opened = Vec::new();
        for File { name, head, length } in files {
            let bytes = heads.split_off(..head).ok_or_else(short)?.to_vec();
            opened.push(Head { name, bytes, length });
        }
        checkpoints.push(Checkpoint { name, step, config, files: opened });
    }
    Session::open(&checkpoints, &request.recipe)
}

/// What a merge has to tell at any time.
fn state_of(session: &Session) -> Value {
    let outputs =
        session.outputs().map(|(name, head, length)| json!({ "name": name, "length": length, "head": head }));
    json!({
        "weights": session.weights().values(),
        "notes": session.notes(),
        "owner": session.owner(),
        "outputs": outputs.collect::<Vec<_>>(),
    })
}

fn parse<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T> {
    serde_json::from_slice(bytes)
        .map_err(|error| Error::new(ErrorKind::Usage, alloc::format!("the request cannot be read: {error}")))
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
