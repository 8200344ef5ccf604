"""Questions with documents: SQuAD 2.0 and HotpotQA as their authors publish them, and HotpotQA in columns."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from lr2eval.base import ids
from lr2eval.benchmark import Scalar
from lr2eval.errors import MissingDataError, UsageError
from lr2eval.tasks.shared.hub import first_line, hub_access

HOTPOT_SITE = "hotpot_dev_distractor_v1.json from https://hotpotqa.github.io"
SQUAD_SITE = "dev-v2.0.json from https://rajpurkar.github.io/SQuAD-explorer"


@dataclass(frozen=True)
class Question:
    """``own`` and ``related`` are numbers of documents; any of ``answers`` is right."""

    text: str
    answers: tuple[str, ...]
    own: tuple[int, ...]
    related: tuple[int, ...] = ()


@dataclass(frozen=True)
class Questions:
    """``comparable`` if this is the whole published file, which published RULER numbers use."""

    name: str
    comparable: bool
    documents: tuple[str, ...]
    items: tuple[Question, ...]

    @cached_property
    def sha256(self) -> str:
        """Of documents and questions."""
        items = [[each.text, each.answers, each.own, each.related] for each in self.items]
        return ids.digest([self.documents, items])

    @property
    def facts(self) -> dict[str, Scalar]:
        """What manifest and report must say about the source (part of ``Shard.data``)."""
        stand_in: dict[str, Scalar] = {} if self.comparable else {"stand_in": True}
        return {
            "questions": self.name,
            "questions_sha256": self.sha256,
            "questions_available": len(self.items),
            "comparable": self.comparable,
            **stand_in,
        }


@dataclass(frozen=True)
class Layout:
    """How one data set is found and read. ``published`` counts the questions of the whole file."""

    folder: str
    patterns: tuple[str, ...]
    parse: Callable[[Any, str], tuple[list[str], list[Question]]]
    published: int
    origin: str
    hub: tuple[str, str | None]
    """Data set and configuration on the hub; its validation split is the published file in rows."""
    from_hub: Callable[[list[dict[str, Any]]], Any]
    """Rows of the hub's set in the published layout."""


def load(name: str, given: object, data_dir: Path | None, offline: bool = True) -> Questions:
    """Questions ``name`` (``squad`` or ``hotpotqa``): the file ``given``, the first one under ``data_dir``, the hub's.

    With ``offline`` the hub's local cache is looked at, not the hub. Raises :class:`MissingDataError` if there is
    nothing to be had and :class:`UsageError` naming file, item and field if the layout is another.
    """
    layout = LAYOUTS[name]
    path = Path(str(given)).expanduser() if given is not None else find(layout, data_dir)
    data, file = (_read(path, name), str(path)) if path else (hub_file(name, layout, offline), f"hub:{layout.hub[0]}")
    documents, items = layout.parse(data, file)
    if not items:
        raise UsageError(f"{file}: holds no answerable question; give {layout.origin}")
    return Questions(path.name if path else file, len(items) == layout.published, tuple(documents), tuple(items))


def hub_file(name: str, layout: Layout, offline: bool) -> Any:
    """The hub's rows in the published layout; :class:`MissingDataError` if they are not to be had."""
    import datasets

    try:
        with hub_access(offline):
            rows = datasets.load_dataset(*layout.hub, split="validation")
    except Exception as error:  # no network, no cache, hub trouble: all mean that the questions are not to be had
        raise MissingDataError(
            f"ruler: {name}: no {layout.patterns[0]} under --data-dir DIR (DIR/{layout.folder}/), and {layout.hub[0]} "
            f"cannot be read ({first_line(error)}); download {layout.origin} and give it there or with "
            f"--set ruler.{name}=FILE, or connect once"
        ) from error
    return layout.from_hub(list(rows))


