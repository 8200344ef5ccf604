"""`lr2eval rope` on published configurations, against the rotary modules that transformers builds from them.

The values are copied by hand. Factor lists are stand-ins of the right length: start, start + step, ...
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from tests.lr2eval.conftest import Outcome

Run = Callable[..., Outcome]
CONFIGS = {
    row["name"]: row["config"]
    for row in map(json.loads, (Path(__file__).parent / "rope_configs.jsonl").read_text().splitlines())
}
NO_ROPE = "has no RoPE in a module of its own"
SOME = r"(\d+) of (\d+) attention layers use no RoPE"
SEVERAL = "has 2 RoPEs, for different layers"
UNKNOWN = r"model_type is '\w+', which transformers [\d.]+ does not know"
REFUSED = {
    "bamba": NO_ROPE, "jamba": NO_ROPE, "granite4_h_micro": NO_ROPE, "gptj": NO_ROPE, "cohere2": SOME, "smollm3": SOME,
    "llama4_scout": SOME, "exaone4_32b": SOME, "gemma3_1b_published": SEVERAL, "gemma3_4b_published": SEVERAL,
    "modernbert_decoder": SEVERAL, "olmo3_7b": SEVERAL, "chatglm3_32k": UNKNOWN, "exaone35": UNKNOWN,
    "minicpm4": UNKNOWN, "kimi_k2": UNKNOWN,
}  # fmt: skip
PINNED = {  # pairs, base, window, temperature: by hand from the models' papers and files
    "glm_nopartial": (32, 1e4, 131072, 1.0),
    "phi35moe": (64, 1e4, 131072, 1.243163121016122),
    "phi4mini": (48, 1e4, 131072, 1.1902380714238083),
    "dsv3": (32, 1e4, 163840, 1.0),
    "deepseek_v2_lite": (32, 1e4, 163840, 1.0),
    "gptoss": (32, 150000.0, 131072, 1.3465736),
    "qwen25_yarn_as_docs": (64, 1e6, 32768, 1.1386294),
    "pythia_base25k": (8, 25000.0, 2048, 1.0),
    "falcon_h1": (64, 1e11, 16384, 1.0),
    "qwen3_next": (32, 1e7, 262144, 1.0),
    "qwen25_vl": (64, 1e6, 128000, 1.0),
}


def _whole(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    if value.keys() == {"count", "start", "step"}:
        return [value["start"] + value["step"] * i for i in range(value["count"])]
    return {key: _whole(inner) for key, inner in value.items()}


def _folder(tmp_path: Path, name: str) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(_whole(CONFIGS[name])))
    return tmp_path


def _stock_module(folder: Path) -> tuple[Any, Any]:
    """(configuration of the text model, its rotary module on the CPU), as transformers makes them."""
    text = AutoConfig.from_pretrained(folder).get_text_config()
    with torch.device("meta"):
        try:
            model = AutoModelForCausalLM.from_config(text)
        except ValueError:
            model = AutoModel.from_config(text)
    return text, type(model.base_model.rotary_emb)(config=text)


def test_there_are_enough() -> None:
    assert len(CONFIGS) >= 50
    assert REFUSED.keys() | PINNED.keys() <= CONFIGS.keys()


@pytest.mark.parametrize("name", sorted(CONFIGS.keys() - REFUSED.keys()))
def test_numbers_are_those_of_the_stock_module(tmp_path: Path, lr2eval: Run, name: str) -> None:
    folder = _folder(tmp_path, name)
    got = lr2eval("rope", "--model", folder, "--json")
    assert got.code == 0, got.err
    shown = json.loads(got.out)
    text, module = _stock_module(folder)
    # Dynamic NTK has no numbers beyond the window: they grow with the sequence.
    beyond = 1 if text.rope_parameters["rope_type"] == "dynamic" else shown["original_window"]
    for last, temperature in ((1, shown["short_temperature"]), (beyond, shown["temperature"])):
        table = module(torch.zeros(1, 2, 1), torch.tensor([[0, last]]))
        first = table if isinstance(table, torch.Tensor) else table[0]
        assert temperature == pytest.approx(float(first.flatten()[0].abs()), rel=1e-6)
    # The last call read beyond the original window: the module now holds its long frequencies.
    assert 2 * len(module.inv_freq) == shown["rotary_dim"]
    ours = [1 / (f * shown["theta"] ** (2 * i / shown["rotary_dim"])) for i, f in enumerate(shown["factors"])]
    assert module.inv_freq.tolist() == pytest.approx(ours, rel=1e-5)
    assert (shown["theta"], shown["target_length"]) == (
        text.rope_parameters["rope_theta"],
        text.max_position_embeddings,
    )
    if name in PINNED:
        pairs, theta, window, temperature = PINNED[name]
        assert (len(shown["factors"]), shown["theta"], shown["target_length"]) == (pairs, theta, window)
        assert shown["temperature"] == pytest.approx(temperature, rel=1e-7)


@pytest.mark.parametrize("name", REFUSED)
def test_the_others_are_refused_in_one_line(tmp_path: Path, lr2eval: Run, name: str) -> None:
    got = lr2eval("rope", "--model", _folder(tmp_path, name), "--target-length", "1m", "--rule", "yarn")
    assert got.code == 2
    assert re.search(REFUSED[name], got.error)


@pytest.mark.parametrize(("name", "wanted"), [("glm_nopartial", 35), ("phi2", 11)])
def test_critical_pairs_of_partial_rotary_models(tmp_path: Path, lr2eval: Run, name: str, wanted: int) -> None:
    """ceil((d/2) log_b(Lt / 2 pi)) with the 32 (16) pairs that rotate, not the whole head."""
    got = lr2eval("rope", "--model", _folder(tmp_path, name), "--target-length", "1m", "--rule", "ntk", "--json")
    assert json.loads(got.out)["d_tcd"] == wanted
