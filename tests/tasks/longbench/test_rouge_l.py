"""The fast ROUGE-L against the package whose values it must give."""

from __future__ import annotations

import json
import random
import tarfile
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rouge import Rouge  # type: ignore[import-untyped]

from lr2eval.tasks.longbench.rouge_l import rouge_l

TEXT = st.lists(st.sampled_from(["a", "b", "c", "dd", ".", " . ", "\n"]), max_size=30).map(" ".join)


def package(prediction: str, reference: str) -> float:
    """As LongBench calls it: what raises scores 0."""
    try:
        return float(Rouge(metrics=["rouge-l"]).get_scores([prediction], [reference], avg=True)["rouge-l"]["f"])
    except ValueError:
        return 0.0


@given(TEXT, TEXT)
@example("a b . b a", "b a . a b")
@example(" . a", "a .  ")
@example("", "")
def test_same_as_the_package(prediction: str, reference: str) -> None:
    assert rouge_l(prediction, reference) == package(prediction, reference)


@pytest.mark.shared_data
def test_same_as_the_package_on_real_answers(shared_data: Path) -> None:
    """Six of each summary data set, models mixed, to the last bit."""
    with tarfile.open(shared_data / "longbench_preds" / "llama3-8b-instruct.tar.xz") as archive:
        for name in ("gov_report", "qmsum", "multi_news", "samsum", "vcsum", "dureader"):
            file = archive.extractfile(f"llama3-8b-instruct/{name}.jsonl")
            assert file is not None
            rows = [json.loads(line) for line in file]
            found = []
            for row in random.Random(0).sample(rows, 6):
                prediction, reference = row["pred"], row["answers"][0]
                if name in ("vcsum", "dureader"):  # words of one character: as hard as jieba's for this comparison
                    prediction, reference = " ".join(prediction), " ".join(reference)
                found.append(rouge_l(prediction, reference))
                assert found[-1] == package(prediction, reference), name
            assert any(found)


def test_long_sentences_are_scored() -> None:
    words = " ".join(map(str, range(1500)))
    assert rouge_l(words, words) == pytest.approx(1.0)
    assert rouge_l(words, "0") == pytest.approx(2 / 1501, abs=1e-6)
    with pytest.raises(RecursionError):
        package(words, "0")
