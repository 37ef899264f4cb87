/** Search: the core proposes weights, a function of yours scores each merge, and the best is merged for good. */
import { asError, call, MergeError } from "./error.js";
import { named } from "./jobs.js";
import { merge, type Merged, type MergedFile, type MergeOptions } from "./merge.js";
import { toJson, type CoreOptions } from "./options.js";
import { eachOf, runOf, type Run } from "./run.js";
import { said } from "./source.js";
import { spoken } from "./speech.js";
import type { Search as Core } from "./wasm/mwa.js";

/** A score, and how sure it is. */
export interface Score {
  score: number;
  /** Its standard error. */
  error?: number;
  /** Of how many answers it is the share that was right. */
  questions?: number;
}

/** What is known of a candidate besides its files. */
export interface Candidate {
  /** The number of its trial, from 1 on. */
  number: number;
  /** Where its weights come from. */
  by: string;
  /** One per checkpoint, oldest first; those of one group after the other, where there are groups. */
  weights: number[];
  signal: AbortSignal | undefined;
}

/** Scores a merge: its files are those that `merge` gives, as Blobs. What it throws fails that candidate. */
export type Evaluate = (files: MergedFile[], candidate: Candidate) => number | Score | Promise<number | Score>;

/** How weights are searched for, and how candidates are merged. */
export interface SearchOptions extends Omit<CoreOptions, "method" | "goal" | "questions" | "weights" | "dropBad">, Pick<MergeOptions, "output" | "signal" | "threads" | "device"> {
  /** Scores a candidate. */
  evaluate: Evaluate;
  /** Whether lower or higher scores are better. */
  goal: "min" | "max";
  /** Who proposes weights [default: auto]. */
  method?: "auto" | "sweep" | "greedy" | "lcsc" | "cma" | "line" | "plane" | "quadratic";
  /** Search the weights of parts of the model apart: `layers:4` for blocks of four layers, or names of modules, such as `attn,mlp`. */
  groups?: string;
  /** How many weights are tried at most [default: 50]. */
  budget?: number;
  /** Where random numbers begin: the same seed gives the same search [default: 0]. */
  seed?: number;
  /** How many candidates are scored at a time; the result is the same [default: 1]. */
  workers?: number;
  /** Scores are the share of so many answers that were right: how sure they are follows from that. */
  questions?: number;
  /** Whether lower or higher values of the run's metric are better [default: from the metric's name]. */
  metricGoal?: "min" | "max";
  /** Scores the winner and what it is compared with once more, in the end, on other data. */
  holdout?: Evaluate;
  /** Trials of an earlier search of the same checkpoints by the same function, which are not scored again. */
  known?: readonly Trial[];
  /** Hears of each trial that is done: all so far, the best of them, and how many there can be. */
  onTrial?: (trials: Trial[], best: Trial | undefined, budget: number) => void;
}

/** Weights that were tried. */
export interface Trial {
  /** From 1 on. */
  number: number;
  /** Where the weights come from: `last`, `uniform`, `linear 0.4`, `evolution`, …. */
  by: string;
  /** One per checkpoint, oldest first; those of one group after the other, where there are groups. */
  weights: number[];
  /** Its score; undefined where `failed` says why. */
  score?: number;
  /** The standard error of the score, if it is known. */
  standardError?: number;
  failed?: string;
  /** How long the function took. */
  seconds: number;
}

/** The winner, or what it is compared with. */
export interface Compared {
  /** `last`, `best single`, `uniform`, `metric` or `winner`. */
  name: string;
  /** The number of its trial. */
  trial: number;
  score: number | undefined;
  /** Its score on other data. */
  holdout: number | undefined;
}

/** What a search found. */
export interface Searched {
  method: string;
  /** What it did and why, where the method chose by itself. */
  reason: string | undefined;
  goal: "min" | "max";
  seed: number;
  budget: number;
  /** The parts of the model that have weights of their own. */
  groups: string[];
  winner: Trial;
  trials: Trial[];
  compared: Compared[];
  /** What must be said of the winner. */
  doubts: string[];
  /** The merge of the winner. */
  merged: Merged;
}

