"""Decoding one batch through ``model.generate``, window by window (design D6).

Shape suffixes: B rows, L columns (left padding, prompt, new tokens), V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs, postprocess_generated_text
from transformers import LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from lr2eval.backends.loading import quiet
from lr2eval.backends.prefix.walk import prefill, worthwhile
from lr2eval.errors import BackendError
from lr2eval.method.rope.windowed import WindowedRotaryEmbedding

DEFAULT_NEW_TOKENS = 256
"""lm-eval's default for tasks that do not say."""
_PLAIN = {"do_sample", "temperature", "top_p", "top_k"}
"""Settings that leave cache and rows to us; with any other (beams, another cache) prompts are prefilled as a batch."""


@dataclass(frozen=True)
class Decoding:
    """The generation settings of a request: stop strings, new tokens, and what goes to ``generate`` unchanged."""

    stops: tuple[str, ...]
    new_tokens: int
    extra: Mapping[str, Any]

    @classmethod
    def parse(cls, raw: Mapping[str, Any], eos: str | None) -> Decoding:
        """From lm-eval's generation kwargs; greedy unless they ask for sampling. The EOS text is a stop string."""
        kwargs: dict[str, Any] = dict(normalize_gen_kwargs(dict(raw), DEFAULT_NEW_TOKENS))
        stops = handle_stop_sequences(kwargs.pop("until"), eos=eos)
        if "max_length" in kwargs:
            raise BackendError("generation_kwargs: max_length counts the padding of a batch; use max_gen_toks instead")
        if not kwargs["do_sample"]:
            kwargs.pop("temperature", None)
        new_tokens = kwargs.pop("max_gen_toks")
        if new_tokens < 1:
            raise BackendError(f"generation_kwargs: max_gen_toks is {new_tokens}; ask for at least one token")
        return cls(tuple(stop for stop in stops if stop), new_tokens, kwargs)

    @property
    def beams(self) -> int:
        return int(self.extra.get("num_beams", 1))

    def cut(self, text: str) -> str:
        """The text before its first stop string."""
        return str(postprocess_generated_text(text, list(self.stops), None))


Side = Literal["only", "short", "long", "short->long"]


@dataclass
class Row:
    """One request on its way: ``tokens`` are the new ones so far, without EOS."""

    number: int
    prompt: list[int]
    tokens: list[int] = field(default_factory=list)
    finished: bool = False
    """EOS or a stop string was said."""

    def __len__(self) -> int:
        return len(self.prompt) + len(self.tokens)


Extension = tuple[list[int], bool]
"""A row's next tokens, and whether it finished by EOS or a stop string."""
Extend = Callable[[Sequence[Row], Sequence[int], int], list[Extension]]


@dataclass(frozen=True)
class Decoder:
    """A loaded model with what decoding needs of its tokenizer. ``rotary`` is ``None`` for models with one RoPE."""

    model: Any
    tokenizer: Any
    rotary: WindowedRotaryEmbedding | None
    eos_ids: tuple[int, ...]
    shares: bool
    """Whether rows that begin alike may be prefilled from each other (:func:`can_share`)."""

    def extend(
        self, rows: Sequence[Row], decoding: Decoding, ends: Sequence[int], *, window: int, chunk: int | None
    ) -> list[Extension]:
        """Continue each row up to ``ends[i]`` tokens (prompt included), all under the factors for ``window`` tokens.

        ``rows`` are not changed, so that a call that ran out of memory can be repeated. Stop strings are looked for in
        all new tokens of a row, those of earlier calls included. Rows that begin alike are read on from each other.
        """
        texts = [row.prompt + row.tokens for row in rows]
        begun: dict[str, Any] = {"prefill_chunk_size": chunk if chunk and chunk < max(map(len, texts)) else None}
        if self.shares and decoding.extra.keys() <= _PLAIN and worthwhile(texts, self.model.device):
            begun = {"past_key_values": prefill(self.model, self.rotary, texts, window, chunk)}
        width = max(len(row) for row in rows)
        ids_BL = torch.full((len(rows), width), self.tokenizer.pad_token_id, dtype=torch.int64)
        mask_BL = torch.zeros((len(rows), width), dtype=torch.int64)
        pads = [width - len(row) for row in rows]
        for i in range(len(rows)):
            ids_BL[i, pads[i] :] = torch.tensor(texts[i])
            mask_BL[i, pads[i] :] = 1
        columns = [pad + end for pad, end in zip(pads, ends, strict=True)]
        stop = _RowEnds(self.tokenizer, decoding.stops, [width - len(row.tokens) for row in rows], columns)
        with torch.no_grad(), quiet(), self.rotary.window(window) if self.rotary else nullcontext():
            out_BL = self.model.generate(
                ids_BL.to(self.model.device),
                attention_mask=mask_BL.to(self.model.device),
                max_new_tokens=max(columns) - width,
                pad_token_id=self.tokenizer.pad_token_id,
                eos_token_id=list(self.eos_ids) or None,
                disable_compile=True,  # a static cache would have every width compiled
                stopping_criteria=StoppingCriteriaList([stop]),
                logits_processor=LogitsProcessorList([_FiniteLogits([row.number for row in rows], pads)]),
                **begun,
                **decoding.extra,
            ).cpu()
        results = []
        for i, column in enumerate(columns):
            end = stop.stopped.get(i, column)
            tokens = out_BL[i, width:end].tolist()
            eos = next((at for at, token in enumerate(tokens) if token in self.eos_ids), None)
            results.append((tokens[:eos], eos is not None or i in stop.stopped))
        return results


