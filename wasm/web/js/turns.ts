/** So many at once, the others in turn. */

/** Lets `count` of the works that it is given be under way. */
export class Turns {
  readonly #free: Promise<unknown>[];

  constructor(count: number) {
    this.#free = Array.from({ length: count }, () => Promise.resolve());
  }

  /** Wait until the work before the last `count` is done, then begin. */
  take<T>(work: () => Promise<T>): Promise<T> {
    const done = this.#free.shift()!.then(work);
    this.#free.push(done.catch(() => {}));
    return done;
  }
}
