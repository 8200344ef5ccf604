from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from lr2eval.errors import BackendError
from lr2eval.listener import Listener
from lr2eval.method.rope.scaling import OriginalRope, RopeScaling
from lr2eval.method.search.config import SearchConfig
from lr2eval.method.search.journal import Journal, Trial, TrialResult, factors_key
from lr2eval.method.search.run import JournalScorer, search
from lr2eval.method.search.space import Space

ROPE = OriginalRope(1000.0, 64, 128)
SPACES = [Space(ROPE, 2048, split) for split in (10, 14)]


def config(samples: int, *rungs: int, keep: float = 1 / 3, **changes: Any) -> SearchConfig:
    """A small search; ``rungs`` make it a race."""
    race = {"race": True, "race_rungs": rungs, "race_keep": keep} if rungs else {}
    small = {"population": 12, "initial": 12, "iterations": 4, "parents": 6, "mutations": 3, "crossovers": 3}
    return SearchConfig(model="m", target_length=2048, samples=samples, **small, **race, **changes)


def smooth(scaling: RopeScaling, sample: int) -> float:
    """A score that differs a little between samples."""
    right = scaling.long_factor[-10:]
    return sum(abs(factor - 25) for factor in right) * (1 + 0.01 * math.sin(7 * sample + right[0]))


class Fake:
    """Scores by a function; may shuffle its results and die after some of them."""

    def __init__(
        self, score: Callable[[RopeScaling, int], float] = smooth, *, shuffle: int | None = None, dies_after: int = -1
    ) -> None:
        self.score, self.shuffle, self.dies_after = score, shuffle, dies_after
        self.jobs: list[Trial] = []

    def run(self, jobs: Sequence[Trial]) -> Iterator[TrialResult]:
        order = list(jobs)
        if self.shuffle is not None:
            random.Random(self.shuffle).shuffle(order)
        for job in order:
            if len(self.jobs) == self.dies_after:
                raise BackendError("the worker is gone")
            self.jobs.append(job)
            nll = self.score(job.scaling, job.sample)
            yield TrialResult(factors_key(job.scaling), job.sample, nll, 2048, 0.01)


class Heard(Listener):
    def __init__(self) -> None:
        self.known = self.new = 0
        self.rounds: list[tuple[str, int, int]] = []

    def evaluated(self, seconds: float, *, known: bool) -> None:
        self.known += known
        self.new += not known

    def round_done(self, label: str, iteration: int, best_nll: float, left: int) -> None:
        self.rounds.append((label, iteration, left))


def run(folder: Path, fake: Fake, plan: SearchConfig, heard: Heard | None = None) -> Any:
    folder.mkdir(exist_ok=True)
    with Journal.open(folder) as journal:
        return search(SPACES, plan, fake, journal, heard)


def test_a_sweep_over_splits_scores_every_candidate_on_every_sample(tmp_path: Path) -> None:
    fake, heard, plan = Fake(), Heard(), config(3)
    done = run(tmp_path, fake, plan, heard)
    assert [each.split for each in done] == [10, 14]
    assert plan.split_cost() == 3 * (12 + 4 * 6)
    assert len(fake.jobs) == heard.new == 2 * plan.split_cost()
    for split in done:
        assert [each.iteration for each in split.rounds] == [0, 1, 2, 3, 4]
        best = [each.best_nll for each in split.rounds]
        assert best == sorted(best, reverse=True)
        mean = sum(smooth(split.scaling, sample) for sample in range(3)) / 3
        assert split.best_nll == pytest.approx(mean, rel=1e-12)
        assert split.seed is not None
        space = SPACES[done.index(split)]
        assert split.seed[1] in [space.scaling(seed) for seed in space.seeds()]
        assert split.best_nll <= split.seed[0]
    # What is left is told exactly as long as nothing stops early.
    total = 2 * plan.split_cost()
    so_far = 0
    rounds = [each for split in done for each in split.rounds]
    assert [(f"split {each.split}", each.iteration) for each in rounds] == [told[:2] for told in heard.rounds]
    for each, (_, _, left) in zip(rounds, heard.rounds, strict=True):
        so_far += each.evaluations
        assert left == total - so_far


@pytest.mark.parametrize("racing", [False, True])
def test_order_of_results_changes_nothing(tmp_path: Path, racing: bool) -> None:
    plan = config(3, 1, keep=0.5) if racing else config(3)
    assert run(tmp_path / "a", Fake(), plan) == run(tmp_path / "b", Fake(shuffle=4), plan)


