"""A synthetic run with hostile text everywhere, written through the same models and store as a real one."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest

from lr2eval._ids import digest, text_hash
from lr2eval._results import CellResult, Interval, ModelFacts, NotRun, Results, ShardResult, Summary
from lr2eval._store import RunStore, StoredSample
from lr2eval._summary import over_lengths
from lr2eval._types import ResponseDetail

HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "'onmouseover='alert(1)",
    "</pre></details><h1>broken</h1>",
    "{{ 7 * 7 }}{% raw %}{{ config }}",
    "<!-- --><![CDATA[ ]]>",
    "</script></style></title>",
    "http://evil.example/ javascript:alert(1)",
    "right\u202eto left\u2066 hidden\u200b \ufeff",
    "nul\x00 bell\x07 escape\x1b[31m \x7f \x85",
    "lone \ud800 surrogate",
    "$\\frac{1}{0}$ &lt;b&gt; &amp;",
    "tag \U000e0041 line\u2028end",
)
RULER = ("niah_single_1", "niah_multikey_2", "niah_multikey_3", "vt", "cwe", "fwe")
LENGTHS = (4096, 8192, 16384, 32768)
CATEGORIES = ("humanities", "social sciences", "STEM", "other")

Maker = Callable[..., Path]


def wilson(share: float, n: int) -> Interval:
    """The test's own interval: the report must show whatever is stored."""
    z = 1.96
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return Interval(low=100 * (middle - half), high=100 * (middle + half), confidence=0.95, method="wilson")


