"""Mixed-window training (LongRoPE2, section 4): short rows under the original RoPE, long ones under the rescaled one.

:func:`train` takes a loaded model and rows of tokens and writes a checkpoint that stock transformers loads. The same
call again resumes and gives the same weights.
"""

from __future__ import annotations

import contextlib
import json
import math
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil
import torch
from safetensors import SafetensorError

from lr2eval.base.files import cache_dir, write_atomic, write_json
from lr2eval.base.ids import digest
from lr2eval.base.machine import now, out_of_memory, versions
from lr2eval.base.reading import parse_json, read_bytes
from lr2eval.errors import BackendError, StoreError, first_line
from lr2eval.method.data.rows import Segment, SegmentData
from lr2eval.method.rope.export import export
from lr2eval.method.rope.files import FactorsFile
from lr2eval.method.rope.scaling import RopeScaling
from lr2eval.method.rope.source import ModelRope
from lr2eval.method.search.needles import Sample
from lr2eval.method.train import checkpoints
from lr2eval.method.train.attention import able, refusal
from lr2eval.method.train.batches import BatchSchedule, TrainingRows, deal, segments_digest, weights_of
from lr2eval.method.train.engine import Engine, dtype_of
from lr2eval.method.train.parallel import Ranks, ranks
from lr2eval.method.train.recipe import SQUARE, Recipe, automatic_attention
from lr2eval.model.checkpoint import Checkpoint
from lr2eval.record.base import SEAL, sealed
from lr2eval.record.folder import MANIFEST, claim, flat, locked, read_manifest

RESULT = "training.json"
MODEL = "model"


@dataclass(frozen=True)
class TrainingResult:
    """The result of a training. Losses are nats per unit of target weight, lengths are tokens."""

    recipe: Mapping[str, Any]
    steps: int
    rows_short: int
    rows_long: int
    rows_left_out: int
    """Short rows that ``long_only`` left out."""
    tokens: int
    """Trained on, without padding."""
    loss_first: float
    loss_last: float
    evaluations: Mapping[str, Mapping[str, float | None]]
    """By step; ``None`` for a value that was not finite."""
    model: str = MODEL
    digest: str = ""
    """Hash of everything above and of the weights."""
    seconds: float = field(default=0.0, compare=False)
    """For all steps, including those before an interruption; not part of the digest."""


def train(
    recipe: Recipe,
    model: Any,
    source: Path,
    segments: Sequence[Segment],
    scaling: RopeScaling,
    out: Path,
    *,
    held_out: Sequence[Segment] = (),
    needles: Sequence[Sample] = (),
    factors: FactorsFile | None = None,
    device: str = "cpu",
    command: Sequence[str] = (),
    say: Callable[[str], None] = lambda text: None,
) -> TrainingResult:
    """Train ``model`` (a float32 Hugging Face decoder, changed in place and ready to use afterwards) and write ``out``.

    ``source`` is the checkpoint folder of the model: its tokenizer and configuration are copied to ``out/model``.
    ``held_out`` rows and ``needles`` (samples of the target length) are only used for evaluations. Under a launcher
    (torchrun, ``accelerate launch``) every process makes the same call; the first one writes.

    Raises :class:`UsageError` for arguments that do not fit together or an ``out`` of another training,
    :class:`BackendError` for a loss that is not finite, :class:`StoreError` if ``out`` cannot be written.
    """
    rows = TrainingRows(recipe, segments, scaling)
    if recipe.rescaled_only:
        # One set of factors for everything: what is trained is what is exported.
        scaling = replace(scaling, short_factor=scaling.long_factor,
                          short_attention_factor=scaling.long_attention_factor)  # fmt: skip
    schedule = BatchSchedule(
        rows.kinds, recipe.global_batch, recipe.micro_batch, recipe.epochs, recipe.seed, recipe.planned_steps(len(rows))
    )
    with ranks(device, recipe.context_parallel) as all_ranks, contextlib.ExitStack() as held:
        recipe = recipe.model_copy(update={"attention": _attention(recipe, model, out, all_ranks.device, say)})
        settings = {
            "recipe": recipe.deciding(),
            "model": Checkpoint.open(source, cache=cache_dir()).fingerprint,
            "scaling": {key: value for key, value in scaling.to_json().items() if key != "provenance"},
            "data": segments_digest(segments),
            "held_out": segments_digest(held_out),
            "needles": digest([sample.sha256 for sample in needles]),
            "device": all_ranks.device.partition(":")[0],
            "dtype": str(dtype_of(recipe, all_ranks.device)).removeprefix("torch."),
        }
        # Older versions did not resume on another number of processes.
        if "processes" in (old := (read_manifest(out) or {}).get("settings", {})):
            settings["processes"] = old["processes"]

        def claim_out() -> None:
            held.enter_context(locked(out))
            for each in (segments, held_out):
                if isinstance(each, SegmentData):
                    each.check()
            if not (out / MANIFEST).exists():
                rows.refuse_seen(held_out)
            facts = {"versions": versions(), "command": list(command), "created": now()}
            claim(out, settings, {"kind": "training", **facts})

        all_ranks.in_first(claim_out)
        loop = _TrainingLoop(recipe, schedule, rows, held_out, needles, out, all_ranks, say)
        facts = loop.run(model, scaling)
        model.eval()
        made = factors or FactorsFile(Path("factors"), digest(scaling.to_json()), scaling.long_factor, scaling)
        return loop.finish(facts, model, source, scaling, made, command)


