/** The package on disk: vectors and hostile files from folder to folder, the native command's files, failures, `npx`, types. */
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { createHash } from "node:crypto";
import { cp, mkdir, mkdtemp, readdir, readFile, rm, stat, symlink, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { promisify } from "node:util";
import test, { after } from "node:test";

import * as mwa from "../../wasm/web/dist/index-node.js";
import { mergeRun, weighRun } from "../../wasm/web/dist/node.js";
import { same, tensors } from "./vectors.mjs";

const run = promisify(execFile);
const root = fileURLToPath(new URL("../..", import.meta.url));
const vectors = (path) => join(root, "tests/vectors", path);
const sample = join(root, "examples/sample-run");
const index = JSON.parse(await readFile(vectors("index.json"), "utf8"));
/** What the native binary makes of the sample run. */
const SAMPLE = "3a2ec8d96a529c7a9f2d5a0aa528a74293a094a41bda43146afe4739e12376f8";
const BLAKE3 = "7e2717852355ddf7431ccf51a06072d54e7d782248adc2a92c980644e04e9f2b";
const WEIGHTS = "adapter_model.safetensors";

const work = await mkdtemp(join(tmpdir(), "mwa-disk-"));
after(() => rm(work, { recursive: true }));
let last = 0;
/** A fresh folder. */
async function fresh() {
  const folder = join(work, `${(last += 1)}`);
  await mkdir(folder);
  return folder;
}
const sha256 = async (...path) => createHash("sha256").update(await readFile(join(...path))).digest("hex");
const failure = (promise) => promise.then(() => assert.fail("it succeeded"), (error) => error);

test("all vectors, from files to a folder", async () => {
  // a merge has no option for infinities here, and copies the only checkpoint that has weight
  const used = (weights) => weights.filter((weight) => Math.abs(weight) > 1e-30).length;
  const cases = index.cases.filter((it) => !it.non_finite && used(it.weights) > 1 && it.case !== "no-tensors");
  assert.ok(cases.length > 80, `only ${cases.length} cases`);
  for (const { case: name, inputs, weights, dtype, output, error, tensor } of cases) {
    const folder = await fresh();
    // names without a number, which would count as a step
    const files = inputs.map((_, i) => join(folder, `${"abcdefghijklmnop"[i]}.safetensors`));
    await Promise.all(inputs.map((input, i) => cp(vectors(input), files[i])));
    const made = mergeRun(files, join(folder, "out"), { weights, dtype, allowCrossRun: true, threads: 0 });
    if (error) {
      const { kind, message } = await failure(made);
      assert.ok(kind === error && message.includes(tensor ?? ""), `${name}: ${kind}: ${message}`);
      assert.equal((await readdir(folder)).length, new Set(files).size, name);
    } else {
      const { outputs } = await made;
      same(tensors(await readFile(join(folder, "out", outputs[0].name))), tensors(await readFile(vectors(output))));
    }
  }
});

test("tasks over a base on disk, by the package and by its command line", async () => {
  const folder = await fresh();
  const { cases } = JSON.parse(await readFile(vectors("blends/index.json"), "utf8"));
  const { inputs, base, output } = cases.find((it) => it.case === "ties-by-hand");
  const names = ["one", "two", "three"].map((name) => join(folder, `${name}.safetensors`));
  await Promise.all(inputs.map((input, i) => cp(vectors(`blends/${input}`), names[i])));
  // a base in a folder of its own, with what else lies there
  await mkdir(join(folder, "base"));
  await cp(vectors(`blends/${base}`), join(folder, "base/model.safetensors"));
  const options = { method: "ties", density: 0.5, base: join(folder, "base"), allowCrossRun: true, threads: 0 };
  const report = await mergeRun(names, join(folder, "out"), options);
  assert.deepEqual(report.inputs.map(({ role, path }) => [role, path]), [["base", "../base"], ...["one", "two", "three"].map((name) => [undefined, `../${name}.safetensors`])]);
  same(tensors(await readFile(join(folder, "out", report.outputs[0].name))), tensors(await readFile(vectors(`blends/${output}`))));
  const cli = fileURLToPath(new URL("../../wasm/web/dist/cli.js", import.meta.url));
  const flags = ["--method", "ties", "--density", "0.5", "--base", join(folder, "base"), "--allow-cross-run", "--threads", "0"];
  await run(process.execPath, [cli, "merge", ...names, ...flags, "-o", join(folder, "again")]);
  same(tensors(await readFile(join(folder, "again", report.outputs[0].name))), tensors(await readFile(vectors(`blends/${output}`))));
  // what is wrong with a base is told
  for (const [more, kind, says] of [
    [{ base: join(folder, "nowhere") }, "input", "nowhere: does not exist"],
    [{ base: 3 }, "usage", "the base is 3"],
    [{ base: undefined }, "usage", "which is not named"],
    [{ base: names[0], method: undefined, density: undefined, scheme: "uniform" }, "usage", "do not go together"],
    [{ method: "median", density: undefined }, "usage", "do not go together"],
  ]) {
    const error = await failure(mergeRun(names, join(folder, "wrong"), { ...options, ...more }));
    assert.ok(error.kind === kind && error.message.includes(says), `${error.kind}: ${error.message}`);
  }
});

test("hostile files are refused by name", async () => {
  const folder = await fresh();
  for (const { file, error, says, tensor, tensors: legal } of index.hostile) {
    if (legal) continue;
    const { kind, message, file: place } = await failure(mergeRun(vectors(file), join(folder, "out"), { scheme: "uniform", threads: 0 }));
    assert.equal(kind, error, `${file}: ${message}`);
    assert.ok(message.toLowerCase().includes(says.toLowerCase()) && message.includes(tensor ?? ""), `${file}: ${message}`);
    assert.equal(place, vectors(file));
  }
  assert.deepEqual(await readdir(folder), []);
});

for (const [residual, flags] of [[undefined, []], ["off", ["--residual", "off"]], ["sketch", ["--residual", "sketch"]]]) {
  test(`the folder is that of the native command ${flags}`, { skip: !process.env.MWA_BINARY && "MWA_BINARY names no native binary" }, async () => {
    const folder = await fresh();
    await cp(sample, join(folder, "runs/sample"), { recursive: true });
    await writeFile(join(folder, "runs/sample/checkpoint-1000/tokenizer.json"), "{}");
    const [here, native] = [join(folder, "runs/here"), join(folder, "runs/native")];
    const report = await mergeRun(join(folder, "runs/sample"), here, residual === undefined ? {} : { residual });
    await run(process.env.MWA_BINARY, ["merge", join(folder, "runs/sample"), "-o", native, ...flags]);
    assert.deepEqual(await readdir(here), await readdir(native));
    for (const name of await readdir(here)) {
      const [a, b] = await Promise.all([here, native].map((out) => readFile(join(out, name), name === WEIGHTS ? undefined : "utf8")));
      if (name === "mwa-report.json") assert.deepEqual(JSON.parse(a), JSON.parse(b));
      else assert.deepEqual(a, b, name);
      assert.equal((await stat(join(here, name))).mode, (await stat(join(native, name))).mode, name);
    }
    assert.equal((await stat(here)).mode, (await stat(native)).mode);
    assert.equal(report.outputs[0].blake3, BLAKE3);
    assert.equal(report.inputs[0].path, "../sample/checkpoint-750");
    assert.equal(report.residual === undefined, residual === "off");
    await run(process.env.MWA_BINARY, ["verify", here]);
  });
}

/** A safetensors file of F32 tensors: name, shape, value of each element. */
function safetensors(tensors) {
  const [header, data] = [{}, []];
  let at = 0;
  for (const [name, shape, value] of tensors) {
    const bytes = Buffer.from(Float32Array.from({ length: shape.reduce((a, b) => a * b) }, (_, i) => value(i)).buffer);
    header[name] = { dtype: "F32", shape, data_offsets: [at, (at += bytes.length)] };
    data.push(bytes);
  }
  const head = Buffer.from(JSON.stringify(header).padEnd(Math.ceil(JSON.stringify(header).length / 8) * 8));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(head.length));
  return Buffer.concat([length, head, ...data]);
}

