"""LongBench (Bai et al. 2023): 21 data sets of real long documents, in English, Chinese and code."""

from lr2eval.tasks.longbench.benchmark import LONGBENCH, LONGBENCH_E

__all__ = ["LONGBENCH", "LONGBENCH_E"]
