"""Words of one's own around the needle, and needles between any two words."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lr2eval.benchmark import TaskContext
from lr2eval.errors import UsageError
from lr2eval.model.tokenizer import PromptTokenizer
from lr2eval.tasks.niah import NIAH

Context = Callable[..., TaskContext]
ASSET = Path(__file__).parents[2] / "assets" / "tiny-retrieval"
TINY = {
    "haystack": str(ASSET / "haystack.txt"),
    "wording": str(ASSET / "wording.json"),
    "places": "words",
    "tokens_per_value": 2,
    "depths": 3,
}


@pytest.fixture(scope="module")
def tiny() -> PromptTokenizer:
    return PromptTokenizer.load(ASSET)


def rows(context: TaskContext, variant: str = "single") -> list[dict[str, Any]]:
    (shard,) = NIAH.prepare([variant], context)
    path = context.cache_dir / str(shard.data["file"])
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("length", [128, 512])
def test_a_made_up_language_in_its_own_window(tiny: PromptTokenizer, context: Context, length: int) -> None:
    found = rows(context(tokenizer=tiny, lengths=(length,), options=TINY))
    assert len(found) == 3 * 5
    for row in found:
        key, value = row["marks"][0].split()
        assert row["prompt"].count(f" {key} {value} ") + row["prompt"].startswith(f"{key} {value} ") == 1
        assert row["prompt"].endswith(f" ? {key}")
        assert (row["answer_prefix"], row["answers"], row["max_new_tokens"]) == ("", [value], 2)
        assert row["token_count"] == length, "one more word would not fit"
        assert tiny.count_prompt(row["prompt"], "") + 2 == length
        assert abs(row["token_depth"] - row["depth"]) < 1 / (length - 10), "any word border is a place"


def test_distractors_are_other_keys_of_the_wording(tiny: PromptTokenizer, context: Context) -> None:
    options = {**TINY, "distractors": 6}
    for row in rows(context(tokenizer=tiny, lengths=(128,), options=options), "distractor"):
        words = row["prompt"].split()
        keys = [word for word in words if word.startswith("k")]
        assert len(keys) == 8
        assert len(set(keys)) == 7, "seven needles, one of them asked for"
        values = [word for word in words if word.startswith("v")]
        assert len(set(values)) == 7


def test_numbers_where_the_wording_has_no_values(tmp_path: Path, context: Context) -> None:
    file = tmp_path / "german.json"
    file.write_text(
        json.dumps(
            {
                "instruction": "Merke dir die Nummer.\n\n",
                "needle": " Die Nummer von {key} ist {value}.",
                "question": "\n\nWelche Nummer hat {key}?",
                "stem": "\nDie Nummer von {key} ist",
                "keys": ["Anna", "Bert"],
            }
        ),
        encoding="utf-8",
    )
    options = {"haystack": "python-docs", "depths": 2, "samples_per_cell": 2}
    usual = context(options=options)
    worded = context(options={**options, "wording": str(file)})
    for row, other in zip(rows(worded), rows(usual), strict=True):
        assert row["id"] != other["id"], "another question is another sample"
        assert row["marks"][0] in row["prompt"]
        assert len(row["answers"][0]) == 7
        assert row["prompt"].startswith("Merke dir die Nummer.\n\n")
        assert row["answer_prefix"] in ("\nDie Nummer von Anna ist", "\nDie Nummer von Bert ist")
    (shard,) = NIAH.prepare(["single"], worded)
    assert len(str(shard.data["wording"])) == 8, "the manifest says that the words were others"


@pytest.mark.parametrize(
    ("options", "variant", "message"),
    [
        ({"wording": "absent.json"}, "single", "absent.json: No such file"),
        ({}, "multi", "one needle only\\); choose --tasks niah:single"),
        ({"distractors": 32, "wording": "few"}, "distractor", "32 distractors need more than 2 keys"),
        ({"places": "anywhere"}, "single", "niah.places=anywhere: choose sentences or words"),
    ],
)
def test_bad_input_is_one_line(
    tiny: PromptTokenizer, context: Context, tmp_path: Path, options: dict[str, Any], variant: str, message: str
) -> None:
    if options.get("wording") == "few":
        (tmp_path / "few.json").write_text('{"keys": ["a", "b"]}')
        options = {**options, "wording": str(tmp_path / "few.json")}
    with pytest.raises(UsageError, match=message) as caught:
        NIAH.prepare([variant], context(tokenizer=tiny, lengths=(512,), options={**TINY, **options}))
    assert "\n" not in str(caught.value)
