"""Rows that go on from a shared beginning against one forward per row by stock transformers."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from lr2eval.backends.batching import Footprint
from lr2eval.backends.hf import WindowedHFLM
from lr2eval.backends.scoring import readings
from lr2eval.errors import BackendError
from lr2eval.model.checkpoint import Checkpoint
from lr2eval.record.store import RunStore
from lr2eval.runs.recording import RecordingLM
from tests.lr2eval.backends.helpers import Load, assert_scores, choice, every_architecture, limit_forward, prompts
from tests.tiny_models import ORIGINAL, cache_free_score, save_checkpoint, text_of, tiny_model

Pair = tuple[list[int], list[int]]


def tokens(count: int, chooser: random.Random) -> list[int]:
    return [chooser.randrange(2, 300) for _ in range(count)]


def five_shot(shots: int, questions: list[int], seed: int = 0) -> list[Pair]:
    """Questions of so many tokens after one block of ``shots`` tokens, four letters each."""
    chooser = random.Random(seed)
    block = tokens(shots, chooser)
    contexts = [block + tokens(length, chooser) for length in questions]
    return [(context, [letter]) for context in contexts for letter in (40, 41, 42, 43)]


def ask(lm: WindowedHFLM, pairs: list[Pair]) -> list[tuple[float, bool]]:
    return lm._score_pairs(pairs)


def random_groups(seed: int) -> list[Pair]:
    """Nested and disjoint beginnings around ``Lt``, rows of all lengths, continuations of one to three tokens."""
    chooser = random.Random(seed)
    pairs = []
    for _ in range(chooser.randrange(1, 4)):
        block = tokens(chooser.choice([4, 12, ORIGINAL - 4, ORIGINAL, ORIGINAL + 9, 60]), chooser)
        for _ in range(chooser.randrange(1, 6)):
            context = block + tokens(chooser.randrange(0, 12), chooser)
            pairs += [(context, tokens(chooser.randrange(1, 4), chooser)) for _ in range(chooser.randrange(1, 4))]
    chooser.shuffle(pairs)
    return pairs


@every_architecture
@pytest.mark.parametrize("chunk", [None, 5])
def test_random_groups_equal_each_row_alone(
    load: Load, architecture: str, chunk: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm, stock = load(architecture, prefill_chunk=chunk, batch_size=7), tiny_model(architecture)
    passed = limit_forward(lm, monkeypatch, 10**9)
    whole = 0
    for seed in range(6):
        pairs = random_groups(seed)
        assert_scores(ask(lm, pairs), [cache_free_score(stock, *pair) for pair in pairs])
        whole += sum(len(reading.ids) for reading in readings(pairs))
    assert sum(rows * columns for rows, columns in passed) < 0.7 * whole


def test_a_beginning_is_read_once_for_all_batches(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    lm, stock = load(batch_size=3), tiny_model("llama")
    pairs = five_shot(60, [10, 9, 8, 10, 9, 8, 10, 9])
    requests = [choice(lm.tok_decode(context), "") for context, _ in pairs]
    monkeypatch.setattr(lm, "_pair", lambda number, context, continuation: pairs[int(continuation)])
    requests = [choice(request.args[0], str(number)) for number, request in enumerate(requests)]
    plan = lm.plan("loglikelihood", requests)
    assert [len(batch) for batch in plan] == [12, 12, 8]
    passed = limit_forward(lm, monkeypatch, 10**9)
    got = {}
    for batch in plan:  # as the runner does it: one call for each planned batch
        got.update(zip(batch, ask(lm, [pairs[number] for number in batch]), strict=True))
    assert_scores([got[n] for n in range(len(pairs))], [cache_free_score(stock, *pair) for pair in pairs])
    assert passed[0] == (1, 60)
    # Eight questions, each read once; at most two padded columns in a batch of three.
    assert 73 <= sum(rows * columns for rows, columns in passed[1:]) <= 80
    assert len(passed) == 4


def test_the_beginning_belongs_to_one_side_of_the_window(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of up to 32 tokens and beyond share 24 tokens: they are read under both factors, once each."""
    lm, stock = load(), tiny_model("llama")
    questions = [ORIGINAL - 24 - 3, ORIGINAL - 24, ORIGINAL - 24 + 1, 30]
    pairs = five_shot(24, questions)
    passed = limit_forward(lm, monkeypatch, 10**9)
    assert_scores(ask(lm, pairs), [cache_free_score(stock, *pair) for pair in pairs])
    assert [detail.window for detail in lm.take_details()] == ["short"] * 8 + ["long"] * 8
    assert passed[0] == (2, 24)
    assert sum(rows * columns for rows, columns in passed[1:]) >= sum(questions)


def test_a_kept_beginning_serves_its_own_side_only(load: Load) -> None:
    lm, stock = load(), tiny_model("llama")
    for questions in ([4, 5], [10, 12], [6, 3]):  # 24 and up to 8 tokens are short rows
        pairs = five_shot(24, questions)
        assert_scores(ask(lm, pairs), [cache_free_score(stock, *pair) for pair in pairs])


