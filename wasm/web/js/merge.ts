/** Merge: plan here, run the jobs in the pool, write their results in order. */
import { Assembly } from "./assemble.js";
import { call, MergeError } from "./error.js";
import { hashMissing } from "./hash.js";
import type { DeviceChoice } from "./gpu.js";
import { begin, bytesOfJobs, runJobs, wanted } from "./jobs.js";
import type { CoreOptions } from "./options.js";
import { lotOf } from "./order.js";
import { checkOutput, openOutput, type Output, type Writer } from "./output.js";
import { withPool, type Pool } from "./pool.js";
import { runOf, type Run } from "./run.js";
import { said, type Source } from "./source.js";
import type { HashedFile, Report } from "./types.js";
import { Hash } from "./wasm/mwa.js";

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
export interface MergeOptions extends CoreOptions {
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

/** A finished merge that was written nowhere. */
export interface MergedInMemory extends Merged {
  files: (MergedFile & { blob: Blob })[];
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
  const { report, texts, copies }: Finished = JSON.parse(call(() => runOf(run).core.preview(wanted(run, options))));
  const names = [...texts, ...CLOSING, ...copies].map(([name]) => name);
  return { report, files: [...report.outputs.map(({ name }) => name), ...names] };
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
export function merge(run: Run, options?: Omit<MergeOptions, "output"> & { output?: never }): Promise<MergedInMemory>;
export function merge(run: Run, options?: MergeOptions): Promise<Merged>;
export async function merge(run: Run, options: MergeOptions = {}): Promise<Merged> {
  // before any worker is started
  wanted(runOf(run), options);
  const { device = "auto", threads = 0, onProgress, signal } = options;
  if (!["auto", "gpu", "cpu"].includes(device)) throw new MergeError("usage", `there is no device \`${device}\``, "use auto, gpu or cpu");
  if (!Number.isSafeInteger(threads) || threads < 0) throw new MergeError("usage", `${threads} is not a valid number of threads`, "use a whole number, or 0 for this thread");
  if (onProgress !== undefined && typeof onProgress !== "function") throw new MergeError("usage", `onProgress is ${said(onProgress)}, which is not a function`);
  if (signal !== undefined && typeof signal?.throwIfAborted !== "function") throw new MergeError("usage", `the signal is ${said(signal)}, which is not an AbortSignal`);
  return withPool(options.threads, async (pool) => {
    for (const excluded: number[] = [], notes: string[] = []; ; ) {
      const merged = await once(run, options, excluded, notes, pool);
      if (!("note" in merged)) return merged;
      const { error, note } = merged;
      const index = run.checkpoints.findIndex(({ name }) => name === error.file);
      // a stream cannot be begun again
      if (index < 0 || (options.output && !("getFileHandle" in options.output))) throw error;
      excluded.push(index);
      notes.push(note);
    }
  });
}

interface Finished {
  report: Report;
  texts: [name: string, text: string][];
  copies: [name: string, file: number][];
}

/** A checkpoint that is to be left out, and what to say of it. */
interface Bad {
  error: MergeError;
  note: string;
}

/** What is written of every merge in the end. */
const CLOSING = [["README.md"], ["mwa-report.json"]] as const;

/** One try without the `excluded` checkpoints. */
async function once(run: Run, options: MergeOptions, excluded: number[], notes: string[], pool: Pool): Promise<Merged | Bad> {
  const began = performance.now();
  const jobBytes = bytesOfJobs(pool, call(() => run.core.count(wanted(run, options))));
  const core = call(() => run.core.merge(wanted(run, options), Uint32Array.from(excluded), notes, jobBytes));
  const written: Writer[] = [];
  const next = () => call(() => lotOf(core.next()));
  try {
    await pool.begin(begin(run, options, { what: "merge", excluded, jobBytes }));
    let lot = next();
    while (lot && !lot.writes) {
      const found: [number, Float64Array][] = [];
      await runJobs(run, core, lot, pool, { signal: options.signal }, async (reply, { number }) => {
        found.push([number, reply.found!]);
        call(() => core.take(number, reply.found!));
        if (reply.parts) core.takeParts(reply.parts);
      });
      lot = next();
      await pool.goOn(found);
    }
    const { report: { outputs } }: Finished = JSON.parse(core.preview());
    checkOutput(options.output, outputs.length);
    await pool.use(options.device ?? "auto", core.inputFiles().reduce((sum, file) => sum + run.sources[file]!.size, 0));
    const open = async (name: string, isWeights: boolean) => {
      const writer = await openOutput(options.output, name, isWeights);
      written.push(writer);
      return writer;
    };
    const assembly = new Assembly(outputs, (file) => core.head(file) as Uint8Array<ArrayBuffer>, (name) => open(name, true));
    if (lot) {
      await runJobs(run, core, lot, pool, options, async ({ bytes, found, parts }, { number, writes }) => {
        core.take(number, found!);
        // what a GPU summed was not hashed
        if (parts) core.takeParts(parts);
        else core.wrote(number, bytes!);
        await assembly.take(bytes!, writes);
      });
    }
    next();
    await assembly.finish();
    const { files } = assembly;
    await hashMissing(run, core, pool, options.signal);
    const companions: HashedFile[] = [];
    const write = async (name: string, size: number, from: ReadableStream<Uint8Array<ArrayBuffer>>) => {
      const { file, blake3 } = await copy(name, size, from, await open(name, false));
      files.push(file);
      companions.push({ name, bytes: file.size, blake3 });
    };
    const writeText = (name: string, text: string) => {
      const blob = new Blob([text]);
      return write(name, blob.size, blob.stream());
    };
    const { texts, copies }: Finished = JSON.parse(core.preview());
    for (const [name, text] of texts) await writeText(name, text);
    for (const [name, file] of copies) await write(name, run.sources[file]!.size, stream(run.sources[file]!));
    const finished: Finished = JSON.parse(call(() => core.finish(JSON.stringify(companions))));
    const done = new Set(companions.map(({ name }) => name));
    for (const [name, text] of finished.texts) if (!done.has(name)) await writeText(name, text);
    const { report } = finished;
    options.signal?.throwIfAborted();
    return { files, report, device: pool.device, reason: pool.reason, seconds: (performance.now() - began) / 1000 };
  } catch (error) {
    await Promise.all(written.map((writer) => writer.abort(error).catch(() => {})));
    await pool.end().catch(() => {});
    if (options.signal?.aborted) throw new MergeError("stopped", "stopped; nothing was written");
    const bad = options.dropBad && error instanceof MergeError && error.kind === "non-finite" ? error : undefined;
    const note = bad && core.dropped(bad.file ?? "", bad.tensor ?? "", bad.detail);
    if (bad && note !== undefined) return { error: bad, note };
    throw error;
  } finally {
    core.free();
  }
}

async function copy(name: string, size: number, from: ReadableStream<Uint8Array<ArrayBuffer>>, to: Writer): Promise<{ file: MergedFile; blake3: string }> {
  const hash = new Hash(size);
  const reader = from.getReader();
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    hash.update(part.value);
    await to.write(part.value);
  }
  return { file: { name, size, blob: await to.close() }, blake3: hash.finish()! };
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
