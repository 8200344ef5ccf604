from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lr2eval.errors import BackendError
from lr2eval.method.rope import rules
from lr2eval.method.rope.scaling import OriginalRope, RopeScaling
from lr2eval.method.search.config import SearchConfig
from lr2eval.method.search.gradient import SKIPS, Descent, composed, descend, descent_cost
from lr2eval.method.search.journal import Journal, Trial, TrialResult, factors_key
from lr2eval.method.search.run import JournalScorer, SplitDone
from tests.method.search.test_run import Heard

ROPE = OriginalRope(1000.0, 64, 128)
TARGET = 2048
SLOW = 13
"""The first pair that turns at most 1.5 times in the window."""
WANTED = np.log([*rules.longrope2(ROPE, TARGET, split=SLOW, right=28.0).long_factor, 0.8])
"""Where the fake loss is lowest."""


FOUR = ("none", "yarn", "pi", "ntk")


def config(**changes: Any) -> SearchConfig:
    small = {"samples": 6, "held_out": 3, "steps": 24, "batch": 4, "check_every": 4}
    return SearchConfig(model="m", target_length=TARGET, strategy="gradient", **small | changes)


def numbers(scaling: RopeScaling) -> np.ndarray:
    return np.array([*scaling.long_factor, scaling.long_attention_factor])


class Bowl:
    """A loss with one minimum, and noise that depends on the sample; may break on some samples, or die."""

    def __init__(self, *, noise: float = 0.1, broken: Sequence[int] = (), dies_after: int = -1) -> None:
        self.noise, self.broken, self.dies_after = noise, broken, dies_after
        self.jobs: list[Trial] = []

    def run(self, jobs: Sequence[Trial]) -> Iterator[TrialResult]:
        for job in jobs:
            if len(self.jobs) == self.dies_after:
                raise BackendError("the worker is gone")
            self.jobs.append(job)
            away = np.log(numbers(job.scaling)) - WANTED
            noise = np.random.default_rng(job.sample).normal(0, self.noise, len(away))
            nll = math.nan if job.sample in self.broken else float(np.sum(away**2))
            gradient = tuple(map(float, 2 * away + noise)) if job.gradient else None
            yield TrialResult(factors_key(job.scaling), job.sample, nll, TARGET, 0.01, gradient)


def run(folder: Path, bowl: Bowl, plan: SearchConfig, starts: Sequence[str] = ("yarn", "pi")) -> list[SplitDone]:
    folder.mkdir(exist_ok=True)
    with Journal.open(folder) as journal:
        made = {name: rules.RULES[name].make(ROPE, TARGET) for name in starts}
        return descend(made, plan, JournalScorer(bowl, journal))


def test_it_finds_the_minimum_of_the_pairs_that_may_move(tmp_path: Path) -> None:
    done = run(tmp_path, Bowl(noise=0.02), config(steps=80))
    best = min(done, key=lambda each: each.best_nll)
    found, start = np.log(numbers(best.scaling)), np.log(numbers(rules.yarn(ROPE, TARGET)))
    assert best.start == "yarn"
    assert np.abs(found - WANTED)[SLOW + 1 :].max() < 0.02 < np.abs(start - WANTED)[SLOW + 1 :].max()
    assert found[:SLOW] == pytest.approx(start[:SLOW]), "fast pairs stay as the start has them"
    assert best.seed is not None
    assert best.best_nll < best.seed[0] - 5


