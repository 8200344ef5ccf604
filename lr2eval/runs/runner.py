"""Run prepared shards on a backend. The run folder survives any interruption (design D2)."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial, partialmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lr2eval import plugins
from lr2eval._version import __version__
from lr2eval.base.files import output_folder
from lr2eval.base.machine import hardware, now, versions
from lr2eval.benchmark import Shard
from lr2eval.errors import Lr2EvalError, RunFailedError, StoreError, UsageError
from lr2eval.listener import Listener
from lr2eval.model.rope_facts import rope_facts
from lr2eval.record.base import write_record
from lr2eval.record.folder import LOCK, MANIFEST, locked, read_manifest, refuse_other, write_manifest
from lr2eval.record.results import RESULTS_FILE, ModelFacts, Results, RopeOverride
from lr2eval.record.store import RunStore, StoredSample
from lr2eval.record.summary import over_lengths, shard_result, summaries
from lr2eval.runs.backend import load_backend
from lr2eval.runs.prepare import Prepared
from lr2eval.runs.scoring import scored_samples

if TYPE_CHECKING:
    from lr2eval.runs.config import RunConfig
    from lr2eval.runs.recording import RecordingLM


@dataclass(frozen=True)
class Finished:
    """A finished run of one model."""

    folder: Path
    results: Results
    wall_seconds: float
    model_seconds: float


def execute(run: Prepared, folder: Path, command: Sequence[str], listener: Listener) -> Finished:
    """Run what is not finished yet in ``folder`` and write ``results.json``.

    Raises :class:`UsageError` if the folder holds another configuration or foreign files, and the errors of backend
    and store. Finished work stays in the store, and the same call resumes.
    """
    entries = output_folder(folder)
    if entries - {LOCK} and MANIFEST not in entries:
        raise UsageError(f"--out {folder}: holds files that are not an lr2eval run; choose an empty or new folder")
    try:
        with locked(folder):
            return _Session(run, folder, command, listener).finish()
    except OSError as error:
        raise StoreError(f"{folder}: {error.strerror or error}; fix this and run the same command again") from error
    finally:
        listener.ended()


class _Session:
    """One call of :func:`execute`: an entry of the manifest's ``sessions``, and the work that is left."""

    def __init__(self, run: Prepared, folder: Path, command: Sequence[str], listener: Listener) -> None:
        self._run, self._folder, self._listener = run, folder, listener
        self._began = time.perf_counter()
        self._next_results = 0.0
        manifest = read_manifest(folder)
        if manifest is not None:
            refuse_other(manifest["settings"], run.settings, folder)
        self._manifest = manifest or _new_manifest(run, command)
        self._entry: dict[str, Any] = {
            "started": now(),
            "outcome": "running",
            "versions": _versions(run),
            "model_seconds": 0.0,
            **run.config.where.facts(),
        }
        self._manifest["sessions"].append(self._entry)
        write_manifest(folder, self._manifest)

    def finish(self) -> Finished:
        run, folder = self._run, self._folder
        with RunStore.create(folder) as self._store:
            try:
                self._waiting = [shard for shard in run.shards if not self._store.shard_done(shard.id)]
                if self._waiting:
                    self._run_shards() if run.config.where.here else self._spread_shards()
                results = write_results(run, self._store, folder)
            except BaseException as error:
                # Report the first error. If the disk is full, these two files cannot be written either.
                with contextlib.suppress(Lr2EvalError):
                    write_results(run, self._store, folder)
                    self._close("interrupted" if isinstance(error, KeyboardInterrupt) else "failed")
                raise
            self._close("finished")
        return Finished(folder, results, self._entry["wall_seconds"], self._entry["model_seconds"])

    @property
    def _loaded(self) -> RunConfig:
        """The configuration with the number type that ``auto`` stands for."""
        config = self._run.config
        return config.model_copy(update={"dtype": self._run.dtype}) if config.backend == "hf" else config

    def _close(self, outcome: str) -> None:
        seconds = round(time.perf_counter() - self._began, 3)
        self._entry.update(outcome=outcome, ended=now(), wall_seconds=seconds)
        self._manifest["finished"] = self._entry["ended"] if outcome == "finished" else None
        write_manifest(self._folder, self._manifest)

    def _run_shards(self) -> None:
        from lr2eval.backends import Postponed
        from lr2eval.runs.recording import RecordingLM

        run, listener = self._run, self._listener
        listener.message(f"loading {run.checkpoint.name}")
        backend = load_backend(run.checkpoint, self._loaded)
        decoding = run.config.generation.given()
        lm = RecordingLM(backend, self._store, _identity(run), truncation=run.config.truncation, decoding=decoding)
        lm.on_batch = listener.batch_done
        self._show()
        with contextlib.closing(lm):  # an engine keeps its memory until then, and a second run may follow
            # A backend with one engine per window starts each engine once: shards that need the second one wait.
            for backend.postpone in (True, False):
                waiting, self._waiting = self._waiting, []
                for shard in waiting:
                    try:
                        self._run_shard(shard, lm)
                    except Postponed:
                        self._waiting.append(shard)
                        listener.shard_postponed()
                    finally:
                        self._entry["model_seconds"] = round(lm.model_seconds, 3)
                        if engines := getattr(backend, "engines", None):
                            self._entry["engines"] = engines
                            write_manifest(self._folder, self._manifest)

    def _spread_shards(self) -> None:
        """Run the shards on workers. The time in the model is the mean of the workers."""
        from lr2eval.runs.spread import Answerer, PooledLM, Wanted, Work

        run, listener, where = self._run, self._listener, self._run.config.where
        lm = PooledLM(run.tokenizer, self._store, _identity(run), run.config.truncation, run.config.generation.given())

        def finish(shard: Shard) -> None:
            try:
                self._run_shard(shard, lm)
            except Wanted:
                listener.shard_postponed()
                raise

        device = run.settings["config"]["device"]
        load = partial(Answerer.load, run.checkpoint, self._loaded)
        listener.message(f"loading {run.checkpoint.name} in {where.count} workers")
        with where.pool(load, run.checkpoint, device) as pool:
            self._show(together=True)
            ours = run.config.backend == "hf" and run.config.memory_limit is None
            work = Work(lm, self._waiting, finish, where.count, memory=ours)
            for reply in pool.run(work):
                listener.batch_done(*work.take(reply), reply.seconds)
                self._entry["model_seconds"] = round(work.model_seconds / where.count, 3)
                self._entry["worker_deaths"] = pool.deaths

    def _show(self, *, together: bool = False) -> None:
        self._listener.run_started(self._run.shards, together=together)
        for shard in self._run.shards:
            if shard not in self._waiting:
                self._listener.shard_kept(shard)

    def _run_shard(self, shard: Shard, lm: RecordingLM) -> None:
        from lm_eval.evaluator import evaluate

        seed = self._run.config.seed
        random.seed(seed)  # lm-eval's few-shot samplers may draw from the global generator
        task = _without_bar(shard.load())
        task.set_fewshot_seed(seed)
        name = task.config.task
        self._listener.shard_started(shard)
        chat = self._run.config.chat and shard.chat
        lm.begin(shard.id, shard.length, chat=chat)
        logged = evaluate(
            lm,
            {"tasks": {name: task}, "groups": {}, "group_map": {}},
            bootstrap_iters=0,
            apply_chat_template=chat,
            fewshot_as_multiturn=chat,
        )
        samples = scored_samples(shard, logged["samples"][name], lm.details, task.OUTPUT_TYPE, seed)
        if len(samples) != shard.n:
            raise RunFailedError(f"{shard.id}: lm-eval returned {len(samples)} samples instead of {shard.n}")
        _check_length(shard, samples)
        if chunks := sorted({detail.prefill_chunk for details in lm.details.values() for detail in details} - {0}):
            self._manifest.setdefault("prefill_chunks", {})[shard.id] = chunks
        self._store.save_scores(shard.id, samples)
        result = shard_result(shard, samples)
        self._listener.shard_done(shard, result.score, result.n)
        # Bring results.json up to date, but in at most a twentieth of the time: the cost grows with the shards.
        began = time.monotonic()
        if began >= self._next_results:
            write_results(self._run, self._store, self._folder)
            self._next_results = time.monotonic() + 20 * (time.monotonic() - began)


