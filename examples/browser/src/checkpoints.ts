/** The table of checkpoints: which are chosen, their metric, their weight, and warnings where they belong. */
import type { Reading, Readings, Run, WeighedInput } from "mwa-merge";
import { bytes, column, h } from "./dom";

/** Checkpoints that one button picks. */
const LAST = 10;
/** Below this cosine a checkpoint is of another run than the one before. */
const OTHER_RUN = 0.2;

export class Checkpoints {
  readonly element: HTMLElement;
  readonly #scroll = h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Checkpoints" });
  readonly #metric = h("th", { scope: "col", class: "number" }, "metric");
  readonly #rows: { name: string; box: HTMLInputElement; value: HTMLElement; source: HTMLTableCellElement; beside: HTMLElement; weight: HTMLElement; bar: HTMLElement; row: HTMLElement }[];

  /** Whether somebody picked; until then the boxes follow the rule. */
  #isPicked = false;

  constructor(private readonly run: Run, changed: () => void) {
    const change = () => {
      this.#isPicked = true;
      changed();
    };
    const severalRuns = new Set(run.checkpoints.map(({ run }) => run)).size > 1;
    this.#rows = run.checkpoints.map(({ name, label, cosineToPrevious: cosine, step, bytes: size, rank, dtypes }) => {
      const box = h("input", { type: "checkbox", checked: true, "aria-label": `merge ${name}`, change });
      const [value, weight] = [h("td", { class: "number" }), h("td", { class: "number" })];
      const bar = h("div", { class: "fill" });
      const other = cosine !== null && cosine < OTHER_RUN;
      const facts = [rank === null ? null : `rank ${rank}`, dtypes.join("/"), bytes(size)].filter(Boolean).join(", ");
      const source = h("td", { class: "source" });
      const beside = h("span", { class: "warning beside" });
      const row = h("tr", {},
        h("td", {}, box),
        h("th", { scope: "row", title: facts }, severalRuns ? name : label, other ? h("span", { class: "warning" }, `another run: its factors point elsewhere (cosine ${cosine.toFixed(2)})`) : null, beside),
        h("td", { class: "number" }, step === null ? "–" : String(step)),
        value, source, weight,
        h("td", { class: "bar-cell", "aria-hidden": "true" }, bar));
      return { name, box, value, source, beside, weight, bar, row };
    });
    const pick = (label: string, keep: (i: number) => boolean) =>
      h("button", { type: "button", class: "small", click: () => {
        for (const [i, { box }] of this.#rows.entries()) box.checked = keep(i);
        change();
      } }, label);
    const count = run.checkpoints.length;
    this.element = h("div", { id: "table" },
      h("div", { class: "row picks", role: "group", "aria-label": "Choose checkpoints" },
        h("button", { type: "button", class: "small", click: () => {
          this.#isPicked = false;
          changed();
        } }, "By the rule"),
        count > LAST ? pick(`Last ${LAST}`, (i) => i >= count - LAST) : null, count > 5 ? pick("Last 5", (i) => i >= count - 5) : null, pick("All", () => true), pick("None", () => false)),
      this.#scroll);
    this.#scroll.append(
      h("table", {},
        h("thead", {}, h("tr", {}, h("th", { scope: "col" }, h("span", { class: "unseen" }, "merge")), h("th", { scope: "col" }, "checkpoint"), h("th", { scope: "col", class: "number" }, "step"), this.#metric, h("th", { scope: "col" }, "read from"), h("th", { scope: "col", class: "number" }, "weight"), h("td", {}))),
        h("tbody", {}, ...this.#rows.map(({ row }) => row), ...this.#broken())));
  }

  /** Those that somebody picked; undefined as long as the rule decides. */
  picked(): string[] | undefined {
    if (!this.#isPicked) return undefined;
    return this.#rows.filter(({ box }) => box.checked).map(({ name }) => name);
  }

  show(readings: Readings | undefined, inputs: WeighedInput[] | undefined): void {
    this.#metric.textContent = readings?.metric ?? "metric";
    const reading = new Map(readings?.readings.map((one) => [one.checkpoint, one]));
    const weight = new Map(inputs?.map((input) => [input.name, input.weight]));
    // a weight that only a merge finds is not a number yet
    const largest = Math.max(...[...weight.values()].filter(Number.isFinite).map(Math.abs), 1e-9);
    const told = column((readings?.readings ?? []).flatMap(({ value }) => (value === undefined ? [] : [value])));
    for (const { name, value, source, beside, weight: cell, bar, row, box } of this.#rows) {
      const one = reading.get(name);
      value.textContent = one?.value === undefined ? "–" : told(one.value);
      source.replaceChildren(...from(one));
      const share = weight.get(name);
      // a warning has the place of the value and the weight that are not there; beside one it stands under the name where its column is not shown
      const isWide = share === undefined && (one?.state === "bad" || one?.state === "missing");
      value.hidden = isWide && one.value === undefined;
      source.colSpan = value.hidden ? 3 : isWide ? 2 : 1;
      source.classList.toggle("wide", isWide);
      cell.hidden = isWide;
      bar.parentElement!.classList.toggle("spare", isWide);
      beside.textContent = !isWide && one && one.state !== "read" ? one.source : "";
      cell.textContent = share === undefined ? "" : Number.isNaN(share) ? "?" : share.toFixed(4);
      bar.style.width = `${(Math.abs(share || 0) / largest) * 100}%`;
      // where it cannot be weighed, the boxes stay as they were
      if (!this.#isPicked && inputs) box.checked = weight.has(name);
      row.classList.toggle("out", !box.checked);
    }
    this.#reveal();
  }

  /** Begin a long table where the chosen ones do, until somebody picks. */
  #reveal(): void {
    const first = this.#rows.find(({ box }) => box.checked)?.row;
    if (this.#isPicked || !first) return;
    const head = this.#scroll.querySelector("thead")!.offsetHeight;
    this.#scroll.scrollTop = first.offsetTop - head;
  }

  #broken(): HTMLElement[] {
    return this.run.broken.map(({ name, message, help }) =>
      h("tr", { class: "out" }, h("td", {}), h("th", { scope: "row" }, name.split("/").at(-1)!),
        h("td", { colspan: 5 }, h("span", { class: "warning" }, "left out: ", message.replace(`${name}/`, ""), help ? `. ${help[0]!.toUpperCase()}${help.slice(1)}.` : ""))));
  }
}

function from(reading: Reading | undefined): (Node | string)[] {
  if (!reading) return [];
  if (reading.state === "bad") return [h("span", { class: "warning" }, /^diverged\b/.test(reading.source) ? reading.source : `diverged: ${reading.source}`)];
  if (reading.state === "missing") return [h("span", { class: "warning" }, `no value: ${reading.source}`)];
  if (reading.state === "flagged") return [h("span", { class: "warning" }, reading.source)];
  return [reading.source];
}
