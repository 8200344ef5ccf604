"""Making RULER data: ours against lm-eval's generators, one process, one core, same tokenizer, CPU seconds.

``python benchmarks/ruler_data.py --model DIR --data-dir DIR`` makes a few samples of all 13 tasks at 32k and 128k
tokens. Both sides find their size once per task and length (``once``) and then make samples (``per_sample``), measured
separately; totals for 500 samples are extrapolated from the two. Ours starts every repetition without the counts of
words met before, and writes its data file as well.

Ours is the median of the repetitions. lm-eval's samples are timed one by one, and the median of all is taken; its
search, which takes a minute at 128k, is made once there. Instead of a download, lm-eval reads our local SQuAD,
HotpotQA and essays (repeated to the length of its own list). Where the questions' documents run out below 128k, its
samples stay shorter (``tokens``). ``share_in_tokenizer`` is the part of our CPU time inside the tokenizer's encoding,
from one more run.
Writes ``benchmarks/results/ruler_data.json``.
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
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import nltk

nltk.download = lambda *_, **__: True  # lm-eval asks for it at import

from lm_eval.tasks.ruler import cwe_utils, fwe_utils, niah_utils, prepare_niah, qa_utils, vt_utils
from lm_eval.tasks.ruler.prepare_niah import generate_samples, get_haystack
from machine import facts
from nltk.tokenize.punkt import PunktParameters, PunktSentenceTokenizer
from punkt.data import english

from lr2eval.model.tokenizer import PromptTokenizer
from lr2eval.tasks import haystacks
from lr2eval.tasks.exact import files
from lr2eval.tasks.ruler import generate, questions
from lr2eval.tasks.ruler.benchmark import NAMES
from lr2eval.tasks.ruler.outside import OUTSIDE
from lr2eval.tasks.ruler.suite import TASKS, RulerTask

HERE = Path(__file__).parent
FULL = 500
REPETITIONS = 3
SEEDS = itertools.count()
HUB_WORDS = 400_000
"""The essays of lm-eval's list have about this many words; ours are repeated to as many."""
NIAH = {
    "niah_single_1": ("repeat", "words", "numbers", {}),
    "niah_single_2": ("essay", "words", "numbers", {}),
    "niah_single_3": ("essay", "words", "uuids", {}),
    "niah_multikey_1": ("essay", "words", "numbers", {"num_needle_k": 4}),
    "niah_multikey_2": ("needle", "words", "numbers", {}),
    "niah_multikey_3": ("needle", "uuids", "uuids", {}),
    "niah_multivalue": ("essay", "words", "numbers", {"num_needle_v": 4}),
    "niah_multiquery": ("essay", "words", "numbers", {"num_needle_q": 4}),
}


def theirs(task: str, length: int, tokenizer: Any) -> Callable[[int], Any]:
    """lm-eval's generator as its tasks call it, but for the number of samples."""
    if task in NIAH:
        haystack, keys, values, numbers = NIAH[task]
        return lambda count: generate_samples(
            get_haystack(type_haystack=haystack),
            max_seq_length=length,
            template=niah_utils.TEMPLATE,
            type_haystack=haystack,
            type_needle_k=keys,
            type_needle_v=values,
            num_samples=count,
            TOKENIZER=tokenizer,
            **numbers,
        )
    if task == "vt":

        def tracked(count: int) -> object:
            make = vt_utils.sys_vartrack_w_noise_random
            (example,) = make(tokenizer=tokenizer, num_samples=1, max_seq_length=500, incremental=5)
            return make(tokenizer=tokenizer, num_samples=count, max_seq_length=length, icl_example=example)

        return tracked
    if task in ("qa_1", "qa_2"):
        qas, docs = (qa_utils.read_squad if task == "qa_1" else qa_utils.read_hotpotqa)()
        return lambda count: qa_utils.generate_samples(tokenizer, docs, qas, length, num_samples=count)
    make = {"cwe": cwe_utils.sys_word_pair_random, "fwe": fwe_utils.sys_kwext}[task]
    return lambda count: make(tokenizer=tokenizer, num_samples=count, max_seq_length=length)


def our_tasks(data_dir: Path) -> dict[str, RulerTask]:
    """The 13 tasks over the local texts."""
    texts = {name: questions.load(name, None, data_dir) for name in ("squad", "hotpotqa")}
    known = {"essays": haystacks.load("essays", data_dir, True), **texts}
    return TASKS | {name: task.over(known[task.source]) for name, task in OUTSIDE.items()}


def give_texts(data_dir: Path) -> None:
    """Let lm-eval read the local texts where it would download, and split sentences with nltk's own model."""
    parameters = PunktParameters()
    parameters.abbrev_types = set(english.ABBREV_TYPES)
    parameters.collocations = set(english.COLLOCATIONS)
    parameters.sent_starters = set(english.SENT_STARTERS)
    parameters.ortho_context.update(english.ORTHO_CONTEXT)
    prepare_niah.sent_tokenize = PunktSentenceTokenizer(parameters).tokenize
    essays = haystacks.load("essays", data_dir, True)
    texts = list(essays.texts) * (HUB_WORDS // len(essays.words) + 1)
    prepare_niah.datasets.load_dataset = lambda *_, **__: {"text": texts}

    def local(url: str) -> Any:
        if "squad" in url.lower():
            return questions._read(questions.SETS["squad"].find(data_dir))
        rows = questions._read(questions.SETS["hotpotqa"].find(data_dir))
        for row in rows:
            if isinstance(row["context"], dict):  # in columns; the published file has pairs
                row["context"] = list(zip(row["context"]["title"], row["context"]["sentences"], strict=True))
        return rows

    qa_utils.download_json = local


class Loop:
    """Stands for tqdm in lm-eval's modules: notes when each sample is begun, and the end of the last."""

    times: list[float]

    def __call__(self, items: Any, **_: Any) -> Iterator[Any]:
        Loop.times = [time.process_time()]
        for item in items:
            yield item
            Loop.times.append(time.process_time())


class Watched:
    """Stands for the Rust tokenizer and adds up the CPU seconds inside its encoding."""

    def __init__(self, backend: Any) -> None:
        self.backend = backend
        self.seconds = 0.0

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.backend, name)
        if not name.startswith("encode"):
            return found

        def timed(*given: Any, **named: Any) -> Any:
            started = time.process_time()
            try:
                return found(*given, **named)
            finally:
                self.seconds += time.process_time() - started

        return timed


