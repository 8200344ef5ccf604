"""Questions with documents: SQuAD 2.0 and HotpotQA as their authors publish them, and HotpotQA in columns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from lr2eval.base import ids
from lr2eval.base.files import expanded
from lr2eval.benchmark import DataNeed, Scalar
from lr2eval.errors import UsageError
from lr2eval.tasks.shared import jsonl
from lr2eval.tasks.shared.hub import hub_rows
from lr2eval.tasks.shared.rows import json_bytes, one_file


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
        return {
            "questions": self.name,
            "questions_sha256": self.sha256,
            "questions_available": len(self.items),
            "comparable": self.comparable,
            **({} if self.comparable else {"stand_in": True}),
        }


@dataclass(frozen=True, kw_only=True)
class QuestionSet(DataNeed):
    """How one data set is found and read. ``published`` counts the questions of the whole file."""

    read_by: tuple[str, ...] = ("ruler",)
    licence: str = "CC BY-SA 4.0"
    patterns: tuple[str, ...]
    """Other names of the file."""
    parse: Callable[[Any, str], tuple[list[str], list[Question]]]
    published: int
    site: str
    config: str | None
    """Configuration on the hub. Its validation split has the rows of the published file."""
    from_hub: Callable[[list[dict[str, Any]]], Any]
    """From rows of the hub to the published layout."""

    @property
    def _download(self) -> str:
        return f"download {Path(self.file).name} from {self.site}"

    def find(self, data_dir: Path | None) -> Path | None:
        folders = [(data_dir / self.file).parent, data_dir] if data_dir else []
        names = (Path(self.file).name, *self.patterns)
        files = (sorted(folder.glob(name)) for folder in folders for name in names)
        return next((file for group in files for file in group if file.is_file()), None)

    def local(self, data_dir: Path) -> list[tuple[str, Path]]:
        return one_file(self.find(data_dir), self.file)

    def fetch(self, offline: bool) -> list[tuple[str, bytes]]:
        return [(self.file, json_bytes(self._hub_file(offline)))]

    def check(self, data_dir: Path) -> None:
        load(self.name, None, data_dir)

    def _hub_file(self, offline: bool, searched: Path | None = None) -> Any:
        return self.from_hub(hub_rows(self, self.config, "validation", offline, searched, self._download))

    def load(self, given: object, data_dir: Path | None, offline: bool) -> Questions:
        """See :func:`load`."""
        path = expanded(str(given)) if given is not None else self.find(data_dir)
        data, file = (_read(path), str(path)) if path else (self._hub_file(offline, data_dir), f"hub:{self.hub}")
        documents, items = self.parse(data, file)
        if not items:
            raise UsageError(f"{file}: has no question with an answer; {self._download}")
        comparable = len(items) == self.published
        return Questions(path.name if path else file, comparable, tuple(documents), tuple(items))


def load(name: str, given: object, data_dir: Path | None, offline: bool = True) -> Questions:
    """Questions of ``squad`` or ``hotpotqa``: the file ``given``, or the one in ``data_dir``, or else the hub's.

    With ``offline`` only the hub's local cache is read. Raises :class:`MissingDataError` if there is none of them and
    :class:`UsageError` naming file, item and field for another layout.
    """
    return SETS[name].load(given, data_dir, offline)


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


def _read(path: Path) -> Any:
    return [row for _, row in jsonl.read(path)] if ".jsonl" in path.suffixes else jsonl.read_value(path)


class _Documents:
    """Distinct documents, numbered in the order of their texts."""

    def __init__(self, texts: Iterator[str]) -> None:
        self.texts = sorted(set(texts))
        self.number = {text: number for number, text in enumerate(self.texts)}


def _squad(data: Any, file: str) -> tuple[list[str], list[Question]]:
    articles = [
        [
            (_field(paragraph, "context", place, str), _field(paragraph, "qas", place, list), place)
            for place, paragraph in _each(_field(article, "paragraphs", above, list), f"{above}, paragraph")
        ]
        for above, article in _each(_field(data, "data", file, list), f"{file}, article")
    ]
    documents = _Documents(context for article in articles for context, _, _ in article)
    items = []
    for article in articles:
        numbers = list(dict.fromkeys(documents.number[context] for context, _, _ in article))
        for context, questions, above in article:
            own = documents.number[context]
            for place, entry in _each(questions, f"{above}, question"):
                if _field(entry, "is_impossible", place, bool):
                    continue
                texts = _field(entry, "answers", place, list)
                answers = tuple(_field(answer, "text", at, str) for at, answer in _each(texts, f"{place}, answer"))
                items.append(_question(entry, answers, (own,), tuple(n for n in numbers if n != own), place))
    return documents.texts, items


def _hotpot(data: Any, file: str) -> tuple[list[str], list[Question]]:
    if not isinstance(data, list):
        raise UsageError(f"{file}: not a list of questions; give a file in the layout of https://hotpotqa.github.io")
    rows = [(entry, _hotpot_documents(entry, place), place) for place, entry in _each(data, f"{file}, item")]
    documents = _Documents(text for _, texts, _ in rows for text in texts)
    items = []
    for entry, texts, place in rows:
        own = tuple(dict.fromkeys(documents.number[text] for text in texts))
        items.append(_question(entry, (_field(entry, "answer", place, str),), own, (), place))
    return documents.texts, items


def _hotpot_documents(entry: Any, place: str) -> list[str]:
    context = _field(entry, "context", place, list, dict)
    if isinstance(context, dict):
        columns = [_field(context, key, f"{place}, context", list) for key in ("title", "sentences")]
        context = list(zip(*columns, strict=False))
    texts = []
    for pair in context:
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
    return Question(_field(entry, "question", place, str), answers, own, related)


def _each(entries: list[Any], name: str) -> Iterator[tuple[str, Any]]:
    return ((f"{name} {number}", entry) for number, entry in enumerate(entries, 1))


def _field(entry: Any, key: str, place: str, *kinds: type) -> Any:
    value = entry.get(key) if isinstance(entry, Mapping) else None
    if not isinstance(value, kinds):
        raise _wrong(place, key, " or ".join(each.__name__ for each in kinds))
    return value


def _wrong(place: str, key: str, expected: str) -> UsageError:
    return UsageError(f"{place}, field {key}: is missing or not in the published layout (expected {expected})")


SETS = {
    "squad": QuestionSet(
        name="squad",
        tasks="ruler:qa_1",
        file="squad/dev-v2.0.json",
        patterns=("dev-v2.0*.json*",),
        parse=_squad,
        published=5928,
        site="https://rajpurkar.github.io/SQuAD-explorer",
        hub="rajpurkar/squad_v2",
        config=None,
        from_hub=_squad_articles,
        instead="--set ruler.squad=FILE",
    ),
    "hotpotqa": QuestionSet(
        name="hotpotqa",
        tasks="ruler:qa_2",
        file="hotpotqa/hotpot_dev_distractor_v1.json",
        patterns=("hotpot_dev_distractor_v1.json*", "hotpot*distractor*.json*"),
        parse=_hotpot,
        published=7405,
        site="https://hotpotqa.github.io",
        hub="hotpotqa/hotpot_qa",
        config="distractor",
        from_hub=list,
        instead="--set ruler.hotpotqa=FILE",
    ),
}
