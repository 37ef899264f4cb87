/** The vectors of tests/vectors, run by the package wherever it runs: Node, Deno, a browser. */

/** Run all cases; `read(path)` gives a file of tests/vectors. Returns what went wrong, and how many cases there were. */
export async function runVectors({ openRun, merge, weights, ready }, read, threads) {
  await ready();
  const index = JSON.parse(new TextDecoder().decode(await read("index.json")));
  const wrong = [];
  let count = 0;
  const check = async (name, work) => {
    count += 1;
    try {
      await work();
    } catch (error) {
      wrong.push(`${name}: ${error.message}`);
    }
  };

  for (const { case: name, inputs, weights: raw, dtype, output, error, tensor, non_finite } of index.cases) {
    await check(name, async () => {
      const files = [];
      // names without a number, which would count as a step
      for (const [i, path] of inputs.entries()) {
        files.push({ name: `${"abcdefghijklmnop"[i]}.safetensors`, data: await read(path) });
      }
      const options = { weights: raw, dtype, threads, allowCrossRun: true, allowNonFinite: non_finite === "allow", rewrite: true };
      const made = attempt(async () => {
        const run = await openRun(files);
        return (await merge(run, options)).files[0].blob.arrayBuffer();
      });
      const result = await made;
      // what a plan can do, but no program would ask for
      if (name === "no-tensors") return expectError(result, "input");
      if (error) return expectError(result, error, tensor);
      if (result.error) throw result.error;
      same(tensors(new Uint8Array(result.value)), tensors(await read(output)));
    });
  }
  for (const { case: name, metrics, values, goal, scheme, penalty, weights: expected, error } of index.weights) {
    await check(name, async () => {
      const result = await attempt(async () => weights((metrics ?? values).map(Number), { goal, scheme, penalty }));
      if (error) return expectError(result, error);
      if (result.error) throw result.error;
      for (const [i, want] of expected.entries()) {
        const have = result.value[i];
        const near = Math.abs(have - want) <= Math.max(1e-14 * Math.abs(want), 1e-16);
        if (want === 0 ? have !== 0 : !near) throw new Error(`weight ${i} is ${have}, expected ${want}`);
      }
    });
  }
  for (const { file, error, says, tensor, tensors: legal } of index.hostile) {
    await check(file, async () => {
      const result = await attempt(async () => openRun({ name: "a.safetensors", data: await read(file) }));
      if (legal) {
        if (result.error) throw result.error;
        return;
      }
      expectError(result, error, tensor);
      if (!result.error.message.toLowerCase().includes(says.toLowerCase())) {
        throw new Error(`says "${result.error.message}", expected "${says}"`);
      }
    });
  }
  return { count, wrong };
}

/** Methods beyond the mean, over a base where there is one: the oracle's bytes, or the oracle's failure. */
export async function runBlends({ openRun, merge }, read, threads) {
  const json = async (path) => JSON.parse(new TextDecoder().decode(await read(`blends/${path}`)));
  const { cases } = await json("index.json");
  const wrong = [];
  for (const { case: name, inputs, base, options: given, dtype, output, error, tensor, non_finite } of cases) {
    const files = [];
    for (const [i, path] of inputs.entries()) files.push({ name: `${"abcdefghijklmnop"[i]}.safetensors`, data: await read(`blends/${path}`) });
    const over = base === undefined ? {} : { base: { name: "base.safetensors", data: await read(`blends/${base}`) } };
    const named = Object.fromEntries(Object.entries(given).map(([key, value]) => [key.replace(/_./g, (part) => part[1].toUpperCase()), value]));
    const options = { ...named, dtype, threads, allowCrossRun: true, allowNonFinite: non_finite === "allow", rewrite: true };
    const result = await attempt(async () => (await merge(await openRun(files, over), options)).files[0].blob.arrayBuffer());
    try {
      if (error) expectError(result, error, tensor);
      else if (result.error) throw result.error;
      else same(tensors(new Uint8Array(result.value)), tensors(await read(`blends/${output}`)));
    } catch (difference) {
      wrong.push(`${name}: ${difference.message}`);
    }
  }
  return { count: cases.length, wrong };
}

/** Merges in product space: their hashes must be those that are written down. */
export async function runProducts({ openRun, merge }, read, threads) {
  const json = async (path) => JSON.parse(new TextDecoder().decode(await read(`product/${path}`)));
  const [cases, known] = [await json("index.json"), await json("sha256.json")];
  const ranks = { inputs: {}, 1: { rank: 1 }, full: { rank: "full" }, "energy 0.9": { energy: 0.9 } };
  const wrong = [];
  let count = 0;
  for (const { name, weights, configs } of cases) {
    const inputs = [];
    for (const [i, config] of configs.entries()) {
      const folder = "abcdefghijklmnop"[i];
      inputs.push({ name: `${folder}/adapter_config.json`, data: new Blob([JSON.stringify(config)]) });
      inputs.push({ name: `${folder}/adapter_model.safetensors`, data: await read(`product/${name}-${i}.safetensors`) });
    }
    for (const [rank, options] of Object.entries(ranks)) {
      count += 1;
      const result = await attempt(async () => merge(await openRun(inputs), { ...options, space: "product", weights, threads, rewrite: true }));
      const have = result.error?.message ?? (await sha256(result.value.files.find(({ name }) => name.endsWith(".safetensors")).blob));
      if (have !== known[`${name} at rank ${rank}`]) wrong.push(`${name} at rank ${rank}: ${have}`);
    }
  }
  return { count, wrong };
}

async function sha256(blob) {
  const digest = await crypto.subtle.digest("SHA-256", await blob.arrayBuffer());
  return Array.from(new Uint8Array(digest), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

async function attempt(work) {
  try {
    return { value: await work() };
  } catch (error) {
    return { error };
  }
}

function expectError({ error }, kind, tensor) {
  if (!error) throw new Error(`succeeded, expected an error of kind ${kind}`);
  if (error.kind !== kind) throw new Error(`failed with kind ${error.kind} (${error.message}), expected ${kind}`);
  // several missing tensors are listed in the message
  if (tensor && !`${error.tensor} ${error.message}`.includes(tensor)) throw new Error(`names tensor ${error.tensor}, expected ${tensor}: ${error.message}`);
}

/** Dtype, shape and bytes of each tensor. */
export function tensors(file) {
  const length = Number(new DataView(file.buffer, file.byteOffset).getBigUint64(0, true));
  const header = JSON.parse(new TextDecoder().decode(file.subarray(8, 8 + length)));
  delete header.__metadata__;
  const data = file.subarray(8 + length);
  const entry = ([name, { dtype, shape, data_offsets: [start, end] }]) => [name, { dtype, shape, bytes: data.subarray(start, end) }];
  return new Map(Object.entries(header).map(entry));
}

/** Throw unless both hold the same tensors, to the bit. */
export function same(have, want) {
  const names = (tensors) => [...tensors.keys()].sort().join(", ");
  if (names(have) !== names(want)) throw new Error(`holds ${names(have)}, expected ${names(want)}`);
  for (const [name, { dtype, shape, bytes }] of want) {
    const other = have.get(name);
    if (other.dtype !== dtype || `${other.shape}` !== `${shape}`) {
      throw new Error(`${name} is ${other.dtype} [${other.shape}], expected ${dtype} [${shape}]`);
    }
    const at = bytes.findIndex((byte, i) => byte !== other.bytes[i]);
    if (at >= 0 || bytes.length !== other.bytes.length) throw new Error(`${name} differs from byte ${at} on`);
  }
}
