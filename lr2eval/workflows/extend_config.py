"""What ``lr2eval extend`` is asked for: one file with a table per step, checked whole before the first step starts."""

from __future__ import annotations

import lzma
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files as files_of
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from lr2eval.base.config import Config, Device, Length, ModelName, merged
from lr2eval.base.files import output_folder, write_all
from lr2eval.base.ids import digest
from lr2eval.base.reading import read_bytes, read_text
from lr2eval.base.settings import read_toml
from lr2eval.base.units import format_length, parse_length
from lr2eval.errors import UsageError
from lr2eval.record.folder import flat
from lr2eval.runs.config import RunConfig

if TYPE_CHECKING:
    from lr2eval.method.data.config import MixtureConfig
    from lr2eval.method.search.config import SearchConfig
    from lr2eval.method.train.recipe import Recipe


TASKS = ("ruler", "niah", "mmlu")


DEMO = "demo"
"""The built-in model that brings a configuration, its own documents and words."""
STEPS = ("search", "data", "training", "evaluation")


class ExtendConfig(Config):
    """Field names are the keys of the file; the keys of a table are those of that step's own command."""

    model: ModelName
    """The original model: a checkpoint folder, or a name from `lr2eval models list`."""
    target_length: Length
    """The window to reach, in tokens: 128k."""
    out: Path | None = None
    """The folder for everything. Default: runs/extend-MODEL-LENGTH."""
    factors: Path | None = None
    """The factors.json of a finished search. Without it, the factors are searched."""
    data_dir: Path | None = None
    """Read benchmark data from this folder instead of the hub."""
    offline: bool = False
    """Never use the network."""
    device: Device | None = None
    """Where the model runs: cpu, cuda, cuda:0 or mps. Default: the best available."""
    # A table for each step. ``training.recipe`` names a recipe to begin with.
    search: dict[str, Any] = Field(default_factory=dict)
    data: dict[str, Any] = Field(default_factory=dict)
    training: dict[str, Any] = Field(default_factory=dict)
    evaluation: dict[str, Any] = Field(default_factory=dict)


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
            "factors": None if self.factors is None else digest(read_text(self.factors)),
            "data": self.data.settings(),
            "training": self.recipe.deciding(),
            "evaluation": self.evaluation.settings(),
        }


def load_extend_config(given: Mapping[str, Any], file: Path | None, sets: Sequence[str]) -> ExtendConfig:
    """The file, ``--set table.key=value`` over it, ``given`` over both (``None`` = not given).

    The built-in demo model brings its own file. Raises :class:`UsageError` naming what is wrong.
    """
    for item in sets:
        if "." not in item.partition("=")[0]:
            raise UsageError(f"--set {item}: write table.key=value; the tables are {', '.join(STEPS)}")
    own = _demo_values(given.get("out"), given.get("target_length")) if not file and given.get("model") == DEMO else {}
    values = merged(given, file, sets)
    for key, value in own.items():
        values[key] = {**value, **values.get(key, {})} if isinstance(value, dict) else values.get(key, value)
    return ExtendConfig(**values)


def steps(config: ExtendConfig, original_window: int) -> Steps:
    """Every step's configuration, windows filled in. Raises :class:`UsageError` naming table and key."""
    from lr2eval.method.data.config import MixtureConfig
    from lr2eval.method.search.config import SearchConfig
    from lr2eval.method.train.recipe import read_recipe

    name = f"{Path(config.model).resolve().name}-{format_length(config.target_length)}"
    home = config.out or Path("runs") / f"extend-{name}"
    extended = home / name
    windows = {"original_window": original_window, "target_window": config.target_length}
    common = {key: getattr(config, key) for key in ("model", "data_dir", "offline", "device")}
    if config.target_length <= original_window:
        asked = format_length(config.target_length)
        raise UsageError(
            f"--target-length {asked}: the model's window is already {original_window:,}; give a longer one"
        )
    how = {"strategy": "gradient", **config.search, **common}
    search = SearchConfig.load({**how, "target_length": config.target_length, "out": home / "search"})
    asked_training = flat(config.training)
    source = asked_training.pop("recipe", None)
    # Budgets of a recipe are for estimates; here the data says how much there is.
    begin: dict[str, Any] = {} if source else {"name": name, "global_batch": 8, "short_tokens": 0, "long_tokens": 1}
    recipe = read_recipe(source, {**begin, **asked_training, **windows})
    table = {**recipe.data, **config.data}
    if not table.get("sources"):
        raise UsageError("--data is missing; give text, JSONL or Parquet files with short and long documents")
    data = MixtureConfig(**{**table, **windows})
    compared = {"tasks": TASKS, **config.evaluation}
    evaluation = RunConfig.load({**compared, **common, "model": str(extended), "baseline": config.model, "out": home})
    return Steps(home, extended, search, config.factors, data, recipe, evaluation)


def _demo_values(out: Path | None, length: str | None) -> dict[str, Any]:
    """The configuration of the demo's extension, with its documents and its wording written below ``out``.

    The documents are made for one target length; another ``length`` is refused.
    """
    files = Path(str(files_of("lr2eval.method")))
    values = read_toml(files / "demo-extend.toml")
    target = parse_length(values["target_length"])
    try:
        asked = target if length is None else parse_length(length)
    except ValueError as error:
        raise UsageError(f"--target-length {length}: {error}") from error
    if asked != target:
        raise UsageError(
            f"--target-length {length}: the training documents of {DEMO} are made for {format_length(target)}; "
            "omit the flag, or give --config with your own documents"
        )
    home = out or Path("runs") / f"extend-{DEMO}-{format_length(target)}"
    documents, wording = home / f"documents-{target}.jsonl", home / "wording.json"
    output_folder(home)
    if not wording.exists():
        write_all({wording: [read_bytes(files / "demo-extend-wording.json")]})
    if not documents.exists():
        write_all({documents: [lzma.decompress(read_bytes(files / "demo-extend.jsonl.xz"))]})
    values["search"]["wording"] = str(wording)
    values["data"]["sources"] = [{"name": DEMO, "path": str(documents), "tokenised": True}]
    return values
