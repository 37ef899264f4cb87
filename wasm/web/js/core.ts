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

async function compiled(): Promise<WebAssembly.Module> {
  const { files } = platform;
  if (files) return platform.compile(new URL("wasm/mwa_bg.wasm", files));
  // bundlers see this and take the file along
  const url = new URL("./wasm/mwa_bg.wasm", import.meta.url);
  try {
    return await platform.compile(url);
  } catch (error) {
    const own = besidePrebundled(url);
    if (!own) throw error;
    const module = await platform.compile(new URL("wasm/mwa_bg.wasm", own)).catch(() => undefined);
    if (!module) throw error;
    // workers are there too
    platform.files = own;
    return module;
  }
}

/**
 * Where the package is, if this script was moved away from it: Vite's development server before version 8 copies the scripts of
 * packages, and leaves behind what `new URL(…, import.meta.url)` names.
 */
function besidePrebundled({ href }: URL): URL | undefined {
  const [before, after] = href.split("/.vite/deps/");
  return after === undefined ? undefined : new URL(`${before}/mwa-merge/dist/`);
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
