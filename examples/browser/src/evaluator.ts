/**
 * Score by a module that the user wrote, in a worker of its own: it reaches neither the page nor, by the policy that the worker inherits from
 * the page, anything beyond this machine.
 */
import type { Candidate, Evaluate, MergedFile, Score } from "mwa-merge";

/** What a module may begin as. */
export const TEMPLATE = `// How good is a merge? Give a number, or {score, error}. It stays on this machine:
// what can be asked beyond this page is a program of yours on localhost.
export async function score(files, { number, weights }) {
  const adapter = files.find(({ name }) => name === "adapter_model.safetensors");
  const response = await fetch("http://localhost:8000/score", { method: "POST", body: adapter.blob });
  return (await response.json()).score;
}
`;

/** What follows the module's own text: it answers a question at a time. */
const ANSWERS = `
;onmessage = async ({ data: { files, candidate } }) => {
  try {
    if (typeof score !== "function") throw new Error("the module has no function called score");
    postMessage({ score: await score(files, candidate) });
  } catch (error) {
    postMessage({ failed: error instanceof Error ? error.message : String(error) });
  }
};
`;

interface Answer {
  score?: number | Score;
  failed?: string;
}

/** A module that stays loaded until it is closed. */
export class ModuleEvaluator {
  readonly #url: string;
  #worker: Worker | undefined;
  #last: Promise<unknown> = Promise.resolve();

  constructor(text: string) {
    this.#url = URL.createObjectURL(new Blob([text, ANSWERS], { type: "text/javascript" }));
  }

  /** One candidate after the other: a module need not be ready for two. */
  readonly evaluate: Evaluate = (files, candidate) => {
    const mine = this.#last.then(() => this.#ask(files, candidate));
    this.#last = mine.catch(() => {});
    return mine;
  };

  close(): void {
    this.#worker?.terminate();
    URL.revokeObjectURL(this.#url);
  }

  #ask(files: MergedFile[], { number, by, weights, signal }: Candidate): Promise<number | Score> {
    const worker = (this.#worker ??= new Worker(this.#url, { type: "module" }));
    return new Promise((resolve, reject) => {
      const stop = () => reject(new Error("stopped"));
      signal?.addEventListener("abort", stop, { once: true });
      worker.onerror = (event) => {
        event.preventDefault();
        // one that cannot be loaded is told of for each candidate
        this.#worker?.terminate();
        this.#worker = undefined;
        reject(new Error(event.message || "the module cannot be loaded: is it JavaScript, and imports nothing from elsewhere?"));
      };
      worker.onmessage = ({ data }: MessageEvent<Answer>) => {
        signal?.removeEventListener("abort", stop);
        if (data.failed !== undefined) reject(new Error(data.failed));
        else resolve(data.score as number | Score);
      };
      worker.postMessage({ files, candidate: { number, by, weights } });
    });
  }
}
