/** The page in Chromium, as people use it: by mouse, by keyboard, with good files and bad ones, online and off. */
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { cp, mkdtemp, readFile, rm, truncate, writeFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import test, { after, before, beforeEach, afterEach } from "node:test";
import { chromium } from "playwright-core";

import { serve } from "./serve.mjs";

const root = fileURLToPath(new URL("../..", import.meta.url));
const SAMPLE = "3a2ec8d96a529c7a9f2d5a0aa528a74293a094a41bda43146afe4739e12376f8";
const BLAKE3 = "7e2717852355ddf7431ccf51a06072d54e7d782248adc2a92c980644e04e9f2b";
const axe = await readFile(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");

let server, browser, context, page, foreign, complaints;

before(async () => {
  server = await serve({
    "/some/path/": `${root}/examples/browser/dist`,
    "/package/": `${root}/wasm/web/dist`,
    "/vectors/": `${root}/tests/vectors`,
    "/tests/": `${root}/tests/web`,
  });
  // "--no-sandbox": CI runs as root in a container
  browser = await chromium.launch({ executablePath: process.env.MWA_CHROMIUM ?? "/usr/bin/chromium", args: ["--no-sandbox"] });
});

after(async () => {
  await browser?.close();
  server?.close();
});

beforeEach(async () => {
  context = await browser.newContext({ acceptDownloads: true, viewport: { width: 1280, height: 900 } });
  await watch(context);
});

afterEach(async () => {
  await context.close();
  assert.deepEqual(foreign, [], "requests left the origin");
  assert.deepEqual(complaints, [], "the console complained");
});

/** Note requests to elsewhere, and what the console says: CSP violations are told there. */
async function watch(context) {
  [foreign, complaints] = [[], []];
  context.on("request", (request) => {
    const { protocol, origin } = new URL(request.url());
    if (protocol.startsWith("http") && origin !== server.url) foreign.push(request.url());
  });
  context.on("console", (message) => message.type() === "error" && complaints.push(message.text()));
  context.on("weberror", (error) => complaints.push(error.error().message));
  page = await context.newPage();
}

async function openPage(path = "") {
  await page.goto(`${server.url}/some/path/${path}`);
  await page.waitForSelector("html[data-ready]");
}

async function openSample() {
  await page.click("#sample");
  await page.getByText("5 of 10 checkpoints").waitFor();
}

async function compare() {
  await page.getByText("How alike the checkpoints are").click();
  await page.getByRole("button", { name: "Compare" }).click();
  await page.locator(".heatmap").waitFor();
}

/** A copy of the sample run, changed. */
async function changed(change) {
  const folder = await mkdtemp(join(tmpdir(), "mwa-web-"));
  await cp(`${root}/examples/sample-run`, join(folder, "run"), { recursive: true });
  await change(join(folder, "run"));
  return { path: join(folder, "run"), remove: () => rm(folder, { recursive: true }) };
}

async function openFolder(path) {
  await openPage();
  await page.setInputFiles("#folder", path);
}

const weights = async () => page.locator("tbody tr td:nth-child(6)").allTextContents();
const sha256 = async (download) => createHash("sha256").update(await readFile(await download.path())).digest("hex");

test("the sample run by mouse: weights follow the penalty, the saved file is the native one", async () => {
  await openPage();
  await openSample();
  const first = await weights();
  await page.locator("#penalty").fill("0");
  assert.deepEqual(new Set(await weights()), new Set(["", "0.2000"]));
  await page.locator("#penalty").fill("0.8");
  assert.deepEqual(await weights(), first);
  await page.selectOption("#scheme", "rank");
  assert.notDeepEqual(await weights(), first);
  await page.selectOption("#scheme", "linear");
  await page.selectOption("#metric", "loss");
  await page.getByText("by loss (lower is better)").waitFor();
  await page.selectOption("#metric", "eval_loss");
  await compare();
  assert.equal(await page.locator(".heatmap tbody tr").count(), 5);
  await page.click("#merge");
  await page.getByText(BLAKE3).first().waitFor();
  assert.match(await page.locator(".good").textContent(), /Merged 5 checkpoints .* on cpu, \d+ worker/);
  const [download] = await Promise.all([page.waitForEvent("download"), page.getByRole("button", { name: "adapter_model.safetensors" }).click()]);
  assert.equal(await sha256(download), SAMPLE);
});

test("the sample run by keyboard alone", async () => {
  await openPage();
  const reach = async (id) => {
    for (let i = 0; i < 60; i += 1) {
      await page.keyboard.press("Tab");
      if (await page.evaluate((id) => document.activeElement?.id === id, id)) return;
    }
    assert.fail(`#${id} is not reached with Tab`);
  };
  await reach("sample");
  await page.keyboard.press("Enter");
  await page.getByText("5 of 10 checkpoints").waitFor();
  await reach("penalty");
  await page.keyboard.press("Home");
  assert.deepEqual(new Set(await weights()), new Set(["", "0.2000"]));
  for (let i = 0; i < 80; i += 1) await page.keyboard.press("ArrowRight");
  await reach("merge");
  await page.keyboard.press("Enter");
  await page.getByText(BLAKE3).first().waitFor();
});

test("schemes by steps and by tensors have the fields that they take, and a merge shows the weights that it found", async () => {
  await openPage();
  await openSample();
  await page.selectOption("#scheme", "decay");
  assert.ok(!(await page.locator("#penalty").isVisible()));
  const linear = await weights();
  await page.selectOption("#curve", "cosine");
  await page.getByText("decay, curve cosine").first().waitFor();
  assert.notDeepEqual(await weights(), linear);
  await page.selectOption("#scheme", "ema");
  await page.locator("#ema-decay").fill("0.5");
  assert.deepEqual((await weights()).filter(Boolean).slice(-2), ["0.2500", "0.5000"]);
  await page.selectOption("#scheme", "multi-krum");
  assert.deepEqual(new Set(await weights()), new Set(["", "?"]));
  assert.ok(await page.locator("#outliers").isVisible());
  await page.selectOption("#scheme", "geometric-median");
  await page.click("#merge");
  await page.locator(".good").waitFor();
  const found = (await weights()).filter(Boolean).map(Number);
  assert.ok(found.length >= 2 && Math.abs(found.reduce((sum, weight) => sum + weight, 0) - 1) < 1e-3, `${found}`);
  await page.selectOption("#scheme", "linear");
  await page.getByText("The choice has changed: merge again.").waitFor();
});

test("curve, weights and Merge are in sight together, and the way in is a line", async () => {
  await page.setViewportSize({ width: 1280, height: 800 });
  await openPage();
  assert.ok(await page.getByText("What comes out").isVisible());
  await openSample();
  assert.ok(!(await page.getByText("What comes out").isVisible()));
  assert.equal(await page.evaluate(() => document.activeElement.id), "weights-title");
  for (const seen of [".chart", "#penalty", "tbody tr:not(.out) >> nth=4", "#merge"]) {
    const { y, height } = await page.locator(seen).first().boundingBox();
    assert.ok(y >= 0 && y + height <= 800, `${seen} lies from ${y} to ${y + height}`);
  }
  assert.deepEqual(await page.locator("button.primary:visible").allTextContents(), ["Merge"]);
});

test("a result of an earlier choice is not offered", async () => {
  await openPage();
  await openSample();
  await page.click("#merge");
  await page.getByText(BLAKE3).first().waitFor();
  assert.ok(await page.locator("#save-files").isVisible());
  await page.locator("#penalty").fill("0.1");
  await page.getByText("The choice has changed: merge again.").waitFor();
  assert.equal(await page.locator("#save-files").count(), 0);
  assert.equal(await page.getByText(BLAKE3).count(), 0);
});

test("what cannot be is told where its cause is", async () => {
  await openPage();
  await openSample();
  await page.selectOption("#space", "product");
  await page.selectOption("#rank-by", "number");
  await page.locator("#rank").fill("999");
  const told = page.locator("section", { has: page.locator("#merge-title") }).locator(".problem");
  await told.getByText("999").first().waitFor();
  assert.equal(await page.locator(".problem:visible").count(), 1);
  await page.selectOption("#space", "factors");
  assert.equal(await page.locator(".problem:visible").count(), 0);
  // a penalty that the scheme does not have
  await page.getByLabel("Penalty as a number").fill("5");
  await page.getByText("penalty 5 is out of range for the linear scheme").waitFor();
  assert.equal(await page.getByLabel("Penalty as a number").getAttribute("aria-invalid"), "true");
  assert.ok(await page.locator("#merge").isDisabled());
  await page.getByLabel("Penalty as a number").fill("1");
  assert.equal(await page.getByLabel("Penalty as a number").getAttribute("aria-invalid"), "false");
  // nothing selected is no error
  await page.getByRole("button", { name: "None" }).click();
  await page.getByText("Select the checkpoints to merge.").waitFor();
  assert.equal(await page.locator(".problem:visible").count(), 0);
  await page.getByRole("button", { name: "By the rule" }).click();
  // nobody knows whether a higher learning rate is better
  await page.selectOption("#metric", "learning_rate");
  await page.getByText("Say so with Better: lower or Better: higher.").waitFor();
  await page.selectOption("#goal", "min");
  await page.getByText("by learning_rate (lower is better)").waitFor();
});

test("an emptied or wrong number is marked and refused, and the boxes stay as they were", async () => {
  await openPage();
  await openSample();
  const ticked = () => page.locator("tbody input:checked").evaluateAll((boxes) => boxes.map((box) => box.getAttribute("aria-label")));
  assert.equal((await ticked()).length, 5);
  const number = page.getByLabel("Penalty as a number");
  const field = (id) => page.locator(`#${id}`);
  for (const [scheme, input, wrong] of [["linear", number, ["", "5"]], ["ema", field("ema-decay"), ["", "1.5"]], ["krum", field("outliers"), ["", "2.5"]], ["flag", field("subspace"), ["", "0"]]]) {
    await page.selectOption("#scheme", scheme);
    const [before, rule] = [await input.inputValue(), await ticked()];
    for (const value of wrong) {
      await input.fill(value);
      await page.locator("#work .problem:visible").waitFor();
      assert.deepEqual([scheme, value, await input.getAttribute("aria-invalid"), await page.locator("#merge").isDisabled()], [scheme, value, "true", true]);
      assert.deepEqual(await ticked(), rule);
    }
    await input.fill(before);
    assert.deepEqual([scheme, await input.getAttribute("aria-invalid")], [scheme, "false"]);
  }
  // a click while something is wrong takes what was ticked, and no more
  await page.selectOption("#scheme", "linear");
  await number.fill("");
  await page.getByText("is not a number").waitFor();
  await page.getByLabel("merge sample-run/checkpoint-750").uncheck();
  await number.fill("0.8");
  await page.getByText("4 of 10 checkpoints").first().waitFor();
  await page.selectOption("#space", "product");
  await page.selectOption("#rank-by", "number");
  await page.locator("#rank").fill("");
  await page.getByText("“Rank” is not a number").waitFor();
  assert.deepEqual([await page.locator("#rank").getAttribute("aria-invalid"), await page.locator("#merge").isDisabled()], ["true", true]);
  await page.locator("#rank").fill("4");
  await page.locator("#search-budget").fill("");
  await page.click("#search");
  await page.locator("#search-panel .problem", { hasText: "is not a number" }).waitFor();
  assert.equal(await page.locator("#search-budget").getAttribute("aria-invalid"), "true");
});

test("Merge leaves the page where it is, and the result comes into view", async () => {
  await page.setViewportSize({ width: 1280, height: 700 });
  await openPage();
  await openSample();
  // every place that the page was scrolled to, with whether the merge was done
  await page.evaluate(() => {
    window.places = [];
    addEventListener("scroll", () => window.places.push([scrollY, document.querySelector("#result").childElementCount > 0]));
  });
  // Playwright's own click scrolls
  const { x, y: top } = await page.locator("#merge").boundingBox();
  await page.mouse.click(x + 10, top + 10);
  await page.locator("#result .hash").waitFor();
  await page.waitForTimeout(200);
  assert.deepEqual((await page.evaluate(() => window.places)).filter(([, isDone]) => !isDone), []);
  const { y } = await page.locator("#result h3").boundingBox();
  assert.ok(y >= 0 && y < 700, `the result lies at ${y}`);
  assert.equal(await page.locator("#reason").count(), 0);
  assert.match(await page.locator("#loads").textContent(), /PeftModel/);
});

/** Drop files from Node on the page, as people do. */
async function dropFiles(files) {
  const data = await page.evaluateHandle((files) => {
    const data = new DataTransfer();
    for (const [name, text] of files) data.items.add(new File([text], name));
    return data;
  }, files);
  await page.dispatchEvent("body", "drop", { dataTransfer: data });
}

test("what cannot be opened leaves what is open, and a table alone is that of the open run", async () => {
  await openPage();
  await dropFiles([["scores.csv", "step,score\n950,1\n1000,3\n"]]);
  await page.locator("#open-error", { hasText: "scores.csv is a table of metrics, and no run is open" }).waitFor();
  await openSample();
  assert.ok(!(await page.locator("#open-error").isVisible()));
  await page.click("#merge");
  await page.locator("#save-files").waitFor();
  await dropFiles([["notes.txt", "nothing"]]);
  await page.locator("#open-error").waitFor();
  assert.match(await page.locator("#open-error").textContent(), /What was open still is: sample-run: 10 checkpoints\./);
  assert.equal(await page.locator("#opening").textContent(), "sample-run: 10 checkpoints");
  assert.ok((await page.locator("#save-files").isVisible()) && (await page.getByText(BLAKE3).count()) > 0);
  const rows = Array.from({ length: 10 }, (_, i) => [550 + i * 50, 10 - i]);
  for (const [name, text] of [["scores.csv", `step,accuracy\n${rows.map((row) => row.join()).join("\n")}\n`], ["scores.jsonl", rows.map(([step, accuracy]) => JSON.stringify({ step, accuracy })).join("\n")]]) {
    await dropFiles([[name, text]]);
    await page.getByText(`sample-run: 10 checkpoints, weighed by ${name}`).waitFor();
    await page.getByText("by accuracy (higher is better)").first().waitFor();
    assert.ok(!(await page.locator("#open-error").isVisible()));
  }
});

test("how a result is loaded is said of what it is", async () => {
  const loads = async (paths, picker) => {
    await openPage();
    await page.setInputFiles(picker, paths);
    await page.locator("#merge:enabled").waitFor();
    await page.click("#merge");
    await page.locator("#loads").waitFor();
    return page.locator("#loads").textContent();
  };
  const whole = await mkdtemp(join(tmpdir(), "mwa-whole-"));
  await writeFile(join(whole, "model.safetensors"), single(2));
  await writeFile(join(whole, "config.json"), JSON.stringify({ model_type: "llama", architectures: ["LlamaForCausalLM"] }));
  assert.equal(await loads(whole, "#folder"), 'In Python: LlamaForCausalLM.from_pretrained("path/to/the/folder")');
  assert.match(await loads([join(whole, "model.safetensors")], "#files"), /No config came with these files.*adapter_config\.json/);
  await rm(whole, { recursive: true });
});

/** A file of one tensor. */
function single(elements) {
  const header = Buffer.from(JSON.stringify({ w: { dtype: "F32", shape: [elements], data_offsets: [0, elements * 4] } }).padEnd(72));
  return Buffer.concat([Buffer.from(BigUint64Array.of(72n).buffer), header, Buffer.from(new Float32Array(elements).fill(1).buffer)]);
}

test("a run of .bin files opens and merges", async () => {
  await openFolder(`${root}/host/tests/cli/hunt/adapter-in-subfolder/run`);
  await page.getByText("3 checkpoints").first().waitFor();
  await page.click("#merge");
  await page.locator(".good").getByText("Merged 2 checkpoints").waitFor();
});

test("what a merge failed for is told, and goes with the next change", async () => {
  await openPage();
  await openSample();
  await page.selectOption("#scheme", "flag");
  await page.locator("#subspace").fill("500");
  await page.click("#merge");
  await page.locator("#said", { hasText: "It could not be merged" }).waitFor();
  await page.locator("#subspace").fill("1");
  await page.locator("#said", { hasText: "into adapter_model.safetensors" }).waitFor();
  assert.equal(await page.locator(".problem:visible").count(), 0);
});

test("a file alone opens without a metric", async () => {
  await openPage();
  await page.setInputFiles("#files", `${root}/examples/sample-run/checkpoint-1000/adapter_model.safetensors`);
  await page.getByText("1 of 1 into adapter_model.safetensors").waitFor();
  await page.getByText("One checkpoint is copied as it is: there is nothing to average.").waitFor();
  assert.equal(await page.locator(".problem:visible").count(), 0);
});

test("bars are seen against their ground", async () => {
  for (const colorScheme of ["light", "dark"]) {
    await page.emulateMedia({ colorScheme });
    await openPage();
    await openSample();
    const contrast = await page.evaluate(() => {
      const context = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
      const light = (color) => {
        context.fillStyle = color;
        context.fillRect(0, 0, 1, 1);
        const [r, g, b] = [...context.getImageData(0, 0, 1, 1).data].map((byte) => (byte <= 10 ? byte / 255 / 12.92 : ((byte / 255 + 0.055) / 1.055) ** 2.4));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
      };
      const of = (selector, property) => getComputedStyle(document.querySelector(selector))[property];
      const ground = light(of("#work", "backgroundColor"));
      const against = (color) => (Math.max(light(color), ground) + 0.05) / (Math.min(light(color), ground) + 0.05);
      return [of("tr:not(.out) .fill", "backgroundColor"), of(".chart .bar", "fill"), of(".chart .curve", "stroke")].map(against);
    });
    assert.ok(Math.min(...contrast) >= 3, `${colorScheme}: ${contrast}`);
  }
});

test("product space at a rank gives the native bytes", async () => {
  await openPage();
  await openSample();
  await page.selectOption("#space", "product");
  await page.selectOption("#rank-by", "number");
  await page.locator("#rank").fill("4");
  await page.click("#merge");
  // mwa merge examples/sample-run --space product --rank 4
  await page.getByText("38306ffa99481c63c775777aa840d721d51f3ba6f02fc6a22caa656362f78a54").first().waitFor();
  await page.locator("#rank").fill("0");
  await page.getByText("Rank: 0 does not fit").first().waitFor();
  assert.ok(await page.locator("#merge").isDisabled());
});

test("the scores are those of score.py", async () => {
  await openPage();
  await openSample();
  await page.getByRole("button", { name: "All", exact: true }).click();
  await page.selectOption("#count", "100");
  await page.click("#score");
  await page.waitForFunction(() => [...document.querySelectorAll(".scores tbody tr td:last-child")].filter((td) => td.textContent === "100").length === 3, undefined, { timeout: 240_000 });
  const rows = await page.locator(".scores tbody tr").allTextContents();
  // score.py --n 100, to four digits
  const expected = JSON.parse(await readFile(new URL("scores.json", import.meta.url), "utf8"));
  for (const [name, { exact, loss }] of Object.entries(expected)) {
    const row = rows.find((text) => text.startsWith(name));
    assert.ok(row.includes(exact) && row.includes(loss), `${row}, expected ${exact} and ${loss}`);
  }
});

test("a search on the sample run is scored in the page, and its winner is beaten or not on problems it has not seen", async () => {
  await openPage();
  await openSample();
  await page.selectOption("#search-problems", "20");
  await page.selectOption("#search-method", "sweep");
  await page.locator("#search-budget").fill("4");
  await page.click("#search");
  await page.locator("#search-save").waitFor({ timeout: 240_000 });
  const rows = await page.locator("#search-result tbody tr").allTextContents();
  assert.deepEqual(rows.map((row) => row.replace(/[\d.]+/g, "#")), ["last#", "best single#", "plain mean#", "the weights above#", "winner#"]);
  // score.py --n 20 --seed 1, and --seed 9000, of mwa merge --scheme uniform
  assert.equal(rows[2], "plain mean0.679210.646642");
  assert.equal(await page.locator("#search-panel .mark").count(), 4);
  assert.match(await page.locator("#search-said").textContent(), /^4 trials: trial \d \(.*\) scores 0\.\d+\.$/);
  const [download] = await Promise.all([page.waitForEvent("download"), page.click("#search-trials")]);
  const table = (await readFile(await download.path(), "utf8")).trim().split("\n");
  assert.equal(table.length, 5);
  assert.match(table[0], /^sample-run\/checkpoint-750,.*,score$/);
  assert.match(table[1], /^0,0,0,0,1,0\.7565/);
  // the same again scores nothing anew
  await page.click("#search");
  await page.locator("#search-save").waitFor({ state: "detached" });
  await page.locator("#search-save").waitFor({ timeout: 240_000 });
  await page.locator("#penalty").fill("0.1");
  await page.getByText("The choice has changed: search again.").waitFor();
  assert.equal(await page.locator("#search-result table").count(), 0);
});

test("a module that is pasted scores merges, and reaches nothing beyond this machine", async () => {
  await openPage();
  await openSample();
  await page.selectOption("#search-source", "module");
  await page.selectOption("#search-method", "lcsc");
  await page.locator("#search-budget").fill("12");
  await page.locator("#search-module").fill(`
    let refused;
    addEventListener("securitypolicyviolation", ({ effectiveDirective, blockedURI }) => (refused = [effectiveDirective, blockedURI].join(" ")));
    export async function score(files, { weights, number }) {
      if (number === 2) throw new Error("out of luck");
      if (number === 3) return NaN;
      if (number === 4) {
        await fetch("https://example.com/").catch(() => {});
        await new Promise((resolve) => setTimeout(resolve, 200));
        throw new Error(refused);
      }
      const { size } = files.find(({ name }) => name === "adapter_model.safetensors").blob;
      if (size < 200_000) throw new Error("the file is not whole");
      return weights.reduce((sum, weight, i) => sum + i * (weight - 0.2) ** 2, 0);
    }`);
  await page.click("#search");
  await page.locator("#search-save").waitFor();
  const told = await page.locator("#search-panel .failed title").allTextContents();
  assert.deepEqual(told.map((text) => text.split(": ").slice(1).join(": ")), ["out of luck", "its score is NaN", "connect-src https://example.com/"]);
  assert.match(await page.getByLabel("Be careful").textContent(), /3 of 12 trials failed/);
  assert.equal(await page.locator("#search-panel .problem:visible").count(), 0);
  // one that is no module, one that has no such function, and one that hangs
  for (const [text, why] of [["export function score( {", /no score came of the first 5 candidates/], ["export const loss = 1;", /the module has no function called score/]]) {
    await page.locator("#search-module").fill(text);
    await page.click("#search");
    await page.locator("#search-panel .problem", { hasText: why }).waitFor();
  }
  await page.locator("#search-module").fill("export function score() { for (;;); }");
  await page.click("#search");
  await page.getByText("Beginning…").waitFor();
  await page.click("#search-stop");
  await page.getByText("Stopped").waitFor();
  assert.ok(await page.locator("#search").isEnabled());
});

test("scores are filled in by hand, and known ones are taken from a table", async () => {
  await openFolder(`${root}/examples/sample-run`);
  await page.getByText("5 of 10 checkpoints").waitFor();
  await page.selectOption("#search-source", "table");
  await page.selectOption("#search-goal", "max");
  await page.selectOption("#search-method", "sweep");
  await page.locator("#search-budget").fill("3");
  await page.locator("#search-table").fill("a,b,c,d,e,score\n0,0,0,0,1,0.4\n0.2,0.2,0.2,0.5");
  await page.click("#search");
  await page.getByText("line 3 of the table has 3 weights, and 5 checkpoints are chosen").waitFor();
  await page.locator("#search-table").fill('{"mwa_search":1,"goal":"max"}\n{"weights":[0,0,0,0,1],"score":0.4}\n{"weights":[0.2,0.2,0.2,0.2,0.2],"score":0.5}');
  await page.click("#search");
  await page.getByLabel("score", { exact: true }).fill("nought");
  await page.getByRole("button", { name: "Enter" }).click();
  assert.equal(await page.getByLabel("score", { exact: true }).getAttribute("aria-invalid"), "true");
  const downloads = [];
  page.on("download", (download) => downloads.push(download.suggestedFilename()));
  await page.getByRole("button", { name: "Save trial 3" }).click();
  await page.getByLabel("score", { exact: true }).fill("0,75");
  await page.keyboard.press("Enter");
  await page.locator("#search-save").waitFor();
  assert.match(await page.locator("#search-said").textContent(), /^3 trials: trial 3 \(metric\) scores 0\.75\.$/);
  assert.ok(downloads.includes("adapter_model.safetensors"));
});

test("a dropped folder is opened from its files", async () => {
  await openFolder(`${root}/examples/sample-run`);
  await page.getByText("5 of 10 checkpoints").waitFor();
  await page.click("#merge");
  await page.getByText(BLAKE3).first().waitFor();
});

test("a torn file and a git-lfs pointer are left out, with the reason in their rows", async () => {
  const run = await changed(async (folder) => {
    await truncate(join(folder, "checkpoint-700/adapter_model.safetensors"), 1000);
    await writeFile(join(folder, "checkpoint-750/adapter_model.safetensors"), "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n");
  });
  await openFolder(run.path);
  await page.getByText("of 8 checkpoints").waitFor();
  const rows = await page.locator("tbody tr.out", { hasText: "left out" }).allTextContents();
  assert.match(rows[0], /checkpoint-700.*left out.*declares a header of \d+ bytes, but the file is 1000 bytes long.*cut short/);
  assert.match(rows[1], /checkpoint-750.*left out.*git-lfs pointer.*git lfs pull/);
  await run.remove();
});

test("a log that ends in NaN marks the checkpoints that had diverged", async () => {
  const run = await changed(async (folder) => {
    for (const step of [950, 1000]) {
      const path = join(folder, `checkpoint-${step}/trainer_state.json`);
      const state = JSON.parse(await readFile(path, "utf8"));
      for (const record of state.log_history) {
        if (record.step > 920 && "loss" in record) record.loss = "NaN";
        if (record.step > 920 && "eval_loss" in record) record.eval_loss = "NaN";
      }
      await writeFile(path, JSON.stringify(state).replaceAll('"NaN"', "NaN"));
    }
  });
  await openFolder(run.path);
  await page.getByRole("button", { name: "All", exact: true }).click();
  await page.locator(".problem:visible").first().waitFor();
  assert.match(await page.locator(".problem").allTextContents().then((all) => all.join()), /must not be averaged: checkpoint-950/);
  assert.equal(await page.locator(".warning", { hasText: "diverged" }).count(), 2);
  assert.ok(await page.locator("#merge").isDisabled());
  for (const step of [950, 1000]) await page.getByLabel(`merge run/checkpoint-${step}`).uncheck();
  await page.getByText("8 of 10 checkpoints").waitFor();
  assert.ok(await page.locator("#merge").isEnabled());
  await run.remove();
});

test("a metric that is NaN at every checkpoint is not used, and that is said", async () => {
  const run = await changed(async (folder) => {
    for (let step = 550; step <= 1000; step += 50) {
      const path = join(folder, `checkpoint-${step}/trainer_state.json`);
      const state = JSON.parse(await readFile(path, "utf8"));
      for (const record of state.log_history) if ("eval_loss" in record) record.eval_loss = "NaN";
      await writeFile(path, JSON.stringify(state).replaceAll('"NaN"', "NaN"));
    }
  });
  await openFolder(run.path);
  await page.locator("#work > .notes", { hasText: "eval_loss is not used, as it is NaN or infinite at every checkpoint" }).waitFor();
  // whoever asks for it is told why not
  await page.selectOption("#metric", "eval_loss");
  await page.locator("#work .problem:visible").waitFor();
  await run.remove();
});

test("a warning has the place of the weight and the bar", async () => {
  for (const width of [360, 1280, 2560]) {
    await page.setViewportSize({ width, height: 900 });
    await openPage();
    await openSample();
    await dropFiles([["scores.csv", `checkpoint,accuracy\n${[900, 950, 1000].map((step, i) => `checkpoint-${step},${i + 1}`).join("\n")}\n`]]);
    const warning = page.locator("tbody .warning", { hasText: "no value" }).first();
    await warning.waitFor();
    const head = await page.locator("thead th", { hasText: "weight" }).boundingBox();
    const cell = await warning.locator("xpath=..").boundingBox();
    assert.ok(cell.x <= head.x + 1 && cell.width > head.width * 1.5, `${width}: ${JSON.stringify([cell, head])}`);
    assert.equal(await page.evaluate(() => document.documentElement.scrollWidth), width);
  }
});

test("two runs mixed are told apart, and refused", async () => {
  const run = await changed(async (folder) => {
    const path = join(folder, "checkpoint-1000/adapter_model.safetensors");
    const file = await readFile(path);
    const start = 8 + Number(file.readBigUInt64LE());
    // f16 numbers turned round end to end point elsewhere
    const words = new Uint16Array(file.buffer.slice(file.byteOffset + start, file.byteOffset + file.length)).reverse();
    await writeFile(path, Buffer.concat([file.subarray(0, start), Buffer.from(words.buffer)]));
  });
  await openFolder(run.path);
  await page.locator(".warning", { hasText: "another run" }).waitFor();
  await page.getByRole("button", { name: "All", exact: true }).click();
  assert.match((await page.locator(".problem").allTextContents()).join(), /is not of the same run as run\/checkpoint-950/);
  assert.ok(await page.locator("#merge").isDisabled());
  await page.getByLabel("Allow mixing runs").check();
  assert.ok(await page.locator("#merge").isEnabled());
  await run.remove();
});

test("cancelled merges leave nothing in the folder", async () => {
  await openPage();
  const left = await page.evaluate(async (url) => {
    const { openRun, merge } = await import(`${url}/package/index.js`);
    const list = await (await fetch("sample/files.json")).json();
    const files = list.filter(({ path }) => path.startsWith("sample-run/"));
    const inputs = await Promise.all(files.map(async ({ path }) => ({ name: path, data: await (await fetch(`sample/${path}`)).blob() })));
    const folder = await (await navigator.storage.getDirectory()).getDirectoryHandle("out", { create: true });
    const names = async () => Array.fromAsync(folder.keys());
    const stop = new AbortController();
    const kind = await merge(await openRun(inputs), { output: folder, signal: stop.signal, onProgress: () => stop.abort() }).catch((error) => error.kind);
    const after = await names();
    await merge(await openRun(inputs), { output: folder });
    return { kind, after, written: (await names()).sort() };
  }, server.url);
  assert.deepEqual(left, { kind: "stopped", after: [], written: ["README.md", "adapter_config.json", "adapter_model.safetensors", "mwa-report.json"] });
});

test("files on disk are read as they are, in whatever order", async () => {
  const folder = await mkdtemp(join(tmpdir(), "mwa-files-"));
  const path = join(folder, "file");
  await writeFile(path, Buffer.from(Uint32Array.from({ length: 2_250_000 }, (_, i) => Math.imul(i, 2654435761)).buffer));
  await openPage();
  await page.evaluate(() => document.body.append(Object.assign(document.createElement("input"), { type: "file", id: "on-disk" })));
  await page.setInputFiles("#on-disk", path);
  const wrong = await page.evaluate(async (url) => {
    const { Tap } = await import(`${url}/package/tap.js`);
    const [file] = document.getElementById("on-disk").files;
    const [tap, wrong] = [new Tap(file), []];
    const check = async (what, read, start, end) => {
      const expected = new Uint8Array(await file.slice(start, end).arrayBuffer());
      if (read.length !== expected.length || read.some((byte, i) => byte !== expected[i])) wrong.push([what, start, end]);
    };
    let spare;
    for (const [start, end] of [[7, 1e6], [1e6, 3e6], [3e6, 3e6 + 9], [5e6, 6e6], [0, 2e6], [2e6, 9e6], [8e6, 9e6]]) {
      const read = await tap.read(start, end, spare);
      await check("one after the other", read, start, end);
      spare = read.buffer;
    }
    const all = await Promise.all(Array.from({ length: 9 }, (_, i) => tap.read(i * 1e6, (i + 1) * 1e6)));
    for (const [i, read] of all.entries()) await check("several at once", read, i * 1e6, (i + 1) * 1e6);
    if ((await tap.read(8e6, 9e6 + 1)).length === 1e6 + 1) wrong.push("past the end");
    return wrong;
  }, server.url);
  assert.deepEqual(wrong, []);
  await rm(folder, { recursive: true });
});

test("all vectors in Chromium", async () => {
  await openPage();
  const { count, wrong } = await page.evaluate(async (url) => {
    const mwa = await import(`${url}/package/index.js`);
    const { runBlends, runProducts, runVectors } = await import(`${url}/tests/vectors.mjs`);
    const read = async (path) => new Uint8Array(await (await fetch(`${url}/vectors/${path}`)).arrayBuffer());
    const [sums, products] = [await runVectors(mwa, read, 0), await runProducts(mwa, read, 2)];
    const blends = await runBlends(mwa, read, 2);
    return { count: sums.count + products.count + blends.count, wrong: [...sums.wrong, ...products.wrong, ...blends.wrong] };
  }, server.url);
  assert.deepEqual(wrong, []);
  assert.ok(count > 290);
});

test("files over 4 GiB are read in ranges", async () => {
  await openPage();
  const { size, last } = await page.evaluate(async (url) => {
    const { openRun, merge } = await import(`${url}/package/index.js`);
    const { huge } = await import(`${url}/tests/huge.mjs`);
    let [size, last] = [0, []];
    const output = new WritableStream({ write: (bytes) => void ([size, last] = [size + bytes.length, [...bytes.subarray(-4)]]) });
    await merge(await openRun(huge(4 * 2 ** 30 + 2 ** 20)), { output, threads: 0, weights: [1, 3] });
    return { size, last };
  }, server.url);
  assert.ok(size > 2 ** 32);
  // (1 · 1.0 + 3 · 2.0) / 4
  assert.deepEqual([...new Float32Array(Uint8Array.from(last).buffer)], [1.75]);
});

test("it works offline once it was loaded", async () => {
  await openPage();
  await page.evaluate(() => navigator.serviceWorker.ready);
  await page.reload();
  await page.waitForFunction(() => navigator.serviceWorker.controller !== null);
  await context.setOffline(true);
  await page.reload();
  await page.waitForSelector("html[data-ready]");
  await openSample();
  await page.click("#merge");
  await page.getByText(BLAKE3).first().waitFor();
});

test("the element takes options as attributes and speaks other languages", async () => {
  await page.goto(`${server.url}/some/path/embed.html`);
  await page.locator("mwa-merge button").first().waitFor();
  const told = await page.evaluate(() => {
    const MwaMerge = customElements.get("mwa-merge");
    MwaMerge.texts.de = { choose: "Ordner wählen…", merged: "{count} zusammengeführt." };
    document.body.insertAdjacentHTML("beforeend", '<div lang="de-AT"><mwa-merge id="other" last="4" scheme="uniform" drop-bad></mwa-merge></div>');
    const root = document.getElementById("other").shadowRoot;
    return [root.querySelector("button").textContent, root.querySelector("p").textContent];
  });
  assert.deepEqual(told, ["Ordner wählen…", "Drop a LoRA run folder here. Nothing is uploaded."]);
  // what comes later is shown at once, as when the element's own language changes
  const later = await page.evaluate(() => {
    const [MwaMerge, element] = [customElements.get("mwa-merge"), document.getElementById("other")];
    const texts = () => [...element.shadowRoot.querySelectorAll("p, button")].slice(0, 2).map(({ textContent }) => textContent);
    MwaMerge.texts.de = { drop: "Ordner hierher ziehen.", choose: "Ordner wählen…" };
    const german = texts();
    element.lang = "en";
    const english = texts();
    element.removeAttribute("lang");
    MwaMerge.texts.de = { ...MwaMerge.texts.de, merged: "{count} zusammengeführt." };
    return [german, english];
  });
  assert.deepEqual(later, [["Ordner hierher ziehen.", "Ordner wählen…"], ["Drop a LoRA run folder here. Nothing is uploaded.", "Choose a folder…"]]);
  await page.locator("#other input[type=file]").setInputFiles(`${root}/examples/sample-run`);
  await page.getByText("4 zusammengeführt.").waitFor();
});

test("the element refuses what is no number, and tells the console of what is no option", async () => {
  await page.goto(`${server.url}/some/path/embed.html`);
  await page.locator("mwa-merge button").first().waitFor();
  const warnings = [];
  page.on("console", (message) => message.type() === "warning" && warnings.push(message.text()));
  for (const [attributes, says] of [['penalty="abc"', 'penalty="abc" is not a number'], ['penalty=""', 'penalty="" is not a number'], ['last="NaN"', 'last="NaN" is not a number'], ['scheme="ema" ema-decay="x"', 'ema-decay="x" is not a number'], ['weights="1,b"', 'weights="1,b" is not a number'], ['steps="500..x"', 'steps="500..x" is not a number']]) {
    await page.evaluate((attributes) => (document.body.innerHTML = `<mwa-merge ${attributes}></mwa-merge>`), attributes);
    await page.locator("mwa-merge input[type=file]").setInputFiles(`${root}/examples/sample-run`);
    await page.locator("mwa-merge p", { hasText: says }).waitFor();
  }
  assert.deepEqual(warnings, []);
  await page.evaluate(() => {
    document.body.innerHTML = '<mwa-merge penality="0.5" frobnicate class="a" id="b" lang="en" title="c" role="group" tabindex="0" data-a="1" aria-label="d" slot="e" part="f" hidden drop-bad space="product"></mwa-merge>';
  }).catch(() => {});
  assert.deepEqual(warnings, ['<mwa-merge>: there is no option "penality"; did you mean penalty?', '<mwa-merge>: there is no option "frobnicate"']);
});

test("the element merges on another page", async () => {
  await page.goto(`${server.url}/some/path/embed.html`);
  await page.locator("mwa-merge input[type=file]").setInputFiles(`${root}/examples/sample-run`);
  await page.getByText("Merged 5 checkpoints").waitFor();
  const [download] = await Promise.all([page.waitForEvent("download"), page.getByRole("button", { name: "adapter_model.safetensors" }).click()]);
  assert.equal(await sha256(download), SAMPLE);
});

test("the element searches by the score of its page", async () => {
  await page.goto(`${server.url}/some/path/embed.html`);
  await page.locator("mwa-merge button").first().waitFor();
  await page.evaluate(() => {
    const element = document.querySelector("mwa-merge");
    element.addEventListener("searched", ({ detail }) => (window.found = detail));
    const evaluate = (files, { weights }) => weights.reduce((sum, weight, i) => sum + i * (weight - 0.2) ** 2, files.length > 2 ? 0 : NaN);
    element.search = { evaluate, goal: "min", method: "lcsc", budget: 12, seed: 42 };
  });
  await page.locator("mwa-merge input[type=file]").setInputFiles(`${root}/examples/sample-run`);
  await page.getByText("Merged 5 checkpoints").waitFor();
  const { trials, winner, scheme } = await page.evaluate(() => ({ ...window.found, scheme: window.found.merged.report.weighting.scheme }));
  assert.equal(trials.length, 12);
  assert.equal(winner.score, Math.min(...trials.map(({ score }) => score)));
  assert.match(scheme, /^search by lcsc: /);
});

for (const [width, height] of [[360, 780], [1280, 900], [3840, 2160]]) {
  for (const colorScheme of ["light", "dark"]) {
    test(`accessible and inside the window at ${width} pixels, ${colorScheme}`, async () => {
      await context.close();
      context = await browser.newContext({ viewport: { width, height }, colorScheme, reducedMotion: "reduce" });
      await watch(context);
      await openPage();
      await openSample();
      await compare();
      await page.click("#merge");
      await page.getByText(BLAKE3).first().waitFor();
      await page.selectOption("#search-source", "table");
      await page.locator("#search-table").fill("0, 0, 0, 0, 1, 0.75");
      await page.click("#search");
      await page.getByRole("button", { name: "Enter" }).first().waitFor();
      await page.locator("#search-panel .mark").first().waitFor();
      assert.equal(await page.evaluate(() => document.documentElement.scrollWidth), width);
      await page.evaluate(axe);
      const { violations } = await page.evaluate(() => window.axe.run());
      assert.deepEqual(violations.map(({ id, nodes }) => `${id}: ${nodes.map(({ html }) => html).join(" ")}`), []);
      if (process.env.MWA_SHOTS) await page.screenshot({ path: join(process.env.MWA_SHOTS, `${width}-${colorScheme}.png`), fullPage: true });
    });
  }
}
