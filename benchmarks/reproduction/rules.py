"""The factors of every rule of the study, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from lr2eval.method.rope import rules
from lr2eval.method.rope.scaling import OriginalRope, RopeScaling

Found = Callable[[str], Mapping[str, Any]]
"""The line of a search by its name; runs the search where it was not."""


def factors(
    rule: str, rope: OriginalRope, target: int, published: Callable[[], tuple[RopeScaling, int]], found: Found
) -> RopeScaling:
    """``published`` gives LongRoPE2's factors of the full search and their split.

    Raises :class:`KeyError` for an unknown rule.
    """
    if rule == "yarn-1.5":  # YaRN made for 1.5 times the target: is it the search, or only larger factors?
        return replace(rules.yarn(rope, target * 3 // 2), target_window=target)
    if rule == "longrope2":
        return published()[0]
    if rule == "longrope2-unsearched":
        return rules.longrope2(rope, target)
    if rule == "longrope2-left-2":
        known, split = published()
        return rules.longrope2(rope, target, split=split, right=known.long_factor[split:], power=2)
    if rule == "longrope":
        return RopeScaling.from_json(found("longrope")["factors"])
    if rule.startswith("search-"):
        return RopeScaling.from_json(found(rule.removeprefix("search-"))["factors"])
    if rule in ("yarn-rcd", "ntk-rcd"):
        make = rules.yarn_rcd if rule == "yarn-rcd" else rules.ntk_rcd
        return make(rope, target, d_rcd=found("splits")["d_rcd"])
    return rules.RULES[rule].make(rope, target)
