"""What a training needs from a GPU and cannot be tested without one: does it hold, and how fast is it?

    python benchmarks/gpu/train_check.py                                     # one GPU
    torchrun --nproc-per-node 2 benchmarks/gpu/train_check.py                # two or more: context parallel, too
    python benchmarks/gpu/train_check.py --rehearse                          # on a CPU, tiny: what can run there

Checks, each against sdpa attention over the same documents one by one: gradients of packed rows under flex attention
and flash attention, Liger's fused loss, long rows over several GPUs. Then tokens a second of rows of ``--length``
tokens through ``--layers`` layers of the sizes of LLaMA3-8B. Prints a line for each (pass, FAIL, or not here) and one
JSON object; exits 1 if one fails.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

sys.path.insert(0, str(Path(__file__).parents[2]))

from lr2eval.method.data.rows import Segment
from lr2eval.method.rope.rules import RULES
from lr2eval.method.rope.scaling import OriginalRope
from lr2eval.method.train.engine import Engine
from lr2eval.method.train.parallel import Ranks, ranks
from lr2eval.method.train.recipe import Recipe
from tests.tiny_segments import long_row, short_row

WINDOW, LENGTH = 128, 1024
"""Of the checks for equality; lengths of the speed checks are arguments."""


class NotHereError(Exception):
    """Something that this machine lacks."""


def model(hidden: int, layers: int, window: int) -> Any:
    """A random decoder with LLaMA3-8B's proportions; the same one each time."""
    torch.manual_seed(0)
    heads = hidden // 64 if hidden < 4096 else 32
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=512 if hidden < 4096 else 128256, hidden_size=hidden, intermediate_size=hidden * 7 // 2,
            num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=max(1, heads // 4),
            max_position_embeddings=window, initializer_range=0.1 if hidden < 4096 else 0.02,
            rope_parameters={"rope_type": "default", "rope_theta": 500000.0},
        )
    )  # fmt: skip


def engine(place: Ranks, hidden: int, layers: int, window: int, length: int, **changes: Any) -> Engine:
    """A model of those sizes made ready to train."""
    made = model(hidden, layers, window)
    scaling = RULES["yarn"].make(OriginalRope(500000.0, made.config.head_dim, window), length)
    recipe = Recipe(name="check", original_window=window, target_window=length, short_tokens=0, long_tokens=0,
                    global_batch=1, **({"dtype": "bfloat16"} | changes))  # fmt: skip
    return Engine(made, scaling, recipe, place)


