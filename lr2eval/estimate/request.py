"""What evaluation, search and training of a model cost on given GPUs, without weights or data.

The model's sizes are known. Everything else is an assumption: a flag overrides it, and the estimate prints it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from lr2eval.base.config import Config, Kind, Length, Lengths, ModelName, Names
from lr2eval.base.files import expanded
from lr2eval.base.units import format_length, parse_count
from lr2eval.errors import UsageError
from lr2eval.estimate.cost import Rates, batch_seconds, kv_bytes, operations
from lr2eval.model.config import CONFIG, ModelConfig
from lr2eval.model.shape import Shape, config_shape, parameters
from lr2eval.runs.config import DEFAULT_SAMPLES, default_lengths


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
    ("search of LongRoPE v1 up to 256k", 72.0, "at most 3 days on one A100: LongRoPE, arXiv 2402.13753"),
)
"""(what, GPU-hours, source): figures that others report, to compare an estimate with."""
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
"""Samples of the tasks that do not have 200."""
GRADIENT_SEARCH = 1_392
"""Forward passes that a gradient search with its default settings costs: 492, and 200 gradients at 4.5 each, as
``benchmarks/search_strategies.py`` counts them."""
KNOWN = ("ruler", "niah", "mmlu", "longbench")
"""Benchmarks whose sizes are known without data."""


@dataclass(frozen=True)
class Cost:
    """A line of the estimate. ``hours``: with all GPUs at work."""

    name: str
    tokens: float
    operations: float
    gpu_hours: float
    hours: float


def _search_sizes(text: Any) -> Any:
    if not isinstance(text, str):
        return text
    parts: Sequence[str] = text.lower().split("x")
    if len(parts) != 3 or not all(part.strip().isdigit() for part in parts):
        raise ValueError("write population x iterations x samples, for example 64x40x10")
    return tuple(map(int, parts))


class Request(Config):
    """The request, with every assumption filled in (:func:`read_request`)."""

    model: ModelName
    """The model: a folder with a config.json (weights are not needed), such a file, or a model name."""
    tasks: Names = ("ruler", "mmlu")
    """The tasks: ruler, niah, mmlu, longbench, or one task such as ruler:vt."""
    lengths: Lengths
    """The prompt lengths in tokens: 4k,8k or 4k..128k. Default: double from 4k to the model's window."""
    gpu: str = "h100"
    """The GPU: h100, h200, b200, a100-40, a100-80, l4, l40s, mi300x, rtx4090 or v100."""
    gpus: int = Field(1, ge=1)
    """The number of GPUs."""
    samples_per_task: int = Field(DEFAULT_SAMPLES, ge=1)
    """The number of samples per RULER task and length."""
    original_window: Annotated[Length, Field(ge=1)]
    """The original window in tokens. Default: from the model's config.json."""
    search: Annotated[tuple[int, int, int] | None, BeforeValidator(_search_sizes), Kind("sizes")] = None
    """The size of an evolution: population x iterations x samples, such as 64x40x10. Default: a gradient search."""
    splits: int = Field(1, ge=1)
    """The number of splits that an evolution searches. Without --search it has the published size, 64x40x10."""
    train_tokens: Annotated[int, BeforeValidator(parse_count), Kind("count")] = 10_000_000_000
    """The number of training tokens; 0 leaves out training. Default: 10B."""
    short_share: float = Field(0.3, ge=0, le=1)
    """The share of the training tokens in documents within the original window."""
    tflops: float = Field(gt=0)
    """The peak of one GPU in 10^12 operations per second, dense. Default: from its data sheet."""
    bandwidth: float = Field(gt=0)
    """The memory bandwidth of one GPU in GB/s. Default: from its data sheet."""
    memory: float = Field(gt=0)
    """The memory of one GPU in GB. Default: from its data sheet."""
    utilisation: float = Field(0.4, gt=0, le=1)
    """The share of the peak that prompts and searches reach."""
    train_utilisation: float = Field(0.3, gt=0, le=1)
    """The share of the peak that training reaches. With 0.3, the formula gives the published 54 hours on 64 A100."""
    read_share: float = Field(0.5, gt=0, le=1)
    """The share of the memory bandwidth that answers reach."""

    @property
    def target_length(self) -> int:
        """The longest length."""
        return max(self.lengths)


