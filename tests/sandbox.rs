//! The sandbox holds: nothing imported, limits become errors, hostile calls in any order never trap.
#![cfg(feature = "wasm")]

use core::time::Duration;
use std::fs;
use std::path::Path;

use conformance::offered::Files;
use conformance::wasm::{answered, built};
use mwa::ErrorKind;
use mwa_host::sandbox::{Answer, Ending, Limits, Sandbox, Session, Span, Step, Verb};
use mwa_host::{DeviceChoice, Machine, MergeOptions, Options, Rank, Report, Space};

fn sandbox(limits: Limits) -> Sandbox {
    Sandbox::new(&built("mwa.component.wasm").expect("the component is built"), limits).unwrap()
}

fn open(sandbox: &Sandbox, files: &Files, options: &str) -> mwa::Result<Session> {
    let mut paths: Vec<_> =
        files.keys().filter_map(|path| path.split('/').next()).map(String::from).collect();
    paths.dedup();
    sandbox.open(Verb::Merge, &paths, options, Some(64), true)
}

fn vector(name: &str) -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors").join(name)).unwrap()
}

#[test]
fn the_component_imports_nothing() {
    assert_eq!(sandbox(Limits::default()).imports(), 0);
}

#[test]
fn a_guest_that_runs_away_is_stopped() {
    // (component (core module (start 0) (func (loop (br 0)))) (core instance (instantiate 0)))
    let module = [
        &b"\0asm\x01\0\0\0"[..],
        &[1, 4, 1, 0x60, 0, 0],
        &[3, 2, 1, 0],
        &[8, 1, 0],
        &[10, 9, 1, 7, 0, 0x03, 0x40, 0x0c, 0, 0x0b, 0x0b],
    ]
    .concat();
    let length = u8::try_from(module.len()).unwrap();
    let component = [&b"\0asm\x0d\0\x01\0"[..], &[1, length], &module, &[2, 4, 1, 0, 0, 0]].concat();
    let limits = Limits { deadline: Duration::from_millis(50), ..Limits::default() };
    let error = open(&Sandbox::new(&component, limits).unwrap(), &Files::new(), "{}").err().unwrap();
    assert_eq!(error.to_string(), "wasm: a call ran past its deadline and was stopped");
    assert_eq!(error.kind(), ErrorKind::Device);
}

#[test]
fn a_guest_gets_no_more_memory_than_its_limit() {
    let tiny = sandbox(Limits { memory: 64 << 10, ..Limits::default() });
    assert_eq!(open(&tiny, &Files::new(), "{}").err().unwrap().kind(), ErrorKind::Device);
    // an answer that must be copied into the guest does not fit: an error, and the host lives on
    let small = sandbox(Limits { memory: 4 << 20, ..Limits::default() });
    let files = Files::from([("a".into(), vector("in/ten-0.safetensors"))]);
    let mut session = open(&small, &files, "{}").unwrap();
    assert!(matches!(session.next(), Ok(Some(Step::Look(_)))));
    let huge = session.try_tell(&[Answer::Bytes(vec![b' '; 16 << 20])]);
    assert_eq!(huge.unwrap_err().kind(), ErrorKind::Device);
    assert!(open(&small, &files, "{}").unwrap().next().is_ok());
}

#[test]
fn what_is_no_component_is_an_error() {
    assert_eq!(Sandbox::new(b"\0asm", Limits::default()).unwrap_err().kind(), ErrorKind::Device);
}

/// The sample run merged on a device: every file of weights and text, but for the notes of how it was made.
fn sample(space: Space, device: DeviceChoice) -> (Vec<u8>, String, Report) {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("merged");
    let run = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/sample-run");
    let options = Options { inputs: vec![run], ..Options::default() };
    let machine = Machine { device, ..Machine::default() };
    let merge = mwa::MergeOptions { space, ..mwa::MergeOptions::default() };
    let how = MergeOptions { merge, machine, ..MergeOptions::default() };
    let report = mwa_host::merge(&options, &how, &out, &());
    let read = |name: &str| fs::read(out.join(name)).unwrap();
    let config = String::from_utf8(read("adapter_config.json")).unwrap();
    (read("adapter_model.safetensors"), config, report.unwrap())
}

