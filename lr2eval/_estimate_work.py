"""How many tokens the shards of a run ask for, before a model is there: read from data files, or counted on samples."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Sequence
from itertools import cycle, islice
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lr2eval._errors import TaskError
from lr2eval._estimate import Asked
from lr2eval._paths import cache_dir
from lr2eval.backends._prefix import families

if TYPE_CHECKING:
    from lr2eval._prepare import Prepared
    from lr2eval._tokens import PromptTokenizer
    from lr2eval._types import Shard

SAMPLED, LEAST, MOST = 64, 2, 16
"""Prompts built of a benchmark that has no data files, and the least and most of one of its tasks."""
# Inside a JSON text every quote is escaped, so this matches the keys of a line alone, and spares parsing long prompts.
_COUNT, _LOST = re.compile(rb'"token_count": (\d+)'), re.compile(rb'"truncated_tokens": (\d+)')


def asked(run: Prepared) -> list[Asked]:
    """The work of every shard, in the run's order."""
    without = Counter(shard.benchmark for shard in run.shards if not _has_file(shard))
    return [
        _from_file(shard, run.config.truncation)
        if _has_file(shard)
        else _built(shard, run, max(LEAST, min(MOST, SAMPLED // without[shard.benchmark])))
        for shard in run.shards
    ]


def _has_file(shard: Shard) -> bool:
    return "file" in shard.data and shard.length is not None


def _asked(shard: Shard, prompts: Sequence[int], over: int, exact: bool, **shared: Sequence[int]) -> Asked:
    new = shard.max_new_tokens or 0
    return Asked(shard.benchmark, shard.task, shard.length, shard.n, prompts, new, over, exact, **shared)


def _from_file(shard: Shard, truncation: str) -> Asked:
    """Every prompt of a data file. Its rows count the tokens to generate or not; ``fill``, which always does, tells."""
    assert shard.length is not None
    counts, lost = [], 0
    with (cache_dir() / str(shard.data["file"])).open("rb") as file:
        for line in file:
            counts.append(int(_last(_COUNT, line)))
            lost += int(_last(_LOST, line)) > 0
    new = shard.max_new_tokens or 0
    added = round(float(shard.data["fill_mean"] or 0) * shard.length - sum(counts) / len(counts))
    prompts = [count + added - new for count in counts]
    over = [count for count in prompts if count + new > shard.length]
    if truncation == "skip":
        prompts = [count for count in prompts if count + new <= shard.length]
    return _asked(shard, prompts, lost or len(over), True)


def _last(pattern: re.Pattern[bytes], line: bytes) -> bytes:
    found = pattern.findall(line)
    return found[-1] if found else b"0"


def _built(shard: Shard, run: Prepared, most: int) -> Asked:
    """Prompts of some documents, evenly from the shortest to the longest, and how many of all are beyond the window."""
    random.seed(run.config.seed)  # as the runner does, for few-shot samplers that draw
    task = shard.load()
    task.set_fewshot_seed(run.config.seed)
    order = sorted(range(shard.n), key=lambda n: len(str(task.eval_docs[n])))
    most = min(most, shard.n)
    picked = [order[int((i + 0.5) * shard.n / most)] for i in range(most)]
    chat = run.config.chat and shard.chat
    found = _readings(task, picked, run.tokenizer, chat)
    new = shard.max_new_tokens or 0
    over = 0
    # From the longest down, until one fits with room to spare.
    for number in reversed(order):
        longest = max(len(each.ids) for each in _readings(task, [number], run.tokenizer, chat)) + new
        over += longest > run.checkpoint.window
        if longest < 0.9 * run.checkpoint.window:
            break

    def all_(numbers: Sequence[int]) -> list[int]:
        return list(islice(cycle(numbers), round(len(numbers) / most * shard.n)))

    taken, once, own = ([], [], []) if new else _shared(found, run)
    shared = {"taken": all_(taken), "beginnings": [*once, *all_(own)]}
    return _asked(shard, all_([len(each.ids) for each in found]), over, shard.n == most, **shared)


def _shared(found: Sequence[_Read], run: Prepared) -> tuple[list[int], list[int], list[int]]:
    """(tokens that each takes from a beginning, beginnings of several documents, and of one), as the backend shares
    them; nothing where it would not."""
    original = run.checkpoint.original_window if run.checkpoint.rope_type == "longrope" else None
    lengths = [len(each.ids) for each in found]
    sides = [original is not None and length > original for length in lengths]
    beginnings = [each.ids[: len(each.ids) - each.needed] for each in found]
    taken = [0] * len(found)
    once: list[int] = []
    own: list[int] = []
    for family in families(beginnings, lengths, sides):
        documents = {found[member].document for member in family.members}
        (once if len(documents) > 1 else own).append(family.prefix)
        for member in family.members:
            taken[member] = family.prefix
    return (taken, once, own) if any(taken) else ([], [], [])


class _Read(NamedTuple):
    """A sequence that the model reads for a document; its last ``needed`` places have logits."""

    ids: list[int]
    document: int
    needed: int


def _readings(task: Any, documents: Sequence[int], tokenizer: PromptTokenizer, chat: bool) -> list[_Read]:
    """Each sequence the model reads for these documents; choices that differ in their last token share one."""
    from lr2eval.tasks._lm_eval import quiet_lm_eval

    try:
        with quiet_lm_eval():
            task.build_all_requests(
                samples=list(documents),
                apply_chat_template=chat,
                fewshot_as_multiturn=chat,
                chat_template=_template(tokenizer) if chat else None,
            )
    except AssertionError as error:  # lm-eval's way of saying that there are too few examples
        raise TaskError(f"{task.config.task}: its prompts cannot be built ({error}); mend its data") from error
    found: dict[tuple[int, bytes], _Read] = {}
    for request in task.instances:
        text, rest = request.args[0], request.args[1]
        said = tokenizer.encode(rest) if isinstance(rest, str) else []
        ids = [*tokenizer.encode_rendered(text), *said[:-1]]
        read = _Read(ids, request.doc_id, max(len(said), 1))
        found.setdefault((request.doc_id, np.asarray(ids, dtype=np.int32).tobytes()), read)
    return list(found.values())


def _template(tokenizer: PromptTokenizer) -> Any:
    def rendered(history: list[dict[str, str]], add_generation_prompt: bool = True) -> Any:
        return tokenizer.tokenizer.apply_chat_template(
            history, tokenize=False, add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
        )  # fmt: skip

    return rendered
