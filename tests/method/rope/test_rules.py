"""Every rule against the published numbers, its own definition, and transformers where it has the rule too."""

from __future__ import annotations

import json
import math
import random
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from lr2eval.errors import UsageError
from lr2eval.method.rope import rules
from lr2eval.method.rope.scaling import OriginalRope, RopeScaling
from lr2eval.method.rope.windowed import WindowedRotaryEmbedding
from lr2eval.model.rope_facts import CLIPPED, real_index
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
        needed: dict[str, Any] = {"d_rcd": rope.pairs - 1, "factors": [2.0] * rope.pairs, "base": 2 * rope.theta}
        try:
            made = rule.make(rope, target, **{key: needed[key] for key, must in rule.settings.items() if must})
        except ValueError:
            excused = {"longrope2": rope.d_tcd >= rope.pairs, "yarn-rcd": rope.d10_tcd >= rope.pairs - 1,
                       "cope": rope.d_tcd > rope.pairs - 2}  # fmt: skip
            assert excused[name], "only windows in which every pair turns have no such factors"
            continue
        assert made.original == rope
        assert (made.target_window, made.short_factor) == (target, (1.0,) * rope.pairs)
        assert made.provenance.split("(")[0] == name
        if name.startswith("resonance"):  # rounds to whole tokens, which may make a period up to half a token shorter
            periods = [f * period for f, period in zip(made.long_factor, rope.periods, strict=True)]
            assert periods == pytest.approx([round(period) for period in periods], rel=1e-12)
            continue
        assert all(a <= b * (1 + 1e-12) for a, b in zip(made.long_factor, made.long_factor[1:], strict=False)), name
        assert min(made.long_factor) >= 1 - 1e-12, name


def test_wrong_settings_are_named() -> None:
    for name, rule in rules.RULES.items():
        needed: dict[str, Any] = {"d_rcd": 30, "factors": [2.0] * 64, "base": 1e6}
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
        (lambda: rules.abf(LLAMA3, TARGET, base=1), "the base is 1; give a number above 1"),
        (lambda: rules.cope(LLAMA3, TARGET, base=math.inf), "the base is inf; give a number above 1"),
        (lambda: rules.cope(LLAMA3, TARGET, clipped=1), "clipped is 1; give clipped, a whole number from 2 to 64"),
        (lambda: rules.cope(LLAMA3, TARGET, clipped=65), "clipped is 65"),
        (lambda: rules.cope(LLAMA3, TARGET, clipped=9.5), "clipped is 9.5"),  # type: ignore[arg-type]
        (lambda: rules.cope(OriginalRope(1e4, 128, 65536), 131072), "cope: 0 pairs have a period of Lt or more"),
        (lambda: rules.ntk_aware(OriginalRope(1e4, 2, 64), 128), "more than one rotary pair"),
    ):
        with pytest.raises(ValueError, match=said):
            call()


def _configuration(seed: int) -> tuple[random.Random, OriginalRope, int]:
    rng = random.Random(seed)
    window = rng.randint(64, 65536)
    rope = OriginalRope(10 ** rng.uniform(3, 7), 2 * rng.randint(4, 128), window)
    return rng, rope, rng.randint(window + 1, 64 * window)


def _plain(base: float, dim: int) -> torch.Tensor:
    return base ** -(torch.arange(0, dim, 2, dtype=torch.float64) / dim)


