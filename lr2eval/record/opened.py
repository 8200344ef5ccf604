"""Open a finished run: its facts, its results, and pandas frames of shards and samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lr2eval.errors import StoreError
from lr2eval.record.results import RESULTS_FILE, Results, ShardResult
from lr2eval.record.store import RunStore
from lr2eval.record.verified import verified_run

if TYPE_CHECKING:
    import pandas as pd

_COLUMNS = (
    "id", "benchmark", "task", "length", "number", "prompt_hash", "answer", "gold", "score", "skipped",
    "prompt_tokens", "new_tokens", "truncated_tokens", "window", "finish",
)  # fmt: skip


@dataclass(frozen=True)
class RunFolder:
    """The folder of a run. ``manifest`` says what was run, where and how; ``results`` is ``results.json``."""

    path: Path
    manifest: Mapping[str, Any]
    results: Results

    @property
    def shards(self) -> pd.DataFrame:
        """A row for each task and length: ``benchmark``, ``task``, ``length``, ``n``, ``score`` (0 to 100), ``low`` and
        ``high`` of its interval, and the counts of ``results.json``."""
        import pandas as pd

        left_out = {"interval", "data", "cells", "windows"}
        rows = []
        for shard in self.results.shards:
            low, high = (shard.interval.low, shard.interval.high) if shard.interval else (None, None)
            rows.append({**shard.model_dump(exclude=left_out), "low": low, "high": high})
        columns = [*(name for name in ShardResult.model_fields if name not in left_out), "low", "high"]
        frame = pd.DataFrame(rows, columns=columns)
        return frame.astype({"length": "Int64", "score": float, "low": float, "high": float})

    @property
    def samples(self) -> pd.DataFrame:
        """A row for each scored sample: ``id``, ``benchmark``, ``task``, ``length``, ``number``, ``prompt_hash``,
        ``answer``, ``gold`` (a tuple), ``score`` (0 to 100), token counts, ``window`` (the RoPE factors that were used)
        and ``finish``; then the task's own columns, such as ``depth`` or ``subject``.
        """
        import pandas as pd

        rows: list[dict[str, Any]] = []
        with RunStore.read(self.path) as store:
            for sample in store.samples():
                ours = {**vars(sample), **vars(sample.detail)}
                # Our columns replace a task's column of the same name.
                rows.append({**sample.columns, **{name: ours[name] for name in _COLUMNS}})
        own = {name: None for row in rows for name in row if name not in _COLUMNS}  # in the order of appearance
        return pd.DataFrame(rows, columns=[*_COLUMNS, *own]).astype({"length": "Int64", "score": float})


def open_run(folder: Path | str) -> RunFolder:
    """Open the folder of a run and verify it: checksums, and that summary, samples and manifest agree.

    Raises :class:`lr2eval.StoreError` if it is not a run or is damaged.
    """
    path = Path(folder)
    if not (path / RESULTS_FILE).exists():
        inside = sorted(part.parent.name for part in path.glob(f"*/{RESULTS_FILE}"))
        if inside:
            raise StoreError(f"{path}: contains the runs {' and '.join(inside)}; open one of them")
    results, manifest = verified_run(path, unfinished=True)
    return RunFolder(path, manifest, results)
