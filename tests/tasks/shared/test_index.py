"""The index of lm-eval's names: equal to lm-eval's own, kept in the cache, made without lm-eval."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from lr2eval.tasks.lmeval import LmEval
from lr2eval.tasks.shared import index
from lr2eval.tasks.shared.lm_eval import quiet_lm_eval


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in the place of lm-eval's tasks, and a cache of its own."""
    monkeypatch.setenv("LR2EVAL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(index, "lm_eval_folder", lambda: tmp_path)
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "one.yaml").write_text("task: one\n")
    return tmp_path / "tasks"


def names() -> list[str]:
    index.lm_eval_names.cache_clear()
    try:
        return sorted(index.lm_eval_names())
    finally:
        index.lm_eval_names.cache_clear()


def kept(small: Path) -> Path:
    (file,) = (small.parent / "cache").iterdir()
    return file


def test_equal_to_the_index_of_lm_eval() -> None:
    from lm_eval.tasks import TaskManager

    with quiet_lm_eval():
        theirs = TaskManager().task_index
    found = index.lm_eval_names()
    assert sorted(found) == sorted(theirs)
    assert {name: file for name, (file, *_) in found.items()} == {
        name: str(entry.yaml_path or "") for name, entry in theirs.items()
    }
    tags = {name: entry.tags for name, entry in theirs.items() if entry.yaml_path is None}
    assert {name: set(found[name][1:]) for name in tags} == tags
    # One folder leads to the same files: a task, a tag, groups of groups, and what is all over lm-eval.
    with quiet_lm_eval():
        for name in ("hellaswag", "ai2_arc", "mmlu", "blimp", "leaderboard_bbh", "openllm"):
            part = LmEval(None)._manager_for(name).task_index
            assert (len(part) < len(theirs)) == (name != "openllm")
            files = [file for each, entry in part.items() if (file := str(entry.yaml_path or ""))]
            assert set(index.files_of(name, found)) <= set(files)
            assert part[name].tags == theirs[name].tags
            for each in found[name][1:]:
                assert (each in part) == (each in theirs)
                assert each not in theirs or part[each].yaml_path == theirs[each].yaml_path


def test_lm_eval_is_not_imported(tmp_path: Path) -> None:
    code = "from lr2eval.tasks.lmeval import LmEval; assert LmEval(None).knows('arc_easy'); import sys; "
    code += "print({'lm_eval', 'torch', 'transformers', 'datasets', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_the_cache_is_used(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert names() == ["one"]
    monkeypatch.setattr(index, "names_in", lambda folder: pytest.fail("it was made again"))
    assert names() == ["one"]


@pytest.mark.parametrize("change", ["another file", "another text", "no file"])
def test_made_again_for_other_files(small: Path, change: str) -> None:
    names()
    if change == "another file":
        (small / "two.yaml").write_text("task: two\n")
    elif change == "another text":
        (small / "one.yaml").write_text("task: another\n")
    else:
        (small / "one.yaml").unlink()
    assert names() == {"another file": ["one", "two"], "another text": ["another"], "no file": []}[change]


def test_made_again_if_damaged(small: Path) -> None:
    names()
    whole = kept(small).read_text()
    changed = json.loads(whole)
    changed["names"]["two"] = ["two.yaml"]
    for text in (whole[: len(whole) // 2], "[]", "{}", "", json.dumps(changed), whole.replace("one", "two")):
        kept(small).write_text(text)
        assert names() == ["one"]
        assert kept(small).read_text() == whole


def test_a_cache_that_cannot_be_written_does_no_harm(small: Path) -> None:
    (small.parent / "cache").write_text("a file")
    assert names() == ["one"]


FILES = {
    "a.yaml": "task: a\ntag: [t, u]\ninclude: shared\n",
    "b.yaml": "include: shared\n",  # its name comes from the shared file
    "c.yaml": "task: a\ntag: never\n",  # the first file of a name counts
    "d.yaml": "task: d\nclass: !function d.D\ngroup: never\n",
    "e.yaml": "group: e\ntask: [a, {task: d}, {group: inner, task: [t, {task: b}]}]\ntag: never\n",
    "f.yaml": "task: [never]\n",
    "g.yaml": "task: never\nbroken: [\n",
    "h.yaml": "task: never\ninclude: h.yaml\n",
    "i.yaml": "task: never\ninclude: nothing\n",
    "j.yaml": "task: never\ninclude: [shared, shared]\n",
    "k.yaml": "dataset_path: no name\n",
    "l.yml": "task: never\n",
    "m/n.yaml": "task: n\ntag: t\ninclude: ../shared\n",
    "shared": "task: b\ntag: t\ndoc_to_text: !function utils.text\n",
}


def test_rules_of_lm_eval(tmp_path: Path) -> None:
    from lm_eval.tasks import TaskManager

    (tmp_path / "m").mkdir()
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    found = index.names_in(tmp_path)
    with quiet_lm_eval():
        assert sorted(found) == TaskManager(include_defaults=False, include_path=[tmp_path]).all_tasks
    assert sorted(found) == ["a", "b", "d", "e", "n", "t", "u"]
    assert found["t"] == ["", "a", "b", "n"]
    assert index.files_of("e", found) == [
        str(tmp_path / each) for each in ("e.yaml", "a.yaml", "d.yaml", "b.yaml", "m/n.yaml")
    ]
    assert index.files_of("a", found) == [str(tmp_path / "a.yaml")]
