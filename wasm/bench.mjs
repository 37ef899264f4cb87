// Bytes per second of the component through jco and of the core module, in Node.
//
//   node wasm/bench.mjs DIR FILE    (DIR: what `jco transpile` wrote; FILE: mwa.module.wasm)
import { readFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { performance } from "node:perf_hooks";
import { pathToFileURL } from "node:url";
import * as components from "./host.mjs";
import * as modules from "./module.mjs";

const [folder, file] = process.argv.slice(2);
const { merger } = await import(pathToFileURL(join(resolve(folder), "mwa.js")));
const module = await modules.instantiate(readFileSync(file));
const [count, bytes, rounds] = [4, 32 << 20, 5];

/** A file of one tensor of numbers as training leaves them. */
function make(dtype, size, seed) {
  const json = JSON.stringify({ w: { dtype, shape: [bytes / size], data_offsets: [0, bytes] } });
  const head = json.padEnd(Math.ceil(json.length / 8) * 8);
  const made = new Uint8Array(8 + head.length + bytes);
  new DataView(made.buffer).setBigUint64(0, BigInt(head.length), true);
  made.set(new TextEncoder().encode(head), 8);
  let state = seed;
  const next = () => (state = (Math.imul(state, 1664525) + 1013904223) | 0) >>> 8;
  for (let at = 8 + head.length; at < made.length; at += size) {
    // the exponent in the middle of its range, as training leaves it; sign and mantissa anything
    for (let i = 0; i < size; i += 1) made[at + i] = next() >>> 16;
    made[at + size - 1] = (made[at + size - 1] & 0x80) | (dtype === "F16" ? 0x20 : 0x3a) | (next() & 3);
  }
  return made;
}

const median = (seconds) => seconds.sort((a, b) => a - b)[seconds.length >> 1];
console.log(`\n| ${count} inputs of ${bytes >> 20} MiB | Node, jco GB/s | Node, core module GB/s |\n|---|---|---|`);
for (const [dtype, size] of [["BF16", 2], ["F16", 2], ["F32", 4]]) {
  const files = Object.fromEntries(Array.from({ length: count }, (_, i) => [`${i}`, make(dtype, size, i + 1)]));
  const [paths, options] = [Object.keys(files), { weights: Array.from({ length: count }, () => 1) }];
  const ways = [
    () => components.mergeFiles(merger, files, paths, options),
    () => modules.mergeFiles(module, files, paths, options),
  ];
  const seconds = ways.map(() => []);
  for (let round = 0; round < rounds; round += 1) {
    const merged = ways.map((way, i) => {
      const start = performance.now();
      const [bytes] = Object.values(way().outputs);
      seconds[i].push((performance.now() - start) / 1000);
      return bytes;
    });
    if (Buffer.compare(...merged) !== 0) throw new Error(`${dtype}: the bytes differ`);
  }
  const speeds = seconds.map((it) => ((count * bytes) / median(it) / 1e9).toFixed(2));
  console.log(`| ${dtype} | ${speeds.join(" | ")} |`);
}
