"""The cases that turn metrics into weights."""

import numpy as np

from oracle import Refused, weigh


def weights(v):
    def add(name, why, scheme, metrics=None, goal=None, penalty=None, values=None):
        number = lambda x: x if np.isfinite(x) else {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}[str(x)]
        entry = {"case": name, "why": why, "scheme": scheme}
        if metrics is not None:
            entry["metrics"] = [number(x) for x in metrics]
        if goal:
            entry["goal"] = goal
        if penalty is not None:
            entry["penalty"] = number(penalty)
        if values is not None:
            entry["values"] = [number(x) for x in values]
        try:
            entry["weights"] = weigh(scheme, metrics, goal or "min", penalty if penalty is not None else 0.0, values)
        except Refused as refused:
            entry["error"] = refused.args[0]
        v.weights.append(entry)

    run = [1.0110275745391846, 1.0076324939727783, 0.8504855632781982, 0.8545718789100647, 0.8471459150314331,
           0.9012860655784607, 0.8354882001876831, 0.7962620854377747, 0.8148069977760315, 0.770600438117981]
    steps = list(range(550, 1001, 50))
    ranges = {"linear": (0.8, 1.0, 0.3), "power": (1.0, 0.5, 8.0), "exponential": (1.0, 0.8, 20.0), "rank": (0.2, 0.5, 0.9)}
    for scheme, penalties in ranges.items():
        for penalty in penalties:
            add(f"{scheme}-run-{penalty:g}", "eval_loss of a real run", scheme, run, "min", penalty)
        add(f"{scheme}-steps", "the metric `step`: later is better", scheme, steps, "max", penalties[0])
        add(f"{scheme}-penalty-0", "penalty 0 is the plain mean in every scheme", scheme, run, "min", 0.0)
        add(f"{scheme}-equal", "all equal: nobody is worse, whatever the penalty", scheme, [0.7, 0.7, 0.7], "min", penalties[0])
        add(f"{scheme}-one", "one checkpoint gets all", scheme, [0.7], "max", penalties[1])
        add(f"{scheme}-ties", "equal metrics get equal weights", scheme, [0.9, 0.5, 0.7, 0.5, 0.9, 0.9], "min", penalties[0])
        add(f"{scheme}-accuracy", "goal max", scheme, [0.31, 0.35, 0.2, 0.34], "max", penalties[0])
        add(f"{scheme}-close", "metrics that differ in the last bits only tell nothing", scheme, [0.7, 0.7000000000000001, 0.7000000000000003], "min", penalties[0])
        add(f"{scheme}-penalty-negative", "a penalty below 0 would reward the worst", scheme, run, "min", -0.1)
        add(f"{scheme}-penalty-nan", "NaN is no penalty", scheme, run, "min", float("nan"))
        add(f"{scheme}-metric-nan", "NaN is no metric", scheme, [0.7, float("nan"), 0.8], "min", penalties[0])
        add(f"{scheme}-metric-infinite", "infinity is no metric", scheme, [0.7, float("inf"), 0.8], "min", penalties[0])
        add(f"{scheme}-none", "no checkpoints, no weights", scheme, [], "min", penalties[0])
    converged = [0.19334, 0.19333, 0.19330]
    add("linear-noise", "losses that differ by 0.02 % weigh almost the same", "linear", converged, "min", 0.8)
    add("exponential-noise", "the same by its other scale", "exponential", converged, "min", 4.0)
    add("rank-noise", "the order counts, however close", "rank", converged, "min", 0.5)
    add("power-noise", "ratios need no floor", "power", converged, "min", 16.0)
    add("linear-just-below-half-a-percent", "0.4 % apart: badness 0.8 for the worst", "linear", [1.0, 0.996, 0.998], "min", 1.0)
    add("linear-half-a-percent", "0.6 % apart: the worst gets exactly 0", "linear", [0.9, 0.9054, 0.9027], "max", 1.0)
    add("linear-noise-negative", "the size of a log-likelihood is that of the largest", "linear", [-3.0, -3.003, -3.009], "max", 0.8)
    add("linear-around-zero", "metrics of both signs: half a percent of the largest in size", "linear", [-0.001, 0.0, 1.0], "min", 1.0)
    add("linear-zeros", "no size, no floor: all equal", "linear", [0.0, 0.0, -0.0], "min", 1.0)
    add("linear-worst-gets-nothing", "at penalty 1 the worst gets exactly 0", "linear", [0.3, 0.1, 0.2], "min", 1.0)
    add("linear-two-worst", "both of the worst get exactly 0", "linear", [5, 1, 5], "min", 1.0)
    add("linear-negative-metrics", "log-likelihoods: min-max scaling does not mind the sign", "linear", [-3.5, -2.25, -2.0, -7.0], "max", 0.8)
    add("linear-penalty-above-1", "above 1 the worst would get a negative weight", "linear", run, "min", 1.5)
    add("linear-penalty-infinite", "infinity is no penalty", "linear", run, "min", float("inf"))
    add("exponential-penalty-infinite", "infinity is no penalty", "exponential", run, "min", float("inf"))
    add("exponential-only-the-best", "exp(-1000) is 0 in f64", "exponential", [2, 1, 2], "min", 1000.0)
    add("exponential-negative-metrics", "the sign does not matter", "exponential", [-3.5, 0.0, 2.0], "max", 2.0)
    add("power-zero-metric", "0 has no ratio: power needs positive metrics", "power", [0.5, 0.0, 1.0], "min", 1.0)
    add("power-negative-metric", "the same below 0", "power", [0.5, -0.1, 1.0], "max", 1.0)
    add("power-negative-metric-penalty-0", "refused whatever the penalty", "power", [0.5, -0.1, 1.0], "max", 0.0)
    add("power-only-the-best", "0.5^2000 is 0 in f64", "power", [1, 2], "min", 2000.0)
    add("power-large-metrics", "ratios to the best do not overflow", "power", [1e300, 2e300, 4e300], "min", 2.0)
    add("rank-penalty-1", "at 1 all but the best would get 0 and a tied best 0^0.5", "rank", run, "min", 1.0)
    add("rank-tied-best", "two share ranks 0 and 1, so 0.5 each", "rank", [1, 1, 2], "min", 0.5)
    add("rank-ignores-distance", "only the order counts", "rank", [1, 2, 1e9], "min", 0.5)
    add("uniform", "metrics do not matter", "uniform", run, "min", None)
    add("uniform-one", "one checkpoint gets all", "uniform", [3.0], "min", None)
    add("explicit", "as given, divided by their sum", "explicit", values=[3, 1, 4])
    add("explicit-sums-to-one", "as given", "explicit", values=[0.25, 0.5, 0.25])
    add("explicit-negative", "negative weights are allowed", "explicit", values=[1.5, -0.5])
    add("explicit-tenths", "0.1 ten times sums to 0.9999999999999999", "explicit", values=[0.1] * 10)
    add("explicit-zeros", "0 stays exactly 0", "explicit", values=[0, 2, 0])
    add("explicit-sum-zero", "nothing to divide by", "explicit", values=[1, -1])
    add("explicit-sum-negative", "dividing would turn every sign", "explicit", values=[1, -2])
    add("explicit-nan", "NaN is no weight", "explicit", values=[1, float("nan")])
    add("explicit-infinite", "infinity is no weight", "explicit", values=[1, float("inf")])
    add("explicit-sum-infinite", "finite weights, infinite sum", "explicit", values=[1e308, 1e308])
    add("explicit-none", "no weights", "explicit", values=[])
