"""Decoding one batch through ``model.generate``, window by window (design D6).

Shape suffixes: B rows, L columns (left padding, prompt, new tokens), V vocabulary.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs, postprocess_generated_text
from torch.nn.utils.rnn import pad_sequence
from transformers import Cache, LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from lr2eval.backends.abilities import forget_lengths
from lr2eval.backends.loading import quiet
from lr2eval.backends.prefix.cache import roomy
from lr2eval.backends.prefix.walk import prefill, worthwhile
from lr2eval.base.ids import digest
from lr2eval.errors import BackendError, first_line
from lr2eval.method.rope.windowed import WindowedRotaryEmbedding

DEFAULT_NEW_TOKENS = 256
"""lm-eval's default for tasks that do not set it."""
_SAMPLING: dict[str, Any] = {"temperature": 1.0, "top_p": 1.0, "top_k": 0}
"""Settings of sampling with the values that change nothing. They are stated, since engines have other defaults."""
_ONLY_SAMPLING = {*_SAMPLING, "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff"}
_PLAIN = {"do_sample", *_SAMPLING}
"""Settings under which we fill the cache; with any other (beams, a penalty) prompts are prefilled as a batch."""
_OFF = {"top_k": 0, "num_beams": 1, "no_repeat_ngram_size": 0}
_SUPPORTED = _PLAIN | _ONLY_SAMPLING | {
    "num_beams", "length_penalty", "early_stopping", "repetition_penalty", "no_repeat_ngram_size", "min_new_tokens",
    "bad_words_ids", "sequence_bias", "suppress_tokens", "begin_suppress_tokens", "forced_eos_token_id",
    "exponential_decay_length_penalty", "renormalize_logits", "remove_invalid_values",
}  # fmt: skip
"""What transformers may be asked for. Its other settings change the shape of the result, the cache or the length."""


@dataclass(frozen=True)
class Decoding:
    """The generation settings of a request. ``extra`` states all that differs from greedy decoding."""

    stops: tuple[str, ...]
    new_tokens: int
    extra: Mapping[str, Any]

    @classmethod
    def parse(cls, raw: Mapping[str, Any], eos: str | None) -> Decoding:
        """From lm-eval's generation kwargs; greedy unless they ask for sampling. The EOS text is a stop string.

        Settings that only sampling reads are dropped from greedy requests. Raises :class:`BackendError`.
        """
        try:
            stated = {key: value for key, value in raw.items() if value is not None}
            kwargs: dict[str, Any] = dict(normalize_gen_kwargs(stated, DEFAULT_NEW_TOKENS))
            for key, least in {"num_beams": 1, "top_k": 0}.items():
                if key in kwargs:
                    kwargs[key] = max(least, int(kwargs[key]))
        except (TypeError, ValueError) as error:
            raise BackendError(f"generation_kwargs: {first_line(error)}; correct the task") from error
        stops = handle_stop_sequences(kwargs.pop("until"), eos=eos)
        if "max_length" in kwargs:
            raise BackendError("generation_kwargs: max_length counts the padding of a batch; use max_gen_toks instead")
        kwargs["do_sample"] = bool(kwargs["do_sample"] and kwargs.get("temperature", 1.0))
        if kwargs["do_sample"]:
            kwargs = _SAMPLING | kwargs
        else:
            kwargs = {key: value for key, value in kwargs.items() if key not in _ONLY_SAMPLING}
        new_tokens = kwargs.pop("max_gen_toks")
        if new_tokens < 1:
            raise BackendError(f"generation_kwargs: max_gen_toks is {new_tokens}; ask for at least one token")
        return cls(tuple(stop for stop in stops if stop), new_tokens, kwargs)

    @property
    def sampled(self) -> bool:
        """Whether tokens are drawn at random."""
        return bool(self.extra["do_sample"])

    def stated(self, engine: str, supported: Collection[str], hint: str) -> dict[str, Any]:
        """The settings that an engine must be told. Raises :class:`BackendError` for those it does not support."""
        found = {key: value for key, value in self.extra.items() if key not in _OFF or value != _OFF[key]}
        found.pop("do_sample")
        if unknown := sorted(found.keys() - supported):
            raise BackendError(f"generation_kwargs: {engine} does not support {', '.join(unknown)}; {hint}")
        return found

    @contextmanager
    def blamed(self) -> Iterator[None]:
        """What transformers refuses is a :class:`BackendError` that names the settings, if there are any."""
        try:
            yield
        except (TypeError, ValueError) as error:
            if len(self.extra) == 1:
                raise
            raise BackendError(
                f"generation_kwargs: transformers cannot decode with {dict(self.extra)} ({first_line(error)}); correct "
                "the task or --set generation"
            ) from error

    @property
    def beams(self) -> int:
        return int(self.extra.get("num_beams", 1))

    def cut(self, text: str) -> str:
        """The text before its first stop string."""
        return str(postprocess_generated_text(text, list(self.stops), None))


