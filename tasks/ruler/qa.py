"""Questions over documents: those that hold the answer stand among others, as many as fit.

After ``scripts/data/synthetic/qa.py`` of NVIDIA/RULER. Sample number i asks question number i. Its own documents are
always there; others join them in the order of the rule: first those that the data set relates to them (SQuAD: the
other paragraphs of the article), then any, and after the last one all of them again. All are shuffled and numbered.
Upstream shuffles by one seed, and all samples have as many documents as the first one. So the first of the question's
own documents always stands at the same place: 19th of 20, 27th of 60. Here it may stand anywhere, unless
``fixed_order`` is asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from lr2eval.tasks.exact.draft import Draft
from lr2eval.tasks.exact.stream import ShuffledStream, fixed_shuffle
from lr2eval.tasks.ruler.questions import Question, Questions
from lr2eval.tasks.shared import upstream

STEP = 10
"""Upstream leaves out this many documents at a time where a sample is too long."""


@dataclass(frozen=True)
class QaRecipe:
    """Asks ``questions`` in their order."""

    questions: Questions
    fixed_order: bool = False

    @property
    def step(self) -> int | None:
        """Documents by which all samples shrink from the size of the first; ``None``: each has a size of its own."""
        return STEP if self.fixed_order else None

    def draw(self, rng: Random, index: int = 0) -> QaDraw:
        """The order in which documents join, and where each will stand."""
        return QaDraw(self.questions.items[index], self.questions.documents, rng, self.fixed_order)


class QaDraw:
    """One sample; a unit is one document. The smallest has the question's own documents only."""

    largest = None

    def __init__(self, question: Question, documents: Sequence[str], rng: Random, fixed_order: bool = False) -> None:
        self._question = question
        self._documents = documents
        self._fixed_order = fixed_order
        self._rng = Random(rng.getrandbits(64))
        self._order = [*question.own, *rng.sample(question.related, len(question.related))]
        self._taken = frozenset(self._order)
        self._shuffled: dict[int, int] = {}
        self._drawn = 0
        self._stream = ShuffledStream(rng.getrandbits(64))
        self.smallest = len(question.own)

    def render(self, size: int) -> Draft:
        """The sample with ``size`` documents."""
        self._grow(size)
        texts = upstream.task_texts("qa")
        documents = self._as_upstream(size) if self._fixed_order else self._stream.first(size)
        context = "\n\n".join(_numbered(number, text) for number, text in enumerate(documents, 1))
        own = [self._documents[each] for each in self._question.own]
        return Draft(
            prompt=texts.template.format(context=context, query=self._question.text),
            answer_prefix=texts.answer_prefix,
            answers=self._question.answers,
            depth=documents.index(own[0]) / size if len(own) == 1 else None,
            marks=tuple(own) if len(own) == 1 else (),
        )

    def _as_upstream(self, size: int) -> list[str]:
        order, own, related = self._order[:size], self._question.own, self._question.related
        if size >= len(self._documents):
            order = [number % len(self._documents) for number in range(size)]
        elif size > len(own) + len(related):
            order = [*own, *related, *order[len(own) + len(related) :]]
        return fixed_shuffle([self._documents[number] for number in order])

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
