"""Is every RULER sample exactly as long as it can be? All 13 tasks at 1k, 4k, 32k and 131,072 for three tokenizers.

``python benchmarks/ruler_exactness.py --model DIR --data-dir DIR`` takes the tokenizer of ``--model`` and the two that
the tests train, makes samples of every task and length, and counts each again with the tokenizer itself: not over its
length, one more unit over it, at least 98 % full wherever a unit is at most 2 % of the length. Writes
``benchmarks/results/ruler_exactness.json``; leaves with 1 if there was a violation.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

# ruff: noqa: E402 - the tests' tokenizers and check are found from the project's folder
from machine import facts

from lr2eval.benchmark import TaskContext
from lr2eval.errors import TaskError
from lr2eval.model.tokenizer import PromptTokenizer
from lr2eval.tasks.exact.fit import TooSmallError
from lr2eval.tasks.ruler import RULER, generate, outside
from tests.tasks.conftest import TOKENIZERS
from tests.tasks.ruler.exact import check

LENGTHS = (1024, 4096, 32_768, 131_072)
INDICES = (1, 7)


def cell(task: Any, length: int, tokenizer: PromptTokenizer) -> dict[str, Any]:
    """What was found for one task and length, the violation, or the shortest length that the refusal names."""
    try:
        found = [check(task, length, index, tokenizer) for index in INDICES]
    except TooSmallError:
        return {"exists_from": named_by_the_refusal(task, length, tokenizer)}
    except AssertionError as error:
        return {"violation": str(error).split("\n")[0]}
    return {
        "samples": len(found),
        "tokens": [each.tokens for each in found],
        "next_unit": [each.unit for each in found],
        "fill_min": round(min(each.fill for each in found), 5),
    }


def named_by_the_refusal(task: Any, length: int, tokenizer: PromptTokenizer) -> int:
    """The length at which the task exists, as a user is told."""
    try:
        list(generate.samples(task, length, max(INDICES) + 1, 0, tokenizer, workers=1))
    except TaskError as error:
        least = int(re.findall(r"at least (\d+)", str(error))[0])
        assert least > length
        return least
    raise AssertionError("not refused")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data-dir", type=Path, required=True)
    arguments = parser.parse_args()
    tokenizers = {"smollm2": PromptTokenizer.load(arguments.model)}
    tokenizers |= {name: PromptTokenizer(train(), name=name) for name, train in TOKENIZERS.items()}
    rows = []
    started = time.process_time()
    for name, tokenizer in tokenizers.items():
        context = TaskContext(tokenizer, LENGTHS, 1, 0, HERE, data_dir=arguments.data_dir, offline=True)
        known = outside.load(list(outside.OUTSIDE), outside.RulerOptions(), context)
        for task in RULER.select(None):
            for length in LENGTHS:
                row = {"tokenizer": name, "task": task, "length": length, **cell(known[task], length, tokenizer)}
                rows.append(row)
                print(json.dumps(row), flush=True)
    made = [row for row in rows if "samples" in row]
    violations = [row for row in rows if "violation" in row]
    fine = [row for row in made if max(row["next_unit"]) <= 0.02 * row["length"]]
    outcome = {
        "what": "samples counted anew: none over its length, one more unit over it; 98 % full where units are <= 2 %",
        "cells": len(rows),
        "cells_below_the_minimum_of_their_task": sum("exists_from" in row for row in rows),
        "samples_checked": sum(row["samples"] for row in made),
        "violations": len(violations),
        "cells_with_units_up_to_2_percent": len(fine),
        "their_smallest_fill": min(row["fill_min"] for row in fine),
        "cpu_seconds": round(time.process_time() - started, 1),
        "rows": rows,
        "machine": facts(),
    }
    text = json.dumps(outcome, indent=1)
    text = re.sub(r"\[\s+(\d+),\s+(\d+)\s+\]", r"[\1, \2]", text)
    (HERE / "results" / "ruler_exactness.json").write_text(text + "\n")
    return 1 if violations else 0


if __name__ == "__main__":
    raise SystemExit(main())
