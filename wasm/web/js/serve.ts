/** The other end of a thread: answer what is asked, in a web worker or in Node's `worker_threads`. */
import { asError, facts } from "./error.js";

type Given = { [name: string]: unknown; bytes?: Uint8Array<ArrayBuffer>; spent?: [unknown, ArrayBuffer][] };
type Send = (reply: unknown, transfer: Transferable[]) => void;

declare const WorkerGlobalScope: { new (): unknown } | undefined;

/** Answer each request; the `bytes` of an answer are transferred, and what was `spent`. */
export async function serve<Request>(answer: (request: Request) => Promise<Given>): Promise<void> {
  const hear = (send: Send) => async ({ id, ...request }: Request & { id: number }) => {
    try {
      const given = await answer(request as Request);
      send({ id, ...given }, [...(given.bytes ? [given.bytes.buffer] : []), ...(given.spent ?? []).map(([, memory]) => memory)]);
    } catch (error) {
      send({ id, error: facts(asError(error)) }, []);
    }
  };
  if (typeof WorkerGlobalScope !== "undefined" && globalThis instanceof WorkerGlobalScope) {
    const scope = globalThis as unknown as Worker;
    const each = hear((reply, transfer) => scope.postMessage(reply, transfer));
    scope.onmessage = ({ data }) => void each(data);
    return;
  }
  const { parentPort } = await import(/* @vite-ignore */ "node:worker_threads");
  parentPort?.on("message", hear((reply, transfer) => parentPort.postMessage(reply, transfer as never)));
}
