"""One micro-batch forward and backward on one or more processes, and measurements with the same forward."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from lr2eval.base.machine import denormals_as_zero
from lr2eval.errors import UsageError
from lr2eval.method.data.rows import IGNORED, Segment
from lr2eval.method.rope.scaling import RopeScaling
from lr2eval.method.rope.windowed import install_rope
from lr2eval.method.search.needles import Sample
from lr2eval.method.search.perplexity import perplexity
from lr2eval.method.train.attention import refusal
from lr2eval.method.train.batches import MicroBatch, deal, empty, micro_batch, piece, weights_of
from lr2eval.method.train.loss import LossModel, liger
from lr2eval.method.train.parallel import Ranks, shard, shared_row
from lr2eval.method.train.recipe import DOCUMENTS, FLASH, FLEX, Recipe


class Engine:
    """The model made ready to train: windowed rotary module, precision, checkpointing, sharding, optimizer.

    ``model`` is a Hugging Face decoder in float32 and is changed in place. It keeps its own attention if the recipe
    names none. Raises :class:`UsageError` for a model that
    cannot be trained this way.
    """

    def __init__(self, model: Any, scaling: RopeScaling, recipe: Recipe, ranks: Ranks) -> None:
        self.model, self.recipe, self.ranks = model, recipe, ranks
        self.dtype = dtype_of(recipe, ranks.device)
        torch.manual_seed(recipe.seed + ranks.rank)  # for models with dropout
        try:
            if recipe.attention == DOCUMENTS and (why := refusal(model)):
                raise ValueError(f"attention {DOCUMENTS} does not work, as {why}; use --set attention=sdpa or eager")
            if recipe.attention:
                model.set_attn_implementation(recipe.attention)
            if recipe.attention == FLEX:
                if ranks.device == "cpu":
                    raise ValueError(f"{FLEX} cannot train on a CPU; use --set attention={DOCUMENTS}")
                # After the default limit (8), masks are no longer compiled and take 9 bytes for each pair of tokens.
                torch._dynamo.config.recompile_limit = 64
            rotary = install_rope(model, scaling)
        except (ValueError, ImportError) as error:
            raise UsageError(f"{type(model).__name__}: {str(error).splitlines()[0]}") from error
        assert rotary is not None  # a scaling was given
        if recipe.gradient_checkpointing:
            # Newer transformers warn at the old name.
            enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
            enable({"use_reentrant": False})
        kernel = liger(ranks.device) if recipe.loss == "liger" else None
        self.loss_model = LossModel(model, rotary, recipe.loss_chunk, kernel)
        if ranks.size > 1:
            shard(self.loss_model, model.base_model, ranks, self.dtype)
        self.loss_model.to(ranks.device).train()
        self.optimizer = torch.optim.AdamW(
            self.loss_model.parameters(),
            lr=recipe.optimizer.learning_rate,
            betas=recipe.optimizer.betas,
            eps=recipe.optimizer.epsilon,
            weight_decay=recipe.optimizer.weight_decay,
        )

    def loss(self, rows: Sequence[Segment] | None, scale: float | None = None) -> torch.Tensor:
        """Weighted sum of cross-entropies of this process's part of a micro-batch; ``None``: one without targets.

        With ``scale``, the gradients of ``scale`` times the sum are accumulated. Every process must call it equally
        often.
        """
        batch = empty() if rows is None else micro_batch(rows)
        if rows is not None and self.recipe.attention in (DOCUMENTS, FLASH):
            # Nothing is learnt from padding. Flex attention compiles for lengths; others stay as they were, to the bit.
            length = batch.input_ids.shape[1] - min(row.padding for row in rows)
            batch = batch.each(lambda whole_BL: whole_BL[:, :length])
        if self.ranks.context > 1 and rows is not None and not batch.long:
            batch = piece(batch, self.ranks.context_rank, self.ranks.context)
        return self._run(batch, scale)

    def _run(self, batch: MicroBatch, scale: float | None = None) -> torch.Tensor:
        with self._laid_out(batch.each(lambda tensor: tensor.to(self.ranks.device))) as part:
            with self._autocast():
                total = self.loss_model(part.input_ids, part.position_ids, part.targets, part.weights, part.lengths)
            if scale is not None:
                (total * scale).backward()
        return total.detach()

    @contextmanager
    def _laid_out(self, batch: MicroBatch) -> Iterator[MicroBatch]:
        """Splits a long row over the processes of the context group, for forward and backward."""
        if self.ranks.context == 1 or not batch.long:
            yield batch
            return
        usual = self.model.config._attn_implementation
        self.model.set_attn_implementation("sdpa")  # torch's ring attention replaces sdpa
        try:
            with shared_row(batch, self.model.base_model, self.ranks) as part:
                yield part
        finally:
            self.model.set_attn_implementation(usual)

    def _autocast(self) -> Any:
        # Sharded weights are gathered in the chosen precision.
        lower = self.ranks.size == 1 and self.dtype != torch.float32
        # With the cache, all pieces of the loss would sum their gradients in one bfloat16 copy of the head.
        return torch.autocast(self.ranks.device.partition(":")[0], self.dtype, lower, cache_enabled=False)

    def step(self, groups: Sequence[Sequence[Segment] | None], weight: float, rate: float) -> tuple[list[float], float]:
        """One update. ``weight`` is the sum over all targets of the global batch; ``rate`` the learning rate.

        Returns the weighted sums of (short, long) cross-entropies over all processes and the norm of the gradient
        before clipping. Nothing is updated if one of them is not finite.
        """
        sums = [torch.zeros((), device=self.ranks.device) for _ in range(2)]
        self.optimizer.zero_grad(set_to_none=True)
        with denormals_as_zero():
            for rows in groups:
                kind = bool(rows and rows[0].long)
                # FSDP averages gradients over the processes; scaling by their number gives the sum.
                sums[kind] = sums[kind] + self.loss(rows, self.ranks.size / weight)
        norm = torch.nn.utils.clip_grad_norm_(self.loss_model.parameters(), self.recipe.optimizer.clip)
        gradient = float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)
        losses = self.ranks.sums([float(each) for each in sums])
        if all(map(math.isfinite, [*losses, gradient])):
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            self.optimizer.step()
        return losses, gradient

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def held_out(self, rows: Sequence[Segment]) -> dict[str, float]:
        """Mean loss per unit of weight over short and over long held-out rows; a kind without rows is left out."""
        self.loss_model.eval()
        sums = [0.0, 0.0]
        for group in deal([[number] for number in range(len(rows))], self.ranks.data_rank, self.ranks.data_ranks):
            chosen = None if group is None else [rows[number] for number in group]
            sums[bool(chosen and chosen[0].long)] += float(self.loss(chosen))
        self.loss_model.train()
        found = zip(("short", "long"), self.ranks.sums(sums), weights_of(rows), strict=True)
        return {f"held_out_{kind}": total / weight for kind, total, weight in found if weight}

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def needle_perplexity(self, samples: Sequence[Sample]) -> float:
        """Needle perplexity, as :mod:`lr2eval.method.search.perplexity` computes it."""
        self.loss_model.eval()
        total = 0.0
        for group in deal([[number] for number in range(len(samples))], self.ranks.data_rank, self.ranks.data_ranks):
            batch = empty() if group is None else _needle_batch(samples[group[0]])
            total += float(self._run(batch)) / (1 if group is None else len(samples[group[0]].scored))
        self.loss_model.train()
        return perplexity([self.ranks.sums([total])[0] / len(samples)])


def _needle_batch(sample: Sample) -> MicroBatch:
    ids_BL = torch.tensor([sample.ids])
    targets_BL = torch.full_like(ids_BL, IGNORED)
    before = torch.tensor(sample.scored) - 1
    targets_BL[0, before] = ids_BL[0, before + 1]
    length = len(sample.ids)
    return MicroBatch(True, ids_BL, torch.arange(length)[None], targets_BL, None, (length,))


def dtype_of(recipe: Recipe, device: str) -> torch.dtype:
    """The precision of the computation on a device."""
    lower = device.startswith("cuda") if recipe.dtype == "auto" else recipe.dtype == "bfloat16"
    return torch.bfloat16 if lower else torch.float32
