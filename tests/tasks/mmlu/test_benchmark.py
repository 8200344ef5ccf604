from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from lr2eval.benchmark import TaskContext
from lr2eval.errors import MissingDataError, TaskError, UsageError
from lr2eval.tasks.mmlu import MMLU
from lr2eval.tasks.shared import lm_eval, upstream

Context = Callable[..., TaskContext]


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    """Twelve test and six dev questions in two subjects, in the original layout."""
    for split, count in (("test", 12), ("dev", 6)):
        (tmp_path / split).mkdir()
        for subject in ("anatomy", "world_religions"):
            lines = [f'" {split} {subject} {n}, or? ",a{n},b{n},c{n},d{n},{"ABCD"[n % 4]}\n' for n in range(count)]
            (tmp_path / split / f"{subject}_{split}.csv").write_text("".join(lines))
    return tmp_path


def test_names() -> None:
    assert len(MMLU.tasks()) == len(MMLU.select(None)) == 57
    assert MMLU.select("anatomy") == MMLU.select("mmlu_anatomy") == ["anatomy"]
    with pytest.raises(TaskError, match=r"mmlu:anatomie: .*'anatomy'"):
        MMLU.select("anatomie")


def test_shards(questions: Path, context: Context, caplog: pytest.LogCaptureFixture) -> None:
    shards = MMLU.prepare(["world_religions", "anatomy"], context(data_dir=questions))
    assert [shard.id for shard in shards] == ["mmlu/mmlu_world_religions", "mmlu/mmlu_anatomy"]
    shard = shards[1]
    assert (shard.n, shard.metric, shard.scale, shard.length) == (12, "acc", 100.0, None)
    assert shard.data == {"source": "csv", "shots": 5, "category": "stem"}
    task = shard.load()
    assert not caplog.records
    docs = list(task.eval_docs)
    assert len(docs) == 12
    info = shard.describe(docs[1])
    assert info.gold == ("B",)
    assert info.columns == {"subject": "anatomy", "category": "stem"}
    assert task.process_results(docs[1], [(-1.0, False), (-0.5, True), (-3.0, False), (-2.0, False)])["acc"] == 1.0


def test_an_answer_kept_by_a_run() -> None:
    kept = SimpleNamespace(choices=(("A", -2.0), ("B", -1.0), ("C", -3.0), ("D", -1.5)), answer="D")
    for gold, score in (("B", 1.0), ("D", 0.0)):
        assert MMLU.rescore(cast(Any, None), cast(Any, SimpleNamespace(**vars(kept), gold=(gold,)))) == score


def test_categories() -> None:

    found = [upstream.mmlu_definition(subject)["category"] for subject in upstream.mmlu_files()]
    assert {each: found.count(each) for each in set(found)} == {
        "stem": 19,
        "humanities": 13,
        "social_sciences": 12,
        "other": 13,
    }


def test_prompt_is_that_of_the_stock_task(questions: Path, context: Context) -> None:
    """The same rows through lm-eval's unchanged definition: equal requests, five shots, the first of dev."""
    (shard,) = MMLU.prepare(["anatomy"], context(data_dir=questions))
    ours = shard.load()

    import datasets

    stock_rows = {split: datasets.Dataset.from_list(list(ours.dataset[split])) for split in ("test", "dev")}
    folder = upstream.mmlu_files()["anatomy"].parent
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets, "load_dataset", lambda *_, **__: stock_rows)
        stock = lm_eval.task_manager(folder).load(["mmlu_anatomy"])["tasks"]["mmlu_anatomy"]
    stock.set_config("num_fewshot", 5)
    for task in (ours, stock):
        task.build_all_requests()
    assert [each.args for each in ours.instances] == [each.args for each in stock.instances]
    prompt, choice = ours.instances[0].args
    assert prompt.count("Answer:") == 6
    assert [prompt.index(f"dev anatomy {n},") for n in range(5)] == sorted(
        prompt.index(f"dev anatomy {n},") for n in range(5)
    )
    assert choice == " A"


def test_limit(questions: Path, context: Context) -> None:
    def shard(limit: float | None) -> Any:
        return MMLU.prepare(["anatomy"], context(data_dir=questions, limit=limit))[0]

    assert [shard(limit).n for limit in (None, 5, 0.25, 100)] == [12, 5, 3, 12]
    assert len(shard(5).load().eval_docs) == 5
    assert shard(5).data_hash != shard(None).data_hash == shard(100).data_hash


def test_hash_covers_shots(questions: Path, context: Context) -> None:
    before = MMLU.prepare(["anatomy"], context(data_dir=questions))[0].data_hash
    path = questions / "dev" / "anatomy_dev.csv"
    path.write_text(path.read_text().replace("dev anatomy 0", "DEV anatomy 0"))
    assert MMLU.prepare(["anatomy"], context(data_dir=questions))[0].data_hash != before


def test_missing(tmp_path: Path, questions: Path, context: Context) -> None:
    with pytest.raises(MissingDataError, match="--data-dir"):
        MMLU.prepare(["astronomy"], context(data_dir=questions))
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(MissingDataError, match=r"no mmlu/.*csv under .*empty, and cais/mmlu .*--data-dir"):
        MMLU.prepare(["anatomy"], context(data_dir=empty, offline=True, cache_dir=tmp_path))


def test_malformed(questions: Path, context: Context) -> None:
    (questions / "test" / "anatomy_test.csv").write_text("q,a,b,c,d,A\nq,a,b,c,d,Z\n")
    with pytest.raises(UsageError, match=r"anatomy_test\.csv, row 2, field answer"):
        MMLU.prepare(["anatomy"], context(data_dir=questions))


@pytest.mark.shared_data
def test_real_questions(shared_data: Path, context: Context) -> None:
    shards = MMLU.prepare(MMLU.select(None), context(data_dir=shared_data))
    assert sum(shard.n for shard in shards) == 14_042
    task = shards[0].load()
    task.build_all_requests(limit=1)
    assert task.instances[0].args[0].startswith("The following are multiple choice questions (with answers) about ")
