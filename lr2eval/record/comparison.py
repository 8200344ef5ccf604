"""``comparison.json`` and ``gate.json``: what two or more runs say about each other. Stored numbers, no timing.

Scores and differences are points on the 0..100 scale, retention is a ratio. After a change here, run
``python -m tests.schemas`` to write the published JSON schemas again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from lr2eval.base.units import format_length
from lr2eval.record.base import Record, Sealed
from lr2eval.record.results import Interval, ModelFacts

Level = Literal["benchmark", "length", "task", "shard"]
Verdict = Literal["pass", "regression", "inconclusive", "not comparable"]
SIGNS: Mapping[Verdict, str] = {"pass": "✓", "regression": "✗", "inconclusive": "?", "not comparable": "≠"}
"""The sign that goes with the word, for eyes that do not tell colours apart."""


class Side(Record):
    """One of the runs of a comparison."""

    label: str = Field(description="model name; if two models have the same name, with the name of the folder")
    source: str = Field(description="name of the run folder or baseline file")
    kind: Literal["run", "baseline"]
    digest: str = Field(description="run digest, over ids, prompt hashes, answers and scores")
    checksum: str | None = Field(default=None, description="of a baseline file: sha256 over all that it holds")
    complete: bool
    lr2eval_version: str
    model: ModelFacts
    settings: dict[str, Any]


class RatioInterval(Record):
    """A confidence interval of extended / original."""

    low: float
    high: float | None = Field(description="null if there is no upper bound (the original scores near 0)")
    confidence: float
    method: str


class PairedScores(Record):
    """The mean scores of two models on the same samples."""

    n: int = Field(description="pairs")
    original: float
    extended: float
    difference: float = Field(description="extended - original, points")
    interval: Interval = Field(description="two-sided; each end is a one-sided bound at the comparison's confidence")


class CellDifference(PairedScores):
    """The pairs of a shard with the needle at one depth."""

    depth: float = Field(description="requested place in the haystack, 0 (start) to 1 (end)")


class Difference(PairedScores):
    """Extended minus original on the same samples.

    Levels: ``shard`` one task at one length; ``task`` one task over its lengths; ``length`` one benchmark at one
    length; ``benchmark`` all of it. The last two are weighted like the benchmark's headline number (RULER: each task
    counts the same, MMLU: each sample counts the same). Lengths within the original's window and lengths beyond it
    are never in one row.
    """

    level: Level
    benchmark: str
    task: str | None
    length: int | None
    beyond: bool = Field(description="whether the extended model's samples are longer than the original's window")
    over: Literal["tasks", "samples"] = Field(description="what has equal weight in the mean")
    shards: int
    retention: float | None = Field(
        description="extended / original; null beyond the original's window or if it scores 0"
    )
    retention_interval: RatioInterval | None
    binary: bool = Field(description="whether every score is 0 or 100")
    lost: int = Field(description="pairs in which the extended model scores lower")
    gained: int = Field(description="pairs in which the extended model scores higher")
    p_changed: float = Field(description="two-sided p value of the hypothesis that the two models are equal here")
    p_method: str
    p_holm: float | None = Field(description="p_changed, Holm-adjusted over all tasks or all shards; else null")
    clusters: int | None = Field(description="groups of samples from one document; null if samples are independent")
    design_effect: float = Field(description="variance relative to independent samples, at least 1")
    noise: float | None = Field(default=None, description="largest |difference| between repeats of one model, points")
    cells: list[CellDifference] = Field(default=[], description="by needle depth, for benchmarks with a depth grid")

    @property
    def name(self) -> str:
        """``ruler``, ``ruler@4k``, ``ruler:vt``, ``ruler:vt@4k``; of a gain ``longbench:trec@8k-128k``."""
        task = "" if self.task is None else f":{self.task}"
        window = f"{format_length(self.window)}-" if isinstance(self, Gain) else ""
        return self.benchmark + task + ("" if self.length is None else f"@{window}{format_length(self.length)}")


class Gain(Difference):
    """The extended model at its longest window against the original at its own window, on the same items.

    For benchmarks that ask the same items at several windows (LongBench). A gain says what the longer window is worth;
    ``Difference`` at the original's window says what it cost. ``length`` is the extended model's window. Levels are
    ``task`` (one data set) and ``benchmark``. The items are the same, but the original's prompts were cut more.
    """

    window: int = Field(description="longest length inside the original's window at which both models were run")
    cut: int = Field(description="items whose prompt was shortened to fit the original's window")


class LeftOut(Record):
    """Samples or shards that are not part of the comparison."""

    what: str
    n: int
    reason: str


class EffectiveLength(Record):
    """RULER's effective length of one run, over its tasks and lengths, and what the number of samples shows of it."""

    label: str
    tasks: int
    lengths: list[int]
    threshold: float
    effective_length: int | None = Field(description="largest length whose mean exceeds the threshold; null if none")
    low: int | None = Field(description="largest length whose true mean is shown to exceed the threshold; else null")
    high: int | None = Field(description="largest length whose true mean may exceed the threshold; null if none may")
    confidence: float = Field(description="that the true effective length is one of low..high")
    n: int = Field(description="smallest number of samples at a length")


