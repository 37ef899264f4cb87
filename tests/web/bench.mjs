/** Speeds of the package beside the native binary's, in one run: node bench.mjs MWA. Each answer is checked against native. */
import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { availableParallelism, tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { chromium } from "playwright-core";

import * as mwa from "../../wasm/web/dist/index.js";
import { disk } from "../../wasm/web/dist/node.js";
import { serve } from "./serve.mjs";

const root = fileURLToPath(new URL("../..", import.meta.url));
const native = process.argv[2];
const ROUNDS = Number(process.env.ROUNDS ?? 3);
const [COUNT, SIZE] = [10, 80e6];

const folder = mkdtempSync(join(tmpdir(), "mwa-bench-"));
process.on("exit", () => rmSync(folder, { recursive: true, force: true }));

/** Ten checkpoints of 80 MB in bf16, a run as LoRA leaves it: numbers of ordinary size, different in each. */
function makeRun() {
  const [modules, rank, width] = [76, 16, 16384];
  for (let k = 1; k <= COUNT; k += 1) {
    const path = join(folder, `run/checkpoint-${k * 100}`);
    mkdirSync(path, { recursive: true });
    const header = {};
    let end = 0;
    // in the order of names, as safetensors writes them
    for (const m of Array.from({ length: modules }, (_, m) => `${m}`).sort()) {
      for (const [half, shape] of [["A", [rank, width]], ["B", [width, rank]]]) {
        header[`base_model.model.layers.${m}.q_proj.lora_${half}.weight`] = { dtype: "BF16", shape, data_offsets: [end, (end += rank * width * 2)] };
      }
    }
    const json = Buffer.from(JSON.stringify(header));
    const head = Buffer.alloc(8 + Math.ceil(json.length / 8) * 8, " ");
    head.writeBigUInt64LE(BigInt(head.length - 8));
    json.copy(head, 8);
    const words = new Uint16Array(end / 2);
    let state = 1;
    for (let i = 0; i < words.length; i += 1) {
      // the same for all checkpoints but the last bits: one run
      state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
      words[i] = ((state >>> 16) & 0x8000) | 0x3c00 | ((state >>> 20) & 0x1f8) | ((state >>> 9) * k) % 8;
    }
    writeFileSync(join(path, "adapter_model.safetensors"), Buffer.concat([head, Buffer.from(words.buffer)]));
    writeFileSync(join(path, "adapter_config.json"), JSON.stringify({ peft_type: "LORA", r: rank, lora_alpha: 32 }));
    const log_history = Array.from({ length: k }, (_, i) => ({ step: (i + 1) * 100, loss: 2 / (i + 1), eval_loss: 2 / (i + 1) }));
    writeFileSync(join(path, "trainer_state.json"), JSON.stringify({ global_step: k * 100, log_history }));
  }
}

const best = (seconds) => Math.min(...seconds);
const row = (name, seconds, note = "") => console.log(`${name.padEnd(34)} ${best(seconds).toFixed(3)} s  ${((COUNT * SIZE) / best(seconds) / 1e9).toFixed(2)} GB/s  ${note}`);

async function rounds(work) {
  const seconds = [];
  for (let i = 0; i < ROUNDS; i += 1) {
    const began = performance.now();
    const told = await work();
    seconds.push(typeof told === "number" ? told : (performance.now() - began) / 1000);
  }
  return seconds;
}

makeRun();
let expected;
const natively = (threads) => () => {
  const out = join(folder, "out");
  execFileSync(native, ["merge", join(folder, "run"), "-o", out, "--force", "--quiet", "--no-residual", "--device", "cpu", "--threads", String(threads)], { stdio: "inherit" });
  expected ??= createHash("sha256").update(readFileSync(join(out, "adapter_model.safetensors"))).digest("hex");
};

const same = (sha256) => {
  if (sha256 !== expected) throw new Error(`gave ${sha256}, the native binary ${expected}`);
};
const cores = availableParallelism();

console.log(`${COUNT} checkpoints of ${SIZE / 1e6} MB, bf16; best of ${ROUNDS}; ${cores} cores`);
const base = {};
for (const threads of new Set([1, cores])) {
  base[threads] = await rounds(natively(threads));
  row(`native, ${threads} threads`, base[threads]);
}
for (const [name, threads, against] of [["node, this thread", 0, 1], ["node, 1 worker", 1, 1], [`node, ${cores} workers`, cores, cores]]) {
  for (const skipInputHashes of [false, true]) {
    const run = await mwa.openRun(await disk(join(folder, "run")));
    const seconds = await rounds(async () => same((await mwa.merge(run, { threads, skipInputHashes })).report.outputs[0].sha256));
    row(`${name}${skipInputHashes ? ", inputs unhashed" : ""}`, seconds, `${(best(base[against]) / best(seconds)).toFixed(2)} of native`);
  }
}
console.log(`node: peak resident ${(process.resourceUsage().maxRSS / 1000).toFixed(0)} MB`);

const server = await serve({ "/page/": `${root}/examples/browser/dist`, "/package/": `${root}/wasm/web/dist` });
const browser = await chromium.launch({ executablePath: process.env.MWA_CHROMIUM ?? "/usr/bin/chromium", args: ["--no-sandbox", "--enable-precise-memory-info"] });
const page = await (await browser.newContext()).newPage();
await page.goto(`${server.url}/page/`);
await page.waitForSelector("html[data-ready]");
await page.setInputFiles("#folder", join(folder, "run"));
await page.getByText(`${COUNT} of ${COUNT} checkpoints`).waitFor();
for (const [name, threads, against] of [["chromium, 1 worker", 1, 1], [`chromium, ${cores} workers`, cores, cores]]) {
  for (const skipInputHashes of [false, true]) {
    const inner = await page.evaluateHandle(async ({ url }) => {
      const { openRun, merge } = await import(`${url}/package/index.js`);
      const input = Object.assign(document.createElement("input"), { type: "file", webkitdirectory: true, id: "bench" });
      document.body.append(input);
      return { openRun, merge, input };
    }, { url: server.url });
    await page.setInputFiles("#bench", join(folder, "run"));
    const seconds = await rounds(() => page.evaluate(async ({ inner, threads, skipInputHashes, expected }) => {
      const run = await inner.openRun([...inner.input.files]);
      const { report, seconds } = await inner.merge(run, { threads, skipInputHashes });
      if (report.outputs[0].sha256 !== expected) throw new Error("other bytes than native");
      return seconds;
    }, { inner, threads, skipInputHashes, expected }));
    await page.evaluate(() => document.getElementById("bench").remove());
    row(`${name}${skipInputHashes ? ", inputs unhashed" : ""}`, seconds, `${(best(base[against]) / best(seconds)).toFixed(2)} of native`);
  }
}
const heap = await page.evaluate(() => performance.memory.totalJSHeapSize);
console.log(`chromium: JavaScript heap of the page after the merges ${(heap / 1e6).toFixed(0)} MB`);

const ready = await rounds(async () => {
  const fresh = await (await browser.newContext({ serviceWorkers: "block" })).newPage();
  await fresh.goto(`${server.url}/page/`);
  await fresh.waitForSelector("html[data-ready]");
  const at = await fresh.evaluate(() => performance.now() - performance.getEntriesByType("navigation")[0].responseEnd);
  await fresh.context().close();
  return at / 1000;
});
console.log(`chromium: page to ready, ${(best(ready) * 1000).toFixed(0)} ms after its HTML came`);
await browser.close();
server.close();
