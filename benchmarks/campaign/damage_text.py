"""Ways to damage JSON, JSON Lines, TOML and CSV. They have the form of those in :mod:`.damage`."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from typing import Any

Way = Callable[[bytes, random.Random], bytes]


class DoesNotFit(Exception):
    """This damage cannot be done to these bytes."""


# JSON

HUGE = "9" * 5000
"""More digits than Python turns into a number."""


def odd_values(rng: random.Random) -> list[str]:
    """JSON texts of values that do not belong anywhere."""
    return [
        "null", "true", "[]", "{}", "0", "-1", "-0.0", "1.5", "1e999", "-1e999", "NaN", "Infinity", "1e308",
        "18446744073709551616", HUGE, '""', '"x"', '"\\ud800"', '"\\u0000"', '"\\u001b[31mred\\u202e\\nnext"',
        '"::error::x"', "[[[]]]", '{"a": {"b": null}}', "[null]", '[1, "a"]', '"%s{0}"', '"../../../etc/passwd"',
        json.dumps("W" * 3000), f"{rng.randint(-5, 10**6)}", "[" * 200 + "]" * 200,
    ]  # fmt: skip


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path]
    if isinstance(value, dict):
        for key, item in value.items():
            found += _places(item, (*path, key))
    elif isinstance(value, list):
        for number, item in enumerate(value[:30]):
            found += _places(item, (*path, number))
    return found


def _holder(value: Any, path: tuple[Any, ...]) -> Any:
    for key in path[:-1]:
        value = value[key]
    return value


def load(data: bytes) -> Any:
    """The JSON value of these bytes. Raises :class:`DoesNotFit` if there is none."""
    try:
        return json.loads(data)
    except ValueError as error:
        raise DoesNotFit from error


def _below(value: Any, rng: random.Random) -> tuple[Any, ...]:
    """A place that is not the top. Places near the top are as likely as deep ones."""
    places = [path for path in _places(value) if path]
    if not places:
        raise DoesNotFit
    depth = rng.choice(sorted({len(path) for path in places}))
    return rng.choice([path for path in places if len(path) == depth])


_HOLE = "\uf8ff hole \uf8ff"


def json_value(data: bytes, rng: random.Random) -> bytes:
    """A value of another kind."""
    value = load(data)
    path = _below(value, rng)
    _holder(value, path)[path[-1]] = _HOLE
    return json.dumps(value).replace(json.dumps(_HOLE), rng.choice(odd_values(rng))).encode()


def json_top(data: bytes, rng: random.Random) -> bytes:
    """The whole file is another value."""
    load(data)
    return rng.choice(odd_values(rng)).encode()


def json_delete(data: bytes, rng: random.Random) -> bytes:
    value = load(data)
    path = _below(value, rng)
    del _holder(value, path)[path[-1]]
    return json.dumps(value).encode()


def json_add(data: bytes, rng: random.Random) -> bytes:
    """A key or an item that nobody knows."""
    value = load(data)
    places = [path for path in _places(value) if isinstance(_at(value, path), dict | list)]
    if not places:
        raise DoesNotFit
    found = _at(value, rng.choice(places))
    if isinstance(found, dict):
        found[rng.choice(("unknown", "", "\u202ename", "a\nb", "x" * 300))] = rng.choice((None, 1, "x", [], {}))
    else:
        found.append(rng.choice((None, -1, "x", {}, *found[:1])))
    return json.dumps(value).encode()


def _at(value: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        value = value[key]
    return value


def json_rename(data: bytes, rng: random.Random) -> bytes:
    value = load(data)
    path = _below(value, rng)
    holder = _holder(value, path)
    if not isinstance(holder, dict):
        raise DoesNotFit
    holder[f"{path[-1]}_"] = holder.pop(path[-1])
    return json.dumps(value).encode()


def json_number(data: bytes, rng: random.Random) -> bytes:
    """A number that is a little or very wrong."""
    value = load(data)
    paths = [p for p in _places(value) if p and type(_at(value, p)) in (int, float)]
    if not paths:
        raise DoesNotFit
    path = rng.choice(paths)
    old = _at(value, path)
    _holder(value, path)[path[-1]] = rng.choice((old + 1, -old - 1, old * 1000, old + 0.5, str(old), 10**30, True))
    return json.dumps(value).encode()


def json_deep(data: bytes, rng: random.Random) -> bytes:
    """200,000 lists or objects in each other, at the top or at a place inside."""
    deep = rng.choice(("[" * 200_000 + "]" * 200_000, '{"a":' * 200_000 + "1" + "}" * 200_000, "[" * 200_000))
    value = load(data)
    if rng.random() < 0.5 or not [path for path in _places(value) if path]:
        return deep.encode()
    path = _below(value, rng)
    _holder(value, path)[path[-1]] = _HOLE
    return json.dumps(value).replace(json.dumps(_HOLE), deep).encode()


def json_twice(data: bytes, rng: random.Random) -> bytes:
    """Two values, a comment, or a comma too many."""
    load(data)
    return rng.choice((data + data, b"// note\n" + data, data.rstrip().removesuffix(b"}") + b",}", data + b"\n]"))


JSON: tuple[Way, ...] = (
    json_value, json_value, json_value, json_delete, json_delete, json_number, json_top, json_add, json_rename,
    json_deep, json_twice,
)  # fmt: skip


def in_a_line(data: bytes, rng: random.Random) -> bytes:
    """JSON Lines: damage one line as JSON."""
    rows = data.splitlines()
    if not rows:
        raise DoesNotFit
    at = rng.randrange(len(rows))
    rows[at] = rng.choice(JSON)(rows[at], rng).replace(b"\n", b" ")
    return b"\n".join(rows) + b"\n"


def lines_moved(data: bytes, rng: random.Random) -> bytes:
    """A line is lost, there twice, or in another place."""
    rows = data.splitlines(keepends=True)
    if len(rows) < 2:
        raise DoesNotFit
    row = rows.pop(rng.randrange(len(rows)))
    for _ in range(rng.randrange(3)):
        rows.insert(rng.randrange(len(rows) + 1), row)
    return b"".join(rows)


LINES: tuple[Way, ...] = (in_a_line, in_a_line, in_a_line, lines_moved)


# TOML

_TOML = (
    "1", "0", "-1", "true", "[]", "{}", '""', '"x"', "nan", "inf", "-inf", "1e400", "9" * 30, HUGE, "1979-05-27",
    "07:32:00", '"\\u0000"', '"\\u001b[2J\\u202e"', '"a\\n::error::b"', "[[], [1]]", '["", ""]', '[1, "a"]',
    "{ a = 1 }", "[true]", '"/"', '"~nobody/x"', '"0"', '"1k..9q"', '"' + "W" * 3000 + '"', "0x7fffffffffffffff",
)  # fmt: skip


def _toml_lines(data: bytes) -> tuple[list[str], list[int]]:
    rows = data.decode("utf-8").splitlines()
    places = [number for number, row in enumerate(rows) if re.match(r"[\w.\-]+ = ", row)]
    if not places:
        raise DoesNotFit
    return rows, places


def toml_value(data: bytes, rng: random.Random) -> bytes:
    rows, places = _toml_lines(data)
    at = rng.choice(places)
    rows[at] = f"{rows[at].partition(' = ')[0]} = {rng.choice(_TOML)}"
    return "\n".join(rows).encode()


def toml_delete(data: bytes, rng: random.Random) -> bytes:
    rows, _ = _toml_lines(data)
    del rows[rng.randrange(len(rows))]
    return "\n".join(rows).encode()


def toml_key(data: bytes, rng: random.Random) -> bytes:
    """A key twice, a key with another name, a key that is a table elsewhere."""
    rows, places = _toml_lines(data)
    at = rng.choice(places)
    key, _, value = rows[at].partition(" = ")
    rows[at : at + 1] = rng.choice((
        [rows[at], rows[at]], [f"{key}x = {value}"], [f"{key}.a = {value}"], [f"[{key}]", "a = 1"], [f"[[{key}]]"],
        [f'"{key}\\u001b" = 1'], [f'"" = {value}'], [f"{key} ="], [f"= {value}"],
    ))  # fmt: skip
    return "\n".join(rows).encode()


def toml_deep(data: bytes, rng: random.Random) -> bytes:
    rows, places = _toml_lines(data)
    at = rng.choice(places)
    deep = rng.choice(("[" * 5000 + "]" * 5000, "{ a = " * 2000 + "1" + " }" * 2000))
    rows[at] = f"{rows[at].partition(' = ')[0]} = {deep}"
    return "\n".join(rows).encode()


TOML: tuple[Way, ...] = (toml_value, toml_value, toml_value, toml_value, toml_delete, toml_key, toml_deep)


# CSV and text


def csv_huge_field(data: bytes, rng: random.Random) -> bytes:
    return data + b'"' + b"x" * 140_000 + b'",a,b,c,d,A\n'


def csv_shape(data: bytes, rng: random.Random) -> bytes:
    """A quote that is open, a column too many, one too few, a NUL."""
    rows = data.splitlines()
    if not rows:
        raise DoesNotFit
    at = rng.randrange(len(rows))
    row = rows[at]
    rows[at] = rng.choice((row + b",x", row.rpartition(b",")[0], b'"' + row, row + b"\0", row.replace(b",", b";"), b""))
    return b"\n".join(rows) + b"\n"


def csv_cell(data: bytes, rng: random.Random) -> bytes:
    rows = [row.split(b",") for row in data.splitlines()]
    if not rows:
        raise DoesNotFit
    row = rng.choice(rows)
    row[rng.randrange(len(row))] = rng.choice((b"", b"nan", b"-1", b"1e999", b"E", b"\x1b[31m", b"\xe2\x80\xae", b"0"))
    return b"\n".join(b",".join(row) for row in rows) + b"\n"


CSV: tuple[Way, ...] = (csv_huge_field, csv_shape, csv_shape, csv_cell, csv_cell)
