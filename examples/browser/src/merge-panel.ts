/** Merge: how it is done, in a panel; Merge, the progress and Save, in a bar that stays in sight; and the result. */
import { merge, type Merged, type MergeOptions, type Preview, type Progress, type Run } from "mwa-merge";
import { bytes, h, noNumber, problem, sentence, spoken } from "./dom";
import { download, loader, saveButtons } from "./save";

/** A select of these values, each with what people call it. */
function choice(id: string, values: Record<string, string>): HTMLSelectElement {
  return h("select", { id }, ...Object.entries(values).map(([value, label]) => h("option", { value }, label)));
}

export class MergePanel {
  /** How it is done, what will be written, and the result. */
  readonly element: HTMLElement;
  /** The buttons. */
  readonly bar: HTMLElement;
  readonly #plan = h("p", { class: "hint" });
  readonly #problem = h("div", { class: "problem", role: "alert", hidden: true });
  readonly #dtype = choice("dtype", { keep: "Same as inputs", bf16: "bf16", f16: "f16", f32: "f32" });
  readonly #space = choice("space", { factors: "Factors (fast)", product: "Products B·A (exact across runs)" });
  readonly #rankBy = choice("rank-by", { inputs: "Same as inputs", number: "A number", auto: "Keep 99.9 %", full: "Full (exact)" });
  readonly #rank = h("input", { id: "rank", type: "number", min: 1, step: 1, value: 8, "aria-label": "Rank as a number" });
  readonly #rankField = h("div", { class: "field", hidden: true }, h("label", { for: "rank-by" }, "Rank"), h("div", { class: "slider" }, this.#rankBy, this.#rank));
  readonly #device = choice("device", { auto: "Automatic", gpu: "GPU", cpu: "CPU" });
  readonly #cross = h("input", { id: "cross", type: "checkbox" });
  readonly #go = h("button", { type: "button", id: "merge", class: "primary big", click: () => void this.#merge() }, "Merge");
  readonly #cancel = h("button", { type: "button", id: "cancel", hidden: true, click: () => this.#running?.abort() }, "Cancel");
  readonly #bar = h("progress", { max: 1, value: 0, "aria-label": "Merge", hidden: true });
  readonly #said = h("p", { class: "hint", id: "said", role: "status" });
  readonly #save = h("span", { class: "row", id: "save" });
  readonly #result = h("div", { id: "result" });
  #running: AbortController | undefined;
  /** Whether the bar says no more than what would be written. */
  #isIdle = true;
  /** What the result, or the merge under way, was made of. */
  #made: string | undefined;

