"""The report of a search: what it says, that it says it of every kind of search, and that names do nothing."""

from __future__ import annotations

import json
import math
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from lr2eval.base.visible import visible
from lr2eval.errors import StoreError, UsageError
from lr2eval.method.rope.scaling import default_attention_factor
from lr2eval.record.folder import write_manifest
from lr2eval.record.search import FILE, FOUND, SearchResult
from lr2eval.reports import is_search, render_search
from lr2eval.reports.search import figures, page
from lr2eval.reports.search import words as words_module
from tests.reports import hostile
from tests.reports.page import ALLOWED, Page
from tests.reports.searches import LEVELS, make_manifest, make_result, make_search, write_search
from tests.reports.test_browser import (
    _CONTRAST,
    _SHAPE,
    DESKTOP,
    PHONE,
    Open,
    _lone,
    browser,
    fits,
    open_,
)

__all__ = ["browser", "open_"]  # fixtures
pytestmark = pytest.mark.xdist_group("browser")

SHAPES: dict[str, dict[str, Any]] = {
    "better": {},
    "one split, nothing held out": {"splits": (12,), "iterations": 0, "held_out": 0},
    "twelve splits, 64 pairs": {
        "pairs": 64, "window": 8192, "theta": 5e5, "splits": tuple(range(24, 36)), "scale": 16, "iterations": 40,
    },
    "s of 64, one unseen sample": {
        "pairs": 64, "window": 2048, "theta": 1e4, "scale": 64, "splits": (27, 29, 31), "held_out": 1,
    },
    "a rule is better": {"levels": {"yarn": 0.1}},
    "no number": {"nlls": {"none": [math.nan] * 28, "pi": [0.5] * 27 + [math.inf]}},
    "found has no number": {"nlls": {"searched": [0.4] * 10 + [math.nan] * 18}},
    "plain": {"objective": "plain", "held_out": 0},
    "four pairs": {"pairs": 4, "window": 16, "scale": 2, "theta": 100.0, "splits": (1, 2), "held_out": 2},
    "d_tcd beyond, no d_rcd": {"d_tcd": 32, "d_rcd": None},
    "everything at one pair": {"d_tcd": 31, "d_rcd": 31, "d10_tcd": 31, "splits": (30, 31), "best": 31},
    "perfect": {"nlls": dict.fromkeys(LEVELS, [0.0] * 28)},
    "rules without own scores": {"unscored": ("none", "pi", "yarn")},
    "more splits than lines": {"pairs": 64, "window": 8192, "theta": 5e5, "splits": tuple(range(10, 40))},
}  # fmt: skip


