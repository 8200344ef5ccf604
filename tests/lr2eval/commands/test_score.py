"""``lr2eval score``: published scores reproduced, our own runs scored again, bad input named."""

from __future__ import annotations

import json
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lr2eval.tasks.longbench import metrics
from tests.fake_runs import fake_run

Run = Callable[..., Any]
MODELS = ("llama2-7b", "llama2-7b-chat-4k", "llama3-8b-instruct", "qwen3-8b")


def line(**changes: Any) -> dict[str, Any]:
    """One prediction in LongBench's fields."""
    return {"pred": "Bob Dylan", "answers": ["Bob Dylan"], "all_classes": None, "length": 5000, **changes}


def write(folder: Path, **files: list[Any] | bytes) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in files.items():
        data = rows if isinstance(rows, bytes) else "\n".join(json.dumps(row) for row in rows).encode()
        (folder / f"{name}.jsonl").write_bytes(data)
    return folder


@pytest.mark.shared_data
@pytest.mark.parametrize("model", MODELS)
def test_published_scores(shared_data: Path, tmp_path: Path, lr2eval: Run, model: str) -> None:
    """21 scores of a model, each the mean of 150 to 500 predictions, to the second decimal."""
    with tarfile.open(shared_data / "longbench_preds" / f"{model}.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    published = json.loads((tmp_path / model / "result.json").read_text())
    assert len(published) == 21
    done = lr2eval("score", "longbench", tmp_path / model, "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out) == {"scores": published}


def test_json_and_table(tmp_path: Path, lr2eval: Run) -> None:
    folder = write(tmp_path / "pred", hotpotqa=[line(), line(pred=""), line(pred="")], lcc=[line(pred="# no")])
    (folder / "result.json").write_text("{}")
    done = lr2eval("score", "longbench", folder, "--json")
    assert (done.code, json.loads(done.out)) == (0, {"scores": {"hotpotqa": 33.33, "lcc": 0.0}})
    table = lr2eval("score", "longbench", folder)
    assert [row.split() for row in table.out.splitlines() if "33.33" in row] == [["hotpotqa", "3", "33.33"]]
    assert [row.split()[-2:] for row in table.out.splitlines() if "mean of 2" in row] == [["4", "16.66"]]
    one = lr2eval("score", "longbench:lcc", folder, "--json")
    assert json.loads(one.out) == {"scores": {"lcc": 0.0}}


@pytest.fixture
def _no_jieba(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(sys.modules, "jieba", None)
    metrics._cutter.cache_clear()
    yield
    metrics._cutter.cache_clear()


HOW = "Chinese answers are scored by words that jieba cuts; pip install 'lr2eval[longbench]'"


@pytest.mark.usefixtures("_no_jieba")
def test_without_jieba_the_rest_is_scored(tmp_path: Path, lr2eval: Run) -> None:
    folder = write(tmp_path / "pred", multifieldqa_zh=[line()], hotpotqa=[line()], vcsum=[line()], lsht=[
        line(pred="a", answers=["a"], all_classes=["a", "b"])
    ])  # fmt: skip
    done = lr2eval("score", "longbench", folder, "--json")
    assert json.loads(done.out) == {
        "scores": {"hotpotqa": 100.0, "lsht": 100.0}, "not_scored": {"multifieldqa_zh": HOW, "vcsum": HOW}
    }  # fmt: skip
    assert (done.code, done.err) == (0, f"not scored: multifieldqa_zh, vcsum: {HOW}\n")
    table = lr2eval("score", "longbench", folder)
    assert "mean of 2" in table.out
    assert f"not scored: multifieldqa_zh, vcsum: {HOW}\n" in table.err
    alone = lr2eval("score", "longbench:vcsum", folder)
    assert (alone.code, alone.out, alone.error) == (2, "", f"longbench:vcsum: {HOW}")


@pytest.mark.usefixtures("_no_jieba")
def test_without_jieba_the_rest_of_a_run_is_scored(tmp_path: Path, lr2eval: Run) -> None:
    shards = {"longbench/vcsum@4096": [100.0, 0.0], "longbench/hotpotqa@4096": [100.0, 0.0]}
    done = lr2eval("score", "longbench", fake_run(tmp_path / "run", shards), "--json")
    assert json.loads(done.out) == {"scores": {"hotpotqa@4096": 50.0}, "not_scored": {"vcsum@4096": HOW}}


def test_length_buckets(tmp_path: Path, lr2eval: Run) -> None:
    rows = [line(length=3999), line(length=4000), line(length=7999, pred="x")]
    done = lr2eval("score", "longbench_e", write(tmp_path / "pred_e", hotpotqa=rows), "--json")
    assert json.loads(done.out) == {
        "scores": {"hotpotqa": 66.67},
        "buckets": {"hotpotqa": {"0-4k": 100.0, "4-8k": 50.0, "8k+": None}},
    }
    assert "4-8k" in lr2eval("score", "longbench_e", tmp_path / "pred_e").out


def test_ruler_layout(tmp_path: Path, lr2eval: Run) -> None:
    rows = [
        {"index": 0, "pred": "it is 111\x00 and 222", "outputs": ["111", "222"], "others": {}},
        {"index": 1, "pred": "333", "outputs": ["333", "444"]},
    ]
    folder = write(tmp_path / "4096", niah_multivalue=rows, qa_1=rows)
    done = lr2eval("score", "ruler", folder, "--json")
    # qa counts any reference, the others the share of them.
    assert json.loads(done.out) == {"scores": {"niah_multivalue": 75.0, "qa_1": 100.0}}


def test_run_of_ours(tmp_path: Path, lr2eval: Run) -> None:
    """Answers in the store say right and wrong; scores stored with them are not asked."""
    shards = {"ruler/vt@4096": [100.0, 99.25, 99.25, None], "ruler/vt@8192": [100.0], "niah/single@4096": [100.0, 0.0]}
    metrics = dict.fromkeys(shards, "string_match_all")
    run = fake_run(tmp_path / "run", shards, metrics=metrics, planned=4)
    before = (run / "samples.sqlite").read_bytes()
    done = lr2eval("score", "ruler", run, "--json")
    assert json.loads(done.out) == {"scores": {"vt@4096": 33.33, "vt@8192": 100.0}}
    assert "not finished" in done.err
    (row,) = [row.split() for row in lr2eval("score", "ruler:vt", run).out.splitlines() if "vt@4096" in row]
    assert row == ["vt@4096", "3", "33.33", "99.50"]
    assert json.loads(lr2eval("score", "niah", run, "--json").out)["scores"] == {"single@4096": 50.0}
    assert (run / "samples.sqlite").read_bytes() == before


def test_run_with_length_buckets(tmp_path: Path, lr2eval: Run) -> None:
    buckets = [{"bucket": "0-4k"}, {"bucket": "8k+"}, {"bucket": "8k+"}]
    name = "longbench_e/hotpotqa@4096"
    run = fake_run(tmp_path / "run", {name: [0.0, 100.0, 0.0]}, columns={name: buckets})
    done = lr2eval("score", "longbench_e", run, "--json")
    assert json.loads(done.out) == {
        "scores": {"hotpotqa@4096": 33.33},
        "buckets": {"hotpotqa@4096": {"0-4k": 0.0, "4-8k": None, "8k+": 50.0}},
    }


def test_run_without_the_benchmark(tmp_path: Path, lr2eval: Run) -> None:
    run = fake_run(tmp_path / "run", {"ruler/vt@4096": [100.0]})
    assert "the run has no longbench; it has ruler:vt" in lr2eval("score", "longbench", run).error
    failed = lr2eval("score", "ruler", run)
    assert (failed.code, "scored by 'acc', an unknown metric" in failed.error) == (2, True)


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"hotpotqa": b'{"pred": "a"\n'}, "hotpotqa.jsonl, line 1: not valid JSON"),
        ({"hotpotqa": b'\n{"pred": "\xe9"}'}, "hotpotqa.jsonl, line 2: not UTF-8"),
        ({"hotpotqa": [line(), line(pred=3)]}, "hotpotqa.jsonl, line 2, field pred: is 3, must be text"),
        ({"hotpotqa": [line(answers="Bob")]}, 'line 1, field answers: is "Bob", must be a list of texts'),
        ({"hotpotqa": [{"answers": ["a"]}]}, "field pred: is missing"),
        ({"hotpotqa": b""}, "hotpotqa.jsonl: is empty"),
        ({"hotpotq": [line()]}, "longbench has no data set 'hotpotq'; did you mean 'hotpotqa'"),
        ({"trec": [line(all_classes=["Date"])]}, "line 1, field answers: 'Bob Dylan' is not among all_classes"),
        ({"trec": [line()]}, "line 1, field all_classes: is null"),
        ({"hotpotqa": [line(_id="x"), line(_id="x")]}, "line 2, field _id: line 1 has 'x' too"),
        ({"passage_retrieval_en": [line()]}, "has no 'Paragraph' with a number"),
        ({}, "has neither predictions (DATASET.jsonl) nor a run"),
    ],
)
def test_bad_predictions(tmp_path: Path, lr2eval: Run, files: dict[str, Any], says: str) -> None:
    done = lr2eval("score", "longbench", write(tmp_path / "pred", **files), "--json")
    assert says in done.error
    assert (done.code, done.out) == (2, "")


