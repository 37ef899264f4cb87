/** The package in Node: vectors, the sample run, streams, abort, files of any size; and the vectors in Deno. */
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import test from "node:test";

import * as mwa from "../../wasm/web/dist/index-node.js";
import { disk } from "../../wasm/web/dist/node.js";
import { huge } from "./huge.mjs";
import { runBlends, runProducts, runVectors } from "./vectors.mjs";

const root = fileURLToPath(new URL("../..", import.meta.url));
/** What the native binary makes of the sample run, which host/tests and the page's tests know too. */
export const SAMPLE = "3a2ec8d96a529c7a9f2d5a0aa528a74293a094a41bda43146afe4739e12376f8";
const BLAKE3 = "7e2717852355ddf7431ccf51a06072d54e7d782248adc2a92c980644e04e9f2b";
/** BLAKE3 of the first checkpoint that it merges. */
const FIRST = "df915b8148d538a66edc3736aa44e86faa258505e978d1aa7d9b2e936ec91964";
const sha256 = async (blob) => createHash("sha256").update(Buffer.from(await blob.arrayBuffer())).digest("hex");
const sample = async () => mwa.openRun(await disk(`${root}/examples/sample-run`));
const weights = ({ files }) => files.find(({ name }) => name === "adapter_model.safetensors");

for (const threads of [0, 2]) {
  test(`all vectors, with ${threads} workers`, async () => {
    const { count, wrong } = await runVectors(mwa, (path) => readFile(`${root}/tests/vectors/${path}`).then((b) => new Uint8Array(b)), threads);
    assert.deepEqual(wrong, []);
    assert.ok(count > 250, `only ${count} cases`);
  });

  test(`all methods, over bases too, with ${threads} workers`, async () => {
    const { count, wrong } = await runBlends(mwa, (path) => readFile(`${root}/tests/vectors/${path}`).then((b) => new Uint8Array(b)), threads);
    assert.deepEqual(wrong, []);
    assert.ok(count > 30, `only ${count} cases`);
  });

  test(`all products, with ${threads} workers`, async () => {
    const { count, wrong } = await runProducts(mwa, (path) => readFile(`${root}/tests/vectors/${path}`).then((b) => new Uint8Array(b)), threads);
    assert.deepEqual(wrong, []);
    assert.ok(count > 40, `only ${count} cases`);
  });

  test(`the sample run gives the native bytes, with ${threads} workers`, async () => {
    const merged = await mwa.merge(await sample(), { threads });
    assert.equal(await sha256(weights(merged).blob), SAMPLE);
    assert.equal(merged.report.outputs[0].blake3, BLAKE3);
    // as b3sum prints it
    assert.equal(merged.report.inputs[0].files[0].blake3, FIRST);
    assert.deepEqual(merged.files.map(({ name }) => name), ["adapter_model.safetensors", "adapter_config.json", "README.md", "mwa-report.json"]);
  });
}

test("Blobs, buffers and ranges give the same bytes", async () => {
  const ranges = await disk(`${root}/examples/sample-run`);
  const whole = await Promise.all(ranges.map(async ({ name, size, read }) => ({ name, data: await read(0, size) })));
  const blobs = whole.map(({ name, data }) => ({ name, data: new Blob([data]) }));
  const hashes = ({ report }) => report.inputs.map(({ files }) => files[0].blake3);
  const expected = hashes(await mwa.merge(await mwa.openRun(ranges), { threads: 0 }));
  for (const inputs of [whole, blobs]) {
    const merged = await mwa.merge(await mwa.openRun(inputs), { threads: 1 });
    assert.equal(await sha256(weights(merged).blob), SAMPLE);
    assert.deepEqual(hashes(merged), expected);
  }
});