Side = Literal["only", "short", "long", "short->long"]


@dataclass
class DecodingRow:
    """A prompt and its answer so far. ``tokens`` are the new tokens, without EOS."""

    number: int
    prompt: list[int]
    decoding: Decoding
    truncated: int = 0
    """Tokens that were cut out of the middle of the prompt."""
    tokens: list[int] = field(default_factory=list)
    finished: bool = False
    """The model said EOS or a stop string."""
    side: Side = "only"

    def __len__(self) -> int:
        return len(self.prompt) + len(self.tokens)

    @property
    def end(self) -> int:
        """Tokens of prompt and longest answer together."""
        return len(self.prompt) + self.decoding.new_tokens

    @property
    def ended(self) -> bool:
        return self.finished or len(self) >= self.end

    def advance(self, tokens: Sequence[int], finished: bool, side: Side) -> None:
        """Append what the model said on one side of the window."""
        self.side = "short->long" if side == "long" and self.tokens else side
        self.tokens = [*self.tokens, *tokens]
        self.finished = finished


Extension = tuple[list[int], bool]
"""A row's next tokens, and whether EOS or a stop string ended it."""


@dataclass(frozen=True)
class Decoder:
    """A loaded model with what decoding needs of its tokenizer. ``rotary`` is ``None`` for models with one RoPE."""

    model: Any
    tokenizer: Any
    rotary: WindowedRotaryEmbedding | None
    eos_ids: tuple[int, ...]
    shares: bool
    """Whether rows that begin alike may be prefilled from each other (:class:`Abilities`)."""
    slides: bool = False
    """Whether some layers see only a window. transformers' own cache then forgets what is out of sight."""
    by_row: bool = False
    """Whether prompts are read one by one (:meth:`Abilities.by_row`)."""
    seed: int = 0
    """For tasks that sample: a batch draws the same tokens whenever it has the same rows."""

    def extend(
        self, rows: Sequence[DecodingRow], ends: Sequence[int], *, window: int, chunk: int | None
    ) -> list[Extension]:
        """The next tokens of each row, up to ``ends[i]`` tokens in all, under the factors for ``window`` tokens.

        All rows have the same decoding settings. ``rows`` do not change, so a call that runs out of memory can be
        repeated. Stop strings are searched in all new tokens of a row, including those of earlier calls.

        When half of the rows have ended, the others go on without them.
        """
        decoding = rows[0].decoding
        decoding.stated("lr2eval", _SUPPORTED, "remove it from the task")
        forget_lengths(self.model)
        texts = [row.prompt + row.tokens for row in rows]
        if decoding.sampled:
            torch.manual_seed(int(digest([self.seed, texts])[:15], 16))
        found: list[Extension] = [([], False) for _ in rows]
        rotation = self.rotary.window(window) if self.rotary else nullcontext()
        with torch.no_grad(), quiet(), decoding.blamed(), rotation:
            cache = self._cache(texts, ends, decoding, window, chunk)
            live = list(range(len(rows)))
            while live:
                width = max(len(texts[i]) for i in live)
                more = self._generate([rows[i] for i in live], [texts[i] for i in live], [ends[i] for i in live],
                                      cache, chunk)  # fmt: skip
                for i, (tokens, finished) in zip(live, more, strict=True):
                    texts[i], found[i] = texts[i] + tokens, (found[i][0] + tokens, finished)
                left = [place for place, i in enumerate(live) if not found[i][1] and len(texts[i]) < ends[i]]
                if left:
                    assert cache is not None
                    first = width + len(more[left[0]][0]) - max(len(texts[live[place]]) for place in left)
                    for layer in cache.layers:
                        layer.keep(left, first)
                live = [live[place] for place in left]
        return found

    def _cache(
        self, texts: Sequence[list[int]], ends: Sequence[int], decoding: Decoding, window: int, chunk: int | None
    ) -> Cache | None:
        """A cache with room for the answers, filled if prompts are read one by one; ``None``: transformers' own."""
        if not self.shares or not decoding.extra.keys() <= _PLAIN:
            return None
        width = max(map(len, texts))
        columns = max(width - len(text) + end for text, end in zip(texts, ends, strict=True))
        if len(texts) > 1 and (self.by_row or worthwhile(texts, self.model.device)):
            return prefill(self.model, self.rotary, texts, window, chunk, columns)
        return None if self.slides else roomy(columns)

    def _generate(
        self,
        rows: Sequence[DecodingRow],
        texts: Sequence[list[int]],
        ends: Sequence[int],
        cache: Cache | None,
        chunk: int | None,
    ) -> list[Extension]:
        """The tokens after ``texts``, of which ``cache`` may hold all columns but the last."""
        decoding = rows[0].decoding
        width = max(map(len, texts))
        pads = [width - len(text) for text in texts]
        ids_BL = pad_sequence([torch.tensor(text) for text in texts], True, self.tokenizer.pad_token_id, "left")
        mask_BL = (torch.arange(width) >= torch.tensor(pads)[:, None]).long()
        columns = [pad + end for pad, end in zip(pads, ends, strict=True)]
        starts = [pad + len(row.prompt) for pad, row in zip(pads, rows, strict=True)]
        halve = cache is not None and not decoding.sampled
        stop = _RowEnds(self.tokenizer, decoding.stops, starts, columns, self.eos_ids if halve else None)
        read = cache is not None and cache.get_seq_length() > 0
        out_BL = self.model.generate(
            ids_BL.to(self.model.device),
            attention_mask=mask_BL.to(self.model.device),
            max_new_tokens=max(columns) - width,
            pad_token_id=self.tokenizer.pad_token_id,
            eos_token_id=list(self.eos_ids) or None,
            use_cache=True,
            past_key_values=cache,
            prefill_chunk_size=chunk if chunk and chunk < width and not read else None,
            disable_compile=True,  # a static cache would have every width compiled
            stopping_criteria=StoppingCriteriaList([stop]),
            logits_processor=LogitsProcessorList([_FiniteLogits([row.number for row in rows], pads)]),
            **decoding.extra,
        ).cpu()
        results = []
        for i, column in enumerate(columns):
            end = stop.stopped.get(i, column)
            tokens = out_BL[i, width:end].tolist()
            eos = next((at for at, token in enumerate(tokens) if token in self.eos_ids), None)
            results.append((tokens[:eos], eos is not None or i in stop.stopped))
        return results


