"""Access to Hugging Face data sets: only the local cache when offline, and errors that name what is missing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from lr2eval.benchmark import DataNeed
from lr2eval.errors import MissingDataError, first_line

T = TypeVar("T")


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


def hub_rows(
    need: DataNeed, config: str | None, split: str, offline: bool, searched: Path | None = None, advice: str = ""
) -> list[dict[str, Any]]:
    """A split of the hub data set ``need.hub``; ``offline`` reads the local cache only.

    Raises :class:`MissingDataError` if it cannot be read. The error also names ``searched``, a data folder in which the
    data was not found, and ends in ``advice``.
    """
    import datasets

    try:
        with hub_access(offline):
            return list(datasets.load_dataset(need.hub, *filter(None, [config]), split=split))
    except Exception as error:  # no network, no cache, trouble of the hub: in each case there is no data
        local = f"no {need.file} under {searched}, and " if searched else ""
        part = ", ".join(filter(None, (config, split)))
        raise need.missing(f"{local}{need.hub} ({part}) cannot be read ({first_line(error)})", advice) from error


def load_each(benchmark: str, names: Sequence[str], load: Callable[[str], T], *, brief: bool = False) -> dict[str, T]:
    """``load`` every name. Raises one :class:`MissingDataError` for all names whose data is missing.

    The error states each reason, or with ``brief`` all names and the first reason.
    """
    found: dict[str, T] = {}
    missing: dict[str, str] = {}
    for name in names:
        try:
            found[name] = load(name)
        except MissingDataError as error:
            missing[name] = str(error)
    if missing:
        reasons = tuple(dict.fromkeys(missing.values()))
        if brief and len(missing) > 1:
            reasons = (f"{benchmark}: no data for {', '.join(missing)} ({reasons[0]})",)
        raise MissingDataError("; ".join(reasons), reasons, tasks=missing)
    return found


def is_missing_data(error: BaseException) -> bool:
    """Whether an exception means that a data set cannot be read (file, cache or network), not a mistake in a task."""
    if isinstance(error, ValueError) and "find cache" in str(error):
        return True  # datasets, offline, when another configuration of the set is cached
    libraries = ("datasets", "huggingface_hub", "httpx", "requests", "urllib3")
    return isinstance(error, OSError) or type(error).__module__.partition(".")[0] in libraries