interface Told {
  method: string;
  reason: string | null;
  goal: "min" | "max";
  seed: number;
  budget: number;
  groups: string[];
}

/**
 * Search for the weights whose merge scores best by your own function, and merge with them. The same seed gives the same search, on every
 * runtime and in the native program, as far as equal weights get equal scores.
 *
 * ```ts
 * const { merged, winner } = await search(run, { evaluate: async (files) => loss(await load(files)), goal: "min", budget: 40, seed: 42 });
 * ```
 *
 * @throws {MergeError} what cannot be searched or merged, and where no candidate can be scored; that one fails is no error
 */
export async function search(run: Run, options: SearchOptions): Promise<Searched> {
  runOf(run);
  if (typeof options?.evaluate !== "function") throw new MergeError("usage", `evaluate is ${said(options?.evaluate)}, which is not a function`, "give a function that scores the files of a merge: evaluate: async (files) => number");
  const { evaluate, holdout, known = [], onTrial, output, signal, threads, device, ...given } = options;
  const { goal, questions, metricGoal, method, groups, budget, seed, workers = 1, ...merging } = given;
  const wanted = { ...merging, ...named(run, merging), goal: metricGoal, scoreGoal: goal, scoreQuestions: questions, searchMethod: method, groups, budget, seed, workers };
  const core: Core = ownNames(() => call(() => run.core.search(toJson(wanted))));
  const pooled = { ...(threads === undefined ? {} : { threads }), ...(device === undefined ? {} : { device }), ...(signal ? { signal } : {}) };
  let last: Promise<unknown> = Promise.resolve();
  /** Merge with the weights of a trial; one after the other, as each takes all threads. */
  const mergeWith = (weights: number[], scheme: string, more: object): Promise<Merged> => {
    const tried = { weights, groups, scheme };
    const mine = last.then(() => merge(run, { ...merging, ...(metricGoal ? { goal: metricGoal } : {}), ...pooled, residual: "off", tried, ...more } as MergeOptions));
    last = mine.catch(() => {});
    return mine;
  };
  try {
    const told: Told = JSON.parse(core.describe());
    const trials: Trial[] = [];
    const best = () => {
      const at = core.winner();
      return at === undefined ? undefined : trials[at];
    };
    const score = async (trial: Trial, by: Evaluate): Promise<Trial> => {
      let files: MergedFile[];
      try {
        ({ files } = await mergeWith(trial.weights, "search", {}));
      } catch (error) {
        // weights beyond the checkpoints may lead beyond the dtype
        if (error instanceof MergeError && ["non-finite", "overflow"].includes(error.kind)) return { ...trial, failed: `cannot be merged: ${error.message}` };
        throw error;
      }
      const began = performance.now();
      const scored = await scoreOf(core, by, files, { number: trial.number, by: trial.by, weights: trial.weights, signal });
      return { ...trial, ...scored, seconds: (performance.now() - began) / 1000 };
    };
    for (let open = core.ask(); open.length > 0; open = core.ask()) {
      for (const at of open) trials[at] = { number: at + 1, by: core.by(at), weights: [...core.weights(at)], seconds: 0 };
      const tell = (at: number, trial: Trial) => {
        trials[at] = trial;
        core.tell(at, trial.score);
        onTrial?.(trials.filter(isDone), best(), told.budget);
      };
      const fresh = [...open].filter((at) => {
        const before = known.find(({ weights }) => isSame(weights, trials[at]!.weights));
        if (before) tell(at, { ...before, number: at + 1, by: trials[at]!.by });
        return !before;
      });
      let failure: unknown;
      await eachOf(workers, fresh, async (at) => {
        if (failure !== undefined) return;
        try {
          tell(at, await score(trials[at]!, evaluate));
          if (core.isHopeless()) throw hopeless(trials.filter((trial) => trial.failed !== undefined));
        } catch (error) {
          failure = error;
        }
      });
      if (failure !== undefined) throw failure;
    }
    const winner = best();
    if (!winner) throw hopeless(trials);
    const rows: [name: string, called: string, at: number][] = JSON.parse(core.compared());
    const compared: Compared[] = rows.map(([name, , at]) => ({ name, trial: at + 1, score: trials[at]!.score, holdout: undefined }));
    const doubts: string[] = JSON.parse(core.doubts(winner.standardError, holdout !== undefined));
    if (holdout) {
      const held = new Map<number, Trial>();
      for (const [, , at] of rows) if (!held.has(at)) held.set(at, await score({ ...trials[at]!, score: undefined, failed: undefined } as never, holdout));
      const own = held.get(winner.number - 1)!;
      for (const [i, [, called, at]] of rows.entries()) {
        const { score: other } = held.get(at)!;
        compared[i]!.holdout = other;
        if (at === winner.number - 1 || own.score === undefined || other === undefined) continue;
        const doubt = core.doubt(called, own.score, other, own.standardError);
        if (doubt !== undefined) doubts.push(`on the holdout, ${doubt}`);
      }
    }
    const scheme = `search by ${told.method}: ${winner.by}, the best of ${trials.length} trials`;
    const note = `weights found by mwa search: method ${told.method}, seed ${told.seed}, ${trials.length} trials, goal ${told.goal}, evaluator a function`;
    const merged = await mergeWith(winner.weights, scheme, {
      residual: merging.residual,
      tried: { weights: winner.weights, groups, scheme, note },
      ...(output ? { output } : {}),
    });
    // the core's words are those of the command line
    const said = doubts.map((doubt) => spoken(doubt.replace("--holdout", "holdout")));
    return { ...told, reason: told.reason ?? undefined, winner, trials, compared, doubts: said, merged };
  } finally {
    core.free();
  }
}

