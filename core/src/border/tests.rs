//! Tests of sessions: what crosses is small, and all that the merge refuses and notes is refused and noted here.
#![expect(clippy::cast_possible_truncation, reason = "the files are small")]

use alloc::string::ToString as _;
use alloc::vec;

use super::*;
use crate::digest;
use crate::files::memory::Memory;
use crate::format::safetensors::Safetensors;
use crate::merge::tests::{CONFIG, DOWN, HEAD, UP, adapter, file};

const READERS: Readers = Readers { formats: &[&Safetensors], logs: &[] };

fn disk(files: &[Vec<u8>]) -> Memory {
    let mut disk = Memory::default();
    for (bytes, name) in files.iter().zip(["a", "b", "c"]) {
        disk.write(&format!("{name}/adapter_model.safetensors"), bytes.clone());
        disk.write(&format!("{name}/adapter_config.json"), CONFIG);
        disk.write(&format!("{name}/tokenizer.json"), "{}");
    }
    disk
}

fn open(disk: &Memory, options: &str) -> Result<Session> {
    let options = Options::parse(&format!(r#"{{"weights": [1, 1]{options}}}"#))?;
    let paths = disk.list("").map_err(|_| ()).unwrap();
    Session::open(
        Order { verb: Verb::Merge, paths, options, chunk: Some(10), hashed_outside: false },
        &READERS,
    )
}

/// The next job, once all questions are answered.
fn next(session: &mut Session, disk: &Memory) -> Result<Option<Job>> {
    loop {
        match session.step()? {
            Step::Look(questions) => {
                let answers = questions.iter().map(|question| question.answer(disk)).collect();
                session.tell(answers)?;
            }
            Step::Work(job) => return Ok(Some(job)),
            Step::Done => return Ok(None),
        }
    }
}

fn chunks<'a>(session: &Session, disk: &'a Memory, job: &Job) -> Vec<&'a [u8]> {
    let read = |it: &Write| {
        let path = &session.inputs()[it.file];
        let (_, bytes) = disk.files.iter().find(|(known, _)| known == path).expect("it was found");
        &bytes[it.range.start as usize..it.range.end as usize]
    };
    job.reads.iter().map(read).collect()
}

fn run(session: &mut Session, disk: &Memory) -> Result<Vec<u8>> {
    let mut pieces = Vec::new();
    while let Some(job) = next(session, disk)? {
        let lengths: Vec<_> = job.reads.iter().map(|read| read.range.end - read.range.start).collect();
        assert!(lengths.iter().all(|length| *length <= 10), "{lengths:?}");
        let chunks = chunks(session, disk, &job);
        assert_eq!(
            session.run(job.number, &[], |job, bytes, out| job.run(bytes, out)).is_ok(),
            chunks.is_empty()
        );
        if !chunks.is_empty() {
            let piece = session.run(job.number, &chunks, |job, bytes, out| job.run(bytes, out))?;
            pieces.extend(job.writes.into_iter().map(|write| (write, piece.clone())));
        }
    }
    let mut merged = session.head(0).unwrap();
    merged.resize(session.outputs().next().unwrap().2 as usize, 0xaa);
    for (write, bytes) in pieces {
        merged[write.range.start as usize..write.range.end as usize].copy_from_slice(&bytes);
    }
    Ok(merged)
}

fn finish(session: &mut Session) -> Vec<Text> {
    session.finish(&Ending::default()).unwrap()
}

#[test]
fn averages_what_crosses_in_small_chunks() {
    let disk = disk(&[adapter(0.0, 1.0), adapter(0.25, 3.0)]);
    let mut session = open(&disk, "").unwrap();
    assert_eq!(run(&mut session, &disk).unwrap(), adapter(0.125, 2.0));
    assert_eq!(session.companions(), [("tokenizer.json".to_string(), "b/tokenizer.json".to_string())]);
    let texts = finish(&mut session);
    assert_eq!(texts[2].0, "mwa-report.json");
    assert!(texts[2].1.contains("\"residual\""), "{}", texts[2].1);
}

