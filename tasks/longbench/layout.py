"""Prompts of given documents, laid out for a window into a data file that both models of a comparison read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lr2eval.base import ids
from lr2eval.base.units import format_length
from lr2eval.benchmark import TaskContext
from lr2eval.errors import TaskError
from lr2eval.model.tokenizer import PromptTokenizer
from lr2eval.tasks.exact import files
from lr2eval.tasks.longbench.prompts import Prompt
from lr2eval.tasks.shared.jsonl import Row


@dataclass(frozen=True)
class Item:
    """One sample: what fills its prompt, the accepted answers, and what else its line of the data file holds."""

    context: str
    question: str
    answers: tuple[str, ...]
    extra: Mapping[str, Any]


def lay_out(
    name: str,
    version: str,
    items: Sequence[Item],
    asked: Prompt,
    window: int,
    context: TaskContext,
    fingerprint: str,
    *,
    chat: bool,
) -> files.DataFile:
    """The data file of ``name`` (``longbench/trec``) at ``window`` tokens, made unless it is in the cache.

    ``fingerprint`` is the tokenizer's; ``chat``: whether the benchmark allows a chat template. With truncation
    ``middle`` the contexts are cut; with ``error`` :class:`TaskError` tells how many prompts are too long; with
    ``skip`` they stay whole, and the run leaves them out.
    """
    tokenizer = context.tokenizer
    if tokenizer.chat and not chat:
        tokenizer = tokenizer.with_chat(False)
    room = window - asked.max_new_tokens
    cut = room if context.truncation == "middle" else None
    facts = {
        "generator": version,
        "task": name,
        "length": window,
        "tokenizer": fingerprint,
        "chat": tokenizer.chat,
        "cut_to": cut,
        "max_new_tokens": asked.max_new_tokens,
        "prompt": ids.digest(asked.pieces),
        "items": ids.digest([[item.context, item.question, item.answers, dict(item.extra)] for item in items]),
    }
    data = files.ensure(
        context.cache_dir / "data" / f"{name}-{window}-{ids.digest(facts)[:16]}.jsonl",
        facts,
        lambda: _rows(name, items, asked, tokenizer, cut),
        lambda row: (row["token_count"] + asked.max_new_tokens) / window,
        context.progress,
    )
    if context.truncation == "error" and data.manifest["fill"]["max"] > 1:
        over = sum(row["token_count"] > room for row in data.rows())
        raise TaskError(
            f"{name.replace('/', ':')}: {over} of {len(items)} prompts are longer than {room} tokens (a window of "
            f"{format_length(window)} less {asked.max_new_tokens} to generate); choose --truncation middle, which "
            "shortens only the context, or skip"
        )
    return data


def item(row: Row) -> str:
    """What a sample asks, whatever window its prompt was cut to: its place in the data set, and its document."""
    return f"{row['index']}:{row['document']}"


def _rows(
    name: str, items: Sequence[Item], asked: Prompt, tokenizer: PromptTokenizer, cut: int | None
) -> Iterator[Row]:
    """One line of the data file per sample. ``document`` is equal where samples share a context."""
    for number, item in enumerate(items):
        try:
            found = fitted(asked, item.context, item.question, tokenizer, cut)
        except TaskError as error:
            raise TaskError(f"{name.replace('/', ':')}, sample {number}: {error}") from error
        yield {
            "index": number,
            "prompt": found.text,
            "answer_prefix": "",
            "answers": list(item.answers),
            **item.extra,
            "document": ids.text_hash(item.context)[:12],
            "token_count": found.tokens,
            "truncated_tokens": found.lost,
        }


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
