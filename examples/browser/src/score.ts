/** Score adapters of the sample run: a worker each, so that the page stays quick. The twin of examples/score.py. */
import type { MergedFile } from "mwa-merge";
import type { Adapter, Base, Score } from "./llama";

/** Score one adapter on the problems of a seed, hearing after each batch how it stands. */
export function score(base: Base, adapter: Adapter, count: number, hear: (score: Score) => void, signal: AbortSignal, seed?: number): Promise<Score> {
  const worker = new Worker(new URL("./score-worker.ts", import.meta.url), { type: "module" });
  return new Promise<Score>((resolve, reject) => {
    const stop = () => reject(new Error("stopped"));
    signal.addEventListener("abort", stop, { once: true });
    if (signal.aborted) stop();
    worker.onerror = (event) => reject(new Error(event.message || "the scorer could not be started"));
    worker.onmessage = ({ data }: MessageEvent<Score>) => {
      hear(data);
      if (data.asked >= count) resolve(data);
    };
    worker.postMessage({ base, adapter, count, seed });
  }).finally(() => worker.terminate());
}

/** A merge as the scorer takes it. */
export async function adapterOf(files: MergedFile[]): Promise<Adapter> {
  const find = (name: string) => files.find((file) => file.name === name)!.blob!;
  return { config: await find("adapter_config.json").text(), weights: await find("adapter_model.safetensors").arrayBuffer() };
}
