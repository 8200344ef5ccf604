"""Needle in a haystack: a grid of lengths and depths, opaque values, scored without a judge."""

from lr2eval.tasks.niah.benchmark import NIAH

__all__ = ["NIAH"]
