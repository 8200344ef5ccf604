"""Counting tokens exactly as the model will see them: special tokens and chat template included (D4)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lr2eval.errors import CheckpointError, first_line


class PromptTokenizer:
    """A model's tokenizer together with the decision whether prompts are wrapped in its chat template.

    ``count_prompt`` is the number that decides lengths; it must equal what the backend feeds to the model, which a
    test checks. ``count`` is for estimates: the tokens of a bare piece of text, no special tokens.
    """

    def __init__(self, tokenizer: Any, *, chat: bool = False, name: str = "tokenizer") -> None:
        self.tokenizer = tokenizer
        self.chat = chat
        self.name = self.tokenizer_name = name
        if not self.encode("The quick brown fox jumps over the lazy dog."):
            raise CheckpointError(
                f"{name}: the tokenizer turns text into zero tokens, so lengths cannot be measured; "
                "put the model's own tokenizer.json into this folder"
            )
        if chat and not getattr(tokenizer, "chat_template", None):
            raise CheckpointError(f"{name}: --chat needs a chat template, and this tokenizer has none; omit --chat")

    @classmethod
    def load(cls, folder: Path, *, chat: bool = False) -> PromptTokenizer:
        """Tokenizer of a checkpoint folder; raises :class:`CheckpointError` when there is none."""
        from transformers import AutoTokenizer

        try:
            tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
        except Exception as error:
            raise CheckpointError(
                f"{folder}: the tokenizer does not load ({first_line(error, 120)}); "
                "put the model's tokenizer.json and tokenizer_config.json into this folder"
            ) from error
        return cls(tokenizer, chat=chat, name=str(folder))

    def encode(self, text: str) -> list[int]:
        """Token ids of a bare text, without special tokens."""
        # verbose=False: do not warn about texts longer than the window in the tokenizer's files.
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False, verbose=False)
        return ids

    def count(self, text: str) -> int:
        """Number of tokens of a bare text, without special tokens."""
        return len(self.encode(text))

    def counts(self, texts: Sequence[str]) -> list[int]:
        """``count`` of many texts in one call of the fast tokenizer."""
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

        Messages of the system are dropped if the template refuses them, as lm-eval does.
        """
        from jinja2 import TemplateError

        settings = {
            "tokenize": False,
            "add_generation_prompt": add_generation_prompt,
            "continue_final_message": not add_generation_prompt,
        }
        try:
            return str(self.tokenizer.apply_chat_template(chat_history, **settings))
        except TemplateError:
            rest = [message for message in chat_history if message["role"] != "system"]
            return str(self.tokenizer.apply_chat_template(rest, **settings))

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The source of the chat template, for lm-eval."""
        return str(self.tokenizer.chat_template) if chat_template else None

    def count_prompt(self, prompt: str, answer_prefix: str = "") -> int:
        """Number of tokens the model sees for this prompt, special and chat-template tokens included."""
        return len(self.encode_rendered(self.render(prompt, answer_prefix)))

    def encode_rendered(self, text: str) -> list[int]:
        """Token ids of a rendered prompt. Adds special tokens unless the text starts with BOS (EOS if there is no BOS).

        This is what lm-eval's ``hf`` model does.
        """
        first = getattr(self.tokenizer, "bos_token", None) or getattr(self.tokenizer, "eos_token", None)
        if first and text.startswith(first):
            return self.encode(text)
        ids: list[int] = self.tokenizer.encode(text, verbose=False)
        return ids

    @property
    def prefix_token_id(self) -> Any:
        """The id that stands before a text without context: BOS, or EOS if there is no BOS."""
        bos = self.tokenizer.bos_token_id
        return self.tokenizer.eos_token_id if bos is None else bos

    def fingerprint(self) -> str:
        """Hash of vocabulary, merges, special tokens and (with chat) template: equal iff texts tokenise equally."""
        parts = [
            self.tokenizer.backend_tokenizer.to_str()
            if getattr(self.tokenizer, "is_fast", False)
            else repr(sorted(self.tokenizer.get_vocab().items())),
            repr(sorted(self.tokenizer.special_tokens_map.items())),
            repr(self.encode_rendered("a")),
            str(self.tokenizer.chat_template) if self.chat else "",
        ]
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()
