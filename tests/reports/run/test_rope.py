"""The figure of RoPE factors shows the stored indices and nothing for other kinds of RoPE."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from lr2eval.reports import render
from lr2eval.reports.load import Key, load
from lr2eval.reports.run.rope import ropes
from tests.reports.page import Page


def test_lines_and_labels(run_folder: Path) -> None:
    model = load([run_folder])[0].results.model
    (one,) = ropes([(Key("m", 0), model)])
    said = re.findall(r"<text[^>]*>([^<]*)</text>", str(one.svg))
    assert {"d_tcd = 25", "d_rcd = 21", "s = 4", "long", "short"} <= set(said)
    assert not re.search("#0a0[bcdef]", str(one.svg))
    assert one.pairs == 32


@pytest.mark.parametrize(
    "update",
    [{"d_tcd": None, "d_rcd": None, "rope_scale": None}, {"d_tcd": 40}, {"d_rcd": None}, {"d_tcd": 0, "d_rcd": 0}],
)
def test_what_is_not_known_is_not_drawn(run_folder: Path, update: dict[str, Any]) -> None:
    model = load([run_folder])[0].results.model.model_copy(update=update)
    (one,) = ropes([(Key("m", 0), model)])
    svg = str(one.svg)
    for name in ("d_tcd", "d_rcd"):
        index = getattr(model, name)
        assert (name in svg) == (index is not None and index < 32)
        assert index is None or index >= 32 or f"= {index}<" in svg


@pytest.mark.parametrize(
    "rope", [{}, {"long_factor": "many"}, {"long_factor": [1.0, -2.0]}, {"long_factor": [True, None]}]
)
def test_odd_parameters_draw_nothing(run_folder: Path, rope: dict[str, Any]) -> None:
    model = load([run_folder])[0].results.model
    assert ropes([(Key("m", 0), model.model_copy(update={"rope": rope}))]) == []
    assert ropes([(Key("m", 0), model.model_copy(update={"rope_type": "yarn"}))]) == []


def test_only_rescaled_models_have_a_section(maker: Any, run_folder: Path, tmp_path: Path) -> None:
    plain = maker(
        tmp_path / "run", tasks=("vt",), lengths=(4096,), subjects=0, samples=2, model={"rope_type": "default"}
    )
    assert (
        "Factor of every rotary pair" not in Page(render([plain], tmp_path / "a.html").read_text(encoding="utf-8")).text
    )
    text = Page(render([run_folder], tmp_path / "b.html").read_text(encoding="utf-8")).text
    assert "Factor of every rotary pair" in text
    assert "d_tcd = 25 is the first pair whose period is longer than the original window" in text
    assert "d_rcd = 21 is the first pair whose factor is at least s." in text
