"""What outside data the benchmarks read: where it lies in a data folder, how the hub's copy is written there.

``lr2eval data prepare`` makes bundles of it. Nothing here depends on a tokenizer. Licences are what the authors of the
data state; a copy on the hub may say more.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from lr2eval.errors import UsageError
from lr2eval.tasks.haystacks.load import HUB_SET, JSON_NAME, find, hub_essays, load
from lr2eval.tasks.longbench import source as longbench
from lr2eval.tasks.longbench import v2
from lr2eval.tasks.longbench.prompts import prompt
from lr2eval.tasks.mmlu import MMLU
from lr2eval.tasks.mmlu import source as mmlu
from lr2eval.tasks.mmlu.benchmark import hub as mmlu_hub
from lr2eval.tasks.ruler import questions
from lr2eval.tasks.ruler.outside import OUTSIDE
from lr2eval.tasks.short import source as short
from lr2eval.tasks.short.benchmark import COLUMNS

Files = Iterable[tuple[str, Path]]
Contents = Iterable[tuple[str, bytes]]


@dataclass(frozen=True)
class Need:
    """One data set. ``tasks`` is the least that ``--tasks`` must name to get it; ``read_by`` are benchmarks.

    ``local`` gives the files of a data folder that a run would read, with their names below ``folder``, nothing if it
    would read none; ``fetch(offline)`` the same as contents, from the hub. ``check`` reads a data folder as a run does
    and raises its errors.
    """

    name: str
    tasks: str
    read_by: tuple[str, ...]
    licence: str
    hub: str
    folder: str
    local: Callable[[Path], Files]
    fetch: Callable[[bool], Contents]
    check: Callable[[Path], object]


def needs(benchmark: str, tasks: Sequence[str]) -> list[Need]:
    """What tasks of a benchmark read. Raises :class:`UsageError` for benchmarks that are not ours."""
    match benchmark:
        case "ruler":
            sources = dict.fromkeys(OUTSIDE[task].source for task in tasks if task in OUTSIDE)
            return [_essays() if each == "essays" else _questions(each) for each in sources]
        case "niah":
            return [_essays()]
        case "mmlu":
            return [_mmlu(tasks)]
        case "longbench" | "longbench_e":
            return [_longbench(benchmark, task) for task in tasks]
        case "longbench2":
            return [_longbench2()]
        case "short":
            own = [_mmlu(MMLU.select(None))] if "mmlu" in tasks else []
            names = dict.fromkeys(COLUMNS[task].data for task in tasks if task != "mmlu")
            return own + [_short(name, split) for name in names for split in short.LAYOUTS[name].files]
    ours = "ruler, niah, mmlu, longbench, longbench_e, longbench2 and short"
    raise UsageError(
        f"{benchmark}:{tasks[0]}: the data of {ours} goes into bundles; run other tasks once with a network and take "
        "the hub's cache along ($HF_HOME)"
    )


def _files(path: Path | None) -> Files:
    return [(path.name, path)] if path else []


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()


def _jsonl(rows: Iterable[Mapping[str, Any]]) -> bytes:
    return b"".join(_json(row) + b"\n" for row in rows)


def _essays() -> Need:
    def local(data_dir: Path) -> Files:
        path = find(data_dir)
        if path is None or path.is_file():
            return _files(path)
        texts = sorted(file for file in path.rglob("*") if file.is_file())
        return [(file.relative_to(path.parent).as_posix(), file) for file in texts]

    def fetch(offline: bool) -> Contents:
        _, _, texts = hub_essays(offline, None, "ruler")
        return [(JSON_NAME, _json({"text": "\n".join(texts)}))]

    return Need(
        "essays", "niah", ("ruler", "niah"), "none: copyright Paul Graham; for your own use, do not pass on",
        HUB_SET, "paul_graham", local, fetch, lambda folder: load({}, folder, True),
    )  # fmt: skip


def _questions(name: str) -> Need:
    layout = questions.LAYOUTS[name]

    def fetch(offline: bool) -> Contents:
        return [(layout.patterns[0], _json(questions.hub_file(name, layout, offline)))]

    task = "ruler:qa_1" if name == "squad" else "ruler:qa_2"
    return Need(
        name, task, ("ruler",), "CC BY-SA 4.0", layout.hub[0], layout.folder,
        lambda data_dir: _files(questions.find(layout, data_dir)), fetch,
        lambda folder: questions.load(name, None, folder),
    )  # fmt: skip


def _mmlu(subjects: Sequence[str]) -> Need:
    """All subjects go into a bundle, they are small; ``subjects`` must be there."""

    def local(data_dir: Path) -> Files:
        path = mmlu.find(data_dir)
        if path is None or path.is_file():
            return _files(path)
        return [
            (f"{split}/{file.name}", file) for split in mmlu.SPLITS for file in sorted((path / split).glob("*.csv"))
        ]

    def fetch(offline: bool) -> Iterator[tuple[str, bytes]]:
        found = mmlu.hub_source(mmlu_hub(), offline)
        for subject in MMLU.select(None):
            for split in mmlu.SPLITS:
                text = io.StringIO()
                csv.writer(text, lineterminator="\n").writerows(
                    [row["question"], *row["choices"], mmlu.LETTERS[row["answer"]]]
                    for row in found.rows(subject, split)
                )
                yield f"{split}/{subject}_{split}.csv", text.getvalue().encode()

    def check(folder: Path) -> None:
        found = mmlu.local_source(folder) or mmlu.hub_source(mmlu_hub(), True, folder)
        for subject in subjects:
            for split in mmlu.SPLITS:
                found.rows(subject, split)

    return Need("mmlu", "mmlu", ("mmlu", "short"), "MIT", mmlu_hub(), "mmlu", local, fetch, check)


def _longbench(benchmark: str, task: str) -> Need:
    extended = benchmark == "longbench_e"
    name, hub = f"{task}_e" if extended else task, prompt(task).hub

    def fetch(offline: bool) -> Contents:
        return [(f"{name}.jsonl", _jsonl(row for _, row in longbench.hub_rows(hub, name, offline, None)))]

    return Need(
        f"longbench/{name}", f"{benchmark}:{task}", (benchmark,),
        "MIT for LongBench; its sources have terms of their own", hub, longbench.FOLDER,
        lambda data_dir: _files(longbench.find(data_dir, name)), fetch,
        partial(_read_longbench, task, extended),
    )  # fmt: skip


def _read_longbench(task: str, extended: bool, folder: Path) -> object:
    return longbench.load(task, extended=extended, hub="", data_dir=folder, offline=True)


def _longbench2() -> Need:
    def fetch(offline: bool) -> Contents:
        return [("data.jsonl", _jsonl(row for _, row in v2.read(None, offline)[1]))]

    return Need(
        "longbench_v2", "longbench2", ("longbench2",), f"see the card of {v2.HUB}; its sources have terms of their own",
        v2.HUB, v2.FOLDER, lambda data_dir: _files(v2.find(data_dir)), fetch, lambda folder: v2.load(folder, True),
    )  # fmt: skip


LICENCES = {
    "hellaswag": "MIT",
    "truthfulqa": "Apache-2.0",
    "gsm8k": "MIT",
    "mmlu_pro": "MIT",
}


def _short(name: str, split: str) -> Need:
    layout = short.LAYOUTS[name]

    def fetch(offline: bool) -> Contents:
        return [(f"{layout.files[split]}.jsonl", _jsonl(short.load(name, split, None, offline)[1]))]

    return Need(
        f"{name}/{split}", f"short:{name}", ("short",), LICENCES[name], layout.hub, name,
        lambda data_dir: _files(short.find(name, split, data_dir)), fetch,
        lambda folder: short.load(name, split, folder, True),
    )  # fmt: skip
