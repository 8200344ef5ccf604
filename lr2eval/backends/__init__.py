"""Backends run the model. Each is an ``lm_eval.api.model.LM`` that can also plan, measure and tell what it did."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lm_eval.api.instance import Instance

    from lr2eval.benchmark import ResponseDetail


class Postponed(Exception):  # no error: the work order asks for it
    """What a backend could do with the engine that runs is done; the other requests of this call want another one."""


class Streaming(Protocol):
    """What a backend offers instead of ``plan`` when its engine batches by itself."""

    def stream(self, request_type: str, requests: list[Instance]) -> Iterator[list[tuple[int, Any, ResponseDetail]]]:
        """(number of the request in ``requests``, answer, detail), as they end. May raise :class:`Postponed`."""


class Backend(Protocol):
    """What the runner uses of a backend, beside lm-eval's ``LM``.

    A foreign lm-eval model has none of the extras; the runner then batches blindly and records no details.
    ``request_type`` is one of ``generate_until``, ``loglikelihood``, ``loglikelihood_rolling``.
    """

    model_seconds: float
    """Wall time spent inside the model so far; what a run took beyond it is our own overhead."""

    @property
    def limit(self) -> int:
        """The window: tokens that prompt and answer may hold together."""

    def plan(self, request_type: str, requests: list[Instance]) -> list[list[int]]:
        """Batches of request numbers, longest first, made from the whole shard; each number stands in one batch."""

    def measure(self, request_type: str, requests: list[Instance]) -> list[int]:
        """Tokens each request needs in all: prompt with special tokens + new tokens, or context + continuation."""

    def take_details(self) -> list[ResponseDetail]:
        """Details of the last call's responses, in the order of its requests; empties the list."""

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Answers, cut before the first stop string."""

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """(log-probability in nats, whether greedy decoding would say it) of each continuation."""

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Log-probability in nats of each whole text, in disjoint windows."""
