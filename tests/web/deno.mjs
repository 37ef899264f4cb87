/** Run by Deno: prints what went wrong and the sample's hash. */
import { readFile } from "node:fs/promises";
import process from "node:process";

import * as mwa from "../../wasm/web/dist/index-node.js";
import { disk } from "../../wasm/web/dist/node.js";
import { runVectors } from "./vectors.mjs";

const root = new URL("../..", import.meta.url).pathname;
const { wrong } = await runVectors(mwa, (path) => readFile(`${root}/tests/vectors/${path}`).then((bytes) => new Uint8Array(bytes)), 2);
const merged = await mwa.merge(await mwa.openRun(await disk(`${root}/examples/sample-run`)));
console.log(JSON.stringify({ wrong, blake3: merged.report.outputs[0].blake3 }));
process.exit(0);
