"""Small, good examples of every kind of file that lr2eval reads. All of it is made here; nothing comes from outside."""

from __future__ import annotations

import csv
import gzip
import io
import json
import random
import shutil
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .process import Forked

WINDOW, TARGET = 2048, 4096
QUIET = ("--device", "cpu", "--dtype", "float32", "--offline")
SUBJECT = "abstract_algebra"
RULER = "ruler:niah_single_1"
_WORDS = (
    "river", "stone", "lamp", "garden", "winter", "copper", "signal", "harbour", "quiet", "yellow", "seven",
    "market", "paper", "window", "story", "bridge", "corner", "music", "letter", "summer", "engine", "silver",
    "forest", "number", "island", "people", "morning", "answer", "kitchen", "travel",
)  # fmt: skip

RECIPE = """\
name = "campaign"
original_window = 128
target_window = 256
short_tokens = 1024
long_tokens = 1024
global_batch = 2
micro_batch = 1
epochs = 1
steps = 4
dtype = "float32"
gradient_checkpointing = false
seed = 3

[optimizer]
learning_rate = 1e-3
warmup_steps = 2
betas = [0.9, 0.95]

[evaluation]
every = 2

[saving]
every = 1
keep = 2

[data]
tokens = 4096
seed = 1
buckets = [{ up_to = 128, share = 0.5 }, { share = 0.5 }]

[[data.sources]]
name = "texts"
path = "documents/texts.jsonl"

[hardware]
gpus = 1
tflops = 100.0
"""
RUN = f"""\
model = "model"
tasks = ["{RULER}", "facts"]
lengths = [1024, "2k"]
samples-per-task = 2
limit = 4
seed = 0
dtype = "float32"
device = "cpu"
batch-size = 2
truncation = "error"
offline = true
missing_data = "error"
beyond_window = false

[ruler]
haystack = "haystack/text.txt"

[generation]
repetition_penalty = 1.0
"""
GATE = """\
confidence = 0.9
min_retention = 0.01
tasks = ["ruler"]
baseline = "../baseline.json"

[checks.ruler]
margin = 90.0

[weights.ruler]
niah_single_1 = 1.0
"""
EXTEND = """\
model = "small"
target_length = 256

[search]
haystack = "haystack/text.txt"
samples = 2
splits = [4]

[data]
sources = [{ name = "texts", path = "documents/texts.jsonl" }]

[training]
name = "campaign"
global_batch = 2

[evaluation]
tasks = ["facts"]
"""
CHAT = (
    "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


def sentences(seed: int, count: int) -> str:
    """As many sentences of common words."""
    rng = random.Random(seed)
    return " ".join(" ".join(rng.choices(_WORDS, k=rng.randint(5, 12))).capitalize() + "." for _ in range(count))


def write(path: Path, content: str | bytes) -> None:
    """A file in folders that may not be there yet."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def lines(rows: Sequence[Mapping[str, Any]]) -> str:
    """JSON Lines."""
    return "".join(json.dumps(row) + "\n" for row in rows)


def zipped(members: Mapping[str, str]) -> bytes:
    """A zip file, compressed, with a fixed date."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in members.items():
            archive.writestr(zipfile.ZipInfo(name), text, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def models(home: Path) -> None:
    """``model`` (window 2,048), ``small`` (window 128, to train and to search), ``sharded`` with all its files."""
    from transformers import AutoModelForCausalLM

    from benchmarks import make_toy_model

    make_toy_model.main(home / "model")
    for name, window in (("model", WINDOW), ("small", 128), ("sharded", WINDOW)):
        if name != "model":
            shutil.copytree(home / "model", home / name)
        config = json.loads((home / name / "config.json").read_text())
        write(home / name / "config.json", json.dumps({**config, "max_position_embeddings": window}, indent=1))
    sharded = home / "sharded"
    model = AutoModelForCausalLM.from_pretrained(home / "model")
    model.model.norm.weight.data *= 1.0001  # another fingerprint: a model is not to be compared with itself
    (sharded / "model.safetensors").unlink()
    model.save_pretrained(sharded, max_shard_size="60KB")
    config = json.loads((sharded / "config.json").read_text())
    write(sharded / "config.json", json.dumps({**config, "max_position_embeddings": WINDOW}, indent=1))
    write(sharded / "chat_template.jinja", CHAT)
    card = {
        "made_for": {"ruler": ["niah_single_1"]},
        "lengths": [1024, 2048],
        "options": {"niah": {"depths": 3}},
    }
    write(sharded / "lr2eval.json", json.dumps(card, indent=1))


def data(home: Path) -> None:
    """Benchmark data in every layout: ``data`` plain, ``packed`` in zip and gzip files."""
    plain, packed = home / "data", home / "packed"
    question = "What is the next number"
    for split in ("test", "dev"):
        text = io.StringIO()
        rows = [[f"{question} after {n}?", "one", "two", "three", "four", "ABCD"[n % 4]] for n in range(6)]
        csv.writer(text, lineterminator="\n").writerows(rows)
        write(plain / "mmlu" / split / f"{SUBJECT}_{split}.csv", text.getvalue())
    names = [f"{split}/{SUBJECT}_{split}.csv" for split in ("test", "dev")]
    members = {name: (plain / "mmlu" / name).read_text() for name in names}
    write(packed / "mmlu" / "mmlu_test_dev.zip", zipped(members))

    trec = [
        {"input": f"Question {n}", "context": sentences(n, 6), "answers": ["Food"], "length": 60, "dataset": "trec",
         "language": "en", "all_classes": ["Food", "Date"], "_id": f"t{n}"}
        for n in range(3)
    ]  # fmt: skip
    write(plain / "longbench" / "trec.jsonl", lines(trec))
    write(packed / "longbench" / "trec.jsonl.gz", gzip.compress(lines(trec).encode(), mtime=0))
    choices = {f"choice_{letter}": f"the {word}" for letter, word in zip("ABCD", _WORDS, strict=False)}
    second = [
        {"_id": f"v{n}", "domain": "Single-Document QA", "sub_domain": "Academic", "difficulty": "easy",
         "length": "short", "question": question, **choices, "answer": "B", "context": sentences(n, 5)}
        for n in range(2)
    ]  # fmt: skip
    write(plain / "longbench_v2" / "data.json", json.dumps(second))

    texts = {f"essay{n}.txt": sentences(100 + n, 120) for n in range(3)}
    write(plain / "paul_graham" / "PaulGrahamEssays.json", json.dumps({"text": " ".join(texts.values())}))
    write(packed / "paul_graham" / "PaulGrahamEssays.zip", zipped(texts))
    for name, text in texts.items():
        write(home / "haystack" / name, text)
    write(home / "haystack" / "text.txt", " ".join(texts.values()))

    squad = {
        "version": "v2.0",
        "data": [
            {"title": f"T{n}", "paragraphs": [
                {"context": sentences(10 * n + p, 4), "qas": [
                    {"question": f"{question} in {n} {p}?", "id": f"{n}{p}", "is_impossible": False,
                     "answers": [{"text": "river", "answer_start": 0}]}]}
                for p in range(3)]}
            for n in range(3)
        ],
    }  # fmt: skip
    write(plain / "squad" / "dev-v2.0.json", json.dumps(squad))
    hotpot = [
        {"_id": f"h{n}", "question": f"{question} {n}?", "answer": "stone",
         "context": [[f"Title {n} {d}", [sentences(30 * n + d, 2)]] for d in range(4)]}
        for n in range(3)
    ]  # fmt: skip
    write(plain / "hotpotqa" / "hotpot_dev_distractor_v1.json", json.dumps(hotpot))
    swag = [
        {"ind": n, "activity_label": "Cooking", "ctx_a": "A person stands.", "ctx_b": "they", "source_id": f"s~{n}",
         "ctx": "A person stands. they", "endings": ["cook.", "run.", "sing.", "fly."], "label": n % 4}
        for n in range(4)
    ]  # fmt: skip
    write(plain / "hellaswag" / "hellaswag_val.jsonl", lines(swag))
    gsm = [{"question": f"What is {n} and {n}?", "answer": f"It is {2 * n}.\n#### {2 * n}"} for n in range(4)]
    write(plain / "gsm8k" / "test.jsonl", lines(gsm))
    truth = [
        {"question": f"{question}?", "mc1_targets": {"two": 1, "three": 0}, "mc2_targets": {"two": 1, "ten": 0}}
        for n in range(3)
    ]  # fmt: skip
    write(plain / "truthfulqa" / "mc_task.json", json.dumps(truth))
    pro = [
        {"question_id": n, "question": question, "options": ["one", "two", "three"], "answer": "B", "answer_index": 1,
         "cot_content": "A: Let us think.", "category": "math", "src": "x"}
        for n in range(3)
    ]  # fmt: skip
    write(plain / "mmlu_pro" / "test.jsonl", lines(pro))
    predictions = [
        {"pred": "Food", "answers": ["Food"], "all_classes": ["Food", "Date"], "length": 60, "_id": f"p{n}"}
        for n in range(4)
    ]  # fmt: skip
    write(home / "predictions" / "trec.jsonl", lines(predictions))


def documents(home: Path) -> None:
    """Documents to train on, in every layout."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    # 60 short ones of some 100 bytes and 12 of more than 256, which is a token each for the toy tokenizer.
    texts = [sentences(200 + n, 2 if n % 6 else 8) for n in range(72)]
    rows = [{"text": text} for text in texts]
    folder = home / "documents"
    write(folder / "texts.jsonl", lines(rows))
    write(folder / "texts.jsonl.gz", gzip.compress(lines(rows).encode(), mtime=0))
    pq.write_table(pa.table({"text": texts}), folder / "texts.parquet")
    write(folder / "texts.txt", "\n\n".join(texts))
    write(folder / "tokens.jsonl", lines([{"input_ids": [2 + n % 250] * 300, "weights": [1.0] * 300} for n in range(20)]
                                         + [{"input_ids": [2 + n % 250] * 90} for n in range(60)]))  # fmt: skip
    try:
        from compression import zstd  # type: ignore[import-not-found]  # Python 3.14
    except ImportError:
        codec = pa.Codec("zstd")
        write(folder / "texts.jsonl.zst", codec.compress(lines(rows).encode()).to_pybytes())
    else:
        write(folder / "texts.jsonl.zst", zstd.compress(lines(rows).encode()))


def settings(home: Path) -> None:
    """Configuration files and files of factors."""
    write(home / "recipe.toml", RECIPE)
    write(home / "run.toml", RUN)
    write(home / "configs" / "gate.toml", GATE)
    write(home / "extend.toml", EXTEND)
    factors = [1.0 + 0.5 * pair for pair in range(8)]
    write(home / "factors" / "plain.csv", "factor\n" + "".join(f"{each}\n" for each in factors))
    write(home / "factors" / "list.json", json.dumps({"factors": factors, "target_length": TARGET, "temperature": 1.1}))
    wording = {"needle": " The locker of {key} has {value}.", "question": "\nQuestion: Which locker has {key}?",
               "stem": "\nAnswer: {key} has", 
               "keys": [f"{a} {b}" for a in _WORDS[:8] for b in _WORDS[8:14]]}  # fmt: skip
    write(home / "wording.json", json.dumps(wording))


RUN_WORDS = ("--tasks", f"{RULER},facts", "--lengths", "1k,2k", "--samples-per-task", "2", "--limit", "4",
             "--batch-size", "2", *QUIET)  # fmt: skip
SEARCH = (
    "search", "--model", "small", "--target-length", "256", "--haystack", "haystack/text.txt", "--wording",
    "wording.json", "--splits", "2,3", "--samples", "2", "--held-out", "1", "--iterations", "2", *QUIET,
    *(f"--set={each}" for each in ("initial=6", "population=4", "parents=2", "mutations=2", "crossovers=2")),
)  # fmt: skip
MIX = ("data", "mix", "--model", "small", "--recipe", "recipe.toml", "--offline")
TRAIN = ("train", "--model", "small", "--recipe", "recipe.toml", "--factors", "search/factors.json", "--device", "cpu",
         "--offline")  # fmt: skip
BUNDLE_TASKS = f"mmlu:{SUBJECT},longbench:trec,ruler:qa_1"


WAVES: tuple[tuple[tuple[str, ...], ...], ...] = (
    (
        ("run", "--model", "model", *RUN_WORDS, "--out", "runs/original"),
        ("run", "--model", "sharded", *RUN_WORDS, "--out", "runs/extended"),
        (*SEARCH, "--out", "search"),
        (*MIX, "--out", "rows"),
    ),
    (
        ("compare", "runs/original", "runs/extended", "--out", "comparison"),
        ("baseline", "save", "runs/original", "--out", "baseline.json"),
        (*TRAIN, "--data", "rows", "--out", "training"),
        ("data", "prepare", "--tasks", BUNDLE_TASKS, "--data-dir", "data", "--out", "bundle", "--offline"),
    ),
)
"""What makes the folders that lr2eval itself writes. The commands of a wave run side by side."""


def made_by_commands(home: Path) -> None:
    """Runs, comparison, baseline, search, rows, training, bundle, cached data."""
    for wave in WAVES:
        for words, process in [(words, Forked(words, home)) for words in wave]:
            done = process.wait(600)
            if done.code:
                told = f"lr2eval {' '.join(words)} ended with {done.code}: {done.err}"
                raise SystemExit(f"the examples cannot be made: {told}")


def make(home: Path) -> None:
    """Every example, in ``home``. Raises :class:`SystemExit` if a command that makes one fails."""
    home.mkdir(parents=True)
    parts: Sequence[Callable[[Path], None]] = (models, data, documents, settings)

    def files() -> None:
        for part in parts:
            part(home)

    done = Forked((), home, call=files).wait()
    if done.code:
        raise SystemExit(f"the examples cannot be made: {done.err[-2000:]}")
    made_by_commands(home)
