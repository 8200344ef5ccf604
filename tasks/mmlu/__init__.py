"""MMLU (Hendrycks et al. 2021): 57 subjects of four-choice questions, the short-context retention check."""

from lr2eval.tasks.mmlu.benchmark import MMLU

__all__ = ["MMLU"]
