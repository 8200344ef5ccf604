"""Real damage to every kind of file that lr2eval reads: each reader takes it, or says in one line what is wrong."""

from __future__ import annotations

import copy
import gzip
import io
import json
import random
import shutil
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from lr2eval.base.wording import Wording
from lr2eval.errors import Lr2EvalError
from lr2eval.method.data.documents import batches, documents
from lr2eval.method.data.rows import SegmentData
from lr2eval.method.data.sources import SourceConfig, parts
from lr2eval.method.data.token_cache import _complete, read_lengths, read_tokens, write_chunk
from lr2eval.method.rope.files import read_factors
from lr2eval.method.rope.scaling import RopeScaling
from lr2eval.method.train.recipe import read_recipe
from lr2eval.method.train.train import read as read_log
from lr2eval.model.checkpoint import Checkpoint
from lr2eval.model.config import ModelConfig
from lr2eval.model.generation_file import asked_of_decoding, stated_ends
from lr2eval.model.tokenizer import PromptTokenizer
from lr2eval.record.bundle import Bundle, BundledData, BundleFile, check, write_bundle
from lr2eval.record.folder import claim
from lr2eval.runs.config import RunConfig
from lr2eval.tasks.exact import files
from lr2eval.tasks.haystacks.load import load as load_haystack
from lr2eval.tasks.haystacks.load import read as read_haystack
from lr2eval.tasks.longbench.source import rows_of as longbench_rows
from lr2eval.tasks.mmlu.source import ZIP_NAME
from lr2eval.tasks.mmlu.source import read as read_mmlu
from lr2eval.tasks.ruler import questions
from lr2eval.tasks.short.source import rows_of as short_rows
from tests.tiny_segments import mixture, write_segments

TRIES = 60
"""Damaged copies of each file."""
VALUES: tuple[Any, ...] = (None, True, -1, 0, 10**30, 1.5, "x", "", "9" * 300, [], [[]], {}, {"a": 1}, [None], "\u2028")
DEEP = b"[" * 200_000
ANYTHING: tuple[bytes, ...] = (
    b"", b"\0", b"\xff\xfe", DEEP, b'{"a":' * 100_000, b'["\\ud800"]', b"[1e999]", b"NaN", b"9" * 5000, b"{}", b"[]",
    b"1", b"null", b'"text"', b"\x1f\x8b\x08", b"PK\x03\x04", b"PAR1", b"\xef\xbb\xbf", b"a = " + DEEP, b",,,\n",
)  # fmt: skip


def _inside(value: Any) -> Iterator[tuple[Any, Any]]:
    """(holder, key) of everything in a JSON value."""
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield value, key
        yield from _inside(value[key])


def _damaged(data: bytes, number: int) -> bytes:
    """A damaged copy of a file: foreign content, flipped or lost bytes, or a JSON value with something else in it."""
    rng = random.Random(number)
    if number < len(ANYTHING):
        return ANYTHING[number]
    kind = number % 4
    if kind == 0:
        return data[: rng.randrange(len(data))]
    if kind == 1 or not data.lstrip().startswith((b"{", b"[")):
        made = bytearray(data)
        for _ in range(rng.choice((1, 1, 3, 20))):
            made[rng.randrange(len(made))] ^= 1 << rng.randrange(8)
        return bytes(made)
    lines = data.split(b"\n")
    try:
        values = [json.loads(data)]
    except ValueError:
        values = [json.loads(line) for line in lines if line]
    holder, key = rng.choice([place for value in values for place in _inside(value)])
    if kind == 2:
        holder[key] = copy.deepcopy(rng.choice(VALUES))
    else:
        del holder[key]
    return b"\n".join(json.dumps(value).encode() for value in values)


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


def _zip(members: Mapping[str, str]) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in members.items():
            archive.writestr(name, text)
    return made.getvalue()


def _documents(path: Path, **settings: Any) -> None:
    source = SourceConfig(name="s", path=path, **settings)
    for part in parts(source)[0]:
        for batch in batches(source, part):
            list(documents(source, batch))


def _parquet(values: Mapping[str, Any]) -> bytes:
    made = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(dict(values)), made)
    return made.getvalue()


