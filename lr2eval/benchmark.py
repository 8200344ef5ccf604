"""The nouns that tasks, backends, runner and reports share. No torch, no lm-eval at import time.

A *benchmark* (``ruler``) has *tasks* (``niah_single_1``). The unit of work is the *shard*: one task at one
length. A *sample* is one item of a shard and has one identity (:func:`lr2eval.base.ids.sample_id`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from lr2eval.model.tokenizer import PromptTokenizer


Scalar = str | int | float | bool | None
Truncation = Literal["error", "skip", "middle"]
WindowPolicy = Literal["exact", "budget"]


@dataclass(frozen=True)
class TaskInfo:
    """What ``lr2eval tasks`` prints about one task.

    ``needs`` says in words which outside data the task reads ("nothing" when none). ``min_length`` is a round
    number of tokens that suffices with common tokenizers; the exact minimum depends on the tokenizer and is
    checked when the data is made. ``None`` for tasks whose prompts have the length they have.
    """

    name: str
    benchmark: str
    description: str
    needs: str = "nothing"
    min_length: int | None = None


@dataclass(frozen=True)
class TaskContext:
    """Everything a benchmark may know when it makes its shards. ``lengths`` are token counts, ascending."""

    tokenizer: PromptTokenizer
    lengths: tuple[int, ...]
    samples_per_task: int
    seed: int
    cache_dir: Path
    limit: int | float | None = None
    """At most so many samples per shard (int) or this share of them (float below 1); always the first ones."""
    data_dir: Path | None = None
    offline: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    """What ``--set BENCHMARK.key=value`` gave for this benchmark."""
    windows: tuple[int, ...] = ()
    """Where prompts have lengths of their own, the windows (tokens, ascending) to run them at: the lengths asked for,
    else the original model's (``--baseline``) and the model's."""
    truncation: Truncation = "error"
    """What to do with prompts longer than a window."""
    progress: Callable[[str], None] = lambda message: None


@dataclass(frozen=True)
class SampleInfo:
    """What the store keeps of one document beside prompt and response.

    ``columns`` become queryable columns of the sample (depth, subject). ``marks`` are strings that stand in the
    prompt verbatim and deserve marking in a report (needles). ``source`` says where the whole prompt can be
    found again: data file name and byte offset of its line.
    """

    gold: tuple[str, ...]
    columns: Mapping[str, Scalar] = field(default_factory=dict)
    marks: tuple[str, ...] = ()
    source: tuple[str, int] | None = None
    truncated_tokens: int = 0
    """Tokens that the benchmark took out of the prompt so that it fits; the backend may take more."""


@dataclass(frozen=True)
class Shard:
    """One task at one length: the unit that is planned, resumed and scored.

    ``load`` builds the lm-eval ``Task`` (called once, when the shard runs; every document of the task belongs to
    the shard, in order). ``describe`` is called with each document. ``metric`` names the entry of lm-eval's
    per-document metrics that is the sample's score; ``scale`` turns it into 0..100.
    """

    benchmark: str
    task: str
    length: int | None
    n: int
    version: str
    data_hash: str
    metric: str
    load: Callable[[], Any]
    describe: Callable[[Mapping[str, Any]], SampleInfo]
    scale: float = 100.0
    data: Mapping[str, Scalar] = field(default_factory=dict)
    """Facts for manifest and report: file, haystack, fill min/mean/max ..."""
    max_new_tokens: int | None = None
    """Tokens each sample may generate; ``None`` for scored choices."""
    chat: bool = True
    """Whether ``--chat`` wraps the prompts; few-shot and code prompts may be left as they are."""
    cells: str | None = None
    """Sample column (a number) by whose values the shard's score is stored as well: ``depth`` of a needle grid."""

    @property
    def id(self) -> str:
        """``ruler/niah_single_1@4096``, or ``mmlu/mmlu_anatomy`` for a task without lengths."""
        tail = "" if self.length is None else f"@{self.length}"
        return f"{self.benchmark}/{self.task}{tail}"


class Benchmark(Protocol):
    """A task plug-in: an object found through the entry-point group ``lr2eval.tasks``."""

    name: str
    version: str
    headline: Literal["tasks", "samples"]
    """Whether the benchmark's one number averages over tasks (RULER) or over samples (MMLU)."""

    def tasks(self) -> Sequence[TaskInfo]:
        """Every task the benchmark can run."""

    def select(self, selector: str | None) -> Sequence[str]:
        """Task names for ``name`` (``None``) or ``name:selector``; raises :class:`TaskError` if unknown."""

    def prepare(self, tasks: Sequence[str], context: TaskContext) -> Sequence[Shard]:
        """Find or make the data of ``tasks`` and return their shards (lengths ascending).

        Raises :class:`MissingDataError` naming everything that is missing, :class:`TaskError` for a length
        below a task's minimum.
        """


@dataclass(frozen=True)
class BackendRequest:
    """What a back end of another package is asked for: the model, and how to run it.

    The entry point (group ``lr2eval.backends``) is a function of one such request that returns an
    ``lm_eval.api.model.LM``. Its name is the value of ``--backend``.
    """

    folder: Path
    """The checkpoint."""
    window: int
    """Tokens that prompt and answer may hold together."""
    original_window: int | None
    """``Lt`` of a rescaled checkpoint."""
    dtype: str
    """``auto``, ``float32``, ``bfloat16`` or ``float16``."""
    device: str | None
    batch_size: int | Literal["auto"]
    truncation: Truncation
    window_policy: WindowPolicy
    chat: bool
    trust_remote_code: bool
    seed: int
    options: Mapping[str, Any] = field(default_factory=dict)
    """What ``--set BACKEND.key=value`` gave."""


@dataclass(frozen=True)
class ResponseDetail:
    """What a backend knows about one response beside its text. Token counts; ``window`` names the RoPE used."""

    prompt_tokens: int = 0
    new_tokens: int = 0
    window: Literal["only", "short", "long", "short->long"] = "only"
    finish: Literal["stop", "length", "choice", "skipped", "unknown"] = "unknown"
    truncated_tokens: int = 0
