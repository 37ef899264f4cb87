/** One opened run: its checkpoints and weights, live; what would be written; the parts that follow. */
import { MergeError, preview, weigh, type Merged, type MergeOptions, type Readings, type Run, type WeighOptions, type Weighing } from "mwa-merge";
import { draw, type ChartData } from "./chart";
import { Checkpoints } from "./checkpoints";
import { ComparePanel } from "./compare-panel";
import { h, noNumber, problem, s, spoken } from "./dom";
import { MergePanel } from "./merge-panel";
import { ScorePanel } from "./score-panel";
import { SearchPanel } from "./search-panel";
import type { Sample } from "./sample";

type Scheme = NonNullable<WeighOptions["scheme"]>;

/** The schemes by what they weigh by, with what they do. */
const SCHEMES: [string, [Scheme, string][]][] = [
  ["By the metric", [
    ["linear", "linear: 1 − p·badness"],
    ["exponential", "exponential: exp(−p·badness)"],
    ["power", "power: (best / metric)^p"],
    ["rank", "rank: (1 − p)^rank"],
  ]],
  ["By nothing", [["uniform", "uniform: the plain mean"]]],
  ["By the steps", [
    ["decay", "decay: as if the learning rate had fallen"],
    ["ema", "ema: a moving average"],
  ]],
  ["By the weights themselves", [
    ["geometric-median", "geometric-median: no bad one decides"],
    ["multi-krum", "multi-krum: those with near neighbours"],
    ["krum", "krum: the one among its neighbours"],
    ["flag", "flag: along what most have in common"],
  ]],
]; // prettier-ignore

/** The largest penalty that the slider offers; schemes that are not here take none. */
const REACH: Partial<Record<Scheme, number>> = { linear: 1, rank: 0.99, exponential: 8, power: 8 };

/** Schemes whose weights only a merge finds. */
const FROM_TENSORS: Scheme[] = ["geometric-median", "multi-krum", "krum", "flag"];