@dataclass(eq=False)
class _RowEnds(StoppingCriteria):  # type: ignore[misc]  # transformers is untyped here
    """Ends each row by itself: at its last column, or when its new text holds a stop string.

    A stop string is searched in the last tokens of a row, one token for each byte of the string: every tokenisation of
    it is found. ``stopped`` tells at which width a row's stop string was complete (not for beams: their rows trade
    places).

    With ``eos_ids``, all rows end as soon as half of them have.
    """

    tokenizer: Any
    stops: Sequence[str]
    starts: Sequence[int]
    columns: Sequence[int]
    eos_ids: Sequence[int] | None = None
    stopped: dict[int, int] = field(default_factory=dict)
    _said_eos: set[int] = field(default_factory=set)

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        width = input_ids.shape[1]
        back = max((len(stop.encode()) for stop in self.stops), default=0) + 2
        beams = len(input_ids) // len(self.starts)
        done = []
        for i, recent in enumerate(input_ids[:, -back:].tolist()):
            row = i // beams
            hit = False
            if self.stops and i not in self.stopped and i not in self._said_eos and width <= self.columns[row]:
                text = self.tokenizer.decode(recent[-(width - self.starts[row]) :])
                hit = any(stop in text for stop in self.stops)
            if hit and beams == 1:
                self.stopped[i] = width
            done.append(hit or i in self.stopped or width >= self.columns[row])
            if self.eos_ids is not None and recent[-1] in self.eos_ids:
                self._said_eos.add(i)
        if self.eos_ids is not None:
            going = sum(not ended and i not in self._said_eos for i, ended in enumerate(done))
            if going <= len(done) // 2:
                done = [True] * len(done)
        return torch.tensor(done, device=input_ids.device)


@dataclass(eq=False)
class _FiniteLogits(LogitsProcessor):  # type: ignore[misc]  # transformers is untyped here
    """Stops a run whose model computes NaN or infinity, before argmax makes a token of it."""

    numbers: Sequence[int]
    pads: Sequence[int]

    def __call__(self, input_ids: torch.Tensor, scores_BV: torch.Tensor) -> torch.Tensor:
        bad_B = ~torch.isfinite(scores_BV.amax(dim=-1))  # NaN and inf surface in a maximum, masked -inf do not
        if bool(bad_B.any()):
            i = int(bad_B.int().argmax()) * len(self.numbers) // len(bad_B)
            raise not_finite(self.numbers[i], input_ids.shape[1] - self.pads[i])
        return scores_BV


def not_finite(number: int, position: int) -> BackendError:
    """The error for NaN or infinite logits after ``position`` tokens of request ``number`` of a call."""
    return BackendError(
        f"request {number}: the model's logits are NaN or infinite after {position:,} tokens; try --dtype float32 (or "
        "bfloat16 instead of float16), and check the checkpoint's weights"
    )
