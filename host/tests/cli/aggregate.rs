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

/// Values of a file against what was reckoned in f64.
fn is_near(found: f32, expected: f64) {
    assert!((f64::from(found) - expected).abs() < 1e-6, "{found} is not {expected}");
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
    let card = String::from_utf8(place.read("out/README.md")).unwrap();
    assert!(card.contains("The average of what 3 clients returned"), "{card}");
    let err = place.fails("aggregate rond -o none");
    assert!(err.contains("rond: does not exist\nhelp: did you mean round?"), "{err}");
    let err = place.fails("aggregate round/a nowhere/else -o none");
    assert!(err.contains("nowhere/else: does not exist\nhelp: give the folder of a round"), "{err}");
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
    for scheme in ["linear", "uniform", "rank", "decay", "ema"] {
        assert_eq!(
            refused(&format!("round --scheme {scheme}")),
            format!(
                "error: clients have no metric and are no checkpoints of one run: --scheme {scheme} has nothing to weigh by\n\
                 help: leave it out: clients count by --samples; or use --scheme flag, krum, multi-krum or geometric-median\n"
            )
        );
    }
    let failed = |arguments: &str| place.fails(&format!("aggregate {arguments} -o out"));
    assert!(failed("round --staleness 7,8 --max-staleness 5").contains("all 2 clients are staler than 5"));
    assert!(failed("round --samples 0,0").contains("the 2 clients have 0 samples together"));
    place.write("empty/notes.txt", "nothing");
    assert!(failed("empty").contains("there are no clients"));
    place.write("bad.json", "{\"clients\": [{\"fiel\": \"a\"}]}");
    let rows =
        r#"{"clients": [{"file": "a", "client": "ada", "samples": 9}, {"file": "b", "client": "bob"}]}"#;
    place.write("half.json", rows);
    let told = failed("--manifest half.json");
    assert!(told.contains("half.json: tells the samples of 1 of 2 clients, and none of bob"), "{told}");
    assert!(failed("--manifest bad.json").contains("bad.json: is no manifest of a round"));
}

/// A step of Adam from 0 moments, in f64.
fn adam(value: f64, mean: f64, (m, v): (f64, f64), number: i32) -> (f64, (f64, f64)) {
    let update = mean - value;
    let (m, v) = (0.9 * m + 0.1 * update, 0.99 * v + 0.01 * update * update);
    let rate = 0.1 * (1.0 - 0.99f64.powi(number + 1)).sqrt() / (1.0 - 0.9f64.powi(number + 1));
    (value + rate * m / (v.sqrt() + 1e-3), (m, v))
}

#[test]
fn a_server_s_adam_keeps_its_moments_beside_the_model() {
    let place = with_round(&[("a", 1.0), ("b", 3.0)]);
    let text = aggregates(&place, "round --base base --server adam --verbose");
    assert!(text.contains("round: 2 clients, 2 samples; fedavg; adam step 1, rate 0.1"), "{text}");
    assert!(
        text.contains("there is no mwa-server.safetensors beside base: this is the server's first step"),
        "{text}"
    );
    assert!(text.contains("mwa-server.safetensors"), "{text}");
    let (first, moments) = adam(0.0, 2.0, (0.0, 0.0), 1);
    is_near(place.merged(B)[0], first);
    let state = place.read("out/mwa-server.safetensors");
    is_near(adapter::values(&state, &format!("first.{B}"))[0], moments.0);
    is_near(adapter::values(&state, &format!("second.{B}"))[0], moments.1);
    assert_eq!(place.mwa("verify out").code, Some(0));

    // the next round begins with that model and finds them there
    std::fs::rename(place.path("out"), place.path("model-1")).unwrap();
    let again = aggregates(&place, "round --base model-1 --server adam --samples 3,1");
    assert!(again.contains("adam step 2"), "{again}");
    let card = String::from_utf8(place.read("out/README.md")).unwrap();
    let step = "Step 2 of the server's adam (rate 0.1) towards the average of what 2 clients returned";
    assert!(card.contains(step) && !card.contains("metrics-weighted"), "{card}");
    let (second, _) = adam(first, 1.5, moments, 2);
    is_near(place.merged(B)[0], second);
    assert_eq!(place.mwa("verify out").code, Some(0));
    let bytes = place.read("out/adapter_model.safetensors");
    let moved = "round --base model-1/adapter_model.safetensors --state model-1 --server adam --samples 3,1 --threads 1";
    aggregates(&place, moved);
    assert_eq!(place.read("out/adapter_model.safetensors"), bytes);

    // other moments would lead elsewhere, and that is seen
    let mut state = place.read("model-1/mwa-server.safetensors");
    *state.last_mut().unwrap() ^= 1;
    place.write("model-1/mwa-server.safetensors", &state);
    let verified = place.mwa("verify out");
    assert_eq!(verified.code, Some(1), "{}", verified.out);
    assert!(verified.out.contains("mwa-server.safetensors"), "{}", verified.out);
}

