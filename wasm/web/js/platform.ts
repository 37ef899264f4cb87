/** What differs between a page and a program: `platform-node.ts` changes it, so that no bundler of a page meets Node's modules. */
import { compile } from "./compile.js";
import type { Spawn } from "./thread.js";

/** Where this runs. */
export interface Platform {
  /** Whether it ends when nothing is left to do: a page keeps its threads for the next merge, a program lets them go. */
  isProgram: boolean;
  cores(): number;
  /** Compile the WebAssembly module at `url`. */
  compile(url: URL): Promise<WebAssembly.Module>;
  /** Start a worker of the pool in another way than a page does. */
  worker: (<Reply>() => Spawn<Reply>) | undefined;
  /** Where the package's files lie, if not where a bundler or an import left them. */
  files: URL | undefined;
}

/** A page or a web worker, unless someone says otherwise. */
export const platform: Platform = {
  isProgram: false,
  cores: () => navigator.hardwareConcurrency,
  compile,
  worker: undefined,
  files: undefined,
};
