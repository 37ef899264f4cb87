//! What is merged by default, and what is said of it, on the logs of real runs.
#![allow(missing_docs, reason = "a test has no users")]

use std::borrow::Cow;
use std::fs;

use mwa::{
    Choice, ChooseOptions, History, Listed, Metrics, Pick, Result, Selection, TrainerState, WeightRule,
    choose,
};
use serde_json::{Value, json};

/// A run whose log may have been changed.
struct Run {
    log: Value,
    table: Option<String>,
}

impl Run {
    fn open(name: &str) -> Self {
        let path = format!("{}/tests/data/logs/{name}.json", env!("CARGO_MANIFEST_DIR"));
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        Self { log: serde_json::from_str(&text).unwrap(), table: None }
    }

    /// Change every record of the log.
    fn with(mut self, change: impl Fn(&mut Value)) -> Self {
        self.log["log_history"].as_array_mut().unwrap().iter_mut().for_each(change);
        self
    }

    fn without(self, key: &str) -> Self {
        self.with(|record| {
            record.as_object_mut().unwrap().remove(key);
        })
    }

    /// All checkpoints of the run, or every k-th, the last among them.
    fn steps(&self, every: u64) -> Vec<u64> {
        let (end, spacing) =
            (self.log["global_step"].as_u64().unwrap(), self.log["save_steps"].as_u64().unwrap());
        (1..=end / spacing)
            .map(|i| i * spacing)
            .filter(|step| (end - step) % (every * spacing) == 0)
            .collect()
    }

    fn choose(&self, steps: &[u64], options: &ChooseOptions) -> Choice {
        self.try_choose(steps, true, options).unwrap()
    }

    fn try_choose(&self, steps: &[u64], searched: bool, options: &ChooseOptions) -> Result<Choice> {
        let names: Vec<_> = steps.iter().map(|step| format!("run/checkpoint-{step}")).collect();
        let listed = names.iter().zip(steps).map(|(name, step)| Listed {
            name,
            label: name.rsplit('/').next().unwrap(),
            run: "run",
            step: Some(*step),
            number: None,
            is_bad: false,
        });
        choose(&listed.collect::<Vec<_>>(), searched, self, options)
    }

    fn by_default(&self) -> Choice {
        self.choose(&self.steps(1), &ChooseOptions::default())
    }
}

impl Metrics for Run {
    fn table_name(&self) -> Option<String> {
        self.table.as_ref().map(|_| "scores.csv".into())
    }

    fn table(&self) -> Result<Cow<'_, str>> {
        Ok(Cow::Borrowed(self.table.as_deref().unwrap()))
    }

    fn log(&self, _run: &str) -> Result<Cow<'_, History>> {
        Ok(Cow::Owned(History::new([TrainerState::parse(&self.log.to_string())?])))
    }
}

/// Index of each chosen checkpoint in the run, from 1, and its weight in ten-thousandths.
#[expect(clippy::cast_possible_truncation, reason = "at most 10,000")]
fn chosen(choice: &Choice) -> (Vec<usize>, Vec<u32>) {
    let weights = choice.weights.values().iter().map(|weight| (weight * 1e4).round() as u32);
    (choice.indexes.iter().map(|index| index + 1).collect(), weights.collect())
}

fn about(choice: &Choice) -> Vec<&str> {
    choice.advice.iter().map(|advice| advice.about.as_str()).collect()
}

fn select(select: Selection) -> ChooseOptions {
    ChooseOptions { select, ..ChooseOptions::default() }
}

fn metric(name: &str) -> ChooseOptions {
    let mut options = ChooseOptions::default();
    options.metric.name = Some(name.into());
    options
}

#[test]
fn at_a_constant_rate_the_best_ten_are_merged_also_of_runs_that_overfit() {
    for (run, indexes, weights) in [
        (
            "banking-const-s0",
            [11, 12, 13, 14, 15, 16, 17, 18, 19, 20],
            [362, 314, 562, 816, 979, 1202, 1416, 1370, 1570, 1409],
        ),
        (
            "bankfew-over-s0",
            [7, 8, 9, 10, 11, 12, 13, 14, 17, 18],
            [1093, 1260, 941, 1189, 1030, 1457, 1544, 854, 323, 309],
        ),
        (
            "gsm-over-s0",
            [1, 2, 3, 4, 5, 6, 7, 8, 9, 11],
            [536, 958, 1133, 1259, 1263, 1275, 1279, 920, 1123, 256],
        ),
    ] {
        let choice = Run::open(run).by_default();
        assert_eq!(chosen(&choice), (indexes.to_vec(), weights.to_vec()), "{run}");
        assert_eq!(
            choice.selected.line,
            "the best 10 of 20 checkpoints by eval_loss (the learning rate was held)"
        );
        assert_eq!((about(&choice), &choice.notes), (vec![], &vec![]), "{run}");
    }
}

