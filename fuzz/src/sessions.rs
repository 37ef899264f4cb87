//! The calls of a session: in any order, with mistakes in between, they end as they do in order, or say what was wrong.

use mwa::border::{Checkpoint, Head, Job, Order, Session};
use mwa::report::HashedFile;
use mwa::safetensors::Header;
use mwa::{Dtype, Error, merge::Closing};
use serde_json::json;

use super::files::{CONFIG, adapter, safetensors};

/// Bytes that decide what is done next; zeros at their end.
struct Tape<'a>(&'a [u8]);

impl Tape<'_> {
    fn next(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn choose(&mut self, count: usize) -> usize {
        usize::from(self.next()) % count.max(1)
    }
}

pub(crate) fn check(bytes: &[u8]) {
    let mut tape = Tape(bytes);
    let (count, kind, options) = (1 + tape.choose(4), tape.choose(4), tape.next());
    let mut files: Vec<Vec<u8>> = (0..count).map(|at| file(kind, tape.next(), at)).collect();
    let damaged = tape.choose(8) == 1;
    if damaged {
        let (file, at, bit) = (tape.choose(count), tape.choose(256), tape.choose(8));
        if let Some(byte) = files[file].get_mut(at) {
            *byte ^= 1 << bit;
        }
    }
    let weights: Vec<u8> = (0..count).map(|_| tape.next()).collect();
    let chunk = [None, Some(8), Some(1), Some(40)][usize::from(options >> 6)];
    let order = json!({
        "weighing": { "explicit": weights },
        "space": if options & 1 == 0 { json!("factors") } else { json!({ "product": "inputs" }) },
        "residual": options & 2 != 0,
        "allow_cross_run": options & 4 == 0,
        "allow_non_finite": options & 8 != 0,
        "rewrite": options & 16 != 0,
        "dtype": if options & 32 == 0 { None } else { Some("bf16") },
        "chunk": chunk,
    });
    let Ok(order) = serde_json::from_value::<Order>(order) else { return };
    let calm = drive(&files, &order, &mut Tape(&[]));
    let wild = drive(&files, &order, &mut tape);
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
fn drive(files: &[Vec<u8>], order: &Order, tape: &mut Tape<'_>) -> Result<Vec<Vec<u8>>, Error> {
    let checkpoint = |(at, bytes): (usize, &Vec<u8>)| {
        let length = bytes.len() as u64;
        let size = Header::size(bytes, length).unwrap_or(length);
        let head = bytes[..usize::try_from(size).expect("it is within the file")].to_vec();
        let files = vec![Head { name: "model.safetensors".into(), bytes: head, length }];
        let config = bytes.windows(4).any(|part| part == b"lora").then(|| CONFIG.into());
        Checkpoint { name: format!("checkpoint {at}"), step: None, config, files }
    };
    let checkpoints: Vec<_> = files.iter().enumerate().map(checkpoint).collect();
    let mut session = Session::open(&checkpoints, order)?;
    let (mut open, mut written) = (Vec::new(), Vec::new());
    while !tape.0.is_empty() {
        match tape.next() % 8 {
            0..3 => {
                // it may have to wait for others
                if let Ok(Some(job)) = session.next_job() {
                    open.push(job);
                }
            }
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
                assert!(outputs.len() <= 1 && session.owner() < files.len());
                assert_eq!(session.head(0).is_some(), outputs.len() == 1);
                assert!(session.head(1).is_none());
                let sum: f64 = session.weights().values().iter().sum();
                assert!((sum - 1.0).abs() < 1e-9);
                let _ = session.notes();
            }
        }
    }
    loop {
        open.sort_by_key(|job: &Job| job.number);
        for job in open.drain(..) {
            let bytes = run(&mut session, files, &job)?;
            written.push((job, bytes));
        }
        match session.next_job()? {
            Some(job) => open.push(job),
            None => break,
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
    let hash = |_: &Vec<u8>| String::from("hash");
    let closing = Closing {
        inputs: files.iter().map(|file| vec![hash(file)]).collect(),
        outputs: outputs.iter().map(hash).collect(),
        companions: vec![HashedFile { name: "x".into(), bytes: 0, sha256: String::new() }],
        ..Closing::default()
    };
    let texts = session.texts(&closing)?;
    outputs.extend(texts.into_iter().map(|(_, text)| text.into_bytes()));
    Ok(outputs)
}

fn run(session: &mut Session, files: &[Vec<u8>], job: &Job) -> Result<Vec<u8>, Error> {
    let chunk = |read: &mwa::Read| &files[read.input][index(read.range.start)..index(read.range.end)];
    let chunks: Vec<_> = job.reads.iter().map(chunk).collect();
    session.run(job.number, &chunks, mwa_wasm_fast::run)
}

/// Calls that must be refused and change nothing.
fn mistake(session: &mut Session, open: &[Job], tape: &mut Tape<'_>) {
    let unknown = 1 << 40 | u64::from(tape.next());
    assert!(session.lengths(unknown).is_err());
    assert!(session.run(unknown, &[], mwa_wasm_fast::run).is_err());
    assert!(session.texts(&Closing::default()).is_err(), "hashes are missing");
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
