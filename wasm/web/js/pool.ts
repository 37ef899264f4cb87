/** Threads that run jobs: workers, each with a core of its own, or this thread where there can be none. */
import { load, type Given } from "./core.js";
import { Desk } from "./desk.js";
import { asError } from "./error.js";
import { openGpu, restGpu, type DeviceChoice, type Gpu } from "./gpu.js";
import type { GpuReply } from "./gpu-worker.js";
import { overNode, overWeb, start, type Answer, type Thread } from "./thread.js";

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
  adapter: string | undefined;
  given: Given;
  options: string;
  excluded: number[];
  jobBytes: number;
  compares: boolean;
}

/** What a thread is asked. */
export type Request =
  | { what: "load"; module: WebAssembly.Module }
  | { what: "begin"; begin: Begin }
  | { what: "job"; job: number; pieces: Piece[] }
  | { what: "hash"; file: number }
  | { what: "end" };

/** What it answers. */
export interface Reply extends Answer {
  bytes?: Uint8Array<ArrayBuffer>;
  /** Values that underflowed in this thread so far. */
  underflowed?: number;
  hash?: string;
}

type Worked = Thread<Request, Reply> & { underflowed: number };

/** Most threads that are started unless the caller asks for more: memory bandwidth ends the gain. */
const MOST = 8;
/** Jobs under way in each thread: one computes and one reads; more would only take memory. */
const AT_ONCE = 2;
/** And on a GPU, where one more comes back. */
const AT_ONCE_ON_GPU = 3;

/** A number of threads, and a GPU if there is one. Close it when done: idle workers keep a Node process alive. */
export class Pool {
  #gpu: Gpu | undefined;
  /** Whether the GPU takes all sums, or as many as it is quick enough for. */
  #all = false;
  #sums = { count: 0, underflowed: 0 };
  /** Why the GPU computes or not. */
  reason = "the CPU was asked for";

  private constructor(private readonly threads: Worked[], private readonly cpu: string) {}

  /** Start `wanted` workers; 0 for none, undefined for one per core. */
  static async open(wanted: number | undefined): Promise<Pool> {
    const module = await load();
    const count = wanted ?? Math.min(await cores(), MOST);
    if (count === 0) return new Pool([here()], "cpu, this thread, SIMD");
    const starting = await Promise.allSettled(Array.from({ length: count }, () => worker(module)));
    const threads = starting.flatMap((one) => (one.status === "fulfilled" ? [one.value] : []));
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
    if (this.#sums.count === 0 && !(this.#all && this.#gpu)) return this.cpu;
    const name = this.#gpu?.name ?? "a GPU that failed";
    return this.#all && this.#gpu ? `gpu, ${name}` : `gpu, ${name}, and ${this.cpu}`;
  }

  get size(): number {
    return this.threads.length;
  }

  /** Jobs to have under way. */
  get atOnce(): number {
    return AT_ONCE * this.size + (this.#gpu ? AT_ONCE_ON_GPU : 0);
  }

  /** Values that underflowed, over all threads. */
  get underflowed(): number {
    return this.threads.reduce((sum, thread) => sum + thread.underflowed, this.#sums.underflowed);
  }

  async begin(begin: Begin): Promise<void> {
    this.#sums = { count: 0, underflowed: 0 };
    await Promise.all(this.threads.map((thread) => {
      thread.underflowed = 0;
      return thread.ask({ what: "begin", begin });
    }));
  }

  /** Ask the thread with the least to do. */
  async ask(request: Request): Promise<Reply> {
    const thread = this.#idlest;
    const transfer = request.what === "job" ? request.pieces.flatMap(({ bytes }) => (bytes ? [bytes.buffer] : [])) : [];
    const reply = await thread.ask(request, transfer);
    thread.underflowed = reply.underflowed ?? thread.underflowed;
    return reply;
  }

  get #idlest(): Worked {
    return this.threads.reduce((best, thread) => (thread.pending < best.pending ? thread : best));
  }

  /** Whether the next sum is for the GPU. */
  get isForGpu(): boolean {
    if (!this.#gpu) return false;
    return this.#all || this.#gpu.thread.pending / AT_ONCE_ON_GPU <= this.#idlest.pending / AT_ONCE;
  }

  /** Run a sum on the GPU; undefined if it failed, or if its result cannot be accepted: then a thread must run the job. */
  async sum(sum: Float64Array, inputs: (Uint8Array<ArrayBuffer> | Blob)[], accepts: (nonFinite: number) => boolean): Promise<GpuReply | undefined> {
    const transfer = inputs.flatMap((input) => (input instanceof Blob ? [] : [input.buffer]));
    try {
      const reply = await this.#gpu!.thread.ask({ what: "sum", sum, inputs }, transfer);
      if (!reply.bytes || !accepts(reply.nonFinite!)) return undefined;
      this.#sums.count += 1;
      this.#sums.underflowed += reply.underflowed!;
      return reply;
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

  close(): void {
    for (const thread of this.threads) thread.close();
    restGpu();
  }
}

/** Node 20 has no `navigator`. */
async function cores(): Promise<number> {
  if (globalThis.navigator) return navigator.hardwareConcurrency;
  return (await import(/* @vite-ignore */ "node:os")).availableParallelism();
}

/** This thread, as one of a pool. */
function here(): Worked {
  const desk = new Desk();
  return {
    pending: 0,
    underflowed: 0,
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

/** A worker with its core loaded. */
async function worker(module: WebAssembly.Module): Promise<Worked> {
  const spawn = typeof Worker === "undefined"
    ? overNode<Reply>("./worker.js")
    : overWeb<Reply>(new Worker(new URL("./worker.js", import.meta.url), { type: "module" }));
  const thread = await start<Request, Reply>(spawn);
  await thread.ask({ what: "load", module });
  return Object.assign(thread, { underflowed: 0 });
}
