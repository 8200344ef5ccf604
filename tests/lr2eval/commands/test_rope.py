"""``lr2eval rope`` and ``lr2eval export`` as a user meets them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lr2eval.method.rope.rules import RULES
from lr2eval.model.names import locate
from tests.method import published
from tests.method.published import write_csv

Run = Callable[..., Any]
LLAMA3_8K = {
    "model_type": "llama",
    "hidden_size": 4096,
    "num_attention_heads": 32,
    "max_position_embeddings": 8192,
    "rope_theta": 500000.0,
}


def _folder(tmp_path: Path, config: dict[str, Any], name: str = "model") -> Path:
    folder = tmp_path / name
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture
def llama3(tmp_path: Path) -> Path:
    """A folder with nothing but the part of LLaMA3-8B's config.json that RoPE needs."""
    return _folder(tmp_path, LLAMA3_8K)


def test_json_has_the_documented_keys(llama3: Path, lr2eval: Run) -> None:
    got = lr2eval("rope", "--model", llama3, "--target-length", "128k", "--rule", "yarn", "--json")
    assert (got.code, got.err) == (0, "")
    facts = json.loads(got.out)
    assert {"factors", "periods", "d_tcd", "d10_tcd", "d_rcd", "temperature"} <= facts.keys()
    assert (facts["d_tcd"], facts["d10_tcd"], facts["d_rcd"]) == (35, 24, 35)
    assert facts["temperature"] == pytest.approx(1.277, abs=5e-4)
    assert facts["factors"] == list(RULES["yarn"].make(published.LLAMA3, 131072).long_factor)
    assert facts["periods"][35] == pytest.approx(16 * 8219, rel=1e-4)
    assert facts["original_periods"][34] == pytest.approx(6695, abs=0.5)
    assert (facts["scale"], facts["below_bound"], facts["split"]) == (16.0, [], None)


def test_the_papers_ntk_on_llama3(llama3: Path, lr2eval: Run) -> None:
    facts = json.loads(lr2eval("rope", "--model", llama3, "--target-length", "131072", "--rule", "ntk", "--json").out)
    assert facts["factors"][35] == pytest.approx(16.02, abs=5e-3)
    assert facts["factors"][63] == pytest.approx(147, abs=0.5)


@pytest.mark.parametrize(
    ("config", "split", "d_rcd", "d_tcd", "temperature"),
    [(published.llama3_config(), 33, 30, 35, 1.1435), (published.phi4_mini_config(), 31, 31, 34, 1.1902)],
)
def test_published_checkpoints_show_their_own_factors(
    tmp_path: Path, lr2eval: Run, config: dict[str, Any], split: int, d_rcd: int, d_tcd: int, temperature: float
) -> None:
    got = lr2eval("rope", "--model", _folder(tmp_path, config), "--json")
    facts = json.loads(got.out)
    assert (facts["split"], facts["d_rcd"], facts["d_tcd"]) == (split, d_rcd, d_tcd)
    assert facts["temperature"] == pytest.approx(temperature, abs=5e-5)
    assert facts["monotonic"]
    assert got.err == ""


def test_a_file_of_factors(llama3: Path, tmp_path: Path, lr2eval: Run) -> None:
    factors = published.LLAMA3_LEFT + published.LLAMA3_RIGHT
    write_csv(tmp_path / "f.csv", factors)
    got = lr2eval("rope", "--model", llama3, "--target-length", "128k", "--factors", tmp_path / "f.csv", "--json")
    facts = json.loads(got.out)
    assert facts["factors"] == factors
    assert (facts["split"], facts["d_rcd"]) == (33, 30)
    assert facts["temperature"] == pytest.approx(1.1435, abs=5e-5)
    # What --json printed can be read again, and brings its own target and temperature.
    (tmp_path / "f.json").write_text(got.out)
    again = json.loads(lr2eval("rope", "--model", llama3, "--factors", tmp_path / "f.json", "--json").out)
    assert {**again, "rule": ""} == {**facts, "rule": ""}


