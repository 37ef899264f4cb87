/** Merge: what will be written, the progress, the result and how to save it. */
import { merge, type Merged, type MergeOptions, type Preview, type Progress, type Run } from "mwa-merge";
import { bytes, h, problem } from "./dom";
import { canSaveFolder, download, saveFolder } from "./save";

/** A select of these values, each with what people call it. */
function choice(id: string, values: Record<string, string>): HTMLSelectElement {
  return h("select", { id }, ...Object.entries(values).map(([value, label]) => h("option", { value }, label)));
}

export class MergePanel {
  readonly element: HTMLElement;
  readonly #plan = h("div");
  readonly #dtype = choice("dtype", { keep: "as the inputs", bf16: "bf16", f16: "f16", f32: "f32" });
  readonly #space = choice("space", { factors: "the factors", product: "their products B·A" });
  readonly #rankBy = choice("rank-by", { inputs: "as the inputs", number: "this one:", auto: "what keeps 99.9 %", full: "in full" });
  readonly #rank = h("input", { id: "rank", type: "number", min: 1, step: 1, value: 8, "aria-label": "Rank as a number" });
  readonly #rankField = h("div", { class: "field", hidden: true }, h("label", { for: "rank-by" }, "Rank"), h("div", { class: "slider" }, this.#rankBy, this.#rank));
  readonly #device = choice("device", { auto: "whatever is quickest", gpu: "the GPU", cpu: "the CPU" });
  readonly #cross = h("input", { id: "cross", type: "checkbox" });
  readonly #go = h("button", { type: "button", id: "merge", class: "primary big", click: () => void this.#merge() }, "Merge");
  readonly #cancel = h("button", { type: "button", id: "cancel", hidden: true, click: () => this.#running?.abort() }, "Cancel");
  readonly #bar = h("progress", { max: 1, value: 0, "aria-label": "Merge", hidden: true });
  readonly #speed = h("p", { class: "hint", id: "speed" });
  readonly #result = h("div", { id: "result", role: "status" });
  #running: AbortController | undefined;

