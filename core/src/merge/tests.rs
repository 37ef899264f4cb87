//! Tests of the merge: what it refuses, notes and reports, in both spaces; that jobs may be run in any order.
#![expect(clippy::cast_possible_truncation, reason = "the files are small")]

use alloc::format;
use alloc::vec;

use super::*;
use crate::dtype::Dtype;
use crate::format::safetensors::Header;
use crate::method::blend::Trimming;
use crate::plan::Read;

pub(crate) const CONFIG: &str = r#"{"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q"]}"#;

/// A file of f32 tensors of these shapes.
pub(crate) fn file(tensors: &[(&str, &[u64], &[f32])]) -> Vec<u8> {
    let laid = tensors.iter().map(|(name, shape, _)| ((*name).into(), Dtype::F32, shape.to_vec()));
    let header = Header::layout(laid, Default::default()).unwrap();
    let mut bytes = header.to_bytes();
    for tensor in header.tensors() {
        let (.., values) = tensors.iter().find(|(name, ..)| *name == tensor.name).unwrap();
        bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    }
    bytes
}

pub(crate) const DOWN: &str = "base_model.model.layers.0.q.lora_A.weight";
pub(crate) const UP: &str = "base_model.model.layers.0.q.lora_B.weight";
pub(crate) const HEAD: &str = "base_model.model.head.modules_to_save.weight";

/// An adapter of rank 2 whose factors point to where `turn` says, and a head of one value.
pub(crate) fn adapter(turn: f32, head: f32) -> Vec<u8> {
    let down = [1.0, turn, 0.5, 0.0, 1.0 - turn, 0.25];
    let up = [0.5 + turn, 0.0, 0.25, 1.0];
    file(&[(DOWN, &[2, 3], &down), (UP, &[2, 2], &up), (HEAD, &[1, 4], &[head; 4])])
}

fn input(name: &str, bytes: &[u8]) -> Input {
    let header = Header::parse(bytes, bytes.len() as u64).unwrap();
    Input { name: name.into(), files: vec![Shard { name: "adapter_model.safetensors".into(), header }] }
}

fn open(files: &[Vec<u8>], config: &str, weights: &[f64], options: MergeOptions) -> Result<Merge> {
    let inputs = files.iter().zip(["a", "b", "c", "d", "e"]).map(|(file, name)| input(name, file)).collect();
    let configs = files.iter().map(|_| Some(AdapterConfig::parse(config).unwrap())).collect();
    Merge::new(Chosen::explicit(inputs, configs, weights)?, options, Cut { max_bytes: 4, by_tensor: false })
}

/// What a host would do, last jobs first; the file that comes out.
fn run(merge: &mut Merge, files: &[Vec<u8>]) -> Result<Vec<u8>> {
    let mut written = Vec::new();
    while let Next::Jobs(numbers) = merge.next()? {
        assert_eq!(merge.next(), Ok(Next::Wait), "nothing goes on before these were told of");
        let (mut findings, mut read) = (Findings::default(), 0);
        for number in numbers.rev() {
            let job = merge.job(number);
            let slice = |it: Read| &files[it.input][it.range.start as usize..it.range.end as usize];
            let inputs: Vec<_> = job.reads().map(slice).collect();
            read += inputs.iter().map(|bytes| bytes.len() as u64).sum::<u64>();
            let mut outputs: Vec<_> =
                job.writes().map(|it| vec![0; (it.range.end - it.range.start) as usize]).collect();
            let mut rooms: Vec<_> = outputs.iter_mut().map(Vec::as_mut_slice).collect();
            findings.add(number, job.run(Bytes::Whole(&inputs), &mut rooms)?);
            written.extend(job.writes().zip(outputs));
        }
        assert_eq!(read, merge.bytes());
        merge.take(findings)?;
    }
    let mut merged = merge.head(0);
    merged.resize(merge.outputs()[0].header.file_len() as usize, 0xaa);
    for (write, bytes) in written {
        merged[write.range.start as usize..write.range.end as usize].copy_from_slice(&bytes);
    }
    Ok(merged)
}

pub(crate) fn closing(files: &[Vec<u8>]) -> Closing {
    let hash = |bytes: &Vec<u8>| format!("{bytes:?}").into();
    Closing {
        inputs: files.iter().map(|file| vec![hash(file)]).collect(),
        outputs: vec!["out".to_string().into()],
        ..Closing::default()
    }
}

const PRODUCT: Space = Space::Product(Some(Rank::Inputs));

#[test]
fn averages_elements_and_measures_the_residual() {
    let files = [adapter(0.0, 1.0), adapter(0.25, 3.0)];
    let mut merge = open(&files, CONFIG, &[0.5, 0.5], MergeOptions::default()).unwrap();
    let merged = run(&mut merge, &files).unwrap();
    assert_eq!(merged, adapter(0.125, 2.0));
    let finished = merge.finish(&closing(&files)).unwrap();
    let residual = finished.report.residual.expect("it was asked for");
    assert_eq!(residual.modules[0].module, "layers.0.q");
    assert!(residual.overall > 0.001 && residual.overall < 0.1, "{}", residual.overall);
    assert_eq!(finished.report.notes, [""; 0]);
    let names: Vec<_> = finished.texts.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["adapter_config.json", "README.md", "mwa-report.json"]);
    assert_eq!(merge.next(), Ok(Next::Done));
}

