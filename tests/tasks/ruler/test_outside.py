"""The tasks over outside text as the benchmark hands them out."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest

from lr2eval.benchmark import TaskContext
from lr2eval.errors import MissingDataError, UsageError
from lr2eval.tasks.ruler import RULER, outside

Context = Callable[..., TaskContext]
DOCS = {"haystack": "python-docs"}


def test_everything_missing_is_listed_at_once(context: Context, tmp_path: Path) -> None:
    made = context(data_dir=tmp_path, offline=True)
    with pytest.raises(MissingDataError) as caught:
        RULER.prepare(RULER.select(None), made)
    assert len(caught.value.missing) == 3
    assert sorted(caught.value.tasks) == sorted(outside.OUTSIDE)
    assert all(word in str(caught.value) for word in ("essays", "squad", "hotpotqa"))
    assert "essays" in caught.value.tasks["niah_multivalue"]
    assert "squad" not in caught.value.tasks["qa_2"]
    assert not (made.cache_dir / "data").exists(), "nothing is made before"


def test_what_is_not_asked_for_is_not_missing(context: Context) -> None:
    assert len(RULER.prepare(["vt", "fwe"], context(offline=True))) == 2
    assert len(RULER.prepare(RULER.select("niah"), context(offline=True, options=DOCS))) == 8


def test_facts_reach_the_shard(context: Context) -> None:
    (shard,) = RULER.prepare(["niah_multivalue"], context(options=DOCS))
    assert str(shard.data["haystack"]).startswith("python-docs-3.")
    assert (shard.data["stand_in"], shard.data["comparable"], shard.data["repeated"]) == (True, False, True)
    assert len(str(shard.data["haystack_sha256"])) == 64
    doc = shard.load().eval_docs[0]
    info = shard.describe(doc)
    assert len(info.gold) == len(info.marks) == 4
    assert shard.load().process_results(doc, [info.gold[0]]) == {"string_match_all": 0.25}


def test_other_text_other_file(context: Context, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("Some words. " * 50, encoding="utf-8")
    options = [DOCS, {"haystack": str(tmp_path / "a.txt")}]
    files = {RULER.prepare(["niah_single_2"], context(options=each))[0].data["file"] for each in options}
    (tmp_path / "a.txt").write_text("Other words. " * 50, encoding="utf-8")
    files.add(RULER.prepare(["niah_single_2"], context(options=options[1]))[0].data["file"])
    assert len(files) == 3


def test_unknown_option(context: Context) -> None:
    with pytest.raises(UsageError, match=r"ruler\.haystac: unknown option; did you mean ruler\.haystack"):
        RULER.prepare(["vt"], context(options={"haystac": "python-docs"}))


def test_recipes_can_be_sent_to_another_process(context: Context) -> None:
    tasks = outside.load(["niah_single_2"], outside.RulerOptions(**DOCS), context())
    recipe = tasks["niah_single_2"].recipe(context().tokenizer, 1024, 0)
    assert pickle.loads(pickle.dumps(recipe)) == recipe


def test_scored_as_lm_eval_does(context: Context, tmp_path: Path) -> None:
    """Same file, same identities, another metric by another name; tasks that lm-eval scores as upstream keep theirs."""
    answers = [{"text": "1066"}, {"text": "in 1066"}, {"text": "1066"}]
    question = {"question": "When?", "is_impossible": False, "answers": answers}
    articles = [{"paragraphs": [{"context": "It was in 1066.", "qas": [question]}]}]
    (tmp_path / "squad.json").write_text(json.dumps({"data": articles}), encoding="utf-8")
    own = {"squad": str(tmp_path / "squad.json")}
    plain, plain_vt = RULER.prepare(["qa_1", "vt"], context(options=own, samples_per_task=1))
    compat, compat_vt = RULER.prepare(["qa_1", "vt"], context(options={**own, "compat": "lm-eval"}, samples_per_task=1))
    assert (plain.metric, compat.metric) == ("string_match_part", "lm_eval_string_match_part")
    assert (plain.data_hash, plain.data["file"]) == (compat.data_hash, compat.data["file"])
    assert (plain.data.get("scoring"), compat.data["scoring"]) == (None, "lm-eval")
    assert (plain_vt.metric, plain_vt.data) == (compat_vt.metric, compat_vt.data)
    doc = plain.load().eval_docs[0]
    assert plain.load().process_results(doc, ["1066"]) == {"string_match_part": 1.0}
    assert compat.load().process_results(doc, ["1066"]) == {"lm_eval_string_match_part": 2 / 3}


@pytest.mark.shared_data
def test_all_thirteen_with_real_data(shared_data: Path, context: Context) -> None:
    made = context(data_dir=shared_data, lengths=(8192,), offline=True)
    shards = RULER.prepare(RULER.select(None), made)
    assert [shard.task for shard in shards] == RULER.select(None)
    assert {shard.metric for shard in shards[-2:]} == {"string_match_part"}
    assert all(0.9 < float(shard.data["fill_min"] or 0) <= 1 for shard in shards)
    stand_ins = {shard.task for shard in shards if shard.data.get("stand_in")}
    assert stand_ins == set(outside.OUTSIDE)


@pytest.mark.shared_data
def test_no_more_samples_than_questions(shared_data: Path, context: Context) -> None:
    said: list[str] = []
    made = context(data_dir=shared_data, lengths=(8192,), samples_per_task=500, progress=said.append)
    (shard,) = RULER.prepare(["qa_2"], made)
    assert shard.n == 100
    assert any("100 questions" in line for line in said)