#[test]
fn what_lies_beside_the_weights_is_asked_for_at_once() {
    let disk = disk(&[adapter(0.0, 1.0), adapter(0.25, 3.0)]);
    let mut session = open(&disk, "").unwrap();
    let mut rounds = 0;
    while let Step::Look(questions) = session.step().unwrap() {
        let is_asked = |name: &str| questions.iter().any(|question| question.path() == name);
        rounds += usize::from(is_asked("b/vocab.txt") && is_asked("b/merges.txt"));
        session.tell(questions.iter().map(|question| question.answer(&disk)).collect()).unwrap();
    }
    assert_eq!(rounds, 1);
}

#[test]
fn all_files_are_hashed_on_the_way() {
    let disk = disk(&[adapter(0.0, 1.0), adapter(0.25, 3.0)]);
    let mut session = open(&disk, "").unwrap();
    let merged = run(&mut session, &disk).unwrap();
    let report: Report = serde_json::from_str(&finish(&mut session)[2].1).unwrap();
    let of = |path: &str| disk.files.iter().find(|(known, _)| *known == path).unwrap().1.as_slice();
    let hash = |file: &HashedFile| file.blake3.clone();
    assert_eq!(hash(&report.outputs[0]), digest::hash(&merged));
    let files = ["a/adapter_model.safetensors", "b/adapter_model.safetensors"];
    for (input, file) in report.inputs.iter().zip(files) {
        assert_eq!(input.files.iter().map(hash).collect::<Vec<_>>(), [digest::hash(of(file))]);
    }
    let tokenizer = report.companions.iter().find(|it| it.name == "tokenizer.json").unwrap();
    assert_eq!((hash(tokenizer), tokenizer.bytes), (digest::hash(of("b/tokenizer.json")), 2));
    let left_out = Ending { left_out: vec!["tokenizer.json".into()], ..Ending::default() };
    let texts = session.finish(&left_out).unwrap();
    assert!(!texts[2].1.contains("tokenizer.json"), "{}", texts[2].1);
}

#[test]
fn sessions_share_the_jobs_of_a_merge() {
    let disk = disk(&[adapter(0.0, 1.0), adapter(0.25, 3.0)]);
    for options in ["", r#", "space": "product", "rank": "auto", "energy": 0.5"#] {
        let mut alone = open(&disk, options).unwrap();
        run(&mut alone, &disk).unwrap();
        let mut sessions = [open(&disk, options).unwrap(), open(&disk, options).unwrap()];
        let mut turn = 0;
        loop {
            let [first, second] = &mut sessions;
            let (Some(job), Some(_)) = (next(first, &disk).unwrap(), next(second, &disk).unwrap()) else {
                break;
            };
            // what belongs together goes to one of them
            turn = job.module.map_or(turn + 1, |module| module as usize);
            let (worker, other) = if turn % 2 == 0 { (first, second) } else { (second, first) };
            let chunks = chunks(worker, &disk, &job);
            worker.run(job.number, &chunks, |job, bytes, out| job.run(bytes, out)).unwrap();
            other.take(job.number, worker.found()).unwrap();
            assert_eq!(other.take(job.number, worker.found()).unwrap_err().kind(), ErrorKind::Usage);
        }
        for session in &mut sessions {
            assert_eq!(finish(session), finish(&mut alone));
        }
    }
}

#[test]
fn files_without_elements_are_hashed_too() {
    let mut disk = Memory::default();
    for name in ["a", "b"] {
        disk.write(&format!("{name}/model.safetensors"), file(&[("none", &[0, 4], &[])]));
    }
    let mut session = open(&disk, "").unwrap();
    let merged = run(&mut session, &disk).unwrap();
    let texts = finish(&mut session);
    let report: Report = serde_json::from_str(&texts.last().unwrap().1).unwrap();
    assert_eq!(report.outputs[0].blake3, digest::hash(&merged));
}

