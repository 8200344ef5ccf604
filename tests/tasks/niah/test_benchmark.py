"""The grid: exact lengths, exact depths, stable identities, opaque needles."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lr2eval.base.ids import sample_id
from lr2eval.benchmark import Shard, TaskContext
from lr2eval.errors import TaskError, UsageError
from lr2eval.model.tokenizer import PromptTokenizer
from lr2eval.tasks import haystacks
from lr2eval.tasks.niah import NIAH
from lr2eval.tasks.niah.background import FIRST, MARGIN, Background

Context = Callable[..., TaskContext]
DOCS = {"haystack": "python-docs"}
VARIANTS = ["single", "multi", "distractor"]
NEEDLE = re.compile(r"The access code of (\S+) is (\d{7})\.")


def rows(context: TaskContext, variant: str = "single") -> list[dict[str, Any]]:
    (shard,) = NIAH.prepare([variant], context)
    return rows_of(shard, context)


def rows_of(shard: Shard, context: TaskContext) -> list[dict[str, Any]]:
    path = context.cache_dir / str(shard.data["file"])
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def body(row: dict[str, Any]) -> str:
    """The haystack with its needles."""
    text = str(row["prompt"]).partition("\n\n")[2].rpartition("\n\n")[0]
    assert text
    return text


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_sample_is_maximal(variant: str, tokenizer: PromptTokenizer, context: Context) -> None:
    made = context(tokenizer=tokenizer, options={**DOCS, "depths": 3, "samples_per_cell": 2}, lengths=(1024, 4096))
    source = haystacks.load(DOCS["haystack"], None, True)
    for shard in NIAH.prepare([variant], made):
        assert shard.length is not None
        for row in rows_of(shard, made):
            count = tokenizer.count_prompt(row["prompt"], row["answer_prefix"]) + row["max_new_tokens"]
            assert count == row["token_count"] <= shard.length
            assert count >= 0.98 * shard.length
            plain = NEEDLE.sub("", body(row)).split()
            assert plain == source.take(0, len(plain)), "the haystack is the text, whole words from its beginning"
            one_more = row["prompt"].replace("\n\nWhat", f" {source.take(len(plain), len(plain) + 1)[0]}\n\nWhat")
            if row["depth"] < 1:
                more = tokenizer.count_prompt(one_more, row["answer_prefix"]) + row["max_new_tokens"]
                assert more > shard.length


@pytest.mark.parametrize("variant", VARIANTS)
def test_needles(variant: str, context: Context) -> None:
    made = rows(context(options={**DOCS, "depths": 5, "samples_per_cell": 3}), variant)
    assert Counter(row["depth"] for row in made) == dict.fromkeys((0.0, 0.25, 0.5, 0.75, 1.0), 3)
    assert [row["depth"] for row in made[:5]] == [0.0, 0.25, 0.5, 0.75, 1.0], "first samples spread over the grid"
    seen: set[str] = set()
    for row in made:
        needles = NEEDLE.findall(body(row))
        assert len(needles) == {"single": 1, "multi": 4, "distractor": 5}[variant]
        assert len(dict(needles)) == len({value for _, value in needles}) == len(needles)
        asked = [key for key, _ in needles if key in row["prompt"].rpartition("\n\n")[2]]
        assert sorted(dict(needles)[key] for key in asked) == sorted(row["answers"])
        assert len(asked) == (4 if variant == "multi" else 1)
        assert all(key in row["answer_prefix"] for key in asked)
        assert all(row["prompt"].count(mark) == 1 for mark in row["marks"])
        assert not seen & set(row["answers"]), "values are fresh in every sample"
        seen |= set(row["answers"])
        if variant == "distractor":
            first, _, last = asked[0].partition("-")
            others = [key for key, _ in needles if key not in asked]
            assert all(key.startswith(f"{first}-") or key.endswith(f"-{last}") for key in others)


def test_depth_is_exact_in_tokens(tokenizer: PromptTokenizer, context: Context) -> None:
    """Counted anew: the needle stands at the sentence end nearest to the asked share of the haystack's tokens."""
    for row in rows(context(tokenizer=tokenizer, options={**DOCS, "samples_per_cell": 1})):
        (needle,) = row["marks"]
        before, after = (part.strip() for part in body(row).split(needle))
        assert before == "" or before[-1] in ".?!:;)'\"" or after == ""
        whole = f"{before} {after}".strip()
        total = len(tokenizer.encode(whole))
        assert row["token_depth"] == pytest.approx(
            len(tokenizer.encode(before)) / total if before else 0.0, abs=2 / total
        )
        ends, char = [0], 0
        for sentence in haystacks.split(whole):
            char = whole.index(sentence, char) + len(sentence)
            if char == len(whole) or whole[char] == " ":
                ends.append(len(tokenizer.encode(whole[:char])))
        distance = abs(row["token_depth"] * total - row["depth"] * total)
        assert distance <= min(abs(end - row["depth"] * total) for end in ends) + 3