#[test]
fn advice_tells_one_run_from_several_by_the_folders_of_the_inputs() {
    let files = [adapter(0.0, 1.0), adapter(0.25, 3.0)];
    let mut merge = open(&files, CONFIG, &[0.5, 0.5], MergeOptions::default()).unwrap();
    run(&mut merge, &files).unwrap();
    let mut report = merge.finish(&closing(&files)).unwrap().report;
    report.residual.as_mut().unwrap().overall = 0.5;
    for (names, is_one) in [
        (["run/checkpoint-1", "run/checkpoint-2"], true),
        // named from within the run
        (["checkpoint-1", "checkpoint-2"], true),
        (["run/checkpoint-1", "other/checkpoint-2"], false),
        (["checkpoint-1", "other/checkpoint-2"], false),
    ] {
        report.inputs.iter_mut().zip(names).for_each(|(input, name)| input.name = name.into());
        report.advice.clear();
        report.advise();
        let [advice] = report.advice.as_slice() else { panic!("{:?}", report.advice) };
        assert_eq!(advice.text.contains("are of different runs"), !is_one, "{names:?}: {}", advice.text);
    }
    // tasks that are one: models in one folder are not, but by their names
    report.residual = None;
    report.weighting.method = Some("ties".into());
    for (names, is_told) in [(["a/checkpoint-1", "a/checkpoint-2"], true), (["a/math", "a/code"], false)] {
        report.inputs.iter_mut().zip(names).for_each(|(input, name)| input.name = name.into());
        report.advice.clear();
        report.advise();
        assert_eq!(
            report.advice.iter().any(|it| it.text.contains("these 2 checkpoints")),
            is_told,
            "{names:?}"
        );
    }
}

/// A base and tasks of one tensor, whose values differ from it by these.
fn tasks(changes: &[&[f32]]) -> Vec<Vec<u8>> {
    let base = [1.0, -2.0, 0.5, 4.0, -8.0, 0.25, 3.0, 1.5];
    let of = |changes: &[f32]| {
        let moved: Vec<_> = base.iter().zip(changes.iter().chain(&[0.0; 8])).map(|(b, c)| b + c).collect();
        file(&[("a.weight", &[3], &moved[..3]), ("b.weight", &[5], &moved[3..])])
    };
    [&[][..]].iter().chain(changes).map(|changes| of(changes)).collect()
}

fn over_base(files: &[Vec<u8>], blend: Blend) -> Result<Merge> {
    let inputs: Vec<_> =
        files.iter().zip(["a", "b", "c", "d"]).map(|(file, name)| input(name, file)).collect();
    let weights: Vec<_> = (0..files.len()).map(|i| if i == 0 { 0.0 } else { 1.0 }).collect();
    let configs = files.iter().map(|_| None).collect();
    let chosen = Chosen { has_base: true, ..Chosen::explicit(inputs, configs, &weights)? };
    let options = MergeOptions { blend, ..MergeOptions::default() };
    Merge::new(chosen, options, Cut { max_bytes: 8, by_tensor: false })
}

#[test]
fn ties_keeps_what_is_largest_and_most_agree_on() {
    let files =
        tasks(&[&[1.0, 0.0, 0.25, -2.0, 0.0, 0.5], &[2.0, 0.0, -4.0, 1.0, 0.0, 0.25], &[-0.5, 8.0, 0.25]]);
    let trimming = |density, is_by_tensor| Trimming { density, is_by_tensor };
    // the third largest of eight each: 0.5, 1 and 0.25
    let mut merge = over_base(&files, Blend::Ties(None, trimming(0.375, false))).unwrap();
    let merged = run(&mut merge, &files).unwrap();
    assert_eq!(merged, tasks(&[&[1.5, 8.0, -4.0, -2.0, 0.0, 0.5]])[1]);
    // one of three and one of five: 1, 4 and 8; 2, 1 and 0
    let mut merge = over_base(&files, Blend::Ties(Some(0.5), trimming(0.375, true))).unwrap();
    let merged = run(&mut merge, &files).unwrap();
    assert_eq!(merged, tasks(&[&[0.5, 4.0, -2.0, -1.0]])[1]);
    // of one task it is trimming
    let mut merge = over_base(&files[..2], Blend::Ties(None, trimming(0.25, false))).unwrap();
    assert_eq!(run(&mut merge, &files[..2]).unwrap(), tasks(&[&[1.0, 0.0, 0.0, -2.0]])[1]);
    let mut merge = over_base(&files[..2], Blend::Masked(None, trimming(0.25, false))).unwrap();
    assert_eq!(run(&mut merge, &files[..2]).unwrap(), tasks(&[&[1.0, 0.0, 0.0, -2.0]])[1]);
    let report = merge.finish(&closing(&files[..2])).unwrap().report;
    assert_eq!(
        (report.weighting.method.as_deref(), report.weighting.density),
        (Some("magnitude-mask"), Some(0.25))
    );
}

