"""Makes the tables of ../evidence.md and the plots beside this file from the CSV files here; with --check, says what is not as it makes it.

rows.csv: accuracy in percent (of tokens for gsm-over) and loss on the test split, one row for each run (task, seed) and setting.
thinned.csv: the same of four runs with fewer checkpoints. definitions.csv: the same of ten runs by train.py, after the default was chosen.
"""
import csv
import math
import re
import sys
from collections import defaultdict
from pathlib import Path
from statistics import mean, stdev

HERE = Path(__file__).resolve().parent
PAGE = HERE.parent / "evidence.md"

HELD = ["banking-const", "clinc-full", "wikisql-const", "bankfew-over", "sst2-full-over", "gsm-over"]
DECAYED = ["banking-cos", "banking-linear-decay", "wikisql-cos"]
TASKS = HELD + DECAYED

LAST = "last"
SINGLE = "best single by eval_loss"
LAST_TEN = "linear 0.8, last 10 by eval_loss"
DEFAULT = "**default**"
DEFAULT_BY_STEP = "**default** of a run without evaluations"
# The task of definitions.csv, by how the rate went
DEFINITIONS = ["definitions, held"], ["definitions, decayed"]
# What the default takes of a run of 20 checkpoints, by whether its learning rate was held or had decayed.
TAKES = {
    DEFAULT: ("linear 0.8, best 10 by eval_loss", "linear 0.8, best 5 by eval_loss"),
    DEFAULT_BY_STEP: ("linear 0.8, last 10 by step", "mean of last 3"),
}

SETTINGS = [
    DEFAULT, DEFAULT_BY_STEP, LAST_TEN, "linear 0.8, last 5 by eval_loss", "linear 0.8, last 20 by eval_loss",
    "linear 0.8, best 3 by eval_loss", "linear 0.8, best 5 by eval_loss", "linear 0.8, best 10 by eval_loss",
    "linear 0.8, last 10 by loss", "linear 0.8, best 5 by loss", "linear 0.8, last 10 by step", "linear 1, last 10 by step",
    "mean of last 3", "mean of last 5", "mean of last 10", "mean of last 20", SINGLE, "best single by accuracy", "greedy soup by eval_loss",
]


# --- the rows ---


def read(name):
    """setting -> (task, seed) -> (accuracy, loss)"""
    scores = defaultdict(dict)
    for row in csv.DictReader((HERE / name).open(newline="")):
        scores[row["setting"]][row["task"], row["seed"]] = float(row["accuracy"]), float(row["loss"])
    for default, by_schedule in TAKES.items():
        scores[default] = {run: scores[by_schedule[kind(run[0]) == "decayed"]][run] for run in scores[LAST]}
    return scores


class Compared:
    """One setting against another, run by run: points of accuracy, and 100 · ln of the ratio of the losses."""

    def __init__(self, scores, setting, other=LAST, tasks=TASKS):
        mine, theirs = scores[setting], scores[other]
        self.runs = [run for run in mine if run[0] in tasks]
        self.points = {run: mine[run][0] - theirs[run][0] for run in self.runs}
        self.loss = {run: 100 * math.log(mine[run][1] / theirs[run][1]) for run in self.runs}
        self.worse = sum(value < -1e-9 for value in self.points.values()), sum(value > 1e-9 for value in self.loss.values())

    def of_task(self, task):
        return Compared.mean_of(self.points, task), Compared.mean_of(self.loss, task)

    def mean(self):
        """The mean of the task means: each task counts the same."""
        of_tasks = [self.of_task(task) for task in dict.fromkeys(task for task, _ in self.runs)]
        return tuple(mean(values) for values in zip(*of_tasks))

    def worst(self):
        of_tasks = [self.of_task(task) for task in dict.fromkeys(task for task, _ in self.runs)]
        return min(points for points, _ in of_tasks), max(loss for _, loss in of_tasks)

    @staticmethod
    def mean_of(values, task):
        return mean(value for (of, _), value in values.items() if of == task)


def kind(task):
    return "held" if task in HELD + DEFINITIONS[0] else "decayed"


def spread(values):
    values = list(values)
    return stdev(values) / len(values) ** 0.5


