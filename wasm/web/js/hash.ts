/** SHA-256 of inputs and outputs in pieces, which the browser's own digest cannot. */
import { Hash } from "./wasm/mwa.js";
import { platform } from "./platform.js";
import { Tap } from "./tap.js";
import type { Source } from "./source.js";

/** A hash that takes pieces in order. */
export interface Hasher {
  update(piece: Uint8Array): void;
  finish(): string;
}

/** A new hash. */
export function hasher(): Hasher {
  return platform.hasher?.() ?? new Hash();
}

/** Bytes read at once. */
const PIECE = 1 << 20;
/** Most bytes of a Blob that is hashed whole: the browser's own digest is several times faster than ours, but takes no pieces. */
export const WHOLE = 128 << 20;

/** SHA-256 of a Blob. */
export async function hashBlob(blob: Blob): Promise<string> {
  const { subtle } = globalThis.crypto ?? {};
  if (subtle && !platform.hasher && blob.size <= WHOLE) return whole.hash(blob, subtle);
  const hash = hasher();
  await eachPiece(blob, (piece) => hash.update(piece));
  return hash.finish();
}

/** Hashes Blobs whole, one after the other in the same memory. */
class Whole {
  #memory = new ArrayBuffer(0);
  #waiting = 0;
  #reading: Promise<unknown> = Promise.resolve();
  #digesting: Promise<unknown> = Promise.resolve();

  async hash(blob: Blob, subtle: SubtleCrypto): Promise<string> {
    this.#waiting += 1;
    const reading = this.#reading.then(() => this.#read(blob));
    const digesting = Promise.all([reading, this.#digesting]).then(([bytes]) => {
      // this copies the bytes, and the next Blob may take their place
      const digest = subtle.digest("SHA-256", bytes);
      this.#digesting = digest.catch(() => {});
      return { digest };
    });
    this.#reading = digesting.catch(() => {});
    try {
      return hex(await (await digesting).digest);
    } finally {
      this.#waiting -= 1;
      if (this.#waiting === 0) this.#memory = new ArrayBuffer(0);
    }
  }

  async #read(blob: Blob): Promise<Uint8Array<ArrayBuffer>> {
    if (this.#memory.byteLength < blob.size) this.#memory = new ArrayBuffer(blob.size);
    const bytes = new Uint8Array(this.#memory, 0, blob.size);
    const part = Math.max(Math.ceil(blob.size / STREAMS), PIECE);
    const starts = Array.from({ length: Math.ceil(blob.size / part) }, (_, i) => i * part);
    await Promise.all(starts.map((start) => {
      return eachPiece(blob.slice(start, start + part), (piece, at) => bytes.set(piece, start + at));
    }));
    return bytes;
  }
}

/** Streams of one Blob that are read side by side: while one is read, the browser fills the others. */
const STREAMS = 8;
const whole = new Whole();

const hex = (bytes: ArrayBuffer) => Array.from(new Uint8Array(bytes), (byte) => byte.toString(16).padStart(2, "0")).join("");

async function eachPiece(blob: Blob, take: (piece: Uint8Array, at: number) => void): Promise<void> {
  const tap = new Tap(blob);
  let memory: ArrayBuffer | undefined;
  for (let at = 0; at < blob.size; at += PIECE) {
    const length = Math.min(PIECE, blob.size - at);
    const piece = await tap.read(at, at + length, memory);
    if (piece.length < length) throw { kind: "io", message: "a file has changed since it was opened", help: "open it again" };
    take(piece, at);
    memory = piece.buffer;
  }
}

/** SHA-256 of a whole file that is read in ranges. */
export async function hashRanges(source: Source): Promise<string> {
  const hash = hasher();
  for (let start = 0; start < source.size; start += PIECE) {
    hash.update(await source.read(start, Math.min(PIECE, source.size - start)));
  }
  return hash.finish();
}

/** Hashes of files whose bytes pass by from the first to the last, so that they need no second reading. */
export class Passing {
  #files = new Map<number, { at: number; hash: Hasher | undefined }>();

  /** Take a piece, if it is the file's next. `head` is the part before the first piece. */
  take(file: number, start: number, piece: Uint8Array, head: () => Uint8Array | undefined): void {
    let state = this.#files.get(file);
    if (!state) {
      const before = head();
      const hash = before?.length === start ? hasher() : undefined;
      hash?.update(before!);
      this.#files.set(file, (state = { at: start, hash }));
    }
    if (state.at !== start) state.hash = undefined;
    state.hash?.update(piece);
    state.at = start + piece.length;
  }

  /** The hash of a file, if all of it has passed by. */
  finish(file: number, size: number): string | undefined {
    const state = this.#files.get(file);
    return state?.hash && state.at === size ? state.hash.finish() : undefined;
  }
}