def _identity(run: Prepared) -> dict[str, Any]:
    config = run.settings["config"]
    return {"model": run.checkpoint.fingerprint, **{key: config[key] for key in _RESPONSE_KEYS}}


_RESPONSE_KEYS = (
    "backend",
    "dtype",
    "device",
    "window_policy",
    "truncation",
    "chat",
    "prefill_chunk",
    "batch_size",
)
"""What decides a response besides the model and the request: part of every response key."""


def _without_bar(task: Any) -> Any:
    """The task, without the bar that lm-eval draws while it builds requests. lm-eval has no switch for it."""
    from tqdm import tqdm  # type: ignore[import-untyped]

    build = task.build_all_requests

    def build_quietly(*arguments: Any, **named: Any) -> None:
        kept = tqdm.__dict__["__init__"]
        tqdm.__init__ = partialmethod(tqdm.__init__, disable=True)
        try:
            build(*arguments, **named)
        finally:
            tqdm.__init__ = kept

    task.build_all_requests = build_quietly
    return task


def _check_length(shard: Shard, samples: Sequence[StoredSample]) -> None:
    """The data promised a length, and the backend counted again: refuse samples that are longer."""
    if shard.length is None:
        return
    budget = shard.length - (shard.max_new_tokens or 0)
    over = [sample.number for sample in samples if sample.detail.prompt_tokens > budget]
    if over:
        raise RunFailedError(
            f"{shard.id}: the prompts of samples {over[:5]} have more than {budget} tokens; the data was made with "
            "another tokenizer or is damaged: delete it from the cache and run again"
        )


