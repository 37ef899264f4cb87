#!/usr/bin/env node
/** `npx mwa-merge`: the command line's `merge` and `weights`, without a native binary. */
import { parseArgs } from "node:util";
import { version } from "./wasm/mwa.js";
import { load } from "./core.js";
import { MergeError } from "./error.js";
import { mergeRun, weighRun, type MergeRunOptions, type WeighRunOptions } from "./node.js";
import type { Report, WeighedInput } from "./types.js";

const HELP = `\
Merge the checkpoints of a training run into one, each weighted by a metric it logged

  mwa-merge merge RUN|CHECKPOINT|FILE… -o DIR    merge into DIR, which appears whole or not at all
  mwa-merge weights RUN|…                        the same choice and weights as a table; writes nothing

Selection  --last N  --every K  --steps A..B  --top N  --adapter NAME  --drop-bad
Metric     --metric NAME  --metrics-file FILE  --goal min|max  --smooth STEPS  --metric-tolerance STEPS  --strict-metrics
Weights    --scheme linear|power|exponential|rank|uniform  --penalty P  --weights W,W,…
Merge      -o, --output DIR  --dtype keep|f32|bf16|f16  --allow-cross-run  --force  --threads N  --device auto|cpu|gpu  --no-residual
Products   --space factors|product  --rank R|auto|full  --energy E  --strict
Print      --json  -q, --quiet

They mean what they mean to the native mwa, which also inspects and verifies.
Exit codes: 0 done, 1 failed, 2 wrong usage.
`;

const text = { type: "string" } as const;
const flag = { type: "boolean" } as const;
const WEIGHING = {
  last: text, every: text, steps: text, top: text, adapter: text, "drop-bad": flag, metric: text, "metrics-file": text, goal: text,
  smooth: text, "metric-tolerance": text, "strict-metrics": flag, scheme: text, penalty: text, weights: text,
  json: flag, quiet: { ...flag, short: "q" }, help: { ...flag, short: "h" }, version: { ...flag, short: "V" },
} as const; // prettier-ignore
const MERGING = {
  ...WEIGHING, output: { ...text, short: "o" }, dtype: text, "allow-cross-run": flag, force: flag, threads: text, device: text,
  space: text, rank: text, energy: text, strict: flag, "no-residual": flag,
} as const; // prettier-ignore
type Given = ReturnType<typeof parseArgs<{ options: typeof MERGING; allowPositionals: true }>>["values"];

const usage = (message: string) => new MergeError("usage", message, "see mwa-merge --help");

async function main(): Promise<number> {
  const [command, ...rest] = process.argv.slice(2);
  const isMerge = command === "merge";
  const args = isMerge || command === "weights" ? rest : process.argv.slice(2);
  let given: Given;
  let inputs: string[];
  try {
    const parsed = parseArgs({ args, options: isMerge ? MERGING : WEIGHING, allowPositionals: true });
    [given, inputs] = [parsed.values as Given, parsed.positionals];
  } catch (error) {
    throw usage((error as Error).message);
  }
  if (given.help) return print(HELP);
  if (given.version) return load().then(() => print(`mwa-merge ${version()}\n`));
  if (args !== rest) throw usage(command === undefined ? "no command" : `there is no command \`${command}\``);
  if (inputs.length === 0) throw usage("no run, checkpoint or file");
  if (!isMerge) return weights(inputs, given);
  if (given.output === undefined) throw usage("no output: give -o DIR");
  return merge(inputs, given.output, given);
}

async function merge(inputs: string[], out: string, given: Given): Promise<number> {
  const stop = new AbortController();
  process.once("SIGINT", () => stop.abort());
  const began = performance.now();
  const options: MergeRunOptions = { ...weighing(given), ...merging(given), signal: stop.signal };
  const report = await mergeRun(inputs, out, options);
  if (given.json) return print(`${JSON.stringify(report, null, 2)}\n`);
  note(given, report.notes);
  if (given.quiet) return 0;
  const seconds = ((performance.now() - began) / 1000).toFixed(2);
  const files = report.outputs.map(({ name, bytes, sha256 }) => `  ${name}  ${bytes} bytes  sha256 ${sha256}\n`);
  return print(`${table(report)}merged ${report.inputs.length} checkpoints into ${out} in ${seconds} s\n${files.join("")}`);
}

async function weights(inputs: string[], given: Given): Promise<number> {
  const found = await weighRun(inputs, weighing(given));
  if (given.json) return print(`${JSON.stringify(found, null, 2)}\n`);
  note(given, found.notes);
  return given.quiet ? 0 : print(`${table(found)}weights: ${found.description}\n`);
}

