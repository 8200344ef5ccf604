"""The plan of a run, printed before the model is loaded: tokens, prompts beyond the window, memory and time."""

from __future__ import annotations

import random
import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lr2eval.backends.prefix.families import families
from lr2eval.base.files import cache_dir
from lr2eval.base.units import parse_bytes
from lr2eval.errors import TaskError, UsageError
from lr2eval.estimate.cost import Asked, Batch, Speed, kv_bytes, seconds

if TYPE_CHECKING:
    from lr2eval.benchmark import Shard
    from lr2eval.model.shape import Shape
    from lr2eval.model.tokenizer import PromptTokenizer
    from lr2eval.runs.prepare import Prepared


MANY = 15
"""Tasks of one benchmark and length beyond which they share a line."""


@dataclass(frozen=True)
class Planned:
    """A line of the plan. Bytes of keys and values are 0 where none are kept (scored choices)."""

    name: str
    length: int | None
    samples: int
    tokens: int
    new: int
    over: int
    exact: bool
    kv_sample: int
    kv_batch: int
    seconds: float | None


@dataclass(frozen=True)
class Plan:
    """What runs will take. ``lines`` by the run's part (``original``, ``extended``, or ``""``)."""

    lines: Mapping[str, Sequence[Planned]]
    seconds: float | None
    """For the model on this machine, if every answer takes all its tokens; ``None`` without an estimate."""
    calibration: float
    """Seconds that measuring took."""
    reasons: tuple[str, ...]
    """Why there is no estimate."""


class Estimator:
    """Tokens, memory and time of prepared runs; each model is measured once."""

    def __init__(self) -> None:
        self._speeds: dict[Any, Speed] = {}
        self.spent = 0.0
        """Seconds that measuring took."""

    def plan(self, run: Prepared) -> tuple[list[Planned], str]:
        """(a line for each task and length, why there is no time, "" where there is)."""

        work = asked(run)
        batches, shape, config = _batched(run, work)
        speed, why = self._speed(run, config, batches) if shape else (None, "a model of unknown sizes")
        item = _item(run)
        lines = []
        for one, split in zip(work, batches, strict=True):
            kv = kv_bytes(shape, item) if shape and one.new else 0
            took = seconds(split, shape, speed, run.checkpoint.original_window) if shape and speed else None
            lines.append(
                Planned(
                    name=f"{one.benchmark}:{one.task}",
                    length=one.length,
                    samples=one.samples,
                    tokens=one.tokens,
                    new=one.new * len(one.prompts),
                    over=one.over,
                    exact=one.exact,
                    kv_sample=kv * one.longest,
                    kv_batch=kv * max((b.rows * (b.width + b.new) for b in split), default=0),
                    seconds=took,
                )
            )
        return lines, why

    def _speed(self, run: Prepared, config: Any, batches: Sequence[Sequence[Batch]]) -> tuple[Speed | None, str]:
        from lr2eval.estimate.cost import calibrate
        from lr2eval.model.shape import config_shape

        if run.config.backend != "hf":
            return None, f"--backend {run.config.backend} is not measured"
        settings = run.settings["config"]
        every = [batch for split in batches for batch in split]
        longest = max((batch.width for batch in every), default=64)
        rows = max((batch.rows for batch in every if batch.new), default=1)
        key = config_shape(config), settings["dtype"], settings["device"], longest, rows
        if key not in self._speeds:
            started = time.perf_counter()
            try:
                self._speeds[key] = calibrate(config, settings["dtype"], settings["device"], longest=longest, rows=rows)
            except Exception as error:  # whatever a foreign model does with its own configuration: the run may still go
                reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
                return None, f"the calibration failed: {reason[:120]}"
            self.spent += time.perf_counter() - started
        return self._speeds[key], ""


def _item(run: Prepared) -> int:
    return 4 if run.settings["config"]["dtype"] == "float32" else 2


