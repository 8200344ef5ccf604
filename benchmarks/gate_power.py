"""Does the gate keep its word? Simulated pairs of runs, each cell 10,000 data sets, and exact sums for binary scores.

``python benchmarks/gate_power.py`` measures how often a loss of just the margin passes (at most 5 % is promised), how
often nothing lost passes (power), how often it is called a regression, and how often the intervals hold the truth;
beside it the same for the usual rivals on the same data sets. ``gate_few.py`` adds n = 1 to 30. Writes
``benchmarks/results/gate_power.json`` and a table beside it. ``docs/statistics.md`` explains the numbers.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import gate_few
import numpy as np
from machine import facts
from numpy.typing import NDArray
from scipy import stats

from lr2eval.stats.paired import (
    Paired,
    cluster_effect,
    contrast_z,
    decide,
    difference_interval,
    retention_interval,
    score_z,
)

Array = NDArray[np.float64]
Row = dict[str, Any]
HERE = Path(__file__).parent
Z90, Z95 = (float(stats.norm.ppf(q)) for q in (0.95, 0.975))
LOSSES = (0.0, 0.5, 1.0, 2.0)
"""True loss in each cell, in margins."""
BINARY = np.array([[1.0, 1, 1], [1, 1, 0], [1, 0, 1], [1, 0, 0]])  # weight, original, extended


@dataclass
class Data:
    """Data sets of one cell: ``kinds`` ``(m, 3)``, ``counts`` ``(R, m)``, and the same by cluster."""

    kinds: Array
    counts: Array
    truth: tuple[float, float]  # expected (original, extended)
    by_cluster: NDArray[np.int16] | None = None  # (R, C, m)

    @property
    def n(self) -> int:
        return int(self.counts[0].sum())


@dataclass
class Cell:
    setting: str
    n: int
    discordant: float
    kind: str  # margin or retention
    limit: float
    loss: float  # in margins
    base: float = 0.8
    cluster: int = 0
    extra: dict[str, Any] = field(default_factory=dict)


# --- making data -------------------------------------------------------------------------------------------------


def binary_shares(base: float, discordant: float, loss: float) -> Array | None:
    lost, gained = (discordant + loss) / 2, (discordant - loss) / 2
    shares = np.array([base - lost, lost, gained, 1 - base - gained])
    return shares if (shares >= -1e-12).all() else None


def graded_shares(levels: Array, discordant: float, loss: float) -> Array | None:
    """Joint shares ``(5, 5)`` of recall out of 4: changed samples go to any lower or any higher level alike."""
    values = np.arange(5) / 4
    fall, rise = np.zeros((5, 5)), np.zeros((5, 5))
    for i in range(5):
        fall[i, :i] = levels[i] / max(i, 1)
        rise[i, i + 1 :] = levels[i] / max(4 - i, 1)
    step = values[None, :] - values[:, None]
    a, b = np.linalg.solve([[fall.sum(), rise.sum()], [-(fall * step).sum(), -(rise * step).sum()]], [discordant, loss])
    if min(a, b) < 0 or max(a, b) > 1:
        return None
    joint = a * fall + b * rise
    joint += np.diag(levels - joint.sum(1))
    return None if joint.min() < -1e-12 else joint.clip(0)


LEVELS = np.array([0.03, 0.04, 0.06, 0.12, 0.75])
GRID = np.stack([np.ones(25), np.repeat(np.arange(5) / 4, 5), np.tile(np.arange(5) / 4, 5)], -1)


def make(cell: Cell, rng: np.random.Generator, size: int) -> Data | None:
    """The cell's data sets, or None where no distribution has this discordance and this loss."""
    graded = float(LEVELS @ np.arange(5) / 4)
    tasks = (9 * cell.base + 4 * graded) / 13
    base = {"recall of 4": graded, "13 tasks": tasks, "13 tasks weighted": tasks}.get(cell.setting, cell.base)
    loss = cell.loss * (-cell.limit if cell.kind == "margin" else base * (1 - cell.limit))
    if cell.setting == "binary":
        shares = binary_shares(base, cell.discordant, loss)
        if shares is None:
            return None
        return Data(BINARY, rng.multinomial(cell.n, shares.clip(0), size).astype(float), (base, base - loss))
    if cell.cluster:
        shares = binary_shares(base, cell.discordant, loss)
        if shares is None:
            return None
        # Dirichlet-multinomial: every indicator, so every contrast, has this intra-cluster correlation.
        scale = 1 / cell.extra["icc"] - 1
        draws = rng.standard_gamma(shares.clip(1e-12) * scale, (size, cell.n // cell.cluster, 4)) + 1e-300
        seen = rng.multinomial(cell.cluster, draws / draws.sum(-1, keepdims=True)).astype(np.int16)
        if cell.extra.get("losses_only"):
            # Who differs is clustered, which of the others are right is not.
            rest = seen[..., 0] + seen[..., 3]
            seen[..., 0] = rng.binomial(rest, shares[0] / (shares[0] + shares[3]))
            seen[..., 3] = rest - seen[..., 0]
        return Data(BINARY, seen.sum(1).astype(float), (base, base - loss), seen)
    joint = graded_shares(LEVELS, cell.discordant, loss)
    if joint is None:
        return None
    if cell.setting == "recall of 4":
        return Data(GRID, rng.multinomial(cell.n, joint.ravel(), size).astype(float), (base, base - loss))
    # 13 tasks, 9 binary and 4 graded, equal weight for each task; the losses sit in the first four tasks of each sort
    # only, so tasks differ. "weighted": tasks hold 50 and 150 samples in turn.
    sizes = [cell.n // 13] * 13 if cell.setting == "13 tasks" else [50, 150] * 6 + [100]
    uneven = [1.0] * 9 if cell.loss == 0 else [2.25, 2.25, 2.25, 2.25] + [0.0] * 5
    kinds, counts, before, after = [], [], 0.0, 0.0
    for task, n in enumerate(sizes):
        weight = sum(sizes) / 13 / n
        if task < 9:
            shares = binary_shares(cell.base, max(cell.discordant, uneven[task] * loss), uneven[task] * loss)
            if shares is None:
                return None
            part, seen = BINARY * [weight, 1, 1], rng.multinomial(n, shares.clip(0), size)
            mean = (shares[0] + shares[1], shares[0] + shares[2])
        else:
            part, seen = GRID * [weight, 1, 1], rng.multinomial(n, joint.ravel(), size)
            mean = (float(joint.ravel() @ GRID[:, 1]), float(joint.ravel() @ GRID[:, 2]))
        kinds.append(part)
        counts.append(seen)
        before, after = before + mean[0] / 13, after + mean[1] / 13
    every, place = np.unique(np.concatenate(kinds), axis=0, return_inverse=True)
    stacked = np.concatenate(counts, 1)
    merged = np.stack([stacked[:, place.ravel() == i].sum(1) for i in range(len(every))], -1)
    return Data(every, merged.astype(float), (before, after))


# --- judging it --------------------------------------------------------------------------------------------------


def clustering(data: Data, ratio: float) -> tuple[Array, float]:
    """:meth:`Paired.clustering` of many data sets of equal weights at once."""
    assert data.by_cluster is not None
    parts: list[Array] = []
    for contrast in (data.kinds[:, 2] - ratio * data.kinds[:, 1], data.kinds[:, 1] + data.kinds[:, 2]):
        mean = data.counts @ contrast / data.n
        sums = (data.by_cluster @ contrast.astype(np.float32)).astype(float)
        parts += [data.counts @ contrast**2 - data.n * mean**2, sums - sums.mean(1, keepdims=True)]
    return cluster_effect(*parts), data.by_cluster.shape[1] - 1.0


def z_of(data: Data, ratio: float, difference: float, clustered: bool = True) -> Array:
    pairs = (data.kinds[:, 0], data.kinds[:, 1], data.kinds[:, 2])
    if data.by_cluster is not None and clustered:
        return contrast_z(pairs, data.counts, ratio, difference, *clustering(data, ratio))
    rows, place = np.unique(data.counts, axis=0, return_inverse=True)
    return contrast_z(pairs, rows, ratio, difference)[place.ravel()]


def shares_of(pass_: Array, regression: Array) -> dict[str, float]:
    return {"pass": float(pass_.mean()), "regression": float(regression.mean())}


def ours(data: Data, cell: Cell, clustered: bool = True) -> tuple[dict[str, float], Array, Array]:
    """Shares of verdicts and coverage of the score intervals, by the statistic alone: no root is sought."""
    before, after = data.truth
    w, o, e = data.kinds.T
    if cell.kind == "margin":
        limit, equal, truth = ((1.0, cell.limit), (1.0, 0.0), (1.0, after - before))
        estimate = data.counts @ (w * (e - o)) / data.n
    else:
        limit, equal, truth = ((cell.limit, 0.0), (1.0, 0.0), (after / before, 0.0))
        with np.errstate(divide="ignore", invalid="ignore"):
            estimate = (data.counts @ (w * e)) / (data.counts @ (w * o))
    at_limit, at_equal, at_truth = (z_of(data, *place, clustered) for place in (limit, equal, truth))
    passed = at_limit >= Z90
    if cell.kind == "retention":
        passed &= data.counts @ (w * o) > 0  # an original that scores 0 never passes
    failed = ~passed & (((estimate < cell.limit - 1e-9) & (at_equal < -Z90)) | (at_limit < -Z90))
    coverage = {f"cover_{name}": float((np.abs(at_truth) <= z).mean()) for name, z in (("90", Z90), ("95", Z95))}
    return {**shares_of(passed, failed), **coverage}, passed, failed


def rivals(data: Data, cell: Cell, rng: np.random.Generator) -> dict[str, dict[str, float]]:
    """The same verdicts from other intervals of the difference. Weighted cells have none."""
    _, o, e = data.kinds.T
    n, d = data.n, data.kinds[:, 2] - data.kinds[:, 1]
    truth = data.truth[1] - data.truth[0]
    mean = data.counts @ d / n
    spread = np.sqrt((data.counts @ d**2 / n - mean**2).clip(0))
    alone = [np.sqrt((data.counts @ x**2 / n - (data.counts @ x / n) ** 2).clip(0)) for x in (o, e)]
    half = {
        "paired t": (spread / np.sqrt(n - 1), [float(stats.t.ppf(q, n - 1)) for q in (0.95, 0.975)]),
        "Wald": (spread / np.sqrt(n), [Z90, Z95]),
        "unpaired z": (np.hypot(*alone) / np.sqrt(n), [Z90, Z95]),
    }
    found = {name: _verdicts(mean, [(mean - q * se, mean + q * se) for q in qs], cell.limit, truth)
             for name, (se, qs) in half.items()}  # fmt: skip
    few = slice(0, min(1000, len(mean)))
    changes, place = np.unique(d, return_inverse=True)
    seen = np.stack([data.counts[few][:, place == i].sum(1) for i in range(len(changes))], -1)
    if data.by_cluster is None:
        drawn = rng.multinomial(n, (seen / n)[:, None, :], size=(len(seen), 500)) @ changes / n
    else:
        totals = data.by_cluster[few] @ d.astype(np.float32)
        clusters = totals.shape[1]
        drawn = totals @ rng.multinomial(clusters, np.full(clusters, 1 / clusters), 500).T / n
    ends = np.quantile(drawn, [0.05, 0.95, 0.025, 0.975], axis=-1)
    found["bootstrap"] = _verdicts(mean[few], [(ends[0], ends[1]), (ends[2], ends[3])], cell.limit, truth)
    return found


def _verdicts(mean: Array, intervals: list[tuple[Array, Array]], limit: float, truth: float) -> dict[str, float]:
    (low, high), wide = intervals
    # Rounding must not decide: 0.01 reached by counting counts as reached.
    passed = low >= limit - 1e-12
    failed = ~passed & (((mean < limit - 1e-9) & (high < 0)) | (high < limit))
    inside = [((a <= truth + 1e-12) & (b >= truth - 1e-12)).mean() for a, b in ((low, high), wide)]
    return {**shares_of(passed, failed), "cover_90": float(inside[0]), "cover_95": float(inside[1])}


def check_verdicts(data: Data, cell: Cell, passed: Array, failed: Array, few: int) -> int:
    """How many of the first data sets the gate's own path (interval, then ``decide``) judges otherwise."""
    wrong = 0
    for i in range(few):
        seen = data.counts[i].astype(int)
        columns, clusters = np.repeat(data.kinds, seen, axis=0).T, None
        if data.by_cluster is not None:
            rows = [np.repeat(data.kinds, part, axis=0) for part in data.by_cluster[i]]
            columns, clusters = np.concatenate(rows).T, np.repeat(np.arange(len(rows)), cell.cluster)
        paired = Paired(columns[1], columns[2], columns[0], clusters)
        before, after = paired.means()
        if cell.kind == "margin":
            verdict = decide(*difference_interval(paired, 0.9), after - before, cell.limit)
        else:
            verdict = decide(*retention_interval(paired, 0.9), after / before, cell.limit, equal=1.0)
        wrong += verdict != ("pass" if passed[i] else "regression" if failed[i] else "inconclusive")
    return wrong


# --- exact sums --------------------------------------------------------------------------------------------------


def exact_false_pass(n: int, discordant: float, margin: float, z: float) -> tuple[float, float]:
    """Chance that binary scores with a loss of just the margin pass: (the gate's, without continuity correction)."""
    top = int(stats.binom.ppf(1 - 1e-8, n, discordant)) + 1
    k, lost = (grid.ravel() for grid in np.meshgrid(np.arange(top + 1), np.arange(top + 1), indexing="ij"))
    k, lost = k[lost <= k], lost[lost <= k]
    chance = stats.binom.pmf(k, n, discordant) * stats.binom.pmf(lost, k, (discordant + margin) / (2 * discordant))
    worth = (chance > 1e-11) & (k - 2 * lost + margin * n > 0)
    k, lost, chance = k[worth], lost[worth], chance[worth]
    if not len(k):
        return 0.0, 0.0
    counts = np.stack([n - k, lost, k - lost], -1).astype(float)
    with_it = contrast_z((np.ones(3), np.array([1.0, 1, 0]), np.array([1.0, 0, 1])), counts, 1.0, -margin)
    without = score_z([0.0, -1.0, 1.0], counts, -margin)
    return float(chance[with_it >= z].sum()), float(chance[without >= z].sum())


def exact_scan(log: Any) -> list[dict[str, Any]]:
    """Worst case over numbers of samples and discordance, for each margin and confidence."""
    rows = []
    for confidence in (0.9, 0.95, 0.99):
        z = float(stats.norm.ppf(confidence))
        for margin in (0.01, 0.05, 0.1):
            sizes = sorted({20, 50, 100, 200, 500, *np.linspace(0.5 / margin, 15 / margin, 160).astype(int).tolist()})
            # Two sizes at which few losses are expected and the score test alone is at its worst.
            sizes = sorted({*sizes, round(2.5 / margin), round(2.72 / margin), round(1.65 / margin)})
            cells = [
                (n, share, *exact_false_pass(n, share, margin, z))
                for n in sizes
                for share in sorted({1.0001 * margin, 1.5 * margin, 3 * margin, 0.1001, 0.4})
                if n * share <= 150 and share >= margin
            ]
            worst, plain = max(cells, key=lambda row: row[2]), max(cells, key=lambda row: row[3])
            rows.append({
                "confidence": confidence, "margin": margin, "cells": len(cells), "worst": worst[2],
                "at_n": worst[0], "at_discordant": worst[1], "worst_without_correction": plain[3],
                "without_at_n": plain[0], "without_at_discordant": plain[1],
            })  # fmt: skip
            log(f"exact {rows[-1]}")
    return rows


# --- the table ---------------------------------------------------------------------------------------------------


def cells() -> Iterator[Cell]:
    for loss in LOSSES:
        for share in (0.02, 0.05, 0.1, 0.2):
            for n in (100, 500, 2000, 14042):
                yield Cell("binary", n, share, "margin", -0.01, loss)
                for base in (0.45, 0.8):
                    yield Cell("binary", n, share, "retention", 0.985, loss, base)
        for share in (0.1, 0.2, 0.4):
            yield Cell("binary", 20, share, "margin", -0.1, loss)
            yield Cell("binary", 100, share, "margin", -0.05, loss)
        yield Cell("binary", 20, 0.1, "margin", -0.01, loss)
        for share in (0.05, 0.2):
            for n, limit in ((20, -0.05), (100, -0.01), (100, -0.05), (500, -0.01), (2000, -0.01)):
                yield Cell("recall of 4", n, share, "margin", limit, loss)
            yield Cell("recall of 4", 2000, share, "retention", 0.985, loss)
        for setting in ("13 tasks", "13 tasks weighted"):
            for share in (0.05, 0.1):
                yield Cell(setting, 1300, share, "margin", -0.01, loss)
                yield Cell(setting, 1300, share, "retention", 0.985, loss)
        for size in (5, 20):
            for n, limit, share in (
                (100, -0.1, 0.2),
                (500, -0.05, 0.1),
                (2000, -0.01, 0.1),
                (2000, -0.01, 0.02),
                (500, -0.02, 0.03),
            ):
                yield Cell("clusters", n, share, "margin", limit, loss, cluster=size, extra={"icc": 0.3})
            for n, limit, share in ((500, -0.05, 0.1), (2000, -0.01, 0.1), (500, -0.02, 0.03)):
                extra = {"icc": 0.3, "losses_only": True}
                yield Cell("clustered losses", n, share, "margin", limit, loss, cluster=size, extra=extra)
            yield Cell("clusters", 2000, 0.1, "retention", 0.985, loss, cluster=size, extra={"icc": 0.3})


def run_cell(cell: Cell, rng: np.random.Generator, datasets: int, checked: int) -> dict[str, Any] | None:
    data = make(cell, rng, datasets)
    if data is None:
        return None
    shares, passed, failed = ours(data, cell)
    row: dict[str, Any] = {
        "setting": cell.setting, "n": data.n, "discordant": cell.discordant, "kind": cell.kind, "limit": cell.limit,
        "loss_in_margins": cell.loss, "base": round(data.truth[0], 4), "cluster": cell.cluster or None,
        "datasets": datasets, "score": shares, "checked": checked,
        "judged_otherwise": check_verdicts(data, cell, passed, failed, checked),
    }  # fmt: skip
    if cell.loss == 1.0:
        low, high = gate_few.bounds(int(passed.sum()), datasets)
        row["false_pass_99_interval"] = [low, high]
        row["breaks_5_percent"] = low > 0.05
    if cell.kind == "margin" and cell.setting != "13 tasks weighted":
        row["rivals"] = rivals(data, cell, rng)
    if cell.cluster:
        row["clusters_ignored"] = ours(data, cell, clustered=False)[0]
    return row


def table(rows: list[dict[str, Any]]) -> str:
    """One line for each setting: what happens at the four true losses, then the rivals' false passes and coverage."""
    lines = [
        "All in percent. FP: a loss of just the limit passes. pass0: nothing lost passes. pass.5: half the limit lost",
        "passes. reg2: twice the limit lost is a regression. reg0: nothing lost is called one. cov: the 90 and the",
        "95 % intervals hold the truth (worst of the four losses). Rivals: FP / worst coverage of the 90 % interval.",
        "",
        f"{'setting':18}{'n':>6}{'disc':>6}{'base':>6}{'clu':>4} {'limit':>7} |"
        f"{'FP':>6}{'pass0':>7}{'pass.5':>7}{'reg2':>7}{'reg0':>6}{'cov90':>7}{'cov95':>7} |"
        f" {'paired t':>11} {'Wald':>11} {'bootstrap':>11} {'unpaired':>11} {'no clu.':>11}",
    ]
    groups: dict[tuple[Any, ...], dict[float, dict[str, Any]]] = {}
    for row in rows:
        base = row["base"] if row["kind"] == "retention" else None
        key = (row["setting"], row["n"], row["discordant"], base, row["cluster"], row["limit"])
        groups.setdefault(key, {})[row["loss_in_margins"]] = row

    def percent(value: float | None, width: int) -> str:
        return f"{'-' if value is None else format(100 * value, '.1f'):>{width}}"

    for (setting, n, share, base, cluster, limit), by_loss in groups.items():

        def of(loss: float, name: str, by_loss: dict[float, dict[str, Any]] = by_loss) -> float | None:
            return by_loss[loss]["score"][name] if loss in by_loss else None

        worst = [min(row["score"][name] for row in by_loss.values()) for name in ("cover_90", "cover_95")]
        line = (
            f"{setting:18}{n:>6}{100 * share:>6.0f}{'-' if base is None else format(base, '.2f'):>6}"
            f"{cluster or '-':>4} {limit:>7} |"
            + percent(of(1.0, "pass"), 6) + percent(of(0.0, "pass"), 7) + percent(of(0.5, "pass"), 7)
            + percent(of(2.0, "regression"), 7) + percent(of(0.0, "regression"), 6)
            + percent(worst[0], 7) + percent(worst[1], 7) + " |"
        )  # fmt: skip
        for name in ("paired t", "Wald", "bootstrap", "unpaired z", "clusters_ignored"):
            found = {
                loss: row["clusters_ignored"] if name == "clusters_ignored" else row["rivals"][name]
                for loss, row in by_loss.items()
                if (name in row if name == "clusters_ignored" else "rivals" in row)
            }
            false = found[1.0]["pass"] if 1.0 in found else None
            cover = min((part["cover_90"] for part in found.values()), default=None)
            line += f" {percent(false, 5)}/{percent(cover, 5)}" if found else f" {'-':>11}"
        lines.append(line)
    return "\n".join(lines) + "\n"


def simulated(cells: Iterable[Cell], arguments: argparse.Namespace, log: Any, checked: int) -> tuple[list[Row], int]:
    """(a row for each cell, number of cells that no distribution fits)."""
    rows: list[Row] = []
    impossible = 0
    for number, cell in enumerate(cells):
        row = run_cell(cell, np.random.default_rng([arguments.seed, number]), arguments.datasets, checked)
        impossible += row is None
        rows += [] if row is None else [row]
        log(f"{number} {cell} {None if row is None else row['score']}")
    return rows, impossible


def study(arguments: argparse.Namespace, log: Any) -> Row:
    """The study of 20 samples and more."""
    started = time.process_time()
    rows, impossible = simulated(cells(), arguments, log, arguments.checked)
    exact = exact_scan(log)
    at_limit = [row for row in rows if row["loss_in_margins"] == 1.0]
    worst = max(at_limit, key=lambda row: row["score"]["pass"])
    return {
        "cells": len(rows),
        "cells_no_distribution_fits": impossible,
        "datasets_per_cell": arguments.datasets,
        "cells_at_the_limit": len(at_limit),
        "cells_that_break_5_percent": sum(row["breaks_5_percent"] for row in at_limit),
        "worst_false_pass": worst["score"]["pass"],
        "worst_false_pass_99_interval": worst["false_pass_99_interval"],
        "worst_false_pass_cell": {
            key: worst[key] for key in ("setting", "n", "discordant", "kind", "limit", "cluster")
        },
        "worst_false_regression_when_nothing_is_lost": max(
            row["score"]["regression"] for row in rows if row["loss_in_margins"] == 0.0
        ),
        "verdicts_checked": sum(row["checked"] for row in rows),
        "verdicts_judged_otherwise": sum(row["judged_otherwise"] for row in rows),
        "bootstrap": "500 resamples, the first 1,000 data sets of each cell; whole clusters where there are clusters",
        "cpu_seconds": round(time.process_time() - started),
        "machine": facts(),
        "exact_binary": exact,
        "rows": rows,
    }


def few(arguments: argparse.Namespace, log: Any) -> Row:
    """The study of 1 to 30 samples (13 tasks: each): graded scores here, binary ones by exact sums."""
    started = time.process_time()
    few_cells = [
        Cell(setting, n * tasks, share, "retention", limit, 1.0)
        for limit, share, n in product((0.985, 0.9, 0.7, 0.5), (0.05, 0.2, 0.4, 0.6), gate_few.SOME)
        for setting, tasks in (("recall of 4", 1), ("13 tasks", 13))
    ]
    rows, impossible = simulated(few_cells, arguments, log, 0)
    return {
        "cells": len(rows),
        "cells_no_distribution_fits": impossible,
        "cells_that_break_5_percent": sum(row["breaks_5_percent"] for row in rows),
        "worst_false_pass_of_the_cells": max(row["score"]["pass"] for row in rows),
        **gate_few.study(arguments.seed, arguments.datasets, log),
        "cpu_seconds": round(time.process_time() - started),
        "machine": facts(),
        "rows": rows,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--datasets", type=int, default=10_000, help="in each cell")
    parser.add_argument("--checked", type=int, default=3, help="data sets of each cell that also take the gate's path")
    parser.add_argument("--seed", type=int, default=20261125)
    parser.add_argument("--log", type=Path, default=Path("gate_power.log"))
    parser.add_argument("--out", type=Path, default=HERE / "results" / "gate_power.json")
    parser.add_argument("--few", action="store_true", help="only n = 1 to 30; the rest stays as it is in --out")
    arguments = parser.parse_args()
    started = time.process_time()

    with arguments.log.open("w", encoding="utf-8") as file:

        def log(text: str) -> None:
            print(f"{time.process_time() - started:7.1f} s  {text}", file=file, flush=True)

        outcome = json.loads(arguments.out.read_text(encoding="utf-8")) if arguments.few else study(arguments, log)
        outcome["few"] = few(arguments, log)
    arguments.out.write_text(json.dumps(outcome, indent=1) + "\n", encoding="utf-8")
    text = table(outcome["rows"]) + gate_few.table(outcome["few"], outcome["few"]["rows"])
    arguments.out.with_suffix(".txt").write_text(text, encoding="utf-8")
    print(text)
    parts = (outcome, outcome["few"])
    print(json.dumps([{k: v for k, v in part.items() if not isinstance(v, list | dict)} for part in parts], indent=1))
    return int(any(part[key] for part in parts for key in part if "_break_" in key or "_otherwise" in key))


if __name__ == "__main__":
    raise SystemExit(main())
