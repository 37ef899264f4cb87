/** Save merged files: one by one, or all into a folder where the browser can. */
import type { MergedFile } from "mwa-merge";
import { h } from "./dom";

/** Save one file as a download. */
export function download({ name, blob }: MergedFile): void {
  if (!blob) return;
  const url = URL.createObjectURL(blob);
  const link = document.createElement("a");
  link.href = url;
  link.download = name;
  link.click();
  // the download has its own hold on the bytes by then
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}

/** Whether the browser can write into a folder. */
export const canSaveFolder = "showDirectoryPicker" in window;

type Picker = (options: { mode: "readwrite" }) => Promise<FileSystemDirectoryHandle>;

/** Write all files into a folder `merged` inside one that the user picks; its name, or nothing if they pick none. */
export async function saveFolder(files: MergedFile[]): Promise<string | undefined> {
  let picked: FileSystemDirectoryHandle;
  try {
    picked = await (window as unknown as { showDirectoryPicker: Picker }).showDirectoryPicker({ mode: "readwrite" });
  } catch (error) {
    if (error instanceof DOMException && error.name === "AbortError") return undefined;
    throw error;
  }
  const folder = await fresh(picked);
  for (const { name, blob } of files) {
    const parts = name.split("/");
    let inner = folder;
    for (const part of parts.slice(0, -1)) inner = await inner.getDirectoryHandle(part, { create: true });
    const file = await inner.getFileHandle(parts.at(-1)!, { create: true });
    const stream = await file.createWritable();
    await blob!.stream().pipeTo(stream);
  }
  return `${picked.name}/${folder.name}`;
}

/** A folder that nobody has used yet. */
async function fresh(parent: FileSystemDirectoryHandle): Promise<FileSystemDirectoryHandle> {
  for (let i = 1; ; i += 1) {
    const name = i === 1 ? "merged" : `merged-${i}`;
    const taken = await parent.getDirectoryHandle(name).then(() => true, (error: DOMException) => error.name !== "NotFoundError");
    if (!taken) return parent.getDirectoryHandle(name, { create: true });
  }
}

/** Which program loads the folder of these files, and how. */
export async function loader(files: MergedFile[]): Promise<{ program: string; code: string } | undefined> {
  const text = (wanted: string) => files.find(({ name }) => name === wanted)?.blob?.text();
  if (await text("adapter_config.json")) return { program: "PEFT", code: 'PeftModel.from_pretrained(base, "path/to/the/folder")' };
  const config = await text("config.json");
  if (config === undefined) return undefined;
  const [architecture = "AutoModel"] = namesIn(config);
  return { program: "transformers", code: `${architecture}.from_pretrained("path/to/the/folder")` };
}

/** The classes of a model, as its config has them. */
function namesIn(config: string): string[] {
  try {
    const { architectures } = JSON.parse(config) as { architectures?: unknown };
    return Array.isArray(architectures) ? architectures.filter((name) => typeof name === "string" && /^\w+$/.test(name)) : [];
  } catch {
    return [];
  }
}

/** The buttons that save all files: into a folder where the browser can, and one by one; `say` hears what became of it. */
export function saveButtons(files: MergedFile[], say: (text: string) => void, id: string, [folder, all]: [string, string]): HTMLElement[] {
  const save = async () => {
    try {
      const name = await saveFolder(files);
      const loads = await loader(files);
      if (name) say(`Saved into ${name}.${loads ? ` ${loads.program} loads that folder.` : ""}`);
    } catch (error) {
      say(error instanceof Error ? error.message : String(error));
    }
  };
  return [
    ...(canSaveFolder ? [h("button", { type: "button", class: "primary", click: () => void save() }, folder)] : []),
    h("button", { type: "button", id, class: canSaveFolder ? "" : "primary", click: () => files.forEach(download) }, all),
  ];
}