#[test]
fn of_a_decayed_run_five_are_merged_and_little_is_promised() {
    for (run, share, window, weights) in [
        ("banking-cos-s0", "almost nothing", "1100 and 2000", [498, 2108, 2464, 2441, 2490]),
        ("banking-linear-decay-s0", "0.1 %", "1100 and 2000", [534, 1944, 2238, 2669, 2615]),
        // its last three differ in the fifth digit: they weigh nearly the same
        ("wikisql-cos-s0", "almost nothing", "660 and 1200", [494, 2151, 2437, 2446, 2472]),
    ] {
        let choice = Run::open(run).by_default();
        assert_eq!(chosen(&choice), (vec![16, 17, 18, 19, 20], weights.to_vec()), "{run}");
        let line = format!(
            "the best 5 of 20 checkpoints by eval_loss (the learning rate fell to {share} of its peak)"
        );
        assert_eq!(choice.selected.line, line);
        let advice = &choice.advice[0];
        let says = format!(
            "the learning rate fell to {share} of its peak between steps {window}, so this merge will hardly"
        );
        assert_eq!(advice.about, "schedule");
        assert!(advice.text.starts_with(&says) && advice.value < 2e-3, "{advice:?}");
    }
}

#[test]
fn of_a_short_run_half_is_merged_rounded_up() {
    let run = Run::open("banking-const-s0");
    let line = |every| run.choose(&run.steps(every), &ChooseOptions::default()).selected.line;
    let capped = "(the learning rate was held; at most half are taken)";
    assert_eq!(line(2), format!("the best 5 of 10 checkpoints by eval_loss {capped}"));
    assert_eq!(line(4), format!("the best 3 of 5 checkpoints by eval_loss {capped}"));
    assert_eq!(line(8), format!("the best 2 of 3 checkpoints by eval_loss {capped}"));
    assert_eq!(line(10), "the best 2 of 2 checkpoints by eval_loss (the learning rate was held)");
    assert_eq!(line(20), "the only checkpoint");
}

#[test]
fn a_run_of_fewer_than_five_is_told_to_save_more_often() {
    let run = Run::open("banking-const-s0");
    for (every, count) in [(4, None), (8, Some("only 3 checkpoints")), (20, Some("only one checkpoint"))] {
        let choice = run.choose(&run.steps(every), &ChooseOptions::default());
        let text =
            choice.advice.iter().find(|advice| advice.about == "checkpoints").map(|advice| &advice.text);
        assert_eq!(text.is_some(), count.is_some(), "{text:?}");
        assert!(
            text.is_none_or(|text| text.starts_with(&format!("the run has {}, too few", count.unwrap()))),
            "{text:?}"
        );
    }
    let listed = run.try_choose(&[800, 2000], false, &ChooseOptions::default()).unwrap();
    assert_eq!((about(&listed), listed.selected.line.as_str()), (vec![], "all 2 checkpoints, as listed"));
}

#[test]
fn without_evaluations_the_newest_are_merged_by_step() {
    let held = Run::open("clinc-full-s1").without("eval_loss").by_default();
    let weights = vec![333, 481, 630, 778, 926, 1074, 1222, 1370, 1519, 1667];
    assert_eq!(chosen(&held), ((11..=20).collect(), weights));
    assert_eq!(
        held.selected.line,
        "the last 10 of 20 checkpoints (no evaluation to choose by; the learning rate was held)"
    );
    assert_eq!(held.weighting.metric.as_deref(), Some("step"));
    assert_eq!(about(&held), Vec::<&str>::new());

    let decayed = Run::open("banking-linear-decay-s0").without("eval_loss").by_default();
    assert_eq!(chosen(&decayed), (vec![18, 19, 20], vec![1111, 3333, 5556]));
    assert_eq!(about(&decayed), ["schedule"]);

    // training loss is a metric only by name, and does not choose
    let by_loss = Run::open("clinc-full-s1");
    let by_loss = by_loss.choose(&by_loss.steps(1), &metric("loss"));
    assert_eq!(
        by_loss.selected.line,
        "the last 10 of 20 checkpoints (loss is not an evaluation; the learning rate was held)"
    );
}

