/** The metric over the steps of the run, and under it the weight of each chosen checkpoint, on one axis of steps. */
import type { Curve } from "mwa-merge";
import { s, short } from "./dom";

/** A checkpoint in the chart. */
export interface Mark {
  label: string;
  step: number;
  value: number | undefined;
  weight: number | undefined;
}

export interface ChartData {
  metric: string;
  curves: Curve[];
  marks: Mark[];
}

/** In the size of the text, which grows on large screens. */
const SIZES = [12, 190, 30, 84, 30, 60, 22];

/** Draw into `svg`, as wide as its place. */
export function draw(svg: SVGSVGElement, { metric, curves, marks }: ChartData): void {
  const unit = parseFloat(getComputedStyle(document.documentElement).fontSize) / 16;
  const [TOP, CURVE, GAP, BARS, BOTTOM, LEFT, RIGHT] = SIZES.map((size) => size * unit) as [number, number, number, number, number, number, number];
  const width = Math.max(svg.clientWidth, 280);
  const height = TOP + CURVE + GAP + BARS + BOTTOM;
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.setAttribute("height", String(height));
  svg.setAttribute("aria-label", describe(metric, marks));

  const steps = [...curves.flatMap(({ points }) => points.map(([step]) => step)), ...marks.map(({ step }) => step)];
  const values = [...curves.flatMap(({ points }) => points.map(([, value]) => value)), ...marks.map(({ value }) => value ?? null)];
  const finite = values.filter((value): value is number => value !== null);
  const x = scale(steps, LEFT, width - RIGHT);
  const y = scale(trimmed(finite), TOP + CURVE, TOP);
  const floor = TOP + CURVE + GAP + BARS;
  const largest = Math.max(...marks.map(({ weight }) => Math.abs(weight || 0)), 1e-9);

  const parts: SVGElement[] = [];
  for (const tick of finite.length > 0 ? ticks(y.low, y.high, 6) : []) {
    parts.push(s("line", { class: "grid", x1: LEFT, x2: width - RIGHT, y1: y.at(tick), y2: y.at(tick) }));
    parts.push(s("text", { class: "tick", x: LEFT - 8, y: y.at(tick) + 4, "text-anchor": "end" }, short(tick)));
  }
  for (const tick of ticks(x.low, x.high, width < 520 * unit ? 3 : 7)) {
    parts.push(s("text", { class: "tick", x: x.at(tick), y: floor + 18 * unit, "text-anchor": "middle" }, short(tick)));
  }
  parts.push(s("line", { class: "axis", x1: LEFT, x2: width - RIGHT, y1: floor, y2: floor }));
  parts.push(s("text", { class: "tick", x: LEFT - 8, y: TOP + CURVE + GAP + 10 * unit, "text-anchor": "end" }, "weight"));
  for (const { points } of curves) {
    parts.push(s("path", { class: "curve", d: path(points, x.at, y.at) }));
  }
  const bar = Math.min(26 * unit, Math.max(3, ((width - LEFT - RIGHT) / Math.max(marks.length, 8)) * 0.32));
  for (const { label, step, value, weight } of marks) {
    const isKnown = weight !== undefined && !Number.isNaN(weight);
    const told = `${label}: ${value === undefined ? "no value" : `${metric} ${short(value)}`}, weight ${isKnown ? weight.toFixed(4) : "–"}`;
    if (isKnown) {
      const tall = Math.max((Math.abs(weight) / largest) * (BARS - 4), weight === 0 ? 0 : 1.5);
      parts.push(s("rect", { class: weight < 0 ? "bar negative" : "bar", x: x.at(step) - bar / 2, y: floor - tall, width: bar, height: tall, rx: Math.min(3, bar / 3) }, s("title", {}, told)));
    }
    if (value !== undefined) {
      parts.push(s("circle", { class: weight === undefined ? "mark" : "mark chosen", cx: x.at(step), cy: y.at(value), r: (weight === undefined ? 3.5 : 5) * unit }, s("title", {}, told)));
    }
  }
  svg.replaceChildren(...parts);
}

/** For those who cannot see it; the table beside it has every number. */
function describe(metric: string, marks: Mark[]): string {
  const chosen = marks.filter(({ weight }) => weight !== undefined);
  const top = chosen.reduce<Mark | undefined>((best, mark) => ((mark.weight ?? 0) > (best?.weight ?? -1) ? mark : best), undefined);
  const most = top?.weight ? `; ${top.label} weighs most, ${top.weight.toFixed(4)}` : "";
  return `${metric} over training steps, ${chosen.length} chosen checkpoints${most}. The table below has all numbers.`;
}

export function scale(values: number[], from: number, to: number) {
  let [low, high] = [Math.min(...values), Math.max(...values)];
  if (!(low < high)) [low, high] = Number.isFinite(low) ? [low - 1, low + 1] : [0, 1];
  return { low, high, at: (value: number) => from + ((Math.min(Math.max(value, low), high) - low) / (high - low)) * (to - from) };
}

/** The range that nearly all values lie in: a run's first losses would flatten all others. */
function trimmed(values: number[]): number[] {
  if (values.length < 20) return values;
  const sorted = values.toSorted((a, b) => a - b);
  const cut = sorted[Math.floor(sorted.length * 0.97)]!;
  return [sorted[0]!, cut];
}

export function ticks(low: number, high: number, wanted: number): number[] {
  const rough = (high - low) / wanted;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((n) => n * power).find((n) => n >= rough) ?? rough;
  const first = Math.ceil(low / step);
  return Array.from({ length: Math.floor(high / step) - first + 1 }, (_, i) => Number(((first + i) * step).toPrecision(12)));
}

/** A line with gaps where values are not finite. */
function path(points: Curve["points"], x: (step: number) => number, y: (value: number) => number): string {
  let pen = "M";
  let d = "";
  for (const [step, value] of points) {
    if (value === null) {
      pen = "M";
      continue;
    }
    d += `${pen}${x(step).toFixed(1)} ${y(value).toFixed(1)}`;
    pen = "L";
  }
  return d;
}