def _squad_articles(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The nested layout of the published file: articles hold paragraphs, paragraphs hold questions."""
    articles: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for row in rows:
        answers = [{"text": text} for text in row["answers"]["text"]]
        question = {"question": row["question"], "answers": answers, "is_impossible": not answers}
        articles.setdefault(row["title"], {}).setdefault(row["context"], []).append(question)
    return {
        "data": [
            {"paragraphs": [{"context": context, "qas": questions} for context, questions in paragraphs.items()]}
            for paragraphs in articles.values()
        ]
    }


def find(layout: Layout, data_dir: Path | None) -> Path | None:
    """The file under ``data_dir`` that a run would take."""
    folders = [data_dir / layout.folder, data_dir] if data_dir else []
    files = (sorted(folder.glob(pattern)) for folder in folders for pattern in layout.patterns)
    return next((file for group in files for file in group if file.is_file()), None)


def _read(path: Path, name: str) -> Any:
    try:
        data = path.read_bytes()
        text = (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).decode("utf-8-sig")
    except OSError as error:
        reason = error.strerror or error
        raise UsageError(f"{path}: cannot be read ({reason}); give a {name} file, --set ruler.{name}=FILE") from error
    except (EOFError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: damaged or no text ({type(error).__name__}); download it again") from error
    try:
        if ".jsonl" in path.suffixes:
            return [json.loads(line) for line in text.splitlines() if line.strip()]
        return json.loads(text)
    except ValueError as error:
        raise UsageError(f"{path}: not JSON ({error}); download it again") from error


class _Documents:
    """Distinct documents, numbered in the order of their texts, once all are known."""

    def __init__(self, texts: Iterator[str]) -> None:
        self.texts = sorted(set(texts))
        self.number = {text: number for number, text in enumerate(self.texts)}


def _squad(data: Any, file: str) -> tuple[list[str], list[Question]]:
    articles = [
        [
            (_field(paragraph, "context", str, place), _field(paragraph, "qas", list, place), place)
            for place, paragraph in _each(_field(article, "paragraphs", list, above), f"{above}, paragraph")
        ]
        for above, article in _each(_field(data, "data", list, file), f"{file}, article")
    ]
    documents = _Documents(context for article in articles for context, _, _ in article)
    items = []
    for article in articles:
        numbers = list(dict.fromkeys(documents.number[context] for context, _, _ in article))
        for context, questions, above in article:
            own = documents.number[context]
            for place, entry in _each(questions, f"{above}, question"):
                if _field(entry, "is_impossible", bool, place):
                    continue
                texts = _field(entry, "answers", list, place)
                answers = tuple(_field(answer, "text", str, at) for at, answer in _each(texts, f"{place}, answer"))
                items.append(_question(entry, answers, (own,), tuple(n for n in numbers if n != own), place))
    return documents.texts, items


def _hotpot(data: Any, file: str) -> tuple[list[str], list[Question]]:
    if not isinstance(data, list):
        raise UsageError(f"{file}: not a list of questions but {type(data).__name__}; give {HOTPOT_SITE}")
    rows = [(entry, _hotpot_documents(entry, place), place) for place, entry in _each(data, f"{file}, item")]
    documents = _Documents(text for _, texts, _ in rows for text in texts)
    items = []
    for entry, texts, place in rows:
        own = tuple(dict.fromkeys(documents.number[text] for text in texts))
        items.append(_question(entry, (_field(entry, "answer", str, place),), own, (), place))
    return documents.texts, items


def _hotpot_documents(entry: Any, place: str) -> list[str]:
    context = _field(entry, "context", (list, dict), place)
    if isinstance(context, dict):
        titles = _field(context, "title", list, f"{place}, context")
        pairs = list(zip(titles, _field(context, "sentences", list, f"{place}, context"), strict=False))
    else:
        pairs = context
    texts = []
    for pair in pairs:
        match pair:
            case (str(title), list(sentences)) if all(isinstance(each, str) for each in sentences):
                texts.append(f"{title}\n{''.join(sentences)}")
            case _:
                raise _wrong(place, "context", "pairs of a title and its sentences")
    if not texts:
        raise _wrong(place, "context", "at least one document")
    return texts


def _question(
    entry: Any, answers: tuple[str, ...], own: tuple[int, ...], related: tuple[int, ...], place: str
) -> Question:
    if not all(answers) or not answers:
        raise _wrong(place, "answers", "at least one answer, none of them empty")
    return Question(_field(entry, "question", str, place), answers, own, related)


def _each(entries: list[Any], name: str) -> Iterator[tuple[str, Any]]:
    return ((f"{name} {number}", entry) for number, entry in enumerate(entries, 1))


def _field(entry: Any, key: str, kind: type | tuple[type, ...], place: str) -> Any:
    value = entry.get(key) if isinstance(entry, Mapping) else None
    if not isinstance(value, kind):
        kinds = kind if isinstance(kind, tuple) else (kind,)
        raise _wrong(place, key, " or ".join(each.__name__ for each in kinds))
    return value


def _wrong(place: str, key: str, expected: str) -> UsageError:
    return UsageError(f"{place}, field {key}: missing or not of the published layout (expected {expected})")


LAYOUTS = {
    "squad": Layout(
        "squad",
        ("dev-v2.0.json", "dev-v2.0*.json*"),
        _squad,
        5928,
        SQUAD_SITE,
        ("rajpurkar/squad_v2", None),
        _squad_articles,
    ),
    "hotpotqa": Layout(
        "hotpotqa",
        ("hotpot_dev_distractor_v1.json", "hotpot_dev_distractor_v1.json*", "hotpot*distractor*.json*"),
        _hotpot,
        7405,
        HOTPOT_SITE,
        ("hotpotqa/hotpot_qa", "distractor"),
        list,
    ),
}
