"""Access to Hugging Face data sets: its cache only when offline, and errors that name what is missing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lr2eval.errors import MissingDataError


@contextmanager
def hub_access(offline: bool) -> Iterator[None]:
    """Inside the block the ``datasets`` library reads its local cache only, if ``offline``.

    The libraries read HF_HUB_OFFLINE once, when they are imported, which is too early for our flag.
    """
    import datasets
    import huggingface_hub

    modules: tuple[Any, ...] = (datasets.config, huggingface_hub.constants)
    before = [module.HF_HUB_OFFLINE for module in modules]
    try:
        for module in modules:
            module.HF_HUB_OFFLINE = offline or module.HF_HUB_OFFLINE
        yield
    finally:
        for module, value in zip(modules, before, strict=True):
            module.HF_HUB_OFFLINE = value


def hub_rows(dataset: str, name: str | None, split: str, offline: bool, mend: str) -> list[dict[str, Any]]:
    """A split of a hub data set; ``offline`` reads the local cache only.

    Raises :class:`MissingDataError` that ends in ``mend`` if it is not to be had.
    """
    import datasets

    try:
        with hub_access(offline):
            return list(datasets.load_dataset(dataset, name, split=split))
    except Exception as error:  # no network, no cache, hub trouble: all mean that the data is not to be had
        raise MissingDataError(f"{dataset} ({split}) cannot be read ({first_line(error)}); {mend}") from error


def is_missing_data(error: BaseException) -> bool:
    """Whether an exception means that a data set is not to be had (file, cache or network), not a mistake in a task."""
    if isinstance(error, ValueError) and "find cache" in str(error):
        return True  # datasets, offline, when another configuration of the set is cached
    libraries = ("datasets", "huggingface_hub", "httpx", "requests", "urllib3")
    return isinstance(error, OSError) or type(error).__module__.partition(".")[0] in libraries


def first_line(error: BaseException) -> str:
    """The first line of an exception's message, at most 160 characters, or its type."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
