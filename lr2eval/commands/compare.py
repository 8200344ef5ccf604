"""``lr2eval compare``, ``gate`` and ``baseline``: print what two or more runs say about each other."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lr2eval.base.console import print_wrapped, printed_table, table

if TYPE_CHECKING:
    from lr2eval.record.comparison import Comparison, Difference, Gate, Pair
    from lr2eval.workflows.compare import PairOutcome


def print_pair(pair: PairOutcome) -> None:
    """What ``lr2eval run --baseline`` prints about its two models."""
    if pair.comparison is None:
        print(f"the two models cannot be compared: {pair.problem}")
        return
    _print_comparison(pair.comparison)
    print()
    for sentence in pair.sentences:
        print_wrapped(sentence, rest="  ")


def _tell_github(gate: Gate) -> None:
    """Annotations and the job summary, if the gate runs in a GitHub workflow."""
    from lr2eval.comparisons.exports import gate_markdown, github_annotations

    if os.environ.get("GITHUB_ACTIONS") == "true":
        for line in github_annotations(gate):
            print(line)
    if target := os.environ.get("GITHUB_STEP_SUMMARY"):
        with open(target, "a", encoding="utf-8") as file:
            file.write(gate_markdown(gate))


def _print_gate(gate: Gate) -> None:
    print_wrapped(gate.paragraph)
    _print_notes(gate)


def _print_notes(found: Pair | Gate) -> None:
    from lr2eval.comparisons.exports import notes

    for note in notes(found):
        print(f"note: {' '.join(note.split())}")


def _print_comparison(comparison: Comparison) -> None:
    for pair in comparison.pairs:
        _print_pair(comparison, pair)


def _print_pair(comparison: Comparison, pair: Pair) -> None:
    from lr2eval.comparisons import exports
    from lr2eval.record.comparison import Gain

    share = f"{100 * (2 * comparison.confidence - 1):g} % interval"
    title = f"{pair.extended.label} against {comparison.original.label}"
    tables: list[tuple[str, str, Sequence[Difference]]] = [(title, "retained", exports.headline_rows(pair))]
    if pair.gains:
        tables.append((exports.gain_title(comparison, pair), "cut for original", pair.gains))
    for title, last, found in tables:
        rows = table("", "n", "original", "extended", "difference", share, last, title=title)
        for row in found:
            kept = "-" if row.retention is None else f"{100 * row.retention:.1f} %"
            rows.add_row(
                exports.row_name(row),
                f"{row.n:,}",
                f"{row.original:.1f}",
                f"{row.extended:.1f}",
                f"{row.difference:+.2f}",
                f"{row.interval.low:+.2f} .. {row.interval.high:+.2f}",
                f"{row.cut:,}" if isinstance(row, Gain) else kept,
            )
        printed_table(rows)
    _print_notes(pair)


def compare(
    runs: Annotated[list[Path], typer.Argument(help="The original (run folder or baseline file), then extended runs.")],
    out: Annotated[Path | None, typer.Option(help="Folder for the results. [default: runs/A-vs-B]")] = None,
    confidence: Annotated[float, typer.Option(help="Of each end of an interval.")] = 0.95,
    common: Annotated[
        bool, typer.Option("--common", help="Leave out what only one run has, instead of refusing.")
    ] = False,
    noise: Annotated[list[Path] | None, typer.Option(help="A repeat of the original; repeatable. Noise floor.")] = None,
) -> None:
    """Compare finished runs, sample by sample: JSON, CSV, Markdown and one HTML report."""
    from lr2eval.workflows.compare import compare as compare_runs

    done = compare_runs(runs, out=out, confidence=confidence, common=common, noise=noise or ())
    _print_comparison(done.comparison)
    print(f"report: {done.report}")


def gate(
    runs: Annotated[list[Path], typer.Argument(help="Original (run folder or baseline file) and extended run.")],
    min_retention: Annotated[float | None, typer.Option(help="Least extended / original. [default: 0.985]")] = None,
    margin: Annotated[float | None, typer.Option(help="Largest acceptable loss in points.")] = None,
    confidence: Annotated[float | None, typer.Option(help="Of the verdict (one-sided). [default: 0.95]")] = None,
    tasks: Annotated[str | None, typer.Option(help="What to check: mmlu,ruler:vt,ruler@8k. [default: all]")] = None,
    config: Annotated[Path | None, typer.Option(help="gate.toml: limits per task, weights, pinned baseline.")] = None,
    common: Annotated[
        bool, typer.Option("--common", help="Leave out what only one run has, instead of refusing.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Folder for verdict and report. [default: runs/gate-A-vs-B]")] = None,
) -> None:
    """Verdict for CI: 0 pass, 1 regression, 3 inconclusive, 4 not comparable."""
    from lr2eval.comparisons.gate_config import load_gate
    from lr2eval.workflows.compare import gate as judge_runs

    flags = {"min_retention": min_retention, "margin": margin, "confidence": confidence, "tasks": tasks}
    done = judge_runs(runs, load_gate(flags, config), out=out, common=common)
    _tell_github(done.gate)
    _print_gate(done.gate)
    if done.report is not None:
        print(f"report: {done.report}")
    raise typer.Exit(done.gate.exit_code)


def baseline_save(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run of the original model.")],
    out: Annotated[Path, typer.Option(help="File to write and to commit.")] = Path("baseline.json"),
) -> None:
    """Ids, prompt hashes and scores of a run in one small file, so that CI needs no run of the original."""
    from lr2eval.workflows.compare import save_baseline

    done = save_baseline(run, out)
    print(f"{done.samples:,} samples, {done.path.stat().st_size:,} bytes, digest {done.digest}")
    print(done.path)
