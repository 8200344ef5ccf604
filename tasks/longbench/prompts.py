"""LongBench's prompts and generation limits, read at run time from lm-eval's YAML files without importing its metrics.

lm-eval's port lost white space in six prompts. :data:`FIXES` restores it, so that all prompts are byte for byte those
of upstream's ``dataset2prompt.json``, which a test checks.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from lr2eval.errors import TaskError
from lr2eval.tasks.shared.upstream import lm_eval_folder, parsed_yaml

_CONTEXT, _QUESTION = "{{context}}", "{{question}}"
FIXES = {
    "triviaqa": (f"{_CONTEXT}\n{_QUESTION}", f"{_CONTEXT}\n\n{_QUESTION}"),
    "samsum": (f"{_CONTEXT}\n{_QUESTION}", f"{_CONTEXT}\n\n{_QUESTION}"),
    "passage_count": ("answer is:", "answer is: "),
    "passage_retrieval_en": ("answer is:", "answer is: "),
    "lcc": ("line of code:", "line of code:\n"),
    "repobench-p": ("line of code:", "line of code:\n"),
}
"""Data set -> (how lm-eval's prompt ends, how upstream's does)."""


@dataclass(frozen=True)
class Prompt:
    """A prompt in pieces, its limit of new tokens, and the hub data set that lm-eval reads."""

    pieces: tuple[str, ...]
    max_new_tokens: int
    hub: str

    def fill(self, context: str, question: str) -> str:
        """The prompt of a sample. What a context holds is text, whatever it looks like."""
        values = {_CONTEXT: context, _QUESTION: question}
        return "".join(values.get(piece, piece) for piece in self.pieces)


@cache
def prompt(dataset: str) -> Prompt:
    """Prompt of a data set of LongBench v1 (LongBench-E has the same). :class:`TaskError` if lm-eval changed."""
    file = f"tasks/longbench/{dataset}.yaml"
    try:
        definition = read_yaml(file)
        text, hub = str(definition["doc_to_text"]), str(definition["dataset_path"])
        limit = int(definition["generation_kwargs"]["max_gen_toks"])
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise changed(file) from error
    if dataset in FIXES:
        theirs, upstream = FIXES[dataset]
        if text.endswith(theirs):
            text = text.removesuffix(theirs) + upstream
        elif not text.endswith(upstream):
            raise changed(file)
    pieces = tuple(piece for piece in re.split(r"(\{\{.*?\}\})", text) if piece)
    if pieces.count(_CONTEXT) != 1 or any("{{" in p for p in pieces if p not in (_CONTEXT, _QUESTION)):
        raise changed(file)
    return Prompt(pieces, limit, hub)


def read_yaml(file: str) -> Mapping[str, Any]:
    """A YAML file of lm-eval. :class:`OSError` or :class:`ValueError` if it is none."""
    import yaml  # type: ignore[import-untyped]

    try:
        found: Mapping[str, Any] = parsed_yaml((lm_eval_folder() / file).read_bytes())
    except yaml.YAMLError as error:
        raise ValueError(f"{file}: not valid YAML") from error
    return found


def changed(file: str) -> TaskError:
    """The error for a file of lm-eval that holds another prompt."""
    return TaskError(f"lm_eval/{file}: not the prompt that lr2eval knows; install lm-eval>=0.4.13,<0.5")