def write_results(run: Prepared, store: RunStore, folder: Path) -> Results:
    """Summarise what is scored so far into ``results.json``."""
    checkpoint, (hashes, digest, samples) = run.checkpoint, store.seals()
    shards = [shard_result(s, samples.get(s.id, [])) for s in run.shards if store.shard_done(s.id)]
    store.check_samples(hashes)  # what was changed since must not get a new checksum
    results = Results(
        lr2eval_version=__version__,
        digest=digest,
        samples_sha256=hashes,
        complete=len(shards) == len(run.shards),
        model=ModelFacts(
            name=checkpoint.name,
            fingerprint=checkpoint.fingerprint,
            tokenizer_fingerprint=run.tokenizer.fingerprint(),
            architecture=checkpoint.architecture,
            parameters=checkpoint.parameters,
            dtype=run.settings["config"]["dtype"],
            window=checkpoint.window,
            original_window=checkpoint.original_window,
            rope_type=checkpoint.rope_type,
            rope=dict(checkpoint.rope),
            rope_override=RopeOverride(**checkpoint.override) if checkpoint.override else None,
            **rope_facts(checkpoint.rope_type, checkpoint.rope, checkpoint.window, checkpoint.original_window),
        ),
        settings=run.settings["config"],
        shards=shards,
        summaries=summaries(shards, run.headline),
        over_lengths=over_lengths(shards),
        not_run=list(run.not_run),
    )
    write_record(folder / RESULTS_FILE, results)
    return results


def _versions(run: Prepared) -> dict[str, str]:
    """Of the packages that decide results, those of plug-ins included."""
    used = {(plugins.BACKENDS, run.config.backend), *((plugins.TASKS, shard.benchmark) for shard in run.shards)}
    authors = sorted(author for author in (plugins.made_by(*each) for each in used) if author)
    return versions() | dict(author.split(" ", 1) for author in authors if " " in author)


def _new_manifest(run: Prepared, command: Sequence[str]) -> dict[str, Any]:
    return {
        "created": now(),
        "finished": None,
        "command": list(command),
        "settings": run.settings,
        "config": run.config.model_dump(mode="json", exclude={"generation"})
        | ({"generation": given} if (given := run.config.generation.given()) else {}),
        "model_folder": str(run.checkpoint.folder),
        "versions": _versions(run),
        "hardware": hardware(),
        "chat": run.tokenizer.chat_facts,
        "data": {shard.id: {"hash": shard.data_hash, **shard.data} for shard in run.shards},
        "not_run": [item.model_dump() for item in run.not_run],
        "sessions": [],
    }
