/** The component as jco gives it: one way to merge, whichever the face, in Node and in a browser. */
import * as components from "../wasm/host.mjs";

/** `merger` is what the transpiled component exports. */
export function face(merger) {
  const told = (call) => {
    try {
      return call();
    } catch (error) {
      if (error.payload === undefined) throw error;
      throw Object.assign(new Error(error.payload.detail), error.payload);
    }
  };
  const weighing = ({ explicit, logged }) =>
    explicit
      ? { tag: "explicit", val: Float64Array.from(explicit) }
      : { tag: "logged", val: { ...logged, options: { tolerance: 0n, strict: false } } };
  const tagged = (it) => (typeof it === "string" ? { tag: it } : { tag: Object.keys(it)[0], val: Object.values(it)[0] });
  const space = (it) => (it.product === undefined ? tagged(it) : { tag: "product", val: tagged(it.product) });
  return {
    merge: (inputs, { weighing: how, space: where = "factors", allow_non_finite = false, allow_cross_run = false, ...recipe }) =>
      told(() => components.mergeFiles(merger, inputs, { weighing: weighing(how), space: space(where), allowNonFinite: allow_non_finite, allowCrossRun: allow_cross_run, ...recipe })),
    weigh: (metrics, goal, scheme, penalty) => told(() => merger.weigh(Float64Array.from(metrics), goal, scheme, penalty)),
    inspect: (bytes) => told(() => merger.inspect(components.head(merger, bytes), BigInt(bytes.length))),
  };
}
