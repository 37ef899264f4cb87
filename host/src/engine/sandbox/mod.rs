//! Run merges inside the WebAssembly component: a sandbox that sees no file, no clock and no memory but its own.
//!
//! Hostile heads, configs and data can make it fail, never reach this program: its memory is capped, each call has a
//! deadline, and it imports nothing.
//!
//! Weigh the checkpoints of a run by what it logged, merge them, and write a whole file:
//!
//! ```no_run
//! use mwa_host::sandbox::{Answer, Limits, Question, Sandbox, Step, Verb};
//! use std::fs;
//! use std::os::unix::fs::FileExt;
//!
//! let component = fs::read("mwa.component.wasm")?;
//! let sandbox = Sandbox::new(&component, Limits::default())?;
//! let options = r#"{"metric": "eval_loss", "last": 5}"#;
//! let mut session = sandbox.open(Verb::Merge, &["runs/my-lora".into()], options, None, false)?;
//! let read = |path: &str, start: u64, end: u64| -> std::io::Result<Vec<u8>> {
//!     let file = fs::File::open(path)?;
//!     let end = end.min(file.metadata()?.len());
//!     let mut bytes = vec![0; end.saturating_sub(start) as usize];
//!     file.read_exact_at(&mut bytes, start).map(|()| bytes)
//! };
//! let look = |question: &Question| -> std::io::Result<Answer> {
//!     Ok(match question {
//!         Question::Kind(path) => match fs::metadata(path) {
//!             Ok(found) if found.is_dir() => Answer::Folder,
//!             Ok(found) => Answer::File(found.len()),
//!             Err(_) => Answer::Missing,
//!         },
//!         Question::List(path) => {
//!             let name = |entry: std::io::Result<fs::DirEntry>| Ok(entry?.file_name().display().to_string());
//!             Answer::Names(fs::read_dir(path)?.map(name).collect::<std::io::Result<_>>()?)
//!         }
//!         Question::Place(path) => Answer::Place(fs::canonicalize(path)?.display().to_string()),
//!         Question::Read((path, start, end)) => Answer::Bytes(read(path, *start, *end)?),
//!     })
//! };
//! let mut merged = None;
//! while let Some(step) = session.next()? {
//!     match step {
//!         Step::Look(questions) => {
//!             session.tell(&questions.iter().map(look).collect::<std::io::Result<Vec<_>>>()?)?;
//!         }
//!         Step::Work(job) => {
//!             let inputs = session.inputs()?;
//!             let bytes = job.reads.iter().map(|it| read(&inputs[it.file as usize], it.start, it.end));
//!             let bytes = bytes.collect::<std::io::Result<Vec<_>>>()?;
//!             let result = session.run(job.number, &bytes.iter().map(Vec::as_slice).collect::<Vec<_>>())?;
//!             let mut rest = result.as_slice(); // each write takes as many bytes as it is long
//!             for span in job.writes {
//!                 let file = match &merged {
//!                     Some(file) => file,
//!                     None => {
//!                         let output = &session.outputs()?[0]; // an adapter has one
//!                         let file = fs::File::create(&output.name)?;
//!                         file.write_all_at(&output.head, 0)?;
//!                         merged.insert(file)
//!                     }
//!                 };
//!                 let (piece, after) = rest.split_at((span.end - span.start) as usize);
//!                 file.write_all_at(piece, span.start)?;
//!                 rest = after;
//!             }
//!         }
//!     }
//! }
//! println!("{}", session.report()?);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod run;

use core::time::Duration;
use std::path::PathBuf;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread;

use mwa::{Error, ErrorKind, Result, border};
use wasmtime::component::{Component, Func, Linker, ResourceAny};
use wasmtime::{Config, Engine, Store, StoreLimits, StoreLimitsBuilder, Trap};

pub(crate) use run::merge;

