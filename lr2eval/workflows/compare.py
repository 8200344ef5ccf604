"""Compare finished runs sample by sample, judge them, save a baseline. Writes the files that people and CI read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from lr2eval.base.files import write_atomic, write_json
from lr2eval.errors import NotComparableError, UsageError

if TYPE_CHECKING:
    from lr2eval.comparisons.gate_config import GateConfig
    from lr2eval.record.comparison import Comparison, Gate


@dataclass(frozen=True)
class ComparisonOutcome:
    """A finished comparison: the numbers, and the folder with ``comparison.json``, ``.csv``, ``.md`` and the report."""

    comparison: Comparison
    folder: Path
    report: Path


@dataclass(frozen=True)
class PairOutcome:
    """An original and an extended model of one run, compared, with a verdict on the original's window.

    All are ``None`` or empty where the two cannot be paired; ``problem`` then says why.
    """

    comparison: Comparison | None
    gate: Gate | None
    sentences: Sequence[str]
    """Does the long window work, what did it cost on short inputs, the verdict."""
    problem: str = ""


@dataclass(frozen=True)
class GateOutcome:
    """A verdict, and the folder with ``gate.json``, ``junit.xml``, ``summary.md``, the comparison and the report.

    ``comparison`` and ``report`` are ``None`` where the runs cannot be compared.
    """

    gate: Gate
    comparison: Comparison | None
    folder: Path
    report: Path | None


@dataclass(frozen=True)
class BaselineOutcome:
    """A baseline file, and what it holds."""

    path: Path
    samples: int
    digest: str


def compare(
    runs: Sequence[Path | str],
    *,
    out: Path | str | None = None,
    confidence: float = 0.95,
    common: bool = False,
    unpaired: bool = False,
    noise: Sequence[Path | str] = (),
) -> ComparisonOutcome:
    """Compare the first run (a folder or a baseline file) with the others, sample by sample.

    ``confidence`` holds for each end of an interval. ``common`` leaves out what only one run has, instead of refusing.
    ``noise`` names repeats of the original: their differences show what chance alone does. ``unpaired`` compares means
    of different samples. Raises :class:`lr2eval.NotComparableError` where the runs do not answer the same questions.
    """
    from lr2eval.comparisons.compare import compare as compare_sources
    from lr2eval.comparisons.compare import read_all
    from lr2eval.comparisons.unpaired import compare_unpaired
    from lr2eval.reports import render

    paths = [Path(path) for path in runs]
    if len(paths) < 2:
        raise UsageError("compare needs two runs or more: the original first, then the extended ones")
    sources = read_all(paths)
    if unpaired:
        if noise or common:
            raise UsageError(
                "--unpaired compares means of different samples: --noise and --common mean nothing with it"
            )
        comparison = compare_unpaired(sources[0], sources[1:], confidence=confidence)
    else:
        repeats = read_all([Path(path) for path in noise]) if noise else []
        done = compare_sources(sources[0], sources[1:], confidence=confidence, common=common, noise=repeats)
        comparison = done.comparison
    sides = [comparison.original, *(pair.extended for pair in comparison.pairs)]
    folder = _folder(out, "-vs-".join(side.label for side in sides))
    _write_comparison(comparison, folder)
    report = render([path for path in paths if path.is_dir()], folder / "report.html", comparison=comparison)
    return ComparisonOutcome(comparison, folder, report)


def compare_pair(original: Path, extended: Path, folder: Path) -> PairOutcome:
    """Compare the two runs of ``lr2eval run --baseline`` into ``folder``.

    The report has the gate's verdict on what fits into the original's window. Runs that cannot be paired stand side by
    side in the report.
    """
    from lr2eval.comparisons.compare import compare as compare_sources
    from lr2eval.comparisons.compare import read_all
    from lr2eval.comparisons.summary import in_short, judge_inside
    from lr2eval.reports import render

    try:
        sources = read_all([original, extended])
        done = compare_sources(sources[0], sources[1:])
    except NotComparableError as error:
        render([original, extended], folder / "report.html")
        return PairOutcome(None, None, (), str(error))
    (compared,) = done.compared
    verdict = judge_inside(compared)
    _write_comparison(done.comparison, folder)
    if verdict is not None:
        write_json(folder / "gate.json", verdict.model_dump(mode="json"))
    render([original, extended], folder / "report.html", comparison=done.comparison, gate=verdict)
    return PairOutcome(done.comparison, verdict, in_short(compared, verdict))


def gate(
    runs: Sequence[Path | str], config: GateConfig | None = None, *, out: Path | str | None = None, common: bool = False
) -> GateOutcome:
    """The verdict on ``runs`` (original, extended), or on one run against ``config.baseline``.

    ``runs`` are folders; the original may be a baseline file. Runs that cannot be compared are a verdict too
    (``not comparable``), not an exception.
    """
    from lr2eval.comparisons.compare import compare as compare_sources
    from lr2eval.comparisons.compare import read_all
    from lr2eval.comparisons.gate import check_pin, judge, not_comparable
    from lr2eval.comparisons.gate_config import GateConfig
    from lr2eval.reports import render

    config = config or GateConfig()
    both = _both([Path(run) for run in runs], config.baseline)
    folder = _folder(out, f"gate-{both[0].stem}-vs-{both[1].name}")
    comparison = report = None
    try:
        sources = read_all(both)
        check_pin(sources[0].side, config)
        done = compare_sources(sources[0], sources[1:], confidence=config.confidence, common=common)
        comparison = done.comparison
        verdict = judge(done.compared[0], config)
    except NotComparableError as error:
        verdict = not_comparable(error, config.confidence)
    _write_gate(verdict, folder)
    if comparison is not None:
        _write_comparison(comparison, folder)
        shown = [path for path in both if path.is_dir()]
        report = render(shown, folder / "report.html", comparison=comparison, gate=verdict)
    return GateOutcome(verdict, comparison, folder, report)


def save_baseline(run: Path | str, out: Path | str) -> BaselineOutcome:
    """Write ids, prompt hashes and scores of a finished run into one small file that can be committed."""
    from lr2eval.comparisons import baseline
    from lr2eval.comparisons.compare import read_all

    run = Path(run)
    if not run.is_dir():
        raise UsageError(f"{run}: not a run folder; a baseline is saved from a finished run")
    (source,) = read_all([run])
    path = baseline.save_baseline(source, Path(out))
    return BaselineOutcome(path, sum(shard.n for shard in source.shards.values()), source.side.digest)


def _both(paths: Sequence[Path], baseline: Path | None) -> tuple[Path, Path]:
    if len(paths) == 2:
        return paths[0], paths[1]
    if len(paths) == 1 and baseline is not None:
        return baseline, paths[0]
    if len(paths) == 1:
        raise UsageError("gate needs the original and the extended run, or one run and a `baseline` in --config")
    raise UsageError(f"gate compares one extended run with its original; {len(paths)} runs were given")


def _folder(out: Path | str | None, name: str) -> Path:
    safe = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")[:120] or "comparison"
    folder = Path(out) if out else Path("runs") / safe
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--out {folder}: {error.strerror or error}; choose a folder that can be written") from error
    if (folder / "samples.sqlite").exists():
        raise UsageError(f"--out {folder}: is the folder of a run; choose another, so that its report stays its own")
    return folder


def _write_comparison(comparison: Comparison, folder: Path) -> None:
    from lr2eval.comparisons.exports import to_csv, to_markdown

    write_json(folder / "comparison.json", comparison.model_dump(mode="json"))
    write_atomic(folder / "comparison.csv", to_csv(comparison))
    write_atomic(folder / "comparison.md", to_markdown(comparison))


def _write_gate(verdict: Gate, folder: Path) -> None:
    from lr2eval.comparisons.exports import junit, summary

    write_json(folder / "gate.json", verdict.model_dump(mode="json"))
    stamp = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S")
    write_atomic(folder / "junit.xml", junit(verdict, stamp))
    write_atomic(folder / "summary.md", summary(verdict))