for (const threads of [0, 1]) {
  test(`read() may give views of its own memory, which stays as it is, with ${threads} workers`, async () => {
    const files = await Promise.all((await disk(`${root}/examples/sample-run`)).map(async ({ name, size, read }) => {
      // with room to spare, so that no answer is all of it
      const memory = new Uint8Array(size + 1);
      memory.set(await read(0, size));
      return { name, size, memory, before: createHash("sha256").update(memory).digest("hex") };
    }));
    const inputs = files.map(({ name, size, memory }) => ({ name, size, read: async (offset, length) => memory.subarray(offset, offset + length) }));
    const merged = await mwa.merge(await mwa.openRun(inputs), { threads });
    assert.equal(merged.report.outputs[0].blake3, BLAKE3);
    for (const { memory, before } of files) assert.equal(createHash("sha256").update(memory).digest("hex"), before);
  });

  test(`read() may use the memory of its earlier answers, with ${threads} workers`, async () => {
    const files = [1, 2].map((seed) => ({ name: `${seed}.safetensors`, data: noise(seed, 2 ** 23) }));
    let used = 0;
    const inputs = files.map(({ name, data }) => ({ name, size: data.length, async read(offset, length, spare) {
      const isLarge = spare?.byteLength >= length;
      used += isLarge;
      const bytes = new Uint8Array(isLarge ? spare : new ArrayBuffer(length), 0, length);
      bytes.set(data.subarray(offset, offset + length));
      return bytes;
    } }));
    const options = { threads, weights: [1, 3], allowCrossRun: true };
    const [expected, merged] = [await mwa.merge(await mwa.openRun(files), options), await mwa.merge(await mwa.openRun(inputs), options)];
    assert.equal(merged.report.outputs[0].blake3, expected.report.outputs[0].blake3);
    assert.deepEqual(merged.report.inputs.map(({ files }) => files[0].blake3), expected.report.inputs.map(({ files }) => files[0].blake3));
    assert.ok(used >= 10, `used ${used} times`);
  });
}

/** A file with one tensor of `elements` numbers, different for each seed. */
function noise(seed, elements) {
  const header = Buffer.from(JSON.stringify({ w: { dtype: "F32", shape: [elements], data_offsets: [0, elements * 4] } }).padEnd(128));
  const bytes = new Uint8Array(8 + header.length + elements * 4);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(header.length), true);
  bytes.set(header, 8);
  bytes.set(new Uint8Array(Float32Array.from({ length: elements }, (_, i) => (i * seed) % 1009).buffer), 8 + header.length);
  return bytes;
}

test("what is not an input, a device or a number of threads is refused", async () => {
  const run = await sample();
  for (const [work, says] of [
    [() => mwa.openRun("runs/my-lora"), /"runs\/my-lora", which is not a file/],
    [() => mwa.openRun([undefined]), /undefined, which is not a file/],
    [() => mwa.merge(run, { device: "tpu" }), /no device `tpu`/],
    [() => mwa.merge(run, { threads: -1 }), /-1 is not a valid number of threads/],
  ]) await assert.rejects(work, (error) => error.kind === "usage" && says.test(error.message) && error.help.length > 0);
});

test("numbers that JSON does not have are refused, wherever they stand", async () => {
  const run = await sample();
  for (const [options, name] of [
    [{ penalty: NaN }, "penalty: NaN"],
    [{ penalty: Infinity }, "penalty: Infinity"],
    [{ last: NaN }, "last: NaN"],
    [{ scheme: "ema", emaDecay: -Infinity }, "emaDecay: -Infinity"],
    [{ last: 2, weights: [NaN, 1] }, "weights[0]: NaN"],
    [{ steps: [500, Infinity] }, "steps[1]: Infinity"],
  ]) {
    const refused = (error) => error instanceof mwa.MergeError && error.kind === "usage" && error.message.startsWith(`option ${name}`);
    for (const call of [mwa.weigh, mwa.preview, (...given) => run.readings(given[1])]) assert.throws(() => call(run, options), refused, name);
    await assert.rejects(mwa.merge(run, { ...options, threads: 0 }), refused);
  }
  const search = mwa.search(run, { goal: "min", evaluate: () => 1, budget: NaN, threads: 0 });
  await assert.rejects(search, (error) => error.kind === "usage" && error.message.startsWith("option budget: NaN"));
});

