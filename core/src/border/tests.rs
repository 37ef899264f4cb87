//! Tests of sessions: what crosses is small, and all that the merge refuses and notes is refused and noted here.
#![expect(clippy::cast_possible_truncation, reason = "the files are small")]

use super::*;
use crate::merge::tests::{CONFIG, DOWN, HEAD, UP, adapter, closing, file};
use crate::method::product::{Rank, Space};

fn order(json: &str) -> Order {
    serde_json::from_str(&format!(r#"{{"weighing": {{"explicit": [0.5, 0.5]}}, "chunk": 10{json}}}"#))
        .unwrap()
}

fn open(files: &[Vec<u8>], config: &str, order: &Order) -> Result<Session> {
    let checkpoint = |(bytes, name): (&Vec<u8>, &str)| {
        let head = Head {
            name: "adapter_model.safetensors".into(),
            bytes: bytes.clone(),
            length: bytes.len() as u64,
        };
        Checkpoint { name: name.into(), step: None, config: Some(config.into()), files: vec![head] }
    };
    let checkpoints: Vec<_> = files.iter().zip(["a", "b", "c"]).map(checkpoint).collect();
    Session::open(&checkpoints, order)
}

fn run(session: &mut Session, files: &[Vec<u8>]) -> Result<Vec<u8>> {
    let mut pieces = Vec::new();
    while let Some(job) = session.next_job()? {
        let lengths: Vec<_> = job.reads.iter().map(|read| read.range.end - read.range.start).collect();
        assert!(lengths.iter().all(|length| *length <= 10), "{lengths:?}");
        let slice = |it: &Read| &files[it.input][it.range.start as usize..it.range.end as usize];
        let chunks: Vec<_> = job.reads.iter().map(slice).collect();
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

#[test]
fn averages_what_crosses_in_small_chunks() {
    let files = [adapter(0.0, 1.0), adapter(0.25, 3.0)];
    let mut session = open(&files, CONFIG, &order(r#", "residual": "auto""#)).unwrap();
    assert_eq!(run(&mut session, &files).unwrap(), adapter(0.125, 2.0));
    let texts = session.texts(&closing(&files)).unwrap();
    assert_eq!(texts[2].0, "mwa-report.json");
    assert!(texts[2].1.contains("\"residual\""), "{}", texts[2].1);
}

#[test]
fn checkpoints_of_two_runs_are_refused_unless_that_is_allowed() {
    let other = [0.0, 1.0, 0.0, 1.0, 0.0, 1.0];
    let other = file(&[(DOWN, &[2, 3], &other), (UP, &[2, 2], &[0.0; 4]), (HEAD, &[1, 4], &[1.0; 4])]);
    let files = [adapter(0.0, 1.0), other];
    let error = run(&mut open(&files, CONFIG, &order("")).unwrap(), &files).unwrap_err();
    assert_eq!((error.kind(), error.at_file()), (ErrorKind::CrossRun, Some("b")));
    let mut allowed = open(&files, CONFIG, &order(r#", "allow_cross_run": true"#)).unwrap();
    run(&mut allowed, &files).unwrap();
    assert!(allowed.notes().concat().contains("point in different directions"), "{:?}", allowed.notes());
}

#[test]
fn whole_modules_are_gathered_and_handed_out() {
    let files = [adapter(0.0, 1.0), adapter(0.0, 1.0)];
    for (rank, found) in [("\"full\"", 4), (r#"{"energy": 0.5}"#, 1)] {
        let order = order(&format!(r#", "space": {{"product": {rank}}}"#));
        let mut session = open(&files, CONFIG, &order).unwrap();
        run(&mut session, &files).unwrap();
        let texts = session.texts(&closing(&files)).unwrap();
        assert!(texts[0].1.contains(&format!("\"r\": {found},")), "{}", texts[0].1);
        assert!(texts[2].1.contains("\"space\": \"product\""), "{}", texts[2].1);
    }
}

#[test]
fn jobs_that_depend_on_others_wait_for_them() {
    let files = [adapter(0.0, 1.0), adapter(0.25, 1.0)];
    let mut session = open(&files, CONFIG, &order("")).unwrap();
    let mut reads = Vec::new();
    let error = loop {
        match session.next_job() {
            Ok(job) => reads.push(job.expect("the comparison was not run yet")),
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::Usage);
    assert!(reads.iter().all(|job| job.writes.is_empty()));
    let slice = |it: &Read| &files[it.input][it.range.start as usize..it.range.end as usize];
    for job in reads {
        let chunks: Vec<_> = job.reads.iter().map(slice).collect();
        session.run(job.number, &chunks, |job, bytes, out| job.run(bytes, out)).unwrap();
    }
    assert!(!session.next_job().unwrap().expect("a sum").writes.is_empty());
}

#[test]
fn a_rank_that_cannot_be_is_refused() {
    let files = [adapter(0.0, 1.0), adapter(0.25, 1.0)];
    for space in [Space::Product(Some(Rank::Fixed(0))), Space::Product(Some(Rank::Energy(1.5)))] {
        let error = open(&files, CONFIG, &Order { space, ..order("") }).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Usage, "{error}");
    }
}