#[test]
fn a_server_s_adam_takes_its_own_numbers_and_the_base_s_dtype() {
    let place = with_round(&[("a", 1.0), ("b", 3.0)]);
    // without memory a step is as long as the rate, times √(1−β₂²)/(1−β₁²) = 1
    let own = "--server-lr 0.25 --beta1 0 --beta2 0 --tau 1e-9";
    is_close(merged(&place, &format!("round --base base --server adam {own}")), 0.25);
    aggregates(&place, "round --base base --server adam --dtype bf16 --clip 3.7416573867739413");
    let header = String::from_utf8_lossy(&place.read("out/adapter_model.safetensors")).into_owned();
    assert!(header.contains("BF16") && !header.contains("F32"), "{header}");
    assert_eq!(place.mwa("verify out").code, Some(0));

    let refused = |arguments: &str| place.fails_with(2, &format!("aggregate round {arguments} -o new"));
    assert_eq!(
        refused("--server adam"),
        "error: --server adam needs the model of this round\nhelp: give it: --base MODEL\n"
    );
    assert_eq!(
        refused("--base base --tau 0.1"),
        "error: --tau is of a server's Adam\nhelp: add --server adam, or leave it out\n"
    );
    assert!(refused("--base base --server adam --beta2 1").contains("the server's beta2 is 1"));
    assert!(refused("--base base --server adam --server-rate 0").contains("the server's rate is 0"));
    assert!(
        refused("--base base --server adam --momentum 0.9 --previous base").contains("moments of its own")
    );
    assert!(refused("--base base --server adam --space product").contains("factors of products are others"));
    let failed = |arguments: &str| place.fails(&format!("aggregate round {arguments} -o new"));
    assert!(
        failed("--base base --server adam --state base")
            .contains("base/mwa-server.safetensors: does not exist")
    );
    let other = failed("--base base --server adam --state base/adapter_model.safetensors");
    assert!(other.contains("holds no moments of a server's Adam"), "{other}");
}

/// Six clients whose mean depends on the order of a sum of floats, as a list with samples.
const SIX: [(&str, f32, u32); 6] =
    [("a", 0.1, 7), ("b", 0.3, 11), ("c", -0.7, 1), ("d", 1.3, 29), ("e", 0.011, 3), ("f", 3.7, 5)];

fn six() -> Place {
    let clients = SIX.map(|(name, x, _)| (name, x));
    let place = with_round(&clients);
    place.checkpoint("model", &adapter::lora(1.0));
    place
}

/// Sum these of the six, in this order.
fn summed(place: &Place, names: &str, out: &str) {
    let of = |name: char| SIX.iter().find(|it| it.0 == name.to_string()).unwrap();
    let files: Vec<_> = names.chars().map(|name| format!("round/{name}")).collect();
    let samples: Vec<_> = names.chars().map(|name| of(name).2.to_string()).collect();
    let arguments = format!(
        "aggregate {} --samples {} --partial --base model -o {out}",
        files.join(" "),
        samples.join(",")
    );
    let ran = place.mwa(&arguments);
    assert_eq!(ran.code, Some(0), "{arguments}: {}", ran.err);
}

fn runs(place: &Place, arguments: &str) {
    let ran = place.mwa(arguments);
    assert_eq!(ran.code, Some(0), "{arguments}: {}", ran.err);
}

#[test]
fn exact_sums_are_the_same_in_any_order_and_any_tree() {
    let place = six();
    summed(&place, "abcdef", "all");
    runs(&place, "aggregate all -o whole");
    let (sum, model) =
        (place.read("all/mwa-partial.safetensors"), place.read("whole/adapter_model.safetensors"));
    let mean: f64 = SIX.iter().map(|(_, x, n)| f64::from(*x) * f64::from(*n)).sum::<f64>() / 56.0;
    #[expect(clippy::cast_possible_truncation, reason = "rounded once, as the file's values are")]
    let rounded = mean as f32;
    assert_eq!(adapter::values(&model, B), [rounded; 8]);
    assert_eq!(place.read("whole/adapter_config.json"), place.read("model/adapter_config.json"));

    summed(&place, "fdbeca", "turned");
    assert_eq!(place.read("turned/mwa-partial.safetensors"), sum, "no order of arrival shows");

    summed(&place, "ca", "ac");
    summed(&place, "b", "one");
    summed(&place, "fde", "def");
    runs(&place, "aggregate def ac --partial -o four");
    runs(&place, "aggregate one four --partial -o tree");
    assert_eq!(place.read("tree/mwa-partial.safetensors"), sum, "no tree shows");
    runs(&place, "aggregate one def ac -o flat");
    assert_eq!(place.read("flat/adapter_model.safetensors"), model);
    runs(&place, "aggregate ac/mwa-partial.safetensors one def -o turned-flat");
    assert_eq!(place.read("turned-flat/adapter_model.safetensors"), model);
    for done in ["all", "four", "whole", "flat"] {
        let ran = place.mwa(&format!("verify {done}"));
        assert_eq!(ran.code, Some(0), "{done}: {}{}", ran.out, ran.err);
    }

    // a server steps to it as to any client
    runs(&place, "aggregate flat --base model --server-rate 0.5 -o half");
    let half = adapter::values(&place.read("half/adapter_model.safetensors"), B)[0];
    is_near(half, 0.5 + 0.5 * mean);
    runs(&place, "aggregate flat --base model --dtype bf16 -o short");

    let mut bytes = place.read("ac/mwa-partial.safetensors");
    *bytes.last_mut().unwrap() ^= 1;
    place.write("ac/mwa-partial.safetensors", bytes);
    assert_eq!(place.mwa("verify flat").code, Some(1), "what is summed is checked");
}

