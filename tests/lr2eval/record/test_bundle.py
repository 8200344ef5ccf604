"""Bundles: gathered from local files and from the hub, checked, shown, and enough for a run without any network."""

from __future__ import annotations

import hashlib
import json
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from lr2eval.benchmark import TaskInfo
from lr2eval.errors import UsageError
from lr2eval.record.bundle import check, how_to_get
from lr2eval.registry import data_needs
from tests.tiny_models import tiny_model

Run = Callable[..., Any]
CPU = ("--dtype", "float32", "--device", "cpu")
WINDOW = 8192
PREPARE = ("data", "prepare", "--offline", "--tasks")
SUBJECTS = ("anatomy", "sociology")


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, lr2eval: Run) -> Iterator[list[str]]:
    """Empty caches and no network: every attempt fails and is noted."""
    tried: list[str] = []

    def refuse(*arguments: Any, **_: Any) -> Any:
        tried.append(repr(arguments))
        raise OSError(101, "Network is unreachable")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    for name in ("getaddrinfo", "create_connection", "gethostbyname"):
        monkeypatch.setattr(socket, name, refuse)
    monkeypatch.setenv("LR2EVAL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "hf")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hf"))
    yield tried
    assert tried == []


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data folder with two subjects of MMLU, one data set of LongBench, and GSM8K."""
    folder = tmp_path / "data"
    for split in ("test", "dev"):
        (folder / "mmlu" / split).mkdir(parents=True)
        for subject in SUBJECTS:
            text = "".join(f"{split} {n}?,a,b,c,d,A\n" for n in range(5))
            (folder / "mmlu" / split / f"{subject}_{split}.csv").write_text(text)
    (folder / "longbench").mkdir()
    row = {"input": "Type:", "context": "Question: 1 ?\nType: Date", "answers": ["Date"], "all_classes": ["Date"]}
    (folder / "longbench" / "trec.jsonl").write_text(json.dumps(row) + "\n")
    (folder / "gsm8k").mkdir()
    for split, count in (("test", 2), ("train", 6)):
        rows = [{"question": f"{split} {n}?", "answer": f"So.\n#### {n}"} for n in range(count)]
        (folder / "gsm8k" / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def reader(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random model with a window of 8k tokens that are longer than a byte."""
    torch.set_num_threads(1)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=4000,
        special_tokens=["<eos>", "<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([(shared_data / "README.md").read_text()], trainer)
    folder = tmp_path_factory.mktemp("reader")
    model = tiny_model("llama", rope={"rope_type": "default", "rope_theta": 10_000.0})
    model.resize_token_embeddings(tokenizer.get_vocab_size())
    model.config.max_position_embeddings = WINDOW
    model.save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<pad>").save_pretrained(folder)
    return folder


SETS = ("trec", "hotpotqa", "passage_retrieval_zh", "lcc")
TASKS = ",".join(["ruler,niah,mmlu:anatomy,mmlu:sociology", *(f"longbench:{name}" for name in SETS)])


@pytest.mark.shared_data
def test_a_full_bundle_is_all_a_run_needs(
    shared_data: Path, reader: Path, tmp_path: Path, lr2eval: Run, nowhere: list[str]
) -> None:
    """Sockets blocked, caches empty. MMLU and LongBench in parts, for time; the bundle holds all that they are."""
    bundle, run = tmp_path / "bundle", tmp_path / "run"
    made = lr2eval(*PREPARE, "ruler,niah,mmlu,longbench", "--data-dir", shared_data, "--out", bundle)
    assert made.code == 0, made.err
    done = lr2eval("run", "--model", reader, "--tasks", TASKS, "--lengths", "4k", *CPU, "--limit", "1",
                   "--truncation", "middle", "--set", "niah.samples_per_cell=1", "--offline", "--data-dir", bundle,
                   "--out", run)  # fmt: skip
    assert done.code == 0, done.err
    results = json.loads((run / "results.json").read_text())
    assert all(shard["n"] == 1 for shard in results["shards"])
    ran = [shard["benchmark"] for shard in results["shards"]]
    assert {name: ran.count(name) for name in ran} == {"ruler": 13, "niah": 3, "mmlu": 2, "longbench": 4}
    assert (results["complete"], results["not_run"]) == (True, [])


def test_a_partial_bundle_names_what_is_missing(
    data: Path, toy_checkpoint: Path, tmp_path: Path, lr2eval: Run, nowhere: list[str]
) -> None:
    bundle, run = tmp_path / "bundle", tmp_path / "run"
    assert lr2eval(*PREPARE, "mmlu:anatomy,longbench:trec", "--data-dir", data, "--out", bundle).code == 0
    asked = ("run", "--model", toy_checkpoint, *CPU, "--lengths", "1k", "--offline", "--data-dir", bundle, "--out", run,
             "--truncation", "middle", "--tasks")  # fmt: skip
    refused = lr2eval(*asked, "niah,ruler:fwe,mmlu,longbench:trec,longbench:lcc,short:gsm8k")
    assert refused.code == 2
    assert not run.exists()
    line = refused.error
    assert "essays: no paul_graham/PaulGrahamEssays.zip under" in line
    assert "mmlu: no data for abstract_algebra, astronomy, " in line
    assert "anatomy_" not in line
    assert "no longbench/lcc.jsonl under" in line
    assert "trec" not in line
    assert "no gsm8k/test.jsonl under" in line
    assert "no gsm8k/train.jsonl under" in line
    assert "data prepare --tasks niah,mmlu,longbench:lcc,short:gsm8k --out DIR" in line
    done = lr2eval(*asked, "mmlu:anatomy,longbench:trec")
    assert done.code == 0, done.err
    done = lr2eval(*asked[:-2], "error", "--tasks", "niah,mmlu:anatomy", "--set", "missing_data=skip", "--dry-run")
    assert done.code == 0, done.err
    assert "not run: niah: missing data: " in done.err


def test_the_manifest_tells_everything(data: Path, tmp_path: Path, lr2eval: Run) -> None:
    bundle = tmp_path / "new" / "bundle"
    done = lr2eval(
        *PREPARE, "mmlu:anatomy,mmlu:sociology,niah,longbench:trec,short:gsm8k", "--data-dir", data, "--out", bundle
    )
    assert done.code == 2
    assert "has 4 of the 5 data sets; missing: essays (" in done.error
    made = json.loads((bundle / "bundle.json").read_text())["data_sets"]
    assert list(made) == ["mmlu", "longbench/trec", "gsm8k/test", "gsm8k/train"]
    listed = {name: facts for each in made.values() for name, facts in each["files"].items()}
    there = {path.relative_to(bundle).as_posix(): path for path in bundle.rglob("*") if path.is_file()}
    assert set(there) == {*listed, "bundle.json"}
    assert set(listed) == {
        *(f"mmlu/{split}/{s}_{split}.csv" for split in ("test", "dev") for s in SUBJECTS),
        "longbench/trec.jsonl",
        "gsm8k/test.jsonl",
        "gsm8k/train.jsonl",
    }
    for name, facts in listed.items():
        content = there[name].read_bytes()
        assert facts == {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
        assert content == (data / name).read_bytes()
    assert made["gsm8k/test"]["licence"] == "MIT"
    assert made["gsm8k/test"]["source"] == "test.jsonl"
    assert made["mmlu"]["read_by"] == ["mmlu", "short"]
    shown = lr2eval("data", "show", bundle, "--json")
    assert shown.code == 0
    told = json.loads(shown.out)["data_sets"]
    assert {name: (each["whole"], each["licence"]) for name, each in told.items()} == {
        name: (True, each["licence"]) for name, each in made.items()
    }
    assert told["longbench/trec"]["bytes"] == len(there["longbench/trec.jsonl"].read_bytes())
    text = lr2eval("data", "show", bundle).out
    assert "licence of mmlu, gsm8k/test, gsm8k/train: MIT" in text
    assert "longbench/trec" in text


def test_the_same_command_goes_on(data: Path, tmp_path: Path, lr2eval: Run) -> None:
    """What is whole is kept, what is damaged or was not to be had is gathered, and what a kill left does not matter."""
    bundle = tmp_path / "bundle"
    command = (*PREPARE, "mmlu:anatomy,longbench:trec,longbench:lcc", "--data-dir", data, "--out", bundle)
    assert lr2eval(*command).code == 2
    shutil.copy(data / "longbench" / "trec.jsonl", data / "longbench" / "lcc.jsonl")
    (bundle / ".mmlu.1.tmp").write_text("left by a killed command")
    before = (bundle / "longbench" / "trec.jsonl").stat().st_mtime_ns
    (bundle / "mmlu" / "dev" / "anatomy_dev.csv").write_text("damaged")
    done = lr2eval(*command)
    assert done.code == 0, done.err
    assert done.out.splitlines()[1] == "longbench/trec: kept"
    assert done.out.splitlines()[0].startswith("mmlu: ")
    assert done.out.splitlines()[-1] == str(bundle)
    assert (bundle / "longbench" / "trec.jsonl").stat().st_mtime_ns == before
    again = lr2eval(*command).out.splitlines()
    assert again[:3] == ["mmlu: kept", "longbench/trec: kept", "longbench/lcc: kept"]
    # A subject that nobody asked for so far.
    wider = lr2eval(*PREPARE, "mmlu:astronomy", "--data-dir", data, "--out", bundle)
    assert wider.code == 2
    assert "missing: mmlu (mmlu: " in wider.error
    assert "astronomy_test.csv cannot be read" in wider.error


@pytest.mark.parametrize("harm", ["changed", "lost"])
def test_a_wrong_file_stops_the_run(harm: str, data: Path, toy_checkpoint: Path, tmp_path: Path, lr2eval: Run) -> None:
    bundle, run = tmp_path / "bundle", tmp_path / "run"
    assert lr2eval(*PREPARE, "mmlu:anatomy,longbench:trec", "--data-dir", data, "--out", bundle).code == 0
    path = bundle / "longbench" / "trec.jsonl"
    path.write_text(path.read_text() + "\n") if harm == "changed" else path.unlink()
    asked = ("run", "--model", toy_checkpoint, *CPU, "--lengths", "1k", "--truncation", "middle", "--offline",
             "--data-dir", bundle, "--out", run, "--dry-run", "--tasks")  # fmt: skip
    refused = lr2eval(*asked, "mmlu:anatomy,longbench:trec")
    assert refused.code == 2
    assert f"{path}: " in refused.error
    assert ("damaged or changed" if harm == "changed" else "cannot be read") in refused.error
    assert f"get it again: lr2eval data prepare --tasks longbench:trec --out {bundle}" in refused.error
    assert lr2eval(*asked, "mmlu:anatomy").code == 0  # what it does hold still runs
    shown = lr2eval("data", "show", bundle)
    assert (shown.code, "damaged" in shown.out) == (2, True)
    assert lr2eval(*PREPARE, "longbench:trec", "--data-dir", data, "--out", bundle).code == 0
    assert lr2eval(*asked, "mmlu:anatomy,longbench:trec").code == 0


def test_malformed_data_goes_into_no_bundle(data: Path, tmp_path: Path, lr2eval: Run) -> None:
    path = data / "gsm8k" / "test.jsonl"
    path.write_text(path.read_text() + '{"question": "q", "answer": "no number"}\n')
    done = lr2eval(*PREPARE, "short:gsm8k", "--data-dir", data, "--out", tmp_path / "bundle")
    assert done.code == 2
    assert f"{path}, line 3, field answer" in done.error
    assert not (tmp_path / "bundle" / "gsm8k").exists()


class Strange:
    """A plug-in that does not state its data sets."""

    name, version = "strange", "1"
    headline: Literal["tasks"] = "tasks"

    def __init__(self, needs: str) -> None:
        self._needs = needs

    def tasks(self) -> list[TaskInfo]:
        return [TaskInfo("one", self.name, "a task", self._needs)]

    def select(self, selector: str | None) -> list[str]:
        return ["one"]

    def prepare(self, tasks: Any, context: Any) -> list[Any]:
        return []


PLUGIN = """
from lr2eval import DataNeed, TaskInfo


class Texts(DataNeed):
    def local(self, data_dir):
        return [(f"riddles/{path.name}", path) for path in data_dir.glob("riddles/all.txt")]

    def fetch(self, offline):
        return [("riddles/all.txt", b"from the hub")]

    def check(self, data_dir):
        (data_dir / "riddles" / "all.txt").read_text()


NEED = Texts(
    name="riddles", tasks="riddles", read_by=("riddles",), licence="CC0", hub="me/riddles", file="riddles/all.txt"
)


class Riddles:
    name, version, headline = "riddles", "1", "tasks"

    def tasks(self):
        return [TaskInfo("all", "riddles", "every riddle", needs=NEED.needs)]

    def select(self, selector):
        return ["all"]

    def prepare(self, tasks, context):
        raise NEED.missing("no file")

    def data_needs(self, tasks):
        return [NEED]


RIDDLES = Riddles()
"""


def test_a_plugin_states_its_data(install: Callable[..., None], tmp_path: Path, lr2eval: Run) -> None:
    """The same statement serves the list of tasks, the error of a run, and a bundle."""
    install("strange_riddles", PLUGIN, "riddles = strange_riddles:RIDDLES")
    assert (
        "riddles: 1 task; needs riddles/all.txt under --data-dir, or the hub data set me/riddles"
        in lr2eval("tasks").out
    )
    refused = lr2eval("run", "--model", "demo", "--tasks", "riddles", "--out", tmp_path / "run", "--offline")
    assert refused.code == 2
    assert "riddles: no file; add --data-dir DIR with DIR/riddles/all.txt, or connect once so that it" in refused.error
    assert "lr2eval data prepare --tasks riddles --out DIR" in refused.error
    for data_dir, source in ((None, "hub:me/riddles"), (tmp_path / "data", "all.txt")):
        if data_dir:
            (data_dir / "riddles").mkdir(parents=True)
            (data_dir / "riddles" / "all.txt").write_text("a file")
        bundle = tmp_path / f"bundle {source}".replace("/", " ")
        more = ("--data-dir", data_dir) if data_dir else ()
        assert lr2eval(*PREPARE, "riddles", *more, "--out", bundle).code == 0
        assert json.loads((bundle / "bundle.json").read_text())["data_sets"]["riddles"]["source"] == source
        assert (bundle / "riddles" / "all.txt").read_text() == ("a file" if data_dir else "from the hub")


def test_bad_input(data: Path, tmp_path: Path, lr2eval: Run) -> None:
    def error(*arguments: object) -> str:
        done = lr2eval("data", *arguments)
        assert done.code == 2
        return str(done.error)

    out = ("--out", tmp_path / "bundle")
    assert "did you mean 'anatomy'" in error("prepare", "--tasks", "mmlu:anatomi", *out)
    with pytest.raises(UsageError, match=r"strange:one: strange does not state what data it reads.*HF_HOME"):
        data_needs(Strange("a file of its own"), ["one"])
    assert data_needs(Strange("nothing"), ["one"]) == []
    assert lr2eval(*PREPARE, "facts", *out).out.splitlines() == [str(out[1])]  # it reads nothing
    assert "no such folder" in error("prepare", "--tasks", "mmlu", *out, "--data-dir", tmp_path / "none")
    assert "holds gsm8k and is not a bundle" in error("prepare", "--tasks", "mmlu", "--out", data)
    assert f"{data}: has no bundle.json; make a bundle with" in error("show", data)
    assert "no such folder" in error("show", tmp_path / "none")
    for text, says in (
        ("{", "bundle.json: not valid JSON"),
        ('{"version": 2}', "damaged at version (must be 1); it is not a bundle that this version"),
    ):
        (data / "bundle.json").write_text(text)
        assert says in error("show", data)


def test_a_manifest_cannot_point_elsewhere(tmp_path: Path) -> None:
    facts = {"licence": "", "source": "", "tasks": "mmlu", "read_by": ["mmlu"], "made_with": "1"}
    for name in ("../secret", "/etc/passwd", "a\\..\\b"):
        files = {name: {"sha256": "0", "bytes": 1}}
        (tmp_path / "bundle.json").write_text(json.dumps({"data_sets": {"x": {**facts, "files": files}}}))
        with pytest.raises(UsageError, match="points outside the folder"):
            check(tmp_path, ["mmlu"])


def test_no_command_is_offered_for_tasks_of_lm_eval() -> None:
    assert how_to_get(["lm_eval:arc_easy"]) == ""
    assert "--tasks mmlu,niah --out" in how_to_get(["mmlu:a", "lm_eval:x", "niah"]).replace("mmlu:a", "mmlu")
    assert "--tasks mmlu --out" in how_to_get([f"mmlu:{n}" for n in range(9)])


def test_from_the_hub(tmp_path: Path, lr2eval: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of the hub become files that a run reads as it reads the published ones."""
    from lr2eval.tasks.haystacks import load as haystack
    from lr2eval.tasks.longbench import source as longbench
    from lr2eval.tasks.mmlu.source import read as mmlu
    from lr2eval.tasks.ruler import questions
    from lr2eval.tasks.short import source as short

    essays = [{"text": "One essay.\nTwo lines."}, {"text": "Another."}]
    choice = {"question": 'Why, "so"?\nTell', "choices": ["a", "b,c", "c", "d"], "answer": 2}
    squad = {"title": "T", "context": "Ada was born.", "question": "Who?", "answers": {"text": ["Ada"]}}
    hotpot = {"question": "Where?", "answer": "Rome", "context": {"title": ["T"], "sentences": [["It is Rome."]]}}
    trec = {"question": "Type:", "context": "x\u2028y", "answers": ["Date"], "length": 3, "all_classes": ["Date"]}
    targets = {"choices": ["yes", "no"], "labels": [1, 0]}
    known: dict[str, Any] = {
        "baber/paul_graham_essays": essays,
        "cais/mmlu": [choice],
        "rajpurkar/squad_v2": [squad],
        "hotpotqa/hotpot_qa": [hotpot],
        "Xnhyacinth/LongBench": [trec],
        "truthfulqa/truthful_qa": [{"question": "Is it?", "mc1_targets": targets, "mc2_targets": targets}],
    }

    def load(dataset: str, name: str | None = None, *, split: str) -> Any:
        found = known[dataset]
        return [{**row, "subject": name} for row in found] if dataset == "cais/mmlu" else found

    monkeypatch.setattr("datasets.load_dataset", load)
    bundle = tmp_path / "bundle"
    done = lr2eval(*PREPARE, "ruler,mmlu,longbench:trec,short:truthfulqa", "--out", bundle)
    assert done.code == 0, done.err
    assert "B from hub:rajpurkar/squad_v2\n" in done.out
    monkeypatch.setattr("datasets.load_dataset", None)
    assert haystack("essays", bundle, True).words == ("One", "essay.", "Two", "lines.", "Another.")
    assert haystack("essays", bundle, True).comparable
    source = mmlu(bundle, offline=True)
    assert source.rows("anatomy", "dev") == [{**choice, "subject": "anatomy"}]
    (asked,) = questions.load("squad", None, bundle).items
    assert (asked.text, asked.answers) == ("Who?", ("Ada",))
    assert questions.load("hotpotqa", None, bundle).documents == ("T\nIt is Rome.",)
    _, (item,) = longbench.rows_of("trec", extended=False).read(bundle, offline=True)
    assert (item.context, item.question) == ("x\u2028y", "Type:")
    assert short.rows_of("truthfulqa", "validation").read(bundle, offline=True)[1][0]["mc2_targets"] == targets
