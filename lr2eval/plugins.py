"""Plug-ins of other packages, found through entry points. A broken plug-in does no harm until somebody uses it.

The groups: ``lr2eval.tasks`` (an object like :class:`lr2eval.Benchmark`), ``lr2eval.rope_rules`` (a function from
:class:`lr2eval.OriginalRope` and a target length to :class:`lr2eval.RopeScaling`), ``lr2eval.backends`` (a function
from :class:`lr2eval.BackendRequest` to an lm-eval model). The name of an entry point is the name users type.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, wraps
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from lr2eval.errors import Lr2EvalError

TASKS, ROPE_RULES, BACKENDS = "lr2eval.tasks", "lr2eval.rope_rules", "lr2eval.backends"
_KIND = {TASKS: "task", ROPE_RULES: "RoPE rule", BACKENDS: "back end"}


class PluginError(Exception):
    """A plug-in that cannot be used: one line with its package, the reason and what to do."""


def names(group: str) -> list[str]:
    """The names of a group's plug-ins, whether they load or not."""
    return sorted(_points(group))


def load(group: str, name: str) -> Any:
    """The object behind an entry point. Raises :class:`PluginError`; the import happens once."""
    points = _points(group)[name]
    if len(points) > 1:
        owners = " and ".join(sorted(distribution(point) for point in points))
        raise PluginError(f"{_KIND[group]} plug-in {name!r} is provided by {owners}; uninstall one of them")
    found, reason = _import(points[0])
    if reason:
        raise unusable(group, name, reason)
    return found


def unusable(group: str, name: str, reason: str) -> PluginError:
    """The error of a plug-in that loads but is not what its group asks for."""
    return PluginError(
        f"{_KIND[group]} plug-in {name!r} of {distribution(_points(group)[name][0])} cannot be used ({reason}); "
        "update or uninstall it"
    )


def target(group: str, name: str) -> str:
    """The module and attribute that an entry point names."""
    return _points(group)[name][0].value


def distribution(point: EntryPoint) -> str:
    """Name and version of the package that an entry point is from."""
    return f"{point.dist.name} {point.dist.version}" if point.dist is not None else point.module


def made_by(group: str, name: str) -> str:
    """Name and version of the package of a plug-in; empty for what is part of lr2eval or is no plug-in."""
    point = next(iter(_points(group).get(name, ())), None)
    return "" if point is None or point.module.partition(".")[0] == "lr2eval" else distribution(point)


def checked(call: Callable[..., Any], what: str, kind: type[Lr2EvalError], gives: type = object) -> Callable[..., Any]:
    """``call``, but every error of it that is not one of ours becomes a ``kind`` that names ``what`` failed.

    So does a result that is not a ``gives``.
    """

    @wraps(call)
    def checked_call(*arguments: Any, **named: Any) -> Any:
        with _as(what, kind):
            found = call(*arguments, **named)
            if not isinstance(found, gives):
                raise TypeError(f"{call.__name__} returned {type(found).__name__}, not {gives.__name__}")
        return _each(found, what, kind) if inspect.isgenerator(found) else found

    return checked_call


class Checked:
    """An object of another package, with all of its methods :func:`checked`."""

    def __init__(self, found: Any, what: str, kind: type[Lr2EvalError]) -> None:
        self.__dict__["_checked"] = found, what, kind

    def __getattr__(self, name: str) -> Any:
        found, what, kind = self._checked
        value = getattr(found, name)
        return checked(value, what, kind) if inspect.isroutine(value) else value

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._checked[0], name, value)


def _each(found: Iterator[Any], what: str, kind: type[Lr2EvalError]) -> Iterator[Any]:
    with _as(what, kind):
        yield from found


@contextmanager
def _as(what: str, kind: type[Lr2EvalError]) -> Iterator[None]:
    try:
        yield
    except Lr2EvalError:
        raise
    except (Exception, SystemExit) as error:  # code of another package can raise anything
        raise kind(f"{what} failed ({raised(error)}); report it to its author, or use another") from error


def _points(group: str) -> dict[str, list[EntryPoint]]:
    """Entry points by name. Several with the same target count as one: ``sys.path`` may hold a source tree twice."""
    found: dict[str, list[EntryPoint]] = {}
    for point in entry_points(group=group):
        same = found.setdefault(point.name, [])
        if point.value not in [other.value for other in same]:
            same.append(point)
    return found


@cache
def _import(point: EntryPoint) -> tuple[Any, str]:
    """The object, or the reason why it cannot be imported."""
    try:
        return point.load(), ""
    except (Exception, SystemExit) as error:  # a module of another package may raise anything
        return None, raised(error)


def raised(error: BaseException) -> str:
    """What code of another package raised, on one line."""
    first = (str(error).strip().splitlines() or [""])[0][:200]
    return f"{type(error).__name__}: {first}" if first else type(error).__name__
