"""Questions over documents: those that hold the answer stand among others, as many as fit.

After ``scripts/data/synthetic/qa.py`` of NVIDIA/RULER. Sample number i asks question number i. Its own documents are
always there; others join them in the order of the rule: first those that the data set relates to them (SQuAD: the
other paragraphs of the article), then any, and after the last one all of them again. All are shuffled and numbered.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from lr2eval.tasks.exact.draft import Draft
from lr2eval.tasks.exact.stream import ShuffledStream
from lr2eval.tasks.ruler.questions import Question, Questions
from lr2eval.tasks.shared import upstream


@dataclass(frozen=True)
class QaRecipe:
    """Asks ``questions`` in their order; which one a draw asks is fixed by :meth:`at`."""

    questions: Questions
    number: int = 0

    def at(self, index: int) -> QaRecipe:
        """The recipe of sample number ``index``."""
        return QaRecipe(self.questions, index)

    def draw(self, rng: Random) -> QaDraw:
        """The order in which documents join, and where each will stand."""
        return QaDraw(self.questions.items[self.number], self.questions.documents, rng)


class QaDraw:
    """One sample; a unit is one document. The smallest has the question's own documents only."""

    largest = None

    def __init__(self, question: Question, documents: Sequence[str], rng: Random) -> None:
        self._question = question
        self._documents = documents
        self._rng = Random(rng.getrandbits(64))
        self._order = [*question.own, *rng.sample(question.related, len(question.related))]
        self._taken = frozenset(self._order)
        self._shuffled: dict[int, int] = {}
        self._drawn = 0
        self._stream = ShuffledStream(rng.getrandbits(64))
        self.smallest = len(question.own)

    def units(self, start: int, stop: int) -> Sequence[Sequence[str]]:
        """Number and text of each document."""
        self._grow(stop)
        return [(f"\n\n{_numbered(at + 1, '')}", self._documents[self._order[at]]) for at in range(start, stop)]

    def render(self, size: int) -> Draft:
        """The sample with ``size`` documents."""
        self._grow(size)
        texts = upstream.task_texts("qa")
        documents = self._stream.first(size)
        context = "\n\n".join(_numbered(number, text) for number, text in enumerate(documents, 1))
        own = [self._documents[each] for each in self._question.own]
        return Draft(
            prompt=texts.template.format(context=context, query=self._question.text),
            answer_prefix=texts.answer_prefix,
            answers=self._question.answers,
            depth=documents.index(own[0]) / size if len(own) == 1 else None,
            marks=tuple(own) if len(own) == 1 else (),
        )

    def _grow(self, size: int) -> None:
        while len(self._order) < size:
            document = self._next()
            if self._drawn > len(self._documents) or document not in self._taken:
                self._order.append(document)
        self._stream.add(self._documents[number] for number in self._order[len(self._stream) : size])

    def _next(self) -> int:
        """One step of a shuffle (Fisher and Yates) of all documents; after the last it begins again."""
        count = len(self._documents)
        at = self._drawn % count
        if at == 0:
            self._shuffled.clear()
        other = self._rng.randrange(at, count)
        found = self._shuffled.get(other, other)
        self._shuffled[other] = self._shuffled.get(at, at)
        self._drawn += 1
        return found


def _numbered(number: int, text: str) -> str:
    return upstream.document_prompt().format(i=number, document=text)
