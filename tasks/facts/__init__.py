"""Facts: a thousand invented facts that the demo models know, asked as four-choice questions."""

from lr2eval.tasks.facts.benchmark import FACTS

__all__ = ["FACTS"]
