// After the compilers: make what is downloaded smaller, and say how large it is. The types keep their comments.
import { execFileSync } from "node:child_process";
import { chmodSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";

const here = (path) => fileURLToPath(new URL(path, import.meta.url));
const features = ["simd", "bulk-memory", "bulk-memory-opt", "nontrapping-float-to-int", "sign-ext", "mutable-globals", "reference-types", "multivalue"];
// no -O: LLVM has optimised already, and more of it compresses worse
const passes = ["--duplicate-function-elimination", "--dae", "--remove-unused-module-elements", "--vacuum"];
const wasm = here("dist/wasm/mwa_bg.wasm");
execFileSync(process.execPath, [here("node_modules/binaryen/bin/wasm-opt"), ...features.map((name) => `--enable-${name}`), ...passes, wasm, "-o", wasm]);

const glue = here("dist/wasm/mwa.js");
writeFileSync(glue, readFileSync(glue, "utf8").replace(/^ *(\/\*\*|\*).*\n/gm, ""));

chmodSync(here("dist/cli.js"), 0o755);

// what reads disks is not downloaded by a browser
const NODE = ["cli.js", "disk.js", "node.js", "staging.js"];
const scripts = readdirSync(here("dist")).filter((name) => name.endsWith(".js") && !NODE.includes(name)).map((name) => here(`dist/${name}`));
const size = (paths) => gzipSync(Buffer.concat(paths.map((path) => readFileSync(path))), { level: 9 }).length;
const [all, core] = [size([...scripts, glue, wasm]), size([wasm])];
console.log(`package: ${(all / 1000).toFixed(1)} kB gzipped, of which the wasm module ${(core / 1000).toFixed(1)} kB`);
// the library that rustup has prebuilt carries panic messages; from source it goes without
if (all > 250_000) console.warn("package: larger than the 250 kB that a build with the library's sources stays below");