  constructor(private readonly run: Run, private readonly weighOptions: () => MergeOptions, private readonly done: (merged: Merged | undefined) => void) {
    this.element = h("section", { "aria-labelledby": "merge-title" },
      h("h2", { id: "merge-title" }, "How it is merged"),
      h("div", { class: "controls" },
        h("div", { class: "field" }, h("label", { for: "space" }, "Average"), this.#space),
        this.#rankField,
        h("div", { class: "field" }, h("label", { for: "dtype" }, "Number format"), this.#dtype),
        h("div", { class: "field" }, h("label", { for: "device" }, "Compute on"), this.#device),
        h("div", { class: "field check" }, this.#cross, h("label", { for: "cross" }, "Allow mixing runs"))),
      this.#problem, this.#plan, this.#result);
    this.bar = h("div", { class: "bar", role: "region", "aria-label": "Merge and save" }, this.#go, this.#cancel, this.#bar, this.#said, this.#save);
    this.element.addEventListener("input", () => this.#fit());
    this.#fit();
  }

  /** Refuse a rank that is not a number. */
  check(): void {
    if (this.options().rank !== undefined && Number.isNaN(this.options().rank)) throw noNumber(this.#rank);
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
    this.#stale();
    this.#problem.hidden = true;
    this.#rank.setAttribute("aria-invalid", "false");
    this.#go.disabled = this.#running !== undefined;
    const sizes = new Map(report.outputs.map((file) => [file.name, file.bytes]));
    // a rank that is yet to be found leaves the size open
    const isKnown = this.options().rank !== "auto";
    const list = files.map((name) => `${name}${isKnown && sizes.has(name) ? ` (${bytes(sizes.get(name)!)})` : ""}`);
    const isAlone = report.notes.some((note) => note.includes("there is nothing to average"));
    this.#plan.textContent = `Will be written: ${list.join(", ")}.${isAlone ? " One checkpoint is copied as it is: there is nothing to average." : ""}`;
    const rest = files.length - report.outputs.length;
    const [first] = list;
    // what a result, progress or a change says stays
    if (this.#made === undefined && (this.#isIdle || this.#said.classList.contains("refused"))) {
      this.#say(`${report.inputs.length} of ${this.run.checkpoints.length} into ${first}, with ${rest} files beside it`);
      this.#isIdle = true;
    }
  }

  /** It cannot be merged so: `why` in a few words, and the error if it is of this panel. */
  refuse(why: string, error?: unknown): void {
    this.#stale();
    this.#go.disabled = true;
    this.#plan.textContent = "";
    this.#problem.hidden = error === undefined;
    this.#rank.setAttribute("aria-invalid", String(error instanceof Error && /\brank\b/i.test(error.message)));
    if (error !== undefined) this.#problem.replaceChildren(...problem(error));
    this.#say(why, true);
  }

  close(): void {
    this.#running?.abort();
  }

  /** What the result would be made of now. */
  #now(): string {
    return JSON.stringify({ ...this.weighOptions(), ...this.options() });
  }

  /** The choice has changed: a merge of an earlier one is not to be saved for it. */
  #stale(): void {
    if (this.#made === undefined || this.#made === this.#now()) return;
    this.#made = undefined;
    const wasRunning = this.#running !== undefined;
    this.#running?.abort();
    this.#result.replaceChildren();
    this.#save.replaceChildren();
    this.#go.classList.add("primary");
    this.#go.textContent = "Merge";
    this.#say(wasRunning ? "Stopped, as the choice has changed." : "The choice has changed: merge again.");
    this.done(undefined);
  }

  #say(text: string, isRefused = false): void {
    this.#isIdle = false;
    this.#said.textContent = text;
    this.#said.classList.toggle("refused", isRefused);
  }

  async #merge(): Promise<void> {
    const running = (this.#running = new AbortController());
    const { signal } = running;
    this.#made = this.#now();
    this.#busy(true);
    this.#result.replaceChildren();
    this.#save.replaceChildren();
    this.#say("");
    try {
      const merged = await merge(this.run, { ...this.weighOptions(), ...this.options(), signal, onProgress: (progress) => this.#hear(progress, signal) });
      await this.#tell(merged);
      this.done(merged);
      this.#result.scrollIntoView({ block: "nearest" });
    } catch (error) {
      if (!signal.aborted) {
        this.#problem.replaceChildren(...problem(error));
        this.#problem.hidden = false;
        this.#say("It could not be merged; the reason stands under “How it is merged”.");
        this.#problem.scrollIntoView({ block: "nearest" });
      } else if (this.#made !== undefined) this.#say("Cancelled; nothing was written.");
      // a change says anew what there is
      this.#isIdle = true;
      this.#made = undefined;
    } finally {
      if (this.#running === running) this.#running = undefined;
      this.#busy(false);
    }
  }

  #busy(is: boolean): void {
    this.#go.disabled = is || this.#said.classList.contains("refused");
    this.#cancel.hidden = this.#bar.hidden = !is;
    this.bar.setAttribute("aria-busy", String(is));
    // the bar is in sight wherever the page is scrolled to
    if (is) this.#cancel.focus({ preventScroll: true });
    else if (document.activeElement === document.body || document.activeElement === this.#cancel) this.#go.focus({ preventScroll: true });
  }

  #hear({ done, total, speed, device }: Progress, signal: AbortSignal): void {
    if (signal.aborted) return;
    this.#bar.max = Math.max(total, 1);
    this.#bar.value = done;
    this.#say(`${bytes(done)} of ${bytes(total)}, ${bytes(speed)}/s on ${device}`);
  }

  async #tell({ files, report, device, reason, seconds }: Merged): Promise<void> {
    const loads = await loader(files);
    const read = report.inputs.flatMap((input) => input.files ?? []).reduce((sum, file) => sum + file.bytes, 0);
    const count = report.inputs.length;
    this.#say("");
    // the next thing to do is the loud one
    this.#go.classList.remove("primary");
    this.#go.textContent = "Merge again";
    this.#save.replaceChildren(...saveButtons(files, (text) => this.#say(text), "save-files", ["Save as a folder…", "Save all files"]));
    this.#said.replaceChildren(h("span", { class: "good" }, `Merged ${count} ${count === 1 ? "checkpoint" : "checkpoints"} (${bytes(read)}) in ${seconds.toFixed(2)} s on ${device}.`));
    const notes = [...new Set([...report.notes, ...(report.advice ?? []).filter(({ about }) => about === "residual").map(({ text }) => text)])];
    this.#result.replaceChildren(
      h("h3", {}, "The result"),
      ...told(report.residual?.overall, report.space),
      ...report.outputs.map(({ name, blake3 }) => h("p", { class: "hash" }, `${name} blake3 `, h("code", {}, blake3))),
      h("ul", { class: "files" }, ...files.map((file) => h("li", {}, h("button", { type: "button", class: "link", click: () => download(file) }, file.name), ` ${bytes(file.size)}`))),
      ...(notes.length > 0 ? [h("ul", { class: "notes", "aria-label": "Notes of the merge" }, ...notes.map((note) => h("li", {}, spoken(note))))] : []),
      h("details", {}, h("summary", {}, "The report, mwa-report.json"), h("pre", { tabindex: 0 }, JSON.stringify(report, null, 2))),
      // why no GPU helped with a small merge is nobody's question, unless one was asked for
      ...(this.#device.value === "auto" && device.startsWith("cpu") ? [] : [h("p", { class: "hint", id: "reason" }, sentence(reason.replace(/^gpu:/, "GPU:")))]),
      loads
        ? h("p", { class: "hint", id: "loads" }, "In Python: ", h("code", {}, loads.code))
        : h("p", { class: "hint", id: "loads" }, "No config came with these files, so no adapter_config.json is in the result: put that of the training run beside the weights, and PEFT loads the folder."));
  }
}

/** From this share on averaged factors are far from the average of their products; ten neighbours of real runs stay below 4 %. */
const FAR = 0.07;

/** How far the result is off, and whether that is good or bad. */
function told(overall: number | undefined, space: string): HTMLElement[] {
  if (overall === undefined) return [];
  const percent = `${(overall * 100).toPrecision(2)} %`;
  const text = space === "product"
    ? `At this rank ${overall < 1e-7 ? "nothing" : percent} of what the adapters do on average is lost.`
    : `Averaging factors changes what the adapters do by ${percent}, which is ${overall > FAR ? "much: products would keep it" : "little"}.`;
  return [h("p", {}, text)];
}
