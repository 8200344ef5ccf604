"""The two factor sets of LongRoPE2 that are public, digit by digit.

LLaMA3-8B, 8k to 128k: the training example of github microsoft/nnscaler (examples/longrope2). Phi-4-mini-instruct, 4k
to 128k: its config.json.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lr2eval.method.rope.scaling import OriginalRope

LLAMA3 = OriginalRope(theta=5e5, rotary_dim=128, window=8192)
PHI4_MINI = OriginalRope(theta=1e4, rotary_dim=96, window=4096)
TARGET = 131072

LLAMA3_LEFT = [
    1, 1.097906416, 1.205398499, 1.323414747, 1.452985542, 1.595242149, 1.751426591, 1.922902493, 2.111166985,
    2.317863779, 2.544797515, 2.79394952, 3.067495105, 3.367822558, 3.697553996, 4.059568257, 4.457026037, 4.893397485,
    5.372492496, 5.898493984, 6.475994392, 7.110035795, 7.806153921, 8.570426477, 9.40952622, 10.33077921, 11.34222878,
    12.45270576, 13.67190555, 15.01047283, 16.48009443, 18.09360142, 19.8650811,
]  # fmt: skip
LLAMA3_RIGHT = [
    21.81, 21.87, 21.88, 22.23, 22.28, 22.53, 22.65, 22.73, 22.89, 22.92, 23.18, 23.23, 23.36, 23.42, 23.47, 23.51,
    23.52, 23.75, 23.82, 23.89, 24.06, 24.13, 24.14, 24.3, 24.53, 24.67, 24.75, 24.97, 25.49, 26.01, 26.05,
]  # fmt: skip
PHI4_LEFT = [
    1, 1.118320672, 1.250641126, 1.398617824, 1.564103225, 1.74916897, 1.956131817, 2.187582649, 2.446418898,
    2.735880826, 3.059592084, 3.421605075, 3.826451687, 4.279200023, 4.785517845, 5.351743533, 5.984965424, 6.693110555,
    7.485043894, 8.370679318, 9.36110372, 10.4687158, 11.70738129, 13.09260651, 14.64173252, 16.37415215, 18.31155283,
    20.47818807, 22.90118105, 25.61086418, 28.64115884,
]  # fmt: skip
PHI4_RIGHT = [
    32.03, 32.1, 32.13, 32.23, 32.6, 32.61, 32.64, 32.66, 32.7, 32.71, 32.93, 32.97, 33.28, 33.49, 33.5, 44.16, 47.77,
]  # fmt: skip


def llama3_config() -> dict[str, Any]:
    """What of LLaMA3-8B-LongRoPE2's config.json concerns its RoPE, in the old spelling it has there."""
    return {
        "model_type": "llama",
        "hidden_size": 4096,
        "num_attention_heads": 32,
        "max_position_embeddings": TARGET,
        "original_max_position_embeddings": 8192,
        "rope_scaling": {
            "type": "longrope",
            "long_factor": LLAMA3_LEFT + LLAMA3_RIGHT,
            "short_factor": [1.0] * 64,
        },
        "rope_theta": 500000.0,
    }


def phi4_mini_config() -> dict[str, Any]:
    """The same of Phi-4-mini-instruct; three quarters of each head rotate."""
    return {
        "model_type": "phi3",
        "hidden_size": 3072,
        "num_attention_heads": 24,
        "max_position_embeddings": TARGET,
        "original_max_position_embeddings": 4096,
        "partial_rotary_factor": 0.75,
        "rope_scaling": {
            "type": "longrope",
            "long_factor": PHI4_LEFT + PHI4_RIGHT,
            "short_factor": [1.0] * 48,
        },
        "rope_theta": 10000.0,
    }


def write_csv(path: Path, factors: Sequence[float]) -> None:
    """One factor a line, as the published code writes them."""
    path.write_text("".join(f"{float(factor)!r}\n" for factor in factors))
