"""The rules that make RoPE factors from the original RoPE and a target length alone.

Each takes the original RoPE and the target window ``L`` in tokens and returns a :class:`RopeScaling` whose short
factors are ones. Its attention factor holds on both sides of the window, as stock transformers applies it;
:func:`with_attention` gives another one. Below, ``s = L / Lt``, ``b`` is the base, ``d`` the rotary dimension and ``i``
a pair, 0-based. Every rule raises :class:`ValueError` for a target that is not longer than the window.
"""

from __future__ import annotations

import difflib
import functools
import inspect
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lr2eval import plugins
from lr2eval.base.settings import refuse_unknown
from lr2eval.errors import UsageError
from lr2eval.method.rope.scaling import OriginalRope, RopeScaling, default_attention_factor
from lr2eval.model.rope_facts import CLIPPED


def none(rope: OriginalRope, target: int) -> RopeScaling:
    """No rescaling: what extrapolation does. Factors 1."""
    return _scaling(rope, target, "none", [1.0] * rope.pairs)


def pi(rope: OriginalRope, target: int) -> RopeScaling:
    """Position interpolation (arXiv 2306.15595): every factor is ``s``."""
    return _scaling(rope, target, "pi", [window_ratio(rope, target)] * rope.pairs)


def ntk_aware(rope: OriginalRope, target: int) -> RopeScaling:
    """NTK-aware scaling as first posted: base ``b s^(d/(d-2))``, so that the last pair's factor is ``s``."""
    return _scaling(rope, target, "ntk-aware", _ntk(rope, window_ratio(rope, target)))


def ntk(rope: OriginalRope, target: int) -> RopeScaling:
    """NTK as LongRoPE2 compares with (arXiv 2310.05209): base ``b^(ln(L/2pi) / ln(Lt/2pi))``.

    With this base the factor reaches ``s`` at the critical dimension; pairs beyond it get more.
    """
    window_ratio(rope, target)
    if rope.window <= 2 * math.pi:
        raise ValueError(f"ntk: the window is {rope.window} tokens; the rule needs more than 2 pi")
    exponent = math.log(target / (2 * math.pi)) / math.log(rope.window / (2 * math.pi)) - 1
    log_base = math.log(rope.theta) * exponent  # of b'/b
    return _scaling(rope, target, "ntk", [math.exp(log_base * 2 * i / rope.rotary_dim) for i in range(rope.pairs)])


def dynamic_ntk(
    rope: OriginalRope, target: int, *, length: int | None = None, factor: float | None = None
) -> RopeScaling:
    """Dynamic NTK as transformers computes it, frozen at one length: base ``b (f l/Lt - (f-1))^(d/(d-2))``.

    ``length`` ``l`` is ``L`` and ``factor`` ``f`` is ``s`` unless given. (Transformers changes the base with every
    token beyond the window, but cached keys keep the old one.)
    """
    scale = window_ratio(rope, target)
    f = scale if factor is None else factor
    length = target if length is None else length
    grown = f * max(length, rope.window) / rope.window - (f - 1)
    return _scaling(rope, target, "dynamic-ntk", _ntk(rope, grown), settings={"length": length, "factor": f})


def yarn(
    rope: OriginalRope,
    target: int,
    *,
    beta_fast: float = 32,
    beta_slow: float = 1,
    truncate: bool = True,
    attention_factor: float | None = None,
    mscale: float | None = None,
    mscale_all_dim: float | None = None,
) -> RopeScaling:
    """YaRN (arXiv 2309.00071): pairs that turn more than ``beta_fast`` times in the window get 1, pairs that turn less
    than ``beta_slow`` times get ``s``, with a linear ramp of frequencies between them.

    ``truncate`` rounds the edges outwards to whole pairs. The attention factor is ``0.1 ln s + 1``; with ``mscale`` and
    ``mscale_all_dim`` the ratio of ``0.1 m ln s + 1``.
    """
    window_ratio(rope, target)
    if not 0 < beta_slow <= beta_fast:
        raise ValueError(f"yarn: beta_slow {beta_slow:g}, beta_fast {beta_fast:g}; give 0 < beta_slow <= beta_fast")
    low, high = _turning(rope, beta_fast), _turning(rope, beta_slow)
    if truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, rope.rotary_dim - 1)
    factors = _ramp(rope, target, low, high)
    usual = _yarn_attention(rope, target, mscale, mscale_all_dim)
    temperature = usual if attention_factor is None else attention_factor
    settings = {"beta_fast": beta_fast, "beta_slow": beta_slow} | ({} if truncate else {"truncate": truncate})
    return _scaling(rope, target, "yarn", factors, temperature, settings=settings)


