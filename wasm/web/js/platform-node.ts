/** Node, Deno and Bun: files instead of addresses, and threads of another kind. */
import { readFile } from "node:fs/promises";
import { availableParallelism } from "node:os";
import { Worker as NodeWorker } from "node:worker_threads";
import { compile } from "./compile.js";
import { platform, type Platform } from "./platform.js";
import { overWeb, type Spawn } from "./thread.js";

const node: Omit<Platform, "files"> = {
  isProgram: true,
  cores: availableParallelism,
  compile: async (url) => (url.protocol === "file:" ? WebAssembly.compile(await readFile(url)) : compile(url)),
  worker() {
    // a variable, so that no bundler takes the worker for a page's
    const path = "./worker-node.js";
    const url = new URL(path, import.meta.url);
    return typeof Worker === "undefined" ? overNode(url) : overWeb(new Worker(url, { type: "module" }));
  },
};
Object.assign(platform, node);

/** A worker as Node has it. */
function overNode<Reply>(url: URL): Spawn<Reply> {
  return (hear, fail) => {
    const worker = new NodeWorker(url);
    worker.on("message", hear).on("error", fail);
    return {
      send: (message, transfer) => worker.postMessage(message, transfer as never),
      close: () => void worker.terminate(),
    };
  };
}
