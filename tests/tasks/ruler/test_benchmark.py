from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lr2eval.benchmark import Shard, TaskContext, TaskInfo
from lr2eval.errors import TaskError, UsageError
from lr2eval.model.tokenizer import PromptTokenizer
from lr2eval.tasks.ruler import RULER, generate
from lr2eval.tasks.ruler.suite import TASKS
from lr2eval.tasks.shared import upstream

Context = Callable[..., TaskContext]


def one(task: str, context: TaskContext) -> Shard:
    (shard,) = RULER.prepare([task], context)
    return shard


def own_tasks() -> list[TaskInfo]:
    """The tasks that read no outside text."""
    return [info for info in RULER.tasks() if info.needs == "nothing"]


def test_names() -> None:
    names = [info.name for info in RULER.tasks()]
    assert names == RULER.select(None)
    assert len(names) == 13
    assert RULER.select("vt") == ["vt"]
    assert RULER.select("niah") == names[:8]
    assert RULER.select("qa") == names[-2:] == ["qa_1", "qa_2"]
    with pytest.raises(TaskError, match=r"ruler:niah_singel_1: .*'niah_single_1'"):
        RULER.select("niah_singel_1")


def test_published_minimum_suffices(context: Context) -> None:
    for info in own_tasks():
        assert info.min_length is not None
        shard = one(info.name, context(lengths=(info.min_length,), samples_per_task=5))
        assert shard.n == 5


def test_too_short_a_length_names_one_that_suffices(context: Context, tmp_path: Path) -> None:
    """For questions, whose texts are given, it is the least: a token fewer is refused again."""
    answers = {"question": "When?", "is_impossible": False, "answers": [{"text": "1066"}]}
    paragraphs = [{"context": f"It was {'long, long ' * n}before 1066.", "qas": [answers]} for n in range(4)]
    (tmp_path / "squad").mkdir()
    (tmp_path / "squad" / "dev-v2.0.json").write_text(json.dumps({"data": [{"paragraphs": paragraphs}]}))
    made = context(offline=True, data_dir=tmp_path, options={"haystack": "python-docs"}, samples_per_task=4)
    for task in ("niah_multiquery", "niah_multikey_3", "qa_1"):
        with pytest.raises(TaskError, match="use a length of at least") as error:
            one(task, replace(made, lengths=(64,)))
        least = int(str(error.value).rpartition(" ")[2])
        assert one(task, replace(made, lengths=(least,))).n == 4
    with pytest.raises(TaskError, match=f"use a length of at least {least}$"):
        one("qa_1", replace(made, lengths=(least - 1,)))


def test_questions_about_one_paragraph_share_a_document(context: Context, tmp_path: Path) -> None:
    """At every length: the statistics take them for one cluster."""
    paragraphs = [
        {
            "context": f"It was {'long, long ' * n}before 1066 or 1067.",
            "qas": [
                {"question": f"When, {n}?", "is_impossible": False, "answers": [{"text": text}]}
                for text in ("1066", "1067")
            ],
        }
        for n in range(4)
    ]
    (tmp_path / "squad").mkdir()
    (tmp_path / "squad" / "dev-v2.0.json").write_text(json.dumps({"data": [{"paragraphs": paragraphs}]}))
    shards = RULER.prepare(["qa_1"], context(offline=True, data_dir=tmp_path, lengths=(1024, 2048), samples_per_task=6))
    asked = [[shard.describe(doc).columns["document"] for doc in shard.load().eval_docs] for shard in shards]
    assert asked[0] == asked[1]
    one_document = [column == asked[0][0] for column in asked[0]]
    assert one_document == [True, True, False, False, False, False]
    assert len(set(asked[0])) == 3


def test_shards(context: Context) -> None:
    made = context(lengths=(1024, 2048), samples_per_task=2)
    shards = RULER.prepare(["fwe", "niah_single_1"], made)
    assert [(shard.task, shard.length) for shard in shards] == [
        ("fwe", 1024),
        ("fwe", 2048),
        ("niah_single_1", 1024),
        ("niah_single_1", 2048),
    ]
    shard = shards[-1]
    assert (shard.id, shard.n, shard.metric, shard.max_new_tokens) == (
        "ruler/niah_single_1@2048",
        2,
        "string_match_all",
        128,
    )
    path = made.cache_dir / str(shard.data["file"])
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert list(rows[0]) == [
        *("id", "task", "length", "index", "prompt", "answer_prefix"),
        *("answers", "max_new_tokens", "token_count", "depth", "marks"),
    ]
    fill = [row["token_count"] / 2048 for row in rows]
    assert (shard.data["fill_min"], shard.data["fill_max"]) == (min(fill), max(fill))
    assert shard.data["haystack"] == "noise"
    assert shard.data_hash == shard.data["sha256"]
    manifest = json.loads(path.with_suffix(".manifest.json").read_text())
    assert manifest["tokenizer"] == made.tokenizer.fingerprint()


@pytest.mark.parametrize(("limit", "count"), [(None, 3), (2, 2), (0.5, 2), (10, 3), (1, 1)])
def test_limit(limit: float | None, count: int, context: Context) -> None:
    assert one("fwe", context(limit=limit)).n == count
    assert len(one("fwe", context(limit=limit)).load().eval_docs) == count


