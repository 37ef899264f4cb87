/** The GPU as one more thread. Its module is loaded when it is wanted, its device opened once and kept. */
import type { GpuReply, GpuRequest } from "./gpu-worker.js";
import { platform } from "./platform.js";
import { overWeb, start, type Thread } from "./thread.js";

/**
 * What computes: the CPU; the GPU, or the CPU if there is none that gives the same bytes; or with `auto` both, where a GPU can
 * help.
 */
export type DeviceChoice = "auto" | "gpu" | "cpu";

/** An open GPU. */
export interface Gpu {
  name: string;
  thread: Thread<GpuRequest, GpuReply>;
  /** Give it up. */
  close(): void;
}

/** Bytes of input below which a merge is over before a GPU is open and probed. */
const WORTH_A_LOOK = 256e6;

let opening: Promise<Gpu & { emulated: boolean }> | undefined;

/** The GPU, if it is to be used for sums of `bytes` of input; `tell` hears why or why not. */
export async function openGpu(device: DeviceChoice, bytes: number, tell: (reason: string) => void): Promise<Gpu | undefined> {
  const refuse = (reason: string) => void tell(reason);
  if (!(globalThis.navigator as { gpu?: unknown } | undefined)?.gpu) return refuse("there is no WebGPU here");
  if (device === "auto" && bytes < WORTH_A_LOOK) return refuse(`the CPU is done with less than ${WORTH_A_LOOK / 1e6} MB before a GPU would be ready`);
  tell("the merge was over before the GPU was open");
  opening ??= open();
  try {
    const gpu = await opening;
    if (device === "auto" && gpu.emulated) return refuse(`${gpu.name} is a program on the CPU, and slower than the CPU itself`);
    tell("the GPU gave the CPU's bytes when it was probed");
    return gpu;
  } catch (error) {
    opening = undefined;
    return refuse((error as Error).message);
  }
}

/** A merge is done: a page keeps the device for the next one, without buffers; a program lets it go, so that it can end. */
export function restGpu(): void {
  opening?.then(({ thread, close }) => (platform.isProgram ? close() : void thread.ask({ what: "rest" }).catch(() => {}))).catch(() => {});
}

function worker(): Worker {
  const { files } = platform;
  // bundlers see the second and take the file along
  return files ? new Worker(new URL("gpu-worker.js", files), { type: "module" }) : new Worker(new URL("./gpu-worker.js", import.meta.url), { type: "module" });
}

async function open(): Promise<Gpu & { emulated: boolean }> {
  const thread = await start<GpuRequest, GpuReply>(overWeb(worker()));
  try {
    const { name, emulated } = await thread.ask({ what: "open" });
    const close = () => {
      opening = undefined;
      thread.close();
    };
    return { name: name!, emulated: emulated!, thread, close };
  } catch (error) {
    thread.close();
    throw error;
  }
}
