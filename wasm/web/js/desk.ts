/** The work of one thread: read Blobs, run jobs, hash what they read and write. */
import init, { type Comparison, type Merge } from "./wasm/mwa.js";
import type { Begin, Piece, Reply, Request, Spent } from "./pool.js";
import { reopen } from "./reopen.js";
import { Tap } from "./tap.js";
import { Turns } from "./turns.js";

const STOPPED = { kind: "stopped", message: "stopped; nothing was written" };
/** Jobs under way: one computes and one reads; more would only take memory. */
export const AT_ONCE = 2;

/** What one thread has on its desk. */
export class Desk {
  #work: Merge | Comparison | undefined;
  #blobs: (Blob | null)[] = [];
  #taps = new Map<number, Tap>();
  readonly #turns = new Turns(AT_ONCE);
  /** Memory of earlier reads. */
  #spare: ArrayBuffer[] = [];

  /** Do what another thread asks. */
  readonly answers = async (request: Request): Promise<Omit<Reply, "id" | "error">> => {
    if (request.what !== "load") return this.answer(request);
    await init({ module_or_path: request.module });
    return {};
  };

  /** Do what is asked, with the core that is loaded. */
  async answer(request: Exclude<Request, { what: "load" }>): Promise<Omit<Reply, "id" | "error">> {
    if (request.what === "begin") this.#begin(request.begin);
    else if (request.what === "go-on") this.#goOn(request.found);
    else if (request.what === "end") this.#end();
    else if (request.what === "hash") return this.#turns.take(() => this.#hash(request.piece));
    else return this.#turns.take(() => this.#job(request.job, request.pieces));
    return {};
  }

  #begin({ blobs, paths, sizes, opening, given, options, what, excluded, jobBytes }: Begin): void {
    this.#end();
    this.#blobs = blobs;
    const run = reopen(paths, sizes, opening, given);
    try {
      if (what === "compare") this.#work = run.compare(options, jobBytes);
      else this.#work = run.merge(options, Uint32Array.from(excluded), [], jobBytes);
      this.#work.next();
    } finally {
      run.free();
    }
  }

  /** All jobs of a lot are done, by whichever thread: this one's merge hears what they have found, and has the next. */
  #goOn(found: [number, Float64Array][]): void {
    const merge = this.#work as Merge;
    for (const [job, numbers] of found) merge.take(job, numbers);
    merge.next();
  }

  #end(): void {
    this.#work?.free();
    this.#work = undefined;
    this.#blobs = [];
    for (const tap of this.#taps.values()) void tap.close();
    this.#taps.clear();
    this.#spare = [];
  }

  async #job(index: number, pieces: Piece[]): Promise<Omit<Reply, "id">> {
    if (!this.#work) throw STOPPED;
    const inputs = await Promise.all(pieces.map((piece) => this.#read(piece)));
    const work = this.#work;
    if (!work) throw STOPPED;
    const answer = this.#run(work, index, inputs);
    const spent: Spent = [];
    for (const [i, { file, bytes }] of pieces.entries()) {
      if (bytes) spent.push([file, bytes.buffer]);
      else this.#spare.push(inputs[i]!.buffer);
    }
    return { ...answer, spent };
  }

  #run(work: Merge | Comparison, index: number, inputs: Uint8Array[]): Omit<Reply, "id"> {
    if ("inputs" in work) return { bytes: new Uint8Array(work.run(index, inputs).buffer as ArrayBuffer) };
    const bytes = work.run(index, inputs) as Uint8Array<ArrayBuffer>;
    return { bytes, found: work.found(), parts: work.parts() };
  }

  async #hash(piece: Piece): Promise<Omit<Reply, "id">> {
    const bytes = await this.#read(piece);
    if (!this.#work) throw STOPPED;
    return { parts: (this.#work as Merge).hash(piece.file, piece.start, bytes) };
  }

  async #read({ file, start, end, bytes }: Piece): Promise<Uint8Array<ArrayBuffer>> {
    if (bytes) return bytes;
    let tap = this.#taps.get(file);
    if (!tap) this.#taps.set(file, (tap = new Tap(this.#blobs[file]!)));
    const read = await tap.read(start, end, this.#spare.pop());
    if (read.length === end - start) return read;
    throw { kind: "io", message: "a file has changed since it was opened", help: "open it again" };
  }
}