#[test]
fn tasks_are_added_to_their_base() {
    let files = tasks(&[&[1.0, 0.0, 0.25, -2.0], &[2.0, 0.0, -4.0, 1.0]]);
    for (scale, changes) in
        [(None, [1.5, 0.0, -1.875, -0.5]), (Some(1.0), [3.0, 0.0, -3.75, -1.0]), (Some(0.0), [0.0; 4])]
    {
        let mut merge = over_base(&files, Blend::Sum(scale)).unwrap();
        assert_eq!(run(&mut merge, &files).unwrap(), tasks(&[&changes])[1]);
    }
    let error = over_base(&files, Blend::Mean).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Usage);
    let odd = [files[0].clone(), file(&[("a.weight", &[4], &[1.0; 4]), ("b.weight", &[5], &[1.0; 5])])];
    let error = over_base(&odd, Blend::Sum(None)).unwrap_err();
    assert_eq!((error.kind(), error.at_tensor()), (ErrorKind::Shape, Some("a.weight")));
}

#[test]
fn inputs_of_two_runs_are_refused_unless_that_is_allowed() {
    let other = file(&[
        (DOWN, &[2, 3], &[0.0, 1.0, 0.0, 1.0, 0.0, 1.0]),
        (UP, &[2, 2], &[0.0; 4]),
        (HEAD, &[1, 4], &[1.0; 4]),
    ]);
    let files = [adapter(0.0, 1.0), other];
    let mut merge = open(&files, CONFIG, &[0.5, 0.5], MergeOptions::default()).unwrap();
    let error = run(&mut merge, &files).unwrap_err();
    assert_eq!((error.kind(), error.at_file()), (ErrorKind::CrossRun, Some("b")));
    let allowed = MergeOptions { allow_cross_run: true, ..MergeOptions::default() };
    let mut merge = open(&files, CONFIG, &[0.5, 0.5], allowed).unwrap();
    run(&mut merge, &files).unwrap();
    assert!(merge.notes()[0].starts_with("a and b point in different directions"), "{:?}", merge.notes());
    let dora = CONFIG.replace("\"r\"", "\"use_dora\": true, \"r\"");
    let mut merge = open(&files, &dora, &[0.5, 0.5], allowed).unwrap();
    assert_eq!(
        run(&mut merge, &files).unwrap_err().kind(),
        ErrorKind::CrossRun,
        "DoRA forbids it in any case"
    );
    let mut merge = open(&files, CONFIG, &[0.5, 0.5], MergeOptions { space: PRODUCT, ..allowed }).unwrap();
    run(&mut merge, &files).expect("products have no basis to share");
    assert_eq!(merge.notes(), [""; 0]);
}

#[test]
fn heads_that_runs_began_anew_have_no_average() {
    let head = |values: [f32; 4]| {
        file(&[
            (DOWN, &[2, 3], &[1.0, 0.0, 0.5, 0.0, 1.0, 0.25]),
            (UP, &[2, 2], &[0.5, 0.0, 0.25, 1.0]),
            (HEAD, &[1, 4], &values),
        ])
    };
    let files = [head([1.0, 1.0, 0.0, 0.0]), head([0.0, 0.1, 1.0, 1.0])];
    let of_runs = |files: &[Vec<u8>], runs: &[usize], options| {
        let inputs = files.iter().zip(["a", "b"]).map(|(file, name)| input(name, file)).collect();
        let configs = files.iter().map(|_| Some(AdapterConfig::parse(CONFIG).unwrap())).collect();
        let chosen = Chosen { runs: runs.into(), ..Chosen::explicit(inputs, configs, &[0.5, 0.5]).unwrap() };
        let mut merge = Merge::new(chosen, options, Cut::default()).unwrap();
        run(&mut merge, files).map(|_| merge.notes())
    };
    let product = |rank| MergeOptions { space: Space::Product(Some(rank)), ..MergeOptions::default() };
    // where ranks are found first, too
    for options in [MergeOptions::default(), product(Rank::Full), product(Rank::Energy(0.9))] {
        let error = of_runs(&files, &[0, 1], options).unwrap_err();
        assert_eq!(
            (error.kind(), error.at_file(), error.at_tensor()),
            (ErrorKind::CrossRun, Some("b"), Some(HEAD))
        );
        assert!(error.detail().contains("cosine is 0.05"), "{}", error.detail());
        let is_told = |notes: Vec<String>| notes.iter().any(|note| note.contains("their average is neither"));
        assert!(!is_told(of_runs(&files, &[0, 0], options).unwrap()), "of one run");
        let allowed = MergeOptions { allow_cross_run: true, ..options };
        assert!(is_told(of_runs(&files, &[0, 1], allowed).unwrap()));
        let shared = [head([1.0, 1.0, 0.0, 0.0]), head([1.0, 0.9, 0.1, 0.0])];
        assert!(!is_told(of_runs(&shared, &[0, 1], options).unwrap()));
    }
}

