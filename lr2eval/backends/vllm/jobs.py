"""Turn requests into parameters for vLLM, and its replies into answers. Does not import vLLM."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from lr2eval.backends.generation import Decoding, not_finite
from lr2eval.backends.scoring import Reading, Score

MOST_TOKENS = 128
"""The most chosen tokens of which vLLM returns log-probabilities."""
_SAMPLING = {
    "temperature", "top_p", "top_k", "min_p", "min_tokens", "repetition_penalty", "presence_penalty",
    "frequency_penalty", "seed",
}  # fmt: skip


def decoding_params(decoding: Decoding, new_tokens: int, eos_ids: Sequence[int], *, seed: int) -> dict[str, Any]:
    """``SamplingParams`` for up to ``new_tokens`` tokens. Stop strings work as in the HF backend.

    Raises :class:`BackendError` for settings of ``generate`` that vLLM lacks (beam search and the like).
    """
    extra = decoding.stated("vLLM", _SAMPLING, "use --backend hf")
    return {
        **({"seed": seed, **extra} if decoding.sampled else {**extra, "temperature": 0.0}),
        "max_tokens": new_tokens,
        "stop": list(decoding.stops),
        "stop_token_ids": list(eos_ids),
        "skip_special_tokens": False,
        "spaces_between_special_tokens": False,
        "logprobs": 0,  # of the generated token alone: NaN shows only there
    }


def said(output: Any, eos_ids: Sequence[int], number: int) -> tuple[list[int], bool]:
    """(new tokens without EOS, whether EOS or a stop string ended them); raises :class:`BackendError` for NaN."""
    [sequence] = output.outputs
    tokens = list(sequence.token_ids)
    for at, (token, values) in enumerate(zip(tokens, sequence.logprobs, strict=True)):
        if not math.isfinite(values[token].logprob):
            raise not_finite(number, len(output.prompt_token_ids) + at)
    eos = next((at for at, token in enumerate(tokens) if token in eos_ids), None)
    return tokens[:eos], sequence.finish_reason == "stop"


def parts(reading: Reading) -> list[Reading]:
    """The reading, split so that each part asks for at most :data:`MOST_TOKENS` tokens; almost always one part."""
    return [
        Reading(reading.ids, reading.members[at : at + MOST_TOKENS], reading.continuations[at : at + MOST_TOKENS])
        for at in range(0, len(reading.members), MOST_TOKENS)
    ]


def reading_params(reading: Reading) -> dict[str, Any]:
    """One generated token, and the log-probabilities of every token that a continuation ends with.

    This covers a one-token choice of any rank, and its prompt may come from the prefix cache. Only a longer
    continuation needs log-probabilities inside the prompt, for which vLLM must compute the whole prompt.
    """
    last = sorted({continuation[-1] for continuation in reading.continuations})
    params: dict[str, Any] = {"temperature": 0.0, "max_tokens": 1, "detokenize": False, "logprob_token_ids": last}
    return params | ({"prompt_logprobs": 0} if reading.positions > 1 else {})


def reading_scores(reading: Reading, output: Any) -> list[Score]:
    """(log-probability in nats, greedy?) of each continuation; raises :class:`BackendError` for NaN."""
    [sequence] = output.outputs
    final, best = sequence.logprobs[0], sequence.token_ids[0]
    scores = []
    for number, continuation in zip(reading.members, reading.continuations, strict=True):
        first = len(reading.ids) - len(continuation) + 1
        inner = [output.prompt_logprobs[first + i][token] for i, token in enumerate(continuation[:-1])]
        value = sum(each.logprob for each in inner) + final[continuation[-1]].logprob
        if not math.isfinite(value):
            raise not_finite(number, len(reading.ids))
        scores.append((value, all(each.rank == 1 for each in inner) and best == continuation[-1]))
    return scores
