//! The command line: arguments to options of the library.

use std::path::PathBuf;

use crate::engine::device::DeviceChoice;
use crate::options::{Machine, MergeOptions, Options};
use crate::space::{RankChoice, space};
use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use mwa::{ChooseOptions, PENALTY, Selection, WeightRule};
use mwa::{Error, ErrorKind, Float, Goal, MetricOptions, Scheme};

/// Merge the checkpoints of a training run into one better model, each weighted by a metric it logged
#[derive(Parser)]
#[command(
    name = "mwa",
    version,
    max_term_width = 100,
    after_help = "\
Examples:
  mwa weights runs/my-lora                      who would weigh how much, and why
  mwa merge runs/my-lora -o merged              the last ten checkpoints, by eval_loss or else loss
  mwa merge runs/my-lora -o merged --last 5 --metric loss --penalty 1
  mwa merge a.safetensors b.safetensors -o merged --weights 0.7,0.3

Exit codes: 0 done, 1 failed, 2 wrong usage."
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Merge checkpoints into one adapter or model
    Merge {
        #[command(flatten)]
        choose: Choose,
        /// Folder to write; it appears whole or not at all
        #[arg(short, long, value_name = "DIR")]
        output: PathBuf,
        /// Dtype of averaged tensors; keep takes the widest of the inputs
        #[arg(long, value_enum, default_value = "keep")]
        dtype: OutputDtype,
        #[command(flatten)]
        space: SpaceArgs,
        /// Average the factors of adapters that are not of one run
        #[arg(long)]
        allow_cross_run: bool,
        /// Replace an earlier merge in DIR
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        machine: MachineArgs,
        #[command(flatten)]
        show: Show,
    },
    /// Show the same choice and weights as a table; writes nothing
    Weights {
        #[command(flatten)]
        choose: Choose,
        #[command(flatten)]
        show: Show,
    },
    /// Say what paths are: kind, ranks, dtypes, steps, metrics and their coverage
    Inspect {
        /// Run folders, checkpoint folders or files
        #[arg(required = true, value_name = "PATH")]
        paths: Vec<PathBuf>,
        /// The adapter inside checkpoints that hold several
        #[arg(long, value_name = "NAME")]
        adapter: Option<String>,
        #[command(flatten)]
        show: Show,
    },
    /// Merge again from a folder's report and compare bytes and hashes
    Verify {
        /// A folder that `mwa merge` wrote
        #[arg(value_name = "DIR")]
        folder: PathBuf,
        #[command(flatten)]
        machine: MachineArgs,
        #[command(flatten)]
        show: Show,
    },
    /// List the GPUs here, and whether each gives the same bytes as the CPU
    Devices {
        #[command(flatten)]
        show: Show,
    },
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Print the manual page
    Man,
}