test("what has no name has no step either", async () => {
  const steps = [900, 950];
  const data = await Promise.all(steps.map((step) => readFile(`${root}/examples/sample-run/checkpoint-${step}/adapter_model.safetensors`)));
  const refusal = async (inputs) => {
    const run = await mwa.openRun(inputs);
    assert.deepEqual(run.checkpoints.map(({ step }) => step), inputs.map(() => null));
    try {
      mwa.weigh(run);
    } catch ({ kind, detail, help }) {
      return { kind, detail, help };
    }
    return assert.fail("it was weighed");
  };
  const expected = await refusal(data.map((data, i) => ({ name: `${"ab"[i]}.safetensors`, data })));
  assert.match(expected.detail, /has no step/);
  for (const make of [(bytes) => new Blob([bytes]), (bytes) => Uint8Array.from(bytes).buffer, (bytes) => Uint8Array.from(bytes), (bytes) => new File([bytes], "adapter.safetensors")]) {
    assert.deepEqual(await refusal(data.map(make)), expected);
  }
  const many = await mwa.openRun(Array.from({ length: 30 }, (_, i) => new Blob([data[i % 2]])));
  assert.deepEqual(many.checkpoints.map(({ name }) => name).filter((_, i) => [0, 25, 26, 29].includes(i)), ["input-a.safetensors", "input-z.safetensors", "input-aa.safetensors", "input-ad.safetensors"]);
});

test("slips of programs are named", async () => {
  const run = await sample();
  const opening = sample();
  for (const [work, says] of [
    [() => mwa.weigh(), /the run is undefined/],
    [() => mwa.weigh(opening), /the run is a Promise/],
    [() => mwa.preview(), /the run is undefined/],
    [() => mwa.merge(opening), /the run is a Promise/],
    [() => mwa.compare(), /the run is undefined/],
    [() => mwa.search(opening, { goal: "min", evaluate: () => 1 }), /the run is a Promise/],
    [() => mwa.search(run, { goal: "min" }), /evaluate is undefined, which is not a function/],
    [() => mwa.search(run, { goal: "minimize", evaluate: () => 1 }), /^option goal: "minimize" does not fit/],
    [() => mwa.search(run, { goal: "min", metricGoal: "up", evaluate: () => 1 }), /^option metricGoal: "up" does not fit/],
    [() => mwa.merge(run, { onProgress: 5 }), /onProgress is 5, which is not a function/],
    [() => mwa.merge(run, { signal: "x" }), /the signal is "x"/],
    [() => mwa.openRun(opening), /an input is a Promise, which is not a file/],
    [() => mwa.openRun([{ data: new Blob() }]), /an input is an object with data, which is not a file/],
    [() => mwa.weigh(run, { dropBad: 3 }), /^option dropBad: 3 does not fit/],
    [() => mwa.weigh(run, null), /the options are null, which is not an object/],
    [() => mwa.merge(run, [4]), /the options are an array, which is not an object/],
    [() => mwa.weigh(run, { checkpoints: ["checkpoint-7"] }), /there is no checkpoint `checkpoint-7`/],
  ]) await assert.rejects(async () => work(), (error) => error instanceof mwa.MergeError && error.kind === "usage" && says.test(error.message), `${says}`);
  assert.throws(() => mwa.weigh(run, { checkpoints: ["checkpoint-7"] }), ({ help }) => /^there are \S*sample-run\/checkpoint-550, /.test(help));
  assert.throws(() => mwa.weigh(run, { drop_bda: true }), ({ help }) => help === "did you mean `dropBad`?");
  assert.throws(() => mwa.weigh(run, { correctForLr: true }), ({ help }) => help.endsWith("or leave correctForLr out"));
  await opening;
  const aborted = mwa.openRun(await disk(`${root}/examples/sample-run`), { signal: AbortSignal.abort() });
  await assert.rejects(aborted, { kind: "stopped" });
});

test("checkpoints are called by their names, or by labels that fit one alone", async () => {
  const run = await sample();
  const [short, long] = [["checkpoint-900", "checkpoint-950"], ["sample-run/checkpoint-900", "sample-run/checkpoint-950"]];
  assert.deepEqual(mwa.weigh(run, { checkpoints: short }), mwa.weigh(run, { checkpoints: long }));
  const { report } = await mwa.merge(run, { checkpoints: short, threads: 0 });
  assert.deepEqual(report.inputs.map(({ step }) => step), [900, 950]);
  const twice = (await disk(`${root}/examples/sample-run`)).filter(({ name }) => name.includes("sample-run/./")).flatMap((file) => ["a", "b"].map((run) => ({ ...file, name: file.name.replace(/^.*sample-run/, run).replace("/./", "/") })));
  const runs = await mwa.openRun(twice);
  assert.throws(() => mwa.weigh(runs, { checkpoints: short }), ({ message, help }) => message === "2 checkpoints are called `checkpoint-900`" && /a\/checkpoint-900, b\/checkpoint-900/.test(help));
});