#[test]
fn modules_may_have_weights_of_their_own() {
    let files = [adapter(0.0, 1.0), adapter(0.25, 3.0)];
    let group = |modules: &str, weights: [f64; 2]| report::Group {
        modules: modules.into(),
        layer: None,
        weights: weights.into(),
        count: 1,
    };
    let merged = |groups: &[report::Group], weights: [f64; 2], options| {
        let inputs = files.iter().zip(["a", "b"]).map(|(file, name)| input(name, file)).collect();
        let configs = files.iter().map(|_| Some(AdapterConfig::parse(CONFIG).unwrap())).collect();
        let chosen = Chosen { groups: groups.into(), ..Chosen::explicit(inputs, configs, &weights).unwrap() };
        let mut merge = Merge::new(chosen, options, Cut::default())?;
        let bytes = run(&mut merge, &files)?;
        Ok::<_, Error>((bytes, merge.finish(&closing(&files)).unwrap().report))
    };
    let plain = MergeOptions::default();
    // both factors of the module take its weights, the head takes those that all have
    let (bytes, told) = merged(&[group("q", [0.5, 0.5])], [0.25, 0.75], plain).unwrap();
    let mixed = |factors: f32, head: f32| adapter(factors, head);
    assert_eq!(bytes, mixed(0.125, 2.5));
    assert_eq!(told.describe_groups(), ["q: 0.5000 0.5000 (1 module)"]);
    assert_eq!(told.groups, serde_json::from_str::<report::Report>(&told.to_json()).unwrap().groups);
    // as without rules where these are the same as all have, and never a copy of one input's files
    let same = |options| merged(&[group("q", [0.25, 0.75])], [0.25, 0.75], options).unwrap().0;
    let product = MergeOptions { space: Space::Product(Some(Rank::Full)), ..plain };
    for options in [plain, product] {
        assert_eq!(same(options), merged(&[], [0.25, 0.75], options).unwrap().0);
    }
    assert_eq!(merged(&[group("q", [0.5, 0.5])], [0.0, 1.0], plain).unwrap().0, mixed(0.125, 3.0));
    // in product space an input without weight elsewhere counts in its module, and the other way round
    let (own, _) = merged(&[group("q", [1.0, 0.0])], [0.0, 1.0], product).unwrap();
    let (alone, _) = merged(&[], [1.0, 0.0], MergeOptions { rewrite: true, ..product }).unwrap();
    // the head lies first
    let factors = |bytes: &[u8]| bytes[bytes.len() - 40..].to_vec();
    assert_eq!(factors(&own), factors(&alone));
    let error = merged(&[group("q", [0.5, 0.2])], [0.5, 0.5], plain).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Weights);
}

#[test]
fn values_that_become_zero_are_noted_in_both_spaces() {
    let files = [adapter(0.0, 1e-9), adapter(0.25, 1e-9)];
    for space in [Space::Factors, PRODUCT] {
        let options = MergeOptions { dtype: Some(Float::F16), space, ..MergeOptions::default() };
        let mut merge = open(&files, CONFIG, &[0.5, 0.5], options).unwrap();
        run(&mut merge, &files).unwrap();
        assert!(
            merge.notes().concat().contains("4 of 14 values became zero"),
            "{space:?} {:?}",
            merge.notes()
        );
    }
}

#[test]
fn what_differs_in_configs_is_refused_where_factors_are_averaged() {
    let files = [adapter(0.0, 1.0), adapter(0.25, 1.0)];
    let inputs = vec![input("a", &files[0]), input("b", &files[1])];
    let configs = [CONFIG, &CONFIG.replace("\"lora_alpha\": 4", "\"lora_alpha\": 8")]
        .map(|it| AdapterConfig::parse(it).ok());
    let chosen = Chosen::explicit(inputs, configs.into(), &[0.5, 0.5]).unwrap();
    let error = Merge::new(chosen.clone(), MergeOptions::default(), Cut::default()).unwrap_err();
    assert_eq!((error.kind(), error.detail()), (ErrorKind::Config, "lora_alpha is 8, but 4 in a"));
    Merge::new(chosen, MergeOptions { space: PRODUCT, ..MergeOptions::default() }, Cut::default()).unwrap();
}

#[test]
fn ranks_are_surveyed_before_there_are_outputs() {
    let files = [adapter(0.0, 1.0), adapter(0.25, 1.0)];
    let space = Space::Product(Some(Rank::Energy(0.5)));
    let mut merge =
        open(&files, CONFIG, &[0.5, 0.5], MergeOptions { space, ..MergeOptions::default() }).unwrap();
    assert!(merge.outputs().is_empty());
    run(&mut merge, &files).unwrap();
    let finished = merge.finish(&closing(&files)).unwrap();
    assert_eq!(finished.report.residual.unwrap().modules[0].rank, Some(1));
    assert!(finished.texts[0].1.contains("\"r\": 1"), "{}", finished.texts[0].1);
}

#[test]
fn one_input_alone_is_copied_head_and_all() {
    let mut files = [adapter(0.0, 1.0), adapter(0.25, f32::NAN)];
    files[1].insert(8, b' '); // a head as no writer of ours makes it
    let length = u64::from_le_bytes(files[1][..8].try_into().unwrap()) + 1;
    files[1][..8].copy_from_slice(&length.to_le_bytes());
    let mut merge = open(&files, CONFIG, &[0.0, 1.0], MergeOptions::default()).unwrap();
    assert_eq!((merge.copied(), merge.owner()), (Some(1), 1));
    assert_eq!(run(&mut merge, &files).unwrap(), files[1]);
    assert_eq!(merge.notes(), ["only b has weight: its files are copied as they are"]);
}

