"""The words around a needle. Other languages, and some base models, need other words than the default ones."""

from __future__ import annotations

import string
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from lr2eval.base.reading import read_object
from lr2eval.base.settings import refuse_unknown
from lr2eval.errors import UsageError

_FIRST = ("amber", "brisk", "calm", "dusty", "early", "faint", "gentle", "hollow", "ivory", "jolly", "keen", "lucky")
_SECOND = ("anchor", "basket", "candle", "dolphin", "engine", "feather", "garden", "hammer", "island", "jacket")
_THIRD = ("kettle", "ladder", "marble", "needle", "orchid", "pencil", "quarry", "ribbon", "saddle", "tunnel")


@dataclass(frozen=True)
class Wording:
    """``{key}`` and ``{value}`` are filled in. If ``values`` is empty, every value is a number of seven digits."""

    instruction: str = "A locker number is hidden in the text below. Keep it in mind, it is asked for at the end.\n\n"
    needle: str = " Keep in mind that the locker number of {key} is {value}."
    question: str = "\n\nQuestion: Which locker number does {key} have?"
    stem: str = "\nAnswer: The locker number of {key} is"
    answer: str = " {value}"
    keys: tuple[str, ...] = tuple(f"{a}-{b}" for a in _FIRST for b in (*_SECOND, *_THIRD))
    values: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, needed in (("needle", {"key", "value"}), ("answer", {"value"}), ("question", set()), ("stem", set())):
            parts = [part[1:] for part in string.Formatter().parse(getattr(self, name)) if part[1] is not None]
            if any(form or conversion for _, form, conversion in parts):
                raise ValueError(f"{name} must write its fields as {{key}} and {{value}}, without a format")
            used = {field for field, _, _ in parts}
            if not needed <= used <= {"key", "value"}:
                wanted = " and ".join(f"{{{field}}}" for field in sorted(needed)) or "text"
                raise ValueError(f"{name} must hold {wanted}, and no fields other than {{key}} and {{value}}")
        if "{value}" in self.question + self.stem:
            raise ValueError("question and stem must not give the value away")
        if not self.keys:
            raise ValueError("keys is empty")

    @classmethod
    def read(cls, path: Path) -> Wording:
        """A JSON object with any of the fields. Raises :class:`UsageError` that names what is wrong with it."""
        value = read_object(path, fix="give a JSON file with the words around a needle")
        try:
            refuse_unknown(value, [field.name for field in fields(cls)])
            return cls(**{name: _checked(name, found) for name, found in value.items()})
        except (ValueError, UsageError) as error:
            raise UsageError(f"{path}: {error}") from error


def _checked(name: str, found: Any) -> Any:
    """A text, or a tuple of texts for ``keys`` and ``values``. Raises :class:`ValueError` for anything else."""
    many = name in ("keys", "values")
    texts = found if many else [found]
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"{name} must be {'a list of texts' if many else 'a text'}")
    return tuple(texts) if many else found
