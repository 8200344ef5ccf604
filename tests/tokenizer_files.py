"""Tokenizers that differ from :func:`tests.tiny_models.tiny_tokenizer` in one thing, as their files say it."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.tiny_models import tiny_tokenizer

CHATML = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
NEEDS_SYSTEM = "{% if messages[0].role != 'system' %}{{ raise_exception('the first is no system message') }}{% endif %}"
NO_LAST_ASSISTANT = (
    "{% if messages[-1].role == 'assistant' %}{{ raise_exception('the last is an assistant') }}{% endif %}"
)
NO_ASSISTANT = "{% for m in messages if m.role == 'assistant' %}{{ raise_exception('an assistant') }}{% endfor %}"
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system here') }}{% endif %}"


def chatting(template: Any) -> Any:
    """The tiny tokenizer with a chat template."""
    tokenizer = copy.copy(tiny_tokenizer())
    tokenizer.chat_template = template
    return tokenizer


def with_config(**values: Any) -> Callable[[Path], None]:
    """Changes keys of tokenizer_config.json in a folder."""

    def change(folder: Path) -> None:
        path = folder / "tokenizer_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return change


def with_added(token: str, **values: Any) -> Callable[[Path], None]:
    """Adds a token, whose id is 312, and changes keys of tokenizer_config.json."""

    def change(folder: Path) -> None:
        path = folder / "tokenizer.json"
        state = json.loads(path.read_text())
        flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False) | {"special": True}
        state["added_tokens"].append({"id": 312, "content": token, **flags})
        path.write_text(json.dumps(state))
        with_config(**values)(folder)

    return change


def with_specials(before: Sequence[str] = (), after: Sequence[str] = ()) -> Callable[[Path], None]:
    """Puts special tokens around every text."""

    def change(folder: Path) -> None:
        path = folder / "tokenizer.json"
        state = json.loads(path.read_text())
        known = {each["content"]: each["id"] for each in state["added_tokens"]}
        special = [[{"SpecialToken": {"id": token, "type_id": 0}} for token in side] for side in (before, after)]
        single = [*special[0], {"Sequence": {"id": "A", "type_id": 0}}, *special[1]]
        tokens = {each: {"id": each, "ids": [known[each]], "tokens": [each]} for each in (*before, *after)}
        state["post_processor"] = {
            "type": "TemplateProcessing", "single": single, "pair": single, "special_tokens": tokens,
        }  # fmt: skip
        path.write_text(json.dumps(state))

    return change


def with_text(name: str, text: str) -> Callable[[Path], None]:
    """Writes a file."""
    return lambda folder: (folder / name).write_text(text) and None
