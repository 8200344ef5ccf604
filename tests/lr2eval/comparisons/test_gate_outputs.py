from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
import xmlschema

from lr2eval.base.visible import line
from lr2eval.comparisons.compare import compare_runs, read_all
from lr2eval.comparisons.exports import gate_markdown, github_annotations, junit
from lr2eval.comparisons.gate import judge, not_comparable
from lr2eval.comparisons.gate_config import GateConfig
from lr2eval.errors import NotComparableError
from lr2eval.record.comparison import Gate
from tests.fake_runs import fake_run, ones
from tests.lr2eval.comparisons.test_exports import inline
from tests.reports.hostile import ACTS, ALL, OBEYED

SCHEMA = Path(__file__).with_name("junit.xsd")
STAMP = "2026-01-02T03:04:05"
HOSTILE = 'a<b>&"c\x00\x1b[31m\n::error::injected\u2028%0A|`x`| \ud800'


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    before = {"mmlu/a": ones(300), "ruler/vt@4096": ones(300), "niah/single@4096": ones(20)}
    sources = read_all(
        [fake_run(tmp_path / "a", before), fake_run(tmp_path / "b", before | {"ruler/vt@4096": ones(300, 60)})]
    )
    return judge(compare_runs(sources[0], sources[1:])[1][0], GateConfig())


@pytest.fixture
def hostile(gate: Gate) -> Gate:
    checks = [check.model_copy(update={"name": HOSTILE, "message": HOSTILE}) for check in gate.checks]
    assert gate.extended is not None
    side = gate.extended.model_copy(update={"label": HOSTILE})
    return gate.model_copy(update={"checks": checks, "paragraph": HOSTILE, "extended": side, "caveats": [HOSTILE]})


def suite(text: str) -> ET.Element:
    found = ET.fromstring(text.encode("utf-8", "replace")).find("testsuite")
    assert found is not None
    return found


def test_junit_counts_and_kinds(gate: Gate) -> None:
    found = suite(junit(gate, STAMP))
    assert {key: found.get(key) for key in ("tests", "failures", "errors")} == {
        "tests": "3", "failures": "2", "errors": "0"
    }  # fmt: skip
    kinds = {
        case.get("name"): [(e.tag, e.get("type")) for e in case if e.tag in ("failure", "error")]
        for case in found.iter("testcase")
    }
    assert kinds == {
        "mmlu: retention of at least 98.5 %": [],
        "ruler: retention of at least 98.5 %": [("failure", "regression")],
        "niah: retention of at least 98.5 %": [("failure", "inconclusive")],
    }


def test_junit_of_runs_that_cannot_be_compared_is_an_error() -> None:
    found = suite(junit(not_comparable(NotComparableError("other seeds"), 0.95), STAMP))
    assert (found.get("tests"), found.get("errors"), found.get("failures")) == ("1", "1", "0")
    error = found.find("testcase/error")
    assert error is not None
    assert error.get("message") == "other seeds"


def test_junit_is_valid_by_the_common_schema(gate: Gate, hostile: Gate) -> None:
    schema = xmlschema.XMLSchema(str(SCHEMA))
    for each in (gate, hostile, not_comparable(NotComparableError("x"), 0.95)):
        schema.validate(junit(each, STAMP).encode("utf-8", "replace").decode())
    with pytest.raises(xmlschema.XMLSchemaException):
        schema.validate(junit(gate, STAMP).replace('hostname="localhost"', ""))


def test_hostile_text_stays_text_in_junit(hostile: Gate) -> None:
    found = suite(junit(hostile, STAMP))
    assert {case.tag for case in found} == {"properties", "testcase", "system-out", "system-err"}
    assert "a<b>" in (found.find("system-out").text or "")  # type: ignore[union-attr]
    assert "\x00" not in junit(hostile, STAMP)


def test_annotations_levels(gate: Gate) -> None:
    lines = github_annotations(gate)
    assert [each.split(" ")[0] for each in lines] == ["::notice", "::error", "::warning"]
    assert github_annotations(not_comparable(NotComparableError("why"), 0.95)) == [
        "::error title=lr2eval gate%3A not comparable::why"
    ]


def test_annotations_cannot_be_injected(hostile: Gate) -> None:
    for each in github_annotations(hostile):
        assert "\n" not in each
        assert "%250A" in each  # a literal %0A is no line break
        assert not re.search("::error", each[2:])
        assert "⟨U+001B⟩" in each


def test_summary_table_survives_hostile_names(hostile: Gate) -> None:
    rows = [line for line in gate_markdown(hostile).splitlines() if line.startswith("| ")]
    assert len(rows) == 1 + 3
    assert all("<b>" not in row.replace("\\<b\\>", "") for row in rows)
    bars = {row.replace("\\|", "").count("|") for row in rows}
    assert bars == {9}


def test_summary_names_the_verdict_and_the_runs(gate: Gate) -> None:
    text = gate_markdown(gate)
    assert text.startswith("## ✗ lr2eval gate: REGRESSION\n")
    assert gate.original is not None
    assert gate.extended is not None
    properties = {each.get("name"): each.get("value") for each in suite(junit(gate, STAMP)).iter("property")}
    for side, run in (("original", gate.original), ("extended", gate.extended)):
        assert f"{side} `{run.digest[:16]}` of model `{run.model.fingerprint[:16]}`" in text
        assert properties[f"{side}_digest"] == run.digest
        assert properties[f"{side}_model"] == run.model.fingerprint


def with_names(gate: Gate) -> Gate:
    """The gate with every hostile string as the name, the message and the criterion of a check."""
    checks = [gate.checks[0].model_copy(update={"name": name, "message": name, "criterion": name}) for name in ALL]
    return gate.model_copy(update={"checks": checks, "paragraph": " ".join(ALL), "caveats": list(ALL)})


def test_every_hostile_string_in_junit(gate: Gate) -> None:
    written = junit(with_names(gate), STAMP)
    xmlschema.XMLSchema(str(SCHEMA)).validate(written)
    assert not ACTS.search(written)
    assert not OBEYED.search(written)
    cases = suite(written).findall("testcase")
    assert [case.get("name") for case in cases] == [f"{line(name)}: {line(name)}" for name in ALL]


def test_every_hostile_string_in_annotations_and_summary(gate: Gate) -> None:
    lines = github_annotations(with_names(gate))
    assert len(lines) == len(ALL)
    for each in lines:
        assert re.match(r"::(notice|warning|error) title=[^,:]*::", each)
        assert not ACTS.search(each)
        assert "\n" not in each
        assert not OBEYED.search(each[2:])
    written = gate_markdown(with_names(gate))
    assert not ACTS.search(written)
    assert not OBEYED.search(written)
    inline(written)
