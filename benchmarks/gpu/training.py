"""Stage 2 of ``day.py``: what training needs from a GPU. Does it hold, how fast is it, how much memory does it take?

    torchrun --nproc-per-node 2 benchmarks/gpu/training.py     # by hand, on several GPUs: context parallelism

Checks compare with sdpa over the same documents one by one, in float32 (TF32 off). ``varlen`` stands for torch's own
kernel for packed rows, ``torch.nn.attention.varlen``, put behind transformers' attention interface here.
"""

from __future__ import annotations

import functools
import importlib.util
import math
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, LlamaConfig, LlamaForCausalLM

sys.path.insert(0, str(Path(__file__).parents[2]))
from checks import GIB, Check, NotHereError, Stage, main

from lr2eval.method.data.rows import Segment
from lr2eval.method.rope.rules import RULES
from lr2eval.method.rope.scaling import OriginalRope
from lr2eval.method.train.engine import Engine
from lr2eval.method.train.parallel import Ranks, ranks
from lr2eval.method.train.recipe import Recipe
from tests.tiny_segments import long_row, short_row

WINDOW, LENGTH = 128, 1024
"""Of the checks for equality."""
PACKED = ("sdpa", "flex_attention", "flash_attention_2", "varlen")


def varlen(
    module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attention_mask: None,
    scaling: float | None = None, position_ids: torch.Tensor | None = None, **ignored: Any,
) -> tuple[torch.Tensor, None]:  # fmt: skip
    """One row (1, heads, tokens, width); a document begins where a position is 0. Half precision only."""
    assert position_ids is not None
    assert len(query) == 1
    starts = (position_ids[0] == 0).nonzero()[:, 0].to(torch.int32)
    cuts = torch.cat([starts, starts.new_tensor([query.shape[2]])])
    longest = int((cuts[1:] - cuts[:-1]).max())
    times = query.shape[1] // key.shape[1]
    parts = [each[0].transpose(0, 1).to(torch.bfloat16) for each in (query, key, value)]
    parts[1:] = [each.repeat_interleave(times, dim=1) for each in parts[1:]]
    kernel = stand_in
    if query.is_cuda:
        from torch.nn.attention.varlen import varlen_attn as kernel
    return kernel(*parts, cuts, cuts, longest, longest, scale=scaling, window_size=(-1, 0))[None], None


def stand_in(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, cuts: torch.Tensor, *_: Any, scale: float, **rest: Any,
) -> torch.Tensor:  # fmt: skip
    """What the kernel computes, document by document, so that a CPU can rehearse all that is around it."""
    sizes = (cuts[1:] - cuts[:-1]).tolist()
    parts = zip(*(each.transpose(0, 1).split(sizes, dim=1) for each in (query, key, value)), strict=True)
    found = [scaled_dot_product_attention(*part, is_causal=True, scale=scale) for part in parts]
    return torch.cat(found, dim=1).transpose(0, 1)


AttentionInterface.register("varlen", varlen)


