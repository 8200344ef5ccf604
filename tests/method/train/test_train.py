"""Training from rows to a checkpoint that stock transformers loads."""

from __future__ import annotations

import json
import math
import resource
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM

from lr2eval.errors import BackendError, StoreError, UsageError
from lr2eval.method.rope.rules import RULES
from lr2eval.method.rope.scaling import OriginalRope, RopeScaling
from lr2eval.method.rope.windowed import install_rope
from lr2eval.method.search.needles import Sample
from lr2eval.method.search.perplexity import mean_nll, perplexity
from lr2eval.method.train import checkpoints
from lr2eval.method.train.batches import BatchSchedule, micro_batch, weights_of
from lr2eval.method.train.engine import Engine
from lr2eval.method.train.loss import chunked_loss
from lr2eval.method.train.parallel import Ranks
from lr2eval.method.train.recipe import Recipe
from lr2eval.method.train.train import TrainingResult, _TrainingLoop, train
from tests import tiny_models, tiny_segments

PLAIN = {"rope_type": "default", "rope_theta": 1000.0}
TARGET = 96
SCALING = RULES["longrope2"].make(OriginalRope(1000.0, 2 * tiny_models.PAIRS, tiny_models.ORIGINAL), TARGET)


def recipe(**changes: Any) -> Recipe:
    made: dict[str, Any] = {
        "name": "test",
        "original_window": tiny_models.ORIGINAL,
        "target_window": TARGET,
        "short_tokens": 0,
        "long_tokens": TARGET,
        "global_batch": 4,
        "epochs": 10,
        "steps": 6,
        "optimizer": {"learning_rate": 1e-3, "warmup_steps": 2},
    }
    return Recipe(**(made | changes))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = tiny_models.tiny_model("llama", rope=PLAIN)
    model.config.max_position_embeddings = tiny_models.ORIGINAL
    return tiny_models.save_checkpoint(tmp_path_factory.mktemp("source"), model)


def run(source: Path, out: Path, *, rows: Any = None, scaling: RopeScaling = SCALING, **changes: Any) -> TrainingResult:
    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(
        source, dtype=torch.float32, attention_dropout=changes.pop("dropout", 0.0)
    )
    extra = {name: changes.pop(name) for name in ("held_out", "needles", "say") if name in changes}
    rows = tiny_segments.mixture(12) if rows is None else rows
    return train(recipe(**changes), model, source, rows, scaling, out, **extra)


def test_many_pieces_of_the_loss_are_as_exact_as_one_in_bfloat16() -> None:
    """Autocast's cache of weights once had all pieces add their gradients of the head up in bfloat16."""
    torch.set_num_threads(1)
    made = Engine(tiny_models.tiny_model("llama", rope=dict(PLAIN)), SCALING, recipe(dtype="bfloat16"), Ranks())
    head = made.model.lm_head
    hidden = torch.randn(256, head.in_features, generator=torch.Generator().manual_seed(0))
    targets = torch.arange(256) % head.out_features

    def gradient(context: AbstractContextManager[Any], chunk: int) -> torch.Tensor:
        with context:
            loss = chunked_loss(hidden, head, targets, None, chunk)
        return torch.autograd.grad(loss, head.weight)[0]

    exact = gradient(nullcontext(), 256)
    one, many = (gradient(made._autocast(), chunk) for chunk in (256, 2))
    assert (one - exact).norm() < 0.01 * exact.norm()
    assert (many - exact).norm() < 1.2 * (one - exact).norm()  # 4 times with the cache


def test_twenty_steps_give_a_checkpoint_that_stock_transformers_loads(source: Path, tmp_path: Path) -> None:
    result = run(source, tmp_path / "out", steps=20)
    assert result.steps == 20
    assert result.loss_last < result.loss_first
    model, info = AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "model", output_loading_info=True)
    assert not info["missing_keys"]
    assert RopeScaling.from_config(model.config) == SCALING


def test_the_model_that_was_given_is_the_trained_one(source: Path, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    for _ in range(2):  # trained, then loaded by a training that is finished
        train(recipe(), model, source, tiny_segments.mixture(12), SCALING, tmp_path / "out")
        assert not model.training
        exported = load_file(tmp_path / "out" / "model" / "model.safetensors")
        for name, value in model.named_parameters():
            assert torch.equal(value, exported[name])
        model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)


