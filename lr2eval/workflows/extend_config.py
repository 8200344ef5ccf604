"""What ``lr2eval extend`` is asked for: one file with a table per step, checked whole before the first step starts."""

from __future__ import annotations

import lzma
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files as files_of
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from lr2eval.base.files import write_parts
from lr2eval.base.ids import digest
from lr2eval.base.settings import put, read_sets, read_toml
from lr2eval.base.units import format_length, parse_length
from lr2eval.errors import UsageError
from lr2eval.runs.config import RunConfig, load_config

if TYPE_CHECKING:
    from lr2eval.method.data.config import MixtureConfig
    from lr2eval.method.search.config import SearchConfig
    from lr2eval.method.train.recipe import Recipe


TASKS = ("ruler", "niah", "mmlu")


DEMO = "demo"
"""The built-in model that brings a configuration, documents and words of its own."""
STEPS = ("search", "data", "training", "evaluation")


class ExtendConfig(BaseModel):
    """Field names are the keys of the file; those of a table are the keys of that step's own command."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str
    target_length: int
    """Tokens."""
    out: Path | None = None
    factors: Path | None = None
    """Given factors; then there is no search."""
    data_dir: Path | None = None
    offline: bool = False
    device: str | None = None
    search: dict[str, Any] = Field(default_factory=dict)
    data: dict[str, Any] = Field(default_factory=dict)
    training: dict[str, Any] = Field(default_factory=dict)
    """Keys of a recipe; ``recipe`` names one to begin with."""
    evaluation: dict[str, Any] = Field(default_factory=dict)

    @field_validator("model", mode="before")
    @classmethod
    def _name(cls, value: Any) -> Any:
        return str(value) if isinstance(value, Path) else value  # outcomes give a checkpoint as a path

    @field_validator("target_length", mode="before")
    @classmethod
    def _length(cls, value: Any) -> Any:
        return parse_length(value) if isinstance(value, str | int) else value


@dataclass(frozen=True)
class Steps:
    """The steps of an extension, each with its own checked configuration. ``home`` holds everything."""

    home: Path
    extended: Path
    """Where the extended model will be: its name is what the report calls it."""
    search: SearchConfig
    factors: Path | None
    data: MixtureConfig
    recipe: Recipe
    evaluation: RunConfig

    def settings(self) -> dict[str, Any]:
        """What decides the result; a folder belongs to exactly one such set."""
        return {
            "search": self.search.settings() if self.factors is None else None,
            "factors": None if self.factors is None else digest(self.factors.read_text(encoding="utf-8")),
            "data": self.data.settings(),
            "training": self.recipe.deciding(),
            "evaluation": self.evaluation.settings(),
        }


def load_extend_config(flags: Mapping[str, Any], file: Path | None, sets: Sequence[str]) -> ExtendConfig:
    """The file, ``--set table.key=value`` over it, flags over both (``None`` = not given; tables are merged).

    The built-in demo model brings a file of its own. Raises :class:`UsageError` naming what is wrong.
    """
    values: dict[str, Any] = read_toml(file) if file else {}
    if file is None and flags.get("model") == DEMO:
        values = _demo_values(flags.get("out"), flags.get("target_length"))
    for key, value in read_sets(sets):
        if "." not in key:
            raise UsageError(f"--set {key}: write table.key=value, the table one of {', '.join(STEPS)}")
        put(values, key, value)
    for key, value in flags.items():
        if isinstance(value, Mapping):
            values[key] = {**values.get(key, {}), **value}
        elif value is not None:
            values[key] = value
    try:
        return ExtendConfig.model_validate(values)
    except ValidationError as error:
        problem = error.errors()[0]
        key = ".".join(map(str, problem["loc"]))
        if problem["type"] == "missing":
            raise UsageError(f"--{key.replace('_', '-')} is missing") from error
        known = ", ".join(ExtendConfig.model_fields)
        said = f"no such key ({known})" if problem["type"] == "extra_forbidden" else problem["msg"]
        raise UsageError(f"{key}: {said.removeprefix('Value error, ')}") from error


def steps(config: ExtendConfig, original_window: int) -> Steps:
    """Every step's configuration, windows filled in. Raises :class:`UsageError` naming table and key."""
    from lr2eval.method.data.config import read_mixture
    from lr2eval.method.train.recipe import read_recipe
    from lr2eval.workflows.search import load_search_config

    name = f"{Path(config.model).resolve().name}-{format_length(config.target_length)}"
    home = config.out or Path("runs") / f"extend-{name}"
    extended = home / name
    windows = {"original_window": original_window, "target_window": config.target_length}
    common = {key: getattr(config, key) for key in ("model", "data_dir", "offline", "device")}
    if config.target_length <= original_window:
        asked = format_length(config.target_length)
        raise UsageError(f"--target-length {asked}: the model has a window of {original_window:,} already; give more")
    search = load_search_config(
        {**config.search, **common, "target_length": config.target_length, "out": home / "search"}, ()
    )
    asked_training = _flat(config.training)
    source = asked_training.pop("recipe", None)
    # Budgets of a recipe are for estimates; here the data says how much there is.
    begin: dict[str, Any] = {} if source else {"name": name, "global_batch": 8, "short_tokens": 0, "long_tokens": 1}
    recipe = read_recipe(source, {**begin, **asked_training, **windows})
    table = {**recipe.data, **config.data}
    if not table.get("sources"):
        raise UsageError("--data is missing: name text, JSONL or parquet files to train on, short and long ones")
    data = read_mixture({**table, **windows})
    compared = {"tasks": TASKS, **config.evaluation}
    evaluation = load_config({**compared, **common, "model": str(extended), "baseline": config.model, "out": home})
    return Steps(home, extended, search, config.factors, data, recipe, evaluation)


def _flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Tables inside a table as dotted keys."""
    found: dict[str, Any] = {}
    for key, value in table.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found


def _demo_values(out: Path | None, length: str | None) -> dict[str, Any]:
    """The configuration of the demo's extension, with its documents and its wording written below ``out``.

    The documents are made for one target length; another ``length`` is refused.
    """
    files = files_of("lr2eval.method")
    values = read_toml(Path(str(files / "demo-extend.toml")))
    target = parse_length(values["target_length"])
    try:
        asked = target if length is None else parse_length(length)
    except ValueError as error:
        raise UsageError(f"--target-length {length}: {error}") from error
    if asked != target:
        raise UsageError(
            f"--target-length {length}: the training documents of {DEMO} are made for {format_length(target)}; "
            "omit the flag, or give --config with documents of your own"
        )
    home = out or Path("runs") / f"extend-{DEMO}-{format_length(target)}"
    documents, wording = home / f"documents-{target}.jsonl", home / "wording.json"
    try:
        home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--out {home}: {error.strerror or error}; choose a folder that can be written") from error
    if not wording.exists():
        write_parts(wording, [(files / "demo-extend-wording.json").read_bytes()])
    if not documents.exists():
        write_parts(documents, [lzma.decompress((files / "demo-extend.jsonl.xz").read_bytes())])
    values["search"]["wording"] = str(wording)
    values["data"]["sources"] = [{"name": DEMO, "path": str(documents), "tokenised": True}]
    return values
