"""Compare finished runs sample by sample, judge them, save a baseline, and write all files about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from lr2eval.base.files import file_name, json_text, output_folder, write_all
from lr2eval.comparisons import baseline
from lr2eval.comparisons.compare import compare_runs, ranking, read_all
from lr2eval.comparisons.exports import gate_markdown, junit, to_csv, to_markdown
from lr2eval.comparisons.gate import check_models, check_pin, judge, not_comparable
from lr2eval.comparisons.gate_config import GateConfig
from lr2eval.comparisons.scores import RunScores
from lr2eval.comparisons.summary import judge_inside_window, three_sentences
from lr2eval.errors import NotComparableError, UsageError
from lr2eval.record.base import as_file
from lr2eval.record.comparison import Comparison, Gate, Side

REPORT = "report.html"
GATE = "gate.json"
FILES = {REPORT, GATE, "comparison.json", "comparison.csv", "comparison.md", "junit.xml", "summary.md"}


@dataclass(frozen=True)
class ComparisonOutcome:
    """A finished comparison: the numbers, and the folder with ``comparison.json``, ``.csv``, ``.md`` and the report."""

    comparison: Comparison
    folder: Path
    report: Path


@dataclass(frozen=True)
class PairOutcome:
    """The comparison of the original and the extended model of one run, with a verdict on the original's window.

    If the two cannot be paired, all fields are ``None`` or empty and ``problem`` says why.
    """

    comparison: Comparison | None
    gate: Gate | None
    sentences: Sequence[str]
    """Does the long window work, what did it cost on short inputs, and the verdict."""
    problem: str = ""


@dataclass(frozen=True)
class GateOutcome:
    """A verdict, and the folder with ``gate.json``, ``junit.xml``, ``summary.md``, the comparison and the report.

    ``comparison`` and ``report`` are ``None`` if the runs cannot be compared.
    """

    gate: Gate
    comparison: Comparison | None
    folder: Path
    report: Path | None


@dataclass(frozen=True)
class BaselineOutcome:
    """A baseline file, and what it contains. Checksum (of the file) and model fingerprint are for ``gate.toml``."""

    path: Path
    samples: int
    digest: str
    checksum: str
    model: str


def compare(
    runs: Sequence[Path | str],
    *,
    out: Path | str | None = None,
    confidence: float = 0.95,
    common: bool = False,
    noise: Sequence[Path | str] = (),
) -> ComparisonOutcome:
    """Compare the first run (a folder or a baseline file) with the others, sample by sample.

    ``confidence`` applies to each end of an interval. With ``common``, what only one run has is left out; otherwise it
    is an error. ``noise`` are repeats of the original; they show how much scores change by chance.
    Raises :class:`lr2eval.NotComparableError` if the runs do not answer the same questions.
    """
    paths = [Path(path) for path in runs]
    if len(paths) < 2:
        raise UsageError("compare needs at least two runs: first the original, then the extended ones")
    original, *extended = _read(paths)
    repeats = read_all([Path(path) for path in noise])
    comparison, _ = compare_runs(original, extended, confidence=confidence, common=common, noise=repeats)
    folder = _folder(out, "-vs-".join(run.side.label for run in (original, *extended)))
    _write(folder, _files([original, *extended], comparison))
    return ComparisonOutcome(comparison, folder, folder / REPORT)


def compare_pair(original: Path, extended: Path, folder: Path) -> PairOutcome:
    """Compare the two runs of ``lr2eval run --baseline`` into ``folder``.

    The report has the gate's verdict on the original's window. Runs that cannot be paired are shown side by side.
    """
    from lr2eval.reports import report_html

    paths = [original, extended]
    try:
        before, after = read_all(paths)
        comparison, (pair,) = compare_runs(before, [after])
        verdict = judge_inside_window(pair)
    except NotComparableError as error:
        _write(folder, {REPORT: report_html(paths)})
        return PairOutcome(None, None, (), str(error))
    _write(folder, _files([before, after], comparison, verdict))
    return PairOutcome(comparison, verdict, three_sentences(pair, verdict))


def compare_sweep(paths: Sequence[Path], folder: Path) -> ComparisonOutcome:
    """Compare the original with each run of a sweep into ``folder``, and rank these."""
    original, *extended = read_all(paths)
    comparison, pairs = compare_runs(original, extended)
    comparison = comparison.model_copy(update={"ranking": ranking(pairs)})
    _write(folder, _files([original, *extended], comparison))
    return ComparisonOutcome(comparison, folder, folder / REPORT)


def gate(
    runs: Sequence[Path | str], config: GateConfig | None = None, *, out: Path | str | None = None, common: bool = False
) -> GateOutcome:
    """The verdict on ``runs`` (original, extended), or on one run against ``config.baseline``.

    ``runs`` are folders; the original may be a baseline file. If the runs cannot be compared, the verdict is
    ``not comparable``; this is not an exception.
    """
    config = config or GateConfig()
    paths = _both([Path(run) for run in runs], config.baseline)
    folder = _folder(out, f"gate-{paths[0].stem}-vs-{paths[1].name}")
    comparison, files = None, {}
    sides: list[Side] = []
    try:
        original, extended = _read(paths)
        sides = [original.side, extended.side]
        check_pin(original.side, config)
        check_models(original.side, extended.side, config)
        found, (pair,) = compare_runs(original, [extended], confidence=config.confidence, common=common)
        verdict = judge(pair, config, common=common)
        comparison, files = found, _files([original, extended], found, verdict)
    except NotComparableError as error:
        verdict = not_comparable(error, config.confidence, *sides)
        files = {GATE: json_text(as_file(verdict))}
    stamp = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S")
    _write(folder, files | {"junit.xml": junit(verdict, stamp), "summary.md": gate_markdown(verdict)})
    return GateOutcome(verdict, comparison, folder, folder / REPORT if comparison else None)


def save_baseline(run: Path | str, out: Path | str) -> BaselineOutcome:
    """Write ids, prompt hashes and scores of a finished run into one small file that can be committed."""
    run = Path(run)
    if not run.is_dir():
        raise UsageError(f"{run}: not a run folder; give the folder of a finished run")
    (scores,) = _read([run])
    path = baseline.save_baseline(scores, Path(out))
    saved = baseline.load_baseline(path)
    samples = sum(shard.n for shard in saved.shards.values())
    return BaselineOutcome(path, samples, saved.side.digest, saved.side.checksum or "", saved.side.model.fingerprint)


def _read(paths: Sequence[Path]) -> list[RunScores]:
    """The scores of runs. Raises :class:`UsageError` if the first of them, the original, has no scores."""
    runs = read_all(paths)
    if not any(shard.scored for shard in runs[0].shards.values()):
        raise UsageError(f"{paths[0]}: has no scored samples; give a run that has some")
    return runs


def _both(paths: Sequence[Path], original: Path | None) -> list[Path]:
    if len(paths) == 1 and original is None:
        raise UsageError("gate needs the original and the extended run, or one run and a `baseline` in --config")
    both = [original, *paths] if len(paths) == 1 and original is not None else [*paths]
    if len(both) != 2:
        raise UsageError(f"gate compares one extended run with its original, but {len(paths)} runs were given")
    return both


def _folder(out: Path | str | None, name: str) -> Path:
    folder = Path(out) if out else Path("runs") / file_name(name, "comparison")[:120]
    if "samples.sqlite" in output_folder(folder):
        raise UsageError(f"--out {folder}: this is the folder of a run; choose another one")
    return folder


def _files(runs: Sequence[RunScores], comparison: Comparison, gate: Gate | None = None) -> dict[str, str]:
    """The text of each file: the comparison in all formats, the verdict as JSON, and the report."""
    from lr2eval.reports import report_html  # matplotlib: a refusal does not wait for it

    verdict = {} if gate is None else {GATE: json_text(as_file(gate))}
    return {
        "comparison.json": json_text(as_file(comparison)),
        "comparison.csv": to_csv(comparison),
        "comparison.md": to_markdown(comparison),
        **verdict,
        REPORT: report_html([run.run for run in runs if run.run is not None], comparison, gate),
    }


def _write(folder: Path, files: Mapping[str, str]) -> None:
    """Write all files or none. Those of an earlier call that this one does not write are deleted."""
    write_all({folder / name: [text.encode("utf-8")] for name, text in files.items()})
    for name in FILES - files.keys():
        (folder / name).unlink(missing_ok=True)
