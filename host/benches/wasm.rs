//! Bytes per second of the component beside the native kernel, one thread each, copies included; and how long it takes to start.
//!
//! In rounds, everyone once in each; each answer is checked. `cargo xtask bench wasm` builds the component first.

use std::path::Path;
use std::time::Instant;

use mwa::kernel::{Operand, reference};
use mwa::merge::{Bytes, Chosen, Cut, MergeOptions, Next};
use mwa::safetensors::{Header, TextMap};
use mwa::{Float, Input, Shard};
use mwa_host::InstructionSet;
use mwa_host::sandbox::{Answer, Limits, Question, Sandbox, Span, Step, Verb};
use wasmtime::component::Component;
use wasmtime::{Config, Engine};

const INPUTS: usize = 4;
const BYTES: usize = 32 << 20;
const ROUNDS: usize = 5;
/// What a job of the component reads of one input, and of the native merge too.
const CHUNK: usize = 256 << 10;

fn main() {
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    let folder = std::env::var("MWA_COMPONENT").unwrap_or_else(|_| "target/wasm".into());
    let read = |name: &str| {
        let path = Path::new(&folder).join(name);
        std::fs::read(&path)
            .unwrap_or_else(|error| panic!("{}: {error}; run cargo xtask bench wasm", path.display()))
    };
    let (simd, plain) = (read("mwa.component.wasm"), read("mwa.plain.component.wasm"));
    start(&simd);
    let (simd, plain) = (open(&simd), open(&plain));
    println!(
        "\n| {INPUTS} inputs of {} MiB | native GB/s | wasmtime SIMD | × native | wasmtime plain | × native |",
        BYTES >> 20
    );
    println!("|---|---|---|---|---|---|");
    for float in [Float::BF16, Float::F16, Float::F32] {
        let files = files(float);
        let wanted = native(&files);
        let mut seconds = [const { Vec::new() }; 3];
        for _ in 0..ROUNDS {
            let mut time = |at: usize, run: &dyn Fn() -> Vec<u8>| {
                let start = Instant::now();
                let merged = run();
                seconds[at].push(start.elapsed().as_secs_f64());
                assert!(merged == wanted, "{float:?}: the bytes differ");
            };
            time(0, &|| native(&files));
            time(1, &|| inside(&simd, &files));
            time(2, &|| inside(&plain, &files));
        }
        let speed = seconds.map(|mut seconds| {
            seconds.sort_by(f64::total_cmp);
            (INPUTS * BYTES) as f64 / seconds[ROUNDS / 2] / 1e9
        });
        let [native, simd, plain] = speed;
        println!(
            "| {} | {native:.2} | {simd:.2} | {:.2} | {plain:.2} | {:.2} |",
            float.dtype(),
            simd / native,
            plain / native
        );
    }
}

fn open(component: &[u8]) -> Sandbox {
    Sandbox::new(component, Limits::default()).expect("it is a component")
}

/// Times to start: compiled here, and compiled before.
fn start(component: &[u8]) {
    let timed = |what: &str, run: &dyn Fn()| {
        let mut seconds: Vec<_> = (0..ROUNDS)
            .map(|_| {
                let start = Instant::now();
                run();
                start.elapsed().as_secs_f64()
            })
            .collect();
        seconds.sort_by(f64::total_cmp);
        println!("{what}: {:.1} ms", seconds[ROUNDS / 2] * 1e3);
    };
    timed("start-up, compiling the component", &|| drop(open(component)));
    let mut config = Config::new();
    config.epoch_interruption(true);
    let engine = Engine::new(&config).expect("this machine runs wasmtime");
    let compiled = engine.precompile_component(component).expect("it is a component");
    timed("start-up, component compiled before", &|| {
        // SAFETY: the bytes come from this engine, some lines above.
        let component = unsafe { Component::deserialize(&engine, &compiled) };
        drop(component.expect("it was compiled for this engine"));
    });
}

