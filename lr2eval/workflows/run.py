"""Evaluate a model, or an original and an extended model on the same samples: check, run, compare, report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lr2eval.listener import Listener, with_listener
from lr2eval.runs.config import RunConfig

if TYPE_CHECKING:
    from lr2eval.record.results import Results
    from lr2eval.runs.prepare import Prepared
    from lr2eval.runs.runner import Finished
    from lr2eval.workflows.compare import PairOutcome

REPORT = "report.html"


@dataclass(frozen=True)
class Ready:
    """A run whose model and data are checked and made; nothing has run yet.

    ``models`` maps the subfolder of ``folder`` to what runs there: ``""`` for a single model, else ``original`` and
    ``extended``.
    """

    folder: Path
    models: Mapping[str, Prepared]

    @classmethod
    def at(cls, folder: Path, models: Mapping[str, Prepared]) -> Ready:
        """These models in ``folder``, which may hold finished parts of the run."""
        return cls(folder, {part: run.at(folder / part) for part, run in models.items()})


@dataclass(frozen=True)
class RunOutcome:
    """A finished run. ``folder`` holds everything; ``models`` has the same keys as :attr:`Ready.models`."""

    folder: Path
    report: Path
    """The HTML page: of the comparison where there is a baseline, else of the one run."""
    models: Mapping[str, Finished]
    pair: PairOutcome | None
    """The comparison with the baseline and the verdict; ``None`` without a baseline."""

    @property
    def results(self) -> Results:
        """The results of the model that was asked for (``RunConfig.model``)."""
        return list(self.models.values())[-1].results


@with_listener
def prepare_run(config: RunConfig, *, listener: Listener | None = None) -> Ready:
    """Check the model and make or find the data. Raises every error that can be known before a forward pass."""
    from lr2eval.runs.prepare import prepare, prepare_pair

    listener = listener or Listener()
    listener.message("checking model and data")
    if config.baseline is None:
        models = {"": prepare(config, listener.message)}
    else:
        original, extended = prepare_pair(config, listener.message)
        models = {"original": original, "extended": extended}
    last = list(models.values())[-1]
    config = config.model_copy(update={"chat_date": last.config.chat_date})
    return Ready.at(config.out or Path("runs") / config.run_name(Path(last.checkpoint.name).name), models)


def run_models(ready: Ready, listener: Listener, command: Sequence[str]) -> dict[str, Finished]:
    """Run every model, one after the other, and write the report of each."""
    from lr2eval.reports import render
    from lr2eval.runs.runner import execute

    done = {part: execute(run, ready.folder / part, command, listener) for part, run in ready.models.items()}
    for finished in done.values():
        render([finished.folder], finished.folder / REPORT)
    return done


@with_listener
def run_ready(ready: Ready, *, listener: Listener | None = None, command: Sequence[str] = ()) -> RunOutcome:
    """:func:`run` for a run that :func:`prepare_run` has checked."""
    from lr2eval.workflows.compare import compare_pair

    done = run_models(ready, listener or Listener(), command)
    pair = None
    if len(done) > 1:
        original, extended = done.values()
        pair = compare_pair(original.folder, extended.folder, ready.folder)
    return RunOutcome(ready.folder, ready.folder / REPORT, done, pair)


@with_listener
def run(config: RunConfig, *, listener: Listener | None = None, command: Sequence[str] = ()) -> RunOutcome:
    """Evaluate ``config.model``, and ``config.baseline`` on the same samples if it is given.

    Writes the run folder (``config.out``, else ``runs/MODEL-CONFIG``) with its report. The same call again resumes, and
    a finished run is only read. ``command`` is kept in the manifest as what was typed.

    Raises :class:`lr2eval.UsageError` and its subclasses before anything runs, :class:`lr2eval.RunFailedError` and its
    subclasses if the run stops part-way; finished samples are kept.
    """
    return run_ready(prepare_run(config, listener=listener), listener=listener, command=command)