def test_multi_needles_spread_from_the_asked_depth_to_the_end(context: Context) -> None:
    for row in rows(context(options={**DOCS, "depths": 3, "samples_per_cell": 1}, lengths=(4096,)), "multi"):
        text = body(row)
        places = [text.index(mark) / len(text) for mark in row["marks"]]
        step = (1 - row["depth"]) / 4
        assert places == pytest.approx([row["depth"] + step * number for number in range(4)], abs=0.04)


def test_nothing_else_changes_a_sample(context: Context) -> None:
    options = {**DOCS, "depths": 3, "samples_per_cell": 1}
    few = rows(context(options=options))
    more = context(options={**options, "samples_per_cell": 2}, lengths=(1024, 2048))
    shards = NIAH.prepare(VARIANTS, more)
    (same,) = [shard for shard in shards if shard.id == "niah/single@2048"]
    assert rows_of(same, more)[:3] == few
    assert rows(context(options=options, seed=1))[0]["answers"] != few[0]["answers"]
    assert rows(context(options={**options, "samples_per_cell": 3}, limit=4))[:3] == few


def test_another_grid_has_other_identities(context: Context) -> None:
    ids = [
        {row["id"] for row in rows(context(options={**DOCS, "samples_per_cell": 1, **more}))}
        for more in ({}, {"depths": 3}, {"depths": "0,100"}, {"needles": 3})
    ]
    assert not ids[0] & ids[1]
    assert not ids[1] & ids[2]
    assert not ids[0] & ids[3]
    assert ids[0] == {row["id"] for row in rows(context(options={**DOCS, "samples_per_cell": 1, "depths": 11}))}


def test_shard(context: Context) -> None:
    made = context(options={**DOCS, "depths": 2, "samples_per_cell": 2})
    shards = NIAH.prepare(["multi", "single"], made)
    assert [shard.id for shard in shards] == ["niah/single@2048", "niah/multi@2048"]
    shard = shards[0]
    assert (shard.n, shard.metric, shard.scale, shard.cells, shard.max_new_tokens) == (4, "found", 100.0, "depth", 32)
    assert str(shard.data["haystack"]).startswith("python-docs")
    assert shard.data["comparable"] is False
    (first, *_) = rows_of(shard, made)
    assert first["id"] == sample_id(shard.version, "niah/single", 2048, 0, 0)
    task = shard.load()
    document = task.eval_docs[0]
    info = shard.describe(document)
    assert info.gold == tuple(first["answers"])
    assert info.columns == {key: first[key] for key in ("depth", "token_depth", "token_count")}
    assert task.process_results(document, [f" {first['answers'][0]}."]) == {"found": 1.0}
    assert task.process_results(document, [f"0{first['answers'][0]}"]) == {"found": 0.0}


def test_samples_per_task_does_not_cut_the_grid(context: Context) -> None:
    made = context(options={**DOCS, "depths": 2}, samples_per_task=1, lengths=(512,))
    assert len(rows(made)) == 10
    assert len(rows(context(options={**DOCS, "depths": 2}, limit=0.5, lengths=(512,)))) == 5


