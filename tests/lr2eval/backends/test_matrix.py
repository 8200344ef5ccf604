"""A small part of the matrix of architectures, and the page of the whole (``make matrix``)."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import matrix
import pytest
from matrix_models import ARCHITECTURES, longrope

from lr2eval.backends.hf import WindowedHFLM
from lr2eval.errors import CheckpointError
from lr2eval.model.checkpoint import Checkpoint
from tests.lr2eval.backends.helpers import one_line
from tests.tiny_models import save_checkpoint

# One architecture of each class. A prefill chunk of recurrent models, indexers and dynamic NTK is refused.
WHOLE = {"jamba", "minimax", "llama-dynamic"}
SMALL = ("mistral-sliding", "gpt_neo", "llama4", "phi3", "deepseek_v3", "falcon-alibi", *sorted(WHOLE))


@pytest.mark.parametrize("name", SMALL)
def test_answers_and_scores_equal_stock_transformers(name: str, tmp_path: Path) -> None:
    kind, settings, _ = ARCHITECTURES[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of transformers, about tiny models
        found = matrix.fill(kind, settings, tmp_path, ("shared", "mixed lengths", "long answers", "chunked"))
    assert (found["shared"], found["mixed lengths"], found["long answers"]) == ("equal",) * 3
    if name in WHOLE:
        assert found["chunked"].startswith("refused: --prefill-chunk: ")
    else:
        assert found["chunked"] == "equal"


def test_a_window_rule_for_position_ids_of_three_axes_is_refused_in_one_line(tmp_path: Path) -> None:
    kind, settings, _ = ARCHITECTURES["qwen3_5"]
    pairs = matrix.pairs_of(kind, settings)
    assert pairs is not None
    save_checkpoint(tmp_path, matrix.tiny(kind, {**settings, **longrope(pairs)}, 0))
    with pytest.raises(CheckpointError) as error:
        WindowedHFLM(Checkpoint.open(tmp_path), device="cpu")
    assert one_line(error.value) == (
        f"{tmp_path}: Qwen3_5ForCausalLM: its rotary module Qwen3_5TextRotaryEmbedding does not work like Llama's "
        "(ValueError: its decoder passes position ids of 3 axes); use another --backend"
    )


@pytest.mark.parametrize(
    ("name", "pairs", "said"),
    [("glm_moe_dsa", 4, "selects tokens by an index"), ("zamba2", 16, "computes other logits from its cache")],
)
def test_a_window_rule_that_cannot_hold_is_refused_in_one_line(
    tmp_path: Path, name: str, pairs: int, said: str
) -> None:
    kind, settings, _ = ARCHITECTURES[name]
    save_checkpoint(tmp_path, matrix.tiny(kind, {**settings, **longrope(pairs)}, 0))
    with pytest.raises(CheckpointError, match=said) as error:
        WindowedHFLM(Checkpoint.open(tmp_path), device="cpu")
    assert one_line(error.value).endswith("use another --backend")


# The page


@pytest.fixture(scope="module")
def result() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(matrix.RESULTS.read_text(encoding="utf-8"))
    return found


def test_the_page_shows_the_results(result: dict[str, Any]) -> None:
    page = matrix.PAGE.read_text(encoding="utf-8")
    shown = page.split(matrix.BEGIN)[1].split(matrix.END)[0].strip()
    assert shown == matrix.document(result).strip(), "run python benchmarks/matrix.py --document"


def test_every_cell_is_equal_or_refused(result: dict[str, Any]) -> None:
    assert [found["name"] for found in result["rows"]] == list(ARCHITECTURES)
    assert len({found["type"] for found in result["rows"]}) >= 35
    assert [said for found in result["rows"] for said in matrix.third(found)] == []


def test_a_third_outcome_is_seen() -> None:
    row = {"name": "x", **dict.fromkeys(matrix.CELLS, "equal"), "window rule": "holds"}
    assert matrix.third(row) == []
    assert matrix.third({**row, "shared": "refused: why"}) == []
    assert matrix.third({**row, "shared": "DIFFERENT: 1 of 6"}) == ["x, shared: DIFFERENT: 1 of 6"]
    assert matrix.third({**row, "window rule": "ERROR: KeyError"}) == ["x, window rule: ERROR: KeyError"]
