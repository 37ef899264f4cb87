/** Threads that run jobs: workers, each with a core of its own, or this thread where there can be none. */
import { load } from "./core.js";
import { AT_ONCE, Desk } from "./desk.js";
import { asError } from "./error.js";
import { openGpu, restGpu, type DeviceChoice, type Gpu } from "./gpu.js";
import { platform } from "./platform.js";
import type { Given, Opening } from "./reopen.js";
import { overWeb, start, type Answer, type Spawn, type Thread } from "./thread.js";

/** Bytes of a file: already read, or to be read from a Blob that the thread was given. */
export interface Piece {
  file: number;
  start: number;
  end: number;
  bytes?: Uint8Array<ArrayBuffer>;
}

/** All that a thread needs to plan the same jobs as this one. */
export interface Begin {
  blobs: (Blob | null)[];
  paths: string[];
  sizes: number[];
  opening: Opening;
  given: Given;
  options: string;
  what: "merge" | "compare";
  excluded: number[];
  jobBytes: number;
}

/** What a thread is asked. */
export type Request =
  | { what: "load"; module: WebAssembly.Module }
  | { what: "begin"; begin: Begin }
  | { what: "job"; job: number; pieces: Piece[] }
  | { what: "go-on"; found: [job: number, found: Float64Array][] }
  | { what: "hash"; piece: Piece }
  | { what: "end" };

/** Memory that is no longer needed, and the file that was read into it. */
export type Spent = [file: number, memory: ArrayBuffer][];

/** What it answers. */
export interface Reply extends Answer {
  bytes?: Uint8Array<ArrayBuffer>;
  /** The memory of the pieces that were given, by file, to be used again. */
  spent?: Spent;
  /** What the job found, for the core. */
  found?: Float64Array;
  /** What it adds to the hashes of files, for the core. */
  parts?: Uint8Array;
}

/** Milliseconds for which a page keeps workers that have nothing to do. */
const IDLE = 60_000;
const CPU_WANTED = "the CPU was asked for";
/** Pools that wait for the next merge. */
const idle = new Set<Pool>();

type Worked = Thread<Request, Reply>;

/** Most threads that are started unless the caller asks for more: memory bandwidth ends the gain. */
const MOST = 8;
/** How the core calls what is found of elements: counts of those that are not finite, and of those that underflowed. */
const TALLY = 0;
/** Most jobs on a GPU, where one more comes back. */
const AT_ONCE_ON_GPU = 3;

/** Have a pool for as long as `work` takes; see `Pool.open`. */
export async function withPool<T>(wanted: number | undefined, work: (pool: Pool) => Promise<T>): Promise<T> {
  const pool = await Pool.open(wanted);
  try {
    const done = await work(pool);
    pool.rest();
    return done;
  } catch (error) {
    pool.close();
    throw error;
  }
}

/** A number of threads, and a GPU if there is one. */
export class Pool {
  #gpu: Gpu | undefined;
  /** Whether the GPU takes all sums, or as many as it is quick enough for. */
  #all = false;
  /** Sums that the GPU did. */
  #sums = 0;
  /** Why the GPU computes or not. */
  reason = CPU_WANTED;

  #timer: ReturnType<typeof setTimeout> | undefined;

  private constructor(private readonly threads: Worked[], private readonly cpu: string) {}

  /** Start `wanted` workers; 0 for none, undefined for one per core. */
  static async open(wanted: number | undefined): Promise<Pool> {
    const module = await load();
    const count = wanted ?? Math.min(platform.cores(), MOST);
    if (count === 0) return new Pool([here()], "cpu, this thread, SIMD");
    for (const pool of idle) if (pool.size === count) return pool.#wake();
    const { threads, starting } = await workers(module, count);
    if (threads.length > 0) return new Pool(threads, `cpu, ${threads.length} ${threads.length === 1 ? "worker" : "workers"}, SIMD`);
    const failed = starting.find((one) => one.status === "rejected");
    const why = failed?.reason instanceof Error ? failed.reason.message : "";
    return new Pool([here()], `cpu, this thread, SIMD (no worker could be started${why && `: ${why}`})`);
  }