@given(
    rule=st.sampled_from(("none", "pi", "ntk", "yarn", "cope", "resonance", "resonance-yarn")),
    turns=st.sampled_from((1e-9, 0.5, 1.5, 1e9)),
    pulls=st.lists(st.lists(st.floats(-1e6, 1e6), min_size=33, max_size=33), min_size=1, max_size=8),
)
def test_factors_that_move_stay_at_least_1_and_never_fall(rule: str, turns: float, pulls: list[list[float]]) -> None:
    start = rules.RULES[rule].make(ROPE, TARGET)
    descent = Descent(start, config(turns=turns, learning_rate=1.0))
    first = min(sum(period * turns <= ROPE.window for period in ROPE.periods), 24)
    for pull in [None, *pulls]:
        if pull:
            descent.take([1.0, 2.0], [pull, pull[::-1]])
        now = numbers(descent.scaling)[:-1]
        assert now[first:].min() >= 1
        assert np.all(np.diff(now[max(first - 1, 0) :]) >= 0)
        # Also those of Resonance RoPE, which are below 1: at 1 they lose what the rule is for.
        assert now[:first] == pytest.approx(start.long_factor[:first], rel=1e-12)
    assert descent.step == len(pulls)


def test_starts_are_composed_of_left_and_right_sides() -> None:
    made = composed(ROPE, TARGET, 1.5)
    assert set(made) == {f"{left}-{times}s" for left in ("step", "q1.5", "q2") for times in ("1", "1.25", "2", "4")}
    assert made["step-4s"].long_factor == (1.0,) * SLOW + (64.0,) * (32 - SLOW)
    split = ROPE.d_tcd
    left = [20.0 ** ((pair / split) ** 2) for pair in range(split)]
    assert made["q2-1.25s"].long_factor == pytest.approx([*left, *[20.0] * (32 - split)])
    assert composed(OriginalRope(2.0, 64, 4096), 8192, 1.5).keys() == {f"step-{times}s" for times in (1, 1.25, 2, 4)}


def test_a_check_that_is_worse_goes_back_to_the_best_with_half_the_rate() -> None:
    descent = Descent(rules.yarn(ROPE, TARGET), config())
    best = descent.scaling
    for _ in range(3):
        descent.take([1.0], [[-1.0] * 33])
    far = abs(np.log(numbers(descent.scaling)) - np.log(numbers(best))).max()
    descent.back_to(best)
    assert numbers(descent.scaling) == pytest.approx(numbers(best))
    for _ in range(3):
        descent.take([1.0], [[-1.0] * 33])
    assert 0.2 * far < abs(np.log(numbers(descent.scaling)) - np.log(numbers(best))).max() < 0.6 * far


@pytest.mark.parametrize("turns", [1e-9, 1e9])
def test_at_least_the_slowest_quarter_moves(turns: float) -> None:
    descent = Descent(rules.yarn(ROPE, TARGET), config(turns=turns))
    before = numbers(descent.scaling)
    descent.take([1.0], [[-1.0] * 33])
    moved = numbers(descent.scaling) != before
    assert moved[-9:].all()
    assert moved[0] == (turns > 1)


def test_a_temperature_that_is_asked_for_stays() -> None:
    descent = Descent(rules.with_attention(rules.yarn(ROPE, TARGET), 1.1), config(attention_factor=1.1))
    before = descent.scaling
    descent.take([1.0], [[-1.0] * 33])
    assert descent.scaling.long_attention_factor == pytest.approx(1.1)
    assert descent.scaling.long_factor != before.long_factor


def test_one_sample_with_a_huge_gradient_does_not_decide() -> None:
    descent = Descent(rules.yarn(ROPE, TARGET), config())
    before = numbers(descent.scaling)
    for _ in range(6):
        descent.take([1.0] * 4, [[1e6] * 33, *[[-1.0] * 33] * 3])
    assert numbers(descent.scaling)[-2] < before[-2], "the same sample in every step is no outlier"
    descent = Descent(rules.yarn(ROPE, TARGET), config())
    for number in range(6):
        descent.take([1.0] * 4, [[1e6 if number == 3 else -1.0] * 33, *[[-1.0] * 33] * 3])
    assert numbers(descent.scaling)[-2] > before[-2]


