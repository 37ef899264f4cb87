/** Load the core once, however it is deployed. */
import { platform } from "./platform.js";
import init from "./wasm/mwa.js";

let loading: Promise<WebAssembly.Module> | undefined;

/** The compiled module, ready for use here; workers are given it. */
export function load(): Promise<WebAssembly.Module> {
  loading ??= compiled().then(async (module) => {
    await init({ module_or_path: module });
    return module;
  });
  loading.catch(() => (loading = undefined));
  return loading;
}

function compiled(): Promise<WebAssembly.Module> {
  const { files } = platform;
  // bundlers see the second and take the file along
  return platform.compile(files ? new URL("wasm/mwa_bg.wasm", files) : new URL("./wasm/mwa_bg.wasm", import.meta.url));
}

/**
 * Load the core. `openRun` and all others do it themselves: this is for a page that wants to be ready before, and for bundlers
 * that leave the package's worker and module behind.
 *
 * @param from where the folder `dist` of the package is served, for bundlers that do not follow `new URL(…, import.meta.url)`,
 * such as esbuild
 */
export async function ready({ from }: { from?: string | URL } = {}): Promise<void> {
  if (from !== undefined) {
    const files = new URL(from, globalThis.location?.href);
    // a folder, with or without its slash
    platform.files = files.pathname.endsWith("/") ? files : new URL(`${files.href}/`);
  }
  await load();
}
