//! Federated rounds. Models here are points on a line, as in `robust.rs`: B is x throughout, updates are √14·|x − y| long.

use crate::adapter::{self, B};
use crate::place::Place;

/// `round/NAME` at these points, and `base` at 0.
fn with_round(clients: &[(&str, f32)]) -> Place {
    let place = Place::new();
    place.checkpoint("base", &adapter::lora(0.0));
    for (name, x) in clients {
        place.checkpoint(&format!("round/{name}"), &adapter::lora(*x));
    }
    place
}

fn aggregates(place: &Place, arguments: &str) -> String {
    let ran = place.mwa(&format!("aggregate {arguments} --force -o out"));
    assert_eq!(ran.code, Some(0), "{arguments}: {}", ran.err);
    ran.out + &ran.err
}

fn merged(place: &Place, arguments: &str) -> f32 {
    aggregates(place, arguments);
    let values = place.merged(B);
    assert!(values.iter().all(|value| *value == values[0]), "{values:?}");
    values[0]
}

fn is_close(found: f32, expected: f32) {
    assert!((found - expected).abs() < 1e-6, "{found} is not {expected}");
}

#[test]
fn clients_count_by_their_samples() {
    let place = with_round(&[("a", 0.0), ("b", 1.0), ("c", 2.0)]);
    is_close(merged(&place, "round"), 1.0);
    is_close(merged(&place, "round --samples 1,1,2"), 1.25);
    is_close(merged(&place, "round --samples 1,1,2 --base base"), 1.25);
    is_close(merged(&place, "round --samples 1,1,2 --base base --server-rate 0.5"), 0.625);
    assert_eq!(place.mwa("verify out").code, Some(0));
    let text = aggregates(&place, "round --samples 1,1,2 --base base");
    assert!(text.contains("c                  2      0  0.5000"), "{text}");
    assert!(text.contains("round: 3 clients, 4 samples; fedavg"), "{text}");
}

#[test]
fn no_order_of_arrival_shows() {
    let place = with_round(&[("a", 0.1), ("b", 0.3), ("c", 0.7), ("d", 1.3)]);
    let files = |order: &str| {
        aggregates(&place, order);
        let names = ["adapter_model.safetensors", "mwa-report.json", "README.md", "adapter_config.json"];
        names.map(|name| place.read(&format!("out/{name}")))
    };
    let first = files("round/a round/b round/c round/d --samples 3,7,1,5");
    assert_eq!(files("round/d round/b round/a round/c --samples 5,7,3,1"), first);
    assert_eq!(files("round/c round/d round/b round/a --samples 1,5,7,3"), first);
}

#[test]
fn stale_updates_count_less_and_the_stalest_not_at_all() {
    let place = with_round(&[("a", 2.0), ("b", 4.0), ("c", 100.0)]);
    let round = "round --staleness 0,3,9 --max-staleness 5 --discount polynomial:0.5 --base base";
    // ½·2 + ½·½·4, the rest is the base's
    is_close(merged(&place, &format!("{round} --rule fedbuff")), 2.0);
    // ⅔·2 + ⅓·4
    is_close(merged(&place, round), 8.0 / 3.0);
    let text = aggregates(&place, round);
    assert!(text.contains("c is dropped: its staleness is 9, above 5"), "{text}");
    let report: serde_json::Value = serde_json::from_slice(&place.read("out/mwa-report.json")).unwrap();
    assert_eq!(report["round"]["dropped"][0]["name"], "c");
    assert_eq!(place.mwa("verify out").code, Some(0));
}

