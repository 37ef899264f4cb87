//! Tests of the search: each method against another implementation of it, on a toy bowl; budgets, failures, references.

use alloc::borrow::ToOwned as _;
use alloc::string::ToString as _;
use alloc::vec::Vec;

use serde_json::Value;

use super::proposal::mean_of;
use super::*;
use crate::logs::goal::Goal;
use crate::weigh::scheme::{Scheme, Weights};

/// What `make.py` beside it found.
fn expected() -> Value {
    serde_json::from_str(include_str!("../../tests/search/trials.json")).unwrap()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
}

const TARGET: [f64; 5] = [-0.2, 0.1, 0.3, 0.2, 0.6];

/// What the second of two parts of a model should weigh.
const OTHER: [f64; 5] = [0.5, 0.4, 0.2, 0.1, -0.2];

/// Σ (i + 1)·(wᵢ − tᵢ)², of one part or two.
fn bowl(weights: &[f64]) -> f64 {
    let terms = weights.iter().zip(TARGET.into_iter().chain(OTHER));
    let terms = terms.zip([1.0, 2.0, 3.0, 4.0, 5.0].into_iter().cycle());
    terms.fold(0.0, |sum, ((w, t), i)| sum + i * (w - t) * (w - t))
}

fn begin(method: &str, ground: Ground, budget: usize, goal: Goal, seed: u64) -> Search {
    Search::new(method.parse().unwrap(), ground, budget, goal, seed).unwrap()
}

/// Score each trial, the later ones of a lot first.
fn run(search: &mut Search, score: impl Fn(&[f64]) -> Option<f64>) {
    loop {
        let open = search.ask();
        assert_eq!(open, search.ask(), "asking changes nothing");
        if open.is_empty() {
            return;
        }
        for number in open.into_iter().rev() {
            let found = score(&search.trial(number).weights);
            search.tell(number, found);
        }
    }
}

fn on_bowl(method: &str, budget: usize, seed: u64) -> Search {
    let mut search = begin(method, Ground::bare(5), budget, Goal::Min, seed);
    run(&mut search, |weights| Some(bowl(weights)));
    search
}

/// A greedy search says ahead what it may ask for next, whatever becomes of what it asks now.
#[test]
fn a_soup_is_known_ahead() {
    let mut search = begin("greedy", Ground::bare(5), 50, Goal::Min, 0);
    let (mut foretold, mut soups) = (Vec::new(), 0);
    loop {
        let open = search.ask();
        let Some(&first) = open.first() else { break };
        if search.trial(first).by.starts_with("soup of ") {
            soups += 1;
            let weights = &search.trial(first).weights;
            assert!(soups == 1 || foretold.contains(weights), "{weights:?} of {foretold:?}");
            foretold = search.ahead(50);
            let nearest = search.ahead(2);
            assert_eq!(foretold[..nearest.len()], nearest);
        } else {
            assert!(search.ahead(50).is_empty());
        }
        for number in open {
            let score = bowl(&search.trial(number).weights);
            search.tell(number, Some(score));
        }
    }
    assert!(soups > 2);
    assert!(on_bowl("lcsc", 30, 1).ahead(8).is_empty());
}

fn scores(search: &Search) -> Vec<f64> {
    search.trials().iter().map(|trial| trial.score().unwrap()).collect()
}

#[test]
fn evolution_is_the_same_to_the_bit_in_another_language() {
    let expected = &expected()["evolution"];
    let search = on_bowl("lcsc", 400, 42);
    assert_eq!(search.trials().len(), 400);
    assert_eq!(scores(&search)[..100], numbers(&expected["scores"]));
    let best = search.best().unwrap();
    assert_eq!(best.score(), expected["best_of_400"].as_f64());
    assert_eq!(best.weights, numbers(&expected["weights"]));
    for (budget, score) in [(20, 0.123_655_926_532_803_05), (50, 0.006_736_305_428_062_414)] {
        assert_eq!(on_bowl("lcsc", budget, 42).best().unwrap().score(), Some(score), "{budget}");
    }
}

