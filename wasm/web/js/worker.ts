/** One thread of the pool: reads Blobs, runs jobs, hashes files. */
import init, { Hash, type Comparison, type Merge } from "./wasm/mwa.js";
import { reopen } from "./core.js";
import { asError, facts } from "./error.js";
import type { Begin, Piece, Reply, Request } from "./pool.js";

/** Bytes hashed at once. */
const HASHED = 1 << 20;

/** Answer the pool's requests; `read` serves those files that came as Blobs. */
export class Desk {
  #work: Merge | Comparison | undefined;
  #blobs: (Blob | null)[] = [];

  begin({ blobs, paths, sizes, adapter, given, options, excluded, jobBytes, compares }: Begin): void {
    this.end();
    this.#blobs = blobs;
    const run = reopen(paths, sizes, adapter, given);
    try {
      this.#work = compares
        ? run.compare(options, jobBytes)
        : run.merge(options, Uint32Array.from(excluded), jobBytes);
    } finally {
      run.free();
    }
  }

  end(): void {
    this.#work?.free();
    this.#work = undefined;
    this.#blobs = [];
  }

  /** Run one job; the result, and how many values have underflowed here so far. */
  async job(index: number, pieces: Piece[]): Promise<{ bytes: Uint8Array<ArrayBuffer>; underflowed: number }> {
    const inputs = await Promise.all(pieces.map((piece) => this.#read(piece)));
    const work = this.#work;
    if (!work) throw new Error("there is no work");
    if ("underflowed" in work) {
      const bytes = work.run(index, inputs) as Uint8Array<ArrayBuffer>;
      return { bytes, underflowed: work.underflowed() };
    }
    return { bytes: new Uint8Array(work.run(index, inputs).buffer as ArrayBuffer), underflowed: 0 };
  }

  async #read({ file, start, end, bytes }: Piece): Promise<Uint8Array> {
    if (bytes) return bytes;
    const blob = this.#blobs[file]!;
    const read = new Uint8Array(await blob.slice(start, end).arrayBuffer());
    if (read.length === end - start) return read;
    throw { kind: "io", message: "a file has changed since it was opened", help: "open it again" };
  }

  /** SHA-256 of a file that came as a Blob. */
  async hash(file: number): Promise<string> {
    const blob = this.#blobs[file]!;
    const hash = new Hash();
    for (let start = 0; start < blob.size; start += HASHED) {
      hash.update(await this.#read({ file, start, end: Math.min(start + HASHED, blob.size) }));
    }
    return hash.finish();
  }
}

/** Serve requests that arrive as messages. */
export function serve(listen: (hear: (request: Request) => void) => void, send: (reply: Reply, transfer: Transferable[]) => void) {
  const desk = new Desk();
  let ready: Promise<unknown> = Promise.resolve();
  listen(async (request) => {
    const { id } = request;
    try {
      if (request.what === "load") {
        ready = init({ module_or_path: request.module });
        await ready;
        send({ id }, []);
        return;
      }
      await ready;
      if (request.what === "begin") {
        desk.begin(request.begin);
        send({ id }, []);
      } else if (request.what === "end") {
        desk.end();
        send({ id }, []);
      } else if (request.what === "hash") {
        send({ id, hash: await desk.hash(request.file) }, []);
      } else {
        const result = await desk.job(request.job, request.pieces);
        send({ id, ...result }, [result.bytes.buffer]);
      }
    } catch (error) {
      send({ id, error: facts(asError(error)) }, []);
    }
  });
}

// In a web worker this file is the whole program; in Node, `worker_threads` has its own way to talk.
declare const WorkerGlobalScope: { new (): unknown } | undefined;
const node = "process" in globalThis && typeof WorkerGlobalScope === "undefined";
if (node) {
  const { parentPort } = await import(/* @vite-ignore */ "node:worker_threads");
  if (parentPort) {
    serve((hear) => parentPort.on("message", hear), (reply, transfer) => parentPort.postMessage(reply, transfer as never));
  }
} else if (typeof WorkerGlobalScope !== "undefined" && globalThis instanceof WorkerGlobalScope) {
  const scope = globalThis as unknown as DedicatedWorkerGlobalScope;
  serve((hear) => (scope.onmessage = ({ data }) => hear(data as Request)), (reply, transfer) => scope.postMessage(reply, transfer));
}