#[test]
fn a_bad_tensor_names_the_input_to_leave_out() {
    let files = [adapter(0.0, f32::INFINITY), adapter(0.25, 1.0)];
    for space in [Space::Factors, PRODUCT] {
        let mut merge =
            open(&files, CONFIG, &[0.5, 0.5], MergeOptions { space, ..MergeOptions::default() }).unwrap();
        let error = run(&mut merge, &files).unwrap_err();
        assert_eq!(
            (error.kind(), error.at_file(), error.at_tensor()),
            (ErrorKind::NonFinite, Some("a"), Some(HEAD))
        );
        let bad = merge.bad_input(&error).unwrap();
        let note = bad.note();
        assert_eq!(bad.input, 0);
        assert!(note.starts_with("a is dropped: tensor `base_model.model.head"), "{note}");
    }
}

#[test]
fn twins_and_weights_that_do_not_sum_to_1_are_told_of() {
    let files = [adapter(0.0, 1.0), adapter(0.25, 1.0), adapter(0.25, 1.0)];
    let mut merge = open(&files, CONFIG, &[1.0, 1.0, 2.0], MergeOptions::default()).unwrap();
    run(&mut merge, &files).unwrap();
    let finished = merge.finish(&closing(&files)).unwrap();
    assert_eq!(
        finished.report.notes,
        [
            "the weights sum to 4; they are divided by that, so that they sum to 1",
            "b and c hold the same weights, byte for byte"
        ]
    );
    let weights: Vec<_> = finished.report.inputs.iter().map(|input| input.weight).collect();
    assert_eq!(weights, [0.25, 0.25, 0.5]);
}

#[test]
fn each_job_is_told_of_once() {
    let files = [adapter(0.0, 1.0), adapter(0.25, 1.0)];
    let mut merge = open(&files, CONFIG, &[0.5, 0.5], MergeOptions::default()).unwrap();
    let Next::Jobs(first) = merge.next().unwrap() else { panic!("the inputs are compared") };
    assert_eq!(first, 0..1);
    let early = merge.found(1, Found::Tally(Tally::default())).unwrap_err();
    assert_eq!(early.kind(), ErrorKind::Usage);
    let mut merge = open(&files, CONFIG, &[0.5, 0.5], MergeOptions::default()).unwrap();
    merge.next().unwrap();
    merge.found(0, Found::Cosines(vec![1.0])).unwrap();
    assert_eq!(merge.found(0, Found::Cosines(vec![1.0])).unwrap_err().kind(), ErrorKind::Usage);
    let Next::Jobs(main) = merge.next().unwrap() else { panic!("the sums") };
    let (sums, residual) = (main.start..main.end - 1, main.end - 1);
    assert_eq!(merge.alike(main.start), sums, "all tensors lie side by side");
    assert_eq!(merge.alike(residual), residual..main.end);
}

#[test]
fn jobs_by_tensor_stay_within_one() {
    let files = [adapter(0.0, 1.0), adapter(0.25, 1.0)];
    let inputs = vec![input("a", &files[0]), input("b", &files[1])];
    let chosen = Chosen::explicit(inputs, vec![None, None], &[0.5, 0.5]).unwrap();
    let cut = Cut { by_tensor: true, ..Cut::default() };
    let options = MergeOptions { residual: Measure::Off, ..MergeOptions::default() };
    let mut merge = Merge::new(chosen, options, cut).unwrap();
    merge.next().unwrap();
    merge.found(0, Found::Cosines(vec![f64::NAN])).unwrap();
    let Next::Jobs(numbers) = merge.next().unwrap() else { panic!("the sums") };
    let ranges: Vec<_> = numbers.map(|number| merge.job(number).writes().next().unwrap().range).collect();
    let tensors = merge.outputs()[0].header.tensors();
    assert_eq!(ranges, tensors.iter().map(|tensor| tensor.range.clone()).collect::<Vec<_>>());
}

#[test]
fn a_comparison_reads_every_tensor_and_measures_the_factors() {
    let files = [adapter(0.0, 1.0), adapter(0.25, 3.0)];
    let inputs: Vec<_> = files.iter().zip(["a", "b"]).map(|(file, name)| input(name, file)).collect();
    let config = AdapterConfig::parse(CONFIG).unwrap();
    let cut = Cut { max_bytes: 4, by_tensor: false };
    let weights = Weights::explicit(&[0.5, 0.5]).unwrap();
    let compared = Comparison::new(&inputs, &[Some(&config), Some(&config)], &weights, cut).unwrap();
    // one value at a time of 6 + 4 + 4, and a module of 6 + 4 in both
    assert_eq!((compared.elements(), compared.count(), compared.bytes()), (14, 15, 8 * 14 + 8 * 10));
    let read = |number| {
        let job = compared.job(number);
        job.reads().map(|it| it.range.end - it.range.start).sum::<u64>()
    };
    assert_eq!((0..compared.count()).map(read).sum::<u64>(), compared.bytes());
    assert!((0..14).all(|number| read(number) == 8) && read(14) == 80);
    let slices: Vec<_> = compared
        .job(14)
        .reads()
        .map(|it| &files[it.input][it.range.start as usize..it.range.end as usize])
        .collect();
    let found = compared.job(14).run(Bytes::Whole(&slices), &mut []).unwrap();
    assert!(format!("{found:?}").contains("Residual"), "{found:?}");
    // tensors that are no factors are read all the same
    let plain = [file(&[("w", &[3], &[1.0; 3])]), file(&[("w", &[3], &[2.0; 3])])];
    let inputs: Vec<_> = plain.iter().zip(["a", "b"]).map(|(file, name)| input(name, file)).collect();
    let compared = Comparison::new(&inputs, &[None, None], &weights, cut).unwrap();
    assert_eq!((compared.elements(), compared.count(), compared.bytes()), (3, 3, 24));
}

