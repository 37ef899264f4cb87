/** The sample's tiny Llama, in plain TypeScript: the twin of examples/score.py, which says what is scored and how. */
import { problems } from "./problems";

/** A model's files, as bytes. */
export interface Base {
  config: string;
  weights: ArrayBuffer;
}

/** An adapter's files, as PEFT writes them. */
export type Adapter = Base;

/** How an adapter does on the problems asked so far. */
export interface Score {
  asked: number;
  /** The share of answers in which every character is right. */
  exact: number;
  /** Mean cross-entropy of the answers' characters. */
  loss: number;
  /** The standard error of that. */
  error: number;
  /** Whether each answer is right, in the order of the problems. */
  right: boolean[];
}

interface Shape {
  num_hidden_layers: number;
  num_attention_heads: number;
  rms_norm_eps: number;
  rope_parameters: { rope_theta: number };
}

interface Tensor {
  shape: number[];
  /** In f64, which JavaScript calculates in anyway: f32 would be widened again for each product. */
  values: Float64Array;
}

type Model = Map<string, Tensor>;

/** The problems that the table of scores is of. */
export const SEED = 9000;
const BATCH = 10;

/** Score in batches, on the problems of a seed. */
export function* scoring(base: Base, adapter: Adapter, count: number, seed = SEED): Generator<Score> {
  const model = adapted(read(base.weights), adapter);
  const llama = new Llama(model, JSON.parse(base.config) as Shape);
  const losses: { loss: number; characters: number }[] = [];
  const all: boolean[] = [];
  const open = [...problems(count, seed)];
  while (open.length > 0) {
    const batch = open.splice(0, BATCH);
    const logits = llama.forward(batch.map(({ tokens, answer }) => ({ tokens: tokens.slice(0, -1), asked: answer.length })));
    for (const [i, { answer }] of batch.entries()) {
      const rows = logits[i]!;
      all.push(answer.every((token, j) => rows[j]!.every((logit) => logit <= rows[j]![token]!)));
      losses.push({ loss: answer.reduce((sum, token, j) => sum - logProbability(rows[j]!, token), 0), characters: answer.length });
    }
    yield { asked: all.length, exact: all.filter(Boolean).length / all.length, ...mean(losses), right: all };
  }
}

/** The mean loss of a character, and its standard error: problems are independent, the characters of one are not. */
function mean(losses: { loss: number; characters: number }[]): { loss: number; error: number } {
  const characters = losses.reduce((sum, of) => sum + of.characters, 0);
  const loss = losses.reduce((sum, of) => sum + of.loss, 0) / characters;
  const squares = losses.reduce((sum, of) => sum + (of.loss - loss * of.characters) ** 2, 0);
  return { loss, error: Math.sqrt(squares) / characters };
}

function logProbability(logits: Float64Array, token: number): number {
  const largest = Math.max(...logits);
  const sum = logits.reduce((sum, logit) => sum + Math.exp(logit - largest), 0);
  return logits[token]! - largest - Math.log(sum);
}

/** The base's tensors with the adapter folded in: W + scaling · B·A. */
function adapted(base: Model, adapter: Adapter): Model {
  const config = JSON.parse(adapter.config) as { peft_type: string; lora_alpha: number; use_rslora?: boolean };
  if (config.peft_type !== "LORA") throw new Error("only plain LoRA adapters can be scored here");
  const tensors = read(adapter.weights);
  const model: Model = new Map(base);
  for (const [name, down] of tensors) {
    const inner = name.replace(/^base_model\.model\./, "");
    if (!inner.endsWith(".lora_A.weight")) continue;
    const target = `${inner.slice(0, -".lora_A.weight".length)}.weight`;
    const up = tensors.get(name.replace(".lora_A.", ".lora_B."))!;
    const [rank, columns] = down.shape as [number, number];
    const scaling = Math.fround(config.lora_alpha / (config.use_rslora ? Math.sqrt(rank) : rank));
    const values = model.get(target)!.values.slice();
    for (let i = 0; i < up.shape[0]!; i += 1) {
      for (let j = 0; j < columns; j += 1) {
        let sum = 0;
        for (let r = 0; r < rank; r += 1) sum += up.values[i * rank + r]! * down.values[r * columns + j]!;
        values[i * columns + j]! += scaling * sum;
      }
    }
    model.set(target, { shape: [up.shape[0]!, columns], values });
  }
  return model;
}

