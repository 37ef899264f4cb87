/** A run in another thread than the one that read it. */
import { Run } from "./wasm/mwa.js";

/** What was read, piece by piece, as the core asked for it. */
export type Given = { file: number; start: number; end: number; bytes: Uint8Array }[];

/** How a run was opened. */
export interface Opening {
  adapter: string | undefined;
  /** The path of the base, and how many files come before its own. */
  base: string | undefined;
  own: number;
}

/** A run in this thread's core, opened from what another thread has read. */
export function reopen(paths: string[], sizes: number[], { adapter, base, own }: Opening, given: Given): Run {
  const run = new Run(paths, Float64Array.from(sizes), adapter, base, own);
  for (const { file, start, end, bytes } of given) run.give(file, start, end, bytes);
  run.open();
  return run;
}
