"""Tokenizers that would spoil a run are refused before data is made or a model is loaded: one line, code 2."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lm_eval.api.instance import Instance
from transformers import AutoTokenizer

from lr2eval.errors import CheckpointError, UsageError
from lr2eval.model.checkpoint import Checkpoint
from lr2eval.model.tokenizer import PromptTokenizer
from lr2eval.runs import prepare as preparing
from lr2eval.runs.backend import load_backend
from lr2eval.runs.config import RunConfig
from lr2eval.runs.prepare import prepare, prepare_pair
from tests.tiny_models import save_checkpoint, tiny_model
from tests.tokenizer_files import (
    CHATML,
    NEEDS_SYSTEM,
    NO_ASSISTANT,
    with_added,
    with_config,
    with_specials,
    with_text,
)

Change = Callable[[Path], None]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("sound") / "model", tiny_model("llama"))


@pytest.fixture
def folder(sound: Path, tmp_path: Path) -> Path:
    """A copy that the test may damage."""
    return Path(shutil.copytree(sound, tmp_path / "model"))


def with_vocabulary(size: Any, inside: str | None = None) -> Change:
    """What config.json says of the embedding."""

    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        if inside:
            text = {"vocab_size": size, "max_position_embeddings": config["max_position_embeddings"]}
            config = {"model_type": "gemma3", inside: {"model_type": "gemma3_text", **text}}
        else:
            config["vocab_size"] = size
        (folder / "config.json").write_text(json.dumps(config))

    return change


def both(*changes: Change) -> Change:
    def change(folder: Path) -> None:
        for each in changes:
            each(folder)

    return change


CASES: dict[str, tuple[Change, str]] = {
    "EOS after every text": (
        with_specials(after=["<eos>"]),
        "the tokenizer adds '<eos>' (id 0) after every text, so a model cannot continue a prompt; take it out of the "
        "post_processor in tokenizer.json",
    ),
    "another token after every text": (with_specials(before=["<eos>"], after=["<pad>", "<eos>"]), "adds '<pad>'"),
    "padding beyond the embedding": (
        both(with_added("[PAD]", pad_token="[PAD]"), with_vocabulary(312)),
        "the padding token '[PAD]' (id 312) is beyond the model's 312 tokens (vocab_size in config.json); set",
    ),
    "padding that has to be added": (
        both(with_config(pad_token=None, eos_token=None), with_vocabulary(312)),
        "the padding token with the id 312 is beyond",
    ),
    "BOS beyond the embedding": (
        both(with_added("<s>", bos_token="<s>"), with_specials(before=["<s>"]), with_vocabulary(312)),
        "a prompt has the token '<s>' (id 312), but the model has 312 tokens",
    ),
    "the tokenizer of a larger model": (with_vocabulary(311), "the tokenizer has 312 tokens, but the model has 311"),
    "a text model inside": (with_vocabulary(100, "text_config"), "the tokenizer has 312 tokens, but the model has 100"),
    "model_max_length empty": (with_config(model_max_length=""), "model_max_length in tokenizer_config.json is ''"),
    "model_max_length list": (with_config(model_max_length=[4096]), "is [4096]; give a number of tokens, or remove it"),
    "model_max_length NaN": (with_config(model_max_length=float("nan")), "is nan; give a number"),
    "model_max_length true": (with_config(model_max_length=True), "is True; give a number"),
    "bos_token number": (with_config(bos_token=5), "the tokenizer does not load (TypeError: "),
    "tokenizer_class number": (with_config(tokenizer_class=5), "the tokenizer does not load ("),
    "added_tokens_decoder list": (with_config(added_tokens_decoder=[1]), "the tokenizer does not load ("),
    "chat_template list": (with_config(chat_template=[5]), "the tokenizer does not load ("),
    "tokenizer.json truncated": (with_text("tokenizer.json", '{"version": "1.0'), "the tokenizer does not load ("),
    "tokenizer.json empty": (with_text("tokenizer.json", "{}"), "does not load (KeyError: 'added_tokens')"),
    "tokenizer_config.json list": (with_text("tokenizer_config.json", "[]"), "the tokenizer does not load ("),
}  # fmt: skip
CHATS: dict[str, tuple[Change, str]] = {
    "syntax": (with_config(chat_template="{% for %}"), "the chat template fails (Expected an expression"),
    "undefined": (with_config(chat_template="{{ whose.name }}"), "the chat template fails ('whose' is undefined)"),
    "number": (with_config(chat_template=5), "the chat template fails (chat_template is 5, not a text)"),
    "system": (with_config(chat_template=NEEDS_SYSTEM + CHATML), "add --set chat_system='You are a helpful"),
    "token beyond the embedding": (
        both(with_added("<|user|>", chat_template=CHATML), with_vocabulary(312)),
        "a prompt has the token '<|user|>' (id 312), but the model has 312 tokens",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", [*CASES, *CHATS])
def test_a_run_is_refused_before_it_starts(
    case: str, folder: Path, lr2eval: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    change, message = {**CASES, **CHATS}[case]
    change(folder)
    monkeypatch.setattr(preparing, "make_shards", lambda *_: pytest.fail("data was made"))
    chat = ["--chat"] if case in CHATS else []
    done = lr2eval("run", "--model", folder, "--tasks", "ruler:niah_single_1", "--offline", "--device", "cpu", *chat)
    assert done.code == 2
    assert message in done.error
    assert done.error.startswith(f"{folder}: ")


@pytest.mark.parametrize(
    "change",
    [
        both(with_added("<image>"), with_vocabulary(312)),
        both(with_added("<s>", bos_token="<s>"), with_vocabulary(312)),
        with_vocabulary(100_000),
        with_config(model_max_length=10**30),
        with_config(tokenizer_class="NoSuchTokenizer"),
        with_config(chat_template="{% for %}"),
    ],
)
def test_what_no_prompt_needs_stops_nothing(change: Change, folder: Path) -> None:
    change(folder)
    assert len(PromptTokenizer.load(folder).encode("river stone")) == 2


def test_a_text_with_a_token_beyond_the_embedding_is_refused(folder: Path) -> None:
    both(with_added("<image>"), with_vocabulary(312))(folder)
    prompts = PromptTokenizer.load(folder)
    for encode in (prompts.encode, prompts.encode_rendered, prompts.count_prompt):
        with pytest.raises(
            CheckpointError, match=r"a prompt has the token '<image>' \(id 312\), but the model has 312"
        ):
            encode("river <image> stone")


def test_the_baseline_is_checked_first(sound: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_specials(after=["<eos>"])(folder)
    monkeypatch.setattr(preparing, "make_shards", lambda *_: pytest.fail("data was made"))
    config = RunConfig(model=sound, baseline=folder, tasks="ruler:niah_single_1", device="cpu", lengths=(256,))
    with pytest.raises(CheckpointError, match="after every text"):
        prepare_pair(config, print)


def test_examples_of_few_shot_tasks_need_a_template_for_them(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_config(chat_template=NO_ASSISTANT + CHATML)(folder)
    shards: list[Any] = []
    monkeypatch.setattr(preparing, "make_shards", lambda *_: (tuple(shards), (), {}))
    config = RunConfig(model=folder, tasks="mmlu", device="cpu", chat=True)

    class Few:
        id, data_hash, chat, data = "mmlu/a", "", True, {"shots": 5}

    assert prepare(config, print).tokenizer.appends
    shards.append(Few)
    with pytest.raises(CheckpointError, match=r"the chat template fails \(an assistant\)"):
        prepare(config, print)
    Few.chat = False
    prepare(config, print)


def test_the_date_belongs_to_a_run_whose_template_prints_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preparing, "make_shards", lambda *_: ((), (), {}))

    def settings(**options: Any) -> dict[str, Any]:
        return prepare(RunConfig(model=folder, tasks="mmlu", device="cpu", **options), print).settings

    with_config(chat_template=CHATML)(folder)
    assert settings(chat=True) == settings(chat=True, chat_date="2031-02-03")
    with_config(chat_template="{{ strftime_now('%Y') }}" + CHATML)(folder)
    usual, other = settings(chat=True), settings(chat=True, chat_date="2031-02-03")
    assert (usual["config"]["chat_date"], other["config"]["chat_date"]) == ("2024-07-26", "2031-02-03")
    assert usual["tokenizer"] != other["tokenizer"]
    assert settings() == settings(chat_date="2031-02-03")
    assert "chat_date" not in settings()["config"]
    for wrong in ("tomorrow", "2031-02-30", 2031, "2031", [1], None):
        with pytest.raises(UsageError, match=r"^chat_date.*: must be a date such as 2025-01-31$"):
            RunConfig(model="m", tasks="mmlu", chat_date=wrong)


@pytest.mark.parametrize("bos", ["", "<s>"])
def test_the_model_reads_the_ids_of_transformers(folder: Path, bos: str) -> None:
    """Chats have the template's BOS alone; texts of tasks that are never chats keep that of the tokenizer."""
    with_added("<s>", bos_token="<s>", chat_template=bos + CHATML)(folder)
    with_specials(before=["<s>"])(folder)
    stock = AutoTokenizer.from_pretrained(folder)
    lm = load_backend(Checkpoint.open(folder), RunConfig(model=folder, tasks="mmlu", device="cpu", chat=True))
    question = [{"role": "user", "content": "river stone"}]
    text = lm.apply_chat_template(question)
    expected = stock.apply_chat_template(question, add_generation_prompt=True, return_dict=False)
    assert (expected[0] == 312) == bool(bos)
    lm.expect(chat=True)
    [row] = lm._rows([Instance("generate_until", {}, (text, {"until": [], "max_gen_toks": 4}), 0)])
    assert row.prompt == expected
    [(context, choice)] = lm._pairs([Instance("loglikelihood", {}, (text, " lamp"), 0)])
    assert context + choice == stock.encode(text + " lamp", add_special_tokens=False)
    lm.expect(chat=False)
    assert lm._prompt("river stone") == stock.encode("river stone") == [312, *stock.encode("river stone")[1:]]
    assert lm.prefix_token_id == 312


def test_a_text_without_context_needs_a_first_token(folder: Path) -> None:
    with_config(eos_token=None)(folder)
    lm = load_backend(Checkpoint.open(folder), RunConfig(model=folder, tasks="mmlu", device="cpu"))
    assert lm._pairs([Instance("loglikelihood", {}, ("river", " stone"), 0)])
    with pytest.raises(CheckpointError, match=r"neither BOS nor EOS.*set bos_token in tokenizer_config\.json"):
        lm._pairs([Instance("loglikelihood", {}, ("", "stone"), 0)])
