//! Lost layers. Layer n of the models here holds n in both of its tensors, of a model of before n + 0.25.

use crate::adapter::{Tensor, f32s, safetensors, values};
use crate::place::Place;

fn layer(n: u64, more: f32) -> Vec<Tensor> {
    let value = u16::try_from(n).map(f32::from).unwrap() + more;
    let name = |part: &str| format!("model.layers.{n}.{part}");
    vec![f32s(&name("mlp.weight"), &[2, 2], &[value; 4]), f32s(&name("norm.weight"), &[2], &[value; 2])]
}

fn model(layers: impl Iterator<Item = u64>, more: f32) -> Vec<Tensor> {
    let mut tensors = vec![f32s("model.embed_tokens.weight", &[3], &[9.0 + more, -1.0, 0.5])];
    tensors.extend(layers.flat_map(|n| layer(n, more)));
    tensors
}

fn of(place: &Place, file: &str, n: u64) -> f32 {
    let bytes = place.read(&format!("out/{file}"));
    let found = values(&bytes, &format!("model.layers.{n}.mlp.weight"));
    assert_eq!(found, [found[0]; 4]);
    assert_eq!(values(&bytes, &format!("model.layers.{n}.norm.weight")), [found[0]; 2]);
    found[0]
}

fn recovers(place: &Place, arguments: &str) -> String {
    let ran = place.mwa(&format!("recover {arguments} --force -o out"));
    assert_eq!(ran.code, Some(0), "{arguments}: {}", ran.err);
    let verified = place.mwa("verify out");
    assert_eq!(verified.code, Some(0), "{}", verified.out);
    ran.out + &ran.err
}

#[test]
fn layers_that_are_missing_are_the_mean_of_those_around_them() {
    let place = Place::new();
    place.write("m/model.safetensors", safetensors(&model((0..8).filter(|n| *n != 3 && *n != 4), 0.0)));
    place.write("m/config.json", "{}");
    let text = recovers(&place, "m --lost model.layers.3-4");
    assert!(
        text.contains(
            "4 tensors of model.layers.3-4 from the stage before (0.5000) and the stage after (0.5000)"
        ),
        "{text}"
    );
    // layer 3 of 1 and 5, layer 4 of 2 and 6
    let found: Vec<_> = (0..8).map(|n| of(&place, "model.safetensors", n)).collect();
    assert_eq!(found, [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]);
    assert_eq!(place.read("out/config.json"), b"{}");
    let embed = values(&place.read("out/model.safetensors"), "model.embed_tokens.weight");
    assert_eq!(embed, [9.0, -1.0, 0.5]);
    recovers(&place, "m --lost model.layers.3-4 --weights 3,1");
    assert_eq!((of(&place, "model.safetensors", 3), of(&place, "model.safetensors", 4)), (2.0, 3.0));
}

#[test]
fn a_torn_file_keeps_what_can_be_read() {
    let place = Place::new();
    let whole = safetensors(&model(0..6, 0.0));
    // the last tensor but two is cut through: layer 5 is gone, and the norm of layer 4
    place.write("m/model.safetensors", &whole[..whole.len() - 28]);
    let error = place.fails("recover m --lost model.layers.5 -o out");
    assert!(
        error.contains(
            "m: lacks 1 tensors outside of model.layers.5, `model.layers.4.norm.weight` among them"
        ),
        "{error}"
    );
    let error = place.fails("recover m --lost model.layers.4-5 -o out");
    assert!(error.contains("m: model.layers.4-5 is at the end: nothing is after it"), "{error}");
    let text = recovers(&place, "m --lost model.layers.4-5 --copy-ends");
    assert!(text.contains("1 of 4 tensors of model.layers.4-5 are there and stay as they are"), "{text}");
    let bytes = place.read("out/model.safetensors");
    let value = |name: &str| values(&bytes, name)[0];
    assert_eq!(value("model.layers.4.mlp.weight"), 4.0);
    assert_eq!(value("model.layers.4.norm.weight"), 2.0);
    assert_eq!(value("model.layers.5.mlp.weight"), 3.0);
}

#[test]
fn what_is_no_layer_comes_from_an_older_checkpoint() {
    let place = Place::new();
    for (folder, more) in [("older", 0.25), ("m", 0.0)] {
        let mut tensors = model(0..4, more);
        tensors.push(f32s("model.norm.weight", &[2], &[7.0 + more; 2]));
        place.write(&format!("{folder}/model.safetensors"), safetensors(&tensors));
    }
    let whole = place.read("m/model.safetensors");
    // the end of the file is gone: the last norm, and the norm of layer 3
    place.write("m/model.safetensors", &whole[..whole.len() - 12]);
    let error = place.fails("recover m --lost model.layers.3 -o out");
    assert!(error.contains("`model.norm.weight` among them") && error.contains("by --from"), "{error}");
    let text = recovers(&place, "m --lost model.layers.3 --from older");
    assert!(text.contains("1 tensors, such as `model.norm.weight`, are not of model.layers.3"), "{text}");
    let bytes = place.read("out/model.safetensors");
    let found = ["model.norm.weight", "model.layers.3.norm.weight", "model.layers.3.mlp.weight"];
    assert_eq!(found.map(|name| values(&bytes, name)[0]), [7.25, 3.25, 3.0]);
    let error = place.fails("recover m --lost model.layer.3 --from older -o none");
    assert!(error.contains("has no tensor of model.layer.3"), "{error}");
}

