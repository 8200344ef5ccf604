"""Exported folders: what stock transformers makes of them, and what they keep and say."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, CohereConfig, CohereForCausalLM

from lr2eval.errors import StoreError, UsageError
from lr2eval.method.rope import export as export_module
from lr2eval.method.rope.export import FACTORS, Exported, export
from lr2eval.method.rope.files import read_factors
from lr2eval.method.rope.rules import longrope2, make_scaling, ntk
from lr2eval.method.rope.scaling import OriginalRope, RopeScaling
from lr2eval.method.rope.source import ModelRope
from lr2eval.method.rope.windowed import install_rope
from lr2eval.model.checkpoint import Checkpoint
from tests.tiny_models import ARCHITECTURES, ORIGINAL, PAIRS, save_checkpoint, tiny_model

TARGET = 256
PLAIN = {"rope_type": "default", "rope_theta": 1000.0}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LR2EVAL_CACHE", str(tmp_path / "cache"))


def _source(folder: Path, architecture: str = "llama", **rope: Any) -> Path:
    """A checkpoint with a plain RoPE and a window of 32 tokens."""
    save_checkpoint(folder, tiny_model(architecture, rope={**PLAIN, **rope}))
    _edit(folder, max_position_embeddings=ORIGINAL)
    return folder


def _edit(folder: Path, **changes: Any) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((folder / "config.json").read_text()) | changes
    config = {key: value for key, value in config.items() if value is not ...}
    (folder / "config.json").write_text(json.dumps(config))
    return config


def _scaling(source: ModelRope, attention_factor: float = 1.0) -> RopeScaling:
    return longrope2(source.original(), TARGET, split=4, right=[9, 9.5, 10, 12.25][: source.rotary_dim // 2 - 4],
                     attention_factor=attention_factor)  # fmt: skip


def _export(folder: Path, out: Path, scaling: RopeScaling | None = None, **options: Any) -> Exported:
    source = ModelRope.read(folder)
    scaling = scaling or _scaling(source)
    file = folder.parent / "factors.json"
    file.write_text(json.dumps(scaling.to_json() | options.pop("more", {})))
    return export(source, scaling, out, factors=read_factors(file), command=["lr2eval", "export", "a b"], **options)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@torch.no_grad()
def test_stock_transformers_computes_what_our_module_computes(architecture: str, tmp_path: Path) -> None:
    folder = _source(tmp_path / "source", architecture)
    _export(folder, tmp_path / "out")
    stock = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    ours = AutoModelForCausalLM.from_pretrained(folder).eval()
    plain = AutoModelForCausalLM.from_pretrained(folder).eval()
    install_rope(ours, _scaling(ModelRope.read(folder)))
    for length in (1, 20, ORIGINAL, ORIGINAL + 1, 100):
        ids = torch.randint(2, 320, (1, length), generator=torch.Generator().manual_seed(length))
        assert torch.equal(stock(ids).logits, ours(ids).logits)
        assert torch.equal(stock(ids).logits, plain(ids).logits) == (length <= ORIGINAL)
    assert stock.config.max_position_embeddings == TARGET
    assert stock.config.rope_parameters["short_factor"] == [1.0] * PAIRS


@torch.no_grad()
def test_a_temperature_works_the_same_on_both_sides(tmp_path: Path) -> None:
    folder = _source(tmp_path / "source")
    scaling = _scaling(ModelRope.read(folder), attention_factor=1.19)
    _export(folder, tmp_path / "out", scaling)
    stock, ours = (AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval() for _ in range(2))
    rotary = install_rope(ours)
    assert rotary is not None
    assert rotary.scaling == scaling
    for length in (20, 60):
        ids = torch.randint(2, 320, (1, length))
        assert torch.equal(stock(ids).logits, ours(ids).logits)


@pytest.mark.parametrize("rule", ["cope", "resonance", "resonance-yarn"])
@torch.no_grad()
def test_factors_far_above_and_below_one_reach_stock_transformers(rule: str, tmp_path: Path) -> None:
    folder = _source(tmp_path / "source")
    scaling = make_scaling(rule, ModelRope.read(folder).original(), TARGET, {}, "su")
    assert max(scaling.long_factor) == 1e12 or min(scaling.long_factor) < 1
    _export(folder, tmp_path / "out", scaling)
    stock, ours = (AutoModelForCausalLM.from_pretrained(path).eval() for path in (tmp_path / "out", folder))
    install_rope(ours, scaling)
    for length in (20, 100):
        ids = torch.randint(2, 320, (1, length))
        assert torch.equal(stock(ids).logits, ours(ids).logits)
    assert tuple(stock.config.rope_parameters["long_factor"]) == scaling.long_factor
    shown = ModelRope.read(tmp_path / "out").own()
    assert shown.long_factor == pytest.approx(scaling.long_factor)
    assert shown.long_attention_factor == pytest.approx(scaling.long_attention_factor)


@pytest.mark.parametrize("link", [True, False])
def test_everything_else_is_kept(tmp_path: Path, link: bool) -> None:
    folder, out = _source(tmp_path / "source"), tmp_path / "deep" / "out"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    done = _export(folder, out, link=link)
    assert {path.name for path in out.iterdir()} == {*before, "README.md", FACTORS}
    for name, content in before.items():
        assert (folder / name).read_bytes() == content
        assert ((out / name).read_bytes() == content) == (name != "config.json")
    weights = "model.safetensors"
    assert ((folder / weights).stat().st_ino == (out / weights).stat().st_ino) == link
    assert ("hard-linked" in done.notes[0]) == link
    checkpoint = Checkpoint.open(out)
    assert (checkpoint.window, checkpoint.original_window, checkpoint.rope_type) == (TARGET, ORIGINAL, "longrope")
    assert AutoTokenizer.from_pretrained(out).encode("river stone") == AutoTokenizer.from_pretrained(folder).encode(
        "river stone"
    )
    assert [path.name for path in out.parent.iterdir()] == ["out"]
    assert out.stat().st_mode == folder.stat().st_mode


def test_copies_where_links_are_impossible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    monkeypatch.setattr(os, "link", refuse)
    folder = _source(tmp_path / "source")
    assert _export(folder, tmp_path / "out").notes[0] == "weights: 1 file copied"
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()


def test_links_into_a_hub_cache_are_followed(tmp_path: Path) -> None:
    blobs = _source(tmp_path / "blobs")
    folder = tmp_path / "snapshot"
    folder.mkdir()
    for path in blobs.iterdir():
        (folder / path.name).symlink_to(path)
    _export(folder, tmp_path / "out")
    assert not any(path.is_symlink() for path in (tmp_path / "out").iterdir())
    AutoModelForCausalLM.from_pretrained(tmp_path / "out")


@pytest.mark.parametrize("failing", ["_write_card", "_bring_files"])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_nothing_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str, error: BaseException
) -> None:
    done_first: Callable[..., Any] = getattr(export_module, failing)

    def fail(*args: Any) -> None:
        done_first(*args)
        raise error

    monkeypatch.setattr(export_module, failing, fail)
    folder = _source(tmp_path / "source")
    names = {path.name for path in tmp_path.iterdir()}
    with pytest.raises(StoreError if isinstance(error, OSError) else KeyboardInterrupt):
        _export(folder, tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} - names <= {"factors.json", "cache"}


def test_what_a_killed_export_left_is_deleted(tmp_path: Path) -> None:
    folder = _source(tmp_path / "source")
    mine, other = (tmp_path / f".{name}.{2**22 + 1}.tmp" for name in ("out", "another"))
    for left in (mine, other):
        left.mkdir()
        (left / "model.safetensors").touch()
    _export(folder, tmp_path / "out")
    assert not mine.exists()
    assert other.exists(), "not what this command would write"


def test_an_existing_folder_is_left_alone(tmp_path: Path) -> None:
    folder, out = _source(tmp_path / "source"), tmp_path / "out"
    out.mkdir()
    _export(folder, out)  # an empty one is as good as none
    before = (out / FACTORS).read_bytes()
    with pytest.raises(UsageError, match="already exists; choose a new folder"):
        _export(folder, out)
    assert (out / FACTORS).read_bytes() == before
    with pytest.raises(UsageError, match="choose a folder that can be written"):
        _export(folder, folder / "config.json" / "out")


def test_the_card_says_where_everything_comes_from(tmp_path: Path) -> None:
    folder = _source(tmp_path / "source")
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n\n# Small\n\nMade in winter.\n")
    search = {"digest": "0123abcd", "needle_perplexity": {"yarn": 3.25, "searched": 1.5}}
    _export(folder, tmp_path / "out", more={"search": search})
    card = (tmp_path / "out" / "README.md").read_text()
    assert card.startswith("---\nlicense: apache-2.0\n---\n\n# out\n")
    assert card.endswith("# Small\n\nMade in winter.\n")
    file = tmp_path / "factors.json"
    for said in (
        "`lr2eval export 'a b'`",
        Checkpoint.open(folder).fingerprint,
        read_factors(file).sha256,
        "longrope2(split=4)",
        "`0123abcd`",
        "yarn 3.25, searched 1.5",
        "s = 8",
    ):
        assert said in card
    kept = json.loads((tmp_path / "out" / FACTORS).read_text())
    assert RopeScaling.from_json(kept) == _scaling(ModelRope.read(folder))
    assert kept["search"] == search
    # The same command makes the same bytes.
    _export(folder, tmp_path / "again" / "out", more={"search": search})
    for path in (tmp_path / "out").iterdir():
        assert (tmp_path / "again" / "out" / path.name).read_bytes() == path.read_bytes()


def test_warnings_where_stock_transformers_differs(tmp_path: Path) -> None:
    folder = _source(tmp_path / "source")
    scaling = _scaling(ModelRope.read(folder))
    usual = longrope2(scaling.original, TARGET, split=4)
    assert len(_export(folder, tmp_path / "0", usual).warnings) == 1
    assert (
        "does not rebuild the cache when generation crosses 32 tokens"
        in _export(folder, tmp_path / "1", usual).warnings[0]
    )
    told = _export(folder, tmp_path / "2", replace(usual, short_attention_factor=1.0, short_factor=(1.5,) * PAIRS))
    assert "the attention factors differ (1 inside the window, 1.26491 beyond)" in told.warnings[1]
    assert "short factors are not all 1" in told.warnings[2]
    config = json.loads((tmp_path / "2" / "config.json").read_text())
    assert config["rope_parameters"]["lr2eval_short_attention_factor"] == 1.0
    assert len(_export(folder, tmp_path / "3", scaling).warnings) == 1
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"model_max_length": ORIGINAL}))
    assert "model_max_length 32" in _export(folder, tmp_path / "4", usual).warnings[1]
    mistral = _source(tmp_path / "mistral", "mistral")
    _edit(mistral, sliding_window=64)
    assert "sliding_window is 64" in _export(mistral, tmp_path / "5", usual).warnings[1]
    phi3 = _export(_source(tmp_path / "phi3", "phi3"), tmp_path / "6", usual)
    assert len(phi3.warnings) == 1
    assert "chooses one set of factors for a whole batch" in phi3.warnings[0]
    assert "rebuild" not in phi3.warnings[0]


def test_other_forms_of_the_weights_are_left_out_and_named(tmp_path: Path) -> None:
    folder = _source(tmp_path / "source")
    (folder / "pytorch_model.bin").write_bytes(b"x")
    (folder / "onnx").mkdir()
    (folder / ".git").mkdir()
    (folder / "LICENSE").write_text("free")
    assert _export(folder, tmp_path / "out").notes[1] == "not copied: onnx/, pytorch_model.bin"
    assert (tmp_path / "out" / "LICENSE").read_text() == "free"


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "phi3"])
@pytest.mark.parametrize("old_source", [False, True])
def test_both_spellings_say_the_same(tmp_path: Path, architecture: str, old_source: bool) -> None:
    """A program that knows one spelling, transformers 4 for one, must not find a plain RoPE in the export."""
    folder = _source(tmp_path / "source", architecture)
    if old_source:
        _edit(folder, rope_parameters=..., rope_theta=1000.0, rope_scaling=None)
    scaling = longrope2(ModelRope.read(folder).original(), TARGET, split=4)
    _export(folder, tmp_path / "out", scaling)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"] == 1000.0
    assert config["original_max_position_embeddings"] == ORIGINAL
    assert config["rope_scaling"]["long_factor"] == list(scaling.long_factor)
    if architecture == "phi3":  # transformers 4 takes these three and no other
        assert list(config["rope_scaling"]) == ["type", "short_factor", "long_factor"]
    for left_out in ("rope_scaling", "rope_parameters"):
        _edit(tmp_path / "out", **{**config, left_out: ...})
        assert ModelRope.read(tmp_path / "out").own() == scaling


def test_temperatures_for_engines_that_read_mscale(tmp_path: Path) -> None:
    """vLLM ignores attention_factor."""
    scaling = replace(longrope2(OriginalRope(1000.0, 16, ORIGINAL), TARGET, split=4), long_attention_factor=1.5)
    _export(_source(tmp_path / "source"), tmp_path / "out", scaling)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    for rope in (config["rope_parameters"], config["rope_scaling"]):
        assert (rope["short_mscale"], rope["long_mscale"]) == (scaling.short_attention_factor, 1.5)


def test_a_temperature_that_transformers_4_cannot_read(tmp_path: Path) -> None:
    folder = _source(tmp_path / "source", "phi3")
    done = _export(folder, tmp_path / "out", _scaling(ModelRope.read(folder)))
    assert done.warnings[1].endswith("in a Phi-3 model and would use plain RoPE; this checkpoint needs transformers 5")
    assert "rope_scaling" not in json.loads((tmp_path / "out" / "config.json").read_text())


def test_partial_rotary_models(tmp_path: Path) -> None:
    folder = _source(tmp_path / "source", "phi3", partial_rotary_factor=0.75)
    source = ModelRope.read(folder)
    assert (source.head_dim, source.rotary_dim) == (16, 12)
    scaling = longrope2(source.original(), TARGET, split=3)
    _export(folder, tmp_path / "out", scaling)
    stock = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    assert RopeScaling.from_config(stock.config) == scaling


def test_models_that_cannot_carry_the_factors_are_named(tmp_path: Path) -> None:
    cohere = CohereForCausalLM(
        CohereConfig(vocab_size=32, hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
                     max_position_embeddings=ORIGINAL, rope_parameters={"rope_type": "default", "rope_theta": 1e4})
    )  # fmt: skip
    cohere.save_pretrained(tmp_path / "cohere")
    with pytest.raises(UsageError, match="CohereForCausalLM: its rotary module CohereRotaryEmbedding arranges angles"):
        _export(tmp_path / "cohere", tmp_path / "out", ntk(OriginalRope(1e4, 16, ORIGINAL), TARGET))
    folder = _source(tmp_path / "source")
    _edit(folder, model_type="unheard-of")
    with pytest.raises(UsageError, match="model_type is 'unheard-of', which transformers"):
        _export(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    shutil.rmtree(folder)
    config = json.loads((_source(tmp_path / "source") / "config.json").read_text())
    wrapped = {"model_type": "llava", "text_config": config}
    (tmp_path / "source" / "config.json").write_text(json.dumps(wrapped))
    with pytest.raises(UsageError, match="only plain text decoders"):
        _export(tmp_path / "source", tmp_path / "out")


def test_nothing_appears_unless_transformers_reads_the_same_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = export_module._new_config

    def wrong(*args: Any) -> dict[str, Any]:
        config = right(*args)
        config["rope_scaling"]["long_factor"][-1] += 1
        return config

    monkeypatch.setattr(export_module, "_new_config", wrong)
    with pytest.raises(UsageError, match="reads other RoPE numbers"):
        _export(_source(tmp_path / "source"), tmp_path / "out")
    assert not (tmp_path / "out").exists()
