//! Tests of tables in all their formats, good and bad.

use alloc::vec;

use super::parse::trailing_step;
use super::*;
use crate::logs::goal::Goal;

fn wanted(steps: &[u64]) -> Vec<Wanted<'static>> {
    let name = |step: &u64| -> &'static str {
        match step {
            4 => "epoch=0-step=4-val_loss=0.36.ckpt",
            8 => "epoch=1-step=8-val_loss=0.32.ckpt",
            50 => "run/checkpoint-50",
            100 => "run/checkpoint-100",
            _ => "other",
        }
    };
    steps.iter().map(|step| Wanted { name: name(step), step: Some(*step), number: None }).collect()
}

fn read(text: &str, steps: &[u64], name: Option<&str>) -> Result<Metric> {
    let options = MetricOptions { name: name.map(ToString::to_string), ..MetricOptions::default() };
    Table::parse(text)?.read(&wanted(steps), &options)
}

#[test]
fn every_format_says_the_same() {
    let named = |name| (Some(name), "accuracy");
    for (text, (name, shown)) in [
        ("checkpoint,accuracy\ncheckpoint-100,0.35\ncheckpoint-50,0.3\n", (None, "accuracy")),
        ("\u{feff}step;accuracy\r\n50;0.3\r\n100;\"0.35\"\r\n", (None, "accuracy")),
        ("step,epoch,accuracy,note\n10,1,,x\n50,1,0.3,\n50,1,,y\n100,2,0.35,\n", (None, "accuracy")),
        (
            "{\"step\": 50, \"accuracy\": 0.3}\n\n{\"checkpoint\": \"run/checkpoint-100\", \"accuracy\": \"0.35\"}\n",
            (None, "accuracy"),
        ),
        (
            "{\"current_steps\": 50, \"accuracy\": 0.3}\n{\"global_step/max_steps\": \"100/200\", \"accuracy\": 0.35}",
            named("accuracy"),
        ),
        (
            "[{\"global_step\": 50, \"accuracy\": 0.3}, {\"checkpoint\": 100, \"accuracy\": 0.35, \"x\": null}]",
            (None, "accuracy"),
        ),
        (
            "{\"checkpoint-50\": {\"accuracy\": 0.3}, \"checkpoint-100\": {\"accuracy\": 0.35, \"f1\": 1}}",
            named("accuracy"),
        ),
        ("{\"checkpoint-50\": 0.3, \"checkpoint-100\": 0.35, \"checkpoint-150\": NaN}", named("accuracy")),
    ] {
        let metric = read(text, &[50, 100], name).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!((metric.name.as_str(), metric.goal), (shown, Goal::Max), "{text}");
        assert_eq!(metric.values().unwrap(), [0.3, 0.35], "{text}");
        assert_eq!(metric.checkpoints, ["run/checkpoint-50", "run/checkpoint-100"]);
        assert!(metric.notes.is_empty());
    }
}

#[test]
fn lightning_counts_from_zero() {
    let text = "epoch,step,train_loss_epoch,train_loss_step,val_loss\n0,1,,0.2518604099750519,\n0,3,,0.5611422061920166,\n\
                0,3,,,0.35991257429122925\n0,3,0.38876625895500183,,\n1,5,,0.21097472310066223,\n1,7,,0.4977375268936157,\n\
                1,7,,,0.31736642122268677\n1,7,0.3419122099876404,,\n";
    let metric = read(text, &[4, 8], Some("val_loss")).unwrap();
    assert_eq!(metric.values().unwrap(), [0.35991257429122925, 0.31736642122268677]);
    assert_eq!(
        metric.readings[0],
        Outcome::Read(Reading { value: 0.35991257429122925, source: Source::Table { row: 4 } })
    );
    assert_eq!(
        metric.notes,
        ["the table counts steps from 0, as Lightning does: its step 49 is taken for step 50"]
    );
    assert!(read(text, &[3, 7], Some("val_loss")).unwrap().notes.is_empty());
    let error = read(text, &[4, 8], None).unwrap_err();
    assert!(error.detail().ends_with("train_loss_epoch 2/2, train_loss_step 2/2, val_loss 2/2"), "{error}");
    let own = "step,val_loss\n3,0.36\n7,0.32\n";
    assert!(read(own, &[4, 8], None).unwrap().values().is_err(), "not Lightning's header");
}

