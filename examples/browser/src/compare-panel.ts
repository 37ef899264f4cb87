/** Compare the chosen checkpoints, when asked. */
import { compare, type MergeOptions, type Run } from "mwa-merge";
import { h, problem } from "./dom";
import { heatmap } from "./heatmap";

export class ComparePanel {
  readonly element: HTMLElement;
  readonly #button = h("button", { type: "button", click: () => void this.#go() }, "Compare the chosen checkpoints");
  readonly #result = h("div", { role: "status" });
  #running: AbortController | undefined;

  constructor(private readonly run: Run, private readonly options: () => MergeOptions) {
    this.element = h("section", {},
      h("details", {},
        h("summary", {}, h("h2", {}, "How alike the checkpoints are")),
        h("p", { class: "hint" }, "Reads all chosen weights once: the cosine of each pair, their norms, and what averaging the factors costs."),
        this.#button, this.#result));
  }

  /** The choice has changed. */
  stale(): void {
    this.#running?.abort();
    this.#result.replaceChildren();
  }

  close(): void {
    this.#running?.abort();
  }

  async #go(): Promise<void> {
    this.#running?.abort();
    const { signal } = (this.#running = new AbortController());
    this.#result.replaceChildren(h("p", {}, "Comparing…"));
    try {
      const comparison = await compare(this.run, { ...this.options(), signal });
      if (!signal.aborted) this.#result.replaceChildren(...heatmap(comparison));
    } catch (error) {
      if (!signal.aborted) this.#result.replaceChildren(h("div", { class: "problem" }, ...problem(error)));
    }
  }
}