def test_the_table(llama3: Path, lr2eval: Run) -> None:
    got = lr2eval("rope", "--model", llama3, "--target-length", "128k", "--rule", "longrope2", "--set", "split=30")
    assert got.code == 0
    assert "longrope2(split=30)" in got.out
    assert "critical pairs, counted from 0: d10_tcd 24, d_tcd 35, d_rcd 30, split 30" in got.out
    rows = [line.split() for line in got.out.splitlines() if re.match(r"\s*\d+ ", line)]
    assert len(rows) == 64
    assert rows[30] == ["30", "2,948.3", "16", "47,172.8", "d_rcd,", "split"]
    assert rows[35][-1] == "d_tcd"
    below = lr2eval("rope", "--model", llama3, "--target-length", "128k", "--rule", "none")
    assert "no factor reaches s" in below.out
    assert "29 pairs from d_tcd on have a factor below s: 35 to 63" in below.out


def test_all_rules_side_by_side(llama3: Path, lr2eval: Run) -> None:
    flags = ("rope", "--model", llama3, "--target-length", "128k", "--rule", "all")
    got = lr2eval(*flags)
    assert got.code == 0
    assert "left out: ntk-rcd: needs --set d_rcd=VALUE" in got.out
    assert re.search(r"^ *ntk +\S+ +16\.02\S* +147\.\S* +35 +0 +1\.0000", got.out, re.M)
    whole = json.loads(lr2eval(*flags, "--set", "d_rcd=30", "--json").out)
    assert set(whole["rules"]) | set(whole["left_out"]) == set(RULES)
    assert whole["rules"]["ntk-rcd"]["d_rcd"] == 30
    # A window in which every pair turns has no right side to choose.
    wide = {**LLAMA3_8K, "max_position_embeddings": 1 << 22}
    (llama3 / "config.json").write_text(json.dumps(wide))
    got = lr2eval("rope", "--model", llama3, "--target-length", "8m", "--rule", "all")
    assert got.code == 0
    assert "left out: longrope2: a split at pair 66" in got.out


def test_from_original(tmp_path: Path, lr2eval: Run) -> None:
    scaled = {"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 8192,
              "low_freq_factor": 1.0, "high_freq_factor": 4.0}  # fmt: skip
    folder = _folder(tmp_path, {**LLAMA3_8K, "max_position_embeddings": 131072, "rope_scaling": scaled})
    flags = ("rope", "--model", folder, "--target-length", "256k", "--rule", "pi", "--json")
    got = lr2eval(*flags)
    assert got.code == 2
    assert "already rescaled (llama3 from 8,192 to 131,072 tokens); add --from-original to start from" in got.error
    facts = json.loads(lr2eval(*flags, "--from-original").out)
    assert (facts["original_window"], facts["scale"]) == (8192, 32.0)


def test_warnings_on_standard_error(llama3: Path, tmp_path: Path, lr2eval: Run) -> None:
    far = lr2eval("rope", "--model", llama3, "--target-length", "1m", "--rule", "pi", "--json")
    assert far.code == 0
    assert far.err == "warning: s = 128 is larger than in any published result (at most 64)\n"
    write_csv(tmp_path / "f.csv", [*range(1, 33), 5, *range(33, 64)])
    crooked = lr2eval("rope", "--model", llama3, "--target-length", "128k", "--factors", tmp_path / "f.csv", "--json")
    assert crooked.code == 0
    assert crooked.err == "warning: the factors are not monotonic: pair 32 has 5 after 32\n"
    assert not json.loads(crooked.out)["monotonic"]


def test_clipped_pairs_have_no_position(llama3: Path, lr2eval: Run) -> None:
    got = lr2eval("rope", "--model", llama3, "--target-length", "128k", "--rule", "cope")
    assert (got.code, got.err) == (0, "")
    rows = [line.split() for line in got.out.splitlines() if re.match(r"\s*\d+ ", line)]
    assert rows[-1][2:] == ["1e+12", "no", "position"]
    assert rows[-2][2] == "318.077"
    for rule in ("resonance", "resonance-yarn"):
        got = lr2eval("rope", "--model", llama3, "--target-length", "128k", "--rule", rule, "--json")
        assert (got.code, got.err) == (0, ""), "rounding to whole tokens is no reason for a warning"
        assert json.loads(got.out)["periods"][:3] == [6, 8, 9]