/** Two adapters whose head is so small that it becomes zero in f16. */
async function tiny(folder) {
  for (const [name, seed] of [["checkpoint-1", 1], ["checkpoint-2", 2]]) {
    const factor = (i) => Math.sin(i + 1) + seed / 64;
    await mkdir(join(folder, name), { recursive: true });
    await writeFile(join(folder, name, WEIGHTS), safetensors([
      ["base_model.model.q.lora_A.weight", [2, 4], factor],
      ["base_model.model.q.lora_B.weight", [4, 2], factor],
      ["base_model.model.head.weight", [4, 4], () => 1e-9],
    ]));
    const config = { peft_type: "LORA", r: 2, lora_alpha: 4, target_modules: ["q"], modules_to_save: ["head"] };
    await writeFile(join(folder, name, "adapter_config.json"), JSON.stringify(config));
  }
  await writeFile(join(folder, "checkpoint-2/trainer_state.json"), JSON.stringify({ global_step: 2, log_history: [{ step: 1, eval_loss: 2 }, { step: 2, eval_loss: 1 }] }));
  await writeFile(join(folder, "checkpoint-1/trainer_state.json"), JSON.stringify({ global_step: 1, log_history: [{ step: 1, eval_loss: 2 }] }));
}

/** The sample run, the numbers of its last checkpoint changed. */
const changed = (change) => async (folder) => {
  await cp(sample, folder, { recursive: true });
  const path = join(folder, "checkpoint-1000", WEIGHTS);
  const file = await readFile(path);
  const start = 8 + Number(file.readBigUInt64LE());
  const words = new Uint16Array(file.buffer.slice(file.byteOffset + start, file.byteOffset + file.length));
  await change(words, folder);
  await writeFile(path, Buffer.concat([file.subarray(0, start), Buffer.from(words.buffer)]));
};
const NAN = 0x7e00;