#[test]
fn rounds_of_fixed_time_and_models_of_before_are_told_by_a_manifest() {
    let place = with_round(&[("a", 2.0), ("b", 3.0)]);
    place.checkpoint("old", &adapter::lora(1.0));
    let row = |client: &str, more: &str| format!(r#"{{"client": "{client}", "file": "{client}", {more}}}"#);
    let write = |rows: &[String]| {
        place.write("round/manifest.json", format!(r#"{{"clients": [{}]}}"#, rows.join(", ")));
    };
    // 0 + ½(2 − 0) + ½(3 − 1)
    write(&[row("a", r#""samples": 5"#), row("b", r#""samples": 5, "sent": "../old""#)]);
    is_close(merged(&place, "round --base base"), 2.0);
    assert_eq!(place.mwa("verify out").code, Some(0));
    // ⌈1.0/0.6⌉·¼·2 + ⌈0.5/0.6⌉·¾·3
    write(&[row("a", r#""samples": 1, "time": 1.0"#), row("b", r#""samples": 3, "time": 0.5"#)]);
    is_close(merged(&place, "--manifest round/manifest.json --rule fedfix --period 0.6 --base base"), 3.25);
    place.write("lines.jsonl", "{\"file\": \"round/a\"}\n{\"file\": \"round/b\"}\n");
    is_close(merged(&place, "--manifest lines.jsonl"), 2.5);
}

#[test]
fn norms_are_clipped_and_momentum_takes_the_last_step_again() {
    let place = with_round(&[("a", 1.0), ("b", 2.0)]);
    place.checkpoint("before", &adapter::lora(-1.0));
    let text = aggregates(&place, "round --base base --clip 3.7416573867739413");
    assert!(text.contains("b                  1      0  7.4833  0.50000"), "{text}");
    is_close(place.merged(B)[0], 1.0);
    is_close(merged(&place, "round --base base --previous before --momentum 0.5"), 2.0);
    assert_eq!(place.mwa("verify out").code, Some(0));
}

#[test]
fn no_client_decides_alone() {
    let place = with_round(&[("a", 1.0), ("b", 1.0625), ("c", 1.125), ("d", 1.25), ("mad", -8.0)]);
    for base in ["", "--base base"] {
        is_close(merged(&place, &format!("round --scheme krum {base}")), 1.0625);
        is_close(merged(&place, &format!("round --scheme multi-krum {base}")), 1.03125);
        let median = merged(&place, &format!("round --scheme geometric-median {base}"));
        assert!((median - 1.0625).abs() < 0.01, "{median}");
    }
    let text = aggregates(&place, "round --scheme geometric-median --base base --clip 10");
    assert!(text.contains("cosine"), "{text}");
    let flag = merged(&place, "round --scheme flag --base base --clip 4");
    assert!(flag.is_finite(), "{flag}");
}

#[test]
fn a_client_with_bad_numbers_is_named_or_dropped() {
    let place = with_round(&[("a", 1.0), ("b", f32::NAN), ("c", 2.0)]);
    let error = place.fails("aggregate round -o out");
    assert!(error.starts_with("error: round/b: tensor `base_model.model.q.lora_"), "{error}");
    let text = aggregates(&place, "round --samples 1,1,3 --drop-bad");
    assert!(text.contains("b is dropped: tensor `base_model.model.q.lora_"), "{text}");
    is_close(place.merged(B)[0], 1.75);
}

#[test]
fn what_does_not_go_together_is_refused() {
    let place = with_round(&[("a", 1.0), ("b", 2.0)]);
    let refused = |arguments: &str| place.fails_with(2, &format!("aggregate {arguments} -o out"));
    assert_eq!(
        refused("round --samples 1,2,3"),
        "error: there are 3 samples for 2 clients: a, b\nhelp: give one per client, in this order\n"
    );
    assert_eq!(
        refused("round/a round/a"),
        "error: client round/a is named twice\nhelp: a client counts once in a round: leave one of its files out\n"
    );
    assert_eq!(
        refused("round --rule fedbuff"),
        "error: fedbuff needs the model of this round\nhelp: give it: --base MODEL\n"
    );
    assert_eq!(
        refused("round --discount hinge:1"),
        "error: `hinge:1` is not a discount of staleness\n\
         help: use constant, polynomial, polynomial:A, hinge or hinge:A,B, with numbers from 0 on\n"
    );
    assert!(refused("round --base base --momentum 0.9").contains("needs the model before"));
    assert!(refused("round --base base --clip 0").contains("clipped to norm 0"));
    assert!(refused("round --scheme rank").contains("clients have no metric"));
    let failed = |arguments: &str| place.fails(&format!("aggregate {arguments} -o out"));
    assert!(failed("round --staleness 7,8 --max-staleness 5").contains("all 2 clients are staler than 5"));
    assert!(failed("round --samples 0,0").contains("the 2 clients have 0 samples together"));
    place.write("empty/notes.txt", "nothing");
    assert!(failed("empty").contains("there are no clients"));
    place.write("bad.json", "{\"clients\": [{\"fiel\": \"a\"}]}");
    assert!(failed("--manifest bad.json").contains("bad.json: is no manifest of a round"));
}