@pytest.mark.parametrize("variant", VARIANTS)
def test_published_minimum_suffices(variant: str, tokenizer: PromptTokenizer, context: Context) -> None:
    least = {info.name: info.min_length for info in NIAH.tasks()}[variant]
    assert least is not None
    made = context(tokenizer=tokenizer, options={**DOCS, "samples_per_cell": 1}, lengths=(least,))
    assert len(rows(made, variant)) == 11


def test_bad_input_is_one_line(context: Context, tmp_path: Path) -> None:
    def error(kind: type[Exception], variant: str = "single", **changes: Any) -> str:
        with pytest.raises(kind) as caught:
            NIAH.prepare([variant], context(**changes))
        assert "\n" not in str(caught.value)
        return str(caught.value)

    short = tmp_path / "short.txt"
    short.write_text("One sentence of it. And another one.")
    assert "use a length of" in error(TaskError, options=DOCS, lengths=(64,))
    assert "at least one length" in error(TaskError, options=DOCS, lengths=())
    assert "has only 7 words" in error(TaskError, options={"haystack": str(short), "repeat": False})
    assert "no such file" in error(UsageError, options={"haystack": str(tmp_path / "absent")})
    flat = tmp_path / "flat.txt"
    flat.write_text("words without an end " * 2000)
    line = error(TaskError, options={"haystack": str(flat), "repeat": False}, variant="multi")
    assert "4 needles are more than the places between sentences" in line
    assert "niah.needles=N" in line
    assert "unknown option; did you mean niah.depths?" in error(UsageError, options={**DOCS, "deths": 3})
    assert len(rows(context(options={"haystack": str(short), "depths": 2, "samples_per_cell": 1}))) == 2


def test_places_do_not_depend_on_what_was_asked_before(tokenizer: PromptTokenizer) -> None:
    source = haystacks.load(DOCS["haystack"], None, True)
    asked_late, asked_first = Background(source, tokenizer), Background(source, tokenizer)
    size = FIRST - MARGIN - 1
    for larger in (FIRST, 3 * FIRST):
        asked_late.text(larger)
    for depth in (0.0, 0.123, 0.5, 0.99, 1.0):
        assert asked_late.place(size, depth) == asked_first.place(size, depth)
    assert asked_late.text(size) == asked_first.text(size) == " ".join(source.take(0, size))


def test_a_slow_tokenizer_has_no_offsets(one_tokenizer: PromptTokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    source = haystacks.load(DOCS["haystack"], None, True)
    fast = Background(source, one_tokenizer)
    monkeypatch.setattr(type(one_tokenizer.tokenizer), "is_fast", False)
    slow = Background(source, one_tokenizer)
    # Byte-level counts add up over words, so here word by word is exact as well.
    assert [slow.place(999, depth / 7) for depth in range(8)] == [fast.place(999, depth / 7) for depth in range(8)]


@pytest.mark.shared_data
def test_real_essays(shared_data: Path, context: Context) -> None:
    made = context(data_dir=shared_data, offline=True, options={"depths": 3, "samples_per_cell": 1}, lengths=(4096,))
    (shard,) = NIAH.prepare(["single"], made)
    assert "PaulGrahamEssays" in str(shard.data["haystack"])
    assert all(0.99 * 4096 <= row["token_count"] <= 4096 for row in rows_of(shard, made))


def test_identities_follow_the_sentences(context: Context) -> None:
    """Where the trained splitter may move a needle, samples are new ones; their draws are the same as before."""

    def version(**options: Any) -> str:
        (shard,) = NIAH.prepare(["single"], context(options={**options, "samples_per_cell": 1}))
        return shard.version

    assert version(**DOCS) == "2"
    assert version(haystack="demo-filler") == "1"
    assert version(**DOCS, depths=3).partition("+")[0] == "2"
    assert version(**DOCS, places="words").partition("+")[0] == "1"