export class RunView {
  readonly element: HTMLElement;
  readonly #chart = s("svg", { class: "chart", role: "img" }) as SVGSVGElement;
  readonly #metric = h("select", { id: "metric", change: () => this.#choose() });
  /** Whether somebody chose the metric; until then the core does, and says why. */
  #isChosen = false;
  readonly #goal = h("select", { id: "goal", change: () => this.#update() }, h("option", { value: "" }, "choose…"), h("option", { value: "min" }, "lower is better"), h("option", { value: "max" }, "higher is better"));
  readonly #goalField = field("Better", "goal", this.#goal);
  readonly #scheme = h("select", { id: "scheme", change: () => this.#rescale() },
    ...SCHEMES.map(([label, schemes]) => h("optgroup", { label }, ...schemes.map(([value, label]) => h("option", { value }, label)))));
  readonly #slider = h("input", { id: "penalty", type: "range", min: 0, max: 1, step: 0.01, value: 0.8, input: () => this.#slide() });
  readonly #number = h("input", { id: "penalty-number", type: "number", "aria-label": "Penalty as a number", min: 0, max: 1, step: 0.01, value: 0.8, input: () => this.#type() });
  readonly #penalty = h("div", { class: "field grow" }, h("label", { for: "penalty" }, "Penalty for worse checkpoints"), h("div", { class: "slider" }, this.#slider, this.#number));
  readonly #curve = h("select", { id: "curve", change: () => this.#update() }, ...["linear", "cosine", "1-sqrt", "inverse", "exponential"].map((value) => h("option", { value }, value)));
  readonly #emaDecay = this.#count("ema-decay", 0.7, { min: 0, max: 0.99, step: 0.01 });
  readonly #outliers = this.#count("outliers", 1);
  readonly #subspace = this.#count("subspace", 1);
  /** What else a scheme takes. */
  readonly #settings: Partial<Record<Scheme, HTMLElement>> = {
    decay: field("How the rate would have fallen", "curve", this.#curve),
    ema: field("Kept of itself at each checkpoint", "ema-decay", this.#emaDecay),
    krum: field("Bad ones expected", "outliers", this.#outliers),
    flag: field("Directions kept", "subspace", this.#subspace),
  };
  readonly #title = h("h2", { id: "weights-title", tabindex: -1 }, "Checkpoints and weights");
  readonly #notes = h("ul", { class: "notes", "aria-label": "Notes" });
  readonly #error = h("div", { class: "problem", role: "alert", hidden: true });
  readonly #summary = h("p", { class: "summary", role: "status" });
  readonly #checkpoints: Checkpoints;
  readonly #merge: MergePanel;
  readonly #compare: ComparePanel;
  readonly #score: ScorePanel | undefined;
  readonly #search: SearchPanel;
  readonly #resize = new ResizeObserver(() => this.#draw());
  #readings: Readings | undefined;
  #data: ChartData = { metric: "", curves: [], marks: [] };

  constructor(private readonly run: Run, private readonly table: string | undefined, sample: Sample | undefined) {
    this.#checkpoints = new Checkpoints(run, () => this.#update());
    this.#compare = new ComparePanel(run, () => this.options());
    this.#score = sample && new ScorePanel(run, sample, () => this.options());
    this.#search = new SearchPanel(run, sample, () => ({ ...this.options(), ...this.#merge.options() }));
    this.#merge = new MergePanel(run, () => this.options(), (merged) => this.#merged(merged));
    this.#merge.element.addEventListener("input", () => this.#update());
    for (const { name, covered } of run.metrics) {
      this.#metric.append(h("option", { value: name }, covered < run.checkpoints.length ? `${name} (${covered} of ${run.checkpoints.length})` : name));
    }
    this.#metric.append(h("option", { value: "step" }, "step (later is better)"));
    // files without a step have no metric in any log
    if (run.metrics.length === 0 && run.checkpoints.some(({ step }) => step === null)) this.#metric.prepend(h("option", { value: "" }, "none"));
    if (table !== undefined) this.#metric.prepend(h("option", { value: "" }, "the table you gave"));
    this.element = h("div", { class: "run" },
      h("section", { id: "work", "aria-labelledby": "weights-title" },
        h("div", { id: "choice" },
          this.#title,
          h("div", { class: "controls" },
            field("Metric", "metric", this.#metric),
            this.#goalField,
            field("Scheme", "scheme", this.#scheme),
            this.#penalty,
            ...Object.values(this.#settings)),
          this.#error, this.#chart, this.#summary),
        this.#checkpoints.element,
        this.#notes),
      this.#merge.element,
      ...(this.#score ? [this.#score.element] : []),
      this.#search.element,
      this.#compare.element,
      this.#merge.bar);
  }

  /** Begin, once the element is in the page. */
  start(): void {
    try {
      this.#metric.value = this.table !== undefined ? "" : this.run.readings().metric;
    } catch {
      this.#metric.selectedIndex = 0;
    }
    this.#resize.observe(this.#chart);
    this.#rescale();
    this.#title.focus({ preventScroll: true });
  }

  close(): void {
    this.#resize.disconnect();
    this.#merge.close();
    this.#compare.close();
    this.#score?.close();
    this.#search.close();
  }

  /** What the controls say, as options of the package. */
  options(): MergeOptions {
    const metric = this.#metric.value;
    const picked = this.#checkpoints.picked();
    const scheme = this.#scheme.value as Scheme;
    const options: MergeOptions = { ...(picked && { checkpoints: picked }), scheme };
    if (scheme in REACH) options.penalty = this.#number.valueAsNumber;
    if (scheme === "decay") options.curve = this.#curve.value as NonNullable<MergeOptions["curve"]>;
    if (scheme === "ema") options.emaDecay = this.#emaDecay.valueAsNumber;
    if (scheme === "krum" || scheme === "multi-krum") options.outliers = this.#outliers.valueAsNumber;
    if (scheme === "flag") options.subspace = this.#subspace.valueAsNumber;
    if (scheme in REACH || scheme === "uniform") {
      if (metric && this.#isChosen) options.metric = metric;
      if (!this.#goalField.hidden && this.#goal.value) options.goal = this.#goal.value as "min" | "max";
      if (this.table !== undefined && !metric) options.metricsFile = this.table;
    }
    return options;
  }

  /** A field for a number. */
  #count(id: string, value: number, range = { min: 1, max: 99, step: 1 }): HTMLInputElement {
    return h("input", { id, type: "number", value, ...range, input: () => this.#update() });
  }

  #slide(): void {
    this.#number.value = this.#slider.value;
    this.#update();
  }

  #type(): void {
    // the slider stays within its reach; what lies beyond is the core's to judge
    if (Number.isFinite(this.#number.valueAsNumber)) this.#slider.value = this.#number.value;
    this.#update();
  }

  #choose(): void {
    this.#isChosen = true;
    this.#update();
  }

  /** The fields for numbers that the scheme has. */
  #numbers(): HTMLInputElement[] {
    return [this.#number, this.#emaDecay, this.#outliers, this.#subspace].filter((input) => !input.closest<HTMLElement>(".field")!.hidden);
  }

  #rescale(): void {
    const scheme = this.#scheme.value as Scheme;
    const max = REACH[scheme];
    this.#penalty.hidden = max === undefined;
    const shown = this.#settings[scheme === "multi-krum" ? "krum" : scheme];
    for (const setting of Object.values(this.#settings)) setting.hidden = setting !== shown;
    if (max !== undefined) {
      this.#slider.max = this.#number.max = String(max);
      this.#slider.value = String(Math.min(this.#slider.valueAsNumber, max));
      this.#number.value = this.#slider.value;
    }
    this.#update();
  }

  #update(): void {
    const known = this.run.metrics.find(({ name }) => name === this.#metric.value);
    this.#goalField.hidden = !(known && known.goal === null);
    const options = this.options();
    const { metric: by, goal, metricsFile } = options;
    const reading = { ...(by && { metric: by }), ...(goal && { goal }), ...(metricsFile && { metricsFile }) };
    const { checkpoints, scheme } = options;
    const isNone = checkpoints?.length === 0;
    let readings: Readings | undefined;
    let weighing: Weighing | undefined;
    let failure: unknown;
    try {
      readings = this.run.readings(reading);
    } catch (error) {
      failure = error;
    }
    const empty = this.#numbers().find(({ valueAsNumber }) => !Number.isFinite(valueAsNumber));
    try {
      if (empty) throw noNumber(empty);
      if (!isNone) {
        weighing = FROM_TENSORS.includes(scheme!) ? this.#unweighed(options) : weigh(this.run, options);
        // a file alone weighs 1, whether or not it has a metric
        failure = undefined;
      }
    } catch (error) {
      failure = error;
    }
    const said = failure instanceof MergeError && ["weights", "usage"].includes(failure.kind) ? failure.message.replace(/[A-Z_ ]/g, (letter) => `-${letter.toLowerCase().trim()}`) : "";
    for (const input of this.#numbers()) {
      const isWrong = input === empty || (!empty && new RegExp(`\\b${input.id.replace("-number", "")}\\b`).test(said));
      input.setAttribute("aria-invalid", String(isWrong));
    }
    this.#error.hidden = failure === undefined;
    if (failure !== undefined) this.#error.replaceChildren(...problem(failure));
    if (weighing) this.#preview(options);
    else this.#merge.refuse(isNone ? "Select the checkpoints to merge." : "It cannot be weighed so; the reason stands above the curve.");
    const notes = new Set([...(weighing?.notes ?? this.run.notes)]);
    for (const { text } of weighing?.advice ?? []) notes.add(text);
    this.#notes.replaceChildren(...[...notes].map((note) => h("li", {}, spoken(note))));
    this.#summary.textContent = weighing ? `${weighing.inputs.length} of ${this.run.checkpoints.length} checkpoints, ${weighing.description}. ${this.#why(weighing)}` : isNone ? "No checkpoint is selected." : "";
    this.#checkpoints.show(readings, weighing?.inputs);
    this.#readings = readings;
    const metric = readings?.metric ?? this.#metric.value;
    const value = new Map(readings?.readings.map((reading) => [reading.checkpoint, reading.value]));
    const weight = new Map(weighing?.inputs.map((input) => [input.name, input.weight]));
    this.#data = {
      metric,
      curves: metric === "step" || this.table !== undefined ? [] : this.run.curves(metric),
      marks: this.run.checkpoints.flatMap(({ name, label, step }) => (step === null ? [] : [{ label, step, value: value.get(name), weight: weight.get(name) }])),
    };
    this.#draw();
    this.#compare.stale();
    this.#score?.stale();
    this.#search.stale();
  }

  /** Which checkpoints are taken, before a merge finds what each counts. */
  #unweighed(options: MergeOptions): Weighing {
    const { inputs, weighting, selected, advice = [], notes } = preview(this.run, { ...options, ...this.#merge.options() }).report;
    const of = inputs.map(({ weight: _, ...input }) => ({ ...input, weight: NaN }));
    return { inputs: of, weighting, description: `${weighting.scheme}: the merge finds their weights`, selected: selected!, advice, notes };
  }

  /** There is a result, or none any more. */
  #merged(merged: Merged | undefined): void {
    this.#score?.offer(merged);
    if (!merged || !FROM_TENSORS.includes(this.#scheme.value as Scheme)) return;
    const { inputs } = merged.report;
    const weight = new Map(inputs.map((input) => [input.name, input.weight]));
    this.#checkpoints.show(this.#readings, inputs);
    for (const [i, { name, step }] of this.run.checkpoints.filter(({ step }) => step !== null).entries()) {
      const mark = this.#data.marks[i];
      if (mark && mark.step === step) mark.weight = weight.get(name);
    }
    this.#draw();
  }

  /** Whether it can be merged, and what will be written. */
  #preview(options: MergeOptions): void {
    try {
      this.#merge.check();
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
