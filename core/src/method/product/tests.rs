//! Tests of what is decided before any product is made: scales, ranks, shapes, and the config of the output.

use alloc::string::ToString;
use alloc::vec;

use super::*;
use crate::format::safetensors::Header;
use crate::plan::{Recipe, Shard};

const ADAPTER: &str = "adapter_model.safetensors";

/// An adapter: the rank of each module of 3 columns and 4 rows.
fn input(name: &str, modules: &[(&str, u64)]) -> Input {
    let factors = modules.iter().flat_map(|(module, rank)| {
        let tensor = |side| format!("base_model.model.{module}.lora_{side}.weight");
        [(tensor("A"), Dtype::F32, vec![*rank, 3]), (tensor("B"), Dtype::BF16, vec![4, *rank])]
    });
    let header = Header::layout(factors, Default::default()).unwrap();
    Input { name: name.into(), files: vec![Shard { name: ADAPTER.into(), header }] }
}

fn config(fields: &str) -> AdapterConfig {
    let text = format!(r#"{{"peft_type": "LORA", "lora_alpha": 4, {fields}}}"#);
    AdapterConfig::parse(&text).unwrap()
}

fn products(inputs: &[Input], configs: &[AdapterConfig]) -> Result<Products> {
    let optional: Vec<_> = configs.iter().map(Some).collect();
    let weights = Weights::explicit(&vec![1.0; inputs.len()])?;
    let factors = Factors::new(inputs, &optional, &weights)?;
    Products::new(factors, &configs.iter().collect::<Vec<_>>())
}

/// Two adapters of two modules, of ranks 2 and 3 in `q` and 1 and 1 in `v`.
fn two() -> Products {
    let inputs = [input("a", &[("q", 2), ("v", 1)]), input("b", &[("q", 3), ("v", 1)])];
    let configs = [r#""r": 2, "rank_pattern": {"v": 1}"#, r#""r": 3, "rank_pattern": {"v": 1}"#].map(config);
    products(&inputs, &configs).unwrap()
}

fn refusal(found: Result<Products>) -> Error {
    found.expect_err("it is refused")
}

#[test]
fn scales_are_alpha_over_rank_times_weight() {
    let scales = |products: &Products| -> Vec<Vec<f64>> {
        let of = |module: &Module| module.sources.iter().map(|source| source.scale).collect();
        products.factors.modules.iter().map(of).collect()
    };
    assert_eq!(scales(&two()), [[0.5 * 2.0, 0.5 * 4.0 / 3.0], [0.5 * 4.0, 0.5 * 4.0]]);
    let stable = products(&[input("a", &[("q", 4)])], &[config(r#""r": 4, "use_rslora": true"#)]).unwrap();
    assert_eq!(scales(&stable), [[2.0]], "alpha over the root of the rank");
}

#[test]
fn a_config_of_another_rank_is_refused_with_both_ranks() {
    let error = refusal(products(&[input("a", &[("q", 2)])], &[config(r#""r": 3"#)]));
    assert_eq!(error.kind(), ErrorKind::Shape);
    assert_eq!(error.at_file(), Some("a"));
    assert!(error.detail().contains("is [2, 3], so its rank is 2, but the config says 3"), "{error}");
}

#[test]
fn a_pattern_that_matches_nothing_is_refused_and_the_nearest_module_named() {
    let typo = config(r#""r": 2, "alpha_pattern": {"q_prjo": 8}"#);
    let error = refusal(products(&[input("a", &[("layers.0.q_proj", 2)])], &[typo]));
    assert_eq!((error.kind(), error.at_file()), (ErrorKind::Config, Some("a")));
    assert!(error.detail().contains("has `q_prjo` in alpha_pattern"), "{error}");
    assert!(error.detail().contains("did you mean `q_proj`?"), "{error}");
    // one for a module that others have and this one lacks is as idle as one that nobody has
    let other = config(r#""r": 2, "rank_pattern": {"v": 2}"#);
    let inputs = [input("a", &[("q", 2)]), input("b", &[("q", 2), ("v", 2)])];
    assert_eq!(refusal(products(&inputs, &[other.clone(), other.clone()])).at_file(), Some("a"));
    products(&inputs[1..], &[other]).unwrap();
}

#[test]
fn what_changes_the_base_or_hides_its_parameter_is_refused() {
    let one = [input("a", &[("q", 2)])];
    for init in ["pissa", "pissa_niter_16", "olora", "corda", "loftq", "lora_ga"] {
        let error = refusal(products(&one, &[config(&format!(r#""r": 2, "init_lora_weights": "{init}""#))]));
        assert_eq!((error.kind(), error.at_file()), (ErrorKind::Method, Some("a")), "{init}");
        assert!(error.detail().contains(init), "{error}");
    }
    for init in [r#""gaussian""#, "true", "null"] {
        products(&one, &[config(&format!(r#""r": 2, "init_lora_weights": {init}"#))]).unwrap();
    }
    for field in ["rank_pattern", "alpha_pattern"] {
        let fields = format!(r#""r": 2, "target_parameters": ["w"], "{field}": {{"q": 2}}"#);
        let error = refusal(products(&one, &[config(&fields)]));
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(error.detail().contains(field), "{error}");
    }
    products(&one, &[config(r#""r": 2, "target_parameters": ["w"]"#)]).unwrap();
}

#[test]
fn an_input_without_a_config_is_refused() {
    let (inputs, known) = ([input("a", &[("q", 2)]), input("b", &[("q", 2)])], config(r#""r": 2"#));
    let error = adapter_configs(&inputs, &[Some(&known), None]).unwrap_err();
    assert_eq!((error.kind(), error.at_file()), (ErrorKind::Config, Some("b")));
    assert_eq!(adapter_configs(&inputs, &[Some(&known), Some(&known)]).unwrap().len(), 2);
}

#[test]
fn modules_that_an_input_lacks_are_told_or_forbidden() {
    let all = input("c", &[("k", 2), ("q", 2), ("v", 2)]);
    let inputs = [input("a", &[("q", 2), ("v", 2)]), input("b", &[("q", 2)]), all];
    let products = products(&inputs, &[(); 3].map(|()| config(r#""r": 2"#))).unwrap();
    let gaps = products.gaps(false).unwrap();
    assert_eq!(
        gaps,
        [
            "a does not adapt k, which others do: there it counts as no change",
            "b does not adapt 2 modules that others do, k among them: there it counts as no change",
        ]
    );
    let error = products.gaps(true).unwrap_err();
    assert_eq!((error.kind(), error.detail()), (ErrorKind::Names, gaps[0].as_str()));
    assert_eq!(two().gaps(true).unwrap(), [""; 0]);
}

#[test]
fn ranks_are_the_inputs_one_for_all_their_sum_or_what_was_found() {
    let two = two();
    assert_eq!(two.ranks(Rank::Inputs, &[]).unwrap(), [3, 1]);
    assert_eq!(two.ranks(Rank::Full, &[]).unwrap(), [5, 2]);
    assert_eq!(two.ranks(Rank::Fixed(5), &[]).unwrap(), [5, 5], "the sum of the ranks is not too much");
    assert_eq!(two.ranks(Rank::Energy(0.9), &[4, 2]).unwrap(), [4, 2]);
    let error = two.ranks(Rank::Fixed(6), &[]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Usage);
    assert!(error.detail().contains("rank 6 is more than the inputs' ranks together, 5"), "{error}");
}

#[test]
fn the_output_has_the_shapes_of_its_ranks_and_the_dtypes_of_the_inputs() {
    let layout = two().layout(&[5, 2], None);
    let name = |module, side| format!("base_model.model.{module}.lora_{side}.weight");
    assert_eq!(
        layout,
        [
            (name("q", "A"), Dtype::F32, vec![5, 3]),
            (name("q", "B"), Dtype::BF16, vec![4, 5]),
            (name("v", "A"), Dtype::F32, vec![2, 3]),
            (name("v", "B"), Dtype::BF16, vec![4, 2]),
        ]
    );
    assert!(two().layout(&[5, 2], Some(Float::F16)).iter().all(|(_, dtype, _)| *dtype == Dtype::F16));
}

/// A job writes what the layout gave its module, and knows whether nothing is lost.
#[test]
fn jobs_write_where_the_plan_put_their_factors() {
    let inputs = [input("a", &[("q", 2), ("v", 1)]), input("b", &[("q", 3), ("v", 1)])];
    let two = two();
    let ranks = two.ranks(Rank::Full, &[]).unwrap();
    let recipe = Recipe { elsewhere: two.layout(&ranks, None), ..Recipe::default() };
    let plan = Plan::new(&inputs, &Weights::explicit(&[1.0, 1.0]).unwrap(), &recipe).unwrap();
    let file = &plan.outputs()[0].header;
    let range = |name: &str| file.tensors().iter().find(|it| it.name.ends_with(name)).unwrap().range.clone();
    let written = |places: &[(Write, Float)]| -> Vec<_> {
        places.iter().map(|(write, float)| (write.range.clone(), *float)).collect()
    };
    let places = two.places(&plan);
    assert_eq!(
        places.iter().map(|places| written(places)).collect::<Vec<_>>(),
        [
            [(range("q.lora_A.weight"), Float::F32), (range("q.lora_B.weight"), Float::BF16)],
            [(range("v.lora_A.weight"), Float::F32), (range("v.lora_B.weight"), Float::BF16)],
        ]
    );
    let jobs = two.jobs(&plan, Rank::Full, &ranks);
    assert_eq!(jobs.iter().map(|job| (job.rank, job.is_full)).collect::<Vec<_>>(), [(5, true), (2, true)]);
    assert_eq!(
        jobs.iter().map(|job| written(&job.writes)).collect::<Vec<_>>(),
        places.iter().map(|it| written(it)).collect::<Vec<_>>()
    );
    // at another rank, or at that one by chance, factors are made anew
    assert!(!two.placed(0, &[], Rank::Fixed(5), &[5, 5]).is_full);
    assert!(!two.placed(0, &[], Rank::Full, &[6, 2]).is_full);
    assert_eq!(two.surveys().count(), 2);
}

#[test]
fn the_config_says_the_usual_rank_and_which_modules_have_another() {
    let field = |changes: &[(&'static str, Value)], name: &str| {
        changes.iter().find(|(field, _)| *field == name).map(|(_, value)| value.to_string())
    };
    let modules = ["a.q", "b.q", "q", "v"];
    let adapter = input("a", &modules.map(|module| (module, 2)));
    let configs = [config(r#""r": 2, "target_modules": ["q", "v"]"#)];
    let products = products(&[adapter], &configs).unwrap();
    let configs: Vec<_> = configs.iter().collect();
    let alike = products.config(&[2, 2, 2, 2], &configs);
    assert_eq!(field(&alike, "r").unwrap(), "2");
    assert_eq!(field(&alike, "lora_alpha").unwrap(), "2", "so that the scale is 1");
    assert_eq!(field(&alike, "use_rslora").unwrap(), "false");
    assert_eq!(field(&alike, "rank_pattern").unwrap(), "{}");
    assert_eq!(field(&alike, "target_modules"), None);
    // `q` as a pattern matches `a.q` too: the longer names stand before it, those of the usual rank among them
    let other = products.config(&[2, 2, 1, 2], &configs);
    assert_eq!(field(&other, "rank_pattern").unwrap(), r#"{"a.q":2,"b.q":2,"q":1}"#);
    assert_eq!(field(&other, "alpha_pattern"), field(&other, "rank_pattern"));
    // of two ranks that are as frequent the larger one is usual
    assert_eq!(field(&products.config(&[1, 1, 2, 2], &configs), "r").unwrap(), "2");
    assert_eq!(field(&products.config(&[1, 1, 1, 2], &configs), "r").unwrap(), "1");
}

#[test]
fn targets_are_the_union_of_lists_or_every_module_by_name() {
    let inputs = [input("a", &[("q", 2), ("v", 2)]), input("b", &[("q", 2), ("v", 2)])];
    let targets = |first: &str, second: &str| {
        let configs = [first, second].map(|it| config(&format!(r#""r": 2, "target_modules": {it}"#)));
        let products = products(&inputs, &configs).unwrap();
        products.targets(&configs.iter().collect::<Vec<_>>()).map(|value| value.to_string())
    };
    assert_eq!(targets(r#"["q"]"#, r#"["v", "q"]"#), None, "the newest config has all of them already");
    assert_eq!(targets(r#"["v", "q"]"#, r#"["q"]"#).unwrap(), r#"["q","v"]"#);
    assert_eq!(targets(r#""all-linear""#, r#""all-linear""#), None);
    assert_eq!(targets(r#""all-linear""#, r#"["q"]"#).unwrap(), r#"["q","v"]"#);
    assert_eq!(targets(r#""q|v""#, r#""all-linear""#).unwrap(), r#"["q","v"]"#);
}

/// What is read once takes a sketch from a size on; asked for by name, it is what was asked for.
#[test]
fn the_residual_is_exact_where_that_is_quick() {
    let factors = |rank: u64, count: usize, wide: u64| {
        let inputs: Vec<_> = (0..count)
            .map(|i| {
                let tensors = [("q.lora_A.weight", vec![rank, wide]), ("q.lora_B.weight", vec![wide, rank])];
                let laid =
                    tensors.map(|(name, shape)| (format!("base_model.model.{name}"), Dtype::F32, shape));
                let header = Header::layout(laid, Default::default()).unwrap();
                Input { name: format!("{i}"), files: vec![Shard { name: ADAPTER.into(), header }] }
            })
            .collect();
        Factors::unscaled(&inputs, &vec![None; count], &Weights::explicit(&vec![1.0; count]).unwrap())
            .unwrap()
    };
    let small = factors(8, 4, 64);
    assert_eq!(small.method(Measure::Auto), Some(Method::Exact));
    assert_eq!(small.method(Measure::Sketch), Some(Method::Sketch));
    assert_eq!(small.method(Measure::Off), None);
    assert_eq!((small.count(), small.is_empty(), small.jobs().count()), (1, false, 1));
    assert_eq!(small.bytes(), 4 * 2 * 8 * 64 * 4);
    // 512 features of 512 + 512 points are 134,217,728 / 134e6 of what is quick
    assert_eq!(factors(128, 4, 512).method(Measure::Auto), Some(Method::Sketch));
    assert_eq!(factors(128, 4, 511).method(Measure::Auto), Some(Method::Exact));
    assert_eq!(factors(128, 4, 512).method(Measure::Exact), Some(Method::Exact));
    // few points, but too many features
    assert_eq!(factors(16, 32, 16).method(Measure::Auto), Some(Method::Exact));
    assert_eq!(factors(16, 33, 16).method(Measure::Auto), Some(Method::Sketch));
    assert!(factors(1, 1, 1).method(Measure::Auto).is_some());
}

#[test]
fn words_name_the_ways_to_measure() {
    for (word, measure) in Measure::NAMES.into_iter().zip([Measure::Exact, Measure::Sketch, Measure::Off]) {
        assert_eq!((word.parse(), measure.word()), (Ok(measure), Some(word)));
    }
    assert_eq!(Measure::Auto.word(), None);
    assert_eq!("auto".parse::<Measure>().unwrap_err().kind(), ErrorKind::Usage);
}
