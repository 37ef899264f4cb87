//! How long a merge takes to plan, by the number of tensors: a time per tensor that stays the same means that it grows linearly.
//!
//! Models in many shards, and LoRA adapters of a mixture of experts (60 layers × 384 experts at the largest), two inputs each.
//! Planned is all that is done without data: checking, laying out, and asking once for each job.

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use mwa::merge::{Chosen, Cut, Found, Merge, MergeOptions, Next};
use mwa::safetensors::{Header, TextMap};
use mwa::{AdapterConfig, Dtype, Input, Rank, Shard, Space};

/// A tensor of an adapter or a model.
type Tensor = (String, Dtype, Vec<u64>);

fn input(name: &str, tensors: &[Tensor], shards: usize) -> Input {
    let shard = |(i, tensors): (usize, &[Tensor])| {
        let header = Header::layout(tensors.to_vec(), TextMap::default()).expect("names are distinct");
        Shard { name: format!("model-{i:05}-of-{shards:05}.safetensors"), header }
    };
    let files = tensors.chunks(tensors.len().div_ceil(shards)).enumerate().map(shard).collect();
    Input { name: name.into(), files }
}

fn chosen(tensors: &[Tensor], shards: usize, config: Option<&str>) -> Chosen {
    let inputs = ["a", "b"].map(|name| input(name, tensors, shards));
    let config = config.map(|config| AdapterConfig::parse(config).expect("it is a config"));
    Chosen::explicit(inputs.into(), vec![config; 2], &[0.5, 0.5]).expect("two weights")
}

fn model(tensors: usize, shards: usize) -> Chosen {
    let tensor =
        |i: usize| (format!("model.layers.{}.{i}.weight", i / 100), Dtype::BF16, vec![64, 64 + i as u64 % 3]);
    chosen(&(0..tensors).map(tensor).collect::<Vec<_>>(), shards, None)
}

fn experts(layers: usize, experts: usize) -> Chosen {
    let mut tensors = Vec::new();
    for layer in 0..layers {
        for expert in 0..experts {
            let module = format!("base_model.model.model.layers.{layer}.mlp.experts.{expert}.up_proj");
            tensors.push((format!("{module}.lora_A.weight"), Dtype::BF16, vec![8, 64]));
            tensors.push((format!("{module}.lora_B.weight"), Dtype::BF16, vec![64, 8]));
        }
    }
    let config = r#"{"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["up_proj"]}"#;
    chosen(&tensors, 1, Some(config))
}

/// All that is done without data; how many jobs there are.
fn plan(chosen: Chosen, options: MergeOptions) -> u64 {
    let mut merge = Merge::new(chosen, options, Cut::default()).expect("the inputs agree");
    let mut next = merge.next().expect("nothing was compared yet");
    loop {
        let Next::Jobs(numbers) = next else { panic!("there are jobs that write") };
        if merge.job(numbers.start).writes().len() > 0 {
            let reads: usize = numbers.clone().map(|number| merge.job(number).reads().len()).sum();
            assert!(reads > 0);
            return numbers.end - numbers.start;
        }
        for number in numbers {
            merge.found(number, Found::Cosines(vec![1.0])).expect("it is handed out");
        }
        next = merge.next().expect("they are of one run");
    }
}

fn plans(criterion: &mut Criterion) {
    let product = Space::Product(Some(Rank::Inputs));
    let factors = MergeOptions::default();
    type Make = fn(usize) -> Chosen;
    let cases: [(&str, Make, MergeOptions); 3] = [
        ("a model of 25,000 tensors in 50 shards, times", |n| model(25_000 * n, 50 * n), factors),
        ("15 layers of 384 experts, factors, times", |n| experts(15 * n, 384), factors),
        (
            "15 layers of 384 experts, product, times",
            |n| experts(15 * n, 384),
            MergeOptions { space: product, ..factors },
        ),
    ];
    for (name, make, options) in cases {
        let mut group = criterion.benchmark_group(name);
        group.sample_size(10);
        for times in [1, 2, 4] {
            let chosen = make(times);
            let tensors = chosen.inputs[0].files.iter().map(|file| file.header.tensors().len() as u64).sum();
            group.throughput(Throughput::Elements(tensors));
            group.bench_function(BenchmarkId::from_parameter(times), |bench| {
                bench.iter_batched(
                    || chosen.clone(),
                    |chosen| plan(chosen, options),
                    BatchSize::PerIteration,
                );
            });
        }
        group.finish();
    }
}

criterion_group!(benches, plans);
criterion_main!(benches);
