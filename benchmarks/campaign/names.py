"""Hostile names of models, tasks and folders, and what becomes of them in every place where lr2eval shows a name."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import subprocess
import unicodedata
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from functools import partial
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from . import judge, strings
from .kills import Planned
from .process import Done, run_here
from .table import Finding

KIND = "hostile names"
BATCH = 12
"""Names on one page that a browser opens."""
_OURS = re.compile(r"::(error|warning|notice) title=lr2eval gate[^\n]*$")
_ORDER = re.compile(r"\s*(::[a-z-]+(\s[^\n]*)?::|##\[|##vso\[)", re.IGNORECASE)
_CODE = re.compile(r"(`+).*?\1", re.DOTALL)


def plan(seed: int) -> list[Planned]:
    """A trial for each name, and a page for a browser for every dozen."""
    every = strings.names(seed)
    found: list[Planned] = [(KIND, f"name {at}", partial(_trial, at, text)) for at, text in enumerate(every)]
    for first in range(0, len(every), BATCH):
        texts = tuple(every[first : first + BATCH])
        found.append((f"{KIND}: browser", f"browser {first // BATCH}", partial(_browse, first // BATCH, texts)))
    return found


def browser() -> str | None:
    """A browser that prints the page that scripts have left."""
    return next(
        (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
    )


def valid(text: str) -> str:
    """As a JSON file can hold it: without lone surrogates."""
    return text.encode("utf-8", "replace").decode()


def _file_name(text: str) -> str:
    """As a folder can be called."""
    text = re.sub("[\ud800-\udc7f\udd00-\udfff]", "?", text)  # surrogates that stand for no byte
    kept = text.replace("/", "\u2215").replace("\0", "\u2400").encode("utf-8", "surrogateescape")[:200]
    name = kept.decode("utf-8", "surrogateescape" if any("\udc80" <= c <= "\udcff" for c in text) else "ignore")
    return name if name.strip(".") else "dots" + name


def _make_pair(home: Path, model: str, task: str, folder: str) -> tuple[Path, Path]:
    from tests.fake_runs import fake_run, ones

    task = re.sub(r"[@/]", "", task) or "x"
    shards = {f"ruler/{task}@4096": ones(30), "mmlu/plain": ones(30)}
    worse = {name: ones(30, 9) for name in shards}
    original = fake_run(home / "a" / "original", shards, model="original")
    return original, fake_run(home / "b" / folder, worse, model=model)


def _trial(at: int, text: str, examples: Path, references: Path, home: Path) -> list[dict[str, Any]]:
    work = home / "names"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    problems = dict(_problems(text, examples, work))
    shown = repr(text)[:120]
    return [
        Finding(KIND, sink, problem, f"name {at}", shown, shown if problem else "").to_json()
        for sink, problem in problems.items()
    ]


def _problems(text: str, examples: Path, work: Path) -> Iterator[tuple[str, str | None]]:
    """(where, what is wrong there) for every place where the name is shown."""
    name, folder = valid(text), _file_name(text)
    pair = _make_pair(work, name, name, valid(folder))  # names that are not UTF-8 are refused, see below
    runs = [str(each.relative_to(work)) for each in pair]
    summary = work / "summary.md"
    compared = run_here(("compare", *runs, "--out", "compared"), work)
    judged = run_here(("gate", *runs, "--out", "judged"), work, GITHUB_ACTIONS="true", GITHUB_STEP_SUMMARY=str(summary))
    plan, *others = list(_commands(text, folder, examples, work))
    problem = _ended(compared, (0,)) or _ended(judged, (0, 1, 3))
    if problem is None:
        yield "page", _first(map(_page, (work / "compared/report.html", work / "judged/report.html")))
        yield "CSV", _csv((work / "compared/comparison.csv").read_text(encoding="utf-8"), name)
        texts = [
            (work / each).read_text(encoding="utf-8")
            for each in ("compared/comparison.md", "judged/comparison.md", "judged/summary.md", "summary.md")
        ]
        yield "Markdown", _first(map(_markdown, texts))
        yield "JUnit", _junit((work / "judged/junit.xml").read_text(encoding="utf-8"), name)
        yield "annotations", _annotations(judged)
    else:
        yield from ((sink, problem) for sink in ("page", "CSV", "Markdown", "JUnit", "annotations"))
    yield "terminal", _first(map(_terminal, (compared, judged)))
    yield "plan", _ended(plan, (0, 2)) or _terminal(plan)
    yield "errors", _first(_ended(done, (0, 2, 4, 5)) or _terminal(done) for done in others)


def _commands(text: str, folder: str, examples: Path, work: Path) -> Iterator[Done]:
    """The plan of a run of a model in a folder of this name, then commands that refuse it."""
    argument = text.replace("\0", "") or "x"
    (work / "models").mkdir()
    (work / "models" / folder).symlink_to(examples / "model")
    model = f"models/{folder}"
    yield run_here(("run", "--model", model, "--tasks", "facts", "--limit", "2", "--offline", "--dry-run"), work)
    yield run_here(("run", "--model", f"./{argument}", "--tasks", "facts", "--offline", "--dry-run"), work)
    yield run_here(("run", "--model", model, f"--tasks=ruler:{argument}", "--offline", "--dry-run"), work)
    yield run_here(("run", "--model", model, "--tasks", "facts", "--offline", "--dry-run", f"--set={argument}=1"), work)
    yield run_here(("report", f"b/{folder}x"), work)
    yield run_here(("compare", f"b/{folder}", "a/none", f"--out=c/{folder}"), work)


def _ended(done: Done, codes: tuple[int, ...]) -> str | None:
    """What is wrong with its end alone; what it prints is judged elsewhere."""
    if "Traceback (most recent call last)" in done.err or done.code not in codes:
        return judge.wrong(done, codes, silent=(0, 1, 3))
    return None


def _first(found: Any) -> str | None:
    return next((each for each in found if each), None)


def _terminal(done: Done) -> str | None:
    for text in (done.out, done.err):
        if found := judge.hidden(text):
            return f"prints {found}"
        if order := _forged(text):
            return f"a line that a CI obeys: {order}"
    errors = [line for line in done.err.splitlines() if line.startswith("error: ")]
    return f"{len(errors)} error lines" if len(errors) > 1 else None


def _forged(text: str) -> str | None:
    lines = re.split(r"[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]", text)
    return next(
        (found[0].strip()[:12] for line in lines if (found := _ORDER.match(line)) and not _OURS.match(line)), None
    )


def _annotations(done: Done) -> str | None:
    if not any(line.startswith("::") for line in done.out.splitlines()):
        return "there are no annotations"
    return _terminal(done)


class _Outline(HTMLParser):
    """Tags, attributes, and values of attributes that can do something."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.parts: set[tuple[str, str]] = set()
        self.targets: set[str] = set()
        self.open: list[str] = []
        self.unbalanced = False
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in ("meta", "link", "input", "br", "wbr", "img", "hr"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.parts |= {(tag, ""), *((tag, name) for name, _ in attrs)}
        self.targets |= {
            (value or "").partition(":")[0] if ":" in (value or "") else "here"
            for name, value in attrs
            if name in ("href", "src", "action", "xlink:href", "formaction")
        }

    def handle_endtag(self, tag: str) -> None:
        self.unbalanced |= not self.open or self.open.pop() != tag


PARTS = frozenset((
    "a", "b", "bdi", "body", "br", "button", "code", "dd", "defs", "desc", "details", "div", "dl", "dt",
    "figcaption", "figure", "footer", "g", "h1", "h2", "h3", "h4", "h5", "head", "header", "html", "i", "input",
    "label", "li", "link", "main", "mark", "meta", "nav", "p", "path", "pre", "rect", "section", "small", "span",
    "strong", "style", "summary", "svg", "table", "tbody", "td", "text", "tfoot", "th", "thead", "title", "tr",
    "ul", "use", "wbr", "script", "article", "clippath", "ol", "line", "circle", "polyline", "polygon", "tspan",
    "time", "abbr", "em",
))  # fmt: skip
ELEMENTS = frozenset((
    "testsuites", "testsuite", "properties", "property", "testcase", "failure", "error", "system-out", "system-err",
))  # fmt: skip
"""Of JUnit."""
TARGETS = {"here", "data"}
_ACTIVE = re.compile(r"on|style$|src(doc)?$|srcset$|form|action$|http-equiv$|background$|poster$|xmlns|autofocus$")
_ALLOWED = {
    ("div", "style"),
    ("span", "style"),
    ("td", "style"),
    ("svg", "xmlns"),
    ("svg", "xmlns:xlink"),
    ("i", "style"),
    ("meta", "http-equiv"),
    ("b", "style"),
    ("tr", "style"),
    ("th", "style"),
    ("p", "style"),
    ("g", "style"),
    ("svg", "style"),
    ("path", "style"),
    ("rect", "style"),
    ("text", "style"),
    ("use", "style"),
}


def _page(path: Path) -> str | None:
    """A page has only tags and attributes of ours, and no character that hides what it says."""
    html = path.read_text(encoding="utf-8")
    outline = _Outline(html)
    if odd := sorted({tag for tag, _ in outline.parts} - PARTS):
        return f"a tag of the name: <{odd[0][:20]}>"
    if odd := sorted(pair for pair in outline.parts if _ACTIVE.match(pair[1]) and pair not in _ALLOWED):
        return f"an attribute of the name: {odd[0]}"
    if odd := sorted(outline.targets - TARGETS):
        return f"a link of the name: {odd[0][:20]}"
    if outline.unbalanced or outline.open:
        return "tags that do not close in order"
    return f"has {found}" if (found := judge.hidden(html)) else None


def _csv(text: str, name: str) -> str | None:
    """A table reads back with the name in its cell, as it is, behind a quote, or with signs for what acts unseen."""
    table = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    if len({len(row) for row in table}) != 1:
        return "its rows have different lengths"
    for cell in (cell for row in table[1:] for cell in row):
        start = cell.lstrip('\ufeff\u200b\u00a0 \t\r\n"')
        if start[:1] in ("=", "+", "-", "@") and not _is_number(start):
            return "a cell is a formula"
    return None if any(_same(name, row[0]) for row in table[1:]) else "the name is not in its cell"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _same(name: str, shown: str) -> bool:
    """Whether a shown name has the letters and digits of the name, in order; a long one may be cut."""
    wanted, found = (
        "".join(each for each in re.sub("⟨[^⟩]*(⟩|…$)|[\ufffd\u3164\uffa0]", "", text) if each.isalnum())
        for text in (name, shown)
    )
    return wanted == found or (shown.endswith("…") and len(name) > 38 and wanted.startswith(found))


def _markdown(text: str) -> str | None:
    if found := judge.hidden(text):
        return f"has {found}"
    plain = _CODE.sub("", text)
    for what, pattern in (
        ("a bare link", r"(?<![\\\w])(https?://|www\.\w)"),
        ("a tag", r"(?<!\\)<[A-Za-z/!?]"),
        ("a link", r"(?<!\\)\]\s?(?<!\\)[(\[]"),
        ("a heading or a list of the name", r"(?m)^(#{1,6}|[*+]|\d+\.|>|```|~~~|=+$)\s?(?=title|item|quote|code)"),
        ("a mention", r"(?<![\\\w])@\w"),
    ):
        if re.search(pattern, plain):
            return what
    widths = {len(re.findall(r"(?<!\\)\|", line)) for line in plain.splitlines() if line.startswith("|")}
    return None if widths <= {9} else f"a table with rows of {sorted(widths)} bars"


def _junit(text: str, name: str) -> str | None:
    try:
        root = ET.fromstring(text)
    except ET.ParseError as error:
        return f"is not XML ({error.msg.partition(':')[0]})"
    if odd := sorted({each.tag for each in root.iter()} - ELEMENTS):
        return f"an element of the name: {odd[0]}"
    if found := next((each for each in text if unicodedata.category(each) == "Cc" and each not in "\n\t\r"), None):
        return f"has {found!r}"
    values = [each.get("value", "") for each in root.iter("property") if each.get("name") == "extended"]
    return None if any(_same(name, value) for value in values) else "the name is not in its property"


def _browse(number: int, texts: tuple[str, ...], examples: Path, references: Path, home: Path) -> list[dict[str, Any]]:
    """A report of a dozen runs with hostile names, opened in a browser: no script of theirs may run."""
    found = browser()
    if found is None:
        return []
    work = home / "browser"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    names = [valid(text) for text in texts]  # a folder whose name is not UTF-8 is refused
    runs = [_make_pair(work / str(at), name, name, _file_name(name))[1] for at, name in enumerate(names)]
    done = run_here(("report", *(str(run.relative_to(work)) for run in runs), "--out", "page.html"), work)
    problem = _ended(done, (0,))
    if problem is None:
        words = [
            found,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            f"--user-data-dir={work / 'profile'}",
            "--virtual-time-budget=2000",
            "--dump-dom",
            (work / "page.html").as_uri(),
        ]
        shown = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False, errors="replace")
        root = re.search(r"<html[^>]*>", shown.stdout)
        if root is None:
            problem = f"the browser shows no page (it ended with {shown.returncode})"
        elif "data-canary" in root[0]:
            problem = "a script of a name runs"
    told = json.dumps([text[:40] for text in texts])[:300]
    return [Finding(KIND, "browser", problem, f"browser {number}", "lr2eval report", told if problem else "").to_json()]
