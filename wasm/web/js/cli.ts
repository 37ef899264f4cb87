#!/usr/bin/env node
/** `npx mwa-merge`: the command line's `merge` and `weights`, without a native binary. */
import { parseArgs } from "node:util";
import { version } from "./wasm/mwa.js";
import { load } from "./core.js";
import { MergeError } from "./error.js";
import { nearest } from "./near.js";
import { mergeRun, weighRun, type MergeRunOptions, type Progress, type WeighRunOptions } from "./node.js";
import { speech } from "./speech.js";
import type { Report, WeighedInput } from "./types.js";

const HELP = `\
Merge the checkpoints of a training run into one, each weighted by a metric it logged

  mwa-merge merge RUN|CHECKPOINT|FILE… -o DIR    merge into DIR, which appears whole or not at all
  mwa-merge weights RUN|…                        the same choice and weights as a table; writes nothing

Selection  --last N  --every K  --steps A..B  --top N  --select best|last|all  --adapter NAME  --drop-bad
Metric     --metric NAME,…  --combine borda|kemeny|mean-rank|z-score  --questions N  --metrics-file FILE
           --goal min|max  --smooth STEPS  --metric-tolerance STEPS  --strict-metrics
Weights    --method mean|median|trimmed-mean|task-arithmetic|magnitude-mask|ties|consensus|ota|ffg|model-stock|slerp|multi-slerp|karcher
           --base PATH  --scale L
           --density D  --density-per model|tensor  --mask-lambda L  --agree K
           --scheme linear|power|exponential|rank|decay|ema|uniform|flag|krum|multi-krum|geometric-median
           --penalty P  --outliers F  --subspace R  --weights W,W,…
           --curve linear|cosine|1-sqrt|inverse|exponential  --floor R  --positions segments|megatron  --correct-for-lr
           --ema-decay D  --ema-per checkpoint|step  --run-weights V,V,…  --weights-file FILE
Merge      -o, --output DIR  --dtype keep|f32|bf16|f16  --shard-size SIZE  --force  --rewrite  --allow-non-finite  --threads N  --device auto|cpu|gpu
Space      --space factors|product  --rank R|auto|full  --energy E  --strict  --residual exact|sketch|off  --allow-cross-run
Print      --json  -q, --quiet

They mean what they mean to the native mwa, which also inspects and verifies.
Exit codes: 0 done, 1 failed, 2 wrong usage.
`;

const text = { type: "string" } as const;
const flag = { type: "boolean" } as const;
const WEIGHING = {
  last: text, every: text, steps: text, top: text, select: text, adapter: text, "drop-bad": flag, metric: text, "metrics-file": text, goal: text,
  smooth: text, "metric-tolerance": text, "strict-metrics": flag, method: text, "mask-lambda": text, agree: text, scale: text, density: text, "density-per": text, scheme: text, penalty: text, outliers: text, subspace: text, weights: text,
  combine: text, questions: text, curve: text, floor: text, positions: text, "correct-for-lr": flag, "ema-decay": text, "ema-per": text, "run-weights": text, "weights-file": text,
  json: flag, quiet: { ...flag, short: "q" }, help: { ...flag, short: "h" }, version: { ...flag, short: "V" },
} as const; // prettier-ignore
const MERGING = {
  ...WEIGHING, base: text, output: { ...text, short: "o" }, dtype: text, "allow-cross-run": flag, force: flag, threads: text, device: text,
  space: text, rank: text, energy: text, strict: flag, residual: text, rewrite: flag, "allow-non-finite": flag, "shard-size": text,
} as const; // prettier-ignore
type Given = ReturnType<typeof parseArgs<{ options: typeof MERGING; allowPositionals: true }>>["values"];

const usage = (message: string, help = "see mwa-merge --help") => new MergeError("usage", message, help);

/** What the native program can do besides. */
const NATIVE = ["search", "inspect", "verify", "convert", "moments", "aggregate", "recover", "apply", "extract", "masks", "finish", "devices"];

