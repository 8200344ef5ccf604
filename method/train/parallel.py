"""Many processes: their ranks, sharded weights (FSDP2), and one long row split over several of them.

The process group is made from the environment variables of torchrun or ``accelerate launch``. Without them there is
one process, and nothing here has an effect.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import distributed, nn

from lr2eval.errors import UsageError
from lr2eval.method.train.batches import MicroBatch


@dataclass(frozen=True)
class Ranks:
    """This process's rank, in group ``data_rank`` of ``data_ranks``. A group of ``context`` processes shares rows."""

    rank: int = 0
    size: int = 1
    context: int = 1
    device: str = "cpu"
    mesh: Any = None

    @property
    def data_rank(self) -> int:
        return self.rank // self.context

    @property
    def data_ranks(self) -> int:
        return self.size // self.context

    @property
    def context_rank(self) -> int:
        return self.rank % self.context

    def sums(self, values: Sequence[float]) -> list[float]:
        """Each value summed over all processes."""
        if self.size == 1:
            return list(values)
        summed = torch.tensor(values, dtype=torch.float64, device=self.device)
        distributed.all_reduce(summed)
        return [float(value) for value in summed.tolist()]

    def gathered(self, value: Any) -> list[Any]:
        """The values of all processes, in the order of ranks."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        distributed.all_gather_object(found, value)
        return found

    def in_first(self, work: Callable[[], object]) -> None:
        """Do ``work`` in the first process only. An error it raises is raised in every process."""
        problem = None
        if self.rank == 0:
            try:
                work()
            except Exception as error:
                problem = error
        problem = self.gathered(problem)[0]
        if problem is not None:
            raise problem


@contextmanager
def ranks(device: str, context: int) -> Iterator[Ranks]:
    """The process group of the launcher, made here unless it exists.

    Raises :class:`UsageError` if ``context`` does not divide the number of processes.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size % context:
        raise UsageError(f"context_parallel = {context} does not divide the {size} processes; start a multiple of it")
    if size == 1:
        yield Ranks(device=device)
        return
    if context > 1 and not device.startswith("cuda"):
        raise UsageError("context_parallel: works on GPUs only; set it to 1")
    if device.startswith("cuda"):
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
        torch.cuda.set_device(device)
    ours = not distributed.is_initialized()
    if ours:
        distributed.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    try:
        yield Ranks(distributed.get_rank(), size, context, device, _context_mesh(device, size, context))
    finally:
        if ours:
            distributed.destroy_process_group()


def _context_mesh(device: str, size: int, context: int) -> Any:
    if context == 1:
        return None
    shape = (size // context, context)
    return distributed.init_device_mesh(device.partition(":")[0], shape, mesh_dim_names=("data", "context"))


def shard(model: nn.Module, decoder: Any, ranks: Ranks, dtype: torch.dtype) -> None:
    """FSDP2 over all processes, layer by layer: weights, gradients and optimizer state are split, arithmetic is
    ``dtype`` and gradients are summed in float32. ``decoder`` is the part of ``model`` with ``layers``.

    Only the first process needs weights. If others have the model on the ``meta`` device, it sends them its weights,
    layer by layer, so that no other process ever holds the whole model.
    """
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    mesh = distributed.init_device_mesh(ranks.device.partition(":")[0], (ranks.size,))
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
    hollow = any(each.is_meta for each in model.parameters())
    sending = any(ranks.gathered(hollow))
    if hollow:
        model.to_empty(device="cpu")  # memory that is not written to is not taken
        model.model.tie_weights()

    def send(module: nn.Module) -> None:
        for tensor in (*module.parameters(), *module.buffers()) if sending else ():
            if not hasattr(tensor, "device_mesh"):  # a sharded one was sent before
                moved = tensor.detach().to(ranks.device)
                distributed.broadcast(moved, 0)
                tensor.detach().copy_(moved)

    for layer in decoder.layers:
        send(layer)
        fully_shard(layer, mesh=mesh, mp_policy=policy)
    send(model)
    # The outermost module must also be resharded after a forward: an evaluation has no backward to do it.
    fully_shard(model, mesh=mesh, mp_policy=policy, reshard_after_forward=True)


@contextmanager
def shared_row(batch: MicroBatch, decoder: Any, ranks: Ranks) -> Iterator[MicroBatch]:
    """Inside, a long batch holds this process's part of every row, and attention runs around the ring of processes.

    Torch's ring attention is causal and supports no masks. Transformers would read the jump in a part's position ids as
    a document border and build a mask, so a hook removes the mask before every layer. That is correct only for one
    document per row; a packed batch raises :class:`ValueError`.
    """
    if not batch.long or not torch.equal(batch.position_ids, _whole(batch.position_ids)):
        raise ValueError(
            "context parallel needs long rows of one document; packed rows are cut between documents instead"
        )
    from torch.distributed.tensor.experimental import context_parallel

    buffers = [batch.input_ids, batch.position_ids, batch.targets]
    buffers += [] if batch.weights is None else [batch.weights]
    attention = [layer.self_attn for layer in decoder.layers]
    hooks = [each.register_forward_pre_hook(_without_mask, with_kwargs=True) for each in attention]
    try:
        with context_parallel(
            ranks.mesh["context"], buffers=buffers, buffer_seq_dims=[1] * len(buffers), no_restore_buffers=set(buffers)
        ):
            yield batch
    finally:
        for hook in hooks:
            hook.remove()


def _whole(position_ids_BL: torch.Tensor) -> torch.Tensor:
    return torch.arange(position_ids_BL.shape[1], device=position_ids_BL.device).expand_as(position_ids_BL)


def _without_mask(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    return args, kwargs | {"attention_mask": None, "is_causal": True}
