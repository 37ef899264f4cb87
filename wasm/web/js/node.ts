/**
 * Runs on disk, for Node, Deno and Bun: a merge from folder to folder, as the native `mwa` does it.
 *
 * @module
 */
/// <reference lib="dom" preserve="true" />
import "./platform-node.js";
import { readFile, realpath, stat } from "node:fs/promises";
import { relative, sep } from "node:path";
import { disk } from "./disk.js";
import { MergeError } from "./error.js";
import { merge, type MergeOptions } from "./merge.js";
import { openRun, weigh, type Run, type Weighing } from "./run.js";
import { Staging } from "./staging.js";
import type { Report, WeighOptions } from "./types.js";

export { disk } from "./disk.js";
export { MergeError, type ErrorKind } from "./error.js";
export type { DeviceChoice } from "./gpu.js";
export type { MergeOptions, Progress } from "./merge.js";
export type { Weighing } from "./run.js";
export type * from "./types.js";

/** What is on disk beside the options of `weigh`. */
interface OnDisk {
  /** The adapter to take from checkpoints that hold several. */
  adapter?: string;
  /** The path of the model of which the checkpoints are tasks, for the methods over a base. */
  base?: string;
  /** The path of a table of metrics (CSV, JSON or JSON Lines), instead of the run's own logs. */
  metricsFile?: string;
  /** The path of a file of weights that differ by module (JSON). */
  weightsFile?: string;
}

/** How checkpoints on disk are chosen and weighed. */
export type WeighRunOptions = OnDisk & Omit<WeighOptions, "metricsFile" | "weightsFile">;

/** How a run on disk is merged. */
export interface MergeRunOptions extends OnDisk, Omit<MergeOptions, "metricsFile" | "weightsFile" | "output"> {
  /** Replace an earlier merge. */
  force?: boolean;
}

/**
 * Merge a run, or checkpoints, into the folder `out`, which appears whole or not at all: weights, config, tokenizer, card
 * and report, as the native command writes them. Files are read in ranges and written as they are made.
 *
 * ```ts
 * import { mergeRun } from "mwa-merge/node";
 *
 * const report = await mergeRun("runs/my-lora", "merged", { metric: "eval_loss", penalty: 0.8 });
 * ```
 *
 * @param inputs a run folder, a checkpoint folder or a .safetensors file, or several of them
 * @throws {MergeError} what keeps the checkpoints from being averaged or written; nothing is left behind
 */
export async function mergeRun(inputs: string | readonly string[], out: string, options: MergeRunOptions = {}): Promise<Report> {
  if (typeof out !== "string" || out === "") throw new MergeError("usage", "the output is not the path of a folder");
  const { force, adapter, base, metricsFile, weightsFile, ...merging } = options;
  await Staging.check(out, force === true);
  const run = await open(inputs, options);
  try {
    const stamps = await stampsOf(run);
    const texts = await read({ metricsFile, weightsFile });
    const staging = await Staging.begin(out, [...run.checkpoints.map(({ name }) => name), ...(run.opening.base === undefined ? [] : [run.opening.base])], force === true);
    try {
      const { report } = await merge(run, { ...merging, ...texts, output: staging.handle() });
      for (const input of report.inputs) input.path = await wayBetween(staging.target, input.name);
      await staging.rewrite("mwa-report.json", `${JSON.stringify(report, null, 2)}\n`);
      const [changed] = [...(await stampsOf(run))].filter(([file, stamp]) => stamps.get(file) !== stamp);
      if (changed) throw new MergeError("io", `${changed[0]}: changed while it was merged`, "wait until it is finished", changed[0]);
      await staging.publish();
      return report;
    } finally {
      await staging.close();
    }
  } finally {
    run.core.free();
  }
}

/**
 * The same choice and weights as `mergeRun` would take; writes nothing.
 *
 * @throws {MergeError} of kind `metric` or `weights`, naming each checkpoint that is the reason
 */
export async function weighRun(inputs: string | readonly string[], options: WeighRunOptions = {}): Promise<Weighing> {
  const { adapter, base, metricsFile, weightsFile, ...weighing } = options;
  const run = await open(inputs, options);
  try {
    return weigh(run, { ...weighing, ...(await read({ metricsFile, weightsFile })) });
  } finally {
    run.core.free();
  }
}

async function open(inputs: string | readonly string[], { adapter, base, signal }: OnDisk & { signal?: AbortSignal }): Promise<Run> {
  if (base !== undefined && typeof base !== "string") throw new MergeError("usage", `the base is ${JSON.stringify(base)}, which is not a path`);
  const over = base === undefined ? {} : { base: await disk(base) };
  return openRun(await disk(inputs), { ...over, ...(adapter !== undefined && { adapter }), ...(signal && { signal }) });
}

/** The texts of the files at these paths. */
async function read<Name extends string>(paths: Record<Name, string | undefined>): Promise<{ [name in Name]?: string }> {
  const texts: { [name in Name]?: string } = {};
  for (const [name, path] of Object.entries(paths) as [Name, string | undefined][]) {
    if (path === undefined) continue;
    try {
      texts[name] = await readFile(path, "utf8");
    } catch (error) {
      throw new MergeError("io", `${path}: cannot read it: ${(error as Error).message}`, undefined, path);
    }
  }
  return texts;
}

/** Length and time of change of the files with weights. */
async function stampsOf(run: Run): Promise<Map<string, string>> {
  const opened = run.given.map(({ file }) => run.sources[file]!.path.replace(/\/\.(?=\/|$)/, ""));
  const weights = opened.filter((path) => path.endsWith(".safetensors"));
  const stamp = async (file: string) => {
    const { size, mtimeMs } = await stat(file);
    return [file, `${size} ${mtimeMs}`] as const;
  };
  return new Map(await Promise.all([...new Set(weights)].map(stamp)));
}

/** The way from one folder to a path, so that a report stays true when both are moved together. */
async function wayBetween(folder: string, path: string): Promise<string> {
  return relative(folder, await realpath(path)).split(sep).join("/");
}
