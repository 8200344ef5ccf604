from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest

from lr2eval.comparisons.compare import compare_runs, read_all
from lr2eval.comparisons.gate import judge
from lr2eval.comparisons.gate_config import GateConfig
from lr2eval.errors import StoreError
from lr2eval.record.base import Record, read_record
from lr2eval.record.comparison import Comparison, Gate
from tests.fake_runs import fake_run, ones
from tests.schemas import SCHEMAS, schema_texts


def test_committed_schemas_are_the_models() -> None:
    for name, text in schema_texts().items():
        committed = (SCHEMAS / name).read_text(encoding="utf-8")
        assert committed == text, f"{name} drifted: run python -m tests.schemas"


@pytest.mark.parametrize("n", [1, 30])
def test_what_is_written_fits_the_schemas_and_reads_back(tmp_path: Path, n: int) -> None:
    shards = {"mmlu/a": ones(n), "ruler/vt@4096": ones(n), "ruler/vt@8192": ones(n)}
    sources = read_all([fake_run(tmp_path / "a", shards), fake_run(tmp_path / "b", shards)])
    comparison, (pair,) = compare_runs(sources[0], sources[1:])
    gate = judge(pair, GateConfig())
    for value, name in ((comparison, "comparison"), (gate, "gate")):
        text = json.dumps(value.model_dump(mode="json"), allow_nan=False)
        jsonschema.validate(json.loads(text), json.loads(schema_texts()[f"{name}.schema.json"]))
        assert type(value).model_validate_json(text) == value


@pytest.mark.parametrize(("file", "model"), [("compare/comparison.json", Comparison), ("gate/gate.json", Gate)])
def test_a_file_of_the_old_schema_is_refused_with_both_versions(file: str, model: type[Record]) -> None:
    """Nothing in the product reads these files, so there is no conversion."""
    old = Path(__file__).parents[2] / "assets" / "runs-9c8e5ba" / file
    with pytest.raises(StoreError) as caught:
        read_record(old, model, missing="give a file", repair="compare the runs again")
    assert str(caught.value) == (
        f"{old}: has schema version 1, but this lr2eval reads version 3; compare the runs again"
    )
