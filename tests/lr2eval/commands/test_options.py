"""Commands whose flags come from configuration models: built when called, help for every option."""

from __future__ import annotations

import re
from typing import Any

import pytest
import typer.main
from typer.testing import CliRunner

from lr2eval.cli import app
from lr2eval.commands.options import configured

ROOT: Any = typer.main.get_command(app)


def commands(group: Any = ROOT, path: tuple[str, ...] = ()) -> dict[str, Any]:
    """Every command by its full name, with its real options."""
    found = {}
    for name in group.commands:
        _, command, _ = group.resolve_command(group.make_context("lr2eval", [], resilient_parsing=True), [name])
        if hasattr(command, "commands"):
            found |= commands(command, (*path, name))
        else:
            found[" ".join((*path, name))] = command
    return found


COMMANDS = commands()


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_every_option_is_a_sentence(name: str) -> None:
    command = COMMANDS[name]
    assert re.match(r"[A-Z].*\.(\s|$)", command.help), command.help
    for parameter in command.params:
        text = re.sub(r"\s*\[(default|required).*\]", "", parameter.help or "")
        assert re.fullmatch(r"[A-Z].*[^.]\.", text), f"{name} {parameter.name}: {text!r}"


def test_short_help_is_not_cut() -> None:
    shown = CliRunner().invoke(app, ["--help"]).output
    assert "..." not in shown.partition("Commands:")[2]


def test_workers_are_ordinary_options() -> None:
    for name in ("run", "search"):
        flags = {flag for parameter in COMMANDS[name].params for flag in parameter.opts}
        assert {"--workers", "--executor", "--gpus-per-worker"} <= flags


@pytest.mark.parametrize("name", ["run", "search", "train", "extend", "gate", "data make"])
def test_help_all_lists_every_key(name: str) -> None:
    done = CliRunner().invoke(app, [*name.split(), "--help-all"])
    assert done.exit_code == 0, done.output
    keys = {
        "run": ["--model", "prefill_chunk", "ruler.compat", "niah.depths", "short.gsm8k_shots"],
        "search": ["--target-length", "population", "race_keep"],
        "train": ["--recipe", "optimizer.warmup_steps", "data.min_tokens"],
        "extend": ["--factors", "search.reach", "training.saving.keep", "evaluation.prefill_chunk"],
        "gate": ["--margin", "baseline_digest"],
        "data make": ["--tasks", "--chat", "niah.wording"],
    }[name]
    for key in keys:
        assert re.search(rf"^ {re.escape(key)} ", done.output, re.M), f"{key} in {done.output}"


def test_only_what_was_given_arrives() -> None:
    seen: list[tuple[dict[str, Any], bool]] = []

    @configured(
        "lr2eval.workflows.extend_config:ExtendConfig",
        only=("model", "offline"),
        borrow={"search.samples": "lr2eval.method.search.config:SearchConfig"},
    )
    def example(given: dict[str, Any], own: bool = False) -> None:
        """An example."""
        seen.append((given, own))

    command = example.build()  # type: ignore[attr-defined]
    for words in ([], ["--model", "m", "--offline"], ["--samples", "3", "--own"]):
        command.main(words, standalone_mode=False)
    assert seen == [({}, False), ({"model": "m", "offline": True}, False), ({"search.samples": 3}, True)]
