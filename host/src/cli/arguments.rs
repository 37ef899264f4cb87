//! The command line: arguments to options, those of the core's table among them.

use core::marker::PhantomData;
use std::ffi::OsStr;
use std::path::PathBuf;

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::{Arg, ArgAction, ArgMatches, Args, FromArgMatches, Parser, Subcommand};
use clap_complete::Shell;
use mwa::options::{About, Face, FileSize, Kind, OPTIONS, Row, SEARCH_OPTIONS, Verb};
use mwa::{Error, ErrorKind, SearchOptions};
use serde_json::{Map, Value as Json};

use crate::aggregate::RoundOptions;
use crate::engine::device::DeviceChoice;
use crate::options::{MergeOptions, Options};
use crate::shards::Share;

/// Merge the checkpoints of a training run into one, each weighted by a metric it logged
#[derive(Parser)]
#[command(
    name = "mwa",
    version,
    max_term_width = 100,
    after_help = "\
Examples:
  mwa weights runs/my-lora                      who would weigh how much, and why
  mwa merge runs/my-lora -o merged              the best checkpoints by eval_loss, or else the last
  mwa merge runs/my-lora -o merged --last 5 --metric loss --penalty 1
  mwa merge a.safetensors b.safetensors -o merged --weights 0.7,0.3
  mwa search runs/my-lora -o best --evaluate 'python score.py {path}' --goal max

Exit codes: 0 done, 1 failed, 2 wrong usage, 75 when a server failed and the same may go well
another time, 128 and its number when a signal stopped it."
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Merge checkpoints into one adapter or model
    #[command(after_help = "\
Examples:
  mwa merge runs/my-lora -o merged                           what the log says is best
  mwa merge runs/my-lora -o merged --metric eval_accuracy    by any metric that the run logged
  mwa merge runs/my-lora -o merged --metrics-file scores.csv --metric f1
  mwa merge run-a run-b -o merged --space product            adapters of two runs
  mwa merge runs/full-finetune -o merged --dtype bf16        whole models too")]
    Merge {
        #[command(flatten)]
        inputs: Inputs,
        /// Folder to write; it appears whole or not at all
        #[arg(short, long, value_name = "DIR")]
        output: PathBuf,
        /// Draw the metric and the weights into the folder too, for its README.md
        #[arg(long)]
        plot: bool,
        /// Merge nothing; take away what an unfinished merge left in a store
        #[arg(long)]
        abort: bool,
        /// Do one of N shares of the work, 0/N to N-1/N, each in a process of its own on any machine that sees the files; then mwa finish. The files are the same: their size is --shard-size
        #[arg(long, value_name = "I/N", value_parser = share, conflicts_with = "abort")]
        shard: Option<Share>,
        #[command(flatten)]
        lines: Lines,
        #[command(flatten)]
        given: Given<Merging>,
        #[command(flatten)]
        timings: Timings,
        #[command(flatten)]
        show: Show,
    },
    /// Put together what all shards of a merge have done
    #[command(after_help = "\
Examples:
  mwa merge run -o merged --shard 0/2 & mwa merge run -o merged --shard 1/2 & wait
  mwa finish merged               when all shards are done
  mwa finish merged --complete    do here what no shard has done
  mwa finish merged --abort       give the merge up

docs/cluster.md has recipes for Slurm and Kubernetes.")]
    Finish {
        /// The output that the shards were told
        #[arg(value_name = "DIR")]
        output: PathBuf,
        /// Do here what is missing
        #[arg(long)]
        complete: bool,
        /// Give the merge up: remove what its shards have written
        #[arg(long, conflicts_with = "complete")]
        abort: bool,
        #[command(flatten)]
        given: Given<Verifying>,
        #[command(flatten)]
        show: Show,
    },
    /// Search for the best weights by your own evaluation, and merge with them
    #[command(after_help = "\
