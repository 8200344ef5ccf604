"""Running prepared shards on a backend into a run folder that survives anything (design D2)."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial, partialmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lr2eval._version import __version__
from lr2eval.base.files import write_json
from lr2eval.base.machine import hardware, now, versions
from lr2eval.benchmark import Shard
from lr2eval.errors import Lr2EvalError, RunFailedError, StoreError, UsageError
from lr2eval.listener import Listener
from lr2eval.model.rope_facts import rope_facts
from lr2eval.record.folder import LOCK, MANIFEST, locked, read_manifest, refuse_other, write_manifest
from lr2eval.record.results import RESULTS_FILE, ModelFacts, Results, ShardResult
from lr2eval.record.store import RunStore, StoredSample
from lr2eval.runs.backend import load_backend
from lr2eval.runs.prepare import Prepared
from lr2eval.runs.scoring import scored_samples
from lr2eval.runs.summary import over_lengths, shard_result, summaries

if TYPE_CHECKING:
    from lr2eval.runs.recording import RecordingLM


@dataclass(frozen=True)
class Finished:
    """What a run left behind."""

    folder: Path
    results: Results
    wall_seconds: float
    model_seconds: float


def execute(run: Prepared, folder: Path, command: Sequence[str], listener: Listener) -> Finished:
    """Run what is not finished yet in ``folder`` and write ``results.json``.

    Raises :class:`UsageError` if the folder holds another configuration or foreign files, and the errors of backend
    and store. Finished work stays in the store, and the same call resumes.
    """
    started = time.perf_counter()
    _open_folder(folder)
    try:
        with locked(folder):
            return _locked(run, folder, command, listener, started)
    except OSError as error:
        raise StoreError(f"{folder}: {error.strerror or error}; fix this and run the same command again") from error
    finally:
        listener.ended()


def _open_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".write-probe"
        probe.touch()
        probe.unlink()
        entries = {entry.name for entry in folder.iterdir()}
    except OSError as error:
        raise UsageError(f"--out {folder}: {error.strerror or error}; choose a folder that can be written") from error
    if entries - {LOCK} and MANIFEST not in entries:
        raise UsageError(f"--out {folder}: holds files that are no lr2eval run; choose an empty or new folder")


def _locked(run: Prepared, folder: Path, command: Sequence[str], listener: Listener, started: float) -> Finished:
    settings = run.settings
    manifest = read_manifest(folder)
    if manifest is not None:
        refuse_other(manifest["settings"], settings, folder)
    else:
        manifest = _new_manifest(run, settings, command)
    session: dict[str, Any] = {
        "started": now(),
        "outcome": "running",
        "versions": versions(),
        "model_seconds": 0.0,
        **run.config.where.facts(),
    }
    manifest["sessions"].append(session)
    write_manifest(folder, manifest)

    def close_session(outcome: str) -> None:
        session.update(outcome=outcome, ended=now(), wall_seconds=round(time.perf_counter() - started, 3))
        manifest["finished"] = session["ended"] if outcome == "finished" else None
        write_manifest(folder, manifest)

    with RunStore.create(folder) as store:
        try:
            waiting = [shard for shard in run.shards if not store.shard_done(shard.id)]
            if waiting:
                _run_shards(run, waiting, store, folder, listener, session, lambda: write_manifest(folder, manifest))
            results = write_results(run, store, folder)
        except BaseException as error:
            # The first error is the one to tell; a disk that is full stays full for the next two files.
            with contextlib.suppress(Lr2EvalError):
                write_results(run, store, folder)
                close_session("interrupted" if isinstance(error, KeyboardInterrupt) else "failed")
            raise
        close_session("finished")
    return Finished(folder, results, session["wall_seconds"], session["model_seconds"])


def _run_shards(
    run: Prepared,
    waiting: Sequence[Shard],
    store: RunStore,
    folder: Path,
    listener: Listener,
    session: dict[str, Any],
    keep_session: Callable[[], None],
) -> None:
    from lr2eval.runs.recording import RecordingLM

    if not run.config.where.here:
        _spread_shards(run, waiting, store, folder, listener, session)
        return
    listener.message(f"loading {run.checkpoint.name}")
    lm = RecordingLM(load_backend(run.checkpoint, run.config), store, _identity(run), truncation=run.config.truncation)
    lm.on_batch = listener.batch_done
    _show(run, waiting, listener)
    with contextlib.closing(lm):  # an engine keeps its memory until then, and a second run may follow
        _in_turns(run, waiting, lm, store, folder, listener, session, keep_session)


def _in_turns(
    run: Prepared,
    waiting: Sequence[Shard],
    lm: RecordingLM,
    store: RunStore,
    folder: Path,
    listener: Listener,
    session: dict[str, Any],
    keep_session: Callable[[], None],
) -> None:
    from lr2eval.backends import Postponed

    keep = _Results(run, store, folder)
    # A backend with one engine per window starts each once: what wants the second waits for all that wants the first.
    for postpone in (True, False):
        lm.backend.postpone = postpone
        postponed = []
        for shard in waiting:
            try:
                _run_shard(run, shard, lm, store, listener)
            except Postponed:
                postponed.append(shard)
                listener.shard_postponed()
            finally:
                session["model_seconds"] = round(lm.model_seconds, 3)
                if engines := getattr(lm.backend, "engines", None):
                    session["engines"] = engines
                    keep_session()
            keep.write()
        waiting = postponed


def _spread_shards(
    run: Prepared,
    waiting: Sequence[Shard],
    store: RunStore,
    folder: Path,
    listener: Listener,
    session: dict[str, Any],
) -> None:
    """Over workers. Time in the model is that of one of them, on average."""
    from lr2eval.runs.spread import Answerer, PooledLM, Wanted, Work

    where = run.config.where
    lm = PooledLM(run.tokenizer.tokenizer, store, _identity(run), run.config.truncation)
    keep = _Results(run, store, folder)

    def finish(shard: Shard) -> None:
        try:
            _run_shard(run, shard, lm, store, listener)
        except Wanted:
            listener.shard_postponed()
            raise
        keep.write()

    device = run.settings["config"]["device"]
    load = partial(Answerer.load, run.checkpoint, run.config)
    listener.message(f"loading {run.checkpoint.name} in {where.count} workers")
    with where.pool(load, run.checkpoint, device) as pool:
        _show(run, waiting, listener, together=True)
        ours = run.config.backend == "hf" and run.config.memory_limit is None
        work = Work(lm, waiting, finish, where.count, memory=ours)
        for reply in pool.run(work):
            listener.batch_done(*work.take(reply), reply.seconds)
            session["model_seconds"] = round(work.model_seconds / where.count, 3)
            session["worker_deaths"] = pool.deaths


def _show(run: Prepared, waiting: Sequence[Shard], listener: Listener, *, together: bool = False) -> None:
    listener.run_started(run.shards, together=together)
    left = {shard.id for shard in waiting}
    for shard in run.shards:
        if shard.id not in left:
            listener.shard_kept(shard)


class _Results:
    """Keeps ``results.json`` up to date while shards end, in a twentieth of the time: what it costs grows with them."""

    def __init__(self, run: Prepared, store: RunStore, folder: Path) -> None:
        self._arguments = run, store, folder
        self._next = 0.0

    def write(self) -> None:
        began = time.monotonic()
        if began >= self._next:
            write_results(*self._arguments)
            ended = time.monotonic()
            self._next = ended + 20 * (ended - began)


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
"""Beside the model, what decides a response: part of every response key."""


def _run_shard(run: Prepared, shard: Shard, lm: Any, store: RunStore, listener: Listener) -> None:
    from lm_eval.evaluator import evaluate

    random.seed(run.config.seed)  # lm-eval's few-shot samplers may draw from the global generator
    task = _without_bar(shard.load())
    task.set_fewshot_seed(run.config.seed)
    name = task.config.task
    listener.shard_started(shard)
    lm.begin(shard.id, shard.length)
    chat = run.config.chat and shard.chat
    logged = evaluate(
        lm,
        {"tasks": {name: task}, "groups": {}, "group_map": {}},
        bootstrap_iters=0,
        apply_chat_template=chat,
        fewshot_as_multiturn=chat,
    )
    samples = scored_samples(shard, logged["samples"][name], lm.details, task.OUTPUT_TYPE, run.config.seed)
    if len(samples) != shard.n:
        raise RunFailedError(f"{shard.id}: {len(samples)} samples came back, {shard.n} were planned")
    _check_length(shard, samples)
    store.save_scores(shard.id, samples)
    result = shard_result(shard, samples)
    listener.shard_done(shard, result.score, result.n)


def _without_bar(task: Any) -> Any:
    """The task with its bar taken away: lm-eval draws one while it builds requests, and has no switch for it."""
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
    """The data promised a length in tokens; the model counted again. A score at a length nobody had is no score."""
    if shard.length is None:
        return
    budget = shard.length - (shard.max_new_tokens or 0)
    over = [sample.number for sample in samples if sample.detail.prompt_tokens > budget]
    if over:
        raise RunFailedError(
            f"{shard.id}: samples {over[:5]} hold more than {budget} prompt tokens as the model counts; the data was "
            "sized with another tokenizer or is damaged: remove it from the cache and run again"
        )


def write_results(run: Prepared, store: RunStore, folder: Path) -> Results:
    """Summarise what is scored so far into ``results.json``."""
    shards: list[ShardResult] = [
        shard_result(shard, store.samples(shard.id)) for shard in run.shards if store.shard_done(shard.id)
    ]
    checkpoint = run.checkpoint
    results = Results(
        lr2eval_version=__version__,
        digest=store.digest(),
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
            **rope_facts(checkpoint.rope_type, checkpoint.rope, checkpoint.config),
        ),
        settings=run.settings["config"],
        shards=shards,
        summaries=summaries(shards, run.headline),
        over_lengths=over_lengths(shards),
        not_run=list(run.not_run),
    )
    write_json(folder / RESULTS_FILE, results.model_dump(mode="json"))
    return results


def _new_manifest(run: Prepared, settings: dict[str, Any], command: Sequence[str]) -> dict[str, Any]:
    return {
        "created": now(),
        "finished": None,
        "command": list(command),
        "settings": settings,
        "config": run.config.model_dump(mode="json"),
        "model_folder": str(run.checkpoint.folder),
        "versions": versions(),
        "hardware": hardware(),
        "data": {shard.id: {"hash": shard.data_hash, **shard.data} for shard in run.shards},
        "not_run": [item.model_dump() for item in run.not_run],
        "sessions": [],
    }
