"""The vLLM backend: engines of vLLM with the window rule of D6, cheap choices and answers that stream."""

from __future__ import annotations

import dataclasses
import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

from lm_eval.api.instance import Instance

from lr2eval.backends import Postponed
from lr2eval.backends.generation import DecodingRow, Side
from lr2eval.backends.loading import quiet
from lr2eval.backends.requests import Ended, Pair, StreamLM
from lr2eval.backends.scoring import Score, readings
from lr2eval.backends.vllm.engine import EngineRequest, Engines
from lr2eval.backends.vllm.jobs import decoding_params, parts, reading_params, reading_scores, said
from lr2eval.base.ids import digest
from lr2eval.base.settings import refuse_unknown
from lr2eval.benchmark import Truncation, WindowPolicy
from lr2eval.errors import UsageError
from lr2eval.method.rope.scaling import RopeScaling
from lr2eval.method.rope.source import ModelRope
from lr2eval.model.checkpoint import Checkpoint
from lr2eval.model.generation_file import answer_ends
from lr2eval.model.tokenizer import PromptTokenizer

_OURS = {
    "model": "--model",
    "tokenizer": "--model",
    "dtype": "--dtype",
    "seed": "--seed",
    "trust_remote_code": "--trust-remote-code",
    "hf_overrides": "the checkpoint's config.json",
    "generation_config": "--set generation.from_model=true",
    "override_generation_config": "--set generation.KEY=VALUE",
}
CPU_SHARE = 0.3
"""Share of the main memory that an engine reserves on a CPU. vLLM's own 0.92 leaves nothing for other processes."""


