"""What evaluation, search and training of a model cost on given GPUs, without weights or data.

Everything not known from the model's sizes is an assumption that a flag overrides, and is printed as one.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lr2eval.base.console import suggestion
from lr2eval.base.units import format_length, parse_count, parse_lengths
from lr2eval.errors import CheckpointError, UsageError
from lr2eval.estimate.cost import Asked, Batch, Speed, kv_bytes, operations, read_weights, seconds
from lr2eval.runs.config import DEFAULT_SAMPLES, default_lengths

if TYPE_CHECKING:
    from lr2eval.model.shape import Shape


@dataclass(frozen=True)
class Gpu:
    """Peak of one GPU as its vendor's data sheet states it, dense."""

    tflops: float
    """bfloat16 (float16 on a V100) without sparsity."""
    bandwidth: float
    """GB/s of its memory."""
    memory: float
    """GB."""


GPUS = {
    "a100-40": Gpu(312, 1555, 40),
    "a100-80": Gpu(312, 2039, 80),
    "b200": Gpu(2250, 8000, 180),
    "h100": Gpu(989, 3350, 80),
    "h200": Gpu(989, 4800, 141),
    "l4": Gpu(121, 300, 24),
    "l40s": Gpu(362, 864, 48),
    "mi300x": Gpu(1307, 5300, 192),
    "rtx4090": Gpu(165, 1008, 24),
    "v100": Gpu(125, 900, 32),
}
"""Data sheets of NVIDIA (SXM versions where there are several) and AMD."""
PUBLISHED = (
    ("training LLaMA3-8B 8k to 128k on 10B tokens", 64 * 54.0, "64 A100, 54 h: LongRoPE2, arXiv 2502.20082"),
    ("training Phi3-mini 2k to 128k on 10B tokens", 64 * 39.0, "64 A100, 39 h: LongRoPE2, arXiv 2502.20082"),
    ("search of LongRoPE v1, up to 256k", 72.0, "at most 3 days on one A100: LongRoPE, arXiv 2402.13753"),
)
"""(what, GPU-hours, source): what others report, to hold an estimate against."""
TRAIN_UTILISATION = 0.3
"""Share of the peak at which the formula gives the published 54 hours of LLaMA3-8B on 64 A100 (55)."""
UTILISATION = 0.4
READ_SHARE = 0.5
MMLU_QUESTIONS = 14_042
MMLU_PROMPT = 720
LONGBENCH_WORDS = {
    "narrativeqa": 18_409, "qasper": 3_619, "multifieldqa_en": 4_559, "multifieldqa_zh": 6_701, "hotpotqa": 9_151,
    "2wikimqa": 4_887, "musique": 11_214, "dureader": 15_768, "gov_report": 8_734, "qmsum": 10_614,
    "multi_news": 2_113, "vcsum": 15_380, "trec": 5_177, "triviaqa": 8_209, "samsum": 6_258, "lsht": 22_337,
    "passage_count": 11_141, "passage_retrieval_en": 9_289, "passage_retrieval_zh": 6_745, "lcc": 1_235,
    "repobench-p": 4_206,
}  # fmt: skip
"""Mean words of a context (characters in Chinese), by LongBench's own table; a word counts as 1.4 tokens."""
LONGBENCH_SAMPLES = {"multifieldqa_en": 150, "lcc": 500, "repobench-p": 500}
"""Of the others 200."""


@dataclass(frozen=True)
class Cost:
    """A line of the estimate. ``hours`` are those of all GPUs together at work."""

    name: str
    tokens: float
    operations: float
    gpu_hours: float
    hours: float


