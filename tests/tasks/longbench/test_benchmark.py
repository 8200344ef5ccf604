"""The plug-in: data found, prompts laid out for each window, samples described."""

from __future__ import annotations

import gzip
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from lr2eval.benchmark import TaskContext
from lr2eval.errors import MissingDataError, TaskError, UsageError
from lr2eval.tasks.longbench import LONGBENCH, LONGBENCH_E, source
from lr2eval.tasks.longbench.suite import DATA_SETS

Context = Callable[..., TaskContext]


def item(**changes: Any) -> dict[str, Any]:
    """One sample in LongBench's own fields: some 200 tokens."""
    values = {
        "input": "Type:",
        "context": "\n".join(f"Question: {n} ?\nType: Date" for n in range(20)),
        "answers": ["Date"],
        "length": 4000,
        "dataset": "trec",
        "language": "en",
        "all_classes": ["Date", "Food"],
        "_id": None,
    }
    return {**values, **changes}


def write(folder: Path, name: str, rows: Sequence[Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.jsonl.gz"
    path.write_bytes(gzip.compress("\n".join(json.dumps(row) for row in rows).encode()))
    return folder.parent


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data folder with three samples of trec, the last of another document, and two of hotpotqa."""
    folder = tmp_path / "data" / "longbench"
    write(folder, "trec", [item(), item(input="Kind:"), item(context="short", length=None)])
    return write(folder, "hotpotqa", [item(answers=["Bob", "Bobby"], all_classes=None, length=9000)] * 2)


def test_names() -> None:
    assert list(LONGBENCH.select(None)) == list(DATA_SETS)
    assert [info.name for info in LONGBENCH.tasks()] == list(DATA_SETS)
    assert len(LONGBENCH_E.select(None)) == 13
    assert LONGBENCH.select("hotpotqa") == ["hotpotqa"]
    with pytest.raises(TaskError, match="did you mean 'hotpotqa'"):
        LONGBENCH.select("hotpotq")
    with pytest.raises(TaskError, match="longbench_e has no such task"):
        LONGBENCH_E.select("narrativeqa")


def test_shards(data: Path, context: Context) -> None:
    shards = LONGBENCH.prepare(["trec", "hotpotqa"], context(data_dir=data, windows=(512, 1024)))
    assert [shard.id for shard in shards] == [f"longbench/{t}@{w}" for t in ("trec", "hotpotqa") for w in (512, 1024)]
    trec, hotpotqa = shards[0], shards[2]
    assert (trec.n, trec.metric, trec.max_new_tokens, trec.chat) == (3, "classification", 64, False)
    assert (hotpotqa.metric, hotpotqa.max_new_tokens, hotpotqa.chat) == ("qa_f1", 32, True)
    assert trec.data["source"] == "trec.jsonl.gz"
    task = trec.load()
    task.build_all_requests()
    prompts = [instance.args[0] for instance in task.instances]
    assert prompts[1] == f"{_before('trec')}{item()['context']}\nKind:"
    assert task.instances[0].args[1]["max_gen_toks"] == 64
    docs = list(task.eval_docs)
    first, second, third = (trec.describe(doc) for doc in docs)
    assert first.gold == ("Date",)
    assert first.columns["document"] == second.columns["document"] != third.columns["document"]
    assert (first.columns["source_length"], third.columns["source_length"]) == (4000, None)
    assert first.truncated_tokens == 0
    assert task.process_results(docs[0], ["\nDate\nFood"]) == {"classification": 1.0}
    assert task.process_results(docs[0], ["Date Food"]) == {"classification": 0.5}
    answers = hotpotqa.load()
    assert answers.process_results(next(iter(answers.eval_docs)), ["Bobby"]) == {"qa_f1": 1.0}


def _before(dataset: str) -> str:
    from lr2eval.tasks.longbench.prompts import prompt

    return prompt(dataset).pieces[0]


def test_white_space_at_the_end_reaches_the_model(tmp_path: Path, context: Context) -> None:
    """Where lm-eval's own port trims: lcc ends in a newline, samsum's question in a space."""
    write(tmp_path / "longbench", "lcc", [item(all_classes=None)])
    write(tmp_path / "longbench", "samsum", [item(all_classes=None, input="Dialogue: a\r\nSummary: ")])
    for shard, end in zip(
        LONGBENCH.prepare(["lcc", "samsum"], context(data_dir=tmp_path)), ("code:\n", "Summary: "), strict=True
    ):
        task = shard.load()
        task.build_all_requests()
        assert task.instances[0].args[0].endswith(end)


def test_truncation(data: Path, context: Context) -> None:
    with pytest.raises(
        TaskError, match=r"longbench:trec: 2 of 3 prompts are longer than 136 tokens .*middle"
    ) as caught:
        LONGBENCH.prepare(["trec"], context(data_dir=data, windows=(200,)))
    assert caught.value.exit_code == 2
    (skip,) = LONGBENCH.prepare(["trec"], context(data_dir=data, windows=(200,), truncation="skip"))
    (middle,) = LONGBENCH.prepare(["trec"], context(data_dir=data, windows=(200,), truncation="middle"))
    whole, cut = ([*shard.load().eval_docs] for shard in (skip, middle))
    assert [doc["truncated_tokens"] for doc in whole] == [0, 0, 0]
    assert [doc["truncated_tokens"] > 0 for doc in cut] == [True, True, False]
    assert all(doc["token_count"] <= 136 for doc in cut)
    assert whole[0]["token_count"] == cut[0]["token_count"] + cut[0]["truncated_tokens"]
    assert middle.describe(cut[0]).truncated_tokens == cut[0]["truncated_tokens"]
    assert cut[1]["prompt"].endswith("\nKind:")


def test_limit(data: Path, context: Context) -> None:
    (shard,) = LONGBENCH.prepare(["trec"], context(data_dir=data, limit=1))
    assert shard.n == len(list(shard.load().eval_docs)) == 1


def test_longbench_e(tmp_path: Path, context: Context) -> None:
    folder = write(tmp_path / "longbench", "trec_e", [item(), item(length=100), item(length=8000)])
    (shard,) = LONGBENCH_E.prepare(["trec"], context(data_dir=folder))
    assert shard.id == "longbench_e/trec@2048"
    assert [shard.describe(doc).columns["bucket"] for doc in shard.load().eval_docs] == ["4-8k", "0-4k", "8k+"]
    write(tmp_path / "longbench", "trec_e", [item(length=None)])
    with pytest.raises(UsageError, match=r"trec_e\.jsonl\.gz, line 1, field length: is null, must be a whole number"):
        LONGBENCH_E.prepare(["trec"], context(data_dir=folder))


def test_chat_counts_only_where_prompts_are_wrapped(data: Path, context: Context, trained: dict[str, Any]) -> None:
    from lr2eval.model.tokenizer import PromptTokenizer

    plain, chat = (PromptTokenizer(trained["byte-level"], chat=chat, name="t") for chat in (False, True))
    counts = {
        (task, wrapped): next(iter(shard.load().eval_docs))["token_count"]
        for wrapped, tokenizer in ((False, plain), (True, chat))
        for task in ("trec", "hotpotqa")
        for shard in LONGBENCH.prepare([task], context(data_dir=data, tokenizer=tokenizer))
    }
    assert counts["trec", True] == counts["trec", False]
    assert counts["hotpotqa", True] > counts["hotpotqa", False]


def test_missing(tmp_path: Path, context: Context) -> None:
    with pytest.raises(MissingDataError) as caught:
        LONGBENCH.prepare(["trec", "lsht"], context(data_dir=tmp_path, offline=True))
    assert set(caught.value.tasks) == {"trec", "lsht"}
    (line,) = caught.value.missing
    assert "longbench: no data for trec, lsht (longbench/trec: no longbench/trec.jsonl under" in line
    assert "and Xnhyacinth/LongBench (trec, test) cannot be read" in line
    assert "no longbench/lsht.jsonl under" in caught.value.tasks["lsht"]
    assert "DIR/longbench/lsht.jsonl" in caught.value.tasks["lsht"]
    with pytest.raises(MissingDataError, match=r"no longbench/trec_e\.jsonl under"):
        LONGBENCH_E.prepare(["trec"], context(data_dir=tmp_path, offline=True))


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (item(answers=["Place"]), "line 2, field answers: 'Place' is not among all_classes"),
        (item(answers=[]), "line 2, field answers: is"),
        (item(all_classes=None), "line 2, field all_classes: is null"),
        (item(context=None), "line 2, field context: is null, must be text"),
        ({key: value for key, value in item().items() if key != "input"}, "line 2, field input: is missing"),
        (item(_id="x"), "line 2, field _id: line 1 has 'x' too"),
        (item(length="long"), 'line 2, field length: is "long"'),
    ],
)
def test_bad_data(tmp_path: Path, context: Context, row: Any, says: str) -> None:
    folder = write(tmp_path / "longbench", "trec", [item(_id="x"), row])
    with pytest.raises(UsageError, match=says):
        LONGBENCH.prepare(["trec"], context(data_dir=folder))


def test_without_jieba_nothing_is_started(data: Path, context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jieba", None)
    with pytest.raises(UsageError, match=r"longbench:vcsum: .* pip install 'lr2eval\[longbench\]'"):
        LONGBENCH.prepare(["trec", "vcsum"], context(data_dir=data))
    assert LONGBENCH.prepare(["trec"], context(data_dir=data))


def test_unknown_option(data: Path, context: Context) -> None:
    with pytest.raises(UsageError, match=r"longbench\.colour: unknown option; longbench has no options"):
        LONGBENCH.prepare(["trec"], context(data_dir=data, options={"colour": 1}))


def test_hub(monkeypatch: pytest.MonkeyPatch, context: Context) -> None:
    """The hub's copy calls the question ``question``, and LongBench-E's data sets ``trec_e``."""
    import datasets

    asked = []
    row = {**item(), "question": "Kind:"}
    del row["input"]

    def load(*names: str, split: str) -> Any:
        asked.append((*names, split))
        return [row]

    monkeypatch.setattr(datasets, "load_dataset", load)
    (shard,) = LONGBENCH_E.prepare(["trec"], context())
    assert asked == [("Xnhyacinth/LongBench", "trec_e", "test")]
    assert shard.data["source"] == "hub:Xnhyacinth/LongBench"
    assert next(iter(shard.load().eval_docs))["prompt"].endswith("\nKind:")


@pytest.mark.shared_data
def test_shared_samples_are_read_whole(shared_data: Path) -> None:
    found = {name: source.rows_of(name, extended=False).read(shared_data, offline=True)[1] for name in DATA_SETS}
    assert sum(map(len, found.values())) == 195
    assert all(item.extra["all_classes"] for name in ("trec", "lsht") for item in found[name])
