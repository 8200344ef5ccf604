"""``lr2eval compare``, ``gate`` and ``baseline``: read runs, judge them, write the files people and CI read."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lr2eval._errors import NotComparableError, UsageError
from lr2eval._paths import write_atomic, write_json
from lr2eval._tables import printed_table, table

if TYPE_CHECKING:
    from lr2eval._comparison import Comparison, Difference, Gate, Pair


def compare_command(
    paths: Sequence[Path],
    *,
    out: Path | None,
    confidence: float,
    common: bool,
    unpaired: bool,
    noise: Sequence[Path],
) -> None:
    """Compare the first run with the others; writes ``comparison.json``, ``.csv``, ``.md`` and ``report.html``."""
    from lr2eval import _compare
    from lr2eval._unpaired import compare_unpaired
    from lr2eval.reports import render

    if len(paths) < 2:
        raise UsageError("compare needs two runs or more: the original first, then the extended ones")
    sources = _compare.read_all(paths)
    if unpaired:
        if noise or common:
            raise UsageError(
                "--unpaired compares means of different samples: --noise and --common mean nothing with it"
            )
        comparison = compare_unpaired(sources[0], sources[1:], confidence=confidence)
    else:
        repeats = _compare.read_all(noise) if noise else []
        done = _compare.compare(sources[0], sources[1:], confidence=confidence, common=common, noise=repeats)
        comparison = done.comparison
    folder = _folder(out, "-vs-".join(side.label for side in (comparison.original, *_extended(comparison))))
    _write_comparison(comparison, folder)
    _print_comparison(comparison)
    path = render([p for p in paths if p.is_dir()], folder / "report.html", comparison=comparison)
    print(f"report: {path}")


def compare_pair(original: Path, extended: Path, folder: Path) -> None:
    """What `lr2eval run --baseline` says of its two runs; where they cannot be paired, why, and both side by side.

    The report has the gate's verdict on what fits into the original's window; a run itself ends with exit code 0.
    """
    import textwrap

    from lr2eval import _compare
    from lr2eval._in_short import in_short, judge_inside
    from lr2eval.reports import render

    try:
        sources = _compare.read_all([original, extended])
        done = _compare.compare(sources[0], sources[1:])
    except NotComparableError as error:
        print(f"not compared: {error}")
        render([original, extended], folder / "report.html")
        return
    (compared,) = done.compared
    gate = judge_inside(compared)
    _write_comparison(done.comparison, folder)
    if gate is not None:
        write_json(folder / "gate.json", gate.model_dump(mode="json"))
    _print_comparison(done.comparison)
    render([original, extended], folder / "report.html", comparison=done.comparison, gate=gate)
    print()
    for sentence in in_short(compared, gate):
        print(textwrap.fill(sentence, 110, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False))


def gate_command(
    paths: Sequence[Path], flags: Mapping[str, Any], *, config: Path | None, out: Path | None, common: bool
) -> int:
    """The verdict on ``paths`` (original, extended), or on one run against the baseline of ``gate.toml``.

    Writes ``gate.json``, ``junit.xml``, ``summary.md``, the comparison and ``report.html``; returns the exit code.
    """
    from lr2eval import _compare, _gate
    from lr2eval._gate_config import load_gate
    from lr2eval.reports import render

    asked = load_gate(flags, config)
    both = _both(paths, asked.baseline)
    folder = _folder(out, f"gate-{both[0].stem}-vs-{both[1].name}")
    comparison = None
    try:
        sources = _compare.read_all(both)
        _gate.check_pin(sources[0].side, asked)
        done = _compare.compare(sources[0], sources[1:], confidence=asked.confidence, common=common)
        comparison = done.comparison
        gate = _gate.judge(done.compared[0], asked)
    except NotComparableError as error:
        gate = _gate.not_comparable(error, asked.confidence)
    _write_gate(gate, folder)
    _print_gate(gate)
    if comparison is not None:
        _write_comparison(comparison, folder)
        path = render([p for p in both if p.is_dir()], folder / "report.html", comparison=comparison, gate=gate)
        print(f"report: {path}")
    return gate.exit_code


def save_baseline_command(run: Path, out: Path) -> None:
    """``lr2eval baseline save``."""
    from lr2eval import _baseline, _compare

    (source,) = _compare.read_all([run]) if run.is_dir() else _refuse(run)
    path = _baseline.save(source, out)
    samples = sum(shard.n for shard in source.shards.values())
    print(f"{samples:,} samples, {path.stat().st_size:,} bytes, digest {source.side.digest}")
    print(path)


def _refuse(run: Path) -> Any:
    raise UsageError(f"{run}: no run folder; a baseline is saved from a finished run")


def _both(paths: Sequence[Path], baseline: Path | None) -> tuple[Path, Path]:
    if len(paths) == 2:
        return paths[0], paths[1]
    if len(paths) == 1 and baseline is not None:
        return baseline, paths[0]
    if len(paths) == 1:
        raise UsageError("gate needs the original and the extended run, or one run and a `baseline` in --config")
    raise UsageError(f"gate compares one extended run with its original; {len(paths)} runs were given")


def _folder(out: Path | None, name: str) -> Path:
    safe = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")[:120] or "comparison"
    folder = out or Path("runs") / safe
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--out {folder}: {error.strerror or error}; choose a folder that can be written") from error
    if (folder / "samples.sqlite").exists():
        raise UsageError(f"--out {folder}: is the folder of a run; choose another, so that its report stays its own")
    return folder


def _extended(comparison: Comparison) -> list[Any]:
    return [pair.extended for pair in comparison.pairs]


def _write_comparison(comparison: Comparison, folder: Path) -> None:
    from lr2eval import _exports

    write_json(folder / "comparison.json", comparison.model_dump(mode="json"))
    write_atomic(folder / "comparison.csv", _exports.to_csv(comparison))
    write_atomic(folder / "comparison.md", _exports.to_markdown(comparison))


def _write_gate(gate: Gate, folder: Path) -> None:
    from lr2eval import _gate_outputs

    summary = _gate_outputs.summary(gate)
    write_json(folder / "gate.json", gate.model_dump(mode="json"))
    stamp = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S")
    write_atomic(folder / "junit.xml", _gate_outputs.junit(gate, stamp))
    write_atomic(folder / "summary.md", summary)
    if os.environ.get("GITHUB_ACTIONS") == "true":
        for line in _gate_outputs.workflow_commands(gate):
            print(line)
    if target := os.environ.get("GITHUB_STEP_SUMMARY"):
        with open(target, "a", encoding="utf-8") as file:
            file.write(summary)


def _print_gate(gate: Gate) -> None:
    import textwrap

    print(textwrap.fill(gate.paragraph, 110, break_long_words=False, break_on_hyphens=False))
    for note in (*gate.mind, *(f"left out: {item.what} ({item.n}): {item.reason}" for item in gate.left_out)):
        print(f"note: {' '.join(note.split())}")


def _print_comparison(comparison: Comparison) -> None:
    for pair in comparison.pairs:
        _print_pair(comparison, pair)


def _print_pair(comparison: Comparison, pair: Pair) -> None:
    from lr2eval import _exports
    from lr2eval._comparison import Gain

    share = f"{100 * (2 * comparison.confidence - 1):g} % interval"
    how = "" if pair.paired else ", UNPAIRED: different samples"
    title = f"{pair.extended.label} against {comparison.original.label}{how}"
    tables: list[tuple[str, str, Sequence[Difference]]] = [(title, "retained", _exports.headline_rows(pair))]
    if pair.gains:
        tables.append((_exports.gain_words(comparison, pair), "cut for original", pair.gains))
    for title, last, found in tables:
        rows = table("", "n", "original", "extended", "difference", share, last, title=title)
        for row in found:
            kept = "-" if row.retention is None else f"{100 * row.retention:.1f} %"
            rows.add_row(
                _exports.name(row),
                f"{row.n:,}",
                f"{row.original:.1f}",
                f"{row.extended:.1f}",
                f"{row.difference:+.2f}",
                f"{row.interval.low:+.2f} .. {row.interval.high:+.2f}",
                f"{row.cut:,}" if isinstance(row, Gain) else kept,
            )
        printed_table(rows)
    for note in (*pair.mind, *(f"left out: {item.what} ({item.n}): {item.reason}" for item in pair.left_out)):
        print(f"note: {' '.join(note.split())}")
