"""The factors of every vector of the study, by name.

``LEFT/RIGHT`` is composed at the theoretical split: ``left-1`` is the paper's left side ``S^(i/split)`` with ``S`` the
right side's first factor, ``left-q`` is ``S^((i/split)^q)`` with the ``q`` that a search found, and ``left-0`` leaves
the fast pairs as they were trained. ``right-s``,
``right-2s`` and ``right-4s`` are one factor for all pairs, ``right-ntk`` is the paper's NTK's, ``right-searched`` was
searched with q = 1 and ``right-searched-q`` together with q. ``best-rule`` is the rule that the first screening of the
gradient search found best.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from lr2eval.method.rope import rules
from lr2eval.method.rope.scaling import OriginalRope, RopeScaling

Found = Callable[[str], Mapping[str, Any]]
"""The line of a search by its name: ``factors``, ``temperature``, ``power``."""
TIMES_S = {"s": 1.0, "2s": 2.0, "4s": 4.0}


def scaling(
    factors: str, temperature: str, rope: OriginalRope, target: int, sides: Mapping[str, str], found: Found
) -> RopeScaling:
    """``temperature`` is ``own``, ``su``, ``yarn`` or a number; ``sides`` are the searches of the right sides.

    Raises :class:`KeyError` for an unknown name.
    """
    left, _, right = factors.partition("/right-")
    own: float | None = None
    if right:
        tail = _right(right, rope, target, sides, found)
        if left == "left-0":
            made = rules.longrope(rope, target, factors=[1.0] * rope.d_tcd + list(tail))
        else:
            made = composed(rope, target, tail, _power(left, sides, found))
    elif factors == "best-rule":
        best = found("gradient")["rule"]
        made, own = rules.RULES[best["name"].partition("@")[0]].make(rope, target), best["temperature"]
    elif factors in rules.RULES and factors != "longrope":
        made = rules.RULES[factors].make(rope, target)
    else:
        line = found(factors)
        made, own = rules.longrope(rope, target, factors=line["factors"]), line["temperature"]
    if temperature == "own" and own is None:
        raise KeyError(f"{factors} has no temperature of its own")
    asked = own if temperature == "own" else temperature
    return replace(rules.with_attention(made, asked), provenance=f"{factors} at {temperature}")


def composed(rope: OriginalRope, target: int, right: Sequence[float], power: float) -> RopeScaling:
    """``right`` from the theoretical split on, the left side with the exponent ``power``."""
    return rules.longrope2(rope, target, split=rope.d_tcd, right=right, power=power)


def _right(name: str, rope: OriginalRope, target: int, sides: Mapping[str, str], found: Found) -> Sequence[float]:
    split = rope.d_tcd
    if name in TIMES_S:
        return [TIMES_S[name] * target / rope.window] * (rope.pairs - split)
    factors = rules.ntk(rope, target).long_factor if name == "ntk" else found(sides[name])["factors"]
    return list(factors[split:])


def _power(left: str, sides: Mapping[str, str], found: Found) -> float:
    return {"left-1": lambda: 1.0, "left-q": lambda: float(found(sides["searched-q"])["power"])}[left]()
