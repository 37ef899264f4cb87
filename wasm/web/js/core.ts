/** Load the core once, however it is deployed. */
import init, { Run } from "./wasm/mwa.js";

let loading: Promise<WebAssembly.Module> | undefined;

/** The compiled module, ready for use here; workers are given it. */
export function load(): Promise<WebAssembly.Module> {
  loading ??= compile().then(async (module) => {
    await init({ module_or_path: module });
    return module;
  });
  loading.catch(() => (loading = undefined));
  return loading;
}

async function compile(): Promise<WebAssembly.Module> {
  const url = new URL("./wasm/mwa_bg.wasm", import.meta.url);
  if (url.protocol === "file:") {
    const { readFile } = await import(/* @vite-ignore */ "node:fs/promises");
    return WebAssembly.compile(await readFile(url));
  }
  const response = await fetch(url);
  if (!response.ok) throw new Error(`cannot load ${url}: ${response.status} ${response.statusText}`);
  // a host that serves the wrong type cannot be streamed from
  if (response.headers.get("content-type")?.startsWith("application/wasm")) {
    return WebAssembly.compileStreaming(response);
  }
  return WebAssembly.compile(await response.arrayBuffer());
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
