"""What the user asked for: one typed, frozen run configuration out of flags, a TOML file and ``--set``."""

from __future__ import annotations

from datetime import date
from itertools import count, takewhile
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from lr2eval.base.config import Config, Device, Dtype, Kind, Length, Lengths, ModelName, Names, Rare
from lr2eval.base.files import file_name
from lr2eval.base.ids import digest
from lr2eval.model.tokenizer import CHAT_DATE
from lr2eval.runs.decoding import DecodingSettings
from lr2eval.workers.settings import ExecutorKind, Workers

DEFAULT_SAMPLES = 100
FIRST_LENGTH = 4096

_FREE = {
    "workers", "base_url", "num_concurrent", "max_retries", "timeout",
    "gpu_memory_utilization", "kv_cache_memory_bytes", "max_num_seqs", "max_num_batched_tokens", "enforce_eager",
    "cpu_offload_gb", "tensor_parallel_size", "pipeline_parallel_size", "distributed_executor_backend",
}  # fmt: skip
"""Options that say how the work is spread and where, not what is asked: a run may go on with others."""
OF_ROPE = ("target_length", "attention_factor", "short_attention_factor", "from_original", "rule")
"""Options that say how ``rope`` is to be made."""
_SPREAD = ("workers", "executor", "gpus_per_worker")


def _limit(value: Any) -> Any:
    if value is None:
        return None
    try:
        number = -1.0 if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = -1.0
    if number > 0 and number.is_integer():
        return int(number)
    if 0 < number < 1:
        return number
    raise ValueError("must be a whole number of samples or a share between 0 and 1")


def _day(value: Any) -> date:
    try:
        return value if type(value) is date else date.fromisoformat(value)
    except (TypeError, ValueError):
        raise ValueError("must be a date such as 2025-01-31") from None


