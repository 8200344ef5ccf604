from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from lr2eval.base.visible import line
from lr2eval.comparisons.compare import compare_runs, read_all
from lr2eval.comparisons.exports import COLUMNS, headline_rows, text, to_csv, to_markdown
from lr2eval.record.comparison import Comparison
from tests.fake_runs import fake_run, ones
from tests.reports import hostile


@pytest.fixture
def comparison(tmp_path: Path) -> Comparison:
    before = {"mmlu/a": ones(20), "ruler/vt@4096": ones(20), "ruler/vt@8192": ones(20)}
    sources = read_all(
        [
            fake_run(tmp_path / "a", before, model="original"),
            fake_run(tmp_path / "b", before | {"ruler/vt@8192": ones(20, 10)}, model="=cmd|' /C calc'!A0"),
        ]
    )
    return compare_runs(sources[0], sources[1:])[0]


def test_csv_holds_every_row_and_number(comparison: Comparison) -> None:
    rows = list(csv.DictReader(io.StringIO(to_csv(comparison))))
    assert tuple(rows[0]) == COLUMNS
    assert len(rows) == len(comparison.pairs[0].differences)
    for row, stored in zip(rows, comparison.pairs[0].differences, strict=True):
        assert (row["level"], row["task"], float(row["difference"])) == (
            stored.level, stored.task or "", stored.difference
        )  # fmt: skip
        assert float(row["low"]) == stored.interval.low


def test_csv_starts_no_formula(comparison: Comparison) -> None:
    assert {row["extended"] for row in csv.DictReader(io.StringIO(to_csv(comparison)))} == {"'=cmd|' /C calc'!A0"}


def named(comparison: Comparison, names: Sequence[str]) -> Comparison:
    """The comparison with a pair for each name, and the name in its caveats."""
    pair = comparison.pairs[0]
    pairs = [
        pair.model_copy(
            update={
                "extended": pair.extended.model_copy(update={"label": name}),
                "caveats": [name],
                "differences": pair.differences[:1],
            }
        )
        for name in names
    ]
    return comparison.model_copy(update={"pairs": pairs})


def test_csv_gives_every_name_back_but_for_the_guard(comparison: Comparison) -> None:
    written = to_csv(named(comparison, hostile.ALL))
    rows = list(csv.DictReader(io.StringIO(written, newline=""), strict=True))
    assert len(rows) == len(hostile.ALL)
    for name, row in zip(hostile.ALL, rows, strict=True):
        assert row["extended"] in (name, f"'{name}")
        assert row["extended"].strip("\x00 \t\r\n\u00a0\u200b\ufeff")[:1] not in tuple("=+-@＝＋－＠")
        assert row["extended"][:1] not in ("\t", "\r", "\n")
    # What quoting leaves bare has no line break of any kind.
    assert not re.search("[\r\n]", re.sub('"(?:[^"]|"")*"', "", written).replace("\r\n", ""))


LINKED = re.compile(
    r"https?:|ftp:|//|www\.|mailto:|xmpp:|[\w.+-]@[\w-]|(?<!\w)@\w|#\d|GH-\d|\b[0-9a-f]{7,40}\b|evil\.(?:com|example)",
    re.IGNORECASE,
)
"""What GitHub and others make a link of, if it stands in text that is no code."""
OURS = {"heading_open", "heading_close", "paragraph_open", "paragraph_close", "inline", "bullet_list_open",
        "bullet_list_close", "list_item_open", "list_item_close", "table_open", "table_close", "thead_open",
        "thead_close", "tbody_open", "tbody_close", "tr_open", "tr_close", "th_open", "th_close", "td_open",
        "td_close"}  # fmt: skip


def inline(markdown: str) -> list[tuple[str, str]]:
    """Text and code of a page of Markdown, after a check that it holds nothing else."""
    found = []
    for token in MarkdownIt("commonmark").enable("table").parse(markdown):
        assert token.type in OURS, (token.type, token.content[:200])
        for part in token.children or ():
            assert part.type in ("text", "text_special", "code_inline", "softbreak"), (part.type, token.content[:200])
            found.append(("code" if part.type == "code_inline" else "text", part.content))
    return found


@pytest.mark.parametrize("frame", ["## {}", "{}", "- {}", "| a | b |\n|---|---|\n| {} | 1 |"])
def test_names_are_text_or_code_in_markdown(frame: str) -> None:
    for name in hostile.ALL:
        shown = inline(frame.format(text(name)))
        for kind, part in shown:
            assert not hostile.ACTS.search(part)
            assert kind == "code" or not LINKED.search(part), (name, part)
        read = "".join(part for _, part in shown).removeprefix("ab").removesuffix("1" if "|" in frame else "")
        assert read == " ".join(line(name).split()), "the name is still there, letter by letter"


def test_a_comparison_in_markdown_has_no_markup_from_names(comparison: Comparison) -> None:
    written = to_markdown(named(comparison, hostile.ALL))
    shown = inline(written)
    assert not hostile.ACTS.search(written)
    assert not hostile.OBEYED.search(written)
    assert not [part for kind, part in shown if kind == "text" and LINKED.search(part)]


def test_markdown_shows_the_means_and_what_changed(comparison: Comparison) -> None:
    shown = to_markdown(comparison)
    assert "| `ruler@8k` | 20 | 100.0 | 50.0 | -50.00 |" in shown
    assert "Tasks that changed (Holm, 95 %)" in shown
    assert "| `ruler:vt@8k` | 20 |" in shown.split("Tasks that changed")[1]
    assert "90 % interval" in shown


def test_foreign_text_is_no_markup() -> None:
    assert text("a|b\n<img>[x](y) `c`\x00\u2028*d*") == r"a\|b \<img\>\[x\]\(y\) \`c\`⟨U\+0000⟩⟨U\+2028⟩\*d\*"


def test_what_is_beyond_the_window_stands_apart(tmp_path: Path) -> None:
    before = {"mmlu/a": ones(20), "ruler/vt@4096": ones(20), "ruler/vt@8192": ones(20, 15)}
    sources = read_all(
        [
            fake_run(tmp_path / "a", before, model="original", window=4096),
            fake_run(tmp_path / "b", before | {"ruler/vt@8192": ones(20)}, model="extended"),
        ]
    )
    far = compare_runs(sources[0], sources[1:])[0]
    assert [row.name for row in headline_rows(far.pairs[0])] == ["mmlu", "ruler"]
    assert [row.name for row in headline_rows(far.pairs[0], beyond=True)] == ["ruler@8k"]
    within, beyond = to_markdown(far).split("Beyond the original's window (4k):")
    assert "retained" in within
    assert "ruler@8k" not in within
    table = beyond.split("Tasks that changed")[0]
    assert "| `ruler@8k` | 20 | 25.0 | 100.0 | +75.00 |" in table
    assert "retained" not in table
    rows = list(csv.DictReader(io.StringIO(to_csv(far))))
    assert {(row["length"], row["beyond_window"], row["retention"]) for row in rows} == {
        ("", "False", "1.0"), ("4096", "False", "1.0"), ("", "True", ""), ("8192", "True", "")
    }  # fmt: skip
