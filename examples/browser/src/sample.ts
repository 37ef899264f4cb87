/** The sample run and its base model, which lie beside the page. */
import type { NamedData } from "mwa-merge";
import type { Base } from "./llama";

export interface Sample {
  inputs: NamedData[];
  base: Base;
}

/** Fetch all of it. */
export async function openSample(): Promise<Sample> {
  const list = (await (await get("sample/files.json")).json()) as { path: string }[];
  const fetched = await Promise.all(list.map(async ({ path }) => ({ name: path, data: await (await get(`sample/${path}`)).blob() })));
  const find = (name: string) => fetched.find((file) => file.name === name)!.data;
  return {
    inputs: fetched.filter(({ name }) => name.startsWith("sample-run/")),
    base: { config: await find("base/config.json").text(), weights: await find("base/model.safetensors").arrayBuffer() },
  };
}

async function get(path: string): Promise<Response> {
  const response = await fetch(path);
  if (!response.ok) throw new Error(`the sample cannot be loaded: ${path}: ${response.status}`);
  return response;
}
