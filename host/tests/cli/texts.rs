//! The texts that people and scripts read: help, tables, JSON, and the errors of wrong usage.

use std::process::Command;

use serde_json::Value;
use snapbox::{assert_data_eq, str};

use crate::place::{Place, Ran};

#[test]
fn help() {
    let place = Place::new();
    assert_data_eq!(
        place.mwa("--help").out,
        str![[r#"
Merge the checkpoints of a training run into one, each weighted by a metric it logged

Usage: mwa <COMMAND>

Commands:
  merge        Merge checkpoints into one adapter or model
  finish       Put together what all shards of a merge have done
  search       Search for the best weights by your own evaluation, and merge with them
  weights      Show the same choice and weights as a table; merges nothing
  inspect      Say what paths are: kind, ranks, dtypes, steps, metrics and their coverage
  convert      Write a LoRA adapter in another program's format (kohya, diffusers, PEFT, MLX, GGUF),
               or any weights as safetensors or for torch.load()
  moments      Take the second moments out of a checkpoint's state into a file, for methods ota and
               ffg when the state is gone
  verify       Merge again from a folder's report and compare bytes and hashes
  aggregate    Merge what the clients of a federated round returned, by samples and staleness, into
               the next model
  recover      Fill in layers that a checkpoint has lost: from an older one, or from the layers
               around them
  apply        Fold a LoRA adapter into its base model: a model without an adapter, for programs
               that take none
  extract      Take a LoRA adapter out of a fine-tuned model: the best factors of what it differs by
               from its base
  masks        Keep what several models learned of one base as one vector and a bit of each element
               and model, and give each of them back
  devices      List the GPUs here, and whether each gives the same bytes as the CPU
  completions  Print a completion script for a shell
  man          Print a manual page, or write all of them
  help         Print this message or the help of the given subcommand(s)

Options:
  -h, --help     Print help
  -V, --version  Print version

Examples:
  mwa weights runs/my-lora                      who would weigh how much, and why
  mwa merge runs/my-lora -o merged              the best checkpoints by eval_loss, or else the last
  mwa merge runs/my-lora -o merged --last 5 --metric loss --penalty 1
  mwa merge a.safetensors b.safetensors -o merged --weights 0.7,0.3
  mwa search runs/my-lora -o best --evaluate 'python score.py {path}' --goal max

Exit codes: 0 done, 1 failed, 2 wrong usage, 75 when a server failed and the same may go well
another time, 128 and its number when a signal stopped it.

"#]]
    );
    assert_data_eq!(
        place.mwa("merge --help").out,
        str![[r#"
Merge checkpoints into one adapter or model

Usage: mwa merge [OPTIONS] --output <DIR> <RUN|CHECKPOINT|FILE>...

Arguments:
  <RUN|CHECKPOINT|FILE>...  A run folder, checkpoint folders, or files with weights

Options:
  -o, --output <DIR>       Folder to write; it appears whole or not at all
      --plot               Draw the metric and the weights into the folder too, for its README.md
      --abort              Merge nothing; take away what an unfinished merge left in a store
      --shard <I/N>        Do one of N shares of the work, 0/N to N-1/N, each in a process of its
                           own on any machine that sees the files; then mwa finish. The files are
                           the same: their size is --shard-size
      --progress <AS>      A line a second: bytes, GB/s, what is waited for [possible values: json]
      --dtype <DTYPE>      Dtype of averaged tensors; keep takes the widest of the inputs [default:
                           keep] [possible values: keep, f32, bf16, f16]
      --format <FORMAT>    Container of what is merged: keep, pt, own (checkpoints of torch
                           distributed and DeepSpeed again), or for a LoRA as mwa convert writes it
                           [default: that of the inputs] [possible values: keep, peft, diffusers,
                           kohya, mlx, gguf, pt, own]
      --shard-size <SIZE>  Part a model into files of at most this size, such as 5GB, with the index
                           that transformers and diffusers look for [default: the newest
                           checkpoint's files]
      --base <PATH>        The base model of tasks, or of LoRA checkpoints an earlier one of their
                           run; for formats gguf and mlx the base model's folder or its config.json
      --model <NAME>       The image model, for format kohya where names do not tell it: flux, sd3,
                           qwen-image, wan, sdxl, sd
      --allow-non-finite   Let NaN and infinity through instead of failing
      --rewrite            Write files anew where one checkpoint alone has weight, instead of
                           copying its own
      --force              Replace an earlier merge
      --sha256             Put SHA-256 of every file into the report too, as model hubs show it: it
                           costs more than the merge
      --threads <N>        Threads [default: one per core]
      --memory <SIZE>      Bytes of buffers; on the command line also 64M or 1G [default: 64M, or
                           256M with a GPU]
      --device <DEVICE>    auto, cpu, gpu (or some of what `mwa devices` lists: gpu:0,1), or wasm: a
                           sandbox for files that are not trusted. The bytes are the same [default:
                           auto]
      --json               Print JSON
  -q, --quiet              Print errors only
  -v, --verbose            Print all notes, not only the first
  -h, --help               Print help

Selection:
      --last <N>            The newest N checkpoints
      --every <K>           Every K-th checkpoint, counted from the newest
      --steps <A..B>        Checkpoints between two steps, both included; either end may be left out
      --top <N>             The N checkpoints with the best metric
      --select <RULE>       By a rule: the best by an evaluation or the last, ten, or fewer if the
                            learning rate fell, at most half; or all [default: best of a run that
                            logged evaluations, else last; all that are listed] [possible values:
                            best, last, all]
      --adapter <NAME>      The adapter inside checkpoints that hold several
      --weights-key <NAME>  The weights in training states that hold several sets of them, such as
                            model_avg
      --drop-bad            Leave out checkpoints that diverged, instead of failing

Metric:
      --metric <NAME>             loss, eval_loss, step or any logged NAME; or several,
                                  NAME,NAME:max [default: eval_loss if logged, else step]
      --metrics-file <FILE>       Read the metric from a CSV or JSON Lines table with a column
                                  `checkpoint` or `step`
      --metrics-from <PATH>       Take metrics from this log alone, a file or a folder with logs:
                                  TensorBoard, W&B, MLflow, lm-eval and others
      --goal <GOAL>               Whether lower or higher is better [default: from the metric's
                                  name] [possible values: min, max]
      --combine <HOW>             Of several metrics: the sum of the ranks they give, the order that
                                  disagrees the least with all, the mean rank, or scaled values
                                  [default: borda] [possible values: borda, kemeny, mean-rank,
                                  z-score]
      --questions <N>             How many questions an accuracy is the share of: it is told whether
                                  chance alone may make the difference
      --smooth <STEPS>            Average a training metric over this many steps around a
                                  checkpoint; 0 interpolates [default: from the log]
      --metric-tolerance <STEPS>  Take an evaluation that lies up to this many steps away from its
                                  checkpoint [default: 0]
      --strict-metrics            Fail rather than take a value that was not logged right at a
                                  checkpoint

Weights:
      --method <METHOD>      What becomes of the values of each element: their weighted mean; their
                             median, or their mean without the extremes, so that no bad checkpoint
                             decides; a base model and what tasks changed of it, all of it, what
                             each changed most, of that what most agree on, or all that enough of
                             them have a share in; by the curvature that an optimizer's second
                             moments tell, a mean, or a base with what counts most of what was
                             changed; or by the angles between the checkpoints in each tensor, a
                             base and as much of the mean as they agree, a point on the arc between
                             two, or the mean on a sphere, about a base if there is one [default:
                             mean] [possible values: mean, median, trimmed-mean, task-arithmetic,
                             magnitude-mask, ties, consensus, ota, ffg, model-stock, slerp,
                             multi-slerp, karcher]
      --scheme <SCHEME>      How a metric becomes a weight; with decay and ema steps decide, and
                             with flag, krum, multi-krum and geometric-median the tensors, so that
                             no bad checkpoint does [default: linear] [possible values: linear,
                             power, exponential, rank, decay, ema, uniform, flag, krum, multi-krum,
                             geometric-median]
      --penalty <P>          How hard a worse checkpoint is punished; 0 is the plain mean [default:
                             0.8]
      --outliers <F>         How many bad checkpoints krum and multi-krum expect, or how many values
                             trimmed-mean leaves out on each side [default: one, for these]
      --scale <L>            How much of what tasks changed is added to the base: of
                             task-arithmetic, magnitude-mask and consensus of their sum, of ties of
                             their mean [default: 1 for ties, else 1 over the number of tasks]
      --density <D>          The share of what each task changed that counts for magnitude-mask,
                             ties and ffg, the largest of it [default: 0.2, or 0.1 for ffg]
      --density-per <WHAT>   Whether that is a share of the whole model or of each tensor [default:
                             model] [possible values: model, tensor]
      --mask-lambda <L>      Of consensus, how much of what the others changed of an element
                             together a task must exceed to have its share in it [default: 0.4]
      --agree <K>            How many tasks must have their share in it; what fewer changed is left
                             as in the base [default: 2]
      --moments <FILE,…>     Where the second moments are, a file for each checkpoint in their
                             order: an optimizer.pt, or what mwa moments writes [default: the
                             optimizer.pt in each checkpoint]
      --power <P>            The power of a second moment that is an element's weight, for ota and
                             ffg [default: 0.5]
      --epsilon <E>          What is added to these weights, as a share of their mean over the
                             tensor [default: 1e-8]
      --normalise <HOW>      What they are measured by before checkpoints are compared: their mean
                             over the tensor, or nothing but what few steps left out [default: mean]
                             [possible values: mean, none]
      --subspace <R>         How many directions the scheme flag keeps [default: one, for this
                             scheme]
      --curve <CURVE>        With scheme decay, how the learning rate would have fallen [default:
                             linear] [possible values: linear, cosine, 1-sqrt, inverse, exponential]
      --floor <R>            What that curve ends at, as a share of where it begins [default: 0, or
                             0.1 of the curves inverse and exponential]
      --positions <HOW>      Where on it the checkpoints lie: by their steps, its mean between each
                             two, or as Megatron counts them [default: segments] [possible values:
                             segments, megatron]
      --correct-for-lr       Take off such a decay what the logged learning rate had fallen by
                             itself
      --ema-decay <D>        With scheme ema, how much the average keeps of itself at each
                             checkpoint or step [default: 0.7]
      --ema-per <WHAT>       Which of the two it counts [default: checkpoint] [possible values:
                             checkpoint, step]
      --run-weights <V,V,…>  Of several run folders, each selected and weighed by itself, how much
                             of each [default: all the same]
      --weights-file <FILE>  Read weights that differ by module: a JSON list of {"modules":
                             "self_attn", "weights": [0.2, 0.8]}
      --weights <W,W,…>      Your own weights, one per checkpoint, instead of a metric's

Space:
      --space <SPACE>       Average LoRA's factors A and B, or the products B·A that they make; the
                            latter also across runs and ranks [default: factors] [possible values:
                            factors, product]
      --rank <R|auto|full>  Rank of merged products: a number, full (exact, the sum of ranks) or
                            auto [default: the inputs' largest]
      --energy <SHARE>      With rank auto, the share of the squared norm that each module keeps
                            [default: 0.999]
      --strict              Fail where a module that an input lacks would count as zero
      --residual <HOW>      How far averaged factors are from the average of their products: exact,
                            sketch (an estimate in a fraction of a merge's time), or off [default:
                            exact if that is quick, else sketch] [possible values: exact, sketch,
                            off]
      --allow-cross-run     Average the factors of adapters, or the models, that are not of one run

Examples:
  mwa merge runs/my-lora -o merged                           what the log says is best
  mwa merge runs/my-lora -o merged --metric eval_accuracy    by any metric that the run logged
  mwa merge runs/my-lora -o merged --metrics-file scores.csv --metric f1
  mwa merge run-a run-b -o merged --space product            adapters of two runs
  mwa merge runs/full-finetune -o merged --dtype bf16        whole models too

"#]]
    );
    assert_data_eq!(
        place.mwa("weights --help").out,
        str![[r#"
Show the same choice and weights as a table; merges nothing

Usage: mwa weights [OPTIONS] <RUN|CHECKPOINT|FILE>...

Arguments:
  <RUN|CHECKPOINT|FILE>...  A run folder, checkpoint folders, or files with weights

Options:
      --plot <SVG>  Draw the metric, the chosen checkpoints, their weights and the learning rate
                    into a file
      --json        Print JSON
  -q, --quiet       Print errors only
  -v, --verbose     Print all notes, not only the first
  -h, --help        Print help

Selection:
      --last <N>            The newest N checkpoints
      --every <K>           Every K-th checkpoint, counted from the newest
      --steps <A..B>        Checkpoints between two steps, both included; either end may be left out
      --top <N>             The N checkpoints with the best metric
      --select <RULE>       By a rule: the best by an evaluation or the last, ten, or fewer if the
                            learning rate fell, at most half; or all [default: best of a run that
                            logged evaluations, else last; all that are listed] [possible values:
                            best, last, all]
      --adapter <NAME>      The adapter inside checkpoints that hold several
      --weights-key <NAME>  The weights in training states that hold several sets of them, such as
                            model_avg
      --drop-bad            Leave out checkpoints that diverged, instead of failing

Metric:
      --metric <NAME>             loss, eval_loss, step or any logged NAME; or several,
                                  NAME,NAME:max [default: eval_loss if logged, else step]
      --metrics-file <FILE>       Read the metric from a CSV or JSON Lines table with a column
                                  `checkpoint` or `step`
      --metrics-from <PATH>       Take metrics from this log alone, a file or a folder with logs:
                                  TensorBoard, W&B, MLflow, lm-eval and others
      --goal <GOAL>               Whether lower or higher is better [default: from the metric's
                                  name] [possible values: min, max]
      --combine <HOW>             Of several metrics: the sum of the ranks they give, the order that
                                  disagrees the least with all, the mean rank, or scaled values
                                  [default: borda] [possible values: borda, kemeny, mean-rank,
                                  z-score]
      --questions <N>             How many questions an accuracy is the share of: it is told whether
                                  chance alone may make the difference
      --smooth <STEPS>            Average a training metric over this many steps around a
                                  checkpoint; 0 interpolates [default: from the log]
      --metric-tolerance <STEPS>  Take an evaluation that lies up to this many steps away from its
                                  checkpoint [default: 0]
      --strict-metrics            Fail rather than take a value that was not logged right at a
                                  checkpoint

Weights:
      --method <METHOD>      What becomes of the values of each element: their weighted mean; their
                             median, or their mean without the extremes, so that no bad checkpoint
                             decides; a base model and what tasks changed of it, all of it, what
                             each changed most, of that what most agree on, or all that enough of
                             them have a share in; by the curvature that an optimizer's second
                             moments tell, a mean, or a base with what counts most of what was
                             changed; or by the angles between the checkpoints in each tensor, a
                             base and as much of the mean as they agree, a point on the arc between
                             two, or the mean on a sphere, about a base if there is one [default:
                             mean] [possible values: mean, median, trimmed-mean, task-arithmetic,
                             magnitude-mask, ties, consensus, ota, ffg, model-stock, slerp,
                             multi-slerp, karcher]
      --scheme <SCHEME>      How a metric becomes a weight; with decay and ema steps decide, and
                             with flag, krum, multi-krum and geometric-median the tensors, so that
                             no bad checkpoint does [default: linear] [possible values: linear,
                             power, exponential, rank, decay, ema, uniform, flag, krum, multi-krum,
                             geometric-median]
      --penalty <P>          How hard a worse checkpoint is punished; 0 is the plain mean [default:
                             0.8]
      --outliers <F>         How many bad checkpoints krum and multi-krum expect, or how many values
                             trimmed-mean leaves out on each side [default: one, for these]
      --scale <L>            How much of what tasks changed is added to the base: of
                             task-arithmetic, magnitude-mask and consensus of their sum, of ties of
                             their mean [default: 1 for ties, else 1 over the number of tasks]
      --density <D>          The share of what each task changed that counts for magnitude-mask,
                             ties and ffg, the largest of it [default: 0.2, or 0.1 for ffg]
      --density-per <WHAT>   Whether that is a share of the whole model or of each tensor [default:
                             model] [possible values: model, tensor]
      --mask-lambda <L>      Of consensus, how much of what the others changed of an element
                             together a task must exceed to have its share in it [default: 0.4]
      --agree <K>            How many tasks must have their share in it; what fewer changed is left
                             as in the base [default: 2]
      --moments <FILE,…>     Where the second moments are, a file for each checkpoint in their
                             order: an optimizer.pt, or what mwa moments writes [default: the
                             optimizer.pt in each checkpoint]
      --power <P>            The power of a second moment that is an element's weight, for ota and
                             ffg [default: 0.5]
      --epsilon <E>          What is added to these weights, as a share of their mean over the
                             tensor [default: 1e-8]
      --normalise <HOW>      What they are measured by before checkpoints are compared: their mean
                             over the tensor, or nothing but what few steps left out [default: mean]
                             [possible values: mean, none]
      --subspace <R>         How many directions the scheme flag keeps [default: one, for this
                             scheme]
      --curve <CURVE>        With scheme decay, how the learning rate would have fallen [default:
                             linear] [possible values: linear, cosine, 1-sqrt, inverse, exponential]
      --floor <R>            What that curve ends at, as a share of where it begins [default: 0, or
                             0.1 of the curves inverse and exponential]
      --positions <HOW>      Where on it the checkpoints lie: by their steps, its mean between each
                             two, or as Megatron counts them [default: segments] [possible values:
                             segments, megatron]
      --correct-for-lr       Take off such a decay what the logged learning rate had fallen by
                             itself
      --ema-decay <D>        With scheme ema, how much the average keeps of itself at each
                             checkpoint or step [default: 0.7]
      --ema-per <WHAT>       Which of the two it counts [default: checkpoint] [possible values:
                             checkpoint, step]
      --run-weights <V,V,…>  Of several run folders, each selected and weighed by itself, how much
                             of each [default: all the same]
      --weights-file <FILE>  Read weights that differ by module: a JSON list of {"modules":
                             "self_attn", "weights": [0.2, 0.8]}
      --weights <W,W,…>      Your own weights, one per checkpoint, instead of a metric's

Space:
      --space <SPACE>  Average LoRA's factors A and B, or the products B·A that they make; the
                       latter also across runs and ranks [default: factors] [possible values:
                       factors, product]

Examples:
  mwa weights runs/my-lora                       who would weigh how much, and why
  mwa weights runs/my-lora --penalty 1           would the worst get nothing?
  mwa weights runs/my-lora --plot weights.svg    the same as a picture

"#]]
    );
    assert_data_eq!(
        place.mwa("inspect --help").out,
        str![[r#"
Say what paths are: kind, ranks, dtypes, steps, metrics and their coverage

Usage: mwa inspect [OPTIONS] <PATH>...

Arguments:
  <PATH>...  Run folders, checkpoint folders or files

Options:
      --json     Print JSON
  -q, --quiet    Print errors only
  -v, --verbose  Print all notes, not only the first
  -h, --help     Print help

Selection:
      --adapter <NAME>  The adapter inside checkpoints that hold several

Metric:
      --metrics-from <PATH>  Take metrics from this log alone, a file or a folder with logs:
                             TensorBoard, W&B, MLflow, lm-eval and others

Examples:
  mwa inspect runs/my-lora    its checkpoints, and which metrics the run logged
  mwa inspect model.safetensors adapter_model.bin

"#]]
    );
    assert_data_eq!(
        place.mwa("verify --help").out,
        str![[r#"
Merge again from a folder's report and compare bytes and hashes

Usage: mwa verify [OPTIONS] <DIR>

Arguments:
  <DIR>  A folder that `mwa merge` wrote

Options:
      --threads <N>      Threads [default: one per core]
      --memory <SIZE>    Bytes of buffers; on the command line also 64M or 1G [default: 64M, or 256M
                         with a GPU]
      --device <DEVICE>  auto, cpu, gpu (or some of what `mwa devices` lists: gpu:0,1), or wasm: a
                         sandbox for files that are not trusted. The bytes are the same [default:
                         auto]
      --json             Print JSON
  -q, --quiet            Print errors only
  -v, --verbose          Print all notes, not only the first
  -h, --help             Print help

Examples:
  mwa verify merged    is it what its report says, and does merging again give the same?

Compared are the weights and the files copied beside them. The folder's README.md, pictures, and
what its report tells of metrics are not.

Exit codes: 0 all as the report says, 1 something differs or is missing, 2 wrong usage.

"#]]
    );
    assert_data_eq!(
        place.mwa("completions --help").out,
        str![[r#"
Print a completion script for a shell

Usage: mwa completions <SHELL>

Arguments:
  <SHELL>  The shell [possible values: bash, elvish, fish, powershell, zsh]

Options:
  -h, --help  Print help

"#]]
    );
}

#[test]
fn completions_and_the_manual_page_are_made() {
    let place = Place::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let ran = place.mwa(&format!("completions {shell}"));
        assert!(ran.out.contains("metrics-file"), "{shell}");
    }
    let page = place.mwa("man").out;
    assert!(page.starts_with(".ie") && page.contains(".TH mwa 1"), "{page}");
}

#[test]
fn weights_of_a_run() {
    let ran = Place::with_run().mwa("weights run");
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""));
    assert_data_eq!(
        ran.out,
        str![[r#"
chosen: the best 2 of 3 checkpoints by eval_loss (how the learning rate went is not known; at most half are taken)
checkpoint     step  eval_loss  from        weight
checkpoint-20    20          1  at step 20  0.8333  ████████████████████████
checkpoint-30    30          2  at step 30  0.1667  ████▊
weights: linear, penalty 0.8, by eval_loss (lower is better)
advice: the run has only 3 checkpoints, too few to gain much by merging: save more often (save_steps=0.05 saves twenty in a run, if no save_total_limit deletes them)

"#]]
    );
}

#[test]
fn weights_of_the_sample_run() {
    let place = Place::new();
    let run = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/sample-run");
    assert_data_eq!(
        place.mwa(&format!("weights {run} --metric loss --last 10")).out,
        str![[r#"
chosen: all 10 checkpoints, as selected
checkpoint       step     loss  from                    weight
checkpoint-550    550  0.92739  mean of steps 538–563   0.0342  ████▊
checkpoint-600    600  0.91438  mean of steps 588–613   0.0427  ██████
checkpoint-650    650  0.88521  mean of steps 638–663   0.0619  ████████▊
checkpoint-700    700  0.79679  mean of steps 688–713   0.1200  ████████████████▉
checkpoint-750    750  0.80799  mean of steps 738–763   0.1126  ███████████████▉
checkpoint-800    800  0.85359  mean of steps 788–813   0.0827  ███████████▋
checkpoint-850    850  0.83571  mean of steps 838–863   0.0944  █████████████▎
checkpoint-900    900  0.74342  mean of steps 888–913   0.1550  █████████████████████▊
checkpoint-950    950  0.78800  mean of steps 938–963   0.1257  █████████████████▋
checkpoint-1000  1000  0.71936  mean of steps 988–1000  0.1708  ████████████████████████
weights: linear, penalty 0.8, by loss (lower is better)

"#]]
    );
}

#[test]
fn a_merge_says_what_it_did() {
    let ran = Place::with_run().merges("run --select all");
    let (before, after) = ran.out.split_once(" in ").unwrap();
    let (seconds, after) = after.split_once(" s\n").unwrap();
    assert!(seconds.parse::<f64>().is_ok(), "{seconds}");
    assert_data_eq!(
        format!("{before} in T s\n{after}"),
        str![[r#"
chosen: all 3 checkpoints, as selected
checkpoint     step  eval_loss  from        weight
checkpoint-10    10          3  at step 10  0.1111  ████▊
checkpoint-20    20          1  at step 20  0.5556  ████████████████████████
checkpoint-30    30          2  at step 30  0.3333  ██████████████▍
weights: linear, penalty 0.8, by eval_loss (lower is better)
merged 3 checkpoints (813 B) into out in T s
  averaging factors changes what the adapters do by 3.1 %, which is little
  (at most 3.1 %, in q)
  adapter_model.safetensors  272 B  blake3 5525bd5af1d32b6a…

"#]]
    );
    assert_eq!(Place::with_run().merges("run --quiet").out, "");
}

#[test]
fn inspection_of_a_run() {
    assert_data_eq!(
        Place::with_run().mwa("inspect run").out,
        str![[r#"
run
  3 checkpoints, checkpoint-10 to checkpoint-30, steps 10 to 30
    LORA, rank 2, alpha 4, 14 parameters in 2 tensors (2 F32), 271 B each
    of example/tiny
    in q, v
  LORA: may be averaged
  metrics, how many of the 3 checkpoints have one, and how well it tells them apart:
    eval_loss     3  range 2, noise 1.1180: 1.8
  run/checkpoint-10/trainer_state.json and 2 more (a Trainer's state): eval_loss

"#]]
    );
}

#[test]
fn verification() {
    let place = Place::with_run();
    place.merges("run --select all");
    assert_data_eq!(
        place.mwa("verify out").out,
        str![[r#"
same     out/adapter_model.safetensors
same     1 file beside the weights
same     3 input files
verified: merging again gives the same bytes

"#]]
    );
}

/// The names in a JSON value, in depth.
fn shape(value: &Value) -> String {
    match value {
        Value::Object(fields) => {
            let fields: Vec<_> =
                fields.iter().map(|(name, value)| format!("{name}: {}", shape(value))).collect();
            format!("{{{}}}", fields.join(", "))
        }
        Value::Array(items) => format!("[{}]", items.first().map(shape).unwrap_or_default()),
        Value::Null => "null".into(),
        Value::Bool(_) => "bool".into(),
        Value::Number(_) => "number".into(),
        Value::String(_) => "string".into(),
    }
}

fn json(place: &Place, arguments: &str) -> (Option<i32>, Value) {
    let Ran { code, out, .. } = place.mwa(&format!("{arguments} --json"));
    (code, serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}")))
}

#[test]
fn json_has_a_stable_shape() {
    let place = Place::with_run();
    let mut shapes = String::new();
    for arguments in ["weights run", "merge run -o out", "inspect run", "verify out"] {
        let (code, value) = json(&place, arguments);
        assert_eq!(code, Some(0));
        shapes += &format!("{arguments}\n  {}\n", shape(&value));
    }
    assert_data_eq!(
        shapes,
        str![[r#"
weights run
  {mwa: string, selected: {rule: string, taken: number, found: number, line: string}, weighting: {scheme: string, penalty: number, metric: string, goal: string}, space: string, dtype: string, inputs: [{name: string, path: string, step: number, metric: number, source: string, weight: number}], outputs: [], advice: [{about: string, value: number, text: string}], notes: []}
merge run -o out
  {mwa: string, selected: {rule: string, taken: number, found: number, line: string}, weighting: {scheme: string, penalty: number, metric: string, goal: string}, space: string, residual: {overall: number, method: string, modules: [{module: string, relative: number}]}, dtype: string, inputs: [{name: string, path: string, step: number, metric: number, source: string, weight: number, files: [{name: string, bytes: number, blake3: string}]}], outputs: [{name: string, bytes: number, blake3: string}], companions: [{name: string, bytes: number, blake3: string}], advice: [{about: string, value: number, text: string}], notes: []}
inspect run
  [{path: string, checkpoints: [{name: string, step: number, container: string, method: string, verdict: string, ranks: [number], alpha: number, target_modules: [string], base_model: string, dtypes: {F32: number}, tensors: number, parameters: number, bytes: number}], metrics: [{name: string, covered: number, separation: {values: number, range: number, noise: number, signal_to_noise: number, von_neumann: number, separates: null}}], logs: [{path: string, kind: string, metrics: [string]}], notes: []}]
verify out
  {outputs: [{path: string, state: string}], companions: [{path: string, state: string}], others: [], inputs: [{path: string, state: string}], remade: bool}

"#]]
    );
    // what a merge prints is what it wrote
    let (_, printed) = json(&place, "merge run -o out --force");
    assert_eq!(printed, serde_json::from_slice::<Value>(&place.read("out/mwa-report.json")).unwrap());
    place.edit("run/checkpoint-20/adapter_config.json", "\"r\": 2", "\"r\": 4");
    let (code, error) = json(&place, "merge run --select all -o out2");
    assert_eq!(code, Some(1));
    assert_data_eq!(
        format!("{error:#}\n"),
        str![[r#"
{
  "error": {
    "kind": "config",
    "file": "run/checkpoint-20",
    "tensor": null,
    "message": "r is 4, but 2 in run/checkpoint-10",
    "help": "factors average only at one rank and scale, in the same modules; product space merges others (--space product)"
  }
}

"#]]
    );
}

#[test]
fn wrong_usage_exits_2_and_says_what_would_be_right() {
    let place = Place::with_run();
    let wrong = [
        "",
        "merge",
        "merge run",
        "merge run -o out --lsat 3",
        "merge run -o out --last 0",
        "merge run -o out --steps 9",
        "merge run -o out --steps 9..3",
        "merge run -o out --scheme best",
        "merge run -o out --dtype f64",
        "merge run -o out --weights 1,x",
        "merge run -o out --weights 1,2,3 --metric loss",
        "merge run -o out --threads 0",
        "merge run -o out --memory 1Q",
        "merge run -o out --smooth -3",
        "merg run -o out",
        "completions csh",
    ];
    let mut texts = String::new();
    for arguments in wrong {
        texts += &format!("$ mwa {arguments}\n{}\n", place.fails_with(2, arguments));
    }
    assert_data_eq!(
        texts,
        str![[r#"
$ mwa 
Merge the checkpoints of a training run into one, each weighted by a metric it logged

Usage: mwa <COMMAND>

Commands:
  merge        Merge checkpoints into one adapter or model
  finish       Put together what all shards of a merge have done
  search       Search for the best weights by your own evaluation, and merge with them
  weights      Show the same choice and weights as a table; merges nothing
  inspect      Say what paths are: kind, ranks, dtypes, steps, metrics and their coverage
  convert      Write a LoRA adapter in another program's format (kohya, diffusers, PEFT, MLX, GGUF),
               or any weights as safetensors or for torch.load()
  moments      Take the second moments out of a checkpoint's state into a file, for methods ota and
               ffg when the state is gone
  verify       Merge again from a folder's report and compare bytes and hashes
  aggregate    Merge what the clients of a federated round returned, by samples and staleness, into
               the next model
  recover      Fill in layers that a checkpoint has lost: from an older one, or from the layers
               around them
  apply        Fold a LoRA adapter into its base model: a model without an adapter, for programs
               that take none
  extract      Take a LoRA adapter out of a fine-tuned model: the best factors of what it differs by
               from its base
  masks        Keep what several models learned of one base as one vector and a bit of each element
               and model, and give each of them back
  devices      List the GPUs here, and whether each gives the same bytes as the CPU
  completions  Print a completion script for a shell
  man          Print a manual page, or write all of them
  help         Print this message or the help of the given subcommand(s)

Options:
  -h, --help     Print help
  -V, --version  Print version

Examples:
  mwa weights runs/my-lora                      who would weigh how much, and why
  mwa merge runs/my-lora -o merged              the best checkpoints by eval_loss, or else the last
  mwa merge runs/my-lora -o merged --last 5 --metric loss --penalty 1
  mwa merge a.safetensors b.safetensors -o merged --weights 0.7,0.3
  mwa search runs/my-lora -o best --evaluate 'python score.py {path}' --goal max

Exit codes: 0 done, 1 failed, 2 wrong usage, 75 when a server failed and the same may go well
another time, 128 and its number when a signal stopped it.

$ mwa merge
error: the following required arguments were not provided:
  --output <DIR>
  <RUN|CHECKPOINT|FILE>...

Usage: mwa merge --output <DIR> <RUN|CHECKPOINT|FILE>...

For more information, try '--help'.

$ mwa merge run
error: the following required arguments were not provided:
  --output <DIR>

Usage: mwa merge --output <DIR> <RUN|CHECKPOINT|FILE>...

For more information, try '--help'.

$ mwa merge run -o out --lsat 3
error: unexpected argument '--lsat' found

  tip: a similar argument exists: '--last'

Usage: mwa merge --output <DIR> --last <N> <RUN|CHECKPOINT|FILE>...

For more information, try '--help'.

$ mwa merge run -o out --last 0
error: invalid value '0' for '--last <N>': it must be a whole number from 1 on

For more information, try '--help'.

$ mwa merge run -o out --steps 9
error: invalid value '9' for '--steps <A..B>': write a range, such as 500..1000, 500.. or ..1000

For more information, try '--help'.

$ mwa merge run -o out --steps 9..3
error: invalid value '9..3' for '--steps <A..B>': the range is empty: 9 is after 3

For more information, try '--help'.

$ mwa merge run -o out --scheme best
error: invalid value 'best' for '--scheme <SCHEME>'
  [possible values: linear, power, exponential, rank, decay, ema, uniform, flag, krum, multi-krum, geometric-median]

For more information, try '--help'.

$ mwa merge run -o out --dtype f64
error: invalid value 'f64' for '--dtype <DTYPE>'
  [possible values: keep, f32, bf16, f16]

For more information, try '--help'.

$ mwa merge run -o out --weights 1,x
error: invalid value '1,x' for '--weights <W,W,…>': it must be a list of numbers

For more information, try '--help'.

$ mwa merge run -o out --weights 1,2,3 --metric loss
error: the argument '--weights <W,W,…>' cannot be used with '--metric <NAME>'

Usage: mwa merge --output <DIR> --weights <W,W,…> <RUN|CHECKPOINT|FILE>...

For more information, try '--help'.

$ mwa merge run -o out --threads 0
error: invalid value '0' for '--threads <N>': it must be a whole number from 1 on

For more information, try '--help'.

$ mwa merge run -o out --memory 1Q
error: invalid value '1Q' for '--memory <SIZE>': `q` is not a unit; use K, M, G or T, also as Mi or MiB

For more information, try '--help'.

$ mwa merge run -o out --smooth -3
error: invalid value '-3' for '--smooth <STEPS>': it must be a number, 0 or larger

For more information, try '--help'.

$ mwa merg run -o out
error: unrecognized subcommand 'merg'

  tip: a similar subcommand exists: 'merge'

Usage: mwa <COMMAND>

For more information, try '--help'.

$ mwa completions csh
error: invalid value 'csh' for '<SHELL>'
  [possible values: bash, elvish, fish, powershell, zsh]

  tip: a similar value exists: 'zsh'

For more information, try '--help'.


"#]]
    );
}

#[test]
fn nothing_selected_is_an_error() {
    let place = Place::with_run();
    assert_data_eq!(
        place.fails("weights run --steps 100.."),
        str![[r#"
error: --steps selects none of the 3 checkpoints found, which lie between steps 10 and 30
help: widen --steps, or leave it out

"#]]
    );
    assert_data_eq!(
        place.fails("weights nowhere"),
        str![[r#"
error: nowhere: does not exist
help: give a path on this machine: a run folder, a checkpoint folder or a file with weights

"#]]
    );
    std::fs::create_dir(place.path("empty")).unwrap();
    assert_data_eq!(
        place.fails("weights empty"),
        str![[r#"
error: empty: holds no weights, and no folders named checkpoint-N
help: give a run folder with checkpoint-N folders, a checkpoint folder, or files with weights

"#]]
    );
}

#[test]
fn pipes_get_no_colours_unless_forced() {
    let place = Place::with_run();
    assert!(!place.mwa("weights run").out.contains('\x1b'));
    let forced = |variables: &[(&str, &str)]| {
        let mut command: Command = place.command("weights run");
        Ran::of(command.envs(variables.iter().copied())).out
    };
    assert!(forced(&[("CLICOLOR_FORCE", "1")]).contains("\x1b[36m"));
    assert!(!forced(&[("NO_COLOR", "1")]).contains('\x1b'));
}

/// Programs read what is wrong with their arguments as they read all other errors.
#[test]
fn arguments_that_are_wrong_are_told_as_json_too() {
    let place = Place::new();
    for (arguments, message, help) in [
        (
            "merge run --json",
            "the following required arguments were not provided: --output <DIR>",
            "see mwa --help, or that of the command",
        ),
        (
            "weights run --metrik x --json",
            "unexpected argument '--metrik' found",
            "a similar argument exists: '--metric'",
        ),
        (
            "weights --json run --penalty x",
            "invalid value 'x' for '--penalty <P>': it must be a number",
            "see mwa --help, or that of the command",
        ),
    ] {
        let ran = place.mwa(arguments);
        assert_eq!(ran.code, Some(2), "{arguments}");
        let told: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
        let error = &told["error"];
        assert_eq!(error["kind"], "usage");
        assert_eq!((error["message"].as_str(), error["help"].as_str()), (Some(message), Some(help)));
        assert!(error["file"].is_null() && error["tensor"].is_null());
        // and for people as ever
        assert!(ran.err.starts_with("error: "), "{}", ran.err);
    }
    // an input of that name is none of it, nor is help
    assert_eq!(place.mwa("weights run --metrik x -- --json").out, "");
    assert!(place.mwa("merge --json --help").out.contains("Usage: mwa merge"));
}

#[test]
fn sizes_of_memory_are_written_as_elsewhere() {
    let place = Place::with_run();
    for size in ["1.5M", "64Mi", "65536Ki", "0.5GiB"] {
        place.merges(&format!("run --memory {size}"));
        std::fs::remove_dir_all(place.path("out")).unwrap();
    }
    for (size, told) in [
        ("0", "it must be more than 0 bytes"),
        ("1.5Q", "`q` is not a unit; use K, M, G or T, also as Mi or MiB"),
        ("x", "`x` is not a unit"),
    ] {
        let err = place.fails_with(2, &format!("merge run -o out --memory {size}"));
        assert!(err.contains(told), "{err}");
    }
}
