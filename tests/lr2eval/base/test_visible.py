"""Text from outside may be ugly. It must not act."""

from __future__ import annotations

import io
import json
import re
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lr2eval.base.console import print_json, print_wrapped, printed_table, say, table
from lr2eval.base.visible import line, visible

ACTING = [
    "\x1b[31mred", "\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "\x1b]52;c;aGk=\x07", "\x9b31m", "\x90q\x9c", "a\rb",
    "\u202egnp.exe", "\u2066x\u2069", "a\u200bb", "\x7f", "a\x08b", "\ud800", "\U000e0041", "x\u2028y", "\x85z",
]  # fmt: skip
COMMANDS = [
    "x\n::error::y", "::set-output name=a::b", "::add-mask::x", "##[error]x", "##vso[task.complete result=Failed;]x",
    "##teamcity[buildStatus status='SUCCESS']", ":: Stop-Commands ::x", "\t::warning::", "x\r\n::group::",
]  # fmt: skip
ACTS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u200e\u200f\u202a-\u202e\u2028\u2029\u2066-\u2069\ud800-\udfff]")
OBEYED = re.compile(r"^\s*::[a-z-]+[ :]|##(\w*)\[", re.IGNORECASE | re.MULTILINE)


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
    say(text)
    say("error:", text, error=True)
    print_wrapped(text)
    shown = table(text, "second", title=text)
    shown.add_row(text, f"x {text}")
    printed_table(shown)
    print_json({text.encode("utf-8", "replace").decode(): text.encode("utf-8", "replace").decode()})
    printed = capsys.readouterr()
    for part in (printed.out, printed.err):
        assert not ACTS.search(part)
        assert not OBEYED.search(part)


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
