"""The study of ``benchmarks/reproduction``: cells, vectors, questions, resuming."""

from __future__ import annotations

import fcntl
import math
import multiprocessing
import re
import shutil
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from demo_model.text import Words
from demo_model.train import make_tokenizer
from reproduction import measure, rules, searches, study, tables
from reproduction.cells import DESIGN as DESIGN_FILE
from reproduction.cells import RESERVE, Cell, Design, listing, part, plan, published, seconds, study_searches
from reproduction.demo import BLOCK, Demo, depth_of
from reproduction.measure import Test as Question
from reproduction.store import Store, pack
from reproduction.study import Study
from reproduction.tiny import Tiny

from lr2eval.method.rope.rules import longrope2, ntk, yarn
from lr2eval.method.rope.scaling import OriginalRope
from lr2eval.method.rope.windowed import install_rope
from lr2eval.method.search.config import SearchConfig
from lr2eval.method.search.evolution import Evolution
from lr2eval.tasks.facts import table
from tests.tiny_models import ORIGINAL, PAIRS, VOCABULARY, WINDOW, tiny_model

ROOT = Path(__file__).parents[1]
ASSET = ROOT / "tests" / "assets" / "tiny-retrieval"
ROPE = OriginalRope(1000.0, 64, 128)
DESIGN = Design.read("tiny")
BOTH = (DESIGN, Design.read("demo"))


def test_every_vector_is_planned_at_every_temperature_and_first_things_come_first() -> None:
    for design in BOTH:
        cells = plan(design)
        keys = [cell.key for cell in cells]
        assert len(set(keys)) == len(keys)
        assert [Cell.parse(key) for key in keys] == list(cells)
        bare = {(cell.factors, cell.temperature) for cell in cells if cell.training == "no"}
        for factors in {cell.factors for cell in cells} - {"best-rule"}:
            equal = ("su",) if "/" in factors else ("1", "su", "yarn")
            assert {(factors, t) for t in equal} <= bare, "rules are compared at equal temperatures"
            assert (factors, published(factors)) in bare, "and as published"
        assert keys[0] == "0/none/1/no", "the original: others are paired with it"
        assert all(
            cell in cells for cell in (Cell(s, f, "su", "no") for s in design.seeds for f in ("ntk", "gradient"))
        )
    keys = [cell.key for cell in plan(BOTH[1])]
    first = keys.index("0/left-1/right-searched/su/no")
    assert keys.index("2/ntk/su/no") < first < keys.index("0/pi/1/no") < keys.index("0/ntk/su/mixed")
    decided = BOTH[1].own["documents"]["decide"]
    assert all(decided[task][length] >= 60 for task in ("single_1", "multikey_1") for length in ("4096", "8192"))


def test_the_whole_study_fits_sixteen_processor_hours_and_the_design_says_what_it_takes() -> None:
    hours = {design.subject: sum(seconds(design, plan(design)).values()) / 3600 for design in BOTH}
    assert RESERVE * sum(hours.values()) < 16
    said = DESIGN_FILE.read_text(encoding="utf-8")
    for subject, count in hours.items():
        assert f"#   {subject:5} {count:.1f} h" in said
    text = listing(DESIGN)
    total = len(plan(DESIGN))
    assert f"{hours['tiny']:6.2f} h  {total} of {total} cells  tiny: all" in text
    there = {cell.key for cell, group in plan(DESIGN).items() if group.name != "LongRoPE v1"}
    left = listing(DESIGN, there)
    assert "0.00 h    0 of  45 cells  tiny: rules" in left
    assert "9 of   9 cells  tiny: LongRoPE v1" in left
    searched = {f"{seed}/search/longrope" for seed in DESIGN.seeds}
    some = [sum(seconds(DESIGN, plan(DESIGN), there | more).values()) for more in (set(), searched)]
    assert some[0] - some[1] == pytest.approx(300), "a finished search costs nothing more"


@pytest.mark.parametrize("of", [1, 2, 3])
def test_parts_are_the_whole_without_overlap_and_of_equal_cost(of: int) -> None:
    for design in BOTH:
        cells = plan(design)
        parts = [part(design, cells, number, of) for number in range(of)]
        assert sorted(cell.key for each in parts for cell in each) == sorted(cell.key for cell in cells)
        order = {cell: number for number, cell in enumerate(cells)}
        assert all(order[a] < order[b] for each in parts for a, b in pairwise(each)), "first things first"
        cost = seconds(design, cells)
        loads = [sum(cost[cell] for cell in each) for each in parts]
        assert max(loads) < 1.1 * min(loads)
        owner = {cell: number for number, each in enumerate(parts) for cell in each}
        for key in {key for cell in cells for key in study_searches(design, cell)}:
            assert len({owner[cell] for cell in cells if key in study_searches(design, cell)}) == 1, "one runs a search"
        with pytest.raises(ValueError, match=f"part {of} of {of}"):
            part(design, cells, of, of)


