"""A checkpoint's own code runs only if the user says so."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

CODE = """
from pathlib import Path
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

Path({marker!r}).touch()


class OwnConfig(LlamaConfig):
    model_type = "own"


class OwnModel(LlamaForCausalLM):
    config_class = OwnConfig


class OwnTokenizer(PreTrainedTokenizerFast):
    pass
"""


def _own(model: Path, marker: Path, place: str) -> None:
    """Name code of its own in the model's configuration or in that of its tokenizer."""
    (model / "own.py").write_text(CODE.format(marker=str(marker)))
    path = model / ("config.json" if place == "model" else "tokenizer_config.json")
    value = json.loads(path.read_text())
    if place == "model":
        value["model_type"] = "own"
        value["auto_map"] = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"}
    else:
        value["auto_map"] = {"AutoTokenizer": [None, "own.OwnTokenizer"]}
        value["tokenizer_class"] = "OwnTokenizer"
    path.write_text(json.dumps(value))


@pytest.mark.parametrize("command", ["run", "rope", "search"])
@pytest.mark.parametrize("place", ["model", "tokenizer"])
def test_own_code_does_not_run(
    toy: Path, tmp_path: Path, lr2eval: Callable[..., Any], place: str, command: str
) -> None:
    marker = tmp_path / "it-ran"
    _own(toy, marker, place)
    rest = {
        "run": ("--tasks", "ruler:niah_single_1", "--lengths", "512", "--samples-per-task", "1", "--offline"),
        "rope": ("--rule", "ntk", "--target-length", "4k"),
        "search": ("--target-length", "4k", "--offline"),
    }[command]
    out = () if command == "rope" else ("--out", tmp_path / "out")
    done = lr2eval(command, "--model", toy, *rest, *out)
    assert not marker.exists()
    if place == "model":
        assert done.code == 2
        assert "\n" not in done.error


def test_own_code_runs_if_the_user_says_so(toy: Path, tmp_path: Path, lr2eval: Callable[..., Any]) -> None:
    """Otherwise the test above would show nothing."""
    marker = tmp_path / "it-ran"
    _own(toy, marker, "model")
    task = ("--tasks", "ruler:niah_single_1", "--lengths", "512", "--samples-per-task", "1", "--offline")
    lr2eval("run", "--model", toy, *task, "--out", tmp_path / "out", "--set", "trust_remote_code=true")
    assert marker.exists()
