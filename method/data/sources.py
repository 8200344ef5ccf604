"""Sources of training documents: files, folders and hub data sets, and the parts in which they are read."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from lr2eval.base.config import Table
from lr2eval.base.files import expanded
from lr2eval.base.reading import opened
from lr2eval.errors import UsageError
from lr2eval.method.data.packing import grouped

GROUP_BYTES = 32 << 20
"""Text files that are one document each are grouped until they reach this size."""
_SUFFIXES = {
    ".txt": "text",
    ".text": "text",
    ".md": "text",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".parquet": "parquet",
}
FIX = "download it again or make it readable"
COMPRESSED = {".gz": "gzip", ".zst": "zstd"}


class SourceConfig(Table):
    """Where documents come from: exactly one of ``path`` and ``hub``. One table ``[[data.sources]]`` of a recipe."""

    name: str = Field(min_length=1)
    """The name of the source."""
    path: tuple[Path, ...] = ()
    """Text, JSONL or Parquet files, or folders of them; a single path needs no list."""
    hub: str | None = None
    """The name of a data set on the hub; it is streamed through `datasets`."""
    subset: str | None = None
    """The subset of the hub data set. Default: its only one."""
    split: str = "train"
    """The split of the hub data set."""
    revision: str | None = None
    """The commit of the hub data set. Default: the newest, which always needs the network."""
    format: Literal["auto", "text", "jsonl", "parquet"] = "auto"
    """The file format; auto goes by the file name."""
    documents: Literal["file", "paragraphs"] = "file"
    """What a document is in a text file: the whole file, or each part between blank lines (paragraphs)."""
    column: str = "text"
    """The column or JSON key with the text."""
    tokenised: bool = False
    """Rows hold input_ids, and optionally weights, the loss weight of each token as a target. Nothing is added."""
    first: int | None = Field(None, ge=1)
    """Use only the first N documents. Default: all."""
    share: float | None = Field(None, gt=0)
    """The share of the mixture's tokens. Give all sources a share, or none."""
    upsample: float = Field(1.0, ge=1)
    """Draw long documents of this source this many times as often as their share of its tokens."""

    @field_validator("path", mode="before")
    @classmethod
    def _one_path(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str | Path) else value

    @model_validator(mode="after")
    def _one_place(self) -> SourceConfig:
        if bool(self.path) == (self.hub is not None):
            raise ValueError(f"source {self.name!r}: set either path or hub")
        if self.tokenised and self.format == "text":
            raise ValueError(f"source {self.name!r}: tokenised = true needs JSONL or Parquet, not text")
        return self


Kind = Literal["files", "paragraphs", "jsonl", "parquet", "hub"]


@dataclass(frozen=True)
class SourcePart:
    """What is read as one unit: a file, a group of text files, or a hub data set. ``sha256`` identifies its content."""

    kind: Kind
    paths: tuple[Path, ...]
    size: int
    sha256: str
    revision: str = ""
    """Commit of a hub data set."""


def parts(source: SourceConfig) -> tuple[list[SourcePart], list[str]]:
    """The parts of a source in a fixed order, and the names of ignored files (of other kinds) in its folders.

    Reads every file once to hash it. Raises :class:`UsageError` for a file that is missing, empty or unreadable.
    """
    if source.hub is not None:
        return [_hub_part(source)], []
    found: list[SourcePart] = []
    whole: list[tuple[Path, int, str]] = []
    ignored: list[str] = []
    for path, named in _files(source):
        kind = _kind(source, path, named)
        if kind is None:
            ignored.append(path.name)
            continue
        with opened(path, fix=FIX) as file:
            size = os.fstat(file.fileno()).st_size
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        if not size:
            raise UsageError(f"{path}: the file is empty; remove it or download it again")
        if kind == "files":
            whole.append((path, size, sha256))
        else:
            found.append(SourcePart(kind, (path,), size, sha256))
    found += [_group(group) for group in grouped(whole, lambda file: file[1], GROUP_BYTES)]
    if not found:
        seen = f" (only other files, such as {ignored[0]})" if ignored else ""
        raise UsageError(
            f"source {source.name!r}: no text, JSONL or Parquet files in {', '.join(map(str, source.path))}{seen}; "
            "list the files in path, or set format"
        )
    return found, ignored


def _files(source: SourceConfig) -> Iterator[tuple[Path, bool]]:
    """Every file, and whether the user named it. Files of folders are sorted by name; hidden files are ignored."""
    for given in source.path:
        path = expanded(given)
        if path.is_dir():
            inside = [(each.relative_to(path), each) for each in path.rglob("*") if each.is_file()]
            shown = [pair for pair in inside if not any(name.startswith(".") for name in pair[0].parts)]
            yield from ((each, False) for _, each in sorted(shown, key=lambda pair: pair[0].as_posix()))
        elif path.is_file():
            yield path, True
        else:
            raise UsageError(f"{path}: no such file or folder (source {source.name!r}); correct path")


def _kind(source: SourceConfig, path: Path, named: bool) -> Kind | None:
    """How to read a file; ``None``: ignore it. Named files of an unknown kind are text unless ``format`` is set."""
    plain = path.with_suffix("") if path.suffix in COMPRESSED else path
    known = _SUFFIXES.get(plain.suffix, "text" if named else None)
    if source.format != "auto":
        known = source.format if named or known == source.format else None
    if known == "text":
        return None if source.tokenised else "files" if source.documents == "file" else "paragraphs"
    return "jsonl" if known == "jsonl" else "parquet" if known == "parquet" else None


def _group(files: list[tuple[Path, int, str]]) -> SourcePart:
    paths, sizes, hashes = zip(*files, strict=True)
    return SourcePart("files", paths, sum(sizes), hashlib.sha256("".join(hashes).encode()).hexdigest())


def _hub_part(source: SourceConfig) -> SourcePart:
    assert source.hub is not None
    revision = source.revision
    if revision is None:
        from huggingface_hub import HfApi

        try:
            revision = str(HfApi().dataset_info(source.hub).sha)
        except Exception as error:
            raise UsageError(
                f"source {source.name!r}: cannot get the newest commit of {source.hub} from the hub "
                f"({type(error).__name__}); set revision, or use local files with path"
            ) from error
    name = json.dumps([source.hub, source.subset, source.split, revision])
    return SourcePart("hub", (), 0, hashlib.sha256(name.encode()).hexdigest(), revision)
