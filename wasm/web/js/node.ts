/** Files and folders on disk, for Node and Deno. */
import { open, readdir, stat } from "node:fs/promises";
import { basename, join, resolve } from "node:path";
import type { RangeFile } from "./source.js";

/**
 * A file, or all files in a folder, to be read in ranges.
 *
 * ```ts
 * const run = await openRun(await disk("runs/my-lora"));
 * ```
 */
export async function disk(path: string): Promise<RangeFile[]> {
  const found: RangeFile[] = [];
  await walk(resolve(path), basename(resolve(path)), found);
  return found;
}

async function walk(path: string, name: string, found: RangeFile[]): Promise<void> {
  const { size, ...entry } = await stat(path).then((stats) => ({ size: stats.size, isFolder: stats.isDirectory() }));
  if (!entry.isFolder) {
    found.push({ name, size, read: (offset, length) => readRange(path, offset, length) });
    return;
  }
  for (const inner of (await readdir(path)).sort()) await walk(join(path, inner), `${name}/${inner}`, found);
}

async function readRange(path: string, offset: number, length: number): Promise<Uint8Array<ArrayBuffer>> {
  const file = await open(path);
  try {
    const bytes = new Uint8Array(length);
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
