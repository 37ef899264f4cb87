// Run all vectors and the sample run: through jco's transpiled component, here or in Chromium, or through the core module.
//
//   node tests/runner.mjs component DIR   (DIR: what `jco transpile` wrote)
//   node tests/runner.mjs browser DIR     (playwright-core is found from there)
//   node tests/runner.mjs module FILE
//
// Prints what failed, then one line of JSON: counts, the SHA-256 over all outputs, and the BLAKE3 of the sample run's merge.
import { createHash } from "node:crypto";
import { readdirSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join, relative, resolve } from "node:path";
import { performance } from "node:perf_hooks";
import { fileURLToPath, pathToFileURL } from "node:url";
import { checkpoints } from "../wasm/files.mjs";
import * as modules from "../wasm/module.mjs";
import { face } from "./component.mjs";
import { pack, unpack } from "./web/pack.mjs";
import { serve } from "./web/serve.mjs";

const root = join(fileURLToPath(import.meta.url), "../..");
const vectors = join(root, "tests/vectors");
const [kind, path] = process.argv.slice(2);
let close = () => {};
const { merge, weigh } = await { component, browser, module }[kind](path);

async function component(folder) {
  const { merger } = await import(pathToFileURL(join(resolve(folder), "mwa.js")));
  return face(merger);
}

/** The same in Chromium, asked from here: numbers and bytes go there and come back. */
async function browser(folder) {
  const { chromium } = createRequire(join(resolve(folder), "mwa.js"))("playwright-core");
  const server = await serve({ "/component/": resolve(folder), "/wasm/": join(root, "wasm"), "/tests/": join(root, "tests") });
  // "--no-sandbox": CI runs as root in a container
  const program = await chromium.launch({ executablePath: process.env.MWA_CHROMIUM ?? "/usr/bin/chromium", args: ["--no-sandbox"] });
  close = () => (server.close(), program.close());
  const page = await program.newPage();
  await page.goto(`${server.url}/tests/web/component.html`);
  const call = (name) => async (...given) => {
    const { value, error } = await page.evaluate(([name, given]) => globalThis.call(name, given), [name, pack(given)]);
    if (error) throw Object.assign(new Error(error.detail), error);
    return unpack(value);
  };
  return { merge: call("merge"), weigh: call("weigh") };
}

async function module(file) {
  const instance = await modules.instantiate(readFileSync(file));
  return { merge: (...given) => modules.mergeFiles(instance, ...given) };
}

/** Merge checkpoints of one file each; the bytes of the output. */
async function mergeEach(inputs, options, chunk) {
  const { outputs } = await merge(checkpoints(inputs), inputs.map(({ name }) => name), options, chunk);
  return Object.values(outputs)[0];
}

const read = (name) => new Uint8Array(readFileSync(join(vectors, name)));
const sha256 = (bytes) => createHash("sha256").update(bytes).digest("hex");
const index = JSON.parse(readFileSync(join(vectors, "index.json"), "utf8"));
const count = { passed: 0, failed: 0, skipped: 0 };
const outputs = createHash("sha256");

async function check(name, body) {
  try {
    const wrong = await body();
    if (wrong) throw new Error(wrong);
    count.passed += 1;
  } catch (error) {
    count.failed += 1;
    console.log(`${name}: ${error.stack}`);
  }
}

/** Tensors by name: dtype, shape and bytes. The layout of a file and its metadata are not compared. */
function tensors(bytes) {
  const length = Number(new DataView(bytes.buffer, bytes.byteOffset).getBigUint64(0, true));
  const head = JSON.parse(new TextDecoder().decode(bytes.subarray(8, 8 + length)));
  delete head.__metadata__;
  const one = ([name, { dtype, shape, data_offsets: [start, end] }]) =>
    `${name} ${dtype} ${shape} ${sha256(bytes.subarray(8 + length + start, 8 + length + end))}`;
  return Object.entries(head).map(one).sort().join("\n");
}

