"""LongBench's metrics: published scores, and one by one."""

from __future__ import annotations

import difflib
import sys

import pytest

from lr2eval.errors import UsageError
from lr2eval.tasks.longbench import metrics
from lr2eval.tasks.longbench.metrics import METRICS, score
from lr2eval.tasks.longbench.suite import DATA_SETS, bucket


def test_every_data_set_has_a_metric() -> None:
    assert len(DATA_SETS) == 21
    assert {rules.metric for rules in DATA_SETS.values()} == set(METRICS)
    assert sum(rules.extended for rules in DATA_SETS.values()) == 13


@pytest.mark.parametrize(
    ("metric", "prediction", "answer", "expected"),
    [
        ("qa_f1", "The  Bob-Dylan, a singer", "bobdylan singer", 1.0),
        ("qa_f1", "It was Bob Dylan", "Bob Dylan", 2 * 0.5 * 1 / 1.5),
        ("qa_f1", "no no no", "no", 2 * (1 / 3) / (4 / 3)),
        ("qa_f1", "", "Bob", 0.0),
        ("qa_f1", "the", "a", 0.0),
        ("qa_f1_zh", "北京，中国！", "北京", 2 * 0.5 / 1.5),
        ("qa_f1_zh", "。", "北京", 0.0),
        ("rouge", "a b c", "a b c", 1.0),
        ("rouge", "", "a", 0.0),
        ("rouge", "...", "a", 0.0),
        ("rouge_zh", "我来到北京大学", "我来到北京大学", 1.0),
        ("count", "There are 3, or 4, or 3", "3", 2 / 3),
        ("count", "three", "3", 0.0),
        ("retrieval", "Paragraph 7 and 17", "Paragraph 7", 0.5),
        ("retrieval", "Paragraph 17", "Paragraph 7", 0.0),
        ("retrieval_zh", "段落7", "段落7", 1.0),
        ("code_similarity", "\n\n# a comment\n// b\n```\nx = 1\ny = 2", "x = 1", 1.0),
        ("code_similarity", "\n   \nx = 1", "x = 1", 0.5),  # a line of white space is the first line
        ("code_similarity", "# only a comment", "x", 0.0),
        ("code_similarity", "", "x", 0.0),
        ("code_similarity", "", "", 1.0),
    ],
)
def test_metric(metric: str, prediction: str, answer: str, expected: float) -> None:
    assert METRICS[metric](prediction, answer) == pytest.approx(expected, abs=1e-7)


def test_code_similarity_is_rounded_to_hundredths() -> None:
    exact = difflib.SequenceMatcher(None, "return x", "return xyz").ratio()
    assert METRICS["code_similarity"]("return x", "return xyz") == round(100 * exact) / 100 != exact


@pytest.mark.parametrize(
    ("prediction", "answer", "classes", "expected"),
    [
        ("It is Date", "Date", ["Date", "Food"], 1.0),
        ("Date or Food", "Date", ["Date", "Food"], 0.5),
        ("Food", "Date", ["Date", "Food"], 0.0),
        # A class that is part of the answer's name is no rival.
        ("Other location", "Other location", ["location", "Other location"], 1.0),
        # Upstream's loop jumps over the class after a removed one.
        ("Other location", "Other location", ["location", "Other", "Other location"], 0.5),
    ],
)
def test_classification(prediction: str, answer: str, classes: list[str], expected: float) -> None:
    assert score("lsht", prediction, [answer], classes) == expected


def test_first_line_only_where_upstream_does() -> None:
    assert score("triviaqa", "\n\nBob Dylan\nQuestion: who", ["Bob Dylan"], None) == 1.0
    assert score("triviaqa", " \nBob Dylan", ["Bob Dylan"], None) == 0.0
    assert score("hotpotqa", "Bob Dylan\nQuestion: who", ["Bob Dylan"], None) < 1.0
    assert {name for name, rules in DATA_SETS.items() if rules.first_line} == {"trec", "triviaqa", "samsum", "lsht"}


def test_best_answer_counts() -> None:
    assert score("hotpotqa", "UT", ["University of Toronto", "UT"], None) == 1.0
    assert score("trec", "Date", ["Food", "Date"], ["Food", "Date"]) == 1.0


@pytest.mark.parametrize(
    ("length", "name"), [(0, "0-4k"), (3999, "0-4k"), (4000, "4-8k"), (7999, "4-8k"), (8000, "8k+")]
)
def test_buckets(length: int, name: str) -> None:
    assert bucket(length) == name


def test_retrieval_needs_a_number() -> None:
    with pytest.raises(UsageError, match="'seven' has no 'Paragraph' with a number"):
        score("passage_retrieval_en", "7", ["seven"], None)


def test_without_jieba(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jieba", None)
    metrics._cutter.cache_clear()
    try:
        with pytest.raises(UsageError, match=r"pip install 'lr2eval\[longbench\]'"):
            score("vcsum", "你好", ["你好"], None)
    finally:
        metrics._cutter.cache_clear()


def test_jieba_reads_no_shared_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a marshalled cache was opened")

    monkeypatch.setattr("marshal.load", refuse)
    monkeypatch.setattr("marshal.dump", refuse)
    metrics._cutter.cache_clear()
    assert METRICS["rouge_zh"]("我来到北京", "我来到上海") == pytest.approx(2 / 3, abs=1e-7)
