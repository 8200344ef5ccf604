"""Packed rows against plain padded batches: useful tokens a second and peak memory of a training step on a CPU.

``packed_training.py BOOKS --json FILE`` (a folder of text files or a tar archive of them). Books are cut at random, so
that the median document has about a quarter of a row's tokens; documents longer than a row are cut there. Every way
below trains on the same documents in as many optimizer steps, in float32, each in a process of its own, the ways
in turn, ``--repeats`` times; medians are printed with all values. The same command goes on where it was stopped.

* ``packed``: lr2eval's rows and engine with the attention it chooses here (``documents``), one row at a time;
* ``packed, sdpa``: the same with the mask of all pairs that transformers' sdpa builds, as lr2eval did before;
* ``padded, N``: ``transformers.Trainer`` in batches of N documents padded to their longest. 8 is its default; a batch
  of 1 has no padding at all.

Only real tokens count. Seconds are those of the clock and those of the processor, which a busy machine changes less.
Peak memory is resident memory at its highest while the steps run; ``above`` is the part of it
above what the loaded model takes, which gradients, optimizer, activations and logits share. Losses: the packed rows by
lr2eval against every document alone by the stock model, per target token.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import machine
import numpy as np
import psutil
import torch
from train_books import books, factors, load

from lr2eval.method.data.packing import pack
from lr2eval.method.data.rows import Segment
from lr2eval.method.train.batches import weights_of
from lr2eval.method.train.engine import Engine
from lr2eval.method.train.parallel import Ranks
from lr2eval.method.train.recipe import DOCUMENTS, Recipe
from lr2eval.model import names

CASES: dict[str, tuple[int, int, int, tuple[int, ...]]] = {
    "demo": (4096, 4, 1, (1, 4, 8)),
    "smollm2-135m": (2048, 2, 1, (1, 2)),
}
"""Tokens of a row, rows, optimizer steps, batches of the padded ways. Four documents of SmolLM2 took 18 GiB."""


def documents(files: list[Path], folder: Path, row: int, rows: int) -> list[np.ndarray]:
    """Random pieces of random books; lengths between cuts at random are exponential."""
    from transformers import AutoTokenizer

    tokenizer, random = AutoTokenizer.from_pretrained(folder), np.random.default_rng(0)
    found: list[np.ndarray] = []
    left = rows * row
    while left > 0:
        length = min(left, row, max(16, int(random.exponential(row / 4 / np.log(2)))))
        text = files[random.integers(len(files))].read_text(encoding="utf-8")
        at = int(random.integers(len(text) // 2))
        ids = tokenizer(text[at : at + 12 * length], add_special_tokens=False)["input_ids"][:length]
        found.append(np.array(ids, dtype=np.int64))
        left -= len(ids)
    return found


def packed_rows(found: list[np.ndarray], row: int) -> list[Segment]:
    """The documents as short rows; what is left of a row is padding."""
    rows = []
    for chosen in pack([len(each) for each in found], row):
        lengths = [len(found[number]) for number in chosen]
        padding = row - sum(lengths)
        ids = np.concatenate([*(found[number] for number in chosen), np.zeros(padding, dtype=np.int64)])
        rows.append(Segment(False, ids, (*lengths, *([padding] if padding else [])), padding))
    return rows


def made(folder: Path, row: int, attention: str) -> Engine:
    recipe = Recipe(name="b", original_window=row, target_window=2 * row, short_tokens=0, long_tokens=0,
                    global_batch=1, dtype="float32", attention=attention)  # fmt: skip
    return Engine(load(folder), factors(folder, (row, 2 * row)), recipe, Ranks())


def losses(folder: Path, found: list[np.ndarray], row: int) -> dict[str, float]:
    """Mean losses of the packed rows and of the documents alone, by the model as it is."""
    engine, rows = made(folder, row, DOCUMENTS), packed_rows(found, row)
    with torch.no_grad():
        ours = sum(float(engine.loss([each])) for each in rows) / weights_of(rows)[0]
        model, total = load(folder).eval(), 0.0
        for ids in found:
            ids_BL = torch.from_numpy(ids)[None]
            logits_LV = model(input_ids=ids_BL, use_cache=False).logits[0, :-1].float()
            total += float(torch.nn.functional.cross_entropy(logits_LV, ids_BL[0, 1:], reduction="sum"))
    alone = total / sum(len(ids) - 1 for ids in found)
    return {"packed": ours, "alone": alone, "difference": abs(ours - alone)}


class Clock:
    """Seconds, seconds of all processors, and memory between start and stop."""

    def start(self) -> None:
        self.before = psutil.Process().memory_info().rss
        Path("/proc/self/clear_refs").write_text("5")  # the highest resident memory counts from here
        self.began = time.perf_counter(), time.process_time()

    def stop(self) -> None:
        self.seconds, self.cpu_seconds = time.perf_counter() - self.began[0], time.process_time() - self.began[1]
        self.peak = 1024 * int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])

    def facts(self, tokens: int) -> dict[str, float]:
        return {"seconds": self.seconds, "tokens_per_second": tokens / self.seconds,
                "tokens_per_cpu_second": tokens / self.cpu_seconds, "peak_gib": self.peak / 2**30,
                "above_gib": (self.peak - self.before) / 2**30}  # fmt: skip


def packed(folder: Path, found: list[np.ndarray], row: int, steps: int, attention: str) -> Clock:
    """The engine's steps over the packed rows."""
    engine, rows, clock = made(folder, row, attention), packed_rows(found, row), Clock()
    clock.start()
    for step in range(steps):
        mine = rows[step * len(rows) // steps : (step + 1) * len(rows) // steps]
        engine.step([[each] for each in mine], weights_of(mine)[0], 2e-5)
    clock.stop()
    return clock


def padded(folder: Path, found: list[np.ndarray], steps: int, batch: int) -> Clock:
    """The Trainer's steps over padded batches."""
    import transformers

    real, clock = [0], Clock()

    def collate(chosen: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        longest = max(len(each["input_ids"]) for each in chosen)
        ids_BL, mask_BL = (torch.zeros(len(chosen), longest, dtype=torch.int64) for _ in range(2))
        for row, each in enumerate(chosen):
            ids_BL[row, : len(each["input_ids"])] = torch.tensor(each["input_ids"])
            mask_BL[row, : len(each["input_ids"])] = 1
        real[0] += int(mask_BL.sum())
        return {"input_ids": ids_BL, "attention_mask": mask_BL, "labels": ids_BL.masked_fill(mask_BL == 0, -100)}

    class Watched(transformers.TrainerCallback):  # type: ignore[misc]
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            clock.start()

        def on_train_end(self, *_: Any, **__: Any) -> None:
            clock.stop()

    arguments = transformers.TrainingArguments(
        output_dir="unused", per_device_train_batch_size=batch, num_train_epochs=1, learning_rate=2e-5, use_cpu=True,
        gradient_accumulation_steps=-(-len(found) // (batch * steps)), save_strategy="no", logging_strategy="no",
        report_to=[], disable_tqdm=True,
    )  # fmt: skip
    trainer = transformers.Trainer(
        model=load(folder), args=arguments, train_dataset=[{"input_ids": ids.tolist()} for ids in found],
        data_collator=collate, callbacks=[Watched()],
    )  # fmt: skip
    trainer.train()
    assert trainer.state.global_step == steps
    assert real[0] == sum(map(len, found)), "not every document was trained on once"
    return clock


def one(way: str, arguments: argparse.Namespace, case: str) -> dict[str, Any]:
    """One way on one model, in this process."""
    row, rows, steps, _ = CASES[case]
    torch.set_num_threads(arguments.threads)
    folder = names.locate(case)
    found = documents(books(arguments.books, arguments.work), folder, row, rows)
    if way == "losses":
        return losses(folder, found, row)
    kind, _, rest = way.partition(", ")
    if kind == "padded":
        clock = padded(folder, found, steps, int(rest))
    else:
        clock = packed(folder, found, row, steps, rest or DOCUMENTS)
    return clock.facts(sum(map(len, found)))


def case_of(case: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """All ways on one model, in turn, each in a process of its own."""
    row, rows, steps, batches = CASES[case]
    ways = ["packed", "packed, sdpa", *(f"padded, {batch}" for batch in batches)]

    def run(way: str) -> dict[str, Any]:
        command = [sys.executable, __file__, str(arguments.books), "--work", str(arguments.work)]
        command += ["--threads", str(arguments.threads), "--way", way, "--models", case]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])  # the Trainer prints before
        with journal.open("a", encoding="utf-8") as file:
            file.write(json.dumps([case, way, found]) + "\n")
        return found

    journal = arguments.work / "runs.jsonl"
    journal.touch()
    done = [json.loads(line) for line in journal.read_text(encoding="utf-8").splitlines()]
    runs = {way: [each[2] for each in done if each[:2] == [case, way]] for way in [*ways, "losses"]}
    loss = (runs.pop("losses") or [run("losses")])[0]
    for number in range(arguments.repeats):
        for way in ways:
            if len(runs[way]) <= number:
                runs[way].append(run(way))
    keys = ("tokens_per_second", "tokens_per_cpu_second", "peak_gib", "above_gib")
    medians = {way: {key: statistics.median(each[key] for each in runs[way]) for key in keys} for way in ways}
    lengths = [len(each) for each in documents(books(arguments.books, arguments.work), names.locate(case), row, rows)]
    ours = medians["packed"]
    against = {way: {key: ours[key] / medians[way][key] for key in keys} for way in ways[1:]}
    return {
        "row": row, "steps": steps, "documents": len(lengths), "tokens": sum(lengths),
        "length": {"median": statistics.median(lengths), "shortest": min(lengths), "longest": max(lengths)},
        "losses": loss, "medians": medians, "packed_over": against, "runs": runs,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("books", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--models", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--way", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    if arguments.way:
        print(json.dumps(one(arguments.way, arguments, arguments.models[0])))
        return
    facts = {"machine": machine.facts(), "threads": arguments.threads, "repeats": arguments.repeats,
             "cases": {case: case_of(case, arguments) for case in arguments.models}}  # fmt: skip
    text = json.dumps(facts, indent=1)
    print(text)
    if arguments.json:
        arguments.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
