//! Tests of quantised weights: what does not fit, and that windows do not change bytes. What comes out is for the vectors.
#![expect(clippy::cast_possible_truncation, reason = "the files are small")]

use alloc::vec;

use super::*;
use crate::format::safetensors::Header;
use crate::merge::{Bytes, Chosen, Cut, Merge, MergeOptions, Next};
use crate::plan::{Read, Shard};
use crate::weigh::robust::{Robust, Rule};

const F32: Dtype = Dtype::F32;
const F8: Dtype = Dtype::F8_E4M3;

fn input(name: &str, tensors: &[(&str, Dtype, &[u64])]) -> Input {
    let laid = tensors.iter().map(|(name, dtype, shape)| ((*name).into(), *dtype, shape.to_vec()));
    let header = Header::layout(laid, Default::default()).unwrap();
    Input { name: name.into(), files: [Shard { name: "model.safetensors".into(), header }].into() }
}

fn blocked(name: &str, scales: [u64; 2]) -> Input {
    input(name, &[("a.weight", F8, &[256, 512]), ("a.weight_scale_inv", F32, &scales)])
}

fn chosen(inputs: [Input; 2], blocks: [Block; 2]) -> Chosen {
    Chosen {
        blocks: blocks.into(),
        ..Chosen::explicit(inputs.into(), vec![None, None], &[1.0, 1.0]).unwrap()
    }
}

fn refusal(inputs: [Input; 2], blocks: [Block; 2]) -> String {
    let merge = Merge::new(chosen(inputs, blocks), MergeOptions::default(), Cut::default());
    merge.map(drop).unwrap_err().to_string()
}

#[test]
fn configs_tell_blocks_apart_that_shapes_do_not() {
    let edge =
        |name: &str| input(name, &[("a.weight", F8, &[200, 200]), ("a.weight_scale_inv", F32, &[2, 2])]);
    let (large, small) = (Some((128, 128)), Some((100, 100)));
    let weights = Weights::explicit(&[1.0, 1.0]).unwrap();
    let alike = |blocks: [Block; 2]| {
        Scaled::new(&[edge("x"), edge("y")], &weights, &Groups::default(), &blocks, false)
            .map(|made| made.count())
    };
    assert_eq!((alike([None, None]), alike([large, large]), alike([small, small])), (Ok(1), Ok(1), Ok(1)));
    assert_eq!(
        refusal([edge("x"), edge("y")], [small, large]),
        "x: tensor `a.weight` is scaled by blocks of [100, 100], but in y by blocks of [128, 128]"
    );
    assert_eq!(
        refusal([blocked("x", [4, 8]), blocked("y", [4, 8])], [large, large]),
        "y: tensor `a.weight_scale_inv` is [4, 8], which is not one scale for each block of [128, 128] of `a.weight`, [256, 512]"
    );
}

#[test]
fn what_does_not_fit_is_refused_with_both_facts() {
    assert_eq!(
        refusal([blocked("x", [4, 8]), blocked("y", [2, 4])], [None, None]),
        "y: tensor `a.weight_scale_inv` is [2, 4], but x has [4, 8]"
    );
    assert_eq!(
        refusal([blocked("x", [3, 4]), blocked("y", [3, 4])], [None, None]),
        "y: tensor `a.weight_scale_inv` is [3, 4], which is not one scale for all, each row or each block of `a.weight`, [256, 512]"
    );
    let bare = |name: &str| {
        input(name, &[("a.weight", F8, &[2, 2]), ("b.weight", F8, &[2, 2]), ("b.weight_scale", F32, &[])])
    };
    assert_eq!(
        refusal([bare("x"), bare("y")], [None, None]),
        "y: tensor `a.weight` holds F8_E4M3 codes without a scale, though `b.weight` has one in `b.weight_scale`"
    );
    let mx = |name: &str| {
        input(name, &[("a.weight", F8, &[64, 64]), ("a.weight_scale", Dtype::F8_E8M0, &[64, 2])])
    };
    assert_eq!(
        refusal([mx("x"), mx("y")], [None, None]),
        "x: tensor `a.weight_scale` holds scales as F8_E8M0; those that are understood are F32, BF16 and F16"
    );
}

