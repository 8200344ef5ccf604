"""Prompts that are read on from each other, against cache-free decoding by stock transformers."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lr2eval.backends.hf import WindowedHFLM
from lr2eval.backends.prefix.walk import walk, worthwhile
from tests.lr2eval.backends.helpers import Load, decoded, every_architecture, generation, limit_forward, prompts
from tests.tiny_models import ORIGINAL, text_of, tiny_model

CPU = torch.device("cpu")


@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=8), min_size=1, max_size=8))
def test_a_walk_reads_each_branch_of_the_tree_once(texts: list[list[int]]) -> None:
    order, kept = walk(texts)
    assert sorted(order) == list(range(len(texts)))
    branches = {tuple(text[:stop]) for text in texts for stop in range(1, len(text))}
    assert sum(len(texts[row]) - 1 - taken for row, taken in zip(order, kept, strict=True)) == len(branches)
    read: list[int] = []
    for row, taken in zip(order, kept, strict=True):
        assert read[:taken] == texts[row][:taken]
        read = texts[row][:-1]


def test_little_in_common_is_not_worth_it() -> None:
    a, b = list(range(100)), [*range(60), *range(200, 240)]
    assert worthwhile([a, b], CPU)
    assert not worthwhile([a, b], torch.device("cuda"))
    assert not worthwhile([a, [*range(40), *range(200, 260)]], CPU)
    assert not worthwhile([a], CPU)
    assert not worthwhile([[1, 2], [1, 2]], CPU)


def needles(lm: WindowedHFLM, length: int, count: int = 4) -> list[str]:
    """One haystack of about ``length`` tokens, a word at each depth of its second half, ends of other lengths."""
    words = text_of(length, lm.tokenizer).split(" ")
    cuts = [len(words) * (count + i) // (2 * count) for i in range(count)]
    return [" ".join([*words[:cut], f"7{cut}", *words[cut:], *["lamp"] * i]) for i, cut in enumerate(cuts)]


@every_architecture
@pytest.mark.parametrize("chunk", [None, 6])
@pytest.mark.parametrize("length", [20, 60])
def test_prompts_with_a_common_beginning_equal_cache_free_decoding(
    load: Load, architecture: str, length: int, chunk: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """20 tokens begin under the short factors and cross ``Lt`` = 32 on their way, 60 are beyond it."""
    monkeypatch.setattr("lr2eval.backends.prefix.walk.LEAST_CPU", 4)
    lm, stock = load(architecture, prefill_chunk=chunk), tiny_model(architecture)
    texts = needles(lm, length)
    expected = [decoded(lm, stock, text, 24) for text in texts]
    passed = limit_forward(lm, monkeypatch, 10**9)
    assert lm.generate_until([generation(text, 24) for text in texts]) == expected
    assert {detail.window for detail in lm.take_details()} == {"short->long" if length < ORIGINAL else "long"}
    lengths = [len(lm.tok_encode(text)) for text in texts]
    alone = [columns for rows, columns in passed if rows == 1]
    assert passed[0][0] == 1
    assert sum(alone) >= max(lengths) - 1
    if length > ORIGINAL:  # the shorter ones are prefilled on both sides
        assert sum(alone) < 0.75 * sum(lengths)


def test_rows_that_cross_are_read_on_from_each_other_too(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    """After ``Lt`` nothing of the short side's cache is used again: rows hold 33 tokens and are prefilled afresh."""
    lm, stock = load(), tiny_model("llama")
    texts = [text_of(26, lm.tokenizer) + end for end in (" a", " b", " c")]
    passed = limit_forward(lm, monkeypatch, 10**9)
    expected = [decoded(lm, stock, text, 12) for text in texts]
    assert lm.generate_until([generation(text, 12) for text in texts]) == expected
    assert next(columns for rows, columns in passed if rows == 1) >= 26
    assert any(shape == (1, ORIGINAL) for shape in passed)


def test_beams_are_prefilled_as_a_batch(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    lm = load()
    texts = needles(lm, 60)
    passed = limit_forward(lm, monkeypatch, 10**9)
    lm.generate_until([generation(text, 3, num_beams=2) for text in texts])
    assert min(rows for rows, _ in passed) == 8


def test_a_cpu_reads_prompts_one_by_one_and_decodes_them_together(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    lm = load()
    passed = limit_forward(lm, monkeypatch, 10**9)
    lm.generate_until([generation(text, 3) for text in prompts(lm, [40, 41, 42])])
    assert sorted(passed) == [(1, 39), (1, 40), (1, 41), (3, 1), (3, 1), (3, 1)]


def test_elsewhere_prompts_without_anything_in_common_are_a_batch(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    lm = load()
    lm._decoder = replace(lm._decoder, by_row=False)
    passed = limit_forward(lm, monkeypatch, 10**9)
    lm.generate_until([generation(text, 3) for text in prompts(lm, [40, 41, 42])])
    assert {rows for rows, _ in passed} == {3}


def test_a_sliding_window_keeps_its_own_cache(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prompts that share nothing are read as a batch: full caches of all of them would waste what sliding saves."""
    lm = load()
    lm._decoder = replace(lm._decoder, slides=True, by_row=False)
    passed = limit_forward(lm, monkeypatch, 10**9)
    lm.generate_until([generation(text, 3) for text in prompts(lm, [40, 41, 42])])
    assert {rows for rows, _ in passed} == {3}
