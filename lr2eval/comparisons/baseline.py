"""A baseline one can commit: ids, prompt hashes and scores of a run, without prompts, answers or the model.

CI compares an extended model against it and need not run the original again. The file is JSON; per shard it holds two
48-bit prefixes a sample (id, prompt hash) and an index into the distinct scores, each as base64. Equal runs give
equal bytes. ``sha256`` covers the rest of the file, so a changed score is found.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from lr2eval.base.files import write_atomic
from lr2eval.base.ids import digest
from lr2eval.comparisons.sources import ID_DIGITS, ShardScores, Source
from lr2eval.errors import NotComparableError, UsageError
from lr2eval.record.comparison import Side

KIND = "lr2eval baseline"
SCHEMA_VERSION = 1


def save_baseline(source: Source, out: Path) -> Path:
    """Write the baseline of a run. Raises :class:`NotComparableError` for an unfinished run."""
    if not source.side.complete:
        raise NotComparableError(
            f"{source.side.source}: unfinished, so no baseline; run the same `lr2eval run` command again to finish it"
        )
    value = {
        "kind": KIND,
        "schema_version": SCHEMA_VERSION,
        "side": source.side.model_copy(update={"kind": "baseline"}).model_dump(mode="json"),
        "headline": dict(source.headline),
        "not_run": dict(source.not_run),
        "shards": {name: _packed(shard) for name, shard in source.shards.items()},
    }
    lines = json.dumps({**value, "sha256": digest(value)}, indent=1, ensure_ascii=False, allow_nan=False)
    write_atomic(out, lines + "\n")
    return out


def load_baseline(path: Path) -> Source:
    """Read a baseline file. :class:`UsageError` if it is none or of another version, :class:`NotComparableError` if
    it was changed or cut short."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}; give a file of `lr2eval baseline save`") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: no text; give a file of `lr2eval baseline save`") from error
    try:
        value = json.loads(text)
    except ValueError as error:
        if KIND in text[:200]:
            raise NotComparableError(
                f"{path}: cut short or damaged ({error}); restore it from version control"
            ) from error
        raise UsageError(f"{path}: no JSON ({error}); give a file of `lr2eval baseline save`") from error
    if not isinstance(value, dict) or value.get("kind") != KIND:
        raise UsageError(f"{path}: not a baseline of lr2eval; give a file of `lr2eval baseline save`")
    if value.get("schema_version") != SCHEMA_VERSION:
        raise UsageError(
            f"{path}: baseline schema version {value.get('schema_version')!r}, this lr2eval reads {SCHEMA_VERSION}; "
            "save it again with `lr2eval baseline save` from the run"
        )
    stated = value.pop("sha256", None)
    if stated != _digest(value):
        raise NotComparableError(f"{path}: changed since it was saved (its checksum differs); restore or save it again")
    try:
        side = Side.model_validate(value["side"]).model_copy(update={"source": path.name})
        return Source(side, {k: _unpacked(v) for k, v in value["shards"].items()}, value["headline"], value["not_run"])
    except (ValidationError, KeyError, TypeError, ValueError, AttributeError, binascii.Error) as error:
        # The checksum fits, so another version wrote it under this version's number.
        reason = " ".join(str(error).split())[:120]
        raise UsageError(f"{path}: not in the layout of this lr2eval ({reason}); save it again from the run") from error


def _digest(value: Any) -> str | None:
    try:
        return digest(value)
    except ValueError:  # a NaN somebody wrote
        return None


def _packed(shard: ShardScores) -> dict[str, Any]:
    values = sorted({float(score) for score in shard.scores if not math.isnan(score)})
    place = {value: number for number, value in enumerate(values)}
    skipped = len(values)
    codes = np.array([skipped if math.isnan(s) else place[float(s)] for s in shard.scores], dtype="<u4")
    width = "<u1" if skipped < 256 else "<u4"
    return {
        "benchmark": shard.benchmark,
        "task": shard.task,
        "length": shard.length,
        "metric": shard.metric,
        "n": shard.n,
        "values": values,
        "ids": _hex_to_base64(shard.ids),
        "prompts": _hex_to_base64(shard.prompts),
        "codes": base64.b64encode(codes.astype(width).tobytes()).decode(),
        "truncated": {str(i): int(t) for i, t in enumerate(shard.truncated) if t},
    }


def _unpacked(packed: Mapping[str, Any]) -> ShardScores:
    n, values = int(packed["n"]), [float(value) for value in packed["values"]]
    width = "<u1" if len(values) < 256 else "<u4"
    codes = np.frombuffer(base64.b64decode(packed["codes"], validate=True), dtype=width)
    ids, prompts = _base64_to_hex(packed["ids"]), _base64_to_hex(packed["prompts"])
    if not len(codes) == len(ids) == len(prompts) == n:
        raise ValueError(f"{packed['task']}: {n} samples named, {len(codes)} scores found")
    return ShardScores(
        benchmark=packed["benchmark"],
        task=packed["task"],
        length=packed["length"],
        metric=packed["metric"],
        ids=ids,
        prompts=prompts,
        scores=np.array([*values, math.nan])[codes],
        truncated=[int(packed["truncated"].get(str(i), 0)) for i in range(n)],
    )


def _hex_to_base64(names: Sequence[str]) -> str:
    return base64.b64encode(bytes.fromhex("".join(names))).decode()


def _base64_to_hex(text: str) -> list[str]:
    joined = base64.b64decode(text, validate=True).hex()
    return [joined[i : i + ID_DIGITS] for i in range(0, len(joined), ID_DIGITS)]