test("a stream takes the weights", async () => {
  const hash = createHash("sha256");
  const output = new WritableStream({ write: (bytes) => void hash.update(bytes) });
  const merged = await mwa.merge(await sample(), { output, threads: 1 });
  assert.equal(hash.digest("hex"), SAMPLE);
  assert.equal(weights(merged).blob, undefined);
});

test("abort stops, and aborts the stream", async () => {
  let aborted = false;
  const stop = new AbortController();
  const output = new WritableStream({ abort: () => void (aborted = true) });
  const onProgress = ({ done }) => done > 0 && stop.abort();
  const merging = mwa.merge(await mwa.openRun(huge(3 << 20)), { output, signal: stop.signal, onProgress, threads: 1, weights: [1, 1] });
  await assert.rejects(merging, { kind: "stopped" });
  assert.ok(aborted);
});

test("files over 4 GiB are read in ranges, beyond 32 bits, in bounded memory", async () => {
  const size = 4 * 2 ** 30 + 2 ** 20;
  const last = [];
  let written = 0;
  const output = new WritableStream({
    write(bytes) {
      written += bytes.length;
      last.splice(0, last.length, ...bytes.subarray(-4));
    },
  });
  let largest = 0;
  const files = huge(size, (length) => (largest = Math.max(largest, length)));
  const before = process.memoryUsage().rss;
  const merged = await mwa.merge(await mwa.openRun(files), { output, threads: 0, weights: [1, 3] });
  assert.equal(merged.files[0].size, written);
  // (1 · 1.0 + 3 · 2.0) / 4
  assert.deepEqual([...new Float32Array(Uint8Array.from(last).buffer)], [1.75]);
  assert.ok(largest <= 4 << 20, `a read of ${largest} bytes`);
  assert.ok(process.memoryUsage().rss - before < 400 << 20);
});

