"""Two processes with split weights (FSDP2 over gloo) do what one does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from lr2eval.workflows.verify import verify
from tests import tiny_models
from tests.method.train import two_ranks

SCRIPT = Path(__file__).with_name("two_ranks.py")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Output folders of one process (this one) and of two; beside the latter ``rough``, interrupted and resumed."""
    folder = tmp_path_factory.mktemp("ranks")
    model = tiny_models.tiny_model("llama", rope={"rope_type": "default", "rope_theta": 1000.0})
    model.config.max_position_embeddings = tiny_models.ORIGINAL
    source = tiny_models.save_checkpoint(folder / "source", model)
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "TQDM_DISABLE": "1"}
    command = [sys.executable, *launcher, str(SCRIPT), str(source), str(folder / "two")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    two_ranks.run(source, folder / "one")
    return {1: folder / "one", 2: folder / "two" / "calm"}


def _log(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def _seen(out: Path, rank: int) -> Any:
    return json.loads((out / f"seen-{rank}.json").read_text())


def test_weights_are_really_split(runs: dict[int, Path]) -> None:
    assert _seen(runs[2], 0)["split"] == _seen(runs[2], 1)["split"] == [True]
    assert _seen(runs[1], 0)["split"] == [False]


def test_the_loss_does_not_depend_on_the_number_of_processes(runs: dict[int, Path]) -> None:
    one, two = _log(runs[1]), _log(runs[2])
    assert [line["step"] for line in one] == [line["step"] for line in two] == list(range(21))
    for mine, theirs in zip(one[1:], two[1:], strict=True):
        for key in ("loss", "loss_short", "loss_long"):
            assert (key in mine) == (key in theirs)
            assert mine.get(key, 0.0) == pytest.approx(theirs.get(key, 0.0), abs=1e-5)
        assert mine["gradient_norm"] == pytest.approx(theirs["gradient_norm"], rel=1e-4)
        assert mine["tokens"] == theirs["tokens"]
    assert one[-1]["loss"] < one[1]["loss"]


def test_measuring_does_not_depend_on_it_either(runs: dict[int, Path]) -> None:
    for mine, theirs in zip(_log(runs[1]), _log(runs[2]), strict=True):
        if "evaluation" in mine:
            assert mine["evaluation"].keys() == {"held_out_short", "held_out_long", "needle_perplexity"}
            assert mine["evaluation"] == pytest.approx(theirs["evaluation"], rel=1e-4, abs=1e-5)


def test_every_process_calls_the_model_equally_often(runs: dict[int, Path]) -> None:
    """Five rows in micro-batches of up to two make three: one of two processes has one without targets."""
    assert _seen(runs[1], 0)["micro_batches"] == [3] * 20
    assert _seen(runs[2], 0)["micro_batches"] == _seen(runs[2], 1)["micro_batches"] == [2] * 20


def test_the_exported_models_are_one(runs: dict[int, Path]) -> None:
    one, two = (load_file(runs[number] / "model" / "model.safetensors") for number in (1, 2))
    assert one.keys() == two.keys()
    for name, value in one.items():
        torch.testing.assert_close(value, two[name], rtol=1e-3, atol=1e-4)
    _, info = AutoModelForCausalLM.from_pretrained(runs[2] / "model", output_loading_info=True)
    assert not info["missing_keys"]


def test_two_processes_resume_to_the_same_numbers(runs: dict[int, Path]) -> None:
    rough = runs[2].parent / "rough"
    assert len(_seen(rough, 0)["micro_batches"]) == 15  # interrupted in front of step 8, gone on after step 5
    last = "checkpoints/step-000020"
    files = sorted(path.name for path in (runs[2] / last).glob("*.safetensors"))
    assert [name.partition("-model")[0] for name in files] == ["random.safetensors", "shard-00001", "shard-00002"]
    for name in files:
        mine, theirs = (load_file(out / last / name) for out in (rough, runs[2]))
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(value, theirs[key]) for key, value in mine.items())


def test_only_the_first_process_needs_the_weights(runs: dict[int, Path]) -> None:
    hollow = runs[2].parent / "hollow"
    assert (hollow / "log.jsonl").exists()
    assert [line.get("loss") for line in _log(hollow)] == [line.get("loss") for line in _log(runs[2])]
    digests = [json.loads((out / "training.json").read_text())["digest"] for out in (hollow, runs[2])]
    assert digests[0] == digests[1]


def test_each_process_writes_about_half_of_the_weights(runs: dict[int, Path]) -> None:
    sizes = [path.stat().st_size for path in sorted((runs[2] / "checkpoints/step-000020").glob("shard-*"))]
    assert len(sizes) == 2
    assert max(sizes) < 1.3 * min(sizes)


def test_one_process_goes_on_where_two_stopped(runs: dict[int, Path]) -> None:
    """They saved after step 5 and were interrupted in front of step 8."""
    fewer = runs[2].parent / "fewer"
    assert [path.name for path in sorted((fewer / "checkpoints").iterdir())] == ["step-000005"]
    two_ranks.run(runs[2].parents[1] / "source", fewer)
    assert len(_seen(fewer, 0)["micro_batches"]) == 15
    for mine, theirs in zip(_log(fewer), _log(runs[2]), strict=True):
        assert mine.get("loss", 0.0) == pytest.approx(theirs.get("loss", 0.0), abs=1e-5)
    one, two = (load_file(out / "model" / "model.safetensors") for out in (fewer, runs[2]))
    for name, value in one.items():
        torch.testing.assert_close(value, two[name], rtol=1e-3, atol=1e-4)
    assert verify(fewer).sound