def _logged(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def _weights(out: Path, step: int) -> bytes:
    return (out / "checkpoints" / f"step-{step:06d}" / "weights.safetensors").read_bytes()


def test_the_log_has_a_line_a_step_and_curves_of_both_kinds(source: Path, tmp_path: Path) -> None:
    rows, held_out = tiny_segments.mixture(12), tiny_segments.mixture(16)[12:]
    needle = Sample(tuple(range(2, 2 + TARGET)), (TARGET - 2, TARGET - 1))
    result = run(source, tmp_path / "a", rows=rows, dropout=0.1, held_out=held_out, needles=[needle],
                 evaluation={"every": 2, "needles": 1})  # fmt: skip
    lines = _logged(tmp_path / "a")
    assert [line["step"] for line in lines] == list(range(7))
    for line in lines[1:]:
        assert {"loss", "learning_rate", "gradient_norm", "tokens", "tokens_per_second", "memory_gib"} <= line.keys()
        weights = weights_of([rows[number] for number in _rows_of(line["step"])])
        kinds = [kind for kind, weight in zip(("short", "long"), weights, strict=True) if weight]
        assert {key for key in line if key.startswith("loss_")} == {f"loss_{kind}" for kind in kinds}
        total = sum(
            line.get(f"loss_{kind}", 0.0) * weight for kind, weight in zip(("short", "long"), weights, strict=True)
        )
        assert line["loss"] == pytest.approx(total / sum(weights))
    assert lines[-1]["tokens"] == result.tokens
    wanted = {"held_out_short", "held_out_long", "needle_perplexity"}
    assert [line["step"] for line in lines if "evaluation" in line] == [0, 2, 4, 6]
    assert all(line["evaluation"].keys() == wanted for line in lines if "evaluation" in line)
    assert result.evaluations["6"] == lines[-1]["evaluation"]
    run(source, tmp_path / "b", rows=rows, dropout=0.1)
    assert _weights(tmp_path / "a", 6) == _weights(tmp_path / "b", 6)  # measuring changes nothing


def test_a_perplexity_that_overflows_is_null(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Engine, "needle_perplexity", lambda *_: math.inf)
    needle = Sample(tuple(range(2, 2 + TARGET)), (TARGET - 1,))
    result = run(source, tmp_path / "out", needles=[needle])
    assert result.evaluations["6"] == _logged(tmp_path / "out")[-1]["evaluation"] == {"needle_perplexity": None}


def _rows_of(step: int) -> list[int]:
    return BatchSchedule(tuple(row.long for row in tiny_segments.mixture(12)), 4, 1, 10, 0, 6).rows(step - 1)


def test_what_is_measured_is_what_the_exported_model_does(source: Path, tmp_path: Path) -> None:
    """Held-out losses and needle perplexity again, from the exported checkpoint by other code."""
    held_out = tiny_segments.mixture(16)[12:]
    needles = [Sample(tuple(range(2 + n, 2 + n + TARGET)), (TARGET - 2 - n, TARGET - 1)) for n in range(3)]
    result = run(source, tmp_path / "out", held_out=held_out, needles=needles)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "model").eval()
    install_rope(model)
    measured = result.evaluations["6"]
    assert measured["needle_perplexity"] == pytest.approx(
        perplexity([mean_nll(model, each) for each in needles]), rel=1e-4
    )
    for long in (False, True):
        total, count = 0.0, 0
        for row in (row for row in held_out if row.long == long):
            at = 0
            for length in row.document_lengths[:-1] if row.padding else row.document_lengths:
                ids = tuple(int(token) for token in row.input_ids[at : at + length])
                at += length
                if length > 1:
                    total += mean_nll(model, Sample(ids, tuple(range(1, length)))) * (length - 1)
                    count += length - 1
        assert measured["held_out_long" if long else "held_out_short"] == pytest.approx(total / count, rel=1e-4)


