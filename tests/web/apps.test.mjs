/** The package in other people's apps: five lines, built by what they build with as it comes, opened in Chromium. */
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { cp, mkdir, mkdtemp, readdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { extname, join, relative } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import test, { after, before } from "node:test";
import * as esbuild from "esbuild";
import { chromium } from "playwright-core";
import * as vite from "vite";
import webpack from "webpack";

import { serve } from "./serve.mjs";

const root = fileURLToPath(new URL("../..", import.meta.url));
const BLAKE3 = "7e2717852355ddf7431ccf51a06072d54e7d782248adc2a92c980644e04e9f2b";
const packed = fileURLToPath(new URL("../../wasm/web", import.meta.url));
const npm = (cwd, ...args) => promisify(execFile)(process.platform === "win32" ? "npm.cmd" : "npm", args, { cwd, shell: process.platform === "win32" });

let work, browser, tarball, names;

before(async () => {
  work = await mkdtemp(join(tmpdir(), "mwa-apps-"));
  await npm(work, "pack", "--silent", packed);
  tarball = join(work, (await readdir(work))[0]);
  const sample = join(root, "examples/sample-run");
  const entries = await readdir(sample, { recursive: true, withFileTypes: true });
  names = entries.filter((entry) => entry.isFile()).map((entry) => relative(sample, join(entry.parentPath ?? entry.path, entry.name)).replaceAll("\\", "/"));
  const flags = ["--no-sandbox", "--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader"];
  browser = await chromium.launch({ executablePath: process.env.MWA_CHROMIUM ?? "/usr/bin/chromium", args: flags });
});

after(async () => {
  await browser?.close();
  await rm(work, { recursive: true, force: true });
});

/** An app of its own, with the package installed as its author would. */
async function app(...install) {
  const folder = await mkdtemp(join(work, "app-"));
  await cp(fileURLToPath(new URL("app", import.meta.url)), folder, { recursive: true });
  await writeFile(join(folder, "package.json"), '{"type": "module", "private": true}');
  await npm(folder, "install", "--silent", "--offline", "--no-audit", ...install);
  const sample = join(folder, "public/sample");
  await cp(join(root, "examples/sample-run"), join(sample, "run"), { recursive: true });
  await writeFile(join(sample, "files.json"), JSON.stringify(names.map((name) => `run/${name}`)));
  return folder;
}

/** Open a page of the app: it must merge in workers, and on the GPU. */
async function merges(url) {
  const page = await browser.newPage();
  const complaints = [];
  page.on("console", (message) => message.type() === "error" && complaints.push(message.text()));
  page.on("pageerror", (error) => complaints.push(error.message));
  page.on("response", (response) => response.status() >= 400 && complaints.push(`${response.status()} ${response.url()}`));
  try {
    await page.goto(url);
    await page.waitForFunction(() => document.title.split("|").length === 3, undefined, { timeout: 60_000 }).catch(() => {});
    assert.deepEqual(complaints, []);
    const [, cpu, gpu] = (await page.title()).split("|");
    assert.equal(cpu, `${BLAKE3} cpu, 2 workers, SIMD`);
    assert.match(gpu, new RegExp(`^${BLAKE3} gpu, `));
  } finally {
    await page.close();
  }
}

/** Serve what was built into `built`, beside the app's public files. */
async function mergesBuilt(folder, built) {
  const server = await serve({ "/sub/sample/": join(folder, "public/sample"), "/sub/": built });
  try {
    await merges(`${server.url}/sub/`);
  } finally {
    server.close();
  }
}

const BUILDERS = {
  async vite(folder, out) {
    await vite.build({ root: folder, base: "./", logLevel: "error", build: { outDir: out } });
  },
  async webpack(folder, out) {
    const stats = await promisify(webpack)({ mode: "production", context: folder, entry: "./main.js", output: { path: out, filename: "main.js" } });
    const { errors, warnings } = stats.compilation;
    assert.deepEqual([...errors, ...warnings.filter(({ name }) => !name.includes("SizeLimit"))].map(String), []);
    await cp(join(folder, "index.html"), join(out, "index.html"));
  },
  /** It leaves `new URL(…, import.meta.url)` as it is, so that the package's files are served as they are. */
  async esbuild(folder, out) {
    const source = await readFile(join(folder, "main.js"), "utf8");
    const contents = source.replace("import { merge, openRun }", "import { merge, openRun, ready }").replace("\n\n", '\n\nawait ready({ from: "mwa-merge" });\n');
    const { warnings } = await esbuild.build({ stdin: { contents, resolveDir: folder }, bundle: true, format: "esm", outfile: join(out, "main.js"), logLevel: "silent" });
    assert.deepEqual(warnings, []);
    await cp(join(folder, "node_modules/mwa-merge/dist"), join(out, "mwa-merge"), { recursive: true });
    await cp(join(folder, "index.html"), join(out, "index.html"));
  },
};

for (const [from, install] of [["a tarball", () => [tarball]], ["a folder", () => [packed]]]) {
  for (const [name, build] of Object.entries(BUILDERS)) {
    test(`${name} builds an app with the package from ${from}`, async () => {
      const folder = await app(...install());
      const out = join(folder, "built");
      await mkdir(out);
      await build(folder, out);
      await mergesBuilt(folder, out);
    });
  }
}

for (const [from, install] of [["a tarball", () => [tarball]], ["a copied folder", () => ["--install-links", packed]]]) {
  test(`Vite's development server serves an app with the package from ${from}`, async () => {
    const folder = await app(...install());
    const server = await vite.createServer({ root: folder, logLevel: "error", server: { host: "127.0.0.1", port: 0 } });
    try {
      await server.listen();
      await merges(server.resolvedUrls.local[0]);
    } finally {
      await server.close();
    }
  });
}

/** A development server as Vite's was before version 8: it bundles packages into a folder of its own, and answers what is not there with the page. */
async function movingServer(folder) {
  const deps = join(folder, "node_modules/.vite/deps");
  await esbuild.build({ entryPoints: { "mwa-merge": join(folder, "node_modules/mwa-merge/dist/index.js") }, bundle: true, format: "esm", outdir: deps, logLevel: "silent" });
  const main = await readFile(join(folder, "main.js"), "utf8");
  await writeFile(join(folder, "main.js"), main.replace('"mwa-merge"', '"/node_modules/.vite/deps/mwa-merge.js"'));
  const types = { ".js": "text/javascript", ".wasm": "application/wasm", ".json": "application/json", ".html": "text/html" };
  const server = createServer(async ({ url }, response) => {
    const { pathname } = new URL(url, "http://localhost");
    const places = [join(folder, pathname), join(folder, "public", pathname), join(folder, "index.html")];
    for (const place of places) {
      const bytes = await readFile(place).catch(() => undefined);
      if (bytes) return response.writeHead(200, { "content-type": types[extname(place)] ?? "application/octet-stream" }).end(bytes);
    }
  });
  await new Promise((listening) => server.listen(0, "127.0.0.1", listening));
  return { url: `http://127.0.0.1:${server.address().port}/`, close: () => server.close() };
}

test("a development server that moves scripts away from what they load leaves the package whole, or is told by name", async () => {
  const folder = await app(tarball);
  const server = await movingServer(folder);
  const page = await browser.newPage();
  try {
    await merges(server.url);
    // where the package lies elsewhere, nothing can be found
    await rename(join(folder, "node_modules/mwa-merge"), join(folder, "node_modules/elsewhere"));
    const error = new Promise((hear) => page.on("pageerror", hear));
    await page.goto(server.url);
    assert.match((await error).message, /cannot load http.*mwa_bg\.wasm: HTML came instead of WebAssembly/);
    const { kind, help } = await page.evaluate(() => import("/node_modules/.vite/deps/mwa-merge.js").then(({ ready }) => ready()).catch(({ kind, help }) => ({ kind, help })));
    assert.equal(kind, "io");
    assert.match(help, /optimizeDeps: \{ exclude: \["mwa-merge"\] \}/);
  } finally {
    await page.close();
    server.close();
  }
});

test("a bundle for Node takes Node's side of the package", async () => {
  const folder = await app(tarball);
  const [page, node] = await Promise.all(["browser", "node"].map(async (platform) => {
    const { metafile } = await esbuild.build({ entryPoints: [join(folder, "main.js")], bundle: true, format: "esm", platform, write: false, metafile: true, logLevel: "silent" });
    return Object.values(metafile.inputs).flatMap(({ imports }) => imports.map(({ path }) => path)).filter((path) => path.startsWith("node:"));
  }));
  assert.deepEqual(page, []);
  assert.ok(node.includes("node:worker_threads"));
});