def llama3(
    rope: OriginalRope,
    target: int,
    *,
    factor: float | None = None,
    low_freq_factor: float = 1,
    high_freq_factor: float = 4,
) -> RopeScaling:
    """Llama 3.1: periods below ``Lt / high_freq_factor`` stay, periods above ``Lt / low_freq_factor`` get ``factor``
    (``s`` unless given), and frequencies between them are interpolated."""
    if not 0 < low_freq_factor < high_freq_factor:
        raise ValueError(
            f"llama3: low_freq_factor {low_freq_factor:g} is not between 0 and high_freq_factor {high_freq_factor:g}"
        )
    scale = window_ratio(rope, target)
    f = scale if factor is None else factor
    made = []
    for period in rope.periods:
        kept = (rope.window / period - low_freq_factor) / (high_freq_factor - low_freq_factor)
        kept = min(max(kept, 0.0), 1.0)
        made.append(f / (1 - kept + kept * f))
    settings = {"factor": f, "low_freq_factor": low_freq_factor, "high_freq_factor": high_freq_factor}
    return _scaling(rope, target, "llama3", made, settings=settings)


def abf(rope: OriginalRope, target: int, *, base: float) -> RopeScaling:
    """ABF, adjusted base frequency (arXiv 2309.16039): the base ``base`` in place of ``b``, whatever ``s`` is."""
    return _scaling(rope, target, "abf", _rebased(rope, base), settings={"base": base})


def cope(rope: OriginalRope, target: int, *, clipped: int | None = None, base: float | None = None) -> RopeScaling:
    """CoPE (arXiv 2602.05258): the frequencies of the last ``clipped`` pairs fade to zero along a raised cosine, the
    ``k``-th of them (0-based) to ``(1 + cos(pi k / (clipped - 1))) / 2`` of its own.

    ``clipped`` counts the pairs with a period of at least ``Lt`` unless given. ``base`` changes ``b`` first, as ABF
    does. The last pair's frequency of zero is stored as the factor :data:`CLIPPED`. The formula is the published code's
    (github.com/hrlics/CoPE, modeling_cope.py at ed52ba5): its fade goes by pair, the paper's by frequency.
    """
    window_ratio(rope, target)
    count = rope.pairs - rope.d_tcd if clipped is None else clipped
    if not (isinstance(count, int) and 2 <= count <= rope.pairs):
        reason = f"clipped is {count}" if clipped is not None else f"{max(count, 0)} pairs have a period of Lt or more"
        raise ValueError(f"cope: {reason}; give clipped, a whole number from 2 to {rope.pairs}")
    made = [1.0] * rope.pairs if base is None else _rebased(rope, base)
    for k in range(1, count):
        kept = (1 + math.cos(math.pi * k / (count - 1))) / 2
        made[k - count] = made[k - count] / kept if k < count - 1 else CLIPPED
    settings = {"clipped": count} | ({} if base is None else {"base": base})
    return _scaling(rope, target, "cope", made, settings=settings)


def resonance(rope: OriginalRope, target: int) -> RopeScaling:
    """Resonance RoPE (arXiv 2403.00071) on plain RoPE: every period is rounded to whole tokens, whatever ``s`` is.

    Factors may be below 1. Published code: github.com/sheryc/resonance_rope at 4a7f5a7, rotary_resonance.py.
    """
    return _resonant(rope, none(rope, target))


def resonance_yarn(
    rope: OriginalRope, target: int, *, beta_fast: float = 32, beta_slow: float = 1, truncate: bool = True
) -> RopeScaling:
    """Resonance YaRN (arXiv 2403.00071): YaRN's periods, rounded to whole tokens; YaRN's temperature.

    Published code: github.com/sheryc/resonance_rope at 4a7f5a7, LlamaYaRNScaledResonanceRotaryEmbedding.py.
    """
    return _resonant(rope, yarn(rope, target, beta_fast=beta_fast, beta_slow=beta_slow, truncate=truncate))


def longrope(
    rope: OriginalRope,
    target: int,
    *,
    factors: Sequence[float],
    short_factors: Sequence[float] | None = None,
    attention_factor: float | None = None,
) -> RopeScaling:
    """LongRoPE (arXiv 2402.13753): given factors, with the temperature ``sqrt(1 + ln s / ln Lt)``.

    The first version also searched factors for short inputs.
    """
    temperature = _su(rope, target, attention_factor)
    return _scaling(rope, target, "longrope", factors, temperature, short=short_factors)