for (const [situation, make, options, flags] of [
  ["products", changed(() => {}), { space: "product", rank: 4, last: 3 }, ["--space", "product", "--rank", "4", "--last", "3"]],
  ["products at ranks that are found", changed(() => {}), { space: "product", energy: 0.9, last: 3 }, ["--space", "product", "--energy", "0.9", "--last", "3"]],
  ["two runs", changed((words) => words.reverse()), {}, []],
  ["two runs as products", changed((words) => words.reverse()), { space: "product" }, ["--space", "product"]],
  ["two runs all the same", changed((words) => words.reverse()), { allowCrossRun: true }, ["--allow-cross-run"]],
  ["twins", changed(async (words, folder) => {
    const file = await readFile(join(folder, "checkpoint-950", WEIGHTS));
    words.set(new Uint16Array(file.buffer.slice(file.byteOffset + file.length - words.byteLength, file.byteOffset + file.length)));
  }), {}, []],
  ["a bad tensor", changed((words) => words.set([NAN], 5)), {}, []],
  ["a bad tensor that is dropped", changed((words) => words.set([NAN], 5)), { dropBad: true }, ["--drop-bad"]],
  ["underflow", tiny, { dtype: "f16" }, ["--dtype", "f16"]],
  ["underflow among products", tiny, { dtype: "f16", space: "product" }, ["--dtype", "f16", "--space", "product"]],
]) {
  test(`${situation}: the native command says and writes the same`, { skip: !process.env.MWA_BINARY && "MWA_BINARY names no native binary" }, async () => {
    const folder = await fresh();
    await make(join(folder, "run"));
    const [here, native] = [join(folder, "here"), join(folder, "native")];
    const outcome = (work) => work.then(() => undefined, (error) => error);
    const { kind, detail, file, tensor, help } = (await outcome(mergeRun(join(folder, "run"), here, { ...options, threads: 2 }))) ?? {};
    const made = kind && { kind, message: detail, file, tensor, help };
    const there = await outcome(run(process.env.MWA_BINARY, ["merge", join(folder, "run"), "-o", native, "--json", ...flags]).catch(({ stdout }) => {
      throw JSON.parse(stdout).error;
    }));
    const present = (facts) => facts && Object.fromEntries(Object.entries(facts).filter(([, fact]) => fact !== undefined && fact !== null));
    // options are called here as JavaScript calls them
    assert.deepEqual(present(made), present(there && { ...there, help: there.help && mwa.spoken(there.help), message: mwa.spoken(there.message) }));
    if (made) return;
    assert.deepEqual(await readdir(here), await readdir(native));
    assert.equal(await sha256(here, WEIGHTS), await sha256(native, WEIGHTS));
    const [a, b] = await Promise.all([here, native].map(async (out) => JSON.parse(await readFile(join(out, "mwa-report.json"), "utf8"))));
    assert.deepEqual(a, b);
    const [config, other] = await Promise.all([here, native].map((out) => readFile(join(out, "adapter_config.json"), "utf8")));
    assert.equal(config, other);
  });
}

