"""The guide's commands exist with the flags shown, and its links lead somewhere."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer.main

from lr2eval.cli import app

ROOT = Path(__file__).parents[1]
PAGES = sorted([*(ROOT / "docs").glob("*.md"), ROOT / "README.md"])
COMMAND = typer.main.get_command(app)


def commands() -> list[tuple[str, str]]:
    """(page, command line) of everything a reader would type that starts with ``lr2eval``."""
    found = []
    for page in PAGES:
        for block in re.findall(r"```(?:console|yaml|)\n(.*?)```", page.read_text(encoding="utf-8"), re.S):
            for line in re.findall(r"(?:^\$ |^|run: )(lr2eval [^\n|;#>]+)", block.replace("\\\n", " "), re.M):
                found.append((page.name, line.strip()))
    return found


def test_there_are_commands_to_check() -> None:
    assert len({page for page, _ in commands()}) >= 4
    assert len(commands()) >= 15


@pytest.mark.parametrize(("page", "line"), commands())
def test_commands_parse(page: str, line: str) -> None:
    words = shlex.split(line)[1:]
    command = COMMAND
    while hasattr(command, "commands") and words and not words[0].startswith("-"):
        name = words.pop(0)
        assert name in command.commands, f"{page}: no command {name!r}"
        context = command.make_context("lr2eval", [], resilient_parsing=True)
        _, command, _ = command.resolve_command(context, [name])
    command.make_context("lr2eval", words, resilient_parsing=False)  # raises on an unknown flag or a missing argument


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_relative_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), f"{page.name}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_command_is_left_without_output(page: Path) -> None:
    """Commands of a console block are followed by what they printed; `docs/refresh.py` writes it."""
    for block in re.findall(r"```console\n(.*?)```", page.read_text(encoding="utf-8"), re.S):
        quiet = [line for line in block.splitlines() if line.startswith("$ ")]
        if page.name == "ci.md":  # commands of the reader's own models, run by test_ci_docs.py
            continue
        assert len(block.splitlines()) > len(quiet), f"{page.name}: {block}"


PAGE = (ROOT / "docs" / "promises.md").read_text(encoding="utf-8")
PROMISES = re.findall(r"^\| (.+) \| `(tests/[^`]+)` \|$", PAGE, re.M)


def test_each_promise_has_a_test() -> None:
    assert len(PROMISES) >= 20
    for promise, test in PROMISES:
        path, _, name = test.partition("::")
        assert (ROOT / path).is_file(), f"{promise}: {test}"
        assert f"def {name or 'test_'}" in (ROOT / path).read_text(encoding="utf-8"), f"{promise}: {test}"