Examples:
  mwa search runs/my-lora -o best --goal max --evaluate 'python score.py {path}'
  mwa search runs/my-lora -o best --goal min --evaluate-server 'python serve.py' --workers 2 \\
      --holdout 'python score.py --test {path}'
  mwa search runs/my-lora -o line --last 2 --method line \\
      --goal min --evaluate 'python score.py {path}'")]
    Search {
        #[command(flatten)]
        inputs: Inputs,
        /// Folder to write; it appears whole or not at all
        #[arg(short, long, value_name = "DIR")]
        output: PathBuf,
        #[command(flatten)]
        given: Given<Searching>,
        #[command(flatten)]
        show: Show,
    },
    /// Show the same choice and weights as a table; merges nothing
    #[command(after_help = "\
Examples:
  mwa weights runs/my-lora                       who would weigh how much, and why
  mwa weights runs/my-lora --penalty 1           would the worst get nothing?
  mwa weights runs/my-lora --plot weights.svg    the same as a picture")]
    Weights {
        #[command(flatten)]
        inputs: Inputs,
        /// Draw the metric, the chosen checkpoints, their weights and the learning rate into a file
        #[arg(long, value_name = "SVG")]
        plot: Option<PathBuf>,
        #[command(flatten)]
        given: Given<Weighing>,
        #[command(flatten)]
        show: Show,
    },
    /// Say what paths are: kind, ranks, dtypes, steps, metrics and their coverage
    #[command(after_help = "\
Examples:
  mwa inspect runs/my-lora    its checkpoints, and which metrics the run logged
  mwa inspect model.safetensors adapter_model.bin")]
    Inspect {
        /// Run folders, checkpoint folders or files
        #[arg(required = true, value_name = "PATH")]
        paths: Vec<PathBuf>,
        #[command(flatten)]
        given: Given<Inspecting>,
        #[command(flatten)]
        show: Show,
    },
    /// Write a LoRA adapter in another program's format (kohya, diffusers, PEFT, MLX, GGUF), or any weights as safetensors or for torch.load()
    #[command(after_help = "\
Examples:
  mwa convert style.safetensors -o style-peft --format peft    a kohya file for PEFT
  mwa convert runs/fsdp/checkpoint-900 -o model --shard-size 5GB")]
    Convert {
        /// An adapter, or with formats safetensors and pt any checkpoint: a folder, or a file
        #[arg(value_name = "IN")]
        input: PathBuf,
        /// Folder to write, or a file NAME.safetensors or NAME.gguf
        #[arg(short, long, value_name = "OUT")]
        output: PathBuf,
        /// What is written
        #[arg(long, value_name = "FORMAT", default_value = "safetensors", value_parser = PossibleValuesParser::new(mwa::convert::Target::NAMES))]
        format: String,
        /// Dtype of what is written [default: keep]
        #[arg(long, value_name = "DTYPE", value_parser = PossibleValuesParser::new(["keep", "f32", "bf16", "f16"]))]
        dtype: Option<String>,
        /// The base model's folder or its config.json, for GGUF and MLX
        #[arg(long, value_name = "PATH")]
        base: Option<PathBuf>,
        /// With format pt, the key under which a toolkit looks for the weights, such as model
        #[arg(long, value_name = "KEY")]
        key: Option<String>,
        /// The image model, where names do not tell: sd, sdxl, flux, sd3, wan, qwen-image
        #[arg(long, value_name = "NAME")]
        model: Option<String>,
        /// With format safetensors, part a model into files of at most this size, such as 5GB, with the index that transformers and diffusers look for
        #[arg(long, value_name = "SIZE", value_parser = file_size)]
        shard_size: Option<u64>,
        #[command(flatten)]
        show: Show,
    },
    /// Take the second moments out of a checkpoint's state into a file, for methods ota and ffg when the state is gone
    #[command(after_help = "\
