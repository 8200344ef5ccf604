"""Finding benchmarks: built-in ones, a stranger's package, lm-eval's names."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from lr2eval import plugins, registry
from lr2eval.benchmark import TaskContext
from lr2eval.errors import TaskError
from lr2eval.model.tokenizer import PromptTokenizer
from lr2eval.registry import benchmarks, failures, resolve

PLUGIN = '''
from lr2eval import SampleInfo, Shard, TaskError, TaskInfo


class Echo:
    """Asks the model to go on from "echo"."""

    name, version, headline = "echo", "7", "tasks"

    def tasks(self):
        return [TaskInfo("once", "echo", "say it once"), TaskInfo("twice", "echo", "say it twice")]

    def select(self, selector):
        names = [info.name for info in self.tasks()]
        if selector not in (None, *names):
            raise TaskError(f"echo:{selector}: no such task")
        return names if selector is None else [selector]

    def prepare(self, tasks, context):
        return [self._shard(task) for task in tasks]

    def _shard(self, task):
        rows = [{"q": f"{task} {n}", "a": "echo"} for n in range(3)]

        def load():
            import datasets
            from lm_eval.tasks import TaskManager

            config = {
                "task": f"echo_{task}",
                "custom_dataset": lambda **_: {"test": datasets.Dataset.from_list(rows)},
                "test_split": "test",
                "output_type": "generate_until",
                "doc_to_text": "q",
                "doc_to_target": "a",
                "generation_kwargs": {"until": [], "max_gen_toks": 4},
                "process_results": lambda doc, results: {"same": float(doc["a"] in results[0])},
                "metric_list": [{"metric": "same", "aggregation": "mean", "higher_is_better": True}],
            }
            (built,) = TaskManager(include_defaults=False).load([config])["tasks"].values()
            return built

        return Shard("echo", task, None, 3, "7", "hash", "same", load, lambda doc: SampleInfo(gold=(doc["a"],)))


ECHO = Echo()
'''


def test_built_in() -> None:
    assert {"ruler", "mmlu"} <= set(benchmarks())
    assert failures() == {}


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("ruler:vt", [("ruler", ["vt"])]),
        ("ruler:vt, mmlu:anatomy ,ruler:fwe", [("ruler", ["vt", "fwe"]), ("mmlu", ["anatomy"])]),
        (["mmlu:anatomy", "ruler:vt", "mmlu:anatomy"], [("mmlu", ["anatomy"]), ("ruler", ["vt"])]),
    ],
)
def test_resolve(spec: str | list[str], expected: list[tuple[str, list[str]]]) -> None:
    assert [(benchmark.name, tasks) for benchmark, tasks in resolve(spec)] == expected


def test_whole_benchmark_and_one_of_its_tasks() -> None:
    ((benchmark, tasks),) = resolve("ruler:vt,ruler")
    assert tasks[0] == "vt"
    assert sorted(tasks) == sorted(benchmark.select(None))


class FakeLmEval:
    """Stands in for lm-eval's index, which takes ten seconds to build."""

    name = "lm_eval"

    def __init__(self, include_path: Path | None) -> None:
        self.include_path = include_path

    def knows(self, name: str) -> bool:
        return name in self.names()

    def names(self) -> list[str]:
        return ["hellaswag", "gsm8k", "ruler"]

    def select(self, selector: str | None) -> list[str]:
        return [str(selector)]


@pytest.fixture
def fake_lm_eval(monkeypatch: pytest.MonkeyPatch) -> None:
    class Point:
        name = "lm_eval"

        def load(self) -> type[FakeLmEval]:
            return FakeLmEval

    monkeypatch.setattr(registry, "LM_EVAL", Point())


@pytest.mark.usefixtures("fake_lm_eval")
def test_plain_lm_eval_names(tmp_path: Path) -> None:
    ((ruler, _), (foreign, tasks)) = resolve("ruler:vt,gsm8k,lm_eval:ruler", include_path=tmp_path)
    assert (ruler.name, tasks) == ("ruler", ["gsm8k", "ruler"])
    assert isinstance(foreign, FakeLmEval)
    assert foreign.include_path == tmp_path


