"""``--rope``: a model under a rule in memory is the model that an export with it would be."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lr2eval import run
from lr2eval.backends.hf import WindowedHFLM
from lr2eval.errors import CheckpointError, UsageError
from lr2eval.method.rope.rules import yarn
from lr2eval.method.rope.scaling import SHORT_ATTENTION_KEY
from lr2eval.method.rope.source import ModelRope
from lr2eval.model.checkpoint import Checkpoint
from lr2eval.record.folder import read_manifest
from lr2eval.record.verified import verified_run
from lr2eval.runs.config import RunConfig, default_lengths
from lr2eval.runs.prepare import prepare, prepare_pair
from lr2eval.runs.rope import check_rope, under_rope
from lr2eval.workers.settings import ModelLoader, Workers
from lr2eval.workflows.export import export
from tests.lr2eval.backends.helpers import generation
from tests.tiny_models import longrope, save_checkpoint, text_of, tiny_model

LT, TARGET = 32, 128
PLAIN = {"rope_type": "default", "rope_theta": 1000.0}
FACTORS = [1.0, 1.3, 1.9, 2.4, 3.1, 4.0, 4.4, 4.4]
ONLY = "--rope: works with --backend hf and vllm, without code of the model's own; omit"
# Inside the window; across it while answering; beyond it from the start.
LENGTHS = (4, 7, 9, 11, 14, 16, 18, 22, 23, 25, 27, 29, 31, 32, 33, 40, 55, 70, 90, 115)
NEW = 10


def plain(folder: Path, architecture: str = "llama", seed: int = 0) -> Path:
    """A random model of this kind with a window of :data:`LT` tokens."""
    model = tiny_model(architecture, seed, rope=dict(PLAIN))
    save_checkpoint(folder, model)
    path = folder / "config.json"
    written = json.loads(path.read_text()) | {"max_position_embeddings": LT}
    written.pop("original_max_position_embeddings", None)
    path.write_text(json.dumps(written))
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Do not change it in place."""
    return plain(tmp_path_factory.mktemp("plain") / "tiny")


def config(folder: Path, **given: Any) -> RunConfig:
    return RunConfig.load({"model": folder, "tasks": "niah", "rope": "yarn", "target_length": TARGET} | given)


def seen(folder: Path, **given: Any) -> Checkpoint:
    return under_rope(Checkpoint.open(folder), config(folder, **given))


def answers(checkpoint: Checkpoint) -> tuple[list[str], list[str]]:
    """The answers to twenty prompts, and the RoPE that each used."""
    lm = WindowedHFLM(checkpoint, dtype="float32", device="cpu")
    texts = [text_of(length, lm.tokenizer, seed) for seed, length in enumerate(LENGTHS)]
    said = lm.generate_until([generation(text, NEW) for text in texts])
    return said, [detail.window for detail in lm.take_details()]


@pytest.mark.parametrize(
    ("architecture", "given"),
    [
        ("llama", {"rope": "yarn", "rule": {"beta_fast": 2}}),
        ("llama", {"rope": "FILE", "attention_factor": 1.2, "short_attention_factor": 1.05}),
        ("phi3", {"rope": "ntk", "attention_factor": "su"}),
    ],
)
def test_the_model_answers_as_the_exported_one(architecture: str, given: dict[str, Any], tmp_path: Path) -> None:
    folder = plain(tmp_path / "tiny", architecture)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    file = tmp_path / "factors.json"
    file.write_text(json.dumps({"factors": FACTORS, "target_length": TARGET}))
    found = seen(folder, **given | ({"rope": str(file)} if given["rope"] == "FILE" else {}))
    made = tmp_path / "made.json"
    made.write_text(json.dumps({"factors": found.rope["long_factor"]}))
    long = found.override["temperature"]
    short = found.rope.get(SHORT_ATTENTION_KEY, long)
    export(folder, made, tmp_path / "out", target_length=TARGET, attention_factor=long, short_attention_factor=short)
    exported = Checkpoint.open(tmp_path / "out")
    for name in ("config", "window", "original_window", "suggested_window", "rope_type", "rope", "fingerprint"):
        assert getattr(found, name) == getattr(exported, name), name
    ours, windows = answers(found)
    theirs, _ = answers(exported)
    assert [a == b for a, b in zip(ours, theirs, strict=True)] == [True] * 20
    assert {"short", "short->long", "long"} == set(windows)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_rules_differ_from_each_other_and_from_the_model(model: Path) -> None:
    checkpoints = [Checkpoint.open(model), seen(model), seen(model, rope="ntk"), seen(model, attention_factor=1.0)]
    checkpoints += [seen(model, rule={"beta_fast": 2}), seen(model, target_length=64)]
    assert len({each.fingerprint for each in checkpoints}) == 6
    assert answers(checkpoints[1])[0] != answers(checkpoints[2])[0]


