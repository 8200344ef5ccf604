from __future__ import annotations

import torch
from demo_model.muon import Muon, orthogonal
from hypothesis import given
from hypothesis import strategies as st


@given(st.integers(1, 24), st.integers(0, 24), st.integers(0, 10_000), st.floats(-3, 3))
def test_singular_values_come_near_one_and_vectors_stay(rows: int, more: int, seed: int, size: float) -> None:
    given_RC = torch.randn(rows, rows + more, generator=torch.Generator().manual_seed(seed)) * 10**size
    found_RC = orthogonal(given_RC[None])[0]
    u, s, vt = torch.linalg.svd(given_RC, full_matrices=False)
    told = u.T @ found_RC @ vt.T
    seen = s > 0.05 * s[0]  # five iterations do not lift what is next to nothing
    assert ((told.diagonal() > 0.3) & (told.diagonal() < 1.3))[seen].all()
    assert (told - torch.diag(told.diagonal())).abs().max() < 0.05


def test_tall_matrices_step_as_their_transposes_and_in_a_stack_as_alone() -> None:
    torch.manual_seed(0)
    wide, tall, third = torch.randn(4, 6), torch.randn(6, 4), torch.randn(4, 6)
    grads = [torch.randn(4, 6), None, torch.randn(4, 6)]
    grads[1] = grads[0].T.clone()
    together = [torch.nn.Parameter(each.clone()) for each in (wide, tall, third)]
    for parameter, grad in zip(together, grads, strict=True):
        parameter.grad = grad
    Muon(together, decay=0.0).step(0.1)
    alone = torch.nn.Parameter(wide.clone())
    alone.grad = grads[0]
    Muon([alone], decay=0.0).step(0.1)
    assert torch.allclose(together[0], alone, atol=1e-6)
    stretch = (6 / 4) ** 0.5
    assert torch.allclose(together[1] - tall, stretch * (alone - wide).T, atol=1e-6)


def test_momentum_is_kept_and_can_be_carried_over() -> None:
    torch.manual_seed(1)
    start, grads = torch.randn(5, 5), [torch.randn(5, 5) for _ in range(3)]

    def run(break_at: int | None) -> torch.Tensor:
        matrix = torch.nn.Parameter(start.clone())
        muon = Muon([matrix])
        for number, grad in enumerate(grads):
            if number == break_at:
                state = [velocity.clone() for velocity in muon.state()]
                muon = Muon([matrix])
                muon.load(state)
            matrix.grad = grad
            muon.step(0.02)
        return matrix.detach()

    assert torch.equal(run(None), run(2))