def signed(value, digits):
    """A difference, where nothing is 0 and not -0."""
    text = f"{value:+.{digits}f}"
    return text.replace("-", "−") if float(text) else text[1:]


# --- tables ---


def table(heads, rows):
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def by_setting(scores):
    rows = []
    for setting in SETTINGS:
        one = Compared(scores, setting)
        (points, loss), (worst_points, worst_loss) = one.mean(), one.worst()
        single = Compared(scores, setting, SINGLE).worse
        rows.append([
            setting, signed(points, 2), signed(loss, 1), signed(worst_points, 2), signed(worst_loss, 1),
            f"{one.worse[0]} / {one.worse[1]}", f"{single[0]} / {single[1]}",
        ])
    return table(["setting", "points", "loss %", "worst task, points", "worst task, loss %", "of 45 runs worse than the last", "… than the best single"], rows)


def by_schedule(scores, held=HELD, decayed=DECAYED):
    """Settings without a row are left out."""
    rows = []
    for setting in (setting for setting in SETTINGS if scores[setting]):
        line = [setting]
        for tasks in (held, decayed):
            one = Compared(scores, setting, tasks=tasks)
            points, loss = one.points.values(), one.loss.values()
            line += [
                f"{signed(mean(points), 2)} ± {spread(points):.2f}", f"{signed(mean(loss), 1)} ± {spread(loss):.1f}",
                f"{one.worse[0]} / {one.worse[1]}",
            ]
        rows.append(line)
    of_held, of_decayed = (sum(task in tasks for task, _ in scores[LAST]) for tasks in (held, decayed))
    return table(["setting", "held: points", "loss %", f"worse, of {of_held}", "decayed: points", "loss %", f"worse, of {of_decayed}"], rows)


def by_task(scores):
    settings = [LAST, SINGLE, "mean of last 10", LAST_TEN, DEFAULT]
    rows = []
    for task in TASKS:
        line = [task]
        for setting in settings:
            accuracy, loss = (mean(values) for values in zip(*(score for run, score in scores[setting].items() if run[0] == task)))
            line.append(f"{accuracy:.2f} / {loss:.4f}")
        rows.append(line)
    return table(["task", *settings], rows)


def by_number(scores):
    """Of the plain mean of the last k, which depends on nothing but k."""
    rows = []
    for k in (2, 3, 4, 5, 6, 8, 10, 12, 15, 20):
        one = Compared(scores, f"mean of last {k}")
        rows.append([k] + ["{} ({})".format(signed(points, 2), signed(loss, 0)) for points, loss in map(one.of_task, TASKS)])
    return table(["k", *TASKS], rows)


def by_weights(scores):
    """The same ten checkpoints, weighed in other ways."""
    rows = []
    for setting in [name for name in scores if name.endswith("last 10 by eval_loss")] + ["linear 0.8, last 10 by loss", "linear 0.8, last 10 by step"]:
        one = Compared(scores, setting, "mean of last 10")
        points, loss = one.points.values(), one.loss.values()
        rows.append([setting, f"{signed(mean(points), 2)} ± {spread(points):.2f}", f"{signed(mean(loss), 1)} ± {spread(loss):.1f}", f"{one.worse[0]} / {one.worse[1]}"])
    return table(["setting", "points", "loss %", "of 45 runs worse"], rows)


def in_product_space(scores):
    rows = []
    for setting in ("linear 0.8, last 10 by eval_loss", "mean of last 10", "mean of last 20"):
        one = Compared(scores, f"{setting}, product space", setting)
        points, loss = one.points.values(), one.loss.values()
        rows.append([setting, f"{signed(mean(points), 2)} ± {spread(points):.2f}", f"{signed(mean(loss), 2)} ± {spread(loss):.2f}"])
    return table(["setting, 30 LoRA runs", "points", "loss %"], rows)


def thinned():
    scores = defaultdict(dict)
    for row in csv.DictReader((HERE / "thinned.csv").open(newline="")):
        scores[row["run"], row["checkpoints"]][row["setting"]] = f"{row['accuracy']} / {row['loss']}"
    settings = list(next(iter(scores.values())))
    return table(["run", "checkpoints", *settings], [[*run, *(one[setting] for setting in settings)] for run, one in scores.items()])


