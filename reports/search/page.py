"""The report of a search of RoPE factors: what was found, against the rules, and how sure that is.

Reads ``search.json`` and ``manifest.json``; differences and intervals were stored with them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lr2eval._version import __version__
from lr2eval.base.files import write_atomic
from lr2eval.errors import UsageError
from lr2eval.record.folder import read_manifest
from lr2eval.record.search import FILE, FOUND, SearchResult
from lr2eval.reports import formats, page
from lr2eval.reports.search import figures, words

_STOPS = {
    "iterations": "all iterations done",
    "patience": "no improvement within the patience",
    "exhausted": "no new candidate left",
    "steps": "all steps done",
    "behind": "another start did better",
    "not finite": "no finite loss in several steps",
}


def is_search(folder: Path) -> bool:
    """Whether a folder belongs to a search, finished or not."""
    return (folder / FILE).exists() or (read_manifest(folder) or {}).get("kind") == "search"


def render_search(folder: Path, out: Path) -> Path:
    """Write the report of a search folder to ``out`` and return it.

    Raises :class:`lr2eval.errors.UsageError` for a search that has not finished and
    :class:`lr2eval.errors.StoreError` for a damaged folder; ``out`` is then left as it was.
    """
    if not (folder / FILE).exists() and is_search(folder):
        raise UsageError(f"{folder}: the search has not finished; run the same `lr2eval search` command again first")
    write_atomic(out, html(SearchResult.read(folder), read_manifest(folder) or {}))
    return out


def html(result: SearchResult, manifest: Mapping[str, Any]) -> str:
    """The whole page as text."""
    ranked = words.rank(result)
    env = page.environment()
    env.filters.update(
        perplexity=figures.perplexity,
        nats=figures.nats,
        ends=figures.ends,
        factors=figures.shown_name,
    )
    return env.get_template("search.html.j2").render(
        result=result,
        verdict=words.verdict(result),
        caveats=list(words.caveats(result)),
        ranked=ranked,
        columns=[rule for rule in figures.drawn(result) if rule.name != FOUND],
        left_out=[rule.name for rule in figures.distinct(result)[figures.MOST :]],
        marks=figures.marks(result),
        stops=_STOPS,
        factors_svg=figures.factors(result),
        needles_svg=figures.differences(result, ranked),
        progress_svg=figures.progress(result),
        descent_svg=figures.descent(result),
        few_drawn=figures.MOST,
        groups=groups(result, manifest),
        command=manifest.get("command"),
        version=__version__,
        found=FOUND,
    )


def groups(result: SearchResult, manifest: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """What made it, as headed lists of facts."""
    tokens = result.data.get("tokens_read")
    slopes = result.data.get("tokens_differentiated")
    identity = {
        "digest": result.digest,
        "model": result.model,
        "fingerprint": result.fingerprint,
        "theta": result.theta,
        "rotary_dim": result.rotary_dim,
        "attention temperature": result.attention_factor,
        "power left of the split": result.power,
        "samples of the search": result.samples,
        "unseen samples": result.held_out,
        "evaluations": result.evaluations,
        "tokens read": formats.count(tokens) if isinstance(tokens, int) else None,
        "of them with a gradient": formats.count(slopes) if isinstance(slopes, int) and slopes else None,
        "created": manifest.get("created"),
    }
    found_: list[tuple[str, Mapping[str, Any]]] = [
        ("Identity", identity),
        ("Settings", manifest.get("settings") or {}),
        ("Haystack and samples", result.data),
        ("Versions", manifest.get("versions") or {}),
    ]
    return [(heading, [*formats.facts(facts)]) for heading, facts in found_ if facts]
