"""The public Python API: what `lr2eval.__all__` promises, and every function called as a script would."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import pandas as pd
import pytest
import tiny_extend

import lr2eval
from lr2eval.base.processes import main_is_not_run_again
from lr2eval.record.store import FILE
from tests.fake_runs import fake_run
from tests.lr2eval.test_listener import SEARCH, WORDS, Ear
from tests.tiny_segments import mixture, write_segments

ASSET = Path(__file__).parents[1] / "assets" / "tiny-retrieval"
FUNCTIONS = [name for name in lr2eval.__all__ if isinstance(getattr(lr2eval, name), FunctionType)]
CLASSES = [name for name in lr2eval.__all__ if isinstance(getattr(lr2eval, name), type)]

# Runs in an interpreter of its own, as a user's script does, and prints nothing. It imports every module first: that
# must not replace a public function by a module of the same name.
SCRIPT = """
import importlib, json, pkgutil, sys
from pathlib import Path

import lr2eval

home, asset, words = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
absent = []
for module in pkgutil.walk_packages(lr2eval.__path__, "lr2eval."):
    try:
        if module.name != "lr2eval.__main__":
            importlib.import_module(module.name)
    except ModuleNotFoundError as error:
        absent.append([module.name, error.name])

pair = lr2eval.run(
    lr2eval.RunConfig(
        model="demo-longrope2", baseline="demo", tasks="facts,ruler:niah_single_1", lengths="512,1k", limit=2,
        samples_per_task=2, beyond_window=True, device="cpu", dtype="float32", offline=True, out=home / "pair",
    )
)
both = [pair.folder / "original", str(pair.folder / "extended")]
compared = lr2eval.compare(both, out=str(home / "comparison"))
verdict = lr2eval.gate(both, lr2eval.GateConfig(margin=50), out=home / "verdict")
baseline = lr2eval.save_baseline(both[0], str(home / "baseline.json"))
opened = lr2eval.open_run(both[1])
found = lr2eval.search(lr2eval.SearchConfig(**json.loads(sys.argv[4]), out=home / "search"))
recipe = lr2eval.read_recipe("tiny-retrieval-2k", {"target_window": 512})
trained = lr2eval.train(
    lr2eval.TrainConfig(
        recipe=recipe, model=asset, factors=found.factors, data=str(home / "rows"), out=home / "training", device="cpu"
    )
)
exported = lr2eval.export(asset, found.factors, str(home / "exported"), attention_factor=1.0)
extended = lr2eval.extend(
    lr2eval.ExtendConfig(
        model=asset, target_length=512, factors=found.factors, offline=True, device="cpu", out=home / "extension",
        search={**words, "dtype": "float32"},
        data={
            "sources": [{"name": "tiny", "path": str(home / "documents.jsonl"), "tokenised": True}],
            "buckets": [{"up_to": 128, "share": 0.5}, {"share": 0.5}],
        },
        training={"recipe": "tiny-retrieval-2k"},
        evaluation={
            "tasks": ["niah:single"], "lengths": [128, 512], "dtype": "float32", "beyond_window": True,
            "niah": {**words, "places": "words", "tokens_per_value": 2, "depths": 2, "samples_per_cell": 1},
        },
    )
)
rope = lr2eval.read_rope(asset)
yarn = lr2eval.rope_rules()["yarn"].make(rope, 512)
told = {
    "absent": absent,
    "homes": {name: getattr(lr2eval, name).__module__ for name in lr2eval.__all__ if name != "__version__"},
    "run": [str(pair.report), list(pair.models), pair.results.model.name, pair.pair.gate.verdict, pair.pair.sentences],
    "compare": [str(compared.report), len(compared.comparison.pairs)],
    "gate": [str(verdict.report), verdict.gate.verdict, verdict.gate.exit_code],
    "baseline": [str(baseline.path), baseline.samples, baseline.digest == pair.models["original"].results.digest],
    "opened": len(opened.samples),
    "search": [str(found.factors), str(found.report), found.result.target_length],
    "train": [str(trained.model), trained.result.steps],
    "export": [str(exported.folder), exported.scaling.long_attention_factor],
    "extend": [str(extended.model), str(extended.report), extended.search, extended.evaluation.pair.problem],
    "rope": [rope.window, yarn.scale],
}
(home / "told.json").write_text(json.dumps(told))
"""


@dataclass(frozen=True)
class Called:
    """What the script left behind and printed."""

    home: Path
    told: dict[str, Any]
    out: str
    err: str


@pytest.fixture(scope="module")
def called(tmp_path_factory: pytest.TempPathFactory, shared_cache: Path) -> Called:
    home = tmp_path_factory.mktemp("api")
    write_segments(home / "rows", mixture(8, 512, 128, weighted=True, vocabulary=296), 128)
    tiny_extend.write_documents(home / "documents.jsonl", 0, 4, 512)
    searched = json.dumps({**SEARCH, "model": str(ASSET)})
    # TQDM_DISABLE is what the command line sets; a script has it not.
    environment = {key: value for key, value in os.environ.items() if key != "TQDM_DISABLE"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, home, ASSET, json.dumps(WORDS), searched],
        capture_output=True, text=True, cwd=home, env={**environment, "LR2EVAL_CACHE": str(shared_cache)}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return Called(home, json.loads((home / "told.json").read_text()), done.stdout, done.stderr)


@pytest.fixture(autouse=True)
def _cache(monkeypatch: pytest.MonkeyPatch, shared_cache: Path) -> None:
    monkeypatch.setenv("LR2EVAL_CACHE", str(shared_cache))


# What the surface promises


def test_every_listed_name_is_there() -> None:
    assert len(set(lr2eval.__all__)) == len(lr2eval.__all__)
    assert dir(lr2eval) == sorted(lr2eval.__all__)
    assert not [name for name in lr2eval.__all__ if isinstance(getattr(lr2eval, name), ModuleType)]
    assert lr2eval.__version__
    assert [*FUNCTIONS, *CLASSES] == lr2eval.__all__[1:], "functions first, then classes"


def test_the_table_of_homes_is_what_is_listed() -> None:
    named = [name for names in lr2eval._HOMES.values() for name in names]
    assert len(set(named)) == len(named)
    assert {"__version__", *named} == set(lr2eval.__all__)
    for home, names in lr2eval._HOMES.items():
        for name in names:
            assert getattr(lr2eval, name).__module__ == f"lr2eval.{home}", f"{name} is defined elsewhere"


def test_type_checkers_see_the_same_names() -> None:
    tree = ast.parse(Path(lr2eval.__file__).read_text(encoding="utf-8"))
    (checked,) = (node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    seen: dict[str, list[str]] = {}
    for node in checked.body:
        assert isinstance(node, ast.ImportFrom)
        assert [alias.asname for alias in node.names] == [alias.name for alias in node.names], "else it is not public"
        seen.setdefault(str(node.module).removeprefix("lr2eval."), []).extend(alias.name for alias in node.names)
    assert {home: tuple(names) for home, names in seen.items()} == lr2eval._HOMES


def test_an_unknown_name_says_where_the_names_are_listed() -> None:
    with pytest.raises(AttributeError, match=r"'lr2eval' has no attribute 'evaluate'; lr2eval\.__all__ lists the pub"):
        _ = lr2eval.evaluate
    assert not hasattr(lr2eval, "_evaluate")
    with pytest.raises(ImportError, match="cannot import name 'evaluate'"):
        exec("from lr2eval import evaluate")


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_are_described_and_typed(name: str) -> None:
    _check_function(name, getattr(lr2eval, name))


@pytest.mark.parametrize("name", CLASSES)
def test_classes_are_described_and_typed(name: str) -> None:
    found = getattr(lr2eval, name)
    own = vars(found).get("__doc__") or ""
    assert own.strip(), f"{name}: no docstring"
    assert not own.startswith(f"{name}("), f"{name}: only the docstring that dataclasses make"
    for member, value in vars(found).items():
        if member.startswith("_") or member in getattr(found, "__dataclass_fields__", ()):
            continue
        function = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
        if isinstance(function, FunctionType):
            _check_function(f"{name}.{member}", function)


def _check_function(name: str, function: Callable[..., Any]) -> None:
    assert (function.__doc__ or "").strip(), f"{name}: no docstring"
    signature = inspect.signature(function)
    assert signature.return_annotation is not signature.empty, f"{name}: what it returns is not annotated"
    for parameter in signature.parameters.values():
        assert parameter.name in ("self", "cls") or parameter.annotation is not parameter.empty, f"{name}: {parameter}"


# Every function, called


def test_no_module_replaces_a_public_name(called: Called) -> None:
    """The script imported every module before it called anything."""
    assert called.told["homes"] == {name: f"lr2eval.{home}" for home, names in lr2eval._HOMES.items() for name in names}
    assert {missing.partition(".")[0] for _, missing in called.told["absent"]} <= {"vllm"}
    assert all(module.startswith("lr2eval.backends.vllm.") for module, _ in called.told["absent"])


def test_every_function_does_its_work(called: Called) -> None:
    told, home = called.told, called.home
    report, models, name, verdict, sentences = told["run"]
    assert (report, models, name) == (str(home / "pair" / "report.html"), ["original", "extended"], "demo-longrope2")
    assert verdict == "inconclusive", "two samples decide nothing"
    assert [sentence.partition("?")[0].partition(":")[0] for sentence in sentences] == [
        "Does the long window work", "What did it cost on short inputs", "Verdict",
    ]  # fmt: skip
    assert told["compare"] == [str(home / "comparison" / "report.html"), 1]
    assert told["gate"] == [str(home / "verdict" / "report.html"), "inconclusive", 3]
    assert told["baseline"] == [str(home / "baseline.json"), 6, True]
    assert told["opened"] == 6
    assert told["search"] == [*(str(home / "search" / file) for file in ("factors.json", "report.html")), 512]
    assert told["train"] == [str(home / "training" / "model"), 4]
    assert told["export"] == [str(home / "exported"), 1.0]
    assert told["extend"] == [*(str(home / "extension" / name) for name in ("tiny-retrieval-512", "report.html")),
                              None, ""]  # fmt: skip
    assert told["rope"] == [128, 4.0]
    for path in (report, told["compare"][0], told["gate"][0], told["search"][1], told["extend"][1]):
        assert "<html" in Path(path).read_text(encoding="utf-8")
    for folder in (told["train"][0], told["export"][0], told["extend"][0]):
        assert json.loads((Path(folder) / "config.json").read_text())["max_position_embeddings"] == 512


def test_nothing_is_printed_without_a_listener(called: Called) -> None:
    assert (called.out, called.err) == ("", "")


def test_a_rope_is_installed_into_a_loaded_model(toy_checkpoint: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(toy_checkpoint)
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        plain = model(ids).logits
        scaling = lr2eval.rope_rules()["pi"].make(lr2eval.read_rope(toy_checkpoint), 4096)
        rotary = lr2eval.install_rope(model, scaling)
        assert torch.equal(model(ids).logits, plain), "inside the window the original RoPE holds"
        with rotary.window(4096):
            assert not torch.allclose(model(ids).logits, plain)


def test_the_same_call_again_only_reads(called: Called, capfd: pytest.CaptureFixture[str]) -> None:
    ear = Ear()
    config = lr2eval.SearchConfig(**SEARCH, out=called.home / "search")
    before = {path: path.read_bytes() for path in (called.home / "search").glob("*.json")}
    found = lr2eval.search(config, listener=ear)
    assert {path: path.read_bytes() for path in before if path.name != "manifest.json"} == {
        path: text for path, text in before.items() if path.name != "manifest.json"
    }
    assert found.result.target_length == 512
    assert any(text.startswith("resuming: ") for text in ear.of("message"))
    assert {known for _, known in ear.of("evaluated")} == {True}
    assert capfd.readouterr() == ("", "")


PLAIN = """
import sys
import lr2eval