Examples:
  mwa moments runs/my-lora/checkpoint-900 -o 900.safetensors
  mwa moments runs/my-model/checkpoint-900 -o small.safetensors --rank1
  mwa merge runs/my-lora -o merged --method ota --moments 800.safetensors,900.safetensors")]
    Moments {
        /// A checkpoint folder
        #[arg(value_name = "CHECKPOINT")]
        input: PathBuf,
        /// File to write
        #[arg(short, long, value_name = "FILE.safetensors")]
        output: PathBuf,
        /// The state, where it is not the optimizer.pt in the checkpoint
        #[arg(long, value_name = "FILE")]
        state: Option<PathBuf>,
        /// Of matrices keep the means of rows and columns alone, as Adafactor does: far smaller, and not the same; prints how far off
        #[arg(long)]
        rank1: bool,
        #[command(flatten)]
        show: Show,
    },
    /// Merge again from a folder's report and compare bytes and hashes
    #[command(after_help = "\
Examples:
  mwa verify merged    is it what its report says, and does merging again give the same?

Compared are the weights and the files copied beside them. The folder's README.md, pictures, and
what its report tells of metrics are not.

Exit codes: 0 all as the report says, 1 something differs or is missing, 2 wrong usage.")]
    Verify {
        /// A folder that `mwa merge` wrote
        #[arg(value_name = "DIR")]
        folder: PathBuf,
        #[command(flatten)]
        given: Given<Verifying>,
        #[command(flatten)]
        timings: Timings,
        #[command(flatten)]
        show: Show,
    },
    /// Merge what the clients of a federated round returned, by samples and staleness, into the next model
    Aggregate {
        /// The folder of a round, which holds a file or a folder for each client; or these files and folders
        #[arg(required_unless_present = "manifest", value_name = "ROUND_DIR|FILE")]
        inputs: Vec<PathBuf>,
        /// Folder to write; it appears whole or not at all
        #[arg(short, long, value_name = "DIR")]
        output: PathBuf,
        #[command(flatten)]
        round: Round,
        #[command(flatten)]
        given: Box<Given<Aggregating>>,
        #[command(flatten)]
        timings: Timings,
        #[command(flatten)]
        show: Show,
    },
    /// Fill in layers that a checkpoint has lost: from an older one, or from the layers around them
    Recover {
        /// A checkpoint folder or a .safetensors file, which may lack files or be cut short
        #[arg(value_name = "MODEL")]
        model: PathBuf,
        /// The layers that are lost, such as model.layers.8-11
        #[arg(long, value_name = "LAYERS")]
        lost: String,
        /// Take them from this checkpoint, which is older and whole
        #[arg(long, value_name = "CHECKPOINT", conflicts_with_all = ["weights", "copy_ends"])]
        from: Option<PathBuf>,
        /// How much the layers before and after count [default: alike]
        #[arg(long, value_name = "A,B", value_delimiter = ',', allow_hyphen_values = true)]
        weights: Option<Vec<f64>>,
        /// At an end of the model, copy the only neighbours
        #[arg(long)]
        copy_ends: bool,
        /// Folder to write; it appears whole or not at all
        #[arg(short, long, value_name = "DIR")]
        output: PathBuf,
        /// Replace an earlier merge
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        show: Show,
    },
    /// Fold a LoRA adapter into its base model: a model without an adapter, for programs that take none
    #[command(after_help = "\
Examples:
  mwa apply runs/my-lora/checkpoint-900 --base models/llama -o merged
  mwa apply merged-lora --base models/llama -o merged --threads 4 --memory 256M

