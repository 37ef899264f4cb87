/** Every situation through the package, from folder to folder: the same files, report and notes as native, or the same refusal. */
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { existsSync } from "node:fs";
import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import test from "node:test";

import { mergeRun } from "../../wasm/web/dist/node.js";
import { spoken } from "../../wasm/web/dist/speech.js";

const read = async (name) => JSON.parse(await readFile(new URL(`../situations/${name}`, import.meta.url), "utf8"));
const { blobs, situations } = await read("situations.json");
const golden = await read("golden.json");
const camel = (name) => name.replace(/_(.)/g, (_, letter) => letter.toUpperCase());

/** What the package answered, as golden.json has it. */
async function outcome(folder, made) {
  const out = join(folder, "out");
  try {
    await made;
  } catch (error) {
    assert.ok(error.kind, error.stack);
    assert.ok(!existsSync(out), "an error left an output behind");
    const { kind, file = null, tensor = null, detail, help = null } = error;
    return { error: { kind, file, tensor, detail, help } };
  }
  const files = {};
  for (const name of (await readdir(out)).sort()) {
    if (name !== "mwa-report.json") files[name] = createHash("sha256").update(await readFile(join(out, name))).digest("hex");
  }
  const { mwa: _, ...report } = JSON.parse(await readFile(join(out, "mwa-report.json"), "utf8"));
  return { report, files };
}

// the package opens no base beside a run
for (const { situation, why, files, paths, options } of situations.filter(({ options }) => !options.base)) {
  test(`${situation}: ${why}`, async (context) => {
    const folder = await mkdtemp(join(tmpdir(), "mwa-situation-"));
    context.after(() => rm(folder, { recursive: true }));
    for (const [path, place] of Object.entries(files)) {
      const { text, base64 } = blobs[place];
      await mkdir(dirname(join(folder, path)), { recursive: true });
      await writeFile(join(folder, path), text ?? Buffer.from(base64, "base64"));
    }
    const named = Object.fromEntries(Object.entries(options).map(([name, value]) => [camel(name), value]));
    const rules = named.weightsFile;
    if (rules) named.weightsFile = join(folder, rules);
    const found = await outcome(folder, mergeRun(paths.map((path) => join(folder, path)), join(folder, "out"), { ...named, threads: 0 }));
    const { error, ...expected } = golden[situation];
    // options are called here as JavaScript calls them
    if (error) expected.error = { ...error, detail: spoken(error.detail), help: error.help === null ? null : spoken(error.help) };
    if (expected.error && expected.error.file === rules && rules) expected.error.file = "the weights";
    assert.deepEqual(JSON.parse(JSON.stringify(found).replaceAll(`${folder}/`, "")), expected);
  });
}
