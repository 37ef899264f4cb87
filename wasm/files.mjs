// Files in memory, and what they answer to the questions of a session: the host's half of wasm/README.md.

/** `files` are bytes by path; a folder is there when a file lies in it. Answers `{ tag, val }`, as jco writes variants. */
export function answer(files, { tag, val }) {
  const path = tag === "read" ? val[0] : val;
  const file = files[path];
  const inside = path === "" ? "" : `${path}/`;
  const names = Object.keys(files).filter((other) => other.startsWith(inside)).map((other) => other.slice(inside.length).split("/")[0]);
  switch (tag) {
    case "kind":
      if (file) return { tag: "file", val: file.length };
      return { tag: names.length > 0 ? "folder" : "missing" };
    case "list":
      return { tag: "names", val: [...new Set(names)] };
    case "place":
      return { tag: "place", val: path };
    case "read":
      return { tag: "bytes", val: file.subarray(Number(val[1]), Number(val[2])) };
  }
}

/** Checkpoints of one file each as `files`, for `mergeFiles`: `{ name, bytes, config }`, config a text. */
export function checkpoints(inputs) {
  const files = {};
  for (const { name, bytes, config } of inputs) {
    if (config === undefined) files[name] = bytes;
    else {
      files[`${name}/adapter_model.safetensors`] = bytes;
      files[`${name}/adapter_config.json`] = new TextEncoder().encode(config);
    }
  }
  return files;
}
