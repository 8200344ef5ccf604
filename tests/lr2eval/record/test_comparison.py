from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest

from lr2eval.comparisons.compare import compare, read_all
from lr2eval.comparisons.gate import judge
from lr2eval.comparisons.gate_config import GateConfig
from lr2eval.record import comparison
from tests.fake_runs import fake_run, ones


def test_committed_schemas_are_the_models() -> None:
    for name, text in comparison.schema_texts().items():
        committed = (comparison.SCHEMAS / name).read_text(encoding="utf-8")
        assert committed == text, f"{name} drifted: run python -m lr2eval.record.comparison"


@pytest.mark.parametrize("n", [1, 30])
def test_what_is_written_fits_the_schemas_and_reads_back(tmp_path: Path, n: int) -> None:
    shards = {"mmlu/a": ones(n), "ruler/vt@4096": ones(n), "ruler/vt@8192": ones(n)}
    sources = read_all([fake_run(tmp_path / "a", shards), fake_run(tmp_path / "b", shards)])
    done = compare(sources[0], sources[1:])
    gate = judge(done.compared[0], GateConfig())
    for value, name in ((done.comparison, "comparison"), (gate, "gate")):
        text = json.dumps(value.model_dump(mode="json"), allow_nan=False)
        jsonschema.validate(json.loads(text), json.loads(comparison.schema_texts()[f"{name}.schema.json"]))
        assert type(value).model_validate_json(text) == value
