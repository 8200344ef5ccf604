"""No option is ignored: each command refuses what it does not know or cannot use, in one line, before it writes."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from lr2eval.errors import UsageError
from lr2eval.tasks.lmeval import LmEval

Run = Callable[..., Any]
RUN = ("run", "--model", "demo", "--tasks", "ruler:niah_single_1", "--lengths", "512", "--offline")
SERVER = (*RUN, "--backend", "local-completions", "--set", "local-completions.base_url=http://x")
MAKE = ("data", "make", "--model", "demo", "--tasks", "ruler:fwe", "--lengths", "512", "--offline")
EXTEND = ("extend", "--model", "demo", "--offline")
SEARCH = ("search", "--model", "demo", "--target-length", "1k", "--offline")
TRAIN = ("train", "--model", "demo", "--recipe", "demo-8k", "--factors", "f", "--data", "d")


@pytest.mark.parametrize(
    ("command", "option", "named"),
    [
        (RUN, "loud=1", "loud: unknown option"),
        (RUN, "loud.x=1", "'loud'"),
        (RUN, "hf.peft=/nowhere", "hf.peft: unknown option; hf has no options"),
        (RUN, "hf.load_in_4bit=true", "hf.load_in_4bit: unknown option"),
        (RUN, "vllm.enforce_eager=true", "'vllm'"),
        (RUN, "dummy.x=1", "'dummy'"),
        (RUN, "ruler.loud=1", "ruler.loud: unknown option"),
        (RUN, "ruler.loud.x=1", "ruler.loud.x: unknown option"),
        (RUN, "niah.depths=4", "'niah'"),
        (RUN, "options.ruler.loud=1", "must be a table"),
        (RUN, "model.loud=1", "model is not a group of options; omit model.loud"),
        (RUN, "generation.loud=1", "generation.loud: unknown option"),
        (RUN, "generation.typical_p=0.5", "generation.typical_p: unknown option"),
        (RUN, "generation.top_p=0.5", "top_p has no effect without sampling; set do_sample=true"),
        (RUN, "generation.top_p=7", "generation.top_p 7: must be less than or equal to 1"),
        (RUN, "generation.temperature=NaN", "generation.temperature 'NaN': must be a finite number"),
        (RUN, "generation=1", "generation 1: must be a table"),
        (RUN, 'generation={"do_sample": true, "temperature": 0}', "needs a temperature above 0"),
        (RUN, "ray.address=auto", "ray.address: only works with --executor ray"),
        (RUN, "ray.loud=1", "ray.loud: unknown option"),
        (("run", "--model", "demo", "--tasks", "facts"), "facts.loud=1", "facts.loud: unknown option"),
        (("run", "--model", "demo", "--tasks", "mmlu:anatomy"), "mmlu.loud=1", "mmlu.loud: unknown option"),
        (("run", "--model", "demo", "--tasks", "niah"), "niah.loud=1", "niah.loud: unknown option"),
        (("run", "--model", "demo", "--tasks", "longbench"), "longbench.loud=1", "longbench.loud: unknown option"),
        (("run", "--model", "demo", "--tasks", "short"), "short.loud=1", "short.loud: unknown option"),
        ((*RUN, "--backend", "dummy"), "dummy.loud=1", "dummy.loud: unknown option"),
        ((*RUN, "--backend", "gguf"), "gguf.loud=1", "gguf.loud: unknown option"),
        ((*RUN, "--backend", "dummy"), "prefill_chunk=8", "prefill_chunk: --backend dummy does not read it"),
        ((*RUN, "--backend", "dummy", "--dtype", "bfloat16"), "seed=1", "--dtype: --backend dummy does not read it"),
        (SERVER, "local-completions.loud=1", "local-completions.loud: unknown option"),
        (SERVER, "local-completions.max_length=5", "local-completions.max_length: unknown option"),
        (SERVER, "memory_limit=8GiB", "memory_limit: --backend local-completions does not read it"),
        (SERVER, "generation.num_beams=2", "generation.num_beams: --backend local-completions does not have it"),
        (MAKE, "loud=1", "loud: unknown option"),
        (MAKE, "hf.peft=1", "hf: unknown option"),
        (MAKE, "generation.temperature=1", "generation: unknown option"),
        (MAKE, "prefill_chunk=8", "prefill_chunk: unknown option"),
        (MAKE, "ruler.loud=1", "ruler.loud: unknown option"),
        (EXTEND, "loud=1", "write table.key=value"),
        (EXTEND, "loud.x=1", "loud: unknown option"),
        (EXTEND, "search.loud=1", "loud: unknown option"),
        (EXTEND, "data.loud=1", "data.loud: unknown option"),
        (EXTEND, "training.loud=1", "loud: unknown option"),
        (EXTEND, "training.optimizer.loud=1", "optimizer.loud: unknown option"),
        (EXTEND, "evaluation.loud=1", "loud: unknown option"),
        (EXTEND, "evaluation.hf.peft=/nowhere", "hf.peft: unknown option; hf has no options"),
        (EXTEND, "evaluation.ruler.loud=1", "ruler.loud: unknown option"),
        (EXTEND, "evaluation.generation.loud=1", "generation.loud: unknown option"),
        (SEARCH, "loud=1", "loud: unknown option"),
        (SEARCH, "hf.peft=1", "hf: unknown option"),
        (SEARCH, "ray.loud=1", "ray.loud: unknown option"),
        (SEARCH, "ray.address=auto", "ray.address: only works with --executor ray"),
        (TRAIN, "loud=1", "loud: unknown option"),
        (TRAIN, "optimizer.loud=1", "optimizer.loud: unknown option"),
        (("data", "mix", "--model", "demo", "--recipe", "demo-8k", "--data", __file__), "loud=1", "data.loud: unknown"),
        (("rope", "--model", "demo", "--rule", "ntk", "--target-length", "1k"), "loud=1", "ntk.loud: unknown option"),
    ],
)
def test_unknown_and_unused_options(
    lr2eval: Run, tmp_path: Path, command: tuple[str, ...], option: str, named: str
) -> None:
    out = tmp_path / "out"
    where = () if command[0] == "rope" else ("--out", out)
    done = lr2eval(*command, *where, "--set", option)
    assert done.code == 2, done.err
    assert named in done.error
    assert not {"manifest.json", "extend.json"} & {path.name for path in out.glob("*")}


def test_a_config_file_of_the_gate(lr2eval: Run, tmp_path: Path) -> None:
    (tmp_path / "gate.toml").write_text("loud = 1\n")
    done = lr2eval("gate", "a", "b", "--config", tmp_path / "gate.toml")
    assert done.code == 2
    assert "loud: unknown option" in done.error


@dataclasses.dataclass
class EngineArgs:
    """Some of vLLM's own."""

    max_model_len: int = 0
    enforce_eager: bool = False
    generation_config: str = "auto"