/// Single-tensor files of numbers between 2⁻¹⁰ and 1 of either sign, as training leaves them.
fn files(float: Float) -> Vec<Vec<u8>> {
    let elements = BYTES / float.bytes();
    let header =
        Header::layout([("w".to_string(), float.dtype(), vec![elements as u64])], TextMap::default());
    let head = header.expect("one tensor").to_bytes();
    let file = |seed: u64| {
        let mut state = seed;
        let mut word = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            u32::try_from(state >> 32).expect("32 bits are left")
        };
        let values = (0..elements).map(|_| (word() & 0x807f_ffff) | ((117 + word() % 10) << 23));
        let values: Vec<_> = values.flat_map(u32::to_le_bytes).collect();
        let mut file = head.clone();
        file.resize(head.len() + BYTES, 0);
        // a sum of one narrows
        reference(
            &[Operand { dtype: Float::F32, bytes: &values, weight: 1.0 }],
            float,
            &mut file[head.len()..],
        );
        file
    };
    (0..INPUTS as u64).map(file).collect()
}

/// One thread, the widest instructions, over files that are in memory.
fn native(files: &[Vec<u8>]) -> Vec<u8> {
    let input = |(i, file): (usize, &Vec<u8>)| {
        let header = Header::parse(file, file.len() as u64).expect("a whole file");
        Input { name: i.to_string(), files: vec![Shard { name: "w".into(), header }] }
    };
    let inputs: Vec<_> = files.iter().enumerate().map(input).collect();
    let chosen = Chosen::explicit(inputs, vec![None; INPUTS], &[1.0; INPUTS]).expect("equal weights");
    let cut = Cut { max_bytes: CHUNK, by_tensor: false };
    let mut merge =
        mwa::merge::Merge::new(chosen, MergeOptions::default(), cut).expect("the files are alike");
    let mut merged = merge.head(0);
    merged.resize(files[0].len(), 0);
    let Ok(Next::Jobs(numbers)) = merge.next() else { panic!("there are sums") };
    for job in numbers.map(|number| merge.job(number)) {
        let chunks: Vec<_> = job.reads().map(|read| &files[read.input][range(&read.range)]).collect();
        let write = job.writes().next().expect("a sum is written");
        let out = &mut merged[range(&write.range)];
        InstructionSet::widest().run(&job, Bytes::Whole(&chunks), &mut [out]).expect("finite numbers");
    }
    merged
}

/// The same inside the component, chunks copied in and results copied out.
fn inside(sandbox: &Sandbox, files: &[Vec<u8>]) -> Vec<u8> {
    let paths: Vec<_> = (0..INPUTS).map(|i| i.to_string()).collect();
    let bytes = |path: &String| &files[path.parse::<usize>().expect("it is one of ours")];
    let answer = |question: &Question| match question {
        Question::Kind(path) if paths.contains(path) => Answer::File(bytes(path).len() as u64),
        Question::Kind(_) => Answer::Missing,
        Question::List(_) => Answer::Names(paths.clone()),
        Question::Place(path) => Answer::Place(path.clone()),
        Question::Read((path, start, end)) => Answer::Bytes(bytes(path)[range(&(*start..*end))].to_vec()),
    };
    let options = serde_json::json!({ "weights": vec![1.0; INPUTS] }).to_string();
    let mut session =
        sandbox.open(Verb::Merge, &paths, &options, None, false).expect("the options are right");
    let mut merged = Vec::new();
    while let Some(step) = session.next().expect("no limit is near") {
        let job = match step {
            Step::Look(questions) => {
                let answers: Vec<_> = questions.iter().map(answer).collect();
                session.tell(&answers).expect("the answers fit");
                continue;
            }
            Step::Work(job) => job,
        };
        let chunk = |span: &Span| &files[span.file as usize][range(&(span.start..span.end))];
        let chunks: Vec<_> = job.reads.iter().map(chunk).collect();
        let piece = session.run(job.number, &chunks).expect("finite numbers");
        if merged.is_empty() {
            merged = session.outputs().expect("no limit is near").remove(0).head;
            merged.resize(files[0].len(), 0);
        }
        merged[range(&(job.writes[0].start..job.writes[0].end))].copy_from_slice(&piece);
    }
    merged
}

fn range(range: &core::ops::Range<u64>) -> core::ops::Range<usize> {
    let index = |at: u64| usize::try_from(at).expect("the files are in memory");
    index(range.start)..index(range.end)
}