#[test]
fn parts_of_a_model_have_genes_of_their_own() {
    let two = || Ground::bare(5).with_parts(2);
    let mut search = begin("lcsc", two(), 200, Goal::Min, 42);
    run(&mut search, |weights| Some(bowl(weights)));
    let expected = &expected()["parts"];
    assert_eq!(scores(&search)[..60], numbers(&expected["scores"]));
    let best = search.best().unwrap();
    assert_eq!(best.score(), expected["best_of_200"].as_f64());
    assert_eq!(best.weights, numbers(&expected["weights"]));
    // each part sums to 1, and what all begin with is the same in both
    for trial in search.trials() {
        for part in trial.weights.chunks(5) {
            assert!((part.iter().sum::<f64>() - 1.0).abs() < 1e-12, "{trial:?}");
        }
    }
    assert_eq!(search.trial(0).weights, [0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0]);
    assert!(two().is_single(&search.trial(0).weights) && !two().is_single(&search.trial(1).weights));
    assert!(!two().is_single(&[0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0]));
    for method in ["auto", "cma"] {
        let ground = ground().with_parts(2);
        let mut search = begin(method, ground, 150, Goal::Min, 3);
        run(&mut search, |weights| Some(bowl(weights)));
        // one vector of weights for both parts cannot score so well
        assert!(search.best().unwrap().score().unwrap() < 0.5, "{method}");
        assert_eq!(search.best().unwrap().weights.len(), 10);
    }
    let error = Search::new("greedy".parse().unwrap(), two(), 50, Goal::Min, 0).unwrap_err();
    assert_eq!(
        (error.to_string().as_str(), error.advice()),
        (
            "method greedy finds weights for the model as a whole, and groups have their own",
            Some("leave out groups, or search by auto, lcsc or cma")
        )
    );
}

#[test]
fn higher_is_better_is_the_same_search_turned_over() {
    let mut search = begin("lcsc", Ground::bare(5), 60, Goal::Max, 42);
    run(&mut search, |weights| Some(-bowl(weights)));
    let other = on_bowl("lcsc", 60, 42);
    assert_eq!(search.winner(), other.winner());
    assert_eq!(search.best().unwrap().weights, other.best().unwrap().weights);
}

#[test]
fn a_soup_takes_what_makes_it_better() {
    let expected = &expected()["greedy"];
    let search = on_bowl("greedy", 50, 0);
    let soups = search.trials().iter().filter(|trial| trial.by.starts_with("soup"));
    let soups: Vec<_> = soups.filter_map(Trial::score).collect();
    // the soup of all five, if it is tried, is the plain mean, which was scored before
    let tried: Vec<_> = numbers(&expected["tried"])
        .into_iter()
        .filter(|&score| (score - bowl(&[0.2; 5])).abs() > 1e-12)
        .collect();
    assert_eq!(soups.len(), tried.len());
    soups.iter().zip(&tried).for_each(|(a, b)| assert!((a - b).abs() < 1e-12, "{a} against {b}"));
    let members = expected["members"].as_array().unwrap().iter();
    let members: Vec<_> = members.map(|at| usize::try_from(at.as_u64().unwrap()).unwrap()).collect();
    assert_eq!(search.best().unwrap().weights, mean_of(5, &members));
}

#[test]
fn a_line_is_searched_by_golden_section() {
    let mut search = begin("line", Ground::bare(2), 50, Goal::Min, 0);
    run(&mut search, |weights| Some((weights[1] - 0.7) * (weights[1] - 0.7)));
    let places = search.trials().iter().filter(|trial| trial.by.starts_with("line"));
    let places: Vec<_> = places.map(|trial| trial.weights[1]).collect();
    assert_eq!(places, numbers(&expected()["line"]));
    assert!((search.best().unwrap().weights[1] - 0.7).abs() < 0.005);
}

#[test]
fn cma_is_that_of_the_tutorial() {
    let expected = numbers(&expected()["cma"]);
    let search = on_bowl("cma", 62, 7);
    // the last checkpoint and the mean come first
    let scores = &scores(&search)[2..];
    assert_eq!(scores.len(), expected.len());
    let is_close =
        |(a, b): (&f64, &f64)| assert!((a - b).abs() < 1e-9 * b.abs().max(1e-3), "{a} against {b}");
    scores.iter().zip(&expected).for_each(is_close);
    assert_eq!(search.trials().last().unwrap().by, "cma mean");
}

/// On a parabola the lowest points are exact: the target itself, and by hand the lowest point without negative weights.
#[test]
fn a_parabola_gives_its_lowest_points() {
    let search = on_bowl("quadratic", 30, 0);
    let [.., positive, free] = search.trials() else { panic!("two lowest points") };
    assert_eq!((positive.by.as_str(), free.by.as_str()), ("lowest", "lowest"));
    free.weights.iter().zip(TARGET).for_each(|(w, t)| assert!((w - t).abs() < 1e-9, "{w} against {t}"));
    // w₀ = 0, and the others share −0.2 by 1/(i + 1): wᵢ = tᵢ − µ/(i + 1)
    let mu = 0.2 / (1.0 / 2.0 + 1.0 / 3.0 + 1.0 / 4.0 + 1.0 / 5.0);
    let by_hand = [0.0, 0.1 - mu / 2.0, 0.3 - mu / 3.0, 0.2 - mu / 4.0, 0.6 - mu / 5.0];
    positive.weights.iter().zip(by_hand).for_each(|(w, t)| assert!((w - t).abs() < 1e-9, "{w} against {t}"));
}

