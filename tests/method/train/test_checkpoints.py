"""Checkpoints are whole or not there."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lr2eval.errors import StoreError
from lr2eval.method.train import checkpoints
from lr2eval.method.train.parallel import Ranks
from tests import damage

RANKS = Ranks()


def _pair(seed: int, steps: int = 2) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    optimizer = torch.optim.AdamW(model.parameters())
    for _ in range(steps):
        model(torch.randn(5, 3)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, optimizer


def _save(home: Path, step: int, seed: int = 0) -> Path:
    checkpoints.save(home, step, {"tokens": step * 10}, *_pair(seed, step), RANKS)
    return home / checkpoints.FOLDER / checkpoints.name_of(step)


def test_everything_comes_back(tmp_path: Path) -> None:
    model, optimizer = _pair(0)
    checkpoints.save(tmp_path, 2, {"tokens": 7}, model, optimizer, RANKS)
    numbers = torch.rand(4)
    [saved] = checkpoints.complete(tmp_path)
    assert (saved.step, saved.facts["tokens"]) == (2, 7)
    other, theirs = _pair(1, 1)
    checkpoints.load(saved, other, theirs, RANKS)
    assert torch.equal(torch.rand(4), numbers)
    for mine, loaded in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(mine, loaded)
        assert optimizer.state[mine].keys() == theirs.state[loaded].keys()
        for key, value in optimizer.state[mine].items():
            assert torch.equal(value, theirs.state[loaded][key])
    for pair in ((model, optimizer), (other, theirs)):
        torch.manual_seed(5)
        pair[0](torch.randn(5, 3)).square().sum().backward()
        pair[1].step()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


def test_nothing_in_it_is_a_pickle(tmp_path: Path) -> None:
    folder = _save(tmp_path, 1)
    assert {path.name for path in folder.iterdir()} == {
        "weights.safetensors", "optimizer.safetensors", "random.safetensors", "state.json", "COMPLETE"}  # fmt: skip
    assert not any(path.read_bytes().startswith((b"PK", b"\x80")) for path in folder.iterdir())


def test_the_marker_comes_last_and_everything_before_it_is_synced(tmp_path: Path, monkeypatch: Any) -> None:
    events: list[str] = []
    sync, write = checkpoints.sync, checkpoints.write_json
    monkeypatch.setattr(checkpoints, "sync", lambda path: (events.append(f"sync {path.name}"), sync(path))[1])
    monkeypatch.setattr(
        checkpoints, "write_json", lambda path, value: (events.append(f"write {path.name}"), write(path, value))[1]
    )
    _save(tmp_path, 1)
    marker = events.index("write COMPLETE")
    files = ("weights.safetensors", "optimizer.safetensors", "random.safetensors", "state.json", "step-000001")
    assert all(f"sync {name}" in events[:marker] for name in files)
    assert {"sync step-000001", "sync checkpoints"} <= set(events[marker:])


def test_a_folder_without_marker_counts_for_nothing(tmp_path: Path) -> None:
    _save(tmp_path, 1)
    (_save(tmp_path, 2) / "COMPLETE").unlink()
    assert [saved.step for saved in checkpoints.complete(tmp_path)] == [1]
    checkpoints.tidy(tmp_path, 2)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-000001"]
    assert checkpoints.complete(tmp_path / "nowhere") == []


@pytest.mark.parametrize("keep", [1, 2, 5])
def test_the_last_ones_are_kept(tmp_path: Path, keep: int) -> None:
    for step in (1, 2, 3):
        _save(tmp_path, step)
    checkpoints.tidy(tmp_path, keep)
    assert [saved.step for saved in checkpoints.complete(tmp_path)] == [1, 2, 3][-keep:]


def test_the_marker_of_an_old_one_goes_first(tmp_path: Path, monkeypatch: Any) -> None:
    for step in (1, 2):
        _save(tmp_path, step)

    def killed(folder: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoints.shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        checkpoints.tidy(tmp_path, 1)
    assert [saved.step for saved in checkpoints.complete(tmp_path)] == [2]


@pytest.mark.parametrize("damage", ["size", "missing", "state"])
def test_a_damaged_one_is_named(tmp_path: Path, damage: str) -> None:
    folder = _save(tmp_path, 1)
    if damage == "size":
        with (folder / "weights.safetensors").open("ab") as file:
            file.write(b"x")
    elif damage == "missing":
        (folder / "optimizer.safetensors").unlink()
    else:
        size = os.path.getsize(folder / "state.json")
        (folder / "state.json").write_text("x" * size)
    with pytest.raises(StoreError, match="step-000001") as error:
        checkpoints.complete(tmp_path)
    assert "\n" not in str(error.value)


def test_one_of_another_model_is_no_traceback(tmp_path: Path) -> None:
    _save(tmp_path, 1)
    model = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 2))
    with pytest.raises(StoreError, match="cannot be loaded"):
        checkpoints.load(checkpoints.complete(tmp_path)[0], model, torch.optim.AdamW(model.parameters()), RANKS)


def test_a_full_disk_leaves_the_one_before(tmp_path: Path, monkeypatch: Any) -> None:
    _save(tmp_path, 1)

    def full(path: Path, value: Any) -> None:
        raise StoreError(f"{path}: No space left on device; free some space")

    monkeypatch.setattr(checkpoints, "write_json", full)
    with pytest.raises(StoreError, match=r"No space left on device.*last complete checkpoint is step-000001"):
        _save(tmp_path, 2)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-000001"]
    assert json.loads((tmp_path / "checkpoints" / "step-000001" / "COMPLETE").read_text())


FILES = ("optimizer.safetensors", "random.safetensors", "state.json", "weights.safetensors")


@pytest.mark.parametrize("name", FILES)
def test_a_changed_file_is_not_loaded(tmp_path: Path, name: str) -> None:
    path = _save(tmp_path, 2) / name
    content = bytearray(path.read_bytes())
    place = content.rfind(b"20") if name == "state.json" else len(content) - 2
    content[place] ^= 1
    path.write_bytes(content)
    [saved] = checkpoints.complete(tmp_path)
    with pytest.raises(StoreError, match=rf"{name}: was changed .*remove .* to resume from the checkpoint before it"):
        checkpoints.load(saved, *_pair(1, 1), RANKS)


def test_a_changed_marker_is_noticed(tmp_path: Path) -> None:
    marker = _save(tmp_path, 2) / "COMPLETE"
    text = marker.read_text()
    assert sorted(json.loads(text)) == sorted((*FILES, "sha256"))
    for place, delete in damage.some_changes(marker, 20):
        if place == ("sha256",) and delete:  # then it looks like one of an older version
            continue
        damage.changed(marker, place, delete=delete)
        with pytest.raises(StoreError, match=r"remove .* to resume from the checkpoint before it"):
            checkpoints.complete(tmp_path)
        marker.write_text(text)


def test_a_marker_of_an_older_version_is_read(tmp_path: Path) -> None:
    folder = _save(tmp_path, 2)
    (folder / "COMPLETE").write_text(json.dumps({name: (folder / name).stat().st_size for name in FILES}))
    [saved] = checkpoints.complete(tmp_path)
    checkpoints.load(saved, *_pair(1, 1), RANKS)
    assert checkpoints.checked(saved).keys() == set(FILES)