#[expect(missing_docs, reason = "generated from wasm/wit/world.wit, which documents it")]
mod world {
    wasmtime::component::bindgen!({ path: "../wasm/wit", world: "mwa" });
}

pub use world::exports::mwa::merge::merger::{
    Answer, Companion, Ending, Failure, Hash, Hashed, Hashes, Job, Output, Question, Span, Step, Text, Verb,
};

/// What the component exports.
const INTERFACE: &str = "mwa:merge/merger@0.2.0";

/// How often a running guest is looked at.
const TICK: Duration = Duration::from_millis(20);

/// What a guest may use.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of memory of one merge.
    pub memory: usize,
    /// Time that one call may take.
    pub deadline: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { memory: 512 << 20, deadline: Duration::from_secs(20) }
    }
}

/// The component, compiled, and the limits of what runs in it.
pub struct Sandbox {
    engine: Engine,
    component: Component,
    limits: Limits,
    /// Its drop ends the thread that counts the time.
    _clock: Sender<()>,
}

impl Sandbox {
    /// Compile the component.
    ///
    /// # Errors
    /// [`ErrorKind::Device`] when it is not a component, or this machine cannot run it.
    pub fn new(component: &[u8], limits: Limits) -> Result<Self> {
        let mut config = Config::new();
        config.epoch_interruption(true);
        let engine = Engine::new(&config).map_err(|error| failed(&error))?;
        let component = Component::from_binary(&engine, component).map_err(|error| failed(&error))?;
        let clock = tick(&engine);
        Ok(Self { engine, component, limits, _clock: clock })
    }

    /// The component that lies beside this program, or where `cargo xtask build component` puts it, or that is built in.
    ///
    /// # Errors
    /// [`ErrorKind::Device`] when it is nowhere, or as [`Sandbox::new`].
    pub fn find(limits: Limits) -> Result<Self> {
        let places = places();
        let found = places.iter().find_map(|place| std::fs::read(place).ok());
        let bytes = found.or_else(|| built_in().map(<[u8]>::to_vec)).ok_or_else(|| {
            let places: Vec<_> = places.iter().map(|place| place.display().to_string()).collect();
            Error::new(
                ErrorKind::Device,
                format!("wasm: there is no component (looked for {})", places.join(", ")),
            )
            .help("build it with `cargo xtask build component`, or put it beside the program")
        })?;
        Self::new(&bytes, limits)
    }

    /// How many functions the component asks of its host: 0.
    #[must_use]
    pub fn imports(&self) -> usize {
        self.component.component_type().imports(&self.engine).len()
    }

    /// Open a merge in an instance of its own.
    ///
    /// # Errors
    /// What the core says of the inputs; [`ErrorKind::Device`] when the guest trapped or ran into a limit.
    pub fn open(
        &self,
        verb: Verb,
        paths: &[String],
        options: &str,
        chunk: Option<u32>,
        hashed_outside: bool,
    ) -> Result<Session> {
        let memory = StoreLimitsBuilder::new().memory_size(self.limits.memory).trap_on_grow_failure(true);
        let mut store = Store::new(&self.engine, memory.build());
        store.limiter(|limits| limits);
        let ticks = self.limits.deadline.as_millis().div_ceil(TICK.as_millis()) + 1;
        let deadline = u64::try_from(ticks).unwrap_or(u64::MAX);
        store.set_epoch_deadline(deadline);
        let linker = Linker::<StoreLimits>::new(&self.engine);
        let instance = linker.instantiate(&mut store, &self.component).map_err(|error| failed(&error))?;
        let guest = world::Mwa::new(&mut store, &instance).map_err(|error| {
            failed(&error).help("it is of another version: build it again with `cargo xtask build component`")
        })?;
        let session = guest.mwa_merge_merger().session();
        let opened = session.call_open(&mut store, verb, paths, options, chunk, hashed_outside);
        let resource = opened.map_err(|error| failed(&error))??;
        let run = [INTERFACE, "[method]session.run"].iter().try_fold(None, |within, name| {
            instance.get_export_index(&mut store, within.as_ref(), name).map(Some)
        });
        let run = run.flatten().and_then(|index| instance.get_func(&mut store, index));
        let run = run.expect("the guest was found to export the whole world");
        Ok(Session { store, guest, run, resource, deadline })
    }
}

