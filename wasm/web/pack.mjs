// After the compilers: make what is downloaded smaller, and say how large it is. The types keep their comments.
import { execFileSync } from "node:child_process";
import { chmodSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";

const here = (path) => fileURLToPath(new URL(path, import.meta.url));
const features = ["simd", "bulk-memory", "bulk-memory-opt", "nontrapping-float-to-int", "sign-ext", "mutable-globals", "reference-types", "multivalue"];
// no -O: LLVM has optimised already, and more of it compresses worse
// functions of one kind are alike: side by side, they compress better
const passes = ["--duplicate-function-elimination", "--dae", "--remove-unused-module-elements", "--vacuum", "--reorder-functions-by-name", "--strip-debug"];

/** Pack a module and its glue. */
function pack(name) {
  const [wasm, glue] = [here(`dist/${name}_bg.wasm`), here(`dist/${name}.js`)];
  execFileSync(process.execPath, [here("node_modules/binaryen/bin/wasm-opt"), ...features.map((name) => `--enable-${name}`), ...passes, wasm, "-o", wasm]);
  writeFileSync(glue, readFileSync(glue, "utf8").replace(/^ *(\/\*\*|\*).*\n/gm, ""));
  return [glue, wasm];
}

const [core, gpu] = [pack("wasm/mwa"), pack("wasm-gpu/mwa_gpu")];
chmodSync(here("dist/cli.js"), 0o755);

// what reads disks is not downloaded by a browser
const NODE = ["cli.js", "disk.js", "index-node.js", "node.js", "platform-node.js", "staging.js", "worker-node.js"];
const scripts = readdirSync(here("dist")).filter((name) => name.endsWith(".js") && !NODE.includes(name)).map((name) => here(`dist/${name}`));
const isForGpu = (path) => path.endsWith("gpu-worker.js");
const size = (paths) => gzipSync(Buffer.concat(paths.map((path) => readFileSync(path))), { level: 9 }).length;
const kB = (bytes) => `${(bytes / 1000).toFixed(1)} kB`;
const all = size([...scripts.filter((path) => !isForGpu(path)), ...core]);
console.log(`package: ${kB(all)} gzipped, of which the wasm module ${kB(size(core.slice(1)))}`);
console.log(`for a GPU, loaded when one is used: ${kB(size([...scripts.filter(isForGpu), ...gpu]))} more`);
if (all > 250_000) console.warn("package: larger than the 250 kB that it is meant to stay below");
