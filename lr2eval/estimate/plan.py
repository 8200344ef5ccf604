"""The plan of a run, made before the model is loaded: tokens, batches, memory and time."""

from __future__ import annotations

import math
import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any

from lr2eval.backends.abilities import Abilities
from lr2eval.backends.batching import BatchLimits, Footprint, free_memory, plan_generation
from lr2eval.backends.prefix.cache import Kept
from lr2eval.backends.scorer import Scorer
from lr2eval.backends.scoring import readings
from lr2eval.base.files import cache_dir
from lr2eval.base.reading import opened
from lr2eval.base.units import parse_bytes
from lr2eval.benchmark import Shard
from lr2eval.errors import TaskError, UsageError
from lr2eval.estimate.cost import Rates, batch_seconds, kv_bytes, measure_rates, operations
from lr2eval.model.shape import Shape, config_shape
from lr2eval.runs.backend import window_limit
from lr2eval.runs.prepare import Prepared


@dataclass(frozen=True)
class PlannedShard:
    """What one task at one length asks of the model. Batches, memory and time are ``None`` if they are not known."""

    name: str
    length: int | None
    samples: int
    tokens: int
    """Of all prompts; each choice of several tokens counts as a prompt."""
    new: int
    """Answer tokens, if every answer uses all that its task allows."""
    over: int
    """Prompts that are longer than the window."""
    exact: bool
    """Whether every prompt was counted; otherwise some stand for all."""
    batches: int | None
    cache: int | None
    """Bytes of keys and values of the largest batch; 0 for scored choices."""
    seconds: float | None


@dataclass(frozen=True)
class RunPlan:
    """What the runs of a command will take. ``lines`` by the part of the run: ``original``, ``extended``, or ``""``."""

    lines: Mapping[str, Sequence[PlannedShard]]
    rates: Rates | None
    """The measured speed of the device, which the times assume."""
    reason: str
    """Why there is no time; empty if there is one."""


def make_plan(runs: Mapping[str, Prepared]) -> RunPlan:
    """The plan of prepared runs. All of them run on one device, which is measured in about a second."""
    settings = next(iter(runs.values())).settings["config"]
    if settings["backend"] != "hf":  # other back ends plan their own batches
        return RunPlan(
            {part: plan_run(run, None) for part, run in runs.items()},
            None,
            f"--backend {settings['backend']} is not timed",
        )
    rates = measure_rates(settings["dtype"], settings["device"])
    lines = {part: plan_run(run, rates) for part, run in runs.items()}
    unknown = any(line.seconds is None for made in lines.values() for line in made)
    return RunPlan(lines, rates, "the model's configuration does not state its sizes" if unknown else "")