#[test]
fn a_run_merged_in_the_sandbox_is_the_same_in_every_space_and_rank() {
    let product = |rank| Space::Product(Some(rank));
    let spaces = [
        Space::Factors,
        Space::Product(None),
        product(Rank::Fixed(3)),
        product(Rank::Full),
        product(Rank::Energy(0.999)),
    ];
    for space in spaces {
        let (bytes, config, report) = sample(space, DeviceChoice::Cpu);
        let (inside, config_inside, report_inside) = sample(space, DeviceChoice::Wasm);
        assert!(bytes == inside, "{space:?}: other bytes");
        assert_eq!(config, config_inside, "{space:?}");
        assert_eq!(report.residual, report_inside.residual, "{space:?}");
        assert!(report.residual.is_some(), "{space:?}: nothing was compared");
    }
}

/// A small generator (Knuth's MMIX constants), so that a failing seed can be run again.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % end
    }
}

#[test]
fn random_heads_and_random_call_orders_never_trap() {
    let sandbox = sandbox(Limits::default());
    let sums = ["in/ten-0.safetensors", "in/ten-1.safetensors"].map(vector);
    let products = ["product/two-runs-0.safetensors", "product/two-runs-1.safetensors"].map(vector);
    const ADAPTER: &str = r#"{"peft_type": "LORA", "r": 3, "lora_alpha": 6, "target_modules": ["q", "v"]}"#;
    let (mut opened, mut refused) = (0, 0);
    for seed in 0..90 {
        let mut random = Random(seed);
        let seeds = if seed % 2 == 0 { &products } else { &sums };
        let mut inputs: Vec<_> = (0..1 + random.below(3)).map(|_| seeds[random.below(2)].clone()).collect();
        for _ in 0..random.below(4) {
            let input = random.below(inputs.len());
            let at = random.below(inputs[input].len().min(600));
            inputs[input][at] = u8::try_from(random.below(256)).unwrap();
        }
        let weights = vec![1.0; inputs.len()];
        let mut options = serde_json::json!({ "weights": weights, "allow_cross_run": true });
        let mut files = Files::new();
        for (i, bytes) in inputs.into_iter().enumerate() {
            if seed % 2 == 0 {
                files.insert(format!("{i}/adapter_model.safetensors"), bytes);
                files.insert(format!("{i}/adapter_config.json"), ADAPTER.into());
            } else {
                files.insert(format!("{i}"), bytes);
            }
        }
        if seed % 2 == 0 {
            options["space"] = "product".into();
            options["rank"] =
                [serde_json::Value::Null, "full".into(), "auto".into(), 2.into()][random.below(4)].clone();
        }
        let mut merge = open(&sandbox, &files, &options.to_string()).unwrap();
        let mut jobs = Vec::new();
        let mut failed = None;
        for _ in 0..90 {
            let trapped = match random.below(8) {
                0..3 => match merge.try_next() {
                    Ok(Ok(Some(Step::Look(questions)))) => {
                        let mut answers: Vec<_> = questions.iter().map(|it| answered(&files, it)).collect();
                        if random.below(20) == 0 {
                            answers[0] = Answer::Folder;
                        }
                        merge.try_tell(&answers).err()
                    }
                    Ok(Ok(Some(Step::Work(job)))) => {
                        jobs.push(job);
                        None
                    }
                    Ok(Ok(None)) => None,
                    Ok(Err(failure)) => {
                        failed = Some(failure.kind);
                        None
                    }
                    Err(trap) => Some(trap),
                },
                3 => merge.report().err(),
                4 => merge.outputs().err(),
                5 => {
                    let none = Ending { paths: vec![], left_out: vec![], notes: vec![], hashes: None };
                    merge.try_finish(&none).err()
                }
                6 => merge.try_run(random.below(100) as u64, &[&[0; 9][random.below(9)..]]).err(),
                _ if jobs.is_empty() => merge.inputs().err(),
                _ => {
                    let job = &jobs[random.below(jobs.len())];
                    let length = |span: &Span| usize::try_from(span.end - span.start).unwrap();
                    let bytes = vec![0x3c; job.reads.iter().map(length).max().unwrap_or(0)];
                    let chunks: Vec<_> = job.reads.iter().map(|span| &bytes[..length(span)]).collect();
                    merge.try_run(job.number, &chunks).err()
                }
            };
            assert!(trapped.is_none(), "seed {seed}: {}", trapped.unwrap());
        }
        opened += usize::from(!jobs.is_empty());
        refused += usize::from(jobs.is_empty() && failed.is_some());
    }
    assert!(opened > 5 && refused > 5, "{opened} opened, {refused} refused: the test has lost its edge");
}
