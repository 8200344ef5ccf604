"""Identities and digests: what makes two samples, prompts or responses the same (design D2, D3)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no white space: equal values give equal text. NaN is refused."""
    return _CANONICAL.encode(value)


_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest(value: Any) -> str:
    """sha256 (hex) of the canonical JSON of ``value``."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def text_hash(text: str) -> str:
    """sha256 (hex) of a text; lone surrogates are kept apart rather than refused."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def sample_id(version: str, task: str, length: int | None, index: int, seed: int) -> str:
    """The one identity of a sample (D3): 32 hex digits of hash(suite version, task, length, index, seed)."""
    return digest([version, task, length, index, seed])[:32]


def sample_seed(version: str, task: str, length: int | None, index: int, seed: int) -> int:
    """Seed of the sample's own random generator: depends on its identity alone, so nothing else moves it (D4)."""
    return int(digest(["rng", version, task, length, index, seed])[:16], 16)


def digest_line(row: Sequence[object]) -> bytes:
    """What a sample (its id, prompt hash, answer, score) adds to the digest of a run, in the order of the ids."""
    return canonical_json(row).encode() + b"\n"
