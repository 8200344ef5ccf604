"""Mixed-window training (LongRoPE2, section 4): short rows under the original RoPE, long ones under the rescaled one.

:func:`train` takes a loaded model and rows of tokens and leaves a checkpoint that stock transformers loads. Called
again with the same arguments it goes on where it was, to the same weights.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil
import torch

from lr2eval.base.files import cache_dir, write_atomic, write_json
from lr2eval.base.ids import digest
from lr2eval.base.machine import now, out_of_memory, versions
from lr2eval.errors import BackendError, StoreError, UsageError
from lr2eval.method.data.rows import Segment
from lr2eval.method.rope.export import export
from lr2eval.method.rope.files import FactorsFile
from lr2eval.method.rope.scaling import RopeScaling
from lr2eval.method.rope.source import ModelRope
from lr2eval.method.search.needles import Sample
from lr2eval.method.train import checkpoints
from lr2eval.method.train.batches import Plan, Rows, data_digest, weights_of
from lr2eval.method.train.engine import Engine, dtype_of
from lr2eval.method.train.parallel import Ranks, ranks
from lr2eval.method.train.recipe import Recipe
from lr2eval.model.checkpoint import Checkpoint
from lr2eval.record.folder import MANIFEST, claim, locked

RESULT = "training.json"
MODEL = "model"
Hook = Callable[[Any, int], Mapping[str, float]]
"""Called with the model and the step at every evaluation, in every process; its numbers go into the log."""


@dataclass(frozen=True)
class TrainingResult:
    """What a training was and came to. Losses are nats per unit of target weight, lengths tokens."""

    recipe: Mapping[str, Any]
    steps: int
    rows_short: int
    rows_long: int
    rows_left_out: int
    """Short rows that ``long_only`` did not train on."""
    tokens: int
    """Trained on, padding not counted."""
    loss_first: float
    loss_last: float
    evaluations: Mapping[str, Mapping[str, float | None]]
    """By step; ``None`` for what was not finite."""
    model: str = MODEL
    digest: str = ""
    """Over everything above, and the weights."""
    seconds: float = field(default=0.0, compare=False)
    """Of all steps, also those of processes that were killed; not part of the digest."""


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
    hook: Hook | None = None,
    factors: FactorsFile | None = None,
    device: str = "cpu",
    command: Sequence[str] = (),
    say: Callable[[str], None] = lambda text: None,
) -> TrainingResult:
    """Train ``model`` (a float32 Hugging Face decoder, changed in place and ready to use afterwards) and write ``out``.

    ``source`` is the checkpoint folder it was loaded from: its tokenizer and configuration go into ``out/model``.
    ``held_out`` rows and ``needles`` (samples of the target length) are only measured on. In a launcher's environment
    (torchrun, ``accelerate launch``) every process calls this with the same arguments; the first one writes.

    Raises :class:`UsageError` for arguments that do not fit together or an ``out`` of another training,
    :class:`BackendError` for a loss that is no number, :class:`StoreError` where ``out`` cannot be written.
    """
    rows = Rows(recipe, segments, scaling)
    if recipe.rescaled_only:
        # One set of factors for everything: what is trained is what is exported.
        scaling = replace(scaling, short_factor=scaling.long_factor,
                          short_attention_factor=scaling.long_attention_factor)  # fmt: skip
    plan = Plan(
        rows.kinds, recipe.global_batch, recipe.micro_batch, recipe.epochs, recipe.seed, recipe.planned_steps(len(rows))
    )
    with ranks(device, recipe.context_parallel) as all_ranks:
        settings = {
            "recipe": recipe.deciding(),
            "model": Checkpoint.open(source, cache=cache_dir()).fingerprint,
            "scaling": {key: value for key, value in scaling.to_json().items() if key != "provenance"},
            "data": data_digest(segments),
            "held_out": data_digest(held_out),
            "needles": digest([sample.sha256 for sample in needles]),
            "device": all_ranks.device.partition(":")[0],
            "dtype": str(dtype_of(recipe, all_ranks.device)).removeprefix("torch."),
            "processes": all_ranks.size,
        }
        with _claimed(out, settings, command, all_ranks, lambda: rows.refuse_seen(held_out)):
            run = _Run(recipe, plan, rows, held_out, needles, hook, out, all_ranks, say)
            facts = run.through(model, scaling)
            model.eval()
            return _finish(run, facts, model, source, scaling, factors, command)


@contextlib.contextmanager
def _claimed(
    out: Path, settings: Mapping[str, Any], command: Sequence[str], ranks: Ranks, check: Callable[[], None]
) -> Iterator[None]:
    """Hold the output folder: one writer, one configuration; a new one after ``check``.

    What the first process refuses, all refuse.
    """
    problem: Exception | None = None
    with contextlib.ExitStack() as held:
        if ranks.rank == 0:
            try:
                held.enter_context(locked(out))
                if not (out / MANIFEST).exists():
                    check()
                facts = {"versions": versions(), "command": list(command), "created": now()}
                claim(out, settings, {"kind": "training", **facts})
            except OSError as error:
                problem = StoreError(f"{out}: {error.strerror or error}; fix this and run the same command again")
            except (UsageError, StoreError) as error:
                problem = error
        problem = ranks.gathered(problem)[0]
        if problem is not None:
            raise problem
        yield


@dataclass
class _Run:
    recipe: Recipe
    plan: Plan
    rows: Rows
    held_out: Sequence[Segment]
    needles: Sequence[Sample]
    hook: Hook | None
    out: Path
    ranks: Ranks
    say: Callable[[str], None]
    told: float = -math.inf

    def through(self, model: Any, scaling: RopeScaling) -> dict[str, Any]:
        """Train to the last step, from the last checkpoint on. Returns the numbers that the last checkpoint holds."""
        engine = Engine(model, scaling, self.recipe, self.ranks)
        done = checkpoints.complete(self.out)
        facts: dict[str, Any] = {"tokens": 0, "seconds": 0.0, "evaluations": {}, "order": self.plan.order_digest}
        step = 0
        if done:
            checkpoints.load(done[-1], engine.loss_model, engine.optimizer, self.ranks)
            facts, step = dict(done[-1].facts), done[-1].step
            self.say(f"resuming after step {step} of {self.plan.steps}")
        self.ranks.gathered(None)  # nobody tidies up what another process still reads
        if self.ranks.rank == 0:
            checkpoints.tidy(self.out, self.recipe.saving.keep)
        log = TrainLog(self.out, step, self.ranks)
        if step == 0:
            self._evaluate(engine, 0, facts, log, {})
        while step < self.plan.steps:
            step += 1
            line = self._step(engine, step, facts)
            self._evaluate(engine, step, facts, log, line)
            self._tell(line)
            if step == self.plan.steps or (self.recipe.saving.every and step % self.recipe.saving.every == 0):
                checkpoints.save(self.out, step, facts, engine.loss_model, engine.optimizer, self.ranks)
                if self.ranks.rank == 0:
                    checkpoints.tidy(self.out, self.recipe.saving.keep)
        return facts

    def _step(self, engine: Engine, step: int, facts: dict[str, Any]) -> dict[str, Any]:
        began = time.perf_counter()
        chosen = [self.rows[number] for number in self.plan.rows(step - 1)]
        short, long = weights_of(chosen)
        dealt = self.plan.dealt(step - 1, self.ranks.data_rank, self.ranks.data_ranks)
        groups = [None if group is None else [self.rows[number] for number in group] for group in dealt]
        rate = self.recipe.learning_rate(step - 1, self.plan.steps)
        try:
            losses, norm = engine.step(groups, short + long, rate)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            raise BackendError(f"step {step} does not fit into memory; --set gradient_checkpointing=true, "
                               "attention=flex_attention on a GPU, a smaller micro_batch or loss_chunk, or more GPUs "
                               "(--dry-run estimates)") from error  # fmt: skip
        loss = sum(losses) / (short + long)
        if not (math.isfinite(loss) and math.isfinite(norm)):
            what = "loss" if not math.isfinite(loss) else "gradient"
            done = checkpoints.complete(self.out)
            kept = f"the last good checkpoint is {done[-1].folder}" if done else "nothing was saved before"
            raise BackendError(f"step {step}: the {what} is no finite number; {kept}; try a lower learning rate "
                               "(--set optimizer.learning_rate=...) in a fresh --out")  # fmt: skip
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
        """A line for people, every ten seconds and at the last step."""
        now = time.monotonic()
        if now - self.told > 10 or line["step"] == self.plan.steps:
            self.told = now
            kinds = ", ".join(
                f"{kind} {line[key]:.4f}" for kind in ("short", "long") if (key := f"loss_{kind}") in line
            )
            left = (self.plan.steps - line["step"]) * line["seconds"]
            self.say(f"step {line['step']}/{self.plan.steps}, loss {line['loss']:.4f} ({kinds}), "
                     f"{line['tokens_per_second']:,.0f} tokens/s, about {left / 60:,.0f} min left")  # fmt: skip

    def _evaluate(self, engine: Engine, step: int, facts: dict[str, Any], log: TrainLog, line: dict[str, Any]) -> None:
        """Measure if it is time to, and write the line of this step."""
        every = self.recipe.evaluation.every
        if step == self.plan.steps or (every and step % every == 0):
            found: dict[str, float | None] = dict(engine.held_out(self.held_out)) if self.held_out else {}
            if self.needles:
                found["needle_perplexity"] = engine.needle_perplexity(self.needles)
            if self.hook is not None:
                hook = self.hook
                found |= engine.called(lambda model: hook(model, step))
            if found:
                # JSON has no infinity; a perplexity may be one.
                found = {
                    name: value if value is not None and math.isfinite(value) else None for name, value in found.items()
                }
                facts["evaluations"] = {**facts["evaluations"], str(step): found}
                line = {"step": step, **line, "evaluation": found}
        if line:
            log.write(line)


def _finish(
    run: _Run,
    facts: Mapping[str, Any],
    model: Any,
    source: Path,
    scaling: RopeScaling,
    factors: FactorsFile | None,
    command: Sequence[str],
) -> TrainingResult:
    """Export the model and write the result; only the first process does."""
    last = checkpoints.complete(run.out)[-1]
    with (last.folder / "weights.safetensors").open("rb") as file:
        weights = hashlib.file_digest(file, "sha256").hexdigest()
    result = TrainingResult(
        recipe=run.recipe.model_dump(mode="json"),
        steps=run.plan.steps,
        rows_short=run.plan.kinds.count(False),
        rows_long=run.plan.kinds.count(True),
        rows_left_out=run.rows.left_out,
        tokens=facts["tokens"],
        loss_first=facts["loss_first"],
        loss_last=facts["loss_last"],
        evaluations=facts["evaluations"],
    )
    told = {key: value for key, value in asdict(result).items() if key not in ("seconds", "digest")}
    result = replace(result, digest=digest([told, weights]), seconds=round(facts["seconds"], 3))
    problem = None
    if run.ranks.rank == 0:
        try:
            _export(run, last, model, source, scaling, factors, command, result)
            write_json(run.out / RESULT, asdict(result))
        except (StoreError, UsageError) as error:
            problem = error
    problem = run.ranks.gathered(problem)[0]
    if problem is not None:
        raise problem
    return result


def _export(
    run: _Run,
    last: checkpoints.Saved,
    model: Any,
    source: Path,
    scaling: RopeScaling,
    factors: FactorsFile | None,
    command: Sequence[str],
    result: TrainingResult,
) -> None:
    """``out/model``: the trained weights in the precision of the source, under its configuration with the new RoPE."""
    from safetensors.torch import load_file

    for left in (run.out / MODEL, *run.out.glob(".weights-*"), *run.out.glob(f".{MODEL}-*")):
        shutil.rmtree(left, ignore_errors=True)  # of an attempt that was killed
    dtype = getattr(torch, Checkpoint.open(source, cache=cache_dir()).dtype)
    weights = load_file(last.folder / "weights.safetensors")
    named = {
        name.removeprefix(
            "model.",
        ): value.to(dtype)
        for name, value in weights.items()
    }
    made = factors or FactorsFile(Path("factors"), digest(scaling.to_json()), scaling.long_factor, scaling)
    with tempfile.TemporaryDirectory(prefix=".weights-", dir=run.out) as work:
        model.save_pretrained(work, state_dict=named)
        about = {"recipe": run.recipe.name, "steps": result.steps, "tokens": result.tokens, "digest": result.digest}
        export(ModelRope.read(source), scaling, run.out / MODEL, factors=made, command=command,
               trained=Path(work), training=about)  # fmt: skip


LOG_FILE = "log.jsonl"


class TrainLog:
    """The log of an output folder from ``step`` on: lines behind it are of steps that will be done again."""

    def __init__(self, home: Path, step: int, ranks: Ranks) -> None:
        self._path, self._ranks = home / LOG_FILE, ranks
        if ranks.rank == 0:
            kept = [line for line in read(home) if line["step"] <= step]
            write_atomic(self._path, "".join(json.dumps(line) + "\n" for line in kept) if step else "")

    def write(self, line: Mapping[str, Any]) -> None:
        """One line; the first process adds its memory (GiB: allocated at most on a GPU, resident on a CPU)."""
        if self._ranks.rank:
            return
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({**line, "memory_gib": round(_memory(self._ranks.device) / 2**30, 3)}) + "\n")
        except OSError as error:
            raise StoreError(f"{self._path}: {error.strerror}; fix this and run the same command again") from error


def _memory(device: str) -> int:
    if device.startswith("cuda"):
        return int(torch.cuda.max_memory_allocated(device))
    return int(psutil.Process().memory_info().rss)


def read(home: Path) -> list[dict[str, Any]]:
    """The lines of a log; half a line at the end, left by a kill, is not one."""
    try:
        text = (home / LOG_FILE).read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
