// Merge files through the component, as `jco transpile` gives it to JavaScript. Stands alone; bytes in, bytes out.
//
//   import { merger } from "./component/mwa.js";
//   const merged = mergeFiles(merger, [{ name, bytes, config, step }, …], { weighing: { tag: "explicit", val: [0.7, 0.3] } });

/** The head of a safetensors file: its length in bytes comes first, little-endian. */
export function head(merger, bytes) {
  return bytes.subarray(0, Number(merger.headSize(bytes.subarray(0, 512), BigInt(bytes.length))));
}

/**
 * Merge single-file checkpoints that are in memory; gives the output's bytes, the weights and the notes.
 * The recipe is that of wit/world.wit.
 */
export function mergeFiles(merger, inputs, recipe) {
  const checkpoints = inputs.map(({ name, bytes, config, step }) => ({
    name,
    step: step === undefined ? undefined : BigInt(step),
    config,
    files: [{ name: "adapter_model.safetensors", bytes: head(merger, bytes), length: BigInt(bytes.length) }],
  }));
  const defaults = { space: { tag: "factors" }, strict: false, residual: false, allowCrossRun: false, allowNonFinite: false, rewrite: false };
  const merge = merger.Merge.open(checkpoints, { ...defaults, ...recipe });
  let merged;
  const open = () => {
    const [output] = merge.outputs();
    merged = new Uint8Array(Number(output.length));
    merged.set(output.head);
  };
  for (let job; (job = merge.next()); ) {
    const chunks = job.reads.map(({ input, start, end }) => inputs[input].bytes.subarray(Number(start), Number(end)));
    const piece = merge.run(job.number, chunks);
    let at = 0;
    for (const { start, end } of job.writes) {
      if (!merged) open();
      const length = Number(end - start);
      merged.set(piece.subarray(at, at + length), Number(start));
      at += length;
    }
  }
  if (!merged) open();
  return { bytes: merged, weights: merge.weights(), notes: merge.notes() };
}
