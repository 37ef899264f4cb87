/** Threads that run jobs: workers, each with a core of its own, or this thread where there can be none. */
import { load, type Given } from "./core.js";
import { Desk } from "./desk.js";
import { asError, type facts } from "./error.js";

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
  | { id: number; what: "load"; module: WebAssembly.Module }
  | { id: number; what: "begin"; begin: Begin }
  | { id: number; what: "job"; job: number; pieces: Piece[] }
  | { id: number; what: "hash"; file: number }
  | { id: number; what: "end" };

/** What it answers. */
export interface Reply {
  id: number;
  bytes?: Uint8Array<ArrayBuffer>;
  /** Values that underflowed in this thread so far. */
  underflowed?: number;
  hash?: string;
  error?: ReturnType<typeof facts>;
}

type Ask = Request extends infer R ? (R extends Request ? Omit<R, "id"> : never) : never;

interface Thread {
  pending: number;
  underflowed: number;
  ask(request: Ask): Promise<Reply>;
  close(): void;
}

/** Most threads that are started unless the caller asks for more: memory bandwidth ends the gain. */
const MOST = 8;

/** A number of threads. Close it when done: idle workers keep a Node process alive. */
export class Pool {
  private constructor(
    private readonly threads: Thread[],
    /** Which threads run, and if not as wanted, why. */
    readonly device: string,
  ) {}

  /** Start `wanted` workers; 0 for none, undefined for one per core. */
  static async open(wanted: number | undefined): Promise<Pool> {
    const module = await load();
    const count = wanted ?? Math.min(await cores(), MOST);
    if (count === 0) return new Pool([here()], "cpu, this thread, SIMD");
    const starting = await Promise.allSettled(Array.from({ length: count }, () => start(module)));
    const threads = starting.flatMap((one) => (one.status === "fulfilled" ? [one.value] : []));
    if (threads.length > 0) return new Pool(threads, `cpu, ${threads.length} ${threads.length === 1 ? "worker" : "workers"}, SIMD`);
    const failed = starting.find((one) => one.status === "rejected");
    const why = failed?.reason instanceof Error ? failed.reason.message : "";
    return new Pool([here()], `cpu, this thread, SIMD (no worker could be started${why && `: ${why}`})`);
  }

  get size(): number {
    return this.threads.length;
  }

  /** Values that underflowed, over all threads. */
  get underflowed(): number {
    return this.threads.reduce((sum, thread) => sum + thread.underflowed, 0);
  }

  async begin(begin: Begin): Promise<void> {
    await Promise.all(this.threads.map((thread) => {
      thread.underflowed = 0;
      return thread.ask({ what: "begin", begin });
    }));
  }

  /** Ask the thread with the least to do. */
  ask(request: Ask): Promise<Reply> {
    const idle = this.threads.reduce((best, thread) => (thread.pending < best.pending ? thread : best));
    return idle.ask(request);
  }

  async end(): Promise<void> {
    await Promise.all(this.threads.map((thread) => thread.ask({ what: "end" })));
  }

  close(): void {
    for (const thread of this.threads) thread.close();
  }
}

/** Node 20 has no `navigator`. */
async function cores(): Promise<number> {
  if (globalThis.navigator) return navigator.hardwareConcurrency;
  return (await import(/* @vite-ignore */ "node:os")).availableParallelism();
}

/** This thread, as one of a pool. */
function here(): Thread {
  const desk = new Desk();
  return {
    pending: 0,
    underflowed: 0,
    async ask(request) {
      try {
        const answer = await desk.answer({ id: 0, ...request } as never);
        this.underflowed = answer.underflowed ?? this.underflowed;
        return { id: 0, ...answer };
      } catch (error) {
        throw asError(error);
      }
    },
    close() {},
  };
}

/** A worker with its core loaded. */
async function start(module: WebAssembly.Module): Promise<Thread> {
  const waiting = new Map<number, { resolve: (reply: Reply) => void; reject: (error: unknown) => void }>();
  let last = 0;
  const hear = (reply: Reply) => {
    const waiter = waiting.get(reply.id);
    waiting.delete(reply.id);
    thread.pending -= 1;
    thread.underflowed = reply.underflowed ?? thread.underflowed;
    if (reply.error) waiter?.reject(asError(reply.error));
    else waiter?.resolve(reply);
  };
  const fail = (error: Error) => {
    for (const { reject } of waiting.values()) reject(error);
    waiting.clear();
  };
  const worker = await spawn(hear, fail);
  const thread: Thread = {
    pending: 0,
    underflowed: 0,
    ask(request) {
      const id = (last += 1);
      const transfer = request.what === "job" ? request.pieces.flatMap(({ bytes }) => (bytes ? [bytes.buffer] : [])) : [];
      return new Promise((resolve, reject) => {
        waiting.set(id, { resolve, reject });
        this.pending += 1;
        worker.send({ id, ...request } as Request, transfer);
      });
    },
    close() {
      worker.close();
      fail(new Error("the worker was closed"));
    },
  };
  await thread.ask({ what: "load", module });
  return thread;
}

/** A worker of the platform: browsers and Deno have one kind, Node another. */
async function spawn(hear: (reply: Reply) => void, fail: (error: Error) => void) {
  if (typeof Worker !== "undefined") {
    const worker = new Worker(new URL("./worker.js", import.meta.url), { type: "module" });
    worker.onmessage = ({ data }) => hear(data as Reply);
    worker.onerror = (event) => fail(new Error(event.message || "it could not be loaded"));
    return {
      send: (request: Request, transfer: Transferable[]) => worker.postMessage(request, transfer),
      close: () => worker.terminate(),
    };
  }
  const threads = await import(/* @vite-ignore */ "node:worker_threads");
  const worker = new threads.Worker(new URL("./worker.js", import.meta.url));
  worker.on("message", hear).on("error", fail);
  return {
    send: (request: Request, transfer: Transferable[]) => worker.postMessage(request, transfer as never),
    close: () => void worker.terminate(),
  };
}
