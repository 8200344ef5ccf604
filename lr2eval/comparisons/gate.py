"""The verdict of the gate: does the extended model keep the scores of the original within the limits?

This is a non-inferiority test, not a test for "no significant difference". A check passes if the loss is shown to be
within its limit. A gate passes if every check does (an intersection-union test, so it needs no correction for their
number). ``docs/statistics.md`` has the rule and its measured error rates.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import scipy

from lr2eval._version import __version__
from lr2eval.base.console import suggestion
from lr2eval.base.units import format_length, parse_length
from lr2eval.comparisons.compare import PairedRuns, means, pool, retention
from lr2eval.comparisons.exports import left_out, significant_tasks
from lr2eval.comparisons.gate_config import GateConfig
from lr2eval.comparisons.pairing import PairedShard, some, why_not_run
from lr2eval.errors import Lr2EvalError, NotComparableError, TaskError, UsageError
from lr2eval.record.comparison import Check, Gate, LeftOut, Regressed, Side, Verdict
from lr2eval.registry import benchmarks
from lr2eval.stats.paired import Paired, decide, difference_z, required_n, retention_z

EXIT_CODES: Mapping[Verdict, int] = {"pass": 0, "regression": 1, "inconclusive": 3, "not comparable": 4}
_WORST_FIRST: tuple[Verdict, ...] = ("regression", "inconclusive")
_LM_EVAL = "lm_eval"
"""Tasks of lm-eval have no common headline number, so each of them is a separate check."""


def judge(runs: PairedRuns, config: GateConfig, *, common: bool = False) -> Gate:
    """The verdict on one extended model, from every shard that the checks need.

    With ``common``, shards that no check needs may be in one run only. Raises :class:`UsageError` for a check that
    names nothing in the original, :class:`NotComparableError` if a needed shard has no pairs.
    """
    every = _with_gaps(runs)
    names = dict.fromkeys([*(config.tasks or default_checks(every)), *config.checks])
    chosen = {name: _select(name, every)[1] for name in names}
    for name in (*(config.tasks or ()), *config.checks):
        if not any(shard.name in runs.original.shards for shard in chosen[name]):
            raise UsageError(f"check {name!r}: {runs.original.side.label} has no such shard; name what it has")
    needed = [shard for shards in chosen.values() for shard in shards] if config.tasks else every.shards
    extra = [] if common else [shard for shard in every.shards if shard.name not in runs.original.shards]
    _refuse_gaps(list(dict.fromkeys(shard.name for shard in (*needed, *extra) if not len(shard.original))), runs)
    checks = [check for name in names for check in _checks(name, runs, config)]
    # Single tasks with a significant loss are listed, whatever the checks are.
    regressed = [
        Regressed(name=row.name, difference=row.difference, p_holm=row.p_holm or 0.0)
        for row in significant_tasks(runs.record, config.confidence)
        if row.difference < 0
    ]
    missing = [*runs.record.left_out, *_beyond(runs, names)]
    verdicts = [check.verdict for check in checks]
    verdict: Verdict = next((each for each in _WORST_FIRST if each in verdicts), "pass")
    return Gate(
        lr2eval_version=__version__,
        verdict=verdict,
        exit_code=EXIT_CODES[verdict],
        paragraph=_paragraph(verdict, checks, regressed, runs, config.confidence) + left_out(missing),
        confidence=config.confidence,
        original=runs.original.side,
        extended=runs.extended.side,
        checks=checks,
        regressed=regressed,
        left_out=missing,
        caveats=[*runs.record.caveats, *_weak_pin(runs.original.side, config)],
    )


def _with_gaps(runs: PairedRuns) -> PairedRuns:
    """The runs with an empty shard for each shard that has no pairs and should have some.

    Each shard that the original scored should. So should each shard of the extended run that the original could have
    run and that its record does not explain: someone may have deleted it from the original.
    """
    original, extended = runs.original, runs.extended
    window = math.inf if original.side.settings.get("beyond_window") else original.side.model.window
    gaps = {name: shard for name, shard in original.shards.items() if name not in extended.shards or shard.scored} | {
        name: shard
        for name, shard in extended.shards.items()
        if name not in original.shards and (shard.length or 0) <= window and why_not_run(original, shard) is None
    }
    none = np.array([])
    paired = {shard.name for shard in runs.shards}
    empty = [
        PairedShard(name, s.benchmark, s.task, s.length, none, none, (), ())
        for name, s in gaps.items()
        if name not in paired
    ]
    return replace(runs, shards=[*runs.shards, *empty])


def _refuse_gaps(names: Sequence[str], runs: PairedRuns) -> None:
    """Refuse a verdict if these shards, which it needs, have no pairs."""
    first, second = runs.original.side.label, runs.extended.side.label
    if lost := [name for name in names if name not in runs.extended.shards]:
        raise NotComparableError(
            f"{second} has no scores for {some(lost)}, which the checks need; run them, or choose other checks with "
            "--tasks"
        )
    if extra := [name for name in names if name not in runs.original.shards]:
        raise NotComparableError(
            f"{first} has no scores for {some(extra)} and does not say why, though {second} has them; restore {first} "
            "or run them, or leave them out with --common and --tasks"
        )
    if names:
        raise NotComparableError(
            f"{some(names)}: no sample is left that both runs scored; run both with the same settings, or choose other "
            "checks with --tasks"
        )


def not_comparable(
    error: Lr2EvalError, confidence: float, original: Side | None = None, extended: Side | None = None
) -> Gate:
    """The verdict if the two runs cannot be compared. The sides are ``None`` if they could not be read."""
    return Gate(
        lr2eval_version=__version__,
        verdict="not comparable",
        exit_code=EXIT_CODES["not comparable"],
        paragraph=f"NOT COMPARABLE: {error}.",
        confidence=confidence,
        original=original,
        extended=extended,
        checks=[],
        regressed=[],
        left_out=[],
        caveats=[],
        reason=str(error),
    )


def check_pin(original: Side, config: GateConfig) -> None:
    """Refuse an original other than the one that ``gate.toml`` pins."""
    digests = [original.digest] if original.checksum is None else [original.checksum, original.digest]
    for key, what, pinned, found in (
        ("baseline_digest", "digest", config.baseline_digest, digests),
        ("baseline_model", "model fingerprint", config.baseline_model, [original.model.fingerprint]),
    ):
        if pinned is not None and not any(each.startswith(pinned) for each in found):
            raise NotComparableError(
                f"{original.source} has {what} {found[0][:12]}, but the gate pins {pinned[:12]}; restore the pinned "
                f"baseline, or change {key} in the gate's configuration"
            )


def _weak_pin(original: Side, config: GateConfig) -> list[str]:
    pinned, checksum = config.baseline_digest, original.checksum
    if pinned is None or checksum is None or checksum.startswith(pinned):
        return []
    return [f"baseline_digest names a run, whose digest {original.source} only states; pin its checksum, {checksum}"]


def check_models(original: Side, extended: Side, config: GateConfig) -> None:
    """Refuse a model compared with itself, unless ``same_model`` asks for it."""
    if original.model.fingerprint == extended.model.fingerprint and not config.same_model:
        raise NotComparableError(
            f"{original.label} and {extended.label} are the same model (fingerprint "
            f"{original.model.fingerprint[:12]}); give a run of the extended model, or add --same-model to check noise "
            "or a serving configuration"
        )


def default_checks(runs: PairedRuns) -> list[str]:
    """One check for each benchmark that both ran within the original's window, and one for each task of lm-eval.

    Raises :class:`NotComparableError` if there is none.
    """
    window = runs.original.side.model.window
    found = [s.task if s.benchmark == _LM_EVAL else s.benchmark for s in runs.shards if not s.beyond(window)]
    if not found:
        raise NotComparableError(
            f"the two runs have no samples within the original's window of {format_length(window)}, and by default the "
            f"gate checks only those; run shorter --lengths, or name a check such as {_at_length(runs.shards[0])}"
        )
    return list(dict.fromkeys(found))


def _beyond(runs: PairedRuns, names: Iterable[str]) -> list[LeftOut]:
    """What lies beyond the original's window, by benchmark and length, as far as no check names it."""
    window = runs.original.side.model.window
    checked = {shard.name for name in names for shard in _select(name, runs)[1]}
    found = Counter[str]()
    for shard in runs.shards:
        if shard.beyond(window) and shard.name not in checked:
            found[_at_length(shard)] += len(shard.original)
    reason = f"beyond the original's window of {format_length(window)}, and no check names it"
    return [LeftOut(what=what, n=n, reason=reason) for what, n in found.items()]