/** A line of tokens, of which the last so many positions are asked for what comes next. */
interface Line {
  tokens: number[];
  asked: number;
}

/** Logits of a Llama, for several lines at a time: each weight is then loaded once for all of them. */
class Llama {
  readonly #heads: number;
  readonly #epsilon: number;
  readonly #layers: number;
  readonly #theta: number;
  /** Cosines and sines of each position. */
  readonly #turns: { cos: Float64Array; sin: Float64Array }[] = [];

  constructor(private readonly model: Model, shape: Shape) {
    this.#heads = shape.num_attention_heads;
    this.#epsilon = shape.rms_norm_eps;
    this.#theta = shape.rope_parameters.rope_theta;
    this.#layers = shape.num_hidden_layers;
  }

  /** The logits of each line, one row for each position that is asked. */
  forward(lines: Line[]): Float64Array[][] {
    const embedding = this.#tensor("model.embed_tokens.weight");
    const size = embedding.shape[1]!;
    const tokens = lines.flatMap(({ tokens }) => tokens);
    const x = new Float64Array(tokens.length * size);
    for (const [row, token] of tokens.entries()) x.set(embedding.values.subarray(token * size, (token + 1) * size), row * size);
    for (let layer = 0; layer < this.#layers; layer += 1) {
      const linear = (rows: Float64Array, name: string) => multiply(rows, this.#tensor(`model.layers.${layer}.${name}.weight`));
      const norm = (name: string) => this.#norm(x, this.#tensor(`model.layers.${layer}.${name}.weight`));
      const h = norm("input_layernorm");
      const [query, key, value] = ["q", "k", "v"].map((part) => linear(h, `self_attn.${part}_proj`)) as [Float64Array, Float64Array, Float64Array];
      add(x, linear(this.#attend(lines, size, query, key, value), "self_attn.o_proj"));
      const after = norm("post_attention_layernorm");
      const [up, gate] = [linear(after, "mlp.up_proj"), linear(after, "mlp.gate_proj")];
      for (let i = 0; i < up.length; i += 1) up[i]! *= gate[i]! / (1 + Math.exp(-gate[i]!));
      add(x, linear(up, "mlp.down_proj"));
    }
    const head = this.#tensor("lm_head.weight");
    let end = 0;
    return lines.map(({ tokens, asked }) => {
      end += tokens.length;
      const last = this.#norm(x.subarray((end - asked) * size, end * size), this.#tensor("model.norm.weight"));
      const logits = multiply(last, head);
      return Array.from({ length: asked }, (_, i) => logits.subarray(i * head.shape[0]!, (i + 1) * head.shape[0]!));
    });
  }

  #tensor(name: string): Tensor {
    const tensor = this.model.get(name);
    if (!tensor) throw new Error(`the base model has no ${name}`);
    return tensor;
  }

  #norm(rows: Float64Array, { values }: Tensor): Float64Array {
    const width = values.length;
    const out = new Float64Array(rows.length);
    for (let row = 0; row < rows.length; row += width) {
      const scale = Math.sqrt(dot(rows, row, rows, row, width) / width + this.#epsilon);
      for (let i = 0; i < width; i += 1) out[row + i] = (rows[row + i]! / scale) * values[i]!;
    }
    return out;
  }

  /** Causal attention of all heads within each line, with rotary positions. */
  #attend(lines: Line[], size: number, query: Float64Array, key: Float64Array, value: Float64Array): Float64Array {
    const width = size / this.#heads;
    const out = new Float64Array(query.length);
    let start = 0;
    for (const { tokens: { length } } of lines) {
      for (const rows of [query, key]) {
        for (let position = 0; position < length; position += 1) this.#rotate(rows, (start + position) * size, size, position, width);
      }
      for (let i = 0; i < length; i += 1) {
        for (let head = 0; head < size; head += width) {
          const at = (position: number) => (start + position) * size + head;
          const scores = Array.from({ length: i + 1 }, (_, j) => dot(query, at(i), key, at(j), width) / Math.sqrt(width));
          const largest = Math.max(...scores);
          const shares = scores.map((score) => Math.exp(score - largest));
          const sum = shares.reduce((a, b) => a + b);
          for (const [j, share] of shares.entries()) {
            for (let c = 0; c < width; c += 1) out[at(i) + c]! += (share / sum) * value[at(j) + c]!;
          }
        }
      }
      start += length;
    }
    return out;
  }

  /** Turn each head of a row by its position, in place. */
  #rotate(rows: Float64Array, row: number, size: number, position: number, width: number): void {
    const half = width / 2;
    const angle = (c: number) => position / this.#theta ** ((2 * c) / width);
    const of = (turn: (angle: number) => number) => Float64Array.from({ length: half }, (_, c) => turn(angle(c)));
    const { cos, sin } = (this.#turns[position] ??= { cos: of(Math.cos), sin: of(Math.sin) });
    for (let head = row; head < row + size; head += width) {
      for (let c = 0; c < half; c += 1) {
        const low = rows[head + c]!;
        const high = rows[head + c + half]!;
        rows[head + c] = low * cos[c]! - high * sin[c]!;
        rows[head + c + half] = high * cos[c]! + low * sin[c]!;
      }
    }
  }
}

/** Each row times the transposed matrix: two rows and four outputs at a time, and what is left over is made again with its neighbours. */
function multiply(rows: Float64Array, { shape, values: w }: Tensor): Float64Array {
  const [outs, ins] = shape as [number, number];
  const count = rows.length / ins;
  const out = new Float64Array(count * outs);
  for (let row = 0; row < count; row += 2) {
    const [first, second] = [Math.max(Math.min(row, count - 2), 0), Math.min(row + 1, count - 1)];
    const [p, q] = [first * ins, second * ins];
    for (let next = 0; next < outs; next += 4) {
      const o = Math.max(Math.min(next, outs - 4), 0);
      const [i0, i1, i2, i3] = [o * ins, (o + 1) * ins, (o + 2) * ins, (o + 3) * ins];
      let a0 = 0;
      let a1 = 0;
      let a2 = 0;
      let a3 = 0;
      let b0 = 0;
      let b1 = 0;
      let b2 = 0;
      let b3 = 0;
      for (let i = 0; i < ins; i += 1) {
        const x = rows[p + i]!;
        const y = rows[q + i]!;
        const w0 = w[i0 + i]!;
        const w1 = w[i1 + i]!;
        const w2 = w[i2 + i]!;
        const w3 = w[i3 + i]!;
        a0 += x * w0;
        a1 += x * w1;
        a2 += x * w2;
        a3 += x * w3;
        b0 += y * w0;
        b1 += y * w1;
        b2 += y * w2;
        b3 += y * w3;
      }
      out.set([a0, a1, a2, a3], first * outs + o);
      out.set([b0, b1, b2, b3], second * outs + o);
    }
  }
  return out;
}

function dot(a: Float64Array, from: number, b: Float64Array, at: number, count: number): number {
  let sum = 0;
  for (let i = 0; i < count; i += 1) sum += a[from + i]! * b[at + i]!;
  return sum;
}

function add(to: Float64Array, more: Float64Array): void {
  for (let i = 0; i < to.length; i += 1) to[i]! += more[i]!;
}

/** Every tensor of a safetensors file, widened. */
function read(file: ArrayBuffer): Model {
  const length = Number(new DataView(file).getBigUint64(0, true));
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(file, 8, length))) as Record<string, { dtype: string; shape: number[]; data_offsets: [number, number] }>;
  const model: Model = new Map();
  delete header.__metadata__;
  for (const [name, { dtype, shape, data_offsets: [start, end] }] of Object.entries(header)) {
    const data = file.slice(8 + length + start, 8 + length + end);
    model.set(name, { shape, values: widen(dtype, data) });
  }
  return model;
}

function widen(dtype: string, data: ArrayBuffer): Float64Array {
  if (dtype === "F32") return Float64Array.from(new Float32Array(data));
  if (dtype === "BF16") return Float64Array.from(new Float32Array(Uint32Array.from(new Uint16Array(data), (word) => word << 16).buffer));
  if (dtype === "F16") {
    const words = new Uint16Array(data);
    const values = new Float64Array(words.length);
    for (let i = 0; i < words.length; i += 1) values[i] = HALVES[words[i]!]!;
    return values;
  }
  throw new Error(`${dtype} cannot be scored here`);
}

function half(word: number): number {
  const [sign, exponent, fraction] = [word >> 15 ? -1 : 1, (word >> 10) & 31, word & 1023];
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

/** Every f16. */
const HALVES = Float64Array.from({ length: 1 << 16 }, (_, word) => half(word));
