"""``lr2eval search`` from end to end on the tiny retrieval model."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import search_kill_resume

from lr2eval.method.rope.scaling import RopeScaling
from lr2eval.method.rope.windowed import install_rope
from lr2eval.method.search.journal import Journal
from lr2eval.record.search import SearchResult
from tests.reports.searches import make_search

Run = Callable[..., Any]


ROOT = Path(__file__).parents[3]


ASSET = ROOT / "tests" / "assets" / "tiny-retrieval"
TEXT = ("--haystack", ASSET / "haystack.txt", "--wording", ASSET / "wording.json", "--repeat")
SMALL = (
    *("--model", ASSET, "--target-length", "512", *TEXT, "--samples", 3, "--held-out", 2, "--dtype", "float32"),
    *("--device", "cpu", "--iterations", 2, "--splits", "12,14", "--set", "initial=9", "--set", "population=6"),
    *("--set", "parents=4", "--set", "mutations=2", "--set", "crossovers=2", "--set", "needles=4", "--depths", "grid"),
)
EVALUATIONS = 2 * 3 * (9 + 2 * 4)


@pytest.fixture
def folder(lr2eval: Run, once: Callable[..., Path]) -> Path:
    """A finished search, made once. Do not change it in place."""

    def make(home: Path) -> None:
        out = home / "run"
        done = lr2eval("search", *SMALL, "--out", out)
        assert done.code == 0, done.err
        assert done.out.splitlines()[-1] == str(out / "factors.json")
        assert f"report: {out / 'report.html'}" in done.out.splitlines()
        assert "split 14, iteration 2/2, best perplexity" in done.err
        assert "evaluations left" in done.err

    return once("search", make) / "run"


def test_search_json_holds_what_a_report_needs(folder: Path) -> None:
    found = SearchResult.read(folder)
    assert (found.original_window, found.target_length, found.d_tcd, found.d10_tcd) == (128, 512, 14, 4)
    assert found.evaluations == EVALUATIONS
    assert [split.split for split in found.splits] == [12, 14]
    assert all([each.iteration for each in split.rounds] == [0, 1, 2] for split in found.splits)
    assert found.best_nll == min(split.best_nll for split in found.splits)
    rules = {rule.name: rule for rule in found.rules}
    assert {"none", "pi", "ntk", "ntk-aware", "dynamic-ntk", "yarn", "llama3", "cope", "resonance", "resonance-yarn",
            "longrope2", "seed", "searched"} <= rules.keys()  # fmt: skip
    assert rules["cope"].factors[-1] == 1e12
    assert min(rules["resonance"].factors) < 1
    scored = {name.partition("@")[0] for name, rule in rules.items() if rule.search_nll} - {"seed", "searched"}
    assert len(scored) == 3, "the best rules, at their own and at their best temperature"
    for rule in rules.values():
        assert len(rule.search_nll) in (0, 3)
        assert (rule.search_perplexity is None) == (not rule.search_nll)
        assert len(rule.held_out_nll) == 2
        assert rule.held_out_perplexity is not None
    assert rules["searched"].factors == found.factors
    assert sum(nll or 0 for nll in rules["searched"].search_nll) / 3 == pytest.approx(found.best_nll)
    assert rules["searched"].search_perplexity <= rules["seed"].search_perplexity  # type: ignore[operator]
    with Journal.open(folder) as journal:
        # Rules at several temperatures and held-out samples come on top; what was scored before is not scored again.
        assert found.data["screened"] == 44 * 2 + 11, (
            "11 rules at 0.8, 1, su and yarn, the best quarter on all 3 samples"
        )
        twice = rules["seed"].factors == found.factors
        more = len(journal) - EVALUATIONS - found.data["screened"] - (len(rules) - twice) * 2
        assert 0 <= more <= 3, "the third sample, for those of the three best rules that were not among the quarter"


def test_two_workers_find_the_same_history(folder: Path, lr2eval: Run, tmp_path: Path) -> None:
    done = lr2eval("search", *SMALL, "--out", tmp_path / "two", "--workers", 2)
    assert done.code == 0, done.err
    assert (tmp_path / "two" / "search.json").read_bytes() == (folder / "search.json").read_bytes()
    assert (tmp_path / "two" / "factors.json").read_bytes() == (folder / "factors.json").read_bytes()
    with Journal.open(folder) as one, Journal.open(tmp_path / "two") as two:
        assert {(each.factors, each.sample) for each in one.rows()} == {
            (each.factors, each.sample) for each in two.rows()
        }


def test_report_is_written_and_rendered_again(folder: Path, lr2eval: Run, tmp_path: Path) -> None:
    found = SearchResult.read(folder)
    written = (folder / "report.html").read_text(encoding="utf-8")
    assert found.digest in written
    assert f"{found.data['tokens_read']:,}" in written
    done = lr2eval("report", folder, "--out", tmp_path / "again.html")
    assert done.code == 0, done.err
    assert done.out.strip() == str(tmp_path / "again.html")
    assert (tmp_path / "again.html").read_text(encoding="utf-8") == written
    with Journal.open(folder) as journal:
        assert found.data["tokens_read"] == 512 * len(journal)  # every sample holds just the target's tokens
    rules = {rule.name: rule for rule in found.rules}
    assert rules["searched"].held_out_difference is None
    gap = rules["pi"].held_out_difference
    assert gap is not None
    pairs = zip(rules["pi"].held_out_nll, rules["searched"].held_out_nll, strict=True)
    assert gap.mean == pytest.approx(sum((a or 0) - (b or 0) for a, b in pairs) / 2)
    assert gap.n == 2
    assert [split.stopped for split in found.splits] == ["iterations", "iterations"]


def test_report_refuses_in_one_line(lr2eval: Run, tmp_path: Path) -> None:
    folder = make_search(tmp_path / "s")
    done = lr2eval("report", folder, tmp_path)
    assert done.code == 2
    assert "a search has its own report; give only this folder" in done.err
    (folder / "search.json").write_text('{"version": 9}', encoding="utf-8")
    done = lr2eval("report", folder)
    assert done.code == 5
    assert "has schema version 9, but this lr2eval reads versions 2, 3 and 4" in done.err
    (folder / "search.json").unlink()
    again = lr2eval("report", folder)
    assert again.code == 2
    assert "the search has not finished" in again.err
    none = lr2eval("report", tmp_path / "none")
    assert none.code == 2
    assert "give the folder of a run" in none.err
    assert all(len(each.err.strip().splitlines()) == 1 for each in (done, again, none))
    assert not (folder / "report.html").exists()


def test_the_same_text_in_another_folder_is_the_same_search(folder: Path, lr2eval: Run, tmp_path: Path) -> None:
    (tmp_path / "moved").mkdir()
    shutil.copy(ASSET / "haystack.txt", tmp_path / "moved" / "haystack.txt")
    shutil.copytree(folder, tmp_path / "run")
    moved = [tmp_path / "moved" / "haystack.txt" if each == ASSET / "haystack.txt" else each for each in SMALL]
    done = lr2eval("search", *moved, "--out", tmp_path / "run")
    assert done.code == 0, done.err
    assert (tmp_path / "run" / "factors.json").read_bytes() == (folder / "factors.json").read_bytes()


def test_factors_serve_rope_export_and_stock_transformers(folder: Path, lr2eval: Run, tmp_path: Path) -> None:
    scaling = RopeScaling.from_json(json.loads((folder / "factors.json").read_text()))
    assert scaling.target_window == 512
    shown = lr2eval("rope", "--model", ASSET, "--factors", folder / "factors.json", "--json")
    assert shown.code == 0, shown.err
    assert json.loads(shown.out)["factors"] == list(scaling.long_factor)
    exported = tmp_path / "exported"
    done = lr2eval("export", "--model", ASSET, "--factors", folder / "factors.json", "--out", exported)
    assert done.code == 0, done.err
    card = (exported / "README.md").read_text()
    assert SearchResult.read(folder).digest in card
    assert "needle perplexity" in card
    from transformers import AutoModelForCausalLM

    rotary = install_rope(AutoModelForCausalLM.from_pretrained(exported))
    assert rotary is not None
    assert rotary.scaling.long_factor == scaling.long_factor


def test_the_same_command_again_computes_nothing(folder: Path, lr2eval: Run, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    before = (copy / "search.json").read_bytes(), (copy / "factors.json").read_bytes()
    with Journal.open(copy) as journal:
        rows = journal.rows()
    (copy / "search.json").unlink()
    done = lr2eval("search", *SMALL, "--out", copy)
    assert done.code == 0, done.err
    assert f"resuming: {len(rows)} evaluations are already done" in done.err
    assert before == ((copy / "search.json").read_bytes(), (copy / "factors.json").read_bytes())
    with Journal.open(copy) as journal:
        assert journal.rows() == rows


def test_another_configuration_is_refused_by_its_keys(folder: Path, lr2eval: Run) -> None:
    done = lr2eval("search", *SMALL, "--seed", 1, "--strategy", "random", "--out", folder)
    assert done.code == 2
    assert "random: was false, now true" in done.err
    assert "seed: was 0, now 1" in done.err
    assert "choose another --out" in done.err


def rescaled(folder: Path, **rope: Any) -> Path:
    """The tiny model as if somebody had already rescaled it."""
    shutil.copytree(ASSET, folder)
    config = json.loads((folder / "config.json").read_text())
    config["rope_parameters"] |= rope
    config["max_position_embeddings"] = 256
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_a_rescaled_model_needs_from_original(lr2eval: Run, tmp_path: Path) -> None:
    model = rescaled(tmp_path / "yarn", rope_type="yarn", factor=2.0, original_max_position_embeddings=128)
    done = lr2eval("search", *SMALL, "--model", model, "--out", tmp_path / "run")
    assert done.code == 2
    assert "already rescaled (yarn from 128 to 256 tokens); add --from-original" in done.err
    few = ("--iterations", 0, "--splits", 14)
    done = lr2eval("search", *SMALL, *few, "--model", model, "--out", tmp_path / "run", "--from-original")
    assert done.code == 0, done.err
    plain = lr2eval("search", *SMALL, *few, "--out", tmp_path / "plain")
    assert plain.code == 0, plain.err
    assert SearchResult.read(tmp_path / "run").rules == SearchResult.read(tmp_path / "plain").rules


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--target-length", "128"), "the target of 128 tokens is not longer than the window of 128"),
        (("--target-length", "abc"), "--target-length: 'abc' is not a length"),
        (("--splits", "32"), "split 32: is not a pair from 1 to 31"),
        (("--splits", "12,x"), "give pairs separated by commas"),
        (("--splits", "12,12"), "a pair is given twice"),
        (("--set", "popultion=3"), "popultion: unknown option; did you mean population?"),
        (("--set", "parents=99"), "99 parents cannot come from a population of 6"),
        (("--depths", "middle"), "--depths 'middle'"),
        (("--haystack", "/no/such/file"), "--haystack /no/such/file: no such file"),
        (("--wording", "/no/such/file"), "/no/such/file: No such file or directory"),
        (("--set", "needles=60"), "needles: 60 are asked for, but the wording has only 48 values"),
        (("--race", "--samples", "4"), "makes its last choice after 4 samples"),
        (("--model", "/no/such/model"), "/no/such/model"),
    ],
)
def test_bad_input_is_one_line(lr2eval: Run, tmp_path: Path, flags: tuple[str, ...], said: str) -> None:
    done = lr2eval("search", *SMALL, *flags, "--out", tmp_path / "run")
    assert done.code == 2
    assert said in done.err
    assert done.err.splitlines()[-1].startswith("error: ")
    assert not (tmp_path / "run").exists()


def test_a_haystack_that_is_too_short_is_refused_without_repeat(lr2eval: Run, tmp_path: Path) -> None:
    short = tmp_path / "short.txt"
    short.write_text("w1 w2 w3 w4\n" * 30)
    flags = [flag for flag in SMALL if flag != "--repeat"]
    done = lr2eval("search", *flags, "--haystack", short, "--out", tmp_path / "run")
    assert done.code == 2
    assert "haystack short.txt: has 120 tokens, but a sample of 512 needs" in done.err
    assert "--repeat" in done.err


def test_far_targets_are_warned_about(lr2eval: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lr2eval.method.search.perplexity._mean_nll", lambda model, sample: 1.0)  # slow, so far out
    far = ("--target-length", 128 * 65, "--iterations", 0, "--set", "initial=1", "--splits", 14, "--samples", 1)
    done = lr2eval("search", *SMALL, *far, "--held-out", 0, "--out", tmp_path / "run")
    assert done.code == 0, done.err
    assert "warning: s = 65 is larger than in any published result (at most 64)" in done.err


@pytest.mark.parametrize(("broken", "said"), [("nan", "none of 9 candidates"), ("memory", "256 tokens fit")])
def test_a_failing_model_leaves_the_journal_whole(
    lr2eval: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str, said: str
) -> None:
    from lr2eval.method.search import perplexity

    whole = perplexity._mean_nll
    calls: list[int] = []

    def failing(model: Any, sample: Any) -> float:
        calls.append(len(sample.ids))
        if broken == "nan":
            return float("nan")
        if len(calls) > 5 and len(sample.ids) > 300:
            raise MemoryError
        return whole(model, sample)

    monkeypatch.setattr(perplexity, "_mean_nll", failing)
    done = lr2eval("search", *SMALL, "--out", tmp_path / "run")
    assert done.code == 5
    assert said in done.err.splitlines()[-1]
    with Journal.open(tmp_path / "run") as journal:
        assert len(journal) == (27 + 44 * 2 + 11 if broken == "nan" else 5)  # first the rules at their temperatures
    if broken == "memory":  # with memory again the same command goes on
        monkeypatch.setattr(perplexity, "_mean_nll", whole)
        done = lr2eval("search", *SMALL, "--out", tmp_path / "run")
        assert done.code == 0, done.err
        assert "resuming: 5 evaluations are already done" in done.err


DESCENT = (
    *("--strategy", "gradient", "--model", ASSET, "--target-length", "512", *TEXT, "--samples", 4, "--held-out", 2),
    *("--dtype", "float32", "--device", "cpu", "--set", "needles=4", "--set", "steps=4", "--set", "check_every=2"),
    *("--set", "batch=2", "--set", "screen=1"),
)


@pytest.fixture
def descent(lr2eval: Run, once: Callable[..., Path]) -> Path:
    """A finished gradient search, made once. Do not change it in place."""

    def make(home: Path) -> None:
        done = lr2eval("search", *DESCENT, "--out", home / "run")
        assert done.code == 0, done.err
        assert re.search(r"best start: \w+.*; temperature \d", done.out)
        assert "from " in done.err

    return once("descent", make) / "run"


def test_a_gradient_search_is_recorded_and_shown(descent: Path) -> None:
    result = SearchResult.read(descent)
    assert (result.strategy, result.split, result.power) == ("gradient", None, None)
    assert {each.name for each in result.rules} >= {"yarn", "ntk", "seed", "searched"}
    assert any("@" in each.name for each in result.rules), "a rule at its best temperature"
    found = next(each for each in result.rules if each.name == "searched")
    assert min(found.factors) >= 1
    assert found.factors == sorted(found.factors)
    best = result.best
    assert [each.iteration for each in best.rounds] == [0, 2, 4]
    assert [len(each.step_nll) for each in best.rounds] == [0, 2, 2]
    assert best.best_nll == result.best_nll == min(each.round_nll or 9.0 for each in best.rounds)
    assert [each.stopped for each in result.splits if each is not best] == ["behind"] * 3
    assert result.data["tokens_differentiated"] == 512 * 2 * (2 + 2 + 2)
    page = (descent / "report.html").read_text(encoding="utf-8")
    assert "Loss, temperature and factors by step" in page
    assert f"<b>gradient</b> from {best.start}" in page


def test_workers_change_no_step(descent: Path, lr2eval: Run, tmp_path: Path) -> None:
    done = lr2eval("search", *DESCENT, "--workers", 2, "--out", tmp_path / "two")
    assert done.code == 0, done.err
    assert (tmp_path / "two" / "factors.json").read_bytes() == (descent / "factors.json").read_bytes()


def test_a_named_temperature_stays(lr2eval: Run, tmp_path: Path) -> None:
    done = lr2eval("search", *DESCENT, "--attention-factor", "su", "--out", tmp_path / "run")
    assert done.code == 0, done.err
    result = SearchResult.read(tmp_path / "run")
    assert result.attention_factor == pytest.approx((1 + math.log(4) / math.log(128)) ** 0.5), "from 128 to 512 tokens"


def test_what_a_gradient_search_cannot_do_is_refused(lr2eval: Run, tmp_path: Path) -> None:
    model = tmp_path / "quantised"
    shutil.copytree(ASSET, model)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "gptq"}}))
    for change, said in (
        (["--model", model], "no gradient passes through the quantised weights of quantised; use evolution or random"),
        (["--target-length", 128], "the target of 128 tokens is not longer than the window of 128"),
        (["--attention-factor", 0], "--attention-factor 0: not a positive number, su or yarn"),
        (["--attention-factor", "hot"], "--attention-factor hot: not a positive number, su or yarn"),
        (["--set", "batch=0"], "batch"),
    ):
        done = lr2eval("search", *DESCENT, *change, "--out", tmp_path / "run")
        assert done.code == 2
        assert said in done.err
        assert len(done.err.strip().splitlines()) == 1 + ("checking" in done.err)


@pytest.mark.xdist_group("processes")
@pytest.mark.timeout(900)
@pytest.mark.parametrize("strategy", ["evolution", "gradient"])
def test_killed_and_resumed_search_has_the_same_history(tmp_path: Path, strategy: str) -> None:
    """SIGKILL at random moments, three here, ten in ``benchmarks/search_kill_resume.py``."""
    facts = search_kill_resume.campaign(tmp_path, kills=3, seed=11, strategy=strategy)
    assert facts["kills"] == 3
    assert facts["ok"], facts
