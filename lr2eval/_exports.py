"""A comparison as CSV and Markdown. Stored numbers, arranged; names are made harmless for the place they land in."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence

from lr2eval._comparison import Comparison, Difference, Gain, Pair
from lr2eval._config import format_length

COLUMNS = (
    "extended", "level", "benchmark", "task", "length", "n", "original", "extended_score", "difference", "low", "high",
    "interval_confidence", "retention", "retention_low", "retention_high", "lost", "gained", "p_changed", "p_method",
    "p_holm", "clusters", "design_effect", "noise", "original_length",
)  # fmt: skip


def to_csv(comparison: Comparison) -> str:
    """One line per row of the comparison; scores and differences in points, retention as a ratio.

    ``original_length`` is empty but for gains (levels ``gain of task``, ``gain of benchmark``): the window at which the
    original answered, ``length`` being that of the extended model.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(COLUMNS)
    for pair in comparison.pairs:
        for row in (*pair.differences, *pair.gains):
            kept = row.retention_interval
            writer.writerow(
                _harmless(value)
                for value in (
                    pair.extended.label, f"gain of {row.level}" if isinstance(row, Gain) else row.level,
                    row.benchmark, row.task, row.length, row.n, row.original,
                    row.extended, row.difference, row.interval.low, row.interval.high, row.interval.confidence,
                    row.retention, None if kept is None else kept.low, None if kept is None else kept.high,
                    row.lost, row.gained, row.p_changed, row.p_method, row.p_holm, row.clusters, row.design_effect,
                    row.noise, row.window if isinstance(row, Gain) else None,
                )
            )  # fmt: skip
    return buffer.getvalue()


def to_markdown(comparison: Comparison) -> str:
    """What one pastes into a discussion: the means, then the tasks that changed."""
    parts = [f"## {text(comparison.original.label)} against its extensions", ""]
    for pair in comparison.pairs:
        parts += [f"### {text(pair.extended.label)}", "", *_table(headline_rows(pair)), ""]
        moved = [
            r for r in pair.differences if r.level == "shard" and r.p_holm is not None and r.p_holm < _alpha(comparison)
        ]
        if moved:
            moved.sort(key=lambda row: row.difference)
            parts += [f"Tasks that changed (Holm, {100 * comparison.confidence:g} %):", "", *_table(moved), ""]
        if pair.gains:
            parts += [f"{text(gain_words(comparison, pair))}:", "", *_table(pair.gains), ""]
        for note in (
            *pair.mind,
            *(f"left out: {item.what}, {item.n} samples: {item.reason}" for item in pair.left_out),
        ):
            parts += [f"- {text(note)}"]
        if pair.mind or pair.left_out:
            parts.append("")
    share = 100 * (2 * comparison.confidence - 1)
    pairs_of = "the same samples" if all(pair.paired for pair in comparison.pairs) else "different samples (unpaired)"
    parts.append(
        f"Difference: extended - original in points on {pairs_of}, with its {share:g} % interval; each end is a "
        f"one-sided {100 * comparison.confidence:g} % bound."
    )
    return "\n".join(parts) + "\n"


def headline_rows(pair: Pair) -> list[Difference]:
    """The rows people look at first: every benchmark, and where it has several lengths every length."""
    rows = []
    for row in (r for r in pair.differences if r.level == "benchmark"):
        rows.append(row)
        lengths = [r for r in pair.differences if r.level == "length" and r.benchmark == row.benchmark]
        rows += lengths if len(lengths) > 1 else []
    return rows


def name(row: Difference) -> str:
    """``ruler``, ``ruler@4k``, ``ruler:vt``, ``ruler:vt@4k``; of a gain ``longbench:trec@8k-128k``."""
    return (
        row.benchmark
        + ("" if row.task is None else f":{row.task}")
        + ("" if row.length is None else f"@{format_length(row.window)}-" if isinstance(row, Gain) else "@")
        + ("" if row.length is None else format_length(row.length))
    )


def gain_words(comparison: Comparison, pair: Pair) -> str:
    """What a table of gains shows, in words."""
    return (
        f"Gain from the longer window: {pair.extended.label} at its longest length against {comparison.original.label} "
        "at its own window, the same questions with more of their text"
    )


def _table(rows: Sequence[Difference]) -> list[str]:
    lines = [
        "| | n | original | extended | difference | interval | retained | lost / gained |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        kept = "–" if row.retention is None else f"{100 * row.retention:.1f} %"
        lines.append(
            f"| {text(name(row))} | {row.n:,} | {row.original:.1f} | {row.extended:.1f} | {row.difference:+.2f} "
            f"| {row.interval.low:+.2f} .. {row.interval.high:+.2f} | {kept} | {row.lost} / {row.gained} |"
        )
    return lines


def _alpha(comparison: Comparison) -> float:
    return 1 - comparison.confidence


def text(value: str) -> str:
    """A foreign text inside Markdown: no markup, no HTML, one line."""
    flat = re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+", " ", value)
    return re.sub(r"([\\`*_{}\[\]<>()#+!|~&@])", r"\\\1", flat)


def _harmless(value: object) -> object:
    """A name that a spreadsheet would take for a formula gets a quote in front."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value
