/** What a run, a weighing and a merge say of themselves. */
import type { ErrorKind } from "./error.js";

export type { WeighOptions } from "./options.js";

/** A checkpoint that can be merged. */
export interface Checkpoint {
  /** Its path: how options, messages and reports call it. */
  name: string;
  /** The last part of the name. */
  label: string;
  /** The folder of its run; empty for a loose file. */
  run: string;
  /** Its training step, if its name tells. */
  step: number | null;
  /** Bytes of its files with weights. */
  bytes: number;
  tensors: number;
  parameters: number;
  dtypes: string[];
  /** PEFT's method (`LORA`, …); null for a whole model. */
  method: string | null;
  rank: number | null;
  baseModel: string | null;
  /** Mean cosine of its A factors with those of the checkpoint before: near 1 within a run, near 0 between runs. */
  cosineToPrevious: number | null;
}

/** A checkpoint of a run that cannot be opened. */
export interface BrokenCheckpoint {
  name: string;
  kind: ErrorKind;
  message: string;
  help: string | null;
}

/** A metric that the logs hold. */
export interface MetricInfo {
  name: string;
  /** Whether lower or higher is better, as far as the name gives it away. */
  goal: "min" | "max" | null;
  /** How many of the checkpoints have a value. */
  covered: number;
}

/** One metric over the steps of one run; a value that is not finite is null. */
export interface Curve {
  run: string;
  points: [step: number, value: number | null][];
}

/** What a metric says of one checkpoint. */
export interface Reading {
  checkpoint: string;
  /** `flagged`: a value that does not cover the checkpoint's own step; `bad`: it must not be averaged. */
  state: "read" | "flagged" | "missing" | "bad";
  value?: number;
  /** Where the value comes from, or why there is none. */
  source: string;
}

/** What a metric says of every checkpoint of a run. */
export interface Readings {
  metric: string;
  goal: "min" | "max";
  readings: Reading[];
  notes: string[];
}

/** One input of a merge. */
export interface WeighedInput {
  name: string;
  path: string;
  step: number | null;
  metric?: number;
  /** Where the metric's value comes from. */
  source?: string;
  /** Its share; all shares sum to 1. */
  weight: number;
  /** Of a scheme by steps: the share that is left of the updates since the checkpoint before. */
  update?: number;
  /** `base`, of which the other inputs are tasks. */
  role?: "base";
  files?: HashedFile[];
}

/** How weights came about. */
export interface Weighting {
  scheme: string;
  /** What becomes of the values of an element, unless it is their weighted mean. */
  method?: string;
  penalty?: number;
  metric?: string;
  goal?: "min" | "max";
  /** What else the scheme was told, by the names of the command line's options with `_` for `-`. */
  settings?: Record<string, string>;
}

/** Some modules, and their weights. */
export interface Group {
  /** The pattern that fits their names. */
  modules: string;
  /** The layer that they are in, where a gradient gives each its own weights. */
  layer?: number;
  /** One per input; they sum to 1. */
  weights: number[];
  /** How many modules these are. */
  count: number;
}

/** How several metrics order the inputs. */
export interface Ranking {
  combine: "borda" | "kemeny" | "mean-rank" | "z-score";
  /** Value and rank of each input, 0 for the best. */
  metrics: { name: string; goal: "min" | "max"; values: number[]; ranks: number[] }[];
  /** The rank of each input in the combined order. */
  ranks: number[];
  /** Of so many comparisons, each of two inputs by one metric, … */
  comparisons: number;
  /** … the combined order goes against so many. */
  disagreements: number;
}

/** Which checkpoints were taken, and why. */
export interface Selected {
  /** `best` or `last` by a rule; `all`; `given`: as they were selected or listed. */
  rule: string;
  taken: number;
  /** Of how many that were found. */
  found: number;
  /** All of it in words. */
  line: string;
}

/** A reason to expect little of a merge, or of its weights. */
export interface Advice {
  about: "schedule" | "checkpoints" | "metric" | "residual";
  /** The number behind it. */
  value: number;
  /** What is the matter, and what to do. */
  text: string;
}

/** A file by content. */
export interface HashedFile {
  name: string;
  bytes: number;
  /** BLAKE3 in hex, as `b3sum` prints it. */
  blake3: string;
  /** SHA-256 in hex, in reports of the `mwa` program that was asked for it. */
  sha256?: string;
  /** Of an input in an object store, what tells it from another of its name: a kind, and what the store says. */
  identity?: string;
}

/** How far merged modules are from the average of what the inputs' modules do: ‖result − Σ wγBA‖ / ‖Σ wγBA‖. */
export interface Distance {
  /** Over all modules together. */
  overall: number;
  /** How that was found: exactly, or by random sums. */
  method: "exact" | "sketch";
  /** The standard error of `overall`, where it is an estimate. */
  standard_error?: number;
  /** By module; `rank` is its rank in the output, in product space. */
  modules: { module: string; rank?: number; relative: number; standard_error?: number }[];
}

/** `mwa-report.json`: what was merged, with which weights and why, and the hashes of all of it. */
export interface Report {
  mwa: string;
  selected?: Selected;
  weighting: Weighting;
  ranking?: Ranking;
  /** The weights of modules that have their own, in the order in which they count; all others have those of the inputs. */
  groups?: Group[];
  space: string;
  /** The rank asked for in product space: `inputs`, `full`, `energy SHARE` or a number. */
  rank?: string;
  /** How far the result is from Σ wγBA, the average of what the adapters do. */
  residual?: Distance;
  /** How far quantised weights are off by rounding their average once to codes of new scales; of many, the worst hundred. */
  quantised?: Distance;
  /** How much of what was changed of a base counts by second moments, of each checkpoint; `thresholds` are of v·τ², over the whole model. */
  grafted?: { thresholds?: number[]; kept: number[]; modules: { module: string; kept: number[] }[] };
  dtype: string;
  /** The bytes that an output file has at most, where they were parted anew. */
  shard_size?: number;
  adapter?: string;
  inputs: WeighedInput[];
  outputs: HashedFile[];
  /** What was written beside them and decides what they do: shard index, configs, tokenizer, templates. */
  companions?: HashedFile[];
  advice?: Advice[];
  notes: string[];
}