def test_a_step_is_one_step_whatever_its_micro_batches(source: Path, tmp_path: Path) -> None:
    """A mixed batch equals its parts: micro-batches of other sizes, and one update computed by hand."""
    rows = tiny_segments.mixture(12, weighted=True)
    one = run(source, tmp_path / "one", rows=rows, steps=3, global_batch=6, saving={"every": 1, "keep": 3})
    run(source, tmp_path / "four", rows=rows, steps=3, global_batch=6, micro_batch=4)
    losses = [[line["loss"] for line in _logged(tmp_path / name)] for name in ("one", "four")]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)

    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    rotary = install_rope(model, SCALING)
    total, weight = torch.zeros(()), 0.0
    for number in BatchSchedule(tuple(row.long for row in rows), 6, 1, 10, 0, 3).rows(0):
        batch = micro_batch([rows[number]])
        with rotary.window(list(batch.lengths)):  # type: ignore[union-attr]
            logits = model(input_ids=batch.input_ids, position_ids=batch.position_ids, use_cache=False).logits
        each = cross_entropy(logits[0], batch.targets[0], reduction="none", ignore_index=-100)
        total = total + (each * batch.weights[0]).sum()  # type: ignore[index]
        weight += float(batch.weights[0][batch.targets[0] != -100].sum())  # type: ignore[index]
    assert one.loss_first == pytest.approx(float(total.detach()) / weight, abs=1e-5)
    (total / weight).backward()
    norm = math.sqrt(sum(float(parameter.grad.square().sum()) for parameter in model.parameters()))
    assert _logged(tmp_path / "one")[0]["gradient_norm"] == pytest.approx(norm, rel=1e-4)
    assert norm > 1  # so that clipping matters
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    torch.optim.AdamW(model.parameters(), lr=1e-3 / 3, betas=(0.9, 0.95), weight_decay=0.0).step()  # of two to warm up
    trained = load_file(tmp_path / "one" / "checkpoints" / "step-000001" / "weights.safetensors")
    for name, value in model.named_parameters():
        torch.testing.assert_close(trained[f"model.{name}"], value.detach(), rtol=1e-5, atol=2e-6)


def test_long_only_uses_one_rope_and_long_rows_alone(source: Path, tmp_path: Path) -> None:
    result = run(source, tmp_path / "out", long_only=True)
    assert (result.rows_short, result.rows_long, result.rows_left_out) == (0, 6, 6)
    assert not any("loss_short" in line for line in _logged(tmp_path / "out"))
    config = AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "model").config
    assert RopeScaling.from_config(config).short_factor == SCALING.long_factor


def test_short_rows_can_be_read_under_the_rescaled_rope(source: Path, tmp_path: Path) -> None:
    rows = [row for row in tiny_segments.mixture(12) if not row.long]
    plain = run(source, tmp_path / "a", rows=rows, steps=1)
    other = run(source, tmp_path / "b", rows=rows, steps=1, short_rope="rescaled")
    assert plain.loss_first != other.loss_first
    config = AutoModelForCausalLM.from_pretrained(tmp_path / "b" / "model").config
    assert RopeScaling.from_config(config).short_factor == SCALING.long_factor


def test_bfloat16_arithmetic_keeps_weights_in_float32(source: Path, tmp_path: Path) -> None:
    result = run(source, tmp_path / "out", dtype="bfloat16", steps=20)
    assert result.loss_last < result.loss_first
    weights = load_file(tmp_path / "out" / "checkpoints" / "step-000020" / "weights.safetensors")
    assert {value.dtype for value in weights.values()} == {torch.float32}


def test_an_interrupted_training_goes_on_to_the_same_weights(source: Path, tmp_path: Path, monkeypatch: Any) -> None:
    saving = {"every": 2, "keep": 2}
    calm = run(source, tmp_path / "calm", saving=saving)
    usual = Engine.step
    calls = 0

    def stop(self: Engine, *args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls in (2, 6):  # before the first checkpoint, and between two
            raise KeyboardInterrupt
        return usual(self, *args)

    monkeypatch.setattr(Engine, "step", stop)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            run(source, tmp_path / "rough", saving=saving)
    rough = run(source, tmp_path / "rough", saving=saving)
    assert rough == calm
    assert rough.digest == calm.digest
    assert _weights(tmp_path / "rough", 6) == _weights(tmp_path / "calm", 6)
    assert [line["loss"] for line in _logged(tmp_path / "rough")] == [
        line["loss"] for line in _logged(tmp_path / "calm")
    ]
    again = run(source, tmp_path / "rough", saving=saving)  # finished: nothing is trained, the export is made again
    assert again == calm


def test_the_last_checkpoints_are_kept(source: Path, tmp_path: Path) -> None:
    run(source, tmp_path / "out", saving={"every": 1, "keep": 3})
    assert [path.name for path in sorted((tmp_path / "out" / "checkpoints").iterdir())] == [
        "step-000004", "step-000005", "step-000006"]  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "key"),
    [({"seed": 1}, "recipe.seed"), ({"optimizer": {"clip": 2.0}}, "recipe.optimizer.clip"), ({"rows": 10}, "data")],
)
def test_a_folder_of_another_training_is_refused(
    source: Path, tmp_path: Path, changes: dict[str, Any], key: str
) -> None:
    run(source, tmp_path / "out", steps=1)
    if "rows" in changes:
        changes = {"rows": tiny_segments.mixture(changes["rows"])}
    with pytest.raises(UsageError, match=key) as error:
        run(source, tmp_path / "out", **{"steps": 1, **changes})
    assert "\n" not in str(error.value)


