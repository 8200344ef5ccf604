"""The figures of a search: factors by pair, every rule against the found factors, progress of every split.

Names of rules come from a file, so they enter a figure as stand-ins and become text of the page afterwards.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.transforms import blended_transform_factory

from lr2eval.record.search import FOUND, SEED, NllDifference, RuleFacts, SearchResult
from lr2eval.reports import figures, formats
from lr2eval.reports.search.labels import LINE, Label, axes_of, beside, figure_of, height_of, inches, named, stacked

MOST = 14
"""Rules, and splits, that a figure draws or labels; the tables hold them all."""
_WIDTH, _LEFT, _BESIDE, _BELOW = 7.4, 0.68, 1.5, 0.52
_NAME = 14
_NEAR = 0.1
"""Nats up to which the axis of differences is linear; beyond it is logarithmic where there is much to show."""


@dataclass(frozen=True)
class Style:
    """How a series is drawn."""

    colour: str
    dash: tuple[float, tuple[float, ...] | None]
    width: float


_BEST = Style(figures.colour(0), (0, None), 2.2)


_NONE = Style(figures.MUTED, (0, None), 1.3)


def _styles() -> Iterator[Style]:
    """Of the series beside the best: colours first, then dashes."""
    colours = [figures.colour(n) for n in range(1, figures.COLOURS)]
    dashes: tuple[tuple[float, ...] | None, ...] = (None, (5, 1.5), (1.5, 1.5))
    return itertools.cycle(Style(colour, (0, dash), 1.3) for dash in dashes for colour in colours)


def shown_name(name: str) -> str:
    """What the page calls the factors of a name in the file."""
    return {FOUND: "found", SEED: "best start"}.get(name, name)


def drawn(result: SearchResult) -> list[RuleFacts]:
    """The rules that fit into a figure and, last and on top, the found factors."""
    rules = [rule for rule in result.rules if rule.name not in (FOUND, SEED)][:MOST]
    return rules + [rule for rule in result.rules if rule.name == FOUND]


def factors(result: SearchResult, identity: str = "factors") -> Markup:
    """Found factors and those of the rules by pair, with the bound s, the range of the search and marked pairs."""
    rules, pairs, s = drawn(result), len(result.periods), result.scale
    marks = [(result.d10_tcd, "d10_tcd"), (result.split, "split"), (result.d_rcd, "d_rcd"), (result.d_tcd, "d_tcd")]
    at: dict[int, list[str]] = {}
    for index, name in marks:
        if index is not None and 0 <= index < pairs:
            at.setdefault(index, []).append(name)
    width = _WIDTH - _LEFT - _BESIDE
    words = [(width * (index + 0.5) / pairs, f"{' = '.join(names)} = {index}") for index, names in sorted(at.items())]
    places = stacked(words, width + _BESIDE - 0.1)
    above = 0.12 + LINE * (1 + max((row for _, row in places), default=0))
    every = [factor for rule in rules for factor in rule.factors]
    low, high = min(1.0, *every) / 1.1, max(result.reach * s, *every) * 1.15
    with figures.style(identity):
        axes = axes_of((_WIDTH, 3.3 + above), _LEFT, _BESIDE, _BELOW, above)
        axes.set_yscale("log", base=2)
        axes.set_ylim(low, high)
        axes.set_xlim(-0.5, pairs - 0.5)
        ticks = [2.0**n for n in range(math.ceil(math.log2(low)), math.floor(math.log2(high)) + 1)]
        ticks = ticks[:: 1 + len(ticks) // 10]
        axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.set_yticks([], minor=True)
        # The range of the search begins at the split.
        axes.fill_between(
            [result.split - 0.5, pairs - 0.5], s, result.reach * s, color=figures.GRID, alpha=0.8, linewidth=0
        )
        for level, text in ((s, f"s = {s:g}"), (result.reach * s, f"{result.reach:g}s = {result.reach * s:g}")):
            axes.axhline(level, color=figures.MUTED, linewidth=1.0, linestyle=(0, (4, 3)))
            axes.text(0.05, height_of(axes, level) + 0.04, text, color=figures.MUTED, va="bottom",
                      transform=inches(axes))  # fmt: skip
        top = height_of(axes, high)
        for index, (at_, text), (begin, row) in zip(sorted(at), words, places, strict=True):
            axes.axvline(index, color=figures.INK, linewidth=0.9, linestyle=(0, (1, 1.5)))
            foot = top + 0.04 + LINE * row
            axes.plot([at_, at_, begin], [top, foot, foot], color=figures.INK, linewidth=0.6, clip_on=False,
                      transform=inches(axes), scalex=False, scaley=False)  # fmt: skip
            axes.plot([at_, at_], [foot, foot + 0.14], color=figures.INK, linewidth=0.6, clip_on=False,
                      transform=inches(axes), scalex=False, scaley=False)  # fmt: skip
            axes.text(begin + 0.05, foot + 0.01, text, va="bottom", transform=inches(axes))
        labels = []
        for place, (rule, other) in enumerate(zip(rules, _styles(), strict=False)):
            found = rule.name == FOUND
            style = _BEST if found else _NONE if rule.name == "none" else other
            axes.plot(range(pairs), rule.factors, color=style.colour, linewidth=style.width, linestyle=style.dash,
                      marker="o" if found else None, markersize=3.6)  # fmt: skip
            labels.append(Label(f"@{place}@", height_of(axes, rule.factors[-1]), style.colour, style.dash))
        beside(axes, labels)
        axes.locator_params(axis="x", integer=True)
        axes.set_xlabel("rotary pair (0 turns fastest)")
        axes.set_ylabel("factor")
        said = formats.clip("found: " + ", ".join(f"{factor:g}" for factor in result.factors), 2000)
        svg = figures.to_svg(figure_of(axes), identity, "RoPE factors by rotary pair", said)
    return named(svg, [shown_name(rule.name) for rule in rules], _NAME)


def compared(result: SearchResult, rule: RuleFacts) -> tuple[NllDifference | None, NllDifference | None]:
    """To the found factors, on unseen samples and on those of the search where these are needles too."""
    return rule.held_out_difference, rule.search_difference if result.objective == "needle" else None


def differences(result: SearchResult, rules: Sequence[RuleFacts], identity: str = "needles") -> Markup | None:
    """Every rule against the found factors on unseen samples (filled) and on the search's own (hollow).

    ``None`` where no difference is stored.
    """
    rules = rules[: 2 * MOST]
    known = [each for rule in rules for each in compared(result, rule) if each is not None]
    if not known:
        return None
    left, right, height = 2.0, 1.95, 0.3 * len(rules)
    unseen = result.held_out > 0
    with figures.style(identity):
        axes = axes_of((_WIDTH, height + _BELOW + 0.3), left, right, _BELOW, 0.3)
        limits = _span(axes, known)
        axes.set_ylim(len(rules) - 0.5, -0.5)
        axes.axvline(0, color=figures.colour(0), linewidth=1.4)
        row = blended_transform_factory(inches(axes), axes.transData)
        end = _WIDTH - left - right + 0.12
        for place, rule in enumerate(rules):
            filled, hollow = compared(result, rule)
            found = rule.name == FOUND
            colour = figures.colour(0) if found else figures.INK
            if found:
                axes.plot([0], [place], color=colour, marker="o", markersize=7)
            if hollow is not None:
                _dot(axes, place + (0.2 if filled is not None else 0), hollow, figures.MUTED, limits, hollow=True)
            if filled is not None:
                _dot(axes, place - (0.1 if hollow is not None else 0), filled, colour, limits, hollow=False)
            one = filled if unseen else hollow
            perplexity_ = rule.held_out_perplexity if unseen else rule.search_perplexity
            words = interval(one) if one else formats.NOTHING if found or perplexity_ else "no finite number"
            axes.text(-0.85, place, f"@{place}@", ha="right", va="center", color=colour, transform=row)
            axes.text(-0.12, place, perplexity(perplexity_), ha="right", va="center", color=colour, transform=row)
            axes.text(end, place, words, va="center", color=figures.MUTED, transform=row)
        for x, words, side in ((-0.12, "perplexity", "right"), (end, "nats above found", "left")):
            axes.text(x, height + 0.07, words, ha=side, color=figures.MUTED, transform=inches(axes))
        axes.set_yticks([])
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("nats per answer token above the found factors")
        said = f"{len(known)} differences; the table below holds every number"
        svg = figures.to_svg(figure_of(axes), identity, "Every rule against the found factors", said)
    return named(svg, [shown_name(rule.name) for rule in rules], _NAME)


def _span(axes: Axes, known: Sequence[NllDifference]) -> tuple[float, float]:
    """Limits of the axis with room for every interval; logarithmic far from zero where small and large ones meet."""
    ends = [0.0, *(each.mean for each in known)]
    ends += [end for each in known for end in (each.low, each.high) if end is not None]
    low, high = min(ends), max(ends)
    if max(-low, high) > 10 * _NEAR:
        axes.set_xscale("symlog", linthresh=_NEAR, linscale=0.7)
        low, high = (end * 1.4 if abs(end) > _NEAR else math.copysign(_NEAR * 1.05, end or side)
                     for end, side in ((low, -1), (high, 1)))  # fmt: skip
        steps = [n * 10.0**power for power in range(-1, 5) for n in (1, 3)]
        ticks = [t for t in [*(-step for step in reversed(steps)), 0.0, *steps] if low <= t <= high]
        if len(ticks) > 8:
            ticks = [t for t in ticks if t == 0 or abs(t) in steps[::2]]
        axes.set_xticks(ticks, [_tick(tick) for tick in ticks])
        axes.set_xticks([], minor=True)
    else:
        room = max(high - low, 1e-6)
        low, high = low - 0.07 * room, high + 0.07 * room
        axes.locator_params(axis="x", nbins=6)
        axes.xaxis.set_major_formatter(_tick)
    axes.set_xlim(low, high)
    return low, high


def _tick(value: float, _: object = None) -> str:
    return f"{value:+.4g}".replace("-", "−") if value else "0"


def _dot(
    axes: Axes, place: float, one: NllDifference, colour: str, limits: tuple[float, float], *, hollow: bool
) -> None:
    if one.low is not None and one.high is not None:
        axes.hlines(place, one.low, one.high, color=colour, linewidth=1.0 if hollow else 1.8)
    axes.plot([one.mean], [place], color=colour, marker="o", markersize=4.2 if hollow else 6,
              markerfacecolor=figures.PAGE if hollow else colour)  # fmt: skip


def progress(result: SearchResult, identity: str = "progress") -> Markup:
    """Best score so far by iteration, one line per split, and the rules' levels on the same samples."""
    best = next(each for each in result.splits if each.split == result.split)
    others = sorted((each for each in result.splits if each is not best), key=lambda each: each.best_nll)
    rules = [rule for rule in drawn(result) if rule.name != FOUND and rule.search_perplexity]
    # The rounds are kept in nats: a perplexity is brought to the same unit.
    levels = [math.log(rule.search_perplexity or 1.0) for rule in rules]
    ends = [value for each in result.splits for value in (each.rounds[0].best_nll, each.best_nll)]
    ends += [min(levels)] if levels else []  # the best rule is what a search has to beat: always in sight
    inside = [(n, level) for n, level in enumerate(levels) if min(ends) <= level <= 1.3 * max(ends)]
    ends += [level for _, level in inside]
    low, high = min(ends), max(ends)
    last = max(each.rounds[-1].iteration for each in result.splits)
    lines = len(inside) + min(len(result.splits), MOST)
    with figures.style(identity):
        axes = axes_of((_WIDTH, max(3.1, LINE * lines + _BELOW)), _LEFT + 0.1, _BESIDE, _BELOW, 0.1)
        if low > 0 and high > 8 * low:
            axes.set_yscale("log")
            axes.yaxis.set_minor_formatter("")
            axes.set_ylim(low / 1.15, high * 1.15)
        else:
            room = max(high - low, 0.002 * abs(high), 1e-9)
            axes.set_ylim(low - 0.08 * room, high + 0.08 * room)
        axes.set_xlim(0, max(last, 1) * 1.01)  # a gain of the last iteration is a line down the edge
        labels = []
        for place, level in inside:
            axes.axhline(level, color=figures.MUTED, linewidth=0.9, linestyle=(0, (1, 2)))
            labels.append(Label(f"@{place}@", height_of(axes, level), figures.MUTED))
        series = [*reversed([*zip(others, _styles(), strict=False)]), (best, _BEST)]
        for split, style in series:
            xs, ys = zip(*((each.iteration, each.best_nll) for each in split.rounds), strict=True)
            axes.step(xs, ys, where="post", color=style.colour, linewidth=style.width, linestyle=style.dash)
            axes.plot(xs[-1:], ys[-1:], color=style.colour, marker="o", markersize=4, clip_on=False)
            if split is best or others.index(split) < MOST - 1:
                labels.append(Label(f"split {split.split}", height_of(axes, split.best_nll), style.colour))
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:.4g}")
        beside(axes, labels)
        axes.locator_params(axis="x", integer=True)
        axes.set_xlabel("iteration (0: the initial candidates)")
        axes.set_ylabel("nats per scored token, best so far")
        said = "; ".join(f"split {each.split}: {each.best_nll:.4g}" for each in result.splits)
        svg = figures.to_svg(figure_of(axes), identity, "Best score so far by iteration", formats.clip(said, 2000))
    return named(svg, [shown_name(rule.name) for rule in rules], _NAME)


def perplexity(value: float | None) -> str:
    """Four digits, as many as the command prints."""
    return formats.NOTHING if value is None else f"{value:#.4g}".removesuffix(".")


def signed(value: float, digits: int = 3) -> str:
    """A difference in nats with its sign; zero has none."""
    rounded = round(value, digits) + 0.0
    return f"{'+' if rounded > 0 else '−' if rounded < 0 else ''}{abs(rounded):.{digits}f}"


def _digits(one: NllDifference) -> int:
    most = max(abs(value) for value in (one.mean, one.low, one.high) if value is not None)
    return 2 if most >= 1 else 3 if most >= 0.01 or not most else 5


def nats(one: NllDifference) -> str:
    """A difference alone, as exact as its interval."""
    return signed(one.mean, _digits(one))


def ends(one: NllDifference) -> str:
    """The interval of a difference; nothing for a single sample."""
    if one.low is None or one.high is None:
        return ""
    return f"{signed(one.low, _digits(one))} to {signed(one.high, _digits(one))}"


def interval(one: NllDifference) -> str:
    """A difference and its interval."""
    return f"{nats(one)} ({ends(one)})" if ends(one) else nats(one)