impl core::fmt::Debug for Sandbox {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Sandbox").field("limits", &self.limits).finish_non_exhaustive()
    }
}

/// A merge inside the sandbox; see `wasm/wit/world.wit` for what each call does.
pub struct Session {
    store: Store<StoreLimits>,
    guest: world::Mwa,
    run: Func,
    resource: ResourceAny,
    deadline: u64,
}

/// Calls of the resource's methods: each with its deadline, traps become errors.
macro_rules! calls {
    ($($(#[$doc:meta])* fn $name:ident($($argument:ident: $type:ty),*) -> $result:ty = $call:ident;)*) => {
        impl Session {$(
            $(#[$doc])*
            ///
            /// # Errors
            /// [`ErrorKind::Device`] when the guest trapped or ran into a limit.
            pub fn $name(&mut self, $($argument: $type),*) -> Result<$result> {
                self.store.set_epoch_deadline(self.deadline);
                let session = self.guest.mwa_merge_merger().session();
                session.$call(&mut self.store, self.resource, $($argument),*).map_err(|error| failed(&error))
            }
        )*}
    };
}

calls! {
    /// What to do next; `None` after the last; the inner failure is what the core says.
    fn try_next() -> core::result::Result<Option<Step>, Failure> = call_next;
    /// Answer the questions; the inner failure is what the core says of the answers.
    fn try_tell(answers: &[Answer]) -> core::result::Result<(), Failure> = call_tell;
    /// What the last job that was run has found.
    fn found() -> Vec<u8> = call_found;
    /// Take in what a job found in another session; the inner failure is what the core says of it.
    fn try_take(job: u64, found: &[u8]) -> core::result::Result<(), Failure> = call_take;
    /// After a failed job, whether the merge begins again without the checkpoint at fault.
    fn again() -> bool = call_again;
    /// The paths of all files that are read, by number.
    fn inputs() -> Vec<String> = call_inputs;
    /// The files to write, by number.
    fn outputs() -> Vec<Output> = call_outputs;
    /// Files to copy beside them.
    fn companions() -> Vec<Companion> = call_companions;
    /// The texts beside the weights that do not depend on hashes.
    fn texts() -> Vec<Text> = call_texts;
    /// The report so far, as JSON.
    fn report() -> String = call_report;
    /// All texts to write beside the weights; the inner failure is what the core says of the hashes.
    fn try_finish(ending: &Ending) -> core::result::Result<Vec<Text>, Failure> = call_finish;
}

impl Session {
    /// What to do next; `None` after the last.
    ///
    /// # Errors
    /// What the core says of the checkpoints, or that the next job depends on others; [`ErrorKind::Device`] when the guest
    /// trapped or ran into a limit.
    #[expect(clippy::should_implement_trait, reason = "it can fail, and go on")]
    pub fn next(&mut self) -> Result<Option<Step>> {
        Ok(self.try_next()??)
    }

    /// Answer the questions of the last step, in order.
    ///
    /// # Errors
    /// What the core says of the answers; [`ErrorKind::Device`] when the guest trapped or ran into a limit.
    pub fn tell(&mut self, answers: &[Answer]) -> Result<()> {
        Ok(self.try_tell(answers)??)
    }

    /// Run a job on the bytes of its reads; the result is the bytes of its writes.
    ///
    /// # Errors
    /// What the core says of the data; [`ErrorKind::Device`] when the guest trapped or ran into a limit.
    pub fn run(&mut self, job: u64, chunks: &[&[u8]]) -> Result<Vec<u8>> {
        Ok(self.try_run(job, chunks)??)
    }

    /// Run a job; the inner failure is what the core says of the data.
    ///
    /// # Errors
    /// [`ErrorKind::Device`] when the guest trapped or ran into a limit.
    pub fn try_run(&mut self, job: u64, chunks: &[&[u8]]) -> Result<core::result::Result<Vec<u8>, Failure>> {
        type Parameters<'a> = (ResourceAny, u64, &'a [&'a [u8]]);
        type Results = (core::result::Result<Vec<u8>, Failure>,);
        self.store.set_epoch_deadline(self.deadline);
        // the generated method wants vectors: bytes that are in memory already would be copied once more
        let run = self.run.typed::<Parameters<'_>, Results>(&self.store).map_err(|error| failed(&error))?;
        let (result,) =
            run.call(&mut self.store, (self.resource, job, chunks)).map_err(|error| failed(&error))?;
        Ok(result)
    }
}

impl From<&Question> for border::Question {
    fn from(question: &Question) -> Self {
        match question.clone() {
            Question::Kind(path) => Self::Kind(path),
            Question::List(path) => Self::List(path),
            Question::Place(path) => Self::Place(path),
            Question::Read((path, start, end)) => Self::Read(path, start, end),
        }
    }
}

impl From<border::Answer> for Answer {
    fn from(answer: border::Answer) -> Self {
        match answer {
            border::Answer::File(size) => Self::File(size),
            border::Answer::Folder => Self::Folder,
            border::Answer::Other => Self::Other,
            border::Answer::Missing => Self::Missing,
            border::Answer::Names(names) => Self::Names(names),
            border::Answer::Place(place) => Self::Place(place),
            border::Answer::Bytes(bytes) => Self::Bytes(bytes),
            border::Answer::Failed(detail, help) => Self::Failed((detail, help)),
        }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        let kind = ErrorKind::ALL.into_iter().find(|kind| *kind as u8 == failure.code);
        let mut error = Self::new(kind.unwrap_or(ErrorKind::Device), failure.detail);
        if let Some(file) = failure.file {
            error = error.file(file);
        }
        if let Some(tensor) = failure.tensor {
            error = error.tensor(tensor);
        }
        if let Some(help) = failure.help {
            error = error.help(help);
        }
        error
    }
}

/// Say which wall the guest ran into.
fn failed(error: &wasmtime::Error) -> Error {
    let detail = match error.downcast_ref::<Trap>() {
        Some(Trap::Interrupt) => "wasm: a call ran past its deadline and was stopped".into(),
        Some(Trap::UnreachableCodeReached) => {
            "wasm: the component stopped itself; this is a bug of mwa".into()
        }
        _ => format!("wasm: {error:#}"),
    };
    Error::new(ErrorKind::Device, detail)
}

fn places() -> Vec<PathBuf> {
    const FILE: &str = "mwa.component.wasm";
    let program = std::env::current_exe().and_then(std::fs::canonicalize).unwrap_or_default();
    let folders = program.ancestors().skip(1);
    // target/release/mwa and target/release/deps/test beside target/wasm
    let built = folders.clone().skip(1).take(2).map(|folder| folder.join("wasm").join(FILE));
    folders.take(1).map(|folder| folder.join(FILE)).chain(built).collect()
}

/// What the build script was given; releases have it.
const fn built_in() -> Option<&'static [u8]> {
    #[cfg(has_component)]
    return Some(include_bytes!(env!("MWA_COMPONENT")));
    #[cfg(not(has_component))]
    None
}

/// Count the time of an engine in [`TICK`]s, until the sender is dropped.
fn tick(engine: &Engine) -> Sender<()> {
    let (sender, end) = channel();
    let engine = engine.weak();
    thread::spawn(move || {
        while end.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout) {
            let Some(engine) = engine.upgrade() else { return };
            engine.increment_epoch();
        }
    });
    sender
}