#[test]
fn a_rate_that_is_not_known_gives_five_and_no_claim() {
    let unknown = "how the learning rate went is not known";
    let per_group = |record: &mut Value| {
        if let Some(rate) = record.get_mut("learning_rate") {
            *rate = json!([rate.clone(), 1e-5]);
        }
    };
    for run in
        [Run::open("banking-cos-s0").without("learning_rate"), Run::open("banking-cos-s0").with(per_group)]
    {
        let choice = run.by_default();
        assert_eq!(choice.selected.line, format!("the best 5 of 20 checkpoints by eval_loss ({unknown})"));
        assert!(!about(&choice).contains(&"schedule"));
        let newest = run.without("eval_loss").by_default();
        assert_eq!(
            newest.selected.line,
            format!("the last 5 of 20 checkpoints (no evaluation to choose by; {unknown})")
        );
        assert_eq!(about(&newest), Vec::<&str>::new());
    }
}

#[test]
fn a_rate_that_rises_again_or_falls_in_steps_is_not_called_held() {
    let rate = |rate: fn(f64) -> f64| {
        Run::open("banking-const-s0").with(move |record| {
            let step = record["step"].as_f64().unwrap();
            if record.get("learning_rate").is_some() {
                record["learning_rate"] = json!(rate(step));
            }
        })
    };
    let line = |choice: &Choice| choice.selected.line.split_once('(').unwrap().1.to_owned();
    // cosine with restarts, each cycle 900 steps: the run ends early in the third
    let restarts =
        rate(|step| 1e-3 * (1.0 + f64::cos((step % 900.0) / 900.0 * core::f64::consts::PI))).by_default();
    assert_eq!(
        (line(&restarts).as_str(), about(&restarts)),
        ("the learning rate ends at 88 % of its peak there)", vec![])
    );
    // ReduceLROnPlateau: a tenth after step 1550
    let plateau = rate(|step| if step < 1550.0 { 2e-3 } else { 2e-4 }).by_default();
    assert_eq!(
        (line(&plateau).as_str(), about(&plateau)[0]),
        ("the learning rate fell to 10 % of its peak)", "schedule")
    );
    let earlier = rate(|step| if step < 950.0 { 2e-3 } else { 2e-4 }).by_default();
    assert_eq!((line(&earlier).as_str(), about(&earlier)), ("the learning rate was held)", vec![]));
}

#[test]
fn what_is_selected_or_listed_is_taken_as_said() {
    let run = Run::open("banking-cos-s0");
    let (steps, free) = (run.steps(1), Selection::default());
    for (selection, indexes, line) in [
        (
            Selection { last: Some(7), ..free },
            (14..=20).collect::<Vec<_>>(),
            "7 of 20 checkpoints, as selected",
        ),
        (
            Selection { top: Some(2), ..free },
            vec![18, 20],
            "the best 2 of 20 checkpoints by eval_loss, as selected",
        ),
        (
            Selection { steps: Some((100, 600)), ..free },
            (1..=6).collect(),
            "6 of 20 checkpoints, as selected",
        ),
        (Selection { every: Some(10), ..free }, vec![10, 20], "2 of 20 checkpoints, as selected"),
        (Selection { pick: Some(Pick::All), ..free }, (1..=20).collect(), "all 20 checkpoints, as selected"),
    ] {
        let choice = run.choose(&steps, &select(selection));
        assert_eq!((chosen(&choice).0, choice.selected.line.as_str()), (indexes, line));
    }
    let all = run.try_choose(&steps, false, &ChooseOptions::default()).unwrap();
    assert_eq!((all.indexes.len(), all.selected.line.as_str()), (20, "all 20 checkpoints, as listed"));
    let own = WeightRule::Explicit(vec![1.0; 20]);
    assert_eq!(
        run.choose(&steps, &ChooseOptions { rule: own, ..ChooseOptions::default() }).indexes.len(),
        20
    );
}

#[test]
fn the_rules_go_by_name_too() {
    let run = Run::open("banking-cos-s0");
    let (steps, free) = (run.steps(1), Selection::default());
    let line =
        |selection, searched| run.try_choose(&steps, searched, &select(selection)).unwrap().selected.line;
    let fell = "(the learning rate fell to almost nothing of its peak)";
    let (best, last) =
        (Selection { pick: Some(Pick::Best), ..free }, Selection { pick: Some(Pick::Last), ..free });
    assert_eq!(line(best, false), format!("the best 5 of 20 checkpoints by eval_loss {fell}"));
    assert_eq!(line(last, true), format!("the last 3 of 20 checkpoints {fell}"));
    let early = Selection { steps: Some((100, 1000)), ..best };
    assert_eq!(
        line(early, true),
        "the best 5 of 20 checkpoints by eval_loss (the learning rate ends at 63 % of its peak there; at most half are taken)"
    );
    let held = Run::open("banking-const-s0");
    let most = held.choose(&steps, &select(Selection { steps: Some((100, 1400)), ..best })).selected.line;
    assert_eq!(
        most,
        "the best 7 of 20 checkpoints by eval_loss (the learning rate was held; at most half are taken)"
    );
    let twice = Selection { top: Some(3), ..last };
    let error = run.try_choose(&steps, true, &select(twice)).unwrap_err();
    assert_eq!(error.detail(), "--select last and --top both say how many checkpoints are taken");
}

