"""``lr2eval extend``: search, mix, train, export and compare with the original, in one command that resumes."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lr2eval import _manifest
from lr2eval._config import default_lengths, format_length
from lr2eval._errors import StoreError, UsageError
from lr2eval._paths import write_json
from lr2eval._progress import format_seconds

if TYPE_CHECKING:
    from lr2eval._extend_config import ExtendConfig, Steps

DONE = "extend.json"


def extend_command(config: ExtendConfig, *, dry_run: bool, command: Sequence[str]) -> None:
    """Every step that is not done yet, then one report; the same command again goes on where it was."""
    from filelock import FileLock, Timeout

    from lr2eval import _extend_config
    from lr2eval._models import locate
    from lr2eval.method.rope_source import ModelRope

    folder = locate(config.model, offline=config.offline)
    rope = ModelRope.read(folder).original()
    steps = _extend_config.steps(config, rope.window)
    try:
        steps.search.spaces(rope)
    except ValueError as error:
        raise UsageError(f"{error}") from error
    _check_factors(steps)
    _say_plan(steps)
    if dry_run:
        return
    try:
        steps.home.mkdir(parents=True, exist_ok=True)
        lock = FileLock(steps.home / "extend.lock", timeout=0).acquire()
    except Timeout:
        raise StoreError(f"{steps.home}: another lr2eval is writing it; wait for it or choose another --out") from None
    except OSError as error:
        raise StoreError(
            f"{steps.home}: {error.strerror or error}; mend that and run the same command again"
        ) from error
    with lock:
        _Extension(steps, folder, config, command).run()


class _Extension:
    def __init__(self, steps: Steps, folder: Path, config: ExtendConfig, command: Sequence[str]) -> None:
        self._steps, self._folder, self._config, self._command = steps, folder, config, command
        self._file = steps.home / DONE
        self._done: dict[str, float] = {}
        self._settings = steps.settings()

    @property
    def _factors(self) -> Path:
        return self._steps.factors or self._steps.home / "search" / "factors.json"

    def run(self) -> None:
        self._claim()
        if "evaluation" not in self._done:
            self._check_evaluation()
        # Rows before factors: what is wrong with the data is known in minutes, a search takes hours.
        self._step("data", self._mix)
        if self._steps.factors is None:
            self._step("search", self._search)
        self._step("training", self._train)
        self._step("evaluation", self._evaluate)
        print(f"extended model: {self._steps.extended}")
        print(f"report: {self._steps.home / 'report.html'}")

    def _claim(self) -> None:
        if not self._file.exists():
            self._note()
            return
        try:
            known = json.loads(self._file.read_text(encoding="utf-8"))
            self._done = dict(known["done"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StoreError(f"{self._file}: damaged ({error}); start again with a fresh --out") from error
        _manifest.refuse_other(known["settings"], self._settings, self._steps.home)

    def _note(self) -> None:
        kept = {"settings": self._settings, "command": list(self._command), "done": self._done}
        write_json(self._file, kept)

    def _step(self, name: str, work: Callable[[], None]) -> None:
        if name in self._done:
            _say(f"{name}: done before, in {format_seconds(self._done[name])}")
            return
        _say(f"{name}:")
        began = time.monotonic()
        work()
        self._done[name] = round(time.monotonic() - began, 1)
        self._note()

    def _check_evaluation(self) -> None:
        """Make the samples of the evaluation with the original's tokenizer: what is missing for them shows now."""
        from lr2eval._prepare import prepare

        evaluation = self._steps.evaluation
        lengths = evaluation.lengths or default_lengths(self._steps.recipe.target_window)
        asked = {"model": str(self._folder), "baseline": None, "beyond_window": True, "lengths": lengths}
        prepare(evaluation.model_copy(update=asked), _say)

    def _search(self) -> None:
        from lr2eval._search_command import search_command

        search_command(self._steps.search, command=self._command)

    def _mix(self) -> None:
        from lr2eval._tokens import PromptTokenizer
        from lr2eval.method.mixing import prepare_mixture

        tokenizer = PromptTokenizer.load(self._folder)
        prepare_mixture(self._steps.data, tokenizer, self._steps.home / "data", say=_say)

    def _train(self) -> None:
        from lr2eval._train_command import train_command

        train_command(
            self._steps.recipe,
            model=str(self._folder),
            factors=self._factors,
            data=self._steps.home / "data",
            held_out=None,
            out=self._steps.home / "training",
            device=self._config.device,
            data_dir=self._config.data_dir,
            offline=self._config.offline,
            dry_run=False,
            command=self._command,
        )
        # Reports call a model by its folder.
        link = self._steps.extended
        if not link.is_symlink():
            link.symlink_to(Path("training", "model"), target_is_directory=True)

    def _evaluate(self) -> None:
        from lr2eval._commands import run_command

        run_command(self._steps.evaluation, dry_run=False, command=self._command)


def _check_factors(steps: Steps) -> None:
    """Given factors must be for these windows; found out before hours of other work."""
    from lr2eval.method.rope_files import read_factors

    if steps.factors is None:
        return
    scaling = read_factors(steps.factors).scaling
    if scaling is None:
        raise UsageError(f"{steps.factors}: holds no windows; give the factors.json of `lr2eval search`")
    for name in ("original_window", "target_window"):
        asked, found = getattr(steps.recipe, name), getattr(scaling, name)
        if asked != found:
            raise UsageError(f"{steps.factors}: {name} is {found:,} tokens there and {asked:,} here; search again")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _say_plan(steps: Steps) -> None:
    splits = steps.search.splits
    at = f"at pairs {', '.join(map(str, splits))}" if splits else "near d_tcd"
    windows = f"{format_length(steps.recipe.original_window)} to {format_length(steps.recipe.target_window)}"
    _say(f"factors: {steps.factors or f'search {at}'}")
    _say(f"training: {windows}, on {', '.join(source.name for source in steps.data.sources)}")
    _say(f"evaluation: {', '.join(steps.evaluation.tasks)}, original against extended")