#[test]
fn a_merge_is_made_again_by_its_report() {
    let disk = disk(&[adapter(0.0, 1.0), adapter(0.25, 3.0)]);
    let mut session = open(&disk, "").unwrap();
    let merged = run(&mut session, &disk).unwrap();
    let report: Report = serde_json::from_str(&finish(&mut session)[2].1).unwrap();
    let paths = disk.list("").map_err(|_| ()).unwrap();
    let mut session = Session::again_by(report.clone(), paths, Some(10), &READERS).unwrap();
    assert_eq!(run(&mut session, &disk).unwrap(), merged);
    let again: Report = serde_json::from_str(&finish(&mut session)[2].1).unwrap();
    assert_eq!((&again.outputs, &again.companions), (&report.outputs, &report.companions));
    let mut session = Session::again_by(report, Vec::new(), None, &READERS).unwrap();
    assert_eq!(session.step().unwrap_err().kind(), ErrorKind::Usage);
}

#[test]
fn a_path_may_be_looked_at_only() {
    let disk = disk(&[adapter(0.0, 1.0), adapter(0.25, 3.0)]);
    let mut session = open(&disk, "").unwrap();
    (session.order.verb, session.order.paths) = (Verb::Inspect, Vec::from(["a".to_string()]));
    assert!(next(&mut session, &disk).unwrap().is_none());
    let inspection = session.inspection().unwrap();
    let [summary] = inspection.checkpoints.as_slice() else { panic!("{inspection:?}") };
    assert_eq!(
        (summary.method.as_deref(), summary.ranks.as_slice(), summary.tensors),
        (Some("LORA"), &[2][..], 3)
    );
    let order = Order { paths: Vec::new(), ..session.order.clone() };
    assert_eq!(Session::open(order, &READERS).unwrap_err().kind(), ErrorKind::Usage);
}

#[test]
fn a_run_may_be_weighed_only() {
    let disk = disk(&[adapter(0.0, 1.0), adapter(0.25, 3.0)]);
    let mut session = open(&disk, "").unwrap();
    session.order.verb = Verb::Weights;
    assert!(next(&mut session, &disk).unwrap().is_none());
    let weights: Vec<_> = session.report().unwrap().inputs.iter().map(|input| input.weight).collect();
    assert_eq!(weights, [0.5, 0.5]);
}

