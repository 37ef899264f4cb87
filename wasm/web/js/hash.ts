/** BLAKE3 of what jobs have not read. */
import { AT_ONCE } from "./desk.js";
import { clonesBlobs, told } from "./jobs.js";
import type { Pool } from "./pool.js";
import { eachOf, type Run } from "./run.js";
import type { Merge as Core } from "./wasm/mwa.js";

/** Bytes read at once; subtrees of the hash begin where pieces do. */
const PIECE = 1 << 20;

/** Hash what no job has read: heads, and whatever else lies between tensors. */
export async function hashMissing(run: Run, core: Core, pool: Pool, signal: AbortSignal | undefined): Promise<void> {
  const hash = async ({ file, start, end }: Range) => {
    signal?.throwIfAborted();
    const source = run.sources[file]!;
    const known = run.given.find((piece) => piece.file === file && piece.start <= start && end <= piece.end);
    if (known) return core.takeParts(core.hash(file, start, known.bytes.subarray(start - known.start, end - known.start)));
    const isThere = source.blob && clonesBlobs();
    const piece = { file, start, end, ...(!isThere && { bytes: await told(source.read(start, end - start)) }) };
    core.takeParts((await pool.ask({ what: "hash", piece })).parts!);
  };
  await eachOf(AT_ONCE * pool.size, [...pieces(core.missing())], hash);
}

interface Range {
  file: number;
  start: number;
  end: number;
}

function* pieces(flat: Float64Array): Generator<Range> {
  for (let i = 0; i < flat.length; i += 3) {
    const [file, from, end] = flat.subarray(i, i + 3) as unknown as [number, number, number];
    for (let start = from; start < end; ) {
      const stop = Math.min(end, (Math.floor(start / PIECE) + 1) * PIECE);
      yield { file, start, end: stop };
      start = stop;
    }
  }
}
