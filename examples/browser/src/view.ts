/** One opened run: its checkpoints and weights, live; what would be written; the parts that follow. */
import { MergeError, preview, weigh, type MergeOptions, type Readings, type Run, type WeighOptions, type Weighing } from "mwa-merge";
import { draw, type ChartData } from "./chart";
import { Checkpoints } from "./checkpoints";
import { ComparePanel } from "./compare-panel";
import { h, problem, s, spoken } from "./dom";
import { MergePanel } from "./merge-panel";
import { ScorePanel } from "./score-panel";
import type { Sample } from "./sample";

const SCHEMES: [NonNullable<WeighOptions["scheme"]>, string][] = [
  ["linear", "linear: 1 − p·badness"],
  ["exponential", "exponential: exp(−p·badness)"],
  ["power", "power: (best / metric)^p"],
  ["rank", "rank: (1 − p)^rank"],
  ["uniform", "uniform: the plain mean"],
];

/** The largest penalty that the slider offers. */
const REACH: Record<string, number> = { linear: 1, rank: 0.99, exponential: 8, power: 8, uniform: 1 };

export class RunView {
  readonly element: HTMLElement;
  readonly #chart = s("svg", { class: "chart", role: "img" }) as SVGSVGElement;
  readonly #metric = h("select", { id: "metric", change: () => this.#update() });
  readonly #goal = h("select", { id: "goal", change: () => this.#update() }, h("option", { value: "" }, "choose…"), h("option", { value: "min" }, "lower is better"), h("option", { value: "max" }, "higher is better"));
  readonly #goalField = field("Better", "goal", this.#goal);
  readonly #scheme = h("select", { id: "scheme", change: () => this.#rescale() }, ...SCHEMES.map(([value, label]) => h("option", { value }, label)));
  readonly #slider = h("input", { id: "penalty", type: "range", min: 0, max: 1, step: 0.01, value: 0.8, input: () => this.#slide() });
  readonly #number = h("input", { id: "penalty-number", type: "number", "aria-label": "Penalty as a number", min: 0, max: 1, step: 0.01, value: 0.8, input: () => this.#type() });
  readonly #title = h("h2", { id: "weights-title", tabindex: -1 }, "Checkpoints and weights");
  readonly #notes = h("ul", { class: "notes", "aria-label": "Notes" });
  readonly #error = h("div", { class: "problem", role: "alert", hidden: true });
  readonly #summary = h("p", { class: "summary", role: "status" });
  readonly #checkpoints: Checkpoints;
  readonly #merge: MergePanel;
  readonly #compare: ComparePanel;
  readonly #score: ScorePanel | undefined;
  readonly #resize = new ResizeObserver(() => this.#draw());
  #data: ChartData = { metric: "", curves: [], marks: [] };

