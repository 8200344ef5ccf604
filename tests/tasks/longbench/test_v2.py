"""LongBench v2: upstream's prompt, the letter in an answer, data of either layout."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from lr2eval.benchmark import TaskContext
from lr2eval.errors import MissingDataError, TaskError, UsageError
from lr2eval.tasks.longbench import LONGBENCH2, prompts, v2
from lr2eval.tasks.longbench.v2 import DOMAINS, letter, prompt, question

Context = Callable[..., TaskContext]


def item(**changes: Any) -> dict[str, Any]:
    """One question in upstream's own fields."""
    values = {
        "_id": "1", "domain": "Single-Document QA", "sub_domain": "Legal", "difficulty": "easy", "length": "short",
        "question": " $Q$ ", "choice_A": "$C_A$", "choice_B": "$C_B$\n", "choice_C": "$C_C$", "choice_D": "$C_D$",
        "answer": "C", "context": " $DOC$\n",
    }  # fmt: skip
    return {**values, **changes}


def write(folder: Path, *rows: Any, name: str = "data.jsonl") -> Path:
    target = folder / "longbench_v2"
    target.mkdir(exist_ok=True)
    text = json.dumps(rows) if name.endswith(".json") else "\n".join(json.dumps(row) for row in rows)
    (target / name).write_text(text)
    return folder


def test_prompt_is_upstreams_to_the_byte() -> None:
    text = prompt().fill("$DOC$", question(item()))
    # sha256 of upstream's prompts/0shot.txt, in which the fields are written like this.
    assert hashlib.sha256(text.encode()).hexdigest() == UPSTREAM


UPSTREAM = "68a162252bc9ff71d5d7abca3d69bb31aac3c35f832d657a2866f2018b8a6950"


def test_a_choice_that_looks_like_a_field() -> None:
    assert "(A) {{choices[1]}}\n(B) b\n" in question(item(choice_A="{{choices[1]}}", choice_B="b"))


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ("The correct answer is (B).", "B"),
        ("So: **The correct answer is (C)**", "C"),
        ("The correct answer is **(A)**", "A"),
        ("The correct answer is D", "D"),
        ("The correct answer is (E)", None),
        ("the correct answer is (A)", None),
        ("(A)", None),
        ("", None),
        ("The correct answer is (A). The correct answer is (B)", "A"),
        # Upstream looks for brackets in the whole answer first.
        ("The correct answer is A? No. The correct answer is (C).", "C"),
        ("The correct answer is Berlin, so **The correct answer is (D)**", "D"),
        ("The correct answer is A, not C. The correct answer is (E)", "A"),
        ("The correct answer is (A or B). The correct answer is D", "D"),
        ("The correct answer is\n(B)", None),
    ],
)
def test_letter(answer: str, found: str | None) -> None:
    assert letter(answer) == found


def test_an_answer_kept_by_a_run() -> None:
    right, wrong = (SimpleNamespace(answer=f"The correct answer is ({a})", gold=("B",)) for a in "BA")
    assert [LONGBENCH2.rescore(cast(Any, None), cast(Any, each)) for each in (right, wrong)] == [1.0, 0.0]


@pytest.mark.parametrize("name", ["data.json", "sample.jsonl"])
def test_shards(tmp_path: Path, context: Context, name: str) -> None:
    rows = (item(), item(_id="2", domain=DOMAINS["code_repository"], difficulty="hard", length="long"), item(_id="3"))
    folder = write(tmp_path, *rows, name=name)
    shards = LONGBENCH2.prepare(LONGBENCH2.select(None), context(data_dir=folder, windows=(512, 1024)))
    assert [shard.id for shard in shards] == [
        f"longbench2/{task}@{window}" for task in ("single_document", "code_repository") for window in (512, 1024)
    ]
    assert [shard.n for shard in shards] == [2, 2, 1, 1]
    task = shards[0].load()
    task.build_all_requests()
    assert task.instances[0].args[0] == prompt().fill("$DOC$", question(item()))
    doc = next(iter(task.eval_docs))
    assert task.process_results(doc, ["The correct answer is (C)"]) == {"letter": 1.0}
    assert task.process_results(doc, ["C"]) == {"letter": 0.0}
    info = shards[2].describe(next(iter(shards[2].load().eval_docs)))
    assert info.gold == ("C",)
    assert (info.columns["difficulty"], info.columns["bucket"]) == ("hard", "long")
    (one,) = LONGBENCH2.prepare(["single_document"], context(data_dir=folder, limit=1))
    assert one.n == 1


