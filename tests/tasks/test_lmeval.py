"""Plain lm-eval tasks, from a user's own folder of YAML files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from lr2eval.benchmark import Shard, TaskContext
from lr2eval.errors import Lr2EvalError, MissingDataError, TaskError
from lr2eval.tasks.lmeval import LmEval

Context = Callable[..., TaskContext]

TASK = """
task: {name}
dataset_path: json
dataset_kwargs:
  data_files: {{test: {data}}}
test_split: test
doc_to_text: "Q: {{{{q}}}}\\nA:"
"""
CHOICE = TASK + "output_type: multiple_choice\ndoc_to_choice: [one, two]\ndoc_to_target: gold\n"
GENERATE = (
    TASK
    + "output_type: generate_until\ndoc_to_target: '{{{{a}}}}'\ngeneration_kwargs: {{until: [x], max_gen_toks: 7}}\n"
)
LIKELIHOOD = TASK + "output_type: loglikelihood\ndoc_to_target: '{{{{a}}}}'\n"
ROLLING = TASK + "output_type: loglikelihood_rolling\ndoc_to_target: '{{{{a}}}}'\n"
METRIC = "metric_list:\n  - metric: {}\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    home = tmp_path / "tasks"
    home.mkdir()
    rows = [{"q": f"question {n}", "a": f"answer {n}", "gold": n % 2} for n in range(5)]
    data = home / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    tasks = {
        "my_choice": CHOICE + METRIC.format("acc"),
        "my_generate": GENERATE + METRIC.format("exact_match"),
        "my_likelihood": LIKELIHOOD + METRIC.format("perplexity") + "  - metric: acc\n",
        "my_rolling": ROLLING + METRIC.format("word_perplexity"),
        "my_perplexity": LIKELIHOOD + METRIC.format("perplexity"),
        "my_code": GENERATE + METRIC.format("exact_match") + "unsafe_code: true\n",
    }
    for name, text in tasks.items():
        (home / f"{name}.yaml").write_text(text.format(name=name, data=data))
    (home / "gone.yaml").write_text(CHOICE.format(name="my_gone", data=home / "absent.jsonl"))
    (home / "bad.yaml").write_text(
        (CHOICE + METRIC.format("acc")).format(name="my_bad", data=data).replace("multiple_choice", "a_sort")
    )
    (home / "group.yaml").write_text("group: my_group\ntask: [my_choice, my_generate]\n")
    return home


def prepare(folder: Path, name: str, context: TaskContext) -> list[Shard]:
    foreign = LmEval(folder)
    return list(foreign.prepare(foreign.select(name), context))


def test_multiple_choice(folder: Path, context: Context) -> None:
    (shard,) = prepare(folder, "my_choice", context())
    assert (shard.id, shard.n, shard.metric, shard.max_new_tokens) == ("lm_eval/my_choice", 5, "acc", None)
    task = shard.load()
    assert [shard.describe(doc).gold for doc in task.eval_docs][:2] == [("one",), ("two",)]
    task.build_all_requests()
    assert task.instances[1].args == ("Q: question 0\nA:", " two")


def test_generation(folder: Path, context: Context) -> None:
    (shard,) = prepare(folder, "my_generate", context(limit=2))
    assert (shard.n, shard.metric, shard.max_new_tokens) == (2, "exact_match", 7)
    task = shard.load()
    assert len(task.eval_docs) == 2
    task.build_all_requests()
    assert len(task.instances) == 2
    assert shard.describe(task.eval_docs[1]).gold == ("answer 1",)


def test_first_metric_with_a_value_per_sample(folder: Path, context: Context) -> None:
    (shard,) = prepare(folder, "my_likelihood", context())
    assert shard.metric == "acc"


def test_group_becomes_its_tasks(folder: Path, context: Context) -> None:
    shards = prepare(folder, "my_group", context(limit=0.5))
    assert [(shard.task, shard.n) for shard in shards] == [("my_choice", 3), ("my_generate", 3)]


def test_hash_follows_the_rows(folder: Path, context: Context) -> None:
    hashes = [prepare(folder, "my_choice", context(limit=limit))[0].data_hash for limit in (None, 4, 5)]
    assert hashes[0] == hashes[2] != hashes[1]


@pytest.mark.parametrize(
    ("name", "error", "named"),
    [
        ("my_rolling", TaskError, "loglikelihood_rolling"),
        ("my_perplexity", TaskError, "not means over samples"),
        ("my_code", TaskError, "runs code"),
        ("my_gone", MissingDataError, "my_gone: its data set cannot be read"),
        ("my_bad", TaskError, "my_bad: lm-eval cannot build this task"),
    ],
)
def test_unusable_tasks(folder: Path, context: Context, name: str, error: type[Exception], named: str) -> None:
    with pytest.raises(error, match=named) as caught:
        prepare(folder, name, context(offline=True))
    assert "\n" not in str(caught.value)


def test_a_name_is_needed(folder: Path) -> None:
    with pytest.raises(TaskError, match="lm_eval:hellaswag"):
        LmEval(folder).select(None)


@pytest.fixture
def no_lm_eval(monkeypatch: pytest.MonkeyPatch) -> None:
    """The user's folder alone, so that a test does not wait for the index of lm-eval."""
    monkeypatch.setattr("lr2eval.tasks.shared.index.lm_eval_names", dict)


def test_unknown_name(folder: Path, no_lm_eval: None) -> None:
    with pytest.raises(TaskError, match="'my_choice'"):
        LmEval(folder).select("my_chioce")


def test_a_group_of_the_user_may_have_tasks_of_lm_eval(folder: Path) -> None:
    (folder / "mixed.yaml").write_text("group: mixed\ntask: [my_choice, arc_easy, ai2_arc]\n")
    manager = LmEval(folder)._manager_for("mixed")
    assert {"mixed", "my_choice", "arc_easy", "ai2_arc"} <= set(manager.all_tasks)
    assert len(manager.all_tasks) < 100  # no more of lm-eval than the folder of arc


def test_names_of_lm_eval_itself() -> None:
    foreign = LmEval(None)
    assert {"hellaswag", "gsm8k", "arc_easy"} <= set(foreign.names())
    assert foreign.knows("hellaswag")
    assert foreign.tasks()[0].benchmark == "lm_eval"


DAMAGE = (
    b"task: [", b"\xff\xfe", b"", b"- 1", b"null", b"task: my_own\ngeneration_kwargs: {max_gen_toks: many}\n",
    b"task: my_own\noutput_type: 7\n", b"task: my_own\ninclude: nothing.yaml\n", b"task: my_own\ninclude: [1]\n",
    b"task: my_own\nmetric_list: 1\n", b"task: my_own\ndoc_to_text: 1\ndataset_path: []\n", b"task: {a: 1}\n",
    b"task: my_own\ndoc_to_text: '{% if %}'\n", b"task: my_own\nx: !!python/object/apply:os.abort []\n",
    b"task: my_own\nx: " + b"[" * 5000, b"&a [*a]", b"task: my_own\nfewshot_config: 3\nnum_fewshot: many\n",
)  # fmt: skip


@pytest.mark.parametrize("number", range(len(DAMAGE)))
def test_a_damaged_task_file_of_the_user_is_one_line(
    number: int, context: Context, tmp_path: Path, no_lm_eval: None
) -> None:
    (tmp_path / "my_own.yaml").write_bytes(DAMAGE[number])
    foreign = LmEval(tmp_path)
    with pytest.raises(Lr2EvalError) as caught:
        foreign.prepare(["my_own"], context(offline=True))
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value) or "my_own" in str(caught.value)