@dataclass(frozen=True)
class Request:
    """What was asked, every assumption filled in."""

    model: str
    tasks: tuple[str, ...]
    lengths: tuple[int, ...]
    original_window: int
    target_length: int
    samples_per_task: int
    search: tuple[int, int, int]
    """Population, iterations, samples."""
    splits: int
    train_tokens: int
    short_share: float
    """Of the training tokens, in documents within the original window."""
    gpu: str
    gpus: int
    tflops: float
    bandwidth: float
    memory: float
    utilisation: float
    train_utilisation: float
    read_share: float
    """Share of the memory's bandwidth that decoding reaches."""

    @property
    def evaluations(self) -> int:
        """Of candidates: twice the population at first, then half of it in every iteration (as published)."""
        population, iterations, _ = self.search
        return 2 * population + iterations * (population // 2)


def evaluation(shape: Shape, asked: Request) -> list[Cost]:
    """A line for each benchmark and length."""
    group, speed, room = _device(shape, asked)
    lines: dict[str, list[Asked]] = {}
    for work in _works(asked):
        at = "" if work.length is None else f" at {format_length(work.length)}"
        lines.setdefault(f"{work.benchmark}{at}", []).append(work)
    costs = []
    for name, members in lines.items():
        took = tokens = total = 0.0
        for work in members:
            width = max(work.prompts)
            rows = max(1, min(64, int(room / (kv_bytes(shape, 2) * work.longest)))) if work.new else 1
            whole, rest = divmod(len(work.prompts), rows)
            batches = [Batch(rows, width, work.new)] * whole + [Batch(rest, width, work.new)] * bool(rest)
            window = asked.original_window if asked.target_length > asked.original_window else None
            took += seconds(batches, shape, speed, window)
            tokens += work.tokens + work.new * len(work.prompts)
            n = len(work.prompts)
            total += sum(operations(shape, n * (width + work.new), n * (width + work.new) ** 2, n * (1 + work.new)))
        hours = took * group / 3600
        costs.append(Cost(f"evaluation: {name}", tokens, total, hours, hours / asked.gpus))
    if len(costs) > 1:
        sums = (sum(getattr(cost, key) for cost in costs) for key in ("tokens", "operations", "gpu_hours", "hours"))
        costs.append(Cost("evaluation: all", *sums))
    return costs


def _device(shape: Shape, asked: Request) -> tuple[int, Speed, float]:
    """(GPUs that hold the model together, their speed as one, bytes that are left for keys and values)."""
    from lr2eval.model.shape import parameters

    held = 2 * parameters(shape)
    group = -(-held // int(0.8e9 * asked.memory))
    matrix = group * asked.tflops * 1e12 * asked.utilisation
    read = group * asked.bandwidth * 1e9 * asked.read_share
    weights = read_weights(shape)
    speed = Speed(matrix, matrix, 2 * weights / read, 2 * weights / matrix, kv_bytes(shape, 2) / read)
    return group, speed, 0.9e9 * asked.memory * group - held


def searching(shape: Shape, asked: Request) -> list[Cost]:
    """The factor search, for all splits; nothing where the window does not grow."""
    samples = asked.search[2] * asked.evaluations * asked.splits
    if asked.target_length <= asked.original_window or not samples:
        return []
    tokens = samples * asked.target_length
    total = sum(operations(shape, tokens, samples * asked.target_length**2))
    hours = total / (asked.tflops * 1e12 * asked.utilisation) / 3600
    of = f"{asked.splits} split{'' if asked.splits == 1 else 's'} x {asked.evaluations:,} candidates"
    return [Cost(f"search: {of} x {asked.search[2]} samples", tokens, total, hours, hours / asked.gpus)]


def training(shape: Shape, asked: Request) -> list[Cost]:
    """Mixed-window training by the plan of ``lr2eval train``; nothing where the window does not grow."""
    from lr2eval.method.train.plan import plan
    from lr2eval.method.train.recipe import read_recipe

    if asked.target_length <= asked.original_window or not asked.train_tokens:
        return []
    short = round(asked.train_tokens * asked.short_share)
    recipe = read_recipe(
        None,
        {
            "name": "estimate",
            "original_window": asked.original_window,
            "target_window": asked.target_length,
            "short_tokens": short,
            "long_tokens": asked.train_tokens - short,
            "global_batch": 1,
            "hardware.gpus": asked.gpus,
            "hardware.tflops": asked.tflops,
            "hardware.utilisation": asked.train_utilisation,
        },
    )
    made = plan(recipe, shape)
    assert made.hours is not None
    share = f"{asked.short_share:.0%} short"
    return [Cost(f"training: {share}", made.tokens, made.operations, made.hours * asked.gpus, made.hours)]


def _works(asked: Request) -> list[Asked]:
    """What the tasks ask for, by their published sizes."""
    from lr2eval.registry import resolve

    for name in asked.tasks:
        if name.partition(":")[0] not in _SIZES:
            raise UsageError(
                f"--tasks {name}: its size is not known without data ({', '.join(_SIZES)} are); "
                "`lr2eval run --dry-run` counts and times any task"
            )
    return [
        work
        for benchmark, tasks in resolve(asked.tasks)
        for task in tasks
        for work in _SIZES[benchmark.name](task, asked)
    ]


def _ruler(task: str, asked: Request) -> list[Asked]:
    from lr2eval.tasks.shared.upstream import texts_of

    return _full("ruler", task, asked, asked.samples_per_task, texts_of(task).max_new_tokens)


def _niah(task: str, asked: Request) -> list[Asked]:
    from lr2eval.tasks.niah.options import Grid

    grid = Grid.parse({})
    new = grid.tokens_per_value * (grid.needles if task == "multi" else 1)
    return _full("niah", task, asked, len(grid.depths) * grid.samples_per_cell, new)


def _full(benchmark: str, task: str, asked: Request, n: int, new: int) -> list[Asked]:
    """Prompts that fill their length."""
    return [Asked(benchmark, task, length, n, [length - new] * n, new, 0, True) for length in asked.lengths]


def _mmlu(task: str, asked: Request) -> list[Asked]:
    n = round(MMLU_QUESTIONS / 57)
    return [Asked("mmlu", task, None, n, [MMLU_PROMPT] * n, 0, 0, False)]


def _longbench(task: str, asked: Request) -> list[Asked]:
    from lr2eval.tasks.longbench.prompts import prompt

    new, window, n = prompt(task).max_new_tokens, asked.lengths[-1], LONGBENCH_SAMPLES.get(task, 200)
    return [Asked("longbench", task, window, n, [min(window - new, round(1.4 * LONGBENCH_WORDS[task]))] * n, new, 0,
                  False)]  # fmt: skip


_SIZES = {"ruler": _ruler, "niah": _niah, "mmlu": _mmlu, "longbench": _longbench}


def read_request(flags: dict[str, Any]) -> tuple[Shape, Request]:
    """(sizes of the model, the request), both checked. Raises :class:`UsageError` naming the flag."""
    from lr2eval.model.shape import shape_of

    name, config = read_config(flags["model"])
    shape = shape_of(config)
    window = config.get("max_position_embeddings")
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    original = config.get("original_max_position_embeddings") or rope.get("original_max_position_embeddings") or window
    if not isinstance(window, int) or not isinstance(original, int):
        raise UsageError(f"{name}: config.json states no max_position_embeddings; fill it in")
    lengths = parse_lengths(flags["lengths"]) if flags["lengths"] else default_lengths(window)
    gpu = str(flags["gpu"]).lower()
    if gpu not in GPUS:
        raise UsageError(f"--gpu {gpu}: not among the known ones; {suggestion(gpu, list(GPUS))} ({', '.join(GPUS)})")
    sheet = GPUS[gpu]

    def given(key: str, default: float, most: float = float("inf")) -> float:
        value = default if flags[key] is None else float(flags[key])
        if not 0 < value <= most:
            limit = "" if most == float("inf") else f" and at most {most:g}"
            raise UsageError(f"--{key.replace('_', '-')} {value:g}: must be above 0{limit}")
        return value

    if not 0 <= flags["short_share"] <= 1:
        raise UsageError(f"--short-share {flags['short_share']:g}: must lie between 0 and 1")
    return shape, Request(
        model=name,
        tasks=tuple(part.strip() for part in str(flags["tasks"]).split(",") if part.strip()),
        lengths=lengths,
        original_window=int(given("original_window", original)),
        target_length=max(lengths),
        samples_per_task=int(given("samples_per_task", DEFAULT_SAMPLES)),
        search=_search_sizes(flags["search"]),
        splits=int(given("splits", 1)),
        train_tokens=parse_count(flags["train_tokens"]),
        short_share=flags["short_share"],
        gpu=gpu,
        gpus=int(given("gpus", 1)),
        tflops=given("tflops", sheet.tflops),
        bandwidth=given("bandwidth", sheet.bandwidth),
        memory=given("memory", sheet.memory),
        utilisation=given("utilisation", UTILISATION, 1),
        train_utilisation=given("train_utilisation", TRAIN_UTILISATION, 1),
        read_share=given("read_share", READ_SHARE, 1),
    )


def read_config(model: str) -> tuple[str, dict[str, Any]]:
    """(name, text configuration) of a folder with a ``config.json``, of such a file, or of a model known by name."""
    from lr2eval.model import names

    path = Path(model).expanduser()
    file = path if path.is_file() else names.locate(model, offline=True) / "config.json"
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
        config = value.get("text_config") or value
        return (file.resolve().parent.name if file.name == "config.json" else file.stem), dict(config)
    except (OSError, ValueError, AttributeError, TypeError) as error:
        reason = str(error).splitlines()[0][:120]
        raise CheckpointError(f"{file}: no model configuration ({reason}); give a config.json or its folder") from error


def _search_sizes(text: str) -> tuple[int, int, int]:
    parts: Sequence[str] = text.lower().split("x")
    if len(parts) != 3 or not all(part.strip().isdigit() for part in parts):
        raise UsageError(f"--search {text}: write population x iterations x samples, for example 64x40x10")
    population, iterations, samples = (int(part) for part in parts)
    return population, iterations, samples
