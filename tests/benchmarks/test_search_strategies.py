"""The page about searches has the tables of the committed results, and differences are paired."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import search_strategies
from reproduction.store import Store, pack

from lr2eval.estimate.request import GRADIENT_SEARCH

PAGE = Path(__file__).parents[2] / "docs" / "searching.md"


def test_the_page_has_the_tables_of_the_results() -> None:
    page = PAGE.read_text(encoding="utf-8")
    found = search_strategies.tables(Store(search_strategies.RESULTS))
    assert search_strategies.filled(page, found) == page
    assert all(f"<!-- searches {name} -->" in page for name in found)


def cell(nll: list[float], right: int) -> dict[str, Any]:
    answers = np.arange(30) < right
    return {"nll": nll, "answers": {"single_1": pack(answers[:15]), "multikey_1": pack(answers[15:])}}


def test_only_cells_of_one_model_and_seed_are_compared(tmp_path: Path) -> None:
    store = Store(tmp_path / "cells.jsonl")
    for key, nll, right in (
        ("demo-0/gradient/0", [0.1, 0.3], 30),
        ("demo-0/evolution/0", [0.2, 0.5], 27),
        ("demo-0/evolution/1", [9.0, 9.0], 0),
        ("demo-2/evolution/0", [9.0, 9.0], 0),
    ):
        store.add({"key": key, **cell(nll, right)})
    ((name, ours, theirs),) = search_strategies._pairs(store, "demo", "evolution")
    assert (name, ours["key"], theirs["key"]) == ("demo-0", "demo-0/gradient/0", "demo-0/evolution/0")
    nats, samples, points, answers = search_strategies._differences([(ours, theirs)]).split(" | ")
    assert nats.startswith("-0.150 [")
    assert points.startswith("+10.0 [")
    assert (samples, answers) == ("2", "30")
    assert search_strategies._right(theirs) == pytest.approx(100 * (15 / 15 + 12 / 15) / 2)


def test_estimate_counts_a_gradient_search_as_it_was_measured() -> None:
    rows = [line for key, line in Store(search_strategies.RESULTS).lines.items() if "/gradient/" in key]
    assert {row["forwards"] + search_strategies.GRADIENT * row["gradients"] for row in rows} == {GRADIENT_SEARCH}
