//! What a merge writes, where it refuses to write, and that it writes the same every time.

use core::panic::AssertUnwindSafe;
use std::collections::BTreeMap;
use std::fs;
use std::panic::catch_unwind;

use mwa_host::{Machine, MergeOptions, Options, Progress};
use snapbox::{assert_data_eq, str};

use crate::adapter::{self, A, B, CONFIG};
use crate::place::Place;

/// The files of a folder by name.
fn files(place: &Place, folder: &str) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(place.path(folder)).unwrap().map(Result::unwrap);
    entries.map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap())).collect()
}

#[test]
fn the_output_is_an_adapter_with_card_and_report_and_nothing_of_the_training() {
    let place = Place::with_run();
    place.edit(
        "run/checkpoint-30/adapter_config.json",
        "\"r\": 2,",
        "\"r\": 2,\n  \"from_the_future\": [1],",
    );
    for file in
        ["tokenizer.json", "chat_template.jinja", "optimizer.pt", "rng_state.pth", "training_args.bin"]
    {
        place.write(&format!("run/checkpoint-30/{file}"), file);
    }
    place.merges("run --select all");
    let files = files(&place, "out");
    let names: Vec<_> = files.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        [
            "README.md",
            "adapter_config.json",
            "adapter_model.safetensors",
            "chat_template.jinja",
            "mwa-report.json",
            "tokenizer.json"
        ]
    );
    assert_eq!(files["adapter_config.json"], place.read("run/checkpoint-30/adapter_config.json"));
    assert_data_eq!(
        String::from_utf8(files["README.md"].clone()).unwrap(),
        str![[r#"
---
base_model: "example/tiny"
library_name: peft
tags:
- merge
- mwa
- "lora"
---

# Merged checkpoints

A weighted average of 3 checkpoints, made with mwa [..] (metrics-weighted averaging, after [arXiv 2504.18580](https://arxiv.org/abs/2504.18580)).

Checkpoints: all 3 checkpoints, as selected.

Weights: linear, penalty 0.8, by eval_loss (lower is better).

Space: factors. With A and B averaged each by itself, the result is off from the exact average of the adapters' products by 3.1 % (at most 3.1 %, in q).

| checkpoint | step | eval_loss | weight |
|---|---|---|---|
| checkpoint-10 | 10 | 3.000000 | 0.1111 |
| checkpoint-20 | 20 | 1.000000 | 0.5556 |
| checkpoint-30 | 30 | 2.000000 | 0.3333 |

Hashes of all inputs and of the result are in `mwa-report.json`; `mwa verify` checks them.

```python
from peft import PeftModel

model = PeftModel.from_pretrained(base_model, "path/to/this/folder")
```

"#]]
    );
    assert_data_eq!(
        String::from_utf8(files["mwa-report.json"].clone()).unwrap(),
        str![[r#"
{
  "mwa": "[..]",
  "selected": {
    "rule": "given",
    "taken": 3,
    "found": 3,
    "line": "all 3 checkpoints, as selected"
  },
  "weighting": {
    "scheme": "linear",
    "penalty": 0.8,
    "metric": "eval_loss",
    "goal": "min"
  },
  "space": "factors",
  "residual": {
    "overall": 0.031348695480210624,
    "method": "exact",
    "modules": [
      {
        "module": "q",
        "relative": 0.031348695480210624
      }
    ]
  },
  "dtype": "keep",
  "inputs": [
    {
      "name": "run/checkpoint-10",
      "path": "../run/checkpoint-10",
      "step": 10,
      "metric": 3.0,
      "source": "at step 10",
      "weight": 0.11111111111111109,
      "files": [
        {
          "name": "adapter_model.safetensors",
          "bytes": 271,
          "blake3": "2d0170e2f42a0efa0316744d876f8a1abd43304f2f4c793a3d194c24ea6609dd"
        }
      ]
    },
    {
      "name": "run/checkpoint-20",
      "path": "../run/checkpoint-20",
      "step": 20,
      "metric": 1.0,
      "source": "at step 20",
      "weight": 0.5555555555555556,
      "files": [
        {
          "name": "adapter_model.safetensors",
          "bytes": 271,
          "blake3": "4bd092b776d8c2dda3ea9bdbdbb36ca472dc0f0dc61606b2174708b1634eb105"
        }
      ]
    },
    {
      "name": "run/checkpoint-30",
      "path": "../run/checkpoint-30",
      "step": 30,
      "metric": 2.0,
      "source": "at step 30",
      "weight": 0.33333333333333337,
      "files": [
        {
          "name": "adapter_model.safetensors",
          "bytes": 271,
          "blake3": "c6f0278597ef3d463ff9671b193316304ee43bc3d4d18e35d2de468897a0ceda"
        }
      ]
    }
  ],
  "outputs": [
    {
      "name": "adapter_model.safetensors",
      "bytes": 272,
      "blake3": "5525bd5af1d32b6a26ebfeb5b4de25c4a24935467a0bd8eeb939451a5b514b12"
    }
  ],
  "companions": [
    {
      "name": "adapter_config.json",
      "bytes": 209,
      "blake3": "a234f882c0709ae44fcf542d47b1061a0c8bd1a4c56b5fa7a42daa283fbb1b3b"
    },
    {
      "name": "chat_template.jinja",
      "bytes": 19,
      "blake3": "251a81820d687d79114f0c58f88f9d8b5fe8342af96852e33ecd9001618d6bb5"
    },
    {
      "name": "tokenizer.json",
      "bytes": 14,
      "blake3": "84edf8c609b8d39b1a142591d8a4575ecf0a40700195c18f1b5a5a07c02bc0f6"
    }
  ],
  "notes": [
    "run/checkpoint-30: from_the_future is [1], but absent in run/checkpoint-10; taken as the same"
  ]
}

"#]]
    );
    // weights 1/9, 5/9, 3/9 of the values ¼, ½, ¾
    let expected = (0.25 + 5.0 * 0.5 + 3.0 * 0.75) / 9.0;
    for value in place.merged(B) {
        assert!((value - expected).abs() < 1e-6, "{value} is not {expected}");
    }
}

#[test]
fn the_same_merge_gives_the_same_bytes_in_every_file() {
    let place = Place::new();
    let values = |x: f32| (0..30_000).map(|i| x + (i % 89) as f32 / 7.0).collect::<Vec<_>>();
    for (step, x) in [(10, 0.5), (20, 0.625), (30, 0.75)] {
        let tensors =
            [adapter::f32s(A, &[2, 15_000], &values(x)), adapter::f32s(B, &[15_000, 2], &values(-x))];
        place.checkpoint(&format!("run/checkpoint-{step}"), &tensors);
    }
    let mut made = Vec::new();
    for extra in ["", "", "--threads 1", "--threads 7 --memory 1K", "--threads 100000"] {
        place.merges(&format!("run {extra}"));
        made.push(files(&place, "out"));
        fs::remove_dir_all(place.path("out")).unwrap();
    }
    assert!(made.windows(2).all(|pair| pair[0] == pair[1]));
}

#[test]
fn an_output_that_exists_is_not_replaced_without_force() {
    let place = Place::with_run();
    place.merges("run --select all");
    assert_data_eq!(
        place.fails("merge run --select all -o out"),
        str![[r#"
error: out: exists already
help: choose another output folder, or replace an earlier merge with --force

"#]]
    );
    let first = files(&place, "out");
    assert_eq!(place.mwa("merge run --select all -o out --force --scheme uniform").code, Some(0));
    assert_ne!(files(&place, "out"), first);
    // someone's own folder is not replaced, even so
    place.write("mine/notes.txt", "dear diary");
    assert_data_eq!(
        place.fails("merge run --select all -o mine --force"),
        str![[r#"
error: mine: is not an earlier merge (it has no mwa-report.json); it is not replaced, even with --force
help: choose another output folder, or remove this one yourself

"#]]
    );
    place.write("file", "");
    assert_data_eq!(
        place.fails("merge run --select all -o file"),
        str![[r#"
error: file: exists and is not a folder
help: choose another output folder

"#]]
    );
    // an empty folder is welcome
    fs::create_dir(place.path("new")).unwrap();
    assert_eq!(place.mwa("merge run --select all -o new").code, Some(0));
}

#[test]
fn an_output_never_lies_over_an_input() {
    let place = Place::with_run();
    assert_data_eq!(
        place.fails("merge run --select all -o run/checkpoint-20/merged"),
        str![[r#"
error: run/checkpoint-20/merged: lies in the checkpoint run/checkpoint-20
help: choose an output folder beside the checkpoints, or elsewhere

"#]]
    );
    assert_data_eq!(
        place.fails("merge run --select all -o run/checkpoint-20"),
        str![[r#"
error: run/checkpoint-20: exists already
help: choose another output folder

"#]]
    );
    assert_data_eq!(
        place.fails("merge run --select all -o run --force"),
        str![[r#"
error: run: would overwrite the input run
help: choose an output folder outside the inputs

"#]]
    );
    assert_eq!(
        place.mwa("merge run --select all -o run/merged").code,
        Some(0),
        "beside the checkpoints is fine"
    );
    // the merge is not a checkpoint of the run, and no surprise in it
    assert_eq!(place.mwa("weights run --select all").err, "");
}

#[test]
fn folders_above_the_output_are_made_and_taken_away_again() {
    let place = Place::with_run();
    place.fails("merge run --select all -o deep/er/out --weights 1");
    place.edit("run/checkpoint-20/adapter_config.json", "\"r\": 2", "\"r\": 4");
    place.fails("merge run --select all -o deep/er/out");
    place.edit("run/checkpoint-20/adapter_config.json", "\"r\": 4", "\"r\": 2");
    let mut bad = adapter::lora(0.5);
    bad[0].data[..4].copy_from_slice(&f32::NAN.to_le_bytes());
    place.checkpoint("run/checkpoint-20", &bad);
    place.fails("merge run --select all -o deep/er/out");
    assert_eq!(place.mwa("merge run --select all -o deep/er/out --drop-bad").code, Some(0));
}

#[test]
fn a_report_stays_true_when_run_and_merge_move_together() {
    let place = Place::with_run();
    place.merges("run --select all");
    fs::create_dir(place.path("elsewhere")).unwrap();
    for name in ["run", "out"] {
        fs::rename(place.path(name), place.path("elsewhere").join(name)).unwrap();
    }
    assert_data_eq!(
        place.mwa("verify elsewhere/out").out,
        str![[r#"
same     elsewhere/out/adapter_model.safetensors
same     1 file beside the weights
same     3 input files
verified: merging again gives the same bytes

"#]]
    );
}

#[test]
fn verify_notices_each_change() {
    let place = Place::with_run();
    place.merges("run --select all");
    let mut weights = place.read("out/adapter_model.safetensors");
    *weights.last_mut().unwrap() ^= 1;
    place.write("out/adapter_model.safetensors", &weights);
    let ran = place.mwa("verify out");
    assert_eq!(ran.code, Some(1));
    assert_data_eq!(
        ran.out,
        str![[r#"
changed  out/adapter_model.safetensors
same     1 file beside the weights
same     3 input files
differs: merging again gives what the report says, but that is not what is here

"#]]
    );

    place.checkpoint("run/checkpoint-10", &adapter::lora(9.0));
    fs::remove_dir_all(place.path("run/checkpoint-20")).unwrap();
    let ran = place.mwa("verify out");
    assert_eq!(ran.code, Some(1));
    assert_data_eq!(
        ran.out,
        str![[r#"
changed  out/adapter_model.safetensors
same     1 file beside the weights
changed  run/checkpoint-10/adapter_model.safetensors
missing  run/checkpoint-20/adapter_model.safetensors
same     1 input file
not merged again: inputs are missing or have changed

"#]]
    );

    let place = Place::with_run();
    place.merges("run --select all");
    place.edit("out/mwa-report.json", "\"weight\": 0.5", "\"weight\": 0.25");
    assert_data_eq!(
        place.fails("verify out"),
        str![[r#"
error: out/mwa-report.json: the weights sum to 0.7, not to 1
help: the report was damaged or edited: merge again

"#]]
    );
    place.write("out/mwa-report.json", "{}");
    assert_data_eq!(
        place.fails("verify out"),
        str![[r#"
error: out/mwa-report.json: is not a merge report: missing field `mwa` at line 1 column 2
help: the report was damaged or edited: merge again

"#]]
    );
    assert_data_eq!(
        place.fails("verify run"),
        str![[r#"
error: run: holds no mwa-report.json
help: verify takes a folder that mwa wrote, with its report; mwa convert and mwa moments write none

"#]]
    );
}

#[test]
fn a_merged_value_that_overflows_is_an_error_and_one_that_vanishes_is_counted() {
    let place = Place::with_run();
    for (step, x) in [(10, 1e5), (20, 1e5), (30, 2e5)] {
        place.checkpoint(&format!("run/checkpoint-{step}"), &adapter::lora(x));
    }
    assert_data_eq!(
        place.fails("merge run --select all -o out --dtype f16"),
        str![[r#"
error: run/checkpoint-30: tensor `base_model.model.q.lora_A.weight` has a merged value too large for F16, at element 0
help: ask for a wider dtype: --dtype f32 or bf16

"#]]
    );
    for (step, x) in [(10, 1e-12), (20, 1e-12), (30, 2e-12)] {
        place.checkpoint(&format!("run/checkpoint-{step}"), &adapter::lora(x));
    }
    assert_data_eq!(
        place.merges("run --select all --dtype f16").err,
        str![[r#"
note: one factor of each module is the same in all inputs, so the average of factors is exact
note: 8 of 14 values became zero in the output dtype; --dtype f32 or bf16 keeps them
note: run/checkpoint-10 and run/checkpoint-20 hold the same weights, byte for byte

"#]]
    );
}

#[test]
fn a_panicking_thread_ends_the_merge_and_leaves_nothing() {
    struct Panics;
    impl Progress for Panics {
        fn advance(&self, _: u64) {
            panic!("on purpose");
        }
    }
    let place = Place::new();
    for step in [1, 2] {
        place.write(&format!("run/checkpoint-{step}/adapter_config.json"), CONFIG);
        let tensors = [
            adapter::f32s(A, &[2, 20_000], &vec![1.0; 40_000]),
            adapter::f32s(B, &[20_000, 2], &vec![1.0; 40_000]),
        ];
        place.checkpoint(&format!("run/checkpoint-{step}"), &tensors);
    }
    let before = place.tree();
    let options = Options { inputs: vec![place.path("run")], ..Options::default() };
    let how = MergeOptions {
        machine: Machine { threads: Some(4), memory: Some(1), ..Machine::default() },
        ..MergeOptions::default()
    };
    let merge = || mwa_host::merge(&options, &how, &place.path("out"), &Panics);
    assert!(catch_unwind(AssertUnwindSafe(merge)).is_err());
    place.assert_unchanged(&before);
}

#[test]
fn a_merge_in_another_container_replaces_no_input() {
    let place = Place::with_run();
    let does = |arguments: &str| assert_eq!(place.mwa(arguments).code, Some(0), "{arguments}");
    // without logs nothing tells that the merge has none
    for name in ["adapter_model.safetensors", "adapter_config.json"] {
        for step in [10, 20] {
            let bytes = place.read(&format!("run/checkpoint-{step}/{name}"));
            place.write(&format!("bare/checkpoint-{step}/{name}"), bytes);
        }
    }
    does("merge bare/checkpoint-10 bare/checkpoint-20 --scheme uniform -o bare/checkpoint-90");
    let file = "bare/checkpoint-90/adapter_model.safetensors";
    let before = place.read(file);
    let again = "merge bare/checkpoint-10 bare/checkpoint-90 --scheme uniform --force -o bare/checkpoint-90";
    for format in ["", " --format pt", " --format mlx"] {
        let error = place.fails(&format!("{again}{format}"));
        assert!(error.contains("would overwrite the input"), "{format}: {error}");
        assert_eq!(place.read(file), before, "{format}");
    }
}
