"""Options declared once as fields: values from files, --set and flags; errors; what help shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
from pydantic import Field

from lr2eval.base.config import Config, Dtype, Length, Lengths, ModelName, Names, Rare, Table, options
from lr2eval.errors import UsageError


class Optimizer(Table):
    clip: float = Field(1.0, gt=0)
    """The largest norm."""


class Example(Config):
    RENAMED: ClassVar = {"sample_count": "samples"}

    model: ModelName
    """The model."""
    tasks: Names = ("ruler", "mmlu")
    """The tasks."""
    lengths: Lengths | None = None
    """The prompt lengths. Default: up to the window."""
    window: Length = 8192
    """The window."""
    dtype: Dtype = "auto"
    """The number type."""
    batch_size: int | Literal["auto"] = "auto"
    """The rows."""
    samples: int = 0
    """The number of samples."""
    offline: bool = False
    """Never use the network."""
    share: Rare[float] = 1 / 3
    """The share that is kept."""
    optimizer: Optimizer = Optimizer()
    # Tables of others: not listed.
    options: dict[str, Any] = Field(default_factory=dict)


class InFile(Config):
    HAS_FLAGS = False
    PREFIX = "data"

    tokens: int = Field(ge=1)


def test_later_values_win(tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    file.write_text('model = "a"\nsamples = 1\nlengths = ["4k"]\n[optimizer]\nclip = 2\n')
    found = Example.load({"model": Path("b"), "lengths": None}, file, ["samples=2", "optimizer.clip=3"])
    assert (found.model, found.samples, found.lengths, found.optimizer.clip) == ("b", 2, (4096,), 3.0)
    assert Example.load({"model": "m", "optimizer.clip": 5}).optimizer.clip == 5


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({}, "--model is missing"),
        ({"lenghts": 1}, "lenghts: unknown option; did you mean lengths?"),
        ({"sample_count": 1}, "sample_count is now called samples"),
        ({"lengths": "4q"}, "--lengths: '4q' is not a length; write 4096 or 4k"),
        ({"batch_size": "x"}, "--batch-size 'x': must be a valid integer or 'auto'"),
        ({"tasks": " , "}, "--tasks ' , ': give at least one name"),
        ({"dtype": "int3"}, "--dtype 'int3': must be 'auto', 'float32', 'bfloat16' or 'float16'"),
        ({"share": "x"}, "share 'x': must be a valid number"),
        ({"optimizer": {"clp": 1}}, "optimizer.clp: unknown option; did you mean optimizer.clip?"),
        ({"optimizer": {"clip": 0}}, "optimizer.clip 0: must be greater than 0"),
    ],
)
def test_a_wrong_option_is_one_line_that_names_it(values: dict[str, Any], said: str) -> None:
    given = values if not values else {"model": "m", **values}
    with pytest.raises(UsageError) as caught:
        Example(**given)
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({}, "data.tokens is missing"),
        ({"tokens": 0}, "data.tokens 0: must be"),
        ({"token": 1}, "data.token: unknown option; did you mean data.tokens?"),
    ],
)
def test_keys_of_a_file_are_named_with_their_table(values: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        InFile(**values)
    assert str(caught.value).startswith(said)


def test_help_comes_from_the_fields() -> None:
    found = {option.key: option for option in options(Example)}
    assert list(found) == ["model", "tasks", "lengths", "window", "dtype", "batch_size", "samples", "offline", "share",
                           "optimizer.clip"]  # fmt: skip
    assert {key: option.default for key, option in found.items()} == {
        "model": "", "tasks": "ruler,mmlu", "lengths": "up to the window", "window": "8k", "dtype": "auto",
        "batch_size": "auto", "samples": "0", "offline": "", "share": "0.333", "optimizer.clip": "1",
    }  # fmt: skip
    assert found["lengths"].help == "The prompt lengths."
    assert found["batch_size"].flag == "--batch-size"
    assert [found[key].kind for key in ("model", "lengths", "dtype", "batch_size", "offline")] == [
        "text", "lengths", "auto|float32|bfloat16|float16", "integer|auto", "true|false",
    ]  # fmt: skip
    assert [key for key, option in found.items() if option.rare] == ["share"]


def test_a_configuration_is_frozen_and_survives_a_dump() -> None:
    config = Example(model="m", lengths="8k,4k")
    with pytest.raises(ValueError):
        config.samples = 3  # type: ignore[misc]
    assert Example.model_validate(config.model_dump()) == config


def test_a_renamed_key_is_named_in_files_and_sets(tmp_path: Path) -> None:
    file = tmp_path / "old.toml"
    file.write_text('model = "m"\nsample-count = 3\n')
    for load in (lambda: Example.load({}, file), lambda: Example.load({"model": "m"}, sets=["sample_count=3"])):
        with pytest.raises(UsageError, match="sample_count is now called samples"):
            load()