@pytest.fixture(params=SHAPES)
def shape(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@cache
def made(shape: str) -> tuple[SearchResult, str]:
    """A search of that shape and its page; drawn once, looked at by many."""
    result = make_result(**SHAPES[shape])
    return result, page.html(result, make_manifest())


def test_equal_results_give_equal_bytes() -> None:
    result, text = made("better")
    assert page.html(make_result(), make_manifest()) == text
    assert page.html(result.model_copy(update={"evaluations": 7}), make_manifest()) != text


def test_every_kind_of_search_makes_a_whole_page(shape: str) -> None:
    text = made(shape)[1]
    read = Page(text)
    assert {tag.lower() for tag, _ in read.tags} <= ALLOWED | {"style"}
    assert not re.search("#0a0[bcdef]", text)
    assert not re.search(r">@\d+@<", text)
    assert "nan" not in re.sub(r"[a-z]*nan[a-z]+|[a-z]+nan", "", "".join(read.data.get("text", [])).lower())
    ids = [attrs["id"] for _, attrs in read.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    policy = [attrs["content"] for tag, attrs in read.tags if tag == "meta" and "http-equiv" in attrs]
    assert policy
    assert (policy[0] or "").startswith("default-src 'none'; script-src 'sha256-")


def test_every_rule_stands_there_with_its_stored_numbers(shape: str) -> None:
    result, text = made(shape)
    rows = Page(text).tables["rules"][1:]
    assert len(rows) == len(result.rules)
    for row, rule in zip(rows, words_module.rank(result), strict=True):
        assert row[0][1].startswith(figures.shown_name(rule.name))
        values = [row[-2][0]["data-v"], row[-1][0]["data-v"]]
        mean = None if rule.search_difference is None else rule.search_difference.mean
        assert values == ["" if v is None else str(v) for v in (rule.search_perplexity, mean)]
        if result.held_out:
            mean = None if rule.held_out_difference is None else rule.held_out_difference.mean
            assert [row[1][0]["data-v"], row[2][0]["data-v"]] == [
                "" if v is None else str(v) for v in (rule.held_out_perplexity, mean)
            ]
            if rule.held_out_difference is not None:
                assert f"n {result.held_out}" in row[2][1]


def test_every_split_and_every_factor_stands_there(shape: str) -> None:
    result, text = made(shape)
    read = Page(text)
    rows = read.tables["splits"][1:]
    assert [int(row[0][1]) for row in rows] == [each.split for each in result.splits]
    assert [float(row[1][0]["data-v"] or "nan") for row in rows] == [each.best_nll for each in result.splits]
    assert [row[3][0]["data-v"] for row in rows] == [str(each.evaluations) for each in result.splits]
    assert all("all iterations done" in row[6][1] for row in rows)
    pairs = read.tables["pairs"][1:]
    assert [row[2][1] for row in pairs] == [f"{factor:.6g}" for factor in result.factors]
    assert [row[1][1] for row in pairs] == [f"{period:,.1f}" for period in result.periods]
    marked = {int(row[0][1]): row[-1][1] for row in pairs if row[-1][1]}
    for name in ("d_tcd", "d10_tcd", "d_rcd", "split"):
        index = getattr(result, name)
        if index is not None and index < len(result.periods):
            assert name in marked[index].split(", ")


@pytest.mark.parametrize(
    ("changes", "kind", "said"),
    [
        ({}, "pass", "On 24 samples that the search has not seen, the found factors have needle perplexity"),
        ({"levels": {"yarn": 0.1}}, "regression", "The best rule, yarn, has"),
        ({"levels": {"longrope2": 0.4}, "spread": 0.3}, "inconclusive", "do not show which is better"),
        ({"held_out": 0}, "inconclusive", "so they look better here than they are"),
        ({"held_out": 0, "levels": {"pi": 0.0}}, "regression", "even on the search's own samples"),
        ({"held_out": 1}, "inconclusive", "n = 1, so no interval"),
        ({"objective": "plain", "held_out": 0}, "inconclusive", "needle perplexity was not measured"),
        ({"nlls": {"searched": [math.inf] * 28}}, "regression", "Do not use them"),
        ({"nlls": {n: [math.nan] * 28 for n in LEVELS if n != FOUND}}, "inconclusive", "No rule has a finite one"),
    ],
)
def test_verdict(changes: dict[str, Any], kind: str, said: str) -> None:
    found = words_module.verdict(make_result(**changes))
    assert found.kind == kind
    assert said in " ".join((found.words, *found.sentences))


def test_verdict_tells_the_stored_interval_from_the_side_of_the_lower_one() -> None:
    better, worse = make_result(), make_result(levels={"yarn": 0.1})
    for result, name, sign in ((better, "longrope2", 1), (worse, "yarn", -1)):
        gap = next(rule for rule in result.rules if rule.name == name).held_out_difference
        assert gap is not None
        assert gap.low is not None
        assert gap.high is not None
        low, high = sorted((sign * gap.low, sign * gap.high))
        first = words_module.verdict(result).sentences[0]
        assert (
            f"{sign * gap.mean:.3f} nats per answer token lower (95\u00a0% interval +{low:.3f} to +{high:.3f}, "
            in first
        )
        assert "paired, n = 24)" in first
        assert ("the found factors are" if sign > 0 else "the rule is") in first


def test_the_start_is_told_apart_from_the_search() -> None:
    def said(**changes: Any) -> str:
        return " ".join(words_module.verdict(make_result(**changes)).sentences)

    assert "the search improved it" in said(levels={"seed": 0.8})
    assert "no improvement by the search is shown" in said(levels={"seed": 0.4}, spread=0.4)
    assert "the search made it worse on these samples" in said(levels={"seed": 0.1})
    result = make_result()
    same = [r.model_copy(update={"factors": result.factors}) if r.name == "seed" else r for r in result.rules]
    again = words_module.verdict(result.model_copy(update={"rules": same}))
    assert "nothing better than its best start" in " ".join(again.sentences)


def test_rank_is_by_unseen_samples_and_what_has_no_number_comes_last() -> None:
    ranked = words_module.rank(make_result(**SHAPES["no number"]))
    values = [rule.held_out_perplexity for rule in ranked]
    assert values[-2:] == [None, None]
    finite = [value for value in values if value is not None]
    assert finite == sorted(finite)
    assert len(finite) == len(ranked) - 2
    own = [rule.search_perplexity or 0 for rule in words_module.rank(make_result(held_out=0))]
    assert own == sorted(own)


def test_caveats() -> None:
    def titles(**changes: Any) -> set[str]:
        return {caveat.title for caveat in words_module.caveats(make_result(**changes))}

    calm = {"held_out": 30, "iterations": 0}
    assert titles(**calm) == set()
    assert titles(**calm | {"held_out": 29}) == {"Few unseen samples"}
    assert titles(**calm, best=14) == {"Best split at the edge"}
    assert titles(**calm, splits=(12,)) == set()
    assert titles(**calm | {"iterations": 3}) == {"Still improving"}
    assert titles(**calm | {"iterations": 3}, stopped="patience") == set()
    assert titles(**calm, d_rcd=None) == {"No factor reaches s"}
    assert titles(**calm, data={"repeated": True}) == {"Repeated haystack"}
    one = {"needles": {"needles": 1, "distractors": 0}}
    assert titles(**calm, data=one) == {"One needle a sample"}
    assert titles(**calm, data={"needles": {"needles": 4, "distractors": 4}}) == set()
    assert titles(**calm, factors=[1.0] * 12 + [8.0] * 20) == {"Factors at a bound"}
    own = {"searched": [0.1] * 4 + [0.5] * 30, "yarn": [0.5, 0.52, 0.5, 0.48] + [0.5] * 30}
    assert titles(**calm, nlls=own) == {"Own and unseen loss differ"}
    assert titles(**calm, nlls=own | {"ntk": [0.5] * 4 + [0.4] * 30}, unscored=["ntk"]) == {
        "Own and unseen loss differ"
    }
    assert titles(**calm, nlls=own, unscored=["none", "pi", "ntk", "yarn", "longrope2"]) == set()
    result = make_result(**calm)
    usual = default_attention_factor(result.scale, result.original_window)
    for temperature, said in ((usual, []), (1.02 * usual, ["High temperature"])):
        told = list(words_module.caveats(result.model_copy(update={"attention_factor": temperature})))
        assert [each.title for each in told] == said
    assert f"--attention-factor {usual:.4g}." in told[0].text


def words(svg: Any) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", str(svg))


def test_figure_of_factors_marks_what_is_known() -> None:
    result = make_result(splits=(12, 14), best=12)
    said = words(figures.factors(result))
    assert {"d10_tcd = 4", "split = d_rcd = 12", "d_tcd = 14", "s = 8", "2s = 16", "found", "pi", "ntk", "yarn"} <= set(
        said
    )
    assert "best start" not in said
    assert "4s = 32" in words(figures.factors(make_result(reach=4.0)))
    unknown = words(figures.factors(make_result(d_tcd=32, d_rcd=None)))
    assert not [word for word in unknown if "d_tcd = 32" in word or "d_rcd" in word]


def test_a_pair_without_a_position_does_not_stretch_the_axis() -> None:
    result = make_result()
    clipped = [1.0] * 30 + [4.0, 1e12]
    rules = [r.model_copy(update={"factors": clipped}) if r.name in ("pi", "searched") else r for r in result.rules]
    svg = str(figures.factors(result.model_copy(update={"rules": rules})))
    numbers = [float(word) for word in words(svg) if re.fullmatch(r"[\d.e+]+", word)]
    assert 16 <= max(numbers) < 100
    assert "1, 4, no position" in svg
    assert "nan" not in svg
    assert "Triangle at the upper edge" in page.html(result.model_copy(update={"rules": rules}), {})
    assert "Triangle at the upper edge" not in page.html(result, {})


def test_figure_of_differences_writes_every_stored_one() -> None:
    result = make_result()
    svg = figures.differences(result, words_module.rank(result))
    said = words(svg)
    for rule in result.rules:
        if rule.held_out_difference is not None:
            assert figures.interval(rule.held_out_difference) in said
    plain = make_result(objective="plain", held_out=0)
    assert figures.differences(plain, plain.rules) is None


def test_figure_of_progress_names_splits_and_the_best_rule() -> None:
    said = words(figures.progress(make_result()))
    assert {"split 10", "split 12", "split 14", "longrope2"} <= set(said)
    assert not {"none", "yarn"} & set(said), "only the best rule is drawn"
    many = words(figures.progress(make_result(**SHAPES["more splits than lines"])))
    assert sum(word.startswith("split ") for word in many) == figures.MOST
    assert "split 25" in many


def test_only_a_finished_search_is_rendered(tmp_path: Path) -> None:
    folder = make_search(tmp_path / "s")
    out = tmp_path / "r.html"
    assert is_search(folder)
    assert not is_search(tmp_path)
    assert render_search(folder, out) == out
    before = out.read_text(encoding="utf-8")
    (folder / FILE).write_text("{", encoding="utf-8")
    with pytest.raises(StoreError, match="not valid JSON"):
        render_search(folder, out)
    (folder / FILE).unlink()
    assert is_search(folder), "by its manifest"
    with pytest.raises(UsageError, match="has not finished"):
        render_search(folder, out)
    assert out.read_text(encoding="utf-8") == before
    (make_search(tmp_path / "bare") / "manifest.json").unlink()
    render_search(tmp_path / "bare", out)


def test_verdict_and_provenance_are_there(shape: str) -> None:
    result, html = made(shape)
    text = Page(html).text
    verdict = words_module.verdict(result)
    for wanted in (verdict.words, *verdict.sentences, *(caveat.text for caveat in words_module.caveats(result))):
        assert wanted in text
    for wanted in (result.digest, "f" * 64, "123,456", "lr2eval search --model 'my model'", "2.13.0", "haystack.txt"):
        assert wanted in text


# In Chromium


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_search(tmp_path_factory.mktemp("search") / "s", **SHAPES["twelve splits, 64 pairs"])
    return render_search(folder, folder / "report.html")


@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_it_fits(open_: Open, report: Path, viewport: Any) -> None:
    tab = open_(report, viewport=viewport)
    assert fits(tab)
    tab.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert fits(tab)


_OVERLAPS = """() => { const found = [];
  for (const svg of document.querySelectorAll('figure svg')) {
    const boxes = [...svg.querySelectorAll('text')].map(t => [t.textContent, t.getBoundingClientRect()]);
    const frame = svg.getBoundingClientRect();
    boxes.forEach(([a, r], i) => {
      if (r.left < frame.left - 1 || r.right > frame.right + 1 || r.top < frame.top - 1) found.push(a + ' outside');
      boxes.slice(i + 1).forEach(([b, q]) => {
        const x = Math.min(r.right, q.right) - Math.max(r.left, q.left);
        const y = Math.min(r.bottom, q.bottom) - Math.max(r.top, q.top);
        if (x > 1 && y > 0.3 * Math.min(r.height, q.height)) found.push(a + ' / ' + b);
      });
    });
  }
  return found; }"""


def test_no_label_of_a_figure_overlaps_another(open_: Open, tmp_path: Path, shape: str) -> None:
    (tmp_path / "report.html").write_text(made(shape)[1], encoding="utf-8")
    tab = open_(tmp_path / "report.html")
    assert tab.evaluate(_OVERLAPS) == []


@pytest.mark.parametrize("marks", [(14, 14, 14), (13, 13, 14), (12, 13, 14), (31, 31, 31), (1, 2, 3), (0, 30, 31)])
def test_no_mark_overlaps_another(open_: Open, tmp_path: Path, marks: tuple[int, int, int]) -> None:
    split, d_rcd, d_tcd = marks
    splits = (max(1, split),)
    folder = make_search(tmp_path / "s", splits=splits, d_rcd=d_rcd, d_tcd=d_tcd, d10_tcd=max(0, split - 2))
    tab = open_(render_search(folder, folder / "report.html"))
    assert tab.evaluate(_OVERLAPS) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast(open_: Open, tmp_path: Path, scheme: str) -> None:
    for place, name in enumerate(("better", "a rule is better", "one split, nothing held out")):
        path = tmp_path / f"{place}.html"
        path.write_text(made(name)[1], encoding="utf-8")
        tab = open_(path, color_scheme=scheme)
        selectors = ["body", "h1", ".mark-of", "h2 .mark-of > span", ".paragraph", ".further", ".caption", "figcaption",
                     ".ours th", ".ours td", ".ours small", ".chips li"]  # fmt: skip
        worst = tab.evaluate(_CONTRAST, selectors)
        assert {selector: ratio for selector, ratio in worst.items() if ratio < 4.5} == {}


def poisoned(folder: Path, strings: tuple[str, ...]) -> Path:
    """A search with every one of ``strings`` as a rule's name, and in every other text of the folder."""
    make_search(folder)
    value = json.loads((folder / FILE).read_text(encoding="utf-8"))
    rules = [rule for rule in value["rules"] if rule["name"] == FOUND]
    for place, text in enumerate(strings):
        rule = value["rules"][place % 4]
        rules.append(rule | {"name": text, "made_by": f"by {text}"})
    value |= {"rules": rules, "model": " ".join(strings), "fingerprint": strings[0], "sha256": None}
    value["data"] = {text: [text] for text in strings} | {"haystack": strings[2], "tokens_read": strings[3]}
    write_search(folder, value)
    manifest = make_manifest() | {"command": list(strings), "created": strings[4]}
    manifest |= {"settings": dict(zip(strings, strings, strict=True)), "versions": {text: text for text in strings}}
    write_manifest(folder, manifest)
    return render_search(folder, folder / "report.html")


VALID = tuple(text.encode("utf-8", "replace").decode() if _lone(text) else text for text in hostile.ALL)
"""Lone surrogates are no UTF-8, so no ``search.json`` holds them."""


@pytest.fixture(scope="module")
def poisoned_reports(tmp_path_factory: pytest.TempPathFactory) -> list[list[Path]]:
    """Pairs of a hostile and a quiet one, each with a third of the strings, as figures name the first rules only."""
    folder = tmp_path_factory.mktemp("poisoned")
    kinds = (("hostile", VALID), ("plain", hostile.PLAIN))
    return [
        [poisoned(folder / f"{name}{turn}", strings[turn : turn + 208]) for name, strings in kinds]
        for turn in range(0, len(VALID), 208)
    ]


@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_hostile_strings_neither_act_nor_break(open_: Open, poisoned_reports: list[list[Path]], viewport: Any) -> None:
    shown = ""
    for dangerous, plain in poisoned_reports:
        tab, quiet = open_(dangerous, viewport=viewport), open_(plain, viewport=viewport)
        assert tab.evaluate(_SHAPE) == quiet.evaluate(_SHAPE), "an element more or less: something got in"
        tab.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
        assert fits(tab)
        for landmark in ("header", "main", "footer", "#verdict", "#factors", "#rules", "#how", "#terms"):
            assert tab.locator(landmark).first.is_visible()
        outer = "() => [...document.body.children].map(e => e.tagName)"
        assert tab.evaluate(outer) == ["A", "HEADER", "MAIN", "FOOTER", "SCRIPT"]
        tab.evaluate(
            """() => { for (const e of document.querySelectorAll('main *')) {
                e.dispatchEvent(new MouseEvent('mouseover', { bubbles: true })); e.focus?.(); } }"""
        )
        tab.locator("#rules thead button").first.click()
        assert tab.evaluate("document.title").endswith("lr2eval report")
        shown += "".join(tab.evaluate("document.body.textContent").split())
    for text in VALID:
        assert "".join(visible(text).split())[:200] in shown, text[:60]


def test_sorting_and_print(open_: Open, report: Path) -> None:
    tab = open_(report)
    heading = tab.locator("#rules thead th").nth(1)
    heading.locator("button").click()
    values = tab.locator("#rules tbody tr > :nth-child(2)").evaluate_all("cells => cells.map(c => +c.dataset.v)")
    assert values == sorted(values, reverse=True)
    tab.emulate_media(media="print")
    assert not tab.locator("nav").is_visible()
    assert tab.pdf(format="A4").startswith(b"%PDF")


def test_without_unseen_samples_only_the_scored_rules_are_listed() -> None:
    result = make_result(held_out=0, unscored=("none", "pi"))
    listed = [rule.name for rule in words_module.rank(result)]
    assert set(listed) == {"ntk", "yarn", "longrope2", "seed", "searched"}
    assert "no finite number" not in words(figures.differences(result, words_module.rank(result)))
    text = page.html(result, {})
    assert "Only the best rules were scored" in text
    assert "same unseen samples" not in text


def test_a_rule_at_two_temperatures_is_drawn_once() -> None:
    result = make_result()
    warm = [
        rule.model_copy(update={"name": "ntk@1.2", "attention_factor": 1.2}) for rule in result.rules
        if rule.name == "ntk"
    ]  # fmt: skip
    twice = result.model_copy(update={"rules": [*result.rules, *warm]})
    assert figures.drawn(twice) == figures.drawn(result)
    assert figures.shown_name("ntk@1.2") not in words(figures.factors(twice))


def test_pairs_that_stay_together_are_one_line() -> None:
    """A descent holds neighbours together where factors may not decrease."""
    result = make_result()
    rows = [
        round_.model_copy(update={"factors": [1.0] * 28 + [9.0 - n, 9.0 - n, 10.0, 12.0 - n / 2], "temperature": 1.1})
        for n, round_ in enumerate(result.best.rounds)
    ]
    lane = result.best.model_copy(update={"split": None, "start": "yarn", "rounds": rows})
    svg = figures.descent(result.model_copy(update={"splits": [lane], "split": None}))
    assert svg is not None
    assert {"pairs 28 to 29", "pair 31", "from yarn"} <= set(words(svg))


def test_rules_without_room_are_named() -> None:
    result = make_result()
    one = result.rules[0]
    more = [
        one.model_copy(update={"name": f"rule-{n}", "factors": [n + 1.5] * len(one.factors)})
        for n in range(figures.MOST + 1)
    ]
    text = page.html(result.model_copy(update={"rules": [*result.rules, *more]}), {})
    assert f"More rules in search.json: rule-{figures.MOST - 5}" in text
    assert "made_by=" not in text