def evaluation(shape: Shape, asked: Request) -> list[Cost]:
    """A line for each benchmark and length, and their sum."""
    held = 2 * parameters(shape)
    group = -(-held // int(0.8e9 * asked.memory))  # GPUs that hold the model together
    room = 0.9e9 * asked.memory * group - held
    rates = Rates(group * asked.tflops * 1e12 * asked.utilisation, group * asked.bandwidth * 1e9 * asked.read_share)
    window = asked.original_window if asked.target_length > asked.original_window else None
    sums: dict[str, list[float]] = {}
    for name, samples, prompt, new in _sizes(asked):
        rows = max(1, min(64, int(room / (kv_bytes(shape, 2) * (prompt + new))))) if new else 1
        whole, rest = divmod(samples, rows)
        took = whole * batch_seconds(shape, 2, rates, rows, prompt, new, window)
        took += batch_seconds(shape, 2, rates, rest, prompt, new, window) if rest else 0
        tokens = samples * (prompt + new)
        total = sum(operations(shape, tokens, tokens * (prompt + new), samples * (1 + new)))
        before = sums.get(name, [0.0, 0.0, 0.0])
        sums[name] = [a + b for a, b in zip(before, (tokens, total, took * group / 3600), strict=True)]
    if len(sums) > 1:
        sums["all"] = [sum(column) for column in zip(*sums.values(), strict=True)]
    return [
        Cost(f"evaluation: {name}", tokens, total, hours, hours / asked.gpus)
        for name, (tokens, total, hours) in sums.items()
    ]


def searching(shape: Shape, asked: Request) -> list[Cost]:
    """The factor search, for all splits; nothing where the window does not grow."""
    name, samples = "search: gradient", GRADIENT_SEARCH
    if asked.search is not None or "splits" in asked.model_fields_set:
        population, iterations, each = asked.search or (64, 40, 10)
        # As published: twice the population, then half of it in each iteration.
        candidates = 2 * population + iterations * (population // 2)
        samples = each * candidates * asked.splits
        of = f"{asked.splits} split{'' if asked.splits == 1 else 's'} x {candidates:,} candidates"
        name = f"search: {of} x {each} samples"
    if asked.target_length <= asked.original_window or not samples:
        return []
    tokens = samples * asked.target_length
    total = sum(operations(shape, tokens, samples * asked.target_length**2))
    hours = total / (asked.tflops * 1e12 * asked.utilisation) / 3600
    return [Cost(name, tokens, total, hours, hours / asked.gpus)]


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


def _sizes(asked: Request) -> Iterator[tuple[str, int, int, int]]:
    """(line of the estimate, samples, prompt tokens, answer tokens) of every task, by its published sizes."""
    from lr2eval.registry import resolve
    from lr2eval.tasks.longbench.prompts import prompt
    from lr2eval.tasks.niah.options import NiahOptions
    from lr2eval.tasks.shared.upstream import texts_of

    for benchmark, task in ((found.name, task) for found, tasks in resolve(asked.tasks) for task in tasks):
        if benchmark == "mmlu":
            yield benchmark, round(MMLU_QUESTIONS / 57), MMLU_PROMPT, 0
            continue
        lengths, samples, fill = asked.lengths, asked.samples_per_task, float("inf")
        if benchmark == "ruler":
            new = texts_of(task).max_new_tokens
        elif benchmark == "niah":
            grid = NiahOptions()
            new = grid.tokens_per_value * (grid.needles if task == "multi" else 1)
            samples = len(grid.depths) * grid.samples_per_cell
        else:
            new, lengths, samples = prompt(task).max_new_tokens, lengths[-1:], LONGBENCH_SAMPLES.get(task, 200)
            fill = 1.4 * LONGBENCH_WORDS[task]
        for length in lengths:
            yield f"{benchmark} at {format_length(length)}", samples, round(min(length - new, fill)), new


def read_request(given: Mapping[str, Any]) -> tuple[Shape, Request]:
    """(sizes of the model, the request), both checked. Raises :class:`UsageError` naming the flag."""
    if "model" not in given:
        raise UsageError("--model is missing")
    asked = given.get("tasks") or ()
    for name in map(str.strip, asked.split(",") if isinstance(asked, str) else map(str, asked)):
        if name and name.partition(":")[0] not in KNOWN:  # before the model is read
            raise UsageError(
                f"--tasks {name}: the size of this benchmark is known only with its data; choose among "
                f"{', '.join(KNOWN)}, or use `lr2eval run --dry-run`, which plans any task"
            )
    name, config = read_config(given["model"])
    shape = config_shape(config.text)
    window, original = config.window, config.original_window or config.window
    gpu = str(given.get("gpu", "h100")).lower()
    if gpu not in GPUS:
        raise UsageError(f"--gpu {gpu}: not a known GPU; choose among {', '.join(GPUS)}")
    filled = {"lengths": default_lengths(window), "original_window": original, **asdict(GPUS[gpu])}
    return shape, Request(**filled | dict(given) | {"model": name, "gpu": gpu})


def read_config(model: str) -> tuple[str, ModelConfig]:
    """(name, configuration) of a folder with a ``config.json``, of such a file, or of a model known by name."""
    from lr2eval.model import names

    path = expanded(model)
    config = ModelConfig.read(path if path.is_file() else names.locate(model, offline=True))
    path = config.path
    return path.resolve().parent.name if path.name == CONFIG else path.stem, config