def _at_length(shard: PairedShard) -> str:
    return shard.benchmark if shard.length is None else f"{shard.benchmark}@{format_length(shard.length)}"


def _checks(name: str, runs: PairedRuns, config: GateConfig) -> list[Check]:
    benchmark, shards = _select(name, runs)
    whole = name.partition("@")[0] == benchmark
    weights = config.weights.get(benchmark)
    for task in weights or {}:
        if not any(_named(shard, task) for shard in runs.shards if shard.benchmark == benchmark):
            raise UsageError(f"weights.{benchmark}: the runs have no task {task!r}")
    by_task = {s.task: w for s in shards for task, w in (weights or {}).items() if _named(s, task)}
    paired = pool(shards, runs.extended.weighting("benchmark" if whole else "task", benchmark), by_task)
    limits = config.limits(name)
    kinds: list[tuple[Literal["margin", "retention"], float | None]] = [
        ("retention", limits.min_retention), ("margin", limits.margin)
    ]  # fmt: skip
    return [_check(name, paired, kind, limit, config.confidence) for kind, limit in kinds if limit is not None]


def _select(name: str, runs: PairedRuns) -> tuple[str, list[PairedShard]]:
    """Benchmark and shards of a check: ``mmlu``, ``ruler:vt``, ``ruler:niah``, ``ruler@8k``, ``hellaswag``.

    Without a length, only what is within the original's window.
    """
    full, at, length = name.partition("@")
    benchmark, colon, selector = full.partition(":")
    pool = list(runs.shards)
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
        known = [part for s in runs.shards for part in (s.benchmark, s.task, f"{s.benchmark}:{s.task}")]
        raise UsageError(f"check {name!r}: the two runs have nothing with this name; {suggestion(name, known)}")
    window = runs.original.side.model.window
    inside = [shard for shard in found if at or not shard.beyond(window)]
    if not inside:
        lengths = sorted({shard.length for shard in found if shard.length is not None})
        named = ", ".join(f"{full}@{format_length(length)}" for length in lengths)
        raise UsageError(
            f"check {name!r}: all its samples are beyond the original's window of {format_length(window)}; to check "
            f"them, name the length: {named}"
        )
    return benchmark, inside


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
    found = means(paired, confidence) | retention(paired, confidence)
    shown, kept = found["interval"], found["retention_interval"]
    verdict: Verdict
    if kind == "margin":
        verdict = decide(shown.low, shown.high, found["difference"], -limit, 0.0)
        z, equal = difference_z(paired, -limit / 100), limit / 100
        seen = after - before + limit / 100
        criterion = f"loss of at most {limit:g} points"
    else:
        # If the original scores 0 there is nothing to retain, whatever the number of samples.
        verdict = "inconclusive" if kept is None else decide(kept.low, kept.high, after / before, limit, 1.0)
        z, equal = retention_z(paired, limit), (1 - limit) * before
        seen = after - limit * before
        criterion = f"retention of at least {100 * limit:g} %"
    ratio = limit if kind == "retention" else 1.0
    spread = float(np.std(paired.contrast(ratio))) * math.sqrt(paired.design_effect(ratio))
    needed, needed_if_equal = (
        required_n(spread, distance, confidence) if verdict == "inconclusive" else None for distance in (seen, equal)
    )
    check = Check(
        name=name,
        verdict=verdict,
        criterion=criterion,
        kind=kind,
        limit=limit,
        **found,
        p_noninferior=float(scipy.stats.norm.sf(z)),
        needed_n=needed,
        needed_n_if_equal=needed_if_equal,
        message="",
    )
    return check.model_copy(update={"message": _message(check, confidence)})


