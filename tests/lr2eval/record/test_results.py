from __future__ import annotations

import json

from jsonschema import Draft202012Validator

from lr2eval.record.results import Interval, ModelFacts, NotRun, Results, ShardResult, Summary
from tests.schemas import SCHEMAS

EXAMPLE = Results(
    lr2eval_version="0",
    digest="d",
    complete=True,
    model=ModelFacts(
        name="m", fingerprint="f", tokenizer_fingerprint="t", architecture="LlamaForCausalLM", parameters=1,
        dtype="float32", window=8192, original_window=None, rope_type="default", rope={"rope_theta": 1e4},
    ),
    settings={"seed": 0},
    shards=[
        ShardResult(
            benchmark="ruler", task="vt", length=4096, metric="string_match_all", n=2, score=50.0,
            interval=Interval(low=1.0, high=99.0, confidence=0.95, method="wilson"), empty=0, truncated=0, skipped=0,
            windows={"only": 2}, prompt_tokens=8000, new_tokens=60, data={"haystack": "noise"},
        )
    ],
    summaries=[
        Summary(
            benchmark="ruler", length=4096, over="tasks", headline=True, score=50.0,
            interval=Interval(low=1.0, high=99.0, confidence=0.95, method="mover-wilson"), n=2, tasks=1,
        )
    ],
    not_run=[NotRun(task="mmlu", length=None, reason="missing data")],
)  # fmt: skip


def test_results_conform_to_the_schema() -> None:
    validator = Draft202012Validator(json.loads((SCHEMAS / "results.schema.json").read_text(encoding="utf-8")))
    validator.check_schema(validator.schema)
    value = json.loads(EXAMPLE.model_dump_json())
    validator.validate(value)
    assert Results.model_validate(value) == EXAMPLE
    value["shards"][0]["seconds"] = 3.0
    assert not validator.is_valid(value), "timing or any other unknown key must be refused"
