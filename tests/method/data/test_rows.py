from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lr2eval.errors import UsageError
from lr2eval.method.data.rows import FILES, IGNORED, Segment, SegmentData, SegmentWriter
from tests import damage
from tests.tiny_segments import write_segments

LENGTH = 12


def long(first: int = 0, weights: bool = False) -> Segment:
    ids = np.arange(first, first + LENGTH)
    return Segment(True, ids, (LENGTH,), weights=np.linspace(0, 2, LENGTH, dtype=np.float32) if weights else None)


def short(documents: tuple[int, ...] = (4, 5, 3), padding: int = 3) -> Segment:
    return Segment(False, np.arange(100, 100 + LENGTH), documents, padding)


def test_ids_restart_at_each_document_and_nothing_predicts_its_first_token() -> None:
    row = short()
    assert row.position_ids.tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 4, 0, 1, 2]
    x = IGNORED
    assert row.labels.tolist() == [x, 101, 102, 103, x, 105, 106, 107, 108, x, x, x]
    assert row.input_ids[0] == 100  # labels are a copy
    assert long().position_ids.tolist() == list(range(LENGTH))
    assert long(5).labels.tolist() == [x, *range(6, 17)]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ((False, np.arange(4), (3,)), "do not add up to the 4 tokens"),
        ((False, np.arange(4), (4, 0)), "do not add up"),
        ((True, np.arange(4), (2, 2)), "must be one document without padding"),
        ((True, np.arange(4), (4,), 1), "must be one document without padding"),
        ((False, np.arange(4), (4,), 4), "4 tokens of padding"),
        ((False, np.arange(4), (4,), 0, np.ones(3)), "3 weights for 4 tokens"),
    ],
)
def test_rows_that_contradict_themselves_are_refused(arguments: tuple[object, ...], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Segment(*arguments)  # type: ignore[arg-type]


def test_rows_come_back_from_disk(tmp_path: Path) -> None:
    rows = [long(), short(), long(3, weights=True), short((12,), 0), long(1, weights=True)]
    data = write_segments(tmp_path / "data", rows, original_window=8)
    assert (data.original_window, data.target_window, len(data)) == (8, LENGTH, 5)
    assert data.manifest["segments"] == {"total": 5, "long": 3, "short": 2}
    for made, found in zip(rows, data, strict=True):
        assert (found.long, found.document_lengths, found.padding) == (made.long, made.document_lengths, made.padding)
        assert found.input_ids.dtype == np.int64
        np.testing.assert_array_equal(found.input_ids, made.input_ids)
        assert (found.weights is None) == (made.weights is None)
        if made.weights is not None:
            np.testing.assert_array_equal(found.weights, made.weights)
    assert data.long.tolist() == [True, False, True, False, True]
    assert data[-1].input_ids[0] == 1
    assert [row.long for row in list(data)[1:3]] == [False, True]
    with pytest.raises(IndexError):
        data[5]


@pytest.mark.parametrize(("vocabulary", "size"), [(65_536, 2), (65_537, 4)])
def test_tokens_take_what_the_vocabulary_needs(tmp_path: Path, vocabulary: int, size: int) -> None:
    with SegmentWriter(tmp_path, 8, LENGTH, vocabulary) as writer:
        writer.add(Segment(True, np.full(LENGTH, vocabulary - 1), (LENGTH,)))
        data = writer.finish({"seed": 0})
    assert (tmp_path / "tokens.bin").stat().st_size == size * LENGTH
    assert set(data[0].input_ids.tolist()) == {vocabulary - 1}


def test_digest_is_of_the_rows(tmp_path: Path) -> None:
    one = write_segments(tmp_path / "1", [long(), short()], 8, seed=1)
    same = write_segments(tmp_path / "2", [long(), short()], 8, seed=2)
    others = [[short(), long()], [long(1), short()], [long(), short((9, 3))], [long(0, weights=True), short()]]
    digests = {write_segments(tmp_path / f"x{i}", rows, 8).digest for i, rows in enumerate(others)}
    assert one.digest == same.digest
    assert len(digests | {one.digest, write_segments(tmp_path / "w", [long(), short()], 9).digest}) == 6


def test_what_is_no_finished_folder_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    with pytest.raises(
        UsageError, match=r"data: not a folder of training data \(manifest.json is missing\); run `lr2eval data mix`"
    ):
        SegmentData.open(folder)
    write_segments(folder, [long(), short()], 8)
    with SegmentWriter(folder, 8, LENGTH, 300) as writer:  # interrupted
        writer.add(long())
    with pytest.raises(UsageError, match="preparing this training data was interrupted"):
        SegmentData.open(folder)
    write_segments(folder, [long(), short()], 8)
    (folder / "tokens.bin").write_bytes(b"\0")
    with pytest.raises(UsageError, match=r"tokens\.bin: has 1 bytes, but manifest.json says"):
        SegmentData.open(folder)
    (folder / "rows.bin").unlink()
    with pytest.raises(UsageError, match=r"(rows|tokens).bin: (is missing|has)"):
        SegmentData.open(folder)
    (folder / "manifest.json").write_text('{"version": "segments-0", "files": {}}')
    with pytest.raises(UsageError, match="version segments-0"):
        SegmentData.open(folder)
    (folder / "manifest.json").write_text("[]")
    with pytest.raises(UsageError, match="not a JSON object; run `lr2eval data mix` again"):
        SegmentData.open(folder)


def test_rows_are_mapped_and_not_read(tmp_path: Path) -> None:
    data = write_segments(tmp_path, [long()] * 3, 8)
    assert isinstance(data._tokens, np.memmap)
    assert {path.name for path in tmp_path.iterdir()} == {*FILES, "manifest.json"}


@pytest.mark.parametrize("name", [name for name in FILES if name != "weights.bin"])
def test_a_changed_row_is_found(tmp_path: Path, name: str) -> None:
    data = write_segments(tmp_path, [long(), short()], 6)
    data.check()
    content = bytearray((tmp_path / name).read_bytes())
    content[1] ^= 4
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match=r"were changed after they were written .* run `lr2eval data mix` again"):
        SegmentData.open(tmp_path).check()


def test_a_changed_manifest_is_found(tmp_path: Path) -> None:
    write_segments(tmp_path, [long(), short()], 6)
    path = tmp_path / "manifest.json"
    text = path.read_text()
    for place, delete in damage.some_changes(path, 30):
        if place == ("sha256",) and delete:  # then it looks like one of an older version
            continue
        damage.changed(path, place, delete=delete)
        with pytest.raises(UsageError, match=r"manifest.json: .*run `lr2eval data mix` again"):
            SegmentData.open(tmp_path)
        path.write_text(text)
