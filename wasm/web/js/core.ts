/** Load the core once, however it is deployed. */
import { compile } from "./compile.js";
import init, { Run } from "./wasm/mwa.js";

let loading: Promise<WebAssembly.Module> | undefined;

/** The compiled module, ready for use here; workers are given it. */
export function load(): Promise<WebAssembly.Module> {
  loading ??= compile(new URL("./wasm/mwa_bg.wasm", import.meta.url)).then(async (module) => {
    await init({ module_or_path: module });
    return module;
  });
  loading.catch(() => (loading = undefined));
  return loading;
}

/** What must be read, as the core lists it. */
export type Given = { file: number; start: number; end: number; bytes: Uint8Array }[];

/** A run in this thread's core, opened from what another thread has read. */
export function reopen(paths: string[], sizes: number[], adapter: string | undefined, given: Given): Run {
  const run = new Run(paths, Float64Array.from(sizes), adapter);
  for (const { file, start, end, bytes } of given) run.give(file, start, end, bytes);
  run.open();
  return run;
}
