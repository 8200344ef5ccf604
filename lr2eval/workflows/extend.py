"""Search, mix, train, export and compare with the original in one call; finished steps are skipped."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from pydantic import BaseModel, Field

from lr2eval.base.files import write_json
from lr2eval.base.reading import checked, read_object
from lr2eval.base.units import format_seconds
from lr2eval.errors import StoreError, UsageError
from lr2eval.listener import Listener, with_listener
from lr2eval.record.folder import locked, refuse_other
from lr2eval.runs.config import default_lengths

if TYPE_CHECKING:
    from lr2eval.workflows.extend_config import ExtendConfig, Steps
    from lr2eval.workflows.run import RunOutcome
    from lr2eval.workflows.search import SearchOutcome

DONE = "extend.json"
T = TypeVar("T")


class FinishedSteps(BaseModel):
    """``extend.json``: the settings of the extension, and the seconds that each finished step took."""

    settings: dict[str, Any]
    done: dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False, strict=True)]]


@dataclass(frozen=True)
class ExtendOutcome:
    """A finished extension. ``folder`` holds every step; ``model`` is the extended checkpoint."""

    folder: Path
    model: Path
    factors: Path
    report: Path
    search: SearchOutcome | None
    """``None`` if factors were given, or if an earlier call had finished the search."""
    evaluation: RunOutcome | None
    """The comparison with the original; ``None`` if an earlier call had finished it."""


def plan_extension(config: ExtendConfig) -> tuple[Path, Steps]:
    """(checkpoint folder of the model, checked configuration of every step). Nothing is written."""
    from lr2eval.method.rope.source import ModelRope
    from lr2eval.model.names import locate
    from lr2eval.workflows import extend_config

    folder = locate(config.model, offline=config.offline)
    rope = ModelRope.read(folder).original()
    steps = extend_config.steps(config, rope.window)
    try:
        steps.search.spaces(rope)
    except ValueError as error:
        raise UsageError(f"{error}") from error
    _check_factors(steps)
    return folder, steps


@with_listener
def extend(config: ExtendConfig, *, listener: Listener | None = None, command: Sequence[str] = ()) -> ExtendOutcome:
    """Extend ``config.model`` to ``config.target_length`` tokens (LongRoPE2) and compare it with the original.

    The same call again resumes where an earlier one stopped. Raises :class:`lr2eval.UsageError` before the first step
    if the configuration is wrong, and the errors of the steps.
    """
    from lr2eval.method.data.mixing import prepare_mixture
    from lr2eval.model.tokenizer import PromptTokenizer
    from lr2eval.workflows.run import run
    from lr2eval.workflows.search import search
    from lr2eval.workflows.train import TrainConfig, train

    listener = listener or Listener()
    folder, steps = plan_extension(config)
    home = steps.home
    factors = steps.factors or home / "search" / "factors.json"

    def train_model() -> None:
        asked = {name: getattr(config, name) for name in ("device", "data_dir", "offline")}
        parts = {"model": folder, "factors": factors, "data": home / "data", "out": home / "training"}
        train(TrainConfig(recipe=steps.recipe, **parts, **asked), listener=listener, command=command)
        # Reports name a model by its folder.
        if not steps.extended.is_symlink():
            steps.extended.symlink_to(Path("training", "model"), target_is_directory=True)

    with locked(home, "extend.lock"):
        notes = _Notes(steps, listener, command)
        if "evaluation" not in notes.done:
            _check_evaluation(steps, folder, listener)
        notes.begin()
        # Data first: a problem with the data shows in minutes, a search takes hours.
        notes.step(
            "data",
            lambda: prepare_mixture(steps.data, PromptTokenizer.load(folder), home / "data", say=listener.message),
        )
        found = None
        if steps.factors is None:
            found = notes.step("search", lambda: search(steps.search, listener=listener, command=command))
        notes.step("training", train_model)
        compared = notes.step("evaluation", lambda: run(steps.evaluation, listener=listener, command=command))
    return ExtendOutcome(home, steps.extended, factors, home / "report.html", found, compared)


class _Notes:
    """``extend.json``: which steps are done."""

    def __init__(self, steps: Steps, listener: Listener, command: Sequence[str]) -> None:
        self._file, self._listener, self._command = steps.home / DONE, listener, command
        self._settings = steps.settings()
        self.done: dict[str, float] = {}
        if self._file.exists():
            fix = "start again with a new --out"
            value = read_object(self._file, error=StoreError, fix=fix)
            known = checked(FinishedSteps, value, str(self._file), error=StoreError, fix=fix)
            self.done = dict(known.done)
            refuse_other(known.settings, self._settings, steps.home)

    def begin(self) -> None:
        """Claim the folder, before the first step."""
        if not self._file.exists():
            self._write()

    def step(self, name: str, work: Callable[[], T]) -> T | None:
        """What ``work`` returns; ``None`` if an earlier call has done it."""
        if name in self.done:
            self._listener.message(f"{name}: already done (took {format_seconds(self.done[name])})")
            return None
        self._listener.message(f"{name}:")
        began = time.monotonic()
        result = work()
        self.done[name] = round(time.monotonic() - began, 1)
        self._write()
        return result

    def _write(self) -> None:
        write_json(self._file, {"settings": self._settings, "command": list(self._command), "done": self.done})


def _check_evaluation(steps: Steps, folder: Path, listener: Listener) -> None:
    """Make the samples of the evaluation now, with the original's tokenizer, so that missing data shows early."""
    from lr2eval.runs.prepare import prepare

    lengths = steps.evaluation.lengths or default_lengths(steps.recipe.target_window)
    asked = {"model": str(folder), "baseline": None, "beyond_window": True, "lengths": lengths}
    prepare(steps.evaluation.model_copy(update=asked), listener.message)


def _check_factors(steps: Steps) -> None:
    """Check that given factors are for these windows, before hours of other work."""
    from lr2eval.method.rope.files import read_factors

    if steps.factors is None:
        return
    scaling = read_factors(steps.factors).scaling
    if scaling is None:
        raise UsageError(f"{steps.factors}: has no windows; use the factors.json of `lr2eval search`")
    for name in ("original_window", "target_window"):
        asked, found = getattr(steps.recipe, name), getattr(scaling, name)
        if asked != found:
            raise UsageError(
                f"{steps.factors}: its {name} is {found:,} tokens, but this extension needs {asked:,}; search again"
            )