def _message(check: Check, confidence: float) -> str:
    """One line about a check: the scores, the limit, and what they mean."""
    kept = "" if check.retention is None else f", {100 * check.retention:.1f} % retained"
    scores = f"{check.original:.1f} -> {check.extended:.1f}"
    seen = f"{check.name}: {scores} ({check.difference:+.2f} points{kept}, n = {check.n:,})"
    if check.kind == "margin":
        limit = f"{check.limit:g} points"
        beyond = f"the loss exceeds the limit of {limit} and is more than chance"
        bound = f"the loss is at most {max(0.0, -check.interval.low):.2f} points"
    else:
        limit = f"{100 * check.limit:g} %"
        beyond = f"less than the limit of {limit} is retained, and the loss is more than chance"
        low = 0.0 if check.retention_interval is None else check.retention_interval.low
        bound = f"at least {100 * low:.2f} % is retained"
    if check.verdict == "regression":
        return f"{seen}; {beyond}"
    if check.retention is None and check.kind == "retention":
        return f"{seen}; the original scores 0 here, so there is nothing to retain: use --margin or other --tasks"
    loss = "there is a loss, but " if check.verdict == "pass" and check.interval.high < 0 else ""
    bound = f"{seen}; {loss}with {100 * confidence:g} % confidence {bound}; the limit is {limit}"
    return bound if check.verdict == "pass" else f"{bound}; {_would_decide(check)}"