/// A file of one value, and counters.
fn counted(value: f32, count: i64, counters: &[&str]) -> Vec<u8> {
    let scalars = counters.iter().map(|name| ((*name).into(), Dtype::I64, vec![]));
    let header =
        Header::layout([("w".into(), Dtype::F32, vec![1])].into_iter().chain(scalars), Default::default());
    let header = header.unwrap();
    let mut bytes = header.to_bytes();
    for tensor in header.tensors() {
        match tensor.dtype {
            Dtype::F32 => bytes.extend(value.to_le_bytes()),
            _ => bytes.extend(count.to_le_bytes()),
        }
    }
    bytes
}

#[test]
fn counters_are_taken_from_the_newest_and_it_is_said() {
    let of = |counters: &[&str]| {
        let files = [counted(1.0, 10, counters), counted(3.0, 30, counters)];
        let inputs = files.iter().zip(["a", "b"]).map(|(file, name)| input(name, file)).collect();
        let chosen = Chosen::explicit(inputs, vec![None, None], &[0.5, 0.5]).unwrap();
        let mut merge = Merge::new(chosen, MergeOptions::default(), Cut::default()).unwrap();
        let merged = run(&mut merge, &files).unwrap();
        (merged, merge.preview().notes)
    };
    let (merged, notes) = of(&["n"]);
    assert_eq!(merged, counted(2.0, 30, &["n"]));
    assert_eq!(notes, ["`n` is not averaged but taken from b, as counters and packed state are"]);
    let two = "`m` and 1 tensor like it are not averaged but taken from b, as counters and packed state are";
    assert_eq!(of(&["m", "n"]).1, [two]);
    assert!(of(&["l", "m", "n"]).1[0].starts_with("`l` and 2 tensors like it are not averaged"));
    assert_eq!(of(&[]).1, [""; 0]);
}

/// The same, weighed by the tensors.
fn open_robust(files: &[Vec<u8>], scheme: &str, options: MergeOptions, max_bytes: usize) -> Result<Merge> {
    let names = ["a", "b", "c", "d", "e"];
    let inputs = files.iter().zip(names).map(|(file, name)| input(name, file)).collect();
    let configs = files.iter().map(|_| Some(AdapterConfig::parse(CONFIG).unwrap())).collect();
    let mut chosen = Chosen::explicit(inputs, configs, &vec![1.0; files.len()])?;
    chosen.robust = Robust::of(scheme, None, None).unwrap();
    chosen.weighting = Weighting::robust(scheme.parse().unwrap(), chosen.robust.unwrap());
    chosen.notes.clear();
    Merge::new(chosen, options, Cut { max_bytes, by_tensor: false })
}

#[test]
fn the_median_leaves_a_stranger_nearly_out_in_both_spaces_whatever_the_jobs() {
    let files = [0.0, 0.1, 0.05, -0.05, 4.0].map(|turn| adapter(turn, 1.0 + turn));
    let allowed = MergeOptions { allow_cross_run: true, ..MergeOptions::default() };
    for options in [allowed, MergeOptions { space: PRODUCT, ..allowed }] {
        let mut merge = open_robust(&files, "geometric-median", options, 4).unwrap();
        assert!(merge.outputs().is_empty(), "the weights are not known yet");
        let merged = run(&mut merge, &files).unwrap();
        let report = merge.finish(&closing(&files)).unwrap().report;
        assert!(report.inputs[4].weight < 0.05, "{:?}", report.inputs);
        assert!((report.inputs.iter().map(|input| input.weight).sum::<f64>() - 1.0).abs() < 1e-12);
        assert!(report.inputs[4].metric > report.inputs[0].metric, "its distance is told");
        assert_eq!(report.weighting.describe(), "geometric-median, by distance");
        // by the report, as to verify it
        let weights: Vec<_> = report.inputs.iter().map(|input| input.weight).collect();
        let mut again = open(&files, CONFIG, &weights, options).unwrap();
        assert_eq!(run(&mut again, &files).unwrap(), merged);
        let mut larger = open_robust(&files, "geometric-median", options, 1 << 20).unwrap();
        assert_eq!(run(&mut larger, &files).unwrap(), merged);
    }
}

#[test]
fn krum_takes_one_of_five_and_writes_it() {
    let files = [0.0, 0.1, 0.06, -0.05, 4.0].map(|turn| adapter(turn, 1.0));
    let allowed = MergeOptions { allow_cross_run: true, ..MergeOptions::default() };
    let mut merge = open_robust(&files, "krum", allowed, 4).unwrap();
    assert_eq!(run(&mut merge, &files).unwrap(), files[2]);
    assert_eq!(merge.owner(), 4, "the newest gives what lies beside");
    let report = merge.finish(&closing(&files)).unwrap().report;
    assert_eq!(report.weighting.describe(), "krum, 1 outlier, by distance");
    assert_eq!(report.inputs[2].source.as_deref(), Some("nearest 2"));
    assert!(report.merging().unwrap().rewrite, "verify writes it anew, too");
    let error = open_robust(&files[..4], "krum", allowed, 4).unwrap_err();
    assert_eq!(error.to_string(), "krum with 1 outlier needs 5 inputs, but there are 4");
}

