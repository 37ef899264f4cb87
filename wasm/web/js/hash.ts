/** SHA-256 of inputs and outputs, by the fastest way that the platform has. */
import { Hash } from "./wasm/mwa.js";
import type { Pool } from "./pool.js";
import type { Source } from "./source.js";

/** Most bytes that are hashed at once: the browser's own digest is several times faster, but wants the whole file. */
const WHOLE = 128 << 20;

/** A hash that takes pieces in order. */
export interface Hasher {
  update(piece: Uint8Array): void;
  finish(): string;
}

type CreateHash = typeof import("node:crypto").createHash;

// Node and Deno have a native hash that takes pieces
let createHash: CreateHash | undefined;
if (globalThis.process?.versions?.node) {
  ({ createHash } = await import(/* @vite-ignore */ "node:crypto"));
}

/** A new hash. */
export function hasher(): Hasher {
  if (!createHash) return new Hash();
  const hash = createHash("sha256");
  return { update: (piece) => void hash.update(piece), finish: () => hash.digest("hex") };
}

/** SHA-256 of a whole file; Blobs that are too large for the browser's digest are hashed in the pool. */
export async function hashFile(source: Source, file: number, inPool: Pool | undefined): Promise<string> {
  const { subtle } = globalThis.crypto ?? {};
  // a file on disk is hashed as fast in pieces, which need no memory that must be made first
  if (subtle && source.size <= WHOLE && !(createHash && !source.blob)) {
    const digest = await subtle.digest("SHA-256", await source.read(0, source.size));
    return Array.from(new Uint8Array(digest), (byte) => byte.toString(16).padStart(2, "0")).join("");
  }
  if (inPool && source.blob) return (await inPool.ask({ what: "hash", file })).hash!;
  const hash = hasher();
  const step = 1 << 20;
  for (let start = 0; start < source.size; start += step) {
    hash.update(await source.read(start, Math.min(step, source.size - start)));
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
