"""Everything that can be checked before the model is loaded: checkpoint, lengths, tasks, data."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from lr2eval import plugins
from lr2eval.base.files import cache_dir
from lr2eval.base.units import format_length
from lr2eval.benchmark import Benchmark, SampleInfo, Shard, TaskContext
from lr2eval.errors import CheckpointError, MissingDataError, NotComparableError, RunFailedError, UsageError
from lr2eval.model.checkpoint import Checkpoint
from lr2eval.model.generation_file import stated_ends
from lr2eval.model.names import locate
from lr2eval.model.tokenizer import CHAT_DATE, PromptTokenizer
from lr2eval.record import bundle
from lr2eval.record.folder import read_manifest
from lr2eval.record.results import NotRun
from lr2eval.registry import LM_EVAL, resolve
from lr2eval.runs.backend import SERVERS, check_backend, check_options
from lr2eval.runs.card import FILE as CARD
from lr2eval.runs.card import Card
from lr2eval.runs.config import OF_ROPE, RunConfig, default_lengths
from lr2eval.runs.decoding import resolved
from lr2eval.runs.rope import check_rope, under_rope

NOT_LISTED = "not listed in the model's lr2eval.json; name the task to run it"


@dataclass(frozen=True)
class Prepared:
    """A run that can start: its shards have their data, its checkpoint was checked."""

    config: RunConfig
    checkpoint: Checkpoint
    tokenizer: PromptTokenizer
    lengths: tuple[int, ...]
    shards: tuple[Shard, ...]
    not_run: tuple[NotRun, ...]
    headline: Mapping[str, Any]
    card: str = ""
    """What the checkpoint's ``lr2eval.json`` chose, on one line."""
    kept_dtype: str = ""
    """The number type of the folder that this run resumes."""

    @cached_property
    def device(self) -> str:
        """The device of the run, as torch names it."""
        import torch

        return self.config.device or ("cuda" if torch.cuda.is_available() else "cpu")

    @cached_property
    def dtype(self) -> str:
        """The number type of the run; ``auto`` keeps that of a run begun before, on whichever processor."""
        asked = self.config.dtype
        if asked != "auto" or self.config.backend != "hf":
            return self.checkpoint.dtype if asked == "auto" else asked
        return self.kept_dtype or self.checkpoint.fitting_dtype(self.device)

    def at(self, folder: Path) -> Prepared:
        """This run in ``folder``, which may hold a part of it."""
        config = (read_manifest(folder) or {}).get("settings", {}).get("config", {})
        return replace(self, kept_dtype=config.get("dtype", ""))

    @cached_property
    def settings(self) -> dict[str, Any]:
        """What a run folder belongs to: configuration, model, tokenizer and the data of every shard.

        ``auto`` is replaced by its value, so that a run does not resume on another device without notice.
        """
        config = self.config.settings()
        config["lengths"] = list(self.lengths)
        if self.tokenizer.dated:
            config["chat_date"] = self.config.chat_date.isoformat()
        config["device"] = self.device
        if self.checkpoint.override:
            config = {key: value for key, value in config.items() if key not in OF_ROPE}
            config["rope"] = {**self.checkpoint.override, "window": self.checkpoint.window, **self.checkpoint.rope}
        config["dtype"] = self.dtype
        return {
            "config": config,
            "model": self.checkpoint.fingerprint,
            "tokenizer": self.tokenizer.fingerprint(),
            "data": {shard.id: shard.data_hash for shard in self.shards},
        }


def prepare(config: RunConfig, say: Callable[[str], None], original: Checkpoint | None = None) -> Prepared:
    """Check and gather everything that one run needs. Raises every error that can be known before a forward pass.

    ``original``: the baseline. Prompts that have a length of their own also run at its window.
    """
    check_asked(config)
    checkpoint = open_checkpoint(config.model, config)
    if config.rope is not None:
        checkpoint = under_rope(checkpoint, config)
    card = Card.read(checkpoint.folder)
    chose = card.choices(config, checkpoint.window)
    config = _decoding(card.applied(config, checkpoint.window), checkpoint)
    check_options(config, checkpoint)
    ends = (checkpoint.original_window or checkpoint.window, checkpoint.window) if config.rope is not None else ()
    lengths = config.lengths or default_lengths(checkpoint.window, *ends)
    _check_lengths(lengths, checkpoint, config)
    tokenizer = PromptTokenizer.load(checkpoint.folder, **config.prompts)
    if not tokenizer.dated:  # another date is the same run
        config = config.model_copy(update={"chat_date": CHAT_DATE})
    both = {checkpoint.window, min(checkpoint.window, original.window)} if original else {checkpoint.window}
    windows = config.lengths or tuple(sorted(both))
    shards, not_run, headline = make_shards(config, tokenizer, lengths, say, windows, card)
    if config.chat and any(shard.chat and shard.data.get("shots") for shard in shards):
        tokenizer.check_examples()
    note = f"{checkpoint.name}'s {CARD} chose: {chose}" if chose else ""
    return Prepared(config, checkpoint, tokenizer, lengths, shards, not_run, headline, note)


