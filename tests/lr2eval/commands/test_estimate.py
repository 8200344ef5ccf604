from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lr2eval.base.units import parse_count, parse_lengths
from lr2eval.estimate.request import GPUS, GRADIENT_SEARCH, PUBLISHED

Run = Callable[..., Any]
LLAMA3 = {
    "model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336, "num_attention_heads": 32,
    "num_key_value_heads": 8, "num_hidden_layers": 32, "vocab_size": 128256, "max_position_embeddings": 8192,
}  # fmt: skip


@pytest.fixture
def llama3(tmp_path: Path) -> Path:
    """A folder with a config.json and nothing else."""
    folder = tmp_path / "llama3-8b"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(LLAMA3))
    return folder


def costs(lr2eval: Run, model: Path, *flags: object) -> dict[str, dict[str, Any]]:
    done = lr2eval("estimate", "--model", model, "--json", *flags)
    assert done.code == 0, done.err
    return {cost["name"]: cost for cost in json.loads(done.out)["costs"]}


PAPER = ("--tasks", "ruler,mmlu", "--lengths", "4k..128k", "--gpu", "a100-80", "--gpus", "64")


def test_llama3_as_published(llama3: Path, lr2eval: Run) -> None:
    found = costs(lr2eval, llama3, *PAPER)
    training = found["training: 30% short"]
    assert training["gpu_hours"] == pytest.approx(PUBLISHED[0][1], rel=0.05)  # its utilisation is fitted to this
    assert training["hours"] == pytest.approx(54, rel=0.05)
    assert training["tokens"] == pytest.approx(10e9, rel=1e-3)
    # One forward over 128k: 2 x 6.98e9 weights a token, 2 x 131,072 x 131,072^2 in attention.
    forward = 2 * 6.98e9 * 131072 + 2 * 131072.0**3
    assert found["search: gradient"]["tokens"] == GRADIENT_SEARCH * 131072 < 0.1 * 14_080 * 131072
    found = costs(lr2eval, llama3, *PAPER, "--search", "64x40x10")
    search = found["search: 1 split x 1,408 candidates x 10 samples"]
    assert "search: 3 splits x 1,408 candidates x 10 samples" in costs(lr2eval, llama3, *PAPER, "--splits", "3")
    assert search["operations"] == pytest.approx(14_080 * forward, rel=0.001)
    assert search["gpu_hours"] == pytest.approx(14_080 * forward / (312e12 * 0.4) / 3600, rel=0.001)
    assert search["tokens"] == 14_080 * 131072
    assert found["evaluation: ruler at 128k"]["tokens"] == 13 * 100 * 131072
    assert found["evaluation: all"]["gpu_hours"] == pytest.approx(
        sum(cost["gpu_hours"] for name, cost in found.items() if name.startswith("evaluation: ") and "all" not in name)
    )


def test_flags_override_every_assumption(llama3: Path, lr2eval: Run) -> None:
    base = costs(lr2eval, llama3, *PAPER, "--tasks", "ruler:vt")
    name, train = "search: 2 splits x 40 candidates x 3 samples", "training: 50% short"
    other = costs(
        lr2eval, llama3, *PAPER, "--tasks", "ruler:vt", "--search", "8x6x3", "--splits", "2", "--train-tokens", "1B",
        "--short-share", "0.5", "--tflops", "624", "--utilisation", "0.2", "--train-utilisation", "0.6", "--gpus", "8",
        "--samples-per-task", "500",
    )  # fmt: skip
    search = next(cost for key, cost in base.items() if key.startswith("search"))
    assert other[name]["gpu_hours"] / search["gpu_hours"] == pytest.approx(2 * (16 + 6 * 4) * 3 / GRADIENT_SEARCH)
    assert other[train]["operations"] < 0.1 * base["training: 30% short"]["operations"]
    assert other[train]["gpu_hours"] == pytest.approx(8 * other[train]["hours"])
    at = "evaluation: ruler at 128k"
    assert other[at]["tokens"] == 5 * base[at]["tokens"]
    slow = costs(lr2eval, llama3, *PAPER, "--tasks", "ruler:niah_single_1", "--read-share", "0.01", "--memory", "1000")
    fast = costs(lr2eval, llama3, *PAPER, "--tasks", "ruler:niah_single_1", "--bandwidth", "8000", "--memory", "1000")
    assert slow[at]["gpu_hours"] > 2 * fast[at]["gpu_hours"]


def test_a_model_too_large_for_one_gpu_takes_several(llama3: Path, lr2eval: Run) -> None:
    """Memory alone decides: fewer rows decode together, so no cheaper, and never impossible."""
    roomy, tight = (
        costs(lr2eval, llama3, "--tasks", "ruler:niah_single_1", "--lengths", "8k", "--memory", memory)[
            "evaluation: ruler at 8k"
        ]["gpu_hours"]
        for memory in ("80", "12")
    )
    assert roomy < tight < 20 * roomy


