"""A comparison as CSV and Markdown; a verdict as Markdown, JUnit XML and GitHub annotations.

All numbers are stored ones. Names are escaped for each format.
"""

from __future__ import annotations

import csv
import io
import re
import xml.etree.ElementTree as ET
from collections.abc import Sequence

from lr2eval.base.units import format_length
from lr2eval.base.visible import line
from lr2eval.record.comparison import SIGNS, Check, Comparison, Difference, Gain, Gate, LeftOut, Pair, Verdict

COLUMNS = (
    "extended", "level", "benchmark", "task", "length", "n", "original", "extended_score", "difference", "low", "high",
    "interval_confidence", "retention", "retention_low", "retention_high", "lost", "gained", "p_changed", "p_method",
    "p_holm", "clusters", "design_effect", "noise", "original_length", "beyond_window",
)  # fmt: skip


def to_csv(comparison: Comparison) -> str:
    """One line for each row of the comparison; scores and differences in points, retention as a ratio.

    ``original_length`` is for gains only (levels ``gain of task``, ``gain of benchmark``): the window of the original.
    ``length`` is then the window of the extended model. ``beyond_window``: whether the samples are longer than the
    original's window.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\r\n")  # RFC 4180; it also makes csv quote a lone \r
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
                    row.noise, row.window if isinstance(row, Gain) else None, row.beyond,
                )
            )  # fmt: skip
    return buffer.getvalue()


def to_markdown(comparison: Comparison) -> str:
    """Text for a discussion or a pull request: the means, then the tasks that changed."""
    parts = [f"## {text(comparison.original.label)} against its extensions", "", *_ranking(comparison)]
    for pair in comparison.pairs:
        parts += [f"### {text(pair.extended.label)}", "", *_table(headline_rows(pair)), ""]
        if far := headline_rows(pair, beyond=True):
            parts += [f"{beyond_title(comparison)}:", "", *_table(far), ""]
        if moved := sorted(significant_tasks(pair, comparison.confidence), key=lambda row: row.difference):
            parts += [f"Tasks that changed (Holm, {100 * comparison.confidence:g} %):", "", *_table(moved), ""]
        if pair.gains:
            parts += [f"{text(gain_title(comparison, pair))}:", "", *_table(pair.gains), ""]
        if found := notes(pair):
            parts += [*(f"- {text(note)}" for note in found), ""]
    share = 100 * (2 * comparison.confidence - 1)
    parts.append(
        f"Difference: extended - original in points on the same samples, with its {share:g} % interval; each end is a "
        f"one-sided {100 * comparison.confidence:g} % bound."
    )
    return "\n".join(parts) + "\n"


def _ranking(comparison: Comparison) -> list[str]:
    """The table of a sweep, the best rule first; nothing for other comparisons."""
    if not comparison.ranking:
        return []
    lines = [
        "| rule | n | mean beyond the window | interval | against the best | interval |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for rank in comparison.ranking:
        gap = rank.difference_interval
        against = (
            ["the best", "–"] if gap is None else [f"{rank.difference:+.1f}", f"{gap.low:+.1f} .. {gap.high:+.1f}"]
        )
        cells = [f"{rank.n:,}", f"{rank.score:.1f}", f"{rank.interval.low:.1f} .. {rank.interval.high:.1f}", *against]
        lines.append(f"| {' | '.join([text(rank.label), *cells])} |")
    return [*lines, ""]


def notes(found: Pair | Gate) -> list[str]:
    """One line for each caveat and for everything that is left out."""
    return [*found.caveats, *(f"left out: {item.what}, {item.n:,} samples: {item.reason}" for item in found.left_out)]


def left_out(items: Sequence[LeftOut]) -> str:
    """One sentence about what a verdict leaves out; empty if it leaves out nothing. Gains are no part of a verdict."""
    n = sum(item.n for item in items if not item.what.startswith("gain of "))
    return f" Left out: {n:,} samples (gate.json lists them)." if n else ""


def significant_tasks(pair: Pair, confidence: float) -> list[Difference]:
    """Single tasks at one length in which the models differ, Holm-adjusted over all of them."""
    alpha = 1 - confidence
    return [r for r in pair.differences if r.level == "shard" and r.p_holm is not None and r.p_holm < alpha]


def headline_rows(pair: Pair, *, beyond: bool = False) -> list[Difference]:
    """The most important rows within the original's window, or ``beyond`` it: benchmarks and their lengths.

    A benchmark with one length is one row. Beyond the window, that row names the length.
    """
    rows = []
    found = [row for row in pair.differences if row.beyond == beyond]
    for row in (r for r in found if r.level == "benchmark"):
        lengths = [r for r in found if r.level == "length" and r.benchmark == row.benchmark]
        several = len(lengths) > 1
        rows += [row] * (several or not beyond) + lengths * (several or beyond)
    return rows


def beyond_title(comparison: Comparison) -> str:
    """The title of a table of samples that are longer than the original's window."""
    return f"Beyond the original's window ({format_length(comparison.original.model.window)})"


