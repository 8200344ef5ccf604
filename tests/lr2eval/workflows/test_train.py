"""``lr2eval train`` from end to end on the tiny retrieval model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from lr2eval.base.files import write_json
from lr2eval.method.rope.rules import RULES
from lr2eval.method.rope.scaling import OriginalRope, RopeScaling
from lr2eval.method.train.recipe import names
from tests.tiny_segments import mixture, write_segments

Run = Callable[..., Any]


ASSET = Path(__file__).parents[2] / "assets" / "tiny-retrieval"


SCALING = RULES["longrope2"].make(OriginalRope(1000.0, 64, 128), 512)
NEEDLES = (
    *("--set", "evaluation.needles=2", "--set", f"evaluation.haystack={ASSET / 'haystack.txt'}"),
    *("--set", f"evaluation.wording={ASSET / 'wording.json'}", "--set", "evaluation.repeat=true"),
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders ``data`` and ``held``, and ``factors.json``."""
    home = tmp_path_factory.mktemp("train")
    rows = mixture(12, 512, 128, weighted=True, vocabulary=296)
    write_segments(home / "data", rows[:8], 128)
    write_segments(home / "held", rows[8:], 128)
    write_json(home / "factors.json", SCALING.to_json())
    return home


def command(made: Path, out: Path, *more: object) -> list[object]:
    return [
        "train", "--recipe", "tiny-retrieval-2k", "--model", ASSET, "--factors", made / "factors.json", "--data",
        made / "data", "--held-out", made / "held", "--out", out, "--device", "cpu", "--set", "target_window=512",
        "--set", "saving.every=1", *more,
    ]  # fmt: skip


def test_a_training_from_end_to_end(made: Path, lr2eval: Run, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = lr2eval(*command(made, out, *NEEDLES))
    assert done.code == 0, done.err
    assert done.out.splitlines()[-1] == str(out / "model")
    assert "step 4/4, loss " in done.err
    told = json.loads((out / "training.json").read_text())
    assert (told["steps"], told["rows_short"], told["rows_long"]) == (4, 4, 4)
    last = told["evaluations"]["4"]
    assert last.keys() == {"held_out_short", "held_out_long", "needle_perplexity"}
    assert last["held_out_long"] < told["evaluations"]["0"]["held_out_long"]
    model, info = AutoModelForCausalLM.from_pretrained(out / "model", output_loading_info=True)
    assert not info["missing_keys"]
    assert RopeScaling.from_config(model.config) == SCALING
    assert str(model.dtype) == "torch.bfloat16"  # as the source

    again = lr2eval(*command(made, out, *NEEDLES))
    assert again.code == 0, again.err
    assert "resuming after step 4 of 4" in again.err
    assert json.loads((out / "training.json").read_text()) == told

    other = lr2eval(*command(made, out, *NEEDLES, "--set", "optimizer.clip=2"))
    assert other.code == 2
    assert "recipe.optimizer.clip: was 1.0, now 2.0" in other.error


@pytest.mark.parametrize(
    ("more", "code", "said"),
    [
        (("--set", "target_window=256"), 2, "target_window: 256 tokens in the recipe but 512 in the factors"),
        (("--set", "original_window=64"), 2, "original_window: 64 tokens in the recipe but 128 in the factors"),
        (("--data", "nowhere"), 2, "nowhere: not a folder of training data"),
        (("--held-out", "{made}/data"), 2, "--held-out: row 0 equals row 0 of --data"),
        (("--factors", "{made}/plain.csv"), 2, "has no windows"),
        (("--set", "x"), 2, "--set x: write key=value"),
        (("--set", "clip=1"), 2, "clip: unknown option"),
        (("--recipe", "no-such"), 2, "give a TOML file or one of demo-8k, llama3-8b-128k"),
        (("--set", "loss=liger"), 2, "GPUs only"),
        (("--set", "optimizer.learning_rate=1e30"), 5, "is not finite; the last good checkpoint is"),
    ],
)
def test_what_is_wrong_is_one_line(
    made: Path, lr2eval: Run, tmp_path: Path, more: tuple[str, ...], code: int, said: str
) -> None:
    (made / "plain.csv").write_text("1\n" * 32)
    done = lr2eval(*command(made, tmp_path / "out", *(word.replace("{made}", str(made)) for word in more)))
    assert done.code == code, done.err
    assert said in done.error


@pytest.mark.parametrize("missing", ["--model", "--factors", "--data"])
def test_what_is_missing_is_named(made: Path, lr2eval: Run, tmp_path: Path, missing: str) -> None:
    words = command(made, tmp_path / "out")
    at = words.index(missing)
    done = lr2eval(*words[:at], *words[at + 2 :])
    assert done.code == 2
    assert f"{missing} is missing" in done.error


@pytest.mark.parametrize("name", names())
def test_a_dry_run_of_every_recipe_needs_nothing_else(lr2eval: Run, name: str) -> None:
    done = lr2eval("train", "--recipe", name, "--dry-run", "--set", "hardware.tflops=100")
    assert done.code == 0, done.err
    assert " steps of " in done.out
    assert "GPU-hours if" in done.out


def test_a_dry_run_counts_the_rows_that_are_there(made: Path, lr2eval: Run, tmp_path: Path) -> None:
    done = lr2eval(*command(made, tmp_path / "out", "--dry-run"))
    assert done.code == 0, done.err
    assert "530,304 parameters (sizes of tiny-retrieval)" in done.out
    assert "4 short, 4 long (rows of --data)" in done.out
    assert "4,096 tokens in 4 steps of 1,024 tokens" in done.out
    assert "no time estimate" in done.out
    assert not (tmp_path / "out").exists()
    tight = lr2eval("train", "--recipe", "llama3-8b-128k", "--dry-run", "--set", "hardware.memory_gib=40")
    assert "DOES NOT FIT in 40" in tight.out


def test_a_model_that_cannot_be_exported_is_refused_before_training(made: Path, lr2eval: Run, tmp_path: Path) -> None:
    sizes = {"hidden_size": 64, "num_attention_heads": 2, "num_hidden_layers": 4, "num_key_value_heads": 2,
             "max_position_embeddings": 128}  # fmt: skip
    for name, config, said in (
        ("smollm3", {"model_type": "smollm3", **sizes}, "1 of 4 attention layers use no RoPE"),
        ("llava", {"model_type": "llava", "text_config": {"model_type": "llama", **sizes}}, "a multimodal model"),
    ):
        (tmp_path / name).mkdir()
        write_json(tmp_path / name / "config.json", config)
        save_file({"w": torch.ones(1)}, tmp_path / name / "model.safetensors")
        got = lr2eval(*command(made, tmp_path / "out", "--model", tmp_path / name))
        assert got.code == 2
        assert said in got.error
