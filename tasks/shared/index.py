"""The names of lm-eval's tasks, groups and tags with the files behind them, found without importing lm-eval.

lm-eval's own index takes 10 to 25 s in every process, because it reads a shared file again for each file that includes
it. This one follows the same rules (a test compares the two) and is kept in the cache until a file of lm-eval changes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from lr2eval.base.files import cache_dir, write_json
from lr2eval.base.ids import text_hash
from lr2eval.base.reading import read_object
from lr2eval.errors import Lr2EvalError
from lr2eval.record.base import check_seal, sealed
from lr2eval.tasks.shared.upstream import lm_eval_folder, parsed_yaml

Index = Mapping[str, Sequence[str]]
"""Name -> its file (empty for a tag), then the names that it leads to: members of a group or tag."""

LAYOUT = 1
"""Of the file in the cache; a new number has it made again."""
_KEYS = ("task", "group", "tag", "class", "include")
_IGNORED = ("__pycache__", ".ipynb_checkpoints")


@cache
def lm_eval_names() -> Index:
    """Of the installed lm-eval. Made in about 2 s, then read from the cache; made again if that file is damaged."""
    folder = lm_eval_folder() / "tasks"
    files = sorted((path, os.stat(path)) for path in _files(folder))
    stamp = text_hash(repr((LAYOUT, [(path, facts.st_mtime_ns, facts.st_size) for path, facts in files])))
    kept = cache_dir() / f"lm-eval-tasks-{text_hash(str(folder))[:8]}.json"
    with suppress(Lr2EvalError):
        found = read_object(kept)
        if check_seal(found, kept, "", must=True) and found["stamp"] == stamp:
            names: Index = found["names"]
            return names
    names = names_in(folder)
    with suppress(Lr2EvalError, OSError):  # a cache that cannot be written costs time, nothing else
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_json(kept, sealed({"stamp": stamp, "names": names}))
    return names


def names_in(folder: Path) -> Index:
    """Of the YAML files under a folder. Like lm-eval, it leaves out files that cannot be read."""
    index: dict[str, list[str]] = {}
    read = cache(_own_settings)  # many files include the same one
    for path in sorted(path for path in _files(folder) if path.endswith(".yaml")):
        with suppress(Exception):  # YAML raises anything
            _enter(_settings(path, read, set()), path, index)
    return index


def files_of(name: str, index: Index) -> list[str]:
    """The files of a name and of everything that it leads to."""
    found = {name: None}
    for each in (todo := [name]):
        more = [member for member in index.get(each, ())[1:] if member not in found]
        found |= dict.fromkeys(more)
        todo += more
    return [file for each in found for file in index.get(each, ())[:1] if file]


def _files(folder: Path) -> Iterator[str]:
    for home, folders, names in os.walk(folder):
        folders[:] = [each for each in folders if each not in _IGNORED]
        yield from (os.path.join(home, name) for name in names)


def _enter(settings: Mapping[str, Any], path: str, index: dict[str, list[str]]) -> None:
    """Note a file under its name. The first file of a name counts."""
    group = "group" in settings and "class" not in settings
    name = settings["group" if group else "task"]
    if not isinstance(name, str) or name in index:
        return
    index[name] = [path, *(_members(settings.get("task")) if group else ())]
    tags = settings.get("tag") or () if not group else ()
    for tag in tags if isinstance(tags, list | tuple) else [tags]:
        index.setdefault(tag, [""]).append(name)


def _members(task: Any) -> Iterator[str]:
    for item in task if isinstance(task, list) else [task]:
        if isinstance(item, str):
            yield item
        elif isinstance(item, dict):
            yield from _members([item.get("group")])
            yield from _members(item.get("task"))


def _settings(path: str, read: Callable[[str], dict[str, Any]], seen: set[str]) -> dict[str, Any]:
    """What a file says for an index, with what it includes. No file may be included twice."""
    if path in seen:
        raise ValueError(path)
    seen.add(path)
    own = dict(read(path))
    includes = own.pop("include", [])
    home = os.path.dirname(os.path.realpath(path) if os.path.islink(path) else path)
    found: dict[str, Any] = {}
    for each in includes if isinstance(includes, list) else [includes]:
        found |= _settings(os.path.normpath(os.path.join(home, each)), read, seen)
    return found | own


def _own_settings(path: str) -> dict[str, Any]:
    found = parsed_yaml(Path(path).read_bytes())
    return {key: found[key] for key in _KEYS if key in found}
