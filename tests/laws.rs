//! Laws that hold for every merge, whatever the inputs: proptest looks for the exception.
//!
//! `PROPTEST_CASES=100000 cargo test -p conformance --test laws` looks longer.

use std::collections::BTreeMap;

use conformance::native::{Host, Jobs, Kernel, reference, together};
use conformance::offered::heard;
use conformance::paint::{self, Painting};
use conformance::{Executor, Failure, Merge, SAME_CODE, agree, each_executor};
use mwa::safetensors::Header;
use mwa::{Dtype, Float, Goal, Needs, Scheme, Weights};
use mwa_host::{DeviceChoice, InstructionSet};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use safetensors::SafeTensors;

each_executor!(
    equals_the_reference,
    finds_the_middle_as_the_reference_does,
    one_input_comes_out_as_it_went_in,
    copies_come_out_as_they_went_in,
    two_inputs_may_be_swapped,
    order_matters_within_rounding,
    output_lies_between_its_inputs;
    once
    any_threads_and_memory_give_the_same_bytes,
    any_job_size_and_order_give_the_same_bytes,
    merges_together_give_what_each_gives_alone,
    heads_are_read_as_they_were_written,
    weights_sum_to_one,
    weights_follow_their_metrics,
);

/// How many cases a law is tried on that each executor runs, the slow ones too, and one that is run once.
const EACH: u32 = 64;
const ONCE: u32 = 256;

/// Run a law over random cases; the error shows the smallest exception found.
fn law<S: Strategy>(
    cases: u32,
    strategy: S,
    check: impl Fn(S::Value) -> Result<(), String>,
) -> Result<(), String> {
    let config = Config { failure_persistence: None, ..Config::with_cases(cases) };
    TestRunner::new(config)
        .run(&strategy, |case| check(case).map_err(TestCaseError::fail))
        .map_err(|error| error.to_string())
}

/// Merges of one to five inputs: a few float tensors, each of any dtype in each input, and one of integers. The first
/// weight is larger than all others together; wild ones may be negative.
fn merge(painting: Painting) -> impl Strategy<Value = Merge> {
    let least = if painting == Painting::Wild { -1.0 } else { 0.01 };
    let weight = prop_oneof![1 => Just(0.0), 4 => least..1.0];
    let float = prop::sample::select(&FLOATS[..]);
    let tensors = prop::collection::vec((prop_oneof![0..9usize, 0..1200usize], any::<u64>()), 1..4);
    let inputs = prop::collection::vec((weight, prop::collection::vec(float, 3), any::<u64>()), 1..6);
    let dtype = prop::option::of(prop::sample::select(&[Float::F32, Float::BF16, Float::F16][..]));
    (tensors, inputs, dtype, any::<bool>()).prop_map(move |(tensors, inputs, dtype, allow_non_finite)| {
        let file = |floats: &[Float], seed: u64| {
            let paint = |(i, &(len, shared)): (usize, &(usize, u64))| {
                let data = paint::elements(painting, floats[i], len, seed.wrapping_add(i as u64), shared);
                (format!("tensor {i}"), floats[i].dtype(), data)
            };
            let integers = ("integers".to_owned(), Dtype::I32, paint::bytes(12, 5));
            paint::file(&tensors.iter().enumerate().map(paint).chain([integers]).collect::<Vec<_>>())
        };
        let mut weights: Vec<f64> = inputs.iter().map(|(weight, ..)| *weight).collect();
        weights[0] = weights.iter().map(|weight| weight.abs()).sum::<f64>() + 0.1;
        let inputs = inputs.iter().map(|(_, floats, seed)| file(floats, *seed)).collect();
        Merge { inputs, weights, dtype, allow_non_finite, ..Merge::default() }
    })
}

const FLOATS: [Float; 6] = [Float::F64, Float::F32, Float::BF16, Float::F16, Float::F8E4M3, Float::F8E5M2];

fn run(executor: &dyn Executor, merge: &Merge) -> Result<Vec<u8>, String> {
    executor.merge(merge).map_err(|failure| failure.message)
}

/// Dtypes of every mix, any bits, any weights: the same bytes, or the same failure.
fn equals_the_reference(executor: &dyn Executor) -> Result<(), String> {
    let reference = reference()?;
    law(EACH, merge(Painting::Wild), |merge| {
        let (expected, actual) = (reference.merge(&merge), executor.merge(&merge));
        if expected == actual {
            return Ok(());
        }
        match (expected, actual) {
            (Ok(expected), Ok(actual)) => {
                agree(SAME_CODE, &expected, &actual).and(Err("the heads differ".into()))
            }
            (expected, actual) => Err(format!("expected {:?}, found {:?}", expected.err(), actual.err())),
        }
    })
}