def cost_of_theirs(make: Callable[[int], Any], count: int, repetitions: int) -> dict[str, Any]:
    """CPU seconds of the search, which comes first, and of each sample."""
    searches, samples = [], []
    for _ in range(repetitions):
        started = time.process_time()
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            made = make(count)
        searches.append(Loop.times[0] - started)
        samples += [end - begin for begin, end in itertools.pairwise(Loop.times)]
    tokens = round(sum(row["length"] for row in made) / len(made))
    return {**_numbers(median(searches), median(samples), len(samples)), "tokens": tokens}


def cost_of_ours(task: RulerTask, length: int, tokenizer: Any, folder: Path, count: int) -> dict[str, Any]:
    """CPU seconds of a file: of all until the first sample is made, and of each further one."""
    runs = [_file(task, length, PromptTokenizer(tokenizer), folder, count) for _ in range(REPETITIONS)]
    backend = tokenizer._tokenizer
    tokenizer._tokenizer = watched = Watched(backend)
    try:
        first, more = _file(task, length, PromptTokenizer(tokenizer), folder, count)
    finally:
        tokenizer._tokenizer = backend
    share = round(watched.seconds / (first + more * count), 2)
    once, sample = (median(each) for each in zip(*runs, strict=True))
    return {**_numbers(once, sample, count * REPETITIONS), "share_in_tokenizer": share}


def _file(task: RulerTask, length: int, tokenizer: PromptTokenizer, folder: Path, count: int) -> tuple[float, float]:
    """A data file, written and synced: CPU seconds until its first sample is made, and of each of ``count`` others."""
    times = [time.process_time()]

    def rows() -> Iterator[Any]:
        for row in generate.samples(task, length, count + 1, next(SEEDS), tokenizer, 1):
            times.append(time.process_time())
            yield row

    files.ensure(
        Path(tempfile.mkdtemp(dir=folder)) / "data.jsonl", {}, rows, lambda row: row["token_count"] / length, print
    )
    return times[1] - times[0], (time.process_time() - times[1]) / count


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
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--lengths", default="32768,131072")
    parser.add_argument("--tasks", default=",".join(NAMES))
    arguments = parser.parse_args()
    names = arguments.tasks.split(",")
    tokenizer = PromptTokenizer.load(arguments.model).tokenizer
    tasks = our_tasks(arguments.data_dir)
    give_texts(arguments.data_dir)
    for module in (prepare_niah, cwe_utils, fwe_utils, vt_utils, qa_utils):
        module.tqdm = Loop()
    with contextlib.redirect_stdout(io.StringIO()):
        for task in names:  # texts, word lists and templates are read once per process
            theirs(task, 4096, tokenizer)(1)
            next(generate.samples(tasks[task], 4096, 1, 99, PromptTokenizer(tokenizer)))
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for length in map(int, arguments.lengths.split(",")):
            many, few, repetitions = (30, 2, 3) if length < 100_000 else (12, 3, 1)
            for task in names:
                row: dict[str, Any] = {"task": task, "length": length}
                row["ours"] = cost_of_ours(tasks[task], length, tokenizer, Path(folder), many)
                row["lm_eval"] = cost_of_theirs(theirs(task, length, tokenizer), few, repetitions)
                for key in ("per_sample", "extrapolated_500"):
                    row[f"ratio_{key}"] = round(row["lm_eval"][key] / row["ours"][key], 1)
                rows.append(row)
                print(task, length, row["ours"], row["lm_eval"], row["ratio_extrapolated_500"], flush=True)
    outcome = {
        "what": f"CPU seconds of one process; {len(names)} tasks x 500 samples extrapolated from the measured numbers",
        "tokenizer": type(tokenizer).__name__,
        "vocabulary": len(tokenizer),
        "totals_500_samples": {str(length): _total(rows, length) for length in sorted({r["length"] for r in rows})},
        "tasks": rows,
        "machine": facts(),
    }
    print(json.dumps(outcome["totals_500_samples"]))
    if names == [*NAMES]:
        path = HERE / "results" / "ruler_data.json"
        path.write_text(json.dumps(outcome, indent=1) + "\n")
    return 0


def _total(rows: list[dict[str, Any]], length: int) -> dict[str, float]:
    """Both sides' seconds for all tasks, their ratio, and how much of ours is inside the tokenizer."""
    mine = [row for row in rows if row["length"] == length]
    us, them = (sum(row[side]["extrapolated_500"] for row in mine) for side in ("ours", "lm_eval"))
    inside = sum(row["ours"]["extrapolated_500"] * row["ours"]["share_in_tokenizer"] for row in mine)
    return {
        "ours_seconds": round(us, 1),
        "lm_eval_seconds": round(them, 1),
        "ratio": round(them / us, 1),
        "share_in_tokenizer": round(inside / us, 2),
    }


if __name__ == "__main__":
    raise SystemExit(main())