SCALING = RopeScaling(
    long_factor=(1.0, 2.0), short_factor=(1.0, 1.0), long_attention_factor=1.1, short_attention_factor=1.0,
    theta=10000.0, original_window=32, target_window=64, rotary_dim=4, provenance="a test",
)  # fmt: skip
JSONL = b"".join(_json({"text": f"document {number}"}) + b"\n" for number in range(9))
TOKENS = b"".join(_json({"input_ids": [1, 2, number], "weights": [1, 0.5, 1]}) + b"\n" for number in range(9))
MMLU = "".join(f"question {number}?,a,b,c,d,A\n" for number in range(9))
SQUAD = {
    "data": [
        {"paragraphs": [{"context": "c", "qas": [
            {"question": "q", "is_impossible": False, "answers": [{"text": "a"}]}]}]}
    ]
}  # fmt: skip
HOTPOT = [{"question": "q", "answer": "a", "context": [["t", ["s", "u"]], ["v", ["w"]]]}]
BUNDLE = Bundle(
    data_sets={
        "a": BundledData(
            licence="MIT", source="hub:a", tasks="a", read_by=["a"], made_with="1",
            files={"a/b.txt": BundleFile(sha256="0" * 64, bytes=3)},
        )
    }
)  # fmt: skip
RECIPE = (
    b'name = "r"\noriginal_window = 8\ntarget_window = "16k"\nshort_tokens = 0\nlong_tokens = 1\nglobal_batch = 1\n'
    b'[optimizer]\nbetas = [0.9, 0.95]\n[data]\nsources = [{ name = "a" }]\n'
)
CONFIG = (
    b'model = "m"\ntasks = ["ruler", "mmlu"]\nlengths = ["4k"]\nlimit = 0.5\nchat_date = 2025-01-31\n[ruler]\na = 1\n'
)

READERS: dict[str, tuple[str, bytes, Callable[[Path], object]]] = {
    "factors in CSV": ("f.csv", b"factor\n1.0\n2.0\n3.5\n", read_factors),
    "factors in JSON": ("f.json", _json(SCALING.to_json() | {"search": {"digest": "a"}}), read_factors),
    "factors as a list": ("f.json", _json({"factors": [1, 2], "temperature": 1.1, "target_length": 9}), read_factors),
    "a recipe": ("r.toml", RECIPE, read_recipe),
    "a configuration": ("c.toml", CONFIG, lambda path: RunConfig.load({}, path)),
    "words": ("w.json", _json({"needle": "{key} is {value}", "keys": ["a", "b"], "values": []}), Wording.read),
    "a manifest": (
        "manifest.json", _json({"kind": "run", "settings": {"a": {"b": 1}}}),
        lambda path: claim(path.parent, {"a": {"b": 1}}, {}),
    ),
    "a training log": ("log.jsonl", b'{"step": 1, "loss": 2.5}\n{"step": 2}\n', lambda path: read_log(path.parent)),
    "JSONL": ("a.jsonl", JSONL, _documents),
    "JSONL in gzip": ("a.jsonl.gz", gzip.compress(JSONL), _documents),
    "JSONL in zstd": ("a.jsonl.zst", bytes(pyarrow.compress(JSONL, "zstd", asbytes=True)), _documents),
    "tokens": ("a.jsonl", TOKENS, lambda path: _documents(path, tokenised=True)),
    "text": ("a.txt", b"one\n\ntwo\n", lambda path: _documents(path, documents="paragraphs")),
    "text in gzip": ("a.txt.gz", gzip.compress(b"one\n\ntwo\n"), _documents),
    "Parquet": ("a.parquet", _parquet({"text": ["a", "b", "c" * 999]}), _documents),
    "tokens in Parquet": (
        "a.parquet", _parquet({"input_ids": [[1, 2], [3]], "weights": [[1.0, 0.5], [0.0]]}),
        lambda path: _documents(path, tokenised=True),
    ),
    "essays in a zip": ("e.zip", _zip({"a.txt": "one two " * 99, "b.txt": "three"}), read_haystack),
    "essays in JSON": (
        "PaulGrahamEssays.json", _json({"text": "one two three"}),
        lambda path: load_haystack("essays", path.parent, True),
    ),
    "MMLU in a zip": (
        ZIP_NAME, _zip({f"{split}/law_{split}.csv": MMLU for split in ("test", "dev")}),
        lambda path: read_mmlu(path.parent, True).rows("law", "test"),
    ),
    "MMLU in CSV": (
        "test/law_test.csv", MMLU.encode(),
        lambda path: read_mmlu(path.parents[1], True).rows("law", "test"),
    ),
    "SQuAD": ("dev-v2.0.json", _json(SQUAD), lambda path: questions.load("squad", path, None).sha256),
    "HotpotQA": ("h.json", _json(HOTPOT), lambda path: questions.load("hotpotqa", path, None).sha256),
    "HotpotQA.gz": ("h.json.gz", gzip.compress(_json(HOTPOT)), lambda path: questions.load("hotpotqa", path, None)),
    "LongBench": (
        "trec.jsonl",
        _json({"_id": "1", "input": "q", "context": "c", "answers": ["a"], "all_classes": ["a"], "length": 3}),
        lambda path: longbench_rows("trec", extended=False).read(path.parent, offline=True),
    ),
    "TruthfulQA": (
        "truthfulqa/mc_task.json",
        _json([{"question": "q", "mc1_targets": {"a": 1, "b": 0},
                "mc2_targets": {"choices": ["a", "b"], "labels": [1, 0]}}]),
        lambda path: short_rows("truthfulqa", "validation").read(path.parents[1], offline=True),
    ),
    "MMLU-Pro": (
        "mmlu_pro/test.jsonl",
        _json({"question_id": 1, "question": "q", "category": "c", "cot_content": "", "options": ["a", "b"],
               "answer": "A", "answer_index": 0}),
        lambda path: short_rows("mmlu_pro", "test").read(path.parents[1], offline=True),
    ),
}  # fmt: skip