class _ModelLimits:
    """What the plan knows of the model, and the limits that its backend will keep."""

    def __init__(self, run: Prepared, rates: Rates) -> None:
        """Raises :class:`UsageError`, ``OSError`` or ``ValueError`` for a configuration without sizes."""
        import torch

        settings, checkpoint = run.settings["config"], run.checkpoint
        config = checkpoint.model_config(trust_remote_code=run.config.trust_remote_code).text
        self.shape: Shape = config_shape(config)
        self.item: int = getattr(torch, settings["dtype"]).itemsize
        self.rates = rates
        self.original = checkpoint.original_window if checkpoint.rope_type == "longrope" else None
        self.budget = run.config.window_policy == "budget"
        self.beams = run.config.generation.num_beams or 1
        self.footprint = Footprint.of(config, self.item)
        device, stated = torch.device(settings["device"]), run.config.memory_limit
        memory = parse_bytes(stated) if stated else free_memory(device, checkpoint.parameters * self.item)
        self.limits = BatchLimits.of(run.config.batch_size, device.type, memory, run.config.prefill_chunk)
        self.abilities, self.device = Abilities.of(config), device.type

    def side(self, tokens: int) -> str:
        return "long" if self.original is not None and tokens > self.original else "short"

    def generating(self, lengths: Sequence[int], new: int) -> dict[str, Any]:
        """Batches, memory and time of prompts of these lengths."""
        company = self.abilities.company
        groups = [(self.side(length + new * self.budget), company(length, length + new)) for length in lengths]
        prompts, by_row = [(length, new, self.beams) for length in lengths], self.abilities.by_row(self.device)
        plan = plan_generation(prompts, groups, self.footprint, self.limits, by_row=by_row)
        batches = [(len(batch), lengths[batch[0]]) for batch in plan if batch]
        most = max((rows * (width + new) for rows, width in batches), default=0)
        shape, item, window = self.shape, self.item, None if self.budget else self.original
        seconds = sum(batch_seconds(shape, item, self.rates, rows, width, new, window) for rows, width in batches)
        return {"batches": len(batches), "cache": kv_bytes(shape, item) * most, "seconds": seconds}

    def scoring(self, requests: Sequence[_Request], scale: float) -> dict[str, Any]:
        """Batches and time of scored choices, ``scale`` times as many as there are ``requests``.

        The backend reads a beginning that rows share once. What several documents share does not grow with ``scale``.
        """
        found = readings([(context, continuation) for _, context, continuation in requests])
        kept = Kept(None, None) if self.abilities.continues else None
        plan = Scorer(None, None, self.footprint, self.limits, kept, self.side, self.abilities, set()).plan(found)
        beginnings: dict[tuple[int, ...], set[int]] = {}
        tokens = squares = 0.0
        for family in (family for batch in plan for family in batch):
            for member in family.members:
                ids = found[member].ids
                tokens += scale * (len(ids) - family.prefix)
                squares += scale * (len(ids) ** 2 - family.prefix**2)
                if family.prefix:
                    documents = beginnings.setdefault(tuple(ids[: family.prefix]), set())
                    documents |= {requests[number][0] for number in found[member].members}
        for beginning, documents in beginnings.items():
            times = 1 if len(documents) > 1 else scale
            tokens, squares = tokens + times * len(beginning), squares + times * len(beginning) ** 2
        batches = len(plan)
        if scale > 1:
            most = self.limits.tokens or math.inf
            batches = math.ceil(max(batches, scale * len(found) / self.limits.rows, tokens / most))
        work = sum(operations(self.shape, tokens, squares, scale * len(found)))
        overhead = (batches + len(beginnings)) * self.shape.layers * self.rates.layer
        return {"batches": batches, "cache": 0, "seconds": work / self.rates.operations + overhead}


_UNKNOWN: dict[str, Any] = {"batches": None, "cache": None, "seconds": None}
_Request = tuple[int, list[int], list[int]]
"""(document, tokens of the context, tokens of the scored choice or nothing)."""

SAMPLED, LEAST, MOST = 64, 2, 16
"""Prompts built for a benchmark that has no data files, and the least and most for one of its tasks."""


