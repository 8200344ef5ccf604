"""``lr2eval search``: find RoPE factors for a longer window by needle perplexity, and compare them with the rules."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lr2eval.base.console import printed_table, say, table
from lr2eval.base.units import format_length
from lr2eval.commands.options import Sets, configured, typed_command

if TYPE_CHECKING:
    from lr2eval.workflows.search import SearchOutcome


def print_search(done: SearchOutcome) -> None:
    """The perplexity of the found factors and of every rule, then where the files are."""
    result = done.result
    shown = table("factors", f"search ({result.samples})", f"held out ({result.held_out})", "", right=slice(1, 3))
    for rule in sorted(result.rules, key=lambda each: each.held_out_perplexity or each.search_perplexity or 1e300):
        shown.add_row(rule.name, _shown(rule.search_perplexity), _shown(rule.held_out_perplexity), rule.made_by)
    say(f"{result.model}: {format_length(result.original_window)} to {format_length(result.target_length)}")
    say("needle perplexity on the samples of the search and on held-out samples")
    printed_table(shown)
    reached = "none" if result.d_rcd is None else result.d_rcd
    where = "best start: " + str(result.best.start) if result.split is None else f"best split: pair {result.split}"
    critical = f"d_rcd {reached}, d_tcd {result.d_tcd} (pairs counted from 0)"
    say(f"{where}; temperature {result.attention_factor:.4g}; {critical}")
    say(
        f"{result.evaluations:,} evaluations; candidates without a finite perplexity: {result.discarded}, given up "
        f"early: {result.given_up}"
    )
    say(f"report: {done.report}")
    say(done.factors)


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


@configured("lr2eval.method.search.config:SearchConfig")
def search(given: dict[str, Any], set_: Sets = None) -> None:
    """Search RoPE factors by needle perplexity. Run the same command again to resume."""
    from lr2eval.commands.progress import ProgressDisplay
    from lr2eval.method.search.config import SearchConfig
    from lr2eval.workflows.search import search as run_search

    with ProgressDisplay() as progress:
        done = run_search(SearchConfig.load(given, sets=set_ or ()), listener=progress, command=typed_command())
    print_search(done)
