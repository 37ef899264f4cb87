/** Speeds of the package beside the native binary's, in one run: node bench.mjs MWA. Each answer is checked against native. */
import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { availableParallelism, platform, tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { chromium } from "playwright-core";

import * as mwa from "../../wasm/web/dist/index-node.js";
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

makeRun();
const cores = availableParallelism();
const contenders = [];
/** `work` is one merge, and gives its seconds if it knows them better than we; `against` names the native merge that does as much. */
const contend = (name, work, against, rounds = ROUNDS) => contenders.push({ name, work, against, rounds, seconds: [] });

let expected;
const same = (blake3) => {
  if (blake3 !== expected) throw new Error(`gave ${blake3}, the native binary ${expected}`);
};

const out = join(folder, "out");
const natively = (threads, flags) => () => {
  execFileSync(native, ["merge", join(folder, "run"), "--select", "all", "-o", out, "--force", "--quiet", "--device", "cpu", "--threads", `${threads}`, ...flags], { stdio: "inherit" });
  expected ??= JSON.parse(readFileSync(join(out, "mwa-report.json"), "utf8")).outputs[0].blake3;
};
const NATIVE = (threads, residual = false) => `native, ${threads} thread${threads === 1 ? "" : "s"}${residual ? ", residual" : ""}`;
for (const threads of new Set([1, cores])) contend(NATIVE(threads), natively(threads, ["--residual", "off"]));
contend(NATIVE(1, true), natively(1, []));

/** Each is a row: what is said of it, options, and the threads and residual of the native merge beside it. */
const ROWS = [
  ["1 worker", { threads: 1, residual: "off" }, NATIVE(1)],
  ["1 worker, residual", { threads: 1 }, NATIVE(1, true)],
  [`${cores} workers`, { threads: cores, residual: "off" }, NATIVE(cores)],
];

for (const [name, options, against] of [["this thread", { threads: 0, residual: "off" }, NATIVE(1)], ...ROWS]) {
  contend(`node, ${name}`, async () => {
    const run = await mwa.openRun(await disk(join(folder, "run")));
    const { report, seconds } = await mwa.merge(run, { select: "all", ...options });
    same(report.outputs[0].blake3);
    return seconds;
  }, against);
}

const server = await serve({ "/page/": `${root}/examples/browser/dist`, "/package/": `${root}/wasm/web/dist` });
/** A browser on the page, with the run chosen in an input of our own. */
async function open(...flags) {
  const browser = await chromium.launch({ executablePath: process.env.MWA_CHROMIUM ?? "/usr/bin/chromium", args: ["--no-sandbox", ...flags] });
  const page = await (await browser.newContext()).newPage();
  await page.goto(`${server.url}/page/`);
  const input = await page.evaluateHandle(() => document.body.appendChild(Object.assign(document.createElement("input"), { type: "file", webkitdirectory: true, id: "bench" })));
  await page.setInputFiles("#bench", join(folder, "run"));
  const merge = async (options) => {
    const { blake3, seconds, device, reason } = await page.evaluate(async ({ url, input, options }) => {
      const { openRun, merge } = await import(`${url}/package/index.js`);
      const { report, seconds, device, reason } = await merge(await openRun([...input.files]), { select: "all", ...options });
      return { blake3: report.outputs[0].blake3, seconds, device, reason };
    }, { url: server.url, input, options });
    same(blake3);
    if (options.device === "gpu" && !device.startsWith("gpu")) throw new Error(`no GPU: ${reason}`);
    return seconds;
  };
  return { browser, merge };
}
const plain = await open();
for (const [name, options, against] of ROWS) contend(`chromium, ${name}`, () => plain.merge(options), against);
const withGpu = await open("--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader");
contend("chromium, SwiftShader as GPU", () => withGpu.merge({ device: "gpu", threads: 1, residual: "off" }), NATIVE(1), 1);

// everyone once in each round
for (let round = 0; round < ROUNDS; round += 1) {
  for (const { work, rounds, seconds } of contenders) {
    if (round >= rounds) continue;
    const began = performance.now();
    seconds.push((await work()) ?? (performance.now() - began) / 1000);
  }
}

const best = (seconds) => Math.min(...seconds);
console.log(`${COUNT} checkpoints of ${SIZE / 1e6} MB, bf16; best of ${ROUNDS}, side by side; ${cores} cores; inputs hashed, no residual, unless it says so\n`);
console.log("| what | s | GB/s | of native |\n|---|---|---|---|");
for (const { name, seconds, against } of contenders) {
  const native = contenders.find(({ name }) => name === against)?.seconds;
  const share = native ? (best(native) / best(seconds)).toFixed(2) : "";
  console.log(`| ${name} | ${best(seconds).toFixed(3)} | ${((COUNT * SIZE) / best(seconds) / 1e9).toFixed(2)} | ${share} |`);
}
console.log("\nSwiftShader is a program on the CPU that stands in for a GPU: its row says that the way works, not how fast a GPU is.");

/** Peak memory of a process; only Linux tells. */
const peak = (id) => {
  const kB = /VmHWM:\s*(\d+)/.exec(readFileSync(`/proc/${id}/status`, "utf8"))[1];
  return `${(Number(kB) / 1000).toFixed(0)} MB`;
};
if (platform() === "linux") {
  for (const threads of new Set([1, cores])) {
    const script = `const { mergeRun } = await import(${JSON.stringify(new URL("../../wasm/web/dist/node.js", import.meta.url))});
      await mergeRun(${JSON.stringify(join(folder, "run"))}, ${JSON.stringify(out)}, ${JSON.stringify({ force: true, threads, select: "all" })});
      const peak = ${peak};
      console.log(peak("self"));`;
    const imports = 'import { readFileSync } from "node:fs";';
    const told = execFileSync(process.execPath, ["--input-type=module", "--eval", imports + script], { encoding: "utf8" });
    console.log(`node, one merge from disk to disk, workers: ${threads}; peak resident ${told.trim()}`);
  }
  const { processInfo } = await (await plain.browser.newBrowserCDPSession()).send("SystemInfo.getProcessInfo");
  const [renderer] = processInfo.filter(({ type }) => type === "renderer").map(({ id }) => peak(id)).sort((a, b) => parseInt(b) - parseInt(a));
  console.log(`chromium, the page's process over all merges: peak resident ${renderer}`);
}

const ready = [];
for (let round = 0; round < ROUNDS; round += 1) {
  const fresh = await (await plain.browser.newContext({ serviceWorkers: "block" })).newPage();
  await fresh.goto(`${server.url}/page/`);
  await fresh.waitForSelector("html[data-ready]");
  ready.push(await fresh.evaluate(() => performance.now() - performance.getEntriesByType("navigation")[0].responseEnd));
  await fresh.context().close();
}
console.log(`chromium: page to ready, ${best(ready).toFixed(0)} ms after its HTML came`);
await Promise.all([plain, withGpu].map(({ browser }) => browser.close()));
server.close();
