//! The world of `wasm/wit/world.wit` over the core: names and bytes are translated here, nothing is decided.
#![cfg_attr(target_family = "wasm", no_std)]

extern crate alloc;

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::cell::RefCell;

use mwa::border::{self, Order};
use mwa::merge::Hash as FileHash;
use mwa::options::Verb as Wanted;
use mwa::report::HashedFile;
use mwa::{Error, Goal, Options, Readers, Weights, Write};

mod world {
    wit_bindgen::generate!({ path: "../wit", world: "mwa" });
}

use world::exports::mwa::merge::merger::{
    Answer, Companion, Ending, Failure, Guest, GuestSession, Hash, Hashes, Job, Output, Question, Session,
    Span, Step, Text, Verb,
};

type Result<T> = core::result::Result<T, Failure>;

#[cfg(target_family = "wasm")]
#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

/// A panic is a bug of ours: the instance traps, and the host reports it.
#[cfg(target_family = "wasm")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    core::arch::wasm32::unreachable()
}

struct Component;
world::export!(Component with_types_in world);

impl Guest for Component {
    type Session = Running;

    fn weigh(metrics: Vec<f64>, options: String) -> Result<Vec<f64>> {
        let Options { goal, scheme, penalty, .. } = Options::parse(&options)?;
        let weights = Weights::new(&metrics, goal.unwrap_or(Goal::Min), scheme.unwrap_or_default(), penalty)?;
        Ok(weights.values().to_vec())
    }
}

/// A merge under way; a component is never entered twice at once, so that a cell is lock enough.
struct Running(RefCell<border::Session>);

impl GuestSession for Running {
    fn open(
        verb: Verb,
        paths: Vec<String>,
        options: String,
        chunk: Option<u32>,
        hashed_outside: bool,
    ) -> Result<Session> {
        let verb = match verb {
            Verb::Merge => Wanted::Merge,
            Verb::Weights => Wanted::Weights,
        };
        let order = Order { verb, paths, options: Options::parse(&options)?, chunk, hashed_outside };
        Ok(Session::new(Self(RefCell::new(border::Session::open(order, &Readers::ALL)?))))
    }

    fn next(&self) -> Result<Option<Step>> {
        Ok(match self.0.borrow_mut().step()? {
            border::Step::Look(questions) => {
                Some(Step::Look(questions.into_iter().map(Into::into).collect()))
            }
            border::Step::Work(border::Job { number, reads, writes, module }) => {
                let spans = |of: Vec<Write>| of.into_iter().map(Into::into).collect();
                Some(Step::Work(Job { number, reads: spans(reads), writes: spans(writes), module }))
            }
            border::Step::Done => None,
        })
    }

    fn tell(&self, answers: Vec<Answer>) -> Result<()> {
        Ok(self.0.borrow_mut().tell(answers.into_iter().map(Into::into).collect())?)
    }

    fn run(&self, job: u64, chunks: Vec<Vec<u8>>) -> Result<Vec<u8>> {
        let chunks: Vec<_> = chunks.iter().map(Vec::as_slice).collect();
        Ok(self.0.borrow_mut().run(job, &chunks, mwa_wasm_fast::run)?)
    }

    fn found(&self) -> Vec<u8> {
        self.0.borrow().found().to_vec()
    }

    fn take(&self, job: u64, found: Vec<u8>) -> Result<()> {
        Ok(self.0.borrow_mut().take(job, &found)?)
    }

    fn again(&self) -> bool {
        self.0.borrow_mut().again()
    }

    fn inputs(&self) -> Vec<String> {
        self.0.borrow().inputs().to_vec()
    }

    fn outputs(&self) -> Vec<Output> {
        let session = self.0.borrow();
        let output = |(i, (name, _, length)): (usize, (&str, u64, u64))| Output {
            name: name.to_string(),
            head: session.head(i).unwrap_or_default(),
            length,
        };
        session.outputs().enumerate().map(output).collect()
    }

    fn companions(&self) -> Vec<Companion> {
        let companion =
            |(name, path): &(String, String)| Companion { name: name.clone(), path: path.clone() };
        self.0.borrow().companions().iter().map(companion).collect()
    }

    fn texts(&self) -> Vec<Text> {
        texts(self.0.borrow().texts())
    }

    fn report(&self) -> String {
        self.0.borrow().report().map(|report| report.to_json()).unwrap_or_default()
    }

    fn finish(&self, ending: Ending) -> Result<Vec<Text>> {
        let Ending { paths, left_out, notes, hashes } = ending;
        let hashes = hashes.map(Into::into);
        Ok(texts(self.0.borrow_mut().finish(&border::Ending { paths, left_out, notes, hashes })?))
    }
}

fn texts(texts: Vec<(String, String)>) -> Vec<Text> {
    texts.into_iter().map(|(name, content)| Text { name, content }).collect()
}

impl From<Write> for Span {
    fn from(Write { file, range }: Write) -> Self {
        // lists have 32-bit lengths here
        Self { file: u32::try_from(file).unwrap_or(u32::MAX), start: range.start, end: range.end }
    }
}

impl From<Hashes> for border::Hashes {
    fn from(Hashes { inputs, outputs, companions }: Hashes) -> Self {
        let hash = |Hash { blake3, sha256 }: Hash| FileHash { blake3, sha256, identity: None };
        let hashed = |it: world::exports::mwa::merge::merger::Hashed| HashedFile {
            name: it.name,
            bytes: it.bytes,
            blake3: it.hash.blake3,
            sha256: it.hash.sha256,
            identity: None,
        };
        Self {
            inputs: inputs.into_iter().map(hash).collect(),
            outputs: outputs.into_iter().map(hash).collect(),
            companions: companions.into_iter().map(hashed).collect(),
        }
    }
}

impl From<border::Question> for Question {
    fn from(question: border::Question) -> Self {
        match question {
            border::Question::Kind(path) => Self::Kind(path),
            border::Question::List(path) => Self::List(path),
            border::Question::Place(path) => Self::Place(path),
            border::Question::Read(path, start, end) => Self::Read((path, start, end)),
        }
    }
}

impl From<Answer> for border::Answer {
    fn from(answer: Answer) -> Self {
        match answer {
            Answer::File(size) => Self::File(size),
            Answer::Folder => Self::Folder,
            Answer::Other => Self::Other,
            Answer::Missing => Self::Missing,
            Answer::Names(names) => Self::Names(names),
            Answer::Place(place) => Self::Place(place),
            Answer::Bytes(bytes) => Self::Bytes(bytes),
            Answer::Failed((detail, help)) => Self::Failed(detail, help),
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self {
            code: error.kind() as u8,
            kind: error.kind().name().to_string(),
            file: error.at_file().map(ToString::to_string),
            tensor: error.at_tensor().map(ToString::to_string),
            detail: error.detail().to_string(),
            help: error.advice().map(ToString::to_string),
        }
    }
}