test("checkpoints named one by one have the logs of their run", async () => {
  const names = ["checkpoint-900", "checkpoint-1000"];
  const whole = await weighRun(sample, { last: 10, checkpoints: names.map((name) => join(sample, name)) });
  const each = await weighRun(names.map((name) => join(sample, name)));
  assert.deepEqual(each.inputs.map(({ weight, metric }) => [weight, metric]), whole.inputs.map(({ weight, metric }) => [weight, metric]));
  const twice = await weighRun([sample, join(sample, names[0])], { last: 20 });
  assert.equal(twice.inputs.length, 10);
  assert.ok(twice.notes.some((note) => note.endsWith("is named twice; it counts once")));
});

test("paths are told as they were given", async () => {
  const folder = await fresh();
  await cp(sample, join(folder, "my/run"), { recursive: true });
  await symlink("..", join(folder, "my/run/loop"));
  await symlink("nowhere", join(folder, "my/run/checkpoint-1000/dangling"));
  const script = `import { mergeRun, weighRun } from ${JSON.stringify(new URL("../../wasm/web/dist/node.js", import.meta.url))};
    for (const path of ["my/run", "./my/run/", "my/run/checkpoint-900"]) console.log((await weighRun(path, { last: 1 })).inputs[0].name);
    process.chdir("my/run");
    for (const path of [".", "checkpoint-900"]) console.log((await weighRun(path, { last: 1 })).inputs[0].name);
    console.log((await mergeRun(".", "../out/deep", { threads: 0 })).inputs[0].path);`;
  const { stdout } = await run(process.execPath, ["--input-type=module", "--eval", script], { cwd: folder });
  assert.deepEqual(stdout.trim().split("\n"), [
    "my/run/checkpoint-1000", "my/run/checkpoint-1000", "my/run/checkpoint-900", "./checkpoint-1000", "checkpoint-900", "../../run/checkpoint-750",
  ]);
  assert.equal(await sha256(folder, "my/out/deep", WEIGHTS), SAMPLE);
});

test("an output is whole or not there, and replaced by force only", async () => {
  const folder = await fresh();
  const out = join(folder, "new/folders/out");
  await mergeRun(sample, out, { threads: 0 });
  assert.equal(await sha256(out, WEIGHTS), SAMPLE);
  const { kind, help } = await failure(mergeRun(sample, out));
  assert.deepEqual([kind, help], ["output", "choose another output folder, or replace an earlier merge with force: true"]);
  await mergeRun(sample, out, { force: true, last: 2, threads: 0 });
  assert.notEqual(await sha256(out, WEIGHTS), SAMPLE);
  assert.deepEqual(await readdir(join(folder, "new/folders")), ["out"]);

  await writeFile(join(folder, "file"), "");
  await mkdir(join(folder, "mine"));
  await writeFile(join(folder, "mine/thesis"), "");
  for (const [place, says] of [["file", "is not a folder"], ["mine", "is not an earlier merge"], ["file/out", "cannot write it"]]) {
    assert.ok((await failure(mergeRun(sample, join(folder, place), { force: true, threads: 0 }))).message.includes(says), place);
  }
  const stop = new AbortController();
  const onProgress = ({ done }) => done > 0 && stop.abort();
  assert.equal((await failure(mergeRun(sample, join(folder, "made/out"), { onProgress, signal: stop.signal, threads: 0 }))).kind, "stopped");
  const boom = new Error("boom");
  assert.equal(await failure(mergeRun(sample, join(folder, "made/out"), { onProgress: () => { throw boom; } })), boom);
  assert.deepEqual(await readdir(folder), ["file", "mine", "new"]);

  await cp(sample, join(folder, "run"), { recursive: true });
  const inside = await failure(mergeRun(join(folder, "run"), join(folder, "run/checkpoint-1000/out"), { threads: 0 }));
  assert.ok(inside.message.includes("would overwrite the input"), inside.message);
});

test("a file that changes meanwhile fails the merge", async () => {
  const folder = await fresh();
  await cp(sample, join(folder, "run"), { recursive: true });
  const file = join(folder, "run/checkpoint-1000", WEIGHTS);
  const whole = await readFile(file);
  let told = 0;
  const onProgress = () => (told += 1) === 2 && writeFile(file, whole);
  const error = await failure(mergeRun(join(folder, "run"), join(folder, "out"), { onProgress, threads: 0 }));
  assert.deepEqual([error.kind, error.file], ["io", file]);
  assert.deepEqual(await readdir(folder), ["run"]);
});

