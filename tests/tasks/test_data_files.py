"""What holds for the data files of every benchmark that makes its prompts, whoever makes them and however it ends."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lr2eval.benchmark import Benchmark, Shard, TaskContext
from lr2eval.errors import TaskError, UsageError
from lr2eval.model.tokenizer import PromptTokenizer
from lr2eval.tasks.niah import NIAH
from lr2eval.tasks.ruler import RULER

Context = Callable[..., TaskContext]
DOCS = {"haystack": "python-docs"}


@dataclass(frozen=True)
class Case:
    """Tasks of a benchmark and the options that make them small."""

    benchmark: Benchmark
    tasks: tuple[str, ...]
    options: dict[str, Any]

    def prepare(self, context: Callable[..., TaskContext], **options: Any) -> dict[str, tuple[Any, str]]:
        made = context(options={**self.options, **options})
        return {shard.id: (shard.data["file"], shard.data_hash) for shard in self.benchmark.prepare(self.tasks, made)}


CASES = {
    "ruler": Case(RULER, ("fwe", "niah_single_2"), DOCS),
    "niah": Case(NIAH, ("single", "distractor"), {**DOCS, "depths": 3, "samples_per_cell": 2}),
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


def data_files(cache: Path) -> dict[str, bytes]:
    """Everything below the cache but locks."""
    return {path.name: path.read_bytes() for path in cache.rglob("*") if path.is_file() and path.suffix != ".lock"}


def test_any_number_of_processes_makes_the_same_bytes(case: Case, trained: dict[str, Any], tmp_path: Path) -> None:
    """Texts that are large and read from outside; counting by words, and whole prompts."""
    kind = {"ruler": "byte-level", "niah": "sentencepiece-like"}[case.benchmark.name]
    tokenizer = PromptTokenizer(trained[kind], name=kind)
    made = {}
    for workers in (1, 2, 3):
        options = {**case.options, "workers": workers}
        context = TaskContext(tokenizer, (2048,), 7, 0, tmp_path / str(workers), options=options)
        (shard,) = case.benchmark.prepare(case.tasks[-1:], context)
        assert shard.n >= 6
        made[workers] = data_files(context.cache_dir)
    assert len(made[1]) == 2
    assert made[1] == made[2] == made[3]


@pytest.mark.parametrize("workers", [0, -1, 1.5, "two", True])
def test_bad_workers(workers: Any, case: Case, context: Context) -> None:
    with pytest.raises(UsageError, match=rf"{case.benchmark.name}\.workers .*: must be"):
        case.prepare(context, workers=workers)


def test_errors_of_processes_are_errors_of_the_task(case: Case, context: Context) -> None:
    """The same line whether a sample is made here or elsewhere, and nothing is left behind."""
    lines = set()
    for workers in (1, 2):
        made = context(options={**case.options, "workers": workers}, lengths=(130,))
        with pytest.raises(TaskError, match="use a length of") as caught:
            case.benchmark.prepare(case.tasks, made)
        lines.add(str(caught.value))
        assert data_files(made.cache_dir) == {}
    assert len(lines) == 1


def test_damaged_file_is_made_again(case: Case, context: Context) -> None:
    said: list[str] = []
    made = context(options=case.options, progress=said.append)
    shards: list[Shard] = list(case.benchmark.prepare(case.tasks, made))
    whole = data_files(made.cache_dir)
    path = made.cache_dir / str(shards[0].data["file"])
    path.write_bytes(whole[path.name][: len(whole[path.name]) // 2])
    assert case.benchmark.prepare(case.tasks, made)[0].data_hash == shards[0].data_hash
    assert data_files(made.cache_dir) == whole
    assert len(said) == 1
    assert path.name in said[0]
    assert "damaged" in said[0]


def _prepare(name: str, tokenizer: Any, cache: Path, barrier: Any, results: Any) -> None:
    case = CASES[name]
    context = TaskContext(PromptTokenizer(tokenizer, name="t"), (2048,), 20, 0, cache, options=case.options)
    barrier.wait()
    results.put([(shard.data["file"], shard.data_hash) for shard in case.benchmark.prepare(case.tasks, context)])


@pytest.mark.parametrize("name", CASES)
def test_two_runs_at_once(name: str, one_tokenizer: PromptTokenizer, tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    barrier, results = spawn.Barrier(2), spawn.Queue()
    arguments = (name, one_tokenizer.tokenizer, tmp_path, barrier, results)
    runs = [spawn.Process(target=_prepare, args=arguments) for _ in range(2)]
    for run in runs:
        run.start()
    first, second = results.get(timeout=120), results.get(timeout=120)
    for run in runs:
        run.join(60)
    assert first == second
    assert len(data_files(tmp_path)) == 4
