//! Checkpoints that do not belong together, and those that only look so.

use snapbox::{assert_data_eq, str};

use crate::adapter::{self, A, B, Tensor, f32s, i64s};
use crate::place::Place;

const CONFIG: &str = "run/checkpoint-20/adapter_config.json";

/// The error when one field of a checkpoint's config is another.
fn with_config(from: &str, to: &str) -> String {
    let place = Place::with_run();
    place.edit(CONFIG, from, to);
    place.fails("merge run --select all -o out")
}

/// A run in which every checkpoint holds the same, and `run/checkpoint-20` this.
fn with_tensors(all: &[Tensor], odd: &[Tensor]) -> Place {
    let place = Place::with_run();
    for step in [10, 30] {
        place.checkpoint(&format!("run/checkpoint-{step}"), all);
    }
    place.checkpoint("run/checkpoint-20", odd);
    place
}

#[test]
fn rank_alpha_scaling_and_patterns_must_agree() {
    assert_data_eq!(
        with_config("\"r\": 2", "\"r\": 4"),
        str![[r#"
error: run/checkpoint-20: r is 4, but 2 in run/checkpoint-10
help: factors average only at one rank and scale, in the same modules; product space merges others (--space product)

"#]]
    );
    assert_data_eq!(
        with_config("\"lora_alpha\": 4", "\"lora_alpha\": 8"),
        str![[r#"
error: run/checkpoint-20: lora_alpha is 8, but 4 in run/checkpoint-10
help: factors average only at one rank and scale, in the same modules; product space merges others (--space product)

"#]]
    );
    assert_data_eq!(
        with_config("\"use_rslora\": false", "\"use_rslora\": true"),
        str![[r#"
error: run/checkpoint-20: use_rslora is true, but false in run/checkpoint-10
help: factors average only at one rank and scale, in the same modules; product space merges others (--space product)

"#]]
    );
    assert_data_eq!(
        with_config("\"r\": 2", "\"r\": 2, \"alpha_pattern\": {\"q\": 3}"),
        str![[r#"
error: run/checkpoint-20: alpha_pattern is {"q":3}, but absent in run/checkpoint-10
help: factors average only at one rank and scale, in the same modules; product space merges others (--space product)

"#]]
    );
}

#[test]
fn initialisation_and_method_must_agree() {
    assert_data_eq!(
        with_config("\"init_lora_weights\": true", "\"init_lora_weights\": \"pissa\""),
        str![[r#"
error: run/checkpoint-20: init_lora_weights is "pissa", but true in run/checkpoint-10
help: the two adapters may refer to different base weights, or one was converted (PiSSA) and the other not

"#]]
    );
    assert_data_eq!(
        with_config("LORA", "LOHA"),
        str![[r#"
error: run/checkpoint-20: peft_type is LOHA, but LORA in run/checkpoint-10
help: leave one of them out

"#]]
    );
}

#[test]
fn methods_that_do_not_average_are_refused() {
    let place = Place::with_run();
    for step in [10, 20, 30] {
        place.edit(&format!("run/checkpoint-{step}/adapter_config.json"), "LORA", "VBLORA");
    }
    assert_data_eq!(
        place.fails("merge run --select all -o out"),
        str![[r#"
error: run/checkpoint-10: is VBLORA, which picks vectors by a softmax over its top k: the average of logits picks others
help: choose its best checkpoint instead of an average

"#]]
    );
    for step in [10, 20, 30] {
        place.edit(&format!("run/checkpoint-{step}/adapter_config.json"), "VBLORA", "SOMETHING_NEW");
    }
    assert_data_eq!(
        place.fails("merge run --select all -o out"),
        str![[r#"
error: run/checkpoint-10: has peft_type `SOMETHING_NEW`, a method this version does not know; nothing says its parameters may be averaged
help: a newer version may know it

"#]]
    );
}

#[test]
fn target_modules_compare_as_a_set() {
    let place = Place::with_run();
    place.edit(CONFIG, "[\"q\", \"v\"]", "[\"v\", \"q\"]");
    assert_eq!(place.merges("run --select all").err, "");
    assert_data_eq!(
        with_config("[\"q\", \"v\"]", "[\"q\"]"),
        str![[r#"
error: run/checkpoint-20: target_modules is ["q"], but ["q","v"] in run/checkpoint-10
help: factors average only at one rank and scale, in the same modules; product space merges others (--space product)

"#]]
    );
}

#[test]
fn a_moved_base_model_is_noted_and_another_one_an_error() {
    let place = Place::with_run();
    place.edit(CONFIG, "example/tiny", "/data/models/tiny");
    assert_data_eq!(
        place.merges("run --select all").err,
        str![[r#"
note: run/checkpoint-20: base_model_name_or_path is "/data/models/tiny", but "example/tiny" in run/checkpoint-10; taken as one model in two places

"#]]
    );
    assert_data_eq!(
        with_config("example/tiny", "example/large"),
        str![[r#"
error: run/checkpoint-20: base_model_name_or_path is "example/large", but "example/tiny" in run/checkpoint-10
help: adapters of different models cannot be averaged; if it is one model, give it one name in both configs

"#]]
    );
}

#[test]
fn differing_tensor_names_are_shown_and_known_prefixes_named() {
    let renamed = |to: &dyn Fn(&str) -> String| {
        let mut tensors = adapter::lora(0.5);
        tensors.iter_mut().for_each(|tensor| tensor.name = to(&tensor.name));
        with_tensors(&adapter::lora(0.5), &tensors).fails("merge run --select all -o out")
    };
    assert_data_eq!(
        renamed(&|name| name.replace(".q.", ".k.")),
        str![[r#"
error: run/checkpoint-20: lacks 2 tensors that run/checkpoint-10 has: `base_model.model.q.lora_A.weight`, `base_model.model.q.lora_B.weight`; has 2 tensors that run/checkpoint-10 lacks: `base_model.model.k.lora_A.weight`, `base_model.model.k.lora_B.weight`
help: only checkpoints of one run, with the same modules trained, can be averaged

"#]]
    );
    assert_data_eq!(
        renamed(&|name| name.replace("model.q", "model._orig_mod.q")),
        str![[r#"
error: run/checkpoint-20: lacks 2 tensors that run/checkpoint-10 has: `base_model.model.q.lora_A.weight`, `base_model.model.q.lora_B.weight`; has 2 tensors that run/checkpoint-10 lacks: `base_model.model._orig_mod.q.lora_A.weight`, `base_model.model._orig_mod.q.lora_B.weight`
help: the names differ only in `_orig_mod.`: one was saved from a model wrapped in torch.compile; save the unwrapped model

"#]]
    );
    assert_data_eq!(
        renamed(&|name| name.replace(".weight", ".default.weight")),
        str![[r#"
error: run/checkpoint-20: lacks 2 tensors that run/checkpoint-10 has: `base_model.model.q.lora_A.weight`, `base_model.model.q.lora_B.weight`; has 2 tensors that run/checkpoint-10 lacks: `base_model.model.q.lora_A.default.weight`, `base_model.model.q.lora_B.default.weight`
help: the names differ only in the adapter's name `default`: one is a raw training state, not a save_pretrained file

"#]]
    );
    assert_data_eq!(
        renamed(&|name| format!("module.{name}")),
        str![[r#"
error: run/checkpoint-20: lacks 2 tensors that run/checkpoint-10 has: `base_model.model.q.lora_A.weight`, `base_model.model.q.lora_B.weight`; has 2 tensors that run/checkpoint-10 lacks: `module.base_model.model.q.lora_A.weight`, `module.base_model.model.q.lora_B.weight`
help: the names differ only in `module.`: one was saved from inside DataParallel

"#]]
    );
}

#[test]
fn differing_shapes_name_both() {
    let head = |rows: usize| f32s("base_model.model.lm_head.weight", &[rows, 2], &vec![1.0; rows * 2]);
    let with = |tensor: Tensor| [adapter::lora(0.5), vec![tensor]].concat();
    assert_data_eq!(
        with_tensors(&with(head(3)), &with(head(4))).fails("merge run --select all -o out"),
        str![[r#"
error: run/checkpoint-20: tensor `base_model.model.lm_head.weight` is [4, 2], but run/checkpoint-10 has [3, 2]
help: the vocabulary was resized between the two; only checkpoints of one vocabulary can be averaged

"#]]
    );
    let rank_3 = [f32s(A, &[3, 3], &[1.0; 9]), f32s(B, &[4, 3], &[1.0; 12])];
    assert_data_eq!(
        with_tensors(&adapter::lora(0.5), &rank_3).fails("merge run --select all -o out"),
        str![[r#"
error: run/checkpoint-20: tensor `base_model.model.q.lora_A.weight` is [3, 3], but run/checkpoint-10 has [2, 3] (and one more tensor like it)
help: the ranks are 3 and 2: factors average only at one rank

"#]]
    );
}

#[test]
fn relora_restarts_are_refused() {
    let place = Place::with_run();
    place.write("run/checkpoint-20/relora/model.safetensors", "");
    assert_data_eq!(
        place.fails("merge run --select all -o out"),
        str![[r#"
error: run/checkpoint-20: was trained with ReLoRA: its adapters belong to different bases
help: checkpoints on both sides of a restart cannot be averaged; name checkpoints from between two restarts yourself

"#]]
    );
    let place = Place::with_run();
    place.log(
        "run/checkpoint-30",
        &[
            r#"{"step": 10, "eval_loss": 3, "num_lora_restarts": 0}"#,
            r#"{"step": 20, "eval_loss": 1, "num_lora_restarts": 1}"#,
            r#"{"step": 30, "eval_loss": 2, "num_lora_restarts": 1}"#,
        ],
    );
    assert_data_eq!(
        place.fails("merge run --select all -o out"),
        str![[r#"
error: run: the checkpoints refer to different base models, as ReLoRA merged the adapter between them: num_lora_restarts is 0 at step 10, 1 at step 20, 30
help: average only checkpoints with the same num_lora_restarts

"#]]
    );
}

#[test]
fn another_seed_is_another_run() {
    let seed = [f32s(A, &[2, 3], &[6.0, 5.0, -1.0, 2.0, 3.0, 1.0]), f32s(B, &[4, 2], &[0.5; 8])];
    let place = with_tensors(&adapter::lora(0.0), &seed);
    assert_data_eq!(
        place.fails("merge run --select all -o out"),
        str![[r#"
error: run/checkpoint-20: is not of the same run as run/checkpoint-10: the mean cosine of their A factors is -0.07, near 1 within a run
help: merge adapters of several runs with --space product, which averages what they do; --allow-cross-run averages the factors anyway

"#]]
    );
    assert_data_eq!(
        place.merges("run --select all --allow-cross-run").err,
        str![[r#"
note: run/checkpoint-10 and run/checkpoint-20 point in different directions (mean cosine of their A factors -0.07); an average of factors is then a poor average of what they do
note: run/checkpoint-20 and run/checkpoint-30 point in different directions (mean cosine of their A factors -0.07); an average of factors is then a poor average of what they do
note: run/checkpoint-10 and run/checkpoint-30 hold the same weights, byte for byte

"#]]
    );
}

#[test]
fn mixed_dtypes_take_the_widest_or_the_one_asked_for() {
    // ½ as BF16 is the upper half of its F32
    let narrow = |tensor: &Tensor| Tensor {
        dtype: "BF16",
        data: tensor.data.as_chunks::<4>().0.iter().flat_map(|word| [word[2], word[3]]).collect(),
        ..tensor.clone()
    };
    let wide = adapter::lora(0.5);
    let place = with_tensors(&wide, &wide.iter().map(narrow).collect::<Vec<_>>());
    place.merges("run --select all");
    assert_eq!(place.merged(B), [0.5; 8]);
    let out = place.mwa("merge run --select all -o bf16 --dtype bf16");
    assert_eq!(out.code, Some(0));
    assert_data_eq!(
        place.mwa("inspect run bf16").out,
        str![[r#"
run
  checkpoint-10, step 10
    LORA, rank 2, alpha 4, 14 parameters in 2 tensors (2 F32), 271 B
    of example/tiny
    in q, v
  checkpoint-20, step 20
    LORA, rank 2, alpha 4, 14 parameters in 2 tensors (2 BF16), 245 B
    of example/tiny
    in q, v
  checkpoint-30, step 30
    LORA, rank 2, alpha 4, 14 parameters in 2 tensors (2 F32), 271 B
    of example/tiny
    in q, v
  LORA: may be averaged
  metrics, how many of the 3 checkpoints have one, and how well it tells them apart:
    eval_loss     3  range 2, noise 1.1180: 1.8
  run/checkpoint-10/trainer_state.json and 2 more (a Trainer's state): eval_loss
bf16
  bf16
    LORA, rank 2, alpha 4, 14 parameters in 2 tensors (2 BF16), 252 B
    of example/tiny
    in q, v
  LORA: may be averaged

"#]]
    );
}

#[test]
fn non_finite_values_are_refused_unless_their_weight_is_zero() {
    let mut bad = adapter::lora(0.5);
    bad[1].data[8..12].copy_from_slice(&f32::INFINITY.to_le_bytes());
    let place = with_tensors(&adapter::lora(0.5), &bad);
    assert_data_eq!(
        place.fails("merge run --select all -o out"),
        str![[r#"
error: run/checkpoint-20: tensor `base_model.model.q.lora_B.weight` holds inf, at element 2
help: the run has diverged there: leave that checkpoint out (--drop-bad does)

"#]]
    );
    place.merges("run --select all --weights 0.5,0,0.5");
    assert_eq!(place.merged(B), [0.5; 8]);
    std::fs::remove_dir_all(place.path("out")).unwrap();
    // let through, said, and verified
    for method in ["mean", "median"] {
        let ran = place.merges(&format!("run --select all --allow-non-finite --method {method}"));
        assert!(ran.err.contains("values are NaN or infinite, as was allowed"), "{}", ran.err);
        let verified = place.mwa("verify out");
        assert_eq!(verified.code, Some(0), "{}{}", verified.out, verified.err);
        std::fs::remove_dir_all(place.path("out")).unwrap();
    }
    assert_data_eq!(
        place.merges("run --select all --drop-bad").err,
        str![[r#"
note: run/checkpoint-20 is dropped: tensor `base_model.model.q.lora_B.weight` holds inf, at element 2
note: one factor of each module is the same in all inputs, so the average of factors is exact
note: run/checkpoint-10 and run/checkpoint-30 hold the same weights, byte for byte

"#]]
    );
}

#[test]
fn integer_tensors_must_be_the_same() {
    let with = |index: i64| [adapter::lora(0.5), vec![i64s("index", &[1, 2, index])]].concat();
    with_tensors(&with(3), &with(3)).merges("run --select all");
    assert_data_eq!(
        with_tensors(&with(3), &with(4)).fails("merge run --select all -o out"),
        str![[r#"
error: run/checkpoint-20: tensor `index` is copied, never averaged, but differs from run/checkpoint-10, at element 2
help: integer and frozen tensors must be the same in every input; merge checkpoints of one run

"#]]
    );
}

/// A file as kohya's scripts write it.
fn kohya(place: &Place, name: &str, alpha: f32, x: f32) {
    place.write(
        name,
        adapter::safetensors(&[
            f32s("lora_unet_q.alpha", &[], &[alpha]),
            f32s("lora_unet_q.lora_down.weight", &[2, 3], &[1.0; 6]),
            f32s("lora_unet_q.lora_up.weight", &[4, 2], &[x; 8]),
        ]),
    );
}

#[test]
fn kohya_files_average_under_one_alpha_only() {
    let place = Place::new();
    kohya(&place, "cat-000001.safetensors", 1.0, 0.5);
    kohya(&place, "cat-000002.safetensors", 1.0, 1.0);
    kohya(&place, "cat-000003.safetensors", 2.0, 1.0);
    let ran = place.merges("cat-000001.safetensors cat-000002.safetensors --scheme uniform");
    assert_data_eq!(
        ran.err,
        str![[r#"
note: one factor of each module is the same in all inputs, so the average of factors is exact

"#]]
    );
    let merged = place.read("out/merged.safetensors");
    assert_eq!(adapter::values(&merged, "lora_unet_q.alpha"), [1.0]);
    assert_eq!(adapter::values(&merged, "lora_unet_q.lora_up.weight"), [0.75; 8]);
    assert_data_eq!(
        place.fails("merge cat-000002.safetensors cat-000003.safetensors --scheme uniform -o out2"),
        str![[r#"
error: cat-000003.safetensors: tensor `lora_unet_q.alpha` is copied, never averaged, but differs from cat-000002.safetensors, at element 0
help: each file scales its factors by alpha/rank, so factors under different alphas do not average: scale both factors by √(alpha/other alpha) first, as kohya's merge_lora.py does

"#]]
    );
}

#[test]
fn metadata_that_sets_the_scale_must_be_in_every_file() {
    let place = Place::new();
    let tensors = [
        f32s("transformer.q.lora_A.weight", &[2, 3], &[1.0; 6]),
        f32s("transformer.q.lora_B.weight", &[4, 2], &[1.0; 8]),
    ];
    let plain = adapter::safetensors(&tensors);
    place.write("a-1.safetensors", &plain);
    let header = String::from_utf8(plain[8..plain.len() - 56].to_vec()).unwrap();
    let scaled = header.replace(
        "\"format\":\"pt\"",
        r#""format":"pt","lora_adapter_metadata":"{\"transformer.r\": 2, \"transformer.lora_alpha\": 8}""#,
    );
    assert_ne!(header, scaled);
    place.write("a-2.safetensors", adapter::with_header(&scaled, &plain[plain.len() - 56..]));
    assert_data_eq!(
        place.fails("merge a-1.safetensors a-2.safetensors --scheme uniform -o out"),
        str![[r#"
error: a-1.safetensors: has no lora_adapter_metadata, but a-2.safetensors has it: diffusers would load them at different scales
help: save it again with a diffusers version that writes the adapter's config, or leave it out

"#]]
    );
}

#[test]
fn stale_hashes_are_not_carried_over() {
    let place = Place::new();
    let tensors = [
        f32s("lora_unet_q.lora_down.weight", &[2, 3], &[1.0; 6]),
        f32s("lora_unet_q.lora_up.weight", &[4, 2], &[1.0; 8]),
    ];
    let plain = adapter::safetensors(&tensors);
    let (header, data) = plain[8..].split_at(plain.len() - 8 - 56);
    for epoch in [1, 2] {
        let metadata =
            format!(r#""ss_epoch":"{epoch}","ss_network_dim":"2","sshs_model_hash":"{}""#, "0".repeat(64));
        let header = core::str::from_utf8(header).unwrap().replace("\"format\":\"pt\"", &metadata);
        place.write(&format!("cat-00000{epoch}.safetensors"), adapter::with_header(&header, data));
    }
    place.merges("cat-000001.safetensors cat-000002.safetensors --scheme uniform");
    let merged = place.read("out/merged.safetensors");
    let header = String::from_utf8_lossy(&merged);
    assert!(header.contains("ss_network_dim") && !header.contains("ss_epoch"), "{header}");
    assert!(!header.contains(&"0".repeat(64)), "{header}");
}
