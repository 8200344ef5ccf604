"""The short-context suite of LongRoPE2's paper: what an extension may cost on short prompts."""

from lr2eval.tasks.short.benchmark import SHORT

__all__ = ["SHORT"]
