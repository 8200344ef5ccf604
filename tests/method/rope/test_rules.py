"""Every rule against the published numbers, its own definition, and transformers where it has the rule too."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from lr2eval.method.rope import rules
from lr2eval.method.rope.scaling import OriginalRope, RopeScaling
from lr2eval.model.rope_facts import real_index
from tests.method.published import (
    LLAMA3,
    LLAMA3_LEFT,
    LLAMA3_RIGHT,
    PHI4_LEFT,
    PHI4_MINI,
    PHI4_RIGHT,
    TARGET,
)

EPS = torch.finfo(torch.float32).eps


@pytest.mark.parametrize(
    ("rope", "left", "right"), [(LLAMA3, LLAMA3_LEFT, LLAMA3_RIGHT), (PHI4_MINI, PHI4_LEFT, PHI4_RIGHT)]
)
def test_left_rule_of_the_published_factors(rope: OriginalRope, left: list[float], right: list[float]) -> None:
    made = rules.longrope2(rope, TARGET, split=len(left), right=right)
    assert made.long_factor == pytest.approx(left + right, rel=1e-8)
    assert made.short_factor == (1.0,) * rope.pairs
    assert real_index(made.long_factor, made.scale) == {64: 30, 48: 31}[rope.pairs]
    wanted = {64: 1.1435, 48: 1.1902}[rope.pairs]
    assert made.long_attention_factor == made.short_attention_factor == pytest.approx(wanted, abs=5e-5)


def test_the_papers_ntk() -> None:
    llama3 = rules.ntk(LLAMA3, TARGET).long_factor
    assert llama3[35] == pytest.approx(16.02, abs=5e-3)
    assert llama3[63] == pytest.approx(147, abs=0.5)
    phi3 = rules.ntk(OriginalRope(1e4, 96, 2048), TARGET).long_factor
    assert phi3[31] == pytest.approx(71.9, abs=0.05)
    assert phi3[47] == pytest.approx(653, abs=0.5)
    # The bases that the paper's formula gives: the factor of a pair at i = d/2 would be their ratio to b.
    assert llama3[1] ** 64 * 5e5 == pytest.approx(7.98e7, rel=1e-3)
    assert phi3[1] ** 48 * 1e4 == pytest.approx(7.49e6, rel=1e-3)


def test_yarn_temperature() -> None:
    assert rules.yarn(LLAMA3, TARGET).long_attention_factor == pytest.approx(1.277, abs=5e-4)
    assert rules.yarn(OriginalRope(1e4, 96, 2048), TARGET).long_attention_factor == pytest.approx(1.416, abs=5e-4)
    assert rules.yarn(LLAMA3, TARGET, attention_factor=1.0).long_attention_factor == 1.0
    both = rules.yarn(LLAMA3, TARGET, mscale=1.0, mscale_all_dim=0.5).long_attention_factor
    assert both == pytest.approx((0.1 * math.log(16) + 1) / (0.05 * math.log(16) + 1))


def test_what_each_rule_is_by_definition() -> None:
    s = 16.0
    assert set(rules.none(LLAMA3, TARGET).long_factor) == {1.0}
    assert set(rules.pi(LLAMA3, TARGET).long_factor) == {s}
    aware = rules.ntk_aware(LLAMA3, TARGET).long_factor
    assert (aware[0], aware[63]) == (1.0, pytest.approx(s))
    yarn = rules.yarn(LLAMA3, TARGET).long_factor
    assert yarn[:19] == (1.0,) * 19  # 32 turns in the window: between pairs 18 and 19
    assert yarn[19] > 1
    assert yarn[34] < s
    assert yarn[35:] == (s,) * 29
    llama = rules.llama3(LLAMA3, TARGET, factor=8).long_factor
    assert llama[:29] == (1.0,) * 29  # periods below 2048
    assert llama[35:] == (8.0,) * 29
    assert 1 < llama[29] < llama[34] < 8
    rcd = rules.ntk_rcd(LLAMA3, TARGET, d_rcd=30).long_factor
    assert (rcd[0], rcd[30], rcd[60]) == (1.0, s, s**2)
    moved = rules.yarn_rcd(LLAMA3, TARGET, d_rcd=30).long_factor
    assert moved[:19] == (1.0,) * 19
    assert moved[29] < s
    assert moved[30:] == (s,) * 34
    assert rules.yarn_rcd(LLAMA3, TARGET, d_rcd=35).long_factor == yarn
    given = rules.longrope(LLAMA3, TARGET, factors=range(1, 65), short_factors=[1.5] * 64)
    assert given.long_factor == tuple(float(i) for i in range(1, 65))
    assert given.short_factor == (1.5,) * 64


def test_left_side_with_a_power() -> None:
    made = rules.longrope2(LLAMA3, TARGET, split=16, power=2).long_factor
    assert made[:16] == tuple(16.0 ** ((i / 16) ** 2) for i in range(16))
    assert made[16:] == (16.0,) * 48
    assert (
        rules.longrope2(LLAMA3, TARGET).long_factor
        == rules.longrope2(LLAMA3, TARGET, split=35, right=16, power=1).long_factor
    )
    assert rules.longrope2(LLAMA3, TARGET, split=0, right=20).long_factor == (20.0,) * 64


@st.composite
def _ropes(draw: st.DrawFn) -> tuple[OriginalRope, int, Any]:
    """(original RoPE, target, transformers' configuration without RoPE parameters)."""
    head = 2 * draw(st.integers(4, 64))
    share = draw(st.sampled_from([1.0, 0.75, 0.5, 0.25]))
    dim = int(head * share)
    if dim % 2 or dim < 4:
        share, dim = 1.0, head
    theta = draw(st.floats(1e3, 1e7))
    window = draw(st.integers(64, 65536))
    target = draw(st.integers(window + 1, 64 * window))
    rope = OriginalRope(theta, dim, window)
    return rope, target, {"rope_theta": theta, "partial_rotary_factor": share, "head_dim": head}


def _stock(kind: str, rope: OriginalRope, known: dict[str, Any], length: int | None = None, **more: Any) -> Any:
    head = known["head_dim"]
    parameters = {"rope_type": kind, **{k: v for k, v in known.items() if k != "head_dim"}, **more}
    config = LlamaConfig(head_dim=head, hidden_size=2 * head, num_attention_heads=2, rope_parameters=parameters,
                         max_position_embeddings=rope.window)  # fmt: skip
    return ROPE_INIT_FUNCTIONS[kind](config, None, seq_len=length)


def _assert_same(ours: RopeScaling, stock: tuple[torch.Tensor, float], tolerance: float) -> None:
    difference = (ours.inv_freq("long").double() / stock[0].double() - 1).abs().max()
    assert float(difference) <= tolerance * EPS
    assert ours.long_attention_factor == pytest.approx(stock[1], rel=1e-12)


# transformers works in float32 throughout, we in double until the last step. What that costs it: an ulp or two of the
# power, and cancellation in sums of 1 and 1/s, which counts s times, and more where a ramp is narrow. Bounds in ulps;
# 3000 random configurations gave 1.5 (PI), 4 (dynamic NTK), 8 (4 + s) (YaRN) and 4.4 (4 + s) (Llama 3).
@given(_ropes())
def test_pi_equals_transformers(drawn: Any) -> None:
    rope, target, known = drawn
    stock = _stock("linear", rope, known, factor=target / rope.window)
    _assert_same(rules.pi(rope, target), stock, 3)


@given(_ropes(), st.floats(1, 4))
def test_dynamic_ntk_equals_transformers(drawn: Any, longer: float) -> None:
    rope, target, known = drawn
    length = int(target * longer)
    stock = _stock("dynamic", rope, known, length, factor=target / rope.window)
    _assert_same(rules.dynamic_ntk(rope, target, length=length), stock, 12)


@given(_ropes())
def test_plain_yarn_equals_transformers(drawn: Any) -> None:
    rope, target, known = drawn
    scale = target / rope.window
    stock = _stock("yarn", rope, known, factor=scale, original_max_position_embeddings=rope.window)
    _assert_same(rules.yarn(rope, target), stock, 4 * (4 + scale))


@given(_ropes(), st.floats(1, 4), st.floats(8, 64), st.booleans(), st.sampled_from([None, 0.7, 1.0]))
def test_yarn_equals_transformers(drawn: Any, slow: float, fast: float, truncate: bool, mscale: float | None) -> None:
    rope, target, known = drawn
    more = {"beta_slow": slow, "beta_fast": fast, "truncate": truncate, "mscale": mscale, "mscale_all_dim": 1.0}
    scale = target / rope.window
    stock = _stock("yarn", rope, known, factor=scale, original_max_position_embeddings=rope.window, **more)
    _assert_same(rules.yarn(rope, target, **more), stock, 32 * (4 + scale))


@given(_ropes(), st.floats(0.5, 2), st.floats(0.5, 6))
def test_llama3_equals_transformers(drawn: Any, low: float, wider: float) -> None:
    rope, target, known = drawn
    more = {"low_freq_factor": low, "high_freq_factor": low + wider}
    scale = target / rope.window
    stock = _stock("llama3", rope, known, factor=scale, original_max_position_embeddings=rope.window, **more)
    _assert_same(rules.llama3(rope, target, **more), stock, 16 * (4 + scale))


@given(_ropes(), st.data())
def test_longrope_equals_transformers(drawn: Any, data: st.DataObject) -> None:
    rope, target, known = drawn
    factors = data.draw(st.lists(st.floats(1, 100), min_size=rope.pairs, max_size=rope.pairs))
    ours = rules.longrope(rope, target, factors=factors)
    stock = _stock("longrope", rope, known, target, factor=target / rope.window,
                   original_max_position_embeddings=rope.window, short_factor=factors, long_factor=factors)  # fmt: skip
    _assert_same(ours, stock, 0)


@given(_ropes())
@settings(max_examples=50)
def test_every_rule_keeps_its_promises(drawn: Any) -> None:
    rope, target, _ = drawn
    for name, rule in rules.RULES.items():
        needed: dict[str, Any] = {"d_rcd": rope.pairs - 1, "factors": [2.0] * rope.pairs}
        try:
            made = rule.make(rope, target, **{key: needed[key] for key, must in rule.settings.items() if must})
        except ValueError:
            excused = {"longrope2": rope.d_tcd >= rope.pairs, "yarn-rcd": rope.d10_tcd >= rope.pairs - 1}
            assert excused[name], "only windows in which every pair turns have no such factors"
            continue
        assert made.original == rope
        assert (made.target_window, made.short_factor) == (target, (1.0,) * rope.pairs)
        assert made.provenance.split("(")[0] == name
        assert all(a <= b * (1 + 1e-12) for a, b in zip(made.long_factor, made.long_factor[1:], strict=False)), name
        assert min(made.long_factor) >= 1 - 1e-12, name


def test_wrong_settings_are_named() -> None:
    for name, rule in rules.RULES.items():
        needed: dict[str, Any] = {"d_rcd": 30, "factors": [2.0] * 64}
        given_ = {key: needed[key] for key, must in rule.settings.items() if must}
        for target in (8192, 0):
            with pytest.raises(ValueError, match=rf"^the target of {target:,} tokens is not longer than the window"):
                rule.make(LLAMA3, target, **given_)
        assert rule.about.endswith("."), name
    for call, said in (
        (lambda: rules.yarn(LLAMA3, TARGET, beta_fast=1, beta_slow=2), "0 < beta_slow <= beta_fast"),
        (
            lambda: rules.llama3(LLAMA3, TARGET, low_freq_factor=4),
            "low_freq_factor 4 is not between 0 and high_freq_factor 4",
        ),
        (lambda: rules.longrope2(LLAMA3, TARGET, split=64), "leaves no pairs on its right"),
        (
            lambda: rules.longrope2(LLAMA3, TARGET, split=60, right=[20, 21]),
            "right has 2 factors, but split 60 needs 4",
        ),
        (lambda: rules.longrope2(LLAMA3, TARGET, right=-1.0), "factor at the split is -1.0"),
        (lambda: rules.longrope2(LLAMA3, TARGET, power=0), "the power is 0"),
        (lambda: rules.ntk_rcd(LLAMA3, TARGET, d_rcd=64), "d_rcd is pair 64"),
        (
            lambda: rules.yarn_rcd(LLAMA3, TARGET, d_rcd=10),
            "d_rcd is pair 10; it must be above the start of the ramp, pair 18",
        ),
        (lambda: rules.longrope(LLAMA3, TARGET, factors=[1.0]), "has 1 numbers"),
        (lambda: rules.ntk_aware(OriginalRope(1e4, 2, 64), 128), "more than one rotary pair"),
    ):
        with pytest.raises(ValueError, match=said):
            call()
