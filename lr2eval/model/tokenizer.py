"""Counting tokens exactly as the model will see them: special tokens and chat template included (D4)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lr2eval.errors import CheckpointError


class PromptTokenizer:
    """A model's tokenizer together with the decision whether prompts are wrapped in its chat template.

    ``count_prompt`` is the number that decides lengths; it must equal what the backend feeds to the model, which a
    test checks. ``count`` is for estimates: the tokens of a bare piece of text, no special tokens.
    """

    def __init__(self, tokenizer: Any, *, chat: bool = False, name: str = "tokenizer") -> None:
        self.tokenizer = tokenizer
        self.chat = chat
        self.name = name
        if not self.encode("The quick brown fox jumps over the lazy dog."):
            raise CheckpointError(
                f"{name}: the tokenizer encodes text to zero tokens, so lengths cannot be measured; "
                "put the model's real tokenizer files (tokenizer.json) beside its weights"
            )
        if chat and not getattr(tokenizer, "chat_template", None):
            raise CheckpointError(f"{name}: --chat needs a chat template and this tokenizer has none; drop --chat")

    @classmethod
    def load(cls, folder: Path, *, chat: bool = False) -> PromptTokenizer:
        """Tokenizer of a checkpoint folder; raises :class:`CheckpointError` when there is none."""
        from transformers import AutoTokenizer

        try:
            tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
        except Exception as error:
            reason = str(error).strip().splitlines()
            raise CheckpointError(
                f"{folder}: no usable tokenizer ({reason[0][:120] if reason else type(error).__name__}); "
                "put the model's tokenizer.json and tokenizer_config.json beside its weights"
            ) from error
        return cls(tokenizer, chat=chat, name=str(folder))

    def encode(self, text: str) -> list[int]:
        """Token ids of a bare text, without special tokens."""
        # verbose=False: a text longer than the tokenizer's own idea of the window is no news here.
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
        text: str = self.tokenizer.apply_chat_template(
            messages,
            tokenize=False,
            add_generation_prompt=not answer_prefix,
            continue_final_message=bool(answer_prefix),
        )
        return text

    def count_prompt(self, prompt: str, answer_prefix: str = "") -> int:
        """Number of tokens the model sees for this prompt, special and chat-template tokens included."""
        return len(self.encode_rendered(self.render(prompt, answer_prefix)))

    def encode_rendered(self, text: str) -> list[int]:
        """Token ids of a rendered prompt: special tokens are added unless the text already starts with BOS."""
        bos = getattr(self.tokenizer, "bos_token", None)
        if bos and text.startswith(bos):
            return self.encode(text)
        ids: list[int] = self.tokenizer.encode(text, verbose=False)
        return ids

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