/// Which checkpoints, and how they are weighed.
#[derive(Args)]
pub(crate) struct Choose {
    /// A run folder, checkpoint folders, or .safetensors files
    #[arg(required = true, value_name = "RUN|CHECKPOINT|FILE")]
    inputs: Vec<PathBuf>,
    /// The newest N checkpoints [default for a run: 10]
    #[arg(long, value_name = "N", value_parser = at_least_one, help_heading = "Selection")]
    last: Option<usize>,
    /// Every K-th checkpoint, counted from the newest
    #[arg(long, value_name = "K", value_parser = at_least_one, help_heading = "Selection")]
    every: Option<usize>,
    /// Checkpoints between two steps, both included; either end may be left out
    #[arg(long, value_name = "A..B", value_parser = steps, help_heading = "Selection")]
    steps: Option<(u64, u64)>,
    /// The N checkpoints with the best metric
    #[arg(long, value_name = "N", value_parser = at_least_one, help_heading = "Selection")]
    top: Option<usize>,
    /// The adapter inside checkpoints that hold several
    #[arg(long, value_name = "NAME", help_heading = "Selection")]
    adapter: Option<String>,
    /// Leave out checkpoints that diverged, instead of failing
    #[arg(long, help_heading = "Selection")]
    drop_bad: bool,
    /// loss, eval_loss, step or any logged NAME [default: eval_loss if all have it, else loss, else step]
    #[arg(long, value_name = "NAME", help_heading = "Metric")]
    metric: Option<String>,
    /// Read the metric from a CSV or JSON Lines table with a column `checkpoint` or `step`
    #[arg(long, value_name = "FILE", help_heading = "Metric")]
    metrics_file: Option<PathBuf>,
    /// Whether lower or higher is better [default: from the metric's name]
    #[arg(long, value_enum, help_heading = "Metric")]
    goal: Option<GoalArg>,
    /// Average a training metric over so many steps around a checkpoint; 0 interpolates [default: from the log]
    #[arg(long, allow_negative_numbers = true, value_name = "STEPS", help_heading = "Metric")]
    smooth: Option<f64>,
    /// Take an evaluation up to so many steps away from its checkpoint
    #[arg(long, value_name = "STEPS", default_value_t = 0, help_heading = "Metric")]
    metric_tolerance: u64,
    /// Fail rather than take a value that was not logged right at a checkpoint
    #[arg(long, help_heading = "Metric")]
    strict_metrics: bool,
    /// How a metric becomes a weight
    #[arg(long, default_value = "linear", help_heading = "Weights", value_parser = clap::builder::PossibleValuesParser::new(Scheme::ALL.map(|scheme| scheme.name)))]
    scheme: String,
    /// How hard a worse checkpoint is punished; 0 is the plain mean
    #[arg(long, value_name = "P", default_value_t = PENALTY, allow_negative_numbers = true, help_heading = "Weights")]
    penalty: f64,
    /// Your own weights, one per checkpoint, instead of a metric's
    #[arg(long, value_name = "W,W,…", value_delimiter = ',', allow_negative_numbers = true, help_heading = "Weights",
          conflicts_with_all = ["scheme", "penalty", "metric", "metrics_file", "goal"])]
    weights: Option<Vec<f64>>,
}

