//! Tests of reading options: names, values, and what contradicts.

use alloc::string::ToString;
use alloc::vec;

use super::*;
use crate::dtype::Float;

fn read(json: &str) -> Options {
    Options::parse(json).unwrap()
}

fn refused(json: &str) -> String {
    let error = Options::parse(json).and_then(|options| options.merging()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Usage);
    error.to_string()
}

#[test]
fn nothing_said_is_the_default() {
    assert_eq!(read(""), Options::default());
    assert_eq!(read("{}"), Options::default());
    assert_eq!(read(r#"{"last": null, "residual": null}"#), Options::default());
}

/// Options whose settings of a scheme are left out where they are what the scheme takes anyway.
fn meant(mut options: Options) -> Options {
    let usual = Options::default();
    for scheme in ["decay", "ema"] {
        assert_eq!(options.averaging().settings(scheme), usual.averaging().settings(scheme));
    }
    (options.curve, options.positions, options.ema_decay, options.ema_per) = (None, None, None, None);
    // and a method takes what is usual for it
    options.density = options.density.filter(|share| *share != DENSITY);
    options.mask_lambda = options.mask_lambda.filter(|lambda| *lambda != LAMBDA);
    options.agree = options.agree.filter(|least| *least != AGREE);
    options.density_per = options.density_per.filter(|per| *per != Default::default());
    let curvature = Curvature::default();
    options.power = options.power.filter(|power| *power != curvature.power);
    options.epsilon = options.epsilon.filter(|epsilon| *epsilon != curvature.epsilon);
    options.normalise = options.normalise.filter(|how| *how != curvature.normalise);
    // a round has none unless one is named
    options.scheme = options.scheme.filter(|scheme| *scheme != Default::default());
    // of several metrics it is the first that is taken, of one it says nothing
    options.combine = options.combine.filter(|combine| *combine != Default::default());
    options
}

/// The words of the table are those that are read, and the default that it tells is the one that is taken.
#[test]
fn the_table_tells_the_truth() {
    for row in OPTIONS {
        let mut options = Options::default();
        if let Kind::Word(words) = row.kind {
            for word in words {
                options.set(row.name, &Json::from(*word)).unwrap();
            }
            if words.contains(&row.facts.usual) {
                options.set(row.name, &Json::from(row.facts.usual)).unwrap();
                assert_eq!(meant(options.clone()), Options::default(), "{}", row.name);
            }
        }
        if let (Kind::Number(_) | Kind::Whole, Ok(usual)) = (row.kind, row.facts.usual.parse::<f64>()) {
            options.set(row.name, &Json::from(usual)).unwrap();
            // energy counts only where rank auto is asked for
            let expected =
                Options { energy: options.energy.filter(|share| *share == ENERGY), ..Options::default() };
            assert_eq!(meant(options.clone()), expected, "{}", row.name);
        }
        if row.kind == Kind::Switch {
            options.set(row.name, &Json::Bool(false)).unwrap();
            assert_eq!(options, Options::default(), "{}", row.name);
        }
        assert!(
            Options::default().set(row.name, &Json::from(vec![Json::Bool(true)])).is_err(),
            "{}",
            row.name
        );
        assert!(!row.help().is_empty() && !row.help().ends_with('.'), "{}", row.name);
    }
}

#[test]
fn each_option_reaches_what_it_is_for() {
    let options = read(
        r#"{"steps": [500, null], "every": 2, "last": 3, "top": 1, "select": "all", "drop_bad": true, "metric": "f1", "goal": "max", "smooth": 5,
            "metric_tolerance": 7, "strict_metrics": true, "scheme": "power", "penalty": 2}"#,
    );
    let choose = options.choosing().unwrap();
    let Selection { steps, every, last, top, pick } = choose.select;
    assert_eq!((steps, every, last, top), (Some((500, u64::MAX)), Some(2), Some(3), Some(1)));
    assert_eq!(pick, Some(Pick::All));
    assert!(choose.drop_bad);
    let MetricOptions { name, goal, smooth, tolerance, strict } = choose.metric;
    assert_eq!(
        (name.as_deref(), goal, smooth, tolerance, strict),
        (Some("f1"), Some(Goal::Max), Some(5.0), 7, true)
    );
    assert!(
        matches!(choose.rule, WeightRule::Scheme { scheme, penalty } if scheme.name == "power" && penalty == 2.0)
    );
    let own = read(r#"{"weights": [2, 1]}"#).choosing().unwrap();
    assert!(matches!(own.rule, WeightRule::Explicit(weights) if weights == [2.0, 1.0]));

    let merge = read(
        r#"{"dtype": "bf16", "space": "product", "strict": true, "residual": "off", "allow_cross_run": true,
            "allow_non_finite": true, "rewrite": true, "shard_size": "2KB"}"#,
    );
    let merge = merge.merging().unwrap();
    assert_eq!((merge.dtype, merge.space), (Some(Float::BF16), Space::Product(None)));
    assert!(merge.strict && merge.allow_cross_run && merge.allow_non_finite && merge.rewrite);
    assert_eq!((merge.residual, merge.shard_size), (Measure::Off, Some(2000)));
    assert_eq!(read("").merging().unwrap().residual, Measure::Auto);
}

#[test]
fn ranks_are_numbers_or_words() {
    let space = |json: &str| read(json).merging().unwrap().space;
    assert_eq!(space(r#"{"space": "product", "rank": 8}"#), Space::Product(Some(Rank::Fixed(8))));
    assert_eq!(space(r#"{"space": "product", "rank": "full"}"#), Space::Product(Some(Rank::Full)));
    assert_eq!(space(r#"{"space": "product", "rank": "auto"}"#), Space::Product(Some(Rank::Energy(0.999))));
    assert_eq!(space(r#"{"space": "product", "energy": 0.5}"#), Space::Product(Some(Rank::Energy(0.5))));
    assert_eq!(
        refused(r#"{"rank": "all"}"#),
        "option rank: \"all\" does not fit; it must be a whole number from 1 on, auto or full"
    );
    assert_eq!(
        refused(r#"{"energy": 2}"#),
        "option energy: 2 does not fit; it must be a number, above 0 and at most 1"
    );
    assert!(refused(r#"{"rank": "full"}"#).contains("product space"));
    assert!(refused(r#"{"strict": true}"#).contains("product space"));
    assert!(refused(r#"{"space": "product", "rank": 3, "energy": 0.5}"#).contains("finds ranks by itself"));
}

#[test]
fn devices_are_words_or_places() {
    assert_eq!(read(r#"{"device": "cpu"}"#).device.as_deref(), Some("cpu"));
    assert_eq!(read(r#"{"device": [0, 3]}"#).device.as_deref(), Some("gpu:0,3"));
    for wrong in [r#""tpu""#, "[]", r#"["a"]"#, "1"] {
        assert!(refused(&format!(r#"{{"device": {wrong}}}"#)).contains("must be auto, cpu, gpu"), "{wrong}");
    }
}

#[test]
fn numbers_may_be_written_as_floats() {
    assert_eq!(read(r#"{"last": 4.0}"#).last, Some(4));
    assert_eq!(read(r#"{"steps": [1.0, 2]}"#).steps, Some((1, 2)));
}

#[test]
fn mistakes_are_named() {
    for (json, message) in [
        (r#"{"lst": 4}"#, "there is no option `lst`"),
        (r#"{"last": "4"}"#, "option last: \"4\" does not fit; it must be a whole number from 1 on"),
        (r#"{"last": 0}"#, "option last: 0 does not fit; it must be a whole number from 1 on"),
        (r#"{"last": 1.5}"#, "option last: 1.5 does not fit; it must be a whole number from 1 on"),
        (r#"{"select": "first"}"#, "option select: \"first\" does not fit; it must be best, last or all"),
        (r#"{"goal": "up"}"#, "option goal: \"up\" does not fit; it must be min or max"),
        (r#"{"dtype": "int8"}"#, "option dtype: \"int8\" does not fit; it must be keep, f32, bf16 or f16"),
        (r#"{"smooth": -1}"#, "option smooth: -1 does not fit; it must be a number, 0 or larger"),
        (
            r#"{"steps": [2, 1]}"#,
            "option steps: [2,1] does not fit; it must be a first and a last step, null for an open end",
        ),
        (r#"{"weights": [1], "metric": "loss"}"#, "options weights and metric contradict each other"),
    ] {
        assert_eq!(refused(json), message);
    }
    assert!(refused("[").starts_with("options are not a JSON object: "));
    assert!(refused("[1]").starts_with("options are not a JSON object: "));
}

#[test]
fn a_slip_is_answered_with_the_name_that_was_meant() {
    let help = |json| Options::parse(json).unwrap_err().advice().map(ToString::to_string);
    assert_eq!(help(r#"{"drop-bad": true}"#).as_deref(), Some("did you mean `drop_bad`?"));
    assert_eq!(help(r#"{"tolerance": 1}"#), None);
}

#[test]
fn what_suits_no_checkpoints_is_refused_at_once() {
    for json in [r#"{"penalty": 2}"#, r#"{"weights": []}"#, r#"{"weights": [1, -1]}"#] {
        assert_eq!(read(json).choosing().unwrap_err().kind(), ErrorKind::Weights, "{json}");
    }
}

#[test]
fn no_memory_at_all_is_none_to_merge_in() {
    assert_eq!(read(r#"{"memory": 1}"#).memory, Some(1));
    assert!(refused(r#"{"memory": 0}"#).contains("a whole number of bytes from 1 on"));
}

#[test]
fn sizes_of_files_are_those_of_hugging_face() {
    for (text, bytes) in [
        ("5GB", 5_000_000_000),
        ("500 mb", 500_000_000),
        ("1.5KB", 1500),
        ("1KiB", 1024),
        ("2TiB", 2 << 40),
        ("1234", 1234),
        ("1234B", 1234),
    ] {
        assert_eq!(FileSize::parse(text), Some(FileSize(bytes)), "{text}");
    }
    for text in
        ["", "5", "0", "999", "-5GB", "5G", "5 G B", "5XB", "5PB", "GB", "nanGB", "infGB", "1e30TB", "iB"]
    {
        assert_eq!(FileSize::parse(text), None, "{text}");
    }
    let read = |json: &str| Options::parse(json).map(|options| options.shard_size.map(|size| size.0));
    assert_eq!(read(r#"{"shard_size": "5GB"}"#), Ok(Some(5_000_000_000)));
    assert_eq!(read(r#"{"shard_size": 5e9}"#), Ok(Some(5_000_000_000)));
    assert_eq!(
        read(r#"{"shard_size": 5}"#).unwrap_err().to_string(),
        "option shard_size: 5 does not fit; it must be a size from 1KB on and its unit, such as 5GB or 500MiB"
    );
}
