"""How a page shows values. Jinja escapes HTML; ``lr2eval.base.visible`` makes visible what escaping leaves alone."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from markupsafe import Markup, escape

from lr2eval.base.visible import short, visible

NOTHING = "–"
"""Stands where a number or a fact is not there, so that a gap is never taken for a zero."""


def finalize(value: Any) -> Any:
    """What every ``{{ expression }}`` of the templates passes through before it is escaped."""
    if isinstance(value, Markup):
        return value
    if value is None:
        return NOTHING
    return visible(str(value))


def breakable(text: str, columns: int = 80) -> Markup:
    """A name, cut to ``columns``, that may wrap after its underscores and slashes, not in the middle of a word."""
    return Markup(re.sub(r"([_/])", r"\1<wbr>", str(escape(short(text, columns)))))


def clip(text: str, limit: int) -> str:
    """At most ``limit`` characters, the cut marked."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def clip_start(text: str, limit: int) -> str:
    """The last ``limit`` characters, the cut marked: what stands at the end of a prompt matters most."""
    return text if len(text) <= limit else "…" + text[1 - limit :]


def score(value: float | None) -> str:
    """A score on the 0..100 scale, one decimal; never "-0.0"."""
    return NOTHING if value is None else f"{round(value, 1) + 0.0:.1f}"


def signed(value: float | None, digits: int = 1) -> str:
    """A difference with its sign; zero has none."""
    if value is None:
        return NOTHING
    rounded = round(value, digits)
    mark = "+" if rounded > 0 else "\u2212" if rounded < 0 else ""
    return f"{mark}{abs(rounded):.{digits}f}"


def percent(value: float | None) -> str:
    """A ratio such as retention: 0.9857 -> 98.6 %."""
    return NOTHING if value is None else f"{100 * value:.1f}\u00a0%"


def share(value: float) -> str:
    """A share in whole per cent that never rounds something to nothing, or nearly all to all."""
    whole = round(100 * value)
    if value > 0 and whole == 0:
        return "< 1\u00a0%"
    return "> 99\u00a0%" if value < 1 and whole == 100 else f"{whole}\u00a0%"


def level(confidence: float) -> str:
    """The coverage of an interval: 0.9 -> 90 %."""
    return f"{round(100 * confidence, 2):g}\u00a0%"


def p_value(value: float | None) -> str:
    if value is None:
        return NOTHING
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def count(value: int | None) -> str:
    """A whole number with separators."""
    return NOTHING if value is None else f"{value:,}"


def length(value: int | None) -> str:
    """``4096`` -> ``4k``; a length that is no whole multiple of 1024 stays as it is."""
    if value is None:
        return NOTHING
    return f"{value // 1024}k" if value and value % 1024 == 0 else f"{value:,}"


def title(benchmark: str) -> str:
    """The name people use for a benchmark."""
    known = {"ruler": "RULER", "mmlu": "MMLU", "niah": "Needle in a haystack", "longbench": "LongBench"}
    return known.get(benchmark, benchmark)


def task(benchmark: str, name: str) -> str:
    """A task name without the benchmark's name in front: ``mmlu_anatomy`` -> ``anatomy``."""
    return name.removeprefix(f"{benchmark}_") or name


def facts(value: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """A nested mapping as (dotted key, text) pairs, in its own order."""
    for key, item in value.items():
        if isinstance(item, Mapping) and item:
            yield from facts(item, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", plain(item)


def plain(value: Any) -> str:
    """One stored value as text: strings as they are, the rest as JSON."""
    if value is None:
        return NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