print("the script begins")
config = lr2eval.RunConfig(
    model="demo", tasks="facts,ruler:niah_single_1", lengths="256", samples_per_task=3, limit=3, seed=5, device="cpu",
    dtype="float32", offline=True, workers=2, options={"ruler": {"workers": 2}}, out="run",
)
print(lr2eval.run(config).results.complete)
"""


def test_a_script_needs_no_guard_around_its_calls(tmp_path: Path, shared_cache: Path) -> None:
    """Processes that make data or keep a model do not run the script again; it would wait for its own lock there."""
    (tmp_path / "script.py").write_text(PLAIN)
    done = subprocess.run(
        [sys.executable, "script.py"], capture_output=True, text=True, cwd=tmp_path, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["the script begins", "True"]
    assert len(lr2eval.open_run(tmp_path / "run").samples) == 6


def test_the_script_is_itself_again_once_a_process_has_started() -> None:
    main = sys.modules["__main__"]
    before = dict(vars(main))
    seen = []

    def fail() -> None:
        with main_is_not_run_again():
            seen.append((main.__file__, main.__spec__))
            raise OSError("no process")

    with pytest.raises(OSError, match="no process"):
        fail()
    assert seen == [(None, None)]
    assert vars(main) == before


# Finished runs


def test_frames_of_a_run(called: Called) -> None:
    opened = lr2eval.open_run(str(called.home / "pair" / "extended"))
    assert opened.manifest["config"]["model"] == "demo-longrope2"
    assert opened.results.model.name == "demo-longrope2"

    shards, samples = opened.shards, opened.samples
    assert list(shards) == [
        "benchmark", "task", "length", "metric", "n", "score", "empty", "refused", "truncated", "skipped",
        "prompt_tokens", "new_tokens", "low", "high",
    ]  # fmt: skip
    assert list(samples)[:15] == [
        "id", "benchmark", "task", "length", "number", "prompt_hash", "answer", "gold", "score", "skipped",
        "prompt_tokens", "new_tokens", "truncated_tokens", "window", "finish",
    ]  # fmt: skip
    assert {"depth", "subject"} <= set(samples)
    assert_types(shards)
    assert_types(samples)
    assert samples.skipped.dtype == bool

    assert len(shards) == len(opened.results.shards) == 3
    assert len(samples) == sum(shard.n + shard.skipped for shard in opened.results.shards) == 6
    assert list(shards.length.isna()) == [True, False, False]
    for shard in opened.results.shards:
        mine = samples[(samples.task == shard.task) & (samples.length.fillna(0) == (shard.length or 0))]
        assert mine.score.mean() == shard.score
        assert mine.prompt_tokens.sum() == shard.prompt_tokens
        assert list(mine.number) == [0, 1]
    assert set(samples[samples.length == 1024].window) == {"long"}
    assert all(isinstance(gold, tuple) for gold in samples.gold)
    first = shards.iloc[0]
    assert first.low < first.score <= first.high


def assert_types(frame: pd.DataFrame) -> None:
    assert frame.length.dtype == pd.Int64Dtype()
    assert frame.score.dtype == float
    for name in {"number", "n", "prompt_tokens", "new_tokens"} & set(frame) if len(frame) else ():
        assert frame[name].dtype == "int64", name


def test_a_column_of_a_task_never_hides_one_of_ours(tmp_path: Path) -> None:
    columns = {"ruler/vt@4096": [{"score": 7, "window": "mine", "depth": 0.5}, {}]}
    folder = fake_run(tmp_path / "run", {"ruler/vt@4096": [100.0, None]}, columns=columns)
    frame = lr2eval.open_run(folder).samples
    assert list(frame.score.fillna(-1)) == [100.0, -1]
    assert list(frame.window) == ["only", "only"]
    assert list(frame.skipped) == [False, True]
    assert list(frame.depth.fillna(-1)) == [0.5, -1]
    assert list(frame.columns).count("score") == 1


def test_a_run_without_a_finished_shard_has_empty_frames_with_columns(tmp_path: Path) -> None:
    opened = lr2eval.open_run(fake_run(tmp_path / "run", {}, planned=3))
    for frame in (opened.shards, opened.samples):
        assert frame.empty
        assert {"task", "length", "score"} <= set(frame)
        assert_types(frame)


def test_the_home_of_a_pair_is_not_a_run(called: Called) -> None:
    line = refused(called.home / "pair")
    assert line == f"{called.home / 'pair'}: contains the runs extended and original; open one of them"


@pytest.fixture
def copy(called: Called, tmp_path: Path) -> Path:
    """A run that the test may damage."""
    return Path(shutil.copytree(called.home / "pair" / "extended", tmp_path / "run"))


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("results.json", '{"schema_version": 1, ', "results.json: not valid JSON ("),
        ("results.json", '{"schema_version": 1}', "results.json: damaged at "),
        (
            "results.json",
            '{"schema_version": 9}',
            "results.json: has schema version 9, but this lr2eval reads versions 1 and 2",
        ),
        ("manifest.json", "{", "manifest.json: not valid JSON ("),
        ("manifest.json", "[]", "manifest.json: not a JSON object"),
    ],
)
def test_a_damaged_run_is_one_line(copy: Path, file: str, text: str, said: str) -> None:
    (copy / file).write_text(text)
    assert said in refused(copy)


def test_a_missing_run_is_one_line(tmp_path: Path) -> None:
    assert "give the folder of a run" in refused(tmp_path / "none")
    (tmp_path / "file").write_text("")
    assert "give the folder of a run" in refused(tmp_path / "file")


def test_samples_of_a_damaged_store_are_one_line(copy: Path) -> None:
    opened = lr2eval.open_run(copy)
    (copy / FILE).write_bytes(b"SQLite format 3\0" + bytes(5000))
    with pytest.raises(lr2eval.StoreError) as caught:
        _ = opened.samples
    assert "\n" not in str(caught.value)
    (copy / FILE).unlink()
    with pytest.raises(lr2eval.StoreError, match="no such file"):
        _ = opened.samples
    assert len(opened.shards) == 3, "what was read stays"


def refused(folder: Path) -> str:
    with pytest.raises(lr2eval.StoreError) as caught:
        lr2eval.open_run(folder)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 5
    return str(caught.value)


# What is wrong


def test_errors_form_a_tree_with_the_exit_codes_of_the_command_line() -> None:
    errors = {name: getattr(lr2eval, name) for name in CLASSES if name.endswith("Error")}
    assert all(issubclass(error, lr2eval.Lr2EvalError) for error in errors.values())
    assert {name: error.exit_code for name, error in errors.items()} == {
        "Lr2EvalError": 5, "UsageError": 2, "CheckpointError": 2, "TaskError": 2, "MissingDataError": 2,
        "NotComparableError": 4, "RunFailedError": 5, "StoreError": 5, "BackendError": 5,
    }  # fmt: skip


def test_wrong_calls_are_errors_of_ours(called: Called, tmp_path: Path) -> None:
    pair = called.home / "pair"
    with pytest.raises(lr2eval.CheckpointError, match="nowhere: no such folder"):
        lr2eval.run(lr2eval.RunConfig(model="nowhere", tasks="facts"))
    with pytest.raises(lr2eval.TaskError, match="ruler has no such task"):
        lr2eval.run(lr2eval.RunConfig(model="demo", tasks="ruler:none", out=tmp_path / "run"))
    with pytest.raises(lr2eval.UsageError, match="compare needs at least two runs"):
        lr2eval.compare([pair / "original"])
    with pytest.raises(lr2eval.UsageError, match="gate needs the original and the extended run"):
        lr2eval.gate([pair / "original"])
    with pytest.raises(lr2eval.UsageError, match=r"has no results\.json; give the folder of a run"):
        lr2eval.save_baseline(tmp_path, tmp_path / "baseline.json")
    with pytest.raises(lr2eval.UsageError, match="give a TOML file"):
        lr2eval.read_recipe("none")
    with pytest.raises(lr2eval.CheckpointError):
        lr2eval.read_rope(tmp_path)
    with pytest.raises(lr2eval.UsageError, match="lenghts: unknown option; did you mean lengths"):
        lr2eval.RunConfig(model="demo", tasks="facts", lenghts="4k")
    assert list(tmp_path.iterdir()) == [], "nothing was started"


def test_runs_that_cannot_be_compared(called: Called, tmp_path: Path) -> None:
    other = fake_run(tmp_path / "other", {"ruler/vt@4096": [100.0]})
    both = [called.home / "pair" / "original", other]
    with pytest.raises(lr2eval.NotComparableError):
        lr2eval.compare(both, out=tmp_path / "comparison")
    verdict = lr2eval.gate(both, out=tmp_path / "verdict")
    assert (verdict.gate.verdict, verdict.gate.exit_code) == ("not comparable", 4)
    assert (verdict.comparison, verdict.report) == (None, None)
    assert verdict.gate.reason


def test_a_baseline_stands_for_the_original(called: Called, tmp_path: Path) -> None:
    config = lr2eval.GateConfig(margin=50, baseline=called.home / "baseline.json")
    verdict = lr2eval.gate([called.home / "pair" / "extended"], config, out=tmp_path / "verdict")
    again = json.loads((called.home / "verdict" / "gate.json").read_text())["checks"]
    assert json.loads((tmp_path / "verdict" / "gate.json").read_text())["checks"] == again
    assert verdict.folder == tmp_path / "verdict"


def test_the_modules_of_public_names_load(called: Called) -> None:
    """Each name is found by ``import_module`` alone: a lazy import that fails would fail at a user's first call."""
    for home in lr2eval._HOMES:
        assert importlib.import_module(f"lr2eval.{home}")
