#!/usr/bin/env python3
"""Makes trials.json: what each search method must do on a toy bowl, computed by other code in another language.

Run: python3 make.py > trials.json      (numpy for the eigenvectors of CMA-ES; the rest is plain Python, f64)
"""
import json
import math

import numpy as np

MASK = (1 << 64) - 1
TARGET = [-0.2, 0.1, 0.3, 0.2, 0.6]  # sums to 1, one negative
K = len(TARGET)


# of a second part of a model
OTHER = [0.5, 0.4, 0.2, 0.1, -0.2]


def bowl(weights):
    """Of the weights of one part, or of those of two, one after the other."""
    s = 0.0
    for i, (u, v) in enumerate(zip(weights, TARGET + OTHER)):
        d = u - v
        s += (i % K + 1) * d * d
    return s


class SplitMix64:
    def __init__(self, seed):
        self.state = seed & MASK

    def next(self):
        self.state = (self.state + 0x9E3779B97F4A7C15) & MASK
        z = self.state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        return z ^ (z >> 31)

    def uniform(self):
        return (self.next() >> 11) * (1.0 / (1 << 53))

    def below(self, n):
        limit = (1 << 64) - (1 << 64) % n
        while True:
            x = self.next()
            if x < limit:
                return x % n

    def normal(self):
        s = 0.0
        for _ in range(12):
            s += self.uniform()
        return s - 6.0


def alpha(x):
    weights = []
    for part in range(0, len(x), K - 1):
        genes, s = x[part : part + K - 1], 0.0
        for v in genes:
            s += v
        weights += genes + [1.0 - s]
    return weights


def evolution(budget, seed, parts=1, population=20, parents=5, per_round=10, sigma=0.1, rate=0.5, bound=2.0):
    def ema(g):
        a = [1.0]
        for _ in range(K - 1):
            a.insert(0, a[0] * g)
        s = 0.0
        for x in a:
            s += x
        return [x / s for x in a]

    rng, cache, log = SplitMix64(seed), {}, []

    def evaluate(x):
        key = tuple(x)
        if key not in cache:
            if len(log) >= budget:
                return None
            cache[key] = bowl(alpha(list(x)))
            log.append((cache[key], alpha(list(x))))
        return cache[key]

    starts = [[0.0] * (K - 1), [1.0 / K] * (K - 1)] + [ema(g)[:-1] for g in (0.5, 0.7, 0.8, 0.9, 0.95)]
    starts = [start * parts for start in starts]
    people = []
    for i, x in enumerate(starts[:population]):
        s = evaluate(x)
        if s is not None:
            people.append((s, i, x))
    born = len(starts)
    while len(log) < budget:
        people.sort(key=lambda p: (p[0], p[1]))
        best = people[:parents]
        children = []
        for _ in range(per_round):
            i = rng.below(len(best))
            j = rng.below(len(best) - 1)
            j += j >= i
            a, b = best[i][2], best[j][2]
            child = [u if rng.uniform() < 0.5 else v for u, v in zip(a, b)]
            child = [c + sigma * rng.normal() if rng.uniform() < rate else c for c in child]
            children.append([min(bound, max(-bound, c)) for c in child])
        for child in children:
            s = evaluate(child)
            if s is not None and math.isfinite(s):
                people.append((s, born, child))
            born += 1
        people.sort(key=lambda p: (p[0], p[1]))
        people = people[:population]
    return log


def greedy():
    """Scores of the soups that are tried after the singles, and the members of the last, oldest first."""
    def mean(members):
        return [1.0 / len(members) if i in members else 0.0 for i in range(K)]

    order = sorted(range(K), key=lambda i: (bowl(mean([i])), -i))
    soup, best, tried = [order[0]], bowl(mean([order[0]])), []
    for i in order[1:]:
        score = bowl(mean(soup + [i]))
        tried.append(score)
        if score < best:
            soup, best = soup + [i], score
    return {"tried": tried, "members": sorted(soup)}


