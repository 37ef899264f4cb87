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
  return {
    merge: (...given) => told(() => components.mergeFiles(merger, ...given)),
    weigh: (metrics, options) => told(() => merger.weigh(Float64Array.from(metrics), JSON.stringify(options))),
  };
}
