"""MMLU through lr2eval and through lm-eval's own ``hf`` model: the same choice on every question, and how fast?

    python benchmarks/mmlu.py --data-dir DATA [--questions 50] [--threads 2]

6 subjects x the first questions, 5-shot, fp32. Subject by subject, both are asked for the log-probability of each
letter, one after the other, so that a busy machine slows both; lm-eval gets the same rows through its stock task
definition, evaluated by its own ``evaluate``. Differences below 1e-4 between the two best letters count as near-ties
and are listed. Tokens are counted as they reach the models, padding included. Writes
``benchmarks/results/mmlu.json``; exit code 1 if a choice differs that is no near-tie.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from machine import facts

HERE = Path(__file__).parent
SUBJECTS = ("anatomy", "astronomy", "global_facts", "high_school_geography", "philosophy", "sociology")
NEAR_TIE = 1e-4
FULL = 50


@dataclass
class Side:
    """A model behind lm-eval's interface and what it took so far."""

    lm: Any
    seconds: float = 0.0
    tokens: int = 0
    answers: dict[str, list[list[float]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        forward = self.lm.model.forward

        def counted(input_ids: Any, *rest: Any, **inputs: Any) -> Any:
            self.tokens += input_ids.numel()
            return forward(input_ids, *rest, **inputs)

        self.lm.model.forward = counted

    def ask(self, shard: Any) -> None:
        """All questions of one subject; only the call of ``evaluate`` is timed."""
        from lm_eval.evaluator import evaluate

        task = shard.load()
        name = task.config.task
        started = time.perf_counter()
        logged = evaluate(self.lm, {"tasks": {name: task}, "groups": {}, "group_map": {}}, bootstrap_iters=0)
        self.seconds += time.perf_counter() - started
        self.answers[shard.task] = [[response[0][0] for response in row["resps"]] for row in logged["samples"][name]]
        print(f"{type(self.lm).__name__} {shard.task}: {len(self.answers[shard.task])} questions", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--questions", type=int, default=FULL)
    parser.add_argument("--subjects", default=",".join(SUBJECTS))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=8, help="lm-eval's; lr2eval chooses its own")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "mmlu.json")
    arguments = parser.parse_args()

    import torch
    from lm_eval.models.huggingface import HFLM

    from lr2eval.backends.hf import WindowedHFLM
    from lr2eval.base.files import cache_dir
    from lr2eval.benchmark import TaskContext
    from lr2eval.model.checkpoint import Checkpoint
    from lr2eval.model.names import locate
    from lr2eval.model.tokenizer import PromptTokenizer
    from lr2eval.registry import resolve

    torch.set_num_threads(arguments.threads)
    folder = locate(arguments.model)
    context = TaskContext(
        PromptTokenizer.load(folder), (), 1, 0, cache_dir(), limit=arguments.questions, data_dir=arguments.data_dir
    )
    [(mmlu, names)] = resolve(["mmlu:" + name for name in arguments.subjects.split(",")])
    ours = Side(WindowedHFLM(Checkpoint.open(folder), dtype="float32", device="cpu"))
    theirs = Side(HFLM(pretrained=str(folder), dtype="float32", device="cpu", batch_size=arguments.batch_size))
    for shard in mmlu.prepare(names, context):
        ours.ask(shard)
        theirs.ask(shard)

    near_ties, disagreements, gaps = [], [], []
    for task, rows in ours.answers.items():
        for number, (a, b) in enumerate(zip(rows, theirs.answers[task], strict=True)):
            gaps.append(max(abs(x - y) for x, y in zip(a, b, strict=True)))
            where = {"task": task, "question": number, "ours": a, "lm_eval": b}
            if sorted(b)[-1] - sorted(b)[-2] < NEAR_TIE:
                near_ties.append(where)
            if a.index(max(a)) != b.index(max(b)):
                disagreements.append(where)
    outcome = {
        "what": f"{arguments.model}, MMLU 5-shot, float32: {len(ours.answers)} subjects x first {arguments.questions}",
        "rehearsal": arguments.questions < FULL or arguments.threads < 2,
        "questions": len(gaps),
        "same_choice": len(gaps) - len(disagreements),
        "disagreements": disagreements,
        "near_ties_below_1e-4": near_ties,
        "largest_log_probability_difference": max(gaps),
        "seconds": {"lr2eval": round(ours.seconds, 1), "lm_eval": round(theirs.seconds, 1)},
        "times_as_fast": round(theirs.seconds / ours.seconds, 2),
        "tokens_read": {"lr2eval": ours.tokens, "lm_eval": theirs.tokens},
        "times_fewer_tokens": round(theirs.tokens / ours.tokens, 2),
        "lm_eval_batch_size": arguments.batch_size,
        "threads": arguments.threads,
        "machine": facts(),
    }
    print(json.dumps({k: v for k, v in outcome.items() if k != "disagreements"}, indent=2))
    arguments.out.write_text(json.dumps(outcome, indent=2) + "\n", encoding="utf-8")
    tied = [(row["task"], row["question"]) for row in near_ties]
    return int(any((row["task"], row["question"]) not in tied for row in disagreements))


if __name__ == "__main__":
    sys.exit(main())