#[test]
fn the_flag_compares_what_adapters_do_also_where_factors_are_merged() {
    let files = [0.0, 0.1, 0.05, -0.05, 4.0].map(|turn| adapter(turn, 1.0));
    let allowed = MergeOptions { allow_cross_run: true, ..MergeOptions::default() };
    let weights = [allowed, MergeOptions { space: PRODUCT, ..allowed }].map(|options| {
        let mut merge = open_robust(&files, "flag", options, 4).unwrap();
        run(&mut merge, &files).unwrap();
        let report = merge.finish(&closing(&files)).unwrap().report;
        assert!(report.inputs.iter().all(|input| (0.0..=1.0 + 1e-9).contains(&input.metric.unwrap())));
        report.inputs.iter().map(|input| input.weight).collect::<Vec<_>>()
    });
    assert_eq!(weights[0], weights[1]);
    let model = file(&[("w", &[2], &[1.0, 2.0])]);
    let error = open_robust(&[model.clone(), model], "flag", MergeOptions::default(), 4).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Method);
}

#[test]
fn what_is_not_finite_is_found_before_anything_is_written() {
    let good = adapter(0.0, 1.0);
    let files = [good.clone(), adapter(0.1, f32::NAN), good];
    let mut merge = open_robust(&files, "geometric-median", MergeOptions::default(), 4).unwrap();
    let error = run(&mut merge, &files).unwrap_err();
    assert_eq!(
        (error.kind(), error.at_file(), error.at_tensor()),
        (ErrorKind::NonFinite, Some("b"), Some(HEAD))
    );
    assert_eq!(error.detail(), "holds NaN, at element 0");
    assert_eq!(merge.bad_input(&error).map(|bad| bad.input), Some(1));
}

#[test]
fn model_stock_goes_from_the_base_as_far_as_tasks_agree_in_each_tensor() {
    // a: orthogonal; b: cosine ½, so that two thirds of the way are gone
    let third = 0.75_f32.sqrt();
    let files = tasks(&[&[1.0, 0.0, 0.0, 2.0], &[0.0, 3.0, 0.0, 1.0, 2.0 * third]]);
    let stock = Blend::Angled(Angle::ModelStock, true);
    let mut merge = over_base(&files, stock).unwrap();
    assert!(!merge.outputs().is_empty(), "what is written is known before its values are");
    let merged = run(&mut merge, &files).unwrap();
    let header = Header::parse(&merged, merged.len() as u64).unwrap();
    let values = |bytes: &[u8], name: &str| -> Vec<f32> {
        let tensor = header.tensors().iter().find(|tensor| tensor.name == name).unwrap();
        let bytes = &bytes[tensor.range.start as usize..tensor.range.end as usize];
        bytes.chunks_exact(4).map(|word| f32::from_le_bytes(word.try_into().unwrap())).collect()
    };
    assert_eq!(values(&merged, "a.weight"), values(&files[0], "a.weight"), "the base, to the bit");
    let expected = [5.0, -8.0 + third * 2.0 / 3.0, 0.25, 3.0, 1.5];
    let off =
        values(&merged, "b.weight").iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(off < 2e-6, "{:?}", values(&merged, "b.weight"));
    let report = merge.finish(&closing(&files)).unwrap().report;
    assert_eq!(report.weighting.describe(), "none, method model-stock");
    assert_eq!(report.groups[0].weights, [1.0, 0.0, 0.0]);
    assert!((report.groups[1].weights[0] - 1.0 / 3.0).abs() < 1e-7, "{:?}", report.groups);
    assert_eq!(report.describe_groups(), [""; 0], "they are too many for a table");
    let note = "of 2 tensors the cosine between the inputs is 0.2500 on average, from 0.0000 in `a.weight` to 0.5000 in \
                `b.weight`; on average the result is 0.3333 of the way from the base to the mean";
    assert_eq!(report.notes.last().map(String::as_str), Some(note));
    let told = report::Report { inputs: base_first(report.inputs.clone()), ..report };
    assert_eq!(told.merging().unwrap().blend, stock);
    let error = over_base(&files[..2], stock).unwrap_err();
    assert_eq!(error.detail(), "model-stock compares two checkpoints or more, but there is 1");
    let error = over_base(&files, Blend::Angled(Angle::Slerp, false)).unwrap_err();
    assert!(error.detail().contains("and a base do not go together"), "{error}");
}

/// Rows as a run makes them.
fn base_first(mut rows: Vec<report::Input>) -> Vec<report::Input> {
    rows[0].role = Some(report::BASE.into());
    rows
}

