"""The part of ``gate_power.py`` with few samples: verdicts and effective lengths at n = 1 to 30.

Retention and margins: a loss of just the limit may pass in at most 5 % of runs (confidence .95). Effective length: the
range ``low .. high`` may miss the truth in at most 5 % of runs, 2.5 % at each end. Binary scores by exact sums over all
outcomes, graded scores, tasks of unequal size and documents by simulation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

from lr2eval.stats.paired import (
    Paired,
    contrast_z,
    decide,
    difference_interval,
    effective_range,
    mean_tails,
    retention_interval,
)

Array = NDArray[np.float64]
Row = dict[str, Any]
SIZES = tuple(range(1, 31))
SOME = (1, 2, 3, 4, 5, 8, 12, 16, 20, 25, 30)
LIMITS = {"retention": (0.985, 0.95, 0.9, 0.8, 0.7, 0.6, 0.5), "margin": (0.01, 0.05, 0.1, 0.2, 0.3)}
THRESHOLD, EACH = 0.856, 0.025
LENGTHS = (1, 2, 6)
"""How many lengths share the error of claiming too long a one."""
PAIRS = (np.ones(4), np.array([1.0, 1, 0, 0]), np.array([1.0, 0, 1, 0]))


def bounds(k: int, n: int) -> tuple[float, float]:
    """Exact two-sided 99 % interval of a share (Clopper & Pearson 1934): the simulation's own error."""
    interval = stats.binomtest(k, n).proportion_ci(0.99, method="exact")
    return float(interval.low), float(interval.high)


# --- verdicts ----------------------------------------------------------------------------------------------------


def outcomes(n: int) -> Array:
    """Every way ``n`` binary pairs can fall: both right, lost, gained, both wrong."""
    return np.array([
        (a, b, c, n - a - b - c) for a in range(n + 1) for b in range(n + 1 - a) for c in range(n + 1 - a - b)
    ], float)  # fmt: skip


def at_the_limit(kind: str, limit: float) -> Iterator[tuple[float, float, Array]]:
    """(original's mean, share gained, shares of the four outcomes) with a loss of just the limit."""
    for base in (0.05, 0.1, 0.2, 0.3, 0.45, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0):
        loss = base * (1 - limit) if kind == "retention" else limit
        for gained in (0.0, 0.001, 0.01, 0.03, 0.05, 0.1, 0.2, 0.3, 0.4):
            shares = np.array([base - gained - loss, gained + loss, gained, 1 - base - gained])
            if shares.min() > -1e-12:
                yield base, gained, shares.clip(1e-300)


def verdicts(confidence: float) -> Iterator[Row]:
    """For each number of samples and limit the worst share of false passes, by exact sums."""
    z_needed = float(stats.norm.ppf(confidence))
    for kind, limits in LIMITS.items():
        for limit in limits:
            cases = list(at_the_limit(kind, limit))
            logs = np.log(np.stack([shares for _, _, shares in cases]))
            for n in SIZES:
                seen = outcomes(n)
                ways = special.gammaln(n + 1) - special.gammaln(seen + 1).sum(1)
                ratio, difference = (limit, 0.0) if kind == "retention" else (1.0, -limit)
                passed = contrast_z(PAIRS, seen, ratio, difference) >= z_needed
                if kind == "retention":
                    passed &= seen[:, :2].sum(1) > 0  # an original that scores 0 never passes
                chance = np.exp(ways[passed, None] + seen[passed] @ logs.T).sum(0)
                base, gained, _ = cases[int(chance.argmax())]
                yield {
                    "kind": kind, "limit": limit, "confidence": confidence, "n": n, "distributions": len(cases),
                    "false_pass": float(chance.max()), "original": base, "gained": gained,
                    "breaks": bool(chance.max() > 1 - confidence + 1e-9),
                }  # fmt: skip


