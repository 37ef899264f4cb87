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
  values: Float32Array;
}

type Model = Map<string, Tensor>;

const SEED = 9000;
const BATCH = 10;

/** Score in batches. */
export function* scoring(base: Base, adapter: Adapter, count: number): Generator<Score> {
  const model = adapted(read(base.weights), adapter);
  const llama = new Llama(model, JSON.parse(base.config) as Shape);
  let [loss, characters] = [0, 0];
  const all: boolean[] = [];
  for (const { tokens, answer } of problems(count, SEED)) {
    const first = tokens.length - answer.length;
    const logits = llama.forward(tokens.slice(0, -1), first - 1);
    const right = answer.map((token, i) => {
      loss -= logProbability(logits[i]!, token);
      return logits[i]!.every((logit) => logit <= logits[i]![token]!);
    });
    characters += answer.length;
    all.push(right.every(Boolean));
    const asked = all.length;
    if (asked % BATCH === 0 || asked === count) yield { asked, exact: all.filter(Boolean).length / asked, loss: loss / characters, right: all };
  }
}

function logProbability(logits: Float32Array, token: number): number {
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

/** Logits of a Llama, for one line of tokens at a time. */
class Llama {
  readonly #heads: number;
  readonly #epsilon: number;
  readonly #theta: number;
  readonly #layers: number;

  constructor(private readonly model: Model, shape: Shape) {
    this.#heads = shape.num_attention_heads;
    this.#epsilon = shape.rms_norm_eps;
    this.#theta = shape.rope_parameters.rope_theta;
    this.#layers = shape.num_hidden_layers;
  }

  /** The logits from position `first` on, one row per position. */
  forward(tokens: number[], first: number): Float32Array[] {
    const embedding = this.#tensor("model.embed_tokens.weight");
    const size = embedding.shape[1]!;
    let x: Float32Array[] = tokens.map((token) => embedding.values.slice(token * size, (token + 1) * size));
    for (let layer = 0; layer < this.#layers; layer += 1) {
      const linear = (rows: Float32Array[], name: string) => multiply(rows, this.#tensor(`model.layers.${layer}.${name}.weight`));
      const norm = (name: string) => this.#norm(x, this.#tensor(`model.layers.${layer}.${name}.weight`));
      const h = norm("input_layernorm");
      const [query, key, value] = ["q", "k", "v"].map((part) => linear(h, `self_attn.${part}_proj`)) as [Float32Array[], Float32Array[], Float32Array[]];
      x = add(x, linear(this.#attend(query, key, value), "self_attn.o_proj"));
      const after = norm("post_attention_layernorm");
      const up = linear(after, "mlp.up_proj");
      const gated = linear(after, "mlp.gate_proj").map((row, i) => row.map((gate, j) => (gate / (1 + Math.exp(-gate))) * up[i]![j]!));
      x = add(x, linear(gated, "mlp.down_proj"));
    }
    return multiply(this.#norm(x.slice(first), this.#tensor("model.norm.weight")), this.#tensor("lm_head.weight"));
  }

  #tensor(name: string): Tensor {
    const tensor = this.model.get(name);
    if (!tensor) throw new Error(`the base model has no ${name}`);
    return tensor;
  }

  #norm(rows: Float32Array[], { values }: Tensor): Float32Array[] {
    return rows.map((row) => {
      const mean = row.reduce((sum, value) => sum + value * value, 0) / row.length;
      const scale = Math.sqrt(mean + this.#epsilon);
      return row.map((value, i) => (value / scale) * values[i]!);
    });
  }

  /** Causal attention of all heads, with rotary positions. */
  #attend(query: Float32Array[], key: Float32Array[], value: Float32Array[]): Float32Array[] {
    const width = query[0]!.length / this.#heads;
    const [q, k] = [query, key].map((rows) => rows.map((row, position) => this.#rotate(row, position, width))) as [Float32Array[], Float32Array[]];
    return q.map((row, i) => {
      const out = new Float32Array(row.length);
      for (let head = 0; head < row.length; head += width) {
        const scores = k.slice(0, i + 1).map((other) => dot(row, other, head, width) / Math.sqrt(width));
        const largest = Math.max(...scores);
        const shares = scores.map((score) => Math.exp(score - largest));
        const sum = shares.reduce((a, b) => a + b);
        for (const [j, share] of shares.entries()) {
          for (let c = head; c < head + width; c += 1) out[c]! += (share / sum) * value[j]![c]!;
        }
      }
      return out;
    });
  }

  #rotate(row: Float32Array, position: number, width: number): Float32Array {
    const half = width / 2;
    return row.map((value, i) => {
      const [c, head] = [i % width, i - (i % width)];
      const angle = position / this.#theta ** ((2 * (c % half)) / width);
      const other = c < half ? -row[head + c + half]! : row[head + c - half]!;
      return value * Math.cos(angle) + other * Math.sin(angle);
    });
  }
}

/** Each row times the transposed matrix. */
function multiply(rows: Float32Array[], { shape, values }: Tensor): Float32Array[] {
  const [outs, ins] = shape as [number, number];
  return rows.map((row) => {
    const out = new Float32Array(outs);
    for (let o = 0; o < outs; o += 1) {
      let [a, b, c, d] = [0, 0, 0, 0];
      const at = o * ins;
      for (let i = 0; i < ins; i += 4) {
        a += row[i]! * values[at + i]!;
        b += row[i + 1]! * values[at + i + 1]!;
        c += row[i + 2]! * values[at + i + 2]!;
        d += row[i + 3]! * values[at + i + 3]!;
      }
      out[o] = a + b + c + d;
    }
    return out;
  });
}

function dot(a: Float32Array, b: Float32Array, from: number, count: number): number {
  let sum = 0;
  for (let i = from; i < from + count; i += 1) sum += a[i]! * b[i]!;
  return sum;
}

function add(a: Float32Array[], b: Float32Array[]): Float32Array[] {
  return a.map((row, i) => row.map((value, j) => value + b[i]![j]!));
}

/** Every tensor of a safetensors file, widened to f32. */
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

function widen(dtype: string, data: ArrayBuffer): Float32Array {
  if (dtype === "F32") return new Float32Array(data);
  if (dtype === "BF16") return new Float32Array(Uint32Array.from(new Uint16Array(data), (word) => word << 16).buffer);
  if (dtype === "F16") return Float32Array.from(new Uint16Array(data), half);
  throw new Error(`${dtype} cannot be scored here`);
}

function half(word: number): number {
  const [sign, exponent, fraction] = [word >> 15 ? -1 : 1, (word >> 10) & 31, word & 1023];
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}
