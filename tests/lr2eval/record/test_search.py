"""``search.json`` is read whole, of this version, or refused in one line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lr2eval.errors import StoreError
from lr2eval.record.base import as_file
from lr2eval.record.search import FILE, SearchResult
from tests import damage
from tests.reports.searches import make_search

OLD = Path(__file__).parents[2] / "assets" / "runs-9c8e5ba" / "search"


def test_it_comes_back(tmp_path: Path) -> None:
    folder = make_search(tmp_path / "s")
    found = SearchResult.read(folder)
    assert as_file(found) == json.loads((folder / FILE).read_text(encoding="utf-8"))


def test_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="finished search"):
        SearchResult.read(tmp_path)


def _cut(value: Any) -> None:
    value["rules"][0]["factors"].pop()


def _twice(value: Any) -> None:
    value["rules"].append(value["rules"][-1])


def _lost(value: Any) -> None:
    value["split"] = 31


def _negative(value: Any) -> None:
    value["factors"][3] = -1.0


def _extra(value: Any) -> None:
    value["more"] = 1


def _old(value: Any) -> None:
    value["version"] = 1


def _next(value: Any) -> None:
    value["version"] = 5


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_cut, "'none' has 31 factors for 32 pairs"),
        (_twice, "not among the rules exactly once"),
        (_lost, "split 31 is not among those searched"),
        (_negative, "at factors.3"),
        (_extra, "at more"),
        (_old, "has schema version 1, but this lr2eval reads versions 2, 3 and 4"),
        (_next, "has schema version 5, but this lr2eval reads versions 2, 3 and 4"),
    ],
)
def test_damage_is_named_in_one_line(tmp_path: Path, change: Callable[[Any], None], said: str) -> None:
    folder = make_search(tmp_path / "s")
    value = json.loads((folder / FILE).read_text(encoding="utf-8"))
    change(value)
    (folder / FILE).write_text(json.dumps(value), encoding="utf-8")
    with pytest.raises(StoreError) as caught:
        SearchResult.read(folder)
    message = str(caught.value)
    assert said in message
    assert str(folder / FILE) in message
    assert "run the same `lr2eval search` command again" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("text", "said"),
    [
        *((text, "not valid JSON") for text in ("", "{", "\x00")),
        *((text, "damaged at the top level") for text in ("[]", "null")),
        *((text, "damaged at digest") for text in ("{}", '{"version": 2}')),
        ('{"scale": NaN}', "not valid JSON"),
    ],
)
def test_what_is_no_result_is_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / FILE).write_text(text, encoding="utf-8")
    with pytest.raises(StoreError, match=said) as caught:
        SearchResult.read(tmp_path)
    assert str(tmp_path / FILE) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("version", [2, 3, 4])
def test_every_change_is_noticed(tmp_path: Path, version: int) -> None:
    """Version 2 had no checksum, and its digest does not cover ``data``."""
    folder = tmp_path / "s"
    if version == 4:
        make_search(folder)
    else:
        shutil.copytree(OLD if version == 2 else OLD.parents[1] / "search-version-3", folder)
    path = folder / FILE
    text = path.read_bytes()
    assert SearchResult.read(folder).version == version
    for place, delete in damage.some_changes(path, 120):
        if version == 2 and (place[0] in ("data", "sha256") or (place[-1] == "d_rcd" and delete)):
            continue
        damage.changed(path, place, delete=delete)
        with pytest.raises(StoreError, match=FILE):
            SearchResult.read(folder)
        path.write_bytes(text)
