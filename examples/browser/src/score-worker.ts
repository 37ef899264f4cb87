/** Score one adapter, batch by batch. */
import { scoring, type Adapter, type Base } from "./llama";

onmessage = ({ data }: MessageEvent<{ base: Base; adapter: Adapter; count: number; seed?: number }>) => {
  for (const score of scoring(data.base, data.adapter, data.count, data.seed)) postMessage(score);
};
