"""The verdict: is what the original could do still there, is it lost, or do the samples not tell?

Non-inferiority, not "no significant difference": a check passes when the loss is shown to lie within its limit, and a
gate passes when every check does (an intersection-union test, so no correction for their number is due). The rule and
its measured error rates are in ``docs/statistics.md``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from scipy import stats

from lr2eval._version import __version__
from lr2eval.base.console import suggestion
from lr2eval.base.units import format_length, parse_length
from lr2eval.comparisons.compare import Compared, interval, points, retained, together
from lr2eval.comparisons.gate_config import GateConfig
from lr2eval.comparisons.pairing import PairedShard
from lr2eval.errors import Lr2EvalError, NotComparableError, TaskError, UsageError
from lr2eval.record.comparison import Check, Gate, Regressed, Side, Verdict
from lr2eval.registry import benchmarks
from lr2eval.stats.paired import Paired, decide, difference_z, required_n, retention_z

EXIT_CODES: Mapping[Verdict, int] = {"pass": 0, "regression": 1, "inconclusive": 3, "not comparable": 4}
_FOREIGN = "lm_eval"
"""Tasks of lm-eval share no headline, so each is a check of its own."""


def judge(compared: Compared, config: GateConfig) -> Gate:
    """The verdict on one extended model. Raises :class:`UsageError` for a check that names nothing in the runs."""
    check_pin(compared.original.side, config)
    names = config.tasks or default_checks(compared)
    names = list(dict.fromkeys([*names, *config.checks]))
    checks = [check for name in names for check in _checks(name, compared, config)]
    regressed = _regressed(compared, config.confidence)
    verdict = _overall([check.verdict for check in checks])
    return Gate(
        lr2eval_version=__version__,
        verdict=verdict,
        exit_code=EXIT_CODES[verdict],
        paragraph=_paragraph(verdict, checks, regressed, compared, config.confidence),
        confidence=config.confidence,
        original=compared.original.side,
        extended=compared.extended.side,
        checks=checks,
        regressed=regressed,
        left_out=compared.pair.left_out,
        mind=compared.pair.mind,
    )


def not_comparable(error: Lr2EvalError, confidence: float) -> Gate:
    """The verdict when two runs cannot be compared at all."""
    return Gate(
        lr2eval_version=__version__,
        verdict="not comparable",
        exit_code=EXIT_CODES["not comparable"],
        paragraph=f"NOT COMPARABLE: {error}.",
        confidence=confidence,
        original=None,
        extended=None,
        checks=[],
        regressed=[],
        left_out=[],
        mind=[],
        reason=str(error),
    )


def check_pin(original: Side, config: GateConfig) -> None:
    """Refuse an original that is not the one ``gate.toml`` pins."""
    pinned = config.baseline_digest
    if pinned is not None and not original.digest.startswith(pinned):
        raise NotComparableError(
            f"{original.source} has digest {original.digest[:12]}, the gate pins {pinned[:12]}; restore the pinned "
            "baseline, or change baseline_digest in a reviewed commit"
        )


def default_checks(compared: Compared) -> list[str]:
    """One check for every benchmark both ran, one for every task of lm-eval."""
    names = []
    for shard in compared.shards:
        names.append(shard.task if shard.benchmark == _FOREIGN else shard.benchmark)
    return list(dict.fromkeys(names))


def _checks(name: str, compared: Compared, config: GateConfig) -> list[Check]:
    benchmark, shards = _select(name, compared)
    whole = name.partition("@")[0] == benchmark
    weights = config.weights.get(benchmark)
    for task in weights or {}:
        if not any(_named(shard, task) for shard in compared.shards if shard.benchmark == benchmark):
            raise UsageError(f"weights.{benchmark}: no task {task!r} in the runs")
    by_task = {s.task: w for s in shards for task, w in (weights or {}).items() if _named(s, task)}
    paired = together(shards, compared.headline(benchmark) if whole else "tasks", by_task)
    limits = config.limits(name)
    kinds: list[tuple[Literal["margin", "retention"], float]] = []
    if limits.min_retention is not None:
        kinds.append(("retention", limits.min_retention))
    if limits.margin is not None:
        kinds.append(("margin", limits.margin))
    return [_check(name, paired, kind, limit, config.confidence) for kind, limit in kinds]


def _select(name: str, compared: Compared) -> tuple[str, list[PairedShard]]:
    """Benchmark and shards a check names: ``mmlu``, ``ruler:vt``, ``ruler:niah``, ``ruler@8k``, ``hellaswag``."""
    full, at, length = name.partition("@")
    benchmark, colon, selector = full.partition(":")
    pool = list(compared.shards)
    if at:
        try:
            wanted = parse_length(length)
        except ValueError as error:
            raise UsageError(f"check {name!r}: {error}") from error
        pool = [shard for shard in pool if shard.length == wanted]
    found = [shard for shard in pool if shard.benchmark == benchmark]
    if colon:
        exact = [shard for shard in found if _named(shard, selector)]
        found = exact or [shard for shard in found if shard.task in _plugin_tasks(benchmark, selector)]
    elif not found:
        found = [shard for shard in pool if shard.task == full]
        benchmark = found[0].benchmark if found else benchmark
    if not found:
        known = [*default_checks(compared), *(f"{s.benchmark}:{s.task}" for s in compared.shards)]
        raise UsageError(f"check {name!r}: nothing of that name in both runs; {suggestion(name, known)}")
    return benchmark, found


def _named(shard: PairedShard, name: str) -> bool:
    return shard.task in (name, f"{shard.benchmark}_{name}")


def _plugin_tasks(benchmark: str, selector: str) -> Sequence[str]:
    plugin = benchmarks().get(benchmark)
    try:
        return plugin.select(selector) if plugin is not None else ()
    except TaskError:
        return ()


def _check(name: str, paired: Paired, kind: Literal["margin", "retention"], limit: float, confidence: float) -> Check:
    before, after = paired.means()
    gap, shown = points(after - before), interval(paired, confidence)
    retention, kept = retained(paired, confidence)
    verdict: Verdict
    if kind == "margin":
        verdict = decide(shown.low, shown.high, gap, -limit, 0.0)
        z, equal = difference_z(paired, -limit / 100), limit / 100
        seen = after - before + limit / 100
        criterion = f"loss of at most {limit:g} points"
    else:
        # An original that scores nothing has nothing to retain, however many samples there are.
        verdict = "inconclusive" if kept is None else decide(kept.low, kept.high, after / before, limit, 1.0)
        z, equal = retention_z(paired, limit), (1 - limit) * before
        seen = after - limit * before
        criterion = f"retention of at least {100 * limit:g} %"
    ratio = limit if kind == "retention" else 1.0
    spread = float(np.std(paired.contrast(ratio))) * math.sqrt(paired.design_effect(ratio))
    needed, needed_if_equal = (required_n(spread, distance, confidence) for distance in (seen, equal))
    found = Check(
        name=name,
        verdict=verdict,
        criterion=criterion,
        kind=kind,
        limit=limit,
        n=paired.n,
        original=points(before),
        extended=points(after),
        difference=gap,
        interval=shown,
        retention=retention,
        retention_interval=kept,
        p_noninferior=float(stats.norm.sf(z)),
        needed_n=needed if verdict == "inconclusive" else None,
        needed_n_if_equal=needed_if_equal if verdict == "inconclusive" else None,
        message="",
    )
    return found.model_copy(update={"message": _message(found, confidence)})


def _regressed(compared: Compared, confidence: float) -> list[Regressed]:
    """Tasks that lost for certain, whatever the checks ask: Holm over all tasks at the gate's level."""
    return [
        Regressed(
            name=f"{row.benchmark}:{row.task}" + ("" if row.length is None else f"@{format_length(row.length)}"),
            difference=row.difference,
            p_holm=row.p_holm,
        )
        for row in compared.pair.differences
        if row.level == "shard" and row.p_holm is not None and row.p_holm < 1 - confidence and row.difference < 0
    ]


