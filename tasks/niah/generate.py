"""Samples of the grid: each a function of its identity, the haystack and the tokenizer alone (design D3, D4)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from random import Random

from lr2eval.base import ids
from lr2eval.errors import TaskError
from lr2eval.model.tokenizer import PromptTokenizer
from lr2eval.tasks.exact import parallel
from lr2eval.tasks.exact.fit import Near, TooSmallError, largest_fitting
from lr2eval.tasks.haystacks import Haystack
from lr2eval.tasks.niah.background import Background
from lr2eval.tasks.niah.draw import NeedleDraw, Variant, draw
from lr2eval.tasks.niah.options import NiahOptions, Places

VERSION = "1"
"""Part of every sample's seed: raise it when the same seed would give other needles."""


@dataclass(frozen=True)
class NiahMaker:
    """One variant at one length (tokens): the cells of all depths (a ``SampleMaker``)."""

    variant: Variant
    length: int
    grid: NiahOptions
    seed: int
    haystack: Haystack

    by_words = False

    @property
    def name(self) -> str:
        """What the user calls the task."""
        return f"niah:{self.variant}"

    @property
    def version(self) -> str:
        """Identity of the grid's samples: sample 7 of another set of depths is another sample."""
        return (self.haystack.edition if self.grid.places == "sentences" else VERSION) + self._changes

    @property
    def _changes(self) -> str:
        kept, usual = ([each.depths, each.needles, each.distractors] for each in (self.grid, NiahOptions()))
        kept += self.grid.changes.values()
        return "" if kept == usual else f"+{ids.digest(kept)[:8]}"

    @property
    def max_new_tokens(self) -> int:
        """Tokens to generate."""
        return self.grid.tokens_per_value * (self.grid.needles if self.variant == "multi" else 1)

    def _draw(self, index: int, tokenizer: PromptTokenizer) -> tuple[NeedleDraw, str]:
        """Sample 0 has the first depth, sample 1 the second ...: any first samples spread over the grid."""
        identity = (f"niah/{self.variant}", self.length, index, self.seed)
        depth = self.grid.depths[index % len(self.grid.depths)]
        rng = Random(ids.sample_seed(VERSION + self._changes, *identity))
        sample = draw(self.variant, self.grid, depth, _background(self.haystack, tokenizer, self.grid.places), rng)
        return sample, ids.sample_id(self.version, *identity)

    def sample(self, index: int, tokenizer: PromptTokenizer) -> parallel.Row:
        """One sample. Raises :class:`TaskError` for too short a length or text."""
        sample, name = self._draw(index, tokenizer)
        try:
            budget, rate = self.length - self.max_new_tokens, sample.background.rate
            fit = largest_fitting(sample, tokenizer, budget, Near(int(budget / rate), rate))
        except TooSmallError as error:
            enough = -(-(error.tokens + self.max_new_tokens) // 128) * 128 + 128
            raise TaskError(
                f"{self.name} at length {self.length}: the smallest sample takes "
                f"{error.tokens + self.max_new_tokens} tokens with this tokenizer; use a length of {enough} or more"
            ) from error
        if fit.size == fit.available:
            raise TaskError(
                f"{self.name} at length {self.length}: the haystack {self.haystack.name} has only "
                f"{fit.size} words; use a shorter length, a longer text or --set niah.repeat=true"
            )
        if not sample.has_places(fit.size):
            raise TaskError(
                f"{self.name} at length {self.length}: {sample.needles} needles are more than the places between "
                f"sentences in {fit.size} words of {self.haystack.name}; use a longer length, fewer needles "
                "(--set niah.needles=N, niah.distractors=N) or a text of sentences (--set niah.haystack=PATH)"
            )
        identity = {"id": name, "task": self.variant, "length": self.length, "index": index}
        return parallel.row(identity, fit, self.max_new_tokens, token_depth=round(sample.token_depth(fit.size), 6))


@lru_cache(maxsize=1)
def _background(haystack: Haystack, tokenizer: PromptTokenizer, places: Places) -> Background:
    """Variants and lengths of one run share the haystack's tokens."""
    return Background(haystack, tokenizer, places)
