"""The Hugging Face backend: lm-eval's ``HFLM`` with the window rule of D6, exact batches and bounded memory."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from lm_eval.models.huggingface import HFLM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from lr2eval.backends.batching import (
    MAX_ROWS,
    BatchLimits,
    Footprint,
    free_memory,
    pack,
    plan_generation,
    run_split,
    smallest_chunk_needed,
)
from lr2eval.backends.generation import Decoder, Decoding, Extend, Extension, Row, Side, decode_rows
from lr2eval.backends.loading import eos_ids, keep_cache, load_model, quiet
from lr2eval.backends.prefix.cache import Kept, can_share
from lr2eval.backends.requests import RequestSide
from lr2eval.backends.scorer import Scorer
from lr2eval.backends.scoring import Score, readings
from lr2eval.benchmark import ResponseDetail, Truncation, WindowPolicy
from lr2eval.errors import CheckpointError
from lr2eval.method.rope.windowed import install_rope
from lr2eval.model.checkpoint import Checkpoint
from lr2eval.model.tokenizer import PromptTokenizer

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance


class WindowedHFLM(RequestSide, HFLM):  # type: ignore[misc]  # lm-eval is untyped here
    """A checkpoint folder behind lm-eval's interface; implements :class:`lr2eval.backends.Backend`.

    Every call plans its own requests, so it may get a planned batch or a whole shard.

    Args:
        checkpoint: the checked folder (:meth:`Checkpoint.open`).
        dtype: torch dtype name; ``auto`` is the checkpoint's own.
        device: ``cuda`` if there is one, else ``cpu``, unless given.
        batch_size: rows of a batch at most, or ``auto`` (at most 64 rows and a budget of tokens). Memory bounds both.
        max_length: the window in tokens; by default the checkpoint's.
        window_policy: ``exact`` lets a prompt of at most ``Lt`` tokens start under the short factors and changes over
            when it outgrows them; ``budget`` starts long when prompt + new tokens would exceed ``Lt``.
        truncation: ``middle`` cuts the middle out of prompts that are too long. Otherwise one that gets here raises.
        prefill_chunk: read prompts in pieces of so many tokens; by default only those that do not fit in one piece.
        memory_limit: bytes a batch may take beside the weights; by default most of what is free.
        trust_remote_code: run Python code from the checkpoint folder.
        chat: the prompts are rendered with the chat template; checks that there is one.

    Raises :class:`CheckpointError` for a checkpoint that does not load whole, has no usable tokenizer, or is longrope
    without a rotary module of the known kind.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        dtype: str = "auto",
        device: str | None = None,
        batch_size: int | str = "auto",
        max_length: int | None = None,
        window_policy: WindowPolicy = "exact",
        truncation: Truncation = "error",
        prefill_chunk: int | None = None,
        memory_limit: int | None = None,
        trust_remote_code: bool = False,
        chat: bool = False,
    ) -> None:
        with quiet():
            prompts = PromptTokenizer.load(checkpoint.folder, chat=chat)
            device = device or ("cuda" if torch.cuda.is_available() else "cpu")
            model = load_model(checkpoint, checkpoint.dtype if dtype == "auto" else dtype, device, trust_remote_code)
            super().__init__(
                pretrained=model,
                backend="causal",
                tokenizer=prompts.tokenizer,
                max_length=max_length or checkpoint.window,
                batch_size=MAX_ROWS if batch_size == "auto" else int(batch_size),
            )
        try:
            rotary = install_rope(model)
        except ValueError as error:
            raise CheckpointError(f"{checkpoint.folder}: {error}; use another --backend") from error
        keep_cache(model)
        self.checkpoint = checkpoint
        self.model_seconds = 0.0
        self._policy = window_policy
        self._prefill_chunk = prefill_chunk
        self.memory_limit = memory_limit  # of a batch; a worker is told what holds for all
        self._auto = batch_size == "auto"
        self._footprint = Footprint.of(model.config.get_text_config(), model.dtype.itemsize)
        self._rotary = rotary
        self._kept = Kept() if can_share(model) else None
        self._decoder = Decoder(model, self.tokenizer, rotary, eos_ids(model, self.tokenizer), self._kept is not None)
        self.limit = int(self.max_length)
        self._free: int | None = None
        if self.device.type == "cuda":
            # cuDNN makes a plan for every length, so each new token would wait for one; the other kernels do not.
            torch.backends.cuda.enable_cudnn_sdp(False)
            # Once: beginnings that are kept must not make later plans smaller than those of a resumed run.
            self._free = free_memory(self.device)
        self._begin(prompts, truncation)

    def plan(self, request_type: str, requests: list[Instance]) -> list[list[int]]:
        """Batches of request numbers; see :class:`lr2eval.backends.Backend`."""
        if request_type == "generate_until":
            return self._plan_rows(*self._prompts(requests))
        if request_type == "loglikelihood":
            found = readings([self._fit_pair(n, pair) for n, pair in enumerate(self._pairs(requests))])
            plan = self._scorer.plan(found)
            return [[n for family in batch for i in family.members for n in found[i].members] for batch in plan]
        lengths, limits = self.measure(request_type, requests), self._limits
        return pack(
            lengths, [0] * len(lengths), lambda batch: limits.allow(len(batch), len(batch) * lengths[batch[0]], 0)
        )

    # Generation

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Answers cut before the first stop string. Raises :class:`BackendError` (length, memory, NaN logits)."""
        if self._kept is not None:
            self._kept.drop()
        rows, decodings = self._prompts(requests)
        original = self._rotary.scaling.original_window if self._rotary else None
        cut = [len(self._prompt(r.args[0])) - len(row.prompt) for r, row in zip(requests, rows, strict=True)]
        answers = [""] * len(rows)
        details = [ResponseDetail()] * len(rows)
        for batch in self._plan_rows(rows, decodings):
            members, decoding = [rows[i] for i in batch], decodings[batch[0]]
            long_first = self._starts_long(members[0], decoding)
            sides = decode_rows(
                members, decoding, self._extend(decoding), original_window=original, long_first=long_first
            )
            for row, side in zip(members, sides, strict=True):
                text = self.tok_decode(row.tokens)
                answers[row.number] = decoding.cut(text)
                stopped = row.finished or answers[row.number] != text
                details[row.number] = ResponseDetail(
                    prompt_tokens=len(row.prompt),
                    new_tokens=len(row.tokens),
                    window=side,
                    finish="stop" if stopped else "length",
                    truncated_tokens=cut[row.number],
                )
        self._details = details
        return answers

    def _extend(self, decoding: Decoding) -> Extend:
        """:meth:`Decoder.extend` within memory: rows in parts and prompts in pieces as it must be."""

        def extend(rows: Sequence[Row], ends: Sequence[int], window: int) -> list[Extension]:
            def run(part: Sequence[tuple[Row, int]], chunk: int | None) -> list[Extension]:
                members, last = [row for row, _ in part], [end for _, end in part]
                with self._clock():
                    return self._decoder.extend(members, decoding, last, window=window, chunk=chunk)

            def cost(chunk: int | None) -> int:
                new = max(ends) - longest
                return self._footprint.generating(decoding.beams, longest, new, padded=False, chunk=chunk)

            longest = max(len(row) for row in rows)
            pairs = list(zip(rows, ends, strict=True))
            return run_split(pairs, run, chunk=self._chunk(longest, cost), length=lambda pair: len(pair[0]))

        return extend

    def _starts_long(self, row: Row, decoding: Decoding) -> bool:
        if self._rotary is None:
            return False
        final = len(row) + (decoding.new_tokens if self._policy == "budget" else 0)
        return final > self._rotary.scaling.original_window

    def _plan_rows(self, rows: Sequence[Row], decodings: Sequence[Decoding]) -> list[list[int]]:
        groups = [
            json.dumps([d.stops, d.new_tokens, dict(d.extra), self._starts_long(row, d)], sort_keys=True, default=str)
            for row, d in zip(rows, decodings, strict=True)
        ]
        prompts = [(len(row), d.new_tokens, d.beams) for row, d in zip(rows, decodings, strict=True)]
        return plan_generation(prompts, groups, self._footprint, self._limits, shares=self._kept is not None)

    # Log-likelihood

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[Score]:
        """(log-probability in nats, greedy?) per request. Raises :class:`BackendError` (length, memory, NaN logits)."""
        pairs = self._pairs(requests)
        return self._loglikelihood_tokens(
            [(request.args, *pair) for request, pair in zip(requests, pairs, strict=True)], disable_tqdm=disable_tqdm
        )

    def _loglikelihood_tokens(
        self,
        requests: Sequence[tuple[Any, list[int], list[int]]],
        disable_tqdm: bool = False,
        override_bs: int | None = None,
    ) -> list[Score]:
        pairs = [(context, continuation) for _, context, continuation in requests]
        fitted = [self._fit_pair(number, pair) for number, pair in enumerate(pairs)]
        found = readings(fitted)
        scores: dict[int, Score] = {}
        scorer = self._scorer
        for batch in scorer.plan(found):
            members = [found[i] for family in batch for i in family.members]
            with self._clock():
                results = scorer.score(found, batch)
            for reading, values in zip(members, results, strict=True):
                scores.update(zip(reading.members, values, strict=True))
        self._details = [
            ResponseDetail(
                prompt_tokens=len(context) + len(continuation),
                window=self._side(len(context) + len(continuation) - 1),
                finish="choice",
                truncated_tokens=len(whole[0]) - len(context),
            )
            for whole, (context, continuation) in zip(pairs, fitted, strict=True)
        ]
        return [scores[number] for number in range(len(requests))]

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Log-probability in nats of each text, read in disjoint windows of at most ``limit`` tokens."""
        windows = []
        owners = []
        for number, request in enumerate(requests):
            parts = get_rolling_token_windows(
                token_list=self.tok_encode(request.args[0]),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.limit,
                context_len=1,
            )
            for part in parts:
                windows.append((None, *make_disjoint_window(part)))
                owners.append(number)
        totals = [0.0] * len(requests)
        for owner, (value, _) in zip(owners, self._loglikelihood_tokens(windows), strict=True):
            totals[owner] += value
        lengths = [len(self.tok_encode(request.args[0])) for request in requests]
        # A text of several windows fills each of them, the last one with context.
        self._details = [
            ResponseDetail(prompt_tokens=n, window=self._side(min(n, self.limit)), finish="choice") for n in lengths
        ]
        return totals

    @property
    def _scorer(self) -> Scorer:
        side = self._side
        return Scorer(self.model, self._rotary, self._footprint, self._limits, self._prefill_chunk, self._kept, side)

    # Shared

    @property
    def _limits(self) -> BatchLimits:
        batch_size = "auto" if self._auto else self.batch_size
        return BatchLimits.of(batch_size, self.device.type, self._memory, self._prefill_chunk)

    @property
    def _memory(self) -> int:
        return self.memory_limit or self._free or free_memory(self.device)

    def _chunk(self, length: int, cost: Callable[[int | None], int]) -> int | None:
        return self._prefill_chunk or smallest_chunk_needed(length, self._memory, cost)

    def _side(self, tokens: int) -> Side:
        """The window of one forward over ``tokens`` tokens."""
        if self._rotary is None:
            return "only"
        return "long" if tokens > self._rotary.scaling.original_window else "short"

    @contextmanager
    def _clock(self) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self.model_seconds += time.perf_counter() - started
