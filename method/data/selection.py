"""Which documents go into a mixture: token shares of length buckets and of sources, drawn without replacement.

Buckets and sources make a table; every document belongs to one cell. A cell's share of the mixture starts from the
tokens in it. Then columns are scaled to the shares of sources and rows to the shares of buckets, in turn, until both
hold (iterative proportional fitting). With shares of sources alone this is the per-source length upsampling of Fu et
al. (2402.10171): the shares of sources stay and only the lengths inside each source change.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from lr2eval.base.config import Length, Table
from lr2eval.errors import UsageError

BEYOND_BUDGET, CUT_AT_BUDGET = "beyond the token budget or the shares", "cut at the token budget"


class BucketConfig(Table):
    """Documents longer than the bucket before and of at most ``up_to`` tokens; ``None``: of any length."""

    up_to: Length | None = None
    """The largest number of tokens. Default: any."""
    share: float | None = Field(None, ge=0)
    """The share of the mixture's tokens. Give all buckets a share, or none."""


@dataclass(frozen=True)
class MixtureCell:
    """Documents (their numbers) of one bucket and source. ``upsample`` is 1 for short ones."""

    bucket: int
    source: int
    documents: NDArray[np.int64]
    tokens: int
    upsample: float
    long: bool


@dataclass(frozen=True)
class Drawn:
    """Drawn from a cell, in random order: documents (repeated if asked), and how many tokens of each are used."""

    cell: MixtureCell
    documents: NDArray[np.int64]
    lengths: NDArray[np.int64]
    cut: int
    """Tokens of the last document beyond the budget; 0 for short ones, which are never cut."""


def shares(
    cells: Sequence[MixtureCell],
    of_buckets: Mapping[int, float] | None,
    of_sources: Mapping[int, float] | None,
    names: Sequence[str],
) -> NDArray[np.float64]:
    """Each cell's share of the mixture, summing to 1. ``names`` are the names of the sources.

    Raises :class:`UsageError` if the shares of buckets and sources cannot both hold.
    """
    bucket = np.array([cell.bucket for cell in cells])
    source = np.array([cell.source for cell in cells])
    found = np.array([cell.tokens * cell.upsample for cell in cells], dtype=float)
    found /= found.sum()
    for _ in range(1000 if of_buckets and of_sources else 1):
        before = found
        found = _scaled(found, source, of_sources) if of_sources else found
        found = _scaled(found, bucket, of_buckets) if of_buckets else found
        if np.abs(found - before).max() < 1e-12:
            break
    for each, share in (of_sources or {}).items():
        wanted, got = share / sum((of_sources or {}).values()), float(found[source == each].sum())
        if abs(got - wanted) > 0.001:
            raise UsageError(
                f"source {names[each]!r}: its share of {wanted:.1%} is not possible with these documents and shares of "
                f"buckets ({got:.1%} is); change its share, or remove the shares of all sources or of all buckets"
            )
    return found


def _scaled(values: NDArray[np.float64], group: NDArray[np.int64], to: Mapping[int, float]) -> NDArray[np.float64]:
    total = sum(to.values())
    found = values.copy()
    for each, share in to.items():
        held = found[group == each].sum()
        if held > 0:
            found[group == each] *= share / total / held
    return found


def budget(cells: Sequence[MixtureCell], share: NDArray[np.float64]) -> int:
    """The largest mixture that keeps every cell's share; each document is used once, or ``upsample`` times."""
    most = min(cell.tokens * cell.upsample / part for cell, part in zip(cells, share, strict=True) if part > 0)
    return int(most * (1 + 1e-9))


def draw(cell: MixtureCell, lengths: NDArray[np.int64], wanted: int, seed: int) -> Drawn:
    """``wanted`` tokens of a cell: all its documents in random order, then again in another order, and so on.

    Short documents stay whole, so a few tokens may be missing. The last long document is cut.
    """
    turns = (np.random.default_rng([seed, cell.bucket, cell.source, turn]) for turn in range(wanted // cell.tokens + 1))
    documents = np.concatenate([random.permutation(cell.documents) for random in turns])
    used = lengths[documents].astype(np.int64)
    ends = np.cumsum(used)
    count = int(np.searchsorted(ends, wanted, side="right"))
    left, cut = wanted - (int(ends[count - 1]) if count else 0), 0
    if left and cell.long:
        cut = int(used[count]) - left
        used[count] = left
        count += 1
    return Drawn(cell, documents[:count], used[:count], cut)
