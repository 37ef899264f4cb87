/** The trials of a search: their scores in the order they were tried, and a line along the best so far. */
import type { Trial } from "mwa-merge";
import { scale, ticks } from "./chart";
import { s, short } from "./dom";

export interface SearchChart {
  trials: Trial[];
  goal: "min" | "max";
  budget: number;
  /** The number of the winner. */
  best: number | undefined;
}

/** In the size of the text, which grows on large screens. */
const SIZES = [14, 230, 34, 60, 22];

/** Draw into `svg`, as wide as its place. */
export function drawTrials(svg: SVGSVGElement, { trials, goal, budget, best }: SearchChart): void {
  const unit = parseFloat(getComputedStyle(document.documentElement).fontSize) / 16;
  const [TOP, HEIGHT, BOTTOM, LEFT, RIGHT] = SIZES.map((size) => size * unit) as [number, number, number, number, number];
  const width = Math.max(svg.clientWidth, 280);
  const floor = TOP + HEIGHT;
  svg.setAttribute("viewBox", `0 0 ${width} ${floor + BOTTOM}`);
  svg.setAttribute("height", String(floor + BOTTOM));
  const scored = trials.filter((trial): trial is Trial & { score: number } => trial.score !== undefined);
  const winner = scored.find(({ number }) => number === best);
  svg.setAttribute("aria-label", `Scores of ${trials.length} trials${winner ? `; trial ${winner.number} is best, with ${short(winner.score)}` : ""}. The table below has what it is compared with.`);

  const x = scale([1, Math.max(budget, trials.length, 2)], LEFT, width - RIGHT);
  const range = near(scored.map(({ score }) => score), goal);
  const y = scale(range, floor - 8 * unit, TOP);
  const parts: SVGElement[] = [];
  for (const tick of scored.length > 0 ? ticks(y.low, y.high, 5) : []) {
    parts.push(s("line", { class: "grid", x1: LEFT, x2: width - RIGHT, y1: y.at(tick), y2: y.at(tick) }));
    parts.push(s("text", { class: "tick", x: LEFT - 8, y: y.at(tick) + 4, "text-anchor": "end" }, short(tick)));
  }
  for (const tick of ticks(x.low, x.high, width < 520 * unit ? 4 : 10).filter(Number.isInteger)) {
    parts.push(s("text", { class: "tick", x: x.at(tick), y: floor + 18 * unit, "text-anchor": "middle" }, String(tick)));
  }
  parts.push(s("text", { class: "tick", x: LEFT - 8, y: floor + 18 * unit, "text-anchor": "end" }, "trial"));
  parts.push(s("line", { class: "axis", x1: LEFT, x2: width - RIGHT, y1: floor, y2: floor }));
  const mean = scored.find(({ by }) => by === "uniform");
  if (mean) {
    const at = y.at(mean.score);
    parts.push(s("line", { class: "level", x1: LEFT, x2: width - RIGHT, y1: at, y2: at }));
    parts.push(s("text", { class: "tick", x: width - RIGHT, y: at < TOP + 20 * unit ? at + 15 * unit : at - 5 * unit, "text-anchor": "end" }, "plain mean"));
  }
  let so: number | undefined;
  let d = "";
  for (const { number, score } of scored) {
    if (so === undefined) d = `M${x.at(number)} ${y.at(score)}`;
    else if (goal === "min" ? score < so : score > so) d += `H${x.at(number)}V${y.at(score)}`;
    else continue;
    so = score;
  }
  if (d) parts.push(s("path", { class: "curve", d: `${d}H${x.at(trials.at(-1)!.number)}` }));
  for (const { number, by, score, failed } of trials) {
    const told = s("title", {}, score === undefined ? `trial ${number}, ${by}: ${failed}` : `trial ${number}, ${by}: ${short(score)}`);
    const [cx, r] = [x.at(number), 3.5 * unit];
    if (score === undefined) parts.push(s("path", { class: "failed", d: `M${cx - r} ${floor - r}l${2 * r} ${2 * r}m0 ${-2 * r}l${-2 * r} ${2 * r}` }, told));
    else parts.push(s("circle", { class: number === best ? "mark chosen" : "mark", cx, cy: y.at(score), r: number === best ? 6 * unit : r }, told));
  }
  svg.replaceChildren(...parts);
}

/** The range of the better scores: a few hopeless ones would flatten all others, and lie at the edge. */
function near(scores: number[], goal: "min" | "max"): number[] {
  const sorted = scores.toSorted((a, b) => (goal === "min" ? a - b : b - a));
  return sorted.slice(0, Math.max(Math.ceil(sorted.length * 0.9), 4));
}
