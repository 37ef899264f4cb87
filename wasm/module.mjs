// Merge files through the core module: the ABI of wasm/README.md from plain `WebAssembly`, as any runtime can call it.
import { answer } from "./files.mjs";

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
function said(module) {
  return new Uint8Array(module.memory.buffer, module.mwa_answer(), module.mwa_answer_length());
}

const text = (bytes) => new TextDecoder().decode(bytes);

/** What a call with status 0 says. */
function failure(module) {
  const error = JSON.parse(text(said(module))).error;
  return Object.assign(new Error(error.detail), error);
}

/** JSON behind its length, as `mwa_tell` takes it. */
function told(json) {
  const bytes = new TextEncoder().encode(JSON.stringify(json));
  return [new Uint8Array(new Uint32Array([bytes.length]).buffer), bytes];
}

/** Answers as the ABI has them, and the bytes that follow. */
function answers(files, questions) {
  const bytes = [];
  const one = (question) => {
    const [tag] = Object.keys(question);
    const found = answer(files, { tag, val: question[tag] });
    if (found.tag !== "bytes") return found.val === undefined ? found.tag : { [found.tag]: found.val };
    bytes.push(found.val);
    return { bytes: found.val.length };
  };
  return [...told(questions.map(one)), ...bytes];
}

/**
 * Merge what lies at `paths` among `files`, bytes by path; `options` are those of the command line, `chunk` the most bytes
 * that a job reads of one file. Gives the merged files by name, the texts beside them, and the report.
 */
export function mergeFiles(module, files, paths, options = {}, chunk) {
  const request = new TextEncoder().encode(JSON.stringify({ verb: "merge", paths, options, chunk }));
  const handle = module.mwa_open(pass(module, request));
  if (handle === 0) throw failure(module);
  const check = (status) => {
    if (status === 0) throw failure(module);
  };
  const state = () => {
    check(module.mwa_state(handle));
    return JSON.parse(text(said(module)));
  };
  try {
    let inputs, outputs;
    const open = () => {
      outputs = state().outputs.map(({ name, length }, i) => {
        const bytes = new Uint8Array(length);
        check(module.mwa_head(handle, i));
        bytes.set(said(module));
        return { name, bytes };
      });
    };
    while (module.mwa_next(handle) === 1) {
      const { look, work } = JSON.parse(text(said(module)));
      if (look) {
        check(module.mwa_tell(handle, pass(module, ...answers(files, look))));
        continue;
      }
      inputs ??= state().inputs;
      const chunks = work.reads.map(({ file, start, end }) => files[inputs[file]].subarray(start, end));
      if (module.mwa_run(handle, BigInt(work.number), pass(module, ...chunks)) === 0) {
        const error = failure(module);
        if (module.mwa_again(handle) !== 1) throw error;
        // without a bad checkpoint, as drop_bad wants; what was written is void
        inputs = outputs = undefined;
        continue;
      }
      const piece = said(module).slice();
      let at = 0;
      for (const { file, start, end } of work.writes) {
        if (!outputs) open();
        outputs[file].bytes.set(piece.subarray(at, at + end - start), start);
        at += end - start;
      }
    }
    if (said(module).length > 0) throw failure(module);
    if (!outputs) open();
    check(module.mwa_finish(handle, pass(module, new TextEncoder().encode("{}"))));
    const texts = JSON.parse(text(said(module))).map(({ name, content }) => [name, content]);
    const report = JSON.parse(new Map(texts).get("mwa-report.json"));
    return { outputs: Object.fromEntries(outputs.map(({ name, bytes }) => [name, bytes])), texts: Object.fromEntries(texts), report };
  } finally {
    module.mwa_close(handle);
  }
}
