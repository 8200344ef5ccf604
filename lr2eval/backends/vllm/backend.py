"""The vLLM backend: lm-eval's ``VLLM`` with the window rule of D6, cheap choices and answers that stream."""

from __future__ import annotations

import dataclasses
import difflib
import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import transformers
from lm_eval.models.utils import configure_pad_token
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from lr2eval.backends import Postponed
from lr2eval.backends.generation import Decoding, Row
from lr2eval.backends.loading import eos_of, quiet
from lr2eval.backends.requests import Pair, RequestSide
from lr2eval.backends.scoring import Score, readings
from lr2eval.backends.vllm.engine import Engines, Job, lm_evals_model
from lr2eval.backends.vllm.jobs import decoding_params, parts, reading_params, reading_scores, said
from lr2eval.base.ids import digest
from lr2eval.benchmark import ResponseDetail, Truncation, WindowPolicy
from lr2eval.errors import CheckpointError, UsageError
from lr2eval.method.rope.scaling import RopeScaling
from lr2eval.model.checkpoint import Checkpoint
from lr2eval.model.tokenizer import PromptTokenizer

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance


Window = Literal["only", "short", "long"]
_OURS = ("model", "tokenizer", "dtype", "seed", "trust_remote_code", "hf_overrides")
_Ended = tuple[int, Any, ResponseDetail]
CPU_SHARE = 0.3
"""Of the main memory that an engine reserves on a CPU; vLLM's own 0.92 leaves nothing for anybody else."""
VLLM: Any = lm_evals_model()