def longrope2(
    rope: OriginalRope,
    target: int,
    *,
    split: int | None = None,
    right: float | Sequence[float] | None = None,
    power: float = 1.0,
    attention_factor: float | None = None,
) -> RopeScaling:
    """LongRoPE2: given factors from ``split`` on, below it ``S^((i/split)^power)`` with ``S`` the factor at the split.

    ``power`` 1 is the paper's rule (an NTK base that gives the split exactly its factor); a higher one changes the fast
    pairs less. ``right`` is one factor per pair from the split, or one number for all of them, ``s`` unless given.
    The defaults are where a search begins, not its result.

    The temperature is ``sqrt(1 + ln s / ln Lt)``.
    """
    scale = window_ratio(rope, target)
    split = rope.d_tcd if split is None else split
    if not 0 <= split < rope.pairs:
        raise ValueError(
            f"longrope2: a split at pair {split} leaves no pairs on its right; give one from 0 to {rope.pairs - 1}"
        )
    if not power > 0:
        raise ValueError(f"longrope2: the power is {power}, not a positive number")
    right = scale if right is None else right
    tail = [float(right)] * (rope.pairs - split) if isinstance(right, int | float) else [float(f) for f in right]
    if len(tail) != rope.pairs - split:
        raise ValueError(f"longrope2: right has {len(tail)} factors, but split {split} needs {rope.pairs - split}")
    if not tail[0] > 0:
        raise ValueError(f"longrope2: the factor at the split is {tail[0]}, not a positive number")
    left = [tail[0] ** ((i / split) ** power) for i in range(split)]
    temperature = _su(rope, target, attention_factor)
    settings = {"split": split} | ({} if power == 1 else {"power": power})
    return _scaling(rope, target, "longrope2", left + tail, temperature, settings=settings)


def ntk_rcd(rope: OriginalRope, target: int, *, d_rcd: int) -> RopeScaling:
    """The paper's ablation NTK-rcd: a base for which the factor reaches ``s`` at pair ``d_rcd``: ``s^(i/d_rcd)``."""
    scale = window_ratio(rope, target)
    _check_rcd("ntk-rcd", rope, d_rcd)
    return _scaling(
        rope, target, "ntk-rcd", [scale ** (i / d_rcd) for i in range(rope.pairs)], settings={"d_rcd": d_rcd}
    )


def yarn_rcd(rope: OriginalRope, target: int, *, d_rcd: int, beta_fast: float = 32) -> RopeScaling:
    """The paper's ablation YaRN-rcd: YaRN whose ramp reaches ``s`` at pair ``d_rcd`` instead of ``d_tcd``.

    The paper does not print the ramp; the lower edge here stays YaRN's own.
    """
    window_ratio(rope, target)
    _check_rcd("yarn-rcd", rope, d_rcd)
    low = max(math.floor(_turning(rope, beta_fast)), 0)
    if low >= d_rcd:
        raise ValueError(f"yarn-rcd: d_rcd is pair {d_rcd}; it must be above the start of the ramp, pair {low}")
    factors = _ramp(rope, target, low, d_rcd)
    settings = {"d_rcd": d_rcd, "beta_fast": beta_fast}
    return _scaling(rope, target, "yarn-rcd", factors, _yarn_attention(rope, target), settings=settings)


@dataclass(frozen=True)
class RopeRule:
    """A rule under the name it has on the command line. ``make(rope, target, **settings)`` returns the scaling."""

    name: str
    make: Callable[..., RopeScaling]

    @property
    def about(self) -> str:
        """The first paragraph of its docstring."""
        return " ".join((inspect.getdoc(self.make) or "").split("\n\n")[0].split())

    @property
    def settings(self) -> Mapping[str, bool]:
        """Names of its settings, and whether each must be given."""
        parameters = inspect.signature(self.make).parameters.values()
        return {p.name: p.default is p.empty for p in parameters if p.kind is p.KEYWORD_ONLY}


_MAKERS = (none, pi, ntk_aware, ntk, dynamic_ntk, abf, yarn, llama3, cope, resonance, resonance_yarn,
           longrope, longrope2, ntk_rcd, yarn_rcd)  # fmt: skip
