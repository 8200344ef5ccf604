"""The examples work as their pages say: the script draws its plot, the template plug-in serves the command line."""

from __future__ import annotations

import ast
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import lr2eval

EXAMPLES = Path(__file__).parents[1] / "examples"
DOCS = EXAMPLES.parent / "docs"
Call = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def call(shared_cache: Path, tmp_path: Path) -> Call:
    """Run Python in an empty folder, without network."""

    def run(*arguments: Any, path: Path | None = None) -> subprocess.CompletedProcess[str]:
        environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "TQDM_DISABLE")}
        environment |= {"LR2EVAL_CACHE": str(shared_cache), "HF_HUB_OFFLINE": "1", "COLUMNS": "110"}
        if path is not None:
            environment["PYTHONPATH"] = str(path)
        command = [sys.executable, *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)

    return run


def test_the_script_prints_the_verdict_and_draws_the_plot(call: Call, tmp_path: Path) -> None:
    script = (EXAMPLES / "compare_and_plot.py", "--model", "demo-longrope2", "--baseline", "demo")
    done = call(*script, "--lengths", "512,2k", "--samples", "2", "--tasks", "facts,ruler:niah_single_1")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert lines[0] == "checking model and data"
    assert [line.partition(": ")[0] for line in lines].count("ruler/niah_single_1@2048") == 2, "of both models"
    verdict = json.loads((tmp_path / "compare_and_plot" / "gate.json").read_text())["verdict"]
    assert [line for line in lines if line.startswith(f"Verdict: {verdict.upper()}")]
    assert f"report: {Path('compare_and_plot', 'report.html')}" in lines
    assert lines[-1] == f"plot: {Path('compare_and_plot', 'scores.png')}"
    assert _ink(tmp_path / "compare_and_plot" / "scores.png") == {"blue", "orange"}


def _ink(png: Path) -> set[str]:
    """Which of matplotlib's first two line colours the picture holds in more than a few pixels."""
    from matplotlib.image import imread

    pixels = imread(png)
    assert pixels.shape[:2] == (600, 1050)
    colours = {"blue": (31, 119, 180), "orange": (255, 127, 14)}
    close = {name: abs(pixels[..., :3] * 255 - colour).max(axis=-1) < 2 for name, colour in colours.items()}
    return {name for name, places in close.items() if places.sum() > 300}


