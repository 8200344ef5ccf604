"""Flags made from the fields of configuration models, and flags that several commands share."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Mapping
from functools import partial
from importlib import import_module
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lr2eval.base.console import printed_table, say, table
from lr2eval.base.units import parse_length
from lr2eval.errors import UsageError
from lr2eval.listener import Listener

if TYPE_CHECKING:
    from lr2eval.base.config import Option

Offline = Annotated[bool, typer.Option("--offline", help="Never use the network.")]
DataDir = Annotated[
    Path | None, typer.Option(help="Read benchmark data from this folder instead of the hub.", metavar="<path>")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check everything, print the plan and stop.")]
ConfigFile = Annotated[
    Path | None, typer.Option("--config", help="Read options from this TOML file.", metavar="<path>")
]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", help="Set any option of --help-all; may be repeated.", metavar="<key=value>"),
]
OriginalModel = Annotated[
    str, typer.Option(help="The original model: a checkpoint folder, or a name from `lr2eval models list`.")
]
FromOriginal = Annotated[
    bool,
    typer.Option("--from-original", help="Start from the window that the model had before its own rescaling."),
]

Keys = Callable[[], Mapping[str, "list[Option]"]]


def configured(
    home: str, *, only: Collection[str] = (), borrow: Mapping[str, str] | None = None, keys: Keys | None = None
) -> Callable[[Callable[..., None]], Callable[[], None]]:
    """Give a command one flag for each option of the configuration model ``home`` (``module:Class``).

    The function gets what was given as a dictionary, then its own parameters. ``only`` names the options that the
    command has. ``borrow`` maps keys of tables (``search.haystack``) to the model that declares the option; they become
    flags too (``--haystack``). ``keys`` adds groups of keys to ``--help-all``. The flags are made when the command is
    called: until then no model is imported, so that ``lr2eval --help`` stays fast.
    """

    def decorate(function: Callable[..., None]) -> Callable[[], None]:
        def stub() -> None:
            raise AssertionError("cli.py calls stub.build() instead")

        stub.__name__, stub.__doc__ = function.__name__, function.__doc__
        stub.build = partial(_build, function, home, only, borrow or {}, keys)  # type: ignore[attr-defined]
        return stub

    return decorate


def _options(home: str) -> list[Option]:
    from lr2eval.base.config import options

    module, _, name = home.partition(":")
    return options(getattr(import_module(module), name))


def _build(
    function: Callable[..., None], home: str, only: Collection[str], borrow: Mapping[str, str], keys: Keys | None
) -> Any:
    """The click command of a configured function."""
    own = list(signature(function, eval_str=True).parameters.values())[1:]
    every = [option for option in _options(home) if not only or option.key in only]
    flags = {option.key: option for option in every if not option.rare and "." not in option.key}
    for key, other in borrow.items():
        name = key.partition(".")[2]
        flags[key] = next(option for option in _options(other) if option.key == name)

    def call(**values: Any) -> None:
        values.pop("help_all")
        found = {key: values.pop(option.key) for key, option in flags.items()}
        given = {key: value for key, value in found.items() if value is not None}
        function(given, **values)

    def print_keys(asked: bool) -> None:
        if asked:
            _print_keys({"": every, **(keys() if keys else {})})
            raise typer.Exit

    help_all = Annotated[
        bool, typer.Option("--help-all", callback=print_keys, is_eager=True, help="List every option and --set key.")
    ]
    last = Parameter("help_all", Parameter.KEYWORD_ONLY, annotation=help_all, default=False)
    own = [parameter.replace(kind=Parameter.KEYWORD_ONLY) for parameter in own]
    call.__signature__ = Signature([*map(_parameter, flags.values()), *own, last])  # type: ignore[attr-defined]
    call.__doc__ = function.__doc__
    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    app.command(function.__name__)(call)
    return typer.main.get_command(app)


def _parameter(option: Option) -> Parameter:
    text = option.help + (f" [default: {option.default}]" if option.default else "")
    names = (option.flag,) if option.type is bool else ()
    metavar = None if option.type is bool else f"[{option.kind}]" if "|" in option.kind else f"<{option.kind}>"
    annotation = Annotated[option.type | None, typer.Option(*names, help=text, metavar=metavar)]  # type: ignore[name-defined]
    return Parameter(option.key, Parameter.KEYWORD_ONLY, annotation=annotation, default=None)


def _print_keys(groups: Mapping[str, list[Option]]) -> None:
    """Every option with its type, default and help."""
    for title, group in groups.items():
        shown = table("option", "type", "default", "what it does", title=title or None)
        for option in group:
            name = option.key if title or option.rare or "." in option.key else option.flag
            shown.add_row(name, option.kind.replace("|", " | "), option.default or "-", option.help)
        shown.columns[1].max_width, shown.columns[2].max_width = 18, 24
        printed_table(shown)
    say("A name without dashes is a key: --set KEY=VALUE, or KEY = VALUE in a --config file.")


def task_keys() -> dict[str, list[Option]]:
    """The options of the benchmarks that have any."""
    from lr2eval.base.config import options
    from lr2eval.registry import benchmarks

    return {
        f"the benchmark {name}": options(benchmark.options, f"{name}.")
        for name, benchmark in benchmarks().items()
        if hasattr(benchmark, "options")
    }


def to_stderr(text: str) -> None:
    """One line for a person; never part of standard output."""
    say(text, error=True)


class Messages(Listener):
    """Prints what a workflow says, and nothing else."""

    def message(self, text: str) -> None:
        to_stderr(text)


def typed_command() -> list[str]:
    """The command as it was typed, for the manifest."""
    return ["lr2eval", *sys.argv[1:]]


def read_length(flag: str, text: str | None) -> int | None:
    """Tokens of a length flag (``128k``). Raises :class:`UsageError` naming the flag."""
    if text is None:
        return None
    try:
        return parse_length(text)
    except ValueError as error:
        raise UsageError(f"{flag}: {error}") from error
