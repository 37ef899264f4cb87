//! Methods that weigh by the second moments in the state of an optimizer, on checkpoints that a Trainer wrote.
//!
//! data/trained/expected.py makes what is expected, in numpy.

use std::path::Path;

use serde_json::{Value, json};

use crate::adapter;
use crate::place::Place;

const A: &str = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight";

fn data(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cli/data/trained").join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The two checkpoints as `run/checkpoint-{50,100}`.
fn with_run() -> Place {
    let place = Place::new();
    for step in [50, 100] {
        for name in ["adapter_model.safetensors", "adapter_config.json", "optimizer.pt"] {
            let file = format!("checkpoint-{step}/{name}");
            place.write(&format!("run/{file}"), data(&file));
        }
        place.log(&format!("run/checkpoint-{step}"), &[""; 0]);
    }
    place
}

/// Every tensor of a file, by name.
fn tensors(file: &[u8]) -> Vec<(String, Vec<f32>)> {
    let (len, rest) = file.split_first_chunk().unwrap();
    let header: Value =
        serde_json::from_slice(&rest[..usize::try_from(u64::from_le_bytes(*len)).unwrap()]).unwrap();
    let names = header.as_object().unwrap().keys().filter(|name| *name != "__metadata__");
    names.map(|name| (name.clone(), adapter::values(file, name))).collect()
}

fn report(place: &Place, out: &str) -> Value {
    serde_json::from_slice(&place.read(&format!("{out}/mwa-report.json"))).unwrap()
}

#[test]
fn checkpoints_of_a_trainer_are_averaged_by_curvature_and_verified() {
    let place = with_run();
    let ran = place.merges("run --select all --method ota");
    assert!(ran.out.contains("weights: none, method ota"), "{}", ran.out);
    let merged = place.read("out/adapter_model.safetensors");
    assert!(tensors(&merged) == tensors(&data("ota.safetensors")));
    let told = report(&place, "out");
    assert_eq!(told["weighting"]["method"], "ota");
    assert_eq!(
        told["weighting"]["settings"],
        json!({ "power": "0.5", "epsilon": "0.00000001", "normalise": "mean" })
    );
    let files = told["inputs"][0]["files"].as_array().unwrap();
    assert_eq!([&files[0]["name"], &files[1]["name"]], ["adapter_model.safetensors", "optimizer.pt"]);
    let verified = place.mwa("verify out");
    assert_eq!(verified.code, Some(0), "{}{}", verified.out, verified.err);
    for machine in ["--threads 1", "--threads 3 --memory 1"] {
        let ran = place.mwa(&format!("merge run --select all --method ota {machine} -o again --force"));
        assert_eq!(ran.code, Some(0), "{}", ran.err);
        assert!(place.read("again/adapter_model.safetensors") == merged, "{machine}");
    }
    let ran = place.mwa("merge run --select all --method ota --normalise none -o raw");
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    assert!(
        tensors(&place.read("raw/adapter_model.safetensors"))
            == tensors(&data("ota-as-they-are.safetensors"))
    );
    assert_eq!(place.mwa("verify raw").code, Some(0));
    // other moments, another mean
    place.write("run/checkpoint-50/optimizer.pt", data("checkpoint-100/optimizer.pt"));
    assert_eq!(place.mwa("verify out").code, Some(1));
}

#[test]
fn moments_lie_elsewhere_too() {
    let place = with_run();
    for step in [50, 100] {
        let state = place.read(&format!("run/checkpoint-{step}/optimizer.pt"));
        std::fs::remove_file(place.path(&format!("run/checkpoint-{step}/optimizer.pt"))).unwrap();
        place.write(&format!("states/{step}.pt"), state);
    }
    let told = place.fails("merge run --select all --method ota -o out");
    assert_eq!(
        told,
        "error: run/checkpoint-50: has no optimizer.pt, in which the second moments would be that the method weighs by\n\
         help: a Trainer keeps the state of its optimizer unless save_only_model is set; where it lies elsewhere, name it: of a merge by \
         --moments, one for each checkpoint, of mwa moments by --state\n"
    );
    // as accelerate leaves it
    for step in [50, 100] {
        place
            .write(&format!("run/checkpoint-{step}/optimizer.bin"), place.read(&format!("states/{step}.pt")));
    }
    let told = place.fails("merge run --select all --method ota -o out");
    let way = "optimizer.bin is accelerate's, and read as --moments run/checkpoint-50/optimizer.bin";
    assert!(told.contains(way), "{told}");
    let ran = place.mwa(
        "merge run --select all --method ota --moments run/checkpoint-50/optimizer.bin,run/checkpoint-100/optimizer.bin -o bin",
    );
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    assert!(tensors(&place.read("bin/adapter_model.safetensors")) == tensors(&data("ota.safetensors")));
    assert_eq!(place.mwa("verify bin").code, Some(0));
    place.merges("run --select all --method ota --moments states/50.pt,states/100.pt");
    let merged = tensors(&place.read("out/adapter_model.safetensors"));
    assert!(merged == tensors(&data("ota.safetensors")));
    assert_eq!(report(&place, "out")["inputs"][1]["files"][1]["name"], "../../states/100.pt");
    let verified = place.mwa("verify out");
    assert_eq!(verified.code, Some(0), "{}{}", verified.out, verified.err);
    // checkpoints by a path from the root on, moments by one from here
    let run = place.path("run").display().to_string();
    let ran = place.mwa(&format!(
        "merge {run} --select all --method ota --moments states/50.pt,states/100.pt -o rooted"
    ));
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    assert_eq!(place.mwa("verify rooted").code, Some(0));
    // outputs and weights lie where they are said to, whatever moments may do
    let mut forged = report(&place, "out");
    forged["inputs"][1]["files"][0]["name"] = json!("../../states/100.pt");
    place.write("forged/mwa-report.json", forged.to_string());
    let told = place.fails("verify forged");
    assert!(told.contains("names `../../states/100.pt`, which is not a file in the folder"), "{told}");
    let told = place.fails_with(2, "merge run --method ota --moments states/50.pt -o other");
    assert!(told.contains("moments are given for 1 of 2 checkpoints"), "{told}");
}

#[test]
fn moments_are_taken_out_of_states() {
    let place = with_run();
    for step in [50, 100] {
        let ran = place.mwa(&format!("moments run/checkpoint-{step} -o {step}.safetensors"));
        assert_eq!(ran.code, Some(0), "{}", ran.err);
        assert!(ran.out.contains(&format!("{step}.safetensors")), "{}", ran.out);
        std::fs::remove_file(place.path(&format!("run/checkpoint-{step}/optimizer.pt"))).unwrap();
    }
    let file = place.read("50.safetensors");
    let names: Vec<_> = tensors(&file).into_iter().map(|(name, _)| name).collect();
    let model = data("checkpoint-50/adapter_model.safetensors");
    assert_eq!(names, tensors(&model).into_iter().map(|(name, _)| name).collect::<Vec<_>>());
    assert!(adapter::values(&file, A).iter().all(|v| *v >= 0.0) && adapter::values(&file, A)[0] > 0.0);
    let head = String::from_utf8_lossy(&file[8..100]).into_owned();
    assert!(head.contains(r#""beta2":"0.999""#) && head.contains(r#""step":"50""#), "{head}");
    for (options, expected) in [("", "ota"), ("--normalise none", "ota-as-they-are")] {
        let ran = place.mwa(&format!(
            "merge run --select all --method ota {options} --moments 50.safetensors,100.safetensors -o {expected}"
        ));
        assert_eq!(ran.code, Some(0), "{}", ran.err);
        let merged = tensors(&place.read(&format!("{expected}/adapter_model.safetensors")));
        assert!(merged == tensors(&data(&format!("{expected}.safetensors"))), "{expected}");
        assert_eq!(place.mwa(&format!("verify {expected}")).code, Some(0));
    }
    let told =
        place.fails("merge run --select all --method ota --moments 100.safetensors,50.safetensors -o other");
    assert!(
        told.contains(
            "has moments after step 100, which are of checkpoint-100, and is given for checkpoint-50"
        ),
        "{told}"
    );
    let told = place.fails("moments run/checkpoint-50 -o another.safetensors");
    assert!(told.contains("run/checkpoint-50: has no optimizer.pt"), "{told}");
    let told = place.fails("moments run/checkpoint-50 --state 50.safetensors -o 50.safetensors");
    assert!(told.contains("50.safetensors: exists already"), "{told}");
    let told = place.fails("moments run/checkpoint-50 --state 50.safetensors -o moments");
    assert!(told.contains("moments: is no name of a safetensors file"), "{told}");
}

#[test]
fn means_of_rows_and_columns_take_little_and_weigh_as_the_oracle_says() {
    let place = with_run();
    for step in [50, 100] {
        let ran = place.mwa(&format!("moments run/checkpoint-{step} -o {step}.safetensors --rank1"));
        assert_eq!(ran.code, Some(0), "{}", ran.err);
        for fact in ["8 matrices by rows and columns: ", " instead of 3.6 kB, off by ", " is off by most, "] {
            assert!(ran.out.contains(fact), "{}", ran.out);
        }
        std::fs::remove_file(place.path(&format!("run/checkpoint-{step}/optimizer.pt"))).unwrap();
    }
    let file = place.read("50.safetensors");
    let names: Vec<_> = tensors(&file).into_iter().map(|(name, _)| name).collect();
    assert!(names.contains(&format!("{A}.exp_avg_sq_row")) && names.len() == 16, "{names:?}");
    let head = String::from_utf8_lossy(&file[8..300]).into_owned();
    assert!(head.contains(r#""rank1":"NAME[i][j] = "#) && head.contains(r#""step":"50""#), "{head}");
    let expected = tensors(&data("ota-rank1.safetensors"));
    for (i, machine) in ["", "--threads 1", "--threads 3 --memory 1"].into_iter().enumerate() {
        let ran = place.mwa(&format!(
            "merge run --select all --method ota --moments 50.safetensors,100.safetensors {machine} -o out{i}"
        ));
        assert_eq!(ran.code, Some(0), "{}", ran.err);
        assert!(tensors(&place.read(&format!("out{i}/adapter_model.safetensors"))) == expected, "{machine}");
    }
    let verified = place.mwa("verify out0");
    assert_eq!(verified.code, Some(0), "{}{}", verified.out, verified.err);
    // whole again, and of that the same means
    let again = "moments run/checkpoint-50 --state";
    assert_eq!(place.mwa(&format!("{again} 50.safetensors -o whole.safetensors")).code, Some(0));
    let ran = place
        .mwa("merge run --select all --method ota --moments whole.safetensors,100.safetensors -o from-whole");
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    assert!(tensors(&place.read("from-whole/adapter_model.safetensors")) == expected);
    // half of it, and means of something else
    let mut tensors: Vec<_> =
        [("w", vec![2.0, 3.0])].map(|(name, values)| adapter::f32s(name, &[2], &values)).into();
    place.write("other.safetensors", adapter::safetensors(&tensors));
    let told = place.fails(
        "merge run --select all --method ota --moments other.safetensors,100.safetensors -o elsewhere",
    );
    assert!(
        told.contains("` has no second moments in ../../other.safetensors or another, and no tensor has"),
        "{told}"
    );
    tensors.push(adapter::f32s(&format!("{A}.exp_avg_sq_row"), &[2], &[1.0, 2.0]));
    place.write("half.safetensors", adapter::safetensors(&tensors));
    let told = place.fails(&format!("{again} half.safetensors -o another.safetensors"));
    for fact in ["half.safetensors: tensor `", "exp_avg_sq_row` is of the rows or the columns", "is missing"]
    {
        assert!(told.contains(fact), "{told}");
    }
    tensors.push(adapter::f32s(&format!("{A}.exp_avg_sq_col"), &[2, 1], &[1.0, 2.0]));
    place.write("half.safetensors", adapter::safetensors(&tensors));
    let told = place.fails(&format!("{again} half.safetensors -o another.safetensors"));
    assert!(
        told.contains("exp_avg_sq_col` is F32 [2, 1]: the means of rows and columns are read of matrices"),
        "{told}"
    );
}

#[test]
fn adafactor_s_rows_and_columns_are_read() {
    let place = Place::new();
    let name = |layer: usize, half: &str| {
        format!("base_model.model.model.layers.{layer}.self_attn.q_proj.lora_{half}.weight")
    };
    let weights = |layer: usize| {
        [("A", [2, 4]), ("B", [4, 2])]
            .map(|(half, shape)| adapter::f32s(&name(layer, half), &shape, &[1.0; 8]))
    };
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../core/tests/data/torch/optimizer-adafactor.pt");
    let mut state = std::fs::read(path).unwrap();
    // all of its tensors are the beginning of one storage, which is of zeros
    let key = b"archive/data/0";
    let at = state.windows(key.len()).position(|part| part == key).unwrap() + key.len();
    let numbers = [1.0_f32, 2.0, 3.0, 4.0].map(f32::to_le_bytes).concat();
    state[at..at + 16].copy_from_slice(&numbers);
    for step in [1, 2] {
        place.checkpoint(&format!("run/checkpoint-{step}"), &(0..11).flat_map(weights).collect::<Vec<_>>());
        place.write(&format!("run/checkpoint-{step}/optimizer.pt"), &state);
    }
    let ran = place.mwa("moments run/checkpoint-1 -o v.safetensors");
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    let file = place.read("v.safetensors");
    let told = |half: &str| adapter::values(&file, &name(10, half));
    let third = 1.0 / 3.0_f64;
    #[expect(clippy::cast_possible_truncation, reason = "rounded once, as it is")]
    let scaled = |rows: &[f64], columns: &[f64], mean: f64| -> Vec<f32> {
        rows.iter().flat_map(|row| columns.iter().map(move |column| (row / mean * column) as f32)).collect()
    };
    assert_eq!(told("A"), scaled(&[1.0, 2.0], &[1.0, 2.0, 3.0, 4.0], 1.5));
    assert_eq!(told("B"), scaled(&[1.0, 2.0, 3.0, 4.0], &[1.0, 2.0], 2.5));
    assert!((f64::from(told("A")[0]) - 2.0 * third).abs() < 1e-7);
    place.merges("run --select all --method ota");
    assert_eq!(place.mwa("verify out").code, Some(0));
    let told = place.mwa("inspect run/checkpoint-1/optimizer.pt");
    assert!(told.out.contains("means of squares of gradients by rows and columns are in it"), "{}", told.out);
}

#[test]
fn what_changed_most_by_curvature_is_grafted_on_a_base() {
    let place = with_run();
    let ran = place.merges("run/checkpoint-100 --base run/checkpoint-50 --method ffg --density 0.25");
    assert!(ran.out.contains("method ffg, density 0.25"), "{}", ran.out);
    assert!(
        tensors(&place.read("out/adapter_model.safetensors")) == tensors(&data("ffg.safetensors")),
        "the oracle says otherwise"
    );
    let verified = place.mwa("verify out");
    assert_eq!(verified.code, Some(0), "{}{}", verified.out, verified.err);
    let ran = place
        .mwa("merge run/checkpoint-100 --base run/checkpoint-50 --method ffg --density 1 --threads 2 -o all");
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    let model = tensors(&data("checkpoint-100/adapter_model.safetensors"));
    assert!(tensors(&place.read("all/adapter_model.safetensors")) == model);
}

#[test]
fn what_has_no_moments_or_no_use_for_them_is_refused() {
    let place = with_run();
    for (options, code, facts) in [
        (
            "--method ota --space product",
            2,
            &["method ota takes values element by element, but product space merges what modules do"][..],
        ),
        ("--method ota --penalty 1", 2, &["ota takes all checkpoints alike"]),
        ("--method median --power 1", 2, &["option power says nothing to the method median", "ota or ffg"]),
        ("--method ffg", 2, &["method ffg is of what tasks changed of a base model", "--base"]),
        (
            "--method ffg --base run/checkpoint-50 --normalise none",
            2,
            &["option normalise says nothing to the method ffg"],
        ),
        ("--method ota --power 0", 2, &["it must be a number, above 0"]),
    ] {
        let told = place.fails_with(code, &format!("merge run --select all {options} -o out"));
        for fact in facts {
            assert!(told.contains(fact), "{options}: {told}");
        }
    }
    // an unknown class makes its modules in an unknown order
    for step in [50, 100] {
        place.edit(&format!("run/checkpoint-{step}/adapter_config.json"), "tiny-llama", "tiny");
    }
    let told = place.fails("merge run --select all --method ota -o out");
    for fact in ["run/checkpoint-50/optimizer.pt: ", "have one shape", "names.json"] {
        assert!(told.contains(fact), "{told}");
    }
    // and is told
    let names: Vec<_> = (0..2)
        .flat_map(|layer| ["q_proj", "v_proj"].map(|module| (layer, module)))
        .flat_map(|(layer, module)| ["A", "B"].map(|half| (layer, module, half)))
        .map(|(layer, module, half)| {
            format!("base_model.model.model.layers.{layer}.self_attn.{module}.lora_{half}.default.weight")
        })
        .collect();
    for step in [50, 100] {
        place.write(&format!("run/checkpoint-{step}/names.json"), serde_json::to_vec(&names).unwrap());
    }
    place.merges("run --select all --method ota");
    assert!(tensors(&place.read("out/adapter_model.safetensors")) == tensors(&data("ota.safetensors")));
    assert_eq!(place.merged(A).len(), 128);
    place.write("run/checkpoint-50/names.json", serde_json::to_vec(&names[1..]).unwrap());
    let told = place.fails("merge run --select all --method ota -o other");
    assert!(
        told.contains("run/checkpoint-50/names.json: names 7 parameters, and the optimizer has 8"),
        "{told}"
    );
}
