"""Counting tokens exactly as the model will see them: special tokens and chat template included (D4)."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from datetime import date
from functools import lru_cache
from pathlib import Path
from typing import Any

from lr2eval.errors import CheckpointError, first_line
from lr2eval.model.config import ModelConfig, quiet_transformers

CHAT_DATE = date(2024, 7, 26)
"""What chat templates print as today's date. Llama 3.1's template prints this day if it knows no other."""
_FILES = {".json", ".jinja", ".model", ".txt"}
_LARGEST = 1 << 29
"""Bytes of a file of a tokenizer. The largest known have some 40 MB."""
_PROBE, _BEGUN = "The quick brown fox jumps over the lazy dog.", " The answer is"
_SYSTEM = "You are a helpful assistant."


class PromptTokenizer:
    """A model's tokenizer together with the decision whether prompts are wrapped in its chat template.

    ``count_prompt`` is the number that decides lengths; it must equal what the backend feeds to the model, which a
    test checks. ``count`` is for estimates: the tokens of a bare piece of text, no special tokens.

    Args:
        chat: prompts are wrapped in the chat template.
        day: the date that the template prints.
        system: a system message for every chat, before that of the task.
        rows: rows of the model's embedding. A text with a token beyond them is refused.

    Raises :class:`CheckpointError` if prompts or chats of this tokenizer would be wrong.
    """

    def __init__(
        self,
        tokenizer: Any,
        *,
        chat: bool = False,
        name: str = "tokenizer",
        day: date = CHAT_DATE,
        system: str | None = None,
        rows: int | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.chat = chat
        self.name = name
        self.day, self.system, self.rows = day, system, rows
        self.given: Mapping[str, Any] = {"name": name, "day": day, "system": system, "rows": rows}
        self.appends = False
        """Whether the beginning of an answer is appended to the text, because the template cannot begin one."""
        self._check()
        if chat:
            self._check_chat()

    @classmethod
    def load(
        cls, folder: Path, *, chat: bool = False, day: date = CHAT_DATE, system: str | None = None
    ) -> PromptTokenizer:
        """Tokenizer of a checkpoint folder; raises :class:`CheckpointError` when there is none."""
        from transformers import AutoTokenizer

        for file in sorted(folder.glob("*")):
            if file.suffix in _FILES and file.is_file() and file.stat().st_size > _LARGEST:
                raise CheckpointError(f"{file}: has more than the limit of {_LARGEST >> 20} MiB; copy the file again")
        try:
            with quiet_transformers():  # it reads config.json, too
                tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
            return cls(tokenizer, chat=chat, name=str(folder), day=day, system=system, rows=_rows(folder))
        except CheckpointError:
            raise
        except (KeyboardInterrupt, SystemExit, MemoryError):
            raise
        except BaseException as error:  # damaged files make transformers raise anything, and its Rust library panic
            reason = " ".join(str(error).split())[:120]
            raise CheckpointError(
                f"{folder}: the tokenizer does not load ({type(error).__name__}: {reason}); "
                "put the model's tokenizer.json and tokenizer_config.json into this folder"
            ) from error

    def _check(self) -> None:
        tokenizer, name = self.tokenizer, self.name
        longest = getattr(tokenizer, "model_max_length", 0)
        if isinstance(longest, bool) or not isinstance(longest, int | float) or math.isnan(longest):
            raise CheckpointError(
                f"{name}: model_max_length in tokenizer_config.json is {longest!r:.40}; give a number of tokens, or "
                "remove it"
            )
        if self.rows is not None and getattr(tokenizer, "vocab_size", 0) > self.rows:
            raise CheckpointError(
                f"{name}: the tokenizer has {tokenizer.vocab_size:,} tokens, but the model has {self.rows:,} "
                "(vocab_size in config.json); put the model's own tokenizer into this folder"
            )
        bare, prompt = self.encode(_PROBE), self._with_specials(_PROBE)
        if not bare:
            raise CheckpointError(
                f"{name}: the tokenizer turns text into zero tokens, so lengths cannot be measured; "
                "put the model's own tokenizer.json into this folder"
            )
        begin = next((i for i in range(len(prompt)) if prompt[i : i + len(bare)] == bare), len(prompt))
        if after := prompt[begin + len(bare) :]:
            setting = (
                "set add_eos_token to false in tokenizer_config.json"
                if getattr(tokenizer, "add_eos_token", False)
                else "take it out of the post_processor in tokenizer.json"
            )
            raise CheckpointError(
                f"{name}: the tokenizer adds {self._shown(after[0])} after every text, so a model cannot continue a "
                f"prompt; {setting}"
            )
        if self.rows is None:
            return
        ids = (getattr(tokenizer, f"{kind}_token_id", None) for kind in ("pad", "unk", "eos"))
        padding = next((token for token in ids if token is not None), len(tokenizer))  # as lm-eval chooses
        if padding >= self.rows:
            raise CheckpointError(
                f"{name}: the padding token {self._shown(padding)} is beyond the model's {self.rows:,} tokens "
                "(vocab_size in config.json); set pad_token in tokenizer_config.json to a token of the model, such as "
                "its eos_token"
            )

    def _check_chat(self) -> None:
        """Render the two kinds of chats that tasks ask for: a question, and a question with the answer begun."""
        if not getattr(self.tokenizer, "chat_template", None):
            raise CheckpointError(
                f"{self.name}: --chat needs a chat template, and this tokenizer has none; omit --chat"
            )
        self._probe(_PROBE)
        begun = [{"role": "user", "content": _PROBE}, {"role": "assistant", "content": _BEGUN}]
        try:
            self.appends = not self.apply_chat_template(begun, False).endswith(_BEGUN.strip())
        except CheckpointError:
            self.appends = True

    def check_examples(self) -> None:
        """Raises :class:`CheckpointError` if the template cannot show the examples of few-shot tasks as a chat."""
        self._probe(_SYSTEM, _BEGUN, _PROBE)

    def _probe(self, *contents: str) -> str:
        """A chat in which user and assistant take turns; the user begins."""
        roles = ("user", "assistant")
        chat = [{"role": roles[i % 2], "content": content} for i, content in enumerate(contents)]
        text = self.apply_chat_template(chat)
        if lost := next((each for each in chat if each["content"].strip() not in text), None):
            raise CheckpointError(
                f"{self.name}: the chat template leaves out or changes the text of the {lost['role']}; use a template "
                "for plain text, or omit --chat"
            )
        self.encode(text)
        return text

    def with_chat(self, chat: bool) -> PromptTokenizer:
        """The same tokenizer, which wraps prompts in the chat template or does not."""
        return PromptTokenizer(self.tokenizer, chat=chat, **self.given)

    def encode(self, text: str) -> list[int]:
        """Token ids of a bare text, without special tokens."""
        # verbose=False: do not warn about texts longer than the window in the tokenizer's files.
        return self._checked(self.tokenizer.encode(text, add_special_tokens=False, verbose=False))

    def _checked(self, ids: list[int]) -> list[int]:
        if self.rows is not None and ids and max(ids) >= self.rows:
            raise CheckpointError(
                f"{self.name}: a prompt has the token {self._shown(max(ids))}, but the model has {self.rows:,} tokens "
                "(vocab_size in config.json); use the tokenizer that belongs to the model"
            )
        return ids

    def _shown(self, token: int | None) -> str:
        name = None if token is None else self.tokenizer.convert_ids_to_tokens(token)
        return f"with the id {token}" if name is None else f"{name!r} (id {token})"

    def counts(self, texts: Sequence[str]) -> list[int]:
        """Numbers of tokens of bare texts, without special tokens, in one call of the fast tokenizer."""
        if not texts:
            return []
        return [len(ids) for ids in self.tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]]

    def render(self, prompt: str, answer_prefix: str = "") -> str:
        """The text the model is given: prompt and answer prefix, wrapped in the chat template when asked.

        With a chat template the answer prefix opens the assistant's turn, as upstream RULER and lm-eval do.
        """
        if not self.chat:
            return prompt + answer_prefix
        messages = [{"role": "user", "content": prompt}]
        if answer_prefix:
            messages.append({"role": "assistant", "content": answer_prefix})
        return self.apply_chat_template(messages, add_generation_prompt=not answer_prefix)

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The messages as one text. Without a generation prompt, the model continues the last message.

        Where the template cannot begin an answer (:attr:`appends`), the beginning follows the generation prompt, as
        upstream RULER writes it. A template that does both, and neither trims nor adds anything, gives the same text.
        Messages of the system are dropped if the template refuses them, as lm-eval does, but never :attr:`system`.

        Raises :class:`CheckpointError` if the template fails.
        """
        messages, end = list(chat_history), ""
        if self.appends and not add_generation_prompt:
            add_generation_prompt, end = True, messages.pop()["content"]
        rest = [message for message in messages if message["role"] != "system"]
        if self.system:
            told = [message["content"] for message in messages if message["role"] == "system"]
            messages = [{"role": "system", "content": "\n\n".join([self.system, *told])}, *rest]
        try:
            return self._rendered(messages, add_generation_prompt) + end
        except Exception as error:  # templates are code, and may raise anything
            with contextlib.suppress(Exception):
                if not self.system and rest != messages:
                    return self._rendered(rest, add_generation_prompt) + end
            raise CheckpointError(
                f"{self.name}: the chat template fails ({first_line(error)}); {self._advice(rest)}"
            ) from error

    def _advice(self, messages: list[dict[str, str]]) -> str:
        """What to do about a template that fails: it may need a system message, or refuse one."""
        system = [] if self.system else [{"role": "system", "content": _SYSTEM}]
        with contextlib.suppress(Exception):
            self._rendered([*system, *messages], True)
            return "omit chat_system" if self.system else f"add --set chat_system='{_SYSTEM}'"
        return "repair the template, or omit --chat"

    def _rendered(self, messages: list[dict[str, str]], add_generation_prompt: bool) -> str:
        template = self._template
        if not isinstance(template, str):
            raise TypeError(f"chat_template is {template!r:.40}, not a text")
        return str(
            self.tokenizer.apply_chat_template(
                messages,
                chat_template=_with_day(template, self.day),
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=not add_generation_prompt,
                date_string=self.day.strftime("%d %b %Y"),
            )
        )

    @property
    def _template(self) -> Any:
        return self.tokenizer.get_chat_template()

    @property
    def dated(self) -> bool:
        """Whether chats depend on the date."""
        return self.chat and any(name in self._template for name in ("strftime_now", "date_string"))

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The source of the chat template, for lm-eval."""
        return str(self._template) if chat_template else None

    def count_prompt(self, prompt: str, answer_prefix: str = "") -> int:
        """Number of tokens the model sees for this prompt, special and chat-template tokens included."""
        return len(self.encode_rendered(self.render(prompt, answer_prefix)))

    def encode_rendered(self, text: str) -> list[int]:
        """Token ids of a rendered prompt.

        A chat has the special tokens that its template writes, as in transformers. A plain text gets those of the
        tokenizer, unless it starts with BOS (EOS if there is no BOS), as in lm-eval's ``hf`` model.
        """
        return self.encode(text) if self.chat else self._with_specials(text)

    def _with_specials(self, text: str) -> list[int]:
        first = getattr(self.tokenizer, "bos_token", None) or getattr(self.tokenizer, "eos_token", None)
        if first and text.startswith(first):
            return self.encode(text)
        return self._checked(self.tokenizer.encode(text, verbose=False))

    @property
    def prefix_token_id(self) -> int:
        """The id that stands before a text without context: BOS, or EOS if there is no BOS.

        Raises :class:`CheckpointError` if there is neither.
        """
        tokens = (self.tokenizer.bos_token_id, self.tokenizer.eos_token_id)
        if (found := next((token for token in tokens if token is not None), None)) is None:
            raise CheckpointError(
                f"{self.name}: the tokenizer has neither BOS nor EOS, one of which must stand before a text without "
                "context; set bos_token in tokenizer_config.json"
            )
        return self._checked([found])[0]

    @property
    def chat_facts(self) -> dict[str, str]:
        """What is special about the chats, for the manifest; empty if nothing is."""
        if not self.chat:
            return {}
        text = self._probe(_PROBE)
        facts = {
            "date": self.day.isoformat() if self.dated else None,
            "system": self.system,
            "answer_prefix": "appended" if self.appends else None,
            "special_tokens": "of the template alone" if self.encode(text) != self._with_specials(text) else None,
        }
        return {key: value for key, value in facts.items() if value}

    def fingerprint(self) -> str:
        """Hash of vocabulary, merges, special tokens and (with chat) template: equal iff texts tokenise equally."""
        parts = [
            self.tokenizer.backend_tokenizer.to_str()
            if getattr(self.tokenizer, "is_fast", False)
            else repr(sorted(self.tokenizer.get_vocab().items())),
            repr(sorted(self.tokenizer.special_tokens_map.items())),
            repr(self._with_specials("a")),
            str(self.tokenizer.chat_template) if self.chat else "",
            *map(repr, self.chat_facts.items()),
        ]
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()


@lru_cache(maxsize=16)
def _with_day(template: str, day: date) -> str:
    """The template, with a ``strftime_now`` that prints ``day``; that of transformers prints today.

    The macro replaces the directives that occur in the template. Jinja removes the newline behind it, so it adds
    nothing to the text.
    """
    if "strftime_now" not in template:
        return template
    directives = sorted(set(re.findall("%[-_0^#]?[A-Za-z]", template)))
    steps = "".join(f"|replace({json.dumps(each)}, {json.dumps(day.strftime(each))})" for each in directives)
    return "{% macro strftime_now(format) %}{{ format" + steps + " }}{% endmacro %}\n" + template


def _rows(folder: Path) -> int | None:
    """The tokens of the model, if the folder has a configuration. The reader of checkpoints complains about it."""
    with contextlib.suppress(CheckpointError):
        return getattr(ModelConfig.read(folder).text, "vocab_size", None)
    return None