#[test]
fn angles_decide_scalars_of_products_by_module() {
    let files = [adapter(0.0, 1.0), adapter(0.25, 3.0), adapter(0.0, 1.0)];
    let open = |files: &[Vec<u8>], angle, rank| {
        let options = MergeOptions {
            blend: Blend::Angled(angle, false),
            space: Space::Product(Some(rank)),
            ..MergeOptions::default()
        };
        open(files, CONFIG, &[0.25, 0.75][..files.len()], options)
    };
    for rank in [Rank::Inputs, Rank::Full, Rank::Energy(0.999)] {
        for angle in [Angle::Slerp, Angle::MultiSlerp, Angle::Karcher] {
            let mut merge = open(&files[..2], angle, rank).unwrap();
            run(&mut merge, &files[..2]).unwrap();
            let groups = merge.finish(&closing(&files[..2])).unwrap().report.groups;
            // the module by its A, and the head
            assert_eq!(groups.iter().map(|it| &*it.modules).collect::<Vec<_>>(), [HEAD, DOWN], "{rank:?}");
            assert!(groups.iter().all(|it| it.weights.iter().all(|weight| (0.2..1.5).contains(weight))));
        }
    }
    // heads have no base that is known
    let error = open(&files[..2], Angle::ModelStock, Rank::Full).unwrap_err();
    assert_eq!((error.kind(), error.at_tensor()), (ErrorKind::Method, Some(HEAD)));
    // of products that have nothing in common nothing is left, in its place
    let (down, up) = (DOWN.replace(".0.", ".1."), UP.replace(".0.", ".1."));
    let module = |other: &[f32]| {
        let factor = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0];
        let tensors: [(&str, &[u64], &[f32]); 4] = [
            (DOWN, &[2, 3], &factor),
            (UP, &[2, 2], other),
            (&down, &[2, 3], &factor),
            (&up, &[2, 2], &[1.0, 2.0, 3.0, 4.0]),
        ];
        file(&tensors)
    };
    let files = [module(&[1.0, 0.0, 0.0, 0.0]), module(&[0.0, 0.0, 0.0, 1.0])];
    let mut merge = open(&files, Angle::ModelStock, Rank::Inputs).unwrap();
    let merged = run(&mut merge, &files).unwrap();
    let header = Header::parse(&merged, merged.len() as u64).unwrap();
    assert_eq!(header.tensors().len(), 4);
    let is_zero = |name: &str| {
        let tensor = header.tensors().iter().find(|tensor| tensor.name == name).unwrap();
        merged[tensor.range.start as usize..tensor.range.end as usize].iter().all(|byte| *byte & 0x7f == 0)
    };
    assert!(is_zero(UP) && !is_zero(&up));
    let alone = |up: &[f32]| file(&[(DOWN, &[2, 3], &[1.0, 0.0, 0.0, 0.0, 1.0, 0.0]), (UP, &[2, 2], up)]);
    let apart = [alone(&[1.0, 0.0, 0.0, 0.0]), alone(&[0.0, 0.0, 0.0, 1.0])];
    let mut merge = open(&apart, Angle::ModelStock, Rank::Inputs).unwrap();
    assert_eq!(run(&mut merge, &apart).unwrap_err().kind(), ErrorKind::Weights);
    // and of the same ones all
    let same = [files[0].clone(), files[0].clone()];
    let mut merge = open(&same, Angle::ModelStock, Rank::Inputs).unwrap();
    run(&mut merge, &same).unwrap();
    assert_eq!(merge.finish(&closing(&same)).unwrap().report.groups[0].weights, [0.5, 0.5]);
}

#[test]
fn what_is_the_same_everywhere_passes_a_slerp_and_what_differs_keeps_its_length() {
    let models: Vec<_> = [[3.0, 4.0], [4.0, -3.0]]
        .iter()
        .map(|values| file(&[("frozen", &[3], &[0.1, -0.7, 1e-40]), ("w", &[2], values)]))
        .collect();
    let inputs = models.iter().zip(["a", "b"]).map(|(file, name)| input(name, file)).collect();
    let chosen = Chosen::explicit(inputs, vec![None, None], &[0.5, 0.5]).unwrap();
    let options = MergeOptions { blend: Blend::Angled(Angle::Slerp, false), ..MergeOptions::default() };
    let mut merge = Merge::new(chosen, options, Cut::default()).unwrap();
    let merged = run(&mut merge, &models).unwrap();
    let half = 0.5_f32.sqrt();
    let expected = file(&[("frozen", &[3], &[0.1, -0.7, 1e-40]), ("w", &[2], &[7.0 * half, half])]);
    let (tail, expected) = (&merged[merged.len() - 8..], &expected[expected.len() - 8..]);
    let value = |bytes: &[u8], i: usize| f32::from_le_bytes(bytes[4 * i..4 * i + 4].try_into().unwrap());
    assert!((0..2).all(|i| (value(tail, i) - value(expected, i)).abs() < 1e-6), "{tail:?} {expected:?}");
    let frozen = models[0].len() - 20..models[0].len() - 8;
    assert_eq!(merged[frozen.clone()], models[0][frozen]);
    // with all the weight on one there is nothing to turn
    let inputs = models.iter().zip(["a", "b"]).map(|(file, name)| input(name, file)).collect();
    let chosen = Chosen::explicit(inputs, vec![None, None], &[0.0, 1.0]).unwrap();
    assert_eq!(Merge::new(chosen, options, Cut::default()).unwrap().copied(), Some(1));
}
