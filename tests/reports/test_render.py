"""The finished page: inert, true to ``results.json``, equal for equal runs, honest about gaps."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
from jinja2 import UndefinedError

from lr2eval.base.visible import visible
from lr2eval.errors import StoreError, UsageError
from lr2eval.record.results import NotRun, Results
from lr2eval.record.verified import verified_run
from lr2eval.reports import formats, render
from lr2eval.reports.load import load
from lr2eval.reports.page import environment
from lr2eval.reports.run import samples
from tests.fake_runs import fake_run, ones
from tests.reports.page import ALLOWED, Page


@pytest.fixture(scope="module")
def html(run_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    return render([run_folder], tmp_path_factory.mktemp("out") / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


def test_one_script_and_the_policy_names_its_hash(page: Page) -> None:
    [script] = page.data["script"]
    assert [tag for tag, _ in page.tags].count("script") == 1
    [policy] = [
        a["content"] for tag, a in page.tags if tag == "meta" and a.get("http-equiv") == "Content-Security-Policy"
    ]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy == (f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data:")


def test_nothing_is_fetched_and_nothing_acts(page: Page) -> None:
    for tag, attributes in page.tags:
        assert tag in ALLOWED, f"unexpected <{tag}>: did something get in unescaped?"
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            if name in ("src", "href", "xlink:href", "action", "srcset", "data", "poster"):
                assert (value or "").startswith("#") or value == "data:,", (tag, name, value)
            if name == "style":
                assert "url(" not in (value or "").replace("url(#", ""), value
    assert "@import" not in page.data["style"][0]
    assert "url(" not in page.data["style"][0]


def test_ids_are_unique_and_links_inside_lead_somewhere(page: Page) -> None:
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids))
    for tag, attributes in page.tags:
        for name in ("href", "xlink:href", "aria-labelledby", "for"):
            for target in (attributes.get(name) or "").split():
                if target != "data:,":
                    assert target.removeprefix("#") in ids, (tag, name, target)


def test_hostile_text_is_shown_as_text(page: Page, html: str) -> None:
    shown = page.text
    for hostile in ("<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "{{ 7 * 7 }}{% raw %}{{ config }}",
                    "</script></style></title>", "nul⟨U+0000⟩ bell⟨U+0007⟩", "right⟨U+202E⟩to left⟨U+2066⟩",
                    "lone ⟨U+D800⟩ surrogate", "$\\frac{1}{0}$ &lt;b&gt; &amp;"):  # fmt: skip
        assert hostile in shown, hostile
    assert visible(html) == html


def test_hostile_names_everywhere(maker: Any, tmp_path: Path) -> None:
    for number, name in enumerate(["</title><script>alert(1)</script>", "\u202emodel\x00", "{{ runs }}", "a\nb" * 99]):
        run = maker(tmp_path / str(number), name=name, tasks=(name,), lengths=(4096, 8192), subjects=0, samples=3)
        text = render([run, run], tmp_path / f"{number}.html").read_text(encoding="utf-8")
        page = Page(text)
        assert {tag for tag, _ in page.tags} <= ALLOWED
        assert [tag for tag, _ in page.tags].count("script") == 1
        assert re.sub(r"\s", "", visible(name)) in re.sub(r"\s", "", page.text)


def test_every_stored_score_is_shown(page: Page, run_folder: Path) -> None:
    results = Results.model_validate_json((run_folder / "results.json").read_bytes())
    stored = {row[0][1]: row for row in page.rows if row and row[0][0].get("scope") == "row"}
    names = list(dict.fromkeys(s.length for s in results.shards if s.length))
    for shard in results.shards:
        row = stored[visible(formats.task(shard.benchmark, shard.task))]
        attributes, text = row[1 + (names.index(shard.length) if shard.length else 0)]
        assert shard.score is not None
        assert shard.interval is not None
        assert attributes["data-v"] == str(shard.score)
        assert text.startswith(f"{shard.score:.1f}")
        whole = text if shard.length else text + row[2][1] + "n " + row[3][1]
        assert f"{formats.score(shard.interval.low)}–{formats.score(shard.interval.high)}" in whole
        assert f"n {shard.n}" in whole
    for summary in results.summaries:
        assert any(cell[0].get("data-v") == str(summary.score) for row in page.rows for cell in row[1:]), summary


def test_the_cap_is_kept_and_stated(page: Page, run_folder: Path) -> None:
    shards = len(Results.model_validate_json((run_folder / "results.json").read_bytes()).shards)
    shown, current = [], 0
    for _, attributes in page.tags:
        if attributes.get("class") == "shard":
            shown.append(current := 0)
        elif attributes.get("class") == "sample":
            shown[-1] = current = current + 1
    assert len(shown) == shards
    assert max(shown) == samples.places(shards) < 40
    assert f"At most {max(shown)} per shard" in page.text
    assert f"{max(shown)} of 40 shown" in page.text


def test_the_record_is_complete(page: Page, run_folder: Path) -> None:
    results = json.loads((run_folder / "results.json").read_text())
    cells = {text for row in page.rows for _, text in row}
    for fact in (results["digest"], results["model"]["fingerprint"], "0.4.13", "A processor", "3723.5"):
        assert fact in cells, fact
    assert {"backend.batch_size", "window_policy", "LR2EVAL_CACHE", "rope_type"} <= cells
    assert "--out 'runs/it'\"'\"'s here'" in page.text


def test_equal_runs_give_equal_pages(maker: Any, tmp_path: Path) -> None:
    pages = []
    for place in ("one", "two"):
        run = maker(tmp_path / place / "run", subjects=2, samples=4)
        pages.append(render([run], tmp_path / f"{place}.html").read_bytes())
    assert pages[0] == pages[1]


def test_gaps_are_named(maker: Any, tmp_path: Path) -> None:
    missing = NotRun(task="ruler/qa_1", length=8192, reason="SQuAD <is> missing")
    data = {"haystack": "stand-in essays"}
    counts = {"skipped": 2, "truncated": 1, "samples": 5, "subjects": 1}
    run = maker(tmp_path / "run", complete=False, data=data, not_run=(missing,), **counts)
    page = Page(render([run], tmp_path / "report.html").read_text(encoding="utf-8"))
    for part in ("Unfinished run", "ruler/qa_1 at 8k: SQuAD <is> missing", "Stand-in data", "Truncated prompts",
                 "Skipped samples", "Empty answers", "Few samples", "unfinished"):  # fmt: skip
        assert part in page.text, part


def test_a_whole_run_has_no_caveats(maker: Any, tmp_path: Path) -> None:
    run = maker(tmp_path / "run", tasks=("vt",), lengths=(4096,), subjects=0, samples=30, lift=9.0)
    text = render([run], tmp_path / "report.html").read_text(encoding="utf-8")
    assert "None. The run is complete" in text
    assert "unfinished" not in Page(text).text


@pytest.mark.parametrize(
    ("data", "title"),
    [({"scoring": "lm-eval"}, "Scored as in lm-eval"), ({"order": "nvidia"}, "Order of NVIDIA/RULER")],
)
def test_another_scoring_or_order_is_said(data: dict[str, str], title: str, maker: Any, tmp_path: Path) -> None:
    kinds = {"tasks": ("vt",), "lengths": (4096,), "subjects": 0, "samples": 30, "lift": 9.0}
    plain = maker(tmp_path / "plain", **kinds)
    compat = maker(tmp_path / "compat", data=data, **kinds)
    text = Page(render([plain, compat], tmp_path / "report.html").read_text(encoding="utf-8")).text
    assert title in text
    assert "ruler/vt@4096" in text


def test_a_run_that_has_just_begun(maker: Any, tmp_path: Path) -> None:
    run = maker(tmp_path / "run", tasks=(), subjects=0, complete=False)
    text = Page(render([run], tmp_path / "report.html").read_text(encoding="utf-8")).text
    assert "Nothing has been scored yet." in text
    assert "No samples have been scored yet." in text


def test_a_shard_with_every_sample_skipped(maker: Any, tmp_path: Path) -> None:
    run = maker(tmp_path / "run", tasks=("vt", "cwe"), lengths=(4096, 8192), subjects=1, samples=3, skipped=3)
    assert Page(render([run], tmp_path / "report.html").read_text(encoding="utf-8"))


def test_two_runs_stand_side_by_side(maker: Any, run_folder: Path, tmp_path: Path) -> None:
    original = maker(tmp_path / "original", name="tiny-llama", lift=-0.2, lengths=(4096, 8192))
    page = Page(render([original, run_folder], tmp_path / "report.html").read_text(encoding="utf-8"))
    [row] = [row for row in page.rows if row and row[0][1] == "niah_single_1"]
    a, b = (Results.model_validate_json((run / "results.json").read_bytes()).shards for run in (original, run_folder))
    assert [cell[0]["data-v"] for cell in row[1:5]] == [str(x.score) for x in (a[0], b[0], a[1], b[1])]
    assert [cell[0]["data-v"] for cell in row[5:]] == ["", str(b[2].score), "", str(b[3].score)]
    assert "tiny-llama-extended" in page.text


def test_runs_of_one_model_are_told_apart(maker: Any, tmp_path: Path) -> None:
    runs = [maker(tmp_path / name, tasks=("vt",), lengths=(4096,), subjects=0, samples=2) for name in ("fp32", "bf16")]
    assert [run.label for run in load(runs)] == ["tiny-llama-extended (fp32)", "tiny-llama-extended (bf16)"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda run: (run / "results.json").unlink(),
            "has no results.json; give the folder of a run",
        ),
        (lambda run: (run / "results.json").write_text("{"), "results.json: not valid JSON"),
        (lambda run: (run / "results.json").write_text("{}"), "results.json: damaged at lr2eval_version"),
        (lambda run: (run / "results.json").write_bytes(b"\xff\xfe"), "results.json: not UTF-8"),
        (lambda run: (run / "manifest.json").unlink(), "manifest.json: no such file"),
        (lambda run: (run / "samples.sqlite").unlink(), "samples.sqlite: no such file"),
        (lambda run: (run / "samples.sqlite").write_bytes(b"no database" * 99), "samples.sqlite: .*damaged"),
        (lambda run: (run / "manifest.json").write_text("["), "manifest.json: not valid JSON"),
    ],
)
def test_bad_folders_are_one_line_and_write_nothing(
    tmp_path: Path, damage: Any, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lr2eval.reports.load.verified_run", verified_run)  # as it is outside these tests
    run = fake_run(tmp_path / "run", {"ruler/vt@4096": ones(2)})
    damage(run)
    with pytest.raises((StoreError, UsageError), match=message) as caught:
        render([run], tmp_path / "report.html")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "report.html").exists()


def test_no_folder_no_report(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        render([], tmp_path / "report.html")
    with pytest.raises(UsageError, match=r"give the folder of a run"):
        render([tmp_path / "absent"], tmp_path / "report.html")


def test_unwritable_place_is_one_line(run_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"report\.html: No such file or directory"):
        render([run_folder], tmp_path / "absent" / "report.html")


def test_templates_stumble_over_unknown_names() -> None:
    with pytest.raises(UndefinedError):
        environment().from_string("{{ misspelt }}").render()
    assert environment().from_string("{{ x }}").render(x="<\x00>") == "&lt;⟨U+0000⟩&gt;"


def test_a_full_suite_stays_small(maker: Any, tmp_path: Path) -> None:
    tasks = tuple(f"task_{number}" for number in range(13))
    lengths = tuple(4096 * 2**step for step in range(6))
    runs = [
        maker(tmp_path / name, name=name, tasks=tasks, lengths=lengths, samples=100, lift=lift)
        for name, lift in (("original", 0.0), ("extended", -0.1))
    ]
    out = render(runs, tmp_path / "report.html")
    assert out.stat().st_size < 3_000_000


def tile_rows(text: str) -> dict[str, str]:
    return {row[0][1]: row[1][1] for row in Page(text).rows if len(row) == 2}


def test_effective_length_and_weighted_averages_are_the_stored_ones(maker: Any, tmp_path: Path) -> None:
    run = maker(tmp_path / "run", subjects=0, samples=4)
    path = run / "results.json"
    stored = json.loads(path.read_text(encoding="utf-8"))
    (over,) = stored["over_lengths"]
    # Numbers nobody could compute from the shards: they must come from the file.
    over |= {"effective_length": 8192, "weighted_increasing": 12.34, "weighted_decreasing": 56.78}
    path.write_text(json.dumps(stored), encoding="utf-8")
    rows = tile_rows(render([run], tmp_path / "a.html").read_text(encoding="utf-8"))
    assert rows["Effective length"] == "8klongest with a mean above 85.66 tasks of 13, 4 lengths"
    assert (rows["wAvg inc"], rows["wAvg dec"]) == ("12.3", "56.8")
    over |= {"effective_length": None, "weighted_increasing": None, "weighted_decreasing": None, "tasks": 13}
    path.write_text(json.dumps(stored), encoding="utf-8")
    rows = tile_rows(render([run], tmp_path / "b.html").read_text(encoding="utf-8"))
    assert rows["Effective length"] == "noneno mean above 85.613 tasks, 4 lengths"
    assert "wAvg inc" not in rows


@pytest.mark.parametrize(("window", "drawn"), [(2048, False), (8192, True), (65_536, False)])
def test_the_original_window_is_marked_where_the_figure_reaches_it(
    maker: Any, tmp_path: Path, window: int, drawn: bool
) -> None:
    run = maker(
        tmp_path / "run", tasks=("vt",), lengths=(4096, 16_384), subjects=0, samples=2,
        model={"original_window": window, "rope_type": "longrope"},
    )  # fmt: skip
    text = Page(render([run], tmp_path / "a.html").read_text(encoding="utf-8")).text
    assert (f"original window {formats.length(window)}" in text) == drawn
