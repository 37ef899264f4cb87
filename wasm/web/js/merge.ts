/** Merge: plan here, run the jobs in the pool, write their results in order, hash all of it. */
import { call, MergeError } from "./error.js";
import { hasher, hashFile, Passing } from "./hash.js";
import { checkOutput, openOutput, type Output, type Writer } from "./output.js";
import { Pool, type Piece, type Reply } from "./pool.js";
import { weigh, type Run } from "./run.js";
import type { Source } from "./source.js";
import type { Report, WeighOptions } from "./types.js";
import type { Comparison as ComparisonCore, Merge as Core } from "./wasm/mwa.js";

/** How far a merge is. */
export interface Progress {
  /** Bytes of input that were read and merged. */
  done: number;
  /** Bytes of input there are. */
  total: number;
  /** Bytes per second since the beginning. */
  speed: number;
  /** What computes. */
  device: string;
}

/** How the merge is done. */
export interface MergeOptions extends WeighOptions {
  /** The dtype of averaged tensors; `keep` takes the widest of the inputs. */
  dtype?: "keep" | "f32" | "bf16" | "f16";
  /** Average the factors of adapters that are not of one run. */
  allowCrossRun?: boolean;
  /** Let NaN and infinity through instead of failing. */
  allowNonFinite?: boolean;
  /** Write the files anew even where one checkpoint alone has weight, instead of copying them. */
  rewrite?: boolean;
  /** Where to write; without it the files come back as Blobs. */
  output?: Output;
  /** Hears how far it is. */
  onProgress?: (progress: Progress) => void;
  /** Stops the merge; nothing is left behind. */
  signal?: AbortSignal;
  /** Workers to start; 0 for none, which blocks this thread; without it one per core, up to eight. */
  threads?: number;
  /** Leave the inputs' hashes out of the report; spares a second reading of Blobs. */
  skipInputHashes?: boolean;
}

/** A file of the merge. */
export interface MergedFile {
  name: string;
  size: number;
  /** All of it; undefined when it was written to the output. */
  blob: Blob | undefined;
}

/** A finished merge. */
export interface Merged {
  /** The files of the merged adapter: weights, config, tokenizer, card, report. PEFT loads the folder they make. */
  files: MergedFile[];
  report: Report;
  /** What computed. */
  device: string;
  seconds: number;
}

/** What a merge would write. */
export interface Preview {
  report: Report;
  files: string[];
}

/** Most bytes that a job reads of one input: caches like small pieces, but Blobs are read twice as fast in larger ones. */
const MOST = 1 << 20;
const MOST_OF_BLOBS = 4 << 20;
/** Least: below this, messages cost more than the work. */
const LEAST = 256 << 10;
/** Bytes of input in all jobs under way. */
const MEMORY = 256 << 20;

/**
 * Check that a merge can be done and say what it would write; reads nothing.
 *
 * @throws {MergeError} what keeps the checkpoints from being averaged
 */
export function preview(run: Run, options: MergeOptions = {}): Preview {
  const core = plan(run, options, [], MOST);
  try {
    const { report, texts, copies }: Finished = JSON.parse(core.preview());
    const names = [...report.outputs, ...texts.map(([name]) => ({ name })), ...copies.map(([name]) => ({ name }))];
    return { report, files: names.map(({ name }) => name) };
  } finally {
    core.free();
  }
}

/**
 * Merge the checkpoints that `weigh` would choose with the same options.
 *
 * ```ts
 * const run = await openRun(files);
 * const { files } = await merge(run, { penalty: 0.8, onProgress: ({ done, total }) => show(done / total) });
 * ```
 *
 * @throws {MergeError} what keeps the checkpoints from being averaged or written; nothing is left behind
 */