def packed(length: int, window: int, vocabulary: int) -> Segment:
    """One row of documents of a window, half of it, an eighth, and one token."""
    documents: list[int] = []
    while (left := length - sum(documents)) > 0:
        documents += [min(left, size) for size in (window, window // 2, window // 8, 1)][
            : 4 if left > 2 * window else 1
        ]
    return short_row(0, documents, vocabulary=vocabulary)


def gradients(found: Engine, row: Segment) -> tuple[float, list[torch.Tensor]]:
    """Loss per token and gradients of one row, in float32 on the host; of a split model those in whole."""
    found.optimizer.zero_grad(set_to_none=True)
    loss = found.ranks.sums([float(found.loss([row], found.ranks.size / len(row)))])[0]
    grads = [parameter.grad for parameter in found.loss_model.parameters()]
    whole = [grad.full_tensor() if hasattr(grad, "full_tensor") else grad for grad in grads]
    return loss / len(row), [grad.float().cpu() for grad in whole]


def alone(row: Segment) -> list[Segment]:
    """The documents of a packed row as rows."""
    found, at = [], 0
    for length in row.document_lengths:
        found.append(replace(row, input_ids=row.input_ids[at : at + length], document_lengths=(length,)))
        at += length
    return found


def reference(place: Ranks, row: Segment) -> tuple[float, list[torch.Tensor]]:
    """Loss and gradients in float32, a packed row document by document."""
    found = engine(replace(place, size=1, rank=0, context=1), 256, 2, WINDOW, LENGTH, dtype="float32", attention="sdpa")
    total, sums = 0.0, [torch.zeros_like(parameter, device="cpu") for parameter in found.loss_model.parameters()]
    for part in [row] if row.long else alone(row):
        loss, grads = gradients(found, part)
        share = len(part) / len(row)
        total += loss * share
        sums = [one + grad * share for one, grad in zip(sums, grads, strict=True)]
    return total, sums


def compare(got: tuple[float, list[torch.Tensor]], wanted: tuple[float, list[torch.Tensor]], limit: float) -> str:
    """Raises :class:`AssertionError` where loss or gradients differ by more than ``limit``, relative."""
    loss = abs(got[0] - wanted[0]) / abs(wanted[0])
    ours, theirs = (torch.cat([grad.flatten() for grad in grads]) for grads in (got[1], wanted[1]))
    gradient = float((ours - theirs).norm() / theirs.norm())
    said = f"loss differs by {loss:.1e}, gradient by {gradient:.1e} (relative; allowed {limit:g})"
    assert loss < limit, said
    assert gradient < limit, said
    return said


def packed_attention(place: Ranks, attention: str) -> str:
    """A packed row under this attention."""
    _needs_gpu(place, f"{attention} with gradients") if attention != "sdpa" else None
    row = packed(LENGTH, WINDOW, 512)
    dtype = "float32" if attention == "sdpa" else "bfloat16"
    found = engine(place, 256, 2, WINDOW, LENGTH, attention=attention, dtype=dtype)
    return compare(gradients(found, row), reference(place, row), 1e-4 if dtype == "float32" else 5e-2)


def flex_forward(place: Ranks) -> str:
    """Loss alone under flex attention, which a CPU can compute."""
    row = packed(LENGTH, WINDOW, 512)
    found = engine(place, 256, 2, WINDOW, LENGTH, attention="flex_attention", dtype="float32")
    with torch.no_grad():
        got = float(found.loss([row])) / len(row)
    wanted = reference(place, row)[0]
    assert abs(got - wanted) < 1e-4 * abs(wanted), f"{got} instead of {wanted}"
    return f"loss differs by {abs(got - wanted) / abs(wanted):.1e} (relative)"


def fused_loss(place: Ranks) -> str:
    """Liger's kernel on a long row."""
    _needs_gpu(place, "Liger's kernel")
    row = long_row(0, LENGTH, vocabulary=512)
    return compare(gradients(engine(place, 256, 2, WINDOW, LENGTH, loss="liger"), row), reference(place, row), 5e-2)


def context_parallel(place: Ranks) -> str:
    """A long row over all processes, then a packed one cut at its documents."""
    if place.size == 1:
        raise NotHereError("start it with torchrun on two GPUs or more")
    said = []
    for row in (long_row(0, LENGTH, vocabulary=512), packed(LENGTH, WINDOW, 512)):
        found = engine(place, 256, 2, WINDOW, LENGTH, context_parallel=place.size)
        said.append(compare(gradients(found, row), reference(place, row), 5e-2))
    return "; ".join(said)


def speed(place: Ranks, kind: str, attention: str, length: int, layers: int, rehearse: bool) -> str:
    """Forward and backward of one row with checkpointing: tokens a second of all processes, memory of one."""
    hidden, window = (256, WINDOW) if rehearse else (4096, 8192)
    if attention == "sdpa" and kind == "packed" and length // place.context > 32768:
        raise NotHereError("sdpa makes a square mask of a packed row; flash or flex attention does without")
    if attention != "sdpa":
        _needs_gpu(place, attention)
    vocabulary = 512 if rehearse else 128256
    row = long_row(0, length, vocabulary=vocabulary) if kind == "long" else packed(length, window, vocabulary)
    found = engine(place, hidden, layers, window, length, attention=attention, gradient_checkpointing=True,
                   context_parallel=place.context)  # fmt: skip
    times = []
    for _ in range(4):
        _synchronise(place)
        began = time.perf_counter()
        found.optimizer.zero_grad(set_to_none=True)
        loss = float(found.loss([row], 1.0 / len(row)))
        _synchronise(place)
        times.append(time.perf_counter() - began)
        assert math.isfinite(loss), "the loss is no number"
    rate = [place.data_ranks * length / seconds for seconds in times[1:]]  # the first one compiles
    peak = ""
    if place.device.startswith("cuda"):
        peak = f", peak {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB"
    return f"{sorted(rate)[1]:,.0f} tokens/s (3 runs, {min(rate):,.0f} to {max(rate):,.0f}){peak}"


def _needs_gpu(place: Ranks, what: str) -> None:
    if not place.device.startswith("cuda"):
        raise NotHereError(f"{what} needs a GPU")


def _synchronise(place: Ranks) -> None:
    if place.device.startswith("cuda"):
        torch.cuda.synchronize()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rehearse", action="store_true", help="on a CPU, in tiny sizes")
    parser.add_argument("--length", type=int, help="of the rows of the speed checks [default: 131072]")
    parser.add_argument("--layers", type=int, default=4, help="of the speed checks [default: 4]")
    parser.add_argument("--json", type=Path, help="also write the result here")
    arguments = parser.parse_args()
    if not arguments.rehearse and not torch.cuda.is_available():
        raise SystemExit("no GPU; --rehearse runs what a CPU can")
    if arguments.rehearse:
        torch.set_num_threads(1)
    length = arguments.length or (LENGTH if arguments.rehearse else 131072)
    facts: dict[str, str] = {}
    size = int(os.environ.get("WORLD_SIZE", "1"))
    with ranks("cpu" if arguments.rehearse else "cuda", 1 if arguments.rehearse else size) as place:
        checks: dict[str, Callable[[], str]] = {"context parallel": lambda: context_parallel(place)}
        if size == 1:
            checks |= {f"packed, {name}": lambda name=name: packed_attention(place, name)
                       for name in ("sdpa", "flex_attention", "flash_attention_2")}  # fmt: skip
            checks |= {"flex attention, forward": lambda: flex_forward(place), "Liger": lambda: fused_loss(place)}
        for kind in ("long", "packed"):
            for name in ("sdpa", "flex_attention", "flash_attention_2") if size == 1 else ("sdpa",):
                checks[f"speed, {kind} row of {length:,}, {arguments.layers} layers, {name}"] = (
                    lambda kind=kind, name=name: speed(place, kind, name, length, arguments.layers, arguments.rehearse)
                )
        for name, check in checks.items():
            try:
                facts[name] = f"pass: {check()}"
            except NotHereError as error:
                facts[name] = f"not here: {error}"
            except Exception as error:  # every check is to be heard
                facts[name] = f"FAIL: {type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
            if place.rank == 0:
                print(f"{name}: {facts[name]}", flush=True)
        device = torch.cuda.get_device_name() if place.device.startswith("cuda") else "CPU"
        result = {"device": device, "processes": size, "torch": torch.__version__, "checks": facts}
        if place.rank == 0:
            print(json.dumps(result, indent=2))
            if arguments.json:
                arguments.json.write_text(json.dumps(result, indent=2) + "\n")
    return int(any(said.startswith("FAIL") for said in facts.values()))


if __name__ == "__main__":
    sys.exit(main())
