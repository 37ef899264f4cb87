/** Search for the weights whose merge scores best: by the sample's base model, by a module of the user's, or by scores that they fill in. */
import { search, weigh, type Candidate, type Evaluate, type MergedFile, type MergeOptions, type Run, type Searched, type Score, type Trial } from "mwa-merge";
import { h, noNumber, problem, s, short, spoken } from "./dom";
import { ModuleEvaluator, TEMPLATE } from "./evaluator";
import { download, saveButtons } from "./save";
import { adapterOf, score } from "./score";
import { SEED } from "./llama";
import { drawTrials, type SearchChart } from "./search-chart";
import type { Sample } from "./sample";
import { readTrials, writeTrials } from "./trials";

type Source = "sample" | "module" | "table";
type Method = "auto" | "sweep" | "greedy" | "lcsc" | "cma";

const METHODS: [Method, string][] = [
  ["auto", "automatic"],
  ["sweep", "sweep of formulas"],
  ["greedy", "greedy soup"],
  ["lcsc", "evolution (LCSC)"],
  ["cma", "CMA-ES"],
];
/** The problems that are searched on; those of the table of scores are kept for the last word. */
const SEARCHED = 1;

export class SearchPanel {
  readonly element: HTMLElement;
  readonly #source: HTMLSelectElement;
  readonly #goal = h("select", { id: "search-goal" }, h("option", { value: "min" }, "lower is better"), h("option", { value: "max" }, "higher is better"));
  readonly #method = h("select", { id: "search-method" }, ...METHODS.map(([value, label]) => h("option", { value }, label)));
  readonly #budget = h("input", { id: "search-budget", type: "number", min: 3, max: 1000, step: 1, value: 24 });
  readonly #seed = h("input", { id: "search-seed", type: "number", min: 0, step: 1, value: 42 });
  readonly #problems = h("select", { id: "search-problems" }, ...[20, 50, 100, 200].map((n) => h("option", { value: n, selected: n === 50 }, `${n} subtractions`)));
  readonly #module = h("textarea", { id: "search-module", rows: 9, spellcheck: "false" }) as HTMLTextAreaElement;
  readonly #table = h("textarea", { id: "search-table", rows: 5, spellcheck: "false", placeholder: "0.25, 0.25, 0.5, 0.7316" }) as HTMLTextAreaElement;
  readonly #fields: Record<string, HTMLElement>;
  readonly #go = h("button", { type: "button", id: "search", click: () => void this.#search() }, "Search");
  readonly #stop = h("button", { type: "button", id: "search-stop", hidden: true, click: () => this.#running?.abort() }, "Stop");
  readonly #keep = h("button", { type: "button", class: "link", id: "search-trials", hidden: true, click: () => this.#saveTrials() }, "Save the trials as a table");
  readonly #said = h("p", { class: "hint", id: "search-said", role: "status" });
  readonly #problem = h("div", { class: "problem", role: "alert", hidden: true });
  readonly #asked = h("ul", { class: "asked", "aria-label": "Candidates to score" });
  readonly #chart = s("svg", { class: "chart", role: "img" }) as SVGSVGElement;
  readonly #result = h("div", { id: "search-result" });
  readonly #resize = new ResizeObserver(() => this.#draw());
  #running: AbortController | undefined;
  #shown: SearchChart | undefined;
  /** What was scored, and by what: the same search again goes on from there. */
  #known: { of: string; trials: Trial[]; names: string[] } | undefined;