#[test]
fn advice_follows_the_checkpoints_that_were_selected() {
    let run = Run::open("banking-cos-s0");
    let advice = |selection| run.choose(&run.steps(1), &select(selection)).advice;
    let early = advice(Selection { steps: Some((100, 900)), ..Selection::default() });
    assert!(early.iter().all(|advice| advice.about != "schedule"), "{early:?}");
    let two = advice(Selection { last: Some(2), ..Selection::default() });
    assert_eq!(two[0].about, "schedule");
}

#[test]
fn a_metric_that_does_not_tell_checkpoints_apart_is_named() {
    let noisy = Run::open("clinc-full-s1").by_default();
    assert_eq!(about(&noisy), ["metric"]);
    assert!(noisy.advice[0].text.starts_with(
        "eval_loss hardly tells these 10 checkpoints apart (they differ by 0.042 at most, neighbours by 0.016), so its weights"
    ), "{:?}", noisy.advice);
    let flat = Run::open("banking-const-s0").with(|record| {
        if let Some(loss) = record.get_mut("eval_loss") {
            *loss = json!(0.5 + loss.as_f64().unwrap() * 1e-4);
        }
    });
    let flat = flat.by_default();
    assert!(
        flat.advice[0].text.starts_with("eval_loss differs by less than 0.5 % over these 10 checkpoints"),
        "{:?}",
        flat.advice
    );
    // as all weigh the same, nothing is said of weights
    let uniform = WeightRule::Scheme { scheme: "uniform".parse().unwrap(), penalty: 0.0 };
    let run = Run::open("clinc-full-s1");
    let plain = run.choose(&run.steps(1), &ChooseOptions { rule: uniform, ..ChooseOptions::default() });
    assert_eq!((plain.indexes, plain.advice), (noisy.indexes, vec![]));
}

#[test]
fn scores_of_some_checkpoints_choose_among_these() {
    let mut run = Run::open("banking-const-s0");
    run.table = Some("step,f1\n1600,0.7\n1700,0.9\n1800,0.8\n1900,0.85\n2000,0.6\n".into());
    let choice = run.by_default();
    assert_eq!(chosen(&choice).0, [17, 18, 19]);
    assert_eq!(
        choice.selected.line,
        "the best 3 of 20 checkpoints by f1 (the learning rate was held; at most half are taken)"
    );
    assert_eq!(choice.notes, ["15 of 20 checkpoints have no f1: they are left out"]);
}

#[test]
fn of_equal_checkpoints_the_newest_are_the_best() {
    let run = Run::open("banking-const-s0").with(|record| {
        if let Some(loss) = record.get_mut("eval_loss") {
            *loss = json!(0.5);
        }
    });
    let choice = run.by_default();
    assert_eq!(chosen(&choice), ((11..=20).collect(), vec![1000; 10]));
    assert_eq!(choice.notes, ["eval_loss is the same for every checkpoint, so all weigh the same"]);
    assert_eq!(about(&choice), Vec::<&str>::new(), "it is said once");
}

#[test]
fn steps_are_exact_however_close_for_their_size() {
    let run = Run::open("banking-const-s0").with(|record| {
        *record = json!({"step": record["step"].as_u64().unwrap() / 100 + 1_000_000, "learning_rate": 1e-3});
    });
    let steps: Vec<_> = (1..=20).map(|i| 1_000_000 + i).collect();
    let weights = vec![333, 481, 630, 778, 926, 1074, 1222, 1370, 1519, 1667];
    assert_eq!(chosen(&run.choose(&steps, &ChooseOptions::default())), ((11..=20).collect(), weights));
}

#[test]
fn checkpoints_before_a_relora_restart_are_left_out() {
    let run = Run::open("banking-const-s0").with(|record| {
        record["num_lora_restarts"] = json!(u32::from(record["step"].as_u64().unwrap() > 1200));
    });
    let choice = run.by_default();
    assert_eq!(chosen(&choice).0, [17, 18, 19, 20]);
    assert_eq!(
        choice.notes,
        ["12 of 20 checkpoints are left out: they refer to the base model before the last ReLoRA restart"]
    );
}
