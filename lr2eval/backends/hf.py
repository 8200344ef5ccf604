"""The Hugging Face backend: transformers with the window rule of D6, exact batches and bounded memory."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.utils import configure_pad_token

from lr2eval.backends.abilities import Abilities
from lr2eval.backends.batching import BatchLimits, Footprint, free_memory, pack, plan_generation, run_split
from lr2eval.backends.generation import Decoder, DecodingRow, Extension, Side
from lr2eval.backends.loading import keep_cache, load_model, quiet
from lr2eval.backends.prefix.cache import Kept
from lr2eval.backends.requests import Pair, PromptLM
from lr2eval.backends.scorer import Scorer
from lr2eval.backends.scoring import Score, readings
from lr2eval.benchmark import ResponseDetail, Truncation, WindowPolicy
from lr2eval.errors import BackendError, CheckpointError, UsageError
from lr2eval.method.rope.windowed import install_rope
from lr2eval.model.checkpoint import Checkpoint
from lr2eval.model.generation_file import answer_ends
from lr2eval.model.tokenizer import PromptTokenizer


class WindowedHFLM(PromptLM):
    """A checkpoint folder behind lm-eval's interface.

    Every call plans its own requests, so it may get a planned batch or a whole shard.

    Args:
        checkpoint: the checked folder (:meth:`Checkpoint.open`).
        prompts: its tokenizer; by default without chat template.
        dtype: torch dtype name; ``auto`` is :meth:`Checkpoint.fitting_dtype`.
        device: the default is ``cuda`` if there is a GPU, else ``cpu``.
        batch_size: rows of a batch at most, or ``auto`` (at most 64 rows and a budget of tokens). Memory bounds both.
        window, window_policy, truncation: see :class:`PromptLM`; the default window is the checkpoint's.
        prefill_chunk: read prompts in pieces of this many tokens; by default only prompts that do not fit otherwise.
        memory_limit: bytes a batch may take beside the weights; by default most of what is free.
        trust_remote_code: run Python code from the checkpoint folder.
        seed: for tasks that sample.

    Raises :class:`CheckpointError` for a checkpoint that does not load whole, has no usable tokenizer, or is longrope
    without a rotary module of the known kind. Raises :class:`UsageError` for a ``prefill_chunk`` that would change the
    model's answers.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        prompts: PromptTokenizer | None = None,
        *,
        window: int | None = None,
        dtype: str = "auto",
        device: str | None = None,
        batch_size: int | str = "auto",
        window_policy: WindowPolicy = "exact",
        truncation: Truncation = "error",
        prefill_chunk: int | None = None,
        memory_limit: int | None = None,
        trust_remote_code: bool = False,
        seed: int = 0,
    ) -> None:
        with quiet():
            prompts = prompts or PromptTokenizer.load(checkpoint.folder)
            device = device or ("cuda" if torch.cuda.is_available() else "cpu")
            dtype = checkpoint.fitting_dtype(device) if dtype == "auto" else dtype
            model = load_model(checkpoint, dtype, device, trust_remote_code)
            configure_pad_token(prompts.tokenizer, model_config=model.config)
        try:
            rotary = install_rope(model)
        except ValueError as error:
            raise CheckpointError(f"{checkpoint.folder}: {error}; use another --backend") from error
        keep_cache(model)
        super().__init__(
            prompts,
            limit=window or checkpoint.window,
            truncation=truncation,
            original_window=rotary.scaling.original_window if rotary else None,
            window_policy=window_policy,
        )
        self.model = model
        self._device = model.device
        self.memory_limit = memory_limit  # of a batch; the driver tells its workers
        self._batch_size = batch_size
        self._prefill_chunk = prefill_chunk
        self._footprint = Footprint.of(model.config.get_text_config(), model.dtype.itemsize)
        self._rotary = rotary
        self._abilities = Abilities.of(model.config, model)
        unfit = "" if self._abilities.right else "selects tokens by an index or has a cache of its own kind"
        if not unfit and getattr(model.config.get_text_config(), "num_mem_blocks", None):
            # transformers 5.23, in float64: the logits of Zamba 2's first cached token are off by 0.01, later by 0.1.
            unfit = "computes other logits from its cache than from the whole text"
        if rotary and unfit:
            raise CheckpointError(
                f"{checkpoint.folder}: {type(model).__name__} {unfit}, so lr2eval cannot keep the window rule of two "
                "sets of RoPE factors; use another --backend"
            )
        if prefill_chunk and not self._abilities.continues:
            raise UsageError(
                f"--prefill-chunk: {type(model).__name__} cannot read prompts in pieces, because "
                f"{self._abilities.whole}; omit the option"
            )
        self._kept = Kept(model, rotary) if self._abilities.continues else None
        self._pieces: set[int] = set()
        vocabulary = getattr(model.config.get_text_config(), "vocab_size", len(self.tokenizer))
        ends = answer_ends(checkpoint, self.tokenizer.eos_token_id, vocabulary)
        shares, slides = self._kept is not None, not self._abilities.gap
        by_row = self._abilities.by_row(model.device.type)
        self._decoder = Decoder(model, self.tokenizer, rotary, ends, shares, slides, by_row, seed)
        self._free: int | None = None
        if self.device.type == "cuda":
            # cuDNN makes a plan for every length, so each new token would wait for one; the other kernels do not.
            torch.backends.cuda.enable_cudnn_sdp(False)
            # Once: beginnings that are kept must not make later plans smaller than those of a resumed run.
            self._free = free_memory(self.device)

    def plan(self, request_type: str, requests: list[Instance]) -> list[list[int]]:
        """Batches of request numbers, longest first, made from the whole shard; each number stands in one batch."""
        if request_type == "generate_until":
            return self._plan_rows(self._rows(requests))
        if request_type == "loglikelihood":
            found = readings(self._fitted(self._pairs(requests)))
            plan = self._scorer.plan(found)
            return [[n for family in batch for i in family.members for n in found[i].members] for batch in plan]
        lengths, limits = self.measure(request_type, requests), self._limits
        return pack(
            lengths, [0] * len(lengths), lambda batch: limits.allow(len(batch), len(batch) * lengths[batch[0]], 0)
        )

    def take_details(self) -> list[ResponseDetail]:
        """Details of the last call, each with the size of the pieces in which its batch was read."""
        chunk = min(self._pieces, default=0)
        self._pieces.clear()
        return [replace(detail, prefill_chunk=chunk) for detail in super().take_details()]

    # Generation

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Answers cut before the first stop string. Raises :class:`BackendError` (length, memory, NaN logits)."""
        if self._kept is not None:
            self._kept.drop()
        rows = self._rows(requests)
        for batch in self._plan_rows(rows):
            self._decode([rows[i] for i in batch])
        answers = [self._answer(row) for row in rows]
        self._details = [detail for _, detail in answers]
        return [answer for answer, _ in answers]

    def _decode(self, rows: Sequence[DecodingRow]) -> None:
        """Run the rows of a batch, all on the same side of the window, to their end.

        Short rows run until they hold ``Lt + 1`` tokens: the last forward then read ``Lt`` of them. Rows that go on are
        prefilled again under the long factors, because no cached key may have been rotated by the short ones.

        Raises :class:`BackendError` for a beam search that would cross the window: beams cannot be handed over.
        """
        if self._original is None:
            self._extend(rows, "only")
        elif self._starts_long(rows[0]):
            self._extend(rows, "long")
        else:
            beyond = self._original + 1
            if rows[0].decoding.beams > 1 and max(row.end for row in rows) > beyond:
                raise BackendError(
                    f"request {rows[0].number}: a beam search cannot cross the original window of {self._original} "
                    "tokens exactly; choose --window-policy budget"
                )
            self._extend(rows, "short", beyond)
            if crossing := [row for row in rows if not row.ended]:
                self._extend(crossing, "long")

    def _extend(self, rows: Sequence[DecodingRow], side: Side, stop: int | None = None) -> None:
        """Continue rows to their end, or up to ``stop`` tokens in all. Splits what does not fit into memory."""
        ends = [min(row.end, stop or row.end) for row in rows]
        window = 0 if self._original is None else self._original + (side == "long")
        longest, beams = max(map(len, rows)), rows[0].decoding.beams

        def run(part: Sequence[tuple[DecodingRow, int]], chunk: int | None) -> list[Extension]:
            found = self._decoder.extend([r for r, _ in part], [end for _, end in part], window=window, chunk=chunk)
            if chunk and chunk < longest:
                self._pieces.add(chunk)
            return found

        def cost(chunk: int | None) -> int:
            return self._footprint.generating(beams, longest, max(ends) - longest, padded=False, chunk=chunk)

        chunk = self._limits.chunk_for(longest, cost)
        began = time.perf_counter()
        pairs = list(zip(rows, ends, strict=True))
        results = run_split(pairs, run, chunk=chunk, length=lambda pair: len(pair[0]), chunks=self._limits.chunks)
        self.model_seconds += time.perf_counter() - began
        for row, (tokens, finished) in zip(rows, results, strict=True):
            row.advance(tokens, finished, side)

    def _plan_rows(self, rows: Sequence[DecodingRow]) -> list[list[int]]:
        prompts = [(len(row), row.decoding.new_tokens, row.decoding.beams) for row in rows]
        able = self._abilities
        groups = [
            (repr(row.decoding), self._starts_long(row), able.company(len(row), row.end), able.alone and number)
            for number, row in enumerate(rows)
        ]
        shares, by_row = self._decoder.shares, self._decoder.by_row
        return plan_generation(prompts, groups, self._footprint, self._limits, shares=shares, by_row=by_row)

    # Log-likelihood

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[Score]:
        """(log-probability in nats, greedy?) per request. Raises :class:`BackendError` (length, memory, NaN logits)."""
        return self._score_pairs(self._pairs(requests))

    def _score_pairs(self, pairs: Sequence[Pair]) -> list[Score]:
        fitted = self._fitted(pairs)
        found = readings(fitted)
        scores: dict[int, Score] = {}
        scorer = self._scorer
        for batch in scorer.plan(found):
            members = [found[i] for family in batch for i in family.members]
            began = time.perf_counter()
            results = scorer.score(found, batch)
            self.model_seconds += time.perf_counter() - began
            for reading, values in zip(members, results, strict=True):
                scores.update(zip(reading.members, values, strict=True))
        self._details = [self._choice_detail(*each) for each in zip(pairs, fitted, strict=True)]
        return [scores[number] for number in range(len(pairs))]

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Log-probability in nats of each text, read in disjoint windows of at most ``limit`` tokens."""
        pairs, owners, details = self._rolling(requests)
        totals = [0.0] * len(requests)
        for owner, (value, _) in zip(owners, self._score_pairs(pairs), strict=True):
            totals[owner] += value
        self._details = details
        return totals

    @property
    def _scorer(self) -> Scorer:
        return Scorer(
            self.model,
            self._rotary,
            self._footprint,
            self._limits,
            self._kept,
            self._side,
            self._abilities,
            self._pieces,
        )

    @property
    def _limits(self) -> BatchLimits:
        memory = self.memory_limit or self._free or free_memory(self.device)
        whole = not self._abilities.continues
        return BatchLimits.of(self._batch_size, self.device.type, memory, self._prefill_chunk, whole=whole)