def prepare_pair(config: RunConfig, say: Callable[[str], None]) -> tuple[Prepared, Prepared]:
    """The original (``--baseline``) and the extended model (``--model``) on the same data; ``--rope`` is the latter's.

    Lengths beyond the original's window are not run for the original (and listed as such), unless
    ``beyond_window`` is set. Raises :class:`NotComparableError` when the tokenizers differ.
    """
    assert config.baseline is not None
    check_asked(config)
    checkpoint = open_checkpoint(config.baseline, config)
    tokenizer = PromptTokenizer.load(checkpoint.folder, **config.prompts)  # checked before data is made
    extended = prepare(config, say, checkpoint)
    if tokenizer.fingerprint() != extended.tokenizer.fingerprint():
        raise NotComparableError(
            f"{config.baseline} and {config.model} have different tokenizers, so their prompts differ; "
            "evaluate each model in its own run"
        )
    most = math.inf if config.beyond_window else checkpoint.window
    beyond = [shard for shard in extended.shards if (shard.length or 0) > most]
    reason = f"above the window of the original model ({checkpoint.window} tokens)"
    not_run = tuple(NotRun(task=shard.task, length=shard.length, reason=reason) for shard in beyond)
    original = replace(
        extended,
        config=_decoding(extended.config.without_rope(model=config.baseline, generation=config.generation), checkpoint),
        checkpoint=checkpoint,
        tokenizer=tokenizer,
        shards=tuple(shard for shard in extended.shards if shard not in beyond),
        not_run=extended.not_run + not_run,
    )
    return original, extended


def _decoding(config: RunConfig, checkpoint: Checkpoint) -> RunConfig:
    """``config`` with the decoding settings that ``generation.from_model`` stands for."""
    stated_ends(checkpoint)  # which raises for a broken file
    return config.model_copy(update={"generation": resolved(config.generation, checkpoint, config.backend)})


def open_checkpoint(name: str, config: RunConfig) -> Checkpoint:
    """The checkpoint of ``--model`` or ``--baseline``, checked."""
    folder = locate(name, offline=config.offline)
    checkpoint = Checkpoint.open(
        folder,
        cache=cache_dir(),
        name=name if not Path(name).exists() else None,
        trust_remote_code=config.trust_remote_code,
    )
    if config.backend == "hf" and not checkpoint.is_text_model:
        raise CheckpointError(
            f"{checkpoint.name}: transformers does not load {checkpoint.architecture} as a text model, so --backend hf "
            "cannot run it yet; choose --backend vllm or a server"
        )
    return checkpoint


def _check_lengths(lengths: Sequence[int], checkpoint: Checkpoint, config: RunConfig) -> None:
    beyond = [length for length in lengths if length > checkpoint.window]
    if beyond and not config.beyond_window:
        raise UsageError(
            f"{checkpoint.name}: the window (max_position_embeddings) is {checkpoint.window} tokens, but --lengths "
            f"asks for {format_length(beyond[0])}; choose --lengths up to {format_length(checkpoint.window)}, or add "
            "--set beyond_window=true to run beyond the window on purpose"
        )


def check_asked(config: RunConfig) -> None:
    """Check what needs no model, before a library that loads one is imported. Raises :class:`UsageError`."""
    check_backend(config)
    check_rope(config)
    config.where.check()
    if not config.where.here and config.backend in ("vllm", *SERVERS):
        raise UsageError(
            f"--workers: --backend {config.backend} spreads its own work; use --set "
            f"vllm.tensor_parallel_size=N for vllm, --set {config.backend}.num_concurrent=N for a server"
        )
    choose(config)


