/** Where merged files go: Blobs, a stream, or a folder; whole or not at all. */
import { MergeError } from "./error.js";

/**
 * Where to write. Without one the files come back as Blobs. A stream takes the one file with weights; a folder takes all
 * files, config and report included.
 */
export type Output = WritableStream<Uint8Array> | FileSystemWritableFileStream | FileSystemDirectoryHandle;

/** One file being written, from its first byte to its last. */
export interface Writer {
  write(bytes: Uint8Array<ArrayBuffer>): Promise<void>;
  close(): Promise<Blob | undefined>;
  abort(why: unknown): Promise<void>;
}

/** Open a file of the output; `isWeights` tells it from the small ones beside it. */
export async function openOutput(output: Output | undefined, name: string, isWeights: boolean): Promise<Writer> {
  if (output && "getFileHandle" in output) return inFolder(output, name);
  if (output && isWeights) return toStream(output);
  return toBlob();
}

/** Refuse what a stream cannot hold. */
export function checkOutput(output: Output | undefined, weightFiles: number): void {
  if (!output || "getFileHandle" in output || weightFiles === 1) return;
  throw new MergeError("output", `a stream takes one file, but the merge has ${weightFiles}`, "give a folder, or no output at all");
}

function toBlob(): Writer {
  // a Blob per piece: the browser may move them out of memory
  const parts: Blob[] = [];
  return {
    async write(bytes) {
      parts.push(new Blob([bytes]));
    },
    async close() {
      return new Blob(parts);
    },
    async abort() {
      parts.length = 0;
    },
  };
}

function toStream(stream: WritableStream<Uint8Array>): Writer {
  const writer = stream.getWriter();
  return {
    async write(bytes) {
      await writer.ready;
      await writer.write(bytes);
    },
    async close() {
      await writer.close();
      return undefined;
    },
    async abort(why) {
      await writer.abort(why);
    },
  };
}

async function inFolder(folder: FileSystemDirectoryHandle, path: string): Promise<Writer> {
  const parts = path.split("/");
  const name = parts.pop()!;
  for (const part of parts) folder = await folder.getDirectoryHandle(part, { create: true });
  if (await exists(folder, name)) {
    throw new MergeError("output", `${folder.name} holds ${name} already`, "choose an empty folder", name);
  }
  const file = await folder.getFileHandle(name, { create: true });
  const inner = toStream(await file.createWritable());
  const remove = () => folder.removeEntry(name).catch(() => {});
  return {
    write: inner.write,
    close: inner.close,
    async abort(why) {
      await inner.abort(why).catch(() => {});
      await remove();
    },
  };
}

async function exists(folder: FileSystemDirectoryHandle, name: string): Promise<boolean> {
  try {
    await folder.getFileHandle(name);
    return true;
  } catch (error) {
    if (error instanceof DOMException && error.name === "NotFoundError") return false;
    throw error;
  }
}
