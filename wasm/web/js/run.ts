/** Open a run: list the files, read their heads and logs, find the checkpoints. */
import { load } from "./core.js";
import { call, MergeError } from "./error.js";
import { wanted } from "./jobs.js";
import type { Given, Opening } from "./reopen.js";
import { hasRoot, rootOf, said, sources, type Input, type Source } from "./source.js";
import type { Advice, BrokenCheckpoint, Checkpoint, Curve, MetricInfo, Readings, Report, Selected, WeighOptions } from "./types.js";
import { Run as Core, weights as coreWeights } from "./wasm/mwa.js";

/** How a run is opened. */
export interface OpenOptions {
  /** The adapter to take from checkpoints that hold several. */
  adapter?: string;
  /** The model of which the checkpoints are tasks, for the methods over a base: opened as a run is. */
  base?: Input | Iterable<Input>;
  /** Stops the reading. */
  signal?: AbortSignal;
}

/** Reads under way at once while a run is opened. */
const AT_ONCE = 32;

/** Checkpoints and their logs. Only heads and logs have been read; nothing holds the weights. */
export class Run {
  /** In the order given, those of a run by step. */
  readonly checkpoints: Checkpoint[];
  /** Checkpoints of a searched run that cannot be opened. They are left out. */
  readonly broken: BrokenCheckpoint[];
  /** The metrics that the logs hold, those with a known goal first. */
  readonly metrics: MetricInfo[];
  /** What was left out and why. */
  readonly notes: string[];

  /** @internal */
  constructor(
    /** @internal */ readonly core: Core,
    /** @internal */ readonly sources: Source[],
    /** @internal */ readonly given: Given,
    /** @internal */ readonly opening: Opening,
  ) {
    ({ checkpoints: this.checkpoints, broken: this.broken, metrics: this.metrics, notes: this.notes } =
      JSON.parse(core.describe()));
  }

  /** The values of a metric over the steps of each run, as they were logged. */
  curves(metric: string): Curve[] {
    return JSON.parse(this.core.curves(metric));
  }

  /** What the metric of `options` says of every checkpoint found, bad and missing ones too. */
  readings(options: WeighOptions = {}): Readings {
    return JSON.parse(call(() => this.core.readings(wanted(this, options))));
  }
}

/**
 * Open a run folder, several, checkpoints, or single files. Reads their heads and logs only.
 *
 * ```ts
 * const run = await openRun(await showDirectoryPicker());
 * ```
 *
 * @throws {MergeError} what is wrong with the files, and what to do about it
 */
export async function openRun(input: Input | Iterable<Input>, options: OpenOptions = {}): Promise<Run> {
  await load();
  const { adapter, base, signal } = options;
  const { found, ...rest } = await withBase(await sources(listed(input)), base);
  const opening = { adapter, ...rest };
  const core = new Core(found.map(({ path }) => path), Float64Array.from(found, ({ size }) => size), adapter, opening.base, opening.own);
  const given: Given = [];
  try {
    while (!call(() => core.open())) {
      await eachOf(AT_ONCE, triples(core.wants()), async ([file, start, end]) => {
        signal?.throwIfAborted();
        const bytes = await found[file]!.read(start, end - start).catch((error: unknown) => call(() => { throw error; }));
        core.give(file, start, end, bytes);
        given.push({ file, start, end, bytes });
      });
    }
  } catch (error) {
    core.free();
    if (signal?.aborted) throw new MergeError("stopped", "stopped; nothing was opened");
    throw error;
  }
  return new Run(core, found, given, opening);
}

/** The chosen checkpoints and their weights. */
export interface Weighing {
  /** In the order in which they are summed: oldest first. */
  inputs: Report["inputs"];
  weighting: Report["weighting"];
  /** In words: "linear, penalty 0.8, by eval_loss (lower is better)". */
  description: string;
  /** Which checkpoints, and why those. */
  selected: Selected;
  /** Why little is to be expected of the merge, if so. */
  advice: Advice[];
  /** What there is to say: how the metric was chosen, smoothed or flagged. */
  notes: string[];
}

/**
 * Choose and weigh checkpoints. Quick enough to call at every movement of a slider.
 *
 * @throws {MergeError} of kind `metric` or `weights`, naming each checkpoint that is the reason
 */
export function weigh(run: Run, options: WeighOptions = {}): Weighing {
  return JSON.parse(call(() => runOf(run).core.weigh(wanted(run, options))));
}

/** Refuse what is no run, such as one that was not awaited. */
export function runOf(run: Run): Run {
  // of whichever copy of the package
  if (typeof run === "object" && run !== null && "core" in run) return run;
  throw new MergeError("usage", `the run is ${said(run)}, which is not an open run`, "open it first: const run = await openRun(…)");
}

/**
 * Weights of plain numbers, without a run: for a program that has its metrics elsewhere. Await `ready()` first.
 *
 * @throws {MergeError} of kind `weights` or `usage`
 */
export function weights(
  metrics: number[],
  { goal = "min", scheme = "linear", penalty = 0.8 }: { goal?: "min" | "max"; scheme?: WeighOptions["scheme"] | "explicit"; penalty?: number } = {},
): number[] {
  return [...call(() => coreWeights(Float64Array.from(metrics), goal, scheme, penalty))];
}

const listed = (input: Input | Iterable<Input>) => (isIterable(input) ? input : [input]);

/** The files of a run, then those of its base, under a path of their own. */
async function withBase(found: Source[], input: OpenOptions["base"]): Promise<{ found: Source[]; base: string | undefined; own: number }> {
  const own = found.length;
  if (input === undefined) return { found, base: undefined, own };
  let files = await sources(listed(input));
  const [first] = files;
  if (!first) throw new MergeError("input", "the base has no files", "give the folder or the files of the model that the tasks were trained from");
  let base = rootOf(first.path);
  // two folders of one name, of which nothing says where they lie
  const firstOf = (path: string) => path.split("/")[0]!;
  if (!hasRoot(first.path) && found.some(({ path }) => firstOf(path) === base)) {
    files = files.map((file) => ({ ...file, path: `base: ${file.path}` }));
    base = `base: ${base}`;
  }
  return { found: [...found, ...files], base, own };
}

function isIterable(input: Input | Iterable<Input>): input is Iterable<Input> {
  return typeof input === "object" && input !== null && Symbol.iterator in input;
}

function* triples(flat: Float64Array): Generator<[number, number, number]> {
  for (let i = 0; i < flat.length; i += 3) yield [flat[i]!, flat[i + 1]!, flat[i + 2]!];
}

/** Run `work` on all items, at most `atOnce` at a time. */
export async function eachOf<T>(atOnce: number, items: Iterable<T>, work: (item: T) => Promise<void>): Promise<void> {
  const rest = items[Symbol.iterator]();
  const next = async () => {
    for (let item = rest.next(); !item.done; item = rest.next()) await work(item.value);
  };
  await Promise.all(Array.from({ length: atOnce }, next));
}
