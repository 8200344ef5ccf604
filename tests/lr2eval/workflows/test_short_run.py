"""The short suite from end to end on a tiny model: one score for each column, nothing twice, samples in clusters."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lr2eval.record.store import RunStore
from lr2eval.tasks.shared.upstream import mmlu_files
from tests.tasks.short.test_source import GSM8K, HELLASWAG, MMLU_PRO, TRUTHFULQA, write

Run = Callable[..., Any]


def make(home: Path) -> Path:
    """Two rows of everything, one of each subject of MMLU."""
    write(home, "hellaswag", "hellaswag_val.jsonl", HELLASWAG, {**HELLASWAG, "label": 0})
    write(home, "hellaswag", "hellaswag_train.jsonl", *({**HELLASWAG, "activity_label": f"R{n}"} for n in range(11)))
    write(home, "gsm8k", "test.jsonl", GSM8K, GSM8K)
    write(home, "gsm8k", "train.jsonl", *[GSM8K] * 5)
    write(home, "truthfulqa", "mc_task.json", TRUTHFULQA, TRUTHFULQA)
    pro = [{**MMLU_PRO, "category": "law", "question_id": n} for n in range(2)]
    write(home, "mmlu_pro", "test.jsonl", *pro)
    write(home, "mmlu_pro", "validation.jsonl", *pro)
    for subject in mmlu_files():
        for split in ("test", "dev"):
            path = home / "mmlu" / split / f"{subject}_{split}.csv"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("Q?,a,b,c,d,A\n" * (5 if split == "dev" else 1))
    return home


def test_every_column_has_a_score(toy_checkpoint: Path, tmp_path: Path, lr2eval: Run) -> None:
    run = tmp_path / "run"
    tasks = "short:mmlu_pro,short:hellaswag,short:truthfulqa,short:gsm8k"
    done = lr2eval("run", "--model", toy_checkpoint, "--tasks", tasks, "--dtype", "float32", "--device", "cpu",
                   "--set", "short.max_new_tokens=8", "--set", "short.mmlu_pro_shots=1", "--offline",
                   "--data-dir", make(tmp_path / "data"), "--out", run)  # fmt: skip
    assert done.code == 0, done.err
    results = json.loads((run / "results.json").read_text())
    found = {row["benchmark"]: (row["n"], row["over"]) for row in results["summaries"] if row["headline"]}
    names = ("mmlu_pro", "hellaswag", "truthfulqa_mc1", "truthfulqa_mc2", "gsm8k")
    assert found == dict.fromkeys(names, (2, "samples"))
    with RunStore.read(run) as store:
        samples = {shard["task"]: list(store.samples(f"{shard['benchmark']}/{shard['task']}"))
                   for shard in results["shards"]}  # fmt: skip
    assert all(0 <= sample.score <= 100 for kept in samples.values() for sample in kept)
    assert [sample.columns["document"] for sample in samples["hellaswag"]] == ["v1", "v1"]
    assert all(sample.detail.new_tokens <= 8 for sample in samples["gsm8k"])
    assert {"exact_match,strict-match", "exact_match,flexible-extract"} <= set(samples["gsm8k"][0].metrics)
    assert "Published scores, not from this run" in (run / "report.html").read_text()


def test_nothing_is_run_twice(toy_checkpoint: Path, tmp_path: Path, lr2eval: Run) -> None:
    done = lr2eval("run", "--model", toy_checkpoint, "--tasks", "mmlu:anatomy,short:mmlu,short:gsm8k,short:truthfulqa",
                   "--offline", "--data-dir", make(tmp_path / "data"), "--dry-run")  # fmt: skip
    assert done.code == 0, done.err
    rows = [line.split() for line in done.err.splitlines()]
    assert ["mmlu", "(57", "tasks)", "57"] in [row[:4] for row in rows]


def test_too_few_examples_are_found_before_the_run(toy_checkpoint: Path, tmp_path: Path, lr2eval: Run) -> None:
    data = make(tmp_path / "data")
    (data / "mmlu" / "dev" / "anatomy_dev.csv").write_text("Q?,a,b,c,d,A\n")
    done = lr2eval("run", "--model", toy_checkpoint, "--tasks", "mmlu:anatomy", "--offline", "--data-dir", data,
                   "--dry-run")  # fmt: skip
    assert done.code == 2
    assert "mmlu_anatomy: its prompts cannot be built (" in done.error
