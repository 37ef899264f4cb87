/** The jobs of a lot, in the order in which their results are written. */
import type { Piece } from "./pool.js";
import type { Comparison, Merge } from "./wasm/mwa.js";

/** A job: its number, and what it reads and writes. */
export interface Job {
  number: number;
  pieces: Piece[];
  writes: Piece[];
}

/** The numbers of jobs, as the core gives them. */
export interface Lot {
  /** The first. */
  start: number;
  /** The first that is not on elements. Those before come in the order of the output. */
  modules: number;
  /** The one after the last. */
  end: number;
  /** Whether they write the output. */
  writes: boolean;
}

/** The lot that the core is at; undefined when all is done. */
export function lotOf(numbers: Float64Array | undefined): Lot | undefined {
  if (!numbers) return undefined;
  const [start, modules, end, writes] = numbers as unknown as [number, number, number, number];
  return { start, modules, end, writes: writes === 1 };
}

/** One job after the other. No list of them is made, but of those on modules that write: they are few, and come in any order. */
export function* jobsOf(core: Merge | Comparison, { start, modules, end }: Lot): Generator<Job> {
  let rest: Job[] | undefined;
  if (modules < end && jobOf(core, modules).writes.length > 0) {
    rest = Array.from({ length: end - modules }, (_, i) => jobOf(core, modules + i)).sort(byPlace);
  }
  let next = 0;
  for (let number = start; number < modules; number += 1) {
    const job = jobOf(core, number);
    for (; rest && next < rest.length && byPlace(rest[next]!, job) < 0; next += 1) yield rest[next]!;
    yield job;
  }
  if (rest) yield* rest.slice(next);
  else for (let number = modules; number < end; number += 1) yield jobOf(core, number);
}

function jobOf(core: Merge | Comparison, number: number): Job {
  const flat = core.job(number);
  let i = 0;
  const ranges = () => Array.from({ length: flat[i++]! }, () => ({ file: flat[i++]!, start: flat[i++]!, end: flat[i++]! }));
  const writes = ranges();
  return { number, writes, pieces: ranges() };
}

/** Jobs by where they begin to write. */
function byPlace({ writes: [a] }: Job, { writes: [b] }: Job): number {
  return a!.file - b!.file || a!.start - b!.start;
}
