/** The package in Chromium with WebGPU, which SwiftShader stands in for, and without: the same bytes, and said which ran and why. */
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import test, { after, before } from "node:test";
import { chromium } from "playwright-core";

import { serve } from "./serve.mjs";

const root = fileURLToPath(new URL("../..", import.meta.url));
const SAMPLE = "3917d7751869697944e9d8e25eec8a69149a1d12ed99ac1ef60ce395af80bba1";
const executablePath = process.env.MWA_CHROMIUM ?? "/usr/bin/chromium";
const EMULATED = ["--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader"];

let server;

before(async () => {
  server = await serve({
    "/page/": `${root}/examples/browser/dist`,
    "/package/": `${root}/wasm/web/dist`,
    "/vectors/": `${root}/tests/vectors`,
    "/tests/": `${root}/tests/web`,
  });
});

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
    results[choice] = { sha256: report.outputs[0].sha256, device, reason };
  }
  return results;
}

test("a GPU gives the native bytes", async () => {
  const { gpu, auto, cpu } = await inChromium(EMULATED, sample);
  assert.deepEqual([gpu, auto, cpu].map(({ sha256 }) => sha256), [SAMPLE, SAMPLE, SAMPLE]);
  assert.match(gpu.device, /^gpu, /);
  assert.equal(gpu.reason, "it gave the CPU's bytes when it was probed");
  assert.deepEqual([auto.device, cpu.device], ["cpu, 2 workers, SIMD", "cpu, 2 workers, SIMD"]);
  assert.match(auto.reason, /over before a GPU is open/);
});

test("the page merges on the GPU that is chosen, and saves the native bytes", async () => {
  const browser = await chromium.launch({ executablePath, args: ["--no-sandbox", ...EMULATED] });
  try {
    const page = await browser.newPage();
    await page.goto(`${server.url}/page/`);
    await page.click("#sample");
    await page.getByText("10 of 10 checkpoints").waitFor();
    await page.selectOption("#device", "gpu");
    await page.click("#merge");
    await page.getByText(SAMPLE).first().waitFor();
    assert.match(await page.locator(".good").textContent(), /Merged 10 checkpoints .* on gpu, /);
    assert.match(await page.locator("#reason").textContent(), /gave the CPU's bytes/);
    const [download] = await Promise.all([page.waitForEvent("download"), page.getByRole("button", { name: "adapter_model.safetensors" }).click()]);
    assert.equal(createHash("sha256").update(await readFile(await download.path())).digest("hex"), SAMPLE);
  } finally {
    await browser.close();
  }
});

test("without WebGPU the CPU gives the same bytes, and it is said why", async () => {
  const { gpu, auto } = await inChromium([], sample);
  assert.deepEqual([gpu, auto].map(({ sha256 }) => sha256), [SAMPLE, SAMPLE]);
  assert.equal(gpu.device, "cpu, 2 workers, SIMD");
  assert.match(gpu.reason, /WebGPU/);
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
