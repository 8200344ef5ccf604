"""Muon (Jordan et al. 2024): SGD with momentum whose steps for matrices are made orthogonal."""

from __future__ import annotations

from collections.abc import Sequence

import torch

_A, _B, _C = 3.4445, -4.7750, 2.0315
"""Coefficients of the quintic Newton-Schulz iteration, as published."""


class Muon:
    """For matrices only; matrices of one shape (up to transposition) are stacked, which is faster."""

    def __init__(
        self,
        matrices: Sequence[torch.nn.Parameter],
        *,
        momentum: float = 0.95,
        decay: float = 0.01,
        iterations: int = 5,
    ) -> None:
        self._groups: dict[tuple[int, int], list[torch.nn.Parameter]] = {}
        for matrix in matrices:
            self._groups.setdefault((min(matrix.shape), max(matrix.shape)), []).append(matrix)
        self._velocities = {shape: torch.zeros(len(group), *shape) for shape, group in self._groups.items()}
        self._momentum, self._decay, self._iterations = momentum, decay, iterations

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def step(self, rate: float) -> None:
        """One step along the gradients; ``rate`` is the size of a square matrix's step in spectral norm."""
        for shape, group in self._groups.items():
            # Wide ones as they are, tall ones transposed: the products below are of the smaller side.
            grads_GRC = torch.stack([_wide(matrix.grad) for matrix in group if matrix.grad is not None])
            velocity_GRC = self._velocities[shape]
            velocity_GRC.mul_(self._momentum).add_(grads_GRC)
            updates_GRC = orthogonal(grads_GRC + self._momentum * velocity_GRC, self._iterations)
            for matrix, update_RC in zip(group, updates_GRC, strict=True):
                stretch = max(1.0, matrix.size(0) / matrix.size(1)) ** 0.5
                update = update_RC.T if matrix.size(0) > matrix.size(1) else update_RC
                matrix.mul_(1 - rate * self._decay).add_(update, alpha=-rate * stretch)

    def state(self) -> list[torch.Tensor]:
        """The velocities; :meth:`load` takes them back."""
        return list(self._velocities.values())

    def load(self, state: Sequence[torch.Tensor]) -> None:
        """Go on with these velocities."""
        for own, given in zip(self._velocities.values(), state, strict=True):
            own.copy_(given)


def orthogonal(updates_GRC: torch.Tensor, iterations: int = 5) -> torch.Tensor:
    """Matrices (R <= C) with the same singular vectors and singular values near 1 (0.7 to 1.2)."""
    found = updates_GRC / (updates_GRC.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(iterations):
        square = found @ found.mT
        found = _A * found + (_B * square + _C * square @ square) @ found
    return found


def _wide(matrix: torch.Tensor) -> torch.Tensor:
    return matrix.T if matrix.size(0) > matrix.size(1) else matrix
