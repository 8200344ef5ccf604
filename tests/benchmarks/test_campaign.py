"""The campaign itself: 2 % of it, and that each of its checks can fail. ``python -m benchmarks.campaign`` does all."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.campaign import bombs, damage, inputs, judge, kills, names, readers, strings
from benchmarks.campaign.process import Done
from benchmarks.campaign.table import Finding, Table

ONLY = "kills,signals,disk,damage,bombs,names"
"""All but workers: a cluster of Ray takes longer to start than all others together."""
ROOT = Path(__file__).parents[2]
GOOD = b'{"a": [1, 2.5, "x"], "b": {"c": null}}'
WAYS = sorted(set(damage.KINDS["json"]), key=lambda way: way.__name__)
SHIM = """
import os, sys, tempfile
from pathlib import Path
from benchmarks.campaign import process, shim
if not shim.is_settled():
    shim.start_again()
shim.clean_up()
print(shim.missing())
home = Path(tempfile.mkdtemp())
def call():
    with open(home / "file", "wb", buffering=0) as file:
        for _ in range(4):
            file.write(b"0123456789")
        os.fsync(file.fileno())
    os.rename(home / "file", home / "renamed")
for what in (None, shim.Disturbance(shim.Mode.COUNT), shim.Disturbance(shim.Mode.KILL, 3, shim.Moment.HALF),
             shim.Disturbance(shim.Mode.KILL, 6, shim.Moment.BEFORE),
             shim.Disturbance(shim.Mode.KILL, 6, shim.Moment.AFTER),
             shim.Disturbance(shim.Mode.FULL, 2), shim.Disturbance(shim.Mode.SIGNAL, 2, signal=2)):
    child = process.Forked((), home, what, call=call)
    done = child.wait(60)
    sizes = {path.name: path.stat().st_size for path in home.iterdir()}
    print(done.code, child.counter.calls, sizes, "No space left" in done.err, "KeyboardInterrupt" in done.err)
    for path in home.iterdir():
        path.unlink()
