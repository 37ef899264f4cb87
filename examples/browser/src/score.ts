/** Score adapters of the sample run: a worker each, so that the page stays quick. The twin of examples/score.py. */
import type { Adapter, Base, Score } from "./llama";

/** Score one adapter, hearing after each batch how it stands. */
export function score(base: Base, adapter: Adapter, count: number, hear: (score: Score) => void, signal: AbortSignal): Promise<Score> {
  const worker = new Worker(new URL("./score-worker.ts", import.meta.url), { type: "module" });
  signal.addEventListener("abort", () => worker.terminate());
  return new Promise<Score>((resolve, reject) => {
    worker.onerror = (event) => reject(new Error(event.message || "the scorer could not be started"));
    worker.onmessage = ({ data }: MessageEvent<Score>) => {
      hear(data);
      if (data.asked < count) return;
      worker.terminate();
      resolve(data);
    };
    worker.postMessage({ base, adapter, count });
  });
}