def _overall(verdicts: Sequence[Verdict]) -> Verdict:
    order: tuple[Verdict, ...] = ("regression", "not comparable", "inconclusive")
    return next((each for each in order if each in verdicts), "pass")


def _message(check: Check, confidence: float) -> str:
    """One line about one check: what was asked, what was seen, what it means."""
    kept = "" if check.retention is None else f", {100 * check.retention:.1f} % retained"
    scores = f"{check.original:.1f} -> {check.extended:.1f}"
    seen = f"{check.name}: {scores} ({check.difference:+.2f} points{kept}, n = {check.n:,})"
    sure = f"{100 * confidence:g} % confidence"
    if check.kind == "margin":
        bound = f"the loss is at most {max(0.0, -check.interval.low):.2f} points"
        limit = f"{check.limit:g} points"
    else:
        low = 0.0 if check.retention_interval is None else check.retention_interval.low
        bound = f"at least {100 * low:.2f} % is retained"
        limit = f"{100 * check.limit:g} %"
    if check.verdict == "pass":
        loss = "a loss is shown, but " if check.interval.high < 0 else ""
        return f"{seen}; {loss}with {sure} {bound}, the limit is {limit}"
    if check.verdict == "regression":
        return f"{seen}; beyond the limit of {limit}, and more than chance"
    if check.retention is None and check.kind == "retention":
        return f"{seen}; the original scores 0 here, so nothing can be retained: choose --margin or other --tasks"
    return f"{seen}; {bound} with {sure}, the limit is {limit}: {_would_decide(check)}"


