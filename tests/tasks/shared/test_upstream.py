"""lm-eval's texts, read without importing its modules; checked against what those modules hold when imported."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from lr2eval.errors import TaskError
from lr2eval.tasks.shared import upstream


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A copy-to-be of lm-eval's folder, with nothing remembered from the real one."""
    cached = (
        upstream._tree,
        upstream.niah_texts,
        upstream.task_texts,
        upstream.document_prompt,
        upstream.mmlu_files,
    )
    for function in cached:
        function.cache_clear()  # type: ignore[attr-defined]
    monkeypatch.setattr(upstream, "lm_eval_folder", lambda: tmp_path)
    (tmp_path / "tasks" / "ruler").mkdir(parents=True)
    yield tmp_path  # type: ignore[misc]
    for function in cached:
        function.cache_clear()  # type: ignore[attr-defined]


def test_nothing_is_imported() -> None:
    code = (
        "import sys; from lr2eval.tasks.shared import upstream as u;"
        "u.niah_texts(); u.task_texts('vt'); u.mmlu_files();"
        "print(sorted({'lm_eval', 'nltk', 'wonderwords', 'torch', 'datasets'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_niah() -> None:
    texts = upstream.niah_texts()
    assert texts.max_new_tokens == 128
    assert {"{context}", "{query}", "{type_needle_v}"} <= set(fields(texts.template))
    assert fields(texts.answer_prefix) == ["{type_needle_v}", "{query}"]
    assert sorted(fields(texts.needle)) == ["{key}", "{type_needle_v}", "{value}"]
    assert texts.noise.count(".") == 5
    assert texts.noise == texts.noise.strip()


@pytest.mark.parametrize(("task", "tokens"), [("vt", 30), ("cwe", 120), ("fwe", 50), ("qa", 32)])
def test_other_tasks(task: str, tokens: int) -> None:
    texts = upstream.task_texts(task)
    assert texts.max_new_tokens == tokens
    assert texts.answer_prefix.startswith(" Answer:")
    assert "{context}" in texts.template
    assert "assgined" not in texts.answer_prefix


def fields(template: str) -> list[str]:
    return [f"{{{part.split('}')[0]}}}" for part in template.split("{")[1:]]


@pytest.mark.parametrize("task", ["vt", "cwe", "fwe", "qa"])
def test_deviations_of_the_port_are_only_the_listed_ones(task: str) -> None:
    """The port's text, with the listed corrections applied by hand, is what we use."""
    source = (upstream.lm_eval_folder() / "tasks" / "ruler" / f"{task}_utils.py").read_text()
    strings = {n.value for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Constant) and isinstance(n.value, str)}
    texts = upstream.task_texts(task)
    assert texts.template in strings
    typo = texts.answer_prefix.replace("are assigned the value", "are assgined the value")
    prefix = texts.answer_prefix.removeprefix(" ") if task == "qa" else texts.answer_prefix  # listed as number 4
    assert (typo if task == "vt" else prefix) in strings
    assert (prefix in strings) == (task != "vt"), "the typo was mended: drop VT_TYPO"


def test_document_prompt() -> None:
    assert upstream.document_prompt() == "Document {i}:\n{document}"


def test_single_answer() -> None:
    assert (
        upstream.single_answer("Some things are here. What are all the answers?")
        == "A things is here. What is the answer?"
    )


def test_mmlu() -> None:
    files = upstream.mmlu_files()
    assert len(files) == 57
    assert list(files) == sorted(files)
    assert files["anatomy"].name == "mmlu_anatomy.yaml"


@pytest.mark.parametrize(
    ("file", "source", "read", "named"),
    [
        ("niah_utils.py", None, "niah", "niah_utils.py: no readable source"),
        ("niah_utils.py", "def broken(:", "niah", "niah_utils.py: no readable source"),
        ("niah_utils.py", "OTHER = ''", "niah", "niah_utils.py: no readable TEMPLATE"),
        ("niah_utils.py", "TEMPLATE = str(1)", "niah", "niah_utils.py: no readable TEMPLATE"),
        ("vt_utils.py", "CONFIG = {}", "vt", "vt_utils.py: no readable CONFIG"),
        ("cwe_utils.py", "CONFIG = {'template': ''}", "cwe", "answer_prefix"),
        ("fwe_utils.py", "CONFIG = []", "fwe", "fwe_utils.py: no readable CONFIG"),
    ],
)
def test_other_layout(fresh: Path, file: str, source: str | None, read: str, named: str) -> None:
    if source is not None:
        (fresh / "tasks" / "ruler" / file).write_text(source)
    with pytest.raises(TaskError, match=r"lm-eval>=0\.4\.13") as caught:
        upstream.niah_texts() if read == "niah" else upstream.task_texts(read)
    assert named in str(caught.value)


@pytest.mark.parametrize(
    ("source", "named"),
    [
        ("NEEDLE = 'x'", "gen_prefix"),
        ("def generate_samples(): return {'gen_prefix': 'fixed'}", "gen_prefix"),
        ("def generate_samples(): return {'gen_prefix': f'a' if 1 else f'{b.c}'}", "gen_prefix"),
        ("def generate_samples(): return {'gen_prefix': f'a' if 1 else 'b'}", "gen_prefix"),
        ("def generate_samples(*, n=1): return {'gen_prefix': f'a' if 1 else f'b {c}'}", "tokens_to_generate"),
    ],
)
def test_other_layout_of_niah(fresh: Path, source: str, named: str) -> None:
    (fresh / "tasks" / "ruler" / "niah_utils.py").write_text("TEMPLATE = 'x'")
    (fresh / "tasks" / "ruler" / "prepare_niah.py").write_text(source)
    with pytest.raises(TaskError, match=named):
        upstream.niah_texts()


def test_mmlu_gone(fresh: Path) -> None:
    with pytest.raises(TaskError, match="tasks/mmlu/default"):
        upstream.mmlu_files()