  /** Have a GPU take sums, of `bytes` of input altogether; without one the CPU does them, and `reason` says why. */
  async use(device: DeviceChoice, bytes: number): Promise<void> {
    if (device === "cpu") return;
    this.#all = device === "gpu";
    const opening = openGpu(device, bytes, (reason) => (this.reason = reason)).then((gpu) => void (this.#gpu = gpu));
    // the threads need not wait for what may only help them
    if (this.#all) await opening;
  }

  /** What computes. */
  get device(): string {
    if (this.#sums === 0 && !(this.#all && this.#gpu)) return this.cpu;
    const name = this.#gpu?.name ?? "a GPU that failed";
    return this.#all && this.#gpu ? `gpu, ${name}` : `gpu, ${name}, and ${this.cpu}`;
  }

  get size(): number {
    return this.threads.length;
  }

  /** Jobs to have given out, if a thread is given `each`. */
  atOnce(each: number): number {
    return each * this.size + (this.#gpu ? AT_ONCE_ON_GPU : 0);
  }

  async begin(begin: Begin): Promise<void> {
    this.#sums = 0;
    await Promise.all(this.threads.map((thread) => thread.ask({ what: "begin", begin })));
  }

  /** The jobs of a lot are done: tell all threads what they have found. */
  async goOn(found: [job: number, found: Float64Array][]): Promise<void> {
    await Promise.all(this.threads.map((thread) => thread.ask({ what: "go-on", found })));
  }

  /** Ask the thread of that number, or the one with the least to do. */
  async ask(request: Request, number?: number): Promise<Reply> {
    const thread = number === undefined ? idlest(this.threads) : this.threads[number % this.size]!;
    const pieces = request.what === "job" ? request.pieces : request.what === "hash" ? [request.piece] : [];
    const transfer = pieces.flatMap(({ bytes }) => (bytes ? [bytes.buffer] : []));
    return thread.ask(request, transfer);
  }

  /** Whether the next sum is for the GPU, if a thread is given `each`. */
  isForGpu(each: number): boolean {
    if (!this.#gpu) return false;
    return this.#all || this.#gpu.thread.pending / AT_ONCE_ON_GPU <= idlest(this.threads).pending / each;
  }

  /** Run a sum on the GPU; undefined if it failed, or if its result cannot be accepted: then a thread must run the job. */
  async sum(sum: Float64Array, inputs: (Uint8Array<ArrayBuffer> | Blob)[], accepts: (nonFinite: number) => boolean): Promise<Reply | undefined> {
    const transfer = inputs.flatMap((input) => (input instanceof Blob ? [] : [input.buffer]));
    try {
      const reply = await this.#gpu!.thread.ask({ what: "sum", sum, inputs }, transfer);
      if (!reply.bytes || !accepts(reply.nonFinite!)) return undefined;
      this.#sums += 1;
      const { id, bytes, nonFinite, underflowed } = reply;
      return { id, bytes, found: Float64Array.of(TALLY, nonFinite!, underflowed!) };
    } catch (error) {
      const { kind, message } = error as { kind?: string; message: string };
      // the thread will say what else is wrong
      if (kind !== "io") this.#lose(`${message}; the CPU does the rest`);
      return undefined;
    }
  }

  #lose(why: string): void {
    if (!this.#gpu) return;
    this.#gpu.close();
    this.#gpu = undefined;
    this.reason = why;
  }

  async end(): Promise<void> {
    await Promise.all(this.threads.map((thread) => thread.ask({ what: "end" })));
  }

  /** The work is done. A page keeps the workers for the next one; a program lets them go, so that it can end. */
  rest(): void {
    if (platform.isProgram) return this.close();
    restGpu();
    this.#gpu = undefined;
    this.end().catch(() => {});
    idle.add(this);
    this.#timer = setTimeout(() => this.close(), IDLE);
  }

  #wake(): this {
    idle.delete(this);
    clearTimeout(this.#timer);
    this.#all = false;
    this.reason = CPU_WANTED;
    return this;
  }

  close(): void {
    idle.delete(this);
    for (const thread of this.threads) thread.close();
    restGpu();
  }
}

function idlest(threads: Worked[]): Worked {
  return threads.reduce((best, thread) => (thread.pending < best.pending ? thread : best));
}

/** This thread, as one of a pool. */
function here(): Worked {
  const desk = new Desk();
  return {
    pending: 0,
    async ask(request) {
      try {
        return { id: 0, ...(await desk.answer(request as never)) };
      } catch (error) {
        throw asError(error);
      }
    },
    close() {},
  };
}

/** As many of `count` workers as can be started. */
async function workers(module: WebAssembly.Module, count: number): Promise<{ threads: Worked[]; starting: PromiseSettledResult<Worked>[] }> {
  const starting = await Promise.allSettled(Array.from({ length: count }, () => worker(module)));
  return { threads: starting.flatMap((one) => (one.status === "fulfilled" ? [one.value] : [])), starting };
}

/** A worker with its core loaded. */
async function worker(module: WebAssembly.Module): Promise<Worked> {
  const thread = await start<Request, Reply>(platform.worker?.<Reply>() ?? webWorker());
  await thread.ask({ what: "load", module });
  return thread;
}

function webWorker(): Spawn<Reply> {
  const { files } = platform;
  // bundlers see the second and take the file along
  return overWeb(files ? new Worker(new URL("worker.js", files), { type: "module" }) : new Worker(new URL("./worker.js", import.meta.url), { type: "module" }));
}
