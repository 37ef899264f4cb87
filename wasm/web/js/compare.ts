/** Compare the chosen checkpoints: norms, cosines, and what averaging their factors costs. */
import { call } from "./error.js";
import { begin, bytesOfJobs, runJobs, wanted } from "./jobs.js";
import type { MergeOptions } from "./merge.js";
import { lotOf } from "./order.js";
import { withPool } from "./pool.js";
import { weigh, type Run } from "./run.js";
import type { WeighOptions } from "./types.js";

/** Norms of the chosen checkpoints, the cosine of each pair, and what averaging the factors costs. */
export interface Comparison {
  names: string[];
  /** ‖θ‖ of each. */
  norms: number[];
  /** Cosine of each pair; 1 on the diagonal. */
  cosines: number[][];
  /** ‖Σ wBA − B̄Ā‖ / ‖Σ wBA‖: how far the average of the factors is from the average of what they do; null without factors. */
  residual: number | null;
}

/** Compare the chosen checkpoints, over all of their weights. */
export async function compare(run: Run, options: Pick<MergeOptions, keyof WeighOptions | "signal" | "threads" | "onProgress"> = {}): Promise<Comparison> {
  const { inputs } = weigh(run, options);
  return withPool(options.threads, async (pool) => {
    const jobBytes = bytesOfJobs(pool, inputs.length);
    const core = call(() => run.core.compare(wanted(run, options), jobBytes));
    try {
      const k = core.inputs();
      await pool.begin(begin(run, options, { what: "compare", excluded: [], jobBytes }));
      const sums = new Float64Array(k * k + 2);
      await runJobs(run, core, lotOf(core.next())!, pool, options, async ({ bytes }) => {
        const part = new Float64Array(bytes!.buffer);
        for (let i = 0; i < sums.length; i += 1) sums[i]! += part[i]!;
      });
      const dot = (i: number, j: number) => sums[Math.min(i, j) * k + Math.max(i, j)]!;
      const norms = inputs.map((_, i) => Math.sqrt(dot(i, i)));
      const cosines = norms.map((a, i) => norms.map((b, j) => (i === j ? 1 : dot(i, j) / (a * b))));
      const [error, norm] = sums.slice(k * k);
      return { names: inputs.map(({ name }) => name), norms, cosines, residual: norm! > 0 ? Math.sqrt(error! / norm!) : null };
    } finally {
      core.free();
    }
  });
}
