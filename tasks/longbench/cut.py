"""Middle truncation that leaves instruction and question whole."""

from __future__ import annotations

from dataclasses import dataclass

from lr2eval._errors import TaskError
from lr2eval._tokens import PromptTokenizer
from lr2eval.tasks.longbench.prompts import Prompt


@dataclass(frozen=True)
class Cut:
    """A prompt, the tokens that the model sees of it, and how many it lost."""

    text: str
    tokens: int
    lost: int


def fitted(prompt: Prompt, context: str, question: str, tokenizer: PromptTokenizer, room: int | None) -> Cut:
    """The prompt in at most ``room`` tokens (``None``: as long as it is).

    Upstream keeps the first and the last half of the whole prompt; here the first and last halves of the context
    alone, so that the question survives however long it is, and cut at characters rather than decoded from tokens.
    Raises :class:`TaskError` where the rest alone is longer than ``room``.
    """
    text = prompt.fill(context, question)
    before = tokens = tokenizer.count_prompt(text)
    if room is None or tokens <= room:
        return Cut(text, tokens, 0)
    places = _places(context, tokenizer)
    keep = len(places)
    while tokens > room:
        if keep == 0:
            raise TaskError(
                f"instruction and question alone take {tokens} tokens and {room} are left for the prompt; choose a "
                "longer --lengths"
            )
        # Tokens around the seam may join or split, so that a few more must go than were too many.
        keep = max(0, keep - (tokens - room))
        text = prompt.fill(_halves(context, places, keep), question)
        tokens = tokenizer.count_prompt(text)
    return Cut(text, tokens, before - tokens)


def _places(text: str, tokenizer: PromptTokenizer) -> list[tuple[int, int]]:
    """(start, end) in characters of every token of ``text``."""
    if not getattr(tokenizer.tokenizer, "is_fast", False):
        raise TaskError(f"{tokenizer.name}: --truncation middle needs a fast tokenizer (tokenizer.json); choose skip")
    found = tokenizer.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    return [(int(start), int(end)) for start, end in found["offset_mapping"]]


def _halves(text: str, places: list[tuple[int, int]], keep: int) -> str:
    head, tail = keep // 2, keep - keep // 2
    end = places[head - 1][1] if head else 0
    start = places[len(places) - tail][0] if tail else len(text)
    # Several tokens may share one character: never keep it twice.
    return text[:end] + text[max(start, end) :]
