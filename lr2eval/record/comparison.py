"""``comparison.json`` and ``gate.json``: what two or more runs say about each other. Stored numbers, no timing.

``python -m lr2eval.record.comparison`` generates the JSON schemas under ``lr2eval/schemas`` from these models. A test
fails when they differ. Differences and scores are points on the 0..100 scale, retention is a ratio.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from lr2eval.record.results import Interval, ModelFacts

SCHEMAS = Path(__file__).parents[1] / "schemas"

Level = Literal["benchmark", "length", "task", "shard"]
Verdict = Literal["pass", "regression", "inconclusive", "not comparable"]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Side(_Model):
    """One of the compared runs."""

    label: str = Field(description="model name; with the folder's name where two models share one")
    source: str = Field(description="name of the run folder or baseline file")
    kind: Literal["run", "baseline"]
    digest: str = Field(description="run digest, over ids, prompt hashes, answers and scores")
    complete: bool
    lr2eval_version: str
    model: ModelFacts
    settings: dict[str, Any]


class RatioInterval(_Model):
    """A confidence interval of extended / original."""

    low: float
    high: float | None = Field(description="null where nothing bounds it (an original that scores near 0)")
    confidence: float
    method: str


class CellDifference(_Model):
    """The pairs of a shard whose needle stands at one depth."""

    depth: float = Field(description="asked place in the haystack, 0 start to 1 end")
    n: int
    original: float
    extended: float
    difference: float
    interval: Interval


class Difference(_Model):
    """Extended minus original on the same samples.

    Levels: ``shard`` one task at one length; ``task`` one task over its lengths; ``length`` one benchmark at one
    length; ``benchmark`` all of it. The last two weigh as the benchmark's headline does (RULER: every task the same,
    MMLU: every sample the same).
    """

    level: Level
    benchmark: str
    task: str | None
    length: int | None
    over: Literal["tasks", "samples"] = Field(description="what the mean counts the same")
    shards: int
    n: int = Field(description="pairs")
    original: float
    extended: float
    difference: float = Field(description="extended - original, points")
    interval: Interval = Field(description="two-sided; each end is a one-sided bound at the comparison's confidence")
    retention: float | None = Field(description="extended / original; null where the original scores 0")
    retention_interval: RatioInterval | None
    binary: bool = Field(description="whether every score is 0 or 100")
    lost: int = Field(description="pairs in which the extended model scores lower")
    gained: int = Field(description="pairs in which it scores higher")
    p_changed: float = Field(description="two-sided p value that the models differ here")
    p_method: str
    p_holm: float | None = Field(description="p_changed adjusted over all rows of this level (Holm); shards and tasks")
    clusters: int | None = Field(description="groups of samples that share a document; null: samples are independent")
    design_effect: float = Field(description="variance relative to independent samples, at least 1")
    noise: float | None = Field(default=None, description="largest |difference| between repeats of one model, points")
    cells: list[CellDifference] = Field(default=[], description="by depth, where the benchmark is a depth grid")


class Gain(Difference):
    """The extended model at its longest window against the original at its own, on the same items.

    For benchmarks that ask the same items at several windows (LongBench): what a longer window is worth, where
    ``Difference`` at the original's window says what it cost. ``length`` is the extended model's window; levels are
    ``task`` (one data set) and ``benchmark``. "Same samples" means items here: the prompts differ in what was cut.
    """

    window: int = Field(description="the original's window: the longest within its own that both models were run at")
    cut: int = Field(description="items whose prompt was shortened to fit the original's window; only these can gain")


class LeftOut(_Model):
    """Samples or shards that are in one run and not in the comparison."""

    what: str
    n: int
    reason: str


class EffectiveLength(_Model):
    """RULER's effective length of one run over the tasks and lengths it has, and how sure it is."""

    label: str
    tasks: int
    lengths: list[int]
    threshold: float
    effective_length: int | None
    shares: list[tuple[int | None, float]] = Field(description="how often each length comes out when resampled")


class Pair(_Model):
    """The original against one extended model."""

    extended: Side
    paired: bool = Field(description="false: on different samples, asked for with --unpaired")
    differences: list[Difference]
    left_out: list[LeftOut]
    mind: list[str] = Field(description="settings that differ and may move scores (dtype, backend, batch size)")
    gains: list[Gain] = Field(default=[], description="empty where no task asks the same items at two windows")


class Comparison(_Model):
    """The whole of ``comparison.json``."""

    schema_version: Literal[1] = 1
    lr2eval_version: str
    confidence: float = Field(description="of each one-sided bound; intervals are two-sided at 2 * confidence - 1")
    original: Side
    pairs: list[Pair]
    effective_lengths: list[EffectiveLength] = []
    noise_runs: list[str] = Field(default=[], description="repeats of the original the noise floor comes from")


class Check(_Model):
    """One thing the gate asks: is this mean retained?"""

    name: str = Field(description="benchmark or benchmark:task")
    verdict: Verdict
    criterion: str = Field(description="for example: retention >= 0.985")
    kind: Literal["margin", "retention"]
    limit: float = Field(description="margin in points (loss of at most this), or least retention as a ratio")
    n: int
    original: float
    extended: float
    difference: float
    interval: Interval
    retention: float | None
    retention_interval: RatioInterval | None
    p_noninferior: float = Field(description="one-sided p value against 'worse than the limit'")
    needed_n: int | None = Field(description="pairs that would decide if the truth is what was seen; null: none would")
    needed_n_if_equal: int | None = Field(description="pairs that would pass if nothing was lost")
    message: str


class Regressed(_Model):
    """A single task that lost significantly (Holm over all tasks), whatever the checks say."""

    name: str
    difference: float
    p_holm: float


class Gate(_Model):
    """The whole of ``gate.json``."""

    schema_version: Literal[1] = 1
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
    mind: list[str]
    reason: str | None = Field(default=None, description="why nothing could be compared")


def schema_texts() -> dict[str, str]:
    """File name -> committed text of each schema."""
    return {
        f"{name}.schema.json": json.dumps(
            {"$schema": "https://json-schema.org/draft/2020-12/schema", **model.model_json_schema()},
            indent=2,
            sort_keys=True,
        )
        + "\n"
        for name, model in (("comparison", Comparison), ("gate", Gate))
    }


if __name__ == "__main__":
    for file, text in schema_texts().items():
        (SCHEMAS / file).write_text(text, encoding="utf-8")
