"""The suite: lm-eval's own prompts over our rows, examples from the right split, scores as lm-eval's."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lr2eval.benchmark import TaskContext
from lr2eval.errors import MissingDataError, TaskError, UsageError
from lr2eval.registry import resolve
from lr2eval.tasks.shared import lm_eval
from lr2eval.tasks.short import SHORT, source
from lr2eval.tasks.short.benchmark import COLUMNS, true_probability
from tests.tasks.short.test_source import GSM8K, HELLASWAG, MMLU_PRO, TRUTHFULQA, write

Context = Callable[..., TaskContext]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Everything but MMLU, in few rows, each telling its split and number."""

    def texts(split: str, count: int) -> list[dict[str, Any]]:
        return [{**HELLASWAG, "activity_label": f"{split} {n}", "source_id": f"v{n // 2}"} for n in range(count)]

    def sums(split: str, count: int) -> list[dict[str, Any]]:
        return [{**GSM8K, "question": f"{split} {n}?"} for n in range(count)]

    def pro(split: str, count: int) -> list[dict[str, Any]]:
        kinds = ("computer science", "law")
        return [
            {**MMLU_PRO, "question_id": 2 * n + at, "question": f"{split} {kind} {n}?", "category": kind}
            for n in range(count)
            for at, kind in enumerate(kinds)
        ]

    home = tmp_path / "data"
    write(home, "hellaswag", "hellaswag_val.jsonl", *texts("val", 6))
    write(home, "hellaswag", "hellaswag_train.jsonl", *texts("train", 30))
    write(home, "gsm8k", "test.jsonl", *sums("test", 4))
    write(home, "gsm8k", "train.jsonl", *sums("train", 20))
    write(home, "mmlu_pro", "test.jsonl", *pro("test", 3))
    write(home, "mmlu_pro", "validation.jsonl", *pro("dev", 5))
    write(home, "truthfulqa", "mc_task.json", *({**TRUTHFULQA, "question": f"Is it {n}?"} for n in range(4)))
    return home


def test_names() -> None:
    names = ["mmlu", "mmlu_pro", "hellaswag", "truthfulqa_mc1", "truthfulqa_mc2", "gsm8k"]
    assert [info.name for info in SHORT.tasks()] == list(SHORT.select(None)) == names
    assert SHORT.select("truthfulqa") == ["truthfulqa_mc1", "truthfulqa_mc2"]
    assert SHORT.select("gsm8k") == ["gsm8k"]
    with pytest.raises(TaskError, match=r"short:helaswag: .*'hellaswag'"):
        SHORT.select("helaswag")


