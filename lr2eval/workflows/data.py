"""Make the data files that a run would use, and copy them where the user wants them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lr2eval._version import __version__
from lr2eval.base.files import cache_dir, output_folder, read_parts, write_hashed, write_json
from lr2eval.base.reading import read_object
from lr2eval.benchmark import Shard
from lr2eval.errors import StoreError, UsageError
from lr2eval.listener import Listener, with_listener
from lr2eval.runs.config import RunConfig, default_lengths

MANIFEST = "manifest.json"
KIND = "lr2eval data"
"""Marks the manifest of such a folder."""


@with_listener
def make_data(config: RunConfig, out: Path, *, listener: Listener | None = None) -> dict[str, dict[str, Any]]:
    """Write a manifest and one JSONL file per task and length, byte for byte the file that a run reads.

    Returns the facts of every file by its name. Raises :class:`UsageError` for tasks whose prompts are not made from
    data files and for a folder that holds anything else. The same call writes the same bytes again.
    """
    from lr2eval.model.checkpoint import Checkpoint
    from lr2eval.model.names import locate
    from lr2eval.model.tokenizer import PromptTokenizer
    from lr2eval.runs.prepare import choose, make_shards

    chosen = choose(config)
    folder = locate(config.model, offline=config.offline)
    tokenizer = PromptTokenizer.load(folder, **config.prompts)
    lengths = config.lengths or default_lengths(Checkpoint.open(folder, cache=cache_dir()).window)
    # Before hours of work: can the files be written there?
    _check_folder(out, {f"{task}-{n}.jsonl" for _, tasks in chosen for task in tasks for n in lengths})
    shards, not_run, _ = make_shards(config, tokenizer, lengths, (listener or Listener()).message)
    sources = {f"{shard.task}-{shard.length}.jsonl": (_source(shard), shard) for shard in shards}
    if len(sources) < len(shards):
        raise UsageError("two benchmarks have tasks of the same name; run this command once for each benchmark")
    settings = config.settings()
    files = {name: _facts(shard) for name, (_, shard) in sources.items()}
    manifest = {
        "kind": KIND,
        "lr2eval_version": __version__,
        "tokenizer": tokenizer.fingerprint(),
        "settings": {key: settings[key] for key in ("tasks", "samples_per_task", "limit", "seed", "chat", "options")}
        | {"lengths": list(lengths)},
        "files": files,
        "not_made": [item.model_dump() for item in not_run],
    }
    _write(out, {name: path for name, (path, _) in sources.items()}, manifest)
    return files


def _source(shard: Shard) -> Path:
    file = shard.data.get("file")
    if file is None or shard.length is None:
        raise UsageError(
            f"{shard.benchmark}: its prompts are not made to a length, so there is no data to make; "
            "leave it out of --tasks"
        )
    return cache_dir() / str(file)


def _facts(shard: Shard) -> dict[str, Any]:
    known = {
        "benchmark": shard.benchmark,
        "task": shard.task,
        "length": shard.length,
        "samples": shard.n,
        "max_new_tokens": shard.max_new_tokens,
    }
    return known | {key: value for key, value in shard.data.items() if key != "file"}


def _check_folder(out: Path, names: set[str]) -> None:
    foreign = sorted(output_folder(out) - names - ({MANIFEST} if _is_ours(out / MANIFEST) else set()))
    if foreign:
        raise UsageError(
            f"--out {out}: holds {foreign[0]}, which this command does not write; choose an empty or new folder"
        )


def _is_ours(manifest: Path) -> bool:
    try:
        return read_object(manifest).get("kind") == KIND
    except UsageError:
        return False


def _write(out: Path, sources: Mapping[str, Path], manifest: Mapping[str, Any]) -> None:
    """Remove the old manifest first and write the new one last, so that a manifest never lists a wrong file."""
    try:
        (out / MANIFEST).unlink(missing_ok=True)
    except OSError as error:
        raise StoreError(f"{out}: {error.strerror or error}; fix this and run the same command again") from error
    for name, source in sources.items():
        written, _ = write_hashed(out / name, read_parts(source))
        if written != manifest["files"][name]["sha256"]:
            raise StoreError(f"{source}: changed while it was copied; run the same command again")
    write_json(out / MANIFEST, manifest)
