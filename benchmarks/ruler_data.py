"""Making RULER data: ours against lm-eval's generators, one process, one core, same tokenizer, CPU seconds.

``python benchmarks/ruler_data.py --model DIR`` makes a few samples of the six tasks lm-eval can make offline. Both
sides find their size once per task and length (``once``) and then make samples (``per_sample``), measured separately;
totals for 500 samples are extrapolated from the two.
Ours writes its data file as well. Writes ``benchmarks/results/ruler_data.json``.
"""

from __future__ import annotations

import os

os.environ["TOKENIZERS_PARALLELISM"] = "false"

# ruff: noqa: E402 - lm-eval needs preparing before it is imported
import argparse
import contextlib
import io
import itertools
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nltk

nltk.download = lambda *_, **__: True  # lm-eval asks for it at import; no task here needs it

from lm_eval.tasks.ruler import cwe_utils, fwe_utils, niah_utils, prepare_niah, vt_utils
from lm_eval.tasks.ruler.prepare_niah import generate_samples, get_haystack
from machine import facts

from lr2eval.model.tokenizer import PromptTokenizer
from lr2eval.tasks.exact import files
from lr2eval.tasks.ruler import generate
from lr2eval.tasks.ruler.suite import TASKS

HERE = Path(__file__).parent
FULL = 500
NIAH = {
    "niah_single_1": ("repeat", "words", "numbers"),
    "niah_multikey_2": ("needle", "words", "numbers"),
    "niah_multikey_3": ("needle", "uuids", "uuids"),
}


def theirs(task: str, length: int, tokenizer: Any) -> Callable[[int], object]:
    """lm-eval's generator as its tasks call it, but for the number of samples."""
    if task in NIAH:
        haystack, keys, values = NIAH[task]
        return lambda count: generate_samples(
            get_haystack(type_haystack=haystack),
            max_seq_length=length,
            template=niah_utils.TEMPLATE,
            type_haystack=haystack,
            type_needle_k=keys,
            type_needle_v=values,
            num_samples=count,
            TOKENIZER=tokenizer,
        )
    if task == "vt":

        def tracked(count: int) -> object:
            make = vt_utils.sys_vartrack_w_noise_random
            (example,) = make(tokenizer=tokenizer, num_samples=1, max_seq_length=500, incremental=5)
            return make(tokenizer=tokenizer, num_samples=count, max_seq_length=length, icl_example=example)

        return tracked
    make = {"cwe": cwe_utils.sys_word_pair_random, "fwe": fwe_utils.sys_kwext}[task]
    return lambda count: make(tokenizer=tokenizer, num_samples=count, max_seq_length=length)


def ours(task: str, length: int, tokenizer: PromptTokenizer, folder: Path) -> Callable[[int], object]:
    """Our data file, written and synced, under a name of its own each time."""
    number = itertools.count()
    return lambda count: files.ensure(
        folder / f"{task}-{length}-{next(number)}.jsonl",
        {},
        lambda: generate.samples(TASKS[task], length, count, next(number), tokenizer),
        lambda row: row["token_count"] / length,
        print,
    )


class Loop:
    """Stands for tqdm in lm-eval's modules: notes when the loop over the samples begins."""

    began = 0.0

    def __call__(self, items: Any, **_: Any) -> Any:
        Loop.began = time.process_time()
        return items


def cost_of_theirs(make: Callable[[int], object], count: int) -> dict[str, float]:
    """CPU seconds of the search, which comes first, and of ``count`` samples."""
    started = time.process_time()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        make(count)
    ended = time.process_time()
    return _numbers(Loop.began - started, (ended - Loop.began) / count, count)


def cost_of_ours(make: Callable[[int], object], count: int) -> dict[str, float]:
    """CPU seconds of a file with one sample and of each further one."""
    times = [time.process_time()]
    for number in (1, count + 1):
        make(number)
        times.append(time.process_time())
    sample = (times[2] - times[1] - (times[1] - times[0])) / count
    return _numbers(max(times[1] - times[0] - sample, 0.0), sample, count)


def _numbers(once: float, sample: float, count: int) -> dict[str, float]:
    return {
        "samples_measured": count,
        "once": round(once, 3),
        "per_sample": round(sample, 5),
        "extrapolated_500": round(once + FULL * sample, 2),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--lengths", default="4096,32768")
    arguments = parser.parse_args()
    tokenizer = PromptTokenizer.load(arguments.model)
    for module in (prepare_niah, cwe_utils, fwe_utils, vt_utils):
        module.tqdm = Loop()
    with contextlib.redirect_stderr(io.StringIO()):
        for task in (*NIAH, "vt", "cwe", "fwe"):  # word lists and templates are read once per process
            theirs(task, 4096, tokenizer.tokenizer)(1) if task in NIAH else None
            next(generate.samples(TASKS[task], 4096, 1, 99, tokenizer))
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for length in map(int, arguments.lengths.split(",")):
            few, many = (20, 100) if length < 10_000 else (6, 30)
            for task in (*NIAH, "vt", "cwe", "fwe"):
                row: dict[str, Any] = {"task": task, "length": length}
                row["ours"] = cost_of_ours(ours(task, length, tokenizer, Path(folder)), many)
                row["lm_eval"] = cost_of_theirs(theirs(task, length, tokenizer.tokenizer), few)
                for key in ("per_sample", "extrapolated_500"):
                    row[f"ratio_{key}"] = round(row["lm_eval"][key] / row["ours"][key], 1)
                rows.append(row)
                print(task, length, row["ours"], row["lm_eval"], row["ratio_extrapolated_500"], flush=True)
    totals = {
        str(length): {
            "ours_seconds": round(sum(row["ours"]["extrapolated_500"] for row in rows if row["length"] == length), 1),
            "lm_eval_seconds": round(
                sum(row["lm_eval"]["extrapolated_500"] for row in rows if row["length"] == length), 1
            ),
        }
        for length in sorted({row["length"] for row in rows})
    }
    for total in totals.values():
        total["ratio"] = round(total["lm_eval_seconds"] / total["ours_seconds"], 1)
    outcome = {
        "what": "CPU seconds of one process; six tasks x 500 samples extrapolated from the measured numbers",
        "tokenizer": type(tokenizer.tokenizer).__name__,
        "vocabulary": len(tokenizer.tokenizer),
        "totals_500_samples": totals,
        "tasks": rows,
        "machine": facts(),
    }
    path = HERE / "results" / "ruler_data.json"
    path.write_text(json.dumps(outcome, indent=1) + "\n")
    print(json.dumps(totals))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