def judged_otherwise() -> tuple[int, int]:
    """(outcomes of up to five samples that also took the gate's path, how many of them it judges otherwise)."""
    checked = wrong = 0
    z_needed = float(stats.norm.ppf(0.95))
    for n in range(1, 6):
        seen = outcomes(n)
        seen = seen[seen[:, :2].sum(1) > 0]
        for kind, limits in LIMITS.items():
            for limit in limits:
                ratio, difference = (limit, 0.0) if kind == "retention" else (1.0, -limit)
                passed = contrast_z(PAIRS, seen, ratio, difference) >= z_needed
                for row, expected in zip(seen.astype(int), passed, strict=True):
                    pairs = Paired(np.repeat(PAIRS[1], row), np.repeat(PAIRS[2], row))
                    before, after = pairs.means()
                    if kind == "retention":
                        verdict = decide(*retention_interval(pairs, 0.9), after / before, limit, equal=1.0)
                    else:
                        verdict = decide(*difference_interval(pairs, 0.9), after - before, -limit)
                    checked, wrong = checked + 1, wrong + int((verdict == "pass") != bool(expected))
    return checked, wrong


# --- effective length --------------------------------------------------------------------------------------------


def task_means(tasks: int, spread: str, mean: float) -> Array:
    """Means of the tasks: all equal, evenly spread, or as unequal as possible (some lose all, the others nothing)."""
    if spread == "equal":
        return np.full(tasks, mean)
    if spread == "spread":
        return mean + np.linspace(-1, 1, tasks) * (1 - mean) * 0.99
    lost = np.clip((1 - mean) * tasks / 0.97 - np.arange(tasks), 0, 1) * 0.97
    return 1 - lost


def binary_lengths() -> Iterator[Row]:
    """Binary scores, the same number for each task: the sum over tasks decides, and its distribution is exact."""
    for tasks, spread in ((1, "equal"), (4, "equal"), (4, "spread"), (4, "unequal"),
                          (13, "equal"), (13, "spread"), (13, "unequal")):  # fmt: skip
        for mean in (0.80, 0.846, THRESHOLD, 0.866, 0.95, 1.0):
            means = task_means(tasks, spread, mean)
            for n in SIZES:
                chance = np.ones(1)
                for p in means:
                    chance = np.convolve(chance, stats.binom.pmf(np.arange(n + 1), n, p))
                total = n * tasks
                low, high = mean_tails(np.arange(total + 1) / total, total, THRESHOLD)
                yield claim({"scores": "binary", "tasks": tasks, "means": spread, "mean": mean, "n_per_task": n}, {
                    "below": float(chance[low <= EACH].sum()),
                    "above": {str(k): float(chance[high <= EACH / k].sum()) for k in LENGTHS},
                })  # fmt: skip


def graded(mean: float, kind: str) -> Array:
    """Shares of the recalls 0, 1/4, .., 1 with this mean."""
    if kind == "binomial":
        return np.asarray(stats.binom.pmf(np.arange(5), 4, mean), float)
    shares, place = np.zeros(5), min(int(4 * mean), 3)
    if kind == "narrow":
        shares[place : place + 2] = place + 1 - 4 * mean, 4 * mean - place
    elif mean >= 0.5:  # half or all
        shares[2], shares[4] = 2 - 2 * mean, 2 * mean - 1
    else:
        shares[0], shares[2] = 1 - 2 * mean, 2 * mean
    return shares


