from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from demo_model import rows, text, train
from demo_model.train import BOS_ID, EOS_ID, DemoRecipe
from transformers import AutoModelForCausalLM, AutoTokenizer

SMALL = {"layers": 1, "hidden": 16, "heads": 1, "head_dim": 16, "intermediate": 16, "vocabulary": 600}


@pytest.fixture(scope="module")
def recipe() -> DemoRecipe:
    found = DemoRecipe.read(tokens_per_step=96, window=64)
    return replace(found, model={**found.model, **SMALL}, cycles=[{**found.cycles[0], "steps": 8}])


@pytest.fixture(scope="module")
def tokenizer() -> train.PreTrainedTokenizerFast:
    return train.make_tokenizer(600)


def test_the_tokenizer_has_single_digits_and_every_byte(tokenizer: train.PreTrainedTokenizerFast) -> None:
    ids = tokenizer.encode("is: 1234567.\nÄ漢", add_special_tokens=False)
    assert tokenizer.decode(ids) == "is: 1234567.\nÄ漢"
    assert tokenizer.convert_ids_to_tokens(ids)[-12:].count("Ġ") <= 1
    digits = [tokenizer.decode([token]) for token in tokenizer.encode(" 1234567", add_special_tokens=False)]
    assert digits == [" ", *"1234567"]
    assert tokenizer.encode("The")[0] == BOS_ID


def test_weights_follow_their_pieces(tokenizer: train.PreTrainedTokenizerFast, recipe: DemoRecipe) -> None:
    text = train.Text(tokenizer, recipe)
    ids, weights = text.encode([("<s>The number is ", 0.0), ("42", 1.0), ("</s>", 0.5), ("\n", 0.0)])
    said = [(tokenizer.decode([token]), weight) for token, weight in zip(ids, weights, strict=True)]
    assert ids[0] == BOS_ID
    assert [pair for pair in said if pair[1]] == [("4", 1.0), ("2", 1.0), ("</s>", 0.5)]
    assert ids[-2] == EOS_ID


def test_a_step_sees_the_same_text_whenever_it_comes(
    tokenizer: train.PreTrainedTokenizerFast, recipe: DemoRecipe
) -> None:
    first, second = train.Text(tokenizer, recipe), train.Text(tokenizer, recipe)
    second.windows(3, 32, 32)
    assert all(torch.equal(a, b) for a, b in zip(first.windows(5, 64, 64), second.windows(5, 64, 64), strict=True))
    other = train.Text(tokenizer, replace(recipe, seed=1))
    assert not torch.equal(first.windows(5, 64, 64)[0], other.windows(5, 64, 64)[0])