def _would_decide(check: Check) -> str:
    seen, equal = (
        None if n is None else _rounded(max(n, check.n + 1)) for n in (check.needed_n, check.needed_n_if_equal)
    )
    if seen is not None and seen == equal:
        return f"about {seen} samples would decide if the scores stay the same"
    texts = [] if seen is None else [f"about {seen} samples would decide if the true scores are as observed"]
    texts += [] if equal is None else [f"about {equal} samples would decide if nothing was lost"]
    return ", ".join(texts) or "more samples would not decide if the true scores are as observed"


def _rounded(n: int) -> str:
    """Rounded up to two significant digits."""
    step = 10 ** max(0, len(str(n)) - 2)
    return f"{-(-n // step) * step:,}"


def _paragraph(
    verdict: Verdict, checks: Sequence[Check], regressed: Sequence[Regressed], runs: PairedRuns, confidence: float
) -> str:
    before, after = runs.original.side.label, runs.extended.side.label
    said = {
        "pass": f"PASS: {after} keeps the scores of {before} within the limits.",
        "regression": f"REGRESSION: {after} lost more than the limits allow, compared with {before}.",
        "inconclusive": f"INCONCLUSIVE: the samples do not show whether {after} keeps the scores of {before}.",
    }[verdict]
    # The checks that led to the verdict come first.
    order = sorted(checks, key=lambda check: check.verdict != verdict)
    told = ". ".join(check.message for check in order[:4])
    more = f" {len(order) - 4} more checks are not shown here." if len(order) > 4 else ""
    named = ", ".join(f"{each.name} ({each.difference:+.1f})" for each in regressed[:5])
    rest = f" and {len(regressed) - 5} more" if len(regressed) > 5 else ""
    fell = f" Tasks with a significant loss (Holm, {100 * confidence:g} %): {named}{rest}." if regressed else ""
    return re.sub(r"\s+", " ", f"{said} {told}.{more}{fell}")