@pytest.mark.parametrize("seed", range(20))
def test_cope_equals_its_published_code(seed: int) -> None:
    """Source: the code, not the paper: github.com/hrlics/CoPE at ed52ba5, modeling_cope.py, ``LlamaRotaryEmbedding``.

    Its arithmetic, written anew in float64: the last ``clip_low_n`` inverse frequencies of whatever base the model has
    are multiplied by half of 1 + cos of equally spaced angles from 0 to pi. Nothing else changes.
    """
    rng, rope, target = _configuration(seed)
    clip, base = rng.randint(2, rope.pairs), rng.choice([None, 10 ** rng.uniform(3, 8)])
    wanted_R = _plain(base or rope.theta, rope.rotary_dim)
    fade = 0.5 * (1.0 + torch.cos(torch.linspace(0.0, torch.pi, clip, dtype=torch.float64)))
    wanted_R[len(wanted_R) - clip :] *= fade
    made = rules.cope(rope, target, clipped=clip, base=base)
    ours_R = _plain(rope.theta, rope.rotary_dim) / torch.tensor(made.long_factor, dtype=torch.float64)
    assert ours_R[:-1].tolist() == pytest.approx(wanted_R[:-1].tolist(), rel=1e-9)
    assert (float(wanted_R[-1]), made.long_factor[-1]) == (0.0, CLIPPED)
    assert made.long_attention_factor == 1


@pytest.mark.parametrize("seed", range(20))
def test_resonance_equals_its_published_code(seed: int) -> None:
    """Source: the code, github.com/sheryc/resonance_rope at 4a7f5a7: ``ResonanceRotaryEmbedding`` in
    src/models/components/positional_embedding/rotary_resonance.py. Its arithmetic, written anew in float64.

    The code also takes positions modulo the whole wavelengths, which leaves every angle the same.
    """
    _, rope, target = _configuration(seed)
    wanted_R = 2 * math.pi / torch.round(2 * math.pi / _plain(rope.theta, rope.rotary_dim))
    made = rules.resonance(rope, target)
    ours_R = _plain(rope.theta, rope.rotary_dim) / torch.tensor(made.long_factor, dtype=torch.float64)
    assert ours_R.tolist() == pytest.approx(wanted_R.tolist(), rel=1e-9)
    assert (made.provenance, made.long_attention_factor) == ("resonance", 1)


@pytest.mark.parametrize("seed", range(20))
def test_resonance_yarn_equals_its_published_code(seed: int) -> None:
    """Source: the code, github.com/sheryc/resonance_rope at 4a7f5a7: ``LlamaYaRNScaledResonanceRotaryEmbedding`` in
    llama_finetuning/scaled_rope. Its arithmetic, written anew in float64; 2 is its other class's ``beta_fast``.
    """
    rng, rope, target = _configuration(seed)
    fast, scale, dim = rng.choice([2, 32]), target / rope.window, rope.rotary_dim
    edges = [dim * math.log(rope.window / (n * 2 * math.pi)) / (2 * math.log(rope.theta)) for n in (fast, 1)]
    low, high = max(math.floor(edges[0]), 0), float(min(math.ceil(edges[1]), dim - 1))
    high = high + 0.001 if low == high else high
    ramp_R = torch.clamp((torch.arange(rope.pairs, dtype=torch.float64) - low) / (high - low), 0, 1)
    plain_R = _plain(rope.theta, dim)
    wanted_R = 2 * math.pi / torch.round(2 * math.pi / (plain_R / scale * ramp_R + plain_R * (1 - ramp_R)))
    made = rules.resonance_yarn(rope, target, beta_fast=fast)
    ours_R = plain_R / torch.tensor(made.long_factor, dtype=torch.float64)
    assert ours_R.tolist() == pytest.approx(wanted_R.tolist(), rel=1e-9)
    assert made.long_attention_factor == pytest.approx(0.1 * math.log(scale) + 1)
    assert made.provenance == f"resonance-yarn(beta_fast={fast}, beta_slow=1)"


def test_new_rules_by_definition() -> None:
    abf = rules.abf(LLAMA3, TARGET, base=1e7).long_factor
    assert (abf[0], abf[32]) == (1.0, pytest.approx(math.sqrt(20)))
    # 29 of LLaMA3's 64 pairs do not turn once in 8,192 tokens (section 3.1 of CoPE's paper).
    cope = rules.cope(LLAMA3, TARGET).long_factor
    assert cope == rules.cope(LLAMA3, TARGET, clipped=29).long_factor
    assert cope[:36] == (1.0,) * 36, "the fade begins with a factor of one"
    assert cope[49] == pytest.approx(2), "half way of the raised cosine"
    both = rules.cope(LLAMA3, TARGET, clipped=20, base=1e7)  # as the paper trained
    assert both.long_factor[:45] == pytest.approx(abf[:45])
    assert both.provenance == "cope(clipped=20, base=1e+07)"
    whole = rules.resonance(LLAMA3, TARGET).long_factor
    assert whole[0] == pytest.approx(6 / (2 * math.pi)), "6.28 tokens become 6: below 1"
    assert whole[1] == pytest.approx(8 / (2 * math.pi * 5e5 ** (1 / 64)))


