"""Running prepared shards on a backend into a run folder that survives anything (design D2)."""

from __future__ import annotations

import contextlib
import logging
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from lr2eval import _manifest, _results
from lr2eval._backend import load_backend
from lr2eval._errors import Lr2EvalError, RunFailedError, StoreError, UsageError
from lr2eval._paths import write_json
from lr2eval._prepare import Prepared
from lr2eval._progress import RunProgress
from lr2eval._results import ModelFacts, Results, ShardResult
from lr2eval._rope_facts import rope_facts
from lr2eval._scoring import scored_samples
from lr2eval._store import RunStore, StoredSample
from lr2eval._summary import over_lengths, shard_result, summaries
from lr2eval._types import Shard
from lr2eval._version import __version__

if TYPE_CHECKING:
    from lr2eval._recording import RecordingLM


@dataclass(frozen=True)
class Finished:
    """What a run left behind."""

    folder: Path
    results: Results
    wall_seconds: float
    model_seconds: float


def execute(run: Prepared, folder: Path, command: Sequence[str], progress: RunProgress) -> Finished:
    """Run what is not finished yet in ``folder`` and write ``results.json``.

    Raises :class:`UsageError` when the folder holds another configuration or foreign files, and the errors of
    backend and store; whatever was finished is in the store and the same call goes on from there.
    """
    started = time.perf_counter()
    _open_folder(folder)
    try:
        lock = FileLock(folder / "run.lock", timeout=0)
        with lock:
            return _locked(run, folder, command, progress, started)
    except Timeout:
        raise StoreError(
            f"{folder}: another lr2eval is writing this run; wait for it or choose another --out"
        ) from None
    except OSError as error:
        raise StoreError(f"{folder}: {error.strerror or error}; mend that and run the same command again") from error


def _open_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".write-probe"
        probe.touch()
        probe.unlink()
        entries = {entry.name for entry in folder.iterdir()}
    except OSError as error:
        raise UsageError(f"--out {folder}: {error.strerror or error}; choose a folder that can be written") from error
    if entries - {"run.lock"} and _manifest.FILE not in entries:
        raise UsageError(f"--out {folder}: holds files that are no lr2eval run; choose an empty or new folder")


def _locked(run: Prepared, folder: Path, command: Sequence[str], progress: RunProgress, started: float) -> Finished:
    settings = run.settings
    manifest = _manifest.read(folder)
    if manifest is not None:
        _manifest.refuse_other(manifest["settings"], settings, folder)
    else:
        manifest = _new_manifest(run, settings, command)
    session: dict[str, Any] = {
        "started": _manifest.now(),
        "outcome": "running",
        "versions": _manifest.versions(),
        "model_seconds": 0.0,
        **run.config.where.facts(),
    }
    manifest["sessions"].append(session)
    _manifest.write(folder, manifest)

    def close_session(outcome: str) -> None:
        session.update(outcome=outcome, ended=_manifest.now(), wall_seconds=round(time.perf_counter() - started, 3))
        manifest["finished"] = session["ended"] if outcome == "finished" else None
        _manifest.write(folder, manifest)

    with RunStore.create(folder) as store:
        try:
            waiting = [shard for shard in run.shards if not store.shard_done(shard.id)]
            if waiting:
                _run_shards(run, waiting, store, folder, progress, session, lambda: _manifest.write(folder, manifest))
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
    progress: RunProgress,
    session: dict[str, Any],
    keep_session: Callable[[], None],
) -> None:
    from lr2eval._recording import RecordingLM

    if not run.config.where.here:
        _spread_shards(run, waiting, store, folder, progress, session)
        return
    progress.message(f"loading {run.checkpoint.name}")
    lm = RecordingLM(load_backend(run.checkpoint, run.config), store, _identity(run), truncation=run.config.truncation)
    _show(run, waiting, progress)
    with contextlib.closing(lm):  # an engine keeps its memory until then, and a second run may follow
        _in_turns(run, waiting, lm, store, folder, progress, session, keep_session)


def _in_turns(
    run: Prepared,
    waiting: Sequence[Shard],
    lm: RecordingLM,
    store: RunStore,
    folder: Path,
    progress: RunProgress,
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
                _run_shard(run, shard, lm, store, progress)
            except Postponed:
                postponed.append(shard)
                progress.shard_postponed()
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
    progress: RunProgress,
    session: dict[str, Any],
) -> None:
    """Over workers. Time in the model is that of one of them, on average."""
    from lr2eval._pool import Loading, PooledLM, Wanted, Work

    where = run.config.where
    lm = PooledLM(run.tokenizer.tokenizer, store, _identity(run), run.config.truncation)
    keep = _Results(run, store, folder)

    def finish(shard: Shard) -> None:
        try:
            _run_shard(run, shard, lm, store, progress)
        except Wanted:
            progress.shard_postponed()
            raise
        keep.write()

    device = run.settings["config"]["device"]
    loading = Loading(run.checkpoint, run.config, device)
    progress.message(f"loading {run.checkpoint.name} in {where.count} workers")
    with where.pool(loading, device) as pool:
        _show(run, waiting, progress, together=True)
        ours = run.config.backend == "hf" and run.config.memory_limit is None
        work = Work(lm, waiting, finish, where.count, memory=ours)
        for reply in pool.run(work):
            progress.batch_of_any(*work.take(reply))
            session["model_seconds"] = round(work.model_seconds / where.count, 3)
            session["worker_deaths"] = pool.deaths


def _show(run: Prepared, waiting: Sequence[Shard], progress: RunProgress, *, together: bool = False) -> None:
    progress.start(run.shards, together=together)
    left = {shard.id for shard in waiting}
    for shard in run.shards:
        if shard.id not in left:
            progress.shard_kept(shard)


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


def _run_shard(run: Prepared, shard: Shard, lm: Any, store: RunStore, progress: RunProgress) -> None:
    from lm_eval.evaluator import evaluate

    random.seed(run.config.seed)  # lm-eval's few-shot samplers may draw from the global generator
    task = shard.load()
    task.set_fewshot_seed(run.config.seed)
    name = task.config.task
    progress.shard_started(shard)
    lm.begin(shard.id, shard.length)
    lm.on_batch = progress.batch_done
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
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
    progress.shard_done(shard, result.score, result.n)


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
    write_json(folder / _results.FILE, results.model_dump(mode="json"))
    return results


def _new_manifest(run: Prepared, settings: dict[str, Any], command: Sequence[str]) -> dict[str, Any]:
    return {
        "created": _manifest.now(),
        "finished": None,
        "command": list(command),
        "settings": settings,
        "config": run.config.model_dump(mode="json"),
        "model_folder": str(run.checkpoint.folder),
        "versions": _manifest.versions(),
        "hardware": _manifest.hardware(),
        "data": {shard.id: {"hash": shard.data_hash, **shard.data} for shard in run.shards},
        "not_run": [item.model_dump() for item in run.not_run],
        "sessions": [],
    }
