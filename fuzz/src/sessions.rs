//! The calls of a session: in any order, with mistakes in between, they end as they do in order, or say what was wrong.

use mwa::border::{Answer, Ending, Hashes, Job, Order, Question, Session, Step};
use mwa::options::Verb;
use mwa::{Dtype, Error, Files as _, Options, Readers};
use serde_json::json;

use super::files::{CONFIG, Memory, adapter, now, safetensors};
use super::tape::Tape;

pub(crate) fn check(bytes: &[u8]) {
    let mut tape = Tape(bytes);
    let (count, kind, bits) = (1 + tape.choose(4), tape.choose(4), tape.next());
    let mut bytes: Vec<Vec<u8>> = (0..count).map(|at| file(kind, tape.next(), at)).collect();
    if tape.choose(8) == 1 {
        let (file, at, bit) = (tape.choose(count), tape.choose(256), tape.choose(8));
        if let Some(byte) = bytes[file].get_mut(at) {
            *byte ^= 1 << bit;
        }
    }
    let mut files = Memory::default();
    let paths: Vec<_> = (0..count).map(|at| format!("checkpoint-{at}")).collect();
    for (path, bytes) in paths.iter().zip(&bytes) {
        let name = if kind == 0 { "adapter_model.safetensors" } else { "model.safetensors" };
        files.write(&format!("{path}/{name}"), bytes);
        files.write(&format!("{path}/tokenizer.json"), b"{}");
        if kind == 0 {
            files.write(&format!("{path}/adapter_config.json"), CONFIG.as_bytes());
        }
    }
    let residual = ["off", "exact", "sketch"][usize::from(bits >> 1) % 3];
    let options = json!({
        "weights": (0..count).map(|_| tape.next()).collect::<Vec<u8>>(),
        "space": if bits & 1 == 0 { "factors" } else { "product" },
        "residual": residual,
        "allow_cross_run": bits & 4 == 0,
        "allow_non_finite": bits & 8 != 0,
        "rewrite": bits & 16 != 0,
        "dtype": if bits & 32 == 0 { None } else { Some("bf16") },
    });
    let options = Options::read(options.as_object().expect("it is one")).expect("they are options");
    let chunk = [None, Some(8), Some(1), Some(40)][usize::from(bits >> 6)];
    let order = Order { verb: Verb::Merge, paths, options, chunk, hashed_outside: false };
    let calm = drive(&files, order.clone(), &mut Tape(&[]));
    let wild = drive(&files, order, &mut tape);
    match (calm, wild) {
        (Ok(calm), Ok(wild)) => assert!(calm == wild, "the order of the calls changed the bytes"),
        (Err(_), Err(_)) => {}
        (Ok(_), Err(error)) => panic!("only out of order: {error}"),
        (Err(error), Ok(_)) => panic!("only in order: {error}"),
    }
}

/// A small checkpoint of one of four kinds.
fn file(kind: usize, value: u8, at: usize) -> Vec<u8> {
    let frozen = || ("frozen", Dtype::I64, vec![2]);
    match kind {
        0 => adapter(value),
        1 => safetensors(&[("a", Dtype::F32, vec![7]), ("b", Dtype::BF16, vec![3, 5])], value),
        2 => safetensors(&[("a", [Dtype::F16, Dtype::F32][at & 1], vec![2, 2]), frozen()], value & 3),
        _ => safetensors(&[("a", Dtype::F64, vec![]), ("none", Dtype::F32, vec![0, 4]), frozen()], 3),
    }
}

