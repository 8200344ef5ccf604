"""Published scores beside a run of the ``short`` suite: for orientation, and never a score of the run's model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lr2eval.reports._load import Run

SUITE = "short"
SOURCE = "LongRoPE2, arXiv 2502.20082 (v1, February 2025), table 4"
COLUMNS = ("MMLU", "MMLU-Pro", "HellaSwag", "TruthfulQA", "GSM8K")


@dataclass(frozen=True)
class Published:
    """A row of the table: scores in the order of :data:`COLUMNS`, and the average that is printed with them."""

    model: str
    average: float
    scores: tuple[float, ...]


ROWS = (
    Published("Phi3-mini, original, 2k", 63.2, (70.78, 41.17, 77.96, 47.82, 78.54)),
    Published("Phi3-mini at 128k, YaRN", 53.6, (63.22, 30.95, 75.27, 42.19, 57.39)),
    Published("Phi3-mini at 128k, NTK", 57.3, (66.43, 36.09, 76.92, 43.34, 63.99)),
    Published("Phi3-mini at 128k, LongRoPE", 58.5, (67.26, 36.28, 75.73, 46.26, 67.17)),
    Published("Phi3-mini at 128k, LongRoPE2", 61.7, (70.04, 40.30, 77.07, 47.61, 73.62)),
    Published("LLaMA3-8B, original, 8k", 56.5, (66.62, 35.87, 82.08, 44.04, 54.05)),
    Published("LLaMA3.1-8B of Meta", 57.2, (66.33, 36.79, 81.71, 45.17, 56.18)),
    Published("LLaMA3-8B at 128k, YaRN", 52.1, (62.25, 31.88, 81.25, 42.61, 42.45)),
    Published("LLaMA3-8B at 128k, NTK", 54.0, (63.84, 34.14, 82.11, 43.45, 46.92)),
    Published("LLaMA3-8B at 128k, LongRoPE", 54.6, (64.69, 33.74, 82.14, 43.65, 48.90)),
    Published("LLaMA3-8B at 128k, LongRoPE2", 55.7, (65.01, 34.61, 81.69, 46.17, 50.80)),
)


def rows(runs: Sequence[Run]) -> tuple[Published, ...]:
    """The published table if a run was asked for the suite, else nothing."""
    names = (str(name) for run in runs for name in run.results.settings.get("tasks", ()))
    return ROWS if any(name.partition(":")[0] == SUITE for name in names) else ()
