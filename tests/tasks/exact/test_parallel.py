"""Samples made by several processes: the same bytes, in order, and a clean end whatever happens."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from lr2eval.errors import TaskError
from lr2eval.model.tokenizer import PromptTokenizer
from lr2eval.tasks.exact import files, parallel
from lr2eval.tasks.exact.draft import Draft
from lr2eval.tasks.ruler import generate
from lr2eval.tasks.ruler.niah import NiahDraw
from lr2eval.tasks.ruler.suite import TASKS
from tests.processes import interruptible


def maker(task: str, tokenizer: PromptTokenizer) -> generate.RulerMaker:
    return generate.ruler_maker(TASKS[task], 1024, 0, tokenizer)


@pytest.mark.parametrize(
    ("task", "workers", "chunk", "kind"), [("cwe", 2, 3, "byte-level"), ("niah_multikey_2", 3, 1, "sentencepiece-like")]
)
def test_same_samples_for_any_processes_and_chunks(
    task: str, workers: int, chunk: int, kind: str, trained: dict[str, Any]
) -> None:
    tokenizer = PromptTokenizer(trained[kind], name=kind)
    made = maker(task, tokenizer)
    alone = [made.sample(index, tokenizer) for index in range(8)]
    assert list(parallel.make_in_processes(made, 8, tokenizer, workers, chunk)) == alone


def test_chat_and_workers_of_samples(one_tokenizer: PromptTokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    chat = PromptTokenizer(one_tokenizer.tokenizer, chat=True, name="chat")
    alone = list(generate.samples(TASKS["fwe"], 1024, 4, 0, chat, workers=1))
    assert list(generate.samples(TASKS["fwe"], 1024, 4, 0, chat, workers=2)) == alone
    assert list(generate.samples(TASKS["fwe"], 1024, 4, 0, chat)) == alone


def test_little_work_stays_here(one_tokenizer: PromptTokenizer, trained: dict[str, Any]) -> None:
    made = maker("vt", one_tokenizer)
    assert parallel.processes(made, 100) == 1
    assert parallel.processes(made, 100_000) == os.cpu_count()
    slow = PromptTokenizer(trained["sentencepiece-like"], name="slow")
    assert parallel.processes(maker("vt", slow), 5_000) == os.cpu_count()


class Dying:
    """A recipe whose samples end their process."""

    def draw(self, rng: Any, index: int = 0) -> NiahDraw:
        if os.environ["MAKER"] != str(os.getpid()):
            os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("made in the parent")

    def render(self) -> Draft:
        raise NotImplementedError


def ensure(path: Path, rows: Any) -> files.DataFile:
    return files.ensure(path, {}, lambda: rows, lambda row: 1.0, print)


def test_a_dying_process(one_tokenizer: PromptTokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAKER", str(os.getpid()))
    dying = generate.RulerMaker("vt", Dying(), 1024, 0, 1)
    with pytest.raises(TaskError, match=r"ruler:vt at length 1024: .* died .*workers=1") as caught:
        ensure(tmp_path / "vt.jsonl", parallel.make_in_processes(dying, 4, one_tokenizer, 2))
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".lock"] == []


def test_interrupted(one_tokenizer: PromptTokenizer, tmp_path: Path) -> None:
    rows = parallel.make_in_processes(maker("vt", one_tokenizer), 1000, one_tokenizer, 2, 1)

    def interrupted() -> Any:
        yield next(rows)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ensure(tmp_path / "vt.jsonl", interrupted())
    rows.close()  # type: ignore[attr-defined]
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".lock"] == []


def test_errors_come_back_whole(one_tokenizer: PromptTokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TaskError, match="use a length of at least"):
        list(generate.samples(TASKS["vt"], 100, 4, 0, one_tokenizer, workers=2))


MAKING = """
import sys
from pathlib import Path
from lr2eval.model.tokenizer import PromptTokenizer
from lr2eval.tasks.exact import parallel
from lr2eval.tasks.ruler import generate
from lr2eval.tasks.ruler.suite import TASKS
tokenizer = PromptTokenizer.load(Path(sys.argv[1]))
rows = parallel.make_in_processes(generate.ruler_maker(TASKS["fwe"], 4096, 0, tokenizer), 100_000, tokenizer, 2, 5)
print("starting", flush=True)
try:
    for row in rows:
        print("made", flush=True)
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


def making(one_tokenizer: PromptTokenizer, folder: Path) -> subprocess.Popen[str]:
    """A process that is about to start others, in a process group of their own."""
    one_tokenizer.tokenizer.save_pretrained(str(folder))
    started = interruptible([sys.executable, "-c", MAKING, str(folder)])
    assert started.stdout is not None
    assert started.stdout.readline() == "starting\n"
    return started


@pytest.mark.parametrize("seconds", [0.0, 0.5])
def test_interrupted_while_processes_start(seconds: float, one_tokenizer: PromptTokenizer, tmp_path: Path) -> None:
    """Ctrl-C reaches the whole group: no process prints a traceback, and none is left (the pipes would stay open)."""
    run = making(one_tokenizer, tmp_path)
    time.sleep(seconds)
    os.killpg(run.pid, signal.SIGINT)
    out, said = run.communicate(timeout=90)
    assert out.endswith("interrupted\n")
    assert said == ""


def test_processes_end_with_a_killed_parent(one_tokenizer: PromptTokenizer, tmp_path: Path) -> None:
    run = making(one_tokenizer, tmp_path)
    assert run.stdout is not None
    assert run.stdout.readline() == "made\n"
    run.kill()
    run.communicate(timeout=90)
