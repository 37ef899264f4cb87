/** One thread of the pool, in a web worker or in Node's `worker_threads`. */
import init from "./wasm/mwa.js";
import { Desk } from "./desk.js";
import { asError, facts } from "./error.js";
import type { Reply, Request } from "./pool.js";

type Hear = (request: Request) => void;
type Send = (reply: Reply, transfer: Transferable[]) => void;

function serve(listen: (hear: Hear) => void, send: Send): void {
  const desk = new Desk();
  listen(async (request) => {
    const { id } = request;
    try {
      if (request.what === "load") await init({ module_or_path: request.module });
      const answer = request.what === "load" ? {} : await desk.answer(request);
      send({ id, ...answer }, answer.bytes ? [answer.bytes.buffer] : []);
    } catch (error) {
      send({ id, error: facts(asError(error)) }, []);
    }
  });
}

declare const WorkerGlobalScope: { new (): unknown } | undefined;
if (typeof WorkerGlobalScope !== "undefined" && globalThis instanceof WorkerGlobalScope) {
  const scope = globalThis as unknown as Worker;
  serve((hear) => (scope.onmessage = ({ data }) => hear(data as Request)), (reply, transfer) => scope.postMessage(reply, transfer));
} else {
  const { parentPort } = await import(/* @vite-ignore */ "node:worker_threads");
  serve((hear) => parentPort?.on("message", hear), (reply, transfer) => parentPort?.postMessage(reply, transfer as never));
}