  constructor(private readonly run: Run, private readonly table: string | undefined, sample: Sample | undefined) {
    this.#checkpoints = new Checkpoints(run, () => this.#update());
    this.#compare = new ComparePanel(run, () => this.options());
    this.#score = sample && new ScorePanel(run, sample, () => this.options());
    this.#merge = new MergePanel(run, () => this.options(), (merged) => this.#score?.offer(merged));
    this.#merge.element.addEventListener("input", () => this.#update());
    for (const { name, covered } of run.metrics) {
      this.#metric.append(h("option", { value: name }, covered < run.checkpoints.length ? `${name} (${covered} of ${run.checkpoints.length})` : name));
    }
    this.#metric.append(h("option", { value: "step" }, "step (later is better)"));
    // files without a step have no metric in any log
    if (run.metrics.length === 0 && run.checkpoints.some(({ step }) => step === null)) this.#metric.prepend(h("option", { value: "" }, "none"));
    if (table) this.#metric.prepend(h("option", { value: "" }, "the table you gave"));
    this.element = h("div", { class: "run" },
      h("section", { id: "work", "aria-labelledby": "weights-title" },
        h("div", { id: "choice" },
          this.#title,
          h("div", { class: "controls" },
            field("Metric", "metric", this.#metric),
            this.#goalField,
            field("Scheme", "scheme", this.#scheme),
            h("div", { class: "field grow" }, h("label", { for: "penalty" }, "Penalty for worse checkpoints"), h("div", { class: "slider" }, this.#slider, this.#number))),
          this.#error, this.#chart, this.#summary),
        this.#checkpoints.element,
        this.#notes),
      this.#merge.element,
      ...(this.#score ? [this.#score.element] : []),
      this.#compare.element,
      this.#merge.bar);
  }

  /** Begin, once the element is in the page. */
  start(): void {
    try {
      this.#metric.value = this.table ? "" : this.run.readings().metric;
    } catch {
      this.#metric.selectedIndex = 0;
    }
    this.#resize.observe(this.#chart);
    this.#update();
    this.#title.focus({ preventScroll: true });
  }

  close(): void {
    this.#resize.disconnect();
    this.#merge.close();
    this.#compare.close();
    this.#score?.close();
  }

  /** What the controls say, as options of the package. */
  options(): MergeOptions {
    const metric = this.#metric.value;
    const picked = this.#checkpoints.picked();
    const options: MergeOptions = {
      ...(picked && { checkpoints: picked }),
      scheme: this.#scheme.value as NonNullable<WeighOptions["scheme"]>,
      penalty: Number.isFinite(this.#number.valueAsNumber) ? this.#number.valueAsNumber : this.#slider.valueAsNumber,
    };
    if (metric) options.metric = metric;
    if (!this.#goalField.hidden && this.#goal.value) options.goal = this.#goal.value as "min" | "max";
    if (this.table && !metric) options.metricsFile = this.table;
    return options;
  }

  #slide(): void {
    this.#number.value = this.#slider.value;
    this.#update();
  }

  #type(): void {
    if (!Number.isFinite(this.#number.valueAsNumber)) return;
    // the slider stays within its reach; what lies beyond is the core's to judge
    this.#slider.value = this.#number.value;
    this.#update();
  }

  #rescale(): void {
    const max = REACH[this.#scheme.value]!;
    this.#slider.max = this.#number.max = String(max);
    this.#slider.value = String(Math.min(this.#slider.valueAsNumber, max));
    this.#number.value = this.#slider.value;
    this.#slider.disabled = this.#number.disabled = this.#scheme.value === "uniform";
    this.#update();
  }

  #update(): void {
    const known = this.run.metrics.find(({ name }) => name === this.#metric.value);
    this.#goalField.hidden = !(known && known.goal === null);
    const options = this.options();
    const { checkpoints, penalty, scheme, ...reading } = options;
    const isNone = checkpoints?.length === 0;
    let readings: Readings | undefined;
    let weighing: Weighing | undefined;
    let failure: unknown;
    try {
      readings = this.run.readings(reading);
    } catch (error) {
      failure = error;
    }
    try {
      if (!isNone) {
        weighing = weigh(this.run, options);
        // a file alone weighs 1, whether or not it has a metric
        failure = undefined;
      }
    } catch (error) {
      failure = error;
    }
    const isWrong = failure instanceof MergeError && failure.kind === "weights" && failure.message.startsWith("penalty");
    this.#number.setAttribute("aria-invalid", String(isWrong));
    this.#error.hidden = failure === undefined;
    if (failure !== undefined) this.#error.replaceChildren(...problem(failure));
    if (weighing) this.#preview(options);
    else this.#merge.refuse(isNone ? "Select the checkpoints to merge." : "It cannot be weighed so; the reason stands above the curve.");
    const notes = new Set([...(weighing?.notes ?? this.run.notes)]);
    for (const { text } of weighing?.advice ?? []) notes.add(text);
    this.#notes.replaceChildren(...[...notes].map((note) => h("li", {}, spoken(note))));
    this.#summary.textContent = weighing ? `${weighing.inputs.length} of ${this.run.checkpoints.length} checkpoints, ${weighing.description}. ${this.#why(weighing)}` : isNone ? "No checkpoint is selected." : "";
    this.#checkpoints.show(readings, weighing);
    const metric = readings?.metric ?? this.#metric.value;
    const value = new Map(readings?.readings.map((reading) => [reading.checkpoint, reading.value]));
    const weight = new Map(weighing?.inputs.map((input) => [input.name, input.weight]));
    this.#data = {
      metric,
      curves: metric === "step" || this.table ? [] : this.run.curves(metric),
      marks: this.run.checkpoints.flatMap(({ name, label, step }) => (step === null ? [] : [{ label, step, value: value.get(name), weight: weight.get(name) }])),
    };
    this.#draw();
    this.#compare.stale();
    this.#score?.stale();
  }

  /** Whether it can be merged, and what will be written. */
  #preview(options: MergeOptions): void {
    try {
      this.#merge.show(preview(this.run, { ...options, ...this.#merge.options() }));
    } catch (error) {
      this.#merge.refuse("It cannot be merged so; the reason stands under “How it is merged”.", error);
    }
  }

  /** Why the rule took these, as long as it decides. */
  #why({ selected }: Weighing): string {
    return this.#checkpoints.picked() ? "" : `Chosen: ${selected.line}.`;
  }

  #draw(): void {
    this.#chart.toggleAttribute("hidden", this.#data.marks.length === 0);
    if (this.#data.marks.length > 0) draw(this.#chart, this.#data);
  }
}

function field(label: string, id: string, control: HTMLElement): HTMLElement {
  return h("div", { class: "field" }, h("label", { for: id }, label), control);
}
