// Merge files through the core module: the ABI of wasm/README.md from plain `WebAssembly`, as any runtime can call it.

/** Instantiate the module; it imports nothing. */
export async function instantiate(bytes) {
  return (await WebAssembly.instantiate(bytes, {})).instance.exports;
}

/** Copy bytes into the module; the call that gets the address owns them from then on. */
function pass(module, ...pieces) {
  const length = pieces.reduce((sum, piece) => sum + piece.length, 0);
  let at = module.mwa_allocate(length);
  if (at === 0) throw new Error(`the module has no room for ${length} bytes`);
  const address = at;
  for (const piece of pieces) {
    new Uint8Array(module.memory.buffer, at, piece.length).set(piece);
    at += piece.length;
  }
  return address;
}

/** The answer of the last call. It must be copied or used before the next one. */
function answer(module) {
  return new Uint8Array(module.memory.buffer, module.mwa_answer(), module.mwa_answer_length());
}

const text = (bytes) => new TextDecoder().decode(bytes);

/** What a call with status 0 says. */
function failure(module) {
  const error = JSON.parse(text(answer(module))).error;
  return Object.assign(new Error(error.detail), error);
}

/** Merge single-file checkpoints that are in memory; `recipe` is that of wasm/README.md. */
export function mergeFiles(module, inputs, recipe) {
  const heads = inputs.map(({ bytes }) => {
    const declared = bytes.length < 8 ? 0n : new DataView(bytes.buffer, bytes.byteOffset).getBigUint64(0, true);
    return bytes.subarray(0, Math.max(512, Number(declared < 100_000_000n ? declared : 0n) + 8));
  });
  const checkpoints = inputs.map(({ name, bytes, config, step }, i) => ({
    name,
    config,
    step,
    files: [{ name: "adapter_model.safetensors", head: heads[i].length, length: bytes.length }],
  }));
  const json = new TextEncoder().encode(JSON.stringify({ checkpoints, recipe }));
  const length = new Uint8Array(new Uint32Array([json.length]).buffer);
  const handle = module.mwa_open(pass(module, length, json, ...heads));
  if (handle === 0) throw failure(module);
  try {
    let merged, state;
    const open = () => {
      if (module.mwa_state(handle) === 0) throw failure(module);
      state = JSON.parse(text(answer(module)));
      merged = new Uint8Array(state.outputs[0].length);
      if (module.mwa_head(handle, 0) === 0) throw failure(module);
      merged.set(answer(module));
    };
    while (module.mwa_next(handle) === 1) {
      const job = JSON.parse(text(answer(module)));
      const chunks = job.reads.map(({ input, start, end }) => inputs[input].bytes.subarray(start, end));
      if (module.mwa_run(handle, BigInt(job.number), pass(module, ...chunks)) === 0) throw failure(module);
      const piece = answer(module).slice();
      if (job.writes.length > 0 && !merged) open();
      for (const { start } of job.writes) merged.set(piece, start);
    }
    if (answer(module).length > 0) throw failure(module);
    if (!merged) open();
    return { bytes: merged, weights: state.weights, notes: state.notes };
  } finally {
    module.mwa_close(handle);
  }
}
