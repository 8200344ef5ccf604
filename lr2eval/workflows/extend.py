"""Search, mix, train, export and compare with the original in one call; finished steps are skipped."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
    folder, steps = plan_extension(config)
    with locked(steps.home, "extend.lock"):
        return _Extension(steps, folder, config, listener or Listener(), command).run()


class _Extension:
    def __init__(
        self, steps: Steps, folder: Path, config: ExtendConfig, listener: Listener, command: Sequence[str]
    ) -> None:
        self._steps, self._folder, self._config, self._command = steps, folder, config, command
        self._listener = listener
        self._file = steps.home / DONE
        self._done: dict[str, float] = {}
        self._settings = steps.settings()
        self._found: SearchOutcome | None = None
        self._compared: RunOutcome | None = None

    @property
    def _factors(self) -> Path:
        return self._steps.factors or self._steps.home / "search" / "factors.json"

    def run(self) -> ExtendOutcome:
        self._claim()
        if "evaluation" not in self._done:
            self._check_evaluation()
        if not self._file.exists():
            self._note()
        # Data first: a problem with the data shows in minutes, a search takes hours.
        self._step("data", self._mix)
        if self._steps.factors is None:
            self._step("search", self._search)
        self._step("training", self._train)
        self._step("evaluation", self._evaluate)
        home = self._steps.home
        report = home / "report.html"
        return ExtendOutcome(home, self._steps.extended, self._factors, report, self._found, self._compared)

    def _claim(self) -> None:
        if not self._file.exists():
            return
        fix = "start again with a new --out"
        value = read_object(self._file, error=StoreError, fix=fix)
        known = checked(FinishedSteps, value, str(self._file), error=StoreError, fix=fix)
        self._done = dict(known.done)
        refuse_other(known.settings, self._settings, self._steps.home)

    def _note(self) -> None:
        kept = {"settings": self._settings, "command": list(self._command), "done": self._done}
        write_json(self._file, kept)

    def _step(self, name: str, work: Callable[[], None]) -> None:
        if name in self._done:
            self._listener.message(f"{name}: already done (took {format_seconds(self._done[name])})")
            return
        self._listener.message(f"{name}:")
        began = time.monotonic()
        work()
        self._done[name] = round(time.monotonic() - began, 1)
        self._note()

    def _check_evaluation(self) -> None:
        """Make the samples of the evaluation now, with the original's tokenizer, so that missing data shows early."""
        from lr2eval.runs.prepare import prepare

        evaluation = self._steps.evaluation
        lengths = evaluation.lengths or default_lengths(self._steps.recipe.target_window)
        asked: Mapping[str, Any] = {
            "model": str(self._folder), "baseline": None, "beyond_window": True, "lengths": lengths,
        }  # fmt: skip
        prepare(evaluation.model_copy(update=asked), self._listener.message)

    def _search(self) -> None:
        from lr2eval.workflows.search import search

        self._found = search(self._steps.search, listener=self._listener, command=self._command)

    def _mix(self) -> None:
        from lr2eval.method.data.mixing import prepare_mixture
        from lr2eval.model.tokenizer import PromptTokenizer

        tokenizer = PromptTokenizer.load(self._folder)
        prepare_mixture(self._steps.data, tokenizer, self._steps.home / "data", say=self._listener.message)

    def _train(self) -> None:
        from lr2eval.workflows.train import TrainConfig, train

        config = TrainConfig(
            recipe=self._steps.recipe,
            model=str(self._folder),
            factors=self._factors,
            data=self._steps.home / "data",
            out=self._steps.home / "training",
            device=self._config.device,
            data_dir=self._config.data_dir,
            offline=self._config.offline,
        )
        train(config, listener=self._listener, command=self._command)
        # Reports name a model by its folder.
        link = self._steps.extended
        if not link.is_symlink():
            link.symlink_to(Path("training", "model"), target_is_directory=True)

    def _evaluate(self) -> None:
        from lr2eval.workflows.run import run

        self._compared = run(self._steps.evaluation, listener=self._listener, command=self._command)


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
