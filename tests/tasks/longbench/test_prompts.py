"""Prompts are upstream's to the byte, whatever the installed lm-eval has lost."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from lr2eval.errors import TaskError
from lr2eval.tasks.longbench import prompts
from lr2eval.tasks.longbench.prompts import FIXES, prompt
from lr2eval.tasks.longbench.suite import DATA_SETS

# sha256 (12 digits) of each text in upstream's dataset2prompt.json, and its value in dataset2maxlen.json, written down
# from those two files, not from lm-eval's.
UPSTREAM = {
    "narrativeqa": ("aada7ed24b06", 128),
    "qasper": ("0fbdd123fe7f", 128),
    "multifieldqa_en": ("20b4666a2de8", 64),
    "multifieldqa_zh": ("344b3a4e557c", 64),
    "hotpotqa": ("9ec4ae308865", 32),
    "2wikimqa": ("9ec4ae308865", 32),
    "musique": ("9ec4ae308865", 32),
    "dureader": ("ae53329f51b1", 128),
    "gov_report": ("91c25d585b18", 512),
    "qmsum": ("dca23b678fe0", 512),
    "multi_news": ("2af3f28c40b9", 512),
    "vcsum": ("3e5d8241bc9b", 512),
    "trec": ("0eff8bebdba9", 64),
    "triviaqa": ("00a802e6377e", 32),
    "samsum": ("a68d88423490", 128),
    "lsht": ("f3edabdf7fae", 64),
    "passage_count": ("986550b6c610", 32),
    "passage_retrieval_en": ("39b96b7fa52b", 32),
    "passage_retrieval_zh": ("c1e2346e245e", 32),
    "lcc": ("6a1f24cf0bb8", 64),
    "repobench-p": ("ee9ec182ea5f", 64),
}


@pytest.mark.parametrize("dataset", DATA_SETS)
def test_upstream_to_the_byte(dataset: str) -> None:
    found = prompt(dataset)
    text = found.fill("{context}", "{input}")
    assert (hashlib.sha256(text.encode()).hexdigest()[:12], found.max_new_tokens) == UPSTREAM[dataset]


def test_a_context_that_looks_like_a_field() -> None:
    text = prompt("hotpotqa").fill("see {{question}} and {input}", "who {{context}}?")
    assert "see {{question}} and {input}" in text
    assert text.endswith("Question: who {{context}}?\nAnswer:")


def _yaml(text: str) -> str:
    return (
        f"doc_to_text: {json.dumps(text)}\ndataset_path: hub\nprocess_results: !function m.f\n"
        "generation_kwargs: {max_gen_toks: 8}\n"
    )


@pytest.fixture
def lm_eval(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in place of lm-eval's; prompts are read afresh."""
    folder = tmp_path / "tasks" / "longbench"
    folder.mkdir(parents=True)
    monkeypatch.setattr(prompts, "lm_eval_folder", lambda: tmp_path)
    monkeypatch.setattr(prompts, "prompt", prompt.__wrapped__)
    return folder


def test_an_lm_eval_that_was_fixed_itself(lm_eval: Path) -> None:
    theirs, upstream = FIXES["samsum"]
    for text in (theirs, upstream):
        (lm_eval / "samsum.yaml").write_text(_yaml(text))
        assert prompts.prompt("samsum").fill("C", "Q") == "C\n\nQ"


@pytest.mark.parametrize(
    ("dataset", "content"),
    [
        ("samsum", _yaml("{{context}} {{question}}")),
        ("trec", _yaml("{{context}} {{input.strip()}}")),
        ("trec", _yaml("{{question}}")),
        ("trec", _yaml("{{context}} {{context}}")),
        ("trec", "doc_to_text: x\n"),
        ("trec", "- a list\n"),
        ("trec", "!!python/object/apply:os.getcwd []"),
    ],
)
def test_another_layout(lm_eval: Path, dataset: str, content: str) -> None:
    (lm_eval / f"{dataset}.yaml").write_text(content)
    with pytest.raises(TaskError, match=rf"lm_eval/tasks/longbench/{dataset}\.yaml: not the prompt that lr2eval knows"):
        prompts.prompt(dataset)


def test_no_file(lm_eval: Path) -> None:
    with pytest.raises(TaskError, match="install lm-eval"):
        prompts.prompt("trec")
