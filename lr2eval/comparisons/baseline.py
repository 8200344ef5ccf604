"""Baseline files: ids, prompt hashes and scores of a run, without prompts, answers or the model.

Users commit such a file, so that CI compares an extended model without running the original again. The file is JSON.
For each sample of a shard it has 48 bits of the id, 48 bits of the prompt hash and an index into the distinct scores,
all as base64. Equal runs give equal bytes. ``sha256`` covers the rest of the file, so a changed score is detected.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lr2eval.base.files import write_atomic
from lr2eval.base.reading import parse_json, read_bytes
from lr2eval.comparisons.scores import ID_DIGITS, RunScores, ShardScores
from lr2eval.errors import NotComparableError, UsageError
from lr2eval.record.base import SEAL, check_seal, other_version, sealed
from lr2eval.record.comparison import Side
from lr2eval.record.results import NAMES

KIND = "lr2eval baseline"
SCHEMA_VERSION = 1
GIVE = "give a file from `lr2eval baseline save`"
RESTORE = "restore it from version control or save it again"
SAVE_AGAIN = "save it again from the run with `lr2eval baseline save`"


def save_baseline(run: RunScores, out: Path) -> Path:
    """Write the baseline of a run. Raises :class:`NotComparableError` if the run is not finished."""
    if not run.side.complete:
        raise NotComparableError(
            f"{run.side.source}: the run is not finished, so it cannot be a baseline; run the same `lr2eval run` "
            "command again to finish it"
        )
    value = {
        "kind": KIND,
        "schema_version": SCHEMA_VERSION,
        "side": run.side.model_copy(update={"kind": "baseline"}).model_dump(mode="json", exclude={"checksum"}),
        "headline": dict(run.headline),
        "not_run": dict(run.not_run),
        "shards": {name: _packed(shard) for name, shard in run.shards.items()},
    }
    write_atomic(out, json.dumps(sealed(value), indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    return out


def load_baseline(path: Path) -> RunScores:
    """Read a baseline file.

    Raises :class:`UsageError` for any other file and for another schema version, :class:`NotComparableError` if the
    file was changed or is incomplete.
    """
    text = read_bytes(path, fix=GIVE)
    if KIND.encode() in text[:200]:
        value = parse_json(text, f"{path}: incomplete or damaged", error=NotComparableError, fix=RESTORE)
    else:
        value = parse_json(text, str(path), fix=GIVE)
    if not isinstance(value, dict) or value.get("kind") != KIND:
        raise UsageError(f"{path}: not a baseline file of lr2eval; {GIVE}")
    if (version := value.get("schema_version")) != SCHEMA_VERSION:
        raise UsageError(f"{path}: {other_version(version, SCHEMA_VERSION)}; {SAVE_AGAIN}")
    check_seal(value, path, RESTORE, must=True, error=NotComparableError)
    try:
        side = Side.model_validate(value["side"]).model_copy(update={"source": path.name, "checksum": value[SEAL]})
        shards = {name: _unpacked(shard) for name, shard in value["shards"].items()}
        return RunScores(side, shards, value["headline"], value["not_run"])
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        # The checksum fits, so another version of lr2eval wrote it under this schema version.
        reason = " ".join(str(error).split())[:120]
        raise UsageError(f"{path}: not in the layout of this lr2eval ({reason}); {SAVE_AGAIN}") from error


def _packed(shard: ShardScores) -> dict[str, Any]:
    distinct, codes = np.unique(shard.scores, return_inverse=True)  # ascending, with NaN (skipped) last
    values = distinct[~np.isnan(distinct)].tolist()
    width = "<u1" if len(values) < 256 else "<u4"
    return {
        **{name: getattr(shard, name) for name in NAMES},
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
        raise ValueError(f"{packed['task']}: n is {n}, but there are {len(codes)} scores and {len(ids)} ids")
    return ShardScores(
        **{name: packed[name] for name in NAMES},
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