def _tried(call: Callable[[], object], *names: str) -> str:
    """What the call says; fails for anything but one line that begins with the file or what it is for."""
    try:
        call()
    except Lr2EvalError as error:
        said = str(error)
        assert "\n" not in said
        assert any(name in said for name in names), said
        assert not any(
            word in said for word in ("Input should", "validation error", "Field required", "errors.pydantic")
        )
        return said
    return ""


@pytest.mark.parametrize("kind", sorted(READERS))
def test_a_damaged_file_is_one_line(kind: str, tmp_path: Path) -> None:
    name, data, read = READERS[kind]
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    if name == "test/law_test.csv":
        (tmp_path / "dev").mkdir()
    path.write_bytes(data)
    read(path)
    said = []
    for number in range(TRIES):
        path.write_bytes(_damaged(data, number))
        # An option is named by itself, and a folder of other settings by the folder.
        said.append(_tried(lambda: read(path), "" if kind == "a configuration" else tmp_path.name, path.name))
    assert sum(map(bool, said)) > 8


@pytest.mark.parametrize("name", ["manifest.json", "tokens.bin", "weights.bin", "lengths.bin", "rows.bin"])
def test_damaged_training_rows(name: str, tmp_path: Path) -> None:
    folder = write_segments(tmp_path / "rows", mixture(4, weighted=True), 32).folder
    data = (folder / name).read_bytes()
    for number in range(247 if name == "manifest.json" else TRIES):
        (folder / name).write_bytes(_damaged(data, number))
        _tried(lambda: [row.labels for row in SegmentData.open(folder)], "rows")


def test_every_key_of_the_manifest_of_training_rows_is_checked(tmp_path: Path) -> None:
    folder = write_segments(tmp_path / "rows", mixture(4), 32).folder
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["sha256"]  # as in files of older versions: with it, any change is noticed
    needed = ["version", "digest", "original_window", "target_window", "token_type", "segments", "files"]
    for key in needed:
        for value in (None, True, -1, "x", [], {}):
            (folder / "manifest.json").write_text(json.dumps(manifest | {key: value}))
            assert _tried(lambda: SegmentData.open(folder)[0].labels, "manifest.json") or (key, value) == (
                "digest",
                "x",
            )
        (folder / "manifest.json").write_text(json.dumps({k: v for k, v in manifest.items() if k != key}))
        assert f"damaged at {key} (is missing)" in _tried(lambda: SegmentData.open(folder), "manifest.json")