/// The same of medians and trimmed means.
fn finds_the_middle_as_the_reference_does(executor: &dyn Executor) -> Result<(), String> {
    let reference = reference()?;
    let strategy =
        (prop_oneof![merge(Painting::Wild), merge(Painting::Finite)], prop::option::of(0..3_usize));
    law(EACH, strategy, |(mut merge, outliers)| {
        let most = (merge.inputs.len() - 1) / 2;
        let options = match outliers {
            None => serde_json::json!({ "method": "median" }),
            Some(outliers) => serde_json::json!({ "method": "trimmed-mean", "outliers": outliers.min(most) }),
        };
        merge.method = serde_json::from_value(options).expect("an object");
        merge.weights.fill(1.0);
        let (expected, actual) = (reference.merge(&merge), executor.merge(&merge));
        match (expected, actual) {
            (Ok(expected), Ok(actual)) => agree(SAME_CODE, &expected, &actual),
            (Err(expected), Err(actual)) if expected == actual => Ok(()),
            (expected, actual) => Err(format!("expected {:?}, found {:?}", expected.err(), actual.err())),
        }
    })
}

fn one_input_comes_out_as_it_went_in(executor: &dyn Executor) -> Result<(), String> {
    law(EACH, (merge(Painting::Finite), 0.1..10.0), |(merge, weight)| {
        let input = merge.inputs[0].clone();
        let one = Merge { inputs: vec![input.clone()], weights: vec![weight], ..Merge::default() };
        agree(SAME_CODE, &input, &run(executor, &one)?)
    })
}

fn copies_come_out_as_they_went_in(executor: &dyn Executor) -> Result<(), String> {
    law(EACH, merge(Painting::Finite), |merge| {
        let input = merge.inputs[0].clone();
        let copies = Merge { inputs: vec![input.clone(); merge.weights.len()], dtype: None, ..merge };
        agree(SAME_CODE, &input, &run(executor, &copies)?)
    })
}

fn two_inputs_may_be_swapped(executor: &dyn Executor) -> Result<(), String> {
    law(EACH, merge(Painting::Wild), |mut merge| {
        merge.inputs.truncate(2);
        merge.weights.truncate(2);
        merge.allow_non_finite = true;
        let forth = run(executor, &merge)?;
        merge.inputs.reverse();
        merge.weights.reverse();
        agree(SAME_CODE, &forth, &run(executor, &merge)?)
    })
}

fn order_matters_within_rounding(executor: &dyn Executor) -> Result<(), String> {
    law(EACH, (merge(Painting::Tame), any::<prop::sample::Index>()), |(mut merge, by)| {
        let by = by.index(merge.inputs.len());
        merge.dtype = Some(Float::F32);
        let straight = paint::values(&run(executor, &merge)?);
        merge.inputs.rotate_left(by);
        merge.weights.rotate_left(by);
        let rotated = paint::values(&run(executor, &merge)?);
        // each product and each sum is off by half an ulp of at most the largest input, and so is each weight
        let slack = f64::from(f32::EPSILON) * paint::LARGEST * (2 * merge.inputs.len() + 2) as f64;
        for (name, values) in straight {
            for (i, (a, b)) in values.iter().zip(&rotated[&name]).enumerate() {
                if (a - b).abs() > slack {
                    return Err(format!("{name}[{i}]: {a} in one order, {b} in another"));
                }
            }
        }
        Ok(())
    })
}

fn output_lies_between_its_inputs(executor: &dyn Executor) -> Result<(), String> {
    law(EACH, merge(Painting::Tame), |merge| {
        let inputs: Vec<_> = merge.inputs.iter().map(|input| paint::values(input)).collect();
        let used: Vec<_> =
            inputs.iter().zip(&merge.weights).filter(|(_, w)| **w != 0.0).map(|(input, _)| input).collect();
        let output = run(executor, &merge)?;
        let ulps = paint::epsilons(&output);
        for (name, values) in paint::values(&output) {
            // the sum's roundings in f32, and one to the output dtype
            let sum = f64::from(f32::EPSILON) * (merge.inputs.len() + 1) as f64;
            let slack = paint::LARGEST * (sum + ulps[&name] / 2.0);
            for (i, value) in values.iter().enumerate() {
                let all = || used.iter().map(|input| input[&name][i]);
                let (least, most) = (all().fold(f64::MAX, f64::min), all().fold(f64::MIN, f64::max));
                if !(least - slack..=most + slack).contains(value) {
                    return Err(format!("{name}[{i}]: {value} is not between {least} and {most}"));
                }
            }
        }
        Ok(())
    })
}

