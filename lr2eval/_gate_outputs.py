"""A verdict where CI looks for it: JUnit XML, GitHub annotations, a step summary. Foreign text is escaped."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

from lr2eval._comparison import Check, Gate, Verdict
from lr2eval._exports import text

SIGNS = {"pass": "✓", "regression": "✗", "inconclusive": "?", "not comparable": "≠"}

_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit(gate: Gate, timestamp: str) -> str:
    """JUnit XML: a test case for each check. Regression and inconclusive are failures of those types, so that no CI
    shows either as passed; what could not be compared is an error. ``timestamp``: ISO 8601, no zone."""
    verdicts = [check.verdict for check in gate.checks]
    stopped = gate.verdict == "not comparable" and "not comparable" not in verdicts
    failures = sum(verdict in ("regression", "inconclusive") for verdict in verdicts)
    errors = verdicts.count("not comparable") + stopped
    tests = len(gate.checks) + stopped
    totals = {"tests": str(tests), "failures": str(failures), "errors": str(errors), "time": "0"}
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
            facts |= {side: value.label, f"{side}_digest": value.digest}
    for key, fact in facts.items():
        ET.SubElement(properties, "property", {"name": key, "value": _xml(fact)})
    for check in gate.checks:
        case = ET.SubElement(suite, "testcase", {**_case(f"{check.name}: {check.criterion}"), "time": "0"})
        if check.verdict != "pass":
            _problem(case, check.verdict, check.message)
        else:
            ET.SubElement(case, "system-out").text = _xml(check.message)
    if stopped:
        case = ET.SubElement(suite, "testcase", {**_case("the runs can be compared"), "time": "0"})
        _problem(case, "not comparable", gate.reason or gate.paragraph)
    ET.SubElement(suite, "system-out").text = _xml(gate.paragraph)
    ET.SubElement(suite, "system-err").text = ""
    ET.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def _case(name: str) -> dict[str, str]:
    return {"classname": "lr2eval.gate", "name": _xml(name)}


def _problem(case: ET.Element, verdict: Verdict, message: str) -> None:
    kind = "error" if verdict == "not comparable" else "failure"
    element = ET.SubElement(case, kind, {"message": _xml(message), "type": verdict.replace(" ", "-")})
    element.text = _xml(message)


def _xml(value: str) -> str:
    """Characters that XML 1.0 cannot hold become the replacement character."""
    return _NOT_XML.sub("\ufffd", value)


def workflow_commands(gate: Gate) -> list[str]:
    """GitHub workflow commands: an error for what failed, a warning for what is undecided, a notice for a pass."""
    levels = {"pass": "notice", "regression": "error", "inconclusive": "warning", "not comparable": "error"}
    if not gate.checks:
        return [_command(levels[gate.verdict], f"lr2eval gate: {gate.verdict}", gate.reason or gate.paragraph)]
    return [_command(levels[c.verdict], f"lr2eval gate: {c.name} {c.verdict}", c.message) for c in gate.checks]


def _command(level: str, title: str, message: str) -> str:
    def escaped(value: str) -> str:
        return value.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")

    return f"::{level} title={escaped(title).replace(':', '%3A').replace(',', '%2C')}::{escaped(message)}"


def summary(gate: Gate) -> str:
    """Markdown for a step summary or a pull request."""
    lines = [f"## {SIGNS[gate.verdict]} lr2eval gate: {gate.verdict.upper()}", "", text(gate.paragraph), ""]
    if gate.checks:
        lines += [
            "| check | asked | n | original | extended | difference | retained | verdict |",
            "|---|---|---:|---:|---:|---:|---:|---|",
            *(_row(check) for check in gate.checks),
            "",
        ]
    if gate.regressed:
        lines += ["Single tasks that fell for certain (Holm):", ""]
        lines += [f"- {text(each.name)}: {each.difference:+.1f} points" for each in gate.regressed] + [""]
    notes = [*gate.mind, *(f"left out: {item.what}, {item.n} samples: {item.reason}" for item in gate.left_out)]
    lines += [f"- {text(note)}" for note in notes]
    if gate.original is not None and gate.extended is not None:
        lines += ["", f"Runs: original `{gate.original.digest[:16]}`, extended `{gate.extended.digest[:16]}`"]
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