@pytest.mark.parametrize(
    "name", ["config.json", "model.safetensors", "generation_config.json", "tokenizer.json", "tokenizer_config.json"]
)
def test_a_damaged_checkpoint(name: str, toy_checkpoint: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(toy_checkpoint, tmp_path / "toy"))
    data = (folder / name).read_bytes() if (folder / name).exists() else b'{"eos_token_id": [1, 2], "do_sample": true}'

    def read() -> None:
        if "tokenizer" in name:
            PromptTokenizer.load(folder)
            return
        ModelConfig.read(folder)
        checkpoint = Checkpoint.open(folder)
        stated_ends(checkpoint)
        asked_of_decoding(json.loads((folder / name).read_text()) if name.startswith("gen") else {})

    for number in range(TRIES):
        damaged = _damaged(data, number)
        if name == "model.safetensors" and number >= len(ANYTHING):  # the header alone
            size = 8 + int.from_bytes(data[:8], "little")
            damaged = _header(data[8:size], number) + data[size:]
        (folder / name).write_bytes(damaged)
        _tried(read, "toy")


def _header(text: bytes, number: int) -> bytes:
    damaged = _damaged(text, number)
    return len(damaged).to_bytes(8, "little") + damaged


def test_a_damaged_bundle(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b.txt").write_text("abc")
    write_bundle(tmp_path, BUNDLE)
    data = (tmp_path / "bundle.json").read_bytes()
    for number in range(2 * TRIES):
        (tmp_path / "bundle.json").write_bytes(_damaged(data, number))
        _tried(lambda: check(tmp_path, ["a"]), "")


def test_damaged_caches_are_made_again(tmp_path: Path) -> None:
    """What lr2eval can make again raises nothing at all."""
    path = tmp_path / "t.jsonl"
    rows = [{"token_count": 3, "prompt": "a"}] * 3
    facts = {"length": 8, "max_new_tokens": 2, "depths": (0, 1)}

    def ensure() -> files.DataFile:
        return files.ensure(path, facts, lambda: rows, lambda row: 0.5, lambda text: None)

    before = ensure()
    for name in ("t.jsonl", "t.manifest.json"):
        data = (tmp_path / name).read_bytes()
        for number in range(TRIES):
            (tmp_path / name).write_bytes(_damaged(data, number))
            found = ensure()
            assert list(found.rows()) == list(before.rows())
            assert {key: found.manifest[key] for key in ("length", "max_new_tokens", "samples")} == {
                "length": 8, "max_new_tokens": 2, "samples": 3,
            }  # fmt: skip


def test_a_damaged_token_cache_is_not_used(tmp_path: Path) -> None:
    import numpy as np

    path = tmp_path / "000000.tok"
    write_chunk(path, [np.arange(9), np.arange(3)], [None, None], np.dtype("<u2"))
    done = tmp_path / "complete.json"
    done.write_text('{"chunks": 1}')
    assert _complete(tmp_path) == [path]
    data = path.read_bytes()
    for number in range(TRIES):
        path.write_bytes(_damaged(data, number))
        assert _complete(tmp_path) is None
        _tried(lambda: (read_lengths(path), read_tokens(path, 0, 9)), "000000.tok")
    path.write_bytes(data)
    for text in (*ANYTHING, b'{"chunks": "1"}', b'{"chunks": 1000000000000}', b'{"chunks": -1}', b'{"chunks": true}'):
        done.write_bytes(text)
        assert _complete(tmp_path) is None


@pytest.mark.parametrize("name", ["a\0b", "\ud800", "x" * 5000])
def test_names_that_no_file_can_have(name: str, tmp_path: Path) -> None:
    for reader in (read_factors, read_recipe, Wording.read, lambda path: RunConfig.load({}, path)):
        assert _tried(lambda reader=reader: reader(tmp_path / f"{name}.toml"), "")