function unknown(command: string): MergeError {
  if (NATIVE.includes(command)) return usage(`\`${command}\` is a command of the native mwa; here there are merge and weights`);
  const near = nearest(command, ["merge", "weights"]);
  return usage(`there is no command \`${command}\``, near ? `did you mean ${near}?` : undefined);
}

/** Options and inputs, as Node takes them apart; what is wrong is told as everything else is. */
function parsed(args: string[], isMerge: boolean): { given: Given; inputs: string[] } {
  const options: Record<string, { type: "string" | "boolean" }> = isMerge ? MERGING : WEIGHING;
  const { tokens, values, positionals } = parseArgs({ args, options, allowPositionals: true, strict: false, tokens: true });
  for (const token of tokens) {
    if (token.kind !== "option") continue;
    const { name, rawName, value, inlineValue } = token;
    const option = Object.hasOwn(options, name) ? options[name] : undefined;
    if (!option && (name in MERGING || rawName === "-o")) throw usage(`${rawName} is an option of merge, not of weights`);
    const near = rawName.startsWith("--") ? nearest(name, Object.keys(options)) : undefined;
    if (!option) throw usage(`there is no option ${rawName}`, near && `did you mean --${near}?`);
    if (option.type === "boolean" && value !== undefined) throw usage(`${rawName} takes no value, but has \`${value}\``);
    // a number may be negative
    const isMissing = value === undefined || (!inlineValue && /^-[^\d.]/.test(value));
    if (option.type === "string" && isMissing) throw usage(`${rawName} has no value`);
  }
  return { given: values as Given, inputs: positionals };
}

async function main(): Promise<number> {
  const [command, ...rest] = process.argv.slice(2);
  const isMerge = command === "merge";
  const args = isMerge || command === "weights" ? rest : process.argv.slice(2);
  const has = (...flags: string[]) => args.slice(0, (args.indexOf("--") + 1 || args.length + 1) - 1).some((arg) => flags.includes(arg));
  if (has("--help", "-h")) return print(HELP);
  if (has("--version", "-V")) return load().then(() => print(`mwa-merge ${version()}\n`));
  if (args !== rest) throw command === undefined || command.startsWith("-") ? usage("no command: begin with merge or weights") : unknown(command);
  const { given, inputs } = parsed(args, isMerge);
  if (inputs.length === 0) throw usage("no run, checkpoint or file");
  if (!isMerge) return weights(inputs, given);
  if (given.output === undefined) throw usage("no output: give -o DIR");
  return merge(inputs, given.output, given);
}

async function merge(inputs: string[], out: string, given: Given): Promise<number> {
  const stop = new AbortController();
  for (const signal of ["SIGINT", "SIGTERM"]) process.once(signal, () => stop.abort());
  const began = performance.now();
  const bar = given.quiet || !process.stderr.isTTY ? undefined : new Bar(process.stderr);
  const options: MergeRunOptions = { ...weighing(given), ...merging(given), signal: stop.signal, onProgress: (progress) => bar?.draw(progress) };
  const report = await mergeRun(inputs, out, options).finally(() => bar?.clear());
  if (given.json) return print(`${JSON.stringify(report, null, 2)}\n`);
  if (given.quiet) return 0;
  const seconds = ((performance.now() - began) / 1000).toFixed(2);
  const files = report.outputs.map(({ name, bytes, blake3 }) => `  ${name}  ${human(bytes)}  blake3 ${blake3}\n`);
  const count = report.inputs.filter(({ role }) => role === undefined).length;
  const read = report.inputs.flatMap(({ files }) => files ?? []).reduce((sum, { bytes }) => sum + bytes, 0);
  const done = `merged ${count} ${count === 1 ? "checkpoint" : "checkpoints"}${read > 0 ? ` (${human(read)})` : ""} into ${out} in ${seconds} s\n`;
  print(`${chosen(report)}${table(report)}${done}${residual(report)}${files.join("")}${advice(report)}`);
  return note(report.notes);
}

