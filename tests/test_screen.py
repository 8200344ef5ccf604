"""The search for a subject on which the paper's claim can show, and the harder facts that its candidates look up."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_language as language
import train_tiny_retrieval
from hypothesis import given
from hypothesis import strategies as st
from reproduction import screen

from lr2eval.method.rope.rules import ntk
from lr2eval.method.rope.scaling import OriginalRope

FORMS = st.builds(language.Form, gap=st.integers(0, 4), doubled=st.booleans(), latest=st.booleans())


def _answers(document: language.Document, form: language.Form) -> int:
    """Every answer is the value that a reader finds: the first one behind the last statement of the key."""
    words, asked = document.words.tolist(), np.flatnonzero(document.answers == 1)
    values = range(language.V0, language.V0 + language.VALUES)
    for place in asked:
        key = words[place - 1 - form.doubled : place]
        assert words[place - len(key) - 1] == language.ASK
        starts = [at for at in range(place - len(key) - 1) if words[at : at + len(key)] == key]
        starts = [
            at for at in starts if words[at - 1] != language.ASK and (not form.doubled or not _key(words[at - 1]))
        ]
        found = next(word for word in words[starts[-1] + len(key) :] if word in values)
        assert found == words[place]
        assert form.latest or len(starts) == 1, "a key is stated once, or the last statement counts"
    return len(asked)


def _key(word: int) -> bool:
    return language.K0 <= word < language.V0


@given(FORMS, st.integers(0, 2**32), st.booleans())
def test_a_question_is_answered_by_what_was_stated_last(form: language.Form, seed: int, at_end: bool) -> None:
    rng = np.random.default_rng(seed)
    assert _answers(language.recall(rng, 200, 9, 5, at_end=at_end, form=form), form) == 5


@given(FORMS, st.integers(0, 2**32), st.integers(20, 300))
def test_documents_of_every_form_fit(form: language.Form, seed: int, length: int) -> None:
    for make in (language.document, language.full_recall):
        document = make(np.random.default_rng(seed), length, form=form)
        assert len(document.words) == len(document.answers) == length


def test_forms_differ_from_plain_facts_as_they_say() -> None:
    rng = np.random.default_rng(3)
    assert len(set(language.Form(doubled=True).keys(rng, 110))) == 110
    assert len({word for key in language.Form(doubled=True).keys(rng, 110) for word in key}) == 16
    lengths = {len(language.Form(gap=3).stated(rng, (7,), 9)) for _ in range(60)}
    assert lengths == {2, 3, 4, 5}
    document = language.recall(rng, 400, 30, 6, at_end=True, form=language.Form(latest=True))
    keys = [word for word in document.words if language.K0 <= word < language.V0]
    assert len(set(keys)) <= 10 < len(keys)
    golden = language.document(np.random.default_rng(5), 128)  # the shipped model learned from these
    assert (int(golden.words.sum()), float(golden.answers.sum())) == GOLDEN


GOLDEN = (14974, 33.0)


def test_the_four_vectors_differ_from_the_split_on() -> None:
    rope = OriginalRope(1000.0, 64, 128)
    found, known = screen.vectors(rope, 2048), ntk(rope, 2048).long_factor
    assert {tuple(each[:13]) for each in found.values()} == {known[:13]}, "one left side"
    assert max(found["clipped at s"]) == 16
    assert max(found["clipped at 2s"]) == 32
    assert found["as is"] == list(known)
    assert found["no position"][14:] == [1e12] * 18
    assert [round(1 - OriginalRope(theta, 64, 128).d_tcd / 32, 2) for theta in (74, 150, 415, 1000)] == [
        0.28, 0.38, 0.47, 0.56
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("shares", "in_window", "verdict"),
    [
        ((0.9, 0.95, 0.6, 0.5), 0.95, "can show"),
        ((0.9, 0.95, 0.95, 0.4), 0.95, "can show"),
        ((0.8, 0.95, 0.95, 0.94), 0.95, "cannot show"),
        ((0.5, 0.6, 0.9, 0.9), 0.95, "cannot show"),
        ((0.9, 0.95, 0.6, 0.5), 0.7, "not learned"),
        ((0.2, 0.1, 0.05, 0.0), 0.95, "fails"),
    ],
)
def test_a_verdict_needs_a_loss_that_no_chance_explains(shares: Any, in_window: float, verdict: str) -> None:
    names = ("clipped at s", "clipped at 2s", "as is", "no position")
    found = {
        n: ("su", (np.arange(240) % 20 < 20 * share).astype(float)) for n, share in zip(names, shares, strict=True)
    }
    line = screen.judged(found, [10] * 24, in_window)
    assert line["verdict"] == verdict
    better = "clipped at 2s" if shares[1] > shares[0] else "clipped at s"
    difference = line["differences"][f"as is minus {better}"]
    assert difference["mean"] == pytest.approx(shares[2] - max(shares[:2]), abs=0.03)
    assert difference["n"] == 240


def test_a_single_lost_answer_is_chance() -> None:
    right = np.ones(240)
    fewer = np.concatenate([right[1:], [0.0]])
    found = dict.fromkeys(("clipped at s", "clipped at 2s"), ("1", right)) | dict.fromkeys(
        ("as is", "no position"), ("1", fewer)
    )
    line = screen.judged(found, [10] * 24, 0.95)
    assert line["differences"]["as is minus clipped at s"]["mean"] < 0
    assert line["verdict"] == "cannot show"


def test_a_killed_screen_goes_on_and_stays_in_its_time(tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    tried: list[str] = []

    def screened(candidate: screen.Candidate, work: Path) -> dict[str, Any]:
        tried.append(candidate.name)
        vectors = {"as is": {"right": 1, "asked": 2}}
        return {"key": candidate.name, "processor_seconds": 600, "verdict": "fails", "vectors": vectors}

    monkeypatch.setattr(screen, "screened", screened)
    results = tmp_path / "screen.jsonl"
    command = ["screen.py", "--work", str(tmp_path), "--results", str(results), "--minutes"]
    names = [candidate.name for candidate in screen.CANDIDATES]
    monkeypatch.setattr(sys, "argv", [*command, "23"])
    assert screen.main() == 0
    assert tried == names[:2]
    assert f"20 of 23 minutes are used; {names[2]} is left out" in capsys.readouterr().out
    with results.open("a") as file:
        file.write('{"key": "torn')
    monkeypatch.setattr(sys, "argv", [*command, "33"])
    assert screen.main() == 0
    assert tried == names[:3], "finished ones are not tried again"
    assert [json.loads(line)["key"] for line in results.read_text().splitlines()] == names[:3]
    monkeypatch.setattr(sys, "argv", [*command, "900", "--only", names[5]])
    assert screen.main() == 0
    assert tried[3:] == [names[5]]


def test_a_candidate_is_trained_and_measured(tmp_path: Path) -> None:
    candidate = screen.Candidate("small", layers=1, steps=1, latest=True, theta=150)
    line = screen.screened(candidate, tmp_path, count=1, target=512)
    assert line["verdict"] == "not learned"
    assert line["beyond_split"] == 0.375
    assert {name: each["asked"] for name, each in line["vectors"].items()} == dict.fromkeys(line["vectors"], 12)
    model, rope = screen.tiny_search.load(tmp_path / "small")
    assert (len(model.model.layers), rope.theta) == (1, 150)
    weights = (tmp_path / "small" / "model.safetensors").read_bytes()
    again = screen.screened(candidate, tmp_path, count=1, target=512)
    assert again["vectors"] == line["vectors"]
    assert (tmp_path / "small" / "model.safetensors").read_bytes() == weights, "a trained one is not trained again"
    screen.screened(replace(candidate, name="other", seed=1), tmp_path, count=1, target=512)
    assert (tmp_path / "other" / "model.safetensors").read_bytes() != weights

    settings = {"population": 4, "initial": 4, "iterations": 1, "parents": 2, "mutations": 2, "crossovers": 2}
    made = screen.claim(candidate, tmp_path, {**settings, "samples": 5}, count=2, target=512)
    assert made["key"] == "small/claim"
    assert made["differences"].keys() == {
        f"searched minus {name} at {temperature}" for name in ("NTK's", "s", "2s") for temperature in ("1", "su")
    }
    assert {each["n"] for each in made["differences"].values()} == {2 * screen.ASKED}
    assert min(made["search"]["factors"][rope.d_tcd :]) >= 4, "the right side is searched from s on"
    for each in made["differences"]:
        ours, other = (made["vectors"][name] for name in (f"searched at {each.split()[-1]}", each[15:]))
        assert made["differences"][each]["mean"] == pytest.approx((ours["right"] - other["right"]) / 24)


def test_every_candidate_fits_its_documents() -> None:
    names = [candidate.name for candidate in screen.CANDIDATES]
    assert len(set(names)) == len(names)
    for candidate in screen.CANDIDATES:
        rope = OriginalRope(candidate.theta, 64, 128)
        assert 0.28 <= 1 - rope.d_tcd / rope.pairs <= 0.5
        assert train_tiny_retrieval.pairs_in_window(candidate.form) >= 8
        assert [len(test.asked) for test in screen.tests(candidate.form, 2, screen.TARGET, screen.SEED)] == [12, 12]


def test_the_page_shows_what_the_screening_found() -> None:
    page = (Path(__file__).parents[1] / "docs" / "reproduction.md").read_text(encoding="utf-8")
    for table in screen.tables(screen.Store(screen.RESULTS).lines):
        assert table.count("\n") >= 3
        assert table in page, "run python benchmarks/reproduction/screen.py --tables"
