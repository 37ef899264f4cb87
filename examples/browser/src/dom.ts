/** Make elements, and say numbers and errors in words. */
import { MergeError, spoken as optionsIn } from "mwa-merge";

type Child = Node | string | null | undefined;
type Attributes = Record<string, string | number | boolean | undefined | ((event: never) => void)>;

/** An HTML element; attributes whose value is a function are listeners. */
export function h<K extends keyof HTMLElementTagNameMap>(tag: K, attributes: Attributes = {}, ...children: Child[]): HTMLElementTagNameMap[K] {
  const element = document.createElement(tag);
  fill(element, attributes, children);
  return element;
}

/** An SVG element. */
export function s(tag: string, attributes: Attributes = {}, ...children: Child[]): SVGElement {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  fill(element, attributes, children);
  return element;
}

function fill(element: Element, attributes: Attributes, children: Child[]): void {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name, value as EventListener);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== undefined && value !== false) element.setAttribute(name, String(value));
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
}

/** The element with an id that index.html has. */
export function byId<T extends HTMLElement>(id: string): T {
  return document.getElementById(id) as T;
}

/** `237 kB`, `1.1 GB`. */
export function bytes(count: number): string {
  let value = count;
  for (const unit of ["B", "kB", "MB", "GB"]) {
    if (value < 999.5) return unit === "B" || value >= 99.95 ? `${value.toFixed(0)} ${unit}` : `${value.toFixed(1)} ${unit}`;
    value /= 1000;
  }
  return `${value.toFixed(1)} TB`;
}

/** Five significant digits. */
export function short(value: number): string {
  if (Number.isInteger(value)) return String(value);
  const size = Math.abs(value);
  return size >= 1e-3 && size < 1e6 ? String(Number(value.toPrecision(5))) : value.toExponential(3);
}

/** Numbers of one column with as many decimals each as tell its largest by five digits. */
export function column(values: number[]): (value: number) => string {
  const finite = values.filter(Number.isFinite);
  if (finite.every(Number.isInteger)) return String;
  const largest = Math.max(...finite.map(Math.abs));
  if (largest < 1e-3 || largest >= 1e6) return (value) => value.toExponential(3);
  const decimals = Math.min(Math.max(4 - Math.floor(Math.log10(largest)), 0), 8);
  return (value) => value.toFixed(decimals);
}

/** What the options of messages are called on this page. */
const CONTROLS: [RegExp, string | ((...found: never[]) => string)][] = [
  [/dropBad: true( does)?/g, "unticking them in the table"],
  [/space: "product"/g, "Average: Products B·A"],
  [/allowCrossRun: true/g, "Allow mixing runs"],
  [/scheme: "(\w+)"/g, "Scheme: $1"],
  [/dtype: "(\w+)"/g, "Number format: $1"],
  [/goal: "min"/g, "Better: lower"],
  [/goal: "max"/g, "Better: higher"],
  [/metric: "([^"]+)"/g, "Metric: $1"],
  [/\(metricsFile\)/g, "dropped together with the run, as .csv"],
  [/a table of metrics goes to metricsFile/g, "a table of metrics (.csv, .jsonl) is dropped together with the run, or after it"],
  [/metricsFile/g, "a table (.csv) dropped together with the run"],
  [/ or weights$/g, ""],
  [/choose space product too/g, "choose Average: Products B·A too"],
  [/select: "all"/g, "the button All"],
  [/last: (\d+)/g, "the last $1 ticked"],
  [/\(metric\)/g, "(Metric)"],
  [/option (penalty|rank|emaDecay|outliers|subspace):/g, (_, name: keyof typeof FIELDS) => `${FIELDS[name]}:`],
  [/(, or | or )only checkpoints that have this one \([^)]*\)/g, "$1untick those that lack it"],
];

/** What the fields for numbers are called. */
const FIELDS = { penalty: "Penalty", rank: "Rank", emaDecay: "Kept of itself", outliers: "Bad ones expected", subspace: "Directions kept" };

/** A message with the names of this page's controls. */
export function spoken(text: string): string {
  return CONTROLS.reduce((text, [option, control]) => text.replace(option, control as string), optionsIn(text));
}

/** What went wrong, and what to do. */
export function problem(error: unknown): (Node | string)[] {
  const message = error instanceof Error ? error.message : String(error);
  const help = error instanceof Error && "help" in error ? (error.help as string | undefined) : undefined;
  return [h("p", {}, spoken(message)), ...(help ? [h("p", { class: "hint" }, sentence(spoken(help)))] : [])];
}

/** A field for a number is empty, or holds something else. */
export function noNumber(input: HTMLInputElement): MergeError {
  const label = input.closest(".field")?.querySelector("label")?.textContent ?? input.ariaLabel;
  return new MergeError("usage", `“${label}” is not a number`, "write one");
}

/** With a capital letter and a full stop. */
export function sentence(text: string): string {
  return `${text[0]!.toUpperCase()}${text.slice(1)}${/[.?!]$/.test(text) ? "" : "."}`;
}
