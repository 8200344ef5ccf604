"""What each process of ``test_train_ranks.py`` runs: ``two_ranks.py SOURCE OUT STOP``, under torchrun or alone."""

from __future__ import annotations

import faulthandler
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch.distributed.tensor import DTensor

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from transformers import AutoModelForCausalLM  # noqa: E402

from lr2eval.method.needles import Sample  # noqa: E402
from lr2eval.method.recipe import Recipe  # noqa: E402
from lr2eval.method.rope import OriginalRope  # noqa: E402
from lr2eval.method.rope_rules import RULES  # noqa: E402
from lr2eval.method.train import train  # noqa: E402
from lr2eval.method.train_engine import Engine  # noqa: E402
from tests import tiny_models, tiny_segments  # noqa: E402

TARGET = 96


def main(source: Path, out: Path, stop: int) -> None:
    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    recipe = Recipe(
        name="ranks", original_window=tiny_models.ORIGINAL, target_window=TARGET, short_tokens=0, long_tokens=0,
        global_batch=5, micro_batch=2, epochs=10, steps=20, gradient_checkpointing=True, saving={"every": 5},
        evaluation={"every": 10}, optimizer={"learning_rate": 1e-3, "warmup_steps": 4},
    )  # fmt: skip
    kinds: list[str] = []

    def hook(model: Any, step: int) -> Mapping[str, float]:
        logits = model(torch.arange(2, 42)[None], use_cache=False).logits
        return {"mean_logit": float(logits.float().mean())}

    usual = Engine.step

    def watched(self: Engine, *args: Any) -> Any:
        kinds[:] = sorted({type(parameter).__name__ for parameter in self.loss_model.parameters()})
        assert all(
            isinstance(parameter, DTensor) == (self.ranks.size > 1) for parameter in self.loss_model.parameters()
        )
        if stop and len(seen) == stop:
            raise KeyboardInterrupt
        seen.append(len(args[0]))
        return usual(self, *args)

    seen: list[int] = []
    Engine.step = watched  # type: ignore[method-assign]
    scaling = RULES["longrope2"].make(OriginalRope(1000.0, 2 * tiny_models.PAIRS, tiny_models.ORIGINAL), TARGET)
    needles = [Sample(tuple(range(2 + n, 2 + n + TARGET)), (TARGET - 1,)) for n in range(3)]
    rows = tiny_segments.mixture(15, weighted=True)
    held_out = tiny_segments.mixture(18)[15:]
    train(recipe, model, source, rows, scaling, out, held_out=held_out, needles=needles, hook=hook)
    rank = os.environ.get("RANK", "0")
    (out / f"seen-{rank}.json").write_text(json.dumps({"kinds": kinds, "micro_batches": seen}))


if __name__ == "__main__":
    faulthandler.dump_traceback_later(150, exit=True)  # processes that wait for each other say where
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