test("mistakes are named", async () => {
  const nowhere = join(work, "nowhere");
  const table = join(await fresh(), "table.csv");
  await writeFile(table, "step,score\n950,1\n1000,3\n");
  const weighed = await weighRun(sample, { metricsFile: table, goal: "max", last: 2, penalty: 0.5 });
  assert.deepEqual(weighed.inputs.map(({ weight }) => weight.toFixed(4)), ["0.3333", "0.6667"]);
  for (const [work, kind, says] of [
    [() => mergeRun(nowhere, "out"), "input", `${nowhere}: does not exist`],
    [() => mergeRun(3, "out"), "usage", "an input is 3, which is not a path"],
    [() => mergeRun([], "out"), "input", "no checkpoint was named"],
    [() => mergeRun(sample, undefined), "usage", "the output is not the path of a folder"],
    [() => mergeRun("/dev/null", "out"), "input", "/dev/null: is neither a file nor a folder"],
    [() => weighRun(sample, { lst: 3 }), "usage", "there is no option `lst`"],
    [() => weighRun(sample, { last: "4" }), "usage", "option last: "],
    [() => weighRun(sample, { penalty: 2 }), "weights", "penalty 2 is out of range"],
    [() => weighRun(sample, { weights: [1, 2] }), "weights", "there are 2 weights for 10 checkpoints"],
    [() => weighRun(sample, { metricsFile: nowhere }), "io", `${nowhere}: cannot read it`],
  ]) {
    const error = await failure((async () => work())());
    assert.ok(error instanceof mwa.MergeError && error.kind === kind && error.message.includes(says), `${error.kind}: ${error.message}`);
  }
});

test("10,000 failing calls keep memory flat", async () => {
  const folder = await fresh();
  const pair = index.cases.find((it) => it.error === "shape" && it.inputs.length === 2);
  // in a folder of their own: beside a file its logs are looked for, and there are hundreds of vectors
  const copy = async (name, i) => {
    const path = join(folder, `${i}.safetensors`);
    await cp(vectors(name), path);
    return path;
  };
  const hostile = index.hostile.find(({ error }) => error).file;
  const [bad, ...files] = await Promise.all([hostile, ...pair.inputs].map(copy));
  const calls = [
    () => mergeRun(files, join(folder, "out"), { weights: [1, 1], threads: 0, allowCrossRun: true }),
    () => weighRun(files[0], { metric: "bleu" }),
    () => weighRun(files[0], { lst: 3 }),
    () => weighRun(bad),
    () => weighRun(join(folder, "nowhere")),
  ];
  const fail = async (times) => {
    for (let i = 0; i < times; i += 1) for (const call of calls) assert.ok((await failure(call())) instanceof mwa.MergeError);
    return process.memoryUsage().rss;
  };
  const before = await fail(200);
  const grown = (await fail(2000)) - before;
  assert.ok(grown < 32 << 20, `they leave ${grown >> 20} MiB behind`);
});

for (const [name, program, ...before] of [
  ["deno", process.execPath, fileURLToPath(new URL("node_modules/deno/bin.cjs", import.meta.url)), "run", "--allow-all"],
  ["bun", "bun"],
]) {
  test(`${name} writes the same bytes`, async (context) => {
    const folder = await fresh();
    const cli = fileURLToPath(new URL("../../wasm/web/dist/cli.js", import.meta.url));
    try {
      await run(program, [...before.slice(0, 1), "--version"]);
    } catch (error) {
      if (process.env.MWA_REQUIRE?.split(",").includes(name)) throw error;
      context.skip(`there is no ${name}`);
      return;
    }
    await run(program, [...before, cli, "merge", sample, "-o", join(folder, "out"), "--threads", "2"]);
    assert.equal(await sha256(folder, "out", WEIGHTS), SAMPLE);
  });
}

