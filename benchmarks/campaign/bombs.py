"""Small files that become huge, and files that say that they are huge: refused in one line, in little memory."""

from __future__ import annotations

import gzip
import json
import re
import resource
import shutil
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from . import judge
from .examples import BUNDLE_TASKS, SEARCH, SUBJECT, TRAIN, zipped
from .kills import Planned
from .process import Forked, _main
from .readers import NO_SHOTS, OF_A_RUN, ONE_LENGTH, ROPE, TWO, WITH_BASELINE, Words, _mix, _plan
from .table import Finding

KIND = "bombs"
BOUND = 300 << 20
"""Bytes of memory that a command may take beyond what it has when it begins."""
ROOM = 2 << 30
"""Bytes after which the system refuses it more memory: the machine must survive a bomb that works."""
_LIMIT = re.compile(
    r"limit|more than|at most|larger|longer|exceed|too (deep|large|long|big|many)|deeper|nested|maximum|only \d",
    re.IGNORECASE,
)
MIB = 1 << 20
Make = Callable[[Path], None]


@dataclass(frozen=True)
class Bomb:
    """``make`` puts it in the place of ``file``. ``codes`` is how the command may end; ``limit``: it names a limit."""

    name: str
    file: str
    make: Make
    words: Words
    codes: tuple[int, ...] = (2, 4, 5)
    limit: bool = True


def _zeros(size: int) -> Iterator[bytes]:
    block = b" " * MIB
    for _ in range(size // MIB):
        yield block


def zip_bomb(member: str, path: Path) -> None:
    """512 MiB in half a megabyte."""
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open(member, "w", force_zip64=True) as file,
    ):
        for block in _zeros(512 * MIB):
            file.write(block)


