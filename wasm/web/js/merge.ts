/** Merge: plan here, run the jobs in the pool, write their results in order, hash all of it. */
import { Assembly } from "./assemble.js";
import { call, MergeError } from "./error.js";
import { hashBlob, hashRanges, Passing } from "./hash.js";
import type { DeviceChoice } from "./gpu.js";
import { begin, bytesOfJobs, clonesBlobs, MOST, runJobs, wanted, weighing } from "./jobs.js";
import { checkOutput, openOutput, type Output, type Writer } from "./output.js";
import { withPool, type Pool } from "./pool.js";
import { eachOf, weigh, type Run } from "./run.js";
import type { Source } from "./source.js";
import type { Report, WeighOptions } from "./types.js";
import type { Merge as Core } from "./wasm/mwa.js";

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
  /**
   * What is averaged: the tensors as they are, or with `product` what LoRA adapters do, B·A of each module. The latter merges across
   * runs and ranks, on the CPU.
   */
  space?: "factors" | "product";
  /** The rank in product space: without one the inputs' own; `full` loses nothing; `auto` keeps 0.999 of the squared norm, or `energy`. */
  rank?: number | "auto" | "full";
  /** The share of the squared norm that the rank is to keep, in 0…1. */
  energy?: number;
  /** Refuse modules that only some of the adapters have, which in product space count as zero elsewhere. */
  strict?: boolean;
  /**
   * Whether the report says how far the average of the factors is from the average of what they do, which reads the adapters
   * once more; without it true.
   */
  residual?: boolean;
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
  /** What computes; the bytes are the same. Without it `auto`. */
  device?: DeviceChoice;
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
  /** Why that did. */
  reason: string;
  seconds: number;
}

/** What a merge would write. */
export interface Preview {
  report: Report;
  files: string[];
}

/**
 * Check that a merge can be done and say what it would write; reads nothing.
 *
 * @throws {MergeError} what keeps the checkpoints from being averaged
 */
export function preview(run: Run, options: MergeOptions = {}): Preview {
  const core = plan(run, options, [], [], MOST);
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
  return withPool(options.threads, async (pool) => {
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
  });
}

/** Blobs that are hashed at once: side by side they are read several times as fast as one after the other. */
const HASHED_AT_ONCE = 8;

interface Finished {
  report: Report;
  texts: [name: string, text: string][];
  copies: [name: string, file: number][];
}

function plan(run: Run, options: MergeOptions, excluded: number[], ranks: number[], jobBytes: number): Core {
  return call(() => run.core.merge(wanted(options), Uint32Array.from(excluded), Uint32Array.from(ranks), jobBytes));
}

/** The rank of each module, where product space has to find it first. */
async function survey(run: Run, options: MergeOptions, excluded: number[], pool: Pool): Promise<number[]> {
  const ranks: number[] = [];
  const core = call(() => run.core.survey(wanted(options), Uint32Array.from(excluded)));
  if (!core) return ranks;
  try {
    await pool.begin(begin(run, options, { what: "survey", excluded, ranks, jobBytes: 0 }));
    await runJobs(run, core, pool, { signal: options.signal }, undefined, async ({ found }) => void ranks.push(...found!));
    return ranks;
  } finally {
    core.free();
  }
}

/** One try without the `excluded` checkpoints. */
async function once(run: Run, options: MergeOptions, excluded: number[], dropped: string[], pool: Pool): Promise<Merged> {
  const began = performance.now();
  const jobBytes = bytesOfJobs(pool, weigh(run, weighing(options)).inputs.length);
  const ranks = await survey(run, options, excluded, pool);
  const core = plan(run, options, excluded, ranks, jobBytes);
  const written: Writer[] = [];
  try {
    const { report: { outputs } }: Finished = JSON.parse(core.preview());
    checkOutput(options.output, outputs.length);
    await pool.use(options.device ?? "auto", core.inputFiles().reduce((sum, file) => sum + run.sources[file]!.size, 0));
    await pool.begin(begin(run, options, { what: "merge", excluded, ranks, jobBytes }));
    const open = async (name: string, isWeights: boolean) => {
      const writer = await openOutput(options.output, name, isWeights);
      written.push(writer);
      return writer;
    };
    const assembly = new Assembly(outputs, (file) => core.head(file) as Uint8Array<ArrayBuffer>, (name) => open(name, true));
    const lost: number[][] = [];
    const passing = options.skipInputHashes ? undefined : new Passing();
    const inputHashes = options.skipInputHashes ? {} : hashBlobs(run, core, pool, options.signal);
    await runJobs(run, core, pool, options, passing, async ({ bytes, found }, { index, writes }) => {
      if (found) lost[index] = found;
      await assembly.take(bytes!, writes);
    });
    await assembly.finish();
    const { files, hashes } = assembly;

    const inputs: Record<number, string> = { ...(await inputHashes) };
    for (const file of passing ? core.inputFiles() : []) {
      const source = run.sources[file]!;
      inputs[file] ??= passing?.finish(file, source.size) ?? (await hashRanges(source));
    }
    const finished: Finished = JSON.parse(call(() => core.finish(JSON.stringify({ outputs: hashes, inputs }), pool.underflowed, Float64Array.from(lost.flat()))));
    const { report, texts, copies } = finished;
    for (const [name, text] of texts) {
      files.push(await copy(name, new Blob([withDropped(name, text, dropped)]).stream(), await open(name, false)));
    }
    for (const [name, file] of copies) files.push(await copy(name, stream(run.sources[file]!), await open(name, false)));
    report.notes.push(...dropped);
    options.signal?.throwIfAborted();
    return { files, report, device: pool.device, reason: pool.reason, seconds: (performance.now() - began) / 1000 };
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
  const blobs = [...core.inputFiles()].filter((file) => run.sources[file]!.blob);
  const hash = async (file: number) => {
    signal?.throwIfAborted();
    const blob = run.sources[file]!.blob!;
    hashes[file] = await (clonesBlobs() ? pool.hash(blob) : hashBlob(blob));
  };
  // the jobs read the same files and say what is wrong with them
  await eachOf(HASHED_AT_ONCE, blobs, hash).catch(() => {});
  return hashes;
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

/** Bytes of a file that is copied, at a time. */
const COPIED = 256 << 10;

function stream(source: Source): ReadableStream<Uint8Array<ArrayBuffer>> {
  let at = 0;
  return new ReadableStream({
    async pull(controller) {
      const length = Math.min(COPIED, source.size - at);
      if (length > 0) controller.enqueue(await source.read(at, length));
      at += length;
      if (at >= source.size) controller.close();
    },
  });
}
