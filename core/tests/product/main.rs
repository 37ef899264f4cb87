//! Merges in product space against dense algebra: numpy's, in tests/vectors/product.
#![allow(missing_docs, reason = "a test has no users")]
#![allow(clippy::cast_possible_truncation, reason = "the vectors are small")]

mod merged;

use std::collections::BTreeMap;
use std::path::PathBuf;

use merged::{Case, Merged, minus, norm};
use mwa::{Method, Rank, Residual};

fn cases() -> Vec<Case> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/vectors/product");
    let index = std::fs::read_to_string(folder.join("index.json")).expect("the index is there");
    let entries: Vec<serde_json::Value> = serde_json::from_str(&index).expect("the index is JSON");
    assert!(entries.len() > 10, "every shape has a case");
    entries.iter().map(|entry| Case::read(&folder, entry)).collect()
}

/// ‖x − y‖ for each expert of each module, beside what the oracle says of it.
fn errors<'a>(
    case: &'a Case,
    merged: &'a Merged,
) -> impl Iterator<Item = (String, f64, f64, &'a [f64])> + 'a {
    case.dense.iter().filter(|(name, _)| !name.ends_with("singular")).map(|(name, dense)| {
        let (_, ours) = &merged.products[name];
        (
            name.clone(),
            norm(&minus(ours, dense)),
            norm(dense),
            case.dense[&format!("{name}/singular")].as_slice(),
        )
    })
}

#[test]
fn the_concatenation_is_exact() {
    for case in cases() {
        let merged = case.merge(Rank::Full);
        for (name, error, norm, _) in errors(&case, &merged) {
            // sums that nearly cancel keep the rounding of their terms
            assert!(error <= 1e-6 * norm, "{} {name}: {error} of {norm}", case.name);
        }
    }
}

#[test]
fn every_rank_is_as_good_as_dense_svd() {
    for case in cases() {
        // more than all ranks together is refused
        let most = case.ranks(Rank::Full).into_iter().max().unwrap();
        for rank in [1, 2, 3, 5, 8, 16].into_iter().filter(|&rank| rank <= most) {
            let merged = case.merge(Rank::Fixed(rank));
            for (name, error, norm, singular) in errors(&case, &merged) {
                let best = singular.iter().skip(rank).map(|s| s * s).sum::<f64>().sqrt();
                // factors are rounded to the dtype of the inputs
                assert!(
                    error <= best + 1e-6 * norm,
                    "{} {name} rank {rank}: {error}, {best} of {norm}",
                    case.name
                );
                assert!(error >= best - 1e-6 * norm, "nothing of rank {rank} is better than the best");
            }
            let told: f64 = merged.lost.values().map(|lost| lost.error).sum();
            let true_error: f64 = errors(&case, &merged).map(|(_, error, ..)| error * error).sum();
            let all: f64 = errors(&case, &merged).map(|(_, _, norm, _)| norm * norm).sum();
            assert!(
                (told.sqrt() - true_error.sqrt()).abs() <= 1e-6 * all.sqrt(),
                "{}: the told loss is true",
                case.name
            );
        }
    }
}

#[test]
fn energy_gives_the_smallest_rank_that_keeps_it() {
    for case in cases() {
        for energy in [0.5, 0.9, 0.999] {
            let ranks = case.ranks(Rank::Energy(energy));
            let mut wanted: BTreeMap<&str, usize> = BTreeMap::new();
            for (name, singular) in case.dense.iter().filter(|(name, _)| name.ends_with("singular")) {
                let total: f64 = singular.iter().map(|s| s * s).sum();
                let keeps =
                    |rank: usize| singular[..rank].iter().map(|s| s * s).sum::<f64>() >= energy * total;
                let rank = (1..=singular.len()).find(|rank| keeps(*rank)).expect("all of it keeps all of it");
                let module = name.split('/').next().expect("the module comes first");
                wanted.entry(module).and_modify(|most| *most = rank.max(*most)).or_insert(rank);
            }
            assert_eq!(ranks, wanted.into_values().collect::<Vec<_>>(), "{} {energy}", case.name);
        }
    }
}

#[test]
fn the_residual_of_averaged_factors_is_exact() {
    let mut seen = 0;
    for case in cases() {
        for (module, found) in case.residuals(Method::Exact) {
            let relative = found.map(Residual::relative);
            let Some(&wanted) = case.wanted_residuals.get(&module) else {
                assert!(relative.is_none() || case.differs_in_scale(), "{} {module}", case.name);
                continue;
            };
            let relative = relative.expect("the ranks agree");
            assert!(
                (relative - wanted).abs() <= 1e-5 * wanted + 1e-15,
                "{} {module}: {relative}, {wanted}",
                case.name
            );
            if case.name == "equal" || case.name == "frozen-a" {
                assert_eq!(relative, 0.0, "{}", case.name);
            }
            seen += 1;
        }
    }
    assert!(seen > 10);
}

#[test]
fn the_sketch_of_a_residual_is_what_it_is_said_to_be() {
    let mut seen = 0;
    for case in cases() {
        for (module, found) in case.residuals(Method::Sketch) {
            let Some(&(wanted, noise)) = case.wanted_sketches.get(&module) else {
                assert!(found.is_none() || case.differs_in_scale(), "{} {module}", case.name);
                continue;
            };
            let found = found.expect("the ranks agree");
            let at = format!("{} {module}: {found:?}, {wanted} ± {noise}", case.name);
            assert!((found.relative() - wanted).abs() <= 1e-4 * wanted + 1e-12, "{at}");
            assert!((found.standard_error() - noise).abs() <= 1e-3 * noise + 1e-12, "{at}");
            let exact = case.wanted_residuals[&module];
            assert!((wanted - exact).abs() <= 4.0 * noise + 1e-9 * exact + 1e-12, "{at}, but it is {exact}");
            if case.name == "equal" || case.name == "frozen-a" {
                assert_eq!(found.error, 0.0, "{}", case.name);
            }
            seen += 1;
        }
    }
    assert!(seen > 10);
}

#[test]
fn the_config_gives_every_module_its_rank_and_a_scale_of_one() {
    for case in cases().iter().filter(|case| case.name != "experts") {
        for rank in [Rank::Inputs, Rank::Full, Rank::Energy(0.9)] {
            // merge() checks rank and scale by reading the written config again
            case.merge(rank);
        }
    }
}

#[test]
fn orders_and_weights_that_mean_the_same_give_the_same_product() {
    for case in cases().iter().filter(|case| case.name == "differing" || case.name == "one-run") {
        let (a, b) = (case.merge(Rank::Fixed(3)), case.reversed().merge(Rank::Fixed(3)));
        for (name, (_, ours)) in &a.products {
            assert!(norm(&minus(ours, &b.products[name].1)) <= 1e-6 * norm(ours), "{} {name}", case.name);
        }
    }
}
