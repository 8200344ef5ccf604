"""LongBench (Bai et al. 2023, 2024): real long documents in English, Chinese and code; v1, LongBench-E, v2."""

from lr2eval.tasks.longbench.benchmark import LONGBENCH, LONGBENCH_E
from lr2eval.tasks.longbench.v2 import LONGBENCH2

__all__ = ["LONGBENCH", "LONGBENCH2", "LONGBENCH_E"]
