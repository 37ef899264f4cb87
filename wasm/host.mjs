// Merge files through the component, as `jco transpile` gives it to JavaScript: files in memory in, files out.
//
//   import { merger } from "./component/mwa.js";
//   const { outputs, report } = mergeFiles(merger, { "run/checkpoint-1/adapter_model.safetensors": bytes, … }, ["run"], { last: 5 });
import { answer } from "./files.mjs";

/**
 * Merge what lies at `paths` among `files`, bytes by path; `options` are those of the command line, `chunk` the most bytes
 * that a job reads of one file. Gives the merged files by name, the texts beside them, and the report.
 */
export function mergeFiles(merger, files, paths, options = {}, chunk) {
  const session = merger.Session.open("merge", paths, JSON.stringify(options), chunk, false);
  const look = (question) => {
    const { tag, val } = answer(files, question);
    return tag === "file" ? { tag, val: BigInt(val) } : { tag, val };
  };
  let outputs, inputs;
  const open = () => {
    outputs = session.outputs().map(({ name, head, length }) => {
      const bytes = new Uint8Array(Number(length));
      bytes.set(head);
      return { name, bytes };
    });
  };
  for (let step; (step = session.next()); ) {
    if (step.tag === "look") {
      session.tell(step.val.map(look));
      continue;
    }
    inputs ??= session.inputs();
    const { number, reads, writes } = step.val;
    const chunks = reads.map(({ file, start, end }) => files[inputs[file]].subarray(Number(start), Number(end)));
    const piece = session.run(number, chunks);
    let at = 0;
    for (const { file, start, end } of writes) {
      if (!outputs) open();
      const length = Number(end - start);
      outputs[file].bytes.set(piece.subarray(at, at + length), Number(start));
      at += length;
    }
  }
  if (!outputs) open();
  const texts = session.finish({ paths: [], leftOut: [], notes: [] }).map(({ name, content }) => [name, content]);
  const report = JSON.parse(new Map(texts).get("mwa-report.json"));
  return { outputs: Object.fromEntries(outputs.map(({ name, bytes }) => [name, bytes])), texts: Object.fromEntries(texts), report };
}