@pytest.mark.usefixtures("fake_lm_eval")
@pytest.mark.parametrize(
    ("spec", "named"),
    [
        ("", "no task given"),
        (" , ", "no task given"),
        ("rulr", "rulr: unknown task; did you mean 'ruler'"),
        ("helaswag", "did you mean 'hellaswag'"),
        ("ruler:tv", "ruler has no such task"),
        ("anatomy", "did you mean mmlu:anatomy?"),
        ("mmlu_anatomy", "did you mean mmlu:anatomy?"),
        ("ruler_vt", "did you mean ruler:vt?"),
        ("qqqqqq", "`lr2eval tasks` lists all names"),
    ],
)
def test_unknown_names(spec: str, named: str) -> None:
    with pytest.raises(TaskError) as caught:
        resolve(spec)
    assert named in str(caught.value)
    assert caught.value.exit_code == 2


def test_the_real_lm_eval_answers_for_foreign_names() -> None:
    factory = registry.LM_EVAL.load()
    assert factory(None).name == registry.LM_EVAL.name


def test_strangers_package(install: Callable[..., None], tmp_path: Path) -> None:
    install("strange_echo", PLUGIN, "echo = strange_echo:ECHO")
    assert "echo" in benchmarks()
    ((echo, tasks),) = resolve("echo:twice")
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    tokenizer = PromptTokenizer(PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]"))
    (shard,) = echo.prepare(tasks, TaskContext(tokenizer, (), 1, 0, tmp_path))
    assert shard.id == "echo/twice"
    task = shard.load()
    task.build_all_requests()
    assert [instance.args[0] for instance in task.instances] == ["twice 0", "twice 1", "twice 2"]
    assert task.process_results(task.eval_docs[0], ["an echo"]) == {"same": 1.0}


@pytest.mark.parametrize(
    ("source", "target", "reason"),
    [
        ("import a_package_nobody_has", "strange_one:X", "ModuleNotFoundError: No module named"),
        ("raise RuntimeError('first\\nsecond')", "strange_one:X", "RuntimeError: first)"),
        ("", "strange_one:X", "AttributeError"),
        ("class X: name = 'bad'", "strange_one:X", "lacks version, headline, tasks, select, prepare"),
        (PLUGIN, "strange_one:ECHO", "is not named 'bad'"),
        (PLUGIN.replace('TaskInfo("once"', 'int("once"') + 'ECHO.name = "bad"', "strange_one:ECHO", "tasks() raised"),
        (PLUGIN + 'Echo.tasks = lambda self: ["a"]\nECHO.name = "bad"', "strange_one:ECHO", "is not a TaskInfo"),
    ],
)
def test_broken_plugin_harms_nobody_else(install: Callable[..., None], source: str, target: str, reason: str) -> None:
    install("strange_one", source, f"bad = {target}")
    assert "bad" not in benchmarks()
    assert "ruler" in benchmarks()
    assert resolve("ruler:vt")
    (line,) = failures().values()
    assert "strange-one 1.2" in line
    assert reason in line
    assert "\n" not in line
    with pytest.raises(TaskError) as caught:
        resolve("bad")
    assert str(caught.value) == line


def test_two_packages_with_one_name(install: Callable[..., None]) -> None:
    install("strange_ruler", PLUGIN, "ruler = strange_ruler:ECHO")
    with pytest.raises(TaskError, match=r"'ruler' is provided by lr2eval \S+ and strange-ruler 1\.2"):
        resolve("ruler")
    assert resolve("mmlu:anatomy")


def test_a_target_seen_twice_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    points = list(plugins.entry_points(group=plugins.TASKS))
    monkeypatch.setattr(plugins, "entry_points", lambda group: [*points, *points])
    assert "ruler" in benchmarks()
    assert failures() == {}


def test_entry_point_without_distribution() -> None:
    assert plugins.distribution(EntryPoint("x", "some.module:X", "g")) == "some.module"