async function weights(inputs: string[], given: Given): Promise<number> {
  const found = await weighRun(inputs, weighing(given));
  if (given.json) return print(`${JSON.stringify(found, null, 2)}\n`);
  if (given.quiet) return 0;
  print(`${chosen(found)}${table(found)}weights: ${found.description}\n${advice(found)}`);
  return note(found.notes);
}

/** What is set of `values`. */
function set<T extends object>(values: { [K in keyof T]: T[K] | undefined }): T {
  return Object.fromEntries(Object.entries(values).filter(([, value]) => value !== undefined)) as T;
}

/** Options of `weighRun`; words are judged there. */
function weighing(given: Given): WeighRunOptions {
  const count = (name: "last" | "every" | "top" | "questions" | "metric-tolerance" | "outliers" | "subspace" | "agree", least: number) => {
    const value = number(name, given[name]);
    if (value === undefined || (Number.isSafeInteger(value) && value >= least)) return value;
    throw usage(`--${name}: ${given[name]} is not a whole number of at least ${least}`);
  };
  return set<Record<string, unknown>>({
    last: count("last", 1), every: count("every", 1), steps: steps(given.steps), top: count("top", 1), select: given.select, adapter: given.adapter,
    dropBad: given["drop-bad"], metric: given.metric, combine: given.combine, questions: count("questions", 1), metricsFile: given["metrics-file"], goal: given.goal,
    smooth: number("smooth", given.smooth), metricTolerance: count("metric-tolerance", 0), strictMetrics: given["strict-metrics"],
    curve: given.curve, floor: number("floor", given.floor), positions: given.positions, correctForLr: given["correct-for-lr"],
    emaDecay: number("ema-decay", given["ema-decay"]), emaPer: given["ema-per"],
    weightsFile: given["weights-file"], runWeights: given["run-weights"]?.split(",").map((weight) => number("run-weights", weight)!),
    method: given.method, maskLambda: number("mask-lambda", given["mask-lambda"]), agree: count("agree", 0), scale: number("scale", given.scale), density: number("density", given.density), densityPer: given["density-per"], scheme: given.scheme, penalty: number("penalty", given.penalty), outliers: count("outliers", 0), subspace: count("subspace", 1), weights: given.weights?.split(",").map((weight) => number("weights", weight)!),
  }) as WeighRunOptions; // prettier-ignore
}

function merging(given: Given): MergeRunOptions {
  const threads = number("threads", given.threads);
  if (threads !== undefined && !(Number.isSafeInteger(threads) && threads >= 0)) throw usage(`--threads: ${given.threads} is not a valid number of threads`);
  const { device } = given;
  if (device !== undefined && !["auto", "cpu", "gpu"].includes(device)) throw usage(`--device: \`${device}\` is not a device; use auto, cpu or gpu`);
  const { base, dtype, space, strict, residual, force, rewrite, "allow-cross-run": allowCrossRun, "allow-non-finite": allowNonFinite, "shard-size": shardSize } = given;
  const options = { base, device, dtype, allowCrossRun, allowNonFinite, rewrite, shardSize, force, threads, space, rank: rank(given.rank), energy: number("energy", given.energy), strict, residual };
  return set<Record<string, unknown>>(options) as MergeRunOptions;
}

function rank(given: string | undefined): number | "auto" | "full" | undefined {
  if (given === undefined || given === "auto" || given === "full") return given;
  if (/^[1-9]\d*$/.test(given)) return Number(given);
  throw usage(`--rank: \`${given}\` is not a rank; use a number, auto or full`);
}

function number(name: string, given: string | undefined): number | undefined {
  if (given === undefined || (given.trim() !== "" && Number.isFinite(Number(given)))) return given === undefined ? given : Number(given);
  throw usage(`--${name}: \`${given}\` is not a number`);
}

function steps(given: string | undefined): [number, number] | undefined {
  if (given === undefined) return undefined;
  const ends = /^(\d*)\.\.=?(\d*)$/.exec(given);
  if (!ends) throw usage(`--steps: \`${given}\` is not a range; write 500..1000, 500.. or ..1000`);
  return [Number(ends[1] || 0), Number(ends[2] || Number.MAX_SAFE_INTEGER)];
}