def test_keys_of_the_other_side_would_be_noticed(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    """The guard on caches stays alive for rows that fork: had they the wrong side, it would raise."""
    lm = load()
    monkeypatch.setattr(lm, "_side", lambda count: "only")
    monkeypatch.setattr("lr2eval.backends.prefix.families.LEAST_SAVED", 0.0)
    with pytest.raises(ValueError, match="a row's cache was filled with the"):
        ask(lm, five_shot(24, [4, ORIGINAL, 5]))


def test_letters_of_several_tokens(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    lm, stock = load(), tiny_model("llama")
    context = text_of(40, lm.tokenizer)
    requests = [choice(context, f" ({letter})") for letter in "ABCD"] + [choice(context, " A")]
    pairs = [lm._pair(0, *request.args) for request in requests]
    assert min(len(continuation) for _, continuation in pairs[:4]) > 1
    passed = limit_forward(lm, monkeypatch, 10**9)
    assert_scores(lm.loglikelihood(requests), [cache_free_score(stock, *pair) for pair in pairs])
    assert passed[0] == (1, len(pairs[0][0]) - 1), "the last token of the context predicts the first of a letter"


def test_several_families_share_a_batch(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    lm, stock = load("qwen3"), tiny_model("qwen3")
    pairs = [pair for seed in range(3) for pair in five_shot(48 + seed, [3, 4], seed)]
    passed = limit_forward(lm, monkeypatch, 10**9)
    assert_scores(ask(lm, pairs), [cache_free_score(stock, *pair) for pair in pairs])
    assert passed == [(3, 50), (6, 4)]


@pytest.mark.parametrize(
    ("architecture", "changes", "shares"),
    [
        ("llama", {"rope": {"rope_type": "dynamic", "rope_theta": 1e3, "factor": 4.0}}, False),
        ("llama", {"rope": {"rope_type": "linear", "rope_theta": 1e3, "factor": 4.0}}, True),
        ("mistral", {"rope": {"rope_type": "default", "rope_theta": 1e3}, "sliding_window": 11}, True),
        ("mistral", {"rope": {"rope_type": "default", "rope_theta": 1e3}, "attn_implementation": "eager"}, True),
    ],
)
def test_models_that_cannot_share_do_not(
    folder: Path, architecture: str, changes: dict[str, Any], shares: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(folder)
    stock = tiny_model(architecture, **changes)
    lm = WindowedHFLM(Checkpoint.open(save_checkpoint(folder, stock)), device="cpu")
    passed = limit_forward(lm, monkeypatch, 10**9)
    pairs = five_shot(40, [9, 12, 14, 10])
    assert_scores(ask(lm, pairs), [cache_free_score(stock, *pair) for pair in pairs])
    assert (passed[0] == (1, 40)) is shares


def test_the_memory_guard_counts_beginnings(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = [pair for seed in range(4) for pair in five_shot(100, [20] * 6, seed)]
    plenty, scarce = load(), load(memory_limit=700_000)
    found = readings(pairs)
    footprint = Footprint.of(scarce.model.config, 4)
    plans = [lm._scorer.plan(found) for lm in (plenty, scarce)]
    assert len(plans[0]) < len(plans[1])
    for batch in plans[1]:
        rows = sum(len(family.members) for family in batch)
        taken = footprint.sharing(len(batch), batch[0].prefix, rows, 20, rows, chunk=None)
        assert batch[0].prefix == 100
        assert taken <= 700_000
        assert taken > len(batch) * 100 * footprint.kv
    assert_scores(ask(scarce, pairs), ask(plenty, pairs))


@pytest.mark.parametrize(
    ("shots", "questions", "most"), [(40, [23, 24], 47), (24, [30, 30, 30], 26), (40, [23, 24], 25)]
)
def test_out_of_memory_reads_smaller_parts(
    load: Load, monkeypatch: pytest.MonkeyPatch, shots: int, questions: list[int], most: int
) -> None:
    """Memory for the beginning but not for two rows; not for one row in one piece; not for the beginning."""
    monkeypatch.setattr("lr2eval.backends.batching.CHUNKS", (32, 16, 8))
    lm = load()
    pairs = five_shot(shots, questions)
    expected = ask(lm, pairs)
    lm._kept.drop()
    passed = limit_forward(lm, monkeypatch, most)
    assert_scores(ask(lm, pairs), expected)
    assert ((1, shots) in passed) is (most >= shots)
    assert max(rows * columns for rows, columns in passed) <= most


def test_memory_is_given_back(load: Load) -> None:
    lm = load()
    ask(lm, five_shot(40, [11, 12]))
    assert lm._kept._held is not None
    lm.generate_until([])
    assert lm._kept._held is None
    ask(lm, five_shot(40, [11, 12]))
    ask(lm, five_shot(40, [11]))
    assert lm._kept._held is None


def test_a_resumed_run_makes_the_same_batches_and_the_same_numbers(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"batch_size": 3}
    context, *ends = prompts(load(), [60, 5, 9, 9, 6, 8, 12, 7])
    requests = [choice(f"{context} {end}", f" {letter}") for end in ends for letter in "AB"]
    for number, request in enumerate(requests):
        request.metadata = ("t", number // 2, 1)

    def run(folder: Path, fail_after: int | None = None) -> Any:
        lm = load(**options)
        score, calls = lm.loglikelihood, [0]

        def counted(members: Any, **rest: Any) -> Any:
            calls[0] += 1
            if calls[0] == fail_after:
                raise BackendError("pulled the plug")
            return score(members, **rest)

        monkeypatch.setattr(lm, "loglikelihood", counted)
        folder.mkdir(exist_ok=True)
        recording = RecordingLM(lm, RunStore.create(folder), {"model": "m"})
        recording.begin("shard")
        return recording.loglikelihood(requests), recording.store.plan("shard", "loglikelihood"), calls[0]

    undisturbed, plan, calls = run(tmp_path / "a")
    assert calls == len(plan) > 2
    with pytest.raises(BackendError, match="pulled the plug"):
        run(tmp_path / "b", fail_after=2)
    resumed, kept_plan, calls = run(tmp_path / "b")
    assert kept_plan == plan
    assert calls == len(plan) - 1
    assert resumed == undisturbed, "bit for bit"
