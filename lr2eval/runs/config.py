"""What the user asked for: one typed, frozen run configuration out of flags, a TOML file and ``--set``."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from lr2eval.base.ids import digest
from lr2eval.base.settings import put, read_sets, read_toml
from lr2eval.base.units import parse_length
from lr2eval.errors import UsageError
from lr2eval.workers.settings import Kind, Workers

DEFAULT_SAMPLES = 100
FIRST_LENGTH = 4096

_FREE = {
    "workers", "base_url", "num_concurrent", "max_retries", "timeout",
    "gpu_memory_utilization", "kv_cache_memory_bytes", "max_num_seqs", "max_num_batched_tokens", "enforce_eager",
    "cpu_offload_gb", "tensor_parallel_size", "pipeline_parallel_size", "distributed_executor_backend",
}  # fmt: skip
"""Options that say how the work is spread and where, not what is asked: a run may go on with others."""
_SPREAD = ("workers", "executor", "gpus_per_worker")


class RunConfig(BaseModel):
    """A run, fully described. Field names are the keys of ``--config`` files and ``--set``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str
    tasks: tuple[str, ...]
    baseline: str | None = None
    lengths: tuple[int, ...] | None = None
    """Token counts; ``None`` doubles from 4k to the model's window."""
    samples_per_task: int = Field(DEFAULT_SAMPLES, ge=1)
    limit: int | float | None = None
    seed: int = 0
    backend: str = "hf"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    device: str | None = None
    batch_size: int | Literal["auto"] = "auto"
    data_dir: Path | None = None
    offline: bool = False
    truncation: Literal["error", "skip", "middle"] = "error"
    window_policy: Literal["exact", "budget"] = "exact"
    chat: bool = False
    out: Path | None = None

    # Without a flag: --config or --set only.
    prefill_chunk: int | None = Field(None, ge=1)
    """Prefill long prompts in pieces of so many tokens: less memory, same answers."""
    memory_limit: str | None = None
    """Bytes the batches may use, for example ``8GiB``; the free memory when not given."""
    missing_data: Literal["error", "skip"] = "error"
    """``skip`` runs what can run and lists the rest as not run."""
    beyond_window: bool = False
    """Run lengths above ``max_position_embeddings`` on purpose."""
    trust_remote_code: bool = False
    workers: int = Field(1, ge=1)
    """That each keep the model; 1: this process, unless they are Ray's."""
    executor: Kind = "processes"
    gpus_per_worker: float | None = Field(None, ge=0)
    options: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Options of single benchmarks and of the backend: ``[ruler]`` in a file, ``--set ruler.key=value``."""

    @field_validator("model", "baseline", mode="before")
    @classmethod
    def _name(cls, value: Any) -> Any:
        return str(value) if isinstance(value, Path) else value  # outcomes give a checkpoint as a path

    @field_validator("lengths", mode="before")
    @classmethod
    def _lengths(cls, value: Any) -> Any:
        if value is None:
            return None
        parts = value.split(",") if isinstance(value, str) else value
        return tuple(sorted({parse_length(part) for part in parts}))

    @field_validator("tasks", mode="before")
    @classmethod
    def _tasks(cls, value: Any) -> Any:
        parts = value.split(",") if isinstance(value, str) else value
        names = tuple(dict.fromkeys(part.strip() for part in parts if part.strip()))
        if not names:
            raise ValueError("name at least one task (`lr2eval tasks` lists them)")
        return names

    @field_validator("batch_size")
    @classmethod
    def _batch_size(cls, value: int | str) -> int | str:
        if isinstance(value, int) and value < 1:
            raise ValueError("must be at least 1, or auto")
        return value

    @field_validator("device")
    @classmethod
    def _device(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"(cpu|cuda|mps|xpu|npu|hpu)(:\d+)?", value):
            raise ValueError("is not a device; write cpu, cuda, cuda:0 or mps")
        return value

    @field_validator("limit", mode="before")
    @classmethod
    def _limit(cls, value: Any) -> Any:
        if value is None:
            return None
        number = float(value)
        if number > 0 and number.is_integer():
            return int(number)
        if 0 < number < 1:
            return number
        raise ValueError("must be a whole number of samples or a share between 0 and 1")

    @property
    def where(self) -> Workers:
        """The workers that are asked for."""
        return Workers(self.workers, self.executor, self.gpus_per_worker, self.options.get("ray"))

    def settings(self) -> dict[str, Any]:
        """The keys that decide samples, prompts and answers; a run folder belongs to exactly one such set."""
        kept = self.model_dump(
            mode="json",
            exclude={"model", "baseline", "out", "data_dir", "offline", "missing_data", "memory_limit", *_SPREAD},
        )
        # Where nothing is cut or skipped, a narrower window can only refuse.
        free = _FREE | ({"max_model_len"} if self.truncation == "error" else set())
        options = {
            name: {key: value for key, value in group.items() if key not in free}
            for name, group in kept["options"].items()
            if name != "ray"
        }
        kept["options"] = {name: group for name, group in options.items() if group}
        return kept

    def run_name(self, model_name: str) -> str:
        """Folder name: the same command names the same folder, so running it again resumes."""
        safe = re.sub(r"[^A-Za-z0-9._-]+", "-", model_name).strip("-.") or "model"
        return f"{safe}-{digest(self.settings())[:8]}"


def default_lengths(window: int) -> tuple[int, ...]:
    """Lengths double from 4k to the window; a model with a smaller window is run at its window."""
    lengths = []
    length = FIRST_LENGTH
    while length <= window:
        lengths.append(length)
        length *= 2
    return tuple(lengths) or (window,)


def load_config(flags: Mapping[str, Any], file: Path | None = None, sets: Sequence[str] = ()) -> RunConfig:
    """Merge (lowest first) the TOML ``file``, ``--set`` and ``flags`` (``None`` = not given) and validate.

    Raises :class:`UsageError` naming the key that is wrong.
    """
    values = read_toml(file) if file else {}
    for key, value in read_sets(sets):
        put(values, key, value)
    for key, value in flags.items():
        if value is not None:
            values[key] = value
    known = RunConfig.model_fields
    options = {key: values.pop(key) for key in list(values) if key not in known and isinstance(values[key], dict)}
    if options:
        values["options"] = {**values.get("options", {}), **options}
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        raise UsageError(first_problem(error)) from error


def first_problem(error: ValidationError) -> str:
    """One line that names the flag or key and what is wrong with it."""
    problem = error.errors()[0]
    message = problem["msg"].removeprefix("Value error, ")
    if not problem["loc"]:
        return str(message)  # settings that do not fit together
    where = str(problem["loc"][0])
    if problem["type"] == "extra_forbidden":
        import difflib

        near = difflib.get_close_matches(where, RunConfig.model_fields, 1)
        return f"unknown key {where!r} in the configuration" + (f"; did you mean {near[0]!r}?" if near else "")
    if problem["type"] == "missing":
        return f"--{where.replace('_', '-')} is missing"
    return f"--{where.replace('_', '-')} {problem.get('input')!r}: {message}"