What is computed: W + γ·B·A, row by row as the base streams, rounded once to the base's dtype.")]
    Apply {
        /// The folder of a PEFT adapter
        #[arg(value_name = "ADAPTER")]
        adapter: PathBuf,
        /// The model that the adapter was trained on: a folder with safetensors files, or a file
        #[arg(long, value_name = "MODEL")]
        base: PathBuf,
        /// Folder to write; it appears whole or not at all
        #[arg(short, long, value_name = "DIR")]
        output: PathBuf,
        #[command(flatten)]
        given: Given<Applying>,
        #[command(flatten)]
        show: Show,
    },
    /// Take a LoRA adapter out of a fine-tuned model: the best factors of what it differs by from its base
    #[command(after_help = "\
Examples:
  mwa extract tuned --base models/llama --rank 32 -o tuned-lora
  mwa extract tuned --base models/llama --rank auto --error 0.05 -o tuned-lora

What is left over is shown for each module: the share of the difference that its factors do not hold.")]
    Extract {
        /// The fine-tuned model: a folder, or a file
        #[arg(value_name = "TUNED")]
        tuned: PathBuf,
        /// The model that it was trained from
        #[arg(long, value_name = "MODEL")]
        base: PathBuf,
        /// The rank of the factors; auto takes for each module the smallest that leaves over no more than --error
        #[arg(long, value_name = "R|auto", allow_negative_numbers = true)]
        rank: String,
        /// With rank auto, the share of a module's difference (Frobenius norm) that may be left over [default: 0.05]
        #[arg(long, value_name = "SHARE", allow_negative_numbers = true)]
        error: Option<f64>,
        /// What the adapter calls its base, such as a hub id [default: as the base's config.json does, or its path]
        #[arg(long, value_name = "NAME")]
        base_name: Option<String>,
        /// Folder to write; it appears whole or not at all
        #[arg(short, long, value_name = "DIR")]
        output: PathBuf,
        #[command(flatten)]
        given: Given<Extracting>,
        #[command(flatten)]
        show: Show,
    },
    /// Keep what several models learned of one base as one vector and a bit of each element and model, and give each of them back
    #[command(after_help = "\
Examples:
  mwa masks math-model code-model --base base-model -o kept
  mwa masks apply kept --task math-model -o math-again

After TALL masks (arXiv 2405.07813): a bit is set where what a model changed is larger than
λ times what the others changed together. A model comes back as the base and what its bits
keep of the sum of all.")]
    Masks {
        /// Models that were trained from one base; or `apply` and the folder that was written of them
        #[arg(required = true, value_name = "MODEL")]
        inputs: Vec<PathBuf>,
        /// The model that they were trained from; with apply, where it is now
        #[arg(long, value_name = "MODEL")]
        base: Option<PathBuf>,
        /// λ of all models, or of each: the smaller, the more of their bits are set [default: 0.4]
        #[arg(
            long,
            alias = "mask-lambda",
            value_name = "L,L,…",
            value_delimiter = ',',
            allow_hyphen_values = true
        )]
        lambda: Option<Vec<f64>>,
        /// With apply, which of the models
        #[arg(long, value_name = "NAME")]
        task: Option<String>,
        /// Folder to write; it appears whole or not at all
        #[arg(short, long, value_name = "DIR")]
        output: PathBuf,
        /// Threads [default: one per core]
        #[arg(long, value_name = "N")]
        threads: Option<usize>,
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
    /// Print a manual page, or write all of them
    #[command(after_help = "\
Examples:
  mwa man merge | man -l -
  mwa man --output ~/.local/share/man/man1    then: man mwa-merge")]
    Man {
        /// The command that the page is about; without it the program
        #[arg(value_name = "COMMAND")]
        command: Option<String>,
        /// Write the pages of all commands into this folder
        #[arg(short, long, value_name = "DIR", conflicts_with = "command")]
        output: Option<PathBuf>,
    },
}

/// What is merged.
#[derive(Args)]
pub(crate) struct Inputs {
    /// A run folder, checkpoint folders, or files with weights
    #[arg(required = true, value_name = "RUN|CHECKPOINT|FILE")]
    pub(crate) inputs: Vec<PathBuf>,
}

