from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from lr2eval.errors import UsageError
from lr2eval.method.data import documents as module
from lr2eval.method.data.documents import Tokens, batches, documents
from lr2eval.method.data.sources import SourceConfig, parts
from tests.method.data.mixtures import write_jsonl


def read(path: Path | list[Path], **settings: Any) -> list[Any]:
    """All documents of a source; tokenised ones as (ids, weights)."""
    source = SourceConfig(name="s", path=path, **settings)
    found: list[Any] = []
    for part in parts(source)[0]:
        for batch in batches(source, part):
            for document in documents(source, batch):
                if isinstance(document, Tokens):
                    weights = None if document.weights is None else document.weights.tolist()
                    found.append((document.input_ids.tolist(), weights))
                else:
                    found.append(document)
    return found


def packed(path: Path, content: bytes) -> Path:
    """``content`` in the compression that the name says."""
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(content))
    elif path.suffix == ".zst":
        with pyarrow.output_stream(path, compression="zstd") as file:
            file.write(content)
    else:
        path.write_bytes(content)
    return path


TEXTS = ["one\ntwo", "", "drei – 三\r\n", "four"]


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_jsonl(tmp_path: Path, suffix: str) -> None:
    lines = "".join(json.dumps({"id": i, "content": text}) + "\n" for i, text in enumerate(TEXTS))
    path = packed(tmp_path / f"a.jsonl{suffix}", b"\xef\xbb\xbf" + lines.encode() + b"\n  \n")
    assert read(path, column="content") == TEXTS


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_text_is_one_document_or_split_at_blank_lines(tmp_path: Path, suffix: str) -> None:
    path = packed(tmp_path / f"a.txt{suffix}", "\ufeff\n\none\ntwo\n \t\n\nthree\r\n\r\nfoür".encode())
    assert read(path) == ["\n\none\ntwo\n \t\n\nthree\r\n\r\nfoür"]
    assert read(path, documents="paragraphs")[1:] == ["one\ntwo\n", "three\r\n", "foür"]


def test_parquet_and_tokenised_rows(tmp_path: Path) -> None:
    table = pyarrow.table({"text": TEXTS * 50, "x": [1] * 200})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet", row_group_size=70)
    assert read(tmp_path / "a.parquet") == TEXTS * 50
    rows = [{"input_ids": [3, 4], "weights": [0, 2.5]}, {"input_ids": [5]}, {"input_ids": []}]
    expected = [([3, 4], [0.0, 2.5]), ([5], None), ([], None)]
    assert read(write_jsonl(tmp_path / "b.jsonl", rows), tokenised=True) == expected
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "b.parquet")
    assert read(tmp_path / "b.parquet", tokenised=True) == expected


