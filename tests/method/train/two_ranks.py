"""What each process of ``test_ranks.py`` runs: ``two_ranks.py SOURCE OUT`` under torchrun."""

from __future__ import annotations

import faulthandler
import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from torch.distributed.tensor import DTensor
from transformers import AutoModelForCausalLM

sys.path.insert(0, str(Path(__file__).parents[3]))

from lr2eval.backends.loading import outline
from lr2eval.method.rope.rules import RULES
from lr2eval.method.rope.scaling import OriginalRope
from lr2eval.method.search.needles import Sample
from lr2eval.method.train.engine import Engine
from lr2eval.method.train.recipe import Recipe
from lr2eval.method.train.train import train
from lr2eval.model.checkpoint import Checkpoint
from tests import tiny_models, tiny_segments

TARGET = 96


def run(source: Path, out: Path, stop: int = 0, *, hollow: bool = False) -> None:
    """Twenty steps; with ``stop`` the process is interrupted in front of that step of its own.

    ``hollow``: only the first process has the weights.
    """
    torch.set_num_threads(1)
    if hollow and os.environ["RANK"] != "0":
        model = outline(Checkpoint.open(source))
    else:
        model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    recipe = Recipe(
        name="ranks", original_window=tiny_models.ORIGINAL, target_window=TARGET, short_tokens=0, long_tokens=0,
        global_batch=5, micro_batch=2, epochs=10, steps=20, gradient_checkpointing=True, saving={"every": 5},
        evaluation={"every": 10}, optimizer={"learning_rate": 1e-3, "warmup_steps": 4},
    )  # fmt: skip
    micro_batches: list[int] = []
    kinds: set[bool] = set()
    usual = Engine.step

    def watched(self: Engine, *args: Any) -> Any:
        kinds.update(isinstance(parameter, DTensor) for parameter in self.loss_model.parameters())
        micro_batches.append(len(args[0]))
        if len(micro_batches) == stop:
            raise KeyboardInterrupt
        return usual(self, *args)

    scaling = RULES["longrope2"].make(OriginalRope(1000.0, 2 * tiny_models.PAIRS, tiny_models.ORIGINAL), TARGET)
    needles = [Sample(tuple(range(2 + n, 2 + n + TARGET)), (TARGET - 1,)) for n in range(3)]
    rows = tiny_segments.mixture(15, weighted=True)
    held_out = tiny_segments.mixture(18)[15:]
    Engine.step = watched  # type: ignore[method-assign]
    try:
        train(recipe, model, source, rows, scaling, out, held_out=held_out, needles=needles)
    except KeyboardInterrupt:
        return
    finally:
        Engine.step = usual  # type: ignore[method-assign]
    rank = os.environ.get("RANK", "0")
    seen = {"split": sorted(kinds), "micro_batches": micro_batches}
    (out / f"seen-{rank}.json").write_text(json.dumps(seen))


if __name__ == "__main__":
    faulthandler.dump_traceback_later(150, exit=True)  # processes that wait for each other say where
    torch.distributed.init_process_group("gloo")
    source, out = Path(sys.argv[1]), Path(sys.argv[2])
    run(source, out / "calm")
    run(source, out / "hollow", hollow=True)
    run(source, out / "rough", stop=8)
    assert not (out / "rough" / "training.json").exists()
    run(source, out / "rough")
    run(source, out / "fewer", stop=8)
    torch.distributed.destroy_process_group()