fn any_threads_and_memory_give_the_same_bytes() -> Result<(), String> {
    let reference = reference()?;
    law(
        ONCE,
        (merge(Painting::Wild), 1..9usize, prop::option::of(0..1u64 << 20)),
        |(merge, threads, memory)| {
            if reference.merge(&merge) == (Host { threads, memory, device: DeviceChoice::Cpu }).merge(&merge)
            {
                return Ok(());
            }
            Err(format!("{threads} threads and {memory:?} bytes of memory make a difference"))
        },
    )
}

fn any_job_size_and_order_give_the_same_bytes() -> Result<(), String> {
    law(ONCE, (merge(Painting::Wild), 1..5000usize, any::<u64>()), |(mut merge, bytes, seed)| {
        merge.allow_non_finite = true;
        let jobs = |bytes| Jobs { bytes, kernel: Kernel::Fast(InstructionSet::widest()) };
        let whole = run(&jobs(1 << 30), &merge)?;
        let shuffled = jobs(bytes).run(&merge, |numbers| paint::shuffle(numbers, seed));
        let pieces = heard(&merge, shuffled.map_err(Failure::from)).map_err(|failure| failure.message)?;
        if whole == pieces { Ok(()) } else { Err("the pieces differ from the whole".into()) }
    })
}

const DTYPES: [Dtype; 14] = [
    Dtype::F64,
    Dtype::F32,
    Dtype::F16,
    Dtype::BF16,
    Dtype::F8_E4M3,
    Dtype::F8_E5M2,
    Dtype::I64,
    Dtype::I32,
    Dtype::I16,
    Dtype::I8,
    Dtype::U64,
    Dtype::U32,
    Dtype::U8,
    Dtype::BOOL,
];

/// Merges of the same inputs with other weights, some of them without some inputs: the same bytes, or the same failure.
fn merges_together_give_what_each_gives_alone() -> Result<(), String> {
    let reference = reference()?;
    let weight = prop_oneof![1 => Just(0.0), 4 => -1.0..1.0];
    let columns = prop::collection::vec(prop::collection::vec(weight, 5), 2..6);
    let most = core::cell::Cell::new(0);
    law(ONCE, (merge(Painting::Wild), columns), |(merge, columns)| {
        let with = |column: Vec<f64>| {
            let mut weights = column[..merge.inputs.len()].to_vec();
            let last = weights.len() - 1;
            weights[last] = weights.iter().map(|weight| weight.abs()).sum::<f64>() + 0.1;
            Merge { weights, ..merge.clone() }
        };
        let merges: Vec<_> = columns.into_iter().map(with).collect();
        let alone: Vec<_> = merges.iter().map(|merge| reference.merge(merge)).collect();
        for set in InstructionSet::available() {
            let (count, each) = together(&merges, set);
            most.set(count.max(most.get()));
            for ((merge, alone), found) in merges.iter().zip(&alone).zip(each) {
                match (alone, found) {
                    (alone, found) if *alone == found => {}
                    (Ok(alone), Ok(found)) => {
                        let differs = agree(SAME_CODE, alone, &found).err();
                        return Err(format!("{}, {:?}: {differs:?}", set.name(), merge.weights));
                    }
                    (alone, found) => {
                        let failures = (alone.as_ref().err(), found.err());
                        return Err(format!("{}, {:?}: {failures:?}", set.name(), merge.weights));
                    }
                }
            }
        }
        Ok(())
    })?;
    if most.get() < 3 { Err("no three of them went in one pass".into()) } else { Ok(()) }
}