@given(_ropes())
@settings(max_examples=50)
def test_a_clipped_pair_has_no_position_up_to_10m_tokens(drawn: Any) -> None:
    rope, target, _ = drawn
    made = rules.cope(rope, target, clipped=2)
    inv_freq = made.inv_freq("long")
    assert float(inv_freq[-1]) >= torch.finfo(torch.float32).tiny
    ids = torch.tensor([[1, 10_000_000]])
    cos, sin = WindowedRotaryEmbedding(made)(torch.zeros(1, 2, 1), ids)
    assert cos[0, :, -1].tolist() == [1.0, 1.0]
    assert 0 < float(sin[0, 1, -1]) < 1e-5
    assert RopeScaling.from_json(json.loads(json.dumps(made.to_json()))) == made


SU, YARN = math.sqrt(1 + math.log(16) / math.log(8192)), 0.1 * math.log(16) + 1


@pytest.mark.parametrize(("asked", "wanted"), [(1, 1.0), ("1", 1.0), ("su", SU), ("yarn", YARN), (0.9, 0.9), ("2", 2)])
def test_every_rule_takes_an_attention_factor(asked: str | float, wanted: float) -> None:
    needed: dict[str, Any] = {"d_rcd": 30, "factors": [2.0] * 64, "base": 1e6}
    for name, rule in rules.RULES.items():
        given_ = {key: needed[key] for key, must in rule.settings.items() if must}
        own = rules.make_scaling(name, LLAMA3, TARGET, given_)
        made = rules.make_scaling(name, LLAMA3, TARGET, given_, asked)
        assert (made.long_attention_factor, made.short_attention_factor) == (pytest.approx(wanted),) * 2
        assert (made.long_factor, made.short_factor) == (own.long_factor, own.short_factor)
        assert made.provenance.removesuffix(")").endswith(f"attention_factor={wanted:.6g}")
        assert "attention_factor" not in own.provenance
    assert rules.make_scaling("ntk", LLAMA3, TARGET, {}, asked).provenance == f"ntk(attention_factor={wanted:.6g})"
    twice = rules.with_attention(rules.make_scaling("yarn", LLAMA3, TARGET, {}, 1.5), asked)
    assert twice.provenance == f"yarn(beta_fast=32, beta_slow=1, attention_factor={wanted:.6g})"


@pytest.mark.parametrize(
    ("name", "given_", "asked", "said"),
    [
        *(("pi", {}, bad, f"--attention-factor {bad}: not a positive number, su or yarn; 1 leaves")
          for bad in (0, -1.0, "0", "nan", "inf", math.nan, "warm", [1])),
        ("yran", {}, None, "--rule yran: unknown rule; did you mean yarn?"),
        ("abf", {}, None, "--rule abf: needs --set base=VALUE"),
        ("abf", {"base": 1}, None, "--rule abf: the base is 1; give a number above 1"),
        ("abf", {"base": "ten"}, None, "--set base=ten: not a number; give key=NUMBER"),
        ("abf", {"basis": 1e6}, None, "abf.basis: unknown option; did you mean abf.base?"),
        ("cope", {"clipped": 99}, None, "--rule cope: clipped is 99; give clipped, a whole number from 2 to 64"),
        ("resonance-yarn", {"beta_slow": 0}, None, "--rule resonance-yarn: "),
    ],
)  # fmt: skip
def test_wrong_rules_are_usage_errors(name: str, given_: Any, asked: Any, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        rules.make_scaling(name, LLAMA3, TARGET, given_, asked)
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)