class Pair(Record):
    """The original against one extended model."""

    extended: Side
    differences: list[Difference]
    left_out: list[LeftOut]
    caveats: list[str] = Field(description="settings that differ and may change scores (dtype, backend, batch size)")
    gains: list[Gain] = Field(default=[], description="empty unless a task asks the same items at two windows")


class Rank(Record):
    """One rule of a sweep, over all its tasks at the lengths beyond the original's window, each counting the same."""

    label: str
    score: float
    interval: Interval
    n: int
    difference: float | None = Field(description="to the best rule on the same samples, points; null for the best")
    difference_interval: Interval | None = Field(description="not adjusted for the number of rules")
    p_holm: float | None = Field(
        description="two-sided, that it equals the best; Holm-adjusted over all pairs of rules"
    )
    retention: float | None = Field(description="score / score of the model as it is, within its window")
    retention_interval: RatioInterval | None


class Comparison(Sealed):
    """The whole of ``comparison.json``."""

    sealed_from: ClassVar[int] = 3

    schema_version: Literal[3] = 3
    lr2eval_version: str
    confidence: float = Field(description="of each one-sided bound; intervals are two-sided at 2 * confidence - 1")
    original: Side
    pairs: list[Pair]
    effective_lengths: list[EffectiveLength] = Field(default=[], description="for runs of RULER at two lengths or more")
    noise_runs: list[str] = Field(default=[], description="repeats of the original that give the noise floor")
    ranking: list[Rank] = Field(
        default=[], exclude_if=lambda found: not found, description="of a sweep, the best first; missing for others"
    )

    @property
    def unsearched(self) -> bool:
        """Whether the rule longrope2 is ranked, which may be taken for the outcome of a search."""
        return any("(longrope2, " in rank.label for rank in self.ranking)


class Check(PairedScores):
    """One check of the gate: is this mean score retained?"""

    name: str = Field(description="benchmark or benchmark:task")
    verdict: Verdict
    criterion: str = Field(description="for example: retention >= 0.985")
    kind: Literal["margin", "retention"]
    limit: float = Field(description="margin: largest loss in points; retention: smallest extended / original")
    retention: float | None
    retention_interval: RatioInterval | None
    p_noninferior: float = Field(description="one-sided p value of the hypothesis that the loss exceeds the limit")
    needed_n: int | None = Field(description="pairs that would decide if the true scores are as observed; else null")
    needed_n_if_equal: int | None = Field(description="pairs that would decide if nothing was lost")
    message: str


class Regressed(Record):
    """A single task with a significant loss (Holm-adjusted over all tasks), whatever the checks say."""

    name: str
    difference: float
    p_holm: float


class Gate(Sealed):
    """The whole of ``gate.json``."""

    sealed_from: ClassVar[int] = 3

    schema_version: Literal[3] = 3
    lr2eval_version: str
    verdict: Verdict
    exit_code: int
    paragraph: str
    confidence: float
    original: Side | None
    extended: Side | None
    checks: list[Check]
    regressed: list[Regressed]
    left_out: list[LeftOut]
    caveats: list[str]
    reason: str | None = Field(default=None, description="why the runs cannot be compared")
