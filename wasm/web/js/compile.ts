/** Compile a WebAssembly module that is fetched. */

/** The module at `url`: streamed where the host serves it as what it is. */
export async function compile(url: URL): Promise<WebAssembly.Module> {
  const response = await fetch(url);
  if (!response.ok) throw new Error(`cannot load ${url}: ${response.status} ${response.statusText}`.trimEnd());
  // a host that serves the wrong type cannot be streamed from
  if (response.headers.get("content-type")?.startsWith("application/wasm")) {
    return WebAssembly.compileStreaming(response);
  }
  return WebAssembly.compile(await response.arrayBuffer());
}
