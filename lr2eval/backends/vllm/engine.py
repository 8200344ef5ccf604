"""Start, feed and stop vLLM engines, one at a time; every failure is one line."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from lr2eval.backends.vllm.orphans import mark
from lr2eval.base.machine import give_memory_back
from lr2eval.errors import BackendError, CheckpointError, Lr2EvalError, UsageError, first_line

# vLLM logs its whole start and reports usage statistics unless told otherwise before it is imported.
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
mark(os.environ)

AHEAD = 2
"""Requests queued in an engine, as a multiple of the number it runs at once: never idle, little memory."""


@dataclass
class EngineRequest:
    """One request to an engine. ``params`` are vLLM's ``SamplingParams``; ``owner`` is for the caller."""

    ids: list[int]
    params: Mapping[str, Any]
    owner: Any = None


@dataclass
class Engines:
    """At most one live engine; ``arguments(window)`` gives the arguments of vLLM's ``LLM`` for a window."""

    arguments: Callable[[str], dict[str, Any]]
    name: str
    """The model's name in errors."""
    facts: list[dict[str, Any]] = field(default_factory=list)
    """What the manifest keeps of each engine that was started, in order; counts grow while it runs."""
    _llm: Any = None

    @property
    def window(self) -> str | None:
        """The window of the running engine."""
        return self.facts[-1]["window"] if self._llm is not None else None

    def run(self, window: str, requests: Iterable[EngineRequest]) -> Iterator[list[tuple[EngineRequest, Any]]]:
        """(request, vLLM's ``RequestOutput``) of what ended, step by step, in the engine for ``window``.

        Stops another engine first. Raises :class:`BackendError` for an engine that dies, and the error of
        :func:`_start_error` if it does not start. If the caller stops early, the remaining requests are aborted.
        """
        if self.window != window:
            self._start(window)
        from vllm import SamplingParams, TokensPrompt
        from vllm.sampling_params import RequestOutputKind

        facts, engine = self.facts[-1], self._llm.llm_engine
        ahead = AHEAD * engine.vllm_config.scheduler_config.max_num_seqs
        running: dict[str, EngineRequest] = {}
        waiting, count, over = iter(requests), facts["requests"], threading.Event()
        resources = getattr(engine.engine_core, "resources", None)
        _watch(resources, getattr(engine.engine_core, "outputs_queue", None), over)
        try:
            while True:
                while len(running) < ahead and (request := next(waiting, None)) is not None:
                    params = SamplingParams(output_kind=RequestOutputKind.FINAL_ONLY, **request.params)
                    engine.add_request(str(count), TokensPrompt(prompt_token_ids=request.ids), params)
                    running[str(count)] = request
                    count += 1
                if not running:
                    return
                ended = [output for output in engine.step() if output.finished]
                for output in ended:
                    facts["requests"] += 1
                    facts["prompt_tokens"] += len(output.prompt_token_ids)
                    facts["cached_tokens"] += output.num_cached_tokens or 0  # found in the prefix cache: not computed
                    facts["new_tokens"] += len(output.outputs[0].token_ids)
                if ended:
                    yield [(running.pop(output.request_id), output) for output in ended]
        except Lr2EvalError:
            raise
        except Exception as error:
            running = {}
            died = getattr(resources, "engine_dead", False)
            reason = "one of its processes died, possibly out of memory" if died else first_line(error, 240)
            self.stop()
            raise BackendError(
                f"the vLLM engine stopped ({reason}); finished samples are kept: run the same command again to resume"
            ) from error
        finally:
            over.set()
            if running:
                engine.abort_request(list(running))

    def _start(self, window: str) -> None:
        self.stop()
        arguments = self.arguments(window)
        with _captured() as said:
            try:
                from vllm import LLM

                llm = LLM(**arguments)
            except Exception as error:
                raise _start_error(self.name, arguments, f"{said()}\n{error}") from error
        from vllm import envs

        self._llm = llm
        config = llm.llm_engine.vllm_config
        self.facts.append(
            {
                "window": window,
                "max_model_len": config.model_config.max_model_len,
                "options": {key: value for key, value in arguments.items() if key not in ("model", "tokenizer")},
                "batch_invariant": bool(getattr(envs, "VLLM_BATCH_INVARIANT", False)),
                "prefix_caching": bool(config.cache_config.enable_prefix_caching),
                **dict.fromkeys(("requests", "prompt_tokens", "cached_tokens", "new_tokens"), 0),
            }
        )

    def stop(self) -> None:
        """Free the engine and its memory."""
        llm, self._llm = self._llm, None
        if llm is None:
            return
        with contextlib.suppress(Exception):  # a dead engine cannot be asked to leave
            llm.llm_engine.engine_core.shutdown()
        del llm
        give_memory_back()


