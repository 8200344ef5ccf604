"""The study of ``benchmarks/reproduction``: cells, resuming, numbers, tables, and that its page says what it found."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from demo_model.text import Words
from demo_model.train import make_tokenizer
from hypothesis import given
from hypothesis import strategies as st
from reproduction import rules, searches, tables
from reproduction.cells import Cell, Design, plan
from reproduction.demo import Demo
from reproduction.intervals import over_seeds, paired, share
from reproduction.measure import Test as Question
from reproduction.measure import answered, layout
from reproduction.store import Store, pack, unpack
from reproduction.study import Study
from reproduction.tiny import Tiny

from lr2eval.method.rope.rules import pi, yarn
from lr2eval.method.rope.scaling import OriginalRope
from lr2eval.method.search.config import SearchConfig
from lr2eval.method.search.evolution import Evolution
from lr2eval.stats.scores import t_interval, wilson
from lr2eval.tasks.facts import table

ROOT = Path(__file__).parents[1]
ASSET = ROOT / "tests" / "assets" / "tiny-retrieval"
ROPE = OriginalRope(1000.0, 64, 128)
DESIGN = Design.read("tiny")


def test_every_cell_of_the_design_is_planned_once_and_first_things_come_first() -> None:
    cells = plan(DESIGN)
    keys = [cell.key for cell in cells]
    assert len(set(keys)) == len(keys)
    common = DESIGN.common
    full = {f"{s}/{rule}/{t}" for s in DESIGN.seeds for rule in common["rules"] for t in common["trainings"]}
    assert full <= set(keys)
    assert {f"{s}/{rule}/no" for s in DESIGN.seeds for rule in common["ablations"]} <= set(keys)
    unsearched = [rule for rule in common["rules"] if rule != "longrope"]
    first = keys[: len(DESIGN.seeds) * len(unsearched)]
    assert set(first) == {f"{s}/{rule}/no" for s in DESIGN.seeds for rule in unsearched}
    assert first[:3] == ["0/none/no", "1/none/no", "2/none/no"], (
        "the original comes before all: others are paired with it"
    )
    assert keys.index("2/longrope2/mixed") < keys.index("0/longrope2/long-only") < keys.index("0/none/mixed")
    assert [Cell.parse(key) for key in keys] == cells


def test_a_design_names_what_its_subject_needs() -> None:
    for subject in ("tiny", "demo"):
        design = Design.read(subject)
        assert design.lengths == [design.own["window"] * factor for factor in (1, 2, 4, 8, 16)]
        assert design.lengths[-1] == design.own["target"]
        task, counts = next(iter(design.own["documents"].items()))
        assert sorted(map(int, counts)) == design.lengths, f"{task} is asked at every length"
        assert all(
            str(design.own["target"]) in each for name, each in design.own["documents"].items() if name != "facts"
        )


def test_results_go_on_after_a_torn_line_and_are_of_one_design(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    store = Store(path, {"rows": 2, "counts": {"a": (1, 2)}})
    store.add({"key": "0/none/no", "value": 1})
    with path.open("ab") as file:
        file.write(b'{"key": "1/none/no", "val')
    assert "1/none/no" not in Store(path), "reading changes nothing"
    again = Store(path, {"rows": 2, "counts": {"a": (1, 2)}})
    again.add({"key": "1/none/no", "value": 2})
    assert Store(path).lines.keys() == {"design", "0/none/no", "1/none/no"}
    with pytest.raises(ValueError, match="there already"):
        again.add({"key": "1/none/no"})
    with pytest.raises(SystemExit, match=r"another design .*rows"):
        Store(path, {"rows": 3, "counts": {"a": (1, 2)}})


@given(st.lists(st.booleans(), min_size=1, max_size=70))
def test_answers_come_back_from_a_line(right: list[bool]) -> None:
    packed = json.loads(json.dumps(pack(np.array(right, float))))
    assert unpack(packed).tolist() == [float(each) for each in right]
    assert (packed["right"], packed["asked"]) == (sum(right), len(right))
    with pytest.raises(ValueError, match="not its numbers"):
        unpack(packed | {"right": packed["right"] + 1})


def test_an_interval_counts_documents_where_their_answers_go_together() -> None:
    rng = np.random.default_rng(0)
    document = np.repeat(np.arange(50), 12)
    alone = (rng.random(600) < 0.7).astype(float)
    found = share(alone, document)
    assert found.n == 600
    assert found.high - found.low < 1.3 * np.diff(wilson(found.mean, 600))[0]
    together = np.repeat((rng.random(50) < 0.7).astype(float), 12)
    found = share(together, document)
    assert (found.low, found.high) == pytest.approx(wilson(found.mean, 50), abs=0.02)
    assert share(np.ones(600), document).low == wilson(1.0, 600)[0]


def test_differences_are_paired_and_seeds_are_what_is_counted_over_them() -> None:
    old = np.array([1, 0, 1, 1, 0, 1] * 20, float)
    document = np.repeat(np.arange(40), 3)
    assert paired(old, old, document, 0.9).low < 0 == paired(old, old, document, 0.9).mean
    better = paired(np.ones(120), old, document, 0.9)
    assert better.mean == pytest.approx(1 / 3)
    assert better.low > 0.2
    values = [0.9, 0.95, 0.99]
    assert (over_seeds(values).low, over_seeds(values).high) == pytest.approx(t_interval(values))
    assert over_seeds(values, (0, 1)).high == 1
    assert np.isnan(over_seeds([0.5]).low)


class _Saying(torch.nn.Module):
    """Says after every token its number plus one."""

    def forward(self, input_ids: torch.Tensor, use_cache: bool) -> Any:
        assert not use_cache
        return SimpleNamespace(logits=torch.nn.functional.one_hot(input_ids + 1, 50).float())


def test_an_answer_is_right_where_all_its_tokens_are() -> None:
    rising, broken = np.array([5, 6, 7, 8, 9]), np.array([5, 6, 7, 9, 10])
    tests = [
        Question(rising, ((1,), (2, 3))),
        Question(broken, ((1, 2), (2, 3), (3,), (4,))),
        Question(np.array([1, 3]), ((1,),)),
        Question(rising, ((4,),)),
    ]
    assert answered(_Saying(), tests).tolist() == [1, 1, 1, 0, 0, 1, 0, 1]


def test_questions_know_how_far_they_look_and_training_never_saw_them() -> None:
    own = {
        **DESIGN.own,
        "rows": 4,
        "documents": {"many": {"128": 2, "512": 2}, "crowd": {"512": 1}, "facts": {"128": 1}},
    }
    tiny = Tiny(own)
    tests = tiny.tests(1)
    assert {name: len(each) for name, each in tests.items()} == {
        "many@128": 2,
        "many@512": 2,
        "crowd@512": 1,
        "facts@128": 1,
    }
    for test in [*tests["many@512"], *tests["crowd@512"]]:
        for (place,), depth in zip(test.asked, test.depths, strict=True):
            text = test.ids[: test.asked[0][0] - 2]
            stated = round(depth * len(text))
            assert list(text[stated : stated + 2]) == list(test.ids[place - 1 : place + 1]), "key and value"
    told = layout(tests)
    assert told["many@512"]["questions"] == [12, 12]
    assert told["many@512"]["fifths"][0] == str(int(5 * tests["many@512"][0].depths[0]))
    assert told["facts@128"]["fifths"] == ""
    mixed, long_only = tiny.rows(1, long_only=False), tiny.rows(1, long_only=True)
    assert [row.long for row in mixed] == [False, True] * 2
    assert all(row.long for row in long_only)
    assert {len(row) for row in [*mixed, *long_only]} == {2048}
    assert [len(each) for each in (mixed, long_only)] == [4, 4], "equal budget"
    seen = {row.input_ids[at : at + 64].tobytes() for row in [*mixed, *long_only] for at in range(len(row) - 64)}
    assert not any(test.ids[-64:].tobytes() in seen for each in tests.values() for test in each)


def search_config(**settings: int) -> SearchConfig:
    return SearchConfig.model_validate({"model": "m", "target_length": 2048, **settings})


def test_free_searches_move_every_pair_within_their_range() -> None:
    (first,) = searches.spaces("longrope", ROPE, 2048, DESIGN.common["search"], [14])
    (every,) = searches.spaces("all", ROPE, 2048, DESIGN.common["search"], [14])
    for space, most in ((first, 1.25), (every, 2)):
        evolution = Evolution(space, search_config(initial=40, seed=1))
        for candidate in evolution.ask():
            factors = space.scaling(candidate).long_factor
            assert len(factors) == 32
            assert factors[0] >= 1
            assert factors[-1] <= most * 16
            assert all(a < b for a, b in pairwise(factors))
    assert every.scaling(every.seeds()[0]).long_factor[20] == pytest.approx(16 + 0.1 * 6, abs=0.011)
    ramp = yarn(ROPE, 2048).long_factor
    assert any(np.allclose(first.scaling(seed).long_factor[2:13], ramp[2:13], atol=0.11) for seed in first.seeds()), (
        "LongRoPE begins with YaRN among others"
    )


def test_the_left_side_of_a_search_is_what_its_name_says() -> None:
    (squared,) = searches.spaces("left-2", ROPE, 2048, DESIGN.common["search"], [])
    for candidate in Evolution(squared, search_config(initial=20)).ask():
        factors = squared.scaling(candidate).long_factor
        assert factors[7] == pytest.approx(factors[14] ** 0.25)
    (free,) = searches.spaces("left-q", ROPE, 2048, DESIGN.common["search"], [])
    assert len({candidate.power for candidate in Evolution(free, search_config(initial=40)).ask()}) > 3
    assert [space.split for space in searches.spaces("splits", ROPE, 2048, DESIGN.common["search"], [10, 14])] == [
        10,
        14,
    ]


def test_every_rule_of_the_design_has_factors() -> None:
    tiny = Tiny(DESIGN.own)
    line = {"factors": pi(ROPE, 2048).to_json(), "d_rcd": 9}
    asked: list[str] = []

    def found(name: str) -> dict[str, Any]:
        asked.append(name)
        return line

    made = {
        rule: rules.factors(rule, ROPE, 2048, lambda: tiny.published(0, ROPE), found)
        for rule in [*DESIGN.common["rules"], *DESIGN.common["ablations"]]
    }
    assert all(each.target_window == 2048 and each.original_window == 128 for each in made.values())
    assert max(made["yarn-1.5"].long_factor) == pytest.approx(24)
    assert made["ntk-rcd"].long_factor[9] == made["yarn-rcd"].long_factor[9] == pytest.approx(16)
    searched, square = made["longrope2"].long_factor, made["longrope2-left-2"].long_factor
    assert searched[14:] == square[14:]
    assert square[7] == pytest.approx(searched[14] ** 0.25)
    assert searched[14] >= 16
    assert set(asked) == set(searches.SEARCHES)
    with pytest.raises(KeyError):
        rules.factors("nothing", ROPE, 2048, lambda: tiny.published(0, ROPE), found)


RECIPE = """
name = "toy"
original_window = 128
target_window = 256
short_tokens = 256
long_tokens = 256
global_batch = 2
dtype = "float32"
"""


@pytest.fixture
def toy(tmp_path: Path) -> Design:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(RECIPE)
    small = {"population": 4, "initial": 4, "iterations": 1, "parents": 2, "mutations": 2, "crossovers": 0}
    common = {
        **DESIGN.common,
        "rules": ["none", "yarn", "longrope", "longrope2"],
        "ablations": [],
        "search": {**small, "samples": 2, "rungs": [1], "powers": [0.5, 3.0]},
    }
    own = {
        **DESIGN.own,
        "seeds": [0],
        "target": 256,
        "recipe": str(recipe),
        "rows": 2,
        "documents": {"many": {"128": 3, "256": 2}, "facts": {"128": 1}},
    }
    return Design("tiny", common, own)


def test_a_killed_study_goes_on_and_a_row_comes_out_again(tmp_path: Path, toy: Design, capsys: Any) -> None:
    torch.set_num_threads(1)
    subject, folders = Tiny(toy.own), {0: ASSET}
    wanted = [
        Cell(0, "none", "no"),
        Cell(0, "longrope", "no"),
        Cell(0, "yarn", "mixed"),
        Cell(0, "longrope2", "long-only"),
    ]

    def study(name: str) -> Study:
        return Study(toy, subject, folders, Store(tmp_path / f"{name}.jsonl", toy.to_json()), tmp_path / f"work-{name}")

    whole = study("whole")
    for cell in wanted:
        whole.run(cell)
    broken = study("broken")
    for cell in wanted[:2]:
        broken.run(cell)
    again = study("broken")
    assert all(cell.key in again.store for cell in wanted[:2])
    for cell in wanted[2:]:
        again.run(cell)
    timed = {"machine", "processor_seconds", "training"}
    for key, line in whole.store.lines.items():
        other = again.store[key]
        assert {k: v for k, v in line.items() if k not in timed} == {k: v for k, v in other.items() if k not in timed}
    assert "0/search/longrope" in whole.store
    assert not list((tmp_path / "work-whole").glob("0-*")), "no weights are left behind"
    assert "left_on" not in whole.store["0/longrope2/long-only"]
    assert whole.store["0/yarn/mixed"]["training"]["steps"] == 1
    trained, bare = whole.store["0/yarn/mixed"]["answers"], whole.store["0/none/no"]["answers"]
    assert trained["many@256"]["bits"] != bare["many@256"]["bits"]
    assert whole.again("0/none/no")
    assert "many@256: again" in capsys.readouterr().out
    line = whole.store.lines["0/none/no"]
    line["answers"]["many@128"] = pack(np.zeros(36))
    assert not whole.again("0/none/no")
    assert "OUTSIDE" in capsys.readouterr().out
    other = tmp_path / "other"
    shutil.copytree(ASSET, other)
    (other / "model.safetensors").write_bytes(b"other")
    with pytest.raises(SystemExit, match="other weights"):
        replace_folder(again, other).prepare(0)


def replace_folder(study: Study, folder: Path) -> Study:
    return Study(study.design, study.subject, {0: folder}, study.store, study.work)


def test_the_demo_model_is_another_subject(tmp_path: Path) -> None:
    tokenizer = make_tokenizer(700)
    tokenizer.save_pretrained(tmp_path)
    counts = {"512": 2, "2048": 1}
    own = {"window": 512, "target": 2048, "rows": 4, "documents": {"multikey_1": counts, "facts": {"512": 3}}}
    demo = Demo(own, tmp_path, None)
    tests = demo.tests(0)
    assert {name: len(each) for name, each in tests.items()} == {
        "multikey_1@512": 2,
        "multikey_1@2048": 1,
        "facts@512": 3,
    }
    words = Words.load()
    for name, each in tests.items():
        for test in each:
            ((*answer,),) = test.asked
            said = tokenizer.decode(test.ids[answer]).strip()
            text = tokenizer.decode(test.ids[: answer[0]])
            if name.startswith("facts"):
                assert any(fact.object == said and text.endswith(fact.stem) for fact in table.facts())
                continue
            length = int(name.partition("@")[2])
            assert length - 80 < len(test.ids) <= length
            assert len(said) == 7
            assert said.isdigit()
            assert text.count(said) == 1
            assert text.index(said) / len(text) == pytest.approx(test.depths[0], abs=0.3)
            key = text[: text.index(said)].split()[-2]
            assert key.split("-")[0] in words.held_adjectives, "keys that no training has"
    mixed, long_only = demo.rows(0, long_only=False), demo.rows(0, long_only=True)
    assert sorted(row.long for row in mixed) == [False, False, True, True]
    assert [row.long for row in long_only] == [True] * 4
    assert {len(row) for row in [*mixed, *long_only]} == {2048}
    assert (
        np.stack([row.input_ids for row in mixed if row.long]) == np.stack([r.input_ids for r in long_only])[:2]
    ).all()
    assert all(row.weights is not None and 1.0 in row.weights for row in mixed)
    samples = demo.samples(0, 2)
    assert [len(sample.ids) for sample in samples] == [2048, 2048]
    with pytest.raises(SystemExit, match="--search"):
        demo.published(0, ROPE)


def _results(tmp_path: Path, shares: dict[str, list[float]]) -> tables.Results:
    """Three seeds; ``shares``: of right answers by RULE/TRAINING for each seed that is there."""
    own = {**DESIGN.own, "documents": {task: {"128": 10, "2048": 10} for task in ("many", "facts")}}
    own["documents"]["many"] = {str(128 * 2**step): 10 for step in range(5)}
    design = Design("tiny", DESIGN.common, own)
    store = Store(tmp_path / "results.jsonl", design.to_json())
    names = [*(f"many@{length}" for length in design.lengths), "facts@128"]
    for seed in design.seeds:
        tests = {name: {"questions": [10] * 10, "fifths": "01234" * 20} for name in names}
        store.add({"key": f"{seed}", "tests": tests})
    for name, each in shares.items():
        for seed, right in enumerate(each):
            answers = {task: pack(np.arange(100) % 20 < 20 * right) for task in names}
            store.add({"key": f"{seed}/{name}", "answers": answers, "left_on": answers})
    return tables.Results(design, store)


def test_tables_say_what_is_there_and_what_is_missing(tmp_path: Path) -> None:
    results = _results(tmp_path, {
        "none/no": [0.5, 0.5, 0.5], "longrope2/no": [0.9, 1.0, 0.8], "yarn/no": [0.8, 0.9], "pi/no": [0.45, 0.5, 0.5],
    })  # fmt: skip
    by_length = tables.length(results, "no").splitlines()
    low, high = t_interval([0.9, 1.0, 0.8])
    assert f"| LongRoPE2 | 90.0 [{100 * low:.1f}, {100 * min(high, 1):.1f}] |" in by_length[9]
    assert "85.0 [21.5, 100.0] (n 2)" in tables.length(results, "no")
    assert by_length[2].startswith("| none | 50.0 [50.0, 50.0] |")
    assert "| LongRoPE v1 | missing | missing | missing | missing | missing |" in by_length
    assert "| YaRN | 2 of 3 | 0 of 3 | 0 of 3 |" in tables.coverage(results)
    said = tables.missing(results)
    assert said.startswith("11 of ")
    assert "`2/yarn/no`" in said
    assert "`1/yarn/no`" not in said
    against = tables.against(results, "no")
    assert "| YaRN | +10.0 [+10.0, +10.0] | +10.0 [" in against
    assert "| LongRoPE v1 | missing | missing | missing | missing |" in against
    told = "| no training, original RoPE in the window | PI | -1.7 [-8.8, +5.5]; {} of 3 | -1.7"
    assert told.format(0) in tables.retention(results), "a hundred answers are too few for 1.5 points"
    wide = replace(results, design=replace(results.design, common={**DESIGN.common, "margin": 0.5}))
    assert told.format(3) in tables.retention(wide)
    # Of twenty questions the last two (seed 0) and the last four (seed 2) are wrong; fifths go 0, 1, 2, 3, 4, 0, ...
    by_depth = [cell.split(" [")[0] for cell in tables.depth(results, "no").splitlines()[9].split(" | ")]
    assert by_depth == ["| LongRoPE2", "100.0", "91.7", "91.7", "83.3", "83.3"]
    assert "| seed 0 " in tables.seeds(results, "no")
    for name, make in tables.TABLES.items():
        assert make(results).count("\n") >= 3 or name == "missing"


def test_a_page_is_filled_where_it_says_so_and_staleness_is_seen(tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    results = _results(tmp_path, {"none/no": [0.5]})
    page = "Before\n<!-- table tiny coverage -->\nold\n<!-- end -->\nafter\n"
    filled = tables.filled(page, lambda subject: results)
    assert filled.startswith("Before\n<!-- table tiny coverage -->\n")
    assert filled.endswith("<!-- end -->\nafter\n")
    assert "| none | 1 of 3 |" in filled
    assert tables.filled(filled, lambda subject: results) == filled
    with pytest.raises(KeyError):
        tables.filled(page.replace("coverage", "nothing"), lambda subject: results)
    path = tmp_path / "page.md"
    path.write_text(page)
    monkeypatch.setattr(sys, "argv", ["tables.py", "--check", str(path)])
    assert tables.main() == 1
    assert "tiny coverage" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["tables.py", "--write", str(path)])
    assert tables.main() == 0
    monkeypatch.setattr(sys, "argv", ["tables.py", "--check", str(path)])
    assert tables.main() == 0


def test_figures_are_drawn_from_what_is_there(tmp_path: Path) -> None:
    results = _results(tmp_path, {"none/no": [0.5, 0.5, 0.4], "yarn/no": [0.9], "yarn/mixed": [0.9]})
    for path in tables.figures(results, tmp_path):
        assert 1_000 < path.stat().st_size < 100_000


def test_the_guide_shows_what_was_found() -> None:
    page = (ROOT / "docs" / "reproduction.md").read_text(encoding="utf-8")
    assert page.count("<!-- table ") == page.count("<!-- end -->") >= 6
    assert tables.filled(page) == page, "run python benchmarks/reproduction/tables.py --write docs/reproduction.md"


def test_committed_results_are_of_the_committed_design() -> None:
    results = tables.Results.read("tiny")
    planned = {cell.key for cell in plan(results.design)}
    assert planned & results.store.lines.keys()
    for key in planned & results.store.lines.keys():
        for packed in results.store[key]["answers"].values():
            unpack(packed)
    with pytest.raises(SystemExit, match="another design"):
        Store(results.store.path, replace(results.design, own={}).to_json())
