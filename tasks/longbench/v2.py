"""LongBench v2 as a benchmark plug-in: 503 four-choice questions over very long texts, answered in words.

As upstream does it, the model writes "The correct answer is (X)" and the letter is read from that; lm-eval's port
compares log-probabilities of the letters instead, which gives other scores.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import Literal

from lr2eval.base.settings import refuse_unknown
from lr2eval.benchmark import DataNeed, Shard, TaskContext, TaskInfo
from lr2eval.errors import UsageError
from lr2eval.record.results import ShardResult
from lr2eval.record.store import StoredSample
from lr2eval.tasks.longbench import layout
from lr2eval.tasks.longbench.prompts import Prompt, changed, read_yaml
from lr2eval.tasks.shared import jsonl, lm_eval
from lr2eval.tasks.shared.rows import RowFile
from lr2eval.tasks.shared.select import limited, one_or_all

VERSION = "1"
HUB = "THUDM/LongBench-v2"
LETTERS = "ABCD"
MAX_NEW_TOKENS = 128
FILE = "tasks/longbench2/_longbench_common_yaml"
ENDINGS = ("Answer:", 'Format your response as follows: "The correct answer is (insert answer here)".')
"""How lm-eval's prompt ends, which wants a letter, and how upstream's does (prompts/0shot.txt)."""
DOMAINS = {
    "single_document": "Single-Document QA",
    "multi_document": "Multi-Document QA",
    "in_context_learning": "Long In-context Learning",
    "dialogue_history": "Long-dialogue History Understanding",
    "code_repository": "Code Repository Understanding",
    "structured_data": "Long Structured Data Understanding",
}
LENGTHS = ("short", "medium", "long")


class LongBench2:
    """The benchmark object behind the task name ``longbench2``; its tasks are the six domains."""

    name = "longbench2"
    version = VERSION
    headline: Literal["tasks", "samples"] = "samples"
    groups = LENGTHS

    def tasks(self) -> Sequence[TaskInfo]:
        """The domains, in the paper's order."""
        needs = DATA.needs
        return [TaskInfo(name, self.name, f"{domain}, four choices", needs) for name, domain in DOMAINS.items()]

    def data_needs(self, tasks: Sequence[str]) -> Sequence[DataNeed]:
        """One data set for all domains."""
        return [DATA]

    def select(self, selector: str | None) -> Sequence[str]:
        """All domains, or the one named."""
        return one_or_all(self.name, selector, list(DOMAINS))

    def prepare(self, tasks: Sequence[str], context: TaskContext) -> Sequence[Shard]:
        """Read the questions and lay their prompts out for every window of ``context``; errors as for v1."""
        refuse_unknown(context.options, (), group=self.name)
        where, rows = DATA.read(context.data_dir, offline=context.offline)
        items = {task: [item for domain, item in rows if domain == task] for task in tasks}
        fingerprint = context.tokenizer.fingerprint()
        return [
            _shard(task, where, items[task][: limited(len(items[task]), context.limit)], window, context,
                   fingerprint)
            for task in tasks
            if items[task]
            for window in context.windows or context.lengths
        ]  # fmt: skip

    def rescore(self, shard: ShardResult, sample: StoredSample) -> float:
        """1 if the letter in the kept answer is right, else 0."""
        return float((letter(sample.answer),) == sample.gold)


LONGBENCH2 = LongBench2()


def letter(answer: str) -> str | None:
    """The letter that an answer names in upstream's words; asterisks (bold) do not matter.

    As upstream, a letter in brackets anywhere counts before a bare one.
    """
    patterns = (rf"The correct answer is {each}" for each in (r"\(([A-D])\)", "([A-D])"))
    found = (re.search(pattern, answer.replace("*", "")) for pattern in patterns)
    return next((match[1] for match in found if match), None)


@cache
def prompt() -> Prompt:
    """Upstream's prompt up to the question; what follows the text is each sample's own (:func:`question`)."""
    before, context, _ = _template().partition("{{context}}")
    return Prompt((before, context, "{{question}}"), MAX_NEW_TOKENS, HUB)


def question(row: jsonl.Row) -> str:
    """What follows the text in the prompt of a sample."""
    values = {
        "{{question.strip()}}": jsonl.text(row, "question").strip(),
        **{f"{{{{choices[{n}]}}}}": jsonl.text(row, f"choice_{each}").strip() for n, each in enumerate(LETTERS)},
    }
    pieces = re.split(r"(\{\{.*?\}\})", _template().partition("{{context}}")[2])
    return "".join(values.get(piece, piece) for piece in pieces)


@cache
def _template() -> str:
    try:
        text = str(read_yaml(FILE)["doc_to_text"])
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise changed(FILE) from error
    fields = ["{{context}}", "{{question.strip()}}", *(f"{{{{choices[{n}]}}}}" for n in range(4))]
    if re.findall(r"\{\{.*?\}\}", text) != fields or not text.endswith(ENDINGS[0]):
        raise changed(FILE)
    return text.removesuffix(ENDINGS[0]) + ENDINGS[1]


def _item(row: jsonl.Row) -> tuple[str, layout.Item]:
    domain, answer, length = (jsonl.text(row, name) for name in ("domain", "answer", "length"))
    task = next((name for name, each in DOMAINS.items() if each == domain), None)
    if task is None:
        raise UsageError(f"field domain: {domain!r} is not a domain of LongBench v2 ({', '.join(DOMAINS.values())})")
    if answer not in tuple(LETTERS):
        raise UsageError(f"field answer: {answer!r} is not A, B, C or D")
    if length not in LENGTHS:
        raise UsageError(f"field length: {length!r} is not {', '.join(LENGTHS[:-1])} or {LENGTHS[-1]}")
    extra = {"length": length, **{name: jsonl.text(row, name) for name in ("difficulty", "sub_domain")}}
    return task, layout.Item(jsonl.text(row, "context").strip(), question(row), (answer,), extra)


DATA = RowFile(
    name="longbench_v2",
    read_by=("longbench2",),
    tasks="longbench2",
    licence=f"see the card of {HUB}; its sources have terms of their own",
    hub=HUB,
    config=None,
    split="train",
    file="longbench_v2/data.json",
    pattern=r"[^.].*\.jsonl(\.gz)?|data\.json",
    parse=_item,
    ids=("_id",),
)


def _shard(
    task: str, where: str, items: Sequence[layout.Item], window: int, context: TaskContext, fingerprint: str
) -> Shard:
    data = layout.lay_out(f"longbench2/{task}", VERSION, items, prompt(), window, context, fingerprint, chat=True)
    return lm_eval.file_shard(
        data,
        context,
        benchmark=LongBench2.name,
        task=task,
        version=VERSION,
        metric="letter",
        score=lambda answer, row: float([letter(answer)] == row["answers"]),
        columns=lambda row: {
            "document": row["document"],
            "item": layout.item(row),
            "difficulty": row["difficulty"],
            "bucket": row["length"],
            "sub_domain": row["sub_domain"],
        },
        facts={"source": where},
    )
