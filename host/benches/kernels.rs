//! GB/s of the weighted sum per pair of dtypes, one thread, beside a plain copy of the same bytes.
//!
//! Bytes are those read and written: eight inputs and one output. Each case checks its answer before it is timed.

use core::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use mwa::kernel::{Operand, reference};
use mwa::merge::{Bytes, Chosen, Cut, Merge, MergeOptions, Next};
use mwa::safetensors::{Header, TextMap};
use mwa::{Float, Input, Shard, Weights};
use mwa_host::InstructionSet;

const INPUTS: usize = 8;
/// Of each input; all of them fit a second-level cache, as the buffers of a merge do.
const ELEMENTS: usize = 32 << 10;
const PAIRS: [(Float, Float); 6] = [
    (Float::F32, Float::F32),
    (Float::BF16, Float::BF16),
    (Float::F16, Float::F16),
    (Float::F8E4M3, Float::F8E4M3),
    (Float::BF16, Float::F32),
    (Float::F64, Float::F64),
];

fn kernels(criterion: &mut Criterion) {
    let raw = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0];
    let weights = Weights::explicit(&raw).expect("positive");
    for (from, to) in PAIRS {
        let inputs: Vec<_> = (0..INPUTS).map(|seed| noise(from, seed as u64)).collect();
        let inputs: Vec<_> = inputs.iter().map(Vec::as_slice).collect();
        let header = Header::layout([("x".into(), from.dtype(), vec![ELEMENTS as u64])], TextMap::default());
        let files = vec![Shard { name: "x.safetensors".into(), header: header.expect("one tensor") }];
        let checkpoints: Vec<_> =
            (0..INPUTS).map(|i| Input { name: i.to_string(), files: files.clone() }).collect();
        let chosen = Chosen::explicit(checkpoints, vec![None; INPUTS], &raw).expect("positive");
        let options = MergeOptions { dtype: Some(to), ..MergeOptions::default() };
        let cut = Cut { max_bytes: usize::MAX, by_tensor: false };
        let mut merge = Merge::new(chosen, options, cut).expect("they agree");
        assert_eq!(merge.next(), Ok(Next::Jobs(0..1)), "there is one tensor");
        let job = merge.job(0);

        let mut out = vec![0; ELEMENTS * to.bytes()];
        let run = |inputs: &[&[u8]], out: &mut [u8]| {
            InstructionSet::widest().run(&job, Bytes::Whole(inputs), &mut [out])
        };
        run(&inputs, &mut out).expect("all is finite");
        let operands = inputs.iter().zip(weights.values());
        let operands: Vec<_> =
            operands.map(|(&bytes, &weight)| Operand { dtype: from, bytes, weight }).collect();
        let mut truth = vec![0; out.len()];
        reference(&operands, to, &mut truth);
        assert!(out == truth, "{from:?} to {to:?} differs from the reference");

        let bytes = INPUTS * ELEMENTS * from.bytes() + out.len();
        let mut group = criterion.benchmark_group(format!("{from:?} to {to:?}"));
        group.throughput(Throughput::Bytes(bytes as u64));
        group.bench_function(BenchmarkId::from_parameter("weighted sum"), |bench| {
            bench.iter(|| run(black_box(&inputs), &mut out));
        });
        // a copy reads half of its bytes and writes the other half
        let (source, mut copy) = (vec![1_u8; bytes / 2], vec![0_u8; bytes / 2]);
        group.bench_function(BenchmarkId::from_parameter("memcpy"), |bench| {
            bench.iter(|| black_box(&mut copy).copy_from_slice(black_box(&source)));
        });
        group.finish();
    }
}

/// Numbers between 2⁻¹⁰ and 1 of either sign, as training leaves them.
fn noise(float: Float, seed: u64) -> Vec<u8> {
    let mut state = seed;
    let mut word = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        u32::try_from(state >> 32).expect("32 bits are left")
    };
    let values = (0..ELEMENTS).map(|_| (word() & 0x807f_ffff) | ((117 + word() % 10) << 23));
    let bytes: Vec<_> = values.flat_map(u32::to_le_bytes).collect();
    let mut narrow = vec![0; ELEMENTS * float.bytes()];
    reference(&[Operand { dtype: Float::F32, bytes: &bytes, weight: 1.0 }], float, &mut narrow);
    narrow
}

criterion_group!(benches, kernels);
criterion_main!(benches);