def test_the_attention_is_chosen_told_and_recorded(source: Path, tmp_path: Path) -> None:
    """A folder that is begun goes on with what it has; the losses are those of a mask of all pairs."""
    said: list[str] = []
    result = run(source, tmp_path / "out", steps=6, say=said.append)
    assert said[0] == "attention: documents"
    assert result.recipe["attention"] == "documents"
    assert (
        json.loads((tmp_path / "out" / "manifest.json").read_text())["settings"]["recipe"]["attention"] == "documents"
    )
    assert run(source, tmp_path / "out", steps=6, attention="documents") == result
    with pytest.raises(UsageError, match=r'recipe\.attention: was "documents", now "sdpa"'):
        run(source, tmp_path / "out", steps=6, attention="sdpa")
    run(source, tmp_path / "square", steps=6, attention="sdpa")
    run(source, tmp_path / "square", steps=6, say=said.append)
    assert said[-2:] == [
        "attention: sdpa, which takes a mask of all pairs of tokens for a packed row", "resuming after step 6 of 6"
    ]  # fmt: skip
    losses = [[line["loss"] for line in _logged(tmp_path / name)] for name in ("out", "square")]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


@pytest.mark.parametrize("broken", ["loss", "gradient"])
def test_a_loss_that_is_no_number_ends_the_training(
    source: Path, tmp_path: Path, monkeypatch: Any, broken: str
) -> None:
    usual = Engine.loss
    calls = 0
    models: list[Any] = []

    def spoil(self: Engine, rows: Any, scale: float | None = None) -> torch.Tensor:
        nonlocal calls
        calls += 1
        models.append(self.model)
        found = usual(self, rows, scale)
        if calls < 18:  # four a step: in the fifth
            return found
        if broken == "gradient":
            next(self.model.parameters()).grad.view(-1)[0] = math.inf
            return found
        return found * math.nan

    monkeypatch.setattr(Engine, "loss", spoil)
    with pytest.raises(BackendError, match=f"step 5: the {broken} is not finite.*step-000004") as error:
        run(source, tmp_path / "out", saving={"every": 2})
    assert error.value.exit_code == 5
    assert "\n" not in str(error.value)
    kept = checkpoints.complete(tmp_path / "out")
    assert [saved.step for saved in kept] == [2, 4]
    assert all(value.isfinite().all() for value in load_file(kept[-1].folder / "weights.safetensors").values())
    assert not (tmp_path / "out" / "model").exists()
    assert all(parameter.isfinite().all() for parameter in models[-1].parameters())  # nothing was updated with it


def test_a_step_that_does_not_fit_into_memory_says_what_helps(source: Path, tmp_path: Path, monkeypatch: Any) -> None:
    def full(self: Engine, *args: Any) -> Any:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")

    monkeypatch.setattr(Engine, "step", full)
    with pytest.raises(BackendError, match=r"step 1: out of memory.*gradient_checkpointing") as error:
        run(source, tmp_path / "out")
    assert "attention" not in str(error.value)  # it takes no mask
    with pytest.raises(BackendError, match=r"try another --set attention \(this one takes a mask of all pairs"):
        run(source, tmp_path / "square", attention="sdpa")
    with pytest.raises(BackendError) as error:
        run(source, tmp_path / "long", attention="sdpa", long_only=True)
    assert "attention" not in str(error.value)