export async function merge(run: Run, options: MergeOptions = {}): Promise<Merged> {
  const pool = await Pool.open(options.threads);
  try {
    for (const excluded: number[] = [], dropped: string[] = []; ; ) {
      try {
        return await once(run, options, excluded, dropped, pool);
      } catch (error) {
        const bad = error instanceof MergeError && error.kind === "non-finite" && options.dropBad;
        const index = bad ? run.checkpoints.findIndex(({ name }) => name === error.file) : -1;
        // a stream cannot be begun again
        if (index < 0 || (options.output && !("getFileHandle" in options.output))) throw error;
        excluded.push(index);
        dropped.push(`${(error as Error).message}; it is dropped`);
      }
    }
  } finally {
    pool.close();
  }
}

/** Norms of the chosen checkpoints, the cosine of each pair, and what averaging the factors costs. */
export interface Comparison {
  names: string[];
  /** ‖θ‖ of each. */
  norms: number[];
  /** Cosine of each pair; 1 on the diagonal. */
  cosines: number[][];
  /** ‖Σ wBA − B̄Ā‖ / ‖Σ wBA‖: how far the average of the factors is from the average of what they do; null without factors. */
  residual: number | null;
}

/** Compare the chosen checkpoints, over all of their weights. */
export async function compare(run: Run, options: Pick<MergeOptions, keyof WeighOptions | "signal" | "threads" | "onProgress"> = {}): Promise<Comparison> {
  const { inputs } = weigh(run, weighing(options));
  const pool = await Pool.open(options.threads);
  let core: ComparisonCore | undefined;
  try {
    const jobBytes = bytesOfJobs(run, pool, inputs.length);
    core = call(() => run.core.compare(wanted(options), jobBytes));
    const k = core.inputs();
    await pool.begin(begin(run, options, [], jobBytes, true));
    const sums = new Float64Array(k * k + 2);
    await runJobs(run, core, pool, options, undefined, async ({ bytes }) => {
      const part = new Float64Array(bytes!.buffer);
      for (let i = 0; i < sums.length; i += 1) sums[i]! += part[i]!;
    });
    const dot = (i: number, j: number) => sums[Math.min(i, j) * k + Math.max(i, j)]!;
    const norms = inputs.map((_, i) => Math.sqrt(dot(i, i)));
    const cosines = norms.map((a, i) => norms.map((b, j) => (i === j ? 1 : dot(i, j) / (a * b))));
    const [error, norm] = sums.slice(k * k);
    return { names: inputs.map(({ name }) => name), norms, cosines, residual: norm! > 0 ? Math.sqrt(error! / norm!) : null };
  } finally {
    pool.close();
    core?.free();
  }
}

interface Finished {
  report: Report;
  texts: [name: string, text: string][];
  copies: [name: string, file: number][];
}

/** Options as the core reads them. */
function wanted({ output, onProgress, signal, threads, skipInputHashes, ...options }: MergeOptions): string {
  return JSON.stringify(options);
}

function weighing({ dtype, allowCrossRun, allowNonFinite, rewrite, output, onProgress, signal, threads, skipInputHashes, ...options }: MergeOptions): WeighOptions {
  return options;
}

/** How much a job reads of each input; twice as many jobs as threads are under way. */
function bytesOfJobs(run: Run, pool: Pool, inputs: number): number {
  const most = run.sources.some(({ blob }) => blob) ? MOST_OF_BLOBS : MOST;
  return Math.min(Math.max(Math.floor(MEMORY / (2 * pool.size * inputs)), LEAST), most);
}

function plan(run: Run, options: MergeOptions, excluded: number[], jobBytes: number): Core {
  return call(() => run.core.merge(wanted(options), Uint32Array.from(excluded), jobBytes));
}

let clones: boolean | undefined;

/** Whether Blobs may be sent to other threads; Deno cannot. */
function clonesBlobs(): boolean {
  try {
    clones ??= structuredClone(new Blob(["."])).size === 1;
  } catch {
    clones = false;
  }
  return clones;
}

function begin(run: Run, options: MergeOptions, excluded: number[], jobBytes: number, compares: boolean) {
  const { sources, given, adapter } = run;
  const blobs = sources.map(({ blob }) => (clonesBlobs() ? (blob ?? null) : null));
  const [paths, sizes] = [sources.map(({ path }) => path), sources.map(({ size }) => size)];
  return { blobs, paths, sizes, adapter, given, options: wanted(options), excluded, jobBytes, compares };
}