def _would_decide(check: Check) -> str:
    seen = None if check.needed_n is None else _rounded(max(check.needed_n, check.n + 1))
    equal = None if check.needed_n_if_equal is None else _rounded(max(check.needed_n_if_equal, check.n + 1))
    if seen is not None and seen == equal:
        return f"about {seen} samples would decide if this goes on"
    texts = [] if seen is None else [f"about {seen} samples would decide if the truth is what was seen"]
    texts += [] if equal is None else [f"about {equal} if nothing was lost"]
    return ", ".join(texts) or "no number of samples would decide if the truth is what was seen"


def _rounded(n: int) -> str:
    """Two significant digits, upwards: a plan, not a measurement."""
    step = 10 ** max(0, len(str(n)) - 2)
    return f"{-(-n // step) * step:,}"


def _paragraph(
    verdict: Verdict, checks: Sequence[Check], regressed: Sequence[Regressed], compared: Compared, confidence: float
) -> str:
    before, after = compared.original.side.label, compared.extended.side.label
    said = {
        "pass": f"PASS: {after} keeps what {before} could do, within the limits asked for.",
        "regression": f"REGRESSION: {after} lost more than allowed against {before}.",
        "inconclusive": f"INCONCLUSIVE: these samples do not tell whether {after} keeps what {before} could do.",
        "not comparable": f"NOT COMPARABLE: {after} and {before}.",
    }[verdict]
    # What decided comes first.
    order = sorted(checks, key=lambda check: check.verdict != verdict)
    told = ". ".join(check.message for check in order[:4])
    more = f" And {len(order) - 4} more checks." if len(order) > 4 else ""
    named = ", ".join(f"{each.name} ({each.difference:+.1f})" for each in regressed[:5])
    rest = f" and {len(regressed) - 5} more" if len(regressed) > 5 else ""
    fell = f" Single tasks that fell for certain (Holm, {100 * confidence:g} %): {named}{rest}." if regressed else ""
    return re.sub(r"\s+", " ", f"{said} {told}.{more}{fell}")
