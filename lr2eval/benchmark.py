"""The nouns that tasks, backends, runner and reports share. No torch, no lm-eval at import time.

A *benchmark* (``ruler``) has *tasks* (``niah_single_1``). The unit of work is the *shard*: one task at one
length. A *sample* is one item of a shard and has one identity (:func:`lr2eval.base.ids.sample_id`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from lr2eval.errors import MissingDataError

if TYPE_CHECKING:
    from lr2eval.model.tokenizer import PromptTokenizer


Scalar = str | int | float | bool | None
Truncation = Literal["error", "skip", "middle"]
WindowPolicy = Literal["exact", "budget"]


@dataclass(frozen=True)
class TaskInfo:
    """What ``lr2eval tasks`` prints about one task.

    ``needs`` says in words which outside data the task reads ("nothing" if it reads none; :class:`DataNeed` has the
    words). ``min_length`` is a round number of tokens that is enough with common tokenizers. The exact minimum depends
    on the tokenizer and is checked when the data is made. ``None`` for tasks whose prompts have their own length.
    """

    name: str
    benchmark: str
    description: str
    needs: str = "nothing"
    min_length: int | None = None


@dataclass(frozen=True, kw_only=True)
class DataNeed:
    """A data set that tasks read. ``lr2eval data prepare`` copies it into a bundle.

    A benchmark returns its data sets from a method ``data_needs(tasks)``: objects of subclasses, which add the methods
    that find the data.
    """

    name: str
    """No other data set of any benchmark has this name: ``longbench/trec``."""
    tasks: str
    """The shortest ``--tasks`` that reads it: ``longbench:trec``."""
    read_by: tuple[str, ...]
    """Names of the benchmarks that read it."""
    licence: str
    hub: str
    """Name on the Hugging Face hub."""
    file: str
    """Where it belongs in a data folder: ``longbench/trec.jsonl``."""
    instead: str = ""
    """What a user can do without it: ``--set ruler.haystack=python-docs``."""

    def local(self, data_dir: Path) -> Iterable[tuple[str, Path]]:
        """The files of a data folder that a run would read, each with its place in a bundle; maybe none."""
        raise NotImplementedError

    def fetch(self, offline: bool) -> Iterable[tuple[str, bytes]]:
        """Places and contents of the same files, from the hub; from its local cache only if ``offline``."""
        raise NotImplementedError

    def check(self, data_dir: Path) -> None:
        """Read a data folder as a run does, and raise the same errors."""
        raise NotImplementedError

    @property
    def needs(self) -> str:
        """In words, for :class:`TaskInfo`."""
        more = f", or {self.instead}" if self.instead else ""
        return f"{self.file} under --data-dir, or the hub data set {self.hub}{more}"

    def missing(self, why: str, advice: str = "") -> MissingDataError:
        """The error of a run that cannot get it."""
        ways = f"add --data-dir DIR with DIR/{self.file}, or connect once so that it is cached"
        more = "".join(f", or {way}" for way in (self.instead, advice) if way)
        return MissingDataError(f"{self.name}: {why}; {ways}{more}")


@dataclass(frozen=True)
class TaskContext:
    """Everything a benchmark may know when it makes its shards. ``lengths`` are token counts, ascending."""

    tokenizer: PromptTokenizer
    lengths: tuple[int, ...]
    samples_per_task: int
    seed: int
    cache_dir: Path
    limit: int | float | None = None
    """The most samples of a shard (int), or a share of them (float below 1). The first samples are taken."""
    data_dir: Path | None = None
    offline: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    """What ``--set BENCHMARK.key=value`` gave for this benchmark."""
    windows: tuple[int, ...] = ()
    """For prompts that have their own length: the windows (tokens, ascending) to run them at. They are the lengths that
    were asked for, or else the windows of the original model (``--baseline``) and of the model."""
    truncation: Truncation = "error"
    """What to do with prompts longer than a window."""
    progress: Callable[[str], None] = lambda message: None


@dataclass(frozen=True)
class SampleInfo:
    """What the store keeps of one document in addition to prompt and response.

    ``columns`` become queryable columns of the sample (depth, subject). ``marks`` are parts of the prompt that a report
    highlights (needles). ``source`` says where the whole prompt is stored: name of the data file and byte offset of its
    line.
    """

    gold: tuple[str, ...]
    columns: Mapping[str, Scalar] = field(default_factory=dict)
    marks: tuple[str, ...] = ()
    source: tuple[str, int] | None = None
    truncated_tokens: int = 0
    """Tokens that the benchmark removed from the prompt so that it fits; the backend may remove more."""


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
    """Whether ``--chat`` wraps the prompts in the chat template."""
    cells: str | None = None
    """A numeric sample column. The score is also stored for each of its values: ``depth`` of a needle grid."""

    @property
    def id(self) -> str:
        """``ruler/niah_single_1@4096``, or ``mmlu/mmlu_anatomy`` for a task without lengths."""
        tail = "" if self.length is None else f"@{self.length}"
        return f"{self.benchmark}/{self.task}{tail}"


class Benchmark(Protocol):
    """A task plug-in: an object found through the entry-point group ``lr2eval.tasks``.

    Optional methods: ``data_needs(tasks)`` returns the :class:`DataNeed` of each data set that the tasks read.
    ``lr2eval score`` calls ``score_row(task, row)`` and
    ``rescore(shard, sample)``.
    """

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
    """What a back end of another package gets: the model, and how to run it.

    The entry point (group ``lr2eval.backends``) is a function from a request to an ``lm_eval.api.model.LM``. Its name
    is the value of ``--backend``.
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
    tokenizer: PromptTokenizer
    """Renders chats (``apply_chat_template``) and encodes prompts (``encode_rendered``) as every back end should."""
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
    prefill_chunk: int = 0
    """Tokens of the pieces in which the prompts of its batch were read; 0: whole."""
