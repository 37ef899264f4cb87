//! The executor made of the core's session, without a border.

use mwa::border::{Order, Session, Step};
use mwa::options::Verb;
use mwa::{Options, Readers};

use crate::offered::{CHUNK, answer, assembled, heard, index, offered, told};
use crate::{Executor, Failure, Merge};

/// Open it.
///
/// # Errors
/// None.
pub fn open() -> Result<Box<dyn Executor>, String> {
    Ok(Box::new(InSession))
}

struct InSession;

impl Executor for InSession {
    fn merge(&self, merge: &Merge) -> Result<Vec<u8>, Failure> {
        heard(merge, run(merge).map_err(Failure::from))
    }
}

fn run(merge: &Merge) -> mwa::Result<Vec<u8>> {
    let (files, paths) = offered(merge);
    let order = Order {
        verb: Verb::Merge,
        paths,
        options: Options::read(&told(merge))?,
        chunk: Some(CHUNK),
        hashed_outside: true,
    };
    let mut session = Session::open(order, &Readers::ALL)?;
    let mut pieces = Vec::new();
    loop {
        let job = match session.step()? {
            Step::Look(questions) => {
                session.tell(questions.iter().map(|question| answer(&files, question)).collect())?;
                continue;
            }
            Step::Work(job) => job,
            Step::Done => break,
        };
        let chunk = |read: &mwa::Write| {
            &files[&session.inputs()[read.file]][index(read.range.start)..index(read.range.end)]
        };
        let chunks: Vec<_> = job.reads.iter().map(chunk).collect();
        let piece = session.run(job.number, &chunks, mwa_wasm_fast::run)?;
        pieces.extend(job.writes.first().map(|write| (index(write.range.start), piece)));
    }
    let (_, _, length) = session.outputs().next().expect("there is one output");
    Ok(assembled(session.head(0).expect("there is one output"), length, pieces))
}
