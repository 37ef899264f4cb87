/** The thread that holds the GPU: opens it, proves that it gives the core's bytes, runs sums on it. */
import { compile } from "./compile.js";
import { serve } from "./serve.js";
import type { Answer } from "./thread.js";
import { Turns } from "./turns.js";
import init, { open, type Gpu } from "./wasm-gpu/mwa_gpu.js";

/** What it is asked. */
export type GpuRequest =
  | { what: "open" }
  /** A sum as the core describes it, and the bytes of its operands, read or still in a Blob. */
  | { what: "sum"; sum: Float64Array; inputs: (Uint8Array<ArrayBuffer> | Blob)[] }
  | { what: "rest" };

/** What it answers. */
export interface GpuReply extends Answer {
  name?: string;
  emulated?: boolean;
  /** The sum's result; undefined if it is too large for the device. */
  bytes?: Uint8Array<ArrayBuffer>;
  nonFinite?: number;
  underflowed?: number;
}

/** Sums under way at once: one is read, one computed, one read back. */
const AT_ONCE = 3;

let gpu: Gpu | undefined;
let last: Promise<unknown> = Promise.resolve();
const turns = new Turns(AT_ONCE);

serve<GpuRequest>(async (request): Promise<Omit<GpuReply, "id">> => {
  try {
    if (request.what === "open") return await start();
    if (request.what === "sum") return await turns.take(() => run(request.sum, request.inputs));
    gpu!.rest();
    return {};
  } catch (error) {
    throw error instanceof Error ? { kind: "device", message: error.message } : error;
  }
});

async function start() {
  await init({ module_or_path: await compile(new URL("./wasm-gpu/mwa_gpu_bg.wasm", import.meta.url)) });
  gpu = await open();
  return { name: await label(), emulated: gpu.emulated() };
}

/** What people call the device: wgpu knows the description alone, which most browsers keep to themselves. */
async function label(): Promise<string> {
  const { gpu } = navigator as unknown as { gpu: { requestAdapter(): Promise<{ info?: Record<string, string> } | null> } };
  const { description, vendor, architecture } = (await gpu.requestAdapter())?.info ?? {};
  return description || [vendor, architecture].filter(Boolean).join(" ") || "WebGPU";
}

async function run(sum: Float64Array, inputs: (Uint8Array<ArrayBuffer> | Blob)[]): Promise<Omit<GpuReply, "id">> {
  const reading = Promise.all(inputs.map(read));
  // one after the other, so that a kernel is probed once
  last = last.then(() => gpu!.probe(sum));
  const [bytes] = await Promise.all([reading, last]);
  const result = await gpu!.run(sum, bytes) as [Uint8Array<ArrayBuffer>, number, number] | null;
  return result ? { bytes: result[0], nonFinite: result[1], underflowed: result[2] } : {};
}

async function read(input: Uint8Array<ArrayBuffer> | Blob): Promise<Uint8Array<ArrayBuffer>> {
  if (!(input instanceof Blob)) return input;
  const bytes = await input.arrayBuffer().catch((error: Error) => {
    throw { kind: "io", message: error.message };
  });
  return new Uint8Array(bytes);
}
