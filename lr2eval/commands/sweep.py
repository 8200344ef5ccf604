"""``lr2eval sweep``: print the plan, run every rule, print the ranking."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lr2eval.base.console import print_wrapped, printed_table, say, table
from lr2eval.base.units import format_length
from lr2eval.commands.options import ConfigFile, DryRun, Sets, configured, task_keys
from lr2eval.commands.run import planned

if TYPE_CHECKING:
    from lr2eval.record.comparison import Comparison


@configured("lr2eval.workflows.sweep:SweepConfig", keys=task_keys)
def sweep(given: dict[str, Any], config: ConfigFile = None, set_: Sets = None, dry_run: DryRun = False) -> None:
    """Evaluate a model under several RoPE rules and rank them. Run the same command again to resume."""
    from lr2eval.workflows.sweep import SweepConfig, prepare_sweep, sweep_ready

    if done := planned(SweepConfig.load(given, config, set_ or ()), prepare_sweep, sweep_ready, dry_run):
        _print_ranking(done.comparison)
        say(f"report: {done.report}")


def _print_ranking(comparison: Comparison) -> None:
    first, window = comparison.pairs[0].extended.model, comparison.original.model.window
    reached = {found.label: found.effective_length or "none" for found in comparison.effective_lengths}
    shown = table("rule", "mean (95 %)", "against the best", "p", "effective", "retained", right=slice(1, None))
    for rank in comparison.ranking:
        name = rank.label.removeprefix(f"{comparison.original.label} (")
        gap, length = rank.difference_interval, reached.get(rank.label, "-")
        shown.add_row(
            name.removesuffix(f", {format_length(first.window)})"),
            f"{rank.score:.1f} ({rank.interval.low:.0f}..{rank.interval.high:.0f})",
            "the best" if gap is None else f"{rank.difference:+.1f} ({gap.low:+.0f}..{gap.high:+.0f})",
            "-" if rank.p_holm is None else f"{rank.p_holm:.3f}" if rank.p_holm >= 0.001 else "< 0.001",
            length if isinstance(length, str) else format_length(length),
            "-" if rank.retention is None else f"{100 * rank.retention:.1f} %",
        )
    printed_table(shown)
    unsearched = " longrope2 is the rule without a search, where a search begins." * comparison.unsearched
    print_wrapped(
        f"Means over all tasks and lengths beyond {format_length(window)} tokens, n = {comparison.ranking[0].n:,}. "
        "Differences are in points on the same samples, with 95 % intervals. p is Holm-adjusted over all pairs of "
        "rules: from 0.05 on, a rule cannot be told apart from the best. Retained: score within the window / that of "
        f"the model as it is.{unsearched}"
    )
