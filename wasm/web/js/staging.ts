/** The output folder on disk: made under another name beside its place, and put there whole or not at all. */
import { randomUUID } from "node:crypto";
import { mkdir, open, readdir, realpath, rename, rm, stat, writeFile, type FileHandle } from "node:fs/promises";
import { basename, dirname, join, resolve, sep } from "node:path";
import { MergeError } from "./error.js";
import { speech } from "./speech.js";

const REPORT = "mwa-report.json";
/** What to do where writing fails. */
const HELP: Record<string, string> = {
  EACCES: "check the permissions of the file and of its folder",
  EFBIG: "raise the limit on file sizes (ulimit -f), or write to another file system",
  ENOSPC: "free some space, or write elsewhere",
};

/** An output folder in the making; gone after `close` unless `publish` came first. */
export class Staging {
  private constructor(
    /** Where it will be. */
    readonly target: string,
    /** The same as the user called it. */
    private readonly shown: string,
    /** Where it is for now. */
    private readonly folder: string,
    /** The topmost folder that had to be made around it. */
    private readonly made: string | undefined,
  ) {}

  /** Refuse an output that exists, unless it is empty or, with `force`, an earlier merge. */
  static async check(target: string, force: boolean): Promise<void> {
    const refuse = (what: string, help: string): never => {
      throw new MergeError("output", `${target}: ${what}`, help, target);
    };
    const entries = await readdir(target).catch(async (): Promise<string[]> => {
      return (await exists(target)) ? refuse("exists and is not a folder", "choose another output folder") : [];
    });
    if (entries.length === 0 || (force && entries.includes(REPORT))) return;
    if (!force) refuse("exists already", `choose another output folder, or replace an earlier merge with ${speech.flags ? "--force" : "force: true"}`);
    refuse(`is not an earlier merge (it has no ${REPORT}); it is not replaced`, "choose another output folder, or remove this one yourself");
  }

  /** Begin the folder beside `target`, which must not be, lie in, or hold one of the `inputs`. */
  static async begin(target: string, inputs: string[], force: boolean): Promise<Staging> {
    await Staging.check(target, force);
    const wanted = resolve(target);
    const made = await writing(target, () => mkdir(dirname(wanted), { recursive: true }));
    const parent = await realpath(dirname(wanted));
    const real = await realpath(wanted).catch(() => join(parent, basename(wanted)));
    const folder = join(parent, `.mwa-${randomUUID().slice(0, 8)}`);
    const staging = new Staging(real, target, folder, made);
    try {
      for (const input of inputs) {
        const place = await realpath(input).catch(() => resolve(input));
        const holds = (outer: string, inner: string) => `${inner}${sep}`.startsWith(`${outer}${sep}`);
        if (holds(place, real) || holds(real, place)) {
          throw new MergeError("output", `${target}: would overwrite the input ${input}`, "choose an output folder outside the inputs", target);
        }
      }
      await writing(target, () => mkdir(folder));
    } catch (error) {
      await staging.close();
      throw error;
    }
    return staging;
  }

  /** The folder as far as `merge` needs it. */
  handle(within = ""): FileSystemDirectoryHandle {
    const name = join(this.shown, within);
    const path = (inner: string) => join(this.folder, within, inner);
    const getDirectoryHandle = async (inner: string) => {
      await writing(join(name, inner), () => mkdir(path(inner), { recursive: true }));
      return this.handle(join(within, inner));
    };
    const getFileHandle = async (inner: string, options?: { create?: boolean }) => {
      if (!options?.create && !(await exists(path(inner)))) throw new DOMException(inner, "NotFoundError");
      return { createWritable: () => this.#create(join(within, inner)) };
    };
    const removeEntry = (inner: string) => rm(path(inner));
    return { kind: "directory", name, getDirectoryHandle, getFileHandle, removeEntry } as unknown as FileSystemDirectoryHandle;
  }

  async #create(name: string): Promise<WritableStream<Uint8Array>> {
    const shown = join(this.shown, name);
    const file = await writing(shown, () => open(join(this.folder, name), "wx"));
    const finish = () => writing(shown, () => file.sync().finally(() => file.close()));
    return new WritableStream({ write: (bytes) => writing(shown, () => writeAll(file, bytes)), close: finish, abort: () => file.close() });
  }

  /** Write a small file anew. */
  async rewrite(name: string, text: string): Promise<void> {
    await writing(join(this.shown, name), () => writeFile(join(this.folder, name), text, { flush: true } as object));
  }

  /** Put the folder in its place. The earlier merge that it replaces, if any, is removed last. */
  async publish(): Promise<void> {
    await writing(this.shown, async () => {
      await sync(this.folder);
      const old = `${this.folder}-old`;
      const replaces = await exists(this.target);
      if (replaces) await rename(this.target, old);
      try {
        await rename(this.folder, this.target);
      } catch (error) {
        if (replaces) await rename(old, this.target);
        throw error;
      }
      this.#published = true;
      await rm(old, { recursive: true, force: true });
      await sync(dirname(this.target));
    });
  }
  #published = false;

  /** Take away what was not published. */
  async close(): Promise<void> {
    if (this.#published) return;
    await rm(this.folder, { recursive: true, force: true });
    if (this.made !== undefined) await rm(this.made, { recursive: true, force: true });
  }
}

const exists = (path: string) => stat(path).then(() => true, () => false);

async function writing<T>(path: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    const { code = "", message } = error as NodeJS.ErrnoException;
    throw new MergeError("io", `${path}: cannot write it: ${message}`, HELP[code], path);
  }
}

async function writeAll(file: FileHandle, bytes: Uint8Array): Promise<void> {
  for (let done = 0; done < bytes.length; ) {
    done += (await file.write(bytes, done, bytes.length - done)).bytesWritten;
  }
}

/** Make a rename in a folder durable; Windows does it by itself. */
async function sync(folder: string): Promise<void> {
  if (process.platform === "win32") return;
  const handle = await open(folder);
  await handle.sync().finally(() => handle.close());
}
