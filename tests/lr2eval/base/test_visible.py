"""Text from outside may be ugly. It must not act."""

from __future__ import annotations

import io
import json
import logging
import re
import sys
import warnings
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from lr2eval.base.console import command, guard_logs, print_json, print_wrapped, printed_table, say, table
from lr2eval.base.visible import labels, line, short, visible
from tests.reports.hostile import ACTS, ALL, OBEYED

ACTING = [
    "\x1b[31mred", "\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "\x1b]52;c;aGk=\x07", "\x9b31m", "\x90q\x9c", "a\rb",
    "\u202egnp.exe", "\u2066x\u2069", "a\u200bb", "\x7f", "a\x08b", "\ud800", "\U000e0041", "x\u2028y", "\x85z",
]  # fmt: skip
COMMANDS = [
    "x\n::error::y", "::set-output name=a::b", "::add-mask::x", "##[error]x", "##vso[task.complete result=Failed;]x",
    "##teamcity[buildStatus status='SUCCESS']", ":: Stop-Commands ::x", "\t::warning::", "x\r\n::group::",
]  # fmt: skip


@pytest.mark.parametrize("text", ACTING)
def test_what_acts_is_shown_as_a_sign(text: str) -> None:
    assert not ACTS.search(visible(text))
    assert not ACTS.search(line(text))


@pytest.mark.parametrize("text", COMMANDS)
def test_no_ci_obeys_a_line(text: str) -> None:
    assert "\n" not in line(text)
    assert not OBEYED.search(line(text))
    assert not OBEYED.search(line(f"{text}: more"))


@given(st.text())
def test_every_line_is_one_harmless_line(text: str) -> None:
    shown = line(text)
    assert "\n" not in shown
    assert not ACTS.search(shown)
    assert not re.search(r"##\w*\[", shown)
    shown.encode("utf-8")


def test_ordinary_names_stay_as_they_are() -> None:
    for name in ("Llama-3.2 1B", "模型/שלום", "a::b", "C++::std", "## title", "naïve e\u0301", "👩\u200d🔬"):
        assert line(name) == visible(name) == name


@pytest.mark.parametrize("text", ACTING + COMMANDS)
def test_nothing_printed_acts(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    _print_everywhere([text])
    _harmless(capsys)


def test_no_hostile_string_acts(capsys: pytest.CaptureFixture[str]) -> None:
    assert len(ALL) >= 600
    _print_everywhere(ALL)
    _harmless(capsys)


def _print_everywhere(texts: Sequence[str]) -> None:
    for text in texts:
        say(text)
        say("error:", text, error=True)
        print_wrapped(text)
        print_json({text.encode("utf-8", "replace").decode(): text.encode("utf-8", "replace").decode()})
    shown = table(texts[0], "second", title=" ".join(texts)[:9000])
    for text in texts:
        shown.add_row(text[:900], f"x {text[:900]}")
    printed_table(shown)


def _harmless(capsys: pytest.CaptureFixture[str]) -> None:
    printed = capsys.readouterr()
    for part in (printed.out, printed.err):
        assert not ACTS.search(part)
        assert not OBEYED.search(part)


def test_only_our_own_commands_are_obeyed(capsys: pytest.CaptureFixture[str]) -> None:
    for text in ALL:
        command(f"::error title=x::{line(text)}")
    printed = capsys.readouterr().out
    assert not ACTS.search(printed)
    assert [each[:15] for each in printed.splitlines()] == ["::error title=x"] * len(ALL)
    command("::notice::one\n::error::two")
    assert capsys.readouterr().out == "::notice::one ::error::two\n"


def test_labels_are_short_and_tell_models_apart() -> None:
    for name in ("W" * 3000, "a b " * 750, "漢" * 3000, "\x1b" * 3000, "👩\u200d🔬" * 900):
        first, second = labels([name, name + "!"], ["f" * 255, "g" * 255])
        assert first != second
        assert max(map(cell_len, (first, second))) <= 80 + len(" ()") + 80
        assert 75 <= cell_len(short(name)) <= 80  # cut, but no shorter than it must be
        assert short(name).endswith("…")
    assert short("x" * 80) == "x" * 80


def test_logs_and_warnings_of_other_libraries(capsys: pytest.CaptureFixture[str]) -> None:
    before = logging.getLogRecordFactory(), warnings.formatwarning
    logger, stream = logging.Logger("other"), io.StringIO()
    logger.addHandler(logging.StreamHandler(stream))
    try:
        guard_logs()
        for text in ALL:
            logger.warning("loading %s", text)
            stream.write(warnings.formatwarning(text, UserWarning, "a.py", 1, ""))
    finally:
        logging.setLogRecordFactory(before[0])
        warnings.formatwarning = before[1]
    assert len(stream.getvalue().splitlines()) == 2 * len(ALL)
    assert not ACTS.search(stream.getvalue())
    assert not OBEYED.search(stream.getvalue())


def test_json_comes_back_as_it_was(capsys: pytest.CaptureFixture[str]) -> None:
    value = {"a": "\x1b[31m\x7f\u202e ##[error] ## ###[x]"}
    print_json(value)
    assert json.loads(capsys.readouterr().out) == value


def test_emoji_codes_and_markup_in_names_are_text() -> None:
    shown = table("a")
    shown.add_row(":smile: [red]x[/red]")
    stream = io.StringIO()
    printed_table(shown, stream)
    assert ":smile: [red]x[/red]" in stream.getvalue()
    assert sys.stdout is not stream