def test_middle_truncation(tmp_path: Path, context: Context) -> None:
    folder = write(tmp_path, item(context="word " * 2000))
    with pytest.raises(TaskError, match=r"longbench2:single_document: 1 of 1 prompts"):
        LONGBENCH2.prepare(["single_document"], context(data_dir=folder, windows=(512,)))
    (shard,) = LONGBENCH2.prepare(["single_document"], context(data_dir=folder, windows=(512,), truncation="middle"))
    doc = next(iter(shard.load().eval_docs))
    assert doc["token_count"] <= 512 - 128
    assert doc["prompt"].endswith(question(item()))
    assert shard.describe(doc).truncated_tokens > 0


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (item(answer="E"), "line 2, field answer: 'E' is not A, B, C or D"),
        (item(answer="AB"), "field answer: 'AB'"),
        (item(domain="QA"), "line 2, field domain: 'QA' is not a domain of"),
        (item(length=5), "line 2, field length: is 5, must be text"),
        (item(length="huge"), "field length: 'huge' is not short, medium or long"),
        (item(choice_B=None), "line 2, field choice_B: is null"),
        (item(_id="0"), "line 2, field _id: line 1 has '0' too"),
    ],
)
def test_bad_data(tmp_path: Path, context: Context, row: Any, says: str) -> None:
    folder = write(tmp_path, item(_id="0"), row)
    with pytest.raises(UsageError, match=says):
        LONGBENCH2.prepare(["single_document"], context(data_dir=folder))


def test_other_files(tmp_path: Path, context: Context) -> None:
    with pytest.raises(MissingDataError, match=r"no longbench_v2/data\.json under .* and THUDM/LongBench-v2 \(train"):
        LONGBENCH2.prepare(["single_document"], context(data_dir=tmp_path, offline=True))
    write(tmp_path, item(), name="data.json")
    write(tmp_path, item(), name="a.jsonl")
    with pytest.raises(UsageError, match=r"holds a\.jsonl and data\.json; keep only one of them"):
        LONGBENCH2.prepare(["single_document"], context(data_dir=tmp_path))
    (tmp_path / "longbench_v2" / "a.jsonl").unlink()
    repeated = json.dumps([item(_id="a"), item(_id="a")])
    for text, says in (
        ("{}", "not a list of objects"),
        ("[", "not valid JSON"),
        ("[1]", "item 1: not a JSON object"),
        (repeated, "item 2, field _id: item 1 has 'a' too"),
        ("[\xe9]", "not UTF-8 \\(byte 2\\)"),
    ):
        (tmp_path / "longbench_v2" / "data.json").write_text(text, encoding="latin-1")
        with pytest.raises(UsageError, match=says):
            LONGBENCH2.prepare(["single_document"], context(data_dir=tmp_path))


def test_names_and_options(context: Context) -> None:
    assert len(LONGBENCH2.tasks()) == 6
    with pytest.raises(TaskError, match="did you mean 'multi_document'"):
        LONGBENCH2.select("multi_documents")
    with pytest.raises(UsageError, match=r"longbench2\.x: unknown option; longbench2 has no options"):
        LONGBENCH2.prepare(["multi_document"], context(options={"x": 1}))


@pytest.mark.parametrize("content", ["doc_to_text: hello\n", "- x\n", "a: [\n"])
def test_another_lm_eval(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str) -> None:
    (tmp_path / v2.FILE).parent.mkdir(parents=True)
    (tmp_path / v2.FILE).write_text(content)
    monkeypatch.setattr(prompts, "lm_eval_folder", lambda: tmp_path)
    with pytest.raises(TaskError, match="install lm-eval>="):
        v2._template.__wrapped__()


@pytest.mark.shared_data
def test_shared_samples(shared_data: Path, context: Context) -> None:
    shards = LONGBENCH2.prepare(
        LONGBENCH2.select(None), context(data_dir=shared_data, limit=1, windows=(4096,), truncation="middle")
    )
    assert [shard.n for shard in shards] == [1] * 6
    assert all(next(iter(shard.load().eval_docs))["token_count"] <= 4096 - 128 for shard in shards)