/** One try without the `excluded` checkpoints. */
async function once(run: Run, options: MergeOptions, excluded: number[], dropped: string[], pool: Pool): Promise<Merged> {
  const began = performance.now();
  const jobBytes = bytesOfJobs(run, pool, weigh(run, weighing(options)).inputs.length);
  const core = plan(run, options, excluded, jobBytes);
  const written: Writer[] = [];
  try {
    const { report: { outputs } }: Finished = JSON.parse(core.preview());
    checkOutput(options.output, outputs.length);
    await pool.begin(begin(run, options, excluded, jobBytes, false));
    const files: MergedFile[] = [];
    const hashes: string[] = [];
    const open = async (name: string, isWeights: boolean) => {
      const writer = await openOutput(options.output, name, isWeights);
      written.push(writer);
      return writer;
    };

    let current: { file: number; writer: Writer; hash: ReturnType<typeof hasher> } | undefined;
    const turnTo = async (file: number) => {
      while (!current || current.file < file) {
        const next: number = current ? current.file + 1 : 0;
        if (current) {
          hashes.push(current.hash.finish());
          const { name, bytes: size } = outputs[current.file]!;
          files.push({ name, size, blob: await current.writer.close() });
        }
        if (next >= outputs.length) return;
        current = { file: next, writer: await open(outputs[next]!.name, true), hash: hasher() };
        const head = core.head(next) as Uint8Array<ArrayBuffer>;
        current.hash.update(head);
        await current.writer.write(head);
      }
    };
    const passing = options.skipInputHashes ? undefined : new Passing();
    const inputHashes = options.skipInputHashes ? {} : hashBlobs(run, core, pool, options.signal);
    await runJobs(run, core, pool, options, passing, async ({ bytes }, file) => {
      await turnTo(file);
      current!.hash.update(bytes!);
      await current!.writer.write(bytes!);
    });
    await turnTo(outputs.length);

    const inputs: Record<number, string> = { ...(await inputHashes) };
    for (const file of passing ? core.inputFiles() : []) {
      const source = run.sources[file]!;
      inputs[file] ??= passing?.finish(file, source.size) ?? (await hashFile(source, file, undefined));
    }
    const finished: Finished = JSON.parse(call(() => core.finish(JSON.stringify({ outputs: hashes, inputs }), pool.underflowed)));
    const { report, texts, copies } = finished;
    for (const [name, text] of texts) {
      files.push(await copy(name, new Blob([withDropped(name, text, dropped)]).stream(), await open(name, false)));
    }
    for (const [name, file] of copies) files.push(await copy(name, stream(run.sources[file]!), await open(name, false)));
    report.notes.push(...dropped);
    options.signal?.throwIfAborted();
    return { files, report, device: pool.device, seconds: (performance.now() - began) / 1000 };
  } catch (error) {
    await Promise.all(written.map((writer) => writer.abort(error).catch(() => {})));
    await pool.end().catch(() => {});
    throw options.signal?.aborted ? new MergeError("stopped", "stopped; nothing was written") : error;
  } finally {
    core.free();
  }
}

/** The report says which checkpoints were dropped on the way. */
function withDropped(name: string, text: string, dropped: string[]): string {
  if (name !== "mwa-report.json" || dropped.length === 0) return text;
  const report = JSON.parse(text) as Report;
  report.notes.push(...dropped);
  return `${JSON.stringify(report, null, 2)}\n`;
}

/** Hashes of the inputs that are Blobs; the others are hashed as they pass by. */
async function hashBlobs(run: Run, core: Core, pool: Pool, signal: AbortSignal | undefined): Promise<Record<number, string>> {
  const hashes: Record<number, string> = {};
  try {
    for (const file of core.inputFiles()) {
      const source = run.sources[file]!;
      if (source.blob && !signal?.aborted) hashes[file] = await hashFile(source, file, clonesBlobs() ? pool : undefined);
    }
  } catch {
    // the jobs read the same file and say what is wrong with it
  }
  return hashes;
}

