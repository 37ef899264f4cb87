/** What the merge is worth: the sample's last checkpoint, the plain mean and the merge, scored in the page. */
import { merge, type Merged, type MergeOptions, type Run } from "mwa-merge";
import { h, problem } from "./dom";
import type { Adapter, Score } from "./llama";
import type { Sample } from "./sample";
import { score } from "./score";

export class ScorePanel {
  readonly element: HTMLElement;
  readonly #count = h("select", { id: "count" }, ...[100, 200, 500, 2000].map((n) => h("option", { value: n, selected: n === 200 }, `${n} problems`)));
  readonly #button = h("button", { type: "button", id: "score", click: () => void this.#go() }, "Score");
  readonly #body = h("tbody");
  readonly #table = h("table", { class: "scores", hidden: true },
    h("caption", { class: "unseen" }, "Scores on held-out problems"),
    h("thead", {}, h("tr", {}, ...["adapter", "exact match", "loss", "asked"].map((title, i) => h("th", { scope: "col", class: i > 0 ? "number" : "" }, title)))), this.#body);
  readonly #problem = h("div", { class: "problem", role: "alert", hidden: true });
  #running: AbortController | undefined;
  #merged: Merged | undefined;

  constructor(private readonly run: Run, private readonly sample: Sample, private readonly options: () => MergeOptions) {
    this.element = h("section", { "aria-labelledby": "score-title" },
      h("h2", { id: "score-title" }, "What is it worth?"),
      h("p", { class: "hint" }, "The sample's base model is tiny, so it can answer subtractions it has never seen right here: with the last checkpoint, with the plain mean of the chosen ones, and with the merge."),
      h("div", { class: "row" }, h("label", { for: "count", class: "unseen" }, "How many problems"), this.#count, this.#button),
      this.#problem, this.#table);
  }

  /** A merge to score. */
  offer(merged: Merged): void {
    this.#merged = merged;
  }

  /** The choice has changed: an earlier merge is not of it. */
  stale(): void {
    this.#merged = undefined;
  }

  close(): void {
    this.#running?.abort();
  }

  async #go(): Promise<void> {
    this.#running?.abort();
    const { signal } = (this.#running = new AbortController());
    const count = Number(this.#count.value);
    this.#problem.hidden = true;
    this.#body.replaceChildren();
    this.#table.hidden = false;
    this.element.setAttribute("aria-busy", "true");
    try {
      const options = this.options();
      const last = this.run.checkpoints.at(-1)!.name;
      const alone = { checkpoints: [last], scheme: "uniform" as const, signal };
      await Promise.all([
        this.#one("the last checkpoint", merge(this.run, alone), count, signal),
        this.#one("the plain mean", merge(this.run, { ...options, scheme: "uniform", signal }), count, signal),
        this.#one("the merge", Promise.resolve(this.#merged ?? merge(this.run, { ...options, signal })), count, signal),
      ]);
    } catch (error) {
      if (signal.aborted) return;
      this.#problem.replaceChildren(...problem(error));
      this.#problem.hidden = false;
    } finally {
      if (!signal.aborted) this.element.setAttribute("aria-busy", "false");
    }
  }

  async #one(name: string, merging: Promise<Merged>, count: number, signal: AbortSignal): Promise<void> {
    const cells = ["…", "", `0 of ${count}`].map((text) => h("td", { class: "number" }, text));
    this.#body.append(h("tr", {}, h("th", { scope: "row" }, name), ...cells));
    const show = ({ asked, exact, loss }: Score) => {
      // one standard error, of a share
      const error = Math.sqrt((exact * (1 - exact)) / asked);
      const texts = [`${exact.toFixed(4)} ± ${error.toFixed(3)}`, loss.toFixed(4), asked < count ? `${asked} of ${count}` : `${asked}`];
      cells.forEach((cell, i) => (cell.textContent = texts[i]!));
    };
    await score(this.sample.base, await adapter(await merging), count, show, signal);
  }
}

async function adapter({ files }: Merged): Promise<Adapter> {
  const find = (name: string) => files.find((file) => file.name === name)!.blob!;
  return { config: await find("adapter_config.json").text(), weights: await find("adapter_model.safetensors").arrayBuffer() };
}
