"""The report of a comparison as a reader has it: in Chromium, by mouse and keyboard, dark, on a phone, on paper."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, sync_playwright
from playwright.sync_api import Page as Tab

from lr2eval.base.visible import visible
from lr2eval.record.comparison import Comparison, Gate, LeftOut, Pair
from lr2eval.record.results import Results
from lr2eval.reports import load, render
from tests.reports import hostile

pytestmark = pytest.mark.xdist_group("browser")
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("Chromium absent: install the package chromium (make browser)")
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=chromium, args=FLAGS, headless=True)
        yield found
        found.close()


Open = Callable[..., Tab]


@pytest.fixture
def open_(browser: Browser) -> Iterator[Open]:
    """Opens a file in a fresh context; afterwards nothing may have been said, asked for, or left."""
    opened: list[tuple[Any, Tab, str, dict[str, list[str]]]] = []

    def go(path: Path, **options: Any) -> Tab:
        context = browser.new_context(**({"viewport": DESKTOP, "color_scheme": "light"} | options))
        seen: dict[str, list[str]] = {"said": [], "asked": [], "dialogs": [], "errors": []}
        context.on("request", lambda request: seen["asked"].append(request.url))
        tab = context.new_page()
        tab.on(
            "console", lambda m: seen["said"].append(f"{m.type}: {m.text}") if m.type in ("error", "warning") else None
        )
        tab.on("pageerror", lambda error: seen["errors"].append(str(error)))
        tab.on("dialog", lambda dialog: (seen["dialogs"].append(dialog.message), dialog.dismiss()))
        tab.goto(path.as_uri())
        opened.append((context, tab, path.as_uri(), seen))
        return tab

    yield go
    for context, tab, address, seen in opened:
        assert tab.url.partition("#")[0] == address, "the page was left"
        assert tab.evaluate("window.canary") is None, "something ran"
        assert len(context.pages) == 1
        asked = [url for url in seen.pop("asked") if not url.startswith("data:")]
        assert asked == [address], "something was fetched"
        assert not any(seen.values()), seen
        context.close()


@pytest.fixture(scope="module")
def report(
    pair_folders: tuple[Path, Path], comparison: Comparison, gate: Gate, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    # Every shard marked as significant: the mark and its words for screen readers are part of what must fit.
    pair = comparison.pairs[0]
    rows = [r.model_copy(update={"p_holm": 0.001}) if r.level == "shard" else r for r in pair.differences]
    marked = comparison.model_copy(update={"pairs": [pair.model_copy(update={"differences": rows})]})
    return render(pair_folders, tmp_path_factory.mktemp("out") / "report.html", comparison=marked, gate=gate)


def column(table: Locator, number: int) -> list[float]:
    cells = table.locator(f"tbody tr > :nth-child({number + 1})")
    return [float(v) for v in cells.evaluate_all("cells => cells.map(c => c.dataset.v)") if v != ""]


def fits(tab: Tab) -> bool:
    return bool(tab.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth"))


def test_sorting_by_mouse(open_: Open, report: Path) -> None:
    table = open_(report).locator("#d0-1")
    before = column(table, 1)
    heading = table.locator("thead th").nth(1)
    heading.locator("button").click()
    assert heading.get_attribute("aria-sort") == "descending"
    assert column(table, 1) == sorted(before, reverse=True) != before
    heading.locator("button").click()
    assert heading.get_attribute("aria-sort") == "ascending"
    assert column(table, 1) == sorted(before)
    assert table.locator("[aria-sort=ascending], [aria-sort=descending]").count() == 1
    table.locator("thead th").first.locator("button").click()
    names = table.locator("tbody th").all_inner_texts()
    assert [name.lower() for name in names] == sorted(name.lower() for name in names)
    assert table.locator("tfoot th").inner_text() == "Mean"


def test_filtering(open_: Open, report: Path) -> None:
    tab = open_(report)
    table = tab.locator("#d2-1")
    assert table.is_visible(), "open by itself where a task changed significantly"
    rows = table.locator("tbody tr")
    field = tab.get_by_label("Filter tasks").first
    field.fill("number_1")
    shown = [row.locator("th").inner_text() for row in rows.all() if row.is_visible()]
    assert 0 < len(shown) < rows.count()
    assert all("number_1" in text for text in shown)
    count = tab.locator("p.tools:has(#d2-1-filter) .count")
    assert count.inner_text() == f"{len(shown)} of {rows.count()}"
    field.fill("")
    assert all(row.is_visible() for row in rows.all())
    assert count.inner_text() == ""


def test_chips_and_drill_down(open_: Open, report: Path) -> None:
    tab = open_(report)
    assert not tab.locator(".sample .body").locator("visible=true").count()
    for name, kind in (("Lost", "lost"), ("Gained", "gained")):
        chip = tab.locator("#samples .chip", has_text=name)
        chip.click()
        assert chip.get_attribute("aria-pressed") == "true"
        assert tab.locator("#samples .chip[aria-pressed=true]").count() == 1
        shown = tab.locator("#samples .sample").locator("visible=true")
        kinds = shown.evaluate_all("all => all.map(e => e.dataset.kinds)")
        assert kinds
        assert all(kind in each.split() for each in kinds)
        assert chip.inner_text() == f"{name} {len(kinds)}"
    tab.locator("#samples .chip", has_text="Lost").click()
    sample = tab.locator(".sample[data-kinds~=lost]:has(mark)").locator("visible=true").first
    sample.locator("summary").click()
    answers = sample.locator(".answer")
    assert answers.locator("h5").all_inner_texts() == ["Correct answer", "A\ntiny-llama", "B\ntiny-llama-extended"] or [
        " ".join(text.split()) for text in answers.locator("h5").all_inner_texts()
    ] == ["Correct answer", "Atiny-llama", "Btiny-llama-extended"]
    assert all(answer.is_visible() for answer in answers.all())
    assert "special magic number" in sample.locator("mark").first.inner_text()
    before, after = (float(t.split("score ")[1].split()[0]) for t in answers.locator(".facts").all_inner_texts())
    assert after < before


def focused(tab: Tab) -> dict[str, Any]:
    found: dict[str, Any] = tab.evaluate(
        """() => { const e = document.activeElement, s = getComputedStyle(e), r = e.getBoundingClientRect();
        return { tag: e.tagName, text: e.textContent.trim(), outline: s.outlineStyle, width: parseFloat(s.outlineWidth),
                 inside: r.bottom > 0 && r.top < innerHeight && r.right > 0 && r.width > 0 }; }"""
    )
    return found


def tab_to(tab: Tab, wanted: Callable[[dict[str, Any]], bool], most: int = 400) -> dict[str, Any]:
    for _ in range(most):
        tab.keyboard.press("Tab")
        here = focused(tab)
        if here["tag"] != "BODY":
            assert here["outline"] != "none", f"focus not visible on {here}"
            assert here["width"] >= 2, f"focus not visible on {here}"
            assert here["inside"], f"focus out of sight on {here}"
        if wanted(here):
            return here
    raise AssertionError("never reached by Tab")


def test_keyboard_alone(open_: Open, report: Path) -> None:
    tab = open_(report)
    tab_to(tab, lambda e: e["text"] == "Skip to the results", most=1)
    tab.keyboard.press("Enter")
    tab.wait_for_function("location.hash === '#results'")  # tab.url is told of it later, when the machine is busy
    tab_to(tab, lambda e: e["tag"] == "BUTTON" and e["text"] == "Difference")
    tab.keyboard.press("Enter")
    checks = tab.locator("#checks")
    assert column(checks, 5) == sorted(column(checks, 5), reverse=True)
    tab.keyboard.press("Space")
    assert column(checks, 5) == sorted(column(checks, 5))
    tab.locator("#samples .chip").first.focus()
    tab_to(tab, lambda e: e["text"].startswith("Lost"))
    tab.keyboard.press("Space")
    assert tab.locator("#samples .chip[aria-pressed=true]").inner_text().startswith("Lost")
    tab_to(tab, lambda e: e["tag"] == "SUMMARY" and e["text"].startswith("#"))
    tab.keyboard.press("Enter")
    assert tab.evaluate("document.activeElement.parentElement.open") is True
    tab.keyboard.press("Space")
    assert tab.evaluate("document.activeElement.parentElement.open") is False


_CONTRAST = """selectors => {
  const parse = text => {
    const n = text.match(/-?[\\d.]+(e-?\\d+)?/g).map(Number);
    const scale = text.startsWith('color(') ? 255 : 1;
    return [n[0] * scale, n[1] * scale, n[2] * scale, n[3] ?? 1];
  };
  const linear = v => (v /= 255) <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
  const light = rgb => .2126 * linear(rgb[0]) + .7152 * linear(rgb[1]) + .0722 * linear(rgb[2]);
  const behind = e => {
    for (; e; e = e.parentElement) {
      const colour = parse(getComputedStyle(e).backgroundColor);
      if (colour[3] > .99) return colour;
    }
    return [255, 255, 255, 1];
  };
  const worst = {};
  for (const selector of selectors) for (const e of document.querySelectorAll(selector)) {
    const back = behind(e), style = getComputedStyle(e), o = parseFloat(style.opacity);
    const front = parse(style.color).slice(0, 3).map((v, i) => v * o + back[i] * (1 - o));
    const [a, b] = [light(front), light(back)].sort((x, y) => y - x);
    worst[selector] = Math.min(worst[selector] ?? 99, (a + .05) / (b + .05));
  }
  return worst; }"""
"""The least WCAG contrast of the elements each selector finds."""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast(open_: Open, report: Path, scheme: str) -> None:
    tab = open_(report, color_scheme=scheme)
    selectors = [
        "body", "h1", ".soft", ".caption", "nav a", ".mark-of", "h2 .mark-of > span", ".paragraph", ".key",
        "td.diff b", "td.diff small", "td.heat b", "td.heat small", ".under", ".notice h3", "figcaption",
        "#samples .chip:enabled", ".change", "mark", ".facts",
    ]  # fmt: skip
    worst = tab.evaluate(_CONTRAST, selectors)
    assert set(worst) == set(selectors)
    assert {selector: ratio for selector, ratio in worst.items() if ratio < 4.5} == {}


def test_dark_mode_turns_page_and_figures(open_: Open, report: Path) -> None:
    look = """() => ['body', 'svg text', 'td.diff', '.card-of'].map(s => {
        const c = getComputedStyle(document.querySelector(s));
        return [c.color, c.backgroundColor, c.fill]; })"""
    light, dark = (open_(report, color_scheme=scheme).evaluate(look) for scheme in ("light", "dark"))
    assert light[0][:2] != dark[0][:2]
    assert light[1][2] != dark[1][2], "text of the figures stays dark"
    assert light[2][1] != dark[2][1]
    assert light[3][1] != dark[3][1]


def test_a_phone_needs_no_sideways_scrolling(open_: Open, report: Path) -> None:
    tab = open_(report, viewport=PHONE, has_touch=True, is_mobile=True)
    assert fits(tab)
    tab.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert fits(tab)
    # What is wider than the screen scrolls by itself and can be reached by keyboard.
    wide = tab.locator(".scroll").evaluate_all(
        "all => all.filter(e => e.scrollWidth > e.clientWidth).map(e => [e.tabIndex, getComputedStyle(e).overflowX])"
    )
    assert wide
    assert all(each == [0, "auto"] for each in wide)


def test_print(open_: Open, report: Path) -> None:
    tab = open_(report, color_scheme="dark")
    tab.emulate_media(media="print", color_scheme="dark")
    for selector in ("nav", ".tools", ".skip"):
        assert not tab.locator(selector).first.is_visible()
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert tab.locator("#verdict").is_visible()
    pdf = tab.pdf(format="A4")
    assert pdf.startswith(b"%PDF")


def test_without_script_everything_is_readable(open_: Open, browser: Browser, report: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    tab = context.new_page()
    tab.goto(report.as_uri())
    assert tab.locator("#verdict").is_visible()
    assert not tab.locator("#samples .chip").first.is_visible()
    tab.locator(".shard > summary").first.click()
    tab.locator(".sample > summary").first.click()
    assert tab.locator(".sample .answer").first.is_visible()
    context.close()


def poisoned(folder: Path, strings: tuple[str, ...], maker: Any, comparer: Any, judge: Any) -> Path:
    """A report with every one of ``strings`` in answers, prompts, gold, names, data facts and words of a verdict."""
    tasks, subjects = strings[:100], tuple(" ".join(strings[n : n + 6]) for n in range(100, len(strings), 6))
    runs = []
    for name, lift in ((" ".join(strings[:100]), 0.3), (" ".join(strings[100:]), -0.3)):
        run = maker(
            folder / str(lift), name=name, tasks=tasks, lengths=(4096, 8192), samples=3, lift=lift,
            texts=strings, flip=0.2, subject_names=subjects, share=lambda place, step: 0.6,
        )  # fmt: skip
        path = run / "results.json"
        stored = json.loads(path.read_text(encoding="utf-8"))
        for place, shard in enumerate(stored["shards"]):
            shard["data"] = {strings[place % len(strings)]: strings[-1 - place % len(strings)]}
        stored["not_run"] = [{"task": text, "length": None, "reason": text} for text in strings]
        path.write_text(json.dumps(stored), encoding="utf-8")
        manifest = json.loads((run / "manifest.json").read_text(encoding="utf-8"))
        manifest |= {"command": list(strings), "environment": dict(enumerate(strings))}
        (run / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
        runs.append(run)
    comparison: Comparison = comparer(runs)
    extended: Pair = comparison.pairs[0]
    changed = extended.model_copy(
        update={
            "caveats": list(strings),
            "left_out": [LeftOut.model_construct(what=text, n=1, reason=text) for text in strings],
        }
    )
    # Further models that are known by name only, so that names are tried one by one, not only in one long string.
    few = [row for row in extended.differences if row.level == "benchmark" or row.task == tasks[0]]
    more = []
    for n in range(0, len(strings), 32):
        label = {"label": " ".join(strings[n : n + 32]), "digest": f"none{n}"}
        named = {
            "extended": extended.extended.model_copy(update=label),
            "differences": few,
            "caveats": [],
            "left_out": [],
        }
        more.append(extended.model_copy(update=named))
    comparison = comparison.model_copy(update={"pairs": [changed, *more], "noise_runs": list(strings)})
    gate: Gate = judge(comparison)
    checks = [
        gate.checks[0].model_copy(update={"name": f"{text}:{text}@{text}", "criterion": text}) for text in strings[:60]
    ]
    gate = gate.model_copy(update={"paragraph": " ".join(strings), "checks": checks, "reason": strings[0]})
    return render(runs, folder / "report.html", comparison=comparison, gate=gate)


_SHAPE = """() => { const found = {};
  for (const e of document.querySelectorAll('body *')) {
    const name = e.tagName.toLowerCase() + (e.closest('svg') ? ' in svg' : '');
    if (!['wbr', 'text in svg'].includes(name) && !name.endsWith(' in svg')) found[name] = (found[name] ?? 0) + 1;
  }
  return found; }"""


@pytest.fixture(scope="module")
def poisoned_reports(tmp_path_factory: pytest.TempPathFactory, make: Any) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("poisoned")
    valid = tuple(text.encode("utf-8", "replace").decode() if _lone(text) else text for text in hostile.ALL)
    # Lone surrogates cannot be stored in names (UTF-8); answers and gold keep them where the store does.
    assert len(set(valid)) >= 600
    return tuple(  # type: ignore[return-value]
        poisoned(folder / name, strings, *make) for name, strings in (("hostile", valid), ("plain", hostile.PLAIN))
    )


def _lone(text: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in text)


@pytest.fixture(scope="module")
def make() -> tuple[Any, Any, Any]:
    from tests.reports import conftest

    return conftest.make_run, conftest.compare_runs, conftest.make_gate


@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_hostile_strings_neither_act_nor_break(open_: Open, poisoned_reports: Any, viewport: Any) -> None:
    dangerous, plain = poisoned_reports
    tab = open_(dangerous, viewport=viewport)
    quiet = open_(plain, viewport=viewport)
    assert tab.evaluate(_SHAPE) == quiet.evaluate(_SHAPE), "an element more or less: something got in"
    assert fits(tab)
    tab.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert fits(tab)
    for landmark in ("header", "main", "footer", "#samples", "#how", "#terms", "#verdict"):
        assert tab.locator(landmark).first.is_visible()
    outer = "() => [...document.body.children].map(e => e.tagName)"
    assert tab.evaluate(outer) == ["A", "HEADER", "MAIN", "FOOTER", "SCRIPT"]
    # Whatever waits for a pointer, a focus or a moment gets it.
    tab.evaluate(
        """() => { for (const e of document.querySelectorAll('main *')) {
            e.dispatchEvent(new MouseEvent('mouseover', { bubbles: true }));
            e.focus?.(); } }"""
    )
    tab.locator("#checks thead button").first.click()
    tab.wait_for_timeout(200)
    assert tab.evaluate("document.title").endswith("lr2eval report")


def test_hostile_strings_are_all_there_to_read(poisoned_reports: Any, open_: Open) -> None:
    tab = open_(poisoned_reports[0])
    shown = "".join(tab.evaluate("document.body.textContent").split())
    for text in hostile.ALL:
        if not _lone(text):
            wanted = "".join(visible(text).split())[:200]
            assert wanted in shown, text[:60]


def test_lone_surrogates_reach_the_page_as_signs(open_: Open, maker: Any, comparer: Any, tmp_path: Path) -> None:
    texts = tuple(text for text in hostile.ALL if _lone(text))
    runs = [
        maker(tmp_path / name, name=name, tasks=("vt",), lengths=(4096,), subjects=0, samples=9, texts=(*texts, "x"))
        for name in ("a", "b")
    ]
    tab = open_(render(runs, tmp_path / "r.html", comparison=comparer(runs)))
    assert "⟨U+D800⟩" in tab.evaluate("document.body.textContent")
    assert Results.model_validate_json((runs[0] / "results.json").read_bytes()).model.name == load.load(runs)[0].label


LONG = {
    "solid": ("W" * 3000, "W" * 2999 + "X"),
    "words": ("some words " * 270, "more words " * 270),
    "wide": ("漢字" * 1500, "漢字" * 1499 + "仮名"),
}


@pytest.fixture(scope="module")
def long_names(tmp_path_factory: pytest.TempPathFactory, make: Any) -> dict[str, Path]:
    """Reports of models and tasks with names of 3,000 and 1,500 characters."""
    maker, comparer, judge = make
    folder, found = tmp_path_factory.mktemp("long"), {}
    for kind, names in LONG.items():
        tasks = ("vt", f"{names[0][:1500]}-task")
        runs = [
            maker(
                folder / kind / str(place), name=name, tasks=tasks, lengths=(4096, 8192), subjects=2, samples=3,
                lift=-0.1 * place, data={names[0][:300]: name},
            )
            for place, name in enumerate(names)
        ]  # fmt: skip
        comparison = comparer(runs)
        found[kind] = render(runs, folder / f"{kind}.html", comparison=comparison, gate=judge(comparison))
    return found


@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
@pytest.mark.parametrize("kind", list(LONG))
def test_long_names_make_a_page_neither_wide_nor_long(
    open_: Open, long_names: dict[str, Path], kind: str, viewport: Any
) -> None:
    tab = open_(long_names[kind], viewport=viewport)
    assert fits(tab)
    tab.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert fits(tab)
    tallest = """all => Math.max(...all.map(e => e.getBoundingClientRect().height))"""
    assert tab.locator("h1, h2, h3, h5, tr, li, main p, summary").evaluate_all(tallest) < 600
    wide = ".scroll, .tile"
    assert tab.locator(wide).evaluate_all("all => Math.max(...all.map(e => e.scrollWidth))") < 1700
    name = "".join(LONG[kind][1].split())
    facts = tab.locator("#how")
    assert name in "".join((facts.text_content() or "").split()), "the whole name stands in the facts"
    facts.evaluate("e => e.remove()")
    assert name[:300] not in "".join((tab.locator("body").text_content() or "").split())