#[test]
fn sums_that_do_not_belong_together_are_refused() {
    let place = six();
    summed(&place, "ab", "ab");
    summed(&place, "bc", "bc");
    let failed = |arguments: &str| place.fails(&format!("aggregate {arguments} -o new"));
    assert_eq!(
        failed("ab bc"),
        "error: client round/b is in two sums\nhelp: a client counts once in a round: leave one of them out\n"
    );
    place.checkpoint("other", &adapter::lora(1.001));
    let on_other = "aggregate round/c --partial --base other -o c";
    runs(&place, on_other);
    assert_eq!(
        failed("ab c"),
        "error: c: is a sum on another model than ab\nhelp: sums of one round are made with the same --base\n"
    );
    let sum = "round/a round/b --partial --base model";
    assert!(
        failed(&format!("{sum} --samples 1.5,1"))
            .contains("client round/a tells of 1.5 samples, and sums count whole ones")
    );
    let many = failed(&format!("{sum} --samples 8388000,608"));
    assert!(many.contains("have 8388608 samples together"), "{many}");
    place.checkpoint("round/wild", &adapter::lora(5000.0));
    let wild = failed("round/a round/wild --partial --base model");
    assert!(
        wild.contains("round/wild: tensor `") && wild.contains("the scale that the base fixes"),
        "{wild}"
    );
    place.checkpoint("round/nan", &adapter::lora(f32::NAN));
    assert!(failed("round/a round/nan --partial --base model").contains("round/nan: tensor `"));
    // B of a new LoRA is 0 throughout: its scale is that of the model
    runs(&place, "aggregate round/a round/b --partial --base base -o new");

    let refused = |arguments: &str| place.fails_with(2, &format!("aggregate {arguments} -o newer"));
    assert!(refused("round/a --partial").contains("a sum needs the model of this round"));
    assert!(refused("ab round/c").contains("ab is a sum of clients, and round/c is a client"));
    assert!(refused("ab --base model").contains("sums bring their scales along"));
    assert!(refused("ab --samples 3").contains("sums tell their samples themselves"));
    for (option, why) in [
        ("--scheme krum", "--scheme compares each client with all others"),
        ("--clip 1", "--clip needs the norm of each update"),
        ("--discount polynomial", "--discount makes fractions of samples"),
        ("--rule fedbuff", "sums are means by samples"),
        ("--space product", "products are no sums of the tensors"),
        ("--server adam", "a sum takes no step of its server"),
        ("--server-rate 0.5", "a sum takes no step of its server"),
        ("--dtype bf16", "a sum has no dtype"),
    ] {
        let error = refused(&format!("{sum} {option}"));
        assert!(error.contains(why), "{option}: {error}");
    }
    let mut bytes = place.read("ab/mwa-partial.safetensors");
    let at = bytes.windows(8).position(|it| it == b"exponent").unwrap();
    bytes[at] = b'X';
    place.write("ab/mwa-partial.safetensors", bytes);
    let damaged = place.fails("aggregate ab -o newer");
    assert!(damaged.contains("has a damaged head"), "{damaged}");
}

#[test]
fn samples_that_are_told_otherwise_or_not_at_all() {
    let place = with_round(&[("a", 0.0), ("b", 1.0), ("c", 2.0)]);
    let told = place.fails("aggregate round --samples 1 2 3 -o out");
    assert!(
        told.contains("error: 2: does not exist")
            && told.contains("help: the numbers of --samples have commas between them: --samples 1,2"),
        "{told}"
    );
    let note = "nothing says how many samples the 3 clients had: they count alike";
    let ran = place.mwa("aggregate round -o out");
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    assert!(ran.err.contains(note), "{}", ran.err);
    for told in ["round --samples 1,1,1", "round --scheme geometric-median"] {
        let ran = place.mwa(&format!("aggregate {told} -o out --force"));
        assert!(ran.code == Some(0) && !ran.err.contains("nothing says"), "{}", ran.err);
    }
    let told = place.fails_with(2, "aggregate round --rule fedadam -o out");
    assert!(told.contains("FedAdam is --server adam, with any rule"), "{told}");
    let told = place.fails_with(2, "aggregate round --rule fedavgg -o out");
    assert!(told.contains("a similar value exists: 'fedavg'"), "{told}");
}
