/** The package in Chromium with WebGPU, which SwiftShader stands in for, and without: the same bytes, and said which ran and why. */
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import test, { after, before } from "node:test";
import { chromium } from "playwright-core";

import { serve } from "./serve.mjs";

const root = fileURLToPath(new URL("../..", import.meta.url));
const SAMPLE = "3a2ec8d96a529c7a9f2d5a0aa528a74293a094a41bda43146afe4739e12376f8";
const BLAKE3 = "7e2717852355ddf7431ccf51a06072d54e7d782248adc2a92c980644e04e9f2b";
const executablePath = process.env.MWA_CHROMIUM ?? "/usr/bin/chromium";
const EMULATED = ["--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader"];

let server;

before(async () => {
  server = await serve({
    "/page/": `${root}/examples/browser/dist`,
    "/package/": `${root}/wasm/web/dist`,
    "/vectors/": `${root}/tests/vectors`,
    "/tests/": `${root}/tests/web`,
    "/lost/": `${root}/wasm/web/dist`,
  }, lose);
});

/** Below /lost/, the package's GPU fails at its fifth sum. */
function lose(path, body) {
  if (path !== "/lost/gpu-worker.js") return body;
  const call = "const result = await gpu.run(";
  const lost = 'if ((globalThis.sums = (globalThis.sums ?? 0) + 1) > 4) throw new Error("gpu: lost by a test");';
  assert.ok(body.includes(call));
  return String(body).replace(call, `${lost} ${call}`);
}

after(() => server?.close());

/** Do something in a page of a Chromium that was started with `flags`. */
async function inChromium(flags, work) {
  const browser = await chromium.launch({ executablePath, args: ["--no-sandbox", ...flags] });
  try {
    const page = await browser.newPage();
    await page.goto(`${server.url}/page/`);
    return await page.evaluate(work, server.url);
  } finally {
    await browser.close();
  }
}

/** Merge the sample on each device; hash, device and reason. */
async function sample(url) {
  const { openRun, merge } = await import(`${url}/package/index.js`);
  const list = await (await fetch("sample/files.json")).json();
  const files = list.filter(({ path }) => path.startsWith("sample-run/"));
  const inputs = await Promise.all(files.map(async ({ path }) => ({ name: path, data: await (await fetch(`sample/${path}`)).blob() })));
  const results = {};
  for (const choice of ["gpu", "auto", "cpu"]) {
    const { report, device, reason } = await merge(await openRun(inputs), { device: choice, threads: 2 });
    results[choice] = { blake3: report.outputs[0].blake3, device, reason };
  }
  return results;
}

test("a GPU gives the native bytes", async () => {
  const { gpu, auto, cpu } = await inChromium(EMULATED, sample);
  assert.deepEqual([gpu, auto, cpu].map(({ blake3 }) => blake3), [BLAKE3, BLAKE3, BLAKE3]);
  assert.match(gpu.device, /^gpu, /);
  assert.equal(gpu.reason, "the GPU gave the CPU's bytes when it was probed");
  assert.deepEqual([auto.device, cpu.device], ["cpu, 2 workers, SIMD", "cpu, 2 workers, SIMD"]);
  assert.match(auto.reason, /before a GPU would be ready/);
});

test("the page merges on the GPU that is chosen, and saves the native bytes", async () => {
  const browser = await chromium.launch({ executablePath, args: ["--no-sandbox", ...EMULATED] });
  try {
    const page = await browser.newPage();
    await page.goto(`${server.url}/page/`);
    await page.click("#sample");
    await page.getByText("5 of 10 checkpoints").waitFor();
    await page.selectOption("#device", "gpu");
    await page.click("#merge");
    await page.getByText(BLAKE3).first().waitFor();
    assert.match(await page.locator(".good").textContent(), /Merged 5 checkpoints .* on gpu, /);
    assert.match(await page.locator("#reason").textContent(), /gave the CPU's bytes/);
    const [download] = await Promise.all([page.waitForEvent("download"), page.getByRole("button", { name: "adapter_model.safetensors" }).click()]);
    assert.equal(createHash("sha256").update(await readFile(await download.path())).digest("hex"), SAMPLE);
  } finally {
    await browser.close();
  }
});

test("without WebGPU the CPU gives the same bytes, and it is said why", async () => {
  const { gpu, auto } = await inChromium([], sample);
  assert.deepEqual([gpu, auto].map(({ blake3 }) => blake3), [BLAKE3, BLAKE3]);
  assert.equal(gpu.device, "cpu, 2 workers, SIMD");
  assert.match(gpu.reason, /WebGPU/);
});

test("the CPU goes on when a GPU is lost midway, with bytes of any source", async () => {
  const results = await inChromium(EMULATED, async (url) => {
    const { openRun, merge } = await import(`${url}/lost/index.js`);
    const { huge } = await import(`${url}/tests/huge.mjs`);
    const ranges = huge(32 << 20);
    const blobs = await Promise.all(ranges.map(async ({ name, size, read }) => ({ name, data: new Blob([await read(0, size)]) })));
    const results = [];
    for (const [inputs, device] of [[ranges, "cpu"], [ranges, "gpu"], [blobs, "gpu"]]) {
      const { report, reason } = await merge(await openRun(inputs), { device, threads: 2, weights: [1, 3] });
      results.push({ blake3: report.outputs[0].blake3, reason });
    }
    return results;
  });
  assert.equal(new Set(results.map(({ blake3 }) => blake3)).size, 1);
  for (const { reason } of results.slice(1)) assert.equal(reason, "gpu: lost by a test; the CPU does the rest");
});

test("auto leaves an emulated GPU alone, whatever there is to read", async () => {
  const { device, reason, last } = await inChromium(EMULATED, async (url) => {
    const { openRun, merge } = await import(`${url}/package/index.js`);
    const { huge } = await import(`${url}/tests/huge.mjs`);
    const { files, device, reason } = await merge(await openRun(huge(130 << 20)), { threads: 2, weights: [1, 3] });
    const last = new Float32Array(await files[0].blob.slice(-4).arrayBuffer());
    return { device, reason, last: last[0] };
  });
  assert.equal(device, "cpu, 2 workers, SIMD");
  assert.match(reason, /is a program on the CPU|over before the GPU was open/);
  assert.equal(last, 1.75);
});

test("all vectors on a GPU", async () => {
  const { count, wrong, devices } = await inChromium(EMULATED, async (url) => {
    const mwa = await import(`${url}/package/index.js`);
    const { runVectors } = await import(`${url}/tests/vectors.mjs`);
    const devices = {};
    const merge = async (run, options) => {
      const merged = await mwa.merge(run, { ...options, device: "gpu" });
      const told = `${merged.device}: ${merged.reason}`;
      devices[told] = (devices[told] ?? 0) + 1;
      return merged;
    };
    const read = async (path) => new Uint8Array(await (await fetch(`${url}/vectors/${path}`)).arrayBuffer());
    return { ...(await runVectors({ ...mwa, merge }, read, 0)), devices };
  });
  assert.deepEqual(wrong, []);
  assert.ok(count > 250);
  assert.ok(Object.keys(devices).every((device) => device.startsWith("gpu, ")), JSON.stringify(devices));
});