class RunConfig(Config):
    """A run, fully described. Field names are the keys of ``--config`` files and ``--set``."""

    model: ModelName
    """The model to evaluate: a checkpoint folder, or a name from `lr2eval models list`."""
    tasks: Names = Field(min_length=1)
    """The tasks to run, separated by commas: ruler,mmlu, one task such as ruler:vt, or any lm-eval task."""
    baseline: ModelName | None = None
    """The original model. It answers the same samples, and the report compares the two."""
    rope: str | None = None
    """Evaluate the model under this RoPE rule or factors file (CSV, JSON) instead of its own RoPE. Nothing is written
    to the checkpoint."""
    target_length: Length | None = None
    """With --rope: the window to reach, in tokens, such as 32k. Default: the factors file's."""
    attention_factor: Annotated[float | str | None, Kind("number|su|yarn")] = None
    """With --rope: the attention temperature. Default: the rule's, or the factors file's."""
    lengths: Lengths | None = None
    """The prompt lengths in tokens: 4k,8k or 4k..128k. Default: double from 4k to the model's window."""
    samples_per_task: int = Field(DEFAULT_SAMPLES, ge=1)
    """The number of samples per synthetic task and length."""
    limit: Annotated[int | float | None, BeforeValidator(_limit), Kind("number")] = None
    """Use only the first N samples of each task, or a share of them such as 0.1."""
    seed: int = 0
    """The seed of the synthetic data."""
    backend: str = "hf"
    """The engine that runs the model: hf, vllm, or any lm-eval model type."""
    dtype: Dtype = "auto"
    """The number type of weights and arithmetic. auto: the model's own, or float32 on a CPU that is faster with it."""
    device: Device | None = None
    """Where the model runs: cpu, cuda, cuda:0 or mps. Default: the best available."""
    batch_size: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    """The number of rows in a batch; auto plans batches that fit into memory."""
    data_dir: Path | None = None
    """Read benchmark data from this folder instead of the hub."""
    offline: bool = False
    """Never use the network."""
    truncation: Literal["error", "skip", "middle"] = "error"
    """What to do with a prompt that is too long: stop (error), skip it, or cut its middle."""
    window_policy: Literal["exact", "budget"] = "exact"
    """When to use the long RoPE factors: once the sequence passes the original window (exact), or from the start if
    prompt and answer budget together pass it (budget)."""
    chat: bool = False
    """Wrap each prompt in the model's chat template."""
    workers: int = Field(1, ge=1)
    """The number of workers; each loads its own copy of the model."""
    executor: ExecutorKind = "processes"
    """Where workers run: as processes on this machine, or on a Ray cluster."""
    gpus_per_worker: float | None = Field(None, ge=0)
    """The number of GPUs to reserve for each Ray worker. Default: 1 with --device cuda, else 0."""
    out: Path | None = None
    """The run folder. Default: runs/MODEL-CONFIG."""
    prefill_chunk: Rare[int | None] = Field(None, ge=1)
    """Read long prompts in pieces of this many tokens. It saves memory and changes no answer."""
    memory_limit: Rare[str | None] = None
    """The memory that batches may use, such as 8GiB. Default: the free memory."""
    missing_data: Rare[Literal["error", "skip"]] = "error"
    """What to do if a task's data is missing: stop (error), or skip the task and list it as not run."""
    chat_date: Rare[Annotated[date, BeforeValidator(_day), Kind("date")]] = CHAT_DATE
    """The date that a chat template prints as today's, such as 2025-01-31."""
    chat_system: Rare[str | None] = None
    """The system message of every chat, before that of the task."""
    beyond_window: Rare[bool] = False
    """Run lengths beyond the model's window on purpose."""
    short_attention_factor: Rare[Annotated[float | str | None, Kind("number|su|yarn")]] = None
    """With --rope: another attention temperature inside the original window."""
    from_original: Rare[bool] = False
    """With --rope: start from the window that the model had before its own rescaling."""
    rule: Rare[dict[str, Any]] = Field(default_factory=dict)
    """Options of the rule of --rope, such as rule.beta_fast=64."""
    trust_remote_code: Rare[bool] = False
    """Run the Python code in the model's folder. Do this only for a model that you trust."""
    generation: Rare[DecodingSettings] = Field(default_factory=DecodingSettings)
    # Options of single benchmarks and of the back end: ``[ruler]`` in a file, ``--set ruler.key=value``.
    options: dict[str, dict[str, Any]] = Field(default_factory=dict)

    @classmethod
    def arrange(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Tables of benchmarks and of the back end go into ``options``."""
        given = {key: value for key, value in values.items() if key not in cls.model_fields and isinstance(value, dict)}
        if not given or not isinstance(values.get("options", {}), dict):
            return values
        kept = {key: value for key, value in values.items() if key not in given}
        return kept | {"options": {**values.get("options", {}), **given}}

    @property
    def where(self) -> Workers:
        """The workers that are asked for."""
        return Workers(self.workers, self.executor, self.gpus_per_worker, self.options.get("ray"))

    @property
    def prompts(self) -> dict[str, Any]:
        """How prompts become text: arguments of :class:`PromptTokenizer`."""
        return {"chat": self.chat, "day": self.chat_date, "system": self.chat_system}

    def settings(self) -> dict[str, Any]:
        """The keys that decide samples, prompts and answers; a run folder belongs to exactly one such set."""
        kept = self.model_dump(
            mode="json",
            exclude={"model", "baseline", "out", "data_dir", "offline", "missing_data", "memory_limit", *_SPREAD},
        )
        for key in ("chat_date", "chat_system"):
            if not self.chat or getattr(self, key) == type(self).model_fields[key].default:
                del kept[key]  # as in the runs of earlier versions
        if self.rope is None:
            for key in ("rope", *OF_ROPE):
                del kept[key]
        # Where nothing is cut or skipped, a narrower window can only refuse.
        free = _FREE | ({"max_model_len"} if self.truncation == "error" else set())
        options = {
            name: {key: value for key, value in group.items() if key not in free}
            for name, group in kept["options"].items()
            if name != "ray"
        }
        kept["options"] = {name: group for name, group in options.items() if group}
        kept["generation"] = self.generation.model_dump(exclude_defaults=True)
        if not kept["generation"]:  # plain greedy, as in folders of earlier versions
            del kept["generation"]
        return kept

    def without_rope(self, **update: Any) -> RunConfig:
        """The same for the model as it is, with other fields changed by ``update``."""
        fields = {key: RunConfig.model_fields[key] for key in ("rope", *OF_ROPE)}
        plain = {key: field.get_default(call_default_factory=True) for key, field in fields.items()}
        return self.model_copy(update=plain | update)

    def run_name(self, model_name: str) -> str:
        """Folder name: the same command names the same folder, so running it again resumes."""
        return f"{file_name(model_name, 'model')}-{digest(self.settings())[:8]}"


def default_lengths(window: int, *windows: int) -> tuple[int, ...]:
    """Lengths double from 4k to the window; a model with a smaller window is run at its window.

    ``windows`` are lengths to have besides.
    """
    doubled = takewhile(lambda length: length <= window, (FIRST_LENGTH << times for times in count()))
    return tuple(sorted({*(tuple(doubled) or (window,)), *windows}))
