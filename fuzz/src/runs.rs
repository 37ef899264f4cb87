//! The texts of a run: whatever a config, an index, a log or a table says, weights sum to one, and the merge made of it ends.

use mwa::merge::{Bytes, Cut, Findings, Merge, Next};
use mwa::{AdapterConfig, MergeOptions, OpenOptions, Readers, Run, UserTable, WeighOptions};

use super::files::{CONFIG, Memory, adapter, now};

/// A run of three adapters with the log of a Trainer.
pub(crate) fn example() -> Memory {
    let mut run = Memory::default();
    for (at, step) in [10, 20, 30].iter().enumerate() {
        let folder = format!("run/checkpoint-{step}");
        run.write(&format!("{folder}/adapter_config.json"), CONFIG.as_bytes());
        run.write(&format!("{folder}/adapter_model.safetensors"), &adapter(u8::try_from(at).expect("few")));
        let state = format!(
            r#"{{"global_step": {step}, "log_history": [{{"step": {step}, "eval_loss": {at}.5, "epoch": 1}}]}}"#
        );
        run.write(&format!("{folder}/trainer_state.json"), state.as_bytes());
    }
    run
}

/// Open, weigh and merge: an error is as good as a result, but a result must be sound.
pub(crate) fn merge(files: &Memory, table: Option<UserTable>, metric: Option<&str>) {
    let Ok(run) = now(Run::open(files, &Readers::ALL, &["run".into()], &OpenOptions::default())) else {
        return;
    };
    let mut options = WeighOptions { table, ..WeighOptions::default() };
    options.choose.metric.name = metric.map(String::from);
    let Ok(weighed) = run.weigh(&options) else { return };
    let weights = weighed.weights.values();
    assert_eq!(weights.len(), weighed.indexes.len());
    assert!(weights.iter().all(|weight| weight.is_finite() && *weight >= 0.0), "{weights:?}");
    assert!((weights.iter().sum::<f64>() - 1.0).abs() < 1e-9, "{weights:?}");
    for reading in weighed.readings.iter().flatten() {
        assert!(reading.value.is_finite());
    }
    let paths: Vec<Vec<String>> = weighed.indexes.iter().map(|&at| paths(&run, at)).collect();
    let Ok(mut merge) = Merge::new(run.chosen(weighed), MergeOptions::default(), Cut::default()) else {
        return;
    };
    while let Ok(Next::Jobs(numbers)) = merge.next() {
        let mut findings = Findings::default();
        for number in numbers {
            let job = merge.job(number);
            let bytes = |read: mwa::Read| {
                now(mwa::Files::read(files, &paths[read.input][read.file], read.range)).expect("it was found")
            };
            let inputs: Vec<_> = job.reads().map(bytes).collect();
            let inputs: Vec<&[u8]> = inputs.iter().map(|bytes| &**bytes).collect();
            let length = |write: mwa::Write| usize::try_from(write.range.end - write.range.start);
            let mut outputs: Vec<_> = job.writes().map(|it| vec![0; length(it).expect("small")]).collect();
            let mut rooms: Vec<_> = outputs.iter_mut().map(Vec::as_mut_slice).collect();
            let Ok(found) = job.run(Bytes::Whole(&inputs), &mut rooms) else { return };
            findings.add(number, found);
        }
        if merge.take(findings).is_err() {
            return;
        }
    }
    let report = merge.preview().to_json();
    assert!(serde_json::from_str::<mwa::Report>(&report).is_ok(), "a report can be read again: {report}");
}

fn paths(run: &Run, at: usize) -> Vec<String> {
    run.checkpoints[at].files.iter().map(|file| file.path.clone()).collect()
}

/// The config of one of the adapters.
pub(crate) fn configs(bytes: &[u8]) {
    let mut files = example();
    files.write("run/checkpoint-20/adapter_config.json", bytes);
    if let Ok(text) = core::str::from_utf8(bytes)
        && let Ok(config) = AdapterConfig::parse(text)
    {
        let written = config.rewritten(&[("r", 7.into())]);
        let again = AdapterConfig::parse(&written).expect("what is written can be read");
        assert_eq!((again.r(), again.peft_type()), (Some(7), config.peft_type()));
        // the same for all of them, so that they agree
        for step in [10, 30] {
            files.write(&format!("run/checkpoint-{step}/adapter_config.json"), bytes);
        }
    }
    merge(&files, None, None);
}

/// The index of a model in shards.
pub(crate) fn indexes(bytes: &[u8]) {
    let mut files = Memory::default();
    for step in [10, 20] {
        let folder = format!("run/checkpoint-{step}");
        for name in ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"] {
            files.write(&format!("{folder}/{name}"), &adapter(step));
        }
        files.write(&format!("{folder}/model.safetensors.index.json"), bytes);
        files.write(&format!("{folder}/config.json"), b"{}");
    }
    merge(&files, None, None);
}

/// A log; the first byte says which, and where.
pub(crate) fn logs(bytes: &[u8]) {
    let Some((which, bytes)) = bytes.split_first() else { return };
    let names: Vec<&str> = Readers::ALL.logs.iter().flat_map(|kind| kind.names).copied().collect();
    let name = match names[usize::from(which >> 2) % names.len()] {
        // MLflow's are named as their metrics, in a folder
        "*" => "metrics/eval_loss".to_owned(),
        name => name.replace('*', "x"),
    };
    let mut files = example();
    if which & 1 != 0 {
        files.0.retain(|(path, _)| !path.ends_with("trainer_state.json"));
    }
    let folder = if which & 2 == 0 { "run/checkpoint-30" } else { "run" };
    files.write(&format!("{folder}/{name}"), bytes);
    merge(&files, None, None);
    merge(&files, None, Some("loss"));
}

/// A table of metrics; the first byte says how its file is called.
pub(crate) fn tables(bytes: &[u8]) {
    let Some((which, bytes)) = bytes.split_first() else { return };
    let Ok(text) = core::str::from_utf8(bytes) else { return };
    let name = ["scores.csv", "scores.tsv", "scores.json", "scores.jsonl"][usize::from(which & 3)];
    for metric in [None, Some("f1")] {
        let table = UserTable { name: name.into(), text: text.into() };
        merge(&example(), Some(table), metric);
    }
}