test("npx, and what type checkers see, from the packed package", async () => {
  const folder = await fresh();
  const npm = (...args) => run(process.platform === "win32" ? "npm.cmd" : "npm", args, { cwd: folder, shell: process.platform === "win32" });
  await npm("pack", "--silent", join(root, "wasm/web"));
  const [tarball] = await readdir(folder);
  await writeFile(join(folder, "package.json"), '{"type": "module"}');
  await npm("install", "--silent", "--offline", "--no-audit", `./${tarball}`);
  const npx = async (...args) => {
    const { code = 0, stdout, stderr } = await npm("exec", "--offline", "--", "mwa-merge", ...args).catch((error) => error);
    return { code, stdout, stderr };
  };
  const merged = await npx("merge", sample, "-o", "out", "--threads", "2");
  assert.equal(merged.code, 0, merged.stderr);
  assert.ok(merged.stdout.includes(BLAKE3) && merged.stdout.includes("checkpoint-1000"), merged.stdout);
  assert.match(merged.stdout, /^chosen: .*\ncheckpoint +step +eval_loss +from +weight\n/);
  assert.equal(await sha256(folder, "out", WEIGHTS), SAMPLE);
  const again = await npx("merge", sample, "-o", "out");
  assert.deepEqual([again.code, again.stderr.includes("error: out: exists already\nhelp: ")], [1, true]);
  const products = await npx("merge", sample, "-o", "products", "--space", "product", "--rank", "4", "--json");
  assert.equal(products.code, 0, products.stderr);
  if (process.env.MWA_BINARY) {
    await run(process.env.MWA_BINARY, ["merge", sample, "-o", join(folder, "native"), "--space", "product", "--rank", "4"]);
    assert.equal(await sha256(folder, "products", WEIGHTS), await sha256(folder, "native", WEIGHTS));
  }
  const weights = await npx("weights", sample, "--steps", "900..", "--weights=1,2,1", "--json");
  assert.deepEqual(JSON.parse(weights.stdout).inputs.map(({ weight }) => weight), [0.25, 0.5, 0.25]);
  for (const wrong of [["weigh", sample], ["merge", sample], ["merge", sample, "-o", "x", "--lst", "3"], ["weights", sample, "--last", "0"], ["merge", sample, "-o", "x", "--device", "tpu"], ["merge", sample, "-o", "x", "--rank", "4"], ["merge", sample, "-o", "x", "--space", "product", "--rank", "0"], ["weights"]]) {
    const { code, stderr } = await npx(...wrong);
    assert.deepEqual([code, stderr.includes("error: ")], [2, true], `${wrong.map((word) => basename(word))}: ${stderr}`);
  }
  assert.ok((await npx("--help")).stdout.includes("-o DIR"));
  for (const name of ["LICENSE-MIT", "LICENSE-APACHE"]) {
    assert.equal(await readFile(join(folder, "node_modules/mwa-merge", name), "utf8"), await readFile(join(root, name), "utf8"));
  }

  await cp(fileURLToPath(new URL("typed.ts", import.meta.url)), join(folder, "typed.ts"));
  const tsc = join(root, "wasm/web/node_modules/typescript/bin/tsc");
  const options = ["--noEmit", "--strict", "--skipLibCheck", "false", "--exactOptionalPropertyTypes", "--target", "es2022"];
  for (const [module, resolution] of [["nodenext", "nodenext"], ["esnext", "bundler"]]) {
    const how = ["--module", module, "--moduleResolution", resolution];
    const checked = await run(process.execPath, [tsc, ...options, ...how, "typed.ts"], { cwd: folder }).catch((error) => error);
    assert.equal(checked.stdout, "");
  }
  // a program for Node, whose own library has no page in it
  await writeFile(join(folder, "node.ts"), 'import { mergeRun } from "mwa-merge/node";\nimport { openRun } from "mwa-merge";\nconsole.log(mergeRun, openRun);\n');
  await cp(join(root, "wasm/web/node_modules/@types"), join(folder, "node_modules/@types"), { recursive: true });
  await cp(join(root, "wasm/web/node_modules/undici-types"), join(folder, "node_modules/undici-types"), { recursive: true });
  const checked = await run(process.execPath, [tsc, ...options, "--lib", "es2022", "--types", "node", "--module", "nodenext", "node.ts"], { cwd: folder }).catch((error) => error);
  assert.equal(checked.stdout, "");
});