def _watch(resources: Any, outputs: Any, over: threading.Event, every: float = 1.0) -> None:
    """Put an error into ``outputs`` when the engine's process is dead.

    vLLM's client notices the death (``engine_dead``), but still waits forever if the process was killed before it could
    report the error.
    """
    if resources is None or outputs is None:
        return  # the engine is in this process

    def look() -> None:
        while not over.wait(every):
            if resources.engine_dead:
                outputs.put_nowait(RuntimeError("one of its processes died"))
                return

    threading.Thread(target=look, daemon=True).start()


@contextlib.contextmanager
def _captured() -> Iterator[Callable[[], str]]:
    """Capture what this process and its children print; the function returns it. An engine in its own process only
    prints why it did not start."""
    sys.stdout.flush()
    sys.stderr.flush()
    with tempfile.TemporaryFile() as file:
        before = os.dup(1), os.dup(2)

        def said() -> str:
            return os.pread(file.fileno(), 10_000_000, 0).decode("utf-8", "replace")

        try:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
            yield said
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for number, copy in zip((1, 2), before, strict=True):
                os.dup2(copy, number)
                os.close(copy)


def _start_error(name: str, arguments: Mapping[str, Any], said: str) -> Lr2EvalError:
    """The error for a failed start, found in everything that was printed."""
    length = arguments["max_model_len"]
    if re.search(r"(?:Available|Free) memory on (?:node|device)", said):
        return BackendError(
            f"{name}: vLLM cannot reserve its memory because other processes use it; stop them, or reserve less with "
            "--set vllm.gpu_memory_utilization=0.3 (a share of the GPU memory, or of the main memory on a CPU)"
        )
    fits = re.search(r"estimated maximum model length is ([\d,]+)", said)
    memory = re.search(r"out of memory|KV cache (?:is needed|memory)|No available memory", said)
    if fits or memory:
        largest = int(fits[1].replace(",", "")) if fits else 0
        what = f"a length of {largest:,} fits (--set vllm.max_model_len={largest})" if largest else "no length fits"
        return BackendError(
            f"{name}: an engine for {length:,} tokens does not fit into memory; {what}; or use more memory (--set "
            "vllm.gpu_memory_utilization=0.95 or vllm.kv_cache_memory_bytes), more GPUs (vllm.tensor_parallel_size) "
            "or half the cache (vllm.kv_cache_dtype=fp8)"
        )
    if unknown := re.search(r"Model architectures? \[?'?([\w', ]+?)'?\]? (?:are not supported|failed)", said):
        return CheckpointError(f"{name}: vLLM does not support {unknown[1]}; use --backend hf or a newer vLLM")
    if re.search(r"max_model_len .*(?:greater|larger) than the derived", said):
        return UsageError(
            f"{name}: {length:,} tokens exceed the window that vLLM reads from config.json; choose shorter --lengths "
            "or --backend hf"
        )
    return BackendError(f"--backend vllm: {name} could not start: {_last_words(said) or 'no reason given'}")


def _last_words(said: str) -> str:
    """The line of the last error in a log, or else its last line."""
    lines = [re.sub(r"^.*?\] ", "", line).strip() for line in said.splitlines()]
    named = [line for line in lines if re.match(r"[\w.]*(Error|Exception)\b: ", line)]
    own = [line for line in named if "See root cause above" not in line]
    return " ".join(((own or named or [line for line in lines if line] or [""])[-1]).split())[:240]