/// Our writer and reader, and those of the `safetensors` crate: one file, always the same.
fn heads_are_read_as_they_were_written() -> Result<(), String> {
    let name = || any::<String>().prop_filter("that name means metadata", |name| name != "__metadata__");
    let shape = prop::collection::vec(0..4u64, 0..4);
    let tensors = prop::collection::btree_map(name(), (prop::sample::select(&DTYPES[..]), shape), 0..6);
    let metadata = prop::collection::btree_map(any::<String>(), any::<String>(), 0..4);
    law(ONCE, (tensors, metadata), |(tensors, metadata): (BTreeMap<_, (Dtype, Vec<u64>)>, BTreeMap<_, _>)| {
        let layout = tensors.iter().map(|(name, (dtype, shape))| (name.clone(), *dtype, shape.clone()));
        let header =
            Header::layout(layout, metadata.into_iter().collect()).map_err(|error| error.to_string())?;
        let mut bytes = header.to_bytes();
        let head = bytes.len();
        let data = usize::try_from(header.file_len()).expect("it is small") - head;
        bytes.extend(paint::bytes(data, 1));
        let read = Header::parse(&bytes, bytes.len() as u64).map_err(|error| error.to_string())?;
        if read != header || read.to_bytes() != bytes[..head] || head % 8 != 0 {
            return Err(format!("wrote {header:?}, read {read:?}"));
        }
        let (_, other) = SafeTensors::read_metadata(&bytes).map_err(|error| error.to_string())?;
        if other.metadata().clone().unwrap_or_default()
            != read.metadata().clone().into_pairs().into_iter().collect()
        {
            return Err("the safetensors crate reads other metadata".into());
        }
        let other = SafeTensors::deserialize(&bytes).map_err(|error| error.to_string())?;
        if other.len() != tensors.len() {
            return Err("the safetensors crate reads another number of tensors".into());
        }
        for tensor in read.tensors() {
            let view = other.tensor(&tensor.name).map_err(|error| error.to_string())?;
            let shape: Vec<_> = view.shape().iter().map(|&n| n as u64).collect();
            let at = |offset| usize::try_from(offset).expect("it is small");
            let range = at(tensor.range.start)..at(tensor.range.end);
            let same = view.dtype() == tensor.dtype && shape == tensor.shape && view.data() == &bytes[range];
            if !same || tensors[&tensor.name] != (tensor.dtype, shape) {
                return Err(format!("the safetensors crate reads `{}` in another way", tensor.name));
            }
        }
        // the crate writes several metadata keys in random order; with one at most, its file is ours to the byte
        let pairs = read.metadata().clone().into_pairs();
        let metadata = Some(pairs.into_iter().collect()).filter(|_| !read.metadata().pairs().is_empty());
        let written = safetensors::serialize(other.iter(), metadata).map_err(|error| error.to_string())?;
        if read.metadata().pairs().len() < 2 && written != bytes {
            return Err(format!("the safetensors crate writes another head:\n{written:?}\n{bytes:?}"));
        }
        Ok(())
    })
}

fn metrics() -> impl Strategy<Value = (Vec<f64>, Goal, Scheme, f64)> {
    let goal = prop::sample::select(&[Goal::Min, Goal::Max][..]);
    let of_metrics =
        Scheme::ALL.into_iter().filter(|scheme| matches!(scheme.needs, Needs::Metric | Needs::Nothing));
    let scheme = prop::sample::select(of_metrics.collect::<Vec<_>>());
    (prop::collection::vec(1e-3..1e3, 1..20), goal, scheme, 0.0..0.999)
}

fn weights_sum_to_one() -> Result<(), String> {
    law(ONCE, metrics(), |(metrics, goal, scheme, penalty)| {
        let weights = Weights::new(&metrics, goal, scheme, penalty).map_err(|error| error.to_string())?;
        let sum: f64 = weights.values().iter().sum();
        // one ulp, and what the test's own sum rounds: half an ulp of at most 1 per term
        let slack = f64::EPSILON * (1.0 + metrics.len() as f64 / 2.0);
        let is_share = |w: &f64| (0.0..=1.0).contains(w);
        if (sum - 1.0).abs() <= slack && weights.values().iter().all(is_share) {
            return Ok(());
        }
        Err(format!("{:?} sum to {sum}", weights.values()))
    })
}

/// A better metric never weighs less, and an equal one weighs the same.
fn weights_follow_their_metrics() -> Result<(), String> {
    law(ONCE, metrics(), |(mut metrics, goal, scheme, penalty)| {
        metrics.push(metrics[0]);
        let weights = Weights::new(&metrics, goal, scheme, penalty).map_err(|error| error.to_string())?;
        let ranked = metrics.iter().zip(weights.values());
        for ((a, w), (b, v)) in ranked.clone().flat_map(|x| ranked.clone().map(move |y| (x, y))) {
            let is_better = if goal == Goal::Min { a < b } else { a > b };
            if (is_better && w < v) || (a == b && w != v) {
                return Err(format!("{a} weighs {w}, {b} weighs {v}"));
            }
        }
        Ok(())
    })
}