#[test]
fn several_metrics_need_a_name() {
    let text = "step,accuracy,f1\n50,0.3,0.2\n100,0.35,\n";
    let error = read(text, &[50, 100], None).unwrap_err();
    assert_eq!(error.detail(), "the table holds several metrics: accuracy 2/2, f1 1/2");
    let error = read(text, &[50, 100], Some("acuracy")).unwrap_err();
    assert_eq!(error.detail(), "the table of metrics has no column `acuracy`; it has accuracy 2/2, f1 1/2");
    assert_eq!(error.advice(), Some("did you mean --metric accuracy?"));
    let error = read("{\"checkpoint-50\": 0.3}", &[50], None).unwrap_err();
    assert!(error.detail().contains("lower or a higher `value`"), "{error}");
}

#[test]
fn cells_that_are_no_numbers_matter_where_they_are_wanted() {
    let text = "step,loss\n50,0.3\n100,n/a\n";
    assert_eq!(read(text, &[50], None).unwrap().values().unwrap(), [0.3]);
    let error = read(text, &[50, 100], None).unwrap_err();
    assert_eq!(error.detail(), "line 3: loss is `n/a`, which is not a number");
    let error = read("step,loss\nten,0.3\n", &[50], None).unwrap_err();
    assert_eq!(error.detail(), "line 2: step is `ten`, which is not a whole number");
    let error =
        read("{\"checkpoint-50\": [0.3, 0.4], \"checkpoint-100\": 1}", &[50], Some("loss")).unwrap_err();
    assert_eq!(error.detail(), "entry 1: value is `[0.3,0.4]`, which is not a number");
}

#[test]
fn rows_that_contradict_are_an_error_and_repeats_are_not() {
    let text = "step,loss\n50,0.3\n100,0.2\n100,0.2\n50,0.4\n";
    assert_eq!(read(text, &[100], None).unwrap().values().unwrap(), [0.2]);
    let error = read(text, &[50], None).unwrap_err();
    assert_eq!(
        error.detail(),
        "run/checkpoint-50 has two values of loss: 0.3 in line 2 and 0.4 in line 5 of the table"
    );
}

#[test]
fn missing_rows_empty_cells_and_nan_are_told_apart() {
    let metric = read("step,loss,f1\n50,,1\n60,nan,1\n70,1.0,1\n", &[50, 60, 100], Some("loss")).unwrap();
    assert_eq!(
        metric.readings,
        [
            Outcome::Missing("the cell in line 2 of the table is empty".to_string()),
            Outcome::Bad("loss is NaN in line 3 of the table".to_string()),
            Outcome::Missing("no row of the table is about it".to_string()),
        ]
    );
    let options = MetricOptions { tolerance: 5, ..MetricOptions::default() };
    let metric = Table::parse("step,loss\n48,2.0\n52,1.0\n").unwrap().read(&wanted(&[50]), &options).unwrap();
    assert_eq!(
        metric.readings,
        [Outcome::Read(Reading { value: 2.0, source: Source::Nearest { step: 48, by: 2 } })]
    );
    let options = MetricOptions { strict: true, ..options };
    assert!(Table::parse("step,loss\n48,2.0\n").unwrap().read(&wanted(&[50]), &options).is_err());
}

#[test]
fn names_match_without_steps_and_from_their_end() {
    let table = Table::parse("checkpoint,loss\na/x.safetensors,1\nb/x.safetensors,2\nrunB/checkpoint-50,3\n")
        .unwrap();
    let values = |name, step| {
        table
            .read(&[Wanted { name, step, number: None }], &MetricOptions::default())
            .unwrap()
            .values()
            .map_err(|error| error.to_string())
    };
    assert_eq!(values("b/x.safetensors", None), Ok(vec![2.0]));
    assert_eq!(values("./a/x.safetensors", None), Ok(vec![1.0]));
    assert_eq!(values("elsewhere/runB/checkpoint-50/", Some(50)), Ok(vec![3.0]));
    assert!(values("runA/checkpoint-50", Some(50)).unwrap_err().contains("no row of the table is about it"));
}

