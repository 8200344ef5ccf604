"""A RoPE rule: ``lr2eval rope --model DIR --target-length 128k --rule step``."""

from lr2eval import OriginalRope, RopeScaling


def step(rope: OriginalRope, target: int, *, first: int | None = None) -> RopeScaling:
    """Keep the fast pairs, stretch the slow ones by s.

    ``first`` is the first pair that is stretched. By default that is ``d_tcd``, the first pair that makes no full turn
    in the original window.
    """
    if target <= rope.window:
        raise ValueError(f"the target of {target:,} tokens is not longer than the window of {rope.window:,}")
    scale = target / rope.window
    edge = rope.d_tcd if first is None else first
    return RopeScaling(
        long_factor=tuple(scale if pair >= edge else 1.0 for pair in range(rope.pairs)),
        short_factor=(1.0,) * rope.pairs,
        long_attention_factor=1.0,
        short_attention_factor=1.0,
        original_window=rope.window,
        target_window=target,
        theta=rope.theta,
        rotary_dim=rope.rotary_dim,
        provenance=f"step(first={edge})",
    )
