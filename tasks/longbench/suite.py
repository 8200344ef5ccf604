"""The 21 data sets of LongBench v1: which metric scores each, and the rules that differ between them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DatasetRules:
    """``metric`` is a name of :data:`lr2eval.tasks.longbench.metrics.METRICS`.

    ``first_line``: only the first line of an answer counts. ``chat``: prompts may be wrapped in a chat template, which
    few-shot and code sets never are. ``extended``: whether LongBench-E has it too.
    """

    metric: str
    asks: str
    first_line: bool = False
    chat: bool = True
    extended: bool = False


DATA_SETS: dict[str, DatasetRules] = {
    "narrativeqa": DatasetRules("qa_f1", "questions about a story"),
    "qasper": DatasetRules("qa_f1", "questions about a scientific paper", extended=True),
    "multifieldqa_en": DatasetRules("qa_f1", "questions about one document", extended=True),
    "multifieldqa_zh": DatasetRules("qa_f1_zh", "questions about one document, Chinese"),
    "hotpotqa": DatasetRules("qa_f1", "questions over several passages", extended=True),
    "2wikimqa": DatasetRules("qa_f1", "questions over several passages", extended=True),
    "musique": DatasetRules("qa_f1", "questions over several passages"),
    "dureader": DatasetRules("rouge_zh", "questions over search results, Chinese"),
    "gov_report": DatasetRules("rouge", "summary of a government report", extended=True),
    "qmsum": DatasetRules("rouge", "question about a meeting, answered by a summary"),
    "multi_news": DatasetRules("rouge", "summary of several news articles", extended=True),
    "vcsum": DatasetRules("rouge_zh", "summary of a meeting, Chinese"),
    "trec": DatasetRules("classification", "classify questions, few-shot", first_line=True, chat=False, extended=True),
    "triviaqa": DatasetRules("qa_f1", "trivia questions, few-shot", first_line=True, chat=False, extended=True),
    "samsum": DatasetRules("rouge", "summary of a chat, few-shot", first_line=True, chat=False, extended=True),
    "lsht": DatasetRules("classification", "classify news, few-shot, Chinese", first_line=True, chat=False),
    "passage_count": DatasetRules("count", "how many paragraphs are different", extended=True),
    "passage_retrieval_en": DatasetRules("retrieval", "which paragraph a summary describes", extended=True),
    "passage_retrieval_zh": DatasetRules("retrieval_zh", "which paragraph a summary describes, Chinese"),
    "lcc": DatasetRules("code_similarity", "next line of code", chat=False, extended=True),
    "repobench-p": DatasetRules("code_similarity", "next line of code, from several files", chat=False, extended=True),
}
"""In the order of LongBench's paper."""

BUCKETS = {"0-4k": 4_000, "4-8k": 8_000, "8k+": None}
"""LongBench-E groups samples by their field ``length`` (words; characters in Chinese): name -> first value beyond."""


def bucket(length: int) -> str:
    """The LongBench-E group of a sample with this ``length``."""
    return next(name for name, end in BUCKETS.items() if end is None or length < end)