def test_the_script_refuses_in_one_line(call: Call, tmp_path: Path) -> None:
    done = call(EXAMPLES / "compare_and_plot.py", "--model", "nowhere", "--baseline", "demo")
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        line for line in done.stderr.splitlines() if line.startswith("error: nowhere: ")
    ]
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the installed template."""
    home = tmp_path_factory.mktemp("plugin")
    source = shutil.copytree(EXAMPLES / "plugin", home / "source")  # setuptools builds inside the source folder
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    done = subprocess.run([*pip, "--target", home / "site", source], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return home / "site"


def test_the_task_and_the_back_end_of_the_template_run(call: Call, site: Path, tmp_path: Path) -> None:
    command = ("-m", "lr2eval", "run", "--model", "demo", "--tasks", "hidden,facts", "--lengths", "256,512",
               "--limit", "4", "--offline", "--device", "cpu", "--dtype", "float32")  # fmt: skip
    theirs = call(*command, "--backend", "plain", "--set", "plain.attention=eager", "--out", "theirs", path=site)
    assert theirs.returncode == 0, theirs.stderr
    assert "Custom kwargs" not in theirs.stderr, "lm-eval's advice to authors of tasks is not for users"
    ours = call(*command, "--out", "ours", path=site)
    assert ours.returncode == 0, ours.stderr
    both = [lr2eval.open_run(tmp_path / name) for name in ("theirs", "ours")]
    hidden = both[0].shards[both[0].shards.benchmark == "hidden"]
    assert list(hidden.task) == ["number", "number"]
    assert list(hidden.length) == [256, 512]
    assert list(hidden.score) == [100.0, 100.0], "the demo model finds the number inside its window"
    samples = [run.samples.set_index("id").sort_index() for run in both]
    for column in ("prompt_hash", "answer", "score", "depth"):
        assert list(samples[0][column].dropna()) == list(samples[1][column].dropna()), column
    # Each prompt and its answer fill their length, but for less than a line of filler.
    fill = samples[1][samples[1].benchmark == "hidden"]
    assert (fill.length - fill.prompt_tokens).between(16, 16 + 40).all()
    assert "One of the special magic numbers" in (tmp_path / "ours" / "report.html").read_text(encoding="utf-8")


@pytest.fixture
def modules(site: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Any]]:
    """Imports a module of the installed template."""
    monkeypatch.syspath_prepend(str(site))
    yield lambda name: importlib.import_module(f"lr2eval_example.{name}")
    for name in [name for name in sys.modules if name.startswith("lr2eval_example")]:
        del sys.modules[name]


def test_the_template_refuses_what_it_cannot_do(modules: Callable[[str], Any], tmp_path: Path) -> None:
    task = modules("task")
    with pytest.raises(lr2eval.TaskError, match="hidden:word: hidden has no such task; write hidden:number"):
        task.HIDDEN.select("word")
    tokenizer = SimpleNamespace(count_prompt=lambda text: len(text.split()))
    with pytest.raises(lr2eval.TaskError, match="hidden: does not fit into 32 tokens with this tokenizer"):
        task.HIDDEN.prepare(["number"], lr2eval.TaskContext(tokenizer, (32,), 1, 0, tmp_path))
    plain = modules("backend").plain
    request = lr2eval.BackendRequest(
        folder=tmp_path, window=8, original_window=None, dtype="auto", device="cpu", batch_size=1, truncation="error",
        window_policy="exact", chat=False, tokenizer=tokenizer, trust_remote_code=False, seed=0, options={},
    )  # fmt: skip
    with pytest.raises(lr2eval.UsageError, match=r"plain\.speed: unknown option; plain has attention"):
        plain(replace(request, options={"speed": 9}))
    with pytest.raises(lr2eval.UsageError, match="the back end plain refuses long prompts"):
        plain(replace(request, truncation="skip"))
    with pytest.raises(ValueError, match="the target of 512 tokens is not longer than the window of 512"):
        modules("rule").step(lr2eval.OriginalRope(10_000.0, 16, 512), 512)


def test_samples_of_the_template_are_made_alike_and_limited(modules: Callable[[str], Any], tmp_path: Path) -> None:
    tokenizer = SimpleNamespace(count_prompt=lambda text: len(text.split()))
    context = lr2eval.TaskContext(tokenizer, (128, 256), 4, 0, tmp_path)
    prepare = modules("task").HIDDEN.prepare
    shards, again = prepare(["number"], context), prepare(["number"], context)
    assert [(shard.id, shard.n) for shard in shards] == [("hidden/number@128", 4), ("hidden/number@256", 4)]
    assert [shard.data_hash for shard in shards] == [shard.data_hash for shard in again]
    assert shards[0].data_hash != prepare(["number"], replace(context, seed=1))[0].data_hash
    assert [prepare(["number"], replace(context, limit=limit))[0].n for limit in (3, 9, 0.5, 0.1)] == [3, 4, 2, 1]


def test_the_rule_of_the_template_makes_factors(call: Call, site: Path) -> None:
    command = ("-m", "lr2eval", "rope", "--model", "demo", "--target-length", "8k", "--json", "--rule")
    done = call(*command, "step", "--set", "first=20", path=site)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["factors"] == [1.0] * 20 + [16.0] * 12
    assert told["made_by"] == "step(first=20)"
    every = json.loads(call(*command, "all", path=site).stdout)
    assert every["rules"]["step"]["factors"] == [1.0] * 16 + [16.0] * 16, "from d_tcd on"
    assert "step" not in json.loads(call(*command, "all").stdout)["rules"], "without the package there is no such rule"


def _python(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.S)


def test_the_python_of_the_api_page_runs(call: Call, tmp_path: Path) -> None:
    """All of it, in order, as somebody would type it."""
    (tmp_path / "page.py").write_text("\n".join(_python("api.md")))
    done = call("page.py")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "Does the long window work? At 2k tokens demo-longrope2 scores ruler" in done.stdout
    assert re.search(r"^ +2048 +\d", done.stdout, re.M), "the mean at each length"
    assert "checking model and data" in done.stdout, "a listener hears"
    assert "YaRN" in done.stdout


@pytest.mark.parametrize(
    "source",
    [
        *(pytest.param(file.read_text(encoding="utf-8"), id=file.name) for file in sorted(EXAMPLES.rglob("*.py"))),
        *(pytest.param("\n".join(_python(page)), id=page) for page in ("api.md", "plug-ins.md")),
    ],
)
def test_examples_use_public_names_only(source: str) -> None:
    assert "lr2eval" in source
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            assert not [alias.name for alias in node.names if alias.name.startswith("lr2eval.")]
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] == "lr2eval":
            assert node.module == "lr2eval"
            assert {alias.name for alias in node.names} <= set(lr2eval.__all__)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "lr2eval":
            assert node.attr in lr2eval.__all__


@pytest.mark.parametrize("page", sorted(EXAMPLES.rglob("*.md")), ids=lambda page: str(page.relative_to(EXAMPLES)))
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8"))
    assert links
    for target in links:
        assert (page.parent / target).exists(), target