def choose(config: RunConfig) -> list[tuple[Benchmark, list[str]]]:
    """The benchmarks and tasks of ``config``. Raises :class:`UsageError` for a wrong name, option or folder."""
    if config.data_dir is not None and not config.data_dir.is_dir():
        raise UsageError(f"--data-dir {config.data_dir}: no such folder")
    # lm-eval logs advice for task authors each time a task is built: once for the plan, once for the run.
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    include = config.options.get("lm_eval", {}).get("include_path")
    if include is not None and not isinstance(include, str | Path):
        raise UsageError("lm_eval.include_path: must be a path; give the folder of your task's YAML file")
    chosen = resolve(config.tasks, include_path=Path(include) if include else None)
    _check_options(config, [benchmark for benchmark, _ in chosen])
    return chosen


def make_shards(
    config: RunConfig,
    tokenizer: PromptTokenizer,
    lengths: tuple[int, ...],
    say: Callable[[str], None],
    windows: tuple[int, ...] = (),
    card: Card | None = None,
) -> tuple[tuple[Shard, ...], tuple[NotRun, ...], dict[str, Any]]:
    """(shards with their data made, what cannot run, headline by benchmark) of the tasks of ``config``.

    ``windows``: where to run prompts that have a length of their own; all ``lengths`` if empty. ``card``: the tasks
    that the model was made for.
    """
    context = TaskContext(
        tokenizer=tokenizer,
        lengths=lengths,
        cache_dir=cache_dir(),
        windows=windows or lengths,
        progress=say,
        **config.model_dump(include={"samples_per_task", "seed", "limit", "data_dir", "offline", "truncation"}),
    )
    chosen = choose(config)
    if config.data_dir is not None:
        bundle.check(config.data_dir, [benchmark.name for benchmark, _ in chosen])
    shards: list[Shard] = []
    not_run: list[NotRun] = []
    missing: list[str] = []
    without: list[str] = []
    for benchmark, all_tasks in chosen:
        tasks, left_out = (card or Card()).chosen(config, benchmark.name, all_tasks)
        not_run += [NotRun(task=task, length=None, reason=NOT_LISTED) for task in left_out]
        own = replace(context, options=config.options.get(benchmark.name, {}))
        try:
            shards += benchmark.prepare(tasks, own)
        except MissingDataError as error:
            missing += error.missing
            whole = len(error.tasks) in (0, len(benchmark.tasks()))
            without += [benchmark.name] if whole else [f"{benchmark.name}:{task}" for task in error.tasks]
            reasons = error.tasks or {benchmark.name: "; ".join(error.missing)}
            not_run += [NotRun(task=task, length=None, reason=f"missing data: {why}") for task, why in reasons.items()]
            rest = [task for task in tasks if error.tasks and task not in error.tasks]
            if rest and config.missing_data == "skip":
                shards += benchmark.prepare(rest, own)
    if missing and config.missing_data == "error":
        raise MissingDataError(
            f"missing data: {'; '.join(dict.fromkeys(missing))} ({bundle.how_to_get(without)}or run the rest with "
            "--set missing_data=skip)",
            tuple(missing),
        )
    shards = [_checked(shard) for shard in shards]
    # Two suites may include the same task: run it once.
    shards = [shard for shard in {shard.id: shard for shard in shards}.values() if shard.n]
    if not shards:
        raise MissingDataError("nothing to run: " + ("; ".join(missing) or "--limit leaves no sample of any task"))
    # Short lengths first: results come early, and a failure at the longest length loses no finished work.
    shards.sort(key=lambda shard: shard.length or 0)
    return tuple(shards), tuple(not_run), {benchmark.name: benchmark.headline for benchmark, _ in chosen}


def _checked(shard: Shard) -> Shard:
    """A shard of another package: what its code raises during the run becomes a :class:`RunFailedError`."""
    author = plugins.made_by(plugins.TASKS, shard.benchmark)
    if not author and shard.benchmark != LM_EVAL.name:
        return shard
    what = f"{shard.id} of {author or 'lm-eval ' + shard.version.partition('/')[0]}"

    def load() -> Any:
        task = plugins.checked(shard.load, what, RunFailedError)()
        for name, gives in (("build_all_requests", object), ("apply_filters", object), ("process_results", dict)):
            setattr(task, name, plugins.checked(getattr(task, name), what, RunFailedError, gives))
        return task

    return replace(shard, load=load, describe=plugins.checked(shard.describe, what, RunFailedError, SampleInfo))


def _check_options(config: RunConfig, benchmarks: Sequence[Benchmark]) -> None:
    names = {benchmark.name for benchmark in benchmarks}
    for name in config.options:
        if name not in names | {config.backend.replace("-", "_"), "ray"}:
            raise UsageError(
                f"options for {name!r}: this run has no such backend or benchmark; choose among "
                f"{', '.join(sorted(names))}"
            )