/// For programs that watch.
#[derive(Args, Clone)]
pub(crate) struct Lines {
    /// A line a second: bytes, GB/s, what is waited for
    #[arg(long, value_name = "AS", value_parser = ["json"])]
    pub(crate) progress: Option<String>,
}

/// For whoever makes mwa faster.
#[derive(Args, Clone, Copy)]
pub(crate) struct Timings {
    /// Show where the time went, summed over threads
    #[arg(long, hide = true)]
    pub(crate) timings: bool,
}

/// What a federated round is told.
#[derive(Args)]
#[command(next_help_heading = "Round")]
pub(crate) struct Round {
    /// The samples of each client, in the order of the files, or of their names in the folder
    #[arg(long, value_name = "N,N,…", value_delimiter = ',', allow_hyphen_values = true)]
    samples: Option<Vec<f64>>,
    /// How many rounds ago each client was sent its model, in the same order
    #[arg(long, value_name = "T,T,…", value_delimiter = ',', allow_hyphen_values = true)]
    staleness: Option<Vec<f64>>,
    /// A file that tells all that [default: manifest.json in the folder]: {"clients": [{"client", "file", "samples",
    /// "staleness", "time", "sent"}]}
    #[arg(long, value_name = "FILE")]
    manifest: Option<PathBuf>,
    /// How samples and staleness become weights [default: fedavg]
    #[arg(long, value_name = "RULE", value_parser = Rules)]
    rule: Option<String>,
    /// What staleness takes: constant (nothing), polynomial[:A] or hinge[:A,B] [default: constant]
    #[arg(long, value_name = "HOW")]
    discount: Option<String>,
    /// Leave out clients that are staler than this
    #[arg(long, value_name = "T")]
    max_staleness: Option<f64>,
    /// The time of a round, in the unit of the clients' times, for fedfix
    #[arg(long, value_name = "T")]
    period: Option<f64>,
    /// The model of this round, which clients were sent
    #[arg(long, value_name = "MODEL")]
    base: Option<PathBuf>,
    /// The model before it, for momentum
    #[arg(long, value_name = "MODEL")]
    previous: Option<PathBuf>,
    /// The share of the last step that is taken again
    #[arg(long, value_name = "B", allow_negative_numbers = true)]
    momentum: Option<f64>,
    /// How far the model moves, as a share of the clients' mean update [default: 1; 0.1 with adam]
    #[arg(long, value_name = "R", visible_alias = "server-lr", allow_negative_numbers = true)]
    server_rate: Option<f64>,
    /// The server's optimizer, whose moments lie beside the model that it makes (FedAdam)
    #[arg(long, value_name = "OPTIMIZER", value_parser = PossibleValuesParser::new(["adam"]))]
    server: Option<String>,
    /// What adam keeps of the mean of updates [default: 0.9]
    #[arg(long, value_name = "B", allow_negative_numbers = true)]
    beta1: Option<f64>,
    /// What adam keeps of the mean of their squares [default: 0.99]
    #[arg(long, value_name = "B", allow_negative_numbers = true)]
    beta2: Option<f64>,
    /// Below which adam does not blow small updates up [default: 0.001]
    #[arg(long, value_name = "T", allow_negative_numbers = true)]
    tau: Option<f64>,
    /// adam's moments [default: mwa-server.safetensors beside the base, if it is there]
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,
    /// Write an exact sum of the clients, to be combined with those of others: `mwa aggregate SUM SUM -o OUT`
    #[arg(long)]
    partial: bool,
    /// The largest norm of a client's update; larger ones are scaled down to it
    #[arg(long, value_name = "NORM", allow_negative_numbers = true)]
    clip: Option<f64>,
}

