/** What the merge is worth: the sample's last checkpoint, the plain mean and the merge, scored in the page. */
import { merge, type Merged, type MergeOptions, type Run } from "mwa-merge";
import { h, problem } from "./dom";
import type { Score } from "./llama";
import type { Sample } from "./sample";
import { adapterOf, score } from "./score";

export class ScorePanel {
  readonly element: HTMLElement;
  readonly #count = h("select", { id: "count" }, ...[100, 200, 500, 2000].map((n) => h("option", { value: n, selected: n === 200 }, `${n} problems`)));
  readonly #button = h("button", { type: "button", id: "score", click: () => void this.#go() }, "Score");
  readonly #body = h("tbody");
  readonly #table = h("table", { class: "scores", hidden: true },
    h("caption", { class: "unseen" }, "Scores on held-out problems"),
    h("thead", {}, h("tr", {}, ...["adapter", "loss", "exact match", "against the last", "asked"].map((title, i) => h("th", { scope: "col", class: i > 0 ? "number" : "" }, title)))), this.#body);
  readonly #problem = h("div", { class: "problem", role: "alert", hidden: true });
  #running: AbortController | undefined;
  #merged: Merged | undefined;

  constructor(private readonly run: Run, private readonly sample: Sample, private readonly options: () => MergeOptions) {
    this.element = h("section", { "aria-labelledby": "score-title" },
      h("h2", { id: "score-title" }, "Score the merge"),
      h("p", { class: "hint" }, "The sample's base model is tiny, so it can answer subtractions it has never seen right here: with the last checkpoint, with the plain mean of the chosen ones, and with the merge."),
      h("div", { class: "row" }, h("label", { for: "count", class: "unseen" }, "How many problems"), this.#count, this.#button),
      this.#problem, this.#table);
  }

  /** A merge to score, or none any more. */
  offer(merged: Merged | undefined): void {
    this.#merged = merged;
  }

  /** The choice has changed: an earlier merge, and its scores, are not of it. */
  stale(): void {
    this.#merged = undefined;
    this.#running?.abort();
    this.#table.hidden = true;
    this.element.setAttribute("aria-busy", "false");
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
      const merges = [
        merge(this.run, alone),
        merge(this.run, { ...options, scheme: "uniform", signal }),
        Promise.resolve(this.#merged ?? merge(this.run, { ...options, signal })),
      ];
      const rows = ["the last checkpoint", "the plain mean", "the merge"].map((name) => this.#row(name, count));
      const scores: Score[] = [];
      await Promise.all(merges.map(async (merging, i) => {
        const show = (score: Score) => {
          scores[i] = score;
          for (const [i, row] of rows.entries()) row(scores[i], i > 0 ? scores[0] : undefined);
        };
        await score(this.sample.base, await adapterOf((await merging).files), count, show, signal);
      }));
    } catch (error) {
      if (signal.aborted) return;
      this.#problem.replaceChildren(...problem(error));
      this.#problem.hidden = false;
    } finally {
      if (!signal.aborted) this.element.setAttribute("aria-busy", "false");
    }
  }

  /** A row, and what shows a score in it, beside that of the last checkpoint. */
  #row(name: string, count: number): (score: Score | undefined, last: Score | undefined) => void {
    const cells = ["…", "", "", `0 of ${count}`].map((text) => h("td", { class: "number" }, text));
    this.#body.append(h("tr", {}, h("th", { scope: "row" }, name), ...cells));
    return (score, last) => {
      if (!score) return;
      const { asked, exact, loss } = score;
      const texts = [loss.toFixed(4), exact.toFixed(4), last ? difference(score.right, last.right) : "", asked < count ? `${asked} of ${count}` : `${asked}`];
      cells.forEach((cell, i) => (cell.textContent = texts[i]!));
    };
  }
}

/** How much more is right, with its standard error: of the same problems, so that their difficulty does not count. */
function difference(right: boolean[], last: boolean[]): string {
  const count = Math.min(right.length, last.length);
  const each = right.slice(0, count).map((is, i) => Number(is) - Number(last[i]));
  const mean = each.reduce((sum, value) => sum + value, 0) / count;
  const variance = each.reduce((sum, value) => sum + (value - mean) ** 2, 0) / Math.max(count - 1, 1);
  return `${mean < 0 ? "−" : "+"}${Math.abs(mean).toFixed(3)} ± ${Math.sqrt(variance / count).toFixed(3)}`;
}