"""


@pytest.mark.xdist_group("processes")
@pytest.mark.timeout(600)
def test_two_percent_of_the_campaign_hold(tmp_path: Path) -> None:
    out = tmp_path / "campaign.json"
    words = ["-m", "benchmarks.campaign", "--share", "0.02", "--only", ONLY, "--out", str(out)]
    done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    found = json.loads(out.read_text())
    assert found["failed"] == 0
    assert found["classes"]["damaged inputs"]["tried"] == 200
    assert {"kills", "signals", "full disk", "bombs", "hostile names"} <= found["classes"].keys() | found[
        "skipped"
    ].keys()


def test_a_whole_campaign_is_as_large_as_it_says() -> None:
    assert sum(subject.kills for subject in kills.SUBJECTS) >= 200
    assert len(set(strings.names(0))) == strings.COUNT == 600
    assert inputs.COUNT == 10_000
    assert len(readers.READERS) > 50
    assert len(bombs.bombs()) > 50


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="LD_PRELOAD is of Linux")
def test_the_library_counts_writes_and_disturbs_the_chosen_one(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SHIM)
    variables = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False, env=variables)
    missing, *lines = done.stdout.splitlines()
    if missing != "None":
        pytest.skip(missing)
    assert lines == [
        "0 0 {'renamed': 40} False False",
        "0 6 {'renamed': 40} False False",
        "-9 3 {'file': 25} False False",
        "-9 6 {'file': 40} False False",
        "-9 6 {'renamed': 40} False False",
        "1 3 {'file': 15} True False",
        "1 2 {'file': 20} False True",
    ], done.stderr


@pytest.mark.parametrize(
    ("done", "problem"),
    [
        (Done(0, "fine\n", ""), None),
        (Done(2, "", "a note\nerror: the file is damaged\n"), None),
        (Done(1, "", "Traceback (most recent call last)\nValueError: x\n"), "traceback: ValueError"),
        (Done(3, "", "error: x\n"), "exit code 3: error: x"),
        (Done(70, "", "error: x\n"), "exit code 70: error: x"),
        (Done(2, "", ""), "exit code 2 with 0 error lines"),
        (Done(2, "", "error: x\nerror: y\n"), "exit code 2 with 2 error lines"),
        (Done(2, "", "error: x\nmore\n"), "the error line is not the last line"),
        (Done(2, "", "error: Input should be a number\n"), "words of a library: Input should be"),
        (Done(2, "", "error: \x1b[31mred\n"), "prints U+001B"),
        (Done(0, "\u202ename\n", ""), "prints U+202E"),
        (Done(-14, "", "stopped after 30 seconds"), "does not end"),
    ],
)
def test_an_end_is_judged(done: Done, problem: str | None) -> None:
    assert judge.wrong(done) == problem


@pytest.mark.parametrize("way", WAYS,
                         ids=lambda way: way.__name__)  # fmt: skip
def test_a_damage_is_one_and_the_same_for_a_seed(way: damage.Way) -> None:
    first, second = ([damaged(way, seed) for seed in range(40)] for _ in range(2))
    assert first == second
    fitting = [each for each in first if each is not None]
    assert len(fitting) > 10
    assert sum(each != GOOD for each in fitting) > len(fitting) / 2


def damaged(way: damage.Way, seed: int) -> bytes | None:
    try:
        return way(GOOD, random.Random(seed))
    except damage.DoesNotFit:
        return None


def test_seals_see_other_content_and_no_other_form(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(b' {"b":{"c":null},"a":[1,2.5,"x"]}')
    assert not readers.json_seal(GOOD, path)
    assert readers.bytes_seal(GOOD, path)
    path.write_bytes(GOOD.replace(b"2.5", b"2.6"))
    assert readers.json_seal(GOOD, path)
    path.unlink()
    assert readers.json_seal(GOOD, path)
    assert readers.bytes_seal(GOOD, path)


def test_every_reader_has_damages_and_its_own_name() -> None:
    assert len({reader.name for reader in readers.READERS}) == len(readers.READERS)
    assert {reader.kind for reader in readers.READERS} <= damage.KINDS.keys()


HEAD = "a,b\n"


@pytest.mark.parametrize(
    ("check", "text", "problem"),
    [
        (lambda text: names._csv(text, "model"), HEAD + "model,-1.5\n", None),
        (lambda text: names._csv(text, "model"), HEAD + "model,=1+1\n", "a cell is a formula"),
        (lambda text: names._csv(text, "model"), HEAD + '"model","\n @SUM(1)"\n', "a cell is a formula"),
        (lambda text: names._csv(text, "model"), HEAD + "x,1\n", "the name is not in its cell"),
        (lambda text: names._csv(text, "=1"), HEAD + "'=1,1\n", None),
        (lambda text: names._csv(text, "m\x1b[31m"), HEAD + "m⟨U+001B⟩[31m,1\n", None),
        (names._markdown, "## a\n| a | b | c | d | e | f | g | h |\n", None),
        (names._markdown, "see http://evil.example", "a bare link"),
        (names._markdown, "`http://evil.example`", None),
        (names._markdown, "[x](y)", "a link"),
        (names._markdown, "<b>x", "a tag"),
        (names._markdown, "| a | b |\n", "a table with rows of [3] bars"),
        (names._markdown, "\u202ex", "has U+202E"),
        (lambda text: names._junit(text, "model"), "<testsuites></testsuite>", "is not XML (mismatched tag)"),
        (lambda text: names._junit(text, "model"), "<testsuites><b/></testsuites>", "an element of the name: b"),
        (names._forged, "fine\n::error title=lr2eval gate: x::y\n", None),
        (names._forged, "fine\n  ::error::x\n", "::error::"),
        (names._forged, "fine\n##[error]x\n", "##["),
    ],
)  # fmt: skip
def test_a_hostile_name_is_found(check: object, text: str, problem: str | None) -> None:
    assert check(text) == problem  # type: ignore[operator]


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ("<p class=x>fine</p>", None),
        ("<script>x</script><blink></blink>", "a tag of the name: <blink>"),
        ("<p onclick=x></p>", "an attribute of the name: ('p', 'onclick')"),
        ("<a href=javascript:x>x</a>", "a link of the name: javascript"),
        ("<p><b></p></b>", "tags that do not close in order"),
        ("\u2066x", "has U+2066"),
    ],
)
def test_a_hostile_page_is_found(body: str, problem: str | None, tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text(f"<html><body>{body}</body></html>", encoding="utf-8")
    assert names._page(tmp_path / "page.html") == problem


def test_the_table_groups_failures_by_cause() -> None:
    table = Table()
    table.add([Finding("kills", "run", None), *(Finding("kills", "run", "lost", f"kill run {n}") for n in range(30))])
    found = table.to_json()
    assert (found["tried"], found["failed"]) == (31, 30)
    assert found["classes"]["kills"]["subjects"] == {"run": {"tried": 31, "failed": 30}}
    assert found["failures"]["kills: lost"]["failed"] == 30
    assert "--repeat 'kill run 0'" in table.text()