def test_a_step_without_a_finite_loss_is_undone_and_counted(tmp_path: Path) -> None:
    descent = Descent(rules.yarn(ROPE, TARGET), config())
    places = [descent.scaling]
    for _ in range(2):
        descent.take([1.0], [[-1.0] * 33])
        places.append(descent.scaling)
    descent.take([math.nan], [[-1.0] * 33])
    assert descent.scaling == places[1]
    assert (descent.step, descent.skipped, descent.ended) == (3, 1, False)
    descent.take([1.0], [[math.inf] * 33])
    descent.take([1.0], [[-1.0] * 33])
    assert not descent.ended
    for _ in range(SKIPS):
        assert not descent.ended
        descent.take([math.inf], [[-1.0] * 33])
    assert descent.ended


def test_three_broken_steps_in_a_row_end_the_search_with_the_best_so_far(tmp_path: Path) -> None:
    plan = config(starts=1)
    order: list[int] = []
    watch = Bowl()
    run(tmp_path / "whole", watch, plan, ["yarn"])
    order += [job.sample for job in watch.jobs if job.gradient]
    broken = order[8 * plan.batch :]
    (done,) = run(tmp_path / "broken", Bowl(broken=broken), plan, ["yarn"])
    assert done.stopped == "not finite"
    assert done.rounds[-1].iteration == 8 + SKIPS
    assert sum(each.discarded for each in done.rounds) == SKIPS
    assert done.rounds[-1].step_nll == [None] * SKIPS
    assert math.isfinite(done.best_nll)
    with pytest.raises(BackendError, match="no start of the search has a finite perplexity"):
        run(tmp_path / "never", Bowl(broken=range(1000)), plan)


def test_training_validation_and_test_samples_are_disjoint_and_each_step_has_new_ones(tmp_path: Path) -> None:
    bowl, plan = Bowl(), config()
    done = run(tmp_path, bowl, plan, FOUR)
    trained = [job.sample for job in bowl.jobs if job.gradient]
    assert {job.sample for job in bowl.jobs if not job.gradient} == set(range(plan.samples))
    first = plan.samples + plan.held_out
    assert min(trained) >= first
    assert max(trained) < first + plan.fresh
    began = 8
    assert len(trained) == (2 * began + plan.steps - began) * plan.batch
    assert sorted(set(trained)) == list(range(first, first + plan.fresh))
    best = max(done, key=lambda each: each.rounds[-1].iteration)
    assert len(trained) - len(set(trained)) == began * plan.batch, "two starts share the samples of their first steps"
    assert [each.iteration for each in best.rounds] == [0, 4, 8, 12, 16, 20, 24]
    assert sum(len(each.step_nll) for each in best.rounds) == plan.steps
    assert [each.stopped for each in done if each is not best] == ["behind"] * 3
    assert [each.rounds[-1].iteration for each in done].count(0) == 2, "two of four starts descend"
    assert len(bowl.jobs) == sum(each.evaluations for lane in done for each in lane.rounds) == descent_cost(plan)


@pytest.mark.parametrize("dies_after", [0, 3, 17, 40, 100, 120])
def test_a_killed_search_resumes_to_the_same_history(tmp_path: Path, dies_after: int) -> None:
    plan, whole = config(), Bowl()
    wanted = run(tmp_path / "whole", whole, plan)
    first = Bowl(dies_after=dies_after)
    with pytest.raises(BackendError, match="gone"):
        run(tmp_path / "killed", first, plan)
    second = Bowl()
    assert run(tmp_path / "killed", second, plan) == wanted
    assert len(first.jobs) + len(second.jobs) == len(whole.jobs), "no evaluation is made twice"


def test_what_a_listener_hears_adds_up(tmp_path: Path) -> None:
    heard, plan = Heard(), config()
    tmp_path.mkdir(exist_ok=True)
    with Journal.open(tmp_path) as journal:
        starts = {name: rules.RULES[name].make(ROPE, TARGET) for name in FOUR}
        descend(starts, plan, JournalScorer(Bowl(), journal, heard), heard)
    assert heard.rounds[0][1] == 4
    assert heard.rounds[-1][2] == 0
    left = [each[2] for each in heard.rounds]
    assert left == sorted(left, reverse=True)
    assert heard.new == descent_cost(plan)
