"""Haystacks: the long background texts in which needles are hidden, and where their sentences end."""

from lr2eval.tasks.haystacks.haystack import Haystack
from lr2eval.tasks.haystacks.load import essays, load
from lr2eval.tasks.haystacks.sentences import split

__all__ = ["Haystack", "essays", "load", "split"]