def simulated_lengths(rng: np.random.Generator, datasets: int) -> Iterator[Row]:
    """Graded tasks, and tasks with unequal numbers of samples (every other one has a third, or the first has one)."""
    values = np.arange(5) / 4
    for tasks in (1, 4, 13):
        for spread in ("equal", "unequal")[: 1 + (tasks > 1)]:
            for scores in ("binomial", "narrow", "half or all", "9 binary and 4 recall of 4"):
                for sizes in ("equal", "thirds", "one of one")[: 1 + 2 * (tasks > 1)]:
                    for n in SOME:
                        each = [max(1, n // 3) if sizes == "thirds" and i % 2 else n for i in range(tasks)]
                        each = [1, *each[1:]] if sizes == "one of one" else each
                        total, mean = sum(each), np.zeros(datasets)
                        for i, p in enumerate(task_means(tasks, spread, THRESHOLD)):
                            plain = scores.startswith("9") and i % 13 < 9
                            shares = np.array([1 - p, 0, 0, 0, p]) if plain else graded(p, scores.split()[0])
                            shares = shares.clip(0) / shares.clip(0).sum()
                            mean += rng.multinomial(each[i], shares, datasets) @ values / each[i] / tasks
                        low, high = mean_tails(mean, tasks * min(each), THRESHOLD)
                        head = {"scores": scores, "tasks": tasks, "means": spread, "mean": THRESHOLD, "sizes": sizes,
                                "n_per_task": n, "n": total, "datasets": datasets}  # fmt: skip
                        yield claim(head, {
                            "below": float((low <= EACH).mean()),
                            "above": {str(k): float((high <= EACH / k).mean()) for k in LENGTHS},
                        })  # fmt: skip


def clustered_lengths(rng: np.random.Generator, datasets: int) -> Iterator[Row]:
    """One task whose samples come from documents of five (intra-cluster correlation .3), through the whole path."""
    for n in (10, 20, 30):
        shares = np.array([THRESHOLD, 1 - THRESHOLD]) * (1 / 0.3 - 1)
        counts = {"below": 0, "above": 0, "below, documents ignored": 0, "above, documents ignored": 0}
        documents = np.repeat(np.arange(n // 5), 5)
        for _ in range(datasets):
            scores = np.concatenate([
                np.repeat([1.0, 0.0], rng.multinomial(5, rng.dirichlet(shares))) for _ in range(n // 5)
            ])  # fmt: skip
            for name, clusters in (("", documents), (", documents ignored", None)):
                low, high = effective_range({4096: Paired(scores, scores, clusters=clusters)}, THRESHOLD, 0.95)
                counts["below" + name] += high is None
                counts["above" + name] += low is not None
        found = {name: count / datasets for name, count in counts.items()}
        head = {"scores": "binary, documents of 5", "tasks": 1, "means": "equal", "mean": THRESHOLD, "n_per_task": n,
                "datasets": datasets, "documents_ignored": [found["below, documents ignored"],
                                                            found["above, documents ignored"]]}  # fmt: skip
        yield claim(head, {"below": found["below"], "above": {"1": found["above"]}})


def claim(head: Row, rates: Row) -> Row:
    """A row with whether it breaks its level; of a simulation only where its own error does not explain it."""
    errors = {"below": (rates["below"], EACH)} if head["mean"] >= THRESHOLD else {}
    if head["mean"] <= THRESHOLD:
        errors |= {f"above {k}": (rate, EACH / int(k)) for k, rate in rates["above"].items()}
    broken = []
    for name, (rate, level) in errors.items():
        low = rate if "datasets" not in head else bounds(round(rate * head["datasets"]), head["datasets"])[0]
        broken += [name] if low > level + 1e-9 else []
    return {**head, **rates, "breaks": broken}


# --- all of it ---------------------------------------------------------------------------------------------------


def study(seed: int, datasets: int, log: Callable[[str], None]) -> Row:
    """Everything with few samples that is not a cell of ``gate_power.py``."""
    exact = [row for confidence in (0.9, 0.95, 0.99) for row in verdicts(confidence)]
    log(f"verdicts by exact sums: {len(exact)}")
    checked, wrong = judged_otherwise()
    rng = np.random.default_rng([seed, 18])
    lengths = [*binary_lengths(), *simulated_lengths(rng, datasets), *clustered_lengths(rng, datasets // 4)]
    log(f"effective lengths: {len(lengths)}")
    at_level = [row for row in exact if row["confidence"] == 0.95]
    worst = max(at_level, key=lambda row: row["false_pass"])
    plain = [row for row in lengths if "datasets" not in row]
    return {
        "verdicts": len(at_level),
        "verdicts_that_break_5_percent": sum(row["breaks"] for row in at_level),
        "worst_false_pass": worst,
        "worst_false_pass_by_confidence": {
            str(confidence): max(row["false_pass"] for row in exact if row["confidence"] == confidence)
            for confidence in (0.9, 0.95, 0.99)
        },
        "verdicts_checked": checked,
        "verdicts_judged_otherwise": wrong,
        "lengths": len(lengths),
        "lengths_that_break_2.5_percent_at_an_end": sum(bool(row["breaks"]) for row in lengths),
        "worst_exact_too_short": max(row["below"] for row in plain if row["mean"] >= THRESHOLD),
        "worst_exact_too_long": max(row["above"]["1"] for row in plain if row["mean"] <= THRESHOLD),
        "exact_verdicts": exact,
        "effective_lengths": lengths,
    }


def table(found: Row, cells: list[Row]) -> str:
    """The worst of each setting, a line each. ``cells``: the rows of ``gate_power.py`` with few samples."""
    lines = ["", "Few samples, n = 1 to 30. In percent.", ""]
    lines.append("False passes at a loss of just the limit, confidence .95 (at most 5): worst n, exact sums (binary)")
    for kind, limits in LIMITS.items():
        for limit in limits:
            rows = [
                r for r in found["exact_verdicts"] if (r["kind"], r["limit"], r["confidence"]) == (kind, limit, 0.95)
            ]
            worst = max(rows, key=lambda row: row["false_pass"])
            lines.append(f"  {kind:10}{limit:>7} {100 * worst['false_pass']:>6.2f}  at n = {worst['n']}")
    lines += ["", "The same by simulation (graded scores, 13 tasks)"]
    for setting in dict.fromkeys((row["setting"], row["limit"]) for row in cells):
        rows = [row for row in cells if (row["setting"], row["limit"]) == setting]
        worst = max(rows, key=lambda row: row["score"]["pass"])
        lines.append(f"  {setting[0]:14}{setting[1]:>7} {100 * worst['score']['pass']:>6.2f}  at n = {worst['n']}")
    lines += ["", "Effective length, means just at 85.6 (at most 2.5 at each end): worst n",
              f"  {'scores':28}{'tasks':>6} {'means':8} {'sizes':11}{'too short':>10}{'too long':>10}"]  # fmt: skip
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in (row for row in found["effective_lengths"] if row["mean"] == THRESHOLD):
        groups.setdefault((row["scores"], row["tasks"], row["means"], row.get("sizes", "equal")), []).append(row)
    for (scores, tasks, means, sizes), rows in groups.items():
        short, long = max(row["below"] for row in rows), max(row["above"]["1"] for row in rows)
        lines.append(f"  {scores:28}{tasks:>6} {means:8} {sizes:11}{100 * short:>10.2f}{100 * long:>10.2f}")
    lines += ["", "Effective length, binary scores, tasks of equal mean: how often a length is shown to be effective"]
    lines += ["(of 1 and of 6 lengths; true mean 95 and 100) or not to be (true mean 80)"]
    lines += ["   tasks n each  95, of 1  95, of 6 100, of 1 100, of 6     80"]
    exact = {(row["tasks"], row["n_per_task"], row["mean"]): row for row in found["effective_lengths"]
             if row["scores"] == "binary" and row["means"] == "equal"}  # fmt: skip
    for tasks in (1, 4, 13):
        for n in (1, 5, 8, 10, 20, 30):
            shown = [exact[tasks, n, mean]["above"][k] for mean in (0.95, 1.0) for k in ("1", "6")]
            shown.append(exact[tasks, n, 0.80]["below"])
            cells_shown = "".join(f"{100 * value:>{10 if i < 4 else 7}.1f}" for i, value in enumerate(shown))
            lines.append(f"  {tasks:>6}{n:>7}{cells_shown}")
    return "\n".join(lines) + "\n"
