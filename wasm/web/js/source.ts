/** Inputs of any kind, as files with a path and ranges to read. */
import { MergeError } from "./error.js";

/** A file that is read in ranges, wherever it lies. */
export interface RangeFile {
  /**
   * Its name or path, with `/` between folders: `run/checkpoint-100/adapter_model.safetensors`. The first part is what was
   * named; a longer one may be told as in rsync, by `/./`: `my/run/./checkpoint-100/adapter_model.safetensors`.
   */
  name: string;
  /** Its length in bytes. */
  size: number;
  /**
   * Read exactly `length` bytes from byte `offset` on. Several reads may be under way at once. An answer that is all of its
   * buffer is given away, to a worker: keep no such buffer. A view of a part of one is copied.
   *
   * @param spare memory of an earlier answer that is no longer needed: the answer may be a view of it, but need not
   */
  read(offset: number, length: number, spare?: ArrayBuffer): Promise<Uint8Array<ArrayBuffer> | ArrayBuffer>;
}

/** Bytes with a name. */
export interface NamedData {
  /** Its name or path, with `/` between folders. */
  name: string;
  /** All of it. */
  data: Blob | ArrayBuffer | Uint8Array<ArrayBuffer>;
}

/**
 * What can be opened. A `File` from a folder picker keeps its place in the folder (`webkitRelativePath`); a `Blob` or an
 * `ArrayBuffer` has no name, and is called `input-a.safetensors`, `input-b.safetensors` and so on, which tell no step.
 */
export type Input =
  | File | Blob | ArrayBuffer | FileSystemDirectoryHandle | FileSystemFileHandle | RangeFile | NamedData;

/** One file, ready to be read here or, as a Blob, in a worker. */
export interface Source {
  path: string;
  size: number;
  blob?: Blob;
  /** The answer's buffer is the caller's. It may be `spare`, if that was given. */
  read(offset: number, length: number, spare?: ArrayBuffer): Promise<Uint8Array<ArrayBuffer>>;
}

/** Folders that hold nothing to merge, and may hold a great many files. */
const SKIPPED = new Set([".git", "node_modules", "__pycache__"]);

const HELP = "give files, Blobs, buffers or folders; disk() of mwa-merge/node opens paths";

/** What was given instead of something else, in a message. */
export function said(value: unknown): string {
  if (value instanceof Promise) return "a Promise";
  if (typeof value !== "object" || value === null) return typeof value === "function" ? "a function" : JSON.stringify(value) ?? String(value);
  return Array.isArray(value) ? "an array" : `an object with ${Object.keys(value).join(", ") || "nothing in it"}`;
}

/** `a`, `b`, …, `z`, `aa`: a number in a name would be read as a step. */
function letters(count: number): string {
  const rest = Math.floor((count - 1) / 26);
  return `${rest > 0 ? letters(rest) : ""}${String.fromCharCode(97 + ((count - 1) % 26))}`;
}

/** List all files of all inputs. */
export async function sources(inputs: Iterable<Input>): Promise<Source[]> {
  const found: Source[] = [];
  let unnamed = 0;
  const nameless = () => `input-${letters((unnamed += 1))}.safetensors`;
  for (const input of inputs) {
    if (typeof input !== "object" || input === null) throw new MergeError("usage", `an input is ${said(input)}, which is not a file`, HELP);
    if (isHandle(input)) await walk(input, input.name, found);
    else if (input instanceof ArrayBuffer || ArrayBuffer.isView(input)) found.push(fromBlob(nameless(), new Blob([input as ArrayBuffer])));
    else if (input instanceof Blob) found.push(fromBlob(pathOf(input) ?? nameless(), input));
    else if (typeof input.name !== "string" || !("read" in input || "data" in input)) {
      throw new MergeError("usage", `an input is ${said(input)}, which is not a file`, HELP);
    } else if ("read" in input) found.push(fromRanges(input));
    else found.push(fromBlob(input.name, input.data instanceof Blob ? input.data : new Blob([input.data])));
  }
  return distinct(together(found));
}

/** Whether a path says which part of it was named. */
export const hasRoot = (path: string) => /\/\.(\/|$)/.test(path);

/** The part of a path that was named. */
export const rootOf = (path: string) => path.split(hasRoot(path) ? /\/\.(?:\/|$)/ : "/")[0]!;

function isHandle(input: Input): input is FileSystemDirectoryHandle | FileSystemFileHandle {
  return "kind" in input && (input.kind === "directory" || input.kind === "file");
}

function pathOf(blob: Blob): string | undefined {
  if (!("name" in blob)) return undefined;
  const file = blob as File;
  return file.webkitRelativePath || file.name;
}

async function walk(handle: FileSystemDirectoryHandle | FileSystemFileHandle, path: string, found: Source[]) {
  if (handle.kind === "file") {
    found.push(fromBlob(path, await handle.getFile()));
    return;
  }
  for await (const [name, inner] of handle as unknown as AsyncIterable<[string, typeof handle]>) {
    if (!SKIPPED.has(name)) await walk(inner, `${path}/${name}`, found);
  }
}

function fromBlob(path: string, blob: Blob): Source {
  const read = async (offset: number, length: number) =>
    new Uint8Array(await blob.slice(offset, offset + length).arrayBuffer());
  return { path: plain(path), size: blob.size, blob, read: exact(path, read) };
}

function fromRanges(file: RangeFile): Source {
  const read = async (offset: number, length: number, spare?: ArrayBuffer) => {
    const bytes = await file.read(offset, length, spare);
    if (!(bytes instanceof Uint8Array)) return new Uint8Array(bytes);
    const isOurs = bytes.length === bytes.buffer.byteLength || bytes.buffer === spare;
    return isOurs ? bytes : bytes.slice();
  };
  return { path: plain(file.name), size: file.size, read: exact(file.name, read) };
}

/** Refuse short reads: they would go on as zeros. */
function exact(path: string, read: Source["read"]): Source["read"] {
  const file = path.replace(/\/\.(?=\/|$)/, "");
  return async (offset, length, spare) => {
    let bytes: Uint8Array<ArrayBuffer>;
    try {
      bytes = await read(offset, length, spare);
    } catch (error) {
      const why = error instanceof Error ? error.message : String(error);
      throw { kind: "io", message: `${file}: cannot read it: ${why}`, file, help: "open it again if it has changed" };
    }
    if (bytes.length === length) return bytes;
    const message = `${file}: gave ${bytes.length} of ${length} bytes at byte ${offset}`;
    throw { kind: "io", message, file, help: "the file has changed since it was opened: open it again" };
  };
}

function plain(path: string): string {
  if (hasRoot(path)) return path;
  return path.replaceAll("\\", "/").replace(/^\/+|^\.\//, "");
}

/** The loose files of one adapter, picked without their folder, are one checkpoint. */
function together(found: Source[]): Source[] {
  const isLoose = found.every(({ path }) => !path.includes("/"));
  const isAdapter = found.some(({ path }) => path === "adapter_config.json");
  if (!isLoose || !isAdapter) return found;
  return found.map((source) => ({ ...source, path: `adapter/${source.path}` }));
}

/** Two folders of one name get different ones. */
function distinct(found: Source[]): Source[] {
  const taken = new Set<string>();
  return found.map((source) => {
    let path = source.path;
    for (let i = 2; taken.has(path); i += 1) {
      const [root, ...rest] = source.path.split("/");
      path = [rest.length > 0 ? `${root} (${i})` : `${letters(i)}-${root}`, ...rest].join("/");
    }
    taken.add(path);
    return { ...source, path };
  });
}
