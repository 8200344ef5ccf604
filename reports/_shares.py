"""How often answers went wrong in ways that are no wrong answer: cut prompts, empty answers, refusals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lr2eval.reports import _text
from lr2eval.reports._load import Key, Run

KINDS = ("truncated", "empty", "refused", "skipped")


@dataclass(frozen=True)
class ShareRow:
    """One benchmark of one run: the stored counts of its shards together, out of ``n`` scored samples.

    Skipped samples are not among ``n``.
    """

    run: Key
    benchmark: str
    n: int
    counts: tuple[int, ...]

    def text(self, kind: int) -> str:
        of = self.n + self.counts[kind] if KINDS[kind] == "skipped" else self.n
        return _text.share(self.counts[kind] / of) if of else _text.NOTHING


def share_rows(runs: Sequence[Run]) -> list[ShareRow]:
    """Benchmark by benchmark, the runs under each other."""
    names = dict.fromkeys(shard.benchmark for run in runs for shard in run.results.shards)
    rows = []
    for name in names:
        for run in runs:
            mine = [shard for shard in run.results.shards if shard.benchmark == name]
            counts = tuple(sum(getattr(shard, kind) for shard in mine) for kind in KINDS)
            if mine:
                rows.append(ShareRow(run, name, sum(shard.n for shard in mine), counts))
    return rows
