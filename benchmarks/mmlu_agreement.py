"""MMLU through lr2eval and through lm-eval's own ``hf`` model: the same choice on every question?

``python benchmarks/mmlu_agreement.py --model smollm2-135m --data-dir DIR`` takes 6 subjects x the first 50 questions,
5-shot, fp32, asks both for the log-probability of each letter and compares them question by question. Differences
below 1e-4 between the two best letters count as near-ties and are listed. lm-eval gets the same rows through its stock
task definition, evaluated by its own ``evaluate``. Writes ``benchmarks/results/mmlu_agreement.json``.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from machine import facts

HERE = Path(__file__).parent
SUBJECTS = ("anatomy", "astronomy", "global_facts", "high_school_geography", "philosophy", "sociology")
NEAR_TIE = 1e-4


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--questions", type=int, default=50)
    parser.add_argument("--subjects", default=",".join(SUBJECTS))
    arguments = parser.parse_args()

    import torch
    from lm_eval.evaluator import evaluate
    from lm_eval.models.huggingface import HFLM

    from lr2eval._checkpoint import Checkpoint
    from lr2eval._models import locate
    from lr2eval._paths import cache_dir
    from lr2eval._registry import resolve
    from lr2eval._tokens import PromptTokenizer
    from lr2eval._types import TaskContext
    from lr2eval.backends.hf import WindowedHFLM

    folder = locate(arguments.model)
    context = TaskContext(
        PromptTokenizer.load(folder), (), 1, 0, cache_dir(), limit=arguments.questions, data_dir=arguments.data_dir
    )
    [(mmlu, names)] = resolve(["mmlu:" + name for name in arguments.subjects.split(",")])
    shards = mmlu.prepare(names, context)

    def ask(lm: Any) -> tuple[dict[str, list[list[float]]], float]:
        answers, started = {}, time.perf_counter()
        for shard in shards:
            task = shard.load()
            logged = evaluate(
                lm, {"tasks": {task.config.task: task}, "groups": {}, "group_map": {}}, bootstrap_iters=0
            )["samples"][task.config.task]
            answers[shard.task] = [[response[0][0] for response in row["resps"]] for row in logged]
            print(f"{type(lm).__name__} {shard.task}: {len(logged)} questions", flush=True)
        return answers, time.perf_counter() - started

    torch.manual_seed(0)
    ours, our_seconds = ask(WindowedHFLM(Checkpoint.open(folder), dtype="float32", device="cpu"))
    stock = HFLM(pretrained=str(folder), dtype="float32", device="cpu", batch_size=8)
    theirs, their_seconds = ask(stock)

    near_ties, disagreements, gaps, questions = [], [], [], 0
    for task, rows in ours.items():
        for number, (a, b) in enumerate(zip(rows, theirs[task], strict=True)):
            questions += 1
            gaps.append(max(abs(x - y) for x, y in zip(a, b, strict=True)))
            best, second = sorted(b)[-1], sorted(b)[-2]
            where = {"task": task, "question": number, "ours": a, "lm_eval": b}
            if best - second < NEAR_TIE:
                near_ties.append(where)
            if a.index(max(a)) != b.index(max(b)):
                disagreements.append(where)
    outcome = {
        "questions": questions,
        "same_choice": questions - len(disagreements),
        "disagreements": disagreements,
        "near_ties_below_1e-4": near_ties,
        "largest_log_probability_difference": max(gaps),
        "seconds_ours": round(our_seconds, 1),
        "seconds_lm_eval": round(their_seconds, 1),
        "machine": facts(),
    }
    print(json.dumps({k: v for k, v in outcome.items() if k != "disagreements"}, indent=2))
    (HERE / "results" / "mmlu_agreement.json").write_text(json.dumps(outcome, indent=2) + "\n")
    tied = [(row["task"], row["question"]) for row in near_ties]
    return int(any((row["task"], row["question"]) not in tied for row in disagreements))


if __name__ == "__main__":
    sys.exit(main())
