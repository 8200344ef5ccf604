"""The figures of a search, and its numbers as text: factors by pair, every rule against the search, progress."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain, islice

from markupsafe import Markup

from lr2eval.record.search import FOUND, SEED, NllDifference, RuleFacts, SearchResult, SplitFacts
from lr2eval.reports import figures, formats
from lr2eval.reports.plots import Estimate, FactorLine, factor_plot, forest

MOST = 14
"""Rules, and splits, that a figure draws or names; the tables hold them all."""
_NAME = 19
_LINES = 6
"""Factors that the figure of a gradient search follows."""
_NEAR = 0.1
"""Nats up to which the axis of differences is linear; beyond it is logarithmic where there is much to show."""
_BEST = {"color": figures.colour(0), "linewidth": 2.2}


def shown_name(name: str) -> str:
    """What the page calls the factors of a name in the file."""
    return {FOUND: "found", SEED: "best start"}.get(name, name)


def distinct(result: SearchResult) -> list[RuleFacts]:
    """The rules without the search; of rules with equal factors (at several temperatures) the first."""
    rules = [rule for rule in result.rules if rule.name not in (FOUND, SEED)]
    return [rule for number, rule in enumerate(rules) if rule.factors not in [each.factors for each in rules[:number]]]


def drawn(result: SearchResult) -> list[RuleFacts]:
    """The rules that fit into a figure and, last and on top, the found factors."""
    return distinct(result)[:MOST] + [rule for rule in result.rules if rule.name == FOUND]


def marks(result: SearchResult) -> dict[str, int | None]:
    """The pairs that the method has a name for."""
    return {"d10_tcd": result.d10_tcd, "split": result.split, "d_rcd": result.d_rcd, "d_tcd": result.d_tcd}


def factors(result: SearchResult) -> Markup:
    """Found factors and those of the rules by pair, with the bound s, the range of the search and marked pairs."""
    lines = [
        FactorLine(
            shown_name(rule.name),
            rule.factors,
            _BEST | {"marker": "o", "markersize": 3.6} if rule.name == FOUND else series,
        )
        for rule, series in zip(drawn(result), figures.series_styles(), strict=False)
    ]
    s, highest = result.scale, result.reach * result.scale
    return factor_plot(
        lines,
        "factors",
        "RoPE factors by rotary pair",
        levels={"s": s} if result.split is None else {"s": s, f"{result.reach:g}s": highest},
        marks=marks(result),
        band=None if result.split is None else (result.split, s, highest),
    )


def compared(result: SearchResult, rule: RuleFacts) -> NllDifference | None:
    """To the found factors: on unseen samples where there are any, else on those of the search if these are needles."""
    if result.held_out:
        return rule.held_out_difference
    return rule.search_difference if result.objective == "needle" else None


def differences(result: SearchResult, rules: Sequence[RuleFacts]) -> Markup | None:
    """Every rule against the found factors, as far as the figure has room; ``None`` where no difference is stored."""
    rows = []
    for rule in rules[: 2 * MOST]:
        gap, found = compared(result, rule), rule.name == FOUND
        words = formats.NOTHING if found else "no finite number" if gap is None else interval(gap)
        colour = figures.colour(0) if found else figures.INK
        low, high = (None, None) if gap is None else (gap.low, gap.high)
        mean = gap.mean if gap is not None else 0.0 if found else None
        rows.append(Estimate(shown_name(rule.name), words, mean, low, high, colour))
    if not any(compared(result, rule) for rule in rules):
        return None
    return forest(
        rows,
        "needles",
        "Every rule against the found factors",
        unchanged=0.0,
        axis="nats per answer token above the found factors",
        tick=lambda value: f"{value:+.4g}".replace("-", "−") if value else "0",
        symlog=_NEAR if max(abs(end) for row in rows for end in row.ends) > 10 * _NEAR else None,
    )


def progress(result: SearchResult) -> Markup:
    """Best score so far by iteration, one line per split or start, and the best rule on the same samples."""
    best = result.best
    others = sorted((each for each in result.splits if each is not best), key=lambda each: each.best_nll)
    rules = [rule for rule in result.rules if rule.name not in (FOUND, SEED) and rule.search_perplexity]
    rule = min(rules, key=lambda rule: rule.search_perplexity or 0.0, default=None)
    with figures.style("progress"):
        figure, axes = figures.blank(max(3.4, 0.21 * min(len(result.splits), MOST) + 0.8))
        series = [(best, _BEST), *zip(others, figures.series_styles(), strict=False)]
        names: list[str] = []
        for split, drawn_as in series:
            xs, ys = zip(*((each.iteration, each.best_nll) for each in split.rounds), strict=True)
            label = _label(split, names) if split in [each for each, _ in series[:MOST]] else None
            axes.step(xs, ys, where="post", label=label, zorder=3 if split is best else 2, **drawn_as)
            axes.plot(xs[-1:], ys[-1:], color=drawn_as["color"], marker="o", markersize=4, clip_on=False)
        if rule is not None:
            # The rounds are kept in nats: a perplexity is brought to the same unit.
            level, label = math.log(rule.search_perplexity or 1.0), figures.stand_in(len(names), _NAME)
            names.append(shown_name(rule.name))
            axes.axhline(level, color=figures.MUTED, linewidth=0.9, linestyle=(0, (1, 2)), label=label)
        low, high = axes.get_ylim()
        if 0 < low < high / 8:
            axes.set_yscale("log")
            axes.yaxis.set_minor_formatter("")
        axes.set_xlim(left=0)
        axes.yaxis.set_major_formatter("{x:.4g}")
        figure.legend(loc="outside right upper")
        axes.locator_params(axis="x", integer=True)
        axes.set_xlabel("step" if result.strategy == "gradient" else "iteration (0: the initial candidates)")
        axes.set_ylabel("nats per scored token, best so far")
        said = "; ".join(f"{each.label}: {each.best_nll:.4g}" for each in result.splits)
        svg = figures.to_svg(figure, "progress", "Best score so far by iteration", said)
    return figures.named(svg, names, _NAME)


def _label(lane: SplitFacts, names: list[str]) -> str:
    """What the legend calls a split or start; the names of rules go to ``names``, for :func:`figures.named`."""
    if lane.start is None:
        return lane.label
    names.append(lane.label)
    return figures.stand_in(len(names) - 1, _NAME)


def descent(result: SearchResult) -> Markup | None:
    """Of a gradient search, by step: the loss on new samples, the temperature, and the factors that move most."""
    lanes = [each for each in result.splits if each.start is not None]
    if not lanes:
        return None
    with figures.style("descent"):
        figure, (losses, warmth, slowed) = figures.blank(7.2, rows=3)
        names: list[str] = []
        for lane, drawn_as in zip(lanes, chain([_BEST], figures.series_styles()), strict=False):
            nlls = [nll for each in lane.rounds for nll in each.step_nll]
            drawn_nlls = [math.nan if nll is None else nll for nll in nlls]
            losses.plot(range(1, len(nlls) + 1), drawn_nlls, label=_label(lane, names), **drawn_as)
            steps = [each.iteration for each in lane.rounds]
            warmth.plot(steps, [each.temperature for each in lane.rounds], **drawn_as)
        rounds = result.best.rounds
        moved = [abs(math.log(last / first)) for first, last in zip(rounds[0].factors, rounds[-1].factors, strict=True)]
        together: dict[tuple[float, ...], list[int]] = {}  # neighbours that the bounds hold together are one line
        for pair in sorted(range(len(moved)), key=lambda pair: -moved[pair]):
            together.setdefault(tuple(each.factors[pair] for each in rounds), []).append(pair)
        lines = sorted(islice(together.items(), _LINES), key=lambda line: min(line[1]))
        for (values, pairs), drawn_as in zip(lines, figures.series_styles(), strict=False):
            label = f"pair {pairs[0]}" if len(pairs) == 1 else f"pairs {min(pairs)} to {max(pairs)}"
            slowed.plot([each.iteration for each in rounds], values, label=label, **drawn_as)
        if max(max(values) for values, _ in lines) > 8 * min(min(values) for values, _ in lines):
            slowed.set_yscale("log")
            slowed.yaxis.set_minor_formatter("")
        slowed.yaxis.set_major_formatter("{x:.4g}")
        for axes, label in ((losses, "nats, new samples"), (warmth, "temperature"), (slowed, "factor")):
            axes.set_ylabel(label)
            axes.set_xlim(0, max(each.iteration for lane in lanes for each in lane.rounds))
        slowed.set_xlabel("step")
        for axes in (losses, slowed):
            axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0))
        said = f"{result.best.label}: temperature {result.attention_factor:.4g} after {rounds[-1].iteration} steps"
        svg = figures.to_svg(figure, "descent", "Loss, temperature and factors by step", said)
    return figures.named(svg, names, _NAME)


def perplexity(value: float | None) -> str:
    """Four digits, as many as the command prints."""
    return formats.NOTHING if value is None else f"{value:#.4g}".removesuffix(".")


def _digits(one: NllDifference) -> int:
    most = max(abs(value) for value in (one.mean, one.low, one.high) if value is not None)
    return 2 if most >= 1 else 3 if most >= 0.01 or not most else 5


def nats(one: NllDifference) -> str:
    """A difference alone, as exact as its interval."""
    return formats.signed(one.mean, _digits(one))


def ends(one: NllDifference) -> str:
    """The interval of a difference; nothing for a single sample."""
    if one.low is None or one.high is None:
        return ""
    return f"{formats.signed(one.low, _digits(one))} to {formats.signed(one.high, _digits(one))}"


def interval(one: NllDifference) -> str:
    """A difference and its interval."""
    return f"{nats(one)} ({ends(one)})" if ends(one) else nats(one)
