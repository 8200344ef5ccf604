"""Log-likelihoods with logits at the needed positions only.

Shape suffixes: B rows, L columns (right-padded), H hidden width, N needed positions of the batch, V vocabulary.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import DynamicCache

from lr2eval.backends._generation import not_finite
from lr2eval.method.windowed import WindowedRotaryEmbedding

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
    model: Any, rotary: WindowedRotaryEmbedding | None, batch: Sequence[Reading], chunk: int | None
) -> list[list[Score]]:
    """For each reading, (log-probability in nats, greedy?) of each of its continuations.

    Rows are right-padded and carry no attention mask: causality already keeps real tokens from seeing the padding,
    and a mask would cost L x L. With ``chunk``, columns are read in pieces of that many tokens over a KV cache.

    Raises :class:`BackendError` for logits that are not finite.
    """
    lengths = [len(reading.ids) for reading in batch]
    width = max(lengths)
    ids_BL = torch.zeros((len(batch), width), dtype=torch.int64)
    for row, reading in enumerate(batch):
        ids_BL[row, : lengths[row]] = torch.tensor(reading.ids)
    ids_BL = ids_BL.to(model.device)
    step = min(chunk or width, width)
    cache = DynamicCache(config=model.config) if step < width else None
    asked = sorted({query for row, reading in enumerate(batch) for query in _queries(row, reading)})
    answers: dict[_Query, Score] = {}
    with torch.no_grad(), rotary.window(lengths) if rotary else nullcontext():
        for start in range(0, width, step):
            queries = [query for query in asked if start <= query.column < start + step]
            places = sorted({(query.row, query.column) for query in queries})
            logits_NV = _logits_at(model, ids_BL[:, start : start + step], start, places, cache)
            # Not log_softmax: that would copy the logits, and in float32 on a CPU it is ten times less exact.
            norm_N = torch.logsumexp(logits_NV, dim=-1)
            if not bool(norm_N.isfinite().all()):
                row, column = places[int((~norm_N.isfinite()).int().argmax())]
                raise not_finite(batch[row].members[0], column + 1)
            at = [bisect_left(places, (query.row, query.column)) for query in queries]
            tokens = [query.token for query in queries]
            values = (logits_NV[at, tokens] - norm_N[at]).tolist()
            best_N = logits_NV.argmax(dim=-1).tolist()
            for query, value, place in zip(queries, values, at, strict=True):
                answers[query] = value, best_N[place] == query.token
    return [
        [_total([answers[query] for query in _targets(row, reading, tokens)]) for tokens in reading.continuations]
        for row, reading in enumerate(batch)
    ]


class _Query(NamedTuple):
    """The log-probability of ``token`` after column ``column`` of row ``row``."""

    row: int
    column: int
    token: int


def _targets(row: int, reading: Reading, continuation: Sequence[int]) -> list[_Query]:
    first = len(reading.ids) - len(continuation)
    return [_Query(row, first + i, token) for i, token in enumerate(continuation)]


def _queries(row: int, reading: Reading) -> Iterator[_Query]:
    for continuation in reading.continuations:
        yield from _targets(row, reading, continuation)


def _total(answers: Sequence[Score]) -> Score:
    return sum(value for value, _ in answers), all(greedy for _, greedy in answers)


def _logits_at(
    model: Any, ids_BL: torch.Tensor, start: int, places: Sequence[tuple[int, int]], cache: DynamicCache | None
) -> torch.Tensor:
    """float32 logits_NV after the given (row, column) places of one chunk that begins at column ``start``.

    A hook in front of the output embedding hands it the needed hidden states alone, so that the model's own head (with
    its scaling or soft cap) runs on N positions instead of B x L. Works for every model that has an output embedding;
    where the hook is never called, all logits were made and the needed ones are taken.
    """
    rows_N = torch.tensor([row for row, _ in places], dtype=torch.int64, device=ids_BL.device)
    columns_N = torch.tensor([column - start for _, column in places], dtype=torch.int64, device=ids_BL.device)
    fired = []

    def pick(module: Any, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        hidden_BLH, *rest = args
        fired.append(True)
        return hidden_BLH[rows_N, columns_N][None], *rest

    head = model.get_output_embeddings()
    hook = head.register_forward_pre_hook(pick) if head is not None else None
    try:
        if cache is None:
            logits = model(ids_BL, use_cache=False).logits
        else:
            columns_1L = torch.arange(start, start + ids_BL.shape[1], device=ids_BL.device)[None]
            logits = model(ids_BL, position_ids=columns_1L, past_key_values=cache, use_cache=True).logits
    finally:
        if hook is not None:
            hook.remove()
    return (logits[0] if fired else logits[rows_N, columns_N]).float()