def test_limit_takes_the_first(context: Context) -> None:
    few, all_of_them = one("fwe", context(limit=1)).load(), one("fwe", context()).load()
    assert few.eval_docs[0]["prompt"] == all_of_them.eval_docs[0]["prompt"]


def test_no_length(context: Context) -> None:
    with pytest.raises(TaskError, match="--lengths"):
        RULER.prepare(["vt"], context(lengths=()))


@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize("task", TASKS)
def test_requests_are_what_was_counted(
    task: str, chat: bool, tokenizer: PromptTokenizer, context: Context, caplog: pytest.LogCaptureFixture
) -> None:
    """lm-eval's final text equals ``PromptTokenizer.render``, with and without chat template."""
    prompts = PromptTokenizer(tokenizer.tokenizer, chat=chat, name=tokenizer.name)
    shard = one(task, context(tokenizer=prompts, lengths=(3072,), samples_per_task=2))
    lm_eval_task = shard.load()
    assert not caplog.records

    def template(messages: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        text: str = tokenizer.tokenizer.apply_chat_template(
            messages,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
        )
        return text

    lm_eval_task.build_all_requests(apply_chat_template=chat, chat_template=template if chat else None)
    docs = list(lm_eval_task.eval_docs)
    assert len(lm_eval_task.instances) == shard.n == len(docs)
    for instance, doc in zip(lm_eval_task.instances, docs, strict=True):
        text, settings = instance.args
        assert text == prompts.render(doc["prompt"], doc["answer_prefix"])
        assert settings == {"until": [], "do_sample": False, "max_gen_toks": shard.max_new_tokens}
        assert len(prompts.encode_rendered(text)) + shard.max_new_tokens == doc["token_count"]


def test_scores_and_descriptions(context: Context) -> None:
    made = context()
    shard = one("vt", made)
    task = shard.load()
    doc = task.eval_docs[1]
    info = shard.describe(doc)
    assert info.gold == tuple(doc["answers"])
    assert len(info.gold) == 5
    assert all(mark in doc["prompt"] for mark in info.marks)
    assert info.columns == {"depth": None, "token_count": doc["token_count"]}
    file, offset = info.source or ("", -1)
    line = (made.cache_dir / file).read_bytes()[offset:].split(b"\n")[0]
    assert json.loads(line)["prompt"] == doc["prompt"]
    assert task.process_results(doc, [" ".join(info.gold[:2]).lower()]) == {"string_match_all": 0.4}
    assert task.aggregation()["string_match_all"]([0.0, 1.0]) == 0.5
    assert task.dump_config()["task"] == "vt"


@pytest.mark.parametrize("change", [{"seed": 1}, {"samples_per_task": 4}, {"lengths": (1024,)}])
def test_other_contents_have_other_files(change: dict[str, Any], context: Context) -> None:
    assert one("fwe", context()).data["file"] != one("fwe", context(**change)).data["file"]


def test_tokenizer_and_chat_are_part_of_the_key(context: Context, trained: dict[str, Any]) -> None:
    kinds = [PromptTokenizer(each, chat=chat) for each in trained.values() for chat in (False, True)]
    assert len({one("fwe", context(tokenizer=kind)).data["file"] for kind in kinds}) == 4


def test_other_prompt_texts_have_other_files(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    before = one("fwe", context()).data["file"]
    texts = upstream.task_texts
    monkeypatch.setattr(
        "lr2eval.tasks.shared.upstream.task_texts",
        lambda task: replace(texts(task), template=texts(task).template.replace("Read", "Study")),
    )
    assert one("fwe", context()).data["file"] != before


def test_workers_are_the_users_choice(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int | None] = []
    make = generate.samples

    def spy(*arguments: Any) -> Any:
        asked.append(arguments[-1])
        return make(*arguments)

    monkeypatch.setattr(generate, "samples", spy)
    one("fwe", context(options={"workers": 1}))
    one("niah_single_1", context())
    assert asked == [1, None]


def test_lengths_may_have_samples_of_their_own(context: Context) -> None:
    given = context(lengths=(512, 1024), samples_per_task=2, options={"samples": {"512": 5}})
    short, long = RULER.prepare(["niah_single_1"], given)
    assert [(shard.length, shard.n) for shard in (short, long)] == [(512, 5), (1024, 2)]
    alike = one("niah_single_1", context(lengths=(512,), samples_per_task=2))
    docs = [list(shard.load().eval_docs) for shard in (short, alike)]
    assert docs[0][:2] == docs[1], "more samples change none"
    (limited,) = RULER.prepare(["niah_single_1"], replace(given, lengths=(512,), limit=3))
    assert limited.n == 3


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ({"512": 0}, "0 is not a number of samples"),
        ({"512": True}, "True is not a number of samples"),
        ({"far": 3}, "'far' is not a length"),
        (7, "ruler.samples 7: must be a table"),
        ({"x y": 3}, "write lengths and numbers of samples"),
        ({"2k": 3}, "2048 tokens is not among --lengths"),
    ],
)
def test_wrong_samples_by_length_are_one_line(context: Context, samples: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        RULER.prepare(["niah_single_1"], context(lengths=(512, 1024), options={"samples": samples}))
    assert "\n" not in str(caught.value)