def test_a_design_names_what_its_subject_needs() -> None:
    for design in BOTH:
        assert design.lengths == [design.own["window"] * factor for factor in (1, 2, 4, 8, 16)]
        assert design.lengths[-1] == design.own["target"]
        for counts in design.own["documents"].values():
            first, *others = design.own["tasks"]
            assert sorted(map(int, counts[first])) == design.lengths, f"{first} is asked at every length"
            assert all(str(design.own["target"]) in counts[task] for task in others)
        assert "costs" not in design.to_json(), "what a cell costs decides no result"
        assert design.to_json()["groups"] == design.own["groups"], "which cells there are does"


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


def _add(path: Path, start: int) -> None:
    store = Store(path, {"rows": 2})
    store.add({"key": "seed", "machine": start}, once=True)
    for number in range(start, start + 20):
        store.add({"key": str(number), "bits": "x" * 50_000})


def test_several_processes_write_one_file_one_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_add, args=(path, start)) for start in (0, 20, 40)]
    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        for each in writers:
            each.start()
        writers[0].join(0.5)
        assert path.stat().st_size == 0, "another process writes"
        fcntl.flock(file, fcntl.LOCK_UN)  # the writers share this file: it stays open in them
    for each in writers:
        each.join(60)
    assert Store(path).lines.keys() == {"design", "seed", *map(str, range(60))}
    assert path.read_bytes().count(b"\n") == 62, "no line stands twice"
    late = Store(path)
    _add(path, 60)
    with pytest.raises(ValueError, match="there already"):
        late.add({"key": "60"})


def _says_one_more(_model: Any, ids_BL: torch.Tensor, places_BP: torch.Tensor) -> torch.Tensor:
    """After every token, its number plus one."""
    return torch.nn.functional.one_hot(ids_BL.take_along_dim(places_BP, 1) + 1, 50).float()


def test_an_answer_is_right_where_all_its_tokens_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "logits_at", _says_one_more)
    rising, broken = np.array([5, 6, 7, 8, 9]), np.array([5, 6, 7, 9, 10])
    tests = [
        Question(rising, ((1,), (2, 3))),
        Question(broken, ((1, 2), (2, 3), (3,), (4,))),
        Question(np.array([1, 3]), ((1,),)),
        Question(rising, ((4,),)),
    ]
    assert measure.answered(None, tests).tolist() == [1, 1, 1, 0, 0, 1, 0, 1]


@pytest.mark.parametrize("length", [ORIGINAL, WINDOW])
def test_logits_at_places_are_those_of_the_whole_model(length: int) -> None:
    model = tiny_model("llama")
    install_rope(model, yarn(OriginalRope(1000.0, 2 * PAIRS, ORIGINAL), WINDOW))
    ids_BL, places_BP = torch.randint(0, VOCABULARY, (3, length)), torch.randint(0, length, (3, 5))
    places_BP[0, :2] = torch.tensor([0, length - 1])
    with torch.no_grad():
        whole_BLV = model(input_ids=ids_BL, use_cache=False).logits
        chosen_BPV = measure.logits_at(model, ids_BL, places_BP)
        torch.testing.assert_close(chosen_BPV, whole_BLV.take_along_dim(places_BP[..., None], 1))
        torch.testing.assert_close(model(input_ids=ids_BL, use_cache=False).logits, whole_BLV)


