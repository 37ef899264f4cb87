/** Files on disk, to be read in ranges. */
import { open, readdir, realpath, stat } from "node:fs/promises";
import { basename, dirname, join, normalize, sep } from "node:path";
import { MergeError } from "./error.js";
import type { RangeFile } from "./source.js";

/** Folders that hold nothing to merge, and may hold a great many files. */
const SKIPPED = new Set([".git", "node_modules", "__pycache__"]);

/**
 * Files, and all files in folders, to be read in ranges; with a checkpoint come the logs of its run.
 *
 * ```ts
 * const run = await openRun(await disk("runs/my-lora"));
 * ```
 *
 * @throws {MergeError} a path that does not exist
 */
export async function disk(paths: string | readonly string[]): Promise<RangeFile[]> {
  const named = Array.isArray(paths) ? [...paths] : [paths];
  const odd = named.find((path) => typeof path !== "string" || path === "");
  if (odd !== undefined) throw new MergeError("usage", `an input is ${JSON.stringify(odd)}, which is not a path`);
  if (named.length === 0) throw new MergeError("input", "no checkpoint was named", "give a run folder or checkpoints");
  const found: Found = new Map();
  for (const root of new Set(named.map(tidy))) {
    const stats = await stat(root).catch((error: NodeJS.ErrnoException) => {
      const help = "give a path on this machine: a run folder, a checkpoint folder or a file with weights";
      if (error.code === "ENOENT") throw new MergeError("input", `${root}: does not exist`, help, root);
      throw new MergeError("io", `${root}: cannot open it: ${error.message}`, undefined, root);
    });
    if (stats.isDirectory()) await walk(root, `${slashed(root)}/.`, [], found);
    else if (stats.isFile()) add(found, root, `${slashed(root)}/.`, stats.size);
    else throw new MergeError("input", `${root}: is neither a file nor a folder`, undefined, root);
    await neighbours(root, found);
  }
  return [...found.values()];
}

/** By name, so that each counts once. */
type Found = Map<string, RangeFile>;

function add(found: Found, path: string, name: string, size: number): void {
  found.set(name, { name, size, read: (offset, length, spare) => readRange(path, offset, length, spare) });
}

/** As it was given, less what says nothing. */
function tidy(path: string): string {
  const plain = normalize(path);
  return plain.length > 1 && plain.endsWith(sep) ? plain.slice(0, -1) : plain;
}

const slashed = (path: string) => path.split(sep).join("/");

/** All files in a folder; `above` are the real paths of the folders around it, for links may lead back. */
async function walk(path: string, name: string, above: string[], found: Found): Promise<void> {
  const here = await realpath(path);
  if (above.includes(here)) return;
  const names = await readdir(path).catch((error: Error) => {
    if (above.length > 0) return []; // not the user's affair until something in it is needed
    throw new MergeError("io", `${path}: cannot list it: ${error.message}`, undefined, path);
  });
  const entries = names.filter((inner) => !SKIPPED.has(inner)).sort().map(async (inner) => {
    const stats = await stat(join(path, inner)).catch(() => undefined); // a link to nowhere
    return { inner, stats };
  });
  for (const { inner, stats } of await Promise.all(entries)) {
    if (stats?.isDirectory()) await walk(join(path, inner), `${name}/${inner}`, [...above, here], found);
    else if (stats?.isFile()) add(found, join(path, inner), `${name}/${inner}`, stats.size);
  }
}

/** A checkpoint's metrics are in the logs of the folder around it, and of its neighbours there: what lies there is told, not read. */
async function neighbours(root: string, found: Found): Promise<void> {
  const around = dirname(root);
  const named = (path: string) => (around === "." && !root.startsWith(around) ? path : join(around, path));
  const files = async (folder: string) => {
    const entries = await readdir(join(around, folder), { withFileTypes: true }).catch(() => []);
    for (const entry of entries) {
      const path = named(join(folder, entry.name));
      const stats = entry.isDirectory() ? undefined : await stat(path).catch(() => undefined);
      if (stats?.isFile()) add(found, path, slashed(path), stats.size);
    }
    return entries.filter((entry) => entry.isDirectory() && !SKIPPED.has(entry.name));
  };
  for (const { name } of await files("")) if (name !== basename(root)) await files(name);
}

async function readRange(path: string, offset: number, length: number, spare: ArrayBuffer | undefined): Promise<Uint8Array<ArrayBuffer>> {
  const file = await open(path);
  try {
    const bytes = new Uint8Array(spare && spare.byteLength >= length ? spare : new ArrayBuffer(length), 0, length);
    let done = 0;
    while (done < length) {
      const { bytesRead } = await file.read(bytes, done, length - done, offset + done);
      if (bytesRead === 0) break;
      done += bytesRead;
    }
    return bytes.subarray(0, done);
  } finally {
    await file.close();
  }
}