@pytest.mark.parametrize(
    ("option", "named"),
    [
        ("vllm.enforce_eage=true", "vllm.enforce_eage: unknown option; did you mean vllm.enforce_eager?"),
        ("vllm.max_model_len=9999", "the model's window is 512 tokens"),
        ("vllm.generation_config=auto", "use --set generation.from_model=true instead"),
        ("generation.no_repeat_ngram_size=3", "generation.no_repeat_ngram_size: --backend vllm does not have it"),
    ],
)
def test_options_of_vllm_are_refused_before_they_are_recorded(
    lr2eval: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str, named: str
) -> None:
    modules = {name: ModuleType(name) for name in ("vllm", "vllm.engine", "vllm.engine.arg_utils", "vllm.platforms")}
    modules["vllm.engine.arg_utils"].EngineArgs = EngineArgs  # type: ignore[attr-defined]
    modules["vllm.platforms"].current_platform = SimpleNamespace(device_type="cpu")  # type: ignore[attr-defined]
    for name, module in modules.items():
        module.__spec__ = SimpleNamespace()  # type: ignore[assignment]
        monkeypatch.setitem(sys.modules, name, module)
    done = lr2eval(*RUN, "--backend", "vllm", "--set", option, "--out", tmp_path / "run")
    assert done.code == 2, done.err
    assert named in done.error
    assert not (tmp_path / "run").exists()


def test_refused_options_leave_the_folder_of_an_extension_free(lr2eval: Run, tmp_path: Path) -> None:
    for option in ("evaluation.hf.peft=1", "evaluation.ruler.loud=1"):
        done = lr2eval(*EXTEND, "--set", option, "--out", tmp_path / "out")
        assert done.code == 2
        assert "unknown option" in done.error


def test_options_of_plain_lm_eval_tasks() -> None:
    context: Any = SimpleNamespace(options={"include_pth": "x"}, offline=True)
    with pytest.raises(UsageError, match=r"lm_eval\.include_pth: unknown option; did you mean lm_eval\.include_path"):
        LmEval(None).prepare(["piqa"], context)
