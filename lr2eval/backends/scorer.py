"""Batches of log-likelihoods, with beginnings that rows share read once, and all of it within memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from lr2eval.backends.abilities import Abilities
from lr2eval.backends.batching import BatchLimits, Footprint, pieces, run_split
from lr2eval.backends.prefix.cache import Begun, Kept
from lr2eval.backends.prefix.families import Family, batches, families
from lr2eval.backends.scoring import Reading, Score, score
from lr2eval.base.machine import out_of_memory
from lr2eval.method.rope.windowed import WindowedRotaryEmbedding

_PADDING = 0.25
"""Largest share of padding when several beginnings are read together."""
_FORWARD_CPU = 32
_FORWARD_GPU = 1024
"""Padded tokens that cost as much as one more forward."""


@dataclass(frozen=True)
class Scorer:
    """A loaded model with its limits. ``kept`` is ``None`` for models whose rows cannot continue a cache.

    ``side(tokens)`` names the window of a row. Rows on different sides share nothing.
    """

    model: Any
    rotary: WindowedRotaryEmbedding | None
    footprint: Footprint
    limits: BatchLimits
    kept: Kept | None
    side: Callable[[int], str]
    abilities: Abilities
    pieces: set[int]
    """Gets the size of every piece in which rows are read."""

    def plan(self, found: Sequence[Reading]) -> list[list[Family]]:
        """Batches of reading numbers, a pure function of the readings (and of memory)."""
        lengths = [len(reading.ids) for reading in found]
        shared: list[Family] = []
        if self.kept is not None:
            beginnings = [reading.beginning for reading in found]
            shared = families(beginnings, lengths, [self.side(length) for length in lengths])

        def fits(batch: Sequence[Family]) -> bool:
            members = [found[i] for family in batch for i in family.members]
            rows, positions = len(members), sum(reading.positions for reading in members)
            prefix = max(family.prefix for family in batch)
            widths = [lengths[i] - family.prefix for family in batch for i in family.members]
            if not self.abilities.together([lengths[i] for family in batch for i in family.members]):
                return False
            if not prefix:
                memory = self.footprint.scoring(rows, max(widths), positions, chunk=self.limits.chunk)
                return self.limits.allow(rows, rows * max(widths), memory)
            first = len(batch) * prefix
            memory = self.footprint.sharing(len(batch), prefix, rows, max(widths), positions, chunk=self.limits.chunk)
            padding = _PADDING if self.abilities.gap else 0
            alike = first <= (1 + padding) * sum(family.prefix for family in batch)
            return alike and self.limits.allow(rows, first + sum(widths), memory)

        return batches(shared, lengths, fits)

    def score(self, found: Sequence[Reading], batch: Sequence[Family]) -> list[list[Score]]:
        """:func:`score` for the readings of one planned batch, in its order."""
        rows = [(found[i], owner) for owner, family in enumerate(batch) for i in family.members]
        whole = [reading for reading, _ in rows]
        if self.kept is None or not batch[0].prefix:
            return self._whole(whole)
        firsts = [found[family.members[0]].ids for family in batch]
        beginnings = [ids[: family.prefix] for ids, family in zip(firsts, batch, strict=True)]
        widths = [len(reading.ids) - batch[owner].prefix for reading, owner in rows]
        chunk = self.limits.chunk_for(
            max(map(len, beginnings)),
            lambda size: self.footprint.sharing(len(batch), len(beginnings[0]), 1, max(widths), 1, chunk=size),
        )
        try:
            read = self.kept.read(beginnings, [len(ids) for ids in firsts], chunk)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            read = None
        if read is None:
            return self._whole(whole)

        def run(part: Sequence[tuple[Reading, int]], chunk: int | None) -> list[list[Score]]:
            begun = Begun(read, [owner for _, owner in part], self.model.device)
            scores = score(self.model, self.rotary, [reading for reading, _ in part], chunk, begun)
            self._note(chunk, max(begun.starts))
            return scores

        scores: dict[int, list[Score]] = {}
        overhead = _FORWARD_CPU if self.model.device.type == "cpu" else _FORWARD_GPU
        for piece in pieces(widths, overhead):
            part = [rows[i] for i in piece]
            made = run_split(part, run, chunk=chunk, length=lambda row: len(row[0].ids), chunks=self.limits.chunks)
            scores.update(zip(piece, made, strict=True))
        return [scores[i] for i in range(len(rows))]

    def _whole(self, rows: Sequence[Reading]) -> list[list[Score]]:
        if self.kept is not None:
            self.kept.drop()
        width, positions = max(len(r.ids) for r in rows), max(r.positions for r in rows)
        chunk = self.limits.chunk_for(width, lambda size: self.footprint.scoring(1, width, positions, chunk=size))

        def run(part: Sequence[Reading], chunk: int | None) -> list[list[Score]]:
            scores = score(self.model, self.rotary, part, chunk)
            self._note(chunk, width)
            return scores

        return run_split(rows, run, chunk=chunk, length=lambda reading: len(reading.ids), chunks=self.limits.chunks)

    def _note(self, chunk: int | None, width: int) -> None:
        if chunk and chunk < width:
            self.pieces.add(chunk)