def test_without_a_longer_window_only_evaluation_costs(llama3: Path, lr2eval: Run) -> None:
    assert list(costs(lr2eval, llama3, "--tasks", "niah", "--lengths", "4k,8k")) == [
        "evaluation: niah at 4k", "evaluation: niah at 8k", "evaluation: all"
    ]  # fmt: skip
    none = costs(lr2eval, llama3, "--tasks", "mmlu:anatomy", "--lengths", "16k", "--train-tokens", "0", "--search",
                 "0x0x0")  # fmt: skip
    assert list(none) == ["evaluation: mmlu"]


def test_a_file_and_its_folder_say_the_same_and_assumptions_are_named(llama3: Path, lr2eval: Run) -> None:
    folder, file = (lr2eval("estimate", "--model", path, "--tasks", "longbench", "--lengths", "32k", "--gpu", "H100")
                    for path in (llama3, llama3 / "config.json"))  # fmt: skip
    assert (folder.code, folder.out) == (0, file.out)
    said = " ".join(folder.out.split())
    assert "1 h100 with 989 Tflop/s, 3350 GB/s and 80 GB (data sheet)" in said
    assert "Assumed, not measured" in said
    assert "arXiv 2502.20082" in said
    assert "4.0 GiB at 32k" in said


def test_the_original_window_of_a_rescaled_model(llama3: Path, lr2eval: Run) -> None:
    config = LLAMA3 | {
        "max_position_embeddings": 131072,
        "rope_scaling": {"type": "yarn", "factor": 16.0, "original_max_position_embeddings": 8192},
    }
    (llama3 / "config.json").write_text(json.dumps(config))
    done = lr2eval("estimate", "--model", llama3, "--tasks", "ruler:vt", "--json")
    asked = json.loads(done.out)["assumptions"]
    assert (asked["original_window"], asked["target_length"], asked["lengths"][0]) == (8192, 131072, 4096)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--gpu", "h10"), "--gpu h10: not a known GPU; choose among a100-40, a100-80, b200, h100, "),
        (("--tasks", "hellaswag"), "--tasks hellaswag: the size of this benchmark is known only with its data"),
        (("--tasks", "ruler:nope"), "nope"),
        (("--lengths", "8k..4k"), "--lengths: '8k..4k' ends before it begins"),
        (("--lengths", "4k..x"), "--lengths '4k..x': 'x' is not a length"),
        (("--search", "64x40"), "--search '64x40': write population x iterations x samples"),
        (("--train-tokens", "ten"), "--train-tokens 'ten': write a number of tokens"),
        (("--utilisation", "1.5"), "--utilisation 1.5: must be less than or equal to 1"),
        (("--gpus", "0"), "--gpus 0: must be greater than or equal to 1"),
        (("--short-share", "2"), "--short-share 2.0: must be less than or equal to 1"),
    ],
)
def test_bad_input(llama3: Path, lr2eval: Run, flags: tuple[str, ...], said: str) -> None:
    done = lr2eval("estimate", "--model", llama3, *flags)
    assert done.code == 2
    assert said in done.error


def test_bad_models(llama3: Path, lr2eval: Run, tmp_path: Path) -> None:
    assert "no such" in lr2eval("estimate", "--model", tmp_path / "nowhere").error
    (llama3 / "config.json").write_text("{")
    assert "not valid JSON" in lr2eval("estimate", "--model", llama3).error
    (llama3 / "config.json").write_text(json.dumps({"hidden_size": 8}))
    assert "config.json: model_type is None" in lr2eval("estimate", "--model", llama3).error
    (llama3 / "config.json").write_text(json.dumps(LLAMA3 | {"max_position_embeddings": None}))
    assert "max_position_embeddings" in lr2eval("estimate", "--model", llama3).error


@given(st.integers(1, 2**20), st.integers(0, 2**20))
def test_ranges_double_and_end_where_they_say(first: int, more: int) -> None:
    found = parse_lengths(f"{first}..{first + more}")
    assert (found[0], found[-1]) == (first, first + more)
    assert all(b == 2 * a for a, b in pairwise(found[:-1]))
    assert len(found) == 1 or found[-1] <= 2 * found[-2]


@pytest.mark.parametrize(("text", "count"), [("10B", 10**10), ("2.5b", 2_500_000_000), ("500M", 5 * 10**8), ("7", 7)])
def test_counts(text: str, count: int) -> None:
    assert parse_count(text) == count


@pytest.mark.parametrize("text", ["", "-1", "nan", "inf", "10Q", "1MB"])
def test_no_counts(text: str) -> None:
    with pytest.raises(ValueError, match="number of tokens"):
        parse_count(text)


def test_data_sheets_are_whole() -> None:
    assert all(gpu.tflops > 50 and gpu.bandwidth > 100 and gpu.memory >= 24 for gpu in GPUS.values())