#[test]
fn a_shard_that_is_gone_comes_from_an_older_checkpoint() {
    let place = Place::new();
    for (step, more) in [(10, 0.25), (20, 0.0)] {
        let folder = format!("run/checkpoint-{step}");
        let (first, second): (Vec<_>, Vec<_>) =
            model(0..4, more).into_iter().partition(|it| !it.name.contains("layers.2"));
        let mut map = serde_json::Map::new();
        for (file, tensors) in
            [("model-00001-of-00002.safetensors", first), ("model-00002-of-00002.safetensors", second)]
        {
            tensors.iter().for_each(|it| drop(map.insert(it.name.clone(), file.into())));
            place.write(&format!("{folder}/{file}"), safetensors(&tensors));
        }
        let index = serde_json::json!({ "metadata": {}, "weight_map": map });
        place.write(&format!("{folder}/model.safetensors.index.json"), index.to_string());
    }
    std::fs::remove_file(place.path("run/checkpoint-20/model-00002-of-00002.safetensors")).unwrap();
    let text = recovers(&place, "run/checkpoint-20 --lost model.layers.2");
    assert!(
        text.contains("run/checkpoint-10 has what is lost: --from run/checkpoint-10 is nearer"),
        "{text}"
    );
    assert_eq!(of(&place, "model-00002-of-00002.safetensors", 2), 2.0);
    let text = recovers(&place, "run/checkpoint-20 --lost model.layers.2 --from run/checkpoint-10");
    assert!(text.contains("2 tensors of model.layers.2 from the older checkpoint"), "{text}");
    assert_eq!(of(&place, "model-00002-of-00002.safetensors", 2), 2.25);
    assert_eq!(of(&place, "model-00001-of-00002.safetensors", 3), 3.0);
    assert!(
        String::from_utf8(place.read("out/model.safetensors.index.json"))
            .unwrap()
            .contains("model.layers.2.mlp.weight")
    );
}

#[test]
fn what_cannot_be_known_is_refused() {
    let place = Place::new();
    place.write("m/model.safetensors", safetensors(&model((0..8).filter(|n| *n != 3), 0.0)));
    let refused = |arguments: &str| place.fails_with(2, &format!("recover {arguments} -o out"));
    let failed = |arguments: &str| place.fails(&format!("recover {arguments} -o out"));
    assert_eq!(
        refused("m --lost layers"),
        "error: `layers` names no layers\nhelp: write what is lost by its numbers, the lower first: --lost model.layers.8-11\n"
    );
    assert!(refused("m --lost model.layers.5-4").contains("names no layers"));
    assert!(failed("m --lost model.layers.9").contains("model.layers.0 to model.layers.7 are there"));
    assert!(refused("m --lost model.layers.3 --weights 1").contains("--weights has 1 of two numbers"));
    assert_eq!(
        failed("m --lost model.layers.5"),
        "error: m: has all 2 tensors of model.layers.5: nothing of it is lost\n"
    );
    assert!(failed("m --lost model.layers.3 --weights 0,0").contains("the weights are 0 and 0"));
    assert!(failed("nowhere --lost model.layers.3").contains("nowhere"));
    place.write("other/model.safetensors", safetensors(&model(0..2, 0.0)));
    assert!(failed("m --lost model.layers.3 --from other").contains("is lost, and missing here too"));
    let others = [
        vec![f32s("model.embed_tokens.weight", &[4], &[0.0; 4])],
        vec![f32s("model.layers.0.norm.weight", &[3], &[0.0; 3])],
        vec![],
    ];
    for (more, told) in
        others.into_iter().zip(["is [4] here, but [3]", "is [3] here, but [2]", "shares no tensor"])
    {
        place.write("larger/model.safetensors", safetensors(&[layer(3, 0.0), more].concat()));
        let error = failed("m --lost model.layers.3 --from larger");
        assert!(error.contains(told), "{told}: {error}");
    }
    place.write("first/model.safetensors", safetensors(&model(1..4, 0.0)));
    assert_eq!(
        failed("first --lost model.layers.0"),
        "error: first: model.layers.0 is at the beginning: nothing is before it\n\
         help: take it from an older checkpoint (--from), or copy the neighbour that is there with --copy-ends\n"
    );
}

/// Where layers come from, and why they do not, is as the model is.
#[test]
fn the_stage_that_is_taken_is_the_one_that_is_named() {
    let place = Place::new();
    place.write("first/model.safetensors", safetensors(&model(1..4, 0.0)));
    let text = recovers(&place, "first --lost model.layers.0 --copy-ends");
    assert!(text.contains("2 tensors of model.layers.0 from the stage after; the others"), "{text}");
    assert_eq!(of(&place, "model.safetensors", 0), 1.0);
    let card = String::from_utf8(place.read("out/README.md")).unwrap();
    assert!(
        card.contains("# Recovered checkpoint\n\nLayers that were lost are filled in: 2 tensors of")
            && !card.contains("weighted average"),
        "{card}"
    );
    place.write("m/model.safetensors", safetensors(&model((0..4).filter(|n| *n != 1), 0.0)));
    let text = recovers(&place, "m --lost model.layers.1 --weights 0,1");
    assert!(text.contains("from the stage after; the others") && !text.contains("byte for byte"), "{text}");
    assert_eq!(of(&place, "model.safetensors", 1), 2.0);
    assert!(!recovers(&place, "m --lost model.layers.1").contains("byte for byte"));
    place.write("short/model.safetensors", safetensors(&model([0, 3].into_iter(), 0.0)));
    let error = place.fails("recover short --lost model.layers.1-2 -o none");
    assert!(
        error.contains(
            "model.layers.1-2 is 2 layers, and 1 before it are too few; model.layers.1-2 is 2 layers, and 1 after it are too few"
        ),
        "{error}"
    );
    assert!(error.contains("fewer layers at a time"), "{error}");
}
