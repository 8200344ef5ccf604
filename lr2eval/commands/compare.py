"""``lr2eval compare``, ``gate`` and ``baseline``: print what two or more runs say about each other."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lr2eval.base.console import command, print_wrapped, printed_table, say, table
from lr2eval.commands.options import ConfigFile, configured
from lr2eval.errors import first_line

if TYPE_CHECKING:
    from lr2eval.record.comparison import Comparison, Difference, Gate, Pair
    from lr2eval.workflows.compare import PairOutcome


def print_pair(pair: PairOutcome) -> None:
    """What ``lr2eval run --baseline`` prints about its two models."""
    if pair.comparison is None:
        say(f"the two models cannot be compared: {pair.problem}")
        return
    _print_pair(pair.comparison, pair.comparison.pairs[0])
    say()
    for sentence in pair.sentences:
        print_wrapped(sentence, rest="  ")


def _tell_github(gate: Gate) -> None:
    """Annotations and the job summary, if the gate runs in a GitHub workflow."""
    from lr2eval.comparisons.exports import gate_markdown, github_annotations

    if os.environ.get("GITHUB_ACTIONS") == "true":
        for line in github_annotations(gate):
            command(line)
    if target := os.environ.get("GITHUB_STEP_SUMMARY"):
        try:
            with open(target, "a", encoding="utf-8") as file:
                file.write(gate_markdown(gate))
        except OSError as error:  # the verdict counts more than where it is shown
            reason = error.strerror or first_line(error)
            say(f"warning: the job summary was not written: GITHUB_STEP_SUMMARY={target}: {reason}", error=True)


def _print_notes(found: Pair | Gate) -> None:
    from lr2eval.comparisons.exports import notes

    for note in notes(found):
        say(f"note: {' '.join(note.split())}")


def _print_pair(comparison: Comparison, pair: Pair) -> None:
    from lr2eval.comparisons import exports
    from lr2eval.record.comparison import Gain

    share = f"{100 * (2 * comparison.confidence - 1):g} % interval"
    title = f"{pair.extended.label} against {comparison.original.label}"
    tables: list[tuple[str, Sequence[str], Sequence[Difference]]] = [
        (title, ["retained"], exports.headline_rows(pair)),
        (exports.beyond_title(comparison), [], exports.headline_rows(pair, beyond=True)),
        (exports.gain_title(comparison, pair), ["cut for original"], pair.gains),
    ]
    for title, last, found in tables:
        rows = table("", "n", "original", "extended", "difference", share, *last, title=title)
        for row in found:
            *cells, kept = exports.numbers(row)
            cells = [row.name, *cells, f"{row.cut:,}" if isinstance(row, Gain) else kept or "-"]
            rows.add_row(*cells[: len(rows.columns)])
        if found:
            printed_table(rows)
    _print_notes(pair)


Common = Annotated[bool, typer.Option("--common", help="Leave out samples that only one run has, instead of refusing.")]


def compare(
    runs: Annotated[
        list[Path], typer.Argument(help="The original (run folder or baseline file), then the extended runs.")
    ],
    out: Annotated[Path | None, typer.Option(help="The folder for the results. [default: runs/A-vs-B]")] = None,
    confidence: Annotated[float, typer.Option(help="The confidence at each end of an interval.")] = 0.95,
    common: Common = False,
    noise: Annotated[
        list[Path] | None, typer.Option(help="A repeat of the original, to measure noise; may be repeated.")
    ] = None,
) -> None:
    """Compare finished runs sample by sample. Write JSON, CSV, Markdown and one HTML report."""
    from lr2eval.workflows.compare import compare as compare_runs

    done = compare_runs(runs, out=out, confidence=confidence, common=common, noise=noise or ())
    for pair in done.comparison.pairs:
        _print_pair(done.comparison, pair)
    say(f"report: {done.report}")


@configured("lr2eval.comparisons.gate_config:GateConfig")
def gate(
    given: dict[str, Any],
    runs: Annotated[
        list[Path], typer.Argument(help="The original (run folder or baseline file), then the extended run.")
    ],
    config: ConfigFile = None,
    common: Common = False,
    out: Annotated[
        Path | None, typer.Option(help="The folder for verdict and report. [default: runs/gate-A-vs-B]")
    ] = None,
) -> None:
    """Give a verdict for CI. Exit code 0 is pass, 1 regression, 3 inconclusive, 4 not comparable."""
    from lr2eval.comparisons.gate_config import GateConfig
    from lr2eval.workflows.compare import gate as judge_runs

    done = judge_runs(runs, GateConfig.load(given, config), out=out, common=common)
    _tell_github(done.gate)
    print_wrapped(done.gate.paragraph)
    _print_notes(done.gate)
    if done.report is not None:
        say(f"report: {done.report}")
    raise typer.Exit(done.gate.exit_code)


def baseline_save(
    run: Annotated[Path, typer.Argument(help="The folder of a finished run of the original model.")],
    out: Annotated[Path, typer.Option(help="The file to write and to commit.")] = Path("baseline.json"),
) -> None:
    """Save the ids, prompt hashes and scores of a run in one small file. CI then needs no run of the original."""
    from lr2eval.workflows.compare import save_baseline

    done = save_baseline(run, out)
    say(f"{done.samples:,} samples, {done.path.stat().st_size:,} bytes, digest {done.digest}, model {done.model}")
    say("To pin it, add these lines to gate.toml:")
    say(f'baseline_digest = "{done.checksum}"')
    say(f'baseline_model = "{done.model}"')
    say(done.path)
