/** The jobs of a merge or a comparison: read what they need, have threads or the GPU run them, hand results on in order. */
import { AT_ONCE } from "./desk.js";
import { call, MergeError } from "./error.js";
import type { MergeOptions } from "./merge.js";
import { toJson } from "./options.js";
import { jobsOf, type Job, type Lot } from "./order.js";
import type { Begin, Piece, Pool, Reply } from "./pool.js";
import type { Run } from "./run.js";
import { said } from "./source.js";
import type { Comparison, Merge } from "./wasm/mwa.js";

/** Most bytes that a job reads of one input: caches like small pieces. */
export const MOST = 1 << 20;
/** Jobs in a row for one thread, so that it reads Blobs on from where it stopped, which is several times as fast. */
const ROW = 8;
/** Least: below this, messages cost more than the work. */
const LEAST = 256 << 10;
/** Bytes of input in all jobs under way. */
const MEMORY = 256 << 20;

/** Options as the core reads them, without those that are JavaScript's own. */
export function wanted(run: Run, given: MergeOptions): string {
  if (typeof given !== "object" || given === null || Array.isArray(given)) throw new MergeError("usage", `the options are ${said(given)}, which is not an object with options`);
  const { output, onProgress, signal, threads, device, ...options } = given;
  return toJson({ ...options, ...named(run, options) });
}

/** Checkpoints by their whole names, which a label stands for as long as it fits one alone. */
export function named({ checkpoints: found }: Run, { checkpoints }: MergeOptions): Pick<MergeOptions, "checkpoints"> {
  if (!Array.isArray(checkpoints)) return {};
  const names = checkpoints.map((wanted) => {
    if (typeof wanted !== "string" || found.some(({ name }) => name === wanted)) return wanted;
    const fitting = found.filter(({ label, name }) => label === wanted || name.endsWith(`/${wanted}`));
    if (fitting.length === 1) return fitting[0]!.name;
    const list = (fitting.length > 0 ? fitting : found).map(({ name }) => name).join(", ");
    const why = fitting.length > 0 ? `${fitting.length} checkpoints are called \`${wanted}\`` : `there is no checkpoint \`${wanted}\``;
    throw new MergeError("usage", why, `${fitting.length > 0 ? "give one of" : "there are"} ${list}`);
  });
  return { checkpoints: names };
}

/** How much a job reads of each input. */
export function bytesOfJobs(pool: Pool, inputs: number): number {
  return Math.min(Math.max(Math.floor(MEMORY / (AT_ONCE * pool.size * inputs)), LEAST), MOST);
}

let clones: boolean | undefined;

/** Whether Blobs may be sent to other threads; Deno cannot. */
export function clonesBlobs(): boolean {
  try {
    clones ??= structuredClone(new Blob(["."])).size === 1;
  } catch {
    clones = false;
  }
  return clones;
}

/** What threads need to know, to plan the same jobs. */
export function begin(run: Run, options: MergeOptions, work: Pick<Begin, "what" | "excluded" | "jobBytes">): Begin {
  const { sources, given, opening } = run;
  const blobs = sources.map(({ blob }) => (clonesBlobs() ? (blob ?? null) : null));
  const [paths, sizes] = [sources.map(({ path }) => path), sources.map(({ size }) => size)];
  return { blobs, paths, sizes, opening, given, options: wanted(run, options), ...work };
}

/** Run the jobs of a lot; `take` hears their results in the order in which they are written. */
export async function runJobs(
  run: Run,
  core: Merge | Comparison,
  lot: Lot,
  pool: Pool,
  { signal, onProgress }: { signal?: AbortSignal | undefined; onProgress?: MergeOptions["onProgress"] | undefined },
  take: (result: Reply, job: Job) => Promise<void>,
): Promise<void> {
  const [count, total] = [lot.end - lot.start, core.bytes()];
  const began = performance.now();
  const report = (done: number) => {
    const speed = (done / Math.max(performance.now() - began, 1)) * 1000;
    onProgress?.({ done, total, speed, device: pool.device });
  };
  let done = 0;
  report(done);
  const running: { job: Job; reply: Promise<Reply> }[] = [];
  const spare: Spare = new Map();
  // what threads cannot read themselves is in memory while it waits for them
  const inRows = clonesBlobs() && core.inputFiles().every((file) => run.sources[file]!.blob);
  const each = inRows ? Math.min(ROW, Math.ceil(count / (AT_ONCE * pool.size))) : AT_ONCE;
  const jobs = jobsOf(core, lot);
  for (let next = 0, taken = 0; taken < count; taken += 1) {
    for (; next < count && running.length < pool.atOnce(Math.max(each, AT_ONCE)); next += 1) {
      const thread = inRows ? Math.floor(next / each) : undefined;
      const job = jobs.next().value as Job;
      const reply = start(run, core, job, { pool, each, thread }, spare);
      reply.catch(() => {});
      running.push({ job, reply });
    }
    signal?.throwIfAborted();
    const { job, reply } = running.shift()!;
    const result = await reply;
    for (const [file, memory] of result.spent ?? []) spare.set(file, [memory, ...(spare.get(file) ?? [])]);
    await take(result, job);
    report((done += length(job.pieces)));
  }
}

/** Memory to read a file into; never another, for who gave it may have kept it. */
type Spare = Map<number, ArrayBuffer[]>;

const length = (pieces: Piece[]) => pieces.reduce((sum, { start, end }) => sum + end - start, 0);

/** What sources say went wrong, as everything else does. */
export function told<T>(reading: Promise<T>): Promise<T> {
  return reading.catch((error: unknown) => call<never>(() => { throw error; }));
}

/** Read what threads cannot, then have the GPU or a thread run the job. */
async function start(run: Run, core: Merge | Comparison, { number: job, pieces }: Job, { pool, each, thread }: { pool: Pool; each: number; thread: number | undefined }, spare: Spare): Promise<Reply> {
  const fill = async (piece: Piece): Promise<Piece> => {
    const source = run.sources[piece.file]!;
    if (source.blob && clonesBlobs()) return piece;
    return { ...piece, bytes: await source.read(piece.start, piece.end - piece.start, spare.get(piece.file)?.pop()) };
  };
  const fillAll = () => told(Promise.all(pieces.map(fill)));
  let filled = await fillAll();
  if ("sum" in core && pool.isForGpu(each)) {
    const sum = core.sum(job);
    const inputs = filled.map(({ file, start, end, bytes }) => bytes ?? run.sources[file]!.blob!.slice(start, end));
    const reply = sum.length > 0 && (await pool.sum(sum as Float64Array<ArrayBuffer>, inputs, (nonFinite) => core.accepts(job, nonFinite)));
    if (reply) return reply;
    // the bytes were given away
    if (sum.length > 0) filled = await fillAll();
  }
  return pool.ask({ what: "job", job, pieces: filled }, thread);
}
