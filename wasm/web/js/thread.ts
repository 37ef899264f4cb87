/** A thread that is asked and answers, on any platform: web workers, or Node's. */
import { asError, type facts } from "./error.js";

/** What every answer has. */
export interface Answer {
  id: number;
  error?: ReturnType<typeof facts>;
}

/** A thread that takes one kind of request. */
export interface Thread<Request, Reply> {
  /** How many requests are not answered yet. */
  pending: number;
  /** Buffers that are transferred are gone here. */
  ask(request: Request, transfer?: Transferable[]): Promise<Reply>;
  close(): void;
}

/** The way to a worker, and to its end. */
interface Port {
  send(message: unknown, transfer: Transferable[]): void;
  close(): void;
}

/** Starts a worker, whose answers and failure it passes on. */
export type Spawn<Reply> = (hear: (reply: Reply) => void, fail: (error: Error) => void) => Port | Promise<Port>;

/** Start a thread. */
export async function start<Request, Reply extends Answer>(spawn: Spawn<Reply>): Promise<Thread<Request, Reply>> {
  const waiting = new Map<number, { resolve: (reply: Reply) => void; reject: (error: unknown) => void }>();
  let last = 0;
  const hear = (reply: Reply) => {
    const waiter = waiting.get(reply.id);
    waiting.delete(reply.id);
    thread.pending -= 1;
    if (reply.error) waiter?.reject(asError(reply.error));
    else waiter?.resolve(reply);
  };
  const fail = (error: Error) => {
    for (const { reject } of waiting.values()) reject(error);
    waiting.clear();
  };
  const port = await spawn(hear, fail);
  const thread: Thread<Request, Reply> = {
    pending: 0,
    ask(request, transfer = []) {
      const id = (last += 1);
      return new Promise((resolve, reject) => {
        waiting.set(id, { resolve, reject });
        this.pending += 1;
        port.send({ id, ...request }, transfer);
      });
    },
    close() {
      port.close();
      fail(new Error("the worker was closed"));
    },
  };
  return thread;
}

/** A worker as browsers, Deno and Bun have it. */
export function overWeb<Reply>(worker: Worker): Spawn<Reply> {
  return (hear, fail) => {
    worker.onmessage = ({ data }) => hear(data as Reply);
    worker.onerror = (event) => fail(new Error(event.message || "it could not be loaded"));
    return {
      send: (message, transfer) => worker.postMessage(message, transfer),
      close: () => worker.terminate(),
    };
  };
}
