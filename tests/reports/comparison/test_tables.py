"""What a comparison adds to the page: stored numbers, cell by cell, and words that say no more than they do."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from lr2eval.base.visible import visible
from lr2eval.errors import UsageError
from lr2eval.record.comparison import Comparison, Difference, Gate, Pair
from lr2eval.reports import formats, load, render
from lr2eval.reports.comparison import tables as tables_module
from lr2eval.reports.run.tables import score_tables
from tests.reports.page import Page


@pytest.fixture(scope="module")
def page(
    pair_folders: tuple[Path, Path], comparison: Comparison, gate: Gate, tmp_path_factory: pytest.TempPathFactory
) -> Page:
    out = tmp_path_factory.mktemp("out") / "report.html"
    return Page(render(pair_folders, out, comparison=comparison, gate=gate).read_text(encoding="utf-8"))


def rows_after(page: Page, table: str) -> list[list[tuple[dict[str, str | None], str]]]:
    """The rows of one table, by its id."""
    return page.tables[table]


def shards(comparison: Comparison, benchmark: str) -> dict[tuple[str | None, int | None], Difference]:
    rows = comparison.pairs[0].differences
    return {(r.task, r.length): r for r in rows if r.level == "shard" and r.benchmark == benchmark}


@pytest.mark.parametrize("beyond", [False, True])
def test_every_difference_of_a_grid_is_shown_with_interval_and_n(
    page: Page, comparison: Comparison, beyond: bool
) -> None:
    found = [r for r in comparison.pairs[0].differences if (r.benchmark, r.beyond) == ("ruler", beyond)]
    stored = {(r.task, r.length): r for r in found if r.level == "shard"}
    # The original's window is 8k: what is longer stands in a table of its own.
    lengths = [16384, 32768] if beyond else [4096, 8192]
    assert {length for _, length in stored} == set(lengths)
    rows = {row[0][1]: row for row in rows_after(page, "d0-1" + "-beyond" * beyond)[1:]}
    for (task, length), difference in stored.items():
        attributes, text = rows[str(task)][1 + lengths.index(length or 0)]
        assert attributes["data-v"] == str(difference.difference)
        assert text.startswith(formats.signed(difference.difference))
        assert f"{formats.signed(difference.interval.low)} to {formats.signed(difference.interval.high)}" in text
        assert f"n {difference.n}" in text
        assert ("◆" in text) == ((difference.p_holm or 0.0) < 0.05)
        assert ("down" if difference.difference < 0 else "up") in (attributes["class"] or "")
    whole = {row.task: row for row in found if row.level == "task"}
    assert rows["vt"][-1][0]["data-v"] == str(whole["vt"].difference)
    means = {r.length: r.difference for r in found if r.level == "length"}
    assert [cell[0]["data-v"] for cell in rows["Mean"][1:-1]] == [str(means[length]) for length in lengths]


def test_the_caption_counts_the_marks_below_it(
    pair_folders: tuple[Path, Path], comparison: Comparison, tmp_path: Path
) -> None:
    pair = comparison.pairs[0]
    marked = {("shard", "vt", 32768), ("task", "vt", None), ("task", "cwe", None)}  # the pooled column counts too
    rows = [
        row.model_copy(update={"p_holm": 0.01 if (row.level, row.task, row.length) in marked else 1.0})
        for row in pair.differences
        if row.beyond
    ]
    changed = comparison.model_copy(update={"pairs": [pair.model_copy(update={"differences": rows})]})
    page = Page(render(pair_folders, tmp_path / "r.html", comparison=changed).read_text(encoding="utf-8"))
    marks = sum("◆" in text for row in rows_after(page, "d0-1-beyond")[1:-1] for _, text in row)
    said = re.findall(r"Holm's correction \(p below 0\.05\): (\w+) here", page.text)
    assert marks == 3
    assert said == ["3", "none"]  # of RULER, of NIAH


def test_what_is_beyond_the_window_comes_last_and_retains_nothing(page: Page, comparison: Comparison) -> None:
    tables = list(page.tables)
    assert tables.index("d0-1") < tables.index("d0-1-beyond")
    assert "Beyond the original's window (8k): " in page.text
    said = tables_module.sentence(comparison.pairs[0], load.Key("ext", 1), load.Key("orig", 0), 0.05)
    within, far = said.split("Beyond the window of orig: ")
    assert " retained" in within
    assert far.startswith("RULER ")
    assert " retained" not in far


def test_tasks_without_lengths_stand_in_a_list_the_largest_loss_first(page: Page, comparison: Comparison) -> None:
    stored = shards(comparison, "mmlu")
    rows = rows_after(page, "d2-1")
    shown = [float(row[3][0]["data-v"] or "nan") for row in rows[1:-1]]
    assert shown == sorted(row.difference for row in stored.values())
    names = {visible(formats.task("mmlu", str(task))): row for (task, _), row in stored.items()}
    for row in rows[1:-1]:
        one = names[row[0][1]]
        assert [cell[0]["data-v"] for cell in row[1:4]] == [str(one.original), str(one.extended), str(one.difference)]
        assert [cell[0]["data-v"] for cell in row[6:9]] == [str(one.lost), str(one.gained), str(one.n)]


def test_colours_never_stand_alone(page: Page) -> None:
    assert {row[1][1].split()[0] for row in rows_after(page, "checks")[1:]} <= {"✓", "✗", "?"}
    for row in rows_after(page, "d0-1")[1:]:
        for attributes, text in row[1:]:
            value = float(attributes["data-v"] or "nan")
            if round(value, 1) != 0:
                assert text[0] == ("+" if value > 0 else "\u2212")


def test_the_verdict_stands_first_with_every_check(page: Page, gate: Gate) -> None:
    rows = rows_after(page, "checks")[1:]
    assert len(rows) == len(gate.checks)
    for row, check in zip(rows, gate.checks, strict=True):
        text = " ".join(cell[1] for cell in row)
        assert check.verdict.upper() in text
        assert check.criterion in text
        assert row[5][0]["data-v"] == str(check.difference)
        if check.needed_n is not None and check.verdict == "inconclusive":
            assert f"about {check.needed_n:,} pairs would decide" in text
    sections = [a.get("id") for tag, a in page.tags if tag == "section"]
    assert sections[0] == "verdict"
    shown = re.sub(r"\s", "", page.text)
    assert all(task.name in shown for task in gate.regressed)


@pytest.mark.parametrize("verdict", ["pass", "regression", "inconclusive", "not comparable"])
def test_each_verdict_has_word_sign_and_colour(
    verdict: Any, pair_folders: Any, comparison: Comparison, gate: Gate, tmp_path: Path
) -> None:
    changed = gate.model_copy(update={"verdict": verdict, "paragraph": f"{verdict.upper()}: so it is."})
    html = render(pair_folders, tmp_path / "r.html", comparison=comparison, gate=changed).read_text(encoding="utf-8")
    name = verdict.replace(" ", "-")
    assert f'class="card-of v-{name}"' in html
    assert f"--{name}:" in html
    assert f"</span> {verdict.upper()}</span>" in html
    assert '<p class="paragraph">so it is.</p>' in html


def test_without_gate_a_plain_sentence(pair_folders: Any, comparison: Comparison, tmp_path: Path) -> None:
    page = Page(render(pair_folders, tmp_path / "r.html", comparison=comparison).read_text(encoding="utf-8"))
    assert 'id="verdict"' not in page.text
    [row] = [
        r for r in comparison.pairs[0].differences if (r.level, r.benchmark, r.beyond) == ("benchmark", "ruler", False)
    ]
    assert row.interval.high < 0
    assert (
        f"RULER fell from {row.original:.1f} to {row.extended:.1f} ({formats.signed(row.difference)} poi" in page.text
    )
    assert "significantly lower" in page.text


def test_left_out_and_differing_settings_are_named(page: Page) -> None:
    for part in ("Left out of the comparison", "ruler/qa_1@4096: 5 left out, only in the original",
                 "About the compared runs", "backend.batch_size: 8 in the original, 16 in the extended"):  # fmt: skip
        assert part in page.text


def test_intervals_are_named_for_what_they_are(page: Page) -> None:
    assert "Two-sided at 90\u00a0%" in page.text
    assert "one-sided bound at 95\u00a0%" in page.text


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (4096, 16384, "4k to 16k"),
        (8192, 8192, "8k"),
        (None, 16384, "at most 16k; no length is shown to be effective"),
        (None, None, "none of these lengths"),
    ],
)
def test_effective_lengths_say_what_the_samples_show(
    pair_folders: Any, comparison: Comparison, tmp_path: Path, low: int | None, high: int | None, said: str
) -> None:
    update = {"effective_length": high, "low": low, "high": high, "n": 1234}
    found = [each.model_copy(update=update) for each in comparison.effective_lengths]
    changed = comparison.model_copy(update={"effective_lengths": found})
    text = Page(render(pair_folders, tmp_path / "r.html", comparison=changed).read_text(encoding="utf-8")).text
    assert text.count(f"(95\u00a0% confidence: {said}; n = 1,234 or more at each length).") == 2


def test_a_baseline_file_gives_numbers_and_no_samples(
    pair_folders: Any, comparison: Comparison, gate: Gate, tmp_path: Path
) -> None:
    original = comparison.original.model_copy(update={"kind": "baseline", "source": "base.json", "complete": False})
    saved = comparison.model_copy(update={"original": original})
    html = render([pair_folders[1]], tmp_path / "r.html", comparison=saved, gate=gate).read_text(encoding="utf-8")
    page = Page(html)
    assert "baseline file base.json" in page.text
    assert "holds scores but no answers" in page.text
    assert "Unfinished baseline" in page.text
    assert 'data-kind="lost"' not in html
    assert rows_after(page, "d0-1")
    assert '<thead class="visually-hidden">' not in html, "whose headline numbers these are must be seen"
    # The extended model keeps letter and colour of the second side.
    assert '<i class="key s1" title="tiny-llama-extended">B</i>' in html


def test_runs_take_their_labels_from_the_sides_whatever_their_order(pair_folders: Any, comparison: Comparison) -> None:
    runs = load.load(pair_folders[::-1], comparison)
    assert [(run.label, run.key) for run in runs] == [("tiny-llama", "A"), ("tiny-llama-extended", "B")]


def test_a_run_that_was_not_compared_is_refused(run_folder: Path, comparison: Comparison, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is none of the compared runs"):
        render([run_folder], tmp_path / "r.html", comparison=comparison)
    assert not (tmp_path / "r.html").exists()


def test_a_model_against_itself(pair_folders: Any, comparer: Any, tmp_path: Path) -> None:
    same = [pair_folders[0], pair_folders[0]]
    comparison = comparer(same)
    runs = load.load(same, comparison)
    assert [run.key for run in runs] == ["A", "B"]
    text = Page(render(same, tmp_path / "r.html", comparison=comparison).read_text(encoding="utf-8")).text
    assert "+0.0" not in text
    assert "\u22120.0" not in text


def test_three_models(pair_folders: Any, comparer: Any, maker: Any, tmp_path: Path) -> None:
    third = maker(tmp_path / "third", name="other", samples=24, subjects=3, lift=0.1, grid=("single",), depths=5)
    comparison = comparer([*pair_folders, third])
    page = Page(render([*pair_folders, third], tmp_path / "r.html", comparison=comparison).read_text(encoding="utf-8"))
    assert {"d0-1", "d0-2", "d1-1", "d1-2", "d2-1", "d2-2"} <= set(page.tables)
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids))


def row(**update: Any) -> Difference:
    base: dict[str, Any] = {
        "level": "benchmark", "benchmark": "mmlu", "task": None, "length": None, "beyond": False, "over": "samples",
        "shards": 1, "n": 9,
        "original": 50.0, "extended": 48.0, "difference": -2.0,
        "interval": {"low": -3.0, "high": -1.0, "confidence": 0.9, "method": "score"}, "retention": 0.96,
        "retention_interval": None, "binary": True, "lost": 3, "gained": 1, "p_changed": 0.01, "p_method": "mid-p",
        "p_holm": None, "clusters": None, "design_effect": 1.0,
    }  # fmt: skip
    return Difference.model_validate(base | update)


def sentence(comparison: Comparison, *rows: Difference) -> str:
    pair = Pair(extended=comparison.pairs[0].extended, differences=list(rows), left_out=[], caveats=[])
    return tables_module.sentence(pair, load.Key("ext", 1), load.Key("orig", 0), 0.05)


def test_sentences_say_when_nothing_is_shown(comparison: Comparison) -> None:
    said = "90\u00a0% interval \u22123.0 to \u22121.0, 96.0\u00a0% retained, n = 9 pairs)"
    assert f"MMLU fell from 50.0 to 48.0 (\u22122.0 points, {said}" in sentence(comparison, row())
    interval = {"confidence": 0.9, "method": "score"}
    wide = row(interval=interval | {"low": -3.0, "high": 1.0})
    assert "MMLU shows no significant change (50.0 → 48.0, \u22122.0 points, 90" in sentence(comparison, wide)
    up = row(extended=55.0, difference=5.0, interval=interval | {"low": 1.0, "high": 9.0}, retention=None)
    assert "MMLU rose from 50.0 to 55.0 (+5.0 points, 90\u00a0% interval +1.0 to +9.0, n" in sentence(comparison, up)
    assert sentence(comparison) == "ext and orig have no samples in common."


def test_sentences_count_what_holm_leaves(comparison: Comparison) -> None:
    shard = {"level": "shard", "task": "t"}
    many = [row(), row(**shard, p_holm=0.01), row(**shard, p_holm=0.05), row(**shard, p_holm=0.9)]
    assert "Of 3 shards, 1 is significantly lower and none higher after Holm's correction." in sentence(
        comparison, *many
    )


def test_noise_is_shown_where_it_is_known(pair_folders: Any, comparison: Comparison, tmp_path: Path) -> None:
    pair = comparison.pairs[0]
    noisy = [each.model_copy(update={"noise": 0.7}) for each in pair.differences]
    changed = comparison.model_copy(
        update={"pairs": [pair.model_copy(update={"differences": noisy})], "noise_runs": ["again"]}
    )
    text = Page(render(pair_folders, tmp_path / "r.html", comparison=changed).read_text(encoding="utf-8")).text
    assert "noise 0.7" in text
    assert "Noise: the largest difference between repeats of the original." in text


def test_tables_follow_the_order_of_the_scores(pair_folders: Any, comparison: Comparison) -> None:
    runs = load.load(pair_folders, comparison)
    scores = score_tables(runs, {})[0]
    tables = tables_module.difference_tables(scores, comparison)
    assert [table.beyond for table in tables] == [False, True]
    for table in tables:
        assert [each.name for each in table.rows] == [each.name for each in scores.rows]


def test_lost_samples_come_first_and_are_counted(page: Page, comparison: Comparison) -> None:
    stored = {(r.benchmark, r.task, r.length): r for r in comparison.pairs[0].differences if r.level == "shard"}
    first = stored["ruler", "niah_single_1", 4096]
    assert re.search(rf"{first.lost} lost.*?{first.gained} gained", page.text)
    orders = page.samples
    for kinds in orders:
        ranks = [0 if "lost" in kind else 1 if "gained" in kind else 2 for kind in kinds]
        assert ranks == sorted(ranks)
    assert any("lost" in kind for kinds in orders for kind in kinds)