RULES: Mapping[str, RopeRule] = {
    rule.name: rule for rule in (RopeRule(make.__name__.replace("_", "-"), make) for make in _MAKERS)
}
"""The built-in rules."""
_TAKEN = {"all": "every rule", "seed": "a row of a search", "searched": "a row of a search"}
"""Names that mean something else where a rule is expected."""


def rope_rules() -> dict[str, RopeRule]:
    """Every rule by name: the built-in ones, then those of other packages (entry points ``lr2eval.rope_rules``)."""
    return {**RULES, **_plugins()[0]}


def rope_rule(name: str) -> RopeRule:
    """One rule. Raises :class:`lr2eval.UsageError` for an unknown name or a plug-in that cannot be used."""
    if name in RULES:
        return RULES[name]
    if name in plugins.names(plugins.ROPE_RULES):
        try:
            return _plugin(name)
        except plugins.PluginError as error:
            raise UsageError(f"--rule {name}: {error}") from error
    known = [*rope_rules(), "all"]
    near = difflib.get_close_matches(name, known, 1)
    hint = f"did you mean {near[0]}?" if near else f"known rules: {', '.join(known)}"
    raise UsageError(f"--rule {name}: unknown rule; {hint}")


def attention_factor(
    asked: str | float | None, rope: OriginalRope, target: int, *, flag: str = "--attention-factor"
) -> float | None:
    """The attention factor that was asked for: ``su`` is ``sqrt(1 + ln s / ln Lt)``, ``yarn`` is ``0.1 ln s + 1``.

    ``None`` stays ``None``: the rule's own. Raises :class:`lr2eval.UsageError`, naming ``flag``, for anything else that
    is not a positive number.
    """
    if asked is None:
        return None
    if asked in ("su", "yarn"):
        return _su(rope, target, None) if asked == "su" else _yarn_attention(rope, target)
    try:
        value = float(asked)
    except (ValueError, TypeError, OverflowError):
        value = math.nan
    if not 0 < value < math.inf:
        raise UsageError(f"{flag} {asked}: not a positive number, su or yarn; 1 leaves attention unchanged")
    return value


def make_scaling(
    name: str,
    rope: OriginalRope,
    target: int,
    settings: Mapping[str, Any],
    attention_factor: str | float | None = None,
) -> RopeScaling:
    """The scaling of a rule with these settings. An attention factor, if given, replaces the rule's own on both sides.

    Raises :class:`lr2eval.UsageError`, naming the flag, for an unknown rule and for settings or an attention factor
    that are unknown, missing or wrong.
    """
    rule = rope_rule(name)
    refuse_unknown(settings, rule.settings, group=name)
    for key, must in rule.settings.items():
        if must and key not in settings:
            raise UsageError(f"--rule {name}: needs --set {key}=VALUE")
        if isinstance(settings.get(key), str):
            raise UsageError(f"--set {key}={settings[key]}: not a number; give key=NUMBER or key=[NUMBER,...]")
    try:
        made = rule.make(rope, target, **settings)
    except (ValueError, TypeError, OverflowError) as error:
        raise UsageError(f"--rule {name}: {str(error).removeprefix(f'{name}: ')}") from error
    return with_attention(made, attention_factor)


def with_attention(scaling: RopeScaling, asked: str | float | None) -> RopeScaling:
    """The same factors with the attention factor that was asked for, on both sides; see :func:`attention_factor`."""
    value = attention_factor(asked, scaling.original, scaling.target_window)
    if value is None:
        return scaling
    made_by = re.sub(r"(\(|, )attention_factor=[^,()]*\)$", r"\1", scaling.provenance)
    if not made_by.endswith(("(", ", ")):
        made_by = f"{made_by[:-1]}, " if made_by.endswith(")") else f"{made_by}("
    provenance = f"{made_by}attention_factor={value:.6g})"
    return replace(scaling, long_attention_factor=value, short_attention_factor=value, provenance=provenance)


def rule_failures() -> dict[str, str]:
    """One line for every plug-in rule that cannot be used."""
    return _plugins()[1]


def _plugins() -> tuple[dict[str, RopeRule], dict[str, str]]:
    """The plug-in rules, and why others cannot be used."""
    found, failures = {}, {}
    for name in plugins.names(plugins.ROPE_RULES):
        try:
            found[name] = _plugin(name)
        except plugins.PluginError as error:
            failures[name] = str(error)
    return found, failures