test("messages name the file, both facts, and what to do", async () => {
  const fails = (inputs, options) => mwa.openRun(inputs).then((run) => mwa.weigh(run, options)).then(() => assert.fail("it succeeded"), (error) => error);
  const text = (value) => new TextEncoder().encode(value).buffer;
  const pointer = await fails({ name: "a.safetensors", data: text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n") });
  assert.deepEqual([pointer.kind, pointer.message, pointer.help], ["header", "a.safetensors: is a git-lfs pointer, not a safetensors file", "fetch the file itself: `git lfs pull`"]);
  const unknown = await fails(await disk(`${root}/examples/sample-run`), { metric: "eval_los" });
  assert.equal(unknown.help, 'did you mean metric: "eval_loss"?');
  assert.ok(unknown instanceof mwa.MergeError);
});

test("weighing answers in the time of a slider's step", async () => {
  const run = await sample();
  const sums = [0, 0.25, 0.5, 1].map((penalty) => mwa.weigh(run, { penalty }).inputs.reduce((sum, { weight }) => sum + weight, 0));
  for (const sum of sums) assert.ok(Math.abs(sum - 1) < 1e-12);
});

test("comparing finds norms, cosines and the residual", async () => {
  const { cosines, norms, residual } = await mwa.compare(await sample(), { last: 10, threads: 1 });
  assert.equal(cosines.length, 10);
  assert.ok(cosines[0][9] > 0.8 && cosines[0][9] < 0.83);
  assert.ok(Math.abs(norms[9] - 23.349) < 0.01);
  assert.ok(residual > 0.03 && residual < 0.05);
  // both weigh all modules by the same factor, which no ratio keeps
  const { report } = await mwa.merge(await sample(), { last: 10, threads: 1 });
  assert.ok(Math.abs(report.residual.overall / residual - 1) < 1e-9);
});

test("all vectors and the sample run in Deno", async (context) => {
  const deno = fileURLToPath(new URL("node_modules/deno/bin.cjs", import.meta.url));
  try {
    await promisify(execFile)(process.execPath, [deno, "--version"]);
  } catch (error) {
    if (process.env.MWA_REQUIRE?.includes("deno")) throw error;
    context.skip(`deno does not run here: ${error.message.split("\n")[0]}`);
    return;
  }
  const { stdout } = await promisify(execFile)(process.execPath, [deno, "run", "--allow-read", "--allow-env", "--allow-sys", fileURLToPath(new URL("deno.mjs", import.meta.url))]);
  assert.deepEqual(JSON.parse(stdout.trim().split("\n").at(-1)), { wrong: [], blake3: BLAKE3 });
});

/** The lowest point of this bowl over ten weights is 1/55, 2/55, …, 10/55. */
const bowl = (weights) => weights.reduce((sum, weight, i) => sum + (i + 1) * (weight - (i + 1) / 55) ** 2, 0);

test("a search proposes what the native program does, to the bit, and leaves the winner", async () => {
  // what host/tests/cli/search.rs holds the native program to
  const expected = JSON.parse(await readFile(`${root}/tests/web/search.json`, "utf8"));
  const run = await sample();
  const options = { goal: "min", method: "lcsc", budget: expected.length, seed: 42, select: "all", threads: 0 };
  let heard = 0;
  const seen = [];
  const found = await mwa.search(run, { ...options, evaluate: async (files, { number, weights: own }) => {
    seen.push([number, await weights({ files }).blob.arrayBuffer()]);
    return bowl(own);
  }, onTrial: (trials) => void (heard = trials.length) });
  assert.deepEqual(found.trials.map((trial) => trial.weights), expected);
  assert.equal(heard, expected.length);
  assert.equal(found.winner.score, Math.min(...found.trials.map(({ score }) => score)));
  assert.deepEqual(found.compared.map(({ name }) => name), ["last", "best single", "uniform", "metric", "winner"]);
  // the candidate, the winner's merge, and a merge with these weights are the same
  const { merged, winner } = found;
  const [, candidate] = seen.find(([number]) => number === winner.number);
  assert.deepEqual(new Uint8Array(await weights(merged).blob.arrayBuffer()), new Uint8Array(candidate));
  assert.match(merged.report.weighting.scheme, /^search by lcsc: /);
  // nothing is scored twice, however many are scored at a time
  const again = await mwa.search(run, { ...options, workers: 3, known: found.trials.slice(0, 30), evaluate: async (_, { number, weights: own }) => {
    assert.ok(number > 30);
    await new Promise((done) => setTimeout(done, (number * 7) % 5));
    return bowl(own);
  } });
  assert.deepEqual(again.trials.map((trial) => [trial.weights, trial.score]), found.trials.map((trial) => [trial.weights, trial.score]));
});

test("a search gives groups weights of their own, and says what must be said", async () => {
  const found = await mwa.search(await sample(), {
    goal: "max", method: "cma", budget: 12, last: 3, groups: "q_proj,v_proj", questions: 100, threads: 0,
    evaluate: (_, { weights: own }) => {
      if (own[0] > 0.5) throw new Error("too much of it");
      return own[3] < 0 ? NaN : { score: Math.max(0, 1 - own[1] ** 2 - own[5] ** 2), error: 0.5 };
    },
    holdout: () => 0.5,
  });
  assert.equal(found.groups.slice(0, 2).join(), "q_proj,v_proj");
  assert.equal(found.winner.weights.length, 3 * found.groups.length);
  assert.equal(found.merged.report.groups.length >= 2, true);
  assert.equal(found.winner.standardError, 0.5);
  assert.ok(found.doubts.some((doubt) => /on the holdout, the winner is as good as/.test(doubt)), found.doubts.join("; "));
});

test("what cannot be searched is refused", async () => {
  const run = await sample();
  const options = { goal: "min", evaluate: () => 1, threads: 0 };
  for (const [more, kind, says] of [
    [{ method: "grid" }, "usage", /option method: "grid" does not fit/],
    [{ budgt: 3 }, "usage", /there is no option `budgt`/],
    [{ goal: undefined }, "usage", /nothing says whether lower or higher/],
    [{ last: 1 }, "usage", /there is nothing to search/],
    [{ groups: "atn,mlp" }, "usage", /`atn` fits no module/],
    [{ evaluate: () => { throw new Error("no GPU"); } }, "input", /no score came of the first 5 candidates: no GPU/],
    [{ evaluate: () => "good" }, "input", /no score came of the first 5 candidates: /],
  ]) await assert.rejects(mwa.search(run, { ...options, ...more }), (error) => error.kind === kind && says.test(error.message), `${says}`);
  const controller = new AbortController();
  const stopped = mwa.search(run, { ...options, signal: controller.signal, evaluate: () => { controller.abort(); return 1; } });
  await assert.rejects(stopped, (error) => error.kind === "stopped");
});