class _RowEnds(StoppingCriteria):  # type: ignore[misc]  # transformers is untyped here
    """Ends each row by itself: at its last column, or when its new text holds a stop string.

    A stop string is searched among the last tokens of a row, as many as the string has bytes, so that no way of
    tokenising it escapes. ``stopped`` tells at which width a row's stop string was complete (not for beams, whose rows
    trade places).
    """

    def __init__(self, tokenizer: Any, stops: Sequence[str], starts: Sequence[int], columns: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        self._stops = stops
        self._starts = starts
        self._columns = columns
        self._back = max((len(stop.encode()) for stop in stops), default=0) + 2
        self.stopped: dict[int, int] = {}

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        width = input_ids.shape[1]
        beams = len(input_ids) // len(self._starts)
        done = []
        for i, recent in enumerate(input_ids[:, -self._back :].tolist()):
            row = i // beams
            hit = False
            if self._stops and i not in self.stopped and width <= self._columns[row]:
                text = self._tokenizer.decode(recent[-(width - self._starts[row]) :])
                hit = any(stop in text for stop in self._stops)
            if hit and beams == 1:
                self.stopped[i] = width
            done.append(hit or i in self.stopped or width >= self._columns[row])
        return torch.tensor(done, device=input_ids.device)


class _FiniteLogits(LogitsProcessor):  # type: ignore[misc]  # transformers is untyped here
    """Stops a run whose model no longer computes numbers, instead of storing what argmax makes of NaN."""

    def __init__(self, numbers: Sequence[int], pads: Sequence[int]) -> None:
        self._numbers = numbers
        self._pads = pads

    def __call__(self, input_ids: torch.Tensor, scores_BV: torch.Tensor) -> torch.Tensor:
        bad_B = ~torch.isfinite(scores_BV.amax(dim=-1))  # NaN and inf surface in a maximum, masked -inf do not
        if bool(bad_B.any()):
            i = int(bad_B.int().argmax()) * len(self._numbers) // len(bad_B)
            raise not_finite(self._numbers[i], input_ids.shape[1] - self._pads[i])
        return scores_BV


def not_finite(number: int, position: int) -> BackendError:
    """The error for NaN or infinite logits after ``position`` tokens of request ``number`` of a call."""
    return BackendError(
        f"request {number}: the model's logits are NaN or infinite after {position:,} tokens; try --dtype float32 (or "
        "bfloat16 instead of float16), and check the checkpoint's weights"
    )


def decode_rows(
    rows: Sequence[Row], decoding: Decoding, extend: Extend, *, original_window: int | None, long_first: bool
) -> list[Side]:
    """Run all rows to their end; returns the window each one used.

    ``extend(rows, ends, window)`` is :meth:`Decoder.extend` with memory care around it. A batch never mixes sides:
    either every prompt is beyond ``Lt`` (or ``long_first``, policy ``budget``), or none is. Short rows run until they
    hold ``Lt + 1`` tokens: the last forward then read ``Lt`` of them. What is left of them is prefilled afresh under
    the long factors, as no cached key may have been rotated by the short ones.

    Raises :class:`BackendError` for a beam search that would cross the window: beams cannot be handed over.
    """
    ends = [len(row) + decoding.new_tokens for row in rows]
    if original_window is None:
        _advance(rows, extend(rows, ends, 0))
        return ["only"] * len(rows)
    short, long = original_window, original_window + 1
    if long_first or any(len(row) >= long for row in rows):
        _advance(rows, extend(rows, ends, long))
        return ["long"] * len(rows)
    if max(ends) > long and decoding.beams > 1:
        raise BackendError(
            f"request {rows[0].number}: a beam search cannot cross the original window of {short} tokens exactly; "
            "choose --window-policy budget"
        )
    _advance(rows, extend(rows, [min(end, long) for end in ends], short))
    crossing = [i for i, row in enumerate(rows) if not row.finished and len(row) < ends[i]]
    if crossing:
        _advance([rows[i] for i in crossing], extend([rows[i] for i in crossing], [ends[i] for i in crossing], long))
    return ["short->long" if i in crossing else "short" for i in range(len(rows))]


def _advance(rows: Sequence[Row], results: Sequence[Extension]) -> None:
    for row, (tokens, finished) in zip(rows, results, strict=True):
        row.tokens += tokens
        row.finished = finished
