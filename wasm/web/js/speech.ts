/** Options in messages as JavaScript writes them: the core's own words are those of the command line. */

/** What the values of options are. */
const KINDS: Record<string, "switch" | "number" | "numbers" | "word" | "other"> = {
  // made from core/src/options/mod.rs
  last: "number",
  every: "number",
  steps: "other",
  top: "number",
  select: "word",
  adapter: "word",
  weightsKey: "word",
  dropBad: "switch",
  metric: "word",
  metricsFile: "other",
  metricsFrom: "word",
  goal: "word",
  combine: "word",
  questions: "number",
  smooth: "number",
  metricTolerance: "number",
  strictMetrics: "switch",
  method: "word",
  scheme: "word",
  penalty: "number",
  outliers: "number",
  scale: "number",
  density: "number",
  densityPer: "word",
  maskLambda: "number",
  agree: "number",
  moments: "other",
  power: "number",
  epsilon: "number",
  normalise: "word",
  subspace: "number",
  curve: "word",
  floor: "number",
  positions: "word",
  correctForLr: "switch",
  emaDecay: "number",
  emaPer: "word",
  runWeights: "numbers",
  weightsFile: "other",
  weights: "numbers",
  space: "word",
  rank: "other",
  energy: "number",
  strict: "switch",
  residual: "word",
  allowCrossRun: "switch",
  dtype: "word",
  format: "word",
  shardSize: "word",
  base: "word",
  model: "word",
  allowNonFinite: "switch",
  rewrite: "switch",
  force: "switch",
  sha256: "switch",
  threads: "number",
  memory: "number",
  device: "other",
  // end of what is made
};

/** Where a whole command line begins. */
const COMMAND = /\bmwa (?:merge|finish|search|weights|inspect|convert|moments|verify|aggregate|recover|apply|extract|masks|devices|man) /;

/** How options are called; the package's command line keeps its flags. */
export const speech = { flags: false };

/** `--drop-bad` as `dropBad: true`, `--metric loss` as `metric: "loss"`; whole command lines stay as they are. */
export function spoken(text: string): string {
  if (speech.flags) return text;
  text = text.replace(/\b(option `?)?([a-z]+(?:_[a-z0-9]+)+)\b/g, (whole, before: string | undefined, name: string) => (before || camel(name) in KINDS ? `${before ?? ""}${camel(name)}` : whole));
  const said = (name: string, value?: string | number | true) => `${name}${value === undefined ? "" : `: ${typeof value === "string" ? JSON.stringify(value) : value}`}`;
  const end = text.search(COMMAND);
  const [before, command] = end < 0 ? [text, ""] : [text.slice(0, end), text.slice(end)];
  // a word after a flag may be its value; a sentence's full stop or comma is not of it
  const told = before.replace(/--([a-z][a-z0-9-]*[a-z0-9])(?: ([^\s,;:?()]*[^\s,;:?().]))?/g, (whole, flag: string, word?: string) => {
    const name = camel(flag);
    const kind = KINDS[name];
    const rest = word === undefined ? "" : ` ${word}`;
    if (!kind) return whole;
    if (kind === "switch") return said(name, true) + rest;
    if (kind === "number" && word !== undefined && /^[\d.]+$/.test(word)) return said(name, Number(word));
    if (kind === "word" && word !== undefined) return said(name, word);
    return said(name) + rest;
  });
  return told + command;
}

/** `drop-bad` as `dropBad`. */
function camel(name: string): string {
  return name.replace(/[-_](.)/g, (_, letter: string) => letter.toUpperCase());
}

/** The attributes in HTML that are options. */
export const attributes = () => Object.keys(KINDS).map((name) => name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`));

/** An option by its attribute in HTML, such as `drop-bad`, with NaN for what is no number; undefined for what is none. */
export function optionOf(attribute: string, value: string): [name: string, value: unknown] | undefined {
  const name = camel(attribute);
  const kind = KINDS[name];
  if (!kind) return undefined;
  if (kind === "switch") return [name, value !== "false"];
  const number = (text: string) => (text.trim() === "" ? NaN : Number(text));
  const isNumber = kind === "number" || (name === "rank" && /^\d+$/.test(value));
  if (isNumber) return [name, number(value)];
  if (name === "steps") return [name, value.split("..").map((step) => (step === "" ? null : number(step)))];
  if (kind === "numbers") return [name, value.split(",").map(number)];
  return [name, value];
}