def line():
    """Golden section on [-1/2, 3/2] for two checkpoints: the places that are tried, first the two inner ones."""
    share = (math.sqrt(5.0) - 1.0) / 2.0

    def score(place):
        return (place - 0.7) ** 2

    low, high = -0.5, 1.5
    c, d = high - share * (high - low), low + share * (high - low)
    places = [c, d]
    while True:
        if score(c) < score(d):
            high, d = d, c
            c = high - share * (high - low)
            new = c
        else:
            low, c = c, d
            d = low + share * (high - low)
            new = d
        if high - low < 0.01:
            return places
        places.append(new)


def cma(trials, seed):
    """The scores of so many trials, the last of which is the mean: the tutorial's algorithm, with numpy's eigenvectors."""
    n = K - 1
    rng = SplitMix64(seed)
    mean, sigma, C = np.full(n, 1.0 / K), 1.0 / 6.0, np.eye(n)
    pc, ps, generation, scores = np.zeros(n), np.zeros(n), 0, []
    chi = math.sqrt(n) * (1 - 1 / (4 * n) + 1 / (21 * n * n))
    while len(scores) < trials - 1:
        lam, rest = 4 + int(3 * math.log(n)), trials - 1 - len(scores)
        lam = rest if rest < lam + 4 else lam
        values, vectors = np.linalg.eigh(C)
        root = vectors @ np.diag(np.sqrt(np.maximum(values, 0))) @ vectors.T
        zs = np.array([[rng.normal() for _ in range(n)] for _ in range(lam)])
        ys = zs @ root.T
        costs = [bowl(alpha(list(np.clip(mean + sigma * y, -2, 2)))) for y in ys]
        scores += costs
        order = sorted(range(lam), key=lambda i: (costs[i], i))[: max(1, lam // 2)]
        w = np.array([math.log((lam + 1) / 2) - math.log(i + 1) for i in range(len(order))])
        w = w / w.sum() if w.sum() > 0 else np.ones(1)
        mu = 1 / (w**2).sum()
        z, y = w @ zs[order], w @ ys[order]
        cc = (4 + mu / n) / (n + 4 + 2 * mu / n)
        cs = (mu + 2) / (n + mu + 5)
        c1 = 2 / ((n + 1.3) ** 2 + mu)
        cmu = min(1 - c1, 2 * (mu - 2 + 1 / mu) / ((n + 2) ** 2 + mu))
        damps = 1 + 2 * max(0, math.sqrt((mu - 1) / (n + 1)) - 1) + cs
        ps = (1 - cs) * ps + math.sqrt(cs * (2 - cs) * mu) * z
        generation += 1
        length = np.linalg.norm(ps)
        held = length / math.sqrt(1 - (1 - cs) ** (2 * generation)) < (1.4 + 2 / (n + 1)) * chi
        pc = (1 - cc) * pc + (math.sqrt(cc * (2 - cc) * mu) * y if held else 0)
        C = ((1 - c1 - cmu + (0 if held else c1 * cc * (2 - cc))) * C + c1 * np.outer(pc, pc)
             + cmu * (ys[order].T * w) @ ys[order])
        mean = np.clip(mean + sigma * y, -2, 2)
        sigma *= math.exp(min(1, cs / damps * (length / chi - 1)))
    return scores + [bowl(alpha(list(mean)))]


def parts_found():
    log = evolution(200, 42, parts=2)
    best = min(log, key=lambda trial: trial[0])
    return {"scores": [s for s, _ in log[:60]], "best_of_200": best[0], "weights": best[1]}


if __name__ == "__main__":
    log = evolution(400, 42)
    short = evolution(50, 42)
    assert [s for s, _ in log[:50]] == [s for s, _ in short]
    best = min(log, key=lambda trial: trial[0])
    print(json.dumps({
        "evolution": {"scores": [s for s, _ in log[:100]], "best_of_400": best[0], "weights": best[1]},
        "parts": parts_found(),
        "greedy": greedy(),
        "line": line(),
        "cma": cma(60, 7),
    }, indent=1))