#[test]
fn a_plane_is_a_grid_with_a_picture() {
    let mut search = begin("plane", Ground::bare(3), 30, Goal::Max, 0);
    run(&mut search, |weights| Some(-(weights[1] - 0.5) * (weights[1] - 0.5) - weights[2] * weights[2]));
    let grid: Vec<_> = search.trials().iter().filter(|trial| trial.by.starts_with("plane")).collect();
    // 5 × 5, less the last checkpoint, which every search begins with
    assert_eq!((grid.len(), grid[0].weights.as_slice()), (24, &[2.0, -0.5, -0.5][..]));
    assert_eq!(search.best().unwrap().weights, [0.5, 0.5, 0.0]);
    let table = search.table(&["a", "b,c", "d"]);
    assert!(table.starts_with("trial,by,a,\"b,c\",d,score\n1,last,0,0,1,-1.25\n"), "{table}");
    assert_eq!(table.lines().count(), 1 + search.trials().len());
    let error = Search::new("plane".parse().unwrap(), Ground::bare(3), 11, Goal::Min, 0).unwrap_err();
    assert_eq!(error.to_string(), "method plane needs 12 trials, and the budget is 11");
}

#[test]
fn a_ridge_between_two_checkpoints_is_seen() {
    let search = |score: fn(f64) -> f64| {
        let mut search = begin("line", Ground::bare(2), 50, Goal::Min, 0);
        run(&mut search, |weights| Some(score(weights[1])));
        // the older one is scored only where the search goes there
        search
    };
    let valley = search(|place| (place - 0.7) * (place - 0.7));
    assert_eq!(
        valley.basin(None).unwrap(),
        "no ridge was found between the two checkpoints: they lie in one basin"
    );
    let ridge = search(|place| 1.0 - 4.0 * (place - 0.5) * (place - 0.5));
    let text = ridge.basin(None).unwrap();
    assert!(
        text.starts_with(
            "between the two checkpoints lies a ridge: at 0.50 of the way the score is worse by 1 "
        ),
        "{text}"
    );
    assert!(ridge.basin(Some(0.5)).unwrap().starts_with("no ridge"), "within noise");
}

fn ground() -> Ground {
    let values = [0.9, 0.7, 0.6, 0.65, 0.5];
    let own = Weights::new(&values, Goal::Min, Scheme::default(), 0.8).unwrap();
    Ground::new(&own, Some(("eval_loss", &values, Goal::Min)))
}

#[test]
fn every_search_begins_with_what_it_is_compared_with() {
    for method in Method::NAMES.into_iter().filter(|name| !["line", "plane"].contains(name)) {
        let mut search = begin(method, ground(), 45, Goal::Min, 1);
        run(&mut search, |weights| Some(bowl(weights)));
        let first: Vec<_> = search.trials().iter().take(3).map(|trial| trial.by.as_str()).collect();
        assert_eq!(first, [LAST, UNIFORM, METRIC], "{method}");
        assert!(search.trials().len() <= 45);
        for (at, trial) in search.trials().iter().enumerate() {
            assert!((trial.weights.iter().sum::<f64>() - 1.0).abs() < 1e-12, "{method}: {trial:?}");
            assert_eq!(search.find(&trial.weights), Some(at), "{method}: no weights twice");
        }
    }
}

#[test]
fn a_sweep_tries_formulas() {
    let mut search = begin("sweep", ground(), 100, Goal::Min, 0);
    run(&mut search, |weights| Some(bowl(weights)));
    let by: Vec<_> = search.trials().iter().map(|trial| trial.by.as_str()).collect();
    let expected = [
        "last",
        "uniform",
        "metric",
        "linear 0.2",
        "linear 0.4",
        "linear 0.6",
        "linear 1",
        "last 2",
        "last 3",
        "last 4",
        "ema 0.5",
        "ema 0.7",
        "ema 0.8",
        "ema 0.9",
        "ema 0.95",
        "exponential 0.5",
    ];
    assert_eq!(by[..16], expected, "linear 0.8 is the metric's own");
    assert_eq!(by.len(), 15 + 4 + 3 + 4);
    // of a metric that is not positive there are no powers
    let values = [-3.0, -2.0, -1.0];
    let own = Weights::new(&values, Goal::Max, Scheme::default(), 1.0).unwrap();
    let mut search =
        begin("sweep", Ground::new(&own, Some(("reward", &values, Goal::Max))), 100, Goal::Min, 0);
    run(&mut search, |_| Some(1.0));
    assert!(!search.trials().iter().any(|trial| trial.by.starts_with("power")));
}