def test_an_attention_factor_for_everything(llama3: Path, tmp_path: Path, lr2eval: Run) -> None:
    flags = ("rope", "--model", llama3, "--target-length", "128k", "--json")
    one = json.loads(lr2eval(*flags, "--rule", "ntk", "--attention-factor", "su").out)
    assert one["temperature"] == one["short_temperature"] == pytest.approx(1.1435, abs=5e-5)
    assert one["made_by"] == "ntk(attention_factor=1.14354)"
    every = json.loads(lr2eval(*flags, "--rule", "all", "--attention-factor", "yarn").out)["rules"]
    assert len(every) > 8
    assert [facts["temperature"] for facts in every.values()] == pytest.approx([1.277259] * len(every), abs=1e-6)
    (tmp_path / "f.json").write_text(json.dumps(one))
    file = json.loads(lr2eval(*flags, "--factors", tmp_path / "f.json", "--attention-factor", "1").out)
    assert (file["temperature"], file["factors"]) == (1.0, one["factors"])
    assert file["made_by"] == "ntk(attention_factor=1)"


def test_the_help_names_every_rule(lr2eval: Run) -> None:
    said = re.sub(r"\s+", "", lr2eval("rope", "--help").out)
    assert f"Therule:{','.join(RULES)},orall." in said


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--rule", "yarn"), "--target-length is missing"),
        (("--rule", "yarn", "--target-length", "8k"), "8,192 tokens is not longer than the window of 8,192"),
        (("--rule", "all", "--target-length", "4k"), "4,096 tokens is not longer than the window of 8,192"),
        (("--rule", "yarn", "--target-length", "many"), "--target-length: 'many' is not a length"),
        (("--rule", "yran", "--target-length", "128k"), "--rule yran: unknown rule; did you mean yarn?"),
        (("--rule", "zzz", "--target-length", "128k"), "unknown rule; known rules: none, pi,"),
        (("--rule", "ntk-rcd", "--target-length", "128k"), "--rule ntk-rcd: needs --set d_rcd=VALUE"),
        (("--rule", "ntk-rcd", "--target-length", "128k", "--set", "d_rcd=99"), "d_rcd is pair 99"),
        (("--rule", "pi", "--target-length", "128k", "--set", "x=1"), "pi.x: unknown option; pi has no options"),
        (("--rule", "all", "--target-length", "128k", "--set", "x=1"), "x: unknown option"),
        (("--rule", "yarn", "--target-length", "128k", "--set", "beta_fast"), "write key=value"),
        (("--rule", "yarn", "--target-length", "128k", "--set", "beta_fast=x"), "--set beta_fast=x: not a number"),
        (("--rule", "yarn", "--target-length", "128k", "--set", 'beta_fast="x"'), "--set beta_fast=x: not a number"),
        (("--rule", "longrope2", "--target-length", "128k", "--set", "split=3.5"), "--rule longrope2: "),
        (("--rule", "abf", "--target-length", "128k"), "--rule abf: needs --set base=VALUE"),
        (("--rule", "abf", "--target-length", "128k", "--set", "base=1"), "--rule abf: the base is 1; give a number"),
        (("--rule", "pi", "--target-length", "128k", "--attention-factor", "0"), "--attention-factor 0: not a "),
        (("--rule", "all", "--target-length", "128k", "--attention-factor", "x"), "--attention-factor x: not a "),
        (("--factors", "{made}", "--attention-factor", "nan"), "nan: not a positive number, su or yarn"),
        (("--attention-factor", "1"), "--attention-factor need --rule or --factors"),
        (("--factors", "no-such-file", "--target-length", "128k"), "no-such-file: No such file"),
        (("--factors", "{short}", "--target-length", "128k"), "has 2 factors, but the model has 64 rotary pairs"),
        (("--factors", "{right}"), "--target-length is missing"),
        (("--factors", "{right}", "--target-length", "8k"), "is not longer than the window of 8,192; give a longer"),
        (("--factors", "{right}", "--target-length", "128k", "--set", "a=1"), "omit it with --factors"),
        (("--factors", "{made}", "--target-length", "64k"), "made for 131,072 tokens, but --target-length is 65,536"),
        (("--factors", "{other}"), "made for base 10000 and a window of 8,192, but the model has"),
        (("--factors", "{right}", "--rule", "pi"), "give one of them"),
        (("--model", "nowhere"), "nowhere: no such folder"),
    ],
)  # fmt: skip
def test_wrong_input_is_one_line(llama3: Path, tmp_path: Path, lr2eval: Run, flags: tuple[str, ...], said: str) -> None:
    made = RULES["pi"].make(published.LLAMA3, 131072).to_json()
    files = {
        "short": "1\n2\n",
        "right": "2\n" * 64,
        "made": json.dumps(made),
        "other": json.dumps(made | {"theta": 1e4}),
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    paths = {f"{{{name}}}": str(tmp_path / name) for name in files}
    got = lr2eval("rope", "--model", llama3, *(paths.get(flag, flag) for flag in flags))
    assert got.code == 2
    assert said in got.error


def test_models_without_a_rope(tmp_path: Path, lr2eval: Run) -> None:
    folder = _folder(tmp_path, {"model_type": "gpt2", "n_positions": 64, "n_embd": 32, "n_head": 2})
    got = lr2eval("rope", "--model", folder, "--target-length", "128k", "--rule", "yarn")
    assert got.code == 2
    assert "has no RoPE" in got.error
    (folder / "config.json").unlink()
    got = lr2eval("rope", "--model", folder, "--target-length", "128k", "--rule", "yarn")
    assert got.code == 2
    assert "no such file" in got.error


def test_own_factors_take_no_target(tmp_path: Path, lr2eval: Run) -> None:
    folder = _folder(tmp_path, published.llama3_config())
    got = lr2eval("rope", "--model", folder, "--target-length", "256k")
    assert got.code == 2
    assert "omit them to see the checkpoint's own factors" in got.error


def test_the_own_rope_of_a_model_of_any_kind(tmp_path: Path, lr2eval: Run) -> None:
    sizes = {"model_type": "qwen2", "hidden_size": 256, "num_attention_heads": 2, "num_key_value_heads": 2,
             "max_position_embeddings": 32768, "rope_theta": 1e6}  # fmt: skip
    plain = json.loads(lr2eval("rope", "--model", _folder(tmp_path, sizes, "plain"), "--json").out)
    assert (plain["factors"], plain["temperature"], plain["scale"]) == ([1.0] * 64, 1.0, 1.0)
    yarn = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
    shown = json.loads(lr2eval("rope", "--model", _folder(tmp_path, sizes | {"rope_scaling": yarn}), "--json").out)
    # YaRN leaves fast pairs alone and stretches slow ones by the factor; its temperature is 0.1 ln 4 + 1.
    assert shown["factors"][0] == pytest.approx(1)
    assert shown["factors"][-1] == pytest.approx(4)
    assert shown["temperature"] == pytest.approx(1.1386294)
    assert (shown["theta"], shown["rotary_dim"], shown["original_window"]) == (1e6, 128, 32768)


def test_export_of_a_rule(toy_checkpoint: Path, tmp_path: Path, lr2eval: Run) -> None:
    made = lr2eval("rope", "--model", toy_checkpoint, "--target-length", "4k", "--rule", "longrope2", "--json")
    assert made.code == 0, made.err
    (tmp_path / "f.json").write_text(made.out)
    flags = ("export", "--model", toy_checkpoint, "--factors", tmp_path / "f.json")
    got = lr2eval(*flags, "--out", tmp_path / "out")
    assert got.code == 0, got.err
    assert got.out.splitlines()[-1] == str(tmp_path / "out")
    assert "warning: stock transformers does not rebuild the cache" in got.err
    shown = json.loads(lr2eval("rope", "--model", tmp_path / "out", "--json").out)
    wanted = json.loads(made.out)
    for key in ("factors", "periods", "temperature", "d_rcd", "split", "original_window", "target_length"):
        assert shown[key] == wanted[key]
    file = tmp_path / "out" / "rope_factors.json"
    from_its_file = lr2eval("rope", "--model", toy_checkpoint, "--factors", file, "--json")
    assert json.loads(from_its_file.out)["factors"] == wanted["factors"]
    # Other temperatures, on both sides or on one.
    got = lr2eval(*flags, "--out", tmp_path / "one", "--attention-factor", "1.0")
    rope = json.loads((tmp_path / "one" / "config.json").read_text())["rope_parameters"]
    assert rope["attention_factor"] == 1.0
    assert "lr2eval_short_attention_factor" not in rope
    got = lr2eval(*flags, "--out", tmp_path / "word", "--attention-factor", "yarn")
    rope = json.loads((tmp_path / "word" / "config.json").read_text())["rope_parameters"]
    assert rope["attention_factor"] == pytest.approx(1.1386294)
    assert "longrope2(split=" in (card := (tmp_path / "word" / "README.md").read_text())
    assert "attention_factor=1.13863" in card
    got = lr2eval(*flags, "--out", tmp_path / "two", "--short-attention-factor", "1.0")
    assert "the attention factors differ (1 inside the window" in got.err
    again = lr2eval(*flags, "--out", tmp_path / "out")
    assert again.code == 2
    assert "already exists" in again.error
    already = lr2eval("export", "--model", tmp_path / "out", "--factors", tmp_path / "f.json", "--out", tmp_path / "3")
    assert already.code == 2
    assert "already rescaled (longrope from 1,024 to 4,096 tokens)" in already.error
    bad = lr2eval(*flags, "--out", tmp_path / "four", "--attention-factor", "-1")
    assert bad.code == 2
    assert "--attention-factor -1: not a positive number" in bad.error
    bad = lr2eval(*flags, "--out", tmp_path / "four", "--short-attention-factor", "inf")
    assert "--short-attention-factor inf: not a positive number, su or yarn" in bad.error
    assert not (tmp_path / "four").exists()


def test_an_exported_model_runs(toy_checkpoint: Path, tmp_path: Path, lr2eval: Run) -> None:
    write_csv(tmp_path / "f.csv", RULES["yarn"].make(_toy_rope(toy_checkpoint), 2048).long_factor)
    got = lr2eval("export", "--model", toy_checkpoint, "--factors", tmp_path / "f.csv", "--target-length", "2k",
                  "--out", tmp_path / "out", "--copy-weights")  # fmt: skip
    assert got.code == 0, got.err
    assert "1 file copied" in got.out
    flags = ("--lengths", "768,2k", "--samples-per-task", "1", "--dtype", "float32", "--device", "cpu", "--offline")
    ran = lr2eval(
        "run", "--model", tmp_path / "out", "--tasks", "ruler:niah_single_1", *flags, "--out", tmp_path / "run"
    )
    assert ran.code == 0, ran.err
    facts = json.loads((tmp_path / "run" / "results.json").read_text())["model"]
    assert (facts["original_window"], facts["window"], facts["rope_scale"]) == (1024, 2048, 2.0)


def test_the_document_shows_what_the_commands_print(
    tmp_path: Path, lr2eval: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = (Path(__file__).parents[3] / "docs" / "rope.md").read_text(encoding="utf-8")
    smollm2 = {
        "model_type": "llama",
        "hidden_size": 576,
        "num_attention_heads": 9,
        "max_position_embeddings": 8192,
        "rope_theta": 1e5,
    }
    _folder(tmp_path, smollm2, "smollm2-135m")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^\$ lr2eval (rope .*)\n((?:(?![$`]).*\n)+)", document, re.M)
    assert len(blocks) == 3
    for command, shown in blocks:
        printed = [line.rstrip() for line in lr2eval(*command.split()).out.splitlines()]
        for line in shown.splitlines():
            assert line in printed or line == "  ...", line
    for name in RULES:
        assert f"| `{name}` |" in document


def _toy_rope(folder: Path) -> Any:
    from lr2eval.method.rope.source import ModelRope

    return ModelRope.read(locate(str(folder))).original()