/** Expect a failure of a kind that names what it should. */
async function fails(call, { error: kind, tensor, says }) {
  try {
    await call();
  } catch (error) {
    if (error.kind !== kind) return `failed with ${error.kind} (${error.message}), expected ${kind}`;
    const all = `${error.file ?? ""}: ${error.tensor ?? ""} ${error.message} ${error.help ?? ""}`;
    if (!all.includes(tensor ?? "")) return `names tensor ${error.tensor}, expected ${tensor}: ${all}`;
    return all.toLowerCase().includes((says ?? "").toLowerCase()) ? undefined : `says "${all}", expected "${says}"`;
  }
  return `did not fail, expected ${kind}`;
}

for (const it of index.cases) {
  await check(it.case, async () => {
    const inputs = it.inputs.map((name, i) => ({ name: `input ${i}`, bytes: read(name) }));
    const dtype = it.dtype === "keep" ? undefined : it.dtype;
    const options = { weights: it.weights, dtype, allow_cross_run: true, allow_non_finite: it.non_finite === "allow", rewrite: true };
    // what the plan can do, but no program would ask for
    if (it.case === "no-tensors") return fails(() => mergeEach(inputs, options, 1000), { error: "input", says: "no tensors" });
    if (it.error) return fails(() => mergeEach(inputs, options, 1000), it);
    const bytes = await mergeEach(inputs, options, 1000);
    outputs.update(bytes);
    return tensors(bytes) === tensors(read(it.output)) ? undefined : `differs from ${it.output}`;
  });
}
const products = JSON.parse(readFileSync(join(vectors, "product/sha256.json"), "utf8"));
const ranks = [["inputs", {}], ["1", { rank: 1 }], ["full", { rank: "full" }], ["energy 0.9", { rank: "auto", energy: 0.9 }]];
for (const { name, weights, configs } of JSON.parse(readFileSync(join(vectors, "product/index.json"), "utf8"))) {
  for (const [asked, rank] of ranks) {
    const title = `${name} at rank ${asked}`;
    await check(title, async () => {
      const inputs = configs.map((config, i) => ({ name: `input ${i}`, bytes: read(`product/${name}-${i}.safetensors`), config: JSON.stringify(config) }));
      const bytes = await mergeEach(inputs, { weights, space: "product", ...rank }, 1000);
      outputs.update(bytes);
      return sha256(bytes) === products[title] ? undefined : `${sha256(bytes)}, expected ${products[title]}`;
    });
  }
}
const number = (value) => (typeof value === "string" ? Number(value) : value);
// JSON has no word for penalties that are not finite
for (const it of index.weights.filter((it) => it.metrics && weigh && Number.isFinite(number(it.penalty ?? 0)))) {
  await check(it.case, async () => {
    const call = () => weigh(it.metrics.map(number), { goal: it.goal ?? "min", scheme: it.scheme, penalty: number(it.penalty ?? 0) });
    if (it.error) return fails(call, it);
    const close = (a, b) => a === b || (b !== 0 && Math.abs(a - b) <= Math.max(1e-14 * Math.abs(b), 1e-16));
    return [...(await call())].every((weight, i) => close(weight, it.weights[i])) ? undefined : `weights differ`;
  });
}
for (const it of index.hostile) {
  await check(it.case ?? it.file, async () => {
    const bytes = read(it.file);
    const call = () => mergeEach([{ name: it.file, bytes }], { weights: [1], dtype: "f32", allow_non_finite: true });
    if (it.error) return fails(call, it);
    if (it.tensors.length === 0) return fails(call, { error: "input", says: "no tensors" });
    await call();
  });
}

const run = join(root, "examples/sample-run");
const files = {};
for (const entry of readdirSync(run, { recursive: true, withFileTypes: true })) {
  const path = join(entry.parentPath ?? entry.path, entry.name);
  if (entry.isFile()) files[`run/${relative(run, path)}`] = new Uint8Array(readFileSync(path));
}
const start = performance.now();
const merged = await merge(files, ["run"]);
const seconds = (performance.now() - start) / 1000;
console.log(JSON.stringify({ ...count, vectors: outputs.digest("hex"), sample: merged.report.outputs[0].blake3, seconds }));
process.exitCode = count.failed === 0 ? 0 : 1;
await close();
