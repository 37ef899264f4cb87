/** What people drop on a page, as files to open. */
import type { Input } from "./source.js";

/**
 * The files of dropped folders and files, in every browser. Call it in the `drop` event itself: the list is empty after that.
 *
 * ```ts
 * addEventListener("drop", async (event) => {
 *   event.preventDefault();
 *   const run = await openRun(await dropped(event.dataTransfer.items));
 * });
 * ```
 */
export async function dropped(items: DataTransferItemList): Promise<Input[]> {
  const files = [...items].filter(({ kind }) => kind === "file");
  // all are asked before the first wait
  const waiting = files.map((item) => {
    const entry = item.webkitGetAsEntry();
    return entry ? walk(entry) : Promise.resolve([item.getAsFile()!]);
  });
  return (await Promise.all(waiting)).flat();
}

async function walk(entry: FileSystemEntry): Promise<Input[]> {
  if (entry.isFile) {
    const file = await new Promise<File>((resolve, reject) => (entry as FileSystemFileEntry).file(resolve, reject));
    const name = entry.fullPath.replace(/^\//, "");
    return [name.includes("/") ? { name, data: file } : file];
  }
  const reader = (entry as FileSystemDirectoryEntry).createReader();
  const found: Input[] = [];
  for (;;) {
    // a browser gives some at a time
    const some = await new Promise<FileSystemEntry[]>((resolve, reject) => reader.readEntries(resolve, reject));
    if (some.length === 0) return found;
    for (const inner of await Promise.all(some.map(walk))) found.push(...inner);
  }
}
