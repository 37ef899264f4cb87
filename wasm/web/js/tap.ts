/** Blobs that are read in ranges: in one stream as long as they follow each other, into memory that is used again. */

/** Chromium forgets a stream that is waited for, but is reachable by nothing else; see it as in use until it is read. */
const inUse = new Set<Tap>();

/** Reads one Blob. A browser gives a stream's bytes several times as fast as those of slices. */
export class Tap {
  #stream: ReadableStreamBYOBReader | undefined;
  /** The end of the last read. */
  #at = 0;
  /** Where the stream ends. */
  #end = 0;
  #last: Promise<unknown> = Promise.resolve();

  constructor(private readonly blob: Blob) {}

  /** Read from `start` to `end`; less, if there is less. The memory is that of `spare`, if it is there and large enough: it is gone then. */
  read(start: number, end: number, spare?: ArrayBuffer): Promise<Uint8Array<ArrayBuffer>> {
    inUse.add(this);
    const read = this.#last.then(() => this.#read(start, end, spare));
    const last = (this.#last = read.catch(() => this.close()).then(() => void (this.#last === last && inUse.delete(this))));
    return read;
  }

  async #read(start: number, end: number, spare: ArrayBuffer | undefined): Promise<Uint8Array<ArrayBuffer>> {
    const stream = await this.#from(start, end);
    if (!stream) return new Uint8Array(await this.blob.slice(start, end).arrayBuffer());
    const length = end - start;
    let buffer = spare && spare.byteLength >= length ? spare : new ArrayBuffer(length);
    for (let filled = 0; filled < length; ) {
      const { value, done } = await stream.read(new Uint8Array(buffer, filled, length - filled));
      if (done) return new Uint8Array(0);
      buffer = value.buffer;
      filled += value.length;
    }
    this.#at = end;
    return new Uint8Array(buffer, 0, length);
  }

  /** A stream that goes on at `start`; to the Blob's end, if reads seem to follow each other: the first at its beginning, the others. */
  async #from(start: number, end: number): Promise<ReadableStreamBYOBReader | undefined> {
    const follows = start === this.#at;
    if (follows && end <= this.#end) return this.#stream;
    await this.close();
    this.#end = follows ? this.blob.size : end;
    return (this.#stream = open(this.blob.slice(start, this.#end)));
  }

  /** Read nothing more. */
  async close(): Promise<void> {
    const stream = this.#stream;
    this.#stream = undefined;
    await stream?.cancel().catch(() => {});
  }
}

/** Not every browser's Blobs have streams of bytes. */
function open(blob: Blob): ReadableStreamBYOBReader | undefined {
  try {
    return blob.stream().getReader({ mode: "byob" });
  } catch {
    return undefined;
  }
}