const chosen = ({ selected }: Pick<Report, "selected">) => (selected ? `chosen: ${selected.line}\n` : "");
const advice = ({ advice }: Pick<Report, "advice">) => (advice ?? []).map(({ text }) => `advice: ${text}\n`).join("");

/** How far the result is from the average of what the adapters do, as the native command says it. */
function residual({ residual, space, advice }: Report): string {
  if (!residual) return "";
  const error = residual.standard_error ? ` ± ${percent(residual.standard_error)}` : "";
  const share = `${percent(residual.overall)}${error}`;
  const isNothing = share === "0 %";
  const text = space === "product"
    ? isNothing ? "keeps all of what the adapters do on average" : `at this rank ${share} of what the adapters do on average is lost`
    : isNothing ? "averaging factors is exact here"
    : `averaging factors changes what the adapters do by ${share}, which is ${advice?.some(({ about }) => about === "residual") ? "much: see the advice" : "little"}`; // prettier-ignore
  const worst = residual.modules.reduce((worst, one) => (one.relative >= worst.relative ? one : worst), residual.modules[0]!);
  const most = worst && worst.relative > 0 && !isNothing ? `  (at most ${percent(worst.relative)}, in ${worst.module})\n` : "";
  return `  ${text}\n${most}`;
}

/** Two digits of a share. */
function percent(share: number): string {
  const value = share * 100;
  if (value < 1e-5) return "0 %";
  const decimals = Math.min(Math.max(1 - Math.floor(Math.log10(value)), 0), 6);
  return `${value.toFixed(decimals)} %`;
}

/** `237 kB`, `1.1 GB`. */
function human(bytes: number): string {
  let value = bytes;
  for (const unit of ["B", "kB", "MB", "GB"]) {
    if (value < 999.5) return unit === "B" || value >= 99.95 ? `${value.toFixed(0)} ${unit}` : `${value.toFixed(1)} ${unit}`;
    value /= 1000;
  }
  return `${value.toFixed(1)} TB`;
}

/** The checkpoints, as the native command shows them: name, step, metric and its source, updates, weight with a bar. */
function table({ inputs, weighting }: Pick<Report, "inputs" | "weighting">): string {
  const label = ({ name }: WeighedInput) => tail(name, inputs.map(({ name }) => name));
  const hasMetric = inputs.some(({ metric }) => metric !== undefined);
  const ofMetric = (...cells: string[]) => (hasMetric ? cells : []);
  const updates = (text: (input: WeighedInput) => string, input: WeighedInput) => (input.update === undefined ? [] : [text(input)]);
  const heads = inputs.slice(0, 1).flatMap((input) => updates(() => "update", input));
  const header = ["checkpoint", "step", ...ofMetric(weighting.metric ?? "metric", "from"), ...heads, "weight"];
  const instead = weighting.method === undefined ? undefined : INSTEAD[weighting.method];
  const weight = (input: WeighedInput) => (instead === undefined ? input.weight.toFixed(4) : input.role ? "–" : instead);
  const rows = inputs.map((input) => [
    ...[label(input), `${input.step ?? "–"}`, ...ofMetric(significant(input.metric), input.source ?? "")],
    ...[...updates(({ update }) => update!.toFixed(4), input), weight(input)],
  ]); // prettier-ignore
  const widths = header.map((name, i) => Math.max(name.length, ...rows.map((row) => row[i]!.length)));
  // text leans left, numbers right
  const isText = (i: number) => i === 0 || (hasMetric && i === 3);
  const line = (row: string[]) => row.map((cell, i) => (isText(i) ? cell.padEnd(widths[i]!) : cell.padStart(widths[i]!))).join("  ");
  const taken = widths.reduce((sum, width) => sum + width + 2, 1);
  // a terminal too narrow for the bars would break every line
  const free = Math.min(BAR_WIDTH, (process.stdout.columns ?? taken + BAR_WIDTH) - taken);
  const largest = Math.max(...inputs.map(({ weight }) => Math.abs(weight)));
  const bars = inputs.map(({ weight }) => (free < LEAST_BAR || instead !== undefined ? "" : `  ${eighths(weight, largest, free)}`));
  return `${line(header)}\n${rows.map((row, i) => `${line(row)}${bars[i]}\n`).join("")}`;
}