  constructor(private readonly run: Run, private readonly sample: Sample | undefined, private readonly options: () => MergeOptions) {
    this.#source = h("select", { id: "search-source", change: () => this.#fit() },
      ...(sample ? [h("option", { value: "sample" }, "the sample's base model, here")] : []),
      h("option", { value: "module" }, "a module that you paste"),
      h("option", { value: "table" }, "scores that you fill in"));
    this.#module.value = TEMPLATE;
    const field = (label: string, control: HTMLElement) => h("div", { class: "field" }, h("label", { for: control.id }, label), control);
    this.#fields = {
      goal: field("Better", this.#goal),
      problems: field("Asked of each", this.#problems),
      module: field("A module with a function score; it runs apart from this page and reaches no farther than this machine", this.#module),
      table: field("What is known already: the weight of each chosen checkpoint, oldest first, then the score; or a journal, OUT.search.jsonl", this.#table),
    };
    this.element = h("section", { "aria-labelledby": "search-title", id: "search-panel" },
      h("h2", { id: "search-title" }, "Search by a score"),
      h("p", { class: "hint" }, "Tries weights for the chosen checkpoints, scores each merge, and keeps the best. It begins with the last checkpoint, the plain mean and the weights above, which a winner must beat."),
      h("div", { class: "controls" },
        field("Scored by", this.#source), this.#fields.problems!, this.#fields.goal!,
        field("Method", this.#method), field("Trials at most", this.#budget), field("Seed", this.#seed)),
      this.#fields.module!, this.#fields.table!,
      h("div", { class: "row" }, this.#go, this.#stop, this.#said),
      this.#problem, this.#asked, this.#chart, this.#result, this.#keep);
    this.#chart.toggleAttribute("hidden", true);
    this.#resize.observe(this.#chart);
    this.#fit();
  }

  /** The choice has changed: what was found is not of it. */
  stale(): void {
    this.#running?.abort();
    if (this.#shown) this.#say("The choice has changed: search again.");
    this.#shown = undefined;
    this.#chart.toggleAttribute("hidden", true);
    this.#keep.hidden = true;
    this.#result.replaceChildren();
  }

  close(): void {
    this.#running?.abort();
    this.#resize.disconnect();
  }

  /** Show the fields that the source has. */
  #fit(): void {
    const source = this.#source.value as Source;
    for (const [name, field] of Object.entries(this.#fields)) field.hidden = name === "goal" ? source === "sample" : name === "problems" ? source !== "sample" : name !== source;
  }

  #say(text: string): void {
    this.#said.textContent = text;
  }

  #draw(): void {
    this.#chart.toggleAttribute("hidden", this.#shown === undefined);
    if (this.#shown) drawTrials(this.#chart, this.#shown);
  }

  async #search(): Promise<void> {
    const source = this.#source.value as Source;
    const running = (this.#running = new AbortController());
    const { signal } = running;
    const goal = source === "sample" ? "min" : (this.#goal.value as "min" | "max");
    const budget = this.#budget.valueAsNumber;
    const wrong = [this.#budget, this.#seed].find(({ valueAsNumber }) => !Number.isFinite(valueAsNumber));
    for (const input of [this.#budget, this.#seed]) input.setAttribute("aria-invalid", String(input === wrong));
    if (wrong) {
      this.#problem.replaceChildren(...problem(noNumber(wrong)));
      this.#problem.hidden = false;
      return;
    }
    const { goal: metricGoal, ...options } = this.options();
    const wanted = { ...options, ...(metricGoal && { metricGoal }), goal, method: this.#method.value as Method, seed: this.#seed.valueAsNumber, signal };
    const module = source === "module" ? new ModuleEvaluator(this.#module.value) : undefined;
    const asked = Number(this.#problems.value);
    const of = JSON.stringify([source, goal, options, source === "sample" ? asked : this.#module.value]);
    if (this.#known?.of !== of) this.#known = { of, trials: [], names: [] };
    const memory = this.#known;
    this.#busy(true);
    this.#problem.hidden = true;
    this.#result.replaceChildren();
    this.#say("Beginning…");
    try {
      const bySample = (seed: number): Evaluate => async (files) => {
        const { loss, error } = await score(this.sample!.base, await adapterOf(files), asked, () => {}, signal, seed);
        return { score: loss, error };
      };
      const evaluate = source === "sample" ? bySample(SEARCHED) : (module?.evaluate ?? this.#byHand);
      memory.names = this.#names();
      const known = source === "table" ? [...readTrials(this.#table.value, memory.names.length), ...memory.trials] : memory.trials;
      const found = await search(this.run, {
        ...wanted,
        evaluate,
        budget,
        // scores by hand need not be given one after the other
        workers: source === "module" ? 1 : source === "table" ? 8 : Math.min(Math.max((navigator.hardwareConcurrency || 2) - 1, 1), 4),
        known,
        ...(source === "sample" && { holdout: bySample(SEED) }),
        onTrial: (trials, best, budget) => {
          if (signal.aborted) return;
          memory.trials = trials.filter(({ score }) => score !== undefined);
          this.#shown = { trials, goal, budget, best: best?.number };
          this.#draw();
          const failed = trials.filter((trial) => trial.failed !== undefined);
          const last = failed.at(-1)?.failed;
          const isOver = trials.length === budget && source === "sample";
          this.#say([`${trials.length} of ${budget} trials`, best && `the best ${short(best.score!)}`, last && `${failed.length} failed, the last as ${last}`, isOver && "now on problems that the search has not seen…"].filter(Boolean).join("; "));
        },
      });
      this.#tell(found);
    } catch (error) {
      if (signal.aborted) {
        if (this.#shown) this.#say("Stopped. Search again goes on from these trials.");
        else this.#say("Stopped.");
      } else {
        this.#problem.replaceChildren(...problem(error));
        this.#problem.hidden = false;
        this.#say("");
      }
    } finally {
      module?.close();
      this.#asked.replaceChildren();
      this.#keep.hidden = this.#shown === undefined || memory.trials.length === 0;
      if (this.#running === running) this.#running = undefined;
      this.#busy(false);
    }
  }

  #busy(is: boolean): void {
    this.#go.disabled = is;
    this.#stop.hidden = !is;
    this.element.setAttribute("aria-busy", String(is));
    if (is) this.#stop.focus({ preventScroll: true });
    else if (document.activeElement === document.body) this.#go.focus({ preventScroll: true });
  }

  /** The chosen checkpoints, oldest first. */
  #names(): string[] {
    return weigh(this.run, this.options()).inputs.map(({ name }) => name);
  }

  /** A row for each candidate that waits for its score. */
  readonly #byHand: Evaluate = (files: MergedFile[], { number, weights, signal }: Candidate): Promise<number | Score> => {
    const id = `score-${number}`;
    const input = h("input", { id, type: "text", inputmode: "decimal", size: 9 });
    const form = h("form", { class: "row" },
      h("button", { type: "button", class: "link", click: () => files.forEach(download) }, `Save trial ${number}`),
      h("label", { for: id }, "score"), input, h("button", { class: "small" }, "Enter"),
      h("code", {}, weights.map((weight) => weight.toFixed(3)).join(" ")));
    const row = h("li", {}, form);
    this.#asked.append(row);
    return new Promise((resolve, reject) => {
      signal?.addEventListener("abort", () => reject(new Error("stopped")), { once: true });
      form.addEventListener("submit", (event) => {
        event.preventDefault();
        const score = Number(input.value.trim().replace(",", "."));
        const isWrong = input.value.trim() === "" || !Number.isFinite(score);
        input.setAttribute("aria-invalid", String(isWrong));
        if (isWrong) return;
        row.remove();
        this.#asked.querySelector("input")?.focus();
        resolve(score);
      });
    });
  };

  #saveTrials(): void {
    const { trials, names } = this.#known!;
    download({ name: "trials.csv", size: 0, blob: new Blob([writeTrials(trials, names)], { type: "text/csv" }) });
  }

  #tell({ winner, trials, compared, doubts, merged, reason, goal }: Searched): void {
    const isHeld = compared.some(({ holdout }) => holdout !== undefined);
    this.#say(`${trials.length} trials: trial ${winner.number} (${winner.by}) scores ${short(winner.score!)}.`);
    const number = (value: number | undefined) => h("td", { class: "number" }, value === undefined ? "–" : value.toPrecision(5));
    this.#result.replaceChildren(
      h("table", { class: "scores" },
        h("caption", { class: "unseen" }, "The winner and what it is compared with"),
        h("thead", {}, h("tr", {}, ...["", `score (${goal === "min" ? "lower" : "higher"} is better)`, ...(isHeld ? ["on unseen problems"] : []), "trial"].map((title, i) => (title ? h("th", { scope: "col", class: i > 0 ? "number" : "" }, title) : h("td", {}))))),
        h("tbody", {}, ...compared.map(({ name, score, holdout, trial }) =>
          h("tr", {}, h("th", { scope: "row" }, name === "uniform" ? "plain mean" : name === "metric" ? "the weights above" : name), number(score), ...(isHeld ? [number(holdout)] : []), h("td", { class: "number" }, String(trial)))))),
      h("p", { class: "hint" }, "The winner weighs ", ...this.#names().flatMap((name, i) => [i > 0 ? ", " : "", `${name.split("/").at(-1)} ${winner.weights[i]!.toFixed(4)}`]), "."),
      ...(reason ? [h("p", { class: "hint" }, `${reason[0]!.toUpperCase()}${reason.slice(1)}.`)] : []),
      ...(doubts.length > 0 ? [h("ul", { class: "notes", "aria-label": "Be careful" }, ...doubts.map((doubt) => h("li", {}, `Careful: ${spoken(doubt.replace(/; score more problems.*/, ""))}.`)))] : []),
      h("div", { class: "row" },
        ...saveButtons(merged.files, (text) => this.#say(text), "search-save", ["Save the winner as a folder…", "Save all files of the winner"])));
  }
}