/// Merge with the calls that the tape says, and then in order whatever is left to do.
fn drive(files: &Memory, order: Order, tape: &mut Tape<'_>) -> Result<Vec<Vec<u8>>, Error> {
    let mut session = Session::open(order, &Readers::ALL)?;
    let (mut open, mut written) = (Vec::new(), Vec::new());
    while !tape.0.is_empty() {
        match tape.next() % 8 {
            0..3 => match session.step() {
                Ok(Step::Look(questions)) => look(&mut session, files, &questions, tape.choose(4) == 1)?,
                Ok(Step::Work(job)) => open.push(job),
                // it may have to wait for others; what fails for good fails again in the end
                Ok(Step::Done) | Err(_) => {}
            },
            3..6 if !open.is_empty() => {
                let at = tape.choose(open.len());
                // one that depends on others stays open
                if let Ok(bytes) = run(&mut session, files, &open[at]) {
                    written.push((open.swap_remove(at), bytes));
                }
            }
            6 => mistake(&mut session, &open, tape),
            _ => {
                let outputs: Vec<_> = session.outputs().map(|(_, _, length)| length).collect();
                assert_eq!(session.head(0).is_some(), !outputs.is_empty());
                assert!(session.head(outputs.len()).is_none());
                for (_, path) in session.companions() {
                    assert!(files.kind(path).is_ok());
                }
                let report = session.report();
                let sum: f64 = report.iter().flat_map(|it| &it.inputs).map(|input| input.weight).sum();
                assert!(report.is_none() || (sum - 1.0).abs() < 1e-9);
                let _ = session.texts();
            }
        }
    }
    loop {
        open.sort_by_key(|job: &Job| job.number);
        for job in open.drain(..) {
            let bytes = run(&mut session, files, &job)?;
            written.push((job, bytes));
        }
        match session.step()? {
            Step::Look(questions) => look(&mut session, files, &questions, false)?,
            Step::Work(job) => open.push(job),
            Step::Done => break,
        }
    }
    let mut outputs: Vec<_> = session.outputs().map(|(_, _, length)| vec![0; index(length)]).collect();
    for (at, output) in outputs.iter_mut().enumerate() {
        let head = session.head(at).expect("there is such an output");
        output[..head.len()].copy_from_slice(&head);
    }
    for (job, bytes) in written {
        let mut rest = &bytes[..];
        for write in job.writes {
            let (piece, others) = rest.split_at(index(write.range.end - write.range.start));
            outputs[write.file][index(write.range.start)..index(write.range.end)].copy_from_slice(piece);
            rest = others;
        }
        assert!(rest.is_empty(), "a job gives what it writes");
    }
    let texts = session.finish(&Ending::default())?;
    outputs.extend(texts.into_iter().map(|(_, text)| text.into_bytes()));
    Ok(outputs)
}

/// Answer what is asked; after a mistake it is asked again.
fn look(session: &mut Session, files: &Memory, asked: &[Question], wrongly: bool) -> Result<(), Error> {
    if wrongly {
        assert!(session.tell(vec![Answer::Folder; asked.len() + 1]).is_err(), "one answer too many");
        return Ok(());
    }
    session.tell(asked.iter().map(|question| question.answer(files)).collect())
}

fn run(session: &mut Session, files: &Memory, job: &Job) -> Result<Vec<u8>, Error> {
    let chunk = |read: &mwa::Write| now(files.read(&session.inputs()[read.file], read.range.clone()));
    let chunks = job.reads.iter().map(chunk).collect::<Result<Vec<_>, _>>()?;
    let chunks: Vec<&[u8]> = chunks.iter().map(|chunk| &**chunk).collect();
    session.run(job.number, &chunks, mwa_wasm_fast::run)
}

/// Calls that must be refused and change nothing.
fn mistake(session: &mut Session, open: &[Job], tape: &mut Tape<'_>) {
    let unknown = 1 << 40 | u64::from(tape.next());
    assert!(session.lengths(unknown).is_err());
    assert!(session.run(unknown, &[], mwa_wasm_fast::run).is_err());
    let none = Ending { hashes: Some(Hashes::default()), ..Ending::default() };
    assert!(session.finish(&none).is_err(), "hashes are missing");
    assert!(session.take(unknown, session.found().to_vec().as_slice()).is_err());
    assert!(!session.again(), "nobody wants bad checkpoints left out");
    if let Some(job) = open.get(tape.choose(open.len())) {
        let chunk = [0; 3];
        let chunks = vec![&chunk[..]; job.reads.len() + 1];
        assert!(session.run(job.number, &chunks, mwa_wasm_fast::run).is_err());
        assert_eq!(session.lengths(job.number).map(|lengths| lengths.len()), Ok(job.reads.len()));
    }
}

fn index(offset: u64) -> usize {
    usize::try_from(offset).expect("it is small")
}
