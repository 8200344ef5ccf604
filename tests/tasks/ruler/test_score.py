from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lr2eval.tasks.ruler.score import (
    COMPAT,
    METRICS,
    lm_eval_string_match_part,
    string_match_all,
    string_match_part,
)


def restated(prediction: str, references: list[str]) -> float:
    """NVIDIA/RULER's post-processing and metric for one sample, written down independently: letter by letter."""
    text = prediction.strip()
    text = "".join("\n" if ord(letter) < 0x20 else letter for letter in text)
    text = text.strip()
    hits = 0
    for reference in references:
        needle, hay = reference.lower(), text.lower()
        hits += any(hay[start : start + len(needle)] == needle for start in range(len(hay) - len(needle) + 1))
    return hits / len(references)


NASTY = st.text(alphabet=st.sampled_from("aAbBİıßſK1234567\x00\x1f\x7f\n\t \u2028é,."), max_size=30)


@given(st.one_of(st.text(max_size=60), NASTY), st.lists(st.one_of(st.text(max_size=4), NASTY), min_size=1, max_size=5))
def test_equals_restatement(prediction: str, references: list[str]) -> None:
    assert string_match_all(prediction, references) == restated(prediction, references)


@given(st.lists(st.text(alphabet="abcXYZ019-", min_size=1, max_size=8), min_size=1, max_size=5), st.data())
def test_equals_restatement_where_answers_occur(references: list[str], data: st.DataObject) -> None:
    chosen = data.draw(st.lists(st.sampled_from(references)))
    prediction = data.draw(st.sampled_from([" ", "\x00", ", "])).join(chosen).swapcase()
    score = string_match_all(prediction, references)
    assert score == restated(prediction, references)
    assert score >= len(set(chosen)) / len(references) / len(references)


@pytest.mark.parametrize(
    ("prediction", "references", "score"),
    [
        ("The number is 1234567.", ["1234567"], 1.0),
        ("81234567", ["1234567"], 1.0),  # a plain substring test, as upstream
        ("ABCDE, fghij", ["abcde", "FGHIJ", "xyzzy", "zzzzz"], 0.5),
        ("12345\x0067", ["1234567"], 0.0),
        ("", ["a"], 0.0),
        ("\x00a\x00", ["a"], 1.0),
    ],
)
def test_examples(prediction: str, references: list[str], score: float) -> None:
    assert string_match_all(prediction, references) == score


def test_no_reference_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="reference"):
        string_match_all("a", [])


@given(st.one_of(st.text(max_size=60), NASTY), st.lists(st.one_of(st.text(max_size=4), NASTY), min_size=1, max_size=5))
def test_part_equals_restatement(prediction: str, references: list[str]) -> None:
    """NVIDIA/RULER: the maximum over the references of "occurs in the prediction"."""
    assert string_match_part(prediction, references) == max(restated(prediction, [each]) for each in references)


def test_one_right_answer_is_enough() -> None:
    assert string_match_part("in the year 1066.", ["10th century", "1066"]) == 1.0
    assert string_match_all("in the year 1066.", ["10th century", "1066"]) == 0.5
    assert string_match_part("", ["1066"]) == 0.0


@pytest.mark.parametrize("metric", METRICS)
def test_no_reference(metric: str) -> None:
    with pytest.raises(ValueError, match="at least one reference"):
        METRICS[metric]("x", [])


def theirs(metric: str, prediction: str, references: list[str]) -> float:
    """What the installed lm-eval makes of one answer (0..1), by the functions its ruler tasks name."""
    from lm_eval.tasks.ruler import common_utils

    score = {"all": common_utils.process_results, "part": common_utils.process_results_part}[metric]
    return float(score({"max_length": 4096, "outputs": references}, [prediction])["4096"])


ANSWERS = st.one_of(st.text(max_size=60), NASTY)
REFERENCES = st.lists(st.one_of(st.text(max_size=4), NASTY), min_size=1, max_size=5)


@settings(deadline=None)  # importing lm-eval takes seconds
@given(ANSWERS, REFERENCES, st.booleans())
def test_compat_is_lm_evals_own_score(prediction: str, references: list[str], hit: bool) -> None:
    if hit:
        prediction += f"\x01{references[0].swapcase()}"
    assert string_match_all(prediction, references) == theirs("all", prediction, references)
    assert lm_eval_string_match_part(prediction, references) == theirs("part", prediction, references)


def test_where_lm_eval_differs_from_upstream() -> None:
    """The one deviation: of several accepted answers lm-eval counts the share found, repetitions included."""
    references = ["1066", "the year 1066", "1066"]
    assert theirs("part", "1066", references) == 2 / 3 == lm_eval_string_match_part("1066", references)
    assert string_match_part("1066", references) == 1.0
    for prediction in ("in the year 1066", "1067"):  # all or none of them: no difference
        assert string_match_part(prediction, references) == theirs("part", prediction, references)
    assert COMPAT == {"lm-eval": {"string_match_part": "lm_eval_string_match_part"}}
    assert METRICS["lm_eval_string_match_part"] is lm_eval_string_match_part
