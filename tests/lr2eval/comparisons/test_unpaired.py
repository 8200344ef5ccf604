from __future__ import annotations

from pathlib import Path

import pytest

from lr2eval.comparisons.compare import compare, read_all
from lr2eval.comparisons.unpaired import LABEL, compare_unpaired
from lr2eval.errors import NotComparableError
from tests.fake_runs import fake_run, ones


def test_other_seeds_are_compared_and_labelled(tmp_path: Path) -> None:
    paths = [
        fake_run(tmp_path / "a", {"mmlu/a": ones(100, 20), "mmlu/b": ones(50)}, seed=0),
        fake_run(tmp_path / "b", {"mmlu/a": ones(100, 30), "mmlu/b": ones(50)}, seed=1),
    ]
    sources = read_all(paths)
    with pytest.raises(NotComparableError):
        compare(sources[0], sources[1:])
    pair = compare_unpaired(sources[0], sources[1:], confidence=0.95).pairs[0]
    assert not pair.paired
    assert LABEL in pair.mind
    whole, first, second = pair.differences
    assert whole.difference == pytest.approx(-100 * 10 / 150)
    assert (first.difference, second.difference) == (-10, 0)
    # Newcombe from the limits (.72669, .85749) of .8 and (.62017, .76930) of .7: hypot(.07983, .05749), ...
    assert (first.interval.low, first.interval.high) == pytest.approx((-19.838, 0.088), abs=0.002)
    assert second.interval.low < 0 < second.interval.high
    assert first.p_method == "unpaired z"
    # Two thirds of the samples: (2/3)^2 * (.8 * .2 + .7 * .3) / 100 is the variance of the whole difference, z = 1.644.
    assert whole.p_changed == pytest.approx(0.1002, abs=0.0005)


def test_same_samples_pair_better(tmp_path: Path) -> None:
    paths = [
        fake_run(tmp_path / "a", {"ruler/vt@4096": ones(100, 20), "ruler/cwe@4096": ones(100, 20)}),
        fake_run(tmp_path / "b", {"ruler/vt@4096": ones(100, 24), "ruler/cwe@4096": ones(100, 24)}),
    ]
    sources = read_all(paths)
    paired = compare(sources[0], sources[1:]).comparison.pairs[0].differences[0]
    unpaired = compare_unpaired(sources[0], sources[1:], confidence=0.95).pairs[0].differences[0]
    assert paired.difference == unpaired.difference
    assert unpaired.interval.high - unpaired.interval.low > 2 * (paired.interval.high - paired.interval.low)


def test_no_common_task(tmp_path: Path) -> None:
    sources = read_all([fake_run(tmp_path / "a", {"mmlu/a": ones(3)}), fake_run(tmp_path / "b", {"mmlu/b": ones(3)})])
    with pytest.raises(NotComparableError, match="share no task"):
        compare_unpaired(sources[0], sources[1:], confidence=0.95)


def test_other_tokenizers_are_said(tmp_path: Path) -> None:
    sources = read_all(
        [fake_run(tmp_path / "a", {"mmlu/a": ones(3)}), fake_run(tmp_path / "b", {"mmlu/a": ones(3)}, tokenizer="x")]
    )
    pair = compare_unpaired(sources[0], sources[1:], confidence=0.95).pairs[0]
    assert any("different tokenizers" in note for note in pair.mind)
    assert pair.differences[0].p_changed == 1