impl From<Round> for RoundOptions {
    fn from(round: Round) -> Self {
        let Round { samples, staleness, manifest, rule, discount, max_staleness, .. } = round;
        let Round { period, base, previous, momentum, server_rate, clip, .. } = round;
        let Round { server, beta1, beta2, tau, state, partial, .. } = round;
        Self {
            samples,
            staleness,
            manifest,
            rule,
            discount,
            max_staleness,
            period,
            base,
            previous,
            momentum,
            server_rate,
            server,
            beta1,
            beta2,
            tau,
            state,
            partial,
            clip,
        }
    }
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
    /// Print all notes, not only the first
    #[arg(short, long, conflicts_with = "quiet")]
    pub(crate) verbose: bool,
}

/// A verb whose options are rows of the table.
pub(crate) trait HasOptions {
    const VERB: Verb;
}

macro_rules! verbs {
    ($($name:ident = $verb:ident),+) => {
        $(
            pub(crate) enum $name {}
            impl HasOptions for $name {
                const VERB: Verb = Verb::$verb;
            }
        )+
    };
}

verbs!(
    Merging = Merge,
    Searching = Search,
    Weighing = Weights,
    Inspecting = Inspect,
    Verifying = Verify,
    Aggregating = Aggregate,
    Applying = Apply,
    Extracting = Extract
);

/// The options of a verb as they were given.
pub(crate) struct Given<V> {
    pub(crate) options: mwa::Options,
    /// Those of a search, if it is one.
    pub(crate) search: SearchOptions,
    /// As they were given, by the names of the table.
    pub(crate) json: Map<String, Json>,
    /// As paths, which need not be text, by the names of their options.
    paths: Vec<(&'static str, PathBuf)>,
    verb: PhantomData<V>,
}

fn rows(verb: Verb) -> impl Iterator<Item = &'static Row> {
    SEARCH_OPTIONS.iter().chain(OPTIONS).filter(move |row| row.is_on_face(Face::CommandLine, verb))
}