#[test]
fn options_that_codes_cannot_have_are_refused() {
    let refused = |options: MergeOptions| {
        let chosen = chosen([blocked("x", [2, 4]), blocked("y", [2, 4])], [None, None]);
        Merge::new(chosen, options, Cut::default()).map(drop).unwrap_err().to_string()
    };
    let wide = MergeOptions { dtype: Some(Float::BF16), ..MergeOptions::default() };
    assert!(refused(wide).contains("codes of its own dtype"), "{}", refused(wide));
    let mut robust = chosen([blocked("x", [2, 4]), blocked("y", [2, 4])], [None, None]);
    robust.robust = Some(Robust { rule: Rule::GeometricMedian, outliers: 0, subspace: 1 });
    let error = Merge::new(robust, MergeOptions::default(), Cut::default()).map(drop).unwrap_err();
    assert!(error.to_string().contains("distances between codes"), "{error}");
}

/// A tensor with one scale is read by windows where it is large; a band of blocks is not.
#[test]
fn windows_do_not_change_bytes() {
    let of = |name: &str| {
        input(
            name,
            &[
                ("a.weight", F8, &[1100, 1000]),
                ("a.weight_scale", F32, &[]),
                ("b.weight", F8, &[130, 4000]),
                ("b.weight_scale", F32, &[130]),
            ],
        )
    };
    let files = [1_u8, 2].map(|seed| {
        let header = &of("x").files[0].header;
        let mut bytes = header.to_bytes();
        for tensor in header.tensors() {
            if tensor.dtype == F32 {
                let scale = |i: u64| (i as f32 + f32::from(seed)) / 999.0;
                bytes.extend((0..tensor.len() / 4).flat_map(|i| scale(i).to_le_bytes()));
            } else {
                let code = |i: u64| (i * 7 + i / 1000 * u64::from(seed)) as u8;
                bytes.extend(
                    (0..tensor.len()).map(code).map(|code| if code & 0x7f == 0x7f { 1 } else { code }),
                );
            }
        }
        bytes
    });
    let merged = |window: Option<usize>| {
        let mut merge =
            Merge::new(chosen([of("x"), of("y")], [None, None]), MergeOptions::default(), Cut::default())
                .unwrap();
        let Next::Jobs(numbers) = merge.next().unwrap() else { panic!("there is something to do") };
        let (mut out, mut windowed) = (vec![0; merge.outputs()[0].header.file_len() as usize], 0);
        for number in numbers {
            let job = merge.job(number);
            let slice = |read: &Read| &files[read.input][read.range.start as usize..read.range.end as usize];
            let mut outputs: Vec<_> =
                job.writes().map(|it| vec![0; (it.range.end - it.range.start) as usize]).collect();
            let mut rooms: Vec<_> = outputs.iter_mut().map(Vec::as_mut_slice).collect();
            let mut read = |read: &Read, bytes: &mut [u8]| {
                bytes.copy_from_slice(slice(read));
                Ok(())
            };
            let reads: Vec<_> = job.reads().collect();
            let whole: Vec<_> = reads.iter().map(slice).collect();
            let bytes = match window.filter(|_| job.is_windowed()) {
                Some(window) => {
                    windowed += 1;
                    Bytes::Windows(window, &mut read)
                }
                None => Bytes::Whole(&whole),
            };
            let found = job.run(bytes, &mut rooms).unwrap();
            for (write, bytes) in job.writes().zip(outputs) {
                out[write.range.start as usize..write.range.end as usize].copy_from_slice(&bytes);
            }
            merge.found(number, found).unwrap();
        }
        assert_eq!(windowed, u32::from(window.is_some()));
        assert_eq!(merge.next().unwrap(), Next::Done);
        let off = merge.preview().quantised.unwrap();
        assert!(off.overall > 0.001 && off.overall < 0.06, "{}", off.overall);
        assert_eq!(off.modules.len(), 2);
        assert_eq!(merge.total(), 2 * (1100 * 1000 + 4 + 130 * 4000 + 130 * 4));
        (out, off)
    };
    let whole = merged(None);
    assert!(merged(Some(5000)) == whole && merged(Some(1)) == whole);
}