def model(hidden: int, layers: int, window: int, device: str) -> Any:
    """A random decoder with LLaMA3-8B's proportions; the same one each time."""
    torch.manual_seed(0)
    large = hidden >= 4096
    heads = 32 if large else hidden // 64
    with torch.device(device if large else "cpu"):
        return LlamaForCausalLM(
            LlamaConfig(
                vocab_size=128256 if large else 512, hidden_size=hidden, intermediate_size=hidden * 7 // 2,
                num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=max(1, heads // 4),
                max_position_embeddings=window, initializer_range=0.02 if large else 0.1,
                rope_parameters={"rope_type": "default", "rope_theta": 500000.0},
            )
        )  # fmt: skip


def engine(place: Ranks, hidden: int, layers: int, window: int, length: int, **changes: Any) -> Engine:
    """A model of those sizes made ready to train."""
    made = model(hidden, layers, window, place.device)
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


Gradients = tuple[float, list[torch.Tensor]]
"""Loss per token, and a gradient for each parameter."""


def reference(place: Ranks, row: Segment, dtype: str = "float32") -> Gradients:
    """Loss and gradients under sdpa, a packed row document by document."""
    place = replace(place, size=1, rank=0, context=1)
    made = engine(place, 256, 2, WINDOW, LENGTH, dtype=dtype, attention="sdpa")
    total, sums = 0.0, [torch.zeros_like(parameter, device="cpu") for parameter in made.loss_model.parameters()]
    for part in [row] if row.long else alone(row):
        loss, grads = gradients(made, part)
        share = len(part) / len(row)
        total += loss * share
        sums = [one + grad * share for one, grad in zip(sums, grads, strict=True)]
    return total, sums


def gaps(got: Gradients, wanted: Gradients) -> tuple[float, float]:
    """Relative differences of (loss, whole gradient)."""
    ours, theirs = (torch.cat([grad.flatten() for grad in grads]) for grads in (got[1], wanted[1]))
    return abs(got[0] - wanted[0]) / abs(wanted[0]), float((ours - theirs).norm() / theirs.norm())


def compare(got: Gradients, place: Ranks, row: Segment, dtype: str = "bfloat16") -> str:
    """Raises :class:`AssertionError` where ``got`` is further from float32 than sdpa is in the same precision.

    A gradient may be off by 1.5 times what sdpa's is, document by document; in float32 by 1e-4.
    """
    exact = reference(place, row)
    loss, gradient = gaps(got, exact)
    allowed = 1e-4 if dtype == "float32" else 1.5 * gaps(reference(place, row, dtype), exact)[1]
    said = f"loss differs by {loss:.1e}, gradient by {gradient:.1e} (relative to float32; allowed {allowed:.1e})"
    assert loss < (1e-4 if dtype == "float32" else 2e-3), said
    assert gradient < allowed, said
    return said


def missing(attention: str) -> str | None:
    """What this attention needs that is not here."""
    if attention == "flash_attention_2" and importlib.util.find_spec("flash_attn") is None:
        return "the package flash-attn"
    if attention == "varlen" and importlib.util.find_spec("torch.nn.attention.varlen") is None:
        return "torch.nn.attention.varlen"
    return None


def _needs(stage: Stage, attention: str) -> None:
    if attention not in ("sdpa", "varlen"):
        stage.needs_gpu(f"the backward of {attention}")
    if lacks := missing(attention):
        raise NotHereError(f"needs {lacks}")


def packed_row(stage: Stage, attention: str) -> str:
    """Loss and gradients of one packed row under this attention."""
    _needs(stage, attention)
    place, row = Ranks(device=stage.device), packed(LENGTH, WINDOW, 512)
    dtype = "float32" if attention == "sdpa" else "bfloat16"
    found = engine(place, 256, 2, WINDOW, LENGTH, attention=attention, dtype=dtype)
    return compare(gradients(found, row), place, row, dtype)


def flex_forward(stage: Stage) -> str:
    """The loss alone under flex attention, which a CPU can compute."""
    place, row = Ranks(device=stage.device), packed(LENGTH, WINDOW, 512)
    wanted, gaps = reference(place, row)[0], {}
    for dtype in ("float32", "bfloat16"):
        found = engine(place, 256, 2, WINDOW, LENGTH, dtype=dtype)
        found.model.set_attn_implementation("flex_attention")
        with torch.no_grad():
            gaps[dtype] = abs(float(found.loss([row])) / len(row) - wanted) / abs(wanted)
    said = f"loss differs by {gaps['float32']:.1e} in float32, {gaps['bfloat16']:.1e} in bfloat16 (relative)"
    assert gaps["float32"] < 1e-4, said
    assert gaps["bfloat16"] < 1e-2, said
    return said


def fused_loss(stage: Stage) -> str:
    """Liger's kernel on a long row."""
    stage.needs_gpu("Liger's kernel")
    if importlib.util.find_spec("liger_kernel") is None:
        raise NotHereError("needs the package liger-kernel")
    place, row = Ranks(device=stage.device), long_row(0, LENGTH, vocabulary=512)
    return compare(gradients(engine(place, 256, 2, WINDOW, LENGTH, loss="liger"), row), place, row)


def row_of(kind: str, length: int, window: int, vocabulary: int) -> Segment:
    return long_row(0, length, vocabulary=vocabulary) if kind == "long" else packed(length, window, vocabulary)


def speed(stage: Stage, kind: str, attention: str, length: int, layers: int = 2, **changes: Any) -> tuple[str, Any]:
    """Forward and backward of one row with checkpointing: tokens a second, and the peak of the GPU's memory."""
    _needs(stage, attention)
    if stage.rehearse:
        length = length // 128
    hidden, window, vocabulary = (256, WINDOW, 512) if stage.rehearse else (4096, 8192, 128256)
    if attention == "sdpa" and kind == "packed" and length > 32768:
        raise NotHereError("sdpa makes a square mask of a packed row: about 49 GiB at 128k")
    row = row_of(kind, length, window, vocabulary)
    made = engine(Ranks(device=stage.device), hidden, layers, window, length, attention=attention,
                  gradient_checkpointing=True, **changes)  # fmt: skip

    def once() -> float:
        made.optimizer.zero_grad(set_to_none=True)
        return float(made.loss([row], 1.0 / len(row)))

    first, loss = stage.timed(once)  # compiles
    assert math.isfinite(loss), "the loss is not a number"
    times = [stage.timed(once)[0] for _ in range(3 if length <= 32768 else 1)]
    made.optimizer.zero_grad(set_to_none=True)
    peak = stage.peak(once)
    rates = sorted(length / seconds for seconds in times)
    numbers = {"tokens_per_second": rates, "first_seconds": first, "peak_bytes_beside_weights": peak}
    memory = "" if peak is None else f", {peak / GIB:.1f} GiB beside the weights"
    spread = f"n={len(rates)}" + (f", {rates[0]:,.0f} to {rates[-1]:,.0f}" if len(rates) > 1 else "")
    said = f"{rates[len(rates) // 2]:,.0f} tokens/s ({spread}; the first took {first:.1f} s){memory}"
    return said, numbers


def _liger(stage: Stage, **of: Any) -> tuple[str, Any]:
    stage.needs_gpu("Liger's kernel")
    return speed(stage, loss="liger", **of)


def measure(kind: str, attention: str, length: int, seconds: float, loss: str = "") -> Check:
    """A check of speed and memory."""
    act = functools.partial(_liger if loss else speed, kind=kind, attention=attention, length=length)
    name = f"{kind} row of {length // 1024}k, {attention}{', ' + loss if loss else ''}"
    return Check(name, act, seconds, measures=True, gpu_only=bool(loss) or attention != "sdpa", gib=70)


CHECKS = [
    Check("packed row, sdpa, gradients", functools.partial(packed_row, attention="sdpa"), 3),
    Check("packed row, flex attention, forward", flex_forward, 15),
    *(
        Check(f"packed row, {each}, gradients", functools.partial(packed_row, attention=each), 15, gpu_only=True)
        for each in PACKED[1:]
    ),
    Check("Liger's loss, gradients", fused_loss, 10, gpu_only=True),
    measure("packed", "flex_attention", 32768, 15),
    measure("packed", "varlen", 32768, 5),
    measure("packed", "sdpa", 32768, 8),
    measure("packed", "flex_attention", 131072, 12),
    measure("packed", "varlen", 131072, 12),
    measure("long", "sdpa", 131072, 18),
    measure("long", "sdpa", 32768, 5),
    measure("long", "sdpa", 32768, 6, "Liger's loss"),
    measure("packed", "flash_attention_2", 131072, 12),
    measure("packed", "sdpa", 131072, 12),
]


def by_torchrun() -> int:
    """Context parallelism on the GPUs of this launch: a long row over all of them, a packed one cut at documents."""
    size = int(os.environ["WORLD_SIZE"])
    with ranks("cuda", size) as place:
        for row in (long_row(0, LENGTH, vocabulary=512), packed(LENGTH, WINDOW, 512)):
            found = engine(place, 256, 2, WINDOW, LENGTH, context_parallel=size)
            said = compare(gradients(found, row), place, row)
            if place.rank == 0:
                print(f"{'long' if row.long else 'packed'} row over {size} GPUs: {said}", flush=True)
        row, times = long_row(0, 131072, vocabulary=128256), []
        found = engine(place, 4096, 2, 8192, 131072, gradient_checkpointing=True, context_parallel=size)
        for _ in range(4):
            torch.cuda.synchronize()
            began = time.perf_counter()
            found.optimizer.zero_grad(set_to_none=True)
            found.loss([row], 1.0 / len(row))
            torch.cuda.synchronize()
            times.append(time.perf_counter() - began)
        if place.rank == 0:
            print(
                f"long row of 128k, 2 layers, {size} GPUs: {len(row) / sorted(times[1:])[1]:,.0f} tokens/s", flush=True
            )
    return 0


def entry(arguments: Sequence[str]) -> int:
    if "--json" not in arguments and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        return by_torchrun()
    return main(CHECKS)


if __name__ == "__main__":
    sys.exit(entry(sys.argv))
