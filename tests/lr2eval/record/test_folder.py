from __future__ import annotations

from pathlib import Path

import pytest

from lr2eval.base import machine
from lr2eval.base.files import write_atomic, write_json
from lr2eval.errors import StoreError, UsageError
from lr2eval.record import folder
from lr2eval.record.base import sealed


def test_round_trip(tmp_path: Path) -> None:
    assert folder.read_manifest(tmp_path) is None
    folder.write_manifest(tmp_path, {"settings": {"a": 1}})
    assert folder.read_manifest(tmp_path) == sealed({"settings": {"a": 1}})


@pytest.mark.parametrize("text", ["", "{", "[]", '{"a": 1}'])
def test_damaged_manifest_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / folder.MANIFEST).write_text(text)
    with pytest.raises(StoreError, match=r"manifest\.json: not .*use another folder") as caught:
        folder.read_manifest(tmp_path)
    assert "\n" not in str(caught.value)


def test_other_settings_are_refused_with_the_keys_named(tmp_path: Path) -> None:
    old = {"config": {"seed": 0, "dtype": "float32"}, "model": "aaa"}
    folder.refuse_other(old, {"config": {"dtype": "float32", "seed": 0}, "model": "aaa"}, tmp_path)
    with pytest.raises(UsageError, match=r"config\.seed: was 0, now 1; model: was \"aaa\", now \"b\".*--out"):
        folder.refuse_other(old, {"config": {"seed": 1, "dtype": "float32"}, "model": "b"}, tmp_path)


@pytest.mark.parametrize("step", ["os.fsync", "os.replace"])
def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    path = tmp_path / "x.json"
    write_json(path, {"old": True})

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(step, full)
    with pytest.raises(StoreError, match=r"x\.json: No space left on device; free some space"):
        write_json(path, {"new": True})
    assert path.read_text() == '{\n  "old": true\n}\n'
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"], "no temporary file may stay"


def test_nan_never_reaches_a_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError):
        write_json(tmp_path / "x.json", {"score": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_unwritable_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="No such file or directory"):
        write_atomic(tmp_path / "missing" / "x", "text")


def test_locking_deletes_what_a_killed_command_left(tmp_path: Path) -> None:
    gone, kept = f".results.json.{2**22 + 1}.tmp", "results.json"
    for name in (gone, kept):
        (tmp_path / name).touch()
    with folder.locked(tmp_path):
        assert {path.name for path in tmp_path.iterdir()} == {kept, folder.LOCK}


def test_versions_name_what_decides_results() -> None:
    assert {"python", "lm_eval", "torch", "transformers"} <= machine.versions().keys()