/** What the table says instead of weights, of methods that ask for none; made from core/src/method/blend.rs. */
const INSTEAD: Record<string, string> = {
  median: "alike",
  "trimmed-mean": "alike",
  "magnitude-mask": "alike",
  ties: "alike",
  consensus: "alike",
  ota: "by moments",
  ffg: "by moments",
  "model-stock": "alike",
};

/** The end of a path that tells it from the others, parts whole. */
function tail(name: string, names: string[]): string {
  const parts = name.split("/");
  const isAlone = (end: string) => names.filter((other) => other === end || other.endsWith(`/${end}`)).length < 2;
  // of several runs it is to be seen whose each is
  const folders = new Set(names.map((other) => other.slice(0, other.lastIndexOf("/") + 1)));
  for (let count = folders.size > 1 ? 2 : 1; count < parts.length; count += 1) {
    const end = parts.slice(-count).join("/");
    if (isAlone(end)) return end;
  }
  return name;
}

/** Widest bar beside a weight, in characters. */
const BAR_WIDTH = 24;
/** A narrower bar shows nothing. */
const LEAST_BAR = 4;

/** Eighths of a block, so that near weights look different; the largest weight is `width` characters. */
function eighths(weight: number, largest: number, width: number): string {
  const count = largest > 0 ? Math.round((Math.abs(weight) / largest) * width * 8) : 0;
  return `${weight < 0 ? "−" : ""}${"█".repeat(Math.floor(count / 8))}${["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"][count % 8]}`;
}

/** Five significant digits, without a tail of zeros for whole numbers. */
function significant(value: number | undefined): string {
  if (value === undefined) return "–";
  return Number.isInteger(value) ? `${value}` : value.toPrecision(5);
}

function print(said: string): number {
  process.stdout.write(said);
  return 0;
}

function note(notes: string[]): number {
  for (const text of new Set(notes)) process.stderr.write(`note: ${text}\n`);
  return 0;
}

/** A bar on a terminal, for merges that last. */
class Bar {
  readonly #began = performance.now();
  #drawn = 0;

  constructor(private readonly terminal: NodeJS.WriteStream) {}

  draw({ done, total, speed }: Progress): void {
    const now = performance.now();
    if (now - this.#began < SILENT || now - this.#drawn < REDRAWN) return;
    this.#drawn = now;
    const share = total > 0 ? Math.min(done / total, 1) : 1;
    const full = Math.floor(share * BAR_WIDTH);
    const left = speed > 0 ? `, ${Math.ceil((total - done) / speed)}s left` : "";
    this.terminal.write(`\r\x1b[K${"█".repeat(full)}${"░".repeat(BAR_WIDTH - full)} ${megabytes(done)}/${megabytes(total)} ${megabytes(speed)}/s${left}`);
  }

  clear(): void {
    if (this.#drawn > 0) this.terminal.write("\r\x1b[K");
  }
}

/** Milliseconds for which a merge may last without a bar, and between two drawings of it. */
const [SILENT, REDRAWN] = [1000, 100];

const megabytes = (bytes: number) => `${(bytes / 1e6).toFixed(2)} MB`;

speech.flags = true;
process.stdout.on("error", () => process.exit(0)); // a reader that went away is no failure
try {
  process.exitCode = await main();
} catch (error) {
  const { kind, message, help } = error as Partial<MergeError> & Error;
  if (process.argv.includes("--json")) process.stdout.write(`${JSON.stringify({ error: { ...(error as object), message } }, null, 2)}\n`);
  process.stderr.write(`error: ${message}\n${help ? `help: ${help}\n` : ""}`);
  process.exitCode = kind === "usage" ? 2 : kind === "stopped" ? 130 : 1;
}