#[test]
fn broken_tables_say_where() {
    for (text, start) in [
        ("", "the table does not say which checkpoints its rows are about"),
        ("step,loss\n", "the table of metrics has no rows"),
        (
            "round,loss\n1,2\n",
            "the table does not say which checkpoints its rows are about: its columns are round, loss",
        ),
        ("step,loss,loss\n1,2,3\n", "two columns of the table are called `loss`"),
        ("step,loss\n1,2,3\n", "line 2: has 3 cells, but the header names 2 columns"),
        ("{\"step\": 1, \"loss\": 1}\n{oops}\n", "line 2 is not valid JSON"),
        ("{\"step\": 1,", "the table of metrics is not valid JSON"),
        ("[1, 2]", "entry 1 of the table is not an object"),
        ("[{\"loss\": 1}]", "the table does not say which checkpoints its rows are about"),
        ("step,note\n1,31%\n", "the table of metrics has no column of numbers: note is `31%` in line 2"),
    ] {
        let error = read(text, &[50], None).unwrap_err();
        assert!(error.detail().starts_with(start), "{text}: {error}");
        assert_eq!(error.kind(), ErrorKind::Metric);
    }
}

#[test]
fn exports_are_read_as_they_are() {
    for (text, shown) in [
        (
            "\"Step\",\"run-1 - eval/loss\",\"run-1 - eval/loss__MIN\",\"run-1 - eval/loss__MAX\"\n\
             \"50\",\"1.9\",\"1.9\",\"1.9\"\n\"100\",\"1.5\",\"1.5\",\"1.5\"\n",
            "eval/loss",
        ),
        ("_step,_timestamp,train/global_step,loss\n1,9e9,50,1.9\n2,9e9,100,1.5\n", "loss"),
        ("iter, epoch, loss\n50, 1, 1.9\n100, 2, 1.5\n", "loss"),
        ("Wall time,Step,Value\n9e9,50,1.9\n9e9,100,1.5\n", "ter"),
        ("[[9e9, 50, 1.9], [9e9, 100, 1.5]]", "ter"),
    ] {
        let name = (shown == "ter").then_some("ter");
        let metric = read(text, &[50, 100], name).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!((metric.name.as_str(), metric.values().unwrap()), (shown, vec![1.9, 1.5]), "{text}");
    }
    let named = read("Step,a - eval/loss,b - eval/loss\n50,1,2\n", &[50], Some("eval/loss")).unwrap_err();
    assert!(named.detail().contains("has no column `eval/loss`; it has a - eval/loss 1/1"), "{named}");
}

#[test]
fn epochs_are_the_numbers_in_names() {
    let wanted = [Wanted { name: "9.pt", step: Some(9000), number: Some(9) }];
    let read = |text| {
        let metric = Table::parse(text).and_then(|table| table.read(&wanted, &MetricOptions::default()));
        metric.and_then(|metric| metric.values())
    };
    for text in [
        "epoch,loss\n9,1.5\n",
        "checkpoint,loss\n9,1.5\n",
        "checkpoint,loss\nexp/9,1.5\n",
        "step,loss\n9000,1.5\n",
    ] {
        assert_eq!(read(text).unwrap(), [1.5], "{text}");
    }
    assert!(read("step,loss\n9,1.5\n").is_err(), "9 is no step here");
}

#[test]
fn what_lm_eval_writes_of_a_model_is_a_row() {
    let file = |step: u64, acc: f64, arguments: &str| {
        alloc::format!(
            r#"{{"results": {{"arc": {{"alias": "arc", "acc,none": {acc}, "acc_stderr,none": 0.1}}}},
                "model_name": "base", "config": {{"model_args": {arguments}}}, "step_of": {step}}}"#
        )
        .replace('\n', " ")
    };
    let lines = [
        file(50, 0.3, r#""pretrained=base,peft=run/checkpoint-50""#),
        file(100, 0.35, r#"{"pretrained": "base", "peft": "run/checkpoint-100"}"#),
    ];
    for text in [lines.join("\n"), alloc::format!("[{}]", lines.join(","))] {
        let metric = read(&text, &[50, 100], None).unwrap();
        assert_eq!((metric.name.as_str(), metric.goal), ("arc/acc,none", Goal::Max));
        assert_eq!(metric.values().unwrap(), [0.3, 0.35]);
    }
}

#[test]
fn steps_are_read_off_names() {
    assert_eq!(trailing_step("run/checkpoint-50/"), Some(50));
    assert_eq!(trailing_step("epoch_3"), Some(3));
    assert_eq!(trailing_step("v2"), None);
    assert_eq!(trailing_step("checkpoint-50-merged"), None);
    assert_eq!(trailing_step("50"), None);
}
