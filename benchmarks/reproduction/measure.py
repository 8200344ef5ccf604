"""Questions to a model, and which of them it answers: the most likely token at every token of the answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

BATCH_TOKENS = 2048


@dataclass(frozen=True)
class Test:
    """A document with questions in it. ``asked``: places of each answer's tokens; ``depths``: share of the text in
    front of what is asked for, one per question, or none where nothing is to be found."""

    __test__ = False  # no test of pytest's

    ids: np.ndarray
    asked: tuple[tuple[int, ...], ...]
    depths: tuple[float, ...] = ()


@torch.no_grad()
def answered(model: Any, tests: Sequence[Test]) -> np.ndarray:
    """``(questions,)`` 1 where every token of the answer is the most likely one; tests of equal length in one batch."""
    right: list[float] = []
    at = 0
    while at < len(tests):
        length = len(tests[at].ids)
        most = max(1, BATCH_TOKENS // length)
        batch = [tests[at]]
        while len(batch) < most and at + len(batch) < len(tests) and len(tests[at + len(batch)].ids) == length:
            batch.append(tests[at + len(batch)])
        at += len(batch)
        ids_BL = torch.from_numpy(np.stack([test.ids for test in batch]))
        best_BL = model(input_ids=ids_BL, use_cache=False).logits.argmax(-1).numpy()
        for test, best_L in zip(batch, best_BL, strict=True):
            right += [float(all(best_L[place - 1] == test.ids[place] for place in answer)) for answer in test.asked]
    return np.array(right)