/** The core calls some options otherwise than a search here does: its goal and questions are those of the metric. */
function ownNames<T>(work: () => T): T {
  try {
    return work();
  } catch (error) {
    if (!(error instanceof MergeError)) throw error;
    const own = (text: string) => text.replace(/\boption goal\b/, "option metricGoal").replace(/\bsearchMethod\b/g, "method").replace(/\bscore(Goal|Questions)\b/g, (_, name: string) => name.toLowerCase());
    throw new MergeError(error.kind, own(error.message), error.help && own(error.help), error.file, error.tensor, own(error.detail));
  }
}

/** What a function says of a candidate: its score, or why it failed. */
async function scoreOf(core: Core, evaluate: Evaluate, files: MergedFile[], candidate: Candidate): Promise<Partial<Trial>> {
  let given: number | Score = NaN;
  let failed: unknown;
  try {
    given = await evaluate(files, candidate);
  } catch (error) {
    failed = error ?? "it threw nothing";
  }
  if (candidate.signal?.aborted) throw new MergeError("stopped", "stopped; nothing was written");
  if (failed !== undefined) return { failed: failed instanceof Error ? failed.message : String(failed) };
  const fields = typeof given === "number" ? { score: given } : given;
  const { score } = fields ?? {};
  if (typeof score === "number" && !Number.isFinite(score)) return { failed: `its score is ${score}` };
  try {
    const [value, standardError] = core.score(JSON.stringify(fields ?? null));
    return { score: value!, ...(standardError === undefined ? {} : { standardError }) };
  } catch (why) {
    return { failed: typeof why === "string" ? why : String(asError(why)) };
  }
}

function isDone(trial: Trial | undefined): trial is Trial {
  return trial !== undefined && (trial.score !== undefined || trial.failed !== undefined);
}

/** Whether two vectors weigh alike: rounded to f32, as they multiply checkpoints. */
function isSame(a: readonly number[], b: readonly number[]): boolean {
  return a.length === b.length && a.every((weight, i) => Math.fround(weight) === Math.fround(b[i]!));
}

function hopeless(trials: Trial[]): MergeError {
  const failed = trials.filter((trial) => trial.failed !== undefined);
  const why = failed.at(-1)?.failed ?? "there was none";
  return new MergeError("input", `no score came of the first ${failed.length} candidates: ${why}`, "try the function on the files of a merge, and search when it gives a number");
}
