"""What was tried, what failed, and how to repeat it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

KEPT = 20
"""Failures of one cause that the results keep in full."""


@dataclass(frozen=True)
class Finding:
    """One thing that was tried. ``kind`` is the class, ``problem`` is ``None`` where it held."""

    kind: str
    subject: str
    problem: str | None
    repeat: str = ""
    """What ``--repeat`` takes."""
    command: str = ""
    detail: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass
class Table:
    """Findings by class and subject."""

    tried: Counter[tuple[str, str]] = field(default_factory=Counter)
    failed: Counter[tuple[str, str]] = field(default_factory=Counter)
    failures: list[Finding] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    """Class or subject -> why it was not tried."""

    writes: dict[str, dict[str, float]] = field(default_factory=dict)
    """Of undisturbed commands: calls, bytes and seconds."""

    def add(self, found: Iterable[Finding]) -> None:
        """Count these."""
        for each in found:
            self.tried[each.kind, each.subject] += 1
            if each.problem is not None:
                self.failed[each.kind, each.subject] += 1
                self.failures.append(each)

    def to_json(self) -> dict[str, Any]:
        """Classes with their subjects, skipped ones, and failures by cause."""
        kinds: dict[str, Any] = {}
        for (kind, subject), tried in sorted(self.tried.items()):
            entry = kinds.setdefault(kind, {"tried": 0, "failed": 0, "subjects": {}})
            failed = self.failed[kind, subject]
            entry["tried"] += tried
            entry["failed"] += failed
            entry["subjects"][subject] = {"tried": tried, "failed": failed}
        causes: dict[str, Any] = {}
        for each in self.failures:
            cause = causes.setdefault(f"{each.kind}: {each.problem}", {"failed": 0, "of": Counter(), "examples": []})
            cause["failed"] += 1
            cause["of"][each.subject] += 1
            if len(cause["examples"]) < KEPT:
                cause["examples"].append({"repeat": each.repeat, "command": each.command, "detail": each.detail})
        ordered = sorted(causes.items(), key=lambda item: -item[1]["failed"])
        return {
            "tried": self.tried.total(),
            "failed": self.failed.total(),
            "classes": kinds,
            "skipped": self.skipped,
            "undisturbed": self.writes,
            "failures": {name: {**cause, "of": dict(cause["of"].most_common())} for name, cause in ordered},
        }

    def text(self) -> str:
        """The table for a terminal, then the causes of failures."""
        found = self.to_json()
        rows = [
            ("class", "tried", "failed"),
            *((k, str(v["tried"]), str(v["failed"])) for k, v in found["classes"].items()),
            ("all", str(found["tried"]), str(found["failed"])),
        ]
        width = max(len(row[0]) for row in rows)
        lines = [f"{name:<{width}}  {tried:>7}  {failed:>7}" for name, tried, failed in rows]
        lines += [f"skipped: {name}: {why}" for name, why in found["skipped"].items()]
        for name, cause in found["failures"].items():
            of = ", ".join(f"{subject} {count}" for subject, count in list(cause["of"].items())[:5])
            lines += [
                "",
                f"{cause['failed']} x {name}",
                f"    {of}",
                f"    --repeat '{cause['examples'][0]['repeat']}'",
            ]
        return "\n".join(lines)
