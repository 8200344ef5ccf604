"""``lr2eval verify`` knows every kind of folder, says what it checked, and misses no change."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lr2eval import UsageError, verify
from lr2eval.record.base import sealed
from lr2eval.record.bundle import Bundle, BundledData, BundleFile, write_bundle
from lr2eval.record.folder import write_manifest
from lr2eval.workflows.compare import compare, gate, save_baseline
from tests import damage
from tests.fake_runs import fake_run, ones

Run = Callable[..., Any]
OLD = Path(__file__).parents[2] / "assets" / "runs-9c8e5ba"
SHARDS = {"ruler/vt@4096": ones(8, 3), "mmlu/law": ones(5)}


@pytest.fixture
def old(tmp_path: Path) -> Path:
    return Path(shutil.copytree(OLD, tmp_path / "old"))


def test_folders_of_an_older_version(old: Path, lr2eval: Run) -> None:
    """Every folder of ours inside is found, the baseline file is not: it is given by name."""
    done = lr2eval("verify", old, old / "baseline.json")
    assert done.code == 0, done.out
    said = {Path(line.split(": ")[0]).relative_to(old).as_posix(): line for line in done.out.splitlines()}
    assert {name for name in said if name.startswith(("search", "train", "rows", "gate/", "runs/pair/c"))} == {
        "search/manifest.json", "search/evaluations.sqlite", "search/search.json", "search/factors.json",
        "train/manifest.json", "train/checkpoints/step-000002", "train/checkpoints/step-000004", "train/training.json",
        "rows", "gate/gate.json", "runs/pair/comparison.json",
    }  # fmt: skip
    assert "no checksum: written by an older version" in said["train/training.json"]
    assert said["baseline.json"].endswith(": ok; baseline of 30 samples")
    assert {"runs/plain/results.json", "runs/pair/extended/samples.sqlite"} <= said.keys()


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("rows/tokens.bin", "rows: its files were changed after they were written"),
        ("held/lengths.bin", "held: its files were changed"),
        ("train/checkpoints/step-000004/weights.safetensors", "training.json: its digest does not fit"),
        ("search/factors.json", "factors.json: "),
        ("search/search.json", "search.json: "),
        ("baseline.json", "baseline.json: was changed after it was written"),
    ],
)
def test_a_flipped_bit(old: Path, lr2eval: Run, file: str, said: str) -> None:
    path = old / file
    content = bytearray(path.read_bytes())
    digits = [place for place, byte in enumerate(content) if chr(byte).isdigit()]
    content[digits[len(digits) // 9] if path.suffix == ".json" else -5] ^= 1
    path.write_bytes(content)
    done = lr2eval("verify", *(old / name for name in ("rows", "held", "train", "search", "baseline.json")))
    assert done.code == 4
    damaged = [line for line in done.out.splitlines() if line.startswith("damaged: ")]
    assert damaged
    assert all(said in line for line in damaged)


def test_nothing_of_ours(tmp_path: Path, lr2eval: Run) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file.json").write_text("{}")
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "manifest.json").write_text('{"settings": {}}')  # of `lr2eval data make`
    for place, said in (
        ("folder", "nothing in it is"),
        ("made", "nothing in it is"),
        ("none", "no such file"),
        ("file.json", "not a baseline"),
    ):
        done = lr2eval("verify", tmp_path / place)
        assert (done.code, done.out) == (2, "")
        assert said in done.error
    with pytest.raises(UsageError):
        verify(tmp_path / "folder")


def test_what_compare_gate_and_baseline_wrote(tmp_path: Path) -> None:
    runs = [fake_run(tmp_path / name, SHARDS, model=name) for name in ("original", "extended")]
    compare(runs, out=tmp_path / "compared")
    gate(runs, out=tmp_path / "verdict")
    save_baseline(runs[0], tmp_path / "baseline.json")
    for place in ("compared/comparison.json", "verdict/comparison.json", "verdict/gate.json", "baseline.json"):
        path = tmp_path / place
        where = path if path.name == "baseline.json" else path.parent
        text = path.read_bytes()
        assert verify(where).sound
        assert all(found.text.startswith("ok") and "checksum" not in found.text for found in verify(where).findings)
        for change, delete in damage.some_changes(path, 15):
            if change == ("sha256",) and delete:  # then it looks like one of an older version
                continue
            damage.changed(path, change, delete=delete)
            try:
                assert not verify(where).sound, change
            except UsageError:  # a file whose kind was changed is none of ours
                assert change[0] in ("kind", "schema_version")
            path.write_bytes(text)


def test_a_bundle(tmp_path: Path) -> None:
    (tmp_path / "data.jsonl").write_bytes(b"123")
    listed = BundleFile(sha256="a665a45920422f9d417e4867efdc4fb8a04a1f3fff1fa07e998e86f7f7a27ae3", bytes=3)
    data = BundledData(licence="MIT", source="hub:x", tasks="mmlu", read_by=["mmlu"], made_with="1",
                       files={"data.jsonl": listed})  # fmt: skip
    write_bundle(tmp_path, Bundle(data_sets={"x": data}))
    assert [found.text for found in verify(tmp_path).findings] == ["ok; 1 data sets"]
    (tmp_path / "data.jsonl").write_bytes(b"124")
    (found,) = verify(tmp_path).findings
    assert found.damaged
    assert "data.jsonl: is damaged or changed" in found.text


@pytest.mark.parametrize(
    ("lost", "said"),
    [
        (("rows/manifest.json",), "unfinished: run `lr2eval data mix` again"),
        (("search/search.json", "search/factors.json"), "no result yet"),
        (("train/training.json",), "unfinished: the same `lr2eval train` command goes on"),
        (("search/search.json", "search/factors.json", "search/evaluations.sqlite"), "nothing was done yet"),
    ],
)
def test_unfinished_folders_are_sound(old: Path, lost: tuple[str, ...], said: str) -> None:
    for name in lost:
        (old / name).unlink()
    outcome = verify(old / lost[0].rpartition("/")[0])
    assert outcome.sound
    assert said in outcome.findings[-1].text


def test_a_folder_that_was_only_begun_is_damaged_or_unfinished(tmp_path: Path) -> None:
    write_manifest(tmp_path, {"settings": {"seed": 1}})
    (found,) = verify(tmp_path).findings
    assert (found.damaged, found.text) == (False, "ok; unfinished: nothing was done yet")
    for place, delete in damage.some_changes(tmp_path / "manifest.json", 9):
        text = (tmp_path / "manifest.json").read_text()
        damage.changed(tmp_path / "manifest.json", place, delete=delete)
        if place == ("sha256",) and delete:  # then nothing tells that it is ours
            with pytest.raises(UsageError):
                verify(tmp_path)
        else:
            assert not verify(tmp_path).sound
        (tmp_path / "manifest.json").write_text(text)
    (tmp_path / "manifest.json").write_text("{")
    assert not verify(tmp_path).sound


def test_a_lost_result_is_no_unfinished_folder(old: Path, tmp_path: Path) -> None:
    """A killed run has no results and its manifest no end. Factors are written after the result of a search."""
    for lost in ("runs/plain/results.json", "runs/plain/samples.sqlite", "search/search.json"):
        content = (old / lost).read_bytes()
        (old / lost).unlink()
        assert any(lost in found.text for found in verify(old).findings if found.damaged)
        (old / lost).write_bytes(content)
    run = fake_run(tmp_path / "killed", SHARDS)
    (run / "results.json").unlink()
    assert verify(run).sound
    assert "unfinished: no results.json yet" in verify(run).findings[-1].text


def test_a_result_that_does_not_fit_its_journal(old: Path) -> None:
    path = old / "search" / "search.json"
    value = json.loads(path.read_text())
    value["data"]["tokens_read"] += 1
    path.write_text(json.dumps(sealed(value)))
    (found,) = [each for each in verify(path.parent).findings if each.damaged]
    assert "data.tokens_read" in found.text


def test_names_are_data(tmp_path: Path, lr2eval: Run) -> None:
    run = fake_run(tmp_path / "x\n::error::y", SHARDS)
    done = lr2eval("verify", run)
    assert done.code == 0
    assert not [line for line in done.out.splitlines() if line.startswith("::")]