#[test]
fn auto_says_what_it_does_and_why() {
    let reason = |ground, budget| begin("auto", ground, budget, Goal::Min, 0).reason().unwrap().to_owned();
    assert!(reason(Ground::bare(2), 50).starts_with("line: "));
    assert!(reason(ground(), 39).starts_with("sweep: a budget of 39 "));
    assert!(reason(ground(), 40).starts_with("sweep, then evolution: "));
    let search = {
        let mut search = begin("auto", ground(), 60, Goal::Min, 3);
        run(&mut search, |weights| Some(bowl(weights)));
        search
    };
    let formulas = search.trials().iter().position(|trial| trial.by == "evolution").unwrap();
    assert!((15..=20).contains(&formulas), "{formulas}");
    let best = |trials: &[Trial]| trials.iter().filter_map(Trial::score).fold(f64::INFINITY, f64::min);
    assert!(best(search.trials()) < best(&search.trials()[..formulas]));
}

#[test]
fn what_fails_is_no_parent_and_no_winner() {
    for method in Method::NAMES.into_iter().filter(|name| !["line", "plane"].contains(name)) {
        let mut search = begin(method, ground(), 60, Goal::Min, 5);
        // the oldest does harm
        run(&mut search, |weights| if weights[0] > 0.1 { Some(f64::NAN) } else { Some(bowl(weights)) });
        let best = search.best().unwrap();
        assert!(best.score().unwrap().is_finite() && best.weights[0] <= 0.1, "{method}");
        assert!(search.trials().iter().any(Trial::has_failed), "{method}");
        let mut search = begin(method, ground(), 60, Goal::Min, 5);
        run(&mut search, |_| None);
        assert_eq!((search.winner(), search.trials().len() <= 60), (None, true), "{method}");
    }
    let mut search = begin("line", Ground::bare(2), 60, Goal::Min, 5);
    run(&mut search, |weights| (weights[1] <= 0.8).then(|| -weights[1]));
    assert!((0.75..=0.8).contains(&search.best().unwrap().weights[1]));
}

#[test]
fn budgets_are_kept_however_small() {
    for method in Method::NAMES.into_iter().filter(|name| !["line", "plane", "quadratic"].contains(name)) {
        for budget in 1..12 {
            let mut search = begin(method, ground(), budget, Goal::Min, 9);
            run(&mut search, |weights| Some(bowl(weights)));
            // the mean of no children is the metric's own weights, that of two or three the better
            let is_short = method == "cma" && (4..8).contains(&budget);
            assert_eq!(search.trials().len(), if is_short { budget - 1 } else { budget }, "{method}");
        }
    }
}

#[test]
fn scores_that_are_all_equal_end_and_the_first_wins() {
    for method in Method::NAMES.into_iter().filter(|name| !["line", "plane"].contains(name)) {
        let mut search = begin(method, ground(), 40, Goal::Max, 2);
        run(&mut search, |_| Some(0.5));
        assert_eq!(search.winner(), Some(0), "{method}");
    }
}

#[test]
fn what_cannot_be_searched_is_refused() {
    let refused = |method: &str, count, budget| {
        Search::new(method.parse().unwrap(), Ground::bare(count), budget, Goal::Min, 0).unwrap_err()
    };
    for method in Method::NAMES {
        let error = refused(method, 1, 50);
        assert_eq!(
            error.to_string(),
            "there is nothing to search: one checkpoint weighs 1, always",
            "{method}"
        );
    }
    assert_eq!(
        refused("line", 3, 50).to_string(),
        "method line searches between two checkpoints, and 3 are chosen"
    );
    let error = refused("quadratic", 10, 50);
    assert_eq!(
        error.to_string(),
        "method quadratic needs 59 trials for 10 checkpoints, and the budget is 50"
    );
    assert!(error.advice().unwrap().starts_with("give --budget 59, "));
    assert_eq!("grid".parse::<Method>().unwrap_err().to_string(), "there is no search method `grid`");
}

#[test]
fn doubts_are_told() {
    let mut search = begin("sweep", ground(), 20, Goal::Min, 0);
    run(&mut search, |weights| (weights[4] < 1.0).then(|| 1.0 - 0.01 * weights[4]));
    let labels = ["a", "b", "c", "d", "e"];
    let doubts = search.doubts(Some(0.01), false, &labels);
    assert_eq!(doubts.len(), 2, "{doubts:?}");
    assert_eq!(doubts[0], "1 of 20 trials failed");
    assert!(doubts[1].starts_with("the winner leads the plain mean by 0.00"), "{}", doubts[1]);
    assert!(search.doubts(None, false, &labels)[1].starts_with("whether a lead of "));
    assert_eq!(search.doubts(None, true, &labels).len(), 1, "the holdout will tell");
    assert_eq!(search.doubts(Some(1e-6), false, &labels).len(), 1);
    let mut search = begin("lcsc", ground(), 60, Goal::Min, 1);
    run(&mut search, |weights| Some(bowl(weights)));
    let doubts = search.doubts(Some(1e-3), false, &labels);
    assert!(doubts.last().unwrap().starts_with("negative weights (a -0."), "{doubts:?}");
}