def gain_title(comparison: Comparison, pair: Pair) -> str:
    """The title of a table of gains."""
    return (
        f"Gain from the longer window: {pair.extended.label} at its longest length against {comparison.original.label} "
        "at its own window, same questions"
    )


def numbers(row: Difference) -> list[str]:
    """A row as text: samples, both scores, difference, interval, and what is retained (empty if that says nothing)."""
    return [
        f"{row.n:,}", f"{row.original:.1f}", f"{row.extended:.1f}", f"{row.difference:+.2f}",
        f"{row.interval.low:+.2f} .. {row.interval.high:+.2f}",
        "" if row.retention is None else f"{100 * row.retention:.1f} %",
    ]  # fmt: skip


def _table(rows: Sequence[Difference]) -> list[str]:
    columns = ["", "n", "original", "extended", "difference", "interval", "retained", "lost / gained"]
    cells = [[text(row.name), *(each or "–" for each in numbers(row)), f"{row.lost} / {row.gained}"] for row in rows]
    lines = [columns, ["---", *["---:"] * (len(columns) - 1)], *cells]
    if all(row.beyond for row in rows):
        # Retention says nothing beyond the original's window.
        lines = [[*line[:6], line[7]] for line in lines]
    return [f"| {' | '.join(line)} |" for line in lines]


def text(value: str) -> str:
    """Text from outside, escaped for Markdown: no markup, no HTML, no links, one line.

    What a site might make a link of stands as code, the one place where none looks for addresses and names.
    """
    parts = re.split(
        r"([\s`|]+)", " ".join(line(value).split())
    )  # a backtick would end the code, and a bar the cell of a table
    return "".join(f"`{part}`" if _LINK.search(part) else _MARKUP.sub(r"\\\g<0>", part) for part in parts)


_MARKUP = re.compile(r"[\\`*_{}\[\]<>()#+!|~&]")
_LINK = re.compile(
    r"[@$]|//|www\.|(?:mailto|xmpp|tel):|:\w+:"
    r"|\w\.[^\W\d_]{2}"  # a domain
    r"|[#!%&~^]\w|GH-\d|\b[0-9a-f]{7,40}\b"  # issues, labels, commits
    r"|^(?:\d+\.|-+)$",  # the beginning of a list, a rule
    re.IGNORECASE,
)


def _harmless(value: object) -> object:
    """Put a quote before a name that a spreadsheet would read as a formula."""
    return f"'{value}" if isinstance(value, str) and _FORMULA.match(value) else value


_FORMULA = re.compile(r"[\t\r\n]|[\s\x22'\x00-\x1f\u200b-\u200f\u2060\ufeff]*[=+\-@＝＋－＠]")