def _attention(recipe: Recipe, model: Any, out: Path, device: str, say: Callable[[str], None]) -> str | None:
    """As the recipe says; else what the folder was begun with, which older versions wrote as ``None`` for the model's
    own; else chosen for the device and the model."""
    name, own = recipe.attention, str(model.config._attn_implementation)
    if name is None and (known := read_manifest(out)) is not None:
        name = flat(known["settings"]).get("recipe.attention")
    elif name is None:
        half = dtype_of(recipe, device) == torch.bfloat16
        name = automatic_attention(device, able(model), recipe.micro_batch, half) or own
    told = f"attention: {name or own}"
    if (name or own) in SQUARE:
        told += ", which takes a mask of all pairs of tokens for a packed row"
        told += "" if (why := refusal(model)) is None else f" ({type(model).__name__}: {why})"
    say(told)
    return name


def result_digest(result: Mapping[str, Any], weights: str) -> str:
    """What :attr:`TrainingResult.digest` must be. ``weights``: :func:`checkpoints.weights_hash` of the last one."""
    return digest([{key: value for key, value in result.items() if key not in ("seconds", "digest", SEAL)}, weights])


@dataclass
class _TrainingLoop:
    recipe: Recipe
    schedule: BatchSchedule
    rows: TrainingRows
    held_out: Sequence[Segment]
    needles: Sequence[Sample]
    out: Path
    ranks: Ranks
    say: Callable[[str], None]
    told: float = -math.inf

    def run(self, model: Any, scaling: RopeScaling) -> dict[str, Any]:
        """Train from the last checkpoint to the last step. Returns the facts of the last checkpoint."""
        engine = Engine(model, scaling, self.recipe, self.ranks)
        done = checkpoints.complete(self.out)
        facts: dict[str, Any] = {"tokens": 0, "seconds": 0.0, "evaluations": {}, "order": self.schedule.order_digest}
        step, last = 0, self.schedule.steps
        if done:
            checkpoints.load(done[-1], engine.loss_model, engine.optimizer, self.ranks)
            facts, step = dict(done[-1].facts), done[-1].step
            self.say(f"resuming after step {step} of {last}")
        self.ranks.gathered(None)  # wait until all processes have read the checkpoint
        if self.ranks.rank == 0:
            checkpoints.tidy(self.out, self.recipe.saving.keep)
            # Later lines of the log are of steps that are done again.
            kept = [line for line in read(self.out) if line["step"] <= step] if step else []
            write_atomic(self.out / LOG_FILE, "".join(json.dumps(line) + "\n" for line in kept))
        if step == 0:
            self._evaluate(engine, 0, facts, {})
        while step < last:
            step += 1
            line = self._step(engine, step, facts)
            self._evaluate(engine, step, facts, line)
            self._tell(line)
            if step == last or (self.recipe.saving.every and step % self.recipe.saving.every == 0):
                checkpoints.save(self.out, step, facts, engine.loss_model, engine.optimizer, self.ranks)
                if self.ranks.rank == 0:
                    checkpoints.tidy(self.out, self.recipe.saving.keep)
        return facts

    def _step(self, engine: Engine, step: int, facts: dict[str, Any]) -> dict[str, Any]:
        began = time.perf_counter()
        chosen = [self.rows[number] for number in self.schedule.rows(step - 1)]
        short, long = weights_of(chosen)
        dealt = deal(self.schedule.micro_batches(step - 1), self.ranks.data_rank, self.ranks.data_ranks)
        groups = [None if group is None else [self.rows[number] for number in group] for group in dealt]
        rate = self.recipe.learning_rate(step - 1, self.schedule.steps)
        try:
            losses, norm = engine.step(groups, short + long, rate)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            square = engine.model.config._attn_implementation in SQUARE and not all(row.long for row in chosen)
            mask = "another --set attention (this one takes a mask of all pairs of tokens for a packed row), "
            raise BackendError(f"step {step}: out of memory; try {mask if square else ''}"
                               "--set gradient_checkpointing=true, a smaller micro_batch or loss_chunk, or more GPUs "
                               "(--dry-run estimates the memory), and a new --out") from error  # fmt: skip
        loss = sum(losses) / (short + long)
        if not (math.isfinite(loss) and math.isfinite(norm)):
            what = "loss" if not math.isfinite(loss) else "gradient"
            done = checkpoints.complete(self.out)
            kept = f"the last good checkpoint is {done[-1].folder}" if done else "no checkpoint was saved before"
            raise BackendError(f"step {step}: the {what} is not finite; {kept}; try a lower learning rate "
                               "(--set optimizer.learning_rate=...) and a new --out")  # fmt: skip
        seconds = time.perf_counter() - began
        tokens = sum(len(row.input_ids) - row.padding for row in chosen)
        facts["tokens"] += tokens
        facts["seconds"] += seconds
        facts.setdefault("loss_first", loss)
        facts["loss_last"] = loss
        line = {"step": step, "loss": loss}
        line |= {f"loss_{kind}": total / weight for kind, total, weight in
                 zip(("short", "long"), losses, (short, long), strict=True) if weight}  # fmt: skip
        return line | {"learning_rate": rate, "gradient_norm": norm, "tokens": facts["tokens"],
                       "tokens_per_second": round(tokens / seconds, 1), "seconds": round(seconds, 4)}  # fmt: skip

    def _tell(self, line: Mapping[str, Any]) -> None:
        """A line of progress, every ten seconds and at the last step."""
        now = time.monotonic()
        if now - self.told > 10 or line["step"] == self.schedule.steps:
            self.told = now
            kinds = ", ".join(
                f"{kind} {line[key]:.4f}" for kind in ("short", "long") if (key := f"loss_{kind}") in line
            )
            left = (self.schedule.steps - line["step"]) * line["seconds"]
            self.say(f"step {line['step']}/{self.schedule.steps}, loss {line['loss']:.4f} ({kinds}), "
                     f"{line['tokens_per_second']:,.0f} tokens/s, about {left / 60:,.0f} min left")  # fmt: skip

    def _evaluate(self, engine: Engine, step: int, facts: dict[str, Any], line: dict[str, Any]) -> None:
        """Evaluate if the recipe says so at this step, and write the step's line of the log."""
        every = self.recipe.evaluation.every
        if step == self.schedule.steps or (every and step % every == 0):
            measured = engine.held_out(self.held_out) if self.held_out else {}
            if self.needles:
                measured["needle_perplexity"] = engine.needle_perplexity(self.needles)
            if measured:
                # JSON has no infinity, which a perplexity may be.
                found = {name: value if math.isfinite(value) else None for name, value in measured.items()}
                facts["evaluations"] = {**facts["evaluations"], str(step): found}
                line = {"step": step, **line, "evaluation": found}
        if line and self.ranks.rank == 0:
            path = self.out / LOG_FILE
            try:
                with path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps({**line, "memory_gib": round(_memory(self.ranks.device) / 2**30, 3)}) + "\n")
            except OSError as error:
                raise StoreError(f"{path}: {error.strerror}; fix this and run the same command again") from error

    def finish(
        self,
        facts: Mapping[str, Any],
        model: Any,
        source: Path,
        scaling: RopeScaling,
        factors: FactorsFile,
        command: Sequence[str],
    ) -> TrainingResult:
        """Write the result and ``out/model``: the weights in the precision of the source, with the new RoPE."""
        last = checkpoints.complete(self.out)[-1]
        weights = checkpoints.weights_hash(last)
        result = TrainingResult(
            recipe=self.recipe.model_dump(mode="json"),
            steps=self.schedule.steps,
            rows_short=self.rows.kinds.count(False),
            rows_long=self.rows.kinds.count(True),
            rows_left_out=self.rows.left_out,
            tokens=facts["tokens"],
            loss_first=facts["loss_first"],
            loss_last=facts["loss_last"],
            evaluations=facts["evaluations"],
        )
        result = replace(result, digest=result_digest(asdict(result), weights), seconds=round(facts["seconds"], 3))

        def write() -> None:
            try:
                for left in (self.out / MODEL, *self.out.glob(".weights-*")):
                    shutil.rmtree(left, ignore_errors=True)  # of an attempt that was killed
                dtype = getattr(torch, Checkpoint.open(source, cache=cache_dir()).dtype)
                named = {
                    name.removeprefix("model."): value.to(dtype) for name, value in checkpoints.weights(last).items()
                }
                about = {key: getattr(result, key) for key in ("steps", "tokens", "digest")}
                with tempfile.TemporaryDirectory(prefix=".weights-", dir=self.out) as work:
                    model.save_pretrained(work, state_dict=named)
                    export(ModelRope.read(source), scaling, self.out / MODEL, factors=factors, command=command,
                           trained=Path(work), training={"recipe": self.recipe.name} | about)  # fmt: skip
                write_json(self.out / RESULT, sealed(asdict(result)))
            except (OSError, SafetensorError) as error:
                raise StoreError(f"{self.out / MODEL}: {first_line(error)}; free some space or fix the folder, then "
                                 "run the same command again; the training itself is done") from error  # fmt: skip

        self.ranks.in_first(write)
        return result


LOG_FILE = "log.jsonl"


def _memory(device: str) -> int:
    """Bytes: peak allocation on a GPU, resident memory on a CPU."""
    if device.startswith("cuda"):
        return int(torch.cuda.max_memory_allocated(device))
    return int(psutil.Process().memory_info().rss)


def read(home: Path) -> list[dict[str, Any]]:
    """The lines of a log, without a half-written last line."""
    path = home / LOG_FILE
    if not path.exists():
        return []
    whole = read_bytes(path, error=StoreError).split(b"\n")[:-1]
    fix = f"remove {path} and run the same command again"
    found = []
    for number, line in enumerate(whole, 1):
        place = f"{path}, line {number}"
        found.append(parse_json(line, place, error=StoreError, fix=fix))
        if not isinstance(found[-1], dict) or not isinstance(found[-1].get("step"), int):
            raise StoreError(f"{place}: names no step; {fix}")
    return found
