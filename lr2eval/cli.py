"""The entry point: builds the app from ``commands/`` and turns every known error into one line and an exit code."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
import typer.core

from lr2eval._version import __version__
from lr2eval.base.console import guard_logs, say
from lr2eval.base.files import cache_dir
from lr2eval.base.settings import unusable
from lr2eval.commands.bundle import data_prepare, data_show
from lr2eval.commands.compare import baseline_save, compare, gate
from lr2eval.commands.data import data_make, data_mix
from lr2eval.commands.doctor import doctor
from lr2eval.commands.estimate import estimate
from lr2eval.commands.export import export
from lr2eval.commands.extend import extend
from lr2eval.commands.models import models_fetch, models_list
from lr2eval.commands.report import report
from lr2eval.commands.rope import rope
from lr2eval.commands.run import run
from lr2eval.commands.score import score
from lr2eval.commands.search import search
from lr2eval.commands.sweep import sweep
from lr2eval.commands.tasks import tasks
from lr2eval.commands.train import train
from lr2eval.commands.verify import verify
from lr2eval.errors import Lr2EvalError, UsageError, first_line

INTERNAL = 70
"""Exit code of a fault of lr2eval itself. It is never a verdict."""


class _Commands(typer.core.TyperGroup):
    """Builds a command only when it is called: its options come from a configuration model (commands/options.py)."""

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        name, command, rest = super().resolve_command(ctx, args)
        build = getattr(getattr(command, "callback", None), "build", None)
        return name, build() if build else command, rest


app = typer.Typer(
    name="lr2eval",
    cls=_Commands,
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Does an extended context window really work, and what did it cost on short inputs?",
    epilog="Exit codes: 0 ok, 1 regression, 2 usage or configuration error, 3 inconclusive, 4 not comparable, "
    "5 the run failed part-way (finished samples are kept), 70 internal error, 130 interrupted.",
)


def _version(value: bool) -> None:
    if value:
        say(f"lr2eval {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def _group(name: str, about: str, **commands: Any) -> None:
    group = typer.Typer(cls=_Commands, no_args_is_help=True, help=about)
    # With a callback a group of one command keeps that command's name.
    group.callback()(lambda: None)
    for command, function in commands.items():
        group.command(command)(function)
    app.add_typer(group, name=name)


# In the order in which --help lists them.
for _verb in (run, sweep, tasks, report, score, compare, gate, verify, rope, search, train, export, extend, estimate,
              doctor):  # fmt: skip
    app.command()(_verb)
_group("models", "List and download the models that have a name.", list=models_list, fetch=models_fetch)
_about = "Make benchmark data and training data."
_group("data", _about, mix=data_mix, make=data_make, prepare=data_prepare, show=data_show)
_group("baseline", "Save the scores of a run in a small file.", save=baseline_save)

# Newer typer carries its own click, so the base of its usage errors has no fixed place to be imported from.
_ClickException: Any = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")


def main() -> NoReturn:
    """Entry point. Every failure is one line on standard error and a documented exit code (docs/exit-codes.md)."""
    # Before anything imports them: their bars and chatter would bury ours.
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    # OpenMP threads that spin while they wait take the cores from whatever else runs there, and from each other.
    # Sleeping instead costs little on an idle machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if "--offline" in sys.argv:
        os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"
    for stream in ("stdout", "stderr"):
        if getattr(sys, stream) is None:  # closed by whoever started us (`>&-`)
            setattr(sys, stream, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    guard_logs()
    try:
        if found := unusable(sys.argv):
            argument = sys.argv[int(found[0][0])]
            raise UsageError(f"{argument!r:.200}: {found[1]}; write it in another way, or rename the file")
        code: Any = app(standalone_mode=False)
        if code == 130:  # typer's way of passing on a KeyboardInterrupt
            raise KeyboardInterrupt
        sys.stdout.flush()  # a full disk or a closed pipe shows here, not when Python ends
    except Lr2EvalError as error:
        _fail(str(error), error.exit_code)
    except _ClickException as error:
        _fail(error.format_message(), UsageError.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        _fail(interrupted(sys.argv[1:]), 130)
    except BrokenPipeError:
        _nobody_reads()
    except MemoryError as error:
        _fail(f"out of memory ({_saved(error)}); free some memory and run the same command again", 5)
    except OSError as error:
        if error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
            _fail(f"{error.filename}: {error.strerror}; give another path", UsageError.exit_code)
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
            _internal(error)
        _fail(f"{error.filename or 'disk'}: {error.strerror}; fix this and run the same command again", 5)
    except SystemExit as error:
        if isinstance(error.__context__, BrokenPipeError):  # typer has turned it into this
            _nobody_reads()
        # Ours come back as a code. A library that ends the process must not end it with a verdict.
        if any(name.endswith("_COMPLETE") for name in os.environ):  # of a shell that asks for completions
            raise
        _internal(error)
    except BaseException as error:
        _internal(error)
    sys.exit(code if isinstance(code, int) else 0)


def _nobody_reads() -> NoReturn:
    """Whoever read our output has enough (``| head``). 141 is what a shell shows for that."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.exit(141)


def _internal(error: BaseException) -> NoReturn:
    what = f"{type(error).__name__}: {first_line(error)}"
    _fail(f"internal error ({what}); this is a fault of lr2eval, please report it with {_saved(error)}", INTERNAL)


def _saved(error: BaseException) -> str:
    """Where the traceback is: a file in the cache, or else in the folder for temporary files."""
    text = "".join(traceback.format_exception(error))
    name = f"traceback-{datetime.now():%Y%m%d-%H%M%S}-{os.getpid()}.txt"
    for folder in (cache_dir() / "tracebacks", Path(tempfile.gettempdir())):
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(f"lr2eval {__version__}: {sys.argv}\n{text}", "utf-8", "backslashreplace")
            return f"the traceback in {folder / name}"
    return f"no traceback, because no folder can be written ({text.splitlines()[-2].strip()})"


_KEPT = {
    "run": "finished batches",
    "sweep": "finished batches",
    "search": "finished evaluations",
    "train": "the steps up to the last checkpoint",
    "extend": "finished steps",
    "data mix": "tokenised documents",
    "data make": "finished files",
    "data prepare": "complete data sets",
}
"""What a command keeps when it is interrupted. The other commands start again."""


def interrupted(arguments: Sequence[str]) -> str:
    """The line for a command that was interrupted. It promises only what the command keeps."""
    words = [each for each in arguments if not each.startswith("-")]
    kept = _KEPT.get(" ".join(words[:2])) or _KEPT.get(" ".join(words[:1]))
    return f"interrupted; {kept} are kept, the same command resumes" if kept else "interrupted"


def _fail(message: str, code: int) -> NoReturn:
    say(f"error: {' '.join(message.split())}", error=True)
    sys.exit(code)