def junit(gate: Gate, timestamp: str) -> str:
    """JUnit XML with a test case for each check. ``timestamp``: ISO 8601 without a zone.

    Both regression and inconclusive are failures, so that no CI shows them as passed. Not comparable is an error.
    """
    stopped = gate.verdict == "not comparable"
    failures = sum(check.verdict != "pass" for check in gate.checks)
    totals = {
        "tests": str(len(gate.checks) + stopped), "failures": str(failures), "errors": str(int(stopped)), "time": "0"
    }  # fmt: skip
    root = ET.Element("testsuites", totals)
    suite = ET.SubElement(
        root,
        "testsuite",
        {"name": "lr2eval gate", **totals, "skipped": "0", "timestamp": timestamp, "hostname": "localhost"},
    )
    properties = ET.SubElement(suite, "properties")
    facts = {"verdict": gate.verdict, "exit_code": str(gate.exit_code), "confidence": f"{gate.confidence:g}"}
    for side, value in (("original", gate.original), ("extended", gate.extended)):
        if value is not None:
            facts |= {side: value.label, f"{side}_digest": value.digest, f"{side}_model": value.model.fingerprint}
    for key, fact in facts.items():
        ET.SubElement(properties, "property", {"name": key, "value": line(fact)})
    for check in gate.checks:
        _case(suite, f"{check.name}: {check.criterion}", check.verdict, check.message)
    if stopped:
        _case(suite, "the runs can be compared", gate.verdict, gate.reason or gate.paragraph)
    ET.SubElement(suite, "system-out").text = line(gate.paragraph)
    ET.SubElement(suite, "system-err").text = ""
    ET.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def _case(suite: ET.Element, name: str, verdict: Verdict, message: str) -> None:
    case = ET.SubElement(suite, "testcase", {"classname": "lr2eval.gate", "name": line(name), "time": "0"})
    tag = {"pass": "system-out", "not comparable": "error"}.get(verdict, "failure")
    about = {} if verdict == "pass" else {"message": line(message), "type": verdict.replace(" ", "-")}
    ET.SubElement(case, tag, about).text = line(message)


def github_annotations(gate: Gate) -> list[str]:
    """GitHub workflow commands: an error for a failure, a warning for an inconclusive check, a notice for a pass."""
    levels = {"pass": "notice", "regression": "error", "inconclusive": "warning", "not comparable": "error"}
    if not gate.checks:
        return [_command(levels[gate.verdict], f"lr2eval gate: {gate.verdict}", gate.reason or gate.paragraph)]
    lines = [_command(levels[c.verdict], f"lr2eval gate: {c.name} {c.verdict}", c.message) for c in gate.checks]
    said = left_out(gate.left_out).strip()
    return [*lines, _command("notice", "lr2eval gate: left out", said)] if said else lines


def _command(level: str, title: str, message: str) -> str:
    title, message = (line(value).replace("%", "%25") for value in (title, message))
    return f"::{level} title={title.replace(':', '%3A').replace(',', '%2C')}::{message}"


def gate_markdown(gate: Gate) -> str:
    """Markdown for a step summary or a pull request."""
    lines = [f"## {SIGNS[gate.verdict]} lr2eval gate: {gate.verdict.upper()}", "", text(gate.paragraph), ""]
    if gate.checks:
        lines += [
            "| check | limit | n | original | extended | difference | retained | verdict |",
            "|---|---|---:|---:|---:|---:|---:|---|",
            *(_row(check) for check in gate.checks),
            "",
        ]
    if gate.regressed:
        lines += ["Tasks with a significant loss (Holm):", ""]
        lines += [f"- {text(each.name)}: {each.difference:+.1f} points" for each in gate.regressed] + [""]
    lines += [f"- {text(note)}" for note in notes(gate)]
    if gate.original is not None and gate.extended is not None:
        named = [
            f"{side} `{run.digest[:16]}` of model `{run.model.fingerprint[:16]}`"
            for side, run in (("original", gate.original), ("extended", gate.extended))
        ]
        lines += ["", f"Runs: {', '.join(named)}"]
    return "\n".join(lines).rstrip() + "\n"


def _row(check: Check) -> str:
    low, high = check.interval.low, check.interval.high
    kept = "–"
    if check.retention is not None and check.retention_interval is not None:
        kept = f"{100 * check.retention:.1f} % (at least {100 * check.retention_interval.low:.1f} %)"
    return (
        f"| {text(check.name)} | {text(check.criterion)} | {check.n:,} | {check.original:.1f} | {check.extended:.1f} "
        f"| {check.difference:+.2f} ({low:+.2f} .. {high:+.2f}) | {kept} | {SIGNS[check.verdict]} {check.verdict} |"
    )