def _plugin(name: str) -> RopeRule:
    make = plugins.load(plugins.ROPE_RULES, name)
    if name in RULES or name in _TAKEN:
        raise plugins.unusable(plugins.ROPE_RULES, name, f"{name} means {_TAKEN.get(name, 'a built-in rule')}")
    if not callable(make):
        raise plugins.unusable(
            plugins.ROPE_RULES, name, f"{plugins.target(plugins.ROPE_RULES, name)} is not a function"
        )

    @functools.wraps(make)
    def checked(rope: OriginalRope, target: int, **settings: Any) -> RopeScaling:
        try:
            scaling = make(rope, target, **settings)
        except ValueError:
            raise
        except (Exception, SystemExit) as error:  # a failing plug-in must not end a search
            raise ValueError(plugins.raised(error)) from error
        if not isinstance(scaling, RopeScaling):
            raise ValueError(f"returned {type(scaling).__name__}, not a RopeScaling")
        if scaling.original != rope or scaling.target_window != target:
            raise ValueError("returned factors for another RoPE or another target length")
        return scaling

    return RopeRule(name, checked)


def _scaling(
    rope: OriginalRope,
    target: int,
    rule: str,
    factors: Sequence[float],
    attention: float = 1.0,
    *,
    short: Sequence[float] | None = None,
    settings: Mapping[str, float] | None = None,
) -> RopeScaling:
    window_ratio(rope, target)
    said = ", ".join(f"{key}={value:g}" for key, value in (settings or {}).items())
    return RopeScaling(
        long_factor=tuple(float(factor) for factor in factors),
        short_factor=(1.0,) * rope.pairs if short is None else tuple(float(factor) for factor in short),
        long_attention_factor=float(attention),
        short_attention_factor=float(attention),
        original_window=rope.window,
        target_window=target,
        theta=rope.theta,
        rotary_dim=rope.rotary_dim,
        provenance=f"{rule}({said})" if said else rule,
    )


def window_ratio(rope: OriginalRope, target: int) -> float:
    """``s``. Every rule asks for it first, because its formula may be meaningless for a target inside the window."""
    if target <= rope.window:
        raise ValueError(f"the target of {target:,} tokens is not longer than the window of {rope.window:,}")
    return target / rope.window


def _ntk(rope: OriginalRope, scale: float) -> list[float]:
    if rope.rotary_dim < 4:
        raise ValueError("NTK needs more than one rotary pair")
    return [scale ** (2 * i / (rope.rotary_dim - 2)) for i in range(rope.pairs)]


def _rebased(rope: OriginalRope, base: float) -> list[float]:
    if not 1 < base < math.inf:
        raise ValueError(f"the base is {base:g}; give a number above 1")
    return [(base / rope.theta) ** (2 * i / rope.rotary_dim) for i in range(rope.pairs)]


def _resonant(rope: OriginalRope, made: RopeScaling) -> RopeScaling:
    """The same scaling with whole periods."""
    whole = tuple(round(f * period) / period for f, period in zip(made.long_factor, rope.periods, strict=True))
    return replace(made, long_factor=whole, provenance=f"resonance-{made.provenance}".removesuffix("-none"))


def _turning(rope: OriginalRope, turns: float) -> float:
    """Where, on the scale of pairs, a pair turns ``turns`` times in the window."""
    return rope.rotary_dim * math.log(rope.window / (turns * 2 * math.pi)) / (2 * math.log(rope.theta))


def _ramp(rope: OriginalRope, target: int, low: float, high: float) -> list[float]:
    scale = window_ratio(rope, target)
    width = (high - low) or 0.001  # transformers' guard against a ramp of no width
    moved = [min(max((i - low) / width, 0.0), 1.0) for i in range(rope.pairs)]
    return [scale / (scale * (1 - m) + m) for m in moved]


def _yarn_attention(
    rope: OriginalRope, target: int, mscale: float | None = None, mscale_all_dim: float | None = None
) -> float:
    def grown(m: float) -> float:
        return 0.1 * m * math.log(target / rope.window) + 1.0

    return grown(mscale) / grown(mscale_all_dim) if mscale and mscale_all_dim else grown(1.0)


def _su(rope: OriginalRope, target: int, given: float | None) -> float:
    return default_attention_factor(target / rope.window, rope.window) if given is None else given


def _check_rcd(rule: str, rope: OriginalRope, d_rcd: int) -> None:
    if not 1 <= d_rcd < rope.pairs:
        raise ValueError(f"{rule}: d_rcd is pair {d_rcd}; give one from 1 to {rope.pairs - 1}")
