"""Log-likelihoods with logits at the needed positions only.

Shape suffixes: B rows, L columns (right-padded), H hidden width, N needed positions of the batch, V vocabulary.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import DynamicCache

from lr2eval.backends.abilities import forget_lengths
from lr2eval.backends.forward import logits_at, padded
from lr2eval.backends.generation import not_finite
from lr2eval.backends.prefix.cache import Begun
from lr2eval.method.rope.windowed import WindowedRotaryEmbedding

Score = tuple[float, bool]


@dataclass
class Reading:
    """One forward: the tokens to read and every continuation that can be scored from it.

    Choices of one token share a context, and then they share a reading.
    """

    ids: list[int]
    """Context and continuation without its last token, which is only predicted."""
    members: list[int] = field(default_factory=list)
    """Numbers of the requests it answers."""
    continuations: list[list[int]] = field(default_factory=list)

    @property
    def positions(self) -> int:
        """How many of its last positions need logits."""
        return max(len(continuation) for continuation in self.continuations)

    @property
    def beginning(self) -> list[int]:
        """The tokens whose logits nobody needs: they may be read elsewhere."""
        return self.ids[: len(self.ids) - self.positions]


def readings(requests: Sequence[tuple[list[int], list[int]]]) -> list[Reading]:
    """One reading for each distinct context + continuation[:-1] of (context, continuation), in order of appearance."""
    found: dict[bytes, Reading] = {}
    for number, (context, continuation) in enumerate(requests):
        ids = context + continuation[:-1]
        reading = found.setdefault(np.asarray(ids, dtype=np.int32).tobytes(), Reading(ids))
        reading.members.append(number)
        reading.continuations.append(continuation)
    return list(found.values())


def score(
    model: Any,
    rotary: WindowedRotaryEmbedding | None,
    batch: Sequence[Reading],
    chunk: int | None,
    begun: Begun | None = None,
) -> list[list[Score]]:
    """For each reading, (log-probability in nats, greedy?) of each of its continuations.

    Rows are right-padded and carry no attention mask: causality already keeps real tokens from seeing the padding,
    and a mask would cost L x L. With ``chunk``, columns are read in pieces of that many tokens over a KV cache. With
    ``begun``, only what follows each row's prefix is read (L columns then begin there).

    Raises :class:`BackendError` for logits that are not finite.
    """
    forget_lengths(model)
    starts = begun.starts if begun else [0] * len(batch)
    ids_BL = padded([reading.ids[start:] for reading, start in zip(batch, starts, strict=True)], model.device)
    width = ids_BL.shape[1]
    step = min(chunk or width, width)
    cache = DynamicCache(config=model.config) if step < width else None
    if begun:
        cache = begun.fork(keep=step < width)
    wanted = [_queries(row, reading, starts[row]) for row, reading in enumerate(batch)]
    asked = sorted({query for continuations in wanted for queries in continuations for query in queries})
    answers: dict[_Query, Score] = {}
    with torch.no_grad(), rotary.window([len(r.ids) for r in batch]) if rotary else nullcontext():
        for start in range(0, width, step):
            queries = [query for query in asked if start <= query.column < start + step]
            places = sorted({(query.row, query.column) for query in queries})
            stop = min(start + step, width)
            inputs = {} if cache is None else {"position_ids": torch.arange(start, stop, device=ids_BL.device)[None]}
            if begun:
                inputs = begun.inputs(start, stop)
            logits_NV = logits_at(
                model, ids_BL[:, start:stop], [(row, column - start) for row, column in places], cache, inputs
            )
            # Not log_softmax: that would copy the logits, and in float32 on a CPU it is ten times less exact.
            norm_N = torch.logsumexp(logits_NV, dim=-1)
            if not bool(norm_N.isfinite().all()):
                row, column = places[int((~norm_N.isfinite()).int().argmax())]
                raise not_finite(batch[row].members[0], starts[row] + column + 1)
            at = [bisect_left(places, (query.row, query.column)) for query in queries]
            values = (logits_NV[at, [query.token for query in queries]] - norm_N[at]).tolist()
            best_N = logits_NV.argmax(dim=-1).tolist()
            for query, value, place in zip(queries, values, at, strict=True):
                answers[query] = value, best_N[place] == query.token
    return [
        [(sum(answers[q][0] for q in queries), all(answers[q][1] for q in queries)) for queries in continuations]
        for continuations in wanted
    ]


class _Query(NamedTuple):
    """The log-probability of ``token`` after column ``column`` of row ``row``."""

    row: int
    column: int
    token: int


def _queries(row: int, reading: Reading, start: int) -> list[list[_Query]]:
    """For each continuation of a row whose first ``start`` tokens are read elsewhere, one query a token."""
    end = len(reading.ids) - start
    return [
        [_Query(row, end - len(tokens) + i, token) for i, token in enumerate(tokens)]
        for tokens in reading.continuations
    ]