/// What is averaged.
#[derive(Args, Clone, Copy)]
pub(crate) struct SpaceArgs {
    /// Average LoRA's factors A and B, or the products B·A that they make; the latter also across runs and ranks
    #[arg(long, value_enum, default_value = "factors", help_heading = "Space")]
    space: SpaceArg,
    /// Rank of merged products: a number, full (exact, the sum of ranks) or auto [default: the inputs' largest]
    #[arg(long, value_name = "R|auto|full", value_parser = RankChoice::parse, help_heading = "Space")]
    rank: Option<RankChoice>,
    /// With --rank auto, the share of the squared norm that each module keeps [default: 0.999]
    #[arg(long, value_name = "SHARE", value_parser = energy, help_heading = "Space")]
    energy: Option<f64>,
    /// Fail where a module that an input lacks would count as zero
    #[arg(long, help_heading = "Space")]
    strict: bool,
    /// Do not measure how far averaged factors are from the average of their products; half the time of a large merge
    #[arg(long, help_heading = "Space")]
    no_residual: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum SpaceArg {
    Factors,
    Product,
}

/// How much machine to use.
#[derive(Args, Clone, Copy)]
pub(crate) struct MachineArgs {
    /// Threads [default: one per core]
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    threads: Option<usize>,
    /// Bytes of buffers, such as 64M or 1G [default: 64M, or 256M with a GPU]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    memory: Option<u64>,
    /// auto, cpu, gpu (or some of what `mwa devices` lists: gpu:0,1), or wasm, a sandbox for files that are not
    /// trusted. The bytes are the same
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    device: DeviceChoice,
    /// Show where the time went, summed over threads
    #[arg(long, hide = true)]
    pub(crate) timings: bool,
}

/// What is printed.
#[derive(Args, Clone, Copy)]
pub(crate) struct Show {
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Print errors only
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum OutputDtype {
    Keep,
    F32,
    Bf16,
    F16,
}

#[derive(Clone, Copy, ValueEnum)]
enum GoalArg {
    Min,
    Max,
}

impl Choose {
    /// The options of the library.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] for a penalty or weights that suit no checkpoints at all.
    pub(crate) fn options(self) -> mwa::Result<Options> {
        Options::from(self).checked().map_err(|error| {
            Error::new(ErrorKind::Usage, error.detail().to_owned())
                .help(error.advice().unwrap_or_default().to_owned())
        })
    }
}

impl From<Choose> for Options {
    fn from(args: Choose) -> Self {
        let goal = args.goal.map(|goal| match goal {
            GoalArg::Min => Goal::Min,
            GoalArg::Max => Goal::Max,
        });
        let scheme = args.scheme.parse().expect("clap allows only the names of schemes");
        Self {
            inputs: args.inputs,
            adapter: args.adapter,
            choose: ChooseOptions {
                select: Selection { steps: args.steps, every: args.every, last: args.last, top: args.top },
                metric: MetricOptions {
                    name: args.metric,
                    goal,
                    smooth: args.smooth,
                    tolerance: args.metric_tolerance,
                    strict: args.strict_metrics,
                },
                rule: args
                    .weights
                    .map_or(WeightRule::Scheme { scheme, penalty: args.penalty }, WeightRule::Explicit),
                drop_bad: args.drop_bad,
            },
            metrics_file: args.metrics_file,
        }
    }
}

impl From<MachineArgs> for Machine {
    fn from(args: MachineArgs) -> Self {
        Self { threads: args.threads, memory: args.memory, device: args.device }
    }
}

/// The options of a merge that are not about choosing.
///
/// # Errors
/// [`ErrorKind::Usage`] for options of product space without it.
pub(crate) fn merge_options(
    dtype: OutputDtype,
    args: SpaceArgs,
    allow_cross_run: bool,
    force: bool,
    machine: MachineArgs,
) -> mwa::Result<MergeOptions> {
    let dtype = match dtype {
        OutputDtype::Keep => None,
        OutputDtype::F32 => Some(Float::F32),
        OutputDtype::Bf16 => Some(Float::BF16),
        OutputDtype::F16 => Some(Float::F16),
    };
    let is_product = args.space == SpaceArg::Product;
    let space = space(is_product, args.rank, args.energy, args.strict)?;
    let SpaceArgs { strict, no_residual, .. } = args;
    Ok(MergeOptions { dtype, space, allow_cross_run, strict, no_residual, force, machine: machine.into() })
}

fn energy(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(share) if share > 0.0 && share <= 1.0 => Ok(share),
        _ => Err("is no share; write a number above 0, at most 1".into()),
    }
}

fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("must be at least 1".into()),
        Ok(n) => Ok(n),
        Err(error) => Err(format!("{error}")),
    }
}

fn steps(text: &str) -> Result<(u64, u64), String> {
    let (from, to) = text.split_once("..").ok_or("write a range, such as 500..1000, 500.. or ..1000")?;
    let end = |part: &str, open: u64| {
        if part.is_empty() { Ok(open) } else { part.parse().map_err(|error| format!("`{part}`: {error}")) }
    };
    let (from, to) = (end(from, 0)?, end(to.trim_start_matches('='), u64::MAX)?);
    if from > to { Err(format!("the range is empty: {from} is after {to}")) } else { Ok((from, to)) }
}

fn size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match text[digits.len()..].to_ascii_lowercase().trim_end_matches("ib").trim_end_matches('b') {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        unit => return Err(format!("`{unit}` is no unit; use K, M, G or T")),
    };
    let number: u64 = digits.parse().map_err(|error| format!("{error}"))?;
    number.checked_mul(1 << shift).ok_or_else(|| "is too large".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        <Cli as clap::CommandFactory>::command().debug_assert();
    }

    #[test]
    fn ranges_and_sizes() {
        assert_eq!(steps("500..1000"), Ok((500, 1000)));
        assert_eq!(steps("500.."), Ok((500, u64::MAX)));
        assert!(steps("9..1").is_err());
        assert!(steps("9").is_err());
        assert_eq!(size("64M"), Ok(64 << 20));
        assert_eq!(size("1GiB"), Ok(1 << 30));
        assert_eq!(size("17"), Ok(17));
        assert!(size("1X").is_err());
    }
}