def test_questions_know_how_far_they_look_and_training_never_saw_them() -> None:
    own = {
        **DESIGN.own,
        "rows": 4,
        "documents": {"all": {"many": {"128": 2, "512": 2}, "crowd": {"512": 1}, "facts": {"128": 1}}},
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
    fewer = Tiny({**own, "documents": {"all": {"many": {"128": 1, "512": 1}}}}).tests(1)
    assert all((fewer[name][0].ids == tests[name][0].ids).all() for name in fewer), "a smaller number: the first ones"
    mixed, long_only = tiny.rows(1, long_only=False), tiny.rows(1, long_only=True)
    assert [row.long for row in mixed] == [False, True] * 2
    assert all(row.long for row in long_only)
    assert {len(row) for row in [*mixed, *long_only]} == {2048}
    assert [len(each) for each in (mixed, long_only)] == [4, 4], "equal budget"
    seen = {row.input_ids[at : at + 64].tobytes() for row in [*mixed, *long_only] for at in range(len(row) - 64)}
    assert not any(test.ids[-64:].tobytes() in seen for each in tests.values() for test in each)


def search_config(**settings: int) -> SearchConfig:
    return SearchConfig.model_validate({"model": "m", "target_length": 2048, **settings})


def test_a_free_search_moves_every_pair_within_its_range() -> None:
    space = searches.space("longrope", ROPE, 2048, DESIGN.own["search"])
    for candidate in Evolution(space, search_config(initial=40, seed=1)).ask():
        factors = space.scaling(candidate).long_factor
        assert len(factors) == 32
        assert factors[0] >= 1
        assert factors[-1] <= 1.25 * 16
        assert all(a < b for a, b in pairwise(factors))
    ramp = yarn(ROPE, 2048).long_factor
    assert any(np.allclose(space.scaling(seed).long_factor[2:13], ramp[2:13], atol=0.11) for seed in space.seeds()), (
        "LongRoPE begins with YaRN among others"
    )


def test_the_left_side_of_a_search_is_what_its_name_says() -> None:
    paper = searches.space("paper-q", ROPE, 2048, BOTH[1].own["search"])
    assert {candidate.power for candidate in Evolution(paper, search_config(initial=40)).ask()} == {100}
    free = searches.space("free-q", ROPE, 2048, DESIGN.own["search"])
    assert len({candidate.power for candidate in Evolution(free, search_config(initial=40)).ask()}) > 3
    assert paper.split == free.split == 14
    with pytest.raises(KeyError):
        searches.space("nothing", ROPE, 2048, DESIGN.own["search"])


RIGHT = [16 + 0.5 * number for number in range(18)]
LINES = {
    "evolution": {"factors": [*longrope2(ROPE, 2048, right=RIGHT).long_factor], "temperature": 1.25, "power": 1.0},
    "free-q": {"factors": [*longrope2(ROPE, 2048, right=32, power=2).long_factor], "temperature": 1.25, "power": 2.0},
    "gradient": {"factors": [2.0] * 32, "temperature": 0.7, "power": None,
                 "rule": {"name": "yarn@0.9", "temperature": 0.9}},
    "evolution-temperature": {"factors": [3.0] * 32, "temperature": 0.8, "power": 1.0},
    "longrope": {"factors": [4.0] * 32, "temperature": 1.25, "power": None},
}  # fmt: skip


def _scaling(factors: str, temperature: str = "su") -> Any:
    return rules.scaling(factors, temperature, ROPE, 2048, DESIGN.own["sides"], LINES.__getitem__)


def test_left_and_right_sides_are_composed() -> None:
    for name, power in (("left-1", 1.0), ("left-q", 2.0)):
        for side, right in (("s", 16), ("2s", 32), ("4s", 64), ("searched", RIGHT), ("searched-q", 32)):
            made, wanted = _scaling(f"{name}/right-{side}"), longrope2(ROPE, 2048, right=right, power=power)
            assert made.long_factor == wanted.long_factor
            assert made.long_attention_factor == wanted.long_attention_factor, "published with this temperature"
    # By hand: theoretical split 14 of 32 pairs, q = 2: S^((7/14)^2) = S^(1/4); q = 1: S^(1/2).
    assert _scaling("left-q/right-s").long_factor[7] == pytest.approx(16**0.25)
    assert _scaling("left-1/right-4s").long_factor[7] == pytest.approx(8.0)
    assert _scaling("left-q/right-s").long_factor[13:15] == pytest.approx([16 ** ((13 / 14) ** 2), 16])
    assert _scaling("left-q/right-searched").long_factor[14:] == tuple(RIGHT)
    assert _scaling("left-0/right-searched").long_factor == (*[1.0] * 14, *RIGHT), "fast pairs as they were trained"
    for design in BOTH:
        for other, name in design.own["same"].items():
            if other == "evolution":
                assert design.own["sides"][name.partition("/right-")[2]] == "evolution"
    assert _scaling("left-1/right-searched").long_factor == pytest.approx(LINES["evolution"]["factors"])
    assert _scaling("left-1/right-ntk").long_factor == pytest.approx(ntk(ROPE, 2048).long_factor), "so it has no cell"
    kept = _scaling("left-q/right-ntk").long_factor
    assert kept[14:] == ntk(ROPE, 2048).long_factor[14:]
    assert kept[7] == pytest.approx(kept[14] ** 0.25)
    assert DESIGN.searches("left-1/right-s") == set()
    assert DESIGN.searches("left-q/right-searched") == {"evolution", "free-q"}
    assert BOTH[1].searches("left-1/right-searched") == {"paper-q"}
    assert DESIGN.searches("best-rule") == {"gradient"}


@pytest.mark.parametrize("factors", sorted({cell.factors for cell in plan(DESIGN)} - {"best-rule"}))
def test_every_vector_has_every_temperature(factors: str) -> None:
    known = {"1": 1.0, "su": math.sqrt(1 + math.log(16) / math.log(128)), "yarn": 0.1 * math.log(16) + 1}
    made = {name: _scaling(factors, name) for name in known}
    for name, value in known.items():
        assert made[name].long_attention_factor == made[name].short_attention_factor == pytest.approx(value)
        assert made[name].long_factor == made["1"].long_factor
        assert (made[name].target_window, set(made[name].short_factor)) == (2048, {1.0})


def test_a_temperature_of_its_own_is_what_the_search_found() -> None:
    assert _scaling("gradient", "own").long_attention_factor == 0.7
    assert _scaling("evolution-temperature", "own").long_factor == (3.0,) * 32
    assert _scaling("ntk", "0.8").long_attention_factor == 0.8, "a design may have other temperatures"
    best = _scaling("best-rule", "own")
    assert (best.long_factor, best.long_attention_factor) == (yarn(ROPE, 2048).long_factor, 0.9)
    with pytest.raises(KeyError, match="own"):
        _scaling("ntk", "own")
    with pytest.raises(KeyError):
        _scaling("nothing")
    with pytest.raises(KeyError):
        _scaling("left-3/right-s")


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
    groups = [
        {"name": "many", "factors": ["none", "gradient", "longrope"], "temperatures": ["su"], "training": "no",
         "documents": "all"},
        {"name": "few", "factors": ["none"], "temperatures": ["1"], "training": "no", "documents": "few"},
        {"name": "mixed", "factors": ["yarn"], "temperatures": ["su"], "training": "mixed", "documents": "few"},
        {"name": "long", "factors": ["ntk"], "temperatures": ["su"], "training": "long-only", "documents": "few"},
    ]  # fmt: skip
    own = {
        **DESIGN.own,
        "seeds": [0],
        "target": 256,
        "recipe": str(recipe),
        "rows": 2,
        "search": {**small, "samples": 6, "powers": [0.5, 3.0]},
        "documents": {
            "all": {"many": {"128": 3, "256": 2}, "facts": {"128": 1}},
            "few": {"many": {"128": 3, "256": 1}, "facts": {"128": 1}},
        },
        "groups": groups,
    }
    return Design("tiny", DESIGN.common, own)


def test_a_killed_study_goes_on_and_a_row_comes_out_again(tmp_path: Path, toy: Design, capsys: Any) -> None:
    torch.set_num_threads(1)
    found = Store(tmp_path / "strategies.jsonl")

    def studied(name: str, folder: Path = ASSET) -> Study:
        store = Store(tmp_path / f"{name}.jsonl", toy.to_json())
        return Study(toy, Tiny(toy.own), {0: folder}, store, tmp_path / f"work-{name}", found.path)

    whole, cells = studied("whole"), list(plan(toy))
    halves = [list(studied("whole").every(part(toy, plan(toy), number, 2))) for number in (0, 1)]
    assert all(halves)
    assert whole.waits_for(Cell(0, "gradient", "su", "no")) == ["tiny-0/gradient/1"]
    done = [cell for cell in cells if cell.factors != "gradient"]
    assert {cell for half in halves for cell in half} == set(done), "a cell without its search is left out"
    found.add({"key": "tiny-0/gradient/1", "weights": whole.weights(0), "factors": [16.0] * 32, "temperature": 0.7})
    whole = studied("whole")
    assert list(whole.every(cells)) == [Cell(0, "gradient", "su", "no")], "the same command goes on"
    broken = studied("broken")
    for cell in cells[:3]:
        broken.run(cell)
    again = studied("broken")
    assert list(again.every(cells)) == cells[3:]
    timed = {"machine", "processor_seconds", "training"}
    for key, line in whole.store.lines.items():
        other = again.store[key]
        assert {k: v for k, v in line.items() if k not in timed} == {k: v for k, v in other.items() if k not in timed}
    assert "0/search/longrope" in whole.store
    assert not list((tmp_path / "work-whole").glob("0-*")), "no weights are left behind"
    assert "left_on" not in whole.store["0/ntk/su/long-only"]
    assert whole.store["0/yarn/su/mixed"]["training"]["steps"] == 1
    assert whole.store["0/yarn/su/mixed"]["left_on"].keys() == {"many@128", "facts@128"}
    trained, bare = whole.store["0/yarn/su/mixed"]["answers"], whole.store["0/none/1/no"]["answers"]
    assert trained["many@256"]["bits"] != bare["many@256"]["bits"]
    assert [whole.store[f"0/none/{t}/no"]["answers"]["many@256"]["asked"] for t in ("su", "1")] == [24, 12]
    fewer, more = whole.asked(Cell(0, "none", "1", "no")), whole.asked(Cell(0, "none", "su", "no"))
    assert (fewer["many@256"][0].ids == more["many@256"][0].ids).all(), "the documents of both are paired"
    results = tables.Results(toy, whole.store)
    new, old = results.answers(0, ["many@256"], tables.Which("none", "su", "no"), tables.Which("none", "1", "no"))
    assert (new.n, old.n) == ("12 in 1", "12 in 1")
    assert whole.again("0/none/1/no")
    assert "many@256: again" in capsys.readouterr().out
    line = whole.store.lines["0/none/1/no"]
    line["answers"]["many@128"] = pack(np.zeros(36))
    assert not whole.again("0/none/1/no")
    assert "OUTSIDE" in capsys.readouterr().out
    assert whole.again("0/search/longrope")
    other = tmp_path / "other"
    shutil.copytree(ASSET, other)
    (other / "model.safetensors").write_bytes(b"other")
    with pytest.raises(SystemExit, match="other weights"):
        studied("broken", other).prepare(0)
    with pytest.raises(SystemExit, match="other weights"):
        studied("broken", other).found(0, "gradient")
    (other / "model.safetensors").unlink()
    assert studied("broken", other).waits_for(cells[0]) == ["the checkpoint of seed 0"]
    changed = replace(toy, own={**toy.own, "groups": toy.own["groups"][:2]})
    with pytest.raises(SystemExit, match=r"another design \(groups differ\)"):
        Store(tmp_path / "whole.jsonl", changed.to_json())
    dearer = replace(toy, own={**toy.own, "costs": {}})
    Store(tmp_path / "whole.jsonl", dearer.to_json())


def test_the_command_says_what_is_left(tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    command = ["study.py", "--results", str(tmp_path / "none.jsonl")]
    monkeypatch.setattr(sys, "argv", [*command, "--subject", "demo", "--list"])
    assert study.main() == 0
    said = capsys.readouterr().out
    assert "21 of  21 cells  demo: deciding, at su" in said
    total = len(plan(BOTH[1]))
    assert re.search(rf"\d h +{total} of {total} cells  demo: all", said)
    assert not list(tmp_path.iterdir()), "looking changes nothing"
    monkeypatch.setattr(sys, "argv", [*command, str(ASSET), "--work", str(tmp_path)])
    with pytest.raises(SystemExit):
        study.main()
    assert "3 checkpoints" in capsys.readouterr().err


def test_the_demo_model_is_another_subject(tmp_path: Path) -> None:
    tokenizer = make_tokenizer(700)
    tokenizer.save_pretrained(tmp_path)
    sets = {
        "decide": {"multikey_1": {"512": 30, "2048": 1}},
        "other": {"multikey_1": {"512": 20, "2048": 1}, "facts": {"512": 3}},
    }
    own = {"window": 512, "target": 2048, "rows": 4, "documents": sets}
    demo = Demo(own, tmp_path)
    tests = demo.tests(0)
    fewer = Demo({**own, "documents": {"other": sets["other"]}}, tmp_path).tests(0)["multikey_1@512"]
    every = tests["multikey_1@512"]
    assert len(fewer) == 20
    assert all((a.ids == b.ids).all() for a, b in zip(fewer, every, strict=False)), (
        "a smaller set is a larger one's start"
    )
    assert [test.depths[0] for test in every] == [depth_of(number) for number in range(30)]
    for count in (20, 60, 100):
        fifths = np.bincount([int(5 * depth_of(number)) for number in range(count)])
        assert fifths.tolist() == [count // 5] * 5, "and covers all depths"
    assert len({depth_of(number) for number in range(100)}) == 100
    assert {int(5 * depth_of(number)) for number in range(10)} == set(range(5)), "so does half a block"
    for counts in BOTH[1].own["documents"].values():
        assert not any(count % BLOCK for each in counts.values() for count in each.values())
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
    assert demo.samples(0, 1, 0)[0].ids != samples[0].ids