# --- plots: SVG with its own ground, so that it reads on a page of any colour ---

STYLE = """
  .ground { fill: #ffffff } .ink { fill: #24292f } .faint { fill: #57606a } .rule { stroke: #d0d7de } .zero { stroke: #57606a }
  .held { --shade: #0969da } .decayed { --shade: #bc4c00 }
  @media (prefers-color-scheme: dark) {
    .ground { fill: #0d1117 } .ink { fill: #e6edf3 } .faint { fill: #9198a1 } .rule { stroke: #30363d } .zero { stroke: #9198a1 }
    .held { --shade: #58a6ff } .decayed { --shade: #f0883e }
  }
  text { font: 12px system-ui, sans-serif } .title { font-weight: 600; font-size: 13px } .right { text-anchor: end } .middle { text-anchor: middle }
  .dot { fill: var(--shade); fill-opacity: .55 } .mean { fill: var(--shade) } .line { stroke: var(--shade); stroke-width: 1.5; fill: none; stroke-opacity: .8 }
"""


class Drawing:
    def __init__(self, name, width, height, told):
        self.name, self.parts = name, []
        self.head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img">\n'
            f"<title>{told}</title>\n<style>{STYLE}</style>\n" f'<rect class="ground" width="{width}" height="{height}" rx="6"/>'
        )

    def text(self, x, y, words, kind="ink"):
        self.parts.append(f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}">{words}</text>')

    def line(self, x1, y1, x2, y2, kind="rule"):
        self.parts.append(f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>')

    def dot(self, x, y, radius, kind, told):
        self.parts.append(f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="{radius}"><title>{told}</title></circle>')

    def diamond(self, x, y, kind, told):
        self.parts.append(f'<path class="{kind}" d="M{x:.1f} {y - 7:.1f}l5 7l-5 7l-5 -7z"><title>{told}</title></path>')

    def path(self, points, kind, told):
        at = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        self.parts.append(f'<polyline class="{kind}" points="{at}"><title>{told}</title></polyline>')

    def legend(self, x, y):
        for kind, words in (("held", "learning rate held"), ("decayed", "learning rate decayed to zero")):
            self.dot(x, y - 4, 5, f"{kind} mean", words)
            self.text(x + 10, y, words, "faint")
            x += 150

    def done(self):
        return "\n".join([self.head, *self.parts, "</svg>\n"])


class Scale:
    """Values to pixels; what lies beyond an end is drawn at it."""

    def __init__(self, low, high, start, end):
        self.low, self.high, self.start, self.end = low, high, start, end

    def __call__(self, value):
        value = min(max(value, self.low), self.high)
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


# (which value of a pair, its title, the ends of its axis, its ticks)
PANELS = (
    (0, "accuracy against the last, points", -3, 6, (-2, 0, 2, 4, 6)),
    (1, "loss against the last, %", -60, 40, (-60, -40, -20, 0, 20, 40)),
)


def dots(name, told, lines, left, values):
    """One line for each of `lines`, a dot for each of its values, a diamond at each mean; accuracy on the left, loss on the right."""
    width, top, pitch = 940, 58, 26
    bottom = top + pitch * len(lines)
    drawing = Drawing(name, width, bottom + 52, told)
    drawing.legend(left, 22)
    panel = (width - left - 84) / 2
    for at, (which, words, low, high, ticks) in enumerate(PANELS):
        start = left + at * (panel + 56)
        scale = Scale(low, high, start, start + panel)
        drawing.text(start, 44, words, "ink title")
        for tick in ticks:
            drawing.line(scale(tick), top - 6, scale(tick), bottom, "zero" if tick == 0 else "rule")
            drawing.text(scale(tick), bottom + 18, signed(tick, 0), "faint middle")
        for row, line in enumerate(lines):
            y = top + pitch * (row + 0.5)
            if at == 0:
                drawing.text(left - 12, y + 4, line.replace("**", ""), "ink right" + (" title" if "**" in line else ""))
            shades = {kind(task) for _, task, _ in values(line)}
            for shade, shift in (("held", -4), ("decayed", 4)) if len(shades) == 2 else ((shades.pop(), 0),):
                found = [(of, value[which]) for of, task, value in values(line) if kind(task) == shade]
                for of, value in found:
                    drawing.dot(scale(value), y + shift, 3, f"{shade} dot", f"{of}: {signed(value, 2)}")
                middle = mean(value for _, value in found)
                drawing.diamond(scale(middle), y + shift, f"{shade} mean", f"mean: {signed(middle, 2)}")
    drawing.text(left, bottom + 42, "diamonds: means; what lies beyond an end is drawn at it", "faint")
    return drawing


def plot_settings(scores):
    def values(setting):
        one = Compared(scores, setting)
        return [(task, task, one.of_task(task)) for task in TASKS]

    lines = [setting for setting in SETTINGS if setting != "best single by accuracy"]
    return dots("settings.svg", "Accuracy and loss against the last checkpoint, by setting; a dot is the mean of a task's five runs", lines, 300, values)


def plot_runs(scores):
    def values(task):
        one = Compared(scores, DEFAULT)
        return [(f"seed {run[1]}", task, (one.points[run], one.loss[run])) for run in one.runs if run[0] == task]

    return dots("runs.svg", "The default against the last checkpoint, by task; a dot is a run", TASKS, 160, values)


def plot_number(scores):
    ks, left, top, width, height = range(1, 21), 48, 58, 280, 280
    drawing = Drawing("checkpoints.svg", 940, top + height + 58, "The plain mean of the last k checkpoints against the last one, by k; a line is a task")
    drawing.legend(left, 22)
    for at, (which, words, low, high, ticks) in enumerate(PANELS):
        start = left + at * (width + 180)
        across, up = Scale(1, 20, start, start + width), Scale(low, high, top + height, top)
        drawing.text(start, 44, words, "ink title")
        for tick in ticks:
            drawing.line(start, up(tick), start + width, up(tick), "zero" if tick == 0 else "rule")
            drawing.text(start - 8, up(tick) + 4, signed(tick, 0), "faint right")
        for k in (1, 5, 10, 15, 20):
            drawing.text(across(k), top + height + 18, k, "faint middle")
        ends = []
        for task in TASKS:
            found = [0.0 if k == 1 else Compared(scores, f"mean of last {k}").of_task(task)[which] for k in ks]
            drawing.path([(across(k), up(value)) for k, value in zip(ks, found)], f"{kind(task)} line", task)
            ends.append((up(found[-1]), task))
        free = top - 8
        for y, task in sorted(ends):  # the names do not cover one another
            free = max(y, free + 14)
            drawing.text(start + width + 8, free + 4, task, f"{kind(task)} mean")
        drawing.text(start + width / 2, top + height + 36, "checkpoints in the mean, of 20", "faint middle")
    return drawing


# --- the page ---


def made():
    """path -> text of everything this script makes"""
    scores = read("rows.csv")
    tables = {
        "setting": by_setting(scores), "schedule": by_schedule(scores), "task": by_task(scores), "number": by_number(scores),
        "weights": by_weights(scores), "product": in_product_space(scores), "thinned": thinned(),
        "definitions": by_schedule(read("definitions.csv"), *DEFINITIONS),
    }
    page = PAGE.read_text(encoding="utf-8")
    for name, text in tables.items():
        page, places = re.subn(rf"(<!-- table {name} -->\n).*?(<!-- end -->)", lambda found: f"{found[1]}\n{text}\n\n{found[2]}", page, flags=re.S)
        if places != 1:
            raise SystemExit(f"{PAGE.name} has {places} places for the table {name}; it needs one")
    files = {PAGE: page}
    for drawing in (plot_settings(scores), plot_number(scores), plot_runs(scores)):
        files[HERE / drawing.name] = drawing.done()
    return files


def main():
    files = made()
    if "--check" in sys.argv[1:]:
        stale = [path.name for path, text in files.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
        if stale:
            raise SystemExit(f"not what docs/evidence/draw.py makes: {', '.join(stale)}; run it again")
    else:
        for path, text in files.items():
            path.write_text(text, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