def test_a_checkpoint_under_a_rule_reaches_workers_whole(model: Path) -> None:
    found = seen(model)
    again = pickle.loads(pickle.dumps(found))
    assert again == found
    loader = ModelLoader(Workers(1, "ray"), lambda device: None, found, "cpu")  # type: ignore[arg-type, return-value]
    loader._check_same_model()


def test_another_model_on_a_ray_machine_is_found(model: Path, tmp_path: Path) -> None:
    other = plain(tmp_path / "other", seed=1)
    there = pickle.loads(pickle.dumps(seen(other)))
    object.__setattr__(there, "folder", model)
    with pytest.raises(CheckpointError, match="has a different model at this path"):
        ModelLoader(Workers(1, "ray"), lambda device: None, there, "cpu")._check_same_model()  # type: ignore[arg-type, return-value]


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"target_length": LT}, "--rope yarn: the target of 32 tokens is not longer than the window of 32"),
        ({"target_length": 20}, "--rope yarn: the target of 20 tokens is not longer than the window of 32"),
        ({"target_length": None}, "--rope yarn: --target-length is missing; give the window to reach, for example 32k"),
        ({"rope": "yarm"}, "--rope yarm: unknown rule; did you mean yarn?"),
        ({"rule": {"beta_fst": 3}}, "rule.beta_fst: unknown option; did you mean rule.beta_fast?"),
        ({"rule": {"beta_fast": "x"}}, "--set rule.beta_fast=x: not a number"),
        ({"rope": "ntk-rcd"}, "--rope ntk-rcd: needs --set rule.d_rcd=VALUE"),
        ({"rope": "nowhere.csv"}, "nowhere.csv: "),
        ({"rope": "FILE"}, "has 3 factors, but the model has 8 rotary pairs; use factors made for this model"),
        ({"rope": "FILE", "rule": {"a": 1}}, "rule.a: unknown option; rule has no options"),
    ],
)
def test_a_rule_that_cannot_be_made_is_one_line(given: dict[str, Any], error: str, model: Path, tmp_path: Path) -> None:
    file = tmp_path / "three.csv"
    file.write_text("1\n2\n3\n")
    with pytest.raises(UsageError) as caught:
        seen(model, **given | ({"rope": str(file)} if given.get("rope") == "FILE" else {}))
    assert error in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"rope": None}, "--target-length: says how --rope is made; add --rope RULE, or omit it"),
        ({"rope": None, "target_length": None, "rule": {"beta_fast": 2}}, "--set rule: says how"),
        ({"rope": None, "target_length": None, "from_original": True}, "--set from_original: says how"),
        ({"backend": "local-completions"}, f"{ONLY} --backend local-completions"),
        ({"backend": "sglang"}, f"{ONLY} --backend sglang"),
        ({"trust_remote_code": True}, f"{ONLY} trust_remote_code"),
    ],
)
def test_options_that_do_not_belong_together_are_refused(given: dict[str, Any], error: str, model: Path) -> None:
    with pytest.raises(UsageError) as caught:
        check_rope(config(model, **given))
    assert str(caught.value).startswith(error)


@pytest.mark.parametrize("value", ["0", "-1", "nan", "hot", "inf"])
def test_a_temperature_is_a_positive_number_or_a_word(value: str, model: Path) -> None:
    with pytest.raises(UsageError, match="--attention-factor"):
        seen(model, attention_factor=value)


def test_a_rescaled_model_needs_from_original(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path / "rescaled", tiny_model("llama", rope=longrope()))
    with pytest.raises(UsageError, match=r"already rescaled .*--from-original"):
        seen(folder, target_length=512)
    found = seen(folder, target_length=512, from_original=True)
    assert (found.original_window, found.window) == (LT, 512)