@pytest.mark.parametrize("racing", [False, True])
@pytest.mark.parametrize("dies_after", [0, 1, 17, 40, 60])
def test_a_stopped_search_resumes_to_the_same(tmp_path: Path, racing: bool, dies_after: int) -> None:
    plan = config(3, 1, keep=0.5) if racing else config(3)
    calm = Fake()
    expected = run(tmp_path / "calm", calm, plan)
    with pytest.raises(BackendError, match="gone"):
        run(tmp_path / "rough", Fake(dies_after=dies_after), plan)
    rest, heard = Fake(), Heard()
    assert run(tmp_path / "rough", rest, plan, heard) == expected
    assert len(rest.jobs) == len(calm.jobs) - dies_after, "nothing is evaluated twice"
    assert heard.known == dies_after
    with Journal.open(tmp_path / "calm") as one, Journal.open(tmp_path / "rough") as two:
        rows = [[(row.factors, row.sample, row.nll) for row in journal.rows()] for journal in (one, two)]
    assert rows[0] == rows[1]


def test_racing_gives_up_the_worst_on_few_samples(tmp_path: Path) -> None:
    plan = config(6, 1, 3)
    fake = Fake()
    done = run(tmp_path, fake, plan)
    assert plan.round_cost(12) == 12 + 4 * 2 + 2 * 3
    assert len(fake.jobs) == 2 * plan.split_cost() == sum(each.evaluations for split in done for each in split.rounds)
    first = done[0].rounds[0]
    assert (first.asked, first.given_up, first.discarded) == (12, 10, 0)
    # Samples almost agree here, so the best of the first round survives it.
    full = run(tmp_path / "full", Fake(), config(6))
    assert first.best_nll == full[0].rounds[0].best_nll


def test_racing_looks_first_where_the_parents_differ(tmp_path: Path) -> None:
    """Sample 3 of 5 tells candidates apart, the others score all alike (and sample 0 badly)."""

    def telling(scaling: RopeScaling, sample: int) -> float:
        return smooth(scaling, 0) if sample == 3 else 90.0 if sample == 0 else 1.0

    fake = Fake(telling)
    done = run(tmp_path, fake, config(5, 1))
    assert [job.sample for job in fake.jobs[:12]] == [0] * 12, "nothing is known of the first round"
    second = fake.jobs[12 + 4 * 4 :][:6]
    assert [job.sample for job in second] == [3] * 6
    # With that sample first, what is given up is never better than what goes on.
    with Journal.open(tmp_path) as journal:
        rows = journal.rows()
    later = [row for row in rows if row.sample == 3][4:]
    assert len(later) > 2 * 4 * 2, "every child of every round was looked at there"
    assert done[0].rounds[-1].best_nll < done[0].rounds[0].best_nll


def test_no_finite_score_is_discarded_counted_and_kept_in_the_journal(tmp_path: Path) -> None:
    def broken(scaling: RopeScaling, sample: int) -> float:
        bad = scaling.long_factor[-1] > 27 and sample == 1
        return math.nan if bad else smooth(scaling, sample)

    plan = config(3)
    done = run(tmp_path, Fake(broken), plan)
    assert sum(each.discarded for split in done for each in split.rounds) > 0
    assert all(split.scaling.long_factor[-1] <= 27 for split in done)
    again = Fake(broken)
    assert run(tmp_path, again, plan) == done
    assert not again.jobs
    raced = run(tmp_path / "raced", Fake(broken), config(3, 2, keep=0.5))
    assert raced[0].rounds[0].discarded > 0
    assert all(math.isfinite(split.best_nll) for split in raced)


def test_all_nan_is_an_error_and_the_journal_stays(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="none of 12 candidates"):
        run(tmp_path, Fake(lambda scaling, sample: math.nan), config(2))
    with Journal.open(tmp_path) as journal:
        assert len(journal) == 24


def test_an_executor_that_forgets_jobs_is_found_out(tmp_path: Path) -> None:
    class Forgetful(Fake):
        def run(self, jobs: Sequence[Trial]) -> Iterator[TrialResult]:
            yield from super().run(jobs[:-1])

    with pytest.raises(RuntimeError, match="no result for 1 evaluations"):
        run(tmp_path, Forgetful(), config(3))


def test_scorer_asks_for_equal_factors_once(tmp_path: Path) -> None:
    fake = Fake()
    with Journal.open(tmp_path) as journal:
        scorer = JournalScorer(fake, journal)
        scaling = SPACES[0].scaling(SPACES[0].seeds()[0])
        one, two = scorer.nlls([scaling, scaling], [4, 5])
        assert one == two == [smooth(scaling, 4), smooth(scaling, 5)]
        assert len(fake.jobs) == 2
        scorer.nlls([scaling], [5, 6])
        assert len(fake.jobs) == 3


def test_random_search_runs_through_the_same_rounds(tmp_path: Path) -> None:
    fake = Fake()
    done = run(tmp_path, fake, config(2, strategy="random"))
    assert len(fake.jobs) == 2 * 2 * (12 + 4 * 6)
    assert done[0].seed is None
