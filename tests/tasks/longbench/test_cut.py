"""Middle truncation: the context alone is cut, to as many tokens as fit."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lr2eval.errors import TaskError
from lr2eval.model.tokenizer import PromptTokenizer
from lr2eval.tasks.longbench.layout import _halves, fitted
from lr2eval.tasks.longbench.prompts import Prompt

PROMPT = Prompt(("Read this. ", "{{context}}", "\nNow: ", "{{question}}", " Answer: "), 8, "hub")
WORDS = " ".join(f"word{n:03}" for n in range(400))
TEXT = st.text(st.sampled_from("ab c\n大学é🙂.{"), min_size=40, max_size=200)


def test_what_fits_stays(tokenizer: PromptTokenizer) -> None:
    whole = PROMPT.fill(WORDS, "why?")
    tokens = tokenizer.count_prompt(whole)
    for room in (None, tokens):
        found = fitted(PROMPT, WORDS, "why?", tokenizer, room)
        assert (found.text, found.tokens, found.lost) == (whole, tokens, 0)


@pytest.mark.parametrize("share", [0.9, 0.5, 0.1])
def test_first_and_last_half_of_the_context(tokenizer: PromptTokenizer, share: float) -> None:
    tokens = tokenizer.count_prompt(PROMPT.fill(WORDS, "why?"))
    room = int(tokens * share)
    found = fitted(PROMPT, WORDS, "why?", tokenizer, room)
    assert room - 4 <= found.tokens <= room
    assert found.tokens == tokenizer.count_prompt(found.text)
    assert found.lost == tokens - found.tokens
    kept = found.text.removeprefix("Read this. ").removesuffix("\nNow: why? Answer: ")
    ends = [n for n in range(len(kept) + 1) if WORDS.startswith(kept[:n]) and WORDS.endswith(kept[n:])]
    assert ends, "what is left is a beginning and an end of the context"
    assert min(abs(n - len(kept) / 2) for n in ends) <= max(40, len(kept) / 8)


@given(TEXT, st.text("ab 大", max_size=10), st.integers(0, 120))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
def test_any_text(one_tokenizer: PromptTokenizer, context: str, question: str, less: int) -> None:
    whole = one_tokenizer.count_prompt(PROMPT.fill(context, question))
    least = one_tokenizer.count_prompt(PROMPT.fill("", question))
    found = fitted(PROMPT, context, question, one_tokenizer, max(least, whole - less))
    assert found.tokens <= max(least, whole - less)
    assert found.text.endswith(f"\nNow: {question} Answer: ")
    kept = found.text.removeprefix("Read this. ").removesuffix(f"\nNow: {question} Answer: ")
    assert any(context.startswith(kept[:n]) and context.endswith(kept[n:]) for n in range(len(kept) + 1))
    assert len(kept) <= len(context)


def test_a_character_of_several_tokens_is_kept_once() -> None:
    places = [(0, 1), *[(1, 2)] * 4, (2, 3)]
    assert [_halves("a\N{GRINNING FACE}b", places, keep) for keep in (0, 2, 5)] == ["", "ab", "a\N{GRINNING FACE}b"]


def test_a_question_longer_than_the_window(one_tokenizer: PromptTokenizer) -> None:
    with pytest.raises(TaskError, match=r"instruction and question alone take .* longer --lengths"):
        fitted(PROMPT, WORDS, WORDS, one_tokenizer, 50)


def test_a_tokenizer_without_places(one_tokenizer: PromptTokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(one_tokenizer.tokenizer), "is_fast", False)
    with pytest.raises(TaskError, match="needs a fast tokenizer"):
        fitted(PROMPT, WORDS, "why?", one_tokenizer, 50)
