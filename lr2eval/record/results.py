"""``results.json``: the published summary of a run. Stored numbers only, no timing, so equal runs give equal files.

The JSON schema in ``lr2eval/schemas/results.schema.json`` is generated from these models; a test fails when the
two drift apart (``python -m lr2eval.record.results`` rewrites it).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lr2eval.errors import StoreError

RESULTS_FILE = "results.json"


SCHEMA_VERSION = 1


SCHEMA_FILE = Path(__file__).parents[1] / "schemas" / "results.schema.json"

Cell = str | int | float | bool | None


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Interval(_Model):
    """A confidence interval on the 0..100 scale."""

    low: float
    high: float
    confidence: float = Field(description="Coverage aimed at, for example 0.95")
    method: str = Field(description="wilson, or mover-wilson for means over tasks")


class ModelFacts(_Model):
    """Which model was run, as far as its folder tells."""

    name: str
    fingerprint: str = Field(description="sha256 over configuration and weights")
    tokenizer_fingerprint: str
    architecture: str
    parameters: int
    dtype: str
    window: int = Field(description="max_position_embeddings: the longest sequence the model is run at")
    original_window: int | None = Field(description="Lt for a rescaled checkpoint, else null")
    rope_type: str
    rope: dict[str, Any] = Field(description="rope_parameters of the configuration, verbatim")
    rope_scale: float | None = Field(default=None, description="s = window / original window of a longrope checkpoint")
    d_tcd: int | None = Field(default=None, description="first rotary pair (0-based) with a period of at least Lt")
    d_rcd: int | None = Field(default=None, description="first rotary pair (0-based) with a long factor of at least s")


class CellResult(_Model):
    """The samples of a shard whose needle stands at one depth."""

    depth: float = Field(description="asked place in the haystack, 0 start to 1 end")
    n: int
    score: float
    interval: Interval


class ShardResult(_Model):
    """One task at one length."""

    benchmark: str
    task: str
    length: int | None
    metric: str
    n: int = Field(description="samples scored; skipped ones are not among them")
    score: float | None = Field(description="mean over samples, 0..100; null when nothing was scored")
    interval: Interval | None
    empty: int = Field(description="samples answered with nothing but white space")
    refused: int = Field(default=0, description="generated answers that begin with a refusal")
    truncated: int = Field(description="samples whose prompt was shortened in the middle")
    skipped: int = Field(description="samples left out because they did not fit")
    windows: dict[str, int] = Field(description="samples by RoPE used: only, short, long, short->long")
    prompt_tokens: int
    new_tokens: int
    data: dict[str, Cell] = Field(description="facts about the data: hash, haystack, fill")
    cells: list[CellResult] = Field(default=[], description="scores by depth, where the benchmark is a depth grid")

    @property
    def id(self) -> str:
        """The key under which the store keeps the samples (:attr:`lr2eval.benchmark.Shard.id`)."""
        tail = "" if self.length is None else f"@{self.length}"
        return f"{self.benchmark}/{self.task}{tail}"


class Summary(_Model):
    """A mean over several shards: of one benchmark at one length (or without length)."""

    benchmark: str
    length: int | None
    over: Literal["tasks", "samples"]
    headline: bool = Field(description="whether this is the benchmark's one number")
    score: float
    interval: Interval
    n: int
    tasks: int


class OverLengths(_Model):
    """RULER's numbers over all lengths, from the means over tasks. They mean something over these tasks only."""

    benchmark: str
    tasks: int = Field(description="tasks in every mean; the whole suite has 13")
    lengths: list[int] = Field(description="lengths at which every one of these tasks was scored")
    threshold: float
    effective_length: int | None = Field(description="largest length whose mean exceeds the threshold; null if none")
    weighted_increasing: float | None = Field(description="weights 1..6 over 4k..128k; null unless all six were run")
    weighted_decreasing: float | None = Field(description="weights 6..1 over 4k..128k; null unless all six were run")


class NotRun(_Model):
    """Something that was asked for and did not run, with the reason."""

    task: str
    length: int | None
    reason: str


class Results(_Model):
    """The whole file."""

    schema_version: Literal[1] = 1
    lr2eval_version: str
    digest: str = Field(description="digest over sample ids, prompt hashes, answers and scores")
    complete: bool
    model: ModelFacts
    settings: dict[str, Any] = Field(description="the resolved configuration that decides the samples")
    shards: list[ShardResult]
    summaries: list[Summary]
    over_lengths: list[OverLengths] = []
    not_run: list[NotRun]


def read_results(folder: Path) -> Results:
    """``results.json`` of a run folder, validated; :class:`StoreError` if absent, damaged or of another version."""
    path = folder / RESULTS_FILE
    try:
        text = path.read_bytes()
    except FileNotFoundError as error:
        raise StoreError(f"{path}: no such file; is {folder} a run folder?") from error
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}; give the folder of a run") from error
    try:
        return Results.model_validate_json(text)
    except ValidationError as error:
        raise StoreError(
            f"{path}: {problem(error, text)}; run the same `lr2eval run` command again to rewrite it"
        ) from error


def problem(error: ValidationError, text: bytes) -> str:
    """What is wrong with a file of ours, in words: of another schema version, or damaged and where."""
    try:
        version = json.loads(text).get("schema_version", SCHEMA_VERSION)
    except (ValueError, AttributeError):
        version = SCHEMA_VERSION
    if version != SCHEMA_VERSION:
        return f"has schema version {version!r}, this lr2eval reads {SCHEMA_VERSION}"
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(part) for part in first["loc"]) or "file"
    return f"damaged at {where} ({first['msg']})"


def schema() -> dict[str, Any]:
    """The JSON schema of ``results.json``."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Results.model_json_schema()}


def schema_text() -> str:
    """The committed text of the schema file."""
    return json.dumps(schema(), indent=2, sort_keys=True) + "\n"


if __name__ == "__main__":
    SCHEMA_FILE.write_text(schema_text(), encoding="utf-8")