def zip_of_many(path: Path) -> None:
    """1,500 members of a megabyte each."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(1500):
            archive.writestr(f"{number}.txt", b"a word. " * (MIB // 8))


def zip_in_a_zip(path: Path) -> None:
    """A text that is a zip file of a zip file."""
    inner = zipped({"a.txt": "word. " * 1000})
    for _ in range(3):
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("inner.txt", inner)
        inner = path.read_bytes()


def gzip_bomb(start: bytes, end: bytes, path: Path) -> None:
    """A gibibyte in a megabyte, as one line or value."""
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(start)
        for block in _zeros(1024 * MIB):
            file.write(block)
        file.write(end)


def zstd_bomb(path: Path) -> None:
    """A line of 600 MiB in some kilobytes."""
    import pyarrow as pa

    with pa.CompressedOutputStream(str(path), "zstd") as file:
        file.write(b'{"text": "')
        for block in _zeros(600 * MIB):
            file.write(block)
        file.write(b'"}\n')


def sparse(size: int, path: Path) -> None:
    """A file of this size with nothing in it."""
    path.unlink()
    with path.open("wb") as file:
        file.truncate(size)


def header_of_10_gb(path: Path) -> None:
    """Safetensors whose header says 10 GB, in a sparse file that has them."""
    sparse(10**10 + 64, path)
    with path.open("r+b") as file:
        file.write(struct.pack("<Q", 10**10) + b"{")


def text(content: str, path: Path) -> None:
    path.write_text(content)


def deep(path: Path) -> None:
    """Five million lists in each other."""
    path.write_text("[" * 5_000_000 + "]" * 5_000_000)


def digits(path: Path) -> None:
    """A number of a million digits, in the place of the first value."""
    value = path.read_text()
    path.write_text(re.sub(r"(: ?|\[)(?=[^,{}\[\]]+[,}\]])[^,}\]]+", lambda m: m[1] + "9" * 1_000_000, value, count=1))


def csv_field(path: Path) -> None:
    """One field of 300 MB."""
    with path.open("w") as file:
        file.write('"')
        for _ in range(300):
            file.write("x" * 10**6)
        file.write('",a,b,c,d,A\n')


def huge(changes: Mapping[str, Any], path: Path) -> None:
    """Declared sizes that nobody has."""
    value = json.loads(path.read_text())
    for key, new in changes.items():
        *above, last = key.split(".")
        holder = value
        for name in above:
            holder = holder[name]
        holder[last] = new
    path.write_text(json.dumps(value))


def zlib_in_png_style(path: Path) -> None:
    """Raw deflate data under the name of a gzip file: no known header, gigabytes inside."""
    packed = zlib.compressobj(1)
    with path.open("wb") as file:
        for block in _zeros(512 * MIB):
            file.write(packed.compress(block))
        file.write(packed.flush())


def _tasks(*tasks: str, data: str = "data", more: Words = ()) -> Words:
    return _plan("model", *tasks, data=data, more=more)


MODEL = _plan("model", "facts")
TRAINING = (*TRAIN, "--data", "rows", "--out", "out/training")
PLAN = ("train", "--recipe", "recipe.toml", "--model", "small", "--data", "rows", "--offline", "--dry-run")
ESSAYS = _tasks("ruler:niah_single_2", data="packed", more=ONE_LENGTH)
LENGTH = ("--lengths", "1k")
JSON_FILES: dict[str, Words] = {
    "model/config.json": MODEL,
    "model/generation_config.json": MODEL,
    "model/tokenizer.json": MODEL,
    "model/tokenizer_config.json": MODEL,
    "sharded/lr2eval.json": _plan("sharded", "ruler"),
    "sharded/model.safetensors.index.json": _plan("sharded", "facts"),
    "runs/original/results.json": OF_A_RUN[0],
    "runs/original/manifest.json": ("report", "runs/original", "--out", "out/report.html"),
    "search/search.json": ("report", "search", "--out", "out/page.html"),
    "search/manifest.json": (*SEARCH, "--out", "search"),
    "search/factors.json": ("rope", "--model", "small", "--factors", "search/factors.json"),
    "factors/list.json": ("rope", "--model", "model", "--factors", "factors/list.json"),
    "wording.json": (*SEARCH, "--out", "search"),
    "rows/manifest.json": TRAINING,
    "baseline.json": WITH_BASELINE[0],
    "bundle/bundle.json": ("data", "show", "bundle"),
    "data/squad/dev-v2.0.json": _tasks("ruler:qa_1", more=TWO),
    "data/longbench_v2/data.json": _tasks("longbench2", more=LENGTH),
    "data/paul_graham/PaulGrahamEssays.json": _tasks("ruler:niah_single_2", more=ONE_LENGTH),
}
OTHER_FILES: dict[str, Words] = {
    "recipe.toml": PLAN,
    "run.toml": ("run", "--config", "run.toml", "--dry-run", "--out", "out/run"),
    "configs/gate.toml": ("gate", "runs/extended", "--config", "configs/gate.toml", "--out", "out/gate"),
    "extend.toml": ("extend", "--config", "extend.toml", "--offline", "--out", "out/extend", "--dry-run"),
    "factors/plain.csv": ("rope", "--model", "model", "--factors", "factors/plain.csv", "--target-length", "4k"),
    f"data/mmlu/test/{SUBJECT}_test.csv": _tasks(f"mmlu:{SUBJECT}"),
    "haystack/text.txt": _tasks("ruler:niah_single_2", more=(*ONE_LENGTH, "--set", "ruler.haystack=haystack/text.txt")),
    "data/longbench/trec.jsonl": _tasks("longbench:trec", more=LENGTH),
    "data/hellaswag/hellaswag_val.jsonl": _tasks("short:hellaswag", more=NO_SHOTS),
    "predictions/trec.jsonl": ("score", "longbench", "predictions"),
    "sharded/chat_template.jinja": _plan("sharded", "facts", more=("--chat",)),
    "model/model.safetensors": MODEL,
    "runs/original/samples.sqlite": OF_A_RUN[0],
}
SIZES: dict[str, tuple[str, dict[str, Any], Words]] = {
    "a billion layers": ("model/config.json", {"num_hidden_layers": 10**9}, MODEL),
    "a hidden size of a trillion": ("model/config.json", {"hidden_size": 10**12}, MODEL),
    "a vocabulary of a trillion": ("model/config.json", {"vocab_size": 10**12}, MODEL),
    "a head of a billion": ("model/config.json", {"head_dim": 10**9}, ("rope", "--model", "model", *ROPE)),
    "a quadrillion rows": ("rows/manifest.json", {"segments.total": 10**15}, TRAINING),
    "rows of a quadrillion tokens": ("rows/manifest.json", {"target_window": 10**15}, TRAINING),
    "a bundle of an exabyte": (
        "bundle/bundle.json",
        {"data_sets.mmlu.files": {"x": {"sha256": "0", "bytes": 10**18}}},
        ("data", "prepare", "--tasks", BUNDLE_TASKS, "--data-dir", "data", "--out", "bundle", "--offline"),
    ),
}


def bombs() -> list[Bomb]:
    """All of them."""
    found = [
        Bomb(
            "zip: one member",
            "packed/mmlu/mmlu_test_dev.zip",
            partial(zip_bomb, f"test/{SUBJECT}_test.csv"),
            _tasks(f"mmlu:{SUBJECT}", data="packed"),
        ),
        Bomb("zip: one text", "packed/paul_graham/PaulGrahamEssays.zip", partial(zip_bomb, "a.txt"), ESSAYS),
        Bomb("zip: many texts", "packed/paul_graham/PaulGrahamEssays.zip", zip_of_many, ESSAYS),
        Bomb("zip in a zip", "packed/paul_graham/PaulGrahamEssays.zip", zip_in_a_zip, ESSAYS, limit=False),
        Bomb(
            "gzip: one line",
            "packed/longbench/trec.jsonl.gz",
            partial(gzip_bomb, b'{"input": "', b'"}\n'),
            _tasks("longbench:trec", data="packed", more=LENGTH),
        ),
        Bomb("gzip: a haystack", "haystack/text.txt", partial(gzip_bomb, b"", b""), OTHER_FILES["haystack/text.txt"]),
        Bomb(
            "gzip: questions",
            "data/squad/dev-v2.0.json",
            partial(gzip_bomb, b"[", b"]"),
            JSON_FILES["data/squad/dev-v2.0.json"],
        ),
        Bomb(
            "gzip: a document",
            "documents/texts.jsonl.gz",
            partial(gzip_bomb, b'{"text": "', b'"}\n'),
            _mix("texts.jsonl.gz"),
        ),
        Bomb("zstd: a document", "documents/texts.jsonl.zst", zstd_bomb, _mix("texts.jsonl.zst")),
        Bomb(
            "deflate under another name",
            "documents/texts.jsonl.gz",
            zlib_in_png_style,
            _mix("texts.jsonl.gz"),
            limit=False,
        ),
        Bomb("CSV: one field", f"data/mmlu/test/{SUBJECT}_test.csv", csv_field, _tasks(f"mmlu:{SUBJECT}")),
        Bomb("CSV: one factor", "factors/plain.csv", csv_field, OTHER_FILES["factors/plain.csv"]),
        Bomb("safetensors: a header of 10 GB", "model/model.safetensors", header_of_10_gb, MODEL, limit=False),
        Bomb(
            "safetensors: a shard's header of 10 GB",
            "sharded/model-00002-of-00003.safetensors",
            header_of_10_gb,
            _plan("sharded", "facts"),
            limit=False,
        ),
        Bomb("documents: a line of 600 MB", "documents/texts.jsonl", partial(sparse, 600 * MIB), _mix("texts.jsonl")),
        Bomb("TOML: deep", "recipe.toml", partial(text, "a = " + "[" * 10**6 + "]" * 10**6), PLAN),
        Bomb("TOML: a number", "recipe.toml", partial(text, "steps = " + "9" * 10**6), PLAN, limit=False),
    ]
    found += [Bomb(f"deep JSON: {file}", file, deep, words) for file, words in JSON_FILES.items()]
    found += [
        Bomb(f"a million digits: {file}", file, digits, words, codes=(0, 2, 4, 5), limit=False)
        for file, words in JSON_FILES.items()
    ]
    every = {**JSON_FILES, **OTHER_FILES}
    found += [
        Bomb(
            f"a terabyte: {file}", file, partial(sparse, 10**12), words, limit=not file.endswith(("sqlite", "tensors"))
        )
        for file, words in every.items()
    ]
    return found + [
        Bomb(f"sizes: {name}", file, partial(huge, changes), words, codes=(0, 2, 4, 5), limit=False)
        for name, (file, changes, words) in SIZES.items()
    ]


def plan() -> list[Planned]:
    """A trial for each."""
    return [(KIND, f"bomb {bomb.name}", partial(_trial, number)) for number, bomb in enumerate(bombs())]


def _trial(number: int, examples: Path, references: Path, home: Path) -> list[dict[str, Any]]:
    bomb = bombs()[number]
    work = home / "bombs"
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(examples, work, symlinks=True)
    (work / "out").mkdir()
    bomb.make(work / bomb.file)
    told = work / "out" / "memory"
    done = Forked((), work, call=partial(_measured, bomb.words, told)).wait(90)
    taken = int(told.read_text()) if told.exists() else None
    problem = judge.wrong(done, bomb.codes)
    if problem is None and taken is None:
        problem = "ended before its memory was measured"
    if problem is None and taken is not None and taken > BOUND:
        problem = f"takes more than {BOUND >> 20} MiB of memory"
    if problem is None and done.code and Path(bomb.file).name not in done.err:
        problem = "the error does not name the file"
    if problem is None and done.code and bomb.limit and not _LIMIT.search(done.err):
        problem = "the error does not name a limit"
    size = "unknown" if taken is None else f"{taken >> 20} MiB"
    detail = f"exit code {done.code}, {size} more memory: {done.err.strip()[-300:]}" if problem else ""
    shutil.rmtree(work, ignore_errors=True)
    return [
        Finding(
            KIND,
            bomb.name.partition(":")[0],
            problem,
            f"bomb {bomb.name}",
            f"lr2eval {' '.join(bomb.words)}"[:200],
            detail,
        ).to_json()
    ]


def _measured(words: Words, told: Path) -> None:
    """The command with little room, and the most memory that it had at once beyond what it began with, in bytes."""
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + ROOM, resource.getrlimit(resource.RLIMIT_AS)[1]))
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins again
    before = _memory("VmRSS")
    try:
        _main(words)
    finally:
        sys.stdout.flush()
        told.write_text(str(max(0, _memory("VmHWM") - before)))


def _memory(name: str) -> int:
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) << 10