/** Run all jobs; `take` hears their results in order. */
async function runJobs(
  run: Run,
  core: Core | ComparisonCore,
  pool: Pool,
  { signal, onProgress }: Pick<MergeOptions, "signal" | "onProgress">,
  passing: Passing | undefined,
  take: (reply: Reply, file: number) => Promise<void>,
): Promise<void> {
  const jobs = [...parse(core.jobs())];
  const total = jobs.reduce((sum, { pieces }) => sum + length(pieces), 0);
  const began = performance.now();
  const report = (done: number) => {
    const speed = (done / Math.max(performance.now() - began, 1)) * 1000;
    onProgress?.({ done, total, speed, device: pool.device });
  };
  let done = 0;
  report(done);
  const running: Promise<Reply>[] = [];
  for (let next = 0, taken = 0; taken < jobs.length; taken += 1) {
    // one job computes and one reads, per thread; more would only take memory
    for (; next < jobs.length && running.length < 2 * pool.size; next += 1) {
      const reply = start(run, jobs[next]!, next, pool, passing);
      reply.catch(() => {});
      running.push(reply);
    }
    signal?.throwIfAborted();
    const { file, pieces } = jobs[taken]!;
    await take(await running.shift()!, file);
    report((done += length(pieces)));
  }
}

interface Job {
  file: number;
  pieces: Piece[];
}

function* parse(flat: Float64Array): Generator<Job> {
  for (let i = 0; i < flat.length; ) {
    const [file, count] = [flat[i]!, flat[i + 3]!];
    i += 4;
    const piece = (_: unknown, n: number): Piece => {
      const at = i + 3 * n;
      return { file: flat[at]!, start: flat[at + 1]!, end: flat[at + 2]! };
    };
    yield { file, pieces: Array.from({ length: count }, piece) };
    i += 3 * count;
  }
}

const length = (pieces: Piece[]) => pieces.reduce((sum, { start, end }) => sum + end - start, 0);

/** Read what the thread cannot, then let it run the job. */
async function start(run: Run, { pieces }: Job, job: number, pool: Pool, passing: Passing | undefined): Promise<Reply> {
  const fill = async (piece: Piece): Promise<Piece> => {
    const source = run.sources[piece.file]!;
    if (source.blob && clonesBlobs()) return piece;
    return { ...piece, bytes: await source.read(piece.start, piece.end - piece.start) };
  };
  const reading = Promise.all(pieces.map(fill));
  const filled = await inOrder(run, reading);
  for (const { file, start, bytes } of filled) {
    if (bytes && !run.sources[file]!.blob) passing?.take(file, start, bytes, () => head(run, file, start));
  }
  return pool.ask({ what: "job", job, pieces: filled });
}

const turns = new WeakMap<Run, Promise<unknown>>();

/** Wait for what was begun earlier, so that the pieces of a file pass by in order. */
function inOrder<T>(run: Run, reading: Promise<T>): Promise<T> {
  const before = turns.get(run) ?? Promise.resolve();
  const turn = before.then(() => reading, () => reading);
  turns.set(run, turn);
  return turn.catch((error: unknown) => call<never>(() => { throw error; }));
}

/** The first `end` bytes of a file, which were read when it was opened. */
function head(run: Run, file: number, end: number): Uint8Array | undefined {
  const first = run.given.find((piece) => piece.file === file && piece.start === 0 && piece.end >= end);
  return first?.bytes.subarray(0, end);
}

async function copy(name: string, from: ReadableStream<Uint8Array<ArrayBuffer>>, to: Writer): Promise<MergedFile> {
  let size = 0;
  const reader = from.getReader();
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    size += part.value.length;
    await to.write(part.value);
  }
  return { name, size, blob: await to.close() };
}

function stream(source: Source): ReadableStream<Uint8Array<ArrayBuffer>> {
  let at = 0;
  return new ReadableStream({
    async pull(controller) {
      const length = Math.min(LEAST, source.size - at);
      if (length > 0) controller.enqueue(await source.read(at, length));
      at += length;
      if (at >= source.size) controller.close();
    },
  });
}
