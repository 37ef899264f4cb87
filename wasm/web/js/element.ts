/**
 * `<mwa-merge>`: a small merger to put on any page. Import this module; then
 *
 * ```html
 * <mwa-merge metric="eval_loss" penalty="0.8"></mwa-merge>
 * ```
 *
 * Attributes are the options of `merge` with `-` between their words: `last`, `metric`, `goal`, `penalty`, `space`, `drop-bad`, … After
 * a merge it offers the files and fires `merged` (a `CustomEvent` whose detail is what `merge` returned). Style it by
 * `::part(button)`, `::part(status)`.
 *
 * Where a page scores merges itself, the element searches for the best weights and offers the winner, after an event `searched` (whose detail is
 * what `search` returned): `element.search = { evaluate: async (files) => loss(await load(files)), goal: "min", budget: 30 }`.
 *
 * It speaks the language that `lang` says, of itself or around it, if `MwaMerge.texts` has it; English is there, and a page adds others, or its
 * own words, at any time: `MwaMerge.texts.de = { drop: "Ordner hierher ziehen.", choose: "Ordner wählen…" }`. What a language lacks is said in
 * English, and so are errors.
 *
 * @module
 */
/// <reference lib="dom" preserve="true" />
import { dropped } from "./dropped.js";
import { merge, type Merged, type MergeOptions } from "./merge.js";
import { openRun, type Run } from "./run.js";
import { search, type SearchOptions } from "./search.js";
import { MergeError } from "./error.js";
import { nearest } from "./near.js";
import { attributes, optionOf } from "./speech.js";

const STYLE = `
  :host { display: block; border: 2px dashed currentColor; border-radius: 10px; padding: 1rem; font: inherit; }
  :host([hidden]) { display: none; }
  p { margin: 0 0 .6rem; }
  button { font: inherit; margin: 0 .5rem .5rem 0; padding: .4rem .9rem; cursor: pointer; }
  progress { width: 100%; }
  [hidden] { display: none; }
`;

/** What the element says; `{…}` stands for what is known then. */
export interface Texts {
  drop: string;
  choose: string;
  cancel: string;
  /** `{device}` */
  merging: string;
  /** `{count}`, `{seconds}` */
  merged: string;
  /** `{trial}`, `{budget}`, `{score}` */
  searching: string;
}

const ENGLISH: Texts = {
  drop: "Drop a LoRA run folder here. Nothing is uploaded.",
  choose: "Choose a folder…",
  cancel: "Cancel",
  merging: "Merging on {device}…",
  merged: "Merged {count} checkpoints in {seconds} s.",
  searching: "Trial {trial} of {budget}; the best scores {score}.",
};

declare global {
  interface HTMLElementTagNameMap {
    "mwa-merge": MwaMerge;
  }
}

