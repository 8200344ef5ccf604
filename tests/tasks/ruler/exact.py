"""Whether one sample is what D4 promises, judged by the tokenizer itself; the product's counting is left out.

Used by the tests and by ``benchmarks/ruler_exactness.py``, which does it for every task, length and tokenizer.
"""

from __future__ import annotations

from dataclasses import dataclass

from lr2eval.model.tokenizer import PromptTokenizer
from lr2eval.tasks import haystacks
from lr2eval.tasks.exact.draft import Draft, Draw
from lr2eval.tasks.ruler import generate
from lr2eval.tasks.ruler.outside import OUTSIDE
from lr2eval.tasks.ruler.questions import Question, Questions
from lr2eval.tasks.ruler.suite import TASKS, RulerTask


@dataclass(frozen=True)
class Exact:
    """Tokens of a sample with its generation budget, and what one more unit would add."""

    tokens: int
    unit: int
    length: int

    @property
    def fill(self) -> float:
        return self.tokens / self.length


def check(task: RulerTask, length: int, index: int, tokenizer: PromptTokenizer) -> Exact:
    """Make sample ``index`` and assert: its count is right, it fits, one more unit does not, and 98 % are full.

    The last wherever a unit is at most 2 % of the length. Raises :class:`TooSmallError` below the task's minimum.
    """
    made = generate.ruler_maker(task, length, 0, tokenizer)
    row = made.sample(index, tokenizer)
    new = row["max_new_tokens"]
    draw = generate._draw(task.name, made.recipe, length, index, 0)
    size = size_of(draw, row["prompt"])
    tokens = counted(draw.render(size), tokenizer) + new
    assert row["token_count"] == tokens <= length
    more = counted(draw.render(size + 1), tokenizer) + new
    assert more > length, f"one more unit makes {more} tokens"
    found = Exact(tokens, more - tokens, length)
    if found.unit <= 0.02 * length:
        assert found.fill >= 0.98
    return found


def all_tasks() -> dict[str, RulerTask]:
    """The 13 tasks, those over outside text with Python's documentation and made-up questions."""
    essays = haystacks.load("python-docs", None, True)
    return TASKS | {n: task.over(essays if task.source == "essays" else corpus()) for n, task in OUTSIDE.items()}


def corpus(documents: int = 300) -> Questions:
    """Thirty questions; document n is about n. Question n needs document n, and is related to the next three."""
    texts = tuple(f"About {n}. The answer to it is value{n}, as {'so ' * (n % 7)}said." for n in range(documents))
    items = tuple(Question(f"What is {n}?", (f"value{n}", "x"), (n,), (n + 1, n + 2, n + 3)) for n in range(30))
    return Questions("corpus", False, texts, items)


def size_of(draw: Draw, prompt: str) -> int:
    """Units of ``draw`` that make this prompt, found by the length of the text."""

    def reaches(size: int) -> bool:
        return len(draw.render(size).prompt) <= len(prompt)

    low, step = draw.smallest, 1
    while reaches(low + step):
        low, step = low + step, 2 * step
    high = low + step
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if reaches(middle) else (low, middle)
    assert draw.render(low).prompt == prompt
    return low


def counted(draft: Draft, tokenizer: PromptTokenizer) -> int:
    """Tokens of the prompt as a model sees it."""
    return len(tokenizer.encode_rendered(tokenizer.render(draft.prompt, draft.answer_prefix)))
