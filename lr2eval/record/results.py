"""``results.json``: the published summary of a run. Stored numbers only, no timing, so equal runs give equal files.

After a change here, ``python -m tests.schemas`` writes the published JSON schema again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from lr2eval.record.base import Record, Sealed, read_record

RESULTS_FILE = "results.json"
NAMES = ("benchmark", "task", "length", "metric")
"""What every record of a shard says: which it is, and how it is scored."""

Cell = str | int | float | bool | None


class Interval(Record):
    """A confidence interval on the 0..100 scale."""

    low: float
    high: float
    confidence: float = Field(description="nominal coverage, for example 0.95")
    method: str = Field(description="wilson, or mover-wilson for means over tasks")


class RopeOverride(Record):
    """The RoPE that ``--rope`` put in the place of the checkpoint's own. Its numbers are in ``rope``."""

    rule: str = Field(description="the rule with its options, or the factors file and how its factors were made")
    checkpoint: str = Field(description="fingerprint of the checkpoint as it is, which was not changed")
    temperature: float = Field(description="what cos and sin are multiplied by beyond the original window")
    sha256: str | None = Field(default=None, description="of the factors file; null for a rule")


class ModelFacts(Record):
    """Facts about the model, read from its folder; with ``rope_override``, as they are under that RoPE."""

    name: str
    fingerprint: str = Field(description="sha256 over configuration and weights")
    tokenizer_fingerprint: str
    architecture: str
    parameters: int
    dtype: str
    window: int = Field(description="max_position_embeddings: the longest sequence the model is run at")
    original_window: int | None = Field(description="Lt for a rescaled checkpoint, else null")
    rope_type: str
    rope: dict[str, Any] = Field(description="rope_parameters, as transformers reads the configuration")
    rope_scale: float | None = Field(default=None, description="s = window / original window of a longrope checkpoint")
    d_tcd: int | None = Field(default=None, description="first rotary pair (0-based) with a period of at least Lt")
    d_rcd: int | None = Field(default=None, description="first rotary pair (0-based) with a long factor of at least s")
    rope_override: RopeOverride | None = Field(
        default=None, exclude_if=lambda found: found is None, description="missing if the model ran with its own RoPE"
    )

    @property
    def checkpoint(self) -> str:
        """The fingerprint of the checkpoint as it lies on disk."""
        return self.rope_override.checkpoint if self.rope_override else self.fingerprint


class CellResult(Record):
    """The samples of a shard with the needle at one depth."""

    depth: float = Field(description="requested place in the haystack, 0 (start) to 1 (end)")
    n: int
    score: float
    interval: Interval


class ShardResult(Record):
    """One task at one length."""

    benchmark: str
    task: str
    length: int | None
    metric: str
    n: int = Field(description="scored samples; skipped samples do not count")
    score: float | None = Field(description="mean over samples, 0..100; null if no sample was scored")
    interval: Interval | None
    empty: int = Field(description="samples with an empty answer (white space only)")
    refused: int = Field(default=0, description="generated answers that begin with a refusal")
    truncated: int = Field(description="samples whose prompt was shortened in the middle")
    skipped: int = Field(description="samples that were not run because the prompt was too long")
    windows: dict[str, int] = Field(description="samples by RoPE used: only, short, long, short->long")
    prompt_tokens: int
    new_tokens: int
    data: dict[str, Cell] = Field(description="facts about the data: hash, haystack, fill")
    cells: list[CellResult] = Field(default=[], description="scores by needle depth, for benchmarks with a depth grid")

    @property
    def id(self) -> str:
        """The key under which the store keeps the samples (:attr:`lr2eval.benchmark.Shard.id`)."""
        tail = "" if self.length is None else f"@{self.length}"
        return f"{self.benchmark}/{self.task}{tail}"


class Summary(Record):
    """A mean over several shards: of one benchmark at one length (or without length)."""

    benchmark: str
    length: int | None
    over: Literal["tasks", "samples"] = Field(description="what has equal weight in the mean")
    headline: bool = Field(description="whether this is the headline number of the benchmark")
    score: float
    interval: Interval
    n: int
    tasks: int


class OverLengths(Record):
    """RULER's numbers over all lengths, from the means over tasks. They hold for these tasks only."""

    benchmark: str
    tasks: int = Field(description="tasks in every mean; the whole suite has 13")
    lengths: list[int] = Field(description="lengths at which every one of these tasks was scored")
    threshold: float
    effective_length: int | None = Field(description="largest length whose mean exceeds the threshold; null if none")
    weighted_increasing: float | None = Field(description="weights 1..6 over 4k..128k; null unless all six were run")
    weighted_decreasing: float | None = Field(description="weights 6..1 over 4k..128k; null unless all six were run")


class NotRun(Record):
    """A task that was requested but not run, with the reason."""

    task: str
    length: int | None
    reason: str


class Results(Sealed):
    """The whole file. ``verified.py`` compares it with the store, so a change of what ``summary.py`` computes needs a
    new schema version."""

    sealed_from: ClassVar[int] = 2

    schema_version: Literal[1, 2] = 2
    lr2eval_version: str
    digest: str = Field(description="digest over sample ids, prompt hashes, answers and scores")
    samples_sha256: dict[str, str] | None = Field(
        default=None,
        description="for each shard, sha256 over every column of its stored samples; null in files of version 1",
    )
    complete: bool
    model: ModelFacts
    settings: dict[str, Any] = Field(description="the resolved configuration that determines the samples")
    shards: list[ShardResult]
    summaries: list[Summary]
    over_lengths: list[OverLengths] = Field(default=[], description="for RULER")
    not_run: list[NotRun]


def read_results(folder: Path) -> Results:
    """``results.json`` of a run folder, not compared with its store: :func:`lr2eval.record.verified.verified_run` does.

    Raises :class:`lr2eval.errors.StoreError` if it cannot be read or its checksum is wrong.
    """
    return read_record(
        folder / RESULTS_FILE,
        Results,
        missing="give the folder of a run",
        repair="run the same `lr2eval run` command again to rewrite it",
    )