#[test]
fn checkpoints_of_two_runs_are_refused_unless_that_is_allowed() {
    let other = [0.0, 1.0, 0.0, 1.0, 0.0, 1.0];
    let other = file(&[(DOWN, &[2, 3], &other), (UP, &[2, 2], &[0.0; 4]), (HEAD, &[1, 4], &[1.0; 4])]);
    let disk = disk(&[adapter(0.0, 1.0), other]);
    let error = run(&mut open(&disk, "").unwrap(), &disk).unwrap_err();
    assert_eq!((error.kind(), error.at_file()), (ErrorKind::CrossRun, Some("b")));
    let mut allowed = open(&disk, r#", "allow_cross_run": true"#).unwrap();
    run(&mut allowed, &disk).unwrap();
    let notes = allowed.report().unwrap().notes;
    assert!(notes.concat().contains("point in different directions"), "{notes:?}");
}

#[test]
fn a_checkpoint_with_bad_values_is_left_out_if_that_is_wanted() {
    let disk = disk(&[adapter(0.0, 1.0), adapter(0.25, 3.0), adapter(0.0, f32::NAN)]);
    for (options, again) in [("", false), (r#", "drop_bad": true"#, true)] {
        let options =
            format!(r#"{{"scheme": "uniform", "metric": "step", "allow_cross_run": true{options}}}"#);
        let mut session = open(&disk, "").unwrap();
        session.order.options = Options::parse(&options).unwrap();
        session.order.options.weights = Some([1.0, 1.0, 1.0].into());
        let error = run(&mut session, &disk).unwrap_err();
        assert_eq!((error.kind(), error.at_file()), (ErrorKind::NonFinite, Some("c")));
        assert_eq!(session.again(), again);
    }
}

#[test]
fn whole_modules_are_gathered_and_handed_out() {
    let disk = disk(&[adapter(0.0, 1.0), adapter(0.0, 1.0)]);
    for (rank, found) in [(r#""full""#, 4), (r#""auto", "energy": 0.5"#, 1)] {
        let mut session = open(&disk, &format!(r#", "space": "product", "rank": {rank}"#)).unwrap();
        run(&mut session, &disk).unwrap();
        let texts = finish(&mut session);
        assert!(texts[0].1.contains(&format!("\"r\": {found},")), "{}", texts[0].1);
        assert!(texts[2].1.contains("\"space\": \"product\""), "{}", texts[2].1);
    }
}

#[test]
fn jobs_that_depend_on_others_wait_for_them() {
    let disk = disk(&[adapter(0.0, 1.0), adapter(0.25, 1.0)]);
    let mut session = open(&disk, "").unwrap();
    let mut jobs = Vec::new();
    let error = loop {
        match next(&mut session, &disk) {
            Ok(job) => jobs.push(job.expect("the comparison was not run yet")),
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::Usage);
    assert!(jobs.iter().all(|job| job.writes.is_empty()));
    for job in jobs {
        let chunks = chunks(&session, &disk, &job);
        session.run(job.number, &chunks, |job, bytes, out| job.run(bytes, out)).unwrap();
    }
    assert!(!next(&mut session, &disk).unwrap().expect("a sum").writes.is_empty());
}

#[test]
fn what_makes_no_sense_is_refused() {
    let disk = disk(&[adapter(0.0, 1.0), adapter(0.25, 1.0)]);
    for options in [r#", "rank": 3"#, r#", "space": "product", "rank": 0"#, r#", "penalty": 1"#] {
        let error = open(&disk, options).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Usage, "{error}");
    }
    let order = Order { verb: Verb::Verify, ..open(&disk, "").unwrap().order };
    assert_eq!(Session::open(order, &READERS).unwrap_err().kind(), ErrorKind::Usage, "only by a report");
    let mut session = open(&disk, "").unwrap();
    assert_eq!(
        session.run(0, &[], |job, bytes, out| job.run(bytes, out)).unwrap_err().kind(),
        ErrorKind::Usage
    );
    session.step().unwrap();
    let error = session.tell(Vec::new()).unwrap_err();
    assert_eq!(error.to_string(), "2 questions were asked, and 0 answered");
    assert!(session.finish(&Ending::default()).is_err(), "nothing is planned");
}

#[test]
fn tensors_in_pieces_cross_piece_by_piece() {
    const PARTS: [(&str, &[u8]); 3] = [
        (
            "mp_rank_00_model_states.pt",
            include_bytes!("../../tests/data/training/zero2/global_step3/mp_rank_00_model_states.pt"),
        ),
        (
            "bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt",
            include_bytes!(
                "../../tests/data/training/zero2/global_step3/bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt"
            ),
        ),
        (
            "bf16_zero_pp_rank_1_mp_rank_00_optim_states.pt",
            include_bytes!(
                "../../tests/data/training/zero2/global_step3/bf16_zero_pp_rank_1_mp_rank_00_optim_states.pt"
            ),
        ),
    ];
    let mut disk = Memory::default();
    for folder in ["a", "b"] {
        PARTS.iter().for_each(|(name, bytes)| disk.write(&format!("{folder}/{name}"), bytes.to_vec()));
    }
    let mut session = open(&disk, r#", "allow_cross_run": true"#).unwrap();
    let merged = run(&mut session, &disk).unwrap();
    // both are the same, and so is what is halfway between them
    let expected = include_bytes!("../../tests/data/training/zero2/expected.safetensors");
    let numbers = |bytes: &[u8], name: &str| {
        let header = crate::safetensors::Header::parse(bytes, bytes.len() as u64).unwrap();
        let tensor = header.tensors().iter().find(|tensor| tensor.name == name).unwrap();
        bytes[tensor.range.start as usize..tensor.range.end as usize].to_vec()
    };
    for name in ["embed.weight", "layers.0.q_proj.weight", "layers.1.norm.weight", "lm_head.weight"] {
        assert_eq!(numbers(&merged, name), numbers(expected, name), "{name}");
    }
    let report: Report = serde_json::from_str(&finish(&mut session).last().unwrap().1).unwrap();
    for (file, (name, bytes)) in report.inputs[1].files.iter().zip(PARTS) {
        assert_eq!((&*file.name, &file.blake3), (name, &digest::hash(bytes)));
    }
}