test("the command line says what is wrong in its own words, and what to write instead", async () => {
  const folder = await fresh();
  const cli = fileURLToPath(new URL("../../wasm/web/dist/cli.js", import.meta.url));
  const says = async (...args) => {
    const { code = 0, stdout, stderr } = await run(process.execPath, [cli, ...args], { cwd: folder }).catch((error) => error);
    return [code, stderr, stdout];
  };
  for (const [args, said] of [
    [["merg", sample], "error: there is no command `merg`\nhelp: did you mean merge?\n"],
    [["inspect", sample], "error: `inspect` is a command of the native mwa; here there are merge and weights\nhelp: see mwa-merge --help\n"],
    [["weights", sample, "--penality", "1"], "error: there is no option --penality\nhelp: did you mean --penalty?\n"],
    [["weights", sample, "--last"], "error: --last has no value\nhelp: see mwa-merge --help\n"],
    [["weights", sample, "--metric", "--drop-bad"], "error: --metric has no value\nhelp: see mwa-merge --help\n"],
    [["weights", sample, "--drop-bad=3"], "error: --drop-bad takes no value, but has `3`\nhelp: see mwa-merge --help\n"],
    [["weights", sample, "-o", "out"], "error: -o is an option of merge, not of weights\nhelp: see mwa-merge --help\n"],
    [["weights", sample, "-x"], "error: there is no option -x\nhelp: see mwa-merge --help\n"],
    [[], "error: no command: begin with merge or weights\nhelp: see mwa-merge --help\n"],
  ]) assert.deepEqual((await says(...args)).slice(0, 2), [2, said]);
  // a number may be negative
  assert.deepEqual((await says("weights", sample, "--penalty", "-3")).slice(0, 2), [1, "error: penalty -3 is out of range for the linear scheme\nhelp: it must be between 0 and 1\n"]);
  const [code, , one] = await says("merge", sample, "--last", "1", "-o", "one");
  assert.deepEqual([code, /^merged 1 checkpoint \(241 kB\) into one in [\d.]+ s$/m.test(one)], [0, true], one);
  assert.match((await says("merge", sample, "-o", "one"))[1], /replace an earlier merge with --force\n$/);
  const [, , ten] = await says("merge", sample, "-o", "ten", "--threads", "0");
  assert.match(ten, /\n  averaging factors changes what the adapters do by 1\.8 %, which is little\n  \(at most 4\.2 %, in model\.layers\.2\.self_attn\.o_proj\)\n  adapter_model\.safetensors  241 kB  blake3 [0-9a-f]{64}\n/);
  if (!process.env.MWA_BINARY) return;
  const { stdout } = await run(process.env.MWA_BINARY, ["merge", sample, "-o", join(folder, "native")]);
  const residual = (text) => text.split("\n").filter((line) => /averaging factors|at most \d/.test(line) && line.startsWith("  "));
  assert.deepEqual(residual(ten), residual(stdout));
});

test("Ctrl-C is told, leaves nothing, and ends with 130, whenever it comes", { skip: process.platform === "win32" && "there are no signals" }, async () => {
  const folder = await fresh();
  const cli = fileURLToPath(new URL("../../wasm/web/dist/cli.js", import.meta.url));
  // large enough that it is under way when the signal comes, and all holes
  for (const step of [1, 2]) {
    await mkdir(join(folder, `run/checkpoint-${step}`), { recursive: true });
    const size = 96 << 20;
    const header = Buffer.from(JSON.stringify({ w: { dtype: "F32", shape: [size / 4], data_offsets: [0, size] } }).padEnd(128));
    const file = join(folder, `run/checkpoint-${step}/model.safetensors`);
    await writeFile(file, Buffer.concat([Buffer.from(BigUint64Array.of(128n).buffer), header]));
    await truncate(file, 136 + size);
  }
  // at the first file that is opened, and in the middle of the merge
  for (const open of [1, 20]) {
    const patch = join(folder, `${open}.mjs`);
    await writeFile(patch, `import fs from "node:fs"; import { syncBuiltinESMExports } from "node:module";
      const { open } = fs.promises; let count = 0;
      fs.promises.open = async (...given) => {
        if ((count += 1) === ${open}) { process.kill(process.pid, "SIGINT"); await new Promise((done) => setTimeout(done, 50)); }
        return open(...given);
      };
      syncBuiltinESMExports();`);
    const child = run(process.execPath, ["--import", pathToFileURL(patch).href, cli, "merge", "run", "-o", "out", "--scheme", "uniform", "--threads", "1"], { cwd: folder });
    const { code, stderr } = await child.catch((error) => error);
    assert.deepEqual([open, code], [open, 130], stderr);
    assert.match(stderr, /^error: stopped; nothing was (opened|written)\n$/);
    assert.ok(!(await readdir(folder)).some((name) => name.startsWith("out") || name.startsWith(".mwa")));
  }
});
