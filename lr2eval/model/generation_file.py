"""``generation_config.json`` beside a checkpoint's weights: its end-of-answer tokens, and what it asks of decoding.

Only the tokens are used without being asked for. No torch at import time.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lr2eval.errors import CheckpointError
from lr2eval.model.checkpoint import Checkpoint
from lr2eval.model.config import read_object

FILE = "generation_config.json"
_NEUTRAL: dict[str, Any] = {
    "do_sample": False, "num_beams": 1, "repetition_penalty": 1, "encoder_repetition_penalty": 1, "guidance_scale": 1,
    "no_repeat_ngram_size": 0, "encoder_no_repeat_ngram_size": 0, "min_length": 0, "min_new_tokens": 0,
    "penalty_alpha": 0, "bad_words_ids": [], "suppress_tokens": [], "begin_suppress_tokens": [], "sequence_bias": {},
    "forced_bos_token_id": None, "forced_eos_token_id": None, "exponential_decay_length_penalty": None,
    "stop_strings": None, "watermarking_config": None, "dola_layers": None, "constraints": None,
    "force_words_ids": None, "token_healing": False, "max_time": None,
}  # fmt: skip
"""The fields that can change an answer, with the values that do not."""
_WHEN: dict[str, dict[str, Any]] = {
    "do_sample": {
        "temperature": 1, "top_p": 1, "top_k": 0, "min_p": 0, "top_h": 1, "typical_p": 1, "epsilon_cutoff": 0,
        "eta_cutoff": 0,
    },
    "num_beams": {"length_penalty": 1, "early_stopping": False, "num_beam_groups": 1, "diversity_penalty": 0},
}  # fmt: skip
"""Further fields that matter only together with that one."""


def read_generation_file(folder: Path) -> dict[str, Any] | None:
    """The fields of the file, or ``None`` if there is none. Raises :class:`CheckpointError` for one that is broken."""
    path = folder / FILE
    return read_object(path) if path.exists() else None


def asked_of_decoding(stated: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a file that ask for other answers than greedy decoding gives."""

    def asked(neutral: Mapping[str, Any]) -> dict[str, Any]:
        return {key: stated[key] for key in neutral if stated.get(key) not in (None, neutral[key])}

    found = asked(_NEUTRAL)
    for key, fields in _WHEN.items():
        if key in found:
            found |= asked(fields)
    return found


def stated_ends(checkpoint: Checkpoint) -> set[int]:
    """The token ids that end an answer by the checkpoint's files. Raises :class:`CheckpointError` for what is none."""
    text = checkpoint.config.get("text_config")
    files = {
        FILE: read_generation_file(checkpoint.folder) or {},
        "config.json": checkpoint.config,
        "config.json, text_config": text if isinstance(text, Mapping) else {},
    }
    found: set[int] = set()
    for name, values in files.items():
        stated = values.get("eos_token_id")
        ids = stated if isinstance(stated, list) else [] if stated is None else [stated]
        if not all(isinstance(each, int) and not isinstance(each, bool) for each in ids):
            raise CheckpointError(
                f"{checkpoint.folder / name}: eos_token_id is {stated!r:.80}, not a token id or a list of token ids; "
                "correct it"
            )
        found.update(ids)
    return found


def answer_ends(checkpoint: Checkpoint, tokenizer_eos: int | None, vocabulary: int) -> tuple[int, ...]:
    """Every token id of the ``vocabulary`` that ends an answer, by the checkpoint's files or its tokenizer."""
    ids = stated_ends(checkpoint) | ({tokenizer_eos} if tokenizer_eos is not None else set())
    return tuple(sorted(token for token in ids if 0 <= token < vocabulary))
