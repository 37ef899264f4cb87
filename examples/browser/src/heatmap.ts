/** How alike the chosen checkpoints are: a table of cosines, coloured, and the norm of each. */
import type { Comparison } from "mwa-merge";
import { h, short } from "./dom";

export function heatmap({ names, norms, cosines, residual }: Comparison): Node[] {
  const labels = names.map((name) => name.split("/").at(-1)!.replace(/^checkpoint-/, ""));
  const low = Math.min(...cosines.flat(), 0.999);
  const cell = (cosine: number) => {
    const td = h("td", {}, cosine.toFixed(2));
    // up to where text is still easy to read on it
    td.style.setProperty("--heat", String(Math.round(((cosine - low) / (1 - low || 1)) * 44)));
    td.className = "heat";
    return td;
  };
  const head = h("tr", {}, h("th", { scope: "col" }, "step"), ...labels.map((label) => h("th", { scope: "col" }, label)), h("th", { scope: "col" }, "norm"));
  const rows = cosines.map((row, i) => h("tr", {}, h("th", { scope: "row" }, labels[i]!), ...row.map(cell), h("td", {}, short(Number(norms[i]!.toPrecision(4))))));
  return [
    h("p", { class: "hint" }, "Cosine of each pair of checkpoints, over all weights; near 1 within a run."),
    h("div", { class: "scroll wide", tabindex: 0, role: "region", "aria-label": "Cosine of each pair of checkpoints" },
      h("table", { class: "heatmap" }, h("thead", {}, head), h("tbody", {}, ...rows))),
    h("p", {}, ...told(residual)),
  ];
}

function told(residual: number | null): string[] {
  if (residual === null) return ["These files hold no pairs of factors, so their average is exact."];
  const percent = `${(residual * 100).toPrecision(2)} %`;
  const verdict = residual < 0.07
    ? "little: the average of the factors is a good average of what the checkpoints do."
    : "much: choose Products B·A under “How it is merged”, or fewer checkpoints.";
  return [`Averaging factors instead of their products changes the merged update by ${percent}, which is ${verdict}`];
}