/** The elements in the page. */
const present = new Set<MwaMerge>();
/** What HTML and its frameworks put on any element. */
const ANYONES = /^(?:class|style|is|role|xmlns|lang|data|aria|on\w+|item\w+|[vx]|ng)$|^(?:data|aria|[vx]|ng)-|[:@.#_$()[\]]/;

/** The element; `<mwa-merge>` once this module is loaded. */
export class MwaMerge extends HTMLElement {
  static readonly observedAttributes = ["lang"];

  /** What it says, by language. What is put here is shown at once. */
  static readonly texts: Record<string, Partial<Texts>> = new Proxy({ en: ENGLISH } as Record<string, Partial<Texts>>, {
    set(texts, lang, said) {
      const isSet = Reflect.set(texts, lang, said);
      for (const element of present) element.#label();
      return isSet;
    },
  });

  /** Search by this score instead of merging once; its other fields are what `search` takes beside the element's attributes. */
  search: Pick<SearchOptions, "evaluate" | "goal"> & Partial<SearchOptions> | undefined;

  readonly #status = make("p", { part: "status", role: "status" });
  readonly #picker = make("input", { type: "file", webkitdirectory: "", multiple: "", hidden: "" });
  readonly #button = make("button", { type: "button", part: "button" });
  readonly #cancel = make("button", { type: "button", part: "button", hidden: "" });
  readonly #bar = make("progress", { part: "progress", max: "1", value: "0", "aria-label": "Merge", hidden: "" });
  readonly #files = make("div", { part: "files" });
  #running: AbortController | undefined;
  /** Whether it waits for files, and has said nothing else. */
  #isFresh = true;
  /** Attributes that the console was told of. */
  readonly #told = new Set<string>();

  constructor() {
    super();
    const root = this.attachShadow({ mode: "open" });
    const sheet = new CSSStyleSheet();
    sheet.replaceSync(STYLE);
    root.adoptedStyleSheets = [sheet];
    root.append(this.#status, this.#button, this.#cancel, this.#bar, this.#files, this.#picker);
    this.#button.addEventListener("click", () => this.#picker.click());
    this.#cancel.addEventListener("click", () => this.#running?.abort());
    this.#picker.addEventListener("change", () => void this.merge([...(this.#picker.files ?? [])]));
    this.addEventListener("dragover", (event) => event.preventDefault());
    this.addEventListener("drop", (event) => {
      event.preventDefault();
      if (event.dataTransfer) void dropped(event.dataTransfer.items).then((inputs) => this.merge(inputs));
    });
  }

  connectedCallback(): void {
    present.add(this);
    this.#label();
    this.#warn();
  }

  disconnectedCallback(): void {
    present.delete(this);
    this.#running?.abort();
  }

  attributeChangedCallback(): void {
    if (this.isConnected) this.#label();
  }

  #label(): void {
    if (this.#isFresh) this.#status.textContent = this.#say("drop");
    this.#button.textContent = this.#say("choose");
    this.#cancel.textContent = this.#say("cancel");
  }

  /** Tell the console of attributes that are neither options nor HTML's. */
  #warn(): void {
    for (const { name } of this.attributes) {
      if (this.#told.has(name) || optionOf(name, "") || ANYONES.test(name) || properties(this).has(name)) continue;
      this.#told.add(name);
      const near = nearest(name, attributes());
      console.warn(`<mwa-merge>: there is no option "${name}"${near ? `; did you mean ${near}?` : ""}`);
    }
  }

  /** Merge these files with the element's options, and offer the result. */
  async merge(inputs: Parameters<typeof openRun>[0]): Promise<Merged | undefined> {
    const { signal } = (this.#running = new AbortController());
    this.#isFresh = false;
    this.#files.replaceChildren();
    this.#busy(true);
    this.#warn();
    try {
      const options = this.#options();
      const run = await openRun(inputs, { signal });
      const onProgress: MergeOptions["onProgress"] = ({ done, total, device }) => {
        this.#bar.value = done / Math.max(total, 1);
        this.#status.textContent = this.#say("merging", { device });
      };
      const merged = this.search ? await this.#search(run, this.search, signal) : await merge(run, { ...options, signal, onProgress });
      this.#status.textContent = this.#say("merged", { count: `${merged.report.inputs.length}`, seconds: merged.seconds.toFixed(1) });
      this.#files.replaceChildren(...merged.files.map(({ name, blob }) => offer(name, blob!)));
      this.dispatchEvent(new CustomEvent("merged", { detail: merged }));
      return merged;
    } catch (error) {
      const { message, help } = error as { message: string; help?: string };
      this.#status.textContent = help ? `${message} (${help})` : message;
      return undefined;
    } finally {
      this.#busy(false);
    }
  }

  async #search(run: Run, wanted: NonNullable<MwaMerge["search"]>, signal: AbortSignal): Promise<Merged> {
    // in a search a method and questions are those of the score
    const { goal: metricGoal, method: _, questions: __, ...options } = this.#options();
    const onTrial: SearchOptions["onTrial"] = (trials, best, budget) => {
      this.#bar.value = trials.length / budget;
      this.#status.textContent = this.#say("searching", { trial: `${trials.length}`, budget: `${budget}`, score: best?.score?.toPrecision(4) ?? "–" });
      wanted.onTrial?.(trials, best, budget);
    };
    const found = await search(run, { ...options, ...(metricGoal && { metricGoal }), ...wanted, signal, onTrial });
    this.dispatchEvent(new CustomEvent("searched", { detail: found }));
    return found.merged;
  }

  #busy(is: boolean): void {
    this.#button.hidden = is;
    this.#cancel.hidden = this.#bar.hidden = !is;
  }

  /** A text in the language of the element. */
  #say(text: keyof Texts, facts: Record<string, string> = {}): string {
    const lang = (this.closest<HTMLElement>("[lang]")?.lang ?? "en").toLowerCase();
    const said = MwaMerge.texts[lang]?.[text] ?? MwaMerge.texts[lang.split("-")[0]!]?.[text] ?? ENGLISH[text];
    return said.replace(/\{(\w+)\}/g, (whole, name: string) => facts[name] ?? whole);
  }

  #options(): MergeOptions {
    const given = [...this.attributes].flatMap(({ name, value }) => {
      const option = optionOf(name, value);
      if (option && [option[1]].flat().some((number) => Number.isNaN(number))) {
        throw new MergeError("usage", `${name}="${value}" is not a number`, `give the attribute ${name} a number, or leave it out`);
      }
      return option ? [option] : [];
    });
    return Object.fromEntries(given) as MergeOptions;
  }
}

/** What every element has, by the attributes of it. */
function properties(element: HTMLElement): Set<string> {
  const names = new Set<string>();
  for (const name in HTMLElement.prototype) if (name in element) names.add(name.toLowerCase());
  return names;
}

function make<K extends keyof HTMLElementTagNameMap>(tag: K, attributes: Record<string, string>, text = ""): HTMLElementTagNameMap[K] {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.textContent = text;
  return element;
}

function offer(name: string, blob: Blob): HTMLElement {
  const button = make("button", { type: "button", part: "button" }, name);
  button.addEventListener("click", () => {
    const url = URL.createObjectURL(blob);
    Object.assign(document.createElement("a"), { href: url, download: name }).click();
    setTimeout(() => URL.revokeObjectURL(url), 60_000);
  });
  return button;
}

customElements.define("mwa-merge", MwaMerge);
