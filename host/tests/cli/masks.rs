//! Masks of tasks: kept small beside one vector, and each task given back.

use crate::adapter::{self, Tensor, f32s, i64s, safetensors, values};
use crate::place::Place;

const BASE: [f32; 6] = [0.0, 1.0, -1.0, 2.0, 0.5, 0.0];
const TASKS: [[f32; 6]; 3] =
    [[0.9, 1.0, -1.4, 2.1, 0.5, -0.1], [1.0, 0.2, -0.7, 2.1, 0.5, 0.1], [-0.2, 1.1, -1.3, 2.1, 0.5, 0.0]];

fn model(values: &[f32; 6], many: &[f32]) -> Vec<Tensor> {
    vec![f32s("w", &[2, 3], values), f32s("long", &[many.len()], many), i64s("positions", &[0, 1, 2])]
}

/// A base and three tasks: the six numbers of the oracle, and a tensor of several pieces.
fn place() -> Place {
    let place = Place::new();
    let many = |task: usize| -> Vec<f32> {
        let change = |i: usize| if i.is_multiple_of(task + 2) { 0.25 * (task + 1) as f32 } else { 0.0 };
        (0..40_003).map(|i| (i % 97) as f32 / 8.0 + if task < 3 { change(i) } else { 0.0 }).collect()
    };
    place.write("base/model.safetensors", safetensors(&model(&BASE, &many(3))));
    place.write("base/config.json", r#"{"model_type": "llama"}"#);
    for (task, values) in TASKS.iter().enumerate() {
        place.write(&format!("task{task}/model.safetensors"), safetensors(&model(values, &many(task))));
    }
    place
}

#[test]
fn tasks_are_kept_as_bits_and_given_back() {
    let place = place();
    let ran = place.mwa("masks task0 task1 task2 --base base -o kept");
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    for words in ["task0", "λ", "task vector", "masks", "together", "the models themselves"] {
        assert!(ran.out.contains(words), "{words}: {}", ran.out);
    }
    // the first element in the lowest bit: 101101, 111101, 001100
    for (task, bits) in [45_u8, 47, 12].iter().enumerate() {
        let file = place.read(&format!("kept/mask-task{task}.safetensors"));
        assert_eq!(adapter::bytes(&file, "w"), [*bits], "{task}");
        assert_eq!(adapter::bytes(&file, "long").len(), 5001);
    }
    let vector = place.read("kept/task-vector.safetensors");
    assert_eq!(values(&vector, "w"), [1.699_999_9, -0.7, -0.399_999_92, 0.299_999_7, 0.0, 0.0]);
    let told: serde_json::Value = serde_json::from_slice(&place.read("kept/mwa-masks.json")).unwrap();
    assert_eq!((&told["elements"], &told["tasks"][1]["lambda"]), (&40_009.into(), &0.4.into()));
    assert_eq!(told["base"]["path"], "../base");
    let ran = place.mwa("masks apply kept --task task0 -o back");
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    let back = place.read("back/model.safetensors");
    // b and what the mask keeps of the sum
    let plus: Vec<f32> = BASE.iter().zip(values(&vector, "w")).map(|(base, sum)| base + sum).collect();
    assert_eq!(values(&back, "w"), [plus[0], 1.0, plus[2], plus[3], 0.5, 0.0]);
    assert_eq!(place.read("back/config.json"), place.read("base/config.json"));
    let (long, base) = (values(&back, "long"), values(&place.read("base/model.safetensors"), "long"));
    assert!(
        long.iter().zip(&base).enumerate().all(|(i, (a, b))| i % 2 == 0 || a == b),
        "what it left alone stays"
    );
    assert!(long.iter().zip(&base).any(|(a, b)| a != b));
}

#[test]
fn one_task_comes_back_as_it_was() {
    let place = place();
    assert_eq!(place.mwa("masks task1 --base base -o kept").code, Some(0));
    assert_eq!(place.mwa("masks apply kept --task task1 -o back").code, Some(0));
    let [back, task] = ["back", "task1"].map(|folder| place.read(&format!("{folder}/model.safetensors")));
    assert_eq!(values(&back, "long"), values(&task, "long"));
    let near = values(&back, "w").into_iter().zip(values(&task, "w")).all(|(a, b)| (a - b).abs() < 1e-6);
    assert!(near, "within a rounding of the difference");
}

#[test]
fn threads_change_no_byte_and_consensus_counts_the_same_bits() {
    let place = place();
    for (at, how) in ["--threads 1", "--threads 3", "--lambda 0.4,0.4,0.4"].iter().enumerate() {
        let ran = place.mwa(&format!("masks task0 task1 task2 --base base {how} -o kept{at}"));
        assert_eq!(ran.code, Some(0), "{how}: {}", ran.err);
        for name in ["task-vector", "mask-task0", "mask-task1", "mask-task2"] {
            let file = |at: usize| place.read(&format!("kept{at}/{name}.safetensors"));
            assert_eq!(file(at), file(0), "{how} {name}");
        }
    }
    let ran = place.mwa("merge task0 task1 task2 --base base --method consensus --agree 2 --scale 1 -o all");
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    let merged = values(&place.read("all/model.safetensors"), "long");
    let base = values(&place.read("base/model.safetensors"), "long");
    let sum = values(&place.read("kept0/task-vector.safetensors"), "long");
    let masks: Vec<_> = (0..3)
        .map(|task| {
            adapter::bytes(&place.read(&format!("kept0/mask-task{task}.safetensors")), "long").to_vec()
        })
        .collect();
    for i in 0..base.len() {
        let count = masks.iter().filter(|mask| mask[i / 8] >> (i % 8) & 1 == 1).count();
        assert_eq!(merged[i], if count >= 2 { base[i] + sum[i] } else { base[i] }, "{i}: {count}");
    }
}

#[test]
fn what_is_wrong_is_told() {
    let place = place();
    place.write("other/model.safetensors", safetensors(&[f32s("v", &[2], &[1.0, 2.0])]));
    let mut broken = TASKS[0];
    broken[4] = f32::INFINITY;
    place.write("broken/model.safetensors", safetensors(&model(&broken, &vec![0.0; 40_003])));
    place.checkpoint("run/checkpoint-1", &adapter::lora(0.25));
    assert_eq!(place.mwa("masks task0 task1 --base base -o kept").code, Some(0));
    for (line, code, facts) in [
        ("masks task0 other --base base -o out", 1, &["is in base", "but not in other", "--base"][..]),
        ("masks task0 broken --base base -o out", 1, &["broken: tensor `w` holds inf, at element 4"]),
        (
            "masks task0 task1 --base base --lambda 0.4,0.3,0.2 -o out",
            2,
            &["there are 3 of --lambda for 2 tasks"],
        ),
        ("masks task0 --base base --lambda -1 -o out", 2, &["--lambda is -1"]),
        ("masks run/checkpoint-1 --base base -o out", 1, &["is an adapter", "mwa apply"]),
        ("masks apply base --task task0 -o out", 1, &["base: holds no mwa-masks.json", "mwa masks"]),
        ("masks apply kept --task task8 -o out", 2, &["there is no task `task8`", "task"]),
        ("masks apply kept --task task0 --base task1 -o out", 1, &["has BLAKE3", "made over"]),
        ("masks apply kept --task task0 --base other -o out", 1, &["not in the base", "--base"]),
        ("masks apply kept --task task0 -o kept", 1, &["kept"]),
    ] {
        let told = place.fails_with(code, line);
        for fact in facts {
            assert!(told.contains(fact), "{line}: {told}");
        }
    }
    // a mask of the same form that is not the one that was written
    let mut damaged = place.read("kept/mask-task0.safetensors");
    *damaged.last_mut().unwrap() ^= 1;
    let whole = place.read("kept/mask-task0.safetensors");
    place.write("kept/mask-task0.safetensors", damaged);
    let told = place.fails("masks apply kept --task task0 -o out");
    assert!(
        told.contains("kept/mask-task0.safetensors: has BLAKE3") && told.contains("written with"),
        "{told}"
    );
    // and one of another form: not the base is to blame
    place.write("kept/mask-task0.safetensors", safetensors(&[i64s("w", &[0]), i64s("long", &[0])]));
    let told = place.fails("masks apply kept --task task0 -o out");
    assert!(
        told.contains("kept/mask-task0.safetensors: tensor `")
            && told.contains("copy the folder of masks whole"),
        "{told}"
    );
    place.write("kept/mask-task0.safetensors", whole);
    std::fs::rename(place.path("base"), place.path("moved")).unwrap();
    let told = place.fails("masks apply kept --task task0 -o out");
    assert!(told.contains("say by --base where it is now"), "{told}");
    assert_eq!(place.mwa("masks apply kept --task task0 --base moved -o out").code, Some(0));
}