def test_bad_arguments(tmp_path: Path, lr2eval: Run) -> None:
    folder = write(tmp_path / "pred", hotpotqa=[line()])
    for arguments, says in (
        (("longbnch", folder), "longbnch: unknown benchmark; did you mean 'longbench'"),
        (("longbench:trek", folder), "longbench has no such task; did you mean 'trec'"),
        (("longbench:trec", folder), "has no trec.jsonl; the files there are hotpotqa"),
        (("longbench", tmp_path / "nowhere"), "nowhere: no such folder"),
        (("longbench", folder / "hotpotqa.jsonl"), "hotpotqa.jsonl: not a folder"),
        (("mmlu", folder), "mmlu is scored from run folders only"),
        (("longbench_e", write(tmp_path / "e", hotpotqa=[line(length=None)])), "line 1, field length: is null"),
        (("longbench_e", write(tmp_path / "v1", narrativeqa=[line()])), "longbench_e has no data set 'narrativeqa'"),
        (("ruler", write(tmp_path / "r", vt=[line()])), "vt.jsonl, line 1, field outputs: is missing"),
        (("ruler", write(tmp_path / "g", niah=[line()])), "ruler has no data set 'niah'"),
    ):
        done = lr2eval("score", *arguments)
        assert says in done.error
        assert done.code == 2