def test_folders_are_read_in_order_of_names_and_others_are_named(tmp_path: Path) -> None:
    for name in ("b/2.txt", "a.txt", "b/10.md", ".hidden/x.txt", "b/.y.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "picture.png").write_bytes(b"\0")
    write_jsonl(tmp_path / "z.jsonl", [{"text": "z"}])
    assert read(tmp_path) == ["z", "a.txt", "b/10.md", "b/2.txt"]
    assert parts(SourceConfig(name="s", path=tmp_path))[1] == ["picture.png"]
    assert read(tmp_path, format="jsonl") == ["z"]
    (tmp_path / "notes").write_text("named files need no known suffix")
    assert read([tmp_path / "notes", tmp_path / "a.txt"]) == ["named files need no known suffix", "a.txt"]
    assert read(write_jsonl(tmp_path / "data.json", [{"text": "z"}]), format="jsonl") == ["z"]


def test_batches_do_not_hold_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BATCH_BYTES", 1000)
    path = write_jsonl(tmp_path / "a.jsonl", [{"text": "x" * 200}] * 20 + [{"text": "y" * 5000}] + [{"text": ""}] * 30)
    source = SourceConfig(name="s", path=path)
    (part,) = parts(source)[0]
    found = list(batches(source, part))
    assert [len(batch.items) for batch in found] == [4, 4, 4, 4, 4, 1, 13, 13, 4]
    assert [batch.number for batch in found] == list(range(9))
    assert found[-1].position == part.size == path.stat().st_size
    assert found[1].items[0][0] == 5


def test_a_hub_data_set_is_streamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    folder = tmp_path / "set"
    folder.mkdir()
    write_jsonl(folder / "train.jsonl", [{"text": f"row {i}", "url": "u"} for i in range(5)])
    real, asked = datasets.load_dataset, {}

    def local(name: str, subset: str | None, *, split: str, revision: str, streaming: bool) -> Any:
        asked.update(name=name, subset=subset, revision=revision)
        return real("json", data_files=str(folder / "train.jsonl"), split=split, streaming=streaming)

    monkeypatch.setattr(datasets, "load_dataset", local)
    source = SourceConfig(name="s", hub="some/set", subset="small", revision="abc")
    (part,) = parts(source)[0]
    (batch,) = batches(source, part)
    assert list(documents(source, batch)) == [f"row {i}" for i in range(5)]
    assert batch.items[0][1] == {"text": "row 0"}
    assert asked == {"name": "some/set", "subset": "small", "revision": "abc"}
    other = parts(SourceConfig(name="s", hub="some/set", subset="small", revision="abd"))[0][0]
    assert other.sha256 != part.sha256
    wrong = SourceConfig(name="s", hub="some/set", revision="abc", column="body")
    whole = next(batches(wrong, part))
    with pytest.raises(UsageError, match=r"some/set, row 1: no field 'body' \(its fields: text, url\); set column"):
        list(documents(wrong, whole))

    def broken(*_: Any, **__: Any) -> Any:
        raise ConnectionError("no\nnetwork")

    monkeypatch.setattr(datasets, "load_dataset", broken)
    with pytest.raises(UsageError, match=r"source 's': cannot read some/set \(ConnectionError: no network\); correct"):
        list(batches(source, part))


CUT_SHORT = gzip.compress(b'{"text": "x"}\n' * 9000, mtime=0)[:-50]


@pytest.mark.parametrize(
    ("name", "content", "settings", "error"),
    [
        ("a.jsonl", b"", {}, r"a\.jsonl: the file is empty; remove it"),
        ("a.jsonl", b'{"text": "x"}\n{"text": "x"\n', {}, r"a\.jsonl, line 2: not valid JSON \(.*\); correct"),
        ("a.jsonl", b'{"text": "x"}\n[1]\n', {}, r"a\.jsonl, line 2: expected an object with fields, got list"),
        ("a.jsonl", b'{"body": "x"}\n', {}, r"line 1: no field 'text' \(its fields: body\); set column"),
        ("a.jsonl", b'{"input_ids": [1]}\n', {}, "set tokenised = true"),
        ("a.jsonl", b'\n{"text": null}\n', {}, r"line 2, field 'text': expected text, got null"),
        ("a.jsonl", b'{"text": 3}\n', {}, "field 'text': expected text, got int"),
        ("a.jsonl", b'{"text": "\\ud800"}\n', {}, "half of a character"),
        ("a.jsonl", b'{"text": "a"}\n{"text": "\xe4"}\n', {}, r"a\.jsonl, line 2: not UTF-8 \(byte 0xe4\); convert"),
        ("a.jsonl", b'{"text":' + b"[" * 100_000, {}, "line 1: JSON nested more than 200 deep"),
        ("a.txt", b"a\nb\n\xff\n", {}, r"a\.txt, line 3: not UTF-8 \(byte 0xff\)"),
        ("a.txt", b"a\n\nb\n\xff\n", {"documents": "paragraphs"}, r"a\.txt, line 4: not UTF-8"),
        ("a.jsonl.gz", CUT_SHORT, {}, r"a\.jsonl\.gz: not a readable gzip file \(.*; download"),
        ("a.jsonl.gz", b"no gzip", {}, r"a\.jsonl\.gz: not a readable gzip file"),
        ("a.txt.zst", b"no zstandard", {}, r"a\.txt\.zst: not a readable zstd file"),
        ("a.parquet", b"no parquet at all", {}, r"a\.parquet: not a readable Parquet"),
        ("a.jsonl", b'{"text": "x"}\n', {"tokenised": True}, "no field 'input_ids'"),
        ("a.jsonl", b'{"input_ids": "x"}\n', {"tokenised": True}, "'input_ids': not a list of whole numbers"),
        ("a.jsonl", b'{"input_ids": [1.5]}\n', {"tokenised": True}, "'input_ids': not a list of whole numbers"),
        ("a.jsonl", b'{"input_ids": [true]}\n', {"tokenised": True}, "'input_ids': not a list of whole numbers"),
        ("a.jsonl", b'{"input_ids": [[1], [2, 3]]}\n', {"tokenised": True}, "'input_ids': not a list of whole"),
        ("a.jsonl", b'{"input_ids": [1, 2], "weights": [1]}\n', {"tokenised": True}, "1 weights for 2 input_ids"),
        ("a.jsonl", b'{"input_ids": [1], "weights": [-1]}\n', {"tokenised": True}, "'weights': not a list of numbers"),
        ("a.jsonl", b'{"input_ids": [1], "weights": [NaN]}\n', {"tokenised": True}, "line 1: not valid JSON .*NaN"),
        ("a.png", b"x", {"path": "."}, r"source 's': no text, JSONL or Parquet.* \(only other files, such as a\.png"),
        ("a.txt", b"x", {"tokenised": True}, "no text, JSONL or Parquet files"),
        ("a.txt", b"x", {"path": "missing"}, r"missing: no such file or folder \(source 's'\); correct path"),
    ],
    ids=lambda value: repr(value)[:40],
)  # fmt: skip
def test_bad_data_is_named(tmp_path: Path, name: str, content: bytes, settings: dict[str, Any], error: str) -> None:
    (tmp_path / name).write_bytes(content)
    given = dict(settings)
    with pytest.raises(UsageError, match=error) as caught:
        read(tmp_path / given.pop("path", name), **given)
    assert "\n" not in str(caught.value)


def test_an_unreadable_column_of_parquet_is_named(tmp_path: Path) -> None:
    pyarrow.parquet.write_table(pyarrow.table({"body": ["x"]}), tmp_path / "a.parquet")
    with pytest.raises(UsageError, match=r"a\.parquet: no column 'text' \(its columns: body\)"):
        read(tmp_path / "a.parquet")
    pyarrow.parquet.write_table(pyarrow.table({"text": ["x", None]}), tmp_path / "a.parquet")
    with pytest.raises(UsageError, match=r"a\.parquet, row 2, field 'text': expected text, got null"):
        read(tmp_path / "a.parquet")


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"name": "a"}, "set either path or hub"),
        ({"name": "a", "path": "x", "hub": "y"}, "set either path or hub"),
        ({"name": "a", "path": "x", "tokenised": True, "format": "text"}, "tokenised = true needs JSONL"),
        ({"name": "a", "path": "x", "upsample": 0.5}, "greater than or equal to 1"),
    ],
)
def test_sources_that_contradict_themselves(values: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        SourceConfig(**values)


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
@pytest.mark.parametrize(
    ("name", "settings"), [("a.jsonl", {}), ("a.txt", {"documents": "paragraphs"}), ("a.txt", {"documents": "file"})]
)
def test_a_bomb_is_refused_before_it_fills_the_memory(
    name: str, settings: dict[str, Any], suffix: str, tmp_path: Path
) -> None:
    path = packed(tmp_path / f"{name}{suffix}", bytes(module.LARGEST + 1))
    with pytest.raises(UsageError, match="64 MiB"):
        read(path, **settings)


def test_a_document_of_many_lines_has_the_same_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LARGEST", 100)
    (tmp_path / "a.txt").write_text("line\n" * 30)
    with pytest.raises(UsageError, match=r"a\.txt: holds a line or a document of more than"):
        read(tmp_path / "a.txt", documents="paragraphs")
    (tmp_path / "a.txt").write_text(("line\n" * 15 + "\n") * 30)
    assert len(read(tmp_path / "a.txt", documents="paragraphs")) == 30


def test_a_file_may_unpack_to_more_than_a_line_may(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LARGEST", 100)
    assert len(read(packed(tmp_path / "a.jsonl.gz", b'{"text": "short"}\n' * 5000))) == 5000
