/** A run in another thread than the one that read it. */
import { Run } from "./wasm/mwa.js";

/** What was read, piece by piece, as the core asked for it. */
export type Given = { file: number; start: number; end: number; bytes: Uint8Array }[];

/** A run in this thread's core, opened from what another thread has read. */
export function reopen(paths: string[], sizes: number[], adapter: string | undefined, given: Given): Run {
  const run = new Run(paths, Float64Array.from(sizes), adapter);
  for (const { file, start, end, bytes } of given) run.give(file, start, end, bytes);
  run.open();
  return run;
}