def test_no_room_for_the_model_keeps_the_training(source: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """The disk is full as the finished model is written: one line, and the same call needs no step again."""
    from transformers import LlamaForCausalLM

    def full(*_: Any, **__: Any) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    with monkeypatch.context() as patched:
        patched.setattr(LlamaForCausalLM, "save_pretrained", full)
        with pytest.raises(StoreError, match=r"No space left on device .*free some space.*the training itself is done"):
            run(source, tmp_path / "out")
    assert not [path for path in (tmp_path / "out").iterdir() if path.name.startswith(".")]
    monkeypatch.setattr(_TrainingLoop, "_step", None)
    run(source, tmp_path / "out")
    assert (tmp_path / "out" / "model" / "config.json").exists()


@pytest.mark.parametrize("at", [0, 1, 2])
def test_no_room_for_a_checkpoint_leaves_the_one_before(
    source: Path, tmp_path: Path, monkeypatch: Any, at: int
) -> None:
    """A real write that fails: files may not grow beyond 100 kB from the second checkpoint on."""
    usual, calls = checkpoints.save_file, 0

    def limited(tensors: Any, path: Path) -> None:
        nonlocal calls
        calls += 1
        if calls != 4 + at:
            usual(tensors, path)
            return
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
        try:
            usual(tensors, path)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    monkeypatch.setattr(checkpoints, "save_file", limited)
    with pytest.raises(StoreError, match=r"step-000004: File too large.*complete checkpoint is step-000002") as error:
        run(source, tmp_path / "out", saving={"every": 2})
    assert "\n" not in str(error.value)
    assert [path.name for path in (tmp_path / "out" / "checkpoints").iterdir()] == ["step-000002"]
    monkeypatch.undo()
    assert run(source, tmp_path / "out", saving={"every": 2}) == run(source, tmp_path / "calm", saving={"every": 2})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"target_window": 128}, "target_window: 128 tokens in the recipe but 96 in the factors"),
        ({"original_window": 16}, "original_window: 16 tokens in the recipe but 32 in the factors"),
        ({"rows": []}, "--data: has no rows to train on"),
        ({"rows": [tiny_segments.long_row(0, 64)]}, "row 0 has 64 tokens but .* target_window is 96"),
        (
            {"rows": [tiny_segments.short_row(0, (40, 56))]},
            "row 0 is marked short, but its longest document has 56 tokens",
        ),
        ({"attention": "nothing"}, "LlamaForCausalLM: .*nothing"),
        ({"attention": "flex_attention"}, "flex_attention cannot train on a CPU; use --set attention=documents"),
        ({"loss": "liger"}, "GPUs only"),
        ({"context_parallel": 2}, "does not divide the 1 processes"),
        ({"held_out": tiny_segments.mixture(3)[2:]}, "--held-out: row 0 equals row 2 of --data"),
    ],
)
def test_what_does_not_fit_together_is_refused(
    source: Path, tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(UsageError, match=said) as error:
        run(source, tmp_path / "out", **changes)
    assert "\n" not in str(error.value)


def test_one_process_writes_a_folder(source: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with FileLock(tmp_path / "out" / "run.lock"), pytest.raises(StoreError, match="another lr2eval"):
        run(source, tmp_path / "out")


def test_the_card_says_what_was_trained(source: Path, tmp_path: Path) -> None:
    result = run(source, tmp_path / "out")
    card = (tmp_path / "out" / "model" / "README.md").read_text()
    assert "unchanged" not in card
    assert result.digest in card
    told = json.loads((tmp_path / "out" / "training.json").read_text())
    assert told["digest"] == result.digest
    assert told["recipe"]["optimizer"]["betas"] == [0.9, 0.95]


@pytest.mark.skipif(not torch.set_flush_denormal(False), reason="this processor cannot leave out denormal numbers")
def test_a_step_takes_denormal_numbers_for_zero() -> None:
    """Some processors are very slow with them, and a sharp softmax makes many on the way back."""
    made = Engine(tiny_models.tiny_model("llama", rope=dict(PLAIN)), SCALING, recipe(dtype="float32"), Ranks())
    small, seen = torch.tensor([1e-30]), []
    next(made.model.parameters()).register_hook(lambda gradient: seen.append(float(small * 1e-10)))
    made.step([[tiny_segments.long_row(3, TARGET)]], 1.0, 1e-3)
    assert seen == [0.0]
    assert float(small * 1e-10) > 0