class WindowedVLLM(StreamLM):
    """A checkpoint folder on vLLM.

    vLLM rotates a whole engine with one list of factors. A ``longrope`` checkpoint therefore runs on two engines, one
    after the other: the first holds what fits into ``Lt`` tokens, the second the rest. With ``postpone`` set, a call
    does what the first can do and raises :class:`Postponed` if that was not all.

    Args:
        checkpoint: the checked folder (:meth:`Checkpoint.open`).
        prompts: its tokenizer; by default without chat template.
        window, window_policy, truncation: see :class:`PromptLM`. The option ``max_model_len`` may lower the window.
            ``exact`` hands a sequence that outgrows ``Lt`` over to the second engine, which reads it afresh.
        dtype: torch dtype name; ``auto`` is the checkpoint's own.
        device: refused if vLLM runs on another kind of device here.
        batch_size: requests that an engine runs at once; vLLM's default for ``auto``.
        trust_remote_code: run Python code from the checkpoint folder.
        seed: for tasks that sample.
        options: engine options of vLLM by name.

    Raises :class:`UsageError` for options that vLLM lacks, and :class:`CheckpointError` for a checkpoint without a
    usable tokenizer or with broken factors.
    """

    _unread = 0  # vLLM's max_model_len counts the token that is predicted
    postpone = False

    def __init__(
        self,
        checkpoint: Checkpoint,
        prompts: PromptTokenizer | None = None,
        *,
        window: int,
        dtype: str = "auto",
        device: str | None = None,
        batch_size: int | str = "auto",
        window_policy: WindowPolicy = "exact",
        truncation: Truncation = "error",
        trust_remote_code: bool = False,
        seed: int = 0,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        engine = checked_options(options or {}, window, device)
        limit = int(engine.pop("max_model_len", window))
        with quiet():
            prompts = prompts or PromptTokenizer.load(checkpoint.folder)
            config = checkpoint.model_config(trust_remote_code=trust_remote_code)
        self._config = config.text
        self._scaling: RopeScaling | None = None
        if checkpoint.rope_type == "longrope":
            self._scaling = ModelRope.of(checkpoint.folder, config).own()
        super().__init__(
            prompts,
            limit=limit,
            truncation=truncation,
            original_window=self._scaling.original_window if self._scaling else None,
            window_policy=window_policy,
        )
        self._beyond = window if window > checkpoint.window else None
        self._seed = seed
        vocabulary = getattr(self._config, "vocab_size", len(self.tokenizer))
        self._eos_ids = answer_ends(checkpoint, self.tokenizer.eos_token_id, vocabulary)
        self._begun: dict[str, list[int]] = {}
        if batch_size != "auto":
            engine.setdefault("max_num_seqs", int(batch_size))
        if self.tokenizer.model_max_length < limit:
            # vLLM would trust the window in the tokenizer's files, which nobody changes when a model is extended.
            os.environ["VLLM_ALLOW_LONG_MAX_MODEL_LEN"] = "1"
        self._arguments = {
            "model": str(checkpoint.folder),
            "dtype": checkpoint.dtype if dtype == "auto" else dtype,
            "seed": seed,
            "trust_remote_code": trust_remote_code,
            "enable_prefix_caching": True,
            "generation_config": "vllm",
            **engine,
        }
        self._engines = Engines(self._engine_arguments, checkpoint.name)

    @property
    def engines(self) -> list[dict[str, Any]]:
        """What the manifest keeps of every engine that was started."""
        return [dict(facts) for facts in self._engines.facts]

    def close(self) -> None:
        """Stop the engine that runs."""
        self._engines.stop()

    def _engine_arguments(self, window: str) -> dict[str, Any]:
        """Arguments of vLLM's ``LLM``.

        A longrope engine gets the factors of its own window as both lists, and the attention factor, so that vLLM has
        nothing to choose. The short engine has one place more than ``Lt``, for the token that is predicted last.
        """
        length, overrides = self.limit, {}
        if self._scaling is not None and window != "only":
            side: Literal["short", "long"] = "short" if window == "short" else "long"
            original = self._scaling.original_window + (1 if window == "short" else 0)
            length = min(length, original) if window == "short" else length
            rope = self._scaling.rope_parameters(getattr(self._config, "head_dim", None))
            factors, attention = rope[f"{side}_factor"], self._scaling.attention_factor(side)
            rope |= {"short_factor": factors, "long_factor": factors, "original_max_position_embeddings": original}
            rope |= {"attention_factor": attention, "short_mscale": attention, "long_mscale": attention}
            overrides = {
                "max_position_embeddings": max(length, original),
                "original_max_position_embeddings": original,
                "rope_parameters": rope,
            }
        elif self._beyond:
            overrides = {"max_position_embeddings": self._beyond}
        return {**self._arguments, "max_model_len": length, **({"hf_overrides": overrides} if overrides else {})}

    # Streaming

    def stream(self, request_type: str, requests: list[Instance]) -> Iterator[list[Ended]]:
        """Answers as they end. Raises :class:`BackendError` (length, dead engine, NaN) and :class:`Postponed`."""
        if request_type == "generate_until":
            yield from self._generated(requests)
        elif request_type == "loglikelihood":
            whole = self._pairs(requests)
            pairs = self._fitted(whole)
            for ended in self._scored(pairs):
                yield [(n, value, self._choice_detail(whole[n], pairs[n])) for n, value in ended]
        else:
            yield from self._rolled(requests)

    def _run(self, window: Side, requests: Iterable[EngineRequest]) -> Iterator[list[tuple[EngineRequest, Any]]]:
        began = time.perf_counter()
        for ended in self._engines.run(window, requests):
            self.model_seconds += time.perf_counter() - began
            yield ended
            began = time.perf_counter()
        self.model_seconds += time.perf_counter() - began

    # Generation

    def _generated(self, requests: list[Instance]) -> Iterator[list[Ended]]:
        rows = sorted(self._rows(requests), key=lambda row: -len(row))
        if self._original is None:
            yield from self._decoded("only", rows)
            return
        begins = [row for row in rows if not self._starts_long(row)]
        keys = {row.number: digest([row.prompt, repr(row.decoding)]) for row in begins}
        for row in begins:
            row.tokens = self._begun.pop(keys[row.number], [])
        short = [row for row in begins if len(row) <= self._original]
        yield from self._decoded("short", short, self._original + 1)
        left = [row for row in rows if not row.ended]
        if self.postpone:
            self._begun |= {keys[row.number]: row.tokens for row in left if row.tokens}
            if left:
                raise Postponed
        yield from self._decoded("long", left)

    def _decoded(self, window: Side, rows: Sequence[DecodingRow], stop: int | None = None) -> Iterator[list[Ended]]:
        """Continue rows in one engine, up to ``stop`` tokens in all; yields the rows that have ended."""

        def request(row: DecodingRow) -> EngineRequest:
            new = min(row.end, stop or self.limit) - len(row)
            params = decoding_params(row.decoding, new, self._eos_ids, seed=self._seed)
            return EngineRequest(row.prompt + row.tokens, params, row)

        for ended in self._run(window, map(request, rows)) if rows else ():
            for asked, output in ended:
                asked.owner.advance(*said(output, self._eos_ids, asked.owner.number), window)
            if answered := [asked.owner for asked, _ in ended if asked.owner.ended]:
                yield [(row.number, *self._answer(row)) for row in answered]

    # Log-likelihood

    def _scored(self, pairs: Sequence[Pair]) -> Iterator[list[tuple[int, Score]]]:
        """(number of the pair, score). All one-token choices of a context are one request."""
        found = sorted((part for reading in readings(pairs) for part in parts(reading)), key=lambda part: part.ids)
        requests = [EngineRequest(reading.ids, reading_params(reading), reading) for reading in found]
        if self._original is None:
            yield from self._read("only", requests)
            return
        yield from self._read("short", [each for each in requests if len(each.ids) <= self._original])
        left = [each for each in requests if len(each.ids) > self._original]
        if left and self.postpone:
            raise Postponed
        yield from self._read("long", left)

    def _read(self, window: Side, requests: Sequence[EngineRequest]) -> Iterator[list[tuple[int, Score]]]:
        for ended in self._run(window, requests) if requests else ():
            yield [
                pair
                for asked, output in ended
                for pair in zip(asked.owner.members, reading_scores(asked.owner, output), strict=True)
            ]

    def _rolled(self, requests: list[Instance]) -> Iterator[list[Ended]]:
        pairs, owners, details = self._rolling(requests)
        postpone, self.postpone = self.postpone, False  # a text is one answer, whichever engines its parts need
        totals, waiting = [0.0] * len(requests), Counter(owners)
        try:
            yield [(n, 0.0, detail) for n, detail in enumerate(details) if not waiting[n]]
            for ended in self._scored(pairs):
                for number, (value, _) in ended:
                    owner = owners[number]
                    totals[owner] += value
                    waiting[owner] -= 1
                    if not waiting[owner]:
                        yield [(owner, totals[owner], details[owner])]
        finally:
            self.postpone = postpone


def checked_options(options: Mapping[str, Any], window: int, device: str | None) -> dict[str, Any]:
    """The user's engine options. Raises :class:`UsageError` for an option that vLLM lacks or that we set."""
    from vllm.engine.arg_utils import EngineArgs
    from vllm.platforms import current_platform

    if taken := next((name for name in options if name in _OURS), None):
        raise UsageError(f"vllm.{taken}: lr2eval sets this option; use {_OURS[taken]} instead")
    refuse_unknown(options, [each.name for each in dataclasses.fields(EngineArgs)], group="vllm")
    length = options.get("max_model_len", window)
    if not isinstance(length, int) or not 1 < length <= window:
        raise UsageError(
            f"vllm.max_model_len={length}: the model's window is {window:,} tokens; choose at most that, or go beyond "
            "it with --set beyond_window=true and longer --lengths"
        )
    if device and device.split(":")[0] != current_platform.device_type:
        raise UsageError(f"--device {device}: vLLM runs on {current_platform.device_type} here; omit --device")
    if current_platform.device_type == "cpu" and "kv_cache_memory_bytes" not in options:
        return {"gpu_memory_utilization": CPU_SHARE, **options}
    return dict(options)
