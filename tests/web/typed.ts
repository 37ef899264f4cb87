/** What type checkers see of the package: `tsc --strict` accepts this file, and needs each of its expected errors. */
import { dropped, merge, openRun, ready, search, weights, type Merged, type Searched } from "mwa-merge";
import { MwaMerge } from "mwa-merge/element";
import { disk, mergeRun, MergeError, weighRun, type Report } from "mwa-merge/node";

type Same<A, B> = (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? true : false;
const same = <A, B>(_: Same<A, B>) => {};

const report = await mergeRun("run", "out", { metric: "loss", last: 4, steps: [500, 900], force: true, onProgress: ({ done }) => done });
same<typeof report, Report>(true);
same<(typeof report.inputs)[number]["weight"], number>(true);
same<typeof report.weighting.metric, string | undefined>(true);
same<Awaited<ReturnType<typeof weighRun>>["notes"], string[]>(true);
same<Awaited<ReturnType<typeof merge>>, Merged>(true);
await mergeRun(["a", "b"] as const, "out", { weights: [1, 2], adapter: "default", metricsFile: "scores.csv" });
await merge(await openRun(await disk(["a", "b"])), { output: new WritableStream<Uint8Array>() });
for (const { name, blob } of (await merge(await openRun([]), { penalty: 0.8 })).files) same<[typeof name, typeof blob], [string, Blob]>(true);
same<ReturnType<typeof weights>, number[]>(true);
const element = document.querySelector("mwa-merge");
same<typeof element, MwaMerge | null>(true);
same<ReturnType<MwaMerge["merge"]>, Promise<Merged | undefined>>(true);
await ready({ from: "/mwa" });
const found = await search(await openRun(await disk("run")), { evaluate: async (files) => files.length, goal: "max", budget: 20, groups: "attn,mlp" });
same<typeof found, Searched>(true);
same<(typeof found.winner)["score"], number | undefined>(true);
addEventListener("drop", async (event) => void (await openRun(await dropped((event as DragEvent).dataTransfer!.items))));
try {
  // @ts-expect-error no such option
  await mergeRun("run", "out", { lst: 4 });
  // @ts-expect-error a number
  await mergeRun("run", "out", { last: "4" });
  // @ts-expect-error no such scheme
  await weighRun("run", { scheme: "best" });
  // @ts-expect-error nothing is merged
  await weighRun("run", { dtype: "f32" });
  // @ts-expect-error the output is the folder
  await mergeRun("run", "out", { output: new WritableStream() });
  // @ts-expect-error it says which scores are better
  await search(await openRun(await disk("run")), { evaluate: () => 1 });
  // @ts-expect-error weights are what is searched
  await search(await openRun(await disk("run")), { evaluate: () => 1, goal: "min", weights: [1, 2] });
  // @ts-expect-error a path
  await mergeRun(3, "out");
} catch (error) {
  if (error instanceof MergeError) same<typeof error.file, string | undefined>(true);
}