  constructor(private readonly run: Run, private readonly weighOptions: () => MergeOptions, private readonly done: (merged: Merged) => void) {
    this.element = h("section", { "aria-labelledby": "merge-title" },
      h("h2", { id: "merge-title" }, "Merge"),
      h("div", { class: "controls" },
        h("div", { class: "field" }, h("label", { for: "space" }, "Averaged are"), this.#space),
        this.#rankField,
        h("div", { class: "field" }, h("label", { for: "dtype" }, "Numbers are written"), this.#dtype),
        h("div", { class: "field" }, h("label", { for: "device" }, "Computed by"), this.#device),
        h("div", { class: "field check" }, this.#cross, h("label", { for: "cross" }, "average across runs all the same"))),
      this.#plan,
      h("div", { class: "row" }, this.#go, this.#cancel, this.#bar),
      this.#speed, this.#result);
    this.element.addEventListener("input", () => this.#fit());
    this.#fit();
  }

  /** The options that belong to this panel. */
  options(): Pick<MergeOptions, "dtype" | "space" | "rank" | "device" | "allowCrossRun"> {
    const isProduct = this.#space.value === "product";
    const by = isProduct ? this.#rankBy.value : "inputs";
    const rank = by === "number" ? this.#rank.valueAsNumber : (by as "auto" | "full");
    const [dtype, device] = [this.#dtype.value, this.#device.value] as [NonNullable<MergeOptions["dtype"]>, NonNullable<MergeOptions["device"]>];
    return { dtype, device, allowCrossRun: this.#cross.checked, ...(isProduct && { space: "product" }), ...(by !== "inputs" && { rank }) };
  }

  /** Show the controls that the space has. */
  #fit(): void {
    this.#rankField.hidden = this.#space.value !== "product";
    this.#rank.hidden = this.#rankBy.value !== "number";
  }

  /** Say what will be written. */
  show({ files, report }: Preview): void {
    this.#go.disabled = false;
    const sizes = new Map(report.outputs.map((file) => [file.name, file.bytes]));
    // a rank that is yet to be found leaves the size open
    const isKnown = this.options().rank !== "auto";
    const list = files.map((name) => `${name}${isKnown && sizes.has(name) ? ` (${bytes(sizes.get(name)!)})` : ""}`);
    this.#plan.replaceChildren(h("p", {}, `Will be written: ${list.join(", ")}.`));
  }

  /** It cannot be merged so. */
  refuse(): void {
    this.#go.disabled = true;
    this.#plan.replaceChildren(h("p", { class: "hint" }, "This choice cannot be merged; the message above says why."));
  }

  close(): void {
    this.#running?.abort();
  }

  async #merge(): Promise<void> {
    const { signal } = (this.#running = new AbortController());
    this.#busy(true);
    this.#result.replaceChildren();
    try {
      const merged = await merge(this.run, { ...this.weighOptions(), ...this.options(), signal, onProgress: (progress) => this.#hear(progress) });
      this.#tell(merged);
      this.done(merged);
    } catch (error) {
      this.#speed.textContent = signal.aborted ? "Cancelled; nothing was written." : "";
      if (!signal.aborted) this.#result.replaceChildren(h("div", { class: "problem" }, ...problem(error)));
    } finally {
      this.#busy(false);
    }
  }

  #busy(is: boolean): void {
    this.#go.disabled = is;
    this.#cancel.hidden = this.#bar.hidden = !is;
    this.element.setAttribute("aria-busy", String(is));
    if (is) this.#cancel.focus();
    else if (document.activeElement === document.body || document.activeElement === this.#cancel) this.#go.focus();
  }

  #hear({ done, total, speed, device }: Progress): void {
    this.#bar.max = Math.max(total, 1);
    this.#bar.value = done;
    this.#speed.textContent = `${bytes(done)} of ${bytes(total)}, ${bytes(speed)}/s on ${device}`;
  }

  #tell({ files, report, device, reason, seconds }: Merged): void {
    const read = report.inputs.flatMap((input) => input.files ?? []).reduce((sum, file) => sum + file.bytes, 0);
    this.#speed.textContent = "";
    const saved = h("p", { class: "hint", role: "status" });
    const folder = async () => {
      try {
        const name = await saveFolder(files);
        if (name) saved.textContent = `Saved into ${name}. PEFT loads that folder.`;
      } catch (error) {
        saved.replaceChildren(...problem(error));
      }
    };
    this.#result.replaceChildren(
      h("p", { class: "good" }, `Merged ${report.inputs.length} checkpoints (${bytes(read)}) in ${seconds.toFixed(2)} s on ${device}.`),
      h("p", { class: "hint", id: "reason" }, `${reason[0]!.toUpperCase()}${reason.slice(1)}.`),
      ...report.outputs.map(({ name, blake3 }) => h("p", { class: "hash" }, `${name} blake3 `, h("code", {}, blake3))),
      h("div", { class: "row" },
        canSaveFolder ? h("button", { type: "button", class: "primary", click: () => void folder() }, "Save as a folder…") : null,
        h("button", { type: "button", id: "save-files", click: () => files.forEach(download) }, "Save all files")),
      h("ul", { class: "files" }, ...files.map((file) => h("li", {}, h("button", { type: "button", class: "link", click: () => download(file) }, file.name), ` ${bytes(file.size)}`))),
      saved,
      ...(report.notes.length > 0 ? [h("ul", { class: "notes", "aria-label": "Notes of the merge" }, ...report.notes.map((note) => h("li", {}, note)))] : []),
      h("details", {}, h("summary", {}, "The report, mwa-report.json"), h("pre", { tabindex: 0 }, JSON.stringify(report, null, 2))),
      h("p", { class: "hint" }, "In Python: ", h("code", {}, "PeftModel.from_pretrained(base, \"path/to/the/folder\")")));
  }
}