def make_run(
    folder: Path,
    *,
    name: str = "tiny-llama-extended",
    tasks: tuple[str, ...] = RULER,
    lengths: tuple[int, ...] = LENGTHS,
    subjects: int = 57,
    samples: int = 40,
    hostile: bool = True,
    complete: bool = True,
    not_run: tuple[NotRun, ...] = (),
    lift: float = 0.0,
    skipped: int = 0,
    truncated: int = 0,
    data: dict[str, Any] | None = None,
    grid: tuple[str, ...] = (),
    depths: int = 11,
) -> Path:
    """Write a run folder; ``lift`` moves every score. Equal arguments give equal files."""
    folder.mkdir(parents=True)
    rng = random.Random(7)
    shards: list[ShardResult] = []
    poison = cycle(HOSTILE if hostile else ("plain words",))
    storable = (text for text in poison if "\ud800" not in text)  # SQLite holds UTF-8 only
    with RunStore.create(folder) as store:

        def add(benchmark: str, task: str, length: int | None, n: int, share: float, columns: dict[str, Any]) -> None:
            shard = f"{benchmark}/{task}" + ("" if length is None else f"@{length}")
            rows = []
            for number in range(n):
                right = rng.random() < share
                lost = number < skipped
                needle = f"One of the special magic numbers for tawdry-{number} is: {4815162 + number}."
                filler = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again. "
                wrong = "" if number % 7 == 3 else f"I think it is {number} {next(storable)}"
                choices = None
                answer = f" {4815162 + number}." if right else wrong
                if length is None:
                    choices = tuple((letter, -0.4 - rng.random() * 3) for letter in "ABCD")
                    answer = max(choices, key=lambda pair: pair[1])[0]
                rows.append(
                    StoredSample(
                        id=digest([benchmark, task, length, number])[:32], shard=shard, benchmark=benchmark, task=task,
                        length=length, number=number, prompt_hash=text_hash(f"{shard} {number}"),
                        answer="" if lost else answer, score=None if lost else 100.0 * right, skipped=lost,
                        gold=(answer if right and choices else "B" if choices else str(4815162 + number),),
                        metrics={} if lost else {"match,none": float(right)},
                        columns=columns | ({"depth": rng.choice((0, 25, 50, 75, 100))} if length else {}),
                        choices=None if lost else choices,
                        prompt_head="A special magic number is hidden within the following text. " + filler * 6,
                        prompt_tail=f"{next(storable)} " + filler * 5 + "What is the special magic number?\nAnswer:",
                        excerpts=((filler, needle, f" {next(poison)} {filler}"),) if length else (),
                        source=(f"{task}-{length}.jsonl", number * 16000),
                        detail=ResponseDetail(
                            prompt_tokens=(length or 640) - 12, new_tokens=12 if length else 0,
                            window="short" if (length or 0) <= 8192 else "long",
                            finish="skipped" if lost else "stop" if length else "choice",
                            truncated_tokens=100 if number < truncated else 0,
                        ),
                    )
                )  # fmt: skip
            store.save_scores(shard, rows)
            scored = [row for row in rows if row.score is not None]
            mean = sum(row.score or 0.0 for row in scored) / 100 / len(scored) if scored else 0.0
            shards.append(
                ShardResult(
                    benchmark=benchmark, task=task, length=length,
                    metric="acc" if length is None else "string_match_all",
                    n=len(scored), score=100 * mean if scored else None,
                    interval=wilson(mean, len(scored)) if scored else None,
                    empty=sum(not row.answer.strip() for row in scored), truncated=min(truncated, len(scored)),
                    skipped=n - len(scored), windows={"short": len(scored)}, prompt_tokens=4000 * len(scored),
                    new_tokens=12 * len(scored), data={"file": f"{task}.jsonl", "fill_mean": 0.993, **(data or {})},
                )
            )  # fmt: skip

        for place, task in enumerate(tasks):
            for step, length in enumerate(lengths):
                add("ruler", task, length, samples, min(0.99, max(0.03, 0.97 - 0.07 * place - 0.14 * step + lift)), {})
        for place, task in enumerate(grid):
            for step, length in enumerate(lengths):
                add("niah", task, length, 5 * depths, 0.8, {})
                cells = []
                for row in range(depths):
                    middle = 1 - abs(2 * row / max(1, depths - 1) - 1)  # lost in the middle, more so when longer
                    share = round(5 * min(1.0, max(0.0, 1 - middle * step * (0.2 + 0.15 * place) + lift))) / 5
                    depth = row / max(1, depths - 1)
                    cells.append(CellResult(depth=depth, n=5, score=100 * share, interval=wilson(share, 5)))
                shards[-1] = shards[-1].model_copy(update={"cells": cells})
        for place in range(subjects):
            subject = f"mmlu_subject_number_{place:02d}" if place or not hostile else f"mmlu_{HOSTILE[1]}"
            columns = {"subject": subject[5:], "category": CATEGORIES[place % 4]}
            add("mmlu", subject, None, max(3, samples // 8), 0.3 + 0.4 * rng.random() + lift, columns)
        run_digest = store.digest()
    results = Results(
        lr2eval_version="0.1.0", digest=run_digest, complete=complete,
        model=ModelFacts(
            name=name, fingerprint=digest([name, "weights"]), tokenizer_fingerprint=digest("tokenizer"),
            architecture="LlamaForCausalLM", parameters=134_515_008, dtype="float32", window=32768,
            original_window=8192, rope_type="longrope",
            rope={"rope_type": "longrope", "long_factor": [1.0 + 0.5 * i for i in range(32)], "factor": 4.0},
        ),
        settings={"seed": 42, "truncation": "error", "window_policy": "exact", "chat": False, "lengths": list(lengths)},
        shards=shards, summaries=_summaries(shards), over_lengths=over_lengths(shards), not_run=list(not_run),
    )  # fmt: skip
    (folder / "results.json").write_text(results.model_dump_json(indent=2), encoding="utf-8")
    manifest = {
        "command": ["lr2eval", "run", "--model", name, "--tasks", "ruler,mmlu", "--out", "runs/it's here"],
        "created": "2026-11-24T00:00:00+00:00", "finished": "2026-11-24T01:02:03+00:00",
        "settings": results.settings, "config": {"backend": {"name": "hf", "batch_size": "auto"}, "limit": None},
        "versions": {"python": "3.11.7", "torch": "2.9.0", "transformers": "5.16.0", "lm_eval": "0.4.13"},
        "hardware": {"processor": "A processor", "cores": 2, "memory_gib": 7.8},
        "timing": {"wall_seconds": 3723.5, "model_seconds": 3650.1},
        "data": {"ruler/vt@4096": {"hash": "ab" * 32, "file": "vt.jsonl"}},
        "environment": {"LR2EVAL_CACHE": HOSTILE[0]},
    }  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return folder


def _summaries(shards: list[ShardResult]) -> list[Summary]:
    found = []
    for benchmark, length in dict.fromkeys((shard.benchmark, shard.length) for shard in shards):
        mine = [s for s in shards if (s.benchmark, s.length) == (benchmark, length) and s.score is not None]
        if not mine:
            continue
        n = sum(shard.n for shard in mine)
        over_tasks = sum(shard.score or 0.0 for shard in mine) / len(mine)
        over_samples = sum((shard.score or 0.0) * shard.n for shard in mine) / n
        for over, score, headline in (
            ("tasks", over_tasks, length is not None),
            ("samples", over_samples, length is None),
        ):
            found.append(
                Summary(
                    benchmark=benchmark, length=length, over=over, headline=headline, score=score,
                    interval=wilson(score / 100, n), n=n, tasks=len(mine),
                )
            )  # fmt: skip
    return found


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One hostile run that tests only read."""
    return make_run(tmp_path_factory.mktemp("runs") / "extended")


@pytest.fixture
def maker() -> Maker:
    """Makes further runs."""
    return make_run
