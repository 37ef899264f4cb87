/** The other end of a thread: answer what is asked. */
import { asError, facts } from "./error.js";

type Given = { [name: string]: unknown; bytes?: Uint8Array<ArrayBuffer>; spent?: [unknown, ArrayBuffer][] };
type Send = (reply: unknown, transfer: Transferable[]) => void;

/** Takes requests, and sends what answers them; the `bytes` of an answer are transferred, and what was `spent`. */
export function server<Request>(answer: (request: Request) => Promise<Given>, send: Send): (request: Request & { id: number }) => Promise<void> {
  return async ({ id, ...request }) => {
    try {
      const given = await answer(request as Request);
      send({ id, ...given }, [...(given.bytes ? [given.bytes.buffer] : []), ...(given.spent ?? []).map(([, memory]) => memory)]);
    } catch (error) {
      send({ id, error: facts(asError(error)) }, []);
    }
  };
}

/** Answer each request to this web worker. */
export function serve<Request>(answer: (request: Request) => Promise<Given>): void {
  const scope = globalThis as unknown as Worker;
  const hear = server(answer, (reply, transfer) => scope.postMessage(reply, transfer));
  scope.onmessage = ({ data }) => void hear(data);
}