def _batched(run: Prepared, work: Sequence[Asked]) -> tuple[list[list[Batch]], Shape | None, Any]:
    """(batches of every piece of work, sizes of the model if they are stated, its configuration), as the backend
    plans them: longest first, within rows, tokens and memory."""
    import torch
    from transformers import AutoConfig

    from lr2eval.backends.batching import BatchLimits, Footprint, free_memory, pack
    from lr2eval.model.shape import config_shape

    device = _device(run.settings["config"]["device"])
    try:
        config = AutoConfig.from_pretrained(
            run.checkpoint.folder, local_files_only=True, trust_remote_code=run.config.trust_remote_code
        )
        shape = config_shape(config)
    except (UsageError, OSError, ValueError):  # loading will say what is wrong with it, if anything is
        return [[] for _ in work], None, None
    footprint = Footprint.of(config.get_text_config(), _item(run))
    stated = run.config.memory_limit
    weights = run.checkpoint.parameters * _item(run)
    memory = parse_bytes(stated) if stated else free_memory(torch.device(device), weights)
    limits = BatchLimits.of(run.config.batch_size, torch.device(device).type, memory)
    original = run.checkpoint.original_window if run.checkpoint.rope_type == "longrope" else None

    def split(one: Asked) -> list[Batch]:
        lengths, new = one.prompts, one.new

        def fits(batch: list[int]) -> bool:
            width = lengths[batch[0]]  # longest first
            padded = bool(new) and lengths[batch[-1]] < width
            cost = footprint.generating(len(batch), width, new, padded=padded, chunk=None) if new else (
                footprint.scoring(len(batch), width, len(batch), chunk=None))  # fmt: skip
            if new and len(batch) > 1:
                cost += width * footprint.kv  # the row that the others are read on from
            return limits.allow(len(batch), len(batch) * (width + new), cost)

        sides = [original is not None and bool(new) and length > original for length in lengths]
        if one.taken:
            return [*(Batch(1, width, 0) for width in one.beginnings), *shared(one)]
        made = pack(lengths, sides, fits)
        return [
            Batch(len(b), lengths[b[0]], new, padded=bool(new) and lengths[b[-1]] < lengths[b[0]]) for b in made if b
        ]

    def shared(one: Asked) -> list[Batch]:
        """Scored choices of which only the rest is read; those that take equally much together, as a family does."""
        found = []
        for start in sorted(set(one.taken)):
            rest = [length - taken for length, taken in zip(one.prompts, one.taken, strict=True) if taken == start]

            def fits(batch: list[int], start: int = start, rest: list[int] = rest) -> bool:
                rows, width = len(batch), rest[batch[0]]
                cost = footprint.sharing(1, start, rows, width, rows, chunk=None) if start else (
                    footprint.scoring(rows, width, rows, chunk=None))  # fmt: skip
                return limits.allow(rows, start + rows * width, cost)

            found += [Batch(len(b), rest[b[0]], 0, start=start) for b in pack(rest, [False] * len(rest), fits) if b]
        return found

    return [split(one) for one in work], shape, config


def _device(name: str) -> str:
    import torch

    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0][:100]
        raise UsageError(f"--device {name}: not usable here ({reason}); `lr2eval doctor` shows what is") from error
    return name


def make_plan(runs: Mapping[str, Prepared]) -> Plan:
    """The plan of every run that is prepared; each model is measured once."""
    estimator = Estimator()
    lines, reasons = {}, []
    for part, run in runs.items():
        lines[part], why = estimator.plan(run)
        reasons += [why] if why else []
    times = [line.seconds for made in lines.values() for line in made]
    total = None if None in times else sum(t for t in times if t is not None)
    return Plan(lines, total, estimator.spent, tuple(dict.fromkeys(reasons)))


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
    from lr2eval.tasks.shared.lm_eval import quiet_lm_eval

    try:
        with quiet_lm_eval():
            task.build_all_requests(
                samples=list(documents),
                apply_chat_template=chat,
                fewshot_as_multiturn=chat,
                chat_template=_template(tokenizer) if chat else None,
            )
    except AssertionError as error:  # lm-eval's way of saying that there are too few examples
        raise TaskError(f"{task.config.task}: its prompts cannot be built ({error}); fix its data") from error
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
