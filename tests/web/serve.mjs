/** A static file server for tests: like any plain host, under a sub-path, and it counts what is asked. */
import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import { extname, join, normalize } from "node:path";

const TYPES = { ".html": "text/html", ".js": "text/javascript", ".mjs": "text/javascript", ".css": "text/css", ".json": "application/json", ".wasm": "application/wasm", ".svg": "image/svg+xml" };

/** Serve folders by prefix: `{ "/some/path/": "/a/folder" }`; `alter` may change what is served. */
export async function serve(folders, alter = (_, body) => body) {
  const server = createServer(async (request, response) => {
    const { pathname } = new URL(request.url, "http://localhost");
    const prefix = Object.keys(folders).find((prefix) => pathname.startsWith(prefix));
    const inner = normalize(decodeURIComponent(pathname.slice(prefix?.length ?? 0)) || "index.html");
    try {
      if (prefix === undefined || inner.startsWith("..")) throw new Error("not served");
      const body = alter(pathname, await readFile(join(folders[prefix], inner)));
      response.writeHead(200, { "content-type": TYPES[extname(inner)] ?? "application/octet-stream" }).end(body);
    } catch {
      response.writeHead(404).end("not found");
    }
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  return { url: `http://127.0.0.1:${server.address().port}`, close: () => server.close() };
}