class WindowedVLLM(RequestSide, VLLM):  # type: ignore[misc]  # lm-eval is untyped here
    """A checkpoint folder on vLLM; implements :class:`lr2eval.backends.Streaming`.

    Of lm-eval's class it uses tokenisation and chat template. Its constructor is passed over, as it starts the one
    engine of its own at once, and its request loops, as they answer when everything has ended.

    vLLM rotates a whole engine with one list of factors. A ``longrope`` checkpoint therefore runs on two, one after the
    other: the first holds what fits into ``Lt`` tokens, the second the rest. With ``postpone`` set, a call does what
    the first can do and raises :class:`Postponed` if that was not all.

    Args:
        checkpoint: the checked folder (:meth:`Checkpoint.open`).
        window: tokens that prompt and answer may hold together; the option ``max_model_len`` may lower it.
        dtype: torch dtype name; ``auto`` is the checkpoint's own.
        device: refused if it is none of the kind that vLLM runs on here.
        batch_size: requests that an engine runs at once; vLLM's default for ``auto``.
        window_policy: as of :class:`lr2eval.backends.hf.WindowedHFLM`; ``exact`` hands a sequence that outgrows ``Lt``
            over to the second engine, which reads it afresh.
        truncation: ``middle`` cuts the middle out of prompts that are too long. Otherwise one that gets here raises.
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
        chat: bool = False,
    ) -> None:
        super(VLLM, self).__init__()
        self._options = _checked(options or {}, window, device)
        self.limit = int(self._options.pop("max_model_len", window))
        with quiet():
            prompts = PromptTokenizer.load(checkpoint.folder, chat=chat)
            self._config = transformers.AutoConfig.from_pretrained(
                str(checkpoint.folder), local_files_only=True, trust_remote_code=trust_remote_code
            )
            self.tokenizer = configure_pad_token(prompts.tokenizer, model_config=self._config)
            generation, self._eos_ids = eos_of(checkpoint.folder, self._config, self.tokenizer)
        self.add_bos_token = self.custom_prefix_token_id = self.hf_chat_template = self.enable_thinking = None
        self.chat_template_args: dict[str, Any] = {}
        self.checkpoint = checkpoint
        self.model_seconds = 0.0
        self._scaling: RopeScaling | None = None
        if checkpoint.rope_type == "longrope":
            try:
                self._scaling = RopeScaling.from_config(self._config.get_text_config())
            except (ValueError, KeyError) as error:
                raise CheckpointError(f"{checkpoint.folder}: {error}; fix its rope_parameters") from error
        self._window = window
        self._policy = window_policy
        self._seed = seed
        self._penalty = float(getattr(generation, "repetition_penalty", None) or 1.0)
        self._begun: dict[str, list[int]] = {}
        if batch_size != "auto":
            self._options.setdefault("max_num_seqs", int(batch_size))
        if prompts.tokenizer.model_max_length < self.limit:
            # vLLM would take the tokenizer's word for the window, which nobody changes when a model is extended.
            os.environ["VLLM_ALLOW_LONG_MAX_MODEL_LEN"] = "1"
        self._arguments = {
            "model": str(checkpoint.folder),
            "dtype": checkpoint.dtype if dtype == "auto" else dtype,
            "seed": seed,
            "trust_remote_code": trust_remote_code,
            "enable_prefix_caching": True,
            **self._options,
        }
        self._engines = Engines(self._engine_arguments, checkpoint.name)
        self._begin(prompts, truncation)

    @property
    def engines(self) -> list[dict[str, Any]]:
        """What the manifest keeps of every engine that was started."""
        return [dataclasses.asdict(facts) for facts in self._engines.facts]

    def close(self) -> None:
        """Stop the engine that runs."""
        self._engines.stop()

    def _engine_arguments(self, window: str) -> dict[str, Any]:
        """Arguments of vLLM's ``LLM``.

        Both lists of a longrope engine are the one it is for, and the temperature is stated: nothing is left to what
        vLLM would pick. The short one has a place more than ``Lt`` for the token that is predicted last.
        """
        length, overrides = self.limit, {}
        if self._scaling is not None and window != "only":
            side: Literal["short", "long"] = "short" if window == "short" else "long"
            original = self._scaling.original_window + (1 if window == "short" else 0)
            length = min(length, original) if window == "short" else length
            config = self._config.get_text_config()
            rope = self._scaling.rope_parameters(getattr(config, "head_dim", None))
            factors, attention = rope[f"{side}_factor"], self._scaling.attention_factor(side)
            rope |= {"short_factor": factors, "long_factor": factors, "original_max_position_embeddings": original}
            rope |= {"attention_factor": attention, "short_mscale": attention, "long_mscale": attention}
            overrides = {
                "max_position_embeddings": max(length, original),
                "original_max_position_embeddings": original,
                "rope_parameters": rope,
            }
        elif self._window > self.checkpoint.window:
            overrides = {"max_position_embeddings": self._window}
        return {**self._arguments, "max_model_len": length, **({"hf_overrides": overrides} if overrides else {})}

    # Streaming

    def stream(self, request_type: str, requests: list[Instance]) -> Iterator[list[_Ended]]:
        """Answers as they end. Raises :class:`BackendError` (length, dead engine, NaN) and :class:`Postponed`."""
        if request_type == "generate_until":
            yield from self._generated(requests)
        elif request_type == "loglikelihood":
            whole = self._pairs(requests)
            pairs = [self._fit_pair(number, pair) for number, pair in enumerate(whole)]
            for ended in self._scored(pairs):
                yield [(n, value, self._choice_detail(pairs[n], whole[n])) for n, value in ended]
        else:
            yield from self._rolled(requests)

    def _all(self, request_type: str, requests: list[Instance]) -> list[Any]:
        ended = {n: (answer, detail) for part in self.stream(request_type, requests) for n, answer, detail in part}
        self._details = [ended[n][1] for n in range(len(requests))]
        return [ended[n][0] for n in range(len(requests))]

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Answers cut before the first stop string."""
        return self._all("generate_until", requests)

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[Score]:
        """(log-probability in nats, greedy?) per request."""
        return self._all("loglikelihood", requests)

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Log-probability in nats of each text, read in disjoint windows."""
        return self._all("loglikelihood_rolling", requests)

    def _run(self, window: Window, jobs: Iterable[Job]) -> Iterator[list[tuple[Job, Any]]]:
        began = time.perf_counter()
        for ended in self._engines.run(window, jobs):
            self.model_seconds += time.perf_counter() - began
            yield ended
            began = time.perf_counter()
        self.model_seconds += time.perf_counter() - began

    def _long(self, left: Sequence[Any]) -> bool:
        """Whether something is left for the second engine, now."""
        if left and self.postpone:
            raise Postponed
        return bool(left)

    # Generation

    def _generated(self, requests: list[Instance]) -> Iterator[list[_Ended]]:
        rows, decodings = self._prompts(requests)
        texts = [request.args[0] for request in requests]
        order = sorted(range(len(rows)), key=lambda n: -len(rows[n]))
        if self._scaling is None:
            yield from self._decoded("only", order, rows, decodings, texts)
            return
        original = self._scaling.original_window
        begins = [n for n in order if not self._starts_long(rows[n], decodings[n])]
        keys = {n: digest([rows[n].prompt, repr(decodings[n])]) for n in begins}
        for n, key in keys.items():
            rows[n].tokens = self._begun.pop(key, [])
        short = [n for n in begins if len(rows[n]) <= original]
        yield from self._decoded("short", short, rows, decodings, texts, original + 1)
        left = [n for n in order if not self._ended(rows[n], decodings[n])]
        if self.postpone:
            self._begun |= {keys[n]: rows[n].tokens for n in left if rows[n].tokens}
        if self._long(left):
            yield from self._decoded("long", left, rows, decodings, texts)

    def _starts_long(self, row: Row, decoding: Decoding) -> bool:
        assert self._scaling is not None
        final = len(row.prompt) + (decoding.new_tokens if self._policy == "budget" else 0)
        return final > self._scaling.original_window

    def _ended(self, row: Row, decoding: Decoding) -> bool:
        return row.finished or len(row.tokens) >= decoding.new_tokens

    def _decoded(
        self,
        window: Window,
        numbers: Sequence[int],
        rows: Sequence[Row],
        decodings: Sequence[Decoding],
        texts: Sequence[str],
        end: int | None = None,
    ) -> Iterator[list[_Ended]]:
        """Continue rows in one engine, up to ``end`` tokens in all; yields those that have ended."""

        def asked(n: int) -> Job:
            row, decoding = rows[n], decodings[n]
            new = min(decoding.new_tokens - len(row.tokens), (end or self.limit) - len(row))
            params = decoding_params(decoding, new, self._eos_ids, seed=self._seed, repetition_penalty=self._penalty)
            return Job(row.prompt + row.tokens, params, n)

        for ended in self._run(window, map(asked, numbers)) if numbers else ():
            answered = []
            for job, output in ended:
                row, decoding = rows[job.owner], decodings[job.owner]
                side: Any = "short->long" if window == "long" and row.tokens else window
                tokens, row.finished = said(output, self._eos_ids, job.owner)
                row.tokens = row.tokens + tokens
                if self._ended(row, decoding):
                    answered.append((job.owner, *self._answer(row, decoding, side, texts[job.owner])))
            if answered:
                yield answered

    def _answer(self, row: Row, decoding: Decoding, side: Any, prompt: str) -> tuple[str, ResponseDetail]:
        text = self.tokenizer.decode(row.tokens, skip_special_tokens=True)
        answer = decoding.cut(text)
        return answer, ResponseDetail(
            prompt_tokens=len(row.prompt),
            new_tokens=len(row.tokens),
            window=side,
            finish="stop" if row.finished or answer != text else "length",
            truncated_tokens=len(self._prompt(prompt)) - len(row.prompt),
        )

    # Log-likelihood

    def _scored(self, pairs: Sequence[Pair]) -> Iterator[list[tuple[int, Score]]]:
        """(number of the pair, score), one request for all one-token choices of a context, neighbours by prefix."""
        found = sorted((part for reading in readings(pairs) for part in parts(reading)), key=lambda part: part.ids)
        jobs = [Job(reading.ids, reading_params(reading), reading) for reading in found]
        if self._scaling is None:
            yield from self._read("only", jobs)
            return
        original = self._scaling.original_window
        yield from self._read("short", [job for job in jobs if len(job.ids) <= original])
        left = [job for job in jobs if len(job.ids) > original]
        if self._long(left):
            yield from self._read("long", left)

    def _read(self, window: Window, jobs: Sequence[Job]) -> Iterator[list[tuple[int, Score]]]:
        for ended in self._run(window, jobs) if jobs else ():
            yield [
                pair
                for job, output in ended
                for pair in zip(job.owner.members, reading_scores(job.owner, output), strict=True)
            ]

    def _choice_detail(self, pair: Pair, whole: Pair) -> ResponseDetail:
        read = len(pair[0]) + len(pair[1])
        return ResponseDetail(
            prompt_tokens=read,
            window=self._side(read - 1),
            finish="choice",
            truncated_tokens=len(whole[0]) - len(pair[0]),
        )

    def _side(self, tokens: int) -> Window:
        if self._scaling is None:
            return "only"
        return "long" if tokens > self._scaling.original_window else "short"

    def _rolled(self, requests: list[Instance]) -> Iterator[list[_Ended]]:
        pairs: list[Pair] = []
        owners: list[int] = []
        texts = [self.tok_encode(request.args[0]) for request in requests]
        for number, ids in enumerate(texts):
            for part in get_rolling_token_windows(
                token_list=ids, prefix_token=self.prefix_token_id, max_seq_len=self.limit - 1, context_len=1
            ):
                pairs.append(make_disjoint_window(part))
                owners.append(number)
        postpone, self.postpone = self.postpone, False  # a text is one answer, whichever engines its parts want
        totals, waiting = [0.0] * len(texts), Counter(owners)
        try:
            yield [(n, 0.0, ResponseDetail(finish="choice")) for n, ids in enumerate(texts) if not ids]
            for ended in self._scored(pairs):
                for part_number, (value, _) in ended:
                    owner = owners[part_number]
                    totals[owner] += value
                    waiting[owner] -= 1
                    if not waiting[owner]:
                        read = len(texts[owner])
                        side = self._side(min(read, self.limit - 1))
                        detail = ResponseDetail(prompt_tokens=read, window=side, finish="choice")
                        yield [(owner, totals[owner], detail)]
        finally:
            self.postpone = postpone


def _checked(options: Mapping[str, Any], window: int, device: str | None) -> dict[str, Any]:
    """The engine options of the user. Raises :class:`UsageError` naming the one that cannot be."""
    from vllm.engine.arg_utils import EngineArgs
    from vllm.platforms import current_platform

    known = [each.name for each in dataclasses.fields(EngineArgs)]
    for name in options:
        if name in _OURS:
            raise UsageError(
                f"vllm.{name}: is set by lr2eval; use --model, --dtype, --seed and the checkpoint's config"
            )
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            raise UsageError(f"vllm.{name}: no engine option of vLLM" + (f"; did you mean {near[0]}?" if near else ""))
    length = options.get("max_model_len", window)
    if not isinstance(length, int) or not 1 < length <= window:
        raise UsageError(
            f"vllm.max_model_len={length}: the model's window is {window:,} tokens; choose up to that, or run beyond "
            "it on purpose with --set beyond_window=true and longer --lengths"
        )
    if device and device.split(":")[0] != current_platform.device_type:
        raise UsageError(f"--device {device}: vLLM runs on {current_platform.device_type} here; leave --device away")
    if current_platform.device_type == "cpu" and "kv_cache_memory_bytes" not in options:
        return {"gpu_memory_utilization": CPU_SHARE, **options}
    return dict(options)
