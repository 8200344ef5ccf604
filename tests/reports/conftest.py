"""A synthetic run with hostile text everywhere, written through the same models and store as a real one."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest

from lr2eval.base.ids import digest, text_hash
from lr2eval.benchmark import ResponseDetail
from lr2eval.comparisons.compare import compare_runs as compare_all
from lr2eval.comparisons.compare import read_all
from lr2eval.record.comparison import Check, Comparison, Difference, Gate, LeftOut, Regressed, Verdict
from lr2eval.record.results import CellResult, Interval, ModelFacts, NotRun, Results, ShardResult, Summary
from lr2eval.record.store import RunStore, StoredSample
from lr2eval.record.summary import over_lengths

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


def unverified(folder: Path, use: Callable[..., None] | None = None, **_: Any) -> tuple[Results, dict[str, Any]]:
    """A run as its two files tell it."""
    stored, manifest = (json.loads((folder / name).read_text("utf-8")) for name in ("results.json", "manifest.json"))
    results = Results.model_validate({**stored, "sha256": None})
    if use is not None:
        with RunStore.read(folder) as store:
            samples = store.seals()[2]
        for shard in results.shards:
            use(shard, samples.get(shard.id, []))
    return results, manifest


@contextmanager
def shown_as_stored() -> Iterator[None]:
    """Read runs without checking them: tests of pages invent numbers that no samples give, to see that a report shows
    what is stored.

    ``tests/lr2eval/record/test_verified.py`` tests that reports refuse such runs.
    """
    with pytest.MonkeyPatch.context() as patch:
        for module in ("reports.load", "comparisons.scores"):
            patch.setattr(f"lr2eval.{module}.verified_run", unverified)
        yield


@pytest.fixture(scope="package", autouse=True)
def unchecked() -> Iterator[None]:
    """Every test of this folder reads runs without checking them."""
    with shown_as_stored():
        yield


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
    flip: float = 0.0,
    model: dict[str, Any] | None = None,
    texts: tuple[str, ...] | None = None,
    needles: int = 1,
    subject_names: tuple[str, ...] | None = None,
    share: Callable[[int, int], float] = lambda place, step: 0.97 - 0.07 * place - 0.14 * step,
) -> Path:
    """Write a run folder; ``lift`` moves every score. Equal arguments give equal files.

    ``flip`` turns that share of the answers round, ``model`` changes facts of the model, ``texts`` stand in answers and
    prompts, ``share`` of (number of the task, number of the length) is how much of a shard is right.
    """
    folder.mkdir(parents=True)
    rng = random.Random(7)
    flips = random.Random(f"{lift} {flip}")
    shards: list[ShardResult] = []
    poison = cycle(texts or (HOSTILE if hostile else ("plain words",)))
    storable = (text for text in poison if not any("\ud800" <= c <= "\udfff" for c in text))  # SQLite holds UTF-8 only
    with RunStore.create(folder) as store:

        def add(benchmark: str, task: str, length: int | None, n: int, right_: float, columns: dict[str, Any]) -> None:
            shard = f"{benchmark}/{task}" + ("" if length is None else f"@{length}")
            rows = []
            for number in range(n):
                right = (rng.random() < right_) != (flips.random() < flip)
                lost = number < skipped
                depth: float = rng.choice((0, 25, 50, 75, 100))
                if benchmark == "niah":
                    depth = (number // 5) / max(1, depths - 1)
                needle = f"One of the special magic numbers for tawdry-{number} is: {4815162 + number}."
                filler = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again. "
                wrong = "" if number % 7 == 3 else f"I think it is {number} {next(storable)}"
                choices = None
                answer = f" {4815162 + number}." if right else wrong
                if length is None:
                    picked = "ABCD"[number % 4] if right else "ABCD"[(number + 1) % 4]
                    choices = tuple((c, -0.4 - rng.random() - 2 * (c != picked)) for c in "ABCD")
                    answer = picked
                more = [next(poison)] if texts else []
                rows.append(
                    StoredSample(
                        id=digest([benchmark, task, length, number])[:32], shard=shard, benchmark=benchmark, task=task,
                        length=length, number=number, prompt_hash=text_hash(f"{shard} {number}"),
                        answer="" if lost else answer, score=None if lost else 100.0 * right, skipped=lost,
                        gold=("ABCD"[number % 4] if choices else str(4815162 + number), *more),
                        metrics={} if lost else {"match,none": float(right)},
                        columns=columns | ({"depth": depth} if length else {}),
                        choices=None if lost else choices,
                        prompt_head="A special magic number is hidden within the following text. " + filler * 6,
                        prompt_tail=f"{next(storable)} " + filler * 5 + "What is the special magic number?\nAnswer:",
                        excerpts=((filler, needle, f" {next(poison)} {filler}"),) * needles if length else (),
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
                add("ruler", task, length, samples, min(0.99, max(0.03, share(place, step) + lift)), {})
        for place, task in enumerate(grid):
            for step, length in enumerate(lengths):
                add("niah", task, length, 5 * depths, 0.8, {})
                cells = []
                for row in range(depths):
                    middle = 1 - abs(2 * row / max(1, depths - 1) - 1)  # lost in the middle, more so when longer
                    found = round(5 * min(1.0, max(0.0, 1 - middle * step * (0.2 + 0.15 * place) + lift))) / 5
                    depth = row / max(1, depths - 1)
                    cells.append(CellResult(depth=depth, n=5, score=100 * found, interval=wilson(found, 5)))
                shards[-1] = shards[-1].model_copy(update={"cells": cells})
        for place in range(len(subject_names) if subject_names else subjects):
            if subject_names:
                add("mmlu", subject_names[place], None, 3, 0.6, {"subject": subject_names[place]})
                continue
            subject = f"mmlu_subject_number_{place:02d}" if place or not hostile else f"mmlu_{HOSTILE[1]}"
            columns = {"subject": subject[5:], "category": CATEGORIES[place % 4]}
            add("mmlu", subject, None, max(3, samples // 8), 0.3 + 0.4 * rng.random() + lift, columns)
        run_digest = store.seals()[1]
    results = Results(
        lr2eval_version="0.1.0", digest=run_digest, complete=complete,
        model=ModelFacts(
            name=name, fingerprint=digest([name, "weights"]), tokenizer_fingerprint=digest("tokenizer"),
            architecture="LlamaForCausalLM", parameters=134_515_008, dtype="float32", window=32768,
            original_window=8192, rope_type="longrope",
            rope={
                "rope_type": "longrope", "factor": 4.0, "rope_theta": 10000.0, "short_factor": [1.0] * 32,
                "long_factor": [round(4.4 ** min(1, i / 22) + max(0, i - 22) * 0.03, 4) for i in range(32)],
            },
            rope_scale=4.0, d_tcd=25, d_rcd=21,
        ).model_copy(update=model or {}),
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


ORIGINAL = {
    "window": 8192, "original_window": None, "rope_type": "default", "rope": {"rope_theta": 10000.0},
    "rope_scale": None, "d_tcd": None, "d_rcd": None,
}  # fmt: skip
"""Facts of a model that was not extended."""


def make_pair(folder: Path, **arguments: Any) -> tuple[Path, Path]:
    """An original that fails beyond its window and an extended model that lost a little on short inputs."""
    original = make_run(folder / "original", name="tiny-llama", model=ORIGINAL, flip=0.02, **arguments)
    extended = make_run(folder / "extended", name="tiny-llama-extended", lift=-0.05, flip=0.04, **arguments)
    return original, extended


def compare_runs(folders: Sequence[Path], **update: Any) -> Comparison:
    """The comparison `lr2eval compare` stores, with something left out and a caveat in every pair."""
    with shown_as_stored():  # session fixtures come before those of the package
        sources = read_all(folders)
    comparison = compare_all(sources[0], sources[1:], common=True)[0]
    noted = {
        "left_out": [LeftOut(what="ruler/qa_1@4096", n=5, reason="only in the original")],
        "caveats": ["backend.batch_size: 8 in the original, 16 in the extended"],
    }
    pairs = [pair.model_copy(update=noted) for pair in comparison.pairs]
    return comparison.model_copy(update={"pairs": pairs} | update)


def make_gate(comparison: Comparison, *, limit: float = 0.985, margin: float | None = 2.0) -> Gate:
    """A verdict on the first pair: every benchmark against a least retention, the first against a margin too."""
    pair = comparison.pairs[0]
    checks = []
    for row in pair.differences:
        if row.level == "benchmark" and not row.beyond:
            checks.append(_check(row, "retention", limit))
            if margin is not None and len(checks) == 1:
                checks.append(_check(row, "margin", margin))
    verdicts = [check.verdict for check in checks]
    verdict: Verdict = next((v for v in ("regression", "inconclusive") if v in verdicts), "pass")
    said = " ".join(check.message for check in checks)
    return Gate(
        lr2eval_version="0.1.0", verdict=verdict, exit_code={"pass": 0, "regression": 1, "inconclusive": 3}[verdict],
        paragraph=f"{verdict.upper()}: {pair.extended.label} against {comparison.original.label}. {said}",
        confidence=0.95, original=comparison.original, extended=pair.extended, checks=checks,
        regressed=[
            Regressed(name=f"{row.benchmark}:{row.task}", difference=row.difference, p_holm=row.p_holm or 0.0)
            for row in pair.differences
            if row.level == "shard" and (row.p_holm or 1.0) < 0.05 and row.difference < 0
        ],
        left_out=pair.left_out, caveats=pair.caveats,
    )  # fmt: skip


def _check(row: Difference, kind: Any, limit: float) -> Check:
    ratio = row.retention_interval
    assert ratio is not None
    low, high = (row.interval.low + limit, row.interval.high) if kind == "margin" else (ratio.low - limit, ratio.high)
    seen = row.difference + limit if kind == "margin" else (row.retention or 0.0) - limit
    shown = (high or 0.0) < (0 if kind == "margin" else 1)
    verdict: Verdict = "pass" if low > 0 else "regression" if seen < 0 and shown else "inconclusive"
    return Check(
        name=row.benchmark, verdict=verdict, kind=kind, limit=limit, n=row.n, original=row.original,
        criterion=f"loss of at most {limit:g}" if kind == "margin" else f"retention of at least {100 * limit:g} %",
        extended=row.extended, difference=row.difference, interval=row.interval, retention=row.retention,
        retention_interval=ratio, p_noninferior=0.2, needed_n=4 * row.n if verdict == "inconclusive" else None,
        needed_n_if_equal=3 * row.n if verdict == "inconclusive" else None,
        message=f"{row.benchmark}: {row.original:.1f} -> {row.extended:.1f} ({row.difference:+.2f}, n = {row.n:,}).",
    )  # fmt: skip


@pytest.fixture(scope="session")
def pair_folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A hostile original and extended run that tests only read."""
    return make_pair(tmp_path_factory.mktemp("pair"), grid=("single", "multi"), depths=5, samples=24, subjects=16)


@pytest.fixture(scope="session")
def comparison(pair_folders: tuple[Path, Path]) -> Comparison:
    return compare_runs(pair_folders)


@pytest.fixture(scope="session")
def gate(comparison: Comparison) -> Gate:
    return make_gate(comparison)


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One hostile run that tests only read."""
    return make_run(tmp_path_factory.mktemp("runs") / "extended")


@pytest.fixture
def comparer() -> Callable[..., Comparison]:
    """Compares runs, the original first."""
    return compare_runs


@pytest.fixture
def maker() -> Maker:
    """Makes further runs."""
    return make_run
