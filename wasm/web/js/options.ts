/** The options of the core's table, under JavaScript's names. */
import { MergeError } from "./error.js";

// made from core/src/options/mod.rs

/** How checkpoints are chosen and weighed. */
export interface WeighOptions {
  /** The newest N checkpoints. */
  last?: number;
  /** Every K-th checkpoint, counted from the newest. */
  every?: number;
  /** Checkpoints between two steps, both included; either end may be left out. */
  steps?: [first: number | null, last: number | null];
  /** The N checkpoints with the best metric. */
  top?: number;
  /** By a rule: the best by an evaluation or the last, ten, or fewer if the learning rate fell, at most half; or all [default: best of a run that logged evaluations, else last; all that are listed]. */
  select?: "best" | "last" | "all";
  /** Exactly these checkpoints, by name. */
  checkpoints?: string[];
  /** Leave out checkpoints that diverged, instead of failing. */
  dropBad?: boolean;
  /** loss, eval_loss, step or any logged NAME; or several, NAME,NAME:max [default: eval_loss if logged, else step]. */
  metric?: string;
  /** Read the metric from a CSV or JSON Lines table with a column `checkpoint` or `step`: its text. */
  metricsFile?: string;
  /** Whether lower or higher is better [default: from the metric's name]. */
  goal?: "min" | "max";
  /** Of several metrics: the sum of the ranks they give, the order that disagrees the least with all, the mean rank, or scaled values [default: borda]. */
  combine?: "borda" | "kemeny" | "mean-rank" | "z-score";
  /** How many questions an accuracy is the share of: it is told whether chance alone may make the difference. */
  questions?: number;
  /** Average a training metric over this many steps around a checkpoint; 0 interpolates [default: from the log]. */
  smooth?: number;
  /** Take an evaluation that lies up to this many steps away from its checkpoint [default: 0]. */
  metricTolerance?: number;
  /** Fail rather than take a value that was not logged right at a checkpoint. */
  strictMetrics?: boolean;
  /** What becomes of the values of each element: their weighted mean; their median, or their mean without the extremes, so that no bad checkpoint decides; a base model and what tasks changed of it, all of it, what each changed most, of that what most agree on, or all that enough of them have a share in; by the curvature that an optimizer's second moments tell, a mean, or a base with what counts most of what was changed; or by the angles between the checkpoints in each tensor, a base and as much of the mean as they agree, a point on the arc between two, or the mean on a sphere, about a base if there is one [default: mean]. */
  method?: "mean" | "median" | "trimmed-mean" | "task-arithmetic" | "magnitude-mask" | "ties" | "consensus" | "ota" | "ffg" | "model-stock" | "slerp" | "multi-slerp" | "karcher";
  /** How a metric becomes a weight; with decay and ema steps decide, and with flag, krum, multi-krum and geometric-median the tensors, so that no bad checkpoint does [default: linear]. */
  scheme?: "linear" | "power" | "exponential" | "rank" | "decay" | "ema" | "uniform" | "flag" | "krum" | "multi-krum" | "geometric-median";
  /** How hard a worse checkpoint is punished; 0 is the plain mean [default: 0.8]. */
  penalty?: number;
  /** How many bad checkpoints krum and multi-krum expect, or how many values trimmed-mean leaves out on each side [default: one, for these]. */
  outliers?: number;
  /** How much of what tasks changed is added to the base: of task-arithmetic, magnitude-mask and consensus of their sum, of ties of their mean [default: 1 for ties, else 1 over the number of tasks]. */
  scale?: number;
  /** The share of what each task changed that counts for magnitude-mask, ties and ffg, the largest of it [default: 0.2, or 0.1 for ffg]. */
  density?: number;
  /** Whether that is a share of the whole model or of each tensor [default: model]. */
  densityPer?: "model" | "tensor";
  /** Of consensus, how much of what the others changed of an element together a task must exceed to have its share in it [default: 0.4]. */
  maskLambda?: number;
  /** How many tasks must have their share in it; what fewer changed is left as in the base [default: 2]. */
  agree?: number;
  /** How many directions the scheme flag keeps [default: one, for this scheme]. */
  subspace?: number;
  /** With scheme decay, how the learning rate would have fallen [default: linear]. */
  curve?: "linear" | "cosine" | "1-sqrt" | "inverse" | "exponential";
  /** What that curve ends at, as a share of where it begins [default: 0, or 0.1 of the curves inverse and exponential]. */
  floor?: number;
  /** Where on it the checkpoints lie: by their steps, its mean between each two, or as Megatron counts them [default: segments]. */
  positions?: "segments" | "megatron";
  /** Take off such a decay what the logged learning rate had fallen by itself. */
  correctForLr?: boolean;
  /** With scheme ema, how much the average keeps of itself at each checkpoint or step [default: 0.7]. */
  emaDecay?: number;
  /** Which of the two it counts [default: checkpoint]. */
  emaPer?: "checkpoint" | "step";
  /** Of several run folders, each selected and weighed by itself, how much of each [default: all the same]. */
  runWeights?: number[];
  /** Read weights that differ by module: a JSON list of {"modules": "self_attn", "weights": [0.2, 0.8]}: its text. */
  weightsFile?: string;
  /** Your own weights, one per checkpoint, instead of a metric's. */
  weights?: number[];
  /** Average LoRA's factors A and B, or the products B·A that they make; the latter also across runs and ranks [default: factors]. */
  space?: "factors" | "product";
}

/** What is averaged, and into what. */
export interface CoreOptions extends WeighOptions {
  /** Rank of merged products: a number, full (exact, the sum of ranks) or auto [default: the inputs' largest]. */
  rank?: number | "auto" | "full";
  /** With rank auto, the share of the squared norm that each module keeps [default: 0.999]. */
  energy?: number;
  /** Fail where a module that an input lacks would count as zero. */
  strict?: boolean;
  /** How far averaged factors are from the average of their products: exact, sketch (an estimate in a fraction of a merge's time), or off [default: exact if that is quick, else sketch]. */
  residual?: "exact" | "sketch" | "off";
  /** Average the factors of adapters, or the models, that are not of one run. */
  allowCrossRun?: boolean;
  /** Dtype of averaged tensors; keep takes the widest of the inputs [default: keep]. */
  dtype?: "keep" | "f32" | "bf16" | "f16";
  /** Part a model into files of at most this size, such as 5GB, with the index that transformers and diffusers look for [default: the newest checkpoint's files]. */
  shardSize?: number | string;
  /** Let NaN and infinity through instead of failing. */
  allowNonFinite?: boolean;
  /** Write files anew where one checkpoint alone has weight, instead of copying its own. */
  rewrite?: boolean;
}
// end of what is made

/** Options under the core's names, as JSON, which has no NaN and no infinities. */
export function toJson(options: object): string {
  for (const [name, value] of Object.entries(options)) refuseNonFinite(name, value);
  const named = Object.entries(options).map(([name, value]) => [name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`), value]);
  return JSON.stringify(Object.fromEntries(named));
}

/** JSON would make null of them, which is as good as no option at all. */
function refuseNonFinite(name: string, value: unknown): void {
  if (typeof value === "number" && !Number.isFinite(value)) throw new MergeError("usage", `option ${name}: ${value} is not a finite number`, "give a number, or leave the option out");
  if (typeof value !== "object" || value === null) return;
  for (const [inner, one] of Object.entries(value)) refuseNonFinite(Array.isArray(value) ? `${name}[${inner}]` : `${name}.${inner}`, one);
}
