/** Compile a WebAssembly module that is fetched. */
import { MergeError } from "./error.js";

const HELP =
  'for Vite before version 8, write optimizeDeps: { exclude: ["mwa-merge"] } into vite.config.js; ' +
  'elsewhere serve the folder dist of the package, and call ready({ from: "/where/it/is" })';

/** The module at `url`: streamed where the host serves it as what it is. */
export async function compile(url: URL): Promise<WebAssembly.Module> {
  const response = await fetch(url);
  if (!response.ok) throw new MergeError("io", `cannot load ${url}: ${response.status} ${response.statusText}`.trimEnd(), HELP);
  // a host that serves the wrong type cannot be streamed from
  const type = response.headers.get("content-type") ?? "";
  if (type.startsWith("application/wasm")) return WebAssembly.compileStreaming(response);
  const bytes = await response.arrayBuffer();
  // pages that know no such file answer with themselves
  if (!isModule(bytes)) throw new MergeError("io", `cannot load ${url}: ${/\bhtml\b/.test(type) ? "HTML" : `something else${type && ` (${type})`}`} came instead of WebAssembly`, HELP);
  return WebAssembly.compile(bytes);
}

/** Whether it begins as WebAssembly does, with `\0asm`. */
function isModule(bytes: ArrayBuffer): boolean {
  return bytes.byteLength >= 4 && new DataView(bytes).getUint32(0) === 0x0061736d;
}