def test_a_model_that_cannot_be_exported_is_refused(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    folder = save_checkpoint(tmp_path / "gpt2", GPT2LMHeadModel(GPT2Config(n_embd=32, n_head=2, n_layer=1)))
    with pytest.raises(CheckpointError, match="has no RoPE in a module of its own"):
        seen(folder)
    monkeypatch.setattr("lr2eval.method.rope.windowed.install_rope", lambda model: None)
    with pytest.raises(UsageError, match="stock transformers reads other RoPE numbers"):
        seen(model)


def test_default_lengths_reach_the_target() -> None:
    assert default_lengths(12288) == (4096, 8192)
    assert default_lengths(12288, 2048, 12288) == (2048, 4096, 8192, 12288)
    assert default_lengths(8192, 4096, 8192) == (4096, 8192)


def test_names_and_rules_are_told_apart(model: Path) -> None:
    found = seen(model, rule={"beta_fast": 2}, attention_factor=1, short_attention_factor=1.05)
    assert found.name == "tiny (yarn, beta_fast=2, attention_factor=1, short_attention_factor=1.05, 128)"
    assert found.override["rule"] == (
        "yarn(beta_fast=2, beta_slow=1, attention_factor=1), temperature 1.05 inside the window"
    )


def test_the_plan_says_what_is_evaluated(asked: dict[str, Any], lr2eval: Callable[..., Any]) -> None:
    words = ["--model", asked["model"], "--tasks", asked["tasks"], "--lengths", "1024", "--samples-per-task", 2,
             "--set", "ruler.haystack=demo-filler", "--rope", "yarn", "--target-length", 1536, "--dry-run"]  # fmt: skip
    done = lr2eval("run", *words)
    assert done.code == 0, done.err
    said = "RoPE: yarn(beta_fast=32, beta_slow=1) to 1,536 tokens, temperature 1.041; checkpoint untouched"
    assert said in done.err.splitlines()


def test_the_settings_of_a_model_as_it_is_stay_those_of_earlier_versions(model: Path) -> None:
    kept = config(model, rope=None, target_length=None).settings()
    assert not kept.keys() & {"rope", "rule", "target_length", "attention_factor", "from_original"}
    assert config(model).run_name("m") != config(model, rope="ntk").run_name("m")


@pytest.fixture
def asked(toy_checkpoint: Path, shared_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A run of the toy model, whose window is 1024 tokens, under YaRN to 1536."""
    monkeypatch.setenv("LR2EVAL_CACHE", str(shared_cache))
    haystack = {"haystack": "demo-filler", "repeat": True}
    return {"model": str(toy_checkpoint), "tasks": "ruler:niah_single_1", "lengths": "1024,1536", "device": "cpu",
            "samples_per_task": 2, "options": {"ruler": haystack}, "rope": "yarn", "target_length": 1536,
            "dtype": "float32", "out": tmp_path / "run"}  # fmt: skip


def test_a_run_says_under_which_rule_it_ran(asked: dict[str, Any]) -> None:
    done = run(RunConfig(**asked))
    checkpoint = Checkpoint.open(Path(asked["model"]))
    facts = done.results.model
    assert facts.name == f"{checkpoint.name} (yarn, 1536)"
    assert facts.rope_override is not None
    assert facts.rope_override.rule == "yarn(beta_fast=32, beta_slow=1)"
    assert facts.rope_override.checkpoint == facts.checkpoint == checkpoint.fingerprint != facts.fingerprint
    assert (facts.window, facts.original_window, facts.rope_type) == (1536, 1024, "longrope")
    manifest = read_manifest(done.folder)
    assert manifest is not None
    made = yarn(ModelRope.read(Path(asked["model"])).original(), 1536)
    rope = manifest["settings"]["config"]["rope"]
    assert (rope["rule"], rope["long_factor"]) == (made.provenance, list(made.long_factor))
    assert rope["attention_factor"] == made.long_attention_factor
    page = done.report.read_text()
    assert "the checkpoint was not changed" in page
    verified_run(done.folder)
    again = run(RunConfig(**asked | {"workers": 2, "out": done.folder.parent / "spread"}))
    assert again.results.digest == done.results.digest
    with pytest.raises(
        UsageError,
        match=r"has another configuration \(config\.rope\.attention_factor: was 1\.04.*temperature: was 1\.04",
    ):
        run(RunConfig(**asked | {"rope": "ntk"}))


def test_the_baseline_is_the_model_as_it_is(asked: dict[str, Any]) -> None:
    done = run(RunConfig(**asked | {"baseline": asked["model"]}))
    original, extended = done.models["original"].results.model, done.models["extended"].results.model
    assert original.rope_override is None
    assert original.fingerprint == extended.checkpoint
    assert done.pair is not None
    assert done.pair.comparison is not None
    assert "both runs are of the same checkpoint, under different RoPEs" in done.pair.comparison.pairs[0].caveats
    alone = run(RunConfig(**asked | {"rope": None, "target_length": None, "lengths": "1024",
                                  "out": done.folder.parent / "alone"}))  # fmt: skip
    assert alone.results.digest == done.models["original"].results.digest


def test_a_pair_asks_the_original_inside_its_window_only(asked: dict[str, Any]) -> None:
    config = RunConfig(**asked | {"baseline": asked["model"], "lengths": None})
    original, extended = prepare_pair(config, lambda text: None)
    assert extended.lengths == (1024, 1536)
    assert not original.checkpoint.override
    assert original.config.rope is None
    assert original.config.model_dump(warnings="error")["rule"] == {}
    single = prepare(config, lambda text: None)
    assert single.checkpoint == extended.checkpoint