def test_lm_evals_names_stay_lm_evals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``hellaswag`` alone is lm-eval's own task, as it was; only ``short:hellaswag`` is the suite's."""

    class Foreign:
        name = "lm_eval"

        def knows(self, name: str) -> bool:
            return name in COLUMNS

        def select(self, selector: str) -> list[str]:
            return [selector]

    monkeypatch.setattr("lr2eval.tasks.lmeval.lm_eval_benchmark", lambda _: Foreign())
    ((foreign, plain), (ours, suite)) = resolve("hellaswag,short:hellaswag")
    assert (foreign.name, plain, ours.name, suite) == ("lm_eval", ["hellaswag"], "short", ["hellaswag"])


def test_shards(data: Path, context: Context) -> None:
    shards = SHORT.prepare(list(COLUMNS), context(data_dir=data, offline=True))
    found = {shard.id: (shard.n, shard.metric, shard.data["shots"], shard.max_new_tokens) for shard in shards}
    assert found == {
        "mmlu_pro/mmlu_pro_computer_science": (3, "exact_match", 5, 2048),
        "mmlu_pro/mmlu_pro_law": (3, "exact_match", 5, 2048),
        "hellaswag/hellaswag": (6, "acc_norm", 10, None),
        "truthfulqa_mc1/truthfulqa_mc1": (4, "acc", 0, None),
        "truthfulqa_mc2/truthfulqa_mc2": (4, "acc", 0, None),
        "gsm8k/gsm8k": (4, "exact_match", 5, 256),
    }
    hellaswag = next(shard for shard in shards if shard.benchmark == "hellaswag")
    assert hellaswag.data["source"] == "hellaswag_val.jsonl"
    assert hellaswag.data["examples"] == "hellaswag_train.jsonl"
    assert hellaswag.data["stand_in"]  # six rows are not the published set
    for shard in SHORT.prepare(["hellaswag", "mmlu_pro"], context(data_dir=data, offline=True, limit=2)):
        assert shard.n == len(shard.load().eval_docs) == 2


def requests(task: Any, seed: int = 1) -> list[Any]:
    task.set_fewshot_seed(seed)
    task.build_all_requests()
    return [instance.args for instance in task.instances]


FOLDERS = {
    "hellaswag": "hellaswag",
    "gsm8k": "gsm8k",
    "mmlu_pro_law": "mmlu_pro",
    "truthfulqa_mc1": "truthfulqa",
    "truthfulqa_mc2": "truthfulqa",
}


@pytest.mark.parametrize("name", FOLDERS)
def test_prompts_are_those_of_the_stock_task(name: str, data: Path, context: Context) -> None:
    """lm-eval's unchanged definition over the same rows, with the suite's number of examples: equal requests."""
    import datasets

    folder = FOLDERS[name]
    column = next(each for each in COLUMNS.values() if each.data == folder)
    tasks = [each for each, of in COLUMNS.items() if of.data == folder]
    (shard,) = (s for s in SHORT.prepare(tasks, context(data_dir=data, offline=True)) if s.task == name)
    ours = shard.load()
    splits = {split: source.rows_of(folder, split).read(data, offline=True)[1] for split in source.SETS[folder].files}
    stock_rows = datasets.DatasetDict({split: datasets.Dataset.from_list(rows) for split, rows in splits.items()})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets, "load_dataset", lambda *_, **__: stock_rows)
        from lr2eval.tasks.shared.upstream import lm_eval_folder

        stock = lm_eval.task_manager(lm_eval_folder() / "tasks" / folder).load([name])["tasks"][name]
    stock.set_config("num_fewshot", column.shots)
    mine, theirs = requests(ours), requests(stock)
    if ours.OUTPUT_TYPE == "generate_until":
        assert [a[1] for a in mine] == [{**b[1], "max_gen_toks": shard.max_new_tokens} for b in theirs]
        mine, theirs = [a[0] for a in mine], [b[0] for b in theirs]
    assert mine == theirs


@pytest.mark.parametrize(("name", "asked", "examples"), [("hellaswag", "val", "train"), ("gsm8k", "test", "train")])
def test_examples_come_from_their_split(name: str, asked: str, examples: str, data: Path, context: Context) -> None:
    (shard,) = SHORT.prepare([name], context(data_dir=data, offline=True))
    for prompt, _ in requests(shard.load()):
        assert sum(f"{examples} {n}{mark}" in prompt for n in range(30) for mark in "?:") == COLUMNS[name].shots
        assert sum(f"{asked} {n}{mark}" in prompt for n in range(6) for mark in "?:") == 1


def test_examples_of_mmlu_pro_are_the_first_of_the_category(data: Path, context: Context) -> None:
    science, law = SHORT.prepare(["mmlu_pro"], context(data_dir=data, offline=True))
    prompt = requests(law.load())[0][0]
    assert [prompt.index(f"dev law {n}?") for n in range(5)] == sorted(prompt.index(f"dev law {n}?") for n in range(5))
    assert "computer" not in prompt
    assert "dev computer science 0?" in requests(science.load())[0][0]


def test_options(data: Path, context: Context) -> None:
    def shards(task: str, **options: Any) -> Any:
        return SHORT.prepare([task], context(data_dir=data, offline=True, options=options))

    (gsm8k,) = shards("gsm8k", gsm8k_shots=2, max_new_tokens=8)
    assert (gsm8k.max_new_tokens, gsm8k.data["shots"], gsm8k.data["comparable"]) == (8, 2, False)
    prompt, settings = requests(gsm8k.load())[0]
    assert (prompt.count("train"), settings["max_gen_toks"], settings["until"][0]) == (2, 8, "Question:")
    assert gsm8k.data_hash != shards("gsm8k")[0].data_hash
    with pytest.raises(UsageError, match=r"short:hellaswag: 30 examples need 31 rows, hellaswag_train\.jsonl has 30"):
        shards("hellaswag", hellaswag_shots=30)
    assert len(requests(shards("hellaswag", hellaswag_shots=29)[0].load())) == 24
    (data / "hellaswag" / "hellaswag_train.jsonl").unlink()
    with pytest.raises(MissingDataError, match=r"hellaswag_train\.jsonl under .*--set short\.hellaswag_shots=0$"):
        shards("hellaswag")
    (alone,) = shards("hellaswag", hellaswag_shots=0)
    assert requests(alone.load())[0][0].startswith("val 0: A boat. The crew")
    with pytest.raises(UsageError, match=r"short:gsm8k: 21 examples need 21 rows, train\.jsonl has 20"):
        shards("gsm8k", gsm8k_shots=21)
    assert shards("gsm8k", gsm8k_shots=20)
    for key, value, says in (
        ("shots", 1, "unknown option"),
        ("gsm8k_shots", -1, "greater"),
        ("max_new_tokens", 0, "greater"),
    ):
        with pytest.raises(UsageError, match=says):
            shards("gsm8k", **{key: value})


def test_missing_is_listed_whole(tmp_path: Path, data: Path, context: Context) -> None:
    with pytest.raises(MissingDataError) as caught:
        SHORT.prepare(SHORT.select(None), context(data_dir=tmp_path, offline=True))
    assert set(caught.value.tasks) == set(SHORT.select(None))
    assert len(caught.value.missing) == 5  # TruthfulQA's two measures lack one file
    text = str(caught.value)
    for file in ("mmlu_pro/test", "mmlu_pro/validation", "hellaswag/hellaswag_train", "gsm8k/test", "gsm8k/train"):
        assert f"no {file}.jsonl under" in text
    with pytest.raises(MissingDataError) as caught:
        SHORT.prepare(SHORT.select(None), context(data_dir=data, offline=True))
    assert list(caught.value.tasks) == ["mmlu"]


def test_unknown_category(data: Path, context: Context) -> None:
    write(data, "mmlu_pro", "test.jsonl", {**MMLU_PRO, "category": "laws"})
    with pytest.raises(UsageError, match=r"mmlu_pro, row 1, field category: 'laws' is not a category; did you mean"):
        SHORT.prepare(["mmlu_pro"], context(data_dir=data, offline=True))


def test_what_is_kept_of_a_sample(data: Path, context: Context) -> None:
    shards = SHORT.prepare(list(COLUMNS), context(data_dir=data, offline=True))
    info = {shard.task: [shard.describe(doc) for doc in shard.load().eval_docs] for shard in shards}
    assert [each.columns["document"] for each in info["hellaswag"]] == ["v0", "v0", "v1", "v1", "v2", "v2"]
    gold = {name: kept[0].gold for name, kept in info.items()}
    assert gold["hellaswag"] == ("d",)
    assert gold["truthfulqa_mc1"] == ("yes",)
    assert gold["truthfulqa_mc2"] == ("yes", "sure")
    assert gold["gsm8k"] == ("1,200",)
    assert gold["mmlu_pro_law"] == ("B",)


def test_scores(data: Path, context: Context) -> None:
    tasks = {s.task: (s, s.load()) for s in SHORT.prepare(list(COLUMNS), context(data_dir=data, offline=True))}

    def score(name: str, results: Any) -> Any:
        shard, task = tasks[name]
        return task.process_results(next(iter(task.eval_docs)), results)[shard.metric]

    assert score("hellaswag", [(-9.0, False), (-9.0, False), (-9.0, False), (-1.0, True)]) == 1.0
    assert score("truthfulqa_mc1", [(-1.0, False), (-0.5, True)]) == 0.0
    assert score("truthfulqa_mc2", [(math.log(0.2), False), (math.log(0.1), False), (math.log(0.1), True)]) == (
        pytest.approx(0.75)
    )
    assert score("gsm8k", ["1200"]) == 1.0
    assert score("mmlu_pro_law", ["B"]) == 1.0


LOGS = st.lists(st.tuples(st.floats(-40, 0), st.booleans()), min_size=2, max_size=8)


@given(LOGS)
def test_true_probability_is_lm_evals(results: list[tuple[float, bool]]) -> None:
    labels = [int(label) for _, label in results]
    doc: Mapping[str, Any] = {"mc2_targets": {"labels": labels}}
    probabilities = np.exp([value for value, _ in results])
    theirs = float(np.sum((probabilities / probabilities.sum())[np.array(labels) == 1]))
    assert true_probability(doc, results)["acc"] == pytest.approx(theirs, abs=1e-12)


def test_true_probability_of_the_improbable() -> None:
    """Where lm-eval's own value is 0/0."""
    doc = {"mc2_targets": {"labels": [1, 0]}}
    assert true_probability(doc, [(-2000.0, False), (-2000.0 - math.log(3), False)])["acc"] == pytest.approx(0.75)


@pytest.mark.shared_data
def test_real_data(shared_data: Path, context: Context) -> None:
    made = context(data_dir=shared_data, offline=True, options={"hellaswag_shots": 0})
    found = {shard.task: shard for shard in SHORT.prepare(["hellaswag", "truthfulqa_mc2", "gsm8k"], made)}
    assert {name: shard.n for name, shard in found.items()} == {
        "hellaswag": 1000,
        "truthfulqa_mc2": 817,
        "gsm8k": 1319,
    }
    assert "stand_in" not in found["gsm8k"].data
    assert found["hellaswag"].data["stand_in"]
    with pytest.raises(MissingDataError, match="no hellaswag/hellaswag_train"):
        SHORT.prepare(["hellaswag"], context(data_dir=shared_data, offline=True))
    assert len(SHORT.prepare(["mmlu"], context(data_dir=shared_data, limit=1))) == 57