def plan_run(run: Prepared, rates: Rates | None) -> list[PlannedShard]:
    """A line for each task and length, in the run's order."""
    model: _ModelLimits | None = None
    if rates:
        with suppress(UsageError, OSError, ValueError):  # loading the model will say what is wrong, if anything is
            model = _ModelLimits(run, rates)
    built = Counter(shard.benchmark for shard in run.shards if not _has_file(shard))
    return [
        _from_file(shard, run, model)
        if _has_file(shard)
        else _from_prompts(shard, run, model, max(LEAST, min(MOST, SAMPLED // built[shard.benchmark])))
        for shard in run.shards
    ]


def _has_file(shard: Shard) -> bool:
    return "file" in shard.data and shard.length is not None and shard.max_new_tokens is not None


def _line(shard: Shard, tokens: int, answers: int, over: int, exact: bool, rest: Mapping[str, Any]) -> PlannedShard:
    new = (shard.max_new_tokens or 0) * answers
    name = f"{shard.benchmark}:{shard.task}"
    return PlannedShard(name, shard.length, shard.n, tokens, new, over, exact, **rest)


# Inside a JSON text every quote is escaped, so these match only the keys of a line, without parsing long prompts.
_COUNT, _CUT = re.compile(rb'"token_count": (\d+)'), re.compile(rb'"truncated_tokens": (\d+)')


def _from_file(shard: Shard, run: Prepared, model: _ModelLimits | None) -> PlannedShard:
    """Every prompt of a data file. Some files count the answer's tokens too: ``fill``, which always does, tells."""
    length, new = shard.length or 0, shard.max_new_tokens or 0
    with opened(cache_dir() / str(shard.data["file"]), fix="run the same command again") as file:
        rows = [(_last(_COUNT, line), _last(_CUT, line)) for line in file]
    counts, cut = [count for count, _ in rows], sum(lost > 0 for _, lost in rows)
    added = round(float(shard.data["fill_mean"] or 0) * length - sum(counts) / len(counts))
    prompts = [count + added - new for count in counts]
    fitting = [count for count in prompts if count + new <= length]
    over = cut or len(prompts) - len(fitting)
    if run.config.truncation == "skip":
        prompts = fitting
    return _line(shard, sum(prompts), len(prompts), over, True, model.generating(prompts, new) if model else _UNKNOWN)


def _last(pattern: re.Pattern[bytes], line: bytes) -> int:
    return int((pattern.findall(line) or [b"0"])[-1])


def _from_prompts(shard: Shard, run: Prepared, model: _ModelLimits | None, most: int) -> PlannedShard:
    """Prompts of some documents, evenly from the shortest to the longest, and how many of all exceed the window."""
    random.seed(run.config.seed)  # as the runner does, for few-shot samplers that draw
    task = shard.load()
    task.set_fewshot_seed(run.config.seed)
    order = sorted(range(shard.n), key=lambda n: len(str(task.eval_docs[n])))
    most = min(most, shard.n)
    requests = _requests(shard, task, [order[int((i + 0.5) * shard.n / most)] for i in range(most)], run)
    scale, new, over = shard.n / most, shard.max_new_tokens or 0, 0
    limit = window_limit(run.checkpoint, run.config)
    # From the longest document down, until one fits with room to spare.
    for number in reversed(order):
        needed = max(len(context) + len(rest) for _, context, rest in _requests(shard, task, [number], run)) + new
        over += needed > limit
        if needed < 0.9 * limit:
            break
    lengths = [len(context) for _, context, _ in requests]
    if new:
        lengths = list(islice(cycle(lengths), shard.n))
        rest = model.generating(lengths, new) if model else _UNKNOWN
        return _line(shard, sum(lengths), shard.n, over, most == shard.n, rest)
    read = sum(len(reading.ids) for reading in readings([request[1:] for request in requests]))
    rest = model.scoring(requests, scale) if model else _UNKNOWN
    return _line(shard, round(scale * read), shard.n, over, most == shard.n, rest)


def _requests(shard: Shard, task: Any, documents: Sequence[int], run: Prepared) -> list[_Request]:
    """What the task asks about these documents."""
    from lr2eval.tasks.shared.lm_eval import quiet_lm_eval

    chat = run.config.chat and shard.chat
    tokenizer = run.tokenizer.with_chat(chat)
    try:
        with quiet_lm_eval():
            task.build_all_requests(
                samples=list(documents),
                apply_chat_template=chat,
                fewshot_as_multiturn=chat,
                chat_template=tokenizer.apply_chat_template if chat else None,
            )
    except AssertionError as error:  # lm-eval's way to say that there are too few examples
        raise TaskError(f"{task.config.task}: its prompts cannot be built ({error}); fix its data") from error
    found = []
    for request in task.instances:
        text, *rest = request.args
        scored = tokenizer.encode(rest[0]) if rest and isinstance(rest[0], str) else []
        found.append((request.doc_id, tokenizer.encode_rendered(text), scored))
    return found
