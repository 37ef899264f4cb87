/** The files with weights: their pieces come in any order, and are written in the order of the file. */
import type { MergedFile } from "./merge.js";
import type { Writer } from "./output.js";
import type { Piece } from "./pool.js";

/** The files of one merge. */
export class Assembly {
  /** Those that are written. */
  readonly files: MergedFile[] = [];
  #current: { file: number; at: number; writer: Writer } | undefined;
  /** Pieces that come later in their file, by file and start. */
  readonly #held = new Map<string, Uint8Array<ArrayBuffer>>();

  constructor(
    private readonly outputs: { name: string; bytes: number }[],
    private readonly head: (file: number) => Uint8Array<ArrayBuffer>,
    private readonly open: (name: string) => Promise<Writer>,
  ) {}

  /** Take the result of a job: the bytes of all its `writes`, one after the other. */
  async take(bytes: Uint8Array<ArrayBuffer>, writes: Piece[]): Promise<void> {
    let from = 0;
    for (const { file, start, end } of writes) {
      this.#held.set(`${file} ${start}`, bytes.subarray(from, (from += end - start)));
    }
    await this.#advance();
  }

  /** All pieces were taken. */
  async finish(): Promise<void> {
    await this.#advance();
    if (this.files.length < this.outputs.length || this.#held.size > 0) throw new Error("pieces of the output are missing");
  }

  async #advance(): Promise<void> {
    for (;;) {
      const current = this.#current;
      if (!current || current.at === this.outputs[current.file]!.bytes) {
        if (!(await this.#turn())) return;
      } else {
        const key = `${current.file} ${current.at}`;
        const piece = this.#held.get(key);
        if (!piece) return;
        this.#held.delete(key);
        await this.#write(piece);
      }
    }
  }

  /** Close the current file and open the next; false after the last. */
  async #turn(): Promise<boolean> {
    const next = this.files.length;
    if (this.#current && this.#current.file === next) {
      const { writer } = this.#current;
      const { name, bytes: size } = this.outputs[next]!;
      this.files.push({ name, size, blob: await writer.close() });
      return this.#turn();
    }
    if (next >= this.outputs.length) return false;
    this.#current = { file: next, at: 0, writer: await this.open(this.outputs[next]!.name) };
    await this.#write(this.head(next));
    return true;
  }

  async #write(bytes: Uint8Array<ArrayBuffer>): Promise<void> {
    await this.#current!.writer.write(bytes);
    this.#current!.at += bytes.length;
  }
}