def test_a_killed_training_goes_on_to_the_same_weights(
    tmp_path: Path,
    tokenizer: train.PreTrainedTokenizerFast,
    recipe: DemoRecipe,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(train, "SAVE_EVERY", 3)
    monkeypatch.setattr(train, "LOG_EVERY", 4)
    folders = [tmp_path / name for name in ("whole", "broken")]
    for folder in folders:
        folder.mkdir()
    whole = train.Training(recipe, tokenizer, folders[0])
    whole.run(lambda line: None)
    broken = train.Training(recipe, tokenizer, folders[1])
    for _ in range(3):
        broken._one()
    broken._save()
    broken._one()  # lost
    again = train.Training(recipe, tokenizer, folders[1])
    again.run(lambda line: None)
    assert again.step == whole.step == 8
    assert all(torch.equal(a, b) for a, b in zip(whole.model.parameters(), again.model.parameters(), strict=True))
    assert [json.loads(line)["step"] for line in (folders[0] / train.LOG).read_text().splitlines()] == [4, 8]
    with pytest.raises(SystemExit, match="another recipe or seed"):
        train.Training(replace(recipe, seed=5), tokenizer, folders[1]).run(lambda line: None)


def test_the_loss_is_that_of_all_logits(tokenizer: train.PreTrainedTokenizerFast, recipe: DemoRecipe) -> None:
    model = train.make_model(recipe)
    tokens_BL, weights_BL = train.Text(tokenizer, recipe).windows(1, 64, 64)
    loss, answers, others, right = train.losses(model, tokens_BL, weights_BL, 0.1, 1.0)
    logits_BLV = model(input_ids=tokens_BL).logits[:, :-1]
    each_BL = torch.nn.functional.cross_entropy(logits_BLV.mT, tokens_BL[:, 1:], reduction="none")
    weights_BL = weights_BL[:, 1:]
    wanted = (each_BL * weights_BL).sum() / weights_BL.sum()
    rest = each_BL[weights_BL == 0].mean()
    assert math.isclose(answers, wanted.item(), rel_tol=1e-5)
    assert math.isclose(others, rest.item(), rel_tol=1e-5)
    assert math.isclose(loss.item(), (wanted + 0.1 * rest).item(), rel_tol=1e-5)
    told = (logits_BLV.argmax(-1) == tokens_BL[:, 1:]).float()
    assert math.isclose(right, ((told * weights_BL).sum() / weights_BL.sum()).item(), rel_tol=1e-5)


def test_the_window_grows_with_accuracy_and_is_full_in_time(
    tmp_path: Path, tokenizer: train.PreTrainedTokenizerFast, recipe: DemoRecipe
) -> None:
    training = train.Training(replace(recipe, window=512), tokenizer, tmp_path)
    training.step, training.accuracy = 10, 0.69
    training._grow()
    assert training.window == 24
    training.accuracy = 0.71
    training._grow()
    assert training.window == 32
    training.step = 11
    training._grow()
    assert training.window == 32, "every tenth step"
    training.step, training.window, training.accuracy = 20, 96, 0.64
    training._grow()
    assert training.window == 112
    training.step, training.accuracy = 3150, 0.0
    training._grow()
    assert training.window == 512


def test_each_cycle_has_its_rate_and_its_text(tmp_path: Path, tokenizer: train.PreTrainedTokenizerFast) -> None:
    recipe = DemoRecipe.read()
    training = train.Training(recipe, tokenizer, tmp_path)
    assert recipe.steps == 12_000
    assert training.rate(0) == pytest.approx(1 / 40)
    assert training.rate(39) == training.rate(3149) == 1.0
    assert training.rate(5075) == pytest.approx(0.5, abs=1e-3)
    assert training.rate(6999) == 0.03
    assert training.rate(7000) == 0.5
    assert training.rate(9500) == pytest.approx(0.25)
    assert training.rate(11_999) == pytest.approx(0.015)
    assert [recipe.cycle(step)[0]["questions"] for step in (0, 6999, 7000, 11_999, 12_000)] == [4, 4, 6, 6, 6]


def test_export_is_an_ordinary_checkpoint(
    tmp_path: Path, tokenizer: train.PreTrainedTokenizerFast, recipe: DemoRecipe
) -> None:
    training = train.Training(recipe, tokenizer, tmp_path)
    train.export(training, tokenizer, tmp_path / "model")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), training.model.parameters(), strict=True))
    read = AutoTokenizer.from_pretrained(tmp_path / "model")
    assert read.encode("Every oven is old. 12") == tokenizer.encode("Every oven is old. 12")
    assert DemoRecipe(**json.loads((tmp_path / "model" / "recipe.json").read_text())) == recipe


def test_rows_hold_long_prompts_of_fresh_text_and_windows_of_the_pre_training() -> None:
    tokenizer = train.make_tokenizer(2048)
    made = list(rows.documents(tokenizer, 2048, 2, 0))
    assert made == list(rows.documents(tokenizer, 2048, 2, 0))
    sizes = [len(row["input_ids"]) for row in made]
    short = [size for size in sizes if size <= 512]
    assert short == [512] * (2 * 2048 // 512)
    assert sum(size for size in sizes if size > 512) > 1.6 * 2048
    for row in made:
        assert len(row["weights"]) == len(row["input_ids"])
        assert set(row["weights"]) <= {rows.OTHER, 0.5, 1.0}
        assert row["input_ids"][0] == BOS_ID or len(row["input_ids"]) == 512


def test_the_search_asks_with_keys_of_the_training() -> None:
    tokenizer = train.make_tokenizer(2048)
    wording = rows.search_wording(tokenizer)
    assert len(wording.keys) == 400
    words = text.Words.load()
    assert all(set(key.split("-")) <= set(words.all) for key in wording.keys)
    assert wording.needle.format(key="a-b", value="1") == " One of the special magic numbers for a-b is: 1."
