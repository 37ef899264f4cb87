//! Tests of plans and their jobs.

use super::*;
use alloc::string::ToString;
use alloc::vec;

fn input(name: &str, tensors: &[(&str, Dtype, &[u64])]) -> Input {
    let tensors = tensors.iter().map(|(name, dtype, shape)| (name.to_string(), *dtype, shape.to_vec()));
    let header = Header::layout(tensors, TextMap::default()).unwrap();
    Input { name: name.into(), files: vec![Shard { name: "model.safetensors".into(), header }] }
}

fn plan(inputs: &[Input], weights: &[f64]) -> Result<Plan> {
    Plan::new(inputs, &Weights::explicit(weights).unwrap(), &Recipe::default())
}

const TWO: &[(&str, Dtype, &[u64])] =
    &[("a", Dtype::BF16, &[3]), ("b", Dtype::BF16, &[5]), ("i", Dtype::I64, &[2])];

#[test]
fn neighbouring_tensors_share_jobs_and_cover_the_output_once() {
    let plan = plan(&[input("x", TWO), input("y", TWO)], &[0.5, 0.5]).unwrap();
    let start = plan.outputs()[0].header.data_start();
    let jobs: Vec<_> = plan.jobs(1 << 20).map(|job| job.write().range).collect();
    assert_eq!(jobs, [start..start + 16, start + 16..start + 32]);
    let mut end = start;
    for job in plan.jobs(6) {
        assert_eq!(job.write().range.start, end);
        assert!(
            job.reads().all(|read| read.range.end - read.range.start <= 8),
            "one I64 is more than 6 bytes"
        );
        end = job.write().range.end;
    }
    assert_eq!(end, plan.outputs()[0].header.file_len());
}

#[test]
fn jobs_by_tensor_cover_each_tensor_alone() {
    let with_empty = &[TWO, &[("c", Dtype::BF16, &[0][..])]].concat();
    let inputs = [input("x", with_empty), input("y", with_empty)];
    let recipe = Recipe { by_tensor: true, ..Recipe::default() };
    let plan = Plan::new(&inputs, &Weights::explicit(&[0.5, 0.5]).unwrap(), &recipe).unwrap();
    for max_bytes in [4, 1 << 20] {
        let mut jobs = plan.jobs(max_bytes).map(|job| job.write().range);
        for tensor in plan.outputs()[0].header.tensors() {
            let mut end = tensor.range.start;
            while end < tensor.range.end {
                let range = jobs.next().unwrap();
                assert_eq!(range.start, end);
                end = range.end;
            }
            assert_eq!(end, tensor.range.end);
        }
        assert_eq!(jobs.next(), None);
    }
}

#[test]
fn an_input_of_weight_zero_is_not_read() {
    let plan = plan(&[input("x", TWO), input("y", TWO)], &[0.0, 1.0]).unwrap();
    let sum = plan.jobs(64).find(|job| matches!(job.segment.work, Work::Elements(..))).unwrap();
    assert_eq!(sum.reads().map(|read| read.input).collect::<Vec<_>>(), [1]);
}

#[test]
fn differences_name_the_tensor_and_both_facts() {
    let other = &[("a", Dtype::BF16, &[4][..]), ("b", Dtype::BF16, &[5]), ("i", Dtype::I64, &[2])];
    let error = plan(&[input("x", other), input("y", TWO)], &[0.5, 0.5]).unwrap_err();
    assert_eq!(error.to_string(), "x: tensor `a` is [4], but in y it is [3]");
    let error = plan(&[input("x", &TWO[..2]), input("y", TWO)], &[0.5, 0.5]).unwrap_err();
    assert_eq!(error.to_string(), "x: tensor `i` is missing, but y has it");
    let error = plan(&[input("y", TWO)], &[0.5, 0.5]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Weights);
}

#[test]
fn bad_values_are_traced_to_tensor_element_and_input() {
    let plan = plan(&[input("x", &TWO[..2]), input("y", &TWO[..2])], &[0.5, 0.5]).unwrap();
    let job = plan.jobs(64).next().unwrap();
    let (good, mut bad) = (vec![0; 16], vec![0; 16]);
    bad[10..12].copy_from_slice(&0x7f80u16.to_le_bytes());
    let error = job.run(&[&good, &bad], &mut [0; 16]).unwrap_err();
    assert_eq!(error.to_string(), "y: tensor `b` holds inf, at element 2");
    assert_eq!(error.kind(), ErrorKind::NonFinite);
}

#[test]
fn parted_files_hold_the_bytes_of_the_whole() {
    const SIZES: &[(&str, Dtype, &[u64])] = &[
        ("a", Dtype::BF16, &[3]),
        ("b", Dtype::F32, &[5]),
        ("c", Dtype::I64, &[2]),
        ("d", Dtype::F32, &[0]),
        ("e", Dtype::BF16, &[20]),
    ];
    let inputs = [input("x", SIZES), input("y", SIZES)];
    let made = |shard_size| {
        let recipe = Recipe { shard_size, ..Recipe::default() };
        let plan = Plan::new(&inputs, &Weights::explicit(&[0.25, 0.75]).unwrap(), &recipe).unwrap();
        let mut files: Vec<_> =
            plan.outputs().iter().map(|file| vec![0; to_usize(file.header.file_len())]).collect();
        for job in plan.jobs(7) {
            // bytes of integers are the same everywhere
            let byte = |read: &Read, at: u64| {
                let number = if plan.tensor_of(&job) == "c" { at } else { at * 31 + read.input as u64 };
                u8::try_from(number % 64).unwrap()
            };
            let reads: Vec<Vec<u8>> =
                job.reads().map(|read| read.range.clone().map(|at| byte(&read, at)).collect()).collect();
            let Write { file, range } = job.write();
            let out = &mut files[file][to_usize(range.start)..to_usize(range.end)];
            job.run(&reads.iter().map(Vec::as_slice).collect::<Vec<_>>(), out).unwrap();
        }
        let mut tensors = Vec::new();
        for (file, bytes) in plan.outputs().iter().zip(&files) {
            for tensor in file.header.tensors() {
                let bytes = bytes[to_usize(tensor.range.start)..to_usize(tensor.range.end)].to_vec();
                tensors.push((tensor.name.clone(), tensor.dtype, tensor.shape.clone(), bytes));
            }
        }
        tensors.sort();
        (plan.outputs().iter().map(|file| file.name.clone()).collect::<Vec<_>>(), tensors)
    };
    let (_, whole) = made(None);
    for limit in 1..100 {
        let (names, tensors) = made(Some(limit));
        assert!(tensors == whole, "{limit}");
        assert_eq!(names.len() == 1, limit >= 82, "{limit}: {names:?}");
    }
}

fn to_usize(number: u64) -> usize {
    usize::try_from(number).unwrap()
}