/** What is set of `values`. */
function set<T extends object>(values: { [K in keyof T]: T[K] | undefined }): T {
  return Object.fromEntries(Object.entries(values).filter(([, value]) => value !== undefined)) as T;
}

/** Options of `weighRun`; words are judged there. */
function weighing(given: Given): WeighRunOptions {
  const count = (name: "last" | "every" | "top" | "metric-tolerance", least: number) => {
    const value = number(name, given[name]);
    if (value === undefined || (Number.isSafeInteger(value) && value >= least)) return value;
    throw usage(`--${name}: ${given[name]} is not a whole number of at least ${least}`);
  };
  return set<Record<string, unknown>>({
    last: count("last", 1), every: count("every", 1), steps: steps(given.steps), top: count("top", 1), adapter: given.adapter,
    dropBad: given["drop-bad"], metric: given.metric, metricsFile: given["metrics-file"], goal: given.goal,
    smooth: number("smooth", given.smooth), tolerance: count("metric-tolerance", 0), strictMetrics: given["strict-metrics"],
    scheme: given.scheme, penalty: number("penalty", given.penalty), weights: given.weights?.split(",").map((weight) => number("weights", weight)!),
  }) as WeighRunOptions; // prettier-ignore
}

function merging(given: Given): MergeRunOptions {
  const threads = number("threads", given.threads);
  if (threads !== undefined && !(Number.isSafeInteger(threads) && threads >= 0)) throw usage(`--threads: ${given.threads} is no number of threads`);
  const { device } = given;
  if (device !== undefined && !["auto", "cpu", "gpu"].includes(device)) throw usage(`--device: \`${device}\` is no device; use auto, cpu or gpu`);
  const { dtype, space, strict, force, "allow-cross-run": allowCrossRun } = given;
  const residual = given["no-residual"] ? false : undefined;
  const options = { device, dtype, allowCrossRun, force, threads, space, rank: rank(given.rank), energy: number("energy", given.energy), strict, residual };
  return set<Record<string, unknown>>(options) as MergeRunOptions;
}

function rank(given: string | undefined): number | "auto" | "full" | undefined {
  if (given === undefined || given === "auto" || given === "full") return given;
  if (/^[1-9]\d*$/.test(given)) return Number(given);
  throw usage(`--rank: \`${given}\` is no rank; use a number, auto or full`);
}

function number(name: string, given: string | undefined): number | undefined {
  if (given === undefined || (given.trim() !== "" && Number.isFinite(Number(given)))) return given === undefined ? given : Number(given);
  throw usage(`--${name}: \`${given}\` is no number`);
}

function steps(given: string | undefined): [number, number] | undefined {
  if (given === undefined) return undefined;
  const ends = /^(\d*)\.\.=?(\d*)$/.exec(given);
  if (!ends) throw usage(`--steps: \`${given}\` is no range; write 500..1000, 500.. or ..1000`);
  return [Number(ends[1] || 0), Number(ends[2] || Number.MAX_SAFE_INTEGER)];
}

function table({ inputs, weighting }: Pick<Report, "inputs" | "weighting">): string {
  const label = ({ name }: WeighedInput) => name.split("/").at(-1)!;
  const cells = inputs.map((input) => [label(input), `${input.step ?? "–"}`, input.metric?.toPrecision(5) ?? "–", input.weight.toFixed(4)]);
  const rows = [["checkpoint", "step", weighting.metric ?? "metric", "weight"], ...cells];
  const widths = rows[0]!.map((_, i) => Math.max(...rows.map((row) => row[i]!.length)));
  return rows.map((row) => `${row.map((cell, i) => (i === 0 ? cell.padEnd(widths[i]!) : cell.padStart(widths[i]!))).join("  ")}\n`).join("");
}

function print(said: string): number {
  process.stdout.write(said);
  return 0;
}

function note({ quiet }: Given, notes: string[]): void {
  if (!quiet) for (const text of notes) process.stderr.write(`note: ${text}\n`);
}

process.stdout.on("error", () => process.exit(0)); // a reader that went away is no failure
try {
  process.exitCode = await main();
} catch (error) {
  const { kind, message, help } = error as Partial<MergeError> & Error;
  if (process.argv.includes("--json")) process.stdout.write(`${JSON.stringify({ error: { ...(error as object), message } }, null, 2)}\n`);
  process.stderr.write(`error: ${message}\n${help ? `help: ${help}\n` : ""}`);
  process.exitCode = kind === "usage" ? 2 : kind === "stopped" ? 130 : 1;
}
