"""RULER (Hsieh et al. 2024): synthetic long-context tasks of an exact length in tokens."""

from lr2eval.tasks.ruler.benchmark import RULER

__all__ = ["RULER"]
