/** The held-out subtractions: those that Python's `random.Random(seed)` gives to examples/score.py. */

const CHARACTERS = "^$0123456789+-*=;abcdfgmrsux ";

export interface Problem {
  /** The whole line, question and answer. */
  tokens: number[];
  /** Its last tokens, which are asked for. */
  answer: number[];
}

/** The first `count` problems. */
export function* problems(count: number, seed: number): Generator<Problem> {
  const random = new MersenneTwister(seed);
  const tokens = (text: string) => Array.from(text, (character) => CHARACTERS.indexOf(character));
  for (let i = 0; i < count; i += 1) {
    const [a, b] = [random.below(1000), random.below(1000)];
    const answer = tokens(`${a - b}$`);
    yield { tokens: [...tokens(`^${a}-${b}=`), ...answer], answer };
  }
}

/** MT19937, seeded and read as CPython does (Modules/_randommodule.c; Lib/random.py, `_randbelow_with_getrandbits`). */
class MersenneTwister {
  readonly #state = new Uint32Array(624);
  #index = 624;

  constructor(seed: number) {
    const state = this.#state;
    state[0] = 19650218;
    for (let i = 1; i < 624; i += 1) state[i] = Math.imul(1812433253, state[i - 1]! ^ (state[i - 1]! >>> 30)) + i;
    let i = 1;
    const mixed = (factor: number) => state[i]! ^ Math.imul(state[i - 1]! ^ (state[i - 1]! >>> 30), factor);
    const advance = () => {
      i += 1;
      if (i < 624) return;
      state[0] = state[623]!;
      i = 1;
    };
    for (let k = 0; k < 624; k += 1, advance()) state[i] = mixed(1664525) + seed;
    for (let k = 0; k < 623; k += 1, advance()) state[i] = mixed(1566083941) - i;
    state[0] = 0x80000000;
  }

  /** A whole number from 0 up to `limit`, without it. */
  below(limit: number): number {
    const bits = 32 - Math.clz32(limit);
    for (;;) {
      const value = this.#next() >>> (32 - bits);
      if (value < limit) return value;
    }
  }

  #next(): number {
    if (this.#index === 624) this.#twist();
    let y = this.#state[this.#index]!;
    this.#index += 1;
    y ^= y >>> 11;
    y ^= (y << 7) & 0x9d2c5680;
    y ^= (y << 15) & 0xefc60000;
    return (y ^ (y >>> 18)) >>> 0;
  }

  #twist(): void {
    const state = this.#state;
    for (let i = 0; i < 624; i += 1) {
      const y = (state[i]! & 0x80000000) | (state[(i + 1) % 624]! & 0x7fffffff);
      state[i] = state[(i + 397) % 624]! ^ (y >>> 1) ^ (y & 1 ? 0x9908b0df : 0);
    }
    this.#index = 0;
  }
}