impl<V: HasOptions> Args for Given<V> {
    fn augment_args(command: clap::Command) -> clap::Command {
        command.args(rows(V::VERB).map(|row| argument(row, V::VERB)))
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

fn argument(row: &'static Row, verb: Verb) -> Arg {
    let usual = row.usual_of(verb);
    let help = match row.kind {
        Kind::Switch => row.help().to_owned(),
        _ if usual.is_empty() => row.help().into(),
        _ => format!("{} [default: {usual}]", row.help()),
    };
    let excluded = row.excludes().iter().filter(|name| rows(verb).any(|row| row.name == **name));
    // clap keeps names for as long as the program runs
    let flag: &str = row.flag_of(verb).leak();
    let argument = Arg::new(row.name).long(flag).help(help).conflicts_with_all(excluded);
    // Python has another use for the word
    let argument = if row.name == "mask_lambda" { argument.alias("lambda") } else { argument };
    let argument = match row.facts.about {
        About::Output | About::Machine => argument,
        about => argument.help_heading(about.name()),
    };
    let argument = match row.kind {
        Kind::Switch => return argument.action(ArgAction::SetTrue),
        Kind::Path => argument.value_parser(clap::value_parser!(PathBuf)),
        Kind::Word(words) => argument.value_parser(PossibleValuesParser::new(words)),
        Kind::Numbers => argument.allow_hyphen_values(true).value_parser(move |text: &str| value(row, text)),
        Kind::Number(_) | Kind::Count | Kind::Whole | Kind::Bytes | Kind::Size | Kind::Rank => {
            argument.allow_negative_numbers(true).value_parser(move |text: &str| value(row, text))
        }
        _ => argument.value_parser(move |text: &str| value(row, text)),
    };
    argument.value_name(row.facts.value)
}

impl<V: HasOptions> FromArgMatches for Given<V> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut given = Map::new();
        let mut paths = Vec::new();
        for row in rows(V::VERB) {
            let name = row.name;
            let value = match row.kind {
                Kind::Switch => matches.get_flag(name).then(|| Json::Bool(true)),
                Kind::Path => {
                    let path = matches.get_one::<PathBuf>(name);
                    paths.extend(path.map(|path| (name, path.clone())));
                    path.map(|path| Json::from(path.to_string_lossy()))
                }
                Kind::Word(_) => matches.get_one::<String>(name).map(|word| Json::from(word.as_str())),
                _ => matches.get_one::<Json>(name).cloned(),
            };
            given.extend(value.map(|value| (name.to_owned(), value)));
        }
        let (options, search) = SearchOptions::split(&given).map_err(|error| {
            let help = error.advice().map_or_else(String::new, |help| format!("; {help}"));
            clap::Error::raw(clap::error::ErrorKind::ValueValidation, format!("{error}{help}\n"))
        })?;
        Ok(Self { options, search, json: given, paths, verb: PhantomData })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl<V> Given<V> {
    /// Which of `inputs`, and how they are weighed.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] for a penalty or weights that suit no checkpoints at all.
    pub(crate) fn choosing(&self, inputs: Vec<PathBuf>) -> mwa::Result<Options> {
        let options = Options::new(inputs, &self.options).map_err(|error| {
            Error::new(ErrorKind::Usage, error.detail().to_owned())
                .help(error.advice().unwrap_or_default().to_owned())
        })?;
        let path = |name| self.paths.iter().find(|(of, _)| *of == name).map(|(_, path)| path.clone());
        Ok(Options { metrics_file: path("metrics_file"), weights_file: path("weights_file"), ..options })
    }

    /// How the merge is done.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] for options of product space without it.
    pub(crate) fn merging(&self) -> mwa::Result<MergeOptions> {
        MergeOptions::new(&self.options)
    }
}

/// The rules of a round; what is no rule but the server's step is told its own option.
#[derive(Clone)]
struct Rules;

impl TypedValueParser for Rules {
    type Value = String;

    fn parse_ref(
        &self,
        command: &clap::Command,
        arg: Option<&Arg>,
        value: &OsStr,
    ) -> Result<String, clap::Error> {
        let names = PossibleValuesParser::new(mwa::federated::Rule::NAMES);
        if value
            .to_str()
            .is_some_and(|text| ["fedadam", "adam", "fedopt"].contains(&text.to_ascii_lowercase().as_str()))
        {
            let text = "invalid value for '--rule <RULE>': the server's step is no rule of weights\n\n  tip: FedAdam is --server adam, with any rule\n";
            return Err(clap::Error::raw(clap::error::ErrorKind::InvalidValue, text).with_cmd(command));
        }
        names.parse_ref(command, arg, value)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new(mwa::federated::Rule::NAMES.into_iter().map(PossibleValue::new)))
    }
}

fn share(text: &str) -> Result<Share, String> {
    text.parse().map_err(|error: Error| error.detail().to_owned())
}

fn file_size(text: &str) -> Result<u64, String> {
    FileSize::parse(text).map(|size| size.0).ok_or_else(|| format!("it must be {}", Kind::Size))
}

/// The value of an option as JSON; or what it must be.
fn value(row: &Row, text: &str) -> Result<Json, String> {
    let number = |text: &str| text.parse().ok().and_then(serde_json::Number::from_f64).map(Json::from);
    let whole = |text: &str| text.parse::<u64>().ok().map(Json::from);
    let value = match row.kind {
        Kind::Count | Kind::Whole => whole(text),
        Kind::Bytes => Some(size(text)?.into()),
        Kind::Number(_) => number(text),
        Kind::Texts => Some(text.split(',').collect::<Vec<_>>().into()),
        Kind::Numbers => text.split(',').map(number).collect::<Option<Vec<_>>>().map(Json::from),
        Kind::Steps => Some(steps(text)?),
        Kind::Rank => whole(text).or_else(|| Some(text.into())),
        Kind::Device => {
            text.parse::<DeviceChoice>().map_err(|error| error.detail().to_owned())?;
            Some(text.into())
        }
        _ => Some(text.into()),
    };
    let fits = |value: &Json| row.fits(value);
    value.filter(fits).ok_or_else(|| format!("it must be {}", row.kind))
}

fn steps(text: &str) -> Result<Json, String> {
    let (from, to) = text.split_once("..").ok_or("write a range, such as 500..1000, 500.. or ..1000")?;
    let end = |part: &str| match part {
        "" => Ok(None),
        part => part.parse::<u64>().map(Some).map_err(|error| format!("`{part}`: {error}")),
    };
    match (end(from)?, end(to.trim_start_matches('='))?) {
        (Some(from), Some(to)) if from > to => Err(format!("the range is empty: {from} is after {to}")),
        (from, to) => Ok(Json::from(vec![Json::from(from), Json::from(to)])),
    }
}

/// Bytes of memory: `64M`, `1.5G`, or as Kubernetes writes it, `512Mi`; all are powers of two.
fn size(text: &str) -> Result<u64, String> {
    let number = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = text[number.len()..].to_ascii_lowercase();
    let bare = unit.strip_suffix('b').unwrap_or(&unit);
    let shift = match bare.strip_suffix('i').unwrap_or(bare) {
        "" if bare.is_empty() => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        _ => return Err(format!("`{unit}` is not a unit; use K, M, G or T, also as Mi or MiB")),
    };
    let wrong = || format!("`{text}` is no size, such as 64M, 512Mi or 1.5G");
    let (whole, part) = number.split_once('.').unwrap_or((number, "0"));
    let digits = |text: &str| text.parse::<u64>().ok().filter(|_| !text.starts_with('+')).ok_or_else(wrong);
    let whole = digits(whole)?.checked_mul(1 << shift).ok_or("it is too large")?;
    if !part.bytes().all(|digit| digit.is_ascii_digit()) {
        return Err(wrong());
    }
    // as many digits as any unit has
    let part = &part[..part.len().min(13)];
    let scale = 10_u128.pow(u32::try_from(part.len()).unwrap_or_default());
    let part = (u128::from(digits(part)?) << shift) / scale;
    let bytes = whole.checked_add(u64::try_from(part).map_err(|_| wrong())?).ok_or("it is too large")?;
    if bytes == 0 { Err("it must be more than 0 bytes".into()) } else { Ok(bytes) }
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
        assert_eq!(steps("500..1000"), Ok(Json::from(vec![500, 1000])));
        assert_eq!(steps("500..").unwrap().to_string(), "[500,null]");
        assert!(steps("9..1").is_err());
        assert!(steps("9").is_err());
        assert_eq!(size("64M"), Ok(64 << 20));
        assert_eq!(size("1GiB"), Ok(1 << 30));
        assert_eq!(size("17"), Ok(17));
        for (text, bytes) in [
            ("64Mi", 64 << 20),
            ("512Ki", 512 << 10),
            ("1Gi", 1 << 30),
            ("1.5G", 3 << 29),
            ("0.25MiB", 1 << 18),
            ("1.9", 1),
            ("2tb", 2 << 40),
        ] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for wrong in [
            "1.ééééééé",
            "1X",
            "1i",
            "iB",
            "",
            ".5G",
            "1.G",
            "1.5.5G",
            "-1M",
            "+1M",
            "1.+5M",
            "1ii",
            "1e3",
            "99999999999T",
        ] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
        assert_eq!(size("0"), Err("it must be more than 0 bytes".into()));
        assert_eq!(size("0.0G"), size("0"));
    }

    #[test]
    fn no_number_slips_through_as_nothing() {
        let row = OPTIONS.iter().find(|row| row.name == "penalty").unwrap();
        for wrong in ["NaN", "inf", "1e999", "x", ""] {
            assert_eq!(value(row, wrong), Err("it must be a number".into()), "{wrong}");
        }
    }
}
